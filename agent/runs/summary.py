"""The summary of a finished run: metrics and their yardsticks, who paid whom, the audit."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from candor.agent.daemon.lateness import late_json
from candor.agent.daemon.metrics import FILE_NAME as METRICS_NAME
from candor.agent.daemon.metrics import RoundMetrics, read_metrics
from candor.agent.daemon.model_file import MODEL_NAME, rounds_behind
from candor.agent.daemon.participation import View, participation
from candor.agent.daemon.status import Status, misrated_of, standings_of
from candor.agent.learning.measuring import RETURN
from candor.agent.runs.accusations import accusations
from candor.agent.runs.baselines import alone_accuracy, centralised_accuracy, centralised_batch
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import is_policy_task
from candor.agent.tasks.measured import Measured
from candor.topologies.cluster.file import Cluster, TaskSettings
from candor.topologies.specs.files import json_text

FILE_NAME: Final = "summary.json"
_ROWS: Final = 256


def summarise(
    run_dir: Path,
    cluster: Cluster,
    statuses: Mapping[str, Status],
    strategies: Mapping[str, str],
    data_root: Path | None,
    initial: Path | None,
    seconds: float,
    byzantine: Collection[str] = (),
) -> dict[str, Any]:
    """The fields of summary.json (docs/run-directory.md), from what the daemons left behind.

    The yardsticks are trained here, with the same algorithm and number of steps: one model on all
    data and on as many samples as all agents together, and every agent on its own data alone.
    """
    measured = {
        agent: _measured(status)
        for agent, status in statuses.items()
        # Whoever is done has been evaluated last: without a number, its metric is undefined.
        # Who left is measured no more: means are of who is in at the end.
        if agent in cluster.ids and (status.test_accuracy is not None or status.state == "done")
    }
    _, audit = audit_run_directory(run_dir)
    lines = {agent: _lines(run_dir, agent) for agent in cluster.ids}
    return {
        **settings_of_run(cluster, strategies, byzantine),
        **reached(cluster.task, measured, byzantine, strategies),
        **agreement_of(_moves(lines[agent]) for agent in cluster.ids if agent not in strategies),
        **yardsticks(cluster, data_root, initial),
        "balances": {agent: status.balance for agent, status in statuses.items()},
        "edges": _edges(cluster, statuses),
        "beyond_credit": {agent: status.beyond_credit for agent, status in statuses.items()},
        "alone_rounds": {agent: status.alone_rounds for agent, status in statuses.items()},
        "participation": participation_of(cluster, lines),
        **changed_members(cluster),
        "bytes_sent": {agent: status.bytes_sent for agent, status in statuses.items()},
        **rewards_of_run(standings_of(statuses.values())),
        **({"late": late} if (late := late_json(statuses.values())) else {}),
        **({"misrated": misrated} if (misrated := misrated_of(statuses.values())) else {}),
        "consensus_distance": consensus_distance(run_dir, cluster, byzantine),
        "audit": "violated" if audit.findings else "ok",
        **accused_of_run(cluster, run_dir),
        "seconds": round(seconds, 3),
    }


def accused_of_run(cluster: Cluster, run_dir: Path) -> dict[str, Any]:
    """What is proven of whom, a sentence each, and what that costs those who reported falsely, in
    micro-credits; nothing where nobody is."""
    accused = accusations(cluster, run_dir)
    proven = sorted({str(verdict) for verdict in accused.proven.values()})
    owed = {bond.agent: bond.whole for bond in accused.bonds}
    return ({"proven": proven} if proven else {}) | ({"bonds": owed} if owed else {})


def changed_members(cluster: Cluster) -> dict[str, Any]:
    """By agent, the first round of those that joined while the run went on, and the last one of
    those that left; nothing where nobody did."""
    held = cluster.memberships
    joined = {agent: held.joined(agent) for agent in held.identities if held.joined(agent) > 1}
    left = {agent: last for agent in held.identities if (last := held.left(agent)) is not None}
    return ({"joined": joined} if joined else {}) | ({"left": left} if left else {})


def rewards_of_run(standings: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What neighbours think of each agent in the end; nothing where models are not traded."""
    return {"rewards": {a: dict(one) for a, one in standings.items()}} if standings else {}


def settings_of_run(
    cluster: Cluster, strategies: Mapping[str, str], byzantine: Collection[str] = ()
) -> dict[str, Any]:
    """What ran: the fields that say with which settings."""
    return {
        "run_id": cluster.run_id,
        "fingerprint": cluster.fingerprint,
        "rounds": cluster.rounds.rounds,
        "seed": cluster.seed,
        "agents": list(cluster.ids),
        "topology": cluster.graph.topology,
        "task": cluster.task.name,
        "partition": cluster.task.partition,
        "rule": cluster.payments.rule,
        "weights": dict(zip(cluster.ids, cluster.sizes, strict=True)) if cluster.sizes else None,
        "strategies": {agent: strategies.get(agent, "honest") for agent in cluster.ids},
        "byzantine": [agent for agent in cluster.ids if agent in byzantine],
    }


def _measured(status: Status) -> Measured:
    metrics = {name: _number(value) for name, value in status.metrics.items()}
    return Measured(_number(status.test_accuracy), metrics, status.local_metric)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def reached(
    task: TaskSettings,
    measured: Mapping[str, Measured],
    byzantine: Collection[str] = (),
    deviating: Collection[str] = (),
) -> dict[str, Any]:
    """What the agents reached, by agent and over all of them but those who attack: nan where it is
    nan of one.

    The keys say accuracy whatever the metric that counts is called; `min_accuracy` is the worst
    agent's, so the highest where lower values are better. `mean_return`, of policies, leaves out
    whoever deviates in another way, too.
    """
    values = np.array([one.value for agent, one in measured.items() if agent not in byzantine])
    worst = values.min if task.higher_is_better else values.max
    metrics = {agent: dict(one.metrics) for agent, one in measured.items() if one.metrics}
    others = {*byzantine, *deviating}
    honest = [one.value for agent, one in measured.items() if agent not in others]
    returned = task.metric_name == RETURN and bool(honest)
    local = {agent: one.local for agent, one in measured.items() if one.local is not None}
    return {
        "metric": task.metric_name,
        "better": task.better_values,
        "accuracy": {agent: one.value for agent, one in measured.items()},
        "mean_accuracy": float(values.mean()) if len(values) else None,
        "min_accuracy": float(worst()) if len(values) else None,
        **({"mean_return": float(np.mean(honest))} if returned else {}),
        **({"metrics": metrics} if metrics else {}),
        **({"local_metric": local} if local else {}),
    }


def agreement_of(moves: Iterable[Sequence[int]]) -> dict[str, Any]:
    """How hard it was for honest agents to agree on a policy: of the exchanges of each round in
    which averaging moved each of them, the most of any of them, by its mean and largest value over
    the rounds. Nothing where no policies are averaged."""
    known = [each for each in moves if each]
    if not known:
        return {}
    rounds = min(map(len, known))  # an agent that was away has fewer
    most = np.array([each[len(each) - rounds :] for each in known]).max(axis=0)
    return {"agreement_moves": {"mean": float(most.mean()), "max": int(most.max())}}


def participation_of(
    cluster: Cluster, lines: Mapping[str, Sequence[RoundMetrics]]
) -> dict[str, Any]:
    """Each agent's part in the run, in the order of the cluster file, from all agents' lines of
    metrics: those of one that was killed are whole where its last status may be late."""
    views = {
        agent: View.of_lines(
            rounds,
            partial(_taken, cluster, agent),
            cluster.memberships.joined(agent),
            cluster.memberships.left(agent),
        )
        for agent, rounds in lines.items()
    }
    return {agent: asdict(part) for agent, part in participation(views).items()}


def _taken(cluster: Cluster, agent: str, t: int) -> Collection[str]:
    return cluster.memberships.of(t).taken.get(agent, {})


def _lines(run_dir: Path, agent: str) -> list[RoundMetrics]:
    path = run_dir / "agents" / agent / METRICS_NAME
    return read_metrics(path) if path.exists() else []


def _moves(lines: Sequence[RoundMetrics]) -> list[int]:
    return [one.agreement_moves for one in lines if one.agreement_moves is not None]


def yardsticks(
    cluster: Cluster, data_root: Path | None, initial: Path | None, device: str = "cpu"
) -> dict[str, Any]:
    """What a run is compared with; trained here. A policy is compared with that of an agent alone,
    see `alone_accuracy`: samples that could be pooled there are none."""
    if is_policy_task(resolve_task(cluster.task.name, data_root)):
        return {"alone_accuracy": alone_accuracy(cluster, data_root, initial, device)}
    together = cluster.task.batch_size * len(cluster.ids)
    return {
        "centralised_accuracy": centralised_accuracy(cluster, data_root, initial, device),
        "centralised_work": centralised_batch(cluster) / together,
        "alone_accuracy": alone_accuracy(cluster, data_root, initial, device),
    }


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json."""
    text = json_text(summary, indent=2)
    (run_dir / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def consensus_distance(
    run_dir: Path, cluster: Cluster, byzantine: Collection[str] = ()
) -> float | None:
    """Root mean square distance of the agents' final models from their mean, without those who
    attack; None without two. What an agent left that ended early is no final one."""
    models = []
    for agent in (one for one in cluster.ids if one not in byzantine):
        path = run_dir / "agents" / agent / MODEL_NAME
        if rounds_behind(path, cluster.run) == cluster.rounds.rounds:
            tensors = load_file(path)
            models.append(np.concatenate([tensors[name].ravel() for name in sorted(tensors)]))
    if len(models) < 2:
        return None
    return spread(torch.from_numpy(np.stack(models)))


def spread(models: Tensor) -> float:
    """Root mean square distance of models (agents, dim) from their mean."""
    mean = models.mean(dim=0, dtype=torch.float64)
    # Some rows at a time: in binary64 all of a large run would be a copy of twice its size.
    squares = [(some.double() - mean).square().sum() for some in torch.split(models, _ROWS)]
    return math.sqrt(float(torch.stack(squares).sum()) / len(models))


def _edges(cluster: Cluster, statuses: Mapping[str, Status]) -> list[dict[str, Any]]:
    edges = []
    for lo, hi in sorted(cluster.memberships.edges):
        ends = [(statuses.get(lo), hi, 1), (statuses.get(hi), lo, -1)]  # who left knows it still
        seen = [(s.neighbours[k], sign) for s, k, sign in ends if s and k in s.neighbours]
        balance = seen[0][0].balance * seen[0][1] if seen else 0
        edges.append({"lo": lo, "hi": hi, "balance_lo": balance})
    return edges
