from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from candor.agent.learning.initial import initial_parameters
from candor.agent.tasks import resolve_task
from candor.agent.tasks.checked import build_model
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.digits import read_digits
from candor.agent.tasks.partition import Shard
from candor.topologies.specs.specs import ConfigurationError

USERS_MODULE = """
from pathlib import Path
import torch
from torch import nn

class Line:
    def __init__(self, data_root):
        self.root = data_root
    def build_model(self):
        return nn.Linear(1, 1)
    def load_data(self, shard, seed):
        x = torch.linspace(0, 1, 20).reshape(-1, 1)
        chosen = torch.from_numpy(shard.select(x.numpy()[:, 0] > 0.5, seed))
        return x[chosen], 2 * x[chosen]
    def loss(self, model, batch):
        x, y = batch
        return ((model(x) - y) ** 2).mean()
    def evaluate(self, model):
        return 1.0 if abs(float(model.weight) - 2) < 0.5 else 0.0

class Plain(Line):
    def __init__(self):
        self.root = "none"

class Broken(Line):
    def __init__(self):
        raise RuntimeError("no disk")

class Incomplete:
    def build_model(self):
        return nn.Linear(1, 1)

NotAClass = Line("x")
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_tasks_for_test.py").write_text(USERS_MODULE)
    (tmp_path / "my_broken_tasks_for_test.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    return "my_tasks_for_test"


def test_digits_are_those_of_scikit_learn() -> None:
    pixels, labels = load_digits(return_X_y=True)
    data = read_digits()
    train_x, train_y, test_x, test_y = data.inputs, data.labels, data.test_inputs, data.test_labels
    assert len(train_y) + len(test_y) == len(labels)
    everything = {
        (tuple(row), label)
        for x, y in ((train_x, train_y), (test_x, test_y))
        for row, label in zip((16 * x).int().tolist(), y.tolist(), strict=True)
    }
    assert everything == {
        (tuple(row), label)
        for row, label in zip(pixels.astype(int).tolist(), labels.tolist(), strict=True)
    }
    assert float(train_x.max()) == 1.0
    assert float(train_x.min()) == 0.0


def test_a_quarter_of_every_class_is_for_the_test() -> None:
    test, train = np.bincount(read_digits().test_labels), np.bincount(read_digits().labels)
    assert np.abs(test / (test + train) - 0.25).max() < 0.004


def test_tumours_are_those_of_scikit_learn_standardised() -> None:
    measures, labels = load_breast_cancer(return_X_y=True)
    task = resolve_task("breast-cancer")
    assert isinstance(task, Classification)
    data = task.read()
    inputs, targets = data.inputs.double().numpy(), data.labels.numpy()
    assert (len(targets), len(data.test_labels)) == (427, 142)
    assert np.bincount(targets).tolist() == [159, 268]  # malignant, benign
    assert np.abs(inputs.mean(axis=0)).max() < 1e-6
    assert np.abs(inputs.std(axis=0) - 1).max() < 1e-6
    both = np.concatenate([inputs, data.test_inputs.double().numpy()])
    both_labels = np.concatenate([targets, data.test_labels.numpy()])
    assert both_labels.sum() == labels.sum()
    for ours, theirs in zip(np.sort(both.T), np.sort(measures.T), strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 1 - 1e-9


def test_digits_agents_hold_disjoint_parts_of_the_training_images() -> None:
    task = resolve_task("digits")
    sizes = []
    for i in range(8):
        images, labels = task.load_data(Shard(i, 8, "dirichlet:0.5"), seed=0)
        assert images.shape == (len(labels), 64)
        assert images.dtype == torch.float32
        sizes.append(len(labels))
    assert sum(sizes) == len(read_digits().labels)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("digits", 64 * 32 + 32 + 32 * 10 + 10),
        ("digits:hidden=64", 64 * 64 + 64 + 64 * 10 + 10),
        ("digits:model=mlp,hidden=8", 64 * 8 + 8 + 8 * 10 + 10),
        ("digits:model=logistic", 64 * 10 + 10),
    ],
)
def test_digits_options_choose_the_model(name: str, parameters: int) -> None:
    assert len(initial_parameters(resolve_task(name), seed=0)) == parameters


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits:64", "its options are"),
        ("digits:depth=3", "its options are"),
        ("digits:model=cnn", "not mlp or logistic"),
        ("digits:hidden=0", "not a width"),
        ("digits:hidden=wide", "not a width"),
        ("digits:model=logistic,hidden=8", "hidden=WIDTH of the mlp"),
        ("cifar", "known: digits"),
        ("no_such_module:Task", "cannot import"),
        ("my_broken_tasks_for_test:Task", "ZeroDivisionError"),
        ("my_tasks_for_test:Missing", "has no 'Missing'"),
        ("my_tasks_for_test:NotAClass", "is not a class"),
        ("my_tasks_for_test:Incomplete", r"lacks the method load_data\(\)"),
        ("my_tasks_for_test:Broken", r"constructor failed \(RuntimeError: no disk\)"),
    ],
)
def test_a_bad_task_is_refused_in_one_line(users_module: str, name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        resolve_task(name)
    assert "\n" not in str(refusal.value)


def test_a_users_task_is_built_with_the_data_root_where_it_wants_one(users_module: str) -> None:
    assert vars(resolve_task(f"{users_module}:Line", Path("here"))) == {"root": Path("here")}
    assert vars(resolve_task(f"{users_module}:Plain", Path("here"))) == {"root": "none"}


def test_a_model_keeps_the_modes_that_it_was_built_with() -> None:
    class Mixed:
        def build_model(self) -> nn.Module:
            model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            model[1].eval()
            return model

        def evaluate(self, model: nn.Module) -> float:
            return 0.0

    model = build_model(Mixed(), 0)
    assert [module.training for module in model.modules()] == [True, True, False]
