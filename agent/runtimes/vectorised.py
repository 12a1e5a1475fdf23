"""The vectorised runtime: every agent of a run is a row, and a round of traffic one matrix product.

It performs the same algorithm generator as the daemon, draws the same batches and strategies, and
does the same evidence arithmetic on the same sketches, so that it predicts a run's models and
balances up to floating-point rounding. It knows no messages, signatures, faults or deadlines: every
agent hears all its neighbours in every round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.algorithms import Hyper, resolve_algorithm, step_schedule
from agent.effects import LocalSteps, Mass, Mix, Report
from agent.learner import Learner, verified_initial_parameters
from agent.partition import Shard
from agent.tasks import Task, resolve_task
from agent.tasks.altered import with_altered_data
from mechanisms.balances import net_balances, windows_of
from mechanisms.credits import AmountError
from mechanisms.evidence import energy, injected
from mechanisms.payments import Payments, parse_rule
from mechanisms.sketch import SignSketch, TraceFold, signs_seed, window_of
from mechanisms.strategies import Strategy, StrategyContext
from mechanisms.strategy_specs import canonical_strategy, parse_strategy
from topologies.cluster import Cluster
from topologies.specs import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One finished round: the models `parameters` (agents, dim) after mixing, `losses` and
    `injected_norms` (agents,), the norms from sketches as neighbours measure them."""

    round: int
    parameters: Tensor
    losses: Floats
    injected_norms: Floats


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the neighbours measured: `energies` (rounds, agents), `traces` (rounds, agents, r)."""

    energies: Floats
    traces: Floats


@dataclass(frozen=True, slots=True)
class VectorisedResult:
    """A finished run; rows in the order of the cluster file.

    `parameters` (agents, dim) float32 after the last mixing; `balances` net micro-credits received;
    `losses` and `injected_norms` (rounds, agents); `accuracy` 0 to 1. Losses are of what an agent
    trains on, so of false labels where its strategy alters them.
    """

    parameters: Tensor
    balances: dict[str, int]
    losses: Floats
    injected_norms: Floats
    accuracy: dict[str, float]
    evidence: Evidence


def run_vectorised(
    cluster: Cluster,
    strategies: Mapping[str, str],
    data_root: Path | None = None,
    rounds: int | None = None,
    on_round: Callable[[RoundResult], None] | None = None,
    initial: Path | None = None,
) -> VectorisedResult:
    """Simulate a run.

    Args:
        cluster: the run; its keys and endpoints are not used.
        strategies: specs of the agents that do not report honestly, by id.
        data_root: where the task finds its data.
        rounds: how many, in place of the cluster file's number.
        on_round: called after each round.
        initial: the saved model that the run starts from, if it is not drawn from the seed.

    Raises:
        ConfigurationError: the task, a strategy, the rule or an id is not usable.
    """
    payments = parse_rule(cluster.payments.rule)
    reporting = _Reporting(cluster, strategies)
    task = with_altered_data(resolve_task(cluster.task.name, data_root), reporting.by_row())
    learner = _learner(cluster, task, _shards(cluster))
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    evidence = _Evidence(cluster, x.numpy())
    losses: list[Floats] = []
    norms: list[Floats] = []

    def observe(t: int, y: Tensor, mixed: Tensor, loss: Tensor) -> None:
        losses.append(loss.double().numpy())
        norms.append(evidence.observe(t, y.numpy()))
        if on_round is not None:
            on_round(RoundResult(t, mixed, losses[-1], norms[-1]))

    rows = x.repeat(len(cluster.ids), 1)
    total = cluster.rounds.rounds if rounds is None else rounds

    def mass(t: int) -> Tensor:
        return torch.from_numpy(_masses(cluster, t)).float()

    def mix(y: Tensor, t: int) -> Tensor:
        return torch.from_numpy(cluster.mixing_matrix(t)).float() @ y

    parameters = _train(cluster, learner, rows, total, mass, mix, reporting.report, observe)
    balances = settle(cluster, payments, evidence.shown())
    return VectorisedResult(
        parameters=parameters,
        balances=balances,
        losses=np.stack(losses),
        injected_norms=np.stack(norms),
        accuracy=dict(zip(cluster.ids, learner.evaluate(parameters), strict=True)),
        evidence=evidence.shown(),
    )


def centralised_accuracy(
    cluster: Cluster, data_root: Path | None = None, initial: Path | None = None
) -> float:
    """What one honest agent with everyone's data reaches in as many rounds and steps: 0 to 1.

    Raises:
        ConfigurationError: the task is not usable.
    """
    shard = Shard(0, 1, cluster.task.partition)
    return _without_mixing(cluster, (shard,), data_root, initial)[0]


def alone_accuracy(
    cluster: Cluster, data_root: Path | None = None, initial: Path | None = None
) -> dict[str, float]:
    """What each agent reaches on its own data without any neighbour: 0 to 1 by id.

    Raises:
        ConfigurationError: the task is not usable.
    """
    accuracies = _without_mixing(cluster, _shards(cluster), data_root, initial)
    return dict(zip(cluster.ids, accuracies, strict=True))


class _Reporting:
    """Every agent's strategy, with the rows of one spec handed to one strategy at once."""

    def __init__(self, cluster: Cluster, specs: Mapping[str, str]) -> None:
        self._seed = cluster.seed
        self._neighbours = [[cluster.index(k) for k in cluster.neighbours(a)] for a in cluster.ids]
        self._before: Tensor | None = None  # (agents, dim), the reports of the round before
        rows: dict[str, list[int]] = {}
        for agent, spec in specs.items():
            rows.setdefault(canonical_strategy(spec), []).append(cluster.index(agent))
        self._groups: list[tuple[Strategy, list[int]]] = [
            (parse_strategy(spec), sorted(indices)) for spec, indices in rows.items()
        ]

    def by_row(self) -> dict[int, Strategy]:
        """The strategies of the agents that have one, by row."""
        return {row: strategy for strategy, rows in self._groups for row in rows}

    def report(self, gradient: Tensor, t: int) -> Tensor:
        """The reports (agents, dim) of round t; agents without a spec are honest."""
        reports = gradient.clone() if self._groups else gradient
        for strategy, rows in self._groups:
            context = StrategyContext(t, self._seed, tuple(rows), self._overheard(rows), True)
            reports[rows] = strategy.report(gradient[rows], context)
        self._before = reports
        return reports

    def _overheard(self, rows: list[int]) -> tuple[Tensor, ...] | None:
        before = self._before
        if before is None:
            return None
        return tuple(before[self._neighbours[row]] for row in rows)


class _Evidence:
    """What neighbours measure: the injected updates in sketch space, round by round."""

    def __init__(self, cluster: Cluster, initial: NDArray[np.float32]) -> None:
        self._run = bytes.fromhex(cluster.fingerprint)
        self._settings = cluster.payments
        self._step_size = _step_size(cluster)
        self._mixing = cluster.mixing_matrix
        self._masses = partial(_masses, cluster)
        self._dim = len(initial)
        # Round 0 is the initial model, which everyone states alike and starts from unmixed.
        self._before = np.tile(initial, (len(cluster.ids), 1))  # (agents, dim), the y of round t-1
        self._stated_before: Floats = np.empty(0)  # (agents, k), its sketch, signs of round t-1
        self._window = -1
        self.energies: list[Floats] = []  # (agents,) a round
        self.traces: list[Floats] = []  # (agents, r) a round

    def observe(self, t: int, y: NDArray[np.float32]) -> Floats:
        """Take the y (agents, dim) of round t; the norms (agents,) of what each agent injected."""
        # A diverged row stays a row of numbers that are not finite; it needs no warning here.
        with np.errstate(over="ignore", invalid="ignore"):
            update = self._injected(t, y)
            energies = energy(update)
        # Neighbours refuse an update that is not finite, so nobody claims or pays for it.
        finite = np.isfinite(energies)
        self.energies.append(np.where(finite, energies, 0.0))
        self.traces.append(np.where(finite[:, None], self._fold(update), 0.0).astype(np.float64))
        return np.sqrt(energies)

    def shown(self) -> Evidence:
        """All that was observed."""
        return Evidence(np.stack(self.energies), np.stack(self.traces))

    def _injected(self, t: int, y: NDArray[np.float32]) -> Floats:
        """The sketches (agents, k) of what each agent injected, by the signs of round t."""
        window = window_of(t, self._settings.window)
        if window != self._window:
            self._window = window
            seed = signs_seed(self._run, window)
            self._sketch = SignSketch(seed, self._dim, self._settings.sketch_size)
            self._stated_before = self._sketch(self._before)
            self._fold = TraceFold(self._run, window, self._sketch.size)
        stated = self._sketch(y)
        mixed = self._stated_before if t == 1 else self._mixing(t - 1) @ self._stated_before
        self._before, self._stated_before = y, stated
        return injected(mixed, stated, self._step_size(t) / self._masses(t))


def settle(cluster: Cluster, payments: Payments, evidence: Evidence) -> dict[str, int]:
    """Everyone's net micro-credits over all windows, a last partial one included.

    Raises:
        ConfigurationError: what was injected gives no amounts.
    """
    # Members of a bill are sorted by id, which may not be the order of the cluster file.
    order = sorted(range(len(cluster.ids)), key=lambda index: cluster.ids[index])
    place = {cluster.ids[index]: at for at, index in enumerate(order)}
    around = {place[a]: [place[k] for k in cluster.neighbours(a)] for a in cluster.ids}
    energies, traces = evidence.energies[:, order], evidence.traces[:, order]
    try:
        windows = windows_of(energies, traces, cluster.payments.window)
        received = net_balances(payments, around, windows)
    except AmountError as exc:
        raise ConfigurationError(
            f"the run diverged: {exc}; use a smaller step size or a milder strategy"
        ) from exc
    return {agent: int(received[place[agent]]) for agent in cluster.ids}


def _train(
    cluster: Cluster,
    learner: Learner,
    x: Tensor,
    rounds: int,
    mass: Callable[[int], Tensor],
    mix: Callable[[Tensor, int], Tensor],
    report: Callable[[Tensor, int], Tensor],
    observe: Callable[[int, Tensor, Tensor, Tensor], None],
) -> Tensor:
    """Perform the effects of the cluster's algorithm from x for some rounds; the final x.

    `observe(t, y, mixed, losses)` is called after each round.
    """
    if rounds < 1:
        raise ConfigurationError(f"rounds: {rounds} is below 1")
    step_size = _step_size(cluster)
    algorithm = resolve_algorithm(cluster.algorithm.name)(x, Hyper(step_size))
    effect = next(algorithm)
    losses = torch.zeros(len(x))
    while True:
        match effect:
            case LocalSteps(x, t):
                answer, losses = learner.local_steps(x, t, step_size(t))
            case Report(gradient, t):
                answer = report(gradient, t)
            case Mix(y, t):
                answer = mix(y, t)
                observe(t, y, answer, losses)
                if t == rounds:
                    algorithm.close()
                    return answer
            case Mass(t):
                answer = mass(t)
        effect = algorithm.send(answer)


def _without_mixing(
    cluster: Cluster, shards: tuple[Shard, ...], data_root: Path | None, initial: Path | None
) -> list[float]:
    """Accuracy of each shard's agent after the cluster's rounds of honest training, unmixed."""
    task = resolve_task(cluster.task.name, data_root)
    learner = _learner(cluster, task, shards)
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    rows = x.repeat(len(shards), 1)

    def honest(gradient: Tensor, _t: int) -> Tensor:
        return gradient

    def ignore(_t: int, _y: Tensor, _mixed: Tensor, _losses: Tensor) -> None:
        return None

    def ones(_t: int) -> Tensor:
        return torch.ones(len(shards), 1)

    def keep(y: Tensor, _t: int) -> Tensor:
        return y

    final = _train(cluster, learner, rows, cluster.rounds.rounds, ones, keep, honest, ignore)
    return learner.evaluate(final)


def _learner(cluster: Cluster, task: Task, shards: tuple[Shard, ...]) -> Learner:
    return Learner(task, shards, cluster.algorithm, cluster.task.batch_size, cluster.seed)


def _shards(cluster: Cluster) -> tuple[Shard, ...]:
    count = len(cluster.ids)
    return tuple(Shard(index, count, cluster.task.partition) for index in range(count))


def _masses(cluster: Cluster, t: int) -> Floats:
    """By what the steps of round t are divided: (agents, 1)."""
    mass = cluster.round_weights.of(t).mass
    return np.array([[mass[agent]] for agent in cluster.ids])


def _step_size(cluster: Cluster) -> Callable[[int], float]:
    return step_schedule(cluster.algorithm.step_size, cluster.algorithm.step_decay)
