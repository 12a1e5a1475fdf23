"""The step sizes that all agents agree on; without torch, for who only judges them."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hyper:
    """What every agent agrees on: `step_size(t)` is lambda_t of round t (from 1), above 0."""

    step_size: Callable[[int], float]


def step_schedule(step_size: float, decay: float) -> Callable[[int], float]:
    """lambda_t = step_size * t**-decay; above 1/2 the decay bounds the gain of any deviation."""

    def step(t: int) -> float:
        return step_size * math.pow(t, -decay)

    return step
