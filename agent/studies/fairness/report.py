"""The study's tables and page."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from candor.agent.reports.charts import Line, lines_by_round
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.studies.fairness.figures import (
    ALONE,
    CORRUPTED,
    CORRUPTED_SPARSITIES,
    CORRUPTED_VALUES,
    FAIR,
    Cell,
    Measured,
    Paper,
    Runs,
    Verdict,
    by_agent,
    measured,
    paper_of,
    verdicts,
)
from candor.agent.studies.fairness.runs import Run

COLUMNS: Final = (
    "method",
    "#paper\nmean (max)",
    "#ours\nmean (max)",
    "#paper\nrho",
    "#ours\nrho",
    "#paper\noverhead",
    "#ours\noverhead",
)
NOTE: Final = (
    "Test accuracy in percent: mean and highest of the honest agents, more is better. rho: 100 "
    "times the correlation of accuracies with those of agents alone, more is fairer; – where all "
    "have one model. Overhead: the method's time over that of training, less is better."
)
BY_AGENT: Final = ("agent", "#samples", "#corrupted", "#r", "#paper r", "#sparsity", "#paper")
BY_AGENT_NOTE: Final = (
    "Means over rounds. r: reputation, of one in all; sparsity: the share of the sum that an agent "
    "is not given. Paper: its section 3.4, with samples of one size."
)


def rows(runs: Runs, cell: Cell) -> list[tuple[str, ...]]:
    """A line of `COLUMNS` for each method of a cell."""
    return [
        _row(method, paper_of(cell, method), measured(runs, cell, method)) for method in runs[cell]
    ]


def _row(method: str, paper: Paper, ours: Measured) -> tuple[str, ...]:
    return (
        method,
        "–" if math.isnan(paper.mean) else f"{paper.mean:.0f} ({paper.highest:.0f})",
        f"{ours.mean:.1f} ({ours.highest:.1f})",
        _number(paper.rho, ".1f"),
        _number(ours.rho, ".1f"),
        _number(paper.overhead, ".2g"),
        "–" if method == ALONE else f"{ours.overhead:.2g}",
    )


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def agent_rows(cell: Cell, done: Sequence[Run]) -> list[tuple[str, ...]]:
    """A line of `BY_AGENT` for each agent of a method's runs."""
    reputations, given = by_agent(done, "reputations"), by_agent(done, "shares")
    shown = cell.corrupted == CORRUPTED
    return [
        (
            f"{agent + 1}" + (", free-rider" if agent < cell.free_riders else ""),
            f"{done[0].samples[agent]:,}",
            f"{100 * cell.corrupted[agent]:g} %" if cell.corrupted else "–",
            f"{reputations[agent]:.3f}",
            f"{CORRUPTED_VALUES[agent]:.3f}" if shown else "–",
            f"{100 * (1 - given[agent]):.1f} %",
            f"{100 * CORRUPTED_SPARSITIES[agent]:.1f} %" if shown else "–",
        )
        for agent in range(cell.agents)
    ]


def facts(runs: Runs, rounds: int) -> dict[str, Any]:
    """What was found, in the types of JSON."""
    return {
        "rounds": rounds,
        "cells": [
            {
                "task": cell.task,
                "agents": cell.agents,
                "partition": cell.partition,
                "corrupted": list(cell.corrupted),
                "free_riders": cell.free_riders,
                "methods": [_method(runs, cell, method) for method in methods],
            }
            for cell, methods in runs.items()
        ],
        "verdicts": [
            {"claim": one.claim, "measured": one.measured, "holds": one.holds}
            for one in verdicts(runs)
        ],
    }


def _method(runs: Runs, cell: Cell, method: str) -> dict[str, Any]:
    ours, paper, done = measured(runs, cell, method), paper_of(cell, method), runs[cell][method]
    return {
        "method": method,
        "seeds": [run.setting.seed for run in done],
        "mean": ours.mean,
        "highest": ours.highest,
        "rho": ours.rho,
        "overhead": ours.overhead,
        "paper_mean": paper.mean,
        "paper_highest": paper.highest,
        "paper_rho": paper.rho,
        "paper_overhead": paper.overhead,
        "accuracies": np.mean([run.accuracies for run in done], axis=0).tolist(),
        "reputations": by_agent(done, "reputations").tolist(),
        "sparsities": (1.0 - by_agent(done, "shares")).tolist(),
        "training_s": sum(run.training_s for run in done),
        "mechanism_s": sum(run.mechanism_s for run in done),
    }


def sentence(verdict: Verdict) -> str:
    """A verdict as a line."""
    word = {True: "holds", False: "does not hold", None: "not judged"}[verdict.holds]
    return f"{word}: {verdict.claim} ({verdict.measured})"


def render(runs: Runs, rounds: int) -> str:
    """The page."""
    header = (
        "<header><p class=kind>Candor experiment</p><h1>Fair rewards</h1>"
        f"<p class=lead>Xu et al. (NeurIPS 2021), {rounds:,} rounds</p></header>"
    )
    told = "".join(f"<p>{escape(sentence(one))}</p>" for one in verdicts(runs))
    blocks = [header, card("What was found", "", told)]
    for cell in runs:
        blocks += _of_cell(runs, cell)
    return page("Fair rewards", blocks)


def _of_cell(runs: Runs, cell: Cell) -> list[str]:
    methods = runs[cell]
    numbers = table(
        [column.replace("\n", " ") for column in COLUMNS],
        ([escape(one) for one in row] for row in rows(runs, cell)),
    )
    agents = list(range(1, cell.agents + 1))
    accuracies = [
        Line(method, agents, np.mean([run.accuracies for run in done], axis=0).tolist())
        for method, done in methods.items()
    ]
    draw = partial(lines_by_round, accuracies, "test accuracy", across="agent")
    found = [
        card(escape(cell.label), escape(NOTE), numbers),
        card(
            "Accuracy by agent",
            "",
            image(draw, f"test accuracy by agent and method: {cell.label}"),
        ),
    ]
    if FAIR in methods:
        found.append(_rewards(cell, FAIR, methods[FAIR]))
    return found


def _rewards(cell: Cell, method: str, done: Sequence[Run]) -> str:
    """What a mechanism did round by round, in the first of its seeds."""
    drawn = [
        (done[0].reputations, "reputation r", "reputations"),
        (done[0].distances, "distance of the model from the server's", "distances"),
        (done[0].losses, "training loss", "training losses"),
    ]
    images = "".join(
        image(
            partial(lines_by_round, _by_round(values), quantity),
            f"{what} of agents by round: {method}, {cell.label}",
        )
        for values, quantity, what in drawn
    )
    shown = table(BY_AGENT, ([escape(one) for one in row] for row in agent_rows(cell, done)))
    return card(escape(f"{method}: {cell.label}"), escape(BY_AGENT_NOTE), shown + images)


def _by_round(values: Sequence[Sequence[float]]) -> list[Line]:
    rounds = list(range(1, len(values) + 1))
    each = np.array(values).T.tolist()
    return [Line(f"agent {at + 1}", rounds, line) for at, line in enumerate(each)]
