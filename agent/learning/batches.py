"""Which samples a round trains on: counter-based draws, the same for one agent as for all of them.

A round has one stream, Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC 2011) keyed with the run's seed and the round. Every agent owns a block of its counter, so a
daemon reads its own block by setting the counter and a simulation reads all blocks in one call: no
state, and no generator an agent. Setting up numpy's default generator from [seed, agent, round]
took longer than the local step of a small model.

A phase of whole passes over the data has as many steps as a shard is long. Its passes are of a
stream for each agent, whose block nothing can outgrow: what others hold says nothing of it.
"""

from collections.abc import Iterator, Sequence
from itertools import count as numbers
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

_OWN_STREAM: Final = 2**128  # of a counter of 256 bits: draws with replacement stay below it
_PASS: Final = 2**64
_COMPARED: Final = 2**248  # above the streams of any agents, below those of episodes
WORDS_A_COUNT: Final = 4  # 64-bit words that one step of the counter gives


def passes(
    seed: int, t: int, agent: int, length: int, batch_size: int
) -> Iterator[NDArray[np.int64]]:
    """Batches (batch,) of one pass after another over `length` samples, each in an order of its
    own, without end: a pass goes on in the batch in which the one before it ended."""
    left = np.empty(0, np.int64)
    for number in numbers():
        counter = _OWN_STREAM * (agent + 1) + _PASS * number
        words = _words(seed, t, counter, -(-length // WORDS_A_COUNT))[:length]
        left = np.concatenate((left, np.argsort(words, kind="stable")))
        whole = len(left) - len(left) % batch_size
        yield from left[:whole].reshape(-1, batch_size)
        left = left[whole:]


def compared(seed: int, t: int, agent: int, length: int, count: int) -> NDArray[np.int64]:
    """`count` samples (count,) of round t, with replacement, on which an agent compares models: not
    those that it trained on in the round, which its own model knows."""
    words = _words(seed, t, _COMPARED + _OWN_STREAM * agent, -(-count // WORDS_A_COUNT))[:count]
    return _below(words, np.array(length))


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
    return _below(words, lengths[:, np.newaxis])


def _below(words: NDArray[np.uint64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The upper half of each word times a length, its upper half: below the length, and as good as
    uniform, for 2**32 is far above it (Lemire 2019, without the rejection)."""
    scaled = ((words >> np.uint64(32)) * lengths.astype(np.uint64)) >> np.uint64(32)
    return scaled.astype(np.int64)


def _words(seed: int, t: int, first: int, counts: int) -> NDArray[np.uint64]:
    """The words of some counts of a round's stream: (4 counts,)."""
    # As an integer: numpy takes a key as large as seed and round only in this form.
    stream = np.random.Philox(key=(t << 64) | seed, counter=first)
    words: NDArray[np.uint64] = stream.random_raw(WORDS_A_COUNT * counts)
    return words
