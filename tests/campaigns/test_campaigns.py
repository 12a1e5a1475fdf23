"""What campaigns draw and how they judge, without daemons."""

from itertools import pairwise

from tests.campaigns.cuts import WHOLE_S, cuts_drawn
from tests.campaigns.floods import failures
from tests.campaigns.soak import Sample, descriptors_more, disk_by_round, growth, restarts_drawn


def sample(round_number: int, lived_s: float, **taken) -> Sample:
    told = {"pid": 1, "resident_bytes": 0, "descriptors": 33, "disk": {}} | taken
    return Sample(agent="a0", round=round_number, seconds=lived_s, lived_s=lived_s, **told)


def test_memory_is_held_against_that_of_the_same_process_when_it_was_warm() -> None:
    some = [
        sample(10, 5, resident_bytes=100),
        sample(600, 70, resident_bytes=200),
        sample(900, 90, resident_bytes=270),
        sample(950, 95, resident_bytes=210),
        sample(960, 10, pid=2, resident_bytes=50),  # its second life
        sample(1200, 80, pid=2, resident_bytes=100),
        sample(1300, 90, pid=2, resident_bytes=180),
    ]
    assert growth(some) == 80
    assert growth(some[:2]) == growth([]) == 0


def test_descriptors_are_those_at_the_end_of_a_life() -> None:
    some = [sample(600, 70), sample(700, 80, descriptors=99), sample(800, 90, descriptors=35)]
    assert descriptors_more(some) == 2


def test_bytes_of_disk_are_by_round() -> None:
    some = [
        sample(600, 70, disk={"ledger.sqlite": 1000, "status.json": 7}),
        sample(700, 80, disk={"ledger.sqlite": 4000, "status.json": 7, "log.jsonl": 50}),
    ]
    assert disk_by_round(some) == {"ledger.sqlite": 30.0, "log.jsonl": 0.5}


def test_everybody_is_started_again_so_many_times_well_within_the_run() -> None:
    drawn = restarts_drawn(("a0", "a1"), 1000, 3, 7)
    assert drawn == sorted(drawn) == restarts_drawn(("a0", "a1"), 1000, 3, 7)
    assert sorted(agent for _, agent, _ in drawn) == ["a0"] * 3 + ["a1"] * 3
    assert {killed for *_, killed in drawn} == {True, False}
    assert all(50 <= at <= 900 for at, *_ in drawn)


def test_each_link_is_cut_by_itself_and_whole_at_the_end() -> None:
    links = [("a0", "a1"), ("a1", "a2")]
    drawn = cuts_drawn(links, 30.0, 5, since_s=100.0)
    for link in links:
        own = [fault for fault in drawn if fault.agents == link]
        assert own
        for fault, after in pairwise(own):
            assert fault.at_s + fault.for_s + WHOLE_S[0] <= after.at_s
        assert own[-1].at_s + own[-1].for_s <= 130.0
        assert all(fault.groups == ((link[0],), (link[1],)) for fault in own)


def test_a_flood_that_costs_memory_or_rounds_is_told() -> None:
    well = {"memory_more_mb": 30.0, "share_of_calm": 0.9, "others_share": 1.0}
    assert failures({"silent": well}, []) == []
    wrong = failures({"x": well | {"memory_more_mb": 900.0}, "y": well | {"others_share": 0.1}}, [])
    assert wrong == ["x: 900.0 MB more", "y: 10% of the rounds"]
    assert failures({}, ["a0"]) == ["a0 has ended"]
