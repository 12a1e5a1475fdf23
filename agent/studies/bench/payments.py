"""What lies cost: strategies by graphs and data, each run once and billed by every rule.

One agent deviates, all others are honest. What it pays is set against the most that any honest
agent of the same run pays, and against what it pays itself in the honest run of the same seed, all
net over all edges and in units of the rule's price; its gain is what it wins in its own training
loss over that honest run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.placeholder_agents import stand_in_cluster
from candor.agent.simulation.vectorised import VectorisedResult, run_vectorised, settle
from candor.mechanisms.payments.credits import MICRO
from candor.mechanisms.payments.rules import parse_rule
from candor.topologies.cluster.file import Cluster

STRATEGIES: Final = (
    "scale:1.5",
    "scale:2",
    "scale:4",
    "untraced:4",
    "scale:0.5",
    "scale:0",
    "scale:-1",
    "noise:1",
    "random-direction",
    "alternating-flip",
    "stale-copy",
    "conform:0.5",
)
GRAPHS: Final = ("erdos-renyi:p=0.4,seed={seed}", "ring")
PARTITIONS: Final = ("iid", "dirichlet:0.5")
IDLING: Final = "band + originality + persistence"
RULES: Final = (
    "band",
    "originality",
    "persistence",
    IDLING,
    "peer-prediction",
    "norm",
    "variance",
)
PRICE: Final = 1e-4  # small enough that even what diverges can be counted; amounts are over it
BATCH_SIZE: Final = 8
LAST_ROUNDS: Final = 16  # over which the own loss is averaged


@dataclass(frozen=True, slots=True)
class Cell:
    """One strategy in one setting: means over the seeds.

    `gain`: own loss of the honest run less that of the deviation; `pays` and `honest_pays` by rule,
    in units of the price: the deviating agent, and the most of any honest agent in the same run;
    `pays_more`: the deviating agent, beyond what it pays when it is honest.
    """

    topology: str
    partition: str
    strategy: str
    gain: float
    pays: Mapping[str, float]
    honest_pays: Mapping[str, float]
    pays_more: Mapping[str, float]


def measure_payments(
    agents: int,
    rounds: int,
    seeds: int,
    *,
    rules: Sequence[str] = RULES,
    strategies: Sequence[str] = STRATEGIES,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Cell]:
    """The whole table, on digits; a0 deviates.

    Raises:
        ConfigurationError: a strategy or a rule is not known.
    """
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    cells = []
    for graph in GRAPHS:
        for partition in PARTITIONS:
            clusters = [_cluster(agents, graph, partition, rounds, seed) for seed in range(seeds)]
            honest = [run_vectorised(cluster, {}) for cluster in clusters]
            for strategy in strategies:
                progress(f"{graph.partition(':')[0]}, {partition}, {strategy}")
                cells.append(_cell(clusters, honest, strategy, rules))
    return cells


def _cell(
    clusters: Sequence[Cluster],
    honest: Sequence[VectorisedResult],
    strategy: str,
    rules: Sequence[str],
) -> Cell:
    results = [run_vectorised(cluster, {"a0": strategy}) for cluster in clusters]
    pays: dict[str, float] = {}
    most: dict[str, float] = {}
    more: dict[str, float] = {}
    for rule in rules:
        paid = [_paid(c, rule, after) for c, after in zip(clusters, results, strict=True)]
        usual = [_paid(c, rule, before)["a0"] for c, before in zip(clusters, honest, strict=True)]
        own = [amounts.pop("a0") for amounts in paid]
        pays[rule] = float(np.mean(own))
        most[rule] = float(np.mean([max(amounts.values()) for amounts in paid]))
        more[rule] = float(np.mean(np.subtract(own, usual)))
    gain = float(np.mean([*map(_own_loss, honest)]) - np.mean([*map(_own_loss, results)]))
    first = clusters[0]
    topology = first.graph.topology.partition(":")[0]
    return Cell(topology, first.task.partition, strategy, gain, pays, most, more)


def _paid(cluster: Cluster, rule: str, result: VectorisedResult) -> dict[str, float]:
    """What each agent pays, net, in units of the price; every term of a sum has the same price."""
    payments = parse_rule(" + ".join(f"{name}:{PRICE!r}" for name in rule.split(" + ")))
    balances = settle(cluster, payments, result.evidence)
    return {agent: -received / (MICRO * PRICE) for agent, received in balances.items()}


def _own_loss(result: VectorisedResult) -> float:
    return float(result.losses[-LAST_ROUNDS:, 0].mean())


def _cluster(agents: int, graph: str, partition: str, rounds: int, seed: int) -> Cluster:
    task = task_settings("digits", seed, None, partition=partition, batch_size=BATCH_SIZE)
    topology = graph.format(seed=seed)
    return stand_in_cluster("payments", task, topology, agents, rounds, seed=seed)
