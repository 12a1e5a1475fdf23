"""How a vector travels: its float32 values as bytes, and what those bytes decode to.

What is stated, sketched and mixed is always the *decoded* vector, by its sender too, so that
everyone measures what everyone mixes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from candor.network.wire import Buffer

Vector = NDArray[np.float32]


class Codec(Protocol):
    """One encoding of finite float32 vectors; `relative` and `absolute`: how far a value may move,
    by that share of it or by that amount, whichever is more."""

    @property
    def name(self) -> str: ...
    @property
    def relative(self) -> float: ...
    @property
    def absolute(self) -> float: ...

    def payload_bytes(self, dim: int) -> int:
        """How many bytes a vector (dim,) takes, at most 4 * dim."""
        ...

    def encode(self, vector: Vector) -> Buffer:
        """The bytes of a vector (dim,)."""
        ...

    def decode(self, data: Buffer, out: Vector) -> None:
        """Write the vector of these bytes to `out` (dim,), whose front they may lie in."""
        ...

    def rounded(self, vectors: Vector) -> Vector:
        """What vectors of any shape decode to once they are encoded."""
        ...


@dataclass(frozen=True, slots=True)
class Cast:
    """The values cast to a little-endian type of numpy, and back."""

    name: str
    type: str
    relative: float
    absolute: float

    def payload_bytes(self, dim: int) -> int:
        """How many bytes a vector (dim,) takes."""
        return dim * np.dtype(self.type).itemsize

    def encode(self, vector: Vector) -> Buffer:
        """The bytes of a vector (dim,); of float32 the vector's own memory."""
        with np.errstate(over="ignore"):  # an infinity is refused where vectors must be finite
            return vector.astype(self.type, copy=False).data.cast("B").toreadonly()

    def decode(self, data: Buffer, out: Vector) -> None:
        """Write the vector of these bytes to `out` (dim,); of float32 it is there already."""
        values = np.frombuffer(data, self.type)
        if not np.shares_memory(values, out) or values.dtype != out.dtype:
            out[:] = values.astype(np.float32)

    def rounded(self, vectors: Vector) -> Vector:
        """What vectors of any shape decode to once they are encoded."""
        with np.errstate(over="ignore"):
            return vectors.astype(self.type, copy=False).astype(np.float32, copy=False)


FLOAT32: Final = Cast("float32", "<f4", 2.0**-24, 2.0**-150)
# Half the bytes: 11 bits of a value are kept, and nothing above 65,504.
FLOAT16: Final = Cast("float16", "<f2", 2.0**-11, 2.0**-25)

CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {codec.name: codec for codec in (FLOAT32, FLOAT16)}
)
