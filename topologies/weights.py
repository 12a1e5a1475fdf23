"""The weights of one round, and what an agent keeps for itself: arithmetic alone.

Where the weights come from, `topologies.rounds` knows; cores and auditors need no more than this.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Round:
    """One round: of each agent the weights of those it takes from, in ascending order of id, the
    total of its row with its own weight, and who takes from it."""

    taken: Mapping[str, Mapping[str, float]]
    totals: Mapping[str, float]
    takers: Mapping[str, frozenset[str]]


def own_weight(total: float, taken: Mapping[str, float]) -> float:
    """What is left of a row's total for the agent itself, the others taken off in order of id.

    Never more than all that it has: who hears nobody under push-sum must not gain mass by that.
    """
    return min(1.0, max(0.0, total - ordered_sum(taken)))


def ordered_sum(taken: Mapping[str, float]) -> float:
    """In order of id, one addition after the other: Python's sum compensates from 3.12 on."""
    result = 0.0
    for _, weight in sorted(taken.items()):
        result += weight
    return result
