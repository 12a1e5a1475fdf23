"""Graphs of other programs: read alike from every format, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import formats as graph_files
from candor.topologies.graphs import graphs
from candor.topologies.specs import files
from candor.topologies.specs.specs import ConfigurationError
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
    ".json": _json,
    ".csv": _csv,
    ".edges": lambda graph, path: nx.write_edgelist(graph, path),
    ".edgelist": lambda graph, path: nx.write_edgelist(graph, path, data=False),
    ".txt": lambda graph, path: nx.write_edgelist(graph, path, comments="#", data=[]),
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
    if "edge" not in ending and ending != ".txt":  # which have their nodes in the edges' order
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
    (".graphml", "", "not GraphML: no element found"),
    (".graphml", "<graphml>", "not GraphML: no element found"),
    (".graphml", "<html></html>", "not GraphML"),
    (".graphml", BOMB + graphml(TWO), "declares a document type"),
    (".graphml", '<?xml version="1.0"?><!DOCTYPE x SYSTEM "/etc/passwd"><x/>', "document type"),
    (".graphml", "<a>" * 100 + "</a>" * 100, "more than 64 deep"),
    (".graphml", graphml('<node id="x"/><node id="x"/>'), "the node 'x' stands twice"),
    (".graphml", graphml("<node/>"), "a node has no id"),
    (".graphml", graphml('<node id="n"/>' * 10_001), "more than 10000 nodes"),
    (".graphml", graphml(TWO + '<edge source="x" target="q"/>'), "there is no node 'q'"),
    (".graphml", graphml(TWO + '<edge source="x" target="y"/>', "directed"), "is directed"),
    (".graphml", graphml(TWO + '<edge source="x" target="x"/>'), "not its own neighbour"),
    (".graphml", graphml(TWO + '<edge source="x" target="y"/>' * 2), "stands twice"),
    (".graphml", graphml(TWO + '<edge source="x"/>'), "an edge has no source or no target"),
    (".graphml", graphml(f'<node id="{"x" * 9999}"/>' * 2), "the node 'xxxx"),
    (".graphml", graphml(TWO), "no path from 'x' to 'y'"),
    (".graphml", graphml(""), "agents must be 1 to"),
    (
        ".graphml",
        graphml(
            TWO + '<edge source="x" target="y"><data key="w">NaN</data></edge>', keys=WEIGHT_KEY
        ),
        "must be a finite number above 0, not nan",
    ),
    (
        ".graphml",
        graphml(
            TWO + '<edge source="x" target="y"><data key="w">heavy</data></edge>', keys=WEIGHT_KEY
        ),
        "not GraphML: ValueError",
    ),
    (".gexf", "<gexf></gexf>", "not GEXF: NetworkXError: No <graph> element"),
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
    (".json", '{"directed": true, "nodes": [{"id": "x"}], "links": []}', "is directed"),
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
    (".csv", "1,1\n1,1\n", "not its own neighbour"),
    (".csv", ",a,b\nb,0,1\na,1,0\n", "not in the order of the columns"),
    (".csv", "a,a\n0,1\n1,0\n", "the node 'a' stands twice"),
    (".csv", "0,0\n0,0\n", "no path from '0' to '1'"),
    (".csv", "Source,Target\na\n", "row 2 has no target"),
    (
        ".csv",
        "Source,Target,Type\na,b,Directed\nb,c,Undirected\n",
        "some edges are directed and others are not",
    ),
    (".csv", "Source,Target,Weight\na,b,-1\n", "row 2: the weight"),
    (".edges", "", "agents must be 1 to"),
    (".edges", "a b\nc\n", "line 2: expected two ids"),
    (".edges", "a b 1 2\n", "line 1: expected two ids"),
    (".edges", "a b nan\n", "line 1: the weight must be a finite number above 0, not 'nan'"),
    (".edges", "a b x\n", "line 1: the weight"),
    (".edges", "a a\n", "not its own neighbour"),
    (".edges", "a b\nb a\n", "stands twice"),
    (".edges", "a b\nc d\n", "no path from 'a' to 'c'"),
    (".yaml", "x", "ends in .graphml, .gexf, .json, .csv, .edges, .edgelist, .txt or .toml"),
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


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], "not every agent is heard by every other"),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 1]], "not its own neighbour"),
    ],
)
def test_a_bad_directed_file_is_told(matrix: list[list[int]], message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    np.savetxt(path, matrix, delimiter=",")
    with pytest.raises(ConfigurationError, match=message):
        graphs.build(str(path), None, directed=True)
