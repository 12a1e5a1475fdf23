"""faults.jsonl of a run directory: what its fault plan did, and when; written by the testbed."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from candor.topologies.specs.files import json_text, read_text
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME: Final = "faults.jsonl"
_ENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "kill": ("stop", "slow"),
    "restart": ("kill", "stop", "slow", "disk_full"),
    "continue": ("stop", "slow"),
    "disk_free": ("disk_full",),
    "heal": ("partition", "corrupt", "loss", "delay", "bandwidth"),
}
"""Which states of an agent an action ends."""
_STATES: Final = {"restart"}.union(*_ENDS.values())
_ROUND_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class Happened:
    """What was done to `agents`, so many seconds after the start, when the first agent had finished
    `round`; the action `end` is that of an action `of`. `detail` is for people."""

    seconds: float
    round: int
    action: str
    agents: tuple[str, ...]
    detail: str
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """How long an agent was in a state, by round; `until` is None of one that nothing ended."""

    agent: str
    action: str
    since: int
    until: int | None


def append(run_dir: Path, happened: Sequence[Happened]) -> None:
    """Write a line more for each. Raises OSError."""
    if happened:
        with (run_dir / FILE_NAME).open("a", encoding="utf-8") as file:
            file.writelines(json_text(asdict(one)) + "\n" for one in happened)


def read(run_dir: Path) -> list[Happened]:
    """What happened, in its order; nothing where no plan was.

    Raises:
        ConfigurationError: the file cannot be read, or a line of it is none that a testbed writes.
    """
    path = run_dir / FILE_NAME
    if not path.exists():
        return []
    lines = read_text(path, "list of faults").splitlines()
    return [_parsed(line, f"{path}: line {n}") for n, line in enumerate(lines, start=1)]


def _parsed(line: str, where: str) -> Happened:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    match found:
        case {
            "seconds": int() | float() as seconds,
            "round": int() as at,
            "action": str() as action,
            "agents": list() as agents,
            "detail": str() as detail,
            "of": str() | None as of,
        } if 0 <= at <= _ROUND_MAX and math.isfinite(seconds):
            return Happened(float(seconds), at, action, tuple(map(str, agents)), detail, of)
    raise ConfigurationError(f"{where} is damaged")


def spans(happened: Iterable[Happened]) -> Sequence[Span]:
    """The states that agents were in by the faults, in the order in which these began. What is done
    at an instant, as a restart, begins and ends in one round."""
    begun: list[Span] = []
    left: dict[int, int] = {}  # in which round those ended that did, by place in `begun`
    present: dict[tuple[str, str], list[int]] = {}
    for one in happened:
        for agent in one.agents:
            for action in _ENDS.get(one.action, ()):
                left |= dict.fromkeys(present.pop((agent, action), ()), one.round)
            if one.action == "end" and (places := present.get((agent, str(one.of)))):
                left[places.pop(0)] = one.round
            elif one.action == "restart":
                left[len(begun)] = one.round
            elif one.action in _STATES:
                present.setdefault((agent, one.action), []).append(len(begun))
            if one.action in _STATES:
                begun.append(Span(agent, one.action, one.round, None))
    return [replace(span, until=left.get(place)) for place, span in enumerate(begun)]
