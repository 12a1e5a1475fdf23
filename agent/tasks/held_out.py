"""A task of which some samples of every agent are held out: nobody trains on them.

What an agent's own distribution is can only be measured on samples that no model has seen. They are
drawn by the run's seed from the agent's own, before a strategy alters any. A shard says which of
its samples are meant; one that says nothing has all, as in every ordinary run.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from candor.agent.tasks.base import AnyTask, Batch, Task, is_loop, is_policy_task
from candor.agent.tasks.checked import WithSamples, load_data
from candor.agent.tasks.partition import Shard
from candor.topologies.specs.specs import ConfigurationError

HELD_DOMAIN: Final = 0x68656C64  # keeps this stream apart from others drawn from the same seed


def with_held_out(task: AnyTask, shards: Sequence[Shard]) -> AnyTask:
    """The task as these shards see it: itself, unless samples are held out.

    Raises:
        ConfigurationError: they are, and the task loads its own or has none.
    """
    if not any(shard.held_out for shard in shards):
        return task
    if is_policy_task(task) or is_loop(task):
        why = "is an environment" if is_policy_task(task) else "loads its own in train()"
        raise ConfigurationError(
            f"samples cannot be held out of a task that {why}; --reward training needs none"
        )
    return WithSamples(cast(Task, task), partial(_samples, cast(Task, task)))


def held_out_places(count: int, share: float, seed: int, agent: int) -> NDArray[np.bool_]:
    """Which of an agent's samples are held out, (count,): a share of them, at least one, and not
    all.

    Raises:
        ConfigurationError: there are fewer than two.
    """
    if count < 2:
        raise ConfigurationError(
            "an agent has a single sample, of which none can be held out; use fewer agents"
        )
    drawn = np.random.default_rng([seed, HELD_DOMAIN, agent]).permutation(count)
    return drawn < min(max(1, round(share * count)), count - 1)


def _samples(task: Task, shard: Shard, seed: int) -> Batch:
    samples = load_data(task, replace(shard, held_out=0.0, of_held=False), seed)
    held = held_out_places(len(samples[0]), shard.held_out, seed, shard.index)
    chosen = torch.from_numpy(held if shard.of_held else ~held)
    return tuple(tensor[chosen.to(tensor.device)] for tensor in samples)
