"""`candor study fairness`: rewards of a server by contribution, the paper's figures beside ours."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console

from candor.agent.cli.options import (
    COUNT,
    SEED,
    data_root_option,
    device_option,
    json_option,
    run_dir_option,
)
from candor.agent.cli.progress import progress
from candor.agent.exits import FAILED
from candor.agent.reports.terminal import plain_table
from candor.mechanisms.strategies.specs import split_list
from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.studies.fairness.figures import Cell, Runs

AGENTS: Final = {"mr": 5, "sst": 5}
AGENTS_ELSEWHERE: Final = 10
PARTITIONS: Final = ("uni", "pow", "cla")
QUICK: Final = "digits"
QUICK_ROUNDS: Final = 10


@click.command("fairness")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=("mnist",),
    metavar="NAME",
    help="mnist, cifar10, mr, sst or digits, which is not the paper's; once for each.",
)
@click.option(
    "--partition",
    "partitions",
    type=click.Choice(PARTITIONS),
    multiple=True,
    help="Equal shards, sizes by a power law, or ever more classes; once for each.  [default: all, "
    "of texts pow]",
)
@click.option(
    "--agents",
    type=click.IntRange(min=2),
    help=f"How many.  [default: {AGENTS_ELSEWHERE}; {AGENTS['mr']} of mr and sst]",
)
@click.option(
    "--methods",
    metavar="NAME,…",
    help="Of standalone, fedavg, qffl, cffl, eci, dw, rr, eu, cgsv, rffl; some take options, as "
    "cgsv:beta=1.5,mask=global.  [default: those of the paper's tables, and rffl]",
)
@click.option("--rounds", type=COUNT, default=200, help="Of each run; the paper has 200.")
@click.option("--seeds", type=COUNT, default=1, help="Runs of each setting.")
@click.option("--seed", type=SEED, default=0, help="The first.")
@click.option(
    "--corrupted",
    metavar="PERCENT,…",
    help="Which share of its labels is wrong, of each agent: 20,40,60,0,0 as in the paper.",
)
@click.option(
    "--free-riders",
    type=click.IntRange(min=0),
    default=0,
    help="How many agents, the first ones, upload noise and train nothing.",
)
@click.option(
    "--quick",
    is_flag=True,
    help=f"{QUICK}, {QUICK_ROUNDS} rounds and one seed: does it work?",
)
@click.option(
    "--values",
    "values_only",
    is_flag=True,
    help="Train nothing: hold the approximation of Shapley values against exact ones.",
)
@click.option("--workers", type=COUNT, help="Runs at the same time.  [default: one a core]")
@run_dir_option(
    "Where runs are kept, and the report; those that are there are not run again.",
    default=Path("runs/fairness"),
)
@data_root_option
@device_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    tasks: tuple[str, ...],
    partitions: tuple[str, ...],
    agents: int | None,
    methods: str | None,
    rounds: int,
    seeds: int,
    seed: int,
    corrupted: str | None,
    free_riders: int,
    quick: bool,
    values_only: bool,
    workers: int | None,
    run_dir: Path,
    data_root: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Repeat the experiments of Xu et al. (NeurIPS 2021): agents train for a server, which rewards
    each with as much of the common update as its own are worth (cgsv), beside other methods.

    Figures of the paper stand beside ours; accuracy by agent, and reputations, distances and losses
    by round are drawn in report.html. Agents alone are always run, to tell fairness by. Finished
    runs are kept: the same command goes on after an interruption, and runs what is new in it. Exit
    code 0: what was run bears out what is claimed, or is too short to say; 1: a claim does not
    hold.

    \b
    Examples:
      candor study fairness --quick --run-dir runs/quick
      candor study fairness --task mnist --partition cla --methods cgsv,fedavg --run-dir runs/fair
      candor study fairness --task sst --task mr --run-dir runs/fair
      candor study fairness --agents 5 --partition uni --methods cgsv --corrupted 20,40,60,0,0
      candor study fairness --values
    """
    if values_only:
        context.exit(0 if _values(seed, as_json) else FAILED)
    from candor.agent.reports import charts
    from candor.agent.studies.fairness import report as study_report  # imports torch
    from candor.agent.studies.fairness.experiment import experiment
    from candor.agent.studies.fairness.figures import verdicts
    from candor.topologies.specs.files import write_text

    charts.require()
    if quick:
        tasks, rounds, seeds = (QUICK,), QUICK_ROUNDS, 1
    asked = _methods(methods)
    cells = _cells(tasks, partitions, agents, _shares(corrupted), free_riders)
    settings = {
        (cell, method): [cell.setting(method, rounds, at) for at in range(seed, seed + seeds)]
        for cell in cells
        for method in asked
    }
    with progress(Console(stderr=True)) as told:
        done = experiment(
            [setting for several in settings.values() for setting in several],
            run_dir / "runs",
            workers or os.cpu_count() or 1,
            data_root,
            device,
            told,
        )
    found = {run.setting: run for run in done}
    runs: Runs = {
        cell: {method: [found[one] for one in settings[cell, method]] for method in asked}
        for cell in cells
    }
    report = run_dir / "report.html"
    write_text(report, study_report.render(runs, rounds))
    if as_json:
        click.echo(json_text(study_report.facts(runs, rounds), indent=2))
    else:
        _print(runs)
        click.echo(f"{report}: the page")
    if any(verdict.holds is False for verdict in verdicts(runs)):
        context.exit(FAILED)


def _methods(text: str | None) -> list[str]:
    """The methods to run, agents alone among them.

    Raises:
        ConfigurationError: there is no such method.
    """
    from candor.agent.studies.fairness.figures import ALONE, METHODS
    from candor.agent.studies.fairness.mechanisms import method_of

    asked = METHODS if text is None else [ALONE, *map(str.strip, split_list(text))]
    for method in asked:
        method_of(method)
    return list(dict.fromkeys(asked))


def _shares(text: str | None) -> tuple[float, ...]:
    """Percentages as shares.

    Raises:
        ConfigurationError: one is none.
    """
    try:
        found = tuple(float(one) / 100.0 for one in (text or "").split(",") if text)
    except ValueError as exc:
        raise ConfigurationError(f"--corrupted {text}: give numbers, such as 20,40,0") from exc
    if not all(0.0 <= one <= 1.0 for one in found):
        raise ConfigurationError(f"--corrupted {text}: a share is from 0 to 100 percent")
    return found


def _cells(
    tasks: tuple[str, ...],
    partitions: tuple[str, ...],
    agents: int | None,
    corrupted: tuple[float, ...],
    free_riders: int,
) -> "list[Cell]":
    """The settings of the study but for methods and seeds.

    Raises:
        ConfigurationError: a task is not in the study, or the numbers of agents do not match.
    """
    from candor.agent.studies.fairness.figures import Cell
    from candor.agent.studies.fairness.settings import training_of

    cells = []
    for task in dict.fromkeys(tasks):
        training_of(task)
        name = task.partition(":")[0]
        count = agents or len(corrupted) or AGENTS.get(name, AGENTS_ELSEWHERE)
        if corrupted and len(corrupted) != count:
            raise ConfigurationError(
                f"--corrupted names {len(corrupted)} agents, and there are {count}"
            )
        if free_riders > count - 2:
            raise ConfigurationError(
                f"--free-riders {free_riders} of {count} agents leaves fewer than two others"
            )
        known = ("pow",) if name in AGENTS else PARTITIONS
        cells += [Cell(task, count, one, corrupted, free_riders) for one in partitions or known]
    return list(dict.fromkeys(cells))


def _print(runs: "Runs") -> None:
    from candor.agent.studies.fairness import report
    from candor.agent.studies.fairness.figures import FAIR, verdicts

    console = Console()
    for cell, methods in runs.items():
        rows = report.rows(runs, cell)
        console.print(plain_table(cell.label, report.COLUMNS, rows, report.NOTE))
        if not cell.plain and FAIR in methods:
            shown = report.agent_rows(cell, methods[FAIR])
            title = f"{FAIR}: what agents were given"
            console.print(plain_table(title, report.BY_AGENT, shown, report.BY_AGENT_NOTE))
    click.echo("\n".join(map(report.sentence, verdicts(runs))))


def _values(seed: int, as_json: bool) -> bool:
    """Tell how near the approximation comes; whether as near as it should."""
    from candor.agent.studies.fairness.report import sentence
    from candor.agent.studies.fairness.values import COLUMNS, NOTE, rows, values, verdicts

    found = values(seed)
    judged = verdicts(found)
    if as_json:
        facts = {
            "values": [asdict(one) for one in found],
            "verdicts": [asdict(one) for one in judged],
        }
        click.echo(json_text(facts, indent=2))
    else:
        title = "Cosine gradient Shapley values, the paper's figures beside ours"
        Console().print(plain_table(title, COLUMNS, rows(found), NOTE))
        click.echo("\n".join(map(sentence, judged)))
    return all(one.holds for one in judged)
