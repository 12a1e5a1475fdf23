"""Agents that send each neighbour another vector: what takers mix, and are measured by."""

import numpy as np
import pytest
import torch

from candor.agent.learning.initial import initial_parameters
from candor.agent.simulation.mixing import Mixing, apart_by_taker
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.mechanisms.strategies.attacks import ATTACKS
from candor.topologies.cluster.file import TaskSettings, model_digest
from tests.runs import write_cluster

TASK = "digits:model=logistic"
EQUIVOCATORS = {"a1": "large-noise:0.1", "a4": "large-noise:0.1"}


def cluster_of(tmp_path, aggregator=None, algorithm=None, topology="complete", sketch_size=1024):
    x = initial_parameters(resolve_task(TASK), 3)
    task = TaskSettings(
        name=TASK,
        partition="dirichlet:0.5",
        parameters=len(x),
        model_digest=model_digest(x.numpy()),
    )
    # A sketch as long as the model: what is measured is exact.
    return write_cluster(
        tmp_path,
        topology,
        6,
        rounds=7,
        window=2,
        task=task,
        sketch_size=sketch_size,
        aggregator=aggregator,
        max_byzantine=2 if aggregator else None,
        algorithm=algorithm,
    )


@pytest.mark.parametrize("seed", range(4))
def test_takers_mix_what_they_were_sent(tmp_path, seed) -> None:
    random = np.random.default_rng(seed)
    cluster = cluster_of(tmp_path, topology="erdos-renyi:p=0.6")
    mixing = Mixing(cluster, torch.device("cpu"))
    around = [[cluster.index(k) for k in cluster.neighbours(a)] for a in cluster.ids]
    v = torch.from_numpy(random.standard_normal((6, 9), dtype=np.float32))
    sent = {
        row: torch.from_numpy(random.standard_normal((len(around[row]), 9), dtype=np.float32))
        for row in (1, 4)
    }
    apart = apart_by_taker(sent, around)

    def told(giver, taker):
        return sent[giver][around[giver].index(taker)] if giver in sent else v[giver]

    def weighted(matrix, taker):
        rows = [
            matrix[taker, giver] * (v[giver] if giver == taker else told(giver, taker)).numpy()
            for giver in (taker, *around[taker])
        ]
        return np.sum(rows, axis=0)

    matrix = cluster.mixing_matrix(1)
    round_mixing = mixing.of(1)
    mixed, heard = round_mixing.models(v, apart), round_mixing.heard(v, apart)
    exact = {t: {g: x.numpy().astype(float) for g, x in of.items()} for t, of in apart.items()}
    sketches = round_mixing.sketches(v.double().numpy(), exact)

    def rule(agent, _t, weights, shown):
        taker = cluster.index(agent)
        for giver, sketch in shown.items():
            place = cluster.index(giver)
            expected = v[place] if place == taker else told(place, taker)
            assert np.array_equal(sketch, expected.double().numpy())
        return dict.fromkeys(weights, 1 / len(weights))

    derived = mixing.derived(1, rule, v.double().numpy(), exact).models(v, apart)
    even = np.array([[1 / (1 + len(near))] * 6 for near in around])
    for taker in range(6):
        assert np.allclose(mixed[taker], weighted(matrix, taker), atol=1e-5)
        assert np.allclose(sketches[taker], weighted(matrix, taker), atol=1e-6)
        assert np.allclose(derived[taker], weighted(even, taker), atol=1e-5)
        expected = [told(giver, taker) for giver in sorted(around[taker])]
        assert torch.equal(heard.vectors[taker, heard.present[taker]], torch.stack(expected))


@pytest.mark.parametrize(
    ("aggregator", "algorithm"),
    [(None, None), ("rfa", None), ("median", None), (None, "median-sgd"), ("rfa", "median-sgd")],
)
def test_nobody_is_charged_for_what_an_equivocator_sent_it(tmp_path, aggregator, algorithm) -> None:
    cluster = cluster_of(tmp_path, aggregator, algorithm)
    simulation = Simulation(cluster, EQUIVOCATORS, measured=True)
    for t in range(7):
        simulation.step()
        reports = simulation._rows.reports.double().square().sum(dim=1).numpy()
        energies = simulation.evidence().energies[t]
        honest = [0, 2, 3, 5]
        assert np.allclose(energies[honest], reports[honest], rtol=2e-2, atol=1e-6)
        assert not np.allclose(energies[[1, 4]], reports[[1, 4]], rtol=2e-2)


@pytest.mark.parametrize("aggregator", [None, "rfa"])
@pytest.mark.parametrize("split", [3, 4])  # within a window, and where one ends
@pytest.mark.parametrize("strategy", ["large-noise:0.1", "ipm:factor=0.1,seen=neighbours"])
def test_a_simulation_with_attackers_is_carried_on(tmp_path, aggregator, split, strategy) -> None:
    cluster, strategies = cluster_of(tmp_path, aggregator), dict.fromkeys(EQUIVOCATORS, strategy)
    whole = Simulation(cluster, strategies, measured=True)
    for _ in range(6):
        whole.step()
    first = Simulation(cluster, strategies, measured=True)
    for _ in range(split):
        first.step()
    second = Simulation(cluster, strategies, measured=True, state=first.state())
    for _ in range(6 - split):
        second.step()
    assert torch.equal(second.parameters, whole.parameters)
    assert np.array_equal(second.evidence().energies, whole.evidence().energies)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_performed_by_simulated_agents(tmp_path, name) -> None:
    attack = "hidden:1" if name == "hidden" else name
    cluster = cluster_of(tmp_path, "median", sketch_size=64)
    simulation = Simulation(cluster, dict.fromkeys(EQUIVOCATORS, attack), measured=True)
    rows, meant, sent = simulation._rows, [], []
    perform, told = simulation._exchanged, rows.sent

    def sending(v, t, phase):
        meant.append(v)
        return told(v, t, phase)

    def exchanging(out):
        sent.append(out)
        return perform(out)

    rows.sent, simulation._exchanged = sending, exchanging
    for _ in range(2):
        simulation.step()
    for v, out in zip(meant, sent, strict=True):
        assert torch.equal(out.vectors[[0, 2, 3, 5]], v[[0, 2, 3, 5]])
        assert out.vectors.isfinite().all()
        for row in (1, 4):
            assert not torch.equal(out.vectors[row], v[row])
        assert bool(out.apart) == (name in {"large-noise", "dissensus", "in-diameter"})
