"""Rows of aggregators: how far weights of sketches are from those of whole vectors, and what a row
costs whoever recomputes it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from candor.agent.simulation.vectorised import Simulation
from candor.agent.studies.bench.simulation import WARM_UP_ROUNDS, Mlp, bench_cluster
from candor.mechanisms.aggregation.aggregators import weighed
from candor.mechanisms.aggregation.specs import Aggregator, parse_aggregator
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed

RULES: Final = (
    "krum",
    "multi-krum",
    "mda",
    "monna",
    "cge",
    "rfa",
    "centred-clipping",
    "clipped-gossip",
    "sybilwall",
    "nnm + krum",
    "nnm + rfa",
    "arc + rfa",
)
BYZANTINE: Final = 2
NEIGHBOURS: Final = 6
SKETCH_SIZE: Final = 1024
DIM: Final = 100_000  # of random vectors
FAR: Final = 3.0  # times as long as honest differences are those of random liars
COST_NEIGHBOURS: Final = (6, 20, 100)


@dataclass(frozen=True, slots=True)
class RowError:
    """Over many neighbourhoods of one kind: the mean and the largest sum of |w - w'| between exact
    weights and those of sketches, and the mean distance of what they give over the mean distance
    of honest vectors from each other."""

    vectors: str
    aggregator: str
    mean_weight_error: float
    largest_weight_error: float
    mean_distance: float


@dataclass(frozen=True, slots=True)
class RowCost:
    """Median milliseconds of processor time of one row of so many neighbours."""

    aggregator: str
    neighbours: int
    milliseconds: float


def measure_errors(trials: int, progress: Callable[[str], None]) -> list[RowError]:
    """Random vectors with liars among them, and models of digits that are trained together."""
    kinds = {"random": _random, "models": _models}
    found = []
    for kind, make in kinds.items():
        progress(f"rows of {kind}")
        cases = list(make(trials))
        found += [_error(kind, spec, cases) for spec in RULES]
    return found


def measure_costs(calls: int, progress: Callable[[str], None]) -> list[RowCost]:
    """Time rows of sketches of 1,024 numbers."""
    found = []
    for neighbours in COST_NEIGHBOURS:
        progress(f"rows of {neighbours} neighbours")
        sketches = np.random.default_rng(neighbours).standard_normal((neighbours + 1, SKETCH_SIZE))
        by_agent = {f"a{i:03}": sketch for i, sketch in enumerate(sketches)}
        weights = dict.fromkeys(by_agent, 1.0 / len(by_agent))
        for spec in RULES:
            row = _verifiable(spec).row
            assert row is not None
            times = []
            for t in range(1 + calls):
                began = time.thread_time()
                row("a000", t, weights, by_agent)
                times.append(time.thread_time() - began)
            found.append(RowCost(spec, neighbours, 1e3 * median(times[1:])))
    return found


def _random(trials: int) -> Iterator[NDArray[np.float32]]:
    """Neighbourhoods (1 + neighbours, dim), the own vector first and the liars last."""
    rng = np.random.default_rng(1)
    for _ in range(trials):
        vectors = rng.standard_normal((1 + NEIGHBOURS, DIM), dtype=np.float32)
        vectors[-BYZANTINE:] *= np.float32(FAR)
        yield vectors


def _models(trials: int) -> Iterator[NDArray[np.float32]]:
    """What the agents of a simulated run state, round after round."""
    agents, rounds = 1 + NEIGHBOURS, WARM_UP_ROUNDS + trials
    cluster = bench_cluster(Mlp.__name__, agents, "none", rounds)
    simulation = Simulation(cluster, {}, measured=True)
    for t in range(rounds):
        simulation.step()
        if t >= WARM_UP_ROUNDS:
            yield simulation.state()["stated"].numpy()


def _error(kind: str, spec: str, cases: Sequence[NDArray[np.float32]]) -> RowError:
    made = _verifiable(spec)
    differences, distances = [], []
    for number, vectors in enumerate(cases):
        sketch = SignSketch(signs_seed(bytes(32), number), vectors.shape[1], SKETCH_SIZE)
        exact = _row(made, vectors.astype(np.float64))
        rough = _row(made, sketch(vectors))
        differences.append(float(np.abs(exact - rough).sum()))
        own, others = torch.from_numpy(vectors[None, 0]), torch.from_numpy(vectors[None, 1:])
        apart = weighed((exact - rough)[None], others, own).norm()
        honest = torch.from_numpy(vectors[: len(vectors) - BYZANTINE])
        distances.append(float(apart / torch.pdist(honest).mean()))
    return RowError(
        kind, spec, float(np.mean(differences)), max(differences), float(np.mean(distances))
    )


def _row(made: Aggregator, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights that vectors, or their sketches, give: the same rule of both."""
    assert made.row is not None
    by_agent = {f"a{i}": vector for i, vector in enumerate(vectors)}
    row = made.row("a0", 1, dict.fromkeys(by_agent, 1.0 / len(by_agent)), by_agent)
    return np.array([row[agent] for agent in by_agent])


def _verifiable(spec: str) -> Aggregator:
    made = parse_aggregator(spec, BYZANTINE)
    assert made is not None
    return made
