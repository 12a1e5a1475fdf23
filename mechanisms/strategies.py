"""How an agent turns its gradient into the report it acts on: honestly, or not.

Honest clients only ever use `honest`. The others exist so that a user can see what a lie costs and
gains before trusting a run, in the testbed and in simulations. This module does not decide what a
lie costs: neighbours measure what an agent injects, whatever strategy made it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from topologies.specs import ConfigurationError, Spec, is_import_path, load_object, parse_spec

NOISE_DOMAIN: Final = 0x6E6F6973  # keeps this stream apart from others drawn from the same seed


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What a strategy may know: the round (from 1), the run's seed, whose rows it is given
    (`agents[r]` is the agent of row r, by its place in the cluster file); and in simulations, where
    a colluder or an eavesdropper may know it, what the neighbours of each row reported in the round
    before: (neighbours, dim) a row, None in round 1."""

    round: int
    seed: int
    agents: tuple[int, ...]
    overheard: tuple[Tensor, ...] | None = None
    simulated: bool = False


class Strategy(Protocol):
    """A way to report. A user's class takes no constructor argument."""

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """Turn the gradients (rows, dim) into reports (rows, dim); the argument stays as it is."""
        ...


@dataclass(frozen=True, slots=True)
class Honest:
    """m = g."""

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:  # noqa: ARG002
        """The gradient itself."""
        return gradient


@dataclass(frozen=True, slots=True)
class Scale:
    """m = a g: above 1 it pulls the common model towards its own data (Dorner et al., section 4;
    Chen & Wang's exaggeration); 0 shirks, below 0 sabotages."""

    factor: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:  # noqa: ARG002
        """The scaled gradients."""
        return self.factor * gradient


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
        dim = gradient.shape[1]
        noise = np.stack([_unit_noise(context, agent, dim) for agent in context.agents])
        return gradient + self.amount * torch.from_numpy(noise).to(gradient)


@dataclass(frozen=True, slots=True)
class RandomDirection:
    """A fresh Gaussian direction with the gradient's own norm: an idler that looks busy."""

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """Noise of the gradients' norms, the same in daemon and simulation."""
        dim = gradient.shape[1]
        noise = np.stack([_unit_noise(context, agent, dim) for agent in context.agents])
        direction = torch.from_numpy(noise).to(gradient)
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
    """What the first neighbour reported in the round before: a plagiarist that trains nothing."""

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The first neighbour's last report; the own gradient in round 1."""
        heard = _overheard(context, "stale-copy")
        return gradient if heard is None else torch.stack([rows[0] for rows in heard])


@dataclass(frozen=True, slots=True)
class Conform:
    """m = (1 - a) g + a mean of the neighbours' last reports: it moves towards what is expected of
    it (the herding that peer prediction invites)."""

    share: float

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The mixed reports; the own gradient in round 1."""
        heard = _overheard(context, "conform")
        if heard is None:
            return gradient
        mean = torch.stack([rows.mean(dim=0) for rows in heard])
        return (1 - self.share) * gradient + self.share * mean


def _overheard(context: StrategyContext, name: str) -> tuple[Tensor, ...] | None:
    if not context.simulated:
        raise ConfigurationError(
            f"strategy {name} needs to know what its neighbours report, as only simulated agents do"
        )
    return context.overheard


@dataclass(frozen=True, slots=True)
class UsersStrategy:
    """A user's own class, with its answers checked: a wrong shape would otherwise surface as a
    fault deep inside the mixing step."""

    path: str
    inner: Strategy

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """The user's reports.

        Raises:
            ConfigurationError: it raised, or did not answer with finite values of the same shape.
        """
        try:
            answer: object = self.inner.report(gradient, context)
        except Exception as exc:  # the user's code may raise anything
            raise ConfigurationError(
                f"strategy {self.path!r}: report() failed in round {context.round} "
                f"({type(exc).__name__}: {exc})"
            ) from exc
        fault = _fault(answer, gradient)
        if fault:
            raise ConfigurationError(
                f"strategy {self.path!r}: report() gave {fault} in round {context.round}"
            )
        return cast(Tensor, answer)


def _plain(kind: Callable[[], Strategy]) -> Callable[[Spec], Strategy]:
    """A strategy without parameters."""

    def build(spec: Spec) -> Strategy:
        if spec.value is not None or spec.options:
            raise ConfigurationError(f"strategy {spec.name} takes no value")
        return kind()

    return build


def _conform(spec: Spec) -> Strategy:
    share = _number(spec, "conform:0.5")
    if not 0 <= share <= 1:
        raise ConfigurationError(f"strategy conform: {share} is not a share from 0 to 1")
    return Conform(share)


def _scale(spec: Spec) -> Strategy:
    return Scale(_number(spec, "scale:3"))


def _noise(spec: Spec) -> Strategy:
    amount = _number(spec, "noise:0.5")
    if amount < 0:
        raise ConfigurationError(f"strategy noise: {amount} is below 0")
    return Noise(amount)


STRATEGIES: Final[Mapping[str, Callable[[Spec], Strategy]]] = MappingProxyType(
    {
        "honest": _plain(Honest),
        "scale": _scale,
        "noise": _noise,
        "random-direction": _plain(RandomDirection),
        "alternating-flip": _plain(AlternatingFlip),
        "stale-copy": _plain(StaleCopy),
        "conform": _conform,
    }
)


def parse_strategy(text: str) -> Strategy:
    """Build a strategy from `honest`, `scale:A`, `noise:B` or the user's `module:Class`.

    Raises:
        ConfigurationError: unknown, a missing or bad value, or the user's class cannot be used.
    """
    if is_import_path(text):
        return _users_strategy(text)
    spec = parse_spec(text)
    if spec.name not in STRATEGIES:
        raise ConfigurationError(
            f"strategy {text!r} is unknown; known: {', '.join(STRATEGIES)}, "
            "or your own as module:Class"
        )
    return STRATEGIES[spec.name](spec)


def _users_strategy(path: str) -> Strategy:
    factory = load_object(path, "strategy")
    if not isinstance(factory, type):
        raise ConfigurationError(f"strategy {path!r} is not a class")
    if not callable(getattr(factory, "report", None)):
        raise ConfigurationError(f"strategy {path!r} lacks the method report()")
    try:
        inner = factory()
    except Exception as exc:  # the user's constructor may raise anything
        raise ConfigurationError(
            f"strategy {path!r}: its constructor failed ({type(exc).__name__}: {exc})"
        ) from exc
    return UsersStrategy(path, cast(Strategy, inner))


def _number(spec: Spec, example: str) -> float:
    if not isinstance(spec.value, int | float) or not math.isfinite(spec.value):
        raise ConfigurationError(f"strategy {spec.name}: give one finite number, such as {example}")
    return float(spec.value)


def _unit_noise(context: StrategyContext, agent: int, dim: int) -> np.ndarray:
    """One Gaussian row (dim,) of expected squared norm 1."""
    rng = np.random.default_rng([context.seed, NOISE_DOMAIN, agent, context.round])
    return rng.standard_normal(dim, dtype=np.float32) / np.float32(math.sqrt(dim))


def _fault(answer: object, gradient: Tensor) -> str:
    """What is wrong with a report, or nothing."""
    if not isinstance(answer, Tensor):
        return f"a {type(answer).__name__}, not a tensor"
    if answer.shape != gradient.shape:
        return f"the shape {tuple(answer.shape)}, not {tuple(gradient.shape)}"
    if answer.dtype != gradient.dtype:
        return f"{answer.dtype}, not {gradient.dtype}"
    # A diverged model's gradient is not the strategy's fault.
    if not torch.isfinite(answer).all() and torch.isfinite(gradient).all():
        return "values that are not finite"
    return ""
