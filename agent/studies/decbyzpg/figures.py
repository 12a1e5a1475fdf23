"""What the study runs, and the paper's figures that its runs stand beside."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from candor.agent.studies.decbyzpg.runs import Run, Setting

CART_POLE, LUNAR_LANDER = "cartpole", "lunar-lander"
WINDOW: Final = 500
"""Trajectories of an agent over which a return is averaged: a small batch alone is noise."""
TRAJECTORIES: Final = 8_000
HEADLINE: Final = 13
ATTACKERS: Final = 3
ROBUST, PLAIN = "rfa", "mean"
ATTACKS: Final = ("random-action", "large-noise", "avg-zero")
IN_DIAMETER: Final = "in-diameter"


@dataclass(frozen=True, slots=True)
class Cell:
    """A setting of the study but for its seed."""

    task: str
    agents: int
    attack: str = ""
    aggregator: str = ROBUST

    @property
    def label(self) -> str:
        """What it is called in tables."""
        how = "plain averaging" if self.aggregator == PLAIN else "DecByzPG"
        against = f"{ATTACKERS} of {self.agents} {self.attack}" if self.attack else "no attack"
        return f"{how}, K = {self.agents}, {against}"

    def setting(self, trajectories: int, seed: int) -> Setting:
        """A run of it."""
        byzantine = f"{ATTACKERS}:{self.attack}" if self.attack else ""
        return Setting(self.task, self.agents, byzantine, self.aggregator, trajectories, seed)


def cells_of(task: str) -> list[Cell]:
    """All settings of a task, the most telling ones first."""
    honest = [Cell(task, agents) for agents in (HEADLINE, 1, 5)]
    attacked = [Cell(task, HEADLINE, attack, how) for attack in ATTACKS for how in (ROBUST, PLAIN)]
    inside = [Cell(task, HEADLINE, IN_DIAMETER)] if task == CART_POLE else []
    return honest + attacked + inside


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the paper: the return of a cell at so many trajectories; None: it diverges."""

    cell: Cell
    trajectories: int
    paper: float | None


def _figures(
    task: str, at: int, alone: Sequence[float], attacked: Mapping[str, tuple[float | None, float]]
) -> list[Figure]:
    found = [
        Figure(Cell(task, agents), at, value)
        for agents, value in zip((1, 5, HEADLINE), alone, strict=True)
    ]
    for attack, (plain, robust) in attacked.items():
        cell = Cell(task, HEADLINE, attack, PLAIN)
        found.append(Figure(cell, TRAJECTORIES, plain))
        found.append(Figure(replace(cell, aggregator=ROBUST), TRAJECTORIES, robust))
    return found


FIGURES: Final = (
    *_figures(
        CART_POLE,
        4_000,
        (370, 420, 460),
        {"random-action": (490, 467), "large-noise": (22, 495), "avg-zero": (16, 488)},
    ),
    *_figures(
        LUNAR_LANDER,
        TRAJECTORIES,
        (-20, 12, 33),
        {"random-action": (None, 42), "large-noise": (-117, 80), "avg-zero": (-273, 0)},
    ),
)
"""Read off the plots of Jordan et al. (arXiv 2401.03489), section 6: of K = 1 to 13 without attack,
and of 3 of 13 attacking."""

Runs = Mapping[Cell, Sequence[Run]]


def returns_at(runs: Runs, cell: Cell, trajectories: int) -> list[float]:
    """The returns of a cell's seeds at so many trajectories; nan where one did not come so far."""
    return [run.around(trajectories, WINDOW) for run in runs.get(cell, ())]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim and whether the runs bear it out; None where they do not reach so far."""

    claim: str
    measured: str
    holds: bool | None


def verdicts(runs: Runs) -> list[Verdict]:
    """What the study is to show, of the tasks that were run."""
    tasks = {cell.task for cell in runs}
    found = _of_cart_pole(runs) if CART_POLE in tasks else []
    return found + (_of_lunar_lander(runs) if LUNAR_LANDER in tasks else [])


def _of_cart_pole(runs: Runs) -> list[Verdict]:
    def mean(cell: Cell, at: int) -> float:
        return _mean(returns_at(runs, cell, at))

    early = 3_000
    together, alone = (mean(Cell(CART_POLE, k), early) for k in (HEADLINE, 1))
    found = [_ratio("K = 13 at least 1.2 x K = 1 at 3,000", together, alone, 1.2)]
    for attack in ("avg-zero", "large-noise"):
        robust, plain = (
            mean(Cell(CART_POLE, HEADLINE, attack, how), early) for how in (ROBUST, PLAIN)
        )
        claim = f"{attack}: DecByzPG at least 10 x plain averaging at 3,000"
        found.append(_ratio(claim, robust, plain, 10.0))
    for attack in ATTACKS:
        value = mean(Cell(CART_POLE, HEADLINE, attack), TRAJECTORIES)
        holds = None if math.isnan(value) else value >= 450
        found.append(Verdict(f"{attack}: DecByzPG at least 450 at 8,000", f"{value:.0f}", holds))
    inside = [run for run in runs.get(Cell(CART_POLE, HEADLINE, IN_DIAMETER), ()) if run.moves]
    if inside:
        most = max(max(run.moves) for run in inside)
        usual = _mean([float(np.mean(run.moves)) for run in inside])
        claim = "in-diameter: agreement takes more than one exchange"
        found.append(Verdict(claim, f"{usual:.2f} of a round, {most} at most", usual > 1))
    return found


def _of_lunar_lander(runs: Runs) -> list[Verdict]:
    """The order of the paper's plots."""

    def mean(agents: int, attack: str = "", how: str = ROBUST) -> float:
        return _mean(returns_at(runs, Cell(LUNAR_LANDER, agents, attack, how), TRAJECTORIES))

    alone = [mean(agents) for agents in (1, 5, HEADLINE)]
    found = [
        Verdict(
            "LunarLander: K = 1 below 5 below 13 at 8,000",
            ", ".join(f"{value:.0f}" for value in alone),
            None if any(map(math.isnan, alone)) else alone == sorted(alone),
        )
    ]
    for attack in ATTACKS:
        robust, plain = (mean(HEADLINE, attack, how) for how in (ROBUST, PLAIN))
        claim = f"LunarLander, {attack}: DecByzPG above plain averaging at 8,000"
        # Plain averaging that diverges has no return.
        holds = None if math.isnan(robust) else math.isnan(plain) or robust > plain
        found.append(Verdict(claim, f"{robust:.0f} and {plain:.0f}", holds))
    return found


def _ratio(claim: str, one: float, other: float, least: float) -> Verdict:
    if math.isnan(one) or math.isnan(other):
        return Verdict(claim, "not run so far", None)
    return Verdict(claim, f"{one:.0f} and {other:.0f}: {one / other:.1f} x", one >= least * other)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of a 95 % confidence interval by Student's t; nan for a single value's."""
    from scipy import stats

    mean = _mean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - reach, mean + reach
