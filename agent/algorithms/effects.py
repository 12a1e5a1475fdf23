"""What an algorithm asks for: effects over tensors with a leading agent axis.

An optimisation algorithm is a generator. It yields one of the effects below and is sent the result;
`agent.algorithms.driver` performs those that stay on the host, and each runtime the exchanges: the
daemon for one row over the network, a simulation for all rows at once.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """H local SGD steps from x (agents, dim) in round t; answered by what moved x, divided by the
    step size: a pseudo-gradient (agents, dim), the stochastic gradient itself for H = 1."""

    x: Tensor
    t: int


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """Each agent samples `count` trajectories of its policy x (agents, dim) in round t; answered by
    an estimate (agents, dim) of the gradient of minus the expected return: a descent direction, as
    every gradient here. The answer is None where the environment fails and the round is sat out.

    With policies `before` (agents, dim) the answer is that estimate less the one that the same
    trajectories give for those policies, by importance weights.
    """

    x: Tensor
    t: int
    count: int
    before: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Each agent's strategy turns its gradient (agents, dim) into the report (agents, dim) it acts
    on; the honest one returns the gradient."""

    gradient: Tensor
    t: int


@dataclass(frozen=True, slots=True)
class Mass:
    """By what the steps of round t are divided, (agents, 1): masses over those of round 1, ones but
    under push-sum."""

    t: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send v (agents, dim) to the takers of round t in a phase of it; answered by `Heard`.

    `attested` is the aggregate (agents, dim) that v was stepped from, where the phase has one: it
    is sketched into the statement of v.
    """

    v: Tensor
    t: int
    phase: int = 0
    attested: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """An exchange whose answer is one vector an agent (agents, dim) of what was heard and its own:
    the sum by the round's mixing weights or those that the phase's rule derives, or what the run's
    aggregator makes of them."""

    v: Tensor
    t: int
    phase: int = 0
    attested: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What an exchange brought: the givers' vectors (agents, neighbours, dim), in order of id, and
    which of them were heard (agents, neighbours) bool; `own` (agents, dim) as everyone has it."""

    vectors: Tensor
    present: Tensor
    own: Tensor


LocalEffect: TypeAlias = LocalSteps | PolicyGradient | Report | Mass
AlgorithmEffect: TypeAlias = LocalEffect | Exchange | Mix
# Each effect's answer is a Tensor, an exchange's `Heard`: no type can say which comes next.
Rounds: TypeAlias = Generator[AlgorithmEffect, Any, None]

State: TypeAlias = dict[str, Tensor]
"""What an algorithm, its trainer and its strategies keep from round to round: tensors by name with
a leading agent axis. A runtime saves and restores it whole, and starts it anew on a re-entry."""
