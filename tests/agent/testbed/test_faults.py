"""Fault plans: what a file may say, and when an event is due."""

import signal
import time
from types import SimpleNamespace

import pytest

from candor.agent.testbed import testbed
from candor.agent.testbed.faults import CORRUPT_S, Fault, load_faults
from candor.agent.testbed.proxy import Proxy
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
    assert first == Fault("kill", ("a1",), 3, None)
    assert second == Fault("continue", ("a0",), None, 1.5)
    assert (first.due(2, 99.0), first.due(3, 0.0)) == (False, True)
    assert (second.due(99, 1.4), second.due(0, 1.5)) == (False, True)


AGENTS = ("a0", "a1", "a2", "a3")


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ('kill = "all"', AGENTS),
        ('restart = ["a2", "a0"]', ("a2", "a0")),
        ("heal = true", AGENTS),
        ('heal = "a3"', ("a3",)),
        ('corrupt = ["a1", "all"]', AGENTS),
        ('disk_full = "a1"', ("a1",)),
    ],
)
def test_an_event_names_one_several_or_all(tmp_path, text, agents):
    (fault,) = load_faults(plan(tmp_path, f"[[event]]\nat_s = 1\n{text}\n"), AGENTS)
    assert fault == Fault(text.split(" =")[0], agents, None, 1.0)


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        ('"a1"', (("a1",), ("a0", "a2", "a3"))),
        ('["a1", "a3"]', (("a1", "a3"), ("a0", "a2"))),
        ('[["a1", "a3"], ["a0"]]', (("a1", "a3"), ("a0",), ("a2",))),
        ('[["a1", "a3"], ["a0", "a2"]]', (("a1", "a3"), ("a0", "a2"))),
    ],
)
def test_a_partition_has_groups_and_who_is_not_named_is_one_more(tmp_path, value, groups):
    text = f"[[event]]\nat_round = 2\npartition = {value}\n"
    (fault,) = load_faults(plan(tmp_path, text), AGENTS)
    assert fault == Fault("partition", AGENTS, 2, None, groups)


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
        ("[[event]]\nat_round = 1\nkill = []\n", "kill"),
        ('[[event]]\nat_round = 1\nkill = [["a1"]]\n', "kill"),
        ("[[event]]\nat_round = 1\nheal = false\n", "heal"),
        ('[[event]]\nat_round = 1\ncorrupt = ["a0", "a8"]\n', "a8"),
        ('[[event]]\nat_round = 1\npartition = "all"\n', "one side"),
        ('[[event]]\nat_round = 1\npartition = ["a0", "a1"]\n', "one side"),
        ('[[event]]\nat_round = 1\npartition = [["a0"], ["a0"]]\n', "each in one"),
        ('[[event]]\nat_round = 1\npartition = [["a0"], "a1"]\n', "partition"),
    ],
)
def test_a_bad_plan_is_one_line_that_names_the_file(tmp_path, text, named):
    with pytest.raises(ConfigurationError) as refused:
        load_faults(plan(tmp_path, text), {"a0", "a1"})
    assert named in str(refused.value)
    assert "faults.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


def bed_of(tmp_path, *faults, agents=("a1",)):
    """A testbed whose processes are those of nobody, and the signals that they got."""
    signals = []
    process = SimpleNamespace(poll=lambda: None, send_signal=signals.append)
    cluster = SimpleNamespace(ids=agents)
    processes = dict.fromkeys(agents, process)
    bed = testbed.Testbed(tmp_path, cluster=cluster, plan=None, processes=processes)
    bed.faults = list(faults)
    return bed, signals


def test_a_slow_agent_is_held_up_half_of_the_time_until_it_is_continued(tmp_path):
    bed, signals = bed_of(tmp_path, Fault("slow", ("a1",), None, 0.0))
    for _ in range(4):
        bed.inject_faults()
    assert signals[1:] == [signal.SIGSTOP, signal.SIGCONT] * 2
    assert not bed.stopped
    bed.inject_faults()
    bed.faults = [Fault("continue", ("a1",), None, 0.0)]
    bed.inject_faults()
    bed.inject_faults()
    assert signals[-2:] == [signal.SIGSTOP, signal.SIGCONT]


def test_who_is_stopped_with_everybody_is_waited_for_if_the_plan_says_when(tmp_path):
    bed, _ = bed_of(tmp_path, Fault("stop", ("a0", "a1"), None, 0.0), agents=("a0", "a1"))
    bed.inject_faults()
    assert bed.stopped == {"a0", "a1"}
    assert not bed.all_held()
    bed.faults = [Fault("continue", ("a1",), 9, None)]
    assert not bed.all_held()  # nobody is left who would reach that round
    bed.faults.append(Fault("continue", ("a0",), None, 1e6))
    assert bed.all_held()
    bed.stopped.discard("a1")
    assert not bed.all_held()


def test_corruption_ends_by_itself_or_heals(tmp_path):
    bed, _ = bed_of(tmp_path, Fault("corrupt", ("a0", "a1"), None, 0.0), agents=("a0", "a1"))
    bed.proxy = Proxy({})
    bed.proxy.start()
    try:
        bed.started_s = time.monotonic()
        bed.inject_faults()
        assert bed.proxy.garbled == {"a0", "a1"}
        bed.faults.append(Fault("heal", ("a0",), None, 0.0))
        bed.inject_faults()
        assert bed.proxy.garbled == {"a1"}
        bed.started_s -= CORRUPT_S
        bed.inject_faults()
        assert (bed.proxy.garbled, bed.faults) == (frozenset(), [])
    finally:
        bed.proxy.close()


def test_who_was_restarted_too_late_does_not_end_the_run(tmp_path):
    bed, _ = bed_of(tmp_path, agents=("a0", "a1"))
    bed.processes = dict.fromkeys(bed.cluster.ids, SimpleNamespace(poll=lambda: 1))
    bed.statuses = dict.fromkeys(bed.cluster.ids, SimpleNamespace(round=0))
    bed.restarted = {"a1"}
    assert (bed.never_trained(), list(bed.failed())) == (["a0"], ["a0", "a1"])
