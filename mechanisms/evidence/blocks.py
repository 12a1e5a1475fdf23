"""Parts of one committed vector: a hash tree over its groups of coordinates.

Where models are traded, a neighbour may be sent some groups only. The digest of a statement is then
that of the groups' digests, its *leaves*, so that whoever has a part, and the leaves of the rest,
can tell that it is a part of the vector that everybody was told of: giving less is no second story,
and giving something else is seen.
"""

from collections.abc import Iterable
from typing import Final

import blake3
import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.rewards.barter import Groups

LEAF_DOMAIN: Final = "candor/leaf/v1"
LEAVES_DOMAIN: Final = "candor/leaves/v1"
LEAF_BYTES: Final = 32

Vector = NDArray[np.float32]


def leaves(vector: Vector, groups: Groups, first: int, last: int) -> list[bytes]:
    """The leaves of the groups from `first` to below `last` of a vector (dim,), 32 bytes each:
    BLAKE3 over a domain, the group's number as 4 little-endian bytes, and its little-endian
    float32."""
    return [
        blake3.blake3(
            LEAF_DOMAIN.encode()
            + group.to_bytes(4, "little")
            + groups.taken(vector, group, group + 1).astype("<f4", copy=False).tobytes()
        ).digest()
        for group in range(first, last)
    ]


def digest_of(leaves: Iterable[bytes]) -> bytes:
    """The digest (32 bytes) that a statement has of all leaves, in order."""
    return blake3.blake3(LEAVES_DOMAIN.encode() + b"".join(leaves)).digest()
