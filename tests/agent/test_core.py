"""The core under simulated time: real cores, evidence, ledgers and SQLite; no sockets."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.effects import Persist, PutValue, Remember, Send
from agent.ledger_files import audit_run_directory
from agent.referee import Referee
from agent.runtimes.assembly import channel_terms
from mechanisms.claims import Claim, SignedClaim
from mechanisms.ledger import StorePayment, StorePending, StoreRecord
from mechanisms.payments import SignedBill
from mechanisms.statements import SignedStatement, Statement
from network.messages import (
    BillMessage,
    Bye,
    Chunk,
    ClaimMessage,
    Update,
    from_envelope,
    to_envelope,
)
from network.transport import MemoryNetwork
from network.wire import Kind, encode
from tests.runs import DIM, LocalRun, write_cluster
from topologies.cluster import Revision


@pytest.fixture
def started(tmp_path):
    """Start runs that are closed at the end, pass or fail."""
    runs = []

    def start(topology="ring", agents=4, network=None, reports=None, **options):
        cluster = write_cluster(tmp_path, topology, agents, **options)
        run = LocalRun(tmp_path, cluster, network, reports)
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.close()


def finish(run):
    run.start()
    run.run()
    return run


def stated_digests(node):
    """Digest of every round this node stated, as sent to each neighbour."""
    found = {}
    for send in node.sent:
        if send.envelope.kind is Kind.UPDATE:
            update = from_envelope(send.envelope)
            statement = Statement.decode(update.body, sketch_bytes_max=8 * DIM)
            found.setdefault(statement.round, set()).add(statement.digest)
    return found


def test_models_follow_the_matrix_form(started):
    run = finish(started("ring", 5))
    matrix = run.cluster.mixing_matrix()
    x = np.zeros((5, DIM))
    for t in range(1, run.cluster.rounds.rounds + 1):
        reports = np.stack([run.nodes[a].report(t) for a in run.cluster.ids])
        x = matrix @ (x - 0.5 * reports)
        now = np.stack([run.nodes[a].models[t + 1] for a in run.cluster.ids])
        np.testing.assert_allclose(now, x, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("agents", [8, 32])
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


def test_a_dead_neighbour_costs_one_deadline_and_its_weight_goes_to_self(started):
    run = started("ring", 4, rounds=30, deadline_s=2.0)
    run.start()
    run.advance(0.5)
    run.kill("a2")
    began = run.now_s
    run.run()
    for neighbour in ("a1", "a3"):
        node = run.nodes[neighbour]
        assert [event["peer"] for event in node.events("neighbour_missed")] == ["a2"]
        assert node.ended.failure is None
        assert dict(node.core.book.row).keys() == {neighbour, "a0"}
        assert sum(node.core.book.row.values()) == pytest.approx(1.0)
    # One deadline, not one a round, and two for the claim of the window in which it died.
    assert run.now_s - began < 3 * 2.0 + 30 * 0.15


def test_a_restarted_agent_enters_again_and_never_states_a_round_twice(started, tmp_path):
    run = started("ring", 4, rounds=60, deadline_s=1.0)
    run.start()
    run.advance(0.6)
    first = run.nodes["a2"]
    run.kill("a2")
    run.advance(1.5)
    run.start("a2")
    run.run()
    second = run.nodes["a2"]
    assert second.ended.failure is None
    assert second.events("re_entered")
    # Nobody waits for an agent that is still looking for a round to enter.
    assert [len(run.nodes[a].events("neighbour_missed")) for a in ("a1", "a3")] == [1, 1]
    # And nobody gives up on the living while they wait for the dead.
    assert not run.nodes["a0"].events("neighbour_missed")
    before, after = stated_digests(first), stated_digests(second)
    assert before
    assert after
    assert not set(before) & set(after)
    assert all(len(digests) == 1 for digests in (*before.values(), *after.values()))
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


@pytest.mark.parametrize("back_too", [True, False])
def test_two_neighbours_that_come_back_together_are_both_let_in(started, back_too):
    """Each has one neighbour in a round and one that is coming back itself, or gone for good."""
    run = started("ring", 5, rounds=60, deadline_s=1.0)
    run.start()
    run.advance(0.6)
    for agent in ("a2", "a3"):
        run.kill(agent)
    run.advance(1.5)
    for agent in ("a2", "a3"):
        run.start(agent)
    if not back_too:
        run.advance(0.1)
        run.kill("a3")
    run.run()
    for agent in ("a2", "a3") if back_too else ("a2",):
        assert run.nodes[agent].ended.failure is None
        assert run.nodes[agent].events("re_entered")


def test_the_reserve_is_persisted_before_the_first_statement_beyond_it(started):
    run = started("ring", 3, rounds=2)
    run.start()
    node = run.nodes["a0"]
    run.advance(0.2)
    stored = int(node.store.value("reserved_round"))
    assert stored == run.cluster.payments.window
    core = node.core
    core._reserved = 0  # as if nothing had been reserved yet
    core._own, core._combining = None, False
    core.phase = type(core.phase).RUNNING
    core.round = 1
    core.book.row = {"a0": 1.0}
    payload = np.ones(DIM, np.float32)
    statement = core.examiner.state(1, "a0", payload, {"a0": 1.0})
    effects = core.published(payload, statement, run.now_s)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Remember) < kinds.index(Send)
    assert isinstance(effects[0].operations[0], PutValue)


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
                assert any(effect.envelope.fields[0] == _head(body) for body in stored)
    assert proposals >= 9
    assert accepts >= 9


def _head(body):
    from topologies.canonical import sha256

    return sha256(body)


def test_an_agent_that_was_away_takes_a_neighbours_model(started):
    run = started("ring", 4, rounds=60, deadline_s=1.0)
    run.start()
    run.advance(0.5)
    run.asleep.add("a2")
    run.advance(2.5)
    run.asleep.remove("a2")
    run.run()
    node = run.nodes["a2"]
    assert node.events("re_entered")
    assert node.ended.failure is None


@pytest.mark.parametrize("seed", range(12))
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


def tampering(agent, alter):
    """Alter what `agent` sends, message by message."""

    def tamper(sender, send):
        if sender != agent:
            return send
        message = alter(from_envelope(send.envelope))
        return replace(send, envelope=to_envelope(message, send.envelope.nonce))

    return tamper


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


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_never_reach_the_model(started, poison):
    run = started("ring", 4, rounds=3)
    payload = np.zeros(DIM, np.float32)
    payload[7] = poison

    def alter(message):
        node = run.nodes["a1"]
        if isinstance(message, Update):
            said = Statement.decode(message.body, sketch_bytes_max=8 * DIM)
            lie = node.core.examiner.state(said.round, "a1", payload, dict(said.row))
            lie = replace(lie, sources=said.sources)
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


def test_a_false_claim_is_refused_and_settles_nothing(started):
    run = started("ring", 4, rounds=4, window=4)
    key = []

    def alter(message):
        if isinstance(message, ClaimMessage):
            claim = SignedClaim.decode(message.claim).claim()
            rounds = tuple(replace(entry, energy=entry.energy / 2) for entry in claim.rounds)
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
        assert "a1" not in node.core.book.row


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


def test_windows_in_which_one_end_or_the_other_was_away_are_passed_over(started, tmp_path):
    run = started("ring", 4, rounds=130, window=1, deadline_s=1.0)
    run.start()
    nodes = run.nodes
    run.advance_until(lambda: nodes["a2"].core.round > 80)
    run.kill("a3")
    run.advance_until(lambda: nodes["a2"].core.round > 83)
    run.kill("a2")  # with windows that a3 has no bill of
    run.start("a3")
    run.advance_until(lambda: nodes["a3"].core.round > 90)
    run.start("a2")  # where a3 has windows that a2 has no bill of
    run.run(120.0)
    assert [nodes[agent].ended.failure for agent in nodes] == [None] * 4
    for one, other in (("a2", "a3"), ("a3", "a2")):
        assert nodes[one].core.settlement.settled(other)
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    assert all(edge.windows > 90 for edge in audit.edges)


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


def side_by_side(run, stranger, seconds):
    """Let a0 of one run and a1 of another greet each other."""
    stranger.network = run.network
    run.start("a0")
    stranger.start("a1")
    for _ in range(round(seconds / 0.05)):
        for one in (run, stranger):
            one.now_s += 0.05
            for receiver, delivery in run.network.deliver(one.now_s):
                side = run if receiver == "a0" else stranger
                effects = side.nodes[receiver].core.received(
                    delivery.sender, delivery.frames, side.now_s, 0.0
                )
                side._perform(receiver, effects)
            for agent, node in one.nodes.items():
                one._perform(agent, node.core.tick(one.now_s))


def test_different_cluster_files_are_refused_on_both_sides(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 2)
    other = cluster.model_copy(update={"seed": 99})
    run, stranger = LocalRun(tmp_path, cluster), LocalRun(tmp_path, other)
    side_by_side(run, stranger, 6.0)  # each stays for a while, so that the other side learns of it
    for node in (run.nodes["a0"], stranger.nodes["a1"]):
        assert node.ended.exit_code == 2
        assert cluster.fingerprint[:16] in node.ended.failure
        assert other.fingerprint[:16] in node.ended.failure
        assert len(node.events("peer_refused")) == 1
    run.close()
    stranger.close()


def two_revisions(cluster):
    """As the core sees them: their signatures are not its business."""
    organiser, previous = "ab" * 32, "cd" * 32
    revisions = [
        Revision(number=1, organiser=organiser),
        Revision(number=2, organiser=organiser, previous=previous),
    ]
    return [cluster.model_copy(update={"revision": revision}) for revision in revisions]


def test_neighbours_of_an_earlier_revision_are_waited_for(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 2, start_deadline_s=30.0)
    first, second = two_revisions(cluster)
    run, stranger = LocalRun(tmp_path, second), LocalRun(tmp_path, first)
    side_by_side(run, stranger, 15.0)
    assert stranger.nodes["a1"].ended.exit_code == 2
    assert "a1 needs revision 2" in stranger.nodes["a1"].ended.failure
    assert run.nodes["a0"].ended is None
    assert "a1 needs revision 2 and is waited for" in run.nodes["a0"].core.neighbours["a1"].reason
    stranger.close()
    (tmp_path / "agents" / "a1" / "ledger.sqlite").unlink()  # it moves with its directory
    run.start("a1")
    run.run(60.0)
    assert [node.ended.exit_code for node in run.nodes.values()] == [0, 0]
    run.close()


def test_neighbours_that_keep_an_earlier_revision_are_named_in_the_end(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 2, start_deadline_s=10.0)
    first, second = two_revisions(cluster)
    run, stranger = LocalRun(tmp_path, second), LocalRun(tmp_path, first)
    side_by_side(run, stranger, 11.0)
    told = run.nodes["a0"].ended.failure
    assert "no neighbour could be reached in 10 s: a1" in told
    assert "a1 needs revision 2" in told
    run.close()
    stranger.close()


def test_no_neighbour_in_reach_ends_with_one_line_that_names_them(started):
    run = started("ring", 3, start_deadline_s=1.0)
    run.start("a0")
    run.run(5.0)
    ended = run.nodes["a0"].ended
    assert ended.exit_code == 1
    assert "a1 (tcp://127.0.0.1:29001)" in ended.failure
    silent = "connected, but nothing comes back: can it reach us?"  # as no link says otherwise
    assert f"a2 (tcp://127.0.0.1:29002): {silent}" in ended.failure


def test_a_run_starts_without_the_neighbour_that_is_missing(started):
    run = started("ring", 4, start_deadline_s=1.0)
    run.start("a0", "a1", "a2")
    run.run()
    assert all(run.nodes[a].ended.failure is None for a in ("a0", "a1", "a2"))
    assert [e["peer"] for e in run.nodes["a0"].events("starts_without")] == ["a3"]


@pytest.mark.parametrize(("first", "second"), [("a0", "a1"), ("a1", "a0")])
def test_stopping_tells_the_neighbours(started, first, second):
    run = started("complete", 2, rounds=200)
    run.start()
    run.advance(0.5)
    run._perform(first, run.nodes[first].core.stop())
    run.run()
    assert run.nodes[first].ended.failure == "stopped before the last round"
    assert run.nodes[second].ended.failure is None
    # Nobody waited for a round's deadline: the farewell said that none will come.
    assert not run.nodes[second].events("neighbour_missed")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_an_authenticated_peer_sends_the_core_stays_sound(shared_run, data):
    run = shared_run
    node = run.nodes["a0"]
    valid = [send for send in run.nodes["a1"].sent if send.peer == "a0"]
    from network.wire import encode

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
    from network.wire import encode

    assert node.core.received("a1", encode(stale), run.now_s, 0.0) == []


def test_a_killed_agent_pays_for_the_window_it_died_in(started, tmp_path):
    """Crashing is no way out: what was stated before is claimed by the next life and settled."""
    fixed = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    run = started("complete", 3, reports={"a1": lambda t: 9 * fixed}, rounds=60, window=16)
    run.start()
    run.advance(1.2)
    stated = run.nodes["a1"].core.round
    assert 5 < stated < 16
    run.kill("a1")
    run.advance(0.5)
    run.start("a1")
    run.run()
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    settled = {event["window"] for event in run.nodes["a1"].events("settled")}
    assert 0 in settled
    assert audit.nets["a1"] < -1000
    assert not any(n.events("claim_refused") for n in run.nodes.values())


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
        (refused,) = run.nodes[neighbour].events("claim_refused")
        assert "claim-incomplete" in refused["detail"]
        assert "claim-incomplete" in run.nodes[neighbour].core.neighbours["a1"].reason


def test_a_round_beyond_the_run_is_refused(started):
    run = started("complete", 2, rounds=3)
    run.start()
    run.advance(0.2)
    node, peer = run.nodes["a1"], run.nodes["a0"]
    far = node.core.examiner.state(10**6, "a1", np.ones(DIM, np.float32), {"a0": 1.0})
    signed = SignedStatement.sign(far, node.identity.signing_key)
    update = Update(signed.body, signed.signature, 4 * DIM)
    from network.wire import encode

    nonce = node.core.neighbours["a0"].session.peer_nonce
    effects = peer.core.received("a1", encode(to_envelope(update, nonce)), run.now_s, 0.0)
    assert effects[0].fields["code"] == "statement-round"


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


@pytest.mark.parametrize("kinds", [{Kind.BILL}, {Kind.ACCEPT}, {Kind.PROPOSE}])
def test_a_neighbour_that_does_not_settle_is_not_served_any_more(started, kinds):
    run = started("ring", 4, rounds=400, window=4, deadline_s=0.5)
    run.tamper = withholding("a1", kinds)
    run.start()
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        run.advance_until(told(node, "a1", "has not settled window"), 6.0)
        run.advance(0.2)
        assert "a1" not in node.core.book.row
        assert node.core.neighbours["a3"].reason is None


def told(node, peer, words):
    """A condition: the node says this of a neighbour."""
    return lambda: words in (node.core.neighbours[peer].reason or "")


def withholding(agent, kinds):
    """Let an agent never send messages of some kinds."""
    return lambda sender, send: None if sender == agent and send.envelope.kind in kinds else send


def test_a_claim_that_was_lost_comes_with_the_bill(started):
    run = started("ring", 4, rounds=8, window=4)
    run.tamper = withholding("a1", {Kind.CLAIM})
    finish(run)
    for neighbour in ("a0", "a2"):
        assert not run.nodes[neighbour].events("claim_missed")
        assert run.nodes[neighbour].core.settlement.edge_balance("a1") != 0


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


def test_an_update_too_large_to_be_paid_for_is_not_mixed(started):
    huge = np.full(DIM, 1e9, np.float32)
    run = finish(started("complete", 4, reports={"a1": lambda t: huge}, rounds=3))
    for agent in ("a0", "a2", "a3"):
        node = run.nodes[agent]
        assert {event["code"] for event in node.events("update_refused")} == {"injected-too-large"}
        assert np.abs(node.x).max() < 100
        assert node.ended.failure is None
        assert not node.events("claim_refused")


def test_one_liar_cannot_keep_the_others_from_starting(started):
    run = started("complete", 4, rounds=3)
    run.start()
    run.nodes["a1"].core.round = 1000  # what its greetings say
    run.run()
    assert all(run.nodes[a].ended.failure is None for a in ("a0", "a2", "a3"))


def test_a_claim_stored_before_the_crash_outlives_an_older_snapshot(started, tmp_path):
    run = started("ring", 4, rounds=60, window=4, deadline_s=1.0)
    run.start()
    node = run.nodes["a1"]
    for _ in range(200):
        run.advance(0.05)
        if (
            node.core.round % 4 == 1
            and node.core.round > 4
            and not node.core.settlement.settled("a0")
        ):
            break
    run.kill("a1")
    run.start("a1")
    run.run()
    run.export()
    assert not any(n.events("claim_refused") for n in run.nodes.values())
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_a_lost_disk_is_told_by_the_neighbours_ledgers(started, tmp_path):
    run = finish(started("ring", 4, rounds=12, window=4))
    run.nodes["a1"].snapshot = None
    run.close()
    for file in (tmp_path / "agents" / "a1").glob("ledger.sqlite*"):
        file.unlink()
    run.start()
    run.run()
    node = run.nodes["a1"]
    assert not stated_digests(node)
    assert "beyond 20" in node.ended.failure  # window 2 is settled, and two more may be forgotten
    assert not any(other.events("misbehaviour_proven") for other in run.nodes.values())
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_windows_that_a_restored_backup_passed_over_are_not_billed(started, tmp_path):
    run = finish(started("ring", 4, rounds=12, window=4))
    run.close()
    for agent in run.nodes:
        with closing(sqlite3.connect(tmp_path / "agents" / agent / "ledger.sqlite")) as database:
            database.execute("DELETE FROM records")
            if agent == "a1":
                database.execute("DELETE FROM settings WHERE key IN ('bill/0', 'bill/1')")
            database.commit()
    run.start()
    run.run()
    assert not any(other.events("message_refused") for other in run.nodes.values())
    settled = [fields["window"] for fields in run.nodes["a0"].events("settled")]
    assert settled == [0, 1, 2]  # with a3; none with a1, whose bill names one that is gone


def test_updates_after_a_farewell_are_not_mixed(started):
    run = started("ring", 4, rounds=40, window=4)
    run.start()
    run.advance(0.5)
    nonce = run.nodes["a1"].core.neighbours["a0"].session.peer_nonce
    bye = to_envelope(Bye(False), nonce)
    run._perform("a1", [Send("a0", bye)])
    run.advance(0.5)
    before = run.nodes["a0"].core.neighbours["a1"].last_round
    run.advance(0.5)
    assert run.nodes["a0"].core.neighbours["a1"].last_round == before
    assert "a1" not in run.nodes["a0"].core.book.row


def test_a_flood_of_bad_messages_does_not_flood_the_log(started):
    run = started("ring", 3, rounds=100)
    run.start()
    run.advance(0.3)
    node = run.nodes["a0"]
    told = sum(len(node.core.received("a1", [b"x"], run.now_s, 0.0)) for _ in range(5000))
    assert 10 <= told < 20


def test_an_agent_that_was_away_for_long_is_let_in_again(started, tmp_path):
    """Windows in which it stated nothing are no debt: it must not be barred for them."""
    run = started("ring", 4, rounds=120, window=4, deadline_s=0.5)
    run.start()
    run.advance(1.5)
    run.kill("a1")
    run.advance(6.0)  # three times what an unsettled window is waited for
    run.start("a1")
    run.run()
    assert run.nodes["a1"].events("re_entered")
    assert all(node.ended.failure is None for node in run.nodes.values())
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_who_bills_only_the_windows_that_pay_is_not_served(started, monkeypatch):
    run = started("ring", 4, rounds=60, window=2, deadline_s=1.0)
    run.start()
    liar = run.nodes["a1"].core.settlement._referee
    unbilled = Referee.unbilled

    def only_the_fourth(referee, now_s):
        if referee is liar:
            for window, held in list(referee.windows.items()):
                if window % 4 and held.bill is None:
                    del referee.windows[window]
        return unbilled(referee, now_s)

    monkeypatch.setattr(Referee, "unbilled", only_the_fourth)
    run.run(120.0)
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        assert node.core.neighbours["a1"].barred
        assert [f["window"] for f in node.events("bill_missed") if f["peer"] == "a1"][:2] == [1, 2]
    assert run.nodes["a3"].core.neighbours["a0"].barred is None


@pytest.mark.parametrize("killed", [21, 22, 23, 30])
@pytest.mark.parametrize("backup", [0, 6])
def test_claims_that_a_restored_backup_forgot_cost_their_window_only(tmp_path, backup, killed):
    cluster = write_cluster(tmp_path, "ring", 4, rounds=64, window=4, deadline_s=1.0)
    run = LocalRun(tmp_path, cluster, network=MemoryNetwork(0, delay_s=(0.05, 0.1)))
    path = tmp_path / "agents" / "a1" / "ledger.sqlite"
    run.start()
    while run.nodes["a1"].core.round < max(1, backup):
        run.advance(0.05)
    snapshot = run.nodes["a1"].snapshot
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(tmp_path / "b")) as copy:
        one.backup(copy)
    while run.nodes["a1"].core.round < killed:
        run.advance(0.05)
    run.kill("a1")
    for file in path.parent.glob("ledger.sqlite*"):
        file.unlink()
    if backup:
        shutil.copy(tmp_path / "b", path)
    run.nodes["a1"].snapshot = snapshot if backup else None
    run.advance(0.5)
    run.start("a1")
    run.run(200.0)
    for one, other in (("a0", "a1"), ("a1", "a0"), ("a1", "a2"), ("a2", "a1")):
        node = run.nodes[one]
        assert (node.ended.failure, node.core.neighbours[other].barred) == (None, None)
        assert node.core.settlement.settled_window == 15
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    run.close()


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


@pytest.mark.parametrize(("backup", "killed", "replayed"), [(6, 11, 8), (0, 4, 2)])
def test_an_old_update_does_not_make_a_restored_backup_state_a_round_twice(
    started, tmp_path, backup, killed, replayed
):
    run = started("ring", 4, rounds=60, window=4, deadline_s=1.0)
    path = tmp_path / "agents" / "a1" / "ledger.sqlite"
    old: dict[int, list[Send]] = {}
    stated: dict[int, set[bytes]] = {}
    back = False

    def replay(agent, send):
        message = from_envelope(send.envelope)
        if agent == "a1" and isinstance(message, Update):
            said = Statement.decode(message.body, sketch_bytes_max=1 << 16)
            stated.setdefault(said.round, set()).add(said.digest)
        if (agent, send.peer) != ("a0", "a1") or send.bulk_round is None:
            return send
        if not back:
            old.setdefault(send.bulk_round, []).append(send)
            return send
        if isinstance(message, Update):  # in the place of the new one
            for one in old[replayed]:
                envelope = replace(one.envelope, nonce=send.envelope.nonce)
                run.network.post("a0", "a1", encode(envelope), run.now_s)
        return None

    run.tamper = replay
    run.start()
    while run.nodes["a1"].core.round < max(1, backup):
        run.advance(0.05)
    snapshot = run.nodes["a1"].snapshot
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(tmp_path / "b")) as copy:
        one.backup(copy)
    while run.nodes["a1"].core.round < killed:
        run.advance(0.05)
    run.kill("a1")
    for file in path.parent.glob("ledger.sqlite*"):
        file.unlink()
    if backup:
        shutil.copy(tmp_path / "b", path)
    run.nodes["a1"].snapshot = snapshot if backup else None
    back = True
    run.start("a1")
    run.advance(6.0)
    assert killed - 1 in stated
    assert all(len(digests) == 1 for digests in stated.values())
