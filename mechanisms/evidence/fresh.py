"""Fresh sketches: a few numbers of a vector under signs that nobody knew when it was made.

The signs of a window are known before anybody sends, so that most of what an agent injects can be
placed where its sketch shows nothing. The signs here follow from the digest of the very payload
that is sent. With it an agent states what they show of that payload and of every vector that its
row names; whoever holds one of these recomputes it. As mixing is linear,

    E = 1 / m ||(sum_k w_k F y_k - F y) / step||^2

is an unbiased estimate of the energy that was injected, wherever in the model, with a relative
deviation of about sqrt(2 / m) a round. Only whoever tries payload after payload bends it.

F is a subsampled randomized Hadamard transform (Ailon, Chazelle 2006; Tropp 2011): coordinates are
multiplied by signs, and rows of n of them, each turned by an amount of its own, added up; of the
transform of that sum, which spreads whatever is in few coordinates over all values, m are kept.
Unlike a sketch in m buckets it shows as much of two coordinates as of all.
Products with a sign are exact and sums have a fixed order, so every implementation gets the same
bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import blake3
import numpy as np
from numpy.typing import NDArray

from candor.topologies.encoding.canonical import pack

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]

FRESH_DOMAIN: Final = "candor/fresh-signs/v1"
FRESH: Final = "fresh-sketch"
VALUES: Final = 64
"""m: values of a fresh sketch, where the vector has as many."""
LENGTH: Final = 2**14
"""n: the longest transform. Two coordinates of a longer vector meet with a chance of 1 / n."""
ABOVE: Final = 5.0
"""By how many standard deviations a window's fresh sketches may show too much before it counts."""
BELOW: Final = 4.0
"""By how many its sketches may show too little, which is the rarer."""


def length_of(dim: int) -> int:
    """n: the length of the transform of vectors (dim,), a power of two."""
    return int(min(LENGTH, 1 << max(dim - 1, 0).bit_length()))


def values_of(dim: int) -> int:
    """m: how many values the fresh sketch of a vector (dim,) has."""
    return min(length_of(dim), VALUES)


class FreshSketch:
    """The fresh sketch of one payload: a linear map from (..., dim) to (..., m).

    Args:
        run: the fingerprint (32 bytes).
        agent, round_number, digest: whose payload it is, of which round, and its digest.
        dim: coordinates of the vectors.
    """

    __slots__ = ("_kept", "_rows", "_signs", "dim", "length", "size")

    def __init__(self, run: bytes, agent: str, round_number: int, digest: bytes, dim: int) -> None:
        self.dim, self.length, self.size = dim, length_of(dim), values_of(dim)
        rows, of_signs = -(-dim // self.length), -(-2 * self.length // 8)
        seed = pack([FRESH_DOMAIN, run, agent, round_number, digest])
        stream = blake3.blake3(seed).digest(length=of_signs + 4 * rows + 2 * self.size)
        bits = np.unpackbits(np.frombuffer(stream, np.uint8, of_signs), bitorder="little")
        self._signs = 1.0 - 2.0 * bits.astype(np.float32)
        drawn = np.frombuffer(stream, "<u2", 2 * rows + self.size, of_signs).astype(np.int64)
        # Of each row by how much it is turned, whether it is negated, and where its signs begin.
        self._rows = [
            (int(turn) % self.length, bool(turn >> 15), int(first) % self.length)
            for turn, first in drawn[: 2 * rows].reshape(rows, 2)
        ]
        taken = drawn[2 * rows :] % self.length
        self._kept = taken if self.length > VALUES else np.arange(self.length)

    def __call__(self, vectors: Vector) -> Floats:
        """Sketch float32 vectors (..., dim) into float64 (..., m)."""
        found = self.of_each(vectors.reshape(-1, self.dim))
        return found.reshape(*vectors.shape[:-1], self.size)

    def of_each(self, vectors: Iterable[Vector]) -> Floats:
        """Sketch float32 vectors (dim,), wherever they lie, into float64 (vectors, m)."""
        with np.errstate(invalid="ignore"):  # a peer's NaN may signal; evidence refuses it
            found = np.stack([self._added(vector) for vector in vectors])  # (vectors, n)
            return _transformed(found)[:, self._kept]

    def _added(self, vector: Vector) -> Floats:
        """The rows of a vector, turned and under their signs, added in order: (n,)."""
        n = self.length
        turned = np.zeros((len(self._rows), n), np.float32)
        both = self._signs, -self._signs
        for at, ((by, negated, first), into) in enumerate(zip(self._rows, turned, strict=True)):
            row = vector[at * n : (at + 1) * n]
            signs = both[negated][first : first + len(row)]
            before = min(len(row), n - by)  # the others go round
            np.multiply(row[:before], signs[:before], out=into[by : by + before])
            np.multiply(row[before:], signs[before:], out=into[: len(row) - before])
        # Whole rows are added in order: bucket by bucket the additions are sequential.
        return np.asarray(np.add.reduce(turned, axis=0, dtype=np.float64)) + 0.0


def _transformed(rows: Floats) -> Floats:
    """The Walsh-Hadamard transforms (rows, n), not scaled, halves first: of values h apart, for h =
    n / 2, n / 4, ... 1, the first becomes their sum and the second their difference."""
    count, n = rows.shape
    wide = 1 << (n.bit_length() // 2)  # so many next to each other
    deep = n // wide
    first = _butterflies(rows.reshape(count, deep, wide), wide)
    second = _butterflies(np.ascontiguousarray(first.swapaxes(1, 2)), deep)
    return np.ascontiguousarray(second.swapaxes(1, 2)).reshape(count, n)


def _butterflies(values: Floats, inner: int) -> Floats:
    """Sums and differences over the middle axis of (rows, n, inner), of which n is halved."""
    count, n, _ = values.shape
    spare = np.empty_like(values)
    h = n // 2
    while h:
        shape = (count, n // (2 * h), 2, h * inner)
        given, into = values.reshape(shape), spare.reshape(shape)
        np.add(given[:, :, 0], given[:, :, 1], out=into[:, :, 0])
        np.subtract(given[:, :, 0], given[:, :, 1], out=into[:, :, 1])
        values, spare, h = spare, values, h // 2
    return values


def whole_energy(injected: Floats) -> float:
    """E (float) of the fresh sketch (m,) of what was injected."""
    with np.errstate(all="ignore"):
        return float(np.dot(injected, injected)) / len(injected)


@dataclass(frozen=True, slots=True)
class Fresh:
    """How fresh sketches of `values` numbers and sketches of `sketch_size` are compared, in a run
    that has both."""

    values: int
    sketch_size: int

    def ratio(self, rounds: int) -> float:
        """How many times what sketches show of the energy of `rounds` fresh ones show by chance:
        their signs are drawn for each round, those of sketches for a window. inf where sketches are
        so short that they may show anything."""
        above = 1.0 + ABOVE * math.sqrt(2.0 / (self.values * rounds))
        below = 1.0 - BELOW * math.sqrt(2.0 / self.sketch_size)
        return above / below if below > 0.0 else math.inf

    def hidden(self, shown: Sequence[float], whole: Sequence[float]) -> float:
        """What the sketches of a window's rounds do not show of its energy: sum E - sum G where
        that is more than chance explains, else 0. Each sum is rounded once."""
        if not shown:
            return 0.0
        g, e = math.fsum(shown), math.fsum(whole)
        least = self.ratio(len(shown))
        return e - g if least < math.inf and e > least * g else 0.0
