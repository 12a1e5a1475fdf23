"""Who mixes whom in a round, and with which weight."""

import hashlib
import math

from tests.independent.wire import Cluster, pack


def hashed(seed: int, number: int, *agents: str) -> int:
    digest = hashlib.sha256(pack(["candor/schedule", seed, number, *agents])).digest()
    return int.from_bytes(digest[:8], "big")


def arcs(cluster: Cluster, number: int) -> list[tuple[str, str]]:
    """Giver and taker of every arc of a round."""
    graph = cluster.file["graph"]
    kind, _, rest = graph["schedule"].partition(":")
    options = dict(item.split("=") for item in rest.split(",")) if rest else {}
    seed = int(options.get("seed", 0))
    edges = [tuple(sorted(edge)) for edge in graph["edges"]]
    match kind:
        case "turns" | "arcs":
            edges = [tuple(pair) for pair in graph["turns"][(number - 1) % len(graph["turns"])]]
            if kind == "arcs":
                return edges
        case "pairs":
            order = sorted(cluster.agents, key=lambda agent: hashed(seed, number, agent))
            edges = list(zip(order[::2], order[1::2], strict=False))
        case "matching":
            free, chosen = set(cluster.agents), []
            for edge in sorted(edges, key=lambda edge: hashed(seed, number, *edge)):
                if free >= set(edge):
                    free -= set(edge)
                    chosen.append(edge)
            edges = chosen
        case "failing":
            least = math.ceil(float(options["p"]) * 2**64)
            edges = [edge for edge in edges if hashed(seed, number, *edge) >= least]
    return edges + [(v, u) for u, v in edges]


def taken(cluster: Cluster, number: int, taker: str) -> dict[str, float]:
    """The weights of those from whom an agent takes in a round."""
    return {
        giver: weight
        for giver, to in sorted(arcs(cluster, number))
        if to == taker and (weight := weight_of(cluster, number, giver, taker)) > 0
    }


def takers(cluster: Cluster, number: int, giver: str) -> set[str]:
    return {to for one, to in arcs(cluster, number) if one == giver} & {
        agent for agent in cluster.agents if giver in taken(cluster, number, agent)
    }


def sizes(cluster: Cluster) -> dict[str, float]:
    """What each agent's declared weight is over their mean; 1 where none is declared."""
    declared = {agent: float(entry.get("weight", 1)) for agent, entry in cluster.agents.items()}
    largest, total = max(declared.values()), 0.0
    for size in declared.values():
        total += size / largest
    return {agent: size / largest / (total / len(declared)) for agent, size in declared.items()}


def weight_of(cluster: Cluster, number: int, giver: str, taker: str) -> float:
    weight, size = symmetric_weight_of(cluster, number, giver, taker), sizes(cluster)
    if cluster.file["graph"]["mixing"] == "push-sum":
        now, after = push_sum_masses(cluster, number), push_sum_masses(cluster, number + 1)
        return weight * now[giver] / after[taker]
    return weight * min(1.0, size[giver] / size[taker])


def symmetric_weight_of(cluster: Cluster, number: int, giver: str, taker: str) -> float:
    graph, round_arcs = cluster.file["graph"], arcs(cluster, number)
    out = {agent: sum(u == agent for u, _ in round_arcs) for agent in cluster.agents}
    into = {agent: sum(v == agent for _, v in round_arcs) for agent in cluster.agents}
    match graph["mixing"]:
        case "push-sum":
            return 1.0 / (1 + out[giver])
        case "max-degree":
            return 1.0 / (1 + max(*out.values(), *into.values()))
        case "lazy":
            return 0.5 * (1.0 / (1 + max(out[giver], into[taker])))
        case "metropolis-hastings":
            return 1.0 / (1 + max(out[giver], into[taker]))
    for (u, v), (of_u, of_v) in zip(graph["edges"], graph["weights"], strict=True):
        if {u, v} == {giver, taker}:
            return of_u if taker == u else of_v
    raise KeyError((giver, taker))


def masses(cluster: Cluster, number: int) -> dict[str, float]:
    """What each agent's steps are divided by in a round: its mass over that of the first one."""
    if cluster.file["graph"]["mixing"] != "push-sum":
        return dict.fromkeys(cluster.agents, 1.0)
    size, mass = sizes(cluster), push_sum_masses(cluster, number)
    return {agent: mass[agent] / size[agent] for agent in cluster.agents}


def push_sum_masses(cluster: Cluster, number: int) -> dict[str, float]:
    """The mass of each agent in a round."""
    known = _MASSES.setdefault(id(cluster), [cluster, sizes(cluster)])
    while len(known) <= number:
        before, round_arcs = known[-1], arcs(cluster, len(known) - 1)
        out = {agent: sum(u == agent for u, _ in round_arcs) for agent in cluster.agents}
        after = {}
        for agent in cluster.agents:
            total = 0.0
            for giver in sorted(u for u, v in round_arcs if v == agent):
                total += 1.0 / (1 + out[giver]) * before[giver]
            after[agent] = total + before[agent] / (1 + out[agent])
        known.append(after)
    return known[number]


_MASSES: dict[int, list] = {}
