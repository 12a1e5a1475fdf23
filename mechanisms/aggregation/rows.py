"""Weights that follow from sketches: rules of which every neighbour derives the same mixing row.

Only operations that IEEE 754 rounds correctly are used, in an order that is written here, so that
the weights have the same bits on every machine: no BLAS, no pairwise sums, no exponentials.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RowRule: TypeAlias = Callable[
    [str, int, Mapping[str, float], Mapping[str, Floats]], dict[str, float]
]
"""Weights by agent from the taker's id, the round, its weights of those that the taker heard and
its own, and the sketches (k,) that all of these stated; the same bits wherever it is computed."""

WEISZFELD_STEPS: Final = 8
WEISZFELD_FLOOR: Final = 0.1


def rfa(
    agent: str,  # noqa: ARG001
    round_number: int,  # noqa: ARG001
    weights: Mapping[str, float],
    sketches: Mapping[str, Floats],
) -> dict[str, float]:
    """The geometric median by smoothed Weiszfeld steps (Pillutla et al. 2022, algorithm 1)."""
    ids = sorted(weights)
    points = np.stack([sketches[k] for k in ids])  # (n, k)
    row = [1.0 / len(ids)] * len(ids)
    for _ in range(WEISZFELD_STEPS):
        middle = np.zeros(points.shape[1])
        for weight, point in zip(row, points, strict=True):
            middle += weight * point
        apart = np.square(points - middle).T.copy()
        lengths = np.sqrt(np.add.reduce(apart, axis=0)).tolist()
        near = [1.0 / max(length, WEISZFELD_FLOOR) for length in lengths]
        total = 0.0
        for one in near:
            total += one
        row = [one / total for one in near]
    return dict(zip(ids, row, strict=True))
