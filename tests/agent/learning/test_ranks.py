"""Several processes that train one agent, with a real group of two: what is left when one dies."""

import subprocess
import sys

import pytest
import torch

from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.ranks import Leading, ProcessGone, Ranks, joined
from candor.agent.testbed.testbed import free_ports
from tests.agent.learning.test_trainer import Points, plain

DIES = """
from candor.agent.learning.ranks import Ranks, joined
import os
with joined(Ranks(1, 2)) as group:
    group.hear()
    os._exit(9)
"""


@pytest.fixture
def leading(monkeypatch):
    """Rank 0 of two, of which the other dies at the first word."""
    port, _ = free_ports(2)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "1")
    with subprocess.Popen([sys.executable, "-c", DIES]) as other:
        monkeypatch.setenv("RANK", "0")
        with joined(Ranks(0, 2)) as group:
            assert group is not None
            one = Leading(plain(Points(), 1), group)
            one.check_samples(initial_parameters(Points(), 0), ["a0"])
            assert other.wait() == 9
            yield one


def test_a_model_is_saved_when_a_process_that_trained_it_has_died(leading) -> None:
    x = initial_parameters(Points(), 0)
    with pytest.raises(ProcessGone, match="another process of this agent is gone"):
        leading.evaluate(x[None])
    saved = leading.state_dict(x)
    assert torch.equal(torch.cat([value.flatten() for value in saved.values()]), x)
    assert leading.private() == b""
    leading.end()
