"""`candor audit`: does any lie pay, on this task, graph and rule, and at which price none does."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from candor.agent.cli.options import FiniteRange, json_option
from candor.agent.cli.plan import plan_of, plan_options
from candor.agent.exits import FAILED, INTERRUPTED
from candor.topologies.specs.files import system_errors
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.studies.audit.verdicts import Verdict
    from candor.topologies.cluster.file import Cluster

RUNS_NAME: Final = "runs"
PRICE_MAX: Final = 1e12


@click.command("audit")
@plan_options(required=True, lies=False)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="How many, from --seed on: each is run honestly and with every strategy.",
)
@click.option("--agent", help="Who deviates.  [default: the first one]")
@click.option(
    "--strategies",
    "names",
    help="Which, separated by commas (docs/audit.md).  [default: a library of all kinds]",
)
@click.option(
    "--search/--no-search",
    default=True,
    show_default=True,
    help="Let an optimiser look for a better lie at the prices found.",
)
@click.option(
    "--price",
    default="auto",
    show_default=True,
    metavar="auto|NUMBER",
    help="auto: the prices of the rule's terms that stop lies and cost honest agents the least, "
    "see docs/audit.md; or a factor on the rule's own.",
)
@click.option(
    "--competition",
    type=FiniteRange(min=0),
    default=0.0,
    show_default=True,
    help="Weight of the others' losses in the reward; 0 for who minds its own model.",
)
@click.option(
    "--epsilon",
    type=FiniteRange(min=0),
    default=0.01,
    show_default=True,
    help="Gains up to this share of the honest reward are let pass.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes.  [default: as many as there are cores]"
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where runs, audit.json and report.html are kept; runs that are there are not run again.  "
    "[default: runs/audit-TASK-TIME]",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    seeds: int,
    agent: str | None,
    names: str | None,
    search: bool,
    price: str,
    competition: float,
    epsilon: float,
    jobs: int | None,
    run_dir: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Simulate honest and lying runs on the same seeds, and say whether any lie pays.

    A gain is the loss on its own samples that the liar saves itself, in per cent of what honest
    training saves it; a credit is worth one unit of loss. Columns: "free" what a strategy gains
    without payments, "paid" what is left after them. Exit code 0: no strategy gains more than
    epsilon at the prices; 1: one does (named); 2: bad usage. docs/audit.md says how it is judged.

    \b
    Example:
      candor audit --agents 10 --topology erdos-renyi:p=0.4 --task digits \\
          --rounds 160 --local-steps 1 --step-size 0.1 --step-decay 0
    """
    from candor.agent.runs.placeholder_agents import stand_in_entries
    from candor.agent.runs.plan import cluster_of
    from candor.agent.studies.audit import report as audit_report
    from candor.agent.studies.audit.runs import Question  # imports torch
    from candor.agent.studies.audit.verdicts import audit, library
    from candor.mechanisms.payments.bills import parse_rule
    from candor.mechanisms.strategies.specs import canonical_strategy, parse_strategy, split_list

    factor = None if price == "auto" else _number(price)
    first = asked["seed"]
    plans = [
        plan_of({**asked, "seed": first + i, "strategies": ()}, 0, simulated=True)
        for i in range(seeds)
    ]
    clusters = [cluster_of(plan, Path("audit"), stand_in_entries) for plan in plans]
    if clusters[0].payments.rule == "none":
        raise ConfigurationError(
            "--rule none has no prices to audit; leave it out, with --price 0 for free gains alone"
        )
    if factor is not None:
        highest = factor * max(t.price for t in parse_rule(clusters[0].payments.rule).terms)
        if highest > PRICE_MAX:
            raise ConfigurationError(
                f"--price {price}: makes a price of {highest:.3g} credits; at most {PRICE_MAX:.0e}"
            )
    if len(clusters[0].ids) < 2:
        raise ConfigurationError("--agents: who is alone has nobody to lie to; give two or more")
    liar = agent or clusters[0].ids[0]
    if liar not in clusters[0].ids:
        raise ConfigurationError(f"--agent {liar}: no such agent")
    data_root = asked["data_root"]
    chosen = library(clusters[0], data_root) if names is None else split_list(names)
    for spec in chosen:
        parse_strategy(spec, simulated=True)
    chosen = [spec for spec in map(canonical_strategy, chosen) if spec != "honest"]
    if not chosen:
        raise ConfigurationError("--strategies: there is nothing to judge but honesty")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    place = run_dir or Path("runs") / f"audit-{plans[0].task.name.partition(':')[0]}-{stamp}"
    cache = _prepared(place)
    question = Question(clusters, liar, competition, epsilon, factor, data_root, plans[0].initial)
    try:
        with _no_answer(place), _progress() as told:
            verdict = audit(
                question,
                chosen,
                cache=cache,
                search=search,
                jobs=jobs or os.cpu_count() or 1,
                progress=told,
            )
    except KeyboardInterrupt:
        click.echo(f"candor: interrupted; the same with --run-dir {place} goes on", err=True)
        context.exit(INTERRUPTED)
    kept = _settings(clusters, asked["topology"], competition, price)
    with _no_answer(place):
        found, report = audit_report.write(verdict, kept, place)
    if as_json:
        click.echo(found)
    else:
        _print(verdict)
        click.echo(f"report: {report}")
    profitable = verdict.profitable()
    if profitable:
        click.echo(f"candor: a lie pays: {', '.join(profitable)}", err=True)
        context.exit(FAILED)


def _settings(
    clusters: Sequence["Cluster"], topology: str, competition: float, price: str
) -> dict[str, object]:
    """What was audited, as the report and audit.json have it."""
    one = clusters[0]
    return {
        "task": one.task.name,
        "agents": len(one.ids),
        "topology": topology,
        "mixing": one.graph.mixing,
        "partition": one.task.partition,
        "batch_size": one.task.batch_size,
        "algorithm": one.algorithm.name,
        **one.algorithm.model_dump(exclude={"name"}),
        "rounds": one.rounds.rounds,
        "window": one.payments.window,
        "first_seed": one.seed,
        "seeds": len(clusters),
        "competition": competition,
        "price": price,
    }


def _print(verdict: "Verdict") -> None:
    from candor.agent.studies.audit.report import (
        flattening,
        intervals,
        middle,
        percent,
        reach,
        sentences,
    )

    half_way = verdict.marks[middle(verdict)]
    shown = Table(
        title=f"{verdict.agent} lies: gains, per cent of the honest reward",
        box=None,
        padding=(0, 1),
    )
    shown.add_column("strategy", min_width=18, overflow="fold")
    for column in ("free", "95 %", "paid", "95 %", f"free, t={half_way}", "then"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in verdict.judged:
        free, net = intervals(verdict, one)
        half, late = flattening(verdict, one)
        shown.add_row(
            one.strategy + (" (search)" if one.searched else ""),
            percent(free.mean),
            reach(free),
            percent(net.mean),
            reach(net),
            percent(half),
            percent(late),
        )
    Console().print(shown)
    for line in sentences(verdict):
        click.echo(line)


def _prepared(run_dir: Path) -> Path:
    """The folder of finished runs; whatever else is there must be an audit's."""
    runs = run_dir / RUNS_NAME
    with system_errors(f"--run-dir {run_dir}"):
        if run_dir.exists() and any(run_dir.iterdir()) and not runs.is_dir():
            raise ConfigurationError(f"--run-dir {run_dir}: is not empty, and no audit's")
        runs.mkdir(parents=True, exist_ok=True)
    return runs


@contextmanager
def _no_answer(run_dir: Path) -> Iterator[None]:
    """Let what goes wrong end with exit code 2: 1 says that a lie pays."""
    try:
        with system_errors(f"--run-dir {run_dir}"):
            yield
    except BrokenProcessPool as exc:
        raise ConfigurationError(
            f"a process of the audit died, maybe for want of memory; with fewer --jobs and "
            f"--run-dir {run_dir} it goes on"
        ) from exc


@contextmanager
def _progress() -> Iterator[Any]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=of)

        yield told


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"--price {text!r}: write auto, or a number from 0 on")
    return value
