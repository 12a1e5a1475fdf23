"""What a topology costs and gives: distances, rounds to agreement, bytes a round, weak points."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from candor.topologies.mixing import consensus, spectral
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.schedules.schedules import Schedule
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.topologies.mixing.spectral import Matrix

CONSENSUS_ERROR = 1e-6  # of the disagreement at the start: about what float32 resolves
PARAMETER_BYTES = 4  # a payload is float32
PARAMETERS = 1_000_000  # of a model that nobody describes
MEASURED_ROUNDS = 2000  # of a schedule
_PRODUCT_MAX = 20_000  # agents times rounds of a period; a second's worth of matrix products
_NOTHING = 1e-12  # an eigenvalue that is rounding
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
    None where no number does. Bytes are those of the payloads that an agent sends a round, one to
    each neighbour; statements with their sketches, claims and notices come on
    top in a run. Without one of its `articulation_points` a graph falls apart.
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


def analyse(
    graph: "nx.Graph[str]",
    matrix: "Matrix",
    parameters: int = PARAMETERS,
    declared: Sequence[float] = (),
) -> Analysis:
    """A connected graph, its mixing matrix in graph order, and a model of float32 `parameters`;
    with the sizes for which the matrix was corrected, if it was.

    Raises:
        ConfigurationError: a directed graph, or a matrix of another size.
    """
    if isinstance(graph, nx.DiGraph):
        raise ConfigurationError("the graph is directed; use analyse_schedule(fixed(graph), …)")
    if matrix.shape != (len(graph), len(graph)):
        raise ConfigurationError(
            f"the mixing matrix is {' x '.join(map(str, matrix.shape))}, "
            f"but the graph has {len(graph)} agents"
        )
    degrees = [degree for _, degree in graph.degree]
    gap = spectral.spectral_gap(matrix, declared)
    rounds = spectral.rounds_to(CONSENSUS_ERROR, gap)
    reached = int(rounds) if np.isfinite(rounds) else None
    return _analysis(graph, gap, reached, parameters, np.array(degrees))


def _analysis(
    graph: "nx.Graph[str]", gap: float, rounds: int | None, parameters: int, takers: NDArray[Any]
) -> Analysis:
    """What every analysis adds of the graph itself; `takers` (agents,): of each, mean a round."""
    sent_bytes = PARAMETER_BYTES * parameters * takers
    degrees = [degree for _, degree in graph.degree]
    apart = distances(graph)
    cut = set(nx.articulation_points(graph))
    return Analysis(
        spectral_gap=gap,
        consensus_error=CONSENSUS_ERROR,
        consensus_rounds=rounds,
        degree_min=min(degrees),
        degree_max=max(degrees),
        diameter=apart.diameter,
        diameter_exact=apart.exact,
        effective_diameter=apart.effective,
        articulation_points=tuple(agent for agent in graph if agent in cut),
        parameters=parameters,
        bytes_per_round_mean=float(sent_bytes.mean()),
        bytes_per_round_max=round(sent_bytes.max()),
    )


def analyse_schedule(
    schedule: Schedule, mixing_name: str, parameters: int = PARAMETERS
) -> Analysis:
    """A schedule in the numbers of a graph, over its period or, where chance decides, over
    `MEASURED_ROUNDS` rounds from 1.

    The gap is 1 - the rate of a round: of a period the root of what the product of its matrices
    has, where that is small enough to compute, else measured. Rounds to agreement are measured with
    random vectors. Distances, degrees and weak points are those of all rounds' edges together;
    bytes are means a round.

    Raises:
        ConfigurationError: a mixing that is not computed from the degrees of a round.
    """
    if mixing_name not in (*mixing.WEIGHTS, PUSH_SUM):
        raise mixing.one_graph_only(mixing_name, schedule.spec)
    if schedule.push_sum:
        mixing.check_directed(mixing_name, schedule.spec)
    agents, period = schedule.agents, schedule.period
    found, predicted = measured(schedule, mixing_name), predicted_rate(schedule, mixing_name)
    rate = found.rate if predicted is None else predicted
    takers = np.zeros(len(agents))
    counted = min(period or MEASURED_ROUNDS, MEASURED_ROUNDS)
    for t in range(1, counted + 1):
        graph = schedule.graph(t)
        degrees = graph.out_degree if isinstance(graph, nx.DiGraph) else graph.degree
        takers += [degrees[agent] for agent in agents]
    return _analysis(schedule.neighbours(), 1 - rate, found.rounds, parameters, takers / counted)


def measured(schedule: Schedule, mixing_name: str) -> consensus.Course:
    """How a schedule averages random vectors over `MEASURED_ROUNDS` rounds."""
    period = schedule.period
    matrix = lru_cache(min(period or 1, 64))(lambda t: schedule.matrix(t, mixing_name))
    return consensus.course(
        lambda t: matrix((t - 1) % period + 1 if period else t),
        len(schedule.agents),
        CONSENSUS_ERROR,
        MEASURED_ROUNDS,
    )


def predicted_rate(schedule: Schedule, mixing_name: str) -> float | None:
    """The factor by which disagreement shrinks a round, by the eigenvalues of the product of a
    period's matrices; None where chance decides, or the period is too long to multiply."""
    agents, period = len(schedule.agents), schedule.period
    if period is None or agents * period > _PRODUCT_MAX:
        return None
    product = np.eye(agents)
    for t in range(1, period + 1):
        product = np.asarray(schedule.matrix(t, mixing_name) @ product)
    second = 1 - spectral.spectral_gap(product)
    return second ** (1 / period) if second > _NOTHING else 0.0


def distances(graph: "nx.Graph[str]") -> Distances:
    """The distances of a connected graph."""
    from scipy.sparse.csgraph import dijkstra

    agents, edges = len(graph), graph.number_of_edges()
    if agents == 1:
        return Distances(0, 0, exact=True)
    adjacency = nx.to_scipy_sparse_array(graph, format="csr", weight=None)
    everyone = agents * (agents + 2 * edges) <= _VISITS_MAX
    shuffled = np.random.default_rng(0).permutation(agents)
    sources = np.arange(agents) if everyone else np.sort(shuffled[:_SAMPLE])
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
