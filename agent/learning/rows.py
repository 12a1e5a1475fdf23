"""The effects of a run's algorithm performed on many rows at once, whatever mixes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from candor.agent.learning.learner import Learner
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.lies import Strategy
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError


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
    return Learner(
        task, shards, cluster.algorithm, settings.batch_size, cluster.seed, device, threads
    )


def shards_of(cluster: Cluster) -> tuple[Shard, ...]:
    """Whose rows a whole run has, in the order of the cluster file."""
    count = len(cluster.ids)
    return tuple(Shard(index, count, cluster.task.partition) for index in range(count))


def usable_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ConfigurationError: it is neither `cpu` nor a CUDA device that is there.
    """
    if name == "cpu":
        return torch.device(name)
    if name != "cuda":
        raise ConfigurationError(f"device {name!r} is unknown; known: cpu, cuda")
    if not torch.cuda.is_available():
        raise ConfigurationError(
            "device cuda: torch finds none here; install a torch built for CUDA, or use cpu"
        )
    return torch.device(name)
