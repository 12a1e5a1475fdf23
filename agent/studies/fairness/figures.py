"""What the study runs, the paper's figures beside it, and what is claimed of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from candor.agent.studies.fairness.mechanisms import Floats
from candor.agent.studies.fairness.runs import Run, Setting
from candor.agent.studies.fairness.settings import ROUNDS
from candor.topologies.specs.specs import parse_spec

ALONE: Final = "standalone"
MEAN: Final = "fedavg"
FAIR: Final = "cgsv"
METHODS: Final = (
    ALONE,
    MEAN,
    "qffl",
    "cffl",
    "eci",
    "dw",
    "rr",
    "eu",
    FAIR,
    "cgsv:beta=1.2",
    "cgsv:beta=1.5",
    "cgsv:beta=2",
    "rffl",
)
"""Those of the paper's tables, and RFFL."""
POINTS: Final = 2.0  # of accuracy, that may be missing from the paper's
RHO_MIN: Final = 90.0
RHO_BELOW: Final = 30.0  # how far FedAvg's is to lie below
OVERHEAD_MAX: Final = 0.4
BETTER: Final = ("cifar10", "mr", "sst")
"""Tasks of which it is claimed that cgsv beats FedAvg: on MNIST the paper's FedAvg, which it beats,
is as bad as agents alone, and no mean of all updates is."""

COLUMNS: Final = (
    ("mnist", 10, "uni"),
    ("mnist", 10, "pow"),
    ("mnist", 10, "cla"),
    ("mnist", 20, "uni"),
    ("mnist", 20, "pow"),
    ("mnist", 20, "cla"),
    ("cifar10", 10, "uni"),
    ("cifar10", 10, "pow"),
    ("cifar10", 10, "cla"),
    ("mr", 5, "pow"),
    ("sst", 5, "pow"),
)
"""Tasks, agents and partitions of the paper's tables."""

# Xu et al. (NeurIPS 2021), table 1: mean (highest) test accuracy of the agents.
_ACCURACIES: Final = """
standalone    91/91 88/92 53/92 91/91 89/92 48/90 46/47 43/49 31/44 47/56 31/34
fedavg        93/94 92/94 53/93 93/93 92/94 49/92 48/48 47/50 32/47 51/63 33/35
qffl          85/91 27/45 44/64 88/91 48/53 40/59 41/46 36/36 22/28 12/18 23/25
cffl          90/92 85/90 34/44 91/93 88/91 39/46 39/41 35/45 22/40 44/53 31/32
eci           94/94 92/94 53/94 94/94 92/94 49/92 49/49 47/51 31/46 56/61 33/34
dw            93/94 92/94 53/93 93/93 92/94 49/92 48/48 47/50 32/47 51/62 33/35
rr            94/95 95/95 64/72 94/95 94/95 50/56 47/59 49/51 26/29 63/65 36/36
eu            94/94 94/94 54/94 94/94 94/94 49/92 49/49 49/51 32/46 54/59 34/36
cgsv          96/97 94/95 74/95 95/96 96/97 65/93 61/62 60/62 35/54 62/76 35/36
cgsv:beta=1.2 94/95 95/95 75/95 96/96 96/97 65/93 61/62 60/62 35/54 62/75 34/37
cgsv:beta=1.5 97/97 95/95 75/95 96/97 94/95 65/93 61/62 59/62 35/54 62/74 35/37
cgsv:beta=2   96/96 95/96 73/94 97/97 95/96 66/95 62/62 61/62 36/54 62/75 35/37
"""

# Table 2: fairness, 100 times the correlation of accuracies with those of standalone agents.
_RHOS: Final = """
fedavg        -45.60 55.24 24.12 0.85 -32.58 40.83 18.47 97.48 98.75 48.68 57.50
qffl          -44.73 39.00 22.38 -22.01 38.71 48.07 -17.64 51.33 94.06 56.43 -75.92
cffl          83.57 91.80 81.24 82.52 94.70 85.71 78.25 72.55 81.31 96.85 93.34
eci           85.26 99.83 99.98 80.95 99.41 95.21 75.85 79.50 99.55 97.69 95.00
dw            89.15 98.93 65.34 86.94 99.63 35.21 -23.14 91.97 45.45 99.20 97.12
rr            83.77 71.17 -26.75 -18.64 25.47 95.86 30.67 0.70 90.67 44.16 -25.11
eu            84.25 98.25 99.82 80.55 97.77 99.97 78.25 94.24 94.95 97.58 93.21
cgsv          94.03 95.74 94.54 84.47 96.39 97.23 98.80 98.78 99.89 96.01 98.20
cgsv:beta=1.2 94.75 97.28 96.23 90.52 97.72 95.21 91.07 91.59 99.82 96.12 98.47
cgsv:beta=1.5 96.34 86.99 95.37 82.68 90.94 98.75 93.55 93.78 95.89 95.32 97.88
cgsv:beta=2   94.66 91.20 95.38 96.90 91.33 94.32 89.80 88.78 93.39 92.22 95.74
"""

# Table 3: the time of a method over that of training; of MNIST and CIFAR-10 with 10 agents, MNIST
# with 20, MR and SST.
_OVERHEAD_COLUMNS: Final = (("mnist", 10), ("mnist", 20), ("cifar10", 10), ("mr", 5), ("sst", 5))
_OVERHEADS: Final = """
fedavg 1e-2 1e-2 1e-2 1e-4 6e-4
qffl   5e-2 0.3  7e-2 8e-3 4e-2
cffl   0.3  1.6  0.4  0.2  2e-1
eci    141  74   84   4e-2 0.4
dw     9e-3 5e-3 7e-3 1e-5 5e-4
rr     9e-3 5e-3 7e-3 5e-4 5e-4
eu     9e-3 5e-3 7e-3 5e-4 5e-4
cgsv   5e-2 0.3  7e-2 8e-3 4e-2
"""

# Section 3.4: five agents, of whom three have corrupted labels: mean values and sparsities.
CORRUPTED: Final = (0.2, 0.4, 0.6, 0.0, 0.0)
CORRUPTED_VALUES: Final = (0.194, 0.088, 0.043, 0.331, 0.342)
CORRUPTED_SPARSITIES: Final = (0.349, 0.676, 0.830, 0.035, 0.011)


@dataclass(frozen=True, slots=True)
class Cell:
    """A setting of the study but for its method and seed."""

    task: str
    agents: int
    partition: str
    corrupted: tuple[float, ...] = ()
    free_riders: int = 0

    @property
    def label(self) -> str:
        """What it is called in tables."""
        words = [f"{self.task}, {self.agents} agents, {self.partition}"]
        if self.corrupted:
            shares = "/".join(f"{100 * share:g}" for share in self.corrupted)
            words.append(f"{shares} % of labels corrupted")
        if self.free_riders:
            words.append(f"{self.free_riders} free-riders")
        return ", ".join(words)

    def setting(self, method: str, rounds: int, seed: int) -> Setting:
        """A run of it."""
        return Setting(
            self.task,
            self.partition,
            self.agents,
            method,
            rounds,
            seed,
            self.corrupted,
            self.free_riders,
        )

    @property
    def of_paper(self) -> str:
        """The task's name, if it is as in the paper, from whatever file; else the task."""
        spec = parse_spec(self.task)
        return spec.name if spec.options.keys() <= {"file"} else self.task

    @property
    def plain(self) -> bool:
        """Whether all agents are honest, with their labels as they are."""
        return not any(self.corrupted) and not self.free_riders

    @property
    def column(self) -> int | None:
        """Its place in the paper's tables."""
        key = (self.of_paper, self.agents, self.partition)
        return COLUMNS.index(key) if self.plain and key in COLUMNS else None


Runs = Mapping[Cell, Mapping[str, Sequence[Run]]]
"""By cell and method, the runs of all seeds."""


@dataclass(frozen=True, slots=True)
class Paper:
    """What the paper has of a cell and a method; nan where it has nothing."""

    mean: float = math.nan
    highest: float = math.nan
    rho: float = math.nan
    overhead: float = math.nan


def paper_of(cell: Cell, method: str) -> Paper:
    """The paper's figures, accuracies in percent."""
    accuracy = _looked_up(_ACCURACIES, method, cell.column)
    mean, _, highest = accuracy.partition("/")
    key = (cell.of_paper, cell.agents)
    column = _OVERHEAD_COLUMNS.index(key) if cell.plain and key in _OVERHEAD_COLUMNS else None
    return Paper(
        float(mean or "nan"),
        float(highest or "nan"),
        float(_looked_up(_RHOS, method, cell.column) or "nan"),
        float(_looked_up(_OVERHEADS, method, column) or "nan"),
    )


def _looked_up(figures: str, method: str, column: int | None) -> str:
    lines = (line.split() for line in figures.strip().splitlines())
    found = {name: cells for name, *cells in lines}
    return "" if column is None or method not in found else found[method][column]


def rho(alone: Sequence[float], together: Sequence[float]) -> float:
    """Fairness: 100 times Pearson's correlation of the accuracies of agents alone with those that
    they end with, from -100 to 100; nan where all of either are the same, as where all have one
    model."""
    if np.ptp(alone) == 0.0 or np.ptp(together) == 0.0:
        return math.nan
    return 100.0 * float(np.corrcoef(alone, together)[0, 1])


@dataclass(frozen=True, slots=True)
class Measured:
    """What a method came to in a cell, over all seeds: mean and highest accuracy in percent, means
    of seeds; fairness, of the seeds that have one; the time of the method over that of training."""

    mean: float
    highest: float
    rho: float
    overhead: float


def measured(runs: Runs, cell: Cell, method: str) -> Measured:
    """What a method's runs came to; free-riders are left out of accuracies."""
    done = runs[cell][method]
    honest = [100.0 * np.array(run.accuracies[cell.free_riders :]) for run in done]
    alone = {run.setting.seed: run.accuracies for run in runs[cell].get(ALONE, ())}
    rhos = [rho(alone[run.setting.seed], run.accuracies) for run in done]
    return Measured(
        float(np.mean([one.mean() for one in honest])),
        float(np.mean([one.max() for one in honest])),
        _mean([one for one in rhos if not math.isnan(one)]) if method != ALONE else math.nan,
        _mean([run.overhead for run in done]),
    )


def by_agent(done: Sequence[Run], table: str) -> Floats:
    """The mean over rounds and seeds of a table of runs, (agents,)."""
    found: Floats = np.mean([np.array(getattr(run, table)).mean(axis=0) for run in done], axis=0)
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim and whether the runs bear it out; None where they are too short to say, or there is
    nothing to compare."""

    claim: str
    measured: str
    holds: bool | None


def verdicts(runs: Runs) -> list[Verdict]:
    """What the study is to show, of the cells that were run."""
    found = []
    for cell, methods in runs.items():
        if FAIR not in methods:
            continue
        if cell.plain:
            found += _as_in_the_paper(runs, cell)
        if any(cell.corrupted):
            found += _by_corruption(cell, methods[FAIR])
        if cell.free_riders:
            found += _of_free_riders(cell, methods[FAIR])
        overhead = measured(runs, cell, FAIR).overhead
        claim = f"{cell.label}: {FAIR} takes at most {OVERHEAD_MAX} of the time of training"
        found.append(Verdict(claim, f"{overhead:.2g}", overhead <= OVERHEAD_MAX))
    return found


def _as_in_the_paper(runs: Runs, cell: Cell) -> list[Verdict]:
    methods = runs[cell]
    ours, paper = measured(runs, cell, FAIR), paper_of(cell, FAIR)
    whole = all(run.setting.rounds >= ROUNDS for run in methods[FAIR])
    found = []
    if not math.isnan(paper.mean):
        for what, here, there in (
            ("mean", ours.mean, paper.mean),
            ("highest", ours.highest, paper.highest),
        ):
            claim = f"{cell.label}: {what} accuracy of {FAIR} at least {there:g} - {POINTS:g} %"
            found.append(_judged(claim, f"{here:.1f}", here >= there - POINTS, whole))
        claim = f"{cell.label}: fairness of {FAIR} at least {RHO_MIN:g}"
        found.append(_judged(claim, f"{ours.rho:.1f}", ours.rho >= RHO_MIN, whole))
    if MEAN not in methods:
        return found
    plain = measured(runs, cell, MEAN)
    if cell.column is not None and cell.of_paper in BETTER:
        claim = f"{cell.label}: mean accuracy of {FAIR} above {MEAN}'s"
        told = f"{ours.mean:.1f} and {plain.mean:.1f}"
        found.append(_judged(claim, told, ours.mean > plain.mean, whole))
    if cell.partition in ("uni", "cla"):
        claim = f"{cell.label}: fairness of {MEAN} at least {RHO_BELOW:g} below that of {FAIR}"
        equal = math.isnan(plain.rho)  # of one model for all, which is as fair as chance: 0
        told = f"{'none' if equal else f'{plain.rho:.1f}'} and {ours.rho:.1f}"
        below = (0.0 if equal else plain.rho) <= ours.rho - RHO_BELOW
        found.append(_judged(claim, told, below, whole))
    return found


def _judged(claim: str, told: str, holds: bool, whole: bool) -> Verdict:
    """A shortened run may bear a claim out; it does not refute one."""
    return Verdict(claim, told, True if holds else False if whole else None)


def _by_corruption(cell: Cell, done: Sequence[Run]) -> list[Verdict]:
    """The more labels of an agent are wrong, the less it is worth and the less it gets."""
    values, given = by_agent(done, "reputations"), by_agent(done, "shares")
    found = []
    for what, each in (("reputation falls", values), ("sparsity rises", 1.0 - given)):
        claim = f"{cell.label}: {what} with the share of corrupted labels"
        worse = -each if what == "reputation falls" else each
        pairs = [
            (a, b)
            for a in range(cell.agents)
            for b in range(cell.agents)
            if cell.corrupted[a] < cell.corrupted[b]
        ]
        holds = all(worse[a] < worse[b] for a, b in pairs)
        found.append(Verdict(claim, " ".join(f"{one:.3f}" for one in each), holds))
    return found


def _of_free_riders(cell: Cell, done: Sequence[Run]) -> list[Verdict]:
    values = by_agent(done, "reputations")
    accuracies = 100.0 * np.mean([run.accuracies for run in done], axis=0)
    free, honest = values[: cell.free_riders], values[cell.free_riders :]
    claim = f"{cell.label}: every free-rider has less reputation than any other agent"
    found = [
        Verdict(claim, f"{free.max():.3f} and {honest.min():.3f}", bool(free.max() < honest.min()))
    ]
    worst, mean = accuracies[: cell.free_riders].max(), accuracies[cell.free_riders :].mean()
    claim = f"{cell.label}: free-riders end at least 10 points below the mean of the others"
    found.append(Verdict(claim, f"{worst:.1f} and {mean:.1f}", bool(worst <= mean - 10.0)))
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
