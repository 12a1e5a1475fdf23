"""`candor study honesty`: audits on tasks, graphs and shards that no price was chosen on."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from candor.agent.cli.options import (
    COUNT,
    FiniteRange,
    data_root_option,
    json_option,
    run_dir_option,
    seed_option,
)
from candor.agent.cli.progress import progress
from candor.agent.exits import INTERRUPTED
from candor.agent.reports.terminal import plain_table
from candor.topologies.specs.files import json_text, system_errors, write_text
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.studies.honesty.cells import Cell
    from candor.agent.studies.honesty.table import Moved, Row

TASKS: Final = ("digits", "digits-mlp", "a9a", "breast-cancer", "fashion-mnist", "mnist")
GRAPHS: Final = ("ring", "random", "caterpillar", "karate", "bipartite")
QUICK: Final = {"tasks": ("breast-cancer",), "graphs": ("caterpillar",)}
QUICK_ROUNDS: Final = 32
QUICK_LIES: Final = ("scale:4", "zero")


@click.command("honesty")
@click.option(
    "--task",
    "tasks",
    type=click.Choice(TASKS),
    multiple=True,
    help="Linear models but for digits-mlp; once for each.  [default: all but digits-mlp]",
)
@click.option(
    "--graph",
    "graphs",
    type=click.Choice(GRAPHS),
    multiple=True,
    help="Once for each.  [default: all]",
)
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="SPEC",
    help="Who has which samples; once for each. Prices of the first are judged on the others, "
    "too.  [default: dirichlet:alpha=0.5,min=2]",
)
@click.option("--seeds", type=COUNT, default=5, help="How many, from --seed on.")
@seed_option
@click.option(
    "--other-seeds",
    is_flag=True,
    help="Judge prices on as many seeds that they were not fitted to, too.",
)
@click.option(
    "--strategies",
    "names",
    help="Which lies, separated by commas (docs/payments.md).  [default: ten of all kinds]",
)
@click.option("--search/--no-search", default=False, help="Let an optimiser look for better lies.")
@click.option(
    "--influence",
    type=FiniteRange(min=1, max=1e6),
    metavar="C",
    help="Judge every cell with such a bound on what an agent injects, too; twice the runs.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="One cell, two lies, two seeds and some rounds: does it work?",
)
@click.option("--jobs", type=COUNT, default=1, help="Processes that run at the same time.")
@run_dir_option(
    "Where runs, results.json and report.html are kept; runs that are there are not run again.",
    default=Path("runs/honesty"),
)
@data_root_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    tasks: tuple[str, ...],
    graphs: tuple[str, ...],
    partitions: tuple[str, ...],
    seeds: int,
    seed: int,
    other_seeds: bool,
    names: str | None,
    search: bool,
    influence: float | None,
    quick: bool,
    jobs: int,
    run_dir: Path,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Audit lies on every task and graph: what the best gains, free, by the default rule, at prices
    fitted to the cell, and at the least bond where rounds are done again; and what honest agents
    pay.

    Cells whose data are not there, or whose shards cannot be drawn, are left out and named. An
    interrupted table goes on when the same command is given again, and one of more cells runs only
    these. docs/howto/honesty.md has what came out. Exit code 0: done; 2: bad usage, or no cell
    could be run; 130: interrupted.

    \b
    Examples:
      candor study honesty --quick
      candor study honesty --task digits --task a9a --graph karate --jobs 2
      candor study honesty --partition dirichlet:0.5 --partition dirichlet:0.1 --other-seeds
    """
    from candor.agent.reports import charts
    from candor.agent.studies.honesty import report
    from candor.agent.studies.honesty.cells import PARTITION  # imports torch
    from candor.agent.studies.honesty.table import LIES, judged, moved, row_of
    from candor.mechanisms.strategies.specs import split_list
    from candor.topologies.cluster.file import DEFAULT_RULE

    charts.require()
    rounds = None
    lies = tuple(split_list(names)) if names is not None else LIES
    if quick:
        tasks, graphs, rounds = tasks or QUICK["tasks"], graphs or QUICK["graphs"], QUICK_ROUNDS
        seeds, lies = min(seeds, 2), lies if names else QUICK_LIES
    parted = partitions or (PARTITION,)
    cells = _cells(tasks or _all_tasks(), graphs or GRAPHS, parted, seed)
    if other_seeds:
        cells += _cells(tasks or _all_tasks(), graphs or GRAPHS, parted[:1], seed + seeds)
    with system_errors(f"--run-dir {run_dir}"):
        (run_dir / "runs").mkdir(parents=True, exist_ok=True)
    try:
        with system_errors(f"--run-dir {run_dir}"), progress(Console(stderr=True)) as told:
            verdicts, bounded, left = judged(
                cells,
                seeds=seeds,
                runs=run_dir / "runs",
                lies=lies,
                search=search,
                influence=influence,
                rounds=rounds,
                data_root=data_root,
                jobs=jobs,
                progress=told,
            )
    except KeyboardInterrupt:
        click.echo("candor: interrupted; the same command goes on", err=True)
        context.exit(INTERRUPTED)
    for cell, why in left.items():
        click.echo(f"candor: left out: {cell.name}: {why}", err=True)
    if not verdicts:
        raise ConfigurationError("no cell could be run")
    rows = [
        row_of(cell, verdict, DEFAULT_RULE, bounded.get(cell), influence or 0.0)
        for cell, verdict in verdicts.items()
    ]
    moves = moved(verdicts)
    setting = {
        "rule": DEFAULT_RULE,
        "seeds": seeds,
        "lies": len(lies),
        "search": "on" if search else "off",
        **({"influence": influence} if influence is not None else {}),
    }
    found = json_text(report.facts(rows, moves, left, setting), indent=2)
    write_text(run_dir / "results.json", found + "\n")
    write_text(run_dir / "report.html", report.render(rows, moves, left, setting))
    if as_json:
        click.echo(found)
    else:
        _print(rows, moves)
        click.echo(f"report: {run_dir / 'report.html'}")


def _all_tasks() -> tuple[str, ...]:
    return tuple(task for task in TASKS if task != "digits-mlp")


def _cells(
    tasks: tuple[str, ...], graphs: tuple[str, ...], partitions: tuple[str, ...], seed: int
) -> "list[Cell]":
    """All of one table; raises ConfigurationError for a partition that there is not."""
    from candor.agent.studies.honesty.cells import Cell
    from candor.agent.tasks.partition import check_partition

    for partition in partitions:
        check_partition(partition)
    grid = product(dict.fromkeys(partitions), dict.fromkeys(tasks), dict.fromkeys(graphs))
    return [Cell(task, graph, partition, seed) for partition, task, graph in grid]


def _print(rows: "list[Row]", moves: "list[Moved]") -> None:
    from candor.agent.studies.honesty import report

    console = Console()

    def shown(title: str, columns: Any, lines: Any, note: str) -> None:
        console.print(plain_table(title, columns, lines, note))

    for partition, some in report.by_partition(rows).items():
        lies = report.lie_columns(some), report.lie_rows(some)
        shown(f"{partition}: lies", *lies, report.lies_note(some))
        paid = report.honest_rows(some)
        shown(f"{partition}: honest agents", report.HONEST, paid, report.HONEST_NOTE)
        for line in report.sentences(some):
            click.echo(line)
    if moves:
        title = "prices on other shards and seeds"
        shown(title, report.MOVED, report.moved_rows(moves), report.MOVED_NOTE)
