"""What a daemon leaves in its data directory while it runs: metrics, status and sketches."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Self

from candor.agent.core.agent import AgentCore, Stage
from candor.agent.daemon.daemon import OUT_OF_DESCRIPTORS, RoundOutcome
from candor.agent.daemon.metrics import FILE_NAME as METRICS_NAME
from candor.agent.daemon.metrics import (
    SKETCHES_NAME,
    MetricsWriter,
    RoundMetrics,
    read_metrics,
)
from candor.agent.daemon.participation import Heard, Taken, View
from candor.agent.daemon.status import NeighbourStatus, State, Status, StatusFile, read_status
from candor.mechanisms.evidence.statements import Statement
from candor.topologies.cluster.file import DEFAULT_METRIC, Better
from candor.topologies.specs.specs import ConfigurationError

STATUS_EVERY_S: Final = 0.25

_STATES: Final[Mapping[Stage, State]] = {
    Stage.STARTING: "starting",
    Stage.REJOINING: "starting",
    Stage.RUNNING: "training",
    Stage.SETTLING: "settling",
    Stage.LEAVING: "settling",
    Stage.DONE: "done",
}


class Recorder:
    """Writes metrics.csv, status.json and, when asked, sketches.f64; use as a context manager.

    `taken`: whom the agent mixes in a round; `since`: the first in which it is in the run. What
    earlier lives wrote in metrics.csv counts on.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        run_id: str,
        fingerprint: str,
        rounds: int,
        record_sketches: bool,
        taken: Taken,
        metric: str = DEFAULT_METRIC,
        better: Better = "higher",
        since: int = 1,
    ) -> None:
        self._data_dir = data_dir
        self._run_id = run_id
        self._fingerprint = fingerprint
        self._rounds = rounds
        self._metric = metric
        self._better = better
        self._record_sketches = record_sketches
        self._taken = taken
        self._status = StatusFile(data_dir)
        self._stack = ExitStack()
        self._sketches: BinaryIO | None = None
        self._stated = b""  # the sketch of the round under way
        self._last: RoundMetrics | None = None
        self._evaluated: RoundMetrics | None = None  # the last round that was
        # Rounds, of earlier lives too: alone, and by neighbour those in which it got no weight.
        self._alone = 0
        self._view = View(since=since)
        self._weightless: Counter[str] = Counter()
        self._began = time.monotonic()
        self._written_s = float("-inf")
        self.link_bytes: Callable[[], Mapping[str, tuple[int, int]]] = dict
        self.last_error: Callable[[], tuple[float, str] | None] = lambda: None
        self._error_before = _last_error(data_dir)

    def __enter__(self) -> Self:
        path = self._data_dir / METRICS_NAME
        self._metrics = self._stack.enter_context(MetricsWriter(path))
        for metrics in read_metrics(path):
            self._count(metrics)
        if self._record_sketches:
            path = self._data_dir / SKETCHES_NAME
            self._sketches = self._stack.enter_context(path.open("ab"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def started(self, core: AgentCore) -> None:
        """Round 1, or the round of a re-entry, begins."""
        self._write(core)

    def stated(self, statement: Statement) -> None:
        """Keep the sketch of a statement until its round is over: the distances between agents show
        the consensus."""
        self._stated = statement.sketch

    def round_over(self, outcome: RoundOutcome, core: AgentCore) -> None:
        """One line of metrics; the status at most every quarter of a second. A round that an
        earlier life has ended, too, has its line."""
        if self._last is not None and outcome.round <= self._last.round:
            return
        found = outcome.measured
        sent, received = self._bytes()
        self._keep_sketch()
        metrics = RoundMetrics(
            round=outcome.round,
            seconds=time.monotonic() - self._began,
            train_loss=outcome.train_loss,
            test_accuracy=None if found is None else found.value,
            injected_norm=outcome.injected_norm,
            balance=core.settlement.balance,
            bytes_sent=sent,
            bytes_received=received,
            neighbours_mixed=outcome.mixed,
            missing=outcome.missing,
            local_metric=None if found is None else found.local,
            metrics={} if found is None else found.metrics,
            trajectories=outcome.trajectories,
            agreement_moves=outcome.agreement_moves,
            weightless=outcome.weightless,
        )
        self._metrics.write(metrics)
        self._count(metrics)
        self.ticked(core)

    def _count(self, metrics: RoundMetrics) -> None:
        """A round of this life, or of an earlier one."""
        self._last = metrics
        if metrics.test_accuracy is not None:
            self._evaluated = metrics
        self._alone += metrics.alone
        self._weightless.update(metrics.weightless)
        self._view.count(metrics.round, self._taken(metrics.round), metrics.missing)

    def _keep_sketch(self) -> None:
        """A row for the next line of metrics: cut first are those of rounds that had none, as of an
        agent that was killed between the two."""
        if self._sketches is not None:
            self._sketches.truncate(self._metrics.rounds * len(self._stated))
            self._sketches.write(self._stated)
            self._sketches.flush()

    def ticked(self, core: AgentCore) -> None:
        """Keep the status fresh while nothing else happens."""
        if time.monotonic() - self._written_s < STATUS_EVERY_S:
            return
        try:
            self._write(core)
        except OSError as exc:  # with the next one, when there are descriptors again
            if exc.errno not in OUT_OF_DESCRIPTORS:
                raise

    def ended(self, core: AgentCore, state: State) -> None:
        """The last word."""
        self._write(core, state)

    def _bytes(self) -> tuple[int, int]:
        links = self.link_bytes().values()
        return sum(sent for sent, _ in links), sum(received for _, received in links)

    def _write(self, core: AgentCore, state: State | None = None) -> None:
        self._written_s = time.monotonic()
        sent, received = self._bytes()
        last, found, agent = self._last, self._evaluated, core.settings.agent
        error_s, error = self.last_error() or self._error_before
        self._status.write(
            Status(
                run_id=self._run_id,
                agent=agent,
                fingerprint=self._fingerprint,
                pid=os.getpid(),
                state=state or ("mixing" if core.waits_for else _STATES[core.stage]),
                round=last.round if last else 0,
                rounds=self._rounds,
                train_loss=last.train_loss if last else None,
                test_accuracy=None if found is None else found.test_accuracy,
                injected_norm=last.injected_norm if last else None,
                balance=core.settlement.balance,
                beyond_credit=core.beyond_credit,
                alone_rounds=self._alone,
                bytes_sent=sent,
                bytes_received=received,
                neighbours=self._neighbours(core),
                seconds=round(time.monotonic() - self._began, 3),
                metric=self._metric,
                better=self._better,
                metrics={} if found is None else found.metrics,
                local_metric=None if found is None else found.local_metric,
                performed_rounds=self._view.performed,
                since_round=self._view.since,
                last_error=error,
                last_error_s=error_s,
                score=None if (own := core.rating(agent, agent)) is None else own.score,
            )
        )

    def _neighbours(self, core: AgentCore) -> dict[str, NeighbourStatus]:
        links = self.link_bytes()
        heard = {agent: self._view.heard.get(agent, Heard()) for agent in core.neighbours}
        return {
            agent: NeighbourStatus(
                state=neighbour.state,
                last_round=max(neighbour.last_round, heard[agent].last),
                due_rounds=heard[agent].due,
                mixed_rounds=heard[agent].mixed,
                balance=core.settlement.edge_balance(agent),
                reason=core.why_absent(agent),
                bytes_sent=links.get(agent, (0, 0))[0],
                bytes_received=links.get(agent, (0, 0))[1],
                weightless_rounds=self._weightless[agent],
                misrated=neighbour.misrated,
                waited_s=round(core.patience.waited_s[agent], 3),
                missed=core.patience.missed[agent],
                withheld=core.settlement.withheld(agent),
                **_rated(core, agent),
            )
            for agent, neighbour in core.neighbours.items()
        }


def _last_error(data_dir: Path) -> tuple[float | None, str | None]:
    """What went wrong in an earlier life, and when."""
    try:
        before = read_status(data_dir)
    except ConfigurationError:  # none, or one that a power cut has left half written
        return None, None
    return before.last_error_s, before.last_error


def _rated(core: AgentCore, neighbour: str) -> dict[str, float]:
    """What the agent and a neighbour said last of each other, where models are traded."""
    agent, trade = core.settings.agent, core.examiner.terms.trade
    ours, theirs = core.rating(agent, neighbour), core.rating(neighbour, agent)
    told: dict[str, float] = {}
    if trade is not None and ours is not None:
        share = ours.groups / trade.groups.count
        told |= {"reputation": ours.reputation, "score": ours.score, "share": share}
    if trade is not None and theirs is not None:
        told |= {"rated": theirs.reputation, "given": theirs.groups / trade.groups.count}
    return told
