"""Types of the fields that cluster and topology files have, each refusing what it cannot mean."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from candor.topologies.encoding import canonical, signatures, z85
from candor.topologies.specs.specs import ConfigurationError

_ENDPOINT = re.compile(r"tcp://(\[[^\[\]]+\]|[^\[\]:/]+):([0-9]{1,5})")
_ANY = ("*", "0.0.0.0", "::")  # noqa: S104  what is bound here cannot be dialled
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
    """Host and port of `tcp://host:port`, the same for all spellings of one place: names in lower
    case without a last dot, addresses as `address_of` has them, IPv6 without its brackets.

    Raises:
        ConfigurationError: anything else, and addresses that one can bind but not dial.
    """
    host, port = split_bind(endpoint)
    if host in _ANY:
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
    match = _ENDPOINT.fullmatch(endpoint)
    host, port = (match[1].strip("[]").lower(), int(match[2])) if match else ("", 0)
    address = address_of(host)
    valid_host = host == "*" or bool(_HOST.fullmatch(host))
    if "[" in endpoint:
        valid_host = address is not None and ":" in host
    if not valid_host or not 1 <= port <= 65535:
        raise ConfigurationError(
            f"endpoint {endpoint!r}: write tcp://host:port, port 1 to 65535, IPv6 in brackets"
        )
    return host.removesuffix(".") if address is None else str(address), port


def distinct_binds(endpoints: Sequence[str]) -> tuple[str, ...]:
    """The first spelling of each place; others could not be bound beside it.

    Raises:
        ConfigurationError: one is no place to bind.
    """
    places = {split_bind(endpoint): endpoint for endpoint in reversed(endpoints)}
    return tuple(reversed(places.values()))


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that is written as `host`, None for a name.

    What a resolver takes for an IPv4 address is one: 127.1, 0x7f000001 and ::ffff:127.0.0.1 are
    127.0.0.1.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        return getattr(address, "ipv4_mapped", None) or address
    with contextlib.suppress(OSError, ValueError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


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
