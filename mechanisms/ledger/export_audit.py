"""The audit of one ledger export by public keys and the run's terms alone.

Checked, in this order and in the order of the records: form, stated terms, chain and credit limit,
evidence, both signatures, every bill, the delta from the bills, and the end line. Where a bill's
claims are shown, or known, their signatures are checked and its amounts recomputed through the
run's rule. Those of a sealed bill rest on the two who signed the record: both have recomputed them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.ledger.bodies import (
    Body,
    ChannelTerms,
    LedgerViolation,
    Position,
)
from candor.mechanisms.ledger.export import (
    Export,
    ExportError,
    Footer,
    file_name,
    header_of,
    parse_export,
)
from candor.mechanisms.ledger.records import Record
from candor.mechanisms.ledger.stored_chain import check_record
from candor.mechanisms.payments.bills import (
    BillError,
    BillTerms,
    SignedBill,
    check_bill,
    check_sealed,
    edge_delta,
)
from candor.mechanisms.payments.credits import AmountError
from candor.topologies.encoding.canonical import MalformedError


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """What the cluster file says: `edges` as (lo, hi), and what every bill is judged against."""

    run_id: str
    credit_limit: int
    edges: frozenset[tuple[str, str]]
    bills: BillTerms

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Public keys by agent."""
        return self.bills.publics

    @property
    def settles(self) -> bool:
        """Whether the run's rule asks for anything."""
        return self.bills.payments.settles

    def terms(self, lo: str, hi: str) -> ChannelTerms:
        """The terms of an edge."""
        return ChannelTerms(
            lo=lo,
            hi=hi,
            public_lo=self.keys[lo],
            public_hi=self.keys[hi],
            run_id=self.run_id,
            fingerprint=self.bills.run,
            credit_limit=self.credit_limit,
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, at one place; `seq` counts as `mechanisms.ledger.export` describes."""

    file: str
    edge: str
    seq: int
    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: edge {self.edge}, {self.told}"

    @property
    def told(self) -> str:
        """What is wrong, without where."""
        return f"seq {self.seq}: {self.code}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ExportAudit:
    """What one export says, as far as it could be read.

    `positions`: after each good record; `bills`: (record number, bill) of the good records, opened
    where their claims are known.
    """

    name: str
    lo: str
    hi: str
    exporter: str
    findings: tuple[Finding, ...]
    positions: tuple[Position, ...] = ()
    windows: tuple[int, ...] = ()
    bills: tuple[tuple[int, SignedBill], ...] = ()

    @property
    def edge(self) -> str:
        """The edge as findings name it."""
        return f"{self.lo}-{self.hi}"

    @property
    def recomputed(self) -> int:
        """How many of its bills were open, and judged by their claims."""
        return sum(not bill.is_sealed for _, bill in self.bills)

    @property
    def payments(self) -> tuple[int, ...]:
        """The deltas of its payments outside, which leave the window as it was."""
        records = pairwise(self.positions)
        return tuple(b.balance - a.balance for a, b in records if a.window == b.window)

    @property
    def position(self) -> Position:
        """Where the chain stands."""
        return self.positions[-1] if self.positions else Position()


@dataclass(slots=True)
class _Report:
    """Collects findings of one file."""

    name: str
    edge: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, seq: int, code: str, detail: str) -> None:
        self.findings.append(Finding(self.name, self.edge, seq, code, detail))


def audit_export(
    name: str,
    data: bytes,
    facts: AuditFacts,
    exporter: str | None = None,
    claims: Mapping[bytes, SignedClaim] = MappingProxyType({}),
) -> ExportAudit:
    """Judge one export.

    Args:
        name: how findings name the file; the last part of the path must be the edge's file name.
        exporter: who must have exported it, where that is known.
        claims: claims known otherwise, by digest, which open sealed bills.
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    edge = next((edge for edge in sorted(facts.edges) if file_name(*edge) == base), None)
    if edge is None:
        finding = Finding(name, base.removesuffix(".jsonl"), 0, "edge", "no such edge in this run")
        return ExportAudit(name, "", "", exporter or "", (finding,))
    lo, hi = edge
    report = _Report(name, f"{lo}-{hi}")
    try:
        export = parse_export(data)
    except ExportError as exc:
        report.add(exc.seq, exc.code, exc.detail)
        return ExportAudit(name, lo, hi, exporter or "", tuple(report.findings))
    terms = facts.terms(lo, hi)
    fingerprint = header_of(terms, lo)["topology"]
    if not _same(export.header["topology"], fingerprint):
        # Nothing in it is of this run: one finding says more than one for each line.
        report.add(
            0,
            "header",
            f"it is of the cluster file {export.header['topology']!r} "
            f"(run {export.header['run_id']!r}), not of {fingerprint} ({terms.run_id!r})",
        )
        return ExportAudit(name, lo, hi, exporter or "", tuple(report.findings))
    stated = _check_header(export, terms, exporter, report)
    positions, bills = _check_chain(export.records, terms, facts, claims, report)
    if len(positions) == len(export.records):
        _check_footer(export, terms, positions[-1] if positions else Position(), report)
    # A payment leaves the window as it was.
    windows = tuple(dict.fromkeys(position.window for position in positions[1:]))
    found, stood = tuple(report.findings), tuple(positions)
    return ExportAudit(name, lo, hi, stated, found, stood, windows, tuple(bills))


def _check_header(
    export: Export, terms: ChannelTerms, exporter: str | None, report: _Report
) -> str:
    """Compare the header with the terms; return who exported the file."""
    stated = export.header["exporter"]
    allowed = (terms.lo, terms.hi) if exporter is None else (exporter,)
    if stated not in allowed:
        report.add(0, "header", f"exporter is {stated!r}, expected {' or '.join(allowed)}")
        stated = allowed[0]
    for key, value in header_of(terms, stated).items():
        if key != "exporter" and not _same(export.header[key], value):
            report.add(0, "header", f"{key} is {export.header[key]!r}, expected {value!r}")
    return str(stated)


def _same(found: Any, expected: object) -> bool:
    return type(found) is type(expected) and found == expected  # True is not 1 here


def _check_chain(
    records: Sequence[Record],
    terms: ChannelTerms,
    facts: AuditFacts,
    claims: Mapping[bytes, SignedClaim],
    report: _Report,
) -> tuple[list[Position], list[tuple[int, SignedBill]]]:
    """Walk the chain up to the first record that breaks it."""
    positions: list[Position] = []
    bills: list[tuple[int, SignedBill]] = []
    position = Position()
    for seq, record in enumerate(records):
        try:
            body, pair = check_record(terms, position, record, may_be_sealed=True)
        except LedgerViolation as exc:
            report.add(seq, exc.code, exc.detail)
            return positions, bills
        if pair is not None:
            pair = pair[0].opened(claims), pair[1].opened(claims)
            _check_settlement(seq, body, pair, terms, facts, report)
            # Of two ends that collude, only what was truly signed speaks against anyone.
            bills += [(seq, bill) for bill in pair if bill.verify(facts.keys[bill.bill().referee])]
        position = Position.of(record.body)
        positions.append(position)
    return positions, bills


def _check_settlement(
    seq: int,
    body: Body,
    pair: tuple[SignedBill, SignedBill],
    terms: ChannelTerms,
    facts: AuditFacts,
    report: _Report,
) -> None:
    """Check the bills of a record, recompute those that are open, and the delta from both."""
    bills = []
    for signed, referee in zip(pair, (terms.lo, terms.hi), strict=True):
        try:
            check = check_sealed if signed.is_sealed else check_bill
            bill = check(facts.bills, signed, referee)
        except (BillError, MalformedError) as exc:
            code = exc.code if isinstance(exc, BillError) else "bill"
            report.add(seq, code, f"the bill of {referee}: {exc}")
            continue
        if bill.window != body.window:
            detail = f"{referee}'s is of window {bill.window}, the record settles {body.window}"
            report.add(seq, "bill-window", detail)
        bills.append(bill)
    if len(bills) < len(pair):
        return
    try:
        due = edge_delta(*bills)
    except AmountError as exc:
        report.add(seq, "delta", str(exc))
        return
    if due != body.delta:
        report.add(seq, "delta", f"{body.delta} where the bills give {due}")


def _check_footer(export: Export, terms: ChannelTerms, position: Position, report: _Report) -> None:
    footer, number = export.footer, len(export.records)
    said = (footer.seq, footer.head, footer.balance)
    if said != (position.seq, position.head, position.balance):
        report.add(number, "end", "the end line does not state where the chain ends")
        return
    exporter = export.header["exporter"]
    other = terms.hi if exporter == terms.lo else terms.lo
    if _signed_by(footer, terms, exporter):
        return
    if _signed_by(footer, terms, other):
        report.add(0, "header", f"exporter is {exporter!r}, but {other} signed the end line")
    else:
        report.add(number, "end-signature", f"the end line is not signed by {exporter}")


def _signed_by(footer: Footer, terms: ChannelTerms, exporter: object) -> bool:
    if exporter not in (terms.lo, terms.hi):
        return False
    public = terms.public_lo if exporter == terms.lo else terms.public_hi
    return footer.verify(public, terms.channel_id, str(exporter))
