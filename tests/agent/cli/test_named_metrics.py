"""A regression of a user's own, judged by RMSE, from its class to the page, through `simulate`."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from candor.agent.cli import main as cli
from candor.agent.daemon.metrics import read_metrics
from candor.topologies.cluster.file import load_cluster

SALES = '''
import torch
from torch import nn


class Sales:
    """A line through noisy points; targets are in thousands, so is the error."""

    metric = "rmse"
    higher_is_better = False

    def build_model(self):
        return nn.Linear(1, 1)

    def points(self, seed, count):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(count, 1, generator=generator)
        return x, 30 * x + 5 + torch.randn(count, 1, generator=generator)

    def load_data(self, shard, seed):
        return self.points(shard.index + 1, 64)

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def evaluate(self, model):
        x, y = self.points(0, 256)
        error = (model(x) - y).square().mean()
        return {"rmse": error.sqrt().item(), "r2": 1 - (error / y.var()).item()}

    def evaluate_local(self, model, context):
        x, y = self.points(context.shard.index + 1, 64)
        return (model(x) - y).square().mean().sqrt().item()
'''
WORDS = [
    *("simulate", "--agents", "3", "--topology", "complete", "--task", "named_sales:Sales"),
    *("--rounds", "12", "--local-steps", "4", "--step-size", "0.1", "--partition", "iid"),
    *("--evaluate-every", "4", "--window", "4", "--run-dir", "run"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run, and what it told."""
    folder = tmp_path_factory.mktemp("sales")
    (folder / "named_sales.py").write_text(SALES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert cli.run(WORDS) == 0
        yield folder / "run"


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def test_the_cluster_file_names_the_metric(finished: Path) -> None:
    task = load_cluster(finished / "cluster.toml").task
    assert (task.metric, task.better) == ("rmse", "lower")


def test_the_summary_has_all_metrics_and_the_worst_agents(finished: Path) -> None:
    summary = summary_of(finished)
    assert (summary["metric"], summary["better"]) == ("rmse", "lower")
    named = summary["metrics"]
    assert summary["accuracy"] == {agent: each["rmse"] for agent, each in named.items()}
    assert summary["min_accuracy"] == max(summary["accuracy"].values()) > 1.0
    assert all(0.5 < each["r2"] < 1 for each in named.values())
    assert summary["centralised_accuracy"] > 0.9
    local = summary["local_metric"]
    assert set(local) == {"a0", "a1", "a2"}
    assert len({*local.values()} - {*summary["accuracy"].values()}) == 3


def test_the_files_of_every_evaluation_have_them(finished: Path) -> None:
    lines = read_metrics(finished / "agents" / "a1" / "metrics.csv")
    assert [t for t, line in enumerate(lines, start=1) if line.metrics] == [4, 8, 12]
    assert all(line.metrics == {} for line in lines if line.test_accuracy is None)
    assert [t for t, line in enumerate(lines, start=1) if line.local_metric] == [4, 8, 12]
    assert lines[-1].local_metric == summary_of(finished)["local_metric"]["a1"]
    assert lines[-1].metrics == summary_of(finished)["metrics"]["a1"]
    assert lines[-1].test_accuracy == lines[-1].metrics["rmse"] < lines[3].metrics["rmse"]
    with safe_open(finished / "simulation.safetensors", framework="pt") as file:
        assert {"metric/rmse", "metric/r2", "local_metric"} <= set(file.keys())
        assert file.get_tensor("metric/r2").shape == (3, 3)


def test_people_read_its_name_and_what_is_better(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["status", str(finished)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "loss rmse own balance" in shown
    assert "own: rmse on own data" in shown
    assert "rmse: of test samples, lower is better" in shown
    assert cli.run(["status", str(finished), "--json"]) == 0
    agents = json.loads(capsys.readouterr().out)["agents"]
    assert agents["a0"]["metric"] == "rmse"
    assert agents["a0"]["metrics"] == summary_of(finished)["metrics"]["a0"]
    assert agents["a0"]["local_metric"] == summary_of(finished)["local_metric"]["a0"]
    page = (finished / "report.html").read_text()
    for words in ("Test rmse", "Rmse on own data", "lower is better", "worst rmse", ">r2</th>"):
        assert words in page
    assert "ccuracy" not in page
    r2 = summary_of(finished)["metrics"]["a0"]["r2"]
    assert f">{r2:.4g}</td>" in page


def test_a_run_goes_on_to_the_same_metrics(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from candor.agent.simulation import run as simulated_run

    evaluate = simulated_run.SimulatedRun._evaluate

    def interrupted(self: simulated_run.SimulatedRun, t: int) -> None:
        evaluate(self, t)
        if t == 8:
            raise KeyboardInterrupt

    again = finished.parent / "again"
    words = [*WORDS[:-1], str(again)]
    with monkeypatch.context() as patch:
        patch.setattr(simulated_run.SimulatedRun, "_evaluate", interrupted)
        assert cli.run(words) == 130
    assert cli.run(["simulate", "--resume", str(again)]) == 0
    assert summary_of(again)["metrics"] == summary_of(finished)["metrics"]
    out = " ".join(capsys.readouterr().out.split())
    assert "mean rmse" in out
    assert "worst rmse" in out
    assert "rmse own data balance" in out
    assert "%" not in out.replace("100%", "")
    assert not math.isnan(summary_of(again)["min_accuracy"])
