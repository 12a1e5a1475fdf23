"""Rows that follow from sketches: two of the page's rules, multi-krum and rfa."""

import math
from collections.abc import Callable

import numpy as np

Rule = Callable[[np.ndarray, int], list[float]]


def derived(
    rule: str, byzantine: int, agent: str, sketches: dict[str, np.ndarray]
) -> dict[str, float]:
    """The row of an agent by a rule, from its sketch and those of whom it heard."""
    ids = [agent, *sorted(set(sketches) - {agent})]
    if len(ids) < 2 * byzantine + 1:
        return {one: float(one == agent) for one in ids}
    shifted = [sketches[one] - sketches[agent] for one in ids]
    products = np.array([[fold(one * other) for other in shifted] for one in shifted])
    shares = RULES[rule](products, byzantine)
    row = dict(zip(ids, shares, strict=True))
    row[agent] += 1.0 - total(shares)
    return row


def fold(values: np.ndarray) -> float:
    while len(values) > 1:
        half = -(-len(values) // 2)
        summed = values[:half].copy()
        summed[: len(values) - half] += values[half:]
        values = summed
    return float(values[0])


def total(values: list[float]) -> float:
    found = 0.0
    for value in values:
        found += value
    return found


def nearest(values: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(values)), key=lambda a: (values[a], a))[:count])


def alike(chosen: list[int], points: int) -> list[float]:
    return [1.0 / len(chosen) if a in chosen else 0.0 for a in range(points)]


def multi_krum(products: np.ndarray, byzantine: int) -> list[float]:
    points = len(products)
    apart = [
        [
            0.0 if a == b else max(0.0, (products[a, a] + products[b, b]) - 2.0 * products[a, b])
            for b in range(points)
        ]
        for a in range(points)
    ]
    scores = [total(sorted(row)[: points - byzantine]) for row in apart]
    return alike(nearest(scores, points - byzantine), points)


def rfa(products: np.ndarray, byzantine: int) -> list[float]:
    points = len(products)
    own = [max(0.0, float(products[a, a])) for a in range(points)]
    shares = alike(nearest(own, points - byzantine), points)
    for _ in range(8):
        heights = [
            total([float(products[a, b]) * shares[b] for b in range(points)]) for a in range(points)
        ]
        middle = total([share * height for share, height in zip(shares, heights, strict=True)])
        squared = [
            max(0.0, (float(products[a, a]) - 2.0 * heights[a]) + middle) for a in range(points)
        ]
        near = [1.0 / max(math.sqrt(one), 1e-6) for one in squared]
        everyone = total(near)
        shares = [one / everyone for one in near]
    return shares


RULES: dict[str, Rule] = {"multi-krum": multi_krum, "rfa": rfa}
