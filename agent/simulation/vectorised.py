"""The vectorised runtime: every agent of a run is a row, and a round of traffic one sparse product.

It performs the same algorithm generator as the daemon, draws the same batches and strategies, and
does the same evidence arithmetic on the same sketches, so that it predicts a run's models and
balances up to floating-point rounding. It knows no messages, signatures, faults or deadlines: every
agent hears all its neighbours in every round.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.catalogue import coin_of, limit_of, phases_of, rewards_of
from candor.agent.algorithms.driver import Driver, Outgoing
from candor.agent.algorithms.effects import Heard
from candor.agent.core.deviating import reporting_of
from candor.agent.core.terms import codec_of
from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.learning.reporting import SideBySide
from candor.agent.learning.rows import TrainedRows, shards_of, usable_device
from candor.agent.learning.spread import simulated_learner_of
from candor.agent.simulation.bartering import PREFIX, Bartering
from candor.agent.simulation.bounding import PREFIX as BOUNDING_PREFIX
from candor.agent.simulation.bounding import Bounding
from candor.agent.simulation.evidence import Billing, Evidence, Measurements
from candor.agent.simulation.evidence import settle as settle
from candor.agent.simulation.mixing import Apart, Mixing, RoundMixing, apart_by_taker
from candor.agent.simulation.side_by_side import side_by_side
from candor.agent.tasks import resolve_task
from candor.agent.tasks.measured import Measured
from candor.mechanisms.evidence.influence import Limit
from candor.mechanisms.evidence.phases import Phases
from candor.mechanisms.payments.bills import parse_rule
from candor.mechanisms.rewards.barter import Barter, Rating
from candor.network.codecs import FLOAT32
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

Floats = NDArray[np.float64]

STATED: Final = "stated"
APART: Final = f"{STATED}.apart."  # then phase, taker and giver: what these alone were sent
HEARD: Final = f"{STATED}.heard."  # what attackers go by, see `Reporting.memory`
PRIVATE: Final = "private"  # what agents keep to themselves, as bytes
# What a saved state holds beside that of the algorithm, its trainer and its strategies.
OURS: Final = frozenset(
    {"round", "parameters", "energies", "traces", "products", "updates", "whole"}
)
APART_FROM_STATE: Final = (STATED, PREFIX, BOUNDING_PREFIX)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One finished round: the models `parameters` (agents, dim) after mixing, `losses` and
    `injected_norms` (agents,), the norms from sketches as neighbours measure them; those of the
    updates themselves where nothing is measured. `trajectories` is how many episodes each agent
    sampled, None where the task has none; `moves` in how many exchanges averaging moved each
    agent's policy (agents,), None where no policies are averaged."""

    round: int
    parameters: Tensor
    losses: Floats
    injected_norms: Floats
    trajectories: int | None = None
    moves: Tensor | None = None


@dataclass(frozen=True, slots=True)
class VectorisedResult:
    """A finished run; rows in the order of the cluster file.

    `parameters` (agents, dim) float32 after the last mixing; `balances` net micro-credits received;
    `losses` and `injected_norms` (rounds, agents); `accuracy` is the metric that counts, whatever
    the task calls it.
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
        device: where the models are trained, see `usable_device`.

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
    balances = Billing(cluster, payments)(evidence)
    return VectorisedResult(
        parameters=simulation.parameters.cpu(),
        balances=dict(zip(cluster.ids, balances.tolist(), strict=True)),
        losses=np.stack([this.losses for this in done]),
        injected_norms=np.stack([this.injected_norms for this in done]),
        accuracy={
            agent: measured.value
            for agent, measured in zip(cluster.ids, simulation.evaluate(), strict=True)
        },
        evidence=evidence,
    )


class Simulation:
    """A run under way: `step` performs a round, `state` is what it takes to go on later.

    Args:
        cluster: the run; its keys and endpoints are not used.
        strategies: specs of the agents that do not report honestly, by id; or those of each of
            several runs, whose rows follow each other (`agent.simulation.side_by_side`).
        data_root: where the task finds its data.
        initial: the saved model that the run starts from, if it is not drawn from the seed.
        device: where the models are trained; evidence is always measured on the processor, in
            binary64, which not every accelerator has.
        measured: measure the evidence of every round.
        state: what `state` gave for the same run; without it the run starts.
        threads: how many train agents at the same time, or processes, where each agent trains by
            itself and that takes long; what they learn does not depend on it.
        held_out: the share of everyone's samples that nobody trains on.

    Raises:
        ConfigurationError: the task, a strategy or an id is not usable, there is no such device,
            local phases are of seconds, or the state is another run's.
    """

    def __init__(
        self,
        cluster: Cluster,
        strategies: Mapping[str, str] | Sequence[Mapping[str, str]],
        *,
        data_root: Path | None = None,
        initial: Path | None = None,
        device: str = "cpu",
        measured: bool,
        state: Mapping[str, Tensor] | None = None,
        threads: int = 1,
        held_out: float = 0.0,
    ) -> None:
        if cluster.rounds.pace is not None:
            raise ConfigurationError(
                "pace: in a simulation nobody is slow; leave out --pace, or run the daemons of "
                "`candor testbed`"
            )
        if cluster.algorithm.local_seconds is not None:
            raise ConfigurationError(
                "local_seconds: a simulation has not the hosts' time; give --local-steps or "
                "--local-epochs"
            )
        runs = [strategies] if isinstance(strategies, Mapping) else strategies
        reports = [reporting_of(cluster, one) for one in runs]
        reporting = self._reporting = reports[0] if len(runs) == 1 else SideBySide(reports)
        shards = shards_of(cluster, held_out) * len(runs)
        cluster = side_by_side(cluster, len(runs))
        self._device = usable_device(device)
        self._cluster = cluster
        self._phases = phases_of(cluster.algorithm)
        self._mixing = Mixing(cluster, self._device)
        self._around = [[cluster.index(k) for k in cluster.neighbours(a)] for a in cluster.ids]
        lies = reporting.by_agent()
        self._learner = simulated_learner_of(
            cluster, data_root, shards, device, lies, threads, initial, processes=threads
        )
        self._rows = TrainedRows(self._learner, reporting, self._mass)
        held = dict(state or self._fresh(cluster, data_root, initial))
        if PRIVATE in held:
            self._learner.restore(held.pop(PRIVATE).numpy().tobytes())
        self._check(held, cluster)
        heard = [name for name in held if name.startswith(HEARD)]
        reporting.remember({name.removeprefix(HEARD): held.pop(name) for name in heard})
        self.round = int(held["round"])
        self.parameters = held["parameters"].to(self._device)
        rewards = rewards_of(cluster)
        limit = limit_of(cluster)
        bound = rewards is not None or limit is not None
        needed = measured or bound or self._phases.rows or self._guarded
        self._measured = self._measurements(held) if needed else None
        self._barter = None if rewards is None else self._bartering(rewards, held)
        self._bounding = None if limit is None else self._bounded(limit, held)
        kept = {name: tensor.to(self._device) for name, tensor in held.items() if name not in OURS}
        codec = codec_of(cluster)
        self._driver = Driver(
            cluster.algorithm,
            self._rows,
            None if codec is FLOAT32 else codec.rounded,
            self.parameters,
            {n: tensor for n, tensor in kept.items() if not n.startswith(APART_FROM_STATE)},
            self.round + 1,
            coin_of(cluster),
        )
        self._answer: Tensor | Heard | None = None

    def step(self) -> RoundResult:
        """Perform the next round."""
        for _ in range(self._phases.count):
            out = self._within(self._driver.advance(self._answer))
            self._answer = self._driver.combined(self._exchanged(out))
        assert isinstance(self._answer, Tensor)
        self.round, self.parameters = out.round, self._answer
        if self._measured is None:
            norms = self._rows.reports.norm(dim=1).cpu().double().numpy()
        else:
            norms = self._measured.norms
        losses = self._rows.losses.cpu().double().numpy()
        moves, episodes = self._driver.moves, self._rows.trajectories
        return RoundResult(out.round, self.parameters, losses, norms, episodes, moves)

    def _within(self, out: Outgoing) -> Outgoing:
        """An exchange in which nobody injects more than its bound lets it."""
        measured, bounding = self._measured, self._bounding
        if measured is None or bounding is None:
            return out
        if out.apart:
            raise ConfigurationError(
                "influence: a strategy sends each neighbour another vector, which the others would "
                "prove and bar; such runs are simulated without a bound"
            )
        moved = measured.tried(out.round, out.vectors.cpu().numpy())
        kept = bounding.kept(out.round, moved)
        return self._driver.within(out, kept.tolist(), opens=bounding.opens(out.round))

    def _exchanged(self, out: Outgoing) -> Tensor | Heard:
        """Let every agent hear its givers, and its neighbours measure what it stated."""
        mixing = self._mixing.of(out.round)
        apart = apart_by_taker(out.apart, self._around)
        if self._measured is not None:
            attested = None if out.attested is None else out.attested.cpu().numpy()
            stated = out.vectors.cpu().numpy()
            told = {
                taker: {giver: vector.cpu().numpy() for giver, vector in of.items()}
                for taker, of in apart.items()
            }
            shown = self._measured.observe(out.round, out.phase, stated, attested, told)
            if self._bounding is not None:
                self._bounding.injected(self._measured.moved(out.round))
            if self._follows(out.phase):
                # Not worth a look where nobody lies: honest vectors are refused only where few
                # coordinates that meet in a bucket are all that differs (docs/protocol.md).
                sent = (stated, told) if self._rows.lies else None
                rule = self._phases.rows.get(self._phases.row_rule(out.phase))
                mixing = self._mixing.derived(out.round, rule, *shown, sent)
                self._measured.mixed(out.phase, mixing)
            if self._barter is not None:
                mixing = self._traded(self._measured, self._barter, out)
        self._overhear(out, mixing, apart)
        if out.mixes:
            return mixing.models(out.vectors, apart)
        return mixing.heard(out.vectors, apart)

    def _follows(self, phase: int) -> bool:
        """Whether the rows of a phase follow from what is sent: by a rule, or as some of it may be
        farther away than its sketch says."""
        return bool(self._phases.row_rule(phase)) or self._guarded

    @property
    def _guarded(self) -> bool:
        hideable = self._learner.dim > self._cluster.payments.sketch_size
        return hideable and bool(self._rows.lies) and rewards_of(self._cluster) is None

    @staticmethod
    def _traded(measured: Measurements, barter: Bartering, out: Outgoing) -> RoundMixing:
        """How models are mixed of which neighbours give each other parts; then all are rated."""
        if out.apart:
            raise ConfigurationError(
                "rewards: a strategy sends each neighbour another vector, which the others would "
                "prove and bar; such runs are simulated without rewards"
            )
        mixing = barter.mixing(out.round)
        measured.mixed(out.phase, mixing)
        barter.rate(out.round, measured.injected, measured.stated, measured.step)
        return mixing

    def _overhear(self, out: Outgoing, mixing: RoundMixing, apart: Apart[Tensor]) -> None:
        """Tell attackers that go by it what they were sent, in order of id."""
        listening = self._rows.overhears
        if not listening:
            return
        givers, ids, heard = mixing.givers(), self._cluster.ids, {}
        for row in listening:
            told = apart.get(row, {})
            near = sorted(givers[row], key=ids.__getitem__)
            others = [told.get(k, out.vectors[k]) for k in near]
            if self._barter is not None:
                pairs = zip(near, others, strict=True)
                others = [self._barter.part(vector, ids[k], ids[row]) for k, vector in pairs]
            heard[row] = torch.stack([out.vectors[row], *others])
        self._rows.overheard(out.phase, heard)

    @property
    def stated(self) -> NDArray[np.float32]:
        """The models (agents, dim) that all sent in the last round, where that is measured."""
        assert self._measured is not None
        return self._measured.before[self._phases.model]

    @property
    def untrue(self) -> NDArray[np.bool_]:
        """Who lied in the last round, (agents,): see `TrainedRows`."""
        if not self._rows.lies:
            return np.zeros(len(self._cluster.ids), np.bool_)
        return self._rows.untrue.cpu().numpy()

    def evidence(self) -> Evidence:
        """What was measured and not forgotten."""
        assert self._measured is not None
        return self._measured.shown()

    def check_samples(self) -> None:
        """Look at samples and metric before the first round, see `Learner.check_samples`."""
        self._learner.check_samples(self.parameters[0], self._cluster.ids)
        self._learner.evaluate(self.parameters[:1])

    def forget(self) -> None:
        """Drop the evidence so far, once it is settled."""
        if self._measured is not None:
            self._measured.forget()

    def evaluate(self) -> list[Measured]:
        """The task's metrics of each agent's model, or nan: see `Learner.evaluate`."""
        return self._learner.evaluate(self.parameters)

    def private(self) -> bytes:
        """What agents keep to themselves, see `Learning.private`."""
        return self._learner.private()

    def named(self) -> Mapping[str, Tensor]:
        """What travels of all agents' models by name, (agents, *shape), on the processor."""
        return self._learner.named(self.parameters.cpu())

    def state_dict(self, row: int) -> Mapping[str, Tensor]:
        """The whole model of a row, on the processor."""
        return self._learner.state_dict(self.parameters[row], row)

    def state(self) -> dict[str, Tensor]:
        """All that the rounds to come depend on, by name, on the processor.

        A user's strategy that keeps something of its own between rounds is not in it.
        """
        held = {
            "round": torch.tensor(self.round),
            "parameters": self.parameters,
            **self._driver.state,
        }
        held |= {HEARD + name: vectors for name, vectors in self._reporting.memory.items()}
        if private := self.private():
            held[PRIVATE] = torch.frombuffer(bytearray(private), dtype=torch.uint8)
        if self._measured is not None:
            for phase, stated in self._measured.before.items():
                held[_stated_name(phase, self._phases)] = torch.from_numpy(stated)
            held |= self._kept_apart(self._measured)
            held |= self._barter.state() if self._barter is not None else {}
            held |= self._bounding.state() if self._bounding is not None else {}
            if self._measured.energies:
                held["energies"] = torch.from_numpy(np.stack(self._measured.energies))
                held["traces"] = torch.from_numpy(np.stack(self._measured.traces))
                held["products"] = torch.from_numpy(np.stack(self._measured.products))
            if self._measured.whole:
                held["whole"] = torch.from_numpy(np.stack(self._measured.whole))
            if self._measured.updates:
                held["updates"] = torch.from_numpy(np.stack(self._measured.updates))
        return {name: tensor.cpu().contiguous() for name, tensor in held.items()}

    @staticmethod
    def _kept_apart(measured: Measurements) -> dict[str, Tensor]:
        return {
            f"{APART}{phase}.{taker}.{giver}": torch.from_numpy(vector)
            for phase, apart in measured.before_apart.items()
            for taker, told in apart.items()
            for giver, vector in told.items()
        }

    def _measurements(self, held: Mapping[str, Tensor]) -> Measurements:
        """The neighbours' measurements, carried on from a saved state."""
        names = {_stated_name(phase, self._phases): phase for phase in range(self._phases.count)}
        before = {names[name]: t.numpy() for name, t in held.items() if name in names}
        apart: dict[int, dict[int, dict[int, NDArray[np.float32]]]] = {}
        for name in held:
            if name.startswith(APART):
                phase, taker, giver = map(int, name.removeprefix(APART).split("."))
                told = apart.setdefault(phase, {}).setdefault(taker, {})
                told[giver] = held[name].numpy()
        measured = Measurements(self._cluster, self._mixing.of, before, apart)
        if "energies" in held:
            measured.energies = list(held["energies"].numpy())
            measured.traces = list(held["traces"].numpy())
            measured.products = list(held["products"].numpy())
        if "whole" in held:
            measured.whole = list(held["whole"].numpy())
        if "updates" in held:
            measured.updates = list(held["updates"].numpy())
        for phase in before if self.round else ():
            if self._follows(phase):  # derived anew, of what was stated
                shown = measured.sketched(self.round, phase)
                sent = (before[phase], apart.get(phase, {})) if self._rows.lies else None
                rule = self._phases.rows.get(self._phases.row_rule(phase))
                derived = self._mixing.derived(self.round, rule, *shown, sent)
                measured.mixed(phase, derived)
        return measured

    def _bounded(self, limit: Limit, held: Mapping[str, Tensor]) -> Bounding:
        """What agents have injected in the window, carried on from a saved state."""
        cluster = self._cluster
        size = min(cluster.task.parameters, cluster.payments.sketch_size)
        kept = {name: one for name, one in held.items() if name.startswith(BOUNDING_PREFIX)}
        return Bounding(cluster, limit, size, kept)

    def _bartering(self, rewards: Barter, held: Mapping[str, Tensor]) -> Bartering:
        """What agents think of each other, carried on from a saved state."""
        cluster, measured = self._cluster, self._measured
        assert measured is not None
        size = min(cluster.task.parameters, cluster.payments.sketch_size)
        kept = {name: tensor for name, tensor in held.items() if name.startswith(PREFIX)}
        barter = Bartering(cluster, rewards, self._mixing, size, kept)
        if kept:
            measured.mixed(self._phases.model, barter.mixing_before(self.round))
        return barter

    @property
    def ratings(self) -> Mapping[str, Mapping[str, Rating]]:
        """What each agent thinks of its neighbours and itself; nothing without rewards."""
        return {} if self._barter is None else self._barter.ratings

    def shares(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The same: the reputation, and which share of a model is given for it."""
        if self._barter is None:
            return {}
        count = self._barter.groups.count
        return {
            agent: {k: (r.reputation, r.groups / count) for k, r in of.items()}
            for agent, of in self._barter.ratings.items()
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

    def _mass(self, t: int) -> Tensor:
        return torch.from_numpy(self._mixing.of(t).mass).float().to(self._device)


def divergence(
    cluster: Cluster,
    strategies: Mapping[str, str],
    result: RoundResult,
    byzantine: Collection[str] = (),
) -> str | None:
    """Who is the first whose update of a round is not finite, and what may have done it; None if
    all are finite but those of who attacks. Samples were looked at before: see
    `Learner.check_samples`."""
    sound = np.isfinite(result.injected_norms).tolist()
    ruined = [
        agent
        for agent, ok in zip(cluster.ids, sound, strict=True)
        if not ok and agent not in byzantine
    ]
    if not ruined:
        return None
    others = f" (and those of {len(ruined) - 1} others)" if len(ruined) > 1 else ""
    mend = "a smaller --step-size or fewer --local-steps may help"
    if byzantine:
        mend = f"the attack of {min(byzantine)} may have made it so; see --aggregator"
    elif all(agent in strategies for agent in ruined):  # else the liars were not alone
        mend = f"its strategy {strategies[ruined[0]]} has made it so"
    return (
        f"training diverged: the model of {ruined[0]} in round {result.round}{others} is not "
        f"finite; {mend}"
    )


def _stated_name(phase: int, phases: Phases) -> str:
    """Under which name what was stated in a phase is saved."""
    return STATED if phase == phases.model else f"{STATED}.{phase}"
