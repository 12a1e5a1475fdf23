"""The rule `variance`: what it charges follows the noise and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mechanisms.payments import parse_rule
from mechanisms.statistics import Neighbourhood, Variance

Floats = NDArray[np.float64]
MEMBERS, WINDOW, SIZE, REFEREE = 4, 16, 128, 3


def updates(seed: int, own: float = 0.0) -> Floats:
    """Members' rounds (m, W, r): unit noise in each value around directions of their own."""
    rng = np.random.default_rng(seed)
    alone = own * rng.standard_normal((MEMBERS, 1, SIZE))
    return alone + rng.standard_normal((MEMBERS, WINDOW, SIZE))


def around(traces: Floats, mask: NDArray[np.bool_] | None = None) -> Neighbourhood:
    known = np.ones(traces.shape[:-1], dtype=np.bool_) if mask is None else mask
    held = np.where(known[..., np.newaxis], traces, 0.0)
    return Neighbourhood((held**2).sum(axis=(-1, -2)), known, held, REFEREE)


def test_it_is_half_the_squared_successive_differences_a_round() -> None:
    traces = np.zeros((2, 3, 1))
    traces[0, :, 0] = [1.0, 3.0, 0.0]
    seen = Neighbourhood((traces**2).sum(axis=(-1, -2)), np.ones((2, 3), np.bool_), traces, 1)
    # (2^2 + 3^2) / 2 successive pairs, half of it, for three rounds.
    assert Variance().charges(seen).tolist() == [3 * 13 / 4, 0.0]


@pytest.mark.parametrize("own", [1.0, 10.0])
def test_a_direction_of_ones_own_costs_nothing(own: float) -> None:
    plain, slanted = (Variance().charges(around(updates(1, o))) for o in (0.0, own))
    assert slanted == pytest.approx(plain)
    assert plain == pytest.approx(np.full(MEMBERS, WINDOW * SIZE), rel=0.1)


@given(factor=st.floats(0.0, 100.0), seed=st.integers(0, 100))
def test_a_scaled_update_is_charged_by_the_square(factor: float, seed: int) -> None:
    traces = updates(seed, own=1.0)
    scaled = traces.copy()
    scaled[0] *= factor
    honest, lying = Variance().charges(around(traces)), Variance().charges(around(scaled))
    assert lying[0] == pytest.approx(factor**2 * honest[0])
    assert lying[1:].tolist() == honest[1:].tolist()


def test_whoever_was_away_is_charged_for_its_rounds_only() -> None:
    traces, mask = updates(2), np.ones((MEMBERS, WINDOW), dtype=np.bool_)
    mask[0, 4:] = False
    mask[1, 1:] = False
    charges = Variance().charges(around(traces, mask))
    assert charges[0] == pytest.approx(charges[2] / 4, rel=0.3)
    assert charges[1] == 0.0  # one round shows no noise


def test_transfers_sum_to_nothing_and_the_noisy_one_pays() -> None:
    traces = updates(3)
    traces[0] *= 2.0
    transfers, charges = parse_rule("variance:1e-3").rows(around(traces))
    assert transfers.sum() == 0
    assert not charges.any()
    assert transfers[0] > 0 > max(transfers[1], transfers[2])
    assert transfers[REFEREE] == 0
