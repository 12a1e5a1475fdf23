"""A user's algorithm whose mixing rows follow from sketches: nearest-neighbour mixing.

Each agent averages its own vector and the nearer half of those it heard, by the distances of their
signed sketches, so that every neighbour derives the same row (after NNM of Allouah et al.,
AISTATS 2023, with a neighbourhood in the place of all workers).
"""

from collections.abc import Mapping
from itertools import count

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.effects import LocalSteps, Mix, Report, Rounds, State
from candor.agent.algorithms.steps import Hyper
from candor.mechanisms.evidence.phases import Part, Phase, Phases


def nearest(
    agent: str,
    _round: int,
    weights: Mapping[str, float],
    sketches: Mapping[str, NDArray[np.float64]],
) -> dict[str, float]:
    """Equal weights for the agent and the nearer half of the others, rounded up; 0 for the rest.

    Distances are added up one after the other, so that their bits are the same on every machine.
    """

    def distance(other: str) -> float:
        squared = 0.0
        for difference in (sketches[other] - sketches[agent]).tolist():
            squared += difference * difference
        return squared

    others = sorted((distance(k), k) for k in weights if k != agent)
    chosen = {agent, *(k for _, k in others[: (len(others) + 1) // 2])}
    return {k: 1.0 / len(chosen) if k in chosen else 0.0 for k in weights}


class Nearest:
    """Adapt, then average with the nearest."""

    phases = Phases(
        (Phase("model", (Part(0, before=True, rule="nearest"),), charged=True),),
        {"nearest": nearest},
    )

    def __call__(self, x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds:
        for t in count(start):
            gradient: Tensor = yield LocalSteps(x, t)
            report: Tensor = yield Report(gradient, t)
            x = yield Mix(x.sub(report, alpha=hyper.step_size(t)), t)
