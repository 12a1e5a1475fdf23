"""`candor cluster`: write, check and show the file that all agents of a run share."""

import json
from pathlib import Path
from typing import Any

import click

from agent import compose, keys
from agent.dial import Answer, dial_all
from agent.options import (
    data_root_option,
    json_option,
    mixing_option,
    section,
    settings_options,
)
from topologies import graphs, schedules, spectral
from topologies.cluster import (
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    assemble_cluster,
    dump_cluster,
    load_cluster,
)
from topologies.files import write_text
from topologies.specs import ConfigurationError


@click.group("cluster")
def command() -> None:
    """Write, check and show a cluster file: who is in a run, and what all do alike.

    \b
    Examples:
      candor cluster new --topology ring --task digits --run-id demo -o c.toml \\
          --agent alice=keys/alice@tcp://10.0.0.1:7000 --agent bob=bob.toml@tcp://10.0.0.2:7000
      candor cluster check c.toml --id alice --keys keys/alice
      candor cluster show c.toml
    """


@command.command()
@click.option("--topology", required=True, metavar="SPEC|FILE", help="A spec or file.")
@click.option("--task", required=True, metavar="NAME", help="A built-in task, or module:Class.")
@click.option("--run-id", required=True, help="Name of the run; in every signature.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the cluster file here.",
)
@click.option(
    "--agent",
    "named",
    multiple=True,
    metavar="ID=KEYS@ENDPOINT",
    help="An agent: its public.toml or keys directory, and the address its neighbours dial.",
)
@click.option("--agents", type=int, help="All on this host: how many agents.")
@click.option("--base-port", type=int, help="All on this host: agent number i gets port P + i.")
@click.option(
    "--keys-root",
    type=click.Path(path_type=Path, file_okay=False),
    help="All on this host: keys lie in KEYS_ROOT/ID.",
)
@mixing_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the run.")
@click.option("--rounds", type=int, default=100, show_default=True, help="Rounds to train.")
@settings_options()
@data_root_option
@json_option
def new(
    topology: str,
    task: str,
    run_id: str,
    output: Path,
    named: tuple[str, ...],
    agents: int | None,
    base_port: int | None,
    keys_root: Path | None,
    mixing_name: str | None,
    seed: int,
    data_root: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write a cluster file from public keys, addresses and settings.

    Agents are either named one by one with --agent, or all on this host with --base-port and
    --keys-root. Named agents take the places a0, a1, … of a family in the order given; a topology
    file knows its agents by name.

    \b
    Examples:
      candor cluster new --topology ring --task digits --run-id demo -o c.toml \\
          --agent alice=keys/alice@tcp://10.0.0.1:7000 --agent bob=bob.toml@tcp://10.0.0.2:7000
      candor cluster new --topology torus --agents 4 --base-port 7000 --keys-root keys \\
          --task digits --run-id demo -o c.toml
    """
    if named and (agents is not None or base_port is not None or keys_root is not None):
        raise ConfigurationError(
            "--agent names agents one by one; leave out --agents, --base-port and --keys-root"
        )
    entries = [compose.named_entry(text) for text in named]
    schedule = schedules.build(topology, len(entries) if named else agents, seed)
    of_file = schedules.is_file(topology)
    source = graphs.load(topology) if of_file and topology.endswith(".toml") else None
    if not named:
        if base_port is None or keys_root is None:
            raise ConfigurationError(
                "who are the agents? give --agent ID=KEYS@ENDPOINT for each, or, with all of them "
                "on this host, --base-port and --keys-root"
            )
        entries = compose.local_entries(schedule.agents, keys_root, base_port)
    elif not of_file and {entry.id for entry in entries} != set(schedule.agents):
        schedule = schedules.renamed(schedule, [entry.id for entry in entries])
    compose.check_rule(settings["rule"])
    compose.check_partition(settings["partition"])
    cluster = assemble_cluster(
        run_id=run_id,
        seed=seed,
        graph=schedule,
        topology=source.topology if source else topology,
        mixing_name=mixing_name or (source.mixing if source else None),
        agents=entries,
        algorithm=section(AlgorithmSettings, settings, "algorithm"),
        rounds=section(RoundSettings, settings, "rounds"),
        payments=section(PaymentSettings, settings, "payments"),
        task=compose.task_settings(
            task,
            seed,
            data_root,
            partition=settings["partition"],
            batch_size=settings["batch_size"],
        ),
    )
    write_text(output, dump_cluster(cluster))
    if as_json:
        click.echo(json.dumps({"path": str(output), **_facts(cluster)}))
        return
    click.echo(f"{output}: run {run_id}, {len(entries)} agents, fingerprint {cluster.fingerprint}")
    click.echo(
        f"Next: give {output} to every agent, and run `candor cluster check {output}` there."
    )


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--id", "agent", help="Check as this agent: only its neighbours are dialled.")
@click.option(
    "--keys",
    "keys_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Check that these are the keys of --id.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Longest wait for all endpoints together, seconds.",
)
@click.option("--no-dial", is_flag=True, help="Connect to nobody.")
@click.option("--no-task", is_flag=True, help="Do not build the task's model.")
@data_root_option
@json_option
@click.pass_context
def check(
    context: click.Context,
    file: Path,
    agent: str | None,
    keys_dir: Path | None,
    timeout_s: float,
    no_dial: bool,
    no_task: bool,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Check a cluster FILE, the keys and the task on this host, and that its endpoints answer.

    Exit codes: 0 all is well, 1 an endpoint does not answer, 2 file, keys or task are not right.

    \b
    Examples:
      candor cluster check c.toml --id a3 --keys keys/a3
      candor cluster check c.toml --no-dial
    """
    cluster = load_cluster(file)
    compose.check_rule(cluster.payments.rule)
    compose.check_partition(cluster.task.partition)
    dialled = cluster.ids if agent is None else cluster.neighbours(agent)
    if keys_dir is not None:
        _check_keys(cluster, agent, keys_dir)
    if not no_task:
        _check_task(cluster, data_root)
    endpoints = {} if no_dial else {name: cluster.agent(name).endpoint for name in dialled}
    answers = dial_all(endpoints.values(), timeout_s)
    reached = all(answer.reason is None for answer in answers.values())
    if as_json:
        shown = [
            {"agent": name, "endpoint": endpoint, "reason": answers[endpoint].reason}
            for name, endpoint in endpoints.items()
        ]
        facts = {"ok": reached, "run_id": cluster.run_id, "fingerprint": cluster.fingerprint}
        click.echo(json.dumps(facts | {"endpoints": shown}))
    else:
        click.echo(f"{file}: valid, fingerprint {cluster.fingerprint}")
        for name, endpoint in endpoints.items():
            click.echo(_endpoint_line(name, endpoint, answers[endpoint]))
    if not reached:
        context.exit(1)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show a cluster FILE: its fingerprint, agents, edges, settings, and who dials whom.

    \b
    Example:
      candor cluster show c.toml
    """
    cluster = load_cluster(file)
    if as_json:
        click.echo(json.dumps(_facts(cluster)))
        return
    sections = cluster.model_dump(exclude={"agents", "graph"})
    click.echo(f"run {cluster.run_id}, seed {cluster.seed}, fingerprint {cluster.fingerprint}")
    for name in ("task", "algorithm", "rounds", "payments"):
        settings = ", ".join(f"{key} {value}" for key, value in sections[name].items())
        click.echo(f"{name:<11}{settings}")
    graph, gap = cluster.graph, _gap(cluster)
    click.echo(
        f"{'graph':<11}{graph.topology}, {len(graph.edges)} edges, schedule {graph.schedule}, "
        f"mixing {graph.mixing}" + ("" if gap is None else f", spectral gap {gap:.4f}")
    )
    click.echo("\nEach agent listens at its endpoint and dials its neighbours there:")
    width = max(len(name) for name in cluster.ids)
    place = max(len(entry.endpoint) for entry in cluster.agents)
    for entry in cluster.agents:
        dials = " ".join(cluster.neighbours(entry.id)) or "nobody"
        click.echo(f"{entry.id:>{width}}  {entry.endpoint:<{place}}  dials {dials}")


def _facts(cluster: Cluster) -> dict[str, Any]:
    """The file's content, its fingerprint, and whom each agent dials."""
    return {
        "fingerprint": cluster.fingerprint,
        **cluster.model_dump(mode="json"),
        "spectral_gap": _gap(cluster),
        "dials": {agent: list(cluster.neighbours(agent)) for agent in cluster.ids},
    }


def _gap(cluster: Cluster) -> float | None:
    """The spectral gap of a graph that is the same in every round, None of others."""
    if cluster.round_weights.period != 1 or cluster.round_weights.push_sum:
        return None
    return spectral.spectral_gap(cluster.mixing_matrix())


def _check_keys(cluster: Cluster, agent: str | None, keys_dir: Path) -> None:
    if agent is None:
        raise ConfigurationError("--keys: say whose keys they are with --id")
    entry, public = cluster.agent(agent), keys.load(keys_dir).public
    for name, stated, found in (
        ("identity", entry.identity, public.identity.hex()),
        ("curve", entry.curve, public.curve),
    ):
        if stated != found:
            raise ConfigurationError(
                f"{keys_dir}: its {name} key is not the one of agent {agent!r} in the cluster file "
                f"({found[:12]}…, not {stated[:12]}…); use that agent's keys or write the file anew"
            )


def _check_task(cluster: Cluster, data_root: Path | None) -> None:
    from agent.learner import verified_initial_parameters
    from agent.tasks import resolve_task

    task = resolve_task(cluster.task.name, data_root)
    verified_initial_parameters(task, cluster.task, cluster.seed)


def _endpoint_line(agent: str, endpoint: str, answer: Answer) -> str:
    if answer.reason is None:
        return f"ok    {agent} {endpoint} ({1000 * answer.seconds:.0f} ms)"
    return f"FAIL  {agent} {endpoint}: {answer.reason}; does its agent run, and is the port open?"
