"""Runs of real cores and trainers in one process that keep their rounds, and liars among them."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from candor.agent.core.effects import Combine, Effect, Judge, Show
from candor.agent.core.settlement.referee import bill_key
from candor.agent.daemon import keys
from candor.agent.daemon.host import HostSettings, kept_rounds, prepare
from candor.agent.daemon.judging import heads_in
from candor.agent.daemon.kept_rounds import KeptRounds
from candor.agent.learning.committed import committed_samples
from candor.agent.learning.rows import TrainedRows
from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.disclosed import judged
from candor.agent.runs.replay import Host, Kept, Replayed, Replayer
from candor.agent.runs.replay_dir import kept_of
from candor.agent.tasks.base import Batch
from candor.agent.tasks.context import TrainingContext
from candor.mechanisms.evidence.statements import Statement
from candor.topologies.cluster.file import Cluster
from tests.own_loops import DIGITS, Adam
from tests.runs import LocalRun, Node, write_cluster


class Normed:
    """Digits by a model with dropout and running statistics, which stay with each agent."""

    load_data, evaluate = DIGITS.load_data, DIGITS.evaluate

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 10)
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


class Chance(Adam):
    """A loop that nobody can repeat."""

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        loss = super().train(model, context)
        with torch.no_grad():
            next(model.parameters()).mul_(1 + os.urandom(1)[0] / 1000)
        return loss


class KeptRun(LocalRun):
    """Agents that train on a task and keep all of their rounds; `lying` ones do it their own
    way."""

    def __init__(self, run_dir: Path, cluster: Cluster, lying: Mapping[str, type[TrainedRows]]):
        rows, initial = {}, None
        self.kept: dict[str, KeptRounds] = {}
        self.verdicts: list[tuple[str, Judge, Replayed]] = []  # of whom, what, and what it told
        for agent in cluster.ids:
            place = run_dir / "agents" / agent
            settings = HostSettings(agent, place / "keys", place, threads=1)
            work, made = prepare(cluster, settings)
            made.__class__ = lying.get(agent, TrainedRows)
            rows[agent], initial = made, work.initial.numpy()
            key = keys.load(settings.keys).signing_key
            kept = kept_rounds(cluster, settings, made.learner.private, key)
            if kept is not None:
                self.kept[agent] = kept
        super().__init__(run_dir, cluster, performers=rows, initial=initial)

    def advancing(self, agent: str, node: Node) -> None:
        number, phase = node.core.phases.at(node.core.step)
        if agent in self.kept and phase == 0:
            fresh = node.answer is None
            x = node.driver._combined[node.core.phases.model] if fresh else node.answer
            assert isinstance(x, Tensor)
            self.kept[agent].begin(number, x, node.driver.state, fresh=fresh)

    def salted(self, agent: str, statement: Statement) -> Statement:
        if agent not in self.kept:
            return statement
        return replace(statement, salt=self.kept[agent].salt(statement.phase))

    def _combined(self, agent: str, node: Node, combine: Combine) -> None:
        if agent in self.kept and not combine.reentry:
            held = node.core.book.statements(node.core.step)
            sources = node.core.book.witnesses(held[agent].statement)
            last = combine.phase == node.core.phases.model
            echoes = node.core.echoes(combine) if combine.phase == 0 else ()
            self.kept[agent].exchanged(combine, held, sources, echoes, last=last)
        super()._combined(agent, node, combine)

    def shown(self, agent: str, show: Show) -> list[Effect]:
        bundle = self.nodes[agent].store.value(bill_key(show.window))
        held = bundle and self.kept[agent].shown(show.window, bundle, show.offset)
        signed, data = held or (None, b"")
        core = self.nodes[agent].core
        return core.showing(show.peer, show.window, signed, show.offset, data)

    def judged(self, agent: str, judge: Judge) -> list[Effect]:
        found = judged(self.cluster, judge.shown, Host(threads=1))
        self.verdicts.append((agent, judge, found))
        sketch_bytes = 8 * min(self.cluster.task.parameters, self.cluster.payments.sketch_size)
        heads = heads_in(judge.shown, sketch_bytes)
        about = (judge.shown, judge.window, found.told, found.why, heads)
        return self.nodes[agent].core.judged(*about, self.now_s)

    def bill(self, agent: str, window: int) -> bytes:
        """The own bill of a window."""
        found = self.nodes[agent].store.value(bill_key(window))
        assert found is not None
        return found


def kept_run(
    run_dir: Path,
    task: str = "digits",
    lying: Mapping[str, type[TrainedRows]] | None = None,
    *,
    topology: str = "path",
    agents: int = 2,
    start: bool = True,
    **settings: float | str | int | None,
) -> KeptRun:
    """A run that is over, unless it is not to be started."""
    settings = {"step_size": 0.2, "sketch_size": 64, "replay": 1, "deadline_s": 30.0, **settings}
    section = task_settings(task, 3, None)
    cluster = write_cluster(run_dir, topology, agents, task=section, **settings)
    run = KeptRun(run_dir, cluster, lying or {})
    if start:
        run.start()
        run.run(600.0)
    return run


def kept(run: KeptRun, agent: str, t: int) -> Kept:
    """A round as it was kept."""
    cluster = run.cluster
    found = kept_of(
        run.kept[agent], t, 8 * min(cluster.task.parameters, cluster.payments.sketch_size)
    )
    assert found is not None
    return found


def replayer(run: KeptRun, agent: str, threads: int = 1) -> Replayer:
    """Who does an agent's rounds again."""
    samples = committed_samples(run.cluster, agent, None, run.kept[agent].secret())
    return Replayer(run.cluster, agent, samples, Host(threads=threads))
