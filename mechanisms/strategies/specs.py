"""How strategies are named, combined and timed.

    strategy = part (" + " part)*
    part     = (name[:value] | module:Class) [" @ " rounds]
    rounds   = FIRST | FIRST-LAST | FIRST-, each with ",every=K" or only "every=K"

Every part is a map from gradients to reports, or of what is sent; a sum applies them one after the
other, each to what the part before it made, in the rounds (from 1) in which each is active. So
`scale:3 + noise:0.5` is m = 3 g + 0.5 xi (Dorner et al., section 4), `scale:3 @ 1-50 + honest @
51-` exaggerates for fifty rounds, `avg-zero @ 51-` attacks after fifty, and where no part is active
the agent is honest.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Self, cast

import torch
from torch import Tensor

from candor.mechanisms.strategies.attacks import ATTACKS, SIMULATED_ATTACKS
from candor.mechanisms.strategies.lies import (
    SIMULATED,
    STRATEGIES,
    AltersActions,
    AltersData,
    Remembers,
    ReportsTruly,
    Samples,
    Strategy,
    StrategyContext,
    needs_simulation,
)
from candor.mechanisms.strategies.mixes import MIXES
from candor.mechanisms.strategies.sending import AltersVectors, SendContext
from candor.topologies.specs.specs import (
    ConfigurationError,
    Scalar,
    Spec,
    build_object,
    is_import_path,
    load_object,
    parse_spec,
    shown,
    users_errors,
)

KNOWN: Final = {**STRATEGIES, **MIXES, **ATTACKS}

_SUM = re.compile(r"\s+\+\s+")  # spaces are required: `1e+5` holds a plus too
_LIST = re.compile(r",(?![a-z]+=)")
# Parts that report the gradient itself, as `canonical_strategy` writes them.
_HONEST: Final = {"honest", "scale:1", "averaged:1", "noise:0", "partial:0", "conform:0"}
_ROUND: Final = "([1-9][0-9]{0,8})"
_ROUNDS = re.compile(rf"(?:{_ROUND}(?:(-){_ROUND}?)?)?(?:(?:^|,\s*)every={_ROUND})?")


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds `first`, `first + every`, … up to `last`, or without an end."""

    first: int = 1
    last: int | None = None
    every: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Equal sets of rounds give equal values: `1-50,every=2` is `1-49,every=2`.

        Raises:
            ConfigurationError: it is written in another way, or ends before it begins.
        """
        match = _ROUNDS.fullmatch(text)
        if not match or not text:
            raise ConfigurationError(
                f"rounds {shown(text)}: write 7, 1-50 or 51-, with every=2 for every second: "
                "1-50,every=2"
            )
        begin, dash, end, step = match.groups()
        first, every = int(begin or 1), int(step or 1)
        if begin and not dash and every > 1:
            raise ConfigurationError(
                f"rounds {shown(text)}: one round has no every; write {begin}-"
            )
        if not begin or (dash and not end):
            return cls(first, None, every)
        last = int(end or first)
        if last < first:
            raise ConfigurationError(f"rounds {shown(text)}: they end before they begin")
        last -= (last - first) % every
        return cls(first, last, every if last > first else 1)

    @property
    def text(self) -> str:
        """As `parse` reads it; empty for all rounds."""
        if self.last is None:
            span = "" if self.first == 1 else f"{self.first}-"
        else:
            span = f"{self.first}" if self.last == self.first else f"{self.first}-{self.last}"
        step = "" if self.every == 1 else f"every={self.every}"
        return ",".join(filter(None, (span, step)))

    def __contains__(self, t: int) -> bool:
        ended = self.last is not None and t > self.last
        return t >= self.first and not ended and (t - self.first) % self.every == 0


@dataclass(frozen=True, slots=True)
class Composite:
    """Strategies one after the other, each in its rounds."""

    parts: tuple[tuple[Strategy, Rounds], ...]

    def report(self, gradient: Tensor, context: StrategyContext) -> Tensor:
        """What the parts that are active in the round make of the gradients."""
        for place, (strategy, rounds) in enumerate(self.parts):
            inner = replace(context, place=place)
            if context.round in rounds:
                gradient = strategy.report(gradient, inner)
            elif isinstance(strategy, Remembers):
                strategy.watch(gradient, inner)
        return gradient

    def data(self, samples: Samples) -> Samples:
        """What the parts make of the samples."""
        for strategy, _ in self.parts:
            if isinstance(strategy, AltersData):
                samples = strategy.data(samples)
        return samples

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """What the parts that are active in the round make of the vectors: of each receiver's, once
        a part has made them different."""
        for strategy, rounds in self.parts:
            if context.round in rounds and isinstance(strategy, AltersVectors):
                vectors = _sent_by(strategy, vectors, context)
        return vectors


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
        with users_errors(f"strategy {self.path!r}: report() failed in round {context.round}"):
            answer: object = self.inner.report(gradient, context)
        fault = _fault(answer, gradient)
        # A diverged model's gradient is not the strategy's fault.
        if not fault and not torch.isfinite(cast(Tensor, answer)).all():
            fault = "values that are not finite" if torch.isfinite(gradient).all() else ""
        if fault:
            raise ConfigurationError(
                f"strategy {self.path!r}: report() gave {fault} in round {context.round}"
            )
        return cast(Tensor, answer).detach()

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """What the user's agents send.

        Raises:
            ConfigurationError: it raised, or did not answer with finite values, of the same shape
                or with one vector for each neighbour.
        """
        if not isinstance(self.inner, AltersVectors):
            return vectors
        told = f"strategy {self.path!r}: sent()"
        with users_errors(f"{told} failed in round {context.round}"):
            answer: object = self.inner.sent(vectors, context)
        like = vectors
        if isinstance(answer, Tensor) and answer.ndim == 3:
            like = vectors[:, None].expand(-1, max(map(len, context.neighbours)), -1)
        fault = _fault(answer, like)
        if not fault and not torch.isfinite(cast(Tensor, answer)).all():
            fault = "values that are not finite" if torch.isfinite(vectors).all() else ""
        if fault:
            raise ConfigurationError(f"{told} gave {fault} in round {context.round}")
        # One vector for all receivers may be expanded: what shares memory cannot be saved.
        return cast(Tensor, answer).detach().contiguous()


@dataclass(frozen=True, slots=True)
class UsersDataStrategy(UsersStrategy):
    """A user's own class that has `data` too."""

    def data(self, samples: Samples) -> Samples:
        """The user's samples.

        Raises:
            ConfigurationError: it raised, or did not answer with tensors of the same shapes.
        """
        with users_errors(f"strategy {self.path!r}: data() failed"):
            answer: object = cast(AltersData, self.inner).data(samples)
        if not isinstance(answer, tuple) or len(answer) != len(samples):
            raise ConfigurationError(
                f"strategy {self.path!r}: data() must give a tuple of {len(samples)} tensors"
            )
        for given, taken in zip(answer, samples, strict=True):
            fault = _fault(given, taken)
            if fault:
                raise ConfigurationError(f"strategy {self.path!r}: data() gave {fault}")
        return answer


def parts_of(strategy: Strategy) -> tuple[tuple[Strategy, Rounds], ...]:
    """What a strategy is a sum of, each with its rounds."""
    return strategy.parts if isinstance(strategy, Composite) else ((strategy, Rounds()),)


def alters_data(strategy: Strategy) -> bool:
    """Whether a part of a strategy alters samples."""
    return any(isinstance(one, AltersData) for one, _ in parts_of(strategy))


def acting_in(strategy: Strategy, t: int) -> AltersActions | None:
    """What of a strategy acts in the place of the policy in round t, if anything does."""
    found = [one for one, at in parts_of(strategy) if isinstance(one, AltersActions) and t in at]
    return found[-1] if found else None


def parse_strategy(text: str, *, simulated: bool = True) -> Strategy:
    """Build a strategy from its text.

    Args:
        text: a part, such as `honest`, `scale:3` or the user's `module:Class`, or a sum of parts.
        simulated: whether it is for a simulated agent, which may know what others report.

    Raises:
        ConfigurationError: unknown, a missing or bad value or round, a daemon cannot perform it, or
            the user's class cannot be used.
    """
    parts = tuple((_build(what, simulated), rounds) for what, rounds in _parts(text))
    for strategy, rounds in parts:
        if isinstance(strategy, AltersData) and rounds != Rounds():
            raise ConfigurationError(
                f"strategy {text!r}: data are altered once, for the whole run; leave out "
                f"@ {rounds.text}"
            )
    only, rounds = parts[0]
    return only if len(parts) == 1 and rounds == Rounds() else Composite(parts)


def attacks(strategy: Strategy) -> bool:
    """Whether a strategy may send something else than the algorithm says."""
    match strategy:
        case Composite(parts):
            return any(attacks(part) for part, _ in parts)
        case UsersStrategy():
            return isinstance(strategy.inner, AltersVectors)
    return isinstance(strategy, AltersVectors)


def marked(strategy: Strategy, mark: str, t: int | None = None) -> bool:
    """Whether a part of a strategy that is active in round t, or in any, has an attribute that is
    true: `overhears`, `omniscient` or `random_actions`."""
    match strategy:
        case Composite(parts):
            active = (part for part, rounds in parts if t is None or t in rounds)
            return any(marked(part, mark) for part in active)
        case UsersStrategy():
            with users_errors(f"strategy {strategy.path!r}: {mark} failed"):
                return bool(getattr(strategy.inner, mark, False))
    return bool(getattr(strategy, mark, False))


def idleness(strategy: Strategy, t: int) -> float:
    """The share of round t's work that a strategy saves, 0 to 1: all of it where an active part
    reports without what the parts before it made of the gradient.

    Raises:
        ConfigurationError: a user's class says something else than a share.
    """
    return max((_idle(part) for part, rounds in parts_of(strategy) if t in rounds), default=0.0)


def _idle(part: Strategy) -> float:
    if not isinstance(part, UsersStrategy):
        return float(getattr(part, "idle", 0.0))
    with users_errors(f"strategy {part.path!r}: idle failed"):
        share = float(getattr(part.inner, "idle", 0.0))
    if not 0 <= share <= 1:
        raise ConfigurationError(f"strategy {part.path!r}: idle is {share}, not from 0 to 1")
    return share


def canonical_strategy(text: str) -> str:
    """The text of a strategy as it is compared: numbers and rounds written in one way, and without
    parts that are honest.

    Raises:
        ConfigurationError: the text does not follow the grammar.
    """
    texts = [
        f"{what} @ {rounds.text}" if rounds.text else what
        for what, rounds in ((_part_text(what), rounds) for what, rounds in _parts(text))
        if what not in _HONEST
    ]
    return " + ".join(texts) or "honest"


def names_in(text: str) -> list[str]:
    """What a strategy is a sum of: names without their values, and import paths.

    Raises:
        ConfigurationError: the text does not follow the grammar.
    """
    return [what if isinstance(what, str) else what.name for what, _ in _parts(text)]


def split_list(text: str) -> list[str]:
    """The strategies of a list: those commas part it that no `key=` follows, as in
    `label-flip:from=1,to=7`."""
    return _LIST.split(text)


def _parts(text: str) -> list[tuple[str | Spec, Rounds]]:
    """What a text names, each with its rounds; an import path stays text."""
    parts: list[tuple[str | Spec, Rounds]] = []
    for part in _SUM.split(text.strip()):
        what, at, when = (piece.strip() for piece in part.partition("@"))
        rounds = Rounds.parse(when) if at else Rounds()
        parts.append((what if is_import_path(what) else parse_spec(what), rounds))
    return parts


def _build(what: str | Spec, simulated: bool) -> Strategy:
    if isinstance(what, str):
        return _users_strategy(what)
    if what.name not in KNOWN:
        raise ConfigurationError(
            f"strategy {what.name!r} is unknown; known: {', '.join(KNOWN)}, "
            "or your own as module:Class"
        )
    if what.name in SIMULATED | SIMULATED_ATTACKS and not simulated:
        raise needs_simulation(what.name)
    return KNOWN[what.name](what)


def _users_strategy(path: str) -> Strategy:
    sends = callable(getattr(load_object(path, "strategy"), "sent", None))
    made = build_object(path, "strategy", "sent" if sends else "report")
    inner: Strategy = made if hasattr(made, "report") else _Sender(made)
    kind = UsersDataStrategy if callable(getattr(inner, "data", None)) else UsersStrategy
    return kind(path, inner)


@dataclass(frozen=True, slots=True)
class _Sender(ReportsTruly):
    """A user's own class that has `sent` alone."""

    inner: AltersVectors

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        return self.inner.sent(vectors, context)

    @property
    def overhears(self) -> bool:
        return bool(getattr(self.inner, "overhears", False))


def _sent_by(strategy: AltersVectors, vectors: Tensor, context: SendContext) -> Tensor:
    """What a part makes of vectors (rows, dim), or of each receiver's (rows, neighbours, dim)."""
    if vectors.ndim == 2:
        return strategy.sent(vectors, context)
    made = []
    for at in range(vectors.shape[1]):
        one = strategy.sent(vectors[:, at], context)
        made.append(one[:, at] if one.ndim == 3 else one)
    return torch.stack(made, dim=1)


def _part_text(what: str | Spec) -> str:
    if isinstance(what, str):
        return what
    if what.value is not None:
        return f"{what.name}:{_scalar_text(what.value)}"
    options = ",".join(f"{k}={_scalar_text(v)}" for k, v in sorted(what.options.items()))
    return f"{what.name}:{options}" if options else what.name


def _scalar_text(value: Scalar) -> str:
    """A number in the shortest text that is read as the same number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value)


def _fault(answer: object, given: Tensor) -> str:
    """How an answer differs in kind from what was given, or nothing."""
    if not isinstance(answer, Tensor):
        return f"a {type(answer).__name__}, not a tensor"
    if answer.shape != given.shape:
        return f"the shape {tuple(answer.shape)}, not {tuple(given.shape)}"
    if answer.dtype != given.dtype:
        return f"{answer.dtype}, not {given.dtype}"
    if (answer.layout, answer.device) != (given.layout, given.device):
        return f"a {answer.layout} tensor on {answer.device}, not {given.layout} on {given.device}"
    return ""
