"""Claims, bills, credit and payments between cores in simulated time: honest, late and false."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from candor.agent.cli.ledger import command as ledger
from candor.agent.core.effects import Persist, Send
from candor.agent.core.settlement.referee import Referee
from candor.agent.core.terms import channel_terms
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.claims import Claim, SignedClaim
from candor.mechanisms.ledger.channel import StorePayment, StorePending, StoreRecord
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.payments.credits import format_credits
from candor.network.messages import BillMessage, ClaimMessage
from candor.network.wire import Kind
from candor.topologies.encoding.canonical import sha256
from tests.runs import DIM, LocalRun, finish, of_half_the_energy, row_of, tampering, write_cluster


def test_the_exaggerator_pays_and_all_nets_sum_to_zero(started, tmp_path):
    fixed = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    reports = {
        f"a{i}": lambda t, i=i: fixed * np.float32(3 if i == 2 else 1 + 0.01 * i) for i in range(6)
    }
    run = finish(started("ring", 6, reports=reports))
    balances = {a: n.core.settlement.balance for a, n in run.nodes.items()}
    others = [b for a, b in balances.items() if a != "a2"]
    assert sum(balances.values()) == 0
    assert balances["a2"] < 5 * min(others) < 0
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    assert audit.nets == balances


def test_payments_leave_the_model_untouched_bit_for_bit(tmp_path):
    finals = []
    for rule in ("norm:2e-5", "none"):
        folder = tmp_path / rule.partition(":")[0]
        folder.mkdir()
        run = finish(LocalRun(folder, write_cluster(folder, "ring", 4, rule=rule)))
        finals.append({a: n.x.tobytes() for a, n in run.nodes.items()})
        run.close()
    assert finals[0] == finals[1]


def test_without_a_rule_nothing_is_settled(started):
    run = finish(started("ring", 3, rule="none"))
    assert all(n.core.settlement.balance == 0 for n in run.nodes.values())
    assert not any(n.events("settled") for n in run.nodes.values())


def test_ledger_signatures_are_stored_before_they_are_sent(started, monkeypatch):
    run = started("ring", 3)
    order = []
    perform = run._perform

    def record(agent, effects):
        order.extend((agent, effect) for effect in effects)
        perform(agent, effects)

    monkeypatch.setattr(run, "_perform", record)
    finish(run)
    proposals = accepts = 0
    for agent in run.cluster.ids:
        stored = set()
        for owner, effect in order:
            if owner != agent:
                continue
            if isinstance(effect, Persist):
                for operation in effect.operations:
                    if isinstance(operation, StorePending | StoreRecord):
                        stored.add(operation.body)
            if isinstance(effect, Send) and effect.envelope.kind is Kind.PROPOSE:
                proposals += 1
                assert effect.envelope.fields[0] in stored
            if isinstance(effect, Send) and effect.envelope.kind is Kind.ACCEPT:
                accepts += 1
                assert any(effect.envelope.fields[0] == sha256(body) for body in stored)
    assert proposals >= 9
    assert accepts >= 9


def test_a_neighbour_beyond_its_credit_is_not_served(started):
    fixed = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    reports = {"a1": lambda t: 40 * fixed}
    run = started("ring", 4, reports=reports, rounds=24, window=2, credit_limit=5_000_000)
    run.start()
    run.run(120.0)
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        assert node.core.neighbours["a1"].reason == "credit limit reached"
        assert 0 < node.core.settlement.edge_balance("a1") <= 5_000_000
        assert "a1" not in row_of(node)


def test_a_credit_limit_below_what_honest_updates_cost_is_told_once(started):
    run = finish(started("ring", 4, rounds=6, window=2, credit_limit=1))
    for node in run.nodes.values():
        [told] = node.events("update_beyond_credit")
        assert told["round"] == 1
        assert node.core.beyond_credit == 6
        assert all(f["code"] == "injected-too-large" for f in node.events("update_refused"))
        assert node.core.mixed_neighbours == 0


def test_a_payment_outside_makes_room_below_the_credit_limit(started, tmp_path):
    fixed = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    reports = {"a1": lambda t: 40 * fixed}
    run = started(
        "ring", 4, reports=reports, rounds=100, window=2, credit_limit=5_000_000, deadline_s=1.0
    )
    run.start()
    payee = run.nodes["a0"].core
    run.advance_until(lambda: payee.neighbours["a1"].reason == "credit limit reached")
    assert "candor ledger pay" in run.nodes["a1"].core.neighbours["a0"].reason
    owed = payee.settlement.edge_balance("a1")
    channel_id = channel_terms(run.cluster, "a0")["a1"].channel_id
    for agent in ("a0", "a1"):
        node = run.nodes[agent]
        before = node.core.settlement.payments()
        node.store.commit([StorePayment(channel_id, owed)]).result()
        run._perform(agent, node.core.told(before, node.store.payments(), run.now_s))
    run.advance(2.0)
    for agent, other in (("a0", "a1"), ("a1", "a0")):
        node = run.nodes[agent]
        assert node.events("payment_told") == [{"peer": other, "delta": owed}]
        [paid] = node.events("paid")
        assert paid["delta"] == owed
        assert node.store.payments() == {}
        # Nothing is told a second time by what the store held a moment ago.
        before = dict.fromkeys(node.core.settlement.payments(), 0)
        assert not node.core.told(before, node.store.payments(), run.now_s)
    run.run(200.0)
    settled = [(f["peer"], f["seq"]) for f in run.nodes["a0"].events("settled")]
    assert ("a1", paid["seq"] + 1) in settled  # the window that had no room
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    assert {(e.lo, e.hi): e.payments for e in audit.edges if e.payments} == {("a0", "a1"): (owed,)}
    audited = CliRunner().invoke(ledger, ["audit", str(tmp_path)])
    assert f"a payment of {format_credits(owed)} by a1 to a0: " in audited.output


@pytest.mark.parametrize(("first", "second"), [("a0", "a1"), ("a1", "a0")])
def test_a_payment_that_one_end_was_told_of_keeps_no_window_waiting(started, first, second):
    fixed = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    reports = {"a1": lambda t: 10 * fixed}
    run = started("ring", 4, reports=reports, rounds=150, window=2, deadline_s=0.5)
    run.start()
    run.advance(2.0)
    owed = run.nodes["a0"].core.settlement.edge_balance("a1")
    channel_id = channel_terms(run.cluster, "a0")["a1"].channel_id

    def tell(agent):
        node = run.nodes[agent]
        before = node.core.settlement.payments()
        node.store.commit([StorePayment(channel_id, owed)]).result()
        run._perform(agent, node.core.told(before, node.store.payments(), run.now_s))

    tell(first)
    run.advance(4.0)  # twice what an unsettled window is waited for
    for agent, other in ((first, second), (second, first)):
        core = run.nodes[agent].core
        assert core.neighbours[other].barred is None
        assert core.settlement._edges[other].channel.settled_window >= core.round // 2 - 3
        assert not run.nodes[agent].events("paid")
    tell(second)
    run.advance(1.0)
    assert [len(run.nodes[agent].events("paid")) for agent in (first, second)] == [1, 1]
    assert run.nodes[first].store.payments() == run.nodes[second].store.payments() == {}


@pytest.mark.parametrize("kinds", [{Kind.BILL}, {Kind.ACCEPT}, {Kind.PROPOSE}])
def test_a_neighbour_that_does_not_settle_is_not_served_any_more(started, kinds):
    run = started("ring", 4, rounds=400, window=4, deadline_s=0.5)
    run.tamper = withholding("a1", kinds)
    run.start()
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        run.advance_until(told(node, "a1", "has not settled window"), 6.0)
        run.advance(0.2)
        assert "a1" not in row_of(node)
        assert node.core.neighbours["a3"].reason is None


def told(node, peer, words):
    """A condition: the node says this of a neighbour."""
    return lambda: words in (node.core.neighbours[peer].reason or "")


def test_a_bill_that_does_not_recompute_is_refused_with_a_signed_reason(started):
    run = started("complete", 4, rounds=8, window=4)

    def cheat(message):
        if not isinstance(message, BillMessage):
            return message
        signed = SignedBill.decode(message.bundle)
        bill = signed.bill()
        rows = tuple(replace(row, charge=row.charge + 1) for row in bill.rows)
        key = run.nodes["a1"].identity.signing_key
        return BillMessage(SignedBill.sign(replace(bill, rows=rows), signed.claims, key).encode())

    run.tamper = tampering("a1", cheat)
    finish(run)
    for neighbour in ("a0", "a2", "a3"):
        node = run.nodes[neighbour]
        (refused,) = node.events("bill_refused")
        assert refused["peer"] == "a1"
        assert "bill-rows" in refused["detail"]
        assert node.core.settlement.edge_balance("a1") == 0
        assert node.core.settlement.edge_balance({"a0": "a2", "a2": "a3", "a3": "a0"}[neighbour])


def test_who_bills_only_the_windows_that_pay_is_not_served(started, monkeypatch):
    run = started("ring", 4, rounds=60, window=2, deadline_s=1.0)
    run.start()
    liar = run.nodes["a1"].core.settlement._referee
    unbilled = Referee.unbilled

    def only_the_fourth(referee, now_s):
        if referee is liar:
            for window, held in list(referee._published.items()):
                if window % 4 and held.bill is None:
                    del referee._published[window]
        return unbilled(referee, now_s)

    monkeypatch.setattr(Referee, "unbilled", only_the_fourth)
    run.run(120.0)
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        assert node.core.neighbours["a1"].barred
        assert [f["window"] for f in node.events("bill_missed") if f["peer"] == "a1"][:2] == [1, 2]
    assert run.nodes["a3"].core.neighbours["a0"].barred is None


def test_a_false_claim_is_refused_and_settles_nothing(started):
    run = started("ring", 4, rounds=4, window=4)
    key = []

    def alter(message):
        if isinstance(message, ClaimMessage):
            claim = SignedClaim.decode(message.claim).claim()
            rounds = tuple(map(of_half_the_energy, claim.rounds))
            lie = Claim(claim.run, claim.window, claim.agent, rounds)
            return ClaimMessage(SignedClaim.sign(lie, key[0]).encode())
        return message

    run.tamper = tampering("a1", alter)
    run.start()
    key.append(run.nodes["a1"].identity.signing_key)
    run.run(60.0)
    for neighbour in ("a0", "a2"):
        (refused,) = run.nodes[neighbour].events("claim_refused")
        assert refused["peer"] == "a1"
        assert "claim-energy" in refused["detail"]
        assert run.nodes[neighbour].core.settlement.edge_balance("a1") == 0
        # Their other edge is not touched by it.
        other = "a3"
        assert run.nodes[neighbour].core.settlement.edge_balance(other) != 0


def test_a_claim_must_cover_every_round_that_was_stated(started):
    run = started("ring", 4, rounds=4, window=4)

    def alter(message):
        if isinstance(message, ClaimMessage):
            claim = SignedClaim.decode(message.claim).claim()
            empty = Claim(claim.run, claim.window, claim.agent, ())
            key = run.nodes["a1"].identity.signing_key
            return ClaimMessage(SignedClaim.sign(empty, key).encode())
        return message

    run.tamper = tampering("a1", alter)
    finish(run)
    for neighbour in ("a0", "a2"):
        (left_out,) = run.nodes[neighbour].events("claim_forfeited")
        assert "claim-incomplete" in left_out["detail"]
        settlement = run.nodes[neighbour].core.settlement
        assert settlement._edges["a1"].lateness > 0
        assert not settlement._referee.held(0).bill.names("a1")


def claiming(run, agent, alter):
    """Let `agent` sign other claims than it should: `alter` maps the honest one to the lie."""

    def rewrite(message):
        if not isinstance(message, ClaimMessage):
            return message
        lie = alter(SignedClaim.decode(message.claim).claim())
        key = run.nodes[agent].identity.signing_key
        return ClaimMessage(SignedClaim.sign(lie, key).encode())

    return tampering(agent, rewrite)


def test_a_claim_that_denies_whom_it_mixed_is_refused(started):
    run = started("ring", 4, rounds=8, window=4)
    run.tamper = claiming(
        run,
        "a1",
        lambda claim: replace(claim, rounds=tuple(replace(r, heard=()) for r in claim.rounds)),
    )
    finish(run)
    for neighbour in ("a0", "a2"):
        first, *_ = run.nodes[neighbour].events("claim_refused")
        assert "claim-heard" in first["detail"]


def test_a_claim_that_was_lost_comes_with_the_bill(started):
    run = started("ring", 4, rounds=8, window=4)
    run.tamper = withholding("a1", {Kind.CLAIM})
    finish(run)
    for neighbour in ("a0", "a2"):
        assert not run.nodes[neighbour].events("claim_missed")
        settled = run.nodes[neighbour].events("settled")
        assert [event["window"] for event in settled if event["peer"] == "a1"] == [0, 1]


def late(run, agent, seconds):
    """Let an agent hold back its claims and bills of window 0 for some seconds."""

    def hold(sender, send):
        if sender != agent or run.now_s > seconds:
            return send
        return None if send.envelope.kind in (Kind.CLAIM, Kind.BILL) else send

    return hold


def test_a_late_claim_bars_until_it_comes(started):
    run = started("ring", 4, rounds=400, window=4, deadline_s=0.5)
    run.tamper = late(run, "a1", 2.5)
    run.start()
    run.advance(2.0)
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        assert node.events("claim_missed")[0] == {"peer": "a1", "window": 0}
        assert node.core.neighbours["a1"].reason == "it has not claimed window 0"
    neighbours = [run.nodes[neighbour].core.neighbours["a1"] for neighbour in ("a0", "a2")]
    run.advance_until(lambda: not any(one.reason for one in neighbours), 6.0)


def test_a_claim_that_comes_before_our_own_window_is_over_is_kept(started):
    run = started("ring", 4, rounds=8, window=4, deadline_s=1.0)
    seen = set()

    def once(sender, send):
        """No claim is repeated, nor said again with a bill."""
        if send.envelope.kind is Kind.CLAIM:
            said = (sender, send.peer, bytes(send.envelope.fields[0]))
            first = said not in seen
            seen.add(said)
            return send if first else None
        return None if send.envelope.kind is Kind.BILL else send

    run.tamper = once
    run.start()
    slow = run.nodes["a3"]
    while slow.core.round < 8:
        if slow.core.round == 4 and slow.due:
            run.asleep.add("a3")  # a0 and a2 wait for it, while a1 has all that it needs
            run.advance(0.3)
            run.asleep.discard("a3")
        run.advance(0.05)
    for agent in ("a0", "a2"):
        assert not run.nodes[agent].events("claim_missed")
        assert run.nodes[agent].store.value("bill/0") is not None


def test_who_makes_a_habit_of_being_late_is_not_served(started):
    run = started("ring", 4, rounds=4000, window=4, deadline_s=0.2)
    held = {}

    def hold(sender, send):
        """Every claim and bill of a1 leaves a second after it was first sent."""
        if sender != "a1" or send.envelope.kind not in (Kind.CLAIM, Kind.BILL):
            return send
        first = held.setdefault((send.peer, bytes(send.envelope.fields[0])), run.now_s)
        return send if run.now_s >= first + 1.0 else None

    run.tamper = hold
    run.start()
    for neighbour in ("a0", "a2"):
        run.advance_until(told(run.nodes[neighbour], "a1", "came late or never"), 60.0)


def withholding(agent, kinds):
    """Let an agent never send messages of some kinds."""
    return lambda sender, send: None if sender == agent and send.envelope.kind in kinds else send
