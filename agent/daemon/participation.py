"""Who took part in which share of a run's rounds, counted where it counts: by those who mix.

An agent *took part in round t at* a neighbour that the schedule has mix it in round t, and that
performed the round, where the neighbour mixed what it sent in the round's last exchange, that of
models. Rounds that a neighbour did not perform itself say nothing of others. Whoever was away while
all were away that would have mixed it shows by its own rounds: a share is the lesser of two,

    mixed / due             of the rounds that neighbours performed and were to mix it in
    performed / rounds      of the rounds of the run since it is in, up to the last that anybody
                            has reached, or its own last if it has left

so that rounds before a late start and those between a death and a re-entry count as missed. Given
no weight by an aggregator is taking part: it was heard.

Pure: from lines of metrics.csv, which outlive a restart, or from statuses to shares and a sentence.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from candor.agent.daemon.metrics import RoundMetrics
from candor.agent.daemon.status import Status

NAMED_MAX: Final = 12  # in a sentence; the rest is counted

# Whom an agent mixes in a round, from 1, as the schedule has it.
Taken = Callable[[int], Collection[str]]


@dataclass(slots=True)
class Heard:
    """What an agent counted of a neighbour: rounds in which it was `due`, in which it was `mixed`,
    and the `last` of these, 0 before the first."""

    due: int = 0
    mixed: int = 0
    last: int = 0


@dataclass(slots=True)
class View:
    """What one agent saw in all its lives: how many rounds it `performed` since it was in, the last
    one that it `reached`, and each neighbour that was due."""

    performed: int = 0
    reached: int = 0
    heard: dict[str, Heard] = field(default_factory=dict)
    since: int = 1  # the first round in which it was in the run
    left: int | None = None  # the last one, if the run goes on without it

    @classmethod
    def of_lines(
        cls,
        lines: Iterable[RoundMetrics],
        taken: Taken,
        since: int = 1,
        left: int | None = None,
    ) -> Self:
        """What the lines of its metrics.csv say of an agent that was in `since` a round, and `left`
        after one, if it did."""
        view = cls(since=since, left=left)
        for line in lines:
            view.count(line.round, taken(line.round), line.missing)
        return view

    @classmethod
    def of_status(cls, status: Status) -> Self | None:
        """What its status says; None where that is of a simulated run or of an earlier version."""
        if status.performed_rounds is None:
            return None
        heard = {
            agent: Heard(seen.due_rounds, seen.mixed_rounds, seen.last_round)
            for agent, seen in status.neighbours.items()
        }
        return cls(status.performed_rounds, status.round, heard, status.since_round, status.left)

    def count(self, t: int, taken: Collection[str], missing: Collection[str]) -> None:
        """It performed round t, had `taken` to mix, and did without some."""
        self.performed += t >= self.since
        self.reached = max(self.reached, t)
        for agent in taken:
            heard = self.heard.setdefault(agent, Heard())
            heard.due += 1
            if agent not in missing:
                heard.mixed += 1
                heard.last = max(heard.last, t)


@dataclass(frozen=True, slots=True)
class Part:
    """An agent's part in a run: its `share` of the rounds, from 0 to 1, and what that is made of;
    `performed` is None where its own word is not there, `last_round` the last one in which it was
    mixed, or performed where nobody was to mix it."""

    share: float
    performed: int | None
    due: int
    mixed: int
    last_round: int

    @property
    def throughout(self) -> bool:
        """Whether it missed nothing."""
        return self.share == 1.0


def participation(views: Mapping[str, View]) -> dict[str, Part]:
    """By agent, its part as those saw it whose views there are, its own among them; without who was
    due nowhere and has no view. Nothing before the first round."""
    rounds = max((view.reached for view in views.values()), default=0)
    if not rounds:
        return {}
    named = dict.fromkeys(views)
    for view in views.values():
        named |= dict.fromkeys(sorted(view.heard))
    found = ((agent, _part(agent, views, rounds)) for agent in named)
    return {agent: part for agent, part in found if part is not None}


def _part(agent: str, views: Mapping[str, View], rounds: int) -> Part | None:
    heard = [view.heard[agent] for view in views.values() if agent in view.heard]
    due, mixed = sum(one.due for one in heard), sum(one.mixed for one in heard)
    own = views.get(agent)
    shares = [mixed / due] if due else []
    if own is not None:
        until = rounds if own.left is None else own.left
        shares.append(min(1.0, own.performed / max(1, until - own.since + 1)))
    if not shares:
        return None
    last = max((one.last for one in heard), default=own.reached if own else 0)
    return Part(min(shares), own.performed if own else None, due, mixed, last)


def seen_in(statuses: Iterable[Status]) -> dict[str, Part]:
    """The same from what daemons said last."""
    views = {status.agent: View.of_status(status) for status in statuses}
    return participation({agent: view for agent, view in views.items() if view is not None})


def parts_of(found: object) -> dict[str, Part]:
    """The same from summary.json; whatever is no part is left out."""
    parts: dict[str, Part] = {}
    for agent, one in found.items() if isinstance(found, dict) else ():
        match one:
            case {
                "share": int() | float() as share,
                "performed": (int() | None) as performed,
                "due": int() as due,
                "mixed": int() as mixed,
                "last_round": int() as last,
            }:
                parts[str(agent)] = Part(float(share), performed, due, mixed, last)
    return parts


def participation_words(parts: Mapping[str, Part]) -> str:
    """The same in a sentence, the least first; "" of nobody. Percentages are rounded down: nobody
    who missed a round has 100."""
    if not parts:
        return ""
    missed = {agent: part for agent, part in parts.items() if not part.throughout}
    if not missed:
        return f"all {len(parts)} agents took part throughout"
    ordered = sorted(missed.items(), key=lambda item: (item[1].share, item[0]))
    told = [_told(agent, part) for agent, part in ordered[:NAMED_MAX]]
    more = [f"and {len(missed) - NAMED_MAX} more"] if len(missed) > NAMED_MAX else []
    throughout = len(parts) - len(missed)
    return "; ".join((f"{throughout} of {len(parts)} agents took part throughout", *told, *more))


def _told(agent: str, part: Part) -> str:
    percent = math.floor(100 * part.share)
    seen = f"last seen in round {part.last_round}" if part.last_round else "never seen"
    if part.due and part.mixed / part.due == part.share:
        return f"{agent} was mixed in {percent} % of rounds by its neighbours, {seen}"
    return f"{agent} performed {percent} % of the rounds, {seen}"


def absence(parts: Mapping[str, Part], required: float | None) -> str:
    """What to say where somebody took part in a smaller share of the rounds than is required; ""
    where nobody did, or nothing is required."""
    fewer = [agent for agent, part in parts.items() if part.share < (required or 0.0)]
    if not fewer:
        return ""
    more = f" and {len(fewer) - NAMED_MAX} more" if len(fewer) > NAMED_MAX else ""
    named = ", ".join(fewer[:NAMED_MAX]) + more
    return f"took part in less than {100 * (required or 0.0):g} % of the rounds: {named}"
