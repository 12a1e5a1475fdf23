"""`candor cluster check`: is this the right file, are these the right keys, does anybody answer?

No clock is read but to bound the wait: certificates and signatures here do not expire.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from candor.agent.algorithms.catalogue import check_breakdown
from candor.agent.cli.options import (
    ABOVE_0,
    FOLDER,
    PATH,
    data_root_option,
    initial_option,
    json_option,
    organiser_option,
)
from candor.agent.daemon import keys, organisers
from candor.agent.daemon.reachability import Answer, dial_all, greet_all
from candor.agent.runs import cluster_parts as compose
from candor.network.identity import Identity
from candor.topologies.cluster.file import AgentEntry, Cluster, load_cluster
from candor.topologies.cluster.revisions import check_succession
from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError, located


@click.command()
@click.argument("file", type=PATH)
@click.option("--id", "agent", help="Check as this agent: only its neighbours are dialled.")
@click.option(
    "--keys",
    "keys_dir",
    type=FOLDER,
    help="Check that these are the keys of --id, and shake hands with its neighbours.",
)
@organiser_option(
    "Check that this organiser signed it: an identity in hex, or a public.toml.  [default: one "
    "that KEYS has asked]"
)
@click.option(
    "--previous", type=PATH, help="Check that it follows this file, which has been in use."
)
@click.option(
    "--timeout-s",
    type=ABOVE_0,
    default=5.0,
    help="Longest wait for all endpoints together, seconds.",
)
@click.option("--no-dial", is_flag=True, help="Connect to nobody.")
@click.option("--no-task", is_flag=True, help="Do not build the task's model.")
@initial_option
@data_root_option
@json_option
@click.pass_context
def check(
    context: click.Context,
    file: Path,
    agent: str | None,
    keys_dir: Path | None,
    organiser: str | None,
    previous: Path | None,
    timeout_s: float,
    no_dial: bool,
    no_task: bool,
    initial: Path | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Check a cluster FILE, the keys and the task on this host, and that its endpoints answer.

    A signed file is checked against its organiser's signature and every agent's own; with --keys,
    it must be signed by an organiser that they have asked, and neighbours must hold the keys that
    the file has for them and let this agent in. Without, an open port may be anybody's.

    Exit codes: 0 all is well, 1 an agent does not answer, 2 file, keys or task are not right,
    3 the file is not what was signed, or not by whom or after what it should be.

    \b
    Examples:
      candor cluster check cluster.toml --id alice --keys keys/alice
      candor cluster check cluster.toml --organiser organiser.toml --previous old.toml --no-dial
    """
    cluster = load_cluster(file)
    organisers.check_signer(cluster, file, organiser, keys_dir)
    origin = "" if previous is None else _origin(cluster, file, previous)
    with located(str(file)):
        check_breakdown(cluster)
    compose.check_rule(cluster.payments.rule)
    compose.check_partition(cluster.task.partition)
    dialled = cluster.ids if agent is None else cluster.neighbours(agent)
    if keys_dir is not None and agent is None:
        raise ConfigurationError("--keys: say whose keys they are with --id")
    identity = keys.load_of(cluster.agent(agent), keys_dir) if agent and keys_dir else None
    if not no_task:
        _check_task(cluster, data_root, initial)
    entries = [] if no_dial else [cluster.agent(name) for name in dialled]
    answers = _answers(entries, identity, timeout_s)
    silent = [e.id for e in entries if all(answers[place].reason for place in e.endpoints)]
    if as_json:
        facts = _facts(cluster, entries, answers)
        checked = {"ok": not silent, "keys_checked": identity is not None}
        warnings = compose.warnings_of(cluster)
        click.echo(json_text(facts | checked | {"warnings": warnings}))
    else:
        _tell(cluster, file, origin)
        _tell_answers(entries, answers, handshakes=identity is not None)
    if silent:
        context.exit(1)


def _origin(cluster: Cluster, file: Path, previous: Path) -> str:
    """How the file stands to the previous one, which it must be able to follow."""
    old = load_cluster(previous)
    with located(str(file)):
        check_succession(old, cluster)
    before, after = (each.revision.number for each in (old, cluster) if each.revision)
    match after - before:
        case 0:
            return f"the same revision as {previous}"
        case 1:
            return f"follows {previous}"
        case 2:
            return f"later than {previous}: revision {before + 1} is between"
        case _:
            return f"later than {previous}: revisions {before + 1} to {after - 1} are between"


def _facts(
    cluster: Cluster, entries: Sequence[AgentEntry], answers: Mapping[str, Answer]
) -> dict[str, Any]:
    return {
        "run_id": cluster.run_id,
        "fingerprint": cluster.fingerprint,
        "revision": cluster.revision.model_dump() if cluster.revision else None,
        "endpoints": [
            {"agent": entry.id, "endpoint": place, "reason": answers[place].reason}
            for entry in entries
            for place in entry.endpoints
        ],
    }


def _check_task(cluster: Cluster, data_root: Path | None, initial: Path | None) -> None:
    from candor.agent.learning.initial import verified_initial_parameters
    from candor.agent.learning.rows import learner_of
    from candor.agent.tasks import resolve_task
    from candor.agent.tasks.base import is_policy_task
    from candor.agent.tasks.partition import Shard

    task = resolve_task(cluster.task.name, data_root)
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    if is_policy_task(task):  # an episode, by which an environment shows that it is sound
        shard = Shard(0, len(cluster.ids))
        learner_of(cluster, data_root, (shard,), "cpu", initial=initial).check_samples(
            x, cluster.ids
        )


def _answers(
    entries: Sequence[AgentEntry], identity: Identity | None, timeout_s: float
) -> dict[str, Answer]:
    servers = {place: entry.curve for entry in entries for place in entry.endpoints}
    if identity is None:
        return dial_all(servers, timeout_s)
    return greet_all(servers, (identity.curve_public, identity.curve_secret), timeout_s)


def _tell(cluster: Cluster, file: Path, origin: str) -> None:
    unsigned = "" if cluster.revision else "not signed, "
    click.echo(f"{file}: valid, {unsigned}fingerprint {cluster.fingerprint}")
    if cluster.revision:
        number, organiser = cluster.revision.number, cluster.revision.organiser
        click.echo(f"revision {number}, signed by organiser {organiser}")
        click.echo(f"all {len(cluster.ids)} agents signed their entries for this organiser")
    for warning in compose.warnings_of(cluster):
        click.echo(f"warning: {warning}", err=True)
    if origin:
        click.echo(origin)


def _tell_answers(
    entries: Sequence[AgentEntry], answers: dict[str, Answer], *, handshakes: bool
) -> None:
    for entry in entries:
        reached = any(answers[place].reason is None for place in entry.endpoints)
        for place in entry.endpoints:
            click.echo(_endpoint_line(entry.id, place, answers[place], reached, handshakes))


def _endpoint_line(
    agent: str, endpoint: str, answer: Answer, reached: bool, handshakes: bool
) -> str:
    if answer.reason is None:
        took = f"{1000 * answer.seconds:.0f} ms"
        if handshakes:
            return f"ok    {agent} {endpoint} ({took})"
        return f"open  {agent} {endpoint} ({took}; keys not checked: give --id and --keys)"
    if reached:
        return f"-     {agent} {endpoint}: {answer.reason}; it answers elsewhere"
    hint = "" if answer.connected else "; does its agent run, and is the port open?"
    return f"FAIL  {agent} {endpoint}: {answer.reason}{hint}"
