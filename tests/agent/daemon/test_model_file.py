"""Which model may replace the one on disk, and what stays when a write fails."""

import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from candor.agent.daemon.model_file import (
    BEST_NAME,
    MODEL_NAME,
    PRIVATE_NAME,
    ModelFile,
    rounds_behind,
)
from candor.topologies.specs.specs import ConfigurationError

RUN, OTHER = "ab" * 32, "cd" * 32


def models(directory, run=RUN):
    return ModelFile(directory, run, lambda x: {"w": x.clone()})


def held(directory):
    """The number that stands for the model on disk."""
    return float(load_file(directory / MODEL_NAME)["w"][0])


def of(value):
    return torch.full((4,), float(value))


def test_a_model_says_of_which_run_and_round_it_is(tmp_path):
    models(tmp_path).save(of(1), 7)
    with safe_open(tmp_path / MODEL_NAME, framework="pt") as file:
        assert json.loads(file.metadata()["candor"]) == {"fingerprint": RUN, "round": 7}
    assert rounds_behind(tmp_path / MODEL_NAME, RUN) == 7
    assert rounds_behind(tmp_path / MODEL_NAME, OTHER) == 0


@pytest.mark.parametrize(("rounds", "kept"), [(0, 1), (6, 1), (7, 1), (8, 2)])
def test_a_model_of_fewer_rounds_never_replaces_one_of_more(tmp_path, rounds, kept):
    models(tmp_path).save(of(1), 7)
    models(tmp_path).save(of(2), rounds)  # of a later life
    assert held(tmp_path) == kept


def test_an_untrained_model_is_not_written_at_all(tmp_path):
    models(tmp_path).save(of(1), 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", ["another run's", "no metadata", "damaged", "endless", "deep"])
def test_what_is_no_model_of_this_run_is_moved_aside_for_a_trained_one_only(tmp_path, left):
    path = tmp_path / MODEL_NAME
    match left:
        case "another run's":
            models(tmp_path, OTHER).save(of(1), 90)
        case "no metadata":
            save_file({"w": of(1)}, path)
        case "damaged":
            path.write_bytes(b"\0" * 3)
        case "endless":
            about = f'{{"fingerprint": "{RUN}", "round": 1e999}}'
            save_file({"w": of(1)}, path, {"candor": about})
        case "deep":
            save_file({"w": of(1)}, path, {"candor": "[" * 100_000})
    before = path.read_bytes()
    models(tmp_path).save(of(2), 0)
    assert path.read_bytes() == before
    (tmp_path / "model-1.safetensors").write_bytes(b"kept")
    models(tmp_path).save(of(2), 1)
    assert held(tmp_path) == 2
    assert (tmp_path / "model-2.safetensors").read_bytes() == before
    models(tmp_path).save(of(3), 2)
    assert held(tmp_path) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_on_a_full_disk_the_old_model_stays_and_no_draft_takes_room(tmp_path):
    kept = models(tmp_path)
    kept.save(of(1), 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            kept.save(of(2), 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_NAME]
    assert (held(tmp_path), kept.round) == (1, 3)
    kept.save(of(2), 4)
    assert held(tmp_path) == 2


def test_a_model_is_saved_where_what_its_task_keeps_cannot_be(tmp_path):
    def private():
        raise ConfigurationError("a lambda")

    one = ModelFile(tmp_path, RUN, lambda x: {"w": x.clone()}, private)
    with pytest.raises(ConfigurationError, match="a lambda"):
        one.save(of(5), 3)
    assert held(tmp_path) == 5
    assert rounds_behind(tmp_path / MODEL_NAME, RUN) == 3


@pytest.mark.parametrize("tensors", [{"w": torch.ones(2)}, {"bytes": torch.ones(2, 2)}])
def test_a_private_file_of_anything_is_bytes_that_no_learner_takes(tmp_path, tensors):
    about = f'{{"fingerprint": "{RUN}", "round": 3}}'
    save_file(tensors, tmp_path / PRIVATE_NAME, {"candor": about})
    assert len(models(tmp_path).private_before) in (0, 16)


def best(directory):
    """The number that stands for the best model on disk, and what the file says of it."""
    with safe_open(directory / BEST_NAME, framework="pt") as file:
        return float(file.get_tensor("w")[0]), json.loads(file.metadata()["candor"])


@pytest.mark.parametrize(("better", "kept"), [("higher", 2), ("lower", 3)])
def test_the_best_model_so_far_is_kept_also_by_another_life(tmp_path, better, kept):
    first = ModelFile(tmp_path, RUN, lambda x: {"w": x.clone()}, better=better)
    for t, score in ((1, 0.5), (2, 0.8), (3, 0.3), (4, float("nan")), (5, 0.5)):
        first.scored(of(t), t, score)
    assert not (tmp_path / BEST_NAME).exists()
    first.save_best()
    score = {2: 0.8, 3: 0.3}[kept]
    assert best(tmp_path) == (kept, {"fingerprint": RUN, "round": kept, "score": score})
    again = ModelFile(tmp_path, RUN, lambda x: {"w": x.clone()}, better=better)
    again.scored(of(6), 6, 0.5)
    again.save_best()
    assert best(tmp_path)[0] == kept
    again.scored(of(7), 7, 1.0 if better == "higher" else 0.0)
    again.save_best()
    assert best(tmp_path)[0] == 7
    # Another run begins anew; what lies there is moved aside.
    other = ModelFile(tmp_path, OTHER, lambda x: {"w": x.clone()}, better=better)
    other.scored(of(8), 1, 0.5)
    other.save_best()
    assert best(tmp_path)[0] == 8
    assert len(list(tmp_path.glob("best*.safetensors"))) == 2
