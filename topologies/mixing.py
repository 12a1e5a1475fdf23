"""Mixing matrices: how much of each neighbour's vector an agent takes.

Every matrix here is symmetric with non-negative entries and rows (so columns) that sum to one:
repeated mixing keeps the mean and drives all agents to it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topologies.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx

DEFAULT_MIXING = "metropolis-hastings"


def matrix(name: str, graph: "nx.Graph[str]", order: Sequence[str]) -> NDArray[np.float64]:
    """The mixing matrix (agents, agents) of `graph`, rows and columns in `order`.

    Raises:
        ConfigurationError: an unknown mixing name.
    """
    weight = WEIGHTS[check_name(name)](graph)
    index = {agent: i for i, agent in enumerate(order)}
    mixing = np.zeros((len(order), len(order)), dtype=np.float64)
    for u, v in graph.edges:
        mixing[index[u], index[v]] = mixing[index[v], index[u]] = weight(u, v)
    for agent, i in index.items():
        # fsum is exact, so every host gets the same last bit whatever its vector unit adds first.
        mixing[i, i] = 1.0 - math.fsum(mixing[i, index[k]] for k in graph[agent])
    return mixing


def check_name(name: str) -> str:
    """`name` itself.

    Raises:
        ConfigurationError: no such mixing; names the known ones.
    """
    if name not in WEIGHTS:
        raise ConfigurationError(f"unknown mixing {name!r}; known: {', '.join(WEIGHTS)}")
    return name


Weight = Callable[[str, str], float]


def _metropolis_hastings(graph: "nx.Graph[str]") -> Weight:
    """w_ij = 1 / (1 + max(d_i, d_j)): each end needs its neighbours' degrees alone.

    The lazy form of Xiao, Boyd and Kim (2007), "Distributed average consensus with
    least-mean-square deviation", eq. (10): the 1 leaves every agent a weight on itself above 0.
    """
    return lambda u, v: 1.0 / (1 + max(graph.degree[u], graph.degree[v]))


def _max_degree(graph: "nx.Graph[str]") -> Weight:
    """w_ij = 1 / (1 + the largest degree): the same weight on every edge."""
    largest = max((degree for _, degree in graph.degree), default=0)
    return lambda _u, _v: 1.0 / (1 + largest)


WEIGHTS: Mapping[str, Callable[["nx.Graph[str]"], Weight]] = MappingProxyType(
    {DEFAULT_MIXING: _metropolis_hastings, "max-degree": _max_degree}
)
