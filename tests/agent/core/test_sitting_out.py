"""Who is slow sits rounds out, and goes on from what it mixed before them; simulated."""

from dataclasses import replace

import numpy as np
import pytest

from candor.agent.algorithms.catalogue import check_breakdown
from candor.agent.core.neighbour import LATE
from candor.agent.core.stating import aimed
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.evidence.examiner import SAT_OUT
from candor.mechanisms.evidence.statements import EvidenceError, Row, SignedStatement, Statement
from candor.network.messages import Ack, Update, from_envelope
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.specs import ConfigurationError
from tests.runs import DIM, stated_digests, write_cluster

WINDOW = 8
USUAL_S = 0.5  # ten ticks: what two tell each other takes one or two


def sitting(started, slow_s, agents=4, **settings):
    """A ring in which everybody trains for `USUAL_S`, a2 for `slow_s`, and no pace is
    everyone's."""
    settings = {"rounds": 24, "window": WINDOW, "deadline_s": 4.0, "sketch_size": DIM} | settings
    run = started("ring", agents, pace="async", **settings)
    run.takes_s = dict.fromkeys(run.cluster.ids, USUAL_S) | {"a2": slow_s}
    return run


def finished(run):
    run.start()
    run.run(200.0)
    assert [node.ended.failure for node in run.nodes.values()] == [None] * len(run.nodes)
    return run


def statements(node):
    """By round, what a node stated."""
    found = {}
    for send in node.sent:
        message = from_envelope(send.envelope)
        if isinstance(message, Update):
            said = Statement.decode(message.body, sketch_bytes_max=8 * DIM)
            found[said.round] = said
    return found


def heard(run, agent):
    """By round, whom an agent mixed."""
    of_windows = run.nodes[agent].core.book._heard.values()
    return {t: set(who) for of_window in of_windows for t, who in of_window.items()}


@pytest.mark.parametrize("slow_s", [0.75, 5.0])
def test_two_mix_each_other_in_a_round_or_not_at_all(started, slow_s):
    run = sitting(started, slow_s, agents=5)
    last = run.cluster.rounds.rounds
    finished(run)
    mixed = {agent: heard(run, agent) for agent in run.nodes}
    alone = [
        (agent, peer, t)
        for agent, rounds in mixed.items()
        for t, who in rounds.items()
        for peer in who
        if t < last and agent not in mixed[peer].get(t, ())
    ]
    assert alone == []
    assert any("a2" in who for t, who in mixed["a1"].items() if t > 4)
    assert run.nodes["a2"].events("sat_out")
    assert not any(node.events("re_entered") for node in run.nodes.values())


@pytest.mark.parametrize("sketch_size", [16, DIM])
def test_a_tenth_of_the_speed_leaves_the_others_theirs(started, tmp_path, sketch_size):
    run = sitting(started, 5.0, sketch_size=sketch_size, rounds=60)
    run.start()
    run.advance_until(lambda: run.nodes["a0"].core.round > 20, 60.0)
    before, began_s = run.nodes["a0"].core.round, run.now_s
    run.advance(15.0)
    pace = (run.nodes["a0"].core.round - before) / (run.now_s - began_s)
    assert pace > 0.8 / (USUAL_S + 0.2)  # four ticks are an exchange's
    run.run(200.0)
    slow, events = run.nodes["a2"], run.nodes["a2"].events("sat_out")
    assert sum(event["rounds"] for event in events) > 30
    assert all(len(digests) == 1 for digests in stated_digests(slow).values())
    told = statements(slow)
    assert {said.sat_out for said in told.values()} - {0}
    for node in run.nodes.values():
        assert not node.events("update_refused")
        assert not node.events("misbehaviour_proven")
        assert not node.events("claim_missed")
        assert all(n.barred is None for n in node.core.neighbours.values())
    if sketch_size == DIM:  # what it injects is what it trained, not what it was late for
        shown = run.nodes["a1"].core.book.seen("a2", 1)
        for t, energy in shown.energies.items():
            trained = t - told[t].sat_out
            report = run.report("a2", trained)
            assert energy == pytest.approx(float((report**2).sum()), rel=1e-3)
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_a_lie_of_who_sat_rounds_out_is_billed(started):
    """As much as it injects: it is measured from what it mixed, and paid for to those who mix
    it."""
    reports = {"a2": lambda t: np.full(DIM, 3.0, np.float32)}
    run = finished(sitting(started, 2.5, rounds=40, reports=reports, rule="norm:2e-5"))
    assert run.nodes["a2"].events("sat_out")
    energies = run.nodes["a1"].core.book.seen("a2", 1).energies.values()
    assert list(energies) == pytest.approx([9.0 * DIM] * len(energies), rel=1e-3)
    billed = [event for event in run.nodes["a1"].events("settled") if event["peer"] == "a2"]
    assert len(billed) > 2
    assert sum(event["delta"] for event in billed) < 0  # what the lower end, a1, has paid


def test_too_old_a_model_is_given_up_for_a_neighbours(started):
    run = sitting(started, 12.0, window=4, rounds=60)
    finished(run)
    assert run.nodes["a2"].events("re_entered")
    assert not any(node.events("update_refused") for node in run.nodes.values())


def test_a_slow_agent_that_is_killed_goes_on_from_what_it_mixed(started):
    run = sitting(started, 2.5, rounds=60)
    run._keeps = lambda t: True
    run.start()
    slow = lambda: run.nodes["a2"]  # noqa: E731
    run.advance_until(lambda: slow().events("sat_out"), 60.0)
    run.advance_until(lambda: slow().core._own is not None and not slow().core._combining, 60.0)
    run.kill("a2")
    run.advance(0.2)
    run.start("a2")
    run.run(200.0)
    assert [node.ended.failure for node in run.nodes.values()] == [None] * 4
    for node in run.nodes.values():
        assert not node.events("misbehaviour_proven")


# --- what a statement may say ---------------------------------------------------------------------


def stated_later(run, agent, sat_out, t):
    """A statement of round t by who sat so many rounds out, and its payload."""
    node = run.nodes[agent]
    payload = np.ones(DIM, np.float32)
    row = (Row(((agent, 1.0),)),)
    said = node.core.examiner.state(t, 0, agent, payload, row, sat_out)
    return SignedStatement.sign(said, node.identity.signing_key)


def test_rounds_are_sat_out_from_the_window_before_at_most(started):
    run = sitting(started, 0.0, rounds=60)
    run.start()
    examiner = run.nodes["a1"].core.examiner
    examiner.examine_header(stated_later(run, "a2", WINDOW, 2 * WINDOW), "a2")
    with pytest.raises(EvidenceError, match=SAT_OUT):
        examiner.examine_header(stated_later(run, "a2", WINDOW + 1, 2 * WINDOW + 1), "a2")


def test_nobody_sits_rounds_out_where_all_go_in_step(started):
    run = started("ring", 4, rounds=24, window=WINDOW)
    run.start()
    with pytest.raises(EvidenceError, match=SAT_OUT):
        run.nodes["a1"].core.examiner.examine_header(stated_later(run, "a2", 1, 3), "a2")


def test_who_stated_a_round_in_between_cannot_go_on_from_before(started):
    run = sitting(started, 2.5, rounds=60)
    run.start()
    run.advance_until(lambda: run.nodes["a2"].events("sat_out"), 60.0)
    book = run.nodes["a1"].core.book
    run.advance(0.2)
    last = book.last("a2").statement
    again = replace(last, round=last.round + 2, sat_out=last.sat_out + 2)
    assert book.mixed_since(again)
    assert not book.mixed_since(replace(again, sat_out=1))


@pytest.mark.parametrize("sat_out", [-1, 0, 5, 2**53])
def test_a_statement_of_impossible_rounds_is_malformed(started, sat_out):
    run = sitting(started, 0.0)
    run.start()
    said = replace(stated_later(run, "a2", 0, 5).statement, sat_out=sat_out)
    if sat_out == 0:
        assert Statement.decode(said.encode(), sketch_bytes_max=8 * DIM) == said
        return
    with pytest.raises(MalformedError):
        Statement.decode(said.encode(), sketch_bytes_max=8 * DIM)


def test_what_was_trained_is_stepped_by_the_step_of_the_round_in_which_it_is_stated(started):
    run = sitting(started, 0.0)
    run.start()
    node = run.nodes["a2"]
    out = node.driver.advance()
    node.core.step = 5
    later = aimed(node.core, node.driver, out)
    assert (out.round, later.round) == (1, 5)
    assert (later.vectors == out.vectors).all()  # of a schedule that stays


def test_only_the_first_word_on_an_update_counts(started):
    run = sitting(started, 0.0)
    run.start()
    neighbour = run.nodes["a1"].core.neighbours["a2"]
    assert not neighbour.mutual(3)
    neighbour.answered(3, "")
    neighbour.answered(3, LATE)
    assert neighbour.mutual(3)
    neighbour.answered(4, LATE)
    assert not neighbour.mutual(4)


def test_what_came_too_late_is_told_from_what_is_mixed(started):
    run = finished(sitting(started, 0.75, rounds=40))
    codes = {
        message.code
        for node in run.nodes.values()
        for send in node.sent
        if isinstance(message := from_envelope(send.envelope), Ack)
    }
    assert codes == {"", LATE}


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "gradient-tracking"},
        {"aggregator": "rfa", "max_byzantine": 1},
        {"rewards": "cgsv:beta=1"},
        {"influence": 2.0},
        {"replay": True},
        {"topology": "directed-ring", "algorithm": "gradient-push"},
    ],
)
def test_what_rounds_cannot_be_sat_out_with_is_refused_in_a_line(tmp_path, settings):
    cluster = write_cluster(tmp_path, **{"pace": "async", "topology": "ring", **settings})
    with pytest.raises(ConfigurationError, match=r"^pace async: [^\n]*; (choose|leave out) "):
        check_breakdown(cluster)
