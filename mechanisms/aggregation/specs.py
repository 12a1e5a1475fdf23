"""Aggregators by name: what a spec means, how many vectors it takes, and who can check its result.

An aggregator is one of two kinds. The *verifiable* ones are sums whose weights follow from the
distances between vectors: the weights are computed of the signed sketches, by a `RowRule`, so that
every neighbour of the taker derives the same row, bit by bit. The others, which work coordinate by
coordinate or need more than the vectors, are *attested*: the taker states a sketch of the result.
This module needs no torch, since auditors and cluster files do not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from candor.mechanisms.aggregation import rows
from candor.mechanisms.aggregation.rows import RowRule
from candor.topologies.specs.specs import ConfigurationError, Spec, parse_spec

if TYPE_CHECKING:
    from torch import Tensor

    Aggregate: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
    """Vectors (agents, neighbours, dim), which of them are there (agents, neighbours) bool, and the
    agents' own (agents, dim), which always are, to (agents, dim)."""

DEFAULT_AGGREGATOR: Final = "mean"


@dataclass(frozen=True, slots=True)
class Aggregator:
    """An aggregator as a run is configured with it.

    `name` is how statements name its rule; `byzantine` is f, how many of the vectors that an agent
    is sent may be anything; with fewer than `least` vectors, its own included, it withstands not
    so many, and an agent that hears fewer keeps its own. `row` is there of verifiable ones;
    `attested` names the function of the others in `mechanisms.aggregation.aggregators`.
    """

    name: str
    byzantine: int
    least: int
    row: RowRule | None = None
    attested: str = ""

    def check(self, agent: str, neighbours: int) -> None:
        """Refuse a graph in which an agent has too few neighbours.

        Raises:
            ConfigurationError: below the rule's breakdown point.
        """
        if neighbours + 1 < self.least:
            raise ConfigurationError(
                f"aggregator {self.name}: to withstand {self.byzantine} Byzantine neighbours an "
                f"agent takes {self.least - 1} of them or more, and {agent} has {neighbours}; "
                "choose a denser graph, a smaller --max-byzantine or another aggregator"
            )

    def load(self) -> "Aggregate":
        """The function of an attested one: agents that heard too few keep their own vector."""
        from candor.mechanisms.aggregation import aggregators

        return aggregators.tolerant(getattr(aggregators, self.attested), self.byzantine, self.least)


def parse_aggregator(text: str, byzantine: int) -> Aggregator | None:
    """The aggregator of a spec, which is to withstand `byzantine` Byzantine neighbours of every
    agent; None of `mean`, the graph's own mixing weights.

    Raises:
        ConfigurationError: it is unknown, or takes another value.
    """
    spec = parse_spec(text)
    if spec.name == DEFAULT_AGGREGATOR:
        return None
    if spec.name not in AGGREGATORS:
        known = ", ".join((DEFAULT_AGGREGATOR, *AGGREGATORS))
        raise ConfigurationError(f"aggregator {spec.name!r} is unknown; known: {known}")
    return AGGREGATORS[spec.name](spec, byzantine)


def _rfa(spec: Spec, byzantine: int) -> Aggregator:
    return Aggregator(spec.name, byzantine, 2 * byzantine + 1, row=rows.rfa)


def _median(spec: Spec, byzantine: int) -> Aggregator:
    return Aggregator(spec.name, byzantine, 2 * byzantine + 1, attested="coordinate_median")


AGGREGATORS: Final[Mapping[str, Callable[[Spec, int], Aggregator]]] = MappingProxyType(
    {"rfa": _rfa, "median": _median}
)
