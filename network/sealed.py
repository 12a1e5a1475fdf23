"""Bulk beside CURVE: what two neighbours say of it, how it is sealed, and in which order it counts.

A receiver *offers* a port and a fresh AES-256 key to a neighbour, over CURVE. The neighbour dials
the port, shows a ticket that follows from the key, and from then on sends large frames there, each
sealed with AES-256-GCM under that key and a nonce that counts up; what stood around the frame goes
over CURVE as before, with a *reference* to the record. The receiver puts the two together again, in
the order in which CURVE brought the references. A record that does not come is asked for *again*,
and then comes over CURVE, as everything does where no offer was taken: there is no plain text to
fall back to, so nothing is gained by cutting the way of the records.

AES in hardware seals as fast as memory is copied, so that each neighbour has a key of its own: one
ciphertext for all would have saved a quarter of a millisecond for 2 MiB, and have let every holder
of the key write records in the sender's name.

    connection   ticket (16) | record | record | …
    record       bytes of what follows, 4, big-endian | ciphertext | tag (16)

Pure: sockets are the business of `network.bulk`, keys are given.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from candor.network.errors import RemoteProtocolError
from candor.network.wire import Buffer
from candor.topologies.encoding.canonical import sha256

TICKET_BYTES: Final = 16
TICKET_DOMAIN: Final = "candor/bulk-ticket/v1"
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
PREFIX_BYTES: Final = 4
# No header begins so: msgpack never uses it.
_MARK: Final = 0xC1
_OFFER, _ASK, _REFERENCE, _AGAIN, _RESENT = b"OQRAS"
_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a neighbour may send bulk, and under which key: for one connection, which begins with
    the ticket. That follows from the key, or whoever offers could choose what the neighbour sends
    to whatever listens there."""

    key: bytes
    port: int

    @property
    def ticket(self) -> bytes:
        """What the connection shows first."""
        return sha256(TICKET_DOMAIN.encode() + self.key)[:TICKET_BYTES]


@dataclass(frozen=True, slots=True)
class AskOffer:
    """The last offer is used up: its connection broke, or could not be made."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The record `number`, from 1, of the connection that a ticket opened."""

    ticket: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Again:
    """A record will not come any more: send it over CURVE."""

    of: Reference


@dataclass(frozen=True, slots=True)
class Resent:
    """The message of a record that was asked for again; without frames if it is gone."""

    of: Reference


Note: TypeAlias = Offer | AskOffer | Reference | Again | Resent


def encode(note: Note) -> bytes:
    """The frame that says something of bulk; the frames of a message may follow it."""
    match note:
        case Offer(key, port):
            return bytes((_MARK, _OFFER)) + key + port.to_bytes(2)
        case AskOffer():
            return bytes((_MARK, _ASK))
        case Reference():
            return bytes((_MARK, _REFERENCE)) + _packed(note)
        case Again(of):
            return bytes((_MARK, _AGAIN)) + _packed(of)
        case Resent(of):
            return bytes((_MARK, _RESENT)) + _packed(of)


def is_note(frame: Buffer) -> bool:
    """Whether a message's first frame is of bulk, and not of the message."""
    return len(frame) > 0 and frame[0] == _MARK


def decode(frame: Buffer) -> Note | None:
    """What a message's first frame says of bulk, None if it is a message's own.

    Raises:
        RemoteProtocolError: it says nothing that there is.
    """
    if not is_note(frame):
        return None
    data = bytes(frame)
    kind, rest = data[1:2], data[2:]
    sizes = {_OFFER: KEY_BYTES + 2, _ASK: 0}
    if not kind or len(rest) != sizes.get(kind[0], TICKET_BYTES + _NUMBER_BYTES):
        raise RemoteProtocolError("bulk-note", f"{len(data)} bytes")
    ticket, more = rest[:TICKET_BYTES], rest[TICKET_BYTES:]
    match kind[0]:
        case k if k == _OFFER:
            return Offer(rest[:KEY_BYTES], int.from_bytes(rest[KEY_BYTES:]))
        case k if k == _ASK:
            return AskOffer()
        case k if k == _REFERENCE:
            return Reference(ticket, int.from_bytes(more))
        case k if k == _AGAIN:
            return Again(Reference(ticket, int.from_bytes(more)))
        case k if k == _RESENT:
            return Resent(Reference(ticket, int.from_bytes(more)))
    raise RemoteProtocolError("bulk-note", f"kind {kind[0]}")


def _packed(of: Reference) -> bytes:
    return of.ticket + of.number.to_bytes(_NUMBER_BYTES)


class Sealer:
    """One end of a connection: seals what is sent, in order. A key serves one connection."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self.number = 0

    def seal(self, data: Buffer) -> tuple[bytes, bytes]:
        """The next record of a frame: its prefix and what follows it."""
        self.number += 1
        prefix = (len(data) + TAG_BYTES).to_bytes(PREFIX_BYTES)
        return prefix, self._aead.encrypt(_nonce(self.number), data, prefix)


class Opener:
    """The other end: opens records in the order in which they were sealed, and no other."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self.number = 0

    def open(self, sealed: Buffer) -> bytes:
        """The frame of the next record.

        Raises:
            RemoteProtocolError: somebody between the two has changed, left out or repeated one.
        """
        self.number += 1
        prefix = len(sealed).to_bytes(PREFIX_BYTES)
        try:
            return self._aead.decrypt(_nonce(self.number), sealed, prefix)
        except InvalidTag:
            raise RemoteProtocolError("bulk-record", f"record {self.number}") from None


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)


@dataclass(slots=True, eq=False)
class _Message:
    """A message in its place; `awaits` the record of its last frame until it has come, and once
    that was asked for again no longer than `until_s`."""

    frames: tuple[Buffer, ...]
    awaits: Reference | None = None
    until_s: float | None = None


class InOrder:
    """What one neighbour has sent, in its order, while the records of some messages are to come.

    What stands behind a message that waits is bounded: beyond that its record counts as lost, and
    what came after it goes on; so does one that was asked for again and did not come.
    """

    def __init__(self, bytes_max: int, messages_max: int) -> None:
        self._bytes_max, self._messages_max = bytes_max, messages_max
        self._messages: deque[_Message] = deque()
        self._bytes = 0
        self._awaiting: dict[Reference, _Message] = {}  # in order
        self._ready: deque[tuple[Buffer, ...]] = deque()
        self._early: dict[Reference, bytes] = {}
        self._referred: Reference | None = None
        self.lost = 0

    @property
    def early(self) -> int:
        """Records whose references have not come."""
        return len(self._early)

    def __bool__(self) -> bool:
        """Whether anything is kept, so that a message has to take its place behind it."""
        return bool(self._messages or self._ready)

    def message(self, frames: tuple[Buffer, ...]) -> None:
        """A whole message came."""
        self._append(_Message(frames))

    def reference(self, of: Reference, frames: tuple[Buffer, ...]) -> bool:
        """A message came but for its last frame, which a record brings; answers whether that was
        there. Records are referred to in order, so that earlier ones belong to nothing."""
        if of in self._awaiting:  # once is enough
            self.lost += 1
            return True
        self._referred = of
        for old in [
            one for one in self._early if one.ticket != of.ticket or one.number < of.number
        ]:
            del self._early[old]
        data = self._early.pop(of, None)
        if data is not None:
            self._append(_Message((*frames, data)))
            return True
        self._awaiting[of] = message = _Message(frames, of)
        self._append(message)
        return False

    def record(self, of: Reference, data: bytes) -> None:
        """A record came."""
        message, last = self._awaiting.get(of), self._referred
        if message is not None:
            self._fill(message, (*message.frames, data))
        elif last is None or last.ticket != of.ticket or last.number < of.number:
            self._early[of] = data

    def resent(self, of: Reference, frames: tuple[Buffer, ...]) -> bool:
        """A message that was asked for again came over CURVE, or no frames if its sender has it no
        more; answers whether it was still waited for."""
        message = self._awaiting.get(of)
        if message is None:
            return False
        if frames:
            self._fill(message, frames)
        else:
            self._lose(message)
        return True

    @property
    def waits(self) -> bool:
        """Whether a message waits for a record that has not been asked for again."""
        return any(one.until_s is None for one in self._awaiting.values())

    def ask(self, ticket: bytes, until_s: float) -> list[Reference]:
        """The records of a connection that messages wait for, to be asked for again now; what has
        not come at `until_s` is given up."""
        asked = []
        for of, message in self._awaiting.items():
            if of.ticket == ticket and message.until_s is None:
                message.until_s = until_s
                asked.append(of)
        return asked

    def ask_for(self, of: Reference, until_s: float) -> list[Reference]:
        """The same of one record, the last that was referred to."""
        message = self._awaiting.get(of)
        if message is None or message.until_s is not None:
            return []
        message.until_s = until_s
        return [of]

    def overdue(self, now_s: float) -> None:
        """Give up what was asked for again and has not come."""
        for message in list(self._awaiting.values()):
            if (message.until_s or math.inf) <= now_s:
                self._lose(message)

    def ready(self) -> Iterator[tuple[Buffer, ...]]:
        """Take the messages that are there, up to the first that waits for its record."""
        self._release()
        while self._ready:
            yield self._ready.popleft()

    def _release(self) -> None:
        while self._messages and self._messages[0].awaits is None:
            message = self._messages.popleft()
            self._bytes -= sum(map(len, message.frames))
            self._ready.append(message.frames)

    def _append(self, message: _Message) -> None:
        self._messages.append(message)
        self._bytes += sum(map(len, message.frames))
        self._bound()

    def _bound(self) -> None:
        self._release()
        while self._too_much:
            self._lose(next(iter(self._awaiting.values())))  # what stands first awaits its record
            self._release()

    @property
    def _too_much(self) -> bool:
        return self._bytes > self._bytes_max or len(self._messages) > self._messages_max

    def _fill(self, message: _Message, frames: Sequence[Buffer]) -> None:
        self._bytes += sum(map(len, frames)) - sum(map(len, message.frames))
        self._let_go(message)
        message.frames = tuple(frames)
        self._bound()

    def _lose(self, message: _Message) -> None:
        self._let_go(message)
        self._messages.remove(message)
        self._bytes -= sum(map(len, message.frames))
        self.lost += 1

    def _let_go(self, message: _Message) -> None:
        if message.awaits is not None:
            del self._awaiting[message.awaits]
            message.awaits = None
