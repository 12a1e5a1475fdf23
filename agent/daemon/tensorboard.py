"""A daemon's rounds as TensorBoard event files, by torch's own writer; the extra `tensorboard`."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from candor.agent.core.agent import AgentCore
from candor.agent.daemon.callback import named_metrics
from candor.agent.daemon.daemon import RoundOutcome
from candor.agent.daemon.journal import Journal
from candor.mechanisms.evidence.statements import Statement
from candor.mechanisms.payments.credits import MICRO
from candor.topologies.specs.specs import ConfigurationError

FLUSH_S: Final = 10
QUEUE_MAX: Final = 1000
"""Scalars that wait for a slow disk, of some hundred rounds, before the loop would."""


def require() -> Any:
    """The writer's class.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise ConfigurationError(
            "--tensorboard: tensorboard is not installed; pip install 'candor[tensorboard]'"
        ) from exc
    return SummaryWriter


class TensorBoard:
    """Writes each round's scalars to DIR/AGENT; an `Observer`, and a context manager.

    A daemon that is started again goes on in the same directory: what an earlier life wrote of the
    rounds from its first one on is purged. A disk that is full ends the writing, not the run.
    """

    def __init__(self, folder: Path, agent: str, metric: str, journal: Journal) -> None:
        self._make = require()
        self._folder = folder / agent
        self._metric = metric
        self._journal = journal
        self._writer: Any = None
        self.link_bytes: Callable[[], Mapping[str, tuple[int, int]]] = dict

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._guarded(lambda writer: writer.close())

    def started(self, core: AgentCore) -> None:
        """Open the file of this life, whose first round is the core's."""
        try:
            self._writer = self._make(
                self._folder, purge_step=core.round, max_queue=QUEUE_MAX, flush_secs=FLUSH_S
            )
        except OSError as exc:
            self._stop(exc)

    def stated(self, statement: Statement) -> None: ...
    def ticked(self, core: AgentCore) -> None: ...

    def round_over(self, outcome: RoundOutcome, core: AgentCore) -> None:
        """The round's scalars, at its number."""
        scalars = self._scalars(outcome, core)

        def write(writer: Any) -> None:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, outcome.round)

        self._guarded(write)

    def _scalars(self, outcome: RoundOutcome, core: AgentCore) -> dict[str, float]:
        links = self.link_bytes().values()
        scalars = {
            "train_loss": outcome.train_loss,
            "injected_norm": outcome.injected_norm,
            "balance_credits": core.settlement.balance / MICRO,
            "bytes_sent": sum(sent for sent, _ in links),
            "bytes_received": sum(received for _, received in links),
            "neighbours_mixed": outcome.mixed,
        }
        for name, value in named_metrics(outcome.measured, self._metric).items():
            scalars[f"test/{name}"] = value
        if outcome.measured is not None and outcome.measured.local is not None:
            scalars[f"local/{self._metric}"] = outcome.measured.local
        return scalars

    def _guarded(self, write: Callable[[Any], None]) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as exc:
            self._stop(exc)

    def _stop(self, exc: OSError) -> None:
        self._writer = None
        detail = f"{self._folder}: {exc.strerror or exc}; the run goes on without"
        self._journal.log(logging.WARNING, "tensorboard_stopped", {"detail": detail})
