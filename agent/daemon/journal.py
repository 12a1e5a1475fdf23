"""Structured logging: one JSON object a line in a file that is turned over by size, and for the
person watching one short line each, or the same JSON.

An event has a stable name and flat fields; keys and tensors never go in. The round of a line is the
one under way, unless the event is of another.
"""

import errno
import fcntl
import logging
import stat
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, Literal

from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME: Final = "log.jsonl"
LOGGER_NAME: Final = "candor"
# Some 100,000 events, and as many in each of those kept: weeks of a quiet run, and no full disk of
# a noisy one.
BYTES_MAX: Final = 2**24
KEPT: Final = 4
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# The last event of a life: the run is over or was interrupted, or it could not go on.
ENDED: Final = "ended"
FAILED: Final = "failed"

Format = Literal["text", "json"]


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": at.replace("+00:00", "Z"),
            "time_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "agent": getattr(record, "agent", ""),
            "round": getattr(record, "round", 0),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json_text(fields)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name = getattr(record, "agent", "")
        return f"candor {name}: {record.levelname.lower()}: {_told(record)}"


def _told(record: logging.LogRecord) -> str:
    fields = getattr(record, "fields", {})
    return " ".join((record.getMessage(), *(f"{key}={value}" for key, value in fields.items())))


class _LogFile(RotatingFileHandler):
    """`reopen`, once set, has the file opened anew: by then the old one may have another name.
    Locked while it is open: two that turn one file over would do so to each other's lines."""

    reopen = False

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            taken = f"{self.baseFilename}: another process logs there; name another file"
            raise ConfigurationError(taken) from None
        except OSError as exc:  # some network file systems have no locks
            if exc.errno not in _NO_LOCKS:
                raise
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        self.open_anew()
        super().emit(record)

    def open_anew(self) -> bool:
        """Close the file and open what lies under its name, if that was asked for."""
        self.acquire()
        try:
            asked, self.reopen = self.reopen, False
            if asked:
                self.close()
                self.stream = self._open()
            return asked
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """Let the writer know: the library would print a traceback and go on without a log."""
        raise  # what the caller is handling


def log_event(agent: str, level: int, event: str, fields: Mapping[str, str | int | float]) -> None:
    """Record an event in the journal of an agent that has one. Raises OSError as `Journal.log`."""
    logger = logging.getLogger(f"{LOGGER_NAME}.{agent}")
    logger.log(level, event, extra={"fields": dict(fields), "agent": agent})


def tell(agent: str, form: Format, event: str, fields: Mapping[str, str | int | float]) -> None:
    """Say a warning to standard error alone, where no journal can be written."""
    about = {"name": LOGGER_NAME, "levelno": logging.WARNING, "levelname": "WARNING", "msg": event}
    record = logging.makeLogRecord({**about, "agent": agent, "fields": dict(fields)})
    _to_person(form).emit(record)


def _to_person(form: Format) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine() if form == "text" else _JsonLines())
    return handler


class Journal:
    """The log of one agent: info and above to its file, `level` and above to standard error.

    The file is `file`, or log.jsonl in the data directory; before it grows beyond `bytes_max`, 0
    for never, it becomes FILE.1, that FILE.2 and so on, and `kept` of them stay. `round` tells the
    round under way; `last_error` is what was last logged as a warning or worse: when, in seconds
    since 1970, and what.

    Raises:
        ConfigurationError: `file` is no regular file, or another process logs there.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        agent: str,
        data_dir: Path,
        level: int,
        *,
        file: Path | None = None,
        form: Format = "text",
        bytes_max: int = BYTES_MAX,
        kept: int = KEPT,
    ) -> None:
        self._agent = agent
        self.round: Callable[[], int] = int
        self.last_error: tuple[float, str] | None = None
        path = file or data_dir / FILE_NAME
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise ConfigurationError(f"{path}: cannot log there, it is no regular file")
        self._to_file = _LogFile(path, encoding="utf-8", maxBytes=bytes_max, backupCount=kept)
        self._to_file.setFormatter(_JsonLines())
        self._to_file.setLevel(logging.INFO)
        to_person = _to_person(form)
        if form == "text":  # where the command's own last line says it
            to_person.addFilter(lambda record: record.getMessage() not in (ENDED, FAILED))
        to_person.setLevel(level)
        self._handlers = (self._to_file, to_person)
        self._logger = logging.getLogger(f"{LOGGER_NAME}.{agent}")
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addFilter(self._stamp)
        for handler in self._handlers:
            self._logger.addHandler(handler)

    def log(self, level: int, event: str, fields: Mapping[str, str | int | float]) -> None:
        """Record an event. Raises OSError: the file cannot be written."""
        log_event(self._agent, level, event, fields)

    def ask_anew(self) -> None:
        """Have the file opened anew, soon; may be called by a signal's handler, at any time."""
        self._to_file.reopen = True

    def tick(self) -> None:
        """Open the file anew if that was asked for. Raises OSError: it cannot be written."""
        if self._to_file.open_anew():
            self.log(logging.INFO, "log_reopened", {})

    def close(self) -> None:
        """Flush and release the file."""
        self._logger.removeFilter(self._stamp)
        for handler in self._handlers:
            self._logger.removeHandler(handler)
            handler.close()

    def _stamp(self, record: logging.LogRecord) -> bool:
        record.round = self.round()
        if record.levelno >= logging.WARNING:
            self.last_error = record.created, _told(record)
        return True
