"""Payments and rewards of federated SGD among competitors, by hand and as laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.agent.studies.femnist.aggression import Measured, Outcomes, Rule, charges


def outcome(alpha: float, loss: float, charge: float) -> Outcomes:
    return Outcomes(alpha, np.array([loss]), np.array([0.5]), np.array([charge]))


def measured(*points: tuple[float, float, float], honest: tuple[float, ...] = (0.0,)) -> Measured:
    return Measured(tuple(outcome(*point) for point in points), np.array([honest]))


# Three outcomes whose losses rise by 1 and by 2, and whose charges by 10 and by 40.
RISING = ((0.0, 1.0, 0.0), (1.0, 2.0, 10.0), (2.0, 4.0, 50.0))


CHOSEN = np.array([[0, 1, 2], [3, 1, 0]])
SQUARED = np.array([[4.0, 2.0, 0.0], [1.0, 3.0, 5.0]])


def test_charges_for_distance_are_those_of_a_computation_by_hand() -> None:
    # Step 1: 4 - 2/2, 2 - 4/2, 0 - 6/2; step 2: 1 - 8/2 (player 3), 3 - 6/2, 5 - 4/2.
    paid = charges(Rule.DISTANCE, np.array([9, 1, 1, 1, 1]), CHOSEN, SQUARED)
    assert paid.tolist() == [3.0 + 3.0, 0.0 + 0.0, -3.0, -3.0, 0.0]


def test_charges_for_influence_are_those_of_a_computation_by_hand() -> None:
    # Three times the weights, squared: 4, 1/4, 1/4 in step 1, and so 16, 1/2, 0 are paid.
    paid = charges(Rule.INFLUENCE, np.array([4, 1, 1]), CHOSEN[:1], SQUARED[:1])
    assert paid.tolist() == [16 - 0.25, 0.5 - 8, -8.25]


@st.composite
def plays(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    players, k = draw(st.integers(4, 9)), draw(st.integers(2, 4))
    samples = draw(st.lists(st.integers(1, 1000), min_size=players, max_size=players))
    rows = draw(st.lists(st.permutations(range(players)), min_size=1, max_size=6))
    squares = st.lists(st.floats(0, 1e6), min_size=k, max_size=k)
    squared = np.array([draw(squares) for _ in rows])
    return np.array(samples), np.array([row[:k] for row in rows]), squared


@given(plays(), st.sampled_from(Rule))
def test_what_some_pay_others_receive(
    play: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], rule: Rule
) -> None:
    samples, chosen, squared = play
    paid = charges(rule, samples, chosen, squared)
    assert paid.sum() == pytest.approx(0.0, abs=1e-8 * (1 + squared.sum()))
    absent = sorted(set(range(len(samples))) - set(chosen.ravel().tolist()))
    assert not paid[absent].any()


@given(plays())
def test_who_have_equal_weights_pay_the_same_by_both_rules(
    play: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
) -> None:
    samples, chosen, squared = play
    one, other = (charges(rule, np.full_like(samples, 7), chosen, squared) for rule in Rule)
    assert one == pytest.approx(other, abs=1e-9 * (1 + squared.sum()))


@pytest.mark.parametrize("rule", Rule)
def test_who_are_alike_pay_nothing(rule: Rule) -> None:
    assert not charges(rule, np.full(3, 5), np.array([[2, 0, 1]]), np.full((1, 3), 7.0)).any()


def test_the_reward_is_the_loss_less_what_is_paid() -> None:
    one = Outcomes(1.0, np.array([2.0, 4.0]), np.array([0.5, 0.5]), np.array([10.0, 30.0]))
    assert one.rewards(0.0).tolist() == [2.0, 4.0]
    assert one.rewards(0.1).tolist() == [1.0, 1.0]
    assert one.reward(0.0) == (3.0, 1.0)
    assert math.isnan(outcome(1.0, 2.0, 3.0).reward(0.1)[1])


def test_reward_falls_from_the_price_of_the_step_that_earns_most() -> None:
    one = measured(*RISING)
    assert one.falls_from == pytest.approx(0.1)  # 1 / 10, where the other step asks for 2 / 40
    for price, falls in ((0.099, False), (0.101, True)):
        means = [each.reward(price)[0] for each in one.outcomes]
        assert (sorted(means, reverse=True) == means) is falls


def test_no_price_stops_noise_that_is_paid_for() -> None:
    assert measured((0.0, 1.0, 0.0), (1.0, 2.0, -1.0)).falls_from == math.inf
    # Nor one that a high price makes worth while.
    assert measured((0.0, 1.0, 0.0), (1.0, 0.5, -1.0)).falls_from == math.inf


def test_noise_that_earns_nothing_needs_no_price() -> None:
    assert measured((0.0, 1.0, 0.0), (1.0, 0.9, 5.0)).falls_from == 0.0


def test_the_honest_pay_little_below_a_tenth_of_the_damage() -> None:
    one = measured(*RISING, honest=(0.0,) * 97 + (2.0,) * 3)
    assert one.damage == 3.0
    assert one.honest_charge == 2.0
    assert one.cheap_below == pytest.approx(0.15)
    assert one.holds
    assert not measured(*RISING, honest=(0.0,) * 97 + (4.0,) * 3).holds
    assert measured(*RISING, honest=(0.0, -1.0)).cheap_below == math.inf
    assert measured((0.0, 1.0, 0.0), (1.0, 0.9, 5.0), honest=(1.0,)).cheap_below == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 100)), min_size=1, max_size=5),
    st.floats(1.001, 10),
)
def test_above_that_price_reward_falls(steps: list[tuple[float, float]], above: float) -> None:
    points = [(0.0, 1.0, 0.0)]
    for gain, charge in steps:
        alpha, loss, paid = points[-1]
        points.append((alpha + 1, loss + gain, paid + charge))
    one = measured(*points)
    means = [each.reward(one.falls_from * above)[0] for each in one.outcomes]
    assert all(more <= less + 1e-9 for less, more in pairwise(means))
