"""Hearsay: heads of everyone's statements, passed on from neighbour to neighbour until two meet.

An agent may tell one neighbour one consistent history and another neighbour another. Where the two
have nobody in common, as on a ring, nobody sees both. So every agent tells its neighbours the first
head that it learns of each exchange of each agent, once. Between any two that were told different
things there are two neighbours on the way that learned different ones first, and each tells the
other: a proof of equivocation, as both heads are signed. Whoever would hide it must cut all ways.

The agent itself is told too: one that was restored from a backup learns what it has forgotten. Any
neighbour may name one head of an exchange and agent, and heads are kept for some rounds only, so
that there is no more than that to verify. Pure bookkeeping over `mechanisms.proofs`.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.evidence.statements import Head, SignedStatement, Source, place_of
from candor.mechanisms.proofs import Proof, equivocation
from candor.topologies.encoding.canonical import MalformedError, Value, pack, unpack

# Rounds behind and ahead of the own one: a head moves a neighbour further with every tick, and some
# agents are ahead of others by as many rounds as they are hops away.
ROUNDS_HEARD: Final = 32
MEMORY_BYTES_MAX: Final = 512


@dataclass(slots=True)
class _Round:
    """Of one round the first head of each exchange and agent, and which of them a neighbour has."""

    first: dict[Source, Head] = field(default_factory=dict)
    named: dict[str, set[Source]] = field(default_factory=lambda: defaultdict(set))


class Hearsay:
    """The heads that agent `agent` has learned, and what its neighbours `peers` are still to be
    told of them.

    `forgotten_round`: the last round of which a neighbour showed our own signature and this life
    has not stated yet, 0 where there is none.
    """

    def __init__(self, agent: str, terms: RunTerms, peers: Iterable[str]) -> None:
        self.forgotten_round = 0
        self._agent = agent
        self._terms = terms
        self._round = 0
        self._stated = (0, 0)  # round and phase
        self._rounds: dict[int, _Round] = defaultdict(_Round)
        self._news: dict[str, list[Head]] = {peer: [] for peer in peers}
        self._latest: dict[str, Head] = {}
        self._found: list[Proof] = []

    # --- what is learned ----------------------------------------------------------------------

    def stating(self, round_number: int, phase: int) -> None:
        """This agent states an exchange now, or knows that an earlier life has."""
        self._stated = (round_number, phase)

    def stated(self, signed: SignedStatement) -> None:
        """A neighbour's statement came, and its signature is verified."""
        self._learn(signed.head)

    def heard(self, peer: str, head: Head) -> None:
        """A neighbour names a head; nothing of it is verified."""
        place, public = place_of(head), self._terms.publics.get(head.agent)
        if public is None or not self._near(head.round):
            return
        held = self._rounds[head.round]
        if place in held.named[peer]:
            return
        held.named[peer].add(place)
        if head.agent == self._agent:
            self._recall(head)
        elif held.first.get(place) != head and head.run == self._terms.run and head.verify(public):
            self._learn(head)

    def recall(self, memory: bytes) -> None:
        """What a neighbour has of our own hand, or this agent of its neighbours' from an earlier
        life; anything else changes nothing."""
        try:
            match unpack(memory, bytes_max=MEMORY_BYTES_MAX):
                case [bytes(signed), bytes(signature)]:
                    head = Head.decode(signed, signature)
                case _:
                    return
        except MalformedError:
            return
        if head.agent == self._agent:
            self._recall(head)
        elif head.agent in self._news and head.verify(self._terms.publics[head.agent]):
            self._latest.setdefault(head.agent, head)

    def take(self) -> list[Proof]:
        """The proofs found since the last time."""
        found, self._found = self._found, []
        return found

    # --- what is told ---------------------------------------------------------------------------

    def memory(self, peer: str) -> bytes:
        """The head of a neighbour's latest exchange that is known here, for `recall`."""
        head = self._latest.get(peer)
        return pack([head.signed, head.signature]) if head is not None else b""

    def memories(self) -> list[Value]:
        """Those of all neighbours."""
        return [self.memory(peer) for peer in sorted(self._latest)]

    def news(self, peer: str) -> list[Head]:
        """What a neighbour has neither been told nor named itself; from now on it is told."""
        news, self._news[peer] = self._news[peer], []
        return [
            head
            for head in news
            if self._near(head.round)
            and place_of(head) not in self._rounds[head.round].named.get(peer, ())
        ]

    def forget(self, own_round: int) -> None:
        """The round under way is another: what is far from it goes."""
        if own_round != self._round:
            self._round = own_round
            for old in [number for number in self._rounds if not self._near(number)]:
                del self._rounds[old]

    # --------------------------------------------------------------------------------------------

    def _learn(self, head: Head) -> None:
        place, latest = place_of(head), self._latest.get(head.agent)
        if head.agent in self._news and (latest is None or place_of(latest) < place):
            self._latest[head.agent] = head
        if not self._near(head.round):
            return
        first = self._rounds[head.round].first.setdefault(place, head)
        if first is head:
            for news in self._news.values():
                news.append(head)
        elif (proof := equivocation(first, head)) is not None:
            self._found.append(proof)

    def _recall(self, head: Head) -> None:
        if (head.round, head.phase) <= self._stated or head.round <= self.forgotten_round:
            return  # it is of this life, or known
        own = (self._terms.run, self._agent)
        if (head.run, head.agent) == own and head.verify(self._terms.publics[self._agent]):
            self.forgotten_round = head.round

    def _near(self, round_number: int) -> bool:
        return abs(round_number - self._round) <= ROUNDS_HEARD
