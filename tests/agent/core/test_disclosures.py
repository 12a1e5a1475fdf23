"""Rounds shown between neighbours: liars are proven by those who do them again, honest ones not."""



from candor.agent.learning.rows import TrainedRows
from candor.agent.runs.accusations import accusations
from candor.agent.runs.disclosed import judged
from candor.agent.runs.replay import Host
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import (
    Disclosure,
    Shown,
    ShownRound,
    SignedDisclosure,
    encode_shown,
)
from candor.network.wire import Kind
from candor.topologies.encoding.canonical import MalformedError, payload_digest
from tests.kept_runs import kept_run


class Doubles(TrainedRows):
    """Reports a twentieth too much."""

    def report(self, gradient, t, state):
        return super().report(gradient, t, state) * 1.05


def shown_run(tmp_path, **settings):
    settings = {"rounds": 6, "window": 3, "momentum": 0.5, "disclose": 1, **settings}
    return kept_run(tmp_path, **settings)


def told(run):
    return {(judge.shown.agent, found.round): found.told for _, judge, found in run.verdicts}


def test_neighbours_do_a_round_of_every_window_again_and_honest_ones_are_true(tmp_path):
    run = shown_run(tmp_path, agents=3, topology="ring")
    assert len(run.verdicts) == 3 * 2 * 2  # agents, neighbours, windows: the last one included
    assert set(told(run).values()) == {Told.TRUE}
    assert {found.why for *_, found in run.verdicts} == {"to the bit"}
    assert not any(node.events("round_not_shown") for node in run.nodes.values())
    run.close()


def test_whoever_reports_falsely_is_proven_by_its_neighbours_and_served_no_more(tmp_path):
    run = shown_run(tmp_path, lying={"a1": Doubles}, agents=3)
    assert {agent for (agent, _), found in told(run).items() if found is Told.FALSE} == {"a1"}
    for agent in ("a0", "a2"):
        (proven,) = run.nodes[agent].events("misbehaviour_proven")
        assert (proven["peer"], proven["kind"]) == ("a1", "false-report")
        assert run.nodes[agent].core.neighbours["a1"].barred.startswith("proven guilty")
    assert not run.nodes["a1"].events("misbehaviour_proven")
    run.close()
