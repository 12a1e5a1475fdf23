"""Agents that train each by itself: the user's own loop, or a loss by plain autograd.

Every agent has a model of its own from round to round. What neighbours sent is put into it; what
the loop did to it is the pseudo-gradient, divided by the step size as that of any other local
training. What does not travel (buffers, parameters of its own, optimisers) stays in it and in what
the loop keeps, and is saved as a whole by `private`.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from candor.agent.learning.contexts import Contexts, measure, prepare
from candor.agent.learning.initial import built_again, initial_model
from candor.agent.learning.layout import Layout, check_apart, copied, frozen_digest
from candor.agent.learning.learner import LocalTraining
from candor.agent.learning.measuring import UNDEFINED, metric_of
from candor.agent.learning.plain import PlainSgd
from candor.agent.learning.serial import one_at_a_time
from candor.agent.learning.states import plain
from candor.agent.tasks.base import Evaluated, Loop
from candor.agent.tasks.checked import faults_of
from candor.agent.tasks.context import TrainingContext, has_state
from candor.agent.tasks.measured import Measured
from candor.agent.tasks.partition import Shard
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError, one_line

KEPT: Final = "kept"
SAVED: Final = "saved"
OWN: Final = "own"
_Held: TypeAlias = dict[str, dict[str, Any]]


@dataclass(slots=True)
class _Agent:
    """One agent: its model, what its loop saves and keeps, and states of an earlier life."""

    shard: Shard
    model: nn.Module
    saved: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    restored: dict[str, Any] = field(default_factory=dict)
    wrapped: dict[int, nn.Module] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)


class Trainer:
    """Rows that train one after the other; see `agent.learning.learner.Learning`.

    Args:
        task: model and metric, and the loop unless there is another.
        loop: what trains: the task itself, or `PlainSgd` of it.
        shards: whose rows these are.
        contexts: what the loop is told.
        initial: the saved model that the run starts from, if it is not drawn from the seed.

    Raises:
        ConfigurationError: the model cannot be used.
    """

    def __init__(
        self,
        task: Evaluated,
        loop: Loop | PlainSgd,
        shards: Sequence[Shard],
        contexts: Contexts,
        initial: FilePath | None = None,
    ) -> None:
        self.lock = RLock()
        self._task, self._loop, self._contexts = task, loop, contexts
        self._initial = initial
        first, self._layout = initial_model(task, contexts.seed, initial)
        models = [built_again(task, contexts.seed, first).to(contexts.device) for _ in shards]
        check_apart(self._layout, first, models[0])
        self._agents = [_Agent(shard, model) for shard, model in zip(shards, models, strict=True)]
        self._round = 0
        self.device = contexts.device
        self.names, self.shapes = self._layout.names, self._layout.shapes
        self.dim: int = self._layout.dim

    @one_at_a_time
    def local_steps(
        self,
        x: Tensor,
        t: int,
        step_size: float,
        velocity: Tensor | None = None,  # noqa: ARG002
    ) -> LocalTraining:
        """Train each row from x (agents, dim) in round t, by its loop; losses are nan where the
        loop tells none. Whoever fails has what it had before the round.

        Raises:
            ConfigurationError: the loop failed.
        """
        self._round = t
        done = [
            self._trained(agent, row, t, step_size)
            for agent, row in zip(self._agents, x, strict=True)
        ]
        losses = torch.tensor([loss for _, loss in done], device=x.device)
        return LocalTraining(torch.stack([update for update, _ in done]), losses, None)

    def _trained(self, agent: _Agent, x: Tensor, t: int, step_size: float) -> tuple[Tensor, float]:
        model, layout = agent.model, self._layout
        layout.fill(model, x).train()
        # What a model of half precision starts from: what it cannot hold of x is not its doing.
        start, own = layout.of(model), layout.owned(model)
        context = self._context(agent, t, step_size)
        agent.marks = layout.marks(model)
        sound = False
        try:
            with self._contexts.seeded(agent.shard, t), faults_of("train"), torch.enable_grad():
                loss = self._loop.train(model, context)
                known = loss.detach() if isinstance(loss, Tensor) else loss
                told = float("nan") if known is None else float(known)
            agent.saved = self._saved(context)
            if fault := layout.fault(model, x.device) or self._thawed(agent):
                raise ConfigurationError(f"task: train() {fault}")
            update = start.sub_(layout.of(model)).div_(step_size)
            sound = bool(update.isfinite().all())
        finally:
            if not sound:
                self._undo(agent, own)
        return update, told

    def _saved(self, context: TrainingContext) -> dict[str, Any]:
        """What the loop saves: it may have put another dict into the place of the one there was."""
        if not isinstance(context.saved, dict):
            kind = type(context.saved).__name__
            raise ConfigurationError(f"task: train() put a {kind} into context.saved, not a dict")
        return context.saved

    def _thawed(self, agent: _Agent) -> str:
        """What was done to frozen parameters; "" if nothing. They are the same everywhere, and what
        a loop makes of them would neither be sent nor saved."""
        if self._layout.marks(agent.model) == agent.marks:
            return ""
        first = initial_model(self._task, self._contexts.seed, self._initial)[0]
        if frozen_digest(self._layout, agent.model) == frozen_digest(self._layout, first):
            return ""  # written to with what was there
        return (
            "changed a frozen parameter, which is not sent; let what it trains require a gradient "
            "in build_model()"
        )

    def _undo(self, agent: _Agent, own: Mapping[str, Tensor]) -> None:
        """Put back what stays with the agent; what is kept and no longer finite is made anew, as
        is a model that is not whole, with all that is kept of it."""
        device = self._contexts.device
        broken = bool(self._layout.fault(agent.model, device) or self._thawed(agent))
        if broken:
            first = initial_model(self._task, self._contexts.seed, self._initial)[0]
            agent.model = first.to(device)
        self._layout.put_back(agent.model, own)
        for name, value in list(agent.kept.items()):
            if has_state(value) and (broken or not _finite(value.state_dict())):
                del agent.kept[name]

    @one_at_a_time
    def evaluate(self, x: Tensor) -> list[Measured]:
        """The task's metrics of each row of x (agents, dim), in the agent's own model; undefined
        where x is not finite."""
        sound = x.isfinite().all(dim=1).tolist()
        return [
            self._measured(agent, row) if finite else UNDEFINED
            for agent, row, finite in zip(self._agents, x, sound, strict=False)
        ]

    def _measured(self, agent: _Agent, x: Tensor) -> Measured:
        model = self._layout.fill(agent.model, x).eval()
        with self._contexts.seeded(agent.shard, self._round):
            return measure(self._task, model, self._context(agent, self._round, 0.0))

    def _context(self, agent: _Agent, t: int, step_size: float) -> TrainingContext:
        context = self._contexts.of(agent.shard, t, step_size)
        context.saved, context.kept = agent.saved, agent.kept
        context.restored, context.wrapped = agent.restored, agent.wrapped
        return context

    def check_samples(self, x: Tensor, agents: Sequence[str]) -> None:
        """Look at the samples of a loss; a loop of its own looks itself, where it is told to
        prepare."""
        self.prepare()
        if isinstance(self._loop, PlainSgd):
            model = self._layout.fill(self._agents[0].model, x).train()
            self._loop.check(model, self.dim, self._contexts.batch_size, agents)

    @property
    def layout(self) -> Layout:
        """What of the model travels."""
        return self._layout

    def prepare(self) -> None:
        """Let the task look at what each agent's host has."""
        for agent in self._agents:
            with self._contexts.seeded(agent.shard, 0):
                prepare(self._task, self._context(agent, 0, 0.0))

    @one_at_a_time
    def shard_losses(self, x: Tensor, samples: int, t: int = 0) -> Tensor:
        """The loss of each row on its own samples; of a loop of its own the metric that counts, on
        the agent's own data if it has any to measure on, so that lower is better: (agents,)."""
        return torch.tensor(
            [self._shard_loss(row, x[row], samples, t) for row in range(len(x))], device=x.device
        )

    def _shard_loss(self, row: int, x: Tensor, samples: int, t: int) -> float:
        agent = self._agents[row]
        if isinstance(self._loop, PlainSgd):
            model = self._layout.fill(agent.model, x).eval()
            return self._loop.loss_of(model, row, samples, t)
        found = self._measured(agent, x)
        value = found.value if found.local is None else found.local
        return -value if metric_of(self._task)[1] else value

    @one_at_a_time
    def state_dict(self, x: Tensor, row: int = 0) -> Mapping[str, Tensor]:
        """The whole model of a row, of which x (dim,) is what travels; see `Learning`."""
        return copied(self._layout.fill(self._agents[row].model, x))

    def named(self, x: Tensor) -> Mapping[str, Tensor]:
        """What travels, x (agents, dim), by name, (agents, *shape): contiguous copies."""
        return self._layout.named(x)

    def samples(self, row: int) -> int | None:
        """How many samples a row trains on, None where only its loop knows."""
        return self._loop.samples(row) if isinstance(self._loop, PlainSgd) else None

    def unsaved(self, row: int) -> bool:
        """Whether a row's loop keeps something that has no state, which `private` leaves out."""
        return any(not has_state(value) for value in self._agents[row].kept.values())

    @one_at_a_time
    def private(self) -> bytes:
        """Optimisers and what else has a state, what the loops save, and the tensors that do not
        travel, by `torch.save`, to be loaded without running anything; empty if there is none.

        Raises:
            ConfigurationError: a loop saves what cannot be loaded so.
        """
        return packed([self._held(agent) for agent in self._agents])

    def _held(self, agent: _Agent) -> _Held:
        with_state = {n: value for n, value in agent.kept.items() if has_state(value)}
        states = {name: value.state_dict() for name, value in with_state.items()}
        # What lies in parts on several processes cannot be given back by one: made anew.
        states = {name: state for name, state in states.items() if not _parted(state)}
        states = {name: _plain(name, state) for name, state in states.items()}
        saved = {name: _plain(name, value) for name, value in agent.saved.items()}
        # What was not asked for yet is kept on.
        kept = {**agent.restored, **states}
        return {KEPT: kept, SAVED: saved, OWN: self._layout.owned(agent.model)}

    def restore(self, private: bytes) -> None:
        """Go on with what `private` gave.

        Raises:
            ConfigurationError: it is damaged, or of another model.
        """
        if not private:
            return
        with _damage_told():
            held = _unpacked(private, self._contexts.device)
            for agent, each in zip(self._agents, held, strict=True):
                self._layout.put_back(agent.model, each[OWN])
                agent.restored, agent.saved = dict(each[KEPT]), dict(each[SAVED])


def packed(held: Sequence[_Held]) -> bytes:
    """What `Trainer.private` gives for agents that hold this."""
    if not any(each[KEPT] or each[SAVED] or each[OWN] for each in held):
        return b""
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


def unpacked(private: bytes, agents: int) -> list[_Held]:
    """What so many agents hold, of `Trainer.private`; on the processor.

    Raises:
        ConfigurationError: it is damaged, or of another number of agents.
    """
    if not private:
        return [{KEPT: {}, SAVED: {}, OWN: {}} for _ in range(agents)]
    with _damage_told():
        held = _unpacked(private, torch.device("cpu"))
        if len(held) != agents:
            raise ValueError(f"of {len(held)} agents, not {agents}")
        return held


def _unpacked(private: bytes, device: torch.device) -> list[_Held]:
    held: list[_Held] = torch.load(io.BytesIO(private), map_location=device, weights_only=True)
    return held


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # whatever torch trips over in a damaged file
        raise ConfigurationError(
            f"what agents kept to themselves is damaged or of another model ({one_line(exc)})"
        ) from exc


def _plain(name: str, value: Any) -> Any:
    """A state that can be saved and loaded without running code."""
    try:
        return plain(value)
    except TypeError as exc:
        raise ConfigurationError(
            f"task: {name} holds more than numbers, texts, tensors, lists and dicts, and cannot be "
            f"saved ({exc}); keep it under context.keep as something without state_dict"
        ) from exc


def _parted(value: Any) -> bool:
    """Whether a tensor in something lies in parts on several processes."""
    if isinstance(value, Mapping):
        return any(map(_parted, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_parted, value))
    return hasattr(value, "full_tensor")


def _finite(value: Any) -> bool:
    """Whether all numbers in something that can be saved are finite."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not (isinstance(value, Tensor) and value.is_floating_point()) or bool(
        value.isfinite().all()
    )
