"""A poison in the null space of sketches, in real runs: refused, its sender named, and nobody else.

In the simulation the same agents leave out the same vectors.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from candor.agent.core.deviating import reporting_of
from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.rows import TrainedRows, learner_of
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.mechanisms.strategies.attacks import Hidden
from candor.mechanisms.strategies.sending import KnownRun
from candor.topologies.cluster.file import TaskSettings, model_digest
from tests.runs import LocalRun, finish, write_cluster

TASK = "digits:hidden=16"
LIAR, ROUNDS, WINDOW = "a1", 4, 3


def cluster_of(tmp_path, aggregator, codec):
    x = initial_parameters(resolve_task(TASK), 3)
    task = TaskSettings(
        name=TASK,
        partition="dirichlet:0.1",
        parameters=len(x),
        model_digest=model_digest(x.numpy()),
    )
    robust = {"aggregator": aggregator, "max_byzantine": 1, "sketch_size": 1024}
    cluster = write_cluster(
        tmp_path, "complete", 5, rounds=ROUNDS, window=WINDOW, task=task, codec=codec, **robust
    )
    return cluster, x.numpy()


def trained(cluster, agent, spec):
    index = cluster.index(agent)
    shard = Shard(index, len(cluster.ids), cluster.task.partition)
    reporting = reporting_of(cluster, {LIAR: spec}, agent)
    return TrainedRows(
        learner_of(cluster, None, [shard], "cpu"), reporting, lambda t: torch.ones(1, 1)
    )


@pytest.mark.parametrize(
    ("aggregator", "size", "codec"),
    [("rfa", 10, "float32"), ("rfa", 1000, "float16"), ("multi-krum", 10, "float32")],
)
def test_neighbours_name_who_hides_a_poison(tmp_path, aggregator, size, codec):
    cluster, x = cluster_of(tmp_path, aggregator, codec)
    spec = f"hidden:{size}"
    performers = {agent: trained(cluster, agent, spec) for agent in cluster.ids}
    run = finish(LocalRun(tmp_path, cluster, performers=performers, initial=x))
    honest = [agent for agent in cluster.ids if agent != LIAR]
    for agent in honest:
        refused = run.nodes[agent].events("update_refused")
        assert {fields["peer"] for fields in refused} == {LIAR}
        assert {fields["code"] for fields in refused} == {"distance-hidden"}
        # Under the signs of the next window all that was hidden is seen, and left out by the rule.
        assert [fields["round"] for fields in refused][:WINDOW] == list(range(1, WINDOW + 1))
        # The liar has no better view of honest vectors; nobody else refuses any.
        blamed = run.nodes[agent].events("own_update_refused")
        assert {fields["peer"] for fields in blamed} <= {LIAR}
    told = run.nodes[LIAR].events("own_update_refused")
    assert {fields["code"] for fields in told} == {"distance-hidden"}
    assert len(told) >= WINDOW * len(honest)

    simulation = Simulation(cluster, {LIAR: spec}, measured=True)
    plain = Simulation(cluster, {}, measured=True)
    for _ in range(ROUNDS):
        last, without = simulation.step(), plain.step()
    known = KnownRun(bytes.fromhex(cluster.fingerprint), WINDOW, 1024)
    about = SimpleNamespace(run=known, round=1, phase=0, seed=cluster.seed)
    poison = Hidden(1.0).sent(torch.zeros(1, len(x)), about)[0].numpy()
    for agent in honest:
        row = cluster.index(agent)
        ours = run.nodes[agent].models[ROUNDS + 1]
        assert np.abs(ours - last.parameters[row].numpy()).max() < 1e-3
        # What moves a model along the poison is what the rule gives to anyone that far away, once
        # it is seen: as much of the smaller one as of the larger one.
        moved = float((ours - without.parameters[row].numpy()) @ poison)
        assert abs(moved) < 0.6 < size


def test_a_small_poison_moves_nobody_by_more_than_honest_agents_differ(tmp_path):
    cluster, x = cluster_of(tmp_path, "rfa", "float32")
    performers = {agent: trained(cluster, agent, "hidden:0.02") for agent in cluster.ids}
    run = finish(LocalRun(tmp_path, cluster, performers=performers, initial=x))
    assert all(not run.nodes[agent].events("update_refused") for agent in cluster.ids)
