"""Agents that train each by itself: own loops, and losses that do not run under vmap."""

import io
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.learner import Learner, Learning
from candor.agent.learning.plain import PlainSgd
from candor.agent.learning.reporting import Reporting
from candor.agent.learning.rows import PATIENCE, TrainedRows
from candor.agent.learning.trainer import Trainer
from candor.agent.tasks.base import Batch
from candor.agent.tasks.context import TrainingContext
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

SGD = AlgorithmSettings(local_steps=3, momentum=0.5)
CPU = torch.device("cpu")


class Points:
    """Two classes of points; a loss that runs under vmap as well as by itself."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def load_data(self, shard: Shard, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(shard.index)
        x = torch.randn(40 + 3 * shard.index, 2, generator=generator)
        return x, (x[:, 0] > 0).long()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logs = F.log_softmax(model(batch[0]), dim=-1)
        return -logs.gather(-1, batch[1].unsqueeze(-1)).mean()

    def evaluate(self, model: nn.Module) -> float:
        x = torch.linspace(-1, 1, 21)[:, None].repeat(1, 2)
        return float((model(x).argmax(1) == (x[:, 0] > 0)).float().mean())


class Normed(Points):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))


class Loop(Points):
    """A loop of the user's own: Adam and a schedule, kept between rounds."""

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        x, y = self.load_data(context.shard, context.seed)
        adam = context.keep("adam", lambda: torch.optim.Adam(model.parameters(), 0.05))
        halving = context.keep("halving", lambda: torch.optim.lr_scheduler.StepLR(adam, 1, 0.5))
        assert len(context.keep("data", lambda: [x])) == 1  # is not saved
        context.saved["rounds"] = context.saved.get("rounds", 0) + 1
        context.saved["noise"] = torch.rand(1)
        loss = self.loss(model, (x, y))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        halving.step()
        return loss.item()


def contexts(settings: AlgorithmSettings = SGD, seed: int = 0) -> Contexts:
    return Contexts(settings, 8, seed, CPU, ("a0", "a1", "a2"), rounds=9)


def plain(task: Points, agents: int = 2, settings: AlgorithmSettings = SGD) -> Trainer:
    shards = [Shard(i, agents) for i in range(agents)]
    loop = PlainSgd(task, shards, 0, CPU, settings.momentum)
    return Trainer(task, loop, shards, contexts(settings))


def loops(task: Any, agents: int = 2) -> Trainer:
    return Trainer(task, task, [Shard(i, agents) for i in range(agents)], contexts())


def rounds(one: Learning, task: Points, agents: int, count: int, momentum: bool = True) -> Tensor:
    x = initial_parameters(task, 0).repeat(agents, 1)
    velocity = None
    for t in range(1, count + 1):
        done = one.local_steps(x, t, 0.1, velocity)
        velocity = done.velocity if momentum else None
        x = x - 0.1 * done.update
    return x


def test_plain_autograd_takes_the_steps_that_many_at_a_time_take() -> None:
    task = Points()
    shards = [Shard(i, 2) for i in range(2)]
    many = rounds(Learner(task, shards, SGD, 8, 0), task, 2, 4)
    one = rounds(plain(task), task, 2, 4)
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_one_agent_trains_as_it_does_among_many() -> None:
    task = Normed()
    both = rounds(plain(task), task, 2, 3)
    shards = [Shard(1, 2)]
    alone = Trainer(task, PlainSgd(task, shards, 0, CPU, 0.5), shards, contexts())
    assert torch.equal(rounds(alone, task, 1, 3)[0], both[1])


def test_dropout_and_shuffles_follow_from_seed_agent_and_round() -> None:
    task = Normed()
    assert torch.equal(rounds(plain(task), task, 2, 3), rounds(plain(task), task, 2, 3))
    before = torch.get_rng_state()
    rounds(plain(task), task, 2, 1)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's numbers change


def test_a_loop_goes_on_from_what_it_kept_to_the_same_bit() -> None:
    task = Loop()
    whole = rounds(loops(task), task, 2, 6)
    first = loops(task)
    x = rounds(first, task, 2, 3)
    second = loops(task)
    second.restore(first.private())
    for t in range(4, 7):
        x = x - 0.1 * second.local_steps(x, t, 0.1).update
    assert torch.equal(x, whole)
    assert second._agents[1].saved["rounds"] == 6
    kept = second._agents[1].kept
    assert kept["adam"].param_groups[0]["lr"] == pytest.approx(0.05 * 0.5**6)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "onecycle": lambda one: lr_scheduler.OneCycleLR(one, 0.3, total_steps=9),
    "linear": lambda one: lr_scheduler.LinearLR(one, 0.1, total_iters=7),
    "warm-up": lambda one: lr_scheduler.SequentialLR(
        one,
        [lr_scheduler.LinearLR(one, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(one, 7)],
        [2],
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR's own
def test_a_restart_changes_no_step_size_of_a_schedule(schedule: str) -> None:
    class Scheduled(Points):
        def train(self, model: nn.Module, context: TrainingContext) -> float:
            sgd = context.keep("sgd", lambda: torch.optim.SGD(model.parameters(), 0.05, 0.9))
            steps = context.keep("schedule", lambda: SCHEDULES[schedule](sgd))
            told.append([dict(g, params=None) for g in sgd.param_groups])
            loss = self.loss(model, self.load_data(context.shard, context.seed))
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            steps.step()
            return loss.item()

    told: list[Any] = []
    task = Scheduled()
    x_whole = rounds(loops(task, 1), task, 1, 6)
    whole = list(told)
    told.clear()
    first = loops(task, 1)
    x = rounds(first, task, 1, 3)
    second = loops(task, 1)
    second.restore(first.private())
    for t in range(4, 7):
        x = x - 0.1 * second.local_steps(x, t, 0.1).update
    assert told == whole
    assert torch.equal(x, x_whole)


def test_what_was_kept_and_never_asked_for_again_is_kept_on() -> None:
    task = Loop()
    first = loops(task, 1)
    rounds(first, task, 1, 2)
    second = loops(task, 1)
    second.restore(first.private())
    third = loops(task, 1)
    third.restore(second.private())
    assert third._agents[0].saved["rounds"] == 2
    assert third._agents[0].restored.keys() == {"adam", "halving"}


def test_a_damaged_past_is_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="kept to themselves is damaged") as refusal:
        loops(Loop(), 1).restore(b"\x80\x02nonsense")
    assert "\n" not in str(refusal.value)


def test_buffers_stay_with_their_agent() -> None:
    task = Normed()
    one = plain(task)
    x = rounds(one, task, 2, 2)
    mine, others = (one.state_dict(x[row], row) for row in range(2))
    assert not torch.equal(mine["1.running_mean"], others["1.running_mean"])
    assert int(mine["1.num_batches_tracked"]) == 6
    fresh = task.build_model()
    fresh.load_state_dict(dict(mine))


def test_parameters_of_ones_own_are_trained_and_stay() -> None:
    class Personal(Points):
        shared = ("2.*",)

    task = Personal()
    one = plain(task)
    x = rounds(one, task, 2, 3)
    assert one.dim == 4 * 2 + 2
    mine, others = (one.state_dict(x[row], row)["0.weight"] for row in range(2))
    assert not torch.equal(mine, others)
    torch.manual_seed(0)
    assert not torch.equal(mine, task.build_model()[0].weight)


def test_a_frozen_layer_is_the_same_to_the_bit() -> None:
    class Frozen(Normed):
        def build_model(self) -> nn.Module:
            model = super().build_model()
            model[0].requires_grad_(False)  # type: ignore[index]
            return model

    task = Frozen()
    one = plain(task)
    before = one.state_dict(initial_parameters(task, 0))["0.weight"].clone()
    x = rounds(one, task, 2, 3)
    assert torch.equal(one.state_dict(x[1], 1)["0.weight"], before)
    assert one.dim == 4 + 4 + 4 * 2 + 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_train_as_they_are(dtype: torch.dtype) -> None:
    class Other(Points):
        def build_model(self) -> nn.Module:
            return super().build_model().to(dtype)

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(model(batch[0].to(dtype)).float(), batch[1])

        def evaluate(self, model: nn.Module) -> float:
            with torch.no_grad():
                return float(model(torch.zeros(1, 2, dtype=dtype)).softmax(1)[0, 0])

    task = Other()
    one = plain(task)
    x = rounds(one, task, 2, 20)
    assert x.dtype == torch.float32
    assert one.state_dict(x[0])["0.weight"].dtype == dtype
    assert float(one.shard_losses(x, 40).mean()) < 0.5


def test_what_half_precision_cannot_hold_is_no_update() -> None:
    class Idle(Points):
        def build_model(self) -> nn.Module:
            return super().build_model().to(torch.bfloat16)

        def train(self, model: nn.Module, context: TrainingContext) -> None:
            return None

    task = Idle()
    x = initial_parameters(task, 0)[None] + 1e-4
    done = loops(task, 1).local_steps(x, 1, 0.1)
    assert not done.update.any()
    assert math.isnan(float(done.losses[0]))


def test_batches_last_as_long_as_the_local_phase_says() -> None:
    class Counting(Points):
        steps = 0

        def train(self, model: nn.Module, context: TrainingContext) -> float:
            self.steps = sum(1 for _ in context.batches(range(4)))
            return 0.0

    for settings, expected in (
        (AlgorithmSettings(local_steps=10), 10),
        (AlgorithmSettings(local_epochs=3), 12),
        (AlgorithmSettings(local_seconds=1e-9), 1),
    ):
        task = Counting()
        one = Trainer(task, task, [Shard(0, 1)], contexts(settings))
        one.local_steps(initial_parameters(task, 0)[None], 1, 0.1)
        assert task.steps == expected


def test_an_empty_loader_is_told() -> None:
    class Empty(Points):
        def train(self, model: nn.Module, context: TrainingContext) -> float:
            return float(sum(1 for _ in context.batches([])))

    with pytest.raises(ConfigurationError, match=r"train\(\) failed .*the loader gives no batch"):
        loops(Empty(), 1).local_steps(initial_parameters(Points(), 0)[None], 1, 0.1)


def failing(when: Callable[[int], bool], how: Callable[[nn.Module], None]) -> Loop:
    class Failing(Loop):
        def train(self, model: nn.Module, context: TrainingContext) -> float:
            loss = super().train(model, context)
            if when(context.round):
                how(model)
            return loss

    return Failing()


def raises(_model: nn.Module) -> None:
    raise RuntimeError("the disk of the images\nis gone")


def ruins(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)


@pytest.mark.parametrize("how", [raises, ruins])
def test_a_round_in_which_training_fails_is_sat_out_and_told(
    how: Callable[[nn.Module], None],
) -> None:
    task = failing(lambda t: t in (2, 4, 5), how)
    rows = TrainedRows(loops(task, 1), Reporting(0, [0], {}), lambda _t: torch.ones(1, 1))
    told: list[int] = []
    rows.tell = lambda t, _why: told.append(t)
    x = initial_parameters(task, 0)[None]
    for t in range(1, 7):
        update = rows.local_steps(x, t, 0.1, {})
        assert bool(update.any()) == (t not in (2, 4, 5))
        assert bool(update.isfinite().all())
    assert told == [2, 4, 5]


def test_an_agent_whose_training_fails_again_and_again_gives_up_in_one_line() -> None:
    task = failing(lambda t: t > 1, raises)
    rows = TrainedRows(loops(task, 1), Reporting(0, [0], {}), lambda _t: torch.ones(1, 1))
    told: list[int] = []
    rows.tell = lambda t, _why: told.append(t)
    x = initial_parameters(task, 0)[None]
    for t in range(1, 1 + PATIENCE):
        rows.local_steps(x, t, 0.1, {})
    with pytest.raises(ConfigurationError, match=r"^task: train\(\) failed \(") as refusal:
        rows.local_steps(x, 1 + PATIENCE, 0.1, {})
    assert told == list(range(2, 1 + PATIENCE))
    assert "\n" not in str(refusal.value)


def test_an_agent_whose_first_training_fails_stops_at_once() -> None:
    task = failing(lambda _t: True, raises)
    rows = TrainedRows(loops(task, 1), Reporting(0, [0], {}), lambda _t: torch.ones(1, 1))
    rows.tell = lambda t, why: pytest.fail(why)
    with pytest.raises(ConfigurationError, match=r"^task: train\(\) failed \("):
        rows.local_steps(initial_parameters(task, 0)[None], 1, 0.1, {})


def test_what_cannot_be_loaded_without_running_code_is_not_saved() -> None:
    class Odd(Loop):
        def train(self, model: nn.Module, context: TrainingContext) -> float:
            context.saved["shape"] = {1, 2}
            return 0.0

    one = loops(Odd(), 1)
    one.local_steps(initial_parameters(Odd(), 0)[None], 1, 0.1)
    with pytest.raises(ConfigurationError, match="^task: shape holds more than numbers"):
        one.private()


def test_what_a_host_lacks_shows_before_the_run() -> None:
    class Picky(Loop):
        def prepare(self, context: TrainingContext) -> None:
            raise FileNotFoundError(f"{context.agent}.csv is not in {context.data_root}")

    one = loops(Picky())
    x = initial_parameters(Picky(), 0)
    with pytest.raises(ConfigurationError, match=r"^task: prepare\(\) failed .*a0.csv is not in"):
        one.check_samples(x, ("a0", "a1"))


def test_moments_that_are_no_longer_finite_are_begun_anew() -> None:
    class Poisoned(Loop):
        def train(self, model: nn.Module, context: TrainingContext) -> float:
            loss = super().train(model, context)
            if context.round == 2:
                for state in context.kept["adam"].state.values():
                    state["exp_avg"].fill_(math.inf)
                ruins(model)
            return loss

    task = Poisoned()
    one = loops(task, 1)
    x = initial_parameters(task, 0)[None]
    for t in (1, 2, 3):
        done = one.local_steps(x, t, 0.1)
        assert bool(done.update.isfinite().all()) == (t != 2)


def test_metrics_on_an_agents_own_data_are_told_apart() -> None:
    class Own(Loop):
        metric = "rmse"
        higher_is_better = False

        def evaluate(self, model: nn.Module) -> dict[str, float]:
            return {"rmse": 17.5, "r2": -0.5}

        def evaluate_local(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
            assert context.agent == f"a{context.shard.index}"
            return {"rmse": 10.0 + context.shard.index}

    task = Own()
    x = initial_parameters(task, 0).repeat(2, 1)
    found = loops(task).evaluate(x)
    assert [one.value for one in found] == [17.5, 17.5]
    assert [one.local for one in found] == [10.0, 11.0]
    assert found[0].metrics == {"rmse": 17.5, "r2": -0.5}
    assert loops(task).shard_losses(x, 5).tolist() == [10.0, 11.0]


def test_numpys_and_pythons_own_generators_are_seeded_too(tmp_path: Path) -> None:
    import random

    class Draws(Points):
        drawn: tuple[float, float, float] = (0.0, 0.0, 0.0)

        def train(self, model: nn.Module, context: TrainingContext) -> float:
            self.drawn = (random.random(), float(np.random.rand()), float(torch.rand(1)))
            return 0.0

    x = initial_parameters(Points(), 0)[None]
    first, second = Draws(), Draws()
    for task in (first, second):
        Trainer(task, task, [Shard(0, 1)], contexts()).local_steps(x, 3, 0.1)
    assert first.drawn == second.drawn
    Trainer(first, first, [Shard(0, 1)], contexts()).local_steps(x, 4, 0.1)
    assert first.drawn != second.drawn


class Breaks(Loop):
    """A loop that takes the model apart in its second round."""

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        told = super().train(model, context)
        if context.round == 2:
            assert isinstance(model, nn.Sequential)
            model[2] = nn.Identity()
        return told


def test_a_model_that_a_loop_takes_apart_is_told_and_whole_again_in_the_next_round() -> None:
    task = Breaks()
    one = loops(task, 1)
    x = initial_parameters(task, 0)[None]
    one.local_steps(x, 1, 0.1)
    with pytest.raises(ConfigurationError, match=r"train\(\) took 2\.weight out of the model"):
        one.local_steps(x, 2, 0.1)
    update = one.local_steps(x, 3, 0.1).update
    assert all(bool(view.any()) for view in one._layout.views(update))


class Backbone(Points):
    """One module in the models of all agents."""

    def __init__(self) -> None:
        self.backbone = nn.Linear(2, 4)

    def build_model(self) -> nn.Module:
        return nn.Sequential(self.backbone, nn.Tanh(), nn.Linear(4, 2))


def test_agents_that_would_share_a_module_are_refused_and_frozen_ones_are_not() -> None:
    task = Backbone()
    for build in (lambda: plain(task), lambda: Learner(task, [Shard(0, 1)], SGD, 8, 0)):
        with pytest.raises(ConfigurationError, match=r"the very same 0\.weight twice"):
            build()
    task.backbone.requires_grad_(False)
    assert plain(task).names == ("2.weight", "2.bias")


class Waiting(Loop):
    """Looks on in the midst of its training."""

    def __init__(self) -> None:
        self.within, self.asked = threading.Event(), threading.Event()

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        self.within.set()
        self.asked.wait(0.5)
        return super().train(model, context)


def test_a_model_that_a_callback_asks_for_meanwhile_does_not_disturb_training() -> None:
    shard, ones = Shard(0, 1), torch.ones
    quiet = Trainer(Loop(), Loop(), [shard], contexts())
    x = initial_parameters(Loop(), 0)[None]
    expected = quiet.local_steps(x, 1, 0.1).update
    task = Waiting()
    trainer = Trainer(task, task, [shard], contexts())

    def ask() -> None:
        task.within.wait()
        found.append(trainer.state_dict(ones(trainer.dim)))
        task.asked.set()

    found: list[Any] = []
    asking = threading.Thread(target=ask)
    asking.start()
    update = trainer.local_steps(x, 1, 0.1).update
    asking.join()
    torch.testing.assert_close(update, expected, rtol=0, atol=0)
    assert all(bool((value == 1).all()) for value in found[0].values())


class Unusual(Loop):
    """Saves and keeps what is not plain at a first look."""

    def build_model(self) -> nn.Module:
        class Stateful(nn.Linear):
            def get_extra_state(self) -> Any:
                return {"scale": 1.0}

            def set_extra_state(self, state: Any) -> None: ...

        return nn.Sequential(Stateful(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        lr = np.logspace(-3, -1, 3)[1]
        context.keep("sgd", lambda: torch.optim.SGD(model.parameters(), lr))
        context.saved = {"rate": lr, "shape": model[2].weight.shape, "seen": context.round}
        return super().train(model, context)


def test_numbers_of_numpy_and_a_dict_in_place_of_the_saved_one_survive_a_restart() -> None:
    task = Unusual()
    one = loops(task, 1)
    x = initial_parameters(task, 0)[None]
    one.local_steps(x, 1, 0.1)
    other = loops(task, 1)
    other.restore(one.private())
    assert other._agents[0].saved["seen"] == 1
    assert other._agents[0].saved["rate"] == pytest.approx(0.01)
    assert other._agents[0].restored["sgd"]["param_groups"][0]["lr"] == pytest.approx(0.01)


def test_a_modules_extra_state_is_not_for_a_file_of_tensors() -> None:
    task = Unusual()
    one = loops(task, 1)
    saved = one.state_dict(initial_parameters(task, 0))
    assert sorted(saved) == ["0.bias", "0.weight", "2.bias", "2.weight"]


class NoSaved(Loop):
    def train(self, model: nn.Module, context: TrainingContext) -> float:
        context.saved = None  # type: ignore[assignment]
        return 0.0


def test_a_loop_that_takes_away_what_is_saved_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"train\(\) put a NoneType into context\.saved"):
        loops(NoSaved(), 1).local_steps(initial_parameters(NoSaved(), 0)[None], 1, 0.1)


class Chance(Loop):
    """Preparation and metric by chance, as `random_split` and a part of the test set are."""

    def prepare(self, context: TrainingContext) -> None:
        context.keep("chance", lambda: [torch.rand(1).item(), np.random.rand()])

    def evaluate(self, model: nn.Module) -> float:
        return float(torch.rand(1))


def test_chance_in_preparation_and_metric_is_the_same_in_every_run() -> None:
    def seen() -> Any:
        one = loops(Chance(), 1)
        x = initial_parameters(Chance(), 0)
        one.check_samples(x, ["a0"])
        return one._agents[0].kept["chance"], one.evaluate(x[None])

    before = torch.random.get_rng_state()
    assert seen() == seen()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_optimisers_state_that_does_not_fit_the_new_code_is_kept_for_the_old() -> None:
    one = loops(Loop(), 1)
    x = initial_parameters(Loop(), 0)[None]
    one.local_steps(x, 1, 0.1)

    class Changed(Loop):
        def train(self, model: nn.Module, context: TrainingContext) -> float:
            context.keep(
                "adam", lambda: torch.optim.Adam([{"params": [p]} for p in model[0].parameters()])
            )
            return 0.0

    other = loops(Changed(), 1)
    other.restore(one.private())
    with pytest.raises(ConfigurationError, match="different number of parameter groups"):
        other.local_steps(x, 1, 0.1)
    mended = loops(Loop(), 1)
    mended.restore(other.private())
    assert mended._agents[0].restored["adam"]["state"]


class Thaws(Points):
    """Trains a layer, from the second round on, that is frozen in the model it builds."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        model[0].requires_grad_(False)
        return model

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        model[0].requires_grad_(context.round == 2)
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        loss = self.loss(model, self.load_data(context.shard, 0))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        with torch.no_grad():
            model[0].weight.mul_(1.0)  # written to, and the same
        return loss.item()


def test_a_frozen_layer_that_a_loop_trains_is_told_and_what_it_was_in_the_next_round() -> None:
    one = loops(Thaws(), 1)
    x = initial_parameters(Thaws(), 0)[None]
    before = one.state_dict(x[0])["0.weight"]
    one.local_steps(x, 1, 0.1)
    with pytest.raises(ConfigurationError, match=r"train\(\) changed a frozen parameter"):
        one.local_steps(x, 2, 0.1)
    assert bool(one.local_steps(x, 3, 0.1).update.any())
    assert torch.equal(one.state_dict(x[0])["0.weight"], before)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_private_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save([{"own": {}, "kept": {"adam": Bomb(tmp_path / "run")}, "saved": {}}], file)
    with pytest.raises(ConfigurationError, match="is damaged or of another model") as told:
        loops(Loop(), 1).restore(file.getvalue())
    assert str(told.value).isprintable()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [Points, Loop])
def test_a_model_that_is_built_otherwise_the_second_time_is_refused_in_one_line(
    kind: type[Points],
) -> None:
    class Growing(kind):  # type: ignore[valid-type, misc]
        built = 0

        def build_model(self) -> nn.Module:
            self.built += 1
            return nn.Sequential(nn.Linear(2, 2 + self.built), nn.Linear(2 + self.built, 2))

    task = Growing()
    with pytest.raises(ConfigurationError, match=r"^task: build_model\(\) failed") as refusal:
        Learner(task, [Shard(0, 1)], SGD, 8, 0) if kind is Points else loops(task, 1)
    assert "\n" not in str(refusal.value)


def test_plain_autograd_takes_adams_steps_whose_moments_it_keeps() -> None:
    task, shards, settings = Points(), [Shard(0, 1)], AlgorithmSettings(local_steps=1)
    loop = PlainSgd(task, shards, 0, CPU, 0.0, adam=True)
    adam, sgd = Trainer(task, loop, shards, contexts(settings)), plain(task, 1, settings)
    x = initial_parameters(task, 0)[None]
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t in (1, 2, 3):
        gradient = sgd.local_steps(x, t, 0.1).update
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        update = adam.local_steps(x, t, 0.1).update
        torch.testing.assert_close(update, step, rtol=1e-2, atol=1e-3)
        x = x - 0.1 * update
