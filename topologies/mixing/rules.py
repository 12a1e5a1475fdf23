"""Mixing matrices: how much of each neighbour's vector an agent takes.

Every matrix here is symmetric with non-negative entries and rows (so columns) that sum to one:
repeated mixing keeps the mean and drives all agents to it. Rules whose weights every host computes
to the last bit are in `WEIGHTS`; those of `RULES` beyond them need eigenvalues or a solver, so that
a cluster file holds their weights themselves. A matrix of the user's own is read by
`topologies.mixing.matrices`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.topologies.mixing import spectral
from candor.topologies.mixing.fastest import fastest
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx
    from scipy.sparse import csr_array

DEFAULT_MIXING = "metropolis-hastings"
PUSH_SUM = "push-sum"  # of directed graphs: no matrix of this module, but of round_weights

Places: TypeAlias = NDArray[np.intp]  # (edges,), the row of one end of each edge
Weights: TypeAlias = Callable[[int, Places, Places], NDArray[np.float64]]  # to (edges,)


def matrix(name: str, graph: "nx.Graph[str]", order: Sequence[str]) -> NDArray[np.float64]:
    """The dense mixing matrix (agents, agents) of `graph`, rows and columns in `order`.

    Raises:
        ConfigurationError: an unknown mixing name, or a rule that does not fit the graph.
    """
    return sparse_matrix(name, graph, order).toarray()


def sparse_matrix(
    name: str, graph: "nx.Graph[str]", order: Sequence[str]
) -> "csr_array[np.float64]":
    """What `matrix` gives, entry by entry, without the zeros; raises as it does."""
    from scipy.sparse import csr_array

    rows, columns, values = _entries(name, graph, order)
    return csr_array((values, (rows, columns)), shape=(len(order), len(order)))


def check_name(name: str) -> str:
    """`name` itself, of a rule.

    Raises:
        ConfigurationError: no such mixing; names the known ones.
    """
    if name not in RULES:
        raise ConfigurationError(f"unknown mixing {name!r}; known: {', '.join(RULES)}")
    return name


def check_directed(name: str, spec: str) -> None:
    """Check that a mixing fits `spec`, whose graph is directed; raises ConfigurationError."""
    if name != PUSH_SUM:
        raise ConfigurationError(
            f"mixing {name!r} is for undirected graphs, and {spec!r} is directed; use {PUSH_SUM}"
        )


def one_graph_only(name: str, spec: str) -> ConfigurationError:
    """What to say of a mixing that needs one undirected graph, where `spec` is none."""
    others = ", ".join((*WEIGHTS, PUSH_SUM))
    return ConfigurationError(
        f"mixing {name!r} is for one undirected graph, not for {spec!r}; use {others}"
    )


def _entries(
    name: str, graph: "nx.Graph[str]", order: Sequence[str]
) -> tuple[Places, Places, NDArray[np.float64]]:
    """Rows, columns and values of all entries: each edge twice, then the diagonal."""
    check_name(name)
    if graph.is_directed():
        raise ConfigurationError(f"mixing {name!r} is for undirected graphs; use {PUSH_SUM}")
    if len(order) != len(graph) or set(order) != set(graph):
        raise ConfigurationError("the order of rows does not have each agent of the graph once")
    agents, index = len(order), {agent: i for i, agent in enumerate(order)}
    ends = [(index[u], index[v]) for u, v in graph.edges]
    lo, hi = np.array(ends, dtype=np.intp).reshape(-1, 2).T
    weights = RULES[name](agents, lo, hi)
    rows, columns = np.concatenate([lo, hi]), np.concatenate([hi, lo])
    values = np.concatenate([weights, weights])
    by_row = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[by_row], np.arange(agents + 1)).tolist()
    taken = values[by_row].tolist()
    # fsum is exact, so every host gets the same last bit whatever its vector unit adds first.
    diagonal = [1.0 - math.fsum(taken[starts[i] : starts[i + 1]]) for i in range(agents)]
    everyone = np.arange(agents)
    return (
        np.concatenate([rows, everyone]),
        np.concatenate([columns, everyone]),
        np.concatenate([values, diagonal]),
    )


def _degrees(agents: int, lo: Places, hi: Places) -> NDArray[np.intp]:
    return np.bincount(np.concatenate([lo, hi]), minlength=agents)


def _metropolis_hastings(agents: int, lo: Places, hi: Places) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + max(d_i, d_j)): each end needs its neighbours' degrees alone.

    The lazy form of Xiao, Boyd and Kim (2007), "Distributed average consensus with
    least-mean-square deviation", eq. (10): the 1 leaves every agent a weight on itself above 0.
    """
    degrees = _degrees(agents, lo, hi)
    return 1.0 / (1 + np.maximum(degrees[lo], degrees[hi]))


def _lazy(agents: int, lo: Places, hi: Places) -> NDArray[np.float64]:
    """(I + W) / 2 of metropolis-hastings' W: half of itself, so that no eigenvalue is below 0."""
    return 0.5 * _metropolis_hastings(agents, lo, hi)


def _max_degree(agents: int, lo: Places, hi: Places) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + the largest degree): the same weight on every edge."""
    return np.full(len(lo), 1.0 / (1 + _degrees(agents, lo, hi).max()))


def _best_constant(agents: int, lo: Places, hi: Places) -> NDArray[np.float64]:
    """w_ij = 2 / (lambda_1 + lambda_{n-1}) of the Laplacian: the best weight that all edges share.

    Xiao and Boyd (2004), "Fast linear iterations for distributed averaging", section 4.1; here at
    most 1 / d_max, so that nobody's weight on itself is negative. The rate is a convex function of
    the weight, so this is the best of all non-negative ones.
    """
    if agents == 1:
        return np.zeros(0)
    from scipy.sparse import csr_array, diags_array

    degrees = _degrees(agents, lo, hi)
    ones = np.ones(len(lo))
    adjacency = csr_array((ones, (lo, hi)), shape=(agents, agents))
    laplacian = csr_array(diags_array(degrees.astype(np.float64)) - adjacency - adjacency.T)
    low, high = spectral.laplacian_ends(laplacian)
    return np.full(len(lo), min(2.0 / (low + high), 1.0 / degrees.max()))


WEIGHTS: Mapping[str, Weights] = {
    DEFAULT_MIXING: _metropolis_hastings,
    "lazy": _lazy,
    "max-degree": _max_degree,
}
RULES: Mapping[str, Weights] = {**WEIGHTS, "best-constant": _best_constant, "fastest": fastest}
