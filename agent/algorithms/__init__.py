"""Optimisation algorithms, each written once as a generator of effects."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from torch import Tensor

from candor.agent.algorithms.dsgd import Hyper, decentralized_sgd, step_schedule
from candor.agent.algorithms.effects import Algorithm
from candor.agent.algorithms.push import gradient_push
from candor.topologies.specs.specs import ConfigurationError

__all__ = [
    "ALGORITHMS",
    "AlgorithmFunction",
    "Hyper",
    "decentralized_sgd",
    "gradient_push",
    "resolve_algorithm",
    "step_schedule",
]


class AlgorithmFunction(Protocol):
    """Starts an algorithm from x (agents, dim) at round `start`."""

    def __call__(self, x: Tensor, hyper: Hyper, start: int = 1) -> Algorithm: ...


ALGORITHMS: Final[Mapping[str, AlgorithmFunction]] = MappingProxyType(
    {"decentralized-sgd": decentralized_sgd, "gradient-push": gradient_push}
)


def resolve_algorithm(name: str) -> AlgorithmFunction:
    """Look an algorithm up by its name in the cluster file.

    Raises:
        ConfigurationError: no algorithm has this name.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        known = ", ".join(ALGORITHMS)
        raise ConfigurationError(f"algorithm {name!r} is unknown; known: {known}") from None
