"""Real daemons that learn a policy among attackers, against a simulation of the same file."""

import json
from contextlib import redirect_stdout
from io import StringIO

import pytest

from candor.agent.cli import main as cli

pytestmark = pytest.mark.e2e


def test_daemons_agree_and_learn_what_a_simulation_does(tmp_path) -> None:
    run_dir = tmp_path / "run"
    words = ["testbed", "--algorithm", "dec-byz-pg", "--agents", "5", "--topology", "complete"]
    words += ["--task", "cartpole:hidden=4,horizon=50", "--byzantine", "1:random-action"]
    words += ["--agreement-rounds", "2", "--rounds", "5", "--run-dir", str(run_dir), "--json"]
    with redirect_stdout(StringIO()) as out:
        assert cli.run(words) == 0
    summary = json.loads(out.getvalue())
    assert summary["audit"] == "ok"
    assert "mean_return" in summary
    assert summary["agreement_moves"] == {"mean": 0.0, "max": 0}  # all hear the same
    assert "exchanges that moved the policy" in (run_dir / "report.html").read_text()
    with redirect_stdout(StringIO()) as out:
        assert cli.run(["study", "decbyzpg", "--daemons", str(run_dir), "--json"]) == 0
    found = json.loads(out.getvalue())
    assert (found["agents"], found["honest"], found["rounds"]) == (5, 4, 5)
    assert found["agree"]
    assert found["equal"]
    assert found["moved"] > 1e-3
