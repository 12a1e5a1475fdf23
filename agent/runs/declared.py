"""`--weights`: whether agents count alike in the mean, or by sizes that their entries declare."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from candor.topologies.cluster.requests import WEIGHT_MAX, WEIGHT_MIN, AgentEntry
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.tasks.base import Task

EQUAL: Final = "equal"
SAMPLES: Final = "samples"
_FORMS: Final = f"write {EQUAL}, {SAMPLES}, or ID=NUMBER,… for each agent"


def declaring(
    entries: Sequence[AgentEntry], asked: str, counted: Callable[[], Sequence[int]] | None
) -> list[AgentEntry]:
    """The entries of agents that sign no request of their own, with the weights that are asked for.

    `counted` gives the number of samples of each, in their order; None where only its host knows.

    Raises:
        ConfigurationError: another form, a number out of range, or not one for each agent.
    """
    if asked == EQUAL:
        return list(entries)
    if asked != SAMPLES:
        weights = given([entry.id for entry in entries], asked)
    elif counted is None:
        raise ConfigurationError(
            f"--weights {SAMPLES}: how many samples agents on other hosts have is theirs to say, "
            "by `candor cluster request --weight`; or write ID=NUMBER,… for each agent"
        )
    else:
        weights = [float(count) for count in counted()]
    found = zip(entries, weights, strict=True)
    return [entry.model_copy(update={"weight": weight}) for entry, weight in found]


def check_declared(entries: Sequence[AgentEntry], asked: str) -> None:
    """Check that agents by their signed requests have declared what is asked for, and no more.

    Raises:
        ConfigurationError: says whom to ask for another request.
    """
    loud = [entry.id for entry in entries if entry.weight is not None]
    silent = [entry.id for entry in entries if entry.weight is None]
    if asked not in (EQUAL, SAMPLES):
        given([entry.id for entry in entries], asked)
        raise ConfigurationError(
            f"--weights {asked}: agents that join by request declare theirs themselves, by "
            f"`candor cluster request --weight`; then give --weights {SAMPLES}"
        )
    if asked == SAMPLES and silent:
        raise ConfigurationError(
            f"--weights {SAMPLES}: {_named(silent)} declared nothing; ask for a request with "
            "--weight NUMBER"
        )
    if asked == EQUAL and loud:
        raise ConfigurationError(
            f"{_named(loud)} declared a weight in a signed request, and weights are {EQUAL} unless "
            f"told; give --weights {SAMPLES}, or ask for a request without --weight"
        )


def samples_of(
    task: str, count: int, partition: str, seed: int, data_root: Path | None
) -> list[int]:
    """How many samples each of `count` agents has whose data are all here.

    Raises:
        ConfigurationError: the data cannot be loaded, or only the task's own loop knows them.
    """
    from candor.agent.tasks import resolve_task
    from candor.agent.tasks.checked import load_data
    from candor.agent.tasks.partition import Shard

    found = resolve_task(task, data_root)
    if not hasattr(found, "load_data"):
        raise ConfigurationError(
            f"--weights {SAMPLES}: task {task!r} has no load_data() to count samples of; write "
            "ID=NUMBER,… for each agent"
        )
    task_of_losses = cast("Task", found)
    shards = [Shard(index, count, partition) for index in range(count)]
    return [len(load_data(task_of_losses, shard, seed)[0]) for shard in shards]


def as_asked(entries: Sequence[AgentEntry]) -> str:
    """What to ask for so that the same agents declare the same weights."""
    weights = {entry.id: entry.weight for entry in entries}
    if None in weights.values():
        return EQUAL
    return ",".join(f"{agent}={weight!r}" for agent, weight in weights.items())


def given(ids: Sequence[str], asked: str) -> list[float]:
    """The weights of agents, in their order, that `ID=NUMBER,…` gives.

    Raises:
        ConfigurationError: another form, a number out of range, or not one for each agent.
    """
    found: dict[str, float] = {}
    for text in asked.split(","):
        agent, equals, number = (part.strip() for part in text.partition("="))
        if not (agent and equals and number):
            raise ConfigurationError(f"--weights {asked}: {_FORMS}")
        if agent in found:
            raise ConfigurationError(f"--weights: agent {agent!r} is named twice")
        found[agent] = _number(agent, number)
    for agent in found.keys() - set(ids):
        raise ConfigurationError(
            f"--weights {agent}=…: no such agent; they are {ids[0]} … {ids[-1]}"
        )
    if missing := [agent for agent in ids if agent not in found]:
        raise ConfigurationError(f"--weights: none is given of {_named(missing)}; {_FORMS}")
    return [found[agent] for agent in ids]


def _number(agent: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not WEIGHT_MIN <= number <= WEIGHT_MAX:
        raise ConfigurationError(
            f"--weights {agent}={text}: a weight is a number from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}"
        )
    return number


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"agent {ids[0]!r}{more}"
