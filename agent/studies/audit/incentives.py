"""Does a lie pay? Gains and charges of deviations, and the prices at which none is worth it.

A deviation is judged against honesty on the same seeds: `gains` is what it wins in reward before
any payment, `charges` what it pays more than the honest agent would, for each term of the rule at
price 1. Payments never touch learning, so a net gain is linear in the prices: gain - charges p.
The prices that stop all lies and cost honest agents the least are a linear programme, as are those
that weigh the one against the other; the factors on prices that still stop all are an interval.
Arithmetic alone: nothing is run here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
"""Of Student's two-sided interval with seeds - 1 degrees of freedom. That all upper ends lie below
epsilon though a lie gains more is then the case in 2.5 of 100 audits at most, wherever gains are
normal over the seeds: it takes the very lie that pays to be missed, so that the number of lies does
not count (Berger 1982). Prices that are set by the same seeds add to it: `LEVEL` is for both."""
LEVEL: Final = 0.05
SEEDS_MIN: Final = 5
"""Fewer tell nothing: even if all agree, chance does that more often than `LEVEL`, 1/2 ** seeds."""
MARGIN: Final = 0.9
"""Suggested prices leave a lie at most so much of epsilon: other seeds bring other gains."""
_IDLE_PRICE: Final = 1e-7  # what a price costs, so that terms that nobody needs stay at 0
_TOLERANCE: Final = 1e-10
_BALANCINGS: Final = 20
_FACTORS: Final = np.geomspace(1.0, 100.0, 93)  # five per cent apart


class Answer(StrEnum):
    """Does a lie pay?"""

    PAYS = "a lie pays"
    NONE_PAYS = "no lie pays"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval, infinitely wide where the samples tell nothing."""

    mean: float
    low: float
    high: float

    def answer(self, epsilon: float) -> Answer:
        """Whether a lie whose gain this is pays: it does if the whole interval is above epsilon,
        and does not if all of it ends below."""
        if self.low > epsilon:
            return Answer.PAYS
        return Answer.UNDECIDED if epsilon < self.high else Answer.NONE_PAYS


@dataclass(frozen=True, slots=True)
class Deviation:
    """What a strategy wins and pays against honesty, seed by seed.

    `gains` (seeds,) in units of reward; `charges` (seeds, terms) in credits, each term of the rule
    at price 1, above 0 is paid. A credit is worth one unit of reward.
    """

    strategy: str
    gains: Floats
    charges: Floats

    @property
    def finite(self) -> bool:
        """Whether all its runs ended. Whoever ruins the model wins nothing, whatever it pays."""
        return bool(np.isfinite(self.gains).all() and np.isfinite(self.charges).all())

    def net(self, prices: Floats) -> Floats:
        """The gain that is left after payments at prices (terms,), by seed (seeds,)."""
        return np.asarray(self.gains - self.charges @ prices if self.finite else self.gains)

    def net_interval(self, prices: Floats) -> Interval:
        """The `gain_interval` of the net gain at prices (terms,)."""
        return gain_interval(self.net(prices))

    def break_even(self, prices: Floats, epsilon: float) -> tuple[float, float]:
        """The factors on the prices, from 0 on, at which the mean net gain is at most epsilon:
        (low, high), where low > high if there are none and high is inf without a bound."""
        if not self.finite:
            return 0.0, math.inf
        gain, charge = float(self.gains.mean()) - epsilon, float((self.charges @ prices).mean())
        if charge > 0:
            return max(0.0, gain / charge), math.inf
        if gain > 0:
            return math.inf, -math.inf
        return 0.0, gain / charge if charge < 0 else math.inf


@dataclass(frozen=True, slots=True)
class PriceWindow:
    """The factors on the prices at which no deviation gains more than epsilon: empty where low is
    above high.

    `by` names the deviation that asks for the lowest factor, `against` the one that forbids a
    higher one, "" where nothing does.
    """

    low: float
    high: float
    by: str
    against: str

    @property
    def empty(self) -> bool:
        """Whether some deviation pays at every factor."""
        return self.low > self.high


def price_window(deviations: Iterable[Deviation], prices: Floats, epsilon: float) -> PriceWindow:
    """The factors on prices (terms,) that make honesty the best response within epsilon (units of
    reward)."""
    low, high, by, against = 0.0, math.inf, "", ""
    for deviation in deviations:
        least, most = deviation.break_even(prices, epsilon)
        if least > low:
            low, by = least, deviation.strategy
        if most < high:
            high, against = most, deviation.strategy
    return PriceWindow(low, high, by, against)


def suggested_prices(
    deviations: Sequence[Deviation], honest_paid: Floats, epsilon: float
) -> Floats:
    """The `stopping_prices` (terms,), if no honest agent pays more than epsilon at them.

    Else those that weigh both: the sum is least of the largest that any honest agent pays, and of
    what each lie gains beyond `MARGIN` epsilon. So a lie is let go that is dearer to stop than it
    is to bear, and not the others for its sake.

    Args: as of `stopping_prices`.
    """
    stopping = stopping_prices(deviations, honest_paid, epsilon)
    if stopping is not None and (honest_paid @ stopping).max(initial=0.0) <= epsilon:
        return stopping
    weighed = _least_cost(deviations, honest_paid, epsilon, excess_max=None)
    assert weighed is not None  # prices of 0 are always possible
    return weighed


def stopping_prices(
    deviations: Sequence[Deviation], honest_paid: Floats, epsilon: float
) -> Floats | None:
    """The prices (terms,) that leave no deviation more than `MARGIN` epsilon and cost honest agents
    the least: the largest of what any of them pays is as low as can be. None if no prices do.

    Args:
        deviations: those whose runs did not all end in numbers are left out.
        honest_paid: (samples, terms) what honest agents among themselves pay at price 1, net.
        epsilon: in units of reward.
    """
    return _least_cost(deviations, honest_paid, epsilon, excess_max=0.0)


def covering_factor(deviations: Iterable[Deviation], prices: Floats, epsilon: float) -> float:
    """The least factor, 1 at least, on prices (terms,) at which the interval of each net gain, and
    not only its mean, is at most epsilon; 1 if there is none up to 100."""
    known = [deviation for deviation in deviations if deviation.finite]
    if not known:
        return 1.0
    gains = np.array([one.gains for one in known])[..., np.newaxis]  # (lies, seeds, 1)
    charges = np.array([one.charges @ prices for one in known])[..., np.newaxis]
    nets = gains - charges * _FACTORS
    covered = (nets.mean(axis=1) + _reach(nets, axis=1) <= epsilon).all(axis=0)
    return float(_FACTORS[covered.argmax()]) if covered.any() else 1.0


def _least_cost(
    deviations: Sequence[Deviation], honest_paid: Floats, epsilon: float, excess_max: float | None
) -> Floats | None:
    """The prices p >= 0 of a linear programme in p, b >= 0 and one s from 0 to `excess_max` a lie:
    least b + sum s with honest_paid p <= b and gains - charges p <= `MARGIN` epsilon + s. None if
    there are none."""
    from scipy.optimize import linprog

    most, terms = MARGIN * epsilon, honest_paid.shape[1]
    known = [deviation for deviation in deviations if deviation.finite]
    gains = np.array([deviation.gains.mean() for deviation in known]) - most
    charges = np.array([deviation.charges.mean(axis=0) for deviation in known]).reshape(-1, terms)
    asked = (gains > 0) | (charges < 0).any(axis=1)  # of the others no prices ask anything
    gains, charges = gains[asked], charges[asked]
    if not (gains > 0).any():
        return np.zeros(terms)
    # A solver has tolerances, and charges differ by ten orders of magnitude from lie to lie.
    of_row, of_term = _balance(charges)
    honest = honest_paid / of_term
    of_honest = np.abs(honest).max(initial=0.0) or 1.0
    size = float((gains / of_row).max())  # of the prices, in units of `of_term`
    unit = float(gains.max())
    lies, samples = len(gains), len(honest)
    slack = np.zeros((lies + samples, 1 + lies))
    slack[:lies, 1:] = np.diag(unit / of_row / size)
    slack[lies:, 0] = unit / of_honest / size
    rows = np.concatenate([-charges / of_term / of_row[:, np.newaxis], honest / of_honest])
    found = linprog(
        [*[_IDLE_PRICE] * terms, *[1.0] * (1 + lies)],
        A_ub=np.column_stack([rows, -slack]),
        b_ub=np.concatenate([-gains / of_row / size, np.zeros(samples)]),
        bounds=[(0.0, None)] * (terms + 1) + [(0.0, excess_max)] * lies,
        method="highs",
        options={
            "primal_feasibility_tolerance": _TOLERANCE,
            "dual_feasibility_tolerance": _TOLERANCE,
        },
    )
    if found.x is None:
        return None
    return np.asarray(found.x[:terms] * size / of_term)


def _balance(values: Floats) -> tuple[Floats, Floats]:
    """By what to divide rows and columns so that the largest of each is about 1 (Ruiz 2001)."""
    rows, columns = np.ones(values.shape[0]), np.ones(values.shape[1])
    for _ in range(_BALANCINGS):
        left = np.abs(values) / rows[:, np.newaxis] / columns
        for sizes, largest in ((rows, left.max(axis=1)), (columns, left.max(axis=0))):
            sizes *= np.sqrt(np.where(largest > 0, largest, 1.0))
    return rows, columns


def interval(samples: Sequence[float] | Floats) -> Interval:
    """Student's confidence interval of the mean of independent samples (seeds,)."""
    values = np.asarray(samples, dtype=np.float64)
    mean = float(values.mean())
    if not np.isfinite(values).all():
        return Interval(mean, -math.inf, math.inf)
    reach = float(_reach(values, axis=0))
    return Interval(mean, mean - reach, mean + reach)


def gain_interval(gains: Floats) -> Interval:
    """The interval of gains (seeds,), -inf where the liar ruined its model. Whoever does so on each
    of enough seeds wins nothing for sure; on some of them, nobody knows."""
    if len(gains) >= SEEDS_MIN and np.isneginf(gains).all():
        return Interval(-math.inf, -math.inf, -math.inf)
    return interval(gains)


def _reach(samples: Floats, axis: int) -> Floats:
    """Half the width of the interval of means over an axis, the seeds."""
    from scipy.stats import t

    seeds = samples.shape[axis]
    if seeds < SEEDS_MIN:
        return np.full_like(samples.sum(axis=axis), math.inf)
    error = samples.std(axis=axis, ddof=1) / math.sqrt(seeds)
    return np.asarray(float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * error)


def competitive(losses: Floats, agent: int, weight: float) -> Floats:
    """The reward of one agent (...,) from everyone's losses (..., agents): the others' mean loss
    times `weight`, minus its own; Dorner et al., eq. (2), whose reward sums over competitors.

    A weight of 0 is the reward of who cares for its own model alone.
    """
    others = np.delete(losses, agent, axis=-1).mean(axis=-1)
    return np.asarray(weight * others - losses[..., agent])
