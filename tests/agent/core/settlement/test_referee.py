"""What a referee claims, waits for, judges and bills, on rounds that were really played."""

from dataclasses import replace

import numpy as np
import pytest

from candor.agent.core.settlement.evidence_book import WINDOWS_KEPT, EvidenceBook
from candor.agent.core.settlement.referee import CLAIMS_KEPT, Referee
from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.statements import EvidenceError
from candor.mechanisms.payments.bills import BillError, BillTerms, SignedBill, parse_rule
from tests.honest import IDS, KEYS, NEIGHBOURS, RUN, SKETCH, WINDOW, Ring

OWN, AROUND = "a1", ("a0", "a2")
ROUNDS = 9  # three windows
RING = Ring().play(ROUNDS + 1)
TERMS = BillTerms(
    run=RUN,
    window_rounds=WINDOW,
    trace_size=SKETCH,
    publics={agent: key.public for agent, key in KEYS.items()},
    neighbours={agent: frozenset(NEIGHBOURS[agent]) for agent in IDS},
    payments=parse_rule("norm:0.001"),
)


def book_of(agent: str, rounds: int = ROUNDS) -> EvidenceBook:
    """What an agent has seen after some rounds."""
    book = EvidenceBook(agent, RING.examiner)
    for t in range(1, rounds + 1):
        book.add_own(RING.signed[t][agent])
        for k in NEIGHBOURS[agent]:
            book.add(RING.signed[t][k], RING.examine(t, k))
        book.mixed(t, RING.rows[t + 1][agent])
    return book


def make_referee(rounds: int = ROUNDS, limit: int = 10**9, **changes: int) -> Referee:
    return Referee(
        KEYS[OWN], book_of(OWN, rounds), TERMS, patience_s=5.0, credit_limit=limit, **changes
    )


def claim_of(agent: str, window: int) -> SignedClaim:
    return SignedClaim.sign(book_of(agent).claim(window), KEYS[agent])


CLAIMS = {(agent, window): claim_of(agent, window) for agent in AROUND for window in range(3)}


def over(referee: Referee, *rounds: int) -> list[list[int]]:
    return [referee.round_over(t, ROUNDS) for t in rounds]


# --- own claims -----------------------------------------------------------------------------------


def test_a_window_is_claimed_when_its_last_round_is_over_and_once() -> None:
    referee = make_referee()
    assert over(referee, 1, 2, 3, 4, 5) == [[], [], [0], [], []]
    referee.claim(0)
    assert over(referee, 6, 7, 8, 9) == [[1], [], [], [2]]


def test_the_last_round_of_a_run_ends_its_window() -> None:
    assert make_referee(4).round_over(4, rounds=4) == [1]
    assert make_referee(4).round_over(4, rounds=5) == []


def test_a_window_that_was_jumped_over_is_claimed_if_anything_was_stated_in_it() -> None:
    referee = make_referee(4)  # of the second window one round, of the third none
    assert over(referee, 1, 9) == [[], [0, 1]]


def test_what_an_earlier_life_has_claimed_is_not_claimed_again() -> None:
    first = make_referee()
    stored, _ = first.claim(0)
    second = make_referee()
    second.restore(0, stored.value, None)
    assert second.has_claimed(0)
    assert over(second, 1, 3, 6) == [[], [], [1]]


def test_what_all_have_settled_is_forgotten_and_what_is_far_behind() -> None:
    referee = make_referee()
    for window in (0, 1, 2):
        referee.claim(window)
    referee.forget(0)
    assert [held.window for held in referee.published(-1)] == [1, 2]
    assert [held.window for held in referee.published(1)] == [2]
    referee.claim(1 + CLAIMS_KEPT)
    referee.forget(0)
    assert [held.window for held in referee.published(-1)] == [1, 2, 1 + CLAIMS_KEPT]
    referee.claim(2 + CLAIMS_KEPT)
    referee.forget(0)
    assert [held.window for held in referee.published(-1)] == [2, 65, 66]
    assert CLAIMS_KEPT == WINDOWS_KEPT == 64


# --- claims of others -----------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "resting", "first"), [((), 5, 5), ((1,), 0, 0), ((1, 3), 0, 1)])
def test_claims_and_bills_of_windows_that_are_near_are_wanted(
    rounds: tuple[int, ...], resting: int, first: int
) -> None:
    referee = make_referee(resting=resting)
    over(referee, *rounds)
    for window in (first, first + CLAIMS_KEPT - 1):
        assert referee.wanted(window)
        assert referee.near(window)
    for window in (first - 1, first + CLAIMS_KEPT):
        assert not referee.wanted(window)
    assert [referee.near(first + d) for d in (-65, -64, -1, 64)] == [False, True, True, False]


def test_the_first_claim_of_a_window_is_kept_and_another_is_none() -> None:
    referee = make_referee()
    one, other = CLAIMS["a0", 0], SignedClaim.sign(Claim(RUN, 0, "a0", ()), KEYS["a0"])
    assert referee.keep("a0", 0, one)
    assert referee.keep("a0", 0, one)
    assert not referee.keep("a0", 0, other)
    assert referee.claim_of("a0", 0) == one
    assert referee.claim_of("a0", 1) is None
    referee.drop("a0", 0)
    assert referee.claim_of("a0", 0) is None


def test_claims_of_windows_that_nobody_can_settle_any_more_are_dropped() -> None:
    referee = make_referee()
    over(referee, 1)
    referee.keep("a0", 0, CLAIMS["a0", 0])
    referee.keep("a0", 1, CLAIMS["a0", 1])
    over(referee, 3)  # window 0 ends and is about to be claimed
    assert referee.claim_of("a0", 0) is not None
    over(referee, 4)  # and was not
    assert referee.claim_of("a0", 0) is None
    assert referee.claim_of("a0", 1) is not None


def test_a_claim_covers_what_was_stated_and_nothing_that_was_heard_by_nobody() -> None:
    referee = make_referee(rounds=5)  # of the second window two rounds, of three
    referee.claim(0)
    referee.claim(1)
    true = CLAIMS["a0", 0]
    referee.judge(true)
    lacking = replace(true.claim(), rounds=true.claim().rounds[:-1])
    with pytest.raises(EvidenceError, match="claim-incomplete.*round 3"):
        referee.judge(SignedClaim.sign(lacking, KEYS["a0"]))
    # A round that was never stated to us, of which it says that it heard us: we have claimed none.
    referee.judge(CLAIMS["a0", 1])
    seen = referee._book.seen("a0", 1)
    del seen.energies[5]
    with pytest.raises(EvidenceError, match="claim-unseen.*round 5"):
        referee.judge(CLAIMS["a0", 1])


def test_who_stated_in_a_window_and_has_not_claimed_it_is_awaited() -> None:
    referee = make_referee(rounds=3)
    referee.keep("a0", 0, CLAIMS["a0", 0])
    assert referee.awaited(0, ["a0", "a2", "a3"]) == ["a2"]  # a3 is no neighbour: nothing was seen
    assert referee.awaited(1, ["a0", "a2"]) == []


# --- bills ----------------------------------------------------------------------------------------


def test_each_window_waits_for_claims_at_its_own_deadline() -> None:
    referee = make_referee()
    referee.claim(0)
    [first] = referee.unbilled(10.0)
    assert first.bill_by_s == 15.0
    referee.claim(1)
    assert [held.bill_by_s for held in referee.unbilled(12.0)] == [15.0, 17.0]
    referee.bill(0, [])
    assert [held.window for held in referee.unbilled(13.0)] == [1]


def test_a_bill_is_of_members_that_have_claimed_and_names_the_one_before() -> None:
    referee = make_referee()
    for window in (0, 2):
        referee.claim(window)
        for agent in AROUND:
            referee.keep(agent, window, CLAIMS[agent, window])
    first = SignedBill.decode(referee.bill(0, ["a0", "a2"]).value)
    assert (first.bill().window, first.bill().previous) == (0, -1)
    assert {claim.claim().agent for claim in first.claims} == {"a0", "a1", "a2"}
    assert referee.claim_of("a0", 0) is None  # billed
    assert referee.claim_of("a0", 2) is not None
    second = SignedBill.decode(referee.bill(2, ["a2"]).value)
    assert (second.bill().window, second.bill().previous) == (2, 0)
    assert [claim.claim().agent for claim in second.claims] == ["a1", "a2"]
    assert referee.billed_as(first.digest) == first.bill().window
    assert referee.billed_as(bytes(32)) is None


def test_bills_of_an_earlier_life_are_taken_back_and_what_they_passed_over_stays_so() -> None:
    first = make_referee()
    stored = {window: first.claim(window)[0].value for window in (0, 1, 2)}
    bill = first.bill(1, []).value
    second = make_referee()
    second.restore(0, stored[0], None)
    assert second.restore(1, stored[1], bill) == SignedBill.decode(bill)
    second.restore(2, stored[2], None)
    assert [held.window for held in second.published(-1)] == [1, 2]
    assert [held.window for held in second.unbilled(0.0)] == [2]
    assert SignedBill.decode(second.bill(2, []).value).bill().previous == 1


def test_a_bill_holds_the_claims_that_were_made() -> None:
    referee = make_referee()
    referee.claim(0)
    own, theirs = referee.published(-1)[0].claim, CLAIMS["a0", 0]

    def billed(*claims: SignedClaim) -> SignedBill:
        return SignedBill(b"", b"", claims)

    referee.match("a0", billed(theirs, own))
    assert referee.claim_of("a0", 0) == theirs
    entry = ClaimedRound(1, 1.0, (), bytes(4 * SKETCH))
    for agent, reason in ((OWN, "not the one we made"), ("a0", "sent us another claim")):
        false = SignedClaim.sign(Claim(RUN, 0, agent, (entry,)), KEYS[agent])
        with pytest.raises(BillError, match=reason):
            referee.match("a0", billed(false))
    unknown = SignedClaim.sign(Claim(RUN, 1, OWN, (entry,)), KEYS[OWN])
    with pytest.raises(BillError, match="not the one we made"):
        referee.match("a0", billed(unknown))
    assert referee.forgotten(billed(theirs, unknown)) == unknown
    assert referee.forgotten(billed(theirs, own)) is None


# --- what can be paid -----------------------------------------------------------------------------


def test_an_update_is_too_large_where_a_window_of_its_like_costs_more_than_the_credit() -> None:
    """norm:0.001 charges 1000 micro-credits for a unit of energy; a window has three rounds."""
    for limit, within in ((3 * 1000 * 16, 16.0), (3 * 1000 * 16 - 1, 8.0)):
        referee = make_referee(rounds=0, limit=limit)
        assert not referee.too_large(0.0)
        assert not referee.too_large(within)
        assert referee.too_large(np.nextafter(within, np.inf))  # as if it were twice as large
        assert referee.too_large(2 * within)
        assert not referee.too_large(np.nextafter(within, 0))
    assert make_referee(rounds=0).too_large(1e300)  # no amount at all
