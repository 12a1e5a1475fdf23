"""Every event in every stage: late ones change nothing, whatever a driver's threads still bring."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from candor.agent.core.agent import HEEDED, AgentCore, Stage
from candor.agent.core.effects import Combine, Derive, Derived, Finished, Verify
from candor.agent.core.verification import derive, judge
from candor.mechanisms.evidence.statements import Statement
from candor.network.wire import encode
from tests.runs import DIM, freshened

EVENTS = (
    "start",
    "tick",
    "aim",
    "received",
    "published",
    "verified",
    "derived",
    "combined",
    "records_read",
    "told",
    "stop",
)
# Where a stage may lead to; each may also stay.
NEXT = {
    Stage.STARTING: set(Stage),
    Stage.REJOINING: {Stage.RUNNING, Stage.DONE},
    Stage.RUNNING: {Stage.REJOINING, Stage.SETTLING, Stage.LEAVING, Stage.DONE},
    Stage.SETTLING: {Stage.LEAVING, Stage.DONE},
    Stage.LEAVING: {Stage.DONE},
    Stage.DONE: set(),
}


class Reached(Exception):
    """The core is in the stage that the test is about; its last effects are not performed."""


@dataclass
class Seen:
    """What a driver may still hold of a core's past: statements made, an update being verified."""

    published: list[tuple[np.ndarray, Statement]] = field(default_factory=list)
    verifying: list[Verify] = field(default_factory=list)


def watched(run, agent="a0", verify_held=False):
    """What is seen of an agent from now on; some of its updates are not verified yet."""
    core, seen = run.nodes[agent].core, Seen()
    published, perform = core.published, run._perform

    def noted(payload, statement, now_s, *faces):
        seen.published.append((payload, statement))
        return published(payload, statement, now_s, *faces)

    def held(of, effects):
        jobs = [e for e in effects if isinstance(e, Verify) and of == agent and e.peer == "a1"]
        if verify_held and jobs and not seen.verifying:
            seen.verifying += jobs
            effects = [e for e in effects if e not in jobs]
        perform(of, effects)

    core.published, run._perform = noted, held
    return seen


def fed(run, event, seen, draw, agent="a0"):
    """The effects of an event such as a driver could bring at this moment."""
    node, now_s = run.nodes[agent], run.now_s
    core: AgentCore = node.core
    match event:
        case "start" | "tick" | "aim":
            return getattr(core, event)(now_s)
        case "derived":
            return core.derived(Derived({agent: 1.0}, {}))
        case "combined":
            return core.combined(now_s)
        case "stop":
            return core.stop()
        case "told":
            return core.told(core.settlement.payments(), {}, now_s)
        case "records_read":
            return core.records_read(draw.choice(node.store.channels()).channel_id, [], now_s)
        case "received":
            said = [s for n in run.nodes.values() for s in n.sent if s.peer == agent]
            frames = encode(draw.choice(said).envelope) if said else [b"noise"]
            return core.received("a1", frames, now_s, 0.0)
        case "verified":
            if not seen.verifying:
                return []
            job = seen.verifying.pop()
            outcome = judge(job.update, core.examiner, core.codec)
            return core.verified(job.peer, job.update, outcome, now_s)
        case "published":
            if seen.published:
                payload, statement = draw.choice(seen.published)
            else:
                payload = np.ones(DIM, np.float32)
                statement = core.examiner.state(1, 0, agent, payload, core.book.formed(1))
                statement = freshened(core, statement, payload)
            return core.published(payload, statement, now_s)
    raise AssertionError(event)


def brought_to(run, stage):
    """A run whose a0 has just come to a stage."""
    if stage is Stage.STARTING:
        run.start("a0")
        return watched(run)
    run.start()
    if stage is Stage.REJOINING:
        run.advance_until(lambda: run.nodes["a1"].core.round > 2)
        run.kill("a0")
        run.start("a0")
    seen = watched(run, verify_held=True)
    core, perform = run.nodes["a0"].core, run._perform

    def until_reached(agent, effects):
        perform(agent, effects)
        if agent == "a0" and core.stage is stage:
            raise Reached

    run._perform = until_reached
    with pytest.raises(Reached):
        run.run()
    run._perform = perform
    return seen


def test_the_table_names_events():
    assert HEEDED.keys() <= set(EVENTS)
    assert all(hasattr(AgentCore, event) for event in EVENTS)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("stage", Stage)
def test_an_event_is_taken_in_or_changes_nothing(started, stage, event):
    run = started("ring", 3, rounds=8 if stage is Stage.REJOINING else 3)
    seen = brought_to(run, stage)
    core = run.nodes["a0"].core
    assert core.stage is stage
    step = core.step
    effects = fed(run, event, seen, random.Random(1))
    assert core.stage is stage or core.stage in NEXT[stage]
    if event in HEEDED and stage not in HEEDED[event]:
        assert effects == []
        assert (core.stage, core.step) == (stage, step)
    assert [type(e) for e in effects].count(Finished) == (event == "stop" and stage != Stage.DONE)


def test_a_vector_that_is_ready_after_the_stop_is_not_stated(started):
    run = started("ring", 3, rounds=50)
    run.start()
    run.advance_until(lambda: run.nodes["a0"].core.round == 3 and run.nodes["a0"].due)
    core, payload = run.nodes["a0"].core, np.ones(DIM, np.float32)
    statement = core.stated(payload)
    assert isinstance(core.stop()[-1], Finished)
    assert core.published(payload, statement, run.now_s) == []
    assert core.stop() == []


def test_a_mixture_that_is_ready_after_the_stop_ends_no_round(started):
    run = started("ring", 3, rounds=50)
    run.start()
    core, (asked, _) = run.nodes["a0"].core, held_back(run)
    (combine,) = core.derived(derive(asked[0], core.examiner, "a0"))
    assert isinstance(combine, Combine)
    step = core.step
    core.stop()
    assert core.combined(run.now_s) == []
    assert (core.stage, core.step) == (Stage.DONE, step)


def held_back(run):
    """Rows that a0 is to derive, which are not derived, as soon as there is one; and what else
    performs effects."""
    perform, asked = run._perform, []

    def held(agent, effects):
        found = [e for e in effects if isinstance(e, Derive) and agent == "a0"]
        asked.extend(found)
        perform(agent, [e for e in effects if not found or e is not found[0]])

    run._perform = held
    run.advance_until(lambda: asked)
    return asked, perform


def test_a_row_that_is_derived_after_the_stop_mixes_nothing(started):
    run = started("complete", 4, rounds=50, aggregator="rfa", max_byzantine=1)
    run.start()
    core, (asked, perform) = run.nodes["a0"].core, held_back(run)
    assert core.combined(run.now_s) == []  # nothing is combined yet
    answer = derive(asked[0], core.examiner, "a0")
    (combine,) = core.derived(answer)
    assert isinstance(combine, Combine)
    assert dict(answer.row) == {agent: weight for agent, weight, _ in combine.parts}
    assert core.derived(answer) == []  # once only
    perform("a0", [combine])
    asked.clear()
    run.advance_until(lambda: asked)
    step = core.step
    core.stop()
    assert core.derived(answer) == []
    assert (core.stage, core.step) == (Stage.DONE, step)


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_events_leaves_a_core_sound(started, seed):
    draw = random.Random(seed)
    robust = {"aggregator": "rfa", "max_byzantine": 1} if seed % 2 else {}
    run = started("ring", 3, rounds=6, window=2, deadline_s=0.5, start_deadline_s=1.0, **robust)
    run.start()
    seen = watched(run, verify_held=draw.random() < 0.5)
    node = run.nodes["a0"]
    core, before, ends = node.core, node.core.stage, 0
    events = [event for event in EVENTS if event != "stop"]
    for _ in range(150):
        if draw.random() < 0.5:
            run.advance(0.05)
            assert core.stage is before or core.stage in NEXT[before]
            before = core.stage
        step = core.step
        # A stop ends everything, so that it is drawn seldom.
        effects = fed(run, "stop" if draw.random() < 0.005 else draw.choice(events), seen, draw)
        ends += [type(effect) for effect in effects].count(Finished)
        assert core.step >= step
        assert core.stage is before or core.stage in NEXT[before]
        before = core.stage
        run._perform("a0", effects)
    assert ends <= 1
    run.run()
    assert all(run.nodes[agent].ended.failure is None for agent in ("a1", "a2"))
