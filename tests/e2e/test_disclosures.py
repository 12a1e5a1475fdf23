"""Real daemons that show each other the picked rounds: who lies is proven, and owes its bond."""

import json
import subprocess
import sys

import pytest

from tests import paced

pytestmark = pytest.mark.e2e


def candor(*words, code=0):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "candor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_a_liar_among_daemons_is_proven_by_both_neighbours_and_owes_its_bond(tmp_path):
    run = tmp_path / "run"
    words = ["--agents", 3, "--topology", "path", "--task", "digits", "--rounds", 8, "--window", 4]
    words += ["--replay", "--disclose", "--bond", 1_000_001, "--deadline-s", 120, "--json"]
    candor("testbed", *words, "--strategy", "a1=scale:1.05", "--run-dir", run)
    proofs = {f: run / f"agents/{f}/evidence/false-report-a1.proof" for f in ("a0", "a2")}
    told = json.loads(
        candor("evidence", "verify", *proofs.values(), "--cluster", run / "cluster.toml", "--json")
    )
    assert [(one["agent"], one["told"]) for one in told["files"]] == [("a1", "false")] * 2
    audit = json.loads(candor("ledger", "audit", run, "--json"))
    assert audit["bonds"] == [{"agent": "a1", "parts": {"a0": 500_001, "a2": 500_000}}]
    assert audit["sum"] == 0
    assert {one["agent"] for one in audit["proven"]} == {"a1"}
    events = [
        json.loads(line)["event"]
        for agent in ("a0", "a2")
        for line in (run / f"agents/{agent}/log.jsonl").read_text().splitlines()
    ]
    assert events.count("misbehaviour_proven") == 2
    assert "round_not_shown" not in events
    for proof in proofs.values():  # whoever spoils one accuses nobody
        proof.write_bytes(proof.read_bytes()[:-1] + b"x")
    audit = json.loads(candor("ledger", "audit", run, "--json"))
    assert (audit["bonds"], audit["proven"], len(audit["worthless"])) == ([], [], 2)
