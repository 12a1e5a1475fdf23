"""What to run: a plan, its cluster file and its directory."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from candor.agent.algorithms.catalogue import batches_of, check_breakdown, coin_of
from candor.agent.algorithms.steps import SWITCH_PROBABILITY, given_or
from candor.agent.runs.declared import EQUAL, declaring, samples_of
from candor.mechanisms.agreement.coin import rounds_for
from candor.topologies.cluster.file import (
    AgentEntry,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
)
from candor.topologies.schedules import schedules
from candor.topologies.specs.files import system_errors
from candor.topologies.specs.specs import ConfigurationError


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: the settings of the cluster file, who deviates how, where models are trained.
    With `trajectories` the run has as many rounds as give every agent so many. `faults`: the file
    of a fault plan, or how one is drawn.

    `byzantine` are those who attack, and are not counted in what the others reach."""

    topology: str
    agents: int | None
    mixing: str | None
    seed: int
    task: TaskSettings
    algorithm: AlgorithmSettings
    rounds: RoundSettings
    payments: PaymentSettings
    strategies: Mapping[str, str]
    evaluate_every: int
    data_root: Path | None
    initial: Path | None = None
    faults: Path | str | None = None
    weights: str = EQUAL
    device: str = "cpu"
    byzantine: tuple[str, ...] = ()
    trajectories: int | None = None


def cluster_of(
    plan: Plan, run_dir: Path, entries: Callable[[Sequence[str]], Sequence[AgentEntry]]
) -> Cluster:
    """The cluster file of a plan, named after the directory; `entries` gives ids keys and ports.

    Raises:
        ConfigurationError: a bad setting.
    """
    schedule, ids = graph_of(plan)
    agents = declaring(
        entries(ids),
        plan.weights,
        lambda: samples_of(
            plan.task.name, len(ids), plan.task.partition, plan.seed, plan.data_root
        ),
    )

    def assembled(rounds: RoundSettings) -> Cluster:
        return assemble_cluster(
            run_id=_run_id(run_dir),
            seed=plan.seed,
            graph=schedule,
            agents=agents,
            task=plan.task,
            rounds=rounds,
            mixing_name=plan.mixing,
            algorithm=plan.algorithm,
            payments=plan.payments,
        )

    cluster = assembled(plan.rounds)
    check_breakdown(cluster)
    if plan.trajectories is None:
        return cluster
    rounds = rounds_for(plan.trajectories, coin_of(cluster), *batches_of(plan.algorithm))
    return assembled(plan.rounds.model_copy(update={"rounds": rounds}))


def expected_rounds(algorithm: AlgorithmSettings, trajectories: int) -> int:
    """How many rounds give an agent so many trajectories, by the chance of a large batch alone."""
    large, small = batches_of(algorithm)
    heads = given_or(algorithm.switch_probability, SWITCH_PROBABILITY)
    return math.ceil(trajectories / (heads * large + (1 - heads) * small))


def graph_of(plan: Plan) -> tuple[schedules.Schedule, Sequence[str]]:
    """The graph and its agents, of which the plan's strategies must be."""
    schedule = schedules.build(plan.topology, plan.agents, plan.seed)
    ids = schedule.agents
    unknown = sorted(set(plan.strategies) - set(ids))
    if unknown:
        raise ConfigurationError(
            f"--strategy {unknown[0]}=…: no such agent; they are {ids[0]} … {ids[-1]}"
        )
    return schedule, ids


def make_run_dir(run_dir: Path) -> None:
    """Make the directory of a run; raises ConfigurationError where something is in it."""
    with system_errors(f"--run-dir {run_dir}"):
        run_dir.mkdir(parents=True, exist_ok=True)
        if any(run_dir.iterdir()):
            raise ConfigurationError(
                f"--run-dir {run_dir}: not empty; a run is never overwritten, name another one"
            )


def _run_id(run_dir: Path) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in run_dir.name)
    return kept.lstrip("._-")[:64] or "run"
