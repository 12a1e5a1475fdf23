"""The agents of a run and their data: local training from a model each, and what it leads to.

Training is that of daemons and simulations (`agent.learning`); only a server between the agents is
new. What they move by is summed up step by step, for in late rounds steps are a ten millionth of a
parameter, and a difference of float32 models would be their rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import initial_model
from candor.agent.learning.learner import Learner, Learning, NotVectorised
from candor.agent.learning.plain import PlainSgd
from candor.agent.learning.rows import usable_device
from candor.agent.learning.trainer import Trainer
from candor.agent.studies.fairness.mechanisms import Floats, Round
from candor.agent.studies.fairness.settings import EPOCHS, Training
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Task
from candor.agent.tasks.classification import Classification, as_numbers
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.lies import ReportsTruly, Samples
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

VALIDATION: Final = 256  # samples of a validation
CORRUPTED_DOMAIN: Final = 0x636F7272
HELD_OUT_DOMAIN: Final = 0x68656C64
FREE_RIDERS_DOMAIN: Final = 0x66726565


@dataclass(frozen=True, slots=True)
class CorruptedLabels(ReportsTruly):
    """Honest reports from samples of which a `share` has another label than its own, each of the
    others alike."""

    share: float
    classes: int
    key: tuple[int, ...]  # of the generator

    def data(self, samples: Samples) -> Samples:
        """The samples with their labels corrupted, so many of them to the nearest whole number."""
        labels = samples[-1]
        rng = np.random.default_rng(self.key)
        count = round(self.share * len(labels))
        chosen = torch.from_numpy(rng.permutation(len(labels))[:count])
        off = torch.from_numpy(rng.integers(1, self.classes, count))
        found = labels.clone()
        found[chosen] = (found[chosen] + off.to(labels.dtype)) % self.classes
        return (*samples[:-1], found)


class Federation:
    """Agents with their shards of a task.

    Args:
        training: how they train.
        partition: who has which samples, as `agent.tasks.partition` has it.
        agents: how many.
        seed: of data, models and batches.
        corrupted: which share of its labels is wrong, by agent.
        free_riders: how many upload noise, uniform from -1 to 1, and train nothing: the first ones.
        data_root: where data sets lie.
        device: where models are trained.

    Raises:
        ConfigurationError: the task cannot be used, or not with these settings.
    """

    def __init__(
        self,
        training: Training,
        partition: str,
        agents: int,
        seed: int,
        corrupted: Mapping[int, float],
        free_riders: int,
        data_root: Path | None,
        device: str,
    ) -> None:
        self._training, self._seed = training, seed
        self._free = np.arange(agents) < free_riders
        task = resolve_task(training.task, data_root)
        if not isinstance(task, Classification):
            raise ConfigurationError(f"--task {training.task}: the study needs labelled samples")
        self._task = task
        self._shards = [Shard(i, agents, partition) for i in range(agents)]
        noise = {
            i: CorruptedLabels(share, self._classes(), (seed, CORRUPTED_DOMAIN, i))
            for i, share in corrupted.items()
            if share
        }
        self._learner = _learner(
            cast(Task, with_altered_data(task, noise)), self._shards, training, seed, device
        )
        self._model, self._layout = initial_model(task, seed)
        self._model.eval()
        self.initial: Floats = self._layout.of(self._model).numpy().astype(np.float64)
        self.tensors = [shape.numel() for shape in self._layout.shapes]
        self.samples: Floats = np.array(
            [self._learner.samples(row) or 0 for row in range(agents)], np.float64
        )
        self._held_out: tuple[Tensor, Tensor] | None = None

    def trained(self, models: Floats, t: int) -> Round:
        """A round's local training from models (agents, dim)."""
        step_size = self._training.step_size * self._training.decay ** (t - 1)
        x = torch.from_numpy(models.astype(np.float32)).to(self._learner.device)
        done = self._learner.local_steps(x, t, step_size)
        moved = -step_size * done.update.cpu().numpy().astype(np.float64)
        moved[self._free] = 0.0
        uploads = moved
        if self._free.any():
            uploads = moved.copy()
            rng = np.random.default_rng([self._seed, FREE_RIDERS_DOMAIN, t])
            uploads[self._free] = rng.uniform(-1.0, 1.0, uploads[self._free].shape)
        return Round(t, moved, uploads, done.losses.cpu().numpy().astype(np.float64), step_size)

    def accuracies(self, models: Floats) -> Floats:
        """Of models (agents, dim) on the test set, (agents,): 0 where one is not finite."""
        x = torch.from_numpy(models.astype(np.float32)).to(self._learner.device)
        found: Floats = np.array([one.value for one in self._learner.evaluate(x)])
        found[~np.isfinite(found)] = 0.0
        return found

    def worth(self, model: Floats) -> float:
        """The accuracy of a model (dim,) on training samples that no agent has; where all are
        somebody's, on some of all."""
        inputs, labels = self._validation()
        filled = self._layout.fill(self._model, torch.from_numpy(model.astype(np.float32)))
        with torch.no_grad():
            hits = filled(as_numbers(inputs)).argmax(dim=1) == labels
        return float(hits.double().mean())

    def _validation(self) -> tuple[Tensor, Tensor]:
        if self._held_out is None:
            data = self._task.read()
            labels = data.labels.numpy()
            free = np.ones(len(labels), bool)
            for shard in self._shards:
                free[shard.select(labels, self._seed, data.parts)] = False
            left = np.flatnonzero(free) if free.sum() >= VALIDATION else np.arange(len(labels))
            rng = np.random.default_rng([self._seed, HELD_OUT_DOMAIN])
            chosen = torch.from_numpy(rng.permutation(left)[:VALIDATION])
            self._held_out = data.inputs[chosen], data.labels[chosen]
        return self._held_out

    def _classes(self) -> int:
        return int(self._task.read().labels.max()) + 1


def _learner(
    task: Task, shards: list[Shard], training: Training, seed: int, device: str
) -> Learning:
    """Many agents at a time where model and optimiser allow that, else one after the other."""
    algorithm = AlgorithmSettings(local_epochs=EPOCHS, step_size=training.step_size)
    there = usable_device(device)
    if not training.adam:
        try:
            return Learner(
                task, shards, algorithm, training.batch_size, seed, str(there), summed=True
            )
        except NotVectorised:
            pass
    loop = PlainSgd(task, shards, seed, there, 0.0, adam=training.adam)
    return Trainer(task, loop, shards, Contexts(algorithm, training.batch_size, seed, there))
