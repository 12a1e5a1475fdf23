"""Copies and fresh directions are found, honest work is not, and every sum has one order."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.mechanisms.payments.band import CAP, Neighbourhood
from candor.mechanisms.payments.bills import parse_rule
from candor.mechanisms.payments.idling import NOTHING, PAIRS_MIN, Originality, Persistence
from tests.mechanisms.payments.neighbourhoods import neighbourhood

Floats = NDArray[np.float64]
MEMBERS, WINDOW, SIZE = 4, 16, 128
REFEREE = 3


def honest(seed: int, own: float = 0.8, common: float = 0.8) -> Floats:
    """Members' rounds (m, W, r): noise around what all have in common and what each has alone."""
    rng = np.random.default_rng(seed)
    direction = common * rng.standard_normal(SIZE)
    alone = own * rng.standard_normal((MEMBERS, 1, SIZE))
    noise = rng.standard_normal((MEMBERS, WINDOW, SIZE))
    return (direction + alone + noise).astype(np.float32).astype(np.float64)


def seen(traces: Floats, mask: NDArray[np.bool_] | None = None) -> Neighbourhood:
    return neighbourhood(traces, REFEREE, mask)


def with_member(traces: Floats, index: int, rounds: Floats) -> Floats:
    changed = traces.copy()
    changed[index] = rounds
    return changed


def copied(source: Floats, lag: int) -> Floats:
    """A member's rounds, some rounds late; a first one of its own before."""
    rng = np.random.default_rng(99)
    return np.concatenate([rng.standard_normal((lag, SIZE)), source[:-lag]])


@pytest.mark.parametrize("common", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("own", [0.0, 1.0, 3.0])
def test_honest_work_is_free(own: float, common: float) -> None:
    for seed in range(5):
        around = seen(honest(seed, own, common))
        assert not Originality().charges(around).any()
        assert not Persistence().charges(around).any() or own + common < 1


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("source", [1, REFEREE])
@pytest.mark.parametrize("own", [0.0, 2.0])
@pytest.mark.parametrize("factor", [1.0, 0.1, 30.0])
def test_a_copier_pays_the_cap_and_nobody_else(
    lag: int, source: int, own: float, factor: float
) -> None:
    traces = honest(1, own)
    around = seen(with_member(traces, 0, factor * copied(traces[source], lag)))
    assert Originality().charges(around).tolist() == pytest.approx([CAP, 0, 0, 0])


def test_a_diluted_copy_pays_less_and_a_thin_one_nothing() -> None:
    traces = honest(2, own=0.3, common=0.3)
    charges = [
        Originality().charges(
            seen(with_member(traces, 0, share * copied(traces[1], 1) + (1 - share) * traces[0]))
        )[0]
        for share in (0.9, 0.7, 0.3)
    ]
    assert CAP > charges[0] > charges[1] > charges[2] == 0


def test_a_copy_older_than_the_lags_or_in_few_rounds_is_not_seen() -> None:
    traces = honest(3)
    assert Originality().charges(seen(with_member(traces, 0, copied(traces[1], 4))))[0] == 0
    few = traces[0].copy()
    few[1:8] = traces[1][:7]
    assert Originality().charges(seen(with_member(traces, 0, few)))[0] == 0


def test_a_steady_member_cannot_be_framed_by_who_resembles_it_half_the_time() -> None:
    rng = np.random.default_rng(4)
    traces = honest(4, own=3.0, common=0.0)
    framing = rng.standard_normal((WINDOW, SIZE))
    for t in (1, 2, 4, 6, 8, 10, 12, 13, 14):
        framing[t] = traces[1][t - 1]
    charges = Originality().charges(seen(with_member(traces, 0, framing)))
    assert charges[1] == 0


def test_a_few_rounds_are_too_few_to_call_a_copy() -> None:
    traces = honest(5)
    changed = with_member(traces, 0, copied(traces[1], 1))
    mask = np.zeros((MEMBERS, WINDOW), dtype=np.bool_)
    mask[:, : PAIRS_MIN + 1] = True
    assert Originality().charges(seen(changed, mask))[0] == pytest.approx(CAP)
    mask[:, PAIRS_MIN:] = False
    assert not Originality().charges(seen(changed, mask)).any()


@pytest.mark.parametrize("factor", [1.0, 0.1, 10.0])
def test_fresh_directions_pay_whatever_their_length(factor: float) -> None:
    traces = honest(6)
    fresh = factor * np.random.default_rng(7).standard_normal((WINDOW, SIZE))
    charges = Persistence().charges(seen(with_member(traces, 0, fresh)))
    assert charges[0] > 1
    assert not charges[1:].any()


@pytest.mark.parametrize("part", [0.0, 1e-13, 0.99 * NOTHING, 1.01 * NOTHING])
def test_who_injects_nothing_but_rounding_is_not_judged_by_its_directions(part: float) -> None:
    """Two of them, whose rounding in one run is not that in the next."""
    traces = honest(6)
    for seed, idler in enumerate((0, 1)):
        fresh = np.random.default_rng(seed).standard_normal((WINDOW, SIZE))
        most = np.square(traces[2:]).sum(axis=(1, 2)).max()
        traces[idler] = fresh * np.sqrt(part * most / np.square(fresh).sum())
    charges = Persistence().charges(seen(traces))
    assert (charges[:2] > 0).tolist() == [part > NOTHING] * 2
    assert not charges[2:].any()


def test_an_alternating_sign_pays() -> None:
    traces = honest(8)
    signs = np.where(np.arange(WINDOW) % 2, -1.0, 1.0)[:, np.newaxis]
    charges = Persistence().charges(seen(with_member(traces, 0, signs * traces[0])))
    assert charges[0] > 10
    assert not charges[1:].any()


def test_rounds_that_cancel_to_exactly_nothing_pay_the_cap() -> None:
    around = seen(EDGES["one cancels to zero"])
    assert Persistence().charges(around).tolist() == [CAP, 0, 0, 0]


def test_being_steadier_than_the_others_is_free() -> None:
    traces = honest(9, own=0.5, common=0.5)
    steady = np.repeat(traces[0].mean(axis=0, keepdims=True), WINDOW, axis=0)
    assert Persistence().charges(seen(with_member(traces, 0, steady)))[0] == 0


def test_who_missed_rounds_is_compared_over_those_it_has() -> None:
    traces = honest(10)
    mask = np.ones((MEMBERS, WINDOW), dtype=np.bool_)
    mask[0, 6:] = False
    assert not Persistence().charges(seen(traces, mask)).any()
    assert not Originality().charges(seen(traces, mask)).any()


EDGES: Mapping[str, Floats] = {
    "nothing injected": np.zeros((MEMBERS, WINDOW, SIZE)),
    "one injects nothing": with_member(honest(11), 0, np.zeros((WINDOW, SIZE))),
    "all the same": np.ones((MEMBERS, WINDOW, SIZE)),
    "one cancels to zero": with_member(
        honest(11), 0, np.where(np.arange(WINDOW) % 2, 1.0, -1.0)[:, np.newaxis] * np.ones(SIZE)
    ),
    "huge": 1e30 * honest(11),
    "tiny": 1e-40 * honest(11),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("rule", ["originality:1", "persistence:1"])
def test_degenerate_updates_give_finite_amounts_that_sum_to_zero(rule: str, name: str) -> None:
    transfers, charges = parse_rule(rule).rows(seen(EDGES[name]))
    assert transfers.sum() == 0
    assert not charges.any()
    assert transfers[REFEREE] == 0


def test_nobody_present_pays_nothing() -> None:
    nobody = np.zeros((MEMBERS, WINDOW), dtype=np.bool_)
    transfers, _ = parse_rule("originality:1 + persistence:1").rows(seen(honest(12), nobody))
    assert not transfers.any()


def test_windows_of_one_round_judge_nobody() -> None:
    around = seen(honest(13)[:, :1])
    assert not Originality().charges(around).any()
    assert not Persistence().charges(around).any()


@given(st.integers(0, 2**32))
def test_charges_are_batched_over_leading_axes_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    traces = np.stack([honest(seed + b) for b in range(3)])
    traces[1, 0] = copied(traces[1, 1], 1)
    traces[2, 0] = rng.standard_normal((WINDOW, SIZE))
    mask = rng.random((3, MEMBERS, WINDOW)) < 0.8
    whole = seen(traces, mask)
    for rule in (Originality(), Persistence()):
        charges = rule.charges(whole)
        for b in range(3):
            assert np.array_equal(charges[b], rule.charges(seen(traces[b], mask[b])))


def test_a_copy_of_a_leaf_is_billed_by_nobody() -> None:
    """A known limit: the copier is its only neighbour, and one neighbour settles nothing."""
    traces = honest(14)[:2]
    traces[0] = copied(traces[1], 1)
    transfers, _ = parse_rule("originality:1").rows(neighbourhood(traces, 1))
    assert not transfers.any()
