"""What becomes of an edge's windows, and when the neighbour is not served, event by event."""

import pytest

from candor.agent.core.effects import Log, Persist
from candor.agent.core.settlement.edge import (
    LATE_FORGOTTEN,
    LATE_MAX,
    LATE_OUT_WINDOWS,
    LATE_WINDOWS_MAX,
    SETTLE_WINDOWS,
    Edge,
    To,
)
from candor.agent.core.settlement.window import State
from candor.mechanisms.ledger import channel as ledger
from candor.mechanisms.ledger.messages import parse_message
from candor.mechanisms.payments.bills import Bill, SignedBill
from candor.topologies.encoding.canonical import sha256
from tests.honest import KEYS, RUN

PEERS = {"a0": "a1", "a1": "a0"}
TERMS = ledger.ChannelTerms(
    lo="a0",
    hi="a1",
    public_lo=KEYS["a0"].public,
    public_hi=KEYS["a1"].public,
    run_id="test",
    fingerprint=RUN,
    credit_limit=1000,
)


def make_edge(agent: str = "a0") -> Edge:
    """The edge of an agent to the other one."""
    peer = PEERS[agent]
    return Edge(peer, ledger.Channel(TERMS, KEYS[agent]), KEYS[peer].public)


def bill(referee: str, window: int, previous: int | None = None) -> SignedBill:
    before = window - 1 if previous is None else previous
    return SignedBill.sign(Bill(RUN, window, before, referee, "none", (), ()), (), KEYS[referee])


class Pair:
    """The two ends of an edge and a faultless network between them."""

    def __init__(self) -> None:
        self.edges = {agent: make_edge(agent) for agent in PEERS}
        nonces = {agent: sha256(agent.encode())[:16] for agent in PEERS}
        self.logs: list[Log] = []
        for agent, peer in PEERS.items():
            edge = self.edges[agent]
            self.perform(agent, edge.steps(edge.channel.connected(nonces[agent], nonces[peer])))
        for agent, edge in self.edges.items():
            self.perform(agent, edge.steps(edge.channel.resend()))

    def perform(self, agent: str, steps: list) -> None:
        for step in steps:
            match step:
                case To(peer, message):
                    effects = self.edges[peer].channel.received_from_peer(
                        parse_message(message.kind.name, message.fields)
                    )
                    self.perform(peer, self.edges[peer].steps(effects))
                case Log():
                    self.logs.append(step)
                case Persist():
                    pass

    def hand(self, window: int, delta: int = 1) -> None:
        for agent, edge in self.edges.items():
            bills = bill("a0", window), bill("a1", window)
            self.perform(agent, edge.hand(window, delta, *bills))

    def pay(self, delta: int) -> None:
        for agent, edge in self.edges.items():
            self.perform(agent, edge.steps(edge.channel.pay(delta)))


def events(steps: list) -> list[tuple[str, object]]:
    return [(s.event, s.fields.get("window")) for s in steps if isinstance(s, Log)]


def states(edge: Edge, *windows: int) -> list[str]:
    return [edge.state(window).value for window in windows]


# --- windows ------------------------------------------------------------------------------------


def test_a_bill_passes_over_what_is_between_it_and_the_one_before_alone() -> None:
    edge = make_edge()
    for window in (1, 2, 3, 4):
        edge.missed(window)
    edge.billed(bill("a1", 3, previous=1), 1, 3)
    # Its own window's claim is still to come, and so is that of a window that it has billed before.
    assert states(edge, 1, 2, 3, 4) == ["late", "passed", "late", "late"]
    assert edge.bar == "it has not claimed window 1"
    edge.claimed(1)
    assert edge.bar == "it has not claimed window 3"
    edge.claimed(3)
    edge.claimed(4)
    assert states(edge, 1, 3, 4) == ["open", "open", "open"]
    assert edge.bar is None


def test_a_bill_is_held_for_its_window() -> None:
    edge = make_edge()
    edge.missed(2)
    edge.billed(bill("a1", 3), 2, 3)
    assert [edge.bill(window) for window in (2, 3, 4)] == [None, bill("a1", 3), None]


def test_a_bill_withdraws_what_was_handed_over_and_is_passed_over_now() -> None:
    edge = make_edge()
    for window in (1, 2, 3):
        edge.hand(window, 1, bill("a0", window), bill("a1", window))
    steps = edge.billed(bill("a1", 3, previous=1), 1, 3)
    assert states(edge, 1, 2, 3) == ["handed", "passed", "handed"]
    assert events(steps) == [("bill_missed", 2), ("bill_withdrawn", 2)]
    assert edge.lateness == LATE_FORGOTTEN


def test_a_window_that_was_passed_by_is_not_settled_and_forgives_nothing() -> None:
    pair = Pair()
    edge = pair.edges["a0"]
    edge.missed(0)
    late = edge.lateness
    for one in pair.edges.values():
        one.pass_by(0, late=False)
    assert (edge.settles(0), edge.waits(0)) == (False, False)
    pair.hand(0)
    assert edge.state(0) is State.PASSED
    assert edge.channel.settled_window == -1
    assert edge.lateness == late
    pair.hand(1)
    assert edge.channel.settled_window == 1
    assert states(edge, 0, 1) == ["passed", "settled"]
    assert edge.lateness == late - 1


def test_a_window_before_the_last_on_record_is_settled() -> None:
    pair = Pair()
    pair.hand(2)
    edge = pair.edges["a0"]
    assert states(edge, 0, 1, 2, 3) == ["settled", "settled", "settled", "open"]
    assert [edge.settles(window) for window in range(4)] == [False, False, False, True]
    assert [edge.waits(window) for window in range(4)] == [False, False, False, True]


def test_only_what_can_still_be_settled_is_waited_for() -> None:
    edge = make_edge()
    edge.missed(1)
    edge.missed(2)
    edge.expire(2 + LATE_WINDOWS_MAX - 1)  # window 1
    edge.hand(3, 1, bill("a0", 3), bill("a1", 3))
    edge.refuse(4, "bill_refused", "false")
    assert states(edge, 0, 1, 2, 3, 4) == ["open", "expired", "late", "handed", "refused"]
    assert [edge.settles(window) for window in range(5)] == [True, True, True, False, False]
    assert [edge.waits(window) for window in range(5)] == [True, False, True, True, False]


def test_a_claim_bars_for_a_number_of_windows_and_may_come_later_still() -> None:
    edge = make_edge()
    edge.missed(0)
    assert edge.expire(LATE_WINDOWS_MAX - 1) == []
    assert edge.bar is not None
    assert events(edge.expire(LATE_WINDOWS_MAX)) == [("claim_expired", 0)]
    assert edge.bar is None
    edge.claimed(0)
    assert edge.state(0) is State.OPEN


def test_a_window_is_passed_over_by_the_next_bill_of_a_later_one() -> None:
    edge = make_edge()
    assert not edge.passed_over(0)
    edge.billed(bill("a1", 5, previous=2), 2, 5)
    assert [edge.passed_over(window) for window in range(7)] == [
        *(False, False, False),  # windows 0 to 2: bills up to 2 may be on their way
        *(True, True),
        *(False, False),
    ]


def test_who_has_billed_past_a_window_is_not_waited_for_and_late_each_time() -> None:
    edge = make_edge()
    edge.billed(bill("a1", 3, previous=-1), -1, 3)
    for number, window in enumerate((0, 1, 2), start=1):
        assert events(edge.missed(window)) == [("bill_missed", window)]
        assert edge.state(window) is State.PASSED
        assert edge.lateness == number * LATE_FORGOTTEN


def test_what_is_done_is_forgotten_and_what_is_on_record() -> None:
    edge = make_edge()
    for window in range(4):
        edge.missed(window)
    edge.forget(1)
    assert sorted(edge.windows) == [2, 3]
    pair = Pair()
    pair.hand(2)
    edge = pair.edges["a0"]
    edge.missed(3)
    edge.forget(-1)
    assert sorted(edge.windows) == [3]


# --- being late -----------------------------------------------------------------------------------


def test_late_for_windows_in_a_row_is_late_once() -> None:
    edge = make_edge()
    for window in range(2 * LATE_MAX):
        assert events(edge.missed(window)) == [("claim_missed", window)]
    assert edge.lateness == LATE_FORGOTTEN
    for window in range(2 * LATE_MAX):
        assert edge.claimed(window) == []
    assert edge.bar is None


def test_a_habit_of_being_late_begins_beyond_a_number_of_times() -> None:
    edge = make_edge()
    for window in range(LATE_MAX):
        edge.missed(window)
        assert edge.claimed(window) == []
    assert edge.bar is None
    edge.missed(LATE_MAX)
    assert events(edge.claimed(LATE_MAX)) == [("lateness_refused", None)]
    assert "more than" in str(edge.bar)
    assert edge.banned is None  # not for good
    assert edge.judge_lateness() == []  # it is said once
    edge.expire(LATE_OUT_WINDOWS - 2)
    assert edge.bar is not None
    edge.expire(LATE_OUT_WINDOWS - 1)
    assert edge.bar is None
    edge.missed(99)
    assert events(edge.claimed(99)) == [("lateness_refused", None)]  # again the first time


def test_a_lateness_is_forgotten_after_as_many_windows_settled_as_it_costs() -> None:
    pair = Pair()
    edge = pair.edges["a0"]
    edge.missed(100)
    edge.claimed(100)
    for window in range(LATE_FORGOTTEN + 1):
        assert edge.lateness == LATE_FORGOTTEN - window
        pair.hand(window, delta=1 if window % 2 else -1)
    assert edge.lateness == 0  # there is no credit for being early


def test_a_claim_in_time_is_no_event() -> None:
    edge = make_edge()
    edge.lateness = LATE_FORGOTTEN * LATE_MAX + 1
    assert edge.claimed(0) == []
    assert edge.banned is None


# --- who is not served ------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "debtor"), [(1, "a0"), (-1, "a1")])
def test_who_owes_beyond_the_limit_is_barred_until_it_has_paid_enough(
    sign: int, debtor: str
) -> None:
    """A delta above 0 is what lo pays."""
    pair = Pair()
    payee = PEERS[debtor]
    pair.hand(0, sign * 1000)
    assert [edge.bar for edge in pair.edges.values()] == [None, None]
    pair.hand(1, sign * 300)
    for _ in range(2):
        assert pair.edges[payee].bar == "credit limit reached"
        assert not pair.edges[payee].owing
        assert pair.edges[debtor].bar is None
        assert pair.edges[debtor].owing
        pair.pay(-sign * 100)  # too little, two times
    pair.pay(-sign * 100)
    for edge in pair.edges.values():
        assert (edge.bar, edge.owing) == (None, False)
        assert edge.channel.settled_window == 1


def test_at_first_nobody_owes_and_nobody_is_barred() -> None:
    edge = make_edge()
    assert (edge.bar, edge.owing, edge.lateness, edge.reading) == (None, False, 0, False)


def test_a_verdict_comes_before_what_is_late_and_that_before_a_debt() -> None:
    edge = make_edge()
    edge.over_limit = True
    assert edge.bar == "credit limit reached"
    edge.overdue = True
    assert edge.bar == "it has not settled window 0"
    edge.missed(2)
    assert edge.bar == "it has not claimed window 2"
    edge.banned = "it lied"
    assert edge.bar == "it lied"


def test_whoever_leaves_a_window_unsettled_for_too_long_is_overdue() -> None:
    pair = Pair()
    pair.hand(0)
    edge = pair.edges["a0"]
    edge.wait([1], 2, 10.0, overdue_s=2.0)
    edge.wait([1, 2], 3, 11.0, overdue_s=2.0)
    edge.wait([1, 2], 3, 12.0, overdue_s=2.0)
    assert not edge.overdue
    edge.wait([1, 2], 3, 12.1, overdue_s=2.0)
    assert edge.overdue
    edge.wait([2], 3, 12.9, overdue_s=2.0)  # window 1 came, and each counts by itself
    assert not edge.overdue
    edge.wait([2], 3, 13.1, overdue_s=2.0)
    assert edge.overdue
    edge.wait([], 4, 99.0, overdue_s=2.0)
    assert not edge.overdue


def test_windows_bound_what_is_left_unsettled_however_short_they_are() -> None:
    edge = make_edge()
    for coming in range(2, 2 + SETTLE_WINDOWS):
        edge.wait([1], coming, 10.0, overdue_s=2.0)
        assert not edge.overdue
    edge.wait([1], 2 + SETTLE_WINDOWS, 10.0, overdue_s=2.0)
    assert edge.overdue
    edge.wait([7], 2 + SETTLE_WINDOWS, 10.0, overdue_s=2.0)
    assert not edge.overdue


def test_an_edge_that_never_gets_up_to_date_is_overdue() -> None:
    edge = make_edge()
    edge.wait([], 1, 10.0, overdue_s=2.0)
    edge.wait([], 2, 12.0, overdue_s=2.0)
    assert not edge.overdue
    edge.wait([], 2, 12.1, overdue_s=2.0)
    assert edge.overdue


def test_records_are_read_once_at_a_time() -> None:
    edge = make_edge()
    asked = ledger.ReadRecords(TERMS.channel_id, 0, 5)
    assert edge.steps([asked, asked]) == [asked]
    edge.reading = False
    assert edge.steps([asked]) == [asked]
