"""The vectors that fresh sketches are made of and held against: an agent's own and its neighbours',
of the charged exchanges of the last rounds.

A round's vectors are needed until the next round has been stated, here and by whom they are of.
Where a run has no fresh sketches nothing is kept.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.evidence.statements import ROUNDS_KEPT, Source, Statement, place_of

Vector = NDArray[np.float32]

BEFORE: Final = 1  # late updates of the round before are still judged


class Held:
    """What agent `agent` holds, by the statement that it is of."""

    def __init__(self, agent: str, terms: RunTerms) -> None:
        self._agent = agent
        self._charged = terms.phases.charged if terms.fresh is not None else None
        self._vectors: dict[Source, Vector] = {}
        self._round, self._mixed = 1, 0  # under way here, and what it goes on from
        self._reached = terms.rounds_reached if terms.sits_out else 0
        self._latest: dict[str, int] = {}  # that neighbours have stated

    @property
    def keeps(self) -> bool:
        """Whether there are fresh sketches to hold anything for."""
        return self._charged is not None

    @property
    def vectors(self) -> Mapping[Source, Vector]:
        """All of them, (dim,) each."""
        return self._vectors

    def among(self, sources: Iterable[Source], *agents: str) -> dict[Source, Vector]:
        """Those of some agents among `sources`."""
        return {
            source: self._vectors[source]
            for source in sources
            if source[2] in agents and source in self._vectors
        }

    def add(self, statement: Statement, vector: Vector) -> None:
        """Keep the vector (dim,) that an agent has stated, where it was given: the empty one of a
        notice is none."""
        if statement.phase != self._charged:
            return
        if statement.agent != self._agent:
            self._latest[statement.agent] = statement.round
        if not len(vector):
            return
        place = place_of(statement)
        self._vectors.setdefault(place, vector)
        number, _, agent = place
        # Not what the own statement under way names: its sender may run ahead, truly or not.
        gone = number - ROUNDS_KEPT
        for old in [s for s in self._vectors if s[2] == agent and s[0] <= gone]:
            if old[0] not in (self._mixed, self._round) and not self._gone_on_from(old):
                del self._vectors[old]
        self._let_go()

    def begin(self, round_number: int, mixed: int | None = None) -> None:
        """A round has begun, from what was `mixed` in the round before, or in an earlier one: drop
        what no statement of it names."""
        self._round, self._mixed = round_number, round_number - 1 if mixed is None else mixed
        for old in [
            s for s in self._vectors if s[0] < self._mixed - BEFORE * (s[2] == self._agent)
        ]:
            if not self._gone_on_from(old):
                del self._vectors[old]

    def _gone_on_from(self, source: Source) -> bool:
        """Whether a neighbour that sits rounds out may still go on from a vector: it is of the last
        round that it has stated here, its own or this agent's."""
        number, _, agent = source
        if number < self._round - self._reached:
            return False
        return number in (
            [self._latest.get(agent)] if agent != self._agent else self._latest.values()
        )

    def _let_go(self) -> None:
        """Drop neighbours' vectors that this agent and they themselves have gone on from."""
        latest: dict[str, int] = {}
        for number, _, agent in self._vectors:
            latest[agent] = max(number, latest.get(agent, 0))
        own = latest.get(self._agent, 0)
        for old in [s for s in self._vectors if s[2] != self._agent]:
            if old[0] < min(own, latest[old[2]]):
                del self._vectors[old]
