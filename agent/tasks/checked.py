"""Calls into a task, perhaps the user's own: whatever goes wrong becomes one line naming it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from candor.agent.tasks.base import Batch, Metrics, Modelled, Task
from candor.agent.tasks.partition import Shard
from candor.topologies.specs.specs import ConfigurationError, users_errors


@contextmanager
def faults_of(method: str) -> Iterator[None]:
    """Turn whatever a task's method raises into one line that names the method.

    Where it went to another directory we come back: names of files are taken from where the user
    stands.
    """
    here = _here()
    try:
        with users_errors(f"task: {method}() failed"):
            yield
    finally:
        if here is not None and _here() != here:
            with suppress(OSError):  # it is gone
                os.chdir(here)


def _here() -> str | None:
    """The working directory, if it is still there."""
    try:
        return os.getcwd()
    except OSError:
        return None


def said_of(task: Modelled, name: str, default: object) -> Any:
    """What a task says of itself, which may be a property of the user's own."""
    with users_errors(f"task: its {name} failed"):
        return getattr(task, name, default)


def build_model(task: Modelled, seed: int) -> nn.Module:
    """The task's model, drawn from `seed` without touching the global generator.

    Raises:
        ConfigurationError: it cannot be built, is no module, or lazy.
    """
    # Not torch.manual_seed, which would reseed accelerators too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with faults_of("build_model"):
            model = task.build_model()
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"task: build_model() gave a {type(model).__name__}, not a Module")
    modes = [(module, module.training) for module in model.modules()]
    with faults_of("build_model"):
        modal = model.eval() is model.train() is model
    for module, training in modes:  # parts of it may be meant to stay in evaluation mode
        module.training = training
    if not modal:
        raise ConfigurationError(
            "task: build_model() gave a model whose train() or eval() is not torch's; call the "
            "method of its class that trains something else"
        )
    if any(map(is_lazy, model.parameters())):
        raise ConfigurationError(
            "task: build_model() gave a lazy module, whose parameters have no shape yet; call it "
            "once on a batch, or give the sizes"
        )
    return model


def load_data(task: Task, shard: Shard, seed: int) -> Batch:
    """One agent's samples: a tuple of dense tensors of one length above 0.

    Raises:
        ConfigurationError: they cannot be loaded or are something else.
    """
    with faults_of("load_data"):
        data = task.load_data(shard, seed)
    if not isinstance(data, tuple) or not all(isinstance(tensor, Tensor) for tensor in data):
        raise ConfigurationError("task: load_data() must give a tuple of tensors")
    for place, tensor in enumerate(data):
        if tensor.is_meta:
            raise ConfigurationError(
                f"task: load_data() gave tensor {place} on the meta device, which has no numbers"
            )
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            kind = str(tensor.layout).removeprefix("torch.")
            kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else kind
            raise ConfigurationError(
                f"task: load_data() must give dense tensors, and tensor {place} is {kind}"
            )
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigurationError(
            "task: load_data() must give tensors of one and the same length above 0"
        )
    return tuple(tensor.detach() for tensor in data)  # nothing is learned of what made them


class WithSamples:
    """A task whose agents have other samples, `load_data`; all else is the task's own."""

    def __init__(self, task: Task, load_data: Callable[[Shard, int], Batch]) -> None:
        self._task = task
        self.load_data = load_data
        self.loss = task.loss  # the very one, which the learner may know

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)  # what the task says of itself

    def build_model(self) -> nn.Module:
        """The task's model."""
        return self._task.build_model()

    def evaluate(self, model: nn.Module) -> Metrics:
        """The task's metrics."""
        return self._task.evaluate(model)
