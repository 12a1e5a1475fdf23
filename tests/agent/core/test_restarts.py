"""Cores that die, return, or get an older disk back, and their neighbours, in simulated time."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from candor.agent.core.agent import Stage
from candor.agent.core.effects import Persist, PutValue, Remember, Send
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.evidence.statements import Statement
from candor.network.messages import Update, from_envelope
from candor.network.transport import MemoryNetwork
from candor.network.wire import encode
from candor.topologies.encoding.canonical import unpack
from tests.runs import DIM, finish, row_of, stated_digests


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
        assert row_of(node).keys() == {neighbour, "a0"}
        assert sum(row_of(node).values()) == pytest.approx(1.0)
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


@pytest.mark.parametrize("apart_s", [0.0, 0.3])
def test_two_neighbours_that_have_fallen_behind_are_both_let_in(started, apart_s):
    """Each has heard the other, in rounds that are over, and is no majority with the one ahead."""
    run = started("ring", 5, rounds=120, deadline_s=1.0)
    run.start()
    run.advance(0.6)
    for agent in ("a2", "a3"):
        run.asleep.add(agent)
    run.advance(2.5)
    for agent in ("a2", "a3"):
        run.asleep.remove(agent)
        run.advance(apart_s)
    run.run()
    for agent in ("a2", "a3"):
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
    core.stage, core.step = Stage.RUNNING, 1
    payload = np.ones(DIM, np.float32)
    effects = core.published(payload, core.stated(payload), run.now_s)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Remember) < kinds.index(Send)
    assert isinstance(effects[0].operations[0], PutValue)


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


def test_coming_back_is_billed_by_what_was_injected_not_by_what_was_caught_up(started, tmp_path):
    """The model that it takes is far from its own; its first row says so, and nothing is charged
    for that way."""
    run = started("ring", 4, rounds=60, deadline_s=1.0, sketch_size=DIM)
    run.start()
    run.advance(0.5)
    run.asleep.add("a2")
    run.advance(2.5)
    run.asleep.remove("a2")
    run.run()
    back = run.nodes["a2"].events("re_entered")[0]["round"]
    taken, own = run.nodes["a2"].models[back], run.nodes["a2"].models[back - 20]
    with closing(sqlite3.connect(tmp_path / "agents" / "a2" / "ledger.sqlite")) as database:
        stored = database.execute("SELECT value FROM settings WHERE key LIKE 'claim/%'").fetchall()
    claims = [SignedClaim.decode(unpack(row, bytes_max=2**20)[0]).claim() for (row,) in stored]
    energies = {entry.round: entry.energy for claim in claims for entry in claim.rounds}
    assert back in energies
    assert np.linalg.norm(taken - own) > np.linalg.norm(run.report("a2", back))
    in_vain = max(t for t in run.nodes["a2"].models if t < back)  # trained when the others went on
    for t, energy in energies.items():
        report = run.report("a2", in_vain if t == back else t)
        assert energy == pytest.approx(float((report**2).sum()), rel=1e-3)


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
    settled = [(fields["peer"], fields["window"]) for fields in run.nodes["a0"].events("settled")]
    assert sorted(settled) == [("a1", 2), ("a3", 0), ("a3", 1), ("a3", 2)]
    assert [fields["window"] for fields in run.nodes["a0"].events("window_voided")] == [0, 1]


def restore(run, agent, backup, killed):
    """Kill an agent in round `killed`; its disk is as it was in round `backup`, or for 0 empty."""
    disk, node = run.run_dir / "agents" / agent, run.nodes[agent]
    backed_up, snapshot = run.run_dir / "backup.sqlite", None
    if backup:
        run.advance_until(lambda: node.core.round >= backup)
        snapshot = node.snapshot
        database = sqlite3.connect(disk / "ledger.sqlite")
        with closing(database), closing(sqlite3.connect(backed_up)) as copy:
            database.backup(copy)
    run.advance_until(lambda: node.core.round >= killed)
    run.kill(agent)
    for file in disk.glob("ledger.sqlite*"):
        file.unlink()
    if backup:
        shutil.copy(backed_up, disk / "ledger.sqlite")
    node.snapshot = snapshot


@pytest.mark.parametrize("killed", [21, 22, 23, 30])
@pytest.mark.parametrize("backup", [0, 6])
def test_claims_that_a_restored_backup_forgot_cost_their_window_only(
    started, tmp_path, backup, killed
):
    network = MemoryNetwork(0, delay_s=(0.05, 0.1))
    run = started("ring", 4, network, rounds=64, window=4, deadline_s=1.0)
    run.start()
    restore(run, "a1", backup, killed)
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


def test_a_window_that_was_lost_with_its_ledger_is_claimed_from_what_neighbours_return(
    started, tmp_path
):
    """The disk is lost, and with it what both neighbours wait for: they have it themselves."""
    run = started("ring", 4, rounds=40, window=2, deadline_s=0.5)
    run.start()
    nodes = run.nodes
    restore(run, "a1", 0, 6)
    run.advance_until(lambda: nodes["a0"].events("claim_missed"))
    assert nodes["a0"].core.neighbours["a1"].reason == "it has not claimed window 2"
    run.start("a1")
    run.advance(1.0)
    for neighbour in ("a0", "a2"):
        assert nodes[neighbour].core.neighbours["a1"].barred is None
        assert nodes[neighbour].core.neighbours["a1"].last_round > 6
    run.run(60.0)
    assert nodes["a1"].ended.failure is None
    settled = [event["window"] for event in nodes["a1"].events("settled")]
    assert {2, 19} <= set(settled)
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


@pytest.mark.parametrize("age", [1, 5, 9])
def test_an_older_snapshot_is_made_whole_by_what_neighbours_return(started, tmp_path, age):
    """Its disk is put back as it was some rounds before, within the window and in an earlier one;
    neighbours know more, and would not take its word for less."""
    run = started("ring", 4, rounds=40, window=8, deadline_s=1.0)
    run.start()
    restore(run, "a1", 14 - age, 14)
    run.start("a1")
    run.run()
    accused = ("misbehaviour_proven", "claim_refused", "claim_forfeited", "window_voided")
    for node in run.nodes.values():
        assert node.ended.failure is None
        assert not [log for log in node.logs if log.event in accused]
    assert {1, 4} <= {event["window"] for event in run.nodes["a1"].events("settled")}
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


@pytest.mark.parametrize(("backup", "killed", "replayed"), [(6, 11, 8), (0, 4, 2)])
def test_an_old_update_does_not_make_a_restored_backup_state_a_round_twice(
    started, backup, killed, replayed
):
    run = started("ring", 4, rounds=60, window=4, deadline_s=1.0)
    old: dict[int, list[Send]] = {}
    stated: dict[int, set[bytes]] = {}
    back = False

    def replay(agent, send):
        message = from_envelope(send.envelope)
        if agent == "a1" and isinstance(message, Update):
            said = Statement.decode(message.body, sketch_bytes_max=1 << 16)
            stated.setdefault(said.round, set()).add(said.digest)
        if (agent, send.peer) != ("a0", "a1") or send.bulk_step is None:
            return send
        if not back:
            old.setdefault(send.bulk_step, []).append(send)
            return send
        if isinstance(message, Update):  # in the place of the new one
            for one in old[replayed]:
                envelope = replace(one.envelope, nonce=send.envelope.nonce)
                run.network.post("a0", "a1", encode(envelope), run.now_s)
        return None

    run.tamper = replay
    run.start()
    restore(run, "a1", backup, killed)
    back = True
    run.start("a1")
    run.advance(6.0)
    assert killed - 1 in stated
    assert all(len(digests) == 1 for digests in stated.values())
