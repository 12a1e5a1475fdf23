"""metrics.csv: one line a round, written while the run lives and read by anyone at any time.

Plain CSV, so that any tool reads it. A crash can tear the last line only: a line counts once its
newline is on disk. The writer cuts such a rest off before it appends, the reader leaves it out.
Not a log: what happened in words is in log.jsonl.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from candor.topologies.specs.files import open_regular
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME = "metrics.csv"


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """What one agent measured in one round; the fields are the columns, in order.

    `seconds` counts from the daemon's start; `test_accuracy` (0..1) is None in rounds without an
    evaluation; `injected_norm` is ||S u|| of the agent's own update; `balance` is in micro-credits
    over all edges, above 0 is money received; bytes are totals since the start.
    """

    round: int
    seconds: float
    train_loss: float
    test_accuracy: float | None
    injected_norm: float
    balance: int
    bytes_sent: int
    bytes_received: int
    neighbours_mixed: int
    missing: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether the round had others to mix, and none was mixed."""
        return not self.neighbours_mixed and bool(self.missing)


COLUMNS = tuple(column.name for column in fields(RoundMetrics))


class MetricsWriter:
    """Appends rounds to a metrics file; each reaches the operating system as one whole line.

    An existing file is continued: a torn last line is cut off, whole lines stay as they are.
    `rounds`: how many there are.

    Raises:
        ConfigurationError: the file exists and is not a metrics file.
    """

    def __init__(self, path: Path) -> None:
        self.rounds = 0
        self._file = path.open("a+", encoding="utf-8", newline="", buffering=1)
        try:
            self._resume(path)
        except BaseException:
            self._file.close()
            raise

    def write(self, metrics: RoundMetrics) -> None:
        """Append one round."""
        self._file.write(_line(_cells(metrics)))
        self.rounds += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _resume(self, path: Path) -> None:
        data, header = path.read_bytes(), _line(COLUMNS).encode()
        # Refused before anything is cut: the file may be somebody else's.
        if not data.startswith(header[: len(data)]):
            raise _not_metrics(path)
        whole = _whole_lines(data)
        self._file.truncate(len(whole))
        self.rounds = max(0, whole.count(b"\n") - 1)
        if not whole:
            self._file.write(_line(COLUMNS))


def read_metrics(path: Path) -> list[RoundMetrics]:
    """Read all whole lines of a metrics file, of a live run too.

    Raises:
        ConfigurationError: the file is missing, or a whole line of it is not one round.
    """
    try:
        with open_regular(path) as file:
            text = _whole_lines(file.read()).decode()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise ConfigurationError(f"{path}: cannot read the metrics ({reason})") from exc
    return list(_rounds(path, text))


def _rounds(path: Path, text: str) -> Iterator[RoundMetrics]:
    rows = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(rows, COLUMNS)) != COLUMNS:
        raise _not_metrics(path)
    for row in rows:
        try:
            yield _parse(row)
        except ValueError as exc:
            raise ConfigurationError(f"{path}: line {rows.line_num} is not one round") from exc


def _not_metrics(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: not a metrics file, its first line is not {COLUMNS[0]},{COLUMNS[1]},…; "
        "move it away or use another directory"
    )


def _whole_lines(data: bytes) -> bytes:
    """All of `data` up to and including its last newline."""
    return data[: data.rfind(b"\n") + 1]


def _line(cells: tuple[str, ...]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _cells(metrics: RoundMetrics) -> tuple[str, ...]:
    # repr of a float is the shortest text that reads back as the same float.
    accuracy = "" if metrics.test_accuracy is None else repr(float(metrics.test_accuracy))
    return (
        str(metrics.round),
        f"{metrics.seconds:.6f}",
        repr(float(metrics.train_loss)),
        accuracy,
        repr(float(metrics.injected_norm)),
        str(metrics.balance),
        str(metrics.bytes_sent),
        str(metrics.bytes_received),
        str(metrics.neighbours_mixed),
        ";".join(metrics.missing),
    )


def _parse(row: list[str]) -> RoundMetrics:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns")
    number, seconds, loss, accuracy, norm, balance, sent, received, mixed, missing = row
    return RoundMetrics(
        round=int(number),
        seconds=float(seconds),
        train_loss=float(loss),
        test_accuracy=float(accuracy) if accuracy else None,
        injected_norm=float(norm),
        balance=int(balance),
        bytes_sent=int(sent),
        bytes_received=int(received),
        neighbours_mixed=int(mixed),
        missing=tuple(missing.split(";")) if missing else (),
    )


SKETCHES_NAME = "sketches.f64"
