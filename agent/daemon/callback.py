"""A task's own `on_round` in a daemon: called in a thread of its own, which holds up nothing.

While a call is under way one round waits, the latest: those between are left out. So a slow
callback costs neither time nor memory, and sees the last round. What it raises is logged once and
ends nothing.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

from torch import Tensor

from candor.agent.core.agent import AgentCore
from candor.agent.daemon.daemon import RoundOutcome
from candor.agent.daemon.journal import Journal
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.round_over import RoundOver
from candor.mechanisms.evidence.statements import Statement

END_S: Final = 30.0
"""How long the last call may take once the run is over: a file server's time-out, not a day."""


class RoundCallback:
    """Calls `call` with each round that is over; an `Observer`, and a context manager.

    Args:
        call: the task's `on_round`.
        journal: where it is told that a call failed or did not end.
        metric: the name of the metric that counts.
        rounds: of the run.
        named: a model (dim,) as a state_dict of copies.
        end_s: how long the end waits for the calls that are left.
    """

    def __init__(
        self,
        call: Callable[[RoundOver], Any],
        journal: Journal,
        *,
        metric: str,
        rounds: int,
        named: Callable[[Tensor], Mapping[str, Tensor]],
        end_s: float = END_S,
    ) -> None:
        self._call = call
        self._journal = journal
        self._metric = metric
        self._rounds = rounds
        self._named = named
        self._end_s = end_s
        self._failed = False
        self._changed = threading.Condition()
        self._waiting: RoundOver | None = None
        self._ended = False
        # One that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="on_round", daemon=True)
        self.model: Callable[[], Tensor] = lambda: Tensor()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(self._end_s)
        if self._thread.is_alive():
            detail = f"a call had not ended {self._end_s:g} s after the run; it was left"
            self._journal.log(logging.WARNING, "on_round_left", {"detail": detail})

    def started(self, core: AgentCore) -> None: ...
    def stated(self, statement: Statement) -> None: ...
    def ticked(self, core: AgentCore) -> None: ...

    def round_over(self, outcome: RoundOutcome, core: AgentCore) -> None:
        """Have the round told, in place of an earlier one that still waits."""
        told = RoundOver(
            agent=core.settings.agent,
            round=outcome.round,
            rounds=self._rounds,
            train_loss=outcome.train_loss,
            metrics=named_metrics(outcome.measured, self._metric),
            local_metric=None if outcome.measured is None else outcome.measured.local,
            balance=core.settlement.balance,
            model=partial(self._named, self.model()),
        )
        with self._changed:
            self._waiting = told
            self._changed.notify()

    def _run(self) -> None:
        while (told := self._next()) is not None:
            try:
                self._call(told)
            except BaseException as exc:  # the user's own code: whatever it raises, SystemExit too
                self._tell(exc, told.round)

    def _next(self) -> RoundOver | None:
        """The round to tell of, waited for; None when there is none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waiting is not None)
            told, self._waiting = self._waiting, None
        return told

    def _tell(self, exc: BaseException, number: int) -> None:
        if self._failed:
            return
        self._failed = True
        words = " ".join(str(exc).split())
        detail = f"task: on_round() failed in round {number} ({type(exc).__name__}: {words})"
        with suppress(OSError):  # a disk that is full ends the daemon by its own writes
            self._journal.log(logging.WARNING, "on_round_failed", {"detail": detail})


def named_metrics(measured: Measured | None, name: str) -> dict[str, float]:
    """All metrics of a model by name; `name` is that of the one that counts."""
    if measured is None:
        return {}
    return {name: measured.value, **measured.metrics}
