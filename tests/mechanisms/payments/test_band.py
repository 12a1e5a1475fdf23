"""The rule `band` against its formula, and what each of its three terms is there to find."""

from statistics import median_low

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.mechanisms.payments.band import CAP, Band
from tests.mechanisms.payments.neighbourhoods import neighbourhood

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
MEMBERS, WINDOW, SIZE = 4, 16, 128


def honest(seed: int, common: float = 0.5, own: float = 0.5) -> Floats:
    """Members' rounds (m, W, r): the same noise around directions that differ."""
    rng = np.random.default_rng(seed)
    direction = common * rng.standard_normal(SIZE)
    alone = own * rng.standard_normal((MEMBERS, 1, SIZE))
    noise = rng.standard_normal((MEMBERS, WINDOW, SIZE))
    return (direction + alone + noise).astype(np.float32).astype(np.float64)


def charges(traces: Floats, mask: Mask | None = None) -> list[float]:
    around = neighbourhood(traces, MEMBERS - 1, mask)
    penalties: list[float] = Band().charges(around).tolist()
    return penalties


def changed(traces: Floats, rounds: Floats) -> Floats:
    """With other rounds for member 0."""
    return np.concatenate([rounds[np.newaxis], traces[1:]])


@pytest.mark.parametrize("own", [0.0, 0.5, 1.0])
def test_directions_and_lengths_of_ones_own_are_free_where_the_noise_is_alike(own: float) -> None:
    for seed in range(5):
        assert charges(honest(seed, own=own)) == [0.0] * MEMBERS


@pytest.mark.parametrize("factor", [2.0, 4.0, 0.5, 0.1, 0.0])
def test_a_scaled_update_pays_and_nobody_else(factor: float) -> None:
    traces = honest(1)
    first, *others = charges(changed(traces, factor * traces[0]))
    assert first > 1.5
    assert others == [0.0] * (MEMBERS - 1)


def test_noise_of_its_own_on_steady_work_pays() -> None:
    traces = honest(2, common=3.0)
    added = (
        1.5
        * np.sqrt((traces[0] ** 2).mean())
        * np.random.default_rng(3).standard_normal((WINDOW, SIZE))
    )
    assert charges(changed(traces, traces[0] + added))[0] > 1


def test_noise_or_energy_alone_may_be_the_datas_doing() -> None:
    """A known limit: whoever repeats one honest update has the right energy, and pays nothing."""
    traces = honest(4)
    assert charges(changed(traces, np.repeat(traces[:1, 0], WINDOW, axis=0)))[0] == 0


def test_a_flipped_sign_pays_by_its_direction_alone() -> None:
    traces = honest(5, common=2.0)
    first, *others = charges(changed(traces, -traces[0]))
    assert first > 1
    assert others == [0.0] * (MEMBERS - 1)


def test_steady_exaggeration_with_honest_noise_pays_by_its_energy_alone() -> None:
    traces = honest(6)
    assert charges(changed(traces, traces[0] + 4 * traces[0].mean(axis=0)))[0] > 1


def test_one_charged_round_has_no_noise_to_judge() -> None:
    traces = honest(7)
    mask = np.ones((MEMBERS, WINDOW), dtype=np.bool_)
    mask[0, 1:] = False
    assert charges(changed(traces, 0.1 * traces[0]), mask)[0] == 0


def test_nothing_at_all_is_alike() -> None:
    assert charges(np.zeros((MEMBERS, WINDOW, SIZE))) == [0.0] * MEMBERS


def outside(ratio: float) -> float:
    inverse = np.inf if ratio == 0 else 1 / ratio
    return float(min(CAP, max(0, ratio - 2) + max(0, inverse - 2)))


def over(one: float, other: float) -> float:
    if one == other == 0:
        return 1.0
    return np.inf if other == 0 else one / other


def lower_median(values: list[float]) -> float:
    return median_low(values) if values else 0.0


def by_the_formula(traces: Floats, mask: Mask) -> list[float]:
    """docs/protocol.md's text, round by round."""
    m = len(traces)
    held = [[t for t in range(WINDOW) if mask[i, t]] for i in range(m)]
    noise: list[float | None] = []
    for i in range(m):
        steps = [
            float(((traces[i, t] - traces[i, s]) ** 2).sum())
            for s, t in zip(held[i], held[i][1:], strict=False)
        ]
        noise.append(sum(steps) / (2 * len(steps)) if steps else None)
    energy = [
        sum(float((traces[i, t] ** 2).sum()) for t in held[i]) / max(len(held[i]), 1)
        for i in range(m)
    ]

    def rho(i: int, k: int) -> float | None:
        both = [t for t in held[i] if t in held[k]]
        divisor = sum(float((traces[i, t] ** 2).sum() + (traces[k, t] ** 2).sum()) for t in both)
        apart = sum((traces[i, t] - traces[k, t] for t in both), np.zeros(SIZE))
        return float((apart**2).sum()) / divisor if both and divisor else None

    penalties = []
    for i in range(m):
        others = [k for k in range(m) if k != i and held[i] and held[k]]
        mine = noise[i]
        beyond = (
            []
            if mine is None
            else [
                min(outside(over(mine, theirs)), outside(over(energy[i], energy[k])))
                for k in others
                if (theirs := noise[k]) is not None
            ]
        )
        high = [min(CAP, max(0.0, over(energy[i], energy[k]) - 2.5)) for k in others]
        seen = [d for k in others if (d := rho(i, k)) is not None]
        usual = [
            d
            for k in range(m)
            for j in range(m)
            if len({i, j, k}) == 3 and (d := rho(j, k)) is not None
        ]
        far = lower_median(seen) / max(1.0, lower_median(usual))
        penalties.append(lower_median(beyond) + lower_median(high) + min(CAP, max(0.0, far - 4)))
    return penalties


@given(
    seed=st.integers(0, 2**32),
    factors=st.lists(st.sampled_from([0.0, 0.3, 1.0, -1.0, 3.0]), min_size=4, max_size=4),
    share=st.sampled_from([1.0, 0.8, 0.1]),
)
def test_the_rule_is_the_formula_of_the_protocol(
    seed: int, factors: list[float], share: float
) -> None:
    rng = np.random.default_rng(seed)
    traces = np.array(factors)[:, np.newaxis, np.newaxis] * honest(seed, common=2.0)
    mask = rng.random((MEMBERS, WINDOW)) < share
    held = np.where(mask[..., np.newaxis], traces, 0.0)
    assert charges(traces, mask) == pytest.approx(by_the_formula(held, mask), rel=1e-9, abs=1e-9)
