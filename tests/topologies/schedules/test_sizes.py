"""Whatever the graph, the rule and the sizes: a run's mixing tends to the mean they weight."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.topologies.cluster.graph_section import settings_of
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.schedules import schedules
from candor.topologies.schedules.round_weights import GraphSettings, RoundWeights
from candor.topologies.specs.specs import ConfigurationError

SYMMETRIC = (
    "ring",
    "star",
    "erdos-renyi",
    "barabasi-albert",
    "random-matching",
    "random-matching:base=torus",
    "rotating:base=complete,parts=3",
    "failing:base=complete,p=0.3",
    "round-robin:ring + star",
)
DIRECTED = (
    "directed-ring",
    "directed-exponential",
    "directed-random:degree=3",
    "one-peer-exponential",
)
AGENTS = 8
DECLARED = st.lists(st.floats(1, 1e3), min_size=AGENTS, max_size=AGENTS)


def rounds_of(
    spec: str, declared: list[float], mixing_spec: str | None = None, seed: int = 3
) -> RoundWeights:
    schedule = schedules.build(spec, AGENTS, seed)
    graph = settings_of(schedule, schedule.agents, mixing_spec)
    found = RoundWeights(schedule.agents, graph, declared)
    found.check()
    return found


def weighted_mean(declared: list[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.average(x, axis=0, weights=declared)
    return mean


@pytest.mark.parametrize("spec", SYMMETRIC)
@given(declared=DECLARED, rule=st.sampled_from(list(mixing.RULES)[:4]), t=st.integers(1, 2**40))
@settings(max_examples=30)
def test_sizes_are_stationary_in_every_round(
    spec: str, declared: list[float], rule: str, t: int
) -> None:
    one_graph = spec in SYMMETRIC[:4] or spec.startswith("failing")
    rule = rule if one_graph or rule in mixing.WEIGHTS else "lazy"
    matrix = rounds_of(spec, declared, rule).matrix(t)
    pi = np.array(declared) / np.sum(declared)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pi @ matrix, pi, rtol=0, atol=1e-12)
    assert matrix.min() >= 0


@pytest.mark.parametrize("spec", [*SYMMETRIC, *DIRECTED])
@given(declared=DECLARED, seed=st.integers(0, 20))
@settings(max_examples=5, deadline=None)
def test_mixing_over_and_over_tends_to_the_weighted_mean(
    spec: str, declared: list[float], seed: int
) -> None:
    declared = [1 + size / 200 for size in declared]  # a ratio of 6: some hundred rounds do
    found = rounds_of(spec, declared, PUSH_SUM if spec in DIRECTED else None, seed)
    x = np.random.default_rng(seed).standard_normal((AGENTS, 2))
    mean = weighted_mean(declared, x)
    for t in range(1, 1000):
        x = found.matrix(t) @ x
    np.testing.assert_allclose(x, np.tile(mean, (AGENTS, 1)), rtol=0, atol=1e-6)


@given(
    st.integers(0, 2**32 - 1), st.lists(st.floats(1e-6, 1e12), min_size=2, max_size=9), st.data()
)
@settings(max_examples=25, deadline=None)
def test_push_sum_on_any_strongly_connected_graph_tends_to_the_weighted_mean(
    seed: int, declared: list[float], data: st.DataObject
) -> None:
    ids = [f"a{i}" for i in range(len(declared))]
    turned = data.draw(st.permutations(ids))
    arcs = set(zip(turned, [*turned[1:], turned[0]], strict=True))  # a cycle connects all
    pairs = st.tuples(st.sampled_from(ids), st.sampled_from(ids)).filter(lambda p: p[0] != p[1])
    arcs |= data.draw(st.sets(pairs, max_size=12))
    edges = sorted({(min(arc), max(arc)) for arc in arcs})
    graph = GraphSettings(
        topology="drawn",
        mixing=PUSH_SUM,
        schedule="arcs",
        edges=tuple(edges),
        turns=(tuple(sorted(arcs)),),
    )
    found = RoundWeights(ids, graph, declared)
    found.check()
    x = np.random.default_rng(seed).standard_normal((len(ids), 2))
    mean = weighted_mean(declared, x)
    for t in range(1, 600):
        matrix = found.matrix(t)
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        x = matrix @ x
    np.testing.assert_allclose(x, np.tile(mean, (len(ids), 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", [*SYMMETRIC, *DIRECTED])
@given(size=st.floats(1e-6, 1e12))
@settings(max_examples=5)
def test_equal_sizes_give_the_bits_of_none(spec: str, size: float) -> None:
    for rule in {PUSH_SUM, None}:
        plain, sized = rounds_of(spec, [], rule), rounds_of(spec, [size] * AGENTS, rule)
        for t in (1, 2, 3, 300):
            assert sized.of(t) == plain.of(t)


@pytest.mark.parametrize("spec", [*SYMMETRIC, *DIRECTED])
@given(declared=DECLARED)
@settings(max_examples=5)
def test_steps_move_the_weighted_mean_by_the_weighted_steps(
    spec: str, declared: list[float]
) -> None:
    """What is kept is the sum of size times what steps are divided by times z."""
    found = rounds_of(spec, declared, PUSH_SUM if spec in DIRECTED else None)
    random, pi = np.random.default_rng(0), np.array(declared)
    z, moved = random.standard_normal((AGENTS, 2)), np.zeros(2)
    before = pi @ z
    for t in range(1, 20):
        mass = np.array([found.of(t).mass[agent] for agent in found.ids])
        step = random.standard_normal((AGENTS, 2))
        z = found.matrix(t) @ (z - step / mass[:, np.newaxis])
        moved += pi @ step
    mass = np.array([found.of(20).mass[agent] for agent in found.ids])
    np.testing.assert_allclose((pi * mass) @ z, before - moved, rtol=0, atol=1e-9 * pi.sum())


def test_edges_that_fail_keep_the_weighted_mean_where_both_ends_miss_them() -> None:
    declared = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 80.0]
    found, pi = rounds_of("complete", declared), np.array(declared)
    matrix = found.matrix(1)
    for i, j in ((0, 7), (2, 5)):  # as a daemon does: the weight goes to oneself
        for row, column in ((i, j), (j, i)):
            matrix[row, row] += matrix[row, column]
            matrix[row, column] = 0.0
    np.testing.assert_allclose(pi @ matrix, pi, rtol=1e-12)


def test_rounds_survive_being_pickled() -> None:
    found = rounds_of("ring", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert pickle.loads(pickle.dumps(found)).of(1) == found.of(1)


def given_graph(**changes: Any) -> GraphSettings:
    fields: dict[str, Any] = {
        "topology": "mine",
        "mixing": "given",
        "edges": (("a", "b"), ("b", "c"), ("a", "c")),
        "weights": ((0.5, 0.0), (0.5, 0.0), (0.0, 0.5)),
    }
    return GraphSettings(**(fields | changes))


def test_a_matrix_of_ones_own_must_be_symmetric_where_sizes_are_declared() -> None:
    RoundWeights(("a", "b", "c"), given_graph()).check()
    with pytest.raises(ConfigurationError, match="only a symmetric matrix") as caught:
        RoundWeights(("a", "b", "c"), given_graph(), (1.0, 2.0, 3.0)).check()
    assert "\n" not in str(caught.value)
    even = given_graph(weights=((0.25, 0.25), (0.5, 0.5), (0.25, 0.25)))
    found = RoundWeights(("a", "b", "c"), even, (1.0, 2.0, 3.0))
    found.check()
    pi = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(pi @ found.matrix(1), pi, rtol=1e-12)


def test_arcs_without_push_sum_are_refused_where_sizes_would_not_be_stationary() -> None:
    declared = [1.0] * 6 + [2.0, 2.0]
    with pytest.raises(ConfigurationError, match="so the mean would move; use mixing 'push-sum'"):
        rounds_of("one-peer-exponential", declared)
    rounds_of("one-peer-exponential", declared, PUSH_SUM)
