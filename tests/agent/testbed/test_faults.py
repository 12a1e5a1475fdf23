"""Fault plans: what a file may say, and when an event is due."""

import signal
from types import SimpleNamespace

import pytest

from candor.agent.testbed import testbed
from candor.agent.testbed.faults import Fault, load_faults
from candor.topologies.specs.specs import ConfigurationError


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
