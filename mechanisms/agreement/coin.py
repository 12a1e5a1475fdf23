"""A common coin without a trusted party: heads in round t with chance p, the same for all agents.

The coin of PAGE's switch (Li et al., ICML 2021; lines 3 and 4 of DecByzPG in Jordan et al., arXiv
2401.03489) decides whether the agents sample a large or a small batch. It is a hash:

    h_t = first 53 bits of BLAKE3("candor/coin/v1" || seed || t) / 2^53,    heads if h_t < p

of the seed in the run's cluster file, both as 8 bytes, big-endian. So the number of rounds may be
chosen by how many trajectories they come to, and runs that differ in who takes part, in attackers
or in name, but not in seed, switch alike: what they learn can be compared.

Who could bias it? Nobody during the run: it depends on nothing that anybody sends. A commit and
reveal in every round would: who reveals last knows the outcome first, and by staying silent (a
"fault") chooses between two coins, each round anew; and it takes two more exchanges a round.
Known in advance it may be: a round's estimate is drawn from trajectories that do not depend on the
coin, and the aggregation bounds what attackers do in a round of either kind. Before the run no
agent can move it, whatever keys it brings: only who puts the file together, in an unsigned file or
a run of one host whoever starts it, chooses the seed, and may try some until it likes the coins: n
tries make a pattern of chance 1/n appear. What that buys is bounded twice. Everyone can compute all
coins before round 1. And whatever was ground, no stretch of small batches is longer than
`stretch_of(p)` rounds: the round after it is heads, which for an honest seed happens about once in
a million rounds. So the recursion of PAGE never drifts further than that from an estimate of a
large batch, with any file.
"""

import math
import sys
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, count
from typing import Final

from blake3 import blake3

DOMAIN: Final = "candor/coin/v1"
BITS: Final = 53  # of a binary64, all of whose fractions of these bits are exact
# A stretch without heads that an honest hash shows with this chance is not waited for.
RARE: Final = 2.0**-20

Coin = Callable[[int], bool]
"""Whether a round, from 1, shows heads."""


def toss(seed: bytes, t: int, probability: float) -> bool:
    """Whether the hash of round t alone shows heads, with this chance."""
    digest = blake3(DOMAIN.encode() + seed + t.to_bytes(8, "big")).digest(length=8)
    return int.from_bytes(digest, "big") >> (64 - BITS) < probability * 2.0**BITS


def stretch_of(probability: float) -> int:
    """How many rounds without heads follow each other at most: so many come with a chance of
    2^-20."""
    if probability >= 1:
        return 0
    stretch = math.log(RARE) / math.log1p(-probability)
    return math.ceil(min(stretch, sys.float_info.max))  # of the least p it is infinite


def coin_of(seed: bytes, probability: float) -> Coin:
    """The run's coin; round 1 always shows heads, as nothing was sampled before.

    Args:
        seed: the run's, 8 bytes.
        probability: p, above 0.
    """
    longest = stretch_of(probability)
    shown, tossed = [1], 1  # rounds whose hash shows heads, and up to which one that is known

    def heads(t: int) -> bool:
        nonlocal tossed
        # Every round is tossed once: where p is small, the last one that showed heads is far back.
        shown.extend(s for s in range(tossed + 1, t + 1) if toss(seed, s, probability))
        tossed = max(tossed, t)
        last = shown[bisect_right(shown, t) - 1]
        return (t - last) % (longest + 1) == 0

    return heads


def rounds_for(trajectories: int, coin: Coin, large: int, small: int) -> int:
    """In how many rounds an agent samples so many trajectories or a few more: `large` of them where
    the coin shows heads, `small` elsewhere."""
    batches = (large if coin(t) else small for t in count(1))
    return next(t for t, sum_ in enumerate(accumulate(batches), 1) if sum_ >= trajectories)
