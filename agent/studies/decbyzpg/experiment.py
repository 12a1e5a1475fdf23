"""All runs of the study, several at a time, in a directory to resume from."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Final

import torch

from candor.agent.studies.decbyzpg.figures import Cell
from candor.agent.studies.decbyzpg.runs import Run, Setting, keep, kept, run

Progress = Callable[[str, int, int], None]

POLL_S: Final = 0.5


def experiment(
    cells: Sequence[Cell],
    trajectories: int,
    seeds: Sequence[int],
    directory: Path,
    workers: int,
    progress: Progress = lambda _what, _done, _of: None,
) -> dict[Cell, list[Run]]:
    """Run what the directory does not have yet.

    Args:
        cells: what to run, each with every seed.
        trajectories: of an agent, in each run.
        seeds: of the runs.
        directory: made if it is not there.
        workers: processes, of a thread each.
        progress: told what is run, trajectories of an agent done, and of how many.

    Raises:
        ConfigurationError: a setting is refused, or a file of the directory is damaged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    asked = [cell.setting(trajectories, seed) for seed in seeds for cell in cells]
    found = {setting: done for setting in asked if (done := kept(directory, setting)) is not None}
    missing = [setting for setting in asked if setting not in found]
    for done in _runs(missing, directory, workers, len(asked), progress):
        found[done.setting] = done
    return {cell: [found[cell.setting(trajectories, seed)] for seed in seeds] for cell in cells}


def _runs(
    settings: Sequence[Setting],
    directory: Path,
    workers: int,
    of_all: int,
    progress: Progress,
) -> list[Run]:
    """Perform runs; each is kept as soon as it has ended."""
    if not settings:
        return []
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    sampled: Synchronized[int] = context.Value("q", 0)
    before = of_all - len(settings)
    each = settings[0].trajectories
    done: list[Run] = []
    with ProcessPoolExecutor(workers, context, _prepare, (sampled,)) as pool:
        waiting: set[Future[Run]] = {pool.submit(_perform, setting) for setting in settings}
        try:
            while waiting:
                ended, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
                for future in ended:
                    done.append(future.result())
                    keep(directory, done[-1])
                what = f"{before + len(done)} of {of_all} runs done; trajectories"
                progress(what, before * each + sampled.value, of_all * each)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return done


_sampled: "Synchronized[int] | None" = None  # of a worker: what all of them have sampled


def _prepare(sampled: "Synchronized[int]") -> None:
    global _sampled
    _sampled = sampled
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    torch.set_num_threads(1)


def _perform(setting: Setting) -> Run:
    last = 0

    def told(trajectories: int) -> None:
        nonlocal last
        assert _sampled is not None
        with _sampled.get_lock():
            _sampled.value += min(trajectories, setting.trajectories) - last
        last = min(trajectories, setting.trajectories)

    return run(setting, told)
