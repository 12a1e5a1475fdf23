"""Many episodes of one environment at once: reset them, step them, leave out those that ended.

How an episode begins follows from the words that it is given, and from nothing else: not from
who else is sampled. Two kinds: CartPole as arrays, and any environments one after the other.
"""

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.agent.tasks.base import PolicyTask
from candor.agent.tasks.environments import (
    CART_POLE,
    EnvironmentTask,
    environment_faults,
    flattened,
    shapes_of,
    spaces_of,
)
from candor.topologies.specs.specs import ConfigurationError

if TYPE_CHECKING:
    import gymnasium

WORDS: Final = 4  # 64-bit words that an episode begins from
_UNIT: Final = 2.0**-53
_SEED_BITS: Final = np.uint64(33)  # what is cut off a word: seeds have 31 bits, as old code wants

Words: TypeAlias = NDArray[np.uint64]
Observations: TypeAlias = NDArray[np.float32]
Stepped: TypeAlias = tuple[Observations, NDArray[np.float64], NDArray[np.bool_]]
"""Observations (episodes, *shape), rewards (episodes,), which ended by this step (episodes,)."""


class Arena(Protocol):
    """Episodes side by side."""

    def reset(self, words: Words) -> Observations:
        """Begin an episode for each row of words (episodes, WORDS); (episodes, *shape)."""
        ...

    def step(self, actions: NDArray[np.int64], alive: NDArray[np.bool_]) -> Stepped:
        """Act (episodes,) in those that are alive (episodes,); of the others nothing counts."""
        ...


def uniform(words: Words) -> NDArray[np.float64]:
    """Words as numbers from 0 to 1, below 1."""
    return (words >> np.uint64(11)).astype(np.float64) * _UNIT


class CartPoles:
    """gymnasium's vectorised CartPole, all episodes in one call.

    Where they begin is drawn here, uniform in (-0.05, 0.05) as there, and put into the environment
    after its reset; those that ended go on from a state of its own, which nobody sees.
    """

    _reach: Final = 0.05

    def __init__(self) -> None:
        self._vector: Any = None

    def reset(self, words: Words) -> Observations:
        """As `Arena.reset`; an observation is (position, speed, angle, its speed)."""
        if self._vector is None or self._vector.num_envs != len(words):
            import gymnasium

            self._vector = gymnasium.make_vec(
                CART_POLE, num_envs=len(words), vectorization_mode="vector_entry_point"
            ).unwrapped
        self._vector.reset(seed=0)
        state = self._reach * (2.0 * uniform(words) - 1.0)
        self._vector.state = np.ascontiguousarray(state.T)
        return state.astype(np.float32)

    def step(self, actions: NDArray[np.int64], alive: NDArray[np.bool_]) -> Stepped:  # noqa: ARG002
        """As `Arena.step`."""
        seen, rewards, terminated, truncated, _ = self._vector.step(actions)
        return seen, rewards.astype(np.float64), terminated | truncated


class SingleEnvironments:
    """Environments that step one after the other, those alone whose episodes go on.

    Difference from gymnasium's `SyncVectorEnv`: that one steps, and resets, ended ones too, and
    copies all observations twice.
    """

    def __init__(self, task: PolicyTask) -> None:
        self._task = task
        self._shape, self._actions = spaces_of(task)
        self._environments: list[gymnasium.Env[Any, Any]] = []
        self._seen = np.zeros((0, *self._shape), np.float32)

    def reset(self, words: Words) -> Observations:
        """As `Arena.reset`: the first word is the seed of an episode, which each has of its own."""
        count = len(words)
        with environment_faults():
            while len(self._environments) < count:
                self._environments.append(self._made())
            first = self._environments[0]
            self._space = first.observation_space
            self._offset = int(getattr(first.action_space, "start", 0))
            self._seen = np.zeros((count, *self._shape), np.float32)
            seeds = (words[:, 0] >> _SEED_BITS).tolist()
            for row, seed in enumerate(seeds):
                observation, _ = self._environments[row].reset(seed=seed)
                self._seen[row] = self._flat(observation)
        return self._seen.copy()

    def step(self, actions: NDArray[np.int64], alive: NDArray[np.bool_]) -> Stepped:
        """As `Arena.step`."""
        rewards, ended = np.zeros(len(actions)), np.zeros(len(actions), bool)
        with environment_faults():
            for row in np.flatnonzero(alive).tolist():
                action = int(actions[row]) + self._offset
                seen, reward, terminated, truncated, _ = self._environments[row].step(action)
                self._seen[row] = self._flat(seen)
                rewards[row], ended[row] = float(reward), bool(terminated or truncated)
        return self._seen.copy(), rewards, ended

    def _made(self) -> "gymnasium.Env[Any, Any]":
        made = self._task.make_environment()
        found, expected = shapes_of(made), (self._shape, self._actions)
        if found != expected:
            raise ConfigurationError(
                "task: make_environment() gives observations of shape {} and {} actions, and "
                "before {} and {}; all of a run must be alike".format(*found, *expected)
            )
        return made

    def _flat(self, observation: Any) -> Observations:
        flat = flattened(self._space, observation)
        if flat.shape != self._shape:
            raise ConfigurationError(
                f"task: its environment gave an observation of shape {flat.shape}; its space says "
                f"{self._shape}"
            )
        return flat


def arena_of(task: PolicyTask) -> Arena:
    """The fastest arena for a task."""
    if isinstance(task, EnvironmentTask) and task.is_cart_pole:
        return CartPoles()
    return SingleEnvironments(task)
