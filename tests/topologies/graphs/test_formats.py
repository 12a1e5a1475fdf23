"""Graphs of other programs: read alike from every format, or refused in one line."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import formats as graph_files
from candor.topologies.graphs import graphs, lines
from candor.topologies.specs import files
from candor.topologies.specs.specs import ConfigurationError, Note
from tests.mutations import mutated


def _csv(graph: "nx.Graph[str]", path: Path) -> None:
    matrix = nx.to_numpy_array(graph, dtype=int)
    rows = [",".join(["", *graph])]
    rows += [",".join([node, *map(str, row)]) for node, row in zip(graph, matrix, strict=True)]
    path.write_text("\n".join(rows) + "\n")


def _json(graph: "nx.Graph[str]", path: Path) -> None:
    links = [{"source": u, "target": v, "colour": "red"} for u, v in graph.edges()]
    nodes = [{"id": node, "label": node.upper()} for node in graph]
    path.write_text(json.dumps({"directed": graph.is_directed(), "nodes": nodes, "links": links}))


WRITERS: dict[str, Callable[["nx.Graph[str]", Path], None]] = {
    ".graphml": lambda graph, path: nx.write_graphml(graph, path),
    ".gexf": lambda graph, path: nx.write_gexf(graph, path),
    ".xml": lambda graph, path: nx.write_graphml(graph, path),
    ".gml": lambda graph, path: nx.write_gml(graph, path),
    ".net": lambda graph, path: nx.write_pajek(graph, path),
    ".json": _json,
    ".csv": _csv,
    ".edges": lambda graph, path: nx.write_edgelist(graph, path),
    ".edgelist": lambda graph, path: nx.write_edgelist(graph, path, data=False),
    ".txt": lambda graph, path: nx.write_edgelist(graph, path, comments="#", data=[]),
    ".adjlist": lambda graph, path: nx.write_adjlist(graph, path),
}


def test_every_format_is_tested() -> None:
    assert set(WRITERS) == set(graph_files.FORMATS)


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("family", ["ring", "star", "binary-tree", "torus"])
def test_a_written_graph_is_read_back_by_name(ending: str, family: str, tmp_path: Path) -> None:
    graph = graphs.relabelled(graphs.build(family, 9), [f"host-{c}" for c in "ihgfedcba"])
    path = tmp_path / f"graph{ending}"
    WRITERS[ending](graph, path)
    read = graphs.build(str(path), None)
    assert set(read) == set(graph)
    assert set(map(frozenset, read.edges)) == set(map(frozenset, graph.edges))
    if ending not in (
        ".edges",
        ".edgelist",
        ".txt",
        ".adjlist",
    ):  # which have their nodes in the edges' order
        assert list(read) == list(graph)
    with pytest.raises(ConfigurationError, match="has 9 agents, not the 5 asked for"):
        graphs.build(str(path), 5)


@given(seed=st.integers(0, 10_000), agents=st.integers(2, 20))
@pytest.mark.parametrize("ending", WRITERS)
def test_any_graph_is_read_back(
    ending: str, seed: int, agents: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = graphs.build("erdos-renyi:p=0.5", agents, seed)
    path = tmp_path_factory.mktemp("graphs") / f"g{ending}"
    WRITERS[ending](graph, path)
    assert nx.utils.graphs_equal(
        nx.Graph(graphs.build(str(path), None).edges), nx.Graph(graph.edges)
    )


def test_a_gexf_of_the_newest_version_is_read(tmp_path: Path) -> None:
    text = (
        '<gexf xmlns="http://gexf.net/1.3" version="1.3"><graph defaultedgetype="undirected">'
        '<nodes><node id="x" label="X"/><node id="y" label="Y"/></nodes>'
        '<edges><edge id="0" source="x" target="y" weight="2.5"/></edges></graph></gexf>'
    )
    path = tmp_path / "g.gexf"
    path.write_text(text)
    assert list(graphs.build(str(path), None).edges) == [("x", "y")]


@pytest.mark.parametrize(
    "text",
    [
        "Source;Target;Type;Id;Label;Weight\nx;y;Undirected;0;;1,5\ny;z;Undirected;1;;1\n",
        "id,source,target\n0,x,y\n1,y,z\n",
        ";x;y;z\nx;0;0,5;0\ny;0,5;0;1\nz;0;1;0\n",
    ],
)
def test_tables_of_gephi_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    found = graphs.build(str(path), None)
    assert (list(found), list(found.edges)) == (["x", "y", "z"], [("x", "y"), ("y", "z")])


def test_a_table_of_directed_edges_is_for_push_sum(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Source,Target,Type\nx,y,Directed\ny,z,Directed\nz,x,Directed\n")
    arcs = graphs.build(str(path), None, directed=True).edges
    assert set(arcs) == {("x", "y"), ("y", "z"), ("z", "x")}
    with pytest.raises(ConfigurationError, match="directed, which is for push-sum"):
        graphs.build(str(path), None)


def test_names_that_are_no_ids_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("St. Mary,Charité,x\n0,1,0\n1,0,2.5\n0,2.5,0\n")
    with pytest.warns(
        Note, match="they are numbered: 'St. Mary' is a0, 'Charité' is a1, 'x' is a2$"
    ):
        read = graphs.build(str(path), None)
    assert list(read) == ["a0", "a1", "a2"]
    assert list(read.edges) == [("a0", "a1"), ("a1", "a2")]


def test_a_matrix_without_names_numbers_its_agents(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("0,1.0,0\n1,0,1e0\n\n0,1,0\n")
    assert list(graphs.build(str(path), None)) == ["0", "1", "2"]


GRAPHML = (
    '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{keys}'
    '<graph edgedefault="{kind}">{body}</graph></graphml>'
)
TWO = '<node id="x"/><node id="y"/>'


def graphml(body: str, kind: str = "undirected", keys: str = "") -> str:
    return GRAPHML.format(body=body, kind=kind, keys=keys)


WEIGHT_KEY = '<key id="w" for="edge" attr.name="weight" attr.type="double"/>'
BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
MALFORMED = [
    (".graphml", "", "not GraphML or GEXF: no element found"),
    (".graphml", "<graphml>", "not GraphML or GEXF: no element found"),
    (".graphml", "<html></html>", "not GraphML or GEXF: it begins with <html>"),
    (".graphml", BOMB + graphml(TWO), "declares a document type"),
    (".graphml", '<?xml version="1.0"?><!DOCTYPE x SYSTEM "/etc/passwd"><x/>', "document type"),
    (".graphml", graphml("<y>" * 62 + "</y>" * 62), "agents must be 1 to"),
    (".graphml", graphml("<y>" * 63 + "</y>" * 63), "more than 64 deep"),
    (".graphml", graphml(TWO + '<hyperedge><endpoint node="x"/></hyperedge>'), "a hyperedge"),
    (".graphml", graphml("") + "<graph/>", "not GraphML or GEXF: junk after document element"),
    (".graphml", "<graphml><graph/><graph/></graphml>", "more than one graph"),
    (".graphml", graphml('<node id="x"/><node id="x"/>'), "the node 'x' stands twice"),
    (".graphml", graphml("<node/>"), "a node has no id"),
    (".graphml", graphml('<node id="n"/>' * 10_001), "more than 10000 nodes"),
    (".graphml", graphml(TWO + '<edge source="x" target="q"/>'), "there is no node 'q'"),
    (".graphml", graphml(TWO + '<edge source="x" target="y"/>', "directed"), "is directed"),
    (".graphml", graphml(TWO + '<edge source="x"/>'), "an edge has no source or no target"),
    (".graphml", graphml(f'<node id="{"x" * 9999}"/>' * 2), "the node 'xxxx"),
    (".graphml", graphml(TWO), "no path from 'x' to 'y'"),
    (".graphml", graphml(""), "agents must be 1 to"),
    (
        ".graphml",
        graphml(
            TWO + '<edge source="x" target="y"><data key="w">NaN</data></edge>', keys=WEIGHT_KEY
        ),
        "edge 'x'-'y': the weight must be a finite number above 0, not 'NaN'",
    ),
    (
        ".graphml",
        graphml(
            TWO + '<edge source="x" target="y"><data key="w">heavy</data></edge>', keys=WEIGHT_KEY
        ),
        "edge 'x'-'y': the weight must be a finite number above 0, not 'heavy'",
    ),
    (".gexf", "<gexf></gexf>", "not GraphML or GEXF: there is no graph in it"),
    (".gexf", BOMB + "<gexf></gexf>", "declares a document type"),
    (".json", "", "not JSON"),
    (".json", "[" * 100_000, "not JSON"),
    (".json", "[1, 2]", "expected an object with nodes and links"),
    (".json", '{"nodes": []}', "links is missing"),
    (".json", '{"nodes": [], "links": []}', "agents must be 1 to"),
    (".json", '{"nodes": [{"id": "x"}, {"id": "x"}], "links": []}', "'x' stands twice"),
    (".json", '{"nodes": [{"id": 1}, {"id": "1"}], "links": []}', "'1' stands twice"),
    (".json", '{"nodes": [{"id": true}], "links": []}', "nodes[0].id"),
    (".json", '{"nodes": [{"id": "x"}], "links": [{"source": "x"}]}', "links[0].target"),
    (
        ".json",
        '{"nodes": [{"id": 0}, {"id": 1}], "links": [{"source": 0, "target": 1, "weight": NaN}]}',
        "links[0].weight",
    ),
    (
        ".json",
        '{"directed": 1, "nodes": [{"id": 0}, {"id": 1}], "links": [{"source": 0, "target": 1}]}',
        "is directed",
    ),
    (".csv", "", "agents must be 1 to"),
    (".csv", "0,1\n1,0\n0,1\n", "not square: 3 rows of numbers, but row 1 has 2 columns"),
    (".csv", "0,1\n1\n", "row 2 has 1 columns"),
    (".csv", "0,1\n0,0\n", "is directed"),
    (".csv", "0,nan\nnan,0\n", "row 1, column 2: the weight must be a finite number 0 or above"),
    (".csv", "0,inf\n1,0\n", "row 1, column 2"),
    (".csv", "0,-1\n-1,0\n", "row 1, column 2"),
    (
        ".csv",
        "0,1\n1,x\n",
        "row 2, column 2: the weight must be a finite number 0 or above, not 'x'",
    ),
    (".csv", ",a,b\nb,0,1\na,1,0\n", "not in the order of the columns"),
    (".csv", "a,a\n0,1\n1,0\n", "the node 'a' stands twice"),
    (".csv", "0,0\n0,0\n", "no path from '0' to '1'"),
    (".csv", "Source,Target\na\n", "row 2 has no target"),
    (
        ".csv",
        "Source,Target,Type\na,b,Directed\nb,c,Undirected\n",
        "is directed",
    ),
    (".csv", "Source,Target,Weight\na,b,-1\n", "row 2: the weight"),
    (".edges", "", "agents must be 1 to"),
    (
        ".edges",
        "a b\nc\n",
        "line 2: expected two names and perhaps a weight, not 'c'; an adjacency",
    ),
    (".edges", "a b 1 2\n", "line 1: expected two names"),
    (".edges", "a b nan\n", "line 1: the weight must be a finite number above 0, not 'nan'"),
    (".edges", "a b x\n", "line 1: the weight"),
    (
        ".edges",
        "7\n0 1\n1 2\n",
        "line 1: 7 agents or edges should follow, but 3 agents and 2 edges",
    ),
    (
        ".edges",
        f"{'9' * 5000}\n0 1\n1 2\n",
        f"line 1: {'9' * 20} agents or edges should follow, but 3 agents",
    ),
    (".edges", "0 1 2\n1 2\n2\n", "line 3: expected two names"),
    (".edges", "0 1 2\n1 2 0\n2 0 1\n", "line 1: '2' may be a weight or a neighbour"),
    (".edges", "0 1 2\n1 2\n2 0\n", "line 1: '2' may be a weight or a neighbour"),
    (".edges", "1 2 3\n2 3 4\n3 4 1\n4 1 2\n", "end in .adjlist"),
    (".adjlist", "", "agents must be 1 to"),
    (".gml", "", "expected one graph [ … ]"),
    (".gml", "graph 1", "expected one graph [ … ]"),
    (".gml", "graph [] graph []", "expected one graph [ … ]"),
    (".gml", "graph [", "it ends before what was begun"),
    (".gml", "graph [ directed ]", "line 1: ']' is out of place"),
    (".gml", 'graph [\nlabel "x\n]', "line 2: '\"' is out of place"),
    (".gml", "graph [" + "\n" * 200_000, "it ends before what was begun"),
    (".gml", "graph [ ] ]", "line 1: ']' is out of place"),
    (".gml", "a [ " * 63 + "] " * 63, "expected one graph"),
    (".gml", "a [ " * 64 + "] " * 64, "line 1: '[' is out of place"),
    (".gml", "graph [ node [ ] ]", "not GML: a node has no id"),
    (".gml", "graph [ node [ id 1 ] node [ id 1 ] ]", "the node '1' stands twice"),
    (".gml", "graph [ node [ id 1 ] edge [ source 1 ] ]", "not GML: an edge has no target"),
    (".gml", "graph [ node [ id 1 ] edge [ source 1 target 2 ] ]", "there is no node '2'"),
    (
        ".gml",
        "graph [ node [ id 1 ] node [ id 2 ] edge [ source 1 target 2 weight -1 ] ]",
        "edge '1'-'2': the weight must be a finite number above 0, not '-1'",
    ),
    (
        ".gml",
        "graph [ directed 1 node [ id 1 ] node [ id 2 ] edge [ source 1 target 2 ] ]",
        "is directed",
    ),
    (".net", "", "agents must be 1 to"),
    (".net", "1 2\n", "line 1: expected a section"),
    (".net", "*vertices\n", "line 1: expected *vertices and how many, at most 10000"),
    (".net", "*vertices 10001\n", "line 1: expected *vertices"),
    (".net", "*vertices 2\n*matrix\n0 1\n1 0\n", "line 2: *matrix is not read"),
    (".net", "*vertices 2\n*edges\n1\n", "line 3: expected a section, or two numbers"),
    (".net", "*vertices 2\n*edges\n1 2 0\n", "line 3: the weight"),
    (".net", "*vertices 2\n*edges\n1 3\n", "there is no node '3'"),
    (".dot", "graph {}", "not .dot; Graphviz makes a .gml of it: gv2gml FILE -o FILE.gml"),
    (".edges", "a b\nc d\n", "no path from 'a' to 'c'"),
    (".yaml", "x", ".edgelist, .txt, .adjlist or .toml, not .yaml"),
]


@pytest.mark.parametrize(("ending", "text", "message"), MALFORMED)
def test_a_bad_file_is_told_in_one_line(
    ending: str, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"bad{ending}"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        graphs.build(str(path), None)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.edges"
    path.write_bytes("ä b".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        graphs.build(str(path), None)
    with pytest.raises(ConfigurationError, match="cannot read the graph file: No such file"):
        graphs.build(str(tmp_path / "none.graphml"), None)


@pytest.mark.parametrize("ending", [*WRITERS, ".toml"])
def test_a_file_is_bounded_in_size(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = graphs.dump(graphs.build("ring", 4), "ring", "max-degree")
    path = tmp_path / f"g{ending}"
    if ending == ".toml":
        path.write_text(text)
    else:
        WRITERS[ending](graphs.build("ring", 4), path)
    monkeypatch.setattr(files, "FILE_BYTES_MAX", path.stat().st_size)
    assert len(graphs.build(str(path), None)) == 4
    monkeypatch.setattr(files, "FILE_BYTES_MAX", path.stat().st_size - 1)
    with pytest.raises(ConfigurationError, match="file is larger than"):
        graphs.build(str(path), None)


@given(data=st.data())
@pytest.mark.parametrize("ending", WRITERS)
def test_a_changed_file_is_read_or_refused_in_one_line(
    ending: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("changed") / f"g{ending}"
    WRITERS[ending](graphs.build("ring", 4), path)
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    try:
        with warnings.catch_warnings(action="ignore", category=Note):
            read = graphs.build(str(path), None)
    except ConfigurationError as exc:
        assert "\n" not in str(exc)  # noqa: PT017
        return
    graphs.check_graph(list(read), list(read.edges))


# --- directed graphs ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".graphml", ".gexf", ".json", ".csv"])
def test_a_directed_graph_is_read_for_push_sum_alone(ending: str, tmp_path: Path) -> None:
    cycle: nx.DiGraph[str] = nx.DiGraph([("x", "y"), ("y", "z"), ("z", "x"), ("x", "z")])
    path = tmp_path / f"g{ending}"
    WRITERS[ending](cycle, path)
    read = graphs.build(str(path), None, directed=True)
    assert set(read.edges) == set(cycle.edges)
    with pytest.raises(ConfigurationError, match="is directed"):
        graphs.build(str(path), None)


def test_a_bad_directed_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    np.savetxt(path, [[0, 1, 0], [0, 0, 1], [0, 0, 0]], delimiter=",")
    with pytest.raises(ConfigurationError, match="not every agent is heard by every other"):
        graphs.build(str(path), None, directed=True)
    assert set(graphs.build(f"undirected:{path}", None).edges) == {("0", "1"), ("1", "2")}


@pytest.mark.parametrize("ending", [".graphml", ".gexf", ".gml", ".net", ".json", ".csv"])
def test_arcs_both_ways_are_edges(ending: str, tmp_path: Path) -> None:
    """What networkx writes of a graph that was made directed, and some of the Topology Zoo."""
    path = tmp_path / f"g{ending}"
    WRITERS[ending](graphs.build("ring", 4).to_directed(), path)
    assert graphs.sorted_edges(graphs.build(str(path), None)) == graphs.sorted_edges(
        graphs.build("ring", 4)
    )


def test_an_edge_among_arcs_goes_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "g.graphml"
    body = TWO + '<node id="z"/><edge source="x" target="y" directed="false"/>'
    body += '<edge source="y" target="z"/><edge source="z" target="x"/>'
    path.write_text(graphml(body, "directed"))
    arcs = graphs.build(str(path), None, directed=True).edges
    assert set(arcs) == {("x", "y"), ("y", "x"), ("y", "z"), ("z", "x")}


# --- what other programs write beside the shape --------------------------------------------------

ATTRIBUTES = [
    ('<key id="p" for="node" attr.name="pos" attr.type="vector_float"/>', "0.1, 0.2"),
    ('<key id="p" for="node" attr.name="since" attr.type="date"/>', "2001-02-30"),
    ('<key id="p" for="node" attr.name="n" attr.type="short"/>', "4.9E-324"),
    ('<key id="p" for="node" attr.name="up" attr.type="boolean"/>', "yes"),
    ('<key id="p" for="node" attr.name="n" attr.type="int"/>', ""),
    ('<key id="p" for="node" attr.name="weight" attr.type="double"/>', "of a node"),
    (
        '<key id="p" for="node" yfiles.type="nodegraphics"/>',
        '<y:node xmlns:y="y"><y:edge/></y:node>',
    ),
    ("<key/>", "without a type"),
    ("", "of no key"),
]


@pytest.mark.parametrize(("key", "value"), ATTRIBUTES)
def test_no_attribute_makes_graphml_unreadable(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "g.graphml"
    data = f'<data key="p">{value}</data>'
    body = f'{data}<node id="x">{data}<port/></node><node id="y"/>'
    body += '<edge source="x" target="y"><data key="LinkSpeedRaw">1e9?</data><desc/></edge>'
    path.write_text(graphml(body, keys=key))
    assert list(graphs.build(str(path), None).edges) == [("x", "y")]


@pytest.mark.parametrize("space", ["http://www.gexf.net/1.3", "http://gexf.net/1.4", "", "mine"])
@pytest.mark.parametrize("kind", ["liststring", "date", "no such type"])
def test_any_gexf_is_read(space: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "g.gexf"
    path.write_text(
        f'<gexf xmlns="{space}" xmlns:viz="{space}/viz"><graph defaultedgetype="undirected">'
        f'<attributes class="node"><attribute id="0" title="t" type="{kind}"/></attributes>'
        '<nodes><node id="x"><attvalues><attvalue for="0" value="[1, "/><attvalue for="9"/>'
        '</attvalues><viz:node/></node><node id="y"/></nodes>'
        '<edges><edge source="x" target="y" type="mutual"/></edges></graph></gexf>'
    )
    assert list(graphs.build(str(path), None).edges) == [("x", "y")]


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (
            ".gml",
            "graph [ node [ id 0 name x ] node [ id 1 name y ] "
            'edge [ source 0 target 1 weight "" ] ]',
        ),
        (
            ".graphml",
            graphml(
                f"{TWO}<edge source='x' target='y'><data key='w'> </data></edge>", keys=WEIGHT_KEY
            ),
        ),
        (".gexf", f"<gexf><graph>{TWO}<edge source='x' target='y' weight=''/></graph></gexf>"),
        (".csv", "Source,Target,Weight\nx,y,\n"),
    ],
)
def test_an_empty_weight_is_none(ending: str, text: str, tmp_path: Path) -> None:
    """As gv2gml of Graphviz, which has names in place of labels, writes it."""
    path = tmp_path / f"g{ending}"
    path.write_text(text)
    assert list(graphs.build(str(path), None).edges) == [("x", "y")]


ZOO = """graph [
  DateObtained "22/10/10"
  Note "graph [ of the net"
  multigraph 1
  LatitudeMin 4.9E-324 Developed developed Testbed NaN _odd "
  over two lines "
  node [ id 0 label "Washington DC" Internal 1 graphics [ type "Large &#34;Circle&#34;" ] ]
  node [ id 3 label "None" ]
  node [ id 4 label "None" ]
  edge [ source 0 target 3 LinkSpeedRaw 1.0E10 LinkLabel "< 10 Gbit/s" ]
  edge [ source 3 target 0 key 1 ]
  edge [ source 3 target 4 ]
  edge [ source 4 target 4 ]
]
"""


def test_gml_is_read_as_the_topology_zoo_has_it(tmp_path: Path) -> None:
    """Gaps in the ids, labels that are no names, parallel edges, a loop, values of any kind."""
    path = tmp_path / "Zoo.gml"
    path.write_text(ZOO)
    with pytest.warns(Note, match=r"Zoo\.gml: left out 1 loop and 1 parallel edge$"):
        read = graphs.build(str(path), None)
    assert (list(read), list(read.edges)) == (["0", "3", "4"], [("0", "3"), ("3", "4")])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a.example", "b.example"], ["a.example", "b.example"]),
        (["&#97;", "b"], ["a", "b"]),
        (["a", "a"], ["1", "2"]),
        (["a", ""], ["1", "2"]),
        (["St. Mary", "b"], ["a0", "a1"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*so they are numbered")
def test_nodes_of_gml_and_pajek_are_called_by_labels_that_differ(
    labels: list[str], names: list[str], tmp_path: Path
) -> None:
    x, y = labels
    gml, net = tmp_path / "g.gml", tmp_path / "g.net"
    nodes = f'node [ id 1 label "{x}" ] node [ id 2 label "{y}" ]'
    gml.write_text(f"graph [ {nodes} edge [ source 1 target 2 ] ]")
    assert list(graphs.build(str(gml), None)) == names
    if "&" not in x:
        net.write_text(f'*Vertices 2\n1 "{x}" 0.1 ic Red\n2 "{y}"\n*Edges\n1 2 1.5 c Blue\n')
        assert list(graphs.build(str(net), None)) == names


def test_a_label_with_a_reference_to_no_character_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "g.gml"
    label = f"&#{'9' * 5000};"
    nodes = f'node [ id 1 label "{label}" ] node [ id 2 label "b&#99;" ]'
    path.write_text(f"graph [ {nodes} edge [ source 1 target 2 ] ]")
    assert graph_files.read(path).nodes == (label, "bc")


def test_lines_are_counted_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.edges"
    path.write_text("a b\nb c\n\nc a\n")
    monkeypatch.setattr(lines, "NODES_MAX", 0)
    monkeypatch.setattr(lines, "EDGES_MAX", 3)
    assert len(graph_files.read(path).edges) == 3
    monkeypatch.setattr(lines, "EDGES_MAX", 2)
    with pytest.raises(ConfigurationError, match="line 4: more than 2 edges"):
        graph_files.read(path)


def test_pajek_has_lists_of_neighbours_and_vertices_without_lines(tmp_path: Path) -> None:
    path = tmp_path / "g.net"
    path.write_text("% a comment\n*Network n\n*Vertices 4\n*Edgeslist\n1 2 3\n*Edges :1\n3 4\n")
    read = graphs.build(str(path), None)
    assert set(read.edges) == {("1", "2"), ("1", "3"), ("3", "4")}


@pytest.mark.parametrize(
    ("ending", "text", "agents", "edges"),
    [
        (".edges", "3\n0 1\n1 0\n1 2\n2 1\n", 3, 2),
        (".edges", "% sym unweighted\n# 3\n1 2\n2 3\n", 3, 2),
        (".edges", "source target\n1 2\n2 3\n", 3, 2),
        (".edges", "From,To,weight\n1,2,1.5\n2,3,2\n", 3, 2),
        (".edges", "1;2\n2;3\n", 3, 2),
        (".txt", "1 2 3\n2 3 5\n", 3, 2),
        (".txt", '"a" "b"\n"b" "c"\n', 3, 2),
        (".csv", "from,to\n1,2\n2,3\n", 3, 2),
        (".csv", "src,dst,ms\n1,2,fast\n2,3,\n", 3, 2),
        (".adjlist", "#made by hand\n0 1 2\n1 0 2\n2 0 1\n", 3, 3),
        (".adjlist", "0 1 2 3\n1 2\n2\n3\n", 4, 4),
        (
            ".json",
            '{"nodes": [{"name": "x"}, {"name": "y"}], "links": [{"source": 0, "target": 1}]}',
            2,
            1,
        ),
        (".json", json.dumps(nx.node_link_data(nx.grid_2d_graph(2, 2), edges="links")), 4, 4),
    ],
)
@pytest.mark.filterwarnings("ignore:.*so they are numbered")
def test_lists_are_read_as_others_write_them(
    ending: str, text: str, agents: int, edges: int, tmp_path: Path
) -> None:
    path = tmp_path / f"g{ending}"
    path.write_text(text)
    read = graphs.build(str(path), None)
    assert (len(read), read.number_of_edges()) == (agents, edges)


def test_a_header_of_two_numbers_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.edges"
    path.write_text("4 5\n1 2\n2 3\n3 4\n4 1\n1 3\n")
    with pytest.warns(Note, match="line 1 taken for a header: 4 agents, 5 edges"):
        assert list(graphs.build(str(path), None)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("ending", [".graphml", ".gml", ".net", ".json"])
def test_parallel_edges_and_loops_are_left_out_with_a_note(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"g{ending}"
    WRITERS[ending](
        nx.MultiGraph([("a", "b"), ("b", "a"), ("a", "b"), ("b", "c"), ("c", "c")]), path
    )
    with pytest.warns(Note, match="left out 1 loop and 2 parallel edges"):
        read = graphs.build(str(path), None)
    assert list(read.edges) == [("a", "b"), ("b", "c")]


def test_who_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "g.edges"
    path.write_text("a b\n" + "".join(f"x {one}\n" for one in "pqrstuv") + "c d\n")
    message = "no path from 'x' to 'a', 'b', 'c', 'd'; add an edge"
    with pytest.raises(ConfigurationError, match=message):
        graphs.build(str(path), None)
    path.write_text("a b\nc d\ne f\nx y\ny z\n")
    with pytest.raises(ConfigurationError, match="from 'x' to 'a', 'b', 'c', 'd', 'e' and 1 more;"):
        graphs.build(str(path), None)
