"""A simulated run on disk: made, carried on, interrupted, resumed and summed up.

It leaves the run directory that a testbed leaves, but for keys, logs and ledgers, which simulated
agents do not have. All that grows with rounds and agents is in one file,
`agent.runs.simulation_file`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from candor.agent.daemon import metrics
from candor.agent.daemon.status import standings
from candor.agent.exits import RunFailed
from candor.agent.learning.rows import usable_device
from candor.agent.runs import simulation_file
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of, make_run_dir
from candor.agent.runs.simulation_file import MODEL, STATE, About, Columns, metrics_of, under
from candor.agent.runs.summary import (
    agreement_of,
    reached,
    rewards_of_run,
    settings_of_run,
    spread,
    write_summary,
    yardsticks,
)
from candor.agent.simulation.evidence import Billing, Unbillable
from candor.agent.simulation.vectorised import Simulation, divergence
from candor.mechanisms.payments.bills import parse_rule
from candor.topologies.cluster.file import Cluster, dump_cluster, load_cluster
from candor.topologies.specs.specs import ConfigurationError

CHECKPOINT_S: Final = 60.0
AGENT_FILES_MAX: Final = 256  # agents that get files of their own


@dataclass(slots=True)
class SimulatedRun:
    """A run under way in its directory; `begun_s` is when it began, were it in one piece."""

    run_dir: Path
    cluster: Cluster
    about: About
    simulation: Simulation
    columns: Columns
    begun_s: float
    device: str
    saved_s: float

    @property
    def round(self) -> int:
        """The last round that is done."""
        return self.simulation.round

    @property
    def rounds(self) -> int:
        """How many there will be."""
        return self.cluster.rounds.rounds

    @property
    def done(self) -> bool:
        return self.round >= self.rounds

    def advance(self) -> None:
        """Perform a round: settle where a window ends, evaluate and save where it is time to.

        Raises:
            RunFailed: somebody's model is not finite, or an update too large to be billed.
            ConfigurationError: the user's own code failed.
        """
        result = self.simulation.step()
        t = result.round
        self.columns.add(
            seconds=torch.tensor(time.monotonic() - self.begun_s, dtype=torch.float64),
            train_loss=torch.from_numpy(result.losses).float(),
            injected_norm=torch.from_numpy(result.injected_norms).float(),
        )
        if result.trajectories is not None:
            self.columns.add(trajectories=torch.tensor(result.trajectories))
        if result.moves is not None:
            self.columns.add(agreement_moves=result.moves.cpu())
        told = divergence(self.cluster, self.about.strategies, result, self.about.byzantine)
        if told is not None:
            self.save()
            raise RunFailed(told)
        last = t == self.rounds
        if last or t % self.cluster.payments.window == 0:
            self._settle(t)
        if last or t % self.about.evaluate_every == 0:
            self._evaluate(t)
        if time.monotonic() - self.saved_s >= CHECKPOINT_S:
            self.save()

    @property
    def told_return(self) -> str:
        """What the last episodes returned, to tell whoever waits; nothing where there are none."""
        losses = self.columns.last("train_loss")
        if losses is None or "trajectories" not in self.columns.rows:
            return ""
        lying = self.about.strategies
        rows = [row for row, agent in enumerate(self.cluster.ids) if agent not in lying]
        return f", return {-float(losses[rows].mean()):.1f}" if rows else ""

    def save(self) -> None:
        """Write down what it takes to go on from here."""
        state = {STATE + name: tensor for name, tensor in self.simulation.state().items()}
        self._write(state)
        self.saved_s = time.monotonic()

    def conclude(self) -> dict[str, Any]:
        """Write what the run leaves behind; the fields of summary.json.

        The models take the place of the state last: until then, whoever is interrupted while the
        yardsticks are trained can resume.
        """
        seconds = time.monotonic() - self.begun_s
        self.save()
        summary = self._summary(seconds)
        if len(self.cluster.ids) <= AGENT_FILES_MAX:
            self._write_agents()
        write_summary(self.run_dir, summary)
        self._write(self._models())
        return summary

    def _write(self, more: Mapping[str, Tensor]) -> None:
        path = self.run_dir / simulation_file.FILE_NAME
        simulation_file.write(path, self.about, self.columns.tensors() | dict(more))

    def _settle(self, t: int) -> None:
        payments = parse_rule(self.cluster.payments.rule)
        before = self.columns.last("balance")
        if payments.settles:
            try:
                received = Billing(self.cluster, payments)(self.simulation.evidence())
            except Unbillable as exc:
                raise RunFailed(f"by round {t} {exc}") from exc
            balance = torch.from_numpy(received) + (0 if before is None else before)
            self.columns.add(balance=balance, settled=torch.tensor(t))
        self.simulation.forget()

    def _evaluate(self, t: int) -> None:
        models = self.simulation.parameters
        if models.device.type == "mps":  # which has no binary64
            models = models.cpu()
        if self.about.byzantine:
            ids, out = self.cluster.ids, set(self.about.byzantine)
            models = models[[row for row, agent in enumerate(ids) if agent not in out]]
        self.columns.add_evaluation(t, self.simulation.evaluate(), spread(models))

    def _models(self) -> dict[str, Tensor]:
        return {MODEL + name: tensor for name, tensor in self.simulation.named().items()}

    def _write_agents(self) -> None:
        columns = self.columns.tensors()
        for row, agent in enumerate(self.cluster.ids):
            data_dir = self.run_dir / "agents" / agent
            data_dir.mkdir(parents=True, exist_ok=True)
            (data_dir / metrics.FILE_NAME).unlink(missing_ok=True)
            with metrics.MetricsWriter(data_dir / metrics.FILE_NAME) as writer:
                for line in metrics_of(columns, row, len(self.cluster.neighbours(agent))):
                    writer.write(line)
            save_file(dict(self.simulation.state_dict(row)), data_dir / "model.safetensors")

    def _summary(self, seconds: float) -> dict[str, Any]:
        ids, about = self.cluster.ids, self.about
        balance = self.columns.last("balance")
        measured = self.columns.measured(len(ids))  # the last round is evaluated
        distance = self.columns.last("consensus_distance")
        return {
            **settings_of_run(self.cluster, about.strategies, about.byzantine),
            "simulated": True,
            "device": self.device,
            **reached(
                self.cluster.task,
                dict(zip(ids, measured, strict=True)),
                about.byzantine,
                about.strategies,
            ),
            **self._agreement(),
            **yardsticks(self.cluster, _path(about.data_root), _path(about.initial), self.device),
            "balances": dict(
                zip(ids, [0] * len(ids) if balance is None else balance.tolist(), strict=True)
            ),
            **rewards_of_run(standings(self.simulation.shares())),
            "consensus_distance": None if distance is None else float(distance),
            "seconds": round(seconds, 3),
        }

    def _agreement(self) -> dict[str, Any]:
        moves, about = self.columns.rows.get("agreement_moves"), self.about
        honest = [row for row, a in enumerate(self.cluster.ids) if a not in about.strategies]
        return {} if not moves else agreement_of(torch.stack(moves)[:, honest].T.tolist())


def start(plan: Plan, run_dir: Path, device: str) -> SimulatedRun:
    """Begin a run in a directory that is new or empty.

    Raises:
        ConfigurationError: a bad setting, no such device, or the directory is not empty.
    """
    device = str(usable_device(device))
    cluster = cluster_of(plan, run_dir, stand_in_entries)
    about = About(
        cluster.fingerprint,
        dict(plan.strategies),
        plan.evaluate_every,
        None if plan.data_root is None else str(plan.data_root),
        None if plan.initial is None else str(plan.initial),
        list(plan.byzantine),
    )
    simulation = _simulation(cluster, about, device, None)
    simulation.check_samples()
    make_run_dir(run_dir)
    (run_dir / "cluster.toml").write_text(dump_cluster(cluster), encoding="utf-8")
    now = time.monotonic()
    run = SimulatedRun(run_dir, cluster, about, simulation, Columns(), now, device, now)
    run.save()
    return run


def resume(run_dir: Path, device: str) -> SimulatedRun:
    """Go on with a run from where it was last saved; on one processor, to the same last bit.

    Raises:
        ConfigurationError: there is none, it has ended, or its file is another run's.
    """
    device = str(usable_device(device))
    about, tensors = simulation_file.read(run_dir / simulation_file.FILE_NAME)
    cluster = load_cluster(run_dir / "cluster.toml")
    if cluster.fingerprint != about.fingerprint:
        raise ConfigurationError(f"{run_dir}: cluster.toml was changed since the run began")
    state = under(STATE, tensors)
    if not state:
        raise ConfigurationError(f"{run_dir}: the run has ended; there is nothing to go on with")
    columns = Columns.of(tensors)
    seconds = columns.last("seconds")
    simulation = _simulation(cluster, about, device, state)
    now = time.monotonic()
    begun = now - (0.0 if seconds is None else float(seconds))
    return SimulatedRun(run_dir, cluster, about, simulation, columns, begun, device, now)


def _simulation(
    cluster: Cluster, about: About, device: str, state: Mapping[str, Tensor] | None
) -> Simulation:
    return Simulation(
        cluster,
        about.strategies,
        data_root=_path(about.data_root),
        initial=_path(about.initial),
        device=device,
        measured=parse_rule(cluster.payments.rule).settles,
        state=state,
        threads=torch.get_num_threads(),  # one a core, unless OMP_NUM_THREADS says otherwise
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
