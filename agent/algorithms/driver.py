"""The effects of a run's algorithm performed, whatever trains and mixes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from candor.agent.algorithms import Hyper, resolve_algorithm, step_schedule
from candor.agent.algorithms.effects import LocalSteps, Mass, Mix, Report
from candor.topologies.cluster.file import Cluster


class Trainer(Protocol):
    """What performs local steps, such as a learner."""

    def local_steps(self, x: Tensor, t: int, step_size: float) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Trained:
    """A round of training: `stated` (agents, dim) is what neighbours are sent, `mixed` what it was
    mixed to, `losses` (agents,)."""

    round: int
    stated: Tensor
    mixed: Tensor
    losses: Tensor


def trained(
    cluster: Cluster,
    learner: Trainer,
    x: Tensor,
    start: int,
    *,
    report: Callable[[Tensor, int], Tensor],
    mass: Callable[[int], Tensor],
    mix: Callable[[Tensor, int], Tensor],
) -> Iterator[Trained]:
    """Perform the effects of the cluster's algorithm from x, the models of round `start`, on."""
    step_size = step_schedule(cluster.algorithm.step_size, cluster.algorithm.step_decay)
    algorithm = resolve_algorithm(cluster.algorithm.name)(x, Hyper(step_size), start)
    effect = next(algorithm)
    losses = torch.zeros(len(x))
    while True:
        match effect:
            case LocalSteps(x, t):
                answer, losses = learner.local_steps(x, t, step_size(t))
            case Report(gradient, t):
                answer = report(gradient, t)
            case Mix(y, t):
                answer = mix(y, t)
                yield Trained(t, y, answer, losses)
            case Mass(t):
                answer = mass(t)
        effect = algorithm.send(answer)
