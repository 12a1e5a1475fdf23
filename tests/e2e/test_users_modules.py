"""The user's own classes, in files whose names others have too, through every kind of process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN_S = 240
pytestmark = pytest.mark.e2e

TASK = """
import torch
from torch import nn

class Task:
    def __init__(self):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(120, 6, generator=generator)
        self.y = self.x[:, :2].argmax(1)

    def build_model(self):
        return nn.Linear(6, 2)

    def load_data(self, shard, seed):
        mine = torch.from_numpy(shard.select(self.y.numpy(), seed))
        return self.x[mine], self.y[mine]

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model):
        return float((model(self.x).argmax(1) == self.y).float().mean())
"""
LIE = """
class Lie:
    def report(self, gradient, context):
        return -gradient
"""
RULE = """
class Root:
    edge_local = True

    def charges(self, neighbourhood):
        return neighbourhood.energies**0.5
"""
GRAPH = """
import networkx
from network import net

def line(agents):
    assert net() is not None
    return networkx.path_graph(agents)
"""
MINE = """
from base import Task as Base
from network import net

class Task(Base):
    def build_model(self):
        return net()
"""
NETWORK = "from torch import nn\n\ndef net():\n    return nn.Linear(6, 2)\n"
# What nobody may import but as the user's own.
OWN_NAME = "\nassert __name__ == 'candor.topologies.specs.own.{}'\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules of the user, some with names that the command imports from elsewhere."""
    place = tmp_path_factory.mktemp("users")
    for name, text in {"base": TASK, "mine": MINE, "network": NETWORK, "agent": GRAPH}.items():
        (place / f"{name}.py").write_text(text)
    for name, text in {"code": TASK, "signal": LIE, "random": RULE, "click": ""}.items():
        (place / f"{name}.py").write_text(text + OWN_NAME.format(name))
    return place


def candor(cwd: Path, *words: object, code: int = 0, **environment: str) -> None:
    """Run the command there, as `python -m` does: the current directory is first on its path."""
    done = subprocess.run(
        [sys.executable, "-m", "candor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )
    assert done.returncode == code, done.stderr


def test_modules_beside_each_other_find_each_other(folder: Path, tmp_path: Path) -> None:
    run = ("--agents", 3, "--topology", "agent:line", "--rounds", 8, "--window", 4)
    own = ("--task", "mine:Task", "--strategy", "a1=signal:Lie", "--rule", "random:Root@1e-4")
    candor(folder, "simulate", *run, *own, "--partition", "iid", "--run-dir", tmp_path / "run")
    balances = json.loads((tmp_path / "run" / "summary.json").read_text())["balances"]
    assert balances["a1"] != 0


def test_daemons_find_them_in_the_current_directory_and_on_pythonpath(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "statistics.py").write_text(RULE + OWN_NAME.format("statistics"))
    run = ("--agents", 2, "--topology", "complete", "--rounds", 6, "--window", 3)
    own = ("--task", "code:Task", "--strategy", "a1=signal:Lie", "--rule", "statistics:Root@1e-4")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    run_dir = tmp_path / "run"
    candor(folder, "testbed", *run, *own, "--run-dir", run_dir, PYTHONPATH=path)
    assert json.loads((run_dir / "summary.json").read_text())["audit"] == "ok"


def test_the_processes_of_an_audit_find_them(folder: Path, tmp_path: Path) -> None:
    run = ("--agents", 4, "--topology", "ring", "--rounds", 16, "--seeds", 1, "--no-search")
    own = ("--task", "code:Task", "--strategies", "signal:Lie", "--jobs", 2)
    # Of one seed, so that it is undecided.
    candor(folder, "audit", *run, *own, "--run-dir", tmp_path / "run", code=4)
    found = json.loads((tmp_path / "run" / "audit.json").read_text())["strategies"]
    assert found["signal:Lie"]["gain"][0] < 0
