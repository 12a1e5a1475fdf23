"""Real transports on loopback: made by name, wired to each other, closed whatever happens."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import zmq

from candor.network.transport import Delivery, PeerAddress, TransportLimits
from candor.network.zeromq.transport import ZeroMqTransport

DEADLINE_S = 60.0
# Quick to reconnect, so that a test of it is quick too.
LIMITS = TransportLimits(reconnect_s_min=0.02, reconnect_s_max=0.1, bulk_still_s=0.3)


@dataclass
class Neighbourhood:
    """Agents with keys and ports; `start` makes a transport for one of them."""

    limits: TransportLimits = LIMITS
    bulk_port: int | None = None
    _keys: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    _endpoints: dict[str, str] = field(default_factory=dict)
    _started: list[ZeroMqTransport] = field(default_factory=list)
    # What the transports of each agent told of peers that were cut.
    told: dict[str, list[tuple[str, dict[str, str | int]]]] = field(default_factory=dict)

    def keys(self, agent: str) -> tuple[bytes, bytes]:
        return self._keys.setdefault(agent, zmq.curve_keypair())

    def endpoint(self, agent: str) -> str:
        if agent not in self._endpoints:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self._endpoints[agent] = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        return self._endpoints[agent]

    def address(self, agent: str) -> PeerAddress:
        return PeerAddress(self.endpoint(agent), self.keys(agent)[0].decode())

    async def start(
        self, agent: str, *peers: str, limits: TransportLimits | None = None
    ) -> ZeroMqTransport:
        return await self.start_with(
            agent, {peer: self.address(peer) for peer in peers}, limits=limits
        )

    async def start_with(
        self, agent: str, peers: dict[str, PeerAddress], *, limits: TransportLimits | None = None
    ) -> ZeroMqTransport:
        public, secret = (key.decode() for key in self.keys(agent))
        told = self.told.setdefault(agent, [])
        transport = ZeroMqTransport(
            agent,
            self.endpoint(agent),
            public,
            secret,
            peers,
            limits or self.limits,
            tell=lambda event, fields: told.append((event, fields)),
            bulk_port=self.bulk_port,
        )
        await transport.start()
        self._started.append(transport)
        return transport

    async def close(self) -> None:
        for transport in self._started:
            await transport.close(0)


@pytest.fixture
async def neighbourhood() -> AsyncIterator[Neighbourhood]:
    neighbourhood = Neighbourhood()
    yield neighbourhood
    await neighbourhood.close()


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    """A context for raw sockets, closed with everything in it."""
    with zmq.Context() as context:
        yield context
        context.destroy(0)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits until a condition holds, failing at a deadline."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def receive() -> Callable[[ZeroMqTransport], Awaitable[Delivery]]:
    """The next delivery, failing at a deadline."""

    async def next_delivery(transport: ZeroMqTransport) -> Delivery:
        async with asyncio.timeout(DEADLINE_S):
            return await transport.receive()

    return next_delivery
