"""`candor study fairness`, small."""

import json

import pytest

from candor.agent.cli import main as cli

RUN = ("study", "fairness", "--task", "digits", "--rounds", "2", "--workers", "1")


def test_a_study_is_printed_and_gone_on_with(tmp_path, capsys) -> None:
    folder = ["--run-dir", str(tmp_path)]
    few = [*RUN, "--partition", "pow", "--agents", "3", "--methods", "cgsv:beta=2"]
    assert cli.run([*few, *folder]) == 0
    assert "cgsv:beta=2" in capsys.readouterr().out
    kept = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert len(kept) == 2, "agents alone are run, too"
    more = [
        *RUN,
        "--partition",
        "pow",
        "--agents",
        "3",
        "--methods",
        "fedavg,cgsv:beta=2",
    ]
    assert cli.run([*more, "--json", *folder]) == 0
    found = json.loads(capsys.readouterr().out)
    (cell,) = found["cells"]
    names = [one["method"] for one in cell["methods"]]
    assert names == ["standalone", "fedavg", "cgsv:beta=2"]
    assert cell["methods"][1]["rho"] is None
    now = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert len(now) == 3
    assert now.items() >= kept.items()
    assert "test accuracy by agent" in (tmp_path / "report.html").read_text()


def test_corrupted_labels_and_free_riders_are_told_by_agent(tmp_path, capsys) -> None:
    asked = [
        "--partition",
        "uni",
        "--methods",
        "cgsv",
        "--corrupted",
        "80,0,0",
        "--free-riders",
        "1",
    ]
    code = cli.run([*RUN, *asked, "--run-dir", str(tmp_path)])
    out = capsys.readouterr().out
    assert code in (0, 1)
    assert "80/0/0 % of labels corrupted, 1 free-riders" in out
    assert "what agents were given" in out
    assert (code == 1) == ("does not hold" in out)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--methods", "cgsv,fedavgg"], "method 'fedavgg' is unknown"),
        (["--task", "a9a"], "not in the study"),
        (["--corrupted", "20,many"], "give numbers"),
        (["--corrupted", "20,120"], "from 0 to 100 percent"),
        (["--corrupted", "20,nan"], "from 0 to 100 percent"),
        (["--corrupted", "20,10", "--agents", "3"], "names 2 agents, and there are 3"),
        (["--agents", "3", "--free-riders", "2"], "fewer than two others"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_runs_nothing(tmp_path, capsys, asked, words) -> None:
    folder = tmp_path / "study"
    assert cli.run([*RUN, *asked, "--run-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not folder.exists()
