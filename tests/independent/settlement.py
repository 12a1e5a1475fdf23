"""Claims and bills of an agent, and the ledgers of its edges: who is told what, and when."""

import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.independent import bills, claims, wire
from tests.independent.bills import Bill
from tests.independent.claims import Claim, Claimed
from tests.independent.ledger import Messages
from tests.independent.neighbour import Neighbour
from tests.independent.wire import Cluster, Refused

REPEAT_S = 1.0
WINDOWS_AHEAD_MAX = 64
CLAIM_WINDOWS = 3


class Settlement:
    """What agent `own` claims, bills and settles with its neighbours.

    `send` gets a neighbour, a kind and its fields; `meet` the code of whatever went wrong.
    """

    def __init__(
        self,
        cluster: Cluster,
        own: str,
        key: Ed25519PrivateKey,
        near: dict[str, Neighbour],
        send: Callable[..., None],
        meet: Callable[[str], None],
    ) -> None:
        self._cluster, self._own, self._key, self._near = cluster, own, key, near
        self._send, self._meet = send, meet
        self._claims: dict[int, Claim] = {}
        self._bills: dict[int, Bill] = {}
        self._claimed_at_s: dict[int, float] = {}

    def is_settled(self, peer: str) -> bool:
        """Whether every window that was claimed here is in the edge's ledger."""
        return self._near[peer].channel.settled >= max(self._claims, default=-1)

    def begin(self, peer: str, nonce: bytes) -> None:
        """A session was established."""
        self._tell(peer, self._near[peer].channel.begin(nonce))
        self._repeat(peer)

    def tick(self, now_s: float) -> None:
        """Bill what is due; repeat what is not answered."""
        self._bill(now_s)
        for peer, near in self._near.items():
            if near.nonce and now_s >= near.active_at_s + REPEAT_S:
                self._tell(peer, near.channel.repeated())
                self._repeat(peer)

    def claim(self, window: int, items: list[Claimed]) -> None:
        """A window is over here."""
        claim = claims.make(self._cluster, self._own, window, items, self._key)
        self._claims[window], self._claimed_at_s[window] = claim, time.monotonic()
        for peer in self._near:
            self._repeat(peer)
            self._check_claim(peer, window)
        self._bill(time.monotonic())

    def on_claim(self, peer: str, encoded: bytes) -> None:
        """Keep a neighbour's claim until the own one is made. Raises Refused."""
        near, claim = self._near[peer], Claim.parse(self._cluster, encoded)
        if claim.agent != peer:
            raise Refused("claim-signature")
        if claim.run != self._cluster.run:
            raise Refused("claim-run")
        here = max(self._claims, default=-1) + 1
        if claim.window <= near.channel.settled or claim.window >= here + WINDOWS_AHEAD_MAX:
            return
        if near.claims.setdefault(claim.window, claim).body != claim.body:
            raise Refused("claim-changed")
        self._check_claim(peer, claim.window)
        self._bill(time.monotonic())

    def on_bill(self, peer: str, bundle: bytes) -> None:
        """Check a neighbour's bill and settle the window with it. Raises Refused."""
        near, bill = self._near[peer], Bill.parse(self._cluster, bundle)
        if bill.referee != peer:
            raise Refused("bill-signature")
        if bill.window <= near.channel.settled or bill.previous > max(near.bills, default=-1):
            return  # done, or one before it is still on its way
        if near.bills.get(bill.window, bill).body != bill.body:
            raise Refused("bill-changed")
        known = {peer: near.claims.get(bill.window), self._own: self._claims.get(bill.window)}
        try:
            sent = {agent: claim for agent, claim in known.items() if claim}
            bills.check(self._cluster, bill, sent)
        except Refused as exc:
            self._send(peer, wire.REJECT, *near.channel.refusal(bill.digest, str(exc)))
            raise
        near.bills[bill.window] = bill
        self._settle(peer, bill.window)

    def on_ledger(self, peer: str, kind: int, fields: list) -> None:
        """A STATE, PROPOSE, ACCEPT, REJECT or RECORDS. Raises Refused."""
        channel = self._near[peer].channel
        if channel.closed:
            return
        answers: Messages = []
        match kind:
            case wire.STATE:
                answers = channel.state(*fields)
            case wire.RECORDS:
                answers = channel.adopt(fields)
            case wire.PROPOSE:
                answers = channel.propose(*fields)
            case wire.ACCEPT:
                answers = channel.accepted(*fields)
            case wire.REJECT:
                channel.rejected(*fields)
                self._meet(f"rejected-{channel.closed}")
        self._tell(peer, answers)

    def _check_claim(self, peer: str, window: int) -> None:
        """Once both claims are here; a refused one ends the edge."""
        near = self._near[peer]
        if window in self._claims and window in near.claims and window not in near.checked:
            try:
                seen = (near.injected, near.statements, near.wholes)
                claims.check(self._cluster, near.claims[window], *seen)
                near.checked.add(window)
            except Refused as exc:
                near.channel.closed = str(exc)
                self._meet(str(exc))

    def _bill(self, now_s: float) -> None:
        """Bill the next window when every neighbour seen in it has claimed, or is late."""
        window = max(self._bills, default=-1) + 1
        if window not in self._claims:
            return
        awaited = [
            peer
            for peer, near in self._near.items()
            if window not in near.checked
            and not near.channel.closed
            and any(self._cluster.window_of(t) == window for t in near.injected)
        ]
        soon = now_s < self._claimed_at_s[window] + 2 * self._cluster.deadline_s
        if awaited and soon and max(self._claims) < window + CLAIM_WINDOWS - 1:
            return
        members = [near.claims[window] for near in self._near.values() if window in near.checked]
        members.append(self._claims[window])
        bill = bills.make(self._cluster, self._own, window, window - 1, members, self._key)
        self._bills[window] = bill
        for peer in self._near:
            self._repeat(peer)
            self._settle(peer, window)
        self._bill(now_s)

    def _settle(self, peer: str, window: int) -> None:
        """Once both bills of a window are here, the ledger can hold their net."""
        near = self._near[peer]
        if window in self._bills and window in near.bills and window > near.channel.settled:
            both = (self._bills[window], near.bills[window])
            by_lo, by_hi = both if self._own < peer else both[::-1]
            self._tell(peer, near.channel.settle((by_lo, by_hi)))

    def _tell(self, peer: str, messages: Messages) -> None:
        self._near[peer].active_at_s = time.monotonic()
        for kind, fields in messages:
            self._send(peer, kind, *fields)

    def _repeat(self, peer: str) -> None:
        """The claims and bills of windows that the edge has not settled."""
        near = self._near[peer]
        if not near.nonce:
            return
        near.active_at_s = time.monotonic()
        for window, claim in self._claims.items():
            if window > near.channel.settled:
                self._send(peer, wire.CLAIM, claim.encoded)
                if window in self._bills:
                    self._send(peer, wire.BILL, self._bills[window].bundle)
