"""Poisons that a sketch does not show: vectors h with S h = 0, up to the rounding of float32.

The signs of a window follow from the cluster file, so whoever has it can make them. These exist so
that a user can see that receivers refuse them, see `mechanisms.evidence.hidden`.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Floats = NDArray[np.float64]


def spread(signs: Vector, size: int, draw: np.random.Generator) -> Floats:
    """Gaussian over all coordinates but for what its buckets show: unit length, (dim,).

    Args:
        signs: those of the window (dim,), each +1 or -1.
        size: k, the number of buckets: coordinate i is in bucket i mod k.
        draw: what it is drawn from.
    """
    return _unit(_projected(draw.standard_normal(len(signs)), signs, size))


def concentrated(signs: Vector, size: int, draw: np.random.Generator) -> Floats:
    """Two coordinates of one bucket that cancel: unit length, (dim,)."""
    bucket = int(draw.integers(min(size, len(signs) - size)))
    places = np.arange(bucket, len(signs), size)
    one, other = draw.choice(places, 2, replace=False)
    found = np.zeros(len(signs))
    found[one], found[other] = signs[one], -signs[other]
    return _unit(found)


def few_buckets(signs: Vector, size: int, draw: np.random.Generator) -> Floats:
    """All coordinates of sixteen buckets: unit length, (dim,)."""
    chosen = draw.choice(min(size, len(signs) - size), min(16, len(signs) - size), replace=False)
    inside = np.isin(np.arange(len(signs)) % size, chosen)
    return _unit(_projected(draw.standard_normal(len(signs)) * inside, signs, size))


def apart_from(poison: Floats, others: Sequence[Vector], signs: Vector, size: int) -> Floats:
    """A poison (dim,) without what it has in common with the differences `others` (dim,): it lies
    at right angles to them, still hidden, and as far from each of them. Unit length."""
    basis = [_projected(other.astype(np.float64), signs, size) for other in others]
    basis = [one for one in basis if float(one @ one) > 0.0]
    if not basis:
        return _unit(poison)
    matrix = np.stack(basis, axis=1)  # (dim, others)
    shares, *_ = np.linalg.lstsq(matrix, poison, rcond=None)
    left: Floats = poison - matrix @ shares
    return _unit(left)


Make: TypeAlias = Callable[[Vector, int, np.random.Generator], Floats]
KINDS: Final[Mapping[str, Make]] = MappingProxyType(
    {"spread": spread, "buckets": few_buckets, "pair": concentrated}
)


def _projected(vector: Floats, signs: Vector, size: int) -> Floats:
    """The part of a vector (dim,) that no bucket shows."""
    padded = np.zeros((-(-len(vector) // size), size))
    padded.reshape(-1)[: len(vector)] = vector * signs
    there = np.zeros_like(padded)
    there.reshape(-1)[: len(vector)] = vector != 0.0
    counts = np.maximum(there.sum(axis=0), 1.0)
    hidden: Floats = (padded - padded.sum(axis=0) / counts) * there
    return hidden.reshape(-1)[: len(vector)] * signs


def _unit(vector: Floats) -> Floats:
    length = float(np.sqrt(vector @ vector))
    return vector / length if length > 0.0 else vector
