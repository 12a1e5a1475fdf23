"""Performs an algorithm's effects, from one exchange to the next: the one text for all runtimes.

What stays on the host (local steps, reports, masses) a `Performer` does; what needs neighbours is
handed to the runtime and answered by it. The daemon has one row, a simulation all, lockstep made-up
gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.catalogue import aggregator_of, batches_of, entry_of, phases_of
from candor.agent.algorithms.effects import (
    Exchange,
    Heard,
    LocalSteps,
    Mass,
    Mix,
    PolicyGradient,
    Report,
    Rounds,
    State,
)
from candor.agent.algorithms.steps import (
    OUTER_MOMENTUM,
    OUTER_STEP,
    Hyper,
    always,
    given_or,
    step_schedule,
)
from candor.mechanisms.agreement.coin import Coin
from candor.mechanisms.evidence.phases import How
from candor.topologies.cluster.file import POLICY_ALGORITHMS, PUBLISHED, AlgorithmSettings
from candor.topologies.specs.specs import load_object

INJECTED: Final = "injected"  # in the state: (agents, dim) float64, in this window, if bounded


class AlgorithmFunction(Protocol):
    """Starts an algorithm from x (agents, dim) and a state at round `start`."""

    def __call__(self, x: Tensor, hyper: Hyper, state: State, start: int = 1) -> Rounds: ...


class Performer(Protocol):
    """What agents do on their own between exchanges; `state` is theirs to keep things in."""

    def local_steps(self, x: Tensor, t: int, step_size: float, state: State) -> Tensor:
        """The pseudo-gradients (agents, dim) of round t from x (agents, dim)."""
        ...

    def policy_gradient(
        self, x: Tensor, t: int, count: int, before: Tensor | None
    ) -> Tensor | None:
        """The estimates (agents, dim) of `PolicyGradient` in round t, of so many trajectories of
        each policy of x (agents, dim); None where the round is sat out.

        Raises:
            ConfigurationError: the task has no environment to sample.
        """
        ...

    def report(self, gradient: Tensor, t: int, state: State) -> Tensor:
        """What the agents report of their gradients (agents, dim)."""
        ...

    def mass(self, t: int) -> Tensor:
        """The agents' masses of round t, (agents, 1)."""
        ...

    def sent(self, v: Tensor, t: int, phase: int) -> tuple[Tensor, Mapping[int, Tensor]]:
        """What the agents send in a phase of round t in place of v (agents, dim); honest ones v. By
        row, of those who send each of their neighbours another vector, in order of id, these:
        (neighbours, dim)."""
        ...

    def losses_of(self, vectors: Tensor, t: int) -> Tensor:
        """The losses (agents, vectors) of vectors (agents, vectors, dim) on their agent's own data
        of round t, for aggregators that filter by loss."""
        ...


@runtime_checkable
class Overhears(Protocol):
    """A performer some of whose agents go by what their neighbours sent before."""

    @property
    def overhears(self) -> Sequence[int]:
        """The rows of these."""
        ...

    def overheard(self, phase: int, heard: Mapping[int, Tensor]) -> None:
        """What these heard in an exchange that is over, by row: first what the agent sent itself,
        then what its neighbours did, in order of id (1 + n, dim), zeros where they did not give all
        of a model."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An exchange to perform: `vectors` (agents, dim) as the codec decodes them. With `mixes` the
    answer is the mixed vectors (agents, dim), else what was `Heard`. Agents by row in `apart` send
    each of their neighbours another vector: (neighbours, dim), in order of id."""

    round: int
    phase: int
    vectors: Tensor
    attested: Tensor | None
    mixes: bool
    apart: Mapping[int, Tensor] = field(default_factory=dict)


class Driver:
    """An algorithm under way. `moves` is in how many exchanges of the round so far averaging moved
    each agent's policy (agents,); None of algorithms that average no policies.

    Args:
        settings: the algorithm and its step sizes.
        performer: who trains and reports.
        rounded: what the run's codec makes of vectors (agents, dim); None where it keeps them.
        x: the models (agents, dim) of round `start`.
        state: what was kept when the round before ended; nothing for a fresh start.
        start: the first round.
        coin: the run's common coin, which some algorithms switch by; None where the run has none.
        carries: whether the pseudo-gradient of the last local steps is kept, as `gradient`, to be
            carried over to a later round.
        carried: such a one (agents, dim), from an earlier round: it stands for the first local
            steps, which then are not done.

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
        coin: Coin | None = None,
        *,
        carries: bool = False,
        carried: Tensor | None = None,
    ) -> None:
        self.gradient: Tensor | None = None
        self._carries, self._carried = carries, carried
        self.state: State = {} if state is None else state
        self._step_size = step_schedule(settings.step_size, settings.step_decay)
        self._performer = performer
        self._rounded = rounded
        self._phases, aggregator = phases_of(settings), aggregator_of(settings)
        hyper = Hyper(
            self._step_size,
            given_or(settings.outer_step, OUTER_STEP),
            given_or(settings.outer_momentum, OUTER_MOMENTUM),
            coin or always,
            *batches_of(settings),
            self._phases.count - 1,
            settings.estimator == PUBLISHED,
        )
        attests = aggregator is not None and aggregator.row is None
        self._aggregate = (
            aggregator.load(lambda vectors: performer.losses_of(vectors, self._round))
            if aggregator is not None and attests
            else None
        )
        parts = [part for phase in self._phases.phases for part in phase.parts]
        self._aggregated = {part.phase for part in parts if part.how is How.AGGREGATE}
        # By phase, what its last vectors were combined to; the model is what everyone starts from.
        self._combined: dict[int, Tensor] = {self._phases.model: x}
        self._altered: dict[int, Tensor] = {}  # by phase, what was sent less what the text has
        self._round = start
        self._mixing: int | None = None  # the phase whose vectors the aggregator is to combine
        self._agreeing: Tensor | None = None  # policies (agents, dim) that are being averaged
        averages = settings.name in POLICY_ALGORITHMS
        self.moves = torch.zeros(len(x), dtype=torch.int64, device=x.device) if averages else None
        self._text, self._hyper = _loaded(settings.name), hyper
        self._rounds = self._text(x, hyper, self.state, start)
        self._base = x  # (agents, dim), what the last exchange was mixed to
        self._begun = False
        self._trained: State = {}  # the state when the last local steps were done

    def combined(self, answer: Tensor | Heard) -> Tensor | Heard:
        """What an exchange comes to: what was heard, put together by the run's aggregator where the
        algorithm asked for one vector. To be called before `advance`."""
        if self.moves is not None and self._agreeing is not None and isinstance(answer, Tensor):
            self.moves = self.moves + (answer != self._agreeing).any(dim=1)
        if self._mixing is None or self._aggregate is None or not isinstance(answer, Heard):
            return answer
        self._combined[self._mixing] = made = self.aggregated(answer)
        return made

    def mixes(self, phase: int) -> bool:
        """Whether what a `Mix` of a phase asks for is a weighted sum, not the run's aggregator."""
        return self._aggregate is None or phase not in self._aggregated

    def aggregated(self, heard: Heard) -> Tensor:
        """What the run's aggregator makes of what was heard, (agents, dim)."""
        assert self._aggregate is not None
        return self._aggregate(heard.vectors, heard.present, heard.own)

    def advance(self, answer: Tensor | Heard | None = None) -> Outgoing:
        """Answer the last exchange, None before the first, and go on to the next one."""
        if isinstance(answer, Tensor):
            self._base = answer
        effect = self._rounds.send(answer) if self._begun else next(self._rounds)
        self._begun = True
        made: Tensor | None
        while True:
            match effect:
                case LocalSteps(x, t):
                    made = self._local_steps(x, t)
                case PolicyGradient(x, t, count, before):
                    made = self._performer.policy_gradient(x, t, count, before)
                case Report(gradient, t):
                    made = self._performer.report(gradient, t, self.state)
                case Mass(t):
                    made = self._performer.mass(t)
                case Exchange(v, t, phase, attested) | Mix(v, t, phase, attested):
                    sums = isinstance(effect, Mix) and self.mixes(phase)
                    self._mixing = phase if isinstance(effect, Mix) else None
                    if attested is None:
                        attested = self._attested(v, phase)
                    sent, others = self._sent(v, t, phase)
                    apart = {row: self._decoded(each) for row, each in others.items()}
                    vectors = self._decoded(sent)
                    if self.moves is not None and phase == self._phases.charged:
                        self.moves = torch.zeros_like(self.moves)
                    self._round = t
                    self._agreeing = vectors if phase > self._phases.charged else None
                    return Outgoing(t, phase, vectors, attested, sums, apart)
            effect = self._rounds.send(made)

    def later(self, t: int) -> Outgoing:
        """The exchange under way as one of a later round t, of an algorithm with one a round that
        carries its gradients: what was trained is stepped from the same model by the step size of
        t, as if the rounds between had not been."""
        self.state.clear()
        self.state.update(self._trained)
        self._carried = self.gradient
        self._rounds, self._begun = self._text(self._base, self._hyper, self.state, t), False
        return self.advance()

    def _local_steps(self, x: Tensor, t: int) -> Tensor:
        made, self._carried = self._carried, None
        if made is None:
            made = self._performer.local_steps(x, t, self._step_size(t), self.state)
        self.gradient = made if self._carries else None
        self._trained = dict(self.state) if self._carries else {}
        return made

    def within(self, out: Outgoing, kept: Sequence[float], *, opens: bool) -> Outgoing:
        """An exchange of which all send no more than their bounds let them: so much that of the sum
        of what each has injected in the window, times its steps, the share `kept` (agents,) is
        left. Where that is 1 nothing is changed. To be called in every round of a run with a bound;
        `opens`: the round is the first of its window.

        With d the sum before and q the mass, y becomes x - (kept (d + q (x - y)) - d) / q, in
        binary64: sums of what is long would else leave more behind than short updates are.
        """
        mass, base, said = map(_exact, (self._performer.mass(out.round), self._base, out.vectors))
        still = torch.zeros_like(base)
        before = still if opens else self.state.get(INJECTED, still)
        after = before + mass * (base - said)
        shares = torch.tensor(kept, dtype=torch.float64)[:, None]  # (agents, 1)
        short = shares < 1.0
        if bool(short.any()):
            sent = (base - (shares * after - before) / mass).to(out.vectors)
            vectors = torch.where(short.to(out.vectors.device), self._decoded(sent), out.vectors)
            after = before + mass * (base - _exact(vectors))
            out = replace(out, vectors=vectors)
        self.state[INJECTED] = after
        return out

    def _sent(self, v: Tensor, t: int, phase: int) -> tuple[Tensor, Mapping[int, Tensor]]:
        """What the agents send of v; who sent something else in an earlier phase of the round is
        consistent, as its neighbours refuse what does not follow from what it stated."""
        told = v
        for part in self._phases.phases[phase].parts:
            if part.how is How.OWN and part.phase in self._altered:
                factor = -self._step_size(t) if part.stepped else 1.0
                told = told.add(self._altered[part.phase], alpha=factor)
        sent, apart = self._performer.sent(told, t, phase)
        self._altered.pop(phase, None)
        if sent is not v:
            self._altered[phase] = sent - v
        return sent, apart

    def _attested(self, v: Tensor, phase: int) -> Tensor | None:
        """What the run's aggregator made, if the vectors of a phase are stepped from that."""
        if self._aggregate is None:
            return None
        for part in self._phases.phases[phase].parts:
            if part.how is How.AGGREGATE:
                return self._combined.get(part.phase, torch.zeros_like(v))
        return None

    def _decoded(self, v: Tensor) -> Tensor:
        """Vectors as those who receive them decode them."""
        if self._rounded is None:
            return v
        return torch.from_numpy(self._rounded(v.cpu().numpy())).to(v.device)


def _exact(values: Tensor) -> Tensor:
    """Values in binary64, which not every device has."""
    return values.cpu().double()


def _loaded(name: str) -> AlgorithmFunction:
    """The algorithm of a name; a user's class is made without arguments."""
    found = load_object(entry_of(name).path, "algorithm")
    return cast(AlgorithmFunction, found() if isinstance(found, type) else found)
