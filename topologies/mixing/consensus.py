"""Averaging by numbers alone: the rate that a matrix really has, and push-sum on directed graphs.

All agents at once, one row of `(agents, dim)` each: for choosing a topology, not for a run.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx
    from scipy.sparse import csr_array

    from candor.topologies.mixing.spectral import Matrix

_DIM = 8  # starting vectors side by side, so that one unlucky start does not decide
MEASURED_ROUNDS = 50
_SETTLING_DOUBLINGS = 20
_NOTHING = 1e-12  # of the disagreement at the start: rounding, not disagreement


def disagreement(vectors: NDArray[np.float64]) -> float:
    """The root of the summed squared distances of all rows of (agents, dim) from their mean."""
    return float(np.linalg.norm(vectors - vectors.mean(axis=0)))


def measured_rate(mixing: "Matrix", rounds: int = MEASURED_ROUNDS, seed: int = 0) -> float:
    """The factor by which disagreement shrinks a round, measured over `rounds` from random vectors.

    A random start shrinks faster at first, while it loses all that the second eigenvector does not
    span, and on slow graphs it would for thousands of rounds. So the start is settled: mixed
    2^20 times, by squaring the matrix and scaling the vectors back. What is measured is the
    geometric mean of the rounds after that; an oscillation has then averaged out.
    """
    dense = mixing if isinstance(mixing, np.ndarray) else mixing.toarray()
    agents = len(dense)
    vectors = np.random.default_rng(seed).standard_normal((agents, _DIM))
    # Without the mean, which would drown the rest in its rounding.
    power = dense - dense.mean(axis=0)
    if disagreement(power @ vectors) <= _NOTHING * disagreement(vectors):
        return 0.0
    step = power.copy()
    for _ in range(_SETTLING_DOUBLINGS):
        power /= np.abs(power).max()
        vectors = power @ vectors
        vectors /= np.linalg.norm(vectors)
        power = power @ power
    logarithms = np.empty(rounds)
    for t in range(rounds):
        vectors = step @ vectors
        size = np.linalg.norm(vectors)
        vectors /= size
        logarithms[t] = np.log(size)
    return float(np.exp(logarithms.mean()))


@dataclass(frozen=True, slots=True)
class Course:
    """How averaging went: `rate` is the factor by which disagreement shrinks a round, `rounds` how
    many shrank it to the asked error; None where it would not in any number of rounds."""

    rate: float
    rounds: int | None


def course(
    matrix: "Callable[[int], Matrix]", agents: int, error: float, rounds: int, seed: int = 0
) -> Course:
    """What the matrices of rounds 1, 2, … do to random vectors, over at most `rounds` rounds.

    They may be of push-sum: then what counts is the estimates. The rate is the geometric mean over
    the second half of the rounds; an error that was not reached by then is put off at that rate.
    """
    vectors = np.random.default_rng(seed).standard_normal((agents, _DIM))
    weights: NDArray[np.float64] = np.ones((agents, 1))
    logarithms, start, scale = [0.0], disagreement(vectors), 0.0
    for t in range(1, rounds + 1):
        mixing = matrix(t)
        before = float(np.linalg.norm(vectors))
        vectors, weights = np.asarray(mixing @ vectors), np.asarray(mixing @ weights)
        # Without the mean, which would drown the rest in its rounding.
        vectors = vectors - weights * (vectors.sum(axis=0) / weights.sum())
        size = float(np.linalg.norm(vectors))
        if size <= _NOTHING * before:
            return Course(0.0, _first(logarithms, error) or t)
        logarithms.append(scale + math.log(disagreement(vectors / weights) / start))
        vectors, scale = vectors / size, scale + math.log(size)
    half = len(logarithms) // 2
    slope = (logarithms[-1] - logarithms[half]) / (len(logarithms) - 1 - half)
    reached = _first(logarithms, error)
    if reached is None and slope < -_NOTHING:
        reached = rounds + math.ceil((math.log(error) - logarithms[-1]) / slope)
    return Course(min(1.0, math.exp(slope)), reached)


def disagreements(
    matrix: "Callable[[int], Matrix]", agents: int, rounds: int, seed: int = 0
) -> list[float]:
    """The disagreement of random vectors after each of the rounds 1, 2, …, over that at the start;
    of estimates where the matrices are of push-sum. One agent alone has none."""
    vectors = np.random.default_rng(seed).standard_normal((agents, 2 * _DIM))
    weights: NDArray[np.float64] = np.ones((agents, 1))
    start, left = disagreement(vectors) or 1.0, []
    for t in range(1, rounds + 1):
        mixing = matrix(t)
        vectors, weights = np.asarray(mixing @ vectors), np.asarray(mixing @ weights)
        left.append(disagreement(vectors / weights) / start)
    return left


def _first(logarithms: list[float], error: float) -> int | None:
    return next((t for t, log in enumerate(logarithms) if log <= math.log(error)), None)


def column_stochastic(graph: "nx.DiGraph[str]") -> "csr_array[np.float64]":
    """The push-sum weights (agents, agents) of a directed graph: each column sums to one.

    An agent with d out-neighbours keeps 1 / (d + 1) of what it has and sends as much along each
    arc: it needs to know nobody's degree but its own.
    """
    from scipy.sparse import csr_array

    index = {agent: i for i, agent in enumerate(graph)}
    givers = [index[u] for u, _ in graph.edges] + list(index.values())
    takers = [index[v] for _, v in graph.edges] + list(index.values())
    share = np.array([1.0 / (1 + graph.out_degree[agent]) for agent in graph])
    return csr_array((share[givers], (takers, givers)), shape=(len(index), len(index)))


def push_sum(vectors: NDArray[np.float64], matrices: "Iterable[Matrix]") -> NDArray[np.float64]:
    """Every agent's estimate (agents, dim) of the mean of `vectors`, after one round a matrix.

    Each round's matrix has columns that sum to one. Numerators x and weights w, which start at 1,
    are mixed alike; x / w is the estimate, since both are pulled to the same uneven places. Kempe,
    Dobra and Gehrke (2003), "Gossip-based computation of aggregate information"; for optimisation
    over graphs that change Nedic and Olshevsky (2015), with stochastic gradients Assran et al.
    (2019).

    Raises:
        ConfigurationError: shapes that do not fit.
    """
    weights: NDArray[np.float64] = np.ones((len(vectors), 1))
    for matrix in matrices:
        if vectors.ndim != 2 or matrix.shape != (len(vectors), len(vectors)):
            raise ConfigurationError(
                f"vectors (agents, dim) and matrices (agents, agents) do not fit: "
                f"{vectors.shape} and {matrix.shape}"
            )
        vectors, weights = np.asarray(matrix @ vectors), np.asarray(matrix @ weights)
    return vectors / weights
