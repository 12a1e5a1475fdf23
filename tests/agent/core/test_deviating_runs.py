"""What strategies do to whole simulated runs on real digits."""

from pathlib import Path

import numpy as np
import pytest

from candor.agent.runs.cluster_parts import task_settings
from candor.agent.simulation.vectorised import VectorisedResult, run_vectorised
from candor.agent.tasks.digits import read_digits
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError
from tests.runs import write_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    task = task_settings("digits:model=logistic", 3, None, partition="iid", batch_size=32)
    folder: Path = tmp_path_factory.mktemp("deviating")
    return write_cluster(folder, "complete", 4, rounds=20, task=task, sketch_size=512)


@pytest.fixture(scope="module")
def honest(cluster: Cluster) -> VectorisedResult:
    return run_vectorised(cluster, {})


def recognised(result: VectorisedResult, label: int) -> float:
    """The share of a digit's test images that the first agent's model knows."""
    data = read_digits()
    weight, bias = result.parameters[0].split([640, 10])
    predicted = (data.test_inputs @ weight.reshape(10, 64).T + bias).argmax(dim=1)
    return float((predicted[data.test_labels == label] == label).float().mean())


def test_honest_agents_learn_every_digit(honest: VectorisedResult) -> None:
    assert min(recognised(honest, label) for label in range(10)) > 0.7


def test_flipped_labels_cost_accuracy(cluster: Cluster, honest: VectorisedResult) -> None:
    flipped = run_vectorised(cluster, dict.fromkeys(("a1", "a2", "a3"), "label-flip"))
    assert flipped.accuracy["a0"] < honest.accuracy["a0"] - 0.3


def test_a_targeted_flip_costs_the_accuracy_of_its_class_alone(
    cluster: Cluster, honest: VectorisedResult
) -> None:
    spec = "label-flip:from=1,to=7"
    flipped = run_vectorised(cluster, dict.fromkeys(("a1", "a2", "a3"), spec))
    assert recognised(flipped, 1) < 0.2
    for label in (0, 2, 3, 4, 5, 6, 7, 9):
        assert recognised(flipped, label) > recognised(honest, label) - 0.1


def test_only_who_flips_trains_on_other_labels(cluster: Cluster, honest: VectorisedResult) -> None:
    flipped = run_vectorised(cluster, {"a1": "label-flip:from=1,to=7"}, rounds=1)
    same = np.isclose(flipped.losses[0], honest.losses[0], rtol=1e-4)
    assert same.tolist() == [True, False, True, True]


def test_a_free_rider_injects_nothing_and_has_the_others_model(
    cluster: Cluster, honest: VectorisedResult
) -> None:
    result = run_vectorised(cluster, {"a2": "zero"})
    assert (result.injected_norms[:, 2] < 1e-3 * result.injected_norms[:, 0]).all()
    assert result.accuracy["a2"] > honest.accuracy["a2"] - 0.05


def test_colluders_inject_alike(cluster: Cluster) -> None:
    norms = run_vectorised(cluster, {"a1": "colluding:2", "a3": "colluding:2.0"}).injected_norms
    assert np.allclose(norms[:, 1], norms[:, 3], rtol=1e-3)
    assert (norms[:, 1] > norms[:, 0]).mean() > 0.9


def test_a_lone_colluder_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="needs a partner"):
        run_vectorised(cluster, {"a1": "colluding:2"})


def test_a_lie_in_some_rounds_shows_in_those_alone(
    cluster: Cluster, honest: VectorisedResult
) -> None:
    lied = run_vectorised(cluster, {"a1": "scale:4 @ 6-10"}).injected_norms[:, 1]
    ratio = lied / honest.injected_norms[:, 1]
    assert np.allclose(ratio[:5], 1, rtol=1e-5)
    assert ratio[5] == pytest.approx(4, rel=1e-3)
    assert (ratio[10:] < 2).all()
