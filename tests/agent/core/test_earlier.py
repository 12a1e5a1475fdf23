"""Cores that are killed, all at once or one, and go on with what they had kept."""

import pytest

from candor.agent.core.agent import Stage
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.statements import Row, SignedStatement
from candor.network.messages import Update, from_envelope
from candor.network.transport import MemoryNetwork
from tests.runs import LocalRun, stated_digests, write_cluster

ACCUSATIONS = ("misbehaviour_proven", "contradiction_proven", "claim_refused", "update_refused")


@pytest.fixture
def kept_run(tmp_path):
    runs = []

    def make(keeps=lambda _: True, topology="ring", agents=4, **settings):
        settings = {"rounds": 24, "window": 8, "deadline_s": 1.0, "base_port": 29_500} | settings
        cluster = write_cluster(tmp_path, topology, agents, **settings)
        run = LocalRun(tmp_path, cluster, MemoryNetwork(0, delay_s=(0.001, 0.002)), keeps=keeps)
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


def all_killed(run, after, away_s=0.5):
    """Everybody dies once the foremost has stated a round, and is started again; what each node was
    in its first life."""
    run.start()
    run.advance_until(lambda: max(n.core.round for n in run.nodes.values()) >= after)
    before = dict(run.nodes)
    for agent in run.cluster.ids:
        run.kill(agent)
    run.now_s += away_s
    run.start()
    return before


def sound(run, before, tmp_path):
    """The run has ended well: nobody stated two vectors of a round, or is accused of anything."""
    for agent, node in run.nodes.items():
        assert node.ended.failure is None, agent
        accused = [log for log in before[agent].logs + node.logs if log.event in ACCUSATIONS]
        assert accused == [], agent
        first, second = stated(before[agent]), stated(node)
        assert all(first[place] == second[place] for place in first.keys() & second.keys()), agent
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings
    return audit


@pytest.mark.parametrize("after", [3, 8, 12])
def test_all_that_die_at_once_go_on_inside_the_round_that_they_were_in(kept_run, tmp_path, after):
    run = kept_run()
    before = all_killed(run, after)
    run.run()
    sound(run, before, tmp_path)
    for agent, node in run.nodes.items():
        (resumed,) = node.events("resumed")
        assert resumed["round"] == max(stated_digests(before[agent]))
        # From there on no round is left out, and the first is sent as it was.
        assert set(stated_digests(node)) == set(range(resumed["round"], 25))
        assert not node.events("neighbour_missed")
        assert all(one.settled_window == 2 for one in channels(node))


def stated(node):
    """The statements that a node has sent, by round and phase: one of each."""
    messages = (from_envelope(send.envelope) for send in node.sent)
    updates = {m.body: m for m in messages if isinstance(m, Update)}
    said = [
        SignedStatement.decode(m.body, m.signature, sketch_bytes_max=2**16).statement
        for m in updates.values()
    ]
    found = {(one.round, one.phase): one for one in said}
    assert len(found) == len(said)
    return found


def channels(node):
    return [edge.channel for edge in node.core.settlement._edges.values()]


@pytest.mark.parametrize(
    ("algorithm", "aggregator"),
    [
        ("gradient-tracking", None),
        ("diloco", None),
        ("median-sgd", None),
        ("decentralized-sgd", "trimmed-mean"),
        ("decentralized-sgd", "rfa"),
    ],
)
def test_algorithms_go_on_with_their_state(kept_run, tmp_path, algorithm, aggregator):
    byzantine = {} if aggregator is None else {"max_byzantine": 1}
    run = kept_run(
        topology="complete", algorithm=algorithm, aggregator=aggregator, rounds=12, **byzantine
    )
    run.start()
    last = run.cluster.rounds.rounds
    run.advance_until(lambda: all(models_stated(node) for node in run.nodes.values()))
    before = dict(run.nodes)
    for agent in run.cluster.ids:
        run.kill(agent)
    run.start()
    run.run()
    sound(run, before, tmp_path)
    for agent, node in run.nodes.items():
        assert len(node.events("resumed")) == 1, agent
        assert not node.events("re_entered")
        assert max(stated_digests(node)) == last


def models_stated(node):
    """Whether an agent has stated the models of round 5 or later, and is not beyond that."""
    core = node.core
    said = core.book.last(core.settings.agent)
    return (
        said is not None and said.statement.round >= 5 and said.statement.phase == core.phases.model
    )


def test_who_has_an_older_vector_goes_back_to_it_and_pays_for_the_way(kept_run, tmp_path):
    run = kept_run(keeps=lambda t: t <= 6, sketch_size=40)
    before = all_killed(run, 10)
    run.run()
    sound(run, before, tmp_path)
    for agent, node in run.nodes.items():
        (resumed,) = node.events("resumed")
        assert min(stated_digests(node)) == resumed["round"] + 1 > 7
        assert min(stated(node).items(), key=lambda one: one[0])[1].formed == (
            Row(((agent, 1.0),)),
        )


def test_one_that_is_back_soon_enters_in_the_window_that_it_died_in(kept_run, tmp_path):
    run = kept_run(window=24)
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 4)
    before = dict(run.nodes)
    run.kill("a2")
    run.advance(0.5)
    run.start("a2")
    run.run()
    second = run.nodes["a2"]
    assert second.ended.failure is None
    assert min(stated_digests(second)) < 24
    assert not [log for n in run.nodes.values() for log in n.logs if log.event in ACCUSATIONS]
    # Its one claim of the window has the rounds of both lives.
    claim = second.core.settlement._referee.published(-1)[0].claim.claim()
    rounds = {entry.round for entry in claim.rounds}
    assert rounds == set(stated_digests(before["a2"])) | set(stated_digests(second))
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_one_that_is_away_for_windows_claims_what_it_had_and_rests(kept_run, tmp_path):
    run = kept_run(window=4)
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 6)
    first = run.nodes["a2"]
    run.kill("a2")
    run.advance_until(lambda: run.nodes["a0"].core.round >= 14)
    run.start("a2")
    run.run()
    second = run.nodes["a2"]
    assert second.ended.failure is None
    assert not second.events("resumed")
    assert second.events("re_entered")
    assert not set(stated_digests(first)) & set(stated_digests(second))
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_a_backup_that_is_taken_for_the_latest_is_told_so_by_neighbours(kept_run):
    run = kept_run(window=24)
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 4)
    old = run.nodes["a2"].snapshot, run.nodes["a2"].trained
    run.advance_until(lambda: run.nodes["a2"].core.round >= 8)
    first = run.nodes["a2"]
    run.kill("a2")
    first.snapshot, first.trained = old
    run.start("a2")
    run.advance(1.0)
    second = run.nodes["a2"]
    assert second.core.stage is Stage.REJOINING
    assert not second.events("resumed")
    assert not stated_digests(second)
