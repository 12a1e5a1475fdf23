import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.rewards.allocation import (
    FLOOR,
    Reputation,
    excluded,
    global_mask,
    linear_shares,
    normalised,
    shares,
    tensor_mask,
)

vectors = st.lists(st.floats(-5, 5), min_size=1, max_size=12).map(np.array)


@given(vectors, st.floats(0.0, 1.0))
def test_reputations_stay_shares_of_one_and_never_below_their_floor(contributions, alpha):
    before = np.full(len(contributions), 1 / len(contributions))
    after = Reputation(alpha).after(before, contributions)
    assert after.sum() == pytest.approx(1.0)
    assert (after > 0.0).all()


def test_a_reputation_is_a_moving_average():
    after = Reputation(0.9, floor=0.0).after(np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(after, np.array([0.55, 0.45]))


def test_who_gives_nothing_falls_to_the_floor_and_rises_again():
    reputation, r = Reputation(0.5), np.full(3, 1 / 3)
    for _ in range(40):
        r = reputation.after(r, np.array([0.9, 0.9, 0.0]))
    assert r[2] == pytest.approx(FLOOR / (1.4 / 2 + FLOOR), rel=0.5)
    for _ in range(40):
        r = reputation.after(r, np.array([0.9, 0.9, 0.9]))
    np.testing.assert_allclose(r, np.full(3, 1 / 3), atol=1e-6)


@given(vectors, st.floats(1.0, 8.0))
def test_shares_follow_reputations_and_the_best_gets_all(values, beta):
    r = normalised(np.abs(values))
    found = shares(r, beta)
    assert found.max() == 1.0
    assert ((found >= 0.0) & (found <= 1.0)).all()
    assert (np.diff(found[np.argsort(r, kind="stable")]) >= 0).all()
    assert (shares(r, beta + 1.0) >= found - 1e-12).all()  # more altruism takes from nobody
    assert (shares(r, np.inf)[r > 0] == 1.0).all()


def test_nobody_with_a_reputation_leaves_all_alike():
    assert normalised(np.zeros(4)).tolist() == [0.25] * 4
    assert shares(np.zeros(4), 1.0).tolist() == linear_shares(np.zeros(4)).tolist() == [1.0] * 4


def test_masks_keep_the_largest_over_the_whole_vector_or_of_each_tensor():
    update = np.array([0.0, -3.0, 1.0, 2.0, 10.0, -20.0])
    assert global_mask(update, 0.5).tolist() == [False, True, False, False, True, True]
    assert global_mask(update, 0.2).tolist() == [False] * 5 + [True]
    by_tensor = tensor_mask(update, 0.5, [4, 2])
    assert by_tensor.tolist() == [False, True, False, True, False, True]
    assert tensor_mask(update, 0.99, [4, 2]).sum() == 3 + 1  # one of each is kept back
    assert tensor_mask(update, 1.0, [4, 2]).all()


@given(vectors, st.floats(0.0, 1.0))
def test_a_mask_keeps_nothing_smaller_than_what_it_leaves_out(update, share):
    kept = global_mask(update, share)
    assert kept.sum() == int(np.floor(share * len(update)))
    if kept.any() and not kept.all():
        assert np.abs(update)[kept].min() >= np.abs(update)[~kept].max()


@given(vectors, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4))
def test_masks_of_several_shares_are_those_of_each(update, several):
    sizes = [len(update) // 2, len(update) - len(update) // 2]
    together = global_mask(update, np.array(several))
    by_tensor = tensor_mask(update, np.array(several), sizes)
    for row, share in enumerate(several):
        assert (together[row] == global_mask(update, share)).all()
        assert (by_tensor[row] == tensor_mask(update, share, sizes)).all()


def test_rffl_drops_who_is_below_a_third_of_an_equal_share():
    members = np.ones(4, bool)
    out = excluded(np.array([0.05, 0.1, 0.4, 0.45]), members)
    assert out.tolist() == [True, False, False, False]
    assert excluded(np.array([0.0, 0.1, 0.4, 0.5]), members & ~out).tolist() == [
        False,
        True,
        False,
        False,
    ]
