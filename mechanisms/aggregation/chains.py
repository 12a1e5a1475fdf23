"""Preaggregators and a rule one after the other: the weights that an aggregator gives vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from candor.mechanisms.aggregation.points import Floats, Points

Preaggregator: TypeAlias = Callable[[Points, int], Points]
Weigh: TypeAlias = Callable[[Points, int], Floats]
"""Points and f, how many of them may be anything, to r (points,), see `aggregation.rules`."""


class Measures(Enum):
    """What weights follow from: distances of all pairs, or only those of each vector from the own
    one, or only lengths."""

    PAIRS = "pairs"
    OWN = "own"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class Chain:
    """An aggregator whose result is a weighted sum of the vectors that it is given.

    `least` is how many vectors it takes, the own one included; with fewer the own is the result.
    `origin`: it measures from the origin, too; `measures`: what it measures at most.
    """

    before: tuple[Preaggregator, ...]
    rule: Weigh
    byzantine: int
    least: int
    origin: bool = False
    measures: Measures = Measures.PAIRS

    def weights(self, inner: Floats, mixing: Floats, drawn: tuple[str, int] = ("", 0)) -> Floats:
        """The weights (n,) of vectors of which the own is the first.

        Args:
            inner: (n, n) of <x_i - x_0, x_j - x_0>; one more where it measures from the origin.
            mixing: (n,) of the graph.
            drawn: the taker and the round.
        """
        points = Points.of(inner, mixing, origin=self.origin, drawn=drawn)
        if points.count < self.least:
            alone = mixing * 0.0
            alone[0] = 1.0
            return alone
        for step in self.before:
            points = step(points, self.byzantine)
        return points.row(self.rule(points, self.byzantine))
