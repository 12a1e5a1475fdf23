"""Types of the fields that cluster and topology files have, each refusing what it cannot mean."""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from candor.topologies.encoding import canonical, signatures, z85
from candor.topologies.specs.specs import ConfigurationError

_ENDPOINT = re.compile(r"tcp://(\[[^\[\]]+\]|[^\[\]:/]+):([0-9]{1,5})")
_ANY = re.compile(r"tcp://(\*|0\.0\.0\.0|\[::\]):([0-9]{1,5})")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_NAME = "use 1 to {} letters, digits, dots, dashes or underscores, starting with a letter or digit"


def is_id(text: str) -> bool:
    """Whether `text` may be an agent's id."""
    return bool(_AGENT_ID.fullmatch(text))


def _matching(pattern: str, told: str) -> Callable[[str], str]:
    """What gives a text back that has the pattern; `told` is what is said of another."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ConfigurationError(told.format(repr(text)))
        return text

    return check


check_id = _matching(_AGENT_ID.pattern, f"agent id {{}}: {_NAME.format(32)}")
_check_run_id = _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", f"{{}}: {_NAME.format(64)}")
_check_hex_64 = _matching("[0-9a-f]{64}", "{} is not 64 lower-case hexadecimal digits")
_check_hex_128 = _matching("[0-9a-f]{128}", "{} is not 128 lower-case hexadecimal digits")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host (lower case, IPv6 without its brackets) and port of `tcp://host:port`.

    Raises:
        ConfigurationError: anything else, and addresses that one can bind but not dial.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    host = match[1].strip("[]").lower() if match else ""
    port = int(match[2]) if match else 0
    valid_host = (
        is_address(host, ipaddress.IPv6Address) if "[" in endpoint else bool(_HOST.fullmatch(host))
    )
    if not valid_host or not 1 <= port <= 65535:
        raise ConfigurationError(
            f"endpoint {endpoint!r}: write tcp://host:port, port 1 to 65535, IPv6 in brackets"
        )
    if host in ("0.0.0.0", "::"):  # noqa: S104  refused, not bound
        raise ConfigurationError(
            f"endpoint {endpoint!r}: no neighbour can dial it; write the host's own address"
        )
    return host, port


def split_bind(endpoint: str) -> tuple[str, int]:
    """Host and port of what is bound: as `split_endpoint`, but also `*`, 0.0.0.0, [::] and names of
    network interfaces.

    Raises:
        ConfigurationError: anything else.
    """
    match = _ANY.fullmatch(endpoint)
    if match and 1 <= int(match[2]) <= 65535:
        return match[1].strip("[]"), int(match[2])
    return split_endpoint(endpoint)


def is_address(host: str, kind: Callable[[str], object] = ipaddress.ip_address) -> bool:
    """Whether a host is written as an IPv4 or IPv6 address rather than by name."""
    try:
        kind(host)
    except ValueError:
        return False
    return True


def _check_endpoint(endpoint: str) -> str:
    split_endpoint(endpoint)
    return endpoint


def _check_bind(endpoint: str) -> str:
    split_bind(endpoint)
    return endpoint


def check_public_key(text: str) -> str:
    """`text` itself.

    Raises:
        ConfigurationError: not the 64 hex digits of a public key, or of one that nobody can have.
    """
    if not signatures.is_sound(bytes.fromhex(_check_hex_64(text))):
        raise ConfigurationError(
            f"{text!r} is nobody's identity: signatures for it are no proof; `candor keygen` makes "
            "one that is"
        )
    return text


def _check_curve(text: str) -> str:
    try:
        key = z85.decode(text)
    except canonical.MalformedError as exc:
        raise ConfigurationError(f"{text!r} is not a Z85 key: {exc}") from exc
    if len(key) != 32:
        raise ConfigurationError(f"{text!r} is not a Z85 key of 40 characters")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ConfigurationError("must be one line of printable characters")
    return text


# Strict: true is not 1 and "8" is not 8, in a file whose bytes everyone must read alike.
Count = Annotated[int, Field(strict=True, ge=1, lt=1 << 53)]
Number = Annotated[float, Field(strict=True)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]
PublicKey = Annotated[str, AfterValidator(check_public_key)]
Hex64 = Annotated[str, AfterValidator(_check_hex_64)]
Hex128 = Annotated[str, AfterValidator(_check_hex_128)]
CurveKey = Annotated[str, AfterValidator(_check_curve)]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
BindEndpoint = Annotated[str, AfterValidator(_check_bind)]
AgentId = Annotated[str, AfterValidator(check_id)]
RunId = Annotated[str, AfterValidator(_check_run_id)]
Edge = tuple[str, str]
