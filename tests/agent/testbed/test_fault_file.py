"""Fault plans as files: what one may say, and what is told of one that cannot be."""

import pytest

from candor.agent.testbed.drawn_faults import Drawing, draw_faults
from candor.agent.testbed.fault_file import (
    ACTIONS,
    CORRUPT_S,
    DELAY_S_MAX,
    HALF,
    dump_faults,
    load_faults,
)
from candor.agent.testbed.faults import AMOUNTS, MEMBERS, PASSING, Fault
from candor.topologies.specs.specs import ConfigurationError

ROUNDS = 40


def plan(tmp_path, text):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    return path


def test_events_keep_their_order_and_say_when(tmp_path):
    path = plan(
        tmp_path,
        '[[event]]\nat_round = 3\nkill = "a1"\n[[event]]\nat_s = 1.5\nstop = "a0"\n',
    )
    first, second = load_faults(path, ("a0", "a1"), ROUNDS)
    assert first == Fault("kill", ("a1",), 3, None)
    assert second == Fault("stop", ("a0",), None, 1.5)
    assert (first.due(2, 99.0), first.due(3, 0.0)) == (False, True)
    assert (second.due(99, 1.4), second.due(0, 1.5)) == (False, True)


AGENTS = ("a0", "a1", "a2", "a3")


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ('kill = "all"', AGENTS),
        ('restart = ["a2", "a0"]', ("a2", "a0")),
        ('stop = ["a1", "all"]', AGENTS),
        ('disk_full = "a1"', ("a1",)),
    ],
)
def test_an_event_names_one_several_or_all(tmp_path, text, agents):
    (fault,) = load_faults(plan(tmp_path, f"[[event]]\nat_s = 1\n{text}\n"), AGENTS, ROUNDS)
    assert fault == Fault(text.split(" =")[0], agents, None, 1.0)


@pytest.mark.parametrize(("value", "agents"), [("true", AGENTS), ('"a3"', ("a3",))])
def test_who_is_healed_is_named_or_is_everybody(tmp_path, value, agents):
    text = f'[[event]]\nat_s = 1\npartition = "a1"\n[[event]]\nat_s = 2\nheal = {value}\n'
    _, fault = load_faults(plan(tmp_path, text), AGENTS, ROUNDS)
    assert fault == Fault("heal", agents, None, 2.0)


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
    (fault,) = load_faults(plan(tmp_path, text), AGENTS, ROUNDS)
    assert fault == Fault("partition", AGENTS, 2, None, groups)


@pytest.mark.parametrize(
    ("text", "until_round", "for_s", "amount"),
    [
        ('kill = "a1"\nuntil_round = 9', 9, None, None),
        ('stop = "a1"\nfor_s = 3', None, 3.0, None),
        ('slow = "a1"', None, None, HALF),
        ('slow = "a1"\nspeed = 0.1', None, None, 0.1),
        ('corrupt = "a1"', None, CORRUPT_S, None),
        ('corrupt = "a1"\nuntil_round = 5', 5, None, None),
        ('corrupt = "a1"\nfor_s = 0.5', None, 0.5, None),
        ('loss = "a1"\nloss_share = 0.05', None, None, 0.05),
        ('delay = "a1"\ndelay_s = 1', None, None, 1.0),
        ('bandwidth = "a1"\nbytes_per_s = 1000\nfor_s = 2', None, 2.0, 1000),
    ],
)
def test_an_event_says_how_much_and_until_when(tmp_path, text, until_round, for_s, amount):
    (fault,) = load_faults(plan(tmp_path, f"[[event]]\nat_round = 2\n{text}\n"), AGENTS, ROUNDS)
    assert (fault.until_round, fault.for_s, fault.amount) == (until_round, for_s, amount)
    end = fault.end(7.0)
    if until_round is None and for_s is None:
        assert end is None
    else:
        due = (until_round, None) if for_s is None else (None, 7.0 + for_s)
        assert end == Fault("end", ("a1",), *due, of=fault)


def test_what_has_an_amount_or_an_end_is_an_action():
    assert {*AMOUNTS, *PASSING} < set(ACTIONS)
    lasting = {"restart", "continue", "disk_free", "heal", *MEMBERS}
    assert set(ACTIONS) - set(PASSING) == lasting


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_is_read_again_as_it_was_written(tmp_path, seed):
    drawn = draw_faults(Drawing(seed), AGENTS, ROUNDS)
    path = plan(tmp_path, dump_faults(drawn, AGENTS, "A plan."))
    assert load_faults(path, AGENTS, ROUNDS) == drawn
    assert path.read_text().startswith("# A plan.\n\n[[event]]\n")


def test_a_written_plan_has_everything_that_was_given(tmp_path):
    text = (
        '[[event]]\nat_s = 1.5\nkill = "all"\nfor_s = 2.5\n'
        '[[event]]\nat_round = 7\npartition = [["a1", "a3"], ["a0"]]\n'
        "[[event]]\nat_round = 8\nheal = true\n"
        '[[event]]\nat_round = 9\nbandwidth = ["a2"]\nbytes_per_s = 5000\nuntil_round = 12\n'
        '[[event]]\nat_round = 9\nloss = "a2"\nloss_share = 0.25\n'
    )
    given = load_faults(plan(tmp_path, text), AGENTS, ROUNDS)
    again = load_faults(plan(tmp_path, dump_faults(given, AGENTS, "x")), AGENTS, ROUNDS)
    assert again == given


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
        ('[[event]]\nat_round = 1\nkill = "a1"\nspeed = 0.5\n', "speed says nothing about kill"),
        ('[[event]]\nat_round = 1\nslow = "a1"\nspeed = 1\n', "speed"),
        ('[[event]]\nat_round = 1\nloss = "a1"\n', "add loss_share"),
        ('[[event]]\nat_round = 1\nloss = "a1"\nloss_share = 1.0\n', "loss_share"),
        ('[[event]]\nat_round = 1\nloss = "a1"\nloss_share = "most"\n', "loss_share"),
        ('[[event]]\nat_round = 1\ndelay = "a1"\n', "add delay_s"),
        (f'[[event]]\nat_s = 1\ndelay = "a1"\ndelay_s = {DELAY_S_MAX + 1}\n', "delay_s"),
        ('[[event]]\nat_round = 1\nbandwidth = "a1"\n', "add bytes_per_s"),
        ('[[event]]\nat_round = 1\nbandwidth = "a1"\nbytes_per_s = 0\n', "bytes_per_s"),
        ('[[event]]\nat_round = 1\nrestart = "a1"\nfor_s = 1\n', "restart has no end"),
        ('[[event]]\nat_round = 3\nkill = "a1"\nuntil_round = 3\n', "not after at_round"),
        ('[[event]]\nat_round = 3\nkill = "a1"\nuntil_round = 5\nfor_s = 1\n', "either"),
        ('[[event]]\nat_round = 3\nkill = "a1"\nfor_s = 0\n', "for_s"),
        ('[[event]]\nat_round = 41\nkill = "a1"\n', "the run has 40 rounds"),
        ('[[event]]\nat_round = 4\nkill = "a1"\nuntil_round = 41\n', "the run has 40 rounds"),
        ("[[event]]\nat_s = 4\nheal = true\n", "no partition or corrupt"),
        ('[[event]]\nat_s = nan\nkill = "a1"\n', "at_s"),
    ],
)
def test_a_bad_plan_is_one_line_that_names_the_file(tmp_path, text, named):
    with pytest.raises(ConfigurationError) as refused:
        load_faults(plan(tmp_path, text), ("a0", "a1"), ROUNDS)
    assert named in str(refused.value)
    assert "faults.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_bad_event_is_named(tmp_path):
    text = '[[event]]\nat_s = 1\nkill = "a1"\n[[event]]\nat_s = 2\nheal = "a0"\n'
    with pytest.raises(ConfigurationError, match=r"faults\.toml: event\[1\]: heal: no partition"):
        load_faults(plan(tmp_path, text), AGENTS, ROUNDS)
