"""The check of a task: build, look at the data, train a few steps, measure, and sum up."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import candor
from candor.agent.core.terms import codec_of
from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import verified_initial_parameters
from candor.agent.learning.layout import Layout
from candor.agent.learning.learner import Learner, Learning
from candor.agent.learning.policy_gradient import PolicyLearner
from candor.agent.learning.rows import learner_of, usable_device
from candor.agent.learning.trainer import Trainer
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.task_check import data, model, policies, training
from candor.agent.runs.task_check.findings import Finding, worst_first
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import (
    AnyTask,
    Evaluated,
    Loop,
    PolicyTask,
    Task,
    is_loop,
    is_policy_task,
)
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import Cluster, assemble_cluster
from candor.topologies.schedules import schedules


@dataclass(frozen=True, slots=True)
class Time:
    """What a round costs here: `steps` of `step_s` seconds each, so many in all, None where the
    loop does not say how many it takes; `evaluation_s`; `peak_bytes` of this process."""

    steps: int | None
    step_s: float
    round_s: float
    evaluation_s: float
    deadline_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Checked:
    """All that was found. `why_alone`: why agents are trained each by itself, None where many are
    at a time; `metric` before and after `trained_steps`, `local` on the agent's own data."""

    task: str
    seed: int
    model: model.ModelFacts
    shards: tuple[data.ShardFacts, ...]
    why_alone: str | None
    loss: float | None
    trained_steps: int
    metric: tuple[float, float]
    local: float | None
    time: Time
    findings: tuple[Finding, ...]
    policy: policies.PolicyFacts | None = None
    batch_size: int = 0


def stand_in_of(sections: Mapping[str, Any], agents: int, seed: int) -> Cluster:
    """The run that would be, of agents that nobody is yet."""
    schedule = schedules.build("ring" if agents > 2 else "complete", agents, seed)
    return assemble_cluster(
        run_id="check",
        seed=seed,
        graph=schedule,
        agents=stand_in_entries(schedule.agents),
        **sections,
    )


def checked(
    cluster: Cluster,
    agent: str | None,
    data_root: Path | None,
    initial: Path | None,
    device: str,
) -> Checked:
    """Check the task of a cluster file, on the data of one of its agents or of all, as it trains on
    a device.

    Raises:
        ConfigurationError: no command would take the task, or its model is not the file's.
    """
    where, codec = usable_device(device), codec_of(cluster)
    task = resolve_task(cluster.task.name, data_root)
    found: list[Finding] = [*model.of_the_class(task)]
    built, layout = model.built_twice(task, cluster.seed, initial)
    facts = model.model_facts(task, built, layout, codec)
    x = verified_initial_parameters(task, cluster.task, cluster.seed, initial)
    found += model.of_the_model(task, built, layout, codec)
    neighbours = max(len(cluster.neighbours(one)) for one in cluster.ids)
    found += model.of_memory(model.memory_needed(facts, neighbours), _memory_bytes())
    names = cluster.ids if agent is None else (agent,)
    shards = {name: _shard(cluster, name) for name in names}
    if is_policy_task(task):
        learner = _policy_learner(cluster, shards, device, data_root, initial)
        return _policy_checked(task, learner, cluster, facts, x, layout, found)
    samples = () if is_loop(task) else data.shard_facts(cast(Task, task), shards, cluster.seed)
    found += data.of_shards(samples, cluster.task.batch_size, alone=agent is not None)
    tried, seen, why_alone = _trained(task, cluster, shards, x, data_root, initial, layout, where)
    found += training.of_training(tried, layout, "train()" if seen else "loss()")
    if seen is not None:
        found += training.of_loop(seen, _phase(cluster))
    contexts, shard = _contexts(cluster, data_root, where), shards[names[0]]
    measured = cast(Evaluated, task)
    before = after = training.evaluated(measured, built, contexts, shard)
    if tried.finite and not before.changed:
        built.load_state_dict(tried.model)
        after = training.evaluated(measured, built, contexts, shard)
    found += training.of_evaluation(before, after, facts.metric)
    time = _time(cluster, tried, seen, samples, before.seconds)
    found += training.of_time(time.round_s, time.evaluation_s, time.deadline_s)
    return Checked(
        task=cluster.task.name,
        seed=cluster.seed,
        model=facts,
        shards=samples,
        why_alone=why_alone,
        loss=tried.loss,
        trained_steps=tried.rounds * training.STEPS,
        metric=(before.measured.value, after.measured.value),
        local=after.measured.local,
        time=time,
        findings=tuple(worst_first(found)),
    )


def as_json(checked: Checked) -> dict[str, Any]:
    """What is printed for machines, and compared with what another host printed."""
    first = checked.shards[0] if checked.shards else None
    classes = sorted({label for shard in checked.shards for label in shard.classes})
    return {
        "task": checked.task,
        "seed": checked.seed,
        "ok": not any(finding.kind == "error" for finding in checked.findings),
        "host": {
            "candor": candor.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "model": _plain(asdict(checked.model)),
        "data": {
            "shapes": None if first is None else _plain(first.shapes),
            "types": None if first is None else list(first.types),
            "classes": classes,
            "shards": [
                {
                    "agent": shard.agent,
                    "samples": shard.samples,
                    "classes": {str(label): count for label, count in shard.classes.items()},
                }
                for shard in checked.shards
            ],
        },
        "trains": {
            "many_at_a_time": checked.why_alone is None,
            "why": checked.why_alone,
            "steps": checked.trained_steps,
            "loss": checked.loss,
        },
        "metric": {
            "before": checked.metric[0],
            "after": checked.metric[1],
            "local": checked.local,
        },
        "time": asdict(checked.time),
        "policy": None if checked.policy is None else _plain(asdict(checked.policy)),
        "findings": [asdict(finding) for finding in checked.findings],
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _policy_learner(
    cluster: Cluster,
    shards: Mapping[str, Shard],
    device: str,
    data_root: Path | None,
    initial: Path | None,
) -> PolicyLearner:
    """What samples the episodes of the first of some agents."""
    first = next(iter(shards.values()))
    learner = learner_of(cluster, data_root, [first], device, initial=initial)
    return cast(PolicyLearner, learner)


def _policy_checked(
    task: PolicyTask,
    learner: PolicyLearner,
    cluster: Cluster,
    facts: model.ModelFacts,
    x: Tensor,
    layout: Layout,
    found: list[Finding],
) -> Checked:
    """`checked` of a policy: sample, step a little, sample again."""
    told = policies.policy_facts(task)
    learner.check_samples(x, ())
    before = policies.evaluated(learner, x)
    tried = training.tried(learner, x, told.step_size, cluster.rounds.rounds)
    found += training.of_training(tried, layout, "sampling")
    after = policies.evaluated(learner, tried.x) if tried.finite else before
    found += policies.of_returns(before)
    deadline_s, round_s = cluster.rounds.deadline_s, tried.step_s * training.STEPS
    time = Time(1, round_s, round_s, before.seconds, deadline_s, training.peak_bytes())
    found += training.of_time(round_s, 0.0, deadline_s)
    return Checked(
        task=cluster.task.name,
        seed=cluster.seed,
        model=facts,
        shards=(),
        why_alone=None,
        loss=tried.loss,
        trained_steps=tried.rounds,
        metric=(before.measured.value, after.measured.value),
        local=None,
        time=time,
        findings=tuple(worst_first(found)),
        policy=told,
        batch_size=cluster.task.batch_size,
    )


def _trained(
    task: AnyTask,
    cluster: Cluster,
    shards: Mapping[str, Shard],
    x: Tensor,
    data_root: Path | None,
    initial: Path | None,
    layout: Layout,
    device: torch.device,
) -> tuple[training.Tried, training.Seen | None, str | None]:
    """Two steps and a few more of the first shard; all shards' samples are looked at before."""
    first = next(iter(shards.values()))
    short = _short(cluster)
    learner: Learning
    if is_loop(task):
        watched = training.Watched(task)
        contexts = _contexts(short, data_root, device)
        learner = Trainer(task, cast(Loop, watched), [first], contexts, initial)
        learner.check_samples(x, list(shards)[:1])
        done = training.tried(learner, x, cluster.algorithm.step_size, short.rounds.rounds)
        learner.private()
        told = done if watched.seen.told is not None else replace(done, loss=None)
        return told, watched.seen, "it has a loop of its own"
    everybody = learner_of(cluster, data_root, list(shards.values()), str(device), initial=initial)
    everybody.check_samples(x, list(shards))
    learner = learner_of(short, data_root, [first], str(device), initial=initial)
    why = None if isinstance(everybody, Learner) else _why_alone(layout)
    return training.tried(learner, x, cluster.algorithm.step_size, short.rounds.rounds), None, why


def _why_alone(layout: Layout) -> str:
    if layout.own:
        return f"{layout.own[0]} stays with its agent"
    if not layout.exact:
        return "its parameters are not all float32"
    return "its loss does not run under torch.func.vmap: dropout, a recurrent layer, .item()?"


def _short(cluster: Cluster) -> Cluster:
    changed = {"local_steps": training.STEPS, "local_epochs": None, "local_seconds": None}
    rounds = max(cluster.rounds.rounds, training.ROUNDS_MIN)
    return cluster.model_copy(
        update={
            "algorithm": cluster.algorithm.model_copy(update=changed),
            "rounds": cluster.rounds.model_copy(update={"rounds": rounds}),
        }
    )


def _contexts(cluster: Cluster, data_root: Path | None, device: torch.device) -> Contexts:
    return Contexts(
        algorithm=cluster.algorithm,
        batch_size=cluster.task.batch_size,
        seed=cluster.seed,
        device=device,
        ids=cluster.ids,
        rounds=cluster.rounds.rounds,
        data_root=data_root,
    )


def _shard(cluster: Cluster, agent: str) -> Shard:
    return Shard(cluster.index(agent), len(cluster.ids), cluster.task.partition)


def _phase(cluster: Cluster) -> str:
    settings = cluster.algorithm
    if settings.local_seconds is not None:
        return "--local-seconds"
    return "--local-steps" if settings.local_epochs is None else "--local-epochs"


def _time(
    cluster: Cluster,
    tried: training.Tried,
    seen: training.Seen | None,
    samples: Sequence[data.ShardFacts],
    evaluation_s: float,
) -> Time:
    """What a whole round would take, from a few steps of it."""
    settings = cluster.algorithm
    steps: int | None = settings.local_steps
    if seen is not None and not seen.steps:  # as long as it likes, whatever it is told
        steps, round_s = None, tried.step_s * training.STEPS
    elif settings.local_seconds is not None:
        steps, round_s = None, settings.local_seconds
    else:
        if settings.local_epochs is not None:
            a_pass = _steps_a_pass(cluster, seen, samples)
            steps = None if a_pass is None else settings.local_epochs * a_pass
        round_s = tried.step_s * (steps or 1)
    return Time(
        steps, tried.step_s, round_s, evaluation_s, cluster.rounds.deadline_s, training.peak_bytes()
    )


def _steps_a_pass(
    cluster: Cluster, seen: training.Seen | None, samples: Sequence[data.ShardFacts]
) -> int | None:
    if samples:
        return math.ceil(samples[0].samples / cluster.task.batch_size)
    loader = seen.loaders[-1] if seen is not None and seen.loaders else None
    return len(loader) if hasattr(loader, "__len__") else None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
