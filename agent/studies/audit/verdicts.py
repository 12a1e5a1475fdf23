"""Does any lie pay? Honest and deviating runs on the same seeds, judged by reward and payments.

One agent deviates, all others are honest; each of the agents that are asked for in turn. Learning
does not depend on payments, so each pair of runs is simulated once and billed afterwards, at any
prices of the rule's terms. The reward is a loss saved (`agent.studies.audit.question.Reward`), or
that against the competitors' (`agent.studies.audit.incentives.competitive`); amounts are shares of
what honesty is worth to whom they are of (`agent.studies.audit.worth`). After the library of
strategies, an optimiser looks for a better lie at the prices found, and the prices are set again
with it on the list. Where neighbours give each other by rewards, what a lie does to the liar's
model is judged too.
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
from candor.agent.studies.audit.bonds import BOND, false_shares, found_by, least_bond
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
from candor.agent.studies.audit.members import Member, members_of, trained_steps
from candor.agent.studies.audit.performing import Played, alike
from candor.agent.studies.audit.quality import Quality
from candor.agent.studies.audit.question import (
    HONEST,
    MORE,
    TERMS,
    Kind,
    Question,
    Reward,
    Run,
    doubled,
    marks_of,
    rewarded,
)
from candor.agent.studies.audit.runs import play, workers
from candor.agent.studies.audit.worth import More, Worth, reached
from candor.agent.studies.games.sgd import Constants, suggest_price
from candor.agent.tasks import resolve_task
from candor.agent.tasks.classification import Classification
from candor.mechanisms.payments.bills import Payments, parse_rule
from candor.mechanisms.strategies.lies import AltersActions, AltersData
from candor.mechanisms.strategies.specs import (
    canonical_strategy,
    idleness,
    parse_strategy,
    parts_of,
    split_list,
)
from candor.topologies.cluster.file import DEFAULT_RULE, Cluster
from candor.topologies.specs.specs import ConfigurationError

STRATEGIES: Final = (
    "scale:0.5",
    "scale:1.25",
    "scale:2",
    "scale:4",
    "zero",
    "scale:2 + averaged:0.4",
    "averaged:0.1",
    "rotate:2",
    "frozen:4",
    "noise:0.5",
    "sign-flip",
    "random-direction",
    "stale-copy",
    "conform:0.5",
    "partial:0.5",
    "colluding:2",
)
"""What an audit judges if it is not told, beside `timed` ones, `label-flip` for tasks of classes,
and `HIDING` where there is something to hide."""
HIDING: Final = "unseen:4"
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
        specs = [*STRATEGIES, *timed(cluster.rounds.rounds, cluster.payments.window)]
        if hides(cluster):
            specs.append(HIDING)
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


def timed(rounds: int, window: int) -> list[str]:
    """The lies of the library that have their time: *last*, in the last window alone, after which
    nobody can answer and of which nothing is forgotten; and *burst*, one round of every fourth
    window, whose charge comes once and may be cut off where the injection is not."""
    burst = f"scale:16 @ {min(window, rounds)}-,every={4 * window}"
    return [f"scale:4 @ {max(1, rounds - window + 1)}-", burst]


def hides(cluster: Cluster) -> bool:
    """Whether sketches are shorter than models, so that something hides from them."""
    return cluster.task.parameters > cluster.payments.sketch_size


@dataclass(frozen=True, slots=True)
class Judged:
    """A strategy of one agent against its honesty: its deviation at the end of the run, and by
    mark; of colluders, means of both.

    All are shares of what honesty is worth to the liar. `gains` (seeds, marks) and `charges`
    (seeds, marks, terms): what it had gained and been charged, had the run ended there, without
    fine-tuning. `others` (seeds,): what the others gain by it, in the usual worth. `searched`:
    found by the optimiser, not of the library. `quality` (seeds,): by how much better a model it
    ended with, under rewards; else all 0. `untrue` (seeds, windows): the share of false rounds.
    `unit`: what honesty is worth to the liar, in units of loss.

    Where rounds are done again the last term is the bond, and what is charged for it the chance
    that the lie is found.
    """

    strategy: str
    agent: str
    deviation: Deviation
    gains: Floats
    charges: Floats
    others: Floats
    quality: Floats
    untrue: Floats
    unit: float
    searched: bool = False

    @property
    def name(self) -> str:
        """The strategy, and whose it is where several agents lie in turn."""
        return self.deviation.strategy

    @property
    def acted(self) -> bool:
        """Whether it did anything in these runs: what is bound to rounds may come to none."""
        parts = [part for part, _ in parts_of(parse_strategy(self.strategy))]
        falsifies = any(isinstance(part, AltersData | AltersActions) for part in parts)
        return falsifies or bool(self.untrue.any())

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
class Liar:
    """One of the agents that lie: who it is in the first seed's run; `reward`, what honesty is
    worth to it in units of loss, mean over the seeds; `own`: whether that is its unit, or else the
    usual worth."""

    member: Member
    reward: float
    own: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit of agents' lies under a rule. Gains and payments are shares of what honesty is
    worth to whom they are of.

    `terms` (terms,) names the rule's, and last the bond where rounds are done again, each picked
    one with the chance `audit_rate`; `prices` (terms,) those judged at, `stated` those of the rule
    itself, or of the default one where none was given, without a bond; gains up to `epsilon` are
    let pass. `worth`: of each agent; `window`: factors on the prices. `members` (runs x agents,)
    and `honest_paid` (runs x agents, terms): what
    honest agents among themselves pay, at price 1. `more`: what all would gain by more training.
    `accuracies`: the share of held-out samples that agents tell right alone and with the network,
    means; None where unknown. `theory`: see `theory_price`. `stopping` (terms,): the prices that
    leave no lie more than epsilon in the mean whatever honest agents pay; None if none do.
    `covering`: what the prices that were found were multiplied with, see `covering_factor`.
    `unbilled`: strategies that are not judged, since the rule gives no amounts for what they send.
    `quality`: what lies do to the liar's model; None where neighbours give each other all.
    """

    reward: Reward
    liars: tuple[Liar, ...]
    marks: NDArray[np.int64]
    judged: tuple[Judged, ...]
    terms: tuple[str, ...]
    prices: Floats
    stated: Floats
    audit_rate: float
    epsilon: float
    worth: Worth
    members: tuple[Member, ...]
    honest_paid: Floats
    more: tuple[More, ...]
    accuracies: tuple[float, float] | None
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
            if price > 0 and term != BOND
        ]
        return " + ".join(parts) or "none"

    @property
    def replayed(self) -> bool:
        """Whether rounds are done again."""
        return BOND in self.terms

    @property
    def bond(self) -> float:
        """What a false report costs that is found, in credits; 0 where no round is done again."""
        return float(self.prices[-1]) if self.replayed else 0.0

    @property
    def blind(self) -> list[Judged]:
        """The lies that no round done again can show, as data were false before: those prices alone
        are for."""
        unseen = (one for one in self.judged if not one.untrue.any())
        return [one for one in unseen if one.acted] if self.replayed else []

    def bond_asked(self, one: Judged) -> float:
        """The least bond that stops a lie beside the prices judged, in credits; inf for one to
        which replay is blind."""
        return least_bond(one.deviation, self.prices[:-1], self.epsilon)

    def honest_payments(self, prices: Floats | None = None) -> Floats:
        """What honest agents pay at the prices judged, or others: (runs x agents,), net; below 0
        they are paid. Shares of each one's own worth, of the usual one for who has no unit."""
        return np.asarray(self.honest_paid @ (self.prices if prices is None else prices))

    @property
    def has_unit(self) -> NDArray[np.bool_]:
        """To whom cooperation is worth something: (runs x agents,)."""
        return self.worth.has_unit.ravel()

    @property
    def undertrained(self) -> list[More]:
        """What training would help nearly all beyond epsilon."""
        return [one for one in self.more if one.helps(self.epsilon)]

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
            answers |= {self.quality.answer(one.name) for one in self.judged}
        return next(a for a in (Answer.PAYS, Answer.UNDECIDED, Answer.NONE_PAYS) if a in answers)

    @property
    def paying(self) -> list[str]:
        """The lies that gain more than epsilon by their whole interval, the best first."""
        return self._answered(Answer.PAYS)

    @property
    def undecided(self) -> list[str]:
        """The lies whose interval has epsilon in it, the best first."""
        return self._answered(Answer.UNDECIDED)

    def _answered(self, answer: Answer) -> list[str]:
        return [name for name, span in self._spans() if span.answer(self.epsilon) is answer]

    def _spans(self) -> list[tuple[str, Interval]]:
        """The intervals of the net gains, the best first."""
        spans = [(j.name, j.deviation.net_interval(self.prices)) for j in self.judged]
        return sorted(spans, key=lambda one: -one[1].mean)

    @property
    def tempting(self) -> list[str]:
        """The lies that gain more than epsilon in the mean without payments."""
        free = {one.name: float(one.deviation.gains.mean()) for one in self.judged}
        return sorted(
            (s for s, gain in free.items() if gain > self.epsilon), key=lambda s: -free[s]
        )


def bonded_prices(
    lies: Sequence[Deviation],
    honest_paid: Floats,
    epsilon: float,
    rule_prices: Callable[[Sequence[Deviation], Floats], tuple[Floats, float]],
    bond: float | None = None,
) -> tuple[Floats, float]:
    """The prices (terms,) where rounds are done again, the bond last, and by what those of the rule
    were multiplied. The bond, which costs no honest agent anything, is for all lies that show, and
    prices of the rule for the others, or for what a bond that is given leaves."""
    shown = [one for one in lies if one.charges[:, -1].any()]
    rest = [one for one in lies if not one.charges[:, -1].any()]
    if bond is not None:
        rest = [replace(one, gains=one.gains - bond * one.charges[:, -1]) for one in lies]
    rest = [replace(one, charges=one.charges[:, :-1]) for one in rest]
    prices, covering = rule_prices(rest, honest_paid[:, :-1])
    if bond is None:
        bond = max((least_bond(one, prices, epsilon) for one in shown), default=0.0)
    return np.append(prices, bond), covering


def done_again(verdict: Verdict, audit_rate: float = 1.0) -> Verdict:
    """The same lies, judged as if the picked round of each window were done again with this chance:
    at the least bond that stops those that show, and prices in the mean for those alone that do
    not. What the runs noted is all it takes. Gains by mark know no bond."""
    judged = tuple(_bonded(one, audit_rate) for one in verdict.judged)
    honest_paid = np.column_stack([verdict.honest_paid, np.zeros(len(verdict.honest_paid))])

    def rule_prices(lies: Sequence[Deviation], paid: Floats) -> tuple[Floats, float]:
        return suggested_prices(lies, paid, verdict.epsilon), 1.0

    lies = [one.deviation for one in judged]
    prices, covering = bonded_prices(lies, honest_paid, verdict.epsilon, rule_prices)
    return replace(
        verdict,
        judged=judged,
        terms=(*verdict.terms, BOND),
        prices=prices,
        stated=np.append(verdict.stated, 0.0),
        audit_rate=audit_rate,
        honest_paid=honest_paid,
        stopping=None,
        covering=covering,
    )


def _stated(rule: Payments, factor: float | None) -> Floats:
    """The prices (terms,) that a rule states; where it is `TERMS`, whose prices are to be found,
    those of the default rule."""
    terms = rule.terms
    if factor is None and rule.text == parse_rule(TERMS).text:
        default = {term.name: term.price for term in parse_rule(DEFAULT_RULE).terms}
        return np.array([default.get(term.name, 0.0) for term in terms])
    return np.array([term.price for term in terms])


def _bonded(one: Judged, audit_rate: float) -> Judged:
    """A lie that is charged the bond with the chance that it is found."""
    found = found_by(one.untrue, audit_rate)[:, -1:] / one.unit  # (seeds, 1), in credits of bond
    charges = np.concatenate([one.deviation.charges, found], axis=1)
    return replace(one, deviation=replace(one.deviation, charges=charges))


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
        ConfigurationError: a strategy, the task or the rule cannot be used, honesty is worth
            nothing to anybody, or the rule gives no amounts for honest agents, or for any of the
            strategies.
    """
    with workers(jobs) as mapped:
        trials = _Trials(question, mapped, cache, progress)
        trials.begin(strategies)
        verdict = trials.verdict()
        places = len(question.agents)
        for number in range(1, PASSES + 1) if search else ():
            found = trials.best_response(verdict, f"search {number}")
            trials.judge([found], f"search {number}")
            mine = [one for one in trials.judged.values() if one.strategy == found]
            # On other seeds it may be that nobody can bill it.
            gains = [float(one.deviation.net(verdict.prices).mean()) for one in mine]
            verdict = trials.verdict()
            if number >= places and max(gains, default=-np.inf) <= verdict.epsilon:
                break
        return verdict


@dataclass(slots=True)
class _Trials:
    """Runs of a question, and what they show so far."""

    question: Question
    mapped: Callable[..., Iterator[list[Played]]]
    cache: Path
    progress: Callable[[str, int, int], None]
    honest: list[Played] = field(default_factory=list)
    alone: list[Played] = field(default_factory=list)
    more: tuple[More, ...] = ()
    members: list[list[Member]] = field(default_factory=list)
    judged: dict[str, Judged] = field(default_factory=dict)
    unbilled: list[str] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)  # the agents for whom a lie was looked for
    worth: Worth = field(default_factory=lambda: Worth(np.empty((0, 0))))

    def begin(self, strategies: Sequence[str]) -> None:
        """Run honest agents together, alone and with more training, and the strategies, on all
        seeds."""
        clusters = self.question.clusters
        self.members = [members_of(each, self.question.data_root) for each in clusters]
        cooperating = self.question.reward is Reward.COOPERATION
        first = [Run(each) for each in clusters]
        if cooperating:
            first += [Run(each, kind=Kind.ALONE) for each in clusters]
            longer = [doubled(each, *of) for of in MORE.values() for each in clusters]
            first += [Run(each, kind=Kind.LEARNING) for each in longer]
        # All at once: processes wait for none.
        played = self._play([*first, *self._runs(self._lies(strategies))], "runs")
        self.honest = played[: len(clusters)]
        if any(np.isnan(run.paid).any() for run in self.honest):
            raise self._no_amounts("honest agents")
        _, *others = (played[a : a + len(clusters)] for a in range(0, len(first), len(clusters)))
        self.alone = others[0] if cooperating else []
        self.worth = self._measured_worth()
        if cooperating:
            self.more = tuple(
                More(what, np.stack([self._bettered(s, run, of) for s, run in enumerate(runs)]))
                for (what, of), runs in zip(MORE.items(), others[1:], strict=True)
            )
        self._take(self._lies(strategies), played[len(first) :], searched=False)

    def judge(self, strategies: Sequence[str], what: str) -> None:
        """Run what was found and not judged yet, on all seeds."""
        lies = [lie for lie in self._lies(strategies) if self._name(*lie) not in self.judged]
        self._take(lies, self._play(self._runs(lies), what), searched=True)

    def _lies(self, strategies: Sequence[str]) -> list[tuple[str, str]]:
        """Each strategy of each agent that lies."""
        return [(one, agent) for one in dict.fromkeys(strategies) for agent in self.question.agents]

    def _runs(self, lies: Sequence[tuple[str, str]], seeds: int | None = None) -> list[Run]:
        clusters = self.question.clusters[:seeds]
        return [
            Run(c, one, self.question.liars(one, agent)) for one, agent in lies for c in clusters
        ]

    def _take(
        self, lies: Sequence[tuple[str, str]], played: Sequence[Played], *, searched: bool
    ) -> None:
        for judged in self._judged_runs(lies, played):
            if judged.unbilled:
                self.unbilled.append(judged.name)
            else:
                self.judged[judged.name] = replace(judged, searched=searched)
        if not self.judged:
            raise self._no_amounts(f"strategy {', '.join(self.unbilled)}")

    def _no_amounts(self, who: str) -> ConfigurationError:
        rule = self.question.clusters[0].payments.rule
        return ConfigurationError(f"the rule {rule!r} gives no amounts for the updates of {who}")

    def verdict(self) -> Verdict:
        """What the judged strategies say, at the question's prices or the best ones."""
        question, rule = self.question, self._rule
        judged, worth = tuple(self.judged.values()), self.worth
        honest_paid = np.concatenate([run.paid[-1] for run in self.honest])
        honest_paid = honest_paid / worth.units.reshape(-1, 1)
        lies = [one.deviation for one in judged]
        stated, terms = _stated(rule, question.factor), [term.name for term in rule.terms]
        if question.replayed:
            stated, terms = np.append(stated, 0.0), [*terms, BOND]
            honest_paid = np.column_stack([honest_paid, np.zeros(len(honest_paid))])
        prices, covering = self._priced(lies, honest_paid, stated)
        return Verdict(
            reward=question.reward,
            liars=tuple(map(self._liar, question.agents)),
            marks=self.honest[0].marks,
            judged=judged,
            terms=tuple(terms),
            prices=prices,
            stated=stated,
            audit_rate=question.audit_rate,
            epsilon=question.epsilon,
            worth=worth,
            members=tuple(member for each in self.members for member in each),
            honest_paid=honest_paid,
            more=self.more,
            accuracies=self._accuracies(),
            theory=theory_price(question.clusters[0], question.weight),
            stopping=stopping_prices(lies, honest_paid, question.epsilon),
            covering=covering,
            unbilled=tuple(self.unbilled),
            quality=self._quality(),
        )

    def _priced(
        self, lies: Sequence[Deviation], honest_paid: Floats, stated: Floats
    ) -> tuple[Floats, float]:
        """The prices (terms,) to judge at, and what those found were multiplied with."""
        if not self.question.replayed:
            return self._rule_prices(lies, honest_paid, stated)
        bond, epsilon = self.question.bond, self.question.epsilon
        rule = partial(self._rule_prices, stated=stated[:-1])
        return bonded_prices(lies, honest_paid, epsilon, rule, bond)

    def _rule_prices(
        self, lies: Sequence[Deviation], honest_paid: Floats, stated: Floats
    ) -> tuple[Floats, float]:
        """The prices (terms,) of the rule to judge at, and the same factor."""
        question = self.question
        if question.factor is not None:
            return question.factor * stated, 1.0
        prices = suggested_prices(lies, honest_paid, question.epsilon)
        covering = covering_factor(lies, prices, question.epsilon)
        return covering * prices, covering

    def _liar(self, agent: str) -> Liar:
        row = self.question.clusters[0].index(agent)
        return Liar(self.members[0][row], *self.worth.unit_of([row]))

    def _measured_worth(self) -> Worth:
        """What honesty is worth to each agent.

        Raises:
            ConfigurationError: nothing to anybody.
        """
        ended = np.stack([self._ended(seed, run) for seed, run in enumerate(self.honest)])
        if self.question.reward is Reward.TRAINING:
            worth = Worth(np.stack([run.losses[0] for run in self.honest]) - ended)
            why = "honest agents learn nothing in these rounds"
        else:
            worth = Worth(
                np.stack([self._best_alone(s, a) for s, a in enumerate(self.alone)]) - ended
            )
            why = "alone every agent ends as well as in the network"
        if worth.usual == 0:
            raise ConfigurationError(
                f"{why}, so there is nothing to gain or to lose; give more --rounds or another "
                "--step-size"
            )
        return worth

    def _best_alone(self, seed: int, run: Played) -> Floats:
        """What each agent reaches alone (agents,), stopping where it is best."""
        way = np.concatenate([run.losses, run.tuned])
        return reached(way, np.concatenate(self._spent(seed, Run(self.question.clusters[seed]))))

    def _ended(self, seed: int, played: Played, run: Run | None = None) -> Floats:
        """The losses (agents,) with which a run of a seed ended, by the reward's kind, and what it
        cost; honest unless told."""
        at_marks, tuned = self._spent(seed, run or Run(self.question.clusters[seed]))
        if self.question.reward is Reward.TRAINING:
            return np.asarray(played.losses[-1] + at_marks[-1])
        return reached(played.tuned, tuned)

    def _bettered(self, seed: int, played: Played, of: tuple[str, str]) -> Floats:
        """What more training saves each agent (agents,), as shares of the usual worth."""
        longer = Run(doubled(self.question.clusters[seed], *of))
        saved = self._ended(seed, self.honest[seed]) - self._ended(seed, played, longer)
        return np.asarray(saved / self.worth.usual)

    def _spent(self, seed: int, run: Run) -> tuple[Floats, Floats]:
        """What each agent has spent on computing, by mark and by checkpoint (…, agents), in units
        of loss: who lies may do less than all."""
        cluster, question = run.cluster, self.question
        steps = trained_steps(cluster, self.members[seed], question.held_out)
        rounds = np.arange(1, cluster.rounds.rounds + 1)
        worked = np.ones((len(rounds), len(cluster.ids)))
        if run.liars:
            strategy = parse_strategy(run.strategy)
            idle = [idleness(strategy, int(t)) for t in rounds]
            worked[:, list(map(cluster.index, run.liars))] -= np.array(idle)[:, np.newaxis]
        done = np.concatenate([np.zeros_like(worked[:1]), worked.cumsum(axis=0)]) * steps
        at_marks = done[marks_of(cluster)]
        tuned = at_marks[-1] + np.array(question.checkpoints).reshape(-1, 1)
        return question.cost * at_marks, question.cost * tuned

    def _accuracies(self) -> tuple[float, float] | None:
        """The share of held-out samples that agents tell right alone and together, means over all,
        each where its loss is least."""
        if not self.alone or not len(self.honest[0].shares):
            return None
        apart = [_at_least(np.concatenate([a.losses, a.tuned]), a.shares) for a in self.alone]
        together = [_at_least(run.tuned, run.shares[-len(run.tuned) :]) for run in self.honest]
        return float(np.mean(apart)), float(np.mean(together))

    def _quality(self) -> Quality | None:
        """What the judged strategies do to the liar's model, under rewards."""
        cluster = self.question.clusters[0]
        if not rewarded(cluster):
            return None
        task, rows = cluster.task, list(map(cluster.index, self.question.agents))
        metric = Metric.of({"metric": task.metric_name, "better": task.better_values})
        before, after = np.mean([run.metrics[:, rows] for run in self.honest], axis=(0, 2))
        learned = float(after - before if metric.higher_is_better else before - after)
        if not learned > 0:
            raise ConfigurationError(
                f"the {metric.name} of honest agents is no better in the end than untrained, so "
                "that there is no model quality to gain or to lose; give more --rounds or another "
                "--step-size"
            )
        gains = {one.name: one.quality for one in self.judged.values()}
        rewards = cluster.algorithm.rewards or ""
        return Quality(rewards, metric, float(after), self.question.epsilon * learned, gains)

    def best_response(self, verdict: Verdict, what: str) -> str:
        """The spec of the best lie that an optimiser finds at a verdict's prices, for the agent to
        whom lying pays best so far, of those for whom it has looked the least often."""
        question = self.question
        cluster, seeds = question.clusters[0], min(SEARCH_SEEDS, len(question.clusters))
        nets = {
            agent: max(
                float(one.deviation.net(verdict.prices).mean())
                for one in verdict.judged
                if one.agent == agent
            )
            for agent in dict.fromkeys(one.agent for one in verdict.judged)
        }
        liar = min(nets, key=lambda agent: (self.searched.count(agent), -nets[agent]))
        self.searched.append(liar)

        def net_gains(specs: Sequence[str]) -> list[float]:
            lies = [(spec, liar) for spec in specs]
            judged = self._judged_runs(lies, self._play(self._runs(lies, seeds), what))
            gained = [one.deviation.net(verdict.prices).mean() for one in judged]
            return [-np.inf if j.unbilled else n for j, n in zip(judged, gained, strict=True)]

        pairs = len(cluster.ids) > 2  # else nobody is left to lie to
        frame = best_response.Frame(cluster.rounds.rounds, hides(cluster), pairs)
        return best_response.search(net_gains, frame)

    @property
    def _rule(self) -> Payments:
        return parse_rule(self.question.clusters[0].payments.rule)

    def _play(self, runs: Sequence[Run], what: str) -> list[Played]:
        alone = replace(self.question, clusters=self.question.clusters[:1])  # less to send
        parts = alike(alone, runs)
        found: dict[int, Played] = {}
        some = ([runs[place] for place in places] for places in parts)
        for places, played in zip(
            parts, self.mapped(partial(play, alone, self.cache), some), strict=True
        ):
            found.update(zip(places, played, strict=True))
            self.progress(what, len(found), len(runs))
        return [found[place] for place in range(len(runs))]

    def _judged_runs(
        self, lies: Sequence[tuple[str, str]], played: Sequence[Played]
    ) -> list[Judged]:
        """The lies, each by its own as many runs."""
        seeds = len(played) // max(1, len(lies))
        blocks = [played[at * seeds : (at + 1) * seeds] for at in range(len(lies))]
        return [self._judged(*lie, block) for lie, block in zip(lies, blocks, strict=True)]

    def _name(self, strategy: str, agent: str) -> str:
        return strategy if len(self.question.agents) == 1 else f"{strategy} by {agent}"

    def _judged(self, strategy: str, agent: str, lying: Sequence[Played]) -> Judged:
        gains: list[Floats] = []  # (marks,) each
        untrue: list[Floats] = []  # (windows,) each
        ends, charges, others, quality = [], [], [], []
        liars = self.question.liars(strategy, agent)
        rows = [self.question.clusters[0].index(one) for one in liars]
        worth, weight = self.worth, self.question.weight
        unit, _ = worth.unit_of(rows)
        for seed, (before, after) in enumerate(zip(self.honest, lying, strict=False)):
            honest = Run(self.question.clusters[seed])
            run = replace(honest, strategy=strategy, liars=liars)
            # Whoever ruins its own model has nothing to gain, whatever it costs.
            lost = not all(np.isfinite(x[:, rows]).all() for x in (after.losses, after.tuned))
            spent = (self._spent(seed, each)[0] for each in (honest, run))
            way = before.losses + next(spent), after.losses + next(spent)
            end = self._ended(seed, before), self._ended(seed, after, run)
            gained, in_the_end = (_gained(*both, rows, weight) for both in (way, end))
            gains.append(np.full_like(gained, -np.inf) if lost else gained)
            ends.append(-np.inf if lost else float(in_the_end))
            charged = (after.paid[:, rows] - before.paid[:, rows]).mean(axis=1)
            shares = self._false_shares(after, rows)
            untrue.append(shares.mean(axis=0))
            if self.question.replayed:
                windows = -(-after.marks // run.cluster.payments.window)
                found = found_by(shares, self.question.audit_rate)[:, windows]
                charged = np.column_stack([charged, found.mean(axis=0)])
            charges.append(charged)
            saved = np.delete(end[0] - end[1], rows)
            others.append(float(saved.mean()) if len(saved) else 0.0)
            quality.append(-np.inf if lost else self._better(after, before, rows))
        all_charges = np.stack(charges) / unit
        name = self._name(strategy, agent)
        return Judged(
            strategy,
            agent,
            Deviation(name, np.array(ends) / unit, all_charges[:, -1]),
            np.stack(gains) / unit,
            all_charges,
            np.array(others) / worth.usual,
            np.array(quality),
            np.stack(untrue),
            unit,
        )

    def _false_shares(self, played: Played, rows: Sequence[int]) -> Floats:
        """The share of each window's rounds that are false, of these rows: (rows, windows)."""
        window = self.question.clusters[0].payments.window
        return np.stack([false_shares(played.untrue[:, row], window) for row in rows])

    def _better(self, after: Played, before: Played, rows: Sequence[int]) -> float:
        """By how much better these rows' models ended, in units of the metric; 0 if not
        measured."""
        if not len(after.metrics):
            return 0.0
        higher = self.question.clusters[0].task.better_values != "lower"
        gained = float((after.metrics[-1, rows] - before.metrics[-1, rows]).mean())
        return gained if higher else -gained


def _gained(before: Floats, after: Floats, rows: Sequence[int], weight: float) -> Floats:
    """What agents win (...,) whose run ends with the losses `after` (..., agents) and not with
    those `before`, means."""
    with np.errstate(invalid="ignore"):
        won = [competitive(after, i, weight) - competitive(before, i, weight) for i in rows]
    return np.asarray(np.mean(won, axis=0))


def _at_least(losses: Floats, values: Floats) -> Floats:
    """The values (points, agents) at the point where each agent's loss (points, agents) is least:
    (agents,)."""
    chosen = np.where(np.isnan(losses), np.inf, losses).argmin(axis=0)
    return np.asarray(np.take_along_axis(values, chosen[np.newaxis], axis=0)[0])
