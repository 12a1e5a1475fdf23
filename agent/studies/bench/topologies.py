"""What large topologies cost to compute: mixing matrices of a thousand agents, and analyses."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

from candor.topologies.graphs import graphs
from candor.topologies.mixing import rules as mixing
from candor.topologies.schedules import costs as analysis

MATRIX_FAMILIES: Final = ("ring", "torus", "random-regular", "barabasi-albert", "complete")
MATRIX_RULES: Final = (*mixing.WEIGHTS, "best-constant")
ANALYSED: Final = ("ring", "torus", "random-regular")


@dataclass(frozen=True, slots=True)
class TopologyCost:
    """Seconds to do `what` for `agents` agents: the median of some calls."""

    topology: str
    agents: int
    what: str
    seconds: float


def measure_topologies(
    agents: int, analysed_agents: int, calls: int, progress: Callable[[str], None]
) -> list[TopologyCost]:
    """Time sparse matrices of `agents` agents and whole analyses of `analysed_agents`.

    An analysis draws the graph, builds its Metropolis-Hastings matrix, and finds spectral gap,
    distances and weak points.

    Raises:
        ConfigurationError: a family has no graph of so many agents.
    """
    costs: list[TopologyCost] = []
    for spec in MATRIX_FAMILIES:
        graph = graphs.build(spec, agents)
        for rule in MATRIX_RULES:
            progress(f"{rule} on {spec}")
            seconds = _timed(partial(mixing.sparse_matrix, rule, graph, list(graph)), calls)
            costs.append(TopologyCost(spec, agents, rule, seconds))
    for spec in ANALYSED:
        progress(f"analysis of {spec}")
        seconds = _timed(partial(_analyse, spec, analysed_agents), calls)
        costs.append(TopologyCost(spec, analysed_agents, "analysis", seconds))
    return costs


def _analyse(spec: str, agents: int) -> None:
    graph = graphs.build(spec, agents)
    matrix = mixing.sparse_matrix(mixing.DEFAULT_MIXING, graph, list(graph))
    analysis.analyse(graph, matrix, parameters=1)


def _timed(job: Callable[[], object], calls: int) -> float:
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - began)
    return median(seconds)
