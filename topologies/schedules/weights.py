"""The weights of one round, and what an agent keeps for itself: arithmetic alone.

Where the weights come from, `topologies.schedules.round_weights` knows; cores and auditors need no
more than this.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Round:
    """One round: of each agent the weights of those it takes from, in ascending order of id, which
    with its own sum to one; who takes from it; and by what its steps are divided: its mass over the
    one that it started with, one but under push-sum."""

    taken: Mapping[str, Mapping[str, float]]
    takers: Mapping[str, frozenset[str]]
    mass: Mapping[str, float]


def own_weight(taken: Mapping[str, float]) -> float:
    """What is left to one for the agent itself, the others taken off in order of id."""
    return max(0.0, 1.0 - ordered_sum(taken))


def ordered_sum(taken: Mapping[str, float]) -> float:
    """In order of id, one addition after the other: Python's sum compensates from 3.12 on."""
    result = 0.0
    for _, weight in sorted(taken.items()):
        result += weight
    return result
