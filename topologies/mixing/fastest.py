"""The symmetric weights that average fastest, from a semidefinite program (the extra `fastest`)."""

import warnings

import numpy as np
from numpy.typing import NDArray

from candor.topologies.specs.specs import ConfigurationError

AGENTS_MAX = 100  # the program's size grows with the square, its time with the sixth power
_UNUSED = 1e-9  # weights that a solver leaves where it means 0


def fastest(agents: int, lo: NDArray[np.intp], hi: NDArray[np.intp]) -> NDArray[np.float64]:
    """The weights (edges,) of edges lo[e]-hi[e] that make the second eigenvalue smallest.

    Xiao and Boyd (2004), "Fast linear iterations for distributed averaging", eq. (17):
    minimise s with -s I <= I - L(w) - 11'/n <= s I, where L(w) is the Laplacian of the weights.
    Their weights may be negative; here w >= 0 and no row of w sums to more than 1, since a vector
    mixed with negative weights is no average. A solver's answer is exact to some 1e-8: it is cut
    at 0 and scaled down where a row would exceed 1, and the rate may be that much worse.

    Raises:
        ConfigurationError: cvxpy is not installed, too many agents, or the solver failed.
    """
    if agents > AGENTS_MAX:
        raise ConfigurationError(
            f"mixing 'fastest': {agents} agents are more than the {AGENTS_MAX} it is solved for; "
            "use best-constant"
        )
    if len(lo) == 0:
        return np.zeros(0)
    try:
        import cvxpy as cp
    except ImportError as exc:
        raise ConfigurationError(
            "mixing 'fastest' needs a solver: pip install 'candor[fastest]'"
        ) from exc
    edges = np.arange(len(lo))
    incidence = np.zeros((agents, len(lo)))
    incidence[lo, edges], incidence[hi, edges] = 1.0, -1.0
    weights, second = cp.Variable(len(lo), nonneg=True), cp.Variable()
    disagreement = np.eye(agents) - 1.0 / agents - incidence @ cp.diag(weights) @ incidence.T
    bound = second * np.eye(agents)
    problem = cp.Problem(
        cp.Minimize(second),
        [disagreement << bound, disagreement >> -bound, np.abs(incidence) @ weights <= 1],
    )
    try:
        with warnings.catch_warnings(action="ignore"):  # of a few digits less than asked for
            problem.solve(solver=cp.CLARABEL)
    except cp.SolverError as exc:
        raise ConfigurationError(f"mixing 'fastest': the solver failed: {exc}") from exc
    if weights.value is None:
        raise ConfigurationError(f"mixing 'fastest': the solver ended {problem.status}")
    solved = np.asarray(weights.value, dtype=np.float64)
    found = np.where(solved > _UNUSED, solved, 0.0)
    # One division may leave a row one bit above 1.
    loads = np.abs(incidence) @ found
    return found / max(1.0, float(loads.max()) * (1 + 1e-12))
