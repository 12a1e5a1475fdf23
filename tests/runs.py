"""Runs for tests: cluster files with real keys, and real cores driven by hand in simulated time."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.catalogue import coin_of
from candor.agent.algorithms.driver import Driver, Overhears, Performer
from candor.agent.algorithms.effects import Heard, State
from candor.agent.core.agent import AgentCore
from candor.agent.core.assembly import assemble
from candor.agent.core.combination import combined, overheard
from candor.agent.core.earlier import Checkpoint
from candor.agent.core.effects import (
    Begin,
    Combine,
    Derive,
    Effect,
    Finished,
    Judge,
    Log,
    Persist,
    ReadRecords,
    Remember,
    Resume,
    Send,
    Show,
    Verify,
)
from candor.agent.core.faces import told_apart
from candor.agent.core.stating import aimed, stated
from candor.agent.core.terms import all_channel_terms, codec_of
from candor.agent.core.verification import derive, judge
from candor.agent.daemon import keys
from candor.agent.daemon.exports import write_exports
from candor.agent.daemon.store import Store
from candor.agent.learning.given import GivenGradients
from candor.agent.runs.cluster_parts import entry_of
from candor.agent.runs.declared import EQUAL, declaring
from candor.mechanisms.evidence.claims import ClaimedRound
from candor.mechanisms.evidence.statements import Row, Source, Statement, named_sources
from candor.network.identity import Identity
from candor.network.messages import Message, Update, from_envelope, to_envelope
from candor.network.transport import MemoryNetwork
from candor.network.wire import encode
from candor.topologies.cluster.file import (
    DEFAULT_ALGORITHM,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    dump_cluster,
    model_digest,
)
from candor.topologies.encoding.canonical import sha256
from candor.topologies.schedules import schedules

DIM = 40
TICK_S = 0.05


def write_cluster(
    run_dir: Path,
    topology: str = "ring",
    agents: int = 4,
    *,
    base_port: int = 29_000,
    rounds: int = 8,
    window: int = 4,
    task: TaskSettings | None = None,
    rule: str = "norm:2e-5",
    mixing_name: str | None = None,
    algorithm: str | None = None,
    aggregator: str | None = None,
    max_byzantine: int | None = None,
    codec: str = "float32",
    weights: str = EQUAL,
    rewards: str | None = None,
    pace: Literal["async"] | None = None,
    **settings: float,
) -> Cluster:
    """Keys in RUN_DIR/agents/<id>/keys and RUN_DIR/cluster.toml; the task is never resolved.

    The keys follow from the names: sketches, and with them payments, are those of every other run.
    """
    schedule = schedules.build(topology, agents)
    entries = []
    for i, agent in enumerate(schedule.agents):
        path = run_dir / "agents" / agent / "keys"
        if not path.exists():
            seeds = (sha256(f"{agent} {kind}".encode()) for kind in ("identity", "curve"))
            keys.write(path, *seeds)
        entries.append(entry_of(agent, path, f"tcp://127.0.0.1:{base_port + i}"))
    initial = np.zeros(DIM, np.float32)
    cluster = assemble_cluster(
        run_id="test",
        seed=3,
        graph=schedule,
        mixing_name=mixing_name,
        agents=declaring(entries, weights, None),
        task=task or TaskSettings(name="fixed", parameters=DIM, model_digest=model_digest(initial)),
        algorithm=AlgorithmSettings(
            name=algorithm or DEFAULT_ALGORITHM,
            step_size=settings.get("step_size", 0.5),
            step_decay=0.0,
            momentum=settings.get("momentum", 0.0),
            aggregator=aggregator,
            max_byzantine=max_byzantine,
            # Fewer exchanges than usual, to be quick.
            agreement_rounds=3 if algorithm == "dec-byz-pg" and aggregator != "mean" else None,
            rewards=rewards,
            influence=settings.get("influence"),
        ),
        rounds=RoundSettings(
            rounds=rounds,
            deadline_s=settings.get("deadline_s", 2.0),
            start_deadline_s=settings.get("start_deadline_s", 5.0),
            codec=codec,
            pace=pace,
        ),
        payments=PaymentSettings(
            rule=rule,
            window=window,
            sketch_size=int(settings.get("sketch_size", 16)),
            credit_limit=int(settings.get("credit_limit", 10**9)),
            replay=True if settings.get("replay") else None,
            disclose=True if settings.get("disclose") else None,
            bond=int(settings["bond"]) if settings.get("bond") else None,
        ),
    )
    (run_dir / "cluster.toml").write_text(dump_cluster(cluster), encoding="utf-8")
    return cluster


@dataclass(slots=True)
class Node:
    """One agent: its core, its disk and its model, with the effects it was asked to perform."""

    core: AgentCore
    store: Store
    identity: Identity
    driver: Driver
    x: NDArray[np.float32]
    alive: bool = True
    snapshot: bytes | None = None
    due: bool = False  # to publish with the next tick: training takes its time
    ready_s: float = 0.0  # not before
    phase: int = 0  # of the exchange that was published last
    carried: bool = False  # what is published next was trained before
    answer: Tensor | Heard | None = None  # of the last exchange
    mixes: bool = True  # what the algorithm asked of the exchange under way
    ended: Finished | None = None
    logs: list[Log] = field(default_factory=list)
    sent: list[Send] = field(default_factory=list)
    models: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    jobs: list[Verify] = field(default_factory=list)  # done with the next tick, like a thread's
    trained: tuple[Checkpoint, State] | None = None  # the last checkpoint
    resumed: bool = False  # inside an exchange that an earlier life has begun
    kept: list[float] = field(default_factory=list)  # which share of its window's sum, by exchange

    def events(self, name: str) -> list[Mapping[str, str | int | float]]:
        """The fields of every logged event of this name."""
        return [log.fields for log in self.logs if log.event == name]


class LocalRun:
    """All agents of a cluster in one process: real cores and stores, time moved by hand."""

    def __init__(
        self,
        run_dir: Path,
        cluster: Cluster,
        network: MemoryNetwork | None = None,
        reports: Mapping[str, Callable[[int], NDArray[np.float32]]] | None = None,
        performers: Mapping[str, Performer] | None = None,
        initial: NDArray[np.float32] | None = None,
        keeps: Callable[[int], bool] | None = None,
    ) -> None:
        """With `performers` agents train as they say, from `initial` (dim,); without them they
        report what is given or made up. Who starts again goes on with the checkpoints of the rounds
        that a run `keeps`; without that, its snapshot is taken for an old one."""
        self.run_dir = run_dir
        self.cluster = cluster
        self.network = network or MemoryNetwork(0, delay_s=(0.001, 0.002))
        self.now_s = 0.0
        self._reports = dict(reports or {})
        self._performers = dict(performers or {})
        self._initial = np.zeros(DIM, np.float32) if initial is None else initial
        self._keeps = keeps
        self._lives = 0
        self.nodes: dict[str, Node] = {}
        self.asleep: set[str] = set()  # stopped processes: no ticks, nothing read
        self.takes_s: dict[str, float] = {}  # how long agents train in a round, beyond a tick
        self.tamper: Callable[[str, Send], Send | None] = lambda agent, send: send

    def start(self, *agents: str) -> None:
        """Start agents, all of them by default; a dead one comes back with the disk it had."""
        for agent in agents or self.cluster.ids:
            self.nodes[agent] = self._node(agent)
            self._perform(agent, self.nodes[agent].core.start(self.now_s))

    def report(self, agent: str, t: int) -> NDArray[np.float32]:
        """The gradient (dim,) that an agent reports in round t."""
        return self._reports[agent](t)

    def kill(self, agent: str) -> None:
        """The process is gone; its disk stays."""
        self.nodes[agent].alive = False
        self.nodes[agent].store.close()

    def close(self) -> None:
        """Close every store."""
        for node in self.nodes.values():
            if node.alive:
                node.store.close()

    def advance(self, seconds: float) -> None:
        """Move time in ticks, delivering what is due."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + TICK_S)
            self._deliver()
            for agent, node in self.nodes.items():
                if self._awake(agent):
                    self._perform(agent, node.core.tick(self.now_s))
                    self._perform(agent, self._publish(agent))
                    self._verify(agent)

    def advance_until(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Move time until something holds; asserts that it does within `seconds`."""
        until_s = self.now_s + seconds
        while not ready():
            assert self.now_s < until_s, {a: n.core.round for a, n in self.nodes.items()}
            self.advance(TICK_S)

    def run(self, until_s: float = 60.0) -> None:
        """Advance until every living agent has ended; asserts that this happens."""
        while any(node.alive and node.ended is None for node in self.nodes.values()):
            assert self.now_s < until_s, {a: n.core.stage for a, n in self.nodes.items()}
            self.advance(TICK_S)

    def export(self) -> None:
        """Write every agent's ledger exports into the run directory."""
        for agent, node in self.nodes.items():
            key = node.identity.signing_key
            write_exports(node.store, self.cluster, agent, key, self.run_dir / "agents" / agent)

    def _node(self, agent: str) -> Node:
        self._lives += 1
        identity = keys.load(self.run_dir / "agents" / agent / "keys")
        terms, grows = [*all_channel_terms(self.cluster, agent).values()], self.cluster.after > 0
        path = self.run_dir / "agents" / agent / "ledger.sqlite"
        store = Store.open(path, fingerprint=self.cluster.run, channels=terms, grows=grows)
        earlier = self.nodes.get(agent)
        trained = earlier.trained if earlier else None
        core = assemble(
            self.cluster,
            agent,
            identity,
            store,
            self._initial,
            nonce=self._lives.to_bytes(16, "big"),
            chunk_bytes=64 if self.cluster.task.parameters == DIM else 2**20,
            link_reason=lambda peer: None,
            snapshot=earlier.snapshot if earlier else None,
            newest=self._keeps is not None,
            checkpoint=trained[0] if trained is not None else None,
        )
        generator = np.random.default_rng([7, self.cluster.index(agent)])
        fixed = generator.standard_normal(DIM).astype(np.float32)
        self._reports.setdefault(agent, lambda t: fixed / np.float32(t))
        driver = self._driver(agent, torch.from_numpy(self._initial)[None], 1)
        snapshot = earlier.snapshot if earlier else None
        return Node(
            core, store, identity, driver, self._initial, snapshot=snapshot, trained=trained
        )

    def _resume(self, agent: str, node: Node, resume: Resume) -> None:
        """Go on with what an earlier life has kept."""
        assert node.trained is not None
        checkpoint, state = node.trained
        after = resume.round if resume.inside else resume.round + 1
        vector = torch.from_numpy(checkpoint.vector.copy())[None]
        node.driver = self._driver(agent, vector, after, dict(state))
        node.resumed, node.mixes = resume.inside, node.driver.mixes(resume.phase)
        node.due = not resume.inside and after <= self.cluster.rounds.rounds

    def _driver(
        self,
        agent: str,
        x: Tensor,
        start: int,
        state: State | None = None,
        carried: Tensor | None = None,
    ) -> Driver:
        """The run's algorithm from a model (1, dim) on, with the agent's reports."""

        def mass(t: int) -> float:
            return self.cluster.memberships.of(t).mass[agent]

        given = self._performers.get(agent) or GivenGradients(self._reports[agent], mass)
        rounded = codec_of(self.cluster).rounded
        return Driver(
            *(self.cluster.algorithm, given, rounded, x, state, start, coin_of(self.cluster)),
            carries=True,
            carried=carried,
        )

    def advancing(self, agent: str, node: Node) -> None:
        """An agent is about to go on to its next exchange: for runs that keep something of it."""

    def salted(self, agent: str, statement: Statement) -> Statement:
        """A statement, before it is signed."""
        return statement

    def shown(self, agent: str, show: Show) -> list[Effect]:
        """A neighbour asks for a round: for runs that keep any."""
        return self.nodes[agent].core.showing(show.peer, show.window, None, show.offset, b"")

    def judged(self, agent: str, judge: Judge) -> list[Effect]:
        """A neighbour has shown a round: for runs that do it again."""
        why = "nobody judges here"
        core = self.nodes[agent].core
        return core.judged(judge.shown, judge.window, None, why, (), self.now_s)

    def _deliver(self) -> None:
        while due := self.network.deliver(self.now_s):
            for receiver, delivery in due:
                if receiver not in self.nodes or not self._awake(receiver):
                    continue
                effects = self.nodes[receiver].core.received(
                    delivery.sender, delivery.frames, self.now_s, 1_700_000_000.0
                )
                self._perform(receiver, effects)

    def _perform(self, agent: str, effects: list[Effect]) -> None:
        node = self.nodes[agent]
        queue = deque(effects)
        while queue:
            match queue.popleft():
                case Send() as send:
                    self._send(agent, node, send)
                case Persist(operations):
                    node.store.commit(operations).result()
                case Remember(snapshot):
                    node.snapshot = snapshot
                case ReadRecords(channel_id, first, count):
                    records = node.store.records(channel_id, first, count)
                    queue.extend(node.core.records_read(channel_id, records, self.now_s))
                case Verify() as job:
                    node.jobs.append(job)
                case Begin():
                    self._train(agent, node)
                case Resume() as resume:
                    self._resume(agent, node, resume)
                case Derive() as asked:
                    derived = derive(asked, node.core.examiner, agent)
                    queue.extend(node.core.derived(derived))
                case Combine() as combine:
                    self._combined(agent, node, combine)
                    queue.extend(node.core.combined(self.now_s))
                    self._train(agent, node)
                case Show() as show:
                    queue.extend(self.shown(agent, show))
                case Judge() as shown:
                    queue.extend(self.judged(agent, shown))
                case Log() as log:
                    node.logs.append(log)
                case Finished() as ended:
                    node.ended = ended

    def _send(self, agent: str, node: Node, send: Send) -> None:
        altered = self.tamper(agent, send)
        if altered is not None:
            node.sent.append(altered)
            self.network.post(agent, altered.peer, encode(altered.envelope), self.now_s)

    def _verify(self, agent: str) -> None:
        node = self.nodes[agent]
        jobs, node.jobs = node.jobs, []
        for job in jobs:
            outcome = judge(job.update, node.core.examiner, node.core.codec)
            self._perform(agent, node.core.verified(job.peer, job.update, outcome, self.now_s))

    def _awake(self, agent: str) -> bool:
        node = self.nodes[agent]
        return node.alive and node.ended is None and agent not in self.asleep

    def _train(self, agent: str, node: Node) -> None:
        """A round begins, or another exchange of it, unless the run is over."""
        takes_s = 0.0 if node.carried else self.takes_s.get(agent, 0.0)
        node.due = node.core.round <= node.core.last_round
        node.carried, node.ready_s = False, self.now_s + takes_s

    def _publish(self, agent: str) -> list[Effect]:
        node = self.nodes[agent]
        if not node.due or node.ended is not None or self.now_s < node.ready_s:
            return []
        node.due = False
        self.advancing(agent, node)
        out = node.driver.advance(node.answer)
        self._perform(agent, node.core.aim(self.now_s))
        out = aimed(node.core, node.driver, out)
        node.phase = out.phase
        node.mixes = out.mixes
        attested = None if out.attested is None else out.attested[0].numpy()
        sent = stated(node.core, node.driver, out, attested)
        payload, statement = sent.payload, self.salted(agent, sent.statement)
        node.kept.append(sent.kept)
        vectors = told_apart(out.apart[0], sorted(node.core.neighbours)) if out.apart else {}
        faces = node.core.faces(vectors, attested)
        if (
            out.phase == node.core.phases.model
            and self._keeps is not None
            and self._keeps(out.round)
        ):
            node.trained = Checkpoint(node.core.step, payload), dict(node.driver.state)
        return node.core.published(payload, statement, self.now_s, faces)

    def _combined(self, agent: str, node: Node, combine: Combine) -> None:
        performer = self._performers.get(agent)
        if isinstance(performer, Overhears) and performer.overhears and not combine.reentry:
            performer.overheard(combine.phase, {0: overheard(combine, agent)})
        node.answer = combined(combine, agent, mixes=node.mixes)
        if node.resumed and isinstance(node.answer, Heard):
            node.answer = node.driver.aggregated(node.answer)
        elif not combine.reentry:
            node.answer = node.driver.combined(node.answer)
        if combine.phase != node.core.phases.model:
            return
        assert isinstance(node.answer, Tensor)
        node.x = node.answer[0].numpy()
        node.models[combine.round + 1] = node.x
        if combine.reentry or node.resumed:
            vain = combine.reentry and node.core.unstated and node.phase == 0
            carried = node.driver.gradient if vain else None
            state = {} if combine.reentry else node.driver.state
            node.driver = self._driver(agent, node.answer, combine.round + 1, state, carried)
            node.answer, node.resumed, node.carried = None, False, carried is not None


def row_of(node: Node) -> dict[str, float]:
    """The mixing row that formed the model of the round under way, of one exchange a round."""
    (formed,) = node.core.book.formed(node.core.step)
    assert isinstance(formed, Row)
    return dict(formed.weights)


def finish(run: LocalRun) -> LocalRun:
    """Start everyone and run to the end."""
    run.start()
    run.run()
    return run


def freshened(
    core: AgentCore,
    statement: Statement,
    payload: NDArray[np.float32],
    told: Mapping[Source, NDArray[np.float32]] | None = None,
) -> Statement:
    """A made-up statement with the fresh sketches that it is to have: of what was `told` others,
    else of what the core holds, or zeros."""
    held = {**core._held.vectors, **(told or {})}
    nothing = np.zeros(len(payload), np.float32)
    named = named_sources(statement, core.phases)
    vectors = {source: held.get(source, nothing) for source in named}
    return core.examiner.freshened(statement, np.nan_to_num(payload, posinf=0, neginf=0), vectors)


def stated_digests(node: Node) -> dict[int, set[bytes]]:
    """Digest of every round this node stated, as sent to each neighbour."""
    found: dict[int, set[bytes]] = {}
    for send in node.sent:
        message = from_envelope(send.envelope)
        if isinstance(message, Update):
            statement = Statement.decode(message.body, sketch_bytes_max=8 * DIM)
            found.setdefault(statement.round, set()).add(statement.digest)
    return found


def tampering(agent: str, alter: Callable[[Message], Message]) -> Callable[[str, Send], Send]:
    """Alter what `agent` sends, message by message; for `LocalRun.tamper`."""

    def tamper(sender: str, send: Send) -> Send:
        if sender != agent:
            return send
        message = alter(from_envelope(send.envelope))
        return replace(send, envelope=to_envelope(message, send.envelope.nonce))

    return tamper


def of_half_the_energy(entry: ClaimedRound) -> ClaimedRound:
    """A claimed round of shorter updates than there were, which is wrong and well formed."""
    products = np.frombuffer(entry.products, "<f8") / 2
    return replace(entry, energy=entry.energy / 2, products=products.astype("<f8").tobytes())
