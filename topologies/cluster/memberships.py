"""Who is in a run in which of its rounds, where members join and leave while it runs.

A revision that goes on with its run names the run by its first file's fingerprint, and says who was
in before, until which round, on which graph: so the last file tells the whole run, and whoever
judges a round goes by the membership of that round. A membership ends with a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from candor.topologies.graphs import graphs
from candor.topologies.schedules.round_weights import GraphSettings, RoundWeights
from candor.topologies.schedules.weights import Round
from candor.topologies.specs.fields import AgentId, Count, Hex64, Number, PublicKey
from candor.topologies.specs.files import Section
from candor.topologies.specs.specs import ConfigurationError

MEMBERSHIPS_MAX: Final = 1024
ROUNDS_CACHED: Final = 8


class Member(Section):
    """Who was in: its id, its identity, and the size that it had declared, if any."""

    id: AgentId
    identity: PublicKey
    weight: Number | None = None


class Membership(Section):
    """Who took part up to round `until`, in file order, and on which graph."""

    until: Count
    graph: GraphSettings
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=graphs.AGENTS_MAX)]


class Continued(Section):
    """What a revision goes on from: the `run`, by its first file's fingerprint, and who was in it
    `before`, the earliest first."""

    run: Hex64
    before: Annotated[tuple[Membership, ...], Field(min_length=1, max_length=MEMBERSHIPS_MAX)]

    @property
    def after(self) -> int:
        """The last round of the membership before the present one."""
        return self.before[-1].until

    def check(self, members: Sequence[Member], window: int, rounds: int) -> None:
        """Check that memberships end with a window of so many rounds, one after the other and
        before the run's last round, and that nobody ever takes another one's id.

        Raises:
            ConfigurationError: they do not.
        """
        ends = [membership.until for membership in self.before]
        if ends != sorted(set(ends)) or any(end % window for end in ends):
            raise ConfigurationError(
                f"continued: memberships end one after the other, each with a window of {window} "
                f"rounds, and not with {', '.join(map(str, ends))}"
            )
        if ends[-1] >= rounds:
            raise ConfigurationError(
                f"continued: the run has {rounds} rounds, none after {ends[-1]}"
            )
        known: dict[str, str] = {}
        for one in [*(m for held in self.before for m in held.members), *members]:
            if known.setdefault(one.id, one.identity) != one.identity:
                raise ConfigurationError(f"agent {one.id!r} was another one earlier in this run")


@dataclass(frozen=True, slots=True)
class Era:
    """The rounds of one membership: after `after`, up to `until`, which is None of the present
    one."""

    after: int
    until: int | None
    rounds: RoundWeights
    neighbours: Mapping[str, frozenset[str]]


class Memberships:
    """All memberships of a run, the present one last; in rounds in which an agent was not in it has
    no neighbours."""

    def __init__(
        self, present: RoundWeights, members: Sequence[Member], before: Sequence[Membership] = ()
    ) -> None:
        listed = [held.members for held in before] + [tuple(members)]
        self.identities = {one.id: one.identity for held in listed for one in held}
        """Of everyone who is or was in."""
        weights = [*map(_weights, before), present]
        ends = [held.until for held in before]
        self._eras = tuple(
            Era(after, until, rounds, self._neighbours(rounds))
            for after, until, rounds in zip([0, *ends], [*ends, None], weights, strict=True)
        )
        self._padded: dict[tuple[int, int], Round] = {}

    def of(self, t: int) -> Round:
        """The weights of round t, from 1."""
        era = self._era(t)
        if len(self._eras) == 1:
            return era.rounds.of(t)
        place = era.after, era.rounds.same_as(t)
        found = self._padded.get(place)
        if found is None:
            # Threads may race here; the loser's work is only repeated, never wrong.
            for old in sorted(self._padded)[: -(ROUNDS_CACHED - 1)]:
                self._padded.pop(old, None)
            found = self._padded[place] = self._everyone(era.rounds.of(t))
        return found

    def neighbours(self, t: int) -> Mapping[str, frozenset[str]]:
        """The neighbours of everyone in round t, from 1."""
        return self._era(t).neighbours

    def since(self, one: str, other: str) -> int:
        """The first round since which two neighbours are such without a break."""
        first = 1
        for era in self._eras:
            if other not in era.neighbours[one] and era.until is not None:
                first = era.until + 1
        return first

    def joined(self, agent: str) -> int:
        """The first round since which an agent has been in without a break; of one that is out by
        now, before it left."""
        first, was_in = 1, False
        for era in self._eras:
            is_in = agent in era.rounds.ids
            first = era.after + 1 if is_in and not was_in else first
            was_in = is_in
        return first

    def left(self, agent: str) -> int | None:
        """The last round of an agent that is out by now; None of who is in."""
        ends = [era.until for era in self._eras if agent in era.rounds.ids]
        return ends[-1]

    def ever(self, agent: str) -> tuple[str, ...]:
        """The ids, sorted, of whoever is or was a neighbour of an agent."""
        return tuple(sorted(set[str]().union(*(era.neighbours[agent] for era in self._eras))))

    @property
    def edges(self) -> frozenset[tuple[str, str]]:
        """All edges that there are or were, (lo, hi) each."""
        return frozenset(
            (agent, other)
            for era in self._eras
            for agent, around in era.neighbours.items()
            for other in around
            if agent < other
        )

    def _era(self, t: int) -> Era:
        return next(era for era in self._eras if era.until is None or t <= era.until)

    def _neighbours(self, rounds: RoundWeights) -> dict[str, frozenset[str]]:
        graph = graphs.make_graph(rounds.ids, rounds.settings.edges)
        found = dict.fromkeys(self.identities, frozenset[str]())
        return found | {agent: frozenset(graph[agent]) for agent in rounds.ids}

    def _everyone(self, weights: Round) -> Round:
        nobody: Mapping[str, float] = {}
        return Round(
            dict.fromkeys(self.identities, nobody) | dict(weights.taken),
            dict.fromkeys(self.identities, frozenset[str]()) | dict(weights.takers),
            dict.fromkeys(self.identities, 1.0) | dict(weights.mass),
        )


def _weights(held: Membership) -> RoundWeights:
    sizes = [one.weight for one in held.members if one.weight is not None]
    return RoundWeights([one.id for one in held.members], held.graph, sizes)
