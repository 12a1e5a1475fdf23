"""The rounds of a run: what a cluster file says of a schedule gives every host the same weights."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.cluster.graph_section import settings_of
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.consensus import column_stochastic
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.schedules import schedules
from candor.topologies.schedules.round_weights import GraphSettings, RoundWeights
from candor.topologies.schedules.weights import own_weight
from candor.topologies.specs.specs import ConfigurationError
from tests.golden import assert_golden

FAMILIES = ("ring", "star", "torus", "hypercube", "erdos-renyi", "barabasi-albert")
UNDIRECTED = (
    "random-matching",
    "random-matching:base=torus",
    "rotating:base=torus,parts=5",
    "failing:base=ring,p=0.2",
    "round-robin:ring + star + hypercube",
    *FAMILIES,
)
DIRECTED = ("one-peer-exponential", "directed-ring", "directed-exponential", "directed-random")


def rounds_of(spec: str, agents: int = 16, mixing_spec: str | None = None) -> RoundWeights:
    schedule = schedules.build(spec, agents, 3)
    found = RoundWeights(schedule.agents, settings_of(schedule, schedule.agents, mixing_spec))
    found.check()
    return found


@pytest.mark.parametrize("spec", [*UNDIRECTED, *DIRECTED])
def test_a_cluster_files_rounds_are_the_schedules(spec: str) -> None:
    schedule, found = schedules.build(spec, 16, 3), rounds_of(spec)
    for t in (1, 2, 3, 4, 5, 6, 1000):
        assert set(found.graph(t).to_directed().edges) == set(schedule.graph(t).to_directed().edges)
        if not found.push_sum:  # whose rows are tested below
            np.testing.assert_allclose(
                found.matrix(t), schedule.matrix(t).toarray(), rtol=0, atol=1e-15
            )


@pytest.mark.parametrize("spec", [*UNDIRECTED, "one-peer-exponential"])
@given(rule=st.sampled_from(list(mixing.WEIGHTS)), t=st.integers(1, 2**40))
def test_rules_keep_the_mean_in_every_round(spec: str, rule: str, t: int) -> None:
    matrix = rounds_of(spec, mixing_spec=rule).matrix(t)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert matrix.min() >= 0


@pytest.mark.parametrize("rule", mixing.WEIGHTS)
@pytest.mark.parametrize("spec", FAMILIES)
def test_rules_are_the_librarys_to_the_last_bit(spec: str, rule: str) -> None:
    found = rounds_of(spec, mixing_spec=rule)
    graph = found.graph(1)
    assert isinstance(graph, nx.Graph)
    expected = mixing.matrix(rule, graph, list(graph))
    off_diagonal = ~np.eye(len(graph), dtype=bool)
    np.testing.assert_array_equal(found.matrix(1)[off_diagonal], expected[off_diagonal])
    np.testing.assert_allclose(found.matrix(1), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("spec", [*UNDIRECTED, *DIRECTED])
def test_push_sums_rows_mix_what_its_columns_give(spec: str) -> None:
    """z = x / w of numerators and masses that are mixed by columns, as Kempe et al. have it."""
    found = rounds_of(spec, mixing_spec=PUSH_SUM)
    z = np.random.default_rng(0).standard_normal((len(found.ids), 3))
    x, w = z.copy(), np.ones((len(z), 1))
    for t in range(1, 40):
        mass = found.of(t).mass
        np.testing.assert_allclose([[mass[agent]] for agent in found.ids], w, rtol=1e-12)
        columns = column_stochastic(nx.DiGraph(found.graph(t))).toarray()
        x, w, matrix = columns @ x, columns @ w, found.matrix(t)
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        z = matrix @ z
        np.testing.assert_allclose(z, x / w, rtol=0, atol=1e-12)


def test_masses_are_the_same_in_any_order_of_rounds() -> None:
    onward, back = (rounds_of("directed-random:degree=2", mixing_spec=PUSH_SUM) for _ in range(2))
    seen = {t: onward.of(t) for t in range(1, 600)}
    for t in (599, 1, 300, 256, 257, 599, 2, 512, 511):
        assert back.of(t) == seen[t]


@pytest.mark.parametrize("spec", [*UNDIRECTED, *DIRECTED])
def test_givers_and_takers_are_two_views_of_one_round(spec: str) -> None:
    found = rounds_of(spec)
    for t in (1, 2, 3):
        weights = found.of(t)
        taken = {(giver, taker) for taker, row in weights.taken.items() for giver in row}
        given = {(giver, taker) for giver, takers in weights.takers.items() for taker in takers}
        assert taken == given
        for row in weights.taken.values():
            assert list(row) == sorted(row)
            assert own_weight(row) > 0


def test_an_agent_keeps_what_is_left_to_one() -> None:
    assert own_weight({}) == 1.0
    assert own_weight({"a": 0.5}) == 0.5
    assert own_weight({"a": 0.5, "b": 0.5 + 2**-40}) == 0.0


def test_weights_of_a_solver_stand_in_the_file(tmp_path: Path) -> None:
    found = rounds_of("torus", mixing_spec="best-constant")
    graph = found.graph(1)
    expected = mixing.matrix("best-constant", graph, list(graph))
    np.testing.assert_allclose(found.matrix(5), expected, rtol=0, atol=1e-12)
    assert found.settings.mixing == "best-constant"
    np.save(tmp_path / "mine.npy", expected)
    given_ = rounds_of("torus", mixing_spec=str(tmp_path / "mine.npy"))
    assert given_.settings.mixing == "given"
    np.testing.assert_allclose(given_.matrix(1), found.matrix(1), rtol=0, atol=1e-12)


def test_a_matrix_may_weigh_the_two_ends_of_an_edge_differently(tmp_path: Path) -> None:
    matrix = np.array([[0.5, 0.2, 0.3], [0.3, 0.5, 0.2], [0.2, 0.3, 0.5]])
    path = tmp_path / "mine.csv"
    np.savetxt(path, matrix, delimiter=",")
    np.testing.assert_allclose(
        rounds_of("ring", 3, str(path)).matrix(1), matrix, rtol=0, atol=1e-12
    )
    with pytest.raises(ConfigurationError, match="moves the mean when edges fail"):
        rounds_of("failing:base=ring,p=0.2", 3, str(path))


def test_failed_edges_leave_their_given_weight_with_both_ends() -> None:
    found = rounds_of("failing:base=ring,p=0.5", mixing_spec="best-constant")
    base = rounds_of("ring", mixing_spec="best-constant").matrix(1)
    for t in range(1, 30):
        matrix = found.matrix(t)
        np.testing.assert_allclose(matrix.sum(axis=0), 1.0, rtol=0, atol=1e-12)
        used = (matrix > 0) & ~np.eye(16, dtype=bool)
        np.testing.assert_array_equal(matrix[used], base[used])


# The last round of each; masses follow from all rounds before.
FAR = {"random-matching": 2**40, "failing:base=ring,p=0.3": 2**40, "directed-random": 1000}


def test_another_process_computes_the_same_rounds() -> None:
    script = (
        "from tests.topologies.schedules.test_round_weights import FAR, rounds_of;"
        "print([rounds_of(spec).of(t).taken for spec in FAR for t in (1, 9, FAR[spec])])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


BOTH_WAYS = (("a", "b"), ("b", "a"))


def settings(**changes: Any) -> GraphSettings:
    fields: dict[str, Any] = {"topology": "x", "edges": (("a", "b"), ("b", "c"))}
    return GraphSettings(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mixing": "mean"}, "graph.mixing: unknown mixing 'mean'"),
        ({"schedule": "random"}, "is none of fixed, turns, arcs"),
        ({"schedule": "fixed:3"}, "is none of fixed, turns, arcs"),
        ({"schedule": "matching"}, "is none of fixed, turns, arcs"),
        ({"schedule": "matching:seed=x"}, "seed must be a whole number"),
        ({"schedule": "failing:p=1,seed=1"}, "p must be a number from 0 to below 1"),
        ({"schedule": "pairs:seed=1"}, "pairs need an edge between any two"),
        ({"schedule": "turns"}, "graph.turns: schedule 'turns' needs them"),
        ({"turns": ((("a", "b"),),)}, "graph.turns: schedule 'fixed' has none"),
        (
            {"schedule": "turns", "turns": ((("a", "c"),),)},
            "turn 1 has 'a'-'c', which is not in graph.edges",
        ),
        (
            {"schedule": "turns", "turns": ((("a", "b"), ("b", "a")),)},
            "turn 1 has an edge twice",
        ),
        ({"schedule": "turns", "turns": ((("a", "b"),),)}, "no turn has the edge 'b'-'c'"),
        (
            {"schedule": "arcs", "mixing": "push-sum", "turns": ((("a", "b"), ("b", "c")),)},
            "not every agent is heard by every other",
        ),
        (
            {"schedule": "arcs", "turns": ((("a", "b"), ("b", "c"), ("c", "b"), ("b", "a")),) * 1},
            None,
        ),
        (
            {"schedule": "arcs", "turns": ((*BOTH_WAYS, ("b", "c")), (("c", "b"),))},
            "round 1: 'a' takes with another weight than it is taken with",
        ),
        (
            {
                "schedule": "arcs",
                "turns": ((*BOTH_WAYS, ("b", "c"), ("c", "b")), BOTH_WAYS[:1]),
            },
            "round 2: 'a' takes with another weight than it is taken with",
        ),
        ({"mixing": "given"}, "needs a pair of weights for each edge"),
        ({"weights": ((0.5, 0.5),) * 2}, "mixing 'metropolis-hastings' has none"),
        ({"mixing": "given", "weights": ((0.5, 0.5),)}, "needs one pair for each edge"),
        ({"mixing": "given", "weights": ((0.5, 0.5), (0.6, 0.6))}, "weights are finite and 0 or"),
        ({"mixing": "given", "weights": ((0.5, 0.4), (0.4, 0.5))}, "sum to"),
        ({"mixing": "given", "weights": ((0.5, 0.5), (0.0, 0.0))}, "do not connect all agents"),
    ],
)
def test_settings_that_make_no_sense_are_told_in_one_line(
    changes: dict[str, Any], complaint: str | None
) -> None:
    if complaint is None:
        RoundWeights(("a", "b", "c"), settings(**changes)).check()
        return
    with pytest.raises(ConfigurationError) as caught:
        RoundWeights(("a", "b", "c"), settings(**changes)).check()
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "mixing_spec", "complaint"),
    [
        ("one-peer-exponential", "best-constant", "is for one undirected graph, not for"),
        ("ring", "average", "unknown mixing 'average'"),
        ("ring", "missing.csv", "missing.csv"),
        ("directed-random", "lazy", "use push-sum"),
    ],
)
def test_a_mixing_that_does_not_fit_is_told_in_one_line(
    spec: str, mixing_spec: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        rounds_of(spec, 8, mixing_spec)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


GOLDEN = (
    ("ring", None),
    ("star", "lazy"),
    ("one-peer-exponential", None),
    ("random-matching:seed=1", None),
    ("random-matching:base=ring,seed=1", "max-degree"),
    ("rotating:base=complete,parts=3", None),
    ("failing:base=complete,p=0.4,seed=2", None),
    ("round-robin:ring + star", None),
    ("directed-random:degree=2", None),
)
DECLARED = (120.0, 7.5, 1000.0, 33.0, 120.0)
SIZED = (0, 6, 8, 9)  # of them, and of `GIVEN`
GIVEN = GraphSettings(
    topology="mine",
    mixing="given",
    schedule="failing:p=0.5,seed=7",
    edges=(("a0", "a1"), ("a1", "a2"), ("a2", "a3"), ("a3", "a4")),
    weights=((0.5, 0.5), (0.25, 0.25), (0.375, 0.375), (0.125, 0.125)),
)


def test_golden_rounds() -> None:
    cases = []
    made = [rounds_of(spec, 5, mixing_spec) for spec, mixing_spec in GOLDEN]
    made.append(RoundWeights(made[0].ids, GIVEN))
    sized = [RoundWeights(made[at].ids, made[at].settings, DECLARED) for at in SIZED]
    for found in [*made, *sized]:
        rounds = [
            {"round": t, "taken": found.of(t).taken, "mass": found.of(t).mass}
            for t in (1, 2, 3, 500 if found.push_sum else 1_000_000)
        ]
        graph = found.settings.model_dump(mode="json")
        case = {"agents": list(found.ids), "graph": graph, "rounds": rounds}
        declared = dict(zip(found.ids, found.declared, strict=True)) if found.declared else None
        cases.append(case | ({"declared": declared} if declared else {}))
    about = "The table [graph] of cluster files; of some rounds each agent's givers with their "
    about += "weights, and what its steps are divided by; some with declared weights of agents."
    assert_golden("rounds.json", {"about": about, "cases": cases})
