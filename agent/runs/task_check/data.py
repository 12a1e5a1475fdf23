"""What the samples of each shard are like: how many, of which classes, shapes and types."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from candor.agent.runs.task_check.findings import Finding, named
from candor.agent.runs.task_check.model import type_name
from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.partition import Shard
from candor.topologies.encoding.canonical import payload_digest, sha256
from candor.topologies.specs.specs import ConfigurationError

CLASSES_MAX: Final = 1024  # whole numbers of more values are no classes
FEW: Final = 10  # samples
DATA_DOMAIN: Final = b"candor/task-check/v1"


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What one agent trains on: `shapes` and `types` of a sample's tensors; `classes` says how many
    samples each has, empty where the last tensor is no class; `digest` tells equal data;
    `broken` is the first sample with a number that is not finite."""

    agent: str
    samples: int
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    classes: Mapping[int, int]
    digest: str
    broken: int | None


def shard_facts(task: Task, shards: Mapping[str, Shard], seed: int) -> tuple[ShardFacts, ...]:
    """What is told of the shards of some agents.

    Raises:
        ConfigurationError: a shard's data are empty, or no dense tensors of one length.
    """
    return tuple(_facts(agent, _loaded(task, shard, seed)) for agent, shard in shards.items())


def _loaded(task: Task, shard: Shard, seed: int) -> Batch:
    try:
        return load_data(task, shard, seed)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{exc}, for shard {shard.index} of {shard.count}") from exc


def _facts(agent: str, data: Batch) -> ShardFacts:
    return ShardFacts(
        agent,
        len(data[0]),
        tuple(tuple(tensor.shape[1:]) for tensor in data),
        tuple(map(type_name, data)),
        _classes(data[-1]) if len(data) > 1 else {},
        _digest(data),
        _broken(data),
    )


def _classes(last: Tensor) -> dict[int, int]:
    """How many samples each class has, where whole numbers say which it is."""
    if last.ndim != 1 or last.is_floating_point() or last.is_complex():
        return {}
    values, counts = np.unique(last.cpu().long().numpy(), return_counts=True)
    if len(values) > CLASSES_MAX:
        return {}
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _broken(data: Batch) -> int | None:
    for tensor in data:
        if tensor.is_floating_point():
            sound = tensor.isfinite().flatten(1).all(1) if tensor.ndim > 1 else tensor.isfinite()
            if not bool(sound.all()):
                return int((~sound).nonzero()[0])
    return None


def _digest(data: Batch) -> str:
    """SHA-256 (64 hex) over type, shape and BLAKE3 of the bytes of each tensor."""
    parts = [DATA_DOMAIN]
    for tensor in data:
        flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [f"{type_name(tensor)} {tuple(tensor.shape)}".encode()]
        parts += [payload_digest(flat.numpy().data)]
    return sha256(*parts).hex()


def of_shards(shards: Sequence[ShardFacts], batch_size: int, *, alone: bool) -> Iterator[Finding]:
    """What is odd about them; `alone`: they are one agent's of several."""
    broken = [f"{s.agent} (sample {s.broken})" for s in shards if s.broken is not None]
    if broken:
        yield Finding(
            "warning",
            f"there are nan or inf in the data of {named(broken)}",
            "mend those samples or leave them out",
        )
    yield from _of_sizes(shards, batch_size)
    yield from _of_classes(shards)
    if len({(shard.shapes, shard.types) for shard in shards}) > 1:
        yield Finding(
            "error",
            "samples differ in shape or type from shard to shard",
            "load_data() must give the same kind of tensors to all",
        )
    equal = {shard.digest for shard in shards}
    if not alone and len(equal) < len(shards):
        every = "all agents have" if len(equal) == 1 else "some agents have"
        yield Finding(
            "note",
            f"{every} the very same samples",
            "take this agent's part in load_data(): shard.select(labels, seed); or leave it so "
            "where each host has files of its own",
        )


def _of_sizes(shards: Sequence[ShardFacts], batch_size: int) -> Iterator[Finding]:
    small = [f"{s.agent} ({s.samples})" for s in shards if s.samples < max(FEW, batch_size)]
    if small:
        yield Finding(
            "warning",
            f"few samples: {named(small)}, and a step takes {batch_size}, so that it has some "
            "several times",
            "use fewer agents, another --partition or a smaller --batch-size",
        )


def _of_classes(shards: Sequence[ShardFacts]) -> Iterator[Finding]:
    known = sorted({label for shard in shards for label in shard.classes})
    if not known:
        return
    if len(known) == 1:
        yield Finding(
            "warning",
            f"all labels are {known[0]}",
            "look at the data: there is nothing to tell apart",
        )
    lacking = [
        f"{shard.agent} ({named(_lacking(shard, known))})"
        for shard in shards
        if _lacking(shard, known)
    ]
    if lacking:
        yield Finding(
            "warning",
            f"of {len(known)} classes some agents lack some: {named(lacking)}",
            "expected of a partition such as dirichlet; else look at who has which data",
        )


def _lacking(shard: ShardFacts, known: Sequence[int]) -> list[int]:
    return [label for label in known if label not in shard.classes]
