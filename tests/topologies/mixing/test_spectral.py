"""The gap of a large sparse matrix is the dense one's, and in seconds for ten thousand agents."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from candor.topologies.graphs import graphs
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing import spectral
from candor.topologies.mixing.spectral import rounds_to, spectral_gap

LARGE = ("ring", "path", "star", "binary-tree", "torus", "exponential", "watts-strogatz")


@pytest.mark.parametrize("rule", ["metropolis-hastings", "lazy", "best-constant"])
@pytest.mark.parametrize("family", LARGE)
def test_the_sparse_gap_is_the_dense_one(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graphs.build(family, 300)
    dense = spectral_gap(mixing.matrix(rule, graph, list(graph)))
    monkeypatch.setattr(spectral, "DENSE_AGENTS_MAX", 100)
    sparse = spectral_gap(mixing.sparse_matrix(rule, graph, list(graph)))
    assert sparse == pytest.approx(dense, rel=1e-6)


def test_an_eigenvalue_near_minus_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "DENSE_AGENTS_MAX", 50)
    cycle = mixing.sparse_matrix("metropolis-hastings", graphs.build("ring", 100), _ids(100))
    almost_periodic = 0.99 * 1.5 * (cycle - csr_array(np.eye(100)) / 3) + 0.01 * np.eye(100)
    # Half to each side but for 1 %: -0.98 at the far end, where the near one has 0.998.
    assert spectral_gap(csr_array(almost_periodic**1)) == pytest.approx(
        1 - (0.99 * math.cos(2 * math.pi / 100) + 0.01), abs=1e-9
    )
    bipartite = graphs.build("complete", 100)
    bipartite.remove_edges_from(
        [(u, v) for u, v in bipartite.edges if (int(u[1:]) < 50) == (int(v[1:]) < 50)]
    )
    adjacency = mixing.matrix("max-degree", bipartite, list(bipartite))
    swap = 0.95 * (adjacency - np.eye(100) / 51) * 51 / 50 + 0.05 * np.eye(100)
    assert spectral_gap(csr_array(swap)) == pytest.approx(0.1, abs=1e-9)


def test_the_sparse_gap_of_a_directed_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "DENSE_AGENTS_MAX", 50)
    shift = 0.5 * (np.eye(64) + np.roll(np.eye(64), 1, axis=1))
    assert spectral_gap(csr_array(shift)) == pytest.approx(1 - math.cos(math.pi / 64), rel=1e-6)


def test_a_ring_of_ten_thousand_agents() -> None:
    graph = graphs.build("ring", 10_000)
    gap = spectral_gap(mixing.sparse_matrix("metropolis-hastings", graph, list(graph)))
    assert gap == pytest.approx((1 - math.cos(2 * math.pi / 10_000)) * 2 / 3, rel=1e-4)


@given(st.floats(1e-6, 1.0), st.floats(1e-9, 0.5))
@settings(max_examples=200)
def test_predicted_rounds_are_the_least_that_suffice(gap: float, error: float) -> None:
    rounds = rounds_to(error, gap)
    assert (1 - gap) ** rounds <= error * (1 + 1e-6)
    if rounds > 1:
        assert (1 - gap) ** (rounds - 1) >= error * (1 - 1e-6)


def test_without_a_gap_no_number_of_rounds_suffices() -> None:
    assert rounds_to(1e-6, 0.0) == math.inf
    assert rounds_to(1e-6, 1.0) == 1


def _ids(agents: int) -> list[str]:
    return [f"a{i}" for i in range(agents)]
