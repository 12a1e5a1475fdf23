"""Push-sum finds the mean on directed graphs; a measured rate is the spectrum's."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import graphs
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.consensus import (
    column_stochastic,
    disagreement,
    measured_rate,
    push_sum,
)
from candor.topologies.mixing.matrices import check_matrix
from candor.topologies.mixing.spectral import rounds_to, spectral_gap
from candor.topologies.specs.specs import ConfigurationError


@st.composite
def directed(draw: st.DrawFn) -> "nx.DiGraph[str]":
    """A strongly connected graph: a cycle through all agents and random arcs besides."""
    agents = draw(st.integers(2, 12))
    graph: nx.DiGraph[str] = nx.cycle_graph(agents, create_using=nx.DiGraph)
    number = st.integers(0, agents - 1)
    arcs = draw(st.lists(st.tuples(number, number), max_size=20))
    graph.add_edges_from((u, v) for u, v in arcs if u != v)
    return nx.relabel_nodes(graph, lambda i: f"a{i}")


@given(directed(), st.integers(0, 1000))
def test_push_sum_finds_the_mean_on_any_directed_graph(graph: "nx.DiGraph[str]", seed: int) -> None:
    matrix = column_stochastic(graph)
    check_matrix(matrix, graph, rows=False)
    vectors = np.random.default_rng(seed).standard_normal((len(graph), 3))
    rounds = rounds_to(1e-9, spectral_gap(matrix)) + 50
    assert rounds < 20_000
    estimates = push_sum(vectors, itertools.repeat(matrix, int(rounds)))
    np.testing.assert_allclose(estimates, np.tile(vectors.mean(axis=0), (len(graph), 1)), atol=1e-6)


def test_plain_mixing_with_those_weights_would_miss_the_mean() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([("x", "y"), ("y", "z"), ("z", "x"), ("x", "z")])
    matrix, vectors = column_stochastic(graph), np.array([[1.0], [0.0], [0.0]])
    mixed = vectors
    for _ in range(200):
        mixed = matrix @ mixed
    assert disagreement(mixed) > 0.05
    np.testing.assert_allclose(push_sum(vectors, [matrix] * 200), 1 / 3, atol=1e-12)


def test_push_sum_keeps_both_sums_in_every_round_and_follows_a_changing_graph() -> None:
    first: nx.DiGraph[str] = nx.DiGraph([("x", "y"), ("y", "z"), ("z", "x")])
    second: nx.DiGraph[str] = nx.DiGraph([("x", "z"), ("z", "x")])
    second.add_node("y")
    ordered = [
        column_stochastic(nx.DiGraph(g.edges) if len(g.edges) == 3 else _in_order(g))
        for g in (first, second)
    ]
    vectors = np.array([[3.0], [-1.0], [4.0]])
    estimates = push_sum(vectors, itertools.islice(itertools.cycle(ordered), 100))
    np.testing.assert_allclose(estimates, 2.0, atol=1e-9)


def _in_order(graph: "nx.DiGraph[str]") -> "nx.DiGraph[str]":
    ordered: nx.DiGraph[str] = nx.DiGraph()
    ordered.add_nodes_from("xyz")
    ordered.add_edges_from(graph.edges)
    return ordered


def _specs(agents: int) -> list[str]:
    """Every family with its default parameters, where it fits."""
    fitting = []
    for name in FAMILIES:
        try:
            graphs.build(name, agents)
        except ConfigurationError:
            continue
        fitting.append(name)
    return fitting


def test_every_family_fits_sixteen_and_sixty_four_agents() -> None:
    assert _specs(16) == list(FAMILIES)
    assert set(FAMILIES) - set(_specs(64)) <= {"geometric"}


@pytest.mark.parametrize("rule", [name for name in mixing.RULES if name != "fastest"])
@pytest.mark.parametrize(("family", "agents"), [(f, n) for n in (16, 64) for f in _specs(n)])
def test_the_measured_rate_is_the_predicted_one(family: str, rule: str, agents: int) -> None:
    graph = graphs.build(family, agents)
    _check_rate(mixing.matrix(rule, graph, list(graph)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_measured_rate_of_fastest_is_the_predicted_one(family: str) -> None:
    pytest.importorskip("cvxpy")
    graph = graphs.build(family, 16)
    _check_rate(mixing.matrix("fastest", graph, list(graph)))


def _check_rate(matrix: np.ndarray) -> None:
    """Within 5 % in its logarithm, which is what rounds are counted in."""
    predicted, measured = 1 - spectral_gap(matrix), measured_rate(matrix, rounds=50)
    if predicted < 1e-6:  # averages at once
        assert measured < 1e-6
    else:
        assert math.log(measured) == pytest.approx(math.log(predicted), rel=0.05)


@pytest.mark.parametrize("agents", [16, 32])
def test_fastest_beats_metropolis_hastings_on_a_ring_of_cliques(agents: int) -> None:
    pytest.importorskip("cvxpy")
    graph = graphs.build("ring-of-cliques", agents)
    rounds = {
        rule: rounds_to(1e-6, 1 - measured_rate(mixing.matrix(rule, graph, list(graph))))
        for rule in ("metropolis-hastings", "fastest")
    }
    print(f"ring of {agents // 4} cliques of 4, rounds to 1e-6: {rounds}")
    assert rounds["fastest"] < 0.75 * rounds["metropolis-hastings"]


def test_the_measured_rate_sees_an_oscillation() -> None:
    swap = np.array([[0.1, 0.9], [0.9, 0.1]])  # second eigenvalue -0.8
    assert measured_rate(swap) == pytest.approx(0.8, abs=1e-9)


def test_one_agent_has_nothing_to_average() -> None:
    assert measured_rate(np.eye(1)) == 0.0


def test_shapes_that_do_not_fit_are_told() -> None:
    for vectors in (np.ones(3), np.ones((2, 1))):
        with pytest.raises(ConfigurationError, match="do not fit"):
            push_sum(vectors, [np.eye(3)])
