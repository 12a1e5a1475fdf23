"""The subset of least diameter, exactly: how Minimum Diameter Averaging chooses.

Points further apart than a diameter are joined by an edge; to leave out at most f of them so that
no edge remains is to find a vertex cover of at most f. That takes a time exponential in f only,
where trying all subsets takes one in the number of points, too.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEFT_OUT_MAX: Final = 12
"""f at most: the worst graphs that attackers can lay out take some thousand steps of the search."""


def smallest_subset(apart: NDArray[np.float64], size: int) -> list[int]:
    """Of n points with distances `apart` (n, n), the `size` ones whose largest distance is the
    smallest; of several such subsets the first in lexicographic order."""
    count = len(apart)
    left_out = count - size
    widths = np.unique(apart[np.triu_indices(count, 1)]).tolist() or [0.0]
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if _coverable(_edges(apart, widths[middle]), (1 << count) - 1, left_out):
            high = middle
        else:
            low = middle + 1
    edges = _edges(apart, widths[low])
    chosen: list[int] = []
    there, budget = (1 << count) - 1, left_out
    for point in range(count):
        if len(chosen) == size:
            break
        if not there >> point & 1:
            continue
        # To keep a point is to leave out all that are too far from it.
        far = edges[point] & there
        kept = there & ~far
        spent = far.bit_count()
        if spent <= budget and _coverable(edges, kept, budget - spent):
            chosen.append(point)
            there, budget = kept, budget - spent
        else:
            there, budget = there & ~(1 << point), budget - 1
    return chosen


def _edges(apart: NDArray[np.float64], width: float) -> list[int]:
    """By point, a bit for each one that is further away."""
    packed = np.packbits(apart > width, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _coverable(edges: Sequence[int], there: int, budget: int) -> bool:
    """Whether leaving out at most `budget` of the points that are `there` leaves no edge."""
    while True:
        degrees = [((edges[p] & there).bit_count(), p) for p in _places(there)]
        degree, point = max(degrees, default=(0, 0))
        if degree == 0:
            return True
        if budget <= 0 or sum(d for d, _ in degrees) > 2 * budget * degree:
            return False
        if degree <= budget:
            break
        there, budget = there & ~(1 << point), budget - 1  # its neighbours are too many to leave
    if degree == 1:  # edges that share no point
        return sum(d for d, _ in degrees) // 2 <= budget
    without = there & ~(1 << point)
    if _coverable(edges, without, budget - 1):
        return True
    return _coverable(edges, without & ~edges[point], budget - degree)


def _places(bits: int) -> list[int]:
    return [p for p in range(bits.bit_length()) if bits >> p & 1]
