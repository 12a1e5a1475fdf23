"""The contexts of a run's agents, and the generators that they are seeded with."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from candor.agent.learning.measuring import measured
from candor.agent.tasks.base import Evaluated, Modelled
from candor.agent.tasks.checked import faults_of
from candor.agent.tasks.context import LocalPhase, TrainingContext
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.encoding.canonical import sha256
from candor.topologies.specs.specs import ConfigurationError

SEED_DOMAIN: Final = b"candor/training/v1"


@dataclass(frozen=True, slots=True)
class Contexts:
    """What all contexts of a run have in common; `ids` are the agents by place, as far as they are
    known."""

    algorithm: AlgorithmSettings
    batch_size: int
    seed: int
    device: torch.device
    ids: tuple[str, ...] = ()
    rounds: int = 0
    data_root: Path | None = None
    rank: int = 0
    world_size: int = 1

    def of(
        self,
        shard: Shard,
        t: int,
        step_size: float,
    ) -> TrainingContext:
        """The context of an agent in round t; 0 before the first."""
        settings = self.algorithm
        known = shard.index < len(self.ids)
        return TrainingContext(
            agent=self.ids[shard.index] if known else f"a{shard.index}",
            shard=shard,
            seed=self.seed,
            round=t,
            rounds=self.rounds,
            device=self.device,
            generator=torch.Generator().manual_seed(_seed(self.seed, shard.index, t)),
            step_size=step_size,
            batch_size=self.batch_size,
            phase=LocalPhase(settings.local_steps, settings.local_epochs, settings.local_seconds),
            data_root=self.data_root,
            rank=self.rank,
            world_size=self.world_size,
        )

    @contextmanager
    def seeded(self, shard: Shard, t: int) -> Iterator[None]:
        """The generators of torch, numpy and Python, seeded for an agent and a round, and for each
        of several processes; afterwards they are what they were."""
        number = _seed(self.seed, shard.index, t) ^ self.rank
        python, arrays = random.getstate(), np.random.get_state()
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                torch.default_generator.manual_seed(number)
                if devices:
                    torch.cuda.manual_seed(number)
                random.seed(number)
                np.random.seed(number % 2**32)
                yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def prepare(task: Modelled, context: TrainingContext) -> None:
    """Let a task look at what its host has, before a run.

    Raises:
        ConfigurationError: it says that something is missing.
    """
    method = getattr(task, "prepare", None)
    if method is not None:
        with faults_of("prepare"):
            method(context)


def measure(task: Evaluated, model: nn.Module, context: TrainingContext) -> Measured:
    """The task's metrics of a model in evaluation mode, those on the agent's own data among them;
    raises as `measured` does."""
    names = [name for name, _ in model.named_parameters()]
    found = measured(task, lambda: task.evaluate(model))
    if names != [name for name, _ in model.named_parameters()]:
        raise ConfigurationError(
            "task: evaluate() changed what the model is made of; measure a copy.deepcopy() of it"
        )
    own = getattr(task, "evaluate_local", None)
    if own is None:
        return found
    local = measured(task, lambda: own(model, context), "evaluate_local")
    return Measured(found.value, found.metrics, local.value)


def _seed(seed: int, agent: int, t: int) -> int:
    """A number of 63 bits that run, agent and round decide."""
    words = b"".join(number.to_bytes(8, "big") for number in (seed, agent, t))
    return int.from_bytes(sha256(SEED_DOMAIN, words)[:8], "big") >> 1
