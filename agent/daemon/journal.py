"""Structured logging: one JSON object a line for machines, one short line for the person watching.

An event has a stable name and flat fields; keys and tensors never go in.
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from candor.topologies.specs.files import json_text

FILE_NAME: Final = "log.jsonl"
LOGGER_NAME: Final = "candor"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json_text(fields)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        told = " ".join(f"{key}={value}" for key, value in fields.items())
        name = getattr(record, "agent", "")
        return f"candor {name}: {record.levelname.lower()}: {record.getMessage()} {told}".rstrip()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """Let the writer know: the library would print a traceback and go on without a log."""
        raise  # what the caller is handling


def log_event(agent: str, level: int, event: str, fields: Mapping[str, str | int | float]) -> None:
    """Record an event in the journal of an agent that has one. Raises OSError as `Journal.log`."""
    logger = logging.getLogger(f"{LOGGER_NAME}.{agent}")
    logger.log(level, event, extra={"fields": dict(fields), "agent": agent})


class Journal:
    """The log of one agent: everything to log.jsonl, `level` and above to standard error."""

    def __init__(self, agent: str, data_dir: Path, level: int) -> None:
        self._agent = agent
        self._logger = logging.getLogger(f"{LOGGER_NAME}.{agent}")
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        to_file = _LogFile(data_dir / FILE_NAME, encoding="utf-8")
        to_file.setFormatter(_JsonLines())
        to_file.setLevel(logging.INFO)
        to_person = logging.StreamHandler(sys.stderr)
        to_person.setFormatter(_OneLine())
        to_person.setLevel(level)
        self._handlers = (to_file, to_person)
        for handler in self._handlers:
            self._logger.addHandler(handler)

    def log(self, level: int, event: str, fields: Mapping[str, str | int | float]) -> None:
        """Record an event. Raises OSError: the file cannot be written."""
        log_event(self._agent, level, event, fields)

    def close(self) -> None:
        """Flush and release the file."""
        for handler in self._handlers:
            self._logger.removeHandler(handler)
            handler.close()
