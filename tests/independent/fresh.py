"""Fresh sketches: of a payload and of what it was stepped from, under signs that follow from it."""

import math

import blake3
import numpy as np

from tests.independent.phases import MIXED
from tests.independent.wire import Cluster, pack

LONGEST, MOST = 2**14, 64


def sizes(dim: int) -> tuple[int, int, int]:
    """n, m and R of vectors of this length."""
    n = 1
    while n < min(dim, LONGEST):
        n *= 2
    return n, min(n, MOST), math.ceil(dim / n)


def values(cluster: Cluster) -> int:
    """How many numbers a fresh sketch has; 0 where the run has none."""
    if cluster.dim <= cluster.sketch_size or cluster.rule.strip() == "none":
        return 0
    parts = cluster.phases[cluster.charged].parts
    chained = not parts or (len(cluster.phases) == 1 and all(p.made == MIXED for p in parts))
    whole = "rewards" not in cluster.file["algorithm"]
    return sizes(cluster.dim)[1] if chained and whole else 0


def sketch(run: bytes, agent: str, number: int, digest: bytes, vector: np.ndarray) -> np.ndarray:
    """F of a vector, for the payload of an agent in a round."""
    n, m, rows = sizes(len(vector))
    of_signs = math.ceil(2 * n / 8)
    seed = pack(["candor/fresh-signs/v1", run, agent, number, digest])
    stream = blake3.blake3(seed).digest(length=of_signs + 4 * rows + 2 * m)
    bits = np.unpackbits(np.frombuffer(stream[:of_signs], np.uint8), bitorder="little")
    drawn = np.frombuffer(stream[of_signs:], "<u2").astype(np.int64)
    row, c = np.divmod(np.arange(len(vector)), n)
    turns, firsts = drawn[0 : 2 * rows : 2][row], drawn[1 : 2 * rows : 2][row]
    negative = bits[c + firsts % n] ^ (turns >> 15)
    buckets = np.zeros(n)
    np.add.at(buckets, (c + turns) % n, np.where(negative, -1.0, 1.0) * vector.astype(np.float64))
    h = n // 2
    while h:
        pairs = buckets.reshape(-1, 2, h)
        buckets = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
        h //= 2
    return buckets[drawn[2 * rows :] % n] if n > MOST else buckets


def hidden(shown: list[float], whole: list[float], m: int, sketch_size: int) -> float:
    """What is added to the energy of a member whose charged rounds show so much."""
    below = 1.0 - 4.0 * math.sqrt(2.0 / sketch_size)
    if not shown or below <= 0.0:
        return 0.0
    e, g = math.fsum(whole), math.fsum(shown)
    ratio = (1.0 + 5.0 * math.sqrt(2.0 / (m * len(shown)))) / below
    return e - g if e > ratio * g else 0.0
