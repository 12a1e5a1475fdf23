"""The estimators against a loop and against exact gradients; what is sampled, by whom and how."""

import itertools
import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from candor.agent.learning.arena import CartPoles, SingleEnvironments, uniform
from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import initial_model, initial_parameters
from candor.agent.learning.policies import AnyPolicy, DensePolicy, policy_of
from candor.agent.learning.policy_gradient import (
    PolicyLearner,
    discounted,
    episode_weights,
    estimate,
)
from candor.agent.learning.trajectories import Draws, Trajectories, choose, sample
from candor.agent.tasks import resolve_task
from candor.agent.tasks.partition import Shard
from candor.mechanisms.strategies.lies import RandomAction
from candor.mechanisms.strategies.specs import parse_strategy
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

DISCOUNT = 0.9


class Walk(gymnasium.Env):
    """A walk on a line that ends at either end, after a random number of steps, with a reward that
    depends on both place and action."""

    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (3,))
    action_space = gymnasium.spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-1, 1))
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place += action * 0.5 + 0.1 * float(self.np_random.standard_normal())
        over = abs(self.place) > 1.5 or bool(self.np_random.random() < 0.1)
        return self._seen(), self.place - 0.1 * action, over, False, {}

    def _seen(self):
        return np.array([self.place, self.place**2, 1.0], np.float32)


class WalkTask:
    horizon = 12
    discount = DISCOUNT
    layers: tuple[nn.Module, ...] = ()

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), *self.layers, nn.Linear(5, 3))

    def make_environment(self):
        return Walk()


class NormedWalkTask(WalkTask):
    """A policy that is not written out."""

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 3))


def learner_of(task, agents, strategies=None, seed=5, threads=1, settings=None):
    contexts = Contexts(settings or AlgorithmSettings(), 6, seed, torch.device("cpu"))
    shards = [Shard(agent, 8) for agent in agents]
    return PolicyLearner(task, shards, contexts, None, strategies or {}, threads)


def policies(task, agents, spread=0.3, seed=1):
    """Policies (agents, dim) of their own."""
    x = initial_parameters(task, seed).repeat(agents, 1)
    return x + spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def reference(model, x, before, made: Trajectories, agent):
    """ghat, or ghat_w of `before`, one episode and step at a time."""

    def logs(parameters, episode, step):
        torch.nn.utils.vector_to_parameters(parameters, model.parameters())
        seen = torch.from_numpy(made.observations[step, agent, episode])
        return model(seen[None])[0].log_softmax(0)[int(made.actions[step, agent, episode])]

    policy = x if before is None else before
    total = torch.zeros_like(policy)
    for episode in range(made.actions.shape[2]):
        steps = int(made.alive[:, agent, episode].sum())
        weight, worth = 1.0, []
        for step in range(steps):
            if before is not None:
                ratio = logs(before, episode, step) - logs(x, episode, step)
                weight *= math.exp(float(ratio.detach()))
            worth.append(weight * DISCOUNT**step * made.rewards[step, agent, episode])
        for step in range(steps):
            model.zero_grad()
            logs(policy, episode, step).backward()
            score = torch.cat([p.grad.flatten() for p in model.parameters()])
            total += score * sum(worth[step:])
    return -total / made.actions.shape[2]


@pytest.mark.parametrize("task", [WalkTask(), NormedWalkTask()], ids=["written out", "vmap"])
def test_estimates_are_those_of_a_loop_over_episodes_and_steps(task):
    learner = learner_of(task, [0, 3])
    kind = DensePolicy if type(task) is WalkTask else AnyPolicy
    assert isinstance(learner.policy, kind)
    x, before = policies(task, 2), policies(task, 2, seed=2)
    made = sample(
        SingleEnvironments(task),
        learner.policy.acting(x),
        [0, 3],
        7,
        seed=5,
        t=3,
        horizon=task.horizon,
    )
    assert not made.alive.all()  # episodes of several lengths
    answer, losses = learner.policy_gradient(x, 3, 7, before)
    for agent in range(2):
        found = estimate(learner.policy, made, agent, DISCOUNT, x[agent], before[agent])
        model = task.build_model()
        own = reference(model, x[agent], None, made, agent)
        weighted = reference(model, x[agent], before[agent], made, agent)
        np.testing.assert_allclose(found.own, own, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.weighted, weighted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer[agent], own - weighted, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(losses, -torch.from_numpy(made.returns.mean(1)).float())


def test_the_published_weights_are_of_whole_episodes_and_vanish_on_long_ones():
    task, settings = WalkTask(), AlgorithmSettings(name="dec-byz-pg", estimator="published")
    learner = learner_of(task, [0], settings=settings)
    x, before = policies(task, 1), policies(task, 1, seed=2)
    walks = SingleEnvironments(task)
    made = sample(walks, learner.policy.acting(x), [0], 5, seed=5, t=3, horizon=12)
    model, expected = task.build_model(), torch.zeros_like(x[0])
    for episode in range(5):
        alive = made.alive[:, 0, episode]
        seen = torch.from_numpy(made.observations[alive, 0, episode])
        done = torch.from_numpy(made.actions[alive, 0, episode])
        chances = []
        for parameters in (x[0], before[0]):
            torch.nn.utils.vector_to_parameters(parameters, model.parameters())
            model.zero_grad()
            logs = model(seen).log_softmax(1).gather(1, done[:, None])[:, 0]
            chances.append(float(logs.detach().sum().exp()))
        worth = discounted(made.rewards[:, 0, episode : episode + 1], DISCOUNT)[alive, 0]
        (logs * torch.from_numpy(worth.copy()).float()).sum().backward()
        score = torch.cat([p.grad.flatten() for p in model.parameters()])
        expected -= score * chances[1] / (chances[0] + 1e-9) / 5
    own = learner.policy_gradient(x, 3, 5)[0]
    answer = learner.policy_gradient(x, 3, 5, before)[0]
    torch.testing.assert_close((own - answer)[0], expected, rtol=1e-4, atol=2e-5)
    alive, logs = np.ones((100, 1), bool), np.full(100, np.log(0.5))
    assert episode_weights(alive, logs, logs) < 1e-20
    assert episode_weights(alive[:4], logs[:4], logs[:4]) == pytest.approx(1, abs=1e-6)


def test_estimates_are_unbiased_for_the_policy_and_for_the_one_before():
    """All episodes of three binary choices, whose state is what was chosen; the exact gradients."""
    task = WalkTask()
    task.layers = (nn.Linear(5, 5), nn.ReLU())
    model, layout = initial_model(task, 0)
    policy = policy_of(model, layout)
    x, before = policies(task, 1, seed=3).double(), policies(task, 1, seed=4).double()
    reward = np.random.default_rng(0).standard_normal((4, 9, 3))

    def episode(actions):
        places = np.cumsum([0, *(a - 1 for a in actions)])[: len(actions)]
        seen = np.array([[p, p * p, i] for i, p in enumerate(places)], np.float32)
        rewards = np.array(
            [reward[i, p, a] for i, (p, a) in enumerate(zip(places, actions, strict=True))]
        )
        return seen, rewards

    def made_of(actions):
        seen, rewards = episode(actions)
        shape = (len(actions), 1, 1)
        return Trajectories(
            seen.reshape(*shape, 3),
            np.array(actions).reshape(shape),
            rewards.reshape(shape),
            np.ones(shape, bool),
        )

    def chance(x, actions):
        views = zip(layout.names, (view[0] for view in layout.views(x)), strict=True)
        seen = torch.from_numpy(episode(actions)[0]).double()
        logs = torch.func.functional_call(model, dict(views), (seen,)).log_softmax(-1)
        return torch.stack([logs[i, a] for i, a in enumerate(actions)]).sum().exp()

    def exact(x):
        x = x.clone().requires_grad_()
        worth = sum(
            chance(x, actions) * float((episode(actions)[1] * DISCOUNT ** np.arange(4)).sum())
            for actions in everything
        )
        return -torch.autograd.grad(worth, x)[0]

    everything = list(itertools.product(range(3), repeat=4))
    own, weighted = np.zeros(layout.dim), np.zeros(layout.dim)
    for actions in everything:
        made, likely = made_of(actions), float(chance(x, actions))
        found = estimate(policy, made, 0, DISCOUNT, x[0], before[0])
        own += likely * found.own
        weighted += likely * found.weighted
    np.testing.assert_allclose(own, exact(x)[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(weighted, exact(before)[0], rtol=1e-8, atol=1e-10)


def test_the_policy_before_being_the_same_leaves_nothing():
    task = resolve_task("cartpole")
    learner = learner_of(task, [0, 1])
    x = policies(task, 2)
    gradient, _ = learner.policy_gradient(x, 1, 5)
    assert float(gradient.norm()) > 1
    assert not learner.policy_gradient(x, 1, 5, x.clone())[0].any()


def test_weights_outlive_a_thousand_steps():
    """Where each step is less likely than one in a hundred, products of probabilities are 0 after
    some 160 steps; the weights themselves are near 1."""
    task = WalkTask()
    model, layout = initial_model(task, 0)
    policy = policy_of(model, layout)
    x = torch.zeros(1, layout.dim)
    x[0, -3:] = torch.tensor([0.0, 5.0, 5.0])
    before = x.clone()
    before[0, -3] = 0.001
    steps = 1000
    logs = [torch.log_softmax(row[0, -3:].double(), 0) for row in (x, before)]
    probability = float(logs[0][0].exp())
    assert probability**steps == 0.0
    shape = (steps, 1, 1)
    made = Trajectories(
        np.zeros((*shape, 3), np.float32),
        np.zeros(shape, np.int64),
        np.ones(shape),
        np.ones(shape, bool),
    )
    ratio = float(logs[1][0] - logs[0][0])
    weights = np.exp(ratio * np.arange(1, steps + 1))
    assert weights[-1] == pytest.approx(2.7, rel=0.05)
    expected = np.cumsum((weights * 0.999 ** np.arange(steps))[::-1]).sum()
    score = 1 - float(logs[1][0].exp())  # of the bias of the action that was taken
    found = estimate(policy, made, 0, 0.999, x[0].double(), before[0].double())
    assert found.weighted[-3] == pytest.approx(-score * expected, rel=1e-9)


@pytest.mark.parametrize("name", ["cartpole", "lunar-lander"])
def test_one_agent_alone_samples_what_it_samples_among_many(name):
    task = resolve_task(name)
    agents, count = [0, 2, 3, 5, 7], 3
    x, before = policies(task, 5, 0.1), policies(task, 5, 0.1, seed=2)
    together = learner_of(task, agents, {3: RandomAction()}, threads=3)
    many = together.policy_gradient(x, 9, count, before)
    for row, agent in enumerate(agents):
        alone = learner_of(task, [agent], {3: RandomAction()})
        rows = slice(row, row + 1)
        one = alone.policy_gradient(x[rows], 9, count, before[rows])
        assert torch.equal(one[0], many[0][rows])
        assert torch.equal(one[1], many[1][rows])
    again = together.policy_gradient(x, 9, count, before)
    assert torch.equal(again[0], many[0])
    assert not torch.equal(together.policy_gradient(x, 10, count)[1], many[1])


def test_cart_poles_are_those_of_single_environments():
    """Sampled side by side, beyond the end of the shorter ones, and replayed one by one."""
    task = resolve_task("cartpole")
    learner = learner_of(task, [0, 1])
    x = policies(task, 2, 0.5)
    made = sample(
        CartPoles(), learner.policy.acting(x), [0, 1], 10, seed=5, t=2, horizon=task.horizon
    )
    lengths = made.alive.sum(axis=0)
    assert lengths.min() < lengths.max() == len(made.actions)
    assert np.array_equal(made.returns, lengths)
    alone = gymnasium.make("CartPole-v1")
    alone.reset(seed=0)
    for agent in range(2):
        starts = 0.05 * (2 * uniform(Draws(5, 2, agent, 10, evaluating=False).begin()) - 1)
        for episode in range(10):
            alone.reset()
            alone.unwrapped.state = starts[episode]
            for step in range(int(lengths[agent, episode])):
                seen, _, over, _, _ = alone.step(int(made.actions[step, agent, episode]))
                if step + 1 < len(made.actions) and not over:
                    np.testing.assert_allclose(
                        made.observations[step + 1, agent, episode], seen, atol=1e-6
                    )
            assert over


def test_actions_are_as_likely_as_the_policy_says():
    logits = np.array([[0.0, 1.0, -2.0, 0.5]])
    draws = np.random.default_rng(0).random((1, 200_000))
    chosen = choose(np.broadcast_to(logits[:, None], (1, 200_000, 4)), draws)
    shares = np.bincount(chosen[0], minlength=4) / 200_000
    odds = np.exp(logits[0])
    np.testing.assert_allclose(shares, odds / odds.sum(), atol=0.005)
    one = Draws(1, 1, 0, 50, evaluating=False)
    blocks = np.stack([one.block() for _ in range(50)])
    assert blocks.mean() == pytest.approx(0.5, abs=0.005)
    assert len(np.unique(blocks)) == blocks.size
    other = Draws(1, 1, 1, 50, evaluating=False).block(), Draws(1, 2, 0, 50, evaluating=False)
    assert not np.isin(other[0], blocks).any()
    assert not np.isin(other[1].block(), blocks).any()


def test_whoever_acts_at_random_does_so_in_its_rounds_alone():
    """By a policy that knows but one action."""
    task = WalkTask()
    x = torch.zeros(2, initial_parameters(task, 0).numel())
    x[:, -1] = 50.0
    strategy = parse_strategy("random-action @ 2-")
    learner = learner_of(task, [4, 6], {6: strategy})
    certain, _ = learner.policy_gradient(x, 1, 40)
    assert float(certain.abs().max()) < 1e-12
    mixed, _ = learner.policy_gradient(x, 2, 40)
    assert float(mixed[0].abs().max()) < 1e-12
    assert float(mixed[1].abs().max()) > 0.1


def test_a_policy_of_another_width_is_one_line():
    task = WalkTask()
    task.build_model = lambda: nn.Linear(3, 4)
    with pytest.raises(ConfigurationError, match=r"there are 3 actions: give logits \(2, 3\)"):
        learner_of(task, [0])
    task.build_model = lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with pytest.raises(ConfigurationError, match="leave out layers with buffers"):
        learner_of(task, [0])
