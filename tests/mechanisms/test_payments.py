"""Rules are named strictly, bills are deterministic, a simulated run pays what a real one does."""

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mechanisms.claims import Claim, ClaimedRound, SignedClaim
from mechanisms.credits import AMOUNT_MAX, AmountError, to_micro
from mechanisms.payments import (
    Bill,
    Payments,
    edge_bills,
    net_balances,
    parse_rule,
    window_energies,
)
from topologies.canonical import MalformedError, pack, sha256, unpack
from topologies.signatures import SigningKey
from topologies.specs import ConfigurationError

RUN = sha256(b"run")


class DirectionNorm:
    """A user's rule: charged the squared length of the direction."""

    edge_local = True
    uses_directions = True

    def charges(
        self, energies: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        squares: NDArray[np.float64] = np.einsum("...k,...k->...", directions, directions)
        return squares


class Neighbourhood(DirectionNorm):
    edge_local = False


class WrongShape(DirectionNorm):
    def charges(
        self, energies: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return directions


class NotARule:
    pass


class NeedsArguments(DirectionNorm):
    def __init__(self, tau: float) -> None:
        self.tau = tau


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this module's classes can be imported."""
    import sys

    monkeypatch.setitem(sys.modules, "own_rules", sys.modules[__name__])
    return "own_rules"


def signed(
    agent: str,
    energies: list[float],
    heard: tuple[str, ...],
    *,
    window: int = 0,
    direction: tuple[float, ...] = (1.0, 2.0),
    first: int = 1,
) -> SignedClaim:
    rounds = tuple(ClaimedRound(first + i, energy, heard) for i, energy in enumerate(energies))
    claim = Claim(RUN, window, agent, rounds, struct.pack(f"<{len(direction)}d", *direction))
    return SignedClaim.sign(claim, SigningKey(sha256(agent.encode())))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("norm:2e-5", "norm:2e-05"),
        ("  norm:0.00002 ", "norm:2e-05"),
        ("norm:0", "norm:0.0"),
        ("own_rules:DirectionNorm@1e+5", "own_rules:DirectionNorm@100000.0"),
        (
            "norm:1e+2  +  own_rules:DirectionNorm@0.5",
            "norm:100.0 + own_rules:DirectionNorm@0.5",
        ),
    ],
)
def test_rules_parse_to_one_canonical_text(here: str, text: str, canonical: str) -> None:
    payments = parse_rule(text)
    assert payments.text == canonical
    assert parse_rule(canonical).text == canonical
    assert payments.settles is (text != "none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("norm", "no price"),
        ("norm:", "nothing after"),
        ("norm:-1", "not negative"),
        ("norm:nan", "finite"),
        ("norm:inf", "finite"),
        ("norm:cheap", "not a number"),
        ("norm:1e-5+norm:2e-5", "join rules with"),
        ("norm:price=1", "no price"),
        ("band:5e-4", "unknown rule 'band'"),
        ("none:1", "none stands alone"),
        ("norm:1 + none", "none stands alone"),
        ("norm:1 + norm:2", "named twice"),
        ("norm:1 + ", "price"),
        ("norm@2", "spec"),
        ("own_rules:DirectionNorm", "no price"),
        ("own_rules:DirectionNorm@x", "not a number"),
        ("own_rules:Nothing@1", "has no 'Nothing'"),
        ("no_such_rules:Rule@1", "cannot import"),
        ("own_rules:NotARule@1", "needs edge_local"),
        ("own_rules:NeedsArguments@1", "without arguments"),
        ("own_rules:Neighbourhood@1", "edge-local rules only"),
        ("own_rules:RUN@1", "not a class"),
    ],
)
def test_bad_rules_are_refused_in_one_line(here: str, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_rule(text)
    assert "\n" not in str(caught.value)


def test_norm_settles_the_difference_of_energies_over_common_rounds() -> None:
    lo = signed("a0", [4.0, 9.0, 100.0], ("a1",))
    hi = signed("a1", [1.0, 2.0], ("a0",))  # it did not mix round 3
    settled = edge_bills(parse_rule("norm:0.5"), lo, hi)
    assert settled.delta == to_micro(0.5 * 13.0) - to_micro(0.5 * 3.0) == 5_000_000
    by_lo, by_hi = Bill.decode(settled.bill_lo), Bill.decode(settled.bill_hi)
    assert (by_lo.referee, by_lo.amounts) == ("a0", (("a1", 1_500_000),))
    assert (by_hi.referee, by_hi.amounts) == ("a1", (("a0", 6_500_000),))
    assert by_lo.claims == by_hi.claims == (lo.digest, hi.digest)
    assert (by_lo.run, by_lo.window, by_lo.rule) == (RUN, 0, "norm:0.5")


def test_who_ignores_a_neighbour_pays_it_all_the_same() -> None:
    lo, hi = signed("a0", [4.0], ("a1",)), signed("a1", [1.0], ("a2",))
    assert edge_bills(parse_rule("norm:1"), lo, hi).delta == -1_000_000


def test_rounds_that_neither_end_mixed_cost_nothing() -> None:
    lo, hi = signed("a0", [4.0], ("a3",)), signed("a1", [1.0], ("a2",))
    assert edge_bills(parse_rule("norm:1"), lo, hi).delta == 0


def test_none_charges_nothing() -> None:
    lo, hi = signed("a0", [4.0], ("a1",)), signed("a1", [1.0], ("a0",))
    assert edge_bills(parse_rule("none"), lo, hi).delta == 0


def test_a_users_rule_sees_the_claimed_directions(here: str) -> None:
    payments = parse_rule("norm:1 + own_rules:DirectionNorm@2")
    lo = signed("a0", [4.0], ("a1",), direction=(3.0, 0.0))
    hi = signed("a1", [1.0], ("a0",), direction=(0.0, 1.0))
    assert edge_bills(payments, lo, hi).delta == (4 + 2 * 9 - 1 - 2 * 1) * 1_000_000


def test_a_users_rule_of_the_wrong_shape_is_named(here: str) -> None:
    lo, hi = signed("a0", [4.0], ("a1",)), signed("a1", [1.0], ("a0",))
    with pytest.raises(ConfigurationError, match="WrongShape"):
        edge_bills(parse_rule("own_rules:WrongShape@1"), lo, hi)


def test_claims_that_do_not_belong_together_are_malformed() -> None:
    payments = parse_rule("norm:1")
    lo, hi = signed("a0", [4.0], ("a1",)), signed("a1", [1.0], ("a0",))
    for pair in [
        (hi, lo),
        (lo, lo),
        (lo, signed("a1", [1.0], ("a0",), window=1)),
    ]:
        with pytest.raises(MalformedError):
            edge_bills(payments, *pair)


@pytest.mark.parametrize("energies", [[1.7e308, 1.7e308], [1e300], [5e12]])
def test_claims_of_absurd_energies_cannot_be_settled(energies: list[float]) -> None:
    lo, hi = signed("a0", energies, ("a1",)), signed("a1", [1.0], ("a0",))
    with pytest.raises(AmountError):
        edge_bills(parse_rule("norm:1"), lo, hi)


def test_a_net_beyond_the_largest_amount_is_refused(here: str) -> None:
    class Bounty(DirectionNorm):
        def charges(
            self, energies: NDArray[np.float64], directions: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            return np.where(energies > 1, 4e12, -4e12)

    norm = parse_rule("norm:1").terms[0]
    payments = Payments((replace(norm, rule=Bounty()),))
    lo, hi = signed("a0", [4.0], ("a1",)), signed("a1", [1.0], ("a0",))
    with pytest.raises(AmountError, match="net"):
        edge_bills(payments, lo, hi)


BILL = Bill(RUN, 3, "a0", "norm:1.0", (("a1", -5),), (bytes(32),))


def test_a_bill_decodes_to_itself() -> None:
    assert Bill.decode(BILL.encode()) == BILL


@pytest.mark.parametrize(
    "bill",
    [
        replace(BILL, run=bytes(31)),
        replace(BILL, window=-1),
        replace(BILL, window=True),
        replace(BILL, amounts=(("a1", AMOUNT_MAX + 1),)),
        replace(BILL, amounts=(("a1", True),)),
        replace(BILL, amounts=(("a1", 1.0),)),  # type: ignore[arg-type]
        replace(BILL, claims=(bytes(31),)),
    ],
)
def test_a_bill_out_of_bounds_is_malformed(bill: Bill) -> None:
    with pytest.raises(MalformedError):
        Bill.decode(bill.encode())


def test_a_bill_of_another_version_is_malformed() -> None:
    fields = unpack(BILL.encode(), bytes_max=2**16)
    assert isinstance(fields, list)
    for changed in ([2, *fields[1:]], [True, *fields[1:]], [*fields, 0], fields[:-1]):
        with pytest.raises(MalformedError):
            Bill.decode(pack(changed))


energies_of_runs = st.integers(2, 5).flatmap(
    lambda agents: st.lists(
        st.lists(st.floats(0, 1e6), min_size=agents, max_size=agents), min_size=1, max_size=9
    )
)


@given(energies_of_runs, st.floats(0, 1.0), st.integers(1, 4))
def test_the_simulator_pays_what_the_edges_settle(
    rows: list[list[float]], price: float, window_rounds: int
) -> None:
    energies = np.array(rows)  # (rounds, agents)
    agents = [f"a{i}" for i in range(energies.shape[1])]
    edges = [(i, j) for i in range(len(agents)) for j in range(i + 1, len(agents))]
    payments = parse_rule(f"norm:{price}")
    windows = window_energies(energies, window_rounds)  # (windows, agents)
    simulated = net_balances(payments, windows, edges)
    settled = [0] * len(agents)
    for window in range(len(windows)):
        block = energies[window * window_rounds : (window + 1) * window_rounds]
        for i, j in edges:
            lo = signed(agents[i], block[:, i].tolist(), (agents[j],), window=window)
            hi = signed(agents[j], block[:, j].tolist(), (agents[i],), window=window)
            delta = edge_bills(payments, lo, hi).delta
            settled[i] -= delta
            settled[j] += delta
    assert simulated.tolist() == settled
    assert simulated.dtype == np.int64
    assert sum(settled) == 0


def test_the_simulator_needs_directions_only_for_rules_that_use_them(here: str) -> None:
    energies = np.ones((1, 2))
    directions = np.array([[[3.0], [1.0]]])
    payments = parse_rule("own_rules:DirectionNorm@1")
    with pytest.raises(ValueError, match="needs directions"):
        net_balances(payments, energies, [(0, 1)])
    assert net_balances(payments, energies, [(0, 1)], directions).tolist() == [
        -8_000_000,
        8_000_000,
    ]
    assert net_balances(parse_rule("none"), energies, [(0, 1)]).tolist() == [0, 0]
    assert net_balances(parse_rule("norm:1"), energies, []).tolist() == [0, 0]


def test_charges_are_batched_over_leading_axes() -> None:
    energies = np.arange(12.0).reshape(2, 3, 2)
    amounts = parse_rule("norm:0.25").amounts(energies, np.zeros((2, 3, 2, 0)))
    assert amounts.tolist() == (energies * 250_000).astype(int).tolist()


def test_price_grids_do_not_change_the_rounding() -> None:
    for price in (1e-7, 2e-5, math.pi):
        energy = 12345.678901
        amounts = parse_rule(f"norm:{price}").amounts(np.array([energy]), np.zeros((1, 0)))
        assert amounts.tolist() == [to_micro(price * energy)]
