"""A grid of simulated runs, one for each graph, aggregator, attack and seed, resumable.

Every finished run is one small file, named by all it depends on, the code of the user's own task
and attacks and candor's version among it: a grid that was stopped, or is asked for more attacks,
runs only what is not there.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from candor import __version__
from candor.agent.learning.processes import end_with_parent
from candor.agent.runs.byzantine import with_byzantine
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of
from candor.agent.simulation.vectorised import Simulation
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import sha256
from candor.topologies.specs.files import json_text, replacing, write_text
from candor.topologies.specs.own import import_name
from candor.topologies.specs.specs import ConfigurationError, is_import_path

NONE: Final = "none"
RUN_ID: Final = Path("robustness")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell is in the grid."""

    topology: str
    aggregator: str
    attack: str
    seed: int


@dataclass(frozen=True, slots=True)
class Reached:
    """What the honest agents of a finished run reached: the task's metric of each, 0 where a model
    is not finite; and who attacked."""

    honest: dict[str, float]
    byzantine: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """A run to perform: `path` is where it is kept."""

    place: Place
    cluster: Cluster
    strategies: dict[str, str]
    path: Path
    data_root: Path | None


_KEPT: Final = TypeAdapter(Reached)


def jobs_of(
    plans: Callable[[str, int], Plan],
    topologies: Sequence[str],
    aggregators: Sequence[str],
    attacks: Sequence[str],
    seeds: Sequence[int],
    count: int,
    run_dir: Path,
) -> list[Job]:
    """All runs of a grid.

    Args:
        plans: the run of a topology and a seed in which all are honest and mix plainly.
        topologies: specs of graphs.
        aggregators: specs; `mean` is plain mixing.
        attacks: strategies of the attackers; `none` is a run in which all are honest.
        seeds: of the runs; who attacks is drawn by them, and the same for all attacks.
        count: how many attack.
        run_dir: where finished runs are kept.

    Raises:
        ConfigurationError: a spec or setting is refused, such as an aggregator below its breakdown
            point.
    """
    jobs = []
    for topology, seed in product(topologies, seeds):
        plan = plans(topology, seed)
        drawn = with_byzantine(plan, f"{count}:zero")
        for aggregator in aggregators:
            algorithm = drawn.algorithm.model_copy(update={"aggregator": aggregator})
            cluster = cluster_of(replace(drawn, algorithm=algorithm), RUN_ID, stand_in_entries)
            for attack in attacks:
                place = Place(topology, aggregator, attack, seed)
                liars = {} if attack == NONE else dict.fromkeys(drawn.byzantine, attack)
                code = sources(plan.task.name, plan.algorithm.name, *liars.values())
                key = _key(cluster, drawn.byzantine, liars, plan.data_root, code)
                path = run_dir / f"{key}.json"
                jobs.append(Job(place, cluster, liars, path, plan.data_root))
    return jobs


def played(
    jobs: Sequence[Job], processes: int, progress: Progress = lambda _what, _done, _of: None
) -> dict[Place, Reached]:
    """What all runs reached; those whose files are there are not run again.

    Raises:
        ConfigurationError: a strategy or the task cannot be used.
    """
    found = {job.place: held for job in jobs if (held := _held(job)) is not None}
    left = [job for job in jobs if job.place not in found]
    progress("runs", len(found), len(jobs))
    for place, reached in _finished(left, processes):
        found[place] = reached
        progress(f"{place.aggregator}, {place.attack}", len(found), len(jobs))
    return {job.place: found[job.place] for job in jobs}


def _finished(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Place, Reached]]:
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job.place, play(job)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
        running = {pool.submit(play, job): job.place for job in jobs}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def play(job: Job) -> Reached:
    """Perform a run and keep what it came to."""
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    cluster = job.cluster
    simulation = Simulation(cluster, job.strategies, data_root=job.data_root, measured=False)
    with np.errstate(all="ignore"):  # what an attack has ruined is not finite, and counts as 0
        for _ in range(cluster.rounds.rounds):
            simulation.step()
    measured = dict(zip(cluster.ids, simulation.evaluate(), strict=True))
    drawn = tuple(job.strategies)
    honest = {
        agent: float(np.nan_to_num(one.value, posinf=0.0, neginf=0.0))
        for agent, one in measured.items()
        if agent not in drawn
    }
    reached = Reached(honest, drawn)
    # Two grids may share a folder.
    with replacing(job.path, writer=f".{os.getpid()}") as draft:
        write_text(Path(draft), json_text({**asdict(reached), "place": asdict(job.place)}))
    return reached


def _key(
    cluster: Cluster,
    drawn: Sequence[str],
    liars: dict[str, str],
    data_root: Path | None,
    code: Sequence[str],
) -> str:
    """Names a run by all it depends on."""
    root = "" if data_root is None else str(data_root.resolve())
    words = [cluster.fingerprint, *drawn, *sorted(set(liars.values())), root, *code, __version__]
    return sha256("\n".join(words).encode()).hex()[:32]


def sources(*specs: str) -> list[str]:
    """Digests of the files of the user's own classes in specs, and of what is imported of the
    modules beside them. They have been imported before, to be checked."""
    parts = {part.partition(" @ ")[0].strip() for spec in specs for part in spec.split(" + ")}
    own = {import_name(part.partition(":")[0]) for part in parts if is_import_path(part)}
    loaded = {
        name: Path(file)
        for name, module in list(sys.modules.items())
        if isinstance(file := getattr(module, "__file__", None), str)
    }
    folders = {loaded[name].parent for name in own & loaded.keys()}
    files = {path for path in loaded.values() if path.parent in folders and path.suffix == ".py"}
    return [sha256(path.read_bytes()).hex() for path in sorted(files)]


def _held(job: Job) -> Reached | None:
    """What was kept; None where it is absent, cut short by a crash, or not of this run."""
    try:
        kept = TypeAdapter(dict[str, object]).validate_json(job.path.read_bytes())
        reached = _KEPT.validate_python({key: kept[key] for key in ("honest", "byzantine")})
    except (OSError, ValidationError, KeyError):
        return None
    honest = set(job.cluster.ids) - job.strategies.keys()
    of_it = (
        kept.get("place") == asdict(job.place)
        and reached.byzantine == tuple(job.strategies)
        and reached.honest.keys() == honest
        and all(map(math.isfinite, reached.honest.values()))
    )
    return reached if of_it else None


@dataclass(frozen=True, slots=True)
class Cell:
    """All seeds of a graph, an aggregator and an attack: the mean over honest agents and seeds, and
    the worst honest agent of all seeds."""

    topology: str
    aggregator: str
    attack: str
    mean: float
    worst: float


def cells_of(found: dict[Place, Reached]) -> list[Cell]:
    """The grid without its seeds, in the order in which it was asked for."""
    groups: dict[tuple[str, str, str], list[Reached]] = {}
    for place, reached in found.items():
        key = (place.topology, place.aggregator, place.attack)
        groups.setdefault(key, []).append(reached)
    made = []
    for key, runs in groups.items():
        values = [np.array(list(run.honest.values())) for run in runs]
        mean = float(np.mean([one.mean() for one in values]))
        made.append(Cell(*key, mean, float(min(one.min() for one in values))))
    return made


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aggregator on a graph: without attackers, and in its worst case. `best` is what the best
    aggregator of the graph reaches without attackers, which is what there is to lose."""

    topology: str
    aggregator: str
    clean: Cell | None
    worst: Cell
    best: float | None

    @property
    def loses(self) -> float | None:
        """What the worst attack costs in the mean, against the best aggregator without attack; None
        where no run is without."""
        return None if self.best is None else self.best - self.worst.mean

    def learns(self, most: float) -> bool:
        """Whether it reaches half of the best without attack, or where that says nothing, as of
        metrics below 0, is within ten times `most` of it; True where that was not run."""
        if self.clean is None or self.best is None:
            return True
        return self.clean.mean >= least_learned(self.best, most)


def least_learned(best: float, most: float) -> float:
    """Below this a mean stands for nothing learned, where `best` can be reached."""
    return best / 2 if best > 0 else best - 10 * most


def verdicts_of(cells: Sequence[Cell]) -> list[Verdict]:
    """Each aggregator of each graph with its worst attack; the first one wins ties.

    Raises:
        ConfigurationError: there is no attack in the grid.
    """
    found = []
    for topology, aggregator in dict.fromkeys((cell.topology, cell.aggregator) for cell in cells):
        row = [one for one in cells if (one.topology, one.aggregator) == (topology, aggregator)]
        clean = next((one for one in row if one.attack == NONE), None)
        attacked = [one for one in row if one.attack != NONE]
        if not attacked:
            raise ConfigurationError("there is nothing to withstand: give an --attack")
        worst = min(attacked, key=lambda one: one.mean)
        best = max(
            (one.mean for one in cells if (one.topology, one.attack) == (topology, NONE)),
            default=None,
        )
        found.append(Verdict(topology, aggregator, clean, worst, best))
    return found
