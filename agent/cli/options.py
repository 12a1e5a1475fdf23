"""Options that several commands share, each written once; what a kind of option may be given.

Defaults are shown in every command's help: `candor.agent.cli.main` says so for all.
"""

import functools
import math
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import click
from pydantic import BaseModel

from candor.agent.algorithms.catalogue import ALGORITHMS
from candor.agent.algorithms.steps import AGREEMENT_ROUNDS, OUTER_MOMENTUM, OUTER_STEP
from candor.agent.runs.cluster_parts import option_name
from candor.agent.runs.declared import EQUAL
from candor.mechanisms.aggregation.specs import PREAGGREGATORS, RULES
from candor.network.codecs import CODECS
from candor.topologies.cluster.file import (
    OUTER_ALGORITHM,
    POLICY_ALGORITHMS,
    AlgorithmSettings,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
)
from candor.topologies.graphs.graphs import UNDIRECTED
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import PUSH_SUM

Command: TypeAlias = Callable[..., None]
Option: TypeAlias = Callable[[Command], Command]

COUNT = click.IntRange(min=1)
SEED = click.IntRange(0, 2**62)
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


class FiniteRange(click.FloatRange):
    """A range of floats without nan and infinity, which click lets pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


AMOUNT = FiniteRange(min=0)
ABOVE_0 = FiniteRange(min=0, min_open=True)


def stacked(*options: Option) -> Option:
    """Several options as one decorator; help lists them in this order."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def answer_alone(as_json: bool) -> AbstractContextManager[Any]:
    """With --json standard output is the answer alone: what a task prints is not."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
seed_option = click.option("--seed", type=SEED, default=0, help="Seed of all that is random.")
data_root_option = click.option(
    "--data-root",
    type=FOLDER,
    envvar="CANDOR_DATA_ROOT",
    help="Where data sets lie.  [default: $CANDOR_DATA_ROOT, else ./data]",
)
initial_option = click.option(
    "--initial",
    type=FILE,
    metavar="FILE",
    help="Start from this model.safetensors instead of one drawn from the seed.",
)
device_option = click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    help="Where models are trained: cpu, cuda, cuda:1 …, mps, or auto for the best that is there.",
)
cluster_option = click.option(
    "--cluster", "cluster_path", required=True, type=FILE, help="The cluster file of the run."
)
mixing_option = click.option(
    "--mixing",
    "mixing_name",
    metavar="NAME|FILE",
    help=f"How neighbours are weighted: {', '.join((*mixing.RULES, PUSH_SUM))}, or a matrix in a "
    f".csv or .npy file.  [default: {mixing.DEFAULT_MIXING} or the topology file's, {PUSH_SUM} "
    "on a directed graph]",
)

weights_option = click.option(
    "--weights",
    default=EQUAL,
    metavar="equal|samples|ID=NUMBER,…",
    help="How agents count in the mean: all alike, by the samples of each, or by these numbers.",
)


def undirected_option(asked_as: str) -> Option:
    """Whether the arcs of a file are edges: the command gets a spec, as `asked_as`, that says so;
    or several."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def told(*arguments: Any, undirected: bool, **asked: Any) -> None:
            given = asked[asked_as]
            if undirected and isinstance(given, tuple):
                asked[asked_as] = tuple(f"{UNDIRECTED}{spec}" for spec in given)
            elif undirected and given is not None:
                asked[asked_as] = f"{UNDIRECTED}{given}"
            function(*arguments, **asked)

        summary = "Take the arcs of a directed file or function for edges."
        return click.option("--undirected", is_flag=True, help=summary)(told)

    return decorate


def topology_option(
    summary: str = "A family such as ring, a schedule such as one-peer-exponential, or a file.",
    *,
    required: bool = True,
) -> Option:
    """Whose neighbour everybody is."""
    named = click.option("--topology", required=required, metavar="SPEC|FILE", help=summary)
    return stacked(named, undirected_option("topology"))


def task_option(*, required: bool = True) -> Option:
    """What is learned."""
    return click.option(
        "--task",
        required=required,
        metavar="NAME",
        help="digits, breast-cancer, a9a, mnist, fashion-mnist, femnist, cartpole, lunar-lander, "
        "gym:env=NAME, or your own module:Class.",
    )


log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Events on standard error, which a testbed keeps: a line each for people, or that of "
    "log.jsonl.",
)
participation_option = click.option(
    "--require-participation",
    "required_share",
    type=FiniteRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Exit 5 if some agent took part in a smaller share of the rounds, such as 0.9.",
)


def output_option(what: str, *, required: bool = True) -> Option:
    """The file to write; what was there before is kept."""
    told = f"{what} What was there is kept as OUTPUT~."
    return click.option("-o", "--output", required=required, type=FILE, help=told)


def sign_with_option(*, required: bool = False) -> Option:
    """The keys of the organiser."""
    return click.option(
        "--sign-with",
        required=required,
        type=FOLDER,
        metavar="KEYS",
        help="The organiser's keys, which sign the file.",
    )


def run_dir_option(what: str, **attributes: Any) -> Option:
    """The directory in which a run keeps everything."""
    return click.option("--run-dir", type=FOLDER, help=what, **attributes)


def organiser_option(what: str, *, required: bool = False) -> Option:
    """Who puts the run together."""
    return click.option("--organiser", required=required, metavar="KEY|FILE", help=what)


_STEP_SIZE, _STEP_DECAY = (
    AlgorithmSettings.model_fields[name].default for name in ("step_size", "step_decay")
)
_TOLD_LATER: Final = ("step_size", "step_decay")  # their defaults depend on the algorithm
_FROM_TASK: Final = "  [default: the task's]"
_OF_POLICIES: Final = f" For {' and '.join(POLICY_ALGORITHMS)}.{_FROM_TASK}"

SETTINGS: tuple[tuple[type[BaseModel], str, str], ...] = (
    (
        TaskSettings,
        "partition",
        "Who trains on which samples: iid, dirichlet:ALPHA, natural, the data's own parts, sorted "
        "by them, or of so many an agent uni:SAMPLES, pow:SAMPLES, cla:SAMPLES.",
    ),
    (TaskSettings, "batch_size", "Samples of one local step."),
    (
        AlgorithmSettings,
        "name",
        f"How rounds move the models: {', '.join(ALGORITHMS)}, or your own module:Object.",
    ),
    (
        AlgorithmSettings,
        "step_size",
        f"Step size of round 1.  [default: {_STEP_SIZE:g}, of policy gradients the task's]",
    ),
    (
        AlgorithmSettings,
        "step_decay",
        "Round t steps by step-size * t ** -step-decay.  [default: "
        f"{_STEP_DECAY:g}, of policy gradients 0]",
    ),
    (AlgorithmSettings, "local_steps", "Steps of local SGD a round."),
    (AlgorithmSettings, "momentum", "Momentum of local SGD, below 1."),
    (
        AlgorithmSettings,
        "local_epochs",
        "Passes over the own samples a round, in place of a number of steps.",
    ),
    (
        AlgorithmSettings,
        "local_seconds",
        "Seconds of local SGD a round, in place of steps or epochs; for daemons only.",
    ),
    (
        AlgorithmSettings,
        "outer_step",
        f"What the outer step of {OUTER_ALGORITHM} is multiplied by.  [default: {OUTER_STEP}]",
    ),
    (
        AlgorithmSettings,
        "outer_momentum",
        f"Nesterov momentum of {OUTER_ALGORITHM}, below 1.  [default: {OUTER_MOMENTUM}]",
    ),
    (
        AlgorithmSettings,
        "aggregator",
        "What combines neighbours' vectors in place of the graph's mixing weights: "
        f"{', '.join(RULES)}; before it, with ' + ', {', '.join(PREAGGREGATORS)} "
        "(docs/howto/robust.md).",
    ),
    (
        AlgorithmSettings,
        "max_byzantine",
        "Byzantine neighbours of every agent that the aggregator is to withstand.",
    ),
    (
        AlgorithmSettings,
        "large_batch",
        "Trajectories of an agent in a round in which the common coin shows a large batch."
        f"{_OF_POLICIES}",
    ),
    (AlgorithmSettings, "small_batch", f"Trajectories of an agent in any other round.{_FROM_TASK}"),
    (
        AlgorithmSettings,
        "switch_probability",
        f"Chance of a large batch, the same for all agents.{_FROM_TASK}",
    ),
    (
        AlgorithmSettings,
        "agreement_rounds",
        "Exchanges of a round, at most 15, in which policies are averaged until they agree.  "
        f"[default: {AGREEMENT_ROUNDS}]",
    ),
    (
        AlgorithmSettings,
        "estimator",
        f"For {' and '.join(POLICY_ALGORITHMS)}: the paper's, or that of its authors' program "
        "(docs/howto/policy-gradient.md).  [default: the paper's]",
    ),
    (
        AlgorithmSettings,
        "rewards",
        "What neighbours give each other of their models, by what their updates are worth: "
        "cgsv:beta=1, or none, all of it (docs/howto/rewards.md).  [default: none]",
    ),
    (
        AlgorithmSettings,
        "influence",
        "An agent injects at most so many times what is usual around it in a window, such as 2; "
        "what is beyond is cut off (docs/howto/robust.md).  [default: no bound]",
    ),
    (RoundSettings, "deadline_s", "Longest wait for a neighbour's vector, seconds."),
    (RoundSettings, "start_deadline_s", "Longest wait for neighbours at the start, seconds."),
    (
        RoundSettings,
        "pace",
        "Nobody waits for who is slow, who sits rounds out and goes on from its own model; for "
        "daemons only (docs/howto/pace.md).  [default: all go in step]",
    ),
    (RoundSettings, "codec", f"How vectors travel: {', '.join(CODECS)}."),
    (PaymentSettings, "rule", "Payment rule with its price, or none."),
    (PaymentSettings, "window", "Rounds settled together."),
    (
        PaymentSettings,
        "credit_limit",
        "Most that may be owed on one edge, micro-credits; updates that could cost more in a "
        "window are refused.",
    ),
    (PaymentSettings, "sketch_size", "Numbers in a signed sketch."),
    (
        PaymentSettings,
        "replay",
        "Agents commit to their samples and keep a round of every window, which `candor replay` "
        "can do again (docs/howto/replay.md).",
    ),
    (
        PaymentSettings,
        "disclose",
        "Agents show a round of every window to their neighbours, samples and all, who do it again "
        "and prove what was false; with --replay, for data that may be shown.",
    ),
    (
        PaymentSettings,
        "bond",
        "What a proven false report costs, micro-credits, shared by the neighbours; with "
        "--disclose.  [default: nothing]",
    ),
)


ON_THIS_MACHINE: Final[Mapping[str, str]] = {"partition": "dirichlet:0.5"}
"""Defaults of whole runs on this machine, testbed, simulate and audit, where they are not those of
a cluster file: shards there differ, as those of parties do who split no data set."""


def settings_options(
    *,
    here: bool = False,
    only: Collection[str] | None = None,
    own: Collection[str] = (),
) -> Option:
    """Add an option for each of `SETTINGS`, or for some fields of them, with the default of a
    cluster file, or of a run on this machine; `own`: those that have another in this command.

    The function takes them as keyword arguments; `cluster_parts.sections` makes the file's sections
    of them.
    """
    asked = [setting for setting in SETTINGS if only is None or setting[1] in only]
    return stacked(*(_setting(*_without_default(setting, own), here) for setting in asked))


def _without_default(
    setting: tuple[type[BaseModel], str, str], own: Collection[str]
) -> tuple[type[BaseModel], str, str]:
    model, name, what = setting
    return (model, name, what.partition("  [default")[0]) if name in own else setting


def _setting(model: type[BaseModel], name: str, what: str, here: bool) -> Option:
    default = of_file = model.model_fields[name].get_default()
    if (mine := ON_THIS_MACHINE.get(name)) is not None:
        default = mine if here else of_file
        others = f"in a cluster file: {of_file}" if here else f"in testbed and simulate: {mine}"
        what = f"{what} Default {others}."
    option = f"--{option_name(model, name).replace('_', '-')}"
    if name in _TOLD_LATER:
        default = None
    if get_args(model.model_fields[name].annotation)[:1] == (Literal[True],):
        return click.option(option, is_flag=True, flag_value=True, default=None, help=what)
    return click.option(option, type=_kind(model, name), default=default, help=what)


def _kind(model: type[BaseModel], name: str) -> type | click.Choice[str]:
    """The type of a setting; of one that may be left out, of what it is where it is given."""
    field = model.model_fields[name]
    default = field.get_default()
    if default is not None:
        return type(default)
    given = get_args(field.annotation)[0]  # of `Annotated[int, …] | None`
    if get_origin(given) is Literal:
        return click.Choice(get_args(given))
    kind: type = get_args(given)[0] if get_args(given) else given
    return kind
