"""What an audit says, for people and for machines: `audit.json`, a table, `report.html`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from candor.agent.reports import charts
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.studies.audit.bonds import found_by, windows_until_found
from candor.agent.studies.audit.incentives import (
    CONFIDENCE,
    LEVEL,
    SEEDS_MIN,
    Answer,
    Floats,
    Interval,
    interval,
)
from candor.agent.studies.audit.quality import Quality
from candor.agent.studies.audit.question import HELD_OUT, Question, Reward
from candor.agent.studies.audit.verdicts import Judged, Liar, Verdict
from candor.agent.studies.audit.worth import More, groups, quantiles
from candor.topologies.specs.files import json_text, write_text

REPORT_NAME: Final = "report.html"
AUDIT_NAME: Final = "audit.json"
_KINDS: Final = {Answer.PAYS: "bad", Answer.NONE_PAYS: "good", Answer.UNDECIDED: "open"}
STYLES: Final = {
    Answer.PAYS: "bold red",
    Answer.NONE_PAYS: "bold green",
    Answer.UNDECIDED: "bold yellow",
}
_PAYS: Final = {Answer.PAYS: "yes", Answer.NONE_PAYS: "no", Answer.UNDECIDED: "undecided"}
_FACTORS: Final = tuple(float(f) for f in np.linspace(0.0, 2.0, 41))
GAINS: Final = (
    "Gain: what a lie wins over honesty, in per cent of what honesty is worth to the liar; above 0 "
    f"it wins, below it loses. Means over the seeds, ± to the ends of the {CONFIDENCE:.0%} "
    "interval. Others: what the others win by it, mean, of what honesty is usually worth."
)
PAID: Final = (
    "What honest agents among themselves pay, net, in per cent of what honesty is worth to each; "
    "below 0 they are paid. Classes: as many as would be as mixed if each had as many samples."
)
FOUND: Final = (
    "Found: the chance that rounds done again show the lie within the run, and after how many "
    "windows of lying they do in the mean; blind: never, as data were false before; never acted: "
    "nothing was false, in none of these runs did its time come. Bond asked: in "
    "credits, the least with which it gains no more than epsilon beside the prices judged."
)
_MANY: Final = 100.0  # times the honest reward: beyond, digits say nothing
_LINES_MAX: Final = 8  # of the best lies, in a chart
_SHOWN: Final = 3.0  # axes end at so many times the largest gain


def settings_of(question: Question, topology: str, price: str) -> dict[str, object]:
    """What was audited, as the report and audit.json have it."""
    one = question.clusters[0]
    return {
        "task": one.task.name,
        "agents": len(one.ids),
        "topology": topology,
        "mixing": one.graph.mixing,
        "weights": "declared" if one.sizes else "equal",
        "partition": one.task.partition,
        "batch_size": one.task.batch_size,
        "algorithm": one.algorithm.name,
        **one.algorithm.model_dump(exclude={"name"}),
        "rounds": one.rounds.rounds,
        "window": one.payments.window,
        "first_seed": one.seed,
        "seeds": len(question.clusters),
        "reward": question.reward,
        "held_out": question.held_out,
        "fine_tune": question.fine_tune,
        "cost": question.cost,
        "competition": question.weight,
        "price": price,
        **({"audit_rate": question.audit_rate} if question.replayed else {}),
    }


def facts(verdict: Verdict, settings: Mapping[str, object]) -> dict[str, Any]:
    """The audit of runs with such `settings`, as JSON: gains, losses and payments as shares of what
    honesty is worth to whom they are of; None for what has no end or is not finite."""
    window = verdict.window
    return {
        **settings,
        "worth": _worth_facts(verdict),
        "liars": [_liar_facts(liar) for liar in verdict.liars],
        "rule": verdict.rule,
        "prices": dict(zip(verdict.terms, verdict.prices.tolist(), strict=True)),
        **({"replay": _replay_facts(verdict)} if verdict.replayed else {}),
        "window": {
            "low": window.low, "high": window.high, "by": window.by, "against": window.against,
        },
        "stopping": _stopping(verdict),
        "theory": {"peer-prediction": verdict.theory or None},
        "epsilon": verdict.epsilon,
        "covering_factor": verdict.covering,
        "answer": verdict.answer,
        "level": LEVEL,
        "seeds_min": SEEDS_MIN,
        "profitable_without_payments": verdict.tempting,
        "profitable": verdict.paying,
        "undecided": verdict.undecided,
        "unbilled": list(verdict.unbilled),
        "honest_pays": _honest_facts(verdict),
        "marks": verdict.marks.tolist(),
        **({"quality": _quality_facts(verdict.quality)} if verdict.quality else {}),
        "strategies": {one.name: _strategy(verdict, one) for one in verdict.judged},
    }  # fmt: skip


def _replay_facts(verdict: Verdict) -> dict[str, Any]:
    """The bond, in credits and in what honesty is worth in the median, and what lies ask for."""
    by = dearest(verdict)
    return {
        "audit_rate": verdict.audit_rate,
        "bond": verdict.bond,
        "bond_by": by.name if by else None,
        "bond_in_worth": verdict.bond / median_worth(verdict),
        "blind": [one.name for one in verdict.blind],
        "never_acted": [one.name for one in verdict.judged if not one.acted],
        "honest_pays_stated": _quantiles(_own(verdict, verdict.stated)),
    }


def median_worth(verdict: Verdict) -> float:
    """What honesty is worth to the agents with a unit, the median, in credits."""
    return float(np.median(verdict.worth.by_agent[verdict.worth.has_unit]))


def dearest(verdict: Verdict) -> Judged | None:
    """The lie that asks for the highest bond, of those that show; None where none asks for any."""
    shown = [one for one in verdict.judged if one.untrue.any()]
    found = max(shown, key=verdict.bond_asked, default=None)
    return found if found is not None and verdict.bond_asked(found) > 0 else None


def _worth_facts(verdict: Verdict) -> dict[str, Any]:
    """To how many agents honesty is worth anything, and what more training would be."""
    median, _, most = quantiles(verdict.worth.by_agent.ravel())
    alone, together = verdict.accuracies or (None, None)
    return {
        "agents": verdict.worth.by_agent.size,
        "gaining": int((verdict.worth.by_agent > 0).sum()),
        "without_unit": int((~verdict.has_unit).sum()),
        "usual": verdict.worth.usual,
        "median": median,
        "max": most,
        "accuracy_alone": alone,
        "accuracy": together,
        "more": [
            {
                "what": one.what, "helped": one.helped, "gain": one.mean,
                "helps": one.helps(verdict.epsilon),
            }
            for one in verdict.more
        ],
    }  # fmt: skip


def _liar_facts(liar: Liar) -> dict[str, Any]:
    member = liar.member
    return {
        "agent": member.agent,
        "degree": member.degree,
        "samples": member.samples,
        "classes": member.classes,
        "reward": liar.reward,
        "own_unit": liar.own,
    }


def _honest_facts(verdict: Verdict) -> dict[str, Any]:
    """What honest agents pay: `all` of them, and in groups."""
    shares = verdict.honest_payments()
    own = verdict.has_unit
    rows = zip(
        verdict.members, verdict.worth.by_agent.ravel(), shares * verdict.worth.units.ravel(),
        shares, own, strict=True,
    )  # fmt: skip
    return {
        **_quantiles(shares[own]),
        "without_unit_max": float(shares[~own].max()) if not own.all() else None,
        "groups": [
            {"by": by, "from": low, "to": high, "agents": int(whose.sum()),
             **_quantiles(shares[whose & own])}
            for by, low, high, whose in _groups(verdict)
        ],
        "all": [
            {
                **asdict(member), "worth": float(worth), "credits": float(credits),
                "share": float(share) if has else None,
            }
            for member, worth, credits, share, has in rows
        ],
    }  # fmt: skip


def _quantiles(shares: Floats) -> dict[str, float]:
    return dict(zip(("median", "p98", "max"), quantiles(shares), strict=True))


def _groups(verdict: Verdict) -> list[tuple[str, float, float, Any]]:
    """Honest agents by neighbours, samples and classes: what, from where to where, and whose."""
    found = []
    for by, name in (("degree", "degree"), ("samples", "samples"), ("classes", "classes")):
        values = [getattr(member, name) for member in verdict.members]
        if None not in values:
            found += [(by, *part) for part in groups(np.array(values, np.float64))]
    return found


def honest_table(verdict: Verdict) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """What honest agents pay, by neighbours, samples and classes: columns and rows."""
    shares, own = verdict.honest_payments(), verdict.has_unit
    rows = [_honest_row("all", np.ones_like(own), shares, own)]
    for by, low, high, whose in _groups(verdict):
        digits = ".1f" if by == "classes" else ".0f"
        span = f"{low:{digits}}" if low == high else f"{low:{digits}} to {high:{digits}}"
        rows.append(_honest_row(f"{by} {span}", whose, shares, own))
    columns = ("honest agents", "#how many", "#no unit", "#median, %", "#98th, %", "#worst, %")
    return columns, rows


def _honest_row(name: str, whose: Any, shares: Floats, own: Any) -> Sequence[str]:
    cells = [f"{100 * v:+.2f}" if np.isfinite(v) else "-" for v in quantiles(shares[whose & own])]
    return (name, str(int(whose.sum())), str(int((whose & ~own).sum())), *cells)


def _quality_facts(quality: Quality) -> dict[str, Any]:
    """Of the metric that counts, in its own unit; gains are above 0 for better models."""
    return {
        "metric": quality.metric.name,
        "better": "higher" if quality.metric.higher_is_better else "lower",
        "honest": quality.honest,
        "epsilon": quality.epsilon,
        "profitable": quality.answered(Answer.PAYS),
        "undecided": quality.answered(Answer.UNDECIDED),
    }


def _stopping(verdict: Verdict) -> dict[str, Any] | None:
    """The rule that stops all lies, and the most that an honest agent pays under it."""
    if verdict.stopping is None:
        return None
    paid = verdict.honest_payments(verdict.stopping)
    return {"rule": verdict.rule_at(verdict.stopping), "honest_max": float(paid.max())}


def _strategy(verdict: Verdict, one: Judged) -> dict[str, Any]:
    free, net = intervals(verdict, one)
    cumulative = one.net(verdict.prices).mean(axis=0)
    half = flattening(verdict, one) or (None, None)
    return {
        "strategy": one.strategy,
        "agent": one.agent,
        "searched": one.searched,
        "others_gain": float(one.others.mean()),
        "gain": [free.mean, free.low, free.high],
        "net_gain": [net.mean, net.low, net.high],
        "charge": free.mean - net.mean if one.deviation.finite else math.inf,
        "cumulative_net_gain": cumulative.tolist(),
        "first_half": half[0],
        "second_half": half[1],
        **(_found_facts(verdict, one) if verdict.replayed else {}),
        **(_gained_quality(verdict.quality, one.name) if verdict.quality else {}),
    }


def _found_facts(verdict: Verdict, one: Judged) -> dict[str, Any]:
    """How soon rounds done again show a lie, and the bond that it asks for; None where they do
    not."""
    shows = bool(one.untrue.any())
    return {
        "false_rounds": float(one.untrue.mean()),
        "found": found(verdict, one),
        "windows_until_found": _life(verdict, one) if shows else None,
        "bond_asked": verdict.bond_asked(one) if shows else None,
    }


def found(verdict: Verdict, one: Judged) -> float:
    """The chance that a lie is found in a run, mean over the seeds."""
    return float(found_by(one.untrue, verdict.audit_rate)[:, -1].mean())


def _life(verdict: Verdict, one: Judged) -> float:
    """How many windows a lie is expected to live, mean over the seeds in which it can be found."""
    rates = (windows_until_found(shares, verdict.audit_rate) for shares in one.untrue)
    return float(np.nanmean(list(rates)))


def _gained_quality(quality: Quality, strategy: str) -> dict[str, Any]:
    span = quality.span(strategy)
    return {
        "quality_gain": [span.mean, span.low, span.high],
        "pays_in_quality": _PAYS[quality.answer(strategy)],
    }


def intervals(verdict: Verdict, one: Judged) -> tuple[Interval, Interval]:
    """A lie's gain without and with payments."""
    return interval(one.deviation.gains), interval(one.deviation.net(verdict.prices))


def middle(verdict: Verdict) -> int | None:
    """Which mark between the first and the last is nearest to half of the rounds; None in a run of
    one window, which has none."""
    inner = np.arange(1, len(verdict.marks) - 1)
    if not len(inner):
        return None
    return int(inner[np.abs(verdict.marks[inner] - verdict.marks[-1] / 2).argmin()])


def flattening(verdict: Verdict, one: Judged) -> tuple[float, float] | None:
    """Without payments and fine-tuning: what was gained until the mark `middle`, and from there on;
    None where there is no such mark."""
    half_way = middle(verdict)
    if half_way is None:
        return None
    if not one.deviation.finite:
        return -math.inf, -math.inf
    gains = one.gains.mean(axis=0)
    return float(gains[half_way]), float(gains[-1] - gains[half_way])


def told(verdict: Verdict) -> str:
    """The answer with the strategies that it is due to."""
    share = f"{100 * verdict.epsilon:.3g} %"
    named = ", ".join(_named(verdict))
    match verdict.answer:
        case Answer.PAYS:
            also = " or ".join(one.what for one in verdict.undertrained)
            return f"a lie pays: {named}" + (f"; {also} would help all, see above" if also else "")
        case Answer.UNDECIDED:
            few = verdict.seeds < SEEDS_MIN
            more = f"fewer than {SEEDS_MIN} seeds tell nothing" if few else "more --seeds tell"
            return f"undecided: {named} may gain more than {share}; {more}"
        case Answer.NONE_PAYS:
            neither = f", nor in {verdict.quality.metric.name}" if verdict.quality else ""
            sure = f"by its {CONFIDENCE:.0%} interval"
            return f"no lie pays: none gains more than {share}{neither}, {sure}"


def _named(verdict: Verdict) -> list[str]:
    """The strategies that the answer is due to."""
    named = verdict.paying if verdict.answer is Answer.PAYS else verdict.undecided
    if verdict.quality is None:
        return named
    of_quality = verdict.quality.answered(verdict.answer)
    return [*named, *(f"{one} (in {verdict.quality.metric.name})" for one in of_quality)]


def opening(verdict: Verdict) -> list[str]:
    """What honesty is worth, before any lie: a few lines of text."""
    worth, lines = verdict.worth.by_agent, []
    count, usual = int((worth > 0).sum()), f"{verdict.worth.usual:.3g}"
    if verdict.reward is Reward.TRAINING:
        lines.append(
            f"training saves {count} of {worth.size} agents (of all seeds) loss on their own "
            f"samples, {usual} in the mean"
        )
    else:
        lines.append(
            f"cooperation pays {count} of {worth.size} agents (of all seeds): {usual} less loss on "
            f"the {100 * HELD_OUT:.0f} % of their samples that are held out than alone, in the mean"
            f" of those{_accuracy_words(verdict)}"
        )
    if unitless := int((~verdict.has_unit).sum()):
        lines.append(
            f"of {unitless} that gain (nearly) nothing by it, what they pay is no share of it; it "
            "is left out below"
        )
    lines += [_more_sentence(one, verdict.epsilon) for one in verdict.more]
    if len(verdict.liars) > 1 or not verdict.liars[0].own:
        lines += map(_liar_words, verdict.liars)
    return lines


def _accuracy_words(verdict: Verdict) -> str:
    if verdict.accuracies is None:
        return ""
    alone, together = (f"{100 * share:.1f} %" for share in verdict.accuracies)
    return f"; of all, {together} are told right, alone {alone}"


def _more_sentence(more: More, epsilon: float) -> str:
    helped = f"{more.what}: {100 * more.helped:.0f} % of honest agents end better, all in the mean"
    told = f"{helped} by {percent(more.mean)} %"
    if not more.helps(epsilon):
        return told
    return f"{told}: this run is undertrained, and exaggerating stands in for that"


def _liar_words(liar: Liar) -> str:
    member = liar.member
    many = [f"{member.degree} neighbour{'s' if member.degree > 1 else ''}"]
    many += [f"{member.samples} samples"] if member.samples is not None else []
    many += [f"{member.classes:.1f} classes"] if member.classes is not None else []
    unit = (
        f"honesty is worth {liar.reward:.3g} to it"
        if liar.own
        else f"gains nothing by honesty; its gains are in the usual worth, {liar.reward:.3g}"
    )
    return f"{member.agent} lies ({', '.join(many)}): {unit}"


def sentences(verdict: Verdict) -> list[str]:
    """The audit of lies in a few lines of text."""
    free, share = verdict.tempting, 100 * verdict.epsilon
    best = max([0.0, *(float(j.deviation.gains.mean()) for j in verdict.judged)])
    lines = [
        f"without payments {len(free)} of {len(verdict.judged)} lies gain more than {share:.3g} % "
        f"in the mean, the best {100 * best:.2f} %",
        f"rule: {verdict.rule}{_covering_words(verdict)}",
        *(_replay_sentences(verdict) if verdict.replayed else []),
        _window_sentence(verdict, f"{share:.3g} %"),
    ]
    if verdict.theory > 0:
        lines.append(
            f"theory to start from: peer-prediction:{verdict.theory:.3g} stops added noise where "
            "the loss is quadratic"
        )
    lines.append(_honest_sentence(verdict))
    if verdict.window.low > 1 or verdict.window.high < 1:
        lines.append(_stopping_sentence(verdict, f"{share:.3g} %"))
    if verdict.quality is not None:
        lines.append(_quality_sentence(verdict.quality))
    if verdict.unbilled:
        lines.append(
            f"not judged: {', '.join(verdict.unbilled)}; the rule gives no amounts for what it "
            "sends, so that nobody could bill it"
        )
    return lines


def _honest_sentence(verdict: Verdict) -> str:
    shares, own = verdict.honest_payments(), verdict.has_unit
    median, high, most = (100 * value for value in quantiles(shares[own]))
    without = "" if own.all() else (
        f"; those without a unit {100 * float(shares[~own].max()):+.2f} % of the usual at most"
    )  # fmt: skip
    return (
        f"honest agents pay {median:+.2f} % of their own in the median, {high:+.2f} % at the 98th "
        f"percentile, {most:+.2f} % at most (below 0: receive){without}"
    )


def _covering_words(verdict: Verdict) -> str:
    if verdict.covering == 1:
        return ""
    return (
        f", {verdict.covering:.3g} times what the means ask for, so that intervals are below, too; "
        "more --seeds ask for less"
    )


def _replay_sentences(verdict: Verdict) -> list[str]:
    """The bond, the lie that asks for it, and what prices are still for."""
    by, blind = dearest(verdict), dict.fromkeys(one.strategy for one in verdict.blind)
    rate = f"one round of every window done again with a chance of {100 * verdict.audit_rate:.3g} %"
    lines = [
        f"bond: {verdict.bond:.4g} credits, {verdict.bond / median_worth(verdict):.3g} times what "
        f"honesty is worth in the median, with {rate}"
        + (f"; {by.name} asks for {verdict.bond_asked(by):.4g}, and is found in a run with a chance"
           f" of {100 * found(verdict, by):.3g} %" if by else "; no lie asks for any")
    ]  # fmt: skip
    needs = verdict.rule != "none"
    lines.append(
        f"no round done again shows {', '.join(blind)}: "
        + ("prices are for these alone" if needs else "no prices are needed, as none of them pays")
        if blind
        else "prices are needed for no lie that was judged"
        if not needs
        else "prices are as given"
    )
    if idle := dict.fromkeys(one.strategy for one in verdict.judged if not one.acted):
        lines.append(f"never acted in runs this short: {', '.join(idle)}")
    _, high, most = (100 * v for v in quantiles(_own(verdict, verdict.stated)))
    lines.append(
        f"at the prices that the rule states, or the default one, honest agents pay {high:+.2f} % "
        f"of their own at the 98th percentile, {most:+.2f} % at most"
    )
    return lines


def _own(verdict: Verdict, prices: Floats) -> Floats:
    """What honest agents with a unit pay at prices (terms,)."""
    return verdict.honest_payments(prices)[verdict.has_unit]


def _window_sentence(verdict: Verdict, share: str) -> str:
    window, these = verdict.window, "this bond" if verdict.rule == "none" else "these prices"
    if verdict.replayed and verdict.rule != "none":
        these += " and this bond"
    if window.empty:
        return f"in the mean some lie gains more than {share} at whatever factor on {these}"
    upper = "on" if np.isinf(window.high) else f"to {window.high:.3g}"
    return (
        f"in the mean no lie gains more than {share} from {window.low:.3g} times {these} "
        + upper
        + (f"; below, {window.by} does" if window.by else "")
        + (f"; above, {window.against} does" if window.against else "")
    )


def _stopping_sentence(verdict: Verdict, share: str) -> str:
    stopping = _stopping(verdict)
    if stopping is None:
        return "no prices of these terms stop all lies"
    most = 100 * stopping["honest_max"]
    return (
        f"in the mean no lie would gain more than {share} with {stopping['rule']}, and no honest "
        f"agent pay more than {most:.2f} %"
    )


def _quality_sentence(quality: Quality) -> str:
    paying, honest = quality.answered(Answer.PAYS), quality.metric.text(quality.honest)
    return (
        f"rewards {quality.rewards}: honest, the agent reaches {quality.metric.name} {honest}; of "
        f"{len(quality.gains)} lies {len(paying)} gain more than "
        f"{quality.metric.text(quality.epsilon)} of it, of "
        f"{len(quality.answered(Answer.UNDECIDED))} it is undecided"
    )


def write(verdict: Verdict, settings: Mapping[str, object], run_dir: Path) -> tuple[str, Path]:
    """Write `audit.json` and `report.html` into the run's directory; the text of the former and
    the path of the latter.

    Raises:
        ConfigurationError: the system refused.
    """
    found, path = json_text(facts(verdict, settings), indent=2), run_dir / REPORT_NAME
    write_text(run_dir / AUDIT_NAME, found + "\n")
    write_text(path, render(verdict, settings))
    return found, path


def render(verdict: Verdict, settings: Mapping[str, object]) -> str:
    """The audit as a self-contained page."""
    title = " · ".join(str(settings[name]) for name in ("task", "topology", "partition"))
    of_quality = [] if verdict.quality is None else [_quality(verdict, verdict.quality)]
    blocks = (
        _header(verdict, title), *of_quality, _gains(verdict), _prices(verdict), _honest(verdict),
        _payers(verdict),
        _cumulative(verdict), _table(verdict), _settings(settings),
    )  # fmt: skip
    return page(escape(f"Does a lie pay? {title}"), blocks)


def _settings(settings: Mapping[str, object]) -> str:
    rows = [(escape(name), f"<code>{escape(value)}</code>") for name, value in settings.items()]
    return card("Settings", "What was audited.", table(("setting", "value"), rows))


def _header(verdict: Verdict, title: str) -> str:
    kind = _KINDS[verdict.answer]
    told_lines = [*opening(verdict), *sentences(verdict)]
    lead = "".join(f"<p class=lead>{escape(line)}</p>" for line in told_lines)
    liars = " or ".join(liar.member.agent for liar in verdict.liars)
    return (
        f"<p class=kind>incentive audit</p><h1>{escape(title)}</h1>{lead}"
        f'<div class=tiles><div class="tile {kind}"><b>{escape(told(verdict))}</b>'
        f"<span>{escape(liars)} deviates, all others are honest</span></div></div>"
    )


def _gains(verdict: Verdict) -> str:
    rows = [(one.name, *intervals(verdict, one)) for one in worst_of_each(verdict)]
    bars = [
        charts.Bars(name, [(100 * i.mean, 100 * i.low, 100 * i.high) for i in (free, net)])
        for name, free, net in rows
        if np.isfinite(free.mean)
    ]
    draw = partial(
        charts.intervals, bars, ("without payments", "with payments"),
        "gain, per cent of the honest reward",
        {"epsilon": 100 * verdict.epsilon}, 100 * _extent(verdict),
    )  # fmt: skip
    caption = (
        "What each strategy gains over honesty on the same seeds, of the agent to whom it pays "
        "best, means with 95 % confidence intervals (Student). Beyond epsilon a lie pays. What "
        "leaves the picture is in the table below."
    )
    return card("Gains", caption, image(draw, "gain by strategy"))


def _quality(verdict: Verdict, quality: Quality) -> str:
    drawn, name = quality.metric.drawn, quality.metric.name
    spans = [(one.name, quality.span(one.name)) for one in worst_of_each(verdict)]
    bars = [
        charts.Bars(strategy, [(drawn(span.mean), drawn(span.low), drawn(span.high))])
        for strategy, span in spans
        if np.isfinite(span.mean)
    ]
    epsilon = drawn(quality.epsilon)
    reach = max([3 * epsilon, *(1.1 * abs(bar.spans[0][0]) for bar in bars)])
    draw = partial(
        charts.intervals, bars, ("beside honest",), f"better by, {quality.metric.quantity}",
        {"epsilon": epsilon}, reach,
    )  # fmt: skip
    caption = (
        f"How much better in {name} the liar's model ends than the same agent's when it is honest, "
        "by the same seeds, means with 95 % confidence intervals (Student); payments are not in "
        "it. Beyond epsilon a lie pays in model quality."
    )
    return card("Model quality", caption, image(draw, f"{name} gained by strategy"))


def _prices(verdict: Verdict) -> str:
    lines = []
    for one in _best_first(verdict)[:_LINES_MAX]:
        nets = [one.deviation.net(f * verdict.prices).mean() for f in _FACTORS]
        lines.append(_line(one, _FACTORS, 100 * np.array(nets)))
    draw = partial(
        charts.lines_by_round, lines, "net gain, per cent of the honest reward",
        references={"epsilon": 100 * verdict.epsilon}, across="times the prices",
        lowest=-100 * _extent(verdict),
    )  # fmt: skip
    caption = "What the best lies gain when all prices are multiplied; 1 is the rule judged."
    return card("Prices", caption, image(draw, "net gain by price"))


def _honest(verdict: Verdict) -> str:
    paid = 100 * verdict.honest_payments()[verdict.has_unit]
    median, high, _ = quantiles(paid)
    draw = partial(
        charts.histogram, paid.tolist(),
        "paid, per cent of the honest reward (below 0: received)", "honest agents",
        {"median": median, "98th percentile": high},
    )  # fmt: skip
    caption = "What honest agents pay in runs without any liar, net, over all seeds."
    return card("What honesty costs", caption, image(draw, "histogram of honest payments"))


def _payers(verdict: Verdict) -> str:
    columns, rows = honest_table(verdict)
    cells = ([escape(cell) for cell in row] for row in rows)
    return card("Who pays", PAID, table(columns, cells))


def _cumulative(verdict: Verdict) -> str:
    parts = []
    zero = np.zeros_like(verdict.prices)
    for prices, what in ((zero, "without payments"), (verdict.prices, "with payments")):
        lines = [
            _line(one, verdict.marks.tolist(), 100 * one.net(prices).mean(axis=0))
            for one in _best_first(verdict)[:_LINES_MAX]
        ]  # fmt: skip
        quantity = f"gained so far, {what}, per cent of the honest reward"
        draw = partial(charts.lines_by_round, lines, quantity, lowest=-100 * _extent(verdict))
        parts.append(image(draw, quantity))
    caption = (
        "What a lie would have gained, had the run ended after so many rounds: where the line is "
        "level, lying on gains no more."
    )
    return card("Cumulative gain", caption, "".join(parts))


def _table(verdict: Verdict) -> str:
    columns, rows = gains_table(verdict, _best_first(verdict), halves=True)
    caption = f"{GAINS} {FOUND}" if verdict.replayed else GAINS
    return card("Strategies", caption, table(columns, ([escape(c) for c in row] for row in rows)))


def worst_of_each(verdict: Verdict) -> list[Judged]:
    """Of each strategy the agent to whom it pays best, with payments; the best first."""
    of: dict[str, Judged] = {}
    for one in sorted(
        verdict.judged, key=lambda one: float(one.deviation.net(verdict.prices).mean())
    ):
        of[one.strategy] = one
    return [one for one in _best_first(verdict) if of[one.strategy] is one]


def gains_table(
    verdict: Verdict, judged: Sequence[Judged], *, halves: bool = False
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """What these lies gain: columns, those named #… with numbers, and rows; with `halves` also when
    it was gained, which a terminal of 80 has no room for."""
    rows = []
    several, quality = len(verdict.liars) > 1, verdict.quality
    half_way = middle(verdict) if halves else None
    for one in judged:
        name = one.strategy + (" (search)" if one.searched else "")
        row = [name, *([one.agent] if several else [])]
        row += [f"{percent(span.mean)} {_reach(span)}" for span in intervals(verdict, one)]
        if (quality is None and not verdict.replayed) or halves:
            row.append(percent(float(one.others.mean())))
        row += _found_cells(verdict, one) if verdict.replayed else ()
        row += map(percent, (flattening(verdict, one) or ()) if halves else ())
        rows.append(row if quality is None else [*row, *_quality_cells(quality, one.name)])
    columns = ["strategy", *(["of"] if several else [])]
    columns += ["#gain without\npayments, %", "#gain with\npayments, %"]
    if (quality is None and not verdict.replayed) or halves:
        columns.append("#others\ngain, %")
    if verdict.replayed:
        columns += ["#found,\n%", "#after\nwindows", "#bond\nasked"]
    if half_way is not None:
        columns += [
            f"#without, until\nround {verdict.marks[half_way]}, %",
            "#without, from\nthen on, %",
        ]
    if quality is not None:
        metric = quality.metric
        columns += [f"#better in\n{metric.quantity}", f"pays in\n{metric.name}"]
    return columns, rows


def _found_cells(verdict: Verdict, one: Judged) -> tuple[str, str, str]:
    """With which chance a lie is found in a run, after how many windows, and for which bond it
    asks, in credits."""
    if not one.untrue.any():
        return "blind" if one.acted else "never acted", "-", "-"
    asked = verdict.bond_asked(one)
    return f"{100 * found(verdict, one):.3g}", f"{_life(verdict, one):.1f}", f"{asked:.3g}"


def _quality_cells(quality: Quality, strategy: str) -> tuple[str, str]:
    """What a strategy gains in the metric, accuracy in points, and whether it pays."""
    span, drawn = quality.span(strategy), quality.metric.drawn
    digits = ".2f" if quality.metric.is_share else ".4g"
    text = f"{drawn(span.mean):+{digits}}" if np.isfinite(span.mean) else "ruined"
    wide = drawn(span.high - span.mean)
    reach = f" ± {wide:{digits}}" if np.isfinite(wide) else ""
    return text + reach, _PAYS[quality.answer(strategy)]


def percent(share: float) -> str:
    """A share as signed per cent."""
    if not np.isfinite(share):
        return "ruined"
    return f"{100 * share:+.2f}" if abs(share) < _MANY else f"{100 * share:+.0e}"


def _reach(span: Interval) -> str:
    """How far an interval goes from its mean, in per cent; nothing where one sample has none."""
    wide = 100 * (span.high - span.mean)
    if not np.isfinite(wide):
        return ""
    return f"± {wide:.2f}" if wide < 100 * _MANY else f"± {wide:.0e}"


def _best_first(verdict: Verdict) -> list[Judged]:
    return sorted(verdict.judged, key=lambda one: -float(one.deviation.gains.mean()))


def _extent(verdict: Verdict) -> float:
    """Where axes end, as a share of the honest reward: what is lost may be far below."""
    gains = [float(one.deviation.gains.mean()) for one in verdict.judged]
    return _SHOWN * max([0.01, *(gain for gain in gains if np.isfinite(gain))])


def _line(one: Judged, across: Sequence[float], values: Floats) -> charts.Line:
    return charts.Line(one.name, across, values.tolist(), one.searched)
