"""`candor cluster`: write, check and show the file that all agents of a run share."""

from pathlib import Path
from typing import Any

import click

from candor.agent.cli.cluster.check import check
from candor.agent.cli.cluster.members import (
    add,
    amend,
    facts,
    gap_of,
    remove,
    request,
    signed_line,
    tell_written,
)
from candor.agent.cli.options import (
    FOLDER,
    PATH,
    data_root_option,
    initial_option,
    json_option,
    mixing_option,
    output_option,
    seed_option,
    settings_options,
    sign_with_option,
    task_option,
    topology_option,
    weights_option,
)
from candor.agent.daemon import keys
from candor.agent.reports import terminal_graph
from candor.agent.reports.metric import idle_settings
from candor.agent.runs import cluster_parts as compose
from candor.topologies.cluster.file import Cluster, dump_cluster, load_cluster
from candor.topologies.specs.files import json_text, write_text


@click.group("cluster")
def command() -> None:
    """Write, check and show a cluster file: who is in a run, and what all do alike.

    Agents ask to join, an organiser signs who is in; agents join and leave in numbered revisions.

    \b
    Examples:
      candor cluster request keys/alice --id alice --endpoint tcp://198.51.100.10:7000 \\
          --organiser organiser.toml -o alice.request.toml
      candor cluster new requests/*.toml --sign-with keys/organiser --topology ring --task digits \\
          --run-id spring -o cluster.toml
      candor cluster check cluster.toml --id alice --keys keys/alice
      candor cluster add cluster.toml dave.request.toml --sign-with keys/organiser -o new.toml
    """


@command.command()
@click.argument("requests", nargs=-1, type=PATH)
@sign_with_option()
@topology_option()
@task_option()
@click.option("--run-id", required=True, help="Name of the run; in every signature.")
@output_option("Write the cluster file here.")
@click.option(
    "--agent",
    "named",
    multiple=True,
    metavar="ID=KEYS@ENDPOINT",
    help="An agent: its public.toml or keys directory, and the address its neighbours dial.",
)
@click.option("--agents", type=int, help="All on this host: how many agents.")
@click.option("--base-port", type=int, help="All on this host: agent number i gets port P + i.")
@click.option("--keys-root", type=FOLDER, help="All on this host: keys lie in KEYS_ROOT/ID.")
@mixing_option
@weights_option
@seed_option
@click.option(
    "--rounds", type=int, default=100, help="Rounds to train; testbed and simulate must be told."
)
@settings_options()
@initial_option
@data_root_option
@json_option
def new(sign_with: Path | None, output: Path, as_json: bool, **asked: Any) -> None:
    """Write a cluster file: signed from join REQUESTS, or unsigned from public keys and addresses.

    Without requests, agents are named one by one with --agent, or all on this host with --base-port
    and --keys-root. Agents take the places of a family or schedule in the order given; a topology
    file knows its agents by name. The file holds the graph and the weights of every round.

    All agents count alike, unless --weights says otherwise: with samples, each request must declare
    its own number, and where all are on this host their samples are counted.

    \b
    Examples:
      candor cluster new requests/*.toml --sign-with keys/organiser --topology ring --task digits \\
          --run-id spring -o cluster.toml
      candor cluster new --topology ring --task digits --run-id demo -o c.toml \\
          --agent alice=keys/alice@tcp://10.0.0.1:7000 --agent bob=bob.toml@tcp://10.0.0.2:7000
      candor cluster new --topology torus --agents 4 --base-port 7000 --keys-root keys \\
          --task digits --run-id demo -o c.toml
    """
    key = keys.load(sign_with).signing_key if sign_with else None
    cluster = compose.new_cluster(asked, key)
    write_text(output, dump_cluster(cluster), keeping=True)
    tell_written(output, cluster, as_json, asked["initial"])


@command.command()
@click.argument("file", type=PATH)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show a cluster FILE: its fingerprint, settings, graph and agents, and who dials whom.

    \b
    Example:
      candor cluster show c.toml
    """
    cluster = load_cluster(file)
    if as_json:
        click.echo(json_text(facts(cluster)))
        return
    sections = cluster.model_dump(exclude={"agents", "graph"})
    click.echo(f"run {cluster.run_id}, seed {cluster.seed}, fingerprint {cluster.fingerprint}")
    click.echo(f"{'signed':<11}{signed_line(cluster)}")
    idle = idle_settings(sections["task"], sections["algorithm"])
    for name in ("task", "algorithm", "rounds", "payments"):
        given = {
            key: value
            for key, value in sections[name].items()
            if value is not None and f"{name}.{key}" not in idle
        }
        settings = ", ".join(f"{key} {value}" for key, value in given.items())
        click.echo(f"{name:<11}{settings}")
    click.echo(f"{'weights':<11}{_weights_line(cluster)}")
    graph, gap, period = cluster.graph, gap_of(cluster), cluster.round_weights.period
    click.echo(
        f"{'graph':<11}{graph.topology}, {len(graph.edges)} edges, schedule {graph.schedule}, "
        f"mixing {graph.mixing}"
        + ("" if gap is None else f", spectral gap {gap:.4f}")
        + {1: "", None: ", by chance"}.get(period, f", every {period} rounds the same")
    )
    union = cluster.networkx_graph()
    if terminal_graph.fits(union):
        title = "" if period == 1 else "\nAll rounds together:"
        click.echo("\n".join((title, *terminal_graph.drawn(union))))
    click.echo("\nEach agent listens at its endpoint and dials its neighbours there:")
    width = max(len(name) for name in cluster.ids)
    places = {entry.id: ", ".join(entry.endpoints) for entry in cluster.agents}
    place = max(map(len, places.values()))
    shares = dict(zip(cluster.ids, map(_share, cluster.shares), strict=True))
    for entry in cluster.agents:
        dials = " ".join(cluster.neighbours(entry.id)) or "nobody"
        counts = f"counts {shares[entry.id]:>6}  " if cluster.sizes else ""
        click.echo(f"{entry.id:>{width}}  {places[entry.id]:<{place}}  {counts}dials {dials}")


def _weights_line(cluster: Cluster) -> str:
    """How agents count in the mean that all tend to."""
    if not cluster.sizes:
        return "equal: nobody declares a size, all count alike"
    pairs = sorted(zip(cluster.sizes, cluster.shares, cluster.ids, strict=True))
    (least, low, who), (most, high, whose) = pairs[0], pairs[-1]
    return (
        f"declared, checked by nobody: from {who} {least:g} ({_share(low)} of the mean) to "
        f"{whose} {most:g} ({_share(high)})"
    )


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


command.add_command(check)
for _membership in (request, add, remove, amend):
    command.add_command(_membership)
