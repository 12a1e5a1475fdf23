"""A topology in numbers: known graphs, networkx as the oracle, and large ones in seconds."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.graphs import graphs
from candor.topologies.mixing import rules as mixing
from candor.topologies.schedules import costs as analysis
from candor.topologies.schedules import schedules
from candor.topologies.schedules.costs import Distances, analyse, analyse_schedule, distances
from candor.topologies.specs.specs import ConfigurationError


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


def test_a_schedule_of_one_graph_has_the_rate_of_that_graph() -> None:
    for name in ("metropolis-hastings", "lazy"):
        graph = graphs.build("ring", 12)
        expected = analyse(graph, mixing.matrix(name, graph, list(graph)))
        found = analyse_schedule(schedules.fixed(graph), name)
        assert found.spectral_gap == pytest.approx(expected.spectral_gap)
        assert expected.consensus_rounds is not None
        assert found.consensus_rounds == pytest.approx(expected.consensus_rounds, rel=0.1)
        assert found.bytes_per_round_max == expected.bytes_per_round_max


def test_one_peer_exponential_agrees_after_its_period() -> None:
    found = analyse_schedule(schedules.build("one-peer-exponential", 16), "metropolis-hastings")
    assert (found.spectral_gap, found.consensus_rounds) == (1.0, 4)
    assert (found.degree_max, found.bytes_per_round_max) == (7, 4_000_000)


def test_the_rate_of_a_directed_ring_is_that_of_its_eigenvalue() -> None:
    found = analyse_schedule(schedules.build("directed-ring", 9), "push-sum")
    assert 1 - found.spectral_gap == pytest.approx(abs(1 + np.exp(2j * np.pi / 9)) / 2)
    rounds = np.log(1e-6) / np.log(1 - found.spectral_gap)
    assert found.consensus_rounds == pytest.approx(rounds, rel=0.1)


@pytest.mark.parametrize("spec", ["failing:base=torus,p=0.2", "random-matching", "directed-random"])
def test_a_measured_rate_predicts_the_measured_rounds(spec: str) -> None:
    schedule = schedules.build(spec, 16)
    name = "push-sum" if schedule.push_sum else "metropolis-hastings"
    found = analyse_schedule(schedule, name)
    rounds = np.log(1e-6) / np.log(1 - found.spectral_gap)
    assert found.consensus_rounds == pytest.approx(rounds, rel=0.25)


def test_edges_that_fail_cost_no_bytes() -> None:
    found = analyse_schedule(schedules.build("failing:base=ring,p=0.5", 16), "lazy")
    assert found.bytes_per_round_mean == pytest.approx(4_000_000, rel=0.05)


def test_what_does_not_belong_together_is_told() -> None:
    ring, arcs = graphs.build("ring", 4), schedules.build("directed-ring", 4)
    with pytest.raises(ConfigurationError, match="is 3 x 3, but the graph has 4 agents"):
        analyse(ring, np.eye(3))
    with pytest.raises(ConfigurationError, match="the graph is directed"):
        analyse(arcs.graph(1), np.eye(4))
    with pytest.raises(ConfigurationError, match="is directed; use push-sum"):
        analyse_schedule(arcs, "lazy")
    with pytest.raises(ConfigurationError, match="is for one undirected graph"):
        analyse_schedule(schedules.build("failing", 4), "best-constant")
