"""Sampling episodes: all agents' policies in one product, all environments in as few calls.

What is drawn (where an episode begins, which action) comes from counters of seed, round and agent:
an agent alone in its daemon samples what it samples among all in a simulation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.learning.arena import WORDS, Arena, uniform
from candor.agent.learning.policies import Acting, Floats
from candor.mechanisms.strategies.lies import AltersActions
from candor.topologies.specs.specs import ConfigurationError

# Of a counter of 256 bits: far above what `batches` draws from the same key.
_EPISODES: Final = 2**250
_EVALUATED: Final = 2**249
_AGENT: Final = 2**128
_ACTIONS: Final = 2**127
_WORDS_A_COUNT: Final = 4
_BLOCK: Final = 64  # steps whose actions are drawn at once: many episodes are short


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Episodes of some agents: observations (steps, agents, episodes, *shape) float32, actions and
    rewards (steps, agents, episodes), and which of them count; an episode that ended before has
    rewards of 0."""

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    alive: NDArray[np.bool_]

    @property
    def returns(self) -> NDArray[np.float64]:
        """The sum of each episode's rewards, not discounted: (agents, episodes)."""
        summed: NDArray[np.float64] = self.rewards.sum(axis=0)
        return summed


def sample(
    arena: Arena,
    acting: Acting,
    agents: Sequence[int],
    count: int,
    *,
    seed: int,
    t: int,
    horizon: int,
    evaluating: bool = False,
    altering: Mapping[int, AltersActions] | None = None,
) -> Trajectories:
    """`count` episodes of each agent, of `horizon` steps at most; no more steps than the longest.

    Args:
        arena: where they happen.
        acting: the agents' policies.
        agents: their places in the cluster file, by row.
        count: episodes of an agent.
        seed: the run's, below 2**64.
        t: the round.
        horizon: steps after which an episode ends.
        evaluating: draw others than in training.
        altering: by row, what acts in the place of its policy.

    Raises:
        ConfigurationError: the environment or the policy fails, or gives what is not finite.
    """
    draws = [Draws(seed, t, agent, count, evaluating=evaluating) for agent in agents]
    shape = (len(agents), count)
    seen = arena.reset(np.concatenate([one.begin() for one in draws]))
    alive = np.ones(len(seen), bool)
    observations, actions, rewards, counted = [], [], [], []
    for step in range(horizon):
        if step % _BLOCK == 0:
            block = np.stack([one.block() for one in draws], axis=1)  # (block, agents, count)
        logits = acting(seen.reshape(*shape, *seen.shape[1:]))
        chosen = choose(logits, block[step % _BLOCK])
        for row, strategy in (altering or {}).items():
            chosen[row] = strategy.act(chosen[row], block[step % _BLOCK, row], logits.shape[-1])
        observations.append(seen)
        actions.append(chosen)
        counted.append(alive)
        seen, reward, ended = arena.step(chosen.reshape(-1), alive)
        rewards.append(np.where(alive, reward, 0.0))
        alive = alive & ~ended
        if not alive.any():
            break
    steps = len(actions)
    made = Trajectories(
        np.stack(observations).reshape(steps, *shape, *seen.shape[1:]),
        np.stack(actions),
        np.stack(rewards).reshape(steps, *shape),
        np.stack(counted).reshape(steps, *shape),
    )
    _check(made)
    return made


class Draws:
    """All that is drawn for one agent's episodes of a round.

    Philox 4x64-10 keyed with seed and round, as batches are, from a part of its counter that is
    the agent's own: where the episodes begin, and then one number a step and episode, in order.
    """

    def __init__(self, seed: int, t: int, agent: int, count: int, *, evaluating: bool) -> None:
        place = (_EVALUATED if evaluating else _EPISODES) + agent * _AGENT
        self._count = count
        self._words = -(-count * _BLOCK // _WORDS_A_COUNT) * _WORDS_A_COUNT
        key = (t << 64) | seed
        self._starts = np.random.Philox(key=key, counter=place)
        self._actions = np.random.Philox(key=key, counter=place + _ACTIONS)

    def begin(self) -> NDArray[np.uint64]:
        """What the episodes begin from: (episodes, WORDS)."""
        words: NDArray[np.uint64] = self._starts.random_raw(self._count * WORDS)
        return words.reshape(self._count, WORDS)

    def block(self) -> NDArray[np.float64]:
        """Numbers from 0 to 1 for the next steps: (_BLOCK, episodes)."""
        words: NDArray[np.uint64] = self._actions.random_raw(self._words)
        return uniform(words[: self._count * _BLOCK]).reshape(_BLOCK, self._count)


def choose(logits: Floats, draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """The actions (agents, episodes) that uniform draws choose by logits (…, actions): the first
    whose cumulative probability is above the draw."""
    if logits.shape[-1] == 2:  # a quarter of the time
        odds = np.exp(logits[..., 1] - logits[..., 0], dtype=np.float64)
        return (draws * (1.0 + odds) >= 1.0).astype(np.int64)
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    reached = np.cumsum(odds, axis=-1)
    below = reached[..., :-1] <= (draws * reached[..., -1])[..., np.newaxis]
    chosen: NDArray[np.int64] = below.sum(axis=-1)
    return chosen


def _check(made: Trajectories) -> None:
    for what, numbers in (("observations", made.observations), ("rewards", made.rewards)):
        if not np.isfinite(numbers).all():
            raise ConfigurationError(f"task: its environment gave {what} that are not finite")
