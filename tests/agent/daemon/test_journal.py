"""What is logged: JSON lines with stable keys, turned over by size, opened anew when asked."""

import json
import logging
import os
from datetime import datetime
from pathlib import Path

import pytest

from candor.agent.daemon.journal import Journal, log_event
from candor.topologies.specs.specs import ConfigurationError


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def journal(tmp_path):
    made = []

    def make(**options):
        made.append(Journal("a0", tmp_path, logging.WARNING, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_an_event_is_one_object_with_time_level_agent_round_name_and_fields(tmp_path, journal):
    one = journal()
    one.round = lambda: 7
    one.log(logging.INFO, "re_entered", {"peer": "a1"})
    log_event("a0", logging.WARNING, "neighbour_missed", {"peer": "a2", "round": 6})
    first, second = events(tmp_path / "log.jsonl")
    assert list(first) == ["time", "time_s", "level", "agent", "round", "event", "peer"]
    at = datetime.fromisoformat(first["time"])
    assert first["time"].endswith("Z")
    assert abs(at.timestamp() - first["time_s"]) < 0.0011
    assert (first["level"], first["agent"], first["event"]) == ("info", "a0", "re_entered")
    assert first["round"] == 7
    assert (second["round"], second["level"]) == (6, "warning")  # the round that it is of


def test_standard_error_has_a_line_for_people_or_the_same_object(tmp_path, journal, capsys):
    text = journal()
    text.log(logging.INFO, "started", {})
    text.log(logging.WARNING, "neighbour_missed", {"peer": "a2"})
    text.log(logging.ERROR, "failed", {"detail": "no room"})  # the command says so itself
    assert capsys.readouterr().err == "candor a0: warning: neighbour_missed peer=a2\n"
    text.close()
    machine = journal(form="json")
    machine.log(logging.ERROR, "failed", {"detail": "no room"})
    assert json.loads(capsys.readouterr().err) == events(tmp_path / "log.jsonl")[-1]


def test_the_last_warning_is_remembered(journal):
    one = journal()
    assert one.last_error is None
    one.log(logging.WARNING, "neighbour_missed", {"peer": "a2"})
    one.log(logging.INFO, "re_entered", {})
    assert one.last_error is not None
    assert one.last_error[1] == "neighbour_missed peer=a2"


def test_a_log_is_turned_over_before_it_is_too_large_and_the_oldest_goes(tmp_path, journal):
    one = journal(file=tmp_path / "own.log", bytes_max=1000, kept=2)
    for number in range(100):
        one.log(logging.INFO, "counted", {"number": number})
    files = sorted(tmp_path.glob("own.log*"))
    assert [file.name for file in files] == ["own.log", "own.log.1", "own.log.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    told = [one["number"] for file in reversed(files) for one in events(file)]
    assert told == list(range(told[0], 100))
    assert not (tmp_path / "log.jsonl").exists()


def test_a_log_that_was_moved_away_is_opened_anew_when_asked(tmp_path, journal):
    one = journal()
    one.log(logging.INFO, "started", {})
    os.rename(tmp_path / "log.jsonl", tmp_path / "old")
    one.tick()
    assert not (tmp_path / "log.jsonl").exists()  # nobody has asked
    one.ask_anew()
    one.tick()
    one.tick()
    assert [event["event"] for event in events(tmp_path / "log.jsonl")] == ["log_reopened"]
    assert [event["event"] for event in events(tmp_path / "old")] == ["started"]
    one.ask_anew()
    os.rename(tmp_path / "log.jsonl", tmp_path / "older")
    one.log(logging.INFO, "device", {})  # between two ticks
    assert [event["event"] for event in events(tmp_path / "log.jsonl")] == ["device"]


def test_a_pipe_or_a_folder_in_the_place_of_a_log_is_named_at_once(tmp_path, journal):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigurationError, match=f"^{place}: cannot log there"):
            journal(file=place)


def test_two_agents_do_not_turn_one_log_over_for_each_other(tmp_path, journal):
    named = {"file": tmp_path / "both.log", "bytes_max": 200}
    one = journal(**named)
    for number in range(9):
        one.log(logging.INFO, "counted", {"number": number})
    taken = f"^{tmp_path}/both.log: another process logs there; name another file$"
    with pytest.raises(ConfigurationError, match=taken):
        journal(**named)
    one.log(logging.INFO, "counted", {"number": 9})
    one.close()
    journal(**named)
