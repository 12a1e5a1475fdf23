import math
import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from candor.agent.learning import learner as learning
from candor.agent.learning.batches import draw_samples, passes
from candor.agent.learning.initial import initial_parameters, verified_initial_parameters
from candor.agent.learning.learner import Learner, NotVectorised
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.digits import read_digits
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings, TaskSettings, model_digest
from candor.topologies.specs.specs import ConfigurationError

PARTITION = "dirichlet:0.5"
DIGITS = resolve_task("digits")
HALF = 0.5


class Line:
    """y = 2 x, for tests that need another model, loss or data than digits."""

    def __init__(
        self,
        build: Callable[[], nn.Module] = lambda: nn.Linear(1, 1),
        loss: Callable[[Tensor], Tensor] = Tensor.mean,
        data: Callable[[int], Batch] = lambda index: (torch.ones(index + 3, 1),),
        metric: float = HALF,
    ) -> None:
        self._build, self._loss, self._data, self._metric = build, loss, data, metric

    def build_model(self) -> nn.Module:
        return self._build()

    def load_data(self, shard: Shard, seed: int) -> Batch:
        return self._data(shard.index)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        (x,) = batch
        return self._loss((model(x) - 2 * x) ** 2)

    def evaluate(self, model: nn.Module) -> float:
        return self._metric


def learner(
    agents: int | list[int] = 1,
    task: Task = DIGITS,
    *,
    local_steps: int = 1,
    momentum: float = 0.0,
    seed: int = 0,
    epochs: int | None = None,
    seconds: float | None = None,
) -> Learner:
    indices = range(agents) if isinstance(agents, int) else agents
    shards = [Shard(i, 8, PARTITION) for i in indices]
    settings = AlgorithmSettings(
        local_steps=local_steps, momentum=momentum, local_epochs=epochs, local_seconds=seconds
    )
    return Learner(task, shards, settings, batch_size=16, seed=seed)


def module_of(one: Learner, x: Tensor, task: Task = DIGITS) -> nn.Module:
    model = task.build_model()
    model.load_state_dict(dict(one.state_dict(x)))
    return model


def start(agents: int, seed: int = 0) -> Tensor:
    return initial_parameters(DIGITS, seed).repeat(agents, 1)


def test_the_initial_model_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x = initial_parameters(DIGITS, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert model_digest(x.numpy()) == model_digest(initial_parameters(DIGITS, seed=0).numpy())
    assert model_digest(x.numpy()) != model_digest(initial_parameters(DIGITS, seed=1).numpy())


def test_building_a_learner_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    learner(2).local_steps(start(2), 1, 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_initial_model_must_be_the_one_of_the_cluster_file() -> None:
    x = initial_parameters(DIGITS, seed=0)
    settings = TaskSettings(name="digits", parameters=len(x), model_digest=model_digest(x.numpy()))
    assert torch.equal(verified_initial_parameters(DIGITS, settings, seed=0), x)
    with pytest.raises(ConfigurationError, match="another initial model"):
        verified_initial_parameters(DIGITS, settings, seed=1)
    other = settings.model_copy(update={"parameters": 9})
    with pytest.raises(ConfigurationError, match=r"2410 parameters.*the cluster file states \(9"):
        verified_initial_parameters(DIGITS, other, seed=0)


def test_a_run_may_start_from_a_saved_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    trained = initial_parameters(DIGITS, seed=0) + 1.0
    save_file(dict(learner().state_dict(trained)), path)
    assert torch.equal(initial_parameters(DIGITS, seed=0, saved=path), trained)
    digest = model_digest(trained.numpy())
    settings = TaskSettings(name="digits", parameters=len(trained), model_digest=digest)
    assert torch.equal(verified_initial_parameters(DIGITS, settings, seed=9, saved=path), trained)
    with pytest.raises(ConfigurationError, match="give --initial FILE"):
        verified_initial_parameters(DIGITS, settings, seed=0)
    drawn = settings.model_copy(
        update={"model_digest": model_digest(initial_parameters(DIGITS, 0).numpy())}
    )
    with pytest.raises(ConfigurationError, match="holds another initial model"):
        verified_initial_parameters(DIGITS, drawn, seed=0, saved=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors | {"more": torch.zeros(2)}, "task: has more besides$"),
        (lambda tensors: dict(list(tensors.items())[1:]), "task: it lacks [a-z0-9.]+$"),
        (lambda tensors: {n: t.double() for n, t in tensors.items()}, "float64, and .* of float32"),
        (lambda tensors: {n: t[:1] for n, t in tensors.items()}, "is not a model of this task"),
        (
            lambda tensors: {f"other.{n}": t for n, t in tensors.items()},
            "task: it lacks [^;]+; has other[^;]+ besides$",
        ),
        (lambda tensors: {n: t / 0 for n, t in tensors.items()}, "not finite"),
    ],
)
def test_a_saved_model_of_something_else_is_refused(change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = dict(learner().state_dict(initial_parameters(DIGITS, seed=0)))
    save_file({name: t.contiguous() for name, t in change(tensors).items()}, path)
    with pytest.raises(ConfigurationError, match=message):
        initial_parameters(DIGITS, seed=0, saved=path)
    path.write_bytes(b"no model")
    with pytest.raises(ConfigurationError, match="is no safetensors file"):
        initial_parameters(DIGITS, seed=0, saved=path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match="cannot read the model"):
        initial_parameters(DIGITS, seed=0, saved=path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('{"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', "tensors of type F4$"),
        ('{"__metadata__": null}', "task: it lacks"),
    ],
)
def test_a_header_of_what_torch_does_not_know_is_told(
    header: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes("F4" in header))
    with pytest.raises(ConfigurationError, match=message):
        initial_parameters(DIGITS, seed=0, saved=path)


class Tied(Line):
    """A model of which two layers are one, with a constant beside them."""

    def build_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        model.register_buffer("mask", torch.ones(3), persistent=False)
        return model


WEIGHT = torch.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"0.weight": WEIGHT}, None),
        ({"1.weight": WEIGHT}, {"0.weight": "1.weight", "format": "pt"}),
        ({"1.weight": WEIGHT}, None),
        ({"0.weight": WEIGHT, "1.weight": WEIGHT.clone(), "mask": torch.ones(3)}, None),
        ({"module.0.weight": WEIGHT}, {"module.1.weight": "module.0.weight"}),
        ({"_orig_mod.model.1.weight": WEIGHT}, None),
        ({"0.weight": WEIGHT.half()}, None),
        ({"model.0.weight": WEIGHT.bfloat16()}, {"format": "pt"}),
    ],
)
def test_files_of_other_tools_are_the_model_they_mean(
    tensors: dict[str, Tensor], metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata)
    x = initial_parameters(Tied(), seed=0, saved=path)
    assert torch.equal(x, WEIGHT.flatten())
    assert x.dtype == torch.float32


def test_a_wrapped_model_takes_the_file_of_a_bare_one(tmp_path: Path) -> None:
    class Wrapped(Line):
        def build_model(self) -> nn.Module:
            return nn.ModuleDict({"model": nn.Linear(3, 3, bias=False)})

    path = tmp_path / "model.safetensors"
    save_file({"weight": WEIGHT}, path)
    assert torch.equal(initial_parameters(Wrapped(), 0, path), WEIGHT.flatten())


def test_what_is_one_tensor_here_must_be_one_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": WEIGHT, "1.weight": WEIGHT + 1}, path)
    told = "task: 0.weight and 1.weight differ, and are one tensor there$"
    with pytest.raises(ConfigurationError, match=told):
        initial_parameters(Tied(), seed=0, saved=path)


def test_a_model_saved_by_safetensors_itself_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = Tied().build_model()
    save_model(model, str(path))
    assert torch.equal(initial_parameters(Tied(), 0, path), model[0].weight.detach().flatten())


class Untakeable(Line):
    """A loss that does not take one of the samples, which few batches have."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def load_data(self, shard: Shard, seed: int) -> Batch:
        labels = torch.ones(400, dtype=torch.long)
        labels[399] = -1
        return torch.ones(400, 1), labels


def test_a_sample_that_the_loss_does_not_take_is_told_whenever_it_is_met() -> None:
    one = learner(task=Untakeable())
    x = initial_parameters(Untakeable(), seed=0).unsqueeze(0)

    def train() -> None:
        for t in range(1, 400):
            one.local_steps(x, t, 0.1)

    with pytest.raises(ConfigurationError, match=r"^task: loss\(\) failed \("):
        train()
    with pytest.raises(ConfigurationError, match=r"^task: loss\(\) failed \("):
        one.shard_losses(x, 400)


class Lazy(Line):
    def build_model(self) -> nn.Module:
        return nn.LazyLinear(1)


class Locked(Line):
    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 1)
        model.lock = threading.Lock()
        return model


class Sparse(Line):
    def load_data(self, shard: Shard, seed: int) -> Batch:
        return torch.ones(4, 1).to_sparse(), torch.ones(4)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Lazy, r"build_model\(\) gave a lazy module"),
        (Sparse, r"load_data\(\) must give dense tensors, and tensor 0 is sparse_coo"),
    ],
)
def test_models_and_data_that_are_no_plain_tensors_are_refused(
    task: type[Line], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^task: {words}"):
        learner(task=task())


def test_a_model_that_cannot_be_copied_is_built_again() -> None:
    one = learner(task=Locked())
    assert one.evaluate(torch.ones(1, 2)) == [Measured(HALF)]
    assert one.local_steps(torch.ones(1, 2), 1, 0.1).update.shape == (1, 2)


def test_one_step_without_momentum_gives_the_gradient_of_its_batch() -> None:
    """The batch is found by its loss and gradient under plain autograd, over drawn indices."""
    one = learner()
    x = start(1)
    done = one.local_steps(x, 3, step_size=0.1)

    images, labels = DIGITS.load_data(Shard(0, 8, PARTITION), 0)
    drawn = torch.from_numpy(draw_samples(0, 3, [0], np.array([len(labels)]), 16))
    model = module_of(one, x[0])
    expected = DIGITS.loss(model, (images[drawn[0]], labels[drawn[0]]))
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert torch.allclose(done.update[0], gradient, rtol=1e-5, atol=1e-7)
    assert float(done.losses[0]) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert done.velocity is None


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_row_among_others_trains_as_it_does_alone(momentum: float) -> None:
    together = learner(8, local_steps=4, momentum=momentum)
    alone = learner([5], local_steps=4, momentum=momentum)
    x = start(8) + 0.01 * torch.arange(8.0)[:, None]
    all_rows = one_row = None
    for t in (1, 2):
        many = together.local_steps(x, t, 0.1, all_rows)
        one = alone.local_steps(x[5:6], t, 0.1, one_row)
        assert torch.allclose(many.update[5], one.update[0], rtol=1e-4, atol=1e-6)
        assert float(many.losses[5]) == pytest.approx(float(one.losses[0]), rel=1e-6)
        all_rows, one_row = many.velocity, one.velocity
        if momentum:
            assert all_rows is not None
            assert one_row is not None
            assert torch.allclose(all_rows[5], one_row[0], rtol=1e-4, atol=1e-6)


def test_the_pseudo_gradient_leads_to_where_the_steps_lead() -> None:
    """Against SGD with momentum written out with plain autograd on the same batches."""
    x, step_size = start(1), 0.2
    done = learner(local_steps=3, momentum=0.5).local_steps(x, 1, step_size)
    model = module_of(learner(), x[0])
    velocities = [torch.zeros_like(parameter) for parameter in model.parameters()]
    images, labels = DIGITS.load_data(Shard(0, 8, PARTITION), 0)

    draws = draw_samples(0, 1, [0], np.array([len(labels)]), 48).reshape(3, 16)
    for indices in draws:
        loss = DIGITS.loss(model, (images[indices], labels[indices]))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocities, gradients, strict=True):
                v.mul_(0.5).add_(g)
                p.sub_(step_size * v)
    reached = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(x[0] - step_size * done.update[0], reached, atol=1e-6)
    assert done.velocity is not None
    gathered = torch.cat([velocity.flatten() for velocity in velocities])
    assert torch.allclose(done.velocity[0], gathered, atol=1e-5)


def test_the_start_is_not_written_to() -> None:
    x = start(2)
    before = x.clone()
    learner(2, local_steps=3, momentum=0.9).local_steps(x, 1, 0.5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("local_steps", [1, 3])
def test_momentum_lasts_as_long_as_the_velocity_is_handed_on(local_steps: int) -> None:
    one = learner(momentum=0.9, local_steps=local_steps)
    x = start(1)
    first = one.local_steps(x, 1, 0.1)
    assert first.velocity is not None
    kept = first.update.clone(), first.velocity.clone()
    second = one.local_steps(x, 1, 0.1, first.velocity)  # the same batches, with a velocity
    assert second.update.norm() > 1.2 * first.update.norm()
    if local_steps == 1:
        assert torch.equal(first.velocity, first.update)
        assert torch.allclose(second.update, 1.9 * first.update)
    # What was handed out does not change afterwards, nor is anything kept in the learner.
    assert torch.equal(first.update, kept[0])
    assert torch.equal(first.velocity, kept[1])
    assert torch.equal(one.local_steps(x, 1, 0.1).update, first.update)


def test_batches_depend_on_seed_agent_and_round_only() -> None:
    x = start(1)
    m = learner().local_steps(x, 7, 0.1).update
    restarted = learner()
    assert torch.equal(restarted.local_steps(x, 7, 0.1).update, m)
    assert not torch.equal(restarted.local_steps(x, 8, 0.1).update, m)
    assert not torch.equal(learner([1]).local_steps(x, 7, 0.1).update, m)


def test_a_diverged_row_shows_and_leaves_the_others_alone() -> None:
    x = start(2)
    x[0] = torch.nan
    two = learner(2, local_steps=2)
    done = two.local_steps(x, 1, 0.1)
    assert not torch.isfinite(done.update[0]).any()
    assert not torch.isfinite(done.losses[0])
    alone = learner([1], local_steps=2).local_steps(x[1:], 1, 0.1)
    assert torch.allclose(done.update[1], alone.update[0], rtol=1e-4, atol=1e-6)
    assert math.isnan(two.evaluate(x)[0].value)  # neither an accuracy nor a crash


def test_parameters_come_back_out_by_name_and_as_a_model() -> None:
    one = learner()
    x = torch.arange(float(one.dim))
    state = one.state_dict(x)
    assert tuple(state) == one.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert tuple(value.shape for value in state.values()) == one.shapes
    assert torch.equal(torch.cat([value.flatten() for value in state.values()]), x)
    model = module_of(one, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_evaluation_measures_each_row_by_itself() -> None:
    two = learner(2)
    x = start(2)
    x[1] = 0.0  # every class scores alike: one of ten
    first, second = (one.value for one in two.evaluate(x))
    assert second == pytest.approx(0.1, abs=0.02)
    assert first == DIGITS.evaluate(module_of(two, x[0]))


def test_a_shards_loss_is_that_of_its_own_samples() -> None:
    task = resolve_task("digits", None)
    shards = [Shard(0, 2, "dirichlet:0.5"), Shard(1, 2, "dirichlet:0.5")]
    algorithm = AlgorithmSettings(local_steps=1)
    one = Learner(task, shards, algorithm, batch_size=8, seed=0)
    rows = initial_parameters(task, 0) + torch.tensor([[0.0], [0.05]])
    losses = one.shard_losses(rows, samples=10_000)
    for row, shard, loss in zip(rows, shards, losses, strict=True):
        with torch.no_grad():
            expected = task.loss(module_of(one, row), task.load_data(shard, 0))
        torch.testing.assert_close(loss, expected)
    # A few samples, spread over the shard, stand for all.
    few = one.shard_losses(rows, samples=100)
    assert not torch.equal(few, losses)
    torch.testing.assert_close(few, losses, rtol=0.2, atol=0.0)
    # Or those of a round, which an agent by itself draws alike; of a small shard all.
    third = one.shard_losses(rows, 100, t=3)
    torch.testing.assert_close(third, losses, rtol=0.2, atol=0.0)
    assert not torch.isclose(third, one.shard_losses(rows, 100, t=4)).any()
    alone = Learner(task, shards[1:], algorithm, batch_size=8, seed=0)
    torch.testing.assert_close(alone.shard_losses(rows[1:], 100, t=3), third[1:])
    assert torch.equal(one.shard_losses(rows, 10_000, t=3), losses)


def test_a_parameter_the_loss_does_not_use_gets_a_zero_gradient() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(1, 1)
            self.spare = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    one = learner(task=Line(build=Spare))
    m = one.local_steps(torch.ones(1, 4), 1, 0.1).update
    assert m[0, 2:].tolist() == [0.0, 0.0]


def test_a_constant_buffer_and_a_shared_parameter_are_no_obstacle() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(1, 1, bias=False)
            self.second = self.first
            self.register_buffer("shift", torch.ones(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.second(x) + self.shift

    task = Line(build=Tied)
    one = learner(task=task)
    m = one.local_steps(torch.full((1, 1), 2.0), 1, 0.1).update
    assert m.tolist() == [[12.0]]  # d/dw (2 w + 1 - 2)^2 at 2
    assert module_of(one, torch.tensor([7.0]), task)(torch.ones(1, 1)).item() == 15.0


def test_gradients_are_taken_even_where_the_caller_switched_them_off() -> None:
    x = start(1)
    with torch.no_grad():
        m = learner().local_steps(x, 1, 0.1).update
    assert torch.equal(m, learner().local_steps(x, 1, 0.1).update)


def _fail(*_: object) -> Tensor:
    raise FileNotFoundError("images.npy\nis gone")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Line(build=lambda: nn.Linear(1, 1).requires_grad_(False)), "no parameter that requires"),
        (Line(build=lambda: len), "gave a builtin_function_or_method, not a Module"),  # type: ignore
        (Line(build=nn.ReLU), "no parameter that requires"),
        (Line(loss=lambda error: error), "not a scalar"),
        (Line(loss=_fail), r"loss\(\) failed \(FileNotFoundError: images.npy is gone\)"),
        (Line(data=lambda _: (_fail(),)), r"load_data\(\) failed"),
        (Line(data=lambda _: torch.ones(4, 1)), "a tuple of tensors"),  # type: ignore
        (Line(data=lambda _: (np.ones((4, 1)),)), "a tuple of tensors"),  # type: ignore
        (Line(data=lambda _: (torch.tensor(1.0),)), "length above 0"),
        (Line(data=lambda _: ()), "length above 0"),
        (Line(data=lambda _: (torch.ones(0, 1),)), "length above 0"),
        (Line(data=lambda _: (torch.ones(2, 1), torch.ones(3, 1))), "length above 0"),
        (Line(data=lambda i: (torch.ones(2, 1 + i),)), "differ in shape"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused_in_one_line(task: Task, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        learner(2, task)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)),
        lambda: nn.Linear(1, 1).double(),
        lambda: nn.Sequential(nn.Linear(1, 1), nn.Dropout()),
    ],
)
def test_what_cannot_be_trained_many_at_a_time_is_told_apart(
    build: Callable[[], nn.Module],
) -> None:
    with pytest.raises(NotVectorised):
        learner(2, Line(build=build))


def bad_sample(value: float) -> Callable[[int], Batch]:
    """Samples of which the last one of agent 1 is `value`."""

    def data(index: int) -> Batch:
        x = torch.ones(300 + index, 1)
        x[-1] = value if index == 1 else 1.0
        return (x,)

    return data


class Signs(Line):
    """Classes 0 and 1, but for the last sample of agent 1, which is of class -1."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def load_data(self, shard: Shard, seed: int) -> Batch:
        y = torch.ones(300 + shard.index, dtype=torch.int64)
        y[-1] = -1 if shard.index == 1 else 0
        return torch.ones(len(y), 1), y

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Line(data=bad_sample(math.nan)), r"loss\(\) is nan on .*: its data hold nan or inf"),
        (Line(data=bad_sample(math.inf)), r"loss\(\) is (nan|inf) on .*: its data hold nan or inf"),
        (Line(data=bad_sample(1e30)), r"loss\(\) is inf on sample 300 of agent a1, in round 1$"),
        (Signs(), r"loss\(\) failed \(IndexError: Target -1 is out of bounds.\)"),
    ],
)
@pytest.mark.parametrize("checked_max", [0, 2**31])  # of large data, samples that stand out
def test_a_sample_that_cannot_be_trained_on_is_named_wherever_it_lies(
    task: Task, words: str, checked_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candor.agent.learning.samples.CHECKED_MAX", checked_max)
    one = learner([0, 1, 2], task)
    x = torch.cat([p.detach().flatten() for p in task.build_model().parameters()])
    with pytest.raises(ConfigurationError, match=words) as refusal:
        one.check_samples(x, ("a0", "a1", "a2"))
    assert "on sample 300 of agent a1" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_sound_samples_pass_the_check() -> None:
    learner(3).check_samples(start(1)[0], ("a0", "a1", "a2"))


def test_a_loss_that_fails_in_the_midst_of_a_run_is_told_in_one_line() -> None:
    one = learner([1], Signs())
    draws = (draw_samples(0, t, [1], np.array([301]), 16).max() for t in count(1))
    met = next(t for t, largest in enumerate(draws, start=1) if largest == 300)
    with pytest.raises(ConfigurationError, match=r"task: loss\(\) failed \(") as refusal:
        one.local_steps(torch.zeros(1, 4), met, 0.1)
    assert "\n" not in str(refusal.value)


def test_a_metric_is_a_number_from_0_to_1_or_undefined() -> None:
    x = torch.ones(1, 2)
    assert learner(task=Line(metric=1.0)).evaluate(x) == [Measured(1.0)]
    assert math.isnan(learner(task=Line(metric=math.nan)).evaluate(x)[0].value)
    # A model of nan puts all samples into one class, which is no accuracy.
    assert math.isnan(learner(task=Line(metric=1.0)).evaluate(x * math.nan)[0].value)
    for metric, words in (
        (1.01, "not from 0 to 1"),
        (-0.1, "not from 0 to 1"),
        (math.inf, "gave inf"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            learner(task=Line(metric=metric)).evaluate(x)


def test_a_saved_model_loads_where_a_user_would_load_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    one = learner()
    x = start(1)[0]
    save_file(dict(one.state_dict(x)), tmp_path / "model.safetensors")
    model = DIGITS.build_model()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert DIGITS.evaluate(model) == one.evaluate(x[None])[0].value


def tanh() -> nn.Module:
    """A model whose gradients are not written out."""
    return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))


@pytest.mark.parametrize("built", [DIGITS, Classification(tanh, read_digits)])
def test_epochs_are_each_agents_own_number_of_steps_however_many_others_take(built: Task) -> None:
    together = learner(4, built, epochs=1, momentum=0.5)
    steps = {-(-together.samples(row) // 16) for row in range(4)}
    assert len(steps) > 2, "shards of one length show nothing"
    x = initial_parameters(built, 0).repeat(4, 1) + 0.01 * torch.arange(4.0)[:, None]
    before = 0.01 * x
    whole = together.local_steps(x, 3, 0.1, before)
    assert whole.velocity is not None
    for row in range(4):
        alone = learner([row], built, epochs=1, momentum=0.5)
        own = alone.local_steps(x[row : row + 1], 3, 0.1, before[row : row + 1])
        assert own.velocity is not None
        assert torch.allclose(whole.update[row], own.update[0], atol=1e-4)
        assert torch.allclose(whole.losses[row], own.losses[0], atol=1e-5)
        assert torch.allclose(whole.velocity[row], own.velocity[0], atol=1e-5)


@pytest.mark.parametrize(("length", "batch", "epochs"), [(10, 4, 2), (3, 16, 1), (64, 8, 3)])
def test_a_pass_is_over_every_sample_once(length: int, batch: int, epochs: int) -> None:
    drawn = passes(7, 2, 5, length, batch)
    steps = -(-epochs * length // batch)
    samples = np.concatenate([next(drawn) for _ in range(steps)])
    for number in range(epochs):
        assert sorted(samples[number * length :][:length]) == list(range(length))
    others = [passes(7, 2, 6, length, batch), passes(7, 3, 5, length, batch)]
    assert any((next(passes(7, 2, 5, length, batch)) != next(one)).any() for one in others)


def test_the_phase_of_an_agent_whose_shard_is_no_batch_is_the_gradient() -> None:
    """Line's shards are of 3 and 4 samples, and a batch is of 16."""
    one = learner(2, Line(), epochs=1)
    x = torch.tensor([[0.5, 0.0], [1.0, 0.0]])
    done = one.local_steps(x, 1, 0.25)
    # The loss is (w + b - 2)^2 on every sample, and so is every batch.
    assert torch.allclose(done.losses, torch.tensor([2.25, 1.0]))
    assert torch.allclose(done.update, torch.tensor([[-3.0, -3.0], [-2.0, -2.0]]))


def test_a_phase_of_seconds_ends_with_the_step_in_which_they_are_over(monkeypatch) -> None:
    clock = count(0.0, 1.0)  # a second between two looks at it
    monkeypatch.setattr(learning.time, "monotonic", lambda: next(clock))
    x = start(1)
    timed = learner([2], seconds=3.5, momentum=0.5).local_steps(x, 1, 0.1)
    long = learner([2], epochs=9, momentum=0.5)
    batches = long._drawn(1)[:4]
    update = torch.empty_like(x)
    losses, velocity = long._train(x, batches, 0.1, None, update)
    assert torch.equal(timed.update, update)
    assert torch.equal(timed.losses, losses)
    assert timed.velocity is not None
    assert torch.equal(timed.velocity, velocity)
    first = learner([2], seconds=1e-9).local_steps(x, 1, 0.1)  # one step at least
    assert torch.equal(first.update, long._train(x, batches[:1], 0.1, None, torch.empty_like(x))[1])


@pytest.mark.parametrize(("local_steps", "epochs"), [(3, None), (1, 1)])
def test_summed_updates_are_the_others_and_keep_what_models_round_away(
    local_steps: int, epochs: int | None
) -> None:
    settings = AlgorithmSettings(local_steps=local_steps, local_epochs=epochs, momentum=0.5)
    shards = [Shard(i, 8, PARTITION) for i in range(2)]
    summed = Learner(DIGITS, shards, settings, batch_size=16, seed=0, summed=True)
    other = learner(2, local_steps=local_steps, epochs=epochs, momentum=0.5)
    x = start(2)
    for step_size, near in ((0.1, True), (1e-9, False)):
        one, two = (each.local_steps(x, 1, step_size) for each in (summed, other))
        assert torch.allclose(one.update, two.update, atol=1e-4) == near
        assert torch.equal(one.losses, two.losses)
    assert torch.allclose(one.update, summed.local_steps(x, 1, 1e-12).update, atol=1e-6)
