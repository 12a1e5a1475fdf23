"""Graphs by function: networkx's generators and the user's own, each mistake one line."""

import networkx as nx
import pytest

from candor.topologies.graphs import graphs
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.graphs.functions import is_one
from candor.topologies.specs.specs import ConfigurationError, Note

MODULE = """
import networkx as nx

def wheel(agents, spokes=1):
    return nx.wheel_graph(agents)

def seeded(agents, seed=None):
    return nx.random_labeled_tree(agents, seed=seed)

def named(agents):
    return nx.path_graph(["Alice", "Bob"])

def oddly_named(agents):
    return nx.path_graph(["St. Mary", "Bob"])

def pieces(agents):
    return nx.empty_graph(agents)

def directed(agents):
    return nx.cycle_graph(agents, create_using=nx.DiGraph)

def double(agents):
    return nx.MultiGraph([(0, 1), (0, 1)])

def wrong(agents):
    return [[0, 1], [1, 0]]

def broken(agents):
    raise KeyError("plan\\nB")

def quits(agents):
    raise SystemExit(7)

def closes(agents):
    raise GeneratorExit

async def later(agents):
    return nx.path_graph(agents)

ANSWER = 42
"""


@pytest.fixture(scope="module", autouse=True)
def _module(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "users_graphs.py").write_text(MODULE)
    (folder / "quitting_graphs.py").write_text("raise SystemExit(9)")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.mark.parametrize(
    ("spec", "agents", "size", "edges"),
    [
        ("networkx:petersen_graph", None, 10, 15),
        ("networkx:petersen_graph", 10, 10, 15),
        ("networkx:wheel_graph", 6, 6, 10),
        ("networkx:wheel_graph,n=6", None, 6, 10),
        ("networkx:circular_ladder_graph,n=5", None, 10, 15),
        ("networkx:lollipop_graph,m=3,n=2", None, 5, 5),
        ("users_graphs:wheel", 6, 6, 10),
        ("users_graphs:wheel,spokes=3", 6, 6, 10),
    ],
)
def test_a_function_makes_a_graph(spec: str, agents: int | None, size: int, edges: int) -> None:
    graph = graphs.build(spec, agents)
    assert list(graph) == [f"a{i}" for i in range(size)]
    assert graph.number_of_edges() == edges


@pytest.mark.filterwarnings("ignore:.*so they are numbered")
def test_names_are_kept_where_all_are_ids() -> None:
    assert list(graphs.build("users_graphs:named", 2)) == ["Alice", "Bob"]
    assert list(graphs.build("users_graphs:oddly_named", 2)) == ["a0", "a1"]
    assert "Medici" in graphs.build("networkx:florentine_families_graph", None)


def test_parallel_edges_and_loops_are_left_out_with_a_note() -> None:
    with pytest.warns(Note, match="users_graphs:double: left out 1 parallel edge"):
        assert list(graphs.build("users_graphs:double", 2).edges) == [("a0", "a1")]
    with pytest.warns(Note, match="left out 12 loops and 6 parallel edges"):
        margulis = graphs.build("networkx:margulis_gabber_galil_graph,n=3", None)
    assert nx.is_isomorphic(margulis, graphs.build("expander", 9))


def test_the_arcs_of_a_function_are_edges_where_told() -> None:
    ring = graphs.build("undirected:users_graphs:directed", 5)
    assert set(map(frozenset, ring.edges)) == set(map(frozenset, graphs.build("ring", 5).edges))


@pytest.mark.parametrize("spec", ["users_graphs:seeded", "networkx:random_labeled_tree"])
def test_a_random_function_follows_the_seed(spec: str) -> None:
    drawn = [graphs.sorted_edges(graphs.build(spec, 12, seed)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert graphs.sorted_edges(graphs.build(f"{spec},seed=3", 12, 9)) == drawn[0]


@pytest.mark.parametrize(
    ("spec", "agents", "message"),
    [
        ("networkx:no_such_graph", None, "networkx has no generator 'no_such_graph'"),
        ("networkx:read_graphml,path=x.graphml", None, "networkx has no generator"),
        ("networkx:Graph", None, "networkx has no generator"),
        ("networkx:wheel_graph", None, "wheel_graph failed (TypeError"),
        ("networkx:petersen_graph", 7, "has 10 agents, not the 7 asked for"),
        ("networkx:petersen_graph,colour=red", None, "failed (TypeError"),
        ("networkx:petersen_graph,colour", None, "'colour' is not key=value"),
        ("networkx:null_graph", None, "agents must be 1 to 10000, not 0"),
        ("networkx:path_graph,n=10001", None, "n must be at most 10000, not 10001"),
        ("networkx:circular_ladder_graph,n=9999", None, "agents must be 1 to 10000, not 19998"),
        ("networkx:complete_graph,n=100000", None, "n must be at most 10000, not 100000"),
        ("networkx:empty_graph", 3, "no path from 'a0' to 'a1'"),
        ("networkx:gn_graph", 4, "the graph is directed"),
        ("users_graphs:wheel", None, "--agents N"),
        ("users_graphs:wheel,teeth=3", 5, "unexpected keyword argument 'teeth'"),
        ("users_graphs:named", 5, "has 2 agents, not the 5 asked for"),
        ("users_graphs:pieces", 5, "no path from 'a0' to 'a1'"),
        ("users_graphs:directed", 5, "the graph is directed"),
        ("users_graphs:wrong", 2, "returned list, not a networkx.Graph"),
        ("users_graphs:broken", 2, "failed (KeyError: 'plan\\nB')"),
        ("users_graphs:quits", 2, "quits failed (SystemExit: 7)"),
        ("users_graphs:closes", 2, "closes failed (GeneratorExit)"),
        ("users_graphs:later", 2, "users_graphs:later is async; write a plain function"),
        ("quitting_graphs:any", 2, "cannot import 'quitting_graphs' (SystemExit: 9)"),
        ("users_graphs:ANSWER", 2, "not a function"),
        ("users_graphs:nothing", 2, "has no 'nothing'"),
        ("no_such_module:graph", 2, "cannot import 'no_such_module'"),
    ],
)
def test_a_mistake_is_one_line(spec: str, agents: int | None, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        graphs.build(spec, agents)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_in_pieces_is_built_where_it_may_be() -> None:
    assert graphs.build("users_graphs:pieces", 5, connected=False).number_of_edges() == 0


def test_a_familys_value_is_no_function() -> None:
    assert not any(is_one(f"{name}:x") for name in FAMILIES)
    assert not graphs.is_file("users_graphs:wheel,path=a/b.csv")


@pytest.mark.parametrize("name", ["karate_club_graph", "les_miserables_graph", "tutte_graph"])
def test_known_graphs_are_networkxs(name: str) -> None:
    expected = getattr(nx, name)()
    graph = graphs.build(f"networkx:{name}", None)
    assert nx.is_isomorphic(graph, expected)
