"""What the terminal shows of a run: a live table, a status table, the summary at the end.

Pure functions from values to rich renderables that read well at 80 columns and stay plain text
without a terminal. Whatever comes out of a file or from a peer is put in as literal text, so that
it can neither style nor steer the terminal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from candor.agent.daemon.lateness import late_from, late_of, late_words
from candor.agent.daemon.participation import participation_words, parts_of, seen_in
from candor.agent.daemon.status import (
    ENDS,
    Status,
    misrated_of,
    misrated_words,
    standings_of,
    weightless_shares,
)
from candor.agent.reports.metric import Metric, fitting, mean_of, reached
from candor.mechanisms.payments.credits import format_credits

# Payments listed in a summary; the rest is counted, and complete in summary.json.
_PAYMENTS_SHOWN_MAX = 12
# Agents in it, likewise: a simulated run may have thousands.
_AGENTS_SHOWN_MAX = 40

_PAID_TITLE = "who paid whom, in credits (one stands for a unit of training loss)"
# Above this share of its rounds, that an agent mixed with nobody is no hiccup.
_ALONE_SHARE_MAX: Final = 0.05

_STATE_STYLES: Mapping[str, str] = {
    "done": "green",
    "failed": "bold red",
    "died": "red",
    "starting": "dim",
}


def format_bytes(count: float) -> str:
    """Bytes in decimal units, as networks count them, to three digits."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def isolation(agent: str, alone: int, rounds: int) -> str:
    """A warning about an agent that mixed with nobody in many of its rounds, "" about others."""
    if alone <= _ALONE_SHARE_MAX * rounds:
        return ""
    return f"{agent} mixed with nobody in {alone} of {rounds} rounds: there it learned alone"


def plain_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[RenderableType]], caption: str
) -> Table:
    """A table of results; a column named #… holds numbers, which are never cut. The caption says
    their units, and whether more is better or less."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    table.caption, table.caption_justify = caption or None, "left"
    for column in columns:
        number = column.startswith("#")
        justify: Literal["left", "right"] = "right" if number else "left"
        name = column.removeprefix("#")
        table.add_column(name, justify=justify, no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def live_table(statuses: Sequence[Status], title: str) -> Table:
    """One row an agent, in the given order."""
    shown = _Measures.of(statuses)
    table = _table(title, *shown.columns)
    for status in statuses:
        table.add_row(*shown.cells(status, state_text(status.state)))
    table.caption = literal(shown.legend, "table.caption")
    return table


def status_view(statuses: Sequence[Status], running: Mapping[str, bool], title: str) -> Group:
    """One row an agent, with how many of its neighbours it serves; then who ended without saying
    so, and who is not served and why."""
    shown = _Measures.of(statuses)
    table = _table(title, *shown.columns, "peers")
    notes: list[Text] = []
    for status in statuses:
        dead = not running[status.agent] and status.state not in ENDS
        state = state_text("died" if dead else status.state)
        if dead:
            form = "{} is not running, last seen {}"
            notes.append(_sentence(form, status.agent, status.state))
        refused = refusals(status)
        total = len(status.neighbours)
        table.add_row(*shown.cells(status, state), f"{total - len(refused)}/{total}")
        if warning := isolation(status.agent, status.alone_rounds, status.round):
            notes.append(literal(warning, "yellow"))
        notes.extend(refused)
    if told := participation_words(seen_in(statuses)):
        notes.append(literal(told))
    notes.extend(literal(told, "yellow") for told in late_words(late_of(statuses)))
    if told := _weightless(weightless_shares(statuses)):
        notes.append(literal(told))
    if told := rewarded(standings_of(statuses)):
        notes.append(literal(told))
    notes.extend(literal(told) for told in misrated_words(misrated_of(statuses)))
    table.caption = literal(shown.legend, "table.caption")
    return Group(table, *notes)


def summary_view(summary: Mapping[str, object], run_dir: Path | None = None) -> RenderableType:
    """The end of a run: what was reached, who paid whom, the verdict on the ledgers, where to look.

    Takes summary.json as it is; what is missing from it is left out.
    """
    parts: list[RenderableType] = [_title(summary), _headline(summary), "", _agents(summary), ""]
    payments = payments_of(summary.get("edges"))
    if payments:
        parts.append(_who_paid_whom(payments))
    parts.append(_outcome(summary, run_dir))
    return Group(*parts)


def payments_of(edges: object) -> list[tuple[str, str, int]]:
    """(payer, receiver, micro-credits) of the edges of a summary, the largest first."""
    paid: list[tuple[str, str, int]] = []
    for edge in edges if isinstance(edges, list) else []:
        match edge:
            case {"lo": str() as lo, "hi": str() as hi, "balance_lo": int() as balance}:
                if balance:
                    paid.append((hi, lo, balance) if balance > 0 else (lo, hi, -balance))
    return sorted(paid, key=lambda payment: (-payment[2], payment[:2]))


def literal(value: object, style: str = "") -> Text:
    """Text that keeps no control character, so that a name cannot move the cursor."""
    return Text("".join(c if c.isprintable() else "?" for c in str(value)), style=style)


_WORDS = {"state", "strategy"}


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=literal(title, "bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption_justify="left",
    )
    table.add_column("agent", style="bold", overflow="fold", min_width=5)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in _WORDS else "right"
        name = literal(column)
        table.add_column(name, justify=justify, no_wrap=column != "strategy", overflow="fold")
    return table


@dataclass(frozen=True, slots=True)
class _Measures:
    """The columns of statuses of one run. `own`: some have the metric on their own data, which
    takes the place of the norm, as 80 letters have no room for both."""

    metric: Metric
    own: bool

    @classmethod
    def of(cls, statuses: Sequence[Status]) -> "_Measures":
        told = {"metric": statuses[0].metric, "better": statuses[0].better} if statuses else {}
        return cls(Metric.of(told), any(one.local_metric is not None for one in statuses))

    @property
    def columns(self) -> tuple[str, ...]:
        last = "own" if self.own else "norm"
        return ("state", "round", "loss", self.metric.short, last, "balance", "bytes")

    @property
    def legend(self) -> str:
        metric = self.metric
        counts = "acc" if metric.is_share else metric.name
        last = f"own: {metric.name} on own data" if self.own else "norm: of the own update"
        return (
            f"loss: in training, lower is better; {counts}: of test samples, {metric.direction}; "
            f"{last}; balance: credits, above 0 received; bytes: sent and received"
        )

    def cells(self, status: Status, state: Text) -> Iterable[RenderableType]:
        norm = _number(status.injected_norm, 2)
        return (
            literal(status.agent),
            state,
            f"{status.round}/{status.rounds}",
            _number(status.train_loss, 3),
            self.metric.cell(status.test_accuracy),
            self.metric.cell(status.local_metric) if self.own else norm,
            _balance(status.balance),
            format_bytes(status.bytes_sent + status.bytes_received),
        )


def _number(value: float | None, decimals: int) -> str:
    """At most six characters, so that a row keeps to its width."""
    if value is None:
        return "-"
    if abs(value) >= 10_000:
        return f"{value:.0e}"
    return f"{value:.{decimals if abs(value) < 100 else 0}f}"


def _balance(micro_credits: int) -> Text:
    style = "red" if micro_credits < 0 else "green" if micro_credits > 0 else "dim"
    return Text(format_credits(micro_credits), style=style)


# Rounds after which a neighbour that is served, and of which nothing was mixed, is named.
_UNMIXED: Final = 5


def state_text(state: str) -> Text:
    """One word on an agent, in its colour."""
    return literal(state, _STATE_STYLES.get(state, ""))


def refusals(status: Status) -> list[Text]:
    """Whom an agent is without; at the end of a run all have left, which is no news."""
    if status.left is not None:
        last = str(status.left)
        return [_sentence("{} left after round {}: the run goes on without it", status.agent, last)]
    lines = []
    for neighbour, seen in sorted(status.neighbours.items()):
        if seen.reason is not None:
            if (status.state, seen.state, seen.last_round) != ("done", "left", status.rounds):
                lines.append(
                    _sentence("{} is without {}: {}", status.agent, neighbour, seen.reason)
                )
        elif status.state in ("training", "mixing") and status.round - seen.last_round > _UNMIXED:
            words = "{} mixes nothing of {}, last in round {}: see update_refused in its log"
            last = str(seen.last_round)
            lines.append(_sentence(words, status.agent, neighbour, last))
    return lines


def _weightless(shares: Mapping[str, float]) -> str:
    """Whom the run's rule gives no weight, and how often; "" where it weighs all."""
    if not shares:
        return ""
    named = [f"{agent} in {100 * share:.0f} %" for agent, share in shares.items()]
    del named[_PAYMENTS_SHOWN_MAX:]
    more = f" and {len(shares) - len(named)} more agents" if len(shares) > len(named) else ""
    return f"given no weight, of their neighbours' rounds: {', '.join(named)}{more}"


def rewarded(standings: Mapping[str, Mapping[str, float]]) -> str:
    """Whom neighbours give less than all of a model, the least first; "" where nobody trades."""
    if not standings:
        return ""
    ordered = sorted(standings.items(), key=lambda item: (item[1]["share"], item[0]))
    named = [f"{agent} {100 * one['share']:.0f} %" for agent, one in ordered if one["share"] < 1]
    more = f" and {len(named) - _PAYMENTS_SHOWN_MAX} more agents"
    more = more if len(named) > _PAYMENTS_SHOWN_MAX else ""
    told = f"{', '.join(named[:_PAYMENTS_SHOWN_MAX])}{more}" or "all of it to everybody"
    return f"given by their neighbours, of a model: {told}"


def _headline(summary: Mapping[str, object]) -> Table:
    """The network between its two yardsticks: all data in one place, and every agent on its own."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    notes = {"one model on all data": _work(summary.get("centralised_work"))}
    metric = Metric.of(summary)
    notes["on own data, mean"] = "of each agent's model on data that it alone has"
    notes[metric.worst] = "" if metric.is_share else metric.direction
    byzantine = summary.get("byzantine")
    if isinstance(byzantine, list) and byzantine:
        attackers = (
            "1 agent that attacks" if len(byzantine) == 1 else f"{len(byzantine)} that attack"
        )
        notes[f"mean {metric.name}"] = f"without {attackers}"
    for name, value in reached(summary, metric).items():
        table.add_row(literal(name), metric.text(value), notes.get(name, ""))
    return table


def _work(share: object) -> str:
    """How much the one model was trained, as a share of what all agents were together."""
    if not isinstance(share, int | float):
        return ""
    if share == 1:
        return "trained on as many samples as all agents together"
    return f"trained on {share:.2g} of the samples of all agents together"


def _title(summary: Mapping[str, object]) -> Text:
    words = [summary.get(key) for key in ("task", "topology")]
    if not Metric.of(summary).is_return:  # of an environment there are no samples to part
        words.append(summary.get("partition"))
    words += ["weighted by declared sizes"] if summary.get("weights") else []
    described = ", ".join(str(word) for word in words if word)
    rounds = summary.get("rounds", "?")
    return literal(f"{summary.get('run_id', 'run')}: {described}, {rounds} rounds", "bold")


def _agents(summary: Mapping[str, object]) -> Table:
    values, local, balances, sent, strategies = (
        value if isinstance(value := summary.get(key), Mapping) else {}
        for key in ("accuracy", "local_metric", "balances", "bytes_sent", "strategies")
    )
    metric = Metric.of(summary)
    name = fitting(metric.name, 20)
    own = ("own data",) if local else ()
    table = _table("", "strategy", name, *own, "balance", "sent")
    caption = f"{name}: {metric.direction}; balance: credits, above 0 received"
    ids = list(dict(values) | dict(balances))
    if len(ids) > _AGENTS_SHOWN_MAX:  # who deviates, and then in the order of the cluster file
        ids.sort(key=lambda agent: strategies.get(agent, "honest") == "honest")
        caption = f"and {len(ids) - _AGENTS_SHOWN_MAX} more agents; {caption}"
    table.caption = literal(caption, "table.caption")
    for agent in ids[:_AGENTS_SHOWN_MAX]:
        strategy = str(strategies.get(agent, "honest"))
        table.add_row(
            literal(agent),
            literal(strategy, "" if strategy == "honest" else "yellow"),
            metric.text(mean_of(values.get(agent))),
            *((metric.text(mean_of(local.get(agent))),) if local else ()),
            _balance(int(balances.get(agent, 0))),
            format_bytes(int(sent[agent])) if agent in sent else "-",
        )
    return table


def _who_paid_whom(payments: Sequence[tuple[str, str, int]]) -> Group:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for payer, receiver, amount in payments[:_PAYMENTS_SHOWN_MAX]:
        table.add_row(_sentence("{} paid {}", payer, receiver), format_credits(amount))
    more = len(payments) - _PAYMENTS_SHOWN_MAX
    rest = [Text(f"and {more} smaller payments")] if more > 0 else []
    return Group(Text(_PAID_TITLE, style="bold"), table, *rest, "")


def _members(summary: Mapping[str, object]) -> str:
    """Who joined and who left while the run went on."""
    found = []
    for key, word in (("left", "left after round"), ("joined", "joined with round")):
        changed = summary.get(key)
        of = changed.items() if isinstance(changed, dict) else ()
        found += [f"{agent} {word} {number}" for agent, number in of]
    return "; ".join(found)


def _outcome(summary: Mapping[str, object], run_dir: Path | None) -> Group:
    lines = [] if summary.get("simulated") else [_verdict(summary.get("audit"), run_dir)]
    lines += _accused(summary)
    if told := participation_words(parts_of(summary.get("participation"))):
        lines.append(Text.assemble(("participation  ", "dim"), literal(told)))
    if told := _members(summary):
        lines.append(Text.assemble(("members  ", "dim"), literal(told)))
    lines += [literal(told, "yellow") for told in late_words(late_from(summary.get("late")))]
    lines += _beyond_credit(summary.get("beyond_credit"))
    lines += [literal(warning, "bold red") for warning in isolations(summary)]
    rewards = summary.get("rewards")
    if isinstance(rewards, dict) and rewards:
        lines.append(literal(rewarded(rewards)))
    misrated = summary.get("misrated")
    if isinstance(misrated, dict):
        lines += [literal(told, "bold red") for told in misrated_words(misrated)]
    if run_dir is not None:
        lines.append(Text.assemble(("run directory  ", "dim"), literal(run_dir)))
        report = run_dir / "report.html"
        if report.exists():
            lines.append(Text.assemble(("report         ", "dim"), literal(report)))
    return Group(*lines)


def _accused(summary: Mapping[str, object]) -> list[Text]:
    """What is proven of whom, and the bonds that are lost by it, which no balance has."""
    proven, owed = summary.get("proven"), summary.get("bonds")
    label = ("proven         ", "dim")
    found = proven if isinstance(proven, list) else []
    lines = [Text.assemble(label, literal(str(told), "bold red")) for told in found]
    for agent, amount in owed.items() if isinstance(owed, dict) else ():
        about = f"{agent} owes its bond of {format_credits(amount)} to its neighbours"
        lines.append(Text.assemble(("bond           ", "dim"), literal(about, "bold red")))
    return lines


def _verdict(audit: object, run_dir: Path | None) -> Text:
    label = ("ledger audit   ", "dim")
    match audit:
        case "ok":
            return Text.assemble(label, ("ok", "bold green"), ": every ledger adds up")
        case "violated":
            where = literal(f": run `candor ledger audit {run_dir or 'RUN_DIR'}`")
            return Text.assemble(label, ("violated", "bold red"), where)
        case _:
            return Text.assemble(label, "not done")


def _beyond_credit(counts: object) -> list[Text]:
    """Whose updates nobody mixed, as they could cost more than may be owed."""
    found = counts if isinstance(counts, Mapping) else {}
    refused = [f"{agent} {count}" for agent, count in found.items() if count]
    if not refused:
        return []
    label, verdict = ("credit limit   ", "dim"), ("too low", "bold red")
    about = f" for {sum(found.values())} updates, which nobody mixed: "
    more = ", …" if len(refused) > _PAYMENTS_SHOWN_MAX else ""
    return [
        Text.assemble(
            label, verdict, about, literal(", ".join(refused[:_PAYMENTS_SHOWN_MAX])), more
        )
    ]


def isolations(summary: Mapping[str, object]) -> list[str]:
    """The warnings about agents of a summary that mixed with nobody in many rounds."""
    alone, rounds = summary.get("alone_rounds"), summary.get("rounds")
    if not isinstance(alone, Mapping) or not isinstance(rounds, int):
        return []
    told = [isolation(agent, count, rounds) for agent, count in alone.items()]
    warnings = [warning for warning in told if warning]
    more = len(warnings) - _PAYMENTS_SHOWN_MAX
    return [*warnings[:_PAYMENTS_SHOWN_MAX], *([f"and {more} more agents"] if more > 0 else [])]


def _sentence(form: str, *values: object) -> Text:
    """A sentence with literal values in bold at its braces."""
    pieces = form.split("{}")
    text = Text(pieces[0])
    for value, piece in zip(values, pieces[1:], strict=True):
        text.append_text(literal(value, "bold")).append(piece)
    return text
