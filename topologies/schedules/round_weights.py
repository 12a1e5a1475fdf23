"""The graph and the mixing weights of every round of a run, from its cluster file alone.

`GraphSettings` is what a cluster file says: who are neighbours (`edges`), which of the edges a
round uses (`schedule`), and how vectors are weighted (`mixing`); `topologies.cluster.graph_section`
makes it. Every agent computes the same weights to the last bit: those of rules are one division,
those that need eigenvalues, a solver or the user's own matrix stand in the file.

    schedule                 the graph of round t, from 1
    fixed                    all edges
    turns                    edges of turn (t - 1) mod turns
    arcs                     arcs, [giver, taker], of turn (t - 1) mod turns
    pairs:seed=S             all agents in the order of their hashes, paired off
    matching:seed=S          the edges in the order of their hashes, where both ends are free
    failing:p=P,seed=S       the edges whose hash is not below P

An undirected edge counts as two arcs. Weights of an arc, with out- and in-degrees of the round:

    metropolis-hastings      1 / (1 + the larger of giver's out-degree and taker's in-degree)
    lazy                     half of that
    max-degree               1 / (1 + the largest degree)
    push-sum                 1 / (1 + giver's out-degree), times giver's mass, over taker's next one
    best-constant, fastest,  those in `weights`
    given

An agent takes its own vector with what is left to one.

Where agents declare sizes, the limit is the mean weighted by them. Symmetric weights are multiplied
by Hastings' acceptance, see `topologies.mixing.sizes`, and push-sum's masses start at the sizes
over their mean.

Push-sum averages with a matrix P whose columns sum to one: numerators x and masses w, which start
at 1, are mixed alike, and x / w tends to the mean (Kempe, Dobra and Gehrke 2003). Masses follow
from the graphs alone. So they need not travel: z = x / w is mixed by rows that sum to one,

    z_{t+1} = diag(w_{t+1})^-1 P_t diag(w_t) z_t,    w_{t+1} = P_t w_t

which is the same vector. Whatever is lost, z stays a mean of what was heard, and masses what they
are: mixed with the vectors, they would drift with every loss, and steps, which are over w, too.

Masses that start at pi_i, of mean 1, make that the mean weighted by pi, as numerators start at
pi_i z_i. A numerator w z that is to go the step lambda pi_i m_i moves z by lambda pi_i / w_t m_i:
so steps are divided by w_t / w_1.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Final, Self

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from candor.topologies.graphs import graphs
from candor.topologies.mixing import matrices, sizes
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import DEFAULT_MIXING, PUSH_SUM
from candor.topologies.schedules import draws as chance
from candor.topologies.schedules import schedules
from candor.topologies.schedules.weights import Round, ordered_sum, own_weight
from candor.topologies.specs.fields import Edge, Line, Number
from candor.topologies.specs.files import Section
from candor.topologies.specs.specs import ConfigurationError, parse_spec

if TYPE_CHECKING:
    from candor.topologies.schedules.schedules import RoundGraph

GIVEN: Final = "given"
IN_FILE: Final = ("best-constant", "fastest", GIVEN)
MIXINGS: Final = (*mixing.WEIGHTS, PUSH_SUM, *IN_FILE)
CACHED_ROUNDS: Final = 64  # of a window and the one before; a graph of 10,000 agents takes 10 MB
MASSES_EVERY: Final = 256  # rounds whose masses are kept: an agent may come late, or look back
SUM_TOLERANCE: Final = 1e-12


class GraphSettings(Section):
    """Who are neighbours, and how they mix in each round; `topology` only says where it is from.

    `edges` are the neighbours of all rounds. `turns` belong to the schedules `turns` and `arcs`.
    `weights` belong to mixings that are not computed: of edge (u, v) the weight with which u takes
    v's vector, and the weight with which v takes u's.
    """

    topology: Line
    mixing: Line = DEFAULT_MIXING
    schedule: Line = schedules.FIXED
    edges: tuple[Edge, ...]
    turns: tuple[tuple[Edge, ...], ...] = ()
    weights: tuple[tuple[Number, Number], ...] = Field(default=())


class RoundWeights:
    """All rounds of a run on agents `ids`, which are in the order of matrix rows, of `declared`
    sizes in that order; without any, all are equal."""

    def __init__(
        self, ids: Sequence[str], settings: GraphSettings, declared: Sequence[float] = ()
    ) -> None:
        """Raises ConfigurationError for settings that say nothing sensible; see also `check`."""
        self.ids = tuple(ids)
        self.settings = settings
        self.declared = tuple(declared)
        self.push_sum = settings.mixing == PUSH_SUM
        # Of mean 1; ones, to the last bit, where all are equal.
        relative = sizes.scaled(self.declared) if self.declared else [1.0] * len(self.ids)
        self.sizes = dict(zip(self.ids, relative, strict=True))
        self._masses = {1: self.sizes}  # by round, see `MASSES_EVERY`
        self._latest = 1, self._masses[1]
        self._computing = Lock()
        self.period, self._graph = _graphs(self.ids, settings)
        self._weight = _rule(settings)
        self._cached = lru_cache(CACHED_ROUNDS)(self._round)

    def __reduce__(
        self,
    ) -> tuple[type[Self], tuple[tuple[str, ...], GraphSettings, tuple[float, ...]]]:
        """Pickled without what was computed: workers of a pool compute their own."""
        return type(self), (self.ids, self.settings, self.declared)

    def graph(self, round: int) -> "RoundGraph":
        """The graph of a round from 1, all agents in order; an arc goes from giver to taker."""
        assert round >= 1
        return self._graph(round)

    def of(self, round: int) -> Round:
        """The weights of a round from 1."""
        return self._cached(self.same_as(round))

    def same_as(self, round: int) -> int:
        """The first round that has the weights of this one; itself where they do not recur."""
        assert round >= 1
        if self.period is None or self.push_sum:
            return round
        return (round - 1) % self.period + 1

    def matrix(self, round: int) -> NDArray[np.float64]:
        """The mixing matrix (agents, agents): entry (i, j) is the weight with which i takes j."""
        index = {agent: i for i, agent in enumerate(self.ids)}
        weights, found = self.of(round), np.zeros((len(self.ids), len(self.ids)))
        for i, taker in enumerate(self.ids):
            row = weights.taken[taker]
            found[i, [index[giver] for giver in row]] = list(row.values())
            found[i, i] = own_weight(row)
        return found

    def check(self) -> None:
        """Check the rounds of the whole schedule: that they connect everyone, and keep the mean, as
        weighted by the agents' sizes.

        Raises:
            ConfigurationError: names what is wrong and how to mend it.
        """
        if self.settings.weights:
            self._check_weights()
        reached = _union(self.ids, self._graph, self.period, self.settings)
        if not nx.is_strongly_connected(reached):
            raise ConfigurationError(
                "graph.turns: over all turns not every agent is heard by every other"
            )
        if self.push_sum or self.settings.schedule != schedules.ARCS:
            return
        for t in range(1, (self.period or 1) + 1):
            self._check_stationary(t)

    def _check_stationary(self, t: int) -> None:
        """That sizes are stationary in a round: as much is taken of an agent as it takes."""
        size, gives = self.sizes, Counter[str]()
        for taker, row in self.of(t).taken.items():
            gives.update({giver: size[taker] * weight for giver, weight in row.items()})
        for agent, row in self.of(t).taken.items():
            takes = size[agent] * sum(row.values())
            if abs(gives[agent] - takes) > SUM_TOLERANCE * max(1.0, takes):
                raise ConfigurationError(
                    f"round {t}: {agent!r} takes with another weight than it is taken with, "
                    f"so the mean would move; use mixing {PUSH_SUM!r}"
                )

    def _check_weights(self) -> None:
        place = {agent: i for i, agent in enumerate(self.ids)}
        matrix = np.zeros((len(self.ids), len(self.ids)))
        for (u, v), (by_u, by_v) in zip(self.settings.edges, self.settings.weights, strict=True):
            matrix[place[u], place[v]], matrix[place[v], place[u]] = by_u, by_v
            if by_u != by_v and self.settings.schedule != schedules.FIXED:
                raise ConfigurationError(
                    f"graph.weights: {u!r} and {v!r} weigh each other differently, which moves the "
                    "mean when edges fail; use a symmetric matrix"
                )
            if self.declared and abs(by_u - by_v) > SUM_TOLERANCE:
                raise ConfigurationError(
                    f"graph.weights: {u!r} and {v!r} weigh each other differently, and agents "
                    "declare sizes, by which only a symmetric matrix can be corrected; use one"
                )
        own = 1.0 - matrix.sum(axis=1)
        np.fill_diagonal(matrix, np.where(np.abs(own) < SUM_TOLERANCE, 0.0, own))
        matrices.check_matrix(matrix, graphs.make_graph(self.ids, self.settings.edges))

    def _round(self, round: int) -> Round:
        graph = self._graph(round)
        arcs = graph if isinstance(graph, nx.DiGraph) else graph.to_directed()
        weigh, size = self._weight(arcs), self.sizes
        taken: dict[str, dict[str, float]] = {agent: {} for agent in self.ids}
        takers: dict[str, set[str]] = {agent: set() for agent in self.ids}
        for giver, taker in sorted(arcs.edges):
            weight = weigh(giver, taker)
            if not self.push_sum:
                weight *= sizes.acceptance(size[taker], size[giver])
            if weight > 0:
                taken[taker][giver] = weight
                takers[giver].add(taker)
        mass = dict.fromkeys(self.ids, 1.0)
        if self.push_sum:
            before, after = self._masses_of(round), self._masses_of(round + 1)
            for taker, row in taken.items():
                for giver in row:
                    row[giver] = row[giver] * before[giver] / after[taker]
            mass = {agent: value / size[agent] for agent, value in before.items()}
        return Round(taken, {agent: frozenset(who) for agent, who in takers.items()}, mass)

    def _masses_of(self, round: int) -> dict[str, float]:
        """The masses of a round, from those of the nearest one before it that is known."""
        with self._computing:
            known = {**self._masses, self._latest[0]: self._latest[1]}
            at = max(number for number in known if number <= round)
            masses = known[at]
            while at < round:
                graph = self._graph(at)
                arcs = graph if isinstance(graph, nx.DiGraph) else graph.to_directed()
                at, masses = at + 1, self._mixed(arcs, masses)
                if at % MASSES_EVERY == 0:
                    self._masses[at] = masses
            self._latest = round, masses
            return masses

    def _mixed(self, arcs: "nx.DiGraph[str]", masses: Mapping[str, float]) -> dict[str, float]:
        """The masses (by agent) after a round: P w, added over the givers in order of id, then the
        agent's own share."""
        weigh = _by_degree(PUSH_SUM, arcs)
        found = {}
        for taker in self.ids:
            given = {giver: weigh(giver, taker) * masses[giver] for giver in arcs.pred[taker]}
            found[taker] = ordered_sum(given) + masses[taker] / (1 + arcs.out_degree[taker])
        return found


Weigh = Callable[[str, str], float]  # of giver and taker


def _rule(settings: GraphSettings) -> "Callable[[nx.DiGraph[str]], Weigh]":
    """The weights of a round's arcs, by mixing; raises ConfigurationError for an unknown one."""
    name = settings.mixing
    if name not in MIXINGS:
        known = ", ".join(MIXINGS)
        raise ConfigurationError(f"graph.mixing: unknown mixing {name!r}; known: {known}")
    if (name in IN_FILE) != bool(settings.weights) and settings.edges:
        raise ConfigurationError(
            f"graph.weights: mixing {name!r} "
            + ("needs a pair of weights for each edge" if name in IN_FILE else "has none")
        )
    if name not in IN_FILE:
        return partial(_by_degree, name)
    static = settings.schedule.partition(":")[0] in (schedules.FIXED, schedules.FAILING)
    if not static or len(settings.weights) not in (0, len(settings.edges)):
        raise ConfigurationError(
            f"graph.weights: mixing {name!r} needs one pair for each edge, and a schedule "
            f"{schedules.FIXED!r} or {schedules.FAILING!r}"
        )
    table: dict[Edge, float] = {}
    for (u, v), (taken_by_u, taken_by_v) in zip(settings.edges, settings.weights, strict=True):
        table[v, u], table[u, v] = taken_by_u, taken_by_v
    return lambda _: lambda giver, taker: table[giver, taker]


def _by_degree(name: str, arcs: "nx.DiGraph[str]") -> Weigh:
    out, into = dict(arcs.out_degree), dict(arcs.in_degree)
    largest = max([*out.values(), *into.values()])

    def weigh(giver: str, taker: str) -> float:
        match name:
            case mixing.PUSH_SUM:
                return 1.0 / (1 + out[giver])
            case "max-degree":
                return 1.0 / (1 + largest)
            case "lazy":
                return 0.5 * (1.0 / (1 + max(out[giver], into[taker])))
            case _:
                return 1.0 / (1 + max(out[giver], into[taker]))

    return weigh


def _graphs(
    ids: Sequence[str], settings: GraphSettings
) -> "tuple[int | None, Callable[[int], RoundGraph]]":
    """The period, None where chance decides, and the graph of a round."""
    spec = parse_spec(settings.schedule)
    edges = [(min(edge), max(edge)) for edge in settings.edges]
    seed = schedules.seed_of(settings.schedule, {"seed": 0} | dict(spec.options))
    turned = spec.name in (schedules.TURNS, schedules.ARCS)
    if turned != bool(settings.turns):
        raise ConfigurationError(
            f"graph.turns: schedule {settings.schedule!r} "
            + ("needs them" if turned else "has none")
        )
    match spec.name:
        case schedules.FIXED if settings.schedule == schedules.FIXED:
            graph = graphs.make_graph(ids, edges)
            return 1, lambda _: graph
        case schedules.TURNS | schedules.ARCS if settings.schedule == spec.name:
            return _in_turns(ids, edges, settings.turns, directed=spec.name == schedules.ARCS)
        case schedules.PAIRS if spec.options.keys() == {"seed"}:
            if len(edges) != len(ids) * (len(ids) - 1) // 2:
                raise ConfigurationError("graph.schedule: pairs need an edge between any two")
            return None, partial(chance.any_pairs, ids, seed)
        case schedules.MATCHING if spec.options.keys() == {"seed"}:
            return None, partial(chance.matching, ids, edges, seed)
        case schedules.FAILING if spec.options.keys() == {"p", "seed"}:
            p = schedules.chance_of(settings.schedule, spec.options)
            return None, partial(chance.surviving, ids, edges, p, seed)
    raise ConfigurationError(
        f"graph.schedule: {settings.schedule!r} is none of fixed, turns, arcs, pairs:seed=S, "
        "matching:seed=S, failing:p=P,seed=S"
    )


def _in_turns(
    ids: Sequence[str], edges: Sequence[Edge], turns: Sequence[Sequence[Edge]], *, directed: bool
) -> "tuple[int, Callable[[int], RoundGraph]]":
    known, used = set(edges), set()
    made: list[RoundGraph] = []
    for number, turn in enumerate(turns, start=1):
        pairs = [edge if directed else (min(edge), max(edge)) for edge in turn]
        for u, v in pairs:
            if (min(u, v), max(u, v)) not in known:
                raise ConfigurationError(
                    f"graph.turns: turn {number} has {u!r}-{v!r}, which is not in graph.edges"
                )
        used |= {(min(edge), max(edge)) for edge in pairs}
        graph: RoundGraph = nx.DiGraph() if directed else nx.Graph()
        graph.add_nodes_from(ids)
        graph.add_edges_from(pairs)
        if graph.number_of_edges() < len(pairs):
            raise ConfigurationError(f"graph.turns: turn {number} has an edge twice; remove one")
        made.append(graph)
    if known - used:
        u, v = min(known - used)
        raise ConfigurationError(f"graph.turns: no turn has the edge {u!r}-{v!r}; leave it out")
    return len(made), lambda round: made[(round - 1) % len(made)]


def _union(
    ids: Sequence[str],
    graph: "Callable[[int], RoundGraph]",
    period: int | None,
    settings: GraphSettings,
) -> "nx.DiGraph[str]":
    """All arcs of all rounds; of those that chance decides, all that may come."""
    union: nx.DiGraph[str] = nx.DiGraph()
    union.add_nodes_from(ids)
    if period is None or settings.schedule == schedules.FIXED:
        union.add_edges_from(graphs.make_graph(ids, settings.edges).to_directed().edges)
        return union
    for t in range(1, period + 1):
        union.add_edges_from(graph(t).to_directed().edges)
    return union
