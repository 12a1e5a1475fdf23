"""Receive slots: what one neighbour has sent of at most two rounds, bounded whatever it sends.

A neighbour in step is at most one round ahead, so two slots hold all that honest timing needs; a
third round displaces the oldest. Buffers are taken from a pool of fixed size and come back to it,
so that memory does not grow with rounds.

States of a slot: announced (statement known) -> complete (all bytes there) -> taken by the core.
"""

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from candor.network.errors import RemoteProtocolError
from candor.network.wire import Buffer

SLOTS_PER_NEIGHBOUR: Final = 2

S = TypeVar("S")


@dataclass(slots=True)
class Slot(Generic[S]):
    """One round of one neighbour, with the statements of the `named` agents as its witnesses."""

    round: int
    statement: S
    buffer: NDArray[np.float32]
    named: frozenset[str] = frozenset()
    received_bytes: int = 0
    witnesses: dict[str, S] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the whole payload is there; of a notice, which has none, all witnesses."""
        if self.notice:
            return self.named <= self.witnesses.keys()
        return self.received_bytes == self.buffer.nbytes

    @property
    def payload(self) -> NDArray[np.float32] | None:
        """The vector (dim,) as received; None of a notice."""
        return None if self.notice else self.buffer

    @property
    def notice(self) -> bool:
        """Whether it is a statement without its payload."""
        return self.buffer.nbytes == 0

    def add_witness(self, agent: str, statement: S) -> None:
        """Keep the statement of an agent that the sender's mixing row names.

        Raises:
            RemoteProtocolError: nobody asked for it; such statements could fill our memory.
        """
        if agent not in self.named:
            raise RemoteProtocolError("witness-unnamed", agent)
        self.witnesses[agent] = statement

    def write(self, offset: int, data: Buffer) -> None:
        """Append a chunk.

        Raises:
            RemoteProtocolError: out of order, empty, or beyond the announced size.
        """
        if offset != self.received_bytes:
            raise RemoteProtocolError("chunk-order", f"{offset}, expected {self.received_bytes}")
        end = offset + len(data)
        if not offset < end <= self.buffer.nbytes:
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


class Inbox(Generic[S]):
    """The slots of one neighbour, by round; no round is ever announced twice, in any session."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._slots: dict[int, Slot[S]] = {}
        self.latest_round = 0

    def announce(
        self,
        round_number: int,
        statement: S,
        payload_bytes: int,
        named: frozenset[str] = frozenset(),
        *,
        notice: bool = False,
    ) -> Slot[S]:
        """Open the slot of a round, or of a notice, which comes without a payload; the oldest slot
        makes room when both are in use.

        Raises:
            RemoteProtocolError: a round announced twice or going backwards, or a wrong size.
        """
        if round_number <= self.latest_round:
            raise RemoteProtocolError("round-order", f"{round_number} after {self.latest_round}")
        buffer = np.empty(0, np.float32) if notice else self._pool.take()
        if payload_bytes != buffer.nbytes:
            self._pool.give(buffer)
            raise RemoteProtocolError("payload-size", f"{payload_bytes} bytes")
        while len(self._slots) >= SLOTS_PER_NEIGHBOUR:
            self.drop(min(self._slots))
        slot = Slot(round_number, statement, buffer, named)
        self._slots[round_number] = slot
        self.latest_round = round_number
        return slot

    def slot(self, round_number: int) -> Slot[S] | None:
        """The slot of a round, if it is still held."""
        return self._slots.get(round_number)

    def take(self, round_number: int) -> Slot[S] | None:
        """Hand a slot over: its buffer must be given back to the pool by the taker."""
        return self._slots.pop(round_number, None)

    def drop(self, round_number: int) -> None:
        """Forget a round and free its buffer."""
        slot = self._slots.pop(round_number, None)
        if slot is not None:
            self._pool.give(slot.buffer)

    def drop_before(self, round_number: int) -> None:
        """Forget all rounds before this one."""
        for old in [r for r in self._slots if r < round_number]:
            self.drop(old)

    def restart(self) -> None:
        """The peer began a new session: what it had half sent will not be completed.

        `latest_round` stays: an honest agent states no round twice in all its lives, and another
        could send a second model for a round whose first one was measured.
        """
        for round_number in list(self._slots):
            self.drop(round_number)
