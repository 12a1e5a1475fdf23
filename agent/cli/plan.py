"""What `candor testbed`, `candor simulate` and `candor audit` ask for alike: a whole run here."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from candor.agent.cli.options import (
    COUNT,
    Option,
    answer_alone,
    data_root_option,
    initial_option,
    mixing_option,
    run_dir_option,
    seed_option,
    settings_options,
    stacked,
    task_option,
    topology_option,
    weights_option,
)
from candor.agent.reports.terminal import summary_view
from candor.agent.runs.byzantine import parse_byzantine, with_byzantine
from candor.agent.runs.cluster_parts import sections
from candor.agent.runs.declared import EQUAL
from candor.agent.runs.plan import Plan, expected_rounds
from candor.topologies.cluster.file import POLICY_ALGORITHMS
from candor.topologies.specs.files import json_text, private_files
from candor.topologies.specs.specs import ConfigurationError

EVALUATIONS: Final = 20  # in a run, where nobody says how often
AT_THE_END: Final = 2**31  # rounds: of no run

new_run_dir_option = run_dir_option(
    "Where everything is kept; must be new or empty.  [default: runs/TASK-TOPOLOGY-TIME]"
)
_trajectories_option = click.option(
    "--trajectories",
    type=COUNT,
    help="In place of --rounds, of policy gradients: as many rounds as give every agent so many "
    "trajectories.",
)
_strategy_option = click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="ID=SPEC",
    help="How an agent deviates, such as a3=scale:3 (docs/payments.md has all); the others are "
    "honest.",
)


def _given_once(
    _context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> str | None:
    """One value: the last of several would win without a word."""
    if len(values) > 1:
        raise click.BadParameter("give it once; other attackers by --strategy", param=parameter)
    return values[0] if values else None


_byzantine_option = click.option(
    "--byzantine",
    metavar="COUNT:ATTACK",
    multiple=True,
    callback=_given_once,
    help="So many agents, drawn by the seed, attack, such as 3:avg-zero (docs/howto/robust.md has "
    "all); means in the summary are of the others. --max-byzantine, if given, limits how many of "
    "them an honest agent has as neighbours; else it is the most that one has.",
)


def plan_options(*, required: bool, lies: bool = True) -> Option:
    """Add the options that `plan_of` reads; `required`: graph, task and rounds must be given;
    `lies`: who deviates in the run."""
    return stacked(
        click.option("--agents", type=COUNT, help="Number of agents."),
        topology_option(required=required),
        task_option(required=required),
        click.option(
            "--rounds",
            required=required and not lies,
            type=COUNT,
            help="Rounds to train; no default here, in a cluster file: 100.",
        ),
        *([_trajectories_option, _strategy_option, _byzantine_option] if lies else []),
        mixing_option,
        weights_option,
        seed_option,
        settings_options(here=True),
        initial_option,
        data_root_option,
    )


def check_length(context: click.Context, asked: Mapping[str, Any]) -> None:
    """How long the run is must be said, and in one way.

    Raises:
        click.UsageError: it is not.
    """
    if asked["rounds"] is None and asked["trajectories"] is None:
        raise click.UsageError("Missing option '--rounds', or '--trajectories'.", context)
    if asked["rounds"] is not None and asked["trajectories"] is not None:
        raise click.UsageError("--rounds and --trajectories: give one of them.", context)


def plan_of(
    asked: Mapping[str, Any],
    evaluate_every: int | None,
    faults: str | None = None,
    *,
    simulated: bool = False,
    audited: bool = False,
) -> Plan:
    """The plan that the values of `plan_options` describe; some strategies are for simulated runs,
    which keep no rounds, but may stand for `audited` ones that do. It is evaluated every so many
    rounds; only at the end for 0, `EVALUATIONS` times for None.

    Raises:
        ConfigurationError: one of them is refused.
    """
    trajectories = asked.get("trajectories")
    if trajectories is not None:  # the rounds follow once the run is known
        asked = {**asked, "rounds": 1}
    given = [_assignment(text, simulated=simulated) for text in asked["strategies"]]
    strategies = dict(given)
    if len(strategies) < len(given):
        raise ConfigurationError("--strategy: an agent is named twice; join strategies with ' + '")
    parts = sections(asked)
    if simulated and not audited and parts["payments"].replay:
        raise ConfigurationError("--replay: only daemons keep rounds, and this is a simulation")
    if trajectories is not None and parts["algorithm"].name not in POLICY_ALGORITHMS:
        raise ConfigurationError(
            f"--trajectories is of algorithms {' and '.join(POLICY_ALGORITHMS)}; this one samples "
            "none: give --rounds"
        )
    if evaluate_every is None:
        rounds = asked["rounds"]
        if trajectories is not None:
            rounds = expected_rounds(parts["algorithm"], trajectories)
        evaluate_every = -(-rounds // EVALUATIONS)
    plan = Plan(
        **{name: asked[name] for name in ("topology", "agents", "seed", "data_root", "initial")},
        **parts,
        mixing=asked["mixing_name"],
        strategies=strategies,
        evaluate_every=evaluate_every or AT_THE_END,
        trajectories=trajectories,
        faults=faults,
        weights=asked.get("weights", EQUAL),
        byzantine=tuple(agent for agent, spec in given if _attacks(spec)),
    )
    if not asked.get("byzantine"):
        return plan
    from candor.mechanisms.strategies.specs import parse_strategy

    parse_strategy(parse_byzantine(asked["byzantine"])[1], simulated=simulated)
    return with_byzantine(plan, asked["byzantine"])


def _attacks(spec: str) -> bool:
    from candor.mechanisms.strategies.specs import attacks, parse_strategy

    return attacks(parse_strategy(spec))


def _assignment(text: str, *, simulated: bool) -> tuple[str, str]:
    agent, equals, spec = text.partition("=")
    if not (agent and equals and spec):
        raise ConfigurationError(f"--strategy {text!r}: write ID=SPEC, such as a3=scale:3")
    from candor.mechanisms.strategies.specs import parse_strategy

    parse_strategy(spec, simulated=simulated)
    return agent, spec


def default_run_dir(*specs: str) -> Path:
    """A directory that is not there yet, named after what runs, by its specs, and when."""
    words = (Path(spec).stem.partition(":")[0] for spec in specs)
    name = "-".join((*words, time.strftime("%Y%m%d-%H%M%S")))
    path = Path("runs") / name
    others = (path.with_name(f"{name}-{number}") for number in count(2))
    return next(other for other in chain((path,), others) if not other.exists())


@private_files()
def conclude(
    console: Console, run_dir: Path, summarised: Callable[[], dict[str, Any]], as_json: bool
) -> dict[str, Any]:
    """Sum a run up, draw its report, and print the summary, which is the answer."""
    from candor.agent.reports import charts
    from candor.agent.reports.run_page import write_report

    tell = partial(console.print, style="dim", highlight=False, markup=False)
    tell("training yardsticks to compare with: models of all data, of an agent alone…")
    with answer_alone(as_json):
        summary = summarised()
    try:
        charts.require()
    except ConfigurationError as exc:
        tell(f"no report: {exc}; then `candor report {run_dir}`")
    else:
        tell("drawing the report…")
        write_report(run_dir)
    if as_json:
        click.echo(json_text(summary, indent=2))
    else:
        console.print(summary_view(summary, run_dir))
    return summary
