"""Preaggregators: other points in the place of those that an aggregator is given."""

from typing import Final

import numpy as np

from candor.mechanisms.aggregation.points import Floats, Points, nearest

BUCKET_SIZE: Final = 2
CLIP_RADIUS: Final = 2.0


def nnm(points: Points, byzantine: int) -> Points:
    """Nearest-neighbour mixing: each point becomes the mean of the n - f nearest to it, itself
    included (Allouah et al., AISTATS 2023, "Fixing by mixing", algorithm 2).

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("nnm + krum", byzantine=1).name
    'nnm+krum'
    """
    kept = points.count - byzantine
    chosen = [nearest(squares, kept) for squares in points.apart]
    if not points.plain:
        return points.made(np.stack([_mean(points.shares[places]) for places in chosen]))
    shares = np.zeros_like(points.shares)  # the same means, of vectors themselves
    for row, places in zip(shares, chosen, strict=True):
        row[places] = 1.0 / kept
    return points.made(shares)


def bucketing(points: Points, byzantine: int, size: int = BUCKET_SIZE) -> Points:  # noqa: ARG001
    """Means of `size` points each, the last of what is left, in an order that is drawn anew in each
    exchange (Karimireddy, He & Jaggi, ICLR 2022, algorithm 1).

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("bucketing:2 + rfa", byzantine=1).least
    5
    """
    order = points.drawn_order()
    buckets = [sorted(order[low : low + size]) for low in range(0, points.count, size)]
    shares = np.stack([_mean(points.shares[bucket]) for bucket in buckets])
    return points.made(shares, np.array([_total(points.weights[b]) for b in buckets]))


def clipping(
    points: Points,
    byzantine: int,  # noqa: ARG001
    radius: float = CLIP_RADIUS,
    about: str = "own",
) -> Points:
    """Points no further than `radius` from the own vector; `about` "zero": no longer than that.

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("clipping:2 + median", byzantine=1).row is None
    True
    """
    return _clip(points, _lengths(points, about), radius, about)


def arc(points: Points, byzantine: int, about: str = "own") -> Points:
    """Adaptive robust clipping: of n points the floor(2 f (n - f) / n) that are the furthest from
    the own vector, or with `about` "zero" the longest, are clipped to the next one's length
    (Allouah et al., ICLR 2025, "Adaptive gradient clipping for robust federated learning",
    algorithm 2, which clips about zero).

    >>> from candor.mechanisms.aggregation.specs import parse_aggregator
    >>> parse_aggregator("arc + nnm + rfa", byzantine=1).least
    3
    """
    lengths = _lengths(points, about)
    clipped = 2 * byzantine * (points.count - byzantine) // points.count
    return _clip(points, lengths, float(np.sort(lengths)[points.count - clipped - 1]), about)


def _lengths(points: Points, about: str) -> Floats:
    return np.sqrt(points.from_own() if about == "own" else points.from_origin())


def _clip(points: Points, lengths: Floats, radius: float, about: str) -> Points:
    factors = np.where(lengths > radius, radius / np.where(lengths > radius, lengths, 1.0), 1.0)
    shares = factors[:, None] * points.shares
    shares[:, 0 if about == "own" else -1] += 1.0 - factors
    return points.made(shares)


def _mean(rows: Floats) -> Floats:
    """The mean (vectors,) of rows (n, vectors), added up one after the other."""
    return _total(rows) / len(rows)


def _total(rows: Floats) -> Floats:
    found: Floats = np.add.accumulate(rows, axis=0)[-1] + 0.0  # as in `points.product`
    return found
