"""How soon a lie is found where rounds are done again, and the bond at which none pays."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.learning.rows import UNTRUE
from candor.agent.runs.replay import REPORT_TOLERANCE
from candor.agent.studies.audit.bonds import (
    false_shares,
    found_by,
    least_bond,
    windows_until_found,
)
from candor.agent.studies.audit.incentives import MARGIN, Deviation


def test_a_last_window_of_fewer_rounds_has_its_own_share():
    untrue = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 0], np.bool_)
    assert false_shares(untrue, 4).tolist() == [0.25, 0.5, 0.5]
    assert false_shares(untrue, 16).tolist() == [0.4]


def test_what_is_false_is_what_a_round_done_again_calls_false():
    assert UNTRUE == REPORT_TOLERANCE


@given(st.lists(st.booleans(), min_size=1, max_size=24), st.floats(0.1, 1.0))
def test_chances_are_those_of_drawn_picks(lies, rate):
    """Against the sum over all outcomes of the coins, one window after the other."""
    untrue, window = np.array(lies), 4
    shares = false_shares(untrue, window)
    alive, chance, lived = 1.0, 0.0, 0.0
    first = next((k for k, share in enumerate(shares) if share), 0)
    for k in range(len(shares)):
        rounds = lies[k * window : (k + 1) * window]
        caught = alive * rate * sum(rounds) / len(rounds)
        chance, lived, alive = chance + caught, lived + caught * (k + 1 - first), alive - caught
        assert found_by(shares, rate)[k + 1] == pytest.approx(chance)
    if chance:
        assert windows_until_found(shares, rate) == pytest.approx(lived / chance)
    else:
        assert math.isnan(windows_until_found(shares, rate))


def test_the_least_bond_is_that_of_proposition_6_where_windows_are_alike():
    """A lie of n of 16 rounds that gains g in one window asks for g 16 / (q n)."""
    for n, rate in ((1, 1.0), (4, 0.5)):
        one = lie([0.3], [found_by(np.array([n / 16]), rate)[-1]])
        bond = least_bond(one, np.zeros(1), 0.0)
        assert bond == pytest.approx(0.3 * 16 / (rate * n))
        assert float(one.net(np.array([0.0, bond]))[0]) == pytest.approx(0.0)


def lie(gains: list[float], found: list[float], charge: float = 0.0) -> Deviation:
    charges = np.column_stack([np.full(len(gains), charge), found])
    return Deviation("lie", np.array(gains), charges)


def test_a_bond_covers_intervals_and_counts_what_prices_take():
    gains, one = [0.1, 0.2, 0.3, 0.2, 0.2], np.zeros(1)
    sure = lie(gains, [0.5] * 5)
    bond = least_bond(sure, one, 0.01)
    assert bond > (0.2 - MARGIN * 0.01) / 0.5
    assert sure.net_interval(np.array([0.0, bond])).high == pytest.approx(0.01)
    few = lie(gains[:4], [0.5] * 4)
    assert least_bond(few, one, 0.01) == pytest.approx((0.2 - MARGIN * 0.01) / 0.5)
    charged = lie(gains, [0.5] * 5, charge=0.1)
    assert least_bond(charged, np.array([1.0]), 0.01) == pytest.approx(bond - 0.1 / 0.5)
    assert least_bond(charged, np.array([10.0]), 0.01) == 0.0


def test_what_is_never_found_has_no_bond_and_what_gains_nothing_needs_none():
    assert least_bond(lie([0.5] * 5, [0.0] * 5), np.zeros(1), 0.01) == math.inf
    assert least_bond(lie([0.0] * 5, [0.0] * 5), np.zeros(1), 0.01) == 0.0
    assert least_bond(lie([-math.inf] * 5, [1.0] * 5), np.zeros(1), 0.01) == 0.0
    # Found in one seed of five: its interval stays wide, its mean is met.
    rarely = lie([0.5] * 5, [0.5, 0.0, 0.0, 0.0, 0.0])
    bond = least_bond(rarely, np.zeros(1), 0.01)
    assert float(rarely.net(np.array([0.0, bond])).mean()) == pytest.approx(MARGIN * 0.01)
