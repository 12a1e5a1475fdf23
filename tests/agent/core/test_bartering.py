"""Real cores that trade parts of models: as a simulation does, after a return, and among those who
give less than is earned, something else, or rate falsely."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from candor.agent.core.deviating import reporting_of
from candor.agent.core.terms import run_terms
from candor.agent.learning.initial import initial_parameters, stated_of
from candor.agent.learning.rows import TrainedRows, learner_of
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    SignedStatement,
    Statement,
    commitment,
    named_sources,
)
from candor.mechanisms.proofs import (
    FALSE_RATING,
    NOTHING,
    WRONG_ROW,
    Proof,
    ProofError,
    verify_proof,
)
from candor.mechanisms.rewards.barter import Barter, Groups
from candor.network.messages import Chunk, Message, Update
from candor.topologies.cluster.file import TaskSettings
from candor.topologies.encoding.canonical import MalformedError
from tests.runs import DIM, LocalRun, finish, tampering, write_cluster

TASK = "digits:model=logistic"
LIES = {"a1": "few:0.1", "a2": "zero", "a3": "stale-copy:seen=neighbours"}
ALL = {"rewards": "cgsv:beta=1", "sketch_size": DIM}
GROUPS = Groups(DIM)
FREE_RIDER = "a3"


def trained(cluster, agent):
    """What a daemon's agent trains and reports."""
    index, reporting = cluster.index(agent), reporting_of(cluster, LIES, agent)
    shard = Shard(index, len(cluster.ids), cluster.task.partition)
    learner = learner_of(cluster, None, [shard], "cpu", reporting.by_agent())
    return TrainedRows(learner, reporting, lambda t: torch.ones(1, 1))


@pytest.mark.parametrize(
    ("topology", "codec"), [("complete", "float32"), ("ring", "float16"), ("rotating", "float32")]
)
def test_cores_and_simulation_rate_and_mix_alike_to_the_last_bit(tmp_path, topology, codec):
    if topology == "rotating":
        topology = "rotating:base=complete,parts=2"
    x = initial_parameters(resolve_task(TASK), 3)
    task = TaskSettings(name=TASK, partition="iid", **stated_of(resolve_task(TASK), 3, None))
    cluster = write_cluster(
        *(tmp_path, topology, 4),
        rounds=7,
        task=task,
        codec=codec,
        rewards="cgsv:beta=1",
        sketch_size=256,
    )
    performers = {agent: trained(cluster, agent) for agent in cluster.ids}
    run = finish(LocalRun(tmp_path, cluster, performers=performers, initial=x.numpy()))
    simulation = Simulation(cluster, LIES, measured=True)
    for _ in range(6):
        simulation.step()
    for agent in cluster.ids:
        said = run.nodes[agent].core.book.statements(7)[agent].statement
        assert dict(said.ratings.of) == simulation.ratings[agent]
    simulation.step()
    for agent, model in zip(cluster.ids, simulation.parameters.numpy(), strict=True):
        assert np.array_equal(run.nodes[agent].x, model)
        assert not run.nodes[agent].events("update_refused")
    shares = {r.groups for of in simulation.ratings.values() for r in of.values()}
    assert min(shares) < 16
    run.close()


def traded_run(tmp_path, topology="ring", rounds=8, **settings) -> LocalRun:
    """Four agents with made-up updates, one of which has none."""
    cluster = write_cluster(tmp_path, topology, 4, rounds=rounds, window=6, **ALL, **settings)
    nothing = np.zeros(DIM, np.float32)
    return LocalRun(tmp_path, cluster, reports={FREE_RIDER: lambda t: nothing})


def lying(run: LocalRun, agent: str, of_round: int, lie: Callable[[Statement], Statement]) -> None:
    """Have an agent state something else in a round."""
    core = run.nodes[agent].core
    stated = core.stated

    def said(payload, attested=None):
        statement = stated(payload, attested)
        return lie(statement) if statement.round == of_round else statement

    core.stated = said


def refusals(run: LocalRun, of: str) -> dict[str, list[str]]:
    """The codes with which each agent refused updates of one."""
    return {
        agent: [str(e["code"]) for e in node.events("update_refused") if e["peer"] == of]
        for agent, node in run.nodes.items()
        if agent != of
    }


def proven(run: LocalRun, of: str) -> dict[str, str]:
    """What each agent keeps a proof of against one that states false ratings, as a third party
    reads it; and that nobody proves anything else."""
    terms, verdicts = run_terms(run.cluster), {}
    for agent, node in run.nodes.items():
        told = node.events("misbehaviour_proven") + node.events("contradiction_proven")
        assert {(event["peer"], event["kind"]) for event in told} <= {(of, "false-rating")}
        data = node.store.value(f"proof/false-rating/{of}")
        if data is not None:
            verdicts[agent] = str(verify_proof(Proof.decode(data), terms))
    return verdicts


def test_a_free_rider_gets_less_bytes_and_nobody_is_accused(tmp_path):
    run = finish(traded_run(tmp_path, "complete"))
    assert all(node.ended.failure is None for node in run.nodes.values())
    assert not any(node.events("update_refused") for node in run.nodes.values())
    last = run.nodes["a0"].core.book.statements(8)
    given = dict(last["a0"].statement.ratings.of)
    assert given[FREE_RIDER].groups == 0
    assert given["a1"].groups == GROUPS.count
    chunks = [send for send in run.nodes["a0"].sent if send.envelope.data is not None]
    sent = {k: sum(len(s.envelope.data) for s in chunks if s.peer == k) for k in ("a1", FREE_RIDER)}
    assert sent[FREE_RIDER] < sent["a1"]
    book, terms = run.nodes["a0"].core.book, run_terms(run.cluster)
    for t in (6, 7, 8):  # no honest statement is proof, whatever sources stand beside it
        for agent, signed in book.statements(t).items():
            named = book.trusted(named_sources(signed.statement, book.phases))
            shown = tuple(source.body for source in named.values())
            assert len(shown) == 4
            for sources in (shown, (), shown[:-1], shown[::-1]):
                pair = (signed.body, signed.signature)
                with pytest.raises(ProofError):
                    verify_proof(Proof(FALSE_RATING, agent, pair, NOTHING, sources), terms)
    run.close()


def test_an_agent_that_comes_back_takes_what_it_is_given(tmp_path):
    """The initial model, zeros here, where its neighbour gives nothing."""
    run = traded_run(tmp_path, rounds=30)
    run.start()
    run.advance_until(lambda: run.nodes[FREE_RIDER].core.round >= 7)
    run.kill(FREE_RIDER)
    run.advance_until(lambda: run.nodes["a1"].core.round >= 14)
    run.start(FREE_RIDER)
    run.run(until_s=400.0)
    assert all(node.ended.failure is None for node in run.nodes.values())
    back = run.nodes[FREE_RIDER]
    (entered,) = back.events("re_entered")
    assert not back.models[entered["round"]].any()  # it is given no group any more
    assert not any(node.events("update_refused") for node in run.nodes.values())
    run.close()


def with_rating(statement, of, **changes):
    """A statement that says something else of one agent."""
    rated = dict(statement.ratings.of)
    rated[of] = replace(rated[of], **changes)
    return replace(statement, ratings=replace(statement.ratings, of=tuple(rated.items())))


def test_who_gives_less_than_is_earned_is_named(tmp_path):
    run = traded_run(tmp_path)
    run.start()
    lying(run, "a1", 4, lambda said: with_rating(said, "a0", groups=1))
    run.run()
    told = refusals(run, "a1")
    assert told["a0"][0] == told["a2"][0] == "rating"
    (first, *_) = run.nodes["a0"].events("update_refused")
    assert "gives a0 1 groups, of 2 that it earns" in first["detail"]
    told = proven(run, "a1")
    assert told == dict.fromkeys(("a0", "a2", "a3"), "a1: false-rating in round 4: guilty")
    assert run.nodes["a0"].core.neighbours["a1"].barred.startswith("proven guilty: false-rating")
    data = run.nodes["a0"].store.value("proof/false-rating/a1")
    assert not Proof.decode(data).sources  # the statement says it all
    run.close()


def test_a_reputation_that_follows_from_nothing_is_refused(tmp_path):
    run = traded_run(tmp_path)
    run.start()

    def lie(said):
        reputations = {k: r.reputation for k, r in said.ratings.of} | {"a0": 1e-3}
        earned = Barter().earned(reputations, GROUPS)
        return with_rating(said, "a0", reputation=1e-3, groups=earned["a0"])

    lying(run, "a1", 4, lie)
    run.run()
    assert {codes[0] for codes in refusals(run, "a1").values() if codes} == {"rating"}
    told = proven(run, "a1")
    assert told == dict.fromkeys(("a0", "a2", "a3"), "a1: false-rating in round 4: guilty")
    proof = Proof.decode(run.nodes["a3"].store.value("proof/false-rating/a1"))
    terms = run_terms(run.cluster)
    for sources in ((), proof.sources[:-1], proof.sources[::-1], (*proof.sources, b"")):
        with pytest.raises((ProofError, MalformedError)):
            verify_proof(replace(proof, sources=sources), terms)
    for changed in (replace(proof, agent="a2"), replace(proof, kind=WRONG_ROW)):
        with pytest.raises(ProofError):
            verify_proof(changed, terms)
    for elsewhere in (replace(terms, run=bytes(32)), replace(terms, trade=None)):
        with pytest.raises(ProofError):
            verify_proof(proof, elsewhere)
    run.close()


def test_a_false_score_is_refused_by_whom_it_is_of(tmp_path):
    """The other neighbour cannot know how new it was, and takes what could be; nor can a third
    party, so that nothing is proven."""
    run = traded_run(tmp_path)
    run.start()

    def lie(said):
        trade = run.nodes["a1"].core.examiner.terms.trade
        scores = {k: r.score for k, r in said.ratings.of} | {"a0": 0.0}
        before = run.nodes["a1"].core.book.statements(3)["a1"].statement.ratings
        reputations = {k: r.reputation for k, r in before.of}
        made = trade.barter.rated(reputations, scores, trade.groups)
        return replace(said, ratings=replace(said.ratings, of=tuple(sorted(made.items()))))

    lying(run, "a1", 4, lie)
    run.run()
    told = refusals(run, "a1")
    assert told["a0"][0] == "rating"
    assert not told["a2"]
    assert "its score of a0 is 0, not" in run.nodes["a0"].events("update_refused")[0]["detail"]
    assert not proven(run, "a1")
    run.close()


def test_a_trace_that_is_not_that_of_the_update_is_refused(tmp_path):
    run = traded_run(tmp_path)
    run.start()

    def lie(said):
        trace = (2.0 * said.ratings.values).astype("<f4").tobytes()
        return replace(said, ratings=replace(said.ratings, trace=trace))

    lying(run, "a1", 4, lie)
    run.run()
    told = refusals(run, "a1")
    assert told["a0"][0] == told["a2"][0] == "rating"
    assert set(proven(run, "a1")) == {"a0", "a2", "a3"}
    run.close()


@pytest.mark.parametrize("place", ["of what is given", "of what is not"])
def test_a_block_that_is_not_of_the_committed_vector_is_refused(tmp_path, place):
    run = traded_run(tmp_path, "complete", rounds=7)

    def alter(message: Message) -> Message:
        """Another bit, at the front of the payload or at its end: a value, or a leaf."""
        if not isinstance(message, Chunk) or message.round != 6:
            return message
        data = bytearray(message.data)
        data[0 if place == "of what is given" else -1] ^= 1
        return replace(message, data=bytes(data))

    run.tamper = tampering("a0", alter)
    finish(run)
    assert {codes[0] for codes in refusals(run, "a0").values()} == {"payload-digest"}
    # It signed what it stated: this may be its memory, or its user's doing, and proves nothing.
    assert not any(node.events("misbehaviour_proven") for node in run.nodes.values())
    run.close()


def test_a_payload_of_another_size_than_the_stated_share_is_refused(tmp_path):
    run = traded_run(tmp_path, rounds=5)

    def alter(message: Message) -> Message:
        if isinstance(message, Update) and message.payload_bytes:
            return replace(message, payload_bytes=message.payload_bytes - 4)
        return message

    run.tamper = tampering("a0", alter)
    finish(run)
    assert {codes[0] for codes in refusals(run, "a0").values() if codes} == {"payload-size"}
    run.close()


def test_a_forwarded_statement_that_rates_others_than_its_neighbours_is_refused(tmp_path):
    """Of a round that the receiver missed, so that it has nothing to compare it with."""
    run = finish(traded_run(tmp_path, rounds=3))
    node = run.nodes["a1"]
    book, key = node.core.book, node.identity.signing_key
    said = book.statements(3)["a1"].statement
    witnesses = book.trusted(named_sources(said, book.phases))
    before = witnesses[2, 0, "a1"].statement
    alone = replace(before.ratings, of=before.ratings.of[:1])
    witnesses[2, 0, "a1"] = SignedStatement.sign(replace(before, ratings=alone), key)
    bodies = [witness.body for witness in witnesses.values()]
    signed = SignedStatement.sign(replace(said, sources=commitment(bodies)), key)
    with pytest.raises(EvidenceError, match="^rating: not of those around it"):
        run.nodes["a0"].core.examiner.examine(signed, None, witnesses, {})
    proof = Proof(FALSE_RATING, "a1", (signed.body, signed.signature), NOTHING, tuple(bodies))
    with pytest.raises(ProofError, match="not of those around it"):
        verify_proof(proof, run_terms(run.cluster))
    run.close()
