"""What a round costs: real daemons without training, next to the raw exchange of the same bytes.

Every agent is a process of its own that runs the daemon with a trainer that only adds a fixed
vector; digest, sketch, signature, encryption, verification, mixing and settlement are the real
ones. Wall times are the slowest agent's; the operations inside a round are timed again one by one
in processor time, which other processes on the same cores do not disturb.
"""

import asyncio
import inspect
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch

from candor.agent.algorithms.catalogue import check_breakdown
from candor.agent.core.agent import AgentCore
from candor.agent.core.settlement.evidence_book import EvidenceBook
from candor.agent.core.settlement.settlement import Settlement
from candor.agent.core.terms import channel_terms
from candor.agent.daemon import keys
from candor.agent.daemon.checkpoint import CheckpointFile, Training
from candor.agent.daemon.daemon import Checkpoints, RoundOutcome, Work
from candor.agent.daemon.host import build_daemon
from candor.agent.daemon.journal import Journal
from candor.agent.daemon.snapshot import SnapshotFile
from candor.agent.daemon.store import FILE_NAME as STORE_NAME
from candor.agent.daemon.store import Store
from candor.agent.learning.given import GivenGradients
from candor.agent.runs.cluster_parts import LOOPBACK, entry_of
from candor.agent.studies.bench.raw_sockets import measure_floor
from candor.agent.studies.bench.simulation import MIB, peak_mib
from candor.agent.testbed.testbed import free_ports
from candor.mechanisms.evidence.examiner import Examiner
from candor.mechanisms.evidence.statements import (
    PAYLOAD_DOMAIN,
    Row,
    SignedStatement,
    Statement,
)
from candor.network.messages import Update, to_envelope
from candor.network.transport import TransportLimits
from candor.network.wire import NONCE_BYTES, encode
from candor.topologies.cluster.file import (
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    dump_cluster,
    load_cluster,
    model_digest,
)
from candor.topologies.encoding.canonical import payload_digest
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.graphs import graphs
from candor.topologies.schedules import schedules

WARM_UP_ROUNDS: Final = 2
TURNS: Final = 2  # of plain and robust rounds each: a machine is not as fast all the time
PLAIN: Final = AlgorithmSettings()
ROUND_DEADLINE_S: Final = 60.0
CHECKPOINTS: Final = 5
PHASES: Final = ("train", "state", "send", "wait", "verify", "mix")  # of a round, one after another


@dataclass(frozen=True, slots=True)
class Measured:
    """One agent's figures: round ends on the monotonic clock; mean seconds of a round, its phases,
    which add up to it, and what runs beside it; processor seconds of single operations, and of a
    round in the whole process, in evidence and in settlement."""

    ends_s: tuple[float, ...]
    mean_s: float
    phases: Mapping[str, float]
    beside: Mapping[str, float]
    operations: Mapping[str, float]
    processor: Mapping[str, float]
    memory_mib: float


@dataclass(frozen=True, slots=True)
class RoundCost:
    """What `candor bench round` prints; all in seconds a round but the shares and the last two.

    `mean_seconds_per_round`: of an agent; its `phases`, `rest` the last, add up to it. What is
    `beside` them runs at the same time; `operations` are processor seconds of what phases are made
    of, each timed again alone. The shares are those of `processor_seconds_per_round`, an agent's
    mean over rounds, the settlement of the last window among it. `checkpoint_seconds`: gathering
    and writing one, synced; `checkpoint_share`: which part of the time that is in a run.
    """

    seconds_per_round: float
    floor_seconds_per_round: float
    floor_curve_seconds_per_round: float
    mean_seconds_per_round: float
    phases: Mapping[str, float]
    beside: Mapping[str, float]
    operations: Mapping[str, float]
    processor_seconds_per_round: float
    evidence_share: float
    settlement_share: float
    memory_mib_per_agent: float
    payload_mib: float
    checkpoint_seconds: float
    checkpoint_share: float


class _Meter:
    """Processor seconds inside the functions of some classes, by part; calls inside one another
    count for the outermost, whatever its part."""

    def __init__(self, parts: Mapping[str, Sequence[type]]) -> None:
        """Replaces the functions of the classes in this process, for good."""
        self.seconds = dict.fromkeys(parts, 0.0)
        self._inside = threading.local()
        for part, classes in parts.items():
            for owner in classes:
                for name, function in vars(owner).items():
                    if inspect.isfunction(function) and not name.startswith("__"):
                        setattr(owner, name, self._metered(part, function))

    def _metered(self, part: str, function: Callable[..., object]) -> Callable[..., object]:
        def metered(*args: object, **kwargs: object) -> object:
            if getattr(self._inside, "any", False):
                return function(*args, **kwargs)
            self._inside.any = True
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.thread_time() - began
                self._inside.any = False

        return metered

    def spent(self) -> dict[str, float]:
        """Processor seconds so far, of the parts and of the whole process."""
        return {**self.seconds, "whole": time.process_time()}


class _Stopwatch:
    """Notes when rounds end, and what had been spent by the end of the warm-up."""

    def __init__(self, rounds: int, meter: _Meter) -> None:
        self._rounds, self._meter = rounds, meter
        self._spent: dict[str, float] = {}
        self.ends_s: list[float] = []
        self.seconds: Mapping[str, float] = {}
        self._warm: dict[str, float] = {}
        self._io_s = 0.0

    def started(self, core: AgentCore) -> None:
        """Nothing to note."""

    def stated(self, statement: Statement) -> None:
        """Nothing to note."""

    def ticked(self, core: AgentCore) -> None:
        """Nothing to note."""

    def round_over(self, outcome: RoundOutcome, core: AgentCore) -> None:  # noqa: ARG002
        """Note the end of a round."""
        self.ends_s.append(time.monotonic())
        if outcome.round == WARM_UP_ROUNDS:
            self._warm = dict(self.seconds)
            self._spent = self._meter.spent()
            self._io_s -= _io_thread_seconds()
        if outcome.round == self._rounds:  # later the threads are gone
            self._io_s += _io_thread_seconds()

    def measured(self, examiner: Examiner, key: SigningKey, agent: str) -> Measured:
        """The figures of this agent: means over the rounds after the warm-up."""
        counted = len(self.ends_s) - WARM_UP_ROUNDS
        spent = self._meter.spent()
        processor = {part: (spent[part] - self._spent[part]) / counted for part in spent}
        walls = {name: (self.seconds[name] - self._warm[name]) / counted for name in self.seconds}
        mean_s = (self.ends_s[-1] - self.ends_s[WARM_UP_ROUNDS - 1]) / counted
        phases = {name: walls[name] for name in PHASES}
        phases["rest"] = mean_s - sum(phases.values())
        beside = {"settle": walls["settle"], "encrypt_send": self._io_s / counted}
        operations = _operations(examiner, key, agent)
        ends = tuple(self.ends_s)
        return Measured(ends, mean_s, phases, beside, operations, processor, peak_mib())


def measure_round(agents: int, topology: str, parameters: int, rounds: int) -> RoundCost:
    """Run the daemons and the raw exchange one after the other; medians over rounds."""
    graph = graphs.build(topology, agents)
    order = {agent: index for index, agent in enumerate(graph)}
    edges = [(order[u], order[v]) for u, v in graph.edges]
    payload_bytes, chunk_bytes = 4 * parameters, TransportLimits().chunk_bytes

    def floor(curve: bool) -> float:
        seconds = measure_floor(edges, len(order), payload_bytes, rounds, curve, chunk_bytes)
        return median(seconds[WARM_UP_ROUNDS:])

    measured = _run_daemons(list(graph), topology, parameters, rounds)
    lasts = np.max([one.ends_s for one in measured], axis=0)  # (rounds,), the slowest agent
    spent = np.diff(lasts)[WARM_UP_ROUNDS - 1 :]
    whole = sum(one.processor["whole"] for one in measured)

    def means(name: str) -> dict[str, float]:
        found: list[Mapping[str, float]] = [getattr(one, name) for one in measured]
        return {part: float(np.mean([each[part] for each in found])) for part in found[0]}

    return RoundCost(
        seconds_per_round=float(np.median(spent)),
        floor_seconds_per_round=floor(curve=False),
        floor_curve_seconds_per_round=floor(curve=True),
        mean_seconds_per_round=float(np.mean([one.mean_s for one in measured])),
        phases=means("phases"),
        beside=means("beside"),
        operations=means("operations"),
        processor_seconds_per_round=whole / len(measured),
        evidence_share=sum(one.processor["evidence"] for one in measured) / whole,
        settlement_share=sum(one.processor["settlement"] for one in measured) / whole,
        memory_mib_per_agent=max(one.memory_mib for one in measured),
        payload_mib=payload_bytes / MIB,
        **_checkpoint_cost(parameters),
    )


def _checkpoint_cost(parameters: int) -> dict[str, float]:
    """Median seconds of gathering and writing a checkpoint, here, and their share of the time."""
    vector = np.random.default_rng(0).standard_normal(parameters, dtype=np.float32)
    spent, shares = [], []
    for _ in range(CHECKPOINTS):
        with tempfile.TemporaryDirectory(prefix="candor-bench-") as place:
            file = CheckpointFile(Path(place), "")
            began = time.monotonic()
            file.write(file.encode(Training(1, 1, vector, {}, 0.0)))
            spent.append(time.monotonic() - began)
            shares.append(spent[-1] / (file.due_s - began))
    return {"checkpoint_seconds": median(spent), "checkpoint_share": median(shares)}


@dataclass(frozen=True, slots=True)
class RobustCost:
    """What `candor bench round` prints with `--aggregator`, `--rewards` or `--influence`: seconds a
    round, the slowest agent's median, by the graph's weights alone and by these, and the ratio of
    the two; the same of processor seconds, an agent's mean, which other work on the machine does
    not disturb; and the mean seconds of an agent's phases, of both."""

    aggregator: str | None
    rewards: str | None
    influence: float | None
    plain_seconds_per_round: float
    robust_seconds_per_round: float
    ratio: float
    plain_processor_seconds: float
    robust_processor_seconds: float
    processor_ratio: float
    plain_phases: Mapping[str, float]
    robust_phases: Mapping[str, float]


def measure_robust_round(
    agents: int, topology: str, parameters: int, rounds: int, robust: AlgorithmSettings
) -> RobustCost:
    """Run daemons by the graph's weights and with an aggregator or rewards, in turns, and compare
    medians.

    Raises:
        ConfigurationError: that is unknown, or agents have too few neighbours for the aggregator.
    """
    ids = list(graphs.build(topology, agents))
    ways = {"plain": AlgorithmSettings(), "robust": robust}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    phases: dict[str, list[Mapping[str, float]]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, algorithm in ways.items():
            measured = _run_daemons(ids, topology, parameters, -(-rounds // TURNS), algorithm)
            lasts = np.max([one.ends_s for one in measured], axis=0)
            spent[way] += np.diff(lasts)[WARM_UP_ROUNDS - 1 :].tolist()
            phases[way] += [one.phases for one in measured]
            processor[way] += [one.processor["whole"] for one in measured]
    means = {
        way: {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        for way, found in phases.items()
    }
    plain, slower = median(spent["plain"]), median(spent["robust"])
    lighter, heavier = (float(np.mean(processor[way])) for way in ways)
    return RobustCost(
        aggregator=robust.aggregator,
        rewards=robust.rewards,
        influence=robust.influence,
        plain_seconds_per_round=plain,
        robust_seconds_per_round=slower,
        ratio=slower / plain,
        plain_processor_seconds=lighter,
        robust_processor_seconds=heavier,
        processor_ratio=heavier / lighter,
        plain_phases=means["plain"],
        robust_phases=means["robust"],
    )


def _run_daemons(
    ids: Sequence[str],
    topology: str,
    parameters: int,
    rounds: int,
    algorithm: AlgorithmSettings = PLAIN,
) -> list[Measured]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as scratch:
        run_dir = Path(scratch)
        _write_cluster(run_dir, ids, topology, parameters, rounds + WARM_UP_ROUNDS, algorithm)
        children = []
        for agent in ids:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(run_dir, agent, theirs), daemon=True)
            process.start()
            theirs.close()
            children.append((process, ours))
        try:
            return [_answer(ours) for _, ours in children]
        finally:
            for process, _ in children:
                process.join(timeout=ROUND_DEADLINE_S)
                process.kill()


def _answer(pipe: Connection) -> Measured:
    try:
        answer = pipe.recv()
    except EOFError as exc:
        raise RuntimeError("an agent of the benchmark died") from exc
    assert isinstance(answer, Measured)
    return answer


def _write_cluster(
    run_dir: Path,
    ids: Sequence[str],
    topology: str,
    parameters: int,
    rounds: int,
    algorithm: AlgorithmSettings,
) -> None:
    entries = []
    for agent, port in zip(ids, free_ports(len(ids)), strict=True):
        keys.generate(run_dir / agent)
        entries.append(entry_of(agent, run_dir / agent, f"tcp://{LOOPBACK}:{port}"))
    cluster = assemble_cluster(
        run_id="bench",
        seed=0,
        graph=schedules.build(topology, len(ids)),
        agents=entries,
        task=TaskSettings(
            name="fixed",
            parameters=parameters,
            model_digest=model_digest(np.zeros(parameters, np.float32)),
        ),
        algorithm=algorithm,
        rounds=RoundSettings(rounds=rounds, deadline_s=ROUND_DEADLINE_S),
        payments=PaymentSettings(),
    )
    check_breakdown(cluster)
    (run_dir / "cluster.toml").write_text(dump_cluster(cluster), encoding="utf-8")


def _child(run_dir: Path, agent: str, pipe: Connection) -> None:
    """One agent of the benchmark, in a process of its own."""
    torch.set_num_threads(1)
    meter = _Meter({"evidence": (Examiner, EvidenceBook), "settlement": (Settlement, Store)})
    cluster = load_cluster(run_dir / "cluster.toml")
    data_dir = run_dir / agent / "data"
    data_dir.mkdir()
    identity = keys.load(run_dir / agent)
    terms = list(channel_terms(cluster, agent).values())
    with ExitStack() as stack:
        store = stack.enter_context(
            Store.open(data_dir / STORE_NAME, fingerprint=cluster.fingerprint, channels=terms)
        )
        journal = Journal(agent, data_dir, logging.WARNING)
        stack.callback(journal.close)
        watch = _Stopwatch(cluster.rounds.rounds, meter)
        work = _work(cluster, agent)
        daemon = build_daemon(
            *(
                cluster,
                agent,
                identity,
                store,
                work,
                journal,
                [watch],
                SnapshotFile(data_dir),
                None,
            ),
            checkpoints=Checkpoints(CheckpointFile(data_dir, cluster.fingerprint)),
            bulk_port=0,
        )
        watch.seconds = daemon.seconds
        result = asyncio.run(daemon.run())
        if result.failure is not None:
            raise RuntimeError(result.failure)
        pipe.send(watch.measured(daemon.core.examiner, identity.signing_key, agent))


def _work(cluster: Cluster, agent: str) -> Work:
    """The same small update in every round: no training, and nothing vanishes."""
    dim = cluster.task.parameters
    noise = np.random.default_rng(cluster.index(agent)).standard_normal(dim, dtype=np.float32)
    update = noise * np.float32(1e-3)
    return Work(
        algorithm=cluster.algorithm,
        trainer=GivenGradients(lambda _t: update),
        initial=torch.zeros(dim),
        rounds=cluster.rounds.rounds,
        evaluate_every=0,
    )


def _operations(examiner: Examiner, key: SigningKey, agent: str) -> dict[str, float]:
    """Processor seconds of the operations that a round does once, by name."""
    payload = np.random.default_rng(0).standard_normal(examiner.terms.dim, dtype=np.float32)
    statement = examiner.state(1, 0, agent, payload, (Row(((agent, 1.0),)),))
    signed = SignedStatement.sign(statement, key)
    of_payload = key.sign(PAYLOAD_DOMAIN, signed.sending(statement.digest))
    update = Update(signed.body, signed.signature, payload.nbytes, of_payload)
    return {
        "serialise": _cost(lambda: encode(to_envelope(update, bytes(NONCE_BYTES)))),
        "digest": _cost(lambda: payload_digest(payload.data.cast("B"))),
        "sketch": _cost(lambda: examiner.sketch(0)(payload)),
        "fresh": _cost(lambda: examiner.fresh_sketch(statement)(payload)),
        "sign": _cost(lambda: SignedStatement.sign(statement, key)),
    }


def _cost(operation: Callable[[], object], repeats: int = 9) -> float:
    """Median processor seconds of one call on this thread."""
    spent = []
    for _ in range(repeats):
        began = time.thread_time()
        operation()
        spent.append(time.thread_time() - began)
    return median(spent)


def _io_thread_seconds() -> float:
    """Processor seconds of libzmq's I/O threads so far, which encrypt, decrypt and copy to the
    kernel; 0 where the system does not tell (other than Linux)."""
    ticks = 0
    for stat in Path("/proc/self/task").glob("*/stat"):
        name, _, rest = stat.read_text().rpartition(")")
        if "ZMQbg/IO" in name:
            user, system = rest.split()[11:13]
            ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")
