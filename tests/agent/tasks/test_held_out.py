"""Samples that are held out: whose they are, and that nobody trains on them."""

import pytest
import torch

from candor.agent.learning.samples import Samples
from candor.agent.tasks import resolve_task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.held_out import held_out_places, with_held_out
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.strategies.lies import Few
from candor.topologies.specs.specs import ConfigurationError

DIGITS = resolve_task("digits:model=logistic")
SEED = 3


class Counted:
    """Samples that are numbers, all of one agent."""

    loss = None

    def load_data(self, shard, seed):
        return (torch.arange(40),)


class Looped:
    def train(self, model, context):
        return 0.0


def part(index: int, *, held: bool) -> Shard:
    return Shard(index, 4, "dirichlet:0.5", held_out=0.25, of_held=held)


def test_what_is_held_out_and_what_is_not_are_an_agents_samples_together():
    task = with_held_out(DIGITS, [part(0, held=False)])
    for index in range(4):
        whole, _ = load_data(DIGITS, Shard(index, 4, "dirichlet:0.5"), SEED)
        trained, held = (load_data(task, part(index, held=h), SEED)[0] for h in (False, True))
        assert len(held) == max(1, round(0.25 * len(whole)))
        rows = sorted([*trained.tolist(), *held.tolist()])
        assert rows == sorted(whole.tolist())


def test_without_a_share_the_task_is_itself():
    assert with_held_out(DIGITS, [Shard(0, 4)]) is DIGITS


def test_every_agent_and_seed_has_its_own_and_never_none_or_all():
    drawn = {tuple(held_out_places(40, 0.25, seed, agent)) for seed in (0, 1) for agent in (0, 1)}
    assert len(drawn) == 4
    assert [held_out_places(n, 0.25, 0, 0).sum() for n in (2, 3, 8)] == [1, 1, 2]
    assert held_out_places(2, 0.99, 0, 0).sum() == 1
    with pytest.raises(ConfigurationError, match="single sample"):
        held_out_places(1, 0.25, 0, 0)


def test_who_trains_on_few_has_them_of_what_is_not_held_out():
    """A strategy that alters data comes after: else its training would see what it is judged by."""
    task = with_held_out(Counted(), [part(0, held=False)])
    held = load_data(task, part(0, held=True), SEED)[0].tolist()
    lying = Samples(
        with_altered_data(task, {0: Few(0.5)}), [part(0, held=False)], SEED, torch.device("cpu")
    )
    assert len(lying.data[0]) == 15
    assert not set(lying.data[0].tolist()) & set(held)


def test_a_task_that_loads_its_own_has_nothing_to_hold_out():
    with pytest.raises(ConfigurationError, match="--reward training"):
        with_held_out(Looped(), [part(0, held=True)])
