"""Golden amounts: neighbourhoods billed by every rule, at prices that show the last bit."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.fresh import Fresh
from candor.mechanisms.payments.bills import BillTerms, make_bill, parse_rule
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey
from tests.golden import assert_golden
from tests.mechanisms.evidence.claimed import with_products

RUN = sha256(b"amounts")
WINDOW, SIZE = 8, 6
FRESH = Fresh(64, 1024)
ROUNDS = range(9, 17)  # of window 1
# At these prices amounts are beyond 2^49: in another order, the same sums would round otherwise.
DEAR = (
    "norm:2e+7",
    "peer-prediction:2e+7",
    "band:1e+8",
    "originality:5e+8",
    "persistence:1e+8",
    "variance:3e+7",
    "excess:2e+7",
    "scaled:1e+8",
)
RULES = (
    *DEAR,
    "band:5e-4 + norm:2e-5",
    "persistence:0.1 + norm:3 + originality:0.01 + band:7e-3 + peer-prediction:0.3",
    "variance:0.2 + band:1e-3 + excess:0.07 + scaled:0.3",
    "norm:1e+300 + excess:1e+300",  # the most that is asked
)
REFEREE = "a3"
# Leaves, agents of some neighbours, and a4, whose neighbours but one have no other.
NEIGHBOURS = {
    "a0": ["a3"],
    "a1": ["a2", "a3", "a6"],
    "a2": ["a1", "a3"],
    "a3": ["a0", "a1", "a2", "a4", "a5", "a6", "a7"],
    "a4": ["a3", "a8", "a9"],
    "a5": ["a3", "a7"],
    "a6": ["a1", "a3"],
    "a7": ["a3", "a5"],
    "a8": ["a4"],
    "a9": ["a4"],
}

Traces = dict[str, dict[int, NDArray[np.float32]]]
Rows = list[list[str | int]]


def liars() -> Traces:
    """a1 exaggerates, a2 repeats a1's last round, a5 alternates signs, a6 and a7 inject nothing."""
    generator = np.random.default_rng(11)
    ids = ("a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7")
    made = {agent: 1 + 0.4 * generator.standard_normal((WINDOW, SIZE)) for agent in ids}
    made["a1"] *= 3.0
    made["a2"][1:] = 0.6 * made["a1"][:-1]
    made["a2"] += 0.02 * generator.standard_normal((WINDOW, SIZE))
    made["a5"][::2] *= -1.0
    made["a6"][:] = made["a7"][:] = 0.0
    away = {"a0": {12}, "a4": {11, 12}, "a6": {9, 10, 16}, "a7": {9}}
    return {agent: _traces(rows, away.get(agent, set())) for agent, rows in made.items()}


def idlers() -> Traces:
    """a1 and a2 inject nothing and have one round in common: what is their distance?"""
    steady = 1 + 0.1 * np.random.default_rng(12).standard_normal((WINDOW, SIZE))
    none = np.zeros((WINDOW, SIZE))
    return {
        "a1": _traces(none, set()),
        "a2": _traces(none, set(ROUNDS[1:])),
        REFEREE: _traces(steady, set()),
    }


def rare() -> Traces:
    """a1 and a2 alternate signs: in four rounds, too few to judge, and in five."""
    rows = 1 + 0.1 * np.random.default_rng(14).standard_normal((WINDOW, SIZE))
    signs = np.where(np.arange(WINDOW) % 2, 1.0, -0.5)[:, np.newaxis]
    return {
        "a1": _traces(signs * rows, set(ROUNDS[4:])),
        "a2": _traces(signs * rows, set(ROUNDS[5:])),
        REFEREE: _traces(rows, set()),
    }


def rounding() -> Traces:
    """What a0 and a1 inject is below 2^-30 of the largest energy, a2 is just above that."""
    generator = np.random.default_rng(15)
    scales = {"a0": 1e-7, "a1": 1e-5, "a2": 1e-4, REFEREE: 1.0, "a5": 1.0}
    rows = {one: generator.standard_normal((WINDOW, SIZE)) for one in scales}
    return {one: _traces(scales[one] * (1 + rows[one]), set()) for one in scales}


def mixed(seed: int) -> Traces:
    """A few agents, some of which were away, alternate signs or inject nothing."""
    generator = np.random.default_rng([13, seed])
    found: Traces = {}
    for agent in (f"a{i}" for i in range(2 + seed % 2, 6)):
        rows = 1 + 0.5 * generator.standard_normal((WINDOW, SIZE))
        match generator.integers(4):
            case 0:
                rows[::2] *= -0.4
            case 1:
                rows *= 0.0 if agent != REFEREE else 1.8
        found[agent] = _traces(rows, {n for n in ROUNDS if generator.random() < 0.35})
    return found


def _traces(rows: NDArray[np.float64], away: set[int]) -> dict[int, NDArray[np.float32]]:
    each = zip(ROUNDS, rows.astype("<f4"), strict=True)
    return {number: row for number, row in each if number not in away}


CASES = {
    "liars": liars(),
    "idlers": idlers(),
    "rare": rare(),
    "rounding": rounding(),
    "hiding": rare(),
    **{f"mixed {i}": mixed(i) for i in range(5)},
}


def whole(energy: float, agent: str, number: int) -> float:
    """What fresh sketches show: twice as much of a1 as its sketches, in the mean; a third more of
    others, which chance explains."""
    return energy * (1.33 if agent != "a1" else 2.5 if number % 2 else 1.5)


def claims(traces: Traces, *, hiding: bool = False) -> list[SignedClaim]:
    """Everyone has heard everyone but a4, and the referee missed a2's update of round 14."""
    made = []
    for agent, own in traces.items():
        entries = []
        for number, trace in own.items():
            heard = [one for one in traces if one not in (agent, "a4") and number in traces[one]]
            if (agent, number) == (REFEREE, 14) and "a2" in heard:
                heard.remove("a2")
            energy = 1.01 * float((trace.astype(float) ** 2).sum())
            entry = ClaimedRound(number, energy, tuple(heard), trace.tobytes())
            seen = whole(energy, agent, number) if hiding else None
            entries.append(replace(entry, whole=seen))
        key = SigningKey(sha256(agent.encode()))
        made.append(SignedClaim.sign(Claim(RUN, 1, agent, with_products(entries)), key))
    return made


def rows_of(rule: str, traces: Traces, *, hiding: bool = False) -> Rows:
    """The rows of the referee's bill."""
    signed = {one.claim().agent: one for one in claims(traces, hiding=hiding)}
    near = {agent: frozenset(around) for agent, around in NEIGHBOURS.items()}
    publics = {agent: SigningKey(sha256(agent.encode())).public for agent in traces}
    terms = BillTerms(RUN, WINDOW, SIZE, publics, near, parse_rule(rule), FRESH)
    bill = make_bill(terms, signed.pop(REFEREE), signed.values())
    return [[row.member, row.transfer, row.charge] for row in bill.rows]


def test_the_golden_amounts_stay_the_same() -> None:
    assert_golden(
        "amounts.json",
        {
            "about": "The rows [member, transfer, charge] of a referee's bill by several rules, "
            "from the bodies of its own and its neighbours' claims: window 1 of 8 rounds, traces "
            "of 6 values; of one case with what fresh sketches show. Prices are so high that the "
            "last bit of every sum shows.",
            "referee": REFEREE,
            "neighbours": NEIGHBOURS,
            "fresh": [FRESH.values, FRESH.sketch_size],
            "cases": {
                name: {
                    "claims": [
                        signed.body.hex() for signed in claims(traces, hiding=name == "hiding")
                    ],
                    "rows": {
                        rule: rows_of(rule, traces, hiding=name == "hiding") for rule in RULES
                    },
                }
                for name, traces in CASES.items()
            },
        },
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_tells_the_liars_apart(rule: str) -> None:
    paid = {member: (transfer, charge) for member, transfer, charge in rows_of(rule, liars())}
    assert paid["a4"] == (0, 0)
    assert sum(transfer for transfer, _ in paid.values()) == 0
    assert len(set(paid.values())) > 2


@pytest.mark.parametrize("rule", DEAR)
def test_the_amounts_show_the_last_bit_of_a_sum(rule: str) -> None:
    rows = rows_of(rule, liars())
    assert max(abs(int(transfer)) + abs(int(charge)) for _, transfer, charge in rows) > 2**49
