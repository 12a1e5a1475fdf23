"""`candor study robustness`: what attacks cost honest agents, by aggregator and graph."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from candor.agent.cli.options import (
    AMOUNT,
    COUNT,
    data_root_option,
    json_option,
    run_dir_option,
    seed_option,
    settings_options,
)
from candor.agent.cli.progress import progress
from candor.agent.exits import INTERRUPTED
from candor.agent.reports.terminal import plain_table
from candor.agent.runs.cluster_parts import sections
from candor.topologies.specs.files import json_text, system_errors, write_text
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.runs.plan import Plan
    from candor.agent.studies.robustness.grid import Cell

AGGREGATORS: Final = (
    "mean",
    "median",
    "trimmed-mean",
    "meamed",
    "rfa",
    "krum",
    "multi-krum",
    "mda",
    "smea",
    "monna",
    "centred-clipping",
    "clipped-gossip",
    "caf",
    "cge",
    "bridge",
    "ubar",
    "sybilwall",
    "nnm + median",
    "nnm + trimmed-mean",
    "nnm + rfa",
    "nnm + mda",
    "arc + nnm + trimmed-mean",
)
HIDES: Final = "hidden:10"
ATTACKS: Final = (
    "none",
    "sign-flip",
    "flip-vector",
    "label-flip",
    "ipm:0.5",
    "ipm:auto",
    "alie",
    "alie:auto",
    "mimic",
    "infinity",
    "large-noise",
    "avg-zero",
    "colluding-difference",
    "dissensus",
    "in-diameter",
    HIDES,
)
SKETCH_SIZE: Final = 1024  # a model that is no longer than its sketch hides nothing
# Of the settings of a whole run here those that a grid has, with defaults of its own.
ASKED: Final = ("partition", "batch_size", "name", "step_size", "step_decay", "local_steps")
DEFAULTS: Final[Mapping[str, Any]] = {
    "partition": "dirichlet:1.0",
    "step_size": 0.2,
    "step_decay": 0.0,
    "local_steps": 4,
}


@click.command("robustness", context_settings={"default_map": DEFAULTS})
@click.option("--agents", type=click.IntRange(min=3), default=15, help="Number of agents.")
@click.option(
    "--topology",
    "topologies",
    multiple=True,
    default=("random-regular:degree=6",),
    metavar="SPEC",
    help="A graph; once for each.",
)
@click.option("--task", default="digits", metavar="NAME", help="digits, mnist, or any other task.")
@click.option(
    "--aggregator",
    "aggregators",
    multiple=True,
    metavar="SPEC",
    help="An aggregator; once for each.  [default: all, mean is plain mixing]",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="SPEC",
    help="What the attackers do; once for each, `none` for a run without.  [default: all]",
)
@click.option("--byzantine", type=COUNT, default=3, help="How many attack, drawn by the seed.")
@click.option(
    "--max-byzantine",
    type=click.IntRange(min=0),
    default=2,
    help="Attackers that an honest agent has as neighbours at most; aggregators withstand so many.",
)
@click.option("--rounds", type=COUNT, default=40, help="Rounds of each run.")
@settings_options(here=True, only=ASKED, own=DEFAULTS)
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, help="How many, from --seed on.")
@seed_option
@click.option(
    "--most",
    type=AMOUNT,
    default=0.05,
    help="What an aggregator may lose of the metric in its worst case, to be named.",
)
@click.option("--jobs", type=COUNT, default=1, help="Processes that run at the same time.")
@run_dir_option(
    "Where runs, results.json and report.html are kept; runs that are there are not run again.",
    default=Path("runs/robustness"),
)
@data_root_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    topologies: tuple[str, ...],
    aggregators: tuple[str, ...],
    attacks: tuple[str, ...],
    byzantine: int,
    seeds: int,
    most: float,
    jobs: int,
    run_dir: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Simulate every attack against every aggregator, and show what honest agents still learn.

    The worst attack of each aggregator is marked. An interrupted grid goes on when the same command
    is given again, and one with more seeds or attacks runs only these. Exit code 0: done; 2: bad
    configuration, such as an aggregator that cannot withstand so many on that graph; 130:
    interrupted.

    \b
    Examples:
      candor study robustness --jobs 2
      candor study robustness --task mnist --aggregator mean --aggregator "nnm + trimmed-mean" \\
          --attack none --attack alie:auto --seeds 3 --run-dir runs/mnist
    """
    from candor.agent.reports import charts
    from candor.agent.reports.metric import Metric
    from candor.agent.studies.robustness import report
    from candor.agent.studies.robustness.grid import cells_of, jobs_of, played  # imports torch

    charts.require()
    first = _plan(asked, topologies[0], asked["seed"])
    small = first.task.parameters <= SKETCH_SIZE
    aggregators = aggregators or AGGREGATORS
    attacks = attacks or tuple(one for one in ATTACKS if not (small and one == HIDES))
    _check_attacks(attacks)
    with system_errors(f"--run-dir {run_dir}"):
        (run_dir / "runs").mkdir(parents=True, exist_ok=True)
    chosen = range(asked["seed"], asked["seed"] + seeds)
    grid = jobs_of(
        lambda topology, seed: _plan(asked, topology, seed),
        topologies,
        aggregators,
        attacks,
        chosen,
        byzantine,
        run_dir / "runs",
    )
    try:
        with system_errors(f"--run-dir {run_dir}"), progress(Console(stderr=True)) as told:
            cells = cells_of(played(grid, jobs, told))
    except KeyboardInterrupt:
        click.echo("candor: interrupted; the same command goes on", err=True)
        context.exit(INTERRUPTED)
    setting = {
        name.replace("_", " "): asked[name]
        for name in ("task", "agents", "partition", "max_byzantine", "rounds")
    } | {"byzantine": byzantine, "seeds": seeds}
    metric = Metric.of({"metric": first.task.metric_name, "better": first.task.better_values})
    found = json_text(report.facts(cells, setting, most), indent=2)
    write_text(run_dir / "results.json", found + "\n")
    write_text(run_dir / "report.html", report.render(cells, setting, metric, most))
    if as_json:
        click.echo(found)
    else:
        _print(cells, metric, most)
        click.echo(f"report: {run_dir / 'report.html'}")


def _plan(asked: Mapping[str, Any], topology: str, seed: int) -> "Plan":
    """The run of a graph and a seed in which all are honest."""
    from candor.agent.runs.plan import Plan

    others: dict[str, Any] = {"rule": "none", "sketch_size": SKETCH_SIZE, "initial": None}
    parts = sections({**asked, **others, "seed": seed})
    return Plan(
        topology,
        asked["agents"],
        None,
        seed,
        strategies={},
        evaluate_every=asked["rounds"],
        data_root=asked["data_root"],
        **parts,
    )


def _check_attacks(attacks: tuple[str, ...]) -> None:
    from candor.agent.studies.robustness.grid import NONE
    from candor.mechanisms.strategies.specs import parse_strategy

    for attack in attacks:
        if attack != NONE:
            parse_strategy(attack)
    if set(attacks) <= {NONE}:
        raise ConfigurationError("there is nothing to withstand: give an --attack")


def _print(cells: "list[Cell]", metric: Any, most: float) -> None:
    from candor.agent.studies.robustness import report
    from candor.agent.studies.robustness.grid import verdicts_of

    console = Console()
    for topology in dict.fromkeys(cell.topology for cell in cells):
        of = [cell for cell in cells if cell.topology == topology]
        verdicts = verdicts_of(of)
        title = f"{topology}: {metric.name} of honest agents, * marks an aggregator's worst attack"
        columns, rows = report.grid_rows(of)
        console.print(plain_table(title, columns, rows, "Mean over honest agents and seeds."))
        title = f"{topology}: what the worst attack costs"
        caption = report.LOSES
        rows = report.summary_rows(verdicts, metric, most)
        console.print(plain_table(title, report.SUMMARY, rows, caption))
        for line in report.sentences(verdicts, most):
            click.echo(line)
        if names := report.collapsed(of, "mean", most):
            click.echo(f"plain mixing collapses under {len(names)}: {', '.join(names)}")
