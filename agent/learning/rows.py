"""Agents of a run as rows that train and report: what an algorithm asks of a host."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, cast

import torch
from torch import Tensor

from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.learning.learner import Learner, Learning, LocalTraining, NotVectorised
from candor.agent.learning.plain import PlainSgd
from candor.agent.learning.policy_gradient import PolicyLearner, PolicyLearning
from candor.agent.learning.ranks import ALONE, Ranks
from candor.agent.learning.reporting import REPORTS, Reporting
from candor.agent.learning.trainer import Trainer
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import AnyTask, Batch, Loop, Task, is_loop, is_policy_task
from candor.agent.tasks.checked import WithSamples
from candor.agent.tasks.held_out import with_held_out
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.lies import Strategy
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

VELOCITY: Final = "velocity"
PATIENCE: Final = 3  # rounds in a row in which training fails, before an agent gives up
LOSS_SAMPLES: Final = 64  # of an agent's own: a batch, as losses are compared in UBAR
UNTRUE: Final = 2.0**-10
"""Of the length of an honest report: what is farther from it is no rounding. Rounds that are done
again are judged by the same (`agent.runs.replay`)."""
DEVICES: Final = ("auto", "cpu", "cuda", "cuda:1", "mps")
"""What `--device` takes; another number is another card."""

LoadData: TypeAlias = Callable[[Shard, int], Batch]
"""A task's `load_data`."""


class TrainedRows:
    """Rows that train on their shards and report by their strategies; performs an algorithm's local
    effects (`agent.algorithms.driver.Performer`). `losses` (agents,) and `reports` (agents, dim)
    are those of the round under way; `untrue` (agents,): who reported, or sent, something else in
    it than follows from its samples, those that it trains on.

    Args:
        learner: what trains them.
        reporting: how they report.
        mass: their masses of a round, (agents, 1).

    `tell` is told why a round is sat out, with the round: where it is there, of one row, a training
    that fails or is not finite moves nothing in that round, but for the `PATIENCE`-th in a row and
    where none has succeeded yet.
    """

    def __init__(
        self,
        learner: Learning,
        reporting: Reporting,
        mass: Callable[[int], Tensor],
    ) -> None:
        self.learner = learner
        self.tell: Callable[[int, str], None] | None = None
        self._reporting = reporting
        self._mass = mass
        self._failed = PATIENCE - 1  # rounds in a row; none is forgiven before the first success
        self.losses = torch.empty(0)
        self.reports = torch.empty(0)
        self.untrue = torch.empty(0, dtype=torch.bool)

    def local_steps(self, x: Tensor, t: int, step_size: float, state: dict[str, Tensor]) -> Tensor:
        """The pseudo-gradients (agents, dim) of round t; momentum is in the state. They are where x
        is, wherever the learner trains: a daemon's vectors, which are sent, on the processor.

        Raises:
            ConfigurationError: the task failed, and nobody is told or it did so too often in a row.
        """
        there = x.to(self.learner.device)
        done = self._trained(
            t, lambda: self.learner.local_steps(there, t, step_size, state.get(VELOCITY))
        )
        if done is None:
            return torch.zeros_like(x)
        if done.velocity is not None:
            state[VELOCITY] = done.velocity
        return done.update.to(x.device)

    def policy_gradient(
        self, x: Tensor, t: int, count: int, before: Tensor | None
    ) -> Tensor | None:
        """The estimates (agents, dim) of round t, of so many episodes of each policy of x; see
        `agent.learning.policy_gradient`. `losses` are minus the mean returns of these episodes.
        None where the round is sat out.

        Raises:
            ConfigurationError: the task has no environment to sample; or it failed, and nobody is
                told or it did so too often in a row.
        """
        learner = self.learner
        if not isinstance(learner, PolicyLearning):
            raise ConfigurationError(
                "the algorithm samples episodes, and the task has no environment; choose a task "
                "such as cartpole, or another algorithm"
            )

        def sampled() -> LocalTraining:
            return LocalTraining(*learner.policy_gradient(x, t, count, before), None)

        done = self._trained(t, sampled)
        return None if done is None else done.update.to(x.device)

    def _trained(self, t: int, train: Callable[[], LocalTraining]) -> LocalTraining | None:
        """What training gave in round t, None where the round is sat out."""
        try:
            done = train()
        except ConfigurationError as exc:
            if not self._sits_out(t, str(exc)):
                raise
            return None
        why = f"training gave a model that is not finite, loss {float(done.losses[0]):g}"
        if self.tell is not None and not bool(done.update.isfinite().all()):
            if self._sits_out(t, why):
                return None
        elif self.tell is not None:
            self._failed = 0
        self.losses = done.losses
        return done

    def _sits_out(self, t: int, why: str) -> bool:
        """Whether a round that failed is sat out."""
        self._failed += 1
        if self.tell is None or self._failed >= PATIENCE:
            return False
        self.tell(t, why)
        self.losses = torch.full((1,), math.nan)
        return True

    @property
    def trajectories(self) -> int | None:
        """How many episodes each agent sampled in the round under way; None where none are."""
        learner = self.learner
        return learner.trajectories if isinstance(learner, PolicyLearning) else None

    def report(self, gradient: Tensor, t: int, state: dict[str, Tensor]) -> Tensor:
        """The reports (agents, dim), which the state keeps for strategies that look back."""
        self.reports = self._reporting.report(gradient, t, state.get(REPORTS))
        if self._reporting.lies:
            state[REPORTS] = self.reports
            self.untrue = _apart(self.reports, gradient)
        return self.reports

    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metric of each row of x (agents, dim)."""
        return self.learner.evaluate(x)

    def mass(self, t: int) -> Tensor:
        """The masses (agents, 1) of round t."""
        return self._mass(t)

    def sent(self, v: Tensor, t: int, phase: int) -> tuple[Tensor, Mapping[int, Tensor]]:
        """What the agents send in place of v (agents, dim), and to whom another vector."""
        sent, apart = self._reporting.sent(v, t, phase)
        if sent is not v:
            altered = (sent != v).any(dim=1)
            altered[list(apart)] = True
            self.untrue = altered | self.untrue if len(self.untrue) else altered
        return sent, apart

    @property
    def lies(self) -> bool:
        """Whether anyone has a strategy."""
        return self._reporting.lies

    @property
    def overhears(self) -> tuple[int, ...]:
        """The rows that want to know what their neighbours send."""
        return self._reporting.overhears

    def overheard(self, phase: int, heard: Mapping[int, Tensor]) -> None:
        """What these heard in a phase, see `Reporting.overheard`."""
        self._reporting.overheard(phase, heard)

    def losses_of(self, vectors: Tensor, t: int) -> Tensor:
        """The losses (agents, vectors) of vectors (agents, vectors, dim), each on `LOSS_SAMPLES` of
        its agent's own samples, drawn for round t."""
        each = [
            self.learner.shard_losses(column.contiguous(), LOSS_SAMPLES, t)
            for column in vectors.unbind(dim=1)
        ]
        return torch.stack(each, dim=1)


def _apart(reports: Tensor, gradient: Tensor) -> Tensor:
    """Whose reports (agents, dim) are no roundings of the gradients: (agents,)."""
    off = torch.linalg.vector_norm(reports - gradient, dim=1)
    allowed = UNTRUE * torch.linalg.vector_norm(gradient, dim=1)
    false: Tensor = ~(off <= allowed)  # not a number is no report
    return false


def learner_of(
    cluster: Cluster,
    data_root: Path | None,
    shards: Sequence[Shard],
    device: str,
    strategies: Mapping[int, Strategy] = MappingProxyType({}),
    threads: int = 1,
    initial: Path | None = None,
    ranks: Ranks = ALONE,
    given: LoadData | None = None,
) -> Learning:
    """What trains some rows, whose data their `strategies`, by shard, may alter, or are `given`:
    all of them at once on so many threads where the task allows that, else each by itself.

    Raises:
        ConfigurationError: the task is not usable.
    """
    task = _task_of(cluster, data_root, shards, strategies)
    if given is not None:
        task = WithSamples(cast(Task, task), given)
    contexts = _contexts(cluster, data_root, device, ranks)
    if is_policy_task(task):
        if ranks.together:
            raise ConfigurationError("task: several processes do not train one policy; start one")
        return PolicyLearner(task, shards, contexts, initial, strategies, threads)
    if is_loop(task):
        return _trainer(task, cluster, shards, contexts, initial)
    try:
        if ranks.together:
            raise NotVectorised("several processes train one agent")
        return Learner(
            cast(Task, task),
            shards,
            cluster.algorithm,
            cluster.task.batch_size,
            cluster.seed,
            str(contexts.device),
            threads,
            initial,
            contexts,
        )
    except NotVectorised:
        return _trainer(cast(Task, task), cluster, shards, contexts, initial)


def trainer_of(
    cluster: Cluster,
    data_root: Path | None,
    shards: Sequence[Shard],
    device: str,
    strategies: Mapping[int, Strategy] = MappingProxyType({}),
    initial: Path | None = None,
) -> Trainer:
    """What trains some rows each by itself, where `learner_of` found that they must be.

    Raises:
        ConfigurationError: the task is not usable.
    """
    task = _task_of(cluster, data_root, shards, strategies)
    assert not is_policy_task(task)
    return _trainer(
        cast(Task | Loop, task),
        cluster,
        shards,
        _contexts(cluster, data_root, device, ALONE),
        initial,
    )


def _task_of(
    cluster: Cluster,
    data_root: Path | None,
    shards: Sequence[Shard],
    strategies: Mapping[int, Strategy],
) -> AnyTask:
    """The task as the agents of these shards train it: on what is not held out, and that altered by
    those whose strategies do so."""
    whole = resolve_task(cluster.task.name, data_root)
    return with_altered_data(with_held_out(whole, shards), strategies)


def _trainer(
    task: Task | Loop,
    cluster: Cluster,
    shards: Sequence[Shard],
    contexts: Contexts,
    initial: Path | None,
) -> Trainer:
    if is_loop(task):
        return Trainer(task, task, shards, contexts, initial)
    task = cast(Task, task)
    momentum = cluster.algorithm.momentum
    plain = PlainSgd(task, shards, cluster.seed, contexts.device, momentum)
    return Trainer(task, plain, shards, contexts, initial)


def _contexts(cluster: Cluster, data_root: Path | None, device: str, ranks: Ranks) -> Contexts:
    return Contexts(
        cluster.algorithm,
        cluster.task.batch_size,
        cluster.seed,
        usable_device(device),
        cluster.ids,
        cluster.rounds.rounds,
        data_root,
        ranks.rank,
        ranks.world_size,
    )


def check_samples(
    cluster: Cluster, data_root: Path | None, initial: Path | None, *, metric: bool
) -> None:
    """Look at every agent's samples before anything is started, see `Samples.check`; with `metric`
    at the task's metric, too.

    Raises:
        ConfigurationError: the task is not usable, or a sample is not.
    """
    task = resolve_task(cluster.task.name, data_root)
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    learner = learner_of(cluster, data_root, shards_of(cluster), "cpu", initial=initial)
    learner.check_samples(x, cluster.ids)
    if metric:
        learner.evaluate(x.unsqueeze(0))


def shards_of(
    cluster: Cluster, held_out: float = 0.0, *, of_held: bool = False
) -> tuple[Shard, ...]:
    """Whose rows a whole run has, in the order of the cluster file; without a share of their
    samples that is `held_out`, or `of_held` that share alone."""
    partition, count = cluster.task.partition, len(cluster.ids)
    return tuple(
        Shard(index, count, partition, held_out=held_out, of_held=of_held) for index in range(count)
    )


def usable_device(name: str) -> torch.device:
    """The device of this name; `auto` is a CUDA device where there is one, else Apple's, else the
    processor.

    Raises:
        ConfigurationError: it is none of `DEVICES`, or not there.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, colon, number = name.partition(":")
    numbered = kind == "cuda" and number.isascii() and number.isdecimal() and len(number) < 4
    if kind not in DEVICES or (colon and not numbered):
        raise ConfigurationError(f"device {name!r} is unknown; known: {', '.join(DEVICES)}")
    if kind == "cuda" and not cuda:
        raise ConfigurationError(
            f"device {name}: torch finds none here; install a torch built for CUDA, or use cpu"
        )
    if colon and int(number) >= cuda:
        raise ConfigurationError(f"device {name}: torch finds cuda:0 to cuda:{cuda - 1} only")
    if kind == "mps" and not mps:
        raise ConfigurationError(
            "device mps: torch finds none here; it needs a Mac with Apple silicon, or use cpu"
        )
    return torch.device(name)
