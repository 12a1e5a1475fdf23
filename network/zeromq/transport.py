"""The transport on ZeroMQ: a bound ROUTER that only receives, a DEALER a neighbour that only sends.

Every connection is CURVE-encrypted and authenticated; the sender of a message is the agent that the
authenticated key belongs to. The loop watches libzmq's own descriptors and reads and writes without
blocking; zmq.asyncio's futures cost more a message for the same result. An exception in any
callback is kept and raised by receive() and close().

What one neighbour can make us hold is bounded by `network.zeromq.watch`.
"""

import asyncio
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import zmq
from zmq.utils.monitor import parse_monitor_message

from candor.network.bulk.incoming import BulkListener, Handlers
from candor.network.errors import LocalProtocolError, RemoteProtocolError, TransportError
from candor.network.memory import give_back, keep_freed_memory
from candor.network.sealed import (
    Again,
    AskOffer,
    InOrder,
    Note,
    Offer,
    Reference,
    Resent,
    decode,
)
from candor.network.transport import (
    Buffer,
    Delivery,
    LinkStats,
    OutboxEntry,
    PeerAddress,
    TransportLimits,
    byte_count,
    freeze,
)
from candor.network.zeromq.link import Link
from candor.network.zeromq.options import Context, Socket, bind, host_and_port, receiving_socket
from candor.network.zeromq.watch import ConnectionWatch, Tell
from candor.network.zeromq.zap import ZapHandler

# A frame below this is handed out as bytes: a copy of a few KiB is cheaper than keeping libzmq's
# buffer.
_COPY_BYTES_MAX = 16 * 1024
# Deliveries in a row before other tasks get a turn, so that a flood cannot starve the loop.
_BURST = 8
_SWEEP_S = 0.05
# After a connection was cut, for libzmq to free what it held of it.
_GIVE_BACK_S = 0.5
# At the end of a drain, what libzmq took gets this long to leave even when the drain used its time
# up.
_LINGER_S_MIN = 0.2
_DRAIN_POLL_S = 0.005
# A peer asks for another offer of bulk no oftener: each closes the connection of the one before.
_OFFER_S = 0.5

_log = logging.getLogger(__name__)


class ZeroMqTransport:
    """`network.transport.Transport` over TCP, driven by one loop."""

    def __init__(
        self,
        agent_id: str,
        bind_endpoint: str,
        curve_public: str,
        curve_secret: str,
        peers: Mapping[str, PeerAddress],
        limits: TransportLimits | None = None,
        *,
        other_binds: Sequence[str] = (),
        tell: Tell | None = None,
        bulk_port: int | None = None,
    ) -> None:
        """`bind_endpoint` may have port 0, any free one; after start() `endpoint` tells which.
        A host with several addresses listens at `other_binds`, too. `tell` hears of peers that were
        cut. With a `bulk_port`, 0 for any that is free, large frames are taken there, sealed."""
        self.agent_id = agent_id
        self.endpoint = bind_endpoint
        self._other_binds = tuple(other_binds)
        self._keys = (curve_public, curve_secret)
        self._peers = dict(peers)
        self._limits = limits or TransportLimits()
        self._links: dict[str, Link] = {}
        self._tell = tell or _logged
        self._watch = ConnectionWatch(self._limits, self._tell, len(self._peers))
        self._context: Context | None = None
        self._router: Socket | None = None
        self._monitor: Socket | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._give_back_timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None
        self._failure_told = False
        self._waiter: asyncio.Future[None] | None = None
        self._burst = 0
        self._open = False
        self._bulk_port = bulk_port
        self._bulk: BulkListener | None = None
        limits = self._limits
        self._inbound = {
            peer: InOrder(limits.undelivered_bytes_max, limits.outbox_control_messages_max)
            for peer in self._peers
        }
        self._arrived: deque[Delivery] = deque()
        self._offered_s: dict[str, float] = {}
        self._waits_s: dict[str, float] = {}  # since when each neighbour's records are waited for

    async def start(self) -> None:
        """Listen and dial. Raises TransportError: port taken, bad address or malformed key."""
        self._loop = asyncio.get_running_loop()
        keep_freed_memory()
        self._context = zmq.Context()
        self._zap = ZapHandler(
            self._context,
            {agent: peer.curve_public for agent, peer in self._peers.items()},
            self._admits,
        )
        self._zap.start(self._loop)  # before bind: libzmq lets everyone in where no handler answers
        try:
            self._listen()
            for peer, address in self._peers.items():
                self._links[peer] = Link(
                    *(self._context, address, self._keys, self._limits, self._guard),
                    *(partial(self._offer_bulk, peer), partial(self._bulk_unreachable, peer)),
                )
                self._links[peer].dial()
        except BaseException:
            await self.close(0)
            raise
        self._open = True

    def post(self, peer: str, frames: Sequence[Buffer], *, bulk_round: int | None = None) -> None:
        """Queue a message and hand libzmq what it has room for; never blocks.

        Raises:
            LocalProtocolError: not open, unknown peer, or a message beyond the limits.
        """
        if not self._open:
            raise LocalProtocolError("post on a transport that is not open")
        self._link(peer).post(OutboxEntry(freeze(frames, self._limits), bulk_round))

    def hang_up(self, peer: str) -> None:
        """Close a peer's connections to our ROUTER, and let none in for a while."""
        self._watch.hang_up(peer, "what it sends is refused", self._loop.time())
        if self._bulk is not None:
            self._bulk.forget(peer)

    async def receive(self) -> Delivery:
        """The next message from any peer, one caller at a time; safe to cancel.

        Raises:
            TransportError: the transport failed (the cause is chained) or was closed.
            LocalProtocolError: it was never started.
        """
        if self._burst >= _BURST:
            self._burst = 0
            await asyncio.sleep(0)
        while True:
            self._check_usable()
            delivery = self._take()
            if delivery is not None:
                self._burst += 1
                return delivery
            self._burst = 0
            await self._wait_readable()

    def link(self, peer: str) -> LinkStats:
        """The counters of one peer. Raises LocalProtocolError: unknown peer."""
        if peer in self._peers and peer not in self._links:
            return LinkStats()  # not started, or start failed
        return self._link(peer).stats

    async def close(self, drain_s: float) -> None:
        """Send what waits for connected peers, within `drain_s`, then release every socket.

        Raises:
            TransportError: a callback had failed and nobody was told yet.
        """
        if self._context is None:
            return
        context, self._context, self._open = self._context, None, False
        deadline_s = self._loop.time() + drain_s
        while drain_s > 0 and self._loop.time() < deadline_s and not self._drained:
            await asyncio.sleep(_DRAIN_POLL_S)
        linger_s = max(deadline_s - self._loop.time(), _LINGER_S_MIN) if drain_s > 0 else 0.0
        self._wake()
        await asyncio.sleep(0)  # a waiting receive() lets go of its descriptor before it closes
        for link in self._links.values():
            await link.close(linger_s)
        self._stop_listening()
        # Blocks until what lingers has left, so not on the loop.
        await asyncio.to_thread(context.term)
        if self._failure is not None and not self._failure_told:
            raise self._told_failure()

    # Listening

    def _listen(self) -> None:
        assert self._context is not None
        self._router = receiving_socket(self._context, self.endpoint, *self._keys, self._limits)
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._loop.add_reader(self._monitor.FD, self._guard(self._on_connections))
        self._on_connections()  # a descriptor only signals after its socket was once found empty
        self.endpoint = bind(self._router, self.endpoint)
        for endpoint in self._other_binds:
            bind(self._router, endpoint)
        if self._bulk_port is not None:
            self._listen_for_bulk(self._bulk_port)
        self._sweep()

    def _listen_for_bulk(self, port: int) -> None:
        handlers = Handlers(self._on_record, self._ask_again, self._has_many_early)
        self._bulk = BulkListener(self._limits, self._guard, handlers, os.urandom)
        hosts = [host_and_port(endpoint)[0] for endpoint in (self.endpoint, *self._other_binds)]
        for host in dict.fromkeys(hosts):
            self._bulk.listen(host, self._bulk.port or port)

    def _stop_listening(self) -> None:
        for timer in (self._sweep_timer, self._give_back_timer):
            if timer is not None:
                timer.cancel()
        if self._bulk is not None:
            self._bulk.close()
        if self._router is not None and self._monitor is not None:
            self._loop.remove_reader(self._monitor.FD)
            self._router.disable_monitor()
            self._monitor.close(0)
            self._router.close(0)
        # Last: libzmq must never find the socket open and the handler gone.
        self._zap.close(self._loop)

    def _on_connections(self) -> None:
        assert self._monitor is not None
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._watch.accepted(event["value"], self._loop.time())
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                was_cut = self._watch.disconnected(event["value"])
                if was_cut and self._give_back_timer is None:
                    self._give_back_timer = self._loop.call_later(_GIVE_BACK_S, self._give_back)

    def _give_back(self) -> None:
        self._give_back_timer = None
        self._loop.run_in_executor(None, give_back)

    def _admits(self, agent: str) -> bool:
        self._on_connections()  # of the one that asks, too
        return self._watch.admits(agent, self._loop.time())

    def _sweep(self) -> None:
        self._watch.sweep(self._loop.time(), self._nothing_waits)
        self._sweep_bulk(self._loop.time())
        self._sweep_timer = self._loop.call_later(_SWEEP_S, self._guard(self._sweep))

    def _nothing_waits(self) -> bool:
        """Whether everything complete that has arrived was taken."""
        assert self._router is not None
        waits = bool(int(self._router.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
        if waits:
            self._wake()  # asking has cleared the descriptor, which will not signal it again
        return not waits

    # Receiving

    def _take(self) -> Delivery | None:
        """The next acceptable message that has arrived, None when there is none."""
        while not self._arrived:
            try:
                message = self._next_message()
            except zmq.Again:
                return None
            if message is not None:
                self._place(*message)
        return self._arrived.popleft()

    def _next_message(self) -> tuple[str, tuple[Buffer, ...]] | None:
        """Who sent the next message, and its frames; None if it is not to be kept.

        Raises:
            zmq.Again: there is none.
        """
        assert self._router is not None
        self._router.recv(zmq.NOBLOCK)  # the routing id, which says nothing
        frames, complete = self._frames()
        sender = frames[0].get("User-Id") if frames else None
        if sender not in self._links:  # no frame, or no authenticated name: libzmq's bug
            return None
        self._on_connections()  # a connection's acceptance comes before its messages
        self._watch.delivered(int(frames[0].get(zmq.SRCFD)), sender, self._loop.time())
        self._links[sender].heard_from()
        if complete and len(frames) == 1 and not len(frames[0]):
            return None  # the greeting of a connection
        if complete and sum(len(frame) for frame in frames) <= self._limits.message_bytes_max:
            return sender, tuple(_contents(frame) for frame in frames)
        self._refuse(sender)
        return None

    def _place(self, sender: str, frames: tuple[Buffer, ...]) -> None:
        """Deliver a message, or keep it behind one whose record is still to come."""
        try:
            note = decode(frames[0])
        except RemoteProtocolError:
            self._refuse(sender)
            return
        if note is None and not self._inbound[sender]:
            self._deliver(sender, frames)
            return
        if note is None:
            self._inbound[sender].message(frames)
        else:
            self._noted(sender, note, frames[1:])
        self._deliver_ready(sender)

    def _deliver(self, sender: str, frames: tuple[Buffer, ...]) -> None:
        size = sum(map(byte_count, frames))
        if not frames or size > self._limits.message_bytes_max:
            self._refuse(sender)
            return
        counters = self._links[sender].counters
        counters.messages_received += 1
        counters.bytes_received += size
        self._arrived.append(Delivery(sender, frames))

    def _deliver_ready(self, sender: str) -> None:
        for frames in self._inbound[sender].ready():
            self._deliver(sender, frames)
        if self._bulk is not None and not self._has_many_early(sender):
            self._bulk.resume(sender)

    def _refuse(self, sender: str) -> None:
        self._links[sender].counters.messages_refused += 1
        self._watch.refused(sender, self._loop.time())

    # Bulk beside CURVE

    def _noted(self, sender: str, note: Note, frames: tuple[Buffer, ...]) -> None:
        link, inbound = self._links[sender], self._inbound[sender]
        match note:
            case Offer() if self._peers[sender].bulk:
                link.offered(note)
            case AskOffer():
                self._offer_bulk(sender)
            case Reference(ticket):
                there = inbound.reference(note, frames)
                if not there and (self._bulk is None or not self._bulk.holds(sender, ticket)):
                    self._say_again(sender, inbound.ask_for(note, self._again_until_s))
            case Again(of):
                link.send_again(of)
            case Resent(of):
                inbound.resent(of, frames)

    def _offer_bulk(self, peer: str) -> None:
        now_s = self._loop.time()
        early_s = self._offered_s.get(peer, -math.inf) + _OFFER_S - now_s
        if self._bulk is None or early_s > _OFFER_S:  # one is on its way already
            return
        self._offered_s[peer] = max(now_s, now_s + early_s)
        self._loop.call_later(max(0.0, early_s), self._guard(partial(self._offer_now, peer)))

    def _offer_now(self, peer: str) -> None:
        if self._open and self._bulk is not None:
            self._links[peer].say(self._bulk.offer(peer))

    def _bulk_unreachable(self, peer: str, place: str) -> None:
        detail = f"no way to {place}: what is large goes to the port of the cluster file, slower"
        self._tell("bulk_unreachable", {"peer": peer, "detail": detail})

    def _on_record(self, peer: str, of: Reference, data: bytes) -> None:
        self._inbound[peer].record(of, data)
        self._deliver_ready(peer)
        if self._arrived:
            self._wake()

    def _has_many_early(self, peer: str) -> bool:
        return self._inbound[peer].early >= self._limits.early_records_max

    def _ask_again(self, peer: str, ticket: bytes) -> None:
        self._say_again(peer, self._inbound[peer].ask(ticket, self._again_until_s))

    @property
    def _again_until_s(self) -> float:
        return self._loop.time() + self._limits.bulk_again_s

    def _say_again(self, peer: str, asked: Sequence[Reference]) -> None:
        for of in asked:
            self._links[peer].say(Again(of))

    def _sweep_bulk(self, now_s: float) -> None:
        bulk, since_s = self._bulk, now_s - self._limits.bulk_still_s
        if bulk is not None:
            bulk.sweep(now_s)
        for peer, inbound in self._inbound.items():
            if not inbound.waits:
                self._waits_s[peer] = now_s
            if not inbound:
                continue
            if self._waits_s[peer] < since_s and bulk and bulk.stands_still(peer, since_s):
                bulk.forget(peer)
            inbound.overdue(now_s)
            self._deliver_ready(peer)
        if self._arrived:
            self._wake()

    def _frames(self) -> tuple[list[zmq.Frame], bool]:
        """The first frames of a message, and whether they are all; others are not kept."""
        assert self._router is not None
        frames: list[zmq.Frame] = []
        count = 0
        while self._router.getsockopt(zmq.RCVMORE):
            frame = self._router.recv(copy=False)
            count += 1
            if count <= self._limits.frames_max:
                frames.append(frame)
        return frames, count == len(frames)

    async def _wait_readable(self) -> None:
        if self._waiter is not None:
            raise LocalProtocolError("receive has one caller at a time")
        assert self._router is not None
        self._waiter = self._loop.create_future()
        # Watched only while someone waits: nobody else clears the descriptor, and it would spin.
        descriptor = self._router.FD
        self._loop.add_reader(descriptor, self._wake)
        try:
            await self._waiter
        finally:
            self._loop.remove_reader(descriptor)
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Failure

    def _guard(self, callback: Callable[[], None]) -> Callable[[], None]:
        """The callback with its exception kept for receive() and close(): the loop only logs it."""

        def guarded() -> None:
            try:
                callback()
            except Exception as exc:
                if self._failure is None:
                    self._failure = exc
                self._wake()

        return guarded

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._told_failure()
        if not self._open:
            if self._router is None:
                raise LocalProtocolError("receive before start")
            raise TransportError("the transport is closed")

    def _told_failure(self) -> TransportError:
        self._failure_told = True
        error = TransportError(f"the transport of {self.agent_id} failed: {self._failure!r}")
        error.__cause__ = self._failure
        return error

    @property
    def _drained(self) -> bool:
        return all(link.drained for link in self._links.values())

    def _link(self, peer: str) -> Link:
        try:
            return self._links[peer]
        except KeyError:
            raise LocalProtocolError(
                f"{peer!r} is no peer of {self.agent_id}: {sorted(self._links)} are"
            ) from None


def _contents(frame: zmq.Frame) -> Buffer:
    return frame.bytes if len(frame) <= _COPY_BYTES_MAX else frame.buffer.toreadonly()


def _logged(event: str, fields: dict[str, str | int]) -> None:
    _log.warning("%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))
