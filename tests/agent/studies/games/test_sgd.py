"""Games of SGD: thresholds against an exact recursion and the game as played, bounds, prices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.agent.studies.games.estimation import Mechanism, honest_price
from candor.agent.studies.games.sgd import (
    Constants,
    Objective,
    SgdOutcome,
    break_even_price,
    contraction,
    decaying_response_bound,
    decaying_steps,
    quadratic_thresholds,
    rate_bound,
    response_bounds,
    suggest_price,
    train,
)
from candor.agent.studies.games.sgd_rows import sgd_rows

Floats = NDArray[np.float64]
RIPPLED = Objective(convexity=0.5, ripple=0.5, shake=0.3, radius=3.0)
START = np.array([1.0, -1.0])

curvatures = st.floats(0.01, 10)
step_lists = st.lists(st.floats(1e-3, 0.15), min_size=1, max_size=12)


def lie(
    objective: Objective, steps: Floats, players: int, t: int, noise: float, trials: int = 1000
) -> SgdOutcome:
    schedule = np.zeros((len(steps), players))
    schedule[t - 1, 0] = noise
    return train(objective, steps, schedule, START, trials, np.random.default_rng(7))


# --- thresholds ---------------------------------------------------------------------------------


def test_figures() -> None:
    thresholds = quadratic_thresholds(10, decaying_steps(0.5, 8, 20), 0.5)
    figures = [float(f"{1e3 * thresholds[t - 1]:.3g}") for t in (20, 15, 5)]
    assert figures == [0.255, 0.0707, 0.00144]
    assert 1e3 * thresholds[19] == pytest.approx(0.2551, abs=5e-5)


@given(st.integers(3, 12), step_lists, curvatures, st.floats(0.1, 100), st.data())
def test_noise_in_a_step_pays_below_its_threshold_and_not_above(
    players: int, steps: list[float], curvature: float, noise: float, data: st.DataObject
) -> None:
    """The second moment of the model, exactly: E||theta'||^2 = (1 - gamma m)^2 E||theta||^2
    + gamma^2 (s^2 / N + a^2 / N^2)."""
    t = data.draw(st.integers(1, len(steps)))
    losses = []
    for amount in (0.0, noise):
        moment = 1.0
        for s, gamma in enumerate(steps, start=1):
            added = 0.3 / players + (amount**2 if s == t else 0.0) / players**2
            moment = (1 - gamma * curvature) ** 2 * moment + gamma**2 * added
        losses.append(curvature / 2 * moment)
    charge = noise**2 * (((players - 1) / players) ** 2 - 1 / players**2)
    threshold = float(quadratic_thresholds(players, steps, curvature)[t - 1])
    gain = losses[1] - losses[0]
    assert gain == pytest.approx(threshold * charge, rel=1e-6, abs=1e-12 * losses[1])


@pytest.mark.parametrize("t", [1, 4, 6])
def test_played_with_payments_noise_pays_below_the_threshold_and_not_above(t: int) -> None:
    objective, steps = Objective(convexity=0.7), np.array([0.8, 0.5, 0.4, 0.3, 0.3, 0.2])
    threshold = quadratic_thresholds(4, steps, 0.7)[t - 1]
    honest, lied = (lie(objective, steps, 4, t, noise) for noise in (0.0, 1000.0))
    gains = [(lied.rewards(k * threshold) - honest.rewards(k * threshold))[0] for k in (0.97, 1.03)]
    assert gains[0] > 0 > gains[1]


def test_one_step_of_sgd_is_the_game_of_mean_estimation() -> None:
    # f = ||theta - mu||^2 / 2 and a step of 1 give the average of what was sent, at half the stake.
    for players in (3, 5, 10):
        threshold = float(quadratic_thresholds(players, [1.0], 1.0)[0])
        assert 2 * threshold == pytest.approx(honest_price(Mechanism.REDISTRIBUTED, players))


# --- bounds -------------------------------------------------------------------------------------


def test_bounds_are_the_formulas_of_the_theorems() -> None:
    constants = Constants(convexity=0.5, smoothness=1.0, lipschitz=2.0, noise_lipschitz=0.3)
    c = 1 + 0.3**2 * (1.0 + 0.09) - 2 * 0.3 * 0.5
    powers = c ** ((20 - np.arange(1, 21)) / 2)
    steps = np.full(20, 0.3)
    assert contraction(constants, 0.3) == pytest.approx(c)
    assert response_bounds(constants, 5, steps) == pytest.approx(2.0 * 0.3 * powers / 3)
    unshared = response_bounds(constants, 5, steps, redistributed=False)
    assert unshared == pytest.approx(2.0 * 0.3 * 5 * powers / 16)
    general = response_bounds(constants, 5, steps, utility_lipschitz=1.5)
    assert general == pytest.approx(1.5 * 5 * response_bounds(constants, 5, steps))
    decaying = decaying_response_bound(constants, 5, 12, 20)
    assert decaying == pytest.approx(8 * 2.0 / (3 * 0.5 * math.sqrt(32)))
    general_decaying = decaying_response_bound(constants, 5, 12, 20, utility_lipschitz=1.5)
    assert general_decaying == pytest.approx(7.5 * decaying)
    assert rate_bound(constants, 5, 100, 1.0, 0.5) == pytest.approx(8 * 1.25 / (3 * 0.25 * 500))


@given(st.floats(1, 3), st.floats(0, 1), st.integers(1, 60))
def test_the_bound_of_decaying_steps_is_above_that_of_their_products(
    smoothness: float, noise_lipschitz: float, rounds: int
) -> None:
    constants = Constants(1.0, smoothness, 1.0, noise_lipschitz)
    offset = math.ceil(32 * (smoothness**2 + noise_lipschitz**2) / 13)
    products = response_bounds(constants, 4, decaying_steps(1.0, offset, rounds))
    assert products.max() <= decaying_response_bound(constants, 4, offset, rounds)


@pytest.mark.parametrize("t", [5, 15, 20])
@pytest.mark.parametrize("noise", [1.0, 30.0, 1000.0])
def test_noise_changes_the_loss_by_no_more_than_inequality_27(t: int, noise: float) -> None:
    steps, players = np.full(20, 0.3), 5
    honest, lied = (lie(RIPPLED, steps, players, t, amount) for amount in (0.0, noise))
    change = abs(lied.losses[-1] - honest.losses[-1])
    constants = RIPPLED.constants(2)
    kept = math.sqrt(float(contraction(constants, 0.3)) ** (20 - t))
    assert 0 < change <= constants.lipschitz * 0.3 * kept * noise / players


def test_losses_fall_with_players_and_steps_as_lemma_e6_says() -> None:
    rows = {row.what: row for row in sgd_rows(400, np.random.default_rng(3))}
    assert [row for row in rows.values() if not row.holds] == []
    assert rows["slope of log loss by log NT"].measured == pytest.approx(-1, abs=0.15)
    assert all(row.measured > 0 for row in rows.values() if row.what.startswith("best noise"))


# --- prices -------------------------------------------------------------------------------------


def test_a_suggested_price_stops_noise_that_paid_without_it() -> None:
    players, steps = 5, decaying_steps(0.5, 12, 20)
    suggestion = suggest_price(players, steps, RIPPLED.constants(2))
    assert suggestion.price == 2 * suggestion.thresholds.max()
    for t in (10, 19, 20):
        honest = lie(RIPPLED, steps, players, t, 0.0)
        for noise in (3.0, 30.0):
            lied = lie(RIPPLED, steps, players, t, noise)
            gained = [
                float((lied.rewards(price) - honest.rewards(price))[0])
                for price in (0.0, suggestion.price)
            ]
            assert gained[0] > 0 > gained[1]


def test_a_suggestion_covers_all_curvatures_between_its_constants() -> None:
    steps = decaying_steps(0.5, 12, 20)
    suggestion = suggest_price(5, steps, Constants(0.1, 2.0), margin=1.0)
    for curvature in np.linspace(0.1, 2.0, 39):
        assert (quadratic_thresholds(5, steps, curvature) <= 1.01 * suggestion.thresholds).all()
    assert suggestion.bound == math.inf
    doubled = suggest_price(5, steps, Constants(0.1, 2.0), margin=1.0, weight=2.0)
    assert doubled.price == pytest.approx(2 * suggestion.price)


def test_the_bound_of_a_suggestion_leaves_no_more_noise_than_asked_for() -> None:
    constants, steps = RIPPLED.constants(2), np.full(20, 0.3)
    suggestion = suggest_price(5, steps, constants, noise_max=0.1)
    left = response_bounds(constants, 5, steps) / suggestion.bound
    assert left.max() == pytest.approx(0.1)
    assert suggestion.bound > suggestion.price


@pytest.mark.parametrize(
    ("gain", "charge", "price"),
    [(2.0, 4.0, 0.5), (0.0, 1.0, 0.0), (-1.0, -1.0, 0.0), (1.0, 0.0, math.inf), (1, -1, math.inf)],
)
def test_the_break_even_price(gain: float, charge: float, price: float) -> None:
    assert break_even_price(gain, charge) == price


# --- misuse, and the objective ------------------------------------------------------------------


def test_two_players_and_steps_that_are_none_are_refused() -> None:
    constants = Constants(1.0, 1.0)
    for players, steps in ((2, [0.1]), (3, []), (3, [0.1, 0.0]), (3, [[0.1]]), (3, [math.nan])):
        with pytest.raises(ValueError, match=r"takes three|step sizes"):
            quadratic_thresholds(players, steps, 1.0)
        with pytest.raises(ValueError, match=r"takes three|step sizes"):
            response_bounds(constants, players, steps)
        with pytest.raises(ValueError, match=r"takes three|step sizes"):
            suggest_price(players, steps, constants)


def test_constants_that_no_objective_has_are_refused() -> None:
    for wrong in ((0.0, 1.0), (2.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=r"convexity|Lipschitz"):
            Constants(*wrong)


def test_decaying_steps_that_grow_distances_at_first_have_no_bound() -> None:
    # 6.1 asks for 4 / (eta m + m) <= 1 / B alone, which eta = 15 satisfies for B / m = 4.
    constants = Constants(1.0, 4.0, 1.0)
    assert 4 / (15 + 1) <= 1 / 4
    with pytest.raises(ValueError, match="offset"):
        decaying_response_bound(constants, 5, 15, 100)
    assert decaying_response_bound(constants, 5, 40, 100) > 0


@given(st.integers(0, 2**32))
def test_the_objective_has_the_constants_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = RIPPLED.inside(rng.normal(0, 2, (2, 2)))
    constants, apart = RIPPLED.constants(2), float(np.linalg.norm(one - other))
    slope = RIPPLED.gradient(one) - RIPPLED.gradient(other)
    along = float(slope @ (one - other))
    assert np.linalg.norm(slope) <= constants.smoothness * apart * (1 + 1e-9)
    assert along >= constants.convexity * apart**2 * (1 - 1e-9)
    losses = RIPPLED.loss(one), RIPPLED.loss(other)
    assert abs(losses[0] - losses[1]) <= constants.lipschitz * apart * (1 + 1e-9)
    step = 1e-6 * np.array([1.0, 0.0])
    slope_there = (RIPPLED.loss(one + step) - RIPPLED.loss(one - step)) / 2e-6
    assert slope_there == pytest.approx(RIPPLED.gradient(one)[0], abs=1e-6)


def test_players_take_their_own_last_noise_back_out() -> None:
    objective, steps = Objective(convexity=1.0, spread=0.0), np.array([0.5])
    lied = lie(objective, steps, 4, 1, 10.0)
    assert lied.final_losses[0] == pytest.approx(float(objective.loss(0.5 * START)))
    assert (lied.final_losses[1:] > lied.final_losses[0]).all()
    assert lied.final_losses[1] == pytest.approx(lied.losses[-1])
