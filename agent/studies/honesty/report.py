"""The table of honesty in words, as JSON and as a page. Nothing is run or read here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from candor.agent.reports.charts import heat_map
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.studies.audit.report import percent
from candor.agent.studies.honesty.cells import Cell
from candor.agent.studies.honesty.table import Moved, Row, Setting

EPSILON: Final = 0.01  # of what cooperation is worth: what a lie may gain
HONEST_MOST: Final = 0.02  # and an honest agent pay by the default rule
LIES: Final = (
    *("task", "graph", "#coop-\nerates, %", "best lie, free", "#free", "#default", "#suggested"),
    *("#replay:\nbond", "#best lie"),
)
BOUNDED: Final = ("#bound:\nfree", "#cost")
HONEST: Final = (
    *("task", "graph", "#median", "#98th", "#worst", "worst has"),
    *("#suggested:\nmedian", "#98th", "#worst", "#replay:\nworst"),
)
MOVED: Final = (
    *("task", "graph", "judged on", "#best lie", "#its own\nprices", "#honest\n98th", "#worst"),
    *("#its own\n98th", "#worst"),
)
LIES_NOTE: Final = (
    "Gains of the best lie, per cent of what cooperation is worth to the liar, means over seeds: "
    "free, by the default rule, at the suggested prices; replay: with the picked round of every "
    "window done again, at the least bond, in what cooperation is worth to an agent in the median, "
    "that leaves no lie which shows more than one per cent. Cooperates: how many it pays at all. "
    "*: twice the step or the rounds would help nearly all. (search): found by the optimiser."
)
BOUNDED_NOTE: Final = (
    " With a bound on influence: the best lie free, and what it costs honest agents in the mean."
)
HONEST_NOTE: Final = (
    "What honest agents pay by the default rule and at the suggested prices, per cent of what "
    "cooperation is worth to each; how many neighbours who pays the most has, and the term that "
    "asks for most of it. Replay: prices are for lies alone that no round shows."
)
MOVED_NOTE: Final = (
    "Prices suggested for the first shards of a task and graph, on others; its own: prices fitted "
    "there. Per cent, as above."
)
_INTRODUCTION: Final = (
    "One agent lies, all others are honest, on tasks and graphs that no price was chosen on. Each "
    "cell is an audit of its own."
)


def facts(
    rows: Sequence[Row],
    moves: Sequence[Moved],
    left: Mapping[Cell, str],
    setting: Mapping[str, Any],
) -> dict[str, Any]:
    """What was found, in the types of JSON; amounts are shares."""
    return {
        "setting": dict(setting),
        "cells": [asdict(row) for row in rows],
        "moved": [asdict(move) for move in moves],
        "left_out": [{**asdict(cell), "why": why} for cell, why in left.items()],
    }


def lie_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns of `lie_rows`."""
    return (*LIES, *(BOUNDED if _some_bounded(rows) else ()))


def lies_note(rows: Sequence[Row]) -> str:
    """What they are."""
    return LIES_NOTE + (BOUNDED_NOTE if _some_bounded(rows) else "")


def _some_bounded(rows: Sequence[Row]) -> bool:
    return any(row.bounded is not None for row in rows)


def lie_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each cell."""
    return [
        (
            row.cell.task + ("*" if row.undertrained else ""),
            row.cell.graph,
            f"{100 * row.gaining:.0f}",
            row.free.name + (" (search)" if row.free.searched else ""),
            *(percent(lie.gain) for lie in (row.free, row.default.best, row.suggested.best)),
            f"{row.replayed.bond:.2g}",
            percent(row.replayed.setting.best.gain),
            *(_bounded_cells(row) if _some_bounded(rows) else ()),
        )
        for row in rows
    ]


def _bounded_cells(row: Row) -> tuple[str, str]:
    if row.bounded is None:
        return "-", "-"
    return percent(row.bounded.free.gain), percent(row.bounded.cost)


def honest_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line of `HONEST` for each cell."""
    return [
        (
            row.cell.task,
            row.cell.graph,
            *_paid(row.default),
            _payer(row.default),
            *_paid(row.suggested),
            percent(row.replayed.setting.worst),
        )
        for row in rows
    ]


def moved_rows(moves: Sequence[Moved]) -> list[tuple[str, ...]]:
    """A line of `MOVED` for each pair of cells."""
    return [
        (
            move.judged.task,
            move.judged.graph,
            _other(move),
            percent(move.setting.best.gain),
            percent(move.own.best.gain),
            *_paid(move.setting)[1:],
            *_paid(move.own)[1:],
        )
        for move in moves
    ]


def _other(move: Moved) -> str:
    if move.judged.partition != move.fitted.partition:
        return move.judged.partition
    return f"seeds from {move.judged.seed}"


def _paid(setting: Setting) -> tuple[str, str, str]:
    return percent(setting.median), percent(setting.p98), percent(setting.worst)


def _payer(setting: Setting) -> str:
    return f"{setting.payer.degree} neighbours: {setting.term}"


def sentences(rows: Sequence[Row]) -> list[str]:
    """In how many cells a lie pays, and honest agents pay little."""
    count, bounded = len(rows), [row.bounded for row in rows if row.bounded is not None]
    lies = {
        "free": [row.free for row in rows],
        "default": [row.default.best for row in rows],
        "suggested": [row.suggested.best for row in rows],
        "replay": [row.replayed.setting.best for row in rows],
        "bound, free": [one.free for one in bounded],
    }
    lines = [
        f"{what}: the best lie gains at most {100 * EPSILON:g} % in "
        f"{sum(lie.gain <= EPSILON for lie in some)} of {len(some)} cells, at the worst "
        f"{percent(max(lie.gain for lie in some))} %"
        for what, some in lies.items()
        if some
    ]
    lines += [
        f"{what}: no honest agent pays more than {100 * HONEST_MOST:g} % in "
        f"{sum(one.worst <= HONEST_MOST for one in settings)} of {count} cells, at the worst "
        f"{percent(max(one.worst for one in settings))} %"
        for what, settings in (
            ("default", [row.default for row in rows]),
            ("suggested", [row.suggested for row in rows]),
            ("replay", [row.replayed.setting for row in rows]),
        )
    ]
    if blind := dict.fromkeys(name for row in rows for name in row.replayed.blind):
        lines.append(f"replay: no round shows {', '.join(blind)}")
    lacking = [row.cell.name for row in rows if row.undertrained]
    return [*lines, *(f"undertrained: {name}" for name in lacking)]


def by_partition(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each partition, and first seed where there are several."""
    several = len({row.cell.seed for row in rows}) > 1
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = row.cell.partition + (f", seeds from {row.cell.seed}" if several else "")
        found.setdefault(name, []).append(row)
    return found


def render(
    rows: Sequence[Row],
    moves: Sequence[Moved],
    left: Mapping[Cell, str],
    setting: Mapping[str, Any],
) -> str:
    """The whole page."""
    told = " · ".join(f"{escape(key)} {escape(value)}" for key, value in setting.items())
    blocks = [
        f"<header><p class=kind>Candor study</p><h1>Honesty</h1><p class=lead>{told}</p>"
        f"<p class=caption>{escape(_INTRODUCTION)}</p></header>"
    ]
    for partition, some in by_partition(rows).items():
        blocks += _of_partition(partition, some)
    if moves:
        blocks.append(card("Prices on other shards", MOVED_NOTE, _table(MOVED, moved_rows(moves))))
    if left:
        rows_left = [(escape(cell.name), escape(why)) for cell, why in left.items()]
        blocks.append(card("Left out", "", table(("cell", "why"), rows_left)))
    return page("Honesty", blocks)


def _of_partition(partition: str, rows: Sequence[Row]) -> list[str]:
    name = escape(partition)
    lines = "".join(f"<p>{escape(line)}</p>" for line in sentences(rows))
    parts = [
        card(
            f"{name}: what lies gain",
            lies_note(rows),
            _table(lie_columns(rows), lie_rows(rows)) + lines,
        ),
        card(f"{name}: what honest agents pay", HONEST_NOTE, _table(HONEST, honest_rows(rows))),
    ]
    for what, most, values in (
        ("best lie, default rule", EPSILON, {_at(row): row.default.best.gain for row in rows}),
        ("worst honest agent, default rule", HONEST_MOST,
         {_at(row): row.default.worst for row in rows}),
    ):  # fmt: skip
        shown = {at: 100 * value for at, value in values.items()}
        beyond = {at for at, value in values.items() if value > most}
        tasks, graphs = (list(dict.fromkeys(names)) for names in zip(*shown, strict=True))
        draw = partial(heat_map, shown, tasks, graphs, beyond)
        caption = f"Per cent; framed: above {100 * most:g}."
        parts.append(card(f"{name}: {what}", caption, image(draw, f"{what} by task and graph")))
    return parts


def _at(row: Row) -> tuple[str, str]:
    return row.cell.task, row.cell.graph


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    return table(columns, [tuple(map(escape, row)) for row in rows])
