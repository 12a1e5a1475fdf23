"""What a user's own training loop is told, and what it may keep from round to round."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar

import torch
from torch import nn

from candor.agent.tasks.partition import Shard

T = TypeVar("T")


class Stateful(Protocol):
    """What has a state of its own, as torch's optimisers have."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(slots=True)
class LocalPhase:
    """How long an agent trains in a round: `seconds` if given, else `epochs`, else `steps`."""

    steps: int
    epochs: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class TrainingContext:
    """One agent's round.

    `round` is of `rounds`, from 1; `seed` the run's; `step_size` that of this round, which the
    pseudo-gradient is divided by, and a loop may use or not; `generator` is on the processor and
    seeded for this agent and round, as are torch's, numpy's and Python's own. `saved` is the
    loop's to write to: numbers, texts and tensors, lists and dicts of them, that are there again in
    the next round and after a restart. `rank` of `world_size` processes that train this one agent
    together (torchrun).
    """

    agent: str
    shard: Shard
    seed: int
    round: int
    rounds: int
    device: torch.device
    generator: torch.Generator
    step_size: float
    batch_size: int
    phase: LocalPhase
    data_root: Path | None = None
    rank: int = 0
    world_size: int = 1
    saved: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    restored: dict[str, Any] = field(default_factory=dict)
    wrapped: dict[int, nn.Module] = field(default_factory=dict)

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gave in the first round that asked for it; this agent's own.

        What has `state_dict` and `load_state_dict` (optimisers, schedulers, scalers) is saved with
        the model and has its state back when the daemon is started again. Anything else, such as
        the data, lives as long as the process.
        """
        if name not in self.kept:
            restored = name in self.restored
            with _scheduled_as_they_were(self.kept.values() if restored else ()):
                made = make()
                if restored and has_state(made):
                    made.load_state_dict(self.restored[name])
                    del self.restored[name]  # not before: whoever mends the code has it still
            self.kept[name] = made
        found: T = self.kept[name]
        return found

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """Batches of a loader until this round's local phase is over: so many steps, passes over
        the data or seconds, as the cluster file says; begun anew where the loader ends. Of several
        processes that train together each gets its own part of every batch."""
        began, done, epoch = time.monotonic(), 0, 0
        phase = self.phase
        while True:
            before = done
            for batch in loader:
                yield self.part(batch)
                done += 1
                if phase.seconds is not None:
                    if self.agreed(time.monotonic() - began >= phase.seconds):
                        return
                elif phase.epochs is None and done >= phase.steps:
                    return
            epoch += 1
            if done == before:
                raise ValueError("the loader gives no batch: is the shard smaller than a batch?")
            if phase.seconds is None and phase.epochs is not None and epoch >= phase.epochs:
                return

    def part(self, batch: T) -> T:
        """This process's part of a batch: of tensors, in tuples, lists and dicts, every
        `world_size`-th sample; the whole where there is one process.

        Raises:
            ValueError: the batch is not as long as there are processes.
        """
        if self.world_size == 1:
            return batch
        mine: T = _part(batch, self.rank, self.world_size)
        return mine

    def agreed(self, over: bool) -> bool:
        """Whether the local phase is over for rank 0, whose clock goes for all processes: one that
        took a step more would wait for the others' gradients."""
        if self.world_size == 1:
            return over
        from torch import distributed

        told = torch.tensor([int(over)], device="cpu")
        distributed.broadcast(told, src=0)
        return bool(told.item())

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model to call in training: wrapped so that gradients are averaged over the processes
        that train this agent together; the model itself where there is one, or where it lies in
        parts on them (FSDP) and does so itself."""
        if self.world_size == 1 or any(hasattr(p, "full_tensor") for p in model.parameters()):
            return model
        if id(model) not in self.wrapped:
            from torch.nn.parallel import DistributedDataParallel

            self.wrapped[id(model)] = DistributedDataParallel(model)
        return self.wrapped[id(model)]


def _part(batch: Any, rank: int, world_size: int) -> Any:
    if isinstance(batch, torch.Tensor):
        if batch.ndim and len(batch) % world_size:
            raise ValueError(
                f"a batch of {len(batch)} samples for {world_size} processes: gradients would not "
                "be those of one; drop the last batch, or give a size that they divide"
            )
        return batch[rank::world_size] if batch.ndim else batch
    if isinstance(batch, dict):
        return type(batch)({k: _part(v, rank, world_size) for k, v in batch.items()})
    if isinstance(batch, list | tuple):
        return type(batch)([_part(one, rank, world_size) for one in batch])
    return batch


@contextmanager
def _scheduled_as_they_were(kept: Iterable[Any]) -> Iterator[None]:
    """Leave step sizes of restored optimisers alone while a scheduler is made anew beside them.

    A scheduler of torch sets the first step size of its schedule when it is made, and its
    `load_state_dict` does not put the optimiser's back: after a restart OneCycleLR would train a
    round at its first step size, and LinearLR, or a warm-up in SequentialLR, be wrong by that
    factor to the end, since they multiply what they find. `initial_lr` tells an optimiser that a
    scheduler had at work in an earlier life from one that is made anew too.
    """
    was = [
        (group, {key: deepcopy(value) for key, value in group.items() if key != "params"})
        for one in kept
        if isinstance(one, torch.optim.Optimizer)
        for group in one.param_groups
        if "initial_lr" in group
    ]
    yield
    for group, settings in was:
        group.update(settings)


def has_state(value: Any) -> TypeGuard[Stateful]:
    """Whether something's state can be taken and given back."""
    return all(callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict"))
