"""Evidence objects: signed things of one agent that cannot be, or not both, checkable by anyone.

    proof = pack([1, kind, agent, [body, signature], [body, signature]])
    proof = pack([1, "other-payload", agent, statement, [sending, signature]])
    proof = pack([1, "contradictory-claim", agent, claim, statement, [source, …]])
    proof = pack([1, kind, agent, statement, [source, …]])  of the kinds `OF_ONE`

A third party needs the proof and the cluster file, nothing else. `malice` is what no honest agent
can do, whatever crashes: it persists before it sends. What a restored backup can do as well is
told apart and is no guilt. Pure functions of bytes.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.examiner import (
    INFLUENCE,
    MIXING_ROW,
    NOT_AS_FORMED,
    TRACE_TOLERANCE,
    FormedError,
    PayloadError,
    RunTerms,
    allowed_energy,
    check_energy,
    check_fresh_there,
    check_influence_there,
    check_trace,
    check_whole,
    energy,
    examine_derived,
    examine_influence,
    examine_injected,
    examine_parts,
    formed_parts,
    fresh_energy,
    injected_after,
    rounding_energy,
)
from candor.mechanisms.evidence.ratings import (
    RATING,
    check_given,
    check_ratings,
    check_stated_trace,
)
from candor.mechanisms.evidence.sketch import TraceFold, window_of
from candor.mechanisms.evidence.statements import (
    HEAD_BYTES_MAX,
    ID_CHARS_MAX,
    PAYLOAD_DOMAIN,
    EvidenceError,
    Floats,
    Head,
    Row,
    SignedStatement,
    Source,
    Statement,
    commitment,
    named_sources,
    place_of,
)
from candor.mechanisms.ledger.bodies import Body
from candor.mechanisms.ledger.records import verify_proposal
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.encoding.canonical import MalformedError, Value, is_name, pack, unpack
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, verify

PROOF_VERSION: Final = 1
PROOF_BYTES_MAX: Final = 2**21 - 2**12  # fits one message, whatever else that holds

EQUIVOCATION: Final = "equivocation"
DOUBLE_SIGNED: Final = "double-signed"
CONFLICTING: Final = "conflicting-proposal"
TWO_CLAIMS: Final = "two-claims"
TWO_BILLS: Final = "two-bills"
CONTRADICTORY: Final = "contradictory-claim"
WRONG_ROW: Final = "wrong-row"
OTHER_PAYLOAD: Final = "other-payload"
FALSE_RATING: Final = "false-rating"
OF_ONE: Final = (WRONG_ROW, NOT_AS_FORMED, INFLUENCE, FALSE_RATING)
"""The kinds that are proven by one statement and what it commits to."""
MALICE: Final = (EQUIVOCATION, DOUBLE_SIGNED, WRONG_ROW, OTHER_PAYLOAD, FALSE_RATING, INFLUENCE)

Signed = tuple[bytes, bytes]
"""A body and its signature."""
NOTHING: Final[Signed] = (b"", b"")


class ProofError(ValueError):
    """A proof that does not hold: one line that says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proof shows: `place` is the round, window or record; `malice` is False for what a
    restored backup explains as well, or for `not-as-formed` what others hid from sketches."""

    kind: str
    agent: str
    place: str
    malice: bool

    def __str__(self) -> str:
        excuse = "what others hid" if self.kind == NOT_AS_FORMED else "a restored backup"
        what = "guilty" if self.malice else f"malice or {excuse}, no guilt"
        return f"{self.agent}: {self.kind} in {self.place}: {what}"


@dataclass(frozen=True, slots=True)
class Proof:
    """Two signed bodies of one agent, or one and `NOTHING` of the kinds `OF_ONE`: a statement.

    Of a contradictory claim `first` is the claim and `second` a statement; `sources` are the bodies
    that the statement commits to, where the proof is about what they show. Of another payload
    `first` is the statement and `second` what was signed of the payload.
    """

    kind: str
    agent: str
    first: Signed
    second: Signed
    sources: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The canonical bytes; two bodies of one sort give the same proof in either order."""
        head: list[Value] = [PROOF_VERSION, self.kind, self.agent]
        if self.kind == CONTRADICTORY:
            return pack([*head, self.first, self.second, self.sources])
        if self.kind in OF_ONE:
            return pack([*head, self.first, self.sources])
        if self.kind == OTHER_PAYLOAD:
            return pack([*head, self.first, self.second])
        return pack([*head, *sorted((self.first, self.second))])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            MalformedError: another layout, kind or order, or too long.
        """
        match unpack(data, bytes_max=PROOF_BYTES_MAX):
            case [_, str(kind), str(agent), *rest] if kind in _CHECKS and is_name(
                agent, ID_CHARS_MAX
            ):
                count = 1 if kind in OF_ONE else 2
                signed = [_signed_of(part) for part in rest[:count]]
                one, two, *_ = *signed, NOTHING, NOTHING
                proof = cls(kind, agent, one, two, _bodies_of(rest[count:]))
                if proof.encode() == data:  # which settles version and order
                    return proof
        raise MalformedError("not a proof of this version")


def _signed_of(part: Value) -> Signed:
    match part:
        case [bytes(body), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
            return body, signature
    raise MalformedError("not a signed body")


def _bodies_of(rest: list[Value]) -> tuple[bytes, ...]:
    """The sources of a statement; nothing for what is none, and then not canonical."""
    match rest:
        case [[*bodies]]:
            return tuple(body for body in bodies if isinstance(body, bytes))
        case _:
            return ()


def verify_proof(proof: Proof, terms: RunTerms) -> Verdict:
    """Judge a proof by the cluster file alone.

    Raises:
        ProofError: it does not show what it says.
        MalformedError: one of its bodies does not decode.
    """
    public = terms.publics.get(proof.agent)
    if public is None:
        raise ProofError(f"no public key of {proof.agent} is known")
    if proof.first[0] == proof.second[0]:
        raise ProofError("the two bodies are the same")
    place = _CHECKS[proof.kind](proof, public, terms)
    return Verdict(proof.kind, proof.agent, place, proof.kind in MALICE)


def _heads(proof: Proof, public: bytes, terms: RunTerms) -> str:
    one, two = Head.decode(*proof.first), Head.decode(*proof.second)
    _both(one.verify(public), two.verify(public), proof.agent)
    _same((one.run, *place_of(one), one.agent), (two.run, *place_of(two), proof.agent))
    _of_run(one.run, terms)
    return f"round {one.round}"


def _payload(proof: Proof, public: bytes, terms: RunTerms) -> str:
    """What was signed of a payload names the statement that went with it, so that no other one,
    of another life or for another neighbour, can stand beside it."""
    signed = SignedStatement.decode(*proof.first, sketch_bytes_max=terms.sketch_bytes)
    said, (sending, signature) = signed.statement, proof.second
    of_payload = verify(public, signature, PAYLOAD_DOMAIN, sending)
    _both(said.agent == proof.agent and signed.verify(public), of_payload, proof.agent)
    _of_run(said.run, terms)
    match unpack(sending, bytes_max=HEAD_BYTES_MAX):
        case [bytes(statement), bytes(digest)] if len(digest) == len(said.digest):
            if statement != signed.head.digest:
                raise ProofError("the payload went with another statement")
            if digest != said.digest:
                return f"round {said.round}"
    raise ProofError("the payload is the one stated")


def _claims(proof: Proof, public: bytes, terms: RunTerms) -> str:
    one, two = SignedClaim(*proof.first), SignedClaim(*proof.second)
    _both(one.verify(public), two.verify(public), proof.agent)
    a, b = one.claim(), two.claim()
    _same((a.run, a.window, a.agent), (b.run, b.window, proof.agent))
    _of_run(a.run, terms)
    return f"window {a.window}"


def _bills(proof: Proof, public: bytes, terms: RunTerms) -> str:
    one, two = SignedBill(*proof.first, ()), SignedBill(*proof.second, ())
    _both(one.verify(public), two.verify(public), proof.agent)
    a, b = one.bill(), two.bill()
    _same((a.run, a.window, a.referee), (b.run, b.window, proof.agent))
    _of_run(a.run, terms)
    return f"window {a.window}"


def _contradiction(proof: Proof, public: bytes, terms: RunTerms) -> str:
    """Only what the agent signed itself counts: its claim, its statement, and what that commits to.

    A statement of another agent alone would prove nothing: its author may have signed two.
    """
    signed_claim = SignedClaim(*proof.first)
    signed = SignedStatement.decode(*proof.second, sketch_bytes_max=terms.sketch_bytes)
    _both(signed_claim.verify(public), signed.verify(public), proof.agent)
    claim, said = signed_claim.claim(), signed.statement
    _same((claim.run, claim.agent, proof.agent), (said.run, said.agent, said.agent))
    _in_run(said, terms)
    if window_of(said.round, terms.window_rounds) != claim.window:
        raise ProofError("the statement is of another window than the claim")
    if said.phase == terms.phases.charged and (proof.sources or not _starts_somewhere(said, terms)):
        return _false_round(claim, said, proof.sources, terms)
    return _left_out(claim, said, terms)


def _starts_somewhere(said: Statement, terms: RunTerms) -> bool:
    """Whether what a statement shows depends on others, or on the initial model."""
    return bool(terms.phases.phases[said.phase].parts) and any(
        isinstance(part, Row) and part.weights for part in said.formed
    )


def _left_out(claim: Claim, said: Statement, terms: RunTerms) -> str:
    """The statement's round is not claimed; or its rows name others than the claim says were heard.
    In one window both are of one life of an agent, whatever crashes."""
    if said.phase == terms.phases.charged and _claimed(claim, said.round) is None:
        return f"round {said.round}"
    if terms.phases.told is not None and terms.phases.told[0] == said.phase:
        _, place, before = terms.phases.told
        entry, heard = _claimed(claim, said.round_of(before=before)), said.told(place)
        if entry is not None and heard is not None and set(entry.heard) != heard:
            return f"round {entry.round}"
    raise ProofError("the claim agrees with the statement")


def _false_round(claim: Claim, said: Statement, bodies: tuple[bytes, ...], terms: RunTerms) -> str:
    """The claimed energy or trace is not that of the statement and what it started from."""
    entry = _claimed(claim, said.round)
    if entry is None:
        return f"round {said.round}"
    try:
        sources = _committed(said, bodies, terms)
        vector = injected_after(_parts(said, sources, terms), said)
        check_fresh_there(said, terms)
        whole = None if terms.fresh is None else fresh_energy(said, terms)
    except EvidenceError as exc:
        raise ProofError(str(exc)) from exc
    shown = float(energy(vector))
    trace = TraceFold(terms.run, claim.window, len(vector))(vector)
    if not (math.isfinite(shown) and math.isfinite(whole or 0.0) and np.isfinite(trace).all()):
        raise ProofError("what was injected is not finite")
    try:
        check_energy(entry, shown)
        check_trace(entry, terms.trace_size, trace)
        check_whole(entry, terms, whole)
    except EvidenceError:
        return f"round {said.round}"
    raise ProofError("the claim agrees with the statement")


def _committed(
    said: Statement, bodies: tuple[bytes, ...], terms: RunTerms
) -> dict[Source, SignedStatement]:
    """The statements that the rows of one name, from the bodies that it commits to: no
    signature but its own counts. Its agent chose them, and sends them when it likes: what no
    receiver would have let it mix is looked at no further.

    Raises:
        ProofError, MalformedError: it commits to others, or a sketch has another length.
        EvidenceError: its phase or its parts are not those of the run, or where models are traded
            what a source gives is not what its reputations earn.
    """
    named = named_sources(said, terms.phases)
    examine_parts(said, terms)
    if commitment(bodies) != said.sources or len(bodies) != len(named):
        raise ProofError("the sources are not those that the statement commits to")
    decoded = [Statement.decode(body, sketch_bytes_max=terms.sketch_bytes) for body in bodies]
    if any(len(one.sketch) != terms.sketch_bytes for one in (said, *decoded)):
        raise ProofError("a sketch has not the length of the run's")
    if any(
        (one.run, *place_of(one)) != (said.run, *at) for at, one in zip(named, decoded, strict=True)
    ):
        raise ProofError("a source is not the statement that a row names")
    for one in decoded:
        check_influence_there(one, terms)
        if terms.trade is not None:
            check_given(one, terms.trade, terms.trace_size)
    signed = (SignedStatement(one.encode(), b"", one) for one in decoded)
    return dict(zip(named, signed, strict=True))


def _parts(
    said: Statement, sources: Mapping[Source, SignedStatement], terms: RunTerms
) -> list[Floats]:
    return formed_parts(said, {k: one.statement for k, one in sources.items()}, terms)


def _formed(proof: Proof, public: bytes, terms: RunTerms) -> str:
    """How a vector was formed, as its agent states it, is not how the run forms it; or the vector
    is not what was formed so. What it commits to is its own choice: no other signature counts."""
    said = _said(proof, public, terms)
    try:
        _examine_formed(said, proof, terms)
    except FormedError as exc:
        if {MIXING_ROW: WRONG_ROW}.get(exc.code, exc.code) == proof.kind:
            return f"round {said.round}"
        raise ProofError(f"it shows something else: {exc}") from exc
    except EvidenceError as exc:
        raise ProofError(str(exc)) from exc
    raise ProofError("the vector was formed as it should be")


def _examine_formed(said: Statement, proof: Proof, terms: RunTerms) -> None:
    sources = _committed(said, proof.sources, terms)
    examine_derived(said, sources, terms)
    if proof.kind == WRONG_ROW:
        return
    parts = _parts(said, sources, terms)
    vector = injected_after(parts, said)
    if proof.kind == NOT_AS_FORMED:
        found = float(energy(vector))
        examine_injected(found, allowed_energy(said, parts, terms), proof.sources)
    else:
        rounding = rounding_energy(said, parts, terms)
        examine_influence(said, sources, vector, rounding, terms)


def _rated(proof: Proof, public: bytes, terms: RunTerms) -> str:
    """What an agent states to give is not what its own reputations earn; or, with sources, what it
    says of others does not follow from them, whatever was new."""
    said, trade = _said(proof, public, terms), terms.trade
    if trade is None:
        raise ProofError("models are not traded in this run")
    whole = bool(proof.sources)
    try:
        whole = whole or not named_sources(said, terms.phases)
        examine_parts(said, terms)
        sources = _committed(said, proof.sources, terms) if whole else {}
    except EvidenceError as exc:
        raise ProofError(str(exc)) from exc
    try:
        check_given(said, trade, terms.trace_size)
        if whole:
            check_ratings(said, sources, {}, trade, terms.window_rounds)
            _check_trace(said, sources, terms)
    except EvidenceError:
        return f"round {said.round}"
    raise ProofError("the ratings may follow from what it shows")


def _check_trace(
    said: Statement, sources: Mapping[Source, SignedStatement], terms: RunTerms
) -> None:
    """That a stated trace is that of what was injected, as far as this shows without the initial
    model; raises EvidenceError."""
    try:
        vector = injected_after(_parts(said, sources, terms), said)
    except EvidenceError:
        return
    window, trade = window_of(said.round, terms.window_rounds), terms.trade
    bounds = None if trade is None else trade.groups.bounds
    trace = TraceFold(terms.run, window, len(vector), bounds)(vector)
    if said.ratings is not None and np.isfinite(trace).all():
        check_stated_trace(said.ratings.values, trace, TRACE_TOLERANCE)


def _said(proof: Proof, public: bytes, terms: RunTerms) -> Statement:
    """The statement of a proof that has one alone, which its agent signed in this run."""
    signed = SignedStatement.decode(*proof.first, sketch_bytes_max=terms.sketch_bytes)
    said = signed.statement
    if said.agent != proof.agent or not signed.verify(public):
        raise ProofError(f"not signed by {proof.agent}")
    _in_run(said, terms)
    return said


def _claimed(claim: Claim, number: int) -> ClaimedRound | None:
    return next((entry for entry in claim.rounds if entry.round == number), None)


def _bodies(proof: Proof, public: bytes, _: RunTerms) -> str:
    valid = [verify_proposal(public, body, sig) for body, sig in (proof.first, proof.second)]
    _both(valid[0], valid[1], proof.agent)
    one, two = Body.decode(proof.first[0]), Body.decode(proof.second[0])
    if one.proposer != public or two.proposer != public:
        raise ProofError(f"not proposed by {proof.agent}")
    _same((one.channel_id, one.seq, one.attempt), (two.channel_id, two.seq, two.attempt))
    one_session = (one.nonce_lo, one.nonce_hi) == (two.nonce_lo, two.nonce_hi)
    if one_session != (proof.kind == DOUBLE_SIGNED):
        raise ProofError("the sessions are not as the kind says")
    return f"record {one.seq} of channel {one.channel_id.hex()[:16]}"


def _both(one: bool, two: bool, agent: str) -> None:
    if not (one and two):
        raise ProofError(f"not both signed by {agent}")


def _of_run(run: bytes, terms: RunTerms) -> None:
    if run != terms.run:
        raise ProofError("it is of another run")


def _in_run(said: Statement, terms: RunTerms) -> None:
    _of_run(said.run, terms)
    if said.round > terms.rounds:
        raise ProofError("the statement is of a round beyond the last")


def _same(one: tuple[object, ...], two: tuple[object, ...]) -> None:
    if one != two:
        raise ProofError("the two are not of one agent, run and place")


_CHECKS: Final[Mapping[str, Callable[[Proof, bytes, RunTerms], str]]] = {
    EQUIVOCATION: _heads,
    OTHER_PAYLOAD: _payload,
    DOUBLE_SIGNED: _bodies,
    CONFLICTING: _bodies,
    TWO_CLAIMS: _claims,
    TWO_BILLS: _bills,
    CONTRADICTORY: _contradiction,
    WRONG_ROW: _formed,
    NOT_AS_FORMED: _formed,
    INFLUENCE: _formed,
    FALSE_RATING: _rated,
}
KINDS: Final = tuple(_CHECKS)


def equivocation(one: Head, two: Head) -> Proof | None:
    """The proof that two verified heads make, None where they are of two exchanges, or the same."""
    if (one.run, *place_of(one)) != (two.run, *place_of(two)) or one.digest == two.digest:
        return None
    pairs = ((head.signed, head.signature) for head in (one, two))
    return Proof(EQUIVOCATION, one.agent, *pairs)


def contradiction(
    signed: SignedClaim,
    stated: Iterable[tuple[SignedStatement, tuple[bytes, ...]]],
    terms: RunTerms,
) -> Proof | None:
    """The first proof that a claim makes with its agent's statements, each with its sources."""
    claim = (signed.body, signed.signature)
    for one, sources in stated:
        for shown in ((), sources):
            said = (one.body, one.signature)
            proof = Proof(CONTRADICTORY, one.statement.agent, claim, said, shown)
            if len(proof.encode()) <= PROOF_BYTES_MAX and _holds(proof, terms):
                return proof
    return None


def misformed(
    signed: SignedStatement, error: EvidenceError, terms: RunTerms, payload_signature: bytes = b""
) -> Proof | None:
    """The proof that a statement makes which was refused for how its vector was formed, for what it
    says of others, or for a payload that is another one and was signed; None where it was for
    something else, a third party lacks the initial model or what shows how new something was, or
    it would be too long."""
    agent, said = signed.statement.agent, (signed.body, signed.signature)
    match error:
        case FormedError():
            kind = {MIXING_ROW: WRONG_ROW, RATING: FALSE_RATING}.get(error.code, error.code)
            proof = Proof(kind, agent, said, NOTHING, error.sources)
        case PayloadError():
            sending = signed.sending(error.digest)
            proof = Proof(OTHER_PAYLOAD, agent, said, (sending, payload_signature))
        case _:
            return None
    return proof if len(proof.encode()) <= PROOF_BYTES_MAX and _holds(proof, terms) else None


def _holds(proof: Proof, terms: RunTerms) -> bool:
    try:
        verify_proof(proof, terms)
    except (ProofError, MalformedError):
        return False
    return True


def from_ledger(reason: str, agent: str, proof: tuple[Signed, ...]) -> Proof | None:
    """The proof in a frozen channel, if it is one of two proposals."""
    if reason not in (DOUBLE_SIGNED, CONFLICTING) or len(proof) != 2:
        return None
    return Proof(reason, agent, *proof)
