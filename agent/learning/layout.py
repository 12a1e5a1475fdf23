"""Which tensors of a model travel, and how they lie in one vector.

Trainable parameters are shared, or those of them that the task's patterns name, each once however
many names it has; float buffers too, where the task says that they are averaged. All else stays
with its agent: frozen parameters, which are the same everywhere; parameters of one's own; buffers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise
from typing import Final

import torch
from torch import Tensor, nn

from candor.agent.tasks.base import Modelled
from candor.agent.tasks.checked import said_of
from candor.topologies.encoding import canonical
from candor.topologies.specs.specs import ConfigurationError

LOCAL, AVERAGED = "local", "averaged"
FLOATS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_IN_PLACE: Final = "it must change it in place"
_NAMED_MAX: Final = 6  # tensors that a message names


@dataclass(frozen=True, slots=True)
class Layout:
    """What travels, in order: `names` and `shapes`; `dim` numbers in all. `own` names what changes
    and does not travel, `frozen` the parameters that do not change. `exact`: all of it is float32.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    own: tuple[str, ...]
    frozen: tuple[str, ...]
    exact: bool

    @property
    def dim(self) -> int:
        """How many numbers travel."""
        return sum(shape.numel() for shape in self.shapes)

    def views(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (agents, dim) as one view (agents, *shape) a tensor."""
        bounds = (0, *accumulate(shape.numel() for shape in self.shapes))
        return tuple(
            x[:, low:high].reshape(len(x), *shape)
            for (low, high), shape in zip(pairwise(bounds), self.shapes, strict=True)
        )

    def named(self, x: Tensor) -> dict[str, Tensor]:
        """x (agents, dim) by name, (agents, *shape): contiguous copies."""
        views = zip(self.names, self.views(x), strict=True)
        return {name: view.contiguous().clone() for name, view in views}

    def of(self, model: nn.Module) -> Tensor:
        """The vector (dim,) of a model, float32; on the model's device."""
        held = tensors_of(model)
        return torch.cat([whole(held[name]).flatten().float() for name in self.names])

    @torch.no_grad()
    def fill(self, model: nn.Module, x: Tensor) -> nn.Module:
        """Overwrite what travels with x (dim,), each tensor in its own type."""
        held = tensors_of(model)
        for name, view in zip(self.names, self.views(x.unsqueeze(0)), strict=True):
            _copy(view[0], held[name])
        return model

    def fault(self, model: nn.Module, device: torch.device) -> str:
        """What was done to a model that it can no longer be filled or read; "" if nothing was."""
        held = tensors_of(model)
        shapes = dict(zip(self.names, self.shapes, strict=True))
        for name in (*self.names, *self.own, *self.frozen):
            if name not in held:
                return f"took {name} out of the model; {_IN_PLACE}"
            if held[name].device.type != device.type:
                return f"moved the model's {name} to {held[name].device}; {_IN_PLACE}"
            if held[name].shape != shapes.get(name, held[name].shape):
                return f"changed the shape of the model's {name}; {_IN_PLACE}"
        return ""

    def marks(self, model: nn.Module) -> dict[str, tuple[int, int]]:
        """What shows that frozen parameters may have been changed: which tensors they are, and how
        often each was written to."""
        held = tensors_of(model)
        frozen = {name: held[name] for name in self.frozen}
        return {n: (id(value), value._version) for n, value in frozen.items() if not _parted(value)}

    def owned(self, model: nn.Module) -> dict[str, Tensor]:
        """What of a model changes and does not travel, by name: copies, on the processor."""
        held = tensors_of(model)
        return {name: whole(held[name]).cpu().clone() for name in self.own}

    @torch.no_grad()
    def put_back(self, model: nn.Module, owned: Mapping[str, Tensor]) -> None:
        """Overwrite what does not travel with what `owned` gave."""
        held = tensors_of(model)
        for name in self.own:
            _copy(owned[name], held[name])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and saved buffers of a model, each once under its first name."""
    saved = model.state_dict(keep_vars=True).keys()
    named: dict[str, Tensor] = dict(model.named_parameters())
    return named | {name: value for name, value in model.named_buffers() if name in saved}


def whole(tensor: Tensor) -> Tensor:
    """A tensor without its history; gathered where processes hold a part of it each (FSDP)."""
    tensor = tensor.detach()
    found: Tensor = tensor.full_tensor() if _parted(tensor) else tensor  # type: ignore[attr-defined]
    return found


def copied(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state_dict: copies, on the processor. What else modules put there
    (`get_extra_state`) is not for a file of tensors."""
    held = {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
    return {name: whole(value).cpu().clone().contiguous() for name, value in held.items()}


def _copy(value: Tensor, into: Tensor) -> None:
    if _parted(into):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(into, DTensor)
        value = value.to(into.device, into.dtype)
        value = distribute_tensor(value, into.device_mesh, into.placements)
    into.copy_(value)


def _parted(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def layout_of(task: Modelled, model: nn.Module) -> Layout:
    """What of a task's model travels.

    Raises:
        ConfigurationError: nothing does, the task's wishes are no sensible ones, or a tensor is of
            a type or on a device that cannot be trained.
    """
    patterns, buffers = _wishes(task)
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    trainable: list[str] = []
    frozen: list[str] = []
    shared: list[str] = []
    matched: set[str] = set()
    held = tensors_of(model)
    for name, parameter in model.named_parameters():
        _check_tensor(name, parameter)
        (trainable if parameter.requires_grad else frozen).append(name)
        hits = {p for p in patterns for alias in aliases[id(parameter)] if fnmatchcase(alias, p)}
        if parameter.requires_grad and hits:
            shared.append(name)
            matched |= hits
    if not trainable:
        raise ConfigurationError("task: its model has no parameter that requires a gradient")
    _check_memory({name: held[name] for name in trainable})
    if unmatched := [pattern for pattern in patterns if pattern not in matched]:
        raise ConfigurationError(
            f"task: shared names {unmatched[0]!r}, and no trainable parameter is called so; there "
            f"are {_listed(trainable)}"
        )
    parameters = {*trainable, *frozen}
    floats = [n for n, v in held.items() if n not in parameters and v.is_floating_point()]
    travelling = [*shared, *(floats if buffers == AVERAGED else [])]
    own = [name for name in held if name not in {*travelling, *frozen}]
    return Layout(
        tuple(travelling),
        tuple(held[name].shape for name in travelling),
        tuple(own),
        tuple(frozen),
        all(held[name].dtype == torch.float32 for name in parameters),
    )


def frozen_digest(layout: Layout, model: nn.Module) -> str | None:
    """`TaskSettings.frozen_digest` (64 hex): BLAKE3 over the names of what travels, and name, type,
    shape and bytes of each frozen parameter; None where just all parameters travel."""
    if layout.names == tuple(name for name, _ in model.named_parameters()):
        return None
    held = tensors_of(model)
    parts = [canonical.pack(list(layout.names))]
    for name in layout.frozen:
        value = whole(held[name]).cpu().contiguous()
        data = value.flatten().view(torch.uint8).numpy().tobytes()
        shape: canonical.Value = list(value.shape)
        digest = canonical.payload_digest(data)
        parts.append(canonical.pack([name, str(value.dtype), shape, digest]))
    return canonical.payload_digest(b"".join(parts)).hex()


def _wishes(task: Modelled) -> tuple[Sequence[str], str]:
    patterns, buffers = said_of(task, "shared", ("*",)), said_of(task, "buffers", LOCAL)
    if isinstance(patterns, str):
        patterns = (patterns,)
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
        raise ConfigurationError(
            f'task: shared is {patterns!r}; give patterns of names, such as ["head.*"]'
        )
    if not patterns:
        raise ConfigurationError("task: shared is empty, so that nothing would be learned together")
    if buffers not in (LOCAL, AVERAGED):
        raise ConfigurationError(
            f"task: buffers is {buffers!r}, neither {LOCAL!r} nor {AVERAGED!r}"
        )
    return patterns, buffers


def _check_tensor(name: str, parameter: Tensor) -> None:
    if parameter.is_meta:
        raise ConfigurationError(
            f"task: build_model() gave a model on the meta device ({name}), which has no numbers; "
            "build it on the processor"
        )
    if parameter.layout != torch.strided:
        raise ConfigurationError(f"task: its parameter {name} is sparse; use a dense one")
    if parameter.requires_grad and parameter.dtype not in FLOATS:
        kind = str(parameter.dtype).removeprefix("torch.")
        known = ", ".join(str(one).removeprefix("torch.") for one in FLOATS)
        raise ConfigurationError(f"task: its parameter {name} is {kind}; known: {known}")


def _check_memory(tensors: Mapping[str, Tensor]) -> None:
    """Each number of a parameter lies in a place of its own: a view of another parameter would be
    sent twice, and moved twice."""
    lying: dict[int, list[str]] = {}
    tensors = {name: _here(tensor) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        lying.setdefault(_storage(tensor), []).append(name)
    for names in lying.values():
        if len(names) > 1 or not tensors[names[0]].is_contiguous():
            _check_storage({name: tensors[name] for name in names})


def _check_storage(tensors: Mapping[str, Tensor]) -> None:
    """`_check_memory` of those in one storage: each place that is taken is marked, once at most."""
    storage = next(iter(tensors.values())).untyped_storage()
    taken = torch.zeros(storage.nbytes(), dtype=torch.bool)
    for name, tensor in tensors.items():
        width = tensor.element_size()
        strides = [stride * width for stride in tensor.stride()]
        places = taken.as_strided(tensor.shape, strides, tensor.storage_offset() * width)
        spread = all(s or n == 1 for s, n in zip(strides, tensor.shape, strict=True))
        if not spread or bool(places.any()):
            raise ConfigurationError(
                f"task: its parameter {name} lies in the memory of another, or of itself; clone() "
                "it, or use one nn.Parameter under both names"
            )
        places.fill_(True)


def _storage(tensor: Tensor) -> int:
    return _here(tensor).untyped_storage().data_ptr()


def _here(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    found: Tensor = tensor.to_local() if _parted(tensor) else tensor  # type: ignore[attr-defined]
    return found


def check_apart(layout: Layout, one: nn.Module, other: nn.Module) -> None:
    """See that two models that a task built share nothing that changes: each agent has its own.

    Raises:
        ConfigurationError: they share a tensor.
    """
    mine, others = tensors_of(one), tensors_of(other)
    held = {_storage(others[name]) for name in (*layout.names, *layout.own) if name in others}
    for name in (*layout.names, *layout.own):
        if mine[name].numel() and _storage(mine[name]) in held:
            raise ConfigurationError(
                f"task: build_model() gave the very same {name} twice, which agents would share; "
                "build or copy.deepcopy() it in each call"
            )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
