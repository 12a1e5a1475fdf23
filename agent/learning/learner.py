"""Local training with a leading agent axis: flat parameter vectors in, pseudo-gradients out.

The daemon holds a learner of one shard, a simulation one of all shards; both run the same
arithmetic and draw the same batches. The learner knows nothing of reports, mixing or neighbours.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from candor.agent.learning.batches import draw_samples, passes
from candor.agent.learning.chunks import (
    Threads,
    rows_at_once,
    rows_for_threads,
    saved_bytes,
    slices,
)
from candor.agent.learning.closed_form import stack_of
from candor.agent.learning.measuring import UNDEFINED, measured
from candor.agent.learning.saved import saved_parameters
from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.checked import build_model, faults_of, load_data
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import (
    AlgorithmSettings,
    TaskSettings,
    local_steps_of,
    model_digest,
)
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError

CHECKED_AT_ONCE: Final = 256  # samples whose loss is looked at before the run
CHECKED_MAX: Final = 2**29  # of all samples, times parameters: some seconds
_VECTORS_A_ROW: Final = 4  # of a local step: parameters, gradient, velocity, update


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

    Raises:
        ConfigurationError: the model has buffers or is not float32, a shard's data are empty or
            unlike the others', or the loss does not run under `torch.func`.
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
    ) -> None:
        self._task = task
        self._agents = tuple(shard.index for shard in shards)
        self._momentum = algorithm.momentum
        self._batch_size = batch_size
        self._seed = seed
        self.device = self._device = torch.device(device)
        model = build_model(task, seed).to(self._device)
        self._stack = stack_of(task, model)
        self._by_threads = self._stack is not None and self._device.type == "cpu"
        self._wrapper = _LossModule(task, model)
        with faults_of("build_model"):  # its own, for `functional_call` swaps parameters
            self._evaluated = deepcopy(model).eval()
        parameters = dict(model.named_parameters())
        self.names: tuple[str, ...] = tuple(parameters)
        self.shapes: tuple[torch.Size, ...] = tuple(p.shape for p in parameters.values())
        self._bounds = (0, *accumulate(shape.numel() for shape in self.shapes))
        self.dim: int = self._bounds[-1]
        pooled, self._lengths = _pool([load_data(task, shard, seed) for shard in shards])
        self._data = tuple(tensor.to(self._device) for tensor in pooled)
        self._seconds, self._epochs = algorithm.local_seconds, algorithm.local_epochs
        self._steps = self._local_steps(algorithm)  # (agents,)
        self._even = self._seconds is None and len(np.unique(self._steps)) == 1
        self._offsets = np.concatenate(([0], np.cumsum(self._lengths)[:-1]))
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
        if self._seconds is not None:
            return self._timed(x, t, step_size, velocity)
        batches = self._draw(t)  # (H, agents, batch)
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

    def _train(
        self, start: Tensor, batches: Tensor, step_size: float, velocity: Tensor | None, m: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`local_steps` of some rows, whose m is written: losses, and the velocity at the end."""
        z, losses = start, torch.zeros(len(start), device=self._device)
        for indices in batches:
            batch = tuple(_taken(tensor, indices) for tensor in self._data)
            # Fresh for each step: a velocity is read until the next one is there.
            update = m if len(batches) == 1 else torch.empty_like(z)
            losses += self._gradient(z, batch, update)
            if self._momentum and velocity is not None:
                update.add_(velocity, alpha=self._momentum)  # as in `torch.optim.SGD`
            if len(batches) == 1:
                return losses, update
            z, velocity = torch.sub(z, update, alpha=step_size), update
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
        for done, indices in enumerate(batches[: steps.max()]):
            rows = torch.from_numpy(np.flatnonzero(steps > done)).to(self._device)
            batch = tuple(_taken(tensor, indices[rows]) for tensor in self._data)
            z_rows = z[rows]
            update = torch.empty_like(z_rows)
            losses[rows] += self._gradient(z_rows, batch, update)
            if self._momentum:
                update.add_(gathered[rows], alpha=self._momentum)
                gathered[rows] = update
            z[rows] = torch.sub(z_rows, update, alpha=step_size)
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
        for indices in self._passes(t, 0):
            done += 1
            rows = torch.from_numpy(indices).to(self._device)
            batch = tuple(_taken(tensor, rows.unsqueeze(0)) for tensor in self._data)
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

    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metric of each row of x (agents, dim); nan where it is undefined, as that of a
        model that is not finite is.

        Raises:
            ConfigurationError: it cannot be computed, or is not what the task says.
        """
        sound = x.isfinite().all(dim=1).tolist()
        return [
            self._measured(row) if finite else UNDEFINED
            for row, finite in zip(x, sound, strict=True)
        ]

    def _measured(self, x: Tensor) -> Measured:
        model = self._fill(self._evaluated, x)
        return measured(self._task, lambda: self._task.evaluate(model))

    @torch.no_grad()
    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:
        """Compute the loss of the model x (dim,) on the samples: whatever is wrong with one shows
        before the run. On all of them where that takes seconds at most, else on those that differ
        most from others. `agents` are the ids of the rows.

        Raises:
            ConfigurationError: the loss fails on a sample, or is not finite there.
        """
        x = x.to(self._device)
        parameters = tuple(view[0] for view in self._views(x.unsqueeze(0)))
        total = int(self._lengths.sum())
        chosen = np.arange(total) if total * self.dim <= CHECKED_MAX else _extremes(self._data)
        for low in range(0, len(chosen), CHECKED_AT_ONCE):
            samples = chosen[low : low + CHECKED_AT_ONCE]
            fault = self._fault(parameters, samples)
            while fault and len(samples) > 1:
                half = len(samples) // 2
                first = self._fault(parameters, samples[:half])
                samples = samples[:half] if first else samples[half:]
                fault = first or self._fault(parameters, samples) or fault
            if fault:
                place = int(samples[0])
                row = int(np.searchsorted(self._offsets, place, side="right")) - 1
                raise ConfigurationError(
                    f"{fault} on sample {place - int(self._offsets[row])} of agent {agents[row]}, "
                    f"in round 1{self._cause(place)}"
                )

    def _fault(self, parameters: tuple[Tensor, ...], samples: NDArray[np.int64]) -> str:
        """What is wrong with the loss on some of the pooled samples; "" if nothing is."""
        # As many as a step has at least: a loss may not be written for a single one.
        places = np.resize(samples, max(len(samples), self._batch_size))
        chosen = torch.from_numpy(places).to(self._device)
        try:
            with faults_of("loss"):
                loss = float(self._loss(parameters, tuple(each[chosen] for each in self._data)))
        except ConfigurationError as exc:
            return str(exc)
        return "" if math.isfinite(loss) else f"task: loss() is {loss}"

    def _cause(self, sample: int) -> str:
        numbers = (t[sample] for t in self._data if t.is_floating_point())
        if all(bool(tensor.isfinite().all()) for tensor in numbers):
            return ""
        return ": its data hold nan or inf; mend that sample or leave it out"

    @torch.no_grad()
    def shard_losses(self, x: Tensor, samples: int) -> Tensor:
        """The loss of each row of x (agents, dim) on its own shard, or on `samples` of it that are
        spread evenly over it: (agents,), no training."""
        return torch.stack([self._shard_loss(x[r], r, samples) for r in range(len(x))])

    def _shard_loss(self, x: Tensor, row: int, samples: int) -> Tensor:
        length = int(self._lengths[row])
        chosen = np.arange(min(samples, length)) * length // min(samples, length)
        places = torch.from_numpy(chosen + self._offsets[row]).to(self._device)
        x = x.to(self._device)
        parameters = tuple(view[0] for view in self._views(x.unsqueeze(0)))
        with faults_of("loss"):
            return self._loss(parameters, tuple(tensor[places] for tensor in self._data))

    def module(self, x: Tensor) -> nn.Module:
        """A model of its own holding the parameters x (dim,), in evaluation mode."""
        return self._fill(deepcopy(self._evaluated), x)

    def state_dict(self, x: Tensor) -> Mapping[str, Tensor]:
        """The parameters x (dim,) by name, in their shapes: contiguous copies, fit to be saved."""
        rows = self._views(x.unsqueeze(0))
        return {name: view[0].clone() for name, view in zip(self.names, rows, strict=True)}

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """The parameters x (agents, dim) by name, (agents, *shape): contiguous copies."""
        views = zip(self.names, self._views(x), strict=True)
        return {name: view.contiguous().clone() for name, view in views}

    def _views(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (agents, dim) as one view (agents, *shape) a parameter."""
        return tuple(
            x[:, low:high].reshape(len(x), *shape)
            for (low, high), shape in zip(pairwise(self._bounds), self.shapes, strict=True)
        )

    @torch.no_grad()
    def _fill(self, model: nn.Module, x: Tensor) -> nn.Module:
        """Overwrite the parameters of `model` with x (dim,)."""
        for parameter, view in zip(model.parameters(), self._views(x.unsqueeze(0)), strict=True):
            parameter.copy_(view[0])
        return model

    def _gradient(self, x: Tensor, batch: Batch, out: Tensor) -> Tensor:
        """Write each row's gradient (agents, dim) on its (agents, batch, ...); losses (agents,)."""
        if self._stack is None:
            gradient, losses = self._differentiated(x, batch)
            out.copy_(gradient)
            return losses
        with faults_of("loss"), torch.no_grad():
            return self._stack.gradient(self._views(x), batch, self._views(out))

    def _differentiated(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """`_gradient` of any model and loss.

        Rows do not interact, so the gradient of the summed losses holds each row's own: the same
        as `vmap(grad(loss))`, in less time and without the compiler that `torch.func.grad` imports
        (1.1 s of a core in every daemon).
        """
        parameters = tuple(view.detach().requires_grad_() for view in self._views(x))
        # Any batch may be the first with a sample that the loss does not take. Whoever calls may
        # have switched gradients off.
        with faults_of("loss"), torch.enable_grad():
            losses: Tensor = vmap(self._loss)(parameters, batch)
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

    def _draw(self, t: int) -> Tensor:
        """Rows of the pooled data for round t: (H, agents, batch), H the most steps of an agent; of
        one that has fewer the last ones are of no sample it trains on."""
        most = int(self._steps.max())
        if self._epochs is not None:
            drawn = np.zeros((most, len(self._agents), self._batch_size), np.int64)
            for row, steps in enumerate(self._steps.tolist()):
                drawn[:steps, row] = list(islice(self._passes(t, row), steps))
            return torch.from_numpy(drawn).to(self._device)
        count = most * self._batch_size
        drawn = draw_samples(self._seed, t, self._agents, self._lengths, count)
        drawn += self._offsets[:, np.newaxis]
        rows = torch.from_numpy(drawn).to(self._device)
        return rows.view(-1, most, self._batch_size).transpose(0, 1)

    def _passes(self, t: int, row: int) -> Iterator[NDArray[np.int64]]:
        """Batches (batch,) of rows of the pooled data: passes over one agent's own in round t."""
        length, first = int(self._lengths[row]), int(self._offsets[row])
        drawn = passes(self._seed, t, self._agents[row], length, self._batch_size)
        return (indices + first for indices in drawn)

    def _local_steps(self, algorithm: AlgorithmSettings) -> NDArray[np.int64]:
        """How many steps each row has, (agents,)."""
        if self._epochs is None:
            return np.full(len(self._agents), algorithm.local_steps)
        counted = [local_steps_of(self._epochs, n, self._batch_size) for n in self._lengths]
        return np.array(counted, np.int64)

    def samples(self, row: int) -> int:
        """How many samples a row trains on."""
        return int(self._lengths[row])

    def _fitting_rows(self) -> int:
        """How many rows to train at once."""
        if len(self._agents) == 1:
            return 1
        batch = tuple(tensor[: self._batch_size].clone().unsqueeze(0) for tensor in self._data)
        x = torch.cat([p.detach().flatten() for p in self._wrapper.model.parameters()])
        with saved_bytes() as saved:
            self._differentiated(x.unsqueeze(0), batch)
        fitting = rows_at_once(saved.total + _VECTORS_A_ROW * 4 * self.dim, self._device)
        return rows_for_threads(len(self._agents), fitting) if self._by_threads else fitting

    def _check_loss(self) -> None:
        """Run the loss once, so that a task that cannot be trained is refused before the run: on
        the first sample, and on one of the largest class, which the model may not know."""
        x = torch.cat([p.detach().flatten() for p in self._wrapper.model.parameters()])
        last = self._data[-1]
        largest = int(last.cpu().double().argmax()) if last.ndim == 1 else -1
        batch = tuple(tensor[[0, largest]].unsqueeze(0) for tensor in self._data)
        _, losses = self._differentiated(x.unsqueeze(0), batch)
        if losses.ndim != 1:
            raise ConfigurationError(
                f"task: loss() gave shape {tuple(losses.shape[1:])}, which is not a scalar"
            )


class _LossModule(nn.Module):
    """A model and its loss as one module, which is what `functional_call` needs."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self._task = task
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self._task.loss(self.model, batch)


def initial_parameters(task: Task, seed: int, saved: FilePath | None = None) -> Tensor:
    """The model every agent starts from (dim,).

    Args:
        task: what builds it.
        seed: the run's; the model depends on it alone.
        saved: a safetensors file to start from instead, see `saved_parameters`.

    Raises:
        ConfigurationError: the model has buffers, no parameters, or is not float32; or what was
            saved cannot be read, is another model's, or not finite.
    """
    model = build_model(task, seed)
    tensors = dict(model.named_parameters()) if saved is None else saved_parameters(saved, model)
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def verified_initial_parameters(
    task: Task, settings: TaskSettings, seed: int, saved: FilePath | None = None
) -> Tensor:
    """The initial model (dim,), which must be the one the cluster file states.

    Raises:
        ConfigurationError: it is another model than the file's author had, or unusable.
    """
    x = initial_parameters(task, seed, saved)
    digest = model_digest(x.numpy())
    if len(x) != settings.parameters or digest != settings.model_digest:
        here = f"task {settings.name!r} builds" if saved is None else f"{saved}: holds"
        mend = (
            "use the same task code and torch version everywhere, or give --initial FILE if the "
            "run starts from a saved model"
            if saved is None
            else "the file must be the very one that the organiser gave"
        )
        raise ConfigurationError(
            f"{here} another initial model ({len(x)} parameters, digest {digest[:12]}…) than the "
            f"cluster file states ({settings.parameters}, {settings.model_digest[:12]}…); {mend}"
        )
    return x


def _taken(tensor: Tensor, indices: Tensor) -> Tensor:
    """tensor[indices], (rows, batch, ...); `index_select` copies whole samples, in a third of the
    time."""
    chosen = tensor.index_select(0, indices.flatten())
    return chosen.view(*indices.shape, *tensor.shape[1:])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of some rows each as one; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _extremes(data: Batch) -> NDArray[np.int64]:
    """Samples that differ most: of each class, with the largest and least number of each tensor,
    and the first one with a number that is not finite."""
    found: set[int] = set()
    for tensor in data:
        values = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
        each = values.reshape(len(values), -1)
        if tensor.is_floating_point():
            found |= set(np.flatnonzero(~np.isfinite(each).all(axis=1))[:1].tolist())
        elif each.shape[1] == 1:
            found |= set(np.unique(each, return_index=True)[1].tolist())
        found |= {int(each.max(axis=1).argmax()), int(each.min(axis=1).argmin())}
    return np.array(sorted(found))


def _pool(parts: Sequence[Batch]) -> tuple[Batch, NDArray[np.int64]]:
    """All agents' samples one after the other, and how many each has (agents,)."""
    try:
        pooled = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    except (RuntimeError, ValueError) as exc:
        raise ConfigurationError(f"task: the agents' data differ in shape ({exc})") from exc
    return pooled, np.array([len(part[0]) for part in parts], np.int64)
