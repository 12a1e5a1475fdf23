"""The audit names file, edge and record of whatever is wrong, and passes what is right."""

import json
import struct
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

import pytest

from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.ledger.audit import (
    AuditFacts,
    ExportFile,
    Finding,
    RunAudit,
    audit_export,
    audit_run,
)
from candor.mechanisms.ledger.bodies import Body, Position
from candor.mechanisms.ledger.channel import (
    Channel,
    ChannelTerms,
    Effect,
    Record,
    StoreRecord,
    Transmit,
)
from candor.mechanisms.ledger.export import export_channel, file_name
from candor.mechanisms.ledger.records import sign_acceptance, sign_proposal
from candor.mechanisms.payments.bills import BillTerms, Row, SignedBill, parse_rule
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey
from tests.bills import settling, signed_bill

KEYS = {agent: SigningKey(sha256(agent.encode())) for agent in ("a0", "a1", "a2")}
EDGES = [("a0", "a1"), ("a0", "a2"), ("a1", "a2")]
FACTS = AuditFacts(
    run_id="test",
    credit_limit=1_000_000_000,
    edges=frozenset(EDGES),
    bills=BillTerms(
        run=sha256(b"cluster"),
        window_rounds=4,
        trace_size=1,
        publics={agent: key.public for agent, key in KEYS.items()},
        neighbours={agent: frozenset(KEYS) - {agent} for agent in KEYS},
        payments=parse_rule("norm:1"),
    ),
)
WINDOWS = 3


def claim(agent: str, window: int, energy: float) -> SignedClaim:
    others = tuple(other for other in KEYS if other != agent)
    rounds = (ClaimedRound(4 * window + 1, energy, others, struct.pack("<f", energy)),)
    made = Claim(FACTS.bills.run, window, agent, rounds)
    return SignedClaim.sign(made, KEYS[agent])


CLAIMS = {
    (agent, window): claim(agent, window, float((i + 2) * (window + 1)))
    for i, agent in enumerate(KEYS)
    for window in range(WINDOWS)
}


def settle_edge(
    terms: ChannelTerms,
    claims: Mapping[tuple[str, int], SignedClaim] = CLAIMS,
    windows: int = WINDOWS,
) -> list[Record]:
    """Let two channels settle over a faultless network; the records they agree on."""
    ends = {agent: Channel(terms, KEYS[agent]) for agent in (terms.lo, terms.hi)}
    peer = {terms.lo: terms.hi, terms.hi: terms.lo}
    records: dict[str, list[Record]] = {agent: [] for agent in ends}

    def perform(agent: str, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StoreRecord(_, _, body, sig_p, sig_a, evidence):
                    records[agent].append(Record(body, sig_p, sig_a, evidence))
                case Transmit(message):
                    perform(peer[agent], ends[peer[agent]].received_from_peer(message))
                case _:
                    pass

    nonces = {agent: sha256(agent.encode())[:16] for agent in ends}
    hello = {
        agent: end.connected(nonces[agent], nonces[peer[agent]]) for agent, end in ends.items()
    }
    for agent, effects in hello.items():
        perform(agent, effects)
    for window in range(windows):
        held = {agent: claims[agent, window] for agent in KEYS}
        due = settling(FACTS.bills, terms.lo, terms.hi, held, KEYS)
        for agent, end in ends.items():
            perform(agent, end.settle(window, due.delta, due.bundle_lo, due.bundle_hi))
    assert records[terms.lo] == records[terms.hi]
    return records[terms.lo]


RECORDS = {edge: settle_edge(FACTS.terms(*edge)) for edge in EDGES}
TERMS = FACTS.terms("a0", "a1")
NAME = "agents/a0/ledger/a0-a1.jsonl"


OPEN = range(WINDOWS)


def export_of(records: list[Record], exporter: str = "a0", opened: Container[int] = OPEN) -> bytes:
    return export_channel(TERMS, exporter, KEYS[exporter], records, opened)


GOOD = export_of(RECORDS["a0", "a1"])


def run_files(opened: Container[int] = OPEN) -> dict[tuple[str, str, str], ExportFile]:
    files = {}
    for (lo, hi), records in RECORDS.items():
        for agent in (lo, hi):
            data = export_channel(FACTS.terms(lo, hi), agent, KEYS[agent], records, opened)
            name = f"agents/{agent}/ledger/{file_name(lo, hi)}"
            files[lo, hi, agent] = ExportFile(name, agent, data)
    return files


def codes(data: bytes, name: str = NAME, exporter: str | None = None) -> list[tuple[int, str]]:
    return [(f.seq, f.code) for f in audit_export(name, data, FACTS, exporter).findings]


def test_a_true_export_is_clean_and_reads_back() -> None:
    audit = audit_export(NAME, GOOD, FACTS)
    assert audit.findings == ()
    assert (audit.edge, audit.exporter) == ("a0-a1", "a0")
    assert audit.windows == (0, 1, 2)
    due = sum(500_000 * (2 - 3) * (window + 1) for window in range(WINDOWS))
    assert audit.position.balance == due
    assert sum(len(bill.claims) for _, bill in audit.bills) == 6 * WINDOWS
    assert len(audit.bills) == 2 * WINDOWS


def test_every_flipped_byte_is_found_at_its_record() -> None:
    """One bit of every byte of an export: the finding names the file, the edge and the record."""
    data = export_of(RECORDS["a0", "a1"][:2])
    line = 0
    for place, byte in enumerate(data):
        # A different bit from byte to byte, so that digits, letters and structure all change.
        flipped = data[:place] + bytes([byte ^ (1 << place % 8)]) + data[place + 1 :]
        findings = audit_export(NAME, flipped, FACTS).findings
        seq = max(line - 1, 0)
        named = {(f.file, f.edge, f.seq) for f in findings}
        assert (NAME, "a0-a1", seq) in named, f"byte {place}, bit {place % 8}: {findings}"
        line += byte == ord("\n")
    assert line == 4


def test_every_truncation_is_found() -> None:
    starts = [0] + [i + 1 for i, byte in enumerate(GOOD) if byte == ord("\n")]
    for line, start in enumerate(starts[:-1]):
        findings = audit_export(NAME, GOOD[:start], FACTS).findings
        assert [(f.seq, f.code) for f in findings] == [(max(line - 1, 0), "truncated")]
        assert codes(GOOD[: start + 1]) != []
    assert codes(GOOD[:-1]) == [(WINDOWS + 1, "line")]


def test_lines_removed_repeated_or_appended_are_found() -> None:
    lines = GOOD.splitlines(keepends=True)
    assert codes(b"".join(lines[:2] + lines[3:])) == [(1, "seq")]
    assert codes(b"".join([*lines[:3], lines[2], *lines[3:]])) == [(2, "seq")]
    assert codes(GOOD + lines[-1]) == [(WINDOWS + 1, "trailing")]
    assert codes(b"".join(lines[1:])) == [(0, "header")]


def edited(line: int, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The export with a line changed and written in canonical form again."""
    lines = GOOD.splitlines()
    value = json.loads(lines[line])
    change(value)
    lines[line] = json.dumps(value, separators=(",", ":")).encode()
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("candor_ledger", 1),
        ("candor_ledger", True),
        ("channel", "00" * 32),
        ("lo", "a2"),
        ("hi_key", "00" * 32),
        ("run_id", "other"),
        ("topology", "00" * 32),
        ("unit", "credit"),
        ("credit_limit", 5),
        ("exporter", "a1"),
        ("exporter", "a2"),
        ("exporter", ["a0"]),
    ],
)
def test_a_header_that_states_other_terms_is_found(key: str, value: object) -> None:
    found = codes(edited(0, lambda header: header.update({key: value})))
    assert (0, "header") in found


def test_an_export_of_another_run_is_one_finding() -> None:
    other = edited(0, lambda header: header.update(topology="00" * 32, run_id="other"))
    (finding,) = audit_export(NAME, other, FACTS).findings
    assert "(run 'other')" in finding.detail


def test_fields_in_another_form_are_found() -> None:
    upper = edited(2, lambda record: record.update(body=record["body"].upper()))
    assert codes(upper) == [(1, "hex")]
    spaced = edited(2, lambda record: record.update(sig_p=f" {record['sig_p']}"))
    assert codes(spaced) == [(1, "hex")]
    assert codes(edited(2, lambda record: record.update(evidence=["", "", ""]))) == [(1, "record")]
    assert codes(edited(2, lambda record: record.update(more=1))) == [(1, "record")]
    assert codes(edited(2, lambda record: record.update(seq=True))) == [(1, "seq")]
    assert codes(edited(-1, lambda end: end.update(end=2))) == [(WINDOWS + 1, "end")]
    assert codes(edited(-1, lambda end: end.update(balance=0))) == [(WINDOWS + 1, "end")]
    forged = edited(-1, lambda end: end.update(sig="00" * 64))
    assert codes(forged) == [(WINDOWS + 1, "end-signature")]


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"[]\n", b"\xff\xfe\n", b"[" * 10**5])
def test_any_bytes_give_a_finding(data: bytes) -> None:
    assert [seq for seq, _ in codes(data)] == [0]


def test_a_file_of_no_edge_of_the_run_is_found() -> None:
    assert codes(GOOD, "x/a0-a9.jsonl") == [(0, "edge")]
    assert (0, "header") in codes(GOOD, "x/a0-a2.jsonl")


def test_an_export_of_someone_else_is_found() -> None:
    assert (0, "header") in codes(GOOD, exporter="a1")
    assert codes(export_of(RECORDS["a0", "a1"], "a1"), exporter="a1") == []


def forged_record(seq: int, **changes: Any) -> Record:
    """Record `seq` with other content, signed by both: two colluding ends."""
    record = RECORDS["a0", "a1"][seq]
    evidence = changes.pop("evidence", record.evidence)
    body = replace(Body.decode(record.body), **changes).encode()
    proposer, acceptor = ("a1", "a0") if seq % 2 else ("a0", "a1")
    sig_p = sign_proposal(KEYS[proposer], body)
    return Record(body, sig_p, sign_acceptance(KEYS[acceptor], body, sig_p), evidence)


def with_last(record: Record) -> bytes:
    return export_of([*RECORDS["a0", "a1"][:WINDOWS], record])


def test_a_delta_that_the_rule_does_not_give_is_found_though_both_signed_it() -> None:
    before = Position.of(RECORDS["a0", "a1"][WINDOWS - 1].body).balance
    record = forged_record(WINDOWS, delta=7, balance_after=before + 7)
    assert codes(with_last(record)) == [(WINDOWS, "delta")]


def test_a_balance_that_does_not_add_up_or_exceeds_the_limit_is_found() -> None:
    assert codes(with_last(forged_record(WINDOWS, balance_after=1))) == [(WINDOWS, "balance")]
    beyond = FACTS.credit_limit + 1
    before = Position.of(RECORDS["a0", "a1"][WINDOWS - 1].body).balance
    record = forged_record(WINDOWS, delta=beyond - before, balance_after=beyond)
    assert codes(with_last(record)) == [(WINDOWS, "credit-limit")]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_balance_at_the_limit_is_within_it(sign: int) -> None:
    before = Position.of(RECORDS["a0", "a1"][WINDOWS - 1].body).balance
    limit = sign * FACTS.credit_limit
    record = forged_record(WINDOWS, delta=limit - before, balance_after=limit)
    assert codes(with_last(record)) == [(WINDOWS, "delta")]  # which no bills give


def billed(referee: str, claims: dict[str, SignedClaim], **changes: Any) -> SignedBill:
    """A referee's bill of the last window, as it follows from the claims or altered."""
    signed = signed_bill(FACTS.bills, referee, claims, KEYS[referee])
    return SignedBill.sign(replace(signed.bill(), **changes), signed.claims, KEYS[referee])


def with_bills(lo: SignedBill, hi: SignedBill) -> list[tuple[int, str]]:
    """The findings where both ends signed a last record that follows from these bills."""
    delta = hi.bill().amount("a0") - lo.bill().amount("a1")
    before = Position.of(RECORDS["a0", "a1"][WINDOWS - 1].body).balance
    record = forged_record(
        WINDOWS,
        delta=delta,
        balance_after=before + delta,
        bill_digest_lo=lo.digest,
        bill_digest_hi=hi.digest,
        evidence=(lo.encode(), hi.encode()),
    )
    return codes(with_last(record))


LAST = {agent: CLAIMS[agent, WINDOWS - 1] for agent in KEYS}


def test_a_claim_signed_by_another_key_is_found() -> None:
    spoilt = {**LAST, "a2": replace(LAST["a2"], signature=bytes(64))}
    found = with_bills(billed("a0", spoilt), billed("a1", LAST))
    assert found == [(WINDOWS, "claim-signature")]


@pytest.mark.parametrize(
    "changes",
    [
        {"run": bytes(32)},
        {"rounds": (ClaimedRound(1, 2.0, ("a1",), bytes(4)),)},
        {"rounds": (ClaimedRound(9, 2.0, ("a1",), bytes(8)),)},
        {"window": 7},
    ],
)
def test_claims_of_another_run_window_round_or_size_are_found(changes: dict[str, Any]) -> None:
    claim = replace(LAST["a2"].claim(), **changes)
    claims = {**LAST, "a2": SignedClaim.sign(claim, KEYS["a2"])}
    bill = billed("a0", LAST)
    digests = tuple(claims[agent].digest for agent in sorted(claims))
    altered = SignedBill.sign(
        replace(bill.bill(), claims=digests), [claims[a] for a in sorted(claims)], KEYS["a0"]
    )
    assert with_bills(altered, billed("a1", LAST)) == [(WINDOWS, "claim")]


def test_bills_that_do_not_follow_from_their_claims_are_found() -> None:
    honest = billed("a1", LAST)
    rows = billed("a0", LAST).bill().rows
    dearer = tuple(replace(row, charge=row.charge + 1) for row in rows)
    assert with_bills(billed("a0", LAST, rows=dearer), honest) == [(WINDOWS, "bill-rows")]
    one_sided = (replace(rows[0], transfer=5), *rows[1:])
    assert with_bills(billed("a0", LAST, rows=one_sided), honest) == [(WINDOWS, "bill-sum")]
    assert with_bills(billed("a0", LAST, rule="norm:9.0"), honest) == [(WINDOWS, "bill-rule")]
    assert with_bills(billed("a0", LAST, run=bytes(32)), honest) == [(WINDOWS, "bill-run")]
    forged = replace(billed("a0", LAST), signature=bytes(64))
    assert with_bills(forged, honest) == [(WINDOWS, "bill-signature")]


def test_claims_that_a_bill_may_not_rest_on_are_found() -> None:
    without_own = {agent: LAST[agent] for agent in ("a1", "a2")}
    bill, honest = billed("a0", LAST), billed("a1", LAST)
    digests = tuple(claim.digest for claim in without_own.values())
    missing = SignedBill.sign(
        replace(bill.bill(), claims=digests), without_own.values(), KEYS["a0"]
    )
    assert with_bills(missing, honest) == [(WINDOWS, "bill-claims")]
    neighbours = {**FACTS.bills.neighbours, "a1": frozenset({"a0"})}
    apart = replace(FACTS, bills=replace(FACTS.bills, neighbours=neighbours))
    findings = audit_export(NAME, GOOD, apart).findings
    # In another graph a bill asks for another part of a penalty, too.
    assert {f.code for f in findings} == {"bill-claims", "bill-rows"}
    strangers = [f for f in findings if f.code == "bill-claims"]
    assert [f.seq for f in strangers] == [1, 2, 3]
    assert all("a1" in f.detail for f in strangers)


def test_bills_of_another_window_than_the_record_are_found() -> None:
    record = RECORDS["a0", "a1"][2]
    body = Body.decode(record.body)
    before = Position.of(RECORDS["a0", "a1"][WINDOWS - 1].body).balance
    stale = forged_record(
        WINDOWS,
        delta=body.delta,
        balance_after=before + body.delta,
        bill_digest_lo=body.bill_digest_lo,
        bill_digest_hi=body.bill_digest_hi,
        evidence=record.evidence,
    )
    assert codes(with_last(stale)) == [(WINDOWS, "bill-window")] * 2


def test_bills_of_a_window_to_come_are_found() -> None:
    genesis, first, _, last = RECORDS["a0", "a1"]
    said, body = Body.decode(last.body), Body.decode(first.body)
    early = forged_record(
        1,
        delta=said.delta,
        balance_after=said.delta,
        bill_digest_lo=said.bill_digest_lo,
        bill_digest_hi=said.bill_digest_hi,
        evidence=last.evidence,
    )
    assert (said.window, body.window) == (2, 0)
    assert codes(export_of([genesis, early])) == [(1, "bill-window")] * 2


def test_bills_by_another_rule_are_found() -> None:
    facts = replace(FACTS, bills=replace(FACTS.bills, payments=parse_rule("norm:0.25")))
    findings = audit_export(NAME, GOOD, facts).findings
    assert {(f.seq, f.code) for f in findings} == {(seq, "bill-rule") for seq in (1, 2, 3)}


def test_an_empty_chain_is_a_clean_export() -> None:
    assert codes(export_of([])) == []


def audit(files: Mapping[Any, ExportFile]) -> RunAudit:
    return audit_run(files.values(), FACTS)


def test_a_true_run_is_clean_and_its_nets_sum_to_zero() -> None:
    result = audit(run_files())
    assert result.findings == () == result.notes
    assert sum(result.nets.values()) == 0
    # Per window w+1: energies 2, 3, 4 times (w+1), price 0.5, everyone pays the difference.
    assert result.nets == {"a0": 9_000_000, "a1": 0, "a2": -9_000_000}
    assert [(e.lo, e.hi, e.windows, e.balance_lo) for e in result.edges] == [
        ("a0", "a1", 3, 3_000_000),
        ("a0", "a2", 3, 6_000_000),
        ("a1", "a2", 3, 3_000_000),
    ]


def shortened(exporter: str, count: int) -> dict[tuple[str, str, str], ExportFile]:
    files = run_files()
    file = files["a0", "a1", exporter]
    data = export_of(RECORDS["a0", "a1"][:count], exporter)
    files["a0", "a1", exporter] = replace(file, data=data)
    return files


def test_one_record_that_its_proposer_has_not_seen_accepted_is_noted_not_blamed() -> None:
    result = audit(shortened("a1", WINDOWS))  # record 3 is a1's proposal
    assert result.findings == ()
    [note] = result.notes
    assert (note.edge, note.seq, note.code) == ("a0-a1", WINDOWS, "unacknowledged")
    assert result.edges[0].unacknowledged
    assert result.nets == {"a0": 9_000_000, "a1": 0, "a2": -9_000_000}


@pytest.mark.parametrize(("exporter", "count"), [("a0", 3), ("a1", 2), ("a0", 2), ("a1", 0)])
def test_records_that_one_end_hides_are_found(exporter: str, count: int) -> None:
    result = audit(shortened(exporter, count))
    hidden = Finding(
        f"agents/{exporter}/ledger/a0-a1.jsonl",
        "a0-a1",
        count,
        "ends-differ",
        f"{WINDOWS + 1 - count} of the records that "
        f"{'a1' if exporter == 'a0' else 'a0'} has are missing",
    )
    assert hidden in result.findings


def test_two_different_records_with_one_number_are_found() -> None:
    files = run_files()
    other = forged_record(WINDOWS, nonce_lo=bytes(16))
    files["a0", "a1", "a1"] = replace(
        files["a0", "a1", "a1"], data=export_of([*RECORDS["a0", "a1"][:WINDOWS], other], "a1")
    )
    [finding] = audit(files).findings
    assert (finding.edge, finding.seq, finding.code) == ("a0-a1", WINDOWS, "ends-differ")


def test_a_missing_export_is_found() -> None:
    files = run_files()
    del files["a1", "a2", "a2"]
    result = audit(files)
    assert ("agents/a2/ledger/a1-a2.jsonl", "a1-a2", 0, "missing") in {
        (f.file, f.edge, f.seq, f.code) for f in result.findings
    }


@pytest.mark.parametrize(
    ("opened", "code"), [(OPEN, "two-claims"), ((), "claims-differ"), ((0, 2), "claims-differ")]
)
def test_an_agent_that_claims_two_things_for_one_window_is_found(
    opened: Container[int], code: str
) -> None:
    files = run_files(opened)
    terms = FACTS.terms("a0", "a2")
    claims = {**CLAIMS, ("a0", 1): claim("a0", 1, 3.5)}
    for agent in ("a0", "a2"):
        data = export_channel(terms, agent, KEYS[agent], settle_edge(terms, claims), opened)
        files["a0", "a2", agent] = replace(files["a0", "a2", agent], data=data)
    findings = audit(files).findings
    assert {(f.edge, f.seq, f.code) for f in findings} == {
        ("a0-a2", 2, code),
        ("a0-a2", 2, "two-bills"),
    } | {("a1-a2", 2, "two-bills")}


def test_a_referee_that_signs_two_bills_for_one_window_is_found() -> None:
    """The bills ask for the same and rest on the same claims: only the edge shows the other one."""
    files = run_files()
    lo, hi = billed("a0", LAST, previous=0), billed("a1", LAST)
    other = forged_record(WINDOWS, bill_digest_lo=lo.digest, evidence=(lo.encode(), hi.encode()))
    for agent in ("a0", "a1"):
        data = export_of([*RECORDS["a0", "a1"][:WINDOWS], other], agent)
        files["a0", "a1", agent] = replace(files["a0", "a1", agent], data=data)
    findings = audit(files).findings
    assert {(f.edge, f.seq, f.code) for f in findings} == {("a0-a2", WINDOWS, "two-bills")}
    assert all(f.detail.startswith("a0 signed another one") for f in findings)


def test_a_run_without_payments_needs_no_exports() -> None:
    result = audit_run([], replace(FACTS, bills=replace(FACTS.bills, payments=parse_rule("none"))))
    assert result.findings == ()
    assert set(result.nets.values()) == {0}


def test_an_invented_claim_accuses_nobody_but_the_ends_that_signed_the_record() -> None:
    """Two ends collude and put a claim that a2 never signed into their last bill."""
    invented = replace(claim("a2", WINDOWS - 1, 77.0), signature=bytes(64))
    lo = billed("a0", {**LAST, "a2": invented})
    hi = billed("a1", LAST)
    delta = hi.bill().amount("a0") - lo.bill().amount("a1")
    before = Position.of(RECORDS["a0", "a1"][WINDOWS - 1].body).balance
    record = forged_record(
        WINDOWS,
        delta=delta,
        balance_after=before + delta,
        bill_digest_lo=lo.digest,
        bill_digest_hi=hi.digest,
        evidence=(lo.encode(), hi.encode()),
    )
    files = run_files()
    for agent in ("a0", "a1"):
        data = export_of([*RECORDS["a0", "a1"][:WINDOWS], record], agent)
        files["a0", "a1", agent] = replace(files["a0", "a1", agent], data=data)
    found = {(f.edge, f.code) for f in audit(files).findings}
    assert ("a0-a1", "claim-signature") in found
    assert not any(code == "two-claims" for _, code in found)


def test_an_export_shows_the_claims_of_opened_windows_only() -> None:
    records = settle_edge(TERMS, CLAIMS)
    for opened in ((), (1,), OPEN):
        data = export_of(records, opened=opened)
        for window in OPEN:
            shown = [c.body.hex() in data.decode() for c in _claims_of(window)]
            assert shown == [window in opened] * len(KEYS)


def _claims_of(window: int) -> list[SignedClaim]:
    return [CLAIMS[agent, window] for agent in KEYS]


def test_sealed_exports_are_audited_without_recomputing_and_the_audit_says_so() -> None:
    for opened, recomputed in (((), 0), ((1,), 3), (OPEN, 9)):
        result = audit(run_files(opened))
        assert result.findings == () == result.notes
        assert (result.recomputed, result.bills) == (recomputed, 9)
        assert result.nets == {"a0": 9_000_000, "a1": 0, "a2": -9_000_000}


def test_claims_at_hand_open_sealed_exports() -> None:
    held = {c.digest: c for c in CLAIMS.values()}
    result = audit_run(run_files(()).values(), FACTS, claims=held)
    assert (result.findings, result.recomputed, result.bills) == ((), 9, 9)
    # A bill is opened whole or not at all, and other claims open nothing.
    del held[CLAIMS["a2", 1].digest]
    held[bytes(32)] = claim("a2", 1, 8.0)
    assert audit_run(run_files(()).values(), FACTS, claims=held).recomputed == 6


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"run": bytes(32)}, "bill-run"),
        ({"rule": "norm:9.0"}, "bill-rule"),
        ({"claims": (bytes(32),)}, "bill-claims"),
        ({"claims": (bytes(32),) * 3}, "bill-claims"),
        ({"rows": (Row("a1", 5, 0), Row("a2", -5, 0)), "claims": ()}, "bill-claims"),
        ({"rows": (Row("a1", 0, 0), Row("b0", 0, 0))}, "bill-claims"),
        ({"rows": (Row("a1", 5, 0), Row("a2", 0, 0))}, "bill-sum"),
    ],
)
def test_a_sealed_bill_is_judged_by_all_that_it_shows(changes: dict[str, Any], code: str) -> None:
    lo, hi = billed("a0", LAST), billed("a1", LAST)
    altered = SignedBill.sign(replace(lo.bill(), **changes), (), KEYS["a0"])
    assert with_bills(altered, hi.sealed()) == [(WINDOWS, code)]
