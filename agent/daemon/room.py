"""What a daemon needs of its host, room on the disk and descriptors, and waiting until it is there.

A life of a daemon that ends for want of it has sent nothing that it had not written: it is as good
as killed. So another one may follow in the same process once there is room, with what the first has
left on disk. Whether there is room is found out by taking some.
"""

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from candor.agent.daemon.store import StoreError

_LACKS: Final = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EMFILE, errno.ENFILE),
)
# Of SQLite, which does not hand on the system's number: full, a write that failed, read-only.
_LACKS_OF_SQLITE: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
)
BYTES_MIN: Final = 2**20
"""What a life writes before its first round, and some rounds' statements and records."""
LOOK_EVERY_S: Final = 1.0
LASTED_S: Final = 60.0
LIVES_MAX: Final = 5
"""So many lives in a row that last less, though there was room before each, are not for want of it:
a limit on one file, another disk that is full, one that fails."""


def first_cause(exc: BaseException) -> BaseException:
    """What went wrong first: files that cannot be written can often not be closed either."""
    while isinstance(before := exc.__cause__ or exc.__context__, OSError | StoreError):
        exc = before
    return exc


def lacks_room(exc: BaseException) -> bool:
    """Whether something failed for want of room or descriptors, as far as the system tells."""
    first = first_cause(exc)
    if isinstance(first, StoreError):
        return first.code & 0xFF in _LACKS_OF_SQLITE
    return isinstance(first, OSError) and first.errno in _LACKS


class Room:
    """Waits for `bytes_needed` in each of some directories, and for descriptors; `goes_on` says
    whether anybody still wants that."""

    def __init__(
        self, places: Iterable[Path], bytes_needed: int, goes_on: Callable[[], bool]
    ) -> None:
        self._places = tuple(places)
        self._bytes = max(BYTES_MIN, bytes_needed)
        self._goes_on = goes_on
        self._short_lives = 0
        self._began_s = time.monotonic()

    def awaited(self) -> float | None:
        """Wait for room after a life that lacked it; answers with how long that took, in seconds,
        or None if another life would not last either, or nobody wants one.

        Raises:
            OSError: the disk fails in some other way.
        """
        ended_s = time.monotonic()
        lasted = ended_s - self._began_s >= LASTED_S
        self._short_lives = 0 if lasted else self._short_lives + 1
        if self._short_lives > LIVES_MAX:
            return None
        time.sleep(LOOK_EVERY_S)
        while not self._there():
            if not self._goes_on():
                return None
            time.sleep(LOOK_EVERY_S)
        self._began_s = time.monotonic()
        return self._began_s - ended_s

    def _there(self) -> bool:
        try:
            for place in self._places:
                with tempfile.TemporaryFile(dir=place) as file:
                    os.posix_fallocate(file.fileno(), 0, self._bytes)
        except OSError as exc:
            if exc.errno not in _LACKS:
                raise
            return False
        return True
