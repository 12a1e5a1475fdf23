"""Averaging agreement by minimum diameter: against all subsets, and against equivocators."""

from itertools import combinations

import numpy as np
import pytest

from candor.mechanisms.agreement.averaging import (
    TOLERANCE,
    Averaging,
    distances,
    first,
    least_to_agree,
)


def rows(rule, heard):
    """The row of an agent `a0` that heard these vectors, by id."""
    weights = {k: 1.0 / len(heard) for k in heard}
    return rule("a0", 1, weights, heard)


@pytest.mark.parametrize("seed", range(30))
def test_an_agent_takes_the_mean_of_the_least_diameter(seed) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(3, 10))
    byzantine = int(random.integers(0, (count - 1) // 2 + 1))
    heard = {f"a{i}": random.standard_normal(7) for i in range(count)}
    row = rows(Averaging(byzantine), heard)
    assert set(row) == set(heard)
    vectors = list(heard.values())

    def diameter(chosen):
        return max((np.linalg.norm(a - b) for a, b in combinations(chosen, 2)), default=0.0)

    least = min(diameter(some) for some in combinations(vectors, count - byzantine))
    chosen = [heard[k] for k, weight in row.items() if weight]
    assert len(chosen) == count - byzantine
    assert diameter(chosen) == pytest.approx(least, abs=1e-12)
    assert set(row.values()) <= {0.0, 1.0 / len(chosen)}


def test_distances_are_of_differences() -> None:
    random = np.random.default_rng(0)
    points = random.standard_normal((6, 300)) * 1e-6 + 1e3
    direct = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert np.allclose(distances(points), direct, rtol=1e-12, atol=0)


def test_an_agent_that_agrees_keeps_its_own_and_one_that_was_away_does_not() -> None:
    near = {f"a{i}": np.full(4, 1.0) + i * TOLERANCE / 30 for i in range(5)}
    assert rows(Averaging(1), near) == {k: float(k == "a0") for k in near}
    away = near | {"a0": np.zeros(4)}
    row = rows(Averaging(1), away)
    assert row == {k: 0.25 * (k != "a0") for k in away}


def test_an_agent_that_hears_too_few_keeps_its_own() -> None:
    random = np.random.default_rng(1)
    heard = {f"a{i}": random.standard_normal(3) for i in range(4)}
    assert rows(Averaging(2), heard) == {k: float(k == "a0") for k in heard}
    heard["a4"] = random.standard_normal(3)
    assert rows(Averaging(2), heard) != {k: float(k == "a0") for k in heard}


def play(honest, byzantine, attack, exchanges):
    """Diameters of the honest vectors after each exchange, against attackers who send every agent
    another vector: `attack(vectors, taker, attacker)`."""
    rule, vectors, found = Averaging(byzantine), honest.copy(), []
    for _ in range(exchanges):
        taken = []
        for taker in range(len(vectors)):
            heard = {f"h{i:02}": v for i, v in enumerate(vectors)}
            heard |= {f"z{k}": attack(vectors, taker, k) for k in range(byzantine)}
            row = rule(f"h{taker:02}", 1, dict.fromkeys(heard, 0.0), heard)
            taken.append(sum(weight * heard[k] for k, weight in row.items()))
        vectors = np.stack(taken)
        found.append(distances(vectors).max())
    return found


@pytest.mark.parametrize("seed", range(5))
def test_policies_come_together_whatever_each_agent_is_sent(seed) -> None:
    """At 13 agents, 3 of them Byzantine, the diameter shrinks to 9/10 or less each time."""
    random = np.random.default_rng(seed)
    honest = random.standard_normal((10, 5))
    bound = 3 * 3 / 10
    assert least_to_agree(3) == 13

    def split(vectors, taker, attacker):  # to one half what lies at one end, to others the other
        far = np.unravel_index(distances(vectors).argmax(), (10, 10))
        return vectors[far[(taker + attacker) % 2]]

    before = distances(honest).max()
    found = play(honest, 3, split, 12)
    for after in found:
        assert after <= bound * before + 1e-12
        before = after
    assert found[0] > TOLERANCE  # the attack does something: one exchange is not enough
    noisy = play(honest, 3, lambda v, *_: random.uniform(-1000, 1000, v.shape[1]), 2)
    assert noisy[0] < 1e-12  # far ones are left out by all alike: one exchange


def test_all_take_the_first_agent_s_vector() -> None:
    heard = {k: np.zeros(2) for k in ("a10", "a2", "a0")}
    assert first("a2", 1, dict.fromkeys(heard, 1 / 3), heard) == {"a0": 1.0, "a10": 0.0, "a2": 0.0}
