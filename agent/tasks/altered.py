"""A task in which some agents train on other samples than their own, as their strategies say."""

from collections.abc import Mapping

from torch import nn

from agent.partition import Shard
from agent.tasks.base import Batch, Task
from agent.tasks.checked import build_model, load_data
from mechanisms.strategies import AltersData, Strategy
from topologies.specs import ConfigurationError


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
        if strategy is None:
            return samples
        altered = strategy.data(samples)
        _check(self._task, altered, seed)
        return altered

    def evaluate(self, model: nn.Module) -> float:
        return self._task.evaluate(model)


def _check(task: Task, altered: Batch, seed: int) -> None:
    """Refuse a class that the model does not know, by its loss on a sample of the largest."""
    largest = int(altered[-1].reshape(len(altered[-1]), -1)[:, 0].argmax())
    try:
        task.loss(build_model(task, seed), tuple(part[largest : largest + 1] for part in altered))
    except (IndexError, RuntimeError) as exc:
        raise ConfigurationError(
            f"the task cannot be trained on the samples that a strategy altered: {exc}"
        ) from exc
