"""From contributions to rewards: reputations, and which part of an update each of them earns.

Cosine gradient Shapley values (CGSV: Xu et al., NeurIPS 2021) and the reputation mechanism before
it (RFFL: Xu & Lyu, ICML workshop on federated learning 2021). Batch-first: contributions,
reputations and shares are (..., agents).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Share: TypeAlias = float | Floats  # from 0 to 1; several are shares of the same update

FLOOR: Final = 1e-3  # of a reputation: who is down may come up again


@dataclass(frozen=True, slots=True)
class Reputation:
    """How contributions are remembered: r <- alpha r + (1 - alpha) psi, then normalised (equation
    4), every one at least `floor` before that; 0 for none, as in RFFL."""

    alpha: float = 0.95
    floor: float = FLOOR

    def after(self, before: Floats, contributions: Floats) -> Floats:
        """Reputations (..., agents) after a round; those before add up to one."""
        moved = self.alpha * before + (1.0 - self.alpha) * contributions
        return normalised(np.maximum(moved, self.floor) if self.floor else moved)


def normalised(reputations: Floats) -> Floats:
    """Divided by their sum; equal ones where there is none to divide by."""
    whole = reputations.sum(axis=-1, keepdims=True)
    equal = np.full_like(reputations, 1.0 / reputations.shape[-1])
    found: Floats = np.where(whole > 0.0, reputations / np.where(whole > 0.0, whole, 1.0), equal)
    return found


def shares(reputations: Floats, beta: float) -> Floats:
    """Which part of an update each earns: tanh(beta r) / max tanh(beta r) (equation 5); infinite
    `beta` gives all of it to all. Reputations below zero earn nothing."""
    there = reputations > 0.0  # infinitely much of nothing is nothing
    return _of_the_best(np.tanh(beta * np.where(there, reputations, 1.0)) * there)


def linear_shares(reputations: Floats) -> Floats:
    """r / max r, as RFFL has it."""
    return _of_the_best(np.maximum(reputations, 0.0))


def _of_the_best(worth: Floats) -> Floats:
    best = worth.max(axis=-1, keepdims=True)
    found: Floats = np.where(best > 0.0, worth / np.where(best > 0.0, best, 1.0), 1.0)
    return found


def excluded(reputations: Floats, members: Mask) -> Mask:
    """Whom RFFL drops of the `members` (..., agents) that are left: those whose reputation is below
    a third of an equal one, 1 / (3 |R|)."""
    left = members.sum(axis=-1, keepdims=True)
    found: Mask = members & (reputations < 1.0 / (3.0 * np.maximum(left, 1)))
    return found


def global_mask(update: NDArray[np.floating], share: Share) -> Mask:
    """Which coordinates of an update (dim,) a share of it keeps: the largest floor(share dim) in
    magnitude, over the whole vector (the paper's equation 5); of equal ones the first. Of several
    shares (...,): (..., dim)."""
    return _largest(update, np.floor(np.asarray(share) * update.size))


def tensor_mask(update: NDArray[np.floating], share: Share, sizes: Sequence[int]) -> Mask:
    """The same tensor by tensor, of `sizes` in order: ceil(share n) of each n, though n - 1 at most
    where the share is below one, as the paper's public code has it."""
    wanted, low = np.asarray(share, np.float64), 0
    found = np.zeros((*wanted.shape, update.size), bool)
    for size in sizes:
        kept = np.where(wanted >= 1.0, size, np.minimum(np.ceil(wanted * size), size - 1))
        found[..., low : low + size] = _largest(update[low : low + size], kept)
        low += size
    return found


def _largest(values: NDArray[np.floating], counts: Floats) -> Mask:
    """The largest `counts` (...,) of values (size,): (..., size)."""
    ranks = np.empty(values.size)
    ranks[np.argsort(-np.abs(values), kind="stable")] = np.arange(values.size)
    found: Mask = ranks < counts[..., None]
    return found
