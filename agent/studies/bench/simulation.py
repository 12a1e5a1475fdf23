"""How fast runs are simulated: agents times rounds a second, and the memory that it takes.

The tasks are synthetic, for no data set here has samples for thousands of agents; what is timed is
what `candor simulate` does in a round, evaluations and files left out. Each case runs in a process
of its own, so that one's peak memory is not another's.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

import numpy as np
import torch
from torch import nn

from candor.agent.learning.rows import usable_device
from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.placeholder_agents import stand_in_cluster
from candor.agent.simulation.evidence import Billing
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks.base import Batch
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.partition import Shard
from candor.mechanisms.payments.rules import parse_rule
from candor.network.memory import keep_freed_memory
from candor.topologies.cluster.file import DEFAULT_RULE, Cluster

SAMPLES: Final = 64  # of an agent
TEST_SAMPLES: Final = 1024
CENTRE_STREAM, SHARD_STREAM, TEST_STREAM = 1, 2, 3
TOPOLOGY: Final = "random-regular:degree=4"
RULES: Final = ("none", DEFAULT_RULE)
WARM_UP_ROUNDS: Final = 2
MIB: Final = 2**20


class Logistic:
    """Logistic regression of the shape of digits, 64-10: 650 parameters. Samples are Gaussian
    clouds, one a class, about centres that all agents share."""

    features, classes = 64, 10

    def build_model(self) -> nn.Module:
        """See `Task.build_model`."""
        return nn.Linear(self.features, self.classes)

    def load_data(self, shard: Shard, seed: int) -> Batch:
        """An agent's own samples (64, features) and classes (64,)."""
        return self._draw(np.random.default_rng([SHARD_STREAM, seed, shard.index]), SAMPLES)

    loss = Classification.loss

    def evaluate(self, model: nn.Module) -> float:
        """Share of 1,024 samples that nobody trains on classified correctly."""
        inputs, labels = self._draw(np.random.default_rng([TEST_STREAM]), TEST_SAMPLES)
        device = next(model.parameters()).device
        return float((model(inputs.to(device)).argmax(dim=1).cpu() == labels).float().mean())

    def _draw(self, rng: np.random.Generator, count: int) -> Batch:
        centres = np.random.default_rng([CENTRE_STREAM])
        means = centres.standard_normal((self.classes, self.features))
        labels = rng.integers(self.classes, size=count)
        x = rng.standard_normal((count, self.features)) + means[labels]
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


class Mlp(Logistic):
    """20-120-2 with ReLU: 2,762 parameters."""

    features, classes = 20, 2

    def build_model(self) -> nn.Module:
        """See `Task.build_model`."""
        return nn.Sequential(nn.Linear(self.features, 120), nn.ReLU(), nn.Linear(120, self.classes))


TASKS: Final = (Logistic, Mlp)


@dataclass(frozen=True, slots=True)
class SimulationCost:
    """One case: agents times rounds over seconds of the clock, and of processor time, which other
    work on the machine leaves alone; `memory_mib` is the peak of the whole process, torch's own
    share (some 300 MiB) included."""

    task: str
    parameters: int
    agents: int
    rule: str
    device: str
    rounds: int
    agent_rounds_per_s: float
    agent_rounds_per_processor_s: float
    memory_mib: float


def measure_simulations(
    agents: Sequence[int], rounds: int, device: str, progress: Callable[[str], None]
) -> Iterator[SimulationCost]:
    """Time every task and rule for each number of agents; a line to `progress` before each.

    Raises:
        ConfigurationError: there is no such device, or no such graph.
    """
    device = str(usable_device(device))
    for count in agents:
        for task in TASKS:
            for rule in RULES:
                name = "without payments" if rule == "none" else "with the default rule"
                progress(f"{count} agents, {task.__name__}, {name}")
                context = get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    yield pool.submit(_measure, task.__name__, count, rule, rounds, device).result()


def _measure(task: str, agents: int, rule: str, rounds: int, device: str) -> SimulationCost:
    cluster = bench_cluster(task, agents, rule, rounds + WARM_UP_ROUNDS)
    payments = parse_rule(rule)
    settlement = Billing(cluster, payments)
    threads = torch.get_num_threads()
    keep_freed_memory(all_of_it=True)
    simulation = Simulation(cluster, {}, device=device, measured=payments.settles, threads=threads)
    began, processor_began = time.perf_counter(), time.process_time()
    while simulation.round < cluster.rounds.rounds:
        if simulation.round == WARM_UP_ROUNDS:
            began, processor_began = time.perf_counter(), time.process_time()
        simulation.step()
        if payments.settles and simulation.round % cluster.payments.window == 0:
            settlement(simulation.evidence())
            simulation.forget()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - processor_began
    return SimulationCost(
        task,
        cluster.task.parameters,
        agents,
        rule,
        device,
        rounds,
        agents * rounds / seconds,
        agents * rounds / processor_seconds,
        peak_mib(),
    )


def peak_mib() -> float:
    """The most memory that this process has had, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # bytes there, KiB on Linux


def bench_cluster(task: str, agents: int, rule: str, rounds: int) -> Cluster:
    """A run of one local step a round on batches of 32; `task` is the name of one of `TASKS`."""
    settings = task_settings(f"{__name__}:{task}", 0, None)
    return stand_in_cluster("simulate", settings, TOPOLOGY, agents, rounds, rule)
