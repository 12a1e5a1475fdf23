"""Graphs: every family is simple and connected, and every mistake is one line."""

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import graphs
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.graphs.generators import EDGES_MAX, REDRAWS_MAX
from candor.topologies.specs.specs import ConfigurationError
from tests.family_specs import family_specs

AGENTS = 16  # fits every family with its default parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_simple_connected_and_named_in_order(name: str) -> None:
    graph = graphs.build(name, AGENTS)
    assert list(graph) == [f"a{i}" for i in range(AGENTS)]
    assert nx.is_connected(graph)
    assert nx.number_of_selfloops(graph) == 0


@pytest.mark.parametrize(
    ("spec", "agents", "edges", "degrees"),
    [
        ("ring", 1, 0, {0}),
        ("ring", 2, 1, {1}),
        ("ring", 3, 3, {2}),
        ("ring", 8, 8, {2}),
        ("complete", 1, 0, {0}),
        ("complete", 6, 15, {5}),
        ("star", 1, 0, {0}),
        ("star", 6, 5, {1, 5}),
        ("torus", 4, 4, {2}),
        ("torus", 8, 12, {3}),
        ("torus", 9, 18, {4}),
        ("torus", 16, 32, {4}),
        ("erdos-renyi:p=1", 5, 10, {4}),
        ("erdos-renyi", 1, 0, {0}),
        ("path", 1, 0, {0}),
        ("path", 5, 4, {1, 2}),
        ("grid", 12, 17, {2, 3, 4}),
        ("hypercube", 1, 0, {0}),
        ("hypercube", 2, 1, {1}),
        ("hypercube", 32, 80, {5}),
        ("exponential", 1, 0, {0}),
        ("exponential", 2, 1, {1}),
        ("exponential", 8, 20, {5}),  # +-1, +-2, and 4 which is its own opposite
        ("exponential", 64, 352, {11}),
        ("exponential", 100, 700, {14}),
        ("random-regular:degree=3", 10, 15, {3}),
        ("random-regular:degree=9", 10, 45, {9}),
        ("watts-strogatz:k=4,p=0", 10, 20, {4}),
        ("barabasi-albert:m=1", 2, 1, {1}),
        ("stochastic-block:blocks=2,within=1,between=1", 6, 15, {5}),
        ("ring-of-cliques:size=4", 16, 28, {3, 4}),
        ("ring-of-cliques:size=2", 4, 4, {2}),
        ("binary-tree", 1, 0, {0}),
        ("binary-tree", 7, 6, {1, 2, 3}),
        ("caterpillar", 1, 0, {0}),
        ("caterpillar", 2, 1, {1}),
        ("caterpillar", 10, 9, {1, 2, 3}),
        ("caterpillar:legs=2", 9, 8, {1, 3, 4}),
        ("caterpillar:legs=9", 7, 6, {1, 6}),  # one that is all of the path: a star
        ("expander", 1, 0, {0}),
        ("geometric:radius=1.5", 9, 36, {8}),
    ],
)
def test_edges_and_degrees(spec: str, agents: int, edges: int, degrees: set[int]) -> None:
    graph = graphs.build(spec, agents)
    assert graph.number_of_edges() == edges
    assert {degree for _, degree in graph.degree} == degrees


def test_the_star_has_its_hub_first() -> None:
    assert graphs.build("star", 5).degree["a0"] == 4


def test_a_caterpillars_leaves_are_dealt_along_its_path() -> None:
    graph = graphs.build("caterpillar:legs=2", 8)
    assert sorted(map(sorted, graph.edges)) == [
        *(["a0", other] for other in ("a1", "a3", "a6")),
        *(["a1", other] for other in ("a2", "a4", "a7")),
        ["a2", "a5"],
    ]


def test_neighbours_on_a_hypercube_differ_in_one_bit() -> None:
    for u, v in graphs.build("hypercube", 32).edges:
        assert (int(u[1:]) ^ int(v[1:])).bit_count() == 1


def test_neighbours_on_the_exponential_graph_are_powers_of_two_apart() -> None:
    for u, v in graphs.build("exponential", 21).edges:
        apart = abs(int(u[1:]) - int(v[1:]))
        assert min(bin(apart).count("1"), bin(21 - apart).count("1")) == 1


@pytest.mark.parametrize("agents", [16, 64, 256])
def test_an_expander_has_few_neighbours_and_a_gap_that_stays(agents: int) -> None:
    graph = graphs.build("expander", agents)
    assert max(degree for _, degree in graph.degree) <= 8
    laplacian = np.linalg.eigvalsh(nx.laplacian_matrix(graph).toarray().astype(float))
    assert laplacian[1] > 0.5


def test_blocks_are_denser_within_than_between() -> None:
    graph = graphs.build("stochastic-block:blocks=4,within=0.9,between=0.02", 80)
    inside = sum(int(u[1:]) // 20 == int(v[1:]) // 20 for u, v in graph.edges)
    assert inside > 0.8 * graph.number_of_edges()


@pytest.mark.parametrize(("agents", "degree"), [(200, 150), (301, 300), (500, 450)])
def test_a_dense_regular_graph_is_drawn_at_once(agents: int, degree: int) -> None:
    graph = graphs.build(f"random-regular:degree={degree}", agents)
    assert {degree for _, degree in graph.degree} == {degree}


@given(family_specs(), st.integers(1, 40))
def test_any_parameters_give_a_simple_connected_graph_or_one_line(spec: str, agents: int) -> None:
    refusal = ""
    try:
        graph = graphs.build(spec, agents)
    except ConfigurationError as exc:
        refusal = str(exc)
    if refusal:
        assert "\n" not in refusal
        assert "use " in refusal or "try " in refusal  # every refusal says what would fit
        return
    assert list(graph) == [f"a{i}" for i in range(agents)]
    graphs.check_graph(list(graph), list(graph.edges))
    again = graphs.build(spec, agents)
    assert graphs.sorted_edges(again) == graphs.sorted_edges(graph)


@given(st.integers(2, 12), st.floats(0.5, 1.0), st.integers(0, 1000))
def test_a_random_graph_is_connected_and_follows_its_seed(agents: int, p: float, seed: int) -> None:
    graph = graphs.build(f"erdos-renyi:p={p!r}", agents, seed)
    assert nx.is_connected(graph)
    again = graphs.build(f"erdos-renyi:p={p!r},seed={seed}", agents)
    assert graphs.sorted_edges(graph) == graphs.sorted_edges(again)


def test_another_seed_draws_another_graph() -> None:
    drawn = {tuple(graphs.sorted_edges(graphs.build("erdos-renyi", 10, seed))) for seed in range(5)}
    assert len(drawn) > 1


def test_a_seed_in_the_spec_wins() -> None:
    given_edges = graphs.sorted_edges(graphs.build("erdos-renyi:p=0.4,seed=3", 10, seed=9))
    assert given_edges == graphs.sorted_edges(graphs.build("erdos-renyi:p=0.4", 10, seed=3))


def test_a_lone_value_is_the_first_parameter() -> None:
    assert graphs.build("erdos-renyi:1", 5).number_of_edges() == 10


@pytest.mark.parametrize(
    ("spec", "agents", "message"),
    [
        ("moebius", 8, "known: ring, path, complete, star, torus, grid, hypercube"),
        ("ring", None, "--agents N"),
        ("ring", 0, "agents must be 1 to 10000, not 0"),
        ("ring", 10_001, "agents must be 1 to 10000"),
        ("ring:5", 8, "ring takes no value"),
        ("ring:p=0.5", 8, "unknown 'p'; it takes nothing"),
        ("torus", 7, "7 agents do not fill a grid"),
        ("torus", 1, "1 agents do not fill a grid"),
        ("erdos-renyi:q=0.5", 8, "unknown 'q'; it takes p, seed"),
        ("erdos-renyi:p=1.5", 8, "p must be a number from 0 to 1, not 1.5"),
        ("erdos-renyi:p=nan", 8, "p must be a number from 0 to 1, not nan"),
        ("erdos-renyi:p=high", 8, "p must be a number from 0 to 1, not 'high'"),
        ("erdos-renyi:seed=1.5", 8, "seed must be a whole number"),
        ("erdos-renyi:seed=-1", 8, "seed must be a whole number"),
        ("erdos-renyi:p=0", 8, "left 8 agents disconnected in 100 draws"),
        ("complete", 10_000, f"more than {EDGES_MAX}"),
        ("erdos-renyi:p=0.9", 10_000, f"more than {EDGES_MAX}"),
        ("Ring", 8, "lower-case name"),
        ("grid", 7, "7 agents do not fill a grid"),
        ("hypercube", 12, "not a power of two; use 8 or 16"),
        ("expander", 12, "not a square; use 9 or 16"),
        ("ring-of-cliques", 10, "use 8 or 12 agents, or another size"),
        ("ring-of-cliques", 4, "use 8 or 12 agents"),
        ("random-regular", 3, "cannot all have 4 neighbours; use degree=2 or fewer"),
        ("random-regular:degree=3", 7, "cannot all have 3 neighbours; use degree=2 or fewer"),
        ("random-regular:degree=1", 8, f"in {REDRAWS_MAX} draws; try degree=3 or more"),
        ("watts-strogatz", 4, "use more than 4 agents or a smaller k"),
        ("barabasi-albert", 2, "use more than 2 agents or a smaller m"),
        ("stochastic-block:blocks=9", 8, "use blocks=8 or fewer"),
        ("stochastic-block:between=1e-9", 8, "try larger probabilities or fewer blocks"),
        ("stochastic-block:between=0", 8, "nothing connects the blocks; use a between above 0"),
        ("stochastic-block:blocks=10000,between=0", 10_000, "are more than 1000; use fewer"),
        ("erdos-renyi:p=0.0001", 10_000, "left 10000 agents disconnected in 33 draws; try p="),
        ("random-regular:degree=900", 10_000, "takes too long to draw; use degree=200 or fewer"),
        ("random-regular:degree=1", 10_000, "in 25 draws; try degree=3 or more"),
        ("watts-strogatz:k=3", 8, "are not as many on each side; use k=2 or k=4"),
        ("geometric:radius=0.01", 50, "radius=0.01 left 50 agents disconnected"),
        ("geometric", 10_000, f"more than {EDGES_MAX}"),
        ("watts-strogatz:k=1", 8, "k must be a whole number from 2 to 10000, not 1"),
    ],
)
def test_a_bad_spec_is_told_in_one_line(spec: str, agents: int | None, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        graphs.build(spec, agents)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_topology_file_gives_the_same_graph_back(name: str, tmp_path: Path) -> None:
    graph = graphs.build(name, AGENTS)
    path = tmp_path / "t.toml"
    path.write_text(graphs.dump(graph, name, "max-degree"))
    read = graphs.load(path)
    assert (read.topology, read.mixing) == (name, "max-degree")
    for again in (read.graph(), graphs.build(str(path), None), graphs.build(str(path), len(graph))):
        assert list(again) == list(graph)
        assert graphs.sorted_edges(again) == graphs.sorted_edges(graph)


def test_a_file_keeps_its_own_number_of_agents(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(graphs.dump(graphs.build("ring", 4), "ring", "metropolis-hastings"))
    with pytest.raises(ConfigurationError, match="has 4 agents, not the 5 asked for"):
        graphs.build(str(path), 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('topology = "mine"\nagents = ["x"]\n', "edges is missing"),
        ('topology = "mine"\nagents = []\nedges = []\n', "at least one is needed"),
        ('topology = "mine"\nagents = ["x", "x"]\nedges = []\n', "'x' is used twice"),
        ('topology = "mine"\nagents = ["x", "y"]\nedges = []\n', "no path from 'x' to 'y'"),
        ('topology = "m"\nagents = ["x"]\nedges = [["x", "x"]]\n', "not its own neighbour"),
        ('topology = "m"\nagents = ["x"]\nedges = [["x", "q"]]\n', "there is no agent 'q'"),
        (
            'topology = "m"\nagents = ["x", "y"]\nedges = [["x", "y"], ["y", "x"]]\n',
            "stands twice",
        ),
        ('topology = "m"\nagents = ["x/y"]\nedges = []\n', "agent id 'x/y'"),
        ('topology = "m"\nagents = ["x"]\nedges = [["x"]]\n', "edges[0]"),
        ('topology = "m"\nmixing = "no"\nagents = ["x"]\nedges = []\n', "unknown mixing 'no'"),
        ('topology = "m"\nagents = ["x"]\nedge = []\n', "unknown key edge"),
        ("topology = ", "is not TOML"),
        ('version = 1\nrun_id = "x"\n', "this is a cluster file, not a topology; see candor clus"),
        (f'topology = "m"\nagents = {["x"] * 10_001}\nedges = []\n', "at most 10000 items"),
    ],
)
def test_a_bad_file_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        graphs.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_with_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        graphs.build(str(tmp_path / "none.toml"), 3)


@pytest.mark.parametrize("agent", ["a", "A-1.b_c", "x" * 32])
def test_an_id_within_bounds_is_accepted(agent: str) -> None:
    graphs.check_graph([agent], [])


@pytest.mark.parametrize("agent", ["", "-a", ".a", "x" * 33, "a b", "ä", "a\n", "a/b"])
def test_an_id_out_of_bounds_is_refused(agent: str) -> None:
    with pytest.raises(ConfigurationError, match="agent id"):
        graphs.check_graph([agent], [])


def test_relabelling_keeps_places() -> None:
    star = graphs.relabelled(graphs.build("star", 3), ["hub", "b", "a"])
    assert list(star) == ["hub", "b", "a"]
    assert graphs.sorted_edges(star) == [("b", "hub"), ("a", "hub")]
    with pytest.raises(ConfigurationError, match="has 3 agents, but 2 are named"):
        graphs.relabelled(graphs.build("star", 3), ["x", "y"])
