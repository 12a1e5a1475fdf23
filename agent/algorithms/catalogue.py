"""Algorithms by name: their text, and the exchanges of their rounds, which all agents must know.

Names and exchanges are here and the texts where they are imported from, since auditors of a run
need the exchanges without torch. A run's aggregator takes the place of the graph's mixing weights
in every exchange that an algorithm mixes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from candor.mechanisms.aggregation.specs import (
    DEFAULT_AGGREGATOR,
    Aggregator,
    parse_aggregator,
)
from candor.mechanisms.evidence.hidden import SIZE_LEAST
from candor.mechanisms.evidence.phases import MIXED_MODEL, How, Part, Phase, Phases
from candor.topologies.cluster.file import AlgorithmSettings, Cluster
from candor.topologies.specs.specs import ConfigurationError, is_import_path, load_object


@dataclass(frozen=True, slots=True)
class Entry:
    """An algorithm: where its generator function is, and the exchanges of a round, or what makes
    them of the settings. `aggregates`: whether another aggregator may take the place of the graph's
    mixing weights."""

    path: str
    phases: Phases | Callable[[AlgorithmSettings], Phases] = MIXED_MODEL
    aggregates: bool = True


TRACKING: Final = Phases(
    (
        Phase("tracker", (Part(0, before=True),), direct=True, charged=True),
        Phase("model", (Part(1, before=True), Part(0, how=How.OWN, stepped=True))),
    )
)
MEDIAN: Final = Phases(
    (
        Phase("gradient", (), direct=True, charged=True),
        Phase(
            "model", (Part(1, before=True), Part(0, how=How.AGGREGATE, rule="median", stepped=True))
        ),
    )
)

_ROOM: Final = "candor.agent.algorithms"
ALGORITHMS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "decentralized-sgd": Entry(f"{_ROOM}.dsgd:decentralized_sgd"),
        "diloco": Entry(f"{_ROOM}.diloco:diloco"),
        "gradient-push": Entry(f"{_ROOM}.push:gradient_push", aggregates=False),
        "gradient-tracking": Entry(f"{_ROOM}.tracking:gradient_tracking", TRACKING),
        "median-sgd": Entry(f"{_ROOM}.median:median_sgd", MEDIAN),
    }
)


def entry_of(name: str) -> Entry:
    """The algorithm of a name, or of a user's own `module:Object` that has `phases` and is called
    as the others are.

    Raises:
        ConfigurationError: no algorithm has this name, or it is none.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if is_import_path(name):
        phases = getattr(load_object(name, "algorithm"), "phases", None)
        if isinstance(phases, Phases):
            return Entry(name, phases, aggregates=not phases.rows)
        raise ConfigurationError(f"algorithm {name!r}: has no `phases` of type Phases")
    known = ", ".join(ALGORITHMS)
    raise ConfigurationError(f"algorithm {name!r} is unknown; known: {known}")


def phases_of(settings: AlgorithmSettings) -> Phases:
    """The exchanges of a round, with the run's aggregator in the place of mixing weights.

    Raises:
        ConfigurationError: as `entry_of` and `aggregator_of` do.
    """
    entry, aggregator = entry_of(settings.name), aggregator_of(settings)
    phases = entry.phases if isinstance(entry.phases, Phases) else entry.phases(settings)
    return phases if aggregator is None or not entry.aggregates else _aggregated(phases, aggregator)


def aggregator_of(settings: AlgorithmSettings) -> Aggregator | None:
    """The run's aggregator; None where vectors are mixed by the graph's weights.

    Raises:
        ConfigurationError: it is unknown, or the algorithm takes none.
    """
    if settings.aggregator is None:
        return None
    aggregator = parse_aggregator(settings.aggregator, settings.max_byzantine or 0)
    if aggregator is not None and not entry_of(settings.name).aggregates:
        raise ConfigurationError(
            f"algorithm {settings.name!r} takes no aggregator but {DEFAULT_AGGREGATOR}"
        )
    return aggregator


def check_breakdown(cluster: Cluster) -> None:
    """Refuse an aggregator below its breakdown point, for the graph of any round; and sketches so
    short that anything could be hidden from them, where rows follow from them.

    Raises:
        ConfigurationError: naming an agent with too few neighbours for what is to be withstood, or
            the least size of sketches.
    """
    aggregator = aggregator_of(cluster.algorithm)
    if aggregator is None:
        return
    size = cluster.payments.sketch_size
    if aggregator.row is not None and size < min(SIZE_LEAST, cluster.task.parameters):
        raise ConfigurationError(
            f"aggregator {aggregator.name}: its weights follow from sketches, and from sketches of "
            f"{size} values a vector may hide anything; use a sketch_size of {SIZE_LEAST} or more"
        )
    for agent in cluster.ids:
        aggregator.check(agent, len(cluster.neighbours(agent)))


def _aggregated(phases: Phases, aggregator: Aggregator) -> Phases:
    """The same exchanges where an aggregator takes the place of mixing weights."""
    how = How.MIXED if aggregator.row is not None else How.AGGREGATE

    def changed(part: Part) -> Part:
        mixes = part.how is How.MIXED and not part.rule
        return replace(part, how=how, rule=aggregator.name) if mixes else part

    made = tuple(replace(p, parts=tuple(map(changed, p.parts))) for p in phases.phases)
    if any(sum(part.how is How.AGGREGATE for part in phase.parts) > 1 for phase in made):
        raise ConfigurationError(
            f"aggregator {aggregator.name}: this algorithm attests an aggregate of its own; choose "
            "one that neighbours can check"
        )
    rows = {} if aggregator.row is None else {aggregator.name: aggregator.row}
    return Phases(made, {**phases.rows, **rows})
