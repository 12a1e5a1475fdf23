"""Does a lie pay? Gains and payments of deviations, and the prices at which none is worth it.

A deviation is judged against honesty on the same seeds: `gains` is what it wins in reward before
any payment, `charges` what it pays more than the honest agent would, per unit price. Payments never
touch learning, so its net gain at price C is gain - C charge, a line in C; the prices that make
honesty the best response within epsilon are an interval. Arithmetic alone: nothing is run here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval; infinitely wide where one sample says nothing."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Deviation:
    """What a strategy wins and pays, one number a seed (seeds,), against honesty on that seed.

    `gains` in units of reward; `charges` in credits per unit price, above 0 is paid. A credit is
    worth one unit of reward.
    """

    strategy: str
    gains: Floats
    charges: Floats

    def net(self, price: float) -> Floats:
        """The gain that is left after payments at a price, by seed (seeds,)."""
        return self.gains - price * self.charges

    def break_even(self, epsilon: float) -> tuple[float, float]:
        """The prices, from 0 on, at which the mean net gain is at most epsilon: (low, high), where
        low > high if there are none and high is inf without a bound."""
        gain, charge = float(self.gains.mean()) - epsilon, float(self.charges.mean())
        if not math.isfinite(gain) or not math.isfinite(charge):
            # A run that diverged: whoever ruins the model wins nothing, whatever it pays.
            return (0.0, math.inf) if gain < 0 else (math.inf, -math.inf)
        if charge > 0:
            return max(0.0, gain / charge), math.inf
        if charge < 0:
            return (0.0, gain / charge) if gain <= 0 else (math.inf, -math.inf)
        return (0.0, math.inf) if gain <= 0 else (math.inf, -math.inf)


@dataclass(frozen=True, slots=True)
class PriceWindow:
    """The prices at which no deviation gains more than epsilon: empty where low > high.

    `by` names the deviation that asks for the lowest price, `against` the one that forbids a higher
    one, "" where nothing does.
    """

    low: float
    high: float
    by: str
    against: str

    @property
    def empty(self) -> bool:
        """Whether some deviation pays at every price."""
        return self.low > self.high

    def suggested(self) -> float | None:
        """A price inside, with room on both sides: twice the lowest, but no nearer to the upper end
        than half way (geometrically); None where there is none."""
        if self.empty:
            return None
        if self.low == 0.0:
            return 0.0
        return min(2 * self.low, math.sqrt(self.low * self.high))


def price_window(deviations: Iterable[Deviation], epsilon: float) -> PriceWindow:
    """The prices that make honesty the best response within epsilon (units of reward)."""
    low, high, by, against = 0.0, math.inf, "", ""
    for deviation in deviations:
        least, most = deviation.break_even(epsilon)
        if least > low:
            low, by = least, deviation.strategy
        if most < high:
            high, against = most, deviation.strategy
    return PriceWindow(low, high, by, against)


def interval(samples: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Interval:
    """Student's confidence interval of the mean of independent samples (seeds,)."""
    values = np.asarray(samples, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(mean, -math.inf, math.inf)
    from scipy.stats import t

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def competitive(losses: Floats, agent: int, weight: float) -> Floats:
    """The reward of one agent (...,) from everyone's losses (..., agents): the others' mean loss
    times `weight`, minus its own; Dorner et al., eq. (2), whose reward sums over competitors.

    A weight of 0 is the reward of who cares for its own model alone.
    """
    others = np.delete(losses, agent, axis=-1).mean(axis=-1)
    reward: Floats = weight * others - losses[..., agent]
    return reward
