"""Does any lie pay? Honest and deviating runs on the same seeds, judged by reward and payments.

One agent deviates, all others are honest. Learning does not depend on payments, so each pair of
runs is simulated once and billed afterwards, at any prices of the rule's terms. The reward is a
loss saved: that of the agent's own model on its own samples, or that against the competitors'
(`mechanisms.incentives.competitive`). After the library of strategies, an optimiser looks for a
better lie at the prices found, and the prices are set again with it on the list.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Final
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from agent.algorithms import step_schedule
from agent.runtimes import best_response
from agent.runtimes.simulated_evidence import Evidence, settle
from agent.runtimes.training import learner_of, shards_of
from agent.runtimes.vectorised import Simulation
from agent.tasks import resolve_task
from agent.tasks.classification import Classification
from mechanisms.credits import MICRO
from mechanisms.games_sgd import Constants, suggest_price
from mechanisms.incentives import (
    Deviation,
    PriceWindow,
    competitive,
    price_window,
    suggested_prices,
)
from mechanisms.payments import Payments, parse_rule
from topologies.canonical import sha256
from topologies.cluster import Cluster
from topologies.specs import ConfigurationError

Floats = NDArray[np.float64]

STRATEGIES: Final = (
    "scale:0.5",
    "scale:1.25",
    "scale:2",
    "scale:4",
    "zero",
    "noise:0.5",
    "sign-flip",
    "alternating-flip",
    "random-direction",
    "stale-copy",
    "conform:0.5",
    "conform:-0.5 + scale:0.75",
    "partial:0.5",
    "colluding:2",
)
"""What an audit judges if it is not told, beside `label-flip` for tasks of classes and an
exaggeration in the last third of the rounds."""
MARKS_MAX: Final = 32  # rounds after which losses and payments are looked at
SAMPLES: Final = 512  # of a shard, on which an agent's own loss is measured
SEARCH_SEEDS: Final = 2  # on which candidates are tried; what is found is judged on all
_ROUNDING: Final = 1e-9
RUINED: Final = 10.0  # times the loss it began with: whoever ends there has lost
_CONVEXITY: Final = 1e-4  # of the smoothness; less curvature makes no dearer lie
PASSES: Final = 3  # of search and new prices, at most


_COLLUDING: Final = re.compile(r"(^|\+ )colluding\b")
_USERS: Final = re.compile(r"\b([A-Za-z_][\w.]*):[A-Z]\w*")  # module:Class within a spec


def library(cluster: Cluster, data_root: Path | None) -> list[str]:
    """The strategies that are judged by default on runs like this one."""
    last_third = 1 + 2 * cluster.rounds.rounds // 3
    specs = [*STRATEGIES, f"scale:4 @ {last_third}-"]
    if isinstance(resolve_task(cluster.task.name, data_root), Classification):
        specs.append("label-flip")
    return specs


@dataclass(frozen=True, slots=True)
class Played:
    """One run, looked at after the rounds `marks` (marks,), the first of which is 0.

    `losses` (marks, agents) of each agent's model on its own samples; `paid` (marks, agents, terms)
    net credits until then, each term of the rule at price 1; not finite in a run that diverged.
    """

    marks: NDArray[np.int64]
    losses: Floats
    paid: Floats


@dataclass(frozen=True, slots=True)
class Judged:
    """A strategy against honesty: its deviation at the end of the run, and by mark; of colluders,
    means of both.

    `gains` (seeds, marks) and `charges` (seeds, marks, terms): what it had gained and been charged,
    had the run ended there. `searched`: found by the optimiser, not of the library.
    """

    deviation: Deviation
    gains: Floats
    charges: Floats
    searched: bool = False

    @property
    def strategy(self) -> str:
        """Its spec."""
        return self.deviation.strategy

    def net(self, prices: Floats) -> Floats:
        """The gain left at prices (terms,) by mark: (seeds, marks)."""
        left: Floats = self.gains - self.charges @ prices if self.deviation.finite else self.gains
        return left


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit of one agent's lies under a rule.

    `terms` (terms,) names the rule's; `prices` (terms,) those judged at; `epsilon` and `reward` in
    units of loss, the latter what honest training saves the agent. `window`: factors on the prices.
    `honest_paid` (runs x agents, terms): what honest agents among themselves pay, at price 1.
    `theory`: see `theory_price`.
    """

    agent: str
    marks: NDArray[np.int64]
    judged: tuple[Judged, ...]
    terms: tuple[str, ...]
    prices: Floats
    epsilon: float
    reward: float
    honest_paid: Floats
    theory: float

    @property
    def window(self) -> PriceWindow:
        """The factors on the prices at which honesty is the best response."""
        return price_window((one.deviation for one in self.judged), self.prices, self.epsilon)

    @property
    def rule(self) -> str:
        """The rule at the prices judged, as a spec."""
        parts = [
            f"{term}{'@' if ':' in term else ':'}{price:.4g}"
            for term, price in zip(self.terms, self.prices, strict=True)
            if price > 0
        ]
        return " + ".join(parts) or "none"

    def honest_payments(self) -> Floats:
        """What honest agents pay at the prices: (runs x agents,), net; below 0 they are paid."""
        paid: Floats = self.honest_paid @ self.prices
        return paid

    def profitable(self, *, free: bool = False) -> list[str]:
        """The strategies whose mean net gain exceeds epsilon, the best first; with `free` what they
        gain without payments."""
        prices = np.zeros_like(self.prices) if free else self.prices
        means = {one.strategy: float(one.deviation.net(prices).mean()) for one in self.judged}
        # At prices that stop a lie exactly, rounding may leave it a hair more.
        most = self.epsilon + _ROUNDING * self.reward
        found = [strategy for strategy, mean in means.items() if mean > most]
        return sorted(found, key=lambda strategy: -means[strategy])


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
        if strategy == "honest":
            return ()
        if not _COLLUDING.search(strategy):
            return (self.agent,)
        return (self.agent, self.clusters[0].neighbours(self.agent)[0])


def theory_price(cluster: Cluster, weight: float) -> float:
    """Where to start: the price of `peer-prediction` at which added noise stops to pay, were the
    loss a quadratic that these steps can train (Dorner et al., E.4 with the sharp threshold).

    `weight` of the competitors' losses; who minds its own model alone has nothing from noise.
    """
    algorithm, degrees = cluster.algorithm, [len(cluster.neighbours(a)) for a in cluster.ids]
    schedule = step_schedule(algorithm.step_size, algorithm.step_decay)
    steps = np.array([schedule(t) for t in range(1, cluster.rounds.rounds + 1)])
    players = max(3, 1 + round(float(np.mean(degrees))))
    smoothness = 1 / float(steps.max())  # more, and steps of this size overshoot
    return suggest_price(
        players, steps, Constants(_CONVEXITY * smoothness, smoothness), weight=weight
    ).price


def audit(
    question: Question,
    strategies: Sequence[str],
    *,
    search: bool = True,
    jobs: int = 1,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Verdict:
    """Judge strategies, and what an optimiser finds beyond them.

    Args:
        question: what is asked.
        strategies: specs of the library to judge.
        search: look for a better lie too.
        jobs: processes.
        cache: where runs are kept: those that are there already are not run again.
        progress: told what is run, how many runs are done, and of how many.

    Raises:
        ConfigurationError: a strategy, the task or the rule cannot be used.
    """
    with _workers(jobs) as mapped:
        trials = _Trials(question, mapped, cache, progress)
        trials.judge(strategies, "runs")
        verdict = trials.verdict()
        for number in range(1, PASSES + 1) if search else ():
            found = trials.best_response(verdict.prices, f"search {number}")
            trials.judge([found], f"search {number}", searched=True)
            gain = float(trials.judged[found].deviation.net(verdict.prices).mean())
            verdict = trials.verdict()
            if gain <= verdict.epsilon:
                break
        return verdict


@dataclass(slots=True)
class _Trials:
    """Runs of a question, and what they show so far."""

    question: Question
    mapped: Callable[..., Iterator[Played]]
    cache: Path | None
    progress: Callable[[str, int, int], None]
    honest: list[Played] = field(default_factory=list)
    judged: dict[str, Judged] = field(default_factory=dict)

    def judge(self, strategies: Sequence[str], what: str, *, searched: bool = False) -> None:
        """Run the strategies that were not judged yet, on all seeds."""
        fresh = [one for one in dict.fromkeys(strategies) if one not in self.judged]
        wanted = [*([] if self.honest else ["honest"]), *fresh]
        seeds = len(self.question.clusters)
        played = self._play(wanted, seeds, what)
        if not self.honest:
            self.honest, played = played[:seeds], played[seeds:]
        for at, strategy in enumerate(fresh):
            judged = self._judged(strategy, played[at * seeds : (at + 1) * seeds])
            self.judged[strategy] = replace(judged, searched=searched)

    def verdict(self) -> Verdict:
        """What the judged strategies say, at the question's prices or the best ones."""
        question, index = self.question, self._index
        scale = float(
            np.mean([run.losses[0, index] - run.losses[-1, index] for run in self.honest])
        )
        if not scale > 0:
            raise ConfigurationError(
                "honest agents learn nothing in these rounds, so there is nothing to gain or to "
                "lose; give more --rounds or another --step-size"
            )
        epsilon = question.epsilon * scale
        rule = self._rule
        judged = tuple(self.judged.values())
        honest_paid = np.concatenate([run.paid[-1] for run in self.honest])
        if question.factor is not None:
            prices = question.factor * np.array([term.price for term in rule.terms])
        else:
            prices = suggested_prices([one.deviation for one in judged], honest_paid, epsilon)
        terms = tuple(
            term.text.rpartition("@" if "@" in term.text else ":")[0] for term in rule.terms
        )
        marks, theory = self.honest[0].marks, theory_price(question.clusters[0], question.weight)
        return Verdict(
            question.agent, marks, judged, terms, prices, epsilon, scale, honest_paid, theory
        )

    def best_response(self, prices: Floats, what: str) -> str:
        """The spec of the best lie that an optimiser finds at prices (terms,)."""
        seeds = min(SEARCH_SEEDS, len(self.question.clusters))

        def net_gains(specs: Sequence[str]) -> list[float]:
            played = self._play(specs, seeds, what)
            return [
                float(
                    self._judged(spec, played[at * seeds : (at + 1) * seeds])
                    .deviation.net(prices)
                    .mean()
                )
                for at, spec in enumerate(specs)
            ]

        rounds = self.question.clusters[0].rounds.rounds
        return best_response.search(net_gains, rounds)

    @property
    def _index(self) -> int:
        return self.question.clusters[0].index(self.question.agent)

    @property
    def _rule(self) -> Payments:
        return parse_rule(self.question.clusters[0].payments.rule)

    def _play(self, strategies: Sequence[str], seeds: int, what: str) -> list[Played]:
        asked = [(c, one) for one in strategies for c in self.question.clusters[:seeds]]
        play = partial(
            _cached, replace(self.question, clusters=self.question.clusters[:1]), self.cache
        )
        done: list[Played] = []
        for run in self.mapped(play, asked):
            done.append(run)
            self.progress(what, len(done), len(asked))
        return done

    def _rewards(self, run: Played, index: int) -> Floats:
        with np.errstate(invalid="ignore"):
            return competitive(run.losses, index, self.question.weight)

    def _judged(self, strategy: str, lying: Sequence[Played]) -> Judged:
        gains, charges = [], []
        liars = [self.question.clusters[0].index(a) for a in self.question.liars(strategy)]
        for before, after in zip(self.honest, lying, strict=False):
            # Whoever ruins its own model has nothing to gain, whatever it costs.
            lost = not np.isfinite(after.losses[:, liars]).all()
            gained = [self._rewards(after, i) - self._rewards(before, i) for i in liars]
            gains.append(np.full(len(before.marks), -np.inf) if lost else np.mean(gained, axis=0))
            charges.append((after.paid[:, liars] - before.paid[:, liars]).mean(axis=1))
        all_gains, all_charges = np.stack(gains), np.stack(charges)
        deviation = Deviation(strategy, all_gains[:, -1], all_charges[:, -1])
        return Judged(deviation, all_gains, all_charges)


def _cached(question: Question, cache: Path | None, asked: tuple[Cluster, str]) -> Played:
    """A run, from the folder of those that were done before if it is there and whole."""
    cluster, strategy = asked
    if cache is None:
        return _play(question, cluster, strategy)
    path = cache / f"{_key(question, cluster, strategy)}.npz"
    terms = len(parse_rule(cluster.payments.rule).terms)
    held = _held(path, (len(_marks(cluster)), len(cluster.ids), terms))
    if held is not None:
        return held
    played = _play(question, cluster, strategy)
    draft = path.with_suffix(f".{os.getpid()}.npz")  # two audits may share a folder
    np.savez(draft, marks=played.marks, losses=played.losses, paid=played.paid)
    draft.replace(path)
    return played


def _key(question: Question, cluster: Cluster, strategy: str) -> str:
    """Names a run by all it depends on: settings, data and the code of the user's own classes."""
    specs = f"{strategy}\n{cluster.payments.rule}\n{cluster.task.name}"
    root = "" if question.data_root is None else str(question.data_root.resolve())
    words = [cluster.fingerprint, question.agent, strategy, root]
    for module in sorted(set(_USERS.findall(specs))):
        found = find_spec(module)
        origin = Path(found.origin) if found and found.origin else None
        if origin is not None and origin.is_file():
            words.append(sha256(origin.read_bytes()).hex())
    return sha256("\n".join(words).encode()).hex()[:32]


def _held(path: Path, shape: tuple[int, int, int]) -> Played | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            run = Played(held["marks"], held["losses"], held["paid"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None  # absent, or cut short by a crash: it is run again
    shapes = (run.marks.shape, run.losses.shape, run.paid.shape)
    return run if shapes == (shape[:1], shape[:2], shape) else None


def _play(question: Question, cluster: Cluster, strategy: str) -> Played:
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    marks, terms = _marks(cluster), parse_rule(cluster.payments.rule).terms
    data_root, initial = question.data_root, question.initial
    # Honest samples: whoever trains on false labels is still judged by the true ones.
    learner = learner_of(cluster, data_root, shards_of(cluster), "cpu")
    liars = question.liars(strategy)
    simulation = Simulation(
        cluster, dict.fromkeys(liars, strategy), data_root=data_root, initial=initial, measured=True
    )
    losses = [learner.shard_losses(simulation.parameters, SAMPLES).double().numpy()]
    for t in range(1, cluster.rounds.rounds + 1):
        done = simulation.step()
        if t in marks:
            losses.append(learner.shard_losses(done.parameters, SAMPLES).double().numpy())
    rows = [cluster.index(agent) for agent in liars or cluster.ids]
    paid = np.zeros((len(marks), len(cluster.ids), len(terms)))
    try:
        shown = simulation.evidence()
        for mark in range(1, len(marks)):
            block = slice(marks[mark - 1], marks[mark])
            evidence = Evidence(shown.energies[block], shown.traces[block])
            paid[mark] = paid[mark - 1] + _paid(cluster, evidence)
    except ConfigurationError as exc:
        # Such a window cannot be billed by anyone. Whoever ruined its own model has lost anyhow.
        with np.errstate(invalid="ignore", over="ignore"):
            kept = losses[-1][rows] < RUINED * losses[0][rows]
        if liars and not kept.all():
            return Played(marks, np.full(paid.shape[:2], np.inf), np.full(paid.shape, np.inf))
        who = f"strategy {strategy}" if liars else "honest agents"
        raise ConfigurationError(
            f"the rule {cluster.payments.rule!r} gives no amounts for the updates of {who}"
        ) from exc
    return Played(marks, np.stack(losses), paid)


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
def _workers(jobs: int) -> Iterator[Callable[..., Iterator[Played]]]:
    if jobs == 1:
        yield map
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent) as pool:
        yield pool.map


def _end_with_parent() -> None:
    """A worker whose audit was killed would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
