"""The grid of attacks: its runs, its verdicts, and that it goes on where it was stopped."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from candor.agent.cli import main as cli
from candor.agent.cli.studies import robustness
from candor.agent.reports.metric import Metric
from candor.agent.simulation.vectorised import Simulation
from candor.agent.studies.robustness.grid import (
    Cell,
    Place,
    Reached,
    cells_of,
    jobs_of,
    played,
    sources,
    verdicts_of,
)
from candor.agent.studies.robustness.report import collapsed, sentences, summary_rows
from candor.topologies.specs import own
from candor.topologies.specs.specs import ConfigurationError, load_object
from tests.drawn import empty

SMALL = (
    "--agents", "5", "--topology", "complete", "--byzantine", "1", "--max-byzantine", "1",
    "--rounds", "14", "--task", "digits:model=logistic",
)  # fmt: skip


def study(run_dir, *more: str):
    arguments = ["study", "robustness", *SMALL, "--run-dir", str(run_dir), *more]
    return CliRunner().invoke(cli.command, arguments, catch_exceptions=False)


@pytest.mark.usefixtures("drawn")
def test_a_grid_is_printed_kept_and_gone_on_with(tmp_path) -> None:
    grid = ("--aggregator", "mean", "--aggregator", "median")
    first = study(tmp_path, *grid, "--attack", "none", "--attack", "infinity", "--most", "0.1")
    assert first.exit_code == 0, first.output
    assert "at most 0.1 lose, under every attack: median" in first.stdout
    assert "plain mixing collapses under 1: infinity" in first.stdout
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(kept) == 4
    cut = min(kept)
    cut.write_bytes(cut.read_bytes()[:10])  # as a crash may leave it
    more = study(
        tmp_path, *grid, "--attack", "none", "--attack", "infinity", "--attack", "mimic", "--json"
    )
    assert more.exit_code == 0, more.output
    found = json.loads(more.stdout)
    assert found == json.loads((tmp_path / "results.json").read_text())
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(again) == 6
    assert {path for path in kept if again[path] != kept[path]} == {cut}
    assert [one["attack"] for one in found["cells"]] == ["none", "infinity", "mimic"] * 2
    assert found["worst"][0]["attack"] == "infinity"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<picture>") == 2
    assert empty(page) == 0
    assert "nnm" not in page


def small(run_dir, attacks, seeds, *, rounds, local_steps):
    """Jobs of a grid of five agents that all hear each other, and their medians."""
    asked = {
        "agents": 5, "task": "digits:model=logistic", "rounds": rounds, "partition": "iid",
        "batch_size": 8, "algorithm": "decentralized-sgd", "step_size": 0.1, "step_decay": 0.0,
        "local_steps": local_steps, "data_root": None, "max_byzantine": 1,
    }  # fmt: skip

    def planned(topology, seed):
        return robustness._plan(asked, topology, seed)

    return jobs_of(planned, ["complete"], ["median"], attacks, seeds, 1, run_dir)


@pytest.mark.parametrize(
    "change",
    [
        {"honest": {}},
        {"honest": {"a0": 1.0}},
        {"byzantine": ["a9"]},
        {"place": {"topology": "ring", "aggregator": "median", "attack": "none", "seed": 4}},
        {"nan": None},
    ],
)
def test_a_kept_run_that_is_not_of_this_grid_is_run_again(tmp_path, change) -> None:
    jobs = small(tmp_path, ["none"], [4], rounds=1, local_steps=1)
    found = played(jobs, 1)
    (job,) = jobs
    written = json.loads(job.path.read_text())
    if "nan" in change:
        change = {"honest": dict.fromkeys(written["honest"], float("nan"))}
    job.path.write_text(json.dumps(written | change))
    assert played(jobs, 1) == found
    assert json.loads(job.path.read_text()) == written


def test_a_run_is_that_of_the_simulation_and_counts_honest_agents_alone(tmp_path) -> None:
    jobs = small(tmp_path, ["none", "ipm:2"], [4, 5], rounds=3, local_steps=2)
    found = played(jobs, 1)
    for job in jobs:
        simulation = Simulation(job.cluster, job.strategies, measured=False)
        for _ in range(3):
            simulation.step()
        values = dict(zip(job.cluster.ids, simulation.evaluate(), strict=True))
        honest = {a: one.value for a, one in values.items() if a not in job.strategies}
        assert found[job.place] == Reached(honest, tuple(job.strategies))
        assert len(honest) == 5 - (job.place.attack != "none")


def reached(*values: float) -> Reached:
    return Reached({f"a{i}": value for i, value in enumerate(values)}, ())


def test_cells_are_means_over_agents_and_seeds_and_the_worst_attack_is_that_of_the_mean() -> None:
    found = {
        Place("ring", "mean", "none", 0): reached(0.9, 0.8),
        Place("ring", "mean", "none", 1): reached(0.7, 0.8),
        Place("ring", "mean", "ipm", 0): reached(0.5, 0.1),
        Place("ring", "mean", "ipm", 1): reached(0.3, 0.3),
        Place("ring", "mean", "alie", 0): reached(0.6, 0.05),
        Place("ring", "mean", "alie", 1): reached(0.6, 0.6),
    }
    cells = cells_of(found)
    assert [(one.attack, one.worst) for one in cells] == [
        ("none", 0.7), ("ipm", 0.1), ("alie", 0.05),
    ]  # fmt: skip
    assert np.allclose([one.mean for one in cells], [0.8, 0.3, 0.4625])
    [verdict] = verdicts_of(cells)
    assert verdict.worst.attack == "ipm"
    assert verdict.loses == pytest.approx(0.5)
    assert verdict.learns(0.05)
    assert sentences([verdict], 0.5 + 1e-9)[0].endswith("attack: mean")
    assert sentences([verdict], 0.4) == ["no aggregator loses at most 0.4 under every attack"]
    assert collapsed(cells, "mean", 0.05) == ["ipm"]
    with pytest.raises(ConfigurationError, match="nothing to withstand"):
        verdicts_of([Cell("ring", "mean", "none", 1.0, 1.0)])


def test_who_never_learns_loses_what_the_best_aggregator_reaches() -> None:
    cells = [
        Cell("ring", "mean", "none", 0.9, 0.9),
        Cell("ring", "mean", "ipm", 0.1, 0.1),
        Cell("ring", "cge", "none", 0.12, 0.1),
        Cell("ring", "cge", "ipm", 0.11, 0.1),
        Cell("star", "cge", "none", 0.3, 0.3),
        Cell("star", "cge", "ipm", 0.2, 0.2),
    ]
    loses = [(one.aggregator, round(one.loses, 9), one.learns(0.05)) for one in verdicts_of(cells)]
    assert loses == [("mean", 0.8, True), ("cge", 0.79, False), ("cge", 0.1, True)]
    rows = summary_rows(verdicts_of(cells), Metric.of({}), 0.05)
    assert [row[0] for row in rows] == ["mean", "cge (does not learn)", "cge"]


def test_a_kept_run_is_of_the_code_of_the_user_s_attack(tmp_path, monkeypatch) -> None:
    """And of what is imported of the modules beside it."""
    name = f"mine{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    monkeypatch.setattr(own, "__path__", [str(tmp_path)])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}_beside.py").write_text("FACTOR = 2\n")
    attack = tmp_path / f"{name}.py"
    attack.write_text(
        f"from {name}_beside import FACTOR\n\nclass Bad:\n"
        "    def sent(self, vectors, context):\n        return vectors\n"
    )
    spec = f"scale:2 + {name}:Bad @ 2-"
    load_object(f"{name}:Bad", "strategy")
    paths = []
    for changed in (None, None, attack, tmp_path / f"{name}_beside.py"):
        if changed is not None:
            changed.write_text(changed.read_text() + "# another\n")
        [job] = small(tmp_path, [spec], [4], rounds=1, local_steps=1)
        paths.append(job.path)
    assert paths[0] == paths[1]
    assert len(set(paths)) == 3
    assert sources("scale:2", "digits") == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--attack", "none"), "nothing to withstand"),
        (("--attack", "lie"), "strategy 'lie' is unknown"),
        (("--aggregator", "bridge", "--max-byzantine", "2"), "needs 5 neighbours or more"),
        (("--byzantine", "3"), "found no 3 agents of complete"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, capsys, more, words) -> None:
    arguments = ["study", "robustness", *SMALL, "--run-dir", str(tmp_path / "out"), *more]
    assert cli.run(arguments) == 2
    assert words in capsys.readouterr().err
