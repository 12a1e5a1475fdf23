"""Graphs in files of nested elements: GraphML and GEXF, which are XML, and GML.

Only the shape is looked at: nodes, edges, which way these go and what they weigh. What else a file
says of nodes and edges, of whatever type, is passed over unread, so that none of it can make the
file unreadable. Nothing is expanded, and depth and number of nodes are bounded.
"""

import html
import re
from typing import Any
from xml.parsers import expat

from candor.topologies.graphs.listings import (
    DEPTH_MAX,
    NODES_MAX,
    Listing,
    by_label,
    check_weight,
    ends,
    listed,
    named_edge,
)
from candor.topologies.specs.fields import Edge
from candor.topologies.specs.specs import ConfigurationError, shown

# --- XML ----------------------------------------------------------------------------------------

_ONE_WAY = {"true": True, "directed": True, "false": False, "undirected": False, "mutual": False}


def xml(text: str) -> Listing:
    """GraphML or GEXF of any version, as the root element says.

    Raises:
        ConfigurationError: neither, or not XML; a document type, the one place where an entity that
            grows can be declared; a hyperedge; a weight that is not a number above 0.
    """
    shape = _Shape()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = shape.start, shape.end
    parser.CharacterDataHandler = shape.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as exc:
        raise ConfigurationError(f"not GraphML or GEXF: {exc}") from exc
    if not shape.graphs:
        raise ConfigurationError("not GraphML or GEXF: there is no graph in it")
    return listed(shape.nodes, shape.edges)


def _refuse_doctype(*_: object) -> None:
    raise ConfigurationError("it declares a document type (DOCTYPE), which no graph needs")


class _Shape:
    """Nodes and edges as the parser comes upon them; elements of other namespaces than the root's,
    as drawings are, go by."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.edges: list[tuple[Edge, bool]] = []  # with whether it goes one way
        self.graphs = 0
        self._one_way = False  # of edges that do not say
        self._namespace = ""
        self._path: list[str] = []  # names of the open elements
        self._weights: set[str] = set()  # keys by which GraphML's data says an edge's weight
        self._weight: list[str] | None = None  # the pieces of one that is being read

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, element = name.rpartition(" ")
        if not self._path:
            if element not in ("graphml", "gexf"):
                raise ConfigurationError(f"not GraphML or GEXF: it begins with <{element[:60]}>")
            self._namespace = namespace
        self._path.append(element)
        if len(self._path) > DEPTH_MAX:
            raise ConfigurationError(f"elements lie more than {DEPTH_MAX} deep")
        if namespace != self._namespace:
            return
        match element:
            case "graph" if len(self._path) == 2:
                self._graph(attributes)
            case "key" if attributes.get("attr.name") == "weight":
                self._weights.add(attributes.get("id", ""))
            case "node":
                self._node(attributes)
            case "edge":
                self._edge(attributes)
            case "data" if self._path[-2] == "edge" and attributes.get("key") in self._weights:
                self._weight = []
            case "hyperedge":
                raise ConfigurationError("a hyperedge joins more than two; write edges instead")

    def _graph(self, attributes: dict[str, str]) -> None:
        self.graphs += 1
        if self.graphs > 1:
            raise ConfigurationError("there is more than one graph in it; keep one")
        default = attributes.get("edgedefault", attributes.get("defaultedgetype", ""))
        self._one_way = _ONE_WAY.get(default, False)

    def _node(self, attributes: dict[str, str]) -> None:
        if "id" not in attributes:
            raise ConfigurationError("a node has no id")
        self.nodes.append(attributes["id"])
        if len(self.nodes) > NODES_MAX:
            raise ConfigurationError(f"more than {NODES_MAX} nodes")

    def _edge(self, attributes: dict[str, str]) -> None:
        if not {"source", "target"} <= attributes.keys():
            raise ConfigurationError("an edge has no source or no target")
        edge = (attributes["source"], attributes["target"])
        said = attributes.get("directed", attributes.get("type", ""))
        self.edges.append((edge, _ONE_WAY.get(said, self._one_way)))
        if attributes.get("weight"):
            check_weight(attributes["weight"], named_edge(edge))

    def characters(self, text: str) -> None:
        if self._weight is not None:
            self._weight.append(text)

    def end(self, _name: str) -> None:
        self._path.pop()
        if self._weight is not None:
            if weight := "".join(self._weight).strip():
                check_weight(weight, named_edge(self.edges[-1][0]))
            self._weight = None


# --- GML ----------------------------------------------------------------------------------------

_COMMENT = re.compile(r"^[^\S\n]*#.*$", re.MULTILINE)
_TOKEN = re.compile(r'"([^"]*)"|([\[\]])|([^\s\[\]"]+)|"')
_List = list[tuple[str, Any]]  # keys, which may come again, with a text or another such list


def gml(text: str) -> Listing:
    """GML. Nodes are called by their labels (or names, which Graphviz gives) where all differ.

    Raises:
        ConfigurationError: not GML, not one graph, or a node or an edge lacks its ids.
    """
    graphs = [value for key, value in _gml_list(text) if key == "graph"]
    if len(graphs) != 1 or isinstance(graphs[0], str):
        raise ConfigurationError("not GML: expected one graph [ … ]")
    nodes = [_fields(value, "id") for key, value in graphs[0] if key == "node"]
    edges = [_fields(value, "source", "target") for key, value in graphs[0] if key == "edge"]
    labels = [node.get("label", node.get("name")) for node in nodes]
    names = by_label(
        [node["id"] for node in nodes],
        [_unescaped(label) if isinstance(label, str) else None for label in labels],
    )
    for edge in edges:
        if edge.get("weight"):  # Graphviz leaves it empty where there is none
            check_weight(str(edge["weight"]), named_edge((edge["source"], edge["target"])))
    directed = dict(graphs[0]).get("directed") == "1"
    ways = [(ends(names, edge["source"], edge["target"]), directed) for edge in edges]
    return listed(names.values(), ways)


def _unescaped(label: str) -> str:
    """A label with its character references resolved; one of no character stays as it is."""
    try:
        return html.unescape(label)
    except ValueError:  # a number of thousands of digits
        return label


def _fields(value: str | _List, *needed: str) -> dict[str, Any]:
    fields = {} if isinstance(value, str) else dict(value)
    for key in needed:
        if not isinstance(fields.get(key), str):
            raise ConfigurationError(
                f"not GML: {'a node' if key == 'id' else 'an edge'} has no {key}"
            )
    return fields


def _gml_list(text: str) -> _List:
    """The whole text as a list; without recursion, whatever its depth."""
    text = _COMMENT.sub("", text)
    open_lists: list[_List] = [[]]
    key: str | None = None
    for match in _TOKEN.finditer(text):
        string, bracket, word = match.groups()
        if bracket == "]" and key is None and len(open_lists) > 1:
            open_lists.pop()
        elif key is None and word is not None:
            key = word
        elif key is not None and bracket == "[" and len(open_lists) < DEPTH_MAX:
            open_lists.append([])
            open_lists[-2].append((key, open_lists[-1]))
            key = None
        elif key is not None and (word is not None or string is not None):
            open_lists[-1].append((key, word if string is None else string))
            key = None
        else:
            line = text.count("\n", 0, match.start()) + 1
            raise ConfigurationError(
                f"not GML: line {line}: {shown(match.group())} is out of place"
            )
    if key is not None or len(open_lists) > 1:
        raise ConfigurationError("not GML: it ends before what was begun")
    return open_lists[0]
