"""What a task's model is like: what travels, what stays, and what is odd about it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from candor.agent.learning.initial import initial_model
from candor.agent.learning.layout import Layout, check_apart, frozen_digest, tensors_of
from candor.agent.learning.measuring import metric_of
from candor.agent.runs.task_check.findings import Finding, named
from candor.agent.tasks.base import AnyTask, Modelled, is_loop
from candor.network.codecs import Codec
from candor.topologies.cluster.file import DEFAULT_METRIC, model_digest
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError

SAID: Final = (
    "metric",
    "higher_is_better",
    "shared",
    "buffers",
    "evaluate_local",
    "prepare",
    "on_round",
)
"""What a task may say of itself."""
_METHODS: Final = ("build_model", "train", "load_data", "loss", "evaluate")
_LOWER: Final = re.compile(
    r"(^|[^a-z])(loss|error|err|\w*mse|mae|mape|nll|perplexity|ppl|wer|cer)($|[^a-z])"
)
_HIGHER: Final = re.compile(
    r"(^|[^a-z])(accuracy|acc|f1|auc|auroc|dice|iou|r2|recall|precision)($|[^a-z])"
)
VECTORS: Final = 6  # a daemon holds of a model: its own, updates, reports; and one a neighbour


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor of the model that travels."""

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`travels`, in order, `numbers` in all, whose float32 values have this `digest`; `frozen` and
    `own` are the names of what stays, of so many numbers; `payload_bytes` go to each neighbour in
    an exchange, in the encoding `codec`."""

    kind: str
    travels: tuple[TensorFacts, ...]
    numbers: int
    digest: str
    frozen: tuple[str, ...]
    frozen_numbers: int
    frozen_digest: str | None
    own: tuple[str, ...]
    own_numbers: int
    codec: str
    payload_bytes: int
    metric: str
    higher_is_better: bool


def built_twice(task: Modelled, seed: int, initial: FilePath | None) -> tuple[nn.Module, Layout]:
    """The model that all start from, which must be the same each time it is built.

    Raises:
        ConfigurationError: it cannot be built or trained, or differs.
    """
    model, layout = initial_model(task, seed, initial)
    again, _ = initial_model(task, seed, initial)
    check_apart(layout, model, again)
    one, other = tensors_of(model), tensors_of(again)
    moved = [name for name in one if not _same(one[name], other[name])]
    if one.keys() != other.keys() or moved:
        raise ConfigurationError(
            f"task: build_model() builds another model each time ({named(moved)}); draw from "
            "torch's default generator, which is seeded for it, and from no other"
        )
    return model, layout


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def model_facts(task: Modelled, model: nn.Module, layout: Layout, codec: Codec) -> ModelFacts:
    """What is told of a model, and compared between hosts."""
    held = tensors_of(model)
    metric, higher = metric_of(task)

    def size(names: tuple[str, ...]) -> int:
        return sum(held[name].numel() for name in names)

    return ModelFacts(
        kind=type(model).__name__,
        travels=tuple(
            TensorFacts(name, tuple(held[name].shape), type_name(held[name]))
            for name in layout.names
        ),
        numbers=layout.dim,
        digest=model_digest(layout.of(model).numpy()),
        frozen=layout.frozen,
        frozen_numbers=size(layout.frozen),
        frozen_digest=frozen_digest(layout, model),
        own=layout.own,
        own_numbers=size(layout.own),
        codec=codec.name,
        payload_bytes=codec.payload_bytes(layout.dim),
        metric=metric or DEFAULT_METRIC,
        higher_is_better=higher,
    )


def type_name(tensor: Tensor) -> str:
    """Its type, as it is called in torch."""
    return str(tensor.dtype).removeprefix("torch.")


def of_the_class(task: AnyTask) -> Iterator[Finding]:
    """What is odd about what a task says of itself."""
    own = [name for name in dir(task) if not name.startswith("_") and name not in SAID]
    for name in own:
        if name not in _METHODS and (meant := get_close_matches(name, SAID, 1, cutoff=0.85)):
            yield Finding(
                "warning",
                f"the class has {name}, which means nothing to Candor",
                f"call it {meant[0]} if that is what it is for",
            )
    metric, higher = metric_of(task)
    if metric is not None and higher and _LOWER.search(metric.lower()):
        yield Finding(
            "warning",
            f"the metric {metric} sounds like an error, and higher values count as better",
            "put higher_is_better = False in the class",
        )
    if metric is not None and not higher and _HIGHER.search(metric.lower()):
        yield Finding(
            "warning",
            f"the metric {metric} counts as better where it is lower",
            "leave higher_is_better out of the class",
        )
    if is_loop(task) and callable(getattr(task, "loss", None)):
        yield Finding(
            "note",
            "the class has train() and loss(): its own loop counts, loss() is not called",
            "leave one of them out",
        )


def of_the_model(
    task: AnyTask, model: nn.Module, layout: Layout, codec: Codec
) -> Iterator[Finding]:
    """What is odd about a model."""
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules") or name.endswith("_hooks"):
                continue
            full = f"{place}.{name}" if place else name
            yield from _of_attribute(full, value, registered)
    held = tensors_of(model)
    travelling = [held[name] for name in layout.names]
    yield from _of_values(dict(zip(layout.names, travelling, strict=True)), codec)
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if norms and getattr(task, "buffers", None) is None:
        yield Finding(
            "note",
            f"the statistics of BatchNorm ({named(norms)}) stay with each agent (FedBN)",
            'to average them, put buffers = "averaged" in the class',
        )
    if any(tensor.dtype == torch.float16 for tensor in travelling):
        yield Finding(
            "note",
            "the model is float16, in which small gradients vanish",
            "train float32 under torch.autocast with a GradScaler, or use bfloat16",
        )
    if any(tensor.dtype == torch.float64 for tensor in travelling):
        yield Finding(
            "note",
            f"the model is float64, and travels as {codec.name}",
            "use float32 unless training itself needs more",
        )


def _of_attribute(name: str, value: object, registered: set[int]) -> Iterator[Finding]:
    """What is odd about what a module keeps beside its parameters, buffers and modules."""
    if isinstance(value, Tensor) and value.grad_fn is not None:
        yield Finding(
            "warning",
            f"the model's {name} was computed from parameters when it was built, and does not "
            "follow them",
            "compute it in forward()",
        )
        return
    inside = [one for one in _inside(value) if isinstance(one, nn.Module | nn.Parameter)]
    lost = [
        parameter
        for one in inside
        for parameter in (one.parameters() if isinstance(one, nn.Module) else [one])
        if parameter.requires_grad and id(parameter) not in registered
    ]
    if lost:
        kind = type(value).__name__
        form = "Dict" if kind == "dict" else "List"
        yield Finding(
            "warning",
            f"the model's {name} is a plain {kind}: the parameters in it neither train nor travel",
            f"make it an nn.Module{form} or nn.Parameter{form}",
        )


def _inside(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set) else []


def _of_values(tensors: Mapping[str, Tensor], codec: Codec) -> Iterator[Finding]:
    """What is wrong with the numbers that travel."""
    values = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    lost = [name for name, value in values.items() if not np.isfinite(codec.rounded(value)).all()]
    if lost:
        yield Finding(
            "error",
            f"values of {named(lost)} are more than {codec.name} can hold, and would not be sent",
            "use --codec float32",
        )


def memory_needed(facts: ModelFacts, neighbours: int) -> int:
    """Bytes of the vectors that a daemon holds, and of the model that it trains with gradients."""
    whole = facts.numbers + facts.frozen_numbers + facts.own_numbers
    return 4 * (facts.numbers * (VECTORS + neighbours) + whole + facts.numbers)


def of_memory(needed_bytes: int, there_bytes: int) -> Iterator[Finding]:
    """Whether this machine can hold it."""
    if needed_bytes > there_bytes:
        yield Finding(
            "warning",
            f"a daemon needs about {needed_bytes / 2**30:.1f} GiB for vectors of this model, and "
            f"this machine has {there_bytes / 2**30:.1f} GiB",
            'freeze parts of it, or share fewer: shared = ["head.*"] in the class',
        )
