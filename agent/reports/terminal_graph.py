"""A small graph drawn with characters: dotted edges between the names of agents."""

from typing import TYPE_CHECKING

from candor.agent.reports.charts import Point, positions_of

if TYPE_CHECKING:
    import networkx as nx

AGENTS_MAX, EDGES_MAX = 24, 48  # more would be a grey rectangle
_WIDTH, _HEIGHT = 72, 23


def fits(graph: "nx.Graph[str]") -> bool:
    """Whether a drawing of the graph would show anything."""
    return 1 < len(graph) <= AGENTS_MAX and graph.number_of_edges() <= EDGES_MAX


def drawn(graph: "nx.Graph[str]") -> list[str]:
    """The lines of a drawing, at most 72 by 23 characters; long names are cut."""
    cells = _cells(positions_of(graph))
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for u, v in graph.edges:
        (x0, y0), (x1, y1) = cells[u], cells[v]
        # Characters are twice as high as wide, so dots every second column look even.
        steps = max(abs(x1 - x0) // 2, abs(y1 - y0), 1)
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            canvas[round(y)][round(x)] = "·"
    for name, (x, y) in cells.items():
        shown = f" {name[:10]} "
        start = min(max(0, x - len(shown) // 2), _WIDTH - len(shown))
        canvas[y][start : start + len(shown)] = shown
    lines = ["".join(row).rstrip() for row in canvas]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _cells(positions: dict[str, Point]) -> dict[str, tuple[int, int]]:
    """Column and row of each node: the drawing stretched over the canvas, up is up."""
    xs, ys = zip(*positions.values(), strict=True)
    left, bottom = min(xs), min(ys)
    width, height = max(xs) - left, max(ys) - bottom

    def place(value: float, low: float, extent: float, most: int) -> int:
        # A side without extent, as of two agents, lies in the middle.
        return round((value - low) / extent * most) if extent > 1e-9 else most // 2

    return {
        name: (
            place(x, left, width, _WIDTH - 1),
            _HEIGHT - 1 - place(y, bottom, height, _HEIGHT - 1),
        )
        for name, (x, y) in positions.items()
    }
