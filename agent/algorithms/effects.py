"""What an algorithm asks for: effects over tensors with a leading agent axis."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor  # commands that only read a ledger do without its two seconds


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """H local SGD steps from x (agents, dim) in round t; answered by what moved x, divided by the
    step size: a pseudo-gradient (agents, dim), the stochastic gradient itself for H = 1."""

    x: "Tensor"
    t: int


@dataclass(frozen=True, slots=True)
class Report:
    """Each agent's strategy turns its gradient (agents, dim) into the report (agents, dim) it acts
    on; the honest one returns the gradient."""

    gradient: "Tensor"
    t: int


@dataclass(frozen=True, slots=True)
class Mass:
    """The masses of round t, by which steps are divided: (agents, 1), ones but under push-sum."""

    t: int


@dataclass(frozen=True, slots=True)
class Mix:
    """Combine the rows of y (agents, dim) of round t with the round's matrix; the shape stays."""

    y: "Tensor"
    t: int


AlgorithmEffect: TypeAlias = LocalSteps | Report | Mass | Mix


Algorithm: TypeAlias = Generator[AlgorithmEffect, "Tensor", None]
