"""A drawing in characters: within its bounds, every agent named, every edge dotted."""

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.reports.terminal_graph import AGENTS_MAX, drawn, fits
from candor.topologies.graphs import graphs


@given(st.integers(2, AGENTS_MAX), st.integers(0, 100))
def test_a_drawing_stays_within_bounds(agents: int, seed: int) -> None:
    lines = drawn(graphs.build("erdos-renyi:p=0.3", agents, seed))
    assert len(lines) <= 23
    assert all(len(line) <= 72 and line == line.rstrip() for line in lines)


@pytest.mark.parametrize("spec", ["ring", "star", "torus", "binary-tree", "hypercube"])
def test_every_agent_is_named(spec: str) -> None:
    words = " ".join(drawn(graphs.build(spec, 16))).replace("·", " ").split()
    assert sorted(words) == sorted(f"a{i}" for i in range(16))


def test_two_agents_and_long_names() -> None:
    lines = drawn(graphs.relabelled(graphs.build("ring", 2), ["x" * 32, "y" * 32]))
    assert "x" * 10 in "".join(lines)
    assert "x" * 11 not in "".join(lines)


def test_what_would_show_nothing_does_not_fit() -> None:
    assert fits(graphs.build("ring", AGENTS_MAX))
    assert not fits(graphs.build("ring", AGENTS_MAX + 1))
    assert not fits(graphs.build("complete", 11))
    assert not fits(nx.empty_graph(1))
