"""A window of an edge moves by its table alone, in whatever order things happen."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.core.settlement.window import ENDS, TABLE, Event, State, after

histories = st.lists(st.sampled_from(Event), max_size=20)


def states(history: list[Event]) -> list[State]:
    """The states that a window goes through, from the first on."""
    passed = [State.OPEN]
    for event in history:
        passed.append(after(passed[-1], event))
    return passed


@given(histories, histories)
def test_any_order_of_events_is_legal_and_nothing_leads_out_of_an_end(first, second) -> None:
    reached = states(first)[-1]
    if reached in ENDS:
        assert set(states(first + second)[len(first) :]) == {reached}


@given(histories)
def test_a_window_is_handed_over_once_and_never_without_a_claim_that_is_missing(history) -> None:
    passed = states(history)
    handed = [one for one, two in pairwise(passed) if two is State.HANDED and one is not two]
    assert handed in ([], [State.OPEN])


@given(histories)
def test_only_a_claim_makes_up_for_a_late_one(history) -> None:
    passed = states(history)
    for (before, now), event in zip(pairwise(passed), history, strict=True):
        if before in (State.LATE, State.EXPIRED) and now in (State.OPEN, State.HANDED):
            assert event is Event.CLAIMED


@given(histories)
def test_what_is_told_twice_changes_nothing(history) -> None:
    twice = [event for event in history for _ in range(2)]
    assert states(twice)[-1] is states(history)[-1]


@pytest.mark.parametrize("state", sorted(set(State) - ENDS))
def test_every_state_but_an_end_can_be_recorded_refused_and_passed_by(state) -> None:
    assert after(state, Event.RECORDED) is State.SETTLED
    assert after(state, Event.DENIED) is State.REFUSED
    assert after(state, Event.PASSED_BY) is State.PASSED


def test_every_state_is_reached_and_every_event_leads_somewhere() -> None:
    assert {State.OPEN, *TABLE.values()} == set(State)
    assert {event for _, event in TABLE} == set(Event)
    assert all(before is not now for (before, _), now in TABLE.items())
