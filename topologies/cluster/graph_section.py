"""The `[graph]` of a cluster file, made from the spec of a graph or schedule and a mixing.

The one way from what a user writes to what the file says: for a first file, `settings_of` a
schedule whose agents were `placed`; for the next revision, `redrawn`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import networkx as nx

from candor.topologies.graphs import graphs
from candor.topologies.mixing import matrices
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.schedules import schedules
from candor.topologies.schedules.round_weights import GIVEN, SUM_TOLERANCE, GraphSettings
from candor.topologies.schedules.schedules import Schedule
from candor.topologies.specs.fields import Edge
from candor.topologies.specs.specs import ConfigurationError, located
from candor.topologies.specs.tables import suffix

if TYPE_CHECKING:
    Graph = nx.Graph[str]

SOURCE_CHARS_MAX = 500  # of `topology`: the end of a long path


def draw(spec: str, ids: Sequence[str], seed: int) -> Schedule:
    """The schedule of a spec on these agents: a file knows them by name, in a family they take
    their places in order.

    Raises:
        ConfigurationError: no such schedule, or another number of agents.
    """
    return schedules.placed(schedules.build(spec, len(ids), seed), ids)


def settings_of(
    schedule: Schedule, ids: Sequence[str], mixing_spec: str | None = None
) -> GraphSettings:
    """What a cluster file whose agents, in order, are `ids` says of a schedule on them.

    `mixing_spec` is the name of a rule or a file with a matrix, rows in the order of the schedule's
    agents; None stands for the schedule's own, which is push-sum on directed graphs.

    Raises:
        ConfigurationError: other agents than the schedule's, or a mixing that does not fit.
    """
    if set(ids) != set(schedule.agents):
        odd = sorted(set(ids).symmetric_difference(schedule.agents))[0]
        where = "has keys but is not in the topology" if odd in ids else "has no keys"
        raise ConfigurationError(f"agent {odd!r} {where}")
    name = mixing_spec or (PUSH_SUM if schedule.push_sum else schedule.mixing)
    kind = schedule.rule.partition(":")[0]
    union = schedule.neighbours()
    edges = graphs.sorted_edges(graphs.make_graph(ids, union.edges))  # in one order, whatever its
    turns: list[tuple[Edge, ...]] = []
    if kind in (schedules.TURNS, schedules.ARCS):
        rounds = range(1, (schedule.period or 1) + 1)
        turns = [tuple((u, v) for u, v in schedule.graph(t).edges) for t in rounds]
    weights: list[tuple[float, float]] = []
    if schedule.push_sum:
        mixing.check_directed(name, schedule.spec)
    if name not in (*mixing.WEIGHTS, PUSH_SUM):
        _check_in_file(name, schedule.spec, kind)
        weights = _weights(name, union, edges)
        name = name if name in mixing.RULES else GIVEN
    return GraphSettings(
        topology=schedule.spec[-SOURCE_CHARS_MAX:],
        mixing=name,
        schedule=schedule.rule,
        edges=tuple(edges),
        turns=tuple(turns),
        weights=tuple(weights),
    )


def redrawn(
    present: GraphSettings,
    before: Sequence[str],
    ids: Sequence[str],
    seed: int,
    *,
    topology: str | None = None,
    mixing_spec: str | None = None,
) -> GraphSettings:
    """The graph of the agents `ids`, who follow those of `before` with the graph `present`.

    The spec that gave `present` is drawn for them, or the one of `topology`; mixing stays what it
    was, but that a directed graph brings push-sum along. Where nothing changes, nothing is drawn.
    A file or a function is used where `topology` names it, never where `present` does: a cluster
    file is data, and may be of somebody else.

    Raises:
        ConfigurationError: `present` is not what its spec gives, or new graph and mixing do not
            fit; says which option mends it.
    """
    if topology is None and mixing_spec is None and tuple(ids) == tuple(before):
        return present
    if topology is not None:
        schedule = draw(topology, ids, seed)
    else:
        schedule = _drawn_again(present, before, ids, seed)
    if mixing_spec is None and present.mixing == GIVEN and not schedule.push_sum:
        raise ConfigurationError(
            "the mixing matrix was given for the graph before; give another with --mixing NAME|FILE"
        )
    kept = PUSH_SUM if schedule.push_sum else present.mixing
    return settings_of(schedule, ids, mixing_spec or kept)


def _drawn_again(
    present: GraphSettings, before: Sequence[str], ids: Sequence[str], seed: int
) -> Schedule:
    spec, who = present.topology, f"{len(ids)} agents"
    hint = "; give one with --topology SPEC|FILE"
    with located(f"the graph cannot be drawn again for {who}", hint):
        if not schedules.is_built_in(spec):
            raise ConfigurationError(
                f"it was made from {spec!r}, and what a cluster file names is neither read nor run"
            )
        if _rounds(settings_of(draw(spec, before, seed), before, PUSH_SUM)) != _rounds(present):
            raise ConfigurationError(f"the edges were listed by hand, {spec!r} does not give them")
        return draw(spec, ids, seed)


def _rounds(graph: GraphSettings) -> object:
    """What decides the graph of every round, whatever order its edges are written in."""
    directed = graph.schedule == schedules.ARCS
    edges = frozenset(map(frozenset, graph.edges))
    turns = [frozenset(turn if directed else map(frozenset, turn)) for turn in graph.turns]
    return graph.schedule, edges, turns


def _check_in_file(name: str, spec: str, kind: str) -> None:
    """Check that there is such a mixing whose weights stand in the file, and that it fits."""
    if name not in mixing.RULES and suffix(name) not in matrices.ENDINGS:
        known = ", ".join((*mixing.RULES, PUSH_SUM))
        raise ConfigurationError(f"unknown mixing {name!r}; known: {known}, or a .csv or .npy file")
    if kind not in (schedules.FIXED, schedules.FAILING):
        raise mixing.one_graph_only(name, spec)


def _weights(name: str, graph: "Graph", edges: Sequence[Edge]) -> list[tuple[float, float]]:
    """Of each edge the weights of its two ends, from a rule or a file."""
    matrix = matrices.resolve(name, graph).tolil()
    matrix.setdiag(0.0)
    # A matrix is exact to some digits: a row above 1 would leave less than nothing to its agent.
    scale = max(1.0, float(matrix.sum(axis=1).max()) * (1 + SUM_TOLERANCE))
    place = {agent: i for i, agent in enumerate(graph)}
    by_place = [(place[u], place[v]) for u, v in edges]
    return [(float(matrix[i, j]) / scale, float(matrix[j, i]) / scale) for i, j in by_place]
