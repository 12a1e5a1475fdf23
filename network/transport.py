"""What carries messages between neighbours: interface, limits, and a seeded in-memory twin.

Messages are short tuples of frames, delivered at most once, in order while one connection lives,
and attributed to the agent whose CURVE key authenticated it. Deliberately not here:
acknowledgement, resending, meaning. Whatever must arrive is acknowledged by the protocol above,
because a socket cannot know what a peer that died had already read.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from candor.network.errors import LocalProtocolError

Buffer = bytes | memoryview
KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Every bound of the transport. The defaults carry their reasons; both ends may differ."""

    # Chunks of a vector travel as separate messages, so that the high-water mark counts them. At
    # 2 MiB the cost a message, some 0.3 ms through both event loops, is small beside encryption's
    # 3 ms; rounds of 4 MB take about a tenth less than with 1 MiB, and 4 MiB gains nothing more.
    chunk_bytes: int = 2 * MIB
    # What a message holds beside a chunk: header, signed statement, witnesses' statements.
    header_bytes_max: int = 64 * KIB
    # A header, a chunk, and two to spare; without a bound one message could hold millions.
    frames_max: int = 4
    # Messages libzmq may hold each way for one peer: enough to keep the wire busy, small enough
    # that a newer round is not stuck behind many megabytes of an older one.
    high_water_mark: int = 8
    # Small messages waiting for a peer that does not read: a few rounds of settlement traffic.
    outbox_control_messages_max: int = 1024
    # And their bytes: one that asks for our records again and again, and reads nothing, would have
    # us hold half a megabyte for each of its questions. Some of the largest messages fit.
    outbox_control_bytes_max: int = 16 * MIB
    # Chunks waiting for a peer: one round of 4 GiB. They share the payload's memory.
    outbox_bulk_messages_max: int = 4096
    # A peer that connects and says nothing holds a socket no longer than this.
    handshake_s: float = 2.0
    # One to talk through, one that a restart or a lost network left half open, and two for checks
    # of the cluster beside the daemon; each has a high-water mark of its own.
    connections_max: int = 4
    # Connections that have not said whose they are, or two for each neighbour if that is more: the
    # oldest gives way. A neighbour's says so within milliseconds; a stranger's costs a descriptor.
    unknown_connections_max: int = 64
    # A daemon speaks first as soon as the handshake is over.
    first_message_s: float = 10.0
    # Every message costs the receiver some 30 microseconds before anyone can tell what it is. The
    # shortest rounds there are send a few hundred a second; at this rate a flood takes a tenth of
    # a core, and a round's chunks of many gigabytes are within the burst.
    messages_per_s_max: float = 4000.0
    messages_burst: float = 16_000.0
    # Whoever floods or sends what is refused is not let in for so long: a hundred bad messages in
    # this time are noise, and an honest neighbour behind a fault misses few rounds.
    hang_up_s: float = 10.0
    # Records whose place among the messages is not known yet: as many as libzmq would hold.
    early_records_max: int = 8
    # Bytes of a record that is waited for have to come in this time, or it is asked for over CURVE.
    bulk_still_s: float = 5.0
    # A record that has begun is whole in this time, or comes over CURVE: 70 kB a second of 2 MiB.
    bulk_record_s: float = 30.0
    # And then come in this time: it is the next thing on that connection.
    bulk_again_s: float = 30.0
    # A vanished host (no FIN) is noticed within 10 s, five beats; a busy one is not given up.
    heartbeat_s: float = 2.0
    heartbeat_timeout_s: float = 10.0
    # A neighbour that restarts is back at once; one that is down for a day costs a dial in 10 s.
    reconnect_s_min: float = 0.1
    reconnect_s_max: float = 10.0

    def __post_init__(self) -> None:
        if self.high_water_mark < 2:  # libzmq with authentication then never delivers; seen
            raise LocalProtocolError(f"high_water_mark of {self.high_water_mark}: at least 2")

    @property
    def message_bytes_max(self) -> int:
        """The largest message that is sent or delivered, all frames together, bytes."""
        return self.chunk_bytes + self.header_bytes_max

    @property
    def unfinished_bytes_max(self) -> int:
        """The most that an honest neighbour has given us of a message that is not complete, bytes:
        one message, and another on the connection that this one follows."""
        return 2 * self.message_bytes_max

    @property
    def undelivered_bytes_max(self) -> int:
        """The most that libzmq holds of an honest neighbour while we do not read, bytes: the
        high-water mark's messages, and those that are not complete."""
        return self.high_water_mark * self.message_bytes_max + self.unfinished_bytes_max


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a neighbour listens and the CURVE key (z85, 40 characters) it must prove to hold.

    It is one neighbour wherever it answers: the others are dialled in turn when `endpoint` fails.
    `bulk`: whether another port of its host can be dialled, if it offers one for large frames.
    """

    endpoint: str
    curve_public: str
    other_endpoints: tuple[str, ...] = ()
    bulk: bool = True

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All addresses, in the order in which they are tried."""
        return (self.endpoint, *self.other_endpoints)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message. `sender` is the agent whose CURVE key authenticated it, never a claimed name."""

    sender: str
    frames: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Counters of one neighbour, and why it is not connected (for people; None when all is well).

    `connected` speaks of our own connection to it, the one we send on; a peer that can reach us
    while we cannot reach it still delivers.
    `messages_dropped` counts both ways: ours that a bound of the outbox discarded, and theirs that
    broke a limit of the transport. `bulk`: whether large frames go to it sealed, beside CURVE.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    messages_dropped: int = 0
    connected: bool = False
    reason: str | None = None
    bulk: bool = False


class Transport(Protocol):
    """What the runtimes drive. Not thread-safe: all calls from the loop that started it."""

    async def start(self) -> None:
        """Begin to listen and to dial the peers. Raises TransportError: port taken, bad address."""

    def post(self, peer: str, frames: Sequence[Buffer], *, bulk_round: int | None = None) -> None:
        """Queue a message; never blocks. Bulk of a newer round displaces unsent bulk of older ones.

        Raises:
            LocalProtocolError: unknown peer, no frame, too many frames, or more bytes than the
                limit.
        """

    def hang_up(self, peer: str) -> None:
        """Close a peer's connections to us, and let none in for a while."""

    async def receive(self) -> Delivery:
        """The next message from any peer. Raises TransportError: failed or closed."""

    async def close(self, drain_s: float) -> None:
        """Send what waits for connected peers, for at most `drain_s`, then release everything."""

    def link(self, peer: str) -> LinkStats:
        """The counters of one peer. Raises LocalProtocolError: unknown peer."""


def freeze(frames: Sequence[Buffer], limits: TransportLimits) -> tuple[Buffer, ...]:
    """The frames out of reach of later changes: writable buffers are copied, others kept.

    A read-only view is taken at its word: who made it must not change the memory behind it.

    Raises:
        LocalProtocolError: no frame, too many frames, or more bytes than the limit.
    """
    if not 1 <= len(frames) <= limits.frames_max:
        raise LocalProtocolError(f"{len(frames)} frames: a message has 1 to {limits.frames_max}")
    frozen = tuple(_frozen(frame) for frame in frames)
    size = sum(byte_count(frame) for frame in frozen)
    if size > limits.message_bytes_max:
        raise LocalProtocolError(f"message of {size} bytes: at most {limits.message_bytes_max}")
    return frozen


def _frozen(frame: Buffer) -> Buffer:
    if isinstance(frame, bytes):
        return frame
    view = memoryview(frame)
    return view if view.readonly and view.c_contiguous else view.tobytes()


def byte_count(frame: Buffer) -> int:
    """Bytes, where len() of a typed view counts items."""
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A message waiting to be sent; `bulk_round` is None for control messages."""

    frames: tuple[Buffer, ...]
    bulk_round: int | None

    @property
    def size_bytes(self) -> int:
        """The bytes of all frames."""
        return sum(map(byte_count, self.frames))


class Outbox:
    """What waits for one peer, in order and bounded; `dropped` counts what was discarded."""

    def __init__(self, limits: TransportLimits) -> None:
        self._limits = limits
        self._entries: deque[OutboxEntry] = deque()
        self._bulk_count = 0
        self._control_bytes = 0
        self._round_newest = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: OutboxEntry) -> None:
        """Append, then discard what the entry displaces."""
        if entry.bulk_round is None:
            self._entries.append(entry)
            self._control_bytes += entry.size_bytes
            while self._control_too_much:
                self._drop_oldest(bulk=False)
            return
        if entry.bulk_round < self._round_newest:  # stale already: nobody waits for that round
            self.dropped += 1
            return
        if entry.bulk_round > self._round_newest:
            self._round_newest = entry.bulk_round
            self._drop_bulk()
        self._entries.append(entry)
        self._bulk_count += 1
        if self._bulk_count > self._limits.outbox_bulk_messages_max:
            self._drop_oldest(bulk=True)

    def first(self) -> OutboxEntry:
        """The entry to send next."""
        return self._entries[0]

    def remove_first(self) -> None:
        """Forget the first entry: it has been handed over."""
        self._left(self._entries.popleft())

    @property
    def _control_too_much(self) -> bool:
        count = len(self._entries) - self._bulk_count
        if count > self._limits.outbox_control_messages_max:
            return True
        return count > 1 and self._control_bytes > self._limits.outbox_control_bytes_max

    def _left(self, entry: OutboxEntry) -> None:
        if entry.bulk_round is None:
            self._control_bytes -= entry.size_bytes
        else:
            self._bulk_count -= 1

    def _drop_bulk(self) -> None:
        if self._bulk_count:
            self._entries = deque(entry for entry in self._entries if entry.bulk_round is None)
            self.dropped += self._bulk_count
            self._bulk_count = 0

    def _drop_oldest(self, *, bulk: bool) -> None:
        oldest = next(
            i for i, entry in enumerate(self._entries) if (entry.bulk_round is not None) is bulk
        )
        self._left(self._entries[oldest])
        del self._entries[oldest]
        self.dropped += 1


class MemoryNetwork:
    """A network in memory that loses, repeats, delays and reorders as its seed says.

    The same seed and calls give the same deliveries. Probabilities are 0..1 a message; `delay_s` is
    the range of a uniform delay; without `reorder` each directed link keeps its order.
    """

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay_s: tuple[float, float] = (0.0, 0.0),
        reorder: bool = False,
        limits: TransportLimits | None = None,
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._loss, self._duplicate, self._reorder = loss, duplicate, reorder
        self._delay_s = delay_s
        self._limits = limits or TransportLimits()
        self._in_flight: list[tuple[float, int, str, Delivery]] = []  # a heap by time, then by post
        self._posted = 0
        self._link_busy_until_s: dict[tuple[str, str], float] = {}
        self._group_of: dict[str, int] = {}

    def post(self, sender: str, receiver: str, frames: Sequence[Buffer], now_s: float) -> None:
        """Send at `now_s`. Raises LocalProtocolError like a real transport."""
        delivery = Delivery(sender, freeze(frames, self._limits))
        lost, repeated, *delays = (float(draw) for draw in self._random.random(4))
        if lost < self._loss:
            return
        for delay in delays[: 2 if repeated < self._duplicate else 1]:
            self._fly(receiver, delivery, now_s, delay)

    def deliver(self, now_s: float) -> list[tuple[str, Delivery]]:
        """Everything due at `now_s`, as (receiver, delivery), in order of arrival."""
        arrived: list[tuple[str, Delivery]] = []
        while self._in_flight and self._in_flight[0][0] <= now_s:
            _, _, receiver, delivery = heapq.heappop(self._in_flight)
            if self._connected(delivery.sender, receiver):  # a cut also takes what is in flight
                arrived.append((receiver, delivery))
        return arrived

    @property
    def next_delivery_s(self) -> float | None:
        """When the next message is due, None with nothing in flight."""
        return self._in_flight[0][0] if self._in_flight else None

    def partition(self, groups: Iterable[Collection[str]]) -> None:
        """Cut the network into groups; agents that none names form one more group together."""
        self._group_of = {agent: number for number, group in enumerate(groups) for agent in group}

    def heal(self) -> None:
        """Undo the partition."""
        self._group_of = {}

    def _connected(self, sender: str, receiver: str) -> bool:
        return self._group_of.get(sender, -1) == self._group_of.get(receiver, -1)

    def _fly(self, receiver: str, delivery: Delivery, now_s: float, draw: float) -> None:
        low_s, high_s = self._delay_s
        due_s = now_s + low_s + draw * (high_s - low_s)
        link = (delivery.sender, receiver)
        if not self._reorder:
            due_s = max(due_s, self._link_busy_until_s.get(link, due_s))
            self._link_busy_until_s[link] = due_s
        heapq.heappush(self._in_flight, (due_s, self._posted, receiver, delivery))
        self._posted += 1
