"""Real daemons of different speed, of which nobody waits for who is slow."""

import json
import subprocess
import sys

import pytest

from candor.agent.daemon.metrics import read_metrics
from candor.topologies.cluster.file import load_cluster
from tests import paced

CANDOR = [sys.executable, "-P", "-m", "candor"]
SLOW = '[[event]]\nat_round = 1\nslow = "a1"\nspeed = 0.1\n'
RUN_S = 240
pytestmark = pytest.mark.e2e


def test_who_is_slow_sits_rounds_out_and_ends_with_the_others(tmp_path):
    faults, run_dir = tmp_path / "slow.toml", tmp_path / "run"
    faults.write_text(SLOW)
    words = ["testbed", "--agents", "3", "--topology", "complete", "--pace", "async"]
    words += ["--task", "digits", "--rounds", "60", "--faults", faults, "--run-dir", run_dir]
    done = subprocess.run(
        [*CANDOR, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert load_cluster(run_dir / "cluster.toml").rounds.pace == "async"
    stated = {a: read_metrics(run_dir / "agents" / a / "metrics.csv") for a in ("a0", "a1", "a2")}
    assert len(stated["a1"]) < len(stated["a0"])
    assert all(lines[-1].round == 60 for lines in stated.values())
    log = (run_dir / "agents" / "a1" / "log.jsonl").read_text()
    assert '"sat_out"' in log
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["participation"]["a1"]["share"] < 1.0
    assert "every ledger adds up" in done.stdout
