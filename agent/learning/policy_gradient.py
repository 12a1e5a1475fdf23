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
then switches the correction off without a word. Everything is in binary64; signs are those of minus
the return, so that what comes out is descended like any other gradient.
"""

from collections.abc import Mapping, Sequence
from threading import RLock
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.learning.arena import arena_of
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
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError

EVALUATED: Final = 20  # episodes that measure a policy of which none were sampled yet
# e**60 is far above any weight that an estimate can use, and its square is still a float32: an
# agent whose policy was replaced by nonsense injects a large vector, and none that is not finite.
LOG_WEIGHT_MAX: Final = 60.0
_AT_ONCE: Final = 2**21  # observations times the widest layer, of one pass of gradients


def discounted(
    rewards: NDArray[np.float64],
    discount: float,
    log_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """sum_{h >= t} w_h gamma^h r_h for each step t: (steps, agents, episodes), as the rewards."""
    steps = len(rewards)
    worth = discount ** np.arange(steps)[:, np.newaxis, np.newaxis] * rewards
    if log_weights is not None:
        worth = worth * np.exp(np.minimum(log_weights, LOG_WEIGHT_MAX))
    summed: NDArray[np.float64] = worth[::-1].cumsum(axis=0)[::-1]
    return summed


def log_probabilities(policy: Policy, x: Tensor, made: Trajectories) -> NDArray[np.float64]:
    """log pi_x(a_t | s_t) of what was done, 0 where an episode has ended: as `made.actions`."""
    with torch.no_grad():
        parts = [_log_probability(policy, x, made, steps).numpy() for steps in _chunks(x, made)]
    found = np.concatenate(parts, axis=1).transpose(1, 0, 2)  # (steps, agents, episodes)
    return np.where(made.alive, found, 0.0)


def score_gradient(
    policy: Policy, x: Tensor, made: Trajectories, gains: NDArray[np.float64]
) -> Tensor:
    """1/N sum_i sum_t gains_t grad log pi_x(a_t | s_t): (agents, dim) binary64."""
    counted = np.where(made.alive, gains, 0.0) / made.actions.shape[2]
    rows = x.detach().double().requires_grad_()
    total = torch.zeros_like(rows)
    for steps in _chunks(x, made):
        with torch.enable_grad():
            logs = _log_probability(policy, rows, made, steps)  # (agents, steps, episodes)
            weights = torch.from_numpy(np.ascontiguousarray(counted[steps].transpose(1, 0, 2)))
            (gradient,) = torch.autograd.grad((logs * weights).sum(), rows)
        total += gradient
    return total


def gpomdp(policy: Policy, x: Tensor, made: Trajectories, discount: float) -> Tensor:
    """The estimate ghat of the gradient of minus the expected return: (agents, dim) binary64."""
    return -score_gradient(policy, x, made, discounted(made.rewards, discount))


def weighted_gpomdp(
    policy: Policy, before: Tensor, x: Tensor, made: Trajectories, discount: float
) -> Tensor:
    """ghat_w of policies `before`, of episodes that x sampled: (agents, dim) binary64."""
    ratios = log_probabilities(policy, before, made) - log_probabilities(policy, x, made)
    gains = discounted(made.rewards, discount, ratios.cumsum(axis=0))
    return -score_gradient(policy, before, made, gains)


def _log_probability(policy: Policy, x: Tensor, made: Trajectories, steps: slice) -> Tensor:
    """Of some steps: (agents, steps, episodes)."""
    seen = np.moveaxis(made.observations[steps], 1, 0)  # (agents, steps, episodes, *shape)
    flat = torch.from_numpy(np.ascontiguousarray(seen)).flatten(1, 2)
    done = torch.from_numpy(np.ascontiguousarray(made.actions[steps].transpose(1, 0, 2)))
    logs = torch.log_softmax(policy.logits(x, flat), dim=-1)
    return logs.gather(-1, done.flatten(1).unsqueeze(-1)).view(done.shape)


def _chunks(x: Tensor, made: Trajectories) -> list[slice]:
    """Steps that are differentiated at once: activations of some million numbers."""
    steps, agents, episodes = made.actions.shape
    # A layer of a square matrix is as wide as the root of what it has.
    width = max(16, int(np.sqrt(x.shape[1])))
    each = max(1, _AT_ONCE // (agents * episodes * width))
    return [slice(low, low + each) for low in range(0, steps, each)]


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
        self._round = 0
        self._returns: NDArray[np.float64] | None = None  # (agents,) of the batch last sampled
        self.trajectories = 0

    def _check_policy(self) -> None:
        x = self._layout.of(self._model)[None]
        found = self.policy.logits(x, torch.zeros(1, 2, *self._shape))
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
        estimate = gpomdp(self.policy, x, made, self._task.discount)
        if before is not None:
            estimate -= weighted_gpomdp(self.policy, before, x, made, self._task.discount)
        return estimate.float(), torch.from_numpy(-self._returns).float()

    def _sample(
        self, x: Tensor, t: int, count: int, *, evaluating: bool = False, rows: int | None = None
    ) -> Trajectories:
        acting = {row: acting_in(strategy, t) for row, strategy in self._strategies.items()}
        others = {row: one for row, one in acting.items() if one is not None}
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
    def shard_losses(self, x: Tensor, samples: int) -> Tensor:  # noqa: ARG002
        """Minus the mean return of new episodes of each row, (agents,)."""
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
