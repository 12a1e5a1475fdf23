"""Who kept its neighbours waiting, and who did not claim or bill in time, by their word.

Whoever is named was late as its neighbours saw it: a slow host, a bad line or ill will, which
nobody can tell apart. Nothing follows from a name here; what follows from lateness does so where it
happens, edge by edge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from candor.agent.daemon.status import Status

# A neighbour that nobody went on without is named if it took so much of an agent's time: a slow one
# takes up to a third; where rounds are short, each takes a fifth of the others'.
TOLD_SHARE: Final = 0.3
NAMED_MAX: Final = 4  # neighbours of an agent in a sentence; the rest is counted


@dataclass(frozen=True, slots=True)
class Late:
    """What a neighbour says of an agent, of its present life: how long it `waited_s` for it beyond
    what is usual around it, in how many exchanges it went on without it (`missed`), and how many
    windows it had to bill or settle without it, as it was not told in time (`withheld`)."""

    waited_s: float
    missed: int
    withheld: int


def late_of(statuses: Iterable[Status]) -> dict[str, dict[str, Late]]:
    """By agent and by the neighbour that says so; nothing of those who kept nobody up."""
    found: dict[str, dict[str, Late]] = {}
    for status in statuses:
        for agent, seen in status.neighbours.items():
            late = Late(seen.waited_s, seen.missed, seen.withheld)
            long = late.waited_s > TOLD_SHARE * status.seconds
            if late.missed or late.withheld or long:
                found.setdefault(agent, {})[status.agent] = late
    return {agent: found[agent] for agent in sorted(found)}


def late_json(statuses: Iterable[Status]) -> dict[str, Any]:
    """The same as summary.json has it; empty where nobody was late."""
    return {
        agent: {peer: asdict(late) for peer, late in by.items()}
        for agent, by in late_of(statuses).items()
    }


def late_from(found: object) -> dict[str, dict[str, Late]]:
    """The same from summary.json; whatever does not belong there is left out."""
    late: dict[str, dict[str, Late]] = {}
    for agent, by in found.items() if isinstance(found, dict) else ():
        for peer, one in by.items() if isinstance(by, dict) else ():
            match one:
                case {
                    "waited_s": int() | float() as waited_s,
                    "missed": int() as missed,
                    "withheld": int() as withheld,
                }:
                    late.setdefault(agent, {})[peer] = Late(float(waited_s), missed, withheld)
    return late


def late_words(late: Mapping[str, Mapping[str, Late]]) -> list[str]:
    """The same in sentences, those who withheld first."""
    withheld = {
        agent: {peer: one for peer, one in by.items() if one.withheld} for agent, by in late.items()
    }
    kept_up = {
        agent: {peer: one for peer, one in by.items() if one.missed or not one.withheld}
        for agent, by in late.items()
    }
    return [
        f"by its neighbours' word: {agent} did not claim or bill in time: "
        + _listed([f"{peer} {one.withheld} windows" for peer, one in by.items()])
        for agent, by in withheld.items()
        if by
    ] + [
        f"{agent} was late: " + _listed([_waited(peer, one) for peer, one in by.items()])
        for agent, by in kept_up.items()
        if by
    ]


def _waited(peer: str, late: Late) -> str:
    without = f", went on without it {late.missed} times" if late.missed else ""
    return f"{peer} waited {late.waited_s:.1f} s for it{without}"


def _listed(told: list[str]) -> str:
    more = [f"and {len(told) - NAMED_MAX} more"] if len(told) > NAMED_MAX else []
    return "; ".join(told[:NAMED_MAX] + more)
