"""What an audit asks: which runs, who lies in them, and what an agent wants."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.algorithms.catalogue import rewards_of
from candor.agent.learning.rows import shards_of
from candor.agent.tasks import resolve_task
from candor.agent.tasks.held_out import with_held_out
from candor.mechanisms.payments.bills import parse_rule
from candor.mechanisms.payments.credits import MICRO
from candor.mechanisms.strategies.specs import names_in
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

HONEST: Final = "honest"
TERMS: Final = "scaled:1 + variance:1 + excess:1 + originality:1 + persistence:1"
"""What prices are fitted of where no rule is given: the default has fewer."""
PRICE_MAX: Final = 1e12
MARKS_MAX: Final = 32  # rounds after which losses and payments are looked at
HELD_OUT: Final = 0.25
"""The share of everyone's samples that nobody trains on, where cooperation is what counts."""
FINE_TUNE: Final = 50  # steps: a few passes over a shard of some hundred samples
TUNINGS: Final = 4  # parts of fine-tuning, after each of which models are looked at
MORE: Final = {
    "twice the step": ("algorithm", "step_size"),
    "twice the rounds": ("rounds", "rounds"),
}
"""What all may do with more training, to tell what a lie gains from what a larger step would."""


class Reward(StrEnum):
    """What an agent wants: `cooperation` is the loss on held-out samples of its own, less than it
    would reach alone; `training` that on the samples that it trains on, less than untrained."""

    COOPERATION = "cooperation"
    TRAINING = "training"


class Kind(StrEnum):
    """How a run is performed: with payments, without any, or each agent alone."""

    BILLED = "billed"
    LEARNING = "learning"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: runs that differ in their seeds alone, who lies, each of `agents` in turn,
    what it wants.

    `fine_tune`: steps that each may train on locally in the end; `cost` of a step, in units of
    loss; `weight` of the competitors' losses in the reward, 0 for who minds its own; gains up to
    the share `epsilon` of the honest reward are let pass; `factor` times the rule's own prices,
    None for prices that are to be found. `audit_rate`: with which chance the picked round of a
    window is done again, where the clusters keep rounds.
    """

    clusters: Sequence[Cluster]
    agents: tuple[str, ...]
    reward: Reward = Reward.COOPERATION
    fine_tune: int = 0
    cost: float = 0.0
    weight: float = 0.0
    epsilon: float = 0.01
    factor: float | None = None
    data_root: Path | None = None
    initial: Path | None = None
    audit_rate: float = 1.0

    def liars(self, strategy: str, agent: str) -> tuple[str, ...]:
        """Who deviates where this one does: colluders are two, the agent and its first
        neighbour."""
        if "colluding" not in names_in(strategy):
            return (agent,)
        return (agent, self.clusters[0].neighbours(agent)[0])

    @property
    def replayed(self) -> bool:
        """Whether rounds are done again, so that a false report may cost a bond."""
        return self.clusters[0].payments.replay is True

    @property
    def bond(self) -> float | None:
        """What a false report that is found costs, in credits; None for one that is to be found."""
        stated = self.clusters[0].payments.bond
        return None if stated is None else stated / MICRO

    @property
    def held_out(self) -> float:
        """The share of everyone's samples that nobody trains on."""
        return HELD_OUT if self.reward is Reward.COOPERATION else 0.0

    @property
    def checkpoints(self) -> list[int]:
        """After how many steps of fine-tuning models are looked at, from 0 on."""
        if self.reward is Reward.TRAINING:
            return []
        return sorted({round(self.fine_tune * part / TUNINGS) for part in range(TUNINGS + 1)})


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a question: who lies, and how."""

    cluster: Cluster
    strategy: str = HONEST
    liars: tuple[str, ...] = ()
    kind: Kind = Kind.BILLED


def check(question: Question) -> None:
    """See that there is something to audit.

    Raises:
        ConfigurationError: there is not, there is no such agent, the price is too high, or the task
            has no samples to hold out.
    """
    first = question.clusters[0]
    if first.payments.rule == "none":
        raise ConfigurationError(
            "--rule none has no prices to audit; leave it out, with --price 0 for free gains alone"
        )
    terms = parse_rule(first.payments.rule).terms
    highest = (question.factor or 0.0) * max(term.price for term in terms)
    if highest > PRICE_MAX:
        raise ConfigurationError(
            f"--price {question.factor}: makes a price of {highest:.3g} credits; at most "
            f"{PRICE_MAX:.0e}"
        )
    if len(first.ids) < 2:
        raise ConfigurationError("--agents: who is alone has nobody to lie to; give two or more")
    for agent in question.agents:
        if agent not in first.ids:
            raise ConfigurationError(f"--agent {agent}: no such agent")
    task = resolve_task(first.task.name, question.data_root)
    with_held_out(task, shards_of(first, question.held_out))


def factor_of(price: str) -> float | None:
    """What `--price` says: None for `auto`, else a factor.

    Raises:
        ConfigurationError: it is neither.
    """
    if price == "auto":
        return None
    try:
        value = float(price)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ConfigurationError(f"--price {price!r}: write auto, or a number from 0 on")
    return value


def rewarded(cluster: Cluster) -> bool:
    """Whether neighbours give each other what ratings earn, so that lies may cost model quality."""
    return rewards_of(cluster) is not None


def marks_of(cluster: Cluster) -> NDArray[np.int64]:
    """0, ends of windows about evenly spread, and the last round."""
    rounds, window = cluster.rounds.rounds, cluster.payments.window
    every = window * math.ceil(rounds / window / MARKS_MAX)
    return np.array([*range(0, rounds, every), rounds])


def doubled(cluster: Cluster, section: str, setting: str) -> Cluster:
    """The run with a number of its settings doubled: a new one, with what follows from it."""
    settings = getattr(cluster, section)
    twice = settings.model_copy(update={setting: 2 * getattr(settings, setting)})
    stated = {name: getattr(cluster, name) for name in type(cluster).model_fields}
    return Cluster(**{**stated, section: twice})
