"""The ledgers in an agent's database, as rows for people and machines; payments told to an agent,
and damaged records restored.

Not the audit, which needs no database: `candor.agent.runs.ledger_audit`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any

from candor.agent.daemon.exports import AGENTS_NAME
from candor.agent.daemon.status import DataDirLock, read_status
from candor.agent.daemon.store import FILE_NAME, Store, StoreError
from candor.agent.daemon.store_tables import OtherPayment
from candor.agent.runs.ledger_audit import read_export, signed_claims
from candor.mechanisms.ledger.attempts import Attempts
from candor.mechanisms.ledger.bodies import LedgerViolation, Position
from candor.mechanisms.ledger.channel import StorePayment
from candor.mechanisms.ledger.export import parse_export
from candor.mechanisms.ledger.export_audit import AuditFacts, audit_export
from candor.mechanisms.ledger.stored_chain import mended
from candor.mechanisms.payments.credits import AMOUNT_MAX, format_credits, paid_text
from candor.topologies.specs.specs import ConfigurationError, SignatureError


@contextmanager
def opened(data_dir: Path, *, to_tell: bool = False) -> Iterator[Store]:
    """The database of one agent; `to_tell` it of a payment while its daemon may run.

    Raises:
        ConfigurationError: there is none, or it cannot be read or written.
    """
    path = data_dir / FILE_NAME
    if not path.exists():
        raise ConfigurationError(
            f"{data_dir}: no {FILE_NAME} here; name the data directory of one agent, "
            f"such as RUN_DIR/{AGENTS_NAME}/ID"
        )
    with Store.open(path, to_tell=to_tell) as store:
        try:
            yield store
        except StoreError as exc:
            raise ConfigurationError(str(exc)) from exc


def channel_rows(store: Store) -> list[dict[str, Any]]:
    """Every channel of a database, in the fields of `candor ledger show --json`."""
    rows = []
    for terms in store.channels():
        state = store.channel_state(terms.channel_id)
        position = Position.of(state.last.body) if state.last else Position()
        rows.append(
            {
                "channel_id": terms.channel_id.hex(),
                "lo": terms.lo,
                "hi": terms.hi,
                "seq": position.seq,
                "window": position.window,
                "balance_lo": -position.balance,
                "balance_hi": position.balance,
                "pending": state.pending is not None,
                "attempt": Attempts(state.refusals).due(position.seq + 1),
                "payment": state.payment,
                "status": str(state.status),
                "reason": state.reason,
                "credit_limit": terms.credit_limit,
            }
        )
    return rows


def tell_payment(
    data_dir: Path, peer: str, received: int, replaced: int | None = None
) -> dict[str, Any]:
    """Tell an agent of a payment outside the system: `received` micro-credits from its neighbour,
    below 0 it has paid, 0 for none; in the place of one of `replaced` micro-credits, if given, in
    the same direction. The channel's row as it was before.

    Raises:
        ConfigurationError: no such neighbour, a ledger that takes no record, more than can be owed,
            or another payment than `replaced` waits.
    """
    with opened(data_dir, to_tell=True) as store:
        row = _channel_with(store, data_dir, peer)
        if abs(received) > row["credit_limit"]:
            amount, limit = (format_credits(abs(x)) for x in (received, row["credit_limit"]))
            raise ConfigurationError(
                f"AMOUNT {amount}: above the credit limit of {limit}, so never owed"
            )
        # Of a record: above 0 when hi has paid lo.
        delta = received if row["hi"] == peer else -received
        before = None if replaced is None else replaced * (1 if delta > 0 else -1)
        try:
            store.commit([StorePayment(bytes.fromhex(row["channel_id"]), delta, before)]).result()
        except OtherPayment as exc:
            waits = paid_text(row["lo"], row["hi"], exc.told) if exc.told else "no payment"
            raise ConfigurationError(
                f"--replace: {waits} waits here, so nothing was told; `candor ledger show` says "
                "what is on record"
            ) from exc
    return row


def repair_channel(data_dir: Path, source: Path, facts: AuditFacts) -> list[int]:
    """Restore what is damaged of one edge's records from the neighbour's export of it; the numbers
    of the records that were.

    Raises:
        ConfigurationError: the database has no such edge, or its daemon is running.
        SignatureError: the export does not hold, the two contradict each other, or a record is
            damaged that the export does not have; nothing was changed.
    """
    data = read_export(source)
    found = audit_export(str(source), data, facts)
    if found.findings:
        raise SignatureError(str(found.findings[0]))
    terms = facts.terms(found.lo, found.hi)
    with DataDirLock(data_dir), opened(data_dir, to_tell=True) as store:
        if terms not in store.channels():
            raise ConfigurationError(f"{data_dir}: it has no ledger {found.edge} of this run")
        rows = store.chain(terms.channel_id)
        stored = [record for _, record in rows]
        claims = signed_claims(stored, facts)
        copy = [record.opened(claims) for record in parse_export(data).records]
        try:
            chain, taken = mended(terms, stored, copy)
        except LedgerViolation as exc:
            raise SignatureError(f"{data_dir}: edge {found.edge}: {exc}") from exc
        beside = {seq for seq, (sound, _) in enumerate(rows) if not sound}
        if taken or beside:
            store.replace_chain(terms.channel_id, chain)
    return sorted({*taken, *beside})


def micro_credits(amount: str, name: str = "AMOUNT") -> int:
    """Credits as typed, exactly, in micro-credits above 0; raises ConfigurationError."""
    try:
        micro = Decimal(amount).scaleb(6)
    except DecimalException:  # no number, or one beyond all bounds
        micro = Decimal("NaN")
    if not (micro.is_finite() and 0 < micro <= AMOUNT_MAX and micro == micro.to_integral_value()):
        raise ConfigurationError(f"{name} {amount}: not credits above 0 with six decimals at most")
    return int(micro)


def _channel_with(store: Store, data_dir: Path, peer: str) -> dict[str, Any]:
    own, rows = read_status(data_dir).agent, channel_rows(store)
    by_peer = {row["hi"] if row["lo"] == own else row["lo"]: row for row in rows}
    if peer not in by_peer:
        raise ConfigurationError(
            f"{data_dir}: {own} has no ledger with {peer}; it has one with {', '.join(by_peer)}"
        )
    row = by_peer[peer]
    if row["status"] != "open":
        raise ConfigurationError(
            f"{row['lo']}-{row['hi']}: the ledger is {row['status']} ({row['reason']}) "
            "and takes no record any more"
        )
    return row
