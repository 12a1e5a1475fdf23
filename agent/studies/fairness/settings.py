"""How each task of the study is trained: what the paper says, and what its authors' code does."""

from dataclasses import dataclass, replace
from typing import Final

from candor.topologies.specs.specs import ConfigurationError, parse_spec

EPOCHS: Final = 3  # of a round
ROUNDS: Final = 200


@dataclass(frozen=True, slots=True)
class Training:
    """Local training of a task: its spec, samples of an agent on average (None for all there are),
    steps that shrink by `decay` a round, and the norm of updates (the paper's Gamma)."""

    task: str
    samples: int | None
    step_size: float
    decay: float
    batch_size: int
    norm: float
    adam: bool = False


TRAININGS: Final = {
    "mnist": Training("mnist:model=paper", 600, 1e-3, 0.955, 32, 0.5),
    "cifar10": Training("cifar10", 2000, 0.015, 0.977, 128, 0.15),
    "mr": Training("mr", None, 5e-5, 0.977, 128, 1.0, adam=True),
    "sst": Training("sst", None, 1e-4, 0.977, 256, 1.0, adam=True),
    "digits": Training("digits", 100, 0.05, 0.977, 16, 0.3),
}
"""By name. Of MR and SST the paper says neither batches nor decay: those of its code. digits is
not the paper's: for a look at the study in seconds."""


def training_of(task: str) -> Training:
    """How a task is trained: one of the study's by name, or with options of its own.

    Raises:
        ConfigurationError: the study does not have it.
    """
    spec = parse_spec(task)
    if spec.name not in TRAININGS:
        raise ConfigurationError(
            f"--task {task!r} is not in the study; known: {', '.join(TRAININGS)}"
        )
    known = TRAININGS[spec.name]
    return known if task == spec.name else replace(known, task=task)
