"""Payments and rewards of federated SGD among competitors, by hand and as laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanisms.aggression import Measured, Outcomes, charges


def outcome(alpha: float, loss: float, charge: float) -> Outcomes:
    return Outcomes(alpha, np.array([loss]), np.array([0.5]), np.array([charge]))


def measured(*points: tuple[float, float, float], honest: tuple[float, ...] = (0.0,)) -> Measured:
    return Measured(tuple(outcome(*point) for point in points), np.array([honest]))


# Three outcomes whose losses rise by 1 and by 2, and whose charges by 10 and by 40.
RISING = ((0.0, 1.0, 0.0), (1.0, 2.0, 10.0), (2.0, 4.0, 50.0))


def test_charges_are_those_of_a_computation_by_hand() -> None:
    chosen = np.array([[0, 1, 2], [3, 1, 0]])
    squared = np.array([[4.0, 2.0, 0.0], [1.0, 3.0, 5.0]])
    # Step 1: 4 - 2/2, 2 - 4/2, 0 - 6/2; step 2: 1 - 8/2 (player 3), 3 - 6/2, 5 - 4/2.
    assert charges(5, chosen, squared).tolist() == [3.0 + 3.0, 0.0 + 0.0, -3.0, -3.0, 0.0]


@st.composite
def steps(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    players, k = draw(st.integers(4, 9)), draw(st.integers(2, 4))
    rows = draw(st.lists(st.permutations(range(players)), min_size=1, max_size=6))
    chosen = np.array([row[:k] for row in rows])
    squares = st.lists(st.floats(0, 1e6), min_size=k, max_size=k)
    return players, chosen, np.array([draw(squares) for _ in rows])


@given(steps())
def test_what_some_pay_others_receive(played: tuple[int, np.ndarray, np.ndarray]) -> None:
    players, chosen, squared = played
    paid = charges(players, chosen, squared)
    assert paid.sum() == pytest.approx(0.0, abs=1e-9 * (1 + squared.sum()))
    absent = sorted(set(range(players)) - set(chosen.ravel().tolist()))
    assert not paid[absent].any()


def test_who_is_as_far_as_the_others_pays_nothing() -> None:
    assert not charges(3, np.array([[2, 0, 1]]), np.full((1, 3), 7.0)).any()


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
