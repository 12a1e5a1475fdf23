"""Results on games among competitors, each as a prediction and a measurement of the same number.

What has a closed form must be met by the game as played within a percent; a bound must not be
passed by the best that was found. Here is what a row is, and those of mean estimation; the ones of
SGD are in `agent.studies.games.sgd_rows`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from candor.agent.studies.games.estimation import (
    Draws,
    Floats,
    MeanGame,
    Mechanism,
    Outcome,
    Profile,
    best_caution,
    best_responses,
    bounded_equilibrium,
    draw,
    expected_errors,
    expected_rewards,
    honest_price,
    joint_deviation_gain,
    noise_gain,
    noisy_return_error,
    payments,
    play,
    rewards,
)
from candor.agent.studies.games.sgd import break_even_price

BATCHES: Final = 50
"""Standard errors are those of the mean of so many batches with draws of their own."""
TOLERANCE: Final = 0.01
SIGMAS: Final = 4.0
"""What chance may add to the tolerance, in standard errors: 1 row in 30,000 would fail by it (in
the normal limit), were the prediction off by all of the tolerance."""

_DIM: Final = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One number, predicted and measured.

    `relation`: what the measurement must be to the prediction. `error` is relative to `scale`,
    the prediction itself where that is not 0. `tolerance`: the `error` that is let pass.
    """

    source: str
    what: str
    prediction: float
    measured: float
    standard_error: float = 0.0
    relation: Literal["=", "<="] = "="
    scale: float = 0.0
    tolerance: float = TOLERANCE

    @property
    def error(self) -> float:
        """|measured - predicted| / scale."""
        return abs(self.measured - self.prediction) / (self.scale or abs(self.prediction))

    @property
    def holds(self) -> bool:
        """Whether the row is as predicted, chance taken into account."""
        chance = SIGMAS * self.standard_error
        if self.relation == "<=":
            return self.measured <= self.prediction + chance
        allowed = self.tolerance * (self.scale or abs(self.prediction))
        return abs(self.measured - self.prediction) <= allowed + chance


def mean_and_error(values: Floats) -> tuple[Floats, Floats]:
    """Mean over the first axis, the batches, and its standard error."""
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return np.asarray(values.mean(axis=0)), np.asarray(error)


NOISE: Final = 2.0
NOISE_MAX: Final = 1.5
PLAIN: Final = MeanGame(players=5, variance=0.5)
NOISY: Final = replace(PLAIN, mechanism=Mechanism.NOISY_RETURNS, price=0.1)
HONEST: Final = Profile.honest(PLAIN)
ONE_LIAR: Final = HONEST.deviating(NOISE)
LIARS: Final = Profile(
    noise=np.array([0.0, 0.5, 1.0, 1.5, 2.0]),
    bias=np.outer([0.0, 0.3, -0.2, 0.4, 0.1], np.ones(_DIM)),
    caution=np.array([0.0, 0.25, 0.5, 0.75, 1.0]),
)


class _Sample:
    """Draws, and what came of the profiles that were played with them."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._played: dict[tuple[float, Profile], Outcome] = {}

    def play(self, game: MeanGame, profile: Profile) -> Outcome:
        key = game.return_noise, profile  # payments change nothing in what is sent and estimated
        if key not in self._played:
            self._played[key] = play(game, profile, self._draws)
        return self._played[key]


Measure = Callable[[_Sample], float]


@dataclass(frozen=True, slots=True)
class _Case:
    source: str
    what: str
    prediction: float
    measure: Measure
    scale: float = 0.0


def mean_rows(trials: int, rng: np.random.Generator) -> list[Row]:
    """The results on mean estimation, `trials` games for each profile."""
    cases = [*_unpaid_cases(), *_paid_cases(), *_noisy_return_cases()]
    values = []
    for _ in range(BATCHES):
        sample = _Sample(draw(PLAIN, -(-trials // BATCHES), _DIM, rng))
        values.append([case.measure(sample) for case in cases])
    means, errors = mean_and_error(np.array(values))
    return [
        Row(case.source, case.what, float(case.prediction), mean, error, scale=case.scale)
        for case, mean, error in zip(cases, means.tolist(), errors.tolist(), strict=True)
    ]


def _unpaid_cases() -> list[_Case]:
    errors, beta = expected_errors(PLAIN, LIARS), best_caution(PLAIN, LIARS)[0]
    before, last = (best_responses(PLAIN, 10)[k] for k in (4, 10))
    after = before.deviating(2 * before.noise[0])
    gain = expected_rewards(PLAIN, after)[0] - expected_rewards(PLAIN, before)[0]
    noise, alone = 2**10 * math.sqrt(PLAIN.variance), f"error by then (alone: {PLAIN.variance})"
    bounded = best_responses(PLAIN, 10, noise_max=NOISE_MAX)[-1]
    bounded_beta, bounded_error = bounded_equilibrium(PLAIN, NOISE_MAX)
    return [
        _Case("Thm 4.1", "error among liars, beta 0", errors[0], _error(PLAIN, LIARS, 0)),
        _Case("Thm 4.1", "error among liars, beta 1/2", errors[2], _error(PLAIN, LIARS, 2)),
        _Case("Lemma C.2", "best beta among liars", beta, _caution(PLAIN, LIARS)),
        _Case("Cor 4.2", "gain of best response 5", gain, _gain(PLAIN, before, after)),
        _Case("Cor 4.2", "noise of best response 10", noise, lambda _: float(last.noise[0])),
        _Case("Cor 4.2", alone, expected_errors(PLAIN, last)[0], _error(PLAIN, last)),
        _Case("Cor B.1", "beta, noise 1.5 at most", bounded_beta, _caution(PLAIN, bounded)),
        _Case("Cor B.1", "error, noise 1.5 at most", bounded_error, _error(PLAIN, bounded)),
        _Case("eq. (19)", "deviation of the honest", PLAIN.honest_variance, _honest_deviation),
    ]


def _paid_cases() -> list[_Case]:
    penalty, shared = (
        replace(PLAIN, mechanism=mechanism, price=honest_price(mechanism, PLAIN.players))
        for mechanism in (Mechanism.PENALTY, Mechanism.REDISTRIBUTED)
    )
    dues, stops = penalty.price * PLAIN.honest_variance, "price that stops noise"
    cases = [
        _Case("Thm D.1", stops, penalty.price, _price(penalty)),
        _Case("Thm D.1", "what the honest pay then", dues, _payment(penalty)),
        _Case("Thm B.2", stops, shared.price, _price(shared)),
        _Case("Thm B.2", "what the honest pay then", 0.0, _payment(shared), scale=dues),
    ]
    unpaid = (NOISE / PLAIN.players) ** 2
    for factor in (0.5, 1.0, 2.0):
        game = replace(shared, price=factor * shared.price)
        gain, what = noise_gain(game, NOISE), f"gain of noise {NOISE:g} at {factor:g} of it"
        cases.append(_Case("Thm B.2", what, gain, _gain(game, HONEST, ONE_LIAR), scale=unpaid))
    return cases


def _noisy_return_cases() -> list[_Case]:
    honest, error = Profile.honest(NOISY), noisy_return_error(NOISY)
    cases = [
        _Case("Thm 5.1", "best beta of the honest", NOISY.honest_caution, _caution(NOISY, honest)),
        _Case("Thm 5.1", "error of the honest", error, _error(NOISY, honest)),
    ]
    neutral = replace(NOISY, price=honest_price(Mechanism.NOISY_RETURNS, NOISY.players))
    slope = abs(noise_gain(NOISY, 1.0))
    for game in (NOISY, neutral):
        before = Profile.honest(game)
        gain = _gain(game, before, before.deviating(NOISE), unit=NOISE**2)
        what = f"gain per noise^2, price {game.price:.3g}"
        cases.append(_Case("Thm 5.1", what, noise_gain(game, 1.0), gain, scale=slope))
    for noise in (3.0, 4.0):
        gain = _gain(NOISY, honest, honest.deviating(noise, caution=1.0))
        expected, given_up = joint_deviation_gain(NOISY, noise), NOISY.variance - error
        what = f"gain of noise {noise:g} and beta 1"
        cases.append(_Case("beyond 5.1", what, expected, gain, scale=given_up))
    return cases


def _error(game: MeanGame, profile: Profile, player: int = 0) -> Measure:
    return lambda sample: float(sample.play(game, profile).errors[:, player].mean())


def _honest_deviation(sample: _Sample) -> float:
    return float(sample.play(PLAIN, HONEST).deviations.mean())


def _payment(game: MeanGame) -> Measure:
    """What player 0 pays where all are honest."""
    return lambda s: float(payments(game, s.play(game, HONEST).deviations)[:, 0].mean())


def _gain(game: MeanGame, before: Profile, after: Profile, unit: float = 1.0) -> Measure:
    """What player 0 gains by the change of profile, on the same draws, over `unit`."""

    def reward(profile: Profile, sample: _Sample) -> float:
        outcome = sample.play(game, profile)
        return float(rewards(game, outcome.errors, outcome.deviations)[:, 0].mean())

    return lambda sample: (reward(after, sample) - reward(before, sample)) / unit


def _price(game: MeanGame) -> Measure:
    """The break-even price of one liar: what it gains unpaid, over what it pays at price 1."""
    unpaid = _gain(replace(game, price=0.0), HONEST, ONE_LIAR)
    paid = _gain(replace(game, price=1.0), HONEST, ONE_LIAR)
    return lambda sample: break_even_price(unpaid(sample), unpaid(sample) - paid(sample))


def _caution(game: MeanGame, profile: Profile) -> Measure:
    """Player 0's best beta: the lowest point of the parabola through three of its errors."""
    noise = float(profile.noise[0])
    errors = [_error(game, profile.deviating(noise, beta)) for beta in (0.0, 0.5, 1.0)]

    def measure(sample: _Sample) -> float:
        low, middle, high = (error(sample) for error in errors)
        return 0.5 - 0.25 * (high - low) / (high - 2 * middle + low)

    return measure
