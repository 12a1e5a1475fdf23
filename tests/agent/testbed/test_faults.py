"""Events: when they are due and end, and which of them cannot come about."""

import re
from contextlib import contextmanager

import pytest

from candor.agent.testbed.faults import Fault, check
from candor.topologies.specs.specs import ConfigurationError

AGENTS = ("a0", "a1", "a2", "a3")
ROUNDS = 40


@contextmanager
def located(place):
    try:
        yield
    except ConfigurationError as exc:
        raise ConfigurationError(f"{place}: {exc}") from exc


def at(moment, action, agents=AGENTS, **more):
    """An event in a round, or at a time if that is a float."""
    timed = isinstance(moment, float)
    groups = (("a0",), ("a1", "a2", "a3")) if action == "partition" else ()
    return Fault(
        action, agents, None if timed else moment, moment if timed else None, groups, **more
    )


def wrong(*faults):
    """What is told of a plan, None of one that may come about."""
    try:
        check(faults, AGENTS, ROUNDS, located)
    except ConfigurationError as exc:
        return str(exc)
    return None


A1 = ("a1",)


@pytest.mark.parametrize(
    "faults",
    [
        [at(3, "partition"), at(5, "heal")],
        [at(5, "partition"), at(3, "corrupt", A1), at(4, "heal", A1)],
        [at(5, "heal"), at(3, "partition")],  # a file need not be in order
        [at(5, "partition"), at(5, "heal", A1)],
        [at(1.0, "heal"), at(9, "partition")],  # nobody knows which comes first
        [at(3, "delay", A1, amount=1.0), at(5, "heal")],  # whatever there is of all
        [at(3, "stop", A1), at(3, "slow", ("a2",)), at(4, "continue", ("a2", "a1"))],
        [at(1.0, "disk_full", A1), at(2.0, "disk_free", A1)],
        [at(3, "restart", A1)],  # who lives, too
    ],
)
def test_what_was_done_before_may_be_undone(faults):
    assert wrong(*faults) is None


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([at(5, "heal")], "0: heal: no partition or corrupt or loss or delay or bandwidth of any"),
        ([at(5, "partition"), at(3, "heal")], "1: heal"),
        ([at(5, "heal"), at(5, "partition")], "0: heal"),
        ([at(2.0, "partition"), at(1.0, "heal")], "1: heal"),
        ([at(3, "corrupt", A1), at(5, "heal", ("a1", "a2"))], "1: heal: .* of a2 before it"),
        ([at(3, "kill", A1), at(5, "continue", A1)], "1: continue: no stop or slow of a1"),
        ([at(3, "stop", A1), at(5, "disk_free", A1)], "1: disk_free: no disk_full of a1"),
        ([at(41, "kill", A1)], "0: at_round = 41: the run has 40 rounds"),
        ([at(1.0, "kill", A1, until_round=41)], "0: until_round = 41: the run has 40 rounds"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(faults, told):
    found = wrong(*faults)
    assert found is not None
    assert re.match(told, found), found


@pytest.mark.parametrize("action", ["kill", "stop", "disk_full"])
def test_nobody_waits_for_a_round_that_none_is_left_to_reach(action):
    assert wrong(at(5, action, until_round=9)).startswith("0: nobody is left by then")
    assert wrong(at(5, action), at(6, "restart")).startswith("1: nobody is left by then")
    halves = at(5, action, AGENTS[:2]), at(7, action, AGENTS[2:])
    assert wrong(*halves, at(8, "slow", A1)).startswith("2: nobody is left by then")
    # By the clock they are revived, or somebody is left, or comes back before.
    assert wrong(at(5, action, for_s=2.0), at(9, "restart")) is None
    assert wrong(at(5, action), at(60.0, "restart"), at(9, "kill", A1)) is None
    assert wrong(at(5, action, AGENTS[1:], until_round=9)) is None
    assert wrong(at(5, action, AGENTS[:2], until_round=7), at(8, action, AGENTS[1:])) is None
    assert wrong(at(5, action), at(5, "restart", A1), at(9, "kill", A1)) is None


def test_a_clock_that_revives_nobody_does_not_hide_that():
    told = wrong(at(1.0, "corrupt", A1, for_s=2.0), at(5, "kill"), at(6, "restart"))
    assert told is not None
    assert told.startswith("2: nobody")


def test_what_is_healed_of_a_fault_is_taken_out_of_it():
    cut = Fault("partition", AGENTS, 2, None, (("a0", "a1"), ("a2", "a3")))
    left = cut.without({"a1", "a2"})
    assert left is not None
    assert (left.agents, left.groups) == (("a0", "a3"), (("a0",), ("a3",)))
    assert left.without(AGENTS) is None


def test_who_joins_is_new_and_who_leaves_was_in():
    assert wrong(at(3, "join", ("a4",)), at(3, "leave", A1)) is None
    assert wrong(at(3, "kill", ("a2",)), at(5, "join", ("a4",))) is None
    assert wrong(at(3, "join", A1)) == "0: join: a1 was in already"
    assert wrong(at(3, "leave", ("a9",))) == "0: leave: a9 is not in by then"
    assert "was in already" in wrong(at(3, "leave", A1), at(9, "join", A1))
    assert wrong(at(3, "partition"), at(5, "leave", A1)) == (
        "0: partition does not go with join and leave"
    )
