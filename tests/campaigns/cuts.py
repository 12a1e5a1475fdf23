"""Cut and heal links between real daemons at random, and see how soon all mix all again.

    python -m tests.campaigns.cuts [--seeds 20] [--first 1] [--seconds 30] [--keep DIR]

A ring of daemons at a walking pace, each dialling its neighbours by way of the testbed's relay. For
so many seconds every link is cut and whole in turns, for times that the seed draws, each link by
itself; then all are whole. Of each seed:

    progress  seconds from then until each agent has ended another round, and mixed somebody in it
    together  until each has mixed all its neighbours in a round that nobody had ended by then:
              those that were cut off from each other are rounds apart, and whoever is ahead waits
              for the others only a share of the time
    rounds    that the foremost and the last agent have ended while links were cut
    failures  no progress in 15 s, bad ends, accusations; what the audit finds, ends of an edge that
              differ, nets that do not sum to 0

Instants on the machine are its own: a seed replays what is cut and when, not what is under way.
"""

import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import click

from candor.agent.daemon.metrics import read_metrics
from candor.agent.testbed.faults import Fault
from candor.agent.testbed.network import Network
from candor.agent.testbed.testbed import Testbed, _relayed, prepare
from tests.campaigns.crashes import RunVerdict, judge_ledgers, plan

PROGRESS_MAX_S: Final = 15.0
TOGETHER_MAX_S: Final = 60.0
CUT_S: Final = (0.5, 6.0)
WHOLE_S: Final = (1.0, 8.0)
STEP_S: Final = 0.15  # of the task, the least that a round takes
FIRST_ROUND: Final = 5
PEACE_S: Final = 12.0
POLL_S: Final = 0.1
FINISH_S: Final = 180.0


@dataclass(slots=True)
class Cuts:
    """What came of one seed; `failures` is empty when all is well."""

    seed: int
    cuts: int = 0
    rounds: tuple[int, int] = (0, 0)
    progress_s: float = math.inf
    together_s: float = math.inf
    failures: list[str] = field(default_factory=list)


def cuts_drawn(
    links: list[tuple[str, str]], seconds: float, seed: int, since_s: float = 0.0
) -> list[Fault]:
    """When which link is cut, and for how long: all whole again after `seconds`."""
    rng = random.Random(seed)
    return sorted(
        chain.from_iterable(_of_link(rng, link, seconds, since_s) for link in links),
        key=lambda fault: fault.at_s or 0.0,
    )


def _of_link(
    rng: random.Random, link: tuple[str, str], seconds: float, since_s: float
) -> Iterator[Fault]:
    one, other = link
    at_s = rng.uniform(0.0, WHOLE_S[1])
    while at_s < seconds:
        for_s = min(rng.uniform(*CUT_S), seconds - at_s)
        yield Fault(
            *("partition", link, None, since_s + at_s, ((one,), (other,))),
            *(None, for_s),
        )
        at_s += for_s + rng.uniform(*WHOLE_S)


def one_seed(seed: int, run_dir: Path, agents: int, seconds: float) -> Cuts:
    """One run with its links cut, to its end, and what came of it; leaves no process behind."""
    rounds = int((seconds + PEACE_S) / STEP_S)
    bed = prepare(plan(agents, "ring", rounds, seed, "norm:2e-5"), run_dir)
    bed.dials, proxy = _relayed(bed.cluster)
    bed.network = Network(proxy)
    found = Cuts(seed)
    try:
        bed.start()
        _play(bed, found, seconds)
        until_s = time.monotonic() + FINISH_S
        while bed.running() and time.monotonic() < until_s:
            time.sleep(POLL_S)
    finally:
        late = bed.running()
        bed.stop()
    found.failures += [f"{agent} did not end" for agent in late]
    found.failures += [f"{agent} ended with {code}" for agent, code in bed.failed().items()]
    if found.progress_s > PROGRESS_MAX_S:
        found.failures.append(f"progress after {found.progress_s:.1f} s")
    found.failures += [str(path.name) for path in run_dir.glob("agents/*/evidence/*")]
    verdict = RunVerdict(seed, rounds)
    judge_ledgers(run_dir, verdict)
    found.failures += verdict.failures
    return found


def _play(bed: Testbed, found: Cuts, seconds: float) -> None:
    while min(_rounds(bed)) < FIRST_ROUND and bed.running():
        time.sleep(POLL_S)
    since_s, before = time.monotonic() - bed.started_s, _rounds(bed)
    links = sorted(bed.cluster.graph.edges)
    bed.faults = cuts_drawn(links, seconds, bed.cluster.seed, since_s)
    found.cuts = len(bed.faults)
    while bed.faults:
        bed.refresh()
        bed.inject_faults()
        time.sleep(POLL_S / 4)
    healed_s = time.monotonic()
    ended = [after - start for after, start in zip(_rounds(bed), before, strict=True)]
    found.rounds = max(ended), min(ended)
    own = _rounds(bed)
    foremost = [max(own)] * len(own)
    found.progress_s = _until(lambda: _all_mixed(bed, own), healed_s, PROGRESS_MAX_S + 1)
    found.together_s = _until(
        lambda: _all_mixed(bed, foremost, everybody=True), healed_s, TOGETHER_MAX_S
    )


def _until(holds: Callable[[], bool], since_s: float, within_s: float) -> float:
    """Seconds until something holds; for ever, if it has not by `within_s`."""
    while not holds():
        if time.monotonic() - since_s > within_s:
            return math.inf
        time.sleep(POLL_S)
    return round(time.monotonic() - since_s, 1)


def _rounds(bed: Testbed) -> list[int]:
    bed.refresh()
    return [status.round for status in bed.statuses.values()]


def _all_mixed(bed: Testbed, beyond: Sequence[int], *, everybody: bool = False) -> bool:
    """Whether each agent has ended a round beyond its own of these, and mixed some neighbour in it,
    or `everybody`."""
    return all(
        any(
            line.round > own and (not line.missing if everybody else line.neighbours_mixed > 0)
            for line in read_metrics(bed.data_dir(agent) / "metrics.csv")
        )
        for agent, own in zip(bed.cluster.ids, beyond, strict=True)
    )


@click.command()
@click.option("--seeds", default=20, show_default=True)
@click.option("--first", default=1, show_default=True, help="The first seed.")
@click.option("--agents", default=6, show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="Of cutting and healing.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep run directories in here.")
def main(seeds: int, first: int, agents: int, seconds: float, keep: Path | None) -> None:
    """Cut links of run after run."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(first, first + seeds):
            run_dir = (keep or Path(scratch)) / f"cuts-{seed}"
            found.append(one_seed(seed, run_dir, agents, seconds))
            click.echo(json.dumps(asdict(found[-1])))
    progress_s, together_s = [o.progress_s for o in found], [o.together_s for o in found]
    failed = [one for one in found if one.failures]
    click.echo(
        f"{len(found)} seeds, {sum(one.cuts for one in found)} cuts: progress after "
        f"{statistics.median(progress_s):.1f} s (median), {max(progress_s):.1f} s (most), all "
        f"together after {statistics.median(together_s):.1f} and {max(together_s):.1f} s; "
        f"{len(failed)} failed"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
