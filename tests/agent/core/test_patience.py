"""How long an agent waits for a neighbour: pure bookkeeping of seconds."""

import pytest

from candor.agent.core.patience import ASYNC, SYNC, Patience

PEERS = ("a1", "a2")


def exchange(patience: Patience, began_s: float, took_s: float, late: dict[str, float]) -> float:
    """An exchange in which a1 is there at once and others come so late, or as late as they may;
    answers when it was over."""
    out_s = began_s + took_s
    patience.out(out_s)
    waited = dict(late)
    patience.look(waited, len(PEERS) - len(waited), out_s)
    over_s = out_s
    for peer, late_s in sorted(late.items(), key=lambda item: item[1]):
        until_s = patience.until_s(peer, waits=False)
        over_s = min(out_s + late_s, until_s)
        if out_s + late_s > until_s:
            patience.gave_up(peer, over_s)
        del waited[peer]
        patience.look(waited, len(PEERS) - len(waited), over_s)
    patience.over(PEERS, over_s, round_over=True)
    return over_s


def rounds(patience: Patience, count: int, late_s: float, now_s: float = 0.0) -> float:
    """So many rounds of a second, in each of which a2 is so late; answers how long they took."""
    began_s = now_s
    for _ in range(count):
        now_s = exchange(patience, now_s, 1.0, {"a2": late_s})
    return now_s - began_s


def test_before_anything_is_known_the_deadline_holds() -> None:
    patience = Patience(PEERS, 30.0)
    patience.out(10.0)
    patience.look(PEERS, 0, 10.0)
    assert patience.until_s("a1", waits=False) == 40.0
    assert patience.until_s("a1", waits=True) == 70.0
    assert patience.longest_s == 30.0


@pytest.mark.parametrize(
    ("usual_s", "longest_s"),
    [(0.01, SYNC.longest_s_min), (0.5, 0.5 * SYNC.rounds_max), (60.0, 30.0)],
)
def test_the_longest_wait_is_so_many_usual_rounds_within_bounds(usual_s, longest_s) -> None:
    patience = Patience(PEERS, 30.0)
    now_s = 0.0
    for _ in range(4):
        now_s = exchange(patience, now_s, usual_s, {})
    assert patience.longest_s == pytest.approx(longest_s)


def test_one_long_round_is_not_usual() -> None:
    patience = Patience(PEERS, 300.0)
    now_s = 0.0
    for usual_s in (1.0, 1.0, 1.0, 100.0, 1.0):
        now_s = exchange(patience, now_s, usual_s, {})
    assert patience.longest_s == pytest.approx(SYNC.rounds_max)


def test_who_takes_half_as_long_again_as_most_is_always_waited_for() -> None:
    patience = Patience(PEERS, 30.0)
    taken_s = rounds(patience, 400, late_s=0.99 * SYNC.share)
    assert patience.missed["a2"] == 0
    assert patience.waited_s["a2"] == pytest.approx(400 * 0.99 * SYNC.share)
    assert taken_s == pytest.approx(400 * (1 + 0.99 * SYNC.share))


@pytest.mark.parametrize("late_s", [1.0, 9.0, 28.5])
def test_who_is_late_again_and_again_takes_a_third_of_the_time_at_most(late_s: float) -> None:
    patience = Patience(PEERS, 30.0)
    rounds(patience, 1, late_s=0.0)
    taken_s = rounds(patience, 400, late_s, now_s=1.0)
    assert patience.missed["a2"] > 0
    # What it had at first, then the share.
    assert taken_s <= 400 * (1 + SYNC.share) + 30.0
    assert 400 / taken_s > 0.6


def test_a_wait_begins_when_more_than_half_are_there() -> None:
    """The agent and one of two neighbours; alone it is none: it may be the fast one."""
    patience = Patience(PEERS, 30.0)
    rounds(patience, 3, late_s=0.0)
    patience.out(10.0)
    patience.look(PEERS, 0, 10.0)
    assert patience.until_s("a2", waits=False) == 40.0
    patience.look(("a2",), 1, 12.0)
    assert patience.until_s("a2", waits=False) == 12.0 + patience.longest_s
    patience.gave_up("a2", 15.0)
    assert (patience.waited_s["a1"], patience.waited_s["a2"]) == (0.0, 3.0)


def test_with_one_neighbour_nobody_knows_who_is_slow() -> None:
    patience = Patience(("a1",), 30.0)
    patience.out(1.0)
    patience.look(("a1",), 0, 1.0)
    assert patience.until_s("a1", waits=False) == 31.0
    patience.look((), 1, 20.0)
    patience.over(("a1",), 20.0, round_over=True)
    assert patience.waited_s["a1"] == 0.0


def test_who_waits_itself_has_more_time_once_not_each_time() -> None:
    patience = Patience(PEERS, 30.0)
    now_s, longest_s = rounds(patience, 3, late_s=0.0), 16.0
    waits = []
    for _ in range(5):
        patience.out(now_s)
        patience.look(("a2",), 1, now_s)
        until_s = patience.until_s("a2", waits=True)
        waits.append(until_s - now_s)
        patience.gave_up("a2", until_s)
        patience.over(("a1",), until_s, round_over=True)
        now_s = until_s
    assert waits[0] == pytest.approx(2 * longest_s)
    assert waits[1:] == [0.0] * 4


def test_patience_is_asked_for_half_way() -> None:
    patience = Patience(PEERS, 30.0)
    patience.out(10.0)
    assert patience.asks_s(20.0) == 15.0


def test_who_is_more_than_a_round_behind_gains_no_grace() -> None:
    one, other = Patience(PEERS, 1.0), Patience(PEERS, 1.0)
    for patience, near in ((one, PEERS), (other, ("a1",))):
        patience.over(PEERS, 0.0, round_over=True)
        patience.out(1.0)
        patience.look(("a2",), 1, 1.0)
        patience.gave_up("a2", 2.0)
        patience.over(near, 2.0, round_over=True)
        patience.out(3.0)
        patience.look(("a2",), 1, 3.0)
    assert one.until_s("a2", waits=False) == 3.0 + SYNC.share
    assert other.until_s("a2", waits=False) == 3.0


def test_the_exchanges_of_a_round_are_learned_together() -> None:
    patience = Patience(PEERS, 300.0)
    now_s = 0.0
    patience.over(PEERS, now_s, round_over=True)
    for _ in range(3):
        for phase in range(4):
            now_s += 1.0
            patience.out(now_s)
            patience.look((), 2, now_s)
            patience.over(PEERS, now_s, round_over=phase == 3)
    assert patience.longest_s == pytest.approx(4 * SYNC.rounds_max)


def test_who_sits_rounds_out_is_waited_for_an_eighth_of_the_time() -> None:
    """In few long waits: many short ones in vain would bring nobody into step again."""
    patience = Patience(PEERS, 30.0, ASYNC)
    patience.begin(0.0)
    now_s = exchange(patience, 0.0, 1.0, {"a2": 10.0})
    assert now_s == pytest.approx(1.0 + ASYNC.rounds_max)  # learned as soon as it was due
    taken_s = rounds(patience, 400, 10.0, now_s)
    assert taken_s <= 400 * (1 + ASYNC.share) + 1.0
    assert patience.missed["a2"] == 401
    now_s, waits = now_s + taken_s, []
    for _ in range(16):
        waits.append(rounds(patience, 1, 10.0, now_s))
        now_s += waits[-1]
    assert sorted(waits)[:14] == pytest.approx([1.0] * 14)
