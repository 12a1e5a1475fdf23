"""SGD among competitors: how far a best response can go, and from which price on none goes at all.

The game of mean estimation (`agent.studies.games.estimation`) in T steps: N players send gradients
with noise a_t xi_t of mean squared norm a_t^2, the average moves the model by step gamma_t, and a
player wants the others' last models to be bad. For how far its message is from the average it pays
C_t per squared distance, shared among the others. Three kinds of statement:

- upper bounds on best responses (Thm E.4, E.5, 6.1), which hold for all objectives within
  `Constants`, and may be far from what is reached;
- the exact threshold of quadratic objectives, derived here: below it noise pays without end, above
  it none does;
- prices suggested from them. A suggestion is where a search starts, and proves nothing by itself.

Source: Dorner et al. 2023, section 6 and appendix E. Messages are gradients, so that prices are in
the unit of Candor's: credits per squared distance between reported gradients.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from candor.agent.studies.games.estimation import Floats, mean_of_others, squares

_CURVATURES: Final = 129
"""Curvatures tried for the worst one; neighbours of 1:1e-4 are 7 % apart, the maximum is flat."""
_CURVATURE_RATIO: Final = 1e-4
"""The least curvature tried over the largest; a lower one is forgotten later, and harms less."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What is assumed of an objective f and its gradients.

    `convexity` m > 0: f is m-strongly convex. `smoothness` B >= m: its gradient is B-Lipschitz.
    `lipschitz` L: f is L-Lipschitz where it is trained; infinite if not known. `noise_lipschitz`
    B': the error of every player's gradient, as a function of the model, is B'-Lipschitz.

    Raises:
        ValueError: constants that no objective has.
    """

    convexity: float
    smoothness: float
    lipschitz: float = math.inf
    noise_lipschitz: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.convexity <= self.smoothness:
            raise ValueError("an objective has 0 < convexity <= smoothness")
        if not (self.lipschitz > 0 and self.noise_lipschitz >= 0):
            raise ValueError("Lipschitz constants are positive")


# --- bounds -------------------------------------------------------------------------------------


def contraction(constants: Constants, step: ArrayLike) -> Floats:
    """c = 1 + gamma^2 (B^2 + B'^2) - 2 gamma m: what a step does to a squared distance, at most.

    Below 1 for steps below 2 m / (B^2 + B'^2).
    """
    gamma = np.asarray(step, dtype=np.float64)
    slopes = constants.smoothness**2 + constants.noise_lipschitz**2
    return np.asarray(1 + gamma**2 * slopes - 2 * gamma * constants.convexity)


def response_bounds(
    constants: Constants,
    players: int,
    steps: ArrayLike,
    *,
    redistributed: bool = True,
    utility_lipschitz: float | None = None,
) -> Floats:
    """The most noise that can pay in step t, times the price C_t of that step: (T,).

    L gamma c^((T - t) / 2) / (N - 2) (Thm E.5), or, where penalties are not redistributed, with
    N / (N - 1)^2 for 1 / (N - 2) (Thm E.4, whose statement lacks the gamma of its proof). Steps may
    differ: powers of c become products. For a reward that is any function of all final losses, of
    this Lipschitz constant L_U in the 1-norm, that times L_U N (Thm 6.1). Whatever others do.

    Raises:
        ValueError: fewer than three players.
    """
    gammas = _steps(steps)
    kept = np.append(np.cumprod(contraction(constants, gammas)[:0:-1])[::-1], 1.0)
    share = _share(players, redistributed) * _utility(players, utility_lipschitz)
    return np.asarray(constants.lipschitz * gammas * np.sqrt(kept) * share)


def decaying_steps(convexity: float, offset: float, rounds: int) -> Floats:
    """gamma_t = 4 / (m (eta + t)) for t = 1 to T: (T,)."""
    return 4 / (convexity * (offset + np.arange(1, rounds + 1)))


def decaying_response_bound(
    constants: Constants,
    players: int,
    offset: float,
    rounds: int,
    *,
    utility_lipschitz: float | None = None,
) -> float:
    """The most noise that can pay in any of `decaying_steps`, times its price.

    8 L / ((N - 2) m sqrt(T + eta)) (Thm E.9), times L_U N for general rewards (Thm 6.1).

    Raises:
        ValueError: fewer than three players, or an offset eta below 32 (B^2 + B'^2) / (13 m^2) or
            1: the proof needs it (34), the statement of Thm 6.1 does not say so.
    """
    slopes = constants.smoothness**2 + constants.noise_lipschitz**2
    if offset < max(1.0, 32 * slopes / (13 * constants.convexity**2)):
        raise ValueError("the offset is too small for steps to contract from the first on")
    share = _share(players, redistributed=True) * _utility(players, utility_lipschitz)
    return 8 * constants.lipschitz / (constants.convexity * math.sqrt(rounds + offset)) * share


def rate_bound(
    constants: Constants, players: int, rounds: int, gradient_variance: float, noise: float
) -> float:
    """8 B (M + eps^2) / (3 m^2 N T): the leading term of E f(theta_T) - f* (Lemma E.6), with
    `decaying_steps`, M the variance of a player's gradient and eps the most noise of any player."""
    spread = gradient_variance + noise**2
    return 8 * constants.smoothness * spread / (3 * constants.convexity**2 * players * rounds)


def _share(players: int, redistributed: bool) -> float:
    """1 / N of harm over what a unit of squared noise is charged, per price."""
    if players < 3:
        raise ValueError("two players are equally far from their average: a game takes three")
    return 1 / (players - 2) if redistributed else players / (players - 1) ** 2


def _utility(players: int, utility_lipschitz: float | None) -> float:
    return 1.0 if utility_lipschitz is None else utility_lipschitz * players


def _steps(steps: ArrayLike) -> Floats:
    gammas = np.asarray(steps, dtype=np.float64)
    if gammas.ndim != 1 or not len(gammas) or not (gammas > 0).all():
        raise ValueError("step sizes are a list of numbers above 0")
    return gammas


# --- prices -------------------------------------------------------------------------------------


def quadratic_thresholds(players: int, steps: ArrayLike, curvature: ArrayLike) -> Floats:
    """The price of step t below which noise in it pays, for f = m ||theta||^2 / 2.

    C_t = (m / 2) gamma_t^2 prod_{s > t} (1 - gamma_s m)^2 / (N (N - 2)): exact, for noise of any
    size and along any direction of curvature m. `curvature` may be an array: its shape + (T,).

    Raises:
        ValueError: fewer than three players, or steps that are not positive.
    """
    gammas = _steps(steps)
    curvatures = np.asarray(curvature, dtype=np.float64)[..., np.newaxis]
    factors = (1 - gammas * curvatures) ** 2
    shifted = np.concatenate([factors[..., 1:], np.ones_like(factors[..., :1])], axis=-1)
    kept = np.cumprod(shifted[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(curvatures / 2 * gammas**2 * kept * _share(players, True) / players)


def break_even_price(gain: float, charge: float) -> float:
    """The price above which a lie that was measured does not pay.

    `gain`: what it wins in reward without payments, over honesty; `charge`: what it pays at price
    1, more than honesty does. 0 if it wins nothing; infinite if it is charged nothing.
    """
    if gain <= 0:
        return 0.0
    return gain / charge if charge > 0 else math.inf


@dataclass(frozen=True, slots=True)
class PriceSuggestion:
    """`price`: where to start, in credits per squared distance of reported gradients.

    `thresholds` (T,): below which price noise in step t pays, at the worst curvature. `bound`: the
    price from which Thm E.5 lets no best response have more noise than was asked, for all
    objectives of these constants; infinite without a Lipschitz constant.
    """

    price: float
    thresholds: Floats
    bound: float


def suggest_price(
    players: int,
    steps: ArrayLike,
    constants: Constants,
    *,
    noise_max: float = 1.0,
    weight: float = 1.0,
    margin: float = 2.0,
) -> PriceSuggestion:
    """A first price for `peer-prediction`: `margin` times what a quadratic objective would take.

    `players`: N, those whose messages are averaged; in a gossip graph a neighbourhood with its
    referee. `steps` (T,): gamma_t. `weight`: what a unit of the others' mean loss is worth in
    credits. `noise_max`: for `bound`, the noise that may be left.

    Assumed: all mix alike, others are honest, the lie is noise, and around the model that is found
    the objective is a quadratic of curvatures between the constants. None of it is exactly so in a
    real run: what is reported through neighbours of neighbours comes on top, other lies have other
    prices, and a rule that charges something else than squared distances takes
    `break_even_price` of a measured lie instead.

    Raises:
        ValueError: fewer than three players, or steps that are not positive.
    """
    least = max(constants.convexity, _CURVATURE_RATIO * constants.smoothness)
    curvatures = np.geomspace(least, constants.smoothness, _CURVATURES)
    thresholds = weight * quadratic_thresholds(players, steps, curvatures).max(axis=0)
    bound = weight * float(response_bounds(constants, players, steps).max()) / noise_max
    return PriceSuggestion(margin * float(thresholds.max()), thresholds, bound)


# --- the game, played ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Objective:
    """f = m/2 ||theta||^2 + k sum log cosh theta_i on a ball around its minimum 0, where f is 0.

    `convexity` m, `ripple` k >= 0, `radius` of the ball, infinite for none. A player's gradient has
    the error s z + B' S theta: normal noise of mean squared norm s^2 (`spread`), and random signs S
    that stand in for samples of different curvature (`shake` B').
    """

    convexity: float
    ripple: float = 0.0
    spread: float = 1.0
    shake: float = 0.0
    radius: float = math.inf

    def constants(self, dim: int) -> Constants:
        """The constants of the objective, L from the ball's edge."""
        slope = self.convexity * self.radius + self.ripple * min(self.radius, math.sqrt(dim))
        return Constants(self.convexity, self.convexity + self.ripple, slope, self.shake)

    def loss(self, models: Floats) -> Floats:
        """f of models (..., d): (...)."""
        ripples = np.logaddexp(models, -models) - math.log(2)
        return np.asarray(self.convexity / 2 * squares(models) + self.ripple * ripples.sum(axis=-1))

    def gradient(self, models: Floats) -> Floats:
        """Its gradient, (..., d)."""
        return np.asarray(self.convexity * models + self.ripple * np.tanh(models))

    def inside(self, models: Floats) -> Floats:
        """Models projected into the ball, (..., d)."""
        norms = np.linalg.norm(models, axis=-1, keepdims=True)
        return np.asarray(models * np.minimum(1.0, self.radius / np.maximum(norms, 1e-300)))


@dataclass(frozen=True, slots=True)
class SgdOutcome:
    """Means over the trials.

    `losses` (T + 1,) of the common model before each step and after the last, `final_losses` (N,)
    of the players' own, which take their last noise back out, `deviations` (T, N) squared distances
    of messages from their average.
    """

    losses: Floats
    final_losses: Floats
    deviations: Floats

    def charges(self, *, redistributed: bool = True) -> Floats:
        """What each player pays per unit of a step's price: (T, N)."""
        if not redistributed:
            return self.deviations
        return self.deviations - mean_of_others(self.deviations)

    def rewards(
        self, price: ArrayLike = 0.0, *, own_weight: float = 0.0, redistributed: bool = True
    ) -> Floats:
        """Mean of the others' final losses - own_weight own - payments: (N,); `price` (T,) or one.

        With `own_weight` it is Lipschitz in the losses, in the 1-norm with constant
        max(1 / (N - 1), own_weight).
        """
        losses, others = self.final_losses, mean_of_others(self.final_losses)
        charges = self.charges(redistributed=redistributed)
        prices = np.broadcast_to(np.asarray(price, dtype=np.float64), charges.shape[:1])
        return np.asarray(others - own_weight * losses - prices @ charges)


def train(
    objective: Objective,
    steps: Floats,
    noise: Floats,
    start: Floats,
    trials: int,
    rng: np.random.Generator,
) -> SgdOutcome:
    """Train from `start` (d,) with noise (T, N) in the players' messages, `trials` times.

    Generators of equal seed give the same errors and directions of noise, so that two outcomes
    differ by what the players did.
    """
    shape, root = (trials, noise.shape[1], len(start)), math.sqrt(len(start))
    models, own = np.tile(start, (trials, 1)), np.empty(0)
    losses, deviations = [objective.loss(models).mean()], []
    for step, noises in zip(steps, noise, strict=True):
        errors = objective.spread / root * rng.standard_normal(shape)
        errors += objective.shake * rng.choice([-1.0, 1.0], shape) * models[:, np.newaxis]
        lies = noises[:, np.newaxis] / root * rng.standard_normal(shape)
        messages = objective.gradient(models)[:, np.newaxis] + errors + lies  # (trials, N, d)
        average = messages.mean(axis=1, keepdims=True)
        deviations.append(squares(messages - average).mean(axis=0))
        own = objective.inside(models[:, np.newaxis] - step * (average - lies / len(noises)))
        models = objective.inside(models - step * average[:, 0])
        losses.append(objective.loss(models).mean())
    return SgdOutcome(np.array(losses), objective.loss(own).mean(axis=0), np.array(deviations))
