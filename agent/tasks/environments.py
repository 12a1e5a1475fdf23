"""Tasks of reinforcement learning: environments of gymnasium, and how a spec names them.

What samples them is `agent.learning.trajectories`. gymnasium is an extra: it is imported when an
environment is made or looked at, and what it lacks is told in one line.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import nn

from candor.agent.tasks.base import PolicyTask
from candor.topologies.cluster.file import PUBLISHED
from candor.topologies.specs.specs import (
    ConfigurationError,
    Scalar,
    Spec,
    one_line,
    shown,
    users_errors,
)

if TYPE_CHECKING:
    import gymnasium

CART_POLE: Final = "CartPole-v1"
LUNAR_LANDER: Final = "LunarLander-v3"
WIDTH_MAX: Final = 4096
HORIZON_MAX: Final = 100_000
_INSTALL: Final = "pip install 'candor[rl]'"


@dataclass(frozen=True, slots=True)
class PolicyDefaults:
    """What algorithms of policies do unless told: trajectories of a large and of a small round, N
    and B; the chance p of a large one; the step size."""

    large_batch: int = 50
    small_batch: int = 4
    switch_probability: float = 0.2
    step_size: float = 5e-4


@dataclass(frozen=True, slots=True)
class EnvironmentTask:
    """An environment by its name, and a tanh network of two hidden layers as its policy.

    The network is that of Jordan et al. (arXiv 2401.03489, section 6), its outputs the logits; its
    weights are drawn as torch draws those of a linear layer. `settings` go to the constructor of
    the environment.
    """

    environment: str
    widths: tuple[int, int]
    horizon: int
    discount: float
    large_batch: int
    small_batch: int
    switch_probability: float
    step_size: float
    settings: tuple[tuple[str, Scalar], ...] = ()
    squashed: bool = False
    biases_by_outputs: bool = False

    def build_model(self) -> nn.Module:
        """From observations to logits. As in the program of the paper's authors: `squashed`, with
        tanh on the logits, too, so that the best action is never surer than 0.881 of two; and
        `biases_by_outputs`, every parameter drawn from +-1 / sqrt(its last dimension), which torch
        has for weights, while its biases go by the inputs."""
        observations, actions = spaces_of(self)
        inputs = math.prod(observations)
        layers: list[nn.Module] = [nn.Flatten()] if len(observations) != 1 else []
        for before, width in pairwise((inputs, *self.widths)):
            layers += [nn.Linear(before, width), nn.Tanh()]
        layers += [nn.Linear(self.widths[-1], actions)]
        model = nn.Sequential(*layers, *([nn.Tanh()] if self.squashed else []))
        if self.biases_by_outputs:
            for parameter in model.parameters():
                bound = 1.0 / math.sqrt(parameter.shape[-1])
                nn.init.uniform_(parameter, -bound, bound)
        return model

    def make_environment(self) -> "gymnasium.Env[Any, Any]":
        """One environment; that it is sound is looked at once, and not at each step."""
        return _made(self.environment, dict(self.settings))

    @property
    def is_cart_pole(self) -> bool:
        """Whether gymnasium has it vectorised, with states that can be set."""
        return self.environment == CART_POLE and not self.settings


def cart_pole_from_spec(spec: Spec) -> EnvironmentTask:
    """Build from `cartpole`, `cartpole:hidden=32`, `cartpole:output=tanh`: a pole to balance on a
    cart, one point a step, with the paper's policy and settings.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    task = EnvironmentTask(CART_POLE, (16, 16), 500, 0.999, 50, 4, 0.2, 5e-4)
    return _changed(task, spec, spec.options)


def lunar_lander_from_spec(spec: Spec) -> EnvironmentTask:
    """Build from `lunar-lander`: a lander with three engines, to be put down between two flags.

    Difference from the paper: LunarLander-v3, for v2 is gone from gymnasium; v3 mends resets that
    depended on the episode before, and the wind, which is off here.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    task = EnvironmentTask(LUNAR_LANDER, (64, 64), 1000, 0.999, 96, 32, 0.2, 1e-3)
    return _changed(task, spec, spec.options)


def gym_from_spec(spec: Spec) -> EnvironmentTask:
    """Build from `gym:env=Acrobot-v1`, or `gym:env=my_module:MyEnv-v0,hidden=32,horizon=200`: any
    environment that gymnasium knows, or that a module of the user's registers.

    The horizon is that of its registration unless said. Batches and step size are CartPole's.

    Raises:
        ConfigurationError: no environment is named or there is no such one; an unknown option, or
            a value out of range.
    """
    options = dict(spec.options)
    name = options.pop("env", None)
    if not isinstance(name, str):
        raise ConfigurationError("task gym: name the environment, such as gym:env=Acrobot-v1")
    usual = PolicyDefaults()
    horizon = options.get("horizon")
    task = EnvironmentTask(
        name,
        (16, 16),
        _registered_horizon(name) if horizon is None else 1,
        0.999,
        usual.large_batch,
        usual.small_batch,
        usual.switch_probability,
        usual.step_size,
    )
    return _changed(task, Spec(spec.name, None, options), options)


def defaults_of(task: PolicyTask) -> PolicyDefaults:
    """What a task's algorithms do unless told; CartPole's where its class says nothing.

    Raises:
        ConfigurationError: what it says is out of range.
    """
    usual = PolicyDefaults()
    found = PolicyDefaults(
        _whole(task, "large_batch", usual.large_batch),
        _whole(task, "small_batch", usual.small_batch),
        _number(task, "switch_probability", usual.switch_probability, 1.0),
        _number(task, "step_size", usual.step_size, 1e30),
    )
    if found.small_batch > found.large_batch:
        raise ConfigurationError(
            f"task: its small_batch, {found.small_batch}, is above its large_batch, "
            f"{found.large_batch}"
        )
    return found


def check_policy_task(name: str, task: PolicyTask) -> None:
    """See that a user's task says what it must.

    Raises:
        ConfigurationError: horizon, discount or a default is missing or out of range.
    """
    for attribute in ("horizon", "discount"):
        if not hasattr(task, attribute):
            example = "500" if attribute == "horizon" else "0.999"
            raise ConfigurationError(
                f"task {name!r} has make_environment() and lacks {attribute}: say {attribute} = "
                f"{example} in the class"
            )
    _whole(task, "horizon", 1, HORIZON_MAX)
    _number(task, "discount", 1.0, 1.0)
    defaults_of(task)


def spaces_of(task: PolicyTask) -> tuple[tuple[int, ...], int]:
    """The shape of an observation, as it reaches the policy, and how many actions there are.

    Observations that are no arrays (`Discrete`, `Tuple`, `Dict`) are flattened as gymnasium does.

    Raises:
        ConfigurationError: it cannot be made, or its actions are not discrete.
    """
    with environment_faults():
        environment = task.make_environment()
        found = shapes_of(environment)
        environment.close()
    return found


def shapes_of(environment: "gymnasium.Env[Any, Any]") -> tuple[tuple[int, ...], int]:
    """As `spaces_of`, of an environment."""
    observations, actions = environment.observation_space, environment.action_space
    from gymnasium import spaces

    if not isinstance(actions, spaces.Discrete):
        raise ConfigurationError(
            f"task: the environment's actions are {shown(actions)}; policies here choose among "
            "discrete ones: wrap it so that it offers some (gymnasium.ActionWrapper)"
        )
    if isinstance(observations, spaces.Box):
        return tuple(observations.shape), int(actions.n)
    with users_errors(f"task: observations of {shown(observations)} cannot be flattened"):
        return (int(spaces.flatdim(observations)),), int(actions.n)


@contextmanager
def environment_faults() -> Iterator[None]:
    """Turn whatever an environment raises into one line."""
    with users_errors("task: its environment failed"):
        yield


def _changed(task: EnvironmentTask, spec: Spec, options: Mapping[str, Scalar]) -> EnvironmentTask:
    """A task with the options of its spec."""
    known = "hidden=WIDTH, horizon=STEPS, discount=GAMMA, output=tanh, initial=published"
    if spec.value is not None:
        raise ConfigurationError(f"task {spec.name}: its options are {known}")
    changes: dict[str, Any] = {}
    for key, value in options.items():
        match key:
            case "hidden" if isinstance(value, int) and 1 <= value <= WIDTH_MAX:
                changes["widths"] = (value, value)
            case "horizon" if isinstance(value, int) and 1 <= value <= HORIZON_MAX:
                changes["horizon"] = value
            case "discount" if isinstance(value, int | float) and 0 < value <= 1:
                changes["discount"] = float(value)
            case "output" if value == "tanh":
                changes["squashed"] = True
            case "initial" if value == PUBLISHED:
                changes["biases_by_outputs"] = True
            case "hidden" | "horizon" | "discount" | "output" | "initial":
                raise ConfigurationError(
                    f"task {spec.name}: {key}={value} is out of range; hidden is a width to "
                    f"{WIDTH_MAX}, horizon steps to {HORIZON_MAX}, discount above 0 and at most 1, "
                    f"output tanh, initial {PUBLISHED}"
                )
            case _:
                raise ConfigurationError(
                    f"task {spec.name}: unknown option {key!r}; its options are {known}"
                )
    return replace(task, **changes)


def _whole(task: object, name: str, usual: int, most: int = 1_000_000) -> int:
    value = getattr(task, name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigurationError(
            f"task: its {name} is {shown(value)}, not a number from 1 to {most}"
        )
    return value


def _number(task: object, name: str, usual: float, most: float) -> float:
    value = getattr(task, name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigurationError(f"task: its {name} is {shown(value)}, not above 0 and to {most:g}")
    return float(value)


def _registered_horizon(name: str) -> int:
    spec = _made(name, {}).spec
    steps = None if spec is None else spec.max_episode_steps
    if steps is None:
        raise ConfigurationError(
            f"task gym: {name} is registered without a horizon; say gym:env={name},horizon=STEPS"
        )
    return int(steps)


def _made(name: str, settings: Mapping[str, Scalar]) -> "gymnasium.Env[Any, Any]":
    gym = _gymnasium()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            # Of names that grow old, and of what is imported: turned into errors, as tests do,
            # the warnings of Box2D's module crash the interpreter.
            warnings.simplefilter("ignore")
            made: gymnasium.Env[Any, Any] = gym.make(name, disable_env_checker=True, **settings)
            return made
    except gym.error.DependencyNotInstalled as exc:
        raise ConfigurationError(
            f"task: environment {name} needs more ({one_line(exc)}); try {_INSTALL}"
        ) from exc
    except Exception as exc:  # gymnasium's own kinds, and whatever a constructor raises
        raise ConfigurationError(f"task: environment {name!r} ({one_line(exc)})") from exc


def _gymnasium() -> Any:
    """The package.

    Raises:
        ConfigurationError: it is not there.
    """
    try:
        import gymnasium
    except ImportError as exc:
        raise ConfigurationError(f"task: environments need gymnasium: {_INSTALL}") from exc
    return gymnasium


def flattened(space: Any, observation: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An observation as the policy has it."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return np.asarray(observation, np.float32)
    return np.asarray(spaces.flatten(space, observation), np.float32)
