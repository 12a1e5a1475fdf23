"""Options that several commands share: the settings of a run, the data root, JSON output."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from candor.agent.algorithms.catalogue import ALGORITHMS
from candor.network.codecs import CODECS
from candor.topologies.cluster.file import (
    AlgorithmSettings,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
)
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.specs.files import validated

Section = TypeVar("Section", bound=BaseModel)


class FiniteRange(click.FloatRange):
    """A range of floats without nan and infinity, which click lets pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CANDOR_DATA_ROOT",
    help="Where data sets lie.  [default: $CANDOR_DATA_ROOT, else ./data]",
)
initial_option = click.option(
    "--initial",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Start from this model.safetensors instead of one drawn from the seed.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


mixing_option = click.option(
    "--mixing",
    "mixing_name",
    metavar="NAME|FILE",
    help=f"How neighbours are weighted: {', '.join((*mixing.RULES, PUSH_SUM))}, or a matrix in a "
    f".csv or .npy file.  [default: {mixing.DEFAULT_MIXING} or the topology file's, {PUSH_SUM} "
    "on a directed graph]",
)


SETTINGS: tuple[tuple[type[BaseModel], str, str], ...] = (
    (
        TaskSettings,
        "partition",
        "Who trains on which samples: iid, dirichlet:ALPHA or natural, the data's own parts.",
    ),
    (TaskSettings, "batch_size", "Samples of one local step."),
    (
        AlgorithmSettings,
        "name",
        f"How rounds move the models: {', '.join(ALGORITHMS)}, or your own module:Object.",
    ),
    (AlgorithmSettings, "step_size", "Step size of round 1."),
    (AlgorithmSettings, "step_decay", "Round t steps by step-size * t ** -step-decay."),
    (AlgorithmSettings, "local_steps", "Steps of local SGD a round."),
    (AlgorithmSettings, "momentum", "Momentum of local SGD, below 1."),
    (RoundSettings, "deadline_s", "Longest wait for a neighbour's vector, seconds."),
    (RoundSettings, "start_deadline_s", "Longest wait for neighbours at the start, seconds."),
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
)


def settings_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an option for each of `SETTINGS`, with the cluster file's own default or the given one.

    The function takes them as keyword arguments; `section` picks one section's from them.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for model, name, help_text in reversed(SETTINGS):
            default = defaults.get(name, model.model_fields[name].get_default())
            function = click.option(
                f"--{_option_name(model, name).replace('_', '-')}",
                type=type(default),
                default=default,
                show_default=True,
                help=help_text,
            )(function)
        return function

    return decorate


def section(model: type[Section], settings: Mapping[str, Any], name: str) -> Section:
    """The part of `settings` that this section has, checked; `name` stands in messages.

    Raises:
        ConfigurationError: a setting out of its range.
    """
    return validated(
        model,
        {
            field: settings[_option_name(model, field)]
            for field in model.model_fields
            if _option_name(model, field) in settings
        },
        name,
    )


def _option_name(model: type[BaseModel], field: str) -> str:
    """What a setting is called on the command line."""
    return "algorithm" if (model, field) == (AlgorithmSettings, "name") else field
