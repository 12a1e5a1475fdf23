"""Averaging agreement: vectors that a few attackers keep apart come closer, exchange by exchange.

Rules of rows (`mechanisms.aggregation.rows.RowRule`), so that every neighbour recomputes from
signed sketches what an agent takes over. Distances of vectors longer than a sketch are those of
their sketches, within a few percent of the true ones (docs/protocol.md); a diameter below the
tolerance in sketches may then be as much above it in truth, and what is hidden from the sketch is
for the receivers of the payloads to refuse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.aggregation.points import folded
from candor.mechanisms.aggregation.smallest import smallest_subset

Floats = NDArray[np.float64]

AGREEMENT: Final = "agreement"  # how statements name the rules
FIRST: Final = "first"
TOLERANCE: Final = 1e-5
"""The diameter below which agents take themselves to agree (Jordan et al., arXiv 2401.03489,
section 5)."""


def least_to_agree(byzantine: int) -> int:
    """Of how many agents the diameter shrinks whatever so many Byzantine ones send: 4 f + 1.

    Two honest agents choose n - f vectors each. At most f of each choice are Byzantine and as many
    honest ones left out for them; matched with each other, the f pairs of honest ones are within
    the honest diameter D, those of Byzantine ones within 2 D, as each is within D of an honest
    vector in both choices. So the means are within 3 f D / (n - f), below D for n > 4 f.
    """
    return 4 * byzantine + 1


@dataclass
class Averaging:
    """Minimum diameter averaging (MDA) with a local stop rule; the `RowRule` of an exchange.

    Of the n vectors that an agent heard, its own included, the n - f of least diameter are
    averaged (El-Mhamdi et al., NeurIPS 2021, section 4; step "Avg-Agree" of Jordan et al., arXiv
    2401.03489, algorithm 2). Where their diameter, with the agent's own vector added, is below the
    tolerance, the agent keeps its own: exchanges after that carry nothing new, and no oracle must
    tell that all agree. An agent whose own vector is elsewhere takes the mean, as after it was
    away. Fewer than 2 f + 1 vectors have no honest majority among n - f: it keeps its own, too.

    The rule counts those that were heard: a neighbour that is silent is one vector less, of which
    as many are left out as before, so that silence of honest ones gives attackers no place.
    Choices are made in order of id, the same at all who heard the same.
    """

    byzantine: int
    tolerance: float = TOLERANCE
    # The last choice: in a simulation of a complete graph the next agent's is the same.
    _last: tuple[Floats, Floats, list[int]] | None = field(default=None, repr=False, compare=False)

    def __call__(
        self,
        agent: str,
        round_number: int,  # noqa: ARG002
        weights: Mapping[str, float],
        sketches: Mapping[str, Floats],
    ) -> dict[str, float]:
        """Weights of all that were heard; 0 for those that are left out."""
        ids = sorted(weights)
        kept = {k: float(k == agent) for k in ids}
        if len(ids) < 2 * self.byzantine + 1:
            return kept
        apart, chosen = self._chosen(np.stack([sketches[k] for k in ids]))
        with_own = sorted({*chosen, ids.index(agent)})
        if apart[np.ix_(with_own, with_own)].max() < self.tolerance:
            return kept
        return {k: 1.0 / len(chosen) if i in chosen else 0.0 for i, k in enumerate(ids)}

    def _chosen(self, points: Floats) -> tuple[Floats, list[int]]:
        """The distances (n, n) of points (n, k), and which n - f have the least diameter."""
        last = self._last
        if last is not None and np.array_equal(last[0], points):
            return last[1], last[2]
        apart = distances(points)
        chosen = smallest_subset(apart, len(points) - self.byzantine)
        self._last = points, apart, chosen
        return apart, chosen


def first(
    agent: str,  # noqa: ARG001
    round_number: int,  # noqa: ARG001
    weights: Mapping[str, float],
    sketches: Mapping[str, Floats],  # noqa: ARG001
) -> dict[str, float]:
    """All take the vector of the first agent by id, as workers do a server's."""
    chosen = min(weights)
    return {k: float(k == chosen) for k in sorted(weights)}


def distances(points: Floats) -> Floats:
    """Distances (n, n) of points (n, k): of differences, not of products, as those that matter are
    tiny beside the points; squares are `folded`, to the same bits on every machine."""
    count = len(points)
    apart = np.zeros((count, count))
    with np.errstate(all="ignore"):  # a diverged simulation's; over a network all is finite
        for i in range(count - 1):
            squares = np.square(points[i + 1 :] - points[i]).T.copy()  # (k, others)
            apart[i, i + 1 :] = apart[i + 1 :, i] = np.sqrt(folded(squares))
    return apart
