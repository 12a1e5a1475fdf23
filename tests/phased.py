"""The ring of `tests.honest` under algorithms whose rounds have several exchanges.

The agents perform the algorithm's own text, a row each; what they state of it is kept here by hand,
part by part, so that it does not stand on the book of the core.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

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
from candor.agent.algorithms.steps import Hyper
from candor.mechanisms.evidence.examiner import Examined, Examiner, Precision, Terms
from candor.mechanisms.evidence.phases import How, Part, Phases
from candor.mechanisms.evidence.statements import (
    Attested,
    Formed,
    Row,
    SignedStatement,
    Source,
    commitment,
)
from candor.network.codecs import FLOAT32, Codec
from candor.topologies.schedules.weights import own_weight
from tests.honest import IDS, Vector, formed_by, make_terms, report, sign

Text = Callable[[Tensor, Hyper, State], Rounds]
Place = tuple[int, int, str]
"""Round, phase and agent."""


def phased_terms(phases: Phases, codec: Codec = FLOAT32, **changes: object) -> Terms:
    """The terms of the ring for rounds of these exchanges, sent in a codec."""
    precision = Precision(codec.name, codec.relative, codec.absolute)
    return make_terms(phases=phases, precision=precision, **changes)


@dataclass
class PhasedRing:
    """Plays rounds; of every place the vector as it decodes and its signed statement.

    `deaf` are the exchanges in which an agent hears nobody; after a round in `reentries` it takes a
    neighbour's model and starts its own state anew. `reports` are the gradients (dim,).
    """

    text: Text
    terms: Terms
    codec: Codec = FLOAT32
    reports: Callable[[str, int], Vector] = report
    deaf: frozenset[Place] = frozenset()
    reentries: Mapping[tuple[int, str], str] = field(default_factory=dict)
    payloads: dict[Place, Vector] = field(default_factory=dict)
    signed: dict[Place, SignedStatement] = field(default_factory=dict)
    rows: dict[Place, dict[str, float]] = field(default_factory=dict)
    attested: dict[Place, Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.examiner = Examiner(self.terms)
        self.phases = self.terms.phases
        self._state: State = {}
        x = torch.from_numpy(np.stack([self.terms.initial] * len(IDS)))
        hyper = Hyper(self.terms.step_size, policy_exchanges=self.phases.count - 1)
        self._steps = self.text(x, hyper, self._state)
        self._asked = next(self._steps)

    def play(self, rounds: int) -> "PhasedRing":
        """Play up to and with a round."""
        while True:
            match self._asked:
                case LocalSteps(_, t) | PolicyGradient(_, t):
                    if t > rounds:
                        return self
                    answer: Tensor | Heard = self._stack(lambda i, t=t: self.reports(i, t))
                case Report(gradient, _):
                    answer = gradient
                case Mass(t):
                    answer = torch.ones(len(IDS), 1)
                case Exchange() | Mix() as exchange:
                    answer = self._exchanged(exchange)
            self._asked = self._steps.send(answer)

    def _exchanged(self, asked: Exchange | Mix) -> Tensor | Heard:
        t, phase = asked.t, asked.phase
        for i, agent in enumerate(IDS):
            if asked.attested is not None:
                self.attested[t, phase, agent] = asked.attested[i].numpy().copy()
            self.payloads[t, phase, agent] = self.codec.rounded(asked.v[i].numpy().copy())
        for agent in IDS:
            self.signed[t, phase, agent] = self.state(t, phase, agent)
        for agent in IDS:
            self.rows[t, phase, agent] = self._row(t, phase, agent)
        if phase == self.phases.model:
            self._reenter(t)
        if isinstance(asked, Mix):
            return self._stack(lambda i: self._mixed(t, phase, i))
        return self._heard(t, phase)

    def state(
        self, t: int, phase: int, agent: str, payload: Vector | None = None
    ) -> SignedStatement:
        """What an agent states of its vector, or of another, with what it commits to."""
        payload = self.payloads[t, phase, agent] if payload is None else payload
        formed = self.formed(t, phase, agent)
        said = self.examiner.state(t, phase, agent, payload, formed)
        bodies = (source.body for source in self._sources(t, phase, formed).values())
        return sign(replace(said, sources=commitment(bodies)))

    def formed(self, t: int, phase: int, agent: str) -> tuple[Formed, ...]:
        """How an agent's vector came about."""
        parts = self.phases.phases[phase].parts
        return tuple(self._formed(t, phase, agent, part) for part in parts)

    def _formed(self, t: int, phase: int, agent: str, part: Part) -> Formed:
        own = formed_by({agent: 1.0})
        row = self.rows.get((t - part.before, part.phase, agent), {})
        match part.how:
            case How.OWN:
                return own
            case How.AGGREGATE:
                sketch = self.examiner.attested(t, self.attested[t, phase, agent])
                return Attested(part.rule, tuple(sorted(row.keys() - {agent})), sketch)
            case How.MIXED if t == 1 and part.before:
                return own if part.phase == self.phases.model else Row(())
            case How.MIXED:
                reentered = row and agent not in row
                return replace(formed_by(row), rule="" if reentered or not row else part.rule)

    def _row(self, t: int, phase: int, agent: str) -> dict[str, float]:
        heard = {} if (t, phase, agent) in self.deaf else dict(self.terms.weights(t).taken[agent])
        weights = dict(sorted((heard | {agent: own_weight(heard)}).items()))
        rule = self.phases.row_rule(phase)
        if not rule:
            return weights
        said = {k: self.signed[t, phase, k].statement for k in weights}
        sketches = {k: np.frombuffer(one.sketch, "<f8") for k, one in said.items()}
        return self.phases.rows[rule](agent, t, weights, sketches)

    def _reenter(self, t: int) -> None:
        """Let agents take a neighbour's model; nothing is left of what they had of this round."""
        for (of_round, agent), peer in self.reentries.items():
            if of_round != t:
                continue
            for phase in range(self.phases.model):
                self.rows.pop((t, phase, agent), None)
            self.rows[t, self.phases.model, agent] = {peer: 1.0}
            for name, kept in self._state.items():
                self._state[name] = kept.clone()
                self._state[name][IDS.index(agent)] = 0.0

    def _mixed(self, t: int, phase: int, agent: str) -> Vector:
        row = self.rows[t, phase, agent]
        parts = [np.float32(w) * self.payloads[t, phase, k] for k, w in sorted(row.items())]
        return np.sum(parts, axis=0, dtype=np.float32)

    def _heard(self, t: int, phase: int) -> Heard:
        vectors, present = [], []
        for agent in IDS:
            givers = sorted(self.terms.weights(t).taken[agent])
            vectors.append(np.stack([self.payloads[t, phase, k] for k in givers]))
            present.append([k in self.rows[t, phase, agent] for k in givers])
        own = self._stack(lambda i: self.payloads[t, phase, i])
        return Heard(torch.from_numpy(np.stack(vectors)), torch.tensor(present), own)

    def _stack(self, of: Callable[[str], Vector]) -> Tensor:
        return torch.from_numpy(np.stack([of(agent) for agent in IDS]))

    def _sources(
        self, t: int, phase: int, formed: tuple[Formed, ...]
    ) -> dict[Source, SignedStatement]:
        found: dict[Source, SignedStatement] = {}
        for part, how in zip(self.phases.phases[phase].parts, formed, strict=True):
            if isinstance(how, Row) and t > part.before:
                for agent, _ in how.weights:
                    place = t - part.before, part.phase, agent
                    found[place] = self.signed[place]
        return found

    def witnesses(self, t: int, phase: int, agent: str) -> dict[Source, SignedStatement]:
        """What an agent forwards with its vector."""
        return self._sources(t, phase, self.signed[t, phase, agent].statement.formed)

    def examine(
        self,
        t: int,
        phase: int,
        agent: str,
        *,
        signed: SignedStatement | None = None,
        payload: Vector | None = None,
        witnesses: Mapping[Source, SignedStatement] | None = None,
    ) -> Examined:
        """Judge an agent's update as it was sent, or with parts exchanged."""
        signed = self.signed[t, phase, agent] if signed is None else signed
        self.examiner.examine_header(signed, agent)
        return self.examiner.examine(
            signed,
            self.payloads[t, phase, agent] if payload is None else payload,
            self.witnesses(t, phase, agent) if witnesses is None else witnesses,
            {},
        )
