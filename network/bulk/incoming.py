"""Listens for bulk: opens the records of neighbours that took an offer, and hands them on.

Whoever connects has two seconds to show a ticket that was offered; a ticket opens one connection,
and a neighbour has one. What it sends is read at the pace at which it is taken.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from candor.network.errors import RemoteProtocolError, TransportError
from candor.network.sealed import (
    KEY_BYTES,
    PREFIX_BYTES,
    TAG_BYTES,
    TICKET_BYTES,
    Offer,
    Opener,
    Reference,
)
from candor.network.transport import TransportLimits

Guard = Callable[[Callable[[], None]], Callable[[], None]]

# Connections that have shown no ticket: a neighbour's does so at once.
_STRANGERS_MAX: Final = 64
_BACKLOG: Final = 128


@dataclass(eq=False, slots=True)
class _Connection:
    """One connection: its ticket first, then records. `peer` is whose ticket it has shown,
    `moved_s` when bytes came last, `began_s` when the record under way was announced."""

    socket: socket.socket
    moved_s: float
    buffer: bytearray
    got: int = 0
    peer: str | None = None
    ticket: bytes = b""
    opener: Opener | None = None
    in_record: bool = False
    held_up: bool = False
    began_s: float = 0.0


@dataclass(slots=True)
class Handlers:
    """What is done with what comes.

    `record`: a neighbour's record; `ended`: its connection has, of that ticket; `full`: whether so
    many of its records wait that no more are to be read before `resume`.
    """

    record: Callable[[str, Reference, bytes], None]
    ended: Callable[[str, bytes], None]
    full: Callable[[str], bool]


class BulkListener:
    """The listening end. `random` gives fresh random bytes; `guard` wraps each callback."""

    def __init__(
        self,
        limits: TransportLimits,
        guard: Guard,
        handlers: Handlers,
        random: Callable[[int], bytes],
    ) -> None:
        self._limits, self._guard, self._handlers = limits, guard, handlers
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._offers: dict[bytes, tuple[str, bytes]] = {}  # by ticket: of whom, under which key
        self._strangers: list[_Connection] = []
        self._connections: dict[str, _Connection] = {}
        self._spare: list[bytearray] = []
        self.port = 0

    def listen(self, host: str, port: int) -> None:
        """Listen; of port 0 `port` tells which it became. Raises TransportError: it is taken."""
        try:
            listener = _listener(host, port)
        except OSError as exc:
            # What `create_server` raises says the address once more.
            number = exc.errno or 0
            why = (os.strerror(number) if number > 0 else exc.strerror or str(exc)).lower()
            raise TransportError(f"cannot listen for bulk on {host}:{port}: {why}") from exc
        listener.setblocking(False)
        self._listeners.append(listener)
        self.port = listener.getsockname()[1]
        self._loop.add_reader(listener, self._guard(lambda: self._accept(listener)))

    def offer(self, peer: str) -> Offer:
        """A fresh offer to a neighbour, in place of any before it."""
        self.forget(peer)
        offer = Offer(self._random(KEY_BYTES), self.port)
        self._offers[offer.ticket] = (peer, offer.key)
        return offer

    def forget(self, peer: str) -> None:
        """End a neighbour's connection and take back what it was offered."""
        for ticket in [one for one, (whose, _) in self._offers.items() if whose == peer]:
            del self._offers[ticket]
            self._handlers.ended(peer, ticket)
        if (connection := self._connections.get(peer)) is not None:
            self._end(connection)

    def holds(self, peer: str, ticket: bytes) -> bool:
        """Whether records may still come by a ticket: it is offered, or its connection is there."""
        connection = self._connections.get(peer)
        return ticket in self._offers or (connection is not None and connection.ticket == ticket)

    def stands_still(self, peer: str, since_s: float) -> bool:
        """Whether a neighbour's connection has brought nothing since then, though it could; one
        that never came has not, either."""
        connection = self._connections.get(peer)
        if connection is None:
            return any(whose == peer for whose, _ in self._offers.values())
        return not connection.held_up and connection.moved_s < since_s

    def resume(self, peer: str) -> None:
        """What had filled up has been taken: read on."""
        connection = self._connections.get(peer)
        if connection is not None and connection.held_up:
            connection.held_up = False
            self._watch(connection)

    def sweep(self, now_s: float) -> None:
        """Hang up on who shows no ticket, and on records that trickle."""
        for stranger in list(self._strangers):
            if now_s - stranger.moved_s > self._limits.handshake_s:
                self._end(stranger)
        for connection in list(self._connections.values()):
            if connection.in_record and now_s - connection.began_s > self._limits.bulk_record_s:
                self._end(connection)

    def close(self) -> None:
        """Close every socket."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        for connection in [*self._strangers, *self._connections.values()]:
            self._end(connection, told=False)

    # Connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors: libzmq's own connections have the same trouble
            return
        if len(self._strangers) >= _STRANGERS_MAX:
            self._end(self._strangers[0])
        prepare(accepted)
        stranger = _Connection(accepted, self._loop.time(), bytearray(TICKET_BYTES))
        self._strangers.append(stranger)
        self._watch(stranger)

    def _watch(self, connection: _Connection) -> None:
        self._loop.add_reader(connection.socket, self._guard(lambda: self._readable(connection)))

    def _readable(self, connection: _Connection) -> None:
        room = memoryview(connection.buffer)[connection.got :]
        try:
            count = connection.socket.recv_into(room)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._end(connection)
            return
        connection.got += count
        connection.moved_s = self._loop.time()
        if connection.got == len(connection.buffer):
            try:
                self._whole(connection)
            except RemoteProtocolError:
                # Changed on its way, or by who holds no key: no neighbour is to blame.
                self._end(connection)

    def _whole(self, connection: _Connection) -> None:
        """All is there of a ticket, of a prefix or of a record."""
        data, connection.got = connection.buffer, 0
        if connection.opener is None:
            self._admit(connection, bytes(data))
        elif not connection.in_record:
            size = int.from_bytes(data)
            if not TAG_BYTES < size <= self._limits.message_bytes_max + TAG_BYTES:
                raise RemoteProtocolError("bulk-record", f"of {size} bytes")
            connection.in_record, connection.buffer = True, self._take(size)
            connection.began_s = self._loop.time()
        else:
            self._opened(
                connection, connection.opener.open(memoryview(data)), connection.opener.number
            )
            self._spare = [data]  # one to spare: records come one after the other
            connection.in_record, connection.buffer = False, bytearray(PREFIX_BYTES)

    def _admit(self, connection: _Connection, ticket: bytes) -> None:
        peer, key = self._offers.pop(ticket, (None, b""))
        if peer is None:
            raise RemoteProtocolError("bulk-ticket", "not offered")
        self._strangers.remove(connection)
        connection.peer, connection.ticket, connection.opener = peer, ticket, Opener(key)
        connection.buffer = bytearray(PREFIX_BYTES)
        self._connections[peer] = connection

    def _opened(self, connection: _Connection, data: bytes, number: int) -> None:
        assert connection.peer is not None, "records come after a ticket"
        self._handlers.record(connection.peer, Reference(connection.ticket, number), data)
        if self._handlers.full(connection.peer):
            connection.held_up = True
            self._loop.remove_reader(connection.socket)

    def _take(self, size: int) -> bytearray:
        spare = self._spare.pop() if self._spare else bytearray()
        return spare if len(spare) == size else bytearray(size)

    def _end(self, connection: _Connection, *, told: bool = True) -> None:
        self._loop.remove_reader(connection.socket)
        connection.socket.close()
        if connection.peer is None:
            self._strangers.remove(connection)
            return
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            if told:
                self._handlers.ended(connection.peer, connection.ticket)


def prepare(made: socket.socket) -> None:
    """Set a connection's options: records go out at once, and a host that is gone is noticed."""
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not everywhere
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)


def _listener(host: str, port: int) -> socket.socket:
    if host == "*":
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(
            ("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)
