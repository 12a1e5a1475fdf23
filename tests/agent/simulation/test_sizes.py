"""Where agents declare sizes, training finds the minimum of the loss that they weight."""

from pathlib import Path

import pytest
import torch

from candor.agent.runs import cluster_parts, plan
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.simulation.vectorised import Simulation
from candor.topologies.cluster.file import (
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    dump_cluster,
    load_cluster,
)
from tests.sized import minimiser, samples

TASK, AGENTS = "tests.sized:Quadratics", 5
SAMPLES = [float(samples(i)) for i in range(AGENTS)]


def cluster_of(topology: str, weights: str, **algorithm: object) -> Cluster:
    settings = {"step_size": 0.3, "step_decay": 0.6, "local_steps": 1}
    asked = plan.Plan(
        topology=topology,
        agents=AGENTS,
        mixing="push-sum" if "directed" in topology or "one-peer" in topology else None,
        seed=1,
        task=cluster_parts.task_settings(TASK, 1, None),
        algorithm=AlgorithmSettings.model_validate(settings | algorithm),
        rounds=RoundSettings(rounds=800),
        payments=PaymentSettings(rule="none"),
        strategies={},
        evaluate_every=0,
        data_root=None,
        weights=weights,
    )
    return plan.cluster_of(asked, Path("sizes"), stand_in_entries)


def trained(cluster: Cluster) -> torch.Tensor:
    simulation = Simulation(cluster, {}, measured=False)
    for _ in range(cluster.rounds.rounds):
        simulation.step()
    return simulation.parameters


@pytest.mark.parametrize(
    "topology",
    [
        "ring",
        "erdos-renyi:p=0.5,seed=2",
        "failing:base=complete,p=0.3",
        "random-matching",
        "directed-ring",
        "directed-random:degree=3",
        "one-peer-exponential",
    ],
)
def test_sgd_finds_the_minimum_weighted_by_samples(topology: str) -> None:
    found = trained(cluster_of(topology, "samples"))
    plain, weighted = minimiser([1.0] * AGENTS), minimiser(SAMPLES)
    assert float((plain - weighted).norm()) > 0.5  # what is to be told apart
    assert float((found - weighted).norm(dim=1).max()) < 0.1


def test_equal_weights_find_the_plain_minimum_by_the_bits_of_none() -> None:
    plain = trained(cluster_of("ring", "equal"))
    alike = trained(cluster_of("ring", ",".join(f"a{i}=0.1" for i in range(AGENTS))))
    assert torch.equal(plain, alike)
    assert float((plain - minimiser([1.0] * AGENTS)).norm(dim=1).max()) < 0.1


@pytest.mark.parametrize("topology", ["ring", "random-matching"])
def test_gradient_tracking_finds_it_exactly_at_a_constant_step(topology: str) -> None:
    settings = {"name": "gradient-tracking", "step_size": 0.1, "step_decay": 0.0}
    found = trained(cluster_of(topology, "samples", **settings))
    torch.testing.assert_close(found, minimiser(SAMPLES).expand(AGENTS, 2), rtol=1e-4, atol=1e-4)


def test_the_file_of_a_run_says_how_many_samples_each_has(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(dump_cluster(cluster_of("ring", "samples")))
    cluster = load_cluster(path)
    assert [agent.weight for agent in cluster.agents] == SAMPLES
    assert cluster.shares == pytest.approx([one / sum(SAMPLES) for one in SAMPLES])
