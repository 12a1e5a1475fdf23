"""The best lie of a parametrised family, found by an optimiser that only sees what a lie gains.

The family is `mechanisms.strategies.mixes`: the own gradient, its running means of three memories
and that of the window before, the neighbours' last reports, what sketch and trace do not show, and
noise; with the sum's length, or as it comes; in one stretch of rounds, in one window of several,
and where the own gradient is short or long; by one agent or by a pair that shares its gradients. So
it has what is known to be found from outside, and what lies between. What is found is a spec as any
other. Differential evolution (Storn & Price 1997; scipy's) needs no gradient and bears noise, and
tries a whole generation at once, which the runs of an audit share among processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.studies.audit.incentives import Floats

GENERATIONS: Final = 4
CANDIDATES: Final = 12  # a generation

BOUNDS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "factor": (-1.0, 3.5),  # log2 of it: on the length if that is kept, else on the sum
        "kept": (0.0, 1.0),  # the length is kept from one half on
        "own": (0.0, 1.0),
        "fast": (0.0, 4.0),
        "middle": (0.0, 4.0),
        "slow": (0.0, 4.0),
        "frozen": (0.0, 6.0),
        "near": (-1.0, 1.0),  # below 0 it stands out
        "unseen": (0.0, 6.0),
        "untraced": (0.0, 6.0),
        "noise": (0.0, 1.0),
        "start": (0.0, 1.0),  # of the rounds, the first
        "length": (0.1, 1.0),  # of those that are left
        "windows": (1.0, 4.5),  # it lies in one of so many
        "gate": (-1.0, 1.0),  # below -0.3 in the shorter rounds, above 0.3 in the longer ones
        "pair": (0.0, 1.0),  # two collude from 0.8 on
    }
)
NAMES: Final = tuple(BOUNDS)
PLAIN: Final[Mapping[str, float]] = MappingProxyType(
    dict.fromkeys(NAMES, 0.0) | {"own": 1.0, "length": 1.0, "windows": 1.0}
)
"""The honest point, from which others are told by what is different."""
# What strangers have found: each as the changes to the honest point.
FIRST: Final[Sequence[Mapping[str, float]]] = (
    {"factor": 1.0},  # exaggerate
    {"factor": 1.0, "kept": 1.0, "middle": 2.0},  # turn towards the own mean
    {"frozen": 3.0},
    {"frozen": 2.0, "slow": 2.0, "own": 0.3},  # as steady as can be
    {"factor": 2.0, "own": 0.0, "middle": 1.0},  # as smooth as can be
    {"factor": 2.0, "start": 0.9},  # in the end
    {"factor": 3.5, "windows": 4.0, "gate": -0.9},  # seldom
    {"unseen": 4.0, "untraced": 2.0},  # hide
)
_OPTIONAL: Final = ("fast", "middle", "slow", "frozen", "near", "unseen", "untraced", "noise")
_ADDED: Final = 0.35  # the chance of each of these at a point anywhere
_LEAST: Final = 0.05  # smaller coefficients are left out


@dataclass(frozen=True, slots=True)
class Frame:
    """What a run allows: its rounds, whether its sketches can hide something, and whether the liar
    can have a partner."""

    rounds: int
    hides: bool = True
    pairs: bool = True


def search(net_gains: Callable[[Sequence[str]], Sequence[float]], frame: Frame) -> str:
    """The spec of the best strategy found.

    Args:
        net_gains: what each of some specs gains, after payments; -inf for one that ruins the model.
        frame: what the run allows.
    """
    from scipy.optimize import Bounds, differential_evolution

    tried: dict[str, float] = {}

    def costs(points: NDArray[Any], /) -> Any:
        """Of the points (parameters, candidates): (candidates,)."""
        specs = [spec_of(point, frame) for point in points.T]
        fresh = [spec for spec in dict.fromkeys(specs) if spec not in tried]
        tried.update(zip(fresh, net_gains(fresh), strict=True))
        # The optimiser averages over its candidates' costs: an infinite one would spoil them.
        return np.array([-max(tried[spec], -1e9) for spec in specs])

    differential_evolution(
        costs,
        Bounds(*np.array([*BOUNDS.values()]).T),
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


def point_of(changes: Mapping[str, float]) -> Floats:
    """The point (parameters,) that differs from the honest one by this."""
    return np.array([*{**PLAIN, **changes}.values()])


def spec_of(point: Floats, frame: Frame) -> str:
    """The strategy at a point within `BOUNDS`, in such a run."""
    at = dict(zip(NAMES, point.tolist(), strict=True))
    factor, kept = 2.0 ** at["factor"], at["kept"] >= 0.5
    on_sum = 1.0 if kept else factor
    said = {name: on_sum * at[name] for name in ("own", "fast", "middle", "slow", "frozen", "near")}
    said = {name: value for name, value in said.items() if abs(value) >= _LEAST or name == "own"}
    if kept:
        said["norm"] = factor
    hidden = ("unseen", "untraced") if frame.hides else ("untraced",)
    said |= {name: at[name] for name in (*hidden, "noise") if at[name] >= _LEAST}
    if (windows := int(at["windows"])) > 1:
        said["windows"] = windows
    if abs(gate := at["gate"]) >= 0.3:
        said["long" if gate > 0 else "short"] = 1.05 - abs(gate)  # a part of the rounds at least
    coefficients = ",".join(f"{name}={float(f'{value:.2f}'):g}" for name, value in said.items())
    mix = f"mix:{coefficients}{_when(at['start'], at['length'], frame.rounds)}"
    return f"colluding:1 + {mix}" if frame.pairs and at["pair"] >= 0.8 else mix


def _when(start: float, length: float, rounds: int) -> str:
    """In which rounds, as a spec has them."""
    first = 1 + round(start * (rounds - 1))
    last = first + round(length * (rounds - first))
    return "" if (first, last) == (1, rounds) else f" @ {first}-{last}"


def _first(rng: np.random.Generator) -> Floats:
    """The first generation (candidates, parameters): what is known, and points anywhere with some
    of the coefficients."""
    low, high = np.array([*BOUNDS.values()]).T
    points: Floats = low + (high - low) * rng.random((CANDIDATES, len(NAMES)))
    for name in _OPTIONAL:
        points[rng.random(CANDIDATES) >= _ADDED, NAMES.index(name)] = 0.0
    points[:, NAMES.index("windows")] = 1.0
    points[: len(FIRST)] = [point_of(changes) for changes in FIRST]
    return points
