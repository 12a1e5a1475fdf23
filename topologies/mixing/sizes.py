"""Sites of different size: mixing whose limit is the mean weighted by what each agent declares.

An agent's size is the number of its samples, or another weight; pi_i is its share of all. A
symmetric matrix w, whose limit is the plain mean, is corrected so that its limit is the sum of
pi_i x_i: by the acceptance of Hastings (1970), "Monte Carlo sampling methods using Markov chains
and their applications", eqs. (2.1) to (2.4), with w as the proposal,

    P_ij = w_ij min(1, pi_j / pi_i)    for j other than i,    P_ii = what is left to one

Then pi_i P_ij = w_ij min(pi_i, pi_j) = pi_j P_ji: pi P = pi, and what repeated mixing keeps and
drives all to is the weighted mean. It stays so where an edge fails and both ends keep its weight.
Each end needs its neighbour's size alone. Of equal sizes P is w, to the last bit.

Nothing here knows whether a size is true.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from candor.topologies.mixing.spectral import Matrix


def acceptance(taker: float, giver: float) -> float:
    """By what the weight with which an agent of size `taker` takes one of `giver` is multiplied."""
    return min(1.0, giver / taker)


def shares(sizes: Sequence[float]) -> tuple[float, ...]:
    """pi (agents,): what each has of all, which sums to one."""
    return tuple(size / len(sizes) for size in scaled(sizes))


def scaled(sizes: Sequence[float]) -> tuple[float, ...]:
    """The sizes (agents,) over their mean: ones, to the last bit, where all are equal.

    The same bits on every host: divided by the largest, which gives ones first, and added one after
    the other.
    """
    largest, total = max(sizes), 0.0
    parts = [size / largest for size in sizes]
    for part in parts:
        total += part
    mean = total / len(parts)
    return tuple(part / mean for part in parts)


def corrected(matrix: "csr_array[np.float64]", sizes: Sequence[float]) -> "csr_array[np.float64]":
    """P (agents, agents) of a symmetric stochastic matrix and the sizes of its agents, in order."""
    from scipy.sparse import csr_array, diags_array

    entries, pi = matrix.tocoo(), np.asarray(sizes, dtype=np.float64)
    rows, columns = entries.row, entries.col
    apart = rows != columns
    rows, columns = rows[apart], columns[apart]
    taken = entries.data[apart] * np.minimum(1.0, pi[columns] / pi[rows])
    found = csr_array((taken, (rows, columns)), shape=matrix.shape)
    return csr_array(found + diags_array(1.0 - found.sum(axis=1)))


def symmetric_form(matrix: "Matrix", sizes: Sequence[float]) -> "Matrix":
    """D P D^-1 with D the roots of the sizes: symmetric, and of the same eigenvalues, as P is
    reversible; those of symmetric matrices are found in less time, also of many agents."""
    from scipy.sparse import csr_array, diags_array

    roots = np.sqrt(np.asarray(sizes, dtype=np.float64))
    if isinstance(matrix, np.ndarray):
        form: NDArray[np.float64] = matrix * roots[:, np.newaxis] / roots
        return (form + form.T) / 2
    turned = csr_array(diags_array(roots) @ matrix @ diags_array(1.0 / roots))
    return csr_array((turned + turned.T) / 2)
