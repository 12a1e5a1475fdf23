"""The private samples of some agents, one after the other, and what is wrong with any of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.learning.batches import compared, draw_samples, passes
from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.checked import faults_of, load_data
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings, local_steps_of
from candor.topologies.specs.specs import ConfigurationError

CHECKED_AT_ONCE: Final = 256  # samples whose loss is looked at before the run
CHECKED_MAX: Final = 2**29  # of all samples, times parameters: some seconds


class Samples:
    """The samples of rows: `data` are tensors (samples, ...) on a device, of which row r has
    `lengths[r]` from `offsets[r]` on; rows of one shard share them.

    Args:
        task: where they come from.
        shards: whose they are, by row.
        seed: the run's.
        device: where they go.

    Raises:
        ConfigurationError: a shard's data are empty, no dense tensors, or unlike the others'.
    """

    def __init__(
        self, task: Task, shards: Sequence[Shard], seed: int, device: torch.device
    ) -> None:
        self._agents = tuple(shard.index for shard in shards)
        self._seed = seed
        self._device = device
        places = {shard: place for place, shard in enumerate(dict.fromkeys(shards))}
        pooled, lengths = _pool([load_data(task, shard, seed) for shard in places])
        self.data = tuple(tensor.to(device) for tensor in pooled)
        rows = [places[shard] for shard in shards]
        self.lengths = lengths[rows]
        self.offsets = np.concatenate(([0], np.cumsum(lengths)[:-1]))[rows]

    def draw(self, t: int, steps: int, batch_size: int) -> Tensor:
        """Places in `data` for round t: (steps, agents, batch)."""
        drawn = draw_samples(self._seed, t, self._agents, self.lengths, steps * batch_size)
        drawn += self.offsets[:, np.newaxis]
        rows = torch.from_numpy(drawn).to(self._device)
        return rows.view(-1, steps, batch_size).transpose(0, 1)

    def draw_passes(self, t: int, steps: NDArray[np.int64], batch_size: int) -> Tensor:
        """Places in `data` for round t, `steps` (agents,) batches of passes over each row's own:
        (most steps, agents, batch); of a row that has fewer the last ones mean nothing."""
        drawn = torch.zeros((int(steps.max()), len(steps), batch_size), dtype=torch.int64)
        for row, count in enumerate(steps.tolist()):
            chosen = islice(self.passes(row, t, batch_size), count)
            drawn[:count, row] = torch.stack([places.cpu() for places in chosen])
        return drawn.to(self._device)

    def passes(self, row: int, t: int, batch_size: int) -> Iterator[Tensor]:
        """Places in `data`, (batch,), of one pass after another over a row's own, without end."""
        length, first = int(self.lengths[row]), int(self.offsets[row])
        for indices in passes(self._seed, t, self._agents[row], length, batch_size):
            yield torch.from_numpy(indices + first).to(self._device)

    def steps(self, algorithm: AlgorithmSettings, batch_size: int) -> NDArray[np.int64]:
        """How many steps the local phase of each row has, (agents,)."""
        if algorithm.local_epochs is None:
            return np.full(len(self._agents), algorithm.local_steps)
        epochs = algorithm.local_epochs
        return np.array([local_steps_of(epochs, n, batch_size) for n in self.lengths], np.int64)

    def draw_of(self, row: int, t: int, steps: int, batch_size: int) -> Tensor:
        """The part of `draw` that is one row's: (steps, batch)."""
        agents, lengths = self._agents[row : row + 1], self.lengths[row : row + 1]
        drawn = draw_samples(self._seed, t, agents, lengths, steps * batch_size)
        drawn += self.offsets[row]
        return torch.from_numpy(drawn).to(self._device).view(steps, batch_size)

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Some of them, by place."""
        chosen = torch.from_numpy(places).to(self._device)
        return tuple(each[chosen] for each in self.data)

    def some(self, row: int, most: int, t: int = 0) -> Batch:
        """Up to so many of a row's: spread evenly over them, or where there are more the ones that
        are drawn for round t, from 1."""
        length = int(self.lengths[row])
        if t and length > most:
            chosen = compared(self._seed, t, self._agents[row], length, most)
        else:
            chosen = np.arange(min(most, length)) * length // min(most, length)
        return self.at(chosen + self.offsets[row])

    def of(self, row: int) -> Batch:
        """All of a row's."""
        low = int(self.offsets[row])
        return tuple(each[low : low + int(self.lengths[row])] for each in self.data)

    def typical(self) -> Batch:
        """Two of them: the first, and one of the largest class, which a model may not know."""
        last = self.data[-1]
        largest = int(last.cpu().double().argmax()) if last.ndim == 1 else -1
        return tuple(tensor[[0, largest]] for tensor in self.data)

    @torch.no_grad()
    def check(
        self, loss: Callable[[Batch], Tensor], dim: int, batch_size: int, agents: Sequence[str]
    ) -> None:
        """Compute a loss on the samples: whatever is wrong with one shows before the run. On all of
        them where that takes seconds at most, for a model of so many parameters, else on those that
        differ most from others. `agents` are the ids of the rows.

        Raises:
            ConfigurationError: the loss fails on a sample, or is not finite there.
        """
        total = len(self.data[0])
        chosen = np.arange(total) if total * dim <= CHECKED_MAX else _extremes(self.data)

        def wrong(samples: NDArray[np.int64]) -> str:
            """What is wrong with the loss on some of them; "" if nothing is."""
            # As many as a step has at least: a loss may not be written for a single one.
            places = np.resize(samples, max(len(samples), batch_size))
            try:
                with faults_of("loss"):
                    value = float(loss(self.at(places)))
            except ConfigurationError as exc:
                return str(exc)
            return "" if math.isfinite(value) else f"task: loss() is {value}"

        for low in range(0, len(chosen), CHECKED_AT_ONCE):
            samples = chosen[low : low + CHECKED_AT_ONCE]
            fault = wrong(samples)
            while fault and len(samples) > 1:
                half = len(samples) // 2
                first = wrong(samples[:half])
                samples = samples[:half] if first else samples[half:]
                fault = first or wrong(samples) or fault
            if fault:
                place = int(samples[0])
                row = int(
                    ((self.offsets <= place) & (place < self.offsets + self.lengths)).argmax()
                )
                raise ConfigurationError(
                    f"{fault} on sample {place - int(self.offsets[row])} of agent {agents[row]}, "
                    f"in round 1{self._cause(place)}"
                )

    def _cause(self, sample: int) -> str:
        numbers = (t[sample] for t in self.data if t.is_floating_point())
        if all(bool(tensor.isfinite().all()) for tensor in numbers):
            return ""
        return ": its data hold nan or inf; mend that sample or leave it out"


def taken(tensor: Tensor, indices: Tensor) -> Tensor:
    """tensor[indices], (rows, batch, ...); `index_select` copies whole samples, in a third of the
    time."""
    chosen = tensor.index_select(0, indices.flatten())
    return chosen.view(*indices.shape, *tensor.shape[1:])


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
    if len(parts) == 1:  # of one agent nothing is copied
        return parts[0], np.array([len(parts[0][0])], np.int64)
    try:
        pooled = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    except (RuntimeError, ValueError) as exc:
        raise ConfigurationError(f"task: the agents' data differ in shape ({exc})") from exc
    return pooled, np.array([len(part[0]) for part in parts], np.int64)
