"""Graph families: each one entry of `FAMILIES`, a builder and the parameters a spec may set."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import networkx as nx

from topologies.specs import ConfigurationError, Scalar, Spec

EDGES_MAX = 5_000_000  # about 2 GB as a networkx graph; refused before it fills the memory
REDRAWS_MAX = 100


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
            f"unknown topology {name!r}; known: {', '.join(FAMILIES)}, or a file ending in .toml"
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


def _ring(agents: int, _: Mapping[str, int | float]) -> "nx.Graph[int]":
    # nx.cycle_graph gives one agent a loop and two agents one edge; a path closes by hand.
    graph: nx.Graph[int] = nx.path_graph(agents)
    if agents > 2:
        graph.add_edge(agents - 1, 0)
    return graph


def _complete(agents: int, _: Mapping[str, int | float]) -> "nx.Graph[int]":
    _refuse_huge(agents, 1.0)
    graph: nx.Graph[int] = nx.complete_graph(agents)
    return graph


def _star(agents: int, _: Mapping[str, int | float]) -> "nx.Graph[int]":
    graph: nx.Graph[int] = nx.star_graph(agents - 1)
    return graph


def _torus(agents: int, _: Mapping[str, int | float]) -> "nx.Graph[int]":
    """The most square rows x columns grid that wraps around; a side of 2 has one link, not two."""
    rows = next(r for r in range(math.isqrt(agents), 0, -1) if agents % r == 0)
    if rows < 2:
        raise ConfigurationError(
            f"topology 'torus': {agents} agents do not fill a grid of at least 2 by 2; "
            "use a number with two factors, such as 9, 12 or 16, or the ring"
        )
    grid = nx.grid_2d_graph(rows, agents // rows, periodic=True)
    graph: nx.Graph[int] = nx.convert_node_labels_to_integers(grid)
    return graph


def _erdos_renyi(agents: int, values: Mapping[str, int | float]) -> "nx.Graph[int]":
    """Every pair is an edge with probability p; redrawn from the next seeds until connected."""
    p, seed = values["p"], int(values["seed"])
    _refuse_huge(agents, p)
    for redraw in range(REDRAWS_MAX):
        graph: nx.Graph[int] = nx.gnp_random_graph(agents, p, seed=seed + redraw)
        if nx.is_connected(graph):
            return graph
    raise ConfigurationError(
        f"topology 'erdos-renyi': p={p:g} left {agents} agents disconnected in {REDRAWS_MAX} "
        f"draws; try p={min(1.0, 2 * math.log(agents) / agents):.2g} or more"
    )


def _refuse_huge(agents: int, density: float) -> None:
    edges = int(density * agents * (agents - 1) / 2)
    if edges > EDGES_MAX:
        raise ConfigurationError(
            f"topology: {agents} agents would have about {edges} edges, more than {EDGES_MAX}; "
            "use a sparser family"
        )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "ring": Family("Each agent has two neighbours: cheap a round, slow to average.", _ring),
        "complete": Family("Everyone is everyone's neighbour: averages in one round.", _complete),
        "star": Family("a0 is everyone's only neighbour: a server in all but name.", _star),
        "torus": Family("A grid that wraps around: four neighbours each.", _torus),
        "erdos-renyi": Family(
            "Every two agents are neighbours with probability p.",
            _erdos_renyi,
            (
                Parameter("p", float, 0.4, 0.0, 1.0, "Probability of an edge."),
                Parameter("seed", int, 0, 0, float(1 << 53), "Seed of the draw."),
            ),
        ),
    }
)
