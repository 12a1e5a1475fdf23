"""What cooperation is worth, as a unit; who has none; agents in groups."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.studies.audit.members import Member, by_degree, trained_steps
from candor.agent.studies.audit.worth import LEAST, More, Worth, groups, quantiles, reached


def test_who_gains_nothing_has_no_unit_of_its_own():
    worth = Worth(np.array([[0.2, -0.1], [0.4, 0.1 * LEAST]]))
    assert worth.usual == pytest.approx((0.6 + 0.1 * LEAST) / 3)
    assert worth.has_unit.tolist() == [[True, False], [True, False]]
    assert worth.units.tolist() == [[0.2, worth.usual], [0.4, worth.usual]]
    assert worth.unit_of([0]) == (pytest.approx(0.3), True)
    assert worth.unit_of([1]) == (worth.usual, False)
    assert Worth(np.array([[-1.0, 0.0]])).usual == 0.0


def test_an_agent_stops_where_loss_and_cost_are_least():
    losses = np.array([[3.0, 3.0], [2.0, math.nan], [1.9, 2.0]])
    assert reached(losses).tolist() == [1.9, 2.0]
    spent = np.array([[0.0], [0.5], [1.0]])
    assert reached(losses, spent).tolist() == [2.5, 3.0]
    assert reached(np.full((2, 1), math.nan)).tolist() == [math.inf]


def test_more_training_helps_if_it_helps_nearly_all():
    assert More("", np.array([[0.1, 0.1, 0.1, -0.1]])).helps(0.01)
    assert not More("", np.array([[0.1, 0.1, -0.1, -0.1]])).helps(0.01)
    assert not More("", np.array([[0.001] * 4])).helps(0.01)
    assert not More("", np.array([[0.1, 0.1, 0.1, -math.inf]])).helps(0.01)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_groups_are_ascending_and_part_all_samples(values):
    found = groups(np.array(values, np.float64))
    assert 1 <= len(found) <= 3
    assert sum(int(whose.sum()) for _, _, whose in found) == len(values)
    ends = [end for low, high, _ in found for end in (low, high)]
    assert ends == sorted(ends)
    assert all(whose.any() for _, _, whose in found)


def test_quantiles_of_none_are_no_numbers():
    assert quantiles(np.array([1.0, 2.0, 3.0]))[::2] == (2.0, 3.0)
    assert all(map(math.isnan, quantiles(np.array([]))))


def graph(**neighbours: str) -> SimpleNamespace:
    return SimpleNamespace(ids=tuple(neighbours), neighbours=neighbours.__getitem__)


def test_the_first_agents_of_lowest_median_and_highest_degree_lie():
    path = graph(a="bcd", b="ac", c="ab", d="ae", e="d")
    assert by_degree(path) == ("e", "b", "a")
    assert by_degree(graph(a="bc", b="ac", c="ab")) == ("a",)  # a ring: all alike


def test_steps_of_epochs_are_of_what_is_not_held_out():
    members = [Member(0, "a", 1, 100), Member(0, "b", 1, 40)]
    algorithm = SimpleNamespace(local_epochs=2, local_steps=12)
    cluster = SimpleNamespace(algorithm=algorithm, task=SimpleNamespace(batch_size=10), seed=0)
    assert trained_steps(cluster, members, 0.25).tolist() == [15.0, 6.0]
    algorithm.local_epochs = None
    assert trained_steps(cluster, members, 0.25).tolist() == [12.0, 12.0]
