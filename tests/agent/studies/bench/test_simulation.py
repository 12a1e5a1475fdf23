"""The benchmark of simulated runs trains what it says it does."""

import json

import pytest
import torch

from candor.agent.cli import main as cli
from candor.agent.simulation.vectorised import Simulation
from candor.agent.studies.bench.simulation import TASKS, bench_cluster
from candor.agent.tasks.checked import build_model


def test_every_task_is_timed_with_and_without_payments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "simulate", "--agents", "8", "--rounds", "16", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert [(cost["parameters"], cost["rule"] == "none") for cost in costs] == [
        *((650, True), (650, False)),
        *((2762, True), (2762, False)),
    ]
    for cost in costs:
        assert cost["agents"] == 8
        assert cost["agent_rounds_per_s"] > 1
        assert cost["memory_mib"] > 50


def test_a_device_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.run(["bench", "simulate", "--device", "cuda"]) == 2
    assert "torch finds none here" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_what_is_timed_learns(task: type) -> None:
    cluster = bench_cluster(task.__name__, 8, "none", rounds=60)
    simulation = Simulation(cluster, {}, device="cpu", measured=False, threads=1)
    for _ in range(60):
        simulation.step()
    learned = build_model(task(), cluster.seed)
    with torch.no_grad():
        before = task().evaluate(learned)
        learned.load_state_dict({name: rows[0] for name, rows in simulation.named().items()})
        after = task().evaluate(learned)
    assert after > max(before, 1 / task.classes) + 0.2
