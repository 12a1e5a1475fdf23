"""Golden amounts: one neighbourhood billed by every rule, at prices that show the last bit."""

import numpy as np
import pytest

from mechanisms.claims import Claim, ClaimedRound, SignedClaim
from mechanisms.payments import BillTerms, make_bill, parse_rule
from tests.golden import assert_golden
from topologies.canonical import sha256
from topologies.signatures import SigningKey

RUN = sha256(b"amounts")
REFEREE = "a3"
WINDOW, SIZE = 8, 6
ROUNDS = {  # of window 1; a4 is never heard, a0 was away for a round
    "a0": [9, 10, 11, 13, 14, 15, 16],
    "a1": [9, 10, 11, 12, 13, 14, 15, 16],
    "a2": [9, 10, 11, 12, 13, 14, 15, 16],
    "a3": [9, 10, 11, 12, 13, 14, 15],
    "a4": [9, 10],
    "a5": [9, 10, 11, 12, 13, 14, 15, 16],
    "a6": [12, 13],
}
DEAR = ("norm:1e+9", "peer-prediction:1e+9", "band:1e+12", "originality:5e+10", "persistence:1e+11")
RULES = (
    *DEAR,
    "band:5e-4 + norm:2e-5",
    "persistence:0.1 + norm:3 + originality:0.01 + band:7e-3 + peer-prediction:0.3",
)


def claims() -> list[SignedClaim]:
    """a1 exaggerates, a2 repeats a1's last round, a5 alternates signs, a6 injects nothing."""
    generator = np.random.default_rng(11)
    honest = {agent: 1 + 0.4 * generator.standard_normal((WINDOW, SIZE)) for agent in ROUNDS}
    honest["a1"] *= 9.0
    honest["a2"][1:] = honest["a1"][:-1] + 0.05 * generator.standard_normal((WINDOW - 1, SIZE))
    honest["a5"][::2] *= -1.0
    honest["a6"][:] = 0.0
    made = []
    for agent, numbers in ROUNDS.items():
        entries = []
        for number in numbers:
            trace = honest[agent][number - 9].astype("<f4")
            heard = [one for one in ROUNDS if one not in (agent, "a4") and number in ROUNDS[one]]
            if (agent, number) == (REFEREE, 14):
                heard.remove("a2")  # the referee did not mix it, and it is not charged
            energy = 1.01 * float((trace.astype(float) ** 2).sum())
            entries.append(ClaimedRound(number, energy, tuple(heard), trace.tobytes()))
        key = SigningKey(sha256(agent.encode()))
        made.append(SignedClaim.sign(Claim(RUN, 1, agent, tuple(entries)), key))
    return made


def terms(rule: str) -> BillTerms:
    near = {agent: frozenset(ROUNDS) - {agent} for agent in ROUNDS}
    publics = {agent: SigningKey(sha256(agent.encode())).public for agent in ROUNDS}
    return BillTerms(RUN, WINDOW, SIZE, publics, near, parse_rule(rule))


def rows(rule: str) -> list[list[str | int]]:
    """The rows of the referee's bill."""
    signed = {one.claim().agent: one for one in claims()}
    bill = make_bill(terms(rule), signed.pop(REFEREE), signed.values())
    return [[row.member, row.transfer, row.charge] for row in bill.rows]


def test_the_golden_amounts_stay_the_same() -> None:
    assert_golden(
        "amounts.json",
        {
            "about": "The rows [member, transfer, charge] of one referee's bill by several rules, "
            "from the bodies of its own and its neighbours' claims: window 1 of 8 rounds, traces "
            "of 6 values. Prices are so high that the last bit of every sum shows.",
            "referee": REFEREE,
            "claims": [signed.body.hex() for signed in claims()],
            "rows": {rule: rows(rule) for rule in RULES},
        },
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_the_vector_tells_the_members_apart(rule: str) -> None:
    paid = {member: (transfer, charge) for member, transfer, charge in rows(rule)}
    assert paid["a4"] == (0, 0)
    assert sum(transfer for transfer, _ in paid.values()) == 0
    assert len(set(paid.values())) > 2


@pytest.mark.parametrize("rule", DEAR)
def test_the_vector_shows_the_last_bit_of_a_sum(rule: str) -> None:
    # Added in another order, the same penalties would often round to other amounts.
    assert max(abs(transfer) + abs(charge) for _, transfer, charge in rows(rule)) > 2**53
