"""One HTML page about a run: what was learned, who paid whom, whether the ledgers add up.

The page is self-contained: no script, nothing loaded from a network, drawings inside. It is made of
whatever a run left behind, or one agent of it; a missing piece is left out and named in a note.
Every value that comes from the run directory is escaped. It repeats the verdict of the audit that
the run came to; where there is none, the exports are audited.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from candor.agent.daemon.participation import Part, participation_words, parts_of, seen_in
from candor.agent.daemon.status import (
    NeighbourStatus,
    misrated_of,
    standings_of,
    weightless_shares,
)
from candor.agent.reports.charts import (
    Band,
    Line,
    Stretch,
    bands,
    lines_by_round,
    payment_graph,
    timeline,
)
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.reports.metric import (
    Metric,
    format_value,
    idle_settings,
    mean_of,
    reached,
    shown_name,
)
from candor.agent.reports.terminal import format_bytes, isolation, payments_of
from candor.agent.runs.data_dirs import STORE_NAME
from candor.agent.runs.directory import AgentRun, RunDirectory, read_run_directory, section
from candor.agent.runs.fault_log import FILE_NAME as FAULTS_LOG
from candor.agent.runs.fault_log import spans
from candor.mechanisms.ledger.audit import RunAudit
from candor.mechanisms.payments.credits import CREDIT, MICRO, format_credits
from candor.topologies.specs.files import write_text
from candor.topologies.specs.specs import ConfigurationError

FILE_NAME = "report.html"

# From this spread of the injected norms on, a linear axis hides the small ones.
_LOGARITHMIC_FROM = 20.0
_PAYMENTS_SHOWN_MAX = 100

_FINDINGS_SHOWN_MAX = 50
_FAULTY_SHOWN_MAX = 40  # agents in a picture of faults
_UNKNOWN = ("-", "unknown")
_NO_PAYMENTS = "Nobody owes anybody anything."
_NO_EDGES = "Only what each agent received in all is known here: daemons also settle edge by edge."

_VERDICTS = {
    "ok": ("good", "ok"),
    "violated": ("bad", "violated"),
    "incomplete": ("unknown", "incomplete"),
}
_AGENTS_CAPTION = (
    "Balance in credits, above 0 is money received. Sent: bytes on the wire. Missed: how often a "
    "neighbour's update was not there in time to be mixed; alone: in how many rounds there was "
    "none; lower is better."
)
_REWARDS_CAPTION = (
    " Reputation and given: what neighbours thought of it last, and which share of a model they "
    "gave it."
)
_MISRATED_CAPTION = (
    " Misrated: how many of its updates neighbours say they refused, since it gave less than "
    "ratings earn, or rated falsely."
)
_TRADED_CAPTION = (
    " Reputation, score and gives: what {agent} thinks of the neighbour, what it made of its last "
    "update, and which share of a model it gives; rated and given: what the neighbour says of it. "
    "Misrated: its updates that were refused since it gave less than it should, or rated falsely. "
    "{agent} makes {score:.3f} of its own last update."
)
_PART_CAPTION = (
    " Took part: in which share of the rounds neighbours mixed it, or it was there at all, "
    "whichever is less."
)
_WEIGHTLESS_CAPTION = (
    " No weight: in which share of its neighbours' rounds their rule gave the agent none."
)


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the page of a run to `output`, by default report.html in the run directory.

    Raises:
        ConfigurationError: `run_dir` holds nothing of a run, or the page cannot be written.
    """
    run = read_run_directory(run_dir)
    path = output or run_dir / FILE_NAME
    write_text(path, render(run))
    return path


def render(run: RunDirectory) -> str:
    """The whole page."""
    notes = list(run.notes)
    parts = [
        _header(run),
        _audit(run.audit),
        _faults(run),
        _returns(run) if _metric(run).is_return else _test_metric(run),
        _agreement(run),
        _own_data(run),
        "" if _metric(run).is_return else _losses(run),
        _payments(run),
        _grounds(run, notes),
        _balances(run),
        _injected(run),
        _consensus(run),
        _agents(run),
        _neighbours(run),
        _settings(run),
        _notes(notes),
    ]
    return page(escape(run.name), filter(None, parts))


def _header(run: RunDirectory) -> str:
    summary = run.summary
    parted = () if _metric(run).is_return else ("partition",)
    words = [summary.get(key) for key in ("task", "topology", *parted, "rule")]
    words += ["weighted by declared sizes"] if summary.get("weights") else []
    described = " · ".join(escape(word) for word in words if word)
    rounds = summary.get("rounds") or max(
        (one.rounds[-1].round for one in run.agents if one.rounds), default=0
    )
    whose = f"{escape(run.own)}, one of " if run.own else ""
    lead = f"{whose}{run.agent_count} agents · {escape(rounds)} rounds"
    metric = _metric(run)
    found = reached(summary, metric)
    if run.own:
        mean = next(iter(found), "")
        kept = {mean: metric.name, "on own data, mean": "on own data"}
        found = {name: found[key] for key, name in kept.items() if key in found}
    tiles = [(escape(name), metric.text(value)) for name, value in found.items()]
    if run.own and run.own in run.balances:
        tiles.append(("balance, credits", format_credits(run.balances[run.own], signed=True)))
    for key in ("consensus_distance", "seconds"):
        value = summary.get(key)
        if isinstance(value, int | float):
            tiles.append((key.replace("_", " "), f"{value:.3g}"))
    shown = "".join(
        f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles
    )
    kind = "agent" if run.own else "run"
    return (
        f"<header><p class=kind>Candor {kind}</p><h1>{escape(run.name)}</h1>"
        f"<p class=lead>{lead}{' · ' + described if described else ''}</p>"
        f'<div class="tiles">{shown}{_verdict(run)}</div>'
        f"{_participated(run)}{_attacked(run)}{_isolated(run)}</header>"
    )


def _parts(run: RunDirectory) -> dict[str, Part]:
    """Who took part in how many rounds: as the summary has it, or as daemons said last."""
    stated = parts_of(run.summary.get("participation"))
    return stated or seen_in(one.status for one in run.agents if one.status is not None)


def _participated(run: RunDirectory) -> str:
    words = participation_words(_parts(run))
    if not words:
        return ""
    whose = f"As {run.own} saw it, " if run.own else ""
    told = whose + words if whose else words[0].upper() + words[1:]
    return f"<p>{escape(told)}.</p>"


def _attacked(run: RunDirectory) -> str:
    """A line on who attacks, and does not count."""
    listed = run.summary.get("byzantine")
    byzantine = [str(agent) for agent in listed] if isinstance(listed, list) else []
    if not byzantine:
        return ""
    named = ", ".join(f"{agent} ({run.strategies.get(agent, '-')})" for agent in byzantine)
    told = f"Byzantine: {named}. Means, worst values and distances are of the other agents."
    return f"<p><mark>{escape(told)}</mark></p>"


def _isolated(run: RunDirectory) -> str:
    """A line on each agent that mixed with nobody in many rounds."""
    told = [isolation(one.agent, _alone(one), len(one.rounds)) for one in run.agents]
    return "".join(f"<p><mark>{escape(warning)}</mark></p>" for warning in told if warning)


def _alone(one: AgentRun) -> int:
    return sum(row.alone for row in one.rounds)


def _verdict(run: RunDirectory) -> str:
    if run.summary.get("simulated"):
        return '<div class="tile unknown"><b>simulated</b><span>without ledgers</span></div>'
    what = f"ledger audit, as {escape(run.own)} has it" if run.own else "ledger audit"
    said = _found(run.audit) if run.audit is not None else str(run.summary.get("audit"))
    kind, word = _VERDICTS.get(said, ("unknown", "not done"))
    return f'<div class="tile {kind}"><b>{word}</b><span>{what}</span></div>'


def _found(audit: RunAudit) -> str:
    """`incomplete`, if all that can be said against the ledgers is that some are not there."""
    codes = {finding.code for finding in audit.findings}
    return "violated" if codes - {"missing"} else "incomplete" if codes else "ok"


def _audit(audit: RunAudit | None) -> str:
    """What was judged here and what was found."""
    if audit is None:
        return ""
    windows = sum(edge.windows for edge in audit.edges)
    caption = (
        f"The exports that lie here, of {len(audit.edges)} edges with {windows} settled windows, "
        "judged as <code>candor ledger audit</code> does: "
        + ("all of them hold." if not audit.findings else f"{len(audit.findings)} findings.")
    )
    rows = [
        tuple(escape(cell) for cell in (one.edge, one.seq, one.code, one.detail, one.file))
        for one in audit.findings[:_FINDINGS_SHOWN_MAX]
    ]
    more = len(audit.findings) - len(rows)
    body = table(("edge", "#record", "code", "what is wrong", "file"), rows) if rows else ""
    body += f"<p>And {more} more.</p>" if more else ""
    return card("Ledger audit", caption, body)


def _faults(run: RunDirectory) -> str:
    """What the fault plan did, to whom, and when."""
    if not run.faults:
        return ""
    last = max([one.rounds[-1].round for one in run.agents if one.rounds] or [0])
    last = max(1, last, *(one.round for one in run.faults))
    stretches = [
        Stretch(span.agent, span.action, span.since, last if span.until is None else span.until)
        for span in spans(run.faults)
    ]
    hit = {stretch.row for stretch in stretches}
    rows = [agent.agent for agent in run.agents if agent.agent in hit][:_FAULTY_SHOWN_MAX]
    shown = [stretch for stretch in stretches if stretch.row in rows]
    draw = partial(timeline, shown, rows, "what was done to whom", last)
    listed = table(
        ("#seconds", "#round", "what was done"),
        [
            (f"{one.seconds:.1f}", str(one.round), escape(one.detail))
            for one in run.faults[:_FINDINGS_SHOWN_MAX]
        ],
    )
    more = len(run.faults) - _FINDINGS_SHOWN_MAX
    listed += f"<p>And {more} more in {FAULTS_LOG}.</p>" if more > 0 else ""
    return card(
        "Faults",
        "What the fault plan of the run did: rounds are those of the first agent, seconds count "
        "from the start of the run. The agents' curves below have gaps where they were away.",
        (image(draw, "Faults by agent and round") if shown else "") + listed,
    )


def _metric(run: RunDirectory) -> Metric:
    """As the summary has it, or the cluster file where none is there."""
    summary = run.summary
    return Metric.of(summary if "metric" in summary else section(run.cluster, "task"))


def _test_metric(run: RunDirectory) -> str:
    metric = _metric(run)
    points = [[(m.round, m.test_accuracy) for m in one.rounds] for one in run.agents]
    references = {
        name: metric.drawn(value)
        for name, key in (("all data", "centralised_accuracy"), ("alone", "alone_accuracy"))
        if (value := mean_of(run.summary.get(key))) is not None
    }
    return _lines_card(
        f"Test {metric.name}",
        [_metric_line(run, one, metric, its) for one, its in zip(run.agents, points, strict=True)],
        f"test {metric.quantity}",
        f"On samples that nobody trains on, {metric.direction}."
        + " Dashed: one model trained on all data in one place, and the mean of the agents when "
        "each trains alone." * bool(references),
        references=references,
    )


def _returns(run: RunDirectory) -> str:
    """What episodes returned, by how many an agent had sampled and by round: honest agents in one
    band, the others each."""
    honest = [one for one in run.agents if one.agent not in run.strategies and one.rounds]
    if not honest:
        return ""
    alone = mean_of(run.summary.get("alone_accuracy"))
    references = {} if alone is None else {"alone": alone}
    name = "honest agents" if len(honest) > 1 else honest[0].agent
    by_round = _band_of(name, honest)
    sampled = {row.round: row.trajectories or 0 for row in honest[0].rounds}
    total, reached_by = 0, []
    for t in by_round.across:
        total += sampled.get(int(t), 0)
        reached_by.append(total)
    by_episodes = replace(by_round, across=reached_by)
    quantity = "return of an episode, mean over the batch"
    caption = (
        "Sum of an episode's rewards, not discounted: the mean over the episodes that an agent "
        "sampled in a round, and over honest agents; higher is better. Shaded: one standard "
        "deviation of these to each side."
        + " Dashed: an agent that learns alone."
        * bool(references)
    )
    pictures = [
        image(
            partial(bands, [band], quantity, across=across, references=references),
            f"Return by {across}",
        )
        for band, across in ((by_episodes, "episodes that an agent sampled"), (by_round, "round"))
    ]
    return card("Return", caption, "".join(pictures))


def _agreement(run: RunDirectory) -> str:
    """In how many exchanges averaging moved each agent's policy."""
    points = [
        [(m.round, float(m.agreement_moves)) for m in one.rounds if m.agreement_moves is not None]
        for one in run.agents
    ]
    found = section(run.summary, "agreement_moves")
    mean, most = mean_of(found.get("mean")), mean_of(found.get("max"))
    known = mean is not None and most is not None
    told = f" Of honest agents in the mean {mean:.3g}, at most {most:.0f}." if known else ""
    return _lines_card(
        "Agreement",
        [_line(run, one, its) for one, its in zip(run.agents, points, strict=True)],
        "exchanges that moved the policy",
        "In how many exchanges of a round averaging moved an agent's policy, until it took all to "
        f"agree; lower is better.{told}",
    )


def _band_of(name: str, agents: Sequence[AgentRun]) -> Band:
    """The mean return of some agents in each round that all of them finished."""
    found: dict[int, list[float]] = {}
    for one in agents:
        for row in one.rounds:
            found.setdefault(row.round, []).append(-row.train_loss)
    rounds = sorted(t for t, each in found.items() if len(each) == len(agents))
    values = np.array([found[t] for t in rounds])  # (rounds, agents)
    mean, spread = values.mean(axis=1), values.std(axis=1)
    low, high = (mean - spread).tolist(), (mean + spread).tolist()
    return Band(name, rounds, mean.tolist(), low, high)


def _own_data(run: RunDirectory) -> str:
    metric = _metric(run)
    points = [[(m.round, m.local_metric) for m in one.rounds] for one in run.agents]
    title = f"{metric.name} on own data"
    return _lines_card(
        title[0].upper() + title[1:],
        [_metric_line(run, one, metric, its) for one, its in zip(run.agents, points, strict=True)],
        f"{metric.quantity} on data of the agent's own",
        f"Of each agent's model on data that this agent alone has, {metric.direction}. Agents have "
        "different data, so their lines need not meet.",
    )


def _losses(run: RunDirectory) -> str:
    return _lines_card(
        "Training loss",
        [_line(run, one, [(m.round, m.train_loss) for m in one.rounds]) for one in run.agents],
        "loss on the agent's own samples, mean over its local steps",
        "Lower is better. Each agent's on its own samples, by the model that it has in that round.",
    )


def _balances(run: RunDirectory) -> str:
    return _lines_card(
        "Balances",
        [_line(run, one, _balance_points(run, one)) for one in run.agents],
        "balance (credits, above 0 is money received)",
        "What each agent has received less what it has paid, over all its edges. The steps are the "
        "ends of windows; the last window is settled after the last round.",
        stepped=True,
    )


def _balance_points(run: RunDirectory, one: AgentRun) -> list[tuple[int, float]]:
    """(round, credits), ending with what the last settlement made of it."""
    points = [(m.round, m.balance / MICRO) for m in one.rounds]
    if points and one.agent in run.balances:
        points.append((points[-1][0], run.balances[one.agent] / MICRO))
    return points


def _injected(run: RunDirectory) -> str:
    lines = [
        _line(run, one, [(m.round, m.injected_norm) for m in one.rounds]) for one in run.agents
    ]
    values = [value for line in lines for value in line.values if 0 < value < float("inf")]
    positive = all(value > 0 for line in lines for value in line.values)
    wide = bool(values) and positive and max(values) > _LOGARITHMIC_FROM * min(values)
    return _lines_card(
        "Injected updates",
        lines,
        "norm of the injected update, seen in its sketch" + (" (log scale)" if wide else ""),
        "What each agent added to the model in a round, as its neighbours measure it. An honest "
        "agent's is near its neighbours'.",
        logarithmic=wide,
    )


def _consensus(run: RunDirectory) -> str:
    line = Line("all agents", list(run.consensus), list(run.consensus.values()))
    how = "measured" if run.summary.get("simulated") else "estimated from their signed sketches"
    return _lines_card(
        "Consensus",
        [line],
        "distance of the models from their mean (root mean square)",
        f"How far apart the agents' models are, {how}; lower is better.",
    )


def _payments(run: RunDirectory) -> str:
    if not run.agents or (len(run.agents) < run.agent_count and not run.own):
        return ""
    graph = run.graph()
    payments = [
        payment for payment in payments_of(run.summary.get("edges")) if {*payment[:2]} <= {*graph}
    ]
    known, balances = "edges" in run.summary, run.balances
    if run.own:  # of the neighbours, what they have with this agent
        balances = {agent: _received(agent, payments) for agent in graph}
    picture = image(
        partial(payment_graph, graph, balances, payments, run.strategies),
        f"The graph of the run with {graph.number_of_edges()} edges and who paid whom",
    )
    rows = [
        (escape(payer), escape(receiver), format_credits(amount))
        for payer, receiver, amount in payments[:_PAYMENTS_SHOWN_MAX]
    ]
    more = len(payments) - _PAYMENTS_SHOWN_MAX
    title = f"All payments: {len(payments)}" if more <= 0 else f"The {len(rows)} largest payments"
    listed = table(("payer", "receiver", "#net, credits"), rows)
    listed = f"<details><summary>{title}</summary>{listed}</details>" if rows else ""
    arrows = "Arrows run from payer to receiver, wider for more. " if known else ""
    return card(
        "Who paid whom" if known else "Who paid, who received",
        f"{arrows}Blue agents received, red ones paid; a diamond marks an agent that does not "
        f"report honestly. Numbers are net amounts in credits. {CREDIT}",
        picture + (listed or f"<p>{_NO_PAYMENTS if known else _NO_EDGES}</p>"),
    )


def _received(agent: str, payments: Sequence[tuple[str, str, int]]) -> int:
    return sum(
        amount * ((agent == receiver) - (agent == payer)) for payer, receiver, amount in payments
    )


def _grounds(run: RunDirectory, notes: list[str]) -> str:
    """What an agent paid for, from its own database."""
    if run.own is None or not (run.path / STORE_NAME).exists():
        return ""
    from candor.agent.runs.charges import charged_by_term, settled_windows  # with torch behind it

    try:
        settled = settled_windows(run.path)
    except ConfigurationError as exc:
        notes.append(f"what was paid for is not known: {exc}")
        return ""
    rows = [
        (escape(peer), escape(term), *(format_credits(amount, signed=True) for amount in amounts))
        for (peer, term), amounts in charged_by_term(settled).items()
    ]
    if not rows:
        return ""
    own = escape(run.own)
    return card(
        f"What {own} paid for",
        f"Each end of an edge bills the other, and the difference is paid; credits, above 0 {own} "
        "pays. What one member of a neighbourhood is charged is shared out among the others, so "
        "that much is only handed on. Windows, rounds and grounds: <code>candor ledger explain"
        "</code>.",
        table(("neighbour", "term", "#by its bills", f"#by those of {own}", "#net"), rows),
    )


def _agents(run: RunDirectory) -> str:
    if not run.agents:
        return ""
    metric, named = _metric(run), {one.agent: _named(run, one) for one in run.agents}
    shares = weightless_shares(one.status for one in run.agents if one.status is not None)
    told = bool(shares) and run.own is None
    every = dict.fromkeys(name for each in named.values() for name in each)
    others = [name for name in every if shown_name(name) != metric.name]
    measures = [f"#{escape(name)}" for name in (metric.name, "own data", *map(shown_name, others))]
    columns = ("agent", "strategy", "state", "#rounds", *measures)
    columns += ("#balance", "#sent", "#missed", "#alone", "#no weight", "#reputation", "#given")
    columns += ("#misrated", "#took part")
    parts = _parts(run)
    rewards = section(run.summary, "rewards") or (
        {} if run.own else standings_of(one.status for one in run.agents if one.status is not None)
    )
    misrated = misrated_of(one.status for one in run.agents if one.status is not None)
    rows = [
        (
            *_agent_row(
                run, one, metric, [format_value(named[one.agent].get(name)) for name in others]
            ),
            _share(shares.get(one.agent, 0.0)) if told else "-",
            *_standing(rewards.get(one.agent)),
            str(sum(misrated[one.agent].values())) if one.agent in misrated else "-",
            _floored(parts[one.agent].share) if one.agent in parts else "-",
        )
        for one in run.agents
    ]
    # Of a simulation there is no state, of exports nothing but what they say.
    known = [i for i in range(len(columns)) if any(row[i] not in _UNKNOWN for row in rows)]
    kept = [[row[i] for i in known] for row in rows]
    name = escape(metric.name[0].upper() + metric.name[1:])
    of = "of the last round's episodes" if metric.is_return else "on samples that nobody trains on"
    caption = f"{name.replace('_', ' ')} {of}, {metric.direction}. {_AGENTS_CAPTION}"
    caption += _WEIGHTLESS_CAPTION if told else ""
    caption += _REWARDS_CAPTION if rewards else ""
    caption += _MISRATED_CAPTION if misrated else ""
    caption += _PART_CAPTION if parts else ""
    return card("Agents", caption, table([columns[i] for i in known], kept))


def _standing(told: object) -> tuple[str, str]:
    """What neighbours think of an agent, and which share of a model they give it."""
    match told:
        case {"reputation": float() as reputation, "share": float() as share}:
            return f"{reputation:.3f}", _share(share)
    return "-", "-"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _floored(share: float) -> str:
    """Rounded down: who missed a round has not 100 %."""
    return f"{math.floor(100 * share)} %"


def _named(run: RunDirectory, one: AgentRun) -> Mapping[str, float | None]:
    """All metrics that the task names, as they were measured last."""
    stated = section(run.summary, "metrics").get(one.agent)
    if isinstance(stated, dict):
        return {name: mean_of(value) for name, value in stated.items()}
    if one.status is not None and one.status.metrics:
        return one.status.metrics
    return next((row.metrics for row in reversed(one.rounds) if row.metrics), {})


def _agent_row(
    run: RunDirectory, one: AgentRun, metric: Metric, others: Sequence[str]
) -> tuple[str, ...]:
    # Where no summary says so, nobody has.
    strategy = run.strategies.get(one.agent, "honest" if "strategies" in run.summary else "-")
    last = one.rounds[-1] if one.rounds else None
    value, local = (
        mean_of(section(run.summary, key).get(one.agent)) for key in ("accuracy", "local_metric")
    )
    missed = sum(len(row.missing) for row in one.rounds)
    return (
        f"<b>{escape(one.agent)}</b>",
        escape(strategy) if strategy in ("honest", "-") else f"<mark>{escape(strategy)}</mark>",
        escape(one.status.state if one.status else "unknown"),
        str(last.round) if last else "-",
        metric.text(value),
        metric.text(local),
        *others,
        format_credits(run.balances.get(one.agent, 0)),
        format_bytes(one.status.bytes_sent) if one.status else "-",
        str(missed) if one.rounds else "-",
        str(_alone(one)) if one.rounds else "-",
    )


def _neighbours(run: RunDirectory) -> str:
    """An agent's edges, as it sees them."""
    seen = run.agents[0].status if run.own and run.agents else None
    if seen is None or not seen.neighbours:
        return ""
    traded = seen.score is not None
    rows = [
        (
            f"<b>{escape(agent)}</b>",
            escape(one.state),
            str(one.last_round),
            format_credits(one.balance, signed=True),
            format_bytes(one.bytes_sent),
            format_bytes(one.bytes_received),
            _floored(one.mixed_rounds / one.due_rounds) if one.due_rounds else "-",
            _share(one.weightless_rounds / max(1, seen.round)),
            *(_of_each_other(one) if traded else ()),
            escape(one.reason or ""),
        )
        for agent, one in sorted(seen.neighbours.items())
    ]
    columns = ("neighbour", "state", "#last round", "#balance", "#sent", "#received")
    rewards = ("#reputation", "#score", "#gives", "#rated", "#given", "#misrated")
    weighed = ("#took part", "#no weight", *(rewards if traded else ()), "not served")
    caption = (
        f"As {escape(seen.agent)} saw them last. Took part: in which share of the rounds that "
        "were to mix the neighbour it was mixed. Balance in credits, above 0 is owed to it. No "
        "weight: in which share of its rounds the run's rule gave the neighbour none."
    )
    if traded:
        caption += _TRADED_CAPTION.format(agent=escape(seen.agent), score=seen.score)
    return card("Neighbours", caption, table((*columns, *weighed), rows))


def _of_each_other(one: NeighbourStatus) -> tuple[str, ...]:
    """What an agent and a neighbour think of each other, and give each other."""

    def told(value: float | None, share: bool = False) -> str:
        return "-" if value is None else _share(value) if share else f"{value:.3f}"

    ours = (told(one.reputation), told(one.score), told(one.share, share=True))
    return (*ours, told(one.rated), told(one.given, share=True), str(one.misrated))


def _settings(run: RunDirectory) -> str:
    idle = idle_settings(section(run.cluster, "task"), section(run.cluster, "algorithm"))
    rows = [
        (escape(name), f"<code>{escape(value)}</code>")
        for name, value in _flat(run.cluster)
        if name not in idle
    ]
    if not rows:
        return ""
    return card("Settings", "From the cluster file.", table(("key", "value"), rows))


def _flat(document: object, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Scalars of a nested document by dotted key; lists (agents, edges) are counted, not shown."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(document, list):
        yield prefix, f"{len(document)} entries"
    else:
        yield prefix, document


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return card("What is missing", "", f"<ul>{items}</ul>")


def _lines_card(
    title: str, lines: Sequence[Line], quantity: str, caption: str, **drawn: Any
) -> str:
    """A chart under its title, nothing where there is nothing to draw; `drawn` is how, as
    `lines_by_round` takes it."""
    if not any(math.isfinite(value) for line in lines for value in line.values):
        return ""
    draw = partial(lines_by_round, lines, quantity, **drawn)
    return card(escape(title), caption, image(draw, f"{title}: {quantity} by round"))


def _line(run: RunDirectory, one: AgentRun, points: Sequence[tuple[int, float]]) -> Line:
    strategy = run.strategies.get(one.agent)
    name = f"{one.agent} {strategy}" if strategy else one.agent
    return Line(name, [t for t, _ in points], [v for _, v in points], marked=strategy is not None)


def _metric_line(
    run: RunDirectory, one: AgentRun, metric: Metric, points: Sequence[tuple[int, float | None]]
) -> Line:
    """The rounds in which it was measured."""
    known = [(t, metric.drawn(value)) for t, value in points if value is not None]
    return _line(run, one, known)
