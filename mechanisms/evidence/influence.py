"""The bound of what an agent may inject in a window: C times what is usual around it.

Every statement has the sum of what its agent has injected in the window so far, as a sketch, and
the bound that this sum keeps to. Both follow from the statements that its row names, so that
everyone computes the same ones, bit by bit. An agent that would exceed its bound shortens what it
injects before it sends, so that all mix the same, itself included; whoever sends more is refused.

Usual is the lower median of the sums in an agent's closed neighbourhood, as stated in the round
before. In the first round of a window, where these are of all the last one, C times the usual is
the most that the agent may inject until the window ends, and the root of W, the rounds of a window,
goes into it for this round. In a later one it is C times the usual carried on to this round, and
that most at most: whoever moves the models makes others inject more. Who was not heard counts as
one that injected nothing, or a liar would choose its yardsticks; who says that it has injected
nothing is none. A bound does not fall below what was injected already, but where there was none
before, as in round 1: then all beyond it is taken back. Who takes over a neighbour's model injects
nothing before the next window: its sum would begin anew.

The sum that follows from statements is not quite that of what an agent has injected: it mixes in
binary32. How much that explains in the window so far is its *slack*, and whoever is beyond its
bound by no more is not refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.aggregation.points import folded
from candor.topologies.encoding.canonical import Value

Floats = NDArray[np.float64]

WINDOW_LEAST: Final = 2  # of one round nothing could be taken back
MIXING: Final = 2.0**-20  # of the lengths of all vectors of a round: what their binary32 explains


@dataclass(frozen=True, slots=True)
class Reach:
    """The `length` of what an agent has injected in a window; its `bound`, and the `most` that this
    may become until the window ends."""

    length: float
    bound: float
    most: float


@dataclass(frozen=True, slots=True)
class Influence:
    """What a statement says of its agent's window: `total`, the sketch (k little-endian float64) of
    what it has injected, times the step sizes of its rounds; empty where the agent has taken over a
    neighbour's model in this window. Its length is `bound` at most, and `most` until the window
    ends, but for the `slack`."""

    total: bytes
    bound: float
    most: float
    slack: float = 0.0

    def fields(self) -> Value:
        """The array as which it is encoded."""
        return [self.total, self.bound, self.most, self.slack]

    @property
    def spent(self) -> bool:
        """Whether the agent is to inject nothing before the next window."""
        return not self.total

    @property
    def reach(self) -> Reach:
        """How long the sum is, and may be."""
        length = 0.0 if self.spent else float(lengths(np.frombuffer(self.total, "<f8")))
        return Reach(length, self.bound, self.most)

    @property
    def kept(self) -> float:
        """Which share of the sum, from 0 to 1, is within the bound: the agent keeps that one."""
        return 0.0 if self.spent else float(kept_shares(np.array(self.reach.length), self.bound))


SPENT: Final = Influence(b"", 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Around:
    """What an agent's row shows of the round before: how far it reached on its `own`, and those
    that it `heard`, of `givers` that it could have heard."""

    own: Reach
    heard: Sequence[Reach]
    givers: int

    def usual(self) -> float | None:
        """The lower median of the lengths around the agent; None where there is no yardstick."""
        found = [one.length for one in self.heard if one.length != 0.0]
        others = self.givers - (len(self.heard) - len(found))
        if others <= 0:
            return None
        missing = [0.0] * (others - len(found))
        mine = [self.own.length] if self.own.length != 0.0 else []
        every = sorted((*missing, *found, *mine))
        return every[(len(every) - 1) // 2]


@dataclass(frozen=True, slots=True)
class Limit:
    """What the cluster file fixes: `factor`, C, and how many rounds a window has."""

    factor: float
    window_rounds: int

    def place(self, t: int) -> int:
        """Which round of its window round t is, from 1."""
        return (t - 1) % self.window_rounds + 1

    def bounds(self, t: int, around: Around) -> tuple[float, float]:
        """The bound of what an agent has injected in the window up to and with round t, from 2, and
        the most that it may become."""
        own, usual, place = around.own, around.usual(), self.place(t)
        if place == 1:
            most = own.most if usual is None else self.factor * usual
            if usual is None and around.givers > 0:
                most = math.inf  # nobody around has injected anything: it cannot be compared
            return most / math.sqrt(self.window_rounds), most
        if usual is None:
            return own.bound, own.most
        due = min(self.factor * usual * (place / (place - 1)), own.most)
        return due if own.bound == math.inf else max(due, min(own.bound, own.length)), own.most

    def after(
        self,
        t: int,
        own: Influence | None,
        heard: Sequence[Influence],
        givers: int,
        moved: Floats,
        mixing: float,
    ) -> Influence:
        """What an agent states that injects `moved` (k,) in round t, times its step size, of which
        `mixing` explains such a length; `own` is what it stated before, None where it took over a
        neighbour's model; the others as in `Around`."""
        first = self.place(t) == 1
        if t == 1:
            return Influence(moved.astype("<f8").tobytes(), math.inf, math.inf, mixing)
        if own is None or (own.spent and not first):
            return replace(SPENT, slack=mixing)
        before, slack = (0.0, 0.0) if first else (np.frombuffer(own.total, "<f8"), own.slack)
        with np.errstate(all="ignore"):  # what peers state may overflow; the result is judged
            total = before + moved
        around = Around(own.reach, [one.reach for one in heard], givers)
        return Influence(total.astype("<f8").tobytes(), *self.bounds(t, around), slack + mixing)


def lengths(sketches: Floats) -> Floats:
    """The lengths (...) of sketches (..., k), with the same bits everywhere."""
    with np.errstate(all="ignore"):
        squares = np.moveaxis(sketches, -1, 0) ** 2
        found: Floats = np.sqrt(folded(squares))
    return found


def kept_shares(found: Floats, bounds: Floats | float) -> Floats:
    """Which share of sums of lengths (...) is within their bounds: 1 where they are."""
    with np.errstate(all="ignore"):
        shares: Floats = np.where(found > bounds, bounds / found, 1.0)
    return shares
