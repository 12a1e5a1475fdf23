"""Several processes that train one agent: neighbours notice nothing."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.testbed import testbed
from tests import paced
from tests.campaigns.crashes import plan

pytestmark = pytest.mark.e2e
ROUNDS = 4


def finished(tmp_path: Path, task: str, processes: int) -> testbed.Testbed:
    """A run of three whose first agent is so many processes."""
    shape = plan(3, "complete", ROUNDS, 1, "norm:2e-5")
    settings = task_settings(task, shape.seed, None, batch_size=32)
    timing = shape.rounds.model_copy(update={"deadline_s": 60.0, "start_deadline_s": 120.0})
    algorithm = shape.algorithm.model_copy(update={"local_steps": 3})
    shape = replace(shape, task=settings, rounds=timing, algorithm=algorithm)
    bed = testbed.prepare(shape, tmp_path / f"run-{processes}")
    if processes > 1:
        bed.launchers["a0"] = [
            *(sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m"),
        ]
    with testbed.stopping_on_signals(bed):
        bed.start()
        testbed.watch(bed, lambda _statuses: None)
    assert not bed.failed(), (bed.data_dir("a0") / "stderr.log").read_text()
    return bed


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> testbed.Testbed:
    """Of one process each, where a model lies in one part with either task."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", paced.environment()["PYTHONPATH"])
        return finished(tmp_path_factory.mktemp("one"), "tests.own_loops:Adam", 1)


@pytest.mark.parametrize("task", ["tests.own_loops:Adam", "tests.own_loops:Sharded"])
def test_two_processes_learn_what_one_learns(one, tmp_path, monkeypatch, task) -> None:
    monkeypatch.setenv("PYTHONPATH", paced.environment()["PYTHONPATH"])
    two = finished(tmp_path, task, 2)
    for agent in one.cluster.ids:
        models = [load_file(bed.data_dir(agent) / "model.safetensors") for bed in (one, two)]
        for name in models[0]:
            torch.testing.assert_close(models[0][name], models[1][name], rtol=1e-3, atol=1e-4)
    for agent in ("a1", "a2"):
        log = (two.data_dir(agent) / "log.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in log]
        assert not [event for event in told if event["level"] in ("warning", "error")]
    _, audit = audit_run_directory(two.run_dir)
    assert not audit.findings
