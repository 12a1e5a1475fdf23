"""Reading a finished, broken or still living run directory, as far as it goes.

Nothing here raises for a missing or damaged piece: it is left out and named in a note, because a
report is wanted most of all after a run that went wrong. The files are described in
docs/run-directory.md.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from candor.agent.daemon import metrics, status
from candor.agent.daemon.metrics import SKETCHES_NAME, RoundMetrics
from candor.agent.daemon.status import Status
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx

SIMULATION_NAME = "simulation.safetensors"
# Agents of a simulated run whose lines and rows a page has; more can be told apart by nobody.
SHOWN_MAX = 64


@dataclass(frozen=True, slots=True)
class AgentRun:
    """What one agent left behind; `sketches` has one row (width,) for each entry of
    `sketch_rounds`."""

    agent: str
    rounds: Sequence[RoundMetrics] = ()
    status: Status | None = None
    sketches: NDArray[np.float64] | None = None
    sketch_rounds: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run as far as it can be read; `notes` say what could not.

    `agents` are all of the run, but of a large simulated one some. `agent_count` is how many it
    has; `consensus` the distance of the models from their mean by round, estimated from sketches
    or, in a simulated run, measured.
    """

    path: Path
    summary: Mapping[str, Any]
    cluster: Mapping[str, Any]
    agents: Sequence[AgentRun]
    notes: list[str] = field(default_factory=list)
    agent_count: int = 0
    consensus: Mapping[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.summary.get("run_id") or self.cluster.get("run_id") or self.path.name)

    @property
    def strategies(self) -> dict[str, str]:
        """The agents that do not report honestly, each with its strategy."""
        given = section(self.summary, "strategies")
        return {agent: str(spec) for agent, spec in given.items() if str(spec) != "honest"}

    @property
    def balances(self) -> dict[str, int]:
        """Micro-credits of every agent at the end: the last window is settled after the last round,
        so the summary and the status know more than the metrics."""
        found: dict[str, int] = {}
        for run in self.agents:
            if run.status is not None:
                found[run.agent] = run.status.balance
            elif run.rounds:
                found[run.agent] = run.rounds[-1].balance
        stated = section(self.summary, "balances")
        return found | {agent: value for agent, value in stated.items() if type(value) is int}

    def graph(self) -> "nx.Graph[str]":
        """The agents and the edges of the cluster file."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph()
        graph.add_nodes_from(run.agent for run in self.agents)
        edges = section(self.cluster, "graph").get("edges")
        for edge in edges if isinstance(edges, list) else []:
            match edge:
                case [str() as u, str() as v] if u in graph and v in graph:
                    graph.add_edge(u, v)
        return graph


def read_run_directory(path: Path) -> RunDirectory:
    """Read what there is of a run.

    Raises:
        ConfigurationError: there is nothing of a run in `path`.
    """
    if not any((path / name).exists() for name in ("cluster.toml", "summary.json", "agents")):
        raise ConfigurationError(
            f"{path}: not a run directory: no cluster.toml, summary.json or agents/ in it"
        )
    notes: list[str] = []
    summary = _document(path / "summary.json", notes)
    cluster = _document(path / "cluster.toml", notes)
    entries = cluster.get("agents")
    ids = [
        str(entry["id"])
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and "id" in entry
    ]
    if (path / SIMULATION_NAME).exists():
        return _simulated(path, summary, cluster, ids, notes)
    found = sorted(child.name for child in (path / "agents").glob("*") if child.is_dir())
    ids += [agent for agent in found if agent not in ids]
    agents = [_agent(path / "agents" / agent, agent, cluster, notes) for agent in ids]
    distances = consensus_distances(agents)
    return RunDirectory(path, summary, cluster, agents, notes, len(ids), distances)


def _simulated(
    path: Path,
    summary: Mapping[str, Any],
    cluster: Mapping[str, Any],
    ids: Sequence[str],
    notes: list[str],
) -> RunDirectory:
    """A simulated run, whose agents are columns of one file."""
    from candor.agent.runs import simulation_file  # imports torch, others do without

    found = None
    with _noted(notes, "", path):
        found = simulation_file.read(path / SIMULATION_NAME)
    if found is None:
        return RunDirectory(path, summary, cluster, [AgentRun(a) for a in ids], notes, len(ids))
    about, tensors = found
    # A run that was stopped has no summary yet.
    summary = {"simulated": True, "strategies": dict(about.strategies), **summary}
    if simulation_file.under(simulation_file.STATE, tensors):
        reached = len(tensors["seconds"]) if "seconds" in tensors else 0
        notes.append(
            f"the simulation has not ended: candor simulate --resume goes on from {reached}"
        )
    shown = _some([row for row, agent in enumerate(ids) if agent in about.strategies], len(ids))
    if len(shown) < len(ids):
        notes.append(f"{len(shown)} of {len(ids)} agents are shown; all are in {SIMULATION_NAME}")
    agents = [AgentRun(ids[row], simulation_file.metrics_of(tensors, row)) for row in shown]
    distances = simulation_file.by_round(tensors, "evaluated", "consensus_distance")
    return RunDirectory(path, summary, cluster, agents, notes, len(ids), distances)


def _some(first: Sequence[int], count: int) -> list[int]:
    """At most `SHOWN_MAX` of the rows: all, or those `first` and others evenly spread."""
    if count <= SHOWN_MAX:
        return list(range(count))
    chosen = set(first[: SHOWN_MAX // 2])
    left = SHOWN_MAX - len(chosen)
    return sorted(chosen | {i * count // left for i in range(left)})


def section(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table `key` of a document, empty where there is none."""
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def consensus_distances(agents: Sequence[AgentRun]) -> dict[int, float]:
    """Root mean square distance of the agents' models from their mean, by round.

    All agents sketch a round with the same signs, and a sketch keeps distances, so this estimates
    sqrt(mean_i ||y_i - mean y||^2) without any model. Rounds with a single sketch have no distance.
    """
    rows: dict[int, list[NDArray[np.float64]]] = {}
    for run in agents:
        if run.sketches is not None:
            for number, row in zip(run.sketch_rounds, run.sketches, strict=True):
                rows.setdefault(number, []).append(row)
    return {
        number: _spread(np.stack(found))
        for number, found in sorted(rows.items())
        if len(found) > 1 and len({row.size for row in found}) == 1
    }


def _spread(rows: NDArray[np.float64]) -> float:
    deviations = rows - rows.mean(axis=0)  # (agents, width)
    return float(np.sqrt((deviations**2).sum(axis=1).mean()))


def _document(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """A JSON or TOML object, empty with a note where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as exc:
        notes.append(f"{path.name}: {exc.strerror}")
        return {}
    except ValueError:
        notes.append(f"{path.name}: damaged, it does not parse")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name}: damaged, it is not an object")
        return {}
    return found


def _agent(data_dir: Path, agent: str, cluster: Mapping[str, Any], notes: list[str]) -> AgentRun:
    if not data_dir.is_dir():
        notes.append(f"{agent}: it left no data directory")
        return AgentRun(agent)
    rounds: Sequence[RoundMetrics] = ()
    seen: Status | None = None
    with _noted(notes, f"{agent}: ", data_dir):
        rounds = metrics.read_metrics(data_dir / metrics.FILE_NAME)
    with _noted(notes, f"{agent}: ", data_dir):
        seen = status.read_status(data_dir)
    if seen is not None and seen.state != "done":
        fate = "still running" if status.is_running(data_dir) else "ended early"
        at = f"{seen.state} in round {seen.round} of {seen.rounds}"
        notes.append(f"{agent}: {fate}, last seen {at}")
    sketches = _sketches(data_dir / SKETCHES_NAME, len(rounds), cluster)
    if sketches is None:
        notes.append(f"{agent}: no sketches, so its model is not in the consensus distance")
        return AgentRun(agent, rounds, seen)
    return AgentRun(agent, rounds, seen, sketches, _sketch_rounds(len(sketches), rounds))


@contextmanager
def _noted(notes: list[str], whose: str, folder: Path) -> Iterator[None]:
    """What cannot be read becomes a note; paths are told from `folder` on."""
    try:
        yield
    except ConfigurationError as exc:
        notes.append(whose + str(exc).replace(f"{folder}/", ""))


def _sketches(path: Path, rounds: int, cluster: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Whole rows of a sketch file, mapped and not loaded; None where there are none."""
    try:
        size = path.stat().st_size // 8
        width = _sketch_width(cluster) or size // max(rounds, 1)
        if size == 0 or width == 0:
            return None
        flat = np.memmap(path, dtype="<f8", mode="r", shape=(size // width, width))
    except (OSError, ValueError):
        return None
    return flat


def _sketch_width(cluster: Mapping[str, Any]) -> int | None:
    """Float64 values a row: a vector shorter than the sketch is its own sketch."""
    parameters = section(cluster, "task").get("parameters")
    size = section(cluster, "payments").get("sketch_size", 1024)
    if isinstance(parameters, int) and isinstance(size, int):
        return min(parameters, size)
    return None


def _sketch_rounds(rows: int, rounds: Sequence[RoundMetrics]) -> list[int]:
    """The round of each row: that of its line of metrics; those after the last line count on."""
    known = [one.round for one in rounds[:rows]]
    first = known[-1] + 1 if known else 1
    return known + list(range(first, first + rows - len(known)))
