"""`candor topology`: draw graphs by family, and look at one's averaging speed.

Every entry of `families.FAMILIES` becomes a subcommand, with an option for each parameter.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import networkx as nx

from agent.options import json_option
from topologies import graphs, mixing, spectral
from topologies.families import FAMILIES, Family
from topologies.files import write_text

if TYPE_CHECKING:
    Graph = nx.Graph[str]

LISTED_MAX = 64  # agents whose neighbours are listed for a person; --json lists all

_mixing_option = click.option(
    "--mixing",
    "mixing_name",
    type=click.Choice(list(mixing.WEIGHTS)),
    help=f"How neighbours are weighted.  [default: {mixing.DEFAULT_MIXING}, or the file's]",
)


@click.group("topology")
def command() -> None:
    """Draw a topology: who is whose neighbour, and how fast that averages.

    \b
    Examples:
      candor topology ring --agents 8 -o t.toml
      candor topology erdos-renyi --agents 10 --p 0.4 --seed 3
      candor topology show t.toml --json
    """


@command.command()
@click.argument("spec", metavar="SPEC|FILE")
@click.option("--agents", type=int, help="Number of agents; a file has its own.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of a random family.")
@_mixing_option
@json_option
def show(spec: str, agents: int | None, seed: int, mixing_name: str | None, as_json: bool) -> None:
    """Show the topology of a SPEC, such as torus or erdos-renyi:p=0.4,seed=3, or of a FILE.

    \b
    Examples:
      candor topology show t.toml
      candor topology show torus --agents 16 --json
    """
    topology, known_mixing = spec, mixing.DEFAULT_MIXING
    if graphs.is_file(spec):
        file = graphs.load(spec)
        topology, known_mixing = file.topology, file.mixing
    graph = graphs.build(spec, agents, seed)
    _print(graph, topology, mixing_name or known_mixing, as_json)


def facts(graph: "Graph", topology: str, mixing_name: str) -> dict[str, Any]:
    """What a machine wants to know of a topology; `degree_*` and `diameter` count edges."""
    order = list(graph)
    degrees = [degree for _, degree in graph.degree]
    return {
        "topology": topology,
        "agents": order,
        "edges": [list(edge) for edge in graphs.sorted_edges(graph)],
        "mixing": mixing_name,
        "spectral_gap": spectral.spectral_gap(mixing.matrix(mixing_name, graph, order)),
        "degree_min": min(degrees),
        "degree_max": max(degrees),
        "diameter": nx.diameter(graph, usebounds=True),
    }


def _print(graph: "Graph", topology: str, mixing_name: str, as_json: bool) -> None:
    found = facts(graph, topology, mixing_name)
    if as_json:
        click.echo(json.dumps(found))
        return
    low, high = found["degree_min"], found["degree_max"]
    rows = [
        ("topology", topology),
        ("agents", len(graph)),
        ("edges", len(found["edges"])),
        ("neighbours", low if low == high else f"{low} to {high}"),
        ("diameter", found["diameter"]),
        ("mixing", mixing_name),
        ("spectral gap", f"{found['spectral_gap']:.4f}"),
    ]
    for name, value in rows:
        click.echo(f"{name:<14}{value}")
    click.echo()
    position = {agent: i for i, agent in enumerate(graph)}
    listed = list(graph)[:LISTED_MAX]
    width = max(len(agent) for agent in listed)
    for agent in listed:
        neighbours = " ".join(sorted(graph[agent], key=position.__getitem__))
        click.echo(f"{agent:>{width}} -- {neighbours}")
    if len(graph) > len(listed):
        click.echo(f"… and {len(graph) - len(listed)} more agents (--json lists all)")


def _family_command(name: str, family: Family) -> click.Command:
    def draw(
        agents: int, mixing_name: str | None, output: Path | None, as_json: bool, **values: float
    ) -> None:
        pairs = ",".join(f"{key}={value!r}" for key, value in values.items())
        topology = f"{name}:{pairs}" if pairs else name
        graph = graphs.build(topology, agents)
        chosen = mixing_name or mixing.DEFAULT_MIXING
        if output is not None:
            write_text(output, graphs.dump(graph, topology, chosen))
        _print(graph, topology, chosen, as_json)

    callback: Callable[..., None] = draw
    for parameter in reversed(family.parameters):
        callback = click.option(
            f"--{parameter.name}",
            type=parameter.kind,
            default=parameter.default,
            show_default=True,
            help=parameter.summary,
        )(callback)
    callback = json_option(callback)
    callback = click.option(
        "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it here."
    )(callback)
    callback = _mixing_option(callback)
    callback = click.option("--agents", type=int, required=True, help="Number of agents.")(callback)
    example = f"\b\nExample:\n  candor topology {name} --agents 16 -o t.toml"
    return click.command(name, help=f"{family.summary}\n\n{example}")(callback)


for _name, _family in FAMILIES.items():
    command.add_command(_family_command(_name, _family))
