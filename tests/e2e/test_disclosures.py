"""Real daemons that show each other the picked rounds: who lies is proven, and owes its bond."""

import json
import subprocess
import sys

import pytest

from candor.agent.runs.accusations import accusations
from candor.topologies.cluster.file import load_cluster
from tests import paced

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_liar_among_daemons_is_proven_by_both_neighbours_and_owes_its_bond(tmp_path):
    run = tmp_path / "run"
    words = ["--agents", 3, "--topology", "path", "--task", "digits", "--rounds", 8, "--window", 4]
    words += ["--replay", "--disclose", "--bond", 1_000_001, "--deadline-s", 120]
    words += ["--strategy", "a1=scale:1.05", "--run-dir", run]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "candor", "testbed", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == 0, done.stderr
    cluster = load_cluster(run / "cluster.toml")
    found = accusations(cluster, run)
    told = {file: (one.agent, one.kind) for file, one in found.proven.items()}
    proofs = [f"agents/{agent}/evidence/false-report-a1.proof" for agent in ("a0", "a2")]
    assert told == dict.fromkeys(proofs, ("a1", "false-report"))
    assert [(one.agent, one.parts) for one in found.bonds] == [
        ("a1", {"a0": 500_001, "a2": 500_000})
    ]
    events = [
        (agent, event)
        for agent in cluster.ids
        for line in (run / f"agents/{agent}/log.jsonl").read_text().splitlines()
        if (event := json.loads(line)["event"])
    ]
    assert {agent for agent, event in events if event == "misbehaviour_proven"} == {"a0", "a2"}
    assert {agent for agent, event in events if event == "round_done_again"} == {"a1"}
    assert not [one for one in events if one[1] in ("round_not_shown", "round_not_judged")]
    for proof in proofs:  # whoever spoils one accuses nobody
        (run / proof).write_bytes((run / proof).read_bytes()[:-1] + b"x")
    found = accusations(cluster, run)
    assert (found.bonds, found.proven, len(found.worthless)) == ((), {}, 2)
