"""Rows that train each by itself, spread over processes where that pays; to the same last bit.

Everything begins in this process. Once a round has been timed and the rest of the run takes long,
workers start, each with a part of the rows, and train the first rounds again from where they began:
what a loop keeps from round to round, iterators and all, is then in a worker what it would be here,
and when they started changes nothing. Each process trains on one thread of torch, so that no bit
depends on how many processes or cores there are; a single large model alone is left torch's own.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from candor.agent.learning.learner import Learning, LocalTraining
from candor.agent.learning.processes import Workers
from candor.agent.learning.rows import learner_of, trainer_of
from candor.agent.learning.trainer import Trainer, packed, unpacked
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.mechanisms.strategies.lies import AltersData, Strategy
from candor.topologies.cluster.file import Cluster

# Seconds that workers must save if each is as fast as this process: some times what they cost,
# three to import torch on two idle cores and ten on busy ones, then data, models, and the rounds
# that are trained again.
WORTH_S: Final = 30.0
# A first round that takes longer is no longer one of reading data and getting warm.
LONG_S: Final = 10.0
TIMED: Final = 2  # rounds, of which the last decides
# Parameters times samples of a step: some hundred million operations, which torch's threads share
# out well, where there is one row and nothing else to share.
LARGE: Final = 2**24


def simulated_learner_of(
    cluster: Cluster,
    data_root: Path | None,
    shards: Sequence[Shard],
    device: str,
    strategies: Mapping[int, Strategy] = MappingProxyType({}),
    threads: int = 1,
    initial: Path | None = None,
    processes: int = 1,
) -> Learning:
    """`learner_of` where rows share this machine: those that are trained each by itself on the
    processor are on up to so many processes.

    Raises:
        ConfigurationError: the task is not usable.
    """
    learner = learner_of(cluster, data_root, shards, device, strategies, threads, initial)
    if not isinstance(learner, Trainer) or learner.device.type != "cpu":
        return learner
    if len(shards) == 1 and learner.dim * cluster.task.batch_size >= LARGE:
        return learner
    altering = {i: one for i, one in strategies.items() if isinstance(one, AltersData)}
    return Spread(
        learner,
        lambda some: partial(trainer_of, cluster, data_root, some, "cpu", altering, initial),
        shards,
        [cluster.ids[shard.index] for shard in shards],
        processes,
        cluster.rounds.rounds,
    )


class Spread:
    """Trains the rows of a `Trainer`, see `agent.learning.learner.Learning`.

    Args:
        here: trains them all in this process, until it is known that others pay.
        make: what makes the like for some of the shards; what can be pickled.
        shards: whose rows these are.
        ids: of their agents.
        processes: how many there may be.
        rounds: of the run.
    """

    def __init__(
        self,
        here: Trainer,
        make: Callable[[Sequence[Shard]], Callable[[], Trainer]],
        shards: Sequence[Shard],
        ids: Sequence[str],
        processes: int,
        rounds: int,
    ) -> None:
        self._here: Trainer | None = here
        self._make, self._shards, self._ids = make, tuple(shards), tuple(ids)
        self._parts = _parts(len(self._shards), processes)
        self._rounds = rounds
        self._workers: Workers | None = None
        self._asked: list[tuple[Tensor, int, float]] = []  # rounds that were timed
        self._undecided = len(self._parts) > 1
        self._prepared = False
        self._begun = b""  # what agents held before the first of those
        self._layout = here.layout
        self._samples = [here.samples(row) for row in range(len(self._shards))]
        self.dim, self.device = here.dim, here.device

    @property
    def processes(self) -> Sequence[int | None]:
        """The numbers of the processes beside this one."""
        return [] if self._workers is None else self._workers.pids

    def local_steps(
        self,
        x: Tensor,
        t: int,
        step_size: float,
        velocity: Tensor | None = None,  # noqa: ARG002
    ) -> LocalTraining:
        """Train each row from x (agents, dim) in round t."""
        if self._here is None:
            return _joined(self._each("local_steps", x, t, step_size))
        if self._undecided and not self._asked:
            self._begun = self._here.private()
        began_s = time.monotonic()
        with _one_thread():
            done = self._here.local_steps(x, t, step_size)
        if self._undecided:
            self._asked.append((x.clone(), t, step_size))
            self._decide(time.monotonic() - began_s, self._rounds - t)
        return done

    def _decide(self, took_s: float, rounds: int) -> None:
        """Whether others pay for so many rounds, of which one took so long."""
        longest = max(len(self._shards[part]) for part in self._parts)
        saved_s = took_s * rounds * (1 - longest / len(self._shards))
        pays = saved_s > WORTH_S
        if pays and len(self._asked) < TIMED and took_s < LONG_S:
            return  # once more
        if pays:
            self._part()
        self._undecided, self._begun = False, b""
        self._asked.clear()

    def _part(self) -> None:
        """Hand the rows over to workers, which train again what was timed; or go on here, if what
        makes them cannot be sent or the system has no room."""
        makes = [self._make(self._shards[part]) for part in self._parts]
        try:
            pickle.dumps(makes)
        except Exception:  # whatever a user's strategy trips over
            return
        with suppress(OSError):
            self._workers = Workers(makes, [_named(self._ids[part]) for part in self._parts])
        if self._workers is None:
            return
        self._here = None
        if self._prepared:
            self._all("prepare")
        self.restore(self._begun)
        for x, t, step_size in self._asked:
            self._each("local_steps", x, t, step_size)

    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metrics of the first rows, x (agents, dim)."""
        if self._here is not None:
            with _one_thread():
                return self._here.evaluate(x)
        return [one for part in self._each("evaluate", x) for one in part]

    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:
        """Look at the samples before the run."""
        assert self._here is not None, "before the run"
        self._prepared = True
        with _one_thread():
            self._here.check_samples(x, agents)

    def shard_losses(self, x: Tensor, samples: int, t: int = 0) -> Tensor:
        """How the rows of x (agents, dim) do on their own data."""
        if self._here is not None:
            with _one_thread():
                return self._here.shard_losses(x, samples, t)
        return torch.cat(self._each("shard_losses", x, samples, t))

    def state_dict(self, x: Tensor, row: int = 0) -> Mapping[str, Tensor]:
        """The whole model of a row, of which x (dim,) is what travels."""
        if self._here is not None:
            return self._here.state_dict(x, row)
        assert self._workers is not None
        arguments = [
            (x, row - part.start) if part.start <= row < part.stop else None for part in self._parts
        ]
        found: Mapping[str, Tensor] = self._workers.ask("state_dict", arguments)[0]
        return found

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """What travels, x (agents, dim), by name."""
        return self._layout.named(x)

    def samples(self, row: int) -> int | None:
        """How many samples a row trains on."""
        return self._samples[row]

    def private(self) -> bytes:
        """What agents keep to themselves, as one `Trainer` of all rows gives it."""
        if self._here is not None:
            return self._here.private()
        parts = zip(self._all("private"), self._parts, strict=True)
        held = [unpacked(each, len(self._shards[part])) for each, part in parts]
        return packed([one for part in held for one in part])

    def restore(self, private: bytes) -> None:
        """Go on with what `private` gave."""
        if self._here is not None:
            self._here.restore(private)
        elif private:
            assert self._workers is not None
            held = unpacked(private, len(self._shards))
            self._workers.ask("restore", [(packed(held[part]),) for part in self._parts])

    def end(self) -> None:
        """End the processes, if there are any; what is asked after that fails."""
        if self._workers is not None:
            self._workers.end()

    def _each(self, name: str, x: Tensor, *more: Any) -> list[Any]:
        """A method of each part that has rows in x."""
        assert self._workers is not None
        arguments = [(x[part], *more) if part.start < len(x) else None for part in self._parts]
        return self._workers.ask(name, arguments)

    def _all(self, name: str) -> list[Any]:
        assert self._workers is not None
        return self._workers.ask(name, [()] * len(self._parts))


def _parts(rows: int, most: int) -> list[slice]:
    """Consecutive rows in `most` parts at most, whose sizes differ by one at most."""
    count = max(1, min(rows, most))
    bounds = [part * rows // count for part in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]


def _joined(parts: Sequence[LocalTraining]) -> LocalTraining:
    updates = torch.cat([part.update for part in parts])
    return LocalTraining(updates, torch.cat([part.losses for part in parts]), None)


def _named(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: several share out single operations, and of small ones wait for each
    other longer than they work; and sums of several parts round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
