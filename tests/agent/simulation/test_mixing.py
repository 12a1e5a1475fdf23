"""Sparse mixing is the dense matrix of the cluster file, on every schedule and device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from candor.agent.simulation.mixing import Mixing
from tests.runs import write_cluster

TOPOLOGIES = [
    "ring",
    "one-peer-exponential",
    "failing:base=complete,p=0.3",
    "directed-random:degree=2",
]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_sparse_rows_are_the_dense_matrix(topology: str, tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path, topology)
    mixing = Mixing(cluster, torch.device("cpu"))
    y = torch.linspace(-1, 1, 7 * len(cluster.ids)).view(len(cluster.ids), 7)
    for t in (1, 2, 3, 7):
        dense = cluster.mixing_matrix(t)
        one = mixing.of(t)
        assert (one.exact.toarray() == dense).all()
        expected = torch.from_numpy(dense).float() @ y
        torch.testing.assert_close(one.models(y), expected, rtol=1e-6, atol=1e-6)
        sketches = y.numpy().astype(np.float64)
        np.testing.assert_allclose(one.sketches(sketches), dense @ sketches, rtol=1e-12, atol=1e-15)
        mass = cluster.round_weights.of(t).mass
        assert one.mass[:, 0].tolist() == [mass[agent] for agent in cluster.ids]


def test_rounds_that_recur_are_built_once(tmp_path: Path) -> None:
    static = Mixing(write_cluster(tmp_path, "ring"), torch.device("cpu"))
    assert static.of(1) is static.of(900)


def test_a_row_that_is_not_finite_reaches_its_neighbours_alone(tmp_path: Path) -> None:
    """A dense product would multiply it with the zeros of everybody else."""
    cluster = write_cluster(tmp_path, "ring")
    y = torch.zeros(len(cluster.ids), 2)
    y[0] = torch.inf
    mixed = Mixing(cluster, torch.device("cpu")).of(1).models(y)
    near = {cluster.ids[0], *cluster.neighbours(cluster.ids[0])}
    finite = torch.isfinite(mixed).all(dim=1).tolist()
    assert {agent for agent, ok in zip(cluster.ids, finite, strict=True) if not ok} == near
