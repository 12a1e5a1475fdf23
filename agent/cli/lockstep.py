"""`candor lockstep`: does the protocol survive everything that can break around it?"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import click
from rich.console import Console
from rich.progress import Progress

from candor.agent.cli.options import json_option
from candor.agent.exits import VERIFICATION_FAILED
from candor.topologies.cluster.file import DEFAULT_RULE

BATCH = 20


@click.command("lockstep")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="How many schedules to run.",
)
@click.option(
    "--first-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The first; the others follow it.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes to share them.",
)
@click.option(
    "--rule", default=DEFAULT_RULE, show_default=True, metavar="SPEC", help="The payment rule."
)
@click.option("--algorithm", metavar="NAME", help="Which to run.  [default: drawn by each seed]")
@click.option("-v", "--verbose", is_flag=True, help="Print what happens, event by event.")
@json_option
def command(
    seeds: int,
    first_seed: int,
    jobs: int,
    rule: str,
    algorithm: str | None,
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
      candor lockstep --algorithm gradient-tracking
    """
    from candor.agent.lockstep.world import Outcome, run_seed
    from candor.agent.runs.cluster_parts import check_rule

    check_rule(rule)
    chosen = range(first_seed, first_seed + seeds)
    began_s = time.monotonic()
    outcomes: list[Outcome] = []
    work = partial(run_seed, algorithm=algorithm, rule=rule)

    def all_seeds() -> Iterator[Outcome]:
        if verbose:
            yield from (work(seed, trace=click.echo) for seed in chosen)
        elif jobs == 1:
            yield from map(work, chosen)
        else:
            with ProcessPoolExecutor(jobs) as pool:
                yield from pool.map(work, chosen, chunksize=BATCH)

    with Progress(console=Console(stderr=True), disable=verbose, transient=True) as progress:
        task = progress.add_task("seeds", total=seeds)
        for outcome in all_seeds():
            outcomes.append(outcome)
            progress.advance(task)
    failing = [
        {"seed": o.seed, "step": o.steps, "invariant": v.invariant, "detail": v.detail}
        for o in outcomes
        for v in o.violations
    ]
    minutes = (time.monotonic() - began_s) / 60
    summary = {
        "seeds": len(outcomes),
        "violations": len(failing),
        "crashes": sum(o.crashes for o in outcomes),
        "restored_backups": sum(o.restored for o in outcomes),
        "settlements": sum(o.settlements for o in outcomes),
        "channels_frozen": sum(o.frozen for o in outcomes),
        "seeds_per_minute": round(len(outcomes) / minutes),
        "failing": failing,
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        for key, value in summary.items():
            if key != "failing" and value is not None:
                click.echo(f"{key.replace('_', ' '):18} {value}")
        for fault in failing:
            click.echo("seed {seed}, step {step}: {invariant}: {detail}".format(**fault))
    if failing:
        raise click.exceptions.Exit(VERIFICATION_FAILED)
