"""An agent that lives two consistent lives, one for each neighbour, and who finds out."""

from pathlib import Path

import numpy as np
import pytest

from candor.agent.core.terms import run_terms
from candor.mechanisms.proofs import Proof, verify_proof
from candor.network.transport import MemoryNetwork
from candor.network.wire import Kind
from tests.runs import DIM, TICK_S, LocalRun, write_cluster

TWO_FACED = "a0"


def withholding(kinds):
    """Let nobody send messages of some kinds."""
    return lambda _, send: None if send.envelope.kind in kinds else send


class OneLife(MemoryNetwork):
    """The network as one of an agent's two lives sees it: both hear what is said to the agent, and
    each is heard by some of its neighbours only."""

    def __init__(self, whole: MemoryNetwork, hearers: set[str]) -> None:
        super().__init__(0)
        self.whole, self.hearers = whole, hearers
        self.heard = []

    def post(self, sender, receiver, frames, now_s):
        if receiver in self.hearers:
            self.whole.post(sender, receiver, frames, now_s)

    def deliver(self, now_s):
        heard, self.heard = self.heard, []
        return heard


class TwoFaced(LocalRun):
    """A run in which one agent is two cores, of one key and session, that report differently."""

    def __init__(self, run_dir: Path, cluster, network: MemoryNetwork | None = None) -> None:
        super().__init__(run_dir, cluster, network)
        neighbours = sorted(cluster.neighbours(TWO_FACED))
        self.faces = []
        for number, hearer in enumerate(neighbours):
            folder = run_dir / f"face-{number}"
            folder.mkdir()
            write_cluster(
                folder, cluster.graph.topology, len(cluster.ids), rounds=cluster.rounds.rounds
            )
            reports = {TWO_FACED: lambda t, number=number: np.full(DIM, 1 + number / t, np.float32)}
            face = LocalRun(folder, cluster, OneLife(self.network, {hearer}), reports)
            face.tamper = withholding({Kind.HEADS, Kind.EVIDENCE})  # it knows of itself
            face.start(TWO_FACED)
            self.faces.append(face)
        self.start(*[agent for agent in cluster.ids if agent != TWO_FACED])

    def advance(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            for face in self.faces:
                face.advance(TICK_S)
            super().advance(TICK_S)

    def _deliver(self) -> None:
        while due := self.network.deliver(self.now_s):
            for receiver, delivery in due:
                if receiver == TWO_FACED:
                    for face in self.faces:
                        face.network.heard.append((receiver, delivery))
                else:
                    node = self.nodes[receiver]
                    received = (delivery.sender, delivery.frames, self.now_s, 1_700_000_000.0)
                    self._perform(receiver, node.core.received(*received))

    def close(self) -> None:
        for face in self.faces:
            face.close()
        super().close()


@pytest.fixture
def two_faced(tmp_path):
    """A ring of so many agents, the first of which is two."""
    started = []

    def start(agents: int, network: MemoryNetwork | None = None) -> TwoFaced:
        cluster = write_cluster(tmp_path, "ring", agents, rounds=40)
        started.append(TwoFaced(tmp_path, cluster, network))
        return started[-1]

    yield start
    for run in started:
        run.close()


@pytest.mark.parametrize("agents", [6, 9])
def test_two_consistent_personas_meet_on_a_ring_within_a_few_rounds(two_faced, agents) -> None:
    run = two_faced(agents)
    honest = run.nodes
    run.advance_until(lambda: all(n.events("misbehaviour_proven") for n in honest.values()), 30.0)
    # A head moves on with every tick, a proof with every message; a round takes longer than both.
    assert max(node.core.round for node in honest.values()) <= 2 + agents // 2
    terms = run_terms(run.cluster)
    for node in honest.values():
        assert [event["peer"] for event in node.events("misbehaviour_proven")] == [TWO_FACED]
        data = node.store.value(f"proof/equivocation/{TWO_FACED}")
        verdict = verify_proof(Proof.decode(data), terms)
        assert (verdict.agent, verdict.malice) == (TWO_FACED, True)
        assert len(data) < 512
    for neighbour in run.cluster.neighbours(TWO_FACED):
        told = honest[neighbour].core.neighbours[TWO_FACED]
        assert told.barred.startswith("proven guilty: equivocation in round")


def test_without_heads_the_two_personas_would_never_meet(two_faced) -> None:
    """Each neighbour of the liar finds its life sound, and nobody sees both."""
    run = two_faced(6)
    run.tamper = withholding({Kind.HEADS})
    run.advance_until(lambda: all(node.core.round > 12 for node in run.nodes.values()), 30.0)
    for node in run.nodes.values():
        assert not node.events("misbehaviour_proven")
        assert not node.events("update_refused")


def test_a_network_that_loses_and_repeats_hides_no_persona(two_faced) -> None:
    network = MemoryNetwork(3, loss=0.05, duplicate=0.1, delay_s=(0.0, 0.05), reorder=True)
    run = two_faced(6, network)
    convicted = [node for node in run.nodes.values() if node.core.neighbours.get(TWO_FACED)]
    run.advance_until(lambda: all(n.events("misbehaviour_proven") for n in convicted), 60.0)
    for node in run.nodes.values():
        assert {event["peer"] for event in node.events("misbehaviour_proven")} <= {TWO_FACED}


@pytest.mark.parametrize("seed", range(4))
def test_honest_agents_are_never_convicted_whatever_is_lost_or_killed(tmp_path, seed) -> None:
    cluster = write_cluster(tmp_path, "ring", 6, rounds=24, deadline_s=1.0)
    network = MemoryNetwork(seed, loss=0.05, duplicate=0.1, delay_s=(0.0, 0.05), reorder=True)
    run = LocalRun(tmp_path, cluster, network)
    run.start()
    run.advance(1.0 + 0.1 * seed)
    run.kill("a2")
    run.advance(0.5)
    run.start("a2")
    run.run(120.0)
    for node in run.nodes.values():
        assert not node.events("misbehaviour_proven")
        assert not node.events("contradiction_proven")
    run.close()
