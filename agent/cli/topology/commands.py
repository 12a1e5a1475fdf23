"""`candor topology`: draw graphs by family, look at one's cost and speed, and compare several.

Every entry of `families.FAMILIES` becomes a subcommand, with an option for each parameter.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import networkx as nx

from candor.agent.cli.options import (
    COUNT,
    FILE,
    json_option,
    mixing_option,
    output_option,
    seed_option,
    stacked,
    undirected_option,
)
from candor.agent.cli.topology import tables as topology_tables
from candor.agent.reports import terminal_graph
from candor.agent.runs.declared import EQUAL, SAMPLES, given
from candor.topologies.graphs import graphs
from candor.topologies.graphs.families import FAMILIES, Family
from candor.topologies.mixing import consensus, matrices, sizes
from candor.topologies.mixing import rules as mixing
from candor.topologies.mixing.rules import PUSH_SUM
from candor.topologies.schedules import costs as analysis
from candor.topologies.schedules import schedules
from candor.topologies.schedules.schedules import Schedule
from candor.topologies.specs.files import json_text, write_bytes, write_text
from candor.topologies.specs.specs import ConfigurationError
from candor.topologies.specs.tables import suffix

if TYPE_CHECKING:
    Graph = nx.Graph[str]

# More of a picture take minutes to place, and show nothing.
DRAWN_AGENTS_MAX, DRAWN_EDGES_MAX = 1000, 20_000

_parameters_option = click.option(
    "--parameters",
    type=COUNT,
    default=1_000_000,
    help="Float32 parameters of the model, for the bytes of a round: those of the updates alone; "
    "sketches (some 8 kB a statement), claims and notices come on top.",
)
_draw_option = click.option(
    "--draw",
    "picture",
    type=FILE,
    metavar="FILE",
    help="Draw the graph into a .png or .svg file; weak points are diamonds with their names.",
)
_agents_option = click.option("--agents", type=int, help="Number of agents; a file has its own.")


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
@undirected_option("spec")
@_agents_option
@seed_option
@mixing_option
@click.option(
    "--weights",
    metavar="ID=NUMBER,…",
    help="Sizes of the agents, by which the mean is weighted; on one undirected graph.  [default: "
    "all count alike]",
)
@_parameters_option
@_draw_option
@json_option
def show(
    spec: str,
    agents: int | None,
    seed: int,
    mixing_name: str | None,
    weights: str | None,
    **shown: Any,
) -> None:
    """Show the topology of a SPEC or a FILE.

    A SPEC is a family with its parameters (torus, erdos-renyi:p=0.4,seed=3), a generator of
    networkx (networkx:petersen_graph), a function of your own (module:function, called with the
    number of agents) or a schedule, as for `schedule`; of that, rates and rounds are measured where
    they cannot be computed, and what is drawn are the edges of all rounds. A FILE
    ends in .toml, .graphml, .gexf, .xml (of these two), .gml, .net (Pajek), .json (node-link),
    .csv (adjacency or edge table), .edges, .edgelist, .txt or .adjlist.

    \b
    Examples:
      candor topology show t.toml
      candor topology show torus --agents 16 --json
      candor topology show one-peer-exponential --agents 16
      candor topology show networkx:petersen_graph --mixing best-constant --draw petersen.png
    """
    found = schedules.build(spec, agents, seed)
    if weights == SAMPLES:
        raise ConfigurationError("--weights: a topology has no samples; write ID=NUMBER,…")
    declared = [] if weights in (None, EQUAL) else given(found.agents, str(weights))
    _tell(found, mixing_name or _mixing_of(found), declared=declared, **shown)


@command.command()
@click.argument("specs", metavar="SPEC|FILE...", nargs=-1, required=True)
@undirected_option("specs")
@_agents_option
@seed_option
@click.option(
    "--mixing",
    "mixing_names",
    multiple=True,
    metavar="NAME|FILE",
    help="As in `show`; repeated, each topology has a row for each.",
)
@_parameters_option
@click.option(
    "--measure",
    is_flag=True,
    help=f"Average random vectors for {consensus.MEASURED_ROUNDS} rounds, too (a schedule for "
    f"{analysis.MEASURED_ROUNDS}): the factor by which disagreement shrinks a round, next to the "
    "one that the spectrum predicts.",
)
@json_option
def compare(
    specs: tuple[str, ...],
    agents: int | None,
    seed: int,
    mixing_names: tuple[str, ...],
    parameters: int,
    measure: bool,
    as_json: bool,
) -> None:
    """Compare topologies and schedules: what each costs a round, how many rounds it takes to agree.

    \b
    Examples:
      candor topology compare ring torus expander one-peer-exponential --agents 64
      candor topology compare ring star --agents 16 --mixing lazy --mixing best-constant --measure
      candor topology compare one-peer-exponential failing:base=torus,p=0.2 --agents 16 --measure
    """
    rows: list[dict[str, Any]] = []
    for spec in specs:
        found = schedules.build(spec, agents, seed)
        chosen = mixing_names or (_mixing_of(found),)
        rows += [_facts(found, name, parameters, measure=measure) for name in chosen]
    if as_json:
        listed = ("agents", "edges")
        counted = [row | {name: len(row[name]) for name in listed} for row in rows]
        click.echo(json_text(counted))
        return
    shown_mixing = bool(mixing_names) or len({row["mixing"] for row in rows}) > 1
    topology_tables.compared(rows, parameters, mixings=shown_mixing, measured=measure)


@command.command()
@click.argument("spec")
@undirected_option("spec")
@_agents_option
@seed_option
@click.option("--rounds", type=click.IntRange(1, 100_000), default=20, help="How many.")
@json_option
def schedule(spec: str, agents: int | None, seed: int, rounds: int, as_json: bool) -> None:
    """Show a SPEC of graphs that change from round to round, and measure how they average.

    Disagreement is that of random vectors, 1 at the start. The SPEC is one-peer-exponential,
    random-matching:base=B, rotating:base=B,parts=N, failing:base=B,p=P, with B a graph's spec (by
    default complete, of failing ring), "round-robin:A + B + …" of specs and files; or directed and
    averaged by push-sum: directed-ring, directed-exponential, directed-random:degree=D, a file or
    function with a directed graph.

    \b
    Examples:
      candor topology schedule one-peer-exponential --agents 16 --rounds 4
      candor topology schedule failing:base=torus,p=0.2 --agents 16
      candor topology schedule directed-random:degree=2 --agents 16
    """
    found = schedules.build(spec, agents, seed)
    left = consensus.disagreements(found.matrix, len(found.agents), rounds)
    lines: list[dict[str, Any]] = [
        {"round": t, "edges": [list(e) for e in found.graph(t).edges], "disagreement": one}
        for t, one in enumerate(left, start=1)
    ]
    if as_json:
        known = {"schedule": spec, **_base(found), "agents": found.agents, "period": found.period}
        click.echo(json_text(known | {"rounds": lines}))
        return
    period = "by chance" if found.period is None else f"every {found.period} rounds the same"
    how = ", directed, by push-sum" if found.push_sum else ""
    named = topology_tables.named({"topology": spec, **_base(found)})
    click.echo(f"{named}: {len(found.agents)} agents, {period}{how}\n")
    click.echo(f"{'round':>6}{'edges':>8}  disagreement")
    for line in lines:
        click.echo(f"{line['round']:>6}{len(line['edges']):>8}  {line['disagreement']:.3g}")


def _facts(
    schedule: Schedule,
    mixing_name: str,
    parameters: int,
    *,
    measure: bool = False,
    declared: Sequence[float] = (),
) -> dict[str, Any]:
    """What a machine wants to know of a topology; `analysis.Analysis` explains them."""
    rates: dict[str, float | None] = {}
    once = schedule.period == 1
    if declared and (schedule.rule != schedules.FIXED or mixing_name == PUSH_SUM):
        raise ConfigurationError(
            f"--weights: the rate of {schedule.spec!r} with {mixing_name} is only told without "
            "them, as they need one undirected graph and a symmetric rule here; runs take them"
        )
    if schedule.rule == schedules.FIXED and mixing_name != PUSH_SUM:
        graph = schedule.union
        matrix = matrices.resolve(mixing_name, graph)
        if declared:
            matrix = sizes.corrected(matrices.check_symmetric(matrix, list(graph)), declared)
        found = analysis.analyse(graph, matrix, parameters, declared)
        if measure:
            rate = consensus.measured_rate(matrix)
            rates = {"predicted_rate": 1 - found.spectral_gap, "measured_rate": rate}
    else:
        found = analysis.analyse_schedule(schedule, mixing_name, parameters)
        if measure:
            rates = {
                "predicted_rate": analysis.predicted_rate(schedule, mixing_name),
                "measured_rate": analysis.measured(schedule, mixing_name).rate,
            }
    arcs = once and schedule.push_sum
    edges = schedule.graph(1).edges if arcs else graphs.sorted_edges(schedule.neighbours())
    return {
        "topology": schedule.spec,
        **_base(schedule),
        "agents": list(schedule.agents),
        "edges": [list(edge) for edge in edges],
        "mixing": mixing_name,
        **asdict(found),
        **({"shares": sizes.shares(declared)} if declared else {}),
        **({} if once else {"period": schedule.period}),
        **rates,
    }


def _base(schedule: Schedule) -> dict[str, str]:
    return {} if schedule.base is None else {"base": schedule.base}


def _mixing_of(schedule: Schedule) -> str:
    """The mixing that a run would have without being told."""
    return PUSH_SUM if schedule.push_sum else schedule.mixing


def _tell(
    schedule: Schedule,
    mixing_name: str,
    parameters: int,
    picture: Path | None,
    as_json: bool,
    declared: Sequence[float] = (),
) -> None:
    if mixing_name == "fastest":
        click.echo("solving for the fastest weights, up to minutes …", err=True)
    found = _facts(schedule, mixing_name, parameters, declared=declared)
    if picture is not None:
        _draw(schedule.neighbours(), picture, found["articulation_points"])
    if as_json:
        click.echo(json_text(found))
        return
    click.echo("\n".join(topology_tables.described(found)) + "\n")
    graph = schedule.neighbours()
    if terminal_graph.fits(graph):
        click.echo("\n".join(terminal_graph.drawn(graph)) + "\n")
    shown = schedule.graph(1) if schedule.period == 1 else graph
    click.echo("\n".join(topology_tables.neighbours(shown)))


def _draw(graph: "Graph", picture: Path, marks: "tuple[str, ...]") -> None:
    from candor.agent.reports.charts import topology_graph  # loads matplotlib

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
    options = stacked(
        click.option("--agents", type=int, required=True, help="Number of agents."),
        mixing_option,
        _parameters_option,
        _draw_option,
        output_option("Write it here.", required=False),
        json_option,
        *(
            click.option(f"--{one.name}", type=one.kind, default=one.default, help=one.summary)
            for one in family.parameters
        ),
    )
    example = f"\b\nExample:\n  candor topology {name} --agents 16 -o t.toml"
    help_text = f"{family.summary}\n\n{example}"
    return click.command(name, help=help_text)(options(partial(_draw_family, name)))


def _draw_family(
    name: str,
    agents: int,
    mixing_name: str | None,
    parameters: int,
    picture: Path | None,
    output: Path | None,
    as_json: bool,
    **values: float,
) -> None:
    pairs = ",".join(f"{key}={value!r}" for key, value in values.items())
    topology = f"{name}:{pairs}" if pairs else name
    graph = graphs.build(topology, agents)
    chosen = mixing_name or mixing.DEFAULT_MIXING
    if output is not None:
        if suffix(chosen) in matrices.ENDINGS:
            raise ConfigurationError(
                f"{output}: a topology file names a rule and holds no matrix; leave out "
                f"--mixing {chosen} here, and give it where the graph is used"
            )
        text = graphs.dump(graph, topology, mixing.check_name(chosen))
        write_text(output, text, keeping=True)
    _tell(schedules.fixed(graph, topology), chosen, parameters, picture, as_json)


for _name, _family in FAMILIES.items():
    command.add_command(_family_command(_name, _family))
