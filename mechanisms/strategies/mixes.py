"""Lies that are mixes: of the own gradient and its means, of others', and of what is hidden.

One class with coefficients has most of the ways to exaggerate that are known, so that an optimiser
can look for the best (`agent.studies.audit.search`), and what it finds is a spec like any other.
Unlike those of `lies`, it remembers gradients of former rounds, which a liar can without anybody's
knowledge: what is steady over a window has no successive differences by which noise is measured.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.mechanisms.evidence.sketch import SignSketch, TraceFold, signs_seed, window_of
from candor.mechanisms.strategies.lies import Strategy, StrategyContext, unit_noise
from candor.topologies.specs.specs import ConfigurationError, Spec

Floats = NDArray[np.float64]
Projection = Callable[[Floats], Floats]

MEMORIES: Final[Mapping[str, float]] = MappingProxyType({"fast": 0.5, "middle": 0.9, "slow": 0.98})
"""How much of a running mean stays from round to round."""
FACTOR_MAX: Final = 1e30


@dataclass(frozen=True, slots=True)
class Mix:
    """m = own g + fast M_0.5 + middle M_0.9 + slow M_0.98 + frozen F + near N, and from there:

    M_b is the mean of the own gradients so far, of which a round later b is left (this one is in
    it); F that of the window before, the same for a whole window, 0 in the first; N the mean of the
    neighbours' last reports (0 in round 1). With `norm` A > 0 the sum is turned into A times the
    gradient's own length. Then `unseen` and `untraced` times that part of it are added of which the
    window's sketch, or trace, shows nothing, and noise of `noise` times the gradient's length.

    It lies only in one window of `windows`, the last of them, and in rounds whose gradient is among
    the `short` part of those of the last window, or the `long` one; in the others m = g.
    """

    own: float = 1.0
    fast: float = 0.0
    middle: float = 0.0
    slow: float = 0.0
    frozen: float = 0.0
    near: float = 0.0
    norm: float = 0.0
    unseen: float = 0.0
    untraced: float = 0.0
    noise: float = 0.0
    windows: int = 1
    short: float = 1.0
    long: float = 1.0

    omniscient = True

    @property
    def overhears(self) -> bool:
        """Whether it goes by what neighbours send."""
        return self.near != 0.0

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The mixes; the own gradients where it does not lie."""
        lies = self._lies(gradient, context)  # (rows, 1)
        means = self._means(gradient, context)
        if not lies.any():
            return gradient
        mix = self.own * gradient
        for name, mean in means.items():
            mix = mix + getattr(self, name) * mean
        if self.near and context.overheard is not None:
            mix = mix + self.near * torch.stack([_mean(heard) for heard in context.overheard])
        length = gradient.norm(dim=1, keepdim=True)
        if self.norm:
            mix = mix * (self.norm * length / mix.norm(dim=1, keepdim=True).clamp_min(1e-30))
        mix = mix + self._hidden(mix, context)
        if self.noise:
            mix = mix + self.noise * length * unit_noise(gradient, context)
        return torch.where(lies, mix, gradient)

    def watch(self, gradient: Tensor, context: StrategyContext) -> None:
        """Remember a round in which it is honest."""
        self._lies(gradient, context)
        self._means(gradient, context)

    def _lies(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """Who lies in this round: (rows, 1)."""
        turn = window_of(context.round, context.run.window) % self.windows == self.windows - 1
        now = torch.full_like(gradient[:, :1], turn, dtype=torch.bool)
        if self.short == 1.0 == self.long:
            return now
        length, before = gradient.norm(dim=1, keepdim=True), context.kept("lengths")
        all_of = length if before is None else torch.cat([before, length], dim=1)
        context.keep("lengths", all_of[:, -context.run.window :])
        if before is None:
            return torch.zeros_like(now)
        longer = (before < length).double().mean(dim=1, keepdim=True)
        chosen: Tensor = now & (longer <= self.short) & (longer >= 1.0 - self.long)
        return chosen

    def _means(self, gradient: Tensor, context: StrategyContext) -> dict[str, Tensor]:
        """The running means (rows, dim) with a coefficient, this round's gradient among them."""
        before = context.kept("rounds")
        rounds = torch.ones_like(gradient[:, :1]) if before is None else before + 1.0
        context.keep("rounds", rounds)
        means = {}
        for name, stays in MEMORIES.items():
            if getattr(self, name):
                mean = context.kept(name)
                newest = torch.clamp_min(1.0 / rounds, 1.0 - stays)
                means[name] = gradient if mean is None else torch.lerp(mean, gradient, newest)
                context.keep(name, means[name])
        if self.frozen:
            means["frozen"] = self._frozen(gradient, context)
        return means

    @staticmethod
    def _frozen(gradient: Tensor, context: StrategyContext) -> Tensor:
        """The mean (rows, dim) of the window before; zeros in the first."""
        window = float(window_of(context.round, context.run.window))
        begun = torch.full_like(gradient[:, :2], window)[:, :1]
        last, frozen = context.kept("window"), context.kept("frozen")
        total, count = context.kept("total"), context.kept("count")
        if last is None or frozen is None or total is None or count is None:
            frozen, total, count = (torch.zeros_like(t) for t in (gradient, gradient, begun))
        elif float(last[0]) != window:
            frozen = total / count.clamp_min(1.0)
            total, count = torch.zeros_like(total), torch.zeros_like(count)
        for name, value in (
            ("window", begun), ("frozen", frozen), ("total", total + gradient),
            ("count", count + 1.0),
        ):  # fmt: skip
            context.keep(name, value)
        return frozen

    def _hidden(self, mix: Tensor, context: StrategyContext) -> Tensor:
        """What is added of the parts of the mix (rows, dim) that nobody is shown."""
        if not (self.unseen or self.untraced):
            return torch.zeros_like(mix)
        vectors = mix.cpu().double().numpy()
        run = context.run
        window = window_of(context.round, run.window)
        of_sketch, of_trace = null_spaces(run.fingerprint, window, mix.shape[1], run.sketch_size)
        added = self.unseen * of_sketch(vectors) + self.untraced * of_trace(vectors)
        return torch.from_numpy(added).to(mix)


@lru_cache(maxsize=8)
def null_spaces(
    fingerprint: bytes, window: int, dim: int, sketch_size: int
) -> tuple[Projection, Projection]:
    """What takes from vectors (..., dim) the part of which the sketch of a window shows nothing,
    and that of which the trace shows nothing."""
    sketch = SignSketch(signs_seed(fingerprint, window), dim, sketch_size)
    folded = TraceFold(fingerprint, window, sketch.size).exact(np.eye(sketch.size))  # (k, r)
    buckets = np.arange(dim) % sketch.size
    signs = sketch.signs.astype(np.float64)
    traced = signs * folded.sum(axis=1)[buckets]  # each bucket is in one value of the trace
    values = np.abs(folded).argmax(axis=1)[buckets]
    return partial(hidden_part, signs, buckets), partial(hidden_part, traced, values)


def hidden_part(signs: Floats, buckets: NDArray[np.int64], vectors: Floats) -> Floats:
    """The part of vectors (rows, dim) of which a sketch with these signs and buckets (dim,) shows
    nothing."""
    held = np.bincount(buckets)
    sums = np.stack([np.bincount(buckets, row) for row in vectors * signs])  # (rows, k)
    left: Floats = vectors - signs * (sums / np.maximum(held, 1))[:, buckets]
    return left


def _mean(heard: Tensor) -> Tensor:
    """The mean (dim,) of reports (n, dim), zeros of none."""
    return heard.sum(dim=0) / max(1, len(heard))


NAMES: Final = tuple(one.name for one in fields(Mix))
_EXAMPLE: Final = "mix:slow=2,norm=2"


def _mix(spec: Spec) -> Strategy:
    """A mix of its coefficients."""
    if spec.value is not None or not spec.options or spec.options.keys() - set(NAMES):
        raise ConfigurationError(f"strategy mix: write {_EXAMPLE}; it takes {', '.join(NAMES)}")
    values = {name: _checked("mix", name, value) for name, value in spec.options.items()}
    windows = values.pop("windows", 1.0)
    if not windows.is_integer() or windows < 1:
        raise ConfigurationError("strategy mix: windows is a whole number from 1 on")
    for name, low, high in (
        ("norm", 0.0, FACTOR_MAX), ("noise", 0.0, FACTOR_MAX), ("short", 0.0, 1.0),
        ("long", 0.0, 1.0),
    ):  # fmt: skip
        if not low <= values.get(name, low) <= high:
            raise ConfigurationError(f"strategy mix: {name} is from {low:g} to {high:g}")
    return Mix(**values, windows=int(windows))


def _checked(of: str, name: str, value: object) -> float:
    number = float(value) if isinstance(value, int | float) and abs(value) <= FACTOR_MAX else None
    if number is None or math.isnan(number):
        raise ConfigurationError(f"strategy {of}: {name} is a number, such as in {_EXAMPLE}")
    return number


def _rotate(spec: Spec) -> Strategy:
    """`rotate:A`: g turned towards the own running mean, A times its length. Why it could pay: the
    energy is that of `scale:A`, or for A = 1 an honest one, but more of it goes where the own data
    pull in every round, so that sums over a window grow where single rounds look alike."""
    return Mix(middle=2.0, norm=_factor(spec))


def _frozen(spec: Spec) -> Strategy:
    """`frozen:A`: g and A - 1 times the own mean of the window before. Why it could pay: what is
    added is the same all window long, so that it has no noise and no successive differences."""
    return Mix(frozen=_factor(spec) - 1.0)


def _unseen(spec: Spec) -> Strategy:
    """`unseen:A`: g, and A - 1 times that part of it of which the window's sketch shows nothing.
    Why it could pay: signs are known before sending, and of a model with more parameters than a
    sketch has values, most of a gradient can be exaggerated where no energy shows it."""
    return Mix(unseen=_factor(spec) - 1.0)


def _untraced(spec: Spec) -> Strategy:
    """`untraced:A`: as `unseen:A`, of the trace, by which directions are compared."""
    return Mix(untraced=_factor(spec) - 1.0)


def _factor(spec: Spec) -> float:
    if spec.options or spec.value is None:
        raise ConfigurationError(f"strategy {spec.name}: give one number, such as {spec.name}:2")
    number = _checked(spec.name, "A", spec.value)
    if number <= 0.0:
        raise ConfigurationError(f"strategy {spec.name}: {number:g} is not above 0")
    return number


MIXES: Final[Mapping[str, Callable[[Spec], Strategy]]] = MappingProxyType(
    {
        "mix": _mix,
        "rotate": _rotate,
        "frozen": _frozen,
        "unseen": _unseen,
        "untraced": _untraced,
    }
)
"""Each builds a mix from its spec."""
