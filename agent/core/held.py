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
        self._round = 1  # under way here

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
        if statement.phase != self._charged or not len(vector):
            return
        place = place_of(statement)
        self._vectors.setdefault(place, vector)
        number, _, agent = place
        # Not what the own statement under way names: its sender may run ahead, truly or not.
        gone = number - ROUNDS_KEPT
        for old in [s for s in self._vectors if s[2] == agent and s[0] <= gone]:
            if old[0] not in (self._round - 1, self._round):
                del self._vectors[old]
        self._let_go()

    def begin(self, round_number: int) -> None:
        """A round has begun: drop what no statement of it names."""
        self._round = round_number
        for old in [
            s for s in self._vectors if s[0] < round_number - 1 - BEFORE * (s[2] == self._agent)
        ]:
            del self._vectors[old]

    def _let_go(self) -> None:
        """Drop neighbours' vectors that this agent and they themselves have gone on from."""
        latest: dict[str, int] = {}
        for number, _, agent in self._vectors:
            latest[agent] = max(number, latest.get(agent, 0))
        own = latest.get(self._agent, 0)
        for old in [s for s in self._vectors if s[2] != self._agent]:
            if old[0] < min(own, latest[old[2]]):
                del self._vectors[old]
