"""Federated SGD among competitors who add noise to their gradients: who pays, and does it pay?

The arithmetic of the FeMNIST experiment of Dorner et al. 2023 (appendix B.3), from what a training
measured. Payments do not touch the training, so one training is billed by any rule, at every price
C: by the paper's, player i pays C ||m_i - mbar||^2 for each step in which it takes part, and the
others of that step share what it pays (equation 10). Its reward is the test loss of the final model
less its net payments: a competitor gains when the common model is bad. Nothing is trained here.

The paper's rule charges players with few samples most, whose gradients are far from the average
that they hardly move. `INFLUENCE`, ours, charges each for its distance times its weight in the
average, how far it moves that, and so the same as the paper's where weights are equal.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.studies.audit.incentives import Deviation, Floats, price_window

Ints = NDArray[np.int64]

HIGH_PERCENTILE: Final = 98


class Rule(StrEnum):
    """What a step is billed for: ||m_i - mbar||^2, or the square of k w_i ||m_i - mbar|| where w_i
    is the weight of player i among the k of the step."""

    DISTANCE = "distance"
    INFLUENCE = "influence"


def charges(rule: Rule, samples: Ints, chosen: Ints, squared: Floats) -> Floats:
    """What each player pays, net, over all steps at price 1; above 0 is paid: (players,).

    Args:
        rule: what is paid for.
        samples: of each player (players,), above 0; the average of a step is weighted by them.
        chosen: the players of each step (steps, k), k at least 2, no player twice in a step.
        squared: their ||m_i - mbar||^2 (steps, k).
    """
    k = chosen.shape[1]
    if rule is Rule.INFLUENCE:
        counts = samples[chosen]
        squared = squared * (k * counts / counts.sum(axis=1, keepdims=True)) ** 2
    others = (squared.sum(axis=1, keepdims=True) - squared) / (k - 1)
    paid = np.zeros(len(samples))
    np.add.at(paid, chosen, squared - others)
    return paid


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One aggressiveness of a group, over the runs of it that did not diverge.

    `alpha`: the size of its noise; `losses` (runs,): the final test losses, `accuracies` (runs,)
    likewise; `charges` (runs,): the group's mean net payment at price 1.
    """

    alpha: float
    losses: Floats
    accuracies: Floats
    charges: Floats

    def rewards(self, price: float) -> Floats:
        """The group's mean reward at a price, by run (runs,)."""
        return self.losses - price * self.charges

    def reward(self, price: float) -> tuple[float, float]:
        """The mean of that, and its standard error: nan for a single run."""
        rewards, runs = self.rewards(price), len(self.losses)
        error = float(rewards.std(ddof=1)) / math.sqrt(runs) if runs > 1 else math.nan
        return float(rewards.mean()), error


@dataclass(frozen=True, slots=True)
class Measured:
    """All that prices are judged by.

    `outcomes`: in order of aggressiveness, honesty first, each with a run at least;
    `honest_charges` (runs, players): net payments at price 1 when all players are honest.
    """

    outcomes: tuple[Outcomes, ...]
    honest_charges: Floats

    @property
    def damage(self) -> float:
        """What the largest aggressiveness costs the honest, in test loss."""
        return float(self.outcomes[-1].losses.mean() - self.outcomes[0].losses.mean())

    @property
    def honest_charge(self) -> float:
        """What 98 % of the honest pay at most, net, at price 1; run by run, not averaged over runs
        as in the paper, which would even out what chance makes them pay."""
        return float(np.percentile(self.honest_charges, HIGH_PERCENTILE))

    @property
    def falls_from(self) -> float:
        """The lowest price from which on the mean reward falls with every step of aggressiveness;
        inf if there is none, or no noise that ended in numbers."""
        if len(self.outcomes) < 2:
            return math.inf
        steps = (
            Deviation(
                f"{less.alpha:g} to {more.alpha:g}",
                np.array([more.losses.mean() - less.losses.mean()]),
                np.array([[more.charges.mean() - less.charges.mean()]]),
            )
            for less, more in pairwise(self.outcomes)
        )
        window = price_window(steps, np.ones(1), epsilon=0.0)
        return window.low if math.isinf(window.high) else math.inf

    @property
    def cheap_below(self) -> float:
        """The price below which 98 % of the honest pay less than a tenth of the damage; 0 if there
        is no damage, inf if they pay nothing."""
        most = self.honest_charge
        return max(0.0, self.damage / 10) / most if most > 0 else math.inf

    @property
    def holds(self) -> bool:
        """Whether there are prices at which both are true."""
        return self.falls_from < self.cheap_below
