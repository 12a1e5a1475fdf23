"""Performs an algorithm's effects, from one exchange to the next: the one text for all runtimes.

What stays on the host (local steps, reports, masses) a `Performer` does; what needs neighbours is
handed to the runtime and answered by it. The daemon has one row, a simulation all, lockstep made-up
gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.catalogue import entry_of
from candor.agent.algorithms.effects import (
    Exchange,
    Heard,
    LocalSteps,
    Mass,
    Mix,
    Report,
    Rounds,
    State,
)
from candor.agent.algorithms.steps import (
    OUTER_MOMENTUM,
    OUTER_STEP,
    Hyper,
    given_or,
    step_schedule,
)
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import load_object


class AlgorithmFunction(Protocol):
    """Starts an algorithm from x (agents, dim) and a state at round `start`."""

    def __call__(self, x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds: ...


class Performer(Protocol):
    """What agents do on their own between exchanges; `state` is theirs to keep things in."""

    def local_steps(self, x: Tensor, t: int, step_size: float, state: State) -> Tensor:
        """The pseudo-gradients (agents, dim) of round t from x (agents, dim)."""
        ...

    def report(self, gradient: Tensor, t: int, state: State) -> Tensor:
        """What the agents report of their gradients (agents, dim)."""
        ...

    def mass(self, t: int) -> Tensor:
        """The agents' masses of round t, (agents, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An exchange to perform: `vectors` (agents, dim) as the codec decodes them. With `mixes` the
    answer is the mixed vectors (agents, dim), else what was `Heard`."""

    round: int
    phase: int
    vectors: Tensor
    attested: Tensor | None
    mixes: bool


class Driver:
    """An algorithm under way.

    Args:
        settings: the algorithm and its step sizes.
        performer: who trains and reports.
        rounded: what the run's codec makes of vectors (agents, dim); None where it keeps them.
        x: the models (agents, dim) of round `start`.
        state: what was kept when the round before ended; nothing for a fresh start.
        start: the first round.

    Raises:
        ConfigurationError: the algorithm is unknown.
    """

    def __init__(
        self,
        settings: AlgorithmSettings,
        performer: Performer,
        rounded: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None,
        x: Tensor,
        state: State | None = None,
        start: int = 1,
    ) -> None:
        self.state: State = {} if state is None else state
        self._step_size = step_schedule(settings.step_size, settings.step_decay)
        self._performer = performer
        self._rounded = rounded
        hyper = Hyper(
            self._step_size,
            given_or(settings.outer_step, OUTER_STEP),
            given_or(settings.outer_momentum, OUTER_MOMENTUM),
        )
        self._rounds = _loaded(settings.name)(x, hyper, self.state, start)
        self._begun = False

    def advance(self, answer: Tensor | Heard | None = None) -> Outgoing:
        """Answer the last exchange, None before the first, and go on to the next one."""
        effect = self._rounds.send(answer) if self._begun else next(self._rounds)
        self._begun = True
        while True:
            match effect:
                case LocalSteps(x, t):
                    step_size = self._step_size(t)
                    made = self._performer.local_steps(x, t, step_size, self.state)
                case Report(gradient, t):
                    made = self._performer.report(gradient, t, self.state)
                case Mass(t):
                    made = self._performer.mass(t)
                case Exchange(v, t, phase, attested) | Mix(v, t, phase, attested):
                    return Outgoing(t, phase, self._sent(v), attested, isinstance(effect, Mix))
            effect = self._rounds.send(made)

    def _sent(self, v: Tensor) -> Tensor:
        if self._rounded is None:
            return v
        return torch.from_numpy(self._rounded(v.cpu().numpy())).to(v.device)


def _loaded(name: str) -> AlgorithmFunction:
    """The algorithm of a name; a user's class is made without arguments."""
    found = load_object(entry_of(name).path, "algorithm")
    return cast(AlgorithmFunction, found() if isinstance(found, type) else found)
