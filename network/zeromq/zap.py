"""Who may connect: answers libzmq's authentication requests (ZAP) from a table of CURVE keys.

A request that cannot be answered for any reason is refused. libzmq fails open where no handler
runs, so the transport binds this one before its socket and enforces the domain.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

import zmq
from zmq.utils import z85

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"candor"

_log = logging.getLogger(__name__)


class ZapHandler:
    """Allows the given keys and names the agent each belongs to (the message's User-Id)."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        keys: Mapping[str, str],
        admits: Callable[[str], bool] = lambda agent: True,  # noqa: ARG005
    ) -> None:
        """`keys`: agent id -> CURVE public key in z85. `admits`: whether one more connection of an
        agent may come in."""
        self._admits = admits
        self._agent_of = {z85.decode(key.encode()): agent for agent, key in keys.items()}
        # A ROUTER, not a REP: a REP whose reply failed once is stuck in its request for good.
        self._socket = context.socket(zmq.ROUTER)
        self._socket.bind(ZAP_ENDPOINT)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer requests from `loop` until closed."""
        loop.add_reader(self._socket.FD, self._on_requests)
        self._on_requests()

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop answering; whoever connects after this is refused by libzmq."""
        if not self._socket.closed:
            loop.remove_reader(self._socket.FD)
            self._socket.close(0)

    def _on_requests(self) -> None:
        while True:
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(request) < 4:  # no request id to answer to; libzmq never sends this
                continue
            self._socket.send_multipart([*request[:2], *self._reply(request)])

    def _reply(self, request: list[bytes]) -> list[bytes]:
        try:
            agent = self.authenticate(*request[4:5], *request[7:])
        except Exception:  # a broken check must refuse, and must not end the handler
            _log.exception("authentication_failed")
            agent = None
        status = b"200" if agent else b"400"
        return [b"1.0", request[3], status, b"", (agent or "").encode(), b""]

    def authenticate(self, domain: bytes, mechanism: bytes, *credentials: bytes) -> str | None:
        """The agent whose key this is, None to refuse."""
        if domain != ZAP_DOMAIN or mechanism != b"CURVE" or len(credentials) != 1:
            return None
        agent = self._agent_of.get(credentials[0])
        return agent if agent is not None and self._admits(agent) else None
