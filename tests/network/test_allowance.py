"""So many at once, then so many a second."""

from candor.network.allowance import Allowance


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    allowed = Allowance(per_s=2.0, burst=5.0)
    assert [allowed.take(10.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [allowed.take(10.4), allowed.take(10.5), allowed.take(10.5)] == [False, True, False]
    assert [allowed.take(99.0) for _ in range(6)] == [True] * 5 + [False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowed = Allowance(per_s=1.0, burst=1.0)
    assert allowed.take(5.0)
    assert not allowed.take(1.0)
    assert not allowed.take(1.5)
    assert allowed.take(2.0)


def test_whoever_was_punished_begins_anew() -> None:
    allowed = Allowance(per_s=1.0, burst=3.0)
    while allowed.take(0.0):
        pass
    allowed.refill()
    assert [allowed.take(0.0) for _ in range(4)] == [True] * 3 + [False]
