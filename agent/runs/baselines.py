"""What a run is compared with: one model on all data, and every agent on its own data alone."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from candor.agent.algorithms.catalogue import coin_of, phases_of
from candor.agent.algorithms.driver import Driver
from candor.agent.algorithms.effects import Heard
from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.learning.learner import Learning
from candor.agent.learning.reporting import Reporting
from candor.agent.learning.rows import TrainedRows, usable_device
from candor.agent.learning.spread import simulated_learner_of
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import is_policy_task
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import Cluster

BATCH_MAX: Final = 4096
"""Samples of one step of the one model: more average no noise that would show, and the activations
of a CNN for so many take a gigabyte."""
ALONE_POLICIES_MAX: Final = 1
"""Agents whose policies are learned alone: they differ by chance only, and each takes a third of
the time of the run itself."""
ALONE_MAX: Final = 256  # agents that are trained alone: all of a large run would double its time


def centralised_accuracy(
    cluster: Cluster,
    data_root: Path | None = None,
    initial: Path | None = None,
    device: str = "cpu",
) -> float:
    """What one model with everyone's data reaches in as many rounds and steps, by the
    metric that counts.

    Each step is on as many samples as those of all agents together have, see `centralised_batch`:
    what the network would be, did it average at each step and lose nothing.

    Raises:
        ConfigurationError: the task is not usable.
    """
    shard = Shard(0, 1, cluster.task.partition, together=len(cluster.ids))
    task = cluster.task.model_copy(update={"batch_size": centralised_batch(cluster)})
    whole = cluster.model_copy(update={"task": task})
    return _without_mixing(whole, (shard,), data_root, initial, device)[0]


def centralised_batch(cluster: Cluster) -> int:
    """Samples of one step of the one model: all agents' together, `BATCH_MAX` at most, but no fewer
    than those of a single agent."""
    one = cluster.task.batch_size
    return max(one, min(one * len(cluster.ids), BATCH_MAX))


def alone_accuracy(
    cluster: Cluster,
    data_root: Path | None = None,
    initial: Path | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """What agents reach on their own data without any neighbour, by id and the metric
    that counts.

    All of them, or `ALONE_MAX` that are spread evenly over the cluster file; of those that share an
    environment `ALONE_POLICIES_MAX`.

    Raises:
        ConfigurationError: the task is not usable.
    """
    count = len(cluster.ids)
    policies = is_policy_task(resolve_task(cluster.task.name, data_root))
    chosen = min(count, ALONE_POLICIES_MAX if policies else ALONE_MAX)
    some = [i * count // chosen for i in range(chosen)]
    shards = [Shard(index, count, cluster.task.partition) for index in some]
    values = _without_mixing(cluster, shards, data_root, initial, device)
    return {cluster.ids[index]: value for index, value in zip(some, values, strict=True)}


def _without_mixing(
    cluster: Cluster,
    shards: Sequence[Shard],
    data_root: Path | None,
    initial: Path | None,
    device: str,
) -> list[float]:
    """What each shard's agent reaches in the cluster's rounds of honest training, unmixed. Local
    phases of seconds are one pass over its samples here: whose seconds would they be?"""
    if cluster.algorithm.local_seconds is not None:
        epochs = {"local_seconds": None, "local_epochs": 1}
        algorithm = cluster.algorithm.model_copy(update=epochs)
        cluster = cluster.model_copy(update={"algorithm": algorithm})
    cores = torch.get_num_threads()
    learner = simulated_learner_of(
        cluster, data_root, shards, device, initial=initial, processes=cores
    )
    rounds = alone_rounds(cluster, shards, learner, data_root, initial, device)
    (last,) = deque(rounds, maxlen=1)
    return [one.value for one in learner.evaluate(last)]


def alone_rounds(
    cluster: Cluster,
    shards: Sequence[Shard],
    learner: Learning,
    data_root: Path | None,
    initial: Path | None,
    device: str = "cpu",
) -> Iterator[Tensor]:
    """The models (agents, dim) after each of the cluster's rounds of agents that hear nobody, of
    these shards, which the learner trains.

    Raises:
        ConfigurationError: the task is not usable.
    """
    task = resolve_task(cluster.task.name, data_root)
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    rows = x.repeat(len(shards), 1).to(usable_device(device))
    ones = torch.ones(len(shards), 1, device=rows.device)
    honest = Reporting(cluster.seed, [shard.index for shard in shards], {})
    trained = TrainedRows(learner, honest, lambda _t: ones)
    driver = Driver(cluster.algorithm, trained, None, rows, coin=coin_of(cluster))
    last = phases_of(cluster.algorithm).model
    answer: Tensor | Heard | None = None
    while True:
        out = driver.advance(answer)
        if out.phase == last:
            yield out.vectors
            if out.round == cluster.rounds.rounds:
                return
        answer = driver.combined(out.vectors if out.mixes else _alone(out.vectors))


def _alone(v: Tensor) -> Heard:
    """What agents without neighbours hear."""
    return Heard(v[:, None, :][:, :0], torch.zeros(len(v), 0, dtype=torch.bool), v)
