"""What a file of another program says of a graph's shape, whatever its format: nodes and edges."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from candor.topologies.specs.fields import Edge
from candor.topologies.specs.specs import ConfigurationError, shown

NODES_MAX = 10_000
DEPTH_MAX = 64  # a graph's elements lie 5 deep, with yEd's drawings 12


@dataclass(frozen=True, slots=True)
class Listing:
    """Nodes in the file's order, edges as written; arcs from, to where `directed`. `notes` are what
    the reader took for granted, for the user to know."""

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    directed: bool = False
    notes: tuple[str, ...] = ()


def listed(nodes: Iterable[str], found: Sequence[tuple[Edge, bool]]) -> Listing:
    """The listing of edges that say each whether they go one way: among arcs, an edge that goes
    both ways counts as two of them."""
    directed = any(one_way for _, one_way in found)
    edges = [edge for edge, _ in found]
    if directed:
        edges += [(v, u) for (u, v), one_way in found if not one_way]
    return Listing(tuple(nodes), tuple(edges), directed)


def check_distinct(nodes: Iterable[str]) -> None:
    """Check that no node stands twice; raises ConfigurationError."""
    known: set[str] = set()
    for node in nodes:
        if node in known:
            raise ConfigurationError(f"the node {shown(node)} stands twice; remove one")
        known.add(node)


def by_label(ids: Sequence[str], labels: Sequence[str | None]) -> dict[str, str]:
    """What each node is called, by its id: its label where everyone has another, else its id.

    Raises:
        ConfigurationError: an id stands twice.
    """
    check_distinct(ids)
    named = [label for label in labels if label]
    return dict(zip(ids, named if len(set(named)) == len(ids) else ids, strict=True))


def ends(names: dict[str, str], source: str, target: str) -> Edge:
    """The names of an edge's ends, given by their ids.

    Raises:
        ConfigurationError: there is no such node.
    """
    for one in (source, target):
        if one not in names:
            raise ConfigurationError(
                f"{named_edge((source, target))}: there is no node {shown(one)}"
            )
    return names[source], names[target]


def named_edge(edge: Edge) -> str:
    """An edge as messages name it."""
    return f"edge {shown(edge[0])}-{shown(edge[1])}"


def check_weight(value: str, where: str, *, zero: bool = False) -> float:
    """A weight as a finite number above 0, or with `zero` also 0.

    Raises:
        ConfigurationError: it is none; the line begins with `where`.
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        least = "0 or above" if zero else "above 0"
        raise ConfigurationError(
            f"{where}: the weight must be a finite number {least}, not {shown(value)}"
        )
    return number
