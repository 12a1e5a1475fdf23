"""Receive slots: what one neighbour has sent of at most two exchanges, bounded whatever it sends.

Exchanges are numbered through all rounds: *steps*. A neighbour in step is at most one ahead, so two
slots hold all that honest timing needs; a third step displaces the oldest. Buffers are taken from a
pool of fixed size and come back to it, so that memory does not grow with rounds.

States of a slot: announced (statement known) -> complete (all bytes there) -> taken by the core.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from candor.network.errors import RemoteProtocolError
from candor.network.wire import Buffer

SLOTS_PER_NEIGHBOUR: Final = 2

S = TypeVar("S")  # a signed statement
W = TypeVar("W", bound=Hashable)  # what tells statements apart


@dataclass(slots=True)
class Slot(Generic[S, W]):
    """One step of one neighbour: its statement, those `named` in it as witnesses, and
    `payload_bytes` in a codec's encoding, at the front of the buffer, with what it signed of them.
    """

    step: int
    statement: S
    buffer: NDArray[np.float32]
    payload_bytes: int
    named: frozenset[W] = frozenset()
    payload_signature: bytes = b""
    received_bytes: int = 0
    witnesses: dict[W, S] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the whole payload is there; of a notice, which has none, all witnesses."""
        if self.notice:
            return self.named <= self.witnesses.keys()
        return self.received_bytes == self.payload_bytes

    @property
    def encoded(self) -> memoryview:
        """The bytes of the payload as received."""
        return self.buffer.data.cast("B")[: self.payload_bytes]

    @property
    def notice(self) -> bool:
        """Whether it is a statement without its payload."""
        return self.buffer.nbytes == 0

    def add_witness(self, source: W, statement: S) -> None:
        """Keep a statement that the sender's own names.

        Raises:
            RemoteProtocolError: nobody asked for it; such statements could fill our memory.
        """
        if source not in self.named:
            raise RemoteProtocolError("witness-unnamed", str(source))
        self.witnesses[source] = statement

    def write(self, offset: int, data: Buffer) -> None:
        """Append a chunk.

        Raises:
            RemoteProtocolError: out of order, empty, or beyond the announced size.
        """
        if offset != self.received_bytes:
            raise RemoteProtocolError("chunk-order", f"{offset}, expected {self.received_bytes}")
        end = offset + len(data)
        if not offset < end <= self.payload_bytes:
            raise RemoteProtocolError("chunk-size", f"{len(data)} bytes at {offset}")
        memoryview(self.buffer).cast("B")[offset:end] = data  # type: ignore[arg-type]
        self.received_bytes = end


class BufferPool:
    """Payload buffers of one size, reused: a fresh 4 MB allocation costs a page fault a page."""

    def __init__(self, dim: int, spare_max: int) -> None:
        self._dim = dim
        self._spare_max = spare_max
        self._spare: list[NDArray[np.float32]] = []

    def take(self) -> NDArray[np.float32]:
        """A buffer (dim,) of unspecified content."""
        return self._spare.pop() if self._spare else np.empty(self._dim, np.float32)

    def give(self, buffer: NDArray[np.float32]) -> None:
        """Return a buffer nobody reads any more; the empty one of a notice is none."""
        if len(buffer) == self._dim and len(self._spare) < self._spare_max:
            self._spare.append(buffer)


class Inbox(Generic[S, W]):
    """The slots of one neighbour, by step; no step is ever announced twice, in any session, but for
    the latest, once a session, by the same statement: another life of its sender sends it again.

    A payload takes `payload_bytes`, which is at most what a buffer of the pool holds.
    """

    def __init__(self, pool: BufferPool, payload_bytes: int) -> None:
        self._pool = pool
        self._payload_bytes = payload_bytes
        self._slots: dict[int, Slot[S, W]] = {}
        self.latest_step = 0
        self._latest: S | None = None
        self._restarted = False

    def announce(
        self,
        step: int,
        statement: S,
        payload_bytes: int,
        named: frozenset[W] = frozenset(),
        *,
        notice: bool = False,
        part_bytes: int | None = None,
        payload_signature: bytes = b"",
    ) -> Slot[S, W]:
        """Open the slot of a step, or of a notice, which comes without a payload, or of one whose
        payload is a part of so many bytes; the oldest slot makes room when both are in use.

        Raises:
            RemoteProtocolError: a step announced twice or going backwards, or a wrong size.
        """
        again = self._restarted and step == self.latest_step and statement == self._latest
        if step <= self.latest_step and not again:
            raise RemoteProtocolError("round-order", f"{step} after {self.latest_step}")
        whole = self._payload_bytes if part_bytes is None else part_bytes
        if payload_bytes != (0 if notice else whole):
            raise RemoteProtocolError("payload-size", f"{payload_bytes} bytes")
        buffer = np.empty(0, np.float32) if notice else self._pool.take()
        while len(self._slots) >= SLOTS_PER_NEIGHBOUR:
            self.drop(min(self._slots))
        slot = Slot(step, statement, buffer, payload_bytes, named, payload_signature)
        self.drop(step)
        self._slots[step] = slot
        self.latest_step, self._latest, self._restarted = step, statement, False
        return slot

    @property
    def complete(self) -> Slot[S, W] | None:
        """The earliest slot of which all is there, if any."""
        return next((slot for _, slot in sorted(self._slots.items()) if slot.complete), None)

    def slot(self, step: int) -> Slot[S, W] | None:
        """The slot of a step, if it is still held."""
        return self._slots.get(step)

    def take(self, step: int) -> Slot[S, W] | None:
        """Hand a slot over: its buffer must be given back to the pool by the taker."""
        return self._slots.pop(step, None)

    def drop(self, step: int) -> None:
        """Forget a step and free its buffer."""
        slot = self._slots.pop(step, None)
        if slot is not None:
            self._pool.give(slot.buffer)

    def drop_before(self, step: int) -> None:
        """Forget all steps before this one."""
        for old in [held for held in self._slots if held < step]:
            self.drop(old)

    def restart(self) -> None:
        """The peer began a new session: what it had half sent will not be completed.

        `latest_step` stays: an honest agent makes no second statement of a step in all its lives,
        and another could send a second model for a step whose first one was measured.
        """
        self._restarted = True
        for step in list(self._slots):
            self.drop(step)
