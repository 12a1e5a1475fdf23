"""`candor topology`: draw graphs by family, look at one's cost and speed, and compare several.

Every entry of `families.FAMILIES` becomes a subcommand, with an option for each parameter.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import networkx as nx
import numpy as np

from agent import terminal_graph
from agent.options import json_option
from topologies import analysis, consensus, graphs, matrices, mixing, schedules
from topologies.families import FAMILIES, Family
from topologies.files import write_bytes, write_text
from topologies.specs import ConfigurationError

if TYPE_CHECKING:
    Graph = nx.Graph[str]

LISTED_MAX = 64  # agents whose neighbours are listed for a person; --json lists all
FILE_COLUMNS = 120  # of a table that goes into a file or a pipe
# More of a picture take minutes to place, and show nothing.
DRAWN_AGENTS_MAX, DRAWN_EDGES_MAX = 1000, 20_000

_mixing_option = click.option(
    "--mixing",
    "mixing_spec",
    metavar="NAME|FILE",
    help=f"How neighbours are weighted: {', '.join(mixing.RULES)}, or a matrix in a .csv or .npy "
    f"file.  [default: {mixing.DEFAULT_MIXING}, or the topology file's]",
)
_parameters_option = click.option(
    "--parameters",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="Float32 parameters of the model, for the bytes of a round.",
)
_draw_option = click.option(
    "--draw",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the graph into a .png or .svg file.",
)
_agents_option = click.option("--agents", type=int, help="Number of agents; a file has its own.")
_seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of what is random."
)


@click.group("topology")
def command() -> None:
    """Draw a topology: who is whose neighbour, and how fast that averages.

    \b
    Examples:
      candor topology ring --agents 8 -o t.toml
      candor topology erdos-renyi --agents 10 --p 0.4 --seed 3
      candor topology show t.toml --draw t.svg
      candor topology compare ring torus expander --agents 64
    """


@command.command()
@click.argument("spec", metavar="SPEC|FILE")
@_agents_option
@_seed_option
@_mixing_option
@_parameters_option
@_draw_option
@json_option
def show(
    spec: str,
    agents: int | None,
    seed: int,
    mixing_spec: str | None,
    parameters: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Show the topology of a SPEC or a FILE.

    A SPEC is a family with its parameters (torus, erdos-renyi:p=0.4,seed=3), a generator of
    networkx (networkx:petersen_graph) or a function of your own (module:function, called with the
    number of agents). A FILE ends in .toml, .graphml, .gexf, .json (node-link), .csv (adjacency),
    .edges, .edgelist or .txt.

    \b
    Examples:
      candor topology show t.toml
      candor topology show torus --agents 16 --json
      candor topology show networkx:petersen_graph --mixing best-constant --draw petersen.png
    """
    graph, topology, known_mixing = _graph(spec, agents, seed)
    _tell(graph, topology, mixing_spec or known_mixing, parameters, picture, as_json)


@command.command()
@click.argument("specs", metavar="SPEC|FILE...", nargs=-1, required=True)
@_agents_option
@_seed_option
@click.option(
    "--mixing",
    "mixing_specs",
    multiple=True,
    metavar="NAME|FILE",
    help="As in `show`; repeated, each topology has a row for each.",
)
@_parameters_option
@click.option(
    "--measure",
    is_flag=True,
    help=f"Average random vectors for {consensus.MEASURED_ROUNDS} rounds, too: the factor by which "
    "disagreement shrinks a round, next to the one that the spectrum predicts.",
)
@json_option
def compare(
    specs: tuple[str, ...],
    agents: int | None,
    seed: int,
    mixing_specs: tuple[str, ...],
    parameters: int,
    measure: bool,
    as_json: bool,
) -> None:
    """Compare topologies: what each costs a round, and how many rounds it takes to agree.

    \b
    Examples:
      candor topology compare ring torus expander --agents 64
      candor topology compare ring star --agents 16 --mixing lazy --mixing best-constant --measure
    """
    rows: list[dict[str, Any]] = []
    for spec in specs:
        graph, topology, known_mixing = _graph(spec, agents, seed)
        chosen = mixing_specs or (known_mixing,)
        rows += [facts(graph, topology, name, parameters, measure=measure) for name in chosen]
    if as_json:
        listed = ("agents", "edges")
        counted = [row | {name: len(row[name]) for name in listed} for row in rows]
        click.echo(json.dumps(counted))
        return
    _tell_compared(rows, parameters, mixings=bool(mixing_specs), measured=measure)


def _tell_compared(
    rows: list[dict[str, Any]], parameters: int, *, mixings: bool, measured: bool
) -> None:
    """The table of `compare`: with `measured`, rates stand where bytes would."""
    from rich.console import Console
    from rich.table import Table

    title = None if measured else f"{parameters:,} parameters"
    table = Table(box=None, title=title, title_justify="left")
    for column in ("topology", "mixing") if mixings else ("topology",):
        table.add_column(column, overflow="fold")
    last = ("predicted", "measured") if measured else ("MB/round", "MB")
    for column in ("agents", "degree", "across", "gap", "rounds", *last):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        rounds = row["consensus_rounds"]
        table.add_row(
            row["topology"],
            *([row["mixing"]] if mixings else []),
            str(len(row["agents"])),
            _span(row),
            _across(row),
            f"{row['spectral_gap']:.3g}",
            "never" if rounds is None else str(rounds),
            *(_rates(row) if measured else _megabytes(row)),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_COLUMNS)
    console.print(table)
    click.echo(f"\nrounds: until disagreement is {analysis.CONSENSUS_ERROR:g} of what it was")
    click.echo(
        f"predicted, measured: the factor by which it shrinks a round; measured over "
        f"{consensus.MEASURED_ROUNDS} rounds"
        if measured
        else "MB: sent by the busiest agent, in a round and until then"
    )


def _rates(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['predicted_rate']:.6f}", f"{row['measured_rate']:.6f}"


def _megabytes(row: dict[str, Any]) -> tuple[str, str]:
    rounds, megabytes = row["consensus_rounds"], row["bytes_per_round_max"] / 1e6
    return f"{megabytes:.4g}", "–" if rounds is None else f"{megabytes * rounds:.4g}"


@command.command()
@click.argument("spec")
@_agents_option
@_seed_option
@click.option(
    "--rounds", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many."
)
@json_option
def schedule(spec: str, agents: int | None, seed: int, rounds: int, as_json: bool) -> None:
    """Show a SPEC of graphs that change from round to round, and measure how they average.

    Disagreement is that of random vectors, 1 at the start. The SPEC is one-peer-exponential,
    random-matching:base=B, rotating:base=B,parts=N, failing:base=B,p=P, with B a graph's spec,
    "round-robin:A + B + …" of specs and files; or directed and averaged by push-sum: directed-ring,
    directed-exponential, directed-random:degree=D, a file or function with a directed graph.

    \b
    Examples:
      candor topology schedule one-peer-exponential --agents 16 --rounds 4
      candor topology schedule failing:base=torus,p=0.2 --agents 16
      candor topology schedule directed-random:degree=2 --agents 16
    """
    found = schedules.build(spec, agents, seed)
    vectors = np.random.default_rng(0).standard_normal((len(found.agents), 16))
    start, masses = consensus.disagreement(vectors), np.ones((len(found.agents), 1))
    lines: list[dict[str, Any]] = []
    for t in range(1, rounds + 1):
        matrix = found.matrix(t)
        vectors = np.asarray(matrix @ vectors)
        if found.push_sum:
            masses = np.asarray(matrix @ masses)
        left = consensus.disagreement(vectors / masses) / start if start else 0.0
        edges = [list(edge) for edge in found.graph(t).edges]
        lines.append({"round": t, "edges": edges, "disagreement": left})
    if as_json:
        known = {"schedule": spec, "agents": found.agents, "period": found.period}
        click.echo(json.dumps(known | {"rounds": lines}))
        return
    period = "by chance" if found.period is None else f"every {found.period} rounds the same"
    how = ", directed, by push-sum" if found.push_sum else ""
    click.echo(f"{spec}: {len(found.agents)} agents, {period}{how}\n")
    click.echo(f"{'round':>6}{'edges':>8}  disagreement")
    for line in lines:
        click.echo(f"{line['round']:>6}{len(line['edges']):>8}  {line['disagreement']:.3g}")


def facts(
    graph: "Graph", topology: str, mixing_spec: str, parameters: int, *, measure: bool = False
) -> dict[str, Any]:
    """What a machine wants to know of a topology; `analysis.Analysis` explains them."""
    matrix = matrices.resolve(mixing_spec, graph)
    found = analysis.analyse(graph, matrix, parameters)
    rates = {}
    if measure:
        rate = consensus.measured_rate(matrix)
        rates = {"predicted_rate": 1 - found.spectral_gap, "measured_rate": rate}
    return {
        "topology": topology,
        "agents": list(graph),
        "edges": [list(edge) for edge in graphs.sorted_edges(graph)],
        "mixing": mixing_spec,
        **asdict(found),
        **rates,
    }


def _graph(spec: str, agents: int | None, seed: int) -> tuple["Graph", str, str]:
    """The graph of a spec or file, where it comes from, and the mixing that goes with it."""
    graph = graphs.build(spec, agents, seed)
    if not graphs.is_file(spec):
        return graph, spec, mixing.DEFAULT_MIXING
    file = graphs.load(spec)
    return graph, file.topology, file.mixing


def _tell(
    graph: "Graph",
    topology: str,
    mixing_spec: str,
    parameters: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    found = facts(graph, topology, mixing_spec, parameters)
    if picture is not None:
        _draw(graph, picture, found["articulation_points"])
    if as_json:
        click.echo(json.dumps(found))
        return
    rounds, weak = found["consensus_rounds"], found["articulation_points"]
    rows = [
        ("topology", topology),
        ("agents", len(graph)),
        ("edges", len(found["edges"])),
        ("neighbours", _span(found)),
        ("diameter", f"{_across(found)} (90 % of pairs within {found['effective_diameter']})"),
        ("mixing", mixing_spec),
        ("spectral gap", f"{found['spectral_gap']:.4g}"),
        ("consensus", _rounds(rounds)),
        ("a round", f"{found['bytes_per_round_max'] / 1e6:.4g} MB sent by the busiest agent"),
        ("weak points", _few(weak) if weak else "none: no agent holds the graph together"),
    ]
    for name, value in rows:
        click.echo(f"{name:<14}{value}")
    click.echo()
    if terminal_graph.fits(graph):
        click.echo("\n".join(terminal_graph.drawn(graph)) + "\n")
    position = {agent: i for i, agent in enumerate(graph)}
    listed = list(graph)[:LISTED_MAX]
    width = max(len(agent) for agent in listed)
    for agent in listed:
        neighbours = " ".join(sorted(graph[agent], key=position.__getitem__))
        click.echo(f"{agent:>{width}} -- {neighbours}")
    if len(graph) > len(listed):
        click.echo(f"… and {len(graph) - len(listed)} more agents (--json lists all)")


def _span(found: dict[str, Any]) -> str:
    low, high = found["degree_min"], found["degree_max"]
    return str(low) if low == high else f"{low} to {high}"


def _rounds(rounds: int | None) -> str:
    error = f"{analysis.CONSENSUS_ERROR:g} of the disagreement"
    return f"{rounds} rounds to {error}" if rounds is not None else "never"


def _across(found: dict[str, Any]) -> str:
    return f"{'' if found['diameter_exact'] else '≥ '}{found['diameter']}"


def _few(names: "tuple[str, ...]") -> str:
    return " ".join(names[:8]) + (f" … ({len(names)} in all)" if len(names) > 8 else "")


def _draw(graph: "Graph", picture: Path, marks: "tuple[str, ...]") -> None:
    from agent.charts import topology_graph  # loads matplotlib

    form = picture.suffix.lower()
    if form not in (".svg", ".png"):
        raise ConfigurationError(f"{picture}: a drawing ends in .svg or .png")
    if len(graph) > DRAWN_AGENTS_MAX or graph.number_of_edges() > DRAWN_EDGES_MAX:
        raise ConfigurationError(
            f"{picture}: a drawing has at most {DRAWN_AGENTS_MAX} agents "
            f"and {DRAWN_EDGES_MAX} edges"
        )
    write_bytes(picture, topology_graph(graph, marks, "svg" if form == ".svg" else "png"))


def _family_command(name: str, family: Family) -> click.Command:
    def draw(
        agents: int,
        mixing_spec: str | None,
        parameters: int,
        picture: Path | None,
        output: Path | None,
        as_json: bool,
        **values: float,
    ) -> None:
        pairs = ",".join(f"{key}={value!r}" for key, value in values.items())
        topology = f"{name}:{pairs}" if pairs else name
        graph = graphs.build(topology, agents)
        chosen = mixing_spec or mixing.DEFAULT_MIXING
        if output is not None:
            write_text(output, graphs.dump(graph, topology, mixing.check_name(chosen)))
        _tell(graph, topology, chosen, parameters, picture, as_json)

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
    callback = _mixing_option(_parameters_option(_draw_option(callback)))
    callback = click.option("--agents", type=int, required=True, help="Number of agents.")(callback)
    example = f"\b\nExample:\n  candor topology {name} --agents 16 -o t.toml"
    return click.command(name, help=f"{family.summary}\n\n{example}")(callback)


for _name, _family in FAMILIES.items():
    command.add_command(_family_command(_name, _family))
