"""Makes the transport's sockets; each option names the failure it prevents, most of them seen."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import zmq

from candor.network.errors import TransportError
from candor.network.transport import KIB, TransportLimits
from candor.network.zeromq.zap import ZAP_DOMAIN
from candor.topologies.specs.fields import address_of

# ZMTP and CURVE add 33 bytes to a frame (command name, nonce, authenticator, flags), and
# ZMQ_MAXMSGSIZE measures the encrypted frame: without this room the largest legal frame is refused.
CURVE_OVERHEAD_BYTES_MAX = 64
# What a peer may send on the socket we only write to: the handshake and heartbeats, all below 512.
REPLY_BYTES_MAX = KIB
CONNECT_TIMEOUT_MS = 5000

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


@dataclass(frozen=True, slots=True)
class Route:
    """One way to dial an endpoint: the family has to be chosen before libzmq looks a name up."""

    endpoint: str
    ipv6: bool


def routes(endpoints: Iterable[str]) -> tuple[Route, ...]:
    """The ways to dial endpoints, in order; a host name may have addresses of both families.

    Raises:
        TransportError: a malformed endpoint.
    """
    found = []
    for endpoint in endpoints:
        try:
            host, _ = host_and_port(endpoint)
        except ValueError as exc:
            raise TransportError(f"cannot dial {endpoint}: {exc}") from exc
        families = (":" in host,) if address_of(host) else (False, True)
        found += [Route(endpoint, ipv6) for ipv6 in families]
    return tuple(found)


def receiving_socket(
    context: Context, endpoint: str, public: str, secret: str, limits: TransportLimits
) -> Socket:
    """A ROUTER that only receives, for `bind` to `endpoint` and others.

    Raises:
        TransportError: a key is malformed.
    """
    socket = context.socket(zmq.ROUTER)
    try:
        _set_common(socket, public, secret, limits)
        # Without CURVE_SERVER a plain-text peer is served.
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        # Without a domain libzmq asks no handler; without enforcement it lets everyone in when none
        # runs.
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        # With handover, a peer that claims another's routing id takes over its connection.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        # Unset, a claimed frame of 10 GiB is allocated before a byte of it arrives.
        socket.setsockopt(zmq.MAXMSGSIZE, limits.message_bytes_max + CURVE_OVERHEAD_BYTES_MAX)
        # Unset, 1000 chunks of each peer may pile up here.
        socket.setsockopt(zmq.RCVHWM, limits.high_water_mark)
        # Nothing is ever sent on it, so closing has nothing to wait for.
        socket.setsockopt(zmq.LINGER, 0)
    except zmq.ZMQError as exc:
        socket.close(0)
        raise TransportError(f"cannot listen on {endpoint}: {os_reason(exc)}") from exc
    return socket


def bind(socket: Socket, endpoint: str) -> str:
    """Bind, and return the endpoint with the port that port 0 became.

    Raises:
        TransportError: the port is taken or the address is bad.
    """
    try:
        host, _ = host_and_port(endpoint)
        _bind(socket, endpoint, host)
    except zmq.ZMQError as exc:
        raise TransportError(f"cannot listen on {endpoint}: {os_reason(exc)}") from exc
    except ValueError as exc:
        raise TransportError(f"cannot listen on {endpoint}: {exc}") from exc
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _bind(socket: Socket, endpoint: str, host: str) -> None:
    # Off, a bracketed IPv6 endpoint is refused; on, an IPv4 host without IPv6 cannot bind.
    socket.setsockopt(zmq.IPV6, int(host == "*" or ":" in host))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as exc:
        if host != "*" or exc.errno == errno.EADDRINUSE:
            raise
        # All interfaces of a host without IPv6.
        socket.setsockopt(zmq.IPV6, 0)
        socket.bind(endpoint)


def sending_socket(
    context: Context, endpoint: str, server: str, public: str, secret: str, limits: TransportLimits
) -> Socket:
    """A DEALER that only sends, to the one peer that holds the key `server`; not connected yet.
    `endpoint` stands in messages; `dial` connects.

    It sets no ROUTING_ID: the peer's ROUTER makes one up, which nobody else can claim before us.

    Raises:
        TransportError: a key is malformed.
    """
    socket = context.socket(zmq.DEALER)
    try:
        _set_common(socket, public, secret, limits)
        # Whoever answers at the endpoint must prove this key, or gets nothing.
        socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
        # Its first message, empty, tells the peer whose connection this is: without one before long
        # the peer hangs up.
        socket.setsockopt(zmq.PROBE_ROUTER, 1)
        # 0 would queue messages for a peer that is not there, beyond our outbox's rules.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        # Unset, 1000 chunks are handed over and none can be displaced by a newer round.
        socket.setsockopt(zmq.SNDHWM, limits.high_water_mark)
        # A peer has nothing to say here: keep one small message at most.
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, REPLY_BYTES_MAX)
        # The system's own limit for an address that drops packets is minutes.
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
        # 100 ms for ever would hammer a host that is down; the backoff doubles up to the maximum.
        socket.setsockopt(zmq.RECONNECT_IVL, milliseconds(limits.reconnect_s_min))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, milliseconds(limits.reconnect_s_max))
        # Without heartbeats a host that lost power stays "connected" until TCP gives up, minutes
        # later. Only the sending end beats: a receiver whose pipe is full when a heartbeat timer
        # fires can abort the process (an assertion in libzmq's stream engine).
        socket.setsockopt(zmq.HEARTBEAT_IVL, milliseconds(limits.heartbeat_s))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, milliseconds(limits.heartbeat_timeout_s))
        # libzmq's default waits for ever for a peer that does not read; close() sets its own.
        socket.setsockopt(zmq.LINGER, 0)
    except zmq.ZMQError as exc:
        socket.close(0)
        raise TransportError(f"cannot prepare a link to {endpoint}: {os_reason(exc)}") from exc
    return socket


def dial(socket: Socket, route: Route) -> None:
    """Start to connect.

    Raises:
        TransportError: libzmq does not take the endpoint.
    """
    try:
        # Off, a bracketed IPv6 endpoint is refused; on, a name's IPv4 address is passed over.
        socket.setsockopt(zmq.IPV6, int(route.ipv6))
        socket.connect(route.endpoint)
    except zmq.ZMQError as exc:
        raise TransportError(f"cannot dial {route.endpoint}: {os_reason(exc)}") from exc


def _set_common(socket: Socket, public: str, secret: str, limits: TransportLimits) -> None:
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
    # A peer that connects and stays silent would hold the connection for 30 s.
    socket.setsockopt(zmq.HANDSHAKE_IVL, milliseconds(limits.handshake_s))


def host_and_port(endpoint: str) -> tuple[str, int]:
    """The parts of `tcp://host:port`. libzmq takes a port of 99999 and uses 34463.

    Raises:
        ValueError: it is something else; the message says what is wrong.
    """
    parts = urlsplit(endpoint)
    if parts.scheme != "tcp" or not parts.hostname or parts.port is None or parts.path:
        raise ValueError("an address looks like tcp://host:port")
    return parts.hostname, parts.port


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, at least one: zero means "off" to libzmq."""
    return max(1, round(seconds * 1000))


def os_reason(exc: zmq.ZMQError) -> str:
    """The system's words for an error, in lower case."""
    number = exc.errno or 0
    return (os.strerror(number) if 0 < number < zmq.ETERM else str(exc)).lower()
