"""What chance decides in a round: hashes of seed, round and agents, alike for everybody."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from candor.topologies.encoding import canonical
from candor.topologies.graphs import graphs
from candor.topologies.specs.fields import Edge

if TYPE_CHECKING:
    import networkx as nx

_DOMAIN = "candor/schedule"


def any_pairs(ids: Sequence[str], seed: int, round: int) -> "nx.Graph[str]":
    """All agents, in the order of their hashes, paired off; the last of an odd number rests."""
    order = sorted(ids, key=lambda agent: _hash(seed, round, agent))
    return graphs.make_graph(ids, zip(order[::2], order[1::2], strict=False))


def matching(ids: Sequence[str], edges: Iterable[Edge], seed: int, round: int) -> "nx.Graph[str]":
    """The edges, in the order of their hashes, as long as both ends are free."""
    taken: set[str] = set()
    chosen: list[Edge] = []
    for u, v in sorted(edges, key=lambda edge: _hash(seed, round, *edge)):
        if u not in taken and v not in taken:
            taken |= {u, v}
            chosen.append((u, v))
    return graphs.make_graph(ids, chosen)


def surviving(
    ids: Sequence[str], edges: Iterable[Edge], p: float, seed: int, round: int
) -> "nx.Graph[str]":
    """The edges that do not fail; p is the chance that one does."""
    threshold = math.ceil(p * 2**64)
    return graphs.make_graph(ids, (e for e in edges if _hash(seed, round, *e) >= threshold))


def drawn(count: int, below: int, seed: int, agent: str) -> list[int]:
    """`count` different numbers from 0 to below `below`, each of which is as likely.

    The first steps of a shuffle (Fisher and Yates) that remembers what it moved alone.
    """
    moved: dict[int, int] = {}
    found: list[int] = []
    for k in range(count):
        place, last = _hash(seed, k, agent) % (below - k), below - k - 1
        found.append(moved.get(place, place))
        moved[place] = moved.get(last, last)
    return found


def _hash(seed: int, round: int, *agents: str) -> int:
    """A whole number below 2^64, as random as SHA-256: of an agent or an edge in a round."""
    digest = canonical.sha256(canonical.pack([_DOMAIN, seed, round, *agents]))
    return int.from_bytes(digest[:8], "big")
