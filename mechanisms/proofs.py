"""Evidence objects: two signed things of one agent that cannot both be, checkable by anyone.

    proof = pack([1, kind, agent, [body, signature], [body, signature]])

A third party needs the proof and the agent's public key, nothing else. `malice` is what no honest
agent can do, whatever crashes: it persists before it sends. What a restored backup can do as well
is told apart and is no guilt. Pure functions of bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from mechanisms.claims import SignedClaim
from mechanisms.ledger_bodies import Body
from mechanisms.ledger_records import verify_proposal
from mechanisms.payments import SignedBill
from mechanisms.statements import ID_CHARS_MAX, SignedStatement
from topologies.canonical import MalformedError, is_name, pack, unpack
from topologies.signatures import SIGNATURE_BYTES

PROOF_VERSION: Final = 1
PROOF_BYTES_MAX: Final = 2**19
STATEMENT_SKETCH_BYTES_MAX: Final = 2**18  # the largest sketch that a cluster file allows

EQUIVOCATION: Final = "equivocation"
DOUBLE_SIGNED: Final = "double-signed"
CONFLICTING: Final = "conflicting-proposal"
TWO_CLAIMS: Final = "two-claims"
TWO_BILLS: Final = "two-bills"

Signed = tuple[bytes, bytes]
"""A body and its signature."""


class ProofError(ValueError):
    """A proof that does not hold: one line that says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proof shows: `place` is the round, window or record; `malice` is False for what a
    restored backup explains as well."""

    kind: str
    agent: str
    place: str
    malice: bool

    def __str__(self) -> str:
        what = "guilty" if self.malice else "malice or a restored backup, no guilt"
        return f"{self.agent}: {self.kind} in {self.place}: {what}"


@dataclass(frozen=True, slots=True)
class Proof:
    """Two signed bodies of one agent."""

    kind: str
    agent: str
    first: Signed
    second: Signed

    def encode(self) -> bytes:
        """The canonical bytes; the same two bodies give the same proof in either order."""
        one, two = sorted((self.first, self.second))
        return pack([PROOF_VERSION, self.kind, self.agent, list(one), list(two)])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            MalformedError: another layout, kind or order, or too long.
        """
        match unpack(data, bytes_max=PROOF_BYTES_MAX):
            case [_, str(kind), str(agent), [bytes(a), bytes(x)], [bytes(b), bytes(y)]] if (
                kind in _CHECKS
                and is_name(agent, ID_CHARS_MAX)
                and len(x) == len(y) == SIGNATURE_BYTES
            ):
                proof = cls(kind, agent, (a, x), (b, y))
                if proof.encode() == data:  # which settles version and order
                    return proof
        raise MalformedError("not a proof of this version")


def verify_proof(proof: Proof, publics: Mapping[str, bytes]) -> Verdict:
    """Judge a proof by public keys alone.

    Raises:
        ProofError: it does not show what it says.
        MalformedError: one of its bodies does not decode.
    """
    public = publics.get(proof.agent)
    if public is None:
        raise ProofError(f"no public key of {proof.agent} is known")
    if proof.first[0] == proof.second[0]:
        raise ProofError("the two bodies are the same")
    place = _CHECKS[proof.kind](proof, public)
    return Verdict(proof.kind, proof.agent, place, proof.kind in (EQUIVOCATION, DOUBLE_SIGNED))


def _statements(proof: Proof, public: bytes) -> str:
    one, two = (
        SignedStatement.decode(*signed, sketch_bytes_max=STATEMENT_SKETCH_BYTES_MAX)
        for signed in (proof.first, proof.second)
    )
    _both(one.verify(public), two.verify(public), proof.agent)
    a, b = one.statement, two.statement
    _same((a.run, a.round, a.agent), (b.run, b.round, proof.agent))
    if a.digest == b.digest:
        raise ProofError("both statements are of the same payload")
    return f"round {a.round}"


def _claims(proof: Proof, public: bytes) -> str:
    one, two = SignedClaim(*proof.first), SignedClaim(*proof.second)
    _both(one.verify(public), two.verify(public), proof.agent)
    a, b = one.claim(), two.claim()
    _same((a.run, a.window, a.agent), (b.run, b.window, proof.agent))
    return f"window {a.window}"


def _bills(proof: Proof, public: bytes) -> str:
    one, two = SignedBill(*proof.first, ()), SignedBill(*proof.second, ())
    _both(one.verify(public), two.verify(public), proof.agent)
    a, b = one.bill(), two.bill()
    _same((a.run, a.window, a.referee), (b.run, b.window, proof.agent))
    return f"window {a.window}"


def _bodies(proof: Proof, public: bytes) -> str:
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


def _same(one: tuple[object, ...], two: tuple[object, ...]) -> None:
    if one != two:
        raise ProofError("the two are not of one agent, run and place")


_CHECKS: Final[Mapping[str, Callable[[Proof, bytes], str]]] = {
    EQUIVOCATION: _statements,
    DOUBLE_SIGNED: _bodies,
    CONFLICTING: _bodies,
    TWO_CLAIMS: _claims,
    TWO_BILLS: _bills,
}


def equivocation(one: SignedStatement, two: SignedStatement) -> Proof | None:
    """The proof that two verified statements of one round make, None where they agree on the
    payload: another row over the same payload sends no two models."""
    a, b = one.statement, two.statement
    if (a.agent, a.round, a.run) != (b.agent, b.round, b.run) or a.digest == b.digest:
        return None
    return Proof(EQUIVOCATION, a.agent, (one.body, one.signature), (two.body, two.signature))


def from_ledger(reason: str, agent: str, proof: tuple[Signed, ...]) -> Proof | None:
    """The proof in a frozen channel, if it is one of two proposals."""
    if reason not in (DOUBLE_SIGNED, CONFLICTING) or len(proof) != 2:
        return None
    return Proof(reason, agent, *proof)
