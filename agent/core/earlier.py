"""What an earlier life of an agent left of its rounds, and whether this one can go on from there.

An agent that was killed has stated a vector that its neighbours may have, and may never state
another one of that exchange. With the snapshot that it wrote before it sent its last statement it
knows which that was, and goes on with the window under way. With the vector itself it sends the
very bytes again and goes on inside the exchange, so that all agents of a run may die at once. With
the vector of an earlier exchange it goes on after the last one from there; the way back is an
update like any other, and is billed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candor.agent.core.faces import SignedFace
from candor.agent.core.settlement.evidence_book import SEEN_BYTES_MAX, EvidenceBook
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.evidence.phases import How
from candor.mechanisms.evidence.sketch import last_of_window
from candor.mechanisms.evidence.statements import SignedStatement, commitment
from candor.topologies.encoding.canonical import MalformedError, Value, unpack
from candor.topologies.encoding.signatures import SigningKey


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a daemon has kept of its training: the vector (dim,) that it stated at a step."""

    step: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the last `Remember` of an earlier life left: the evidence book's window, what that life
    had of its neighbours' own hands, and the exchange that it was in, which old files lack."""

    seen: bytes
    memories: tuple[bytes, ...]
    exchange: Value = None

    @classmethod
    def decode(cls, data: bytes) -> "Snapshot":
        """Read one.

        Raises:
            MalformedError: our own file is damaged.
        """
        match unpack(data, bytes_max=4 * SEEN_BYTES_MAX):
            case [bytes(seen), [*memories], *exchange] if len(exchange) <= 1:
                signed = tuple(memory for memory in memories if isinstance(memory, bytes))
                return cls(seen, signed, *exchange)
        raise MalformedError("not a snapshot")


@dataclass(frozen=True, slots=True)
class Earlier:
    """The last exchange that an earlier life has stated, and its round: nothing up to it is stated
    anew. `own` is what it sent, if its vector is there; `goes_back`: the vector of an earlier
    exchange is, and the algorithm allows to go on from that. `closed`: with it the membership has
    ended, so that nobody mixes it any more; `own` is gone on from as it was stated."""

    step: int
    round: int
    own: SignedFace | None = None
    goes_back: bool = False
    closed: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether the agent can go on by itself."""
        return self.own is not None or self.goes_back


def earlier(
    book: EvidenceBook,
    signed: SignedStatement,
    kept: Checkpoint | None,
    key: SigningKey,
    *,
    claimed: bool,
    after: int = 0,
) -> Earlier | None:
    """What can be gone on with after the statement `signed`, the last that this agent knows of,
    whose exchange the book has taken back; None where the checkpoint shows a later one, or where
    more of a window would be stated that is `claimed`. `after`: the last round of the membership
    before this one."""
    said, terms = signed.statement, book.examiner.terms
    step = book.step_of(said)
    ends = min(terms.rounds, last_of_window(said.round, terms.window_rounds))
    if claimed and (said.round, said.phase) != (ends, terms.phases.model):
        return None
    if kept is None:
        return Earlier(step, said.round)
    if kept.step > step:
        return None
    if kept.step < step:
        return Earlier(step, said.round, goes_back=may_go_back(terms))
    witnesses = book.witnesses(said)
    if not _is_of(signed, kept, book, (one.body for one in witnesses)):
        return Earlier(step, said.round)
    face = SignedFace.of(signed, witnesses, kept.vector, key)
    return Earlier(step, said.round, face, closed=said.round == after)


def may_go_back(terms: RunTerms) -> bool:
    """Whether an agent may go on from an earlier vector of its own: where a round has one exchange,
    of models that are mixed by the cluster file's weights, nothing bounds an update, and nobody is
    to be shown the vector that is gone, as by fresh sketches."""
    phases = terms.phases
    parts = [part for phase in phases.phases for part in phase.parts]
    plain = all(part.how is How.MIXED and not part.rule for part in parts)
    told = terms.trade is None and terms.limit is None and terms.fresh is None
    return phases.count == 1 and plain and told


def _is_of(
    signed: SignedStatement, kept: Checkpoint, book: EvidenceBook, sources: Iterable[bytes]
) -> bool:
    """Whether a vector, with the sources that are held, is what was stated."""
    said = signed.statement
    if len(kept.vector) != said.dim or commitment(sources) != said.sources:
        return False
    return book.examiner.digest(kept.vector) == said.digest
