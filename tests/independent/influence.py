"""How much an agent may inject in a window, and what it says of that."""

import math

import numpy as np

from tests.independent import graphs, rounds
from tests.independent.rows import fold
from tests.independent.wire import Cluster, Refused

SPENT = [b"", 0.0, 0.0]


def factor_of(cluster: Cluster) -> float | None:
    """C, or None in a run without a bound."""
    return cluster.file["algorithm"].get("influence")


def place_of(cluster: Cluster, number: int) -> int:
    """Which round of its window this is, from 1."""
    return (number - 1) % cluster.window + 1


def length(told: list) -> float:
    """The length of a total; 0 of none."""
    return math.sqrt(fold(np.frombuffer(told[0], "<f8") ** 2)) if told[0] else 0.0


def share(told: list) -> float:
    """Which share of its total an agent keeps that wants to state this."""
    found = length(told)
    if not told[0]:
        return 0.0
    return told[1] / found if found > told[1] else 1.0


def due(
    cluster: Cluster,
    stated: "rounds.Statement",
    found: np.ndarray,
    sources: dict["rounds.Source", "rounds.Statement"],
) -> list:
    """What a statement is to say that injects S u = found."""
    number, agent = stated.round, stated.agent
    moved = _rate(cluster, stated) * found
    place = place_of(cluster, number)
    if number == 1:
        return [_packed(moved), math.inf, math.inf, _explained(cluster, stated, sources)]
    own = next((one.influence for one in sources.values() if one.agent == agent), None)
    if own is None or (place > 1 and not own[0]):
        return [*SPENT, _explained(cluster, stated, sources)]
    before = np.frombuffer(own[0], "<f8") if place > 1 else np.zeros(cluster.k)
    near = [one.influence for one in sources.values() if one.agent != agent]
    bounds = _bounds(cluster, number, agent, own, near)
    slack = (own[3] if place > 1 else 0.0) + _explained(cluster, stated, sources)
    return [_packed(before + moved), *bounds, slack]


def _explained(
    cluster: Cluster, stated: "rounds.Statement", sources: dict["rounds.Source", "rounds.Statement"]
) -> float:
    """What binary32 explains of a sum."""
    found = math.sqrt(fold(np.frombuffer(stated.sketch, "<f8") ** 2))
    [phase], [formed] = cluster.phases, stated.formed
    if stated.round > 1:
        for weight, one in rounds.mixed(cluster, stated, sources, phase.parts[0], formed):
            found += weight * math.sqrt(fold(one**2))
    return 2.0**-20 * graphs.masses(cluster, stated.round)[stated.agent] * found


def _packed(total: np.ndarray) -> bytes:
    return total.astype("<f8").tobytes()


def _rate(cluster: Cluster, stated: "rounds.Statement") -> float:
    return stated.step_size * graphs.masses(cluster, stated.round)[stated.agent]


def _bounds(
    cluster: Cluster, number: int, agent: str, own: list, near: list[list]
) -> tuple[float, float]:
    place, givers = place_of(cluster, number), len(graphs.taken(cluster, number - 1, agent))
    root, most = math.sqrt(cluster.window), own[2]
    loud = [length(one) for one in near if length(one) > 0.0]
    others = givers - (len(near) - len(loud))
    if others == 0:
        if place > 1:
            return own[1], most
        return (math.inf, math.inf) if givers else (most / root, most)
    values = loud + [0.0] * (others - len(loud))
    if length(own) > 0.0:
        values.append(length(own))
    usual = sorted(values)[math.ceil(len(values) / 2) - 1]
    scaled = factor_of(cluster) * usual
    if place == 1:
        return scaled / root, scaled
    bound = min(scaled * (place / (place - 1)), most)
    return (bound if own[1] == math.inf else max(bound, min(own[1], length(own)))), most


def check(
    cluster: Cluster,
    stated: "rounds.Statement",
    found: np.ndarray,
    sources: dict["rounds.Source", "rounds.Statement"],
    explained: float,
) -> None:
    """What is stated is due and within its bound, where rounding explains so much energy. Raises
    Refused."""
    if factor_of(cluster) is None:
        return
    told = due(cluster, stated, found, sources)
    rate = _rate(cluster, stated)
    reached = length(told) if told[0] else rate * math.sqrt(rounds.energy(found))
    if stated.influence != told:
        raise Refused("influence")
    if reached > told[1] * (1 + 2.0**-16) + told[3] + rate * math.sqrt(explained):
        raise Refused("influence")


def is_layout(last: object, sketch_bytes: int) -> bool:
    """Whether this is a total and its bounds, by its layout."""
    total, *bounds = last
    sound = len(total) in (0, sketch_bytes) and all(one >= 0.0 for one in bounds)
    return sound and bool(np.isfinite(np.frombuffer(total, "<f8")).all())
