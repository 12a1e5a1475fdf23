"""What it costs to lie where rounds are done again: how soon a lie is found, and which bond deters.

After each window a coin picks one of its rounds, the last window's included, which is done again
with the chance of the audit rate; what is false then costs the bond, once (docs/honesty.md, section
4). A liar is taken to keep all that its lie has gained by the end of the run: the verdict may come
late, and who is put out of the run early has gained no more by it than by lying for as long. So
what it expects is its gain less the bond times the chance that it is found at all: the bond is one
more price, that no honest agent pays. Arithmetic alone: nothing is run here.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.studies.audit.incentives import MARGIN, SEEDS_MIN, Deviation, Floats

BOND: Final = "bond"
"""Names it among the terms of a rule."""
_RAISED_MAX: Final = 1000.0  # times what the means ask for
_HALVINGS: Final = 40


def false_shares(untrue: NDArray[np.bool_], window: int) -> Floats:
    """The share of each window's rounds that are false, (windows,), of those of a run (rounds,):
    the last window may be shorter."""
    starts = np.arange(0, len(untrue), window)
    counts = np.diff(np.append(starts, len(untrue)))
    return np.asarray(np.add.reduceat(untrue.astype(np.float64), starts) / counts)


def found_by(shares: Floats, rate: float) -> Floats:
    """The chance that a lie is found in the windows so far, from none on: (..., windows + 1), with
    such shares (..., windows) of false rounds, each audited at the rate."""
    missed = np.cumprod(1.0 - rate * shares, axis=-1)
    return 1.0 - np.concatenate([np.ones_like(missed[..., :1]), missed], axis=-1)


def windows_until_found(shares: Floats, rate: float) -> float:
    """How many windows a lie is expected to live from its first one on, if it is found in this run;
    nan if it cannot be."""
    chances = np.diff(found_by(shares, rate))
    if not chances.sum() > 0:
        return math.nan
    first = int((shares > 0).argmax())
    return float(chances @ (np.arange(len(shares)) + 1.0 - first) / chances.sum())


def least_bond(deviation: Deviation, prices: Floats, epsilon: float) -> float:
    """The least bond, in credits, at which a deviation gains at most `MARGIN` epsilon in the mean
    and its interval ends below epsilon, where that can be: beside prices of the rule's terms. Its
    last charge is the chance to be found, which a credit of bond costs. inf if it is not."""
    if not deviation.finite:
        return 0.0
    found = deviation.charges[:, -1]
    nets = deviation.gains - deviation.charges[:, :-1] @ prices
    short = float(nets.mean()) - MARGIN * epsilon
    if not found.mean() > 0:
        return math.inf if short > 0 else 0.0
    least = max(0.0, short / float(found.mean()))

    def covers(bond: float) -> bool:
        return deviation.net_interval(np.append(prices, bond)).high <= epsilon

    if len(nets) < SEEDS_MIN or covers(least):
        return least
    low, high = least, max(least, epsilon / float(found.mean()))
    while not covers(high):
        low, high = high, 2.0 * high
        if high > _RAISED_MAX * max(least, epsilon / float(found.mean())):
            return least  # in some seeds it is never found: no bond makes that sure
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if covers(middle) else (middle, high)
    return high
