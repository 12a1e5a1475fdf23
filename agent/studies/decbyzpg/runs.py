"""One run of the study: what it is set by, its returns, and the file in which they are kept.

A run is a simulation. Its file is written whole when it has ended; a run whose file is there is not
run again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from candor.agent.algorithms.catalogue import batches_of, coin_of
from candor.agent.runs.byzantine import with_byzantine
from candor.agent.runs.cluster_parts import sections
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of
from candor.agent.simulation.vectorised import Simulation
from candor.agent.studies import kept as files

Floats = NDArray[np.float64]

ALGORITHM: Final = "dec-byz-pg"
VERSION: Final = 1  # of the files: raised where runs of the same settings come out otherwise


@dataclass(frozen=True, slots=True)
class Setting:
    """A run: `agents` of a complete graph learn `task`, of whom `byzantine` as COUNT:ATTACK, or
    none where it is empty, until each has sampled so many trajectories."""

    task: str
    agents: int
    byzantine: str
    aggregator: str
    trajectories: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        words = [self.task, f"k{self.agents}", self.byzantine or "honest", self.aggregator]
        return files.file_name([*words, f"n{self.trajectories}", f"s{self.seed}"])


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to, by round: trajectories that each agent has sampled by its end, the mean
    return of the honest agents in the batch of that round, and in how many exchanges averaging
    moved an honest policy. A run that diverged ends there.

    `apart` is the largest distance of two honest policies after the last round.
    """

    setting: Setting
    trajectories: tuple[int, ...]
    returns: tuple[float, ...]
    moves: tuple[int, ...]
    apart: float
    seconds: float

    def around(self, trajectories: int, window: int) -> float:
        """The mean return of `window` trajectories of an agent, half of them on either side of so
        many, as far as the run goes: returns rise fast, and one of what came before alone would be
        that of an earlier policy. nan where the run did not come so far."""
        ends = np.array(self.trajectories)
        if not len(ends) or ends[-1] < trajectories:
            return math.nan
        sizes = np.diff(ends, prepend=0)
        away = np.abs(ends - sizes / 2 - trajectories)  # of the middle of each batch
        near = away <= max(window / 2, away.min())
        return float(np.average(np.array(self.returns)[near], weights=sizes[near]))


_KEPT: Final = TypeAdapter(Run)


def run(setting: Setting, told: Callable[[int], None] = lambda _: None) -> Run:
    """Simulate it; `told` hears of the trajectories that an agent has sampled.

    Raises:
        ConfigurationError: the task is not usable, or a setting is refused.
    """
    import time

    began = time.monotonic()
    asked: dict[str, Any] = {
        "task": setting.task,
        "seed": setting.seed,
        "rounds": 1,
        "rule": "none",
        "partition": "iid",
        "batch_size": 1,
        "algorithm": ALGORITHM,
        "aggregator": setting.aggregator,
        "initial": None,
        "data_root": None,
    }
    plan = Plan(
        topology="complete",
        agents=setting.agents,
        mixing=None,
        seed=setting.seed,
        **sections(asked),
        strategies={},
        evaluate_every=1,
        data_root=None,
        trajectories=setting.trajectories,
    )
    if setting.byzantine:
        plan = with_byzantine(plan, setting.byzantine)
    cluster = cluster_of(plan, Path(setting.task), stand_in_entries)
    strategies = plan.strategies
    honest = [cluster.index(agent) for agent in cluster.ids if agent not in strategies]
    coin, (large, small) = coin_of(cluster), batches_of(cluster.algorithm)
    simulation = Simulation(cluster, strategies, measured=False, threads=torch.get_num_threads())
    sampled, ends, returns, moves = 0, [], [], []
    for t in range(1, cluster.rounds.rounds + 1):
        result = simulation.step()
        assert result.moves is not None
        moves.append(int(result.moves[honest].max()))
        if not bool(simulation.parameters[honest].isfinite().all()):
            break
        sampled += large if coin(t) else small
        ends.append(sampled)
        returns.append(float(-result.losses[honest].mean()))
        told(sampled)
    policies = simulation.parameters[honest].double()
    apart = float(torch.cdist(policies, policies).max())
    seconds = time.monotonic() - began
    return Run(setting, tuple(ends), tuple(returns), tuple(moves), apart, round(seconds, 3))


def kept(directory: Path, setting: Setting) -> Run | None:
    """A run that has ended, None if it has not.

    Raises:
        ConfigurationError: its file is damaged.
    """
    return files.read(directory, setting, VERSION, _KEPT, _whole)


def keep(directory: Path, done: Run) -> None:
    """Write a run that has ended."""
    files.write(directory, done.setting, VERSION, done)


def _whole(done: Run) -> bool:
    sizes = np.diff(done.trajectories, prepend=0)
    return len(done.returns) == len(sizes) and bool((sizes > 0).all())
