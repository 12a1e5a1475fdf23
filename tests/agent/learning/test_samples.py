"""Samples of rows: who shares a shard shares them, and what is wrong with one names its row."""

import numpy as np
import pytest
import torch

from candor.agent.learning.samples import Samples
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.topologies.specs.specs import ConfigurationError


def samples(*rows: int) -> Samples:
    shards = [Shard(row, 5, "iid") for row in rows]
    return Samples(resolve_task("digits"), shards, 0, torch.device("cpu"))


def test_rows_of_one_shard_draw_alike_and_are_held_once() -> None:
    once, twice = samples(0, 1), samples(0, 1, 1, 0)
    assert len(once.data[0]) == len(twice.data[0])
    for t in (1, 2):
        drawn, again = once.draw(t, 2, 4), twice.draw(t, 2, 4)
        assert torch.equal(again, drawn[:, [0, 1, 1, 0]])
    for row, of in enumerate((0, 1, 1, 0)):
        assert all(map(torch.equal, twice.of(row), once.of(of)))


def test_a_sample_that_is_wrong_is_told_with_its_row() -> None:
    held = samples(2, 0, 2)
    wrong = int(held.offsets[1]) + 3

    def loss(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        there = (batch[0] == held.data[0][wrong]).flatten(1).all(dim=1).any()
        return torch.tensor(np.inf if there else 1.0)

    with pytest.raises(ConfigurationError, match=r"on sample 3 of agent b, in round 1"):
        held.check(loss, 100, 4, ["a", "b", "c"])
