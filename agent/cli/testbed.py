"""`candor testbed`: N real daemons on this machine, a live table, then the summary."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from candor.agent.cli.options import json_option
from candor.agent.cli.plan import default_run_dir, plan_of, plan_options, run_dir_option
from candor.agent.daemon.status import Status
from candor.agent.exits import FAILED, INTERRUPTED, VERIFICATION_FAILED
from candor.agent.reports.terminal import live_table, summary_view
from candor.agent.testbed import testbed

PROGRESS_S: Final = 5.0


@click.command("testbed")
@plan_options(required=True)
@click.option(
    "--faults",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="TOML [[event]]s: at_round or at_s, and kill, restart, stop, continue or slow = ID.",
)
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Measure the test metric every this many rounds; 0 only at the end.",
)
@run_dir_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    faults: Path | None,
    evaluate_every: int,
    run_dir: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run N daemons on this machine: real processes, real sockets, real ledgers.

    Ctrl-C stops them all. Exit code 0: all agents finished and the ledgers pass the audit; 1: an
    agent failed; 2: bad configuration; 3: the audit found a violation; 130: interrupted.

    \b
    Example:
      candor testbed --agents 8 --topology ring --task digits --rounds 60 \\
          --strategy a3=scale:3 --run-dir runs/first
    """
    plan = plan_of(asked, evaluate_every or asked["rounds"], faults)
    bed = testbed.prepare(plan, run_dir or default_run_dir(plan))
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
    from candor.agent.reports.run_page import write_report
    from candor.agent.runs.summary import summarise, write_summary

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
        return VERIFICATION_FAILED
    return FAILED if bed.failed() else 0
