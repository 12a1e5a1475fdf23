"""One run of an audit, performed: everyone together or each alone, and looked at as it goes.

Every run is billed once, each term of its rule at price 1: payments never touch learning, and are
linear in the prices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.steps import step_schedule
from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.learning.learner import Learning
from candor.agent.learning.rows import learner_of, shards_of
from candor.agent.runs.baselines import alone_rounds
from candor.agent.simulation.evidence import Billing, Evidence
from candor.agent.simulation.side_by_side import RUNS_MAX, fits, side_by_side
from candor.agent.simulation.vectorised import Simulation, divergence
from candor.agent.studies.audit.incentives import Floats
from candor.agent.studies.audit.question import Kind, Question, Run, marks_of, rewarded
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.classification import Classification, LabelledData
from candor.agent.tasks.held_out import with_held_out
from candor.agent.tasks.partition import Shard
from candor.mechanisms.payments.bills import Payments, parse_rule
from candor.mechanisms.payments.credits import MICRO
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

SAMPLES: Final = 512  # of a shard, on which an agent's own loss is measured
ROWS: Final = 120  # simulated at once: more leave the cache
RUINED: Final = 10.0  # times the loss it began with: whoever ends there has lost


@dataclass(frozen=True, slots=True)
class Played:
    """One run, looked at after the rounds `marks` (marks,), the first of which is 0.

    `losses` (marks, agents) of each agent's model on its own samples, those that are held out where
    some are; `tuned` (checkpoints, agents) of the last one after steps of fine-tuning, from none
    on; `shares` (marks + checkpoints, agents) of those samples that are told right, in honest runs
    of a task of classes, else (0, agents). `paid` (marks, agents, terms) net credits until then,
    each term of the rule at price 1, 0 in runs that are not billed; not finite in a run that
    diverged. Where the rule gives no amounts for what was sent, though the liar's model is sound,
    they are not numbers. `metrics` (2, agents): the metric that counts of the initial model and of
    the last ones, where neighbours give each other by rewards; else (0, agents). `untrue` (rounds,
    agents): who reported something else than follows from its samples.
    """

    marks: NDArray[np.int64]
    losses: Floats
    paid: Floats
    metrics: Floats
    tuned: Floats
    shares: Floats
    untrue: NDArray[np.bool_]


def perform(question: Question, runs: Sequence[Run]) -> list[Played]:
    """Perform runs that are `alike`, or one.

    Raises:
        ConfigurationError: the strategy, the task or the rule cannot be used.
    """
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    if runs[0].kind is Kind.ALONE:
        return [_alone(question, run) for run in runs]
    return _together(question, runs)


def alike(question: Question, runs: Sequence[Run]) -> list[list[int]]:
    """Which of some runs, by place, are performed at once: some of one cluster, where that can be.
    Honest ones are not, as who lies beside them would have their neighbours look for what is
    hidden."""
    parts: dict[str, list[list[int]]] = {}
    task = resolve_task(question.clusters[0].task.name, question.data_root)
    for place, run in enumerate(runs):
        together = bool(run.liars) and fits(run.cluster, task, run.strategy)
        some = parts.setdefault(f"{run.kind} {run.cluster.fingerprint}" if together else "", [])
        most = max(1, min(RUNS_MAX, ROWS // len(run.cluster.ids))) if together else 1
        if not some or len(some[-1]) >= most:
            some.append([])
        some[-1].append(place)
    return [one for some in parts.values() for one in some]


class _Looking:
    """Looks at the models of runs: on samples of their agents' own, held out where some are.

    These are true: whoever trains on false labels is still judged by them.
    """

    def __init__(self, question: Question, run: Run, runs: int = 1) -> None:
        cluster, share = run.cluster, question.held_out
        shards = shards_of(cluster, share, of_held=bool(share)) * runs
        self._question, self._cluster, self._runs = question, cluster, runs
        self.learner = self._learner(cluster, shards)
        self.losses: list[Floats] = []  # (runs x agents,) each
        self.tuned: list[Floats] = []
        self.shares: list[list[float]] = []
        self.untrue = np.zeros((cluster.rounds.rounds, len(shards)), np.bool_)
        self._labelled = self._tests(shards) if share and not run.liars else []

    def look(self, x: Tensor, into: list[Floats]) -> None:
        """Note the losses, and the shares, of the models x (runs x agents, dim)."""
        into.append(self.learner.shard_losses(x, SAMPLES).double().numpy())
        if self._labelled:
            self.shares.append([self._share(x, row) for row in range(len(x))])

    def tune(self, x: Tensor, private: bytes) -> None:
        """Let all train on, each on its own samples, as long as they may, from models x (runs x
        agents, dim) and what they keep to themselves; and look."""
        question, cluster = self._question, self._cluster
        if not question.checkpoints:
            return
        single = {"local_steps": 1, "local_epochs": None, "local_seconds": None}
        algorithm = cluster.algorithm.model_copy(update=single)
        alike = cluster.model_copy(update={"algorithm": algorithm})
        tuner = self._learner(alike, shards_of(cluster, question.held_out) * self._runs)
        tuner.restore(private)
        last, sound = cluster.rounds.rounds, x.isfinite().all(dim=1)
        x = torch.where(sound[:, None], x, 0.0)
        step_size = step_schedule(algorithm.step_size, algorithm.step_decay)(last)
        velocity: Tensor | None = None
        for step in range(question.checkpoints[-1] + 1):
            if step:
                done = tuner.local_steps(x, last + step, step_size, velocity)
                x, velocity = torch.sub(x, done.update, alpha=step_size), done.velocity
            if step in question.checkpoints:
                self.learner.restore(tuner.private())
                self.look(x, self.tuned)
                self.tuned[-1][~sound.numpy()] = np.inf

    def played(self, paid: Floats, metrics: Floats, number: int = 0) -> Played:
        """All that was seen of a run."""
        agents = len(self._cluster.ids)
        rows = slice(number * agents, (number + 1) * agents)
        tuned = np.array(self.tuned).reshape(-1, self._runs * agents)[:, rows]
        shares = np.array(self.shares).reshape(-1, self._runs * agents)[:, rows]
        losses, untrue = np.stack(self.losses)[:, rows], self.untrue[:, rows]
        return Played(marks_of(self._cluster), losses, paid, metrics, tuned, shares, untrue)

    def _learner(self, cluster: Cluster, shards: Sequence[Shard]) -> Learning:
        question = self._question
        return learner_of(cluster, question.data_root, shards, "cpu", initial=question.initial)

    def _tests(self, shards: Sequence[Shard]) -> list[Classification]:
        """The task with each agent's held-out samples in place of those that all are tested on."""
        cluster = self._cluster
        task = resolve_task(cluster.task.name, self._question.data_root)
        if not isinstance(task, Classification):
            return []
        parted = cast(Task, with_held_out(task, shards))
        tests = []
        for shard in shards:
            inputs, labels = load_data(parted, shard, cluster.seed)[:2]
            own = partial(LabelledData, inputs, labels, inputs, labels)
            tests.append(Classification(task.build_model, own))
        return tests

    def _share(self, x: Tensor, row: int) -> float:
        test = self._labelled[row]
        model = test.build_model()
        model.load_state_dict(self.learner.state_dict(x[row], row))
        return test.evaluate(model.eval())


def _alone(question: Question, run: Run) -> Played:
    """Honest training without any neighbour."""
    cluster = run.cluster
    looking = _Looking(question, run)
    shards = shards_of(cluster, question.held_out)
    files = question.data_root, question.initial
    learner = learner_of(cluster, files[0], shards, "cpu", initial=files[1])
    task = resolve_task(cluster.task.name, files[0])
    x = verified_initial_parameters(task, cluster.task, cluster.seed, files[1])
    marks = marks_of(cluster)
    looking.look(x.repeat(len(shards), 1), looking.losses)
    for t, models in enumerate(alone_rounds(cluster, shards, learner, *files), 1):
        if t in marks:
            looking.learner.restore(learner.private())
            looking.look(models, looking.losses)
    looking.tune(models, learner.private())
    terms = len(parse_rule(cluster.payments.rule).terms)
    nothing = np.zeros((len(marks), len(shards), terms))
    return looking.played(nothing, np.empty((0, len(shards))))


def _together(question: Question, runs: Sequence[Run]) -> list[Played]:
    run, cluster = runs[0], runs[0].cluster
    marks, terms = marks_of(cluster), parse_rule(cluster.payments.rule).terms
    looking, billed = _Looking(question, run, len(runs)), run.kind is Kind.BILLED
    simulation = Simulation(
        cluster,
        [dict.fromkeys(one.liars, one.strategy) for one in runs],
        data_root=question.data_root,
        initial=question.initial,
        measured=billed,
        held_out=question.held_out,
    )
    looking.look(simulation.parameters, looking.losses)
    metrics = [_metrics(looking.learner, simulation)] if billed and rewarded(cluster) else []
    for t in range(1, cluster.rounds.rounds + 1):
        done = simulation.step()
        looking.untrue[t - 1] = simulation.untrue
        if not run.liars and (told := divergence(cluster, {}, done)) is not None:
            if not billed:  # a larger step than the run's own helps nobody
                return [_lost(cluster, marks, len(terms), question)]
            raise ConfigurationError(f"all are honest, seed {cluster.seed}: {told}")
        if t in marks:
            if question.held_out:
                looking.learner.restore(simulation.private())
            looking.look(done.parameters, looking.losses)
    if metrics:
        metrics.append(_metrics(looking.learner, simulation))
    if question.held_out:
        looking.tune(simulation.parameters, simulation.private())
    values = np.array(metrics).reshape(-1, len(cluster.ids))
    nothing = np.zeros((len(marks), len(cluster.ids), len(terms)))
    seen = [looking.played(nothing, values, number) for number in range(len(runs))]
    if not billed:
        return seen
    paid = _paid(cluster, len(runs), simulation.evidence())
    return [_charged(question, *one) for one in zip(runs, seen, paid, strict=True)]


def _charged(question: Question, run: Run, seen: Played, paid: Floats | None) -> Played:
    """A run with what was `paid` by window (windows + 1, agents, terms), None where nobody can bill
    that."""
    cluster = run.cluster
    if paid is not None:
        return replace(seen, paid=paid[-(-seen.marks // cluster.payments.window)])
    rows = [cluster.index(agent) for agent in run.liars or cluster.ids]
    # Whoever ruined its own model has lost anyhow.
    with np.errstate(invalid="ignore", over="ignore"):
        kept = seen.losses[-1][rows] < RUINED * seen.losses[0][rows]
    if run.liars and not kept.all():
        lost = _lost(cluster, seen.marks, seen.paid.shape[-1], question)
        return replace(lost, metrics=seen.metrics, untrue=seen.untrue)
    return replace(seen, paid=np.full_like(seen.paid, np.nan))


def _lost(cluster: Cluster, marks: NDArray[np.int64], terms: int, question: Question) -> Played:
    """A run that diverged."""
    agents = len(cluster.ids)
    losses = np.full((len(marks), agents), np.inf)
    tuned = np.full((len(question.checkpoints), agents), np.inf)
    nothing = np.empty((0, agents))
    untrue = np.zeros((cluster.rounds.rounds, agents), np.bool_)
    paid = np.full((*losses.shape, terms), np.inf)
    return Played(marks, losses, paid, nothing, tuned, nothing, untrue)


def _metrics(learner: Learning, simulation: Simulation) -> list[float]:
    """The metric that counts of each agent's model, by the task as it is: no liar alters it."""
    return [one.value for one in learner.evaluate(simulation.parameters)]


def _paid(cluster: Cluster, runs: int, evidence: Evidence) -> list[Floats | None]:
    """Of each of some runs side by side the net credits after each window, from none on: (windows +
    1, agents, terms), each term of the rule at price 1; None where a window has no amounts."""
    beside, agents = side_by_side(cluster, runs), len(cluster.ids)
    places = [slice(first, first + agents) for first in range(0, runs * agents, agents)]
    by_term = []
    try:
        for term in parse_rule(cluster.payments.rule).terms:
            billing = Billing(beside, Payments((replace(term, price=1.0),)))
            by_term.append(-billing.by_window(evidence).T / MICRO)
    except ConfigurationError:
        if runs == 1:
            return [None]
        return [_paid(cluster, 1, evidence.of(rows))[0] for rows in places]
    by_window = np.stack(by_term, axis=-1)
    paid = np.concatenate([np.zeros_like(by_window[:1]), by_window.cumsum(axis=0)])
    return [paid[:, rows] for rows in places]
