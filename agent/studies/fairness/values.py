"""How near the paper's approximation comes to cosine gradient Shapley values, beside sampling.

The experiment of its figure 1: vectors drawn from a standard normal distribution, all of one
weight. Errors are of values that are divided by their sum, as reputations are.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from candor.agent.studies.fairness.figures import Verdict
from candor.mechanisms.rewards.allocation import normalised
from candor.mechanisms.rewards.contribution import (
    Floats,
    cosine,
    exact,
    inner_products,
    permutations_for,
    sampled,
)

AGENTS: Final = 10
DIM: Final = 1024
DRAWS: Final = 10
ERROR, CHANCE = 0.1, 0.1
"""Of the sampled estimate: the paper's."""
L1_MAX: Final = 0.015
PEARSON_MIN: Final = 0.97
FASTER_MIN: Final = 1000.0
PAPER: Final = {"cosine": (0.010, 0.98), "sampled": (0.037, 0.83)}
"""Its l1 errors and correlations with 10 agents and 1,024 dimensions, sampling 8,600 times as slow
as the cosine."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How an estimate did: the sum of absolute errors and the correlation with the exact values,
    both means over draws, and seconds of a processor for one computation from the vectors on, the
    least of all draws: what else the machine does only adds to them."""

    name: str
    l1: float
    pearson: float
    seconds: float


def values(seed: int) -> list[Estimate]:
    """Exact values, the cosine, sampling, in this order."""
    rng = np.random.default_rng(seed)
    permutations = permutations_for(ERROR, CHANCE)
    few = permutations // 16  # enough if marginal worths are from 0 to 1, as those of such vectors
    equal = np.full(AGENTS, 1.0 / AGENTS)
    kinds: dict[str, Callable[[Floats], Floats]] = {
        "exact": lambda inner: exact(inner, equal),
        "cosine": lambda inner: cosine(inner, equal),
        f"sampled, {few:,} permutations": lambda inner: sampled(inner, equal, few, rng),
        f"sampled, {permutations:,} permutations": lambda inner: sampled(
            inner, equal, permutations, rng
        ),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    for _ in range(DRAWS):
        vectors = rng.standard_normal((AGENTS, DIM))
        right = normalised(exact(inner_products(vectors), equal))
        for name, estimate in kinds.items():
            began = time.process_time()
            worths = estimate(inner_products(vectors))
            seconds = time.process_time() - began
            off = normalised(worths)
            pearson = float(np.corrcoef(off, right)[0, 1])
            found[name].append((float(np.abs(off - right).sum()), pearson, seconds))
    return [_estimate(name, np.array(each)) for name, each in found.items()]


def _estimate(name: str, each: Floats) -> Estimate:
    """Of draws (draws, 3)."""
    l1, pearson, _ = each.mean(axis=0).tolist()
    return Estimate(name, l1, pearson, float(each[:, 2].min()))


def rows(estimates: Sequence[Estimate]) -> list[tuple[str, ...]]:
    """A line of `COLUMNS` for each estimate."""
    found: list[tuple[str, ...]] = []
    left = dict(PAPER)
    for one in estimates:
        l1, pearson = left.pop(one.name.partition(",")[0], (math.nan, math.nan))
        shown = [f"{one.l1:.4f}", f"{one.pearson:.3f}"]
        paper = ["–" if math.isnan(value) else f"{value:g}" for value in (l1, pearson)]
        found.append((one.name, paper[0], shown[0], paper[1], shown[1], f"{1e3 * one.seconds:.3g}"))
    return found


COLUMNS: Final = ("value", "#paper\nl1", "#ours\nl1", "#paper\nr", "#ours\nr", "#ms")
NOTE: Final = (
    f"{AGENTS} random vectors of {DIM:,} numbers, means of {DRAWS} draws. l1: the sum of absolute "
    "errors of values that add up to one, less is better; r: their correlation with exact values."
)


def verdicts(estimates: Sequence[Estimate]) -> list[Verdict]:
    """What of it is claimed: the cosine is near, and thousands of times faster than sampling."""
    psi = next(one for one in estimates if one.name == "cosine")
    faster = estimates[-1].seconds / psi.seconds
    return [
        Verdict(f"l1 error of the cosine at most {L1_MAX:g}", f"{psi.l1:.4f}", psi.l1 <= L1_MAX),
        Verdict(
            f"its correlation with exact values at least {PEARSON_MIN:g}",
            f"{psi.pearson:.3f}",
            psi.pearson >= PEARSON_MIN,
        ),
        Verdict(
            f"{estimates[-1].name} take at least {FASTER_MIN:,.0f} times as long",
            f"{faster:,.0f} times",
            faster >= FASTER_MIN,
        ),
    ]
