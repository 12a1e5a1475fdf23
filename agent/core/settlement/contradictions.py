"""What may become proof: statements, claims and bills that this agent has met, as they were signed.

One half of a contradiction convicts nobody; the other half may come from another neighbour, inside
a bill or a record. Both are kept here until they meet, the newest within a bound of bytes. Pure
bookkeeping over `mechanisms.proofs`; what a proof leads to is `agent.core.reception`'s business.
"""

from collections.abc import Callable, Hashable
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import SignedStatement
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.proofs import TWO_BILLS, TWO_CLAIMS, Proof, Signed, contradiction

# A claim has about 10 KiB: those of a neighbourhood of neighbourhoods, for tens of windows.
SIGNED_BYTES_MAX: Final = 2**24
# A round of four neighbours, each with five sources, has about 200 KiB: windows of hundreds.
STATED_BYTES_MAX: Final = 2**26
# Windows for which statements that were never claimed are kept for their agent, which may come back
# without them: for as long as a claim is waited for.
UNCLAIMED_KEPT: Final = 16

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Place: TypeAlias = tuple[str, int, int]
"""Of a statement: agent, round and phase."""
Said: TypeAlias = tuple[SignedStatement, tuple[bytes, ...]]
"""A statement, and the bodies of those that it commits to."""


class Newest(Generic[K, V]):
    """The first value of each key: the oldest keys give way beyond `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._held: dict[K, tuple[V, int]] = {}

    def get(self, key: K) -> V | None:
        """The value of a key that is still held."""
        held = self._held.get(key)
        return None if held is None else held[0]

    def values(self) -> list[V]:
        """What is held, oldest first."""
        return [value for value, _ in self._held.values()]

    def items(self) -> list[tuple[K, V]]:
        """What is held, with its keys, oldest first."""
        return [(key, value) for key, (value, _) in self._held.items()]

    def keep(self, key: K, value: V, size_bytes: int) -> None:
        """Hold a value that takes `size_bytes`, unless there is one."""
        if key in self._held:
            return
        self._held[key] = (value, size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._held)))

    def forget(self, old: Callable[[K], bool]) -> None:
        """Let go of the keys that are `old`."""
        for key in [key for key in self._held if old(key)]:
            self._drop(key)

    def _drop(self, key: K) -> None:
        self._bytes -= self._held.pop(key)[1]


class Verifiable(Protocol):
    """A signed body."""

    @property
    def body(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...
    def verify(self, public: bytes) -> bool:
        """Whether `public` signed this body."""
        ...


class Collector:
    """The halves that agent `agent` holds against others; never against itself."""

    def __init__(self, agent: str, terms: RunTerms) -> None:
        self._agent = agent
        self._terms = terms
        self._signed: Newest[tuple[str, str, int], Signed] = Newest(SIGNED_BYTES_MAX)
        self._stated: Newest[Place, Said] = Newest(STATED_BYTES_MAX)
        self._found: list[Proof] = []

    def stated(self, signed: SignedStatement, sources: tuple[bytes, ...]) -> None:
        """A neighbour's update was accepted; `sources` are the bodies it commits to."""
        size_bytes = len(signed.body) + sum(map(len, sources))
        said = signed.statement
        self._stated.keep((said.agent, said.round, said.phase), (signed, sources), size_bytes)

    def said(self, agent: str, number: int) -> Said | None:
        """What a neighbour stated first in a round, with the bodies that it commits to."""
        return self._stated.get((agent, number, 0))

    def said_unclaimed(self, agent: str) -> list[Said]:
        """What a neighbour stated in windows of which no claim of its was met, as long as that is
        kept: it takes no more to claim them."""
        return [
            said
            for said in self._stated.values()
            if said[0].statement.agent == agent
            and not self._has_claimed(agent, self._window(said[0].statement.round))
        ]

    def keeps(self, agent: str, window: int) -> bool:
        """Whether anything is kept that an agent has stated in a window."""
        places = (place for place, _ in self._stated.items())
        return any(place[0] == agent and self._window(place[1]) == window for place in places)

    def claims_of(self, agent: str, after: int) -> list[Signed]:
        """The claims of an agent that were met, of windows beyond `after`."""
        return [
            signed
            for (kind, whose, window), signed in self._signed.items()
            if kind == TWO_CLAIMS and whose == agent and window > after
        ]

    def claimed(self, signed: SignedClaim) -> None:
        """A claim was met, whoever showed it."""
        claim = signed.claim()
        if claim.run == self._terms.run:
            self._meet(TWO_CLAIMS, claim.agent, claim.window, signed)

    def billed(self, signed: SignedBill) -> None:
        """A bill was met, with the claims that it was made of."""
        bill = signed.bill()
        if bill.run != self._terms.run:
            return
        self._meet(TWO_BILLS, bill.referee, bill.window, signed)
        for claim in signed.claims:
            if claim.claim().window == bill.window:
                self.claimed(claim)

    def refused(self, signed: SignedClaim) -> None:
        """A neighbour's claim, signed by it, was found false: look for the proof."""
        claim = signed.claim()
        stated = [
            (said, sources)
            for said, sources in self._stated.values()
            if said.statement.agent == claim.agent
            and self._window(said.statement.round) == claim.window
        ]
        proof = contradiction(signed, stated, self._terms)
        if proof is not None:
            self._found.append(proof)

    def forget(self, window: int) -> None:
        """Drop the statements of windows before this one: their claims are judged; those of windows
        that are not claimed later, as it takes them to claim these."""

        def old(place: Place) -> bool:
            agent, of = place[0], self._window(place[1])
            claimed = self._has_claimed(agent, of)
            return of < window if claimed else of < window - UNCLAIMED_KEPT

        self._stated.forget(old)

    def _has_claimed(self, agent: str, window: int) -> bool:
        return self._signed.get((TWO_CLAIMS, agent, window)) is not None

    def take(self) -> list[Proof]:
        """The proofs found since the last time."""
        found, self._found = self._found, []
        return found

    def _meet(self, kind: str, agent: str, window: int, signed: Verifiable) -> None:
        key, public = (kind, agent, window), self._terms.publics.get(agent)
        known = self._signed.get(key)
        if agent == self._agent or public is None or (known and known[0] == signed.body):
            return
        if not signed.verify(public):
            return  # anyone may have written it
        pair = (signed.body, signed.signature)
        if known is None:
            self._signed.keep(key, pair, len(signed.body))
        else:
            self._found.append(Proof(kind, agent, known, pair))

    def _window(self, round_number: int) -> int:
        return window_of(round_number, self._terms.window_rounds)
