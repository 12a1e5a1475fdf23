"""`candor study femnist`: does noise pay among writers who compete, and at which price not?"""

from pathlib import Path
from typing import Final, cast

import click
from rich.console import Console

from candor.agent.cli.options import (
    ABOVE_0,
    AMOUNT,
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
from candor.topologies.specs.files import json_text

STEPS_A_WRITER: Final = 3


@click.command("femnist")
@click.option(
    "--steps",
    type=COUNT,
    help="Steps of a training.  [default: three times the number of writers, as in the paper; "
    "there it makes 10650]",
)
@click.option(
    "--alpha",
    "alphas",
    type=AMOUNT,
    multiple=True,
    default=(0, 1, 2, 4, 6, 9),
    help="Aggressiveness of group A, a third of the writers; once for each.",
)
@click.option("--alpha-b", type=AMOUNT, default=0, help="Aggressiveness of all others.")
@click.option(
    "--price",
    "prices",
    type=AMOUNT,
    multiple=True,
    default=(0, 1e-5, 5e-5, 2e-4),
    help="Price of a squared distance; once for each. 0 is without penalties.",
)
@click.option("--seeds", type=COUNT, default=1, help="Runs of each alpha.")
@click.option("--seed", type=SEED, default=0, help="The first.")
@click.option(
    "--task",
    default="femnist",
    metavar="SPEC",
    help="Another file (femnist:file=NAME) or model (femnist:model=logistic).",
)
@click.option("--step-size", type=ABOVE_0, default=0.06)
@run_dir_option(
    "Where trainings are kept, and the report; those that are there are not run again.",
    default=Path("runs/femnist"),
)
@data_root_option
@device_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    steps: int | None,
    alphas: tuple[float, ...],
    alpha_b: float,
    prices: tuple[float, ...],
    seeds: int,
    seed: int,
    task: str,
    step_size: float,
    run_dir: Path,
    data_root: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Train with competing writers of whom a third adds noise, and bill them at several prices.

    Repeats the FeMNIST experiment of Dorner et al. 2023 (appendix B.3). Each aggressiveness is
    trained once and billed at all prices, for distance from the average as in the paper and for
    influence on it; an interrupted experiment goes on when the same command is given again. Exit
    code 0: billed for one of the two, at some price, reward falls with aggressiveness while 98 % of
    honest writers pay less than a tenth of what the largest aggressiveness costs them; 1: there is
    no such price.

    \b
    Examples:
      candor study femnist --run-dir runs/femnist
      candor study femnist --task femnist:model=logistic --seeds 3 --run-dir runs/femnist-logistic
      candor study femnist --steps 10650 --seeds 10 --run-dir runs/femnist-long
    """
    from candor.agent.reports import charts
    from candor.agent.studies.femnist import experiment, federated  # imports torch
    from candor.agent.studies.femnist import report as experiment_report
    from candor.agent.tasks import resolve_task
    from candor.agent.tasks.base import Task, is_loop
    from candor.topologies.specs.files import write_text
    from candor.topologies.specs.specs import ConfigurationError

    charts.require()
    learned = resolve_task(task, data_root)
    if is_loop(learned):
        raise ConfigurationError(f"--task {task}: its train() is its own; this needs a loss")
    federation = federated.Federation(cast(Task, learned), device)
    steps = steps or STEPS_A_WRITER * federation.writers
    setting = experiment.Setting(task, steps, step_size)
    with progress(Console(stderr=True)) as told:
        trained = range(seed, seed + seeds)
        results = experiment.experiment(
            federation, setting, alphas, alpha_b, trained, run_dir, told
        )
    ordered = sorted({0.0, *prices})
    report = run_dir / "report.html"
    write_text(report, experiment_report.render(results, ordered))
    if as_json:
        click.echo(json_text(experiment_report.facts(results, ordered), indent=2))
    else:
        for rule, measured in results.measured.items():
            title = f"{rule}: what noise gains group A, by price"
            table = plain_table(
                title, *experiment_report.numbers(measured, ordered), experiment_report.NUMBERS
            )
            Console().print(table)
            click.echo("\n".join((*experiment_report.sentences(measured), "")))
        click.echo("\n".join(experiment_report.divergences(results)), nl=bool(results.diverged))
        click.echo(f"{report}: the page")
    if not results.holds:
        context.exit(FAILED)
