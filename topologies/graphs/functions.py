"""Graphs that a function makes: any generator of networkx by its name, or the user's own.

    networkx:petersen_graph
    networkx:random_lobster_graph,n=20,p1=0.5,p2=0.5
    my_module:my_graph,width=4          called as my_graph(agents, width=4)

The functions run in this process: a spec is a user's own words, never a peer's.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import networkx as nx

from candor.topologies.graphs.families import FAMILIES
from candor.topologies.graphs.listings import NODES_MAX
from candor.topologies.specs.specs import (
    ConfigurationError,
    Scalar,
    load_object,
    parse_call,
    users_errors,
)

_NETWORKX = "networkx:"
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(,.*)?")


def is_one(spec: str) -> bool:
    """Whether a topology spec names a function: networkx:NAME or module:function."""
    name = spec.strip().partition(":")[0]
    return bool(_FUNCTION.fullmatch(spec.strip())) and name not in FAMILIES


def make(spec: str, agents: int | None, seed: int) -> "nx.Graph[Any]":
    """The graph that the function of a spec returns, with its own nodes; perhaps directed.

    `seed` is handed on as `seed=` where the function takes one and the spec sets none. To a
    function of networkx `agents` is handed on as `n=`, where it has that parameter.

    Raises:
        ConfigurationError: no such function, it raised, or what it returned is not such a graph.
    """
    head, options = parse_call(spec)
    if head.startswith(_NETWORKX):
        function = _generator(head.removeprefix(_NETWORKX))
        offered: dict[str, Scalar | None] = {"seed": seed, "n": agents}
        arguments: tuple[int, ...] = ()
    else:
        function = _own(head)
        if agents is None:
            raise ConfigurationError(f"topology {spec!r}: say how many agents it has (--agents N)")
        offered, arguments = {"seed": seed}, (agents,)
    named = {**_accepted(function, offered), **options}
    if not arguments:
        _refuse_huge(spec, named)
    with users_errors(f"topology {spec!r}: {head} failed"):
        graph = function(*arguments, **named)
    if inspect.iscoroutine(graph):
        graph.close()  # else Python warns that nobody awaited it
        raise ConfigurationError(f"topology {spec!r}: {head} is async; write a plain function")
    if not isinstance(graph, nx.Graph):
        raise ConfigurationError(
            f"topology {spec!r}: {head} returned {type(graph).__name__}, not a networkx.Graph"
        )
    return graph


def _generator(name: str) -> Callable[..., object]:
    """A function of `networkx.generators`: those that read files or the network are elsewhere."""
    function = getattr(nx, name, None)
    if not callable(function) or not getattr(function, "__module__", "").startswith(
        "networkx.generators."
    ):
        raise ConfigurationError(
            f"topology 'networkx:{name}': networkx has no generator {name!r}; "
            "its reference lists them under Graph generators"
        )
    return function  # type: ignore[no-any-return]


def _refuse_huge(spec: str, options: Mapping[str, Scalar]) -> None:
    """Refuse numbers that only a graph too large has: networkx would fill the memory first."""
    for name, value in options.items():
        if name != "seed" and isinstance(value, int) and abs(value) > NODES_MAX:
            raise ConfigurationError(
                f"topology {spec!r}: {name} must be at most {NODES_MAX}, not {value}"
            )


def _own(path: str) -> Callable[..., object]:
    function = load_object(path, "topology")
    if not callable(function):
        raise ConfigurationError(f"topology {path!r}: not a function")
    return function


def _accepted(
    function: Callable[..., object], offered: Mapping[str, Scalar | None]
) -> dict[str, Scalar]:
    """Those of `offered` that have a value and a parameter of their name."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # written in C, without a signature
        return {}
    return {k: v for k, v in offered.items() if v is not None and k in parameters}
