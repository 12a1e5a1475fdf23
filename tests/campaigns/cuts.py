"""Cut and heal links between real daemons at random, and see how soon all mix all again.

    python -m tests.campaigns.cuts [--seeds 20] [--first 1] [--seconds 30] [--keep DIR]

A ring of daemons at a walking pace, each dialling its neighbours by way of the testbed's relay. For
so many seconds every link is cut and whole in turns, for times that the seed draws, each link by
itself; then all are whole. Of each seed:

    back      seconds from then until each agent has ended a round in which it mixed all neighbours
    rounds    that the foremost and the last agent have ended while links were cut
    failures  who took more than 15 s, ended badly, is accused of anything; what the audit finds,
              ends of an edge that differ, nets that do not sum to 0

Instants on the machine are its own: a seed replays what is cut and when, not what is under way.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
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

BACK_MAX_S: Final = 15.0
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
    back_s: float = float("inf")
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
    if found.back_s > BACK_MAX_S:
        found.failures.append(f"back after {found.back_s:.1f} s")
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
    at = max(_rounds(bed))
    while time.monotonic() - healed_s < 2 * BACK_MAX_S and not _all_mix(bed, at):
        time.sleep(POLL_S)
    found.back_s = round(time.monotonic() - healed_s, 1)


def _rounds(bed: Testbed) -> list[int]:
    bed.refresh()
    return [status.round for status in bed.statuses.values()]


def _all_mix(bed: Testbed, beyond: int) -> bool:
    """Whether each agent has mixed all its neighbours in a round that nobody had ended by then."""
    lines = (read_metrics(bed.data_dir(agent) / "metrics.csv") for agent in bed.cluster.ids)
    return all(
        any(line.round > beyond and not line.missing for line in some[-10:]) for some in lines
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
    back_s = [one.back_s for one in found]
    failed = [one for one in found if one.failures]
    click.echo(
        f"{len(found)} seeds, {sum(one.cuts for one in found)} cuts: all mixed all again after "
        f"{statistics.median(back_s):.1f} s (median), {max(back_s):.1f} s (most); "
        f"{len(failed)} failed"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
