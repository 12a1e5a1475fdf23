"""`candor audit`: does any lie pay, on this task, graph and rule, and at which price none does."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource
from rich.console import Console

from candor.agent.cli.options import AMOUNT, COUNT, json_option, run_dir_option
from candor.agent.cli.plan import default_run_dir, plan_of, plan_options
from candor.agent.cli.progress import progress
from candor.agent.exits import FAILED, INTERRUPTED, UNDECIDED
from candor.agent.reports.terminal import plain_table
from candor.topologies.specs.files import system_errors
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.studies.audit.verdicts import Verdict
    from candor.topologies.cluster.file import Cluster

RUNS_NAME: Final = "runs"


@click.command("audit")
@plan_options(required=True, lies=False)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=5,
    help="How many, from --seed on: each is run honestly and with every strategy. Fewer than 5 "
    "decide nothing.",
)
@click.option(
    "--agent",
    "liars",
    multiple=True,
    help="Who deviates, each in turn: may be given again, or as A,B.  [default: the first one each "
    "of the lowest, the median and the highest degree]",
)
@click.option(
    "--strategies",
    "names",
    help="Which, separated by commas (docs/audit.md).  [default: a library of all kinds]",
)
@click.option(
    "--search/--no-search",
    default=True,
    help="Let an optimiser look for a better lie at the prices found.",
)
@click.option(
    "--price",
    default="auto",
    metavar="auto|NUMBER",
    help="auto: the prices of the rule's terms that stop lies and cost honest agents the least, "
    "see docs/audit.md; or a factor on the rule's own.",
)
@click.option(
    "--reward",
    type=click.Choice(["cooperation", "training"]),
    default="cooperation",
    help="What an agent wants. cooperation: a lower loss than alone on samples of its own that are "
    "held out; training: a lower one on those that it trains on.",
)
@click.option(
    "--fine-tune",
    type=click.IntRange(0, 100_000),
    help="Steps that each may train on locally in the end, alone and with the network.  [default: "
    "50, with --reward cooperation]",
)
@click.option(
    "--cost",
    type=AMOUNT,
    default=0.0,
    help="What a local step of computing costs an agent, in units of loss; idlers save it.",
)
@click.option(
    "--competition",
    type=AMOUNT,
    default=0.0,
    help="Weight of the others' losses in the reward, by the same samples; 0 for who minds its own "
    "model.",
)
@click.option(
    "--epsilon",
    type=AMOUNT,
    default=0.01,
    help="Gains up to this share of the honest reward are let pass.",
)
@click.option(
    "--audit-rate",
    type=click.FloatRange(0, 1, min_open=True),
    help="With which chance the picked round of a window is done again; with --replay.  "
    "[default: 1]",
)
@click.option("--jobs", type=COUNT, help="Processes.  [default: as many as there are cores]")
@run_dir_option(
    "Where runs, audit.json and report.html are kept; runs that are there are not run again.  "
    "[default: runs/audit-TASK-TIME]"
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    seeds: int,
    liars: tuple[str, ...],
    names: str | None,
    search: bool,
    price: str,
    reward: str,
    fine_tune: int | None,
    cost: float,
    competition: float,
    epsilon: float,
    audit_rate: float | None,
    jobs: int | None,
    run_dir: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Simulate honest and lying runs on the same seeds, and say whether any lie pays.

    A gain is the loss that the liar saves itself on samples of its own that nobody trains on, in
    per cent of what honest cooperation saves it beside training alone (--reward); a credit is worth
    one unit of loss. First it says for how many agents cooperation pays at all, and whether more
    training would help them. Exit code 0: no lie pays, the 95 %
    interval of no strategy's gain reaches epsilon at the prices; 1: a lie pays, its interval is
    beyond (named); 4: undecided, epsilon is within the interval of some (named); 2: bad usage, or
    the rule could not bill a strategy while no other pays. If a lie pays, 0 is the answer in at
    most 5 of 100 audits. With --replay a false report that is found costs a bond, too: the one that
    cluster states, or the least that stops all lies. With --rewards a lie pays, too, if the liar
    ends with the better model, whatever it is charged. docs/audit.md says how it is judged.

    \b
    Example:
      candor audit --agents 10 --topology erdos-renyi:p=0.4 --task digits \\
          --rounds 160 --local-steps 1 --step-size 0.1 --step-decay 0
    """
    from candor.agent.learning.rows import check_samples
    from candor.agent.reports import charts
    from candor.agent.studies.audit import report as audit_report
    from candor.agent.studies.audit.incentives import SEEDS_MIN, Answer
    from candor.agent.studies.audit.members import by_degree
    from candor.agent.studies.audit.question import (  # imports torch
        FINE_TUNE,
        TERMS,
        Question,
        Reward,
        check,
        factor_of,
        rewarded,
    )
    from candor.agent.studies.audit.verdicts import audit, chosen_strategies

    charts.require()
    if price == "auto" and context.get_parameter_source("rule") is ParameterSource.DEFAULT:
        asked["rule"] = TERMS
    clusters = [_cluster(asked, asked["seed"] + i) for i in range(seeds)]
    files = asked["data_root"], asked["initial"]
    if reward == Reward.TRAINING and fine_tune:
        raise ConfigurationError("--fine-tune is of --reward cooperation; leave it out")
    default = FINE_TUNE if reward == Reward.COOPERATION else 0
    named = tuple(name for one in liars for name in one.split(","))
    question = Question(
        clusters,
        tuple(dict.fromkeys(named)) or by_degree(clusters[0]),
        Reward(reward),
        default if fine_tune is None else fine_tune,
        cost,
        competition,
        epsilon,
        factor_of(price),
        *files,
        1.0 if audit_rate is None else audit_rate,
    )
    if audit_rate is not None and not question.replayed:
        raise ConfigurationError("--audit-rate is of --replay; give both or leave it out")
    check(question)
    chosen = chosen_strategies(question, names)
    for cluster in clusters:
        check_samples(cluster, *files, metric=rewarded(cluster))
    place = run_dir or default_run_dir("audit", asked["task"])
    cache = _prepared(place)
    if seeds < SEEDS_MIN:
        few = f"this will be undecided whatever {seeds} --seeds show: it takes {SEEDS_MIN}"
        click.echo(f"candor: {few}", err=True)
    jobs = jobs or os.cpu_count() or 1
    try:
        with _no_answer(place), progress(Console(stderr=True)) as told:
            verdict = audit(question, chosen, cache=cache, search=search, jobs=jobs, progress=told)
    except KeyboardInterrupt:
        click.echo(f"candor: interrupted; the same with --run-dir {place} goes on", err=True)
        context.exit(INTERRUPTED)
    with _no_answer(place):
        settings = audit_report.settings_of(question, asked["topology"], price)
        found, report = audit_report.write(verdict, settings, place)
    if as_json:
        click.echo(found)
    else:
        _print(verdict)
        click.echo(f"report: {report}")
    if verdict.answer is Answer.PAYS:
        context.exit(FAILED)
    if verdict.unbilled:
        raise ConfigurationError(
            f"strategy {', '.join(verdict.unbilled)} is not judged: the rule "
            f"{clusters[0].payments.rule!r} gives no amounts for its updates"
        )
    if verdict.answer is Answer.UNDECIDED:
        context.exit(UNDECIDED)


def _cluster(asked: Mapping[str, Any], seed: int) -> "Cluster":
    from candor.agent.runs.placeholder_agents import stand_in_entries
    from candor.agent.runs.plan import cluster_of

    asked = {**asked, "seed": seed, "strategies": ()}
    plan = plan_of(asked, 0, simulated=True, audited=True)
    return cluster_of(plan, Path("audit"), stand_in_entries)


def _print(verdict: "Verdict") -> None:
    from candor.agent.studies.audit import report

    liars = ", ".join(liar.member.agent for liar in verdict.liars)
    title = f"{liars} lies: what it gains"
    if len(verdict.liars) > 1:
        title = f"{liars} lie in turn: what the best placed gains"
    console = Console()
    for line in report.opening(verdict):
        click.echo(line)
    gains = report.gains_table(verdict, report.worst_of_each(verdict))
    caption = f"{report.GAINS} {report.FOUND}" if verdict.replayed else report.GAINS
    console.print(plain_table(title, *gains, caption))
    console.print(plain_table("what honest agents pay", *report.honest_table(verdict), report.PAID))
    for line in report.sentences(verdict):
        click.echo(line)
    console.print(
        report.told(verdict),
        style=report.STYLES[verdict.answer],
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


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
