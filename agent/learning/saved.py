"""A model from a file, as this program or others write one: safetensors, or torch's state_dict."""

import io
import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from candor.topologies.specs.files import FilePath, read_bytes
from candor.topologies.specs.specs import ConfigurationError, one_line

MODEL_BYTES_MAX: Final = 2**33  # two billion parameters
# What wraps a model adds a name in front of all its parameters' names: DataParallel, Lightning and
# Hugging Face, `torch.compile`.
_WRAPPERS: Final = ("module.", "model.", "_orig_mod.")
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
_ZIP, _PICKLE = b"PK", b"\x80"  # how what `torch.save` wrote begins, now and before 1.6
_CHECKPOINTS: Final = ("state_dict", "model_state_dict", "model")  # of Lightning, torch's guide
_NAMED_MAX: Final = 4  # tensors that a message names of one kind

T = TypeVar("T")


@torch.no_grad()
def load_saved(path: FilePath, model: nn.Module) -> nn.Module:
    """The model with all its parameters from a file, and those of its buffers that the file has.

    Names may have what wraps a model in front. Of parameters that are one tensor under several
    names the file may have any, also as its metadata say. Floats may be of another type than the
    model's, but for float64, which only a model of float64 takes.

    Raises:
        ConfigurationError: unreadable, not finite, or of another model: it names the tensors that
            are missing, unexpected, or of another shape or type.
    """
    tensors = _bare(_read(path))
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    buffers = dict(model.named_buffers())
    named = [name for names in aliases.values() for name in names]
    bare_names = _bare({name: name for name in [*named, *buffers]})
    bare = {name: short for short, name in bare_names.items()}
    wrong: list[str] = []
    missing: list[str] = []
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        there = [bare[alias] for alias in aliases[id(parameter)] if bare[alias] in tensors]
        used.update(there)
        if not there:
            missing.append(name)
        elif any(not torch.equal(tensors[other], tensors[there[0]]) for other in there[1:]):
            wrong.append(f"{' and '.join(there)} differ, and are one tensor there")
        else:
            wrong += _taken_over(name, tensors[there[0]], parameter)
    for name, buffer in buffers.items():
        if bare[name] in tensors:
            used.add(bare[name])
            wrong += _taken_over(name, tensors[bare[name]], buffer)
    unexpected = sorted(tensors.keys() - used)
    faults = [f"it lacks {_listed(missing)}"] * bool(missing)
    faults += [f"has {_listed(unexpected)} besides"] * bool(unexpected)
    faults += wrong[:_NAMED_MAX]
    if faults:
        raise ConfigurationError(f"{path}: is not a model of this task: {'; '.join(faults)}")
    if not all(bool(p.isfinite().all()) for p in model.parameters() if p.is_floating_point()):
        raise ConfigurationError(f"{path}: the model in it has parameters that are not finite")
    return model


def _taken_over(name: str, tensor: Tensor, into: Tensor) -> list[str]:
    """Copy a tensor of a file into the model's; what keeps it from that, if anything."""
    fits = tensor.dtype == into.dtype or (tensor.dtype in _FLOATS and into.is_floating_point())
    if tensor.shape != into.shape or not fits:
        return [f"{name} is {_form(tensor)}, and {_form(into)} there"]
    into.copy_(tensor)
    return []


def _read(path: FilePath) -> dict[str, Tensor]:
    """The tensors of a file: of safetensors, else of `torch.save`, from which nothing is run."""
    data = read_bytes(path, "model", MODEL_BYTES_MAX)
    header_bytes = int.from_bytes(data[:8], "little")
    safe = header_bytes < len(data) and data[8:9] == b"{"
    if not safe and data.startswith((_ZIP, _PICKLE)):
        return _of_torch(path, data)
    try:
        tensors = load_safetensors(data)
    except SafetensorError as exc:
        raise ConfigurationError(
            f"{path}: is no safetensors file ({exc}), nor one of torch.save"
        ) from exc
    except KeyError as exc:  # of the format, but not of torch
        raise ConfigurationError(f"{path}: has tensors of type {exc.args[0]}") from exc
    header = json.loads(data[8 : 8 + header_bytes])
    shared = header.get("__metadata__") or {}  # as `safetensors.torch.save_model` writes them
    return {**{name: tensors[kept] for name, kept in shared.items() if kept in tensors}, **tensors}


def _of_torch(path: FilePath, data: bytes) -> dict[str, Tensor]:
    """A state_dict, by itself or under the name that checkpoints keep it under."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as exc:  # whatever torch trips over in a file of anyone's
        raise ConfigurationError(
            f"{path}: torch.load(weights_only=True) refuses it ({one_line(exc)}); save the "
            "state_dict alone: torch.save(model.state_dict(), FILE)"
        ) from exc
    for name in _CHECKPOINTS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise ConfigurationError(f"{path}: holds a {type(found).__name__}, not a state_dict")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ConfigurationError(
                f"{path}: {name} is a {type(value).__name__}, not a tensor; save the state_dict "
                "alone: torch.save(model.state_dict(), FILE)"
            )
    return {str(name): value.detach() for name, value in found.items()}


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
