"""A task in which some agents train on other samples than their own, as their strategies say."""

from collections.abc import Mapping
from functools import partial
from typing import cast

from candor.agent.tasks.base import AnyTask, Batch, Task, is_loop, is_policy_task
from candor.agent.tasks.checked import WithSamples, load_data
from candor.agent.tasks.partition import Shard
from candor.mechanisms.strategies.lies import AltersActions, AltersData, Strategy
from candor.mechanisms.strategies.specs import alters_data, parts_of
from candor.topologies.specs.specs import ConfigurationError


def with_altered_data(task: AnyTask, strategies: Mapping[int, Strategy]) -> AnyTask:
    """The task as agents with these strategies train it, by their places in the cluster file; the
    test set stays as it is.

    Raises:
        ConfigurationError: a strategy alters samples, and the task loads its own or has none; or it
            alters actions, and the task is no environment.
    """
    parts = [part for strategy in strategies.values() for part, _ in parts_of(strategy)]
    if any(isinstance(part, AltersActions) for part in parts) and not is_policy_task(task):
        raise ConfigurationError(
            "this strategy alters the actions of a policy, and the task is no environment such as "
            "cartpole"
        )
    altering = {
        i: cast(AltersData, one) for i, one in strategies.items() if alters_data(one)
    }  # a sum with such a part has `data`, too
    if not altering:
        return task
    if is_policy_task(task):
        raise ConfigurationError(
            "this strategy alters samples, and an environment has none; random-action alters what "
            "an agent does in it"
        )
    if is_loop(task):
        raise ConfigurationError(
            "this strategy alters samples, and the task's train() loads its own; a strategy that "
            "alters reports, such as scale:3, goes with any task"
        )
    return WithSamples(cast(Task, task), partial(_samples, cast(Task, task), altering))


def _samples(task: Task, altering: Mapping[int, AltersData], shard: Shard, seed: int) -> Batch:
    samples = load_data(task, shard, seed)
    strategy = altering.get(shard.index)
    return samples if strategy is None else strategy.data(samples)
