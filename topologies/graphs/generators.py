"""How each graph family is drawn: pure functions of a number of agents and checked parameters.

`topologies.graphs.families` names them and checks parameters; nodes here are 0 to agents - 1, or
anything in that order. Where networkx has a generator it is used.
"""

import math
from collections.abc import Callable, Mapping

import networkx as nx

from candor.topologies.specs.specs import ConfigurationError

EDGES_MAX = 5_000_000  # about 2 GB as a networkx graph; refused before it fills the memory
REDRAWS_MAX = 100
# Nodes and edges of all draws together, some ten seconds' worth: fewer redraws of large graphs.
_DRAWN_MAX = 500_000
# Two ends an edge: networkx pairs them off in seconds; with ten times as many, in minutes.
_REGULAR_ENDS_MAX = 2_000_000
_PAIRS_MAX = 2_000_000  # of agents that are looked at one by one; beyond, edges are jumped to
_BLOCKS_MAX = 1000  # every pair of blocks costs a draw of its own

Values = Mapping[str, int | float]


def ring(agents: int, _: Values) -> "nx.Graph[int]":
    # nx.cycle_graph gives one agent a loop and two agents one edge; a path closes by hand.
    graph: nx.Graph[int] = nx.path_graph(agents)
    if agents > 2:
        graph.add_edge(agents - 1, 0)
    return graph


def complete(agents: int, _: Values) -> "nx.Graph[int]":
    _refuse_huge(agents, 1.0)
    graph: nx.Graph[int] = nx.complete_graph(agents)
    return graph


def torus(agents: int, _: Values) -> "nx.Graph[int]":
    """The most square rows x columns grid that wraps around; a side of 2 has one link, not two."""
    return nx.grid_2d_graph(*_rectangle("torus", agents, "ring"), periodic=True)


def grid(agents: int, _: Values) -> "nx.Graph[int]":
    """The most square rows x columns grid."""
    return nx.grid_2d_graph(*_rectangle("grid", agents, "path"))


def _rectangle(name: str, agents: int, other: str) -> tuple[int, int]:
    rows = next(r for r in range(math.isqrt(agents), 0, -1) if agents % r == 0)
    if rows < 2:
        raise ConfigurationError(
            f"topology {name!r}: {agents} agents do not fill a grid of at least 2 by 2; "
            f"use a number with two factors, such as 9, 12 or 16, or the {other}"
        )
    return rows, agents // rows


def hypercube(agents: int, _: Values) -> "nx.Graph[int]":
    """Agents whose numbers differ in one bit are neighbours."""
    dimension = agents.bit_length() - 1
    if agents != 1 << dimension:
        raise ConfigurationError(
            f"topology 'hypercube': {agents} agents are not a power of two; "
            f"use {1 << dimension} or {2 << dimension}"
        )
    # nx.hypercube_graph(0) has no node where it should have one.
    return nx.hypercube_graph(dimension) if dimension else nx.empty_graph(1)


def exponential(agents: int, _: Values) -> "nx.Graph[int]":
    """i ~ i +- 2^k (mod agents) for every 2^k < agents.

    The static exponential graph of Ying et al. (2021), "Exponential graph is provably efficient
    for decentralized deep training", with its arcs made edges: mixing here is symmetric.
    """
    return nx.circulant_graph(agents, [1 << k for k in range((agents - 1).bit_length())])


def random_regular(agents: int, values: Values) -> "nx.Graph[int]":
    degree = int(values["degree"])
    if degree >= agents or degree * agents % 2:
        most = agents - 1 if degree >= agents else degree - 1
        raise ConfigurationError(
            f"topology 'random-regular': {agents} agents cannot all have {degree} neighbours; "
            f"use degree={most} or fewer, with agents times degree even"
        )
    drawn = degree
    if degree > agents // 2 and degree * agents > _DRAWN_MAX // REDRAWS_MAX:
        # Where few places are left networkx begins anew for ever; what is left out is as random.
        drawn = agents - 1 - degree
    if drawn * agents > _REGULAR_ENDS_MAX:
        raise ConfigurationError(
            f"topology 'random-regular': degree={degree} of {agents} agents takes too long to "
            f"draw; use degree={_REGULAR_ENDS_MAX // agents} or fewer"
        )
    _refuse_huge(agents, degree / agents)

    def draw(seed: int) -> "nx.Graph[int]":
        graph: nx.Graph[int] = nx.random_regular_graph(drawn, agents, seed=seed)
        return graph if drawn == degree else nx.complement(graph)

    return _connected(
        "random-regular",
        draw,
        values,
        f"degree={degree} left {agents} agents disconnected",
        f"degree={max(3, degree + 1)} or more" if agents > 3 else "the ring",
        agents * (1 + degree),
    )


def erdos_renyi(agents: int, values: Values) -> "nx.Graph[int]":
    """Every pair is an edge with probability p."""
    p = values["p"]
    _refuse_huge(agents, p)
    pairs = agents * (agents - 1) // 2
    sparse = pairs > _PAIRS_MAX
    generator = nx.fast_gnp_random_graph if sparse else nx.gnp_random_graph
    return _connected(
        "erdos-renyi",
        lambda seed: generator(agents, p, seed=seed),
        values,
        f"p={p:g} left {agents} agents disconnected",
        f"p={min(1.0, 2 * math.log(agents) / agents):.2g} or more",
        agents + int(p * pairs) + (0 if sparse else pairs // 20),
    )


def watts_strogatz(agents: int, values: Values) -> "nx.Graph[int]":
    """A ring of k nearest neighbours, half of them on each side, each edge rewired with
    probability p."""
    k, p = int(values["k"]), values["p"]
    if k % 2:
        raise ConfigurationError(
            f"topology 'watts-strogatz': k={k} near neighbours are not as many on each side; "
            f"use k={k - 1} or k={k + 1}"
        )
    if k >= agents:
        raise ConfigurationError(
            f"topology 'watts-strogatz': {agents} agents cannot have k={k} near neighbours; "
            f"use more than {k} agents or a smaller k"
        )
    _refuse_huge(agents, k / agents)
    return _connected(
        "watts-strogatz",
        lambda seed: nx.watts_strogatz_graph(agents, k, p, seed=seed),
        values,
        f"k={k},p={p:g} left {agents} agents disconnected",
        f"k={k + 2} or a smaller p",
        agents * (1 + k // 2),
    )


def barabasi_albert(agents: int, values: Values) -> "nx.Graph[int]":
    """Grown from a star: each new agent takes m neighbours, those with many more likely."""
    m = int(values["m"])
    if m >= agents:
        raise ConfigurationError(
            f"topology 'barabasi-albert': {agents} agents cannot each take m={m} neighbours; "
            f"use more than {m} agents or a smaller m"
        )
    _refuse_huge(agents, 2 * m / agents)
    return nx.barabasi_albert_graph(agents, m, seed=int(values["seed"]))


def stochastic_block(agents: int, values: Values) -> "nx.Graph[int]":
    """Blocks of equal size (one more in the first); edges likelier within than between them."""
    blocks = int(values["blocks"])
    # networkx divides by log(1 - p), which is 0 for a p this small.
    within, between = (p if p > 1e-15 else 0.0 for p in (values["within"], values["between"]))
    if blocks > agents:
        raise ConfigurationError(
            f"topology 'stochastic-block': {agents} agents do not fill {blocks} blocks; "
            f"use blocks={agents} or fewer"
        )
    if blocks > _BLOCKS_MAX:
        raise ConfigurationError(
            f"topology 'stochastic-block': {blocks} blocks are more than {_BLOCKS_MAX}; use fewer"
        )
    if blocks > 1 and not between:
        raise ConfigurationError(
            "topology 'stochastic-block': nothing connects the blocks; use a between above 0"
        )
    density = (within + (blocks - 1) * between) / blocks
    _refuse_huge(agents, density)
    sizes = [agents // blocks + (i < agents % blocks) for i in range(blocks)]
    chances = [[within if i == j else between for j in range(blocks)] for i in range(blocks)]
    return _connected(
        "stochastic-block",
        lambda seed: nx.stochastic_block_model(sizes, chances, seed=seed),
        values,
        f"within={within:g},between={between:g} left {agents} agents disconnected",
        "larger probabilities or fewer blocks",
        agents + int(density * agents**2 / 2) + blocks**2,
    )


def ring_of_cliques(agents: int, values: Values) -> "nx.Graph[int]":
    """Cliques of `size` agents, each with one edge to the next: well mixed within, slow around."""
    size = int(values["size"])
    if agents % size or agents < 2 * size:
        fits = max(2, agents // size) * size
        raise ConfigurationError(
            f"topology 'ring-of-cliques': {agents} agents are not two or more cliques of {size}; "
            f"use {fits} or {fits + size} agents, or another size"
        )
    _refuse_huge(agents, size / agents)
    return nx.ring_of_cliques(agents // size, size)


def caterpillar(agents: int, values: Values) -> "nx.Graph[int]":
    """A path, of one agent in 1 + `legs`, rounded up, and the others its leaves, dealt in turn."""
    spine = -(-agents // (1 + int(values["legs"])))
    graph: nx.Graph[int] = nx.path_graph(spine)
    graph.add_edges_from((leaf % spine, leaf) for leaf in range(spine, agents))
    return graph


def expander(agents: int, _: Values) -> "nx.Graph[int]":
    """The graph of Margulis, Gabber and Galil on pairs (mod the root of agents), made simple.

    At most 8 neighbours each, and a spectral gap that does not vanish as the graph grows. Loops and
    double edges of the original are dropped.
    """
    side = math.isqrt(agents)
    if side * side != agents:
        raise ConfigurationError(
            f"topology 'expander': {agents} agents are not a square; "
            f"use {side**2} or {(side + 1) ** 2}"
        )
    graph: nx.Graph[int] = nx.Graph()
    graph.add_edges_from(nx.margulis_gabber_galil_graph(side).edges())
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def geometric(agents: int, values: Values) -> "nx.Graph[int]":
    """Agents at random places of the unit square; those at most `radius` apart are neighbours."""
    radius = values["radius"]
    density = min(1.0, math.pi * radius**2)
    _refuse_huge(agents, density)
    threshold = math.sqrt(2 * math.log(max(2, agents)) / (math.pi * agents))
    return _connected(
        "geometric",
        lambda seed: nx.random_geometric_graph(agents, radius, seed=seed),
        values,
        f"radius={radius:g} left {agents} agents disconnected",
        f"radius={min(1.5, threshold):.2g} or more",
        agents + int(density * agents**2 / 2),
    )


def _connected(
    name: str,
    draw: Callable[[int], "nx.Graph[int]"],
    values: Values,
    what: str,
    hint: str,
    size: int,
) -> "nx.Graph[int]":
    """The first connected graph that `draw` makes from the seeds upwards of `values`' own; `size`
    is about how many nodes and edges each has."""
    draws = min(REDRAWS_MAX, max(1, _DRAWN_MAX // max(1, size)))
    for redraw in range(draws):
        graph = draw(int(values["seed"]) + redraw)
        if nx.is_connected(graph):
            return graph
    often = "its one draw" if draws == 1 else f"{draws} draws"
    raise ConfigurationError(f"topology {name!r}: {what} in {often}; try {hint}")


def _refuse_huge(agents: int, density: float) -> None:
    edges = int(density * agents * (agents - 1) / 2)
    if edges > EDGES_MAX:
        raise ConfigurationError(
            f"topology: {agents} agents would have about {edges} edges, more than {EDGES_MAX}; "
            "use a sparser family"
        )
