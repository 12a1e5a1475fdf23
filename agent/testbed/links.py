"""What the faults of a plan make of the connections between daemons, and when bytes arrive.

Pure: no clock, no socket; `agent.testbed.proxy` does to real connections what is said here.

Faults lie on each other: a pair of agents is cut or garbled if any fault says so, delays add up,
the lowest limit of an agent holds, and a segment gets through if no loss takes it. What is modelled
of a network is what TCP makes of it, since daemons see nothing else:

- `delay`: every piece arrives that much later, in order; connecting takes no longer.
- `bandwidth`: an agent's connections share one queue up and one down; each piece waits its turn.
- `loss`: TCP sends again what was lost, so it comes late, with all behind it: after `RESEND_S`,
  doubled each time that it is lost again, up to `RESEND_S_MAX`, `RESENDS_MAX` times. Recovery is by
  timeout alone: no fast retransmission, which would spare some, no window that shrinks, which would
  cost some.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeAlias

from candor.agent.testbed.faults import Fault

Pair: TypeAlias = tuple[str, str]  # who dials, and whom

SEGMENT_BYTES: Final = 1460  # what a packet of Ethernet carries
RESEND_S: Final = 0.2  # the least that Linux waits for
RESEND_S_MAX: Final = 6.4  # Linux goes up to 120 s; runs here last for minutes
RESENDS_MAX: Final = 15  # Linux breaks the connection then
PIECE_BYTES_MAX: Final = 1 << 16
PIECE_S: Final = 0.1
"""What is sent at a time takes a limited link this long at most, so that others have their turn."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How it is for the connections of a pair; `limits` are (agent, bytes a second)."""

    cut: bool = False
    garbled: bool = False
    loss_share: float = 0.0
    delay_s: float = 0.0
    limits: tuple[tuple[str, float], ...] = ()

    @property
    def piece_bytes(self) -> int:
        """How much is sent at a time."""
        slowest = min((rate for _, rate in self.limits), default=math.inf)
        return max(1, int(min(PIECE_BYTES_MAX, slowest * PIECE_S)))


def conditions(pairs: Iterable[Pair], faults: Iterable[Fault]) -> dict[Pair, Condition]:
    """The condition of every pair, given the faults of connections that there are."""
    found = dict.fromkeys(pairs, Condition())
    for fault in faults:
        found = {pair: _under(condition, fault, pair) for pair, condition in found.items()}
    return found


def _under(condition: Condition, fault: Fault, pair: Pair) -> Condition:
    """The condition with one more fault. Both ends may have it: then it is there twice."""
    ends = [agent for agent in pair if agent in fault.agents]
    amount = fault.amount or 0.0
    match fault.action:
        case "partition":
            sides = [n for n, group in enumerate(fault.groups) for a in pair if a in group]
            return replace(condition, cut=condition.cut or len(set(sides)) == 2)
        case "corrupt":
            return replace(condition, garbled=condition.garbled or bool(ends))
        case "loss":
            passed = (1 - condition.loss_share) * (1 - amount) ** len(ends)
            return replace(condition, loss_share=1 - passed)
        case "delay":
            return replace(condition, delay_s=condition.delay_s + amount * len(ends))
        case _:  # bandwidth
            limits = dict(condition.limits)
            for agent in ends:
                limits[agent] = min(amount, limits.get(agent, amount))
            return replace(condition, limits=tuple(limits.items()))


class Queues:
    """When bytes pass limited links: one queue an agent and direction."""

    def __init__(self) -> None:
        self._free_s: dict[tuple[str, bool], float] = {}

    def passed_s(self, now_s: float, size: int, sender: str, condition: Condition) -> float:
        """When so many bytes, which `sender` has sent now, are through."""
        for agent, rate in condition.limits:
            queue = (agent, agent == sender)
            now_s = max(now_s, self._free_s.get(queue, 0.0)) + size / rate
            self._free_s[queue] = now_s
        return now_s


def stall_s(size: int, loss_share: float, random: Random) -> float:
    """How long so many bytes are held up by what is lost of them."""
    if loss_share == 0.0:
        return 0.0
    whole = (1 - loss_share) ** math.ceil(size / SEGMENT_BYTES)
    if random.random() < whole:
        return 0.0
    resends = 1
    while resends < RESENDS_MAX and random.random() < loss_share:
        resends += 1
    return sum(min(RESEND_S * (1 << n), RESEND_S_MAX) for n in range(resends))
