"""Mixing as sparse matrix products: the weights of a round over all agents at once."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn.functional import embedding_bag

from candor.agent.algorithms.effects import Heard
from candor.agent.core.terms import codec_of
from candor.agent.learning.chunks import slices
from candor.mechanisms.aggregation.rows import RowRule
from candor.mechanisms.evidence.hidden import check_hidden, far_apart, rounding
from candor.mechanisms.evidence.statements import EvidenceError
from candor.topologies.cluster.file import Cluster
from candor.topologies.schedules.weights import own_weight

Floats = NDArray[np.float64]
V = TypeVar("V")

Apart: TypeAlias = Mapping[int, Mapping[int, V]]
"""What takers were sent that others were not: by row of the taker and of the giver."""

NONE_APART: Final[Apart[Tensor]] = MappingProxyType({})
NO_SKETCHES: Final[Apart[Floats]] = MappingProxyType({})

PAIRED_VALUES: Final = 2**18  # of pairs compared at once: a megabyte stays in the cache
CACHED_ROUNDS: Final = 64  # as many as `RoundWeights` keeps; a matrix of 10,000 agents takes 1 MB


@dataclass(frozen=True, slots=True)
class RoundMixing:
    """One round: the matrix (agents, agents) in binary64 for evidence and in float32 for models,
    and by what the steps are divided, (agents, 1)."""

    exact: "sparse.csr_array"
    rounded: "WeightedRows | OrderedRows"
    mass: Floats
    rank: Sequence[int]  # the agents' places in order of id

    def models(self, y: Tensor, apart: Apart[Tensor] = NONE_APART) -> Tensor:
        """The models y (agents, dim) mixed; those who were sent something of their own mix that."""
        mixed = self.rounded(y)
        for taker, told in apart.items():
            terms = [told.get(k, y[k]) * float(np.float32(w)) for k, w in self._row(taker)]
            mixed[taker] = functools.reduce(torch.add, terms)  # rounded one after the other
        return mixed

    def givers(self) -> list[list[int]]:
        """Whom each agent hears beside itself, in ascending order of rows."""
        return [
            [int(giver) for giver in self.exact.indices[low:high] if giver != agent]
            for agent, (low, high) in enumerate(pairwise(self.exact.indptr))
        ]

    def heard(self, v: Tensor, apart: Apart[Tensor] = NONE_APART) -> Heard:
        """What each agent hears of v (agents, dim): a row of givers each, filled up with itself."""
        rows = self.givers()
        most = max(map(len, rows))
        places = [row + [agent] * (most - len(row)) for agent, row in enumerate(rows)]
        index = torch.tensor(places, dtype=torch.int64, device=v.device)  # (agents, most)
        there = torch.arange(most) < torch.tensor([len(row) for row in rows])[:, None]
        vectors = v[index]
        for taker, told in apart.items():
            for at, giver in enumerate(rows[taker]):
                if giver in told:
                    vectors[taker, at] = told[giver]
        return Heard(vectors, there.to(v.device), v)

    def sketches(self, stated: Floats, apart: Apart[Floats] = NO_SKETCHES) -> Floats:
        """The sketches (agents, k) of the mixed models, or some of their coordinates."""
        mixed: Floats = self.exact @ stated
        for taker, told in apart.items():
            parts = [w * told.get(giver, stated[giver]) for giver, w in self._row(taker)]
            mixed[taker] = np.sum(parts, axis=0)
        return mixed

    def _row(self, taker: int) -> list[tuple[int, float]]:
        """The givers of a row, itself among them, each with its weight, in order of id."""
        low, high = self.exact.indptr[taker : taker + 2]
        columns = self.exact.indices[low:high].tolist()
        row = zip(columns, self.exact.data[low:high].tolist(), strict=True)
        return sorted(row, key=lambda entry: self.rank[entry[0]])


class Mixing:
    """The mixing of every round of a run, rows in the order of the cluster file."""

    def __init__(self, cluster: Cluster, device: torch.device) -> None:
        self._cluster = cluster
        self._device = device
        self._codec = codec_of(cluster)
        places = {agent: place for place, agent in enumerate(sorted(cluster.ids))}
        self._rank = [places[agent] for agent in cluster.ids]
        self._cached = lru_cache(CACHED_ROUNDS)(self._round)

    def of(self, t: int) -> RoundMixing:
        """The mixing of round t, from 1."""
        return self._cached(self._cluster.round_weights.same_as(t))

    def derived(
        self,
        t: int,
        rule: RowRule | None,
        sketches: Floats,
        apart: Apart[Floats] = NO_SKETCHES,
        sent: tuple[NDArray[np.float32], Apart[NDArray[np.float32]]] | None = None,
    ) -> RoundMixing:
        """The mixing of round t by the rows that a rule derives from the sketches (agents, k) of
        what was stated, to each taker; without one by those of the cluster file. Over a network
        nobody hears what is not finite: it is refused. So is what is farther away than its sketch
        says, where the vectors themselves are given: (agents, dim), and in their place what some
        takers were told."""
        far = None if sent is None else self._far(t, sketches, apart, *sent)
        if far is not None and not far:
            sent = None  # nothing is hidden
        if rule is None and sent is None and not apart and np.isfinite(sketches).all():
            return self.of(t)  # the same, and faster
        cluster = self._cluster
        taken = cluster.round_weights.of(t).taken
        rows, missed = {}, False
        for agent in cluster.ids:
            told = apart.get(cluster.index(agent), {})
            places = {k: cluster.index(k) for k in sorted({agent, *taken[agent]})}
            shown = {k: told.get(place, sketches[place]) for k, place in places.items()}
            shown = {k: v for k, v in shown.items() if k == agent or np.isfinite(v).all()}
            if sent is not None:
                given = sent[1].get(cluster.index(agent), {})
                vectors = {k: given.get(places[k], sent[0][places[k]]) for k in shown}
                hides = partial(
                    self._hides, agent, vectors=vectors, sketches=shown, capped=rule is not None
                )
                own = cluster.index(agent)
                looked = {
                    k for k in shown if k != agent and (far is None or (own, places[k]) in far)
                }
                shown = {k: v for k, v in shown.items() if k not in looked or not hides(k)}
            heard = {k: taken[agent][k] for k in shown if k != agent}
            weights = heard | {agent: own_weight(heard)}
            rows[agent] = weights if rule is None else rule(agent, t, weights, shown)
            missed |= len(shown) < len(places)
        if rule is None and not missed:
            return self.of(t)
        return self.ordered(sparse_rows(cluster, rows), t)

    def _far(
        self,
        t: int,
        sketches: Floats,
        apart: Apart[Floats],
        vectors: NDArray[np.float32],
        told: Apart[NDArray[np.float32]],
    ) -> set[tuple[int, int]] | None:
        """Takers and givers of whom the taker needs a closer look at what it was sent, beside what
        the sketches say: none where nothing can be hidden, None where all do."""
        if vectors.shape[1] <= sketches.shape[1]:
            return set()
        if apart or told:
            return None
        exact = self.of(t).exact
        takers, givers = np.repeat(np.arange(len(sketches)), np.diff(exact.indptr)), exact.indices
        found: set[tuple[int, int]] = set()
        for some in slices(len(takers), max(1, PAIRED_VALUES // vectors.shape[1])):
            taker, giver = takers[some], givers[some]
            far = far_apart(vectors[taker], vectors[giver], sketches[taker], sketches[giver])
            found.update(zip(taker[far].tolist(), giver[far].tolist(), strict=True))
        return found

    def ordered(self, exact: "sparse.csr_array", t: int) -> RoundMixing:
        """The mixing of round t by other rows, with sums as a daemon has them."""
        return replace(self._of(exact, t), rounded=OrderedRows.of(exact, self._rank, self._device))

    def _hides(
        self,
        agent: str,
        peer: str,
        vectors: Mapping[str, NDArray[np.float32]],
        sketches: Mapping[str, Floats],
        capped: bool,
    ) -> bool:
        """Whether a peer's vector is farther from the agent's than its sketch says."""
        codec, stated = self._codec, (sketches[agent], sketches[peer])
        dim = len(vectors[agent])
        floor = rounding(codec.relative, codec.absolute, dim, *stated)
        try:
            check_hidden(vectors[agent], vectors[peer], *stated, floor, capped=capped)
        except EvidenceError:
            return True
        return False

    def _round(self, t: int) -> RoundMixing:
        taken = self._cluster.round_weights.of(t).taken
        rows = {agent: dict(row) | {agent: own_weight(row)} for agent, row in taken.items()}
        return self._of(sparse_rows(self._cluster, rows), t)

    def _of(self, exact: "sparse.csr_array", t: int) -> RoundMixing:
        mass = self._cluster.round_weights.of(t).mass
        masses = np.array([[mass[agent]] for agent in self._cluster.ids])
        return RoundMixing(exact, WeightedRows.of(exact, self._device), masses, self._rank)


def apart_by_taker(
    sent: Mapping[int, Tensor], around: Sequence[Sequence[int]]
) -> dict[int, dict[int, Tensor]]:
    """What rows send their neighbours apart, (neighbours, dim) each in order of `around`, by taker
    and giver."""
    found: dict[int, dict[int, Tensor]] = {}
    for giver, vectors in sent.items():
        for taker, vector in zip(around[giver], vectors, strict=True):
            found.setdefault(taker, {})[giver] = vector
    return found


def sparse_rows(cluster: Cluster, rows: Mapping[str, Mapping[str, float]]) -> "sparse.csr_array":
    """Mixing rows by agent as a matrix (agents, agents), columns in ascending order."""
    columns: list[int] = []
    values: list[float] = []
    ends = [0]
    for agent in cluster.ids:
        entries = sorted((cluster.index(giver), weight) for giver, weight in rows[agent].items())
        columns.extend(column for column, _ in entries)
        values.extend(weight for _, weight in entries)
        ends.append(len(columns))
    count = len(cluster.ids)
    return sparse.csr_array((np.array(values), np.array(columns), np.array(ends)), (count, count))


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """A sparse matrix (agents, agents) as sums of weighted rows: a product with it is what is known
    as an embedding bag. It takes half the time of scipy's product, an eighth of torch's own, and
    threads and accelerators."""

    columns: Tensor  # (entries,) int64, row after row
    bounds: Tensor  # (agents + 1,) int64, of each row's entries
    weights: Tensor  # (entries,) float32

    @classmethod
    def of(cls, matrix: "sparse.csr_array", device: torch.device) -> "WeightedRows":
        """The matrix rounded to float32, on a device."""
        arrays = (
            matrix.indices.astype(np.int64),
            matrix.indptr.astype(np.int64),
            matrix.data.astype(np.float32),
        )
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def __call__(self, y: Tensor) -> Tensor:
        """The product with y (agents, dim), each sum in ascending order of columns."""
        return embedding_bag(
            self.columns,
            y,
            self.bounds,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )


@dataclass(frozen=True, slots=True)
class OrderedRows:
    """The same sums to the last bit as a daemon has them: each product is rounded before it is
    added, one after the other. Rows that follow from what was sent are summed like this, at the
    price of passes over all models: the next round's rows follow from these sums."""

    columns: Tensor  # (agents, most) int64, each row's in order of id, then others
    weights: Tensor  # (agents, most) float32, 0 behind a row's own

    @classmethod
    def of(
        cls, matrix: "sparse.csr_array", rank: Sequence[int], device: torch.device
    ) -> "OrderedRows":
        """The matrix rounded to float32, on a device; `rank`: of the agents in order of id."""
        lengths = np.diff(matrix.indptr)
        columns = np.zeros((len(lengths), int(lengths.max())), np.int64)
        weights = np.zeros(columns.shape, np.float32)
        there = np.arange(columns.shape[1]) < lengths[:, None]
        columns[there], weights[there] = matrix.indices, matrix.data
        ranks = np.where(there, np.array(rank)[columns], len(rank))  # what is filled up goes last
        order = np.argsort(ranks, axis=1, kind="stable")
        columns = np.take_along_axis(columns, order, axis=1)
        weights = np.take_along_axis(weights, order, axis=1)
        return cls(torch.from_numpy(columns).to(device), torch.from_numpy(weights).to(device))

    def __call__(self, y: Tensor) -> Tensor:
        """The product with y (agents, dim)."""
        first, *others = range(self.columns.shape[1])
        out = y[self.columns[:, first]] * self.weights[:, first, None]
        for place in others:
            out += y[self.columns[:, place]] * self.weights[:, place, None]
        return out
