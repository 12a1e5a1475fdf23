"""`candor lockstep`: does the protocol survive everything that can break around it?"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from candor.agent.cli.options import COUNT, FiniteRange, json_option
from candor.agent.cli.progress import progress
from candor.agent.exits import VERIFICATION_FAILED
from candor.topologies.cluster.file import DEFAULT_RULE
from candor.topologies.specs.files import json_text

if TYPE_CHECKING:
    from candor.agent.lockstep.world import Outcome

BATCH = 20


@click.command("lockstep")
@click.option("--seeds", type=COUNT, default=1000, help="How many schedules to run.")
@click.option(
    "--first-seed", type=click.IntRange(min=0), default=0, help="The first; the others follow it."
)
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="Processes to share them.")
@click.option("--rule", default=DEFAULT_RULE, metavar="SPEC", help="The payment rule.")
@click.option("--algorithm", metavar="NAME", help="Which to run.  [default: drawn by each seed]")
@click.option(
    "--aggregator",
    metavar="SPEC",
    help="How vectors are put together.  [default: drawn with the algorithm, else mean]",
)
@click.option(
    "--rewards", metavar="SPEC", help="What neighbours give each other, such as cgsv:beta=1."
)
@click.option(
    "--influence",
    type=FiniteRange(min=1),
    metavar="C",
    help="How many times the usual around it an agent may inject in a window.",
)
@click.option("--pace", type=click.Choice(["async"]), help="Who is slow sits rounds out.")
@click.option("-v", "--verbose", is_flag=True, help="Print what happens, event by event.")
@json_option
def command(
    seeds: int,
    first_seed: int,
    jobs: int,
    rule: str,
    algorithm: str | None,
    aggregator: str | None,
    rewards: str | None,
    influence: float | None,
    pace: Literal["async"] | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Run real cores through seeded schedules of crashes, losses, partitions and restored backups.

    Every seed is one schedule and replays exactly. Exit code 3: an invariant did not hold in some
    seed.

    \b
    Examples:
      candor lockstep --seeds 1000
      candor lockstep --first-seed 17 --seeds 1 -v
      candor lockstep --algorithm gradient-tracking --aggregator rfa
    """
    from candor.agent.lockstep.world import run_seed
    from candor.agent.runs.cluster_parts import check_rule

    check_rule(rule)
    work = partial(
        run_seed,
        algorithm=algorithm,
        rule=rule,
        trace=click.echo if verbose else None,
        aggregator=aggregator,
        rewards=rewards,
        influence=influence,
        pace=pace,
    )
    chosen, began_s = range(first_seed, first_seed + seeds), time.monotonic()
    outcomes: list[Outcome] = []
    with _mapped(1 if verbose else jobs) as mapped, progress(Console(stderr=True)) as told:
        for outcome in mapped(work, chosen):
            outcomes.append(outcome)
            if not verbose:
                told("seeds", len(outcomes), seeds)
    summary = _summary(outcomes, time.monotonic() - began_s)
    if as_json:
        click.echo(json_text(summary, indent=2))
    else:
        for key, value in summary.items():
            if key != "failing" and value is not None:
                click.echo(f"{key.replace('_', ' '):18} {value}")
        for fault in summary["failing"]:
            click.echo("seed {seed}, step {step}: {invariant}: {detail}".format(**fault))
    if summary["violations"]:
        raise click.exceptions.Exit(VERIFICATION_FAILED)


@contextmanager
def _mapped(jobs: int) -> Iterator[Callable[..., Iterator["Outcome"]]]:
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield partial(pool.map, chunksize=BATCH)


def _summary(outcomes: Sequence["Outcome"], seconds: float) -> dict[str, Any]:
    failing = [
        {"seed": o.seed, "step": o.steps, "invariant": v.invariant, "detail": v.detail}
        for o in outcomes
        for v in o.violations
    ]
    return {
        "seeds": len(outcomes),
        "violations": len(failing),
        "crashes": sum(o.crashes for o in outcomes),
        "restored_backups": sum(o.restored for o in outcomes),
        "settlements": sum(o.settlements for o in outcomes),
        "channels_frozen": sum(o.frozen for o in outcomes),
        "seeds_per_minute": round(60 * len(outcomes) / seconds),
        "failing": failing,
    }
