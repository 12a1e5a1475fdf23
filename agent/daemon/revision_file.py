"""The cluster file that a daemon was started with, looked at while it runs: another one may come.

Pure of what it says: whether it may follow, the core judges.
"""

from pathlib import Path


class RevisionFile:
    """The file at `path`; `started_with`: the daemon goes by what it says now."""

    def __init__(self, path: Path, *, started_with: bool) -> None:
        self._path = path.absolute()
        self._known = self._stamp() if started_with else None

    def read(self) -> bytes | None:
        """What it says, if it was replaced since it was looked at last; None too where it is not
        there just now, or cannot be read."""
        stamp = self._stamp()
        if stamp is None or stamp == self._known:
            return None
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        self._known = stamp
        return data

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_ino, about.st_mtime_ns, about.st_size
