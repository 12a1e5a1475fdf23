"""The drawings of a run's report, lines by round and the graph of payments, and of a topology.

Arrays and names in, bytes of SVG (or PNG) out; what the numbers mean is the report's business. The
colours come from Paul Tol's muted scheme, which colour-blind readers can tell apart, and every line
carries its name at its end, so that no chart depends on colour alone. Charts of pages come in two
widths, as letters that fit a desk are too small on a phone. The first chart loads matplotlib, which
is an extra: daemons draw nothing.
"""

import importlib.util
import io
import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, repeat
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.typing import DrawStyleType

Point: TypeAlias = tuple[float, float]
ImageForm: TypeAlias = Literal["svg", "png"]

INK, FAINT, GRID = "#1f2933", "#8a94a0", "#e4e8ec"
PAID, RECEIVED, EVEN = "#c8553d", "#33629c", "#eef0f2"
_PALETTE = (
    "#332288", "#44aa99", "#3a9bc1", "#117733", "#999933", "#6699cc", "#777777", "#ddaa33",
    "#661100", "#aa4499", "#225555", "#aa9977",
)  # fmt: skip
_MARKED_PALETTE = ("#cc3311", "#ee7733", "#882255", "#cc6677")

WIDE_IN, NARROW_IN = 7.4, 3.9
"""How wide charts of pages are drawn, in inches."""

# More lines than this cannot each have a colour and a name: the unmarked ones turn grey.
NAMED_LINES_MAX = len(_PALETTE)
# Above this many points vector lines make a page of megabytes: they are drawn as pixels.
_VECTOR_POINTS_MAX = 20_000
_LABELLED_NODES_MAX = 40
_LABELLED_AN_INCH = 3  # agents with their balance in a picture of payments, twice as many by name
_NAMED_NODES_MAX = 100  # of a drawing
_ARROWS_MAX = 300
_LETTERS_AN_INCH = 6  # of a name beside a chart: half of its width at most
_GAP = 3.0  # times the usual distance of two points: beyond, a line is broken
_SHADES = "Blues"
_CELL_IN = 0.35  # of a picture of shades: what a number of three letters needs
_BINS = 60  # not as many as fit the values: one far away would ask for millions

# Typed as the library edge it is: the keys are known to some versions of its annotations only.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.5,
    "svg.fonttype": "path",  # the same letters on every machine, and no font to load
    "svg.hashsalt": "candor",
}


def require() -> None:
    """Raises ConfigurationError where charts cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("drawing needs matplotlib: pip install 'candor[report]'")


@dataclass(frozen=True, slots=True)
class Line:
    """A named line: `rounds` and `values` have one length, and the `band` around the values, lowest
    and highest of each, if there is one; a marked line stands out."""

    name: str
    rounds: Sequence[float]
    values: Sequence[float]
    marked: bool = False
    band: Sequence[tuple[float, float]] = ()


def lines_by_round(
    lines: Sequence[Line],
    quantity: str,
    *,
    references: Mapping[str, float] | None = None,
    logarithmic: bool = False,
    stepped: bool = False,
    across: str = "round",
    lowest: float | None = None,
    width_in: float = WIDE_IN,
) -> bytes:
    """Lines over rounds, or what else goes `across`, each named at its end; references are dashed
    horizontal lines; stepped ones hold their value until the next round; what is below `lowest`
    leaves the picture."""
    with _canvas(width_in, 3.5) as (figure, axes):
        drawn = [_finite(line) for line in lines]
        points = sum(len(line.values) for line in drawn)
        ends: list[tuple[float, str, str]] = []
        for line, colour in zip(drawn, _colours(drawn), strict=True):
            if line.values:
                style: DrawStyleType = "steps-post" if stepped else "default"
                _draw_line(axes, line, colour, style, rasterized=points > _VECTOR_POINTS_MAX)
                if line.marked or colour != FAINT:
                    ends.append((line.values[-1], _fitting(line.name, width_in), colour))
        for name, value in (references or {}).items():
            axes.axhline(value, color=INK, linestyle=(0, (4, 3)), linewidth=1.1)
            ends.append((value, name, INK))
        if logarithmic:
            _logarithmic(axes)
        else:
            axes.ticklabel_format(axis="y", scilimits=(-6, 6))  # a credit has six decimals
        axes.margins(x=0.01)
        if lowest is not None and axes.get_ylim()[0] < lowest:
            axes.set_ylim(bottom=lowest)
            ends = [(max(value, lowest), name, colour) for value, name, colour in ends]
        _label_axes(axes, quantity, across)
        _name_ends(axes, ends)
        return _rendered(figure)


@dataclass(frozen=True, slots=True)
class Band:
    """A named line with what lies around it: all of one length, `low` and `high` its edges."""

    name: str
    across: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    marked: bool = False


def bands(
    drawn: Sequence[Band],
    quantity: str,
    *,
    across: str,
    references: Mapping[str, float] | None = None,
    width_in: float = WIDE_IN,
) -> bytes:
    """Lines in their bands, over what goes `across`, each named at its end; references are dashed
    horizontal lines."""
    with _canvas(width_in, 3.5) as (figure, axes):
        ends: list[tuple[float, str, str]] = []
        plain, warm = cycle(_PALETTE), cycle(_MARKED_PALETTE)
        for band in drawn:
            colour = next(warm if band.marked else plain)
            axes.fill_between(band.across, band.low, band.high, color=colour, alpha=0.18, lw=0)
            axes.plot(band.across, band.values, color=colour)
            ends.append((band.values[-1], _fitting(band.name, width_in), colour))
        for name, value in (references or {}).items():
            axes.axhline(value, color=INK, linestyle=(0, (4, 3)), linewidth=1.1)
            ends.append((value, name, INK))
        axes.margins(x=0.01)
        _label_axes(axes, quantity, across)
        _name_ends(axes, ends)
        return _rendered(figure)


@dataclass(frozen=True, slots=True)
class Bars:
    """A named row of intervals, (mean, low, high) each."""

    name: str
    spans: Sequence[tuple[float, float, float]]


def intervals(
    rows: Sequence[Bars],
    kinds: Sequence[str],
    quantity: str,
    references: Mapping[str, float],
    reach: float,
    width_in: float = WIDE_IN,
) -> bytes:
    """Means with their intervals, a row a name and a colour a kind, the first row at the top; what
    is beyond -`reach` to `reach` leaves the picture; references are dashed vertical lines, named in
    the legend."""
    with _canvas(width_in, 1.6 + 0.32 * len(rows)) as (figure, axes):
        for at, (kind, colour) in enumerate(
            zip(kinds, (FAINT, RECEIVED)[-len(kinds) :], strict=True)
        ):
            below = [row + 0.3 * at for row in range(len(rows))]
            means, lows, highs = np.array([row.spans[at] for row in rows]).reshape(-1, 3).T
            reaches = np.stack([means - lows, highs - means])
            reaches[~np.isfinite(reaches)] = 0.0
            axes.errorbar(
                means, below, xerr=reaches, fmt="o", color=colour, markersize=4, label=kind
            )
        for name, value in references.items():
            axes.axvline(value, color=INK, linestyle=(0, (4, 3)), linewidth=1.1, label=name)
        axes.axvline(0.0, color=FAINT, linewidth=0.8)
        axes.set_xlim(-1.05 * reach, 1.05 * reach)
        names = [_fitting(row.name, width_in) for row in rows]
        axes.set_yticks([row + 0.15 for row in range(len(rows))], names)
        axes.invert_yaxis()
        _label_axes(axes, quantity, "", whole=False)
        axes.legend(
            frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.06)
        )
        return _rendered(figure)


@dataclass(frozen=True, slots=True)
class Stretch:
    """From which round to which, in the row of that name, and of which kind."""

    row: str
    kind: str
    since: float
    until: float


def timeline(
    stretches: Sequence[Stretch],
    rows: Sequence[str],
    quantity: str,
    last: float,
    width_in: float = WIDE_IN,
) -> bytes:
    """Stretches of rounds in their rows, from 0 to `last`, the first row at the top: a colour a
    kind, and a lane of the row for each of its kinds. What has no length is as long as can be
    seen."""
    kinds = list(dict.fromkeys(stretch.kind for stretch in stretches))
    placed: dict[tuple[str, str], list[Stretch]] = {}
    for stretch in stretches:
        placed.setdefault((stretch.row, stretch.kind), []).append(stretch)
    lanes = {row: [kind for kind in kinds if (row, kind) in placed] for row in rows}
    with _canvas(width_in, 1.5 + 0.3 * len(rows)) as (figure, axes):
        axes.grid(visible=False, axis="y")
        colours = dict(zip(kinds, cycle((*_MARKED_PALETTE, *_PALETTE)), strict=False))
        for (row, kind), these in placed.items():
            height = 0.8 / len(lanes[row])
            middle = rows.index(row) - 0.4 + height * (lanes[row].index(kind) + 0.5)
            begins = [one.since for one in these]
            widths = [max(one.until - one.since, last / 150) for one in these]
            axes.barh([middle] * len(these), widths, height, begins, color=colours[kind])
        for kind, colour in colours.items():
            axes.barh([0], [0], color=colour, label=kind)
        axes.set_yticks(range(len(rows)), [_fitting(row, width_in) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, last)
        _label_axes(axes, quantity, "round")
        figure.legend(
            loc="outside lower center", ncols=max(1, int(width_in)), frameon=False, fontsize=8
        )
        return _rendered(figure)


def histogram(
    values: Sequence[float],
    quantity: str,
    of: str,
    references: Mapping[str, float],
    width_in: float = WIDE_IN,
) -> bytes:
    """How many (`of` what) lie where; references are dashed vertical lines, named in a legend."""
    with _canvas(width_in, 3.0) as (figure, axes):
        from matplotlib.ticker import MaxNLocator

        axes.hist(values, bins=_BINS, color=RECEIVED, edgecolor="white", linewidth=0.5)
        for (name, at), colour in zip(references.items(), cycle(_MARKED_PALETTE), strict=False):
            axes.axvline(at, color=colour, linestyle=(0, (4, 3)), linewidth=1.4, label=name)
        _label_axes(axes, f"number of {of}", quantity, whole=False)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if references:
            axes.legend(frameon=False)
        return _rendered(figure)


def heat_map(
    values: Mapping[tuple[str, str], float],
    rows: Sequence[str],
    columns: Sequence[str],
    marked: Collection[tuple[str, str]],
    width_in: float = WIDE_IN,
) -> bytes:
    """Values by (row, column) as shades with their numbers, the darker the higher; those `marked`
    are framed. In a narrow picture the numbers have no room and are left out."""
    table = np.array([[values.get((row, column), math.nan) for column in columns] for row in rows])
    roomy = width_in / (len(columns) + 3) > _CELL_IN
    with _canvas(width_in, 1.4 + 0.3 * len(rows)) as (figure, axes):
        axes.grid(visible=False)
        axes.imshow(table, aspect="auto", cmap=_SHADES, vmin=min(0.0, np.nanmin(table)))
        bright = np.nanmax(table) / 2
        shown = _two_digits if np.nanmax(table) <= 1 else "{:.3g}".format
        for at, row in enumerate(rows):
            for along, column in enumerate(columns):
                value = table[at, along]
                if (row, column) in marked:
                    edge: dict[str, Any] = {
                        "fill": False,
                        "edgecolor": _MARKED_PALETTE[0],
                        "linewidth": 2.0,
                    }
                    axes.add_patch(_square(along, at, **edge))
                if roomy and math.isfinite(value):
                    colour = "white" if value > bright else INK
                    size: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5}
                    axes.text(along, at, shown(value), color=colour, **size)
        axes.set_yticks(range(len(rows)), [_fitting(row, width_in) for row in rows], fontsize=8)
        turned: dict[str, Any] = {
            "rotation": 45,
            "ha": "right",
            "rotation_mode": "anchor",
            "fontsize": 8,
        }
        axes.set_xticks(range(len(columns)), list(columns), **turned)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _rendered(figure)


def _two_digits(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")


def _square(column: int, row: int, **look: Any) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, **look)


def payment_graph(
    graph: "nx.Graph[str]",
    balances: Mapping[str, int],
    payments: Sequence[tuple[str, str, int]],
    marks: Mapping[str, str],
    width_in: float = WIDE_IN,
) -> bytes:
    """The graph with arrows from payer to receiver; `balances` and `payments` in micro-credits,
    `marks` name the nodes that stand out."""
    with _canvas(width_in, min(5.0, width_in)) as (figure, axes):
        positions = _placed(axes, graph)
        labelled = int(_LABELLED_AN_INCH * width_in)
        _draw_edges(axes, positions, graph.edges, payments, labelled)
        scale = max((abs(balance) for balance in balances.values()), default=0) or 1
        sides = _free_sides(positions)
        for node, position in positions.items():
            balance = balances.get(node, 0)
            share = math.copysign(math.sqrt(abs(balance) / scale), balance)  # small ones show too
            _draw_node(axes, position, share, marked=node in marks)
            mark = marks.get(node)
            if len(positions) <= 2 * labelled or mark:
                shown = balance if len(positions) <= labelled or mark else None
                _label_node(axes, position, sides[node], node, shown, mark)
        axes.margins(0.16)
        return _rendered(figure)


def topology_graph(graph: "nx.Graph[str]", marks: Collection[str], form: ImageForm) -> bytes:
    """The graph alone; `marks` name the weak points. Of large graphs these alone have names, unless
    they are too many to read."""
    from matplotlib.collections import LineCollection

    with _canvas(7.4, 7.4) as (figure, axes):
        positions = _placed(axes, graph)
        crowded = len(positions) > _LABELLED_NODES_MAX
        ends = [(positions[u], positions[v]) for u, v in graph.edges]
        width = 0.4 if crowded else 1.0
        axes.add_collection(LineCollection(ends, colors=FAINT, linewidths=width, zorder=1))
        weak = ("weak point: without it the graph falls apart", PAID, "D")
        for marked, (kind, colour, marker) in enumerate((("agent", RECEIVED, "o"), weak)):
            places = [at for node, at in positions.items() if (node in marks) == marked]
            if places:
                across, up = zip(*places, strict=True)
                size = 24 if crowded else 130
                axes.scatter(across, up, s=size, c=colour, marker=marker, label=kind, zorder=2)
        named = {n: s for n, s in _free_sides(positions).items() if not crowded or n in marks}
        if len(named) <= _NAMED_NODES_MAX:
            for node, side in named.items():
                _label(axes, node, positions[node], side, 10)
        axes.margins(0.08)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return _rendered(figure, form)


@contextmanager
def _canvas(width_in: float, height_in: float) -> "Iterator[tuple[Figure, Axes]]":
    require()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A figure of its own, outside pyplot: no window, no backend, no global state.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, figure.add_subplot()


def _rendered(figure: "Figure", form: ImageForm = "svg") -> bytes:
    out = io.BytesIO()
    # No date, no version: the same numbers give the same bytes.
    metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
    # Saving would draw the whole figure once more to lay it out, which takes as long again.
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    figure.savefig(out, format=form, dpi=150, transparent=form == "svg", metadata=metadata)
    return out.getvalue()


def _fitting(name: str, width_in: float) -> str:
    longest = int(_LETTERS_AN_INCH * width_in)
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _finite(line: Line) -> Line:
    kept = [at for at, value in enumerate(line.values) if math.isfinite(value)]
    return replace(
        line,
        rounds=[line.rounds[at] for at in kept],
        values=[line.values[at] for at in kept],
        band=[line.band[at] for at in kept] if line.band else (),
    )


def _colours(lines: Sequence[Line]) -> list[str]:
    """Warm colours for the marked lines, cool ones for the others while they can be told apart."""
    marked = cycle(_MARKED_PALETTE)
    plain = iter(_PALETTE) if len(lines) <= NAMED_LINES_MAX else repeat(FAINT)
    return [next(marked) if line.marked else next(plain) for line in lines]


def _broken(line: Line) -> tuple[Sequence[float], Sequence[float]]:
    """A line with a gap where many rounds are missing, as of an agent that was away."""
    if len(line.rounds) < 2:
        return line.rounds, line.values
    steps = np.diff(line.rounds)
    after = np.flatnonzero(steps > _GAP * np.median(steps)) + 1
    rounds = np.insert(np.asarray(line.rounds, dtype=np.float64), after, np.nan)
    return rounds.tolist(), np.insert(np.asarray(line.values), after, np.nan).tolist()


def _draw_line(
    axes: "Axes", line: Line, colour: str, style: "DrawStyleType", *, rasterized: bool
) -> None:
    if line.band:
        lows, highs = zip(*line.band, strict=True)
        axes.fill_between(line.rounds, lows, highs, color=colour, alpha=0.15, linewidth=0)
    rounds, values = (line.rounds, line.values) if style == "steps-post" else _broken(line)
    axes.plot(
        rounds,
        values,
        color=colour,
        drawstyle=style,
        linewidth=2.4 if line.marked else 0.8 if colour == FAINT else 1.5,
        alpha=0.6 if colour == FAINT else 1.0,
        marker="o" if len(line.values) == 1 else None,
        zorder=3 if line.marked else 2,
        rasterized=rasterized,
    )


def _label_axes(axes: "Axes", quantity: str, across: str, *, whole: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    inches = axes.bbox.width / axes.figure.dpi
    axes.set_title(textwrap.fill(quantity, int(14 * inches)), loc="left", fontsize=9.5, pad=8)
    axes.set_xlabel(across)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0)


def _logarithmic(axes: "Axes") -> None:
    """Plain numbers; of few decades 1, 2 and 5. Those of matplotlib are mark-up, which is off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = math.log10(high / low) < 3
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _name_ends(axes: "Axes", ends: Sequence[tuple[float, str, str]]) -> None:
    """Names right of the lines' ends, moved apart so that none covers another."""
    x, _ = axes.get_xlim()[1], axes.get_ylim()  # asked for, both limits are brought up to date
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, value))[1]) for value, _, _ in ends]
    for (_, name, colour), height, at in zip(ends, heights, _spread(heights, 0.052), strict=True):
        axes.annotate(
            name,
            xy=(1.0, height),
            xytext=(1.04, at),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=8.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights at least `gap` apart, in the same order: names that would overlap are spread around
    their common centre, the others stay where they are."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[tuple[list[int], float]] = []  # members from below, and the centre they share
    for index in order:
        members, centre = [index], heights[index]
        while groups and centre - groups[-1][1] < gap * (len(members) + len(groups[-1][0])) / 2:
            members = groups.pop()[0] + members
            centre = sum(heights[member] for member in members) / len(members)
        groups.append((members, centre))
    moved = list(heights)
    for members, centre in groups:
        for place, member in enumerate(members):
            moved[member] = centre + gap * (place - (len(members) - 1) / 2)
    return moved


def _placed(axes: "Axes", graph: "nx.Graph[str]") -> dict[str, Point]:
    axes.axis("off")
    axes.set_aspect("equal")
    return positions_of(graph)


def positions_of(graph: "nx.Graph[str]") -> dict[str, Point]:
    """Node positions about the origin; the same graph is always drawn the same way."""
    import networkx as nx

    if (lattice := _lattice(graph)) is not None:
        return lattice
    circle = nx.circular_layout(graph)
    ring_like = all(degree <= 2 for _, degree in graph.degree)
    complete = nx.density(graph) == 1.0
    if ring_like or complete or len(graph) <= 3:
        # From the top, clockwise.
        turned = {node: (at[1], at[0]) for node, at in circle.items()}
        return {node: (float(x), float(y)) for node, (x, y) in turned.items()}
    if len(graph) <= 60 and nx.is_connected(graph):
        found = nx.kamada_kawai_layout(graph, pos=circle)
    else:
        found = nx.spring_layout(graph, pos=circle, seed=0, iterations=60)
    centre = np.mean(list(found.values()), axis=0)
    return {
        node: (float(x), float(y)) for node, (x, y) in ((n, p - centre) for n, p in found.items())
    }


def _lattice(graph: "nx.Graph[str]") -> dict[str, Point] | None:
    """Rows and columns of what `candor topology` draws as a grid or a torus, its agents in order;
    None for other graphs. Rows and columns of a torus are bent, so that an edge around does not
    cover those that it passes."""
    nodes = list(graph)
    agents = len(nodes)
    rows = next((r for r in range(math.isqrt(agents), 1, -1) if agents % r == 0), 0)
    if rows == 0 or agents == 4:  # drawn as a ring
        return None
    columns = agents // rows
    inner = {(i, i + 1) for i in range(agents) if (i + 1) % columns}
    inner |= {(i, i + columns) for i in range(agents - columns)}
    around = {(i, i + columns - 1) for i in range(0, agents, columns)}
    around |= {(i, i + agents - columns) for i in range(columns)}
    place = {node: i for i, node in enumerate(nodes)}
    edges = {(min(place[u], place[v]), max(place[u], place[v])) for u, v in graph.edges}
    if edges not in (inner, inner | around):
        return None
    bend = 0.0 if edges == inner else 0.6  # of the distance of two rows, at both ends
    right, top = (columns - 1) / 2, (rows - 1) / 2
    places = ((i % columns - right, top - i // columns) for i in range(agents))
    bent = ((x - bend * (y / top) ** 2, y + bend * (x / right) ** 2) for x, y in places)
    return dict(zip(nodes, bent, strict=True))


def _draw_edges(
    axes: "Axes",
    positions: Mapping[str, Point],
    edges: Iterable[tuple[str, str]],
    payments: Sequence[tuple[str, str, int]],
    edges_labelled_max: int,
) -> None:
    for u, v in edges:
        axes.plot(*zip(positions[u], positions[v], strict=True), color="#c9d0d6", lw=1.0, zorder=1)
    largest = max((amount for _, _, amount in payments), default=1)
    for payer, receiver, amount in payments[:_ARROWS_MAX]:
        start, end = positions[payer], positions[receiver]
        width = 0.8 + 2.6 * math.sqrt(amount / largest)
        axes.annotate(
            "",
            xy=end,
            xytext=start,
            arrowprops={
                "arrowstyle": "-|>,head_width=0.28,head_length=0.5",
                "color": "#6b7680",
                "lw": width,
                "shrinkA": 10,
                "shrinkB": 11,
                "mutation_scale": 12,
            },
            zorder=1.5,
        )
        if len(payments) <= edges_labelled_max:
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            _text(axes, middle, _short(amount), size=7.5, colour="#4a5560")


def _draw_node(axes: "Axes", position: Point, share: float, *, marked: bool) -> None:
    """`share` sets the colour, from -1 for the most paid to 1 for the most received."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("balance", [PAID, EVEN, RECEIVED])
    axes.scatter(
        *position,
        s=260,
        color=[colours(0.5 + share / 2)],
        edgecolors=INK,
        linewidths=2.6 if marked else 0.9,
        marker="D" if marked else "o",
        zorder=2,
    )


def _free_sides(positions: Mapping[str, Point]) -> dict[str, Point]:
    """For each node the unit vector to the side on which a label meets the fewest others."""
    extent = max((math.hypot(*at) for at in positions.values()), default=1.0) or 1.0
    reach = 0.22 * extent
    taken = list(positions.values())
    sides: dict[str, Point] = {}
    for node, (x, y) in positions.items():
        outward = math.atan2(y, x)
        angles = [outward + step * math.pi / 8 for step in range(16)]  # outward wins a tie

        def room(angle: float, x: float = x, y: float = y) -> float:
            at = (x + reach * math.cos(angle), y + reach * math.sin(angle))
            nearest = min(math.dist(at, other) for other in taken)
            return round(min(nearest, reach), 6)

        best = max(angles, key=room)
        sides[node] = (math.cos(best), math.sin(best))
        taken.append((x + reach * math.cos(best), y + reach * math.sin(best)))
    return sides


def _label_node(
    axes: "Axes", position: Point, side: Point, node: str, balance: int | None, mark: str | None
) -> None:
    """The name, and the balance if given, beside the node, on the given side."""
    amount = None if balance is None else _short(balance, signed=True)
    lines = [line for line in (node, amount, mark) if line]
    _label(
        axes,
        "\n".join(lines),
        position,
        side,
        14,
        fontsize=8.5,
        linespacing=1.25,
        fontweight="bold" if mark else "normal",
    )


def _label(
    axes: "Axes", text: str, position: Point, side: Point, apart: float, **style: Any
) -> None:
    """Text beside a point, so many points `apart`."""
    across, up = side
    axes.annotate(
        text,
        xy=position,
        xytext=(apart * across, apart * up),
        textcoords="offset points",
        ha="left" if across > 0.35 else "right" if across < -0.35 else "center",
        va="bottom" if up > 0.5 else "top" if up < -0.5 else "center",
        zorder=1.9,  # over the edges, under the nodes
        bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
        **style,
    )


def _text(axes: "Axes", at: Point, text: str, *, size: float, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.9}
    axes.text(*at, text, fontsize=size, color=colour, ha="center", va="center", bbox=box, zorder=3)


def _short(micro_credits: int, *, signed: bool = False) -> str:
    """Credits to three significant digits, for a drawing; the tables have them all."""
    return np.format_float_positional(
        micro_credits / 1e6, precision=3, fractional=False, trim="-", sign=signed
    )
