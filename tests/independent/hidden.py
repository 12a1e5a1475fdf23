"""What sketches hide: vectors that are farther away than the sketches of both say."""

import math

import numpy as np

from tests.independent.phases import CODECS
from tests.independent.wire import Cluster

L = math.log(1e9)


def hides(
    cluster: Cluster,
    own: np.ndarray,
    theirs: np.ndarray,
    mine: bytes,
    said: bytes,
    capped: bool = True,
) -> bool:
    """Whether a neighbour's payload is refused, by one's own vector of the exchange and the two
    stated sketches; `capped` where rows derive from sketches."""
    if cluster.k == cluster.dim:
        return False
    u = theirs.astype(np.float64) - own
    stated, heard = np.frombuffer(mine, "<f8"), np.frombuffer(said, "<f8")
    d, s = float(u @ u), float((heard - stated) @ (heard - stated))
    _, relative, absolute = CODECS[cluster.codec]
    lengths = math.sqrt(float(stated @ stated)) + math.sqrt(float(heard @ heard))
    moved = max(relative, 2.0**-20) * lengths + 2.0 * absolute * math.sqrt(cluster.dim)
    f, spread = (2.0 * moved) ** 2, 2.0 * math.sqrt(L / cluster.k)
    cap = 2.0 * math.sqrt(6.0 * L / cluster.k) if capped else math.inf
    return d - s > f + spread * d and d - s > f + min(explained(u, cluster.k), cap * d)


def explained(u: np.ndarray, k: int) -> float:
    """T, by many l."""
    rows = np.pad(u, (0, -len(u) % k)).reshape(-1, k)
    squares = np.sort(rows**2, axis=0)[::-1]
    squares = np.vstack([squares, np.zeros((3, k))])[: max(3, len(squares))]
    buckets = [bucket for bucket in squares.T if bucket[0] > 0.0]
    d = float(squares.sum())
    if not d:
        return 0.0
    return min(_bound(buckets, 2.0 ** (n / 4) / d) for n in range(-8, 51))


def _bound(buckets: list[np.ndarray], size: float) -> float:
    return (L + sum(_psi(bucket, size) for bucket in buckets)) / size


def _psi(squares: np.ndarray, size: float) -> float:
    """Of a bucket whose squares are in descending order."""
    first, second, third = squares[:3]
    e = float(squares.sum())
    v = max(0.0, e * e - float((squares**2).sum()))
    found = size * e
    if 2.0 * size * second < 1.0:
        found = min(found, size**2 * v / (1.0 - 2.0 * size * second))
    left = 1.0 - 2.0 * size * third
    if left > 0.0 and size * (e - first - second) <= left:
        rest = max(0.0, v - 2.0 * first * second)
        found = min(found, 2.0 * size * math.sqrt(first * second) + size**2 * rest / left)
    return found
