"""One run of the study: what it is set by, what it came to, and the file in which that is kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from pydantic import TypeAdapter

from candor.agent.studies import kept as files
from candor.agent.studies.fairness.federation import Federation
from candor.agent.studies.fairness.mechanisms import Floats, Premises, method_of
from candor.agent.studies.fairness.settings import Training, training_of

VERSION: Final = 1  # of the files: raised where runs of the same settings come out otherwise
METHOD_DOMAIN: Final = 0x6D657468
DIGITS: Final = 6  # of numbers by round

Table: TypeAlias = tuple[tuple[float, ...], ...]
"""Numbers of agents by round (rounds, agents)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A run: `agents` learn `task` by a method. `corrupted` is the share of wrong labels of each
    agent, or empty; the first `free_riders` upload noise and train nothing."""

    task: str
    partition: str
    agents: int
    method: str
    rounds: int
    seed: int
    corrupted: tuple[float, ...] = ()
    free_riders: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        words = [self.task, self.partition, f"n{self.agents}", self.method, f"t{self.rounds}"]
        if self.corrupted:
            words.append("c" + "_".join(f"{share:g}" for share in self.corrupted))
        if self.free_riders:
            words.append(f"f{self.free_riders}")
        return files.file_name([*words, f"s{self.seed}"])

    @property
    def training(self) -> Training:
        """How its task is trained."""
        return training_of(self.task)

    @property
    def dealt(self) -> str:
        """Its partition with the samples that an agent has in this task."""
        samples = self.training.samples
        return f"{self.partition}:{samples}" if samples else self.partition


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to: test `accuracies` of the agents at its end, how many samples each has; by
    round the training losses, the reputations, the shares of the sum that were given, and how far
    models are from the server's. Seconds: of training, and of what the method does beside it."""

    setting: Setting
    accuracies: tuple[float, ...]
    samples: tuple[int, ...]
    losses: Table
    reputations: Table
    shares: Table
    distances: Table
    training_s: float
    mechanism_s: float

    @property
    def overhead(self) -> float:
        """The time of the method over that of training."""
        return self.mechanism_s / self.training_s


_KEPT: Final = TypeAdapter(Run)


def run(
    setting: Setting,
    data_root: Path | None = None,
    device: str = "cpu",
    told: Callable[[int], None] = lambda _: None,
) -> Run:
    """Perform it; `told` hears of the rounds done.

    Raises:
        ConfigurationError: the task is not usable, or a setting is refused.
    """
    federation = Federation(
        setting.training,
        setting.dealt,
        setting.agents,
        setting.seed,
        dict(enumerate(setting.corrupted)),
        setting.free_riders,
        data_root,
        device,
    )
    mechanism = method_of(setting.method)(
        Premises(
            federation.samples,
            federation.tensors,
            setting.training.norm,
            federation.initial,
            federation.worth,
            np.random.default_rng([setting.seed, METHOD_DOMAIN]),
        ),
    )
    models = np.tile(federation.initial, (setting.agents, 1))
    server = federation.initial.copy()
    losses, reputations, shares, distances = [], [], [], []
    training_s = mechanism_s = 0.0
    with np.errstate(all="ignore"):  # what noise has ruined is not finite, and counts as 0
        for t in range(1, setting.rounds + 1):
            began = time.perf_counter()
            given = federation.trained(models, t)
            between = time.perf_counter()
            rewards = mechanism.rewards(given)
            models += rewards.moves
            ended = time.perf_counter()
            server += rewards.whole
            training_s += between - began
            mechanism_s += ended - between
            losses.append(_row(given.losses))
            reputations.append(_row(rewards.reputations))
            shares.append(_row(rewards.shares))
            distances.append(_row(np.linalg.norm(models - server, axis=1)))
            told(t)
    return Run(
        setting,
        tuple(federation.accuracies(models).tolist()),
        tuple(map(int, federation.samples)),
        tuple(losses),
        tuple(reputations),
        tuple(shares),
        tuple(distances),
        round(training_s, DIGITS),
        round(mechanism_s, DIGITS),
    )


def _row(values: Floats) -> tuple[float, ...]:
    """Numbers to a few digits; what is not finite is what JSON takes for the largest."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in np.nan_to_num(values))


def kept(directory: Path, setting: Setting) -> Run | None:
    """A run that has ended, None if it has not.

    Raises:
        ConfigurationError: its file is damaged.
    """
    return files.read(directory, setting, VERSION, _KEPT, _whole)


def keep(directory: Path, done: Run) -> None:
    """Write a run that has ended."""
    files.write(directory, done.setting, VERSION, done)


def _whole(done: Run) -> bool:
    agents, rounds = done.setting.agents, done.setting.rounds
    tables = (done.losses, done.reputations, done.shares, done.distances)
    return (
        len(done.accuracies) == len(done.samples) == agents
        and all(math.isfinite(one) and 0.0 <= one <= 1.0 for one in done.accuracies)
        and all(len(table) == rounds for table in tables)
        and all(len(row) == agents for table in tables for row in table)
        and min(done.samples) > 0
        and done.training_s > 0.0
        and done.mechanism_s >= 0.0
    )
