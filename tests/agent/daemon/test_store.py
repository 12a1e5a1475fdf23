"""The store keeps what it said it keeps, or says in one line why it cannot."""

import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from candor.agent.core.effects import PutValue
from candor.agent.daemon.store import Store, StoreError
from candor.agent.daemon.store_tables import OtherPayment
from candor.mechanisms.ledger.channel import (
    Channel,
    ChannelState,
    ChannelTerms,
    Effect,
    Record,
    Refusal,
    Status,
    StorePayment,
    StorePending,
    StoreRecord,
    StoreRefusal,
    StoreStatus,
    Transmit,
)
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.specs import ConfigurationError

LO, HI = SigningKey(sha256(b"lo")), SigningKey(sha256(b"hi"))
FINGERPRINT = "ab" * 32
TERMS = ChannelTerms("a0", "a1", LO.public, HI.public, "test", bytes.fromhex(FINGERPRINT), 10**9)
ID = TERMS.channel_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def open_store(path: Path) -> Store:
    return Store.open(path, fingerprint=FINGERPRINT, channels=[TERMS])


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def genesis() -> tuple[StorePending, StoreRecord, StoreRecord]:
    """What both ends store for record 0: lo's proposal and record, hi's record."""
    lo, hi = Channel(TERMS, LO), Channel(TERMS, HI)
    nonces = bytes(16), bytes([1] * 16)

    def messages(effects: list[Effect]) -> list[Transmit]:
        return [effect for effect in effects if isinstance(effect, Transmit)]

    [from_hi] = messages(hi.connected(nonces[1], nonces[0]))
    [from_lo] = messages(lo.connected(*nonces))
    hi.received_from_peer(from_lo.message)
    _, pending, sent = lo.received_from_peer(from_hi.message)
    assert isinstance(pending, StorePending)
    assert isinstance(sent, Transmit)
    of_hi, accepted = hi.received_from_peer(sent.message)
    assert isinstance(of_hi, StoreRecord)
    assert isinstance(accepted, Transmit)
    [of_lo] = lo.received_from_peer(accepted.message)
    assert isinstance(of_lo, StoreRecord)
    return pending, of_lo, of_hi


PENDING, RECORD, _ = genesis()


def following(seq: int) -> StoreRecord:
    """A record of any content: the store judges none."""
    evidence = (b"bundle", bytes(1000))
    return replace(RECORD, seq=seq, body=RECORD.body + bytes([seq]), evidence=evidence)


def test_a_new_channel_has_the_empty_state(store: Store) -> None:
    assert store.channel_state(ID) == ChannelState()
    assert store.records(ID) == []
    assert store.channels() == [TERMS]


def test_a_channel_is_rebuilt_from_what_was_stored(path: Path) -> None:
    with open_store(path) as store:
        store.commit([PENDING]).result()
    with open_store(path) as store:
        state = store.channel_state(ID)
        assert state.pending is not None
        assert (state.pending.body, state.pending.sig_p) == (PENDING.body, PENDING.sig_p)
        assert state.heads == ()
        store.commit([RECORD, StoreStatus(ID, Status.DISPUTED, "mismatch")]).result()
    with open_store(path) as store:
        state = store.channel_state(ID)
    assert state.pending is None
    assert state.heads == (sha256(RECORD.body),)
    assert (state.status, state.reason) == (Status.DISPUTED, "mismatch")
    channel = Channel(TERMS, LO, state)
    assert channel.position.head == sha256(RECORD.body)
    assert channel.status is Status.DISPUTED


def test_a_refusal_clears_the_proposal_and_stays_in_one_transaction(path: Path) -> None:
    refusal = Refusal(0, 0, PENDING.body, PENDING.sig_p, "mismatch", bytes(64))
    closed = StoreRefusal(ID, refusal, Status.DISPUTED, "mismatch", paid=-5)
    with open_store(path) as store:
        store.commit([StorePayment(ID, -5), PENDING]).result()
        assert store.channel_state(ID).payment == -5
        store.commit([closed]).result()
        with pytest.raises(StoreError):
            store.commit([closed]).result()  # an attempt is closed once
    with open_store(path) as store:
        state = store.channel_state(ID)
    assert state.refusals == (refusal,)
    assert (state.pending, state.payment) == (None, 0)
    assert (state.status, state.reason) == (Status.DISPUTED, "mismatch")


def test_a_payment_waits_until_its_record_is_stored(path: Path) -> None:
    with open_store(path) as store:
        store.commit([StorePayment(ID, 7), StorePayment(ID, -9), RECORD]).result()
    with open_store(path) as store:
        assert store.channel_state(ID).payment == -9
        store.commit([replace(following(1), paid=7)]).result()
        assert store.channel_state(ID).payment == -9  # told since: it is not the one on record
        store.commit([replace(following(2), paid=-9)]).result()
        assert store.channel_state(ID).payment == 0
        store.commit([StorePayment(ID, 3), StorePayment(ID, 0)]).result()
        assert store.channel_state(ID).payment == 0


def test_a_payment_that_replaces_another_counts_in_its_place_only(path: Path) -> None:
    with open_store(path) as store:
        store.commit([StorePayment(ID, 7), RECORD]).result()
        with pytest.raises(OtherPayment) as other:
            store.commit([StorePayment(ID, 9, replaces=8)]).result()
        assert other.value.told == 7
        assert store.payments() == {ID: 7}
        store.commit([StorePayment(ID, 9, replaces=7)]).result()
        assert store.payments() == {ID: 9}
        store.commit([replace(following(1), paid=0)]).result()
        assert store.payments() == {ID: 9}
        store.commit([replace(following(2), paid=7)]).result()  # signed before it was replaced
        assert store.payments() == {}
        with pytest.raises(OtherPayment):
            store.commit([StorePayment(ID, 9, replaces=7)]).result()


def test_a_payment_outlives_the_refusal_of_the_one_that_it_replaces(path: Path) -> None:
    refusal = Refusal(0, 0, PENDING.body, PENDING.sig_p, "payment-differs", bytes(64))
    with open_store(path) as store:
        store.commit([StorePayment(ID, -5), PENDING, StorePayment(ID, -4, replaces=-5)]).result()
        store.commit([StoreRefusal(ID, refusal, Status.OPEN, "", paid=-5)]).result()
        assert store.payments() == {ID: -4}


def test_records_are_read_in_order_and_in_part(store: Store) -> None:
    ops = [RECORD, *(following(seq) for seq in range(1, 5))]
    store.commit(ops).result()
    stored = [Record(op.body, op.sig_p, op.sig_a, op.evidence) for op in ops]
    assert store.records(ID) == stored
    assert store.records(ID, 2, 2) == stored[2:4]
    assert store.records(ID, 4) == stored[4:]
    assert store.records(ID, 9) == []
    assert store.channel_state(ID).last == stored[-1]


def test_a_transaction_is_stored_whole_or_not_at_all(store: Store) -> None:
    with pytest.raises(StoreError):
        store.commit([PutValue("k", b"v"), RECORD, RECORD]).result()
    assert store.value("k") is None
    assert store.records(ID) == []
    store.commit([PutValue("k", b"v")]).result()  # and the store goes on
    assert store.value("k") == b"v"


def test_values_are_replaced_and_survive(path: Path) -> None:
    with open_store(path) as store:
        first, second = store.commit([PutValue("k", b"1")]), store.commit([PutValue("k", b"2")])
        second.result()
        assert first.done()  # commits keep their order
    with open_store(path) as store:
        assert store.value("k") == b"2"
        assert store.value("other") is None


def test_a_record_of_an_unknown_channel_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.commit([replace(RECORD, channel_id=bytes(32))]).result()


def test_commits_are_synced_through_a_write_ahead_log(path: Path, store: Store) -> None:
    store.commit([RECORD]).result()
    modes = store._read(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )
    assert modes == ["wal", 2, 1]  # 2 is FULL


def test_a_committed_record_survives_a_kill(path: Path) -> None:
    code = (
        "import sys, os, signal, pathlib\n"
        "from candor.agent.core.effects import PutValue\n"
        "from candor.agent.daemon.store import Store\n"
        f"store = Store.open(pathlib.Path({str(path)!r}), fingerprint={FINGERPRINT!r})\n"
        "store.commit([PutValue('k', b'kept')]).result()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with open_store(path) as store:
        assert store.value("k") == b"kept"


def test_a_reader_needs_no_fingerprint_and_cannot_write(path: Path, store: Store) -> None:
    store.commit([RECORD]).result()
    with Store.open(path) as reader:  # while the daemon has it open
        assert len(reader.records(ID)) == 1
        with pytest.raises(StoreError, match="readonly"):
            reader.commit([PutValue("k", b"v")]).result()


def refused(path: Path, fingerprint: str | None = FINGERPRINT) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Store.open(path, fingerprint=fingerprint)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_database_of_another_run_is_refused(path: Path) -> None:
    open_store(path).close()
    assert "another run" in refused(path, "cd" * 32)


def test_a_database_of_another_agent_is_refused(path: Path) -> None:
    open_store(path).close()
    other = replace(TERMS, hi="a9", public_hi=bytes(range(32)))
    with pytest.raises(ConfigurationError, match="another agent of this run"):
        Store.open(path, fingerprint=FINGERPRINT, channels=[TERMS, other])
    with open_store(path) as store:
        assert [terms.hi for terms in store.channels()] == [TERMS.hi]


def test_a_missing_file_is_refused_for_reading(path: Path) -> None:
    assert "no such database" in refused(path, None)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert "writable" in refused(tmp_path / "nowhere" / "ledger.sqlite")


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look for a header in it" * 50)
    assert "damaged" in refused(path)
    assert "damaged" in refused(path, None)


def test_a_damaged_page_is_refused(path: Path) -> None:
    with open_store(path) as store:
        store.commit([RECORD, *(following(seq) for seq in range(1, 60))]).result()
    data = bytearray(path.read_bytes())
    assert len(data) > 16 * 4096
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_a_record_that_is_not_what_its_hash_says_is_refused(path: Path) -> None:
    with open_store(path) as store:
        store.commit([RECORD]).result()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET body = zeroblob(300)")
    connection.commit()
    connection.close()
    with open_store(path) as store, pytest.raises(StoreError, match="malformed"):
        store.channel_state(ID)


def test_a_locked_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("candor.agent.daemon.store.BUSY_TIMEOUT_S", 0.01)
    open_store(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert "another process" in refused(path)
    other.execute("ROLLBACK")
    other.close()


def test_a_full_disk_fails_the_commit_and_keeps_what_was_stored(path: Path) -> None:
    with open_store(path) as store:
        store.commit([RECORD]).result()
        store._read(lambda connection: connection.execute("PRAGMA max_page_count=20").fetchone())
        big = replace(following(1), evidence=(bytes(200_000),))
        with pytest.raises(StoreError, match="make room"):
            store.commit([big]).result()
        assert len(store.records(ID)) == 1


def test_a_file_that_may_not_grow_fails_the_commit_and_keeps_what_was_stored(path: Path) -> None:
    with open_store(path) as store:
        store.commit([RECORD]).result()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
        try:
            with pytest.raises(StoreError, match="make room"):
                store.commit([PutValue("key", b"value")]).result()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert store.value("key") is None
        store.commit([PutValue("key", b"value")]).result()
    with open_store(path) as store:
        assert (len(store.records(ID)), store.value("key")) == (1, b"value")
