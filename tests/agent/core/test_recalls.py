"""What neighbours have of an agent's own hand comes back to it, whole, and nothing else does."""

import pytest

from candor.agent.core.recalls import ANSWER_S, ASK_S, Recalls
from candor.mechanisms.evidence.claims import SignedClaim
from candor.network.errors import RemoteProtocolError
from candor.network.messages import Recall, Returned, What, from_envelope, to_envelope
from candor.network.wire import Kind
from candor.topologies.encoding.canonical import MalformedError
from tests.agent.core.test_restarts import restore
from tests.runs import stated_digests

ACCUSED = ("misbehaviour_proven", "claim_refused", "bill_refused", "claim_forfeited")


@pytest.fixture
def recalls():
    made = Recalls(["a0", "a2"])
    made.open = True
    return made


def test_each_is_asked_until_all_of_its_answer_has_come(recalls):
    assert recalls.asks("a0", 0.0)
    assert not recalls.asks("a0", ASK_S / 2)
    assert recalls.took("a0", Returned(What.CLAIM, b"one", count=2))
    assert not recalls.took("a0", Returned(What.CLAIM, b"one", count=2))
    assert not recalls.answered(["a0"])
    assert recalls.asks("a0", ASK_S)
    assert recalls.took("a0", Returned(What.BILL, b"two", count=2))
    assert recalls.answered(["a0"])
    assert not recalls.answered(["a0", "a2"])
    assert not recalls.asks("a0", 9.0)


def test_who_has_nothing_says_so(recalls):
    assert not recalls.took("a2", Returned(What.NOTHING))
    assert recalls.answered(["a2"])


def test_nobody_is_asked_by_who_has_lost_nothing(recalls):
    recalls.open = False
    assert not recalls.asks("a0", 0.0)
    assert not recalls.took("a0", Returned(What.CLAIM, b"one", count=1))


def test_who_asks_all_the_time_is_answered_now_and_then(recalls):
    answers = [recalls.answers("a0", at * ANSWER_S / 4) for at in range(9)]
    assert answers == [True, False, False, False] * 2 + [True]


def test_an_agent_without_its_ledger_claims_what_it_had_claimed(started):
    """The claim that it makes of what comes back is the one that it had made, byte for byte, where
    nobody could return that."""
    run = started("ring", 4, rounds=40, window=8, deadline_s=2.0)
    run.start()
    node = run.nodes["a1"]
    run.advance_until(lambda: node.core.round >= 9)
    claim = node.core.settlement._referee.held(0).claim
    for peer in ("a0", "a2"):  # they have seen it stated, and never claimed
        run.nodes[peer].core.settlement.collector._signed.forget(lambda key: True)
        run.nodes[peer].core.settlement._edges["a1"].windows.clear()
    restore(run, "a1", 0, 10)
    run.start("a1")
    again = run.nodes["a1"].core.settlement._referee
    run.advance_until(lambda: again.held(0) is not None, 2.0)
    assert again.held(0).claim.body == claim.body
    assert again.held(0).blind


def test_nothing_is_stated_claimed_or_billed_before_all_have_answered(started):
    run = started("ring", 4, rounds=60, window=4, deadline_s=2.0)
    silent = True

    def withheld(agent, send):
        return None if silent and agent == "a0" and send.envelope.kind == Kind.RETURNED else send

    run.tamper = withheld
    run.start()
    restore(run, "a1", 0, 6)
    run.start("a1")
    run.advance(1.5)
    node = run.nodes["a1"]
    sent = {send.envelope.kind for send in node.sent}
    assert Kind.RECALL in sent
    assert not sent & {Kind.UPDATE, Kind.CLAIM, Kind.BILL}
    silent = False
    run.advance(1.5)
    assert stated_digests(node)
    assert not [log for n in run.nodes.values() for log in n.logs if log.event in ACCUSED]


def test_who_answers_late_is_listened_to(started):
    """Its patience is over before the only one that could tell has answered."""
    run = started("ring", 4, rounds=60, window=4, deadline_s=1.0)
    silent = True

    def withheld(agent, send):
        return None if silent and send.envelope.kind == Kind.RETURNED else send

    run.tamper = withheld
    run.start()
    restore(run, "a1", 0, 6)
    run.advance_until(lambda: run.nodes["a0"].events("claim_missed"))
    run.start("a1")
    run.advance(1.5)
    neighbour = run.nodes["a0"].core.neighbours["a1"]
    assert neighbour.barred == "it has not claimed window 1"
    silent = False
    run.advance(1.5)
    assert neighbour.barred is None


def test_one_that_never_answers_costs_its_patience_only(started):
    run = started("ring", 4, rounds=48, window=4, deadline_s=1.0)
    run.tamper = lambda agent, send: (
        None if agent == "a0" and send.envelope.kind == Kind.RETURNED else send
    )
    run.start()
    restore(run, "a1", 0, 6)
    run.start("a1")
    run.advance(2.5)
    assert stated_digests(run.nodes["a1"])
    run.run()
    assert run.nodes["a1"].ended.failure is None
    assert run.nodes["a1"].core.neighbours["a0"].barred is None


def test_an_agent_takes_back_only_what_it_has_signed_itself(started):
    run = started("ring", 4, rounds=40, window=4, deadline_s=1.0)
    run.start()
    run.advance_until(lambda: run.nodes["a0"].core.round >= 6)
    core, other = run.nodes["a1"].core, run.nodes["a0"].core
    claim = other.settlement._referee.published(-1)[0].claim
    forged = SignedClaim(core.settlement._referee.published(-1)[0].claim.body, claim.signature)
    for data in (claim.encode(), forged.encode()):
        with pytest.raises(RemoteProtocolError, match="returned"):
            core.settlement.returned(What.CLAIM, data)
    with pytest.raises(MalformedError):
        core.settlement.returned(What.BILL, b"a bill")
    [(theirs, sources), *_] = core.settlement.collector.said_unclaimed("a0")
    [(ours, own), *_] = other.settlement.collector.said_unclaimed("a1")
    with pytest.raises(ValueError, match="not signed by its receiver"):
        core.book.recover(theirs, sources)
    with pytest.raises(ValueError, match="with other sources"):
        core.book.recover(ours, own[1:])
    assert not core.book.recover(ours, own)  # it is known


def test_a_neighbour_returns_its_statements_of_a_window_until_it_meets_their_claim(started):
    run = started("ring", 4, rounds=40, window=4, deadline_s=1.0)
    run.start()
    run.advance_until(lambda: run.nodes["a0"].core.round >= 7)
    kept = run.nodes["a0"].core.settlement.kept_of("a1")
    assert {one.count for one in kept} == {len(kept)}
    stated = [one for one in kept if one.what is What.STATEMENT]
    assert 1 <= len(stated) <= 4
    assert all(isinstance(from_envelope(e), Recall | Returned) for e in _envelopes(kept))


def _envelopes(kept):
    return [to_envelope(one, bytes(16)) for one in (Recall(), *kept)]
