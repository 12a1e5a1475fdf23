"""A task's metric of one model: called safely, and checked to be what the task says it is."""

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch

from candor.agent.tasks.base import Metrics, Modelled, is_policy_task
from candor.agent.tasks.checked import faults_of, said_of
from candor.agent.tasks.measured import Measured
from candor.topologies.cluster.file import DEFAULT_METRIC, TaskSettings
from candor.topologies.specs.specs import ConfigurationError

UNDEFINED = Measured(math.nan)
RETURN: Final = "mean_return"
"""The metric of a policy: the mean sum of rewards of an episode, not discounted."""


def metric_of(task: Modelled) -> tuple[str | None, bool]:
    """Which metric counts, None where the task names none, and whether higher values are better.

    Raises:
        ConfigurationError: an attribute is of another type.
    """
    if is_policy_task(task):
        return RETURN, True
    name, higher = said_of(task, "metric", None), said_of(task, "higher_is_better", True)
    if not isinstance(name, str | None) or name == "":
        raise ConfigurationError(f"task: metric is {name!r}, which is no name")
    if not isinstance(higher, bool):
        raise ConfigurationError(f"task: higher_is_better is {higher!r}, neither True nor False")
    return name, higher


def stated_metric(task: Modelled) -> dict[str, str]:
    """What a cluster file says of the metric that counts, by key: nothing where it is accuracy.

    Raises:
        ConfigurationError: an attribute is of another type.
    """
    name, higher = metric_of(task)
    named = {} if name in (None, DEFAULT_METRIC) else {"metric": str(name)}
    return named | ({} if higher else {"better": "lower"})


def check_metric(task: Modelled, settings: TaskSettings) -> None:
    """See that the task on this host measures what the cluster file says.

    Raises:
        ConfigurationError: it names another metric, or the other direction.
    """
    name, higher = metric_of(task)
    here = (name or DEFAULT_METRIC, higher)
    stated = (settings.metric_name, settings.higher_is_better)
    if here != stated:
        raise ConfigurationError(
            f"task {settings.name!r} says that {_told(*here)}, and the cluster file that "
            f"{_told(*stated)}; use the same task code everywhere, or make the file anew"
        )


def _told(metric: str, higher: bool) -> str:
    return f"{metric} counts, {'higher' if higher else 'lower'} is better"


def measured(task: Modelled, call: Callable[[], Metrics], method: str = "evaluate") -> Measured:
    """What a method of the task gives for a model.

    Raises:
        ConfigurationError: it fails, gives no finite number, lacks the metric that counts, or gives
            a number that is no share where no metric is named.
    """
    with torch.no_grad(), faults_of(method):
        given = call()
    name, _ = metric_of(task)
    if not isinstance(given, Mapping):
        return Measured(_counted(_number(given, method, name or DEFAULT_METRIC), name, method))
    several = {str(key): _number(number, method, str(key)) for key, number in given.items()}
    wanted = name or DEFAULT_METRIC
    if wanted not in several:
        there = ", ".join(several) or "none"
        raise ConfigurationError(
            f"task: {method}() gave the metrics {there}; which one counts? say "
            f'metric = "…" in the class' + (f" (it says {name!r})" if name else "")
        )
    return Measured(_counted(several[wanted], name, method), several)


def _counted(value: float, name: str | None, method: str) -> float:
    """The metric that counts; raises ConfigurationError for an accuracy that is no share."""
    if name is None and not (math.isnan(value) or 0.0 <= value <= 1.0):
        raise ConfigurationError(
            f"task: {method}() gave {value}, which is not from 0 to 1; name what it is, such "
            'as metric = "rmse" and higher_is_better = False in the class'
        )
    return value


def _number(value: object, method: str, name: str) -> float:
    with faults_of(method):
        number = float(value)  # type: ignore[arg-type]  # whatever a user gives
    if math.isinf(number):
        raise ConfigurationError(f"task: {method}() gave {number} as {name}")
    return number
