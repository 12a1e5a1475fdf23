"""Prices at which no deviation pays, and the intervals that say how sure that is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.studies.audit.incentives import (
    LEVEL,
    MARGIN,
    SEEDS_MIN,
    Deviation,
    Interval,
    PriceWindow,
    competitive,
    covering_factor,
    interval,
    price_window,
    stopping_prices,
    suggested_prices,
)

NUMBERS = st.floats(-10, 10).filter(lambda x: x == 0 or abs(x) > 1e-6)
ONE = np.ones(1)


def deviation(gain: float, *charges: float, name: str = "lie") -> Deviation:
    return Deviation(name, np.array([gain]), np.array([charges]))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5), st.floats(0, 1), st.floats(0, 100))
def test_a_factor_is_in_the_window_where_no_net_gain_is_above_epsilon(lies, epsilon, factor):
    lies = [deviation(gain, charge) for gain, charge in lies]
    window = price_window(lies, ONE, epsilon)
    worst = max((float(lie.net(factor * ONE).mean()) for lie in lies), default=-math.inf)
    if window.low * (1 + 1e-9) < factor < window.high * (1 - 1e-9):
        assert worst <= epsilon + 1e-9
    elif not window.empty and (
        factor < window.low * (1 - 1e-9) or factor > window.high * (1 + 1e-9)
    ):
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
    window = price_window([deviation(gain, charge)], ONE, epsilon=0.1)
    assert window.empty == (expected is None)
    if expected:
        assert (window.low, window.high) == pytest.approx(expected)


def test_the_ends_of_a_window_are_named_and_prices_scale_it():
    lies = [
        deviation(1.0, 10.0, name="scale:2"),
        deviation(3.0, 10.0, name="scale:4"),
        deviation(-1.0, -2.0, name="zero"),
    ]
    assert price_window(lies, ONE, 0.0) == PriceWindow(0.3, 0.5, "scale:4", "zero")
    halved = price_window(lies, ONE / 2, 0.0)
    assert (halved.low, halved.high) == (0.6, 1.0)
    assert price_window([], ONE, 0.0) == PriceWindow(0.0, math.inf, "", "")


def test_prices_are_set_on_the_term_that_costs_honest_agents_least():
    """Both terms stop the lie; under the first, honest agents pay ten times as much."""
    lies = [deviation(1.0, 10.0, 5.0)]
    honest = np.array([[10.0, 0.5], [-10.0, -0.5]])
    prices = suggested_prices(lies, honest, epsilon=0.1)
    assert prices == pytest.approx([0.0, (1 - MARGIN * 0.1) / 5])


def test_a_lie_is_let_go_that_is_dearer_to_stop_than_to_bear():
    """The first term stops the first lie for nothing; the second lie costs an honest agent ten
    times what it gains."""
    lies = [deviation(1.0, 1.0, 0.0), deviation(1.0, 0.0, 1.0)]
    honest = np.array([[0.0, 10.0], [0.0, -10.0]])
    stopping = stopping_prices(lies, honest, epsilon=0.1)
    assert stopping == pytest.approx([1.0 - MARGIN * 0.1] * 2)
    suggested = suggested_prices(lies, honest, epsilon=0.1)
    assert suggested == pytest.approx([1.0 - MARGIN * 0.1, 0.0])
    assert suggested_prices(lies, 0.01 * honest, epsilon=0.1) == pytest.approx(stopping)


def test_terms_share_the_work_where_none_stops_all_lies():
    lies = [deviation(1.0, 10.0, -1.0), deviation(2.0, 0.0, 4.0), deviation(-math.inf, 0.0, 0.0)]
    honest = np.array([[1.0, 1.0], [-1.0, -1.0]])
    prices = stopping_prices(lies, honest, epsilon=0.0)
    assert [float(lie.net(prices)[0]) for lie in lies[:2]] == pytest.approx([0.0, 0.0])


def test_where_no_prices_stop_all_lies_what_they_gain_together_is_least():
    lies = [deviation(1.0, 2.0), deviation(0.0, -1.0)]  # the second is paid when the first pays
    assert stopping_prices(lies, np.array([[0.0]]), epsilon=0.1) is None
    free = suggested_prices(lies, np.array([[0.0]]), epsilon=0.1)
    assert free == pytest.approx([(1 - MARGIN * 0.1) / 2])
    dear = suggested_prices(lies, np.array([[3.0]]), epsilon=0.1)
    assert dear == pytest.approx([0.0])


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e6])
def test_prices_do_not_depend_on_the_unit_of_the_loss(unit):
    lies = [deviation(0.07 * unit, 3.0 * unit)]
    honest = np.array([[0.01 * unit], [-0.01 * unit]])
    prices = suggested_prices(lies, honest, 0.01 * unit)
    assert prices == pytest.approx([(0.07 - MARGIN * 0.01) / 3.0])


@pytest.mark.parametrize("times", [1e-2, 1.0, 1e4, 1e8])
def test_a_lie_that_is_charged_far_more_than_the_others_changes_nothing(times):
    """The first term costs honest agents six times what the second does."""
    lies = [
        deviation(0.1895, 64.92, 13.02),
        deviation(0.4028, 3.061e6 * times, 3.24e6 * times),
        deviation(-1e8, 1e10 * times, 1e10 * times),
    ]
    honest = np.array([[8.4, 0.26], [-8.4, -0.26]])
    prices = stopping_prices(lies, honest, epsilon=0.0012)
    assert prices == pytest.approx([0.0, (0.1895 - MARGIN * 0.0012) / 13.02])
    assert suggested_prices(lies, honest, epsilon=0.004) == pytest.approx(prices, rel=0.02)


@given(
    st.lists(st.tuples(*[st.floats(-1, 1)], *[st.floats(-6, 8)] * 2), min_size=1, max_size=4),
    st.lists(st.tuples(*[st.floats(0.01, 1)] * 2), min_size=1, max_size=3),
)
def test_no_other_prices_stop_all_lies_for_less(lies, honest):
    """All charges are above 0; corners of the programme by hand."""
    lies = [deviation(gain, 10.0**one, 10.0**two) for gain, one, two in lies]
    honest_paid = np.array(honest)
    found = stopping_prices(lies, honest_paid, epsilon=0.1)
    assert found is not None
    wanted = np.array([lie.gains[0] - MARGIN * 0.1 for lie in lies])
    charges = np.array([lie.charges[0] for lie in lies])
    assert (charges @ found >= wanted - 1e-6 * np.abs(wanted) - 1e-12).all()
    least = min(
        float((honest_paid @ corner).max()) for corner in _corners(charges, wanted, honest_paid)
    )
    assert float((honest_paid @ found).max()) <= least * 1.001 + 1e-12


def _corners(charges, wanted, honest_paid):
    """Two prices at which two limits hold, among those that keep all of them."""
    lines = [*zip(charges, wanted, strict=True), (np.array([1.0, 0.0]), 0.0)]
    lines.append((np.array([0.0, 1.0]), 0.0))
    lines += [(one - other, 0.0) for one in honest_paid for other in honest_paid]
    for one, limit in lines:
        for other, bound in lines:
            matrix = np.array([one, other])
            if abs(np.linalg.det(matrix)) <= 1e-12 * np.abs(matrix).max() ** 2:
                continue
            corner = np.linalg.solve(matrix, [limit, bound])
            kept = charges @ corner >= wanted - 1e-9 * np.abs(wanted) - 1e-15
            if kept.all() and (corner >= -1e-15).all():
                yield np.maximum(corner, 0.0)


def test_a_term_that_does_not_help_has_no_price():
    """The first term charges a saboteur, who has lost already, and no honest agent."""
    lies = [deviation(1.0, 0.0, 10.0), deviation(-7.0, 1e4, 0.0)]
    prices = stopping_prices(lies, np.array([[0.0, 2.0]]), epsilon=0.1)
    assert prices == pytest.approx([0.0, (1 - MARGIN * 0.1) / 10])


def test_lies_that_gain_nothing_need_no_price():
    prices = suggested_prices([deviation(-1.0, 1.0)], np.array([[1.0], [-1.0]]), epsilon=0.1)
    assert prices == pytest.approx([0.0])


def test_an_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    found = [interval(row) for row in draws]
    share = np.mean([one.low <= 3.0 <= one.high for one in found])
    assert share == pytest.approx(0.95, abs=0.02)
    assert all(one.low <= one.mean <= one.high for one in found)


def test_an_interval_is_students_with_one_degree_of_freedom_less_than_seeds():
    """By the table: 97.5 % of Student's t are below 2.776 with 4 degrees of freedom, and below
    2.262 with 9."""
    for seeds, quantile in ((5, 2.776445), (10, 2.262157)):
        samples = np.arange(seeds, dtype=np.float64)
        reach = quantile * math.sqrt(samples.var() * seeds / (seeds - 1) / seeds)
        found = interval(samples)
        assert found.high - found.mean == pytest.approx(reach, rel=1e-6)
        assert found.mean - found.low == pytest.approx(reach, rel=1e-6)


def test_one_sample_or_a_diverged_one_says_nothing():
    for few in range(1, SEEDS_MIN):
        assert interval([1.0] * few).low == -math.inf
    assert interval([1.0] * SEEDS_MIN) == Interval(1.0, 1.0, 1.0)
    assert interval([1.0, math.inf, 2.0]).high == math.inf


def outcomes(rng: np.random.Generator, seeds: int, spread: float) -> tuple[list, np.ndarray]:
    """Lies with random true gains and charges of two terms, and what some seeds show of them."""
    gains, charges = rng.uniform(-2, 15, 6), rng.uniform(-1, 10, (6, 2))

    def seen(true: np.ndarray) -> np.ndarray:
        return true + spread * (1 + abs(true)) * rng.standard_normal((seeds, *true.shape))

    lies = [
        Deviation(str(i), seen(gain), seen(charge))
        for i, (gain, charge) in enumerate(zip(gains, charges, strict=True))
    ]
    return lies, np.column_stack([gains, charges])


def cleared(lies: list[Deviation], prices: np.ndarray) -> bool:
    return all(lie.net_interval(prices).high <= 1.0 for lie in lies)


@pytest.mark.parametrize("seeds", [5, 8])
@pytest.mark.parametrize("spread", [0.03, 0.3])
def test_a_lie_that_pays_is_cleared_less_often_than_the_level_says(seeds, spread):
    """At prices that the same seeds have set, as at given ones, at which one lie just pays."""
    rng = np.random.default_rng(seeds)
    honest, audits, found, wrong = np.array([[0.1, 0.1]]), 300, [0, 0], [0, 0]
    for _ in range(audits):
        lies, true = outcomes(rng, seeds, spread)
        prices = suggested_prices(lies, honest, epsilon=1.0)
        set_here = prices * covering_factor(lies, prices, epsilon=1.0)
        given = np.full(2, max(0.0, (true[0, 0] - 1.01) / true[0, 1:].sum()))
        for case, at in enumerate((set_here, given)):
            pays = (true[:, 0] - true[:, 1:] @ at).max() > 1.0
            found[case] += cleared(lies, at)
            wrong[case] += cleared(lies, at) and pays
    assert max(wrong) / audits < LEVEL, wrong
    assert found[0] > audits / 10 or spread > 0.1  # it can be said, too


def test_fewer_seeds_than_it_takes_clear_nothing_however_alike_they_are():
    for seeds in range(1, SEEDS_MIN):
        assert 0.5**seeds > LEVEL
        lie = Deviation("lie", np.full(seeds, -1e9), np.zeros((seeds, 1)))
        assert not cleared([lie], ONE)
        assert lie.net_interval(ONE).low == -math.inf
    assert 0.5**SEEDS_MIN <= LEVEL


def test_who_is_ruined_on_some_seeds_only_is_not_cleared():
    gains = np.array([-np.inf, 3.0, 3.0, 3.0, 3.0])
    assert not cleared([Deviation("gamble", gains, np.zeros((5, 1)))], ONE)
    assert cleared([Deviation("ruin", np.full(5, -np.inf), np.full((5, 1), np.inf))], ONE)


def test_rewards_weigh_the_others_losses():
    losses = np.array([[1.0, 2.0, 6.0], [0.5, 1.5, 2.5]])
    np.testing.assert_allclose(competitive(losses, 0, 1.0), [3.0, 1.5])
    np.testing.assert_allclose(competitive(losses, 2, 0.0), [-6.0, -2.5])
