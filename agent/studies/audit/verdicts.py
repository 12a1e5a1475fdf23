"""Does any lie pay? Honest and deviating runs on the same seeds, judged by reward and payments.

One agent deviates, all others are honest. Learning does not depend on payments, so each pair of
runs is simulated once and billed afterwards, at any prices of the rule's terms. The reward is a
loss saved: that of the agent's own model on its own samples, or that against the competitors'
(`agent.studies.audit.incentives.competitive`). After the library of strategies, an optimiser looks
for a better lie at the prices found, and the prices are set again with it on the list. Where
neighbours give each other by rewards, what a lie does to the liar's model is judged too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.algorithms.steps import step_schedule
from candor.agent.reports.metric import Metric
from candor.agent.studies.audit import search as best_response
from candor.agent.studies.audit.incentives import (
    Answer,
    Deviation,
    Floats,
    Interval,
    PriceWindow,
    competitive,
    covering_factor,
    price_window,
    stopping_prices,
    suggested_prices,
)
from candor.agent.studies.audit.quality import Quality
from candor.agent.studies.audit.runs import (
    HONEST,
    Played,
    Question,
    play,
    rewarded,
    workers,
)
from candor.agent.studies.games.sgd import Constants, suggest_price
from candor.agent.tasks import resolve_task
from candor.agent.tasks.classification import Classification
from candor.mechanisms.payments.bills import Payments, parse_rule
from candor.mechanisms.strategies.specs import canonical_strategy, parse_strategy, split_list
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError

STRATEGIES: Final = (
    "scale:0.5",
    "scale:1.25",
    "scale:2",
    "scale:4",
    "zero",
    "scale:2 + averaged:0.4",
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
UNDER_REWARDS: Final = "few:0.1"
"""Judged too where neighbours give by rewards, which are for what data are worth."""
SEARCH_SEEDS: Final = 2  # on which candidates are tried; what is found is judged on all
_CONVEXITY: Final = 1e-4  # of the smoothness; less curvature makes no dearer lie
PASSES: Final = 3  # of search and new prices, at most


def chosen_strategies(question: Question, names: str | None) -> list[str]:
    """The strategies to judge: those named, separated by commas, or a library of all kinds.

    Raises:
        ConfigurationError: one is no strategy, or there is none but honesty.
    """
    cluster = question.clusters[0]
    if names is not None:
        specs = split_list(names)
    else:
        specs = [*STRATEGIES, f"scale:4 @ {1 + 2 * cluster.rounds.rounds // 3}-"]
        if isinstance(resolve_task(cluster.task.name, question.data_root), Classification):
            specs.append("label-flip")
        if rewarded(cluster):
            specs.append(UNDER_REWARDS)
    for spec in specs:
        parse_strategy(spec, simulated=True)
    chosen = [spec for spec in map(canonical_strategy, specs) if spec != HONEST]
    if not chosen:
        raise ConfigurationError("--strategies: there is nothing to judge but honesty")
    return chosen


@dataclass(frozen=True, slots=True)
class Judged:
    """A strategy against honesty: its deviation at the end of the run, and by mark; of colluders,
    means of both.

    `gains` (seeds, marks) and `charges` (seeds, marks, terms): what it had gained and been charged,
    had the run ended there. `searched`: found by the optimiser, not of the library. `quality`
    (seeds,): by how much better a model it ended with, under rewards; else all 0.
    """

    deviation: Deviation
    gains: Floats
    charges: Floats
    quality: Floats
    searched: bool = False

    @property
    def strategy(self) -> str:
        """Its spec."""
        return self.deviation.strategy

    @property
    def unbilled(self) -> bool:
        """Whether the rule gives no amounts for what it sends."""
        return bool(np.isnan(self.charges).any())

    def net(self, prices: Floats) -> Floats:
        """The gain left at prices (terms,) by mark: (seeds, marks)."""
        return np.asarray(
            self.gains - self.charges @ prices if self.deviation.finite else self.gains
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit of one agent's lies under a rule.

    `terms` (terms,) names the rule's; `prices` (terms,) those judged at; `epsilon` and `reward` in
    units of loss, the latter what honest training saves the agent. `window`: factors on the prices.
    `honest_paid` (runs x agents, terms): what honest agents among themselves pay, at price 1.
    `theory`: see `theory_price`. `stopping` (terms,): the prices that leave no lie more than
    epsilon in the mean whatever honest agents pay; None if none do. `covering`: what the prices
    that were found were multiplied with, see `covering_factor`. `unbilled`: strategies that are not
    judged, since the rule gives no amounts for what they send. `quality`: what lies do to the
    liar's model; None where neighbours give each other all.
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
    stopping: Floats | None
    covering: float
    unbilled: tuple[str, ...] = ()
    quality: Quality | None = None

    @property
    def window(self) -> PriceWindow:
        """The factors on the prices at which honesty is the best response."""
        return price_window((one.deviation for one in self.judged), self.prices, self.epsilon)

    @property
    def rule(self) -> str:
        """The rule at the prices judged, as a spec."""
        return self.rule_at(self.prices)

    def rule_at(self, prices: Floats) -> str:
        """The rule at other prices (terms,), as a spec."""
        parts = [
            f"{term}{'@' if ':' in term else ':'}{price:.4g}"
            for term, price in zip(self.terms, prices, strict=True)
            if price > 0
        ]
        return " + ".join(parts) or "none"

    def honest_payments(self, prices: Floats | None = None) -> Floats:
        """What honest agents pay at the prices judged, or others: (runs x agents,), net; below 0
        they are paid."""
        return np.asarray(self.honest_paid @ (self.prices if prices is None else prices))

    @property
    def seeds(self) -> int:
        """On how many each was run."""
        return len(self.judged[0].gains)

    @property
    def answer(self) -> Answer:
        """Whether a lie pays, net or in model quality; that none does takes the whole interval of
        each."""
        answers = {span.answer(self.epsilon) for _, span in self._spans()}
        if self.quality is not None:
            answers |= {self.quality.answer(one.strategy) for one in self.judged}
        return next(a for a in (Answer.PAYS, Answer.UNDECIDED, Answer.NONE_PAYS) if a in answers)

    @property
    def paying(self) -> list[str]:
        """The strategies that gain more than epsilon by their whole interval, the best first."""
        return self._answered(Answer.PAYS)

    @property
    def undecided(self) -> list[str]:
        """The strategies whose interval has epsilon in it, the best first."""
        return self._answered(Answer.UNDECIDED)

    def _answered(self, answer: Answer) -> list[str]:
        return [name for name, span in self._spans() if span.answer(self.epsilon) is answer]

    def _spans(self) -> list[tuple[str, Interval]]:
        """The intervals of the net gains, the best first."""
        spans = [(j.strategy, j.deviation.net_interval(self.prices)) for j in self.judged]
        return sorted(spans, key=lambda one: -one[1].mean)

    @property
    def tempting(self) -> list[str]:
        """The strategies that gain more than epsilon in the mean without payments."""
        free = {one.strategy: float(one.deviation.gains.mean()) for one in self.judged}
        return sorted(
            (s for s, gain in free.items() if gain > self.epsilon), key=lambda s: -free[s]
        )


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
    cache: Path,
    search: bool = True,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Verdict:
    """Judge strategies, and what an optimiser finds beyond them.

    Args:
        question: what is asked.
        strategies: specs of the library to judge.
        cache: the folder where runs are kept: those that are there already are not run again.
        search: look for a better lie too.
        jobs: processes.
        progress: told what is run, how many runs are done, and of how many.

    Raises:
        ConfigurationError: a strategy, the task or the rule cannot be used, or the rule gives no
            amounts for honest agents, or for any of the strategies.
    """
    with workers(jobs) as mapped:
        trials = _Trials(question, mapped, cache, progress)
        trials.judge(strategies, "runs")
        verdict = trials.verdict()
        for number in range(1, PASSES + 1) if search else ():
            found = trials.best_response(verdict.prices, f"search {number}")
            trials.judge([found], f"search {number}", searched=True)
            one = trials.judged.get(found)  # on other seeds it may be that nobody can bill it
            gain = float(one.deviation.net(verdict.prices).mean()) if one else -np.inf
            verdict = trials.verdict()
            if gain <= verdict.epsilon:
                break
        return verdict


@dataclass(slots=True)
class _Trials:
    """Runs of a question, and what they show so far."""

    question: Question
    mapped: Callable[..., Iterator[Played]]
    cache: Path
    progress: Callable[[str, int, int], None]
    honest: list[Played] = field(default_factory=list)
    judged: dict[str, Judged] = field(default_factory=dict)
    unbilled: list[str] = field(default_factory=list)

    def judge(self, strategies: Sequence[str], what: str, *, searched: bool = False) -> None:
        """Run the strategies that were not judged yet, on all seeds."""
        known = (*self.judged, *self.unbilled)
        fresh = [one for one in dict.fromkeys(strategies) if one not in known]
        wanted = [*([] if self.honest else [HONEST]), *fresh]
        seeds = len(self.question.clusters)
        played = self._play(wanted, seeds, what)
        if not self.honest:
            self.honest, played = played[:seeds], played[seeds:]
            if any(np.isnan(run.paid).any() for run in self.honest):
                raise self._no_amounts("honest agents")
        for judged in self._judged_runs(fresh, played):
            if judged.unbilled:
                self.unbilled.append(judged.strategy)
            else:
                self.judged[judged.strategy] = replace(judged, searched=searched)
        if not self.judged:
            raise self._no_amounts(f"strategy {', '.join(self.unbilled)}")

    def _no_amounts(self, who: str) -> ConfigurationError:
        rule = self.question.clusters[0].payments.rule
        return ConfigurationError(f"the rule {rule!r} gives no amounts for the updates of {who}")

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
        rule, covering = self._rule, 1.0
        judged = tuple(self.judged.values())
        honest_paid = np.concatenate([run.paid[-1] for run in self.honest])
        lies = [one.deviation for one in judged]
        if question.factor is not None:
            prices = question.factor * np.array([term.price for term in rule.terms])
        else:
            prices = suggested_prices(lies, honest_paid, epsilon)
            covering = covering_factor(lies, prices, epsilon)
            prices = covering * prices
        stopping = stopping_prices(lies, honest_paid, epsilon)
        terms = tuple(term.name for term in rule.terms)
        marks, theory = self.honest[0].marks, theory_price(question.clusters[0], question.weight)
        return Verdict(
            question.agent, marks, judged, terms, prices, epsilon, scale, honest_paid, theory,
            stopping, covering, tuple(self.unbilled), self._quality(),
        )  # fmt: skip

    def _quality(self) -> Quality | None:
        """What the judged strategies do to the liar's model, under rewards."""
        cluster = self.question.clusters[0]
        if not rewarded(cluster):
            return None
        task = cluster.task
        metric = Metric.of({"metric": task.metric_name, "better": task.better_values})
        before, after = np.mean([run.metrics[:, self._index] for run in self.honest], axis=0)
        learned = float(after - before if metric.higher_is_better else before - after)
        if not learned > 0:
            raise ConfigurationError(
                f"the {metric.name} of honest agents is no better in the end than untrained, so "
                "that there is no model quality to gain or to lose; give more --rounds or another "
                "--step-size"
            )
        gains = {one.strategy: one.quality for one in self.judged.values()}
        rewards = cluster.algorithm.rewards or ""
        return Quality(rewards, metric, float(after), self.question.epsilon * learned, gains)

    def best_response(self, prices: Floats, what: str) -> str:
        """The spec of the best lie that an optimiser finds at prices (terms,)."""
        seeds = min(SEARCH_SEEDS, len(self.question.clusters))

        def net_gains(specs: Sequence[str]) -> list[float]:
            judged = self._judged_runs(specs, self._play(specs, seeds, what))
            return [-np.inf if one.unbilled else one.deviation.net(prices).mean() for one in judged]

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
        alone = replace(self.question, clusters=self.question.clusters[:1])  # less to send
        done: list[Played] = []
        for run in self.mapped(partial(play, alone, self.cache), asked):
            done.append(run)
            self.progress(what, len(done), len(asked))
        return done

    def _rewards(self, run: Played, index: int) -> Floats:
        with np.errstate(invalid="ignore"):
            return competitive(run.losses, index, self.question.weight)

    def _judged_runs(self, strategies: Sequence[str], played: Sequence[Played]) -> list[Judged]:
        """The strategies, each by its own as many runs."""
        seeds = len(played) // max(1, len(strategies))
        blocks = [played[at * seeds : (at + 1) * seeds] for at in range(len(strategies))]
        return [self._judged(*both) for both in zip(strategies, blocks, strict=True)]

    def _judged(self, strategy: str, lying: Sequence[Played]) -> Judged:
        gains, charges, quality = [], [], []
        liars = [self.question.clusters[0].index(a) for a in self.question.liars(strategy)]
        for before, after in zip(self.honest, lying, strict=False):
            # Whoever ruins its own model has nothing to gain, whatever it costs.
            lost = not np.isfinite(after.losses[:, liars]).all()
            gained = [self._rewards(after, i) - self._rewards(before, i) for i in liars]
            gains.append(np.full(len(before.marks), -np.inf) if lost else np.mean(gained, axis=0))
            charges.append((after.paid[:, liars] - before.paid[:, liars]).mean(axis=1))
            quality.append(-np.inf if lost else self._better(after, before, liars))
        all_gains, all_charges = np.stack(gains), np.stack(charges)
        deviation = Deviation(strategy, all_gains[:, -1], all_charges[:, -1])
        return Judged(deviation, all_gains, all_charges, np.array(quality))

    def _better(self, after: Played, before: Played, rows: Sequence[int]) -> float:
        """By how much better these rows' models ended, in units of the metric; 0 if not
        measured."""
        if not len(after.metrics):
            return 0.0
        higher = self.question.clusters[0].task.better_values != "lower"
        gained = float((after.metrics[-1, rows] - before.metrics[-1, rows]).mean())
        return gained if higher else -gained
