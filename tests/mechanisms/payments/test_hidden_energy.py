"""What sketches hide is billed: as noise, the same by claims and in a simulation."""

from dataclasses import replace

import numpy as np
import pytest

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.evidence.fresh import Fresh
from candor.mechanisms.payments.balances import net_balances, windows_of
from candor.mechanisms.payments.band import with_hidden
from candor.mechanisms.payments.bills import make_bill, neighbourhood
from tests.mechanisms.payments.test_bills import (
    IDS,
    KEYS,
    WINDOW,
    claim,
    of_rounds,
    terms,
    vectors,
)

FRESH = Fresh(64, 1024)
SEEN = FRESH.ratio(WINDOW) * 1.1  # so many times the energy that sketches show


def whole(signed: SignedClaim, factor: float | None) -> SignedClaim:
    """A claim whose fresh sketches show so many times the energy."""
    said = signed.claim()
    rounds = tuple(
        replace(one, whole=None if factor is None else factor * one.energy) for one in said.rounds
    )
    return SignedClaim.sign(replace(said, rounds=rounds), KEYS[said.agent])


def bill(rule: str, **factors: float | None):
    """The bill of a0 where fresh sketches show so many times the energy of some."""
    held = {agent: whole(claim(agent), factors.get(agent, 1.0)) for agent in IDS}
    return make_bill(replace(terms(rule), fresh=FRESH), held.pop("a0"), held.values())


@pytest.mark.parametrize("rule", ["norm:0.01", "variance:0.01", "excess:0.01", "scaled:0.01"])
def test_what_is_hidden_is_charged_as_if_it_were_shown(rule: str) -> None:
    honest = bill(rule)
    assert bill(rule, a1=FRESH.ratio(WINDOW) * 0.99).rows == honest.rows
    for factor in (SEEN, 8.0, 40.0):
        assert bill(rule, a1=factor).amount("a1") >= honest.amount("a1")
    assert bill(rule, a1=40.0).amount("a1") > bill(rule, a1=8.0).amount("a1") > 0


@pytest.mark.parametrize("rule", ["norm:0.01", "band:1.0", "scaled:0.01 + originality:1.0"])
def test_bills_of_honest_claims_and_of_an_earlier_protocol_are_the_same(rule: str) -> None:
    honest, before = bill(rule), bill(rule, **dict.fromkeys(IDS))
    assert honest.rows == before.rows
    assert make_bill(terms(rule), claim("a0"), map(claim, IDS[1:])).rows == honest.rows


def test_a_window_with_a_round_that_has_none_hides_nothing() -> None:
    said = whole(claim("a1"), 40.0).claim()
    part = replace(said, rounds=(replace(said.rounds[0], whole=None), *said.rounds[1:]))
    own = replace(terms("norm:0.01"), fresh=FRESH)
    referee = claim("a0").claim()
    assert neighbourhood(own, referee, [referee, part]).energies[1] == sum(
        one.energy for one in part.rounds
    )
    hidden = neighbourhood(own, referee, [referee, said]).energies[1]
    assert hidden == pytest.approx(40.0 * sum(one.energy for one in said.rounds))


def test_what_is_hidden_is_noise_in_each_of_the_rounds() -> None:
    """A direction that is shown all window long, with something else behind it."""
    shown = np.full((1, 3, 3), 2.0)
    mask = np.array([[True, False, True]])
    energies, products = with_hidden(np.array([4.0]), mask, shown, np.array([6.0]))
    assert energies.tolist() == [10.0]
    assert products[0].tolist() == [[5.0, 2.0, 2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 5.0]]
    none = with_hidden(np.array([4.0]), mask, shown, np.array([0.0]))
    assert none[0].tobytes() == np.array([4.0]).tobytes()
    assert none[1].tobytes() == shown.tobytes()


@pytest.mark.parametrize("rule", ["norm:0.01", "variance:0.1 + scaled:0.01", "band:1.0"])
def test_a_simulation_bills_it_alike(rule: str) -> None:
    factors = {"a1": 5.0, "a3": 1.2}
    run = replace(terms(rule), fresh=FRESH)
    held = {a: whole(claim(a), factors.get(a, 1.0)) for a in IDS}
    balances = dict.fromkeys(IDS, 0)
    for referee in IDS:
        made = make_bill(run, held[referee], [held[a] for a in IDS if a != referee])
        for row in made.rows:
            balances[row.member] -= row.amount
            balances[referee] += row.amount
    traces = np.stack([vectors(a) for a in IDS], axis=1).astype(float)
    energies = (traces**2).sum(axis=-1)
    shown = energies * [factors.get(a, 1.0) for a in IDS]
    windows = windows_of(energies, traces, of_rounds(traces), WINDOW, (shown, FRESH))
    around = {i: [k for k in range(4) if k != i] for i in range(4)}
    received = net_balances(run.payments, around, windows).sum(axis=1)
    assert dict(zip(IDS, received.tolist(), strict=True)) == balances
    assert balances["a1"] < min(balances[a] for a in IDS if a != "a1")
