"""Fair gossip without a server: neighbours rate each other's updates and trade parts of models.

A model's coordinates are in groups. An agent gives each neighbour the first so many groups that its
reputation earns, and two neighbours mix those that both give: what an agent rates low it neither
gives nor takes. As both leave out the same, mixing moves no coordinate's mean over the agents. It
is the idea of CGSV (Xu et al., NeurIPS 2021) with three differences: cosines are taken with what a
neighbourhood injected, not all agents; what an agent has from the others' last updates, or from the
ways to their models, counts for nothing, or whoever copies them would be rated as they are; and
parts are always the same ones, so that nobody who earns little gathers the rest over time.

Everybody who holds the same traces computes the same ratings, bit by bit: sums are in a written
order, all else is an operation that IEEE 754 rounds correctly, and tanh is rounded from a longer
one. docs/protocol.md, "Fair gossip", says the same for other implementations.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.aggregation.points import folded
from candor.mechanisms.rewards.allocation import FLOOR
from candor.topologies.schedules.weights import ordered_sum, own_weight
from candor.topologies.specs.specs import ConfigurationError, parse_spec

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]

GROUPS_MAX: Final = 32
# Of a group that is not given its leaf is, 32 bytes: no more than 16 values of 16 bits take.
GROUP_BUCKETS_LEAST: Final = 16
# Shorter than this part of the rater's own update, one counts by its length: a cosine knows none,
# so that a free-rider's rounding errors, or a hint of an update, would be worth a whole one.
LENGTH_LEAST: Final = 0.1
# What is left of a trace squared that others span, of traces that are rounded to float32.
SPANNED: Final = 1e-12
# Traces have 128 values at most: of so many updates, and ways to models, half of that is the span.
NEIGHBOURS_MAX: Final = 32
WINDOW_LEAST: Final = 2
TOLERANCE_MAX: Final = 1e6  # all for all; of much more, what is earned would overflow
_EXACT: Final = Context(prec=40)
# From where on tanh rounds to 1, and up to where to the value itself.
_SATURATED, _LINEAR = 20.0, 1e-9

OFF: Final = "none"


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of coordinates of vectors whose sketches have `size` buckets: group g holds those
    in the buckets from `bound(g)` to below `bound(g + 1)`, coordinate i being in bucket i mod size.

    What is done to the groups of vectors is so done to their sketches, bucket by bucket.
    """

    size: int

    @property
    def count(self) -> int:
        """G: how many there are."""
        return max(1, min(GROUPS_MAX, self.size // GROUP_BUCKETS_LEAST))

    def bound(self, groups: int) -> int:
        """How many buckets the first `groups` have."""
        return -(-groups * self.size // self.count)

    @property
    def bounds(self) -> list[int]:
        """In which bucket each group begins, and the last one ends."""
        return [self.bound(group) for group in range(self.count + 1)]

    def length(self, dim: int, first: int, last: int) -> int:
        """How many coordinates of a vector (dim,) the groups from `first` to below `last` hold."""
        low, high = self.bound(first), self.bound(last)
        whole, rest = divmod(dim, self.size)
        return whole * (high - low) + max(0, min(high, rest) - low)

    def taken(self, vector: Vector, first: int, last: int) -> Vector:
        """The values of these coordinates of a vector (dim,), ascending: a copy."""
        head, tail = self.views(vector, self.bound(first), self.bound(last))
        return np.concatenate([head.reshape(-1), tail])

    def put(self, values: Vector, first: int, last: int, into: Vector) -> None:
        """Write values as `taken` gives them to a vector (dim,)."""
        head, tail = self.views(into, self.bound(first), self.bound(last))
        head[:] = values[: head.size].reshape(head.shape)
        tail[:] = values[head.size :]

    def views(self, vector: Vector, low: int, high: int) -> tuple[Vector, Vector]:
        """Views of the coordinates in the buckets from `low` to below `high`: of all whole rows of
        buckets (rows, buckets), and of what is left of the last one."""
        whole = len(vector) // self.size * self.size
        return vector[:whole].reshape(-1, self.size)[:, low:high], vector[whole:][low:high]


@dataclass(frozen=True, slots=True)
class Rating:
    """What an agent thinks of one: its reputation after the round before, the score of that round
    which it came from (0 where it was not rated), and how many groups it is given in this one."""

    reputation: float
    score: float
    groups: int


@dataclass(frozen=True, slots=True)
class Barter:
    """The rule by which all agents of a run rate and trade.

    Attributes:
        beta: how fast shares rise to that of the best with reputations; 0 gives all to all.
        alpha: how slowly reputations move.
        tolerance: by how much less than the best one may be and still get all of it.
    """

    beta: float = 1.0
    # Of digits, most is learned in five rounds: who does nothing must be known by then. Honest ones
    # differ from each other by a third without being worth less.
    alpha: float = 0.5
    tolerance: float = 0.5

    def equal(self, ids: Sequence[str], groups: Groups) -> dict[str, Rating]:
        """The ratings that an agent, one of `ids`, begins with."""
        return {agent: Rating(1.0 / len(ids), 0.0, groups.count) for agent in ids}

    def rated(
        self, before: Mapping[str, float], scores: Mapping[str, float], groups: Groups
    ) -> dict[str, Rating]:
        """The ratings after a round, from the reputations before it and the scores of those that
        were rated in it: these move towards shares of their sum in proportion to scores above 0, as
        fast whatever scores are like; the others keep theirs, up to the sum of all, which is 1."""
        earned = ordered_sum({agent: max(score, 0.0) for agent, score in scores.items()})
        held = ordered_sum({agent: before[agent] for agent in scores})
        moved = dict(before)
        for agent, score in scores.items():
            share = score / earned * held if earned > 0.0 else 0.0
            moved[agent] = max(self.alpha * before[agent] + (1.0 - self.alpha) * share, FLOOR)
        whole = ordered_sum(moved)
        after = {agent: moved[agent] / whole for agent in sorted(moved)}
        given = self.earned(after, groups)
        return {k: Rating(after[k], scores.get(k, 0.0), given[k]) for k in after}

    def earned(self, reputations: Mapping[str, float], groups: Groups) -> dict[str, int]:
        """How many groups each reputation earns: tanh(beta R) over the largest one, as CGSV has it
        (equation 5), and `tolerance` more."""
        worth = {agent: tanh(self.beta * value) for agent, value in reputations.items()}
        best, whole = max(worth.values()), groups.count * (1.0 + self.tolerance)
        if best <= 0.0:
            return dict.fromkeys(worth, groups.count)
        return {k: min(groups.count, math.floor(whole * (one / best))) for k, one in worth.items()}


def sections(
    agent: str, taken: Mapping[str, float], traded: Mapping[str, int], groups: Groups
) -> list[tuple[int, int, dict[str, float]]]:
    """How an agent mixes that trades so many groups with each of those it takes from: from which
    bucket to which, the weights of those that trade them, and for itself what is left to one."""
    found, first = [], 0
    for last in sorted({*(traded[agent] for agent in taken), groups.count} - {0}):
        weights = {agent: w for agent, w in taken.items() if traded[agent] >= last}
        weights[agent] = own_weight(weights)
        found.append((groups.bound(first), groups.bound(last), weights))
        first = last
    return found


def parse_rewards(text: str | None) -> Barter | None:
    """The rule of a spec such as ``cgsv:beta=1``; None for `OFF`.

    Raises:
        ConfigurationError: it names no rule, or a value is out of its range.
    """
    if text is None or text == OFF:
        return None
    spec = parse_spec(text)
    if spec.name != "cgsv":
        raise ConfigurationError(f"rewards {text!r}: unknown; known: {OFF}, cgsv:beta=1")
    options = dict(spec.options)
    if spec.value is not None:
        options["beta"] = spec.value
    known = {"beta": math.inf, "alpha": 1.0, "tolerance": TOLERANCE_MAX}
    values: dict[str, float] = {}
    for name, value in options.items():
        if name not in known:
            raise ConfigurationError(f"rewards {text!r}: no {name}; there are {', '.join(known)}")
        if isinstance(value, str) or not 0.0 <= value <= known[name] or math.isinf(value):
            most = "" if math.isinf(known[name]) else f" to {known[name]:g}"
            raise ConfigurationError(f"rewards {text!r}: {name} is a finite number from 0{most}")
        values[name] = float(value)
    return Barter(**values)


def scores_of(
    rater: str,
    reputations: Mapping[str, float],
    traces: Mapping[str, Floats],
    novelties: Mapping[str, float],
) -> dict[str, float]:
    """What the updates of those whose `traces` (r,) are given, the rater's own among them, are
    worth: how far each points the way of all of them, by reputation (CGSV, equation 3), times its
    novelty, and times its length where it is less than a tenth of the rater's own."""
    ids = sorted(traces)
    stacked = np.stack([traces[agent] for agent in ids])  # (rated, r)
    lengths = np.sqrt(_squares(stacked))
    cosines = _cosines(stacked, lengths, np.array([reputations[agent] for agent in ids]))
    least = LENGTH_LEAST * lengths[ids.index(rater)]
    whole = np.where(lengths < least, lengths / np.where(least > 0.0, least, 1.0), 1.0)
    found = cosines * np.array([novelties[agent] for agent in ids]) * whole
    return dict(zip(ids, found.tolist(), strict=True))


def _cosines(stacked: Floats, lengths: Floats, reputations: Floats) -> Floats:
    """The cosine of each of the traces (rated, r) with the sum of all, each of length one times its
    reputation, added in order; 0 where there is none."""
    there = lengths > 0.0
    common = np.zeros(stacked.shape[1])
    for one, part in zip(stacked, reputations / np.where(there, lengths, 1.0), strict=True):
        common += part * one
    under = lengths * np.sqrt(_squares(common[None])[0])
    towards = folded((stacked * common).T)
    found: Floats = np.where(under > 0.0, towards / np.where(under > 0.0, under, 1.0), 0.0)
    return found


def ways(start: Floats, models: Iterable[Floats], given: Sequence[int], count: int) -> list[Floats]:
    """How far others' models are from what an agent started the same round from, all as traces
    (r,), in those of the `count` groups that each gave it: what shows of their updates to an agent
    that does not know what they started from."""
    each, found = len(start) // count, []
    for model, groups in zip(models, given, strict=True):
        way = model - start
        way[groups * each :] = 0.0
        found.append(way)
    return found


def novelty(trace: Floats, before: Sequence[Floats]) -> float:
    """Which part of a trace's (r,) squared length is not in the span of those `before`, what the
    others did in the round before and the ways to them: 0 of a copy or a sum of copies, 1 where
    there are none (modified Gram-Schmidt, in this order). Nor is it new if one is not a number.
    """
    rests = np.stack([*before, trace])  # (traces, r), the one that is looked at last
    wholes = _squares(rests)
    for place in range(len(before)):
        left = _squares(rests[place : place + 1])[0]
        if left <= SPANNED * wholes[place]:
            continue  # zeros, or in the span of those before it
        axis = rests[place] / np.sqrt(left)
        along = folded((rests[place + 1 :] * axis).T)
        rests[place + 1 :] -= along[:, None] * axis
    left, whole = float(_squares(rests[-1:])[0]), float(wholes[-1])
    return min(1.0, left / whole) if whole > 0.0 and not math.isnan(left) else 0.0


def tanh(value: float) -> float:
    """tanh of a number from 0, correctly rounded, which math.tanh is not everywhere."""
    if value >= _SATURATED:
        return 1.0
    if value <= _LINEAR:
        return value
    power = _EXACT.exp(_EXACT.multiply(Decimal(2), Decimal(value)))
    over, under = _EXACT.subtract(power, Decimal(1)), _EXACT.add(power, Decimal(1))
    return float(_EXACT.divide(over, under))


def _squares(vectors: Floats) -> Floats:
    """The squared lengths (n,) of vectors (n, r)."""
    return folded((vectors * vectors).T)
