"""Who is connected with whom: graphs by spec, topology files, and what every graph must hold.

Graphs are simple, undirected and connected. Nodes are agent ids, and their order counts: `build`
names a family's nodes `a0`, `a1`, … in order, a file's keep the order of the file. Directed graphs,
for push-sum alone, are simple and strongly connected.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import networkx as nx
import tomli_w
from pydantic import AfterValidator, Field

from candor.topologies.graphs import families
from candor.topologies.graphs import formats as graph_files
from candor.topologies.graphs import functions as user_graphs
from candor.topologies.graphs.listings import NODES_MAX, Listing
from candor.topologies.mixing.rules import DEFAULT_MIXING, check_name
from candor.topologies.specs.fields import Edge, Line, check_id, is_id
from candor.topologies.specs.files import FilePath, Section, json_text, read_toml, validated
from candor.topologies.specs.specs import ConfigurationError, Note, located, parse_spec, shown
from candor.topologies.specs.tables import suffix

AGENTS_MAX = NODES_MAX
UNDIRECTED = "undirected:"  # before a file's name: its arcs are edges
_LOST_NAMED_MAX = 5  # of the agents that are cut off, or called otherwise


class TopologyFile(Section):
    """A topology on disk: who is connected with whom, without keys or addresses."""

    topology: Line
    mixing: Annotated[str, AfterValidator(check_name)] = DEFAULT_MIXING
    agents: Annotated[tuple[str, ...], Field(max_length=AGENTS_MAX)]
    edges: tuple[Edge, ...]

    def graph(self) -> "nx.Graph[str]":
        """The graph, nodes in the file's order."""
        return make_graph(self.agents, self.edges)


def build(
    spec: str, agents: int | None, seed: int = 0, *, connected: bool = True, directed: bool = False
) -> "nx.Graph[str]":
    """The graph of a spec with `agents` agents: a family's, a file's, networkx's or the user's.

    A file and most of networkx's graphs know how many agents they have. `seed` serves the random
    ones; a `seed=` inside the spec wins over it. `undirected:` before a file or function makes
    edges of its arcs; loops and parallel edges are left out of those, which a `Note` says. With
    `connected` False a file or the user's graph may be in pieces, with `directed` it may be a
    `networkx.DiGraph`.

    Raises:
        ConfigurationError: unknown family, a bad parameter, a number of agents it cannot have, or a
            graph that is not what it must be.
    """
    source = spec.removeprefix(UNDIRECTED)
    if is_file(spec) and suffix(source) == ".toml":
        graph = load(source, connected=connected).graph()
    elif is_file(spec) or user_graphs.is_one(source):
        listing = _listing(source, agents, seed)
        if source != spec:
            listing = replace(listing, directed=False)
        graph = _checked(listing, source, connected, directed)
    else:
        return _of_family(source, agents, seed)
    if agents not in (None, len(graph)):
        raise ConfigurationError(f"{spec}: has {len(graph)} agents, not the {agents} asked for")
    return graph


def _listing(source: str, agents: int | None, seed: int) -> Listing:
    if not user_graphs.is_one(source):
        return graph_files.read(source)
    made = user_graphs.make(source, agents, seed)
    return Listing(tuple(made), tuple((u, v) for u, v, *_ in made.edges), made.is_directed())


def _of_family(spec: str, agents: int | None, seed: int) -> "nx.Graph[str]":
    parsed = parse_spec(spec)
    family = families.family_named(parsed.name)
    if agents is None:
        raise ConfigurationError(f"topology {spec!r}: say how many agents it has (--agents N)")
    _check_count(agents, f"topology {spec!r}")
    drawn = family.draw(agents, families.values(spec, parsed, family, seed))
    names = {node: f"a{i}" for i, node in enumerate(sorted(drawn))}
    graph = make_graph(names.values(), ((names[u], names[v]) for u, v in drawn.edges))
    check_connected(graph)
    return graph


def _check_count(agents: int, source: str) -> None:
    if not 1 <= agents <= AGENTS_MAX:
        raise ConfigurationError(f"{source}: agents must be 1 to {AGENTS_MAX}, not {agents}")


def _checked(listing: Listing, source: str, connected: bool, directed: bool) -> "nx.Graph[str]":
    """The graph of a listing from `source`, its nodes' own names where all of them are ids."""
    _check_count(len(listing.nodes), source)
    names = dict(zip(listing.nodes, _ids(listing.nodes), strict=True))
    simple, left_out = _simple(listing)
    edges = [(names[u], names[v]) for u, v in simple.edges]
    for note in (*listing.notes, *left_out, *_numbered(names)):
        warnings.warn(Note(f"{source}: {note}"), stacklevel=2)
    if simple.directed and not directed:
        raise ConfigurationError(
            f"{source}: the graph is directed, which is for push-sum (--mixing push-sum) alone; "
            f"--undirected, or {UNDIRECTED} before its name, makes edges of its arcs"
        )
    with located(source):
        if simple.directed:
            return _strongly_connected(list(names.values()), edges)
        check_graph(list(names.values()), edges, connected=connected)
    return make_graph(names.values(), edges)


def _simple(listing: Listing) -> tuple[Listing, list[str]]:
    """The listing without loops and parallel edges, which mixing has no use for, and what was left
    out. Where every edge is written both ways, that is one edge, and arcs are none."""
    proper = [(u, v) for u, v in listing.edges if u != v]
    ways = dict.fromkeys(proper)
    both_ways = all((v, u) in ways for u, v in ways)
    directed = listing.directed and not both_ways
    pairs = {frozenset(edge): edge for edge in reversed(ways)}  # the first of each stays
    kept = tuple(ways) if directed else tuple(reversed(pairs.values()))
    parallel = len(proper) - (len(ways) if directed or both_ways else len(kept))
    counts = {"loop": len(listing.edges) - len(proper), "parallel edge": parallel}
    told = [f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count]
    notes = [f"left out {' and '.join(told)}"] if told else []
    return replace(listing, edges=kept, directed=directed), notes


def _ids(nodes: Sequence[object]) -> tuple[str, ...]:
    """The nodes' own names where all are agent ids, else a0, a1, …"""
    ids = tuple(node for node in nodes if isinstance(node, str) and is_id(node))
    return ids if len(ids) == len(nodes) else tuple(f"a{i}" for i in range(len(nodes)))


def _numbered(names: Mapping[Any, str]) -> list[str]:
    """Which agents have other names than the file gives them."""
    others = ((k, name) for k, name in names.items() if isinstance(k, str) and k != name)
    told = [f"{shown(node)} is {name}" for node, name in others if not node.isdecimal()]
    some = told[:_LOST_NAMED_MAX] + ["…"] * (len(told) > _LOST_NAMED_MAX)
    return [f"not all names are agent ids, so they are numbered: {', '.join(some)}"] if told else []


def _strongly_connected(ids: Sequence[str], arcs: Sequence[Edge]) -> "nx.DiGraph[str]":
    """A simple graph of arcs, from giver to taker, in which everyone reaches everyone."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(ids)
    graph.add_edges_from(arcs)
    if not nx.is_strongly_connected(graph):
        raise ConfigurationError(
            "the graph is directed, and not every agent is heard by every other; add arcs, or give "
            f"--undirected (or {UNDIRECTED} before its name) if they mean both ways"
        )
    return graph


def is_file(spec: str) -> bool:
    """Whether a topology spec names a file: it has a slash, or an ending."""
    spec = spec.removeprefix(UNDIRECTED)
    if user_graphs.is_one(spec):  # whose options may look like a file's name
        return False
    known = suffix(spec) in (".toml", *graph_files.FORMATS)
    return known or "/" in spec or ("." in spec and ":" not in spec)


def load(path: FilePath, *, connected: bool = True) -> TopologyFile:
    """Read a topology file and check its graph.

    Raises:
        ConfigurationError: unreadable, malformed, or not a simple graph, connected unless told.
    """
    tables = read_toml(path, "topology file")
    if "run_id" in tables:
        raise ConfigurationError(
            f"{path}: this is a cluster file, not a topology; see candor cluster show {path}"
        )
    read = validated(TopologyFile, tables, str(path))
    with located(str(path)):
        check_graph(read.agents, read.edges, connected=connected)
    return read


def dump(graph: "nx.Graph[str]", topology: str, mixing_name: str) -> str:
    """The text of a topology file, one edge a line."""
    return (
        "# Candor topology file: `candor topology show FILE` draws it.\n"
        f"{tomli_w.dumps({'topology': topology, 'mixing': mixing_name})}"
        f"agents = {toml_list(graph)}\nedges = {toml_list(sorted_edges(graph))}\n"
    )


def toml_list(items: Iterable[Any]) -> str:
    """A TOML array, one item a line; of what TOML and JSON write alike."""
    return "[\n" + "".join(f"  {json_text(item)},\n" for item in items) + "]"


def sorted_edges(graph: "nx.Graph[str]") -> list[Edge]:
    """All edges as (lo, hi), ordered by their agents' positions in the graph."""
    position = {agent: i for i, agent in enumerate(graph)}
    ordered = sorted(sorted((position[u], position[v])) for u, v in graph.edges)
    names = list(graph)
    return [(min(names[i], names[j]), max(names[i], names[j])) for i, j in ordered]


def relabelled(graph: "nx.Graph[str]", ids: Sequence[str]) -> "nx.Graph[str]":
    """The same graph with its nodes renamed to `ids`, in order.

    Raises:
        ConfigurationError: another number of ids.
    """
    if len(ids) != len(graph):
        raise ConfigurationError(f"the topology has {len(graph)} agents, but {len(ids)} are named")
    names = dict(zip(graph, ids, strict=True))
    return make_graph(ids, ((names[u], names[v]) for u, v in graph.edges))


def make_graph(ids: Iterable[str], edges: Iterable[Edge]) -> "nx.Graph[str]":
    """A graph whose nodes keep the order of `ids`."""
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(ids)
    graph.add_edges_from(edges)
    return graph


def check_graph(ids: Sequence[str], edges: Sequence[Edge], *, connected: bool = True) -> None:
    """Check that `edges` make one simple graph on `ids`, connected unless told otherwise.

    Raises:
        ConfigurationError: no agents, bad or repeated ids, unknown agents, loops, repeated edges,
            or agents that no path connects.
    """
    if not ids:
        raise ConfigurationError("agents: at least one is needed")
    for agent in ids:
        check_id(agent)
    if len(ids) > AGENTS_MAX:
        raise ConfigurationError(f"agents: {len(ids)} are more than {AGENTS_MAX}")
    known: set[str] = set()
    for agent in ids:
        if agent in known:
            raise ConfigurationError(f"agents: the id {agent!r} is used twice")
        known.add(agent)
    seen: set[Edge] = set()
    for u, v in edges:
        for agent in (u, v):
            if agent not in known:
                raise ConfigurationError(f"edge {u!r}-{v!r}: there is no agent {agent!r}")
        if u == v:
            raise ConfigurationError(f"edge {u!r}-{v!r}: an agent is not its own neighbour")
        edge = (min(u, v), max(u, v))
        if edge in seen:
            raise ConfigurationError(f"edge {u!r}-{v!r} stands twice; remove one")
        seen.add(edge)
    if connected:
        check_connected(make_graph(ids, edges))


def check_connected(graph: "nx.Graph[str]") -> None:
    """Check that a path connects every two agents.

    Raises:
        ConfigurationError: names agents whom most others cannot reach.
    """
    most = max(nx.connected_components(graph), key=len)
    lost = [agent for agent in graph if agent not in most]
    if lost:
        inside = next(agent for agent in graph if agent in most)
        named = ", ".join(map(repr, lost[:_LOST_NAMED_MAX]))
        more = f" and {len(lost) - _LOST_NAMED_MAX} more" * (len(lost) > _LOST_NAMED_MAX)
        raise ConfigurationError(
            f"the graph is not connected: no path from {inside!r} to {named}{more}; add an edge"
        )
