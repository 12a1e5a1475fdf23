"""Two halves that contradict each other become proof wherever they meet, and nothing else does."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from candor.agent.core.settlement import contradictions as collector
from candor.agent.core.settlement.contradictions import UNCLAIMED_KEPT, Collector, Newest
from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.payments.bills import Bill, SignedBill
from candor.mechanisms.proofs import CONTRADICTORY, TWO_BILLS, TWO_CLAIMS, verify_proof
from tests.honest import IDS, KEYS, NEIGHBOURS, RUN, WINDOW, Ring, make_terms
from tests.mechanisms.evidence.claimed import with_products

TERMS = make_terms()
OWN = "a0"


def claim(agent: str, window: int = 0, energy: float = 1.0, **changes: object) -> SignedClaim:
    rounds = (ClaimedRound(window * WINDOW + 1, energy, (), bytes(32)),)
    made = replace(Claim(RUN, window, agent, rounds), **changes)
    return SignedClaim.sign(made, KEYS[agent])


def bill(referee: str, *claims: SignedClaim, window: int = 0, previous: int = -1) -> SignedBill:
    digests = tuple(one.digest for one in claims)
    made = Bill(RUN, window, previous, referee, "none", (), digests)
    return SignedBill.sign(made, claims, KEYS[referee])


def found(held: Collector) -> list[tuple[str, str, str]]:
    verdicts = [verify_proof(proof, TERMS) for proof in held.take()]
    assert not any(verdict.malice for verdict in verdicts)
    return [(verdict.kind, verdict.agent, verdict.place) for verdict in verdicts]


def test_two_claims_are_proof_wherever_they_were_met() -> None:
    one, two = claim("a2"), claim("a2", energy=2.0)
    for meet in (
        lambda held: (held.claimed(one), held.claimed(two)),
        lambda held: (held.billed(bill("a1", one)), held.billed(bill("a3", two))),
        lambda held: (held.claimed(two), held.billed(bill("a1", one))),
    ):
        held = Collector(OWN, TERMS)
        meet(held)
        assert found(held) == [(TWO_CLAIMS, "a2", "window 0")]
        assert found(held) == []


def test_two_bills_are_proof() -> None:
    held = Collector(OWN, TERMS)
    held.billed(bill("a1", claim("a1"), window=2))
    held.billed(bill("a1", claim("a1"), window=2, previous=1))
    assert found(held) == [(TWO_BILLS, "a1", "window 2")]


def test_the_same_again_another_window_and_another_run_are_none() -> None:
    held = Collector(OWN, TERMS)
    for one in (claim("a2"), claim("a2"), claim("a2", 1), claim("a2", energy=2.0, run=bytes(32))):
        held.claimed(one)
    held.billed(bill("a1", claim("a1", 1)))
    held.billed(bill("a1", claim("a1", 1), window=1))
    held.billed(bill("a3", claim("a1", 1, energy=2.0)))  # a claim of another window than the bill's
    elsewhere = replace(bill("a1", window=1, previous=0).bill(), run=bytes(32))
    held.billed(SignedBill.sign(elsewhere, (), KEYS["a1"]))
    assert found(held) == []


def test_what_its_agent_has_not_signed_is_neither_kept_nor_proof() -> None:
    held = Collector(OWN, TERMS)
    true, other = claim("a2"), claim("a2", energy=2.0)
    forged = SignedClaim(other.body, KEYS["a1"].sign("candor/claim/v1", other.body))
    for one in (forged, true, forged):
        held.claimed(one)
    assert found(held) == []
    held.claimed(other)
    assert found(held) == [(TWO_CLAIMS, "a2", "window 0")]
    stranger = replace(other.claim(), agent="zz")
    held.claimed(SignedClaim.sign(stranger, KEYS["a1"]))
    assert found(held) == []


def test_nothing_is_held_against_oneself() -> None:
    """A restored backup of our own is told to us by a refusal, not by a proof."""
    held = Collector(OWN, TERMS)
    held.claimed(claim(OWN))
    held.billed(bill("a1", claim(OWN, energy=2.0)))
    held.billed(bill(OWN, window=2))
    held.billed(bill(OWN, window=2, previous=1))
    assert found(held) == []


def filled(ring: Ring, rounds: range) -> Collector:
    held = Collector(OWN, TERMS)
    for t in rounds:
        for agent in IDS:
            held.stated(ring.signed[t][agent], ring.examine(t, agent).sources)
    return held


def false_claim(agent: str, window: int) -> SignedClaim:
    first = window * WINDOW + 1
    heard = tuple(sorted(NEIGHBOURS[agent]))
    zero = (ClaimedRound(t, 0.0, heard, bytes(32)) for t in range(first, first + WINDOW))
    return claim(agent, window, rounds=with_products(zero))


def test_a_refused_claim_is_proven_with_the_statements_of_its_window() -> None:
    ring = Ring().play(7)
    held = filled(ring, range(1, 8))
    held.refused(false_claim("a2", 1))
    assert found(held) == [(CONTRADICTORY, "a2", "round 4")]
    held.refused(false_claim("a2", 7))
    assert found(held) == []


def test_statements_of_windows_that_are_over_are_forgotten() -> None:
    held = filled(Ring().play(7), range(1, 8))
    claim = false_claim("a2", 1)
    held.claimed(claim)
    held.forget(2)
    held.refused(claim)
    assert found(held) == []
    held.refused(false_claim("a2", 2))
    assert found(held) == [(CONTRADICTORY, "a2", "round 7")]


def test_those_of_windows_that_were_not_claimed_are_kept_for_their_agent() -> None:
    held = filled(Ring().play(7), range(1, 8))
    held.forget(2)
    stated = {said.statement.round for said, _ in held.said_unclaimed("a2")}
    assert held.keeps("a2", 1)
    held.claimed(false_claim("a2", 1))
    claimed = {said.statement.round for said, _ in held.said_unclaimed("a2")}
    assert claimed < stated
    held.forget(2 + UNCLAIMED_KEPT)
    assert not held.keeps("a2", 0)


def test_statements_beyond_the_bound_give_way_oldest_first(monkeypatch) -> None:
    ring = Ring().play(6)
    size = sum(len(ring.signed[6][a].body) + sum(map(len, ring.examine(6, a).sources)) for a in IDS)
    monkeypatch.setattr(collector, "STATED_BYTES_MAX", 2 * size)
    held = filled(ring, range(1, 7))
    held.refused(false_claim("a2", 0))
    assert found(held) == []
    held.refused(false_claim("a2", 1))
    assert found(held) == [(CONTRADICTORY, "a2", "round 5")]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60))
def test_what_is_held_stays_within_its_bound_and_is_the_first_of_each_key(entries) -> None:
    newest: Newest[int, tuple[int, int]] = Newest(100)
    held: dict[int, tuple[int, int]] = {}
    for at, (key, size) in enumerate(entries):
        newest.keep(key, (at, size), size)
        held.setdefault(key, (at, size))
        while sum(size for _, size in held.values()) > 100:
            del held[min(held, key=lambda k: held[k][0])]
        assert newest.values() == list(held.values())
    newest.forget(lambda key: key % 2 == 0)
    assert newest.values() == [value for key, value in held.items() if key % 2]
    newest.keep(10, (0, 100), 100)  # what was let go takes no room any more
    assert newest.get(10) == (0, 100)


def test_a_value_beyond_the_whole_bound_is_not_held() -> None:
    newest: Newest[int, str] = Newest(10)
    newest.keep(1, "too large", 11)
    newest.keep(2, "fits", 10)
    assert newest.values() == ["fits"]
