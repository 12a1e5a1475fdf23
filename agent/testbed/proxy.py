"""A TCP relay between the daemons of a testbed: a network that can be cut, garbled and slowed.

CURVE hides from a relay who dials, so each ordered pair of neighbours has a port of its own, at
which the first dials the second (`candor agent --dial`). Everything runs on a thread with a loop of
its own; the methods may be called from any other one and return when it is done. What connections
suffer is said by `agent.testbed.links`.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

from candor.agent.testbed.links import (
    PIECE_BYTES_MAX,
    Condition,
    Pair,
    Queues,
    stall_s,
)

HOST: Final = "127.0.0.1"
DIAL_TRIES: Final = 20
DIAL_EVERY_S: Final = 0.1
"""Whom a daemon dials may still be starting: for two seconds, after which libzmq gives up."""
PIECES_ON_THE_WAY: Final = 256
"""Of a delayed connection; beyond, its sender waits: 16 MiB at most."""
_Piece: TypeAlias = tuple[float, bytes]  # when it arrives; no bytes are the end


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a pair's relay listens, and where the dialled daemon does."""

    relay: int
    daemon: int


class Proxy:
    """Relays between pairs; `seed` of what is lost."""

    def __init__(self, ports: Mapping[Pair, Ports], seed: int = 0) -> None:
        self._ports = dict(ports)
        self._conditions = dict.fromkeys(ports, Condition())
        self._servers: dict[Pair, asyncio.Server] = {}
        self._ends: dict[Pair, set[asyncio.StreamWriter]] = {pair: set() for pair in ports}
        self._carriers: dict[Pair, set[asyncio.Task[None]]] = {pair: set() for pair in ports}
        self._queues = Queues()
        self._random = Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def conditions(self) -> Mapping[Pair, Condition]:
        """How it is for each pair."""
        return self._conditions

    def start(self) -> None:
        """Listen for all pairs. Raises OSError: a port is taken."""
        self._thread.start()
        self.impose({})

    def impose(self, conditions: Mapping[Pair, Condition]) -> None:
        """Let connections be under these conditions, and those of other pairs under none. Raises
        OSError: a port is taken."""
        self._run(self._impose(conditions))

    def close(self) -> None:
        """Close everything, and end the thread."""
        if self._thread.is_alive():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _impose(self, conditions: Mapping[Pair, Condition]) -> None:
        self._conditions = {pair: conditions.get(pair, Condition()) for pair in self._ports}
        self._close(pair for pair, condition in self._conditions.items() if condition.cut)
        for pair, condition in self._conditions.items():
            if not condition.cut and pair not in self._servers:
                self._servers[pair] = await asyncio.start_server(
                    partial(self._relay, pair), HOST, self._ports[pair].relay
                )

    def _close(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            if pair in self._servers:
                self._servers.pop(pair).close()
            for end in self._ends[pair]:
                end.transport.abort()
            for carrier in self._carriers[pair]:
                carrier.cancel()

    async def _end(self) -> None:
        self._close(self._ports)
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
                async with asyncio.TaskGroup() as group:
                    self._carry(group, pair, pair[0], dialler, onward)
                    self._carry(group, pair, pair[1], daemon, answers)
            finally:
                ends.discard(onward)
                onward.transport.abort()
        except* OSError:
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

    def _carry(
        self,
        group: asyncio.TaskGroup,
        pair: Pair,
        sender: str,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> None:
        """One direction of a connection: what is taken at one end is on its way, then given."""
        way: asyncio.Queue[_Piece] = asyncio.Queue(PIECES_ON_THE_WAY)
        carriers = self._carriers[pair]
        for work in (self._take(pair, sender, source, way), _give(way, sink)):
            carriers.add(carrier := group.create_task(work))
            carrier.add_done_callback(carriers.discard)

    async def _take(
        self, pair: Pair, sender: str, source: asyncio.StreamReader, way: asyncio.Queue[_Piece]
    ) -> None:
        arrives_s = 0.0
        while data := await source.read(PIECE_BYTES_MAX):
            while data:
                now_s, condition = self._loop.time(), self._conditions[pair]
                piece, data = data[: condition.piece_bytes], data[condition.piece_bytes :]
                passed_s = self._queues.passed_s(now_s, len(piece), sender, condition)
                if passed_s > now_s:
                    await asyncio.sleep(passed_s - now_s)
                late_s = condition.delay_s + stall_s(len(piece), condition.loss_share, self._random)
                arrives_s = max(arrives_s, passed_s + late_s)
                await way.put((arrives_s, flipped(piece) if condition.garbled else piece))
        await way.put((arrives_s, b""))


async def _give(way: asyncio.Queue[_Piece], sink: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        arrives_s, piece = await way.get()
        if (left_s := arrives_s - loop.time()) > 0:
            await asyncio.sleep(left_s)
        if not piece:
            break
        sink.write(piece)
        await sink.drain()
    sink.close()  # once all is sent; the other end then closes, too


def flipped(data: bytes) -> bytes:
    """The same bytes, at least one, with a bit of the one in the middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
