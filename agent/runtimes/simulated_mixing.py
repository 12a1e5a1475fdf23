"""Mixing as sparse matrix products: the weights of a round over all agents at once."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from topologies.cluster import Cluster
from topologies.weights import own_weight

Floats = NDArray[np.float64]

CACHED_ROUNDS: Final = 64  # as many as `RoundWeights` keeps; a matrix of 10,000 agents takes 1 MB


@dataclass(frozen=True, slots=True)
class RoundMixing:
    """One round: the matrix (agents, agents) in binary64 for evidence and in float32 for models,
    and by what the steps are divided, (agents, 1)."""

    exact: "sparse.csr_array"
    rounded: "sparse.csr_array"
    placed: Tensor | None  # `rounded` on the accelerator, where there is one
    mass: Floats

    def models(self, y: Tensor) -> Tensor:
        """The models y (agents, dim) mixed, each sum in ascending order of rows."""
        if self.placed is None:
            # scipy's product took a quarter of the time of torch's on a processor.
            return torch.from_numpy(self.rounded @ y.numpy())
        return self.placed @ y

    def sketches(self, stated: Floats) -> Floats:
        """The sketches (agents, k) of the mixed models."""
        mixed: Floats = self.exact @ stated
        return mixed


class Mixing:
    """The mixing of every round of a run, rows in the order of the cluster file."""

    def __init__(self, cluster: Cluster, device: torch.device) -> None:
        self._cluster = cluster
        self._device = device
        self._cached = lru_cache(CACHED_ROUNDS)(self._round)

    def of(self, t: int) -> RoundMixing:
        """The mixing of round t, from 1."""
        return self._cached(self._cluster.round_weights.same_as(t))

    def _round(self, t: int) -> RoundMixing:
        cluster = self._cluster
        weights = cluster.round_weights.of(t)
        exact = sparse_rows(cluster, t)
        rounded = exact.astype(np.float32)
        placed = None if self._device.type == "cpu" else torch_rows(rounded, self._device)
        mass = np.array([[weights.mass[agent]] for agent in cluster.ids])
        return RoundMixing(exact, rounded, placed, mass)


def sparse_rows(cluster: Cluster, t: int) -> "sparse.csr_array":
    """`Cluster.mixing_matrix` of round t without the zeros, columns in ascending order."""
    taken = cluster.round_weights.of(t).taken
    columns: list[int] = []
    values: list[float] = []
    ends = [0]
    for i, taker in enumerate(cluster.ids):
        row = taken[taker]
        entries = [(cluster.index(giver), weight) for giver, weight in row.items()]
        entries.append((i, own_weight(row)))
        entries.sort()
        columns.extend(column for column, _ in entries)
        values.extend(weight for _, weight in entries)
        ends.append(len(columns))
    count = len(cluster.ids)
    return sparse.csr_array((np.array(values), np.array(columns), np.array(ends)), (count, count))


def torch_rows(matrix: "sparse.csr_array", device: torch.device) -> Tensor:
    """The same matrix as a sparse tensor on a device."""
    with warnings.catch_warnings():
        # It says that sparse tensors in this form are "in beta state", in every process once.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=True,
            device=device,
        )
