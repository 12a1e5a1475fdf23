"""Runs of real daemons under fault plans: a network that is cut or garbles, a disk that is full."""

import json
import subprocess
import sys

import pytest

from candor.agent.cli import main as cli
from candor.agent.daemon.metrics import read_metrics
from tests import paced

pytestmark = pytest.mark.e2e


def plan(tmp_path, text):
    path = tmp_path / "faults.toml"
    path.write_text(text, encoding="utf-8")
    return path


def run_under(tmp_path, text, agents, rounds, deadline_s=2):
    """A run under a plan: its summary, the directory and what it told."""
    words = ["testbed", "--agents", str(agents), "--topology", "complete", *paced.TASK]
    words += ["--rounds", str(rounds), "--faults", str(plan(tmp_path, text))]
    words += ["--deadline-s", str(deadline_s)]
    words += ["--start-deadline-s", "30", "--local-steps", "1", "--evaluate-every", "10"]
    words += ["--run-dir", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "candor", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["audit"] == "ok"
    assert not list(tmp_path.glob("run/agents/*/evidence/*"))
    logs = {agent: tmp_path / f"run/agents/{agent}/log.jsonl" for agent in summary["agents"]}
    return summary, {
        agent: [json.loads(line) for line in path.read_text().splitlines()]
        for agent, path in logs.items()
    }


def missed(events):
    """Whom an agent went on without, each time."""
    return [event["peer"] for event in events if event["event"] == "neighbour_missed"]


def test_a_run_survives_a_network_that_is_cut_and_one_that_garbles(tmp_path):
    text = (
        '[[event]]\nat_round = 4\npartition = ["a0", "a1"]\n[[event]]\nat_round = 7\nheal = true\n'
        '[[event]]\nat_round = 32\ncorrupt = "a2"\n'
    )
    # A deadline below the two seconds of corruption: somebody must miss a2. And rounds enough: who
    # was refused some times in a row is dialled again after seconds only.
    summary, events = run_under(tmp_path, text, agents=4, rounds=100, deadline_s=1)
    assert len(summary["accuracy"]) == 4
    across = {"a0": {"a2", "a3"}, "a1": {"a2", "a3"}, "a2": {"a0", "a1"}, "a3": {"a0", "a1"}}
    for agent, others in across.items():
        # Who fell behind at the cut goes on from the others' rounds and misses nobody by itself.
        assert all(o in missed(events[agent]) or agent in missed(events[o]) for o in others)
        lines = read_metrics(tmp_path / f"run/agents/{agent}/metrics.csv")
        assert any(line.round > 40 and line.neighbours_mixed == 3 for line in lines), agent
    # Garbled messages were no messages: nobody accepted or proved anything by them.
    assert "a2" in missed(events["a3"]) or "a3" in missed(events["a2"])
    assert not any("refused" in event["event"] for found in events.values() for event in found)


def test_an_agent_on_a_full_disk_stops_in_one_line_and_goes_on_with_room(tmp_path):
    text = '[[event]]\nat_round = 6\ndisk_full = "a1"\n[[event]]\nat_round = 10\nrestart = "a1"\n'
    # On a loaded machine others are late, which a1 would warn of: the deadline is longer than that.
    summary, events = run_under(tmp_path, text, agents=3, rounds=50, deadline_s=10)
    # One line of its first life and two of its second, each after a word on its local steps.
    lines = (tmp_path / "run/agents/a1/stderr.log").read_text().splitlines()
    exposed, stopped, again, part, ended = lines
    assert exposed == again
    assert exposed.startswith("candor a1: warning: exposed detail=an update is of ")
    assert stopped.startswith("candor: error: a1: ")
    assert stopped.endswith("make room and start again, nothing settled is lost")
    assert part.startswith("candor: as a1 saw it, ")
    assert "a1 performed " in part  # not the rounds between its two lives
    assert ended.startswith(f"candor: a1: done after round {summary['rounds']}")
    assert [event["event"] for event in events["a1"]].count("started") == 2
    assert "re_entered" in {event["event"] for event in events["a1"]}
    assert set(summary["accuracy"]) == {"a0", "a1", "a2"}


def test_an_agent_that_was_left_alone_is_warned_of_everywhere(tmp_path, capsys):
    text = '[[event]]\nat_round = 3\nkill = "a1"\n'
    summary, _ = run_under(tmp_path, text, agents=2, rounds=20, deadline_s=1)
    alone = summary["alone_rounds"]["a0"]
    assert 10 <= alone <= 18
    told = f"a0 mixed with nobody in {alone} of 20 rounds"
    run = tmp_path / "run"
    assert told in (run / "agents/a0/stderr.log").read_text()
    assert told in (run / "report.html").read_text()
    assert cli.run(["status", str(run)]) == 0
    assert told in " ".join(capsys.readouterr().out.split())
    lines = read_metrics(run / "agents/a0/metrics.csv")
    assert sum(line.missing == ("a1",) for line in lines) == alone
