"""How fast a mixing matrix averages: its spectral gap."""

import numpy as np
from numpy.typing import NDArray


def spectral_gap(mixing: NDArray[np.float64]) -> float:
    """1 - |lambda_2| of a doubly stochastic (agents, agents) matrix, in [0, 1].

    Disagreement shrinks by at least |lambda_2| a round: a gap of 1 averages at once, a gap of 0
    never does (disconnected or periodic). One agent alone has nothing to average: 1.
    """
    if len(mixing) == 1:
        return 1.0
    symmetric = np.array_equal(mixing, mixing.T)
    values = np.linalg.eigvalsh(mixing) if symmetric else np.linalg.eigvals(mixing)
    second = np.sort(np.abs(values))[-2]
    return float(np.clip(1.0 - second, 0.0, 1.0))
