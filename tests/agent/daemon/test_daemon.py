"""The daemon's driver with real sockets and a real database: what a failed write still lets out."""

import asyncio
import errno
import logging
import os
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from candor.agent.core.terms import channel_terms
from candor.agent.daemon import host, keys
from candor.agent.daemon.daemon import Work
from candor.agent.daemon.exports import LEDGER_NAME
from candor.agent.daemon.host import build_daemon
from candor.agent.daemon.journal import Journal
from candor.agent.daemon.snapshot import SnapshotFile
from candor.agent.daemon.store import FILE_NAME, Store
from candor.agent.learning.given import GivenGradients
from candor.agent.testbed.testbed import free_ports
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

    def daemon(agent, gradient=lambda t: np.full(DIM, 1e-3, np.float32)):
        data_dir = tmp_path / "agents" / agent
        identity = keys.load(data_dir / "keys")
        terms = list(channel_terms(cluster, agent).values())
        path = data_dir / FILE_NAME
        opened = Store.open(path, fingerprint=cluster.fingerprint, channels=terms)
        store = stack.enter_context(opened)
        journal = Journal(agent, data_dir, logging.CRITICAL)
        stack.callback(journal.close)
        given, initial = GivenGradients(gradient), torch.zeros(DIM)
        work = Work(cluster.algorithm, given, initial, cluster.rounds.rounds, 0)
        disk = Disk(data_dir)
        built = build_daemon(cluster, agent, identity, store, work, journal, [], disk, None)
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
    assert ended.failure.startswith("the ledger cannot be written: ")
    assert "make room and start again" in ended.failure
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
            while (slow_round, False) not in verdicts:
                await asyncio.sleep(0.01)
            assert (slow_round, False) in acknowledged
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
