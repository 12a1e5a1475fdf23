"""Agents of runs that never open a socket: well-formed keys and endpoints that nobody uses."""

from collections.abc import Sequence
from itertools import count
from typing import Final

from candor.topologies.cluster.file import (
    AgentEntry,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
)
from candor.topologies.encoding import z85
from candor.topologies.encoding.signatures import PUBLIC_KEY_BYTES, is_sound
from candor.topologies.schedules import schedules

STEP_SIZE: Final = 0.05
_PORT_MIN = 1024


def stand_in_entries(ids: Sequence[str]) -> list[AgentEntry]:
    """An entry for each id, always the same, so that the fingerprint of a simulated run, and what
    is drawn from it, depend on its settings alone; no daemon can run with them.

    Raises:
        ConfigurationError: there are more than 64,511 agents.
    """
    # The numbers from 1 but for 128, which as a key has a y of 0: nobody can have it.
    numbers = (number.to_bytes(PUBLIC_KEY_BYTES, "big") for number in count(1))
    identities = filter(is_sound, numbers)
    return [
        AgentEntry(
            id=agent,
            endpoint=f"tcp://127.0.0.1:{_PORT_MIN + index}",
            identity=identity.hex(),
            curve=z85.encode(index.to_bytes(32, "big")),
        )
        for index, (agent, identity) in enumerate(zip(ids, identities, strict=False))
    ]


def stand_in_cluster(
    run_id: str,
    task: TaskSettings,
    topology: str,
    agents: int,
    rounds: int,
    rule: str = "none",
    seed: int = 0,
) -> Cluster:
    """A run of such agents, of one local step a round at a constant step size."""
    schedule = schedules.build(topology, agents)
    return assemble_cluster(
        run_id=run_id,
        seed=seed,
        graph=schedule,
        agents=stand_in_entries(schedule.agents),
        task=task,
        algorithm=AlgorithmSettings(step_size=STEP_SIZE, step_decay=0.0, local_steps=1),
        rounds=RoundSettings(rounds=rounds),
        payments=PaymentSettings(rule=rule),
    )
