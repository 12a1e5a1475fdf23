"""One daemon on its host: reads keys and cluster file, runs, and leaves its outputs."""

import asyncio
import errno
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Final

import torch
from torch import Tensor

from candor.agent.algorithms.catalogue import check_breakdown, coin_of, phases_of
from candor.agent.core.assembly import assemble
from candor.agent.core.deviating import reporting_of
from candor.agent.core.earlier import Checkpoint
from candor.agent.core.succession import number_of
from candor.agent.daemon import keys, organisers, tensorboard
from candor.agent.daemon.callback import RoundCallback
from candor.agent.daemon.checkpoint import CheckpointFile
from candor.agent.daemon.daemon import Checkpoints, Daemon, Observer, Result, Work
from candor.agent.daemon.exports import write_exports
from candor.agent.daemon.failpoints import Probe
from candor.agent.daemon.journal import (
    BYTES_MAX,
    ENDED,
    FAILED,
    KEPT,
    Format,
    Journal,
    log_event,
    tell,
)
from candor.agent.daemon.judging import Judging
from candor.agent.daemon.kept_rounds import KeptRounds
from candor.agent.daemon.model_file import ModelFile
from candor.agent.daemon.recorder import Recorder
from candor.agent.daemon.revision_dirs import hand_on, in_use, move_on, open_store
from candor.agent.daemon.revision_file import RevisionFile
from candor.agent.daemon.room import Room, first_cause, lacks_room
from candor.agent.daemon.snapshot import SnapshotFile
from candor.agent.daemon.status import DataDirLock, State, Status, read_status
from candor.agent.daemon.store import Store, StoreError
from candor.agent.daemon.tensorboard import TensorBoard
from candor.agent.exits import INTERRUPTED
from candor.agent.learning.committed import OwnSamples, check_shown, own_data
from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.learning.ranks import (
    ALONE,
    Group,
    Leading,
    ProcessGone,
    Ranks,
    follow,
    joined,
    ranks_of,
)
from candor.agent.learning.rows import LoadData, TrainedRows, learner_of, usable_device
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.network.identity import Identity
from candor.network.transport import PeerAddress, TransportLimits
from candor.network.wire import NONCE_BYTES
from candor.network.zeromq.transport import ZeroMqTransport
from candor.topologies.cluster.file import Cluster, load_cluster
from candor.topologies.cluster.revisions import continues
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.fields import distinct_binds, split_bind, split_endpoint
from candor.topologies.specs.files import private_files, system_errors
from candor.topologies.specs.specs import ConfigurationError, located

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STATES: Final[Mapping[int, State]] = {0: "done", INTERRUPTED: "interrupted"}


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What is this host's own business; everything shared is in the cluster file."""

    agent: str
    keys: Path
    data_dir: Path
    listen: tuple[str, ...] = ()
    dials: Mapping[str, str] = field(default_factory=dict)
    bulk_port: int | None = 0
    organiser: str | None = None
    strategy: str = "honest"
    initial: Path | None = None
    data_root: Path | None = None
    evaluate_every: int = 1
    device: str = "cpu"
    tensorboard: Path | None = None
    threads: int | None = None
    log_level: int = logging.INFO
    log_format: Format = "text"
    log_file: Path | None = None
    log_bytes_max: int = BYTES_MAX
    log_kept: int = KEPT
    record_sketches: bool = False
    exit_with_parent: bool = False


@private_files()
def run_agent(cluster_path: Path, settings: HostSettings) -> tuple[str | None, int]:
    """Run a daemon to its end; answers with one line on what kept it from that, if anything, and
    the exit code. A run that this directory has finished is not run again, and nothing is touched;
    who has left it goes on by a later revision that has it in again.

    Raises:
        ConfigurationError: anything wrong with cluster file, keys, addresses, task, strategy,
            directory or failpoint.
        SignatureError: the file is not signed as it should be, or not by whom.
        TransportError: the endpoint cannot be bound.
    """
    probe = Probe.from_environment(os.environ)
    given = load_cluster(cluster_path)
    organisers.check_signer(given, cluster_path, settings.organiser, settings.keys)
    cluster = in_use(settings.data_dir, given)
    ended = _ended(settings.data_dir, cluster)
    if ended is not None and ended.left is not None and continues(cluster, given):
        if settings.agent not in given.ids:
            return _gone_on_without(settings.agent, given), 0
        cluster, ended = given, None
    _check_addresses(cluster, settings)
    identity = keys.load_of(cluster.agent(settings.agent), settings.keys)
    if ended is not None:
        how = "this run is done"
        if ended.left is not None:
            how = f"{settings.agent} left this run after round {ended.left}"
        return f"{how}; model, metrics and ledger are in {settings.data_dir}", 0
    if settings.tensorboard is not None:
        tensorboard.require()
    brought = RevisionFile(cluster_path, started_with=cluster is given)
    with joined(ranks_of(os.environ)) as group:
        work, rows = prepare(cluster, settings, group)
        if group is not None and not group.ranks.leads:
            gone = follow(rows.learner, group)
            return gone, 0 if gone is None else 1
        try:
            return _lead(cluster, identity, settings, work, rows, probe, brought)
        finally:
            if isinstance(rows.learner, Leading):
                rows.learner.end()


def _lead(
    cluster: Cluster,
    identity: Identity,
    settings: HostSettings,
    work: Work,
    rows: TrainedRows,
    probe: Probe | None,
    brought: RevisionFile,
) -> tuple[str | None, int]:
    """`run_agent` of the process that is the agent."""
    _make_data_dir(settings.data_dir)
    try:
        with DataDirLock(settings.data_dir):
            return _memberships(cluster, identity, settings, work, rows, probe, brought)
    except (MalformedError, StoreError, OSError) as exc:
        return f"{settings.data_dir}: {_told(exc)}", 1
    except ProcessGone as exc:
        return str(exc), 1


def _memberships(
    cluster: Cluster,
    identity: Identity,
    settings: HostSettings,
    work: Work,
    rows: TrainedRows,
    probe: Probe | None,
    brought: RevisionFile,
) -> tuple[str | None, int]:
    """One membership of the run after the other, to its end or that of the agent's part in it."""
    agent = settings.agent
    while True:
        result, heir = _lives(cluster, identity, settings, work, rows, probe, brought)
        if heir is None:
            return result.failure, result.exit_code
        if agent not in heir.ids:
            return _gone_on_without(agent, heir), 0
        if isinstance(rows.learner, Leading):
            return f"start its processes again to go on by revision {number_of(heir)}", 0
        identity = keys.load_of(heir.agent(agent), settings.keys)
        if not _trains_alike(cluster, heir, settings):
            work, rows = prepare(heir, settings)
        cluster = heir


def _trains_alike(cluster: Cluster, heir: Cluster, settings: HostSettings) -> bool:
    """Whether this agent trains on the same samples with another membership, and needs to know no
    more of it: then nothing is read anew while the others wait."""
    agent = settings.agent
    same_place = cluster.index(agent) == heir.index(agent) and len(cluster.ids) == len(heir.ids)
    same_rounds = cluster.rounds.rounds == heir.rounds.rounds
    return same_place and same_rounds and settings.strategy == "honest"


def _lives(
    cluster: Cluster,
    identity: Identity,
    settings: HostSettings,
    work: Work,
    rows: TrainedRows,
    probe: Probe | None,
    brought: RevisionFile,
) -> tuple[Result, Cluster | None]:
    """One life, and others where one ended for want of room and there is room again. Not of several
    processes, which others would have to be told of. Answers besides with what the run goes on by,
    None at its end."""
    room, alone = _room(settings, work), not isinstance(rows.learner, Leading)
    while True:
        try:
            return _life(cluster, identity, settings, work, rows, probe, brought)
        except (StoreError, OSError) as exc:
            if not alone or not lacks_room(exc):
                raise
            _tell(settings, "no_room", {"detail": f"{_cause(exc)}; waiting for room"})
            if (waited_s := room.awaited()) is None:
                raise
        _tell(settings, "room_again", {"waited_s": round(waited_s, 1)})
        work, rows = prepare(cluster, settings)


def _room(settings: HostSettings, work: Work) -> Room:
    """The room that another life needs: that of a model, four times, beside what any run does."""
    places = {settings.data_dir, (settings.log_file or settings.data_dir / "log").parent}
    parent = os.getppid()
    return Room(
        places,
        4 * work.initial.numel() * work.initial.element_size(),
        lambda: not settings.exit_with_parent or os.getppid() == parent,
    )


def _tell(settings: HostSettings, event: str, fields: Mapping[str, str | float]) -> None:
    """A warning to whoever watches, between two lives."""
    if settings.log_level <= logging.WARNING:
        tell(settings.agent, settings.log_format, event, fields)


def _life(
    cluster: Cluster,
    identity: Identity,
    settings: HostSettings,
    work: Work,
    rows: TrainedRows,
    probe: Probe | None,
    brought: RevisionFile,
) -> tuple[Result, Cluster | None]:
    """From what is on disk to the end of the membership, or of this life."""
    with ExitStack() as stack:
        moved = move_on(settings.data_dir, cluster, settings.agent, identity.signing_key)
        store = stack.enter_context(open_store(settings.data_dir, cluster, settings.agent))
        learner, place = rows.learner, settings.data_dir
        models = ModelFile(
            *(place, cluster.run, learner.state_dict, learner.private),
            cluster.task.better_values,
        )
        checkpoints = _checkpoints(cluster, place, learner.private)
        learner.restore(_private(models, checkpoints))
        if not isinstance(learner, Leading):  # of several processes one may have failed alone
            rows.tell = partial(_sat_out, agent=settings.agent)
        kept = kept_rounds(cluster, settings, learner.private, identity.signing_key)
        result, heir = _run(
            *(cluster, identity, settings, work, store, models, stack, probe, moved, kept),
            *(checkpoints, brought),
        )
        if heir is not None and settings.agent in heir.ids:
            hand_on(settings.data_dir, heir)
        return result, heir


def _checkpoints(
    cluster: Cluster, data_dir: Path, private: Callable[[], bytes]
) -> Checkpoints | None:
    """Where the agent keeps its training; nowhere if rounds are done again, which begin anew with
    what is kept of them."""
    if cluster.payments.replay is not None:
        return None
    file = CheckpointFile(data_dir, cluster.run)
    return Checkpoints(file, private, file.read())


def _private(models: ModelFile, checkpoints: Checkpoints | None) -> bytes:
    """What an earlier life has kept to itself last: with its model, or in a checkpoint."""
    left = None if checkpoints is None else checkpoints.left
    if left is None or not left.private or left.round < models.private_round:
        return models.private_before
    return left.private


def _sat_out(t: int, why: str, agent: str) -> None:
    """Training failed in a round: said, and the model stays what it was."""
    log_event(agent, logging.WARNING, "round_sat_out", {"round": t, "detail": why})


def _ended(data_dir: Path, cluster: Cluster) -> Status | None:
    """The last status, if the agent's part in this run has ended here: all is written, and its
    neighbours have left, or it has left them."""
    try:
        status = read_status(data_dir)
    except (
        ConfigurationError
    ):  # none, or one that a power cut has left half written: not of the end
        return None
    ended = (status.state, status.fingerprint) == ("done", cluster.fingerprint)
    return status if ended else None


def _gone_on_without(agent: str, heir: Cluster) -> str:
    return f"the run goes on without {agent} from revision {number_of(heir)} on"


def _told(exc: BaseException) -> str:
    """What went wrong, and what can be done about it."""
    first = first_cause(exc)
    if isinstance(first, OSError) and first.errno in _NO_ROOM:
        return f"{first.strerror}; make room and start again, nothing settled is lost"
    return str(first)


def _cause(exc: BaseException) -> str:
    """What the system lacks, in its words."""
    first = first_cause(exc)
    return (first.strerror if isinstance(first, OSError) else None) or str(first)


def _check_addresses(cluster: Cluster, settings: HostSettings) -> None:
    """Addresses in their form only: whether this host has them may change until it is started."""
    for place in settings.listen:
        with located("--listen"):
            split_bind(place)
    for place in settings.dials.values():
        with located("--dial"):
            split_endpoint(place)
    if strangers := settings.dials.keys() - set(cluster.neighbours(settings.agent)):
        raise ConfigurationError(f"--dial {min(strangers)}=…: no neighbour of {settings.agent}")


def prepare(
    cluster: Cluster,
    settings: HostSettings,
    group: Group | None = None,
    given: LoadData | None = None,
) -> tuple[Work, TrainedRows]:
    """The algorithm and the training of one agent on its own shard, together with other processes
    if there is a group; or on samples that are `given`, and not looked at beforehand."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    index, algorithm = cluster.index(settings.agent), cluster.algorithm
    phases_of(algorithm)
    check_breakdown(cluster)
    reporting = reporting_of(cluster, {settings.agent: settings.strategy}, settings.agent)
    shard = Shard(index, len(cluster.ids), cluster.task.partition)
    task = resolve_task(cluster.task.name, settings.data_root)
    initial = verified_initial_parameters(task, cluster.task, cluster.seed, settings.initial)
    lies, saved = reporting.by_agent(), settings.initial
    ranks = ALONE if group is None else group.ranks
    root = settings.data_root
    device = str(_device(settings.device, ranks))
    learner = learner_of(
        cluster, root, [shard], device, lies, initial=saved, ranks=ranks, given=given
    )
    if given is None:
        learner.check_samples(initial, [settings.agent])
    if group is not None and ranks.leads:
        learner = Leading(learner, group)

    def mass(t: int) -> Tensor:
        return torch.tensor([[cluster.memberships.of(t).mass[settings.agent]]])

    rows, held = TrainedRows(learner, reporting, mass), learner.samples(0)
    work = Work(
        algorithm=algorithm,
        trainer=rows,
        initial=initial,
        rounds=cluster.rounds.rounds,
        evaluate_every=settings.evaluate_every,
        exposure=None if held is None else cluster.exposure_of(held),
        device=device,
        on_round=getattr(task, "on_round", None),
        coin=coin_of(cluster),
    )
    return work, rows


def kept_rounds(
    cluster: Cluster,
    settings: HostSettings,
    private: Callable[[], bytes],
    key: SigningKey | None = None,
) -> KeptRounds | None:
    """Where the agent keeps rounds to be done again, None where its run does not ask for that;
    `private` is what its loop keeps to itself, `key` signs what it shows.

    Raises:
        ConfigurationError: the task is not usable, or its rounds cannot be shown.
    """
    if cluster.payments.replay is None:
        return None
    agent, root, shows = settings.agent, settings.data_root, cluster.payments.disclose is not None
    reporting = reporting_of(cluster, {agent: settings.strategy}, agent)
    strategy = reporting.by_agent().get(cluster.index(agent))
    data = own_data(cluster, agent, root, strategy)
    if shows:
        check_shown(cluster, agent, data)

    def committed(secret: bytes) -> OwnSamples:
        return OwnSamples(data, secret, shows=shows)

    return KeptRounds(settings.data_dir, cluster, agent, private, committed, key if shows else None)


def _judging(cluster: Cluster, settings: HostSettings) -> Judging | None:
    """Who does rounds of neighbours again, where they show them."""
    if cluster.payments.disclose is None:
        return None
    sketch_bytes = 8 * min(cluster.task.parameters, cluster.payments.sketch_size)
    return Judging(settings.data_dir, sketch_bytes, settings.data_root, settings.initial)


def _device(name: str, ranks: Ranks) -> torch.device:
    """Where this process trains: of several on a host, each on a card of its own."""
    found = usable_device(name)
    if ranks.together and found == torch.device("cuda"):
        found = usable_device(f"cuda:{ranks.local_rank}")
        torch.cuda.set_device(found)
    return found


def _make_data_dir(data_dir: Path) -> None:
    with system_errors(f"--data-dir {data_dir}"):
        data_dir.mkdir(parents=True, exist_ok=True)
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise ConfigurationError(f"--data-dir {data_dir}: not writable")


def _run(
    cluster: Cluster,
    identity: Identity,
    settings: HostSettings,
    work: Work,
    store: Store,
    models: ModelFile,
    stack: ExitStack,
    probe: Probe | None,
    moved: Path | None,
    kept: KeptRounds | None,
    checkpoints: Checkpoints | None,
    brought: RevisionFile,
) -> tuple[Result, Cluster | None]:
    agent, data_dir = settings.agent, settings.data_dir
    journal = _journal(settings)
    stack.callback(journal.close)
    if cluster.revision is not None:
        number, fingerprint = cluster.revision.number, cluster.fingerprint[:16]
        journal.log(logging.INFO, "revision", {"number": number, "fingerprint": fingerprint})
    if moved is not None:
        journal.log(logging.WARNING, "ledgers_moved", {"to": str(moved)})
    journal.log(logging.INFO, "device", {"device": work.device})
    if models.private_before:  # optimisers and whatever else the loop keeps
        journal.log(logging.INFO, "training_restored", {"round": models.private_round})
    if checkpoints is None:
        detail = "rounds that are kept begin anew: a restart goes on from a neighbour's model"
        journal.log(logging.INFO, "no_checkpoints", {"detail": detail})
    if work.exposure:
        journal.log(logging.WARNING, "exposed", {"detail": work.exposure})
    recorder = stack.enter_context(
        Recorder(
            data_dir,
            run_id=cluster.run_id,
            fingerprint=cluster.fingerprint,
            rounds=cluster.rounds.rounds,
            record_sketches=settings.record_sketches,
            taken=lambda t: cluster.memberships.of(t).taken[agent],
            metric=cluster.task.metric_name,
            better=cluster.task.better_values,
            since=cluster.memberships.joined(agent),
        )
    )
    observers: list[Observer] = [recorder]
    if settings.tensorboard is not None:
        board = TensorBoard(settings.tensorboard, agent, cluster.task.metric_name, journal)
        observers.append(stack.enter_context(board))
    if work.on_round is not None:
        callback = RoundCallback(
            work.on_round,
            journal,
            metric=cluster.task.metric_name,
            rounds=cluster.rounds.rounds,
            named=models.named,
        )
        observers.append(stack.enter_context(callback))
    daemon = build_daemon(
        cluster,
        agent,
        identity,
        store,
        work,
        journal,
        observers,
        SnapshotFile(data_dir),
        models,
        listen=settings.listen,
        dials=settings.dials,
        parent_pid=os.getppid() if settings.exit_with_parent else None,
        probe=probe,
        kept=kept,
        judging=_judging(cluster, settings),
        checkpoints=checkpoints,
        bulk_port=settings.bulk_port,
        revisions=brought.read,
    )
    journal.round = lambda: min(daemon.core.round, cluster.rounds.rounds)
    recorder.link_bytes = daemon.link_bytes
    recorder.last_error = lambda: journal.last_error
    if settings.tensorboard is not None:
        board.link_bytes = daemon.link_bytes
    if work.on_round is not None:
        callback.model = lambda: daemon.model[0]
    state: State = "failed"
    stop, reopen = daemon.interrupt, journal.ask_anew
    signals = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: reopen}
    with _handled(signals):
        try:
            try:
                result = asyncio.run(daemon.run())
            finally:
                models.save(*daemon.model)
                models.save_best()
            heir = None if result.exit_code or daemon.interrupted else daemon.core.succession.heir
            if heir is not None and agent in heir.ids:
                daemon.hand_on()
            elif result.exit_code != 0 or daemon.interrupted:
                daemon.keep()
            elif checkpoints is not None:
                checkpoints.file.remove()
            _export(store, cluster, agent, identity, data_dir)
            if heir is not None and agent in heir.ids:
                state = "settling"
                journal.log(logging.INFO, "goes_on", _gone_on(heir))
                return result, heir
            state = _STATES.get(result.exit_code, "failed")
            _tell_end(journal, result)
            return result, heir
        except Exception as exc:
            with suppress(OSError):  # it may be what has failed
                journal.log(logging.ERROR, FAILED, {"detail": _told(exc)})
            raise
        finally:
            recorder.ended(daemon.core, state)


def _gone_on(heir: Cluster) -> dict[str, str | int]:
    return {"number": number_of(heir), "members": ", ".join(heir.ids)}


def _export(store: Store, cluster: Cluster, agent: str, identity: Identity, data_dir: Path) -> None:
    """Export the ledgers; a disk that is full is no mistake of the configuration."""
    try:
        write_exports(store, cluster, agent, identity.signing_key, data_dir)
    except ConfigurationError as exc:
        raise exc.__cause__ or exc from None


def _journal(settings: HostSettings) -> Journal:
    named = settings.log_file
    with system_errors(f"--log-file {named}") if named else nullcontext():
        return Journal(
            settings.agent,
            settings.data_dir,
            settings.log_level,
            file=named,
            form=settings.log_format,
            bytes_max=settings.log_bytes_max,
            kept=settings.log_kept,
        )


def _tell_end(journal: Journal, result: Result) -> None:
    """The last line of the log, but for what fails after it."""
    if result.failure is None or result.exit_code == INTERRUPTED:
        journal.log(logging.INFO, ENDED, {"exit_code": result.exit_code})
    else:
        journal.log(logging.ERROR, FAILED, {"detail": result.failure})


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Signals only call what is given, to the last write: none of them cuts one short."""

    def handle(number: int, _frame: FrameType | None) -> None:
        handlers[signal.Signals(number)]()

    before = {number: signal.signal(number, handle) for number in handlers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build_daemon(
    cluster: Cluster,
    agent: str,
    identity: Identity,
    store: Store,
    work: Work,
    journal: Journal,
    observers: Sequence[Observer],
    snapshot: SnapshotFile,
    models: ModelFile | None,
    *,
    listen: Sequence[str] = (),
    dials: Mapping[str, str] = MappingProxyType({}),
    parent_pid: int | None = None,
    probe: Probe | None = None,
    kept: KeptRounds | None = None,
    judging: Judging | None = None,
    checkpoints: Checkpoints | None = None,
    bulk_port: int | None = None,
    revisions: Callable[[], bytes | None] = lambda: None,
) -> Daemon:
    """A daemon on ZeroMQ, its sockets closed to everyone but the agent's neighbours; without a
    `bulk_port` it has no other."""
    limits = TransportLimits()
    entries = map(cluster.agent, cluster.neighbours(agent))
    peers = {
        peer.id: PeerAddress(peer.endpoint, peer.curve, peer.other_endpoints)
        if peer.id not in dials
        else PeerAddress(dials[peer.id], peer.curve, bulk=False)  # it may lead to that port alone
        for peer in entries
    }
    first, *others = distinct_binds(listen) or cluster.agent(agent).listens_at
    transport = ZeroMqTransport(
        agent,
        first,
        identity.curve_public,
        identity.curve_secret,
        peers,
        limits,
        other_binds=others,
        tell=partial(journal.log, logging.WARNING),
        bulk_port=bulk_port,
    )
    left, trained = snapshot.read(), None if checkpoints is None else checkpoints.left
    if left.damage is not None:
        journal.log(logging.WARNING, "snapshot_damaged", {"detail": left.damage})
    core = assemble(
        cluster,
        agent,
        identity,
        store,
        work.initial.numpy(),
        nonce=secrets.token_bytes(NONCE_BYTES),
        chunk_bytes=limits.chunk_bytes,
        link_reason=lambda peer: transport.link(peer).reason,
        snapshot=left.data,
        newest=left.newest,
        checkpoint=None if trained is None else Checkpoint(trained.step, trained.vector),
        dials=dials,
    )
    return Daemon(
        core,
        transport,
        store,
        work,
        journal,
        observers,
        snapshot,
        models,
        parent_pid,
        probe,
        kept,
        judging,
        checkpoints,
        revisions,
    )
