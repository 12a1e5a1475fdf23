"""A TCP relay between the daemons of a testbed: a network that can be cut and garbled.

CURVE hides from a relay who dials, so each ordered pair of neighbours has a port of its own, at
which the first dials the second (`candor agent --dial`). Everything runs on a thread with a loop of
its own; the methods may be called from any other one and return when it is done. Not a model of
delays or losses: that is what the lockstep runtime has.
"""

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

Pair: TypeAlias = tuple[str, str]  # who dials, and whom

HOST: Final = "127.0.0.1"
READ_BYTES: Final = 1 << 16
DIAL_TRIES: Final = 20
DIAL_EVERY_S: Final = 0.1
"""Whom a daemon dials may still be starting: for two seconds, after which libzmq gives up."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a pair's relay listens, and where the dialled daemon does."""

    relay: int
    daemon: int


class Proxy:
    """Relays between pairs; `garbled` are the agents of whose bytes some are changed."""

    def __init__(self, ports: Mapping[Pair, Ports]) -> None:
        self._ports = dict(ports)
        self._servers: dict[Pair, asyncio.Server] = {}
        self._ends: dict[Pair, set[asyncio.StreamWriter]] = {pair: set() for pair in ports}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.garbled: frozenset[str] = frozenset()

    def start(self) -> None:
        """Listen for all pairs. Raises OSError: a port is taken."""
        self._thread.start()
        self.heal({agent for pair in self._ports for agent in pair})

    def cut(self, groups: Collection[Collection[str]]) -> None:
        """Close and refuse all connections between agents of different groups."""
        group_of = {agent: number for number, group in enumerate(groups) for agent in group}
        self._run(self._close({p for p in self._ports if group_of[p[0]] != group_of[p[1]]}))

    def heal(self, agents: Collection[str]) -> None:
        """Let these agents' bytes and connections through. Raises OSError: a port is taken."""
        self.garbled -= set(agents)
        missing = self._ports.keys() - self._servers.keys()
        self._run(self._listen(pair for pair in missing if not {*pair}.isdisjoint(agents)))

    def close(self) -> None:
        """Close everything, and end the thread."""
        if self._thread.is_alive():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self._servers[pair] = await asyncio.start_server(
                partial(self._relay, pair), HOST, self._ports[pair].relay
            )

    async def _close(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            if pair in self._servers:
                self._servers.pop(pair).close()
            for end in self._ends[pair]:
                end.transport.abort()

    async def _end(self) -> None:
        await self._close(self._ports)
        # Not cancelled: of a cancelled stream's handler asyncio prints a traceback.
        while relays := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(relays)

    async def _relay(
        self, pair: Pair, dialler: asyncio.StreamReader, answers: asyncio.StreamWriter
    ) -> None:
        """One connection, until one end closes it or it is cut."""
        ends = self._ends[pair]
        ends.add(answers)
        try:
            daemon, onward = await self._dialled(pair, answers)
            ends.add(onward)
            try:
                await asyncio.gather(
                    self._pump(pair, dialler, onward), self._pump(pair, daemon, answers)
                )
            finally:
                ends.discard(onward)
                onward.transport.abort()
        except OSError:
            pass  # nobody listens there, or it was cut: the dialler loses its connection
        finally:
            ends.discard(answers)
            answers.transport.abort()

    async def _dialled(
        self, pair: Pair, dialler: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(DIAL_TRIES):
            if dialler.is_closing():
                break
            try:
                return await asyncio.open_connection(HOST, self._ports[pair].daemon)
            except ConnectionRefusedError:
                await asyncio.sleep(DIAL_EVERY_S)
        raise ConnectionRefusedError

    async def _pump(
        self, pair: Pair, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(READ_BYTES):
            sink.write(data if self.garbled.isdisjoint(pair) else flipped(data))
            await sink.drain()
        sink.close()  # once all is sent; the other end then closes, too


def flipped(data: bytes) -> bytes:
    """The same bytes, at least one, with a bit of the one in the middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
