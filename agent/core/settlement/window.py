"""A window of one edge: what has become of it there, as one state.

States
    open      both ends may still bill it; so it stays where the neighbour stated nothing
    late      billed here without the neighbour, whose claim did not come in time: it is not served
    expired   late for so long that it bars the neighbour no more; its claim may still come
    handed    both bills are here and the channel has them
    settled   on record, with both signatures, or an earlier one than is
    passed    the neighbour never bills it: nobody pays for it here
    refused   nothing is ever settled here: a claim or a bill is false, or a backup forgot it

Events (the table below says where each leads; where it names none, the event changes nothing)
    MISSED     the own bill is due, and the neighbour's claim is not here
    CLAIMED    the claim that was late is here, and true
    BILLED     the bills of both ends are here
    PASSED_BY  the neighbour has billed a later window, and said that it never bills this one
    EXPIRED    many later windows were billed, and the claim is still not here
    DENIED     a claim or a bill was false, or the own claim is forgotten
    RECORDED   the channel has a record of it, or of a later one

Invariants
    Any event may come in any state. Nothing leads out of settled, passed or refused.
    A window is handed to the channel once at most, and never while a claim of it is missing.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What has become of a window on an edge."""

    OPEN = "open"
    LATE = "late"
    EXPIRED = "expired"
    HANDED = "handed"
    SETTLED = "settled"
    PASSED = "passed"
    REFUSED = "refused"


class Event(StrEnum):
    """What may happen to it."""

    MISSED = "missed"
    CLAIMED = "claimed"
    BILLED = "billed"
    PASSED_BY = "passed-by"
    EXPIRED = "expired"
    DENIED = "denied"
    RECORDED = "recorded"


TABLE: Final[Mapping[tuple[State, Event], State]] = {
    (State.OPEN, Event.MISSED): State.LATE,
    (State.OPEN, Event.BILLED): State.HANDED,
    (State.OPEN, Event.PASSED_BY): State.PASSED,
    (State.OPEN, Event.DENIED): State.REFUSED,
    (State.OPEN, Event.RECORDED): State.SETTLED,
    (State.LATE, Event.CLAIMED): State.OPEN,
    (State.LATE, Event.PASSED_BY): State.PASSED,
    (State.LATE, Event.EXPIRED): State.EXPIRED,
    (State.LATE, Event.DENIED): State.REFUSED,
    (State.LATE, Event.RECORDED): State.SETTLED,
    (State.EXPIRED, Event.CLAIMED): State.OPEN,
    (State.EXPIRED, Event.PASSED_BY): State.PASSED,
    (State.EXPIRED, Event.DENIED): State.REFUSED,
    (State.EXPIRED, Event.RECORDED): State.SETTLED,
    (State.HANDED, Event.PASSED_BY): State.PASSED,  # billed before a backup was restored
    (State.HANDED, Event.DENIED): State.REFUSED,
    (State.HANDED, Event.RECORDED): State.SETTLED,
}
ENDS: Final = frozenset({State.SETTLED, State.PASSED, State.REFUSED})


def after(state: State, event: Event) -> State:
    """The state that an event leads to."""
    return TABLE.get((state, event), state)
