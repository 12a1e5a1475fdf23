"""The page of runs whose metric is not accuracy, or is measured on agents' own data, too."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from candor.agent.daemon.metrics import MetricsWriter, RoundMetrics
from candor.agent.daemon.status import Status, StatusFile
from candor.agent.reports.run_page import render
from candor.agent.runs.directory import read_run_directory
from tests.agent.reports.test_run_page import _metrics, _Page, _write_run

IDS = ("a0", "a1")


def gather(folder: Path, metric: str = "rmse", **task: Any) -> Path:
    """What two hosts left, without any summary: a0 has a status, a1 lines of metrics alone."""
    for agent, value in zip(IDS, (1.5, 2.5), strict=True):
        data_dir = folder / agent
        data_dir.mkdir(parents=True)
        named = {metric: value, "r2": -0.125, "mae": value / 2}
        with MetricsWriter(data_dir / "metrics.csv") as writer:
            for t in (1, 2):
                line = RoundMetrics(t, 0.1 * t, 1 / t, value, 2.0, 0, 9, 9, 1)
                writer.write(replace(line, local_metric=10 * value, metrics=named))
            writer.write(RoundMetrics(3, 0.3, 0.3, None, 2.0, 0, 9, 9, 1))  # not evaluated
        if agent == "a0":
            fields = ("test", agent, "ab" * 32, 1, "done", 3, 3)
            found = Status(
                *fields, test_accuracy=value, metric=metric, metrics=named, local_metric=10 * value
            )
            StatusFile(data_dir).write(replace(found, better="lower"))
        cluster = {
            "run_id": "test",
            "task": {"name": "my_task:Sales", "metric": metric, "better": "lower"} | task,
            "rounds": {"rounds": 3},
            "graph": {"edges": [list(IDS)]},
            "agents": [{"id": each} for each in IDS],
        }
        (data_dir / "cluster.toml").write_text(tomli_w.dumps(cluster))
    return folder


def page_of(path: Path) -> tuple[_Page, str]:
    page = _Page(render(read_run_directory(path)))
    return page, " ".join(page.text.split())


def test_curves_tiles_and_tables_have_the_metrics_name_and_direction(tmp_path: Path) -> None:
    page, words = page_of(gather(tmp_path / "hosts"))
    assert page.images[:2] == [
        "Test rmse: test rmse by round",
        "Rmse on own data: rmse on data of the agent's own by round",
    ]
    assert "Test rmse On samples that nobody trains on, lower is better." in words
    assert "on data that this agent alone has, lower is better" in words
    assert "2 mean rmse 20 on own data, mean" in words
    assert "Rmse on samples that nobody trains on, lower is better. Balance" in words
    header = "agent state rounds rmse own data r2 mae balance sent missed alone"
    assert f"{header} a0 done 3 1.5 15 -0.125 0.75 0.000000 0 B 0 0" in words
    assert "a1 unknown 3 2.5 25 -0.125 1.25 0.000000 - 0 0" in words
    assert "ccuracy" not in words
    assert " % " not in words


def test_one_hosts_page_has_its_own_values(tmp_path: Path) -> None:
    _, words = page_of(gather(tmp_path / "hosts") / "a0")
    assert "1.5 rmse 15 on own data" in words
    assert "mean rmse" not in words


def test_what_a_summary_says_comes_first(tmp_path: Path) -> None:
    run_dir = _write_run(tmp_path)
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {
        "metric": "rmse",
        "better": "lower",
        "metrics": {"a0": {"rmse": 0.951, "r2": 0.5}},
        "local_metric": {"a0": 2.0},
    }
    (run_dir / "summary.json").write_text(json.dumps(summary))
    _, words = page_of(run_dir)
    assert "0.951 mean rmse 0.944 worst rmse 2 on own data, mean 0.972 one model" in words
    assert "a0 honest done 24 0.951 2 0.5 1.542857" in words
    assert "a1 honest done 24 0.951 - - 1.542857" in words


def test_a_run_of_an_earlier_version_is_of_accuracy(tmp_path: Path) -> None:
    page, words = page_of(_write_run(tmp_path))
    assert page.images[0] == "Test accuracy: test accuracy (%) by round"
    assert "own data" not in words
    assert "Accuracy on samples that nobody trains on, higher is better. Balance" in words


def test_accuracy_on_own_data_is_told_in_per_cent(tmp_path: Path) -> None:
    run_dir = _write_run(tmp_path)
    path = run_dir / "agents" / "a0" / "metrics.csv"
    path.unlink()
    with MetricsWriter(path) as writer:
        for line in _metrics(0, np.random.default_rng(0)):
            writer.write(replace(line, local_metric=line.test_accuracy))
    summary = json.loads((run_dir / "summary.json").read_text()) | {"local_metric": {"a0": 0.5}}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    page, words = page_of(run_dir)
    assert page.images[1] == (
        "Accuracy on own data: accuracy (%) on data of the agent's own by round"
    )
    assert "a0 honest done 24 95.1 % 50.0 % 1.542857" in words


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>'\"&amp;$x^2$", "#" * 300, "\ud800"])
def test_a_metrics_name_cannot_break_out_of_the_text(attack: str, tmp_path: Path) -> None:
    run_dir = _write_run(tmp_path)
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {"metric": attack, "metrics": {"a0": {attack + "2": 1.5, "worse": [7]}}}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    source = render(read_run_directory(run_dir))
    page = _Page(source)
    assert source.encode()
    assert "script" not in page.tags
    assert "1.5" in page.text
    assert "#" * 61 not in page.text
