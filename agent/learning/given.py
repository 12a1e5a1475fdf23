"""One agent whose gradients are given, in place of training: for lockstep and benchmarks."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.tasks.measured import Measured


class GivenGradients:
    """Performs an algorithm's local effects: round t gives `gradient(t)` (dim,), and the agent's
    mass is `mass(t)`."""

    def __init__(
        self,
        gradient: Callable[[int], NDArray[np.float32]],
        mass: Callable[[int], float] = lambda _t: 1.0,
    ) -> None:
        self._gradient = gradient
        self._mass = mass
        self.losses = torch.zeros(1)
        self.trajectories: int | None = None

    def local_steps(self, x: Tensor, t: int, step_size: float, state: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """The gradient (1, dim) of round t."""
        return torch.from_numpy(self._gradient(t)).unsqueeze(0)

    def policy_gradient(self, x: Tensor, t: int, count: int, before: Tensor | None) -> Tensor:  # noqa: ARG002
        """The gradient (1, dim) of round t; where it is to be a difference, a tenth of it."""
        gradient = torch.from_numpy(self._gradient(t)).unsqueeze(0)
        return gradient if before is None else gradient / 10

    def report(self, gradient: Tensor, t: int, state: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """The gradient itself."""
        return gradient

    def mass(self, t: int) -> Tensor:
        """The agent's mass (1, 1) of round t."""
        return torch.tensor([[self._mass(t)]])

    def sent(self, v: Tensor, t: int, phase: int) -> tuple[Tensor, Mapping[int, Tensor]]:  # noqa: ARG002
        """The vector itself."""
        return v, {}

    def losses_of(self, vectors: Tensor, t: int) -> Tensor:  # noqa: ARG002
        """Nothing is lost, whatever the vectors (1, vectors, dim) are."""
        return torch.zeros(vectors.shape[:2])

    def evaluate(self, x: Tensor) -> list[Measured]:
        """Nothing is learned."""
        return [Measured(0.0)] * len(x)
