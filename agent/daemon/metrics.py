"""metrics.csv: one line a round, written while the run lives and read by anyone at any time.

Plain CSV, so that any tool reads it. A crash can tear the last line only: a line counts once its
newline is on disk. The writer cuts such a rest off before it appends, the reader leaves it out.
Not a log: what happened in words is in log.jsonl.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from candor.topologies.specs.files import json_text, open_regular, replace_file
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME = "metrics.csv"


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """What one agent measured in one round; the fields are the columns, in order.

    `seconds` counts from the daemon's start; `test_accuracy` is the metric that counts, whatever it
    is called, None in rounds without an evaluation; `injected_norm` is ||S u|| of the agent's own
    update; `balance` is in micro-credits over all edges, above 0 is money received; bytes are
    totals since the start; `local_metric` is the metric that counts on the agent's own data, None
    where the task has none, and `metrics` all that it names, empty where it gives one number;
    `trajectories` is how many episodes of its policy the agent sampled in the round, None where its
    task has none: there `train_loss` is minus their mean return. `agreement_moves` is in how many
    exchanges of the round averaging moved its policy, None where no policies are averaged;
    `weightless` are those whom the run's rule gave no weight in the exchange of what is billed.
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
    local_metric: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    trajectories: int | None = None
    agreement_moves: int | None = None
    weightless: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether the round had others to mix, and none was mixed."""
        return not self.neighbours_mixed and bool(self.missing)


COLUMNS = tuple(column.name for column in fields(RoundMetrics))
# Of files from before there were several metrics, policies, agreement, and rules that weigh.
_EARLIER_COLUMNS = (COLUMNS[:-5], COLUMNS[:-3], COLUMNS[:-2], COLUMNS[:-1])


class MetricsWriter:
    """Appends rounds to a metrics file; each reaches the operating system as one whole line.

    An existing file is continued: a torn last line is cut off, whole lines stay as they are. One
    without the last columns is replaced at once by one that has them, empty. `rounds`: how many
    there are.

    Raises:
        ConfigurationError: the file exists and is not a metrics file.
    """

    def __init__(self, path: Path) -> None:
        self.rounds = 0
        _widen(path)
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
    columns = tuple(next(rows, COLUMNS))
    if columns not in (COLUMNS, *_EARLIER_COLUMNS):
        raise _not_metrics(path)
    absent = [""] * (len(COLUMNS) - len(columns))
    try:
        for row in rows:
            yield _parse(row + absent)
    except (ValueError, TypeError, RecursionError, csv.Error) as exc:
        raise ConfigurationError(f"{path}: line {rows.line_num} is not one round") from exc


def _widen(path: Path) -> None:
    """Give a file of an earlier version the columns that it lacks, empty, in one step."""
    if not path.exists():
        return
    data = path.read_bytes()
    found = [one for one in _EARLIER_COLUMNS if data.startswith(_line(one).encode())]
    if not found:
        return
    empty = b"," * (len(COLUMNS) - len(found[0])) + b"\n"
    lines = data.split(b"\n")[1:-1]  # whole ones
    replace_file(path, _line(COLUMNS).encode() + b"".join(line + empty for line in lines))


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
    return (
        str(metrics.round),
        f"{metrics.seconds:.6f}",
        repr(float(metrics.train_loss)),
        _optional(metrics.test_accuracy),
        repr(float(metrics.injected_norm)),
        str(metrics.balance),
        str(metrics.bytes_sent),
        str(metrics.bytes_received),
        str(metrics.neighbours_mixed),
        ";".join(metrics.missing),
        _optional(metrics.local_metric),
        json_text(dict(metrics.metrics)) if metrics.metrics else "",
        _count(metrics.trajectories),
        _count(metrics.agreement_moves),
        ";".join(metrics.weightless),
    )


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _optional(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _parse(row: list[str]) -> RoundMetrics:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns")
    number, seconds, loss, counts, norm, balance, sent, received, mixed, missing, *more = row
    local, several, trajectories, moves, weightless = more
    return RoundMetrics(
        round=int(number),
        seconds=float(seconds),
        train_loss=float(loss),
        test_accuracy=float(counts) if counts else None,
        injected_norm=float(norm),
        balance=int(balance),
        bytes_sent=int(sent),
        bytes_received=int(received),
        neighbours_mixed=int(mixed),
        missing=tuple(missing.split(";")) if missing else (),
        local_metric=float(local) if local else None,
        metrics=_named(several) if several else {},
        trajectories=int(trajectories) if trajectories else None,
        agreement_moves=int(moves) if moves else None,
        weightless=tuple(weightless.split(";")) if weightless else (),
    )


def _named(text: str) -> dict[str, float]:
    """Metrics by name; null stands for one that is undefined."""
    found = json.loads(text, parse_int=float)
    if not isinstance(found, dict):
        raise ValueError("not numbers by name")
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


SKETCHES_NAME = "sketches.f64"
