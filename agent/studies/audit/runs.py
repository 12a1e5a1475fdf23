"""The runs of an audit: one simulated with an agent that lies, or honest, and kept to be judged.

Every run is billed once, each term of its rule at price 1: payments never touch learning, and are
linear in the prices. Runs are named by all they depend on, so that an audit that was stopped, or is
asked for other strategies, runs only what is not there.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from candor.agent.algorithms.catalogue import rewards_of
from candor.agent.learning.learner import Learning
from candor.agent.learning.processes import end_with_parent
from candor.agent.learning.rows import learner_of, shards_of
from candor.agent.simulation.evidence import Evidence, settle
from candor.agent.simulation.vectorised import Simulation, divergence
from candor.agent.studies.audit.incentives import Floats
from candor.mechanisms.payments.bills import Payments, parse_rule
from candor.mechanisms.payments.credits import MICRO
from candor.mechanisms.strategies.specs import names_in
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import sha256
from candor.topologies.specs.files import replacing
from candor.topologies.specs.own import import_name
from candor.topologies.specs.specs import ConfigurationError, is_import_path

HONEST: Final = "honest"
PRICE_MAX: Final = 1e12
MARKS_MAX: Final = 32  # rounds after which losses and payments are looked at
SAMPLES: Final = 512  # of a shard, on which an agent's own loss is measured
RUINED: Final = 10.0  # times the loss it began with: whoever ends there has lost


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: runs that differ in their seeds alone, who lies, what it wants.

    `factor` times the rule's own prices, None for prices that are to be found; `weight` of the
    competitors' losses in the reward, 0 for who minds its own; gains up to the share `epsilon` of
    the honest reward are let pass.
    """

    clusters: Sequence[Cluster]
    agent: str
    weight: float = 0.0
    epsilon: float = 0.01
    factor: float | None = None
    data_root: Path | None = None
    initial: Path | None = None

    def liars(self, strategy: str) -> tuple[str, ...]:
        """Who deviates: colluders are two, the agent and its first neighbour."""
        if strategy == HONEST:
            return ()
        if "colluding" not in names_in(strategy):
            return (self.agent,)
        return (self.agent, self.clusters[0].neighbours(self.agent)[0])


def ask(
    clusters: Sequence[Cluster],
    agent: str | None,
    price: str,
    weight: float,
    epsilon: float,
    data_root: Path | None,
    initial: Path | None,
) -> Question:
    """What `candor audit` is asked: the first agent lies if none is named, the price is `auto` or a
    factor.

    Raises:
        ConfigurationError: there is nothing to audit, or no such agent or price.
    """
    first = clusters[0]
    if first.payments.rule == "none":
        raise ConfigurationError(
            "--rule none has no prices to audit; leave it out, with --price 0 for free gains alone"
        )
    factor = None if price == "auto" else _factor(price)
    highest = (factor or 0.0) * max(term.price for term in parse_rule(first.payments.rule).terms)
    if highest > PRICE_MAX:
        raise ConfigurationError(
            f"--price {price}: makes a price of {highest:.3g} credits; at most {PRICE_MAX:.0e}"
        )
    if len(first.ids) < 2:
        raise ConfigurationError("--agents: who is alone has nobody to lie to; give two or more")
    liar = agent or first.ids[0]
    if liar not in first.ids:
        raise ConfigurationError(f"--agent {liar}: no such agent")
    return Question(clusters, liar, weight, epsilon, factor, data_root, initial)


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ConfigurationError(f"--price {text!r}: write auto, or a number from 0 on")
    return value


@dataclass(frozen=True, slots=True)
class Played:
    """One run, looked at after the rounds `marks` (marks,), the first of which is 0.

    `losses` (marks, agents) of each agent's model on its own samples; `paid` (marks, agents, terms)
    net credits until then, each term of the rule at price 1; not finite in a run that diverged.
    Where the rule gives no amounts for what was sent, though the liar's model is sound, they are
    not numbers. `metrics` (2, agents): the metric that counts of the initial model and of the last
    ones, where neighbours give each other by rewards; else (0, agents).
    """

    marks: NDArray[np.int64]
    losses: Floats
    paid: Floats
    metrics: Floats


def play(question: Question, cache: Path, asked: tuple[Cluster, str]) -> Played:
    """A run, from the folder of those that were done before if it is there and whole.

    Raises:
        ConfigurationError: the strategy, the task or the rule cannot be used.
    """
    cluster, strategy = asked
    path = cache / f"{_key(question, cluster, strategy)}.npz"
    terms = len(parse_rule(cluster.payments.rule).terms)
    shape = len(_marks(cluster)), len(cluster.ids), terms
    held = _held(path, shape, metrics=2 if rewarded(cluster) else 0)
    if held is not None:
        return held
    played = _play(question, cluster, strategy)
    # Two audits may share a folder.
    with replacing(path, writer=f".{os.getpid()}") as draft, open(draft, "wb") as file:
        np.savez(file, **asdict(played))
    return played


def _key(question: Question, cluster: Cluster, strategy: str) -> str:
    """Names a run by all it depends on: settings, data and the code of the user's own classes."""
    root = "" if question.data_root is None else str(question.data_root.resolve())
    words = [cluster.fingerprint, *question.liars(strategy), strategy, root]
    terms = parse_rule(cluster.payments.rule).terms
    named = [*names_in(strategy), cluster.task.name, cluster.algorithm.name]
    named += [term.name for term in terms]
    for path in filter(is_import_path, named):
        found = find_spec(import_name(path.partition(":")[0]))
        if found is not None and found.origin is not None and Path(found.origin).is_file():
            words.append(sha256(Path(found.origin).read_bytes()).hex())
    return sha256("\n".join(words).encode()).hex()[:32]


def _held(path: Path, shape: tuple[int, int, int], metrics: int) -> Played | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            values = held["metrics"] if metrics else np.empty((0, shape[1]))
            run = Played(held["marks"], held["losses"], held["paid"], values)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None  # absent, or cut short by a crash: it is run again
    shapes = (run.marks.shape, run.losses.shape, run.paid.shape, run.metrics.shape)
    return run if shapes == (shape[:1], shape[:2], shape, (metrics, shape[1])) else None


def _play(question: Question, cluster: Cluster, strategy: str) -> Played:
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    marks, terms = _marks(cluster), parse_rule(cluster.payments.rule).terms
    data_root, initial = question.data_root, question.initial
    # Its samples are true: whoever trains on false labels is still judged by these.
    learner = learner_of(cluster, data_root, shards_of(cluster), "cpu", initial=initial)
    liars = question.liars(strategy)
    simulation = Simulation(
        cluster, dict.fromkeys(liars, strategy), data_root=data_root, initial=initial, measured=True
    )
    losses = [learner.shard_losses(simulation.parameters, SAMPLES).double().numpy()]
    metrics = [_metrics(learner, simulation)] if rewarded(cluster) else []
    for t in range(1, cluster.rounds.rounds + 1):
        done = simulation.step()
        if not liars and (told := divergence(cluster, {}, done)) is not None:
            raise ConfigurationError(f"all are honest, seed {cluster.seed}: {told}")
        if t in marks:
            losses.append(learner.shard_losses(done.parameters, SAMPLES).double().numpy())
    if rewarded(cluster):
        metrics.append(_metrics(learner, simulation))
    values = np.array(metrics).reshape(-1, len(cluster.ids))
    rows = [cluster.index(agent) for agent in liars or cluster.ids]
    paid = np.zeros((len(marks), len(cluster.ids), len(terms)))
    try:
        shown = simulation.evidence()
        for mark in range(1, len(marks)):
            block = slice(marks[mark - 1], marks[mark])
            evidence = Evidence(shown.energies[block], shown.traces[block])
            paid[mark] = paid[mark - 1] + _paid(cluster, evidence)
    except ConfigurationError:
        # Such a window cannot be billed by anyone. Whoever ruined its own model has lost anyhow.
        with np.errstate(invalid="ignore", over="ignore"):
            kept = losses[-1][rows] < RUINED * losses[0][rows]
        if liars and not kept.all():
            lost = np.full(paid.shape[:2], np.inf), np.full(paid.shape, np.inf)
            return Played(marks, *lost, values)
        paid[:] = np.nan
    return Played(marks, np.stack(losses), paid, values)


def rewarded(cluster: Cluster) -> bool:
    """Whether neighbours give each other what ratings earn, so that lies may cost model quality."""
    return rewards_of(cluster) is not None


def _metrics(learner: Learning, simulation: Simulation) -> list[float]:
    """The metric that counts of each agent's model, by the task as it is: no liar alters it."""
    return [one.value for one in learner.evaluate(simulation.parameters)]


def _marks(cluster: Cluster) -> NDArray[np.int64]:
    """0, ends of windows about evenly spread, and the last round."""
    rounds, window = cluster.rounds.rounds, cluster.payments.window
    every = window * math.ceil(rounds / window / MARKS_MAX)
    return np.array([*range(0, rounds, every), rounds])


def _paid(cluster: Cluster, evidence: Evidence) -> Floats:
    """Net credits (agents, terms), each term of the rule at price 1."""
    by_term = []
    for term in parse_rule(cluster.payments.rule).terms:
        received = settle(cluster, Payments((replace(term, price=1.0),)), evidence)
        by_term.append([-received[agent] / MICRO for agent in cluster.ids])
    return np.array(by_term).reshape(-1, len(cluster.ids)).T


@contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Iterator[Played]]]:
    if jobs == 1:
        yield map
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent) as pool:
        yield pool.map
