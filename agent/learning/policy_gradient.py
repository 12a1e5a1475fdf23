"""Policies that are learned from episodes that they sample: the estimators, and what trains rows.

The estimator is GPOMDP (Baxter & Bartlett, JAIR 2001) with discounts counted from the beginning of
an episode and without a baseline, as in Jordan et al. (arXiv 2401.03489, section 2):

    ghat(x) = 1/N sum_i sum_t grad log pi_x(a_t | s_t) sum_{h >= t} gamma^h r_h

and, for policies `before` by the same episodes, importance weights for each step, the weighted
GPOMDP of variance-reduced methods (SVRPG: Papini et al., ICML 2018; by steps as in Xu et al.,
SRVR-PG, ICLR 2020):

    ghat_w(before) = 1/N sum_i sum_t grad log pi_before(a_t | s_t) sum_{h >= t} w_h gamma^h r_h
    w_h = prod_{k <= h} pi_before(a_k | s_k) / pi_x(a_k | s_k)

which is unbiased, as a reward depends on what was done before it alone. The weights are sums of
logarithms: products of a thousand probabilities underflow, and a guard against division by zero
then switches the correction off without a word. Sums over steps and weights are in binary64,
networks in float32; signs are those of minus the return, so that what comes out is descended like
any other gradient.

Estimator `published` is that of the program of Jordan et al., to compare with their curves:
`episode_weights`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from candor.agent.learning.arena import arena_of
from candor.agent.learning.chunks import Threads, slices
from candor.agent.learning.contexts import Contexts, prepare
from candor.agent.learning.initial import built_again, initial_model
from candor.agent.learning.layout import copied
from candor.agent.learning.learner import LocalTraining
from candor.agent.learning.measuring import UNDEFINED
from candor.agent.learning.policies import Policy, policy_of
from candor.agent.learning.serial import one_at_a_time
from candor.agent.learning.trajectories import Trajectories, sample
from candor.agent.tasks.base import PolicyTask
from candor.agent.tasks.environments import spaces_of
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.mechanisms.strategies.lies import Strategy
from candor.mechanisms.strategies.specs import acting_in
from candor.topologies.cluster.file import PUBLISHED
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError

EVALUATED: Final = 20  # episodes that measure a policy of which none were sampled yet
# e**60 is far above any weight that an estimate can use, and its square is still a float32: an
# agent whose policy was replaced by nonsense injects a large vector, and none that is not finite.
LOG_WEIGHT_MAX: Final = 60.0
GUARD: Final = 1e-9  # of the published weights


def discounted(
    rewards: NDArray[np.float64],
    discount: float,
    log_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """sum_{h >= t} w_h gamma^h r_h for each step t: (steps, episodes), as the rewards."""
    worth = discount ** np.arange(len(rewards))[:, np.newaxis] * rewards
    if log_weights is not None:
        worth = worth * np.exp(np.minimum(log_weights, LOG_WEIGHT_MAX))
    summed: NDArray[np.float64] = worth[::-1].cumsum(axis=0)[::-1]
    return summed


def episode_weights(
    alive: NDArray[np.bool_], logs: NDArray[np.float64], logs_before: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One weight an episode (episodes,) from the logarithms of its steps, which are `alive` (steps,
    episodes): prod pi_before / (prod pi_x + 1e-9), as the published program has it.

    Of episodes longer than some thirty steps of even odds the products are far below the guard: the
    weight is next to 0, and nothing is taken off the estimate.
    """
    taken = np.zeros((2, *alive.shape))
    taken[:, alive] = logs_before, logs
    before, own = np.exp(taken.sum(axis=1))
    weights: NDArray[np.float64] = before / (own + GUARD)
    return weights


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one agent: `own` is ghat, and `weighted` ghat_w of a policy before, if there is one;
    (dim,) each, with the signs of minus the return."""

    own: NDArray[np.float64]
    weighted: NDArray[np.float64] | None


def estimate(
    policy: Policy,
    made: Trajectories,
    agent: int,
    discount: float,
    x: Tensor,
    before: Tensor | None = None,
    *,
    published: bool = False,
) -> Estimate:
    """The estimates of the agent of a row, whose policy x (dim,) has sampled its episodes, for that
    one and for the policy `before` (dim,); `published`: with weights of whole episodes."""
    alive = made.alive[:, agent]  # (steps, episodes)
    episodes = alive.shape[1]
    seen, done = made.observations[:, agent][alive], made.actions[:, agent][alive]
    rewards = made.rewards[:, agent]
    logs, gradient = policy.scored(x, seen, done)
    own = -gradient(discounted(rewards, discount)[alive] / episodes)
    if before is None:
        return Estimate(own, None)
    logs_before, gradient = policy.scored(before, seen, done)
    if published:
        worth = discounted(rewards, discount) * episode_weights(alive, logs, logs_before)
    else:
        ratios = np.zeros(alive.shape)
        ratios[alive] = logs_before - logs
        worth = discounted(rewards, discount, ratios.cumsum(axis=0))
    return Estimate(own, -gradient(worth[alive] / episodes))


@runtime_checkable
class PolicyLearning(Protocol):
    """What samples episodes of policies. `trajectories` is how many each agent sampled in the last
    round."""

    trajectories: int

    def policy_gradient(
        self, x: Tensor, t: int, count: int, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sample `count` episodes an agent by x (agents, dim) in round t: the estimate of the
        gradient of minus the return, (agents, dim) float32, less, with `before` (agents, dim), the
        weighted one for these policies; and minus the mean return of the batch, (agents,)."""
        ...


class PolicyLearner:
    """Agents that sample their own episodes; see `agent.learning.learner.Learning`.

    It keeps nothing that decides what is learned: episodes depend on seed, agent, round and policy.
    Everything is on the processor, where the environments are.

    Args:
        task: the environment and the policy.
        shards: whose rows these are; there are no data to part.
        contexts: the run's settings; a local step of an algorithm that knows no policies samples
            `batch_size` episodes.
        initial: the saved model that the run starts from, if it is not drawn from the seed.
        strategies: by place in the cluster file, who may act otherwise than its policy says.
        threads: how many differentiate at the same time, each the episodes of other rows.

    Raises:
        ConfigurationError: the environment or the policy cannot be used.
    """

    def __init__(
        self,
        task: PolicyTask,
        shards: Sequence[Shard],
        contexts: Contexts,
        initial: FilePath | None = None,
        strategies: Mapping[int, Strategy] = MappingProxyType({}),
        threads: int = 1,
    ) -> None:
        self.lock = RLock()
        self.device = torch.device("cpu")
        self._task, self._contexts = task, contexts
        self._shards = tuple(shards)
        self._agents = tuple(shard.index for shard in shards)
        self._strategies = {
            row: strategies[agent] for row, agent in enumerate(self._agents) if agent in strategies
        }
        self._shape, self._actions = spaces_of(task)
        model, self._layout = initial_model(task, contexts.seed, initial)
        self._model = built_again(task, contexts.seed, model)
        self.policy = policy_of(model, self._layout)
        self.dim: int = self._layout.dim
        self._check_policy()
        self._arena = arena_of(task)
        self._threads_max = max(1, min(threads, len(self._shards)))
        self._threads = Threads(self._threads_max)
        self._round = 0
        self._returns: NDArray[np.float64] | None = None  # (agents,) of the batch last sampled
        self.trajectories = 0

    def _check_policy(self) -> None:
        act = self.policy.acting(self._layout.of(self._model)[None])
        found = act(np.zeros((1, 2, *self._shape), np.float32))
        if found.shape != (1, 2, self._actions):
            raise ConfigurationError(
                f"task: its policy gives shape {tuple(found.shape[1:])} for a batch of 2 "
                f"observations; there are {self._actions} actions: give logits (2, {self._actions})"
            )

    @one_at_a_time
    def policy_gradient(
        self, x: Tensor, t: int, count: int, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `PolicyLearning.policy_gradient`, wherever x is.

        Raises:
            ConfigurationError: the environment fails.
        """
        x, before = x.cpu(), None if before is None else before.cpu()
        made = self._sample(x, t, count)
        self._round, self.trajectories = t, count
        self._returns = made.returns.mean(axis=1)
        with _one_thread_a_product():
            answer = self._answers(made, x, before)
        return torch.from_numpy(answer).float(), torch.from_numpy(-self._returns).float()

    def _answers(self, made: Trajectories, x: Tensor, before: Tensor | None) -> NDArray[np.float64]:
        """What the rows are answered, (agents, dim)."""
        found = self._threads.map(
            lambda rows: [self._difference(made, row, x, before) for row in range(len(x))[rows]],
            slices(len(x), -(-len(x) // self._threads_max)),
        )
        return np.stack([one for part in found for one in part])

    def _difference(
        self, made: Trajectories, row: int, x: Tensor, before: Tensor | None
    ) -> NDArray[np.float64]:
        """What a row is answered, (dim,)."""
        earlier = None if before is None else before[row]
        published = self._contexts.algorithm.estimator == PUBLISHED
        found = estimate(
            self.policy, made, row, self._task.discount, x[row], earlier, published=published
        )
        return found.own if found.weighted is None else found.own - found.weighted

    def _sample(
        self, x: Tensor, t: int, count: int, *, evaluating: bool = False, rows: int | None = None
    ) -> Trajectories:
        acting = {row: acting_in(strategy, t) for row, strategy in self._strategies.items()}
        others = {row: one for row, one in acting.items() if one is not None}
        with _one_thread_a_product():
            return sample(
                self._arena,
                self.policy.acting(x),
                self._agents[:rows],
                count,
                seed=self._contexts.seed,
                t=t,
                horizon=self._task.horizon,
                evaluating=evaluating,
                altering={} if evaluating else others,
            )

    def local_steps(
        self,
        x: Tensor,
        t: int,
        step_size: float,  # noqa: ARG002
        velocity: Tensor | None = None,
    ) -> LocalTraining:
        """A step along the estimate from the batch of round t, for algorithms that know of no
        policies: one however many local steps are asked for, each of which would need episodes of
        its own; with momentum as any other learner has it."""
        update, losses = self.policy_gradient(x, t, self._contexts.batch_size)
        momentum = self._contexts.algorithm.momentum
        if momentum and velocity is not None:
            update.add_(velocity, alpha=momentum)
        return LocalTraining(update, losses, update if momentum else None)

    @one_at_a_time
    def evaluate(self, x: Tensor) -> list[Measured]:
        """The mean return of each row of x (agents, dim): of the batch that it sampled last, which
        costs nothing; of `EVALUATED` new episodes where it has sampled none."""
        if self._returns is None or len(self._returns) < len(x):
            return self._fresh(x)
        sound = x.isfinite().all(dim=1).tolist()
        return [
            Measured(float(value)) if finite else UNDEFINED
            for value, finite in zip(self._returns, sound, strict=False)
        ]

    def _fresh(self, x: Tensor) -> list[Measured]:
        x = x.cpu()
        sound = x.isfinite().all(dim=1)
        made = self._sample(
            x.where(sound[:, None], torch.zeros(())),
            self._round,
            EVALUATED,
            evaluating=True,
            rows=len(x),
        )
        values = made.returns.mean(axis=1)
        return [
            Measured(float(value)) if finite else UNDEFINED
            for value, finite in zip(values, sound.tolist(), strict=True)
        ]

    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:  # noqa: ARG002
        """Sample an episode by the policy x (dim,): what is wrong shows before the run."""
        for shard in self._shards:
            with self._contexts.seeded(shard, 0):
                prepare(self._task, self._contexts.of(shard, 0, 0.0))
        self._sample(x.cpu().unsqueeze(0), 0, 1, evaluating=True, rows=1)

    @one_at_a_time
    def shard_losses(self, x: Tensor, samples: int, t: int = 0) -> Tensor:  # noqa: ARG002
        """Minus the mean return of new episodes of each row, of the round under way: (agents,)."""
        return -torch.tensor([one.value for one in self._fresh(x)], device=x.device)

    @one_at_a_time
    def state_dict(self, x: Tensor, row: int = 0) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The policy x (dim,), for `load_state_dict`."""
        return copied(self._layout.fill(self._model, x))

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """What travels, x (agents, dim), by name, (agents, *shape): contiguous copies."""
        return self._layout.named(x)

    def samples(self, row: int) -> int | None:  # noqa: ARG002
        """There are none: episodes are sampled anew in each round."""
        return None

    def private(self) -> bytes:
        """Nothing."""
        return b""

    def restore(self, private: bytes) -> None:
        """Nothing is kept."""


@contextmanager
def _one_thread_a_product() -> Iterator[None]:
    """Products of matrices on one thread each, and no warning of policies whose numbers overflow:
    of these the answer is not finite, which is told by whoever trains."""
    with _pools().limit(limits=1, user_api="blas"), np.errstate(all="ignore"):
        yield


@lru_cache(maxsize=1)
def _pools() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all libraries, once
