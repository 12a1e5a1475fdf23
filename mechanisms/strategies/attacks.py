"""Attacks: vectors that agents send in place of their own, to spoil what honest agents learn.

Each says what it knows. *Own*: its agents' vectors alone. *Honest*: an omniscient attacker has the
honest vectors of the same exchange, which only a simulation offers; over a network, or with
`seen=neighbours`, it goes by what its neighbours sent in the last exchange of the phase instead,
and sends its own vector as long as it has heard nothing, if nothing else is said. Attacks whose
receivers get different vectors are in `equivocators`. All act on what is exchanged: gradients where
the algorithm exchanges gradients, models where it exchanges models. A delayed start is `@ T-`
behind any of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.strategies import equivocators
from candor.mechanisms.strategies.lies import NEIGHBOURS, ReportsTruly, Strategy
from candor.mechanisms.strategies.null_space import KINDS
from candor.mechanisms.strategies.search import worst_factor
from candor.mechanisms.strategies.sending import AltersVectors as AltersVectors
from candor.mechanisms.strategies.sending import SendContext as SendContext
from candor.mechanisms.strategies.sending import known
from candor.topologies.specs.specs import ConfigurationError, Scalar, Spec

HUGE: Final = 1e30  # finite in float32, as are sums of millions of it, and squares in binary64
HIDDEN_DOMAIN: Final = 0x68696464
AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class FlipVector(ReportsTruly):
    """s = -v, from its own vector: the sign flip of what is sent, where `sign-flip` is that of the
    gradient (the sign-flipping attack of Li et al., RSA, 2019; the bit flip of He et al. 2022)."""

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """The vectors, negated in the charged exchange."""
        return -vectors if context.charged else vectors


@dataclass(frozen=True, slots=True)
class Infinity(ReportsTruly):
    """s = 1e30 in every coordinate, knowing nothing: huge and still finite, since what is not
    finite is refused at once (the infinity attack of the ByzFL library)."""

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """Huge values in the charged exchange."""
        return torch.full_like(vectors, HUGE) if context.charged else vectors


@dataclass(frozen=True, slots=True)
class Estimating(ReportsTruly, ABC):
    """An attack by the honest vectors of the exchange, or an estimate of them: `omniscient` if it
    may know them where it is simulated."""

    omniscient: bool = True
    overhears = True

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """What `_made` makes for each row in the charged exchange; the own vector where nothing is
        known yet."""
        if not context.charged:
            return vectors
        if self.omniscient and context.honest is not None:
            # All attackers know the same: only how many hear them may differ.
            made: dict[int, Tensor] = {}
            for row, around in enumerate(context.neighbours):
                if len(around) not in made:
                    made[len(around)] = self._made(context.honest, row, context)
            return torch.stack([made[len(around)] for around in context.neighbours])
        rows = []
        for row, own in enumerate(vectors):
            others = known(context, row, omniscient=False)
            rows.append(own if others is None else self._made(others, row, context))
        return torch.stack(rows)

    @abstractmethod
    def _made(self, others: Tensor, row: int, context: SendContext) -> Tensor:
        """The vector (dim,) of a row, from those of others (n, dim)."""


@dataclass(frozen=True, slots=True)
class InnerProduct(Estimating):
    """s = -a mean(honest), a > 0: the aggregate's inner product with the honest mean becomes
    negative (inner-product manipulation; Xie et al. 2019, Fall of Empires, section 4).

    Without a factor, its optimised form: the a that moves the aggregate of a neighbourhood farthest
    from the honest mean (the line search of Shejwalkar & Houmansadr 2021, on this direction).
    """

    factor: float | None = 0.5

    def _made(self, others: Tensor, row: int, context: SendContext) -> Tensor:
        mean = others.mean(dim=0)
        factor = self.factor
        if factor is None:
            factor = worst_factor(lambda a: -a * mean, others, row, context)
        return -factor * mean


@dataclass(frozen=True, slots=True)
class LittleIsEnough(Estimating):
    """s = mean(honest) - z std(honest) by coordinate: inside the honest spread, and so hard to tell
    from an honest vector (A Little Is Enough; Baruch et al. 2019, algorithm 3).

    Of n vectors that an agent combines, of which f are Byzantine, their z is the largest with which
    a majority backs the attack: Phi^-1((n - f - s) / (n - f)), s = floor(n / 2 + 1) - f. `auto`
    searches for z as `InnerProduct` does for a.
    """

    factor: float | str | None = None

    def _made(self, others: Tensor, row: int, context: SendContext) -> Tensor:
        mean = others.mean(dim=0)
        if len(others) < 2:
            return mean
        spread = others.std(dim=0)
        factor = self.factor
        if factor is None:
            factor = backed_deviation(len(context.neighbours[row]) + 1, context.run.byzantine)
        elif isinstance(factor, str):
            factor = worst_factor(lambda z: mean - z * spread, others, row, context)
        return mean - factor * spread


def backed_deviation(n: int, byzantine: int) -> float:
    """Baruch et al.'s z of n vectors; 0 where there are too many attackers for their formula.

    >>> round(backed_deviation(50, 12), 3)
    0.336
    """
    honest = n - byzantine
    supporters = n // 2 + 1 - byzantine
    if honest < 1 or not 0 < honest - supporters < honest:
        return 0.0
    return NormalDist().inv_cdf((honest - supporters) / honest)


@dataclass(frozen=True, slots=True)
class Mimic(Estimating):
    """s = the vector of one honest agent, always the same: it is never far out, and counts as often
    as there are attackers, where data differ (Karimireddy et al. 2022, Byzantine-Robust Learning on
    Heterogeneous Datasets via Bucketing, section 4.2).

    Deliberate difference: whom to copy is given, from 0 in the order of the cluster file, and not
    searched for in a warm-up. Over a network it is that neighbour, one round late.
    """

    whom: int = 0

    def _made(self, others: Tensor, row: int, context: SendContext) -> Tensor:  # noqa: ARG002
        return others[self.whom % len(others)]


@dataclass(frozen=True, slots=True)
class AvgZero(Estimating):
    """s = -sum(honest) / f, so that a plain mean of all is zero (the AvgZero attack of Jordan et
    al. 2024, DecByzPG, section 5).

    Over a network: the sum of what it heard, less what its f - 1 colluders sent, of whom it takes
    that they sent what it did, as is so on a complete graph; zeros while nothing has been heard.
    """

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """As `Estimating` has it, but zeros where nothing is known yet."""
        if self.omniscient and context.honest is not None:
            return Estimating.sent(self, vectors, context)
        return Estimating.sent(
            self, torch.zeros_like(vectors) if context.charged else vectors, context
        )

    def _made(self, others: Tensor, row: int, context: SendContext) -> Tensor:
        if self.omniscient and context.honest is not None:
            return -others.sum(dim=0) / context.byzantine
        own = None if context.own is None else context.own[row]
        byzantine = context.run.byzantine
        honest = others.sum(dim=0)
        if own is not None:
            honest = honest - (byzantine - 1) * own
        return -honest / byzantine


@dataclass(frozen=True, slots=True)
class ColludingDifference(ReportsTruly):
    """s = mean(c) - a sigma u, the same from all colluders c: u is the first principal direction of
    what their own honest vectors differ by, turned towards their mean, sigma its singular value.
    Colluders thus need no honest agent's vector (after DMPA: Feng et al. 2025, Model Poisoning
    Attacks on Decentralized Federated Learning for Model Differences).

    Deliberate differences: the singular vectors of the differences in place of the eigenvector of a
    matrix of correlations, and a factor. Over a network, where a host knows no colluder, and where
    there is one attacker alone, what neighbours sent last stands in for colluders' vectors.
    """

    factor: float = 10.0
    omniscient = True
    overhears = True

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """The common vector of all rows in the charged exchange."""
        if not context.charged:
            return vectors
        if len(vectors) > 1:
            return self._moved(vectors).expand_as(vectors).clone()
        heard = known(context, 0, omniscient=False)
        seen = context.honest if heard is None else heard
        return vectors if seen is None else self._moved(torch.cat([vectors, seen]))[None]

    def _moved(self, vectors: Tensor) -> Tensor:
        mean = vectors.mean(dim=0)
        _, spread, directions = torch.linalg.svd(vectors - mean, full_matrices=False)
        step = spread[0] * directions[0]
        towards = -1.0 if float(step @ mean) < 0 else 1.0
        moved: Tensor = mean - self.factor * towards * step
        return moved


@dataclass(frozen=True, slots=True)
class Hidden(ReportsTruly):
    """s = v + h, |h| = `size`, S h = 0: a poison in the null space of the sketch by which the round
    is measured, so that no sketch shows it; h is the same from all attackers and in all rounds of a
    window. From its own vector and the cluster file, which gives away the signs; `kind` is one of
    `null_space.KINDS`.
    """

    size: float
    kind: str = "spread"

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """The vectors with h in the exchange of models.

        Raises:
            ConfigurationError: the sketch is as long as the vector, so that nothing hides from it.
        """
        if context.phase != context.run.phases.model:
            return vectors
        dim = vectors.shape[1]
        sketch = context.run.sketch(context.round, dim)
        if sketch.size == dim:
            raise ConfigurationError(
                f"strategy hidden: a model of {dim} parameters is its own sketch, which hides "
                "nothing; give a smaller --sketch-size or a larger model"
            )
        window = window_of(context.round, context.run.window)
        draw = np.random.default_rng([context.seed, HIDDEN_DOMAIN, window])
        poison = self.size * KINDS[self.kind](sketch.signs, sketch.size, draw)
        return vectors + torch.from_numpy(poison.astype(np.float32)).to(vectors)


def _plain(kind: Callable[[], Strategy], spec: Spec) -> Strategy:
    if spec.value is not None or spec.options:
        raise ConfigurationError(f"strategy {spec.name} takes no value")
    return kind()


def _number(spec: Spec, value: Scalar | None, example: str, low: float, high: float) -> float:
    if isinstance(value, int | float) and low <= value <= high and math.isfinite(value):
        return float(value)
    raise ConfigurationError(f"strategy {spec.name}: write {example}")


def _options(spec: Spec, key: str, example: str) -> tuple[Scalar | None, bool]:
    """The value of a spec, if any, and whether the attack is omniscient: `name:value`, or
    `name:KEY=value,seen=neighbours` with either of them."""
    options = dict(spec.options)
    value = spec.value if spec.value is not None else options.pop(key, None) if key else None
    seen = options.pop("seen", None)
    if options or seen not in (None, NEIGHBOURS):
        raise ConfigurationError(f"strategy {spec.name}: write {example}")
    return value, seen is None


def _inner_product(spec: Spec) -> Strategy:
    example = "ipm, ipm:0.5, ipm:auto or ipm:factor=0.5,seen=neighbours"
    value, omniscient = _options(spec, "factor", example)
    if value == AUTO:
        return InnerProduct(omniscient, None)
    factor = 0.5 if value is None else _number(spec, value, example, 0, HUGE)
    return InnerProduct(omniscient, factor)


def _little(spec: Spec) -> Strategy:
    example = "alie, alie:1.5, alie:auto or alie:factor=1.5,seen=neighbours"
    value, omniscient = _options(spec, "factor", example)
    if value is None or value == AUTO:
        return LittleIsEnough(omniscient, AUTO if value == AUTO else None)
    return LittleIsEnough(omniscient, _number(spec, value, example, -HUGE, HUGE))


def _mimic(spec: Spec) -> Strategy:
    example = "mimic, mimic:3 or mimic:whom=3,seen=neighbours"
    value, omniscient = _options(spec, "whom", example)
    if value is not None and (not isinstance(value, int) or value < 0):
        raise ConfigurationError(f"strategy {spec.name}: write {example}")
    return Mimic(omniscient, int(value or 0))


def _avg_zero(spec: Spec) -> Strategy:
    example = "avg-zero or avg-zero:seen=neighbours"
    value, omniscient = _options(spec, "", example)
    if value is not None:
        raise ConfigurationError(f"strategy {spec.name}: write {example}")
    return AvgZero(omniscient)


def _in_diameter(spec: Spec) -> Strategy:
    example = "in-diameter or in-diameter:seen=neighbours"
    value, omniscient = _options(spec, "", example)
    if value is not None:
        raise ConfigurationError(f"strategy {spec.name}: write {example}")
    return equivocators.InDiameter(omniscient)


def _hidden(spec: Spec) -> Strategy:
    options = {"size": spec.value, "kind": "spread"} | dict(spec.options)
    size, kind = options.pop("size"), str(options.pop("kind"))
    example = f"hidden:10 or hidden:size=10,kind={'|'.join(KINDS)}"
    if options or kind not in KINDS:
        raise ConfigurationError(f"strategy {spec.name}: write {example}")
    return Hidden(_number(spec, size, example, 0, HUGE), kind)


def _sized(kind: Callable[[float], Strategy], default: float, example: str, spec: Spec) -> Strategy:
    """An attack of one number, from 0 on."""
    if spec.value is None and not spec.options:
        return kind(default)
    return kind(_number(spec, spec.value, example, 0, HUGE))


ATTACKS: Final[Mapping[str, Callable[[Spec], Strategy]]] = MappingProxyType(
    {
        "flip-vector": partial(_plain, FlipVector),
        "ipm": _inner_product,
        "alie": _little,
        "mimic": _mimic,
        "infinity": partial(_plain, Infinity),
        "avg-zero": _avg_zero,
        "colluding-difference": partial(
            _sized, ColludingDifference, 10.0, "colluding-difference or colluding-difference:10"
        ),
        "large-noise": partial(
            _sized, equivocators.LargeNoise, 1000.0, "large-noise or large-noise:1000"
        ),
        "dissensus": partial(_sized, equivocators.Dissensus, 1.0, "dissensus or dissensus:1"),
        "in-diameter": _in_diameter,
        "hidden": _hidden,
    }
)
"""Each builds an attack from its spec; `SIMULATED_ATTACKS` are those that no daemon can perform."""

SIMULATED_ATTACKS: Final = frozenset({"dissensus"})
