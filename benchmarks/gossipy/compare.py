"""Agents times rounds a second of `candor simulate` and of gossipy, on the same task in one run.

    make bench-gossipy                   # an environment of its own, then all of it: a quarter hour
    benchmarks/gossipy/.venv/bin/python benchmarks/gossipy/compare.py --quick

Each simulator has a process of its own a case. They are timed in turns, so that whatever else the
machine does weighs on both, and the ratio is that of the medians. What is the same work and what is
not is in `sides.py`. Candor does more rounds in its turn, for it would be over too soon to be
timed; accuracies are after as many rounds on both sides. gossipy does few rounds of many agents:
its time is proportional to both.
"""

import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Final

import click
import torch
from rich.console import Console
from rich.table import Table
from sides import SIDES, Side, accuracy

from candor.agent.studies.bench.simulation import TASKS, bench_cluster, peak_mib
from candor.topologies.cluster.file import Cluster

TABLE_WIDTH: Final = 150
WORK: Final = 4_000  # agents times rounds of gossipy's turn, some five seconds
QUICK_WORK: Final = 500
CANDOR_TIMES: Final = 16  # as many rounds in Candor's turn
LEARNING_ROUNDS: Final = 4  # at least, before accuracies are compared and anything is timed


@dataclass(frozen=True, slots=True)
class Turn:
    """Agents times rounds over seconds of the clock and of processor time."""

    per_s: float
    per_processor_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """One simulator in one case: medians of its turns, `rounds` in each; mean `accuracy` (0 to 1)
    after `learned` rounds; the process's peak memory, and what it was before agents were made; and
    the ratios to gossipy's medians."""

    simulator: str
    rounds: int
    agent_rounds_per_s: float
    agent_rounds_per_processor_s: float
    learned: int
    accuracy: float
    memory_mib: float
    start_mib: float
    ratio: float = 1.0
    processor_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case: gossipy, Candor on one core and Candor on all of them."""

    task: str
    parameters: int
    agents: int
    results: tuple[Result, ...]


class Worker:
    """A simulator in a process of its own."""

    def __init__(self, stack: ExitStack, simulator: str, task: str, agents: int) -> None:
        context = get_context("spawn")
        self._pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
        self.simulator = simulator
        self._start_mib: float = self._pool.submit(peak_mib).result()
        self._pool.submit(_make, simulator, task, agents).result()
        self._turns: list[Turn] = []

    def learn(self, rounds: int) -> None:
        """The rounds after which accuracies are compared."""
        self._learned = rounds
        self._accuracy: float = self._pool.submit(_learn, rounds).result()

    def turn(self, rounds: int) -> None:
        """Time so many rounds."""
        self._rounds = rounds
        self._turns.append(self._pool.submit(_turn, rounds).result())

    def result(self) -> Result:
        return Result(
            self.simulator,
            self._rounds,
            statistics.median(turn.per_s for turn in self._turns),
            statistics.median(turn.per_processor_s for turn in self._turns),
            self._learned,
            self._accuracy,
            self._pool.submit(peak_mib).result(),
            self._start_mib,
        )


_held: list[tuple[Side, Cluster]] = []  # in a worker's process: its only simulator


def _make(simulator: str, task: str, agents: int) -> None:
    # Two threads that wait for each other by spinning lose most of a core that others use too.
    torch.set_num_threads(1)
    # The number of rounds matters only to what is shown of a run.
    cluster = bench_cluster(task, agents, "none", rounds=1)
    _held.append((SIDES[simulator](cluster), cluster))


def _learn(rounds: int) -> float:
    side, cluster = _held[0]
    side.advance(rounds)
    return accuracy(side, cluster)


def _turn(rounds: int) -> Turn:
    side, cluster = _held[0]
    began, processor_began = time.perf_counter(), time.process_time()
    side.advance(rounds)
    seconds, processor_s = time.perf_counter() - began, time.process_time() - processor_began
    work = len(cluster.ids) * rounds
    return Turn(work / seconds, work / processor_s)


def compare(task: str, agents: int, repeats: int, work: int) -> Comparison:
    """One case, in turns."""
    rounds = -(-work // agents)
    learned = max(rounds, LEARNING_ROUNDS)
    with ExitStack() as stack:
        workers = [Worker(stack, simulator, task, agents) for simulator in SIDES]
        for worker in workers:
            worker.learn(learned)
        for _ in range(repeats):
            for worker in workers:
                worker.turn(rounds * (1 if worker.simulator == "gossipy" else CANDOR_TIMES))
        results = tuple(worker.result() for worker in workers)
    base = results[0]
    parameters = bench_cluster(task, agents, "none", rounds).task.parameters
    return Comparison(task, parameters, agents, tuple(_over(result, base) for result in results))


def _over(result: Result, base: Result) -> Result:
    """The same result with its ratios to another's medians."""
    return replace(
        result,
        ratio=result.agent_rounds_per_s / base.agent_rounds_per_s,
        processor_ratio=result.agent_rounds_per_processor_s / base.agent_rounds_per_processor_s,
    )


def _table(found: list[Comparison]) -> Table:
    table = Table(box=None)
    for column in ("task", "parameters", "agents", "simulator", "rounds", "agents x rounds / s"):
        table.add_column(column, justify="left" if column in ("task", "simulator") else "right")
    for column in ("/ cpu s", "ratio", "cpu ratio", "MiB", "MiB at start", "accuracy", "after"):
        table.add_column(column, justify="right")
    for case in found:
        for side in case.results:
            table.add_row(
                case.task,
                f"{case.parameters:,}",
                f"{case.agents:,}",
                side.simulator,
                f"{side.rounds:,}",
                f"{side.agent_rounds_per_s:,.0f}",
                f"{side.agent_rounds_per_processor_s:,.0f}",
                f"{side.ratio:.1f}",
                f"{side.processor_ratio:.1f}",
                f"{side.memory_mib:,.0f}",
                f"{side.start_mib:,.0f}",
                f"{side.accuracy:.3f}",
                f"{side.learned:,}",
            )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--agents",
    type=click.IntRange(min=6),
    multiple=True,
    default=(100, 1000, 4096),
    show_default=True,
    help="How many agents; once for each number.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="Only 100 agents, three short turns: half a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def main(agents: tuple[int, ...], repeats: int, quick: bool, as_json: bool) -> None:
    """Time gossipy and Candor's simulator in turns, on the same tasks and agents."""
    counts, repeats, work = ((100,), 3, QUICK_WORK) if quick else (agents, repeats, WORK)
    cases = [(task.__name__, count) for task in TASKS for count in counts]
    found: list[Comparison] = []
    console = Console(stderr=True)
    with console.status("") as status:
        for number, (task, count) in enumerate(cases, 1):
            status.update(f"{number} of {len(cases)}: {task}, {count} agents")
            found.append(compare(task, count, repeats, work))
            _, one, every = found[-1].results
            console.print(
                f"{task}, {count:,} agents: {one.ratio:.1f} times as fast on one core, "
                f"{every.ratio:.1f} on all"
            )
    if as_json:
        click.echo(json.dumps([asdict(case) for case in found], indent=2))
    else:
        Console(width=TABLE_WIDTH).print(_table(found))


if __name__ == "__main__":
    main()
