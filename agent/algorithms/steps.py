"""The step sizes that all agents agree on; without torch, for who only judges them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from candor.mechanisms.agreement.coin import Coin

T = TypeVar("T")

OUTER_STEP: Final = 0.7
OUTER_MOMENTUM: Final = 0.9
"""Of DiLoCo: the best ones of Douillard et al. 2023 (arXiv 2311.08105, section 3)."""


LARGE_BATCH: Final = 50
SMALL_BATCH: Final = 4
SWITCH_PROBABILITY: Final = 0.2
"""Of policy gradients: what Jordan et al. (arXiv 2401.03489) take for CartPole, where neither the
run nor its task says otherwise."""
# Against attackers who send everyone the same, one is enough; against those who do not, the
# diameter shrinks by a factor each time: 3 equivocators of 13, within the honest diameter, hold
# agreement up for 6 at most.
AGREEMENT_ROUNDS: Final = 8


def always(_t: int) -> bool:
    """A coin that shows heads in every round: of runs that have none."""
    return True


@dataclass(frozen=True, slots=True)
class Hyper:
    """What every agent agrees on: `step_size(t)` is lambda_t of round t (from 1), above 0; the
    outer step and momentum are DiLoCo's, the rest is of policy gradients: `coin(t)` is the common
    coin, the batches are in trajectories of an agent, `policy_exchanges` are those of a round in
    which policies are averaged; `published`: the estimator is that of the authors' program."""

    step_size: Callable[[int], float]
    outer_step: float = OUTER_STEP
    outer_momentum: float = OUTER_MOMENTUM
    coin: Coin = always
    large_batch: int = LARGE_BATCH
    small_batch: int = SMALL_BATCH
    policy_exchanges: int = 1
    published: bool = False


def given_or(value: T | None, default: T) -> T:
    """A setting, or its default where it is left out."""
    return default if value is None else value


def step_schedule(step_size: float, decay: float) -> Callable[[int], float]:
    """lambda_t = step_size * t**-decay; above 1/2 the decay bounds the gain of any deviation."""

    def step(t: int) -> float:
        return step_size * math.pow(t, -decay)

    return step
