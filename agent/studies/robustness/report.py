"""What a grid of attacks found, in words, as JSON and as a page.

Nothing is run or read here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from candor.agent.reports.charts import heat_map
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.reports.metric import Metric
from candor.agent.studies.robustness.grid import NONE, Cell, Verdict, least_learned, verdicts_of

WORST: Final = "*"
_INTRODUCTION: Final = (
    "Agents train one model with their neighbours on a graph; some of them attack. Each run is one "
    "attack against one aggregator. A number is the mean over honest agents and seeds; the worst "
    "attack of each aggregator is marked. An agent whose model is not finite counts as 0."
)
LOSES: Final = (
    "Loses: the mean of the best aggregator without attack less that under the worst attack. Who "
    "does not learn reaches less than half of that best without attack."
)
SUMMARY: Final = (
    "aggregator",
    "#no attack",
    "worst attack",
    "#mean honest",
    "#worst honest",
    "#loses",
)


def facts(cells: Sequence[Cell], setting: Mapping[str, Any], most: float) -> dict[str, Any]:
    """What was found, in the types of JSON."""
    return {
        "setting": dict(setting),
        "cells": [asdict(cell) for cell in cells],
        "worst": [
            {
                "topology": one.topology,
                "aggregator": one.aggregator,
                "attack": one.worst.attack,
                "clean": None if one.clean is None else one.clean.mean,
                "mean": one.worst.mean,
                "worst": one.worst.worst,
                "loses": one.loses,
                "learns": one.learns(most),
            }
            for one in verdicts_of(cells)
        ],
    }


def summary_rows(verdicts: Sequence[Verdict], metric: Metric, most: float) -> list[tuple[str, ...]]:
    """A line of `SUMMARY` for each aggregator of one graph."""
    return [
        (
            one.aggregator + ("" if one.learns(most) else " (does not learn)"),
            "-" if one.clean is None else metric.text(one.clean.mean),
            one.worst.attack,
            metric.text(one.worst.mean),
            metric.text(one.worst.worst),
            "-" if one.loses is None else f"{one.loses:.3f}",
        )
        for one in verdicts
    ]


def grid_rows(cells: Sequence[Cell]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of one graph's grid: attacks by aggregators, worst cases marked."""
    aggregators = tuple(dict.fromkeys(cell.aggregator for cell in cells))
    attacks = tuple(dict.fromkeys(cell.attack for cell in cells))
    at = {(cell.attack, cell.aggregator): cell for cell in cells}
    worst = {(one.worst.attack, one.aggregator) for one in verdicts_of(cells)}
    rows = [
        (
            attack,
            *(
                f"{at[attack, name].mean:.3f}{WORST if (attack, name) in worst else ' '}"
                for name in aggregators
            ),
        )
        for attack in attacks
    ]
    return ("attack", *(f"#{name}" for name in aggregators)), rows


def sentences(verdicts: Sequence[Verdict], most: float) -> list[str]:
    """Who loses no more than `most`, and under how many attacks nobody defended would learn."""
    kept = [one for one in verdicts if one.loses is not None and one.loses <= most]
    if not kept:
        return [f"no aggregator loses at most {most:g} under every attack"]
    best = max(kept, key=lambda one: one.worst.mean)
    names = ", ".join(one.aggregator for one in kept)
    return [
        f"at most {most:g} lose, under every attack: {names}",
        f"best worst case: {best.aggregator}, {best.worst.mean:.3f} under {best.worst.attack}",
    ]


def collapsed(cells: Sequence[Cell], aggregator: str, most: float) -> list[str]:
    """The attacks under which an aggregator loses half of what it reaches without them, or, of
    metrics where that says nothing, more than ten times `most`."""
    row = [cell for cell in cells if cell.aggregator == aggregator]
    clean = next((cell.mean for cell in row if cell.attack == NONE), None)
    if clean is None:
        return []
    bar = least_learned(clean, most)
    return [cell.attack for cell in row if cell.mean < bar]


def render(cells: Sequence[Cell], setting: Mapping[str, Any], metric: Metric, most: float) -> str:
    """The whole page."""
    told = " · ".join(f"{escape(key)} {escape(value)}" for key, value in setting.items())
    blocks = [
        f"<header><p class=kind>Candor study</p><h1>Robustness</h1><p class=lead>{told}</p>"
        f"<p class=caption>{escape(_INTRODUCTION)}</p></header>"
    ]
    for topology in dict.fromkeys(cell.topology for cell in cells):
        blocks += _of_graph([c for c in cells if c.topology == topology], metric, most)
    return page("Robustness", blocks)


def _of_graph(cells: Sequence[Cell], metric: Metric, most: float) -> list[str]:
    topology, verdicts = escape(cells[0].topology), verdicts_of(cells)
    rows = [tuple(map(escape, row)) for row in summary_rows(verdicts, metric, most)]
    lines = "".join(f"<p>{escape(line)}</p>" for line in sentences(verdicts, most))
    attacks = tuple(dict.fromkeys(cell.attack for cell in cells))
    names = tuple(dict.fromkeys(cell.aggregator for cell in cells))
    parts = [
        card(
            f"{topology}: what the worst attack costs",
            LOSES,
            table(SUMMARY, rows) + lines,
        )
    ]
    for what, values in (
        ("mean honest agent", {(c.aggregator, c.attack): c.mean for c in cells}),
        ("worst honest agent", {(c.aggregator, c.attack): c.worst for c in cells}),
    ):
        marked = {(one.aggregator, one.worst.attack) for one in verdicts}
        draw = partial(heat_map, values, names, attacks, marked)
        text = f"{what}: {metric.name} by aggregator and attack on {cells[0].topology}"
        caption = f"Test {escape(metric.name)}, {metric.direction}; framed: the worst attack."
        parts.append(card(f"{topology}: {what}", caption, image(draw, text)))
    return parts
