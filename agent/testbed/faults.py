"""Fault plans of the testbed: what to do to which daemon, and when.

    [[event]]
    at_round = 10        # when the first agent has finished this round; or at_s, since the start
    kill = "a3"          # one of kill (SIGKILL), restart, stop (SIGSTOP), continue (SIGCONT), slow

A slow agent is stopped half of the time, in turns of a tenth of a second, until `continue`.

Reading and timing only; `agent.testbed.testbed` performs.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from candor.topologies.specs.fields import AgentId
from candor.topologies.specs.files import Section, read_toml, validated
from candor.topologies.specs.specs import ConfigurationError

_PLAN_BYTES_MAX = 2**20
ACTIONS: Final = ("kill", "restart", "stop", "continue", "slow")


class _Event(Section):
    at_round: Annotated[int, Field(strict=True, ge=1)] | None = None
    at_s: Annotated[float, Field(ge=0)] | None = None
    kill: AgentId | None = None
    restart: AgentId | None = None
    stop: AgentId | None = None
    continue_: AgentId | None = Field(default=None, alias="continue")
    slow: AgentId | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> "_Event":
        if (self.at_round is None) == (self.at_s is None):
            raise ConfigurationError("an event has either at_round or at_s")
        if sum(value is not None for value in self.actions()) != 1:
            raise ConfigurationError(f"an event has exactly one of {', '.join(ACTIONS)}")
        return self

    def actions(self) -> tuple[str | None, ...]:
        """The agent of each action, in the order of `ACTIONS`."""
        return self.kill, self.restart, self.stop, self.continue_, self.slow


class _Plan(Section):
    event: tuple[_Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """One event: `action` on `agent`, due at a round or at a time since the start."""

    action: str
    agent: str
    at_round: int | None
    at_s: float | None

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
    faults = []
    for event in plan.event:
        ((action, agent),) = (
            (name, agent)
            for name, agent in zip(ACTIONS, event.actions(), strict=True)
            if agent is not None
        )
        if agent not in agents:
            raise ConfigurationError(f"{path}: {action} = {agent!r}: the run has no such agent")
        faults.append(Fault(action, agent, event.at_round, event.at_s))
    return tuple(faults)
