"""Watches the connections to our ROUTER: what no high-water mark counts, one key must not pile up.

libzmq bounds a frame and counts complete messages of each connection. So a message that never ends
grows our memory at line rate, and every further connection has a high-water mark of its own. Here
each neighbour has at most so many connections, and so many bytes in all of them that were read and
not delivered; beyond either its oldest connection, or the one that holds most, is shut down, and
libzmq then discards what was unfinished on it.

What libzmq has read of a connection is what the kernel received less what still waits there; since
the last delivery, that is what libzmq holds of it. Once the ROUTER has nothing to deliver, all of
it belongs to messages without an end. (Heartbeats count as well: after a day of nothing else a
connection may be cut for them, and is dialled anew.)

Whoever sends more messages than any round needs, or is named by `hang_up`, loses its connections
and gets no other for a while.

Of connections that nobody has spoken on yet, who may be anybody, the oldest give way: each costs a
descriptor.

Whose a connection is shows with its first message, which every daemon sends at once. A key that was
let in counts against its owner until then, and who says nothing is cut. Byte counts need Linux
(TCP_INFO); elsewhere only connections are counted.
"""

import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from candor.network.allowance import Allowance
from candor.network.transport import TransportLimits

Tell = Callable[[str, dict[str, str | int]], None]
"""Takes an event's name and its fields."""

TELL_EVERY_S = 60.0
# Messages beyond the transport's limits: no daemon sends one, and a large one takes long to drop.
REFUSED_PER_S_MAX, REFUSED_BURST = 1.0, 10.0
_BYTES_RECEIVED_OFFSET = 128  # of tcpi_bytes_received in Linux's struct tcp_info
_LINUX = sys.platform == "linux"


@dataclass(slots=True)
class _Connection:
    accepted_s: float
    owner: str | None = None  # known with its first message
    address: object = None  # the remote end's, which tells a reused descriptor from the one before
    read_bytes: int = 0
    read_bytes_at_delivery: int = 0
    delivered: bool = False
    cut: bool = False

    @property
    def held_bytes(self) -> int:
        return self.read_bytes - self.read_bytes_at_delivery


class ConnectionWatch:
    """Follows accepted connections by descriptor; overshoots by what arrives between two sweeps."""

    def __init__(self, limits: TransportLimits, tell: Tell, neighbours: int = 0) -> None:
        """`tell` hears of each offender once a minute at most."""
        self._limits, self._tell = limits, tell
        self._unknown_max = max(limits.unknown_connections_max, 2 * neighbours)
        self._connections: dict[int, _Connection] = {}  # in order of acceptance
        self._let_in: dict[str, list[float]] = defaultdict(list)  # not yet seen in a message
        self._told_s: dict[str, float] = {}
        self._offences: Counter[str] = Counter()
        self._messages: dict[str, Allowance] = {}
        self._refused: dict[str, Allowance] = {}
        self._out_until_s: dict[str, float] = {}
        self.cut = 0

    def accepted(self, fd: int, now_s: float) -> None:
        """libzmq accepted a connection."""
        self._connections.pop(fd, None)
        self._connections[fd] = _Connection(now_s)
        for oldest in self._of(None)[: -self._unknown_max]:
            self._cut(oldest, f"more than {self._unknown_max} that say nothing", now_s)

    def disconnected(self, fd: int) -> bool:
        """libzmq closed a connection; whether it was one that had been cut here."""
        connection = self._connections.pop(fd, None)
        return connection is not None and connection.cut

    def admits(self, agent: str, now_s: float) -> bool:
        """Whether one more connection with this agent's key may come in."""
        if now_s < self._out_until_s.get(agent, now_s):
            return False
        unknown = sum(known.owner is None for known in self._connections.values())
        if min(len(self._let_in[agent]), unknown) >= self._limits.connections_max:
            self._complain(agent, "connection_refused", "too many that say nothing", "", now_s)
            return False
        self._let_in[agent].append(now_s)
        return True

    def delivered(self, fd: int, agent: str, now_s: float) -> None:
        """A complete message of this agent has been read from this connection."""
        connection = self._connections.get(fd)
        if connection is None:
            return
        connection.delivered = True
        limits = self._limits
        allowed = self._messages.setdefault(
            agent, Allowance(limits.messages_per_s_max, limits.messages_burst)
        )
        if not allowed.take(now_s):
            allowed.refill()
            connection.owner = agent
            self.hang_up(agent, f"more than {limits.messages_per_s_max:g} messages a second", now_s)
            return
        if connection.owner == agent:
            return
        connection.owner = agent
        if self._let_in[agent]:
            self._let_in[agent].pop(0)
        own = self._of(agent)
        for oldest in own[: max(0, len(own) - self._limits.connections_max)]:
            self._cut(oldest, f"more than {self._limits.connections_max} connections", now_s)

    def refused(self, agent: str, now_s: float) -> None:
        """A message of this agent's was beyond the limits of the transport."""
        allowed = self._refused.setdefault(agent, Allowance(REFUSED_PER_S_MAX, REFUSED_BURST))
        if not allowed.take(now_s):
            allowed.refill()
            self.hang_up(agent, "message after message beyond the limits", now_s)

    def hang_up(self, agent: str, reason: str, now_s: float) -> None:
        """Shut an agent's connections down, and let none in for a while."""
        self._out_until_s[agent] = now_s + self._limits.hang_up_s
        for fd in self._of(agent):
            self._cut(fd, f"{reason}: none is let in for {self._limits.hang_up_s:g} s", now_s)

    def sweep(self, now_s: float, drained: Callable[[], bool]) -> None:
        """Shut down what is beyond the limits. `drained` says, when called, that nothing complete
        waits to be delivered."""
        for fd in tuple(self._connections):
            self._measure(fd)
        # In this order: what was complete when it was measured has been delivered now.
        idle = drained()
        limits = self._limits
        limit = limits.unfinished_bytes_max if idle else limits.undelivered_bytes_max
        for agent in {known.owner for known in self._connections.values()} - {None}:
            held = {fd: self._connections[fd].held_bytes for fd in self._of(agent)}
            while sum(held.values()) > limit:
                largest = max(held, key=lambda fd: held[fd])
                del held[largest]
                self._cut(largest, f"a message without an end, above {limit} bytes", now_s)
        for fd in self._of(None):
            known = self._connections[fd]
            if known.held_bytes > limit:
                self._cut(fd, f"a message without an end, above {limit} bytes", now_s)
            elif idle and now_s - known.accepted_s > limits.first_message_s:
                self._cut(fd, f"no message in {limits.first_message_s:g} s", now_s)
        if idle:  # of each that was let in so long ago, a message was read, or it was cut
            for times in self._let_in.values():
                times[:] = [at_s for at_s in times if now_s - at_s <= limits.first_message_s]

    def _of(self, agent: str | None) -> list[int]:
        """The connections of an agent, oldest first, without those that end already."""
        return [
            fd for fd, known in self._connections.items() if known.owner == agent and not known.cut
        ]

    def _measure(self, fd: int) -> None:
        with _pinned(fd) as pinned:
            if pinned is None:
                return
            try:
                address = pinned.getpeername()
                read_bytes = _bytes_received(pinned) - _bytes_waiting(pinned) if _LINUX else 0
            except OSError:  # no longer connected, or not TCP
                return
            known = self._connections[fd]
            if known.address is None:
                known.address = address
            elif known.address != address:
                return  # somebody else's by now: its event is on its way
            known.read_bytes = read_bytes
            if known.delivered:
                known.delivered, known.read_bytes_at_delivery = False, read_bytes

    def _cut(self, fd: int, reason: str, now_s: float) -> None:
        known = self._connections[fd]
        known.cut = True
        self.cut += 1
        with _pinned(fd) as pinned, contextlib.suppress(OSError):  # it may close by itself now
            if pinned is not None and known.address in (None, pinned.getpeername()):
                known.address = pinned.getpeername()
                pinned.shutdown(socket.SHUT_RDWR)
        suspects = [agent for agent, times in self._let_in.items() if times]
        named = known.owner or " or ".join(suspects)
        self._complain(named, "connection_cut", reason, _shown(known.address), now_s)

    def _complain(self, agent: str, event: str, reason: str, address: str, now_s: float) -> None:
        self._offences[agent] += 1
        if now_s - self._told_s.get(agent, -TELL_EVERY_S) < TELL_EVERY_S:
            return
        self._told_s[agent] = now_s
        fields: dict[str, str | int] = {"peer": agent, "reason": reason}
        if address:
            fields["address"] = address
        self._tell(event, {**fields, "times": self._offences[agent]})


def _shown(address: object) -> str:
    """A socket's address as people write it, empty where it is none."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else ""


@contextlib.contextmanager
def _pinned(fd: int) -> Iterator[socket.socket | None]:
    """A duplicate of a descriptor as a socket, None where it is none any more.

    libzmq may close the descriptor at any moment and the system reuse it for something else: a
    duplicate pins what it is right now."""
    try:
        copy = os.dup(fd)
    except OSError:  # closed: its event is on its way
        yield None
        return
    try:
        pinned = socket.socket(fileno=copy)
    except OSError:  # reused for something that is no socket
        os.close(copy)
        yield None
        return
    with pinned:
        yield pinned


def _bytes_received(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_OFFSET + 8)
    (count,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_OFFSET)
    return int(count)


def _bytes_waiting(connection: socket.socket) -> int:
    """What the kernel holds of a connection, bytes."""
    (count,) = struct.unpack("=i", fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)))
    return int(count)
