"""Digits at a walking pace: rounds that leave the processor to daemons that are starting again.

Training on an accelerator costs the host no processor time either. At full speed eight daemons on a
small machine are starved of it, and cut off parts of a graph run away from each other.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import gymnasium
from torch import Tensor, nn

from candor.agent.tasks.base import Batch
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.digits import MODELS, read_digits

T = TypeVar("T")

STEP_S: Final = 0.15
TEST_S: Final = 1.0
POLL_S: Final = 0.05  # not at once: starting daemons need the processor
TASK: Final = ("--task", "tests.paced:PacedDigits")


def environment() -> dict[str, str]:
    """That of a process which is to find these tasks, wherever it runs."""
    root = str(Path(__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


class PacedDigits(Classification):
    """A logistic model on digits; each local step takes `STEP_S` at least."""

    def __init__(self) -> None:
        super().__init__(MODELS.builders(1)["logistic"], read_digits)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch, after a pause."""
        time.sleep(STEP_S)
        return super().loss(model, batch)


class PacedCartPole:
    """A pole on a cart, a few steps of it; each episode takes `STEP_S` at least."""

    horizon = 10
    discount = 0.9
    large_batch, small_batch = 2, 1

    def build_model(self) -> nn.Module:
        """Logits of two actions."""
        return nn.Linear(4, 2)

    def make_environment(self) -> gymnasium.Env:
        """The environment, whose episodes begin after a pause."""
        return _Paused(gymnasium.make("CartPole-v1"))


class _Paused(gymnasium.Wrapper):
    def reset(self, **given):
        time.sleep(STEP_S)
        return super().reset(**given)


class SlowlyTestedDigits(Classification):
    """The same model, whose metric takes `TEST_S`: longer than to settle and to leave."""

    def __init__(self) -> None:
        super().__init__(MODELS.builders(1)["logistic"], read_digits)

    def evaluate(self, model: nn.Module) -> float:
        """The metric, after a pause."""
        time.sleep(TEST_S)
        return super().evaluate(model)


def until(holds: Callable[[], T], seconds: float = 120.0) -> T:
    """What `holds` gives, once that is true: real processes are ready when they are."""
    until_s = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until_s, f"not within {seconds:g} s"
        time.sleep(POLL_S)
    return found
