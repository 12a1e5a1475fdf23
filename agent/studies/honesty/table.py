"""What an audit of each cell says in one line, and prices of one cell judged in others.

A cell is judged by `agent.studies.audit`: free, under the default rule, at the prices that its
audit suggests, where rounds are done again, and with a bound on influence. Nothing is run here but
by that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from candor.agent.studies.audit.incentives import Floats
from candor.agent.studies.audit.members import Member
from candor.agent.studies.audit.report import dearest, median_worth
from candor.agent.studies.audit.verdicts import Verdict, audit, chosen_strategies, done_again
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
    """A lie by the mean of what it gains, with the upper end of its 95 % interval; `searched`:
    found by the optimiser, not of the library."""

    name: str
    gain: float
    high: float
    searched: bool


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
class Replayed:
    """A cell where the picked round of every window is done again: the least `bond`, in what
    cooperation is worth to an agent in the median, the lie that asks for it, None where none does,
    those that no round shows, and the cell at that bond, with prices for these alone."""

    bond: float
    by: str | None
    blind: tuple[str, ...]
    setting: Setting


@dataclass(frozen=True, slots=True)
class Bounded:
    """A cell in which nobody may inject more than `influence` times what is usual around it: the
    best lie without payments, and what the bound costs honest agents, in the mean, of what
    cooperation is usually worth without it."""

    influence: float
    free: Lie
    cost: float


@dataclass(frozen=True, slots=True)
class Row:
    """What was found in a cell. All amounts are shares of what cooperation is worth to whom they
    are of: `usual`, in units of loss, to `gaining` of all agents; `undertrained`: what would help
    nearly all. `free`: the best lie without payments; `bounded`: None where that was not asked."""

    cell: Cell
    agents: int
    gaining: float
    usual: float
    undertrained: tuple[str, ...]
    free: Lie
    default: Setting
    suggested: Setting
    replayed: Replayed
    bounded: Bounded | None


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
    influence: float | None = None,
    rounds: int | None = None,
    data_root: Path | None = None,
    jobs: int = 1,
    progress: Progress = lambda _what, _done, _of: None,
) -> tuple[dict[Cell, Verdict], dict[Cell, Verdict], dict[Cell, str]]:
    """The audits of cells, those of the same lies with a bound, and why other cells have none: data
    that are not there, shards that cannot be drawn, cooperation that is worth nothing.

    Args:
        cells: which.
        seeds: of each cell, from its own on.
        runs: the folder of finished runs, which are not run again.
        lies: specs.
        search: look for better lies too.
        influence: the bound, None without one; what was found is judged there, too.
        rounds: of each run, where not its task's.
        data_root: of the data sets.
        jobs: processes.
        progress: told which cell is audited and how many of its runs are done.
    """
    found: dict[Cell, Verdict] = {}
    bounded: dict[Cell, Verdict] = {}
    left: dict[Cell, str] = {}
    for at, cell in enumerate(cells, 1):

        def told(what: str, done: int, of: int, at: int = at, cell: Cell = cell) -> None:
            progress(f"{at}/{len(cells)} {cell.name}, {what}", done, of)

        def judged_at(
            bound: float | None, specs: Sequence[str], *, search: bool, cell: Cell = cell
        ) -> Verdict:
            question = question_of(cell, seeds, data_root, rounds=rounds, influence=bound)
            chosen = chosen_strategies(question, ",".join(specs))
            return audit(question, chosen, cache=runs, search=search, jobs=jobs, progress=told)

        try:
            found[cell] = judged_at(None, lies, search=search)
            if influence is not None:
                more = [one.strategy for one in found[cell].judged if one.searched]
                bounded[cell] = judged_at(influence, [*lies, *dict.fromkeys(more)], search=False)
        except ConfigurationError as exc:
            left[cell] = str(exc)
    return found, bounded, left


def row_of(
    cell: Cell,
    verdict: Verdict,
    default: str,
    bounded: Verdict | None = None,
    influence: float = 0.0,
) -> Row:
    """The line of a cell whose rule is `default`, and its verdict with a bound of `influence`."""
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
        replayed_of(verdict),
        None if bounded is None else bounded_of(verdict, bounded, influence),
    )


def replayed_of(verdict: Verdict) -> Replayed:
    """A cell where the picked round of every window is done again."""
    again = done_again(verdict)
    by = dearest(again)
    return Replayed(
        again.bond / median_worth(again),
        None if by is None else by.name,
        tuple(one.name for one in again.blind),
        setting_of(again, again.prices),
    )


def bounded_of(verdict: Verdict, bounded: Verdict, influence: float) -> Bounded:
    """A cell with a bound, beside the same cell without."""
    cost = float((verdict.worth.by_agent - bounded.worth.by_agent).mean()) / verdict.worth.usual
    return Bounded(influence, best_lie(bounded, np.zeros(len(bounded.terms))), cost)


def prices_of(verdict: Verdict, rule: str) -> Floats:
    """The prices of a rule for the terms of a verdict, (terms,); it has no others."""
    prices = {term.name: term.price for term in parse_rule(rule).terms}
    assert prices.keys() <= set(verdict.terms)
    return np.array([prices.get(term, 0.0) for term in verdict.terms])


def best_lie(verdict: Verdict, prices: Floats) -> Lie:
    """The lie that gains the most in the mean at prices (terms,)."""
    spans = [(one, one.deviation.net_interval(prices)) for one in verdict.judged]
    best, span = max(spans, key=lambda one: one[1].mean)
    return Lie(best.name, span.mean, span.high, best.searched)


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
