"""What a fault plan did, as a file and as states of agents."""

import pytest

from candor.agent.runs import fault_log
from candor.agent.runs.fault_log import Happened, Span, spans
from candor.topologies.specs.specs import ConfigurationError

BOTH = ("a0", "a1")


def at(number: int, action: str, *agents: str, of: str | None = None) -> Happened:
    return Happened(number / 2, number, action, agents, f"{action} of {agents}", of)


def test_what_is_written_is_read_again(tmp_path):
    assert fault_log.read(tmp_path) == []
    fault_log.append(tmp_path, [])
    assert not (tmp_path / fault_log.FILE_NAME).exists()
    happened = [at(1, "kill", "a0"), at(4, "end", "a0", of="kill"), at(9, "heal", *BOTH)]
    fault_log.append(tmp_path, happened[:2])
    fault_log.append(tmp_path, happened[2:])
    assert fault_log.read(tmp_path) == happened


LINE = (
    '{"seconds": SECONDS, "round": ROUND, "action": "kill", "agents": [], "detail": "", "of": null}'
)


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", '{"seconds": 1}', "[" * 10_000),
        LINE.replace("SECONDS", "1").replace("ROUND", "-1"),
        LINE.replace("SECONDS", "1").replace("ROUND", "1" * 400),
        LINE.replace("SECONDS", "NaN").replace("ROUND", "1"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    fault_log.append(tmp_path, [at(1, "kill", "a0")])
    with (tmp_path / fault_log.FILE_NAME).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigurationError, match=r"faults\.jsonl: line 2 is damaged"):
        fault_log.read(tmp_path)


@pytest.mark.parametrize(
    ("happened", "expected"),
    [
        ([at(2, "kill", "a0")], [Span("a0", "kill", 2, None)]),
        ([at(2, "kill", "a0"), at(5, "end", "a0", of="kill")], [Span("a0", "kill", 2, 5)]),
        (
            [at(2, "kill", *BOTH), at(5, "restart", "a1")],
            [Span("a0", "kill", 2, None), Span("a1", "kill", 2, 5), Span("a1", "restart", 5, 5)],
        ),
        ([at(2, "slow", "a0"), at(4, "continue", *BOTH)], [Span("a0", "slow", 2, 4)]),
        (
            [at(2, "stop", "a0"), at(4, "kill", "a0")],
            [Span("a0", "stop", 2, 4), Span("a0", "kill", 4, None)],
        ),
        (
            [at(2, "delay", "a0"), at(3, "delay", "a0"), at(5, "end", "a0", of="delay")],
            [Span("a0", "delay", 2, 5), Span("a0", "delay", 3, None)],
        ),
        (
            [at(2, "delay", "a0"), at(3, "partition", *BOTH), at(5, "heal", "a0")],
            [
                Span("a0", "delay", 2, 5),
                Span("a0", "partition", 3, 5),
                Span("a1", "partition", 3, None),
            ],
        ),
        ([at(2, "disk_full", "a0"), at(5, "disk_free", "a0")], [Span("a0", "disk_full", 2, 5)]),
        ([at(5, "end", "a0", of="kill"), at(6, "heal", "a0"), at(7, "sing", "a0")], []),
    ],
)
def test_states_of_agents_begin_and_end(happened, expected):
    assert spans(happened) == expected
