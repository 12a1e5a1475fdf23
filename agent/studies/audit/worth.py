"""What cooperation is worth to each agent, and whether more training would be worth it to all.

An agent's worth is what it reaches alone minus what it reaches with the network, in loss on samples
of its own that nobody trained on: its unit, of which payments and gains are shares. Who is worth
(nearly) nothing by it has no unit. Arithmetic alone: nothing is run here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.studies.audit.incentives import Floats

LEAST: Final = 0.05
"""Of what cooperation is usually worth: who gains less has no unit, as shares of what is within the
noise of some held-out samples say nothing."""
PARTS: Final = 3  # of agents by size, degree or classes
HELPED: Final = 0.75  # of all agents: so many that more training is said to help


def reached(losses: Floats, spent: Floats | float = 0.0) -> Floats:
    """The least of losses (points, agents) on an agent's way, with what was `spent` on computing
    until then, in the same unit: (agents,). inf where none is a number."""
    return np.asarray(np.where(np.isnan(losses), np.inf, losses + spent).min(axis=0))


@dataclass(frozen=True, slots=True)
class Worth:
    """What honest training in the network is worth to each agent, `by_agent` (seeds, agents) in
    units of loss."""

    by_agent: Floats

    @property
    def usual(self) -> float:
        """The mean over those to whom it is worth anything; 0 if there are none."""
        gained = self.by_agent[self.by_agent > 0]
        return float(gained.mean()) if len(gained) else 0.0

    @property
    def has_unit(self) -> NDArray[np.bool_]:
        """Which of them have a unit of their own: (seeds, agents)."""
        return np.asarray(self.by_agent > LEAST * self.usual)

    @property
    def units(self) -> Floats:
        """By what each one's amounts are divided, (seeds, agents): its own worth, and the usual one
        where that is no unit."""
        return np.where(self.has_unit, self.by_agent, self.usual)

    def unit_of(self, rows: Sequence[int]) -> tuple[float, bool]:
        """The unit of some agents together, means over the seeds; and whether it is their own."""
        own = float(self.by_agent[:, list(rows)].mean())
        return (own, True) if own > LEAST * self.usual else (self.usual, False)


@dataclass(frozen=True, slots=True)
class More:
    """What all gain when everyone trains more, such as with twice the step: `gains` (seeds, agents)
    as shares of the usual worth; -inf where the run diverged."""

    what: str
    gains: Floats

    @property
    def helped(self) -> float:
        """The share of agents that it helps."""
        return float((self.gains > 0).mean())

    @property
    def mean(self) -> float:
        """What it is worth in the mean."""
        return float(self.gains.mean())

    def helps(self, epsilon: float) -> bool:
        """Whether it helps nearly all, by more than epsilon in the mean."""
        return self.helped >= HELPED and self.mean > epsilon


def quantiles(shares: Floats) -> tuple[float, float, float]:
    """The median, the 98th percentile and the largest of some; nan of none."""
    if not len(shares):
        return (float("nan"),) * 3
    median, high, most = np.percentile(shares, [50, 98, 100])
    return float(median), float(high), float(most)


def groups(values: NDArray[np.float64]) -> list[tuple[float, float, NDArray[np.bool_]]]:
    """Samples by a value (samples,), in three parts of about as many at most, equal values in one:
    the least and the largest value of each part, and whose it is, ascending."""
    distinct = np.unique(values)
    if len(distinct) <= PARTS:
        cuts = [np.array([value]) for value in distinct]
    else:
        ordered = np.sort(values)
        ends = {float(ordered[len(ordered) * part // PARTS]) for part in range(1, PARTS)}
        part_of = np.searchsorted(sorted(ends), distinct, side="right")
        cuts = [distinct[part_of == part] for part in np.unique(part_of)]
    return [(float(c[0]), float(c[-1]), (values >= c[0]) & (values <= c[-1])) for c in cuts]
