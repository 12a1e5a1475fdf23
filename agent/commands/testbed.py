"""`candor testbed`: N real daemons on this machine, a live table, then the summary."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from agent.compose import check_partition, check_rule, task_settings
from agent.display import live_table, summary_view
from agent.options import (
    data_root_option,
    initial_option,
    json_option,
    mixing_option,
    section,
    settings_options,
)
from agent.runtimes import testbed
from agent.status import Status
from topologies.cluster import AlgorithmSettings, PaymentSettings, RoundSettings
from topologies.specs import ConfigurationError

FAILED: Final = 1
VIOLATED: Final = 3
INTERRUPTED: Final = 130
PROGRESS_S: Final = 5.0


@click.command("testbed")
@click.option("--agents", type=click.IntRange(min=1), help="Number of agents.")
@click.option(
    "--topology",
    required=True,
    metavar="SPEC|FILE",
    help="A family such as ring, a schedule such as one-peer-exponential, or a file.",
)
@click.option(
    "--task",
    required=True,
    metavar="NAME",
    help="digits, a9a, mnist, fashion-mnist, femnist, or your own module:Class.",
)
@click.option("--rounds", required=True, type=click.IntRange(min=1), help="Rounds to train.")
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="ID=SPEC",
    help="How an agent deviates, such as a3=scale:3 (docs/payments.md); the others are honest.",
)
@click.option(
    "--faults",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="TOML [[event]]s: at_round or at_s, and kill, restart, stop, continue or slow = ID.",
)
@mixing_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the run."
)
@settings_options(partition="dirichlet:0.5")
@initial_option
@data_root_option
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Measure the test metric every this many rounds; 0 only at the end.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept; must be new or empty.  [default: runs/TASK-TOPOLOGY-TIME]",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    agents: int | None,
    topology: str,
    task: str,
    rounds: int,
    strategies: tuple[str, ...],
    faults: Path | None,
    mixing_name: str | None,
    seed: int,
    initial: Path | None,
    data_root: Path | None,
    evaluate_every: int,
    run_dir: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run N daemons on this machine: real processes, real sockets, real ledgers.

    Ctrl-C stops them all. Exit code 0: all agents finished and the ledgers pass the audit; 1: an
    agent failed; 2: bad configuration; 3: the audit found a violation; 130: interrupted.

    \b
    Example:
      candor testbed --agents 8 --topology ring --task digits --rounds 60 \\
          --strategy a3=scale:3 --run-dir runs/first
    """
    deviating = dict(_assignment(text) for text in strategies)
    check_rule(settings["rule"])
    check_partition(settings["partition"])
    plan = testbed.Plan(
        topology=topology,
        agents=agents,
        mixing=mixing_name,
        seed=seed,
        task=task_settings(
            task,
            seed,
            data_root,
            partition=settings["partition"],
            batch_size=settings["batch_size"],
            initial=initial,
        ),
        algorithm=section(AlgorithmSettings, settings, "algorithm"),
        rounds=section(RoundSettings, {**settings, "rounds": rounds}, "rounds"),
        payments=section(PaymentSettings, settings, "payments"),
        strategies=deviating,
        evaluate_every=evaluate_every or rounds,
        data_root=data_root,
        initial=initial,
        faults=faults,
    )
    bed = testbed.prepare(plan, run_dir or _default_run_dir(task, topology))
    console = Console(stderr=as_json)
    began = time.monotonic()
    try:
        with testbed.stopping_on_signals(bed), _showing(console, bed) as show:
            bed.start()
            testbed.watch(bed, show)
    except KeyboardInterrupt:
        click.echo(f"candor: interrupted; what there is lies in {bed.run_dir}", err=True)
        context.exit(INTERRUPTED)
    context.exit(_conclude(console, bed, time.monotonic() - began, as_json))


def _assignment(text: str) -> tuple[str, str]:
    agent, equals, spec = text.partition("=")
    if not (agent and equals and spec):
        raise ConfigurationError(f"--strategy {text!r}: write ID=SPEC, such as a3=scale:3")
    from mechanisms.strategy_specs import parse_strategy

    parse_strategy(spec, simulated=False)
    return agent, spec


def _default_run_dir(task: str, topology: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    words = (Path(word).stem.partition(":")[0] for word in (task, topology))
    name = "-".join((*words, stamp))
    path = Path("runs") / name
    others = (path.with_name(f"{name}-{number}") for number in count(2))
    return next(other for other in chain((path,), others) if not other.exists())


@contextmanager
def _showing(
    console: Console, bed: testbed.Testbed
) -> Iterator[Callable[[Sequence[Status]], None]]:
    """A live table on a terminal; elsewhere a line now and then."""
    title = f"{bed.cluster.run_id}: {len(bed.cluster.ids)} agents, {bed.cluster.graph.topology}"
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=False) as live:
            yield lambda statuses: live.update(live_table(statuses, title))
        return
    told_s = time.monotonic()
    console.print(f"{title}; starting the daemons", highlight=False)

    def tell(statuses: Sequence[Status]) -> None:
        nonlocal told_s
        if statuses and time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            rounds = [status.round for status in statuses]
            console.print(
                f"rounds {min(rounds)} to {max(rounds)} of {statuses[0].rounds}", highlight=False
            )

    yield tell


def _conclude(console: Console, bed: testbed.Testbed, seconds: float, as_json: bool) -> int:
    from agent.report import write_report
    from agent.runtimes.summary import summarise, write_summary

    plan = bed.plan
    tell = partial(console.print, style="dim", highlight=False)
    tell("training one model on all data, and every agent alone, to compare…")
    bed.export_for_the_dead()
    summary = summarise(
        bed.run_dir,
        bed.cluster,
        bed.statuses,
        plan.strategies,
        plan.data_root,
        plan.initial,
        seconds,
    )
    write_summary(bed.run_dir, summary)
    tell("drawing the report…")
    write_report(bed.run_dir)
    if as_json:
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        console.print(summary_view(summary, bed.run_dir))
    for agent, code in bed.failed().items():
        click.echo(f"candor: error: {agent} ended with {code}: {bed.complaint(agent)}", err=True)
    if summary["audit"] != "ok":
        return VIOLATED
    return FAILED if bed.failed() else 0
