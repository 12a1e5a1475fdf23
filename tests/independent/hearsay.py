"""The heads of everyone's statements, passed on from neighbour to neighbour."""

from tests.independent.rounds import DOMAIN, Source, head_of
from tests.independent.wire import Cluster, Refused, fits, is_name, is_signed, pack

HEADS_MAX, ROUNDS_HEARD, MEMORY_BYTES_MAX = 256, 32, 512

Head = tuple[bytes, bytes]  # digest of a body and the signature


class Hearsay:
    """What agent `own` has learned, and what each neighbour is still to be told."""

    def __init__(self, cluster: Cluster, own: str) -> None:
        self._cluster, self._own = cluster, own
        self._first: dict[Source, Head] = {}
        self._named: dict[str, set[Source]] = {peer: set() for peer in cluster.neighbours[own]}
        self._latest: dict[str, Source] = {}

    def learn(self, source: Source, head: Head) -> None:
        """A head that is signed as it should be. Raises Refused where it is the second."""
        self._latest[source[-1]] = max(source, self._latest.get(source[-1], source))
        if self._first.setdefault(source, head)[0] != head[0]:
            raise Refused("equivocation")

    def on_heads(self, peer: str, here: int, number: int, phase: int, heads: list) -> None:
        """A neighbour names what it knows; `here` is the round under way. Raises Refused."""
        if len(heads) > HEADS_MAX:
            raise Refused("heads")
        for named in heads:
            if not fits(named, str, bytes, bytes) or not is_name(named[0]):
                raise Refused("fields")
            agent, digest, signature = named
            source = (number, phase, agent)
            if len(digest) != 32 or len(signature) != 64:
                raise Refused("fields")
            known = agent in self._cluster.agents and abs(number - here) <= ROUNDS_HEARD
            if not known or source in self._named[peer]:
                continue
            self._named[peer].add(source)
            head = head_of(self._cluster.run, source, digest)
            if not is_signed(self._cluster.public(agent), DOMAIN, head, signature):
                continue
            if agent != self._own:
                self.learn(source, (digest, signature))
            elif number > here:
                raise Refused("memory")  # of an earlier life; there is none here

    def memory(self, peer: str) -> bytes:
        """The latest head of a neighbour, for its HELLO."""
        if peer not in self._latest:
            return b""
        source = self._latest[peer]
        digest, signature = self._first[source]
        return pack([head_of(self._cluster.run, source, digest), signature])

    def news(self, peer: str, here: int) -> list[list]:
        """The fields of the HEADS that a neighbour has not been told, nor told itself."""
        told: dict[tuple[int, int], list[list]] = {}
        for source, head in self._first.items():
            if source not in self._named[peer] and abs(source[0] - here) <= ROUNDS_HEARD:
                self._named[peer].add(source)
                told.setdefault(source[:2], []).append([source[-1], *head])
        return [
            [*place, heads[at : at + HEADS_MAX]]
            for place, heads in told.items()
            for at in range(0, len(heads), HEADS_MAX)
        ]
