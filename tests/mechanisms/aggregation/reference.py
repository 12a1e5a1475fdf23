"""Aggregators by their definitions, in loops: dumb, and independent of what they are held against.

All take a list of vectors (dim,), the own one first, and f.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Vectors = Sequence[Vector]


def distance(a: Vector, b: Vector) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def mean(vectors: Vectors) -> Vector:
    return np.array([sum(column) / len(vectors) for column in zip(*vectors, strict=True)])


def by_coordinate(rule: Callable[[list[float]], float], vectors: Vectors) -> Vector:
    return np.array([rule([float(v[c]) for v in vectors]) for c in range(len(vectors[0]))])


def median_of(values: list[float]) -> float:
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def median(vectors: Vectors, f: int, own: Vector) -> Vector:
    return by_coordinate(median_of, vectors)


def trimmed_mean(vectors: Vectors, f: int, own: Vector) -> Vector:
    def rule(values: list[float]) -> float:
        kept = sorted(values)[f : len(values) - f]
        return sum(kept) / len(kept)

    return by_coordinate(rule, vectors)


def meamed(vectors: Vectors, f: int, own: Vector) -> Vector:
    def rule(values: list[float]) -> float:
        middle = median_of(values)
        kept = sorted(values, key=lambda v: abs(v - middle))[: len(values) - f]
        return sum(kept) / len(kept)

    return by_coordinate(rule, vectors)


def bridge(vectors: Vectors, f: int, own: Vector) -> Vector:
    def rule(values: list[float]) -> float:
        kept = [values[0], *sorted(values[1:])[f : len(values) - 1 - f]]
        return sum(kept) / len(kept)

    return by_coordinate(rule, vectors)


def krum_scores(vectors: Vectors, f: int) -> list[float]:
    return [sum(sorted(distance(a, b) ** 2 for b in vectors)[: len(vectors) - f]) for a in vectors]


def krum(vectors: Vectors, f: int, own: Vector) -> Vector:
    scores = krum_scores(vectors, f)
    return vectors[scores.index(min(scores))]


def multi_krum(vectors: Vectors, f: int, own: Vector) -> Vector:
    scores = krum_scores(vectors, f)
    best = sorted(range(len(vectors)), key=scores.__getitem__)[: len(vectors) - f]
    return mean([vectors[i] for i in best])


def mda(vectors: Vectors, f: int, own: Vector) -> Vector:
    def diameter(subset: tuple[int, ...]) -> float:
        pairs = itertools.combinations(subset, 2)
        return max((distance(vectors[i], vectors[j]) for i, j in pairs), default=0.0)

    subsets = itertools.combinations(range(len(vectors)), len(vectors) - f)
    return mean([vectors[i] for i in min(subsets, key=diameter)])


def nearest_to(centre: Vector, vectors: Vectors, count: int) -> list[Vector]:
    return sorted(vectors, key=lambda v: distance(v, centre))[:count]


def monna(vectors: Vectors, f: int, own: Vector) -> Vector:
    return mean(nearest_to(own, vectors, len(vectors) - f))


def cge(vectors: Vectors, f: int, own: Vector) -> Vector:
    return mean(nearest_to(np.zeros_like(own), vectors, len(vectors) - f))


def rfa(vectors: Vectors, f: int, own: Vector, steps=8, floor=1e-6, start="near") -> Vector:
    z = own if start == "own" else monna(vectors, f, own)
    for _ in range(steps):
        weights = [1 / max(distance(v, z), floor) for v in vectors]
        total = sum(weights)
        z = sum((w / total * v for w, v in zip(weights, vectors, strict=True)), np.zeros_like(own))
    return z


def clipped(v: Vector, radius: float) -> Vector:
    length = distance(v, np.zeros_like(v))
    return v * (radius / length) if length > radius else v


def centred_clipping(vectors: Vectors, f: int, own: Vector, radius=None, steps=3) -> Vector:
    v = own
    for _ in range(steps):
        lengths = sorted(distance(x, v) for x in vectors)
        limit = lengths[len(vectors) - f - 1] if radius is None else radius
        v = v + mean([clipped(x - v, limit) for x in vectors])
    return v


def clipped_gossip(vectors: Vectors, f: int, own: Vector, radius=None) -> Vector:
    """With the weights of a complete graph."""
    w = 1 / len(vectors)
    if radius is None:
        near = nearest_to(own, vectors, len(vectors) - f)
        spread = sum(w * distance(v, own) ** 2 for v in near)
        radius = math.sqrt(spread / (w * f)) if f else math.inf
    return own + sum((w * clipped(v - own, radius) for v in vectors), np.zeros_like(own))


def sybilwall(vectors: Vectors, f: int, own: Vector) -> Vector:
    moved = [v - own for v in vectors[1:]]

    def cosine(a: Vector, b: Vector) -> float:
        zero = np.zeros_like(a)
        scale = distance(a, zero) * distance(b, zero)
        return float(np.dot(a, b)) / scale if scale else 0.0

    n = len(moved)
    cs = [[cosine(moved[i], moved[j]) if i != j else -1.0 for j in range(n)] for i in range(n)]
    most = [max(0.0, *row) for row in cs]
    for i, j in itertools.product(range(n), range(n)):
        if most[j] > most[i]:
            cs[i][j] *= most[i] / most[j]
    trust = [1 - max(0.0, *row) for row in cs]
    best = max(trust)
    weights = [1.0]
    for t in trust:
        v = min(t / best, 0.99) if best else 0.0
        weights.append(min(1.0, max(0.0, math.log(v / (1 - v)) + 0.5)) if v > 0 else 0.0)
    total = sum(weights)
    return sum((w / total * v for w, v in zip(weights, vectors, strict=True)), np.zeros_like(own))


def smea(vectors: Vectors, f: int, own: Vector) -> Vector:
    def variance(subset: tuple[int, ...]) -> float:
        some = np.array([vectors[i] for i in subset])
        centred = some - some.mean(axis=0)
        return float(np.linalg.eigvalsh(centred.T @ centred)[-1])

    subsets = itertools.combinations(range(len(vectors)), len(vectors) - f)
    return mean([vectors[i] for i in min(subsets, key=variance)])


def caf(vectors: Vectors, f: int, own: Vector) -> Vector:
    x = np.array(vectors)
    c, best, smallest = np.ones(len(x)), own, math.inf
    while c.sum() > len(x) - 2 * f:
        middle = (c[:, None] * x).sum(axis=0) / c.sum()
        covariance = (c[:, None] * (x - middle)).T @ (x - middle) / c.sum()
        values, directions = np.linalg.eigh(covariance)
        if values[-1] < smallest:
            best, smallest = middle, values[-1]
        along = ((x - middle) @ directions[:, -1]) ** 2
        if values[-1] <= 1e-12 * np.square(x).sum():
            break
        c = np.maximum(0, c * (1 - along / along[c > 0].max()))
    return best


def all_alike(vectors: Vectors, f: int, own: Vector) -> Vector:
    return mean(vectors)


def nnm(vectors: Vectors, f: int, own: Vector) -> list[Vector]:
    return [mean(nearest_to(v, vectors, len(vectors) - f)) for v in vectors]


def clipping(vectors: Vectors, f: int, own: Vector, radius=2.0, about="own") -> list[Vector]:
    centre = own if about == "own" else np.zeros_like(own)
    return [centre + clipped(v - centre, radius) for v in vectors]


def arc(vectors: Vectors, f: int, own: Vector, about="own") -> list[Vector]:
    centre = own if about == "own" else np.zeros_like(own)
    n = len(vectors)
    lengths = sorted(distance(v, centre) for v in vectors)
    return clipping(vectors, f, own, lengths[n - math.floor(2 * f * (n - f) / n) - 1], about)
