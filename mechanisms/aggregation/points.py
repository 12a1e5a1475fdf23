"""Points known by their inner products alone: what weights of aggregators follow from.

Only operations that IEEE 754 rounds correctly are used, in an order that is written here, so that
the same inner products give the same bits on every machine: no BLAS, no pairwise sums, no
exponentials. docs/protocol.md, "Rules of rows", says the same for other implementations.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import blake3
import numpy as np
from numpy.typing import NDArray

from candor.topologies.encoding.canonical import pack

Floats = NDArray[np.float64]

DRAW_DOMAIN: Final = "candor/bucketing/v1"
BLOCK_VALUES: Final = 2**17  # of products that are summed at once: a megabyte stays in a cache


@dataclass(frozen=True)
class Points:
    """Points as sums of vectors: point a is the sum of `shares[a, j]` x_j, which add up to one.

    x_0 is the taker's own vector, to which every neighbour's follow, in order of id; the last one
    is the origin if `origin`. The points are those vectors, but for the origin, until a
    preaggregator makes others of them.

    Attributes:
        inner: (vectors, vectors) of <x_i - x_0, x_j - x_0>.
        shares: (points, vectors).
        weights: (points,) the mixing weights of the graph.
        drawn: what draws are seeded with beside the vectors, as the taker and the round.
        plain: the points are the vectors themselves.
    """

    inner: Floats
    shares: Floats
    weights: Floats
    origin: bool = False
    drawn: tuple[str, int] = ("", 0)
    plain: bool = False

    @classmethod
    def of(
        cls, inner: Floats, weights: Floats, *, origin: bool, drawn: tuple[str, int] = ("", 0)
    ) -> "Points":
        """The vectors themselves."""
        shares = np.eye(len(weights), len(inner))
        return cls(inner, shares, weights, origin, drawn, plain=True)

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.shares)

    @cached_property
    def products(self) -> Floats:
        """(points, points) of <y_a - x_0, y_b - x_0>, symmetric."""
        if self.plain:
            return self.inner[: self.count, : self.count]
        half = product(product(self.shares, self.inner), self.shares.T)
        return mirrored(half)

    @cached_property
    def apart(self) -> Floats:
        """(points, points) of squared distances, never below zero."""
        lengths = self.products.diagonal()
        found = (lengths[:, None] + lengths[None, :]) - 2.0 * self.products
        np.fill_diagonal(found, 0.0)
        return _not_negative(found)

    def from_own(self, middle: Floats | None = None) -> Floats:
        """(points,) of squared distances from x_0, or from x_0 + sum of `middle[a]` (y_a - x_0)."""
        lengths = self.products.diagonal()
        if middle is None:
            return _not_negative(lengths)
        along = product(self.products, middle[:, None])[:, 0]
        whole = product(middle[None, :], along[:, None])[0, 0]
        return _not_negative((lengths - 2.0 * along) + whole)

    def from_origin(self) -> Floats:
        """(points,) of squared lengths."""
        towards = product(self.shares, self.inner[:, -1:])[:, 0]
        found = (self.products.diagonal() + self.inner[-1, -1]) - 2.0 * towards
        return _not_negative(found)

    def made(self, shares: Floats, weights: Floats | None = None) -> "Points":
        """Other points of the same vectors."""
        weights = self.weights if weights is None else weights
        return replace(self, shares=shares, weights=weights, plain=False)

    def drawn_order(self) -> list[int]:
        """The points in an order that nobody knew before everyone had sent: drawn from the vectors'
        squared distances from x_0, and from who takes them in which round."""
        apart = self.inner.diagonal()[: len(self.inner) - self.origin]
        seed = pack([DRAW_DOMAIN, *self.drawn]) + apart.astype("<f8").tobytes()
        keys = np.frombuffer(blake3.blake3(seed).digest(length=8 * self.count), "<u8").tolist()
        return sorted(range(self.count), key=lambda a: (keys[a], a))

    def row(self, over: Floats) -> Floats:
        """The weights (vectors but the origin,) of x_0 + sum of `over[a]` (y_a - x_0)."""
        found: Floats = product(over[None, :], self.shares)[0]
        found[0] += 1.0 - in_order(over)
        return found[: len(found) - self.origin]


def _not_negative(squares: Floats) -> Floats:
    """Without what rounding has made of a zero."""
    found: Floats = np.maximum(squares, 0.0)
    return found


def product(left: Floats, right: Floats) -> Floats:
    """The matrix product, each sum from +0.0 in ascending order."""
    if right.shape[1] == 1:
        # Prefixes are sums in order; of nothing but -0.0 the sum from +0.0 is +0.0.
        return np.add.accumulate(left * right[:, 0], axis=1)[:, -1:] + 0.0
    found = np.zeros((left.shape[0], right.shape[1]))
    for j in range(left.shape[1]):
        found += left[:, j : j + 1] * right[j : j + 1, :]
    return found


def in_order(values: Floats) -> float:
    """The sum (n,) from +0.0 in ascending order."""
    total = 0.0
    for value in values.tolist():
        total += value
    return total


def nearest(squares: Floats, count: int) -> list[int]:
    """Of (points,) the `count` smallest ones' places, in ascending order; of equal ones the first
    ones."""
    order = np.argsort(squares, kind="stable")[:count]
    return sorted(order.tolist())


def folded(values: Floats) -> Floats:
    """The sum over the leading axis (n, ...): the second half is added to the first, of an odd
    number without the middle one, until one is left. The values are written over."""
    count = len(values)
    while count > 1:
        half = (count + 1) // 2
        values[: count - half] += values[half:count]
        count = half
    last: Floats = values[0]
    return last


def inner_products(vectors: Floats) -> Floats:
    """(n, n) of <x_i - x_0, x_j - x_0> of vectors (n, k): differences, products, and their `folded`
    sum.

    They are of the taker's own x_0, so that rows of two takers share none. Products that all could
    share, or distances of pairs, would lose what is near to what is far: an attacker at 10^15 times
    the distance of honest vectors would blur these in the last places of its own.
    """
    count, size = vectors.shape
    moved = np.ascontiguousarray((vectors - vectors[0]).T)  # (k, n)
    found = np.zeros((count, count))
    at_once = max(1, BLOCK_VALUES // max(1, size * count))
    room = np.empty(size * min(at_once, count) * count)  # fetched once: pages cost as much as sums
    for low in range(1, count, at_once):
        some, others = moved[:, low : low + at_once, None], moved[:, None, low:]
        shape = (size, some.shape[1], others.shape[2])
        products = room[: math.prod(shape)].reshape(shape)
        found[low : low + at_once, low:] = folded(np.multiply(some, others, out=products))
    return mirrored(found)


def lengths_alone(vectors: Floats, *, origin: bool) -> Floats:
    """What `inner_products` gives on the diagonal, and with `origin` in the last row and column, to
    the same bits; 0 elsewhere."""
    moved = np.ascontiguousarray((vectors - vectors[0]).T)  # (k, n)
    found = np.diag(folded(moved * moved))
    if origin:
        found[-1] = found[:, -1] = folded(moved * moved[:, -1:])
    return found


def mirrored(upper: Floats) -> Floats:
    """The symmetric matrix (n, n) with this upper triangle."""
    whole: Floats = np.triu(upper) + np.triu(upper, 1).T
    return whole
