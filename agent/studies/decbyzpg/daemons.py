"""A run of real daemons held against a simulation of its cluster file: do the policies agree?"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from candor.agent.daemon.model_file import MODEL_NAME
from candor.agent.simulation.vectorised import Simulation
from candor.topologies.cluster.file import load_cluster
from candor.topologies.specs.files import read_text
from candor.topologies.specs.specs import ConfigurationError


@dataclass(frozen=True, slots=True)
class Compared:
    """What daemons learned, beside a simulation with the same seeds.

    `apart` is the largest distance of two honest daemons' policies, `off` the largest one of an
    honest daemon's policy from the simulated agent's, `moved` how far the furthest of them is from
    the policy that all began with.
    """

    honest: int
    agents: int
    rounds: int
    apart: float
    off: float
    moved: float


def compare(run_dir: Path, told: Callable[[int, int], None] = lambda _done, _of: None) -> Compared:
    """Simulate what a testbed ran, and compare the final policies of its honest agents.

    Raises:
        ConfigurationError: it is no run that has ended.
    """
    cluster = load_cluster(run_dir / "cluster.toml")
    try:
        given = json.loads(read_text(run_dir / "summary.json", "summary"))["strategies"]
    except (ValueError, KeyError, TypeError) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{run_dir}: its summary.json is damaged") from exc
    strategies = {agent: spec for agent, spec in given.items() if spec != "honest"}
    simulation = Simulation(cluster, strategies, measured=True)
    start = simulation.parameters[0].double().numpy()
    rounds = cluster.rounds.rounds
    for t in range(1, rounds + 1):
        simulation.step()
        simulation.forget()
        told(t, rounds)
    named, left = simulation.named(), []
    honest = [agent for agent in cluster.ids if agent not in strategies]
    rows = [cluster.index(agent) for agent in honest]
    for agent in honest:
        tensors = load_file(run_dir / "agents" / agent / MODEL_NAME)
        left.append(np.concatenate([tensors[name].ravel() for name in named]))
    flat = [tensor.reshape(len(cluster.ids), -1).numpy() for tensor in named.values()]
    simulated = np.concatenate(flat, axis=1)[rows].astype(np.float64)  # (honest, dim)
    daemons = np.stack(left).astype(np.float64)
    apart = np.linalg.norm(daemons[:, None] - daemons[None], axis=2).max()
    off = np.linalg.norm(daemons - simulated, axis=1).max()
    moved = np.linalg.norm(simulation.parameters[rows].double().numpy() - start, axis=1).max()
    return Compared(len(honest), len(cluster.ids), rounds, float(apart), float(off), float(moved))
