"""A modified client that tells each neighbour another story: for attacks that a strategy asks for.

An honest agent states one vector an exchange. Here each neighbour is told of another one, by a
statement of its own, signed like any other, and consistent with what that neighbour was told
before: rows are derived anew of it, and it is forwarded as a witness of the next exchange. Nothing
that a neighbour sees by itself gives the lie away; the heads of the statements, which travel, do.
Where models are traded there is one statement, and each neighbour is sent another vector under it.
The core makes none of this unless a driver hands it vectors apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from candor.agent.core.held import Held
from candor.agent.core.settlement.evidence_book import EvidenceBook
from candor.mechanisms.evidence.phases import Part
from candor.mechanisms.evidence.statements import (
    PAYLOAD_DOMAIN,
    Formed,
    Row,
    SignedStatement,
    Source,
    Statement,
    commitment,
    named_sources,
    place_of,
)
from candor.topologies.encoding.signatures import SigningKey

if TYPE_CHECKING:
    from torch import Tensor

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Face:
    """What one neighbour is told of an exchange: the vector (dim,), and the statement of it; None
    where models are traded: there it goes with the one statement, as if it were what that says."""

    payload: Vector
    statement: Statement | None


@dataclass(frozen=True, slots=True)
class SignedFace:
    """The same, signed, with the statements that go with it."""

    signed: SignedStatement
    witnesses: tuple[SignedStatement, ...]
    payload: Vector
    payload_signature: bytes

    @classmethod
    def of(
        cls,
        signed: SignedStatement,
        witnesses: Sequence[SignedStatement],
        payload: Vector,
        key: SigningKey,
        digest: bytes | None = None,
    ) -> Self:
        """With a signature of the payload that is stated, which is not hashed anew: what breaks on
        its way out of an honest agent's memory is refused, and proves nothing. Or of another, whose
        `digest` it is."""
        sending = signed.sending(signed.statement.digest if digest is None else digest)
        return cls(signed, tuple(witnesses), payload, key.sign(PAYLOAD_DOMAIN, sending))


def told_apart(vectors: "Tensor", peers: Sequence[str]) -> dict[str, Vector]:
    """What each of `peers`, in order of id, is sent of vectors (peers, dim)."""
    rows = vectors.cpu().contiguous().numpy()
    found = {peer: row.copy() for peer, row in zip(peers, rows, strict=True)}
    for row in found.values():
        row.flags.writeable = False
    return found


class Faces:
    """What agent `book.agent` has told each neighbour apart, in the exchanges that are kept."""

    def __init__(self, book: EvidenceBook, key: SigningKey, held: Held) -> None:
        self._book = book
        self._key = key
        self._held = held
        self._told: dict[str, dict[Source, SignedStatement]] = {}
        self._given: dict[str, dict[Source, Vector]] = {}

    def faces(self, step: int, vectors: Mapping[str, Vector], attested: bytes) -> dict[str, Face]:
        """What the neighbours of `vectors` (dim,) are to be told of a step; `attested` is the
        sketch of the aggregate that all of them were stepped from. Changes nothing."""
        number, phase = self._book.phases.at(step)
        examiner, agent = self._book.examiner, self._book.agent
        if examiner.terms.trade is not None:
            return {peer: Face(payload, None) for peer, payload in vectors.items()}
        formed = self._book.formed(step, attested)
        parts = self._book.phases.phases[phase].parts
        faces = {}
        for peer, payload in vectors.items():
            as_told = [
                self._as_told(peer, number, part, one)
                for part, one in zip(parts, formed, strict=True)
            ]
            sat_out = self._book.sat_out(step)
            said = examiner.state(number, phase, agent, payload, as_told, sat_out)
            said = examiner.bounded(said, self._sources(peer, said))
            known = dict(self._held.vectors) | self._given.get(peer, {})
            faces[peer] = Face(payload, examiner.freshened(said, payload, known))
        return faces

    def sign(self, peer: str, face: Face, own: SignedFace) -> SignedFace:
        """The statement of a face, signed, and remembered as what this neighbour was told; or the
        `own` one with another payload."""
        if face.statement is None:
            digest = self._book.examiner.digest(face.payload)
            return SignedFace.of(own.signed, own.witnesses, face.payload, self._key, digest)
        told = self._told.setdefault(peer, {})
        witnesses = tuple(self._sources(peer, face.statement).values())
        digest = commitment(witness.body for witness in witnesses)
        signed = SignedStatement.sign(replace(face.statement, sources=digest), self._key)
        told[place_of(signed.statement)] = signed
        given = self._given.setdefault(peer, {})
        given[place_of(signed.statement)] = face.payload
        for kept in (told, given):
            while len(kept) > self._book.steps_kept:
                del kept[next(iter(kept))]
        return SignedFace.of(signed, witnesses, face.payload, self._key)

    def _sources(self, peer: str, said: Statement) -> dict[Source, SignedStatement]:
        """The statements that the rows of one name, this agent's own as a neighbour was told it."""
        told = self._told.get(peer, {})
        trusted = self._book.trusted(named_sources(said, self._book.phases))
        return {source: told.get(source, signed) for source, signed in trusted.items()}

    def _as_told(self, peer: str, number: int, part: Part, formed: Formed) -> Formed:
        """A derived row as it follows from what a neighbour was told of this agent's own vector."""
        if not isinstance(formed, Row) or not formed.rule:
            return formed
        agent, told = self._book.agent, self._told.get(peer, {})
        of_round = number - part.before
        places = [(of_round, part.phase, k) for k, _ in formed.weights]
        stated = {
            place[2]: told.get(place, signed).statement
            for place, signed in self._book.trusted(places).items()
        }
        row = self._book.examiner.derived_row(agent, of_round, formed.rule, stated)
        return Row(tuple(sorted(row.items())), formed.rule)
