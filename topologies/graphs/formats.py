"""Graphs that other programs wrote, by the ending of their file.

A file is read into a `Listing`, names and edges as they stand there; whether those make a graph
that agents can train on is the business of `topologies.graphs.graphs`. Only the shape of a graph
counts: weights must be finite and above 0, and are then left alone, since mixing rules set their
own.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AliasChoices, BaseModel, Field

from candor.topologies.graphs import lines, markup
from candor.topologies.graphs.generators import EDGES_MAX
from candor.topologies.graphs.listings import NODES_MAX, Listing, check_distinct, named_edge
from candor.topologies.specs.files import FilePath, read_text, validated
from candor.topologies.specs.specs import ConfigurationError, located, shown
from candor.topologies.specs.tables import suffix

# What is not read, and how it is made something that is.
_INSTEAD = dict.fromkeys((".dot", ".gv"), "; Graphviz makes a .gml of it: gv2gml FILE -o FILE.gml")


def read(path: FilePath) -> Listing:
    """The nodes and edges of a file, by the format that its ending names.

    Raises:
        ConfigurationError: an unknown ending, unreadable, too large, not in that format, a repeated
            node, an edge to a node that is not listed, a weight that is not a number above 0.
    """
    ending = suffix(str(path))
    if ending not in FORMATS:
        raise ConfigurationError(
            f"{path}: a graph file ends in {', '.join(FORMATS)} or .toml, not "
            f"{ending or 'nothing'}{_INSTEAD.get(ending, '')}"
        )
    text = read_text(path, "graph file")
    with located(str(path)):
        listing = FORMATS[ending](text)
        _check(listing)
    return listing


def _check(listing: Listing) -> None:
    if len(listing.nodes) > NODES_MAX or len(listing.edges) > EDGES_MAX:
        raise ConfigurationError(f"more than {NODES_MAX} nodes or {EDGES_MAX} edges")
    check_distinct(listing.nodes)
    known = set(listing.nodes)
    for edge in listing.edges:
        for node in edge:
            if node not in known:
                raise ConfigurationError(f"{named_edge(edge)}: there is no node {shown(node)}")


# --- JSON ---------------------------------------------------------------------------------------

_Id = Annotated[str, Field(strict=True)] | Annotated[int, Field(strict=True)] | list[int | str]


class _Node(BaseModel):
    id: _Id | None = None


class _Link(BaseModel):
    source: _Id
    target: _Id
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class _NodeLink(BaseModel):
    """The form of `networkx.node_link_data` and D3; unknown keys are attributes, not mistakes."""

    directed: bool = False
    nodes: tuple[_Node, ...]
    links: tuple[_Link, ...] = Field(validation_alias=AliasChoices("links", "edges"))


def _node_link(text: str) -> Listing:
    """Nodes without an id are known by their place, as in D3."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise ConfigurationError("not node-link JSON: expected an object with nodes and links")
    found = validated(_NodeLink, data, "not node-link JSON")
    return Listing(
        tuple(str(i if node.id is None else node.id) for i, node in enumerate(found.nodes)),
        tuple((str(link.source), str(link.target)) for link in found.links),
        found.directed,
    )


FORMATS: Mapping[str, Callable[[str], Listing]] = {
    ".graphml": markup.xml,
    ".gexf": markup.xml,
    ".xml": markup.xml,
    ".gml": markup.gml,
    ".net": lines.pajek,
    ".json": _node_link,
    ".csv": lines.table,
    ".edges": lines.edge_list,
    ".edgelist": lines.edge_list,
    ".txt": lines.edge_list,
    ".adjlist": lines.adjacency_list,
}
