"""Rules that weight points by their inner products, each with its source.

A rule answers with one number a point, r: the aggregate is x_0 + sum of r_a (y_a - x_0), which is
the weighted mean of the points where these add up to one. All but `smea` and `caf`, which need
eigenvectors, have the same bits on every machine.
"""

import math
from itertools import combinations
from typing import Final

import numpy as np

from candor.mechanisms.aggregation.points import Floats, Points, in_order, nearest
from candor.mechanisms.aggregation.smallest import smallest_subset

WEISZFELD_STEPS: Final = 8
WEISZFELD_FLOOR: Final = 1e-6
CLIPPING_STEPS: Final = 3
TRUSTED: Final = 0.99  # FoolsGold's largest trust before its logit, which has none for 1
ONE_PLACE: Final = 1e-12  # of a variance: what rounding leaves of none
LOG_TERMS: Final = 16  # of a series in squares of at most 1/9: beyond binary64's last bit


def mean(points: Points, byzantine: int) -> Floats:  # noqa: ARG001
    """All points alike: what follows a preaggregator."""
    return _alike(range(points.count), points.count)


def krum(points: Points, byzantine: int) -> Floats:
    """The point whose n - f nearest, itself included, are the least far in sum of squares.

    Blanchard et al. (NeurIPS 2017), with n - f - 1 others in the place of their n - f - 2, as in
    Allouah et al. (AISTATS 2023), section 3, which makes f < n / 2 enough.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("krum", byzantine=1).least
    3
    """
    return _alike(nearest(_scores(points, byzantine), 1), points.count)


def multi_krum(points: Points, byzantine: int) -> Floats:
    """The mean of the n - f points that Krum scores best (Blanchard et al., NeurIPS 2017).

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("multi-krum", byzantine=1).name
    'multi-krum'
    """
    best = nearest(_scores(points, byzantine), points.count - byzantine)
    return _alike(best, points.count)


def _scores(points: Points, byzantine: int) -> Floats:
    ordered = np.sort(points.apart, axis=1)
    found = np.zeros(points.count)
    for place in range(points.count - byzantine):
        found += ordered[:, place]
    return found


def mda(points: Points, byzantine: int) -> Floats:
    """Minimum Diameter Averaging: the mean of the n - f points of least diameter.

    El-Mhamdi et al. (NeurIPS 2021, "Collaborative learning in the jungle"), section 4; of several
    such subsets the first in lexicographic order, the own vector first.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("mda", byzantine=2).least
    5
    """
    chosen = smallest_subset(points.apart, points.count - byzantine)
    return _alike(chosen, points.count)


def monna(points: Points, byzantine: int) -> Floats:
    """The mean of the n - f points nearest to the own vector (Farhadkhani et al., ICML 2023,
    "Robust collaborative learning with linear gradient overhead", nearest-neighbour averaging).

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("monna", byzantine=1).row is not None
    True
    """
    return _alike(nearest(points.from_own(), points.count - byzantine), points.count)


def cge(points: Points, byzantine: int) -> Floats:
    """Comparative gradient elimination: the mean of the n - f shortest points (Gupta, Doan &
    Vaidya, ACC 2021). It is meant for gradients: of models, short is not near.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("cge", byzantine=1).least
    3
    """
    return _alike(nearest(points.from_origin(), points.count - byzantine), points.count)


def geometric_median(
    points: Points,
    byzantine: int,
    steps: int = WEISZFELD_STEPS,
    floor: float = WEISZFELD_FLOOR,
    start: str = "near",
) -> Floats:
    """The geometric median by smoothed Weiszfeld steps (RFA; Pillutla, Kakade & Harchaoui, IEEE
    Transactions on Signal Processing 2022, algorithm 2).

    It starts not from the mean, which one far point moves as far as it likes and which a few steps
    do not bring back, but from the mean of the n - f points nearest to the own vector; with `start`
    "own" from the own vector, which only a large `floor` lets it leave, with "zero" from the
    origin, where gradients that are noise are near, and which is the same for all who take them.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("rfa:steps=3,floor=0.1,start=own", byzantine=1).least
    3
    """
    over = np.zeros(points.count) if start != "near" else monna(points, byzantine)
    squares = points.from_origin() if start == "zero" else points.from_own(over)
    for _ in range(steps):
        near = 1.0 / np.maximum(np.sqrt(squares), floor)
        over = near / in_order(near)
        squares = points.from_own(over)
    return over


def centred_clipping(
    points: Points, byzantine: int, radius: float | None = None, steps: int = CLIPPING_STEPS
) -> Floats:
    """v <- v + mean of the differences y_a - v, each clipped to a radius; v starts as the own
    vector (Karimireddy, He & Jaggi, ICML 2021, algorithm 2, which starts as the last aggregate).

    Without a radius it is the distance of v to its (n - f)-th nearest point, which attackers cannot
    raise above what an honest point has.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("centred-clipping:2.5", byzantine=1).name
    'centred-clipping:2.5'
    """
    over = np.zeros(points.count)
    for _ in range(steps):
        lengths = np.sqrt(points.from_own(over))
        kept = points.count - byzantine - 1
        factors = _clipped(lengths, np.sort(lengths)[kept] if radius is None else radius)
        over = over + (factors - in_order(factors) * over) / points.count
    return over


def clipped_gossip(points: Points, byzantine: int, radius: float | None = None) -> Floats:
    """Self-centred clipping: own + sum of w_a times y_a - own, clipped to a radius, w the graph's
    mixing weights (ClippedGossip; He, Karimireddy & Jaggi, 2022, algorithm 2).

    Without a radius it is sqrt(sum of w_a |y_a - own|^2 / d), over the n - 1 - f nearest others and
    with d the sum of the f largest weights of others: their rule, with the nearest for the honest.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("clipped-gossip", byzantine=1).name
    'clipped-gossip'
    """
    squares = points.from_own()
    if radius is None:
        radius = _gossip_radius(points, squares, byzantine)
    return points.weights * _clipped(np.sqrt(squares), radius)


def _gossip_radius(points: Points, squares: Floats, byzantine: int) -> float:
    # The own vector is among the nearest, at no distance.
    near = nearest(squares, points.count - byzantine)
    spread = in_order(points.weights[near] * squares[near])
    others = np.sort(points.weights[1:])
    share = in_order(others[len(others) - byzantine :]) if byzantine else 0.0
    return math.sqrt(spread / share) if share > 0.0 else math.inf


def similarity(points: Points, byzantine: int) -> Floats:  # noqa: ARG001
    """Weights that fall with the largest cosine to another neighbour's difference from the own
    vector: who sends what others send counts less, however many identities it has.

    SybilWall (Werthenbach & Pouwelse, 2023), which is FoolsGold (Fung et al., RAID 2020, algorithm
    1) among neighbours; of this exchange's differences, where they add up a history's. The own
    vector is trusted wholly.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("sybilwall", byzantine=0).least
    2
    """
    lengths = np.sqrt(points.from_own())
    scale = lengths[:, None] * lengths[None, :]
    cosines = points.products / np.where(scale > 0.0, scale, 1.0)
    cosines = np.where(scale > 0.0, cosines, 0.0)
    np.fill_diagonal(cosines, -1.0)
    cosines[0, :] = cosines[:, 0] = -1.0
    most = cosines.max(axis=1)  # (points,); the own one's is -1
    most = np.maximum(most, 0.0)
    # Pardoned: an honest one that resembles several liars by chance.
    larger = most[None, :] > most[:, None]
    pardon = np.where(larger, most[:, None] / np.where(larger, most[None, :], 1.0), 1.0)
    trust = 1.0 - np.maximum((cosines * pardon).max(axis=1), 0.0)
    best = trust[1:].max()
    trusts = [_logit(one / best) if best > 0.0 else 0.0 for one in trust[1:].tolist()]
    found = np.array([1.0, *trusts])
    return found / in_order(found)


def _logit(trust: float) -> float:
    """ln(v / (1 - v)) + 1/2, between 0 and 1."""
    v = min(trust, TRUSTED)
    if v <= 0.0:
        return 0.0
    return min(1.0, max(0.0, logarithm(v / (1.0 - v)) + 0.5))


def logarithm(value: float) -> float:
    """ln of a positive finite number, by operations that are rounded correctly: math.log is not
    the same on every machine. With value = m 2^e and m from 1/2 to 1, e ln 2 + 2 artanh((m - 1) /
    (m + 1)) by its series from the last term on."""
    mantissa, exponent = math.frexp(value)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = ratio * ratio, 0.0
    for term in range(LOG_TERMS - 1, -1, -1):
        total = total * square + 1.0 / (2.0 * term + 1.0)
    return exponent * 0.6931471805599453 + 2.0 * ratio * total


def smea(points: Points, byzantine: int) -> Floats:
    """Smallest maximum eigenvalue averaging: the mean of the n - f points whose covariance has the
    smallest largest eigenvalue (Allouah et al., ICML 2023, "On the privacy-robustness-utility
    trilemma", section 4).

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("smea", byzantine=1).least
    3
    """
    size = points.count - byzantine
    subsets = np.array(list(combinations(range(points.count), size)))
    inner = points.products[subsets[:, :, None], subsets[:, None, :]]  # (subsets, size, size)
    centred = inner - inner.mean(axis=1, keepdims=True)
    centred = centred - centred.mean(axis=2, keepdims=True)
    largest = np.linalg.eigvalsh(centred)[:, -1]
    return _alike(subsets[largest.argmin()], points.count)


def caf(points: Points, byzantine: int) -> Floats:
    """Covariance-bound agnostic filter: weights fall with the variance along the direction in which
    the weighted points vary most, until n - 2 f of weight is left; of the means on the way that of
    the smallest variance (Allouah et al., ICLR 2025, "Towards trustworthy federated learning with
    untrusted participants", algorithm 2). The largest of the variances that a round scales by is
    that of the points that still weigh something, so that each round ends the weight of one.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("caf", byzantine=1).least
    3
    """
    weights = np.ones(points.count)
    best, smallest, first = weights / points.count, math.inf, 0.0
    while weights.sum() > points.count - 2 * byzantine:
        over = weights / weights.sum()
        centred = points.products - over @ points.products
        centred = centred - (centred @ over)[:, None]
        root = np.sqrt(over)
        values, vectors = np.linalg.eigh(root[:, None] * centred * root)
        first = max(first, values[-1])
        if values[-1] < smallest:
            best, smallest = over, values[-1]
        if values[-1] <= ONE_PLACE * first:
            break  # all that still weighs something is in one place
        along = (centred @ (root * vectors[:, -1])) ** 2
        weights = np.maximum(0.0, weights * (1.0 - along / along[weights > 0.0].max()))
    return best


def _alike(places: "np.ndarray | list[int] | range", count: int) -> Floats:
    """The mean of the points at these places."""
    found = np.zeros(count)
    found[list(places)] = 1.0 / len(places)
    return found


def _clipped(lengths: Floats, radius: float) -> Floats:
    """By what vectors of these lengths are multiplied to be no longer than `radius`."""
    long = lengths > radius
    return np.where(long, radius / np.where(long, lengths, 1.0), 1.0)
