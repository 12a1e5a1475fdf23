"""A task in which some agents train on other samples than their own, as their strategies say."""

from collections.abc import Mapping

from torch import nn

from candor.agent.tasks.base import Batch, Metrics, Task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.partition import Shard
from candor.mechanisms.strategies.lies import AltersData, Strategy


def with_altered_data(task: Task, strategies: Mapping[int, Strategy]) -> Task:
    """The task as agents with these strategies train it, by their places in the cluster file; the
    test set stays as it is."""
    altering = {i: one for i, one in strategies.items() if isinstance(one, AltersData)}
    return _Altered(task, altering) if altering else task


class _Altered:
    def __init__(self, task: Task, altering: Mapping[int, AltersData]) -> None:
        self._task = task
        self._altering = altering
        self.loss = task.loss  # the very one, which the learner may know

    def build_model(self) -> nn.Module:
        return self._task.build_model()

    def load_data(self, shard: Shard, seed: int) -> Batch:
        samples = load_data(self._task, shard, seed)
        strategy = self._altering.get(shard.index)
        return samples if strategy is None else strategy.data(samples)

    def evaluate(self, model: nn.Module) -> Metrics:
        return self._task.evaluate(model)
