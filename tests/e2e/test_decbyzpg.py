"""Real daemons that learn a policy among attackers, against a simulation of the same file."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest

from candor.agent.cli import main as cli
from tests import paced

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


def test_an_agent_that_is_killed_in_the_middle_comes_back_and_nobody_is_accused(tmp_path) -> None:
    """SIGKILL, whatever exchange it is in, and a new process on its data directory."""
    faults = tmp_path / "faults.toml"
    faults.write_text(
        '[[event]]\nat_round = 5\nkill = "a3"\n[[event]]\nat_round = 6\nrestart = "a3"\n'
    )
    words = ["testbed", "--algorithm", "dec-byz-pg", "--agents", "5", "--topology", "complete"]
    words += ["--task", "tests.paced:PacedCartPole", "--max-byzantine", "1", "--rounds", "40"]
    words += ["--agreement-rounds", "2", "--window", "4", "--deadline-s", "2", "--json"]
    words += ["--faults", str(faults), "--start-deadline-s", "30", "--evaluate-every", "30"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "candor", *words, "--run-dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads(done.stdout)
    assert summary["audit"] == "ok"
    assert summary["mean_return"] > 5
    assert not list(tmp_path.glob("run/agents/*/evidence/*"))
    log = (tmp_path / "run/agents/a3/log.jsonl").read_text()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("started") == 2
    assert "re_entered" in events
