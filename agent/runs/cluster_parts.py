"""What a cluster file is put together from: agents, the sections of settings, an initial model.

Used by whoever writes one: `candor cluster` and all runs on this machine. The learner and the rules
are imported when they are needed: torch takes seconds to load, and most commands do without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from candor.agent.algorithms.catalogue import aggregator_of, check_breakdown
from candor.agent.core.succession import check_continuable
from candor.agent.daemon import keys
from candor.agent.runs.declared import check_declared, declaring, samples_of
from candor.mechanisms.payments.credits import format_credits
from candor.topologies.cluster import revisions
from candor.topologies.cluster.file import (
    POLICY_ALGORITHMS,
    AgentEntry,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    signed,
)
from candor.topologies.cluster.graph_section import draw
from candor.topologies.cluster.requests import entries_for, load_request
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.schedules import schedules
from candor.topologies.specs.files import Section, validated
from candor.topologies.specs.specs import ConfigurationError

LOOPBACK = "127.0.0.1"


def new_cluster(asked: Mapping[str, Any], key: SigningKey | None) -> Cluster:
    """The first cluster file that the options of `candor cluster new` describe, signed by `key`.

    Raises:
        ConfigurationError: what is wrong with them.
    """
    schedule, entries = _members(asked, key)
    entries = _declaring(asked, entries, key)
    cluster = assemble_cluster(
        run_id=asked["run_id"],
        seed=asked["seed"],
        graph=schedule,
        mixing_name=asked["mixing_name"],
        agents=entries,
        revision=revisions.first_revision(key) if key else None,
        **sections(asked),
    )
    check_breakdown(cluster)
    return signed(cluster, key) if key else cluster


def _members(
    asked: Mapping[str, Any], key: SigningKey | None
) -> tuple[schedules.Schedule, list[AgentEntry]]:
    """Who is in a new file, on which graph: from join requests, named one by one, or all here."""
    topology, seed, named = asked["topology"], asked["seed"], asked["named"]
    if bool(asked["requests"]) != (key is not None):
        raise ConfigurationError("join requests and --sign-with KEYS go together; give both")
    local = [asked[name] for name in ("agents", "base_port", "keys_root")]
    if (named or key) and (local != [None] * 3 or (named and key)):
        raise ConfigurationError(
            "join requests or --agent name agents one by one; choose one of them and leave out "
            "--agents, --base-port and --keys-root"
        )
    entries = [named_entry(text) for text in named]
    if key is not None:
        found = [load_request(path) for path in asked["requests"]]
        entries = list(entries_for(found, key.public.hex()).values())
    if entries:
        return draw(topology, [entry.id for entry in entries], seed), entries
    agents, base_port, keys_root = local
    if base_port is None or keys_root is None:
        raise ConfigurationError(
            "who are the agents? give join requests and --sign-with, or --agent "
            "ID=KEYS@ENDPOINT for each, or, with all of them on this host, --base-port and "
            "--keys-root"
        )
    schedule = schedules.build(topology, agents, seed)
    return schedule, [
        entry_of(agent, keys_root / agent, f"tcp://{LOOPBACK}:{base_port + i}")
        for i, agent in enumerate(schedule.agents)
    ]


def _declaring(
    asked: Mapping[str, Any], entries: Sequence[AgentEntry], key: SigningKey | None
) -> list[AgentEntry]:
    """The entries with their weights: as their requests declare them, or as `--weights` asks."""
    if key is not None:
        check_declared(entries, asked["weights"])
        return list(entries)

    def counted() -> list[int]:
        names = ("partition", "seed", "data_root")
        return samples_of(asked["task"], len(entries), *(asked[name] for name in names))

    return declaring(entries, asked["weights"], None if asked["named"] else counted)


def named_entry(text: str) -> AgentEntry:
    """The agent that `ID=KEYS@ENDPOINT` describes; KEYS is a keys directory or a public.toml.

    Raises:
        ConfigurationError: another form, unreadable keys, or a bad id or endpoint.
    """
    agent, equals, rest = text.partition("=")
    path, at, endpoint = rest.rpartition("@")  # from the right: a path may have an @ of its own
    if not (equals and at and agent and path and endpoint):
        raise ConfigurationError(
            f"agent {text!r}: write ID=KEYS@ENDPOINT, such as a0=keys/a0@tcp://10.0.0.1:7000"
        )
    return entry_of(agent, Path(path), endpoint)


def entry_of(agent: str, key_path: Path, endpoint: str) -> AgentEntry:
    """The entry of an agent from its public keys: a keys directory or a public.toml.

    Raises:
        ConfigurationError: unreadable keys, or a bad id or endpoint.
    """
    public = keys.load_public(key_path)
    fields = {
        "id": agent,
        "endpoint": endpoint,
        "identity": public.identity.hex(),
        "curve": public.curve,
    }
    return validated(AgentEntry, fields, f"agent {agent!r}")


def next_cluster(
    before: Cluster,
    key: SigningKey,
    *,
    joining: Sequence[Path] = (),
    initial: Path | None,
    rounds: int | None,
    data_root: Path | None,
    **changed: Any,
) -> Cluster:
    """The next revision of a signed file: `joining` are join requests, `changed` is as
    `revisions.amended` takes it.

    Raises:
        ConfigurationError: what is wrong with the changes.
    """
    changes: dict[str, Section] = {}
    if initial is not None:
        task = before.task.model_dump(include={"partition", "batch_size"})
        name, seed = before.task.name, before.seed
        changes["task"] = task_settings(name, seed, data_root, initial=initial, **task)
    if rounds is not None:
        fields = before.rounds.model_dump() | {"rounds": rounds}
        changes["rounds"] = validated(RoundSettings, fields, "--rounds")
    requests = [load_request(path) for path in joining]
    after = revisions.amended(before, key, joining=requests, changes=changes, **changed)
    check_breakdown(after)
    if after.continued is not None:
        check_continuable(after)
    return after


def warnings_of(cluster: Cluster) -> list[str]:
    """What is allowed in a cluster file and probably not meant, a line each."""
    found = [cluster.exposure] if cluster.exposure else []
    bond, limit = cluster.payments.bond or 0, cluster.payments.credit_limit
    if bond > limit:
        found.append(
            f"bond {format_credits(bond)} is more than may be owed on an edge, "
            f"{format_credits(limit)}; raise --credit-limit, or agents trust for more than they "
            "agreed to"
        )
    byzantine = cluster.algorithm.max_byzantine or 0
    aggregator = aggregator_of(cluster.algorithm)
    if aggregator is None and byzantine:
        found.append(
            f"max_byzantine {byzantine} with plain mixing, which withstands nobody; choose an "
            "--aggregator"
        )
    if aggregator is not None and not byzantine:
        found.append(
            f"aggregator {aggregator.name} is to withstand no Byzantine neighbour; say how many "
            "with --max-byzantine"
        )
    return found


def sections(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of settings of a cluster file, by name, from the values of a command's options.

    Raises:
        ConfigurationError: a setting out of its range, or a task that cannot be used.
    """
    check_rule(asked["rule"])
    check_partition(asked["partition"])
    settings = {key: asked[key] for key in ("partition", "batch_size", "initial")}
    task = task_settings(asked["task"], asked["seed"], asked["data_root"], **settings)
    models: dict[str, type[Section]] = {
        "algorithm": AlgorithmSettings,
        "rounds": RoundSettings,
        "payments": PaymentSettings,
    }
    parts: dict[str, Any] = {"task": task}
    for name, model in models.items():
        options = {field: option_name(model, field) for field in model.model_fields}
        asked_for = {field: asked.get(option) for field, option in options.items()}
        given = {field: value for field, value in asked_for.items() if value is not None}
        if name == "algorithm":
            given = _of_the_task(given, asked) | given
        parts[name] = validated(model, given, name)
    return parts


def _of_the_task(given: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an algorithm as the task has them, where it is one of policy gradients."""
    if given.get("name") not in POLICY_ALGORITHMS:
        return {}

    from candor.agent.tasks import resolve_task
    from candor.agent.tasks.base import is_policy_task
    from candor.agent.tasks.environments import defaults_of

    task = resolve_task(asked["task"], asked["data_root"])
    if not is_policy_task(task):
        raise ConfigurationError(
            f"algorithm {given['name']} samples episodes, and task {asked['task']} has no "
            "environment; choose a task such as cartpole"
        )
    return asdict(defaults_of(task)) | {"step_decay": 0.0}


def option_name(model: type[BaseModel], field: str) -> str:
    """What a setting is called among the options of a command."""
    return "algorithm" if (model, field) == (AlgorithmSettings, "name") else field


def task_settings(
    name: str,
    seed: int,
    data_root: Path | None,
    *,
    partition: str = "iid",
    batch_size: int = 32,
    initial: Path | None = None,
) -> TaskSettings:
    """The task section, with the initial model that `seed` gives here, or that was saved.

    Raises:
        ConfigurationError: the task or a setting is refused.
    """
    from candor.agent.learning.initial import stated_of
    from candor.agent.tasks import resolve_task

    stated = stated_of(resolve_task(name, data_root), seed, initial)
    fields = {"name": name, "partition": partition, "batch_size": batch_size, **stated}
    return validated(TaskSettings, fields, "task")


def check_rule(rule: str) -> None:
    """Check a payment rule.

    Raises:
        ConfigurationError: what is wrong with it.
    """
    from candor.mechanisms.payments.bills import parse_rule

    parse_rule(rule)


def check_partition(partition: str) -> None:
    """Check a partition without data, which whoever writes the file may not have.

    Raises:
        ConfigurationError: what is wrong with it.
    """
    from candor.agent.tasks.partition import check_partition

    check_partition(partition)
