"""The cluster file: who is in a run, how they are connected, and what all must do alike.

Every agent holds the same file; its fingerprint stands in each statement and ledger, so that two
agents with different files notice at once. What a task, an algorithm or a payment rule means is
checked where those live; here stand the settings and the graph.

A file may be signed by an organiser; it is then a numbered revision, and valid only with its
signature and those of all its agents. `topologies.cluster.revisions` makes one from another.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import numpy as np
import tomli_w
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from candor.topologies.cluster.graph_section import settings_of
from candor.topologies.cluster.memberships import Continued, Member, Memberships
from candor.topologies.cluster.requests import AgentEntry as AgentEntry
from candor.topologies.cluster.requests import check_join
from candor.topologies.encoding import canonical
from candor.topologies.encoding.signatures import SigningKey, verify
from candor.topologies.graphs import graphs
from candor.topologies.mixing import sizes
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.schedules.round_weights import GraphSettings, RoundWeights
from candor.topologies.schedules.schedules import Schedule
from candor.topologies.specs.fields import (
    Count,
    Edge,
    Hex64,
    Hex128,
    Line,
    Number,
    PublicKey,
    RunId,
    split_endpoint,
)
from candor.topologies.specs.files import FilePath, Section, read_toml, validated
from candor.topologies.specs.specs import ConfigurationError, SignatureError

if TYPE_CHECKING:
    import networkx as nx

DEFAULT_RULE = "scaled:1e-5 + originality:5e-5"
FINGERPRINT_DOMAIN = "candor/cluster/v2"
ORGANISER_DOMAIN = "candor/organiser/v1"
DEFAULT_CODEC = "float32"
DEFAULT_METRIC: Final = "accuracy"
Better: TypeAlias = Literal["higher", "lower"]
Estimator: TypeAlias = Literal["published"]
PUBLISHED: Final = "published"
EXPOSED_SAMPLES: Final = 4
"""Updates of so few samples show records, of however many local steps."""
DEFAULT_ALGORITHM, PUSH_SUM_ALGORITHM = "decentralized-sgd", "gradient-push"
OUTER_ALGORITHM: Final = "diloco"
# Algorithms that sample trajectories in place of batches, and what their rounds are set by.
POLICY_ALGORITHMS: Final = ("dec-byz-pg", "byz-pg")
POLICY_SETTINGS: Final = (
    *("large_batch", "small_batch", "switch_probability", "agreement_rounds", "estimator"),
)


class TaskSettings(Section):
    """What is learned; `model_digest` is `model_digest(initial parameters)`, all start from it.

    `parameters` counts what travels; `frozen_digest` is of its names and of the parameters that do
    not travel, being frozen, None where just all parameters travel. `metric` is which one counts,
    None for accuracy; `better` says which of its values are, None for higher ones.
    """

    name: Line
    partition: Line = "iid"
    batch_size: Count = 32
    parameters: Count
    model_digest: Hex64
    # Absent ones are left out of a fingerprint from the end: new fields go last.
    frozen_digest: Hex64 | None = None
    metric: Line | None = None
    better: Better | None = None

    @property
    def metric_name(self) -> str:
        """What the metric that counts is called."""
        return self.metric or DEFAULT_METRIC

    @property
    def better_values(self) -> Better:
        """Which of its values are better, in a word."""
        return self.better or "higher"

    @property
    def higher_is_better(self) -> bool:
        """Which of its values are better."""
        return self.better != "lower"


class AlgorithmSettings(Section):
    """How a round moves the model: step_t = step_size * t ** -step_decay, t from 1.

    The defaults hold digits within 0.065 of a centralised run on one agent's batches on 25 of 25
    seeds (ring of 8, Dirichlet 0.5, 60 rounds, one agent exaggerating by 3); docs/architecture.md
    has the table.
    """

    name: Line = DEFAULT_ALGORITHM
    step_size: Number = Field(default=0.4, gt=0, le=1e30)  # models are float32
    step_decay: Number = Field(default=0.1, ge=0)
    local_steps: Count = 12
    momentum: Number = Field(default=0.0, ge=0, lt=1)
    # Absent ones are left out of a fingerprint from the end: new fields go last. Of the three
    # lengths of a local phase the last one that is given counts.
    local_epochs: Count | None = None
    local_seconds: Annotated[Number, Field(gt=0, le=86_400)] | None = None
    outer_momentum: Annotated[Number, Field(ge=0, lt=1)] | None = None
    outer_step: Annotated[Number, Field(gt=0, le=10)] | None = None
    # How neighbours' vectors are combined where not by the graph's mixing weights, and how many
    # Byzantine neighbours of every agent that is to withstand.
    aggregator: Line | None = None
    max_byzantine: Annotated[int, Field(strict=True, ge=0, lt=1 << 53)] | None = None
    # Of policy gradients: trajectories of an agent where the common coin shows a large batch and
    # where not, the chance of that, and how many times policies are averaged after a step at most
    # (one exchange each, of 16 a round).
    large_batch: Count | None = None
    small_batch: Count | None = None
    switch_probability: Annotated[Number, Field(gt=0, le=1)] | None = None
    agreement_rounds: Annotated[int, Field(strict=True, ge=1, le=15)] | None = None
    # What a small batch corrects, and by which weights: the paper's unless it is that of the
    # program that its authors published.
    estimator: Estimator | None = None
    # What neighbours give each other of their models by what they are worth; None is all of it.
    rewards: Line | None = None
    # How many times the usual of its neighbourhood an agent may inject in a window; None: no bound.
    influence: Annotated[Number, Field(ge=1, le=1e6)] | None = None

    @model_validator(mode="after")
    def _check_outer(self) -> "AlgorithmSettings":
        for name in ("outer_momentum", "outer_step"):
            if getattr(self, name) is not None and self.name != OUTER_ALGORITHM:
                raise ConfigurationError(
                    f"{name} is of algorithm {OUTER_ALGORITHM!r}, and this is {self.name!r}; "
                    "choose that one or leave it out"
                )
        return self

    @model_validator(mode="after")
    def _check_policy(self) -> "AlgorithmSettings":
        for name in POLICY_SETTINGS:
            if getattr(self, name) is not None and self.name not in POLICY_ALGORITHMS:
                raise ConfigurationError(
                    f"{name} is of algorithms {' and '.join(POLICY_ALGORITHMS)}, and this is "
                    f"{self.name!r}; choose one of them or leave it out"
                )
        return self


class RoundSettings(Section):
    """How many rounds, and how long to wait for a neighbour's vector before going on without it."""

    rounds: Count
    deadline_s: Number = Field(default=30.0, gt=0)
    # Longer than a round's: hosts are started by hand, one after the other.
    start_deadline_s: Number = Field(default=60.0, gt=0)
    # How vectors travel; younger than the fingerprint, so absent from it where it is this one.
    codec: Line = DEFAULT_CODEC
    # Absent ones are left out of a fingerprint from the end: new fields go last. Whether nobody
    # waits for who is slow, who then sits rounds out; None: all go in step.
    pace: Literal["async"] | None = None


class PaymentSettings(Section):
    """What lying costs, and how much may be owed on one edge before service ends."""

    rule: Line = DEFAULT_RULE
    window: Count = 16
    # 1000 credits in micro-credits: far above what honest agents owe in the measured runs.
    credit_limit: Count = 1_000_000_000
    # 1024 buckets show a norm within 3 % and cost 8 KiB a statement.
    sketch_size: Annotated[Count, Field(ge=16, le=1 << 15)] = 1024
    # Absent ones are left out of a fingerprint from the end: new fields go last. Whether agents
    # commit to their samples and keep rounds that whoever they trust can do again.
    replay: Literal[True] | None = None
    # Whether they show a round of every window to their neighbours, who do it again, and what a
    # report that is proven false then costs, in micro-credits.
    disclose: Literal[True] | None = None
    bond: Count | None = None


class Revision(Section):
    """Which of an organiser's files this is; `previous` is the fingerprint of the one before.
    `departed`: who was in an earlier one and is not in this, by identity, with the serial of its
    latest request, so that none before that brings it back.
    """

    number: Count
    organiser: PublicKey
    previous: Hex64 | None = None
    departed: Annotated[
        tuple[tuple[PublicKey, Count], ...], Field(max_length=graphs.AGENTS_MAX)
    ] = ()

    @model_validator(mode="after")
    def _check_chain(self) -> "Revision":
        if (self.previous is None) != (self.number == 1):
            raise ConfigurationError("revision 1 has no previous one, every later one has")
        if len(dict(self.departed)) < len(self.departed):
            raise ConfigurationError("departed: an identity stands twice")
        return self


class Cluster(Section):
    """A whole run, valid by construction: unique agents on a simple connected graph.

    With a `revision`, every agent's `join` holds, and `signature` does where it is there: it is
    None only between assembly and `signed`. A revision that is `continued` goes on with the rounds,
    models and ledgers of its run; the others are runs of their own.
    """

    version: Literal[1]
    run_id: RunId
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
    task: TaskSettings
    algorithm: AlgorithmSettings
    rounds: RoundSettings
    payments: PaymentSettings
    graph: GraphSettings
    agents: Annotated[tuple[AgentEntry, ...], Field(max_length=graphs.AGENTS_MAX)]
    revision: Revision | None = None
    signature: Hex128 | None = None
    continued: Continued | None = None

    @model_validator(mode="after")
    def _check_relations(self) -> "Cluster":
        graphs.check_graph([agent.id for agent in self.agents], self.graph.edges)
        self._check_mixing()
        places = [(a.id, split_endpoint(place)) for a in self.agents for place in a.endpoints]
        _check_unique("endpoint", places)
        _check_unique("identity", [(agent.id, agent.identity) for agent in self.agents])
        _check_unique("curve", [(agent.id, agent.curve) for agent in self.agents])
        self._check_signatures()
        self._check_continued()
        return self

    def _check_continued(self) -> None:
        if self.continued is None:
            return
        if self.revision is None:
            raise ConfigurationError("continued: only a signed revision goes on with its run")
        if self.round_weights.push_sum:
            raise ConfigurationError(f"continued: {PUSH_SUM} has masses of one membership alone")
        if self.payments.replay is not None:
            raise ConfigurationError("continued: rounds that are kept are of one membership alone")
        self.continued.check(self.members, self.payments.window, self.rounds.rounds)

    def _check_mixing(self) -> None:
        silent = [agent.id for agent in self.agents if agent.weight is None]
        if silent and len(silent) < len(self.agents):
            loud = next(agent.id for agent in self.agents if agent.weight is not None)
            raise ConfigurationError(
                f"agent {silent[0]!r} declares no weight, and {loud!r} does; all do, or none"
            )
        self.round_weights.check()
        if self.round_weights.push_sum != (self.algorithm.name == PUSH_SUM_ALGORITHM):
            raise ConfigurationError(
                f"algorithm.name: mixing {PUSH_SUM!r} and algorithm {PUSH_SUM_ALGORITHM!r} go "
                "together; use both or neither"
            )

    def _check_signatures(self) -> None:
        if self.revision is None:
            joins = any(agent.join or agent.serial for agent in self.agents)
            if self.signature is not None or joins:
                raise SignatureError("there are signatures but no [revision]; it was taken out")
            return
        organiser, departed = self.revision.organiser, dict(self.revision.departed)
        for agent in self.agents:
            check_join(agent, organiser)
            if agent.identity in departed:
                raise ConfigurationError(f"agent {agent.id!r} is in, and among the departed")
        if self.signature is None:
            return
        key, fingerprint = bytes.fromhex(organiser), bytes.fromhex(self.fingerprint)
        if not verify(key, bytes.fromhex(self.signature), ORGANISER_DOMAIN, fingerprint):
            raise SignatureError(
                f"the organiser {organiser[:12]}… did not sign this; the file was changed since"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex) over the canonical array of every field but the signature, in declared
        order; optional ones that are absent are left out at the end of each array."""
        stated = _fields(self, ("signature",))
        return canonical.sha256(canonical.pack([FINGERPRINT_DOMAIN, *stated])).hex()

    @property
    def run(self) -> str:
        """What names the run in all that is signed in it (64 hex): its first file's fingerprint."""
        return self.fingerprint if self.continued is None else self.continued.run

    @property
    def after(self) -> int:
        """The last round of the membership before this one, 0 where there is none."""
        return 0 if self.continued is None else self.continued.after

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is in, as the next revision remembers it."""
        return tuple(Member(id=a.id, identity=a.identity, weight=a.weight) for a in self.agents)

    @cached_property
    def memberships(self) -> Memberships:
        """Who is and was in, in which rounds."""
        before = () if self.continued is None else self.continued.before
        return Memberships(self.round_weights, self.members, before)

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

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """The weights that agents declare, in file order; none where all count alike."""
        return tuple(agent.weight for agent in self.agents if agent.weight is not None)

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each counts in the mean that all tend to, in file order: they sum to one."""
        return sizes.shares(self.sizes or (1.0,) * len(self.agents))

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

    @property
    def exposure(self) -> str | None:
        """One line where updates are known to show single records to neighbours, whatever the model
        (docs/privacy.md): where a round has one local step, or no more than four samples. None for
        phases of epochs or seconds, of which this file does not say how many steps they have:
        see `exposure_of`."""
        algorithm = self.algorithm
        if algorithm.local_epochs is not None or algorithm.local_seconds is not None:
            return None
        return self._exposed(algorithm.local_steps, f"local_steps {algorithm.local_steps}")

    def exposure_of(self, samples: int) -> str | None:
        """The same for an agent who trains on so many samples, which decide how many steps an epoch
        has. A phase of seconds may always be one step only, but is not said to be."""
        epochs = self.algorithm.local_epochs
        if epochs is None or self.algorithm.local_seconds is not None:
            return self.exposure
        steps = local_steps_of(epochs, samples, self.task.batch_size)
        return self._exposed(steps, f"local_epochs {epochs} of a shard of {samples}", samples)

    def _exposed(self, steps: int, told: str, held: int | None = None) -> str | None:
        batch = self.task.batch_size
        count = batch * steps if held is None else min(held, batch * steps)
        if steps > 1 and count > EXPOSED_SAMPLES:
            return None
        samples = f"{count} sample{'s' * (count > 1)}"
        return (
            f"an update is of {samples} (batch_size {batch}, {told}): neighbours can "
            "compute records from it; several local steps hide them better"
        )

    @cached_property
    def round_weights(self) -> RoundWeights:
        """The graph and the weights of every round."""
        return RoundWeights(self.ids, self.graph, self.sizes)

    def mixing_matrix(self, round: int = 1) -> NDArray[np.float64]:
        """The mixing matrix (agents, agents) of a round from 1, rows and columns in file order."""
        return self.round_weights.matrix(round)


def load_cluster(path: FilePath) -> Cluster:
    """Read and check a cluster file.

    Raises:
        ConfigurationError: one line that names the file, the key and the mend.
    """
    return parse_cluster(read_toml(path, "cluster file"), str(path))


def parse_cluster(tables: Mapping[str, Any], source: str) -> Cluster:
    """A checked cluster from the tables of its file, of which `source` is the name.

    Raises:
        ConfigurationError: as `load_cluster` does.
    """
    cluster = validated(Cluster, tables, source)
    if cluster.revision is not None and cluster.signature is None:
        raise SignatureError(f"{source}: is a revision without the organiser's signature")
    return cluster


def dump_cluster(cluster: Cluster) -> str:
    """The TOML text of a cluster: `load_cluster` reads the same cluster from it."""
    tables: dict[str, Any] = cluster.model_dump(exclude_none=True)
    if cluster.revision is not None:
        tables["revision"] = cluster.revision.model_dump(exclude_defaults=True)
    del tables["agents"]
    if _absent(cluster.rounds, "codec"):
        del tables["rounds"]["codec"]  # unknown to those who wrote the first files
    agents = [agent.model_dump(exclude_defaults=True) for agent in cluster.agents]
    # `graph` is the last table, so its lists can be written one item a line behind the rest.
    tables["graph"] = tables.pop("graph")
    edges: Sequence[Edge] = tables["graph"].pop("edges")
    lists = {key: tables["graph"].pop(key) for key in ("turns", "weights")}
    return (
        "# Candor cluster file. Every agent of the run needs this very file;\n"
        "# `candor cluster check FILE` checks it, `candor cluster show FILE` draws it.\n"
        f"{tomli_w.dumps(tables)}edges = {graphs.toml_list(edges)}\n"
        + "".join(f"{key} = {graphs.toml_list(items)}\n" for key, items in lists.items() if items)
        + "".join(f"\n[[agents]]\n{tomli_w.dumps(agent)}" for agent in agents)
    )


def assemble_cluster(
    *,
    run_id: str,
    seed: int,
    graph: Schedule,
    agents: Sequence[AgentEntry],
    task: TaskSettings,
    rounds: RoundSettings,
    mixing_name: str | None = None,
    algorithm: AlgorithmSettings | None = None,
    payments: PaymentSettings | None = None,
    revision: Revision | None = None,
) -> Cluster:
    """A checked cluster from a schedule whose agents are the ids of `agents`.

    `mixing_name` is as `drawing.settings_of` has it; push-sum brings its own algorithm along.

    Raises:
        ConfigurationError: anything a cluster file may be refused for.
    """
    settings = settings_of(graph, [agent.id for agent in agents], mixing_name)
    algorithm = algorithm or AlgorithmSettings()
    if algorithm.name != PUSH_SUM_ALGORITHM:  # who asks for that one is told where it does not fit
        algorithm = algorithm_for(settings, algorithm)
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
        "revision": revision,
    }
    return validated(Cluster, fields, f"run {run_id!r}")


def algorithm_for(graph: GraphSettings, algorithm: AlgorithmSettings) -> AlgorithmSettings:
    """`algorithm`, but of decentralized SGD and its form for push-sum the one that goes with the
    graph's mixing."""
    if algorithm.name not in (DEFAULT_ALGORITHM, PUSH_SUM_ALGORITHM):
        return algorithm
    name = PUSH_SUM_ALGORITHM if graph.mixing == PUSH_SUM else DEFAULT_ALGORITHM
    return algorithm.model_copy(update={"name": name})


def signed(cluster: Cluster, key: SigningKey) -> Cluster:
    """The same revision with its organiser's signature.

    Raises:
        ConfigurationError: the key is not the organiser's.
    """
    signature = key.sign(ORGANISER_DOMAIN, bytes.fromhex(cluster.fingerprint)).hex()
    fields = {name: getattr(cluster, name) for name in Cluster.model_fields}
    return validated(Cluster, fields | {"signature": signature}, f"run {cluster.run_id!r}")


def model_digest(parameters: NDArray[np.float32]) -> str:
    """`TaskSettings.model_digest` (64 hex): BLAKE3 of the vector as little-endian float32."""
    vector = np.ascontiguousarray(parameters, dtype="<f4")
    return canonical.payload_digest(vector.tobytes()).hex()


def local_steps_of(epochs: int, samples: int, batch_size: int) -> int:
    """How many steps a phase of so many epochs has for who has so many samples: at least one."""
    return -(-epochs * samples // batch_size)


def _check_unique(what: str, values: Iterable[tuple[str, object]]) -> None:
    owners: dict[object, str] = {}
    for agent, value in values:
        if value in owners:
            who = f"agents {owners[value]!r} and {agent!r} have"
            if owners[value] == agent:
                who = f"agent {agent!r} has twice"
            raise ConfigurationError(f"{who} the same {what}; each needs its own")
        owners[value] = agent


def _fields(model: BaseModel, left_out: Sequence[str] = ()) -> list[canonical.Value]:
    names = [name for name in type(model).model_fields if name not in left_out]
    while names and _absent(model, names[-1]):
        names.pop()
    return [_value(getattr(model, name)) for name in names]


def _absent(model: BaseModel, name: str) -> bool:
    """Whether an optional field is not there; a setting's default counts as if written out."""
    field = type(model).model_fields[name]
    empty = not field.is_required() and field.default in (None, (), DEFAULT_CODEC)
    return empty and getattr(model, name) == field.default


def _value(value: Any) -> canonical.Value:
    if isinstance(value, BaseModel):
        return _fields(value)
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    checked: canonical.Value = value
    return checked
