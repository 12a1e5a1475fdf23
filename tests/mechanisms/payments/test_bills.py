"""Rules are named strictly, bills follow from claims, a simulated run pays what a real one does."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candor.mechanisms.evidence.claims import ENERGY_BOUND, Claim, ClaimedRound, SignedClaim
from candor.mechanisms.payments.balances import net_balances, windows_of
from candor.mechanisms.payments.band import CAP, Neighbourhood, lower_median, ordered_sum
from candor.mechanisms.payments.bills import (
    Bill,
    BillError,
    BillTerms,
    Row,
    SignedBill,
    check_bill,
    edge_delta,
    make_bill,
    parse_rule,
)
from candor.mechanisms.payments.credits import AMOUNT_MAX, PAYMENT_MAX, AmountError
from candor.topologies.encoding.canonical import MalformedError, pack, sha256, unpack
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.specs import ConfigurationError
from tests.bills import signed_bill
from tests.mechanisms.evidence.claimed import with_products
from tests.mechanisms.payments.neighbourhoods import neighbourhood
from tests.mutations import mutated

RUN = sha256(b"run")
IDS = ("a0", "a1", "a2", "a3")
KEYS = {agent: SigningKey(sha256(agent.encode())) for agent in IDS}
WINDOW, SIZE = 4, 64


class Root:
    """A user's rule: charged the norm."""

    edge_local = True

    def charges(self, neighbourhood: Neighbourhood) -> NDArray[np.float64]:
        roots: NDArray[np.float64] = np.sqrt(neighbourhood.energies)
        return roots


class Excess(Root):
    """A user's rule whose charges are shared out: the energy beyond the smallest one."""

    edge_local = False

    def charges(self, neighbourhood: Neighbourhood) -> NDArray[np.float64]:
        energies = neighbourhood.energies
        excess: NDArray[np.float64] = energies - energies.min(axis=-1, keepdims=True)
        return excess


class WrongShape(Root):
    def charges(self, neighbourhood: Neighbourhood) -> NDArray[np.float64]:
        return neighbourhood.traces


class NotARule:
    pass


class NeedsArguments(Root):
    def __init__(self, tau: float) -> None:
        self.tau = tau


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this module's classes can be imported."""
    import sys

    monkeypatch.setitem(sys.modules, "own_rules", sys.modules[__name__])
    return "own_rules"


def terms(rule: str = "band:5e-4 + norm:2e-5") -> BillTerms:
    """A complete graph of four."""
    return BillTerms(
        run=RUN,
        window_rounds=WINDOW,
        trace_size=SIZE,
        publics={agent: key.public for agent, key in KEYS.items()},
        neighbours={agent: frozenset(IDS) - {agent} for agent in IDS},
        payments=parse_rule(rule),
    )


def vectors(agent: str, scale: float = 1.0) -> NDArray[np.float32]:
    """What an agent injects in a window: (WINDOW, SIZE), noise around one direction."""
    generator = np.random.default_rng([7, IDS.index(agent)])
    return (scale * (1 + 0.3 * generator.standard_normal((WINDOW, SIZE)))).astype(np.float32)


def claim(
    agent: str, scale: float = 1.0, rounds: range = range(1, WINDOW + 1), window: int = 0
) -> SignedClaim:
    others = tuple(other for other in IDS if other != agent)
    traces = vectors(agent, scale)
    entries = with_products(
        ClaimedRound(
            window * WINDOW + t,
            float((traces[t - 1].astype(float) ** 2).sum()),
            others,
            traces[t - 1].astype("<f4").tobytes(),
        )
        for t in rounds
    )
    return SignedClaim.sign(Claim(RUN, window, agent, entries), KEYS[agent])


def claims(**scales: float) -> dict[str, SignedClaim]:
    return {agent: claim(agent, scales.get(agent, 1.0)) for agent in IDS}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("norm:2e-5", "norm:2e-05"),
        ("  norm:0.00002 ", "norm:2e-05"),
        ("norm:0", "norm:0.0"),
        ("own_rules:Root@1e+5", "own_rules:Root@100000.0"),
        (
            "norm:1e+2  +  own_rules:Root@0.5",
            "norm:100.0 + own_rules:Root@0.5",
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
        ("bond:5e-4", "unknown rule 'bond'"),
        ("none:1", "none stands alone"),
        ("norm:1 + none", "none stands alone"),
        ("norm:1 + norm:2", "named twice"),
        ("norm:1 + ", "price"),
        ("norm@2", "spec"),
        ("own_rules:Root", "no price"),
        ("own_rules:Root@x", "not a number"),
        ("own_rules:Nothing@1", "has no 'Nothing'"),
        ("no_such_rules:Rule@1", "cannot import"),
        ("own_rules:NotARule@1", "needs edge_local"),
        ("own_rules:NeedsArguments@1", "constructor failed"),
        ("own_rules:WrongShape@1", "one charge a member"),
        ("own_rules:RUN@1", "is not a class"),
    ],
)
def test_bad_rules_are_refused_in_one_line(here: str, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_rule(text)
    assert "\n" not in str(caught.value)


def test_a_users_rule_may_depend_on_the_whole_neighbourhood(here: str) -> None:
    held = claims(a2=3.0)
    run = terms("own_rules:Excess@1 + own_rules:Root@2")
    bill = make_bill(run, held["a0"], [held[a] for a in IDS if a != "a0"])
    assert sum(row.transfer for row in bill.rows) == 0
    assert max(bill.rows, key=lambda row: row.transfer).member == "a2"
    for row in bill.rows:
        energy = sum(r.energy for r in held[row.member].claim().rounds)
        assert row.charge == round(2 * energy**0.5 / 3 * 1e6)
        assert row.amount == row.transfer + row.charge


def test_norm_charges_the_energies_that_the_referee_mixed() -> None:
    held = claims()
    heard = held["a0"].claim()
    deaf = replace(heard, rounds=tuple(replace(r, heard=("a1",)) for r in heard.rounds))
    held["a0"] = SignedClaim.sign(deaf, KEYS["a0"])
    bill = make_bill(terms("norm:0.5"), held["a0"], [held["a1"], held["a2"]])
    energy = sum(r.energy for r in held["a1"].claim().rounds)
    assert bill.amount("a1") == round(0.5 * energy / 3 * 1e6)
    assert bill.amount("a2") == 0  # it was not mixed
    assert bill.amount("a3") == 0  # it has not claimed


def test_who_ignores_a_neighbour_pays_it_all_the_same() -> None:
    held = claims()
    own = held["a1"].claim()
    ignoring = replace(own, rounds=tuple(replace(r, heard=()) for r in own.rounds))
    lied = SignedClaim.sign(ignoring, KEYS["a1"])
    fair = make_bill(terms("norm:1"), held["a0"], [held["a1"]])
    assert make_bill(terms("norm:1"), held["a0"], [lied]).rows == fair.rows


def test_an_edge_settles_the_net_of_its_two_bills() -> None:
    lo = make_bill(terms("norm:1"), claim("a0"), [claim("a1", 2.0)])
    hi = make_bill(terms("norm:1"), claim("a1", 2.0), [claim("a0")])
    assert edge_delta(lo, hi) == hi.amount("a0") - lo.amount("a1") < 0


@pytest.mark.parametrize("rule", ["band:1", "peer-prediction:1", "band:1 + norm:0.1"])
@given(scales=st.lists(st.floats(0, 1e4, width=16), min_size=4, max_size=4))
def test_transfers_of_a_bill_sum_to_zero(rule: str, scales: list[float]) -> None:
    held = claims(**dict(zip(IDS, scales, strict=True)))
    bill = make_bill(terms(rule), held["a1"], [held[a] for a in IDS if a != "a1"])
    assert sum(row.transfer for row in bill.rows) == 0
    assert [row.member for row in bill.rows] == ["a0", "a2", "a3"]


def band(**scales: float) -> dict[str, int]:
    held = claims(**scales)
    bill = make_bill(terms("band:1"), held["a0"], [held[a] for a in IDS if a != "a0"])
    return {row.member: row.transfer for row in bill.rows}


def test_the_band_is_free_and_beyond_it_a_member_pays_the_others() -> None:
    assert set(band().values()) == {0}
    assert set(band(a1=1.3).values()) == {0}
    for scale in (3.0, 0.3, -1.0):
        amounts = band(a1=scale)
        # In window 0, a1 and a2 are one half, a3 the other.
        assert amounts["a1"] > 0 == amounts["a2"] > amounts["a3"], scale
    idle = band(a1=0.0)
    assert 2 * CAP * 1_000_000 / 3 >= idle["a1"] >= CAP * 1_000_000 / 3


def test_a_lone_member_transfers_nothing() -> None:
    bill = make_bill(terms("band:1"), claim("a0"), [claim("a1", 9.0)])
    assert bill.amount("a1") == 0


def test_a_member_that_was_away_for_some_rounds_is_not_charged_for_it() -> None:
    away = claim("a1", rounds=range(1, 2))
    bill = make_bill(terms("band:1"), claim("a0"), [away, claim("a2"), claim("a3")])
    assert {row.transfer for row in bill.rows} == {0}


def test_a_member_of_which_nothing_was_mixed_takes_no_part() -> None:
    held = claims(a2=3.0)
    own = held["a0"].claim()
    deaf = replace(own, rounds=tuple(replace(r, heard=("a2", "a3")) for r in own.rounds))
    held["a0"] = SignedClaim.sign(deaf, KEYS["a0"])
    bill = make_bill(terms("band:1"), held["a0"], [held["a1"], held["a2"], held["a3"]])
    assert bill.amount("a1") == 0
    assert bill.amount("a2") == -bill.amount("a3") > 0


SCALES = st.lists(st.floats(0, 1e3, width=16), min_size=4, max_size=4)


@given(scales=SCALES, others=st.permutations(IDS[1:]))
def test_a_bill_does_not_depend_on_the_order_of_claims(
    scales: list[float], others: Sequence[str]
) -> None:
    held = claims(**dict(zip(IDS, scales, strict=True)))
    one = make_bill(terms(), held["a0"], [held["a1"], held["a2"], held["a3"]])
    assert make_bill(terms(), held["a0"], [held[agent] for agent in others]) == one
    repeated = [held[agent] for agent in (*others, *others)]
    assert make_bill(terms(), held["a0"], repeated) == one
    assert Bill.decode(one.encode()) == one


AMOUNTS = st.integers(-(AMOUNT_MAX // 2), AMOUNT_MAX // 2)
BILLS = st.builds(
    lambda run, windows, rows, digests: Bill(
        run,
        max(windows),
        min(windows) - 1,
        "a0",
        "norm:1.0",
        tuple(Row(member, *amounts) for member, amounts in sorted(rows.items())),
        tuple(digests),
    ),
    st.binary(min_size=32, max_size=32),
    st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)),
    st.dictionaries(st.sampled_from(IDS), st.tuples(AMOUNTS, AMOUNTS)),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4),
)


@given(BILLS)
def test_a_bill_decodes_to_itself(bill: Bill) -> None:
    assert Bill.decode(bill.encode()) == bill


def good(**changes: object) -> SignedBill:
    signed = signed_bill(terms(), "a0", claims(a2=3.0), KEYS["a0"])
    bill = replace(signed.bill(), **changes)  # type: ignore[arg-type]
    return SignedBill.sign(bill, signed.claims, KEYS["a0"])


def test_a_true_bill_holds_and_reads_back() -> None:
    again = SignedBill.decode(good().encode())
    assert again == good()
    assert check_bill(terms(), again, "a0") == again.bill()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"run": bytes(32)}, "bill-run"),
        ({"rule": "norm:1.0"}, "bill-rule"),
        ({"rows": ()}, "bill-rows"),
        ({"referee": "a1"}, "bill-signature"),
        ({"window": 1}, "claim"),
        ({"rows": good().bill().rows[:2]}, "bill-sum"),
        ({"rows": tuple(replace(row, transfer=0) for row in good().bill().rows)}, "bill-rows"),
        ({"rows": tuple(replace(row, charge=0) for row in good().bill().rows)}, "bill-rows"),
    ],
)
def test_an_altered_bill_is_refused(changes: dict[str, object], code: str) -> None:
    with pytest.raises(BillError) as caught:
        check_bill(terms(), good(**changes), "a0")
    assert caught.value.code == code


def test_a_bill_that_does_not_sum_to_zero_is_refused() -> None:
    first, *rest = good().bill().rows
    with pytest.raises(BillError, match="bill-sum"):
        check_bill(terms(), good(rows=(replace(first, transfer=1), *rest)), "a0")


def test_a_bill_by_another_key_or_with_a_forged_claim_is_refused() -> None:
    bill = good()
    with pytest.raises(BillError, match="bill-signature"):
        check_bill(terms(), replace(bill, signature=bytes(64)), "a0")
    forged = (bill.claims[0], replace(bill.claims[1], signature=bytes(64)), *bill.claims[2:])
    with pytest.raises(BillError, match="claim-signature"):
        check_bill(terms(), replace(bill, claims=forged), "a0")


def test_a_bill_of_strangers_is_refused() -> None:
    apart = replace(terms(), neighbours={agent: frozenset({"a1"}) for agent in IDS})
    with pytest.raises(BillError, match="bill-claims"):
        check_bill(apart, good(), "a0")


def resting_on(used: Sequence[SignedClaim]) -> SignedBill:
    """The good bill, naming other claims."""
    bill = replace(good().bill(), claims=tuple(signed.digest for signed in used))
    return SignedBill.sign(bill, used, KEYS["a0"])


def resigned(agent: str, **changes: object) -> SignedClaim:
    """The agent's claim with another first round."""
    made = claim(agent).claim()
    first = replace(made.rounds[0], **changes)  # type: ignore[arg-type]
    return SignedClaim.sign(replace(made, rounds=(first, *made.rounds[1:])), KEYS[agent])


NOT_FINITE = np.full(SIZE, np.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    ("used", "code"),
    [
        ([claim("a1"), claim("a2", 3.0), claim("a3")], "bill-claims"),
        ([claim("a0"), claim("a1"), claim("a1"), claim("a2", 3.0)], "bill-claims"),
        ([claim("a0"), claim("a1"), claim("a2", 3.0)], "bill-rows"),
        ([claim("a0"), claim("a2", 3.0), claim("a1"), claim("a3")], "bill-rows"),
        ([claim("a0"), claim("a1"), claim("a2", 2.0), claim("a3")], "bill-rows"),
        ([claim("a0"), claim("a1", window=1), claim("a2"), claim("a3")], "claim"),
        ([claim("a0"), resigned("a1", trace=bytes(4))], "claim"),
        ([claim("a0"), resigned("a1", trace=NOT_FINITE)], "claim"),
    ],
)
def test_a_bill_that_rests_on_other_claims_is_refused(used: list[SignedClaim], code: str) -> None:
    with pytest.raises(BillError) as caught:
        check_bill(terms(), resting_on(used), "a0")
    assert caught.value.code == code


def test_a_bundle_has_the_claims_that_its_bill_names() -> None:
    bill = good()
    for other in (bill.claims[1:], (*bill.claims, bill.claims[0]), bill.claims[::-1], ()):
        with pytest.raises(MalformedError):
            SignedBill.decode(replace(bill, claims=other).encode())


@given(mutated(good().encode()))
def test_every_edited_bundle_is_refused(data: bytes) -> None:
    with pytest.raises((MalformedError, BillError)):
        check_bill(terms(), SignedBill.decode(data), "a0")


@pytest.mark.parametrize(
    "change",
    [
        {"run": bytes(31)},
        {"previous": 0},
        {"previous": -2},
        {"previous": False, "window": 2},
        {"window": 2**53},
        {"window": True},
        {"referee": ""},
        {"rows": (Row("a1", AMOUNT_MAX + 1, 0),)},
        {"rows": (Row("a1", AMOUNT_MAX, 1),)},
        {"rows": (Row("a1", True, 0),)},
        {"rows": (Row("a1", 0, False),)},
        {"rows": (Row("a1", 1.0, 0),)},  # type: ignore[arg-type]
        {"rows": (Row("a2", 0, 0), Row("a1", 0, 0))},
        {"rows": (Row("a1", 0, 0), Row("a1", 0, 0))},
        {"claims": (bytes(31),)},
    ],
)
def test_a_bill_out_of_bounds_is_malformed(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        Bill.decode(replace(good().bill(), **change).encode())  # type: ignore[arg-type]


def test_a_bill_of_another_version_is_malformed() -> None:
    fields = unpack(good().body, bytes_max=2**16)
    assert isinstance(fields, list)
    for changed in ([1, *fields[1:]], [2.0, *fields[1:]], [*fields, 0], fields[:-1]):
        with pytest.raises(MalformedError):
            Bill.decode(pack(changed))


def test_a_net_beyond_the_largest_amount_is_refused() -> None:
    lo = Bill(RUN, 0, -1, "a0", "norm:1.0", (Row("a1", 0, -AMOUNT_MAX),), ())
    hi = Bill(RUN, 0, -1, "a1", "norm:1.0", (Row("a0", 0, 1),), ())
    with pytest.raises(AmountError, match="net"):
        edge_delta(lo, hi)


def test_absurd_energies_cost_the_most_that_a_bill_can_ask() -> None:
    huge = claim("a1").claim()
    entries = tuple(replace(r, energy=ENERGY_BOUND) for r in huge.rounds)
    signed = SignedClaim.sign(replace(huge, rounds=entries), KEYS["a1"])
    bill = make_bill(terms("norm:1 + excess:1"), claim("a0"), [signed, claim("a2"), claim("a3")])
    assert bill.rows[0] == Row("a1", PAYMENT_MAX, PAYMENT_MAX)
    assert sum(row.transfer for row in bill.rows) == 0


class NoNumber:
    edge_local = True

    def charges(self, neighbourhood: Neighbourhood) -> NDArray[np.float64]:
        lies = neighbourhood.energies > 100.0
        return np.where(lies, np.nan, 0.0)


def test_what_is_no_number_gives_no_amount(here: str) -> None:
    with pytest.raises(AmountError):
        make_bill(terms("own_rules:NoNumber@1"), claim("a0"), [claim("a1", 9.0)])


def test_who_a_member_is_compared_with_gets_nothing_of_what_it_pays() -> None:
    """Each half is handed what the other pays, whatever it claims itself; over the windows, all are
    compared with all."""
    compared = set()
    for window in range(3):
        held = {a: claim(a, {"a1": 3.0}.get(a, 1.0), window=window) for a in IDS}
        bill = make_bill(terms("band:1"), held["a0"], [held[a] for a in IDS[1:]])
        paid = {row.member: row.transfer for row in bill.rows}
        beside = {a for a in IDS[2:] if paid[a] == 0}
        compared |= beside
        for other in beside:
            louder = {**held, other: claim(other, 1.5, window=window)}
            again = make_bill(terms("band:1"), held["a0"], [louder[a] for a in IDS[1:]])
            assert again.amount(other) >= 0
    assert compared == {"a2", "a3"}


def test_a_leaf_pays_as_a_hub_does() -> None:
    """Whatever it injects costs an agent the price once, by however many it is billed."""
    star = {"a0": {"a1", "a2", "a3"}, "a1": {"a0"}, "a2": {"a0", "a3"}, "a3": {"a0", "a2"}}
    run = replace(
        terms("norm:1"), neighbours={agent: frozenset(near) for agent, near in star.items()}
    )
    held = claims()
    for agent, near in star.items():
        bills = [make_bill(run, held[k], [held[agent]]) for k in near]
        energy = sum(r.energy for r in held[agent].claim().rounds)
        paid = sum(bill.amount(agent) for bill in bills)
        assert paid == pytest.approx(energy * 1e6, abs=len(near))


@pytest.mark.parametrize("rule", ["norm:0.01", "band:1 + norm:2e-5", "peer-prediction:0.1", "none"])
def test_the_simulator_pays_what_the_bills_say(rule: str) -> None:
    run = terms(rule)
    scales = {"a1": 3.0, "a3": 0.2}
    held = {(a, w): claim(a, scales.get(a, 1.0), window=w) for a in IDS for w in (0, 1)}
    balances = dict.fromkeys(IDS, 0)
    for w in (0, 1):
        for referee in IDS:
            bill = make_bill(run, held[referee, w], [held[a, w] for a in IDS if a != referee])
            for row in bill.rows:
                balances[row.member] -= row.amount
                balances[referee] += row.amount
    traces = np.stack([vectors(a, scales.get(a, 1.0)) for a in IDS], axis=1).astype(float)
    traces = np.concatenate([traces, traces])  # (rounds, agents, r)
    windows = windows_of((traces**2).sum(axis=-1), traces, of_rounds(traces), WINDOW)
    around = {i: [k for k in range(4) if k != i] for i in range(4)}
    received = net_balances(run.payments, around, windows).sum(axis=1)
    assert dict(zip(IDS, received.tolist(), strict=True)) == balances
    assert received.sum() == 0


def of_rounds(updates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The products (rounds, agents, WINDOW) of updates (rounds, agents, r), window by window."""
    found = np.zeros((*updates.shape[:2], WINDOW))
    for t in range(len(updates)):
        for s in range(t - t % WINDOW, t + 1):
            found[t, :, s % WINDOW] = (updates[s] * updates[t]).sum(axis=-1)
    return found


RING = {0: (1, 3), 1: (0, 2), 2: (1, 3), 3: (0, 2)}


@pytest.mark.parametrize("rule", ["norm:0.01", "band:1 + norm:2e-5", "peer-prediction:0.1"])
@given(scales=SCALES)
def test_the_simulator_pays_what_the_edges_of_a_ring_settle(rule: str, scales: list[float]) -> None:
    """Over a whole window and a short last one."""
    near = {a: frozenset(IDS[k] for k in RING[i]) for i, a in enumerate(IDS)}
    run = replace(terms(rule), neighbours=near)
    lengths = (range(1, WINDOW + 1), range(1, 3))
    held = [
        [claim(a, scales[i], rounds, window) for i, a in enumerate(IDS)]
        for window, rounds in enumerate(lengths)
    ]
    settled = [0] * 4
    for by_agent in held:
        bills = [make_bill(run, by_agent[i], [by_agent[k] for k in RING[i]]) for i in RING]
        for i, j in [(0, 1), (0, 3), (1, 2), (2, 3)]:
            delta = edge_delta(bills[i], bills[j])
            settled[i] -= delta
            settled[j] += delta
    whole = np.stack([vectors(a, scales[i]) for i, a in enumerate(IDS)], axis=1).astype(float)
    traces = np.concatenate([whole, whole[:2]])  # (rounds, agents, r)
    windows = windows_of((traces**2).sum(axis=-1), traces, of_rounds(traces), WINDOW)
    received = net_balances(run.payments, RING, windows).sum(axis=1)
    assert received.tolist() == settled
    assert sum(settled) == 0


def test_a_short_last_window_has_only_its_rounds() -> None:
    each = np.ones((6, 2, 3))
    energies, mask, traces, grams = windows_of(np.ones((6, 2)), each, of_rounds(each), WINDOW)
    assert energies.tolist() == [[4.0, 4.0], [2.0, 2.0]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert traces.shape == (2, 2, WINDOW, 3)
    assert not traces[1, :, 2:].any()
    assert (grams[0] == 3.0).all()
    assert (grams[1, :, :2, :2] == 3.0).all()
    assert grams[1].sum() == 2 * 4 * 3.0


@given(st.integers(0, 2**32))
def test_rows_are_batched_over_leading_axes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    traces = generator.standard_normal((5, 4, WINDOW, SIZE)) * generator.uniform(
        0.2, 4, (5, 4, 1, 1)
    )
    mask = generator.random((5, 4, WINDOW)) < 0.8
    traces = np.where(mask[..., np.newaxis], traces, 0.0)
    payments = parse_rule("band:1 + peer-prediction:0.1 + norm:0.1")
    whole = payments.rows(neighbourhood(traces, 1, mask))
    for b in range(5):
        one = payments.rows(neighbourhood(traces[b], 1, mask[b]))
        assert np.array_equal(whole[0][b], one[0])
        assert np.array_equal(whole[1][b], one[1])


def test_sums_and_medians_are_those_of_the_page() -> None:
    values = np.array([0.1, 0.2, 0.3, 1e16, -1e16])
    total = 0.0
    for value in values:
        total += value
    assert float(ordered_sum(values, 0)) == total
    known = np.array([True, True, False, True])
    assert float(lower_median(np.array([3.0, 1.0, -9.0, 2.0]), known)) == 2.0
    assert float(lower_median(np.array([3.0, 1.0]), np.array([True, True]))) == 1.0
    assert float(lower_median(np.array([3.0]), np.array([False]))) == 0.0


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_round_is_charged_that_the_referee_mixed_or_need_not_have(scheduled: bool) -> None:
    """The referee heard nobody; what the schedule lets it pass over counts all the same."""
    held = claims()
    own = held["a0"].claim()
    deaf = with_products(
        replace(entry, heard=()) for entry in own.rounds[1:]
    )  # and was away in round 1
    referee = SignedClaim.sign(replace(own, rounds=deaf), KEYS["a0"])
    run = replace(terms("norm:2e-5"), takes=lambda t, taker, giver: scheduled)
    bill = make_bill(run, referee, [held["a1"]])
    energies = [entry.energy for entry in held["a1"].claim().rounds[1:]]
    expected = 0 if scheduled else round(2e-5 * math.fsum(energies) / 3 * 1e6)
    assert bill.amount("a1") == expected
    signed = SignedBill.sign(bill, [referee, held["a1"]], KEYS["a0"])
    assert check_bill(run, signed, "a0") == bill
    if not scheduled:
        with pytest.raises(BillError, match="bill-rows"):
            check_bill(terms("norm:2e-5"), signed, "a0")
