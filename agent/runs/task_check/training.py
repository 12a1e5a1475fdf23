"""A few steps of one agent, watched: does training move the model, and only what it should?"""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from candor.agent.learning.contexts import Contexts, measure
from candor.agent.learning.layout import Layout, tensors_of
from candor.agent.learning.learner import Learning
from candor.agent.runs.task_check.findings import Finding, named
from candor.agent.tasks.base import Evaluated, Loop, Metrics
from candor.agent.tasks.context import TrainingContext
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard

STEPS: Final = 2  # of each round that is tried
TIMED_S: Final = 0.3  # tiny steps are timed over more rounds than two
ROUNDS_MIN: Final = 2  # an optimiser made anew is seen in the second
ROUNDS_MAX: Final = 20
REPEATED_S: Final = 5.0  # an evaluation that takes longer is not repeated
ALLOWANCE: Final = 3  # a deadline is this many rounds: neighbours may be slower hosts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tried:
    """What some rounds of `STEPS` steps gave: `x` (dim,) what travels afterwards, `moved` (dim,)
    how far; `model` is all of it; `loss` of the first round, None where the loop tells none;
    `step_s` seconds."""

    x: Tensor
    moved: Tensor
    model: Mapping[str, Tensor]
    loss: float | None
    rounds: int
    step_s: float

    @property
    def finite(self) -> bool:
        """Whether what travels still is."""
        return bool(self.x.isfinite().all())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` gave, in how many seconds; `again` the second time, None if it was slow;
    `changed` are the tensors of the model that it changed."""

    measured: Measured
    again: float | None
    seconds: float
    changed: tuple[str, ...]


@dataclass(slots=True)
class Seen:
    """What was seen of a loop of its own: `optimisers` that stepped, by round; `asked`: which of
    its context's fields it read; `loaders` that it took batches of, `steps` how many in a round."""

    optimisers: dict[int, list[Optimizer]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    loaders: list[object] = field(default_factory=list)
    steps: int = 0
    replaced: tuple[str, ...] = ()
    thawed: tuple[str, ...] = ()
    told: float | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)


class _WatchedContext(TrainingContext):
    """A context that notes what is read of it."""

    seen: Seen = Seen()  # of copies that a loop makes of it

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "seen":
            self.seen.asked.add(name)
        return object.__getattribute__(self, name)

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """As ever."""
        self.seen.loaders.append(loader)
        for batch in super().batches(loader):
            self.seen.steps += 1
            yield batch


class Watched:
    """A user's loop, and what was `seen` of it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.seen = Seen()

    def build_model(self) -> nn.Module:
        """The loop's."""
        return self._loop.build_model()

    def evaluate(self, model: nn.Module) -> Metrics:
        """The loop's."""
        return self._loop.evaluate(model)

    def train(self, model: nn.Module, context: TrainingContext) -> float | None:
        """The loop's, watched."""
        seen, t = self.seen, context.round
        seen.kept = context.kept
        watched = _WatchedContext.__new__(_WatchedContext)
        for one in fields(TrainingContext):
            object.__setattr__(watched, one.name, getattr(context, one.name))
        object.__setattr__(watched, "seen", seen)
        seen.steps = 0
        before = dict(model.named_parameters())
        frozen = {name: p.detach().clone() for name, p in before.items() if not p.requires_grad}

        def stepped(optimiser: Optimizer, _args: object, _kwargs: object) -> None:
            known = seen.optimisers.setdefault(t, [])
            if not any(optimiser is one for one in known):
                known.append(optimiser)

        handle = register_optimizer_step_post_hook(cast(Any, stepped))
        try:
            seen.told = self._loop.train(model, watched)
        finally:
            handle.remove()
        after = dict(model.named_parameters())
        seen.replaced = tuple(n for n, p in before.items() if n in after and after[n] is not p)
        seen.thawed = tuple(
            n for n, was in frozen.items() if n in after and not _equal(was, after[n])
        )
        return seen.told


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one.device, one.dtype))


def tried(
    learner: Learning, x: Tensor, step_size: float, rounds: int, seconds: float = TIMED_S
) -> Tried:
    """Train one agent, in rounds of `STEPS` steps: two at least, and no more than the run's
    `rounds`, beyond which a schedule such as OneCycleLR raises.

    Raises:
        ConfigurationError: training fails.
    """
    x = x.to(learner.device)
    start, velocity, loss, t = x, None, math.nan, 0
    took: list[float] = []
    while t < ROUNDS_MIN or (sum(took) < seconds and t < min(ROUNDS_MAX, rounds)):
        t += 1
        began = time.perf_counter()
        done = learner.local_steps(x.unsqueeze(0), t, step_size, velocity)
        took.append(time.perf_counter() - began)
        velocity = done.velocity
        if t == 1:
            loss = float(done.losses[0])
        x = x - step_size * done.update[0]
        if not bool(x.isfinite().all()):
            break
    later = sorted(took[1:]) or took  # the first round builds optimisers, reads data
    return Tried(
        x.cpu(), (x - start).cpu(), learner.state_dict(x), loss, t, later[len(later) // 2] / STEPS
    )


def evaluated(task: Evaluated, model: nn.Module, contexts: Contexts, shard: Shard) -> Evaluation:
    """Measure a model as a run does, and look at what that does to the model.

    Raises:
        ConfigurationError: it cannot be measured.
    """
    model.to(contexts.device).eval()
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}

    def once() -> Measured:
        return measure(task, model, contexts.of(shard, 0, 0.0))

    began = time.perf_counter()
    found = once()
    seconds, again = time.perf_counter() - began, None
    if seconds < REPEATED_S:
        began = time.perf_counter()
        again = once().value
        seconds = min(seconds, time.perf_counter() - began)
    after = tensors_of(model)
    changed = [n for n, was in before.items() if n not in after or not _equal(was, after[n])]
    return Evaluation(found, again, seconds, tuple(changed))


def of_training(done: Tried, layout: Layout, method: str) -> Iterator[Finding]:
    """Whether the model moved, and stayed finite."""
    if not done.finite:
        yield Finding(
            "error",
            f"the model is not finite after {done.rounds * STEPS} steps, loss {done.loss}",
            "look for nan in the data, log(0) or a division by 0; else use a smaller --step-size",
        )
        return
    if done.loss is not None and not math.isfinite(done.loss):
        yield Finding(
            "error",
            f"{method} gives the loss {done.loss} at once",
            "look for nan in the data, log(0) or a division by 0",
        )
    views = layout.views(done.moved.unsqueeze(0))
    still = [n for n, view in zip(layout.names, views, strict=True) if not bool(view.any())]
    if len(still) == len(layout.names):
        yield Finding(
            "error",
            f"{method} moves nothing of what travels",
            "train the very model that it is given, in place, and call step() on an optimiser of "
            "its parameters",
        )
    elif still:
        yield Finding(
            "warning",
            f"training does not move {named(still)}",
            "is it used? if it should stay as it is, freeze it with requires_grad_(False), and it "
            "does not travel",
        )


def of_loop(seen: Seen, phase: str) -> Iterator[Finding]:
    """What is odd about a loop of its own."""
    if seen.replaced:
        yield Finding(
            "error",
            f"train() replaced parameters of the model ({named(seen.replaced)})",
            "change them in place: an optimiser that is kept goes on moving the old ones",
        )
    if seen.thawed:
        yield Finding(
            "error",
            f"train() changed frozen parameters ({named(seen.thawed)}), which never travel",
            "leave them, or let build_model() give them requires_grad",
        )
    yield from _of_optimisers(seen)
    if not {"shard", "agent", "data_root"} & seen.asked:
        yield Finding(
            "note",
            "train() does not ask which agent it trains: all have the same samples",
            "take context.shard's part; or leave it so where each host has files of its own",
        )
    if "phase" not in seen.asked and not seen.loaders:
        yield Finding(
            "note",
            f"train() takes no notice of {phase}",
            "take batches from context.batches(loader), or leave it so",
        )
    workers = [
        one
        for one in (*seen.loaders, *seen.kept.values())
        if isinstance(one, DataLoader) and one.num_workers > 0
    ]
    if workers:
        yield Finding(
            "note",
            f"a DataLoader has {workers[0].num_workers} workers, which are started anew each round",
            "use num_workers=0, or persistent_workers=True and keep it in context.keep",
        )


def _of_optimisers(seen: Seen) -> Iterator[Finding]:
    rounds = sorted(seen.optimisers)
    if len(rounds) < 2:
        return
    first, later = (seen.optimisers[t] for t in rounds[:2])
    anew = [one for one in later if not any(one is other for other in first) and _remembers(one)]
    if anew:
        kind = type(anew[0]).__name__
        yield Finding(
            "warning",
            f"train() builds its {kind} anew in every round, which forgets its moments",
            f'keep it: context.keep("{kind.lower()}", lambda: {kind}(model.parameters(), …))',
        )


def _remembers(optimiser: Optimizer) -> bool:
    """Whether an optimiser keeps tensors of what was before, beside a count of steps."""
    return any(
        isinstance(value, Tensor)
        for state in optimiser.state.values()
        for name, value in state.items()
        if name != "step"
    )


def of_evaluation(before: Evaluation, after: Evaluation, metric: str) -> Iterator[Finding]:
    """What is odd about how the model is measured."""
    if before.changed:
        yield Finding(
            "error",
            f"evaluate() changes the model ({named(before.changed)})",
            "leave it in evaluation mode, and load or train nothing in there",
        )
    first, again = before.measured.value, before.again
    if again is not None and first != again and not (math.isnan(first) and math.isnan(again)):
        yield Finding(
            "warning",
            f"evaluate() gives {metric} {first:.6g} and then {again:.6g} for the same model",
            "measure on all of the test set, or on the same part of it each time",
        )
    if math.isnan(after.measured.value):
        yield Finding(
            "warning",
            f"evaluate() gives nan as {metric}",
            "give a number for every model that is finite; nan counts as undefined",
        )


def of_time(round_s: float, evaluation_s: float, deadline_s: float) -> Iterator[Finding]:
    """Whether neighbours would wait long enough, and how seldom to evaluate."""
    if round_s * ALLOWANCE > deadline_s:
        yield Finding(
            "warning",
            f"a round takes about {round_s:.3g} s here, and neighbours wait {deadline_s:g} s",
            f"use --deadline-s {advised_deadline_s(round_s):g}, fewer local steps or a faster host",
        )
    if evaluation_s > max(round_s, 1.0):
        yield Finding(
            "note",
            f"evaluate() takes {evaluation_s:.3g} s, longer than a round of training",
            f"use --evaluate-every {min(100, math.ceil(10 * evaluation_s / max(round_s, 0.1)))}",
        )


def advised_deadline_s(round_s: float) -> float:
    """Some rounds long, in whole tens of seconds."""
    return 10.0 * math.ceil(max(round_s * ALLOWANCE, 1.0) / 10)


def peak_bytes() -> int:
    """The most memory that this process has had: Python, torch, data and models."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
