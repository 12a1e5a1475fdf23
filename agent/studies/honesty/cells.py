"""The cells of the table: a task on a graph, parted among agents, and trained for long enough.

Settings are such that twice the step or the rounds does not help nearly all, so that what a lie
gains is the lie's: without that a table of gains is one of missing steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from candor.agent.runs.cluster_parts import sections
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of
from candor.agent.studies.audit.members import by_degree
from candor.agent.studies.audit.question import FINE_TUNE, TERMS, Question
from candor.topologies.cluster.file import Cluster


@dataclass(frozen=True, slots=True)
class Training:
    """A task's spec, and how it is trained: rounds of `LOCAL_STEPS` steps of one size."""

    task: str
    step_size: float
    rounds: int = 96


@dataclass(frozen=True, slots=True)
class Graph:
    """A topology's spec, and how many agents it has, None where it says so itself."""

    topology: str
    agents: int | None = 10


TASKS: Final = {
    "digits": Training("digits:model=logistic", 3.0),
    "digits-mlp": Training("digits", 1.0),
    "a9a": Training("a9a:samples=2000", 0.3),
    "breast-cancer": Training("breast-cancer", 0.3),
    "fashion-mnist": Training("fashion-mnist:model=logistic,samples=2000", 0.15),
    "mnist": Training("mnist:model=logistic,samples=2000", 0.3),
}
"""Small shards: where an agent has thousands of samples, cooperation is worth nothing to it."""
GRAPHS: Final = {
    "ring": Graph("ring"),
    "random": Graph("erdos-renyi:p=0.4,seed=0"),
    "caterpillar": Graph("caterpillar"),
    "karate": Graph("networkx:karate_club_graph", None),
    "bipartite": Graph("networkx:turan_graph,n=8,r=2", None),  # K4,4
}
LOCAL_STEPS: Final = 4
BATCH_SIZE: Final = 32
PARTITION: Final = "dirichlet:alpha=0.5,min=2"  # 34 agents have 12 of the tumours each


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: names of `TASKS` and `GRAPHS`, a partition, and the first of the seeds."""

    task: str
    graph: str
    partition: str
    seed: int = 0

    @property
    def name(self) -> str:
        """All of it."""
        return f"{self.task} · {self.graph} · {self.partition} · seeds from {self.seed}"


def question_of(
    cell: Cell,
    seeds: int,
    data_root: Path | None,
    *,
    rounds: int | None = None,
    influence: float | None = None,
) -> Question:
    """The audit of a cell, which fits prices of `TERMS`: who lie are the agents of the lowest and
    of the highest degree, in turn; with an `influence` what all inject is bounded.

    Raises:
        ConfigurationError: as of `cluster_of`.
    """
    first, *more = (
        _cluster(cell, cell.seed + k, data_root, rounds, influence) for k in range(seeds)
    )
    liars = by_degree(first)
    agents = tuple(dict.fromkeys((liars[0], liars[-1])))
    return Question([first, *more], agents, fine_tune=FINE_TUNE, data_root=data_root)


def _cluster(
    cell: Cell,
    seed: int,
    data_root: Path | None,
    rounds: int | None,
    influence: float | None,
) -> Cluster:
    training, graph = TASKS[cell.task], GRAPHS[cell.graph]
    asked = {
        "seed": seed,
        "task": training.task,
        "partition": cell.partition,
        "batch_size": BATCH_SIZE,
        "data_root": data_root,
        "initial": None,
        "rounds": rounds or training.rounds,
        "step_size": training.step_size,
        "step_decay": 0.0,
        "local_steps": LOCAL_STEPS,
        "influence": influence,
        "rule": TERMS,
    }
    plan = Plan(
        graph.topology,
        graph.agents,
        None,
        seed,
        strategies={},
        evaluate_every=training.rounds,
        data_root=data_root,
        **sections(asked),
    )
    return cluster_of(plan, Path("honesty"), stand_in_entries)
