"""How many agents to train at once, and on how many threads.

What a row needs is measured on one row. On a processor the rows of a chunk should stay in its cache
between forward and backward pass, which is far below its memory, so free memory need not be asked
for, and the same task is always cut alike, on however many threads, whose number changes no bit.
Rows do not interact: where they are cut changes nothing but the rounding of the products that are
computed together.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

CACHE_BYTES: Final = 16 * 2**20  # measured: less makes calls dominate, more leaves the cache
_PARTS: Final = 16  # for as many cores as a laptop has
_ROWS_MIN: Final = 100  # of a part; of fewer the calls dominate
FREE_SHARE: Final = 0.4  # of an accelerator's memory; a backward pass needs about as much again


@dataclass(slots=True)
class SavedBytes:
    """What autograd has kept for backward passes: bytes by the address of each storage."""

    by_storage: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes, each storage counted once."""
        return sum(self.by_storage.values())


@contextmanager
def saved_bytes() -> Iterator[SavedBytes]:
    """Count what autograd keeps within the block; views of one storage count once."""
    found = SavedBytes()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found.by_storage[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield found


def rows_at_once(row_bytes: int, device: torch.device) -> int:
    """How many rows of `row_bytes` each to train at once on a device: at least 1."""
    room = CACHE_BYTES
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        room = int(FREE_SHARE * free)
    return max(1, room // max(1, row_bytes))


def slices(rows: int, most: int) -> list[slice]:
    """Consecutive rows in parts of at most `most`, all but the last equal."""
    return [slice(low, low + most) for low in range(0, rows, most)]


def rows_for_threads(rows: int, most: int) -> int:
    """How many of so many rows to train at once, at most `most`, so that threads have enough parts
    to share. It knows not how many threads there are, for what is computed may not depend on it."""
    return min(most, max(_ROWS_MIN, -(-rows // _PARTS)))


class Threads:
    """So many threads, each with a core of its own.

    Several are instead of torch's own, which share out single operations and of small ones wait for
    each other longer than they work: in the thread that makes these, too, torch has one from here.
    """

    def __init__(self, count: int = 1) -> None:
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(count, "rows", torch.set_num_threads, (1,))

    def map(self, work: Callable[[slice], T], parts: Sequence[slice]) -> list[T]:
        """What `work` gives for each part, in their order."""
        if self._pool is None or len(parts) == 1:
            return [work(part) for part in parts]
        return list(self._pool.map(work, parts))
