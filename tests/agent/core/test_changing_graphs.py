"""Cores on graphs that change and on directed ones: mixing, notices, bills and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.statements import SignedStatement, Statement
from candor.network.messages import Update, from_envelope, to_envelope
from candor.network.transport import MemoryNetwork
from candor.network.wire import Kind
from tests.honest import formed_by
from tests.runs import DIM, LocalRun, finish, row_of, write_cluster

CHANGING = (
    "one-peer-exponential",
    "random-matching",
    "random-matching:base=ring",
    "rotating:base=complete,parts=3",
    "failing:base=ring,p=0.3",
    "round-robin:ring + star",
    "directed-ring",
    "directed-random:degree=2",
)


@pytest.fixture(scope="module", params=CHANGING)
def finished(request, tmp_path_factory):
    """An honest run of two windows, at its end."""
    run_dir = tmp_path_factory.mktemp("finished")
    run = finish(LocalRun(run_dir, write_cluster(run_dir, request.param, 5)))
    yield run
    run.close()


def statements(node):
    """What a node signed, by round and receiver, with the bytes of the payload that followed."""
    found = {}
    for send in node.sent:
        if send.envelope.kind is Kind.UPDATE:
            update = from_envelope(send.envelope)
            stated = Statement.decode(update.body, sketch_bytes_max=8 * DIM)
            found.setdefault(stated.round, {})[send.peer] = (stated, update.payload_bytes)
    return found


def test_models_follow_the_matrix_form(finished):
    run = finished
    assert [node.ended.failure for node in run.nodes.values()] == [None] * 5
    ids, x = run.cluster.ids, np.zeros((5, DIM))
    for t in range(1, run.cluster.rounds.rounds + 1):
        reports = np.stack([run.report(a, t) for a in ids])
        mass = run.cluster.round_weights.of(t).mass
        steps = np.array([[0.5 / mass[agent]] for agent in ids])
        x = run.cluster.mixing_matrix(t) @ (x - steps * reports)
        now = np.stack([run.nodes[a].models[t + 1] for a in ids])
        np.testing.assert_allclose(now, x, rtol=0, atol=1e-5)


def test_payloads_go_to_takers_and_statements_to_all_neighbours(finished):
    run = finished
    for agent, node in run.nodes.items():
        sent = statements(node)
        assert sorted(sent) == list(range(1, run.cluster.rounds.rounds + 1))
        for t, to in sent.items():
            assert set(to) == set(run.cluster.neighbours(agent))
            takers = run.cluster.round_weights.of(t).takers[agent]
            assert {peer for peer, (_, size) in to.items() if size} == takers
            assert {size for _, size in to.values()} <= {0, 4 * DIM}
            assert len({stated for stated, _ in to.values()}) == 1


def test_every_neighbour_is_billed_for_every_round(finished):
    run = finished
    balances = {a: n.core.settlement.balance for a, n in run.nodes.items()}
    assert sum(balances.values()) == 0
    for agent, node in run.nodes.items():
        for peer in run.cluster.neighbours(agent):
            for window in (0, 1):
                assert len(node.core.book.seen(peer, window).energies) == 4
    run.export()
    _, audit = audit_run_directory(run.run_dir)
    assert not audit.findings
    assert audit.nets == balances


def resigned(run, agent, send, **changes):
    """The same update with another statement under the sender's own signature."""
    update = from_envelope(send.envelope)
    stated = Statement.decode(update.body, sketch_bytes_max=8 * DIM)
    changed = {name: change(stated) for name, change in changes.items()}
    signed = SignedStatement.sign(replace(stated, **changed), run.nodes[agent].core._key)
    message = Update(signed.body, signed.signature, update.payload_bytes)
    return replace(send, envelope=to_envelope(message, send.envelope.nonce))


def altering(run, liar, number, alter):
    """Alter the updates of one round of one agent as they leave it."""

    def tamper(agent, send):
        if agent != liar or send.envelope.kind is not Kind.UPDATE:
            return send
        update = from_envelope(send.envelope)
        stated = Statement.decode(update.body, sketch_bytes_max=8 * DIM)
        return alter(send, update) if stated.round == number else send

    run.tamper = tamper


def refusals(run, liar, code):
    return [
        about
        for agent, node in run.nodes.items()
        if agent != liar
        for about in node.events("update_refused")
        if (about["peer"], about["code"]) == (liar, code)
    ]


def row_stated(stated):
    (row,) = stated.formed
    return dict(row.weights)


def more_of_it(stated):
    """The first weight of another agent raised by a tenth, at the cost of the own one."""
    row = row_stated(stated)
    other = next(agent for agent in row if agent != stated.agent)
    row[stated.agent] -= 0.1 * row[other]
    row[other] *= 1.1
    return (formed_by(row),)


@pytest.mark.parametrize("topology", ["one-peer-exponential", "directed-random:degree=2"])
def test_who_mixes_more_than_the_rounds_weights_is_refused_by_all_neighbours(started, topology):
    run = started(topology, 5)
    altering(run, "a2", 3, lambda send, _: resigned(run, "a2", send, formed=more_of_it))
    finish(run)
    assert len(refusals(run, "a2", "mixing-row")) == len(run.cluster.neighbours("a2"))


def test_who_mixes_by_the_weights_of_another_round_is_refused(started):
    run = started("one-peer-exponential", 5)
    other = {1: "a1", 2: "a0", 3: "a3"}  # a2 hears from a1, a0, a3 in rounds 1, 2, 3

    def row_of_the_round_before(stated):
        assert row_stated(stated)[other[stated.round - 1]] == 0.5
        return (formed_by({"a2": 0.5, other[stated.round - 2]: 0.5}),)

    def alter(send, _):
        return resigned(run, "a2", send, formed=row_of_the_round_before)

    altering(run, "a2", 3, alter)
    finish(run)
    assert len(refusals(run, "a2", "mixing-row")) == 4


@pytest.mark.parametrize("topology", ["directed-random:degree=2", "one-peer-exponential"])
@pytest.mark.parametrize("factor", [0.5, 1 + 1e-9, 2.0])
def test_a_step_that_is_not_the_schedules_over_the_mass_is_refused_by_all(
    started, topology, factor
):
    run = started(topology, 5)

    def alter(send, _):
        return resigned(run, "a2", send, step_size=lambda stated: factor * stated.step_size)

    altering(run, "a2", 3, alter)
    finish(run)
    assert len(refusals(run, "a2", "step-size")) == len(run.cluster.neighbours("a2"))


def test_a_payload_is_taken_only_from_those_that_give_in_that_round(started):
    run = started("one-peer-exponential", 5)
    sizes = {0: 4 * DIM, 4 * DIM: 0}

    def alter(send, update):
        message = replace(update, payload_bytes=sizes[update.payload_bytes])
        return replace(send, envelope=to_envelope(message, send.envelope.nonce))

    altering(run, "a2", 2, alter)
    finish(run)
    assert len(refusals(run, "a2", "payload-size")) == 4


@pytest.mark.parametrize("topology", ["directed-random:degree=2", "directed-ring"])
def test_a_dead_agent_leaves_the_others_a_mean(started, topology):
    run = started(topology, 5, rounds=30, deadline_s=0.5)
    run.start()
    run.advance(0.6)
    run.kill("a2")
    run.run()
    living = [node for agent, node in run.nodes.items() if agent != "a2"]
    assert all(node.ended.failure is None for node in living)
    stated = [of for n in living for to in statements(n).values() for of, _ in to.values()]
    rows = [row_stated(statement) for statement in stated]
    assert "a2" in set().union(*rows)
    assert all("a2" not in row_of(node) for node in living)
    # Rows sum to one whatever is lost, and masses know nothing of losses: nothing can explode.
    np.testing.assert_allclose([sum(row.values()) for row in rows], 1.0, rtol=0, atol=1e-12)
    assert max(statement.step_size for statement in stated) < 4 * 0.5


@pytest.mark.parametrize("topology", CHANGING)
def test_who_was_away_comes_back(started, tmp_path, topology):
    run = started(topology, 5, rounds=30, deadline_s=0.5, window=4)
    run.start()
    run.advance(0.8)
    run.kill("a1")
    run.advance(0.6)
    run.start("a1")
    run.run()
    assert run.nodes["a1"].ended.failure is None
    assert run.nodes["a1"].events("re_entered")
    assert max(run.nodes["a1"].models) == 31
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("topology", ["one-peer-exponential", "directed-random:degree=2"])
def test_losses_cost_nobody_its_place(started, tmp_path, topology, seed):
    network = MemoryNetwork(seed, loss=0.03, duplicate=0.05, delay_s=(0.001, 0.03), reorder=True)
    run = finish(started(topology, 5, network=network, rounds=12, deadline_s=1.0))
    assert {node.ended.failure for node in run.nodes.values()} == {None}
    for node in run.nodes.values():
        assert not node.events("claim_refused")
        assert not node.events("bill_refused")
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
