"""Fault plans: what a file may say, when an event is due, and a run under one."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from candor.agent.testbed import testbed
from candor.agent.testbed.faults import Fault, load_faults
from candor.topologies.specs.specs import ConfigurationError
from tests import paced


def plan(tmp_path, text):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    return path


def test_events_keep_their_order_and_say_when(tmp_path):
    path = plan(
        tmp_path,
        '[[event]]\nat_round = 3\nkill = "a1"\n[[event]]\nat_s = 1.5\ncontinue = "a0"\n',
    )
    first, second = load_faults(path, {"a0", "a1"})
    assert first == Fault("kill", "a1", 3, None)
    assert second == Fault("continue", "a0", None, 1.5)
    assert (first.due(2, 99.0), first.due(3, 0.0)) == (False, True)
    assert (second.due(99, 1.4), second.due(0, 1.5)) == (False, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[event]]\nkill = "a1"\n', "at_round"),
        ('[[event]]\nat_round = 1\nat_s = 2.0\nkill = "a1"\n', "at_round"),
        ("[[event]]\nat_round = 1\n", "exactly one"),
        ('[[event]]\nat_round = 1\nkill = "a1"\nstop = "a0"\n', "exactly one"),
        ('[[event]]\nat_round = 1\nkill = "a7"\n', "a7"),
        ('[[event]]\nat_round = 0\nkill = "a1"\n', "at_round"),
        ('[[event]]\nat_round = 1\nexplode = "a1"\n', "explode"),
        ("[[event", "faults.toml"),
    ],
)
def test_a_bad_plan_is_one_line_that_names_the_file(tmp_path, text, named):
    with pytest.raises(ConfigurationError) as refused:
        load_faults(plan(tmp_path, text), {"a0", "a1"})
    assert named in str(refused.value)
    assert "faults.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_survives_a_killed_a_restarted_and_a_stopped_agent(tmp_path):
    path = plan(
        tmp_path,
        '[[event]]\nat_round = 5\nkill = "a1"\n[[event]]\nat_round = 8\nrestart = "a1"\n'
        '[[event]]\nat_round = 10\nstop = "a3"\n[[event]]\nat_round = 14\ncontinue = "a3"\n'
        '[[event]]\nat_round = 18\nslow = "a2"\n[[event]]\nat_round = 40\ncontinue = "a2"\n'
        '[[event]]\nat_round = 20\nkill = "a4"\n',
    )
    words = ["testbed", "--agents", "5", "--topology", "complete", *paced.TASK]
    words += ["--rounds", "140", "--faults", str(path), "--deadline-s", "2", "--local-steps", "1"]
    words += ["--run-dir", str(tmp_path / "run"), "--json", "--evaluate-every", "10"]
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
    log = (tmp_path / "run/agents/a1/log.jsonl").read_text()
    assert '"re_entered"' in log
    missed = (tmp_path / "run/agents/a0/log.jsonl").read_text()
    assert missed.count('"neighbour_missed", "peer": "a4"') == 1


def test_a_slow_agent_is_held_up_half_of_the_time_until_it_is_continued(tmp_path):
    signals = []
    process = SimpleNamespace(poll=lambda: None, send_signal=signals.append)
    bed = testbed.Testbed(tmp_path, cluster=None, plan=None, processes={"a1": process})
    bed.faults = [Fault("slow", "a1", None, 0.0)]
    for _ in range(4):
        bed.inject_faults()
    assert signals[1:] == [signal.SIGSTOP, signal.SIGCONT] * 2
    assert not bed.stopped
    bed.inject_faults()
    bed.faults = [Fault("continue", "a1", None, 0.0)]
    bed.inject_faults()
    bed.inject_faults()
    assert signals[-2:] == [signal.SIGSTOP, signal.SIGCONT]
