"""Neighbourhoods of updates that are their own traces, as those of small models are."""

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.payments.band import Neighbourhood

Floats = NDArray[np.float64]


def products(updates: Floats) -> Floats:
    """The inner products (..., W, W) of the rounds of updates (..., W, r)."""
    return np.asarray(updates @ np.swapaxes(updates, -1, -2))


def neighbourhood(
    updates: Floats, referee: int, mask: NDArray[np.bool_] | None = None
) -> Neighbourhood:
    """Of updates (..., m, W, r) in the rounds of a mask (..., m, W)."""
    known = np.ones(updates.shape[:-1], dtype=np.bool_) if mask is None else mask
    held = np.where(known[..., np.newaxis], updates, 0.0)
    energies = (held**2).sum(axis=(-1, -2))
    return Neighbourhood(energies, known, held, products(held), referee)
