"""Netting pays every position off exactly, with few transfers, and the same ones each time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.ledger.netting import net_transfers

AGENTS = [f"a{index}" for index in range(12)]
edges = st.tuples(st.sampled_from(AGENTS), st.sampled_from(AGENTS), st.integers(-(2**62), 2**62))


def positions_of(payments: list[tuple[str, str, int]]) -> dict[str, int]:
    """Positions as a run makes them: every payment along an edge is received by one of its ends."""
    positions = dict.fromkeys(AGENTS, 0)
    for payer, payee, amount in payments:
        positions[payer] -= amount
        positions[payee] += amount
    return positions


@given(st.lists(edges, max_size=40))
def test_transfers_pay_off_every_position_exactly(payments: list[tuple[str, str, int]]) -> None:
    positions = positions_of(payments)
    left = dict(positions)
    for debtor, creditor, amount in net_transfers(positions):
        assert amount > 0
        assert debtor != creditor
        left[debtor] += amount
        left[creditor] -= amount
    assert set(left.values()) == {0}


@given(st.lists(edges, max_size=40))
def test_transfers_are_fewer_than_the_agents_with_a_position(
    payments: list[tuple[str, str, int]],
) -> None:
    positions = positions_of(payments)
    open_positions = sum(net != 0 for net in positions.values())
    assert len(net_transfers(positions)) <= max(0, open_positions - 1)


@given(st.lists(edges, max_size=40))
def test_nobody_pays_and_receives(payments: list[tuple[str, str, int]]) -> None:
    positions = positions_of(payments)
    for debtor, creditor, _ in net_transfers(positions):
        assert positions[debtor] < 0 < positions[creditor]


@given(st.lists(edges, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_agents_does_not_matter(
    payments: list[tuple[str, str, int]], rng: random.Random
) -> None:
    positions = positions_of(payments)
    shuffled = list(positions.items())
    rng.shuffle(shuffled)
    assert net_transfers(dict(shuffled)) == net_transfers(positions)


def test_the_largest_debtor_pays_the_largest_creditor_and_the_lower_id_breaks_ties() -> None:
    assert net_transfers({"a3": -5, "a2": -5, "a1": 4, "a0": 6}) == [
        ("a2", "a0", 5),
        ("a3", "a1", 4),
        ("a3", "a0", 1),
    ]


def test_a_ring_of_equal_debts_needs_no_transfer() -> None:
    assert net_transfers({"a0": 0, "a1": 0}) == []
    assert net_transfers({}) == []


def test_positions_that_do_not_sum_to_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        net_transfers({"a0": 3, "a1": -2})
