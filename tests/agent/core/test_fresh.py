"""Cores that state what fresh signs show: a false one is refused by who holds the vector, and what
no sketch shows is billed."""

from dataclasses import replace

import numpy as np
import pytest

from candor.agent.core.effects import Combine
from candor.mechanisms.evidence.fresh import values_of
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed, window_of
from candor.mechanisms.evidence.statements import ROUNDS_KEPT
from tests.runs import DIM, LocalRun, finish, write_cluster

ACCUSATIONS = ("claim_refused", "bill_refused", "update_refused", "misbehaviour_proven")
LIAR = "a1"


def accused(run) -> set[str]:
    found = [node.events(event) for node in run.nodes.values() for event in ACCUSATIONS]
    return {event["peer"] for events in found for event in events}


class StatesAnother(LocalRun):
    """From round 3 on the liar says that fresh signs show something else of one vector."""

    place = 0

    def salted(self, agent, statement):
        values = np.frombuffer(statement.fresh, "<f8").copy()
        if agent == LIAR and statement.round >= 3 and len(values):
            values.reshape(-1, values_of(DIM))[self.place, 0] += 1e-9
        return replace(statement, fresh=values.tobytes())


@pytest.mark.parametrize(
    ("place", "judges"),
    [(0, {"a0", "a2"}), (1, {"a0"}), (2, {"a0", "a2"}), (3, {"a2"})],
)
def test_a_false_value_is_refused_by_who_holds_the_vector(tmp_path, place, judges) -> None:
    """Of its payload and its own vector of the round before both neighbours, of theirs each."""
    run = StatesAnother(tmp_path, write_cluster(tmp_path, "ring", 4, rounds=6))
    run.place = place
    run.start()
    run.run(200.0)
    for agent, node in run.nodes.items():
        refused = {
            event["code"] for event in node.events("update_refused") if event["peer"] == LIAR
        }
        assert ("fresh-sketch" in refused) == (agent in judges)
    assert accused(run) == {LIAR}
    run.close()


@pytest.mark.parametrize(
    ("topology", "options"),
    [
        ("ring", {"algorithm": "gradient-tracking"}),
        ("complete", {"aggregator": "rfa", "max_byzantine": 1}),
        ("directed-random:degree=2", {"algorithm": "gradient-push"}),
        ("one-peer-exponential", {"codec": "float16"}),
        ("complete", {"algorithm": "median-sgd"}),
    ],
)
def test_honest_agents_are_accused_of_nothing(tmp_path, topology, options) -> None:
    run = finish(LocalRun(tmp_path, write_cluster(tmp_path, topology, 5, **options)))
    assert accused(run) == set()
    for agent, node in run.nodes.items():
        statement = node.core.book.last(agent).statement
        assert statement.phase != node.core.phases.charged or statement.fresh
        assert len(node.core._held.vectors) <= 2 * 5 + 1  # of two rounds, and its own of a third
    run.close()


def test_who_comes_back_is_accused_of_nothing(tmp_path) -> None:
    run = LocalRun(tmp_path, write_cluster(tmp_path, "ring", 4, rounds=24))
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 6)
    run.kill("a2")
    run.advance_until(lambda: run.nodes["a1"].core.round >= 11)
    run.start("a2")
    run.run(until_s=400.0)
    assert run.nodes["a2"].events("re_entered")
    assert accused(run) == set()
    run.close()


class TakesItsTime(LocalRun):
    """An agent that enters again is not done with that before its neighbours are rounds ahead."""

    entering: Combine | None = None

    def _perform(self, agent, effects):
        found = [one for one in effects if isinstance(one, Combine) and one.reentry]
        if found and self.entering is None:
            (self.entering,) = found
            effects = [one for one in effects if one is not self.entering]
        super()._perform(agent, effects)


def test_what_is_entered_from_is_held_however_far_its_agent_is_meanwhile(tmp_path) -> None:
    run = TakesItsTime(tmp_path, write_cluster(tmp_path, "ring", 4, rounds=24))
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 2)
    run.kill("a2")
    run.advance_until(lambda: run.nodes["a1"].core.round >= 7)
    run.start("a2")
    run.advance_until(lambda: run.entering is not None)
    beyond = run.entering.round + 2 * ROUNDS_KEPT
    run.advance_until(lambda: run.nodes["a1"].core.round >= beyond)
    run._perform("a2", [run.entering])
    run.run(until_s=400.0)
    assert accused(run) == set()
    run.close()


SIZE, WINDOW = 36, 4


def poisoned(cluster, agent: str, t: int) -> np.ndarray:
    """A gradient of which the liar's has a hundred more in two coordinates that cancel."""
    found = np.random.default_rng([int(agent[1]), t]).standard_normal(DIM).astype(np.float32)
    if agent == LIAR:
        run = bytes.fromhex(cluster.fingerprint)
        signs = SignSketch(signs_seed(run, window_of(t, WINDOW)), DIM, SIZE).signs
        found[0] += 100.0 * signs[0]
        found[SIZE] -= 100.0 * signs[SIZE]
    return found


def test_what_no_sketch_shows_is_billed(tmp_path) -> None:
    cluster = write_cluster(tmp_path, "ring", 4, rounds=8, window=WINDOW, sketch_size=SIZE)
    reports = {a: lambda t, a=a: poisoned(cluster, a, t) for a in cluster.ids}
    run = finish(LocalRun(tmp_path, cluster, reports=reports))
    for peer in ("a0", "a2"):
        for window in (0, 1):
            seen = run.nodes[peer].core.book.seen(LIAR, window)
            assert max(seen.energies.values()) < 200.0
            assert min(seen.wholes.values()) > 15_000.0
    balances = {agent: node.core.settlement.balance for agent, node in run.nodes.items()}
    expected = 2e-5 * 1e6 * 8 * 20_000.0
    assert -balances[LIAR] == pytest.approx(expected, rel=0.1)
    assert not accused(run)
    run.close()
