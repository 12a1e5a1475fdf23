"""Calls of one learner, one at a time: those that put numbers into its model.

The daemon trains in one thread, while a task's own callback may ask for a model in another.
"""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast


class Serial(Protocol):
    """What has a lock of its own."""

    lock: RLock


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Serial)


def one_at_a_time(
    method: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], R]:
    """A method that waits until no other such one of the same object is under way."""

    @wraps(method)
    def waited(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast(Callable[Concatenate[S, P], R], waited)
