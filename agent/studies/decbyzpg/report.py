"""The study's table and page."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from candor.agent.reports.charts import Line, lines_by_round
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.studies.decbyzpg.figures import (
    ATTACKS,
    FIGURES,
    HEADLINE,
    IN_DIAMETER,
    WINDOW,
    Cell,
    Runs,
    Verdict,
    cells_of,
    interval,
    returns_at,
    verdicts,
)

POINTS: Final = 80  # of a curve
COLUMNS: Final = ("task", "", "#trajectories", "#paper", "#ours", "#95 %", "#seeds", "#moves")
NOTE: Final = (
    "Return: undiscounted, the mean over honest agents and seeds of the "
    f"{WINDOW} trajectories of an agent around so many; more is better. Paper: read off its plots. "
    "95 %: confidence interval over seeds. Moves: exchanges of a round, mean and most, in which "
    "averaging still moved an honest policy."
)


def rows(runs: Runs, trajectories: int) -> list[tuple[str, ...]]:
    """The figures of all cells that were run, the paper's beside ours where it has one."""
    shown = {(figure.cell, figure.trajectories): figure.paper for figure in FIGURES}
    asked = [(cell, at) for cell, at in shown if cell in runs and at <= trajectories]
    for cell in runs:
        if not any(cell == other for other, _ in asked):
            asked.append((cell, trajectories))
    found: list[tuple[str, ...]] = []
    for cell, at in asked:
        values = returns_at(runs, cell, at)
        mean, low, high = interval(values)
        paper = shown.get((cell, at), math.nan)
        found.append(
            (
                cell.task,
                cell.label,
                f"{at:,}",
                "diverges" if paper is None else _number(paper),
                _number(mean) if values and not math.isnan(mean) else "diverges",
                f"{low:.0f} to {high:.0f}" if math.isfinite(low) else "–",
                str(len(values)),
                _moves(runs, cell),
            )
        )
    return found


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"


def _moves(runs: Runs, cell: Cell) -> str:
    counts = [move for run in runs[cell] for move in run.moves]
    return f"{sum(counts) / len(counts):.2f}, {max(counts)}" if counts else "–"


def facts(runs: Runs, trajectories: int) -> dict[str, Any]:
    """The same for programs."""
    return {
        "trajectories": trajectories,
        "figures": [dict(zip(_KEYS, row, strict=True)) for row in rows(runs, trajectories)],
        "runs": [
            {
                "task": run.setting.task,
                "agents": run.setting.agents,
                "byzantine": run.setting.byzantine,
                "aggregator": run.setting.aggregator,
                "seed": run.setting.seed,
                "rounds": len(run.returns),
                "mean_return": None if math.isnan(last) else last,
                "apart": run.apart if math.isfinite(run.apart) else None,
                "moves_max": max(run.moves, default=0),
                "seconds": run.seconds,
                "trajectories_per_second": sum(run.trajectories[-1:])
                * run.setting.agents
                / run.seconds,
            }
            for cell in runs
            for run in runs[cell]
            for last in [run.around(trajectories, WINDOW)]
        ],
        "verdicts": [
            {"claim": one.claim, "measured": one.measured, "holds": one.holds}
            for one in verdicts(runs)
        ],
    }


_KEYS: Final = ("task", "what", "trajectories", "paper", "ours", "interval", "seeds", "moves")


def sentence(verdict: Verdict) -> str:
    """A verdict as a line."""
    word = {True: "holds", False: "does not hold", None: "not judged"}[verdict.holds]
    return f"{word}: {verdict.claim} ({verdict.measured})"


def render(runs: Runs, trajectories: int) -> str:
    """The page."""
    tasks = list(dict.fromkeys(cell.task for cell in runs))
    header = (
        "<header><p class=kind>Candor experiment</p><h1>Policy gradients among attackers</h1>"
        "<p class=lead>DecByzPG (Jordan et al., arXiv 2401.03489), "
        f"{trajectories:,} trajectories an agent</p></header>"
    )
    told = "".join(f"<p>{escape(sentence(one))}</p>" for one in verdicts(runs))
    blocks = [header, card("What was found", "", told)]
    for task in tasks:
        blocks += [
            _curves(task, "without attack", [Cell(task, k) for k in (1, 5, HEADLINE)], runs),
            *(
                _curves(task, f"under {attack}", _against(task, attack), runs)
                for attack in (*ATTACKS, IN_DIAMETER)
            ),
        ]
    numbers = table(COLUMNS, ([escape(cell) for cell in row] for row in rows(runs, trajectories)))
    return page(
        "Policy gradients among attackers",
        [*(block for block in blocks if block), card("In numbers", escape(NOTE), numbers)],
    )


def _against(task: str, attack: str) -> list[Cell]:
    return [cell for cell in cells_of(task) if cell.attack == attack]


def _curves(task: str, what: str, cells: Sequence[Cell], runs: Runs) -> str:
    lines = [_line(cell, runs) for cell in cells if runs.get(cell)]
    if not lines:
        return ""
    draw = partial(lines_by_round, lines, "return", across="trajectories of an agent")
    return card(
        f"{escape(task)} {escape(what)}",
        "Mean return of the honest agents by trajectories that each has sampled, with 95 % "
        "confidence bands over seeds.",
        image(draw, f"returns of {task} {what} by trajectories"),
    )


def _line(cell: Cell, runs: Runs) -> Line:
    longest = max((run.trajectories[-1] for run in runs[cell] if run.trajectories), default=0)
    at = [longest * (point + 1) // POINTS for point in range(POINTS)]
    found = [interval([v for v in returns_at(runs, cell, n) if math.isfinite(v)]) for n in at]
    band = [
        (low if math.isfinite(low) else mean, high if math.isfinite(high) else mean)
        for mean, low, high in found
    ]
    return Line(cell.label, at, [mean for mean, _, _ in found], band=band)
