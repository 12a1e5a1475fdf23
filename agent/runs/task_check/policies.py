"""What a policy and its environment are like, and what an episode of it returns."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from candor.agent.learning.policy_gradient import PolicyLearner
from candor.agent.runs.task_check.findings import Finding
from candor.agent.runs.task_check.training import Evaluation
from candor.agent.tasks.base import PolicyTask
from candor.agent.tasks.environments import defaults_of, environment_faults, spaces_of
from candor.agent.tasks.measured import Measured


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """An environment and what is done in it: `observations` is the shape of one, as the policy has
    it; the last four are what algorithms of policies do unless told."""

    environment: str
    observations: tuple[int, ...]
    actions: int
    horizon: int
    discount: float
    large_batch: int
    small_batch: int
    switch_probability: float
    step_size: float


def policy_facts(task: PolicyTask) -> PolicyFacts:
    """What is told of an environment.

    Raises:
        ConfigurationError: it cannot be made, or something is out of range.
    """
    observations, actions = spaces_of(task)
    with environment_faults():
        made = task.make_environment()
        name = made.spec.id if made.spec is not None else type(made.unwrapped).__name__
        made.close()
    usual = defaults_of(task)
    return PolicyFacts(
        name,
        observations,
        actions,
        task.horizon,
        task.discount,
        usual.large_batch,
        usual.small_batch,
        usual.switch_probability,
        usual.step_size,
    )


def evaluated(learner: PolicyLearner, x: Tensor) -> Evaluation:
    """The mean return of new episodes of the policy x (dim,), twice of the same ones."""
    rows = x.unsqueeze(0)
    began = time.perf_counter()
    first, again = -float(learner.shard_losses(rows, 0)), -float(learner.shard_losses(rows, 0))
    return Evaluation(Measured(first), again, (time.perf_counter() - began) / 2, ())


def of_returns(before: Evaluation) -> Iterator[Finding]:
    """What is odd about what episodes return."""
    if before.again is not None and before.measured.value != before.again:
        yield Finding(
            "warning",
            f"the same episodes return {before.measured.value:.6g} and then {before.again:.6g}",
            "let all that is random in the environment come from self.np_random, which "
            "reset(seed=) seeds",
        )
