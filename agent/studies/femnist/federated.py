"""Federated SGD with writers as clients, some of whom add noise: one training of the experiment.

Dorner et al. 2023, appendix B.3: at each step three writers, drawn at random, send the gradient of
the mean loss over all their training images, plus noise for those who deviate; the average,
weighted by their numbers of images, moves the model. A third of the writers, drawn at random, is
group A and the rest group B; alpha_A and alpha_B are the sizes of their noise. Who takes part, the
groups and the first model depend on the seed alone, so runs of one seed differ in the noise only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.rows import usable_device
from candor.agent.tasks import Task
from candor.agent.tasks.classification import Classification
from candor.topologies.specs.specs import ConfigurationError

CLIENTS: Final = 3  # of a step
GROUPS: Final = 3  # one of them is A


@dataclass(frozen=True, slots=True)
class Alphas:
    """The noise of group A and of the others, as E||noise||^2 = alpha^2 for each tensor."""

    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training measured: all that payments follow from, and what was learned.

    `loss` and `accuracy` on the test images of all writers; `group` (writers,), who is in A;
    `images` (writers,), how many each trains on; `chosen` (steps, 3), who took part, and `squared`
    (steps, 3), the squared distances of their gradients from the average.
    """

    loss: float
    accuracy: float
    group: list[bool]
    images: list[int]
    chosen: list[list[int]]
    squared: list[list[float]]


@dataclass(frozen=True, slots=True)
class Diverged:
    """A training whose numbers ceased to be finite at a step."""

    step: int


class Federation:
    """The writers' data, on a device.

    Raises:
        ConfigurationError: the task is not one of labelled samples by writer, its data cannot be
            read, there are fewer than three writers, or no such device.
    """

    def __init__(self, task: Task, device: str = "cpu") -> None:
        data = task.read() if isinstance(task, Classification) else None
        if not isinstance(task, Classification) or data is None or data.parts is None:
            raise ConfigurationError("the experiment needs a task with writers: femnist")
        self.task = task
        self.device = usable_device(device)
        writers, of_sample = np.unique(data.parts, return_inverse=True)
        if len(writers) < CLIENTS:
            raise ConfigurationError(f"{len(writers)} writers are too few: {CLIENTS} take a step")
        rows = [torch.from_numpy(np.flatnonzero(of_sample == w)) for w in range(len(writers))]
        self._shards = [
            (data.inputs[r].to(self.device), data.labels[r].to(self.device)) for r in rows
        ]

    @property
    def writers(self) -> int:
        """How many there are."""
        return len(self._shards)

    def train(
        self,
        alphas: Alphas,
        seed: int,
        steps: int,
        step_size: float,
        progress: Callable[[int], None] = lambda _step: None,
    ) -> Trained | Diverged:
        """Train once; `progress` is told of each step done."""
        rng = np.random.default_rng(seed)
        group = rng.permutation(self.writers) < self.writers // GROUPS
        noise = torch.Generator(self.device).manual_seed(seed)
        model = self.task.build_model().to(self.device)
        parameters = list(model.parameters())
        scale = _unit_noise(parameters)
        x = initial_parameters(self.task, seed).to(self.device)
        nn.utils.vector_to_parameters(x, parameters)  # views: a step of x is one of the model
        chosen = np.array([rng.choice(self.writers, CLIENTS, replace=False) for _ in range(steps)])
        squared = np.zeros((steps, CLIENTS))
        messages = torch.empty(CLIENTS, len(x), device=self.device)
        for step, writers in enumerate(chosen):
            for message, writer in zip(messages, writers, strict=True):
                torch.cat(self._gradient(model, parameters, writer), out=message)
                if alpha := alphas.a if group[writer] else alphas.b:
                    drawn = torch.randn(len(x), generator=noise, device=self.device)
                    message.add_(drawn.mul_(scale), alpha=alpha)
            mean = self._weights(writers) @ messages
            squared[step] = messages.sub_(mean).norm(dim=1).square().tolist()
            if not np.isfinite(squared[step]).all():
                return Diverged(step + 1)
            x.sub_(mean, alpha=step_size)
            progress(step + 1)
        loss, accuracy = self.task.tested(model)
        if not math.isfinite(loss):
            return Diverged(steps)
        images = [len(labels) for _, labels in self._shards]
        return Trained(loss, accuracy, group.tolist(), images, chosen.tolist(), squared.tolist())

    def _gradient(
        self, model: nn.Module, parameters: list[nn.Parameter], writer: int
    ) -> list[Tensor]:
        """Of the mean loss over a writer's images, for each tensor, flat."""
        loss = self.task.loss(model, self._shards[writer])
        return [gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)]

    def _weights(self, writers: NDArray[np.int64]) -> Tensor:
        """The writers' shares of their images (writers,)."""
        counts = torch.tensor([float(len(self._shards[w][1])) for w in writers])
        return (counts / counts.sum()).to(self.device)


def _unit_noise(parameters: Sequence[nn.Parameter]) -> Tensor:
    """What standard normal noise is multiplied by, so that its mean square in each tensor is 1:
    (dim,)."""
    sizes = torch.tensor([parameter.numel() for parameter in parameters])
    return sizes.float().rsqrt().repeat_interleave(sizes).to(parameters[0].device)
