"""What a topology costs and gives: distances, rounds to agreement, bytes a round, weak points."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from topologies import spectral

if TYPE_CHECKING:
    from topologies.spectral import Matrix

CONSENSUS_ERROR = 1e-6  # of the disagreement at the start: about what float32 resolves
PARAMETER_BYTES = 4  # a payload is float32
# Distances from every agent up to so many visits of nodes and edges, some two seconds' worth;
# beyond, distances from a sample. A ring of 10,000 agents is just below.
_VISITS_MAX = 400_000_000
_SAMPLE = 256


@dataclass(frozen=True, slots=True)
class Distances:
    """How many edges apart agents are.

    `diameter` is the largest distance, or where `exact` is False the largest that a sample of
    agents has seen. `effective` is the least distance within which 90 % of all pairs lie.
    """

    diameter: int
    effective: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Analysis:
    """A graph with its mixing matrix, in numbers; the names are those of the command's JSON.

    `consensus_rounds` is how many rounds shrink disagreement to `CONSENSUS_ERROR` of what it was,
    None where no number does. Bytes are what an agent sends a round, and receives: one payload to
    each neighbour, envelopes aside. Without one of its `articulation_points` a graph falls apart.
    """

    spectral_gap: float
    consensus_error: float
    consensus_rounds: int | None
    degree_min: int
    degree_max: int
    diameter: int
    diameter_exact: bool
    effective_diameter: int
    articulation_points: tuple[str, ...]
    parameters: int
    bytes_per_round_mean: float
    bytes_per_round_max: int


def analyse(graph: "nx.Graph[str]", mixing: "Matrix", parameters: int) -> Analysis:
    """A connected graph, its mixing matrix in graph order, and a model of float32 `parameters`."""
    degrees = [degree for _, degree in graph.degree]
    gap = spectral.spectral_gap(mixing)
    rounds = spectral.rounds_to(CONSENSUS_ERROR, gap)
    apart = distances(graph)
    cut = set(nx.articulation_points(graph))
    payload_bytes = PARAMETER_BYTES * parameters
    return Analysis(
        spectral_gap=gap,
        consensus_error=CONSENSUS_ERROR,
        consensus_rounds=int(rounds) if np.isfinite(rounds) else None,
        degree_min=min(degrees),
        degree_max=max(degrees),
        diameter=apart.diameter,
        diameter_exact=apart.exact,
        effective_diameter=apart.effective,
        articulation_points=tuple(agent for agent in graph if agent in cut),
        parameters=parameters,
        bytes_per_round_mean=payload_bytes * sum(degrees) / len(graph),
        bytes_per_round_max=payload_bytes * max(degrees),
    )


def distances(graph: "nx.Graph[str]") -> Distances:
    """The distances of a connected graph."""
    from scipy.sparse.csgraph import dijkstra

    agents, edges = len(graph), graph.number_of_edges()
    if agents == 1:
        return Distances(0, 0, exact=True)
    adjacency = nx.to_scipy_sparse_array(graph, format="csr", weight=None)
    everyone = agents * (agents + 2 * edges) <= _VISITS_MAX
    sources = (
        np.arange(agents)
        if everyone
        else np.sort(np.random.default_rng(0).permutation(agents)[:_SAMPLE])
    )
    counts = np.zeros(agents, dtype=np.int64)  # of pairs by distance
    least = agents  # the smallest eccentricity that was seen
    for start in range(0, len(sources), _SAMPLE):
        chunk = sources[start : start + _SAMPLE]
        found = dijkstra(adjacency, unweighted=True, indices=chunk).astype(np.int64)
        counts += np.bincount(found.ravel(), minlength=agents)
        least = min(least, int(found.max(axis=1).min()))
    diameter = int(np.flatnonzero(counts)[-1])
    pairs = counts[1:].cumsum()
    effective = 1 + int(np.searchsorted(pairs, 0.9 * pairs[-1]))
    # No two agents are further apart than by way of one in the middle, or in a complete graph.
    most = 1 if 2 * edges == agents * (agents - 1) else 2 * least
    return Distances(diameter, effective, exact=everyone or diameter == most)
