"""A simulation whose agents train on several processes: Ctrl-C, and a kill that leaves nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paced import until

pytestmark = pytest.mark.e2e
LOOP = """
import os
import time
from pathlib import Path

import torch
from torch import nn

class Slow:
    def build_model(self):
        return nn.Linear(4, 2)

    def train(self, model, context):
        Path("pids", str(os.getpid())).touch()
        time.sleep(0.3)
        adam = context.keep("adam", lambda: torch.optim.Adam(model.parameters()))
        model(torch.rand(8, 4)).square().mean().backward()
        adam.step()

    def evaluate(self, model):
        return 0.5
"""
# A module of the standard library has this name, too.
SIMULATE = [
    *("--agents", "4", "--topology", "ring", "--task", "code:Slow", "--rounds", "100"),
    *("--rule", "none", "--run-dir", "run"),
]


def test_ctrl_c_saves_and_a_killed_simulation_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(LOOP)
    pids = tmp_path / "pids"
    pids.mkdir()

    def training(words: list[str]) -> subprocess.Popen[str]:
        """A simulation once two processes beside its own train."""
        before = set(pids.iterdir())
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "candor", "simulate", *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            start_new_session=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        until(lambda: len(set(pids.iterdir()) - before) == 3 or process.poll() is not None, 120)
        return process

    def gone() -> bool:
        return not any(Path("/proc", each.name).exists() for each in pids.iterdir())

    with training(SIMULATE) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1].startswith("candor: interrupted; candor simulate --resume run")
    assert "Traceback" not in errors
    assert process.returncode == 130
    assert gone()
    with training(["--resume", "run"]) as process:
        process.kill()
        process.communicate(timeout=60)
    until(gone, 60)
