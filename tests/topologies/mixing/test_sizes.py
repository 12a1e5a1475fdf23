"""Corrected for declared sizes, any symmetric matrix tends to the mean that they weight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import graphs
from candor.topologies.mixing import rules, sizes, spectral
from candor.topologies.mixing.matrices import check_symmetric
from candor.topologies.specs.specs import ConfigurationError

SIZES = st.lists(st.floats(1e-6, 1e12), min_size=2, max_size=12)


@given(SIZES)
def test_shares_sum_to_one_and_have_the_ratios_of_the_sizes(declared: list[float]) -> None:
    found = np.array(sizes.shares(declared))
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found, np.array(declared) / np.sum(declared), rtol=1e-12)
    assert np.mean(sizes.scaled(declared)) == pytest.approx(1.0, abs=1e-12)


@given(st.floats(1e-6, 1e12), st.integers(1, 1000))
def test_equal_sizes_are_ones_to_the_last_bit(size: float, count: int) -> None:
    assert sizes.scaled([size] * count) == (1.0,) * count


@pytest.mark.parametrize("rule", ["metropolis-hastings", "lazy", "max-degree", "best-constant"])
@pytest.mark.parametrize("family", ["ring", "star", "erdos-renyi:p=0.5", "barabasi-albert"])
@given(seed=st.integers(0, 2**32 - 1))
def test_sizes_are_stationary_and_rows_sum_to_one(family: str, rule: str, seed: int) -> None:
    graph = graphs.build(family, 9, seed % 7)
    declared = np.exp(np.random.default_rng(seed).uniform(-5, 5, 9)).tolist()
    matrix = sizes.corrected(rules.sparse_matrix(rule, graph, list(graph)), declared)
    pi, dense = np.array(sizes.shares(declared)), matrix.toarray()
    np.testing.assert_allclose(dense.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pi @ dense, pi, rtol=0, atol=1e-12)
    assert dense.min() >= 0
    flows = pi[:, np.newaxis] * dense  # in balance, edge by edge
    np.testing.assert_allclose(flows, flows.T, rtol=0, atol=1e-15)


def test_the_gap_is_that_of_all_eigenvalues_dense_and_sparse() -> None:
    graph = graphs.build("random-regular:degree=4,seed=1", 60)
    declared = np.random.default_rng(0).uniform(1, 50, 60).tolist()
    matrix = sizes.corrected(rules.sparse_matrix("lazy", graph, list(graph)), declared)
    values = np.sort(np.abs(np.linalg.eigvals(matrix.toarray())))
    expected = 1 - values[-2]
    assert spectral.spectral_gap(matrix, declared) == pytest.approx(expected, abs=1e-9)
    assert spectral.spectral_gap(matrix.toarray(), declared) == pytest.approx(expected, abs=1e-9)


def test_the_gap_of_thousands_is_found_without_a_dense_matrix() -> None:
    graph = graphs.build("torus", 2500)
    matrix = rules.sparse_matrix("metropolis-hastings", graph, list(graph))
    plain = spectral.spectral_gap(matrix)
    assert spectral.spectral_gap(sizes.corrected(matrix, [7.0] * 2500), [7.0] * 2500) == plain
    declared = np.random.default_rng(0).uniform(1, 4, 2500).tolist()
    gap = spectral.spectral_gap(sizes.corrected(matrix, declared), declared)
    assert 0 < gap < plain


def test_disagreement_shrinks_at_the_rate_of_the_gap_in_the_weighted_norm() -> None:
    graph, declared = graphs.build("ring", 6), [1.0, 4.0, 9.0, 2.0, 2.0, 5.0]
    matrix = sizes.corrected(
        rules.sparse_matrix("metropolis-hastings", graph, list(graph)), declared
    )
    rate, pi = 1 - spectral.spectral_gap(matrix, declared), np.array(sizes.shares(declared))
    x = np.random.default_rng(0).standard_normal((6, 4))
    mean, apart = pi @ x, []
    for _ in range(30):
        apart.append(np.sqrt((pi[:, np.newaxis] * (x - mean) ** 2).sum()))
        x = matrix @ x
    ratios = np.array(apart[1:]) / apart[:-1]
    assert ratios.max() <= rate + 1e-9
    assert ratios[-1] == pytest.approx(rate, rel=1e-2)


def test_a_matrix_that_weighs_one_way_only_is_refused_in_one_line() -> None:
    from scipy.sparse import csr_array

    turning = csr_array(np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]))
    with pytest.raises(ConfigurationError, match="weigh each other differently") as caught:
        check_symmetric(turning, ["a", "b", "c"])
    assert "\n" not in str(caught.value)
