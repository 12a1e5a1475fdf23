"""Poisons that sketches do not show, against the vectors of real training; and honest ones.

Vectors are those of simulated agents that learn digits on skewed data. In each run one of them adds
a poison from the null space of the round's sketch, and all others hold what it would send against
their own: see `mechanisms.evidence.hidden`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.learning.initial import initial_parameters
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.mechanisms.evidence.hidden import (
    cap,
    check_hidden,
    distance,
    effective_size,
    explained,
)
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed, window_of
from candor.mechanisms.evidence.statements import EvidenceError
from candor.mechanisms.strategies import null_space
from candor.topologies.cluster.file import (
    AlgorithmSettings,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    model_digest,
)
from candor.topologies.specs.specs import ConfigurationError

TASK: Final = "digits:hidden=32"  # 2,410 parameters
PARTITION: Final = "dirichlet:0.1"
AGENTS: Final = 7
ROUNDS: Final = 20
SIZES: Final = (0.5, 1.0, 2.0, 4.0, 100.0)  # times the largest distance to any receiver
BOUND: Final = 2.0  # 1.52 on the mean, however it lies; by chance sketches show more at times
ASIDE: Final = "aside"  # spread, and at right angles to how the receivers differ from the sender

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Refusals:
    """Runs with poisons of a kind and size: how many, in how many every receiver refused, in how
    many none did; and how far an accepted vector was, at most, times what its sketch said."""

    kind: str
    size: float
    runs: int
    by_all: int
    by_none: int
    farthest: float


@dataclass(frozen=True, slots=True)
class Honest:
    """Differences of honest neighbours: how many, how many refused; the largest share that a sketch
    hid, the largest that it might with a probability of 1e-9, and what is allowed at most; the
    median of how many values the sketch has in effect."""

    pairs: int
    refused: int
    hidden: float
    explained: float
    cap: float
    effective: float


def measure_hidden(
    runs: int,
    progress: Callable[[str], None],
    task: str = TASK,
    data_root: Path | None = None,
) -> tuple[list[Refusals], Honest]:
    """Try every kind and size of poison in so many runs, each another round of training.

    Raises:
        ConfigurationError: the task is not known, has no data, or fits its sketch.
    """
    kinds = (*null_space.KINDS, ASIDE)
    seen: dict[tuple[str, float], list[tuple[list[bool], float]]] = {}
    honest: list[tuple[bool, float, float, float]] = []
    size = PaymentSettings().sketch_size
    for run, (sketch, vectors) in zip(range(runs), _rounds(task, data_root), strict=False):
        progress(f"run {run + 1} of {runs}")
        draw = np.random.default_rng(run)
        liar = int(draw.integers(len(vectors)))
        receivers = [row for row in range(len(vectors)) if row != liar]
        honest += [_pair(vectors[liar], vectors[row], sketch) for row in receivers]
        apart = max(math.sqrt(distance(vectors[row], vectors[liar])) for row in receivers)
        for kind in kinds:
            unit = _poison(kind, vectors, liar, sketch, draw)
            for factor in SIZES:
                sent = (vectors[liar] + factor * apart * unit).astype(np.float32)
                told = [_judged(vectors[row], sent, sketch) for row in receivers]
                accepted = [times for refused, times in told if not refused]
                outcome = [refused for refused, _ in told], max(accepted, default=0.0)
                seen.setdefault((kind, factor), []).append(outcome)
    cells = [
        Refusals(
            kind,
            factor,
            len(outcomes),
            sum(all(refused) for refused, _ in outcomes),
            sum(not any(refused) for refused, _ in outcomes),
            max(times for _, times in outcomes),
        )
        for (kind, factor), outcomes in seen.items()
    ]
    hides, chance = (max(of[place] for of in honest) for place in (1, 2))
    effective = float(np.median([of[3] for of in honest]))
    refused = sum(of[0] for of in honest)
    return cells, Honest(len(honest), refused, hides, chance, cap(size), effective)


def _rounds(name: str, data_root: Path | None) -> Iterator[tuple[SignSketch, Vectors]]:
    """What all (agents, dim) send in rounds of training, seed after seed, with the sketch."""
    task, seed = resolve_task(name, data_root), 0
    fits = len(initial_parameters(task, seed)) <= PaymentSettings().sketch_size
    if fits:
        raise ConfigurationError(f"task {name}: its model is its own sketch, which hides nothing")
    while True:
        seed += 1
        x = initial_parameters(task, seed)
        plan = Plan(
            topology="complete",
            agents=AGENTS,
            mixing=None,
            seed=seed,
            task=TaskSettings(
                name=name,
                partition=PARTITION,
                parameters=len(x),
                model_digest=model_digest(x.numpy()),
            ),
            algorithm=AlgorithmSettings(aggregator="rfa", max_byzantine=1),
            rounds=RoundSettings(rounds=ROUNDS),
            payments=PaymentSettings(rule="none"),
            strategies={},
            evaluate_every=ROUNDS,
            data_root=data_root,
        )
        cluster = cluster_of(plan, Path("bench"), stand_in_entries)
        simulation = Simulation(cluster, {}, data_root=data_root, measured=True)
        run, window = bytes.fromhex(cluster.fingerprint), cluster.payments.window
        for t in range(1, ROUNDS + 1):
            simulation.step()
            sketch = SignSketch(
                signs_seed(run, window_of(t, window)), len(x), cluster.payments.sketch_size
            )
            yield sketch, simulation.stated


def _poison(
    kind: str, vectors: Vectors, liar: int, sketch: SignSketch, draw: np.random.Generator
) -> NDArray[np.float64]:
    signs = sketch.signs
    if kind != ASIDE:
        return null_space.KINDS[kind](signs, sketch.size, draw)
    others = [row - vectors[liar] for at, row in enumerate(vectors) if at != liar]
    spread = null_space.spread(signs, sketch.size, draw)
    return null_space.apart_from(spread, others, signs, sketch.size)


def _judged(own: Vectors, sent: Vectors, sketch: SignSketch) -> tuple[bool, float]:
    """Whether a receiver refuses a vector, and how many times as far as its sketch says it is."""
    stated = sketch(own), sketch(sent)
    times = math.sqrt(distance(own, sent)) / float(np.linalg.norm(stated[1] - stated[0]))
    try:
        check_hidden(own, sent, *stated)
    except EvidenceError:
        return True, times
    return False, times


def _pair(own: Vectors, theirs: Vectors, sketch: SignSketch) -> tuple[bool, float, float, float]:
    """Of two honest vectors: refused, the shares hidden and explained, and the sketch's size."""
    refused, times = _judged(own, theirs, sketch)
    whole = distance(own, theirs)
    chance = explained(own, theirs, sketch.size) / whole
    return refused, 1 - 1 / times**2, chance, effective_size(own, theirs, sketch.size)
