"""The samples of an agent as it commits to them: which bytes each of them has."""

from pathlib import Path
from typing import cast

from candor.agent.learning.rows import shards_of
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Batch, Task, is_loop, is_policy_task
from candor.agent.tasks.checked import load_data
from candor.agent.tasks.poisoned import with_altered_data
from candor.mechanisms.evidence.sample_tree import Samples, committed
from candor.mechanisms.strategies.lies import Strategy
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import pack


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
    index = cluster.index(agent)
    altered = {} if strategy is None else {index: strategy}
    task = with_altered_data(resolve_task(cluster.task.name, data_root), altered)
    if is_policy_task(task) or is_loop(task):
        return Samples()
    data = load_data(cast(Task, task), shards_of(cluster)[index], cluster.seed)
    return committed((sample_bytes(data, place) for place in range(len(data[0]))), secret)


def sample_bytes(data: Batch, place: int) -> bytes:
    """The canonical bytes of a sample: of each tensor its type, shape and little-endian values."""
    arrays = [tensor[place].cpu().numpy() for tensor in data]
    little = [array.astype(array.dtype.newbyteorder("<")) for array in arrays]
    return pack([[array.dtype.str, array.shape, array.tobytes()] for array in little])
