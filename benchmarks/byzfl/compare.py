"""Candor's aggregators beside ByzFL's: the same results, and times in one run.

    make bench-byzfl                     # an environment of its own, then all of it: a quarter hour
    benchmarks/byzfl/.venv/bin/python benchmarks/byzfl/compare.py --quick

Results are of 16 vectors of 300 float64, 3 of them far off, and differ by the largest difference
over the largest value of the others. Times are of 16 vectors of a million float32 on one thread, in
turns, so that whatever else the machine does weighs on both; ratios are those of the medians. ByzFL
takes one step of power iteration from a random vector for the eigenvectors of SMEA and CAF, so that
two calls differ: its results are compared after 1,000 steps, its times are of one. It draws the
buckets of bucketing anew in each call: results are compared for Candor's order.
"""

import importlib
import importlib.util
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from candor.mechanisms.aggregation.aggregators import weighed
from candor.mechanisms.aggregation.chains import Measures
from candor.mechanisms.aggregation.inner import inner_of
from candor.mechanisms.aggregation.points import Points
from candor.mechanisms.aggregation.specs import parse_aggregator

VECTORS: Final = 16
BYZANTINE: Final = 3
LONG: Final = 1_000_000
SHORT: Final = 300
POWER_STEPS: Final = 1_000
TURN_S_MAX: Final = 20.0  # of a side that is slower than this only one turn is timed
TOLERANCE: Final = 1e-6
DISTANCES: Final = 2.0  # as many times as fast, at least, are the rules that take distances

Theirs = Callable[[Any], Any]


def byzfl_modules() -> tuple[ModuleType, ModuleType]:
    """ByzFL's aggregators and preaggregators, without the rest of the package, which needs
    torchvision."""
    spec = importlib.util.find_spec("byzfl")
    assert spec is not None
    package = ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["byzfl"] = package
    for name in ("byzfl.aggregators",):
        folder = ModuleType(name)
        folder.__path__ = [f"{package.__path__[0]}/aggregators"]
        sys.modules[name] = folder
    names = ("byzfl.aggregators.aggregators", "byzfl.aggregators.preaggregators")
    rules, before = (importlib.import_module(name) for name in names)
    return rules, before


RULES, BEFORE = byzfl_modules()


def patient(name: str) -> Any:
    """A class of ByzFL that takes `POWER_STEPS` steps of power iteration."""
    source = inspect.getsource(getattr(RULES, name)).replace(
        "max_iters=1)", f"max_iters={POWER_STEPS})"
    )
    held = dict(vars(RULES))
    exec(source, held)  # noqa: S102
    return held[name]


@dataclass(frozen=True, slots=True)
class Case:
    """A spec of Candor and what ByzFL calls the same; `exact` where that differs for results."""

    spec: str
    theirs: Callable[[], Theirs]
    distances: bool = True
    exact: Callable[[], Theirs] | None = None


def after(before: Theirs, rule: Theirs) -> Theirs:
    """One after the other."""
    return lambda vectors: rule(before(vectors))


F: Final = BYZANTINE
CASES: Final = (
    Case("mean", RULES.Average, distances=False),
    Case("median", RULES.Median, distances=False),
    Case("trimmed-mean", lambda: RULES.TrMean(F), distances=False),
    Case("meamed", lambda: RULES.Meamed(F), distances=False),
    Case("krum", lambda: RULES.Krum(F)),
    Case("multi-krum", lambda: RULES.MultiKrum(F)),
    Case("mda", lambda: RULES.MDA(F)),
    Case("smea", lambda: RULES.SMEA(F), exact=lambda: patient("SMEA")(F)),
    Case("monna", lambda: RULES.MoNNA(F, 0)),
    Case("rfa:steps=3,floor=0.1,start=own", lambda: RULES.GeometricMedian(0.1, 3)),
    Case("centred-clipping:radius=20,steps=3", lambda: RULES.CenteredClipping(None, 3, 20.0)),
    Case("caf", lambda: RULES.CAF(F), exact=lambda: patient("CAF")(F)),
    Case("nnm + median", lambda: after(BEFORE.NNM(F), RULES.Median())),
    Case("nnm + krum", lambda: after(BEFORE.NNM(F), RULES.Krum(F))),
    Case("bucketing:2 + median", lambda: after(BEFORE.Bucketing(2), RULES.Median())),
    Case("bucketing:2 + krum", lambda: after(BEFORE.Bucketing(2), RULES.Krum(F))),
    Case(
        "clipping:5,zero + mean",
        lambda: after(BEFORE.Clipping(5.0), RULES.Average()),
        distances=False,  # lengths only
    ),
    Case("arc:zero + mean", lambda: after(BEFORE.ARC(F), RULES.Average()), distances=False),
    Case("arc:zero + median", lambda: after(BEFORE.ARC(F), RULES.Median())),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One case: the largest difference over the largest value, and medians of seconds."""

    spec: str
    difference: float
    candor_s: float
    byzfl_s: float
    wanted: float

    @property
    def ratio(self) -> float:
        """How many times as fast Candor is."""
        return self.byzfl_s / self.candor_s

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.difference <= TOLERANCE and self.ratio >= self.wanted


def ours(spec: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Candor's, of vectors (n, dim) the first of which is the own one."""
    made = parse_aggregator(spelt(spec), BYZANTINE)

    def call(vectors: torch.Tensor) -> torch.Tensor:
        own, others = vectors[None, 0], vectors[None, 1:]
        if made is None:
            return weighed(np.full((1, len(vectors)), 1 / len(vectors)), others, own)[0]
        present = torch.ones(1, len(vectors) - 1, dtype=torch.bool)
        return aggregate(others, present, own)[0]

    aggregate = made.load() if made is not None else None
    return call


def spelt(spec: str) -> str:
    """As specs are given, where statements write values alone."""
    return spec.replace("clipping:5,zero", "clipping:radius=5,about=zero")


def vectors_of(dim: int, seed: int) -> NDArray[np.float64]:
    """(16, dim): the own one, on which ByzFL's geometric median and clipping start, is 0; 12 around
    a common vector; 3 far off, and not all alike."""
    rng = np.random.default_rng(seed)
    vectors = 0.5 * rng.standard_normal(dim) + rng.standard_normal((VECTORS, dim))
    vectors[-BYZANTINE:] *= np.linspace(3.0, 5.0, BYZANTINE)[:, None]
    vectors[0] = 0.0
    return vectors


def difference(case: Case) -> float:
    """Between both sides' results, over the largest value."""
    vectors = vectors_of(SHORT, seed=1)
    tensor = torch.from_numpy(vectors)
    made = parse_aggregator(spelt(case.spec), BYZANTINE)
    how = Measures.PAIRS if made is None else made.measures
    inner = inner_of(tensor[None, 1:], tensor[None, 0], origin=False, measures=how)[0].numpy()
    order = Points.of(inner, np.full(VECTORS, 1 / VECTORS), origin=False).drawn_order()
    drawn = SimpleNamespace(permutation=lambda given: given[order])
    before = BEFORE.random_tool
    BEFORE.random_tool = lambda _given: drawn
    theirs = np.asarray((case.exact or case.theirs)()(vectors.copy()))
    BEFORE.random_tool = before
    found = ours(case.spec)(tensor).numpy()
    return float(np.abs(found - theirs).max() / np.abs(vectors[: VECTORS - BYZANTINE]).max())


def measure(case: Case, vectors: torch.Tensor, turns: int) -> Result:
    """Both sides in turns."""
    mine, times = ours(case.spec), ([], [])
    for _ in range(1 + turns):  # the first one of each warms up
        for side, seconds in zip((mine, None), times, strict=True):
            given = vectors.clone()  # ByzFL clips in place
            call = side or case.theirs()
            if len(seconds) > 0 and seconds[0] > TURN_S_MAX:
                continue
            began = time.perf_counter()
            call(given)
            seconds.append(time.perf_counter() - began)
    medians = [statistics.median(seconds[1:] or seconds) for seconds in times]
    wanted = DISTANCES if case.distances else 1.0
    return Result(case.spec, difference(case), medians[0], medians[1], wanted)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--quick", is_flag=True, help="A tenth of the length, three turns: half a minute.")
@click.option("--only", help="Only specs with this text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def main(turns: int, quick: bool, only: str | None, as_json: bool) -> None:
    """Hold Candor's aggregators against ByzFL's; exit code 1 where one is not as it should be."""
    torch.set_num_threads(1)  # two that wait for each other by spinning lose most of a shared core
    dim, turns = (LONG // 10, 3) if quick else (LONG, turns)
    vectors = torch.from_numpy(vectors_of(dim, seed=2)).float()
    console = Console(stderr=True)
    found = []
    for case in CASES:
        if only is None or only in case.spec:
            found.append(measure(case, vectors, turns))
            console.print(f"{case.spec}: {found[-1].ratio:.1f} times as fast")
    if as_json:
        click.echo(json.dumps([asdict(one) | {"ratio": one.ratio} for one in found], indent=2))
    else:
        Console(width=120).print(_table(found))
    sys.exit(0 if all(one.good for one in found) else 1)


def _table(found: list[Result]) -> Table:
    table = Table(box=None)
    for column in ("aggregator", "difference", "candor s", "byzfl s", "ratio", "at least", ""):
        table.add_column(column, justify="left" if column == "aggregator" else "right")
    for one in found:
        table.add_row(
            one.spec,
            f"{one.difference:.1e}",
            f"{one.candor_s:.4f}",
            f"{one.byzfl_s:.4f}",
            f"{one.ratio:.1f}",
            f"{one.wanted:g}",
            "" if one.good else "short",
        )
    return table


if __name__ == "__main__":
    main()
