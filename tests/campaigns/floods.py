"""Flood one daemon of a run, and see what it costs that one, the others, and its memory.

    python -m tests.campaigns.floods [--attempts 10000] [--silent 330] [--endless-s 20]

A ring of real daemons at a walking pace, of which a0 has 256 descriptors. Against its address, in
turns: connections that say nothing; attempts with a key that nobody knows; and, with the key of its
neighbour a1, messages that never end, on a new connection whenever one is cut. Of each: rounds a
second of a0 and of the others, beside those of a calm time just before, and the most memory that a0
had beyond what it had then. a1 itself is let in beside its impostor, or misses rounds: it shares a
key with who attacks.
"""

import contextlib
import json
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import zmq

from candor.agent.daemon import keys
from candor.agent.testbed.testbed import Testbed, prepare
from candor.network.transport import MIB, TransportLimits
from candor.topologies.specs.fields import split_endpoint
from tests.campaigns.crashes import plan
from tests.network.zeromq.raw_curve import RawCurveClient

VICTIM, IMPOSTOR_OF = "a0", "a1"
DESCRIPTORS: Final = 256
CALM_S: Final = 10.0
POLL_S: Final = 0.1
FRAME: Final = bytes(64 * 1024)
OVERSHOOT_BYTES: Final = 64 * MIB
"""What may arrive between two looks at the connections, of a machine with others on it."""
MEMORY_BYTES_MAX: Final = TransportLimits().undelivered_bytes_max + OVERSHOOT_BYTES
SLOWED_MAX: Final = 0.5


class Flooded:
    """A run whose first agent is attacked."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        entry = bed.cluster.agent(VICTIM)
        self.endpoint, self.server = entry.endpoint, entry.curve.encode()
        self.address = split_endpoint(entry.endpoint)
        self.pid = bed.processes[VICTIM].pid

    def rounds(self) -> dict[str, int]:
        """The round of each agent."""
        self.bed.refresh()
        return {agent: status.round for agent, status in self.bed.statuses.items()}

    def measured(self, flood: Callable[[], int]) -> dict[str, Any]:
        """A calm time, then a flood on a thread of its own: figures of both."""
        calm, _ = self._over(lambda since_s: since_s >= CALM_S)
        before = _resident_bytes(self.pid)
        done: list[int] = []
        thread = threading.Thread(target=lambda: done.append(flood()))
        thread.start()
        flooded, peak = self._over(lambda _: not thread.is_alive())
        others = [agent for agent in calm if agent not in (VICTIM, IMPOSTOR_OF)]

        def share(agents: list[str]) -> float:
            return round(sum(flooded[a] for a in agents) / sum(calm[a] for a in agents), 2)

        return {
            "count": sum(done),
            "rounds_a_second": round(flooded[VICTIM], 2),
            "share_of_calm": share([VICTIM]),
            "others_share": share(others),
            "memory_more_mb": round((peak - before) / 1e6, 1),
        }

    def _over(self, over: Callable[[float], bool]) -> tuple[dict[str, float], int]:
        """Rounds a second by agent until something is over, and the most memory meanwhile."""
        began_s, began, peak = time.monotonic(), self.rounds(), 0
        while not over(time.monotonic() - began_s):
            time.sleep(POLL_S)
            peak = max(peak, _resident_bytes(self.pid))
        took_s, ended = time.monotonic() - began_s, self.rounds()
        return {agent: (ended[agent] - began[agent]) / took_s for agent in ended}, peak

    def silent(self, count: int, seconds: float) -> int:
        """So many connections that say nothing; one that is closed is opened again."""
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(self._dialled()) for _ in range(count)]
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                time.sleep(POLL_S)
            return len(held)

    @contextlib.contextmanager
    def _dialled(self) -> Iterator[socket.socket | None]:
        try:
            with socket.create_connection(self.address, timeout=10) as one:
                yield one
        except OSError:  # no room for one more
            yield None

    def strangers(self, attempts: int) -> int:
        """Handshakes with a key that nobody knows, as fast as they are refused."""
        public, secret = zmq.curve_keypair()
        refused = 0
        for _ in range(attempts):
            try:
                RawCurveClient(self.endpoint, (public, secret), self.server).close()
            except OSError:
                refused += 1
        return refused

    def endless(self, seconds: float) -> int:
        """Messages without an end, of one that has the key of a neighbour; bytes that were sent."""
        own = keys.load(self.bed.data_dir(IMPOSTOR_OF) / "keys")
        pair = own.curve_public.encode(), own.curve_secret.encode()
        until_s, sent = time.monotonic() + seconds, 0
        while time.monotonic() < until_s:
            try:
                client = RawCurveClient(self.endpoint, pair, self.server)
            except OSError:  # not let in for a while
                time.sleep(POLL_S)
                continue
            while time.monotonic() < until_s and client.send(client.frame(FRAME, more=True)):
                sent += len(FRAME)
            client.close()
        return sent


def _resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def flooded(run_dir: Path, attempts: int, silent: int, endless_s: float) -> dict[str, Any]:
    """All floods against a run of four daemons, one after the other, and its end."""
    bed = prepare(plan(4, "ring", 100_000, 1, "norm:2e-5"), run_dir)
    found: dict[str, Any] = {}
    try:
        bed.start()
        resource.prlimit(
            bed.processes[VICTIM].pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)
        )
        run = Flooded(bed)
        while min(run.rounds().values()) < 20:
            time.sleep(POLL_S)
        found["silent"] = run.measured(lambda: run.silent(silent, CALM_S))
        found["unknown_key"] = run.measured(lambda: run.strangers(attempts))
        found["endless"] = run.measured(lambda: run.endless(endless_s))
        alive = bed.running()
    finally:
        bed.stop()
    found["failures"] = failures(found, [a for a in bed.cluster.ids if a not in alive])
    return found


def failures(found: dict[str, dict[str, Any]], dead: list[str]) -> list[str]:
    """What is wrong with the figures."""
    wrong = [f"{agent} has ended" for agent in dead]
    for name, one in found.items():
        if one["memory_more_mb"] > MEMORY_BYTES_MAX / 1e6:
            wrong.append(f"{name}: {one['memory_more_mb']} MB more")
        slowed = min(one["share_of_calm"], one["others_share"])
        if slowed < SLOWED_MAX:
            wrong.append(f"{name}: {slowed:.0%} of the rounds")
    return wrong


@click.command()
@click.option("--attempts", default=10_000, show_default=True, help="With an unknown key.")
@click.option("--silent", default=330, show_default=True, help="Connections that say nothing.")
@click.option("--endless-s", default=20.0, show_default=True, help="Of messages without an end.")
def main(attempts: int, silent: int, endless_s: float) -> None:
    """Flood one daemon of a run."""
    with tempfile.TemporaryDirectory() as scratch:
        found = flooded(Path(scratch) / "run", attempts, silent, endless_s)
    click.echo(json.dumps(found, indent=2))
    sys.exit(1 if found["failures"] else 0)


if __name__ == "__main__":
    main()
