"""Several processes that train one agent together, as torchrun starts them.

Rank 0 is the agent: it alone speaks to neighbours, and keeps ledger and files. Whatever it asks of
its learner it first tells the others, who ask the same of theirs, so that all go through the same
collective operations: gradients are averaged inside (`TrainingContext.parallel`), and neighbours
notice nothing. A process that fails ends the agent, for the others would wait for it.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import RLock
from typing import Any, Final

import torch
from torch import Tensor

from candor.agent.learning.learner import Learning, LocalTraining
from candor.agent.learning.serial import one_at_a_time
from candor.agent.tasks.measured import Measured
from candor.topologies.specs.specs import ConfigurationError, one_line, users_errors

# Of a collective operation within a round: whoever is missing for so long has died.
TRAINING_TIMEOUT: Final = timedelta(minutes=10)
# Until rank 0 asks for something: neighbours may be late. A death is noticed at once.
IDLE_TIMEOUT: Final = timedelta(days=30)
END: Final = "end"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is `rank` of `world_size`; `local_rank` of those on its host."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process is the agent."""
        return self.rank == 0

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1


ALONE: Final = Ranks()


class ProcessGone(Exception):
    """Another process of this agent has died: what it was told cannot be done together."""


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """What torchrun says; one process where it did not start this one.

    Raises:
        ConfigurationError: it says nonsense.
    """
    if "WORLD_SIZE" not in environment:
        return ALONE
    with users_errors("RANK, WORLD_SIZE, LOCAL_RANK: torchrun sets them to numbers"):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        rank, world_size, local_rank = (int(environment.get(name, 0)) for name in names)
    if not 0 <= rank < world_size:
        raise ConfigurationError(f"RANK {rank} is not below WORLD_SIZE {world_size}")
    return Ranks(rank, world_size, local_rank)


class Group:
    """The processes of one agent, once they have met; what rank 0 says, all hear."""

    def __init__(self, ranks: Ranks) -> None:
        import torch.distributed as dist

        self.ranks = ranks
        self._dist = dist
        self._saying = dist.new_group(backend="gloo", timeout=IDLE_TIMEOUT)

    def say(self, name: str, *arguments: Any) -> None:
        """Of rank 0: call a method, or end.

        Raises:
            ProcessGone: not all are there to hear it.
        """
        forms = [_form(one) for one in arguments]
        try:
            self._dist.broadcast_object_list([name, forms], src=0, group=self._saying)
            for one in arguments:
                if isinstance(one, Tensor):
                    self._dist.broadcast(one.cpu().contiguous(), src=0, group=self._saying)
        except RuntimeError as exc:
            raise ProcessGone(f"another process of this agent is gone ({one_line(exc)})") from exc

    def hear(self) -> tuple[str, list[Any]]:
        """Of the others: what rank 0 says next."""
        said: list[Any] = [None, None]
        self._dist.broadcast_object_list(said, src=0, group=self._saying)
        name, forms = said
        return name, [self._received(form) for form in forms]

    def _received(self, form: Any) -> Any:
        if not isinstance(form, _TensorForm):
            return form
        tensor = torch.empty(form.shape, dtype=form.dtype)
        self._dist.broadcast(tensor, src=0, group=self._saying)
        return tensor


@dataclass(frozen=True, slots=True)
class _TensorForm:
    shape: tuple[int, ...]
    dtype: torch.dtype


def _form(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return _TensorForm(tuple(argument.shape), argument.dtype)
    return argument


@contextmanager
def joined(ranks: Ranks) -> Iterator[Group | None]:
    """Meet the other processes, if there are any.

    Raises:
        ConfigurationError: they could not be met.
    """
    if not ranks.together:
        yield None
        return
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with users_errors("the processes of torchrun cannot meet"):
        dist.init_process_group(backend, timeout=TRAINING_TIMEOUT)
        group = Group(ranks)
    try:
        yield group
    finally:
        dist.destroy_process_group()


class Leading:
    """The learner of rank 0; see `agent.learning.learner.Learning`."""

    def __init__(self, learner: Learning, group: Group) -> None:
        self.lock = RLock()  # what is said, and what it leads to, in the same order everywhere
        self._learner, self._group = learner, group
        self.dim, self.device = learner.dim, learner.device

    @one_at_a_time
    def local_steps(
        self, x: Tensor, t: int, step_size: float, velocity: Tensor | None = None
    ) -> LocalTraining:
        """Train from x (agents, dim) in round t, all together."""
        self._group.say("local_steps", x, t, step_size, velocity)
        return self._learner.local_steps(x, t, step_size, velocity)

    @one_at_a_time
    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metric of each row of x (agents, dim)."""
        self._group.say("evaluate", x)
        return self._learner.evaluate(x)

    @one_at_a_time
    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:
        """Look at the samples before the run."""
        self._group.say("check_samples", x, list(agents))
        self._learner.check_samples(x, agents)

    @one_at_a_time
    def shard_losses(self, x: Tensor, samples: int, t: int = 0) -> Tensor:
        """How the rows of x (agents, dim) do on their own data."""
        self._group.say("shard_losses", x, samples, t)
        return self._learner.shard_losses(x, samples, t)

    @one_at_a_time
    def state_dict(self, x: Tensor, row: int = 0) -> Mapping[str, Tensor]:
        """The whole model of a row."""
        with self._alone_if_need_be("state_dict", x, row):
            return self._learner.state_dict(x, row)

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """What travels, by name."""
        return self._learner.named(x)

    def samples(self, row: int) -> int | None:
        """How many samples a row trains on."""
        return self._learner.samples(row)

    @one_at_a_time
    def private(self) -> bytes:
        """What agents keep to themselves."""
        with self._alone_if_need_be("private"):
            return self._learner.private()

    @one_at_a_time
    def restore(self, private: bytes) -> None:
        """Go on with what `private` gave."""
        self._group.say("restore", private)
        self._learner.restore(private)

    @one_at_a_time
    def end(self) -> None:
        """Let the others go, if they are there."""
        with suppress(ProcessGone):
            self._group.say(END)

    @contextmanager
    def _alone_if_need_be(self, name: str, *arguments: Any) -> Iterator[None]:
        """What must be done at the end of a run when others may be gone: a model that lies whole
        in this process is saved without them."""
        gone: ProcessGone | None = None
        try:
            self._group.say(name, *arguments)
        except ProcessGone as exc:
            gone = exc
        try:
            yield
        except RuntimeError:
            if gone is not None:  # a part of it has died with another
                raise gone from None
            raise


def follow(learner: Learning, group: Group) -> str | None:
    """Do what rank 0 does until it ends; one line where it is gone without a word.

    Signals are rank 0's to heed: what it does at its end takes all.

    Raises:
        ConfigurationError: the task failed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            name, arguments = group.hear()
        except RuntimeError as exc:
            return f"rank {group.ranks.rank}: rank 0 is gone ({one_line(exc)})"
        if name == END:
            return None
        getattr(learner, name)(*arguments)
