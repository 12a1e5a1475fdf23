"""A hash tree over an agent's training samples: what it commits to before it trains.

Leaves are keyed by a secret of the agent, a key for each: nobody can test from a root, a leaf or a
path what a sample is, and who is shown some samples learns nothing of the others. The tree is that
of RFC 6962, section 2.1, over BLAKE3: leaves and nodes are hashed apart, an odd one is left as it
is. Which bytes a sample has is the caller's business.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import blake3

LEAF_CONTEXT: Final = "candor/sample-leaf/v1"
NODE_CONTEXT: Final = "candor/sample-node/v1"
SECRET_BYTES: Final = 32
ROOT_BYTES: Final = 32
NO_ROOT: Final = bytes(ROOT_BYTES)
"""Of an agent without samples: an environment, or a loop that reads its own."""


@dataclass(frozen=True, slots=True)
class Samples:
    """How many samples an agent has committed to, and the root of their tree (32 bytes)."""

    count: int = 0
    root: bytes = NO_ROOT


def committed(samples: Iterable[bytes], secret: bytes) -> Samples:
    """The commitment to samples, each as its bytes, in their order; `secret` is 32 bytes."""
    leaves = [leaf(place, sample, secret) for place, sample in enumerate(samples)]
    return Samples(len(leaves), root_of(leaves) if leaves else NO_ROOT)


def leaf(place: int, sample: bytes, secret: bytes) -> bytes:
    """The leaf of the sample at a place: keyed by what only `secret` and the place give."""
    key = blake3.blake3(secret + place.to_bytes(8, "big"), derive_key_context=LEAF_CONTEXT).digest()
    return blake3.blake3(sample, key=key).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over one leaf or more."""
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [_node(left, right) for left, right in pairs] + level[len(level) & ~1 :]
    return level[0]


def _node(left: bytes, right: bytes) -> bytes:
    return blake3.blake3(left + right, derive_key_context=NODE_CONTEXT).digest()
