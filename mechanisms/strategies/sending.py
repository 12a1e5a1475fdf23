"""What a strategy may send in place of what the algorithm says, and what it knows when it does.

Reports (`lies`) alter what an agent steps by, and the agent follows the protocol from there. Here
the vector itself is altered, for all receivers alike or for each another one. This module is the
interface alone; the attacks are in `attacks` and `equivocators`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from candor.mechanisms.aggregation.specs import Aggregator
from candor.mechanisms.evidence.phases import MIXED_MODEL, Phases
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed, window_of


def step_one(_t: int) -> float:
    """A step size of one in every round."""
    return 1.0


@dataclass(frozen=True)
class KnownRun:
    """What everybody knows of a run, since the cluster file says it.

    `byzantine` is f, the declared Byzantine neighbours of every agent, 1 where none are declared;
    `graph` the neighbours of every agent in order of id, all by place in the cluster file;
    `step_size(t)` is lambda_t.
    """

    fingerprint: bytes = bytes(32)
    window: int = 16
    sketch_size: int = 1024
    byzantine: int = 1
    aggregator: Aggregator | None = None
    phases: Phases = MIXED_MODEL
    graph: tuple[tuple[int, ...], ...] = ()
    step_size: Callable[[int], float] = step_one

    def injected(self, own: Tensor, vectors: Tensor, round_number: int) -> Tensor:
        """What its neighbours injected in a round (n, dim), as far as it shows to an agent that
        injected `own` (dim,) and in the charged exchange sent the first of the `vectors` (1 + n,
        dim) and heard the others: exactly, up to rounding, where all stepped from the same, as on
        complete graphs. Zeros where it heard zeros, as of what it is not given."""
        direct = self.phases.phases[self.phases.charged].direct
        step = -1.0 if direct else self.step_size(round_number)
        return (own + (vectors[0] - vectors[1:]) / step).masked_fill(vectors[1:] == 0.0, 0.0)

    def sketch(self, round_number: int, dim: int) -> SignSketch:
        """The sketch of vectors (dim,) in a round."""
        seed = signs_seed(self.fingerprint, window_of(round_number, self.window))
        return SignSketch(seed, dim, self.sketch_size)

    @cached_property
    def combine(self) -> "Combine":
        """What an honest agent makes of vectors (n, dim) of its neighbours and its own (dim,), by
        the run's aggregator from exact distances; the mean where there is none."""
        return Combine(self.aggregator)


class Combine:
    """One neighbourhood combined as honest agents do: by whole vectors, not sketches, and with the
    mean in the place of a rule that looks at losses, which an attacker does not know."""

    def __init__(self, aggregator: Aggregator | None) -> None:
        known = aggregator is not None and aggregator.rule != "ubar"
        self._function = aggregator.load() if aggregator is not None and known else None

    def __call__(self, vectors: Tensor, own: Tensor) -> Tensor:
        """The vector (dim,) that comes of vectors (n, dim) and the own (dim,)."""
        if self._function is None:
            return torch.cat([own[None], vectors]).mean(dim=0)
        there = torch.ones(1, len(vectors), dtype=torch.bool, device=vectors.device)
        return self._function(vectors[None], there, own[None])[0]


@dataclass(frozen=True, slots=True)
class SendContext:
    """What a strategy may know when its agents send: round (from 1) and phase, the run's seed, and
    whose rows it is given (`agents[r]`, by place in the cluster file), with the neighbours of each
    row in order of id.

    `honest` (h, dim) is what the honest agents send in this same exchange, and `honest_agents` who
    they are: in simulations only, where `byzantine` is how many agents are not honest; else it is
    the declared number of Byzantine neighbours. What an attacker on a network sees: `heard`, by row
    what its neighbours sent in the last exchange of this phase, (n, dim); `just_heard` the same of
    the exchange before this one, whatever its phase; `own`, by row, what it sent itself in the last
    exchange of this phase, (dim,). They are None by row where there was none, and altogether for
    strategies that do not ask for them with `overhears`.
    """

    round: int
    phase: int
    seed: int
    agents: tuple[int, ...]
    neighbours: tuple[tuple[int, ...], ...]
    honest: Tensor | None = None
    heard: Sequence[Tensor | None] | None = None
    byzantine: int = 1
    honest_agents: tuple[int, ...] = ()
    just_heard: Sequence[Tensor | None] | None = None
    own: Sequence[Tensor | None] | None = None
    run: KnownRun = field(default_factory=KnownRun)

    @property
    def phase_name(self) -> str:
        """The name of the exchange in the algorithm."""
        return self.run.phases.phases[self.phase].name

    @property
    def charged(self) -> bool:
        """Whether this is the exchange in which agents inject what they have learned."""
        return self.phase == self.run.phases.charged

    @property
    def agrees(self) -> bool:
        """Whether agents come closer to each other here: every exchange but the charged one, or
        that one where it is the only one."""
        return not self.charged or self.run.phases.count == 1


@runtime_checkable
class AltersVectors(Protocol):
    """A strategy that also has `sent`: what its agents send in place of what the algorithm says.

    With an attribute `overhears` that is true it is told what neighbours sent before.
    """

    def sent(self, vectors: Tensor, context: SendContext) -> Tensor:
        """What the agents send in place of the vectors (rows, dim): (rows, dim) for all receivers,
        or (rows, neighbours, dim) for each of them, in order of id; of a row with fewer neighbours
        than another the first ones count. The argument stays as it is."""
        ...


def known(context: SendContext, row: int, *, omniscient: bool) -> Tensor | None:
    """The honest vectors of the exchange (h, dim), if the attacker is omniscient and simulated;
    else what the row's neighbours sent in the last one of the phase (n, dim), None of nothing."""
    if omniscient and context.honest is not None:
        return context.honest if len(context.honest) else None
    heard = None if context.heard is None else context.heard[row]
    return heard if heard is not None and len(heard) else None
