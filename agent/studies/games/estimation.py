"""Mean estimation among competitors, with and without payments: closed forms and the game itself.

N players hold each the mean x_i of samples of their own, at a mean squared distance nu from the
mean mu that all of them look for. Each sends m_i = x_i + a_i xi_i + b_i, gets back the average, and
estimates theta_i = (1 - beta_i) (average without its own lie) + beta_i x_i. It wants the others to
be wrong, and itself to be right: its reward is the mean of the others' squared errors, minus
lambda times its own, minus what it pays.

Source: Dorner, Konstantinov, Pashaliev, Vechev, "Incentivizing Honesty among Competitors in
Collaborative Learning", 2023; theorems are named by its numbers. Differences: equation (8) as
printed is a typo, and the theorem on noisy returns (5.1) holds for small lies only, see
`joint_deviation_gain`. Nothing here is specific to Candor's rounds or rules.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CANDIDATES = 33
"""Lies that a best response is chosen from, 0 and the largest among them. The reward is linear in
a^2 without noisy returns, so that the ends alone would do there."""


class Mechanism(StrEnum):
    """What happens to a player whose message is far from the average, at a price C.

    `PENALTY`: it pays C ||m_i - average||^2 (equation 9). `REDISTRIBUTED`: the others share that
    (equation 10). `NOISY_RETURNS`: its average comes back with noise of that variance (Thm 5.1).
    """

    NONE = "none"
    PENALTY = "penalty"
    REDISTRIBUTED = "redistributed"
    NOISY_RETURNS = "noisy-returns"


@dataclass(frozen=True, slots=True)
class MeanGame:
    """The players and what they are paid.

    `players`: N, 2 at least. `variance`: nu = E||x_i - mu||^2, above 0; sigma^2 / n + sigma_*^2 in
    the paper. `own_weight`: lambda, at least 0. `price`: C, at least 0.

    Raises:
        ValueError: one of them out of its range.
    """

    players: int
    variance: float
    own_weight: float = 1.0
    mechanism: Mechanism = Mechanism.NONE
    price: float = 0.0

    def __post_init__(self) -> None:
        if self.players < 2 or not self.variance > 0:
            raise ValueError("a game takes two players at least, and a variance above 0")
        if not (self.own_weight >= 0 and self.price >= 0):
            raise ValueError("weight and price are 0 at least")

    @property
    def honest_variance(self) -> float:
        """E||m_i - average||^2 among honest players: nu (N - 1) / N."""
        return self.variance * (self.players - 1) / self.players

    @property
    def return_noise(self) -> float:
        """C if averages come back noisy, else 0."""
        return self.price if self.mechanism is Mechanism.NOISY_RETURNS else 0.0

    @property
    def honest_caution(self) -> float:
        """The best beta where all are honest: C / (1 + C) with noisy returns (Thm 5.1), else 0."""
        return self.return_noise / (1 + self.return_noise)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What every player does: `noise` (N,) a_j >= 0, `bias` (N, d) b_j, `caution` (N,) beta_j.

    A random a_j, independent of everything, enters all closed forms as the root of E a_j^2.
    """

    noise: Floats
    bias: Floats
    caution: Floats

    @classmethod
    def honest(cls, game: MeanGame, dim: int = 1) -> Self:
        """Nobody lies, and everybody is as cautious as is best then."""
        caution = np.full(game.players, game.honest_caution)
        return cls(np.zeros(game.players), np.zeros((game.players, dim)), caution)

    def deviating(self, noise: float, caution: float | None = None, player: int = 0) -> Self:
        """With another `noise` of one player, and another `caution` where it is given."""
        noises, cautions = self.noise.copy(), self.caution.copy()
        noises[player] = noise
        cautions[player] = cautions[player] if caution is None else caution
        return replace(self, noise=noises, caution=cautions)


# --- what is expected ---------------------------------------------------------------------------


def harm(profile: Profile) -> Floats:
    """H_i (N,): what the others' lies add to the error of i's average (Thm 4.1)."""
    lies = profile.noise**2
    others_bias = profile.bias.sum(axis=0) - profile.bias  # (N, d)
    return np.asarray((lies.sum() - lies + squares(others_bias)) / len(lies) ** 2)


def expected_deviations(game: MeanGame, profile: Profile) -> Floats:
    """E||m_i - average||^2 (N,), the basis of all payments (the paper's equation 19).

    Honest players have nu (N - 1) / N.
    """
    n, lies = game.players, profile.noise**2
    bias = profile.bias - profile.bias.mean(axis=0)
    own = ((n - 1) / n) ** 2 * lies
    others = (lies.sum() - lies) / n**2
    return np.asarray(game.honest_variance + own + others + squares(bias))


def expected_errors(game: MeanGame, profile: Profile) -> Floats:
    """E||theta_i - mu||^2 (N,): Thm 4.1, with the noise of the returns where there is any."""
    trust, n = 1 - profile.caution, game.players
    added = _added(game, profile)
    return np.asarray(
        trust**2 * (game.variance / n + added)
        + profile.caution**2 * game.variance
        + 2 * trust * profile.caution * game.variance / n
    )


def best_caution(game: MeanGame, profile: Profile) -> Floats:
    """The beta_i (N,) of the least expected error, whatever beta the profile has: Lemma C.2.

    beta* = H / (nu (N - 1) / N + H); noisy returns add C E||m_i - average||^2 to H.
    """
    added = _added(game, profile)
    return np.asarray(added / (game.honest_variance + added))


def _added(game: MeanGame, profile: Profile) -> Floats:
    """What lies and returns add to the error of i's average."""
    return harm(profile) + game.return_noise * expected_deviations(game, profile)


def payments(game: MeanGame, deviations: Floats) -> Floats:
    """What each player pays for squared deviations (..., N); where redistributed, the sum is 0."""
    paid = game.price * deviations
    if game.mechanism is Mechanism.REDISTRIBUTED:
        return paid - mean_of_others(paid)
    return paid if game.mechanism is Mechanism.PENALTY else np.zeros_like(paid)


def rewards(game: MeanGame, errors: Floats, deviations: Floats) -> Floats:
    """Mean of the others' squared errors - lambda own - payments: (..., N), equation (2) and B.2.

    Linear, so that expected errors and deviations give the expected reward.
    """
    return mean_of_others(errors) - game.own_weight * errors - payments(game, deviations)


def mean_of_others(values: Floats) -> Floats:
    """Of each player of (..., N) the mean of the others' values: (..., N)."""
    return np.asarray((values.sum(axis=-1, keepdims=True) - values) / (values.shape[-1] - 1))


def expected_rewards(game: MeanGame, profile: Profile) -> Floats:
    """The expected reward of each player (N,)."""
    return rewards(game, expected_errors(game, profile), expected_deviations(game, profile))


# --- what pays ----------------------------------------------------------------------------------


def noise_gain(game: MeanGame, noise: float) -> float:
    """dR(a): what one player gains by noise a where all are honest, its beta left as it is.

    Per a^2 / N^2: 1 without payments; 1 - C (N - 1)^2 (Thm D.1); 1 - C ((N - 1)^2 - 1) with
    redistribution (Thm B.2); (1 + C - lambda C (N - 1)^2) / (1 + C)^2 with noisy returns (Thm 5.1).
    """
    charge = _noise_charge(game.mechanism, game.players, game.own_weight)
    slope = (1 - game.honest_caution) ** 2 * (1 - game.price * charge)
    return slope * noise**2 / game.players**2


def honest_price(mechanism: Mechanism, players: int, own_weight: float = 1.0) -> float:
    """The price above which `noise_gain` is negative; infinite where no price does it.

    1 / (N - 1)^2 (Thm D.1), 1 / ((N - 1)^2 - 1) (Thm B.2), 1 / (lambda (N - 1)^2 - 1) (Thm 5.1).
    With noisy returns that is not enough: see `joint_deviation_gain`.

    Raises:
        ValueError: fewer than two players.
    """
    if players < 2:
        raise ValueError("a game takes two players at least")
    charge = _noise_charge(mechanism, players, own_weight)
    return 1 / charge if charge > 0 else math.inf


def _noise_charge(mechanism: Mechanism, players: int, own_weight: float) -> float:
    """What a^2 / N^2 costs at price 1 whoever adds noise a."""
    others = (players - 1.0) ** 2
    return {
        Mechanism.NONE: 0.0,
        Mechanism.PENALTY: others,
        Mechanism.REDISTRIBUTED: others - 1,
        Mechanism.NOISY_RETURNS: own_weight * others - 1,
    }[mechanism]


def bounded_equilibrium(game: MeanGame, noise_max: float) -> tuple[float, float]:
    """(beta, expected error) where nobody pays and lies are at most A: all choose a = A.

    Cor C.4: beta = A^2 / (nu N + A^2), error = nu (nu + A^2) / (N nu + A^2). Equation (8), the same
    in Cor B.1, is printed as A^2 / (nu (N + A^2)).
    """
    nu, square = game.variance, noise_max**2
    beta = square / (nu * game.players + square)
    return beta, nu * (nu + square) / (game.players * nu + square)


def noisy_return_error(game: MeanGame) -> float:
    """The expected error of honest players with noisy returns: nu/N + nu (N-1)/N C/(1+C)."""
    return game.variance / game.players + game.honest_variance * game.honest_caution


def joint_deviation_gain(game: MeanGame, noise: float) -> float:
    """dR of noise a *and* beta = 1 against honest players with noisy returns.

    Who relies on its own mean alone does not feel the noise that it gets back:
    dR = a^2 (1 + C) (1 - beta_j)^2 / N^2 - lambda (nu - MSE*), which is above 0 for a large enough,
    at any price. The proof of Thm 5.1 varies a with beta held, so honesty is only a local optimum.
    """
    price, trust = game.return_noise, 1 - game.honest_caution
    harm_done = noise**2 * (1 + price) * trust**2 / game.players**2
    return harm_done - game.own_weight * (game.variance - noisy_return_error(game))


def best_responses(
    game: MeanGame, rounds: int, *, reach: float = 2.0, noise_max: float = math.inf
) -> list[Profile]:
    """Rounds of best responses from honesty: rounds + 1 profiles, of lies without bias.

    In each, every player answers what the others did the round before with the noise and caution
    of the highest expected reward, noise up to `reach` times the largest seen (at first, times the
    root of nu) and `noise_max`. Without payments it doubles each round for ever (Cor 4.2), or
    stops at the bound (Cor B.1); above the honest price it stays 0.
    """
    profiles = [Profile.honest(game)]
    for _ in range(rounds):
        last = profiles[-1]
        most = min(reach * (last.noise.max() or math.sqrt(game.variance)), noise_max)
        candidates = np.linspace(0.0, most, _CANDIDATES)
        noise, caution = last.noise.copy(), last.caution.copy()
        for player in range(game.players):
            answers = [
                _cautious(game, last.deviating(a, player=player), player) for a in candidates
            ]
            gains = [expected_rewards(game, answer)[player] for answer in answers]
            best = answers[int(np.argmax(gains))]
            noise[player], caution[player] = best.noise[player], best.caution[player]
        profiles.append(replace(last, noise=noise, caution=caution))
    return profiles


def _cautious(game: MeanGame, profile: Profile, player: int) -> Profile:
    caution = float(best_caution(game, profile)[player])
    return profile.deviating(float(profile.noise[player]), caution, player)


# --- the game, played ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance of many games: (trials, N, d) each, normal, of mean 0 and mean squared norm 1.

    The same draws for two profiles make a pair, whose difference is all due to the profiles.
    """

    residuals: Floats
    noise: Floats
    returns: Floats


def draw(game: MeanGame, trials: int, dim: int, rng: np.random.Generator) -> Draws:
    """Draw `trials` games of means of `dim` numbers."""
    shape = (trials, game.players, dim)
    residuals, noise, returns = (rng.standard_normal(shape) / math.sqrt(dim) for _ in range(3))
    return Draws(residuals, noise, returns)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of every trial: squared `errors` and `deviations`, (trials, N) each."""

    errors: Floats
    deviations: Floats


def play(game: MeanGame, profile: Profile, draws: Draws) -> Outcome:
    """Play every trial: messages, average, noisy returns, estimates. mu is 0."""
    own = math.sqrt(game.variance) * draws.residuals  # (trials, N, d)
    lies = profile.noise[:, np.newaxis] * draws.noise + profile.bias
    messages = own + lies
    average = messages.mean(axis=1, keepdims=True)
    deviations = squares(messages - average)
    returned = average
    if game.return_noise:
        size = np.sqrt(game.return_noise * deviations)
        returned = average + size[..., np.newaxis] * draws.returns
    caution = profile.caution[:, np.newaxis]
    estimates = (1 - caution) * (returned - lies / game.players) + caution * own
    return Outcome(squares(estimates), deviations)


def squares(vectors: Floats) -> Floats:
    """Squared norms of vectors (..., d): (...)."""
    return np.asarray(np.einsum("...d,...d->...", vectors, vectors))
