"""The one byte encoding of everything that is signed, hashed or stored: canonical msgpack.

Canonical means: one value has one encoding. Integers take their shortest form, floats are IEEE
binary64, arrays have a fixed field order, there are no maps and no extension types. Decoding
re-encodes and compares, so that bytes which differ from the canonical ones are refused and no two
byte strings mean the same thing.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NoReturn, TypeAlias

import blake3
import msgpack

Value: TypeAlias = "bool | int | float | str | bytes | Sequence[Value] | None"

# A list is allocated at its announced length before its items are read, once for each of up to
# 1,024 levels: without a bound, 1 MiB of nothing but list headers costs 70 ms and 70 MB.
ARRAY_LENGTH_MAX: Final = 2**16
COUNT_MAX: Final = 2**53


class MalformedError(ValueError):
    """Bytes from outside that are not a canonical encoding within the stated bounds."""


def pack(value: Value) -> bytes:
    """Encode a value; sequences become arrays."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes | memoryview, *, bytes_max: int) -> Value:
    """Decode canonical bytes of at most `bytes_max` bytes.

    Raises:
        MalformedError: too long, not msgpack, a map or extension type, or not the canonical form.
    """
    if len(data) > bytes_max:
        raise MalformedError(f"{len(data)} bytes where at most {bytes_max} are allowed")
    try:
        value: Value = msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            max_array_len=ARRAY_LENGTH_MAX,
            # Empty maps and extensions pass a maximum length of zero, but never the hooks.
            max_map_len=0,
            object_pairs_hook=_refuse,
            max_ext_len=0,
            ext_hook=_refuse,
        )
        canonical = pack(value)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as exc:
        raise MalformedError(f"not canonical msgpack: {exc}") from exc
    if canonical != bytes(data):
        raise MalformedError("not the canonical encoding of its value")
    return value


def _refuse(*_: object) -> NoReturn:
    raise ValueError("a map or an extension type")


def is_count(number: int, least: int = 0) -> bool:
    """Whether a decoded number is a real integer from `least` to 2^53: True is not 1 on the wire.

    Patterns need it: `case 1` matches 1.0 and True, `case int(x)` matches True.
    """
    return not isinstance(number, bool) and least <= number <= COUNT_MAX


def is_name(text: str, chars_max: int) -> bool:
    """Whether a peer's word is short printable ASCII, which keeps a log line one line."""
    return text.isascii() and text.isprintable() and 1 <= len(text) <= chars_max


def sha256(*parts: bytes) -> bytes:
    """SHA-256 over the concatenation of `parts` (32 bytes): identities, chains and fingerprints."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def payload_digest(payload: bytes | memoryview) -> bytes:
    """BLAKE3-256 of a payload (32 bytes): about four times faster than SHA-256 on large vectors."""
    return blake3.blake3(payload).digest()
