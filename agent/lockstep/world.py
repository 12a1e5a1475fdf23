"""The lockstep runtime: real cores under a seeded scheduler, with a network and disks that fail.

One seed is one schedule of losses, duplicates, reordering, delays, partitions, crashes between any
two effects, and restored backups; it replays exactly. No sockets, no clock, no files: thousands of
schedules a minute. After the faults everything heals, everyone is started once more, and the
ledgers must be equal.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.catalogue import ALGORITHMS, coin_of, phases_of
from candor.agent.algorithms.driver import Driver
from candor.agent.algorithms.effects import Heard, State
from candor.agent.core.agent import AgentCore
from candor.agent.core.assembly import assemble
from candor.agent.core.combination import combined
from candor.agent.core.earlier import Checkpoint
from candor.agent.core.effects import (
    Begin,
    Combine,
    Derive,
    Effect,
    Finished,
    Log,
    Persist,
    ReadRecords,
    Remember,
    Resume,
    Send,
    Verify,
)
from candor.agent.core.settlement.edge import SETTLE_WINDOWS
from candor.agent.core.settlement.referee import CLAIM_WINDOWS
from candor.agent.core.stating import aimed, stated
from candor.agent.core.terms import codec_of
from candor.agent.core.verification import derive, judge
from candor.agent.learning.given import GivenGradients
from candor.agent.lockstep.checks import Checks, Violation
from candor.agent.lockstep.disk import Disk
from candor.network.codecs import CODECS
from candor.network.identity import Identity
from candor.network.transport import MemoryNetwork
from candor.network.wire import Kind, decode, encode
from candor.topologies.cluster.file import (
    DEFAULT_ALGORITHM,
    DEFAULT_RULE,
    PUSH_SUM_ALGORITHM,
    AgentEntry,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    model_digest,
)
from candor.topologies.encoding.canonical import sha256
from candor.topologies.schedules import schedules
from candor.topologies.specs.specs import ConfigurationError

DIMS: Final = (8, 24)  # as many parameters as models have: shorter than a sketch, and longer
SKETCH_SIZE: Final = 16
TICK_S: Final = 0.1
ROUNDS: Final = 6
ROUNDS_PACED: Final = (
    18  # where somebody is slow or withholds: some windows more than are waited for
)
WINDOW: Final = 2
WINDOW_SAT_OUT: Final = 4  # where rounds are sat out: up to seven of them
FAULTS_S: Final = 6.0  # while things break
RUN_S: Final = 40.0  # for each exchange of a round: by then everyone has ended, whatever broke
DRAIN_S: Final = 8.0  # a start of everyone on a network that works
DRAINS_MAX: Final = 3
CRASHES_MAX: Final = 6
TOPOLOGIES: Final = (
    "path",
    "ring",
    "complete",
    "one-peer-exponential",
    "random-matching",
    "failing:base=ring,p=0.3",
    "directed-random:degree=2",  # push-sum, with agents that are given different amounts
)
WALL_S: Final = 1_700_000_000.0
# A directed graph brings its own.
UNDIRECTED: Final = tuple(name for name in ALGORITHMS if name != PUSH_SUM_ALGORITHM)


# Half of all runs are by the graph's weights; what needs losses is left to real training.
AGGREGATORS: Final = (
    *("rfa", "multi-krum", "mda", "nnm + krum", "bucketing:2 + rfa"),
    *("centred-clipping:0.5", "arc + monna", "clipped-gossip:1.0", "sybilwall"),
    *("median", "trimmed-mean", "nnm + meamed", "bridge", "smea"),
)


@dataclass(slots=True)
class Outcome:
    """What one seed came to."""

    seed: int
    crashes: int = 0
    all_killed: int = 0
    resumed: int = 0
    restored: int = 0
    lost: int = 0
    settlements: int = 0
    frozen: int = 0
    steps: int = 0
    violations: list[Violation] = field(default_factory=list)


@dataclass(slots=True)
class _Life:
    """One start of an agent: gone with a crash, but for its disk."""

    core: AgentCore
    driver: Driver
    answer: Tensor | Heard | None = None  # of the last exchange
    due: bool = False  # to publish with the next tick
    ready_s: float = 0.0  # not before
    phase: int = 0  # of the exchange that was published last
    mixes: bool = True  # what the algorithm asked of the exchange under way
    resumed: bool = False  # that exchange was begun by an earlier life
    jobs: list[Verify] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Paces:
    """Who trains `slow`ly, taking so long a round while things break, and who `withholds` messages
    of some kinds, "" for nobody. Nothing else breaks where it is `calm`."""

    slow: frozenset[str] = frozenset()
    takes_s: float = 0.0
    withholds: str = ""
    kinds: frozenset[Kind] = frozenset()
    calm: bool = False

    def served_max(self, window: int) -> int:
        """With windows of so many rounds, the last round in which who is not slow may still serve
        who withholds; what a round brings is judged at its end, when an update of the next may have
        been accepted."""
        windows = CLAIM_WINDOWS if Kind.CLAIM in self.kinds else 1 + SETTLE_WINDOWS
        return window * windows + 1

    def withheld(self, send: Send) -> bool:
        """Whether a message of who withholds does not leave."""
        return send.envelope.kind in self.kinds


def _paces(seed: int, ids: Sequence[str], pace: str | None) -> _Paces:
    """The paces of a seed, of draws of their own: of seven seeds in eight everybody is alike, of
    one in four where rounds are sat out."""
    own = np.random.default_rng([0x70616365, seed])
    if own.random() < (0.875 if pace is None else 0.25):
        return _Paces()
    slow, withholds = (str(agent) for agent in own.choice(ids, 2, replace=False))
    kinds = ((Kind.CLAIM, Kind.BILL), (Kind.BILL,), ())[int(own.integers(3))]
    return _Paces(
        frozenset({slow}) if own.random() < 0.7 else frozenset(),
        float(own.uniform(0.2, 1.2)),
        withholds if kinds else "",
        frozenset(kinds),
        bool(own.random() < 0.5),
    )


class _Crashed(Exception):
    """The process is gone; what it still had to do is not done."""


def run_seed(
    seed: int,
    *,
    algorithm: str | None = None,
    rule: str = DEFAULT_RULE,
    trace: Callable[[str], None] | None = None,
    aggregator: str | None = None,
    rewards: str | None = None,
    influence: float | None = None,
    pace: Literal["async"] | None = None,
) -> Outcome:
    """One schedule, from its seed alone; the seed also draws the algorithm where none is named, and
    then the aggregator where none is named. With `rewards` models are traded by that rule, on
    graphs without directions and by the algorithm that is named, else the default one; so is what
    agents inject bounded by `influence`, by algorithms and aggregators that allow it; and so are
    rounds sat out with a `pace`, where in three seeds of four somebody is slow or withholds."""
    return World(seed, algorithm, rule, trace, aggregator, rewards, influence, pace).run()


class World:
    """All agents of one schedule, their disks and the network between them.

    `ordered` and `nonce` are what a test overrides to break a rule of the protocol on purpose; with
    `strict` off, what is sent before it is stored is to be caught by what comes of it.
    """

    strict = True

    def __init__(
        self,
        seed: int,
        algorithm: str | None = None,
        rule: str = DEFAULT_RULE,
        trace: Callable[[str], None] | None = None,
        aggregator: str | None = None,
        rewards: str | None = None,
        influence: float | None = None,
        pace: Literal["async"] | None = None,
    ) -> None:
        if rewards is not None or influence is not None or pace is not None:
            algorithm = algorithm or DEFAULT_ALGORITHM
        self._random = np.random.default_rng([0x6C6F636B, seed])
        self._trace = trace
        self._cluster, self._identities = _cluster(
            *(self._random, rule, algorithm, aggregator, rewards, influence, seed, pace)
        )
        self._dim = self._cluster.task.parameters
        draw = self._random.random
        self._network = MemoryNetwork(
            seed,
            loss=0.15 * draw(),
            duplicate=0.15 * draw(),
            delay_s=(0.0, 0.05 + 0.4 * draw() * (draw() < 0.5)),
            reorder=bool(draw() < 0.5),
        )
        self._crash_chance = 0.02 * draw()
        # Of its own, so that what is drawn of checkpoints changes no other fault of a seed.
        self._of_disks = np.random.default_rng([0x6469736B, seed])
        self._of_losses = np.random.default_rng([0x6C6F7374, seed])
        self._keep_chance = float(self._of_disks.choice([0.0, 0.3, 1.0]))
        self._all_die_s = float(self._of_disks.uniform(0.0, 2.5 * FAULTS_S))
        self._paces = paces = _paces(seed, self._cluster.ids, pace)
        if paces.calm:
            self._network = MemoryNetwork(seed, delay_s=(0.0, 0.05))
        self._now_s = 0.0
        self._lives: dict[str, _Life] = {}
        self._back_s: dict[str, float] = {}  # when a crashed agent is started again
        self._disks = {agent: Disk() for agent in self._cluster.ids}
        self._backups: dict[str, Disk] = {}
        self._started = 0
        self._faulty = True
        self._out = Outcome(seed)
        self._checks = Checks(self._cluster, self._disks, strict=self.strict)
        self._checks.withholds = self._paces.withholds
        if self._paces.calm:
            self._checks.served_max = self._paces.served_max(self._cluster.payments.window)

    def run(self) -> Outcome:
        """The schedule: faults, then peace, then one more start of everyone."""
        for agent in self._cluster.ids:
            self._start(agent)
        self._until(FAULTS_S, lambda: False)
        self._faulty = False
        self._network.heal()
        exchanges = phases_of(self._cluster.algorithm).count
        self._until(RUN_S * exchanges, lambda: all(life.ended for life in self._lives.values()))
        if not self._checks.found and not all(life.ended for life in self._lives.values()):
            self._checks.violated("hang", "not everyone ended")
        self._network = MemoryNetwork(self._out.seed, delay_s=(0.0, 0.01))
        self._checks.withholds = ""  # whoever did delivers late now
        for _ in range(0 if self._checks.found else DRAINS_MAX):
            for agent in self._cluster.ids:
                self._start(agent)
            # Who has trained to the end leaves first, perhaps before the last acceptance is back.
            self._until(self._now_s + DRAIN_S, lambda: False)
            if self._checks.all_settled():
                break
        if not self._checks.found:
            self._checks.at_the_end()
        out = self._out
        out.settlements, out.frozen = self._checks.settlements(), self._checks.frozen
        out.violations = self._checks.found
        return out

    def _until(self, end_s: float, done: Callable[[], bool]) -> None:
        while self._now_s < end_s and not done() and not self._checks.found:
            self._now_s += TICK_S
            self._out.steps += 1
            if self._faulty and not self._paces.calm:
                self._break_something()
            for agent in [a for a, at in self._back_s.items() if at <= self._now_s]:
                self._start(agent)
            self._deliver()
            for agent in self._cluster.ids:
                self._guarded(agent, self._tick)

    # --- faults -----------------------------------------------------------------------------

    def _break_something(self) -> None:
        if self._now_s >= self._all_die_s:
            self._kill_all()
        draw = self._random.random()
        if draw < 0.02:
            ids = list(self._cluster.ids)
            cut = [a for a in ids if self._random.random() < 0.5]
            self._network.partition([cut])
        elif draw < 0.08:
            self._network.heal()
        elif draw < 0.25:
            agent = self._cluster.ids[int(self._random.integers(len(self._cluster.ids)))]
            self._backups[agent] = self._disks[agent].copy()

    def _kill_all(self) -> None:
        """The end of all processes at once, as of one machine; some disks lose their last file."""
        self._all_die_s, self._out.all_killed = float("inf"), 1
        for agent in list(self._lives):
            self._say(agent, "is killed with all others")
            del self._lives[agent]
            self._back_s[agent] = self._now_s + float(self._of_disks.uniform(0.1, 1.5))
            if self._of_disks.random() < 0.1:
                self._disks[agent].snapshot = None
                self._checks.restored.add(agent)

    def _may_crash(self, agent: str) -> None:
        """At every boundary between two effects."""
        if not self._faulty or self._paces.calm or self._out.crashes >= CRASHES_MAX:
            return
        if self._random.random() < self._crash_chance:
            raise _Crashed(agent)

    def _crash(self, agent: str) -> None:
        self._out.crashes += 1
        self._say(agent, "crashes")
        del self._lives[agent]
        self._back_s[agent] = self._now_s + float(self._random.uniform(0.1, 1.5))
        if agent in self._backups and self._random.random() < 0.25:
            self._out.restored += 1
            self._say(agent, "is restored from a backup")
            self._disks[agent].replace(self._backups[agent])
            self._disks[agent].newest = bool(self._of_disks.random() < 0.1)  # taken for that
            self._checks.restore(agent)
        self._lose(agent)

    def _lose(self, agent: str) -> None:
        """Now and then what an agent had on its disk is gone: its database, its snapshot, all."""
        lost = self._of_losses.random()
        if lost >= 0.15:
            return
        self._out.lost += 1
        self._say(agent, "has lost " + ("its database" if lost < 0.1 else "its snapshot"))
        disk = self._disks[agent]
        snapshot = None if lost >= 0.05 else disk.snapshot
        emptied = Disk() if lost < 0.1 else disk.copy()
        emptied.snapshot, emptied.newest = snapshot, disk.newest
        disk.replace(emptied)
        self._checks.restore(agent)

    # --- agents -----------------------------------------------------------------------------

    def _start(self, agent: str) -> None:
        self._back_s.pop(agent, None)
        self._started += 1
        disk = self._disks[agent]
        core = assemble(
            self._cluster,
            agent,
            self._identities[agent],
            disk,
            np.zeros(self._dim, np.float32),
            nonce=self.nonce(agent, self._started),
            chunk_bytes=1024,
            link_reason=lambda _: None,
            snapshot=disk.snapshot,
            newest=disk.newest,
            checkpoint=disk.kept[0] if disk.kept is not None else None,
        )
        self._lives[agent] = _Life(core, self._driver(agent, torch.zeros(1, self._dim), 1))
        self._checks.born(agent)
        self._say(agent, "starts")
        self._guarded(agent, lambda a: self._perform(a, self._lives[a].core.start(self._now_s)))

    def _guarded(self, agent: str, work: Callable[[str], None]) -> None:
        life = self._lives.get(agent)
        if life is None or life.ended:
            return
        try:
            work(agent)
        except _Crashed:
            self._crash(agent)

    def _tick(self, agent: str) -> None:
        life = self._lives[agent]
        self._perform(agent, life.core.tick(self._now_s))
        if self._paces.calm:
            barred = {peer: n.barred for peer, n in life.core.neighbours.items()}
            self._checks.barring(agent, barred)
        if life.due and not life.ended and self._now_s >= life.ready_s:
            self._publish(agent, life)
        jobs, life.jobs = life.jobs, []
        for job in jobs:
            outcome = judge(job.update, life.core.examiner, life.core.codec)
            self._perform(agent, life.core.verified(job.peer, job.update, outcome, self._now_s))

    def _driver(
        self,
        agent: str,
        x: Tensor,
        start: int,
        state: State | None = None,
        carried: Tensor | None = None,
    ) -> Driver:
        """The run's algorithm from a model (1, dim) on, with made-up gradients."""

        def gradient(t: int) -> NDArray[np.float32]:
            generator = np.random.default_rng([self._cluster.index(agent), t])
            return generator.standard_normal(self._dim).astype(np.float32)

        def mass(t: int) -> float:
            return self._cluster.round_weights.of(t).mass[agent]

        rounded, coin = codec_of(self._cluster).rounded, coin_of(self._cluster)
        given = GivenGradients(gradient, mass)
        return Driver(
            *(self._cluster.algorithm, given, rounded, x, state, start, coin),
            carries=True,
            carried=carried,
        )

    def _train(self, agent: str, life: _Life, *, done: bool = False) -> None:
        """A round begins, or another exchange of it; `done`: its training has been before."""
        slow = agent in self._paces.slow and self._faulty and not done
        takes_s = self._paces.takes_s if slow and life.core.phases.at(life.core.step)[1] == 0 else 0
        life.due, life.ready_s = True, self._now_s + takes_s

    def _publish(self, agent: str, life: _Life) -> None:
        life.due = False
        out = life.driver.advance(life.answer)
        self._perform(agent, life.core.aim(self._now_s))
        out = aimed(life.core, life.driver, out)
        life.mixes, life.phase = out.mixes, out.phase
        attested = None if out.attested is None else out.attested[0].numpy()
        sent = stated(life.core, life.driver, out, attested)
        self._keep(agent, life, sent.payload)
        self._perform(agent, life.core.published(sent.payload, sent.statement, self._now_s))

    def _keep(self, agent: str, life: _Life, payload: NDArray[np.float32]) -> None:
        """A checkpoint now and then, before what it is of is sent, or after."""
        if life.core.phases.at(life.core.step)[1] != life.core.phases.model:
            return
        if self._of_disks.random() < self._keep_chance:
            kept = Checkpoint(life.core.step, payload)
            self._disks[agent].kept = kept, dict(life.driver.state)

    def _resume(self, agent: str, life: _Life, resume: Resume) -> None:
        """Go on with what was kept."""
        self._out.resumed += 1
        kept = self._disks[agent].kept
        assert kept is not None
        checkpoint, state = kept
        vector = torch.from_numpy(checkpoint.vector.copy())[None]
        after = resume.round if resume.inside else resume.round + 1
        life.driver = self._driver(agent, vector, after, dict(state))
        life.resumed, life.mixes = resume.inside, life.driver.mixes(resume.phase)
        life.due = not resume.inside and after <= self._cluster.rounds.rounds

    def _combined(self, agent: str, life: _Life, combine: Combine) -> list[Effect]:
        life.answer = combined(combine, agent, mixes=life.mixes)
        carried = None
        if combine.reentry:
            assert isinstance(life.answer, Tensor)
            carried = life.driver.gradient if life.core.unstated and life.phase == 0 else None
            life.driver = self._driver(agent, life.answer, combine.round + 1, None, carried)
            life.answer = None
        elif life.resumed:
            heard = life.answer
            x = life.driver.aggregated(heard) if isinstance(heard, Heard) else heard
            state = life.driver.state
            life.driver, life.answer = self._driver(agent, x, combine.round + 1, state), None
        else:
            life.answer = life.driver.combined(life.answer)
        life.resumed = False
        effects = life.core.combined(self._now_s)
        if life.core.round <= self._cluster.rounds.rounds:
            self._train(agent, life, done=carried is not None)
        return effects

    def _deliver(self) -> None:
        while due := self._network.deliver(self._now_s):
            for receiver, delivery in due:

                def take(agent: str, sender: str = delivery.sender) -> None:
                    core = self._lives[agent].core
                    frames = delivery.frames  # noqa: B023
                    envelope, neighbour = decode(frames), core.neighbours[sender]
                    if neighbour.served and envelope.nonce == neighbour.session.nonce:
                        self._checks.heard(agent, sender, envelope)
                    self._perform(agent, core.received(sender, frames, self._now_s, WALL_S))

                self._guarded(receiver, take)

    # --- effects ----------------------------------------------------------------------------

    def _perform(self, agent: str, effects: list[Effect]) -> None:
        life = self._lives[agent]
        queue = deque(self.ordered(effects))
        while queue:
            self._may_crash(agent)
            match queue.popleft():
                case Send() as send:
                    if agent == self._checks.withholds and self._paces.withheld(send):
                        continue
                    self._checks.sent(agent, send, prompt=agent not in self._paces.slow)
                    self._network.post(agent, send.peer, encode(send.envelope), self._now_s)
                case Persist(operations):
                    self._disks[agent].commit(operations)
                    self._checks.stored(agent, operations)
                case Remember(snapshot):
                    self._disks[agent].snapshot = snapshot
                    self._disks[agent].newest = True
                case ReadRecords(channel_id, first, count):
                    records = self._disks[agent].records(channel_id, first, count)
                    answer = life.core.records_read(channel_id, records, self._now_s)
                    queue.extend(self.ordered(answer))
                case Verify() as job:
                    life.jobs.append(job)
                case Begin():
                    self._train(agent, life)
                case Resume() as resume:
                    self._resume(agent, life, resume)
                case Derive() as asked:
                    derived = derive(asked, life.core.examiner, agent)
                    queue.extend(self.ordered(life.core.derived(derived)))
                case Combine() as combine:
                    queue.extend(self.ordered(self._combined(agent, life, combine)))
                case Log() as log:
                    self._say(agent, f"{log.event} {dict(log.fields)}")
                    self._checks.logged(agent, log)
                case Finished() as ended:
                    self._say(agent, f"ends: {ended.failure or 'well'}")
                    life.ended = True
                    return

    def ordered(self, effects: list[Effect]) -> list[Effect]:
        """The order in which effects are performed: theirs."""
        return effects

    def nonce(self, agent: str, life: int) -> bytes:  # noqa: ARG002
        """The session nonce (16 bytes) of a life, no other's."""
        return sha256(str(life).encode())[:16]

    def _say(self, agent: str, what: str) -> None:
        if self._trace is not None:
            self._trace(f"{self._now_s:6.1f} s  {agent}  {what}")


_KEYS: Final = {
    f"a{i}": Identity.from_seeds(sha256(b"identity %d" % i), sha256(b"curve %d" % i))
    for i in range(4)
}


def _cluster(
    random: np.random.Generator,
    rule: str,
    algorithm: str | None,
    aggregator: str | None,
    rewards: str | None,
    influence: float | None,
    seed: int,
    pace: Literal["async"] | None,
) -> tuple[Cluster, Mapping[str, Identity]]:
    """Three or four agents on one of `TOPOLOGIES`. Algorithm, codec, aggregator and the length of
    models have draws of their own, so that a seed's faults are the same whatever there is to choose
    from."""
    agents = int(random.integers(3, 5))
    topology = TOPOLOGIES[int(random.integers(len(TOPOLOGIES)))]
    schedule = schedules.build(topology, agents)
    if schedule.push_sum and algorithm not in (None, DEFAULT_ALGORITHM, PUSH_SUM_ALGORITHM):
        schedule = schedules.build("ring", agents)  # what is asked for runs on no directed graph
    if (rewards or pace) and schedule.rule == schedules.ARCS:
        schedule = schedules.build("ring", agents)
    own = np.random.default_rng([0x616C676F, seed])
    drawn = str(own.choice(UNDIRECTED))
    dim = int(np.random.default_rng([0x64696D, seed]).choice(DIMS))
    cluster = assemble_cluster(
        run_id="lockstep",
        seed=1,
        graph=schedule,
        agents=[
            AgentEntry(
                id=agent,
                endpoint=f"tcp://127.0.0.1:{30_000 + i}",
                identity=_KEYS[agent].signing_key.public.hex(),
                curve=_KEYS[agent].curve_public,
            )
            for i, agent in enumerate(schedule.agents)
        ],
        task=TaskSettings(
            name="none", parameters=dim, model_digest=model_digest(np.zeros(dim, np.float32))
        ),
        algorithm=_algorithm(
            algorithm or (DEFAULT_ALGORITHM if schedule.push_sum else drawn),
            aggregator,
            schedule.push_sum,
            np.random.default_rng([0x61676772, seed]) if algorithm is None else None,
        ).model_copy(update={"rewards": rewards, "influence": influence}),
        rounds=RoundSettings(
            rounds=ROUNDS_PACED
            if _paces(seed, list(schedule.agents), pace) != _Paces()
            else ROUNDS,
            deadline_s=1.0,
            start_deadline_s=3.0,
            codec="float32" if algorithm else str(own.choice(list(CODECS))),
            pace=pace,
        ),
        payments=PaymentSettings(
            rule=rule,
            window=WINDOW if pace is None else WINDOW_SAT_OUT,
            sketch_size=SKETCH_SIZE,
        ),
    )
    return cluster, {agent: _KEYS[agent] for agent in cluster.ids}


def _algorithm(
    name: str, aggregator: str | None, push_sum: bool, own: np.random.Generator | None
) -> AlgorithmSettings:
    """An algorithm with the aggregator that is asked for, else with one in half of all draws, if it
    takes one."""
    settings = AlgorithmSettings(name=name, step_size=0.5, step_decay=0.0, local_steps=1)
    drawn = str(own.choice(AGGREGATORS)) if own is not None and own.random() < 0.5 else None
    chosen = aggregator or drawn
    byzantine = 1 if own is None else int(own.integers(2))
    if chosen is None or push_sum:
        return settings
    robust = settings.model_copy(update={"aggregator": chosen, "max_byzantine": byzantine})
    try:
        phases_of(robust)
    except ConfigurationError:  # it attests an aggregate of its own
        if aggregator is not None:
            raise
        return settings
    return robust
