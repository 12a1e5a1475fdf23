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


def perform(question: Question, run: Run) -> Played:
    """Perform a run.

    Raises:
        ConfigurationError: the strategy, the task or the rule cannot be used.
    """
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    return _alone(question, run) if run.kind is Kind.ALONE else _together(question, run)


class _Looking:
    """Looks at the models of a run: on samples of their agents' own, held out where some are.

    These are true: whoever trains on false labels is still judged by them.
    """

    def __init__(self, question: Question, run: Run) -> None:
        cluster, share = run.cluster, question.held_out
        shards = shards_of(cluster, share, of_held=bool(share))
        self._question, self._run = question, run
        self.learner = self._learner(cluster, shards)
        self.losses: list[Floats] = []  # (agents,) each
        self.tuned: list[Floats] = []
        self.shares: list[list[float]] = []
        self.untrue = np.zeros((cluster.rounds.rounds, len(cluster.ids)), np.bool_)
        self._labelled = self._tests(shards) if share and not run.liars else []

    def look(self, x: Tensor, into: list[Floats]) -> None:
        """Note the losses, and the shares, of the models x (agents, dim)."""
        into.append(self.learner.shard_losses(x, SAMPLES).double().numpy())
        if self._labelled:
            self.shares.append([self._share(x, row) for row in range(len(x))])

    def tune(self, x: Tensor, private: bytes) -> None:
        """Let all train on, each on its own samples, as long as they may, from models x (agents,
        dim) and what they keep to themselves; and look."""
        question, cluster = self._question, self._run.cluster
        if not question.checkpoints:
            return
        single = {"local_steps": 1, "local_epochs": None, "local_seconds": None}
        algorithm = cluster.algorithm.model_copy(update=single)
        alike = cluster.model_copy(update={"algorithm": algorithm})
        tuner = self._learner(alike, shards_of(cluster, question.held_out))
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

    def played(self, paid: Floats, metrics: Floats) -> Played:
        """All that was seen."""
        agents = len(self._run.cluster.ids)
        tuned = np.array(self.tuned).reshape(-1, agents)
        shares = np.array(self.shares).reshape(-1, agents)
        marks = marks_of(self._run.cluster)
        return Played(marks, np.stack(self.losses), paid, metrics, tuned, shares, self.untrue)

    def _learner(self, cluster: Cluster, shards: Sequence[Shard]) -> Learning:
        question = self._question
        return learner_of(cluster, question.data_root, shards, "cpu", initial=question.initial)

    def _tests(self, shards: Sequence[Shard]) -> list[Classification]:
        """The task with each agent's held-out samples in place of those that all are tested on."""
        cluster = self._run.cluster
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


def _together(question: Question, run: Run) -> Played:
    cluster, liars = run.cluster, run.liars
    marks, terms = marks_of(cluster), parse_rule(cluster.payments.rule).terms
    looking, billed = _Looking(question, run), run.kind is Kind.BILLED
    simulation = Simulation(
        cluster,
        dict.fromkeys(liars, run.strategy),
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
        if not liars and (told := divergence(cluster, {}, done)) is not None:
            if not billed:  # a larger step than the run's own helps nobody
                return _lost(cluster, marks, len(terms), question)
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
    rows = [cluster.index(agent) for agent in liars or cluster.ids]
    paid = np.zeros((len(marks), len(cluster.ids), len(terms)))
    try:
        if billed:
            windows = -(-marks // cluster.payments.window)
            paid = _paid(cluster, simulation.evidence())[windows]
    except ConfigurationError:
        # Such a window cannot be billed by anyone. Whoever ruined its own model has lost anyhow.
        with np.errstate(invalid="ignore", over="ignore"):
            kept = looking.losses[-1][rows] < RUINED * looking.losses[0][rows]
        if liars and not kept.all():
            lost = _lost(cluster, marks, len(terms), question)
            return replace(lost, metrics=values, untrue=looking.untrue)
        paid[:] = np.nan
    return looking.played(paid, values)


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


def _paid(cluster: Cluster, evidence: Evidence) -> Floats:
    """Net credits after each window, from none on: (windows + 1, agents, terms), each term of the
    rule at price 1."""
    by_term = []
    for term in parse_rule(cluster.payments.rule).terms:
        billing = Billing(cluster, Payments((replace(term, price=1.0),)))
        by_term.append(-billing.by_window(evidence).T / MICRO)
    by_window = np.stack(by_term, axis=-1)
    return np.concatenate([np.zeros_like(by_window[:1]), by_window.cumsum(axis=0)])
