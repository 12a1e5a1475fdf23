"""Processes of this machine, each of which trains some rows for as long as it lives.

A worker makes its `Learning` once and keeps it, for optimisers and data live there; then it answers
one call after the other. What fails in a worker fails in one line in the process that asked, and
so does a worker that is killed. Ctrl-C is for whoever started them: workers end when told to, or
when their parent is gone.
"""

import io
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from threading import Thread
from typing import Any, Final

import torch
from torch import Tensor

from candor.agent.learning.learner import Learning
from candor.topologies.specs.specs import ConfigurationError, one_line

LOOK_S: Final = 1.0  # between two looks at whether a worker still lives
GRACE_S: Final = 1.0  # for a worker to end by itself: more than one that waits needs
HEEDED_BY_PARENT: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process, this end of the pipe to it, and whom it trains, as an error names them."""

    process: SpawnProcess
    pipe: Connection
    trains: str


class Workers:
    """One process for each of some learners, on one thread of torch each.

    Args:
        makes: what makes them, in the worker; what can be pickled.
        trains: whose rows each trains, for errors.

    Raises:
        ConfigurationError: a learner cannot be made.
        OSError: the system has no room for a process.
    """

    def __init__(self, makes: Sequence[Callable[[], Learning]], trains: Sequence[str]) -> None:
        self._asked = 0
        self._workers: list[_Worker] = []
        # Before processes are waited for at the end of this one, which would take for ever.
        self._end = Finalize(self, _end, args=(self._workers,), exitpriority=10)
        try:
            for each in trains:
                self._workers.append(_started(each))
            self.ask("make", [(make,) for make in makes])
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> list[int | None]:
        """The numbers of the processes."""
        return [worker.process.pid for worker in self._workers]

    def ask(self, name: str, arguments: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """Call a method of each learner, but of those whose arguments are None: what they gave.

        Raises:
            ConfigurationError: one has failed, the first of them; or a worker has died.
        """
        self._asked += 1
        asked = [
            (worker, each)
            for worker, each in zip(self._workers, arguments, strict=True)
            if each is not None
        ]
        for worker, each in asked:
            with _while_alive(worker):
                worker.pipe.send_bytes(_packed((self._asked, name, each)))
        return [self._answer(worker) for worker, _ in asked]

    def _answer(self, worker: _Worker) -> Any:
        """What a worker says to the last question; older answers are of one that was given up."""
        while True:
            with _while_alive(worker):
                number, fault, value = pickle.loads(_heard(worker))
            if number == self._asked:
                break
        if fault is not None:
            raise ConfigurationError(fault)
        return value

    def end(self) -> None:
        """End them all; they keep nothing."""
        self._end()


def _heard(worker: _Worker) -> bytes:
    """The next answer. Whoever a worker has started may hold the ends of its pipes open after its
    death, so that it is looked at now and then."""
    pipe, process = worker.pipe, worker.process
    while pipe not in wait([pipe, process.sentinel], LOOK_S):
        if not process.is_alive() and not pipe.poll():
            raise EOFError
    return pipe.recv_bytes()


@contextmanager
def _while_alive(worker: _Worker) -> Iterator[None]:
    """Tell in one line of a worker that has died, for the pipe to it is broken then."""
    try:
        yield
    except (EOFError, OSError) as exc:
        raise ConfigurationError(_death(worker)) from exc


def _death(worker: _Worker) -> str:
    worker.process.join(GRACE_S)
    code = worker.process.exitcode
    how = f"ended with exit code {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            how = f"was ended by {signal.Signals(-code).name}"
    mend = "OMP_NUM_THREADS=1 trains all in one process, which takes less memory"
    return f"the process that trains {worker.trains} {how}; {mend}"


def _started(trains: str) -> _Worker:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), name=f"trains {trains}")
    # Until it minds signals itself, a worker holds them back, from its first instruction on. The
    # tracker, which comes with the first one, would let them through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED_BY_PARENT)
    try:
        process.start()
    except BaseException:
        here.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
    return _Worker(process, here, trains)


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.is_alive():  # it trains: nobody waits for that
            worker.process.kill()
            worker.process.join()


def _serve(pipe: Connection) -> None:
    """A worker: make what trains, and do what is asked until nobody asks any more."""
    _leave_signals_to_parent()
    end_with_parent()
    sys.stdout = sys.stderr  # the other is the answer of the parent, not what a task prints
    torch.set_num_threads(1)
    learner: Any = None
    while True:
        try:
            asked = pipe.recv_bytes()
        except EOFError:
            return
        number, name, arguments, value, fault = 0, "", (), None, None
        try:
            number, name, arguments = pickle.loads(asked)
            if name == "make":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the parent has made the same, and told
                    learner = arguments[0]()
            else:
                value = getattr(learner, name)(*arguments)
            answer = _packed((number, None, value))
        except ConfigurationError as exc:
            fault = str(exc)
        except BaseException as exc:  # memory, or whatever a user's object does when it is sent
            fault = f"training in a process of its own failed ({one_line(exc)})"
        try:
            pipe.send_bytes(answer if fault is None else _packed((number, fault, None)))
        except OSError:
            return


def _leave_signals_to_parent() -> None:
    """A terminal's Ctrl-C, and who stops a whole group of processes, reach workers as well, whose
    parent may want to end the round and save."""
    for number in HEEDED_BY_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED_BY_PARENT)
    # What a user's loop starts, such as a DataLoader's workers, is ended by SIGTERM.
    os.register_at_fork(after_in_child=lambda: _heed(signal.SIGTERM))


def _heed(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)


def end_with_parent() -> None:
    """End this process when the one that started it is gone: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class _Pickler(pickle.Pickler):
    """Tensors as the bytes of their own numbers, in any type, of a view too; torch's way with
    processes is shared memory, of which containers have little."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor:
            return NotImplemented
        flat = obj.detach().contiguous().flatten()
        return _tensor, (flat.view(torch.uint8).numpy(), obj.dtype, tuple(obj.shape))


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(data).view(dtype).view(shape)


def _packed(value: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()
