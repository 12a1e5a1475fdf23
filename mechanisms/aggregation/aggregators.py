"""Aggregators of whole vectors: one of those that an agent and its neighbours sent, batch-first.

All take vectors (agents, neighbours, dim), which of them are there (agents, neighbours) bool, and
the agents' own (agents, dim), which always are, and give (agents, dim). Vectors that are not finite
count as not there: over a network they are refused before. An agent that heard too few keeps its
own vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.mechanisms.aggregation import coordinates
from candor.mechanisms.aggregation.chains import Chain, Measures, Preaggregator
from candor.mechanisms.aggregation.coordinates import CoordinateRule, by_chunks
from candor.mechanisms.aggregation.inner import inner_of
from candor.mechanisms.aggregation.points import Points

LossesOf: TypeAlias = Callable[[Tensor], Tensor]
"""Losses (agents, vectors) of vectors (agents, vectors, dim), each on its agent's own data."""

COORDINATE_RULES: Final[Mapping[str, CoordinateRule]] = MappingProxyType(
    {
        "median": coordinates.coordinate_median,
        "trimmed-mean": coordinates.trimmed_mean,
        "meamed": coordinates.meamed,
        "bridge": coordinates.bridge,
    }
)
OWN_SHARE: Final = 0.5  # of UBAR: alpha in all experiments of the paper


@dataclass(frozen=True, slots=True)
class Weighted:
    """Weighted sums, whose weights follow from the vectors' exact inner products."""

    chain: Chain

    def __call__(self, vectors: Tensor, present: Tensor, own: Tensor) -> Tensor:
        """See the module."""
        inner = inner_of(
            vectors, own, origin=self.chain.origin, measures=self.chain.measures
        ).numpy()
        rows = np.zeros((len(own), vectors.shape[1] + 1))
        for agent, there in enumerate(_there(inner, present)):
            rows[agent, there] = self._row(inner[agent], there)
        return weighed(rows, vectors, own)

    def _row(self, inner: NDArray[np.float64], there: NDArray[np.int64]) -> NDArray[np.float64]:
        places = np.append(there, len(inner) - 1) if self.chain.origin else there
        # The graph's weights are not known here; alike, as on a complete graph.
        mixing = np.full(len(there), 1.0 / len(there))
        with np.errstate(all="ignore"):
            return self.chain.weights(inner[np.ix_(places, places)], mixing)


@dataclass(frozen=True, slots=True)
class CoordinateWise:
    """A rule of each coordinate by itself, after preaggregators."""

    rule: CoordinateRule
    byzantine: int
    least: int
    before: tuple[Preaggregator, ...] = ()
    origin: bool = False
    measures: Measures = Measures.PAIRS

    def __call__(self, vectors: Tensor, present: Tensor, own: Tensor) -> Tensor:
        """See the module."""
        shares: dict[int, NDArray[np.float64]] = {}
        if self.before:
            inner = inner_of(vectors, own, origin=self.origin, measures=self.measures).numpy()
            heard = _there(inner, present)
            shares = {a: self._shares(inner[a], there) for a, there in enumerate(heard)}
        else:
            sound = present & vectors.isfinite().all(dim=-1)
            heard = [np.append(0, 1 + there.nonzero()[:, 0].cpu().numpy()) for there in sound]
        out = own.clone()
        by_count: dict[int, list[int]] = {}
        for agent, there in enumerate(heard):
            if len(there) >= self.least:
                count = len(shares[agent]) if shares else len(there)
                by_count.setdefault(count, []).append(agent)
        for agents in by_count.values():
            if shares:
                made = [_made(shares[a], heard[a], vectors[a], own[a]) for a in agents]
                points = [torch.stack(each).flatten() for each in zip(*made, strict=True)]
            else:
                points = _rows(vectors, own, agents, np.stack([heard[a] for a in agents]))
            found = by_chunks(self.rule, points, self.byzantine)
            out[agents] = found.view(len(agents), -1)
        return out

    def _shares(self, inner: NDArray[np.float64], there: NDArray[np.int64]) -> NDArray[np.float64]:
        places = np.append(there, len(inner) - 1) if self.origin else there
        points = Points.of(
            inner[np.ix_(places, places)], np.full(len(there), 1.0 / len(there)), origin=self.origin
        )
        if points.count >= self.least:
            with np.errstate(all="ignore"):
                for step in self.before:
                    points = step(points, self.byzantine)
        return points.shares[:, : len(there)]


@dataclass(frozen=True, slots=True)
class LossFiltered:
    """UBAR (Guo et al., IEEE Transactions on Circuits and Systems for Video Technology 2022,
    algorithm 1): of the neighbours' models the n - f nearest to the own one, and of these the ones
    whose loss on the agent's own data of the round is no larger than that of its own model, or if
    there is none the one with the least loss; their mean, half and half with the own model.

    Deliberate difference: the samples are drawn anew in each round, but are not the batch that the
    own model was trained on.
    """

    losses_of: LossesOf
    byzantine: int
    least: int

    def __call__(self, vectors: Tensor, present: Tensor, own: Tensor) -> Tensor:
        """See the module."""
        inner = inner_of(vectors, own, origin=False, measures=Measures.OWN).numpy()
        losses = self.losses_of(torch.cat([own[:, None], vectors], dim=1)).cpu().numpy()
        rows = np.zeros((len(own), vectors.shape[1] + 1))
        for agent, there in enumerate(_there(inner, present)):
            rows[agent, there] = self._row(inner[agent, there, there], losses[agent, there])
        return weighed(rows, vectors, own)

    def _row(
        self, squares: NDArray[np.float64], losses: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        row = np.zeros(len(squares))
        row[0] = 1.0
        if len(squares) < self.least:
            return row
        kept = len(squares) - 1 - self.byzantine
        near = 1 + np.argsort(squares[1:], kind="stable")[:kept]
        found = np.where(np.isfinite(losses[near]), losses[near], np.inf)
        chosen = near[found <= losses[0]] if (found <= losses[0]).any() else near[[found.argmin()]]
        row[0] = OWN_SHARE
        row[chosen] = (1.0 - OWN_SHARE) / len(chosen)
        return row


def coordinate_median(vectors: Tensor, present: Tensor, own: Tensor) -> Tensor:
    """The coordinate median (agents, dim) over those that are there and the own.

    >>> vectors = torch.tensor([[[1.0], [9.0]]])
    >>> coordinate_median(vectors, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 1))
    tensor([[1.]])
    """
    return CoordinateWise(coordinates.coordinate_median, 0, 1)(vectors, present, own)


def _there(inner: NDArray[np.float64], present: Tensor) -> list[NDArray[np.int64]]:
    """By agent the places of the vectors that are there and finite, the own one's, 0, first."""
    lengths = inner.diagonal(axis1=1, axis2=2)[:, 1 : 1 + present.shape[1]]
    sound = present.cpu().numpy() & np.isfinite(lengths)
    return [np.append(0, 1 + np.flatnonzero(each)) for each in sound]


def weighed(rows: NDArray[np.float64], vectors: Tensor, own: Tensor) -> Tensor:
    """The sums (agents, dim) with weights (agents, 1 + neighbours), the own first."""
    weights = torch.from_numpy(rows).to(vectors.device, vectors.dtype)
    some = weights[:, None, 1:]
    found = (some @ vectors)[:, 0].addcmul_(own, weights[:, :1])
    if not bool(found.sum().isfinite()):  # 0 times what is not finite, too, is nothing here
        counted = vectors.masked_fill((weights[:, 1:] == 0)[:, :, None], 0.0)
        found = (some @ counted)[:, 0].addcmul_(own, weights[:, :1])
    return found


def _rows(
    vectors: Tensor, own: Tensor, agents: Sequence[int], heard: NDArray[np.int64]
) -> list[Tensor]:
    """Points (agents x dim,) each: of each of these agents its own, then those it heard (agents,
    count)."""
    if len(agents) == 1:
        return [own[agents[0]], *(vectors[agents[0], place - 1] for place in heard[0, 1:])]
    index = torch.tensor(agents, device=own.device)
    places = torch.from_numpy(heard[:, 1:] - 1).to(own.device)
    return [own[index].flatten(), *(vectors[index, p].flatten() for p in places.T)]


def _made(
    shares: NDArray[np.float64], there: NDArray[np.int64], vectors: Tensor, own: Tensor
) -> Tensor:
    """The points (points, dim) that preaggregators made of an agent's vectors (neighbours, dim)."""
    weights = torch.from_numpy(shares).to(vectors.device, vectors.dtype)
    heard = vectors if len(there) == 1 + len(vectors) else vectors[there[1:] - 1]
    return torch.addmm(torch.outer(weights[:, 0], own), weights[:, 1:], heard)
