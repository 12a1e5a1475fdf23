"""The outgoing half of one neighbour: its outbox, its DEALER, and what is known of the connection.

States, from the socket monitor's events: dialling -> shaking hands -> connected -> dialling.
A peer with several addresses is dialled at one at a time, the next when an attempt fails: two
connections would share its messages between them, and reorder them.
Everything is driven by callbacks on the socket's descriptor and nothing here awaits the peer, so
that no peer, however slow, can hold anything up.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import zmq
from zmq.utils.monitor import parse_monitor_message

from candor.network.bulk.outgoing import BulkLink
from candor.network.sealed import AskOffer, Note, Offer, Reference, Resent, encode, is_note
from candor.network.transport import (
    Buffer,
    LinkStats,
    Outbox,
    OutboxEntry,
    PeerAddress,
    TransportLimits,
    byte_count,
)
from candor.network.zeromq.options import (
    Context,
    Route,
    Socket,
    dial,
    host_and_port,
    routes,
    sending_socket,
)

# Below this, copying into libzmq is cheaper than keeping the buffer alive until it is sent.
ZERO_COPY_BYTES_MIN = 64 * 1024
_PROBE_TIMEOUT_S = 2.0
_REDIAL_S = 1.0
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_NOT_YET = "not connected yet"
_REFUSED = (
    "handshake refused: they do not know our key; have they the same revision of the cluster file?"
)
_NOT_THEIR_KEY = "handshake failed: the key they hold is not the one we have for them"
NOT_CURVE = "handshake failed: what listens there does not speak our protocol"
_SILENT = "handshake failed: no answer in time"


@dataclass(slots=True)
class Counters:
    """What the transport counts of one peer, both directions."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    messages_refused: int = 0


class Link:
    """Sends to one peer. `guard` wraps each callback so that its exception fails the transport."""

    def __init__(
        self,
        context: Context,
        address: PeerAddress,
        keys: tuple[str, str],
        limits: TransportLimits,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
        on_connected: Callable[[], None],
        bulk_unreachable: Callable[[str], None],
    ) -> None:
        """`keys`: our own CURVE public and secret key, z85."""
        self.counters = Counters()
        self._on_connected = on_connected
        self._bulk = BulkLink(guard, self._send_waiting, self._ask_offer, bulk_unreachable)
        self._owed = False  # another offer was to be asked for while it was not connected
        self._routes, self._guard = routes(address.endpoints), guard
        self._turn = 0  # which route is tried, counted on beyond the last
        self._succeeded = False  # this attempt led to a connection
        self._outbox = Outbox(limits)
        # The next of several addresses is worth a try at once, the same one is not.
        self._redial_s_min = limits.reconnect_s_min if len(self._routes) > 1 else _REDIAL_S
        self._connected = False
        self._reached = False  # the TCP connection of this attempt was made
        self._handshake_over = False  # in this attempt, well or badly
        self._reasons: dict[str, str] = {}  # why each endpoint failed last
        self._loop = asyncio.get_running_loop()
        self._redial_timer: asyncio.TimerHandle | None = None
        self._redialled_at_s = self._loop.time()
        self._redial_s, self._redial_s_max = self._redial_s_min, limits.reconnect_s_max
        self._probe: asyncio.Task[None] | None = None
        self._waiting_for_room = False
        self._new_socket = partial(
            sending_socket, context, address.endpoint, address.curve_public, *keys, limits
        )
        self._open()

    def dial(self) -> None:
        """Start to connect. Raises TransportError: libzmq does not take the endpoint."""
        dial(self._socket, self._route)

    def _open(self) -> None:
        self._socket = self._new_socket()
        self._monitor: Socket = self._socket.get_monitor_socket(_EVENTS)
        self._loop.add_reader(self._monitor.FD, self._guard(self._on_events))
        self._on_events()  # a descriptor only signals after its socket was once found empty

    def _close(self, linger_s: float) -> None:
        self._wait_for_room(False)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(round(linger_s * 1000))

    @property
    def _route(self) -> Route:
        return self._routes[self._turn % len(self._routes)]

    @property
    def _reason(self) -> str | None:
        if self._connected:
            return None
        if len({route.endpoint for route in self._routes}) == 1:
            return self._reasons.get(self._route.endpoint, _NOT_YET)
        return "; ".join(f"{place}: {why}" for place, why in self._reasons.items()) or _NOT_YET

    @property
    def stats(self) -> LinkStats:
        """The counters as a snapshot."""
        counters = self.counters
        return LinkStats(
            counters.bytes_sent,
            counters.bytes_received,
            counters.messages_sent,
            counters.messages_received,
            counters.messages_refused + self._outbox.dropped,
            self._connected,
            self._reason,
            self._bulk.open,
        )

    @property
    def drained(self) -> bool:
        """Nothing waits, or nobody is there to send it to."""
        return not (self._connected and len(self._outbox)) and self._bulk.drained

    def post(self, entry: OutboxEntry) -> None:
        """Queue an entry and send at once what the peer has room for."""
        self._outbox.put(entry)
        if not self._waiting_for_room:
            self._send_waiting()

    def heard_from(self) -> None:
        """The peer reached us: if we wait to dial it again, the wait is over."""
        now_s = self._loop.time()
        if not self._connected and not self._reached and now_s - self._redialled_at_s > _REDIAL_S:
            self._redial()

    async def close(self, linger_s: float) -> None:
        """Leave libzmq at most `linger_s` to send what it holds."""
        self._cancel_redial()
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait({self._probe})
        await self._bulk.close()
        self._close(linger_s)

    # Bulk

    def offered(self, offer: Offer) -> None:
        """The peer takes large frames at a port of its own."""
        self._bulk.offered(offer, host_and_port(self._route.endpoint)[0])

    def say(self, note: Note, frames: Sequence[Buffer] = ()) -> None:
        """Say something of bulk."""
        self.post(OutboxEntry((encode(note), *frames), None))

    def send_again(self, of: Reference) -> None:
        """The peer lacks a record: send its message over CURVE, or say that it is gone."""
        entry = self._bulk.take(of)
        self.say(Resent(of), () if entry is None else entry.frames)

    def _ask_offer(self) -> None:
        self._owed = not self._connected
        if self._connected:
            self.say(AskOffer())

    # Sending

    def _send_waiting(self) -> None:
        # Not to a connection that we do not know of yet: it may be about to be given up.
        while self._connected and self._has_room() and len(self._outbox):
            entry = self._outbox.first()
            by_record = self._bulk.open and is_bulk(entry)
            if by_record and not self._bulk.has_room:
                self._wait_for_room(False)  # it calls when there is some
                return
            frames, size = entry.frames, entry.size_bytes
            if by_record:
                frames = (encode(self._bulk.send(entry)), *frames[:-1])
            try:
                # Room for the first frame is room for all: libzmq counts whole messages.
                copied = by_record or size < ZERO_COPY_BYTES_MIN
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=copied, track=False)
            except zmq.Again:  # the peer left between the two calls
                continue
            self._outbox.remove_first()
            if not is_note(entry.frames[0]):
                self.counters.messages_sent += 1
                self.counters.bytes_sent += size
        self._wait_for_room(self._connected and len(self._outbox) > 0)

    def _has_room(self) -> bool:
        # Asking for EVENTS also takes in libzmq's own commands, which clears the descriptor: a
        # descriptor that stays ready would spin the loop.
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)

    def _wait_for_room(self, wait: bool) -> None:
        if wait and not self._waiting_for_room:
            self._loop.add_reader(self._socket.FD, self._guard(self._send_waiting))
        elif not wait and self._waiting_for_room:
            self._loop.remove_reader(self._socket.FD)
        self._waiting_for_room = wait

    # The connection's state

    def _on_events(self) -> None:
        while True:
            try:
                message = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = parse_monitor_message(message)
            self._on_event(zmq.Event(event["event"]), event["value"])

    def _on_event(self, event: zmq.Event, value: int) -> None:
        match event:
            case zmq.Event.CONNECTED:
                self._reached, self._handshake_over = True, False
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._connected = self._handshake_over = self._succeeded = True
                self._redial_s = self._redial_s_min
                self._reasons.clear()
                self._cancel_redial()
                self._has_room()  # libzmq greets when its socket is next asked for something
                self._on_connected()
                if self._owed:
                    self._ask_offer()
                self._send_waiting()
            case zmq.Event.DISCONNECTED:
                self._on_disconnected()
            case zmq.Event.CONNECT_RETRIED:
                self._on_retried()
            case _:
                failure = handshake_failure(event, value)
                if failure is not None:  # else it is the monitor's own end
                    self._lost(failure)

    def _on_disconnected(self) -> None:
        if self._connected:
            self._lost("connection lost")
        elif not self._handshake_over:  # not even a failed one: the bytes were no ZMTP
            self._lost(NOT_CURVE)

    def _lost(self, reason: str) -> None:
        self._connected, self._handshake_over = False, True
        self._wait_for_room(False)
        self._reasons[self._route.endpoint] = reason
        # libzmq gives up for good after a refusal or a protocol error of the peer's, so that a peer
        # that first had an older cluster file would never be reached: dial again ourselves, unless
        # libzmq says that it does.
        self._redial_later()

    def _redial_later(self) -> None:
        if self._redial_timer is None:
            self._redial_timer = self._loop.call_later(self._redial_s, self._guard(self._redial))
            if (self._turn + 1) % len(self._routes) == 0:  # every address had its turn
                self._redial_s = min(2 * self._redial_s, self._redial_s_max)

    def _on_retried(self) -> None:
        # libzmq stays with one address; one where it had a connection deserves another attempt.
        if len(self._routes) > 1 and not self._succeeded:
            self._redial_later()
        else:
            self._cancel_redial()
        self._succeeded = False
        if not self._reached and (self._probe is None or self._probe.done()):
            self._probe = self._loop.create_task(self._explain())
            self._probe.add_done_callback(self._on_explained)
        self._reached = False

    def _cancel_redial(self) -> None:
        if self._redial_timer is not None:
            self._redial_timer.cancel()
            self._redial_timer = None

    def _redial(self) -> None:
        self._on_events()  # the timer may come before the news that this attempt succeeded
        if self._connected:
            return
        self._cancel_redial()
        self._redialled_at_s = self._loop.time()
        self._reached = False
        # A new socket: events of an attempt that was given up would be taken for the next one's.
        self._close(0)
        self._open()
        self._turn, self._succeeded = self._turn + 1, False
        self.dial()

    async def _explain(self) -> None:
        """Learn why TCP does not connect: the monitor says that it failed, not why."""
        endpoint = self._route.endpoint
        reason = await _why_unreachable(endpoint)
        if reason is not None and not self._connected and not self._reached:
            self._reasons[endpoint] = reason

    def _on_explained(self, probe: asyncio.Task[None]) -> None:
        if not probe.cancelled():
            self._guard(probe.result)()


def is_bulk(entry: OutboxEntry) -> bool:
    """Whether the last frame of a message is worth a record of its own."""
    last = entry.frames[-1]
    bulk = entry.bulk_round is not None and len(entry.frames) > 1
    return bulk and byte_count(last) >= ZERO_COPY_BYTES_MIN


def handshake_failure(event: zmq.Event, value: int) -> str | None:
    """Why a handshake failed, by the monitor's event and its value; None for other events."""
    match event:
        case zmq.Event.HANDSHAKE_FAILED_AUTH:
            return _REFUSED
        case zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
            return NOT_CURVE
        case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            # A server that cannot open our first message just hangs up.
            return _SILENT if value == zmq.EAGAIN else _NOT_THEIR_KEY
        case _:
            return None


async def _why_unreachable(endpoint: str) -> str | None:
    """The system's words for why a TCP connection fails, None when it does not."""
    host, port = host_and_port(endpoint)
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    except TimeoutError:
        return "no answer"
    except OSError as exc:
        if exc.errno is not None and exc.errno > 0:
            return os.strerror(exc.errno).lower()
        return (exc.strerror or str(exc)).lower()
    return None
