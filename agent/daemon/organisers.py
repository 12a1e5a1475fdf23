"""Whom an agent trusts to sign cluster files: the organisers that its keys have asked.

`candor cluster request` leaves each of them in the keys directory, in `organisers`, one identity in
hex a line. From then on these keys take part in no run that somebody else put together, or nobody
signed: a file cannot be freed of its signatures and changed. Keys that have asked nobody take any.
"""

import re
from pathlib import Path

from candor.agent.daemon import keys
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.fields import check_public_key
from candor.topologies.specs.files import read_text, replace_file, system_errors
from candor.topologies.specs.specs import SignatureError, located

FILE_NAME = "organisers"
_HEX = re.compile(r"[0-9a-f]{64}")


def organiser_key(text: str) -> str:
    """The organiser's identity (64 hex): given as such, or by a public.toml or keys directory.

    Raises:
        ConfigurationError: neither.
    """
    if _HEX.fullmatch(text):
        return check_public_key(text)
    return keys.load_public(Path(text)).identity.hex()


def asked(keys_dir: Path) -> tuple[str, ...] | None:
    """The organisers that these keys have asked, in that order; None where they asked nobody.

    Raises:
        ConfigurationError: the file is unreadable or malformed.
    """
    path = keys_dir / FILE_NAME
    if not path.exists():
        return None
    lines = read_text(path, "list of organisers").split()
    with located(str(path)):
        return tuple(map(check_public_key, lines))


def remember(keys_dir: Path, organiser: str) -> None:
    """Trust this organiser from now on; durable when this returns.

    Raises:
        ConfigurationError: the list cannot be read or written.
    """
    known = asked(keys_dir) or ()
    if organiser in known:
        return
    path = keys_dir / FILE_NAME
    text = "".join(f"{line}\n" for line in (*known, organiser))
    with system_errors(f"{path}: cannot write it"):
        replace_file(path, text.encode(), durable=True)


def check_signer(
    cluster: Cluster, source: Path, organiser: str | None, keys_dir: Path | None
) -> None:
    """Check that a file was put together by whom it must be: by `organiser` (a key or file) where
    one is given, else by one that the keys have asked.

    Raises:
        SignatureError: it was not.
        ConfigurationError: `organiser` or the keys' list is unreadable.
    """
    trusted: tuple[str, ...] | None = None
    whose = ""
    if organiser is not None:
        trusted = (organiser_key(organiser),)
    elif keys_dir is not None:
        trusted, whose = asked(keys_dir), f", whom {keys_dir} has asked"
    found = cluster.revision.organiser if cluster.revision else None
    if trusted is None or found in trusted:
        return
    signer = f"signed by {found[:12]}…" if found else "not signed"
    names = " or ".join(f"{key[:12]}…" for key in trusted) or "anybody"
    raise SignatureError(f"{source}: is {signer}, and not by {names}{whose}")
