"""What docs/honesty.md states, held against games that are small enough to be played out.

`checks` makes the page's table; what is an inequality, or holds for all of something, is tested
beneath it. But for `least_squares`, losses are f_j = (x - u_j)' H_j (x - u_j) / 2 in the plane, all
agents share one model, which moves by -gamma / N times the sum of the reports, and agent 0 may lie.
"""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from candor.agent.studies.games.sgd import quadratic_thresholds
from candor.mechanisms.payments.band import lower_median
from candor.mechanisms.payments.rules import parse_rule
from candor.topologies.cluster.file import DEFAULT_RULE
from tests.docs.pages import DOCS, tables
from tests.mechanisms.payments.neighbourhoods import neighbourhood

Floats = NDArray[np.float64]
ROUNDS, STEP, AGENTS = 20, 0.5, 4


@dataclass(frozen=True)
class Game:
    """`curvatures` (N, 2, 2) and `minima` (N, 2) of the losses, the first model (2,)."""

    curvatures: Floats
    minima: Floats
    start: Floats
    rounds: int = ROUNDS

    def gradients(self, x: Floats) -> Floats:
        """Of each agent at one model: (N, 2)."""
        return np.asarray(np.einsum("nij,nj->ni", self.curvatures, x - self.minima))

    def losses(self, x: Floats) -> Floats:
        """Of each agent at one model: (N,)."""
        return np.asarray(((x - self.minima) * self.gradients(x)).sum(axis=-1) / 2)

    @property
    def others(self) -> Floats:
        """The curvature of all other losses together: (2, 2)."""
        return np.asarray(self.curvatures[1:].sum(axis=0))

    def reach(self) -> Floats:
        """Lambda_t, (T, 2, 2): reporting d more in round t moves the last model by -Lambda_t d."""
        kept = np.eye(2) - STEP / AGENTS * self.others
        powers = (np.linalg.matrix_power(kept, t) for t in reversed(range(self.rounds)))
        return STEP / AGENTS * np.array(list(powers))

    def play(self, reports: Floats | None = None) -> tuple[Floats, Floats]:
        """Models (T + 1, 2) and what agent 0 reports (T, 2): its gradients if nothing is given."""
        models, told = [self.start], []
        for t in range(self.rounds):
            own, *others = self.gradients(models[-1])
            told.append(own if reports is None else reports[t])
            models.append(models[-1] - STEP / AGENTS * (told[-1] + sum(others)))
        return np.array(models), np.array(told)

    def charge(self, reports: Floats, price: ArrayLike = 1.0) -> float:
        """`price`, one or (T,), times lambda_t / 2 a unit of energy."""
        each = np.einsum("ti,tij,tj->t", reports, self.reach(), reports) / 2
        return float((price * each).sum())

    def reward(self, reports: Floats | None, price: ArrayLike = 1.0) -> float:
        """Minus the own last loss and what is charged."""
        models, told = self.play(reports)
        return -float(self.losses(models[-1])[0]) - self.charge(told, price)

    def slope_and_hessian(self, price: ArrayLike, rivalry: float = 0.0) -> tuple[Floats, Floats]:
        """Of the reward plus `rivalry` times the others' losses, in all reports: (2T,), (2T, 2T).

        At honest reports; the Hessian is its negative. The last model is affine in the reports.
        """
        models, honest = self.play()
        prices, reach = np.broadcast_to(price, self.rounds), self.reach()
        priced = np.zeros((self.rounds, 2, self.rounds, 2))
        for t, factor in enumerate(prices):
            priced[t, :, t] = factor * reach[t]
        own, *others = self.gradients(models[-1])
        moved = reach.reshape(-1, 2)  # reach is symmetric: rows (t, i) of the last model's way
        slope = (
            moved @ (own - rivalry * sum(others)) - priced.reshape(len(moved), -1) @ honest.ravel()
        )
        bent = moved @ (self.curvatures[0] - rivalry * self.others) @ moved.T
        return slope, priced.reshape(bent.shape) + bent

    def best_gain(self, price: ArrayLike) -> tuple[float, float]:
        """Of the best response: what the quadratic says, and what playing it gives."""
        slope, hessian = self.slope_and_hessian(price)
        way = np.linalg.lstsq(hessian, slope, rcond=None)[0]
        played = self.reward(self.play()[1] + way.reshape(-1, 2), price) - self.reward(None, price)
        return float(slope @ way / 2), played


def game(*, alike: bool = False, away: float = 0.0, rounds: int = ROUNDS) -> Game:
    """Random shards, `alike` with one minimum, trained from `away` of their common optimum."""
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((AGENTS, 2, 2))
    curvatures = roots @ roots.transpose(0, 2, 1) / 4 + np.eye(2) / 4
    minima = np.zeros((AGENTS, 2)) if alike else rng.standard_normal((AGENTS, 2))
    pulls = np.einsum("nij,nj->i", curvatures, minima)
    return Game(curvatures, minima, np.linalg.solve(curvatures.sum(axis=0), pulls) + away, rounds)


def pivot(played: Game) -> float:
    """What agent 0's presence costs the others: F(x*) - min F of their losses."""
    alone = np.einsum("nij,nj->i", played.curvatures[1:], played.minima[1:])
    best = np.linalg.solve(played.others, alone)
    return float((played.losses(played.start) - played.losses(best))[1:].sum())


def least_squares(*, data: float = 1.0, report: float = 1.0) -> tuple[Floats, Floats, Floats]:
    """16 rounds of batches of 4: reports (N, T, 5), models (T + 1, 5), agent 0's losses (T + 1,).

    Agent 0's features and targets are times `data`, its reports times `report`.
    """
    rng = np.random.default_rng(3)
    features = rng.standard_normal((AGENTS, 12, 5))
    targets = np.einsum("nsd,nd->ns", features, 1 + rng.standard_normal((AGENTS, 5)) / 2)
    features[0], targets[0] = data * features[0], data * targets[0]
    models, reports = [np.zeros(5)], []
    for batch in rng.integers(12, size=(16, AGENTS, 4)):
        drawn = list(zip(features, targets, batch, strict=True))
        gradients = [x[b].T @ (x[b] @ models[-1] - y[b]) / 4 for x, y, b in drawn]
        gradients[0] = report * gradients[0]
        reports.append(gradients)
        models.append(models[-1] - 0.05 / AGENTS * sum(gradients))
    errors = np.array(models) @ features[0].T - targets[0]
    return np.array(reports).transpose(1, 0, 2), np.array(models), (errors**2).mean(axis=1) / 2


def charged(reports: Floats) -> int:
    """What agent 0 pays for its window by the default rule, to referee 3: micro-credits."""
    transfers, _ = parse_rule(DEFAULT_RULE).rows(neighbourhood(reports, 3))
    return int(transfers[0])


def minus_own_loss(weights: Floats, rounds: int = 200, step: float = STEP) -> Floats:
    """phi(a): of agent 0 with loss a (x - 1)^2 / 2, the others' three x^2 / 2 each, from x = 0."""
    x = np.zeros_like(weights)
    for _ in range(rounds):
        x = x - step / AGENTS * (weights * (x - 1) + 3 * x)
    return -((x - 1) ** 2) / 2


def charges_by_weight(weights: Floats) -> Floats:
    """The integral of a dphi(a) from the first weight to each."""
    rises = np.diff(minus_own_loss(weights)) * (weights[1:] + weights[:-1]) / 2
    return np.append(0.0, np.cumsum(rises))


def linear_gain(rounds: int, curvature: float) -> tuple[float, float]:
    """Sum of s_t^2 / 4c, and the gain of s_t / 2c more in each round, as played, by who wants the
    last model large, at price c = 0.1, where all losses are curvature x^2 / 2."""
    slopes = STEP / AGENTS * (1 - STEP * curvature) ** np.arange(rounds)[::-1]
    x, lies = 1.0, slopes / (2 * 0.1)
    for lie in lies:
        x -= STEP / AGENTS * (AGENTS * curvature * x - lie)
    honest = (1 - STEP * curvature) ** rounds
    return float((slopes**2).sum() / (4 * 0.1)), float(x - honest - 0.1 * (lies**2).sum())


def expected(lies: tuple[int, ...], window: int, delay: int) -> tuple[float, float]:
    """Windows lied in and chance of being found, by all picks: `lies[k]` false rounds in window k,
    the first ones, until a verdict has come, `delay` windows after the one that was picked."""
    lied, found = 0, 0
    for picks in product(range(window), repeat=len(lies)):
        hits = [k for k, (pick, false) in enumerate(zip(picks, lies, strict=True)) if pick < false]
        last = hits[0] + delay if hits else len(lies)
        lied += sum(false > 0 for false in lies[: last + 1])
        found += bool(hits)
    return lied / window ** len(lies), found / window ** len(lies)


def least_bond(false: int, window: int, delay: int, windows: int = 400) -> float:
    """For a gain of 1 a window, all of them lied in: the most that gains are over the chance."""
    missed = (1 - false / window) ** np.arange(windows + 1)
    reached = np.append(np.ones(delay), missed)[:windows]
    return float((np.cumsum(reached) / (1 - missed[1:])).max())


def checks() -> list[tuple[int, str, float, float]]:
    """The rows of the page's table: section, what, predicted, computed."""
    lie, other = least_squares(report=4.0), least_squares(data=2.0)
    apart = sum(int((a != b).sum()) for a, b in zip(lie[:2], other[:2], strict=True))
    clarke = 1.5 * (2 / 5) ** 2 - 1.5 * (1 / 4) ** 2  # x* = a / (a + 3)
    differ, long = game(), game(rounds=400)
    unbilled = np.append(np.ones(ROUNDS - 1), 0.0)
    escaped = differ.losses(differ.start)[0] + differ.charge(differ.play()[1], unbilled)
    reach = STEP / 10 * (1 - STEP * 0.5) ** 5  # of round 15 of 20 among 10, curvature 0.5
    noise = quadratic_thresholds(10, [STEP] * ROUNDS, 0.5)[14]
    chosen = [max(picks) < 4 for picks in product(range(16), repeat=3)]
    return [
        (1, "numbers that differ between the lie's run and the other data's", 0, apart),
        (1, "what each pays by the default rule, micro-credits", charged(lie[0]),
         charged(other[0])),
        (1, "charges of weight 2 less those of 1: Clarke's, and by weights", clarke,
         charges_by_weight(np.linspace(1, 2, 2001))[-1]),
        (2, "best gain at lambda / 2", 0, abs(round(differ.best_gain(1.0)[1], 12))),
        (2, "best gain at half of it", *differ.best_gain(0.5)),
        (2, "best gain at twice of it", *differ.best_gain(2.0)),
        (2, "best gain at lambda / 2, the last round free", escaped, differ.best_gain(unbilled)[1]),
        (2, "what honesty costs the others, and pays in 400 rounds", pivot(differ),
         long.charge(long.play()[1])),
        (2, "price that stops noise, from `quadratic_thresholds`", 0.5 * reach**2 / 2 * 10 / 8,
         noise),
        (3, "gain in 50 rounds", *linear_gain(50, 0.5)),
        (3, "gain in 100 rounds", *linear_gain(100, 0.5)),
        (3, "gain in 50 rounds, flat losses", *linear_gain(50, 0.0)),
        (3, "gain in 100 rounds, flat losses", *linear_gain(100, 0.0)),
        (4, "least bond, 1 of 16 rounds false", 16, least_bond(1, 16, 0)),
        (4, "least bond, 4 of 16 rounds false", 4, least_bond(4, 16, 0)),
        (4, "least bond, 4 of 16, verdicts two windows late", 4 + 2, least_bond(4, 16, 2)),
        (4, "found, 4 of 16, the best of three coins", (4 / 16) ** 3, float(np.mean(chosen))),
    ]  # fmt: skip


def test_the_table_of_the_page_is_what_comes_out() -> None:
    [told] = [rows for header, rows in tables(DOCS / "honesty.md") if header[-1] == "computed"]
    rows = checks()
    assert told == [[str(part), what, f"{a:.5g}", f"{b:.5g}"] for part, what, a, b in rows]
    for _, what, predicted, computed in rows:
        assert computed == pytest.approx(predicted, rel=1e-6), what


# --- 1: other data ------------------------------------------------------------------------------


def test_the_lie_gains_and_the_same_bill_taxes_the_other_data() -> None:
    lie, honest, other = least_squares(report=4.0), least_squares(), least_squares(data=2.0)
    assert lie[2][-1] < honest[2][-1] < honest[2][0]
    assert charged(honest[0]) <= 0 < charged(other[0])


def test_one_sample_has_any_gradient() -> None:
    x, v = np.random.default_rng(0).standard_normal((2, 5))
    features, target = v / np.linalg.norm(v), x @ v / np.linalg.norm(v) - np.linalg.norm(v)
    assert (features @ x - target) * features == pytest.approx(v)


def test_steady_exaggeration_is_honest_for_a_convex_loss_and_flips_are_not() -> None:
    """The condition of Taylor, Hendrickx & Glineur, theorem 4, between all pairs of rounds."""
    played = game(away=3.0)
    models, gradients = (values[:ROUNDS] for values in played.play())
    losses = np.array([played.losses(x)[0] for x in models])
    smoothness = 4 * np.linalg.norm(played.curvatures[0], 2)
    apart = models[:, np.newaxis] - models  # x_s - x_t: [s, t]

    def slack(reports: Floats) -> Floats:
        """v_s - v_t is to be at least this."""
        differ = ((reports[:, np.newaxis] - reports) ** 2).sum(axis=-1) / (2 * smoothness)
        return np.asarray(np.einsum("sti,ti->st", apart, reports) + differ)

    values = 4 * losses
    assert (values[:, np.newaxis] - values >= slack(4 * gradients) - 1e-12).all()
    flipped = slack(gradients * (-1.0) ** np.arange(ROUNDS)[:, np.newaxis])
    assert (flipped + flipped.T).max() > 0.1  # whatever the values are: they cancel in the sum


def test_charges_are_fixed_by_what_weights_gain() -> None:
    """Proposition 2 for random charges, none, and those that it leaves at epsilon 0."""
    weights = np.linspace(0, 4, 101)
    phi, rng = minus_own_loss(weights), np.random.default_rng(0)
    exact = charges_by_weight(weights)
    for charges in (exact, np.zeros(101), *rng.uniform(0, 0.2, (5, 101))):
        rewards = weights[:, np.newaxis] * phi - charges  # [own weight, weight that is played]
        epsilon = (rewards - np.diag(rewards)[:, np.newaxis]).max()
        assert (epsilon < 1e-12) == (charges is exact)
        rise, more = phi - phi[:, np.newaxis], charges - charges[:, np.newaxis]  # [from, to]
        up = weights > weights[:, np.newaxis]
        assert (weights[:, np.newaxis] * rise - epsilon - 1e-12 <= more)[up].all()
        assert (more <= weights * rise + epsilon + 1e-12)[up].all()


def test_no_charges_help_where_a_larger_weight_overshoots() -> None:
    light, heavy = minus_own_loss(np.array([1.0, 4.0]), rounds=1, step=6.0)
    assert heavy < light  # so one of the two gains by playing the other, whatever they are charged


# --- 2: the price -------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [0.0, 3.0])
def test_no_reports_gain_more_than_the_bound(away: float) -> None:
    bounds = []
    for rounds in (20, 40, 60):
        played = game(away=away, rounds=rounds)
        models, honest = played.play()
        bounds.append(played.charge(played.gradients(models[-1])[0] - honest))
        assert -1e-12 < played.best_gain(1.0)[1] <= bounds[-1] + 1e-12
        least, most = np.linalg.eigvalsh(played.others)[0], np.linalg.norm(played.curvatures[0], 2)
        far = most * np.linalg.norm(models[0] - game().start)
        rate = (1 - STEP / AGENTS * least) ** (rounds - 1)
        assert bounds[-1] <= 2 * STEP / AGENTS * far**2 * rounds * rate
    assert all(now < 0.1 * before or now == before == 0 for before, now in pairwise(bounds))
    assert (bounds[0] > 1e-4) == (away > 0)
    for others in honest + np.random.default_rng(0).standard_normal((20, *honest.shape)):
        assert played.reward(others) < played.reward(honest) + bounds[-1]


def test_a_rival_gains_nothing_on_shards_alike_up_to_weight_one() -> None:
    """The reward is concave in all reports up to there, and honest reports are its top."""
    for rivalry, is_concave in ((1.0, True), (2.0, False)):
        slope, hessian = game(alike=True).slope_and_hessian(1.0, rivalry)
        assert np.abs(slope).max() == 0
        assert (np.linalg.eigvalsh(hessian).min() > 0) == is_concave


# --- 4: replay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_no_pattern_of_false_rounds_pays_at_the_bond(delay: int) -> None:
    for lies in product((0, 1, 3), repeat=4):
        lied, found = expected(lies, 4, delay)
        least = min(filter(None, lies), default=4)
        assert lied <= (4 / least + delay) * found + 1e-12
    lied, found = expected((1, 1, 1, 1), 4, delay)
    assert lied / found <= least_bond(1, 4, delay, windows=4) + 1e-12
    assert least_bond(1, 4, delay) == pytest.approx(4 + delay)


# --- 5: the influence bound ---------------------------------------------------------------------


def test_a_minority_moves_no_lower_median_past_the_honest() -> None:
    honest = np.array([1.0, 2.0, 3.0, 4.0])
    for liars in range(5):
        count = len(honest) + liars
        for value in (0.0, 1e9):
            median = lower_median(np.append(honest, [value] * liars), np.ones(count, np.bool_))
            most = count // 2 if value else (count - 1) // 2
            assert (1 <= median <= 4) == (liars <= most)


def damage(bound: float, window: int = 5) -> tuple[float, float]:
    """How far huge injections move the last model from where none would have left it, and the
    sum over the windows of twice the lower median. Of a window's, no more is mixed than `bound`
    times the lower median so far."""
    played, everybody = game(away=3.0), np.ones(AGENTS, dtype=np.bool_)
    x, silent, allowed = played.start, played.start, 0.0
    sums, mixed = np.zeros(AGENTS), 0.0
    for t in range(ROUNDS):
        if t % window == 0:
            sums, mixed = np.zeros(AGENTS), 0.0
        others, lie = played.gradients(x)[1:], 1e3 * np.array([(-1.0) ** t, 1.0])
        sums = sums + np.linalg.norm([lie, *others], axis=1)
        median = float(lower_median(sums, everybody))
        share = min(1.0, (bound * median - mixed) / float(np.linalg.norm(lie)))
        mixed += share * float(np.linalg.norm(lie))
        x = x - STEP / AGENTS * (others.sum(axis=0) + share * lie)
        silent = silent - STEP / AGENTS * played.gradients(silent)[1:].sum(axis=0)
        allowed += 2 * STEP / AGENTS * median * (t % window == window - 1)
    return float(np.linalg.norm(x - silent)), allowed


def test_damage_is_at_most_what_the_bound_lets_through() -> None:
    moved, allowed = damage(2.0)
    assert 0.01 * allowed < moved <= allowed
    assert damage(np.inf)[0] > 10 * allowed
