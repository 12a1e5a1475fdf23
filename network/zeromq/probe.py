"""Handshakes without a word: does whoever listens there hold the key we have, and admit ours?

For a check before a daemon runs: nothing is sent, so a running neighbour is not disturbed, and no
session of ours, should our own daemon run, is touched.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from candor.network.transport import TransportLimits
from candor.network.zeromq.link import NOT_CURVE, handshake_failure
from candor.network.zeromq.options import Context, Route, Socket, dial, milliseconds, sending_socket

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to shake hands with: a way there, and the CURVE key (z85) that must answer."""

    route: Route
    curve_public: str


def shake_hands(
    targets: Mapping[str, Target], keys: tuple[str, str], timeout_s: float
) -> dict[str, str | None]:
    """Why each handshake failed, None where it succeeded; over within `timeout_s`.

    `keys`: our own CURVE public and secret key, z85.

    Raises:
        TransportError: a malformed key or endpoint.
    """
    found: dict[str, str | None] = dict.fromkeys(targets, f"no handshake within {timeout_s:g} s")
    deadline_s = time.monotonic() + timeout_s
    poller = zmq.Poller()
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        waiting: dict[Socket, str] = {}
        for name, target in targets.items():
            monitor = _attempt(context, target, keys, stack)
            waiting[monitor] = name
            poller.register(monitor, zmq.POLLIN)
        while waiting and (left_s := deadline_s - time.monotonic()) > 0:
            for monitor, _ in poller.poll(milliseconds(left_s)):
                found[waiting.pop(monitor)] = _outcome(monitor)
                poller.unregister(monitor)
    return found


def _attempt(context: Context, target: Target, keys: tuple[str, str], stack: ExitStack) -> Socket:
    """The monitor of a new connection; the stack closes both."""
    endpoint = target.route.endpoint
    socket = sending_socket(context, endpoint, target.curve_public, *keys, TransportLimits())
    stack.callback(socket.close, 0)
    monitor: Socket = socket.get_monitor_socket(_EVENTS)
    stack.callback(monitor.close, 0)
    stack.callback(socket.disable_monitor)
    dial(socket, target.route)
    return monitor


def _outcome(monitor: Socket) -> str | None:
    event = parse_monitor_message(monitor.recv_multipart())
    kind = zmq.Event(event["event"])
    if kind is zmq.Event.DISCONNECTED:  # before any handshake: the bytes were no ZMTP
        return NOT_CURVE
    return handshake_failure(kind, event["value"])
