"""Sign sketches: a short linear image of a long vector that keeps inner products.

Coordinate i is multiplied by a random sign and added to bucket i mod k (a count sketch whose
buckets are dealt round robin; Charikar, Chen, Farach-Colton 2002). For any u, v the expectation of
<S u, S v> over the signs is <u, v>, with relative deviation about sqrt(2 / k). Linearity is what
evidence needs: the sketch of a mixture is the mixture of the sketches. Vectors of at most k
coordinates are their own sketch.

A sketch is exact: products with a sign are exact, and each bucket is summed in binary64 from +0.0
in ascending order of i, so every implementation gets the same bytes. Not hiding: signs are known
before sending, so a modified client can place an update in the null space.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import blake3
import numpy as np
from numpy.typing import NDArray

from candor.topologies.encoding.canonical import pack

SIGNS_DOMAIN: Final = "candor/sketch-signs/v1"
TRACE_DOMAIN: Final = "candor/trace-signs/v1"
TRACE_SIZE: Final = 128
"""Values of a trace: 512 bytes a round, 12 % deviation of an inner product."""
CACHE_VALUES: Final = 2**17  # of many vectors that are sketched at once: half a megabyte


def window_of(round_number: int, window_rounds: int) -> int:
    """The window (from 0) in which a round (from 1) is settled; round 0 belongs to window 0."""
    return max(round_number - 1, 0) // window_rounds


def last_of_window(round_number: int, window_rounds: int) -> int:
    """The last round of the window that a round belongs to."""
    return (window_of(round_number, window_rounds) + 1) * window_rounds


def signs_seed(run_fingerprint: bytes, window: int) -> bytes:
    """The seed of a window's signs: canonical [domain, run fingerprint, window]."""
    return pack([SIGNS_DOMAIN, run_fingerprint, window])


class SignSketch:
    """The sketch of one window: a linear map from (..., dim) to (..., size).

    Args:
        seed: what the signs are drawn from; sign i is bit i (little-endian within a byte) of the
            BLAKE3 extendable output over it, 0 for +1 and 1 for -1.
        dim: coordinates of the vectors.
        size_max: k >= 2, the number of buckets; a vector of dim <= k is its own sketch.
    """

    __slots__ = ("_signs", "dim", "size")

    def __init__(self, seed: bytes, dim: int, size_max: int) -> None:
        assert size_max >= 2  # a single bucket would be summed pairwise
        self.dim = dim
        self.size = min(dim, size_max)
        self._signs: NDArray[np.float32] | None = None
        if dim > size_max:
            stream = blake3.blake3(seed).digest(length=(dim + 7) // 8)
            bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=dim, bitorder="little")
            self._signs = 1.0 - 2.0 * bits.astype(np.float32)

    @property
    def signs(self) -> NDArray[np.float32]:
        """The sign of each coordinate (dim,); ones where a vector is its own sketch."""
        return np.ones(self.dim, np.float32) if self._signs is None else self._signs

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sketch float32 vectors (..., dim) into float64 (..., size)."""
        # Infinities may cancel and a peer's NaN may signal; evidence refuses what comes of it.
        with np.errstate(invalid="ignore"):
            if self._signs is None:
                return vectors.astype(np.float64)
            rows = vectors.reshape(-1, self.dim)
            if len(rows) > self.dim // self.size:
                out = self._all(rows, self._signs)  # (rows, size)
            else:
                out = np.stack([self._one(row, self._signs) for row in rows])
        return out.reshape(*vectors.shape[:-1], self.size)

    def _all(self, rows: NDArray[np.float32], signs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Many rows: the additions of `_one` in the same order, for all of them at once."""
        out = np.zeros((len(rows), self.size))
        some = max(1, CACHE_VALUES // self.dim)
        for first in range(0, len(rows), some):
            these, those = rows[first : first + some], out[first : first + some]
            for low in range(0, self.dim, self.size):
                high = min(low + self.size, self.dim)
                those[:, : high - low] += these[:, low:high] * signs[low:high]
        return out

    def _one(self, vector: NDArray[np.float32], signs: NDArray[np.float32]) -> NDArray[np.float64]:
        signed = vector * signs  # (dim,)
        whole = self.dim - self.dim % self.size
        # Reducing the leading axis of a contiguous array adds whole rows in order: bucket by bucket
        # the additions are sequential, which is what makes the result the same everywhere.
        out: NDArray[np.float64] = np.add.reduce(
            signed[:whole].reshape(-1, self.size), axis=0, dtype=np.float64
        )
        out[: self.dim - whole] += signed[whole:]
        out += 0.0  # whether a sum of negative zeros starts from +0.0 depends on numpy's version
        return out


class TraceFold:
    """The fold of one window's sketches to traces: a second, much shorter sign sketch.

    A claim holds a trace of every round, so that directions, distances and lagged cosines can be
    recomputed from it by anyone; <fold u, fold v> has relative deviation about sqrt(2 / r).

    Args:
        run: the fingerprint (32 bytes).
        window: the window, from 0.
        size: k, the length of the sketches; r = min(k, 128).
        bounds: where groups of buckets begin and the last one ends. Each is folded by itself, to
            its own r // groups values, so that what is done to groups is done to traces, too.
    """

    __slots__ = ("_bounds", "_signs", "size")

    def __init__(
        self, run: bytes, window: int, size: int, bounds: Sequence[int] | None = None
    ) -> None:
        self.size = min(size, TRACE_SIZE)
        self._bounds = (0, size) if bounds is None else bounds
        self._signs: NDArray[np.float64] | None = None
        if size > TRACE_SIZE:
            seed = pack([TRACE_DOMAIN, run, window])
            stream = blake3.blake3(seed).digest(length=(size + 7) // 8)
            bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=size, bitorder="little")
            self._signs = 1.0 - 2.0 * bits.astype(np.float64)

    def __call__(self, sketches: NDArray[np.float64]) -> NDArray[np.float32]:
        """Fold sketches (..., k) to traces (..., r), summed in binary64, rounded to float32."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.exact(sketches).astype(np.float32)

    def exact(self, sketches: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same before they are rounded."""
        each = self.size // (len(self._bounds) - 1)
        if self._signs is None and each == self.size:
            return sketches
        with np.errstate(invalid="ignore", over="ignore"):
            signed = sketches if self._signs is None else sketches * self._signs
            out = np.zeros((*sketches.shape[:-1], self.size))
            for group, (low, high) in enumerate(pairwise(self._bounds)):
                into = out[..., group * each : (group + 1) * each]
                for start in range(low, high, each):
                    part = signed[..., start : min(start + each, high)]
                    into[..., : part.shape[-1]] += part
        return out
