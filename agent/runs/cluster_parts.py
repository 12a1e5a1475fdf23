"""What a cluster file is put together from: agents' public keys, and a task's initial model.

Used by whoever writes one: `candor cluster new` and the testbed. The learner and the rules are
imported when they are needed: torch takes seconds to load, and most commands do without.
"""

from collections.abc import Sequence
from pathlib import Path

from candor.agent.daemon import keys
from candor.topologies.cluster.file import AgentEntry, TaskSettings, model_digest
from candor.topologies.specs.files import validated
from candor.topologies.specs.specs import ConfigurationError

LOOPBACK = "127.0.0.1"


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


def local_entries(ids: Sequence[str], keys_root: Path, base_port: int) -> list[AgentEntry]:
    """Agents that all run on this host: keys in `keys_root/<id>`, ports from `base_port` on.

    Raises:
        ConfigurationError: unreadable keys, or a port out of range.
    """
    return [
        entry_of(agent, keys_root / agent, f"tcp://{LOOPBACK}:{base_port + i}")
        for i, agent in enumerate(ids)
    ]


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
    from candor.agent.learning.learner import initial_parameters
    from candor.agent.tasks import resolve_task

    vector = initial_parameters(resolve_task(name, data_root), seed, initial).numpy()
    fields = {
        "name": name,
        "partition": partition,
        "batch_size": batch_size,
        "parameters": len(vector),
        "model_digest": model_digest(vector),
    }
    return validated(TaskSettings, fields, "task")


def check_rule(rule: str) -> None:
    """Check a payment rule.

    Raises:
        ConfigurationError: what is wrong with it.
    """
    from candor.mechanisms.payments.bills import parse_rule

    parse_rule(rule)


def check_partition(partition: str) -> None:
    """Check a partition's grammar, on stand-in labels: whoever writes the file may have no data.

    Raises:
        ConfigurationError: what is wrong with it.
    """
    import numpy as np

    from candor.agent.tasks.partition import split

    labels = np.arange(10_000) % 10
    split(labels, partition, 2, seed=0, parts=labels)
