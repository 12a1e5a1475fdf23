"""A strategy that sends each neighbour another vector: stated, signed, proven, and barred."""

import numpy as np
import pytest
import torch

from candor.agent.core.terms import run_terms
from candor.agent.learning.given import GivenGradients
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.proofs import Proof, verify_proof
from candor.network.wire import Kind
from tests.runs import DIM, LocalRun, stated_digests, write_cluster

LIAR = "a1"


class TellsEachAnother(GivenGradients):
    """From round 3 on another vector for each neighbour."""

    def __init__(self, neighbours):
        draw = np.random.default_rng(5)
        super().__init__(lambda t: draw.standard_normal(DIM).astype(np.float32))
        self.neighbours = neighbours

    def sent(self, v, t, phase):
        if t < 3:
            return v, {}
        apart = torch.stack([v[0] + 1 + at for at in range(self.neighbours)])
        return apart[:1], {0: apart}


def liars_run(tmp_path, topology, agents, **options):
    cluster = write_cluster(tmp_path, topology, agents, **{"rounds": 9, "window": 4, **options})
    around = sorted(cluster.neighbours(LIAR))
    liar = TellsEachAnother(len(around))
    return cluster, around, LocalRun(tmp_path, cluster, performers={LIAR: liar})


@pytest.mark.parametrize(
    ("topology", "options"),
    [
        ("complete", {}),
        ("ring", {}),
        ("complete", {"aggregator": "rfa", "max_byzantine": 1}),
        ("ring", {"aggregator": "rfa", "max_byzantine": 1, "algorithm": "gradient-tracking"}),
        ("complete", {"aggregator": "median", "max_byzantine": 1, "codec": "float16"}),
        ("one-peer-exponential", {"aggregator": "rfa", "max_byzantine": 0}),
    ],
)
def test_it_is_proven_and_barred_and_all_others_finish(tmp_path, topology, options):
    cluster, around, run = liars_run(tmp_path, topology, 5, **options)
    run.start()
    run.run(until_s=120.0)
    terms = run_terms(cluster)
    for agent in cluster.ids:
        node = run.nodes[agent]
        if agent == LIAR:
            assert not node.events("misbehaviour_proven")  # it keeps it to itself
            continue
        assert [event["peer"] for event in node.events("misbehaviour_proven")] == [LIAR]
        verdict = verify_proof(Proof.decode(node.store.value(f"proof/equivocation/{LIAR}")), terms)
        assert (verdict.agent, verdict.place, verdict.malice) == (LIAR, "round 3", True)
        assert node.ended.failure is None
        if agent in around:
            # On a ring the claim that is false for all but one may come first.
            barred = node.core.neighbours[LIAR].barred
            assert barred.startswith(
                ("proven guilty: equivocation in round 3", "claim of window 0")
            )
    run.export()
    run.close()
    _, audited = audit_run_directory(tmp_path)
    assert not audited.findings


@pytest.mark.parametrize("aggregator", [None, "rfa"])
def test_without_heads_each_neighbour_finds_its_story_sound(tmp_path, aggregator):
    """What is forwarded is consistent with what a neighbour was told: rows, too."""
    robust = {"aggregator": aggregator, "max_byzantine": 1} if aggregator else {}
    _cluster, around, run = liars_run(tmp_path, "ring", 6, **robust)
    run.tamper = lambda _, send: None if send.envelope.kind is Kind.HEADS else send
    run.start()
    run.advance_until(lambda: all(node.core.round > 8 for node in run.nodes.values()), 60.0)
    for node in run.nodes.values():
        assert not node.events("misbehaviour_proven")
        assert not node.events("update_refused")
    assert all(len(digests) == len(around) for t, digests in told_by(run).items() if 3 <= t < 8)
    run.close()


def told_by(run):
    """Digests by round of what the liar has stated."""
    return stated_digests(run.nodes[LIAR])


def test_an_agent_knows_whom_its_rule_gives_no_weight(tmp_path):
    robust = {"aggregator": "multi-krum", "max_byzantine": 1}
    cluster = write_cluster(tmp_path, "complete", 5, rounds=3, **robust)
    run = LocalRun(tmp_path, cluster, reports={"a1": lambda t: np.full(DIM, 50.0, np.float32)})
    run.start()
    run.run()
    for agent, node in run.nodes.items():
        assert node.core.missing == ()
        assert (node.core.weightless == ("a1",)) is (agent != "a1")
    run.close()


def test_an_honest_agent_states_one_thing_to_all(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 4, rounds=6, aggregator="rfa", max_byzantine=1)
    run = LocalRun(tmp_path, cluster)
    run.start()
    run.run()
    for node in run.nodes.values():
        assert {len(digests) for digests in stated_digests(node).values()} == {1}
    run.close()


@pytest.mark.parametrize("topology", ["ring", "complete"])
def test_where_models_are_traded_its_signature_of_the_payload_proves_it(tmp_path, topology):
    """One statement for all, under which its first neighbour alone is sent what it says."""
    traded = {"rewards": "cgsv:beta=1", "sketch_size": DIM}
    cluster, around, run = liars_run(tmp_path, topology, 4, rounds=6, **traded)
    run.start()
    run.run(until_s=120.0)
    terms = run_terms(cluster)
    for agent in {*cluster.ids} - {LIAR}:
        node = run.nodes[agent]
        assert [event["kind"] for event in node.events("misbehaviour_proven")] == ["other-payload"]
        data = node.store.value(f"proof/other-payload/{LIAR}")
        verdict = verify_proof(Proof.decode(data), terms)
        assert str(verdict) == f"{LIAR}: other-payload in round 3: guilty"
        assert node.ended.failure is None
        refused = {event["code"] for event in node.events("update_refused")}
        assert refused == ({"payload-digest"} if agent in around[1:] else set())
        if agent in around:
            barred = node.core.neighbours[LIAR].barred
            assert barred.startswith("proven guilty: other-payload in round 3")
    run.close()
