"""The drawings: names that do not cover each other, and the same bytes for the same numbers."""

import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.reports.charts import (
    NAMED_LINES_MAX,
    NARROW_IN,
    WIDE_IN,
    Line,
    Stretch,
    _broken,
    _colours,
    _spread,
    histogram,
    lines_by_round,
    positions_of,
    require,
    timeline,
    topology_graph,
)
from candor.agent.reports.charts import payment_graph as draw_graph
from candor.topologies.graphs import graphs
from candor.topologies.specs.specs import ConfigurationError

_heights = st.lists(st.floats(-2, 2), max_size=12)


@given(heights=_heights)
def test_names_are_spread_apart_and_keep_their_order(heights: list[float]) -> None:
    moved = _spread(heights, 0.05)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    steps = [moved[above] - moved[below] for below, above in pairwise(order)]
    assert all(step >= 0.05 - 1e-9 for step in steps)
    assert sum(moved) == pytest.approx(sum(heights), abs=1e-9)


def test_names_with_room_stay_where_they_are() -> None:
    assert _spread([0.5, 0.1, 0.9], 0.05) == [0.5, 0.1, 0.9]


@pytest.mark.parametrize("count", [1, NAMED_LINES_MAX, NAMED_LINES_MAX + 1, 200])
def test_marked_lines_never_share_a_colour_with_the_others(count: int) -> None:
    lines = [Line(str(i), [1], [1.0], marked=i % 5 == 0) for i in range(count)]
    colours = _colours(lines)
    assert len(colours) == count
    marked = {colour for line, colour in zip(lines, colours, strict=True) if line.marked}
    assert marked.isdisjoint(
        colour for line, colour in zip(lines, colours, strict=True) if not line.marked
    )


def test_values_without_a_finite_number_are_left_out_of_a_line() -> None:
    with_gap = Line("a0", [1, 2, 3], [1.0, float("nan"), 3.0])
    without = Line("a0", [1, 3], [1.0, 3.0])
    assert lines_by_round([with_gap], "loss") == lines_by_round([without], "loss")


def test_a_line_is_broken_where_its_agent_was_away() -> None:
    rounds = [*range(1, 11), *range(60, 71)]
    away = _broken(Line("a0", rounds, [1.0] * len(rounds)))
    assert [math.isnan(value) for value in away[1]].index(True) == 10
    assert len(away[0]) == len(rounds) + 1
    for steady in ([], [3], [1, 2], [8, 16, 24, 28], [1, 2, 4, 5, 7]):
        assert _broken(Line("a0", steady, [1.0] * len(steady))) == (steady, [1.0] * len(steady))


def test_a_drawing_is_svg_and_takes_dollar_signs_literally() -> None:
    drawing = lines_by_round([Line("$a_0", [1, 2], [1.0, 2.0])], "a $ b $ c")
    assert ElementTree.fromstring(drawing).tag.endswith("svg")


@pytest.mark.parametrize("width_in", [WIDE_IN, NARROW_IN])
@pytest.mark.parametrize("top", [2.0, 30.0, 4e6])
def test_a_logarithmic_axis_has_plain_numbers(top: float, width_in: float) -> None:
    line = Line("a0", [1, 2], [0.9, top])
    drawing = lines_by_round([line], "norm", logarithmic=True, width_in=width_in).decode()
    # Each text is followed, in a comment, by what it says.
    said = re.findall(r"<!-- (.*?) -->", drawing)
    assert "1" in said
    assert "1000" in said or top < 1000
    assert not any("mathdefault" in text or "$" in text for text in said)


def test_a_long_title_is_wrapped_where_the_chart_is_narrow() -> None:
    line, title = Line("a0", [1, 2], [1.0, 2.0]), "distance of the models from their mean (rms)"
    wide, narrow = (
        lines_by_round([line], title, width_in=inches).decode() for inches in (WIDE_IN, NARROW_IN)
    )
    assert f"<!-- {title} -->" in wide
    assert f"<!-- {title} -->" not in narrow


def test_without_matplotlib_there_is_one_line_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    require()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (require, lambda: lines_by_round([Line("a0", [1], [1.0])], "loss")):
        with pytest.raises(ConfigurationError, match=r"pip install 'candor\[report\]'"):
            draw()


@pytest.mark.parametrize("width_in", [WIDE_IN, NARROW_IN])
def test_a_timeline_names_its_rows_and_kinds_and_shows_what_has_no_length(width_in: float) -> None:
    stretches = [
        Stretch("a0", "kill", 3, 9),
        Stretch("a0", "slow", 5, 12),
        Stretch("a1", "kill", 0, 1),
        Stretch("a1", "restart", 7, 7),
    ]
    drawing = timeline(stretches, ["a0", "a1"], "what was done", 20, width_in=width_in).decode()
    said = re.findall(r"<!-- (.*?) -->", drawing)
    assert {"a0", "a1", "kill", "slow", "restart", "what was done", "round"} <= set(said)
    moved = [*stretches[:3], Stretch("a1", "restart", 8, 8)]
    assert timeline(moved, ["a0", "a1"], "what was done", 20, width_in=width_in).decode() != drawing


def test_a_histogram_is_svg_and_the_same_for_the_same_values() -> None:
    first, again, other = (
        histogram([0.1, 0.2, *rest], "pays", "writers", {"most": 0.3}) for rest in ((), (), (0.4,))
    )
    assert first == again != other
    assert ElementTree.fromstring(first).tag.endswith("svg")


@pytest.mark.parametrize(
    "graph",
    [
        nx.cycle_graph(8),
        nx.complete_graph(5),
        nx.star_graph(6),
        nx.grid_2d_graph(3, 4),
        nx.empty_graph(1),
        nx.empty_graph(4),
        nx.gnp_random_graph(80, 0.05, seed=1),
    ],
    ids=["ring", "complete", "star", "grid", "one", "disconnected", "large"],
)
def test_every_graph_has_a_place_for_each_node(graph: "nx.Graph[object]") -> None:
    named: nx.Graph[str] = nx.relabel_nodes(graph, {node: str(node) for node in graph})
    positions = positions_of(named)
    assert list(positions) == list(named)
    assert len(set(positions.values())) == len(named)


@pytest.mark.parametrize(("agents", "rows"), [(6, 2), (9, 3), (12, 3), (35, 5), (100, 10)])
def test_grids_and_tori_are_drawn_in_rows_and_columns(agents: int, rows: int) -> None:
    columns = agents // rows
    flat = positions_of(graphs.build("grid", agents))
    assert [round(y, 9) for _, y in flat.values()] == [
        rows / 2 - 0.5 - i // columns for i in range(agents)
    ]
    around = positions_of(graphs.build("torus", agents))
    assert all(math.dist(around[a], flat[a]) <= 0.6 * math.sqrt(2) + 1e-9 for a in flat)
    # An edge around passes beside the agents between its ends.
    first, last = around["a0"], around[f"a{columns - 1}"]
    assert first[1] == last[1]
    assert all(first[1] - around[f"a{i}"][1] > 0.05 for i in range(1, columns - 1))


def test_a_torus_with_other_names_or_one_edge_more_is_told_apart() -> None:
    torus = graphs.build("torus", 12)
    named = graphs.relabelled(torus, [f"host{i}" for i in range(12)])
    assert list(positions_of(named).values()) == list(positions_of(torus).values())
    torus.add_edge("a0", "a6")
    assert list(positions_of(torus).values()) != list(positions_of(named).values())


def test_a_topologys_drawing_has_a_legend_of_what_is_in_it() -> None:
    star, ring = graphs.build("star", 4), graphs.build("ring", 4)
    with_legend, without = (topology_graph(g, ["a0"], "svg") for g in (star, ring))
    assert ElementTree.fromstring(with_legend).tag.endswith("svg")
    plain = topology_graph(star, [], "svg")
    assert plain.count(b'id="legend_1"') == with_legend.count(b'id="legend_1"') == 1
    assert with_legend.count(b"<use") > plain.count(b"<use")
    assert without != topology_graph(ring, [], "svg")


def test_a_graph_without_a_payment_is_drawn() -> None:
    graph: nx.Graph[str] = nx.Graph([("a0", "a1")])
    drawing = draw_graph(graph, {}, [], {})
    assert ElementTree.fromstring(drawing).tag.endswith("svg")


@pytest.mark.parametrize(
    ("agents", "width_in", "named", "told"),
    [(8, WIDE_IN, True, True), (30, WIDE_IN, True, False), (20, NARROW_IN, True, False),
     (30, NARROW_IN, False, False)],
)  # fmt: skip
def test_agents_are_labelled_as_far_as_there_is_room(
    agents: int, width_in: float, named: bool, told: bool
) -> None:
    graph = graphs.build("ring", agents)
    balances = {f"a{i}": 14 * (-1) ** i for i in range(agents)}
    drawing = draw_graph(graph, balances, [("a1", "a0", 14)], {"a3": "zero"}, width_in).decode()
    said = re.findall(r"<!-- (.*?) -->", drawing, re.DOTALL)
    assert any(text.startswith("a3") for text in said)
    assert "-0.000014" in drawing  # of a3, which stands out
    assert any(text.startswith("a0") for text in said) == named
    assert ("+0.000014" in drawing) == told
    assert "e-05" not in drawing
