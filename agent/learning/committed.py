"""The samples of an agent as it commits to them: which bytes each of them has, and which of them a
round's batches show."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch

from candor.agent.learning.batches import compared, draw_samples, passes
from candor.agent.learning.rows import LOSS_SAMPLES, shards_of
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Batch, Task, is_loop, is_policy_task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.evidence.disclosures import SAMPLES_MAX, SHOWN_BYTES_MAX, ShownSample
from candor.mechanisms.evidence.sample_tree import Samples, Tree, leaf, leaf_key
from candor.mechanisms.strategies.lies import Strategy
from candor.topologies.cluster.file import Cluster, local_steps_of
from candor.topologies.encoding.canonical import MalformedError, Value, pack, unpack
from candor.topologies.specs.specs import ConfigurationError

_KINDS: Final = "biufc"  # of numpy's types: numbers and truth values


def committed_samples(
    cluster: Cluster,
    agent: str,
    data_root: Path | None,
    secret: bytes,
    strategy: Strategy | None = None,
) -> Samples:
    """The commitment of an agent to what it trains on, which its strategy may have altered: of an
    environment, or a loop that reads its own data, to nothing.

    Raises:
        ConfigurationError: the task is not usable.
    """
    return OwnSamples(own_data(cluster, agent, data_root, strategy), secret).samples


def own_data(
    cluster: Cluster, agent: str, data_root: Path | None, strategy: Strategy | None = None
) -> Batch | None:
    """What an agent trains on, which its strategy may have altered; None of an environment, or a
    loop that reads its own data.

    Raises:
        ConfigurationError: the task is not usable.
    """
    index = cluster.index(agent)
    altered = {} if strategy is None else {index: strategy}
    task = with_altered_data(resolve_task(cluster.task.name, data_root), altered)
    if is_policy_task(task) or is_loop(task):
        return None
    return load_data(cast(Task, task), shards_of(cluster)[index], cluster.seed)


def sample_bytes(data: Batch, place: int) -> bytes:
    """The canonical bytes of a sample: of each tensor its type, shape and little-endian values."""
    arrays = [tensor[place].cpu().numpy() for tensor in data]
    little = [array.astype(array.dtype.newbyteorder("<")) for array in arrays]
    return pack([[array.dtype.str, array.shape, array.tobytes()] for array in little])


class OwnSamples:
    """What an agent has committed to; where it `shows` samples, with what leads to their root.

    Args:
        data: its samples; None where it has none in the sense of a task.
        secret: what keys their leaves (32 bytes).
    """

    def __init__(self, data: Batch | None, secret: bytes, *, shows: bool = False) -> None:
        self.samples = Samples()
        if data is None:
            return
        each = range(len(data[0]))
        tree = Tree([leaf(place, sample_bytes(data, place), secret) for place in each])
        self.samples = Samples(len(each), tree.root)
        if shows:
            self._data, self._secret, self._tree = data, secret, tree

    def shown(self, places: Sequence[int]) -> tuple[ShownSample, ...]:
        """Samples with their keys and paths."""
        return tuple(
            ShownSample(
                place,
                sample_bytes(self._data, place),
                leaf_key(place, self._secret),
                self._tree.path(place),
            )
            for place in places
        )


def check_shown(cluster: Cluster, agent: str, data: Batch | None) -> None:
    """Refuse to show rounds whose samples nobody knows, or that are too many.

    Raises:
        ConfigurationError: they are.
    """
    if data is None:
        raise ConfigurationError(
            "disclose: the task reads data of its own, of which nobody else can tell what a round "
            "used; leave out --disclose"
        )
    used = places_of(cluster, agent, 1, len(data[0]))
    size = sum(len(sample_bytes(data, place)) for place in used[:1]) * len(used)
    if len(used) > SAMPLES_MAX or size > SHOWN_BYTES_MAX // 2:
        raise ConfigurationError(
            f"disclose: a round of {agent} uses {len(used)} samples, {size:,} bytes, and at most "
            f"{SAMPLES_MAX:,} and {SHOWN_BYTES_MAX // 2:,} are shown; take fewer steps a round, or "
            "leave out --disclose"
        )


def places_of(cluster: Cluster, agent: str, t: int, count: int) -> list[int]:
    """Where the samples are that an agent with so many uses in round t, ascending: of its batches,
    and, with an aggregator, those on which it may compare losses."""
    algorithm, seed, size = cluster.algorithm, cluster.seed, cluster.task.batch_size
    index = cluster.index(agent)
    if algorithm.local_epochs is None:
        drawn = draw_samples(seed, t, [index], np.array([count]), algorithm.local_steps * size)
    else:
        steps = local_steps_of(algorithm.local_epochs, count, size)
        drawn = np.concatenate([*islice(passes(seed, t, index, count, size), steps)])
    used = set(drawn.ravel().tolist())
    if algorithm.aggregator is not None:
        few = count <= LOSS_SAMPLES
        used |= set(range(count) if few else compared(seed, t, index, count, LOSS_SAMPLES).tolist())
    return sorted(used)


def batch_of(samples: Sequence[ShownSample], count: int) -> Batch:
    """The data of an agent that has `count` samples, of which these are shown; the others are what
    nobody looks at, and take no memory.

    Raises:
        MalformedError: they are no samples, not alike, or of too many.
    """
    rows = [_arrays(one.sample) for one in samples]
    looks = {tuple((array.dtype.str, array.shape) for array in row) for row in rows}
    if len(looks) != 1:
        raise MalformedError("the samples are not alike")
    try:
        data = [np.zeros((count, *array.shape), array.dtype) for array in rows[0]]
    except (MemoryError, ValueError) as exc:
        raise MalformedError(f"{count} samples are too many here") from exc
    for tensor, first in zip(data, rows[0], strict=True):
        tensor[0] = first  # before the run a loss looks at the first one
    for one, row in zip(samples, rows, strict=True):
        for tensor, array in zip(data, row, strict=True):
            tensor[one.place] = array
    try:
        return tuple(map(torch.from_numpy, data))
    except TypeError as exc:  # of a kind that numpy has alone, as long doubles
        raise MalformedError(f"not a tensor of a sample ({exc})") from exc


def _arrays(sample: bytes) -> list[np.ndarray]:
    match unpack(sample, bytes_max=len(sample)):
        case [*parts] if parts:
            return [_array(part) for part in parts]
    raise MalformedError("not a sample")


def _array(part: Value) -> np.ndarray:
    match part:
        case [str(kind), [*shape], bytes(values)]:
            try:
                dtype = np.dtype(kind)
                held = np.frombuffer(values, dtype).reshape(cast(list[int], shape))
            except (TypeError, ValueError, SyntaxError) as exc:  # numpy parses some names
                raise MalformedError(f"not a tensor of a sample ({exc})") from exc
            if dtype.kind in _KINDS:
                return held.astype(dtype.newbyteorder("="))
    raise MalformedError("not a tensor of a sample")
