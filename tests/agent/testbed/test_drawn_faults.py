"""Drawn fault plans: the same from the same seed, and always ones that a run can come through."""

from collections import Counter
from itertools import pairwise

import pytest

from candor.agent.testbed.drawn_faults import CALM, KINDS, Drawing, draw_faults, parse_drawing
from candor.agent.testbed.fault_file import dump_faults, load_faults
from candor.agent.testbed.faults import AMOUNTS, HOLDS, LINK_ACTIONS, PASSING
from candor.topologies.specs.specs import ConfigurationError

AGENTS = tuple(f"a{i}" for i in range(5))
ROUNDS = 120


@pytest.mark.parametrize("seed", range(200))
def test_whoever_is_away_comes_back_and_somebody_always_goes_on(seed):
    plan = draw_faults(Drawing(seed, 12), AGENTS, ROUNDS)
    assert len(plan) == 12
    assert all(one.at_round <= other.at_round for one, other in pairwise(plan))
    for t in range(1, ROUNDS + 1):
        there = [f for f in plan if f.at_round <= t <= (f.until_round or f.at_round)]
        processes = Counter(f.agents for f in there if f.action not in LINK_ACTIONS)
        assert set(processes.values()) <= {1}
        assert len({f.agents for f in there if f.action in HOLDS}) < len(AGENTS)
    for fault in plan:
        assert (fault.until_round is None) == (fault.action == "restart")
        assert 1 <= fault.at_round < (fault.until_round or ROUNDS) <= ROUNDS
        assert (fault.until_round or 0) <= ROUNDS - ROUNDS // CALM
        assert (fault.amount is not None) == (fault.action in AMOUNTS)
        if fault.action == "partition":
            assert sorted(a for group in fault.groups for a in group) == sorted(AGENTS)
            assert min(map(len, fault.groups)) >= 1


@pytest.mark.parametrize("agents", [2, 3, 20])
@pytest.mark.parametrize("rounds", [2, 3, 10, 1000])
def test_a_plan_is_one_that_a_file_may_have(tmp_path, agents, rounds):
    ids = tuple(f"a{i}" for i in range(agents))
    for seed in range(20):
        plan = draw_faults(Drawing(seed, 1), ids, rounds)
        (tmp_path / "plan.toml").write_text(dump_faults(plan, ids, "x"))
        assert load_faults(tmp_path / "plan.toml", ids, rounds) == plan


def test_the_seed_decides():
    plans = [draw_faults(Drawing(seed), AGENTS, ROUNDS) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


def test_all_kinds_are_drawn_or_those_that_are_named():
    every = [f for seed in range(40) for f in draw_faults(Drawing(seed), AGENTS, ROUNDS)]
    assert {fault.action for fault in every} == set(KINDS) == {*PASSING, "restart"}
    some = draw_faults(Drawing(1, 20, ("partition", "slow")), AGENTS, ROUNDS)
    assert {fault.action for fault in some} == {"partition", "slow"}
    assert {len(fault.groups[0]) for fault in every if fault.groups} == {1, 2, 3, 4}


def test_a_drawing_is_told_from_a_file():
    assert parse_drawing("random", 5) == Drawing(5)
    given = parse_drawing("random:seed=7,events=12,kinds=kill+partition+kill", 5)
    assert given == Drawing(7, 12, ("kill", "partition"))
    assert str(given) == "random:seed=7,events=12,kinds=kill+partition"
    assert parse_drawing(str(given), 0) == given
    assert parse_drawing("random", 5, ("kill",)) == Drawing(5, kinds=("kill",))
    for path in ("faults.toml", "./random", "random.toml"):
        assert parse_drawing(path, 5) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("random:seed=-1", "seed is a whole number of 0"),
        ("random:seed=x", "seed is"),
        ("random:events=0", "events is"),
        ("random:events=1.5", "events is"),
        ("random:events=1001", "events is"),
        ("random:kinds=heal", "kinds are kill, .*, not 'heal'"),
        ("random:kinds=kill+explode", "not 'explode'"),
        ("random:rounds=3", "takes seed, events, kinds, not rounds"),
        ("random:7", "takes seed, events, kinds, not 7"),
        ("random:", "nothing after the colon"),
        ("random:seed", "takes seed"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(text, told):
    with pytest.raises(ConfigurationError, match=told) as refused:
        parse_drawing(text, 1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("agents", "rounds", "events"), [(1, 50, 1), (4, 1, 1), (2, 8, 40)])
def test_what_has_no_room_in_a_run_is_refused(agents, rounds, events):
    with pytest.raises(ConfigurationError, match="have room for no such plan"):
        draw_faults(Drawing(1, events, ("kill",)), AGENTS[:agents], rounds)
