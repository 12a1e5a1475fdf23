"""Graphs that change from round to round, from a spec, a number of agents and a seed alone.

Nothing is drawn from a generator with a state: what is random in round t is a hash of seed, t and
agents, so that every agent computes the same graph for any round, in any order, on any machine.
Rounds count from 1. Mixing over a window of rounds averages when the union of their graphs is
connected; every schedule's is, over its period or, where chance decides, over all that may come.

    one-peer-exponential                    round t: i sends to i + 2^(t - 1 mod log2 n)
    random-matching:base=ring               a random matching of the base's edges (default: any two)
    rotating:base=torus,parts=3             the base's edges in turns, every third in each round
    failing:base=ring,p=0.2                 the base's edges, each of which fails with probability p
    round-robin:ring + star + my.graphml    graphs in turns; a file may be in pieces by itself
    directed-ring                           i sends to i + 1
    directed-exponential                    i sends to i + 1, i + 2, i + 4, …
    directed-random:degree=3                i sends to i + 1 and to two others, drawn once
    ring, mine.toml, networkx:NAME          any spec of one graph, the same in every round; a file
                                            or a function may have a directed one
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import networkx as nx

from candor.topologies.graphs import generators, graphs
from candor.topologies.graphs.families import FAMILIES
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.consensus import column_stochastic
from candor.topologies.mixing.rules import DEFAULT_MIXING, PUSH_SUM
from candor.topologies.schedules.draws import any_pairs, drawn, matching, surviving
from candor.topologies.specs.fields import Edge
from candor.topologies.specs.specs import ConfigurationError, Scalar, located, parse_spec

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

    RoundGraph = nx.Graph[str] | nx.DiGraph[str]

Options: TypeAlias = Mapping[str, Scalar]

PARTS_MAX = 10_000
_ALL_PAIRS_AGENTS_MAX = 3000


FIXED, TURNS, ARCS = "fixed", "turns", "arcs"
PAIRS, MATCHING, FAILING = "pairs", "matching", "failing"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A graph a round on the same agents; `period` is None where chance decides.

    `rule` says how a cluster file tells the rounds apart, see `topologies.schedules.round_weights`.
    With `push_sum` the arcs of a round may be uneven, so that plain averaging would not keep the
    mean. `mixing` is the rule that a topology file asks for. With `named` the agents are those of a
    file. `base` is the graph whose edges take turns, are drawn or fail.
    """

    spec: str
    agents: tuple[str, ...]
    period: int | None
    union: "nx.Graph[str]"
    _graph: "Callable[[int], RoundGraph]"
    rule: str = TURNS
    push_sum: bool = False
    mixing: str = DEFAULT_MIXING
    named: bool = False
    base: str | None = None

    def graph(self, round: int) -> "RoundGraph":
        """The graph of a round from 1, all agents in order; an arc goes from giver to taker."""
        assert round >= 1
        return self._graph(round)

    def matrix(self, round: int, mixing_name: str = DEFAULT_MIXING) -> "csr_array[np.float64]":
        """The mixing matrix (agents, agents) of a round, agents in order.

        Doubly stochastic: weights of a rule on undirected graphs, by default one half each in a
        matching; one half for the one giver of a directed round. With `push_sum`, or where that is
        the mixing's name, its columns alone sum to one.

        Raises:
            ConfigurationError: no such rule.
        """
        graph = self.graph(round)
        if self.push_sum or mixing_name == PUSH_SUM:
            return column_stochastic(graph.to_directed())
        if isinstance(graph, nx.DiGraph):
            return _one_giver(graph, 0.25 if mixing.check_name(mixing_name) == "lazy" else 0.5)
        return mixing.sparse_matrix(mixing_name, graph, self.agents)

    def neighbours(self) -> "nx.Graph[str]":
        """Everyone whom an agent may mix in some round: `union`, but of pairs all agents."""
        if self.rule.partition(":")[0] != PAIRS:
            return self.union
        if len(self.agents) > _ALL_PAIRS_AGENTS_MAX:
            raise ConfigurationError(
                f"schedule {self.spec!r}: {len(self.agents)} agents have too many pairs; "
                "give it a base=GRAPH"
            )
        everyone: nx.Graph[str] = nx.complete_graph(self.agents)
        return everyone


def placed(schedule: Schedule, ids: Sequence[str]) -> Schedule:
    """The same schedule on the agents `ids`, who take its places a0, a1, … in order; where agents
    have names of their own, they are left alone. What chance decides is drawn anew in a cluster
    file, by the new names.

    Raises:
        ConfigurationError: another number of ids.
    """
    if schedule.named or schedule.agents != tuple(f"a{i}" for i in range(len(schedule.agents))):
        return schedule
    union = graphs.relabelled(schedule.union, ids)
    names = dict(zip(schedule.agents, ids, strict=True))

    def graph(round: int) -> "RoundGraph":
        return nx.relabel_nodes(schedule.graph(round), names)

    return replace(schedule, agents=tuple(ids), union=union, _graph=graph)


def build(spec: str, agents: int | None, seed: int = 0) -> Schedule:
    """The schedule of a spec; `agents` may be left to a spec that names a file.

    Raises:
        ConfigurationError: a bad spec or parameter, graphs of different agents, or a union of all
            rounds that is not connected.
    """
    spec = spec.strip()
    name = spec.partition(":")[0]
    if name in SCHEDULES:
        defaults, make = SCHEDULES[name]
        options = {"seed": seed} if defaults is None else _options(spec, defaults, seed)
        schedule = make(spec, agents, options)
        if "base" in options:
            schedule = replace(schedule, base=str(options["base"]))
    else:
        schedule = _static(spec, agents, seed)
    with located(f"schedule {spec!r}: over all its rounds"):
        graphs.check_connected(schedule.union)
    return schedule


def is_built_in(spec: str) -> bool:
    """Whether a spec names schedules and families of ours alone, no file and no function.

    Such a spec is data: drawing it opens nothing and runs nothing of anybody's, so that it may come
    out of a file.
    """
    name, _, rest = spec.strip().partition(":")
    if name == "round-robin":
        return all(_is_family(member.strip()) for member in rest.split(" + "))
    if name not in SCHEDULES:
        return _is_family(spec.strip())
    try:
        return _is_family(str(parse_spec(spec).options.get("base", "ring")))
    except ConfigurationError:
        return False


def _is_family(spec: str) -> bool:
    return spec.partition(":")[0] in FAMILIES and not graphs.is_file(spec)


def fixed(graph: "RoundGraph", spec: str = FIXED) -> Schedule:
    """The schedule of one connected graph; a directed one is for push-sum."""
    ids = tuple(graph)
    if isinstance(graph, nx.DiGraph):
        union = graphs.make_graph(ids, graph.edges)
        return Schedule(spec, ids, 1, union, lambda _: graph, rule=ARCS, push_sum=True)
    return Schedule(spec, ids, 1, graph, lambda _: graph, rule=FIXED)


def _static(spec: str, agents: int | None, seed: int) -> Schedule:
    found = fixed(graphs.build(spec, agents, seed, directed=True), spec)
    if not graphs.is_file(spec):
        return found
    path = spec.removeprefix(graphs.UNDIRECTED)
    if path.endswith(".toml"):  # which says where its graph is from, and how to mix
        source = graphs.load(path)
        known = is_built_in(source.topology)  # what else it says was never the user's own word
        found = replace(found, spec=source.topology if known else spec, mixing=source.mixing)
    return replace(found, named=True)


def _ids(spec: str, agents: int | None) -> list[str]:
    if agents is None or not 2 <= agents <= graphs.AGENTS_MAX:
        raise ConfigurationError(
            f"schedule {spec!r}: agents must be 2 to {graphs.AGENTS_MAX} (--agents N)"
        )
    return [f"a{i}" for i in range(agents)]


def _arcs(ids: Sequence[str], arcs: Iterable[Edge]) -> "nx.DiGraph[str]":
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(ids)
    graph.add_edges_from(arcs)
    return graph


def _shifted(ids: Sequence[str], hops: Iterable[int]) -> "nx.DiGraph[str]":
    """Everyone gives to whom comes so many places behind it around a ring."""
    ends = [(i, (i + hop) % len(ids)) for hop in hops for i in range(len(ids))]
    return _arcs(ids, ((ids[i], ids[j]) for i, j in ends))


def _directed_ring(spec: str, agents: int | None, _: Options) -> Schedule:
    return fixed(_shifted(_ids(spec, agents), [1]), spec)


def _directed_exponential(spec: str, agents: int | None, _: Options) -> Schedule:
    """The static exponential graph of Assran et al. (2019): all hops of the one-peer one at once.

    Kept directed: i sends to i + 2^k for all k with 2^k < n, so it hears from i - 2^k.
    """
    ids = _ids(spec, agents)
    return fixed(_shifted(ids, [1 << k for k in range((len(ids) - 1).bit_length())]), spec)


def _directed_random(spec: str, agents: int | None, options: Options) -> Schedule:
    """Everyone gives to the next around a ring, so that all are reached, and to others by hash."""
    ids, seed = _ids(spec, agents), seed_of(spec, options)
    degree = _whole("degree", spec, options, len(ids) - 1)
    if degree * len(ids) > generators.EDGES_MAX:
        raise ConfigurationError(
            f"schedule {spec!r}: more than {generators.EDGES_MAX} arcs; use a smaller degree"
        )
    arcs: list[Edge] = []
    for i, giver in enumerate(ids):
        hops = [1] + [2 + k for k in drawn(degree - 1, len(ids) - 2, seed, giver)]
        arcs += [(giver, ids[(i + hop) % len(ids)]) for hop in hops]
    return fixed(_arcs(ids, arcs), spec)


def _one_peer_exponential(spec: str, agents: int | None, _: Options) -> Schedule:
    """The one-peer exponential graph of Ying et al. (2021), as in `generators.exponential`.

    With n a power of two all agents hold the exact mean after log2 n rounds (their theorem 2).
    """
    ids = _ids(spec, agents)
    period = (len(ids) - 1).bit_length()

    def graph(round: int) -> "nx.DiGraph[str]":
        return _shifted(ids, [1 << ((round - 1) % period)])

    union = _union(ids, map(graph, range(1, period + 1)))
    return Schedule(spec, tuple(ids), period, union, graph, rule=ARCS)


def _base(spec: str, agents: int | None, options: Options) -> "tuple[nx.Graph[str], bool]":
    """The graph some of whose edges each round has, and whether its agents have their own names."""
    base = str(options["base"])
    return graphs.build(base, agents, seed_of(spec, options)), graphs.is_file(base)


def _random_matching(spec: str, agents: int | None, options: Options) -> Schedule:
    """Pairs of neighbours average, everyone in at most one: gossip of Boyd et al. (2006) in step.

    Edges are taken in the order of their hashes as long as both ends are free. Of the complete
    graph the agents themselves are put in such an order and paired off, which is as random.
    """
    seed = seed_of(spec, options)
    if options["base"] == "complete":
        ring = graphs.build("ring", agents)  # connected on the same agents, with few edges
        graph = partial(any_pairs, tuple(ring), seed)
        return Schedule(spec, tuple(ring), None, ring, graph, f"{PAIRS}:seed={seed}")
    base, named = _base(spec, agents, options)
    graph = partial(matching, tuple(base), graphs.sorted_edges(base), seed)
    return Schedule(spec, tuple(base), None, base, graph, f"{MATCHING}:seed={seed}", named=named)


def _rotating(spec: str, agents: int | None, options: Options) -> Schedule:
    """The edges of the base dealt round robin into `parts` subsets, which take turns."""
    parts = _whole("parts", spec, options, PARTS_MAX)
    base, named = _base(spec, agents, options)
    edges = graphs.sorted_edges(base)
    if parts > max(1, len(edges)):
        raise ConfigurationError(
            f"schedule {spec!r}: {len(edges)} edges do not fill {parts} parts; "
            f"use parts={max(1, len(edges))} or fewer"
        )

    def graph(round: int) -> "nx.Graph[str]":
        return graphs.make_graph(base, edges[(round - 1) % parts :: parts])

    return Schedule(spec, tuple(base), parts, base, graph, named=named)


def _failing(spec: str, agents: int | None, options: Options) -> Schedule:
    """Every edge of the base fails in a round with probability p, whatever the others do."""
    p, seed = chance_of(spec, options), seed_of(spec, options)
    base, named = _base(spec, agents, options)
    graph = partial(surviving, tuple(base), graphs.sorted_edges(base), p, seed)
    rule = f"{FAILING}:p={p!r},seed={seed}"
    return Schedule(spec, tuple(base), None, base, graph, rule, named=named)


def _round_robin(spec: str, agents: int | None, options: Options) -> Schedule:
    members = [member.strip() for member in spec.partition(":")[2].split(" + ")]
    if not all(members):
        raise ConfigurationError(
            f"schedule {spec!r}: expected round-robin:SPEC + SPEC + …, each a graph's spec or file"
        )
    seed = seed_of(spec, options)
    turns = [graphs.build(member, agents, seed, connected=False) for member in members]
    for member, graph in zip(members, turns, strict=True):
        if set(graph) != set(turns[0]):
            raise ConfigurationError(
                f"schedule {spec!r}: {member!r} has other agents than {members[0]!r}"
            )
    ids = tuple(turns[0])
    ordered = [graphs.make_graph(ids, graph.edges) for graph in turns]
    return Schedule(
        spec,
        ids,
        len(turns),
        _union(ids, ordered),
        lambda round: ordered[(round - 1) % len(ordered)],
        named=any(map(graphs.is_file, members)),
    )


def _union(ids: Sequence[str], rounds: "Iterable[RoundGraph]") -> "nx.Graph[str]":
    return graphs.make_graph(ids, (edge for graph in rounds for edge in graph.edges()))


def _one_giver(graph: "nx.DiGraph[str]", weight: float) -> "csr_array[np.float64]":
    """That weight for the one giver, the rest for oneself: a shift and the identity."""
    from scipy.sparse import csr_array

    index = {agent: i for i, agent in enumerate(graph)}
    giver = {index[v]: index[u] for u, v in graph.edges}
    agents = len(index)
    assert len(giver) == agents == graph.number_of_edges()
    everyone = list(range(agents))
    columns = [giver[i] for i in everyone] + everyone
    values = [weight] * agents + [1 - weight] * agents
    return csr_array((values, (everyone * 2, columns)), shape=(agents, agents))


def _options(spec: str, defaults: Options, seed: int) -> Options:
    parsed = parse_spec(spec)
    takes = ", ".join(defaults) or "nothing"
    if parsed.value is not None:
        raise ConfigurationError(f"schedule {spec!r}: write key=value; it takes {takes}")
    for key in parsed.options:
        if key not in defaults:
            raise ConfigurationError(f"schedule {spec!r}: unknown {key!r}; it takes {takes}")
    return {**defaults, "seed": seed, **parsed.options}


def _whole(name: str, spec: str, options: Options, most: int) -> int:
    number = options[name]
    if not isinstance(number, int) or not 1 <= number <= most:
        raise ConfigurationError(
            f"schedule {spec!r}: {name} must be a whole number from 1 to {most}, not {number!r}"
        )
    return number


def chance_of(spec: str, options: Options) -> float:
    """The chance `p` among the options of a spec; raises ConfigurationError."""
    p = options["p"]
    if not isinstance(p, int | float) or not 0 <= p < 1:
        raise ConfigurationError(
            f"schedule {spec!r}: p must be a number from 0 to below 1, not {p!r}"
        )
    return float(p)


def seed_of(spec: str, options: Options) -> int:
    """The `seed` among the options of a spec; raises ConfigurationError."""
    seed = options["seed"]
    if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise ConfigurationError(
            f"schedule {spec!r}: seed must be a whole number from 0 to 2^63 - 1, not {seed!r}"
        )
    return seed


# The options of each with their defaults, None where it has a grammar of its own, and what draws
# it; the seed is the run's unless it is given.
SCHEDULES: Mapping[str, tuple[Options | None, Callable[[str, int | None, Options], Schedule]]] = {
    "one-peer-exponential": ({}, _one_peer_exponential),
    "random-matching": ({"base": "complete", "seed": 0}, _random_matching),
    "rotating": ({"base": "complete", "parts": 2}, _rotating),
    "failing": ({"base": "ring", "p": 0.1, "seed": 0}, _failing),
    "round-robin": (None, _round_robin),
    "directed-ring": ({}, _directed_ring),
    "directed-exponential": ({}, _directed_exponential),
    "directed-random": ({"degree": 3, "seed": 0}, _directed_random),
}
