"""The faults that the testbed knows: what is done to which daemons, when, and until when.

    kill, restart       SIGKILL; a new process on the same data directory
    stop, continue      SIGSTOP; SIGCONT
    slow                runs a share `speed` of the time, in turns of a tenth of a second
    disk_full           none of their files grows any more, until disk_free or restart
    disk_free           there is room again; whoever has stopped for want of it is started
    partition           connections between groups of agents are cut and refused
    corrupt             bits of what is sent by and to them are flipped
    loss                a share `loss_share` of the segments that they send and get is sent again
    delay               what they send and get is on its way for `delay_s` longer
    bandwidth           they send `bytes_per_s`, and get as many, over all their connections
    heal                their connections are as before
    join                new agents take part from the end of a window on, with a model of the others
    leave               agents take no part any more from the end of a window on

Timing only: `agent.testbed.testbed` performs what is done to processes, `agent.testbed.links` says
what connections suffer. What cannot come about (a heal of nothing, a round that nobody reaches) is
refused by `check` before anything is started, as far as it can be known then.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from candor.topologies.specs.specs import ConfigurationError

AMOUNTS: Final[Mapping[str, str]] = {
    "slow": "speed",
    "loss": "loss_share",
    "delay": "delay_s",
    "bandwidth": "bytes_per_s",
}
"""What says how much, by action."""
HOLDS: Final = ("kill", "stop", "disk_full")  # whom they do that to finishes no round
MEMBERS: Final = ("join", "leave")  # what changes who takes part
LINK_ACTIONS: Final = ("partition", "corrupt", "loss", "delay", "bandwidth")
PASSING: Final = (*HOLDS, "slow", *LINK_ACTIONS)
"""What can be undone, and so have an end."""
UNDOES: Final[Mapping[str, tuple[str, ...]]] = {
    "continue": ("stop", "slow"),
    "disk_free": ("disk_full",),
    "heal": LINK_ACTIONS,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One event: `action` on `agents`, due at a round or at a time since the start. `groups`: those
    that a partition cuts from each other; `until_round` or `for_s`, when it ends; `amount`: how
    much, in the unit of `AMOUNTS`. The action `end`, which no plan has, is the end of the event
    `of`."""

    action: str
    agents: tuple[str, ...]
    at_round: int | None
    at_s: float | None
    groups: tuple[tuple[str, ...], ...] = ()
    until_round: int | None = None
    for_s: float | None = None
    amount: float | None = None
    of: "Fault | None" = None

    def due(self, round_number: int, seconds: float) -> bool:
        """Whether its moment has come."""
        if self.at_round is not None:
            return round_number >= self.at_round
        return self.at_s is not None and seconds >= self.at_s

    def end(self, seconds: float) -> "Fault | None":
        """Its end, if it has come about after so many seconds; None of what stays."""
        if self.until_round is not None:
            return Fault("end", self.agents, self.until_round, None, of=self)
        if self.for_s is not None:
            return Fault("end", self.agents, None, seconds + self.for_s, of=self)
        return None

    def revives(self) -> bool:
        """Whether somebody may go on by it who has been held."""
        return self.action in ("restart", "continue", "disk_free") or (
            self.of is not None and self.of.action in HOLDS
        )

    def without(self, agents: Collection[str]) -> "Fault | None":
        """What is left of a fault of connections once those of `agents` are healed."""
        left = tuple(agent for agent in self.agents if agent not in agents)
        groups = tuple(tuple(a for a in group if a not in agents) for group in self.groups)
        return replace(self, agents=left, groups=groups) if left else None


def check(
    faults: Sequence[Fault],
    agents: Collection[str],
    rounds: int,
    located: Callable[[int], AbstractContextManager[None]],
) -> None:
    """Refuse what cannot come about in a run of these agents and so many rounds; `located` tells
    which event of the plan an error is about.

    Raises:
        ConfigurationError: the first such event, in one line.
    """
    _check_members(faults, agents, located)
    for place, fault in enumerate(faults):
        with located(place):
            _check_rounds(fault, rounds)
            _check_undone(faults, place, everyone=len(fault.agents) == len(agents))
    for place in _out_of_reach(faults, len(agents)):
        with located(place):
            raise ConfigurationError(
                "nobody is left by then to reach that round; give it a time, at_s or for_s"
            )


def _check_members(
    faults: Sequence[Fault],
    agents: Collection[str],
    located: Callable[[int], AbstractContextManager[None]],
) -> None:
    """Who joins is new, who leaves was in, each once; connections are of those that are in all
    along."""
    changes = [(place, fault) for place, fault in enumerate(faults) if fault.action in MEMBERS]
    seen: set[str] = set()
    for place, fault in changes:
        with located(place):
            for agent in fault.agents:
                if agent in seen or (agent in agents) == (fault.action == "join"):
                    known = "was in already" if fault.action == "join" else "is not in by then"
                    raise ConfigurationError(f"{fault.action}: {agent} {known}")
            seen.update(fault.agents)
    for place, fault in enumerate(faults) if changes else ():
        with located(place):
            if fault.action in LINK_ACTIONS:
                raise ConfigurationError(f"{fault.action} does not go with join and leave")


def _check_rounds(fault: Fault, rounds: int) -> None:
    for name in ("at_round", "until_round"):
        if (getattr(fault, name) or 0) > rounds:
            raise ConfigurationError(
                f"{name} = {getattr(fault, name)}: the run has {rounds} rounds"
            )


def _check_undone(faults: Sequence[Fault], place: int, *, everyone: bool) -> None:
    """Nothing is undone that has not been done before, as far as the order of the two is known."""
    undoing = faults[place]
    if undoing.action not in UNDOES:
        return
    undone = UNDOES[undoing.action]
    done = {
        agent
        for other, fault in enumerate(faults)
        if fault.action in undone and not _later(faults, other, place)
        for agent in fault.agents
    }
    idle = [agent for agent in undoing.agents if agent not in done]
    if idle and not (everyone and done):
        whom = "anybody" if everyone else idle[0]
        raise ConfigurationError(f"{undoing.action}: no {' or '.join(undone)} of {whom} before it")


def _later(faults: Sequence[Fault], one: int, other: int) -> bool:
    """Whether the first of two events surely comes after the second."""
    for name in ("at_round", "at_s"):
        mine, others = getattr(faults[one], name), getattr(faults[other], name)
        if mine is not None and others is not None:
            return bool((mine, one) > (others, other))
    return False


def _out_of_reach(faults: Sequence[Fault], count: int) -> Iterator[int]:
    """Which event begins or ends in a round that none of `count` agents reaches, as all are held by
    then. Nothing is known where somebody goes on at a time: that may be at any round."""
    if any(
        f.at_s is not None if f.revives() else f.for_s is not None and f.action in HOLDS
        for f in faults
    ):
        return
    begun = [(f.at_round, place, False) for place, f in enumerate(faults) if f.at_round]
    ended = [(f.until_round, place, True) for place, f in enumerate(faults) if f.until_round]
    held: set[str] = set()
    reached = 0
    for moment, place, ends in sorted([*begun, *ended]):
        if len(held) == count and moment > reached:
            yield place
            return
        reached, fault = moment, faults[place]
        if (ends and fault.action in HOLDS) or fault.revives():
            held -= set(fault.agents)
        elif not ends and fault.action in HOLDS:
            held |= set(fault.agents)
