"""Inner products of whole vectors, as fast as memory allows and as exact as distances need."""

from typing import Final

import torch
from torch import Tensor

CHUNK_VALUES: Final = 2**18  # a megabyte of float32: differences stay in a cache
CANCELLED: Final = 1 / 16
"""A squared distance that is so much smaller than the two squared lengths has lost four bits of a
float32's 24 to their difference: it is computed again in binary64."""
SQUARE_MAX: Final = 1e37  # beyond it squares of float32 may have overflowed


def inner_of(vectors: Tensor, own: Tensor, *, origin: bool) -> Tensor:
    """(agents, n, n) float64 on the processor of <x_i - x_0, x_j - x_0>, where x_0 is the own
    vector (agents, dim), the next ones are the `vectors` (agents, neighbours, dim), and with
    `origin` the last one is 0. Not finite in the places of vectors that are not."""
    found = _inner(vectors, own, vectors.dtype, origin=origin)
    if vectors.dtype == torch.float64:
        return found
    again = ~_sound(found)
    if bool(again.any()):
        found[again] = _inner(vectors[again], own[again], torch.float64, origin=origin)
    return found


def _inner(vectors: Tensor, own: Tensor, dtype: torch.dtype, *, origin: bool) -> Tensor:
    agents, neighbours, dim = vectors.shape
    count = neighbours + origin
    found = torch.zeros(agents, 1 + count, 1 + count, dtype=torch.float64)
    if not count:
        return found
    at_once = min(dim, max(1024, CHUNK_VALUES // max(1, agents * count)))
    moved = vectors.new_empty((agents, count, at_once), dtype=dtype)
    total = torch.zeros(agents, count, count, dtype=torch.float64, device=vectors.device)
    for low in range(0, dim, at_once):
        centre = own[:, low : low + at_once].to(dtype)
        some = moved[:, :, : centre.shape[1]]
        torch.sub(vectors[:, :, low : low + at_once], centre[:, None], out=some[:, :neighbours])
        if origin:
            torch.neg(centre, out=some[:, -1])
        total += some @ some.mT
    found[:, 1:, 1:] = total.cpu()
    return found


def _sound(inner: Tensor) -> Tensor:
    """(agents,) whether no distance has lost too many bits, and no square overflowed."""
    lengths = inner.diagonal(dim1=1, dim2=2)
    sums = lengths[:, :, None] + lengths[:, None, :]
    apart = sums - 2 * inner
    itself = torch.eye(inner.shape[1], dtype=torch.bool)
    # False of what is not a number, too.
    return ((apart > CANCELLED * sums) | itself).all(dim=(1, 2)) & (lengths < SQUARE_MAX).all(dim=1)
