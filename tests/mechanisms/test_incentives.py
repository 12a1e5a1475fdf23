"""Prices at which no deviation pays, and the intervals that say how sure that is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanisms.incentives import (
    Deviation,
    PriceWindow,
    competitive,
    interval,
    price_window,
)

NUMBERS = st.floats(-10, 10).filter(lambda x: x == 0 or abs(x) > 1e-6)


def deviation(gain: float, charge: float, name: str = "lie") -> Deviation:
    return Deviation(name, np.array([gain]), np.array([charge]))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5), st.floats(0, 1), st.floats(0, 100))
def test_a_price_is_in_the_window_where_no_net_gain_is_above_epsilon(lies, epsilon, price):
    lies = [deviation(gain, charge) for gain, charge in lies]
    window = price_window(lies, epsilon)
    worst = max((float(lie.net(price).mean()) for lie in lies), default=-math.inf)
    if window.low * (1 + 1e-9) < price < window.high * (1 - 1e-9):
        assert worst <= epsilon + 1e-9
    elif (not window.empty and price < window.low * (1 - 1e-9)) or price > window.high * (1 + 1e-9):
        assert worst > epsilon - 1e-9


@pytest.mark.parametrize(
    ("gain", "charge", "expected"),
    [
        (0.3, 10.0, (0.02, math.inf)),  # a fine that outweighs the gain above epsilon
        (-0.3, 10.0, (0.0, math.inf)),
        (-0.3, -10.0, (0.0, 0.04)),  # it is paid for: not too much
        (0.3, -10.0, None),
        (0.3, 0.0, None),
        (0.05, 0.0, (0.0, math.inf)),
        (-math.inf, math.inf, (0.0, math.inf)),  # it ruined its own model
    ],
)
def test_the_window_of_one_deviation(gain, charge, expected):
    window = price_window([deviation(gain, charge)], epsilon=0.1)
    assert window.empty == (expected is None)
    if expected:
        assert (window.low, window.high) == pytest.approx(expected)


def test_the_ends_are_named_and_a_price_is_suggested_inside():
    lies = [
        deviation(1.0, 10.0, "scale:2"),
        deviation(3.0, 10.0, "scale:4"),
        deviation(-1.0, -2.0, "zero"),
    ]
    window = price_window(lies, epsilon=0.0)
    assert window == PriceWindow(0.3, 0.5, "scale:4", "zero")
    assert window.suggested() == pytest.approx(math.sqrt(0.15))
    assert price_window(lies[:2], 0.0).suggested() == pytest.approx(0.6)
    assert price_window([], 0.0).suggested() == 0.0
    assert price_window([deviation(1.0, 0.0)], 0.0).suggested() is None


def test_an_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    found = [interval(row) for row in draws]
    share = np.mean([one.low <= 3.0 <= one.high for one in found])
    assert share == pytest.approx(0.95, abs=0.02)
    assert all(one.low <= one.mean <= one.high for one in found)


def test_one_sample_or_a_diverged_one_says_nothing():
    assert interval([1.0]).low == -math.inf
    assert interval([1.0, math.inf, 2.0]).high == math.inf


def test_rewards_weigh_the_others_losses():
    losses = np.array([[1.0, 2.0, 6.0], [0.5, 1.5, 2.5]])
    np.testing.assert_allclose(competitive(losses, 0, 1.0), [3.0, 1.5])
    np.testing.assert_allclose(competitive(losses, 2, 0.0), [-6.0, -2.5])
