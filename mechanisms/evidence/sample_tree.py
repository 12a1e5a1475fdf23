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


def leaf_key(place: int, secret: bytes) -> bytes:
    """What keys the leaf of the sample at a place (32 bytes), and no other: who is shown it can
    check that sample."""
    return blake3.blake3(
        secret + place.to_bytes(8, "big"), derive_key_context=LEAF_CONTEXT
    ).digest()


def leaf(place: int, sample: bytes, secret: bytes) -> bytes:
    """The leaf of the sample at a place: keyed by what only `secret` and the place give."""
    return keyed_leaf(sample, leaf_key(place, secret))


def keyed_leaf(sample: bytes, key: bytes) -> bytes:
    """The leaf of a sample whose key is known."""
    return blake3.blake3(sample, key=key).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over one leaf or more."""
    return Tree(leaves).root


class Tree:
    """The tree over one leaf or more, level by level, for paths from a leaf to the root."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [list(leaves)]
        while len(level := self._levels[-1]) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            self._levels.append([_node(*pair) for pair in pairs] + level[len(level) & ~1 :])

    @property
    def root(self) -> bytes:
        """What all leaves lead to (32 bytes)."""
        return self._levels[-1][0]

    def path(self, place: int) -> bytes:
        """The audit path of a leaf (RFC 6962, section 2.1.1): its siblings, from the leaf up."""
        siblings: list[bytes] = []
        for level in self._levels[:-1]:
            if (place ^ 1) < len(level):
                siblings.append(level[place ^ 1])
            place //= 2
        return b"".join(siblings)


def root_by(leaf: bytes, place: int, count: int, path: bytes) -> bytes | None:
    """The root of `count` leaves to which the path of the one at `place` leads; None where no path
    of that length does."""
    node, at = leaf, 0
    while count > 1:
        if (place ^ 1) < count:
            sibling = path[at : at + ROOT_BYTES]
            if len(sibling) != ROOT_BYTES:
                return None
            node, at = _node(sibling, node) if place & 1 else _node(node, sibling), at + ROOT_BYTES
        place, count = place // 2, (count + 1) // 2
    return node if at == len(path) else None


def _node(left: bytes, right: bytes) -> bytes:
    return blake3.blake3(left + right, derive_key_context=NODE_CONTEXT).digest()
