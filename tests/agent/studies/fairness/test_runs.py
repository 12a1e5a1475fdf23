"""Runs of the study on digits, and the files in which they are kept."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from candor.agent.studies.fairness.experiment import experiment
from candor.agent.studies.fairness.federation import CorruptedLabels, Federation
from candor.agent.studies.fairness.runs import Run, Setting, keep, kept, run
from candor.agent.studies.fairness.settings import TRAININGS, training_of
from candor.topologies.specs.specs import ConfigurationError

SETTING = Setting("digits", "uni", 3, "cgsv", 2, 4, (0.2, 0.0, 0.0))
ROWS = ((0.3, 0.3, 0.4), (0.1, 0.2, 0.7))
DONE = Run(SETTING, (0.5, 0.6, 0.7), (20, 20, 20), ROWS, ROWS, ROWS, ROWS, 2.0, 0.5)


def federation(
    partition: str = "uni:50", agents: int = 3, free: int = 0, **asked: float
) -> Federation:
    corrupted = {0: asked["corrupted"]} if asked else {}
    return Federation(TRAININGS["digits"], partition, agents, 0, corrupted, free, None, "cpu")


def test_a_run_is_read_as_it_was_written(tmp_path) -> None:
    assert kept(tmp_path, SETTING) is None
    keep(tmp_path, DONE)
    assert kept(tmp_path, SETTING) == DONE
    assert kept(tmp_path, replace(SETTING, corrupted=())) is None


@pytest.mark.parametrize(
    "change",
    [
        {"accuracies": [0.5, 0.6]},
        {"accuracies": [0.5, 0.6, 7.0]},
        {"losses": [[0.3, 0.3, 0.4]]},
        {"shares": [[0.3, 0.3, 0.4], [0.3, 0.4]]},
        {"training_s": 0.0},
        {"training_s": math.inf},
        {"mechanism_s": -1.0},
        {"losses": [[0.3, 0.3, math.nan], [0.3, 0.3, 0.4]]},
        {"samples": [40, 40, -40]},
        {"version": 0},
        {"samples": "many"},
    ],
)
def test_a_damaged_run_is_refused_by_name(tmp_path, change) -> None:
    keep(tmp_path, DONE)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigurationError, match=path.name):
        kept(tmp_path, SETTING)


def test_brackets_without_end_are_no_run(tmp_path) -> None:
    keep(tmp_path, DONE)
    (path,) = tmp_path.iterdir()
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigurationError, match=path.name):
        kept(tmp_path, SETTING)


def test_runs_that_are_kept_are_not_run_again(tmp_path) -> None:
    settings = [Setting("digits", "pow", 3, method, 2, 0) for method in ("standalone", "cgsv")]
    first = experiment(settings[:1], tmp_path, 1)
    told: list[tuple[int, int]] = []
    both = experiment(settings, tmp_path, 1, progress=lambda _, done, of: told.append((done, of)))
    assert both[0] == first[0]
    assert [one.setting for one in both] == settings
    assert told == [(3, 4), (4, 4)], "the kept one counts as done"
    assert all(len(one.losses) == 2 for one in both)


def test_a_run_follows_from_its_setting_alone() -> None:
    setting = Setting("digits", "cla", 3, "eci", 2, 1, (0.0, 0.5, 0.0), 1)
    one, other = run(setting), run(setting)
    assert replace(one, training_s=1.0, mechanism_s=1.0) == replace(
        other, training_s=1.0, mechanism_s=1.0
    )
    assert run(replace(setting, seed=2)).losses != one.losses


def test_agents_alone_are_as_far_as_their_own_training() -> None:
    setting = Setting("digits", "uni", 2, "standalone", 3, 0)
    agents = Federation(setting.training, setting.dealt, 2, 0, {}, 0, None, "cpu")
    models = np.tile(agents.initial, (2, 1))
    for t in (1, 2, 3):
        models += agents.trained(models, t).trained
    assert run(setting).accuracies == tuple(agents.accuracies(models).tolist())
    assert min(run(setting).accuracies) > 0.2


def test_all_have_one_model_under_fedavg_and_follow_the_server_under_cgsv() -> None:
    mean = run(Setting("digits", "pow", 4, "fedavg", 4, 0))
    assert len(set(mean.accuracies)) == 1
    assert np.allclose(mean.distances, 0.0, atol=1e-9)
    fair = run(Setting("digits", "cla", 4, "cgsv", 4, 0))
    best = np.array(fair.shares) == 1.0
    assert best.any(axis=1).all()
    first = np.array(fair.distances[0])
    assert (first[best[0]] < 1e-9).all()
    assert (first[~best[0]] > 0.0).all()


def test_late_steps_do_not_drown_in_the_rounding_of_models() -> None:
    """After 700 rounds steps are a ten millionth of what they were, and updates still gradients."""
    agents = federation()
    models = np.tile(agents.initial, (3, 1))
    early, late = agents.trained(models, 1).uploads, agents.trained(models, 700).uploads
    assert np.linalg.norm(late) < 1e-6 * np.linalg.norm(early)
    cosines = (
        (early * late).sum(axis=1) / np.linalg.norm(early, axis=1) / np.linalg.norm(late, axis=1)
    )
    assert (cosines > 0.8).all()


def test_free_riders_upload_noise_and_train_nothing() -> None:
    agents = federation(free=1)
    given = agents.trained(np.tile(agents.initial, (3, 1)), 1)
    assert not given.trained[0].any()
    assert np.abs(given.uploads[0]).max() <= 1.0
    assert given.uploads[0].std() == pytest.approx(1 / np.sqrt(3), rel=0.05)
    assert (given.uploads[1:] == given.trained[1:]).all()
    assert given.trained[1:].any(axis=1).all()


def test_so_many_labels_are_corrupted_and_to_other_ones() -> None:
    inputs, labels = torch.zeros(1000, 2), torch.arange(1000) % 10
    before = labels.clone()
    strategy = CorruptedLabels(0.4, 10, (0, 1))
    same, found = strategy.data((inputs, labels))
    assert torch.equal(labels, before)
    assert same is inputs
    wrong = found != labels
    assert int(wrong.sum()) == 400
    assert found.min() >= 0
    assert found.max() < 10
    others = (found[wrong] - labels[wrong]) % 10
    assert np.bincount(others.numpy(), minlength=10)[1:].min() > 20, "each of the others alike"


def test_validation_is_on_samples_that_no_agent_has() -> None:
    agents = federation("uni:100", 4)
    inputs, labels = agents._validation()
    rows = {row.numpy().tobytes() for row in inputs}
    assert len(labels) == 256
    for shard in agents._shards:
        mine, _ = agents._task.load_data(shard, 0)
        assert not rows & {row.numpy().tobytes() for row in mine}
    worths = [agents.worth(agents.initial), agents.worth(agents.initial * np.nan)]
    assert 0.0 <= min(worths) <= max(worths) <= 1.0


def test_accuracies_of_ruined_models_are_zero() -> None:
    agents = federation()
    models = np.tile(agents.initial, (3, 1))
    models[1] = np.inf
    found = agents.accuracies(models)
    assert found[1] == 0.0
    assert found[0] == found[2] > 0.0


def test_tasks_with_options_train_as_the_task_does() -> None:
    assert training_of("digits:hidden=8") == replace(TRAININGS["digits"], task="digits:hidden=8")
    with pytest.raises(ConfigurationError, match="not in the study; known: mnist"):
        training_of("a9a")
    with pytest.raises(ConfigurationError, match="too few|use fewer"):
        federation("cla:1000")
