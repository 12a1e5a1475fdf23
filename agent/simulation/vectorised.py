"""The vectorised runtime: every agent of a run is a row, and a round of traffic one sparse product.

It performs the same algorithm generator as the daemon, draws the same batches and strategies, and
does the same evidence arithmetic on the same sketches, so that it predicts a run's models and
balances up to floating-point rounding. It knows no messages, signatures, faults or deadlines: every
agent hears all its neighbours in every round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.driver import trained
from candor.agent.learning.learner import verified_initial_parameters
from candor.agent.learning.rows import learner_of, shards_of, usable_device
from candor.agent.simulation.evidence import Evidence, Observer, Settlement
from candor.agent.simulation.evidence import settle as settle
from candor.agent.simulation.mixing import Mixing
from candor.agent.tasks import resolve_task
from candor.mechanisms.payments.bills import parse_rule
from candor.mechanisms.strategies.lies import Strategy, StrategyContext
from candor.mechanisms.strategies.specs import canonical_strategy, parse_strategy
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One finished round: the models `parameters` (agents, dim) after mixing, `losses` and
    `injected_norms` (agents,), the norms from sketches as neighbours measure them; those of the
    updates themselves where nothing is measured."""

    round: int
    parameters: Tensor
    losses: Floats
    injected_norms: Floats


@dataclass(frozen=True, slots=True)
class VectorisedResult:
    """A finished run; rows in the order of the cluster file.

    `parameters` (agents, dim) float32 after the last mixing; `balances` net micro-credits received;
    `losses` and `injected_norms` (rounds, agents); `accuracy` 0 to 1.
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
    device: str = "cpu",
) -> VectorisedResult:
    """Simulate a run and keep all its evidence, whether or not its rule settles anything.

    Args:
        cluster: the run; its keys and endpoints are not used.
        strategies: specs of the agents that do not report honestly, by id.
        data_root: where the task finds its data.
        rounds: how many, in place of the cluster file's number.
        on_round: called after each round.
        initial: the saved model that the run starts from, if it is not drawn from the seed.
        device: where the models are trained, `cpu` or `cuda`.

    Raises:
        ConfigurationError: the task, a strategy, the rule or an id is not usable.
    """
    payments = parse_rule(cluster.payments.rule)
    total = cluster.rounds.rounds if rounds is None else rounds
    if total < 1:
        raise ConfigurationError(f"rounds: {total} is below 1")
    simulation = Simulation(
        cluster, strategies, data_root=data_root, initial=initial, device=device, measured=True
    )
    done: list[RoundResult] = []
    for _ in range(total):
        result = simulation.step()
        done.append(RoundResult(result.round, torch.empty(0), result.losses, result.injected_norms))
        if on_round is not None:
            on_round(result)
    evidence = simulation.evidence()
    balances = Settlement(cluster, payments)(evidence)
    return VectorisedResult(
        parameters=simulation.parameters.cpu(),
        balances=dict(zip(cluster.ids, balances.tolist(), strict=True)),
        losses=np.stack([this.losses for this in done]),
        injected_norms=np.stack([this.injected_norms for this in done]),
        accuracy=dict(zip(cluster.ids, simulation.evaluate(), strict=True)),
        evidence=evidence,
    )


class Simulation:
    """A run under way: `step` performs a round, `state` is what it takes to go on later.

    Args:
        cluster: the run; its keys and endpoints are not used.
        strategies: specs of the agents that do not report honestly, by id.
        data_root: where the task finds its data.
        initial: the saved model that the run starts from, if it is not drawn from the seed.
        device: where the models are trained; evidence is always measured on the processor.
        measured: measure the evidence of every round.
        state: what `state` gave for the same run; without it the run starts.
        threads: how many train agents at the same time; what they learn does not depend on it.

    Raises:
        ConfigurationError: the task, a strategy or an id is not usable, there is no such device, or
            the state is another run's.
    """

    def __init__(
        self,
        cluster: Cluster,
        strategies: Mapping[str, str],
        *,
        data_root: Path | None = None,
        initial: Path | None = None,
        device: str = "cpu",
        measured: bool,
        state: Mapping[str, Tensor] | None = None,
        threads: int = 1,
    ) -> None:
        self._device = usable_device(device)
        self._reporting = _Reporting(cluster, strategies)
        lies = self._reporting.by_row()
        self._learner = learner_of(cluster, data_root, shards_of(cluster), device, lies, threads)
        self._mixing = Mixing(cluster, self._device)
        held = dict(state or self._fresh(cluster, data_root, initial))
        self._check(held, cluster)
        self.round = int(held["round"])
        self.parameters = held["parameters"].to(self._device)
        self._learner.velocity = self._placed(held.get("velocity"))
        self._reporting.before = self._placed(held.get("reports"))
        self._norms: Floats = np.empty(0)
        self._observer: Observer | None = None
        if measured:
            before = held["stated"].numpy()
            self._observer = Observer(cluster, self._mixing.of, before)
            if "energies" in held:
                self._observer.energies = list(held["energies"].numpy())
                self._observer.traces = list(held["traces"].numpy())
        self._rounds = trained(
            cluster,
            self._learner,
            self.parameters,
            self.round + 1,
            report=self._report,
            mass=self._mass,
            mix=lambda y, t: self._mixing.of(t).models(y),
        )

    def step(self) -> RoundResult:
        """Perform the next round."""
        done = next(self._rounds)
        norms = self._norms
        if self._observer is not None:
            norms = self._observer.observe(done.round, done.stated.cpu().numpy())
        self.round, self.parameters = done.round, done.mixed
        losses = done.losses.double().cpu().numpy()
        return RoundResult(done.round, done.mixed, losses, norms)

    def evidence(self) -> Evidence:
        """What was measured and not forgotten."""
        assert self._observer is not None
        return self._observer.shown()

    def forget(self) -> None:
        """Drop the evidence so far, once it is settled."""
        if self._observer is not None:
            self._observer.forget()

    def evaluate(self) -> list[float]:
        """The task's metric of each agent's model, 0 to 1."""
        return self._learner.evaluate(self.parameters)

    def named(self) -> Mapping[str, Tensor]:
        """All agents' models by parameter name, (agents, *shape), on the processor."""
        return self._learner.named(self.parameters.cpu())

    def state(self) -> dict[str, Tensor]:
        """All that the rounds to come depend on, by name, on the processor.

        A user's strategy that keeps something of its own between rounds is not in it.
        """
        held = {
            "round": torch.tensor(self.round),
            "parameters": self.parameters,
            "velocity": self._learner.velocity,
            "reports": self._reporting.before,
        }
        if self._observer is not None:
            held["stated"] = torch.from_numpy(self._observer.before)
            if self._observer.energies:
                held["energies"] = torch.from_numpy(np.stack(self._observer.energies))
                held["traces"] = torch.from_numpy(np.stack(self._observer.traces))
        return {
            name: tensor.cpu().contiguous() for name, tensor in held.items() if tensor is not None
        }

    def _fresh(
        self, cluster: Cluster, data_root: Path | None, initial: Path | None
    ) -> dict[str, Tensor]:
        task = resolve_task(cluster.task.name, data_root)
        x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
        rows = x.repeat(len(cluster.ids), 1)
        return {"round": torch.tensor(0), "parameters": rows, "stated": rows.clone()}

    def _check(self, state: Mapping[str, Tensor], cluster: Cluster) -> None:
        shape = (len(cluster.ids), self._learner.dim)
        if "parameters" not in state or tuple(state["parameters"].shape) != shape:
            raise ConfigurationError(
                f"the saved state is of another run: its models are not {shape[0]} x {shape[1]}"
            )

    def _placed(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self._device)

    def _report(self, gradient: Tensor, t: int) -> Tensor:
        report = self._reporting.report(gradient, t)
        if self._observer is None:
            self._norms = report.norm(dim=1).double().cpu().numpy()
        return report

    def _mass(self, t: int) -> Tensor:
        return torch.from_numpy(self._mixing.of(t).mass).float().to(self._device)


class _Reporting:
    """Every agent's strategy, with the rows of one spec handed to one strategy at once."""

    def __init__(self, cluster: Cluster, specs: Mapping[str, str]) -> None:
        self._seed = cluster.seed
        self._neighbours = [[cluster.index(k) for k in cluster.neighbours(a)] for a in cluster.ids]
        self.before: Tensor | None = None  # (agents, dim), the reports of the round before
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
            heard = self._overheard(rows)
            own = None if self.before is None else self.before[rows]
            context = StrategyContext(t, self._seed, tuple(rows), heard, True, own)
            reports[rows] = strategy.report(gradient[rows], context)
        # Only strategies read them, and they are as large as the models.
        self.before = reports if self._groups else None
        return reports

    def _overheard(self, rows: list[int]) -> tuple[Tensor, ...] | None:
        before = self.before
        if before is None:
            return None
        return tuple(before[self._neighbours[row]] for row in rows)
