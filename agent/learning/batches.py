"""Which samples a round trains on: counter-based draws, the same for one agent as for all of them.

A round has one stream, Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC 2011) keyed with the run's seed and the round. Every agent owns a block of its counter, so a
daemon reads its own block by setting the counter and a simulation reads all blocks in one call: no
state, and no generator an agent. Setting up numpy's default generator from [seed, agent, round]
took longer than the local step of a small model.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORDS_A_COUNT: Final = 4  # 64-bit words that one step of the counter gives


def draw_samples(
    seed: int, t: int, agents: Sequence[int], lengths: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """`count` samples with replacement for each agent: (agents, count), each below its length.

    Args:
        seed: the run's, at least 0 and below 2**64.
        t: the round.
        agents: their places in the cluster file, ascending.
        lengths: (agents,) how many samples each has, below 2**32.
        count: how many to draw for each.
    """
    block = -(-count // WORDS_A_COUNT)
    starts = [0, *(i for i in range(1, len(agents)) if agents[i] != agents[i - 1] + 1), len(agents)]
    rows = [
        _words(seed, t, agents[low] * block, (high - low) * block).reshape(high - low, -1)
        for low, high in pairwise(starts)
    ]
    words = (rows[0] if len(rows) == 1 else np.concatenate(rows))[:, :count]
    # The upper half of a word times the length, its upper half: below the length, and as good as
    # uniform, for 2**32 is far above it (Lemire 2019, without the rejection).
    scaled = ((words >> np.uint64(32)) * lengths.astype(np.uint64)[:, np.newaxis]) >> np.uint64(32)
    return scaled.astype(np.int64)


def _words(seed: int, t: int, first: int, counts: int) -> NDArray[np.uint64]:
    """The words of some counts of a round's stream: (4 counts,)."""
    # As an integer: numpy takes a key as large as seed and round only in this form.
    stream = np.random.Philox(key=(t << 64) | seed, counter=first)
    words: NDArray[np.uint64] = stream.random_raw(WORDS_A_COUNT * counts)
    return words
