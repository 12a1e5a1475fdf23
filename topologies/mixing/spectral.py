"""How fast a mixing matrix averages: its spectral gap, also of ten thousand agents."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.topologies.mixing.sizes import symmetric_form

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Matrix: TypeAlias = NDArray[np.float64] | csr_array[np.float64]

DENSE_AGENTS_MAX = 1000  # all eigenvalues of a matrix this large take half a second
_LANCZOS_RESTARTS_MAX = 30
# Nearer to 1 than the second eigenvalue of a path of 10,000 agents would be lost in rounding.
_SHIFT = 5e-7


def spectral_gap(mixing: "Matrix", declared: Sequence[float] = ()) -> float:
    """1 - |lambda_2| of a stochastic (agents, agents) matrix, dense or sparse, in [0, 1].

    Disagreement shrinks by at least |lambda_2| a round: a gap of 1 averages at once, a gap of 0
    never does (disconnected or periodic). One agent alone has nothing to average: 1. A matrix that
    was corrected for `declared` sizes (agents,) is not symmetric; disagreement is then that from
    the weighted mean, in the norm weighted by the sizes.
    """
    agents = mixing.shape[0]
    if agents == 1:
        return 1.0
    if declared:
        mixing = symmetric_form(mixing, declared)
    second = _second_sparse(mixing) if agents > DENSE_AGENTS_MAX else _second_dense(mixing)
    return float(np.clip(1.0 - second, 0.0, 1.0))


def laplacian_ends(laplacian: "Matrix") -> tuple[float, float]:
    """The second smallest and the largest eigenvalue of a connected graph's Laplacian."""
    if laplacian.shape[0] <= DENSE_AGENTS_MAX:
        with _one_thread():
            values = np.linalg.eigvalsh(_dense(laplacian))
        return float(values[1]), float(values[-1])
    from scipy.sparse import csr_array, eye_array

    bound = 2 * float(laplacian.diagonal().max())  # no eigenvalue is above it (Gershgorin)
    identity = eye_array(laplacian.shape[0])
    turned = _largest(csr_array(bound * identity - laplacian), 2, bound)
    return bound - turned[0], _largest(laplacian, 1, bound)[0]


def rounds_to(error: float, gap: float) -> float:
    """Rounds after which disagreement is `error` (of 1) of what it was: inf where gap is 0.

    From ||x_t - mean|| <= |lambda_2|^t ||x_0 - mean||, which symmetric matrices hold.
    """
    if gap >= 1.0:
        return 1
    # Below, log1p(-gap) is -gap, and 1 - |lambda_2| is rounding.
    return math.ceil(math.log(error) / math.log1p(-gap)) if gap > 1e-15 else math.inf


def _second_dense(mixing: "Matrix") -> float:
    matrix = _dense(mixing)
    symmetric = np.array_equal(matrix, matrix.T)
    with _one_thread():
        values = np.linalg.eigvalsh(matrix) if symmetric else np.linalg.eigvals(matrix)
    return float(np.sort(np.abs(values))[-2])


def _second_sparse(mixing: "Matrix") -> float:
    from scipy.sparse import csr_array, eye_array

    matrix = csr_array(mixing)
    if abs(matrix - matrix.T).max() > 0:  # few are, and Lanczos is for those that are not
        return _second_dense(matrix)
    identity = eye_array(matrix.shape[0])
    second = _largest(csr_array(identity + matrix), 2, 2.0)[0] - 1
    bound = 2 - 2 * float(matrix.diagonal().min())  # of identity - matrix (Gershgorin)
    if bound - 1 <= second:
        return second
    return max(second, _largest(csr_array(identity - matrix), 1, bound)[0] - 1)


def _largest(matrix: "Matrix", count: int, bound: float) -> list[float]:
    """The `count` largest eigenvalues, ascending, of a symmetric matrix with all in [0, bound].

    Lanczos finds them where they lie apart, as on expanders, whose factors would be dense. Where it
    does not, as on rings, factors are sparse: then shift and invert, from just above the bound.
    Eigenvalues near 0 are not to be asked for: what has converged is judged relative to them.
    """
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start = np.random.default_rng(0).standard_normal((matrix.shape[0],))
    alike = {"k": count, "v0": start, "ncv": 60, "return_eigenvectors": False}
    largest = partial(eigsh, csc_array(matrix), **alike)
    with _one_thread():
        try:
            values = largest(which="LA", maxiter=_LANCZOS_RESTARTS_MAX, tol=1e-11)
        except ArpackNoConvergence:
            values = largest(sigma=bound * (1 + _SHIFT))
    return sorted(float(value) for value in values)


def _one_thread() -> "AbstractContextManager[object]":
    """On problems this small threads wait for each other: on a busy machine 7 seconds, not 0.5."""
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limited


def _dense(matrix: "Matrix") -> NDArray[np.float64]:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
