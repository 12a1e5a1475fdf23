"""What an audit says, for people and for machines: `audit.json`, a table, `report.html`."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from candor.agent.reports import charts
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.studies.audit.incentives import (
    CONFIDENCE,
    LEVEL,
    SEEDS_MIN,
    Answer,
    Floats,
    Interval,
    PriceWindow,
    interval,
)
from candor.agent.studies.audit.quality import Quality
from candor.agent.studies.audit.runs import Question
from candor.agent.studies.audit.verdicts import Judged, Verdict
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
    "Gain: what a lie wins over honesty, in per cent of what honest training is worth; above 0 it "
    f"wins, below it loses. Means over the seeds, ± to the ends of the {CONFIDENCE:.0%} interval."
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
        "competition": question.weight,
        "price": price,
    }


def facts(verdict: Verdict, settings: Mapping[str, object]) -> dict[str, Any]:
    """The audit of runs with such `settings`, as JSON: gains, losses and payments as shares of the
    honest reward; None for what has no end or is not finite."""
    window, paid = verdict.window, verdict.honest_payments() / verdict.reward
    median, high = np.percentile(paid, [50, 98])
    return {
        **settings,
        "agent": verdict.agent,
        "rule": verdict.rule,
        "prices": dict(zip(verdict.terms, verdict.prices.tolist(), strict=True)),
        "window": {
            "low": window.low, "high": window.high, "by": window.by, "against": window.against,
        },
        "stopping": _stopping(verdict),
        "theory": {"peer-prediction": verdict.theory or None},
        "epsilon": verdict.epsilon / verdict.reward,
        "honest_reward": verdict.reward,
        "covering_factor": verdict.covering,
        "answer": verdict.answer,
        "level": LEVEL,
        "seeds_min": SEEDS_MIN,
        "profitable_without_payments": verdict.tempting,
        "profitable": verdict.paying,
        "undecided": verdict.undecided,
        "unbilled": list(verdict.unbilled),
        "honest_pays": {
            "median": float(median), "p98": float(high), "max": float(paid.max()),
            "all": paid.tolist(),
        },
        "marks": verdict.marks.tolist(),
        **({"quality": _quality_facts(verdict.quality)} if verdict.quality else {}),
        "strategies": {one.strategy: _strategy(verdict, one) for one in verdict.judged},
    }  # fmt: skip


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
    paid = verdict.honest_payments(verdict.stopping) / verdict.reward
    return {"rule": verdict.rule_at(verdict.stopping), "honest_max": float(paid.max())}


def _strategy(verdict: Verdict, one: Judged) -> dict[str, Any]:
    free, net = intervals(verdict, one)
    cumulative = one.net(verdict.prices).mean(axis=0) / verdict.reward
    half = flattening(verdict, one) or (None, None)
    return {
        "searched": one.searched,
        "gain": [free.mean, free.low, free.high],
        "net_gain": [net.mean, net.low, net.high],
        "charge": free.mean - net.mean if one.deviation.finite else math.inf,
        "cumulative_net_gain": cumulative.tolist(),
        "first_half": half[0],
        "second_half": half[1],
        **(_gained_quality(verdict.quality, one.strategy) if verdict.quality else {}),
    }


def _gained_quality(quality: Quality, strategy: str) -> dict[str, Any]:
    span = quality.span(strategy)
    return {
        "quality_gain": [span.mean, span.low, span.high],
        "pays_in_quality": _PAYS[quality.answer(strategy)],
    }


def intervals(verdict: Verdict, one: Judged) -> tuple[Interval, Interval]:
    """A strategy's gain without and with payments, as shares of the honest reward."""
    deviation, scale = one.deviation, verdict.reward
    return interval(deviation.gains / scale), interval(deviation.net(verdict.prices) / scale)


def middle(verdict: Verdict) -> int | None:
    """Which mark between the first and the last is nearest to half of the rounds; None in a run of
    one window, which has none."""
    inner = np.arange(1, len(verdict.marks) - 1)
    if not len(inner):
        return None
    return int(inner[np.abs(verdict.marks[inner] - verdict.marks[-1] / 2).argmin()])


def flattening(verdict: Verdict, one: Judged) -> tuple[float, float] | None:
    """Without payments: what was gained until the mark `middle`, and from there on, as shares of
    the honest reward; None where there is no such mark."""
    half_way = middle(verdict)
    if half_way is None:
        return None
    if not one.deviation.finite:
        return -math.inf, -math.inf
    gains = one.gains.mean(axis=0) / verdict.reward
    return float(gains[half_way]), float(gains[-1] - gains[half_way])


def told(verdict: Verdict) -> str:
    """The answer with the strategies that it is due to."""
    share = f"{100 * verdict.epsilon / verdict.reward:.3g} %"
    named = ", ".join(_named(verdict))
    match verdict.answer:
        case Answer.PAYS:
            return f"a lie pays: {named}"
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


def sentences(verdict: Verdict) -> list[str]:
    """The audit in a few lines of text."""
    free, share = verdict.tempting, 100 * verdict.epsilon / verdict.reward
    best = max([0.0, *(float(j.deviation.gains.mean()) for j in verdict.judged)])
    median, high, most = (
        100 * np.percentile(verdict.honest_payments(), [50, 98, 100]) / verdict.reward
    )
    lines = [
        f"without payments {len(free)} of {len(verdict.judged)} lies gain more than {share:.3g} % "
        f"in the mean, the best {100 * best / verdict.reward:.2f} %",
        f"rule: {verdict.rule}{_covering_words(verdict)}",
        _window_sentence(verdict.window, f"{share:.3g} %"),
    ]
    if verdict.theory > 0:
        lines.append(
            f"theory to start from: peer-prediction:{verdict.theory:.3g} stops added noise where "
            "the loss is quadratic"
        )
    lines.append(
        f"honest agents pay {median:+.2f} % in the median, {high:+.2f} % at the 98th percentile, "
        f"{most:+.2f} % at most (below 0: receive)"
    )
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


def _covering_words(verdict: Verdict) -> str:
    if verdict.covering == 1:
        return ""
    return (
        f", {verdict.covering:.3g} times what the means ask for, so that intervals are below, too; "
        "more --seeds ask for less"
    )


def _window_sentence(window: PriceWindow, share: str) -> str:
    if window.empty:
        return f"in the mean some lie gains more than {share} at whatever factor on these prices"
    upper = "on" if np.isinf(window.high) else f"to {window.high:.3g}"
    return (
        f"in the mean no lie gains more than {share} from {window.low:.3g} times these prices "
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
        _cumulative(verdict), _table(verdict), _settings(settings),
    )  # fmt: skip
    return page(escape(f"Does a lie pay? {title}"), blocks)


def _settings(settings: Mapping[str, object]) -> str:
    rows = [(escape(name), f"<code>{escape(value)}</code>") for name, value in settings.items()]
    return card("Settings", "What was audited.", table(("setting", "value"), rows))


def _header(verdict: Verdict, title: str) -> str:
    kind = _KINDS[verdict.answer]
    lead = "".join(f"<p class=lead>{escape(line)}</p>" for line in sentences(verdict))
    return (
        f"<p class=kind>incentive audit</p><h1>{escape(title)}</h1>{lead}"
        f'<div class=tiles><div class="tile {kind}"><b>{escape(told(verdict))}</b>'
        f"<span>{escape(verdict.agent)} deviates, all others are honest</span></div></div>"
    )


def _gains(verdict: Verdict) -> str:
    rows = [(one.strategy, *intervals(verdict, one)) for one in _best_first(verdict)]
    bars = [
        charts.Bars(name, [(100 * i.mean, 100 * i.low, 100 * i.high) for i in (free, net)])
        for name, free, net in rows
        if np.isfinite(free.mean)
    ]
    draw = partial(
        charts.intervals, bars, ("without payments", "with payments"),
        "gain, per cent of the honest reward",
        {"epsilon": 100 * verdict.epsilon / verdict.reward}, 100 * _extent(verdict),
    )  # fmt: skip
    caption = (
        "What each strategy gains over honesty on the same seeds, means with 95 % confidence "
        "intervals (Student). Beyond epsilon a lie pays. What leaves the picture is in the table "
        "below."
    )
    return card("Gains", caption, image(draw, "gain by strategy"))


def _quality(verdict: Verdict, quality: Quality) -> str:
    drawn, name = quality.metric.drawn, quality.metric.name
    spans = [(one.strategy, quality.span(one.strategy)) for one in _best_first(verdict)]
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
        nets = [one.deviation.net(f * verdict.prices).mean() / verdict.reward for f in _FACTORS]
        lines.append(_line(one, _FACTORS, 100 * np.array(nets)))
    draw = partial(
        charts.lines_by_round, lines, "net gain, per cent of the honest reward",
        references={"epsilon": 100 * verdict.epsilon / verdict.reward}, across="times the prices",
        lowest=-100 * _extent(verdict),
    )  # fmt: skip
    caption = "What the best lies gain when all prices are multiplied; 1 is the rule judged."
    return card("Prices", caption, image(draw, "net gain by price"))


def _honest(verdict: Verdict) -> str:
    paid = 100 * verdict.honest_payments() / verdict.reward
    median, high = np.percentile(paid, [50, 98])
    draw = partial(
        charts.histogram, paid.tolist(),
        "paid, per cent of the honest reward (below 0: received)", "honest agents",
        {"median": float(median), "98th percentile": float(high)},
    )  # fmt: skip
    caption = "What honest agents pay in runs without any liar, net, over all seeds."
    return card("What honesty costs", caption, image(draw, "histogram of honest payments"))


def _cumulative(verdict: Verdict) -> str:
    parts = []
    zero = np.zeros_like(verdict.prices)
    for prices, what in ((zero, "without payments"), (verdict.prices, "with payments")):
        lines = [
            _line(one, verdict.marks.tolist(), 100 * one.net(prices).mean(axis=0) / verdict.reward)
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
    columns, rows = gains_table(verdict)
    return card("Strategies", GAINS, table(columns, ([escape(c) for c in row] for row in rows)))


def gains_table(verdict: Verdict) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """What lies gain, the best first: columns, those named #… with numbers, and rows."""
    rows = []
    # Columns for both do not fit a terminal of 80: under rewards halves are in audit.json.
    half_way = middle(verdict) if verdict.quality is None else None
    for one in _best_first(verdict):
        name = one.strategy + (" (search)" if one.searched else "")
        spans = [f"{percent(span.mean)} {_reach(span)}" for span in intervals(verdict, one)]
        if verdict.quality is None:
            rows.append((name, *spans, *map(percent, flattening(verdict, one) or ())))
        else:
            rows.append((name, *spans, *_quality_cells(verdict.quality, one.strategy)))
    columns = ["strategy", "#gain without\npayments, %", "#gain with\npayments, %"]
    if half_way is not None:
        columns += [
            f"#without, until\nround {verdict.marks[half_way]}, %",
            "#without, from\nthen on, %",
        ]
    if verdict.quality is not None:
        metric = verdict.quality.metric
        columns += [f"#better in\n{metric.quantity}", f"pays in\n{metric.name}"]
    return columns, rows


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
    gains = [float(one.deviation.gains.mean()) / verdict.reward for one in verdict.judged]
    return _SHOWN * max([0.01, *(gain for gain in gains if np.isfinite(gain))])


def _line(one: Judged, across: Sequence[float], values: Floats) -> charts.Line:
    return charts.Line(one.strategy, across, values.tolist(), one.searched)
