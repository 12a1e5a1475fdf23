"""Real daemons some of which attack: who hides a poison is named, who equivocates is proven."""

import json

import pytest

from candor.agent.cli import main as cli
from tests.e2e.test_runtimes_agree import run_testbed

pytestmark = pytest.mark.e2e
HIDES, EQUIVOCATES, HONEST = "a1", "a3", ("a0", "a2", "a4")


def events(run_dir, agent, name):
    lines = (run_dir / "agents" / agent / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_honest_daemons_name_both_attackers_and_settle_among_themselves(tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_testbed(
        run_dir,
        *("--task", "digits:hidden=16"),  # 1,210 parameters: more than a sketch has
        *("--agents", "5", "--topology", "complete", "--rounds", "6", "--window", "4"),
        *("--aggregator", "rfa", "--max-byzantine", "2"),
        *("--strategy", f"{HIDES}=hidden:50", "--strategy", f"{EQUIVOCATES}=large-noise:1 @ 3-"),
    )
    for agent in HONEST:
        refused = events(run_dir, agent, "update_refused")
        named = [event["round"] for event in refused if event["peer"] == HIDES]
        assert named[:4] == [1, 2, 3, 4]
        assert {event["code"] for event in refused} == {"distance-hidden"}
        assert {event["peer"] for event in refused} <= {HIDES, EQUIVOCATES}
        (proven,) = events(run_dir, agent, "misbehaviour_proven")
        assert (proven["peer"], proven["kind"]) == (EQUIVOCATES, "equivocation")
        (proof,) = (run_dir / "agents" / agent / "evidence").iterdir()
        capsys.readouterr()
        cluster = str(run_dir / "cluster.toml")
        assert cli.run(["evidence", "verify", str(proof), "--cluster", cluster]) == 0
        assert f"{EQUIVOCATES}: equivocation in round 3: guilty" in capsys.readouterr().out
    assert cli.run(["ledger", "audit", str(run_dir)]) == 0
