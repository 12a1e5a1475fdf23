"""`candor simulate`: what it leaves behind, and that an interrupted run ends as it would have."""

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from candor.agent.cli import main as cli
from candor.agent.cli.plan import plan_of
from candor.agent.daemon.metrics import read_metrics
from candor.agent.daemon.status import DataDirLock
from candor.agent.runs import simulation_file
from candor.agent.runs.directory import read_run_directory
from candor.agent.simulation import run as simulated_run
from candor.agent.simulation.vectorised import run_vectorised
from candor.topologies.cluster.file import load_cluster
from candor.topologies.specs.specs import ConfigurationError
from tests.drawn import empty
from tests.paced import until

CANDOR = [sys.executable, "-P", "-m", "candor"]
SMALL = [
    *("simulate", "--agents", "5", "--topology", "ring", "--task", "digits:model=logistic"),
    *("--rounds", "10", "--window", "4", "--local-steps", "2", "--strategy", "a3=scale:3"),
    *("--rule", "variance:4e-5 + excess:4e-6"),
]
ASKED: dict[str, Any] = {
    "topology": "ring",
    "agents": 5,
    "mixing_name": None,
    "seed": 0,
    "task": "digits:model=logistic",
    "data_root": None,
    "initial": None,
    "partition": "dirichlet:0.5",
    "batch_size": 8,
    "local_steps": 1,
    "rounds": 10,
    "window": 4,
    "strategies": ("a3=scale:3",),
    "rule": "band:5e-4 + norm:2e-5",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run_dir = tmp_path_factory.mktemp("small") / "run"
    assert cli.run([*SMALL, "--run-dir", str(run_dir), "--json"]) == 0
    return run_dir


def test_what_a_simulation_leaves_is_its_users_alone(small: Path) -> None:
    for path in (small, *small.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_the_summary_is_that_of_a_testbed_without_ledgers(small: Path) -> None:
    summary = json.loads((small / "summary.json").read_text())
    wanted = {"run_id", "fingerprint", "task", "topology", "partition", "rule", "agents", "rounds"}
    wanted |= {"seed", "strategies", "accuracy", "mean_accuracy", "min_accuracy", "balances"}
    wanted |= {
        "centralised_accuracy",
        "centralised_work",
        "alone_accuracy",
        "consensus_distance",
        "seconds",
    }
    assert set(summary) == wanted | {
        "byzantine",
        "metric",
        "better",
        "simulated",
        "device",
        "weights",
    }
    assert summary["weights"] is None
    assert (summary["metric"], summary["better"]) == ("accuracy", "higher")
    assert summary["strategies"]["a3"] == "scale:3"
    assert sum(summary["balances"].values()) == 0
    assert summary["balances"]["a3"] == min(summary["balances"].values()) < 0
    assert 0 < summary["min_accuracy"] <= summary["mean_accuracy"] < 1
    assert summary["consensus_distance"] > 0
    assert set(summary["alone_accuracy"]) == set(summary["accuracy"]) == set(summary["agents"])


def test_without_matplotlib_a_run_ends_with_all_but_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_dir = tmp_path / "run"
    assert cli.run([*SMALL, "--run-dir", str(run_dir)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "no report: drawing needs matplotlib: pip install 'candor[report]'" in told
    assert (run_dir / "summary.json").exists()
    assert not (run_dir / "report.html").exists()
    assert cli.run(["report", str(run_dir)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "needs matplotlib" in told


def test_the_files_of_every_agent_are_there(small: Path) -> None:
    cluster = load_cluster(small / "cluster.toml")
    expected = run_vectorised(cluster, {"a3": "scale:3"})
    summary = json.loads((small / "summary.json").read_text())
    models = simulation_file.under("model/", load_file(small / "simulation.safetensors"))
    for row, agent in enumerate(cluster.ids):
        lines = read_metrics(small / "agents" / agent / "metrics.csv")
        assert [line.round for line in lines] == list(range(1, 11))
        assert [line.train_loss for line in lines] == pytest.approx(expected.losses[:, row])
        norms = [line.injected_norm for line in lines]
        assert norms == pytest.approx(expected.injected_norms[:, row])
        assert [line.balance != 0 for line in lines] == [False] * 3 + [True] * 7
        assert lines[-1].balance == summary["balances"][agent] == expected.balances[agent]
        assert lines[-1].test_accuracy == summary["accuracy"][agent] == expected.accuracy[agent]
        assert lines[-1].neighbours_mixed == 2
        model = load_file(small / "agents" / agent / "model.safetensors")
        flat = torch.cat([model["weight"].flatten(), model["bias"]])
        assert torch.equal(flat, expected.parameters[row])
        assert torch.equal(models["weight"][row], model["weight"])


def test_the_report_draws_what_was_measured(small: Path) -> None:
    page = (small / "report.html").read_text()
    for words in (
        "5 agents",
        "without ledgers",
        "Test accuracy",
        "Who paid, who received",
        ", measured;",
    ):
        assert words in page
    assert "What is missing" not in page
    assert page.count("<img") == 6


def test_a_run_without_a_rule_measures_no_evidence_and_pays_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "--rule", "none", "--run-dir", str(tmp_path / "run"), "--json"]
    assert cli.run(words) == 0
    assert set(json.loads(capsys.readouterr().out)["balances"].values()) == {0}
    lines = read_metrics(tmp_path / "run" / "agents" / "a3" / "metrics.csv")
    cluster = load_cluster(tmp_path / "run" / "cluster.toml")
    measured = run_vectorised(cluster, {"a3": "scale:3"}).injected_norms[:, 3]
    assert [line.injected_norm for line in lines] == pytest.approx(measured, rel=1e-3)


# --- going on -----------------------------------------------------------------------------------


def run_to_the_end(run: simulated_run.SimulatedRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary and the file of a run, without what the clock says."""
    while not run.done:
        run.advance()
    summary = run.conclude()
    _, tensors = simulation_file.read(run.run_dir / simulation_file.FILE_NAME)
    assert (tensors.pop("seconds").diff() > 0).all()
    return {name: value for name, value in summary.items() if name != "seconds"}, tensors


@pytest.mark.parametrize("stop", [0, 1, 4, 7])
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "local_steps": 3},
        {"strategies": ("a1=stale-copy", "a2=noise:1 + averaged:0.5"), "momentum": 0.5},
        {"topology": "directed-random:degree=2", "sketch_size": 64},
        {"rule": "none"},
    ],
    ids=["momentum", "strategies", "push-sum", "no-rule"],
)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    settings: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    plan = plan_of(ASKED | settings, evaluate_every=3, simulated=True)
    whole = run_to_the_end(simulated_run.start(plan, tmp_path / "whole" / "run", "cpu"))
    first = simulated_run.start(plan, tmp_path / "parts" / "run", "cpu")
    for _ in range(stop):
        first.advance()
    first.save()
    for _ in range(min(2, 10 - stop)):
        first.advance()  # lost: it was not saved
    again = simulated_run.resume(tmp_path / "parts" / "run", "cpu")
    assert again.round == stop
    resumed = run_to_the_end(again)
    assert resumed[0] == whole[0]
    assert resumed[1].keys() == whole[1].keys()
    for name, tensor in whole[1].items():
        assert torch.equal(resumed[1][name], tensor), name


def test_a_run_stopped_while_it_is_compared_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    whole = run_to_the_end(simulated_run.start(plan_of(ASKED, 3), tmp_path / "a" / "run", "cpu"))
    run = simulated_run.start(plan_of(ASKED, 3), tmp_path / "b" / "run", "cpu")
    while not run.done:
        run.advance()
    with monkeypatch.context() as patched:
        patched.setattr(simulated_run, "yardsticks", stopped)
        with pytest.raises(KeyboardInterrupt):
            run.conclude()
    again = simulated_run.resume(run.run_dir, "cpu")
    assert again.done
    assert run_to_the_end(again)[0] == whole[0]
    assert (run.run_dir / "summary.json").exists()
    with pytest.raises(ConfigurationError, match="has ended"):
        simulated_run.resume(run.run_dir, "cpu")


@pytest.mark.e2e
def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [*CANDOR, *SMALL, "--rounds", "1000000", "--run-dir", str(run_dir)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        until((run_dir / simulation_file.FILE_NAME).exists, 120)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"candor simulate --resume {run_dir}" in errors.decode()
    assert not (run_dir / "summary.json").exists()
    assert read_run_directory(run_dir).strategies == {"a3": "scale:3"}
    again = simulated_run.resume(run_dir, "cpu")
    done = again.round
    again.advance()
    assert again.round == done + 1
    assert [m.round for m in read_run_directory(run_dir).agents[0].rounds] == list(
        range(1, done + 1)
    )


def test_an_unfinished_run_has_a_report_that_says_so(tmp_path: Path) -> None:
    run = simulated_run.start(plan_of(ASKED, 3), tmp_path / "run", "cpu")
    for _ in range(5):
        run.advance()
    run.save()
    found = read_run_directory(tmp_path / "run")
    assert any("--resume goes on from 5" in note for note in found.notes)
    assert list(found.consensus) == [3]
    assert [one.rounds[-1].balance for one in found.agents] == run.columns.last("balance").tolist()


def test_status_tells_a_running_run_from_a_stopped_and_a_finished_one(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(run_dir: Path) -> tuple[int, dict[str, Any]]:
        code = cli.run(["status", str(run_dir), "--json", "--max-age", "3600"])
        return code, json.loads(capsys.readouterr().out)["agents"]

    run = simulated_run.start(plan_of(ASKED, 3), tmp_path / "run", "cpu")
    assert told(run.run_dir)[1]["a0"]["round"] == 0
    for _ in range(5):
        run.advance()
    run.save()
    code, agents = told(run.run_dir)
    assert (code, list(agents)) == (1, list(run.cluster.ids))
    assert (agents["a3"]["state"], agents["a3"]["round"]) == ("interrupted", 5)
    assert agents["a3"]["balance"] == run.columns.last("balance")[3] < 0
    assert 0 < agents["a3"]["test_accuracy"] < 1
    with DataDirLock(run.run_dir):
        code, agents = told(run.run_dir)
        assert (code, agents["a3"]["state"], agents["a3"]["running"]) == (0, "training", True)
        assert cli.run(["simulate", "--resume", str(run.run_dir)]) == 2  # one at a time
    assert "in use by" in capsys.readouterr().err
    assert cli.run(["status", str(run.run_dir)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "a3 interrupted 5/10" in words
    assert f"stopped after round 5; candor simulate --resume {run.run_dir} goes on" in words
    code, agents = told(small)
    assert (code, {one["state"] for one in agents.values()}) == (0, {"done"})


# --- numbers that are not finite ----------------------------------------------------------------


def strictly(text: str) -> Any:
    """JSON without the nan and infinity that Python's parser takes."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


NAN_TASK = """
import torch
from torch import nn


class Task:
    value = {metric}

    def build_model(self):
        return nn.Linear(2, 1)

    def load_data(self, shard, seed):
        x = torch.ones(400, 2)
        if shard.index == 1:
            x[399, 1] = {value}
        return (x,)

    def loss(self, model, batch):
        return (model(batch[0]) ** 2).mean()

    def evaluate(self, model):
        return self.value
"""


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--step-size", "1e30", "--rule", "none"], "the model of a0 in round 1 (and those of 4"),
        (["--step-size", "1e30"], "a smaller --step-size"),
        (
            ["--rule", "none", "--strategy", "a1=scale:-1e38"],
            "a1 in round 1 is not finite; its strategy scale:-1e38",
        ),
        (["--strategy", "a1=scale:-1e30"], "by round 4 the run diverged: updates of a1"),
    ],
)
def test_a_run_that_diverges_names_who_and_when_and_is_no_success(
    more: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "square.py").write_text(NAN_TASK.format(metric=0.5, value=1.0))
    task = ["--task", "square:Task"] if "by round 4" not in line else []
    run_dir = tmp_path / "run"
    assert cli.run([*SMALL, *task, *more, "--run-dir", str(run_dir)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("candor: error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (run_dir / "summary.json").exists()
    assert cli.run(["status", str(run_dir), "--json"]) == 0
    first = strictly(capsys.readouterr().out)["agents"]["a0"]
    assert first["state"] == "interrupted"
    assert cli.run(["report", str(run_dir)]) == 0


@pytest.mark.parametrize("command", ["simulate", "testbed", "audit"])
@pytest.mark.parametrize("value", ['float("nan")', 'float("inf")'])
def test_a_sample_that_is_no_number_is_named_before_anything_is_left_behind(
    command: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"nan_{command}_{value[7:10]}"
    (tmp_path / f"{module}.py").write_text(NAN_TASK.format(metric=0.5, value=value))
    words = [
        command,
        "--agents",
        "2",
        "--topology",
        "complete",
        "--rounds",
        "4",
        "--run-dir",
        "run",
    ]
    assert cli.run([*words, "--task", f"{module}:Task"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "on sample 399 of agent a1, in round 1: its data hold nan or inf" in error
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_not_defined_is_null_and_not_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_metric.py").write_text(NAN_TASK.format(metric='float("nan")', value=1.0))
    words = ["simulate", "--agents", "2", "--topology", "complete", "--rounds", "4"]
    words += ["--task", "no_metric:Task", "--run-dir"]
    assert cli.run([*words, "run", "--json"]) == 0
    told = strictly(capsys.readouterr().out)
    assert told == strictly((tmp_path / "run" / "summary.json").read_text())
    assert told["accuracy"] == told["alone_accuracy"] == {"a0": None, "a1": None}
    assert told["mean_accuracy"] is told["min_accuracy"] is told["centralised_accuracy"] is None
    assert cli.run([*words, "again"]) == 0
    out = capsys.readouterr().out
    assert "nan" not in out
    assert "0.0 %" not in out


# --- many agents, bad input ---------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_large_runs_have_one_file_and_a_report_of_some_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulated_run, "AGENT_FILES_MAX", 4)
    monkeypatch.setattr("candor.agent.runs.directory.SHOWN_MAX", 4)
    run_dir = tmp_path / "run"
    words = ["--agents", "9", "--partition", "iid", "--run-dir", str(run_dir)]
    assert cli.run([*SMALL, *words]) == 0
    assert {path.name for path in run_dir.iterdir()} == {
        *("cluster.toml", "summary.json", "report.html", "lock", simulation_file.FILE_NAME)
    }
    found = read_run_directory(run_dir)
    assert found.agent_count == 9
    assert "a3" in [one.agent for one in found.agents]
    assert len(found.agents) <= 4
    page = (run_dir / "report.html").read_text()
    assert f"{len(found.agents)} of 9 agents are shown" in page
    assert "9 agents ·" in page
    assert "Who paid whom" not in page
    assert page.count("<img") > 0
    assert empty(page) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["simulate", "--topology", "ring", "--rounds", "3"], "Missing option '--task'"),
        (["simulate", "--resume", "RUN", "--rounds", "3"], "--rounds does not go with --resume"),
        (["simulate", "--resume", "RUN"], "the run has ended"),
        ([*SMALL, "--run-dir", "RUN"], "not empty"),
        ([*SMALL, "--strategy", "a9=scale:3"], "a9=…: no such agent"),
        ([*SMALL, "--device", "cuda"], "device cuda: torch finds none here"),
    ],
)
def test_a_mistake_gets_one_line(
    words: list[str],
    line: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.run([str(small) if word == "RUN" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("candor: error: ")
    assert error.count("\n") == 1
    assert line in error


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "damaged"),
        (lambda path: path.unlink(), "there is no simulation"),
        (
            lambda path: path.with_name("cluster.toml").write_text(
                path.with_name("cluster.toml").read_text().replace("seed = 0", "seed = 1")
            ),
            "cluster.toml was changed",
        ),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(
    damage: Any, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = simulated_run.start(plan_of(ASKED, 3), tmp_path / "run", "cpu")
    damage(run.run_dir / simulation_file.FILE_NAME)
    assert cli.run(["simulate", "--resume", str(run.run_dir)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


WANDERS = """
import os
from candor.agent.tasks import resolve_task

class Wanders:
    def __init__(self):
        self.digits = resolve_task("digits:model=logistic")

    def load_data(self, shard, seed):
        return self.digits.load_data(shard, seed)

    def loss(self, model, batch):
        return self.digits.loss(model, batch)

    def build_model(self):
        print("a word")
        return self.digits.build_model()

    def evaluate(self, model):
        print("another")
        os.chdir(os.path.join(os.path.dirname(__file__), "elsewhere"))
        return self.digits.evaluate(model)
"""


def test_a_task_that_prints_and_goes_elsewhere_leaves_answer_and_files_where_they_belong(
    tmp_path: Path,
) -> None:
    (tmp_path / "wandering.py").write_text(WANDERS)
    (tmp_path / "elsewhere").mkdir()
    asked = ["--agents", "2", "--topology", "complete", "--rounds", "2", "--rule", "none", "--json"]
    found = subprocess.run(
        [*CANDOR, "simulate", *asked, "--task", "wandering:Wanders", "--run-dir", "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["rounds"] == 2
    assert "another" in found.stderr
    assert (tmp_path / "run" / "report.html").exists()
