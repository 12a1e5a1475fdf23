"""`candor testbed`: N real daemons on this machine, a live table, then the summary."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from candor.agent.cli.options import (
    answer_alone,
    device_option,
    json_option,
    log_format_option,
    participation_option,
)
from candor.agent.cli.plan import (
    check_length,
    conclude,
    default_run_dir,
    new_run_dir_option,
    plan_of,
    plan_options,
)
from candor.agent.cli.progress import now_and_then
from candor.agent.daemon.journal import Format
from candor.agent.daemon.participation import absence, parts_of
from candor.agent.daemon.status import Status
from candor.agent.exits import ABSENT, FAILED, INTERRUPTED, VERIFICATION_FAILED
from candor.agent.reports.terminal import live_table
from candor.agent.runs.fault_log import Happened
from candor.agent.testbed import testbed
from candor.agent.testbed.fault_file import ACTIONS


@click.command("testbed")
@plan_options(required=True)
@click.option(
    "--faults",
    metavar="FILE|SPEC",
    help="What is done to which agents, and when: TOML [[event]]s with at_round or at_s and one of "
    f"{', '.join(ACTIONS)}; or drawn, such as random:seed=7,events=12,kinds=kill+partition "
    "(docs/run-directory.md).",
)
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    default=1,
    help="Measure the test metric every this many rounds; 0 only at the end.",
)
@log_format_option
@participation_option
@new_run_dir_option
@device_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    faults: str | None,
    evaluate_every: int,
    required_share: float | None,
    run_dir: Path | None,
    device: str,
    log_format: Format,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run N daemons on this machine: real processes, real sockets, real ledgers.

    Ctrl-C stops them all. Exit code 0: all agents finished and the ledgers pass the audit; 1: an
    agent failed; 2: bad configuration; 3: the audit found a violation; 5: all is well, but some
    agent took part in fewer rounds than --require-participation asks for; 130: interrupted.

    \b
    Example:
      candor testbed --agents 8 --topology ring --task digits --rounds 60 \\
          --strategy a3=scale:3 --run-dir runs/first
    """
    check_length(context, asked)
    with answer_alone(as_json):
        plan = plan_of(asked, evaluate_every, faults)
        asked_for = replace(plan, device=device)
        place = run_dir or default_run_dir(asked_for.task.name, asked_for.topology)
        bed = testbed.prepare(asked_for, place)
        bed.log_format = log_format
    console = Console(stderr=as_json)
    began = time.monotonic()
    try:
        with testbed.stopping_on_signals(bed), _showing(console, bed) as show:
            bed.start()
            testbed.watch(bed, show, partial(_tell, console))
    except KeyboardInterrupt:
        click.echo(f"candor: interrupted; what there is lies in {bed.run_dir}", err=True)
        context.exit(INTERRUPTED)
    seconds = time.monotonic() - began
    context.exit(_conclude(console, bed, seconds, required_share, as_json))


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
    console.print(f"{title}; starting the daemons", highlight=False)
    say = now_and_then(console)

    def tell(statuses: Sequence[Status]) -> None:
        if statuses:
            rounds = [status.round for status in statuses]
            say(f"rounds {min(rounds)} to {max(rounds)} of {statuses[0].rounds}")

    yield tell


def _tell(console: Console, happened: Happened) -> None:
    """A line on what the fault plan did."""
    line = f"{happened.seconds:.1f} s, round {happened.round}: {happened.detail}"
    console.print(line, highlight=False, markup=False)


def _conclude(
    console: Console,
    bed: testbed.Testbed,
    seconds: float,
    required_share: float | None,
    as_json: bool,
) -> int:
    from candor.agent.runs.summary import summarise, write_summary

    plan = bed.plan

    def summary() -> dict[str, Any]:
        bed.export_for_the_dead()
        found = summarise(
            bed.run_dir,
            bed.cluster,
            bed.statuses,
            plan.strategies,
            plan.data_root,
            plan.initial,
            seconds,
            plan.byzantine,
        )
        found["device"] = plan.device
        write_summary(bed.run_dir, found)
        return found

    found = conclude(console, bed.run_dir, summary, as_json)
    for told in bed.never_due():
        click.echo(f"candor: the run ended before {told}", err=True)
    for agent, code in bed.failed().items():
        click.echo(f"candor: error: {agent} ended with {code}: {bed.complaint(agent)}", err=True)
    if bed.left_to_nobody():
        click.echo("candor: error: the fault plan has left nobody to finish the run", err=True)
    absent = absence(parts_of(found["participation"]), required_share)
    if absent:
        click.echo(f"candor: error: {absent}", err=True)
    if found["audit"] != "ok":
        return VERIFICATION_FAILED
    if bed.failed() or bed.left_to_nobody():
        return FAILED
    return ABSENT if absent else 0
