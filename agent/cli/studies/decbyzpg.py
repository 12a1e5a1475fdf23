"""`candor study decbyzpg`: policy gradients among attackers, the paper's figures beside ours."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from candor.agent.cli.options import COUNT, FOLDER, SEED, json_option, run_dir_option
from candor.agent.cli.progress import progress
from candor.agent.exits import FAILED
from candor.agent.reports.terminal import plain_table
from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError

SEEDS: Final = {"cartpole": 5, "lunar-lander": 2}
QUICK_TRAJECTORIES: Final = 300
ROUNDING: Final = 1e-4  # of what was learned: float32 sums of many rounds


@click.command("decbyzpg")
@click.option(
    "--task",
    "tasks",
    type=click.Choice(tuple(SEEDS)),
    multiple=True,
    default=("cartpole",),
    help="An environment of the paper; once for each.",
)
@click.option(
    "--seeds",
    type=COUNT,
    help="Runs of each setting.  [default: "
    f"{', '.join(f'{count} of {task}' for task, count in SEEDS.items())}]",
)
@click.option("--seed", type=SEED, default=0, help="The first.")
@click.option("--trajectories", type=COUNT, default=8_000, help="Of each agent, in each run.")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME",
    help="Only runs under this attack, or none for those without; once for each.",
)
@click.option(
    "--quick", is_flag=True, help=f"One seed and {QUICK_TRAJECTORIES} trajectories: does it work?"
)
@click.option(
    "--daemons",
    type=FOLDER,
    metavar="RUN_DIR",
    help="Run nothing but a simulation of what a testbed ran, and compare the policies.",
)
@click.option("--workers", type=COUNT, help="Runs at the same time.  [default: one a core]")
@run_dir_option(
    "Where runs are kept, and the report; those that are there are not run again.",
    default=Path("runs/decbyzpg"),
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    tasks: tuple[str, ...],
    seeds: int | None,
    seed: int,
    trajectories: int,
    attacks: tuple[str, ...],
    quick: bool,
    daemons: Path | None,
    workers: int | None,
    run_dir: Path,
    as_json: bool,
) -> None:
    """Repeat the experiments of Jordan et al. (arXiv 2401.03489): DecByzPG with 1, 5 and 13 agents,
    and with 3 of 13 attacking, beside plain averaging.

    Figures of the paper stand beside ours, with 95 % confidence intervals; returns by trajectories
    are drawn in report.html. Finished runs are kept: the same command goes on after an
    interruption. Exit code 0: what was run bears out what is claimed, or does not reach so far; 1:
    a claim does not hold.

    \b
    Examples:
      candor study decbyzpg --quick --run-dir runs/quick
      candor study decbyzpg --run-dir runs/decbyzpg
      candor study decbyzpg --task lunar-lander --run-dir runs/decbyzpg
      candor study decbyzpg --attack avg-zero --trajectories 3000 --run-dir runs/avg-zero
      candor study decbyzpg --daemons runs/testbed
    """
    if daemons is not None:
        context.exit(0 if _same(daemons, as_json) else FAILED)
    from candor.agent.reports import charts
    from candor.agent.studies.decbyzpg import report as study_report  # imports torch
    from candor.agent.studies.decbyzpg.experiment import experiment
    from candor.agent.studies.decbyzpg.figures import Cell, cells_of, verdicts
    from candor.agent.studies.decbyzpg.runs import Run
    from candor.topologies.specs.files import write_text

    charts.require()
    if quick:
        seeds, trajectories = 1, QUICK_TRAJECTORIES
    known = {cell.attack or "none" for task in tasks for cell in cells_of(task)}
    for attack in attacks:
        if attack not in known:
            raise ConfigurationError(
                f"--attack {attack!r} is not in the paper's runs of {', '.join(tasks)}; "
                f"known: {', '.join(sorted(known))}"
            )
    runs: dict[Cell, list[Run]] = {}
    with progress(Console(stderr=True)) as told:
        for task in dict.fromkeys(tasks):
            cells = [c for c in cells_of(task) if not attacks or (c.attack or "none") in attacks]
            runs |= experiment(
                cells,
                trajectories,
                range(seed, seed + (seeds or SEEDS[task])),
                run_dir / "runs",
                workers or os.cpu_count() or 1,
                told,
            )
    report = run_dir / "report.html"
    write_text(report, study_report.render(runs, trajectories))
    if as_json:
        click.echo(json_text(study_report.facts(runs, trajectories), indent=2))
    else:
        rows = study_report.rows(runs, trajectories)
        title = "Returns of DecByzPG, the paper's beside ours"
        Console().print(plain_table(title, study_report.COLUMNS, rows, study_report.NOTE))
        click.echo("\n".join(map(study_report.sentence, verdicts(runs))))
        click.echo(f"{report}: the page")
    if any(verdict.holds is False for verdict in verdicts(runs)):
        context.exit(FAILED)


def _same(run_dir: Path, as_json: bool) -> bool:
    """Tell how a testbed's policies compare; whether they agree within the tolerance, and with the
    simulation to the rounding of their numbers."""
    from candor.agent.studies.decbyzpg.daemons import compare  # imports torch
    from candor.mechanisms.agreement.averaging import TOLERANCE

    with progress(Console(stderr=True)) as told:
        found = compare(run_dir, lambda done, of: told("simulating its rounds", done, of))
    agree, equal = found.apart <= TOLERANCE, found.off <= ROUNDING * found.moved
    if as_json:
        click.echo(json_text({**asdict(found), "agree": agree, "equal": equal}, indent=2))
        return agree and equal
    click.echo(
        f"{found.honest} honest of {found.agents} daemons, {found.rounds} rounds: policies are "
        f"{found.apart:.3g} apart at most (tolerance {TOLERANCE:g}), {found.off:.3g} from the "
        f"simulation's, and {found.moved:.3g} from where they began"
    )
    return agree and equal
