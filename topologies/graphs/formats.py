"""Graphs that other programs wrote: GraphML, GEXF, node-link JSON, edge lists, CSV tables.

A file is read into a `Listing`, names and edges as they stand there; whether those make a graph
that agents can train on is the business of `topologies.graphs.graphs`. Only the shape of a graph
counts: weights must be finite and above 0, and are then left alone, since mixing rules set their
own.
"""

import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from xml.parsers import expat

import networkx as nx
from pydantic import AliasChoices, BaseModel, Field

from candor.topologies.graphs.generators import EDGES_MAX
from candor.topologies.specs.fields import Edge
from candor.topologies.specs.files import FilePath, read_text, validated
from candor.topologies.specs.specs import ConfigurationError, located, one_line, shown
from candor.topologies.specs.tables import csv_rows, suffix, without_names

NODES_MAX = 10_000
_XML_DEPTH_MAX = 64  # a graph's elements lie 5 deep, with yEd's drawings 12


@dataclass(frozen=True, slots=True)
class Listing:
    """What a file says: nodes in its order, edges as written; arcs from, to where `directed`."""

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    directed: bool = False


def read(path: FilePath) -> Listing:
    """The nodes and edges of a file, by the format that its ending names.

    Raises:
        ConfigurationError: an unknown ending, unreadable, too large, not in that format, a repeated
            node, an edge to a node that is not listed, a weight that is not a number above 0.
    """
    ending = suffix(str(path))
    if ending not in FORMATS:
        raise ConfigurationError(
            f"{path}: a graph file ends in {', '.join(FORMATS)} or .toml, not {ending or 'nothing'}"
        )
    text = read_text(path, "graph file")
    with located(str(path)):
        listing = FORMATS[ending](text)
        _check(listing)
    return listing


def _check(listing: Listing) -> None:
    if len(listing.nodes) > NODES_MAX or len(listing.edges) > EDGES_MAX:
        raise ConfigurationError(f"more than {NODES_MAX} nodes or {EDGES_MAX} edges")
    known: set[str] = set()
    for node in listing.nodes:
        if node in known:
            raise ConfigurationError(f"the node {shown(node)} stands twice; remove one")
        known.add(node)
    for edge in listing.edges:
        for node in edge:
            if node not in known:
                raise ConfigurationError(f"{_named(edge)}: there is no node {shown(node)}")


def _named(edge: tuple[object, object]) -> str:
    return f"edge {shown(edge[0])}-{shown(edge[1])}"


def _weight(value: object, where: str, *, zero: bool = False) -> float:
    """A weight as a finite number above 0, or with `zero` also 0."""
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        least = "0 or above" if zero else "above 0"
        raise ConfigurationError(
            f"{where}: the weight must be a finite number {least}, not {shown(value)}"
        )
    return number


# --- XML ----------------------------------------------------------------------------------------


def _graphml(text: str) -> Listing:
    return _from_xml(text, "GraphML", nx.parse_graphml)


def _gexf(text: str) -> Listing:
    # networkx looks for one version's namespace; the file says which one it has.
    version = next((v for v in ("1.1draft", "1.3") if f"gexf.net/{v}" in text[:2000]), "1.2draft")

    def parse(text: str) -> object:
        # As text, whatever encoding the file claims: what is parsed is what was checked.
        return nx.read_gexf(io.StringIO(text), version=version)  # type: ignore[arg-type]

    return _from_xml(text, "GEXF", parse)


def _from_xml(text: str, what: str, parse: Callable[[str], Any]) -> Listing:
    nodes = _xml_nodes(text, what)
    try:
        with warnings.catch_warnings(action="ignore"):  # of attributes that we do not use
            graph = parse(text)
    except Exception as exc:  # whatever networkx trips over in the user's file
        raise ConfigurationError(f"not {what}: {one_line(exc)}") from exc
    for u, v, weight in graph.edges(data="weight", default=1):
        _weight(weight, _named((u, v)))
    return Listing(nodes, tuple((str(u), str(v)) for u, v in graph.edges()), graph.is_directed())


def _xml_nodes(text: str, what: str) -> tuple[str, ...]:
    """The ids of all `node` elements, in order, from XML that is safe to parse whole.

    Refused are document types, the one place where an entity that grows can be declared, and more
    nodes or levels than a graph has. networkx would merge two nodes with one id without a word.
    """
    nodes: list[str] = []
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _XML_DEPTH_MAX:
            raise ConfigurationError(f"elements lie more than {_XML_DEPTH_MAX} deep")
        element = name.rpartition(":")[2]
        if element == "edge" and not {"source", "target"} <= attributes.keys():
            raise ConfigurationError(f"not {what}: an edge has no source or no target")
        if element == "node":
            if "id" not in attributes:
                raise ConfigurationError(f"not {what}: a node has no id")
            nodes.append(attributes["id"])
            if len(nodes) > NODES_MAX:
                raise ConfigurationError(f"more than {NODES_MAX} nodes")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise ConfigurationError("it declares a document type (DOCTYPE), which no graph needs")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as exc:
        raise ConfigurationError(f"not {what}: {exc}") from exc
    return tuple(nodes)


# --- JSON ---------------------------------------------------------------------------------------

_Id = Annotated[str, Field(strict=True)] | Annotated[int, Field(strict=True)]


class _Node(BaseModel):
    id: _Id


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
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise ConfigurationError("not node-link JSON: expected an object with nodes and links")
    found = validated(_NodeLink, data, "not node-link JSON")
    return Listing(
        tuple(str(node.id) for node in found.nodes),
        tuple((str(link.source), str(link.target)) for link in found.links),
        found.directed,
    )


# --- plain text ---------------------------------------------------------------------------------


def _edge_list(text: str) -> Listing:
    """Two ids a line and, if at all, a weight or `{…}` behind them; `#` begins a comment."""
    nodes: dict[str, None] = {}
    edges: list[Edge] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].partition("{")[0].split()
        if not words:
            continue
        if len(words) not in (2, 3):
            raise ConfigurationError(
                f"line {number}: expected two ids and perhaps a weight, not {line.strip()[:60]!r}"
            )
        if len(words) == 3:
            _weight(words[2], f"line {number}")
        nodes |= dict.fromkeys(words[:2])
        edges.append((words[0], words[1]))
    return Listing(tuple(nodes), tuple(edges))


def _table(text: str) -> Listing:
    """An edge table, as Gephi writes it, where the first row says so; else an adjacency matrix."""
    rows = csv_rows(text)
    header = [cell.lower() for cell in rows[0]] if rows else []
    return _edge_table(header, rows) if {"source", "target"} <= set(header) else _adjacency(rows)


def _edge_table(header: list[str], rows: list[list[str]]) -> Listing:
    """An edge a row, in the columns Source and Target; Type and Weight count, others do not."""
    edges: list[Edge] = []
    types: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        cells = dict(zip(header, row, strict=False))
        for end in ("source", "target"):
            if not cells.get(end):
                raise ConfigurationError(f"row {number} has no {end}")
        if weight := cells.get("weight"):
            _weight(weight, f"row {number}")
        types.add(cells.get("type", "").lower())
        edges.append((cells["source"], cells["target"]))
    if "directed" in types and len(types) > 1:
        raise ConfigurationError("some edges are directed and others are not; make all alike")
    nodes = dict.fromkeys(node for edge in edges for node in edge)
    return Listing(tuple(nodes), tuple(edges), "directed" in types)


def _adjacency(rows: list[list[str]]) -> Listing:
    """A square of numbers, one row an agent, 0 for no edge; names in a first row and column.

    Without them, agents are numbered from 0. A matrix that is not symmetric is directed: row i
    has the arcs that leave i.
    """
    names, rows = without_names(rows)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows):
            raise ConfigurationError(
                f"not square: {len(rows)} rows of numbers, but row {number} has {len(row)} columns"
            )
    names = names or [str(i) for i in range(len(rows))]
    if len(names) != len(rows):
        raise ConfigurationError(f"{len(names)} names for {len(rows)} rows")
    arcs = [
        (i, j)
        for i, row in enumerate(rows)
        for j, cell in enumerate(row)
        if cell != "0" and _weight(cell, f"row {i + 1}, column {j + 1}", zero=True)
    ]
    known = set(arcs)
    directed = any((j, i) not in known for i, j in arcs)
    kept: Iterable[tuple[int, int]] = arcs if directed else [(i, j) for i, j in arcs if i <= j]
    return Listing(tuple(names), tuple((names[i], names[j]) for i, j in kept), directed)


FORMATS: Mapping[str, Callable[[str], Listing]] = {
    ".graphml": _graphml,
    ".gexf": _gexf,
    ".json": _node_link,
    ".csv": _table,
    ".edges": _edge_list,
    ".edgelist": _edge_list,
    ".txt": _edge_list,
}
