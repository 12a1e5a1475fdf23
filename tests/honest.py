"""A small network whose agents state and sign what they do, for tests of evidence.

Weights, steps and reports are dyadic, so float32 loses nothing and what evidence shows is exactly
what was injected. Four agents on a ring; every neighbour weighs 1/4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.examiner import Examined, Examiner, Terms
from candor.mechanisms.evidence.statements import (
    Row,
    SignedStatement,
    Source,
    Statement,
    commitment,
)
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.schedules.weights import Round

RUN = bytes(range(32))
IDS = ("a0", "a1", "a2", "a3")
DIM, SKETCH, WINDOW, LAST_ROUND = 40, 8, 3, 1000
NEIGHBOURS = {agent: (IDS[i - 1], IDS[(i + 1) % 4]) for i, agent in enumerate(IDS)}
WEIGHTS = Round(
    {agent: dict.fromkeys(NEIGHBOURS[agent], 0.25) for agent in IDS},
    {agent: frozenset(NEIGHBOURS[agent]) for agent in IDS},
    dict.fromkeys(IDS, 1.0),
)
KEYS = {agent: SigningKey(sha256(agent.encode())) for agent in IDS}

Vector = NDArray[np.float32]


def make_terms(sketch_size: int = SKETCH, **changes: object) -> Terms:
    """The terms of the ring."""
    terms = Terms(
        run=RUN,
        dim=DIM,
        sketch_size=sketch_size,
        window_rounds=WINDOW,
        publics={agent: key.public for agent, key in KEYS.items()},
        weights=lambda _: WEIGHTS,
        step_size=lambda t: 0.5 if t < 3 else 0.25,
        initial=np.arange(DIM, dtype=np.float32) / 8,
        rounds=LAST_ROUND,
    )
    return replace(terms, **changes)


def report(agent: str, t: int) -> Vector:
    """An honest gradient: eighths, different for each agent and round."""
    generator = np.random.default_rng([IDS.index(agent), t])
    return generator.integers(-8, 9, DIM).astype(np.float32) / 8


def formed_by(row: Mapping[str, float]) -> Row:
    """What a statement says of a model that a row of the cluster file formed."""
    return Row(tuple(sorted(row.items())))


def sign(statement: Statement, agent: str | None = None) -> SignedStatement:
    """Signed by the agent it names, or by another."""
    return SignedStatement.sign(statement, KEYS[agent or statement.agent])


@dataclass
class Ring:
    """Plays rounds; `rows[t][i]` formed i's model of round t, `payloads[t][i]` is its y."""

    terms: Terms = field(default_factory=make_terms)
    scales: Mapping[str, float] = field(default_factory=dict)
    deaf: set[tuple[int, str]] = field(default_factory=set)  # (t, agent): mixes nobody's payload
    reentries: dict[tuple[int, str], str] = field(default_factory=dict)  # (t, agent): takes whose
    payloads: dict[int, dict[str, Vector]] = field(default_factory=dict)
    rows: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)
    signed: dict[int, dict[str, SignedStatement]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.examiner = Examiner(self.terms)
        self.rows[1] = {agent: {agent: 1.0} for agent in IDS}
        self._x = dict.fromkeys(IDS, self.terms.initial)
        self.mixed = {1: self._x}

    def play(self, rounds: int) -> "Ring":
        """Play up to and with a round."""
        for t in range(len(self.signed) + 1, rounds + 1):
            step = np.float32(self.terms.step_size(t))
            self.payloads[t] = {
                i: self._x[i] - step * np.float32(self.scales.get(i, 1)) * report(i, t) for i in IDS
            }
            self.signed[t] = {i: sign(self.state(t, i, self.payloads[t][i])) for i in IDS}
            self.rows[t + 1] = {i: self._row(t, i) for i in IDS}
            self._x = {i: self._mixed(t, self.rows[t + 1][i]) for i in IDS}
            self.mixed[t + 1] = self._x
        return self

    def state(self, t: int, agent: str, payload: Vector) -> Statement:
        """What an agent states of a payload of round t, its own or another."""
        stated = self.examiner.state(t, 0, agent, payload, [formed_by(self.rows[t][agent])])
        before = {(t - 1, 0, k): self.payloads[t - 1][k] for k in IDS} if t > 1 else {}
        stated = self.examiner.freshened(stated, payload, before)
        sources = (signed.body for signed in self.witnesses(t, agent).values())
        return replace(stated, sources=commitment(sources))

    def _row(self, t: int, agent: str) -> dict[str, float]:
        if (t, agent) in self.reentries:
            return {self.reentries[t, agent]: 1.0}
        if (t, agent) in self.deaf:
            return {agent: 1.0}
        return {agent: 0.5, **self.terms.weights(t).taken[agent]}

    def _mixed(self, t: int, row: Mapping[str, float]) -> Vector:
        parts = [np.float32(weight) * self.payloads[t][k] for k, weight in row.items()]
        return np.sum(parts, axis=0, dtype=np.float32)

    def witnesses(self, t: int, agent: str) -> dict[Source, SignedStatement]:
        """What an agent forwards with its update of round t."""
        return self.stated(t - 1, *sorted(self.rows[t][agent])) if t > 1 else {}

    def stated(self, t: int, *agents: str) -> dict[Source, SignedStatement]:
        """The statements of a round, of all agents or some, as sources."""
        return {(t, 0, k): self.signed[t][k] for k in agents or IDS}

    def examine(
        self,
        t: int,
        agent: str,
        *,
        signed: SignedStatement | None = None,
        payload: Vector | None = None,
        witnesses: Mapping[Source, SignedStatement] | None = None,
        trusted: Mapping[Source, SignedStatement] | None = None,
        held: Mapping[Source, Vector] = MappingProxyType({}),
    ) -> Examined:
        """Judge an agent's update of round t as it was sent, or with parts exchanged."""
        signed = self.signed[t][agent] if signed is None else signed
        self.examiner.examine_header(signed, agent)
        return self.examiner.examine(
            signed,
            self.payloads[t][agent] if payload is None else payload,
            self.witnesses(t, agent) if witnesses is None else witnesses,
            {} if trusted is None else trusted,
            held=held,
        )
