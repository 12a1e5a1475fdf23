"""Schedules: the same graphs for every agent, the mean in every round, one mean in the end."""

import hashlib
import subprocess
import sys
from pathlib import Path

import msgpack
import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.cluster.graph_section import settings_of
from candor.topologies.graphs import graphs
from candor.topologies.mixing.consensus import disagreement, push_sum
from candor.topologies.schedules import schedules
from candor.topologies.schedules.schedules import SCHEDULES, build, is_built_in
from candor.topologies.specs.specs import ConfigurationError

SPECS = (
    "one-peer-exponential",
    "random-matching",
    "random-matching:base=torus",
    "rotating:base=torus,parts=5",
    "failing:base=ring,p=0.2",
    "failing:base=erdos-renyi:p=0.5,p=0.5",
    "round-robin:ring + star + hypercube",
    "expander",
)
DIRECTED = ("directed-ring", "directed-exponential", "directed-random:degree=3")


def mixed(schedule: schedules.Schedule, vectors: np.ndarray, rounds: range) -> np.ndarray:
    for t in rounds:
        vectors = schedule.matrix(t) @ vectors
    return vectors


def test_every_schedule_is_tested() -> None:
    assert {spec.partition(":")[0] for spec in (*SPECS, *DIRECTED)} >= set(SCHEDULES)


@pytest.mark.parametrize("spec", SPECS)
def test_every_round_keeps_the_mean_and_all_rounds_find_it(spec: str) -> None:
    schedule = build(spec, 16, seed=3)
    start = np.random.default_rng(0).standard_normal((16, 5))
    vectors = start
    for t in range(1, 401):
        matrix = schedule.matrix(t)
        np.testing.assert_allclose(matrix.sum(axis=0), 1.0, rtol=0, atol=1e-12)
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        assert matrix.min() >= 0
        vectors = matrix @ vectors
        np.testing.assert_allclose(vectors.mean(axis=0), start.mean(axis=0), rtol=0, atol=1e-6)
    assert disagreement(vectors) < 1e-2 * disagreement(start)


@pytest.mark.parametrize("spec", DIRECTED)
def test_push_sum_finds_the_mean_on_directed_graphs(spec: str) -> None:
    schedule = build(spec, 12, seed=3)
    assert schedule.push_sum
    vectors = np.random.default_rng(0).standard_normal((12, 4))
    found = push_sum(vectors, (schedule.matrix(t) for t in range(1, 600)))
    np.testing.assert_allclose(found, np.tile(vectors.mean(axis=0), (12, 1)), atol=1e-6)


@given(agents=st.integers(2, 20), degree=st.integers(1, 19), seed=st.integers(0, 2**63 - 1))
def test_a_random_directed_graph_has_its_degree_and_connects(
    agents: int, degree: int, seed: int
) -> None:
    spec = f"directed-random:degree={degree},seed={seed}"
    if degree >= agents:
        with pytest.raises(ConfigurationError, match="degree must be a whole number from 1 to"):
            build(spec, agents)
        return
    graph = build(spec, agents).graph(1)
    assert {given for _, given in graph.out_degree} == {degree}
    assert nx.is_strongly_connected(graph)


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ("ring", True),
        ("erdos-renyi:p=0.4,seed=3", True),
        ("failing:p=0.2", True),
        ("rotating:base=torus,parts=3", True),
        ("round-robin:ring + erdos-renyi:p=0.4", True),
        ("mine.toml", False),
        ("ring/../mine.toml", False),
        ("networkx:petersen_graph", False),
        ("module:function", False),
        ("failing:base=module:function", False),
        ("failing:p=0.2,base=mine.edges", False),
        ("failing:base=ring,base=module:function", False),
        ("round-robin:ring + mine.csv", False),
        ("round-robin:ring + module:function,n=3", False),
        ("no such thing", False),
    ],
)
def test_a_built_in_spec_names_no_file_and_no_function(spec: str, known: bool) -> None:
    assert is_built_in(spec) is known


def test_everyones_other_takers_are_as_likely() -> None:
    """Of 12 agents with 2 takers each: one is the next, the other any of 10."""
    hops = [
        (int(taker[1:]) - int(giver[1:])) % 12
        for seed in range(200)
        for giver, taker in build("directed-random:degree=2", 12, seed).graph(1).edges
    ]
    assert hops.count(1) == 2400
    counts = [hops.count(hop) for hop in range(2, 12)]
    assert sum(counts) == 2400
    # A count has mean 240 and standard deviation 14.7.
    assert all(abs(count - 240) < 75 for count in counts), counts


def test_ten_thousand_agents_draw_their_takers_in_a_second() -> None:
    assert build("directed-random:degree=3", 10_000).graph(1).number_of_edges() == 30_000
    with pytest.raises(ConfigurationError, match="more than 5000000 arcs; use a smaller degree"):
        build("directed-random:degree=9999", 10_000)


def test_no_part_of_a_rotation_is_empty() -> None:
    rotating = build("rotating:base=ring,parts=12", 12)
    assert all(rotating.graph(t).number_of_edges() == 1 for t in range(1, 13))
    with pytest.raises(ConfigurationError, match="12 edges do not fill 13 parts; use parts=12"):
        build("rotating:base=ring,parts=13", 12)


@pytest.mark.parametrize("name", ["lazy", "metropolis-hastings", "best-constant", "w.csv"])
def test_directed_graphs_are_for_push_sum(name: str) -> None:
    schedule = build("directed-random:degree=3", 8)
    with pytest.raises(ConfigurationError, match=f"mixing '{name}' is for undirected.*push-sum"):
        settings_of(schedule, schedule.agents, name)


@pytest.mark.parametrize("spec", SPECS)
def test_a_round_weighs_its_neighbours_alone(spec: str) -> None:
    schedule = build(spec, 16, seed=3)
    for t in (1, 2, 3, 1000):
        graph = schedule.graph(t)
        assert tuple(graph) == schedule.agents
        matrix = schedule.matrix(t).toarray()
        for i, taker in enumerate(schedule.agents):
            for j, giver in enumerate(schedule.agents):
                assert (matrix[i, j] > 0) == (i == j or graph.has_edge(giver, taker))


@pytest.mark.parametrize("power", [1, 2, 3, 4, 6])
@given(seed=st.integers(0, 1000), start=st.integers(1, 50))
def test_one_peer_exponential_averages_exactly_in_log2_rounds(
    power: int, seed: int, start: int
) -> None:
    agents = 2**power
    schedule = build("one-peer-exponential", agents)
    vectors = np.random.default_rng(seed).standard_normal((agents, 3))
    found = mixed(schedule, vectors, range(start, start + power))
    np.testing.assert_allclose(found, np.tile(vectors.mean(axis=0), (agents, 1)), atol=1e-12)


def test_one_peer_exponential_of_sixteen_agents() -> None:
    schedule = build("one-peer-exponential", 16)
    vectors = np.random.default_rng(1).standard_normal((16, 4))
    errors = [disagreement(mixed(schedule, vectors, range(1, t + 1))) for t in range(5)]
    print("disagreement after rounds 0 to 4:", [f"{error:.2g}" for error in errors])
    assert errors[3] > 1e-2
    assert errors[4] < 1e-6
    assert schedule.period == 4
    assert set(schedule.graph(3).edges) == {(f"a{i}", f"a{(i + 4) % 16}") for i in range(16)}


@pytest.mark.parametrize("agents", [2, 3, 12, 100])
def test_one_peer_exponential_finds_the_mean_of_any_number(agents: int) -> None:
    schedule = build("one-peer-exponential", agents)
    vectors = np.random.default_rng(2).standard_normal((agents, 2))
    assert disagreement(mixed(schedule, vectors, range(1, 101))) < 1e-6


@given(
    st.sampled_from(["random-matching", "random-matching:base=erdos-renyi:p=0.6"]),
    st.integers(1, 20),
    st.integers(0, 1000),
    st.integers(1, 10**6),
)
def test_a_matching_pairs_neighbours_once(spec: str, agents: int, seed: int, round: int) -> None:
    schedule = build(spec, agents, seed)
    graph = schedule.graph(round)
    assert max((degree for _, degree in graph.degree), default=0) <= 1
    if "base" in spec:
        base = graphs.build("erdos-renyi:p=0.6", agents, seed)
        assert all(base.has_edge(u, v) for u, v in graph.edges)
        free = {agent for agent, degree in graph.degree if degree == 0}
        assert not any({u, v} <= free for u, v in base.edges)  # no pair more would fit
    else:
        assert graph.number_of_edges() == agents // 2


@given(st.integers(1, 12), st.integers(0, 1000))
def test_rotating_uses_every_edge_once_a_period(parts: int, seed: int) -> None:
    schedule = build(f"rotating:base=erdos-renyi:p=0.5,parts={parts}", 12, seed)
    assert schedule.period == parts
    used = [edge for t in range(1, parts + 1) for edge in schedule.graph(t).edges]
    assert len(used) == schedule.union.number_of_edges()
    assert set(map(frozenset, used)) == set(map(frozenset, schedule.union.edges))
    sizes = [schedule.graph(t).number_of_edges() for t in range(1, parts + 1)]
    assert max(sizes) - min(sizes) <= 1


def test_edges_fail_as_often_as_told_and_independently() -> None:
    schedule = build("failing:base=complete,p=0.2", 10, seed=5)
    alive = np.array(
        [
            [graph.has_edge(u, v) for u, v in schedule.union.edges]
            for graph in map(schedule.graph, range(1, 1001))
        ]
    )
    assert alive.mean() == pytest.approx(0.8, abs=0.01)  # 45,000 draws: 5 deviations
    assert np.abs(alive.mean(axis=0) - 0.8).max() < 0.06
    assert np.abs(np.corrcoef(alive.T) - np.eye(45)).max() < 0.16


def test_an_edge_that_never_fails_and_one_that_often_does() -> None:
    assert build("failing:p=0", 8).graph(7).number_of_edges() == 8
    rare = build("failing:p=0.999", 8)
    assert sum(rare.graph(t).number_of_edges() for t in range(1, 101)) < 20


def drawn() -> str:
    """The edges of some rounds of every schedule."""
    found = [build(spec, 16, 7) for spec in SPECS]
    return str([sorted(map(sorted, s.graph(t).edges)) for s in found for t in (9, 2, 40)])


def test_every_process_computes_the_same() -> None:
    name = "tests.topologies.schedules.test_schedules"
    ran = subprocess.run(
        [sys.executable, "-c", f"from {name} import drawn; print(drawn())"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "1"},
    )
    assert ran.stdout.strip() == drawn()


def _hash(seed: int, round: int, *agents: str) -> int:
    packed = msgpack.packb(["candor/schedule", seed, round, *agents])
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "big")


def test_chance_is_the_hash_of_seed_round_and_agents() -> None:
    order = sorted((f"a{i}" for i in range(6)), key=lambda agent: _hash(1, 9, agent))
    pairs = {frozenset(edge) for edge in build("random-matching", 6, seed=1).graph(9).edges}
    assert pairs == {frozenset(order[:2]), frozenset(order[2:4]), frozenset(order[4:])}
    ring = [tuple(sorted((f"a{i}", f"a{(i + 1) % 8}"))) for i in range(8)]
    alive = {edge for edge in ring if _hash(1, 9, *edge) >= 2**63}
    assert {tuple(sorted(e)) for e in build("failing:p=0.5", 8, seed=1).graph(9).edges} == alive
    assert 0 < len(alive) < 8


@pytest.mark.parametrize("spec", ["random-matching", "failing:p=0.5"])
def test_a_seed_in_the_spec_wins_and_another_draws_another(spec: str) -> None:
    inside = f"{spec}{',' if ':' in spec else ':'}seed=4"
    drawn = [set(build(*arguments).graph(1).edges) for arguments in ((spec, 12, 4), (inside, 12))]
    assert drawn[0] == drawn[1] != set(build(spec, 12, 5).graph(1).edges)


def test_files_in_pieces_may_take_turns(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.csv" for name in ("one", "two", "three"))
    one.write_text("x,y,z\n0,1,0\n1,0,0\n0,0,0\n")
    two.write_text("y,x,z\n0,0,1\n0,0,0\n1,0,0\n")
    three.write_text("x,y,w\n0,1,1\n1,0,1\n1,1,0\n")
    schedule = build(f"round-robin:{one} + {two}", None)
    assert schedule.agents == ("x", "y", "z")
    assert [set(schedule.graph(t).edges) for t in (1, 2, 3)] == [
        {("x", "y")}, {("y", "z")}, {("x", "y")},
    ]  # fmt: skip
    vectors = np.array([[1.0], [0.0], [-1.0]])
    assert disagreement(mixed(schedule, vectors, range(1, 101))) < 1e-9
    with pytest.raises(ConfigurationError, match="over all its rounds: the graph is not connected"):
        build(f"round-robin:{one} + {one}", None)
    with pytest.raises(ConfigurationError, match=r"three.csv' has other agents than"):
        build(f"round-robin:{one} + {three}", None)
    with pytest.raises(ConfigurationError, match="no path from 'x' to 'z'"):
        build(str(one), None)


@pytest.mark.parametrize(
    ("spec", "agents", "message"),
    [
        ("one-peer-exponential", None, "agents must be 2 to 10000"),
        ("one-peer-exponential", 1, "agents must be 2 to 10000"),
        ("one-peer-exponential:k=2", 8, "unknown 'k'; it takes nothing"),
        ("one-peer-exponential:2", 8, "write key=value; it takes nothing"),
        ("random-matching:base=moebius", 8, "unknown topology 'moebius'"),
        ("random-matching:seed=x", 8, "seed must be a whole number"),
        ("random-matching:seed=-1", 8, "seed must be a whole number"),
        ("random-matching", None, "--agents N"),
        ("rotating:parts=0", 8, "parts must be a whole number from 1 to 10000, not 0"),
        ("rotating:parts=1.5", 8, "parts must be a whole number"),
        ("failing:p=1", 8, "p must be a number from 0 to below 1, not 1"),
        ("failing:p=-0.1", 8, "p must be a number"),
        ("failing:p=nan", 8, "p must be a number"),
        ("failing:p=often", 8, "p must be a number"),
        ("failing:q=1", 8, "unknown 'q'; it takes base, p, seed"),
        ("round-robin:", 8, "expected round-robin:SPEC + SPEC"),
        ("round-robin:ring +  + star", 8, "expected round-robin:SPEC + SPEC"),
        ("round-robin:ring + torus", 7, "do not fill a grid"),
        ("no-such-thing", 8, "unknown topology 'no-such-thing'"),
    ],
)
def test_a_bad_schedule_is_one_line(spec: str, agents: int | None, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(spec, agents)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_union_of_rounds_is_what_was_checked() -> None:
    for spec in SPECS:
        schedule = build(spec, 16, seed=3)
        if schedule.period is None:
            continue
        used = {
            frozenset(edge)
            for t in range(1, schedule.period + 1)
            for edge in schedule.graph(t).edges
        }
        assert used == set(map(frozenset, schedule.union.edges))
        assert nx.is_connected(schedule.union)


def test_members_take_the_places_of_a_spec_in_order() -> None:
    found = schedules.placed(schedules.build("directed-ring", 3), ["a2", "a0", "a1"])
    assert set(found.graph(1).edges) == {("a2", "a0"), ("a0", "a1"), ("a1", "a2")}
    with pytest.raises(ConfigurationError, match="has 3 agents, but 2 are named"):
        schedules.placed(schedules.build("ring", 3), ["x", "y"])


@pytest.mark.parametrize(
    "spec",
    [
        "{}",
        "failing:base={}",
        "rotating:base={}",
        "random-matching:base={}",
        "round-robin:{} + star",
    ],
)
def test_agents_of_a_file_keep_their_names(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "line.edges"
    path.write_text("a1 a0\na0 a2\n")
    found = schedules.build(spec.format(path), 3)
    assert schedules.placed(found, ["a0", "a1", "a2"]) is found


def test_a_topology_file_says_where_it_is_from_and_how_to_mix(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(graphs.dump(graphs.build("ring", 4), "ring", "lazy"))
    settings = settings_of(found := schedules.build(str(path), None), found.agents)
    assert (settings.topology, settings.mixing) == ("ring", "lazy")
