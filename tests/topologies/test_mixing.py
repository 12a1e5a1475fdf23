"""Mixing matrices are doubly stochastic, and their gap is the rate at which they average."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import graphs, mixing
from topologies.families import FAMILIES
from topologies.specs import ConfigurationError
from topologies.spectral import spectral_gap


@pytest.mark.parametrize("name", mixing.WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("agents", [1, 4, 9, 16])
def test_every_matrix_is_doubly_stochastic(name: str, family: str, agents: int) -> None:
    try:
        graph = graphs.build(family, agents)
    except ConfigurationError:
        assert agents != 16  # which fits every family
        return
    weights = mixing.matrix(name, graph, list(graph))
    assert weights.dtype == np.float64
    assert np.array_equal(weights, weights.T)
    assert weights.min() >= 0
    assert np.diag(weights).min() > 0
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=0, atol=1e-15)
    adjacent = (weights > 0) & ~np.eye(agents, dtype=bool)
    assert adjacent.sum() == 2 * graph.number_of_edges()


@given(st.integers(2, 12), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_rows_follow_the_order_asked_for(agents: int, seed: int, shuffler: object) -> None:
    graph = graphs.build("erdos-renyi:p=0.6", agents, seed)
    order = list(graph)
    shuffler.shuffle(order)
    plain, shuffled = (mixing.matrix("metropolis-hastings", graph, o) for o in (list(graph), order))
    places = [int(agent[1:]) for agent in order]
    assert np.array_equal(plain[np.ix_(places, places)], shuffled)


def test_metropolis_hastings_weighs_by_the_larger_degree() -> None:
    graph = graphs.make_graph("abcd", [("a", "b"), ("b", "c"), ("b", "d"), ("c", "d")])
    weights = mixing.matrix("metropolis-hastings", graph, list("abcd"))
    assert weights[0].tolist() == [0.75, 0.25, 0.0, 0.0]  # a has 1 neighbour, b has 3
    assert weights[2].tolist() == [0.0, 0.25, 1 - (0.25 + 1 / 3), 1 / 3]


def test_max_degree_gives_every_edge_the_same_weight() -> None:
    graph = graphs.build("star", 4)
    weights = mixing.matrix("max-degree", graph, list(graph))
    assert weights[0].tolist() == [0.25, 0.25, 0.25, 0.25]
    assert weights[1].tolist() == [0.25, 0.75, 0.0, 0.0]


def test_an_unknown_mixing_names_the_known() -> None:
    with pytest.raises(ConfigurationError, match="known: metropolis-hastings, max-degree"):
        mixing.matrix("uniform", graphs.build("ring", 3), ["a0", "a1", "a2"])


@pytest.mark.parametrize("agents", [3, 8, 31])
def test_the_gap_of_a_ring_is_the_known_one(agents: int) -> None:
    graph = graphs.build("ring", agents)
    weights = mixing.matrix("metropolis-hastings", graph, list(graph))
    # A circulant with 1/3 on itself and both sides: lambda_k = (1 + 2 cos(2 pi k / n)) / 3.
    second = max(abs(1 + 2 * math.cos(2 * math.pi * k / agents)) / 3 for k in range(1, agents))
    assert spectral_gap(weights) == pytest.approx(1 - second, abs=1e-12)


@pytest.mark.parametrize("agents", [1, 2, 5])
def test_a_complete_graph_averages_at_once(agents: int) -> None:
    graph = graphs.build("complete", agents)
    weights = mixing.matrix("metropolis-hastings", graph, list(graph))
    assert spectral_gap(weights) == pytest.approx(1.0, abs=1e-12)


def test_matrices_that_never_average_have_no_gap() -> None:
    assert spectral_gap(np.eye(3)) == pytest.approx(0.0, abs=1e-12)
    assert spectral_gap(np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(0.0, abs=1e-12)


def test_the_gap_of_a_directed_cycle() -> None:
    shift = 0.5 * (np.eye(4) + np.roll(np.eye(4), 1, axis=1))  # eigenvalues (1 + i**k) / 2
    assert spectral_gap(shift) == pytest.approx(1 - math.sqrt(0.5), abs=1e-12)


@pytest.mark.parametrize(
    "path", sorted((Path(graphs.__file__).parent / "examples").glob("*.toml")), ids=lambda p: p.name
)
def test_the_examples_are_valid_and_average(path: Path) -> None:
    graph = graphs.build(str(path), None)
    assert spectral_gap(mixing.matrix(graphs.load(path).mixing, graph, list(graph))) > 0
