"""Written-out gradients are those of autograd; what is not a stack of layers is left to it."""

import pytest
import torch
from torch import nn

from candor.agent.learning.closed_form import _products, stack_of
from candor.agent.learning.learner import Learner
from candor.agent.tasks.base import Batch
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.specs import parse_strategy
from candor.topologies.cluster.file import AlgorithmSettings

STACKS = {
    "logistic": lambda: nn.Linear(6, 4),
    "relu": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)),
    "tanh, relu": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 4)
    ),
}
OTHERS = {
    "no bias": lambda: nn.Linear(6, 4, bias=False),
    "another activation": lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4)),
    "an activation last": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()),
    "two layers in a row": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.ReLU()),
}


class Classes(Classification):
    def __init__(self, model, inputs):
        super().__init__(model, lambda: None)
        self._inputs = inputs

    def load_data(self, shard: Shard, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(shard.index)
        labels = torch.randint(4, (12,), generator=generator)
        if self._inputs == torch.uint8:
            x = torch.randint(256, (12, 6), generator=generator, dtype=torch.uint8)
        else:
            x = torch.randn(12, 6, generator=generator)
        return x, labels


class Squared(Classes):
    def loss(self, model, batch):
        return super().loss(model, batch).square()


def learner(task):
    shards = [Shard(index, 7) for index in range(7)]
    return Learner(task, shards, AlgorithmSettings(local_steps=1), 8, seed=0)


@pytest.mark.parametrize("inputs", [torch.float32, torch.uint8])
@pytest.mark.parametrize("model", STACKS.values(), ids=STACKS)
def test_the_gradient_and_the_loss_are_those_of_autograd(model, inputs):
    task = Classes(model, inputs)
    assert stack_of(task, model()) is not None
    trained = learner(task)
    x = torch.randn(7, trained.dim, generator=torch.Generator().manual_seed(1)) * 3
    found = trained.local_steps(x, 1, 0.1)
    trained._stack = None
    expected = trained.local_steps(x, 1, 0.1)
    torch.testing.assert_close(found.update, expected.update, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6)


def test_a_diverged_row_shows_and_leaves_the_others_alone():
    trained = learner(Classes(STACKS["relu"], torch.float32))
    x = torch.ones(7, trained.dim)
    expected = trained.local_steps(x, 1, 0.1)
    x[2] = torch.inf
    found = trained.local_steps(x, 1, 0.1)
    assert not found.losses[2].isfinite()
    others = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(found.update[others], expected.update[others])


@pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
def test_other_models_are_left_to_autograd(model):
    assert stack_of(Classes(model, torch.float32), model()) is None


def test_a_loss_of_the_users_is_left_to_autograd():
    assert stack_of(Squared(STACKS["relu"], torch.float32), STACKS["relu"]()) is None


def test_agents_with_flipped_labels_train_by_the_written_out_gradient():
    task = Classes(STACKS["relu"], torch.float32)
    honest = learner(task)
    flipping = learner(with_altered_data(task, {3: parse_strategy("label-flip")}))
    assert flipping._stack is not None
    x = torch.randn(7, honest.dim, generator=torch.Generator().manual_seed(1))
    found = flipping.local_steps(x, 1, 0.1).update
    differs = (found != honest.local_steps(x, 1, 0.1).update).any(dim=1)
    assert differs.tolist() == [row == 3 for row in range(7)]
    flipping._stack = None
    expected = flipping.local_steps(x, 1, 0.1).update
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("features", [60, 6000])
def test_products_go_where_rows_have_gaps_between_them(features):
    a, b = torch.randn(3, 9, 5), torch.randn(3, 5, features)
    rows = torch.zeros(3, 9 * features + 7)
    _products(a, b, out=rows[:, : 9 * features].view(3, 9, features))
    expected = torch.cat([(a @ b).reshape(3, -1), torch.zeros(3, 7)], dim=1)
    torch.testing.assert_close(rows, expected)
