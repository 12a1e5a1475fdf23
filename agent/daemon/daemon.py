"""The daemon: one agent of a run over ZeroMQ, asyncio, and two threads for arithmetic.

It performs what the core and the algorithm ask for and tells them what happened; it decides
nothing. The event loop only moves messages. Training, which may take minutes, evaluation and saving
models run in a thread of their own, so that updates are verified meanwhile; digests, sketches,
verification and mixing in another, which alone uses the examiner's caches beside the loop; SQLite
in the store's own. The two share no state: the models that pass between them are never changed.
"""

import asyncio
import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.driver import Driver, Outgoing, Overhears, Performer
from candor.agent.algorithms.effects import Heard, State
from candor.agent.core.agent import AgentCore, Stage
from candor.agent.core.combination import combined, overheard
from candor.agent.core.effects import (
    Arrived,
    Begin,
    Combine,
    Derive,
    Effect,
    Finished,
    HangUp,
    Judge,
    Log,
    Persist,
    PutValue,
    ReadRecords,
    Remember,
    Resume,
    Send,
    Show,
    Verify,
)
from candor.agent.core.faces import Face, told_apart
from candor.agent.core.settlement.referee import BILL_KEY, bill_key
from candor.agent.core.stating import aimed, stated
from candor.agent.core.verification import derive, judge
from candor.agent.daemon.checkpoint import CheckpointFile, Training
from candor.agent.daemon.failpoints import (
    AFTER_PERSIST,
    AFTER_SNAPSHOT,
    BEFORE_PERSIST,
    BEFORE_SNAPSHOT,
    Probe,
)
from candor.agent.daemon.journal import Journal
from candor.agent.daemon.judging import Judging
from candor.agent.daemon.kept_rounds import KeptRounds
from candor.agent.daemon.model_file import ModelFile
from candor.agent.daemon.snapshot import SnapshotFile
from candor.agent.daemon.store import Store
from candor.agent.exits import INTERRUPTED
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.round_over import RoundOver
from candor.mechanisms.agreement.coin import Coin
from candor.mechanisms.evidence.disclosures import SignedDisclosure
from candor.mechanisms.evidence.examiner import Examined
from candor.mechanisms.evidence.statements import EvidenceError, Statement
from candor.network.codecs import FLOAT32
from candor.network.transport import Transport
from candor.network.wire import encode
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.encoding.canonical import MalformedError

TICK_S: Final = 0.05  # the resolution of every deadline
DRAIN_S: Final = 2.0
PAYMENTS_EVERY_S: Final = 1.0
REVISIONS_EVERY_S: Final = 0.25
OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
# What a death without a farewell costs of the model. A large one on a slow disk is saved less
# often: that takes a hundredth of the time at most.
MODEL_EVERY_S: Final = 2.0
MODEL_SAVES_MAX: Final = 1 / 100

T = TypeVar("T")


class Trainer(Performer, Protocol):
    """What the daemon needs of one agent's training; see `agent.learning.rows.TrainedRows`."""

    losses: Tensor

    @property
    def trajectories(self) -> int | None:
        """How many episodes the last round sampled; None where the task has none."""
        ...

    def evaluate(self, x: Tensor) -> list[Measured]:
        """The metric of each row of x (agents, dim)."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where a daemon keeps its training, what gives that which the learner keeps to itself, and
    what an earlier life has `left` there."""

    file: CheckpointFile
    private: Callable[[], bytes] = bytes
    left: Training | None = None


@dataclass(frozen=True, slots=True)
class _Start:
    """Where training starts: the models (1, dim) of a round and the algorithm's state. Or what the
    exchange before it came to, which an earlier life was `inside`, with its algorithm."""

    x: Tensor | Heard
    round: int
    state: State
    inside: Driver | None = None


class Observer(Protocol):
    """Told of what happens; the run goes on without it, so nothing that it needs is kept here."""

    def started(self, core: AgentCore) -> None: ...
    def stated(self, statement: Statement) -> None: ...
    def round_over(self, outcome: "RoundOutcome", core: AgentCore) -> None: ...
    def ticked(self, core: AgentCore) -> None: ...


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """One finished round: `measured` is None where the round was not evaluated."""

    round: int
    train_loss: float
    measured: Measured | None
    injected_norm: float
    mixed: int
    missing: tuple[str, ...]
    trajectories: int | None = None
    agreement_moves: int | None = None
    weightless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended: exit code, and one line of failure."""

    exit_code: int
    failure: str | None


@dataclass(frozen=True, slots=True)
class Work:
    """What the daemon does between messages; `exposure` is what its updates are known to show,
    `device` where it trains, `on_round` the task's own callback, `coin` the run's common one."""

    algorithm: AlgorithmSettings
    trainer: Trainer
    initial: Tensor
    rounds: int
    evaluate_every: int
    exposure: str | None = None
    device: str = "cpu"
    on_round: Callable[[RoundOver], object] | None = None
    coin: Coin | None = None


class Daemon:
    """Runs one agent to the end of the run; `seconds` adds up where the time of rounds goes."""

    def __init__(
        self,
        core: AgentCore,
        transport: Transport,
        store: Store,
        work: Work,
        journal: Journal,
        observers: Sequence[Observer],
        snapshot: SnapshotFile,
        models: ModelFile | None,
        parent_pid: int | None = None,
        probe: Probe | None = None,
        kept: KeptRounds | None = None,
        judging: Judging | None = None,
        checkpoints: Checkpoints | None = None,
        revisions: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self.core = core
        self._revisions = revisions  # answers a cluster file that the operator has brought
        self._checkpoints = checkpoints
        self._writes = False  # a checkpoint is being written
        self._unwritten: Training | None = None  # the models stated last, where none is of them
        self._newest: Training | None = None  # the same, whether one is or not
        self._resumed: Driver | None = None  # inside an exchange that an earlier life has begun
        self._kept = kept
        self._judging = judging
        self._unshowable: set[int] = set()  # windows of which that was told
        self._to_judge: asyncio.Queue[Judge] = asyncio.Queue()
        self._examiner = core.examiner
        self._transport = transport
        self._store = store
        self._work = work
        self._journal = journal
        self._observers = observers
        self._snapshot = snapshot
        self._models = models
        self._model_due_s = float("-inf")
        self._parent_pid = parent_pid
        self._probe = probe
        self._unsynced = set(core.neighbours)
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._training = ThreadPoolExecutor(1, thread_name_prefix="training")
        # What neighbours are shown, and show: each in a thread that nothing waits for.
        self._showing = ThreadPoolExecutor(1, thread_name_prefix="showing")
        self._judges = ThreadPoolExecutor(1, thread_name_prefix="judging")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._pending: deque[Effect] = deque()
        self._background: set[asyncio.Task[None]] = set()
        self._persisting = False
        self._closed = False  # nothing is performed any more
        self._interrupted = False
        codec = core.codec
        self._rounded = None if codec is FLOAT32 else codec.rounded
        self._x = work.initial.unsqueeze(0)  # (1, dim), the model of the current round
        self._rounds_behind = 0  # that it has been trained
        self.seconds: dict[str, float] = dict.fromkeys(
            ("train", "state", "send", "wait", "verify", "mix", "settle", "keep", "rest"), 0.0
        )

    # --- life -------------------------------------------------------------------------------

    async def run(self) -> Result:
        """Run to the end; always stops every task, thread and socket it started.

        Raises:
            TransportError: the endpoint cannot be bound, or the sockets failed.
        """
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[_Start] = self._loop.create_future()
        self._combined: asyncio.Future[tuple[Tensor | Heard, bool]] | None = None
        self._mixes = True  # whether the exchange under way is a weighted sum
        self._finished: asyncio.Future[Finished | BaseException] = self._loop.create_future()
        await self._transport.start()
        self._journal.log(logging.INFO, "started", {"reserved": self.core.settings.reserved_round})
        try:
            ended = await self._run_tasks()
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            self._closed = True
            if self._judging is not None:
                self._judging.stop()
            self._judges.shutdown(wait=True, cancel_futures=True)
            self._showing.shutdown(wait=True, cancel_futures=True)
            self._compute.shutdown(wait=True, cancel_futures=True)
            self._writing.shutdown(wait=True, cancel_futures=True)
            await self._transport.close(DRAIN_S)  # farewells leave while training still goes on
            self._training.shutdown(wait=True, cancel_futures=True)
        stopped = self._interrupted and ended.failure is not None
        return Result(INTERRUPTED if stopped else ended.exit_code, ended.failure)

    @property
    def model(self) -> tuple[Tensor, int]:
        """The present model (dim,), and how many rounds it has behind it."""
        return self._x[0], self._rounds_behind

    def keep(self) -> None:
        """Write the checkpoint that was not due yet, after the end.

        Raises:
            OSError: the system refused.
            ConfigurationError: what the learner keeps to itself cannot be saved.
        """
        if self._checkpoints is not None and self._unwritten is not None:
            self._checkpoints.file.write(self._checkpointed(self._unwritten, self._checkpoints))

    def hand_on(self) -> None:
        """Write the checkpoint of the last exchange of this membership, from which the next one is
        gone on with; raises as `keep` does."""
        self._unwritten = self._newest
        self.keep()

    def interrupt(self) -> None:
        """Leave with a farewell, soon; may be called by a signal's handler, at any time."""
        self._interrupted = True

    @property
    def interrupted(self) -> bool:
        """Whether the operator wants it to end."""
        return self._interrupted

    async def _run_tasks(self) -> Finished:
        self._perform(self.core.start(self._now()))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(job)
                for job in (
                    self._receive_loop(),
                    self._tick_loop(),
                    self._payments_loop(),
                    self._revisions_loop(),
                    self._judge_loop(),
                    self._train_loop(),
                )
            ]
            ended = await self._finished
            if isinstance(ended, BaseException):
                raise ended
            if ended.failure is None:
                await asyncio.wait(tasks[-1:])  # the last round may still be evaluated
            for task in tasks:
                task.cancel()
        return ended

    def _now(self) -> float:
        return self._loop.time()

    # --- loops ------------------------------------------------------------------------------

    async def _receive_loop(self) -> None:
        while True:
            delivery = await self._transport.receive()
            self._perform(
                self.core.received(delivery.sender, delivery.frames, self._now(), time.time())
            )

    async def _tick_loop(self) -> None:
        while True:  # at once, for who was stopped before the start
            if self._parent_pid is not None and os.getppid() != self._parent_pid:
                self.interrupt()
            if self._interrupted and self.core.stage is not Stage.DONE:
                log = Log(logging.INFO, "interrupted", {"round": self.core.round})
                self._perform([log, *self.core.stop()])
            self._perform(self.core.tick(self._now()))
            self._journal.tick()
            for observer in self._observers:
                observer.ticked(self.core)
            self._tell_synced()
            await asyncio.sleep(TICK_S)

    async def _payments_loop(self) -> None:
        """What `candor ledger pay` has stored meanwhile."""
        while True:
            await asyncio.sleep(PAYMENTS_EVERY_S)
            if self._persisting or self._pending:
                continue  # the store is not yet what the core takes it to be
            before = self.core.settlement.payments()
            stored = await self._loop.run_in_executor(None, self._store.payments)
            self._perform(self.core.told(before, stored, self._now()))

    async def _revisions_loop(self) -> None:
        """Another cluster file than the one that this daemon was started with."""
        while True:
            brought = await self._loop.run_in_executor(None, self._revisions)
            if brought is not None:
                self._perform(self.core.handed(brought, self._now()))
            await asyncio.sleep(REVISIONS_EVERY_S)

    async def _judge_loop(self) -> None:
        """Do again what neighbours have shown, all that has come by then at a time."""
        while True:
            asked = [await self._to_judge.get()]
            while not self._to_judge.empty():
                asked.append(self._to_judge.get_nowait())
            assert self._judging is not None
            shown = [one.shown for one in asked]
            found = await self._loop.run_in_executor(self._judges, self._judging.judged, shown)
            for one, verdict in zip(asked, found, strict=True):
                about = (one.shown, one.window, verdict.told, verdict.why, verdict.heads)
                self._perform(self.core.judged(*about, self._now()))

    def _shown(self, show: Show) -> Callable[[], tuple[SignedDisclosure | None, bytes]]:
        """What reads a piece of what this agent shows; nothing where it cannot show it."""

        def read() -> tuple[SignedDisclosure | None, bytes]:
            bundle = self._store.value(bill_key(show.window))
            if bundle is None or self._kept is None:
                return None, b""
            try:
                return self._kept.shown(show.window, bundle, show.offset) or (None, b"")
            except (OSError, MalformedError) as exc:
                if show.window in self._unshowable:
                    return None, b""
                self._unshowable.add(show.window)
                about: dict[str, str | int] = {"window": show.window, "detail": str(exc)}
                told = partial(self._journal.log, logging.WARNING, "cannot_show", about)
                self._loop.call_soon_threadsafe(told)
                return None, b""

        return read

    async def _show(self, show: Show) -> None:
        signed, data = await self._loop.run_in_executor(self._showing, self._shown(show))
        effects = self.core.showing(show.peer, show.window, signed, show.offset, data)
        self._perform(effects)

    def _tell_synced(self) -> None:
        """Log once a neighbour that nothing of an earlier life is left to settle with it."""
        for agent in sorted(self._unsynced):
            session = self.core.neighbours[agent].session
            if session.established and self.core.settlement.settled(agent):
                self._unsynced.discard(agent)
                self._journal.log(logging.INFO, "ledger_synced", {"peer": agent})

    async def _train_loop(self) -> None:
        begun = await self._begun
        for observer in self._observers:
            observer.started(self.core)
        x, start, state = await self._resumed_round(begun), begun.round, begun.state
        carried: Tensor | None = None
        while self.core.stage is Stage.RUNNING:
            x, start, carried = await self._run_algorithm(x, start, state, carried)
            state = {}  # after a re-entry

    async def _resumed_round(self, begun: _Start) -> Tensor:
        """The models (1, dim) to start from; the round that an earlier life was in is over."""
        x, driver = begun.x, begun.inside
        if driver is not None and isinstance(x, Heard):
            x = await self._timed("mix", driver.aggregated, x)
        if driver is not None and self._checkpoints is not None:
            await self._round_over(begun.round - 1, _model(x), None, self._checkpoints.left)
        return _model(x)

    def _driver(self, x: Tensor, start: int, state: State, carried: Tensor | None = None) -> Driver:
        """The run's algorithm from the models x (1, dim) of a round on. What was trained in vain,
        as others had gone on, is `carried` into the round of the re-entry: so who is slow gets to
        contribute. Not where rounds can be done again: those start from one model."""
        work = self._work
        return Driver(
            *(work.algorithm, work.trainer, self._rounded, x, state, start, work.coin),
            carries=self._kept is None,
            carried=carried,
        )

    async def _run_algorithm(
        self, x: Tensor, start: int, state: State, carried: Tensor | None
    ) -> tuple[Tensor, int, Tensor | None]:
        """Drive the algorithm from round `start` until the run ends or re-enters."""
        phases = self.core.phases
        driver = self._driver(x, start, state, carried)
        answer: Tensor | Heard | None = None
        await self._begin_kept(start, x, driver, fresh=True)
        while True:
            out = await self._aimed(await self._trained("train", driver.advance, answer), driver)
            answer, reentered = await self._exchange(out, driver)
            if reentered:
                vain = self.core.unstated and out.phase == 0
                return _model(answer), self.core.round, driver.gradient if vain else None
            if isinstance(answer, Heard) or driver.moves is not None:
                answer = await self._timed("mix", driver.combined, answer)
            if out.phase == phases.model:
                moves = None if driver.moves is None else int(driver.moves[0])
                await self._round_over(out.round, _model(answer), moves)
            if out.phase == phases.model and self.core.stage is not Stage.RUNNING:
                return _model(answer), out.round + 1, None
            if out.phase == phases.model:
                await self._begin_kept(out.round + 1, _model(answer), driver, fresh=False)

    async def _begin_kept(self, t: int, x: Tensor, driver: Driver, *, fresh: bool) -> None:
        """Keep what round t is started from, where the run asks for that."""
        if self._kept is not None:
            begin = partial(self._kept.begin, t, x, driver.state, fresh=fresh)
            await self._trained("keep", begin)

    async def _aimed(self, out: Outgoing, driver: Driver) -> Outgoing:
        """What was trained, as of the round in which it is to be stated."""
        self._perform(self.core.aim(self._now()))
        return await self._trained("train", aimed, self.core, driver, out)

    async def _exchange(self, out: Outgoing, driver: Driver) -> tuple[Tensor | Heard, bool]:
        """An exchange over the network: state the vector, send it, wait, and combine."""
        attested = None if out.attested is None else out.attested[0].cpu().contiguous().numpy()
        sent = await self._timed("state", stated, self.core, driver, out, attested)
        payload, statement = sent.payload, sent.statement
        if sent.kept < 1.0:
            self._journal.log(logging.INFO, "shortened", {"round": out.round, "kept": sent.kept})
        if self._kept is not None:
            statement = replace(statement, salt=self._kept.salt(out.phase))
        faces = await self._faces(out, attested)
        self._mixes = out.mixes
        if out.phase == self.core.phases.model:
            for observer in self._observers:
                observer.stated(statement)
        self._combined = self._loop.create_future()
        step, began = self.core.step, time.perf_counter()
        self._perform(self.core.published(payload, statement, self._now(), faces))
        self.seconds["send"] += time.perf_counter() - began
        if out.phase == self.core.phases.model and not faces:
            loss, episodes = float(self._work.trainer.losses[0]), self._work.trainer.trajectories
            self._stated(Training(step, out.round, payload, dict(driver.state), loss, episodes))
        busy = self.seconds["verify"] + self.seconds["mix"]
        began = time.perf_counter()
        outcome = await self._combined
        waited = time.perf_counter() - began
        # Verifying and mixing happen inside the wait: what is left is waiting for neighbours.
        self.seconds["wait"] += max(
            0.0, waited - (self.seconds["verify"] + self.seconds["mix"] - busy)
        )
        return outcome

    async def _faces(
        self, out: Outgoing, attested: NDArray[np.float32] | None
    ) -> Mapping[str, Face]:
        """What an attacker tells each of its neighbours; nothing of an honest agent."""
        if not out.apart:
            return {}
        vectors = told_apart(out.apart[0], sorted(self.core.neighbours))
        return await self._timed("state", self.core.faces, vectors, attested)

    def _stated(self, training: Training) -> None:
        """Models were stated: keep what was trained, in a checkpoint if one is due. Meanwhile
        neighbours are waited for; the next training waits until all is read."""
        kept = self._checkpoints
        if kept is None:
            return
        self._unwritten = self._newest = training
        if not self._writes and kept.file.due(time.monotonic()):
            self._writes, self._unwritten = True, None
            self._in_background(self._write(training, kept))

    async def _write(self, training: Training, kept: Checkpoints) -> None:
        data = await self._trained("keep", self._checkpointed, training, kept)
        await self._loop.run_in_executor(self._writing, kept.file.write, data)
        self._writes = False

    @staticmethod
    def _checkpointed(training: Training, kept: Checkpoints) -> bytes:
        return kept.file.encode(replace(training, private=kept.private()))

    async def _round_over(
        self, t: int, x: Tensor, moves: int | None, left: Training | None = None
    ) -> None:
        """A round is over, which this life has trained, or an earlier one as is `left` of it."""
        work, core = self._work, self.core
        measured: Measured | None = None
        if work.evaluate_every and (t % work.evaluate_every == 0 or t == core.last_round):
            (measured,) = await self._trained("rest", work.trainer.evaluate, x)
            if self._models is not None:
                own = measured.value if measured.local is None else measured.local
                self._models.scored(x[0], t, own)
        norm = core.injected_norm if core.injected_norm is not None else float("nan")
        began = time.perf_counter()
        mixed = core.mixed_neighbours
        trainer = work.trainer
        loss, episodes = (
            (float(trainer.losses[0]), trainer.trajectories)
            if left is None
            else (left.loss, left.trajectories)
        )
        outcome = RoundOutcome(
            t, loss, measured, norm, mixed, core.missing, episodes, moves, core.weightless
        )
        for observer in self._observers:
            observer.round_over(outcome, core)
        self.seconds["rest"] += time.perf_counter() - began
        await self._keep_model(x, t)

    async def _keep_model(self, x: Tensor, t: int) -> None:
        """Save the model (1, dim) of round t now and then, so that a death costs little of it."""
        if self._models is None or self._now() < self._model_due_s:
            return
        began = self._now()
        await self._trained("rest", self._models.save, x[0], t)
        await self._trained("rest", self._models.save_best)
        took = self._now() - began
        self._model_due_s = began + max(MODEL_EVERY_S, took / MODEL_SAVES_MAX)

    async def _timed(self, phase: str, job: Callable[..., T], *args: object) -> T:
        """Run a job in the thread for evidence and mixing, and add its time to a phase."""
        return await self._within(self._compute, phase, job, *args)

    async def _trained(self, phase: str, job: Callable[..., T], *args: object) -> T:
        """The same in the thread for training."""
        return await self._within(self._training, phase, job, *args)

    async def _within(
        self, thread: ThreadPoolExecutor, phase: str, job: Callable[..., T], *args: object
    ) -> T:
        def timed() -> T:
            began = time.perf_counter()
            try:
                return job(*args)
            finally:
                self.seconds[phase] += time.perf_counter() - began

        return await self._loop.run_in_executor(thread, timed)

    # --- effects ----------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        """Do effects in order; what follows a Persist waits until it is on disk."""
        if self._closed:
            return
        self._pending.extend(effects)
        if not self._persisting:
            self._drain()

    def _drain(self) -> None:
        while self._pending:
            effect = self._pending.popleft()
            if isinstance(effect, Persist):
                self._persisting = True
                self._reached(BEFORE_PERSIST)
                began = time.perf_counter()
                future = self._store.commit(effect.operations)
                future.add_done_callback(partial(self._persisted_soon, effect, began))
                return
            try:
                self._do(effect)
            except OSError as exc:  # raised in a callback, it would end nothing
                if exc.errno not in OUT_OF_DESCRIPTORS:
                    self._fail(exc)
                    continue
                self._pending.appendleft(effect)
                self._persisting = True  # strangers hold them for seconds: nothing else is done
                self._loop.call_later(TICK_S, self._do_again)
                return

    def _do_again(self) -> None:
        self._persisting = False
        if not self._closed:
            self._drain()

    def _persisted_soon(self, persist: Persist, began: float, done: Future[None]) -> None:
        self._loop.call_soon_threadsafe(self._persisted, persist, done, began)

    def _persisted(self, persist: Persist, done: Future[None], began: float) -> None:
        self.seconds["settle"] += time.perf_counter() - began
        self._persisting = False
        if self._closed:
            return
        error = done.exception()
        if error is not None:
            self._fail(error)
            return
        self._reached(AFTER_PERSIST)
        puts = (one for one in persist.operations if isinstance(one, PutValue))
        for bill in (put.value for put in puts if put.key.startswith(BILL_KEY)):
            if self._kept is not None:
                self._kept.billed(bill)
        self._drain()

    def _reached(self, failpoint: str) -> None:
        if self._probe is not None:
            self._probe.reached(failpoint)

    def _to_transport(self, send: Send | HangUp) -> None:
        if isinstance(send, HangUp):
            self._transport.hang_up(send.peer)
            return
        if self._probe is not None:
            self._probe.before_send(send.envelope)
        self._transport.post(send.peer, encode(send.envelope), bulk_round=send.bulk_step)
        if self._probe is not None:
            self._probe.after_send(send.envelope)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send() | HangUp():
                self._to_transport(effect)
            case Verify(peer, update):
                job = partial(judge, update, self.core.examiner, self.core.codec)
                self._in_worker("verify", job, self._verified(peer, update))
            case Begin():
                self._begun.set_result(_Start(self._x, 1, {}))
            case Resume():
                self._resume(effect)
            case Derive():
                agent = self.core.settings.agent
                row = partial(derive, effect, self.core.examiner, agent)
                self._in_worker("mix", row, lambda made: self._perform(self.core.derived(made)))
            case Combine():
                if self._kept is not None and not effect.reentry:
                    self._in_worker("keep", self._keeping(effect), lambda _: None)
                self._in_worker("mix", partial(self._combine, effect), self._mixed(effect))
            case Remember(snapshot):
                self._reached(BEFORE_SNAPSHOT)
                self._snapshot.replace(snapshot)
                self._reached(AFTER_SNAPSHOT)
            case ReadRecords(channel_id, first, count):
                self._in_worker(
                    "settle",
                    lambda: self._store.records(channel_id, first, count),
                    lambda records: self._perform(
                        self.core.records_read(channel_id, records, self._now())
                    ),
                )
            case Show():
                self._in_background(self._show(effect))
            case Judge():
                self._to_judge.put_nowait(effect)
            case Log(level, event, fields):
                self._journal.log(level, event, fields)
            case Finished():
                self._end(effect)
            case Persist():
                raise AssertionError("performed by _drain")

    def _resume(self, resume: Resume) -> None:
        """Go on with what an earlier life has kept."""
        assert self._checkpoints is not None
        left = self._checkpoints.left
        assert left is not None
        x, state = torch.from_numpy(left.vector)[None], dict(left.state)
        if not resume.inside:
            self._begun.set_result(_Start(x, resume.round + 1, state))
            return
        self._resumed = self._driver(x, resume.round, state)
        self._mixes = self._resumed.mixes(resume.phase)
        if (signed := self.core.book.last(self.core.settings.agent)) is not None:
            for observer in self._observers:
                observer.stated(signed.statement)

    def _end(self, ended: Finished | BaseException) -> None:
        if not self._finished.done():
            self._finished.set_result(ended)

    def _fail(self, why: Finished | BaseException) -> None:
        """A write failed: the core goes by what is not on disk, so that nothing of what it asks
        for, now or until all tasks have ended, is done any more. Its promises stay unmade."""
        self._pending.clear()
        self._closed = True
        self._end(why)

    def _in_background(self, job: Coroutine[object, object, None]) -> None:
        """What the run goes on without; a failure of it ends the daemon all the same."""
        task = self._loop.create_task(job)
        self._background.add(task)

        def finish(task: "asyncio.Task[None]") -> None:
            self._background.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fail(error)

        task.add_done_callback(finish)

    def _in_worker(self, phase: str, job: Callable[[], T], done: Callable[[T], None]) -> None:
        task = self._loop.create_task(self._timed(phase, job))

        def finish(task: "asyncio.Task[T]") -> None:
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                done(task.result())
            else:
                self._fail(error)

        task.add_done_callback(finish)

    def _verified(self, peer: str, update: Arrived) -> Callable[[Examined | EvidenceError], None]:
        return lambda outcome: self._perform(self.core.verified(peer, update, outcome, self._now()))

    def _combine(self, combine: Combine) -> Tensor | Heard:
        agent, trainer = self.core.settings.agent, self._work.trainer
        if isinstance(trainer, Overhears) and trainer.overhears and not combine.reentry:
            trainer.overheard(combine.phase, {0: overheard(combine, agent)})
        return combined(combine, agent, mixes=self._mixes)

    def _keeping(self, combine: Combine) -> Callable[[], None]:
        """What keeps an exchange: in the thread that then mixes it, which lends its payloads."""
        assert self._kept is not None
        core, agent = self.core, self.core.settings.agent
        held = core.book.statements(core.step)
        sources = core.book.witnesses(held[agent].statement)
        last = combine.phase == core.phases.model
        echoes = core.echoes(combine) if combine.phase == 0 else ()
        return partial(self._kept.exchanged, combine, held, sources, echoes, last=last)

    def _mixed(self, combine: Combine) -> Callable[[Tensor | Heard], None]:
        def mixed(answer: Tensor | Heard) -> None:
            if isinstance(answer, Tensor) and combine.phase == self.core.phases.model:
                self._x, self._rounds_behind = answer, combine.round
            self._perform(self.core.combined(self._now()))
            if self._combined is not None and not self._combined.done():
                self._combined.set_result((answer, combine.reentry))
            elif not self._begun.done():
                resumed = None if combine.reentry else self._resumed
                state = {} if resumed is None else resumed.state
                self._begun.set_result(_Start(answer, combine.round + 1, state, resumed))

        return mixed

    def link_bytes(self) -> Mapping[str, tuple[int, int]]:
        """(sent, received) by neighbour."""
        links = {peer: self._transport.link(peer) for peer in self.core.neighbours}
        return {peer: (link.bytes_sent, link.bytes_received) for peer, link in links.items()}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of several failures: the others follow from it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _model(answer: Tensor | Heard) -> Tensor:
    """The models (1, dim) that an exchange of them gave."""
    assert isinstance(answer, Tensor)
    return answer
