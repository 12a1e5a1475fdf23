"""An agent's keys on disk: `identity.key`, `curve.key` (secret, mode 0600) and `public.toml`.

Secret files are created with their final mode, never widened and narrowed; a directory holds one
set of keys and is never overwritten, since a lost identity is a lost balance.
"""

import os
import secrets
import stat
from pathlib import Path

from candor.network.identity import Identity, PublicIdentity
from candor.topologies.cluster.file import AgentEntry
from candor.topologies.encoding import z85
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.fields import CurveKey, PublicKey
from candor.topologies.specs.files import (
    Section,
    open_regular,
    private_files,
    read_toml,
    sync,
    system_errors,
    validated,
)
from candor.topologies.specs.specs import ConfigurationError

IDENTITY_FILE = "identity.key"
CURVE_FILE = "curve.key"
PUBLIC_FILE = "public.toml"
KEY_FILE_BYTES_MAX = 256  # a key is one line of 64 or 40 characters
PUBLIC_BYTES_MAX = 4096  # two keys, and what comments somebody adds


class PublicFile(Section):
    """`public.toml`: what an agent hands to whoever writes the cluster file."""

    identity: PublicKey
    curve: CurveKey


def generate(directory: Path) -> Identity:
    """Create fresh keys in `directory`, see `write`."""
    return write(directory, secrets.token_bytes(32), secrets.token_bytes(32))


@private_files()
def write(directory: Path, identity_seed: bytes, curve_seed: bytes) -> Identity:
    """Write the keys of two secret 32-byte seeds; `directory` is made (mode 0700) where missing.

    All three files are there and synced when this returns; after a failure none is.

    Raises:
        ConfigurationError: a key file is there already, or the system refused to write.
    """
    identity = Identity.from_seeds(identity_seed, curve_seed)
    files = {
        IDENTITY_FILE: (identity_seed.hex(), 0o600),
        CURVE_FILE: (identity.curve_secret, 0o600),
        PUBLIC_FILE: (_public_text(identity.public), 0o644),
    }
    with system_errors(f"{directory}: cannot write keys"):
        try:
            _write_all(directory, files)
        except FileExistsError as exc:
            raise ConfigurationError(
                f"{exc.filename}: is there already and is not overwritten; choose another directory"
            ) from exc
    return identity


def load(directory: Path) -> Identity:
    """Read the keys in `directory`; `public.toml` may be absent but must not contradict them.

    Raises:
        ConfigurationError: missing, malformed, readable by others, or contradicted.
    """
    identity_path, curve_path = directory / IDENTITY_FILE, directory / CURVE_FILE
    identity_text, curve_text = _read_secret(identity_path), _read_secret(curve_path)
    try:
        identity_seed = bytes.fromhex(identity_text)
    except ValueError:
        identity_seed = b""
    if len(identity_seed) != 32:
        raise ConfigurationError(f"{identity_path}: is not one line of 64 hexadecimal digits")
    try:
        curve_seed = z85.decode(curve_text)
    except MalformedError:
        curve_seed = b""
    if len(curve_seed) != 32:
        raise ConfigurationError(f"{curve_path}: is not one line of 40 Z85 characters")
    identity = Identity.from_seeds(identity_seed, curve_seed)
    public_path = directory / PUBLIC_FILE
    if public_path.exists() and load_public(public_path) != identity.public:
        raise ConfigurationError(
            f"{public_path}: is not the public half of the keys beside it; "
            "are these files of two agents?"
        )
    return identity


def load_of(entry: AgentEntry, directory: Path) -> Identity:
    """The keys in `directory`, which must be those that a cluster file has for an agent.

    Raises:
        ConfigurationError: unusable, or another agent's.
    """
    identity = load(directory)
    for name, stated, found in (
        ("identity", entry.identity, identity.public.identity.hex()),
        ("curve", entry.curve, identity.public.curve),
    ):
        if stated != found:
            raise ConfigurationError(
                f"{directory}: its {name} key is not the one of agent {entry.id!r} in the cluster "
                f"file ({found[:12]}…, not {stated[:12]}…); use that agent's keys or write the "
                "file anew"
            )
    return identity


def load_public(path: Path) -> PublicIdentity:
    """The public halves in a `public.toml`, or in the one of a keys directory.

    Raises:
        ConfigurationError: missing or malformed.
    """
    file = path / PUBLIC_FILE if path.is_dir() else path
    read = validated(PublicFile, read_toml(file, "public keys", PUBLIC_BYTES_MAX), str(file))
    return PublicIdentity(bytes.fromhex(read.identity), read.curve)


def _make_directory(directory: Path) -> bool:
    """Whether the directory had to be created; an existing one keeps its owner's mode."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir()
    except FileExistsError:
        if not directory.is_dir():
            raise
        return False
    return True


def _write_all(directory: Path, files: dict[str, tuple[str, int]]) -> None:
    """Create the directory where it is missing, and every file or, after a failure, none."""
    created = _make_directory(directory)
    written: list[Path] = []
    try:
        for name, (text, mode) in files.items():
            path = directory / name
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            written.append(path)
            with open(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, mode)  # exact, whatever the umask
                file.write(text + "\n")
                file.flush()
                os.fsync(descriptor)
        sync(directory)  # the new names, not only the bytes behind them
    except BaseException:
        for path in written:
            path.unlink()
        if created:
            directory.rmdir()
        raise


def _public_text(public: PublicIdentity) -> str:
    # Neither alphabet has a quote or a backslash: nothing to escape.
    return f'identity = "{public.identity.hex()}"\ncurve = "{public.curve}"'


def _read_secret(path: Path) -> str:
    """The one line of a secret file.

    The mode is that of the file which was opened, so that it cannot be swapped in between.
    """
    try:
        with open_regular(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigurationError(
                    f"{path}: mode {mode:04o} lets others at a secret key; run: chmod 600 {path}"
                )
            data = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigurationError(
            f"{path}: cannot read the key: {exc.strerror}; `candor keygen DIR` makes keys"
        ) from exc
    return data.decode("ascii", errors="replace").removesuffix("\n")
