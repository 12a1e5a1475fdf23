"""The cluster file: who is in a run, how they are connected, and what all must do alike.

Every agent holds the same file; its fingerprint stands in each statement and ledger, so that two
agents with different files notice at once. What a task, an algorithm or a payment rule means is
checked where those live; here stand the settings and the graph.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tomli_w
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from topologies import canonical, graphs, schedules
from topologies.fields import (
    AgentId,
    Count,
    CurveKey,
    Edge,
    Endpoint,
    Hex64,
    Line,
    Number,
    RunId,
    split_endpoint,
)
from topologies.files import FilePath, Section, read_toml, validated
from topologies.rounds import PUSH_SUM, GraphSettings, RoundWeights, settings_of
from topologies.schedules import Schedule
from topologies.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx

    from topologies.schedules import RoundGraph

DEFAULT_RULE = "band:5e-4 + originality:5e-4 + persistence:5e-4 + norm:2e-5"
FINGERPRINT_DOMAIN = "candor/cluster/v2"
PUSH_SUM_ALGORITHM = "gradient-push"


class AgentEntry(Section):
    """One agent: the address its neighbours dial and the public halves of its keys."""

    id: AgentId
    endpoint: Endpoint
    identity: Hex64
    curve: CurveKey


class TaskSettings(Section):
    """What is learned; `model_digest` is `model_digest(initial parameters)`, all start from it."""

    name: Line
    partition: Line = "iid"
    batch_size: Count = 32
    parameters: Count
    model_digest: Hex64


class AlgorithmSettings(Section):
    """How a round moves the model: step_t = step_size * t ** -step_decay, t from 1.

    The defaults hold digits within 0.05 of a centralised run on 25 of 25 seeds (ring of 8,
    Dirichlet 0.5, 60 rounds, one agent exaggerating by 3); docs/architecture.md has the table.
    """

    name: Line = "decentralized-sgd"
    step_size: Number = Field(default=0.4, gt=0)
    step_decay: Number = Field(default=0.1, ge=0)
    local_steps: Count = 12
    momentum: Number = Field(default=0.0, ge=0, lt=1)


class RoundSettings(Section):
    """How many rounds, and how long to wait for a neighbour's vector before going on without it."""

    rounds: Count
    deadline_s: Number = Field(default=30.0, gt=0)
    # Longer than a round's: hosts are started by hand, one after the other.
    start_deadline_s: Number = Field(default=60.0, gt=0)


class PaymentSettings(Section):
    """What lying costs, and how much may be owed on one edge before service ends."""

    rule: Line = DEFAULT_RULE
    window: Count = 16
    # 1000 credits in micro-credits: far above what honest agents owe in the measured runs.
    credit_limit: Count = 1_000_000_000
    # 1024 buckets show a norm within 3 % and cost 8 KiB a statement.
    sketch_size: Annotated[Count, Field(ge=16, le=1 << 15)] = 1024


class Cluster(Section):
    """A whole run, valid by construction: unique agents on a simple connected graph."""

    version: Literal[1]
    run_id: RunId
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
    task: TaskSettings
    algorithm: AlgorithmSettings
    rounds: RoundSettings
    payments: PaymentSettings
    graph: GraphSettings
    agents: tuple[AgentEntry, ...]

    @model_validator(mode="after")
    def _check_relations(self) -> "Cluster":
        graphs.check_graph([agent.id for agent in self.agents], self.graph.edges)
        self._check_mixing()
        self._check_unique("endpoint", [split_endpoint(agent.endpoint) for agent in self.agents])
        self._check_unique("identity", [agent.identity for agent in self.agents])
        self._check_unique("curve", [agent.curve for agent in self.agents])
        return self

    def _check_mixing(self) -> None:
        self.round_weights.check()
        if self.round_weights.push_sum != (self.algorithm.name == PUSH_SUM_ALGORITHM):
            raise ConfigurationError(
                f"algorithm.name: mixing {PUSH_SUM!r} and algorithm {PUSH_SUM_ALGORITHM!r} go "
                "together; use both or neither"
            )

    def _check_unique(self, what: str, values: Sequence[object]) -> None:
        owners: dict[object, str] = {}
        for agent, value in zip(self.agents, values, strict=True):
            if value in owners:
                raise ConfigurationError(
                    f"agents {owners[value]!r} and {agent.id!r} have the same {what}; "
                    "each needs its own"
                )
            owners[value] = agent.id

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex) over the canonical array of every field, in declared order."""
        return canonical.sha256(canonical.pack([FINGERPRINT_DOMAIN, *_fields(self)])).hex()

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Agent ids in file order: the order of matrix rows."""
        return tuple(agent.id for agent in self.agents)

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {agent: i for i, agent in enumerate(self.ids)}

    @cached_property
    def _neighbours(self) -> Mapping[str, tuple[str, ...]]:
        graph = self.networkx_graph()
        return {agent: tuple(sorted(graph[agent])) for agent in self.ids}

    def index(self, agent: str) -> int:
        """The row of an agent.

        Raises:
            ConfigurationError: the file has no such agent; names the known ones.
        """
        if agent not in self._positions:
            known = ", ".join(self.ids[:20]) + (", …" if len(self.ids) > 20 else "")
            raise ConfigurationError(f"run {self.run_id!r} has no agent {agent!r}; it has {known}")
        return self._positions[agent]

    def agent(self, agent: str) -> AgentEntry:
        """The entry of an agent; raises as `index` does."""
        return self.agents[self.index(agent)]

    def neighbours(self, agent: str) -> tuple[str, ...]:
        """The sorted ids an agent shares an edge with in some round; raises as `index` does."""
        self.index(agent)
        return self._neighbours[agent]

    def networkx_graph(self) -> "nx.Graph[str]":
        """Who are neighbours, in whatever round; nodes in file order."""
        return graphs.make_graph(self.ids, self.graph.edges)

    @cached_property
    def round_weights(self) -> RoundWeights:
        """The graph and the weights of every round."""
        return RoundWeights(self.ids, self.graph)

    def mixing_matrix(self, round: int = 1) -> NDArray[np.float64]:
        """The mixing matrix (agents, agents) of a round from 1, rows and columns in file order."""
        return self.round_weights.matrix(round)


def load_cluster(path: FilePath) -> Cluster:
    """Read and check a cluster file.

    Raises:
        ConfigurationError: one line that names the file, the key and the mend.
    """
    return validated(Cluster, read_toml(path, "cluster file"), str(path))


def dump_cluster(cluster: Cluster) -> str:
    """The TOML text of a cluster: `load_cluster` reads the same cluster from it."""
    tables: dict[str, Any] = cluster.model_dump()
    agents: list[dict[str, str]] = list(tables.pop("agents"))
    # `graph` is the last table, so its lists can be written one item a line behind the rest.
    edges: Sequence[Edge] = tables["graph"].pop("edges")
    lists = {key: tables["graph"].pop(key) for key in ("turns", "weights")}
    return (
        "# Candor cluster file. Every agent of the run needs this very file;\n"
        "# `candor cluster check FILE` checks it, `candor cluster show FILE` draws it.\n"
        f"{tomli_w.dumps(tables)}edges = {graphs.edges_toml(edges)}\n"
        + "".join(f"{key} = {_lines(items)}\n" for key, items in lists.items())
        + "".join(f"\n[[agents]]\n{tomli_w.dumps(agent)}" for agent in agents)
    )


def _lines(items: Sequence[Any]) -> str:
    """A TOML array, one item a line; what TOML and JSON write alike."""
    return "[" + "".join(f"\n  {json.dumps(item)}," for item in items) + "\n" * bool(items) + "]"


def assemble_cluster(
    *,
    run_id: str,
    seed: int,
    graph: "RoundGraph | Schedule",
    topology: str,
    agents: Sequence[AgentEntry],
    task: TaskSettings,
    rounds: RoundSettings,
    mixing_name: str | None = None,
    algorithm: AlgorithmSettings | None = None,
    payments: PaymentSettings | None = None,
) -> Cluster:
    """A checked cluster from a graph or a schedule whose agents are the ids of `agents`.

    `mixing_name` is as `rounds.settings_of` has it; push-sum brings its own algorithm along.

    Raises:
        ConfigurationError: anything a cluster file may be refused for.
    """
    schedule = graph if isinstance(graph, Schedule) else schedules.fixed(graph)
    named = {agent.id for agent in agents}
    if named != set(schedule.agents):
        odd = sorted(named.symmetric_difference(schedule.agents))[0]
        where = "has keys but is not in the topology" if odd in named else "has no keys"
        raise ConfigurationError(f"run {run_id!r}: agent {odd!r} {where}")
    settings = settings_of(schedule, [agent.id for agent in agents], topology, mixing_name)
    algorithm = algorithm or AlgorithmSettings()
    if settings.mixing == PUSH_SUM:
        algorithm = algorithm.model_copy(update={"name": PUSH_SUM_ALGORITHM})
    fields = {
        "version": 1,
        "run_id": run_id,
        "seed": seed,
        "task": task,
        "algorithm": algorithm,
        "rounds": rounds,
        "payments": payments or PaymentSettings(),
        "graph": settings,
        "agents": tuple(agents),
    }
    return validated(Cluster, fields, f"run {run_id!r}")


def model_digest(parameters: NDArray[np.float32]) -> str:
    """`TaskSettings.model_digest` (64 hex): BLAKE3 of the vector as little-endian float32."""
    vector = np.ascontiguousarray(parameters, dtype="<f4")
    return canonical.payload_digest(vector.tobytes()).hex()


def _fields(model: BaseModel) -> list[canonical.Value]:
    return [_value(getattr(model, name)) for name in type(model).model_fields]


def _value(value: Any) -> canonical.Value:
    if isinstance(value, BaseModel):
        return _fields(value)
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    checked: canonical.Value = value
    return checked
