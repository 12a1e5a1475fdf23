"""What `candor testbed` and `candor simulate` ask for alike: a whole run on this machine."""

import time
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import click

from candor.agent.cli.options import (
    data_root_option,
    initial_option,
    mixing_option,
    section,
    settings_options,
)
from candor.agent.runs.cluster_parts import check_partition, check_rule, task_settings
from candor.agent.runs.plan import Plan
from candor.topologies.cluster.file import AlgorithmSettings, PaymentSettings, RoundSettings
from candor.topologies.specs.specs import ConfigurationError

Function = Callable[..., None]

run_dir_option = click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept; must be new or empty.  [default: runs/TASK-TOPOLOGY-TIME]",
)


def plan_options(*, required: bool, lies: bool = True) -> Callable[[Function], Function]:
    """Add the options that `plan_of` reads; `required`: graph, task and rounds must be given;
    `lies`: who deviates in the run."""
    strategy_option = click.option(
        "--strategy",
        "strategies",
        multiple=True,
        metavar="ID=SPEC",
        help="How an agent deviates, such as a3=scale:3 (docs/payments.md has all); the others "
        "are honest.",
    )
    options = (
        click.option("--agents", type=click.IntRange(min=1), help="Number of agents."),
        click.option(
            "--topology",
            required=required,
            metavar="SPEC|FILE",
            help="A family such as ring, a schedule such as one-peer-exponential, or a file.",
        ),
        click.option(
            "--task",
            required=required,
            metavar="NAME",
            help="digits, a9a, mnist, fashion-mnist, femnist, or your own module:Class.",
        ),
        click.option(
            "--rounds", required=required, type=click.IntRange(min=1), help="Rounds to train."
        ),
        *((strategy_option,) if lies else ()),
        mixing_option,
        click.option(
            "--seed",
            type=click.IntRange(0, 2**62),
            default=0,
            show_default=True,
            help="Seed of the run.",
        ),
        settings_options(partition="dirichlet:0.5"),
        initial_option,
        data_root_option,
    )

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def plan_of(
    asked: Mapping[str, Any],
    evaluate_every: int,
    faults: Path | None = None,
    *,
    simulated: bool = False,
) -> Plan:
    """The plan that the values of `plan_options` describe; some strategies are for simulated runs.

    Raises:
        ConfigurationError: one of them is refused.
    """
    given = [_assignment(text, simulated=simulated) for text in asked["strategies"]]
    strategies = dict(given)
    if len(strategies) < len(given):
        raise ConfigurationError("--strategy: an agent is named twice; join strategies with ' + '")
    check_rule(asked["rule"])
    check_partition(asked["partition"])
    return Plan(
        topology=asked["topology"],
        agents=asked["agents"],
        mixing=asked["mixing_name"],
        seed=asked["seed"],
        task=task_settings(
            asked["task"],
            asked["seed"],
            asked["data_root"],
            partition=asked["partition"],
            batch_size=asked["batch_size"],
            initial=asked["initial"],
        ),
        algorithm=section(AlgorithmSettings, asked, "algorithm"),
        rounds=section(RoundSettings, asked, "rounds"),
        payments=section(PaymentSettings, asked, "payments"),
        strategies=strategies,
        evaluate_every=evaluate_every,
        data_root=asked["data_root"],
        initial=asked["initial"],
        faults=faults,
    )


def _assignment(text: str, *, simulated: bool) -> tuple[str, str]:
    agent, equals, spec = text.partition("=")
    if not (agent and equals and spec):
        raise ConfigurationError(f"--strategy {text!r}: write ID=SPEC, such as a3=scale:3")
    from candor.mechanisms.strategies.specs import parse_strategy

    parse_strategy(spec, simulated=simulated)
    return agent, spec


def default_run_dir(plan: Plan) -> Path:
    """A directory that is not there yet, named after what runs and when."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    words = (Path(word).stem.partition(":")[0] for word in (plan.task.name, plan.topology))
    name = "-".join((*words, stamp))
    path = Path("runs") / name
    others = (path.with_name(f"{name}-{number}") for number in count(2))
    return next(other for other in chain((path,), others) if not other.exists())
