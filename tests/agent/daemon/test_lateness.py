"""Who was late, as statuses say it, in words and in summary.json."""

import json

from candor.agent.daemon.lateness import Late, late_from, late_json, late_of, late_words
from candor.agent.daemon.status import NeighbourStatus, Status


def status(agent: str, seconds: float = 100.0, **neighbours: NeighbourStatus) -> Status:
    return Status("run", agent, "ab", 1, "done", 9, 9, neighbours=neighbours, seconds=seconds)


def seen(waited_s: float, missed: int = 0, withheld: int = 0) -> NeighbourStatus:
    return NeighbourStatus("present", waited_s=waited_s, missed=missed, withheld=withheld)


def test_those_are_named_who_were_missed_or_withheld_or_took_much_of_the_time() -> None:
    statuses = [
        status("a0", a1=seen(30.0), a2=seen(30.1), a3=seen(0.0, missed=1)),
        status("a1", a0=seen(0.0), a2=seen(0.0, withheld=3)),
    ]
    assert late_of(statuses) == {
        "a2": {"a0": Late(30.1, 0, 0), "a1": Late(0.0, 0, 3)},
        "a3": {"a0": Late(0.0, 1, 0)},
    }
    assert late_words(late_of(statuses)) == [
        "by its neighbours' word: a2 did not claim or bill in time: a1 3 windows",
        "a2 was late: a0 waited 30.1 s for it",
        "a3 was late: a0 waited 0.0 s for it, went on without it 1 times",
    ]


def test_a_run_in_which_nobody_was_late_says_nothing() -> None:
    statuses = [status("a0", a1=seen(0.4)), status("a1", a0=seen(29.9))]
    assert late_json(statuses) == {}
    assert late_words(late_of(statuses)) == []


def test_many_neighbours_are_counted() -> None:
    statuses = [status(f"a{n}", b=seen(1.0, missed=2)) for n in range(6)]
    (told,) = late_words(late_of(statuses))
    assert told.count("waited") == 4
    assert told.endswith("; and 2 more")


def test_the_summary_says_the_same() -> None:
    statuses = [status("a0", a1=seen(2.5, missed=4, withheld=1))]
    kept = json.loads(json.dumps(late_json(statuses)))
    assert late_from(kept) == late_of(statuses)
    assert late_from({"a1": {"a0": {"waited_s": "x"}}, "a2": 3}) == {}
    assert late_from(None) == {}
