"""`candor simulate`: thousands of agents in one process, resumable; then summary and report."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from click.core import ParameterSource
from rich.console import Console

from candor.agent.cli.options import answer_alone, device_option, json_option
from candor.agent.cli.plan import (
    check_length,
    conclude,
    default_run_dir,
    new_run_dir_option,
    plan_of,
    plan_options,
)
from candor.agent.cli.progress import progress
from candor.agent.daemon.status import DataDirLock
from candor.agent.exits import INTERRUPTED
from candor.topologies.specs.files import private_files

NEEDED: Final = ("topology", "task")
WITH_RESUME: Final = ("resume", "device", "as_json")


@click.command("simulate")
@plan_options(required=False)
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=0),
    help="Measure the test metric every this many rounds; 0 only at the end.  [default: a "
    "twentieth of the rounds]",
)
@new_run_dir_option
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="RUN_DIR",
    help="Go on with an interrupted simulation; its settings are in there.",
)
@device_option
@json_option
@click.pass_context
@private_files()
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
    code 0: done; 1: training diverged; 2: bad configuration; 130: interrupted.

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
    with _interruptible() as asked_to_end, answer_alone(as_json):
        if resume is not None:
            run = simulated_run.resume(resume, device)
        else:
            plan = plan_of(asked, evaluate_every, simulated=True)
            place = run_dir or default_run_dir(plan.task.name, plan.topology)
            run = simulated_run.start(plan, place, device)
        context.with_resource(DataDirLock(run.run_dir))
        cluster = run.cluster
        title = f"{cluster.run_id}: {len(cluster.ids)} agents, {cluster.graph.topology}, rounds"
        with progress(console) as told:
            told(title, run.round, run.rounds)
            while not run.done and not asked_to_end():
                run.advance()
                told(title + run.told_return, run.round, run.rounds)
            if not run.done:
                run.save()
    interrupted = not run.done
    if run.done:
        try:
            conclude(console, run.run_dir, run.conclude, as_json)
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
        check_length(context, context.params)
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
