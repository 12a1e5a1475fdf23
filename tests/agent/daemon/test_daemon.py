"""The daemon's driver with real sockets and a real database: what a failed write still lets out."""

import asyncio
import errno
import json
import logging
import os
import re
import sys
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from candor.agent.core.terms import channel_terms
from candor.agent.daemon import host, keys
from candor.agent.daemon.callback import RoundCallback
from candor.agent.daemon.daemon import RoundOutcome, Work
from candor.agent.daemon.exports import LEDGER_NAME
from candor.agent.daemon.host import build_daemon
from candor.agent.daemon.journal import Journal
from candor.agent.daemon.room import lacks_room
from candor.agent.daemon.snapshot import SnapshotFile
from candor.agent.daemon.store import FILE_NAME, Store, StoreError
from candor.agent.daemon.tensorboard import TensorBoard
from candor.agent.learning.given import GivenGradients
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.round_over import RoundOver
from candor.agent.testbed.testbed import free_ports
from candor.topologies.specs.specs import ConfigurationError
from tests.runs import DIM, write_cluster

WAIT_S = 60.0


class Disk(SnapshotFile):
    """A snapshot file on a disk that is full once `full` says so."""

    full = staticmethod(lambda: False)

    def replace(self, snapshot):
        if self.full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().replace(snapshot)


@pytest.fixture
def pair(tmp_path):
    """Two daemons that are neighbours, and a snapshot file each; for one event loop."""
    port, _ = free_ports(2)
    cluster = write_cluster(
        tmp_path, "path", 2, rounds=100_000, base_port=port, deadline_s=60.0, start_deadline_s=60.0
    )
    stack = ExitStack()

    def daemon(agent, gradient=lambda t: np.full(DIM, 1e-3, np.float32), observers=()):
        data_dir = tmp_path / "agents" / agent
        identity = keys.load(data_dir / "keys")
        terms = list(channel_terms(cluster, agent).values())
        path = data_dir / FILE_NAME
        opened = Store.open(path, fingerprint=cluster.fingerprint, channels=terms)
        store = stack.enter_context(opened)
        journal = Journal(agent, data_dir, logging.CRITICAL)
        stack.callback(journal.close)
        given, initial = GivenGradients(gradient), torch.zeros(DIM)
        work = Work(cluster.algorithm, given, initial, cluster.rounds.rounds, 2)
        disk = Disk(data_dir)
        built = build_daemon(cluster, agent, identity, store, work, journal, observers, disk, None)
        return built, store, disk

    yield daemon
    stack.close()


def posts_of(daemon):
    """What a daemon hands to its transport from now on."""
    posted, post = [], daemon._transport.post

    def noted(*args, **options):
        posted.append(args)
        post(*args, **options)

    daemon._transport.post = noted
    return posted


def watched(daemon, seen):
    """A daemon's `_fail` and `_perform`, so that all that the core asks for once a write has failed
    is asked for while the daemon is about to end."""
    fail = daemon._fail

    def failing(why):
        fail(why)
        seen["posted"] = posts_of(daemon)
        # As messages do that were read before the tasks are cancelled: a farewell, a greeting.
        daemon._perform(daemon.core.tick(daemon._now() + 3600.0))
        # And as a thread does that is at work meanwhile: it ends when the sockets are closing.
        farewell = daemon.core.stop()
        ending, shut = threading.Event(), daemon._compute.shutdown

        def shutting(**options):
            ending.set()
            shut(**options)

        daemon._compute.shutdown = shutting
        daemon._in_worker("rest", lambda: ending.wait(WAIT_S), lambda _: daemon._perform(farewell))

    daemon._fail = failing


async def both(one, other):
    """How the first daemon ended; the other one is stopped then."""

    async def first():
        try:
            return await one.run()
        finally:
            other.interrupt()

    async with asyncio.timeout(WAIT_S):
        ended, _ = await asyncio.gather(first(), other.run(), return_exceptions=True)
    return ended


def test_nothing_is_sent_once_the_snapshot_of_a_statement_could_not_be_written(pair, caplog):
    (full, _, disk), (other, _, _) = pair("a0"), pair("a1")
    seen = {}
    watched(full, seen)
    disk.full = lambda: full.core.round == 6
    ended = asyncio.run(both(full, other))
    assert isinstance(ended, OSError)
    assert ended.errno == errno.ENOSPC
    assert seen["posted"] == []
    # It has not heard of round 6, whose snapshot is not there.
    assert other.core.neighbours["a0"].last_round == 5
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_nothing_is_sent_once_the_ledger_could_not_be_written(pair, caplog):
    (full, store, _), (other, _, _) = pair("a0"), pair("a1")
    seen = {}
    watched(full, seen)
    # SQLite's own limit: "database or disk is full", as of a disk that is.
    store._writer.submit(store._connection.execute, "PRAGMA max_page_count=1").result()
    ended = asyncio.run(both(full, other))
    assert isinstance(ended, StoreError)
    assert "make room and start again" in str(ended)
    assert lacks_room(ended)
    assert seen["posted"] == []
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_exports_that_cannot_be_written_are_no_mistake_of_the_configuration(tmp_path):
    cluster, data_dir = write_cluster(tmp_path, "path", 2), tmp_path / "agents/a0"
    terms = list(channel_terms(cluster, "a0").values())
    (data_dir / LEDGER_NAME).touch()  # where a directory should be
    path = data_dir / FILE_NAME
    with (
        Store.open(path, fingerprint=cluster.fingerprint, channels=terms) as store,
        pytest.raises(FileExistsError),
    ):
        host._export(store, cluster, "a0", keys.load(data_dir / "keys"), data_dir)


def test_an_interrupt_before_the_start_is_heeded(pair):
    (one, _, _), (other, _, _) = pair("a0"), pair("a1")
    one.interrupt()
    ended = asyncio.run(both(one, other))
    assert (ended.exit_code, ended.failure) == (130, "stopped before the last round")
    assert one.model[1] == 0


def test_updates_are_verified_and_messages_answered_while_a_local_phase_takes_its_time(pair):
    over, slow_round = threading.Event(), 4

    def gradient(t):
        if t == slow_round:  # of the agent that is held: nothing of its own can end the wait
            assert over.wait(WAIT_S)
        return np.full(DIM, 1e-3, np.float32)

    (slow, _, _), (other, _, _) = pair("a0", gradient), pair("a1")
    verdicts, acknowledged = [], []
    verified = slow.core.verified

    def noted(peer, update, outcome, now_s):
        effects = verified(peer, update, outcome, now_s)
        step = slow.core.neighbours[peer].last_step
        verdicts.append((slow.core.phases.at(step)[0], over.is_set()))
        return effects

    slow.core.verified = noted
    post = slow._transport.post

    def posted(peer, frames, **options):
        acknowledged.append((slow.core.round, over.is_set()))
        post(peer, frames, **options)

    slow._transport.post = posted

    async def run():
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            ends = [group.create_task(daemon.run()) for daemon in (slow, other)]
            while not all((slow_round, False) in seen for seen in (verdicts, acknowledged)):
                await asyncio.sleep(0.01)
            assert slow.core.round == slow_round  # it has not stated its own update
            over.set()
            while slow.core.round < slow_round + 3:
                await asyncio.sleep(0.01)
            slow.interrupt()
            other.interrupt()
        return [end.result().exit_code for end in ends]

    try:
        assert asyncio.run(run()) == [130, 130]
    finally:
        over.set()
    assert slow.seconds["train"] > 0


class Told:
    """The last observer of a daemon: the last round that all of them were told of, and its model.

    A daemon that is interrupted may have the model of one round more.
    """

    def __init__(self):
        self.round, self.x, self.model = 0, None, None

    def started(self, core): ...
    def stated(self, statement): ...
    def ticked(self, core): ...

    def round_over(self, outcome, core):
        self.round, self.x = outcome.round, self.model()


def observed(pair, *observers):
    """Two daemons, the first with these observers and a `Told` after them."""
    told = Told()
    (one, _, _), (other, _, _) = pair("a0", observers=[*observers, told]), pair("a1")
    told.model = lambda: one.model[0]
    return one, other, told


async def until(reached, one, other):
    """Both daemons until something is so, which is looked at now and then."""
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        for daemon in (one, other):
            group.create_task(daemon.run())
        while not reached():
            await asyncio.sleep(0.01)
        one.interrupt()
        other.interrupt()


@pytest.fixture
def journal(tmp_path):
    """One whose `log.jsonl` is in tmp_path."""
    made = Journal("a0", tmp_path, logging.CRITICAL)
    yield made
    made.close()


def logged(tmp_path, event):
    """The details of an event in the log."""
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    return [line["detail"] for line in map(json.loads, lines) if line["event"] == event]


def test_event_files_hold_each_round_and_go_on_after_a_restart(pair, journal, tmp_path):
    board = TensorBoard(tmp_path / "board", "a0", "r2", journal)
    one, other, told = observed(pair, board)
    board.link_bytes = one.link_bytes
    asyncio.run(until(lambda: told.round >= 6, one, other))
    with board:
        pass
    read = EventAccumulator(str(tmp_path / "board" / "a0"))
    read.Reload()
    tags = {"train_loss", "injected_norm", "balance_credits", "bytes_sent", "bytes_received"}
    assert set(read.Tags()["scalars"]) == tags | {"neighbours_mixed", "test/r2"}
    rounds = [event.step for event in read.Scalars("injected_norm")]
    assert rounds[:6] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in read.Scalars("test/r2")][:3] == [2, 4, 6]
    assert [event.value for event in read.Scalars("neighbours_mixed")][:5] == [1.0] * 5
    sent = [event.value for event in read.Scalars("bytes_sent")]
    assert sent == sorted(sent)
    assert sent[0] > 0
    # A second life that enters in round 4, as of a daemon that was killed.
    again = TensorBoard(tmp_path / "board", "a0", "r2", journal)
    one.core.step = one.core.phases.count * 3 + 1
    assert one.core.round == 4
    with again:
        again.started(one.core)
        again.round_over(RoundOutcome(4, 9.0, Measured(0.5, {}, 0.25), 1.0, 1, ()), one.core)
    read = EventAccumulator(str(tmp_path / "board" / "a0"))
    read.Reload()
    assert [(e.step, e.value == 9.0) for e in read.Scalars("train_loss")] == [
        *[(1, False), (2, False), (3, False)],
        (4, True),
    ]
    assert [event.value for event in read.Scalars("local/r2")] == [0.25]
    assert logged(tmp_path, "tensorboard_stopped") == []


def test_event_files_that_cannot_be_written_end_no_run(pair, journal, tmp_path):
    (tmp_path / "board").touch()  # where a directory should be
    board = TensorBoard(tmp_path / "board", "a0", "r2", journal)
    one, other, told = observed(pair, board)
    asyncio.run(until(lambda: told.round >= 3, one, other))
    (detail,) = logged(tmp_path, "tensorboard_stopped")
    assert detail.endswith("; the run goes on without")


def test_without_the_extra_event_files_are_refused_in_one_line(monkeypatch, journal, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'candor\[tensorboard\]'$"):
        TensorBoard(tmp_path, "a0", "accuracy", journal)


def callback_of(call, journal, **more):
    def named(x):
        return {"w": x.clone()}

    return RoundCallback(call, journal, metric="r2", rounds=9, named=named, **more)


def test_a_tasks_callback_is_told_of_rounds_off_the_loop_with_their_models(pair, journal):
    seen = []

    def on_round(told):
        seen.append((told, threading.current_thread().name, told.model()["w"]))

    callback = callback_of(on_round, journal)
    one, other, told = observed(pair, callback)
    callback.model = lambda: one.model[0]
    with callback:
        asyncio.run(until(lambda: told.round >= 6, one, other))
    last, thread, weights = seen[-1]
    assert thread == "on_round"
    assert (last.agent, last.rounds) == ("a0", 9)
    assert last.round == told.round  # the last one is never left out
    assert torch.equal(weights, told.x)
    assert {name for over, *_ in seen for name in over.metrics} <= {"r2"}
    with pytest.raises(AttributeError):
        last.round = 3


def test_a_slow_callback_holds_no_round_up_and_sees_the_latest(pair, journal, tmp_path):
    begun, over, seen = threading.Event(), threading.Event(), []

    def on_round(told):
        seen.append(told.round)
        begun.set()
        assert over.wait(WAIT_S)

    callback = callback_of(on_round, journal)
    one, other, told = observed(pair, callback)
    callback.model = lambda: one.model[0]
    with callback:  # the first call is under way, and rounds go on
        asyncio.run(until(lambda: begun.is_set() and told.round >= seen[0] + 7, one, other))
        assert len(seen) == 1
        over.set()
    assert seen == [seen[0], told.round]
    assert logged(tmp_path, "on_round_left") == []


def test_a_callback_that_fails_is_told_once_and_called_on(pair, journal, tmp_path):
    called = []

    def on_round(told):
        called.append(told.round)
        raise KeyError("no\nserver")

    callback = callback_of(on_round, journal)
    one, other, _ = observed(pair, callback)
    callback.model = lambda: one.model[0]
    with callback:
        asyncio.run(until(lambda: len(called) >= 2, one, other))
    (detail,) = logged(tmp_path, "on_round_failed")
    failed = f"task: on_round() failed in round {called[0]} "
    assert re.fullmatch(re.escape(failed) + r"\(KeyError: .*\)", detail)


def test_a_callback_that_does_not_end_is_left_and_told(journal, tmp_path):
    over, begun = threading.Event(), threading.Event()

    def on_round(told):
        begun.set()
        over.wait(WAIT_S)

    with callback_of(on_round, journal, end_s=0.05) as callback:
        callback._waiting = object()
        with callback._changed:
            callback._changed.notify()
        assert begun.wait(WAIT_S)
    (told,) = logged(tmp_path, "on_round_left")
    assert told.startswith("a call had not ended 0.05 s after the run")
    over.set()
    callback._thread.join(WAIT_S)


def test_a_callback_that_would_end_the_process_is_told_and_called_again(journal, tmp_path):
    seen, called = [], threading.Semaphore(0)

    def on_round(told):
        seen.append(told.round)
        called.release()
        sys.exit(3)

    callback = callback_of(on_round, journal)
    with callback:
        for number in (1, 2):
            with callback._changed:
                callback._waiting = RoundOver("a0", number, 9, 0.0, {}, None, 0, dict)
                callback._changed.notify()
            assert called.acquire(timeout=WAIT_S)
    assert seen == [1, 2]
    (detail,) = logged(tmp_path, "on_round_failed")
    assert detail == "task: on_round() failed in round 1 (SystemExit: 3)"
