"""The rule `variance`: what it charges follows the noise and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.mechanisms.payments.band import (
    TAU_NOISE,
    TAU_SCALED,
    Excess,
    Neighbourhood,
    Scaled,
    Variance,
)
from candor.mechanisms.payments.bills import parse_rule
from tests.mechanisms.payments.neighbourhoods import neighbourhood

Floats = NDArray[np.float64]
MEMBERS, WINDOW, SIZE, REFEREE = 4, 16, 128, 3


def updates(seed: int, own: float = 0.0) -> Floats:
    """Members' rounds (m, W, r): unit noise in each value around directions of their own."""
    rng = np.random.default_rng(seed)
    alone = own * rng.standard_normal((MEMBERS, 1, SIZE))
    return alone + rng.standard_normal((MEMBERS, WINDOW, SIZE))


def around(traces: Floats, mask: NDArray[np.bool_] | None = None) -> Neighbourhood:
    return neighbourhood(traces, REFEREE, mask)


def test_it_is_the_noise_beyond_the_upper_median_of_the_others() -> None:
    """V = 13 / 4, 1 and 2 by hand: half of (2^2 + 3^2) / 2, and so on."""
    traces = np.zeros((3, 3, 1))
    traces[:, :, 0] = [[1.0, 3.0, 0.0], [0.0, 2.0, 2.0], [0.0, 2.0, 0.0]]
    seen = neighbourhood(traces, 2)
    charges = Variance().charges(seen)
    assert charges.tolist() == [3 * (13 / 4 - TAU_NOISE * 2), 0.0, 0.0]


@pytest.mark.parametrize("own", [0.0, 1.0, 10.0])
def test_noise_that_is_alike_is_free_whatever_the_direction(own: float) -> None:
    for seed in range(5):
        assert not Variance().charges(around(updates(seed, own))).any()


@given(factor=st.floats(1.3, 100.0), seed=st.integers(0, 100))
def test_a_scaled_update_is_charged_by_its_square_and_nobody_else(factor, seed) -> None:
    traces = updates(seed, own=1.0)
    noise = [WINDOW * ((np.diff(rows, axis=0) ** 2).sum(axis=-1).mean()) / 2 for rows in traces]
    free = TAU_NOISE * sorted(noise[1:])[1]
    traces[0] *= factor
    first, *others = Variance().charges(around(traces))
    assert first == pytest.approx(factor**2 * noise[0] - free)
    assert others == [0.0] * (MEMBERS - 1)


def test_on_a_ring_who_sends_nothing_frames_nobody_and_earns_nothing() -> None:
    """Two neighbours and the referee: the noise of the idler is no measure for the other's."""
    traces = updates(5)[:3]
    traces[0] = 0.0
    seen = neighbourhood(traces, 2)
    transfers, _ = parse_rule("variance:1").rows(seen)
    assert not transfers.any()


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_less_noise_than_the_others_earns_and_costs_nothing(factor: float) -> None:
    traces = updates(4)
    traces[0] *= factor
    transfers, charges = parse_rule("variance:1").rows(around(traces))
    assert not transfers.any()
    assert not charges.any()


def test_whoever_was_away_is_charged_for_its_rounds_only() -> None:
    traces, mask = 3.0 * updates(2), np.ones((MEMBERS, WINDOW), dtype=np.bool_)
    traces[2:] /= 3.0
    mask[0, 4:] = False
    charges = Variance().charges(around(traces, mask))
    assert charges[0] == pytest.approx(charges[1] / 4, rel=0.3)
    mask[0, 1:] = False
    assert Variance().charges(around(traces, mask))[0] == 0.0  # one round shows no noise
    mask[:] = False
    mask[0] = True
    assert not Variance().charges(around(traces, mask)).any()  # nobody to compare with


def test_transfers_sum_to_nothing_and_the_noisy_one_pays() -> None:
    traces = updates(3)
    traces[0] *= 2.0
    transfers, charges = parse_rule("variance:1e-3").rows(around(traces))
    assert transfers.sum() == 0
    assert not charges.any()
    assert transfers[0] > 0 > transfers.min()
    assert max(transfers[1], transfers[2]) <= 0
    assert transfers[REFEREE] == 0


def test_excess_is_charged_by_energy_however_steady_and_without_an_end() -> None:
    traces = np.ones_like(updates(5))
    for factor in (1.0, 1.5, 3.0, 1e6):
        traces[0] = factor * traces[1]
        charges = Excess().charges(around(traces))
        energy = (traces[1] ** 2).sum()
        assert charges[0] == pytest.approx(energy * max(0.0, factor**2 - 2.5))
        assert not charges[1:].any()


@pytest.mark.parametrize(("noise", "steady"), [(3.0, 3.0), (3.0, 1.0), (1.0, 9.0), (1.9, 1.9)])
def test_scaled_charges_the_lesser_of_noise_and_energy_beyond_four_times(
    noise: float, steady: float
) -> None:
    """A shard of more noise, or of a stronger direction, is free; both together are a scale."""
    own = 3.0 * np.ones((MEMBERS, 1, SIZE)) * np.array([steady, 1, 1, 1])[:, np.newaxis, np.newaxis]
    rows = np.random.default_rng(0).standard_normal((1, WINDOW, SIZE))
    traces = own + rows * np.array([noise, 1, 1, 1])[:, np.newaxis, np.newaxis]
    seen = around(traces)
    found, _ = seen.noise
    energy = seen.energies / WINDOW
    beyond = min(energy[0] - TAU_SCALED * energy[1], found[0] - TAU_SCALED * found[1])
    charges = Scaled().charges(seen)
    assert charges.tolist() == pytest.approx([WINDOW * max(0.0, beyond), 0.0, 0.0, 0.0])
    assert (charges[0] > 0) == (noise == steady == 3.0)


def test_scaled_asks_at_most_what_energy_alone_would() -> None:
    for seed in range(20):
        traces = updates(seed, own=2.0) * np.random.default_rng(seed).uniform(0, 9, (MEMBERS, 1, 1))
        seen = around(traces)
        assert (Scaled().charges(seen) <= Excess().charges(seen) + 1e-9).all()
