"""Mixing matrices are doubly stochastic, and their gap is the rate at which they average."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import graphs
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.consensus import disagreement
from candor.topologies.mixing.matrices import check_matrix
from candor.topologies.mixing.spectral import spectral_gap
from candor.topologies.specs.specs import ConfigurationError
from tests.family_specs import family_specs


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


def _reference(graph: "nx.Graph[str]", weight: Callable[[int, int], float]) -> np.ndarray:
    """The matrix from the definition, entry by entry."""
    order = list(graph)
    mixing = np.zeros((len(order), len(order)))
    for u, v in graph.edges:
        i, j = order.index(u), order.index(v)
        mixing[i, j] = mixing[j, i] = weight(graph.degree[u], graph.degree[v])
    for i in range(len(order)):
        mixing[i, i] = 1.0 - math.fsum(mixing[i, j] for j in range(len(order)) if j != i)
    return mixing


@given(st.integers(1, 30), st.floats(0.3, 1.0), st.integers(0, 1000))
def test_matrices_of_runs_are_the_same_to_the_last_bit(agents: int, p: float, seed: int) -> None:
    graph = graphs.build(f"erdos-renyi:p={p!r}", agents, seed)
    largest = max(degree for _, degree in graph.degree)
    expected = {
        "metropolis-hastings": _reference(graph, lambda d, e: 1.0 / (1 + max(d, e))),
        "lazy": _reference(graph, lambda d, e: 0.5 / (1 + max(d, e))),
        "max-degree": _reference(graph, lambda _d, _e: 1.0 / (1 + largest)),
    }
    assert expected.keys() == mixing.WEIGHTS.keys()
    for name, matrix in expected.items():
        assert mixing.matrix(name, graph, list(graph)).tobytes() == matrix.tobytes()


@pytest.mark.parametrize("name", sorted(set(mixing.RULES) - {"fastest"}))
@given(agents=st.integers(1, 20), seed=st.integers(0, 1000))
def test_the_sparse_matrix_is_the_dense_one(name: str, agents: int, seed: int) -> None:
    graph = graphs.build("erdos-renyi:p=0.5", agents, seed)
    sparse = mixing.sparse_matrix(name, graph, list(graph))
    assert np.array_equal(sparse.toarray(), mixing.matrix(name, graph, list(graph)))
    assert sparse.nnz == 2 * graph.number_of_edges() + agents
    check_matrix(sparse, graph)


@pytest.mark.parametrize("family", ["ring", "star", "random-regular:degree=10"])
def test_a_thousand_agents_mix_sparsely(family: str) -> None:
    graph = graphs.build(family, 1000)
    for name in ("metropolis-hastings", "best-constant"):
        matrix = mixing.sparse_matrix(name, graph, list(graph))
        assert matrix.count_nonzero() <= 2 * graph.number_of_edges() + 1000
        check_matrix(matrix, graph)


@given(st.integers(1, 20), st.integers(0, 1000))
def test_lazy_is_half_identity(agents: int, seed: int) -> None:
    graph = graphs.build("erdos-renyi:p=0.5", agents, seed)
    lazy, plain = (
        mixing.matrix(name, graph, list(graph)) for name in ("lazy", "metropolis-hastings")
    )
    np.testing.assert_allclose(lazy, (np.eye(agents) + plain) / 2, rtol=0, atol=1e-15)
    assert np.linalg.eigvalsh(lazy).min() > -1e-12


@given(st.integers(2, 16), st.integers(0, 1000))
def test_best_constant_is_the_best_of_all_constants(agents: int, seed: int) -> None:
    graph = graphs.build("erdos-renyi:p=0.4", agents, seed)
    best = spectral_gap(mixing.matrix("best-constant", graph, list(graph)))
    largest = max(degree for _, degree in graph.degree)
    weights = np.linspace(0, 1 / largest, 50)[:, None]
    # Of I - w L, with the eigenvalues of L but the constant vector's.
    others = np.linalg.eigvalsh(nx.laplacian_matrix(graph).toarray().astype(float))[1:]
    assert (1 - np.abs(1 - weights * others).max(axis=1) <= best + 1e-9).all()


def test_best_constant_is_xiao_and_boyds_where_that_is_no_negative_weight() -> None:
    # Laplacian of a ring of 8: 2 - 2 cos(2 pi k / 8), from 2 - sqrt 2 to 4.
    ring = mixing.matrix("best-constant", graphs.build("ring", 8), [f"a{i}" for i in range(8)])
    assert ring[0, 1] == pytest.approx(2 / (6 - math.sqrt(2)), abs=1e-12)
    # A star of 8: 2 / (1 + 8) would leave the hub 1 - 14 / 9.
    star = mixing.matrix("best-constant", graphs.build("star", 8), [f"a{i}" for i in range(8)])
    assert star[0].tolist() == [0.0] + [1 / 7] * 7


@pytest.mark.parametrize("spec", ["ring", "star", "ring-of-cliques", "barabasi-albert", "grid"])
def test_fastest_beats_every_other_rule(spec: str) -> None:
    pytest.importorskip("cvxpy")
    graph = graphs.build(spec, 16)
    gaps = {n: spectral_gap(mixing.matrix(n, graph, list(graph))) for n in mixing.RULES}
    assert gaps["fastest"] >= max(gaps.values()) - 1e-6
    matrix = mixing.matrix("fastest", graph, list(graph))
    assert np.array_equal(matrix, matrix.T)
    check_matrix(matrix, graph)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-15)


def test_fastest_of_a_path_is_known() -> None:
    pytest.importorskip("cvxpy")
    # Boyd, Diaconis, Sun and Xiao (2006): on a path 1/2 on every edge, lambda_2 = cos(pi / n).
    graph = graphs.build("path", 10)
    matrix = mixing.matrix("fastest", graph, list(graph))
    np.testing.assert_allclose(matrix.diagonal(1), 0.5, atol=1e-4)
    assert spectral_gap(matrix) == pytest.approx(1 - math.cos(math.pi / 10), abs=1e-6)


@pytest.mark.parametrize("agents", [1, 2])
def test_fastest_of_one_and_two_agents(agents: int) -> None:
    pytest.importorskip("cvxpy")
    matrix = mixing.matrix("fastest", graphs.build("ring", agents), ["a0", "a1"][:agents])
    np.testing.assert_allclose(matrix, 1 / agents, atol=1e-6)


def test_fastest_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'candor\[fastest\]'"):
        mixing.matrix("fastest", graphs.build("ring", 3), ["a0", "a1", "a2"])
    graph = graphs.build("ring", 101)
    with pytest.raises(ConfigurationError, match="101 agents are more than the 100"):
        mixing.matrix("fastest", graph, list(graph))


@pytest.mark.parametrize("name", sorted(set(mixing.RULES) - {"fastest"}))
@given(spec=family_specs(), agents=st.integers(1, 25))
def test_every_rule_averages_on_every_family(name: str, spec: str, agents: int) -> None:
    try:
        graph = graphs.build(spec, agents)
    except ConfigurationError:
        return  # it does not fit so many agents
    matrix = mixing.matrix(name, graph, list(graph))
    assert np.array_equal(matrix, matrix.T)
    check_matrix(matrix, graph)
    assert spectral_gap(matrix) > 0
    vectors = np.random.default_rng(0).standard_normal((agents, 3))
    mixed = matrix @ vectors
    np.testing.assert_allclose(mixed.mean(axis=0), vectors.mean(axis=0), rtol=0, atol=1e-12)
    shrunk = disagreement(mixed)
    assert shrunk <= (1 - spectral_gap(matrix)) * disagreement(vectors) + 1e-12


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
    with pytest.raises(ConfigurationError, match="known: metropolis-hastings, lazy"):
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


def test_order_and_direction_are_checked() -> None:
    ring = graphs.build("ring", 3)
    for order in (["a0", "a1"], ["a0", "a1", "b"], ["a0", "a0", "a1"]):
        with pytest.raises(ConfigurationError, match="does not have each agent of the graph once"):
            mixing.sparse_matrix("lazy", ring, order)
    with pytest.raises(ConfigurationError, match="is for undirected graphs; use push-sum"):
        mixing.matrix("lazy", ring.to_directed(), list(ring))
