"""How much each vector of a group contributes to their sum: the cosine gradient Shapley value.

The worth of a coalition S of vectors u_1, ..., u_n is how well its weighted sum points the way of
all of them,

    nu(S) = cos(u_S, u_N),    u_S = sum over S of r_i u_i,

and an agent's contribution is its Shapley value in this game (Xu et al., NeurIPS 2021, definition
1). No validation data are needed, and the vectors themselves are not either: all of it follows from
their inner products. So it is computed of sketches, whose inner products anyone can check, as of
the vectors. Symmetry, efficiency and additivity hold for the game as Shapley values have them; an
agent without a vector (zeros), or with weight zero, is a null player.

Batch-first: `inner` is (..., agents, agents) of <u_i, u_j>, `weights` (..., agents) the r_i.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT_MAX: Final = 12  # agents: 4,096 coalitions


def inner_products(vectors: NDArray[np.floating]) -> Floats:
    """<u_i, u_j> of vectors (..., agents, dim), in binary64."""
    wide = vectors.astype(np.float64, copy=False)
    found: Floats = wide @ np.swapaxes(wide, -1, -2)
    return found


def exact(inner: Floats, weights: Floats) -> Floats:
    """The Shapley values (..., agents) themselves (equation 2), over all 2^agents coalitions.

    The paper counts O(2^n dim); with inner products it is O(2^n n^2) whatever the dimension.

    Raises:
        ValueError: there are more than `EXACT_MAX` agents.
    """
    count = inner.shape[-1]
    if count > EXACT_MAX:
        raise ValueError(f"{count} agents have 2^{count} coalitions; {EXACT_MAX} is the most")
    members, shares = _coalitions(count)
    found: Floats = worths(inner, weights, members) @ shares
    return found


def cosine(inner: Floats, weights: Floats) -> Floats:
    """psi_i = cos(u_i, u_N), the paper's approximation (equation 3): (..., agents)."""
    towards = (inner @ weights[..., None])[..., 0]  # (..., agents) of <u_i, u_N>
    lengths = np.sqrt(np.diagonal(inner, axis1=-2, axis2=-1))
    return _ratio(towards, lengths * _length(inner, weights)[..., None])


def sampled(
    inner: Floats, weights: Floats, permutations: int, generator: np.random.Generator
) -> Floats:
    """An unbiased estimate (..., agents): the mean of marginal worths in random orders (Castro,
    Gomez & Tejada, Computers & Operations Research 2009); `permutations_for` says how many."""
    count = inner.shape[-1]
    found = np.zeros(inner.shape[:-1])
    for _ in range(permutations):
        order = generator.permutation(count)
        joined = np.zeros((count, count))  # coalitions as they grow, from the first alone to all
        joined[:, order] = np.tri(count)
        worth = worths(inner, weights, joined)
        found[..., order] += np.diff(worth, axis=-1, prepend=0.0)
    return found / permutations


def permutations_for(error: float, chance: float) -> int:
    """How many permutations keep an estimate within `error` but for a `chance`: by Hoeffding's
    inequality, marginal worths being from -2 to 2 (Maleki et al., arXiv 1306.4265, section 3)."""
    return math.ceil(8 * math.log(2 / chance) / error**2)


def worths(inner: Floats, weights: Floats, coalitions: Floats) -> Floats:
    """nu of coalitions (coalitions, agents) of zeros and ones: (..., coalitions). A coalition
    whose vectors cancel out, as the empty one, is worth nothing."""
    weighted = inner * weights[..., :, None] * weights[..., None, :]
    towards = weighted.sum(axis=-1) @ coalitions.T  # (..., coalitions) of <u_S, u_N>
    squares = ((coalitions @ weighted) * coalitions).sum(axis=-1)
    lengths = np.sqrt(np.maximum(squares, 0.0))
    return _ratio(towards, lengths * _length(inner, weights)[..., None])


def _length(inner: Floats, weights: Floats) -> Floats:
    """|u_N|: (...,)."""
    square = np.einsum("...i,...ij,...j->...", weights, inner, weights)
    found: Floats = np.sqrt(np.maximum(square, 0.0))
    return found


def _ratio(over: Floats, under: Floats) -> Floats:
    """The ratio, 0 where there is none; cosines do not leave [-1, 1] by rounding."""
    there = under > 0.0
    found: Floats = np.clip(np.where(there, over / np.where(there, under, 1.0), 0.0), -1.0, 1.0)
    return found


@lru_cache(maxsize=EXACT_MAX)
def _coalitions(count: int) -> tuple[Floats, Floats]:
    """All coalitions (2^count, count), and by how much each one's worth counts in the value of each
    agent: for whom is in S, (|S| - 1)! (n - |S|)! / n!; for others minus |S|! (n - |S| - 1)! / n!.
    """
    numbers = np.arange(2**count)
    members = ((numbers[:, None] >> np.arange(count)) & 1).astype(np.float64)
    orders = [
        math.factorial(k) * math.factorial(count - 1 - k) / math.factorial(count)
        for k in range(count)
    ]
    sizes = members.sum(axis=1).astype(int)
    # The one of index -1 is that of the empty coalition or of all, which are never counted so.
    within, without = np.array(orders)[sizes - 1], np.array([*orders, 0.0])[sizes]
    shares = np.where(members == 1.0, within[:, None], -without[:, None])
    members.flags.writeable = shares.flags.writeable = False
    return members, shares
