"""Fault plans as files.

    [[event]]
    at_round = 10        # when the first agent has finished this round; or at_s, since the start
    kill = "a3"          # an action of `ACTIONS`: one agent, a list of them, or "all"
    until_round = 14     # when it is undone, or for_s, how long after; without, it stays

Lists of agents are the groups of a partition, one list or agent is one, and whom it does not name
are one more. `heal = true` is "all".
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import tomli_w
from pydantic import BeforeValidator, Field, model_validator

from candor.agent.testbed.faults import AMOUNTS, PASSING, Fault, check
from candor.topologies.specs.fields import AgentId, Number
from candor.topologies.specs.files import Section, read_toml, validated
from candor.topologies.specs.specs import ConfigurationError, located

FILE_NAME: Final = "faults.toml"
_PLAN_BYTES_MAX = 2**20
ALL: Final = "all"
CORRUPT_S: Final = 2.0
"""Of corruption without an end: long enough for a connection to be lost and another one to fail,
short enough to come back."""
DELAY_S_MAX: Final = 60.0
HALF: Final = 0.5  # of the time, for whoever is slow, where nothing else is said


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
_Round: TypeAlias = Annotated[int, Field(strict=True, ge=1)]
_Share: TypeAlias = Annotated[Number, Field(gt=0, lt=1)]


class _Event(Section):
    at_round: _Round | None = None
    at_s: Annotated[Number, Field(ge=0)] | None = None
    until_round: _Round | None = None
    for_s: Annotated[Number, Field(gt=0)] | None = None
    kill: _Agents | None = None
    restart: _Agents | None = None
    stop: _Agents | None = None
    continue_: _Agents | None = Field(default=None, alias="continue")
    slow: _Agents | None = None
    disk_full: _Agents | None = None
    disk_free: _Agents | None = None
    partition: Annotated[tuple[_Names, ...], BeforeValidator(_grouped)] | None = None
    corrupt: _Agents | None = None
    loss: _Agents | None = None
    delay: _Agents | None = None
    bandwidth: _Agents | None = None
    heal: Annotated[_Names, BeforeValidator(_everyone)] | None = None
    join: _Agents | None = None
    leave: _Agents | None = None
    speed: _Share | None = None
    loss_share: _Share | None = None
    delay_s: Annotated[Number, Field(gt=0, le=DELAY_S_MAX)] | None = None
    bytes_per_s: _Round | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> "_Event":
        if (self.at_round is None) == (self.at_s is None):
            raise ConfigurationError("an event has either at_round or at_s")
        if len(self.actions()) != 1:
            raise ConfigurationError(f"an event has exactly one of {', '.join(ACTIONS)}")
        ((action, _),) = self.actions().items()
        self._check_amount(action)
        self._check_end(action)
        return self

    def _check_amount(self, action: str) -> None:
        wanted = AMOUNTS.get(action)
        for name in AMOUNTS.values():
            given = getattr(self, name) is not None
            if given and name != wanted:
                raise ConfigurationError(f"{name} says nothing about {action}")
            if not given and name == wanted and action != "slow":
                raise ConfigurationError(f"{action}: how much? add {name}")

    def _check_end(self, action: str) -> None:
        if self.until_round is None and self.for_s is None:
            return
        if action not in PASSING:
            raise ConfigurationError(f"{action} has no end: leave out until_round and for_s")
        if self.until_round is not None and self.for_s is not None:
            raise ConfigurationError("an event ends by either until_round or for_s")
        if self.at_round and self.until_round and self.until_round <= self.at_round:
            raise ConfigurationError(f"until_round = {self.until_round} is not after at_round")

    def actions(self) -> dict[str, tuple[Any, ...]]:
        """What it does to whom, by action."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude=_NO_ACTIONS)

    def amount(self, action: str) -> float | None:
        """How much of it."""
        given = getattr(self, AMOUNTS[action]) if action in AMOUNTS else None
        return HALF if action == "slow" and given is None else given


_NO_ACTIONS: Final = {"at_round", "at_s", "until_round", "for_s", *AMOUNTS.values()}
ACTIONS: Final = tuple(
    field.alias or name for name, field in _Event.model_fields.items() if name not in _NO_ACTIONS
)


class _Plan(Section):
    event: tuple[_Event, ...] = ()


def load_faults(path: Path, agents: Sequence[str], rounds: int) -> tuple[Fault, ...]:
    """Read the fault plan of a run of these agents and so many rounds.

    Raises:
        ConfigurationError: one line that names the file, the event, and what is wrong in it.
    """
    plan = validated(_Plan, read_toml(path, "fault plan", _PLAN_BYTES_MAX), str(path))
    at = partial(_event, path)
    faults: list[Fault] = []
    joining = [agent for event in plan.event for agent in event.join or ()]
    for place, event in enumerate(plan.event):
        with at(place):
            faults.append(_fault(event, agents, joining))
    check(faults, agents, rounds, at)
    return tuple(faults)


def _event(path: Path, place: int) -> AbstractContextManager[None]:
    return located(f"{path}: event[{place}]")


def dump_faults(faults: Sequence[Fault], agents: Collection[str], remark: str) -> str:
    """The TOML text of a plan: `load_faults` reads the same one from it. `remark`: its first
    line."""
    return f"# {remark}\n" + "".join(
        f"\n[[event]]\n{tomli_w.dumps(dict(_keys(fault, agents)))}" for fault in faults
    )


def _keys(fault: Fault, agents: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name in ("at_round", "at_s", "until_round", "for_s"):
        if (value := getattr(fault, name)) is not None:
            yield name, value
    if fault.groups:
        yield fault.action, [list(group) for group in fault.groups]
    else:
        everyone = fault.agents == tuple(agents)
        one, *more = fault.agents
        yield fault.action, ALL if everyone else [one, *more] if more else one
    if fault.amount is not None:
        yield AMOUNTS[fault.action], fault.amount


def _fault(event: _Event, agents: Collection[str], joining: Collection[str]) -> Fault:
    """What an event says; `joining` are in later, and not among all."""
    ((action, named),) = event.actions().items()
    groups = named if action == "partition" else (named,)
    listed = tuple(chain.from_iterable(groups))
    if unknown := sorted(set(listed) - {ALL, *agents, *joining}):
        raise ConfigurationError(f"{action} = {unknown[0]!r}: the run has no such agent")
    chosen = tuple(agents) if ALL in listed else tuple(dict.fromkeys(listed))
    for_s = event.for_s
    if action == "corrupt" and event.until_round is None and for_s is None:
        for_s = CORRUPT_S
    fault = Fault(
        *(action, chosen, event.at_round, event.at_s, ()),
        *(event.until_round, for_s, event.amount(action)),
    )
    if action != "partition":
        return fault
    rest = tuple(agent for agent in agents if agent not in chosen)
    parts = tuple(filter(None, (*groups, rest)))
    if len(parts) < 2 or len(listed) > len(set(listed)) or ALL in listed:
        raise ConfigurationError(
            "partition: name the agents on one side, or lists of agents, each in one of them"
        )
    return replace(fault, agents=tuple(agents), groups=parts)
