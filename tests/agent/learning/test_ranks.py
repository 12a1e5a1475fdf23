"""Several processes that train one agent, with a real group of two: what is left when one dies."""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.ranks import Leading, ProcessGone, Ranks, joined
from candor.agent.tasks.partition import Shard
from candor.agent.testbed.testbed import free_ports
from candor.topologies.cluster.file import AlgorithmSettings
from tests.agent.learning.test_trainer import Points, contexts, plain

ROOT = Path(__file__).parents[3]
STAYS = """
from candor.agent.learning.ranks import Ranks, joined
from tests.agent.learning.test_ranks import steps_of_a_phase
with joined(Ranks(1, 2)) as group:
    print(steps_of_a_phase(1, seconds=10.0))
"""
DIES = """
from candor.agent.learning.ranks import Ranks, joined
import os
with joined(Ranks(1, 2)) as group:
    group.hear()
    os._exit(9)
"""


def steps_of_a_phase(rank: int, seconds: float) -> int:
    """How many batches a process takes by its own clock, or that of another."""
    shard, settings = Shard(0, 1), AlgorithmSettings(local_seconds=seconds)
    context = replace(contexts(settings), rank=rank, world_size=2).of(shard, 1, 0.1)
    return sum(1 for _ in context.batches([torch.zeros(2)]))


@contextmanager
def two(monkeypatch, script):
    """Rank 0 of two, and the other, which runs a script."""
    port, _ = free_ports(2)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        monkeypatch.setenv("RANK", "0")
        with joined(Ranks(0, 2)) as group:
            yield group, other


@pytest.fixture
def leading(monkeypatch):
    """Rank 0 of two, of which the other dies at the first word."""
    with two(monkeypatch, DIES) as (group, other):
        one = Leading(plain(Points(), 1), group)
        one.check_samples(initial_parameters(Points(), 0), ["a0"])
        assert other.wait() == 9
        yield one


def test_a_phase_of_seconds_ends_after_the_same_step_in_all_processes(monkeypatch) -> None:
    with two(monkeypatch, STAYS) as (_, other):
        mine = steps_of_a_phase(0, seconds=0.2)
        theirs, _ = other.communicate(timeout=60)
    assert int(theirs) == mine


def test_a_model_is_saved_when_a_process_that_trained_it_has_died(leading) -> None:
    x = initial_parameters(Points(), 0)
    with pytest.raises(ProcessGone, match="another process of this agent is gone"):
        leading.evaluate(x[None])
    saved = leading.state_dict(x)
    assert torch.equal(torch.cat([value.flatten() for value in saved.values()]), x)
    assert leading.private() == b""
    leading.end()
