"""What an audit of each cell says in one line, and prices of one cell judged in others.

A cell is judged by `agent.studies.audit`: free, under the default rule, at the prices that its
audit suggests. Nothing is run here but by that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from candor.agent.studies.audit.incentives import Floats
from candor.agent.studies.audit.members import Member
from candor.agent.studies.audit.verdicts import Verdict, audit, chosen_strategies
from candor.agent.studies.audit.worth import quantiles
from candor.agent.studies.honesty.cells import Cell, question_of
from candor.mechanisms.payments.bills import parse_rule
from candor.topologies.specs.specs import ConfigurationError

LIES: Final = (
    "scale:1.25",
    "scale:2",
    "scale:4",
    "scale:2 + averaged:0.4",
    "zero",
    "noise:0.5",
    "alternating-flip",
    "stale-copy",
    "conform:0.5",
    "colluding:2",
)
"""What is judged in every cell: one lie or two of each kind, so that a cell takes a minute."""


@dataclass(frozen=True, slots=True)
class Lie:
    """A lie by the mean of what it gains, with the upper end of its 95 % interval."""

    name: str
    gain: float
    high: float


@dataclass(frozen=True, slots=True)
class Setting:
    """A cell at some prices: the lie that gains the most, and what honest agents pay, each of its
    own worth: the median, the 98th percentile, and the most, with who that is and by which term."""

    rule: str
    best: Lie
    median: float
    p98: float
    worst: float
    payer: Member
    term: str


@dataclass(frozen=True, slots=True)
class Row:
    """What was found in a cell. All amounts are shares of what cooperation is worth to whom they
    are of: `usual`, in units of loss, to `gaining` of all agents; `undertrained`: what would help
    nearly all. `free`: the best lie without payments."""

    cell: Cell
    agents: int
    gaining: float
    usual: float
    undertrained: tuple[str, ...]
    free: Lie
    default: Setting
    suggested: Setting


@dataclass(frozen=True, slots=True)
class Moved:
    """Prices that were fitted in one cell, in another; `own` is what prices fitted there do."""

    fitted: Cell
    judged: Cell
    setting: Setting
    own: Setting


Progress = Callable[[str, int, int], None]


def judged(
    cells: Sequence[Cell],
    *,
    seeds: int,
    runs: Path,
    lies: Sequence[str],
    search: bool = False,
    rounds: int | None = None,
    data_root: Path | None = None,
    jobs: int = 1,
    progress: Progress = lambda _what, _done, _of: None,
) -> tuple[dict[Cell, Verdict], dict[Cell, str]]:
    """The audits of cells, and why others have none: data that are not there, shards that cannot
    be drawn, cooperation that is worth nothing.

    Args:
        cells: which.
        seeds: of each cell, from its own on.
        runs: the folder of finished runs, which are not run again.
        lies: specs.
        search: look for better lies too.
        rounds: of each run, where not its task's.
        data_root: of the data sets.
        jobs: processes.
        progress: told which cell is audited and how many of its runs are done.
    """
    found: dict[Cell, Verdict] = {}
    left: dict[Cell, str] = {}
    for at, cell in enumerate(cells, 1):

        def told(what: str, done: int, of: int, at: int = at, cell: Cell = cell) -> None:
            progress(f"{at}/{len(cells)} {cell.name}, {what}", done, of)

        try:
            question = question_of(cell, seeds, data_root, rounds=rounds)
            chosen = chosen_strategies(question, ",".join(lies))
            found[cell] = audit(
                question, chosen, cache=runs, search=search, jobs=jobs, progress=told
            )
        except ConfigurationError as exc:
            left[cell] = str(exc)
    return found, left


def row_of(cell: Cell, verdict: Verdict, default: str) -> Row:
    """The line of a cell whose rule is `default`."""
    worth = verdict.worth
    return Row(
        cell,
        worth.by_agent.shape[1],
        float((worth.by_agent > 0).mean()),
        worth.usual,
        tuple(one.what for one in verdict.undertrained),
        best_lie(verdict, np.zeros(len(verdict.terms))),
        setting_of(verdict, prices_of(verdict, default)),
        setting_of(verdict, verdict.prices),
    )


def prices_of(verdict: Verdict, rule: str) -> Floats:
    """The prices of a rule for the terms of a verdict, (terms,); it has no others."""
    prices = {term.name: term.price for term in parse_rule(rule).terms}
    assert prices.keys() <= set(verdict.terms)
    return np.array([prices.get(term, 0.0) for term in verdict.terms])


def best_lie(verdict: Verdict, prices: Floats) -> Lie:
    """The lie that gains the most in the mean at prices (terms,)."""
    spans = [(one.name, one.deviation.net_interval(prices)) for one in verdict.judged]
    name, span = max(spans, key=lambda one: one[1].mean)
    return Lie(name, span.mean, span.high)


def setting_of(verdict: Verdict, prices: Floats) -> Setting:
    """A cell at prices (terms,)."""
    paid, own = verdict.honest_payments(prices), verdict.has_unit
    most = int(np.where(own, paid, -np.inf).argmax())
    by_term = verdict.honest_paid[most] * prices
    return Setting(
        verdict.rule_at(prices),
        best_lie(verdict, prices),
        *quantiles(paid[own]),
        verdict.members[most],
        verdict.terms[int(by_term.argmax())],
    )


def moved(verdicts: Mapping[Cell, Verdict]) -> list[Moved]:
    """The prices of each first cell of a task and graph, at the other shards and seeds of these."""
    found = []
    for fitted, first in verdicts.items():
        if next(one for one in verdicts if _place(one) == _place(fitted)) != fitted:
            continue
        for cell, verdict in verdicts.items():
            if cell != fitted and _place(cell) == _place(fitted):
                there = setting_of(verdict, first.prices)
                found.append(Moved(fitted, cell, there, setting_of(verdict, verdict.prices)))
    return found


def _place(cell: Cell) -> tuple[str, str]:
    return cell.task, cell.graph
