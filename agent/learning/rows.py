"""Agents of a run as rows that train and report: what an algorithm asks of a host."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from candor.agent.learning.learner import Learner, verified_initial_parameters
from candor.agent.learning.reporting import REPORTS, Reporting
from candor.agent.tasks import resolve_task
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.lies import Strategy
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

VELOCITY: Final = "velocity"
DEVICES: Final = ("auto", "cpu", "cuda", "cuda:1", "mps")
"""What `--device` takes; another number is another card."""


class TrainedRows:
    """Rows that train on their shards and report by their strategies; performs an algorithm's local
    effects (`agent.algorithms.driver.Performer`). `losses` (agents,) and `reports` (agents, dim)
    are those of the round under way.

    Args:
        learner: what trains them.
        reporting: how they report.
        mass: their masses of a round, (agents, 1).
    """

    def __init__(
        self, learner: Learner, reporting: Reporting, mass: Callable[[int], Tensor]
    ) -> None:
        self._learner = learner
        self._reporting = reporting
        self._mass = mass
        self.losses = torch.empty(0)
        self.reports = torch.empty(0)

    def local_steps(self, x: Tensor, t: int, step_size: float, state: dict[str, Tensor]) -> Tensor:
        """The pseudo-gradients (agents, dim) of round t; momentum is in the state. They are where x
        is, wherever the learner trains: a daemon's vectors, which are sent, on the processor."""
        there = x.to(self._learner.device)
        done = self._learner.local_steps(there, t, step_size, state.get(VELOCITY))
        if done.velocity is not None:
            state[VELOCITY] = done.velocity
        self.losses = done.losses
        return done.update.to(x.device)

    def report(self, gradient: Tensor, t: int, state: dict[str, Tensor]) -> Tensor:
        """The reports (agents, dim), which the state keeps for strategies that look back."""
        self.reports = self._reporting.report(gradient, t, state.get(REPORTS))
        if self._reporting.lies:
            state[REPORTS] = self.reports
        return self.reports

    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metric of each row of x (agents, dim)."""
        return self._learner.evaluate(x)

    def mass(self, t: int) -> Tensor:
        """The masses (agents, 1) of round t."""
        return self._mass(t)


def learner_of(
    cluster: Cluster,
    data_root: Path | None,
    shards: Sequence[Shard],
    device: str,
    strategies: Mapping[int, Strategy] = MappingProxyType({}),
    threads: int = 1,
) -> Learner:
    """The learner of some rows, whose data their `strategies`, by shard, may alter, on so many
    threads; raises ConfigurationError for a task that is not usable."""
    task = with_altered_data(resolve_task(cluster.task.name, data_root), strategies)
    settings = cluster.task
    where = str(usable_device(device))
    return Learner(
        task, shards, cluster.algorithm, settings.batch_size, cluster.seed, where, threads
    )


def check_samples(
    cluster: Cluster, data_root: Path | None, initial: Path | None, *, metric: bool
) -> None:
    """Look at every agent's samples before anything is started, see `Learner.check_samples`; with
    `metric` at the task's metric, too.

    Raises:
        ConfigurationError: the task is not usable, or a sample is not.
    """
    task = resolve_task(cluster.task.name, data_root)
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    learner = learner_of(cluster, data_root, shards_of(cluster), "cpu")
    learner.check_samples(x, cluster.ids)
    if metric:
        learner.evaluate(x.unsqueeze(0))


def shards_of(cluster: Cluster) -> tuple[Shard, ...]:
    """Whose rows a whole run has, in the order of the cluster file."""
    count = len(cluster.ids)
    return tuple(Shard(index, count, cluster.task.partition) for index in range(count))


def usable_device(name: str) -> torch.device:
    """The device of this name; `auto` is a CUDA device where there is one, else Apple's, else the
    processor.

    Raises:
        ConfigurationError: it is none of `DEVICES`, or not there.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, colon, number = name.partition(":")
    numbered = kind == "cuda" and number.isascii() and number.isdecimal() and len(number) < 4
    if kind not in DEVICES or (colon and not numbered):
        raise ConfigurationError(f"device {name!r} is unknown; known: {', '.join(DEVICES)}")
    if kind == "cuda" and not cuda:
        raise ConfigurationError(
            f"device {name}: torch finds none here; install a torch built for CUDA, or use cpu"
        )
    if colon and int(number) >= cuda:
        raise ConfigurationError(f"device {name}: torch finds cuda:0 to cuda:{cuda - 1} only")
    if kind == "mps" and not mps:
        raise ConfigurationError(
            "device mps: torch finds none here; it needs a Mac with Apple silicon, or use cpu"
        )
    return torch.device(name)
