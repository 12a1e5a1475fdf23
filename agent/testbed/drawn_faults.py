"""Fault plans that are drawn: `random`, `random:seed=7,events=12,kinds=kill+partition+slow`.

Every event ends, an eighth of the rounds before the run does at the latest, so that whoever was
away can come back. An agent is killed, restarted, stopped, slowed or left without a disk only once
at a time, and at any moment one at least goes on. Drawn by NumPy's `default_rng([seed, "faul"])`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

import numpy as np

from candor.agent.testbed.faults import HOLDS, PASSING, Fault
from candor.topologies.specs.specs import ConfigurationError, Scalar, parse_spec

NAME: Final = "random"
FAULT_DOMAIN: Final = 0x6661756C  # keeps this stream apart from others drawn from the same seed
KINDS: Final = (*PASSING, "restart")
EVENTS: Final = 8
EVENTS_MAX: Final = 1000
TRIES: Final = 1000  # for an event to find a moment and an agent that are free
LASTING: Final = 10  # no event lasts for more than this part of the rounds
CALM: Final = 8  # nor beyond the last such part
_PROCESS: Final = (*HOLDS, "slow", "restart")
# From what a run hardly feels to what it feels in each round.
_AMOUNTS: Final[Mapping[str, tuple[float, ...]]] = {
    "slow": (0.5, 0.2, 0.1),
    "loss": (0.01, 0.05, 0.2),
    "delay": (0.02, 0.1, 0.4),
    "bandwidth": (1 << 20, 1 << 18, 1 << 16),
}
_Random: TypeAlias = np.random.Generator
One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a plan is drawn."""

    seed: int
    events: int = EVENTS
    kinds: tuple[str, ...] = KINDS

    def __str__(self) -> str:
        return f"{NAME}:seed={self.seed},events={self.events},kinds={'+'.join(self.kinds)}"


def parse_drawing(text: str, seed: int, kinds: tuple[str, ...] = KINDS) -> Drawing | None:
    """The drawing that a text describes, None of one that is the name of a file; `seed` and `kinds`
    where it says none.

    Raises:
        ConfigurationError: it does not say what can be drawn.
    """
    if text.partition(":")[0] != NAME:
        return None
    spec = parse_spec(text)
    takes: Mapping[str, Callable[[Scalar], object]] = {
        "seed": lambda value: _whole("seed", value, 0, 2**63 - 1),
        "events": lambda value: _whole("events", value, 1, EVENTS_MAX),
        "kinds": _kinds,
    }
    if spec.value is not None or (unknown := sorted(spec.options.keys() - takes.keys())):
        wrong = spec.value if spec.value is not None else unknown[0]
        raise ConfigurationError(f"{text}: takes {', '.join(takes)}, not {wrong}")
    given = {name: takes[name](value) for name, value in spec.options.items()}
    return replace(Drawing(seed, kinds=kinds), **given)  # type: ignore[arg-type]  # by `takes`


def _whole(name: str, value: Scalar, least: int, most: int) -> int:
    if not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(f"{NAME}: {name} is a whole number of {least} to {most}")
    return value


def _kinds(value: Scalar) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(str(value).split("+")))
    if unknown := [kind for kind in named if kind not in KINDS]:
        raise ConfigurationError(f"{NAME}: kinds are {', '.join(KINDS)}, not {unknown[0]!r}")
    return named


def draw_faults(drawing: Drawing, agents: Sequence[str], rounds: int) -> tuple[Fault, ...]:
    """A plan for a run of these agents and so many rounds, by round.

    Raises:
        ConfigurationError: so much does not fit into the run.
    """
    rng = np.random.default_rng([drawing.seed, FAULT_DOMAIN])
    last = rounds - rounds // CALM
    drawn: list[Fault] = []
    tries = TRIES if last > 1 and len(agents) > 1 else 0
    while len(drawn) < drawing.events and tries:
        fault, tries = _drawn(rng, drawing.kinds, agents, last), tries - 1
        if _fits(fault, drawn, len(agents)):
            drawn.append(fault)
            tries = TRIES
    if len(drawn) < drawing.events:
        raise ConfigurationError(
            f"{drawing}: {len(agents)} agents and {rounds} rounds have room for no such plan; "
            "draw fewer events, or of other kinds"
        )
    return tuple(sorted(drawn, key=lambda fault: fault.at_round or 0))


def _drawn(rng: _Random, kinds: Sequence[str], agents: Sequence[str], last: int) -> Fault:
    """One event between the first round and the last."""
    kind = _one(rng, kinds)
    at = int(rng.integers(1, last))
    until = min(last, at + int(rng.integers(1, max(1, last // LASTING) + 1)))
    if kind == "partition":
        return Fault(kind, tuple(agents), at, None, _split(rng, agents), until)
    amounts = _AMOUNTS.get(kind)
    return Fault(
        *(kind, (_one(rng, agents),), at, None),
        until_round=None if kind == "restart" else until,
        amount=_one(rng, amounts) if amounts else None,
    )


def _one(rng: _Random, among: Sequence[One]) -> One:
    return among[int(rng.integers(len(among)))]


def _split(rng: _Random, agents: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Two groups with somebody in each."""
    first = {int(i) for i in rng.permutation(len(agents))[: rng.integers(1, len(agents))]}
    return tuple(
        tuple(agent for i, agent in enumerate(agents) if (i in first) == inside)
        for inside in (True, False)
    )


def _fits(fault: Fault, drawn: Sequence[Fault], count: int) -> bool:
    """Whether what is done to processes leaves each one thing at a time, and one of all alone."""
    if fault.action not in _PROCESS:
        return True
    beside = [one for one in drawn if one.action in _PROCESS and _overlap(one, fault)]
    if any(one.agents == fault.agents for one in beside):
        return False
    return len({*(one.agents for one in beside), fault.agents}) < count


def _overlap(one: Fault, other: Fault) -> bool:
    (begin, end), (since, until) = (
        (f.at_round or 0, f.until_round or f.at_round or 0) for f in (one, other)
    )
    return begin <= until and since <= end
