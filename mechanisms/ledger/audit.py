"""The offline audit of a run: do both ends of every edge tell the same, and do all nets sum to 0?

Each export is judged by itself in `mechanisms.ledger.export_audit`. It trusts no daemon and no
database, only exports and the cluster file. It cannot see a window that both ends left unsettled.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.ledger.export import file_name
from candor.mechanisms.ledger.export_audit import AuditFacts as AuditFacts
from candor.mechanisms.ledger.export_audit import ExportAudit as ExportAudit
from candor.mechanisms.ledger.export_audit import Finding as Finding
from candor.mechanisms.ledger.export_audit import audit_export as audit_export
from candor.mechanisms.ledger.netting import net_transfers

UNACKNOWLEDGED: Final = "unacknowledged"


@dataclass(frozen=True, slots=True)
class ExportFile:
    """An export as found: `name` for findings, `agent` whose export it is said to be."""

    name: str
    agent: str
    data: bytes


@dataclass(frozen=True, slots=True)
class EdgeNet:
    """What an edge settled: `balance_lo` is what lo received from hi, net, in micro-credits.

    `payments`: those outside that are on record, above 0 where hi has paid lo; `unacknowledged`:
    the last record is known to one end only; it bears both signatures.
    """

    lo: str
    hi: str
    windows: int
    payments: tuple[int, ...]
    balance_lo: int
    unacknowledged: bool


@dataclass(frozen=True, slots=True)
class RunAudit:
    """The verdict on a run: clean when there are no `findings`; `notes` are no violations.

    `nets`: by agent, what it received net and still has to receive outside the system; below 0 it
    owes. `transfers`: (from, to, micro-credits) that pay all of that off; none where nets do not
    sum to 0. `recomputed`: how many of the `bills` were opened, and their amounts found right.
    `whole`: both ends of all edges were asked for, else nets are those of some agents.
    """

    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    edges: tuple[EdgeNet, ...]
    nets: Mapping[str, int]
    transfers: tuple[tuple[str, str, int], ...] = ()
    bills: int = 0
    recomputed: int = 0
    whole: bool = True


def audit_run(
    files: Iterable[ExportFile],
    facts: AuditFacts,
    agents: frozenset[str] | None = None,
    claims: Mapping[bytes, SignedClaim] = MappingProxyType({}),
) -> RunAudit:
    """Judge all exports of a run together, each edge from both of its ends; of some `agents` alone,
    their edges, of which nobody else must have left an export. `claims` known otherwise, by digest,
    open sealed bills."""
    audits: dict[tuple[str, str, str], ExportAudit] = {}
    findings: list[Finding] = []
    for file in files:
        audit = audit_export(file.name, file.data, facts, file.agent, claims)
        findings += audit.findings
        audits[(audit.lo, audit.hi, file.agent)] = audit
    notes: list[Finding] = []
    edges: list[EdgeNet] = []
    nets = dict.fromkeys(facts.keys, 0)
    asked = frozenset(facts.keys) if agents is None else agents
    for lo, hi in sorted(edge for edge in facts.edges if not asked.isdisjoint(edge)):
        ends = [audits.get((lo, hi, agent)) for agent in (lo, hi)]
        if facts.settles:
            findings += [
                _missing(lo, hi, a)
                for a, end in zip((lo, hi), ends, strict=True)
                if not end and a in asked
            ]
        known = [end for end in ends if end is not None]
        edge = _compare(lo, hi, known, findings, notes)
        if edge is not None:
            edges.append(edge)
        for agent, place in ((lo, 0), (hi, 1)):
            # What one end alone shows is better than nothing; that it is alone is a finding.
            end = ends[place] or ends[1 - place]
            if end is not None:
                balance = _settled_balance(end, known, edge)
                nets[agent] += balance if agent == hi else -balance
    findings += _said_twice(audits.values(), facts.keys)
    transfers: list[tuple[str, str, int]] = []
    if sum(nets.values()) != 0:
        detail = f"the nets of all agents sum to {sum(nets.values())}, not to 0"
        findings.append(Finding("run", "all", 0, "nets", detail))
    elif agents is None:
        transfers = net_transfers(nets)
    else:
        nets = {agent: net for agent, net in nets.items() if agent in agents}
    bills = {bill.digest: bill for audit in audits.values() for _, bill in audit.bills}
    opened = sum(not bill.is_sealed for bill in bills.values())
    return RunAudit(
        findings=tuple(findings),
        notes=tuple(notes),
        edges=tuple(edges),
        nets=nets,
        transfers=tuple(transfers),
        bills=len(bills),
        recomputed=opened,
        whole=agents is None,
    )


def _missing(lo: str, hi: str, agent: str) -> Finding:
    name = f"agents/{agent}/ledger/{file_name(lo, hi)}"
    return Finding(name, f"{lo}-{hi}", 0, "missing", f"{agent} has left no export of this edge")


def _compare(
    lo: str,
    hi: str,
    ends: Sequence[ExportAudit],
    findings: list[Finding],
    notes: list[Finding],
) -> EdgeNet | None:
    """The net of an edge, where its ends agree on all but one unacknowledged record."""
    if not ends:
        return None
    short, long = sorted((ends[0], ends[-1]), key=lambda end: end.position.seq)
    for seq, (one, two) in enumerate(zip(short.positions, long.positions, strict=False)):
        if one.head != two.head:
            detail = f"{long.exporter} and {short.exporter} hold two different records"
            findings.append(Finding(long.name, long.edge, seq, "ends-differ", detail))
            return None
    seq = long.position.seq
    behind = 0 if short.findings else seq - short.position.seq
    # Only the proposer of the last record may not know it yet: the acceptor stored it first.
    unacknowledged = behind == 1 and short.exporter == (hi if seq % 2 else lo)
    if unacknowledged:
        detail = f"{short.exporter} has not seen its last proposal accepted"
        notes.append(Finding(long.name, long.edge, seq, UNACKNOWLEDGED, detail))
    elif behind:
        detail = f"{behind} of the records that {long.exporter} has are missing"
        first = short.position.seq + 1
        findings.append(Finding(short.name, short.edge, first, "ends-differ", detail))
        return None
    balance_lo = -long.position.balance
    return EdgeNet(lo, hi, len(long.windows), long.payments, balance_lo, unacknowledged)


def _settled_balance(end: ExportAudit, ends: Sequence[ExportAudit], edge: EdgeNet | None) -> int:
    """What hi received by this end's chain, with the record it has not seen accepted."""
    if edge is not None and edge.unacknowledged:
        return max((e.position for e in ends), key=lambda position: position.seq).balance
    return end.position.balance


def _said_twice(audits: Iterable[ExportAudit], keys: Mapping[str, bytes]) -> list[Finding]:
    """Agents that signed two different claims, or as referees two bills, for one window; and
    sealed bills that name two different claims of one."""
    findings: list[Finding] = []
    seen: dict[tuple[str, str, int], tuple[bytes, str]] = {}
    signed = _signed_claims(audits, keys)
    for audit in audits:
        for seq, held in audit.bills:
            bill = held.bill()
            said = [("two-bills", bill.referee, held.digest)]
            agents = sorted([bill.referee, *(row.member for row in bill.rows)])
            # A bill that names another number of claims is a finding by itself.
            said += [("two-claims", *named) for named in zip(agents, bill.claims, strict=False)]
            for code, agent, digest in said:
                key = (code, agent, bill.window)
                first, edge = seen.setdefault(key, (digest, audit.edge))
                if first == digest:
                    continue
                detail = f"{agent} signed another one for window {bill.window} on edge {edge}"
                if code == "two-claims" and not {first, digest} <= signed:
                    code = "claims-differ"
                    detail = (
                        f"it names another claim of {agent} for window {bill.window} than a bill "
                        f"on edge {edge}: have both opened"
                    )
                findings.append(Finding(audit.name, audit.edge, seq, code, detail))
    return findings


def _signed_claims(audits: Iterable[ExportAudit], keys: Mapping[str, bytes]) -> set[bytes]:
    """Digests of the claims that are shown and that their agents signed."""
    shown = {c.digest: c for audit in audits for _, bill in audit.bills for c in bill.claims}
    return {d for d, c in shown.items() if c.verify(keys.get(c.claim().agent, bytes(32)))}
