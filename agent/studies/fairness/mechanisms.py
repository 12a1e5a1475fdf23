"""What a server gives agents for their updates: the paper's mechanism, and those beside it.

Each is told what a round's agents upload, and says what each adds to its model in the place of what
it has trained (Xu et al., NeurIPS 2021). Of baselines the paper tells little; each says below how
it is read here. Vectors are float64 (agents, dim): what agents train in late rounds is a ten
millionth of their parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import inf
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.rewards.allocation import (
    Reputation,
    excluded,
    global_mask,
    linear_shares,
    normalised,
    shares,
    tensor_mask,
)
from candor.mechanisms.rewards.contribution import cosine, inner_products
from candor.topologies.specs.specs import ConfigurationError, Spec, parse_spec

Floats: TypeAlias = NDArray[np.float64]
Worth: TypeAlias = Callable[[Floats], float]
"""How well a model (dim,) does on samples that no agent has."""

ALPHA: Final = 0.95  # the paper's
FAIR: Final = 0.1  # q of q-FFL
PERMUTATIONS: Final = 10  # of ECI
PATIENCE: Final = 10  # rounds before RFFL drops anyone


@dataclass(frozen=True, slots=True)
class Round:
    """What a server sees in a round, and what stays with the agents.

    `number` counts from 1. `trained` is how each model has moved in local training, `uploads` what
    agents say of it, both (agents, dim); `losses` (agents,) are the mean losses of that training,
    `step_size` its step size.
    """

    number: int
    trained: Floats
    uploads: Floats
    losses: Floats
    step_size: float


@dataclass(frozen=True, slots=True)
class Rewards:
    """What each agent adds to its model, `moves` (agents, dim); what the server adds to its own,
    `whole` (dim,); what share of that each was given and by which reputation, (agents,)."""

    moves: Floats
    whole: Floats
    shares: Floats
    reputations: Floats


@dataclass(frozen=True, slots=True)
class Premises:
    """What a mechanism knows of a run: how many samples each agent says to have (agents,), the
    sizes of the model's tensors, the norm to which updates are brought (the paper's Gamma), the
    model to begin with (dim,), and, for those that validate, how good a model is."""

    samples: Floats
    tensors: Sequence[int]
    norm: float
    initial: Floats
    worth: Worth
    generator: np.random.Generator

    @property
    def weights(self) -> Floats:
        """The agents' shares of all samples (agents,)."""
        return normalised(self.samples)


class Mechanism(Protocol):
    """One run's; it keeps from round to round what it needs."""

    def rewards(self, given: Round) -> Rewards:
        """What a round's agents get for their uploads."""
        ...


@dataclass
class Standalone:
    """Nobody shares anything: each keeps what it has trained."""

    premises: Premises

    def rewards(self, given: Round) -> Rewards:
        """What each trained."""
        count, dim = given.trained.shape
        return Rewards(given.trained, np.zeros(dim), np.zeros(count), np.zeros(count))


@dataclass
class FedAvg:
    """All get the mean of the updates, weighted by samples (McMahan et al., AISTATS 2017)."""

    premises: Premises

    def rewards(self, given: Round) -> Rewards:
        """The mean, for all."""
        whole = self.premises.weights @ given.uploads
        return _alike(whole, self.premises.weights)


@dataclass
class QFfl:
    """q-FFL in its federated form, q-FedAvg (Li et al., ICLR 2020, algorithm 2): agents with larger
    losses count more. The Lipschitz constant is 1 / step size, as there; q is 0.1 unless told, on
    which the paper is silent. Difference: the loss F_k is the mean of the local training, not that
    of the model before it.
    """

    premises: Premises
    q: float = FAIR

    def rewards(self, given: Round) -> Rewards:
        """w <- w - sum Delta_k / sum h_k, for all."""
        lipschitz = 1.0 / given.step_size
        gradients = -lipschitz * given.uploads
        losses = np.maximum(given.losses, 1e-10)
        squares = np.square(gradients).sum(axis=1)
        over = losses**self.q @ gradients
        under = self.q * losses ** (self.q - 1) * squares + lipschitz * losses**self.q
        return _alike(-over / under.sum(), normalised(losses**self.q))


@dataclass
class RoundRobin:
    """RR: one agent a round, in turn, downloads all that was aggregated since its last turn (round
    robin as in Shokri & Shmatikov, CCS 2015); the others train on from the model that they have."""

    premises: Premises

    def __post_init__(self) -> None:
        self._owed = np.zeros((len(self.premises.samples), len(self.premises.initial)))

    def rewards(self, given: Round) -> Rewards:
        """The sum of the rounds' means since its last turn, for one."""
        whole = self.premises.weights @ given.uploads
        self._owed += whole
        turn = (given.number - 1) % len(given.uploads)
        given_to = np.zeros(len(given.uploads))
        given_to[turn] = 1.0
        moves = self._owed * given_to[:, None]
        self._owed[turn] = 0.0
        return Rewards(moves, whole, given_to, self.premises.weights)


@dataclass
class _Masked(ABC):
    """The mean of the updates as FedAvg has it, of which each gets the largest coordinates, more of
    them the more it is worth (the paper's equation 5): q_i in proportion to `worths`, tensor by
    tensor as in the paper's public code."""

    premises: Premises

    def rewards(self, given: Round) -> Rewards:
        """A part of the mean for each."""
        whole = self.premises.weights @ given.uploads
        worths = self.worths(given, whole)
        parts = linear_shares(worths)
        moves = _parts(whole, tensor_mask(whole, parts, self.premises.tensors))
        return Rewards(moves, whole, parts, normalised(worths))

    @abstractmethod
    def worths(self, given: Round, whole: Floats) -> Floats:
        """What each is worth (agents,), of a round and the mean of its updates."""


@dataclass
class DatasetWeighted(_Masked):
    """DW: q_i in proportion to the numbers of samples."""

    def worths(self, given: Round, whole: Floats) -> Floats:  # noqa: ARG002
        """The numbers of samples."""
        return self.premises.samples


@dataclass
class Euclidean(_Masked):
    """EU: q_i by the distance of an update from the mean, neither of them normalised. The paper has
    it "proportional to the negative distance", which no share can be: here in proportion to
    1 / distance."""

    def worths(self, given: Round, whole: Floats) -> Floats:
        """One over the distances."""
        apart = np.linalg.norm(given.uploads - whole, axis=1)
        found: Floats = 1.0 / np.maximum(apart, 1e-12 * max(float(apart.max()), 1e-300))
        return found


@dataclass
class _Validated(_Masked):
    """q_i by what agents contribute to a model's accuracy on samples that none of them has. What
    they do in a round is remembered as equation 4 of the paper remembers its own values. The worth
    of a coalition is that of the server's model moved by the mean of its updates."""

    def __post_init__(self) -> None:
        self._reputation = Reputation(ALPHA)
        self._remembered = np.zeros(len(self.premises.samples))
        self._server = self.premises.initial.copy()

    def worths(self, given: Round, whole: Floats) -> Floats:
        """The reputations."""
        known: dict[frozenset[int], float] = {}

        def value(coalition: frozenset[int]) -> float:
            if coalition not in known:
                known[coalition] = self.premises.worth(self._server + self._mean(given, coalition))
            return known[coalition]

        found = self.contributions(len(given.uploads), value)
        self._remembered = self._reputation.after(self._remembered, found)
        self._server += whole
        return self._remembered

    def _mean(self, given: Round, coalition: frozenset[int]) -> Floats:
        members = sorted(coalition)
        if not members:
            return np.zeros(given.uploads.shape[1])
        found: Floats = normalised(self.premises.samples[members]) @ given.uploads[members]
        return found

    @abstractmethod
    def contributions(self, count: int, value: Callable[[frozenset[int]], float]) -> Floats:
        """What each of `count` agents contributes, from the value of coalitions."""


@dataclass
class Cffl(_Validated):
    """CFFL (Lyu et al. 2020) as the paper sums it up: what leaving an agent out costs in validation
    accuracy. Its points, and the privacy of its uploads, are left out."""

    def contributions(self, count: int, value: Callable[[frozenset[int]], float]) -> Floats:
        """All less all but one."""
        everyone = frozenset(range(count))
        return np.array([value(everyone) - value(everyone - {i}) for i in range(count)])


@dataclass
class Eci(_Validated):
    """ECI, the contribution index (Song et al., IEEE Big Data 2019): the Shapley value of the
    validation accuracy, by random permutations, as the paper does for 10 agents and more."""

    permutations: int = PERMUTATIONS

    def contributions(self, count: int, value: Callable[[frozenset[int]], float]) -> Floats:
        """The mean marginal worth over permutations."""
        found = np.zeros(count)
        for _ in range(self.permutations):
            order = self.premises.generator.permutation(count).tolist()
            joined = [frozenset(order[:size]) for size in range(count + 1)]
            for agent, (before, after) in zip(order, pairwise(joined), strict=True):
                found[agent] += value(after) - value(before)
        return found / self.permutations


@dataclass
class Cgsv:
    """The paper's mechanism: updates are brought to one norm and added by reputation, which follows
    the cosine gradient Shapley value; each gets the largest coordinates of the sum by its share.

    As the paper's public code has it, updates of the first round are weighted by samples,
    reputations are at least 1e-3 before they are normalised, and the mask is of each tensor;
    `mask=global` is that of equation 5.
    """

    premises: Premises
    beta: float = 1.0
    by_tensor: bool = True
    reputation: Reputation = field(default_factory=lambda: Reputation(ALPHA))

    def __post_init__(self) -> None:
        self._remembered = np.zeros(len(self.premises.samples))

    def rewards(self, given: Round) -> Rewards:
        """A part of the sum for each."""
        uploads = _normed(given.uploads, self.premises.norm)
        weights = self.premises.weights if given.number == 1 else self._remembered
        worths = cosine(inner_products(uploads), weights)
        self._remembered = self.reputation.after(self._remembered, worths)
        whole = weights @ uploads
        parts = shares(self._remembered, self.beta)
        mask = (
            tensor_mask(whole, parts, self.premises.tensors)
            if self.by_tensor
            else global_mask(whole, parts)
        )
        return Rewards(_parts(whole, mask), whole, parts, self._remembered)


@dataclass
class Rffl:
    """RFFL (Xu & Lyu, ICML workshop 2021): updates are only clipped to the norm, agents keep their
    own and add the reward, the share is r / max r, reputations have no floor, and after ten rounds
    whoever is below 1 / (3 |R|) is dropped: it keeps to itself from then on."""

    premises: Premises

    def __post_init__(self) -> None:
        self._remembered = np.zeros(len(self.premises.samples))
        self._members = np.ones(len(self.premises.samples), bool)
        self._reputation = Reputation(ALPHA, floor=0.0)

    def rewards(self, given: Round) -> Rewards:
        """A part of the sum for each that is still there, beside what it trained."""
        uploads = _clipped(given.uploads, self.premises.norm)
        weights = self.premises.weights if given.number == 1 else self._remembered
        worths = cosine(inner_products(uploads), weights)
        moved = self._reputation.after(self._remembered, worths * self._members)
        self._remembered = normalised(np.maximum(moved, 0.0) * self._members)
        if given.number > PATIENCE:
            self._members &= ~excluded(self._remembered, self._members)
            self._remembered = normalised(self._remembered * self._members)
        whole = weights @ uploads
        parts = linear_shares(self._remembered) * self._members
        moves = _parts(whole, tensor_mask(whole, parts, self.premises.tensors))
        own = _clipped(given.trained, self.premises.norm)
        return Rewards(own + moves, whole, parts, self._remembered)


def _alike(whole: Floats, reputations: Floats) -> Rewards:
    count = len(reputations)
    return Rewards(np.tile(whole, (count, 1)), whole, np.ones(count), reputations)


def _parts(whole: Floats, mask: NDArray[np.bool_]) -> Floats:
    """What masks (agents, dim) leave of the whole (dim,)."""
    found: Floats = whole * mask
    return found


def _normed(updates: Floats, norm: float) -> Floats:
    lengths = np.linalg.norm(updates, axis=1, keepdims=True)
    found: Floats = updates * (norm / np.where(lengths > 0.0, lengths, 1.0))
    return found


def _clipped(updates: Floats, norm: float) -> Floats:
    lengths = np.linalg.norm(updates, axis=1, keepdims=True)
    found: Floats = updates * np.minimum(1.0, norm / np.where(lengths > 0.0, lengths, 1.0))
    return found


Build: TypeAlias = Callable[[Premises], Mechanism]


def _plain(kind: Build) -> Callable[[Spec], Build]:
    def build(spec: Spec) -> Build:
        _known(spec)
        return kind

    return build


def _known(spec: Spec, *options: str) -> None:
    if spec.value is not None or spec.options.keys() - set(options):
        known = f"its options are {', '.join(options)}" if options else "it takes no options"
        raise ConfigurationError(f"method {spec.name}: {known}")


def _number(spec: Spec, option: str, default: float, low: float) -> float:
    value = spec.options.get(option, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < inf:
        raise ConfigurationError(f"method {spec.name}: {option} is a number of at least {low:g}")
    return float(value)


def _cgsv(spec: Spec) -> Build:
    _known(spec, "beta", "mask")
    mask = spec.options.get("mask", "tensor")
    if mask not in ("tensor", "global"):
        raise ConfigurationError(f"method {spec.name}: mask is tensor or global, not {mask}")
    return partial(Cgsv, beta=_number(spec, "beta", 1.0, 1.0), by_tensor=mask == "tensor")


def _qffl(spec: Spec) -> Build:
    _known(spec, "q")
    return partial(QFfl, q=_number(spec, "q", FAIR, 0.0))


def _eci(spec: Spec) -> Build:
    _known(spec, "permutations")
    return partial(Eci, permutations=int(_number(spec, "permutations", PERMUTATIONS, 1.0)))


METHODS: Final[Mapping[str, Callable[[Spec], Build]]] = {
    "standalone": _plain(Standalone),
    "fedavg": _plain(FedAvg),
    "qffl": _qffl,
    "cffl": _plain(Cffl),
    "eci": _eci,
    "dw": _plain(DatasetWeighted),
    "rr": _plain(RoundRobin),
    "eu": _plain(Euclidean),
    "cgsv": _cgsv,
    "rffl": _plain(Rffl),
}


def method_of(text: str) -> Build:
    """What builds the mechanism of a spec such as `fedavg`, `cgsv:beta=1.5,mask=global`.

    Raises:
        ConfigurationError: there is none, or a wrong option.
    """
    spec = parse_spec(text)
    if spec.name not in METHODS:
        raise ConfigurationError(f"method {text!r} is unknown; known: {', '.join(METHODS)}")
    return METHODS[spec.name](spec)
