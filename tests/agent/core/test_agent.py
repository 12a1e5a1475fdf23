"""The core under simulated time: real cores, evidence, ledgers and SQLite; no sockets."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candor.agent.core.effects import Log
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.statements import SignedStatement, Statement
from candor.network.messages import (
    Ack,
    Chunk,
    Update,
    Waiting,
    Witnesses,
    from_envelope,
    to_envelope,
)
from candor.network.transport import MemoryNetwork
from candor.network.wire import Kind, encode
from tests.cases import cases
from tests.honest import formed_by
from tests.runs import DIM, LocalRun, finish, freshened, tampering, write_cluster


def test_models_follow_the_matrix_form(started):
    run = finish(started("ring", 5))
    matrix = run.cluster.mixing_matrix()
    x = np.zeros((5, DIM))
    for t in range(1, run.cluster.rounds.rounds + 1):
        reports = np.stack([run.report(a, t) for a in run.cluster.ids])
        x = matrix @ (x - 0.5 * reports)
        now = np.stack([run.nodes[a].models[t + 1] for a in run.cluster.ids])
        np.testing.assert_allclose(now, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("agents", [8, 16])
@pytest.mark.parametrize("topology", ["ring", "complete", "star", "torus", "erdos-renyi:p=0.4"])
def test_every_topology_finishes_and_settles(started, topology, agents):
    run = finish(started(topology, agents, rounds=2, window=2))
    assert all(n.ended.failure is None for n in run.nodes.values())
    assert sum(n.core.settlement.balance for n in run.nodes.values()) == 0
    assert all(len(n.events("settled")) == len(n.core.neighbours) for n in run.nodes.values())


def test_one_agent_alone_works(started):
    run = finish(started("complete", 1))
    assert run.nodes["a0"].ended.failure is None
    assert len(run.nodes["a0"].models) == run.cluster.rounds.rounds


@pytest.mark.parametrize("seed", range(cases(6)))
def test_loss_repeats_and_reordering_end_in_clean_ledgers(started, tmp_path, seed):
    network = MemoryNetwork(seed, loss=0.05, duplicate=0.1, delay_s=(0.001, 0.2), reorder=True)
    run = started("erdos-renyi:p=0.6", 5, network, rounds=12, deadline_s=0.5)
    run.start()
    run.run(200.0)
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    assert sum(audit.nets.values()) == 0
    assert all(np.isfinite(node.x).all() for node in run.nodes.values())


def test_a_flipped_payload_byte_is_refused_and_never_mixed(started):
    run = started("ring", 4, rounds=3)

    def alter(message):
        if isinstance(message, Chunk) and message.round == 2 and message.offset == 0:
            data = bytearray(message.data)
            data[0] ^= 1
            return replace(message, data=bytes(data))
        return message

    run.tamper = tampering("a1", alter)
    finish(run)
    for neighbour in ("a0", "a2"):
        (refused,) = run.nodes[neighbour].events("update_refused")
        assert (refused["peer"], refused["round"], refused["code"]) == ("a1", 2, "payload-digest")
    told = run.nodes["a1"].events("own_update_refused")
    assert {(event["peer"], event["code"]) for event in told} == {
        ("a0", "payload-digest"),
        ("a2", "payload-digest"),
    }


def test_an_update_with_a_chunk_out_of_place_is_refused_once_and_none_of_it_is_kept(started):
    run = started("ring", 4, rounds=3)

    def alter(message):
        """The first of three chunks once more, behind the second."""
        if isinstance(message, Chunk) and message.round == 2 and message.offset == 64:
            return replace(message, offset=0)
        return message

    run.tamper = tampering("a1", alter)
    run.start()
    refused = run.nodes["a2"]
    run.advance_until(lambda: refused.events("update_refused"))
    step = refused.core.phases.step(2, 0)
    assert refused.core.neighbours["a1"].inbox.slot(step) is None
    run.run()
    for neighbour in ("a0", "a2"):
        # The third chunk finds no slot any more: it is no second refusal.
        (told,) = run.nodes[neighbour].events("update_refused")
        assert (told["peer"], told["round"], told["code"]) == ("a1", 2, "chunk-order")


def test_others_are_asked_for_patience_once_in_each_round_that_waits(started):
    run = started("ring", 4, rounds=60, deadline_s=1.0)
    run.start()
    run.advance(0.5)
    for waits in (1, 2):
        run.asleep.add("a2")  # it comes back after the neighbours ask, and before they give up
        run.advance(0.65)
        run.asleep.discard("a2")
        run.advance(0.5)
        for neighbour in ("a1", "a3"):
            node = run.nodes[neighbour]
            said = [from_envelope(send.envelope) for send in node.sent if send.peer == "a0"]
            asked = [message.round for message in said if isinstance(message, Waiting)]
            assert len(asked) == len(set(asked)) >= waits
    assert not run.nodes["a0"].events("neighbour_missed")


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_never_reach_the_model(started, poison):
    run = started("ring", 4, rounds=3)
    payload = np.zeros(DIM, np.float32)
    payload[7] = poison

    def alter(message):
        node = run.nodes["a1"]
        if isinstance(message, Update):
            said = Statement.decode(message.body, sketch_bytes_max=8 * DIM)
            lie = node.core.examiner.state(said.round, said.phase, "a1", payload, said.formed)
            lie = freshened(node.core, replace(lie, sources=said.sources), payload)
            signed = SignedStatement.sign(lie, node.identity.signing_key)
            return Update(signed.body, signed.signature, message.payload_bytes)
        if isinstance(message, Chunk):
            data = payload.tobytes()[message.offset : message.offset + len(message.data)]
            return replace(message, data=data)
        return message

    run.tamper = tampering("a1", alter)
    finish(run)
    for agent in ("a0", "a2", "a3"):
        assert np.isfinite(run.nodes[agent].x).all()
        assert run.nodes[agent].ended.failure is None
    refused = run.nodes["a2"].events("update_refused")
    assert {(event["peer"], event["code"]) for event in refused} == {("a1", "payload-not-finite")}


def test_an_agent_whose_training_diverges_says_so_and_leaves(started):
    huge = np.full(DIM, np.inf, np.float32)
    run = finish(started("ring", 4, reports={"a1": lambda t: huge}, rounds=3))
    assert "training diverged: the model of round 1" in run.nodes["a1"].ended.failure
    assert all(run.nodes[a].ended.failure is None for a in ("a0", "a2", "a3"))
    assert not run.nodes["a0"].events("neighbour_missed")


def test_an_update_without_its_witnesses_is_not_mixed(started):
    run = started("ring", 5, rounds=3)
    run.tamper = lambda agent, send: (
        None if agent == "a1" and send.envelope.kind is Kind.WITNESSES else send
    )
    finish(run)
    codes = [event["code"] for event in run.nodes["a2"].events("update_refused")]
    assert codes == ["witness-missing", "witness-missing"]


def given_by(node, peer):
    """The rounds whose update went to a neighbour."""
    updates = [s for s in node.sent if s.peer == peer and s.envelope.kind is Kind.UPDATE]
    said = [Statement.decode(s.envelope.fields[0], sketch_bytes_max=1 << 16) for s in updates]
    return {statement.round for statement in said}


@pytest.mark.parametrize("silent", [False, True])
def test_who_returns_nothing_that_can_be_mixed_is_not_given_for_ever(started, silent):
    reports = {} if silent else {"a1": lambda t: np.full(DIM, 1e9, np.float32)}
    run = started("ring", 4, reports=reports, rounds=100, window=4, deadline_s=0.5)
    if silent:
        kept = (Kind.UPDATE, Kind.WITNESSES, Kind.CHUNK)
        run.tamper = lambda agent, send: (
            None if agent == "a1" and send.envelope.kind in kept else send
        )
    run.start()
    run.run(300.0)
    # a1 trains alone between them, and is through before the others.
    assert {48} <= {t for t in given_by(run.nodes["a0"], "a1") if t > 33} <= {48, 64, 80, 96}
    assert run.nodes["a0"].ended.failure is None


def test_who_returns_something_again_is_given_again(started):
    reports = {"a1": lambda t: np.full(DIM, 1e9 if t <= 50 else 0.1, np.float32)}
    run = started("ring", 4, reports=reports, rounds=100, window=4, deadline_s=0.5)
    run.start()
    run.run(300.0)
    again = {t for t in given_by(run.nodes["a0"], "a1") if t > 33 and t % 16}
    assert len(again) > 10


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    """A run in mid-flight, attacked by many examples."""
    folder = tmp_path_factory.mktemp("run")
    run = LocalRun(folder, write_cluster(folder, "ring", 3, rounds=500))
    run.start()
    run.advance(1.0)
    assert run.nodes["a0"].core.round > 3
    while not run.nodes["a0"].core.settlement.settled("a1"):
        run.advance(0.05)  # so that nothing genuine is under way
    yield run
    run.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_an_authenticated_peer_sends_the_core_stays_sound(shared_run, data):
    run = shared_run
    node = run.nodes["a0"]
    valid = [send for send in run.nodes["a1"].sent if send.peer == "a0"]
    frames = [bytes(f) for f in encode(data.draw(st.sampled_from(valid)).envelope)]
    index = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[index]) - 1))
    action = data.draw(st.sampled_from(["flip", "cut", "insert", "replay", "noise"]))
    if action == "flip":
        changed = bytearray(frames[index])
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        frames[index] = bytes(changed)
    elif action == "cut":
        frames[index] = frames[index][:at]
    elif action == "insert":
        frames[index] = frames[index][:at] + data.draw(st.binary(max_size=9)) + frames[index][at:]
    elif action == "noise":
        frames = data.draw(st.lists(st.binary(max_size=40), max_size=4))
    before = node.core.settlement.balance
    effects = node.core.received("a1", frames, run.now_s, 0.0)
    assert isinstance(effects, list)
    assert node.core.settlement.balance == before


def test_messages_of_strangers_and_of_earlier_sessions_are_not_served(started):
    run = started("ring", 4, rounds=100)
    run.start()
    run.advance(0.3)
    node = run.nodes["a0"]
    (refused,) = node.core.received("a2", [b"x"], run.now_s, 0.0)[:1]
    assert refused.fields["code"] == "not-a-neighbour"
    update = next(
        s for s in run.nodes["a1"].sent if s.peer == "a0" and s.envelope.kind is Kind.UPDATE
    )
    stale = to_envelope(Update(*update.envelope.fields), bytes(16))
    assert node.core.received("a1", encode(stale), run.now_s, 0.0) == []


def said_by_a1(run, message):
    """The codes with which a0 refuses a message of a1, if it does."""
    nonce = run.nodes["a1"].core.neighbours["a0"].session.peer_nonce
    frames = encode(to_envelope(message, nonce))
    effects = run.nodes["a0"].core.received("a1", frames, run.now_s, 0.0)
    return [effect.fields["code"] for effect in effects if isinstance(effect, Log)]


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (1, 2**53), (2**53, 1)])
def test_an_exchange_that_no_round_has_is_refused(started, place):
    run = started("complete", 2, rounds=100)
    run.start()
    run.advance(0.3)
    assert said_by_a1(run, Witnesses(*place, ())) == ["phase"]
    assert said_by_a1(run, Chunk(*place, 0, b"x")) == ["phase"]
    # Of these nothing is read but that they came.
    assert said_by_a1(run, Waiting(*place)) == said_by_a1(run, Ack(*place, "")) == []


def test_a_statement_of_an_exchange_that_no_round_has_is_refused(started):
    run = started("complete", 2, rounds=100)
    run.start()
    run.advance(0.3)
    node, inbox = run.nodes["a1"], run.nodes["a0"].core.neighbours["a1"].inbox
    latest, ones = inbox.latest_step, np.ones(DIM, np.float32)
    said = node.core.examiner.state(latest + 1, 0, "a1", ones, [formed_by({"a1": 1.0})])
    signed = SignedStatement.sign(replace(said, phase=1), node.identity.signing_key)
    assert said_by_a1(run, Update(signed.body, signed.signature, 4 * DIM)) == ["phase"]
    assert inbox.latest_step == latest


def test_a_round_beyond_the_run_is_refused(started):
    run = started("complete", 2, rounds=3)
    run.start()
    run.advance(0.2)
    node, peer = run.nodes["a1"], run.nodes["a0"]
    ones, row = np.ones(DIM, np.float32), formed_by({"a0": 1.0})
    far = node.core.examiner.state(10**6, 0, "a1", ones, [row])
    signed = SignedStatement.sign(far, node.identity.signing_key)
    update = Update(signed.body, signed.signature, 4 * DIM)
    nonce = node.core.neighbours["a0"].session.peer_nonce
    effects = peer.core.received("a1", encode(to_envelope(update, nonce)), run.now_s, 0.0)
    assert effects[0].fields["code"] == "statement-round"


def test_an_update_too_large_to_be_paid_for_is_not_mixed(started):
    huge = np.full(DIM, 1e9, np.float32)
    run = finish(started("complete", 4, reports={"a1": lambda t: huge}, rounds=3))
    for agent in ("a0", "a2", "a3"):
        node = run.nodes[agent]
        assert {event["code"] for event in node.events("update_refused")} == {"injected-too-large"}
        assert np.abs(node.x).max() < 100
        assert node.ended.failure is None
        assert not node.events("claim_refused")


def test_a_flood_of_bad_messages_does_not_flood_the_log(started):
    run = started("ring", 3, rounds=100)
    run.start()
    run.advance(0.3)
    node = run.nodes["a0"]
    said = [e for _ in range(5000) for e in node.core.received("a1", [b"x"], run.now_s, 0.0)]
    assert 10 <= sum(isinstance(effect, Log) for effect in said) < 20
