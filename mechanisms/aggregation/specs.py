"""Aggregators by name: what a spec means, how many vectors it takes, and who can check its result.

    aggregator    = (preaggregator " + ")* rule
    preaggregator = nnm | bucketing:SIZE | clipping:RADIUS | arc
    rule          = name[:value]

An aggregator is one of two kinds. The *verifiable* ones are sums whose weights follow from inner
products of vectors by exact arithmetic: the weights are computed of the signed sketches, by a
`RowRule`, so that every neighbour of the taker derives the same row, bit by bit. The others, which
work coordinate by coordinate, take eigenvectors or need more than the vectors, are *attested*: the
taker states a sketch of the result. This module needs no torch, since auditors and cluster files do
not.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import comb
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from candor.mechanisms.aggregation import preaggregators, rules
from candor.mechanisms.aggregation.chains import Chain, Measures, Preaggregator, Weigh
from candor.mechanisms.aggregation.preaggregators import BUCKET_SIZE
from candor.mechanisms.aggregation.rows import DerivedRow, RowRule
from candor.mechanisms.aggregation.smallest import LEFT_OUT_MAX
from candor.topologies.specs.specs import ConfigurationError, Scalar, Spec, parse_spec

if TYPE_CHECKING:
    from torch import Tensor

    from candor.mechanisms.aggregation.aggregators import LossesOf

    Aggregate: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
    """Vectors (agents, neighbours, dim), which of them are there (agents, neighbours) bool, and the
    agents' own (agents, dim), which always are, to (agents, dim)."""

DEFAULT_AGGREGATOR: Final = "mean"
NAME_CHARS_MAX: Final = 32  # of a rule in a statement
STEPS_MAX: Final = 1_000  # of a rule that iterates: every neighbour goes through them, too
FLOOR_LEAST: Final = 1e-30  # what distances are divided by: of vectors that are all equal, too
SUBSETS_MAX: Final = 3_000  # whose eigenvalues are computed: 16 vectors with 4 Byzantine are 1,820

_SUM = re.compile(r"\s+\+\s+")  # as strategies are put together


@dataclass(frozen=True, slots=True)
class Option:
    """A value that a spec may give: of which kind, and from where to where."""

    kind: type[int] | type[float] | tuple[str, ...]
    least: float = 0.0
    most: float = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule or preaggregator.

    Attributes:
        make: what weighs points, or makes others of them; None of a rule that needs more.
        options: what a spec may give; the first may be given alone.
        least: how many vectors it takes to withstand f.
        exact: its weights have the same bits on every machine.
        alone: nothing may come before it.
        origin: it measures from the origin.
        measures: what it measures; None of a rule that measures nothing.
    """

    make: Callable[..., Any] | None
    least: Callable[[int], int] = lambda f: 2 * f + 1
    options: Mapping[str, Option] = field(default_factory=dict)
    exact: bool = True
    alone: bool = False
    origin: bool = False
    measures: Measures | None = Measures.PAIRS


_ABOUT: Final = Option(("own", "zero"))
_RADIUS: Final = Option(float, least=0.0)
_STEPS: Final = Option(int, least=1, most=STEPS_MAX)

PREAGGREGATORS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "nnm": Entry(preaggregators.nnm),
        "bucketing": Entry(
            preaggregators.bucketing, options={"size": Option(int, least=1)}, measures=Measures.OWN
        ),
        "clipping": Entry(
            preaggregators.clipping,
            options={"radius": _RADIUS, "about": _ABOUT},
            measures=Measures.OWN,
        ),
        "arc": Entry(preaggregators.arc, options={"about": _ABOUT}, measures=Measures.OWN),
    }
)
RULES: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        DEFAULT_AGGREGATOR: Entry(rules.mean, measures=None),
        "krum": Entry(rules.krum),
        "multi-krum": Entry(rules.multi_krum),
        "mda": Entry(rules.mda),
        "monna": Entry(rules.monna, measures=Measures.OWN),
        "rfa": Entry(
            rules.geometric_median,
            options={
                "steps": _STEPS,
                "floor": Option(float, least=FLOOR_LEAST),
                "start": Option(("near", "own", "zero")),
            },
        ),
        "centred-clipping": Entry(
            rules.centred_clipping,
            options={"radius": _RADIUS, "steps": _STEPS},
        ),
        "clipped-gossip": Entry(
            rules.clipped_gossip, options={"radius": _RADIUS}, measures=Measures.OWN
        ),
        "cge": Entry(rules.cge, origin=True, measures=Measures.ZERO),
        "sybilwall": Entry(rules.similarity, least=lambda _f: 2, alone=True),
        "smea": Entry(rules.smea, exact=False),
        "caf": Entry(rules.caf, exact=False),
        "median": Entry(None, measures=None),
        "trimmed-mean": Entry(None, measures=None),
        "meamed": Entry(None, measures=None),
        # Coordinates of neighbours are trimmed, the own one is not: 2 f + 1 neighbours.
        "bridge": Entry(None, least=lambda f: 2 * f + 2, alone=True),
        "ubar": Entry(None, least=lambda f: f + 2, alone=True),  # one neighbour must be honest
    }
)


@dataclass(frozen=True, slots=True)
class Aggregator:
    """An aggregator as a run is configured with it.

    Attributes:
        name: how statements name it.
        rule: what comes after the preaggregators, of `RULES`.
        byzantine: f, how many of the vectors that an agent is sent may be anything.
        least: how many vectors it takes, the own one included, to withstand so many; an agent that
            hears fewer keeps its own.
        before: the preaggregators.
        weigh: what weighs points, where the result is a weighted sum.
        origin: it measures from the origin.
        measures: what it measures at most.
    """

    name: str
    rule: str
    byzantine: int
    least: int
    before: tuple[Preaggregator, ...]
    weigh: Weigh | None
    origin: bool
    measures: Measures

    @property
    def row(self) -> RowRule | None:
        """The rule of the mixing rows, if the aggregator is verifiable."""
        if self.weigh is None or not RULES[self.rule].exact:
            return None
        return DerivedRow(self._chain(self.weigh))

    def check(self, agent: str, neighbours: int) -> None:
        """Refuse a graph in which an agent has too few neighbours, or too many to try out.

        Raises:
            ConfigurationError: below the rule's breakdown point, or beyond its bound.
        """
        if neighbours + 1 < self.least:
            raise ConfigurationError(
                f"aggregator {self.name}: to withstand {self.byzantine} Byzantine neighbours an "
                f"agent needs {self.least - 1} neighbours or more, and {agent} has {neighbours}; "
                "choose a denser graph, a smaller --max-byzantine or another aggregator"
            )
        tried = comb(neighbours + 1, self.byzantine)
        if self.rule == "smea" and tried > SUBSETS_MAX:
            raise ConfigurationError(
                f"aggregator {self.name}: {agent} with {neighbours} neighbours would try {tried} "
                f"subsets, at most {SUBSETS_MAX} are tried; choose a sparser graph, a smaller "
                "--max-byzantine or caf"
            )

    def load(self, losses_of: "LossesOf | None" = None) -> "Aggregate":
        """Its function of whole vectors; `losses_of` what agents lose with a vector, which `ubar`
        takes. Agents that heard too few keep their own vector."""
        from candor.mechanisms.aggregation import aggregators

        if self.weigh is not None:
            return aggregators.Weighted(self._chain(self.weigh))
        if self.rule == "ubar":
            assert losses_of is not None
            return aggregators.LossFiltered(losses_of, self.byzantine, self.least)
        rule = aggregators.COORDINATE_RULES[self.rule]
        return aggregators.CoordinateWise(
            rule, self.byzantine, self.least, self.before, self.origin, self.measures
        )

    def _chain(self, weigh: Weigh) -> Chain:
        how = (self.before, weigh, self.byzantine, self.least, self.origin, self.measures)
        return Chain(*how)


def parse_aggregator(text: str, byzantine: int) -> Aggregator | None:
    """The aggregator of a spec, which is to withstand `byzantine` Byzantine neighbours of every
    agent; None of `mean`, the graph's own mixing weights.

    Raises:
        ConfigurationError: it is unknown, takes other values, or cannot withstand so many.
    """
    *first, last = [parse_spec(part) for part in _SUM.split(text.strip())]
    if not first and last == Spec(DEFAULT_AGGREGATOR):
        return None
    for part in first:
        _known(part, PREAGGREGATORS, "preaggregator")
    _known(last, RULES, "aggregator")
    _check_combination(first, last, byzantine)
    before = [_Part.of(part, PREAGGREGATORS[part.name]) for part in first]
    rule = _Part.of(last, RULES[last.name])
    name = "+".join(part.name for part in (*before, rule))
    if len(name) > NAME_CHARS_MAX:
        raise ConfigurationError(
            f"aggregator {text!r}: its name in statements, {name}, has {len(name)} characters, "
            f"at most {NAME_CHARS_MAX} are allowed"
        )
    least = rule.entry.least(byzantine)
    for step in reversed(before):
        if step.entry is PREAGGREGATORS["bucketing"]:  # as many buckets as the rule takes vectors
            least = (least - 1) * step.given.get("size", BUCKET_SIZE) + 1
    return Aggregator(
        name=name,
        rule=last.name,
        byzantine=byzantine,
        least=least,
        before=tuple(filter(None, (part.made for part in before))),
        weigh=rule.made,
        origin=any(part.origin for part in (*before, rule)),
        measures=_measures([part.measures for part in (*before, rule)]),
    )


def _measures(parts: Sequence[Measures | None]) -> Measures:
    """What a chain of parts measures: the second one that does measures other points, whose
    distances follow from those of all pairs."""
    found = [part for part in parts if part is not None]
    return found[0] if len(found) == 1 else Measures.PAIRS


def _known(spec: Spec, known: Mapping[str, Entry], what: str) -> None:
    if spec.name not in known:
        raise ConfigurationError(f"{what} {spec.name!r} is unknown; known: {', '.join(known)}")


def _check_combination(first: Sequence[Spec], last: Spec, byzantine: int) -> None:
    """Refuse what cannot be computed.

    Raises:
        ConfigurationError: something comes before a rule that stands alone, the rule is a mean that
            nothing bounds, or f is too large.
    """
    if RULES[last.name].alone and first:
        raise ConfigurationError(f"aggregator {last.name}: no preaggregator comes before it")
    bounded = {"clipping", "arc"} & {part.name for part in first}
    if last.name == DEFAULT_AGGREGATOR and byzantine and not bounded:
        raise ConfigurationError(
            f"aggregator mean: behind {first[-1].name} alone one far vector moves it as far as it "
            "likes; end with a robust one, such as rfa, or put clipping or arc before it"
        )
    if last.name == "mda" and byzantine > LEFT_OUT_MAX:
        raise ConfigurationError(
            f"aggregator mda: --max-byzantine {byzantine} is above {LEFT_OUT_MAX}, beyond which "
            "the subset of least diameter takes too long to find; choose multi-krum or nnm + rfa"
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a spec: its name in statements, and its function with what the spec gives."""

    name: str
    entry: Entry
    given: Mapping[str, Any]
    made: Callable[..., Any] | None

    @property
    def origin(self) -> bool:
        """Whether it measures from the origin."""
        return self.entry.origin or "zero" in (self.given.get("about"), self.given.get("start"))

    @property
    def measures(self) -> Measures | None:
        """What it measures."""
        return Measures.ZERO if self.given.get("about") == "zero" else self.entry.measures

    @classmethod
    def of(cls, spec: Spec, entry: Entry) -> "_Part":
        """Raises ConfigurationError where the entry takes no such value."""
        given = _options(spec, entry)
        made = entry.make if entry.make is None or not given else partial(entry.make, **given)
        return cls(_written(spec.name, given, entry), entry, given, made)


def _options(spec: Spec, entry: Entry) -> dict[str, Any]:
    given: dict[str, Scalar] = dict(spec.options)
    if spec.value is not None:
        if not entry.options:
            raise ConfigurationError(f"aggregator {spec.name}: takes no value")
        given[next(iter(entry.options))] = spec.value
    for key in given:
        if key not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise ConfigurationError(f"aggregator {spec.name}: {key} is unknown; known: {known}")
    # In one order, whatever the spec's.
    return {
        k: _value(spec.name, k, given[k], entry.options[k]) for k in entry.options if k in given
    }


def _value(name: str, key: str, value: Scalar, option: Option) -> Scalar:
    if isinstance(option.kind, tuple):
        if value in option.kind:
            return value
        raise ConfigurationError(f"aggregator {name}: {key} is {' or '.join(option.kind)}")
    whole = isinstance(value, int)
    # Compared before it is converted: a whole number may have any number of digits.
    inside = isinstance(value, int | float) and option.least <= value <= option.most
    if not inside or (option.kind is int and not whole):
        kind = "a whole number" if option.kind is int else "a number"
        to = "" if option.most == sys.float_info.max else f" to {option.most:g}"
        raise ConfigurationError(f"aggregator {name}: {key} is {kind} from {option.least:g}{to}")
    return value if option.kind is int else float(value)


def _written(name: str, given: Mapping[str, Any], entry: Entry) -> str:
    """A part as statements name it: equal texts of equal rules only."""
    if not given:
        return name
    values = [str(value).removesuffix(".0").replace("e+", "e") for value in given.values()]
    if list(given) == list(entry.options)[: len(given)]:
        return f"{name}:{','.join(values)}"
    return f"{name}:" + ",".join(f"{k}={v}" for k, v in zip(given, values, strict=True))
