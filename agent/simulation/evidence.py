"""What the neighbours of simulated agents measure, and what they settle by it.

The same arithmetic on the same sketches as `mechanisms.evidence.examiner` does of one statement,
for all agents at once and without any signature. Where daemons estimate energies by fresh sketches,
whose signs a last bit changes, a simulation has them. Nobody is barred here for sending its
neighbours different vectors: such an agent is measured by the one that it states to its first
neighbour by id, and each taker by what it was sent itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.algorithms.catalogue import phases_of
from candor.agent.algorithms.steps import step_schedule
from candor.agent.core.terms import fresh_of
from candor.agent.simulation.mixing import NO_SKETCHES, Apart, RoundMixing
from candor.mechanisms.evidence.examiner import ENERGY_MAX, energy, injected, inner_products
from candor.mechanisms.evidence.fresh import Fresh
from candor.mechanisms.evidence.phases import How, Part
from candor.mechanisms.evidence.sketch import SignSketch, TraceFold, signs_seed, window_of
from candor.mechanisms.payments.balances import net_balances, windows_of
from candor.mechanisms.payments.bills import Payments
from candor.mechanisms.payments.credits import AmountError
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

Floats = NDArray[np.float64]
BLOCK: Final = 2**14  # coordinates of all agents at a time
Vectors = Mapping[int, Mapping[int, NDArray[np.float32]]]
"""What takers were sent that others were not, by taker and giver."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the neighbours measured: `energies` (rounds, agents), `traces` (rounds, agents, r) and
    inner `products` (rounds, agents, W) with the rounds of the same window, up to its own; the
    first of the rounds is number `start`; `whole` (rounds, agents) are the energies of the vectors
    themselves, where sketches may hide some."""

    energies: Floats
    traces: Floats
    products: Floats
    start: int = 1
    whole: Floats | None = None

    def of(self, agents: slice) -> "Evidence":
        """That of some of them."""
        whole = None if self.whole is None else self.whole[:, agents]
        energies, traces = self.energies[:, agents], self.traces[:, agents]
        return Evidence(energies, traces, self.products[:, agents], self.start, whole)


class Measurements:
    """What neighbours measure: the injected updates in sketch space, exchange by exchange.

    Args:
        cluster: the run.
        mixing: the weights of a round.
        before: by phase, what everyone stated in the round before the first one to observe,
            (agents, dim); before round 1 the initial model, which everyone states alike and starts
            from unmixed.
        before_apart: the same of what some takers were sent apart.
    """

    def __init__(
        self,
        cluster: Cluster,
        mixing: Callable[[int], RoundMixing],
        before: Mapping[int, NDArray[np.float32]],
        before_apart: Mapping[int, Vectors] = MappingProxyType({}),
    ) -> None:
        self._run = bytes.fromhex(cluster.fingerprint)
        self._settings = cluster.payments
        self._fresh = fresh_of(cluster)
        self._phases = phases_of(cluster.algorithm)
        self._step_size = step_schedule(cluster.algorithm.step_size, cluster.algorithm.step_decay)
        self._mixing = mixing
        self.before = dict(before)
        self.before_apart = dict(before_apart)
        # By phase and signs of the present window: of the round before, mixed; and of this round.
        self._started: dict[int, Floats] = {}
        self._stated: dict[int, Floats] = {}
        self._apart: dict[int, Apart[Floats]] = {}
        self._mixed_by: dict[int, RoundMixing] = {}
        self._tried: tuple[NDArray[np.float32], Floats] | None = None
        self._window = -1
        self._round = 0
        self.energies: list[Floats] = []  # (agents,) a round
        self.traces: list[NDArray[np.float32]] = []  # (agents, r) a round
        self.products: list[Floats] = []  # (agents, W) a round
        self.updates: list[Floats] = []  # of the present window's rounds, (agents, k)
        self._finite = np.ones(len(cluster.ids), np.bool_)
        self.whole: list[Floats] = []  # (agents,) a round, where sketches may hide some

    def observe(
        self,
        t: int,
        phase: int,
        v: NDArray[np.float32],
        attested: NDArray[np.float32] | None = None,
        apart: Vectors = MappingProxyType({}),
    ) -> tuple[Floats, Apart[Floats]]:
        """Take what all state in a phase of round t: v (agents, dim), what some are sent apart, and
        the aggregates (agents, dim) that v was stepped from, if any. Answers the sketches (agents,
        k) of v, and of what was sent apart."""
        if phase == 0 and self._round != t:
            self._turn(t, v.shape[1])
        tried, self._tried = self._tried, None
        same = tried is not None and np.may_share_memory(tried[0], v)
        self._stated[phase] = tried[1] if tried and same else self._sketch(v)
        self._apart[phase] = _sketches(self._sketch, apart)
        if phase == self._phases.charged:
            self._measure(t, phase, attested)
            if self._fresh is not None:
                self.whole.append(self._whole(t, phase, v))
        if self._phases.carried(phase):
            self.before[phase] = v
            self.before_apart[phase] = apart
        return self._stated[phase], self._apart[phase]

    def tried(self, t: int, v: NDArray[np.float32]) -> Floats:
        """What all would inject (agents, k), times their step sizes as if all masses were one, if
        they stated v (agents, dim) in round t; of one exchange a round. `observe` follows."""
        if self._round != t:
            self._turn(t, v.shape[1])
        self._stated[0] = self._sketch(v)
        self._tried = v, self._stated[0]
        with np.errstate(over="ignore", invalid="ignore"):
            return self._rated(t, self._injected(t, 0, None))

    def moved(self, t: int) -> Floats:
        """What all injected in round t, times the same."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._rated(t, self.injected)

    def _rated(self, t: int, update: Floats) -> Floats:
        return self.step * self._mixing(t).mass * update

    @property
    def stated(self) -> Floats:
        """The sketches (agents, k) of the models stated in the last round."""
        return self._stated[self._phases.model]

    @property
    def norms(self) -> Floats:
        """The norms (agents,) of what each agent injected in the last charged exchange."""
        return self._norms

    def mixed(self, phase: int, mixing: RoundMixing) -> None:
        """How the vectors of the last exchange were mixed."""
        self._mixed_by[phase] = mixing

    def shown(self) -> Evidence:
        """All that was observed and not forgotten."""
        traces = np.stack(self.traces).astype(np.float64)
        start = self._round - len(traces) + 1
        whole = np.stack(self.whole) if len(self.whole) == len(self.energies) else None
        return Evidence(np.stack(self.energies), traces, np.stack(self.products), start, whole)

    def forget(self) -> None:
        """Drop what was observed, once it is settled."""
        self.energies, self.traces, self.products, self.whole = [], [], [], []

    def sketched(self, t: int, phase: int) -> tuple[Floats, Apart[Floats]]:
        """The sketches (agents, k) of what was stated in a phase of the round before, and of what
        was sent apart, under the signs of round t."""
        v = self.before[phase]
        sketch = self._sketch_of(window_of(t, self._settings.window), v.shape[1])
        return sketch(v), _sketches(sketch, self.before_apart.get(phase, {}))

    def _sketch_of(self, window: int, dim: int) -> SignSketch:
        return SignSketch(signs_seed(self._run, window), dim, self._settings.sketch_size)

    def _turn(self, t: int, dim: int) -> None:
        """Begin a round: what the one before stated, under the signs of this one's window."""
        self._round = t
        stated, self._stated = self._stated, {}
        apart, self._apart = self._apart, {}
        window = window_of(t, self._settings.window)
        if window != self._window:
            self._window = window
            self._sketch = self._sketch_of(window, dim)
            self._fold = TraceFold(self._run, window, self._sketch.size)
            stated = {phase: self._sketch(vectors) for phase, vectors in self.before.items()}
            told = self.before_apart.items()
            apart = {phase: _sketches(self._sketch, vectors) for phase, vectors in told}
        self._started = {}
        for phase in self.before:
            value = stated[phase]
            if t > 1:
                mixing = self._mixed_by.get(phase, self._mixing(t - 1))
                value = mixing.sketches(value, apart.get(phase, NO_SKETCHES))
            self._started[phase] = value

    def _measure(self, t: int, phase: int, attested: NDArray[np.float32] | None) -> None:
        # A diverged row stays a row of numbers that are not finite; it needs no warning here.
        with np.errstate(over="ignore", invalid="ignore"):
            update = self._injected(t, phase, attested)
            energies = energy(update)
        # Neighbours refuse an update that is not finite, so nobody claims or pays for it.
        finite = self._finite = np.isfinite(energies)
        self.energies.append(np.where(finite, energies, 0.0))
        self.injected = update
        traces = self._fold(update)
        traces[~finite] = 0.0
        self.traces.append(traces)
        self._multiply(t, np.where(finite[:, np.newaxis], update, 0.0))
        self._norms = np.sqrt(energies)

    def _multiply(self, t: int, update: Floats) -> None:
        """The products of an update (agents, k) with those of its window, itself included."""
        place = (t - 1) % self._settings.window
        self.updates = [*(self.updates[-place:] if place else []), update]
        products = np.zeros((len(update), self._settings.window))
        for at, earlier in enumerate(self.updates, place + 1 - len(self.updates)):
            products[:, at] = inner_products(earlier, update)
        self.products.append(products)

    def _whole(self, t: int, phase: int, v: NDArray[np.float32]) -> Floats:
        """The energies (agents,) of what was injected by stating v (agents, dim) themselves."""
        before = self.before.get(phase) if self._phases.phases[phase].parts else None
        mixing = self._mixed_by.get(phase, self._mixing(t - 1)) if t > 1 else None
        found = np.zeros(len(v))
        for low in range(0, v.shape[1], BLOCK):
            some = slice(low, low + BLOCK)
            with np.errstate(over="ignore", invalid="ignore"):
                base = np.zeros_like(v[:, some], dtype=np.float64)
                if before is not None:
                    base = before[:, some].astype(np.float64)
                    base = (
                        base if mixing is None else mixing.sketches(base, self._told(phase, some))
                    )
                found += energy(injected(base, v[:, some].astype(np.float64), self.step))
        # Nobody claims or pays for what is not finite.
        return np.where(np.isfinite(found) & self._finite, found, 0.0)

    def _told(self, phase: int, some: slice) -> Apart[Floats]:
        """Some coordinates of what takers were sent apart in the round before."""
        return {
            taker: {giver: vector[some].astype(np.float64) for giver, vector in told.items()}
            for taker, told in self.before_apart.get(phase, {}).items()
        }

    def _injected(self, t: int, phase: int, attested: NDArray[np.float32] | None) -> Floats:
        """The sketches (agents, k) of what each agent injected."""
        stated = self._stated[phase]
        step = self._step_size(t) / self._mixing(t).mass
        direct = self._phases.phases[phase].direct
        self.step = np.full_like(step, -1.0) if direct else step  # of statements, (agents, 1)
        base = np.zeros_like(stated)
        for place, part in enumerate(self._phases.phases[phase].parts):
            value = self._part(t, part, attested)
            value = -step * value if part.stepped else value
            base = value if place == 0 else base + value
        return injected(base, stated, self.step)

    def _part(self, t: int, part: Part, attested: NDArray[np.float32] | None) -> Floats:
        if part.how is How.OWN:
            return self._stated[part.phase]
        if part.how is How.AGGREGATE:
            assert attested is not None
            return self._sketch(attested)
        if part.before:
            first = np.zeros_like(self._started[self._phases.model])
            return self._started.get(part.phase, first)
        mixing = self._mixed_by.get(part.phase, self._mixing(t))
        return mixing.sketches(self._stated[part.phase], self._apart[part.phase])


def _sketches(sketch: SignSketch, apart: Vectors) -> Apart[Floats]:
    """What was sent apart, sketched."""
    return {
        taker: dict(zip(told, sketch(np.stack(list(told.values()))), strict=True))
        for taker, told in apart.items()
    }


class Unbillable(ConfigurationError):
    """What was injected is so large that it gives no amounts."""


def settle(cluster: Cluster, payments: Payments, evidence: Evidence) -> dict[str, int]:
    """Everyone's net micro-credits over all windows, a last partial one included.

    Raises:
        Unbillable: what was injected gives no amounts.
    """
    received = Billing(cluster, payments)(evidence)
    return dict(zip(cluster.ids, received.tolist(), strict=True))


class Billing:
    """Settles evidence whose first round is the first one of a window."""

    def __init__(self, cluster: Cluster, payments: Payments) -> None:
        self._payments = payments
        self._ids = cluster.ids
        self._window_rounds = cluster.payments.window
        self._fresh = fresh_of(cluster)
        # Members of a bill are sorted by id, which may not be the order of the cluster file.
        self._order = sorted(range(len(cluster.ids)), key=lambda index: cluster.ids[index])
        place = {cluster.ids[index]: at for at, index in enumerate(self._order)}
        self._around = {place[a]: [place[k] for k in cluster.neighbours(a)] for a in cluster.ids}

    def __call__(self, evidence: Evidence) -> NDArray[np.int64]:
        """Net micro-credits received: (agents,).

        Raises:
            Unbillable: what was injected gives no amounts.
        """
        return np.asarray(self.by_window(evidence).sum(axis=1))

    def by_window(self, evidence: Evidence) -> NDArray[np.int64]:
        """The same in each window: (agents, windows).

        Raises:
            Unbillable: what was injected gives no amounts.
        """
        energies, traces = evidence.energies[:, self._order], evidence.traces[:, self._order]
        products = evidence.products[:, self._order]
        worst = self._ids[int(evidence.energies.max(axis=0).argmax())]
        told = f"the run diverged: updates of {worst} are too large to be billed"
        if self._payments.settles and energies.max() > ENERGY_MAX:  # no neighbour would take them
            raise Unbillable(f"{told}; use a smaller step size or a milder strategy")
        try:
            whole = self._whole(evidence)
            windows = windows_of(energies, traces, products, self._window_rounds, whole)
            first = window_of(evidence.start, self._window_rounds)
            received = net_balances(self._payments, self._around, windows, first)
        except AmountError as exc:
            raise Unbillable(f"{told} ({exc})") from exc
        balances = np.empty_like(received)
        balances[self._order] = received
        return balances

    def _whole(self, evidence: Evidence) -> tuple[Floats, Fresh] | None:
        """The whole energies in order of id, and how they are compared with what sketches show."""
        if evidence.whole is None or self._fresh is None:
            return None
        return evidence.whole[:, self._order], self._fresh
