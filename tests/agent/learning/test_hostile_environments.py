"""Environments that raise, or give what no environment may: one line before the run where that can
be known, a round that is sat out where it cannot."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from candor.agent.algorithms.driver import Driver
from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.policy_gradient import PolicyLearner
from candor.agent.learning.reporting import Reporting
from candor.agent.learning.rows import PATIENCE, TrainedRows
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

LARGE, SMALL = 4, 2
SETTINGS = AlgorithmSettings(
    name="dec-byz-pg", step_size=0.1, step_decay=0.0, large_batch=LARGE, small_batch=SMALL
)


class Steps(gymnasium.Env):
    """Five steps of one point each."""

    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        return self.seen(), self.reward(action), self.steps >= 5, False, {}

    def seen(self) -> Any:
        return self.np_random.uniform(-1, 1, 3)

    def reward(self, action) -> Any:
        return float(action)


class Task:
    horizon = 20
    discount = 0.9

    def __init__(self, make: Callable[[], gymnasium.Env] = Steps) -> None:
        self.make_environment = make

    def build_model(self):
        return nn.Linear(3, 2)


def learner_of(task: Task) -> PolicyLearner:
    contexts = Contexts(SETTINGS, 6, 5, torch.device("cpu"))
    return PolicyLearner(task, [Shard(0, 1)], contexts, None, {})


def doing(**methods) -> type[Steps]:
    return type("Hostile", (Steps,), methods)


def giving(name: str, value: object) -> type[Steps]:
    return doing(**{name: lambda *_, **__: value})


def raises(*_, **__):
    raise RuntimeError("broken\nin two lines")


def leaves(*_, **__):
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (doing(reset=raises), "RuntimeError: broken in two lines"),
        (doing(step=raises), "RuntimeError: broken in two lines"),
        (doing(step=leaves), "SystemExit: 0"),
        (doing(reset=lambda self: (self.seen(), {})), "unexpected keyword argument 'seed'"),
        (giving("reset", np.zeros(3)), "too many values to unpack"),
        (giving("step", (np.zeros(3), 1.0, True, {})), "expected 5, got 4"),
        (giving("seen", np.full(3, np.nan)), "observations that are not finite"),
        (giving("seen", [0.0, np.inf, 0.0]), "observations that are not finite"),
        (giving("seen", 0.0), "observation of shape (); its space says (3,)"),
        (giving("seen", np.zeros(1)), "observation of shape (1,); its space says (3,)"),
        (giving("seen", np.zeros((1, 3))), "observation of shape (1, 3); its space says (3,)"),
        (giving("seen", np.zeros(4)), "observation of shape (4,); its space says (3,)"),
        (giving("seen", "abc"), "could not convert string to float"),
        (giving("reward", float("nan")), "rewards that are not finite"),
        (giving("reward", float("-inf")), "rewards that are not finite"),
        (giving("reward", None), "float() argument must be"),
        (giving("reward", np.ones(2)), "can be converted to Python scalars"),
    ],
)
def test_what_no_environment_may_do_is_one_line_before_the_run(environment, told) -> None:
    learner = learner_of(Task(environment))
    with pytest.raises(ConfigurationError) as caught:
        learner.check_samples(initial_parameters(Task(), 0), ["a0"])
    assert str(caught.value).startswith("task: its environment ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_environment_that_never_ends_is_cut_and_one_that_ends_at_once_counts() -> None:
    for environment, steps in (
        (doing(step=lambda self, _: (self.seen(), 1, 0, 0, {})), 20),
        (
            doing(step=lambda self, _: (self.seen(), 1.0, True, False, {})),
            1,
        ),
    ):
        learner = learner_of(Task(environment))
        estimate, losses = learner.policy_gradient(initial_parameters(Task(), 0)[None], 1, 3)
        assert estimate.isfinite().all()
        assert losses.tolist() == [-steps]


@pytest.mark.parametrize(
    "other",
    [
        {"observation_space": gymnasium.spaces.Box(-9.0, 9.0, (5,))},
        {"observation_space": gymnasium.spaces.Discrete(4)},
        {"action_space": gymnasium.spaces.Discrete(7)},
    ],
)
def test_environments_of_a_run_have_the_same_spaces(other) -> None:
    made = iter([Steps, Steps, Steps])

    def make() -> gymnasium.Env:
        return next(made, doing(**other))()

    learner = learner_of(Task(make))
    x = initial_parameters(Task(), 0)[None]
    with pytest.raises(ConfigurationError, match="all of a run must be alike"):
        learner.policy_gradient(x, 1, LARGE)


def test_a_round_in_which_the_environment_fails_is_sat_out_and_the_next_batch_is_large() -> None:
    """An estimate that was missed would leave changes with nothing to be added to."""
    asked, told, broken = [], [], set()

    class Flaky(PolicyLearner):
        def policy_gradient(self, x, t, count, before=None):
            asked.append((t, count))
            if t in broken:
                raise ConfigurationError("task: its environment failed")
            return super().policy_gradient(x, t, count, before)

    def play(rounds: int) -> None:
        contexts = Contexts(SETTINGS, 6, 5, torch.device("cpu"))
        learner = Flaky(Task(), [Shard(0, 1)], contexts, None, {})
        rows = TrainedRows(learner, Reporting(0, [0], {}), lambda _: torch.ones(1, 1))
        rows.tell = lambda t, why: told.append((t, why))
        driver = Driver(
            *(SETTINGS, rows, None, initial_parameters(Task(), 0)[None]), coin=lambda t: t == 1
        )
        answer = None
        while True:
            out = driver.advance(answer)
            if out.round > rounds:
                return
            if out.phase == 0 and out.round in broken:
                assert not out.vectors.any()  # it reports nothing
            answer = out.vectors

    broken |= {3, 6, 7}
    play(9)
    of_rounds = dict(asked)
    assert [t for t, count in of_rounds.items() if count == LARGE] == [1, 4, 7, 8]
    assert set(of_rounds.values()) == {LARGE, SMALL}
    assert told == [(t, "task: its environment failed") for t in sorted(broken)]
    broken |= set(range(5, 5 + PATIENCE))
    with pytest.raises(ConfigurationError, match="its environment failed"):
        play(9)
    broken |= {1}  # none has succeeded yet
    with pytest.raises(ConfigurationError, match="its environment failed"):
        play(1)
