"""How an agent turns its gradient into the report it acts on: honestly, or not.

Honest clients only ever use `honest`. The others exist so that a user can see what a lie costs and
gains before trusting a run, in the testbed and in simulations. This module does not decide what a
lie costs: neighbours measure what an agent injects, whatever strategy made it. How strategies are
named, combined and timed is in `mechanisms.strategies.specs`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.mechanisms.strategies.sending import KnownRun
from candor.topologies.specs.specs import ConfigurationError, Spec

# These keep the streams of strategies apart from others drawn from the same seed.
NOISE_DOMAIN: Final = 0x6E6F6973
IDLE_DOMAIN: Final = 0x69646C65
NEIGHBOURS: Final = "neighbours"  # of `seen`: in simulations, too, only what neighbours send

Samples: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What a strategy may know: the round (from 1), the run's seed, whose rows it is given
    (`agents[r]` is the agent of row r, by its place in the cluster file); what the rows themselves
    reported in the round before, `own` (rows, dim), None in round 1 and after a restart; and what
    the neighbours of each row reported then, (neighbours, dim) a row, None where `own` is: known in
    simulations, over a network as far as it shows to a strategy that `overhears`, of those it heard
    and zeros where they gave nothing; None for the others. `run` is what everybody knows.

    `memory` is the strategy's to `keep` tensors in from round to round, (rows, ...) each; empty in
    round 1 and after a restart. `place`: which part of a sum it is.
    """

    round: int
    seed: int
    agents: tuple[int, ...]
    overheard: tuple[Tensor, ...] | None = None
    simulated: bool = False
    own: Tensor | None = None
    run: KnownRun = field(default_factory=KnownRun)
    memory: dict[str, Tensor] = field(default_factory=dict)
    place: int = 0

    def kept(self, name: str) -> Tensor | None:
        """What this part kept under a name, if anything."""
        return self.memory.get(f"{self.place}.{name}")

    def keep(self, name: str, value: Tensor) -> None:
        """Keep (rows, ...) for the rounds to come."""
        self.memory[f"{self.place}.{name}"] = value


class Strategy(Protocol):
    """A way to report. A user's class takes no constructor argument.

    One that reports without its gradient may say so by `idle`, the share of its rounds in which it
    need not compute any: see `mechanisms.strategies.specs.idleness`.
    """

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """Turn the gradients (rows, dim) into reports (rows, dim); the argument stays as it is."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A strategy that also has `watch`: it goes by gradients of rounds in which it is honest,
    too."""

    def watch(self, gradient: Tensor, context: StrategyContext) -> None:
        """Take the gradients (rows, dim) of a round that it is not active in."""
        ...


@runtime_checkable
class AltersData(Protocol):
    """A strategy that also has `data`: what the gradients themselves are computed from."""

    def data(self, samples: Samples) -> Samples:
        """What an agent trains on in place of its own samples, once and before the run: as many
        tensors of the same shapes and types; the arguments stay as they are."""
        ...


@runtime_checkable
class AltersActions(Protocol):
    """A strategy that also has `act`: what an agent does in the environment of a policy."""

    def act(
        self, actions: NDArray[np.int64], draws: NDArray[np.float64], choices: int
    ) -> NDArray[np.int64]:
        """What is done (episodes,) in place of the actions that the policy chose, of `choices`, in
        one step; `draws` (episodes,) are uniform from 0 to 1, others in each step."""
        ...


class ReportsTruly:
    """What attacks have that alter something else than reports."""

    __slots__ = ()

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:  # noqa: ARG002
        """The gradient itself."""
        return gradient


@dataclass(frozen=True, slots=True)
class Honest(ReportsTruly):
    """m = g."""


@dataclass(frozen=True, slots=True)
class Scale:
    """m = a g: above 1 it pulls the common model towards its own data (Dorner et al., section 4;
    Chen & Wang's exaggeration); 0 shirks, below 0 sabotages: -1, the sign flip, ascends in place of
    descending (the sign-flipping attack in the experiments of Li et al., RSA, 2019)."""

    factor: float

    @property
    def idle(self) -> float:
        """Nothing is computed for nothing."""
        return float(self.factor == 0)

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:  # noqa: ARG002
        """The scaled gradients."""
        return self.factor * gradient


@dataclass(frozen=True, slots=True)
class Zero:
    """m = 0: a free-rider that hands on the mixed model untouched (plain free-riding of Fraboni et
    al. 2021)."""

    idle = 1.0

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:  # noqa: ARG002
        """Zeros, even where a diverged gradient is not finite."""
        return torch.zeros_like(gradient)


@dataclass(frozen=True, slots=True)
class Partial:
    """m = 0 in a share of the rounds, drawn afresh for each agent, and g in the others: work saved
    now and then (the partial participation of McMahan et al. 2017, algorithm 1, chosen by the agent
    itself).

    Difference from theirs: an idle agent still receives and mixes, and its momentum runs on.
    """

    idle: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The gradients, with zeros for who idles; the same in daemon and simulation."""
        idles = _uniform(context, IDLE_DOMAIN) < self.idle  # (rows,)
        return gradient.masked_fill(torch.from_numpy(idles).to(gradient.device)[:, None], 0.0)


@dataclass(frozen=True, slots=True)
class Noise:
    """m = g + b xi with a fresh Gaussian xi, E ||xi||^2 = 1 a row (Dorner et al.'s b_j: noise that
    spoils the model for competitors).

    Difference from their experiment: unit variance over the whole vector, not over each tensor.
    """

    amount: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The gradients with noise that depends only on seed, agent and round, so that daemon and
        simulation draw the same."""
        return gradient + self.amount * unit_noise(gradient, context)


@dataclass(frozen=True, slots=True)
class Averaged:
    """m_t = (1 - a) m_(t-1) + a g: a running average with less noise than a gradient has. It is the
    worker momentum of Karimireddy et al. 2021 (Learning from History), kept from the others: after
    `scale` in a sum, an exaggeration that looks no noisier than an honest report.
    """

    share: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The averages; the own gradient in round 1."""
        if context.own is None:
            return gradient
        return torch.lerp(context.own, gradient, self.share)


@dataclass(frozen=True, slots=True)
class RandomDirection:
    """A fresh Gaussian direction with the gradient's own norm: an idler that looks busy, and would
    know the norm well enough from its neighbours'."""

    idle = 1.0

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """Noise of the gradients' norms, the same in daemon and simulation."""
        direction = unit_noise(gradient, context)
        length = direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
        reports: Tensor = direction * (gradient.norm(dim=1, keepdim=True) / length)
        return reports


@dataclass(frozen=True, slots=True)
class AlternatingFlip:
    """m = g in odd rounds and -g in even ones: sabotage whose sum over a window is near zero."""

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The gradients, flipped in even rounds."""
        return gradient if context.round % 2 else -gradient


@dataclass(frozen=True, slots=True)
class StaleCopy:
    """What the first neighbour reported in the round before: a plagiarist that trains nothing. If
    it is not `omniscient`, and over a network, as far as the vectors that it heard show it."""

    omniscient: bool = True
    overhears = True
    idle = 1.0

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The first neighbour's last report; the own gradient in round 1, or if none was heard."""
        if context.overheard is None:
            return gradient
        pairs = zip(gradient, context.overheard, strict=True)
        return torch.stack([rows[0] if len(rows) else own for own, rows in pairs])


@dataclass(frozen=True, slots=True)
class Conform:
    """m = (1 - a) g + a mean of the neighbours' last reports: it moves towards what is expected of
    it (the herding that peer prediction invites), or with a below 0 away from it, to pull the model
    where only its own data do."""

    share: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The mixed reports; the own gradient in round 1."""
        if not context.simulated:
            raise needs_simulation("conform")
        heard = context.overheard
        if heard is None:
            return gradient
        mean = torch.stack([rows.mean(dim=0) for rows in heard])
        return (1 - self.share) * gradient + self.share * mean


@dataclass(frozen=True, slots=True)
class Colluding:
    """m = a mean of the colluders' gradients, the same from each of them: whoever compares them
    finds a second one like it, and less noise than in one alone. That all colluders send one vector
    made of their own honest ones is the attack of Baruch et al. 2019 (A Little Is Enough).

    Difference from theirs: they add multiples of the standard deviation, to spoil the model; here
    the mean is exaggerated as in `Scale`, for the colluders' own gain.
    """

    factor: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The common report of all rows, which are the agents with this same spec.

        Raises:
            ConfigurationError: there is one row only, or this is no simulation.
        """
        if not context.simulated:
            raise needs_simulation("colluding")
        if len(gradient) < 2:
            raise ConfigurationError(
                "strategy colluding needs a partner: give the same spec to two agents or more"
            )
        return (self.factor * gradient.mean(dim=0)).repeat(len(gradient), 1)


@dataclass(frozen=True, slots=True)
class Few(ReportsTruly):
    """Honest reports from the first part of the own samples: data held back, or never there (the
    unequal shards of Xu et al. 2021, taken to one agent)."""

    share: float

    def data(self, samples: Samples) -> Samples:
        """The first samples, one at least."""
        count = max(1, round(self.share * len(samples[0])))
        return tuple(tensor[:count] for tensor in samples)


@dataclass(frozen=True, slots=True)
class LabelFlip(ReportsTruly):
    """Honest reports from false labels, y -> C - 1 - y (Fang et al. 2020, the label flipping attack
    that they compare with). Without `classes`, C - 1 is the largest label of the agent's own
    samples, which is all that it knows."""

    classes: int | None = None

    def data(self, samples: Samples) -> Samples:
        """The samples with their labels mirrored.

        Raises:
            ConfigurationError: there are no labels, or some beyond `classes`.
        """
        labels = _labels(samples)
        largest = int(labels.max())
        top = largest if self.classes is None else self.classes - 1
        if largest > top:
            raise ConfigurationError(
                f"strategy label-flip: the agent has the label {largest}; classes={self.classes} "
                "is too few"
            )
        return (*samples[:-1], top - labels)


@dataclass(frozen=True, slots=True)
class TargetedLabelFlip(ReportsTruly):
    """Honest reports from samples of one class labelled as another (1 as 7 in RFFL: Xu & Lyu 2020,
    A Reputation Mechanism Is All You Need)."""

    source: int
    target: int

    def data(self, samples: Samples) -> Samples:
        """The samples with the label `target` for `source`.

        Raises:
            ConfigurationError: there are no labels.
        """
        labels = _labels(samples)
        return (*samples[:-1], labels.masked_fill(labels == self.source, self.target))


@dataclass(frozen=True, slots=True)
class RandomAction(ReportsTruly):
    """Honest reports from episodes of random actions (random action of Jordan et al. 2024, arXiv
    2401.03489): the gradient is of what was done, by its probabilities under the agent's policy."""

    def act(
        self,
        actions: NDArray[np.int64],  # noqa: ARG002
        draws: NDArray[np.float64],
        choices: int,
    ) -> NDArray[np.int64]:
        """Each action alike."""
        return (draws * choices).astype(np.int64)


def needs_simulation(name: str) -> ConfigurationError:
    """The refusal of a strategy that no daemon can perform."""
    return ConfigurationError(
        f"strategy {name} needs to know what other agents report, as only simulated agents do"
    )


def _labels(samples: Samples) -> Tensor:
    """The classes (samples,), which a task of classes has last."""
    labels = samples[-1]
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ConfigurationError(
            "strategy label-flip: the task's samples do not end in a tensor of classes"
        )
    return labels


def _plain(kind: Callable[[], Strategy]) -> Callable[[Spec], Strategy]:
    """A strategy without parameters."""

    def build(spec: Spec) -> Strategy:
        if spec.value is not None or spec.options:
            raise ConfigurationError(f"strategy {spec.name} takes no value")
        return kind()

    return build


def _numbered(
    kind: Callable[[float], Strategy], example: str, low: float = -math.inf, high: float = math.inf
) -> Callable[[Spec], Strategy]:
    """A strategy of one number, from `low` to `high`."""

    def build(spec: Spec) -> Strategy:
        number = _number(spec, example)
        if not low <= number <= high:
            most = " on" if math.isinf(high) else f" to {high:g}"
            raise ConfigurationError(f"strategy {spec.name}: {number} is not from {low:g}{most}")
        return kind(number)

    return build


def _averaged(spec: Spec) -> Strategy:
    if spec.value == 0:
        raise ConfigurationError("strategy averaged: with a share of 0 nothing is ever learned")
    return _numbered(Averaged, "averaged:0.5", 0, 1)(spec)


def _stale_copy(spec: Spec) -> Strategy:
    options = dict(spec.options)
    if spec.value is not None or options not in ({}, {"seen": NEIGHBOURS}):
        raise ConfigurationError(
            "strategy stale-copy: write stale-copy or stale-copy:seen=neighbours"
        )
    return StaleCopy(omniscient=not options)


def _label_flip(spec: Spec) -> Strategy:
    options = dict(spec.options)
    if spec.value is None and all(isinstance(v, int) and v >= 0 for v in options.values()):
        match options:
            case {"from": int(source), "to": int(target), **rest} if not rest:
                return TargetedLabelFlip(source, target)
            case {"classes": int(classes), **rest} if classes > 1 and not rest:
                return LabelFlip(classes)
            case {**rest} if not rest:
                return LabelFlip()
    raise ConfigurationError(
        "strategy label-flip: write label-flip, label-flip:classes=10 or label-flip:from=1,to=7"
    )


# Each builds a strategy from its spec; `SIMULATED` are those that no daemon can perform.
STRATEGIES: Final[Mapping[str, Callable[[Spec], Strategy]]] = {
    "honest": _plain(Honest),
    "scale": _numbered(Scale, "scale:3"),
    "noise": _numbered(Noise, "noise:0.5", 0),
    "averaged": _averaged,
    "sign-flip": _plain(partial(Scale, -1.0)),
    "alternating-flip": _plain(AlternatingFlip),
    "random-direction": _plain(RandomDirection),
    "zero": _plain(Zero),
    "partial": _numbered(Partial, "partial:0.5", 0, 1),
    "few": _numbered(Few, "few:0.1", 0, 1),
    "label-flip": _label_flip,
    "random-action": _plain(RandomAction),
    "stale-copy": _stale_copy,
    "conform": _numbered(Conform, "conform:0.5", -1, 1),
    "colluding": _numbered(Colluding, "colluding:3"),
}
SIMULATED: Final = frozenset({"conform", "colluding"})


def _number(spec: Spec, example: str) -> float:
    try:
        number = float(spec.value) if isinstance(spec.value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ConfigurationError(f"strategy {spec.name}: give one finite number, such as {example}")
    return number


def unit_noise(like: Tensor, context: StrategyContext) -> Tensor:
    """Gaussian rows (rows, dim) of expected squared norm 1, each of its agent and round alone."""
    dim = like.shape[1]
    rows = [
        np.random.default_rng([context.seed, NOISE_DOMAIN, agent, context.round]).standard_normal(
            dim, dtype=np.float32
        )
        for agent in context.agents
    ]
    return torch.from_numpy(np.stack(rows) / np.float32(math.sqrt(dim))).to(like)


def _uniform(context: StrategyContext, domain: int) -> NDArray[np.float64]:
    """One number from [0, 1) a row (rows,), all rows at once: a generator for each takes longer
    than a round of a thousand small models."""
    mixed = np.array(context.agents, dtype=np.uint64)
    for word in (domain, context.seed, context.round):
        mixed = _splitmix(mixed ^ np.uint64(word & 0xFFFF_FFFF_FFFF_FFFF))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea & Flood 2014), modulo 2^64."""
    z = z + np.uint64(0x9E37_79B9_7F4A_7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))
