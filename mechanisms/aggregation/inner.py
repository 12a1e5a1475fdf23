"""Inner products of whole vectors, as fast as memory allows and as exact as distances need."""

from typing import Final

import torch
from torch import Tensor

from candor.mechanisms.aggregation.chains import Measures

CHUNK_VALUES: Final = 2**18  # a megabyte of float32: differences stay in a cache
CANCELLED: Final = 1 / 16
"""A squared distance that is so much smaller than the two squared lengths has lost four bits of a
float32's 24 to their difference: it is computed again in binary64."""
ROWS: Final = 8  # of a matrix product: of 15 rows it takes twice as long as of 16
SQUARE_MAX: Final = 1e37  # beyond it squares of float32 may have overflowed


def inner_of(
    vectors: Tensor, own: Tensor, *, origin: bool, measures: Measures = Measures.PAIRS
) -> Tensor:
    """(agents, n, n) float64 on the processor of <x_i - x_0, x_j - x_0>, where x_0 is the own
    vector (agents, dim), the next ones are the `vectors` (agents, neighbours, dim), and with
    `origin` the last one is 0. Not finite on the diagonal for vectors that are not.

    What measures less is given less: only the diagonal, or in its place the squared lengths.
    """
    kind = vectors.dtype
    found = _measured(vectors, own, kind, measures, origin=origin)
    if kind == torch.float64:
        return found
    again = ~_sound(found, measures)
    if bool(again.any()):
        few = (vectors, own) if bool(again.all()) else (vectors[again], own[again])
        found[again] = _measured(*few, torch.float64, measures, origin=origin)
    return found


def _measured(
    vectors: Tensor, own: Tensor, dtype: torch.dtype, measures: Measures, *, origin: bool
) -> Tensor:
    if measures is Measures.PAIRS:
        return _inner(vectors, own, dtype, origin=origin)
    squares = _squares(vectors, None if measures is Measures.ZERO else own, dtype)
    first = torch.zeros(len(own), 1, dtype=torch.float64)
    if measures is Measures.ZERO:
        first = _squares(own[:, None], None, dtype)
    last = torch.zeros(len(own), int(origin), dtype=torch.float64)
    return torch.diag_embed(torch.cat([first, squares, last], dim=1))


def _squares(vectors: Tensor, centre: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(agents, n) of squared distances from the centre (agents, dim), or from 0."""
    total = torch.zeros(vectors.shape[:2], dtype=torch.float64)
    at_once = max(1024, CHUNK_VALUES // max(1, total.numel()))
    for low in range(0, vectors.shape[2], at_once):
        some = vectors[:, :, low : low + at_once].to(dtype)
        if centre is not None:
            some = some - centre[:, None, low : low + at_once].to(dtype)
        total += torch.linalg.vector_norm(some, dim=2).cpu().double().square()
    return total


def _inner(vectors: Tensor, own: Tensor, dtype: torch.dtype, *, origin: bool) -> Tensor:
    agents, neighbours, dim = vectors.shape
    count = neighbours + origin
    found = torch.zeros(agents, 1 + count, 1 + count, dtype=torch.float64)
    if not count:
        return found
    padded = -(-count // ROWS) * ROWS
    at_once = min(dim, max(1024, CHUNK_VALUES // max(1, agents * padded)))
    moved = vectors.new_zeros((agents, padded, at_once), dtype=dtype)
    total = torch.zeros(agents, padded, padded, dtype=torch.float64, device=vectors.device)
    for low in range(0, dim, at_once):
        centre = own[:, low : low + at_once].to(dtype)
        some = moved[:, :, : centre.shape[1]]
        torch.sub(vectors[:, :, low : low + at_once], centre[:, None], out=some[:, :neighbours])
        if origin:
            torch.neg(centre, out=some[:, neighbours])
        total += some @ some.mT
    found[:, 1:, 1:] = total[:, :count, :count].cpu()
    return found


def _sound(inner: Tensor, measures: Measures) -> Tensor:
    """(agents,) whether no distance has lost too many bits, and no square overflowed."""
    lengths = inner.diagonal(dim1=1, dim2=2)
    if measures is not Measures.PAIRS:
        return (lengths < SQUARE_MAX).all(dim=1)
    sums = lengths[:, :, None] + lengths[:, None, :]
    apart = sums - 2 * inner
    itself = torch.eye(inner.shape[1], dtype=torch.bool)
    # False of what is not a number, too.
    return ((apart > CANCELLED * sums) | itself).all(dim=(1, 2)) & (lengths < SQUARE_MAX).all(dim=1)
