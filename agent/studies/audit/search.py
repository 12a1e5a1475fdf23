"""The best lie of a parametrised family, found by an optimiser that only sees what a lie gains.

m = a ((1 - c) g + c mean of the neighbours' last reports), averaged over the rounds, + b xi, in the
rounds of one stretch, and g in the others: how much to exaggerate, how much to conform (below 0: to
stand out), how long to remember, how much noise, and when. Differential evolution (Storn & Price
1997; scipy's) needs no gradient and bears noise, and tries a whole generation at once, which the
runs of an audit share among processes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.studies.audit.incentives import Floats

GENERATIONS: Final = 4
CANDIDATES: Final = 12  # a generation

# log2 of the factor, conformity, noise, of the rounds the first and the length of the rest, and the
# share of the newest report in a running average.
BOUNDS: Final = ((-1.0, 2.5), (-0.5, 1.0), (0.0, 1.0), (0.0, 1.0), (0.1, 1.0), (0.1, 1.0))


def search(net_gains: Callable[[Sequence[str]], Sequence[float]], rounds: int) -> str:
    """The spec of the best strategy found.

    Args:
        net_gains: what each of some specs gains, after payments; -inf for one that ruins the model.
        rounds: of the run.
    """
    from scipy.optimize import Bounds, differential_evolution

    tried: dict[str, float] = {}

    def costs(points: NDArray[Any], /) -> Any:
        """Of the points (parameters, candidates): (candidates,)."""
        specs = [spec_of(point, rounds) for point in points.T]
        fresh = [spec for spec in dict.fromkeys(specs) if spec not in tried]
        tried.update(zip(fresh, net_gains(fresh), strict=True))
        # The optimiser averages over its candidates' costs: an infinite one would spoil them.
        return np.array([-max(tried[spec], -1e9) for spec in specs])

    differential_evolution(
        costs,
        Bounds(*np.array(BOUNDS).T),
        maxiter=GENERATIONS - 1,
        popsize=1,
        init=_first(np.random.default_rng(0)),
        rng=np.random.default_rng(0),
        tol=0.0,
        polish=False,
        vectorized=True,
        updating="deferred",
    )
    return max(tried, key=lambda spec: tried[spec])


def spec_of(point: Floats, rounds: int) -> str:
    """The strategy at a point within `BOUNDS`, in a run of so many rounds."""
    log_factor, conformity, noise, start, length, newest = point
    first = 1 + round(start * (rounds - 1))
    last = first + round(length * (rounds - first))
    when = "" if (first, last) == (1, rounds) else f" @ {first}-{last}"
    parts = [f"conform:{conformity:.2f}"] if abs(conformity) >= 0.01 else []
    parts.append(f"scale:{2**log_factor:.2f}")
    if newest <= 0.99:
        parts.append(f"averaged:{newest:.2f}")
    if noise >= 0.01:
        parts.append(f"noise:{noise:.2f}")
    return " + ".join(part + when for part in parts)


def _first(rng: np.random.Generator) -> Floats:
    """The first generation (candidates, parameters): plain exaggerations all along, in the last
    rounds and in the first ones, and points anywhere."""
    low, high = np.array(BOUNDS).T
    anywhere: Floats = low + (high - low) * rng.random((CANDIDATES, len(BOUNDS)))
    anywhere[:, 2] *= rng.random(CANDIDATES) < 0.5  # noise wins nothing by itself
    anywhere[rng.random(CANDIDATES) < 0.5, 5] = 1.0
    plain = [(0.25, 0.0, 0.0, 0.0, 1.0, 1.0), (0.5, 0.0, 0.0, 0.0, 1.0, 0.4),
             (1.0, 0.0, 0.0, 0.7, 1.0, 1.0), (0.6, -0.3, 0.0, 0.0, 1.0, 1.0),
             (0.5, 0.3, 0.0, 0.0, 1.0, 1.0)]  # fmt: skip
    anywhere[: len(plain)] = plain
    return anywhere
