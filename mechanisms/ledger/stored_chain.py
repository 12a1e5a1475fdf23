"""Whole chains as they are stored: whether each record follows the one before, and damage mended.

Amounts are not recomputed here, that is the audit's: what both ends have signed is what counts.
"""

from collections.abc import Iterable, Sequence

from candor.mechanisms.ledger.bodies import (
    Body,
    ChannelTerms,
    LedgerViolation,
    Position,
    check_successor,
)
from candor.mechanisms.ledger.records import Record, check_evidence, check_signatures
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.encoding.canonical import MalformedError


def check_record(
    terms: ChannelTerms, position: Position, record: Record, *, may_be_sealed: bool = False
) -> tuple[Body, tuple[SignedBill, SignedBill] | None]:
    """Check that `record` follows `position`, with what it was computed from and both signatures;
    its body, and the bills of lo and hi where it settles a window.

    Raises:
        LedgerViolation: names what does not hold.
    """
    try:
        body = Body.decode(record.body)
    except MalformedError as exc:
        raise LedgerViolation("body", str(exc)) from exc
    check_successor(terms, position, body)
    if abs(body.balance_after) > terms.credit_limit:
        raise LedgerViolation("credit-limit", f"balance {body.balance_after}")
    bills = check_evidence(terms, body, record.evidence, may_be_sealed=may_be_sealed)
    check_signatures(terms, position.seq + 1, record)
    return body, bills


def check_chain(terms: ChannelTerms, records: Iterable[Record]) -> None:
    """Check a whole chain.

    Raises:
        LedgerViolation: of the first record that does not hold, which it names.
    """
    position = Position()
    for seq, record in enumerate(records):
        try:
            check_record(terms, position, record)
        except LedgerViolation as exc:
            raise LedgerViolation(f"seq {seq}: {exc.code}", exc.detail) from exc
        position = Position.of(record.body)


def mended(
    terms: ChannelTerms, stored: Sequence[Record], copy: Sequence[Record]
) -> tuple[list[Record], list[int]]:
    """The chain that `stored` was before it was damaged, and the numbers of the records in it that
    come from `copy`, a chain that an audit found to hold. Good records that are newer are kept.

    Raises:
        LedgerViolation: both hold another good record in one place, or some that were stored are
            damaged and not in the copy.
    """
    own: dict[int, Record] = {}
    for record in stored:
        try:
            own[Body.decode(record.body).seq] = record
        except MalformedError:
            continue
    chain: list[Record] = []
    taken: list[int] = []
    position = Position()
    while True:
        seq = len(chain)
        good = _holds(terms, position, own.get(seq))
        if seq < len(copy):
            if good is not None and good.body != copy[seq].body:
                raise LedgerViolation(
                    f"seq {seq}: fork", "both ends signed another record here, too"
                )
            if own.get(seq) != copy[seq]:  # in its bills and claims too, which the audit checks
                _check_opened(seq, copy[seq])
                taken.append(seq)
            good = copy[seq]
        if good is None:
            break
        chain.append(good)
        position = Position.of(good.body)
    if len(chain) < len(stored):
        raise LedgerViolation(f"seq {len(chain)}: damaged", "and the export has no such record")
    return chain, taken


def _check_opened(seq: int, record: Record) -> None:
    """A record without the claims of its bills is none to settle disputes by."""
    if any(SignedBill.decode(one, may_be_sealed=True).is_sealed for one in record.evidence):
        window = Position.of(record.body).window
        raise LedgerViolation(
            f"seq {seq}: sealed",
            f"the neighbour's export must show its claims: `candor ledger export --open {window}`",
        )


def _holds(terms: ChannelTerms, position: Position, record: Record | None) -> Record | None:
    """The record, if it is one that follows `position`."""
    if record is None:
        return None
    try:
        check_record(terms, position, record)
    except LedgerViolation:
        return None
    return record
