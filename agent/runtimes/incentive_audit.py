"""Does any lie pay? Honest and deviating runs on the same seeds, judged by reward and payments.

One agent deviates, all others are honest. Learning does not depend on payments, so each pair of
runs is simulated once and billed afterwards, at any price: a price is a factor on all terms of the
run's rule. Rewards are losses saved: the agent's own mean training loss, batch by batch the same in
both runs, or that against the competitors' (`mechanisms.incentives.competitive`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from agent.runtimes.vectorised import VectorisedResult, run_vectorised, settle
from mechanisms.credits import MICRO
from mechanisms.incentives import Deviation, PriceWindow, competitive, price_window
from mechanisms.payments import parse_rule
from topologies.cluster import Cluster
from topologies.specs import ConfigurationError

Floats = NDArray[np.float64]

STRATEGIES: Final = (
    "scale:0.5",
    "scale:1.5",
    "scale:2",
    "scale:4",
    "scale:0",
    "scale:-1",
    "noise:0.5",
    "noise:2",
    "random-direction",
    "alternating-flip",
    "stale-copy",
    "conform:0.5",
)
LAST_SHARE: Final = 0.1  # of the rounds, over whose losses the reward is averaged


@dataclass(frozen=True, slots=True)
class Played:
    """One run: `losses` (rounds, agents), and what each agent paid, net, in credits: (agents,)."""

    losses: Floats
    paid: Floats


@dataclass(frozen=True, slots=True)
class Judged:
    """A strategy against honesty: its deviation, and what it had gained by each round.

    `cumulative` (seeds, rounds): the sum of the rewards of all rounds so far, less that of the
    honest run, before payments.
    """

    deviation: Deviation
    cumulative: Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit at factor `price` on the rule, None where no price makes honesty the best response.

    `scale`: the honest reward, what the agent's own loss fell by (units of loss); `honest_paid`
    (runs x agents,): what honest agents among themselves pay, net, in credits at factor 1.
    """

    agent: str
    judged: tuple[Judged, ...]
    epsilon: float
    scale: float
    window: PriceWindow
    price: float | None
    honest_paid: Floats

    def gains(self, strategy: str) -> Floats:
        """Net gains of a strategy at the price, by seed; without payments where there is none."""
        (one,) = (j.deviation for j in self.judged if j.deviation.strategy == strategy)
        return one.net(self.price or 0.0)

    def profitable(self) -> list[str]:
        """The strategies whose mean net gain exceeds epsilon, the best first."""
        means = {
            j.deviation.strategy: float(self.gains(j.deviation.strategy).mean())
            for j in self.judged
        }
        found = [strategy for strategy, mean in means.items() if mean > self.epsilon]
        return sorted(found, key=lambda strategy: -means[strategy])


def audit(
    clusters: Sequence[Cluster],
    strategies: Sequence[str],
    *,
    agent: str | None = None,
    weight: float = 0.0,
    epsilon: float = 0.01,
    price: float | None = None,
    data_root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Verdict:
    """Judge strategies on runs that differ in their seeds alone.

    Args:
        clusters: one a seed; their rule is billed at factor 1.
        strategies: specs.
        agent: who deviates; the first one if not said.
        weight: of the competitors' losses in the reward, 0 for who minds its own.
        epsilon: gains up to this share of the honest reward are let pass.
        price: factor on the rule; None for the one that the window suggests.
        data_root: where the task finds its data.
        jobs: processes.
        progress: told of runs done and runs in all.

    Raises:
        ConfigurationError: a strategy, the task or the rule cannot be used.
    """
    liar = agent or clusters[0].ids[0]
    index = clusters[0].index(liar)
    asked = [(cluster, "honest") for cluster in clusters]
    asked += [(cluster, strategy) for strategy in strategies for cluster in clusters]
    played: list[Played] = []
    with _workers(jobs) as mapped:
        for run in mapped(partial(_play, liar, data_root), asked):
            played.append(run)
            progress(len(played), len(asked))
    seeds = len(clusters)
    honest = played[:seeds]
    judged = tuple(
        _judge(strategy, honest, played[seeds * (1 + at) : seeds * (2 + at)], index, weight)
        for at, strategy in enumerate(strategies)
    )
    scale = float(np.mean([run.losses[0, index] - _last(run.losses)[index] for run in honest]))
    if not scale > 0:
        raise ConfigurationError(
            "honest agents learn nothing in these rounds, so there is nothing to gain or to lose; "
            "give more --rounds or another --step-size"
        )
    window = price_window((one.deviation for one in judged), epsilon * scale)
    factor = window.suggested() if price is None else price
    paid = np.concatenate([run.paid for run in honest])
    return Verdict(liar, judged, epsilon * scale, scale, window, factor, paid)


def _play(agent: str, data_root: Path | None, asked: tuple[Cluster, str]) -> Played:
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    cluster, strategy = asked
    lies = {} if strategy == "honest" else {agent: strategy}
    try:
        result = run_vectorised(cluster, lies, data_root)
        return Played(result.losses, _paid(cluster, result))
    except ConfigurationError as exc:
        if "diverged" not in str(exc):
            raise
        # Whoever ruins the model has nothing to gain, whatever it costs.
        shape = (cluster.rounds.rounds, len(cluster.ids))
        return Played(np.full(shape, np.inf), np.zeros(len(cluster.ids)))


def _paid(cluster: Cluster, result: VectorisedResult) -> Floats:
    received = settle(cluster, parse_rule(cluster.payments.rule), result.evidence)
    return -np.array([received[agent] for agent in cluster.ids], dtype=np.float64) / MICRO


def _judge(
    strategy: str, honest: Sequence[Played], lying: Sequence[Played], index: int, weight: float
) -> Judged:
    gains, charges, cumulative = [], [], []
    for before, after in zip(honest, lying, strict=True):
        with np.errstate(invalid="ignore"):
            rewards = competitive(after.losses, index, weight) - competitive(
                before.losses, index, weight
            )
        rewards = np.where(np.isfinite(after.losses[:, index]), rewards, -np.inf)
        gains.append(float(_last(rewards)))
        charges.append(after.paid[index] - before.paid[index])
        cumulative.append(np.cumsum(rewards))
    return Judged(Deviation(strategy, np.array(gains), np.array(charges)), np.stack(cumulative))


def _last(values: Floats) -> Floats:
    """The mean of the last rounds of (rounds, ...)."""
    count = max(1, round(LAST_SHARE * len(values)))
    means: Floats = values[-count:].mean(axis=0)
    return means


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[..., Iterator[Played]]]:
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield pool.map
