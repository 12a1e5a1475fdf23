"""`candor cluster request`, `add`, `remove`, `amend`: from a join request to the next revision."""

import shlex
import time
from pathlib import Path
from typing import Any

import click

from candor.agent.cli.options import (
    COUNT,
    FOLDER,
    PATH,
    FiniteRange,
    data_root_option,
    initial_option,
    json_option,
    organiser_option,
    output_option,
    sign_with_option,
    stacked,
    topology_option,
)
from candor.agent.daemon import keys, organisers
from candor.agent.runs import cluster_parts as compose
from candor.topologies.cluster.file import Cluster, dump_cluster, load_cluster
from candor.topologies.cluster.requests import (
    WEIGHT_MAX,
    WEIGHT_MIN,
    dump_request,
    make_request,
)
from candor.topologies.mixing import spectral
from candor.topologies.specs.files import json_text, write_text
from candor.topologies.specs.specs import ConfigurationError


@click.command()
@click.argument("directory", metavar="KEYS", type=FOLDER)
@click.option("--id", "agent", required=True, help="The id that this agent shall have.")
@click.option(
    "--endpoint",
    "endpoints",
    required=True,
    multiple=True,
    metavar="ENDPOINT",
    help="Where neighbours dial it; repeated, they try one after the other.",
)
@click.option(
    "--bind",
    multiple=True,
    metavar="ENDPOINT",
    help="Where it listens, if not at its endpoints: tcp://*:7000, tcp://eth0:7000.",
)
@click.option(
    "--weight",
    type=FiniteRange(WEIGHT_MIN, WEIGHT_MAX),
    metavar="NUMBER",
    help="How many samples it has, or another measure of its size. The larger, the more its data "
    "count; all members see it, nobody checks it.  [default: declare none]",
)
@organiser_option(
    "Who may put the run together: an identity in hex, or the organiser's public.toml.",
    required=True,
)
@output_option("Write the request here.")
@json_option
def request(
    directory: Path,
    agent: str,
    endpoints: tuple[str, ...],
    bind: tuple[str, ...],
    weight: float | None,
    organiser: str,
    output: Path,
    as_json: bool,
) -> None:
    """Ask to join a run: write a small file, signed with KEYS, for the organiser.

    It says under which id, keys and addresses this agent takes part, and which organiser it trusts.
    KEYS/organisers remembers that: with these keys, check and daemon refuse a file that nobody whom
    they have asked has signed. Nothing in the request is secret.

    \b
    Example:
      candor cluster request keys/alice --id alice --endpoint tcp://alice.example:7000 \\
          --endpoint tcp://[2001:db8::10]:7000 --organiser organiser.toml -o alice.request.toml
    """
    identity = keys.load(directory)
    made = make_request(
        identity.signing_key,
        organiser=organisers.organiser_key(organiser),
        agent=agent,
        curve=identity.curve_public,
        endpoints=endpoints,
        bind=bind,
        serial=time.time_ns() // 1_000_000,
        weight=weight,
    )
    organisers.remember(directory, made.organiser)
    write_text(output, dump_request(made), keeping=True)
    if as_json:
        click.echo(json_text({"path": str(output), **made.model_dump(mode="json")}))
        return
    places = ", ".join(endpoints)
    sized = "" if weight is None else f", of weight {weight:g}"
    click.echo(f"{output}: {agent} at {places}{sized}, for organiser {made.organiser}")
    click.echo(f"Next: send {output} to the organiser, who answers with a cluster file.")


_amending = stacked(
    sign_with_option(required=True),
    click.option(
        "--mixing",
        "mixing_name",
        metavar="NAME|FILE",
        help="How neighbours are weighted from now on.  [default: as before, push-sum on a "
        "directed graph]",
    ),
    topology_option(
        "The new graph.  [default: the same spec, drawn for the new members]", required=False
    ),
    initial_option,
    click.option("--rounds", type=int, help="Rounds to train.  [default: as many as before]"),
    click.option(
        "--after-round",
        type=COUNT,
        help="Go on with the run while its daemons run: the new members take part after the window "
        "of settlement that this round is in.  [default: a run of its own]",
    ),
    data_root_option,
    output_option("Write the new cluster file here."),
    json_option,
)


def _amend(file: Path, sign_with: Path, output: Path, as_json: bool, **changed: Any) -> None:
    """Write the next revision, as the options of `_amending` and a command's own have it."""
    if output.exists() and file.exists() and output.samefile(file):
        raise ConfigurationError(
            f"-o {output}: is the file to go on from, which hosts may still need; write another one"
        )
    key = keys.load(sign_with).signing_key
    cluster = compose.next_cluster(load_cluster(file), key, **changed)
    write_text(output, dump_cluster(cluster), keeping=True)
    tell_written(output, cluster, as_json, changed["initial"])


@click.command()
@click.argument("file", type=PATH)
@click.argument("requests", nargs=-1, required=True, type=PATH)
@click.option(
    "--without",
    "leaving",
    multiple=True,
    metavar="ID",
    help="Take this agent out with the same revision; may be repeated.",
)
@_amending
def add(file: Path, requests: tuple[Path, ...], **options: Any) -> None:
    """Let agents join by their REQUESTS: sign the next revision of a cluster FILE.

    An agent that is in already and asks again, with the same identity, gets its new addresses.
    Training begins anew, or goes on from a model that an agent has left: --initial. Or the run goes
    on: --after-round.

    \b
    Example:
      candor cluster add cluster.toml dave.request.toml --sign-with keys/organiser \\
          --initial data/alice/model.safetensors -o cluster-2.toml
    """
    _amend(file, joining=requests, **options)


@click.command()
@click.argument("file", type=PATH)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_amending
def remove(file: Path, ids: tuple[str, ...], **options: Any) -> None:
    """Take agents out: sign the next revision of a cluster FILE, without them.

    Training begins anew, or goes on from a model that an agent has left: --initial. Or the run goes
    on: --after-round.

    \b
    Example:
      candor cluster remove cluster.toml carol --sign-with keys/organiser -o cluster-3.toml
    """
    _amend(file, leaving=ids, **options)


@click.command()
@click.argument("file", type=PATH)
@_amending
def amend(file: Path, **options: Any) -> None:
    """Go on with the same agents: sign the next revision of a cluster FILE, with other settings.

    \b
    Example:
      candor cluster amend cluster.toml --initial data/alice/model.safetensors --rounds 100 \\
          --sign-with keys/organiser -o cluster-4.toml
    """
    _amend(file, **options)


def tell_written(path: Path, cluster: Cluster, as_json: bool, initial: Path | None) -> None:
    """Say which file was written and what to do with it, and with the model it starts from."""
    if as_json:
        click.echo(json_text({"path": str(path), **facts(cluster)}))
        return
    count = f"{len(cluster.ids)} agent{'' if len(cluster.ids) == 1 else 's'}"
    click.echo(f"{path}: run {cluster.run_id}, {count}, fingerprint {cluster.fingerprint}")
    if cluster.revision:
        click.echo(signed_line(cluster))
    for warning in compose.warnings_of(cluster):
        click.echo(f"warning: {warning}", err=True)
    words = ["candor", "cluster", "check", str(path), "--id", "ID", "--keys", "KEYS", "--no-dial"]
    words += [] if initial is None else ["--initial", str(initial)]
    click.echo(f"Next: give {path} to every agent, and run `{shlex.join(words)}` there;")
    click.echo("without --no-dial once the others run, to see whether they answer.")
    if initial is not None:
        click.echo(f"All of them need {initial}, too: each gives it to its daemon as --initial.")
    if cluster.continued is not None:
        click.echo(f"The run goes on by it after round {cluster.after}: put it in the place of the")
        click.echo("file that a daemon was started with; neighbours pass it on. Who joins starts.")
    elif cluster.revision and cluster.revision.number > 1:
        click.echo("Then stop all daemons and start them with it: revisions do not mix.")
        if initial is None:
            click.echo("If an earlier one had --initial, check and daemons need that model still.")


def signed_line(cluster: Cluster) -> str:
    """By whom a file is signed, as which revision."""
    if cluster.revision is None:
        return "by nobody: compare the fingerprint with the others'"
    number, previous = cluster.revision.number, cluster.revision.previous
    follows = f", follows {previous[:16]}" if previous else ""
    if cluster.continued is not None:
        follows += f" and goes on with its run after round {cluster.after}"
    return f"revision {number} by organiser {cluster.revision.organiser}{follows}"


def facts(cluster: Cluster) -> dict[str, Any]:
    """The file's content, its fingerprint, and whom each agent dials."""
    return {
        "fingerprint": cluster.fingerprint,
        **cluster.model_dump(mode="json"),
        "period": cluster.round_weights.period,
        "spectral_gap": gap_of(cluster),
        "shares": dict(zip(cluster.ids, cluster.shares, strict=True)),
        "dials": {agent: list(cluster.neighbours(agent)) for agent in cluster.ids},
    }


def gap_of(cluster: Cluster) -> float | None:
    """The spectral gap of a graph that is the same in every round, None of others."""
    if cluster.round_weights.period != 1 or cluster.round_weights.push_sum:
        return None
    return spectral.spectral_gap(cluster.mixing_matrix(), cluster.sizes)
