"""The parameters of a model from a safetensors file, as this program or others write one."""

import json
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from candor.topologies.specs.files import FilePath, read_bytes
from candor.topologies.specs.specs import ConfigurationError

MODEL_BYTES_MAX: Final = 2**33  # two billion parameters
# What wraps a model adds a name in front of all its parameters' names: DataParallel, Lightning and
# Hugging Face, `torch.compile`.
_WRAPPERS: Final = ("module.", "model.", "_orig_mod.")
_WIDENED: Final = (torch.float16, torch.bfloat16)  # every value of theirs is one of float32
_NAMED_MAX: Final = 4  # tensors that a message names of one kind

T = TypeVar("T")


def saved_parameters(path: FilePath, model: nn.Module) -> dict[str, Tensor]:
    """The float32 value of each parameter of `model` in a file, by name, in the model's order.

    Names may have what wraps a model in front. Of parameters that are one tensor under several
    names the file may have any, also as its metadata say. float16 and bfloat16 are widened;
    constants of the model (buffers that are not saved) are passed over.

    Raises:
        ConfigurationError: unreadable, not finite, or of another model: it names the tensors that
            are missing, unexpected, or of another shape or type.
    """
    tensors = _bare(_read(path))
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    bare_names = _bare({name: name for names in aliases.values() for name in names})
    bare = {name: short for short, name in bare_names.items()}
    wrong: list[str] = []
    missing: list[str] = []
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        there = [bare[alias] for alias in aliases[id(parameter)] if bare[alias] in tensors]
        used.update(there)
        if not there:
            missing.append(name)
            continue
        tensor = tensors[there[0]]
        if any(not torch.equal(tensors[other], tensor) for other in there[1:]):
            wrong.append(f"{' and '.join(there)} differ, and are one tensor there")
        elif tensor.shape != parameter.shape or tensor.dtype not in (torch.float32, *_WIDENED):
            wrong.append(f"{name} is {_form(tensor)}, and {_form(parameter)} there")
        else:
            found[name] = tensor.float()
    constants = {name for name, _ in model.named_buffers()}
    unexpected = sorted(tensors.keys() - used - constants)
    faults = [f"it lacks {_listed(missing)}"] * bool(missing)
    faults += [f"has {_listed(unexpected)} besides"] * bool(unexpected)
    faults += wrong[:_NAMED_MAX]
    if faults:
        raise ConfigurationError(f"{path}: is not a model of this task: {'; '.join(faults)}")
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        raise ConfigurationError(f"{path}: the model in it has parameters that are not finite")
    return found


def _read(path: FilePath) -> dict[str, Tensor]:
    """The tensors of a file, and those that its metadata name as others of them."""
    data = read_bytes(path, "model", MODEL_BYTES_MAX)
    try:
        tensors = load_safetensors(data)
    except SafetensorError as exc:
        raise ConfigurationError(f"{path}: is no safetensors file ({exc})") from exc
    except KeyError as exc:  # of the format, but not of torch
        raise ConfigurationError(f"{path}: has tensors of type {exc.args[0]}") from exc
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shared = header.get("__metadata__") or {}  # as `safetensors.torch.save_model` writes them
    return {**{name: tensors[kept] for name, kept in shared.items() if kept in tensors}, **tensors}


def _bare(named: Mapping[str, T]) -> dict[str, T]:
    """The same without the names of wrappers that stand before all of them."""
    while wrapper := next((w for w in _WRAPPERS if _all_begin(named, w)), None):
        named = {name.removeprefix(wrapper): value for name, value in named.items()}
    return dict(named)


def _all_begin(names: Iterable[str], wrapper: str) -> bool:
    listed = list(names)
    return bool(listed) and all(name.startswith(wrapper) for name in listed)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _form(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "a scalar"
    return f"{shape} of {str(tensor.dtype).removeprefix('torch.')}"
