"""Cuts connections that send without end: no high-water mark counts an unfinished message.

libzmq bounds a frame and counts complete messages, so a peer whose message never ends grows our
memory at line rate. What the kernel received on a connection, less what it had received when the
connection last delivered a message, is what libzmq holds of it; beyond the limit the connection is
shut down, and libzmq then discards the unfinished message. Needs Linux (TCP_INFO); elsewhere
nothing is watched.
"""

import contextlib
import logging
import os
import socket
import struct
import sys
from dataclasses import dataclass

_log = logging.getLogger(__name__)
_BYTES_RECEIVED_OFFSET = 128  # of tcpi_bytes_received in Linux's struct tcp_info
_LINUX = sys.platform == "linux"


@dataclass(slots=True)
class _Connection:
    address: object  # the remote end's, which tells a reused descriptor from the connection before
    bytes_at_delivery: int
    delivered: bool = False


class UnfinishedWatch:
    """Follows accepted connections by descriptor; overshoots by what arrives between two sweeps."""

    def __init__(self, undelivered_bytes_max: int) -> None:
        self._limit = undelivered_bytes_max
        self._connections: dict[int, _Connection | None] = {}
        self.cut = 0

    def accepted(self, fd: int) -> None:
        """libzmq accepted a connection."""
        self._connections[fd] = None

    def disconnected(self, fd: int) -> None:
        """libzmq closed a connection."""
        self._connections.pop(fd, None)

    def delivered(self, fd: int) -> None:
        """A complete message of this connection has been read."""
        connection = self._connections.get(fd)
        if connection is not None:
            connection.delivered = True

    def sweep(self) -> None:
        """Shut down every connection beyond the limit."""
        if _LINUX:
            for fd in tuple(self._connections):
                self._check(fd)

    def _check(self, fd: int) -> None:
        # libzmq may close the descriptor at any moment and the system reuse it for something else:
        # a duplicate pins what it is right now, and only the remote address we know is ever shut
        # down.
        pinned = _duplicate(fd)
        if pinned is None:
            return
        with pinned:
            try:
                address, received = pinned.getpeername(), _bytes_received(pinned)
            except OSError:  # no longer connected, or not TCP
                return
            known = self._connections[fd]
            if known is None or known.address != address:
                known = self._connections[fd] = _Connection(address, 0)
            if known.delivered:
                known.delivered, known.bytes_at_delivery = False, received
            elif received - known.bytes_at_delivery > self._limit:
                self._cut(pinned, address)

    def _cut(self, connection: socket.socket, address: object) -> None:
        self.cut += 1
        _log.warning("endless_message_cut", extra={"address": str(address)})
        with contextlib.suppress(OSError):  # it closed by itself in the meantime
            connection.shutdown(socket.SHUT_RDWR)


def _duplicate(fd: int) -> socket.socket | None:
    try:
        copy = os.dup(fd)
    except OSError:  # closed: its event is on its way
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:  # reused for something that is no socket
        os.close(copy)
        return None


def _bytes_received(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_OFFSET + 8)
    (count,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_OFFSET)
    return int(count)
