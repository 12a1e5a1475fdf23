"""The daemon's database: ledgers and small values in one SQLite file, durable at each commit.

One connection on one thread does everything, so transactions never interleave and the event loop
never waits for a disk. WAL with synchronous=FULL: a commit whose future is done survives a power
cut. That two daemons do not share a file is the data directory's lock's business. The tables are
described in `agent.daemon.store_tables`.
"""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar

from candor.agent.core.effects import PutValue as PutValue
from candor.agent.core.effects import StoreOperation
from candor.agent.daemon import store_tables
from candor.mechanisms.ledger.channel import ChannelState, ChannelTerms, Record
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME: Final = "ledger.sqlite"
BUSY_TIMEOUT_S: Final = 5.0
"""A reader such as `candor ledger show` holds the file for milliseconds."""

T = TypeVar("T")


class StoreError(Exception):
    """The database could not be written or read: one line that names the file. `code`: SQLite's
    own number for why."""

    def __init__(self, told: str, code: int = sqlite3.SQLITE_ERROR) -> None:
        super().__init__(told)
        self.code = code


class Store:
    """An open database; use `Store.open`, and `close` it (or use it as a context manager)."""

    def __init__(self, path: Path, connection: sqlite3.Connection, writer: ThreadPoolExecutor):
        self._path = path
        self._connection = connection
        self._writer = writer

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        fingerprint: str | None = None,
        channels: Sequence[ChannelTerms] = (),
        grows: bool = False,
        to_tell: bool = False,
    ) -> Self:
        """Open the database of a run, creating it when needed; or, without a fingerprint, open an
        existing one of any run for reading.

        Args:
            fingerprint: of the cluster file, 64 hex.
            channels: the agent's edges; records can be stored of these only.
            grows: whether there may be more of them than before.
            to_tell: without a fingerprint, to commit `StorePayment` beside a running daemon.

        Raises:
            ConfigurationError: it belongs to another run, or cannot be opened: missing, locked,
                corrupt, not writable, disk full.
        """
        writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            connection = writer.submit(_open, path, fingerprint, channels, grows, to_tell).result()
        except (sqlite3.Error, OSError) as exc:
            writer.shutdown()
            raise ConfigurationError(_explain(path, exc)) from exc
        except ConfigurationError:
            writer.shutdown()
            raise
        return cls(path, connection, writer)

    def close(self) -> None:
        """Finish the commits that wait, then close the file."""
        self._writer.submit(self._connection.close).result()
        self._writer.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, ops: Sequence[StoreOperation]) -> Future[None]:
        """Perform all operations in one transaction, in order, after earlier commits.

        The future is done when the data is on disk, and fails with StoreError when nothing of it
        was stored.
        """
        return self._writer.submit(
            self._guarded, lambda connection: store_tables.commit(connection, ops)
        )

    def value(self, key: str) -> bytes | None:
        """A value as last put."""
        return self._read(lambda connection: store_tables.value(connection, key))

    def channels(self) -> list[ChannelTerms]:
        """The terms of every channel, by lo and hi."""
        return self._read(store_tables.channels)

    def payments(self) -> dict[bytes, int]:
        """The payments that this end was told of and no record holds yet, by channel id."""
        return self._read(store_tables.payments)

    def channel_state(self, channel_id: bytes) -> ChannelState:
        """What `Channel` is rebuilt from; the empty state for a channel without records."""
        return self._read(lambda connection: store_tables.channel_state(connection, channel_id))

    def records(self, channel_id: bytes, first: int = 0, count: int | None = None) -> list[Record]:
        """The records of a channel from `first` on, ascending, `count` at most."""
        limit = -1 if count is None else count
        return self._read(
            lambda connection: store_tables.records(connection, channel_id, first, limit)
        )

    def chain(self, channel_id: bytes) -> list[tuple[bool, Record]]:
        """All records of a channel, each with whether what stands beside it is unchanged."""
        return self._read(lambda connection: store_tables.chain(connection, channel_id))

    def replace_chain(self, channel_id: bytes, records: Sequence[Record]) -> None:
        """Store the records of a channel anew, all or nothing."""
        self._read(lambda connection: store_tables.replace_chain(connection, channel_id, records))

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return self._writer.submit(self._guarded, read).result()

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connection)
        except sqlite3.Error as exc:
            code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # of some, none is known
            raise StoreError(_explain(self._path, exc), code) from exc


def _explain(path: Path, exc: Exception) -> str:
    text = str(exc)
    if "locked" in text:
        mend = "another process holds it; stop that one first"
    elif "not a database" in text or "malformed" in text:
        mend = (
            "the file is damaged; `candor ledger repair` restores records from exports of the "
            "neighbours, or restore a backup: they send what it lacks"
        )
    elif "no such table" in text:
        mend = "this is no ledger of an agent, or an emptied one; restore a backup, or move it away"
    elif "full" in text or "disk I/O" in text:  # SQLite's word for a quota or a limit of the system
        mend = "the disk is full or failing; make room and start again, nothing settled is lost"
    elif "readonly" in text or "unable to open" in text:
        mend = "check that the directory exists and is writable"
    else:
        mend = "the database cannot be used"
    return f"{path}: {text}; {mend}"


def _open(
    path: Path,
    fingerprint: str | None,
    channels: Sequence[ChannelTerms],
    grows: bool,
    to_tell: bool,
) -> sqlite3.Connection:
    if fingerprint is None and not path.exists():
        raise ConfigurationError(f"{path}: no such database")
    mode = "rwc" if fingerprint is not None else "rw" if to_tell else "ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are begun and ended by `store_tables.commit`
    )
    try:
        connection.execute("PRAGMA foreign_keys=ON")
        if fingerprint is None:
            store_tables.check_schema(connection, path)
        else:
            connection.execute("PRAGMA journal_mode=WAL")
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("database disk image is malformed")
            connection.execute("PRAGMA synchronous=FULL")
            store_tables.prepare(connection, path, fingerprint, channels, grows=grows)
    except BaseException:
        connection.close()
        raise
    return connection
