"""Graph families: each one entry of `FAMILIES`, a generator and the parameters a spec may set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx

from candor.topologies.graphs import generators
from candor.topologies.specs.specs import ConfigurationError, Scalar, Spec


@dataclass(frozen=True, slots=True)
class Parameter:
    """A family's parameter, with its allowed range."""

    name: str
    kind: type[int] | type[float]
    default: int | float
    low: float
    high: float
    summary: str


@dataclass(frozen=True, slots=True)
class Family:
    """A way to draw a graph: `draw(agents, values)` with a checked value for every parameter."""

    summary: str
    draw: Callable[[int, Mapping[str, int | float]], "nx.Graph[int]"]
    parameters: tuple[Parameter, ...] = ()


def family_named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ConfigurationError: there is none; names the known ones.
    """
    if name not in FAMILIES:
        raise ConfigurationError(
            f"unknown topology {name!r}; known: {', '.join(FAMILIES)}, a file (.toml, .graphml, …)"
            ", networkx:NAME or module:function"
        )
    return FAMILIES[name]


def values(spec: str, parsed: Spec, family: Family, seed: int) -> dict[str, int | float]:
    """Every parameter's value: from the spec, else from `seed`, else its default.

    Raises:
        ConfigurationError: an unknown parameter, or a value out of its range.
    """
    given: dict[str, Scalar] = dict(parsed.options)
    if parsed.value is not None:
        if not family.parameters:
            raise ConfigurationError(f"topology {spec!r}: {parsed.name} takes no value")
        given[family.parameters[0].name] = parsed.value
    names = [parameter.name for parameter in family.parameters]
    for name in given:
        if name not in names:
            takes = ", ".join(names) or "nothing"
            raise ConfigurationError(f"topology {spec!r}: unknown {name!r}; it takes {takes}")
    if "seed" in names:
        given.setdefault("seed", seed)
    return {
        parameter.name: _checked(spec, parameter, given.get(parameter.name, parameter.default))
        for parameter in family.parameters
    }


def _checked(spec: str, parameter: Parameter, value: Scalar) -> int | float:
    number = float(value) if parameter.kind is float and isinstance(value, int) else value
    if not isinstance(number, parameter.kind) or not parameter.low <= number <= parameter.high:
        what = "a whole number" if parameter.kind is int else "a number"
        raise ConfigurationError(
            f"topology {spec!r}: {parameter.name} must be {what} from {parameter.low:g} to "
            f"{parameter.high:g}, not {value!r}"
        )
    return number


_SEED = Parameter("seed", int, 0, 0, float(1 << 53), "Seed of the draw.")


def _probability(name: str, default: float, summary: str) -> Parameter:
    return Parameter(name, float, default, 0.0, 1.0, summary)


def _count(name: str, default: int, low: int, summary: str) -> Parameter:
    return Parameter(name, int, default, low, 10_000, summary)


FAMILIES: Mapping[str, Family] = {
    "ring": Family(
        "Each agent has two neighbours: cheap a round, slow to average.", generators.ring
    ),
    "path": Family(
        "A ring with one edge less: the slowest to average.",
        lambda agents, _: nx.path_graph(agents),
    ),
    "complete": Family(
        "Everyone is everyone's neighbour: averages in one round.", generators.complete
    ),
    "star": Family(
        "a0 is everyone's only neighbour: a server in all but name.",
        lambda agents, _: nx.star_graph(agents - 1),
    ),
    "torus": Family("A grid that wraps around: four neighbours each.", generators.torus),
    "grid": Family("Rows and columns: at most four neighbours each.", generators.grid),
    "hypercube": Family(
        "2^d agents, each with d neighbours: quick to average, d rounds across.",
        generators.hypercube,
    ),
    "exponential": Family(
        "Neighbours at distances 1, 2, 4, … around a ring: quick, for any number of agents.",
        generators.exponential,
    ),
    "random-regular": Family(
        "Each agent has `degree` random neighbours: an expander, very likely.",
        generators.random_regular,
        (_count("degree", 4, 1, "Neighbours of each agent."), _SEED),
    ),
    "erdos-renyi": Family(
        "Every two agents are neighbours with probability p.",
        generators.erdos_renyi,
        (_probability("p", 0.4, "Probability of an edge."), _SEED),
    ),
    "watts-strogatz": Family(
        "A small world: a ring of near neighbours with some edges rewired.",
        generators.watts_strogatz,
        (
            _count("k", 4, 2, "Near neighbours of each agent."),
            _probability("p", 0.2, "Probability that an edge is rewired."),
            _SEED,
        ),
    ),
    "barabasi-albert": Family(
        "Scale free: few hubs with many neighbours, many agents with few.",
        generators.barabasi_albert,
        (_count("m", 2, 1, "Neighbours that each new agent takes."), _SEED),
    ),
    "stochastic-block": Family(
        "Communities: dense within blocks, sparse between them.",
        generators.stochastic_block,
        (
            _count("blocks", 2, 1, "Number of blocks."),
            _probability("within", 0.7, "Probability of an edge within a block."),
            _probability("between", 0.1, "Probability of an edge between blocks."),
            _SEED,
        ),
    ),
    "ring-of-cliques": Family(
        "Cliques on a ring, one edge between two: where good weights matter most.",
        generators.ring_of_cliques,
        (_count("size", 4, 2, "Agents of each clique."),),
    ),
    "binary-tree": Family(
        "Two children each: the fewest edges that connect, short paths, a bottleneck.",
        # Filled level by level: agent i has the children 2i + 1 and 2i + 2.
        lambda agents, _: nx.full_rary_tree(2, agents),
    ),
    "caterpillar": Family(
        "A path of agents with leaves: hubs and agents of one neighbour in one tree.",
        generators.caterpillar,
        (_count("legs", 1, 1, "Leaves of each agent of the path, at most."),),
    ),
    "expander": Family(
        "Margulis's: at most eight neighbours each, as quick however many agents (a square).",
        generators.expander,
    ),
    "geometric": Family(
        "Random places in a square; agents at most `radius` apart are neighbours.",
        generators.geometric,
        (Parameter("radius", float, 0.45, 0.0, 1.5, "Longest edge."), _SEED),
    ),
}
