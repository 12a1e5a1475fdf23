"""simulation.safetensors: all that a simulated run has measured so far, and what it goes on from.

One file for thousands of agents, replaced whole: a reader, or whoever goes on after a crash, finds
the old one or the new one. While the run lives it holds the state of `Simulation.state`; once it
has ended, the models instead. The fields are described in docs/run-directory.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from candor.agent.daemon.metrics import RoundMetrics
from candor.agent.daemon.status import State, Status
from candor.agent.tasks.measured import Measured
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.files import json_text, replacing
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME: Final = "simulation.safetensors"
STATE: Final = "state/"
MODEL: Final = "model/"
METRIC: Final = "metric/"
LOCAL: Final = "local_metric"
_METADATA: Final = "candor"


@dataclass(frozen=True, slots=True)
class About:
    """Which run a file is of, and how it was asked for; paths as they were given. `byzantine`: who
    of those with a strategy attacks, and does not count."""

    fingerprint: str
    strategies: Mapping[str, str]
    evaluate_every: int
    data_root: str | None = None
    initial: str | None = None
    byzantine: Sequence[str] = ()


@dataclass(slots=True)
class Columns:
    """What was measured, by name: rows are rounds (or windows, or evaluations), columns agents.

    `seconds` (rounds,), `train_loss` and `injected_norm` (rounds, agents); `balance` (windows,
    agents), micro-credits after each settlement, and `settled` (windows,) the rounds after which
    those were; `test_accuracy` (evaluations, agents), `consensus_distance` and `evaluated`
    (evaluations,), the rounds of these. Where tasks have them, `local_metric` and `metric/NAME`
    (evaluations, agents), nan where an agent has none, `trajectories` (rounds,), the episodes
    of an agent, and `agreement_moves` (rounds, agents).
    """

    rows: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """Append a row to each of some columns."""
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value)

    def add_evaluation(self, t: int, measured: Sequence[Measured], distance: float) -> None:
        """Append what was measured after round t, an agent each."""
        before = len(self.rows.get("evaluated", ()))
        undefined = torch.full((len(measured),), torch.nan, dtype=torch.float64)
        given = _by_name(measured)
        # A task may name a metric late, or not of every model.
        for name in dict.fromkeys([*given, *filter(_is_optional, self.rows)]):
            rows = self.rows.setdefault(name, [undefined] * before)
            rows.append(given.get(name, undefined))
        self.add(
            evaluated=torch.tensor(t),
            test_accuracy=torch.tensor([one.value for one in measured], dtype=torch.float64),
            consensus_distance=torch.tensor(distance).double(),
        )

    def measured(self, agents: int) -> list[Measured]:
        """What was measured last of each of so many agents."""
        value, local = self.last("test_accuracy"), self.last(LOCAL)
        named = under(METRIC, {name: rows[-1] for name, rows in self.rows.items()})
        return [
            Measured(
                torch.nan if value is None else float(value[row]),
                {name: float(values[row]) for name, values in named.items()},
                None if local is None else float(local[row]),
            )
            for row in range(agents)
        ]

    def last(self, name: str) -> Tensor | None:
        """The last row of a column, None where it has none."""
        rows = self.rows.get(name)
        return rows[-1] if rows else None

    def tensors(self) -> dict[str, Tensor]:
        """The columns as one tensor each."""
        return {name: torch.stack(rows) for name, rows in self.rows.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The columns among the tensors of a file."""
        names = [name for name in tensors if not name.startswith((STATE, MODEL))]
        return cls({name: list(tensors[name]) for name in names})


def _is_optional(column: str) -> bool:
    return column == LOCAL or column.startswith(METRIC)


def _by_name(measured: Sequence[Measured]) -> dict[str, Tensor]:
    """The named metrics (agents,) and the one on own data, as columns are called."""
    names = dict.fromkeys(name for one in measured for name in one.metrics)
    rows = {METRIC + name: [one.metrics.get(name, torch.nan) for one in measured] for name in names}
    if any(one.local is not None for one in measured):
        rows[LOCAL] = [torch.nan if one.local is None else one.local for one in measured]
    return {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}


def write(path: Path, about: About, tensors: Mapping[str, Tensor]) -> None:
    """Replace the file at once; it is on disk before the old one is gone."""
    with replacing(path, durable=True) as draft:
        save_file(dict(tensors), draft, metadata={_METADATA: json_text(asdict(about))})


def read(path: Path) -> tuple[About, dict[str, Tensor]]:
    """What was written.

    Raises:
        ConfigurationError: there is none, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = About(**json.loads(file.metadata()[_METADATA]))
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as exc:
        raise ConfigurationError(f"{path}: there is no simulation to read ({exc})") from exc
    except (SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise ConfigurationError(f"{path}: damaged, it is no simulation ({exc})") from exc


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, by the rest of the name."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def metrics_of(
    columns: Mapping[str, Tensor], agent: int, neighbours: int = 0
) -> list[RoundMetrics]:
    """The lines of metrics.csv of one agent, by its place; nothing was sent, nobody was missing."""
    if "seconds" not in columns:
        return []
    counts = by_round(columns, "evaluated", "test_accuracy", agent)
    local = by_round(columns, "evaluated", LOCAL, agent)
    named = {
        name.removeprefix(METRIC): by_round(columns, "evaluated", name, agent)
        for name in columns
        if name.startswith(METRIC)
    }
    trajectories, moves = columns.get("trajectories"), columns.get("agreement_moves")
    settled = by_round(columns, "settled", "balance", agent)
    measured = zip(
        columns["seconds"].tolist(),
        columns["train_loss"][:, agent].tolist(),
        columns["injected_norm"][:, agent].tolist(),
        strict=True,
    )
    balance, lines = 0, []
    for t, (seconds, loss, norm) in enumerate(measured, start=1):
        balance = int(settled.get(t, balance))
        metrics = {name: values[t] for name, values in named.items() if t in values}
        line = RoundMetrics(t, seconds, loss, counts.get(t), norm, balance, 0, 0, neighbours)
        episodes = None if trajectories is None else int(trajectories[t - 1])
        line = replace(line, local_metric=local.get(t), metrics=metrics)
        moved = None if moves is None else int(moves[t - 1, agent])
        lines.append(replace(line, trajectories=episodes, agreement_moves=moved))
    return lines


def statuses(path: Path, cluster: Cluster, *, running: bool) -> list[Status]:
    """What every agent of a simulated run was at when it was saved last; `running`: it goes on.

    Raises:
        ConfigurationError: there is no such run, or it is damaged.
    """
    about, tensors = read(path)
    if about.fingerprint != cluster.fingerprint:
        raise ConfigurationError(f"{path}: is of another run than the cluster.toml beside it")
    ended: State = "training" if running else "interrupted"
    state: State = ended if under(STATE, tensors) else "done"
    columns = Columns.of(tensors)
    names = ("train_loss", "test_accuracy", "injected_norm", "balance", LOCAL)
    last = {n: row.tolist() for n in names if (row := columns.last(n)) is not None}
    seconds = columns.last("seconds")
    named = {
        name: row.tolist()
        for name, row in under(METRIC, {n: rows[-1] for n, rows in columns.rows.items()}).items()
    }
    return [
        Status(
            cluster.run_id,
            agent,
            cluster.fingerprint,
            0,
            state,
            len(columns.rows.get("seconds", ())),
            cluster.rounds.rounds,
            seconds=0.0 if seconds is None else float(seconds),
            metric=cluster.task.metric_name,
            better=cluster.task.better_values,
            metrics={name: values[row] for name, values in named.items()},
            **{name: values[row] for name, values in last.items()},
        )
        for row, agent in enumerate(cluster.ids)
    ]


def by_round(
    columns: Mapping[str, Tensor], rounds: str, name: str, agent: int | None = None
) -> dict[int, float]:
    """The values of a column, or of one agent in it, by the rounds in another; none where there is
    no such column."""
    if name not in columns:
        return {}
    values = columns[name] if agent is None else columns[name][:, agent]
    return dict(zip(columns[rounds].tolist(), values.tolist(), strict=True))
