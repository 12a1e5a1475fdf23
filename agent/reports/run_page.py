"""One HTML page about a run: what was learned, who paid whom, whether the ledgers add up.

The page is self-contained: no script, nothing loaded from a network, drawings inside. It is made of
whatever a run left behind; a missing piece is left out and named in a note. Every value that comes
from the run directory is escaped. Not an audit: it repeats the verdict that the run came to.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from candor.agent.reports.charts import Line, lines_by_round, payment_graph
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.reports.terminal import (
    format_bytes,
    format_share,
    mean_share,
    payments_of,
    shares_of,
)
from candor.agent.runs.directory import AgentRun, RunDirectory, read_run_directory, section
from candor.mechanisms.payments.credits import MICRO, format_credits
from candor.topologies.specs.files import write_text

FILE_NAME = "report.html"

# From this spread of the injected norms on, a linear axis hides the small ones.
_LOGARITHMIC_FROM = 20.0
_PAYMENTS_SHOWN_MAX = 100

_AGENTS_CAPTION = (
    "Balance in credits, above 0 is money received. Missed: how often a neighbour's update was not "
    "there in time to be mixed."
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
    parts = [
        _header(run),
        _accuracy(run),
        _payments(run),
        _balances(run),
        _injected(run),
        _consensus(run),
        _agents(run),
        _settings(run),
        _notes(run.notes),
    ]
    return page(escape(run.name), filter(None, parts))


def _header(run: RunDirectory) -> str:
    summary = run.summary
    words = [summary.get(key) for key in ("task", "topology", "partition", "rule")]
    described = " · ".join(escape(word) for word in words if word)
    rounds = summary.get("rounds") or max(
        (one.rounds[-1].round for one in run.agents if one.rounds), default=0
    )
    lead = f"{run.agent_count} agents · {escape(rounds)} rounds"
    tiles = [(name, format_share(share)) for name, share in shares_of(summary).items()]
    for key in ("mean_return", "consensus_distance", "seconds"):
        value = summary.get(key)
        if isinstance(value, int | float):
            tiles.append((key.replace("_", " "), f"{value:.3g}"))
    shown = "".join(
        f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles
    )
    return (
        f"<header><p class=kind>Candor run</p><h1>{escape(run.name)}</h1>"
        f"<p class=lead>{lead}{' · ' + described if described else ''}</p>"
        f'<div class="tiles">{shown}{_verdict(summary)}</div></header>'
    )


def _verdict(summary: Mapping[str, object]) -> str:
    if summary.get("simulated"):
        return '<div class="tile unknown"><b>simulated</b><span>without ledgers</span></div>'
    kind, word = {"ok": ("good", "ok"), "violated": ("bad", "violated")}.get(
        str(summary.get("audit")), ("unknown", "not done")
    )
    return f'<div class="tile {kind}"><b>{word}</b><span>ledger audit</span></div>'


def _accuracy(run: RunDirectory) -> str:
    lines = [_line(run, one, _evaluations(one)) for one in run.agents]
    references = {
        name: 100 * share
        for name, key in (("all data", "centralised_accuracy"), ("alone", "alone_accuracy"))
        if (share := mean_share(run.summary.get(key))) is not None
    }
    return _lines_card(
        "Test accuracy",
        lines,
        "test accuracy (%)",
        "Dashed: one model trained on all data in one place, and the mean of the agents when each "
        "trains alone.",
        references=references,
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
        "What each agent added to the model in a round, as its neighbours measure it.",
        logarithmic=wide,
    )


def _consensus(run: RunDirectory) -> str:
    line = Line("all agents", list(run.consensus), list(run.consensus.values()))
    how = "measured" if run.summary.get("simulated") else "estimated from their signed sketches"
    return _lines_card(
        "Consensus",
        [line],
        "distance of the models from their mean (root mean square)",
        f"How far apart the agents' models are, {how}.",
    )


def _payments(run: RunDirectory) -> str:
    if not run.agents or len(run.agents) < run.agent_count:
        return ""
    graph = run.graph()
    payments = [
        payment for payment in payments_of(run.summary.get("edges")) if {*payment[:2]} <= {*graph}
    ]
    picture = image(
        partial(payment_graph, graph, run.balances, payments, run.strategies),
        f"The graph of the run with {graph.number_of_edges()} edges and who paid whom",
    )
    rows = [
        (escape(payer), escape(receiver), format_credits(amount))
        for payer, receiver, amount in payments[:_PAYMENTS_SHOWN_MAX]
    ]
    more = len(payments) - _PAYMENTS_SHOWN_MAX
    title = f"All {len(payments)} payments" if more <= 0 else f"The {len(rows)} largest payments"
    listed = table(("payer", "receiver", "#credits"), rows)
    return card(
        "Who paid whom",
        "Arrows run from payer to receiver, wider for more. Blue agents received, red ones paid; a "
        "diamond marks an agent that does not report honestly. Numbers are credits.",
        f"{picture}<details><summary>{title}</summary>{listed}</details>",
    )


def _agents(run: RunDirectory) -> str:
    if not run.agents:
        return ""
    columns = ("agent", "strategy", "state", "#rounds", "#accuracy", "#balance", "#sent", "#missed")
    return card(
        "Agents", _AGENTS_CAPTION, table(columns, [_agent_row(run, one) for one in run.agents])
    )


def _agent_row(run: RunDirectory, one: AgentRun) -> tuple[str, ...]:
    strategy = run.strategies.get(one.agent, "honest")
    last = one.rounds[-1] if one.rounds else None
    accuracy = section(run.summary, "accuracy").get(one.agent)
    missed = sum(len(row.missing) for row in one.rounds)
    return (
        f"<b>{escape(one.agent)}</b>",
        escape(strategy) if strategy == "honest" else f"<mark>{escape(strategy)}</mark>",
        escape(one.status.state if one.status else "unknown"),
        str(last.round) if last else "-",
        format_share(mean_share(accuracy)),
        format_credits(run.balances.get(one.agent, 0)),
        format_bytes(one.status.bytes_sent) if one.status else "-",
        str(missed),
    )


def _settings(run: RunDirectory) -> str:
    rows = [(escape(name), f"<code>{escape(value)}</code>") for name, value in _flat(run.cluster)]
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
    """A chart under its title, or the note that there is nothing to draw; `drawn` is how, as
    `lines_by_round` takes it."""
    if not any(line.values for line in lines):
        return card(title, "", "<p>Nothing was recorded of it.</p>")
    draw = partial(lines_by_round, lines, quantity, **drawn)
    return card(title, caption, image(draw, f"{title}: {quantity} by round"))


def _line(run: RunDirectory, one: AgentRun, points: Sequence[tuple[int, float]]) -> Line:
    strategy = run.strategies.get(one.agent)
    name = f"{one.agent} {strategy}" if strategy else one.agent
    return Line(name, [t for t, _ in points], [v for _, v in points], marked=strategy is not None)


def _evaluations(one: AgentRun) -> list[tuple[int, float]]:
    """(round, test accuracy in per cent) of the rounds with an evaluation."""
    return [(m.round, 100 * m.test_accuracy) for m in one.rounds if m.test_accuracy is not None]
