"""What simulated agents may inject in a window: `mechanisms.evidence.influence` for all at once."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.mechanisms.evidence.influence import Around, Limit, Reach, kept_shares, lengths
from candor.topologies.cluster.file import Cluster

Floats = NDArray[np.float64]

PREFIX: Final = "influence."  # of what is saved


class Bounding:
    """The sums and bounds that all agents stated last, carried on from a saved state.

    Args:
        cluster: the run.
        limit: its bound.
        size: k, how many values a sketch has.
        kept: what `state` gave; nothing before round 1.
    """

    def __init__(
        self, cluster: Cluster, limit: Limit, size: int, kept: Mapping[str, Tensor]
    ) -> None:
        self._cluster = cluster
        self._limit = limit
        agents = len(cluster.ids)
        self._totals: Floats = np.zeros((agents, size))
        self._bounds: Floats = np.full(agents, np.inf)
        self._most: Floats = np.full(agents, np.inf)
        if kept:
            self._totals = kept[f"{PREFIX}totals"].numpy()
            self._bounds = kept[f"{PREFIX}bounds"].numpy()
            self._most = kept[f"{PREFIX}most"].numpy()

    def state(self) -> dict[str, Tensor]:
        """All that it takes to go on, by name."""
        held = {"totals": self._totals, "bounds": self._bounds, "most": self._most}
        return {f"{PREFIX}{name}": torch.from_numpy(array) for name, array in held.items()}

    def opens(self, t: int) -> bool:
        """Whether round t is the first of its window."""
        return self._limit.place(t) == 1

    def kept(self, t: int, moved: Floats) -> Floats:
        """Which share (agents,) of their sums agents keep who want to inject `moved` (agents, k) in
        round t, times their step sizes."""
        if t > 1:
            self._bounds, self._most = self._due(t)
        self._before = np.zeros_like(moved) if self.opens(t) else self._totals
        return kept_shares(lengths(self._before + moved), self._bounds)

    def injected(self, moved: Floats) -> None:
        """What all injected then (agents, k), times their step sizes."""
        self._totals = self._before + moved

    def _due(self, t: int) -> tuple[Floats, Floats]:
        """The bounds (agents,) of round t, and the most that they may become."""
        cluster = self._cluster
        with np.errstate(all="ignore"):  # of a diverged run lengths are not finite
            found = lengths(self._totals)
        columns = (found.tolist(), self._bounds.tolist(), self._most.tolist())
        said = [Reach(*one) for one in zip(*columns, strict=True)]
        taken = cluster.round_weights.of(t - 1).taken
        due = []
        for place, agent in enumerate(cluster.ids):
            heard = [said[cluster.index(k)] for k in taken[agent]]
            due.append(self._limit.bounds(t, Around(said[place], heard, len(heard))))
        bounds, most = np.array(due).T
        return bounds, most
