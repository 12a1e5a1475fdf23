"""`candor task`: is a task of one's own sound, what does it cost, and do hosts agree on it?"""

import contextlib
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from candor.agent.cli.options import (
    FILE,
    data_root_option,
    device_option,
    initial_option,
    json_option,
    seed_option,
    settings_options,
)
from candor.agent.exits import FAILED
from candor.topologies.cluster.file import POLICY_ALGORITHMS, Cluster, load_cluster
from candor.topologies.specs.files import json_text, read_text
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    from candor.agent.runs.task_check.check import Checked
    from candor.agent.runs.task_check.policies import PolicyFacts

OF_A_ROUND: Final = (
    *("partition", "batch_size", "step_size", "local_steps", "momentum"),
    *("local_epochs", "local_seconds", "deadline_s", "codec"),
)
ROUNDS: Final = 100  # as in a cluster file: a loop may make a schedule of so many
IN_THE_FILE: Final = (*OF_A_ROUND, "agents", "seed")
"""What a cluster file says, where one is given."""


@click.group("task")
def command() -> None:
    """Check a task of one's own: model, data, training and metric.

    \b
    Example:
      candor task check my_task:Class
    """


@command.command("check")
@click.argument("task", required=False, metavar="TASK")
@click.option(
    "--agents",
    type=click.IntRange(2, 1000),
    default=4,
    help="How many agents there will be: each has a shard.",
)
@click.option(
    "--cluster",
    "cluster_path",
    type=FILE,
    help="Check that this host builds the task as this cluster file states it.",
)
@click.option("--id", "agent", help="With --cluster: look at this agent's data only.")
@settings_options(only=OF_A_ROUND)
@seed_option
@initial_option
@data_root_option
@device_option
@click.option(
    "--against",
    type=FILE,
    metavar="FILE.json",
    help="Compare with what --json printed on another host.",
)
@json_option
@click.pass_context
def check(
    context: click.Context,
    /,
    task: str | None,
    cluster_path: Path | None,
    agent: str | None,
    initial: Path | None,
    data_root: Path | None,
    device: str,
    against: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Look at a TASK before a run: build its model, load each agent's data, train a few steps,
    evaluate, and estimate what a round takes.

    Findings are errors (a run would go wrong), warnings (probably not what was meant) and notes,
    each in one line with advice.

    Exit codes: 0 no errors, 1 training goes wrong or hosts differ, 2 bad usage, or a task that no
    run would begin with: one line says why.

    \b
    Examples:
      candor task check my_task:Class --agents 8 --partition dirichlet:0.5
      candor task check --cluster cluster.toml --id alice --json > alice.json
      candor task check my_task:Class --against alice.json
    """
    _check_usage(context, task, cluster_path, agent)
    from candor.agent.runs.task_check import check as checks  # imports torch
    from candor.agent.runs.task_check.advice import advised
    from candor.agent.runs.task_check.findings import worst_first
    from candor.agent.runs.task_check.hosts import differences

    there = None if against is None else _read(against)
    # What a task prints is not the answer.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # of vmap: jargon
        try:
            cluster = _cluster(task, cluster_path, asked, initial, data_root)
            found = checks.checked(cluster, agent, data_root, initial, device)
        except ConfigurationError as exc:
            raise type(exc)(advised(str(exc))) from exc
    facts = checks.as_json(found)
    findings = [*found.findings]
    if there is not None:
        findings = worst_first([*findings, *differences(facts, there)])
    failed = any(finding.kind == "error" for finding in findings)
    if as_json:
        told = [{"kind": f.kind, "what": f.what, "advice": f.advice} for f in findings]
        click.echo(json_text(facts | {"ok": not failed, "findings": told}, indent=2))
    else:
        for name, line in _lines(found):
            click.echo(f"{name:<10}{line}".rstrip())
        for finding in findings:
            click.echo(finding.line)
        click.echo(_verdict([finding.kind for finding in findings]))
    if failed:
        context.exit(FAILED)


def _check_usage(
    context: click.Context, task: str | None, cluster_path: Path | None, agent: str | None
) -> None:
    """Either a task is named, or a cluster file that names it, and says all else."""
    if cluster_path is None:
        if task is None:
            raise click.UsageError("Missing argument 'TASK', or --cluster FILE.", context)
        if agent is not None:
            raise click.UsageError("--id goes with --cluster FILE.", context)
        return
    for name in IN_THE_FILE:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{option} does not go with --cluster: the file says it.", context
            )


def _cluster(
    task: str | None,
    path: Path | None,
    asked: dict[str, Any],
    initial: Path | None,
    data_root: Path | None,
) -> Cluster:
    """The run that is checked: of the cluster file, or what it would be."""
    if path is not None:
        cluster = load_cluster(path)
        if task not in (None, cluster.task.name):
            raise ConfigurationError(f"{path}: its task is {cluster.task.name!r}, not {task!r}")
        return cluster
    from candor.agent.runs.cluster_parts import sections
    from candor.agent.runs.task_check.check import stand_in_of

    given: dict[str, Any] = {"task": task, "rule": "none", "rounds": ROUNDS}
    given |= {"initial": initial, "data_root": data_root}
    return stand_in_of(sections(asked | given), asked["agents"], asked["seed"])


def _read(path: Path) -> dict[str, Any]:
    """What another host printed."""
    try:
        found = json.loads(read_text(path, "check"))
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{path}: is no JSON ({exc})") from exc
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: is not what candor task check --json printed")
    return found


def _lines(found: "Checked") -> list[tuple[str, str]]:
    """What is told of a task, by what it is about."""
    model, time = found.model, found.time
    stays = [f"{model.frozen_numbers:,} frozen"] * bool(model.frozen)
    stays += [f"{model.own_numbers:,} of each agent's own"] * bool(model.own)
    lines = [
        ("task", found.task),
        (
            "model",
            f"{model.kind}, digest {model.digest[:12]}…; "
            + (f"stay here: {', '.join(stays)}" if stays else "all of it travels"),
        ),
        (
            "travels",
            f"{model.numbers:,} numbers of {_count(len(model.travels), 'tensor')}, "
            f"{model.payload_bytes:,} bytes a round to each neighbour ({model.codec})",
        ),
        (
            "trains",
            "many agents at a time in simulations"
            if found.why_alone is None
            else f"each agent by itself: {found.why_alone}",
        ),
    ]
    if (policy := found.policy) is not None:
        lines += _of_policy(policy)
    if found.shards:
        lines.append(("data", _of_data(found)))
    better = "higher" if model.higher_is_better else "lower"
    before, after = found.metric
    local = "" if found.local is None else f", on its own data {found.local:.4g}"
    lines += [
        (
            "metric",
            f"{model.metric}, {better} is better: {before:.4g}, after {found.trained_steps} steps "
            f"{after:.4g}{local}",
        ),
        ("round", _of_time(found)),
        (
            "memory",
            f"{time.peak_bytes / 2**20:,.0f} MiB at most in this check, of Python, torch, the "
            "model and samples",
        ),
    ]
    return lines


def _of_policy(policy: "PolicyFacts") -> list[tuple[str, str]]:
    shape = "x".join(map(str, policy.observations))
    return [
        (
            "episodes",
            f"{policy.environment}, observations of {shape} numbers, {policy.actions} actions; at "
            f"most {policy.horizon:,} steps, discount {policy.discount:g}",
        ),
        (
            "defaults",
            f"--step-size {policy.step_size:g} --large-batch {policy.large_batch} --small-batch "
            f"{policy.small_batch} --switch-probability {policy.switch_probability:g} of "
            f"--algorithm {', '.join(POLICY_ALGORITHMS)}",
        ),
    ]


def _of_data(found: "Checked") -> str:
    counts = [shard.samples for shard in found.shards]
    low, high = min(counts), max(counts)
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    classes = {label for shard in found.shards for label in shard.classes}
    first = found.shards[0]
    forms = ", ".join(
        "x".join(map(str, shape)) + " " * bool(shape) + kind
        for shape, kind in zip(first.shapes, first.types, strict=True)
    )
    of_classes = f", {len(classes)} classes" if classes else ""
    return f"{_count(len(counts), 'shard')} of {each} samples{of_classes}; a sample is {forms}"


def _of_time(found: "Checked") -> str:
    time = found.time
    steps = "as many steps as it likes" if time.steps is None else _count(time.steps, "step")
    steps += f" of {found.batch_size} episodes" if found.policy else ""
    waits = f"neighbours wait {time.deadline_s:g} s (--deadline-s)"
    evaluation = "evaluate()" if found.policy is None else "measuring a policy"
    evaluation = f"{evaluation} {time.evaluation_s:.3g} s"
    return f"about {time.round_s:.3g} s here for {steps}, {evaluation}; {waits}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _verdict(kinds: list[str]) -> str:
    """How many findings there are of each kind."""
    counts = {kind: kinds.count(kind) for kind in ("error", "warning", "note")}
    told = ", ".join(_count(count, kind) for kind, count in counts.items() if count)
    return f"{told}: mend the errors before a run" if counts["error"] else told or "all is well"
