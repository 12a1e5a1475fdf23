"""A task whose shards are of different sizes, and whose minimiser is known for any weights."""

import torch
from torch import Tensor, nn

from candor.agent.tasks.partition import Shard


class Point(nn.Module):
    """A model that is one point."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2))


def samples(index: int) -> int:
    """How many samples the agent of this place has."""
    return 3 + 10 * index


def curvature(index: int) -> float:
    """That of its loss."""
    return 0.5 + 0.25 * index


def target(index: int) -> Tensor:
    """Where its loss is least, (2,)."""
    return torch.tensor([float(index * index % 5), float(-index)])


def minimiser(weights: list[float]) -> Tensor:
    """Where the mean of the losses is least, weighted so, (2,)."""
    pulls = [weight * curvature(i) for i, weight in enumerate(weights)]
    return torch.stack([p * target(i) for i, p in enumerate(pulls)]).sum(dim=0) / sum(pulls)


class Quadratics:
    """Agent i's loss is curvature / 2 |x - target|^2, on each of its samples alike."""

    def build_model(self) -> nn.Module:
        return Point()

    def load_data(self, shard: Shard, seed: int) -> tuple[Tensor, ...]:
        count = samples(shard.index)
        return target(shard.index).expand(count, 2), torch.full((count,), curvature(shard.index))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        targets, curvatures = batch
        return (curvatures / 2 * (model.at - targets).square().sum(dim=-1)).mean()

    def evaluate(self, model: nn.Module) -> float:
        return 0.5
