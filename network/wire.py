"""The envelope of every message: one canonical header frame, and one raw frame for bulk.

    header = canonical [version, kind, nonce of the receiver, field, …]

The nonce is the one the receiver drew when it started, learnt from its HELLO, so that nothing said
to an earlier life of a daemon is ever taken for something said to this one. Any bytes either
decode or raise RemoteProtocolError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from candor.network.errors import RemoteProtocolError
from candor.topologies.encoding.canonical import MalformedError, Value, is_count, pack, unpack

WIRE_VERSION: Final = 3
NONCE_BYTES: Final = 16
# The payload itself travels in raw frames; the largest header is a record with its two bills.
HEADER_BYTES_MAX: Final = 2**21

Buffer = bytes | memoryview


class Kind(IntEnum):
    """Message kinds; the numbers are part of the protocol."""

    HELLO = 1
    UPDATE = 2
    WITNESSES = 3
    CHUNK = 4
    ACK = 5
    CLAIM = 6
    STATE = 7
    PROPOSE = 8
    ACCEPT = 9
    REJECT = 10
    EVIDENCE = 11
    RECORDS = 12
    BYE = 13
    WAITING = 14
    BILL = 15
    HEADS = 16
    ASK = 17
    SHOWN = 18
    REVISION = 19
    RECALL = 20
    RETURNED = 21


RAW_KINDS: Final = frozenset({Kind.CHUNK, Kind.SHOWN})
LEDGER_KINDS: Final = frozenset({Kind.STATE, Kind.PROPOSE, Kind.ACCEPT, Kind.REJECT, Kind.RECORDS})


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded header with the raw frame of a chunk."""

    kind: Kind
    nonce: bytes
    fields: Sequence[Value]
    data: Buffer | None = None


def encode(envelope: Envelope) -> list[Buffer]:
    """The frames of a message; `data` is passed on without copying."""
    header = pack([WIRE_VERSION, int(envelope.kind), envelope.nonce, *envelope.fields])
    return [header] if envelope.data is None else [header, envelope.data]


def decode(frames: Sequence[Buffer]) -> Envelope:
    """Parse the frames of one message.

    Raises:
        RemoteProtocolError: anything but a header, or that of `RAW_KINDS` and one raw frame.
    """
    if not 1 <= len(frames) <= 2:
        raise RemoteProtocolError("frames", f"{len(frames)} in one message")
    try:
        header = unpack(frames[0], bytes_max=HEADER_BYTES_MAX)
    except MalformedError as exc:
        raise RemoteProtocolError("header", str(exc)) from exc
    match header:
        case [int(version), int(kind), bytes(nonce), *fields]:
            pass
        case _:
            raise RemoteProtocolError("header", "not an envelope")
    if not is_count(version) or not is_count(kind):
        raise RemoteProtocolError("header", "not an envelope")
    if version != WIRE_VERSION:
        raise RemoteProtocolError("version", f"{version}, ours is {WIRE_VERSION}")
    try:
        known = Kind(kind)
    except ValueError as exc:
        raise RemoteProtocolError("kind", f"{kind}") from exc
    if len(nonce) != (0 if known is Kind.HELLO else NONCE_BYTES):
        raise RemoteProtocolError("nonce", f"{len(nonce)} bytes")
    data = frames[1] if len(frames) == 2 else None
    if (data is not None) != (known in RAW_KINDS):
        raise RemoteProtocolError("frames", f"{len(frames)} in a {known.name}")
    return Envelope(known, nonce, fields, data)
