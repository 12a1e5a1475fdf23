"""A topology in numbers: known graphs, networkx as the oracle, and large ones in seconds."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import analysis, graphs, mixing
from topologies.analysis import Distances, analyse, distances


@pytest.mark.parametrize(
    ("spec", "agents", "expected"),
    [
        ("ring", 1, Distances(0, 0, True)),
        ("ring", 2, Distances(1, 1, True)),
        ("ring", 16, Distances(8, 7, True)),
        ("star", 20, Distances(2, 2, True)),
        ("complete", 20, Distances(1, 1, True)),
        ("hypercube", 64, Distances(6, 5, True)),  # 56 of 63 are at most 4 away
    ],
)
def test_the_distances_of_known_graphs(spec: str, agents: int, expected: Distances) -> None:
    assert distances(graphs.build(spec, agents)) == expected


@given(st.integers(2, 30), st.integers(0, 1000))
def test_distances_are_networkxs(agents: int, seed: int) -> None:
    graph = graphs.build("erdos-renyi:p=0.3", agents, seed)
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    pairs = [lengths[u][v] for u in graph for v in graph if u != v]
    found = distances(graph)
    assert (found.diameter, found.exact) == (nx.diameter(graph), True)
    assert np.mean(np.array(pairs) <= found.effective) >= 0.9
    assert found.effective == 1 or np.mean(np.array(pairs) <= found.effective - 1) < 0.9


@pytest.mark.parametrize(
    ("spec", "exact"), [("star", True), ("complete", True), ("random-regular", False)]
)
def test_a_sample_says_whether_it_is_exact(
    spec: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graphs.build(spec, 400)
    whole = distances(graph)
    monkeypatch.setattr(analysis, "_VISITS_MAX", 0)
    sampled = distances(graph)
    assert sampled.exact is exact
    assert sampled.diameter in (whole.diameter, whole.diameter - 1)
    assert sampled.effective == whole.effective


def test_the_analysis_of_a_star() -> None:
    graph = graphs.build("star", 5)
    found = analyse(graph, mixing.matrix("metropolis-hastings", graph, list(graph)), 1000)
    assert found.articulation_points == ("a0",)
    assert (found.bytes_per_round_max, found.bytes_per_round_mean) == (16_000, 6_400)
    assert found.spectral_gap == pytest.approx(0.2)
    assert found.consensus_rounds == 62  # 0.8 ** 62 is the first power below 1e-6


def test_a_matrix_that_never_averages_has_no_rounds() -> None:
    found = analyse(graphs.build("ring", 4), np.eye(4), 1)
    assert found.consensus_rounds is None
    assert found.articulation_points == ()


@pytest.mark.parametrize("family", ["ring", "random-regular"])
def test_ten_thousand_agents_are_analysed(family: str) -> None:
    graph = graphs.build(family, 10_000)
    found = analyse(graph, mixing.sparse_matrix("metropolis-hastings", graph, list(graph)), 10**6)
    assert family != "ring" or (found.diameter, found.diameter_exact) == (5000, True)
    assert found.consensus_rounds is not None
