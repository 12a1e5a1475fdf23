"""The tables of the daemon's database, and the statements that read and write them.

Schema (version 3)
    meta      key, value             `schema`, `fingerprint`: hex of the run's cluster file
    channels  channel_id, lo, hi, public_lo, public_hi, run_id, fingerprint, credit_limit,
              status, reason         one row an edge; status as `mechanisms.ledger.channel.Status`
    records   channel_id, seq, head, body, sig_p, sig_a, evidence
                                     the chains; evidence is the canonical array of its items
    pending   channel_id, body, sig_p, evidence
                                     at most one own proposal a channel, without its ACCEPT
    refusals  channel_id, seq, attempt, body, sig_p, code, signature
                                     every closed attempt, of either end, with its REJECT
    payments  channel_id, delta, replaces
                                     at most one a channel: told of, not on record yet; and the one
                                     told before that it takes the place of, if it must
    settings  key, value             whatever else must survive (claims, positions, counters)
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

from candor.agent.core.effects import PutValue, StoreOperation
from candor.mechanisms.ledger.bodies import Body
from candor.mechanisms.ledger.channel import (
    ChannelState,
    ChannelTerms,
    Pending,
    Record,
    Refusal,
    Status,
    StorePayment,
    StorePending,
    StoreRecord,
    StoreRefusal,
    StoreStatus,
)
from candor.mechanisms.ledger.records import Evidence
from candor.topologies.encoding.canonical import MalformedError, pack, unpack
from candor.topologies.specs.specs import ConfigurationError

SCHEMA_VERSION: Final = 5
EVIDENCE_BYTES_MAX: Final = 2**23

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS channels (
    channel_id BLOB PRIMARY KEY,
    lo TEXT NOT NULL, hi TEXT NOT NULL,
    public_lo BLOB NOT NULL, public_hi BLOB NOT NULL,
    run_id TEXT NOT NULL, fingerprint BLOB NOT NULL, credit_limit INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'open', reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS records (
    channel_id BLOB NOT NULL REFERENCES channels, seq INTEGER NOT NULL,
    head BLOB NOT NULL, body BLOB NOT NULL,
    sig_p BLOB NOT NULL, sig_a BLOB NOT NULL, evidence BLOB NOT NULL,
    PRIMARY KEY (channel_id, seq)
) STRICT;
CREATE TABLE IF NOT EXISTS pending (
    channel_id BLOB PRIMARY KEY REFERENCES channels,
    body BLOB NOT NULL, sig_p BLOB NOT NULL, evidence BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS refusals (
    channel_id BLOB NOT NULL REFERENCES channels, seq INTEGER NOT NULL, attempt INTEGER NOT NULL,
    body BLOB NOT NULL, sig_p BLOB NOT NULL, code TEXT NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (channel_id, seq, attempt)
) STRICT;
CREATE TABLE IF NOT EXISTS payments (
    channel_id BLOB PRIMARY KEY REFERENCES channels, delta INTEGER NOT NULL, replaces INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
"""


def _blobs(*columns: str) -> str:
    """Columns to select as bytes: a damaged row can hold values of any type, which are then as
    wrong as other damaged bytes."""
    return ", ".join(f"COALESCE(CAST({column} AS BLOB), x'')" for column in columns)


_RECORD: Final = ("body", "sig_p", "sig_a", "evidence")


class OtherPayment(Exception):
    """A payment is to replace one that is not what the agent was told, which is `told`."""

    def __init__(self, told: int) -> None:
        super().__init__(f"told of {told}")
        self.told = told


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Check that it is a database of ours: in that of a stranger, a view may take for ever to read.

    Raises:
        ConfigurationError: it is not.
    """
    kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT type FROM sqlite_master")}
    row = None
    if kinds <= {"table", "index"}:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if row is None or row[0] != str(SCHEMA_VERSION):
        raise ConfigurationError(f"{path}: not a ledger database of this version")


def prepare(
    connection: sqlite3.Connection,
    path: Path,
    fingerprint: str,
    channels: Sequence[ChannelTerms],
    *,
    grows: bool,
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(
            "INSERT OR IGNORE INTO meta VALUES ('schema', ?), ('fingerprint', ?)",
            (str(SCHEMA_VERSION), fingerprint),
        )
        check_schema(connection, path)
        row = connection.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
        if row[0] != fingerprint:
            raise ConfigurationError(
                f"{path}: belongs to another run (cluster {row[0][:12]}…, this one is "
                f"{fingerprint[:12]}…); use another --data-dir"
            )
        known = {row[0] for row in connection.execute("SELECT channel_id FROM channels")}
        given = {terms.channel_id for terms in channels}
        if known and channels and not (known == given or (grows and known < given)):
            raise ConfigurationError(
                f"{path}: belongs to another agent of this run; use another --data-dir"
            )
        for terms in channels:
            connection.execute(
                "INSERT OR IGNORE INTO channels (channel_id, lo, hi, public_lo, public_hi, run_id,"
                " fingerprint, credit_limit) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    terms.channel_id,
                    terms.lo,
                    terms.hi,
                    terms.public_lo,
                    terms.public_hi,
                    terms.run_id,
                    terms.fingerprint,
                    terms.credit_limit,
                ),
            )
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def commit(connection: sqlite3.Connection, ops: Sequence[StoreOperation]) -> None:
    """Perform all operations or none; raises OtherPayment."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for op in ops:
            _perform(connection, op)
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # a full disk ends the transaction by itself
        connection.execute("ROLLBACK")


def _perform(connection: sqlite3.Connection, op: StoreOperation) -> None:
    match op:
        case StorePending():
            connection.execute(
                "INSERT INTO pending VALUES (?, ?, ?, ?)",
                (op.channel_id, op.body, op.sig_p, pack(list(op.evidence))),
            )
        case StoreRecord():
            record = Record(op.body, op.sig_p, op.sig_a, op.evidence)
            _insert_record(connection, op.channel_id, op.seq, record)
            _clear(connection, op.channel_id, op.paid)
            connection.execute(
                "DELETE FROM payments WHERE channel_id = ? AND replaces = ?",
                (op.channel_id, op.paid),
            )
        case StoreRefusal():
            closed = op.refusal
            connection.execute(
                "INSERT INTO refusals VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    op.channel_id,
                    closed.seq,
                    closed.attempt,
                    closed.body,
                    closed.sig_p,
                    closed.code,
                    closed.signature,
                ),
            )
            _clear(connection, op.channel_id, op.paid)
            _set_status(connection, op.channel_id, op.status, op.reason)
        case StorePayment():
            told = payments(connection).get(op.channel_id, 0)
            if op.replaces is not None and told != op.replaces:
                raise OtherPayment(told)
            connection.execute("DELETE FROM payments WHERE channel_id = ?", (op.channel_id,))
            if op.delta:
                row = (op.channel_id, op.delta, op.replaces)
                connection.execute("INSERT INTO payments VALUES (?, ?, ?)", row)
        case StoreStatus():
            _set_status(connection, op.channel_id, op.status, op.reason)
        case PutValue():
            connection.execute(
                "INSERT INTO settings VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (op.key, op.value),
            )
        case _:
            assert_never(op)


def _clear(connection: sqlite3.Connection, channel_id: bytes, paid: int) -> None:
    """What is answered waits no longer: the proposal, and the payment that was in it. The operator
    may have told of another one meanwhile."""
    connection.execute("DELETE FROM pending WHERE channel_id = ?", (channel_id,))
    connection.execute(
        "DELETE FROM payments WHERE channel_id = ? AND delta = ?", (channel_id, paid)
    )


def _set_status(
    connection: sqlite3.Connection, channel_id: bytes, status: Status, reason: str
) -> None:
    connection.execute(
        "UPDATE channels SET status = ?, reason = ? WHERE channel_id = ?",
        (status.value, reason, channel_id),
    )


def value(connection: sqlite3.Connection, key: str) -> bytes | None:
    row = connection.execute(
        f"SELECT {_blobs('value')} FROM settings WHERE key = ?", (key,)
    ).fetchone()
    return None if row is None else bytes(row[0])


def channels(connection: sqlite3.Connection) -> list[ChannelTerms]:
    rows = connection.execute(
        "SELECT lo, hi, public_lo, public_hi, run_id, fingerprint, credit_limit "
        "FROM channels ORDER BY lo, hi"
    )
    return [ChannelTerms(*row) for row in rows]


def payments(connection: sqlite3.Connection) -> dict[bytes, int]:
    return dict(connection.execute("SELECT channel_id, delta FROM payments").fetchall())


def channel_state(connection: sqlite3.Connection, channel_id: bytes) -> ChannelState:
    status, reason = connection.execute(
        "SELECT status, COALESCE(CAST(reason AS TEXT), '') FROM channels WHERE channel_id = ?",
        (channel_id,),
    ).fetchone() or (Status.OPEN, "")
    heads = connection.execute(
        "SELECT head FROM records WHERE channel_id = ? ORDER BY seq", (channel_id,)
    ).fetchall()
    last = records(connection, channel_id, len(heads) - 1, 1) if heads else []
    if last and last[0].head != heads[-1][0]:
        raise sqlite3.DatabaseError("the chain of records is malformed")
    row = connection.execute(
        f"SELECT {_blobs('body', 'sig_p', 'evidence')} FROM pending WHERE channel_id = ?",
        (channel_id,),
    ).fetchone()
    refusals = connection.execute(
        "SELECT seq, attempt, body, sig_p, code, signature FROM refusals "
        "WHERE channel_id = ? ORDER BY seq, attempt",
        (channel_id,),
    )
    payment = connection.execute(
        "SELECT delta FROM payments WHERE channel_id = ?", (channel_id,)
    ).fetchone()
    return ChannelState(
        heads=tuple(head for (head,) in heads),
        last=last[0] if last else None,
        pending=None if row is None else Pending(row[0], row[1], _evidence(row[2])),
        status=_status(status),
        reason=reason,
        refusals=tuple(Refusal(*fields) for fields in refusals),
        payment=payment[0] if payment else 0,
    )


def _status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise sqlite3.DatabaseError("the status of a channel is malformed") from None


def records(
    connection: sqlite3.Connection, channel_id: bytes, first: int, limit: int
) -> list[Record]:
    rows = connection.execute(
        f"SELECT {_blobs(*_RECORD)} FROM records "
        "WHERE channel_id = ? AND seq >= ? ORDER BY seq LIMIT ?",
        (channel_id, first, limit),
    )
    return [Record(body, sig_p, sig_a, _evidence(data)) for body, sig_p, sig_a, data in rows]


def chain(connection: sqlite3.Connection, channel_id: bytes) -> list[tuple[bool, Record]]:
    """All records of a channel, each with whether its number, hash, channel and types are as they
    were written; those of which the channel was damaged stand where their body says."""
    blobs = "blob" * len(_RECORD)
    return [
        (beside == (channel_id, place, record.head, blobs), record)
        for place, (_, beside, record) in enumerate(_rows(connection, channel_id))
    ]


def replace_chain(
    connection: sqlite3.Connection, channel_id: bytes, records: Sequence[Record]
) -> None:
    """Store the records of a channel anew, all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for row_id, *_ in _rows(connection, channel_id):
            connection.execute("DELETE FROM records WHERE rowid = ?", (row_id,))
        for seq, record in enumerate(records):
            _insert_record(connection, channel_id, seq, record)
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _rows(
    connection: sqlite3.Connection, channel_id: bytes
) -> list[tuple[int, tuple[bytes, int, bytes, str], Record]]:
    """(row, (channel id, number, hash, types), record) of a channel's records, with those of no
    channel at all whose body says that they are of this one."""
    types = " || ".join(f"typeof({column})" for column in _RECORD)
    rows = []
    for row_id, channel, seq, head, kinds, body, sig_p, sig_a, data in connection.execute(
        f"SELECT rowid, channel_id, seq, head, {types}, {_blobs(*_RECORD)} FROM records "
        "WHERE channel_id = ? OR channel_id IS NULL"
        " OR channel_id NOT IN (SELECT channel_id FROM channels) ORDER BY seq",
        (channel_id,),
    ):
        if channel == channel_id or _channel_of(body) == channel_id:
            record = Record(body, sig_p, sig_a, _evidence(data))
            rows.append((row_id, (channel, seq, head, kinds), record))
    return rows


def _channel_of(body: bytes) -> bytes | None:
    try:
        return Body.decode(body).channel_id
    except MalformedError:
        return None


def _insert_record(
    connection: sqlite3.Connection, channel_id: bytes, seq: int, record: Record
) -> None:
    connection.execute(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            channel_id,
            seq,
            record.head,
            record.body,
            record.sig_p,
            record.sig_a,
            pack(list(record.evidence)),
        ),
    )


def _evidence(data: bytes) -> Evidence:
    """The items; what is damaged is one item, which no record's body names."""
    try:
        items = unpack(data, bytes_max=EVIDENCE_BYTES_MAX)
    except MalformedError:
        return (data,)
    if not isinstance(items, list):
        return (data,)
    kept = tuple(item for item in items if isinstance(item, bytes))
    return kept if len(kept) == len(items) else (data,)
