"""Ledger records: a body with two signatures and its evidence, and the checks anyone can repeat.

Everything here is a pure function of bytes and public keys: the channel, a peer that catches up and
the offline audit judge records by the same code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.ledger.bodies import (
    BODY_BYTES_MAX,
    SETTLEMENT,
    Body,
    ChannelTerms,
    LedgerViolation,
)
from candor.mechanisms.payments.bills import BUNDLE_BYTES_MAX, SignedBill
from candor.topologies.encoding.canonical import MalformedError, Value, sha256
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify

PROPOSE_DOMAIN: Final = "candor/propose/v1"
ACCEPT_DOMAIN: Final = "candor/accept/v1"
EVIDENCE_ITEMS: Final = 2

Evidence = tuple[bytes, ...]
"""(bundle of referee lo, bundle of referee hi), encoded; empty for a genesis or a payment."""


@dataclass(frozen=True, slots=True)
class Record:
    """A body with the proposer's and the acceptor's signature, and what it was computed from."""

    body: bytes
    sig_p: bytes
    sig_a: bytes
    evidence: Evidence

    @property
    def head(self) -> bytes:
        """SHA-256 of the body (32 bytes)."""
        return sha256(self.body)

    @property
    def size_bytes(self) -> int:
        """About what the record takes in a message."""
        return len(self.body) + 2 * SIGNATURE_BYTES + sum(map(len, self.evidence)) + 64

    def opened(self, claims: Mapping[bytes, SignedClaim]) -> Self:
        """The record with its bills' claims, for each bill all of whose are among `claims`."""
        bills = (SignedBill.decode(item, may_be_sealed=True) for item in self.evidence)
        return replace(self, evidence=tuple(bill.opened(claims).encode() for bill in bills))

    def to_fields(self) -> list[Value]:
        """[body, sig_p, sig_a, evidence]."""
        return [self.body, self.sig_p, self.sig_a, list(self.evidence)]

    @classmethod
    def from_fields(cls, fields: Value) -> Self:
        """Parse `to_fields`.

        Raises:
            MalformedError: wrong types or sizes.
        """
        match fields:
            case [bytes(body), bytes(sig_p), bytes(sig_a), [*evidence]] if (
                len(body) <= BODY_BYTES_MAX
                and len(sig_p) == len(sig_a) == SIGNATURE_BYTES
                and len(evidence) <= EVIDENCE_ITEMS
            ):
                items = tuple(item for item in evidence if isinstance(item, bytes))
                if len(items) == len(evidence) and all(
                    len(item) <= BUNDLE_BYTES_MAX for item in items
                ):
                    return cls(body, sig_p, sig_a, items)
        raise MalformedError("not a signed record")


def sign_proposal(key: SigningKey, body: bytes) -> bytes:
    """The proposer's signature."""
    return key.sign(PROPOSE_DOMAIN, body)


def sign_acceptance(key: SigningKey, body: bytes, sig_p: bytes) -> bytes:
    """The acceptor's signature, which covers the proposer's."""
    return key.sign(ACCEPT_DOMAIN, body, sig_p)


def verify_proposal(public: bytes, body: bytes, sig_p: bytes) -> bool:
    """Whether `public` proposed `body`."""
    return verify(public, sig_p, PROPOSE_DOMAIN, body)


def verify_acceptance(public: bytes, body: bytes, sig_p: bytes, sig_a: bytes) -> bool:
    """Whether `public` accepted `body` as signed by `sig_p`."""
    return verify(public, sig_a, ACCEPT_DOMAIN, body, sig_p)


def check_signatures(terms: ChannelTerms, seq: int, record: Record) -> None:
    """Check both signatures of record `seq`.

    Raises:
        LedgerViolation: names the one that is not valid.
    """
    if not verify_proposal(terms.proposer(seq), record.body, record.sig_p):
        raise LedgerViolation("sig-p", "not the proposer's signature")
    if not verify_acceptance(terms.acceptor(seq), record.body, record.sig_p, record.sig_a):
        raise LedgerViolation("sig-a", "not the acceptor's signature")


def bill_digests(evidence: Evidence) -> tuple[bytes, bytes]:
    """The digests of lo's and hi's bill, which a record's body names."""
    lo, hi = evidence
    return SignedBill.decode(lo).digest, SignedBill.decode(hi).digest


def check_evidence(
    terms: ChannelTerms, body: Body, evidence: Evidence, *, may_be_sealed: bool = False
) -> tuple[SignedBill, SignedBill] | None:
    """Check that the evidence is what the body's digests name; return lo's and hi's bill, which
    in an export may be sealed.

    Only digests and names: amounts are recomputed, and signatures verified, by the audit. None for
    a record that settles no window, which has no evidence.

    Raises:
        LedgerViolation: an item is missing, malformed or not the one that was signed.
    """
    if body.kind != SETTLEMENT:
        if evidence:
            raise LedgerViolation("evidence", f"a {body.kind} has none")
        return None
    if len(evidence) != EVIDENCE_ITEMS:
        raise LedgerViolation("evidence", f"{len(evidence)} items where {EVIDENCE_ITEMS} are due")
    try:
        lo, hi = (SignedBill.decode(item, may_be_sealed=may_be_sealed) for item in evidence)
        referees = lo.bill().referee, hi.bill().referee
    except MalformedError as exc:
        raise LedgerViolation("evidence", str(exc)) from exc
    for name, bill, digest in (("lo", lo, body.bill_digest_lo), ("hi", hi, body.bill_digest_hi)):
        if bill.digest != digest:
            raise LedgerViolation("bill-digest", f"the bill of {name} is not the one signed")
    if referees != (terms.lo, terms.hi):
        raise LedgerViolation("evidence", "the bills are not of this edge's ends")
    return lo, hi
