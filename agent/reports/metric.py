"""The metric that counts, as people read it: its name, its values, and which of them are better.

Accuracy is a share and told in per cent; of any other metric only its task knows range and unit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from candor.topologies.cluster.file import DEFAULT_METRIC, POLICY_ALGORITHMS

RETURN: Final = "mean_return"  # as `agent.learning.measuring` has it, without torch
LETTERS_MAX: Final = 60
"""Of a metric's name where it is shown: whoever gathers files of others did not choose it."""

NARROW: Final = 7  # letters of a column: a row of statuses fits a terminal of 80


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by name; of accuracy higher values are better, of another as its task says."""

    name: str = DEFAULT_METRIC
    higher_is_better: bool = True

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What the keys `metric` and `better` of a summary, a cluster file's task or a status say;
        accuracy where they say nothing."""
        name = document.get("metric")
        shown = shown_name(name) if isinstance(name, str) and name else DEFAULT_METRIC
        return cls(shown, document.get("better") != "lower")

    @property
    def is_share(self) -> bool:
        return self.name == DEFAULT_METRIC

    @property
    def is_return(self) -> bool:
        """Whether it is what episodes of a policy return."""
        return self.name == RETURN

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def worst(self) -> str:
        """What the worst agent's value is called."""
        return f"lowest {self.name}" if self.is_share else f"worst {self.name}"

    @property
    def short(self) -> str:
        """Its name in a narrow column."""
        return "acc" if self.is_share else fitting(self.name, NARROW)

    @property
    def quantity(self) -> str:
        """What an axis with `drawn` values is called."""
        return f"{self.name} (%)" if self.is_share else self.name

    def cell(self, value: float | None) -> str:
        """A value in a narrow column, with fewer digits where four do not fit."""
        if self.is_share or value is None or len(self.text(value)) <= NARROW:
            return self.text(value)
        shorter = (f"{value:.{digits}g}" for digits in (3, 2))
        return next((text for text in shorter if len(text) <= NARROW), f"{value:.1g}")

    def drawn(self, value: float) -> float:
        """A value as it stands on an axis."""
        return 100 * value if self.is_share else value

    def text(self, value: float | None) -> str:
        """A value: accuracy in per cent, another with four significant digits."""
        return format_share(value) if self.is_share else format_value(value)


def idle_settings(task: Mapping[str, Any], algorithm: Mapping[str, Any]) -> frozenset[str]:
    """The settings that mean nothing in a run, by dotted key, of these sections of its file:
    an environment has no samples to part and takes one step a round; algorithms of policies have
    batches and steps of their own."""
    idle: set[str] = set()
    if Metric.of(task).is_return:
        idle |= {"task.partition", "algorithm.local_steps", "algorithm.local_epochs"}
    if algorithm.get("name") in POLICY_ALGORITHMS:
        idle |= {"task.batch_size", "algorithm.momentum"}
    return frozenset(idle)


def format_share(share: float | None) -> str:
    """A share 0..1 in per cent."""
    return "-" if share is None else f"{100 * share:.1f} %"


def format_value(value: float | None) -> str:
    """A number of any range and unit, with four significant digits."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def shown_name(name: str) -> str:
    """The name of a metric out of a file, with nothing in it that a page or a chart cannot have."""
    return fitting("".join(c if c.isprintable() else "?" for c in name), LETTERS_MAX)


def fitting(name: str, letters: int) -> str:
    """A name of so many letters at most."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def mean_of(value: object) -> float | None:
    """One number, or the mean of one number an agent; None where it is not known, of one agent
    too."""
    values = list(value.values()) if isinstance(value, Mapping) else [value]
    numbers = [float(one) for one in values if isinstance(one, int | float) and math.isfinite(one)]
    return sum(numbers) / len(numbers) if 0 < len(numbers) == len(values) else None


def reached(summary: Mapping[str, object], metric: Metric) -> dict[str, float | None]:
    """What the agents of a summary and its yardsticks reached, by what it is, as far as it has
    that; None where one is not a number."""
    first = (
        {"mean return of honest agents": "mean_return", "lowest return": "min_accuracy"}
        if metric.is_return
        else {f"mean {metric.name}": "mean_accuracy", metric.worst: "min_accuracy"}
    )
    alone = "first agent alone" if metric.is_return else "agents alone, mean"
    names = {
        **first,
        "on own data, mean": "local_metric",
        "one model on all data": "centralised_accuracy",
        alone: "alone_accuracy",
    }
    return {name: mean_of(summary[key]) for name, key in names.items() if key in summary}
