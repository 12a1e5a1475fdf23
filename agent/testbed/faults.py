"""Fault plans of the testbed: what to do to which daemons, and when.

    [[event]]
    at_round = 10        # when the first agent has finished this round; or at_s, since the start
    kill = "a3"          # an action of `ACTIONS`: one agent, a list of them, or "all"

    kill, restart       SIGKILL; a new process on the same data directory
    stop, continue      SIGSTOP; SIGCONT
    slow                stopped half of the time, in turns of a tenth of a second, until continue
    partition           connections between groups are cut and refused until heal: lists of agents
                        are groups, one list or agent is one; whom it does not name are one more
    corrupt             bits of what is sent by and to them are flipped, for CORRUPT_S or until heal
    heal                their connections are as before; true is "all"
    disk_full           none of their files grows any more, until restart

Reading and timing only; `agent.testbed.testbed` performs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from candor.topologies.specs.fields import AgentId
from candor.topologies.specs.files import Section, read_toml, validated
from candor.topologies.specs.specs import ConfigurationError, located

_PLAN_BYTES_MAX = 2**20
ALL: Final = "all"
CORRUPT_S: Final = 2.0
"""Long enough for a connection to be lost and another one to fail, short enough to come back."""


def _listed(value: Any) -> Any:
    """One name as a list of one."""
    return (value,) if isinstance(value, str) else value


def _grouped(value: Any) -> Any:
    """Names alone as one group."""
    listed = _listed(value)
    named = isinstance(listed, Sequence) and all(isinstance(one, str) for one in listed)
    return (listed,) if named else listed


def _everyone(value: Any) -> Any:
    return (ALL,) if value is True else _listed(value)


_Names: TypeAlias = Annotated[tuple[AgentId, ...], Field(min_length=1)]
_Agents: TypeAlias = Annotated[_Names, BeforeValidator(_listed)]


class _Event(Section):
    at_round: Annotated[int, Field(strict=True, ge=1)] | None = None
    at_s: Annotated[float, Field(ge=0)] | None = None
    kill: _Agents | None = None
    restart: _Agents | None = None
    stop: _Agents | None = None
    continue_: _Agents | None = Field(default=None, alias="continue")
    slow: _Agents | None = None
    partition: Annotated[tuple[_Names, ...], BeforeValidator(_grouped)] | None = None
    heal: Annotated[_Names, BeforeValidator(_everyone)] | None = None
    corrupt: _Agents | None = None
    disk_full: _Agents | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> "_Event":
        if (self.at_round is None) == (self.at_s is None):
            raise ConfigurationError("an event has either at_round or at_s")
        if len(self.actions()) != 1:
            raise ConfigurationError(f"an event has exactly one of {', '.join(ACTIONS)}")
        return self

    def actions(self) -> dict[str, tuple[Any, ...]]:
        """What it does to whom, by action."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude={"at_round", "at_s"})


ACTIONS: Final = tuple(
    field.alias or name for name, field in _Event.model_fields.items() if not name.startswith("at_")
)


class _Plan(Section):
    event: tuple[_Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """One event: `action` on `agents`, due at a round or at a time since the start. `groups`: those
    that a partition cuts from each other."""

    action: str
    agents: tuple[str, ...]
    at_round: int | None
    at_s: float | None
    groups: tuple[tuple[str, ...], ...] = ()

    def due(self, round_number: int, seconds: float) -> bool:
        """Whether its moment has come."""
        if self.at_round is not None:
            return round_number >= self.at_round
        return self.at_s is not None and seconds >= self.at_s


def load_faults(path: Path, agents: Collection[str]) -> tuple[Fault, ...]:
    """Read a fault plan.

    Raises:
        ConfigurationError: one line that names the file and what is wrong in it.
    """
    plan = validated(_Plan, read_toml(path, "fault plan", _PLAN_BYTES_MAX), str(path))
    with located(str(path)):
        return tuple(_fault(event, agents) for event in plan.event)


def _fault(event: _Event, agents: Collection[str]) -> Fault:
    ((action, named),) = event.actions().items()
    groups = named if action == "partition" else (named,)
    listed = tuple(chain.from_iterable(groups))
    if unknown := sorted(set(listed) - {ALL, *agents}):
        raise ConfigurationError(f"{action} = {unknown[0]!r}: the run has no such agent")
    chosen = tuple(agents) if ALL in listed else tuple(dict.fromkeys(listed))
    if action != "partition":
        return Fault(action, chosen, event.at_round, event.at_s)
    rest = tuple(agent for agent in agents if agent not in chosen)
    parts = tuple(filter(None, (*groups, rest)))
    if len(parts) < 2 or len(listed) > len(set(listed)) or ALL in listed:
        raise ConfigurationError(
            "partition: name the agents on one side, or lists of agents, each in one of them"
        )
    return Fault(action, tuple(agents), event.at_round, event.at_s, parts)
