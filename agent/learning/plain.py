"""A task of a loss as a training loop: SGD with momentum, or Adam, by plain autograd, each agent by
itself.

For what does not run under `torch.func`: dropout, recurrent layers, `.item()`, buffers, parameters
that stay with an agent, other types than float32. It draws the batches that `Learner` draws.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from candor.agent.learning.learner import check_plain_loss
from candor.agent.learning.samples import Samples, taken
from candor.agent.tasks.base import Task
from candor.agent.tasks.checked import faults_of
from candor.agent.tasks.context import TrainingContext
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import local_steps_of

OPTIMISER = "sgd"


class PlainSgd:
    """Trains as a `Loop` does, for the agents of these shards.

    Args:
        task: what is learned.
        shards: whose samples are trained on, by row.
        seed: the run's.
        device: where they are.
        momentum: of the steps.
        adam: steps are Adam's instead (Kingma & Ba, ICLR 2015), whose moments are kept.

    Raises:
        ConfigurationError: a shard's data cannot be used.
    """

    def __init__(
        self,
        task: Task,
        shards: Sequence[Shard],
        seed: int,
        device: torch.device,
        momentum: float,
        *,
        adam: bool = False,
    ) -> None:
        self._task = task
        self._momentum = momentum
        self._adam = adam
        self._samples = Samples(task, shards, seed, device)
        self._modules: dict[int, nn.Module] = {}
        self._row = {shard.index: row for row, shard in enumerate(shards)}

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """A round's local phase of SGD with momentum, which is kept; the mean loss."""
        optimiser = context.keep(OPTIMISER, lambda: self._optimiser(model, context))
        for group in optimiser.param_groups:
            group["lr"] = context.step_size
        row, losses = self._row[context.shard.index], []
        called = context.parallel(self._loss_module(model))
        for places in self._batches(row, context):
            mine = context.part(places)
            batch = tuple(taken(tensor, mine) for tensor in self._samples.data)
            optimiser.zero_grad()
            with faults_of("loss"):
                loss = called(batch)
                loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def loss_of(self, model: nn.Module, row: int, most: int, t: int = 0) -> float:
        """The model's loss on up to so many of a row's samples, see `Samples.some`; no training."""
        with torch.no_grad(), faults_of("loss"):
            return float(self._task.loss(model, self._samples.some(row, most, t)))

    def check(self, model: nn.Module, dim: int, batch_size: int, agents: Sequence[str]) -> None:
        """Look at the samples before the run, see `Samples.check`."""
        was = {name: value.clone() for name, value in model.state_dict().items()}
        check_plain_loss(self._task, model, self._samples.typical())
        try:
            self._samples.check(
                lambda batch: self._task.loss(model, batch), dim, batch_size, agents
            )
        finally:
            model.load_state_dict(was)

    def _loss_module(self, model: nn.Module) -> nn.Module:
        """The one that a model has."""
        return self._modules.setdefault(id(model), _Loss(self._task, model))

    def _optimiser(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self._adam:
            return torch.optim.Adam(trained, context.step_size)
        return torch.optim.SGD(trained, context.step_size, self._momentum)

    def _batches(self, row: int, context: TrainingContext) -> Iterator[Tensor]:
        """Places of the samples of each step, (batch,)."""
        phase, size = context.phase, context.batch_size
        if phase.seconds is not None:
            began = time.monotonic()
            for places in self._samples.passes(row, context.round, size):
                yield places
                if context.agreed(time.monotonic() - began >= phase.seconds):
                    return
        if phase.epochs is not None:
            steps = local_steps_of(phase.epochs, self.samples(row), size)
            yield from islice(self._samples.passes(row, context.round, size), steps)
            return
        yield from self._samples.draw_of(row, context.round, phase.steps, size)

    def samples(self, row: int) -> int:
        """How many samples a row trains on."""
        return int(self._samples.lengths[row])


class _Loss(nn.Module):
    """A model and its loss as one module, whose gradients can be averaged over processes."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self._task = task
        self.model = model

    def forward(self, batch: tuple[Tensor, ...]) -> Tensor:
        return self._task.loss(self.model, batch)
