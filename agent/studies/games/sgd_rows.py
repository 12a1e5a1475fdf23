"""Results on SGD among competitors as rows: predictions against the game as played."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from candor.agent.studies.games.estimation import Floats
from candor.agent.studies.games.estimation_rows import Row, mean_and_error
from candor.agent.studies.games.sgd import (
    Objective,
    SgdOutcome,
    break_even_price,
    decaying_response_bound,
    decaying_steps,
    quadratic_thresholds,
    rate_bound,
    response_bounds,
    train,
)

ROUNDS: Final = 20
NOISE: Final = 1000.0
"""Of the lie whose price is looked for. Any size has the same one; a large one stands out."""
START: Final = np.array([1.0, -1.0])
QUADRATIC: Final = Objective(convexity=0.5)
RIPPLED: Final = Objective(convexity=0.5, ripple=0.5, shake=0.3, radius=3.0)
"""Not quadratic, gradient errors that grow with the model, and a ball that the bounds need."""


def sgd_rows(trials: int, rng: np.random.Generator) -> list[Row]:
    """The results on SGD, from `trials` runs, 2 at least, of each course that is looked at."""
    return [*_threshold_rows(trials, rng), *_bound_rows(trials // 2, rng), *_rate_rows(trials, rng)]


def _lie(
    objective: Objective, steps: Floats, players: int, t: int, noise: float, trials: int, seed: int
) -> SgdOutcome:
    """Train with `noise` of player 0 in step t, which counts from 1, and honest otherwise."""
    schedule = np.zeros((len(steps), players))
    schedule[t - 1, 0] = noise
    return train(objective, steps, schedule, START, trials, np.random.default_rng(seed))


# --- the threshold of quadratic objectives ------------------------------------------------------


def _threshold_rows(trials: int, rng: np.random.Generator) -> list[Row]:
    """The price at which a lie breaks even, against C_t."""
    players, steps = 10, decaying_steps(QUADRATIC.convexity, 8, ROUNDS)
    predicted = quadratic_thresholds(players, steps, QUADRATIC.convexity)
    rows = []
    for t in (20, 15, 5):
        measured = []
        for seed in rng.integers(2**63, size=3).tolist():
            honest, lied = (
                _lie(QUADRATIC, steps, players, t, noise, trials, seed) for noise in (0.0, NOISE)
            )
            gain = float((lied.rewards() - honest.rewards())[0])
            charge = float((lied.charges() - honest.charges())[:, 0].sum())
            measured.append(break_even_price(gain, charge))
        mean, error = mean_and_error(np.array(measured))
        what = f"price that stops noise, step {t}"
        rows.append(Row("quadratic", what, float(predicted[t - 1]), float(mean), float(error)))
    return rows


# --- bounds on best responses -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bound:
    """A best response in step t to be bounded; `limit`: the bound, times the price."""

    source: str
    what: str
    steps: Floats
    t: int
    limit: float
    redistributed: bool = True
    own_weight: float = 0.0


def _bounds(players: int) -> list[_Bound]:
    constants, own_weight = RIPPLED.constants(len(START)), 2.0
    constant, decaying = np.full(ROUNDS, 0.3), decaying_steps(RIPPLED.convexity, 12, ROUNDS)
    penalty = response_bounds(constants, players, constant, redistributed=False)
    shared = response_bounds(constants, players, constant)
    slower = decaying_response_bound(constants, players, 12, ROUNDS)
    general = decaying_response_bound(
        constants, players, 12, ROUNDS, utility_lipschitz=max(1 / (players - 1), own_weight)
    )
    return [
        _Bound("Thm E.4", "step 20, penalty", constant, 20, penalty[-1], False),
        _Bound("Thm E.5", "step 20", constant, 20, shared[-1]),
        _Bound("Thm E.5", "step 15", constant, 15, shared[-6]),
        _Bound("Thm E.9", "decaying steps", decaying, 20, slower),
        _Bound("Thm 6.1", "own loss twice", decaying, 20, general, own_weight=own_weight),
    ]


def _bound_rows(trials: int, rng: np.random.Generator) -> list[Row]:
    players = 5
    return [
        _bound_row(bound, players, trials, int(rng.integers(2**63))) for bound in _bounds(players)
    ]


def _bound_row(bound: _Bound, players: int, trials: int, seed: int) -> Row:
    """The best of 25 amounts of noise, at 3/10 of the price that stops noise without end, so that
    something is worth its price at all."""
    stops = quadratic_thresholds(players, bound.steps, RIPPLED.convexity)[bound.t - 1]
    price = 0.3 * float(stops)

    def reward(noise: float) -> float:
        outcome = _lie(RIPPLED, bound.steps, players, bound.t, noise, trials, seed)
        return float(
            outcome.rewards(price, own_weight=bound.own_weight, redistributed=bound.redistributed)[
                0
            ]
        )

    limit = float(bound.limit) / price
    best = max((0.0, *(np.geomspace(3e-4, 1.25, 24) * limit).tolist()), key=reward)
    return Row(bound.source, f"best noise, {bound.what}", limit, best, relation="<=")


# --- the rate -----------------------------------------------------------------------------------


def _rate_rows(trials: int, rng: np.random.Generator) -> list[Row]:
    """Excess loss over N and T with lies that are bounded: its bound, and its slope over N T."""
    noise, offset, start = 0.5, 12, np.array([1.0, -1.0, 1.0, -1.0])
    constants, steps = RIPPLED.constants(len(start)), decaying_steps(RIPPLED.convexity, offset, 800)
    runs = [(players, t) for players in (4, 8, 16) for t in (200, 400, 800)]
    slopes, ratios = [], []
    for _ in range(4):
        losses = {
            players: train(
                RIPPLED, steps, np.full((len(steps), players), noise), start, _part(trials), rng
            ).losses
            for players in (4, 8, 16)
        }
        reached = [losses[players][t] for players, t in runs]
        bounds = [rate_bound(constants, n, t, RIPPLED.spread**2, noise) for n, t in runs]
        sizes = np.log([players * t for players, t in runs])
        slopes.append(np.polyfit(sizes, np.log(reached), 1)[0])
        ratios.append(float(np.divide(reached, bounds).max()))
    slope, slope_error = mean_and_error(np.array(slopes))
    ratio, ratio_error = mean_and_error(np.array(ratios))
    return [
        Row("Lemma E.6", "slope of log loss by log NT", -1.0, float(slope), float(slope_error),
            tolerance=0.1),
        Row("Lemma E.6", "loss over its bound", 1.0, float(ratio),
            float(ratio_error), relation="<="),
    ]  # fmt: skip


def _part(trials: int) -> int:
    """Trials of a long run, forty times as long as the others."""
    return max(10, trials // 20)
