"""Rules that work coordinate by coordinate, on rows that a sorting network has put in order.

A network of minima and maxima over whole rows is several times as fast as sorting every coordinate
by itself, and its rows stay in a cache where they are taken in chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import torch
from torch import Tensor

CHUNK_VALUES: Final = 2**14  # coordinates at once: some twenty rows of them fit in a cache

CoordinateRule: TypeAlias = Callable[[Sequence[Tensor], int], Tensor]
"""Points (coordinates,) each, the own first, and f, how many may be anything, to (coordinates,)."""


def coordinate_median(points: Sequence[Tensor], byzantine: int) -> Tensor:  # noqa: ARG001
    """The median of each coordinate; of an even number the mean of the middle two (Yin et al.,
    ICML 2018, definition 1).

    >>> coordinate_median([torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([9.0])], 1)
    tensor([1.])
    """
    return _middle(in_order(points, _middles(len(points))))


def trimmed_mean(points: Sequence[Tensor], byzantine: int) -> Tensor:
    """The mean of each coordinate without the f largest and f smallest (Yin et al., ICML 2018,
    definition 2).

    >>> trimmed_mean([torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([9.0])], 1)
    tensor([1.])
    """
    kept = range(byzantine, len(points) - byzantine)
    return _mean(in_order(points, kept)[byzantine : len(points) - byzantine])


def meamed(points: Sequence[Tensor], byzantine: int) -> Tensor:
    """The mean of the n - f values of each coordinate that are nearest to their median (Xie, Koyejo
    & Gupta, 2018, "Generalized Byzantine-tolerant SGD", section 3).

    >>> meamed([torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([9.0])], 1)
    tensor([0.5000])
    """
    ordered = in_order(points, range(len(points)))
    median, kept = _middle(ordered), len(points) - byzantine
    total = _sum(ordered[byzantine:kept])
    for low in range(byzantine):
        # Of those that are left, ever nearer ones from below and ever further ones from above.
        below, above = ordered[low], ordered[low + kept]
        total += torch.where(above - median < median - below, above, below)
    return total / kept


def bridge(points: Sequence[Tensor], byzantine: int) -> Tensor:
    """The mean of each coordinate of the own model and the neighbours' without the f largest and f
    smallest of these (BRIDGE-T; Fang, Yang & Bajwa, IEEE Transactions on Signal and Information
    Processing over Networks 2022, equation 6).

    >>> bridge([torch.tensor([4.0]), *torch.tensor([[0.0], [2.0], [9.0]])], 1)
    tensor([3.])
    """
    kept = range(byzantine, len(points) - 1 - byzantine)
    ordered = in_order(points[1:], kept)
    return _mean([points[0], *ordered[kept.start : kept.stop]])


def by_chunks(rule: CoordinateRule, points: Sequence[Tensor], byzantine: int) -> Tensor:
    """A rule of points (values,) each, some coordinates at a time."""
    out = torch.empty_like(points[0])
    for low in range(0, len(out), CHUNK_VALUES):
        out[low : low + CHUNK_VALUES] = rule(
            [p[low : low + CHUNK_VALUES] for p in points], byzantine
        )
    return out


def in_order(points: Sequence[Tensor], wanted: range) -> list[Tensor]:
    """The same values in ascending order at each coordinate, in the `wanted` places."""
    rows = list(points)
    for low, high, smaller, larger in network(len(rows), wanted):
        first, second = rows[low], rows[high]
        if smaller:
            rows[low] = torch.minimum(first, second)
        if larger:
            rows[high] = torch.maximum(first, second)
    return rows


@lru_cache(64)
def network(count: int, wanted: range) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparisons that sort `count` values: places, and whether the smaller and the larger one's
    result bears on the `wanted` places. Batcher's odd-even merges (Knuth, volume 3, 5.2.2,
    algorithm M)."""
    needed, found = set(wanted), []
    for low, high in reversed(list(_merges(count))):
        if low in needed or high in needed:
            found.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(found))


def _merges(count: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            for low in range(count - d):
                if low & p == r:
                    yield low, low + d
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


def _middles(count: int) -> range:
    return range((count - 1) // 2, count // 2 + 1)


def _middle(ordered: Sequence[Tensor]) -> Tensor:
    middles = _middles(len(ordered))
    low, high = middles[0], middles[-1]
    return ordered[low] if low == high else (ordered[low] + ordered[high]) / 2


def _sum(rows: Sequence[Tensor]) -> Tensor:
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def _mean(rows: Sequence[Tensor]) -> Tensor:
    return _sum(rows) / len(rows)
