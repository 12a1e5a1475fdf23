"""Local training with a leading agent axis: flat parameter vectors in, pseudo-gradients out.

The daemon holds a learner of one shard, a simulation one of all shards; both run the same
arithmetic and draw the same batches. The learner knows nothing of reports, mixing or neighbours.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from candor.agent.learning.chunks import (
    Threads,
    rows_at_once,
    rows_for_threads,
    saved_bytes,
    slices,
)
from candor.agent.learning.closed_form import stack_of
from candor.agent.learning.contexts import Contexts, measure, prepare
from candor.agent.learning.initial import built_again, initial_model
from candor.agent.learning.layout import check_apart, copied
from candor.agent.learning.measuring import UNDEFINED
from candor.agent.learning.samples import Samples, taken
from candor.agent.learning.serial import one_at_a_time
from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.checked import build_model, faults_of
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError

_VECTORS_A_ROW: Final = 4  # of a local step: parameters, gradient, velocity, update


class NotVectorised(ConfigurationError):
    """A sound task whose agents cannot be trained many at a time."""


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What H local steps gave, each agent's own number of them where a phase is counted in epochs:
    `update` (agents, dim) = (x - z_H) / step_size, where z_H is what they lead to; where all have
    H = 1 it is the velocity itself (without momentum: the gradient), not its rounded difference.
    `losses` (agents,) is the mean over the steps, `velocity` (agents, dim) what momentum has
    gathered, None without any."""

    update: Tensor
    losses: Tensor
    velocity: Tensor | None


class Learning(Protocol):
    """What trains the agents of some rows: many at a time (`Learner`), or each by itself
    (`agent.learning.trainer.Trainer`)."""

    dim: int
    device: torch.device

    def local_steps(
        self, x: Tensor, t: int, step_size: float, velocity: Tensor | None = None
    ) -> LocalTraining:
        """Train from x (agents, dim) in round t."""
        ...

    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metric of each row of x (agents, dim)."""
        ...

    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:
        """Look at the samples before the run, whose rows are of these agents; raises
        ConfigurationError."""
        ...

    def shard_losses(self, x: Tensor, samples: int, t: int = 0) -> Tensor:
        """How the rows of x (agents, dim) do on so many of their own data, those of round t if one
        is given: (agents,), less is better."""
        ...

    def state_dict(self, x: Tensor, row: int = 0) -> Mapping[str, Tensor]:
        """The whole model of a row, of which x (dim,) is what travels: copies on the processor, for
        `load_state_dict`."""
        ...

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """What travels, x (agents, dim), by name, (agents, *shape): contiguous copies."""
        ...

    def samples(self, row: int) -> int | None:
        """How many samples a row trains on, None where only its loop knows."""
        ...

    def private(self) -> bytes:
        """What agents keep to themselves from round to round; empty where that is nothing."""
        ...

    def restore(self, private: bytes) -> None:
        """Go on with what `private` gave."""
        ...


class Learner:
    """H steps of SGD with momentum for each row, from batches drawn with replacement; or as many as
    some passes over the row's samples have, or as there is time for.

    It keeps nothing from round to round: a velocity is handed in and out (it is private, and part
    of what an agent injects; mixing does not touch it). Batches depend only on seed, agent and
    round, so that a restart needs no generator state and every runtime sees the same ones.

    Args:
        task: the model, data, loss and metric.
        shards: whose rows these are; row r trains on the samples of `shards[r]`.
        algorithm: local steps, epochs or seconds, the last one that is there, and momentum; the
            step size is an argument of each call. Seconds are for a single row: time passes on the
            host whose row it is.
        batch_size: samples of one step.
        seed: the run's seed.
        device: where rows and data live; the vectors of each call, but for evaluation, too.
        threads: how many train chunks of rows at the same time, where the gradient is written out.
        initial: the saved model that the run starts from, if it is not drawn from the seed.
        contexts: what a task's `evaluate_local` is told.
        summed: updates are the sums of what the steps took, not differences of models, in which
            steps of a ten millionth of a parameter drown.

    Raises:
        NotVectorised: the model has buffers or parameters that stay with an agent, or is not
            float32; or the loss is sound, and does not run under `torch.func`.
        ConfigurationError: the model, a shard's data or the loss cannot be used.
    """

    def __init__(
        self,
        task: Task,
        shards: Sequence[Shard],
        algorithm: AlgorithmSettings,
        batch_size: int,
        seed: int,
        device: str = "cpu",
        threads: int = 1,
        initial: FilePath | None = None,
        contexts: Contexts | None = None,
        summed: bool = False,
    ) -> None:
        self.lock = RLock()
        self._task = task
        self._summed = summed
        self._shards = tuple(shards)
        self._round = 0
        self._agents = tuple(shard.index for shard in shards)
        self._momentum = algorithm.momentum
        self._batch_size = batch_size
        self._seed = seed
        self.device = self._device = torch.device(device)
        self._contexts = contexts or Contexts(algorithm, batch_size, seed, self._device)
        model, self._layout = initial_model(task, seed, initial)
        if self._layout.own or not self._layout.exact:
            raise NotVectorised("task: its model has buffers or parameters that do not travel")
        # One of its own to evaluate, for `functional_call` swaps parameters.
        self._evaluated = built_again(task, seed, model).to(self._device).eval()
        check_apart(self._layout, model, self._evaluated)
        self._stack = None if self._layout.frozen else stack_of(task, model)
        self._by_threads = self._stack is not None and self._device.type == "cpu"
        self._wrapper = _LossModule(task, model.to(self._device))
        self.names, self.shapes = self._layout.names, self._layout.shapes
        self.dim: int = self._layout.dim
        self._views = self._layout.views
        self._samples = Samples(task, shards, seed, self._device)
        self._data = self._samples.data
        self._seconds, self._epochs = algorithm.local_seconds, algorithm.local_epochs
        self._steps = self._samples.steps(algorithm, batch_size)  # (agents,)
        self._even = self._seconds is None and len(np.unique(self._steps)) == 1
        self._check_loss()
        # The rows that are trained at once.
        self.chunks = slices(len(self._agents), self._fitting_rows())
        # Only written-out gradients: `functional_call` puts parameters into the one model there is.
        self._threads = Threads(threads if self._by_threads else 1)

    def local_steps(
        self, x: Tensor, t: int, step_size: float, velocity: Tensor | None = None
    ) -> "LocalTraining":
        """Train H steps from x (agents, dim) with the batches of round t.

        `velocity` (agents, dim) is what momentum has gathered; None before the first step. A
        diverged row shows as inf or nan in losses and update.
        """
        self._round = t
        if self._seconds is not None:
            return self._timed(x, t, step_size, velocity)
        batches = self._drawn(t)  # (H, agents, batch)
        m = torch.empty_like(x)
        single = self._even and len(batches) == 1

        def train(rows: slice) -> tuple[Tensor, Tensor]:
            before = None if velocity is None else velocity[rows]
            if self._even:
                return self._train(x[rows], batches[:, rows], step_size, before, m[rows])
            steps = self._steps[rows]
            return self._train_unevenly(
                x[rows], batches[:, rows], steps, step_size, before, m[rows]
            )

        losses, velocities = zip(*self._threads.map(train, self.chunks), strict=True)
        after = None
        if self._momentum:
            after = m if single else _joined(velocities)
        return LocalTraining(m, _joined(losses), after)

    def _drawn(self, t: int) -> Tensor:
        """Places of the samples of round t: (H, agents, batch), H the most steps of an agent."""
        if self._epochs is None:
            return self._samples.draw(t, int(self._steps[0]), self._batch_size)
        return self._samples.draw_passes(t, self._steps, self._batch_size)

    def _train(
        self, start: Tensor, batches: Tensor, step_size: float, velocity: Tensor | None, m: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`local_steps` of some rows, whose m is written: losses, and the velocity at the end."""
        z, losses = start, torch.zeros(len(start), device=self._device)
        if self._summed:
            m.zero_()
        for indices in batches:
            batch = tuple(taken(tensor, indices) for tensor in self._data)
            # Fresh for each step: a velocity is read until the next one is there.
            update = m if len(batches) == 1 else torch.empty_like(z)
            losses += self._gradient(z, batch, update)
            if self._momentum and velocity is not None:
                update.add_(velocity, alpha=self._momentum)  # as in `torch.optim.SGD`
            if len(batches) == 1:
                return losses, update
            if self._summed:
                m.add_(update)
            z, velocity = torch.sub(z, update, alpha=step_size), update
        if not self._summed:
            torch.sub(start, z, out=m).div_(step_size)
        return losses / len(batches), update

    def _train_unevenly(
        self,
        start: Tensor,
        batches: Tensor,
        steps: NDArray[np.int64],
        step_size: float,
        velocity: Tensor | None,
        m: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`_train` of rows with `steps` (rows,) of their own: who is done moves no more."""
        z, losses = start.clone(), torch.zeros(len(start), device=self._device)
        gathered = torch.zeros_like(start) if velocity is None else velocity.clone()
        if self._summed:
            m.zero_()
        for done, indices in enumerate(batches[: steps.max()]):
            rows = torch.from_numpy(np.flatnonzero(steps > done)).to(self._device)
            batch = tuple(taken(tensor, indices[rows]) for tensor in self._data)
            z_rows = z[rows]
            update = torch.empty_like(z_rows)
            losses[rows] += self._gradient(z_rows, batch, update)
            if self._momentum:
                update.add_(gathered[rows], alpha=self._momentum)
                gathered[rows] = update
            if self._summed:
                m[rows] += update
            z[rows] = torch.sub(z_rows, update, alpha=step_size)
        if not self._summed:
            torch.sub(start, z, out=m).div_(step_size)
        return losses / torch.from_numpy(steps).to(self._device), gathered

    def _timed(
        self, x: Tensor, t: int, step_size: float, velocity: Tensor | None
    ) -> "LocalTraining":
        """`local_steps` of the one row until its seconds are over: at least one step."""
        assert self._seconds is not None
        assert len(x) == 1
        until_s = time.monotonic() + self._seconds
        z, loss, done = x, torch.zeros(1, device=self._device), 0
        for places in self._samples.passes(0, t, self._batch_size):
            done += 1
            batch = tuple(taken(tensor, places.unsqueeze(0)) for tensor in self._data)
            update = torch.empty_like(z)
            loss += self._gradient(z, batch, update)
            if self._momentum and velocity is not None:
                update.add_(velocity, alpha=self._momentum)
            z, velocity = torch.sub(z, update, alpha=step_size), update
            float(loss)  # waits for an accelerator, whose queue would outrun the clock
            if time.monotonic() >= until_s:
                break
        moved = update if done == 1 else torch.sub(x, z).div_(step_size)
        return LocalTraining(moved, loss / done, velocity if self._momentum else None)

    @one_at_a_time
    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metric of each row of x (agents, dim); nan where it is undefined, as that of a
        model that is not finite is.

        Raises:
            ConfigurationError: it cannot be computed, or is not what the task says.
        """
        sound = x.isfinite().all(dim=1).tolist()
        return [
            self._measured(row, shard) if finite else UNDEFINED
            for row, shard, finite in zip(x, self._shards, sound, strict=False)
        ]

    def _measured(self, x: Tensor, shard: Shard) -> Measured:
        model = self._layout.fill(self._evaluated, x)
        with self._contexts.seeded(shard, self._round):
            return measure(self._task, model, self._contexts.of(shard, self._round, 0.0))

    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:
        """Compute the loss of the model x (dim,) on the samples, see `Samples.check`."""
        for shard in self._shards:
            with self._contexts.seeded(shard, 0):
                prepare(self._task, self._contexts.of(shard, 0, 0.0))
        x = x.to(self._device)
        parameters = tuple(view[0] for view in self._views(x.unsqueeze(0)))
        self._samples.check(
            lambda batch: self._loss(parameters, batch), self.dim, self._batch_size, agents
        )

    @torch.no_grad()
    def shard_losses(self, x: Tensor, samples: int, t: int = 0) -> Tensor:
        """The loss of each row of x (agents, dim) on its own shard, or on `samples` of it that are
        spread evenly over it, or drawn for round t: (agents,), no training."""
        return torch.stack([self._shard_loss(x[r], r, samples, t) for r in range(len(x))])

    def _shard_loss(self, x: Tensor, row: int, samples: int, t: int) -> Tensor:
        x = x.to(self._device)
        parameters = tuple(view[0] for view in self._views(x.unsqueeze(0)))
        with faults_of("loss"):
            return self._loss(parameters, self._samples.some(row, samples, t))

    @one_at_a_time
    def state_dict(self, x: Tensor, row: int = 0) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The whole model, of which x (dim,) is what travels; see `Learning`."""
        return copied(self._layout.fill(self._evaluated, x))

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """The parameters x (agents, dim) by name, (agents, *shape): contiguous copies."""
        views = zip(self.names, self._views(x), strict=True)
        return {name: view.contiguous().clone() for name, view in views}

    def samples(self, row: int) -> int | None:
        """How many samples a row trains on."""
        return int(self._samples.lengths[row])

    def private(self) -> bytes:
        """Nothing: momentum is handed in and out."""
        return b""

    def restore(self, private: bytes) -> None:
        """Nothing is kept."""

    def _gradient(self, x: Tensor, batch: Batch, out: Tensor) -> Tensor:
        """Write each row's gradient (agents, dim) on its (agents, batch, ...); losses (agents,)."""
        if self._stack is None:
            gradient, losses = self._differentiated(x, batch, alone=len(x) == 1)
            out.copy_(gradient)
            return losses
        with faults_of("loss"), torch.no_grad():
            return self._stack.gradient(self._views(x), batch, self._views(out))

    def _differentiated(
        self, x: Tensor, batch: Batch, *, alone: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`_gradient` of any model and loss; of a single row, `alone`, without `vmap`, under which
        convolutions take no notice of how images lie in memory.

        Rows do not interact, so the gradient of the summed losses holds each row's own: the same
        as `vmap(grad(loss))`, in less time and without the compiler that `torch.func.grad` imports
        (1.1 s of a core in every daemon).
        """
        parameters = tuple(view.detach().requires_grad_() for view in self._views(x))
        # Any batch may be the first with a sample that the loss does not take. Whoever calls may
        # have switched gradients off.
        with faults_of("loss"), torch.enable_grad():
            if alone:
                row, samples = (tuple(one[0] for one in each) for each in (parameters, batch))
                losses = self._loss(row, samples).unsqueeze(0)
            else:
                losses = vmap(self._loss)(parameters, batch)
            total = losses.sum()
            gradients = torch.autograd.grad(
                total, parameters, allow_unused=True, materialize_grads=True
            )
        return torch.cat([g.reshape(len(x), -1) for g in gradients], dim=1), losses.detach()

    def _loss(self, parameters: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """The loss of one agent."""
        named = {f"model.{name}": value for name, value in zip(self.names, parameters, strict=True)}
        loss: Tensor = functional_call(self._wrapper, named, (batch,))
        return loss

    def _fitting_rows(self) -> int:
        """How many rows to train at once."""
        if len(self._agents) == 1:
            return 1
        batch = tuple(tensor[: self._batch_size].clone().unsqueeze(0) for tensor in self._data)
        x = self._layout.of(self._wrapper.model)
        with saved_bytes() as saved:
            self._differentiated(x.unsqueeze(0), batch)
        fitting = rows_at_once(saved.total + _VECTORS_A_ROW * 4 * self.dim, self._device)
        return rows_for_threads(len(self._agents), fitting) if self._by_threads else fitting

    def _check_loss(self) -> None:
        """Run the loss once, so that a task that cannot be trained is refused before the run, and
        one that can but not under `vmap` is trained otherwise."""
        x = self._layout.of(self._wrapper.model)
        batch = self._samples.typical()
        rows = tuple(tensor.unsqueeze(0) for tensor in batch)
        try:
            with warnings.catch_warnings(action="ignore"):
                _, losses = self._differentiated(x[None], rows)
            with faults_of("loss"), torch.no_grad():  # nothing of vmap may be left in the model
                self._loss(tuple(view[0] for view in self._views(x[None])), batch)
        except ConfigurationError as exc:
            # In a new model there is none of it.
            check_plain_loss(self._task, build_model(self._task, self._seed), batch)
            raise NotVectorised(str(exc)) from exc
        if losses.ndim != 1:
            raise _no_scalar(losses.shape[1:])


def check_plain_loss(task: Task, model: nn.Module, batch: Batch) -> None:
    """Run a task's loss on a batch by plain autograd.

    Raises:
        ConfigurationError: it fails, or does not lead to a gradient.
    """
    for _ in range(2):  # something may be kept from one step to the next
        with faults_of("loss"), torch.enable_grad():
            loss = task.loss(model, batch)
        _check_plain(loss)
        with faults_of("loss"):
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own has no types
    model.zero_grad()


def _check_plain(loss: object) -> None:
    """What a loss must be, that a gradient can be had of it."""
    if not isinstance(loss, Tensor):
        raise ConfigurationError(f"task: loss() gave a {type(loss).__name__}, not a tensor")
    if loss.ndim:
        raise _no_scalar(loss.shape)
    if not loss.requires_grad:
        raise ConfigurationError(
            "task: loss() does not depend on a trainable parameter; is there a detach() or an "
            ".item() on its way?"
        )


def _no_scalar(shape: Sequence[int]) -> ConfigurationError:
    return ConfigurationError(f"task: loss() gave shape {tuple(shape)}, which is not a scalar")


class _LossModule(nn.Module):
    """A model and its loss as one module, which is what `functional_call` needs."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self._task = task
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self._task.loss(self.model, batch)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of some rows each as one; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
