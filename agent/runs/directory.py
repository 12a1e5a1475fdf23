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
from candor.agent.daemon.exports import AGENTS_NAME, CLUSTER_NAME
from candor.agent.daemon.metrics import SKETCHES_NAME, RoundMetrics
from candor.agent.daemon.status import Status
from candor.agent.runs import fault_log
from candor.agent.runs.data_dirs import gathered, is_data_dir, owner
from candor.agent.runs.fault_log import Happened
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.mechanisms.ledger.audit import RunAudit
from candor.topologies.specs.files import open_regular
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx

SIMULATION_NAME = "simulation.safetensors"
SUMMARY_NAME = "summary.json"
_NO_SKETCHES = "no sketches, so its model is not in the consensus distance"
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
    or, in a simulated run, measured. `own`: whose data directory it is, if it is one agent's alone.
    `audit`: the verdict on the exports, where it was come to here. `faults`: what a fault plan did.
    """

    path: Path
    summary: Mapping[str, Any]
    cluster: Mapping[str, Any]
    agents: Sequence[AgentRun]
    notes: list[str] = field(default_factory=list)
    agent_count: int = 0
    consensus: Mapping[int, float] = field(default_factory=dict)
    own: str | None = None
    audit: RunAudit | None = None
    faults: Sequence[Happened] = ()

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
        """The agents and the edges of the cluster file, or of one agent's those that it has."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph()
        graph.add_nodes_from(run.agent for run in self.agents)
        edges = section(self.cluster, "graph").get("edges")
        for edge in edges if isinstance(edges, list) else []:
            match edge:
                case [str() as u, str() as v] if (
                    self.own in (u, v) if self.own else u in graph and v in graph
                ):
                    graph.add_edge(u, v)
        return graph


def read_run_directory(path: Path) -> RunDirectory:
    """Read what there is of a run: its directory, what was gathered of its agents in a folder, or
    the data directory of one agent.

    Raises:
        ConfigurationError: there is nothing of a run in `path`.
    """
    own = owner(path) if is_data_dir(path) else None
    data_dirs = {own: path} if own else {child.name: child for child in gathered(path)}
    if not data_dirs and not any((path / name).exists() for name in (CLUSTER_NAME, SUMMARY_NAME)):
        raise ConfigurationError(
            f"{path}: not a run directory: no {CLUSTER_NAME}, {SUMMARY_NAME} or agents/ in it, nor "
            "what an agent leaves in its data directory, nor a folder of such directories"
        )
    notes: list[str] = []
    of_run = not own and (path / AGENTS_NAME).is_dir()
    summary = _document(path / SUMMARY_NAME, notes if of_run else [])
    places = [path / CLUSTER_NAME, *(child / CLUSTER_NAME for child in data_dirs.values())]
    cluster = _document(next((place for place in places if place.exists()), places[0]), notes)
    entries = cluster.get("agents")
    ids = [
        str(entry["id"])
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and "id" in entry
    ]
    if (path / SIMULATION_NAME).exists():
        return _simulated(path, summary, cluster, ids, notes)
    ids += [agent for agent in data_dirs if agent not in ids]
    shown = [own] if own else ids
    agents = [_agent(data_dirs.get(agent), agent, cluster, notes) for agent in shown]
    if all(one.sketches is None for one in agents):
        notes[:] = [note for note in notes if not note.endswith(_NO_SKETCHES)]
        notes.append("no agent's sketches are here, which testbeds record: no consensus distance")
    audit = None
    if "audit" not in summary:
        audit = _audited(path, notes)
        summary = _summed_up(cluster, agents, audit) | dict(summary)
    distances = consensus_distances(agents)
    faults: Sequence[Happened] = ()
    with _noted(notes, "", path):
        faults = fault_log.read(path)
    return RunDirectory(
        *(path, summary, cluster, agents, notes, len(ids), distances),
        own=own,
        audit=audit,
        faults=faults,
    )


def _audited(path: Path, notes: list[str]) -> RunAudit | None:
    """The verdict on the exports that lie there; why there is none becomes a note."""
    with _noted(notes, "the ledgers were not audited: ", path):
        return audit_run_directory(path)[1]
    return None


def _summed_up(
    cluster: Mapping[str, Any], agents: Sequence[AgentRun], audit: RunAudit | None
) -> dict[str, Any]:
    """The fields of summary.json that the agents' own files give, where nobody has summed up."""
    task = section(cluster, "task")
    seen = {run.agent: run.status for run in agents if run.status is not None}
    settings = {
        "run_id": cluster.get("run_id"),
        "task": task.get("name"),
        "partition": task.get("partition"),
        "topology": section(cluster, "graph").get("topology"),
        "rule": section(cluster, "payments").get("rule"),
        "rounds": section(cluster, "rounds").get("rounds"),
    }
    last = {run.agent: one for run in agents if (one := _last_evaluation(run)) is not None}
    reached = {a: value for a, one in last.items() if (value := one.test_accuracy) is not None}
    local = {a: value for a, one in last.items() if (value := one.local_metric) is not None}
    # An edge's balance as its lower end has it, else as the other has; the ledgers know best.
    edges: dict[tuple[str, str], int] = {}
    for agent, told in sorted(seen.items(), reverse=True):
        for peer, neighbour in told.neighbours.items():
            received = neighbour.balance if agent < peer else -neighbour.balance
            edges[min(agent, peer), max(agent, peer)] = received
    if audit is not None:
        edges |= {(edge.lo, edge.hi): edge.balance_lo for edge in audit.edges}
    found: dict[str, Any] = {
        **settings,
        "metric": task.get("metric"),
        "better": task.get("better"),
        "accuracy": reached,
        "mean_accuracy": sum(reached.values()) / len(reached) if reached else None,
        "local_metric": local,
        "metrics": {agent: dict(one.metrics) for agent, one in last.items() if one.metrics},
        "edges": [
            {"lo": lo, "hi": hi, "balance_lo": received} for (lo, hi), received in edges.items()
        ],
        "balances": dict(audit.nets) if audit is not None else {},
    }
    return {key: value for key, value in found.items() if value not in (None, {}, [])}


def _last_evaluation(run: AgentRun) -> Status | RoundMetrics | None:
    """What knows the last evaluation: the status, or else a line of metrics."""
    if run.status is not None and run.status.test_accuracy is not None:
        return run.status
    return next((m for m in reversed(run.rounds) if m.test_accuracy is not None), None)


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
        with open_regular(path) as file:
            text = file.read().decode()
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as exc:
        notes.append(f"{path.name}: {exc.strerror}")
        return {}
    except (ValueError, RecursionError):
        notes.append(f"{path.name}: damaged, it does not parse")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name}: damaged, it is not an object")
        return {}
    return found


def _agent(
    data_dir: Path | None, agent: str, cluster: Mapping[str, Any], notes: list[str]
) -> AgentRun:
    if data_dir is None:
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
        notes.append(f"{agent}: {_NO_SKETCHES}")
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
