"""Fair gossip: what agents think of each other's updates, and which part of a model each earns."""

import math
from decimal import Context, Decimal
from typing import NamedTuple

import blake3
import numpy as np

from tests.independent.graphs import taken
from tests.independent.rows import fold, total
from tests.independent.wire import Cluster

EXACT = Context(prec=60)
LEAF_BYTES = 32
FLOOR, SHORT, SPANNED = 0.001, 0.1, 1e-12


class Rule(NamedTuple):
    """The values of `cgsv`."""

    beta: float = 1.0
    alpha: float = 0.5
    tolerance: float = 0.5


class Rating(NamedTuple):
    """What is stated of one agent."""

    reputation: float
    score: float
    groups: int


def rule_of(cluster: Cluster) -> Rule | None:
    """How the agents of a run trade, None where they do not."""
    name, _, rest = cluster.file["algorithm"].get("rewards", "none").partition(":")
    if name != "cgsv":
        return None
    values = dict(item.split("=") for item in rest.split(",")) if rest else {}
    return Rule(**{key: float(value) for key, value in values.items()})


# Groups of coordinates


def groups(cluster: Cluster) -> int:
    """G."""
    return max(1, min(32, cluster.k // 16))


def bound(cluster: Cluster, group: int) -> int:
    """b(g): in the first g groups are the coordinates of so many buckets."""
    return math.ceil(group * cluster.k / groups(cluster))


def held(cluster: Cluster, first: int, last: int) -> np.ndarray:
    """Which coordinates are in the groups from `first` to below `last`."""
    buckets = np.arange(cluster.dim) % cluster.k
    return (buckets >= bound(cluster, first)) & (buckets < bound(cluster, last))


def leaves(cluster: Cluster, vector: np.ndarray, first: int, last: int) -> bytes:
    """The leaves of these groups."""
    found = b""
    for group in range(first, last):
        values = vector[held(cluster, group, group + 1)].astype("<f4").tobytes()
        found += blake3.blake3(b"candor/leaf/v1" + group.to_bytes(4, "little") + values).digest()
    return found


def digest_of(leaves: bytes) -> bytes:
    return blake3.blake3(b"candor/leaves/v1" + leaves).digest()


def sections(
    cluster: Cluster, number: int, agent: str, shared: dict[str, int]
) -> list[tuple[int, dict[str, float]]]:
    """By group, from which bucket on and with which weights an agent mixes in a round that trades
    so many groups with each of those it heard."""
    near = taken(cluster, number, agent)
    found = []
    for group in range(groups(cluster)):
        row = {one: near[one] for one in sorted(shared) if group < shared[one]}
        own = max(0.0, 1.0 - total(list(row.values())))
        found.append((bound(cluster, group), {**row, agent: own}))
    return found


# Ratings


def novelty(own: np.ndarray, before: list[np.ndarray]) -> float:
    """nu of a trace, of those of the round before in ascending order of id, then of the ways."""
    rests = [vector.copy() for vector in [*before, own]]
    for a, vector in enumerate(before):
        left = fold(rests[a] * rests[a])
        if left > SPANNED * fold(vector * vector):
            q = rests[a] / math.sqrt(left)
            for c in range(a + 1, len(rests)):
                rests[c] = rests[c] - fold(rests[c] * q) * q
    left, whole = fold(rests[-1] * rests[-1]), fold(own * own)
    return min(1.0, left / whole) if whole and not math.isnan(left) else 0.0


def way(start: np.ndarray, model: np.ndarray, given: int, count: int) -> np.ndarray:
    """From what an agent started from to a model of which it was given so many of all groups."""
    there = np.arange(len(start)) < given * (len(start) // count)
    return np.where(there, model - start, 0.0)


def scores(
    rater: str,
    reputations: dict[str, float],
    traces: dict[str, np.ndarray],
    novelties: dict[str, float],
) -> dict[str, float]:
    """What the updates of those that were heard, and the rater's own, are worth."""
    ids = sorted(traces)
    lengths = {one: math.sqrt(fold(traces[one] * traces[one])) for one in ids}
    common = np.zeros(len(traces[rater]))
    for one in ids:
        if lengths[one]:
            common = common + reputations[one] / lengths[one] * traces[one]
    towards, least, found = math.sqrt(fold(common * common)), SHORT * lengths[rater], {}
    for one in ids:
        under = lengths[one] * towards
        cosine = fold(traces[one] * common) / under if under else 0.0
        shorter = lengths[one] / least if lengths[one] < least else 1.0
        found[one] = cosine * novelties[one] * shorter
    return found


def rated(cluster: Cluster, before: dict[str, float], found: dict[str, float]) -> dict[str, Rating]:
    """The ratings after a round, from the reputations before it and its scores."""
    rule = rule_of(cluster)
    moved = dict(before)
    positive = total([max(found[one], 0.0) for one in sorted(found)])
    held = total([before[one] for one in sorted(found)])
    for one, score in found.items():
        share = score / positive * held if positive else 0.0
        moved[one] = max(rule.alpha * before[one] + (1.0 - rule.alpha) * share, FLOOR)
    whole = total([moved[one] for one in sorted(moved)])
    after = {one: moved[one] / whole for one in sorted(moved)}
    given = earned(cluster, after)
    return {one: Rating(after[one], found.get(one, 0.0), given[one]) for one in after}


def equal(cluster: Cluster, agent: str) -> dict[str, Rating]:
    """The ratings of round 1, and right after a re-entry."""
    ids = around(cluster, agent)
    return {one: Rating(1.0 / len(ids), 0.0, groups(cluster)) for one in ids}


def around(cluster: Cluster, agent: str) -> list[str]:
    return sorted([agent, *cluster.neighbours[agent]])


def earned(cluster: Cluster, reputations: dict[str, float]) -> dict[str, int]:
    """How many groups each reputation earns."""
    rule, most = rule_of(cluster), groups(cluster)
    worth = {one: tanh(rule.beta * value) for one, value in reputations.items()}
    best = max(worth.values())
    if not best:
        return dict.fromkeys(worth, most)
    whole = most * (1.0 + rule.tolerance)
    return {one: min(most, math.floor(whole * (h / best))) for one, h in worth.items()}


def tanh(value: float) -> float:
    """Of a number from 0, correctly rounded."""
    power = EXACT.exp(Decimal(2) * Decimal(min(value, 40.0)))
    return float(EXACT.divide(EXACT.subtract(power, 1), EXACT.add(power, 1)))


def is_rated(cluster: Cluster, number: int) -> bool:
    """Whether the updates of a round are scored."""
    return number == 1 or (number - 1) % cluster.window != 0
