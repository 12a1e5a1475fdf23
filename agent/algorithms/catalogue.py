"""Algorithms by name: their text, and the exchanges of their rounds, which all agents must know.

Names and exchanges are here and the texts where they are imported from, since auditors of a run
need the exchanges without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from candor.mechanisms.evidence.phases import MIXED_MODEL, How, Part, Phase, Phases
from candor.topologies.specs.specs import ConfigurationError, is_import_path, load_object


@dataclass(frozen=True, slots=True)
class Entry:
    """An algorithm: where its generator function is, and the exchanges of a round."""

    path: str
    phases: Phases = MIXED_MODEL


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
        "gradient-push": Entry(f"{_ROOM}.push:gradient_push"),
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
            return Entry(name, phases)
        raise ConfigurationError(f"algorithm {name!r}: has no `phases` of type Phases")
    known = ", ".join(ALGORITHMS)
    raise ConfigurationError(f"algorithm {name!r} is unknown; known: {known}")


def phases_of(name: str) -> Phases:
    """The exchanges of an algorithm's rounds; raises as `entry_of` does."""
    return entry_of(name).phases
