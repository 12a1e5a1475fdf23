"""The runs of an audit, each kept by all it depends on, to be judged.

So an audit that was stopped, or is asked for other strategies, runs only what is not there.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np

from candor import __version__
from candor.agent.learning.processes import end_with_parent
from candor.agent.studies.audit.performing import Played, perform
from candor.agent.studies.audit.question import Kind, Question, Run, marks_of, rewarded
from candor.mechanisms.payments.bills import parse_rule
from candor.mechanisms.strategies.specs import names_in
from candor.topologies.encoding.canonical import sha256
from candor.topologies.specs.files import replacing
from candor.topologies.specs.own import import_name
from candor.topologies.specs.specs import is_import_path

RUNS_VERSION: Final = 4
"""Of what is kept of a run: raised when it means something else."""


def play(question: Question, cache: Path, runs: Sequence[Run]) -> list[Played]:
    """Runs that are `alike`, from the folder of those that were done before where they are there
    and whole; the others at once.

    Raises:
        ConfigurationError: the strategy, the task or the rule cannot be used.
    """
    paths = [cache / f"{key_of(question, run)}.npz" for run in runs]
    found = [_held(path, _shape(question, run)) for path, run in zip(paths, runs, strict=True)]
    missing = [place for place, held in enumerate(found) if held is None]
    if missing:
        done = perform(question, [runs[place] for place in missing])
        for place, played in zip(missing, done, strict=True):
            _keep(paths[place], played)
            found[place] = played
    return [one for one in found if one is not None]


def _keep(path: Path, played: Played) -> None:
    # Two audits may share a folder.
    with replacing(path, writer=f".{os.getpid()}") as draft, open(draft, "wb") as file:
        np.savez(file, **{one.name: getattr(played, one.name) for one in fields(Played)})


def key_of(question: Question, run: Run) -> str:
    """Names a run by all it depends on: settings, data, the code of the user's own classes, and the
    version of the program and of what is kept."""
    root = "" if question.data_root is None else str(question.data_root.resolve())
    cluster, strategy = run.cluster, run.strategy
    words = [str(RUNS_VERSION), __version__, question.reward, *map(str, question.checkpoints)]
    words += [run.kind, cluster.fingerprint, *run.liars, strategy, root]
    terms = parse_rule(cluster.payments.rule).terms
    named = [*names_in(strategy), cluster.task.name, cluster.algorithm.name]
    named += [term.name for term in terms]
    for path in filter(is_import_path, named):
        found = find_spec(import_name(path.partition(":")[0]))
        if found is not None and found.origin is not None and Path(found.origin).is_file():
            words.append(sha256(Path(found.origin).read_bytes()).hex())
    return sha256("\n".join(words).encode()).hex()[:32]


def _shape(question: Question, run: Run) -> dict[str, tuple[int, ...]]:
    """The shapes of what is kept of a run, but for `shares`, which only some tasks have."""
    marks, agents = len(marks_of(run.cluster)), len(run.cluster.ids)
    return {
        "marks": (marks,),
        "losses": (marks, agents),
        "paid": (marks, agents, len(parse_rule(run.cluster.payments.rule).terms)),
        "metrics": (2 if run.kind is Kind.BILLED and rewarded(run.cluster) else 0, agents),
        "tuned": (len(question.checkpoints), agents),
        "untrue": (run.cluster.rounds.rounds, agents),
    }


def _held(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Played | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            run = Played(**{one.name: held[one.name] for one in fields(Played)})
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None  # absent, or cut short by a crash: it is run again
    return run if all(getattr(run, n).shape == shape for n, shape in shapes.items()) else None


@contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Iterator[list[Played]]]]:
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare) as pool:

        def mapped(
            function: Callable[..., list[Played]], *each: Iterable[object]
        ) -> Iterator[list[Played]]:
            # As `pool.map`, which cancels by itself what the pool then takes for still to be done.
            waiting = deque(pool.submit(function, *one) for one in zip(*each, strict=False))
            while waiting:
                yield waiting.popleft().result()

        try:
            yield mapped
        except BaseException:
            # What has begun is kept run by run: nothing is worth waiting for.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _prepare() -> None:
    """A Ctrl-C reaches all processes of the terminal: the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
