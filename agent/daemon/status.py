"""status.json and the lock of a data directory: what a daemon is doing, and whether it lives.

The status is replaced whole, so a reader never sees half of one; it stays behind when a daemon
ends. Whether the daemon still runs is a different question, which only the lock answers: the
operating system drops it with the process, so neither a crash nor a reused pid can fool a reader.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from candor.topologies.cluster.file import DEFAULT_METRIC, Better
from candor.topologies.specs.files import json_text, open_regular, replace_file
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FILE_NAME = "status.json"
LOCK_NAME = "lock"

# Readers hold the lock shared for microseconds; this many collisions in a row are no reader.
_ACQUIRE_TRIES_MAX = 10_000

State: TypeAlias = Literal[
    "starting", "training", "mixing", "settling", "done", "interrupted", "failed"
]
ENDS: Final[tuple[State, ...]] = ("done", "interrupted", "failed")


@dataclass(frozen=True, slots=True)
class NeighbourStatus:
    """One edge as its agent sees it: `balance` is in micro-credits, above 0 is money received;
    `reason` says why the neighbour is not served, None while it is; `weightless_rounds` counts the
    rounds, of all lives, in which it was heard and given no weight by the run's rule. `last_round`
    is the last of which an update of its came, `due_rounds` those that the agent performed and was
    to mix it in, `mixed_rounds` those in which it did.

    Where models are traded: the agent's `reputation` of it, the `score` of the last round that it
    came from, and which `share` of a model it is given; then what it says of the agent, `rated` and
    `given`. `misrated` counts its updates that were refused because its ratings do not follow, or
    it gives less than they earn. Of the present life: how long the agent has `waited_s` for it
    beyond what is usual around it, in how many exchanges it went on without it (`missed`), and how
    many windows it had to bill or settle without it (`withheld`).
    """

    state: str
    last_round: int = 0
    balance: int = 0
    reason: str | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    weightless_rounds: int = 0
    reputation: float | None = None
    score: float | None = None
    share: float | None = None
    rated: float | None = None
    given: float | None = None
    misrated: int = 0
    due_rounds: int = 0
    mixed_rounds: int = 0
    waited_s: float = 0.0
    missed: int = 0
    withheld: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """What a daemon last said about itself.

    Measurements are None before the first one and where they are not finite. `test_accuracy` is the
    metric that counts, whatever `metric` calls it; `better` says which of its values are; `metrics`
    has all that the task names, `local_metric` is the one that counts on the agent's own data.
    `balance` is in micro-credits over all edges; `beyond_credit` counts the own updates that the
    neighbours refuse, as they could cost more than the credit limit; `alone_rounds` the rounds of
    all its lives in which it should have mixed others' models and mixed nobody's; `seconds` counts
    from the daemon's start. `score` is what it makes of its own last update, where models are
    traded. `performed_rounds` are those of all its lives, None where nobody counts them;
    `since_round` is the first of the run in which it was a member;
    `last_error` is what it last logged as a warning or worse, `last_error_s` seconds after 1970.
    What is of the last round, of the last evaluation and of the last error is of an earlier life
    until this one has its own.
    """

    run_id: str
    agent: str
    fingerprint: str
    pid: int
    state: State
    round: int
    rounds: int
    train_loss: float | None = None
    test_accuracy: float | None = None
    injected_norm: float | None = None
    balance: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    neighbours: Mapping[str, NeighbourStatus] = field(default_factory=dict)
    seconds: float = 0.0
    beyond_credit: int = 0
    alone_rounds: int = 0
    metric: str = DEFAULT_METRIC
    better: Better = "higher"
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    local_metric: float | None = None
    score: float | None = None
    performed_rounds: int | None = None
    last_error: str | None = None
    last_error_s: float | None = None
    since_round: int = 1

    @property
    def left(self) -> int | None:
        """Its last round, if it has left a run that goes on without it."""
        return self.round if self.state == "done" and self.round < self.rounds else None


def weightless_shares(statuses: Iterable[Status]) -> dict[str, float]:
    """By agent, in which share of its neighbours' rounds their rule gave it no weight; only those
    with some such round, the largest share first."""
    without, of = Counter[str](), Counter[str]()
    for status in statuses:
        for agent, seen in status.neighbours.items():
            without[agent] += seen.weightless_rounds
            of[agent] += status.round
    shares = {agent: without[agent] / max(1, of[agent]) for agent in without if without[agent]}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def standings(
    seen: Mapping[str, Mapping[str, tuple[float, float]]],
) -> dict[str, dict[str, float]]:
    """By agent, what its neighbours think of it, from what each thinks of each, (reputation, share
    of a model that is given): means over the neighbours."""
    by_agent: dict[str, list[tuple[float, float]]] = {agent: [] for agent in seen}
    for rater, of in seen.items():
        for agent, told in of.items():
            if agent != rater:
                by_agent.setdefault(agent, []).append(told)
    return {
        agent: {
            "reputation": sum(r for r, _ in told) / len(told),
            "share": sum(s for _, s in told) / len(told),
        }
        for agent, told in by_agent.items()
        if told
    }


def standings_of(statuses: Iterable[Status]) -> dict[str, dict[str, float]]:
    """The same as the neighbours' daemons said last; nothing where models are not traded."""
    return standings(
        {
            status.agent: {
                agent: (seen.reputation, seen.share)
                for agent, seen in status.neighbours.items()
                if seen.reputation is not None and seen.share is not None
            }
            for status in statuses
        }
    )


def misrated_of(statuses: Iterable[Status]) -> dict[str, dict[str, int]]:
    """By agent and by the neighbour that says so, how many of its updates were refused for their
    ratings, or for giving less than these earn."""
    found: dict[str, dict[str, int]] = {}
    for status in statuses:
        for agent, seen in status.neighbours.items():
            if seen.misrated:
                found.setdefault(agent, {})[status.agent] = seen.misrated
    return {agent: found[agent] for agent in sorted(found)}


def misrated_words(misrated: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The same in a sentence for each agent."""
    return [
        f"by its neighbours' word: {agent} gave less than ratings earn, or rated falsely: refused "
        "by " + ", ".join(f"{neighbour} {count} times" for neighbour, count in by.items())
        for agent, by in misrated.items()
    ]


class StatusFile:
    """Writes the status of one data directory; one writer, the one that holds the lock."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME

    def write(self, status: Status) -> None:
        """Replace the status at once. Not synced to disk: it describes a process, not a promise;
        but for that of a run which is done, by which it is never started again."""
        data = f"{json_text(asdict(status), indent=2)}\n".encode()
        replace_file(self._path, data, durable=status.state == "done")


def read_status(data_dir: Path) -> Status:
    """The last status of a data directory.

    Raises:
        ConfigurationError: there is none, or it is not a status.
    """
    path = data_dir / FILE_NAME
    try:
        with open_regular(path) as file:
            text = file.read()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot read the status ({exc.strerror})") from exc
    try:
        return _adapter().validate_json(text)
    except ValueError as exc:
        raise ConfigurationError(f"{path}: not a status file") from exc


class DataDirLock:
    """Exclusive use of a data directory for as long as the daemon lives; of a simulated run's, too.

    Two daemons on one directory would sign two different statements for one round, which is
    equivocation, so the second one must not start.

    Raises (on entering):
        ConfigurationError: another process holds the lock, named by its pid.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._descriptor = -1

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        if not _acquire(descriptor):
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigurationError(
                f"{self._path.parent}: in use by the running process with pid {pid}; stop that or "
                "name another directory"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The file stays: whoever unlinks a lock file can leave two holders of two files.
        os.close(self._descriptor)
        self._descriptor = -1


def data_dirs(directory: Path, name: str = FILE_NAME) -> list[Path]:
    """The data directories that hold a file `name`, in their order: the directory itself, else
    those of a run, else those in a folder; none where there is no such file."""
    for pattern in (name, f"agents/*/{name}", f"*/{name}"):
        if found := sorted(path.parent for path in directory.glob(pattern)):
            return found
    return []


def is_running(data_dir: Path) -> bool:
    """Whether a daemon holds the lock of this data directory now."""
    try:
        descriptor = os.open(data_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise ConfigurationError(f"{data_dir / LOCK_NAME}: {exc.strerror}") from exc
    try:
        return not _flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int) -> bool:
    """Take the lock exclusively; only another exclusive holder, a daemon, makes that fail."""
    for _ in range(_ACQUIRE_TRIES_MAX):
        if _flock(descriptor, fcntl.LOCK_EX):
            return True
        if not _flock(descriptor, fcntl.LOCK_SH):
            return False
        # Shared is free where exclusive is not: a reader was looking, as `is_running` does.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.sched_yield()
    return False


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@cache
def _adapter() -> "TypeAdapter[Status]":
    from pydantic import TypeAdapter  # only a reader needs it

    return TypeAdapter(Status)
