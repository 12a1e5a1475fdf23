"""Tasks by name: the built-in ones, and the user's own as `module:Class`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from candor.agent.tasks.a9a import a9a_from_spec
from candor.agent.tasks.base import AnyTask, Batch, Loop, PolicyTask, Task, is_policy_task
from candor.agent.tasks.breast_cancer import breast_cancer_from_spec
from candor.agent.tasks.cifar10 import cifar10_from_spec
from candor.agent.tasks.digits import digits_from_spec
from candor.agent.tasks.environments import (
    cart_pole_from_spec,
    check_policy_task,
    gym_from_spec,
    lunar_lander_from_spec,
)
from candor.agent.tasks.femnist import femnist_from_spec
from candor.agent.tasks.mnist import mnist_from_spec
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.text import text_from_spec
from candor.topologies.specs.specs import (
    ConfigurationError,
    Spec,
    build_object,
    is_import_path,
    load_object,
    parse_spec,
)

__all__ = ["TASKS", "AnyTask", "Batch", "Loop", "PolicyTask", "Shard", "Task", "resolve_task"]

TaskBuilder = Callable[[Spec, Path | None], Task | PolicyTask]

TASKS: Final[Mapping[str, TaskBuilder]] = {
    "digits": lambda spec, _data_root: digits_from_spec(spec),
    "breast-cancer": lambda spec, _data_root: breast_cancer_from_spec(spec),
    "a9a": a9a_from_spec,
    "mnist": mnist_from_spec,
    "fashion-mnist": mnist_from_spec,
    "femnist": femnist_from_spec,
    "cifar10": cifar10_from_spec,
    "mr": text_from_spec,
    "sst": text_from_spec,
    "text": text_from_spec,
    "cartpole": lambda spec, _data_root: cart_pole_from_spec(spec),
    "lunar-lander": lambda spec, _data_root: lunar_lander_from_spec(spec),
    "gym": lambda spec, _data_root: gym_from_spec(spec),
}

_METHODS: Final = ("build_model", "load_data", "loss", "evaluate")
_OF_LOOPS: Final = ("build_model", "train", "evaluate")
_OF_POLICIES: Final = ("build_model", "make_environment")


def resolve_task(name: str, data_root: Path | None = None) -> AnyTask:
    """Build the task a cluster file names.

    Args:
        name: a built-in's spec such as `digits:hidden=64`, or `module:Class` on the Python path.
        data_root: the directory of data sets; handed to the built-in ones that read files and to a
            user's constructor that has a parameter of this name.

    Raises:
        ConfigurationError: unknown, or the user's class does not import, lacks a method or fails.
    """
    if is_import_path(name):
        has = partial(_has, load_object(name, "task"))
        methods: tuple[str, ...] = _OF_LOOPS if has("train") else _METHODS
        methods = _OF_POLICIES if has("make_environment") else methods
        task: AnyTask = build_object(name, "task", *methods, data_root=data_root)
        if is_policy_task(task):
            check_policy_task(name, task)
        return task
    spec = parse_spec(name)
    if spec.name not in TASKS:
        known = ", ".join(TASKS)
        raise ConfigurationError(
            f"task {name!r} is unknown; known: {known}, or your own as module:Class"
        )
    return TASKS[spec.name](spec, data_root)


def _has(found: object, method: str) -> bool:
    return callable(getattr(found, method, None))
