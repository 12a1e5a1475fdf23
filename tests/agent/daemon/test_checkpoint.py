"""The training that a daemon goes on with: the last one or the one before, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from candor.agent.daemon.checkpoint import CHECKPOINT_NAME, DURABLE_NAME, CheckpointFile, Training

RUN = "ab" * 32


def training(step, dim=40, **more):
    vector = np.full(dim, step, np.float32)
    state = {"velocity": torch.full((1, dim), step / 2), "moves": torch.tensor(step)}
    return Training(step, step, vector, state, 0.5, **more)


def same(one, other):
    assert (one.step, one.round, one.loss) == (other.step, other.round, other.loss)
    assert (one.trajectories, one.private) == (other.trajectories, other.private)
    assert one.vector.tobytes() == other.vector.tobytes()
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())


def written(place, *steps):
    for step in steps:
        file = CheckpointFile(place, RUN)
        file.write(file.encode(training(step)))


def test_what_was_written_is_read(tmp_path):
    assert CheckpointFile(tmp_path, RUN).read() is None
    file = CheckpointFile(tmp_path, RUN)
    kept = replace(training(7), private=b"moments", loss=float("nan"), trajectories=3)
    file.write(file.encode(kept))
    found = CheckpointFile(tmp_path, RUN).read()
    assert np.isnan(found.loss)
    same(replace(found, loss=0.0), replace(kept, loss=0.0))
    assert CheckpointFile(tmp_path, "cd" * 32).read() is None  # of another run


def test_a_damaged_one_gives_way_to_the_durable_one(tmp_path):
    file = CheckpointFile(tmp_path, RUN)
    file.write(file.encode(training(3)))
    file.write(file.encode(training(4)))  # too soon for another sync
    path = tmp_path / CHECKPOINT_NAME
    data = bytearray(path.read_bytes())
    same(CheckpointFile(tmp_path, RUN).read(), training(4))
    data[-1] ^= 1
    for damaged in (bytes(data), data[:100], b""):
        path.write_bytes(damaged)
        same(CheckpointFile(tmp_path, RUN).read(), training(3))
    (tmp_path / DURABLE_NAME).unlink()
    assert CheckpointFile(tmp_path, RUN).read() is None


def test_of_two_the_later_counts(tmp_path):
    written(tmp_path, 5)
    os.rename(tmp_path / CHECKPOINT_NAME, tmp_path / "kept")
    written(tmp_path, 9)  # another life, whose first is durable
    os.rename(tmp_path / "kept", tmp_path / CHECKPOINT_NAME)
    same(CheckpointFile(tmp_path, RUN).read(), training(9))


def test_writing_has_a_budget_of_time_and_bytes(tmp_path):
    file = CheckpointFile(tmp_path, RUN)
    assert file.due(0.0)
    data = file.encode(training(1, dim=1_000_000))  # 8 MB: four seconds at two a second
    file.write(data)
    assert not file.due(file.due_s - 0.001)
    assert file.due(file.due_s)
    assert file.due_s >= time.monotonic() + 3.0


def test_a_run_that_is_done_leaves_none(tmp_path):
    written(tmp_path, 5)
    CheckpointFile(tmp_path, RUN).remove()
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from candor.agent.daemon.checkpoint import CheckpointFile
from tests.agent.daemon.test_checkpoint import RUN, training
file = CheckpointFile(Path(sys.argv[1]), RUN)
step = int(sys.argv[2])
while True:
    step += 1
    file.write(file.encode(training(step, dim=500_000)))
    print(step, flush=True)
"""


@pytest.mark.e2e
def test_who_is_killed_while_writing_leaves_the_last_or_the_one_before(tmp_path):
    step = 0
    for kills in range(int(os.environ.get("CANDOR_KILLS", "4"))):
        words = [sys.executable, "-c", WRITER, str(tmp_path), str(step)]
        writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        for _ in range(1 + kills % 3):
            step = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        told = int(rest[-1]) if rest else step
        found = CheckpointFile(tmp_path, RUN).read()
        assert found.step in (told, told + 1)  # written, and killed before it was told
        same(found, training(found.step, dim=500_000))
        step = found.step
