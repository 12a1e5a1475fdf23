"""Aggregators: one vector of those that an agent and its neighbours sent, batch-first.

All take vectors (..., neighbours, dim), which of them are there (..., neighbours) bool, and the
agents' own (..., dim), which always are, and give (..., dim).
"""

from collections.abc import Callable

import torch
from torch import Tensor


def tolerant(
    rule: Callable[[Tensor, Tensor, Tensor, int], Tensor], byzantine: int, least: int
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A rule that is to withstand so many, for agents some of which may have heard too few: those
    keep their own vector."""

    def combine(vectors: Tensor, present: Tensor, own: Tensor) -> Tensor:
        enough = present.sum(dim=-1) + 1 >= least  # (...)
        return torch.where(enough[..., None], rule(vectors, present, own, byzantine), own)

    return combine


def coordinate_median(
    vectors: Tensor,
    present: Tensor,
    own: Tensor,
    byzantine: int = 0,  # noqa: ARG001
) -> Tensor:
    """The median of each coordinate over those that are there and the own; of an even number the
    mean of the middle two (Yin et al., ICML 2018, definition 1).

    >>> coordinate_median(torch.tensor([[1.0], [9.0]]), torch.tensor([True, True]), torch.zeros(1))
    tensor([1.])
    """
    absent = ~present.unsqueeze(-1)
    held = vectors.masked_fill(absent, torch.inf)  # sorted behind those that are there
    ordered = torch.cat([held, own.unsqueeze(-2)], dim=-2).sort(dim=-2).values
    count = present.sum(dim=-1) + 1  # (...)
    index = [((count - 1) // 2), (count // 2)]
    low, high = (
        ordered.gather(-2, i[..., None, None].expand(*own.shape[:-1], 1, own.shape[-1]))
        for i in index
    )
    return ((low + high) / 2).squeeze(-2)
