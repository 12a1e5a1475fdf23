"""What counts as want of room, and how it is waited for."""

import errno
import resource
import sqlite3

import pytest

from candor.agent.core.effects import PutValue
from candor.agent.daemon import room
from candor.agent.daemon.room import Room, lacks_room
from candor.agent.daemon.store import Store, StoreError


def error(number):
    return OSError(number, "as the system says")


def after(first, then):
    """The second error, raised while the first one was minded."""
    try:
        try:
            raise first
        except Exception:
            raise then  # noqa: B904
    except Exception as exc:
        return exc


@pytest.mark.parametrize(
    ("exc", "lacks"),
    [
        (error(errno.ENOSPC), True),
        (error(errno.EFBIG), True),
        (error(errno.EDQUOT), True),
        (error(errno.EROFS), True),
        (error(errno.EMFILE), True),
        (error(errno.EIO), False),
        (error(errno.EACCES), False),
        (StoreError("full", sqlite3.SQLITE_FULL), True),
        (StoreError("a write failed", sqlite3.SQLITE_IOERR | 3 << 8), True),
        (StoreError("read-only", sqlite3.SQLITE_READONLY), True),
        (StoreError("damaged", sqlite3.SQLITE_CORRUPT), False),
        (StoreError("nobody knows"), False),
        (after(error(errno.ENOSPC), error(errno.EIO)), True),  # closed in vain
        (after(error(errno.EIO), error(errno.ENOSPC)), False),
        (ValueError("no room"), False),
    ],
)
def test_want_of_room_is_told_from_other_failures_by_what_went_wrong_first(exc, lacks):
    assert lacks_room(exc) is lacks


def test_a_store_says_why_it_could_not_write(tmp_path):
    with Store.open(tmp_path / "ledger.sqlite", fingerprint="0" * 64) as store:
        store._read(lambda connection: connection.execute("PRAGMA max_page_count=1").fetchone())
        with pytest.raises(StoreError) as caught:
            store.commit([PutValue("key", bytes(100_000))]).result()
    assert lacks_room(caught.value)


@pytest.fixture
def clock(monkeypatch):
    """The time as the room takes it; waiting only lets it go on, and does what is asked then."""

    class Clock:
        now_s = 0.0
        meanwhile = staticmethod(lambda now_s: None)

        def sleep(self, seconds):
            self.now_s += seconds
            self.meanwhile(self.now_s)

    made = Clock()
    monkeypatch.setattr(room.time, "monotonic", lambda: made.now_s)
    monkeypatch.setattr(room.time, "sleep", made.sleep)
    return made


@pytest.fixture
def small_files():
    """Lets no file of this process grow beyond 64 KiB, until it is called."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_room_is_awaited_for_as_long_as_there_is_none(clock, small_files, tmp_path):
    clock.meanwhile = lambda now_s: small_files() if now_s >= 20 else None
    assert Room([tmp_path], 0, lambda: True).awaited() == pytest.approx(20.0)
    assert not list(tmp_path.iterdir())


def test_nobody_waits_for_room_whom_nobody_wants_any_more(clock, small_files, tmp_path):
    assert Room([tmp_path], 0, lambda: clock.now_s < 5).awaited() is None


def test_lives_that_end_again_and_again_though_there_is_room_are_no_want_of_it(clock, tmp_path):
    waits = Room([tmp_path], 0, lambda: True)
    for _ in range(room.LIVES_MAX):
        assert waits.awaited() == 1.0
    assert waits.awaited() is None


def test_a_life_that_lasted_counts_anew(clock, tmp_path):
    waits = Room([tmp_path], 0, lambda: True)
    for _ in range(3 * room.LIVES_MAX):
        assert waits.awaited() == 1.0
        clock.now_s += room.LASTED_S


def test_a_disk_that_fails_in_another_way_is_not_waited_for(clock, tmp_path):
    with pytest.raises(FileNotFoundError):
        Room([tmp_path / "gone"], 0, lambda: True).awaited()
