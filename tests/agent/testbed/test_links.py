"""What faults make of connections, and when bytes arrive."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.testbed.faults import Fault
from candor.agent.testbed.links import (
    PIECE_BYTES_MAX,
    RESEND_S,
    RESEND_S_MAX,
    RESENDS_MAX,
    SEGMENT_BYTES,
    Condition,
    Queues,
    conditions,
    stall_s,
)

AGENTS = ("a0", "a1", "a2", "a3")
PAIRS = tuple((u, v) for u in AGENTS for v in AGENTS if u != v)


def on(action: str, *agents: str, amount: float | None = None) -> Fault:
    return Fault(action, agents, 1, None, amount=amount)


def cut(*groups: tuple[str, ...]) -> Fault:
    return Fault("partition", tuple(a for group in groups for a in group), 1, None, groups)


def test_without_faults_nothing_is_the_matter() -> None:
    assert conditions(PAIRS, []) == dict.fromkeys(PAIRS, Condition())


def test_a_partition_cuts_between_its_groups_and_a_second_one_adds_to_it() -> None:
    first = cut(("a0", "a1"), ("a2", "a3"))
    found = conditions(PAIRS, [first, cut(("a0",), ("a1", "a2", "a3"))])
    together = {pair for pair, condition in found.items() if not condition.cut}
    assert together == {("a2", "a3"), ("a3", "a2")}
    left = first.without(["a1"])
    assert left is not None
    found = conditions(PAIRS, [left])
    assert not any(found[pair].cut for pair in PAIRS if "a1" in pair)
    assert found["a0", "a2"].cut


def test_faults_of_both_ends_lie_on_each_other() -> None:
    found = conditions(
        PAIRS,
        [
            on("corrupt", "a0"),
            on("delay", "a1", amount=0.25),
            on("delay", "a1", "a2", amount=0.5),
            on("loss", "a1", "a2", amount=0.5),
            on("bandwidth", "a1", amount=5000),
            on("bandwidth", "a1", "a2", amount=9000),
        ],
    )
    for pair in PAIRS:
        assert found[pair] == (
            Condition(
                garbled="a0" in pair,
                delay_s=0.75 * ("a1" in pair) + 0.5 * ("a2" in pair),
                loss_share=1 - 0.5 ** (("a1" in pair) + ("a2" in pair)),
                limits=found[pair].limits,
            )
        )
        assert dict(found[pair].limits) == {
            agent: rate for agent, rate in (("a1", 5000), ("a2", 9000)) if agent in pair
        }


@pytest.mark.parametrize(
    ("rate", "size"), [(1, 1), (5, 1), (100, 10), (1e4, 1000), (1e9, PIECE_BYTES_MAX)]
)
def test_a_piece_takes_a_limited_link_a_tenth_of_a_second_at_most(rate: float, size: int) -> None:
    assert Condition(limits=(("a0", 2 * rate), ("a1", rate))).piece_bytes == size
    assert Condition().piece_bytes == PIECE_BYTES_MAX


def test_connections_of_an_agent_share_a_queue_in_each_direction() -> None:
    queues, of = Queues(), Condition(limits=(("a0", 1000.0),))
    assert queues.passed_s(5.0, 500, "a0", of) == 5.5
    assert queues.passed_s(5.1, 500, "a0", of) == 6.0
    assert queues.passed_s(5.1, 500, "a2", of) == 5.6  # to a0, the other way
    assert queues.passed_s(9.0, 500, "a0", of) == 9.5
    assert queues.passed_s(9.0, 500, "a0", Condition()) == 9.0
    through_both = Condition(limits=(("a0", 1000.0), ("a1", 500.0)))
    assert queues.passed_s(20.0, 500, "a0", through_both) == 21.5


@given(
    pieces=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5000)), min_size=1),
    rate=st.floats(10, 1e6),
)
def test_no_queue_lets_more_through_than_its_rate(
    pieces: list[tuple[float, int]], rate: float
) -> None:
    queues, of, now_s, last_s = Queues(), Condition(limits=(("a0", rate),)), 1.0, 0.0
    for later_s, size in pieces:
        now_s += later_s
        passed_s = queues.passed_s(now_s, size, "a0", of)
        assert passed_s >= now_s + size / rate - 1e-6
        assert passed_s >= last_s + size / rate - 1e-6
        last_s = passed_s
    whole_s = sum(later_s for later_s, _ in pieces) + sum(size for _, size in pieces) / rate
    assert last_s <= 1.0 + whole_s + 1e-6


def test_what_is_lost_is_sent_again_after_a_while_and_after_twice_that() -> None:
    random = Random(1)
    assert [stall_s(10**6, 0.0, random) for _ in range(9)] == [0.0] * 9
    steps, total, wait_s = {0.0}, 0.0, RESEND_S
    for _ in range(RESENDS_MAX):
        total += wait_s
        steps.add(round(total, 6))
        wait_s = min(2 * wait_s, RESEND_S_MAX)
    stalls = [stall_s(SEGMENT_BYTES, 0.9, random) for _ in range(3000)]
    assert {round(one, 6) for one in stalls} == steps


@pytest.mark.parametrize(("share", "size"), [(0.05, 1), (0.05, 20_000), (0.3, 3000)])
def test_as_many_pieces_are_held_up_as_the_share_says(share: float, size: int) -> None:
    random, segments = Random(7), -(-size // SEGMENT_BYTES)
    held = [stall_s(size, share, random) for _ in range(20_000)]
    assert sum(map(bool, held)) / len(held) == pytest.approx(1 - (1 - share) ** segments, abs=0.01)
    assert sum(one == pytest.approx(RESEND_S) for one in held) == pytest.approx(
        sum(map(bool, held)) * (1 - share), rel=0.05
    )
