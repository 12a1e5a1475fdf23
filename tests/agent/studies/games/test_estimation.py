"""Games of mean estimation: every closed form against the game as played, and their laws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.agent.studies.games.estimation import (
    MeanGame,
    Mechanism,
    Profile,
    best_caution,
    best_responses,
    bounded_equilibrium,
    draw,
    expected_deviations,
    expected_errors,
    expected_rewards,
    harm,
    honest_price,
    joint_deviation_gain,
    noise_gain,
    noisy_return_error,
    payments,
    play,
    rewards,
)
from candor.agent.studies.games.estimation_rows import Row, mean_and_error, mean_rows

Floats = NDArray[np.float64]
FIVE = MeanGame(players=5, variance=0.5)
NOISY = replace(FIVE, mechanism=Mechanism.NOISY_RETURNS, price=0.1)

each_mechanism = pytest.mark.parametrize("mechanism", Mechanism)


def some_profile(players: int, seed: int) -> Profile:
    rng = np.random.default_rng(seed)
    noise, caution = rng.uniform(0, 2, players), rng.uniform(0, 1, players)
    return Profile(noise, rng.normal(0, 0.5, (players, 3)), caution)


@st.composite
def games(draw_: st.DrawFn, mechanism: Mechanism | None = None) -> MeanGame:
    return MeanGame(
        draw_(st.integers(3, 12)),
        draw_(st.floats(0.01, 100)),
        draw_(st.floats(0.2, 5)),
        mechanism or draw_(st.sampled_from(Mechanism)),
        draw_(st.floats(0, 2)),
    )


profile_seeds = st.integers(0, 2**32)
noises = st.floats(0.01, 50)


# --- closed forms and the game as played --------------------------------------------------------


def near(samples: Floats, expected: Floats) -> None:
    """Means over the first axis are what is expected, within 4.5 standard errors and rounding.

    A hundred such numbers or so are compared, with seeds that are fixed.
    """
    error = samples.std(axis=0) / math.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - expected) <= 4.5 * error + 1e-12).all()
    assert (error < 0.02 * np.abs(expected).max()).all()  # else this says nothing


@each_mechanism
def test_errors_deviations_and_rewards_among_liars_are_as_expected(mechanism: Mechanism) -> None:
    game = MeanGame(4, 0.7, 1.5, mechanism, 0.3)
    profile = some_profile(4, seed=1)
    outcome = play(game, profile, draw(game, 100_000, 3, np.random.default_rng(2)))
    near(outcome.errors, expected_errors(game, profile))
    near(outcome.deviations, expected_deviations(game, profile))
    near(rewards(game, outcome.errors, outcome.deviations), expected_rewards(game, profile))


@each_mechanism
def test_one_liar_gains_what_is_predicted(mechanism: Mechanism) -> None:
    game = replace(FIVE, mechanism=mechanism, price=0.1)
    honest, draws = Profile.honest(game, 4), draw(FIVE, 200_000, 4, np.random.default_rng(3))

    def reward(profile: Profile) -> Floats:
        outcome = play(game, profile, draws)
        return rewards(game, outcome.errors, outcome.deviations)[:, 0]

    near(reward(honest.deviating(2.0)) - reward(honest), np.array(noise_gain(game, 2.0)))


@pytest.mark.parametrize("noise", [3.0, 4.0])
def test_the_joint_deviation_gains_what_is_predicted(noise: float) -> None:
    honest, draws = Profile.honest(NOISY), draw(NOISY, 200_000, 16, np.random.default_rng(4))
    before, after = (
        play(NOISY, profile, draws) for profile in (honest, honest.deviating(noise, caution=1.0))
    )
    gained = rewards(NOISY, after.errors, after.deviations)
    gained -= rewards(NOISY, before.errors, before.deviations)
    near(gained[:, 0], np.array(joint_deviation_gain(NOISY, noise)))


def test_a_random_amount_of_noise_counts_by_its_mean_square() -> None:
    draws = draw(FIVE, 100_000, 2, np.random.default_rng(5))
    mixed, constant = (
        Profile(np.full(5, a), np.zeros((5, 1)), np.full(5, 0.3)) for a in (2.0, math.sqrt(2.0))
    )
    half = replace(
        draws, noise=draws.noise * np.random.default_rng(6).choice([0, 1], (100_000, 5, 1))
    )
    near(play(FIVE, mixed, half).errors, expected_errors(FIVE, constant))


# --- figures that were checked before -----------------------------------------------------------


def test_figures() -> None:
    assert bounded_equilibrium(FIVE, 1.5)[1] == pytest.approx(0.28947, abs=5e-6)
    assert FIVE.honest_variance == 0.4
    shared = replace(FIVE, mechanism=Mechanism.REDISTRIBUTED)
    price = honest_price(Mechanism.REDISTRIBUTED, 5)
    gains = [noise_gain(replace(shared, price=k * price), 2.0) for k in (0.5, 1.0, 2.0)]
    assert gains == pytest.approx([0.080, 0.0, -0.160], abs=1e-12)
    assert noise_gain(NOISY, 1.0) == pytest.approx(-0.0165, abs=5e-5)
    assert joint_deviation_gain(NOISY, 3.0) == pytest.approx(-0.036, abs=5e-4)
    assert joint_deviation_gain(NOISY, 4.0) == pytest.approx(+0.218, abs=5e-4)


def test_equation_8_as_printed_is_not_the_best_caution() -> None:
    lying = replace(Profile.honest(FIVE), noise=np.full(5, 1.5))
    beta, _ = bounded_equilibrium(FIVE, 1.5)
    assert best_caution(FIVE, lying) == pytest.approx(np.full(5, beta))
    printed = 1.5**2 / (0.5 * (5 + 1.5**2))
    at_printed = replace(lying, caution=np.full(5, printed))
    at_best = replace(lying, caution=np.full(5, beta))
    assert (expected_errors(FIVE, at_printed) > 1.05 * expected_errors(FIVE, at_best)).all()


# --- laws ---------------------------------------------------------------------------------------


@given(games(), profile_seeds, st.floats(0, 1))
def test_no_caution_has_a_lower_error_than_the_best(
    game: MeanGame, seed: int, other: float
) -> None:
    profile = some_profile(game.players, seed)
    best = best_caution(game, profile)
    assert ((best >= 0) & (best < 1)).all()
    reached = expected_errors(game, replace(profile, caution=best))
    elsewhere = expected_errors(game, replace(profile, caution=np.full(game.players, other)))
    assert (reached <= elsewhere * (1 + 1e-12)).all()


@given(games(), profile_seeds)
def test_without_payments_best_caution_is_lemma_c2(game: MeanGame, seed: int) -> None:
    profile, plain = some_profile(game.players, seed), replace(game, mechanism=Mechanism.NONE)
    h = harm(profile)
    expected = h / (game.variance * (game.players - 1) / game.players + h)
    assert best_caution(plain, profile) == pytest.approx(expected)


@given(games(Mechanism.REDISTRIBUTED), profile_seeds)
def test_redistributed_payments_sum_to_zero_in_every_game(game: MeanGame, seed: int) -> None:
    profile = some_profile(game.players, seed)
    outcome = play(game, profile, draw(game, 20, 3, np.random.default_rng(seed)))
    paid = payments(game, outcome.deviations)
    assert np.abs(paid.sum(axis=1)).max() <= 1e-9 * (1 + np.abs(paid).max())


@given(games(), noises)
def test_noise_gains_are_differences_of_expected_rewards(game: MeanGame, noise: float) -> None:
    honest = Profile.honest(game)
    after, before = (expected_rewards(game, p) for p in (honest.deviating(noise), honest))
    stakes = np.abs(after).max() + np.abs(before).max()
    assert after[0] - before[0] == pytest.approx(noise_gain(game, noise), abs=1e-12 * stakes)


@given(games(Mechanism.NOISY_RETURNS), noises)
def test_the_joint_deviation_is_a_difference_of_expected_rewards(
    game: MeanGame, noise: float
) -> None:
    honest = Profile.honest(game)
    after = expected_rewards(game, honest.deviating(noise, caution=1.0))
    before = expected_rewards(game, honest)
    stakes = np.abs(after).max() + np.abs(before).max()
    assert after[0] - before[0] == pytest.approx(
        joint_deviation_gain(game, noise), abs=1e-12 * stakes
    )


@each_mechanism
@given(players=st.integers(2, 20), own_weight=st.floats(0, 3))
def test_noise_pays_below_the_honest_price_and_not_above(
    mechanism: Mechanism, players: int, own_weight: float
) -> None:
    price = honest_price(mechanism, players, own_weight)
    game = MeanGame(players, 0.5, own_weight, mechanism)
    if math.isinf(price):
        assert all(noise_gain(replace(game, price=p), 1.0) > 0 for p in (0.0, 1.0, 1e3))
    else:
        assert noise_gain(replace(game, price=0.99 * price), 1.0) > 0
        assert noise_gain(replace(game, price=1.01 * price), 1.0) < 0


def test_two_players_cannot_be_told_apart_by_their_distance() -> None:
    assert honest_price(Mechanism.REDISTRIBUTED, 2) == math.inf
    outcome = play(
        MeanGame(2, 1.0),
        Profile.honest(MeanGame(2, 1.0)).deviating(3.0),
        draw(MeanGame(2, 1.0), 100, 2, np.random.default_rng(0)),
    )
    assert outcome.deviations[:, 0] == pytest.approx(outcome.deviations[:, 1])


# --- equilibria ---------------------------------------------------------------------------------


def test_without_payments_best_responses_double_for_ever_and_nobody_trusts_the_average() -> None:
    rounds = best_responses(FIVE, 12)
    noise = [profile.noise for profile in rounds[1:]]
    assert np.array(noise) == pytest.approx(
        np.outer(2.0 ** np.arange(1, 13), np.full(5, math.sqrt(0.5)))
    )
    assert (rounds[-1].caution > 0.999).all()
    assert expected_errors(FIVE, rounds[-1]) == pytest.approx(np.full(5, 0.5), rel=1e-3)


def test_bounded_best_responses_end_at_the_equilibrium_of_corollary_b1() -> None:
    last = best_responses(FIVE, 8, noise_max=1.5)[-1]
    beta, error = bounded_equilibrium(FIVE, 1.5)
    assert (last.noise == 1.5).all()
    assert last.caution == pytest.approx(np.full(5, beta))
    assert expected_errors(FIVE, last) == pytest.approx(np.full(5, error))


@pytest.mark.parametrize("mechanism", [Mechanism.PENALTY, Mechanism.REDISTRIBUTED])
def test_payments_keep_best_responses_honest_above_the_price_only(mechanism: Mechanism) -> None:
    price = honest_price(mechanism, 5)
    above, below = (
        best_responses(replace(FIVE, mechanism=mechanism, price=k * price), 5, reach=100.0)
        for k in (1.05, 0.95)
    )
    assert all((profile.noise == 0).all() for profile in above)
    assert any((profile.noise > 0).all() for profile in below)


def test_noisy_returns_are_left_by_whoever_lies_enough() -> None:
    breaks = math.sqrt(10)  # where `joint_deviation_gain` is 0
    assert (
        joint_deviation_gain(NOISY, 0.99 * breaks) < 0 < joint_deviation_gain(NOISY, 1.01 * breaks)
    )
    near_by, far = (best_responses(NOISY, 3, reach=reach) for reach in (2.0, 8.0))
    assert all((profile.noise == 0).all() for profile in near_by)
    assert (far[1].noise > breaks).all()
    shared = replace(FIVE, mechanism=Mechanism.REDISTRIBUTED, price=0.1)
    assert all((p.noise == 0).all() for p in best_responses(shared, 3, reach=1000.0))


@given(games(Mechanism.NOISY_RETURNS))
def test_the_error_of_the_honest_with_noisy_returns(game: MeanGame) -> None:
    honest = Profile.honest(game)
    assert best_caution(game, honest) == pytest.approx(honest.caution)
    assert expected_errors(game, honest) == pytest.approx(
        np.full(game.players, noisy_return_error(game))
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"players": 1},
        {"variance": 0.0},
        {"variance": math.nan},
        {"own_weight": -0.1},
        {"price": -0.1},
    ],
)
def test_games_that_are_none_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"two players|weight and price"):
        MeanGame(**({"players": 3, "variance": 1.0} | fields))  # type: ignore[arg-type]


def test_no_price_for_fewer_than_two() -> None:
    with pytest.raises(ValueError, match="two players"):
        honest_price(Mechanism.PENALTY, 1)


# --- rows ---------------------------------------------------------------------------------------


def test_a_standard_error_is_of_one_degree_of_freedom_less_than_batches() -> None:
    mean, error = mean_and_error(np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]))
    assert mean.tolist() == [3.0, 0.0]  # squares of 4 + 1 + 9, over 2, and over 3 batches
    assert error == pytest.approx([math.sqrt(14 / 2 / 3), 0.0])


def test_rows_hold_with_few_trials_too_and_differ_by_seed() -> None:
    first, second = (mean_rows(20_000, np.random.default_rng(seed)) for seed in (1, 2))
    assert [row for row in (*first, *second) if not row.holds] == []
    assert first[0].prediction == second[0].prediction
    assert first[0].measured != second[0].measured
    assert {row.source for row in first} == {
        "Thm 4.1", "Lemma C.2", "Cor 4.2", "Cor B.1", "eq. (19)", "Thm D.1", "Thm B.2", "Thm 5.1",
        "beyond 5.1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (Row("", "", 2.0, 2.019), True),
        (Row("", "", 2.0, 2.021), False),
        (Row("", "", -2.0, -1.979), False),
        (Row("", "", 2.0, 2.039, standard_error=0.005), True),
        (Row("", "", 2.0, 2.041, standard_error=0.005), False),
        (Row("", "", 0.0, 0.9, scale=100.0), True),
        (Row("", "", 0.0, 1.1, scale=100.0), False),
        (Row("", "", 2.0, 2.1, tolerance=0.1), True),
        (Row("", "", 2.0, 0.0, relation="<="), True),
        (Row("", "", 2.0, 2.01, relation="<="), False),
    ],
)
def test_a_row_holds_within_its_tolerance_and_chance(row: Row, holds: bool) -> None:
    assert row.holds is holds
