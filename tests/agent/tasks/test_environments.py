"""How specs and users' classes name environments, and what is said where they cannot."""

import warnings

import pytest
import torch

from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import is_policy_task
from candor.agent.tasks.environments import defaults_of, spaces_of
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.specs import parse_strategy
from candor.topologies.specs.specs import ConfigurationError

OWN = """
import gymnasium
from torch import nn

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(3)), {}
    def step(self, action):
        return int(self.np_random.integers(3)), float(action), False, False, {}

gymnasium.register("Coin-v0", entry_point=Env, max_episode_steps=7)
gymnasium.register("Endless-v0", entry_point=Env)

class Own:
    horizon = 5
    discount = 0.5
    small_batch = 2
    def build_model(self):
        return nn.Linear(3, 2)
    def make_environment(self):
        return Env()

class NoHorizon(Own):
    horizon = property()

class Lacking:
    def build_model(self):
        return nn.Linear(3, 2)
    def make_environment(self):
        return Env()

class Backwards(Own):
    small_batch = 60
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's; under a name of its own in each test, as modules stay."""
    name = f"own_environment_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):  # that a name is registered again
        yield name


@pytest.mark.parametrize(
    ("name", "sizes", "numbers", "horizon", "batches", "step_size"),
    [
        ("cartpole", ((4,), 2), 386, 500, (50, 4), 5e-4),
        ("lunar-lander", ((8,), 4), 4996, 1000, (96, 32), 1e-3),
        ("cartpole:hidden=8,output=tanh", ((4,), 2), 130, 500, (50, 4), 5e-4),
        ("gym:env=Acrobot-v1,discount=0.99", ((6,), 3), 435, 500, (50, 4), 5e-4),
        ("gym:env=FrozenLake-v1,horizon=20", ((16,), 4), 612, 20, (50, 4), 5e-4),
    ],
)
def test_built_in_names_have_the_settings_of_their_papers(
    name, sizes, numbers, horizon, batches, step_size
):
    task = resolve_task(name)
    assert is_policy_task(task)
    assert spaces_of(task) == sizes
    model = task.build_model()
    assert sum(p.numel() for p in model.parameters()) == numbers
    usual = defaults_of(task)
    assert (task.horizon, usual.large_batch, usual.small_batch) == (horizon, *batches)
    assert (usual.switch_probability, usual.step_size) == (0.2, step_size)
    assert task.discount == (0.99 if "Acrobot" in name else 0.999)


def test_parameters_of_the_published_program_are_drawn_by_their_last_dimension():
    plain = resolve_task("cartpole:hidden=300").build_model()
    torch.manual_seed(3)
    published = resolve_task("cartpole:hidden=300,initial=published").build_model()
    for task, bounds in ((plain, (0.5, 0.5)), (published, (0.5, 300**-0.5))):
        largest = [float(p.detach().abs().max()) for p in list(task.parameters())[:2]]
        assert all(0.9 * bound < most <= bound for most, bound in zip(largest, bounds, strict=True))


def test_users_environments_come_by_name_and_by_class(own):
    by_name = resolve_task(f"gym:env={own}:Coin-v0")
    assert (spaces_of(by_name), by_name.horizon) == (((3,), 2), 7)
    task = resolve_task(f"{own}:Own")
    assert is_policy_task(task)
    assert spaces_of(task) == ((3,), 2)
    usual = defaults_of(task)
    assert (usual.large_batch, usual.small_batch, usual.step_size) == (50, 2, 5e-4)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cartpole:hidden=0", "hidden=0 is out of range"),
        ("cartpole:width=3", "unknown option 'width'; its options are hidden=WIDTH"),
        ("cartpole:initial=theirs", "initial published"),
        ("cartpole:3", "its options are hidden=WIDTH"),
        ("gym", "name the environment, such as gym:env=Acrobot-v1"),
        ("gym:env=Nowhere-v0", "Environment `Nowhere` doesn't exist"),
        ("gym:env=OWN:Endless-v0", "registered without a horizon; say gym:env="),
        ("OWN:Lacking", "has make_environment() and lacks horizon: say horizon = 500"),
        ("OWN:NoHorizon", "lacks horizon"),
        ("OWN:Backwards", "its small_batch, 60, is above its large_batch, 50"),
    ],
)
def test_what_cannot_be_used_is_one_line(name, told, own):
    with pytest.raises(ConfigurationError) as caught:
        resolve_task(name.replace("OWN", own))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_continuous_actions_are_one_line():
    task = resolve_task("gym:env=MountainCarContinuous-v0")
    with pytest.raises(ConfigurationError, match="policies here choose among discrete ones"):
        task.build_model()


def test_strategies_go_with_tasks_that_have_what_they_alter():
    policy, samples = resolve_task("cartpole"), resolve_task("digits")
    acting, flipping = parse_strategy("random-action"), parse_strategy("label-flip")
    assert with_altered_data(policy, {1: acting, 2: parse_strategy("scale:3 @ 2-")}) is policy
    with pytest.raises(ConfigurationError, match="an environment has none"):
        with_altered_data(policy, {0: flipping})
    with pytest.raises(ConfigurationError, match="the task is no environment"):
        with_altered_data(samples, {0: acting})
