"""A bill explained: each term's part of it, to the micro-credit, and what would have been free."""

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.payments.bills import BillTerms, SignedBill, make_bill, parse_rule
from candor.mechanisms.payments.credits import PAYMENT_MAX
from candor.mechanisms.payments.explanations import Explanation, explain
from candor.mechanisms.payments.rules import Floats, Neighbourhood
from candor.topologies.encoding.signatures import SigningKey
from tests.mechanisms.evidence.claimed import with_products

IDS = ("a0", "a1", "a2", "a3")
KEYS = {agent: SigningKey(bytes([i] * 32)) for i, agent in enumerate(IDS)}
RUN, WINDOW, SIZE = bytes(32), 8, 6
EACH = ("norm:0.01", "excess:0.01", "scaled:0.01", "peer-prediction:0.01", "band:5e-4",
        "originality:5e-4", "persistence:5e-4", "variance:2e-5")  # fmt: skip
DEFAULT = "band:5e-4 + originality:5e-4 + persistence:5e-4 + variance:2e-5"


def terms(rule: str) -> BillTerms:
    """A complete graph of four."""
    return BillTerms(
        run=RUN,
        window_rounds=WINDOW,
        trace_size=SIZE,
        publics={agent: key.public for agent, key in KEYS.items()},
        neighbours={agent: frozenset(IDS) - {agent} for agent in IDS},
        payments=parse_rule(rule),
    )


def claim(agent: str, traces: Floats, rounds: tuple[int, ...], window: int = 2) -> SignedClaim:
    """A claim of some rounds (counted from 1 in the window) with traces (WINDOW, SIZE)."""
    others = tuple(other for other in IDS if other != agent)
    entries = with_products(
        ClaimedRound(
            window * WINDOW + t,
            float((traces[t - 1].astype(np.float32).astype(float) ** 2).sum()),
            others,
            traces[t - 1].astype("<f4").tobytes(),
        )
        for t in rounds
    )
    return SignedClaim.sign(Claim(RUN, window, agent, entries), KEYS[agent])


def bill_of(rule: str, claims: dict[str, SignedClaim], referee: str = "a0") -> SignedBill:
    others = [held for agent, held in claims.items() if agent != referee]
    bill = make_bill(terms(rule), claims[referee], others)
    return SignedBill.sign(bill, [claims[agent] for agent in sorted(claims)], KEYS[referee])


def explained(rule: str, claims: dict[str, SignedClaim], member: str) -> Explanation:
    found = explain(terms(rule), bill_of(rule, claims), member)
    assert found is not None
    return found


@st.composite
def claimed(draw: st.DrawFn) -> dict[str, SignedClaim]:
    """Two to four agents, each with its own scale, noise, direction and missed rounds."""
    ids = IDS[: draw(st.integers(2, 4))]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = {}
    for agent in ids:
        scale = draw(st.sampled_from([0.0, 0.3, 1.0, -1.0, 3.0, 1e4]))
        noise = draw(st.sampled_from([0.0, 0.3, 2.0]))
        rounds = tuple(
            t for t in range(1, WINDOW + 1) if draw(st.sampled_from([True, True, True, False]))
        )
        vectors = scale * (1 + noise * generator.standard_normal((WINDOW, SIZE)))
        found[agent] = claim(agent, vectors, rounds)
    return found


def honest(**scales: float) -> dict[str, SignedClaim]:
    rounds = tuple(range(1, WINDOW + 1))
    found = {}
    for i, agent in enumerate(IDS):
        vectors = 1 + 0.3 * np.random.default_rng([7, i]).standard_normal((WINDOW, SIZE))
        found[agent] = claim(agent, scales.get(agent, 1.0) * vectors, rounds)
    return found


@pytest.mark.parametrize("rule", [*EACH, DEFAULT, " + ".join(EACH), f"norm:1 + {DEFAULT}"])
@settings(max_examples=12)
@given(claims=claimed())
def test_the_parts_of_an_amount_add_up_to_the_billed_integer(
    rule: str, claims: dict[str, SignedClaim]
) -> None:
    signed = bill_of(rule, claims)
    bill = signed.bill()
    for row in bill.rows:
        found = explain(terms(rule), signed, row.member)
        assert found is not None
        assert found.amount == row.amount
        assert sum(term.amount for term in found.terms) == row.amount
        for term in found.terms:
            assert term.bills == 3
            due = term.price * (term.penalty / 3 - term.shared) * 1e6
            if abs(due) < PAYMENT_MAX / 4:
                assert term.amount == pytest.approx(due, rel=1e-9, abs=4)


@pytest.mark.parametrize("rule", EACH)
@settings(max_examples=12)
@given(claims=claimed())
def test_what_is_within_the_free_range_costs_nothing_and_what_is_beyond_does(
    rule: str, claims: dict[str, SignedClaim]
) -> None:
    for member in sorted(claims.keys() - {"a0"}):
        found = explained(rule, claims, member)
        (term,) = found.terms
        assert term.looks or len(claims) == 2
        if found.rounds:
            assert term.penalty == sum(look.penalty for look in term.looks)
        for look in term.looks:
            assert (look.penalty > 0) == (not look.low <= look.value <= look.high)


def test_a_member_is_told_its_rounds_its_penalty_and_what_the_others_leave_it() -> None:
    found = explained("band:1 + norm:0.5", honest(a2=3.0), "a2")
    assert (found.referee, found.member, found.window) == ("a0", "a2", 2)
    assert found.rounds == tuple(range(17, 25))
    band, norm = found.terms
    assert (band.name, band.price, norm.name) == ("band", 1.0, "norm")
    both, energy, direction = band.looks
    # Three times the update, nine times the energy and the noise, or nearly.
    assert 6 < both.value < 12
    assert (both.low, both.high) == (0.5, 2.0)
    assert both.penalty == both.value - 2
    assert energy.penalty == energy.value - 2.5
    assert direction.penalty == 0
    assert band.shared == 0
    assert norm.looks[0].high == 0
    other = explained("band:1 + norm:0.5", honest(a2=3.0), "a1")
    assert other.terms[0].penalty == 0
    others = [explained("band:1", honest(a2=3.0), one).terms[0].amount for one in ("a1", "a3")]
    assert sum(others) == pytest.approx(-1e6 * band.penalty / 3, abs=1)


def test_a_bill_explains_nothing_to_who_is_not_in_it_and_to_its_referee() -> None:
    held = {agent: one for agent, one in honest().items() if agent != "a3"}
    signed = bill_of("norm:1", held)
    assert explain(terms("norm:1"), signed, "a3") is None
    assert explain(terms("norm:1"), signed, "a0") is None


def test_a_users_own_rule_is_explained_by_its_charge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounds:
        edge_local = True

        def charges(self, neighbourhood: Neighbourhood) -> Floats:
            return neighbourhood.mask.sum(axis=-1).astype(np.float64)

    module = ModuleType("round_rules")
    module.Rounds = Rounds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "round_rules", module)
    found = explained("round_rules:Rounds@0.25 + band:1", honest(), "a1")
    assert (found.terms[0].penalty, found.terms[0].amount) == (WINDOW, 666_667)
    assert found.terms[0].looks == ()
