"""What the neighbours of simulated agents measure, and what they settle by it.

The same arithmetic on the same sketches as `mechanisms.evidence.examiner` does of one statement,
for all agents at once and without any signature.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candor.agent.algorithms import step_schedule
from candor.agent.simulation.mixing import RoundMixing
from candor.mechanisms.evidence.examiner import energy, injected
from candor.mechanisms.evidence.sketch import SignSketch, TraceFold, signs_seed, window_of
from candor.mechanisms.payments.balances import net_balances, windows_of
from candor.mechanisms.payments.bills import Payments
from candor.mechanisms.payments.credits import AmountError
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the neighbours measured: `energies` (rounds, agents), `traces` (rounds, agents, r)."""

    energies: Floats
    traces: Floats


class Observer:
    """What neighbours measure: the injected updates in sketch space, round by round.

    Args:
        cluster: the run.
        mixing: the weights of a round.
        before: what everyone stated in the round before the first one to observe, (agents, dim);
            before round 1 the initial model, which everyone states alike and starts from unmixed.
    """

    def __init__(
        self,
        cluster: Cluster,
        mixing: Callable[[int], RoundMixing],
        before: NDArray[np.float32],
    ) -> None:
        self._run = bytes.fromhex(cluster.fingerprint)
        self._settings = cluster.payments
        self._step_size = step_schedule(cluster.algorithm.step_size, cluster.algorithm.step_decay)
        self._mixing = mixing
        self.before = before
        self._stated_before: Floats = np.empty(0)  # (agents, k), its sketch, signs of round t-1
        self._window = -1
        self.energies: list[Floats] = []  # (agents,) a round
        self.traces: list[NDArray[np.float32]] = []  # (agents, r) a round

    def observe(self, t: int, y: NDArray[np.float32]) -> Floats:
        """Take the y (agents, dim) of round t; the norms (agents,) of what each agent injected."""
        # A diverged row stays a row of numbers that are not finite; it needs no warning here.
        with np.errstate(over="ignore", invalid="ignore"):
            update = self._injected(t, y)
            energies = energy(update)
        # Neighbours refuse an update that is not finite, so nobody claims or pays for it.
        finite = np.isfinite(energies)
        self.energies.append(np.where(finite, energies, 0.0))
        traces = self._fold(update)
        traces[~finite] = 0.0
        self.traces.append(traces)
        return np.sqrt(energies)

    def shown(self) -> Evidence:
        """All that was observed and not forgotten."""
        return Evidence(np.stack(self.energies), np.stack(self.traces).astype(np.float64))

    def forget(self) -> None:
        """Drop what was observed, once it is settled."""
        self.energies, self.traces = [], []

    def _injected(self, t: int, y: NDArray[np.float32]) -> Floats:
        """The sketches (agents, k) of what each agent injected, by the signs of round t."""
        window = window_of(t, self._settings.window)
        if window != self._window:
            self._window = window
            seed = signs_seed(self._run, window)
            self._sketch = SignSketch(seed, y.shape[1], self._settings.sketch_size)
            self._stated_before = self._sketch(self.before)
            self._fold = TraceFold(self._run, window, self._sketch.size)
        stated = self._sketch(y)
        started_from = self._stated_before
        if t > 1:
            started_from = self._mixing(t - 1).sketches(started_from)
        self.before, self._stated_before = y, stated
        return injected(started_from, stated, self._step_size(t) / self._mixing(t).mass)


def settle(cluster: Cluster, payments: Payments, evidence: Evidence) -> dict[str, int]:
    """Everyone's net micro-credits over all windows, a last partial one included.

    Raises:
        ConfigurationError: what was injected gives no amounts.
    """
    received = Settlement(cluster, payments)(evidence)
    return dict(zip(cluster.ids, received.tolist(), strict=True))


class Settlement:
    """Settles evidence whose first round is the first one of a window."""

    def __init__(self, cluster: Cluster, payments: Payments) -> None:
        self._payments = payments
        self._window_rounds = cluster.payments.window
        # Members of a bill are sorted by id, which may not be the order of the cluster file.
        self._order = sorted(range(len(cluster.ids)), key=lambda index: cluster.ids[index])
        place = {cluster.ids[index]: at for at, index in enumerate(self._order)}
        self._around = {place[a]: [place[k] for k in cluster.neighbours(a)] for a in cluster.ids}

    def __call__(self, evidence: Evidence) -> NDArray[np.int64]:
        """Net micro-credits received: (agents,).

        Raises:
            ConfigurationError: what was injected gives no amounts.
        """
        energies, traces = evidence.energies[:, self._order], evidence.traces[:, self._order]
        try:
            windows = windows_of(energies, traces, self._window_rounds)
            received = net_balances(self._payments, self._around, windows)
        except AmountError as exc:
            raise ConfigurationError(
                f"the run diverged: {exc}; use a smaller step size or a milder strategy"
            ) from exc
        balances = np.empty_like(received)
        balances[self._order] = received
        return balances
