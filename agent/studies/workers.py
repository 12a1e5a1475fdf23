"""Runs of a study on several processes, which tell how far they are."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from typing import Final, TypeVar

import torch

Job = TypeVar("Job")
Done = TypeVar("Done")
Progress = Callable[[str, int, int], None]

POLL_S: Final = 0.5


def performed(
    jobs: Sequence[Job],
    perform: Callable[[Job, Callable[[int], None]], Done],
    workers: int,
    told: Callable[[int, int], None],
) -> Iterator[Done]:
    """What jobs give, in the order in which they end.

    Args:
        jobs: each is given to a process, as is what it gives.
        perform: a function of a module; it is told to tell how many steps of its job are done.
        workers: processes, of a thread each; if it is one, all is done in this one.
        told: hears how many jobs have ended, and how many steps all have done.
    """
    if workers == 1 or not jobs:
        yield from _one_by_one(jobs, perform, told)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    steps: Synchronized[int] = context.Value("q", 0)
    ended = 0
    with ProcessPoolExecutor(workers, context, _prepare, (steps,)) as pool:
        waiting: set[Future[Done]] = {pool.submit(_perform, perform, job) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
                for future in done:
                    ended += 1
                    yield future.result()
                told(ended, steps.value)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def resumed(
    found: dict[Job, Done],
    jobs: Sequence[Job],
    perform: Callable[[Job, Callable[[int], None]], Done],
    workers: int,
    steps: tuple[str, int],
    progress: Progress,
) -> Iterator[Done]:
    """What jobs give that are not among those `found`, in the order in which they end.

    Args:
        found: what came of those that have ended earlier.
        jobs: all of them.
        perform: as of `performed`.
        workers: as of `performed`.
        steps: of what a job is made, and of how many.
        progress: told what is done, how many steps, and of how many.
    """
    (what, each), of_all = steps, len(jobs)
    missing = [job for job in jobs if job not in found]
    before = of_all - len(missing)

    def told(ended: int, done: int) -> None:
        say = f"{before + ended} of {of_all} runs done; {what}"
        progress(say, before * each + done, of_all * each)

    yield from performed(missing, perform, workers, told)


def _one_by_one(
    jobs: Sequence[Job],
    perform: Callable[[Job, Callable[[int], None]], Done],
    told: Callable[[int, int], None],
) -> Iterator[Done]:
    ended = before = last = 0

    def at(steps: int) -> None:
        nonlocal last
        last = steps
        told(ended, before + steps)

    for job in jobs:
        yield perform(job, at)
        ended, before, last = ended + 1, before + last, 0


_steps: "Synchronized[int] | None" = None  # of a worker: what all of them have done


def _prepare(steps: "Synchronized[int]") -> None:
    global _steps
    _steps = steps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    torch.set_num_threads(1)


def _perform(perform: Callable[[Job, Callable[[int], None]], Done], job: Job) -> Done:
    last = 0

    def told(steps: int) -> None:
        nonlocal last
        assert _steps is not None
        with _steps.get_lock():
            _steps.value += steps - last
        last = steps

    return perform(job, told)
