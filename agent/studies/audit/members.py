"""Who the agents of an audit are: neighbours, samples and classes of each, and who is to lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from candor.agent.learning.rows import shards_of
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Task, is_loop, is_policy_task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.held_out import held_out_places
from candor.topologies.cluster.file import Cluster, local_steps_of


@dataclass(frozen=True, slots=True)
class Member:
    """An agent of one seed's run: how many neighbours it has; how many samples, None where only its
    loop knows; `classes` are as many as would be as mixed if each had as many samples, e to the
    entropy of its labels, None without labels."""

    seed: int
    agent: str
    degree: int
    samples: int | None = None
    classes: float | None = None


def members_of(cluster: Cluster, data_root: Path | None) -> list[Member]:
    """The agents of a run, in the order of the cluster file.

    Raises:
        ConfigurationError: the task is not usable.
    """
    task = resolve_task(cluster.task.name, data_root)
    bare = [Member(cluster.seed, a, len(cluster.neighbours(a))) for a in cluster.ids]
    if is_policy_task(task) or is_loop(task):
        return bare
    labelled = isinstance(task, Classification)
    return [
        _with_samples(one, load_data(cast(Task, task), shard, cluster.seed), labelled=labelled)
        for one, shard in zip(bare, shards_of(cluster), strict=True)
    ]


def _with_samples(member: Member, data: Sequence[torch.Tensor], *, labelled: bool) -> Member:
    classes = None
    if labelled:
        _, counts = np.unique(data[-1].cpu().numpy(), return_counts=True)
        shares = counts / counts.sum()
        classes = float(np.exp(-(shares * np.log(shares)).sum()))
    return Member(member.seed, member.agent, member.degree, len(data[0]), classes)


def by_degree(cluster: Cluster) -> tuple[str, ...]:
    """The first agents of the lowest, the median and the highest degree: one where all have as many
    neighbours."""
    degrees = {agent: len(cluster.neighbours(agent)) for agent in cluster.ids}
    ordered = sorted(degrees.values())
    first = {degrees[agent]: agent for agent in reversed(cluster.ids)}
    return tuple(first[d] for d in sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]}))


def trained_steps(
    cluster: Cluster, members: Sequence[Member], held_out: float
) -> NDArray[np.float64]:
    """How many steps a round has for each of a run's agents, (agents,), where a share of its
    samples is held out."""
    algorithm = cluster.algorithm
    if algorithm.local_epochs is None:
        return np.full(len(members), float(algorithm.local_steps))
    counts = [member.samples or 1 for member in members]
    if held_out:
        seed = cluster.seed
        held = [held_out_places(n, held_out, seed, i).sum() for i, n in enumerate(counts)]
        counts = [n - int(out) for n, out in zip(counts, held, strict=True)]
    epochs, size = algorithm.local_epochs, cluster.task.batch_size
    return np.array([local_steps_of(epochs, n, size) for n in counts], np.float64)
