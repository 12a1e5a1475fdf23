"""`candor simulate`: thousands of agents in one process, resumable; then summary and report."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from candor.agent.cli.options import json_option
from candor.agent.cli.plan import default_run_dir, plan_of, plan_options, run_dir_option
from candor.agent.exits import INTERRUPTED
from candor.agent.reports.terminal import summary_view

if TYPE_CHECKING:
    from candor.agent.simulation.run import SimulatedRun

PROGRESS_S: Final = 5.0
NEEDED: Final = ("topology", "task", "rounds")
WITH_RESUME: Final = ("resume", "device", "as_json")


@click.command("simulate")
@plan_options(required=False)
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    help="Measure the test metric every this many rounds; 0 only at the end.  [default: a "
    "twentieth of the rounds]",
)
@run_dir_option
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="RUN_DIR",
    help="Go on with an interrupted simulation; its settings are in there.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the models are trained.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    evaluate_every: int | None,
    run_dir: Path | None,
    resume: Path | None,
    device: str,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run N agents as rows of one process: the models and payments of daemons, without any.

    Everybody hears all neighbours in every round; there are no faults, deadlines or ledgers. State
    is saved once a minute and at Ctrl-C, and --resume goes on from it to the very same end. Exit
    code 0: done; 2: bad configuration, or the run diverged beyond billing; 130: interrupted.

    \b
    Examples:
      candor simulate --agents 1000 --topology random-regular:degree=4 --task digits \\
          --partition iid --rounds 200 --strategy a3=scale:3 --run-dir runs/thousand
      candor simulate --resume runs/thousand
    """
    _check_usage(context, resume)
    from candor.agent.simulation import run as simulated_run  # imports torch
    from candor.network.memory import keep_freed_memory

    keep_freed_memory(all_of_it=True)
    console = Console(stderr=as_json)
    with _interruptible() as asked_to_end:
        if resume is not None:
            run = simulated_run.resume(resume, device)
        else:
            every = simulated_run.default_interval(asked["rounds"])
            chosen = every if evaluate_every is None else evaluate_every or asked["rounds"]
            plan = plan_of(asked, chosen, simulated=True)
            run = simulated_run.start(plan, run_dir or default_run_dir(plan), device)
        with _showing(console, run) as show:
            while not run.done and not asked_to_end():
                run.advance()
                show()
            if not run.done:
                run.save()
    interrupted = not run.done
    if run.done:
        try:
            _conclude(console, run, as_json)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        click.echo(f"candor: interrupted; candor simulate --resume {run.run_dir} goes on", err=True)
        context.exit(INTERRUPTED)


def _check_usage(context: click.Context, resume: Path | None) -> None:
    """Either a whole new run is described, or one to go on with is named."""
    if resume is None:
        missing = [name for name in NEEDED if context.params[name] is None]
        if missing:
            raise click.UsageError(
                f"Missing option '--{missing[0]}', or --resume RUN_DIR.", context
            )
        return
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if given and parameter.name not in WITH_RESUME:
            raise click.UsageError(
                f"{parameter.opts[0]} does not go with --resume: the run keeps its settings.",
                context,
            )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run after the round under way; a second one at once."""
    asked = False

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _showing(console: Console, run: "SimulatedRun") -> Iterator[Callable[[], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    agents = len(run.cluster.ids)
    title = f"{run.cluster.run_id}: {agents} agents, {run.cluster.graph.topology}"
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(title, total=run.rounds, completed=run.round)
            yield lambda: progress.update(bar, completed=run.round)
        return
    told_s = time.monotonic()
    where = f" from round {run.round + 1}" if run.round else ""
    console.print(f"{title}; {run.rounds} rounds{where}", highlight=False)

    def tell() -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            console.print(f"round {run.round} of {run.rounds}", highlight=False)

    yield tell


def _conclude(console: Console, run: "SimulatedRun", as_json: bool) -> None:
    from candor.agent.reports.run_page import write_report

    tell = partial(console.print, style="dim", highlight=False)
    tell("training one model on all data, and agents alone, to compare…")
    summary = run.conclude()
    tell("drawing the report…")
    write_report(run.run_dir)
    if as_json:
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        console.print(summary_view(summary, run.run_dir))
