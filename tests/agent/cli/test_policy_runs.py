"""Runs whose task is an environment: what is left of returns, and `candor task check`."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from candor.agent.cli import main as cli
from candor.agent.reports.terminal import summary_view

ROUNDS = 4


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an agent whose actions are random."""
    made = tmp_path_factory.mktemp("policies") / "run"
    asked = ["--agents", "3", "--topology", "complete", "--task", "cartpole", "--batch-size", "6"]
    asked += ["--rounds", str(ROUNDS), "--step-size", "1e-3", "--strategy", "a1=random-action"]
    assert cli.run(["simulate", *asked, "--rule", "none", "--run-dir", str(made)]) == 0
    return made


def test_returns_are_those_of_the_batch_sampled_last_and_of_the_honest(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    returns = summary["accuracy"]
    assert summary["metric"] == "mean_return"
    assert summary["mean_return"] == pytest.approx((returns["a0"] + returns["a2"]) / 2)
    assert "centralised_accuracy" not in summary
    assert list(summary["alone_accuracy"]) == ["a0"]
    with StringIO() as told:
        Console(file=told, width=100).print(summary_view(summary))
        assert "first agent alone" in told.getvalue()
        assert "dirichlet" not in told.getvalue()  # there are no samples to part
    for agent, value in returns.items():
        with (run_dir / "agents" / agent / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["trajectories"] for row in rows] == ["6"] * ROUNDS
        assert -float(rows[-1]["train_loss"]) == pytest.approx(value)


def test_an_agent_alone_samples_what_it_samples_in_the_run_until_it_hears_somebody(
    run_dir: Path, tmp_path: Path
) -> None:
    """The first round of another run of more agents is the same for who is in both."""
    other = tmp_path / "other"
    asked = ["--agents", "5", "--topology", "ring", "--task", "cartpole", "--batch-size", "6"]
    asked += ["--rounds", "1", "--step-size", "1e-3", "--rule", "none"]
    assert cli.run(["simulate", *asked, "--run-dir", str(other)]) == 0
    for agent in ("a0", "a2"):
        first = []
        for place in (run_dir, other):
            with (place / "agents" / agent / "metrics.csv").open() as file:
                first.append(next(csv.DictReader(file)))
        for column in ("train_loss", "injected_norm"):
            assert first[0][column] == first[1][column]


def test_the_report_draws_returns_by_episodes_and_by_round(run_dir: Path) -> None:
    page = (run_dir / "report.html").read_text()
    for across in ("episodes that an agent sampled", "round"):
        assert f"Return by {across}" in page
    assert "Training loss" not in page
    assert "mean return of honest agents" in page


def test_settings_that_mean_nothing_are_not_shown(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (run_dir / "report.html").read_text()
    assert "task.batch_size" in page  # of decentralized SGD, the episodes of a step
    assert "dirichlet" not in page
    assert "local_steps" not in page
    policies = (run_dir / "cluster.toml").read_text().replace("decentralized-sgd", "dec-byz-pg")
    (tmp_path / "cluster.toml").write_text(policies)
    for file, told in ((run_dir, True), (tmp_path, False)):
        assert cli.run(["cluster", "show", str(file / "cluster.toml")]) == 0
        shown = capsys.readouterr().out
        assert ("batch_size 6" in shown) is told
        assert "step_size 0.001" in shown
        assert "partition" not in shown
        assert "local_steps" not in shown


def test_the_check_says_what_policy_and_environment_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["task", "check", "cartpole", "--batch-size", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"] == {
        "environment": "CartPole-v1",
        "observations": [4],
        "actions": 2,
        "horizon": 500,
        "discount": 0.999,
        "large_batch": 50,
        "small_batch": 4,
        "switch_probability": 0.2,
        "step_size": 5e-4,
    }
    assert 8 <= found["metric"]["before"] <= 60
    assert np.isfinite(found["metric"]["after"])


BROKEN = """
import gymnasium
from torch import nn

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return [0.0, float("nan")], {}

class Broken:
    horizon, discount = 5, 0.9
    def build_model(self):
        return nn.Linear(2, 2)
    def make_environment(self):
        return Env()
"""


def test_an_environment_that_is_not_sound_shows_when_a_host_checks_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_environment_for_test.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "cluster",
        "new",
        "--task",
        "broken_environment_for_test:Broken",
        "--topology=complete",
    ]
    for i in range(3):
        assert cli.run(["keygen", str(tmp_path / f"a{i}")]) == 0
        words += ["--agent", f"a{i}={tmp_path / f'a{i}'}@tcp://127.0.0.1:{29_100 + i}"]
    path = str(tmp_path / "c.toml")
    asked = ["--run-id=x", "--algorithm=dec-byz-pg", "--max-byzantine=0", "-o", path]
    assert cli.run([*words, *asked]) == 0
    capsys.readouterr()
    assert cli.run(["cluster", "check", path, "--no-dial"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
