"""Settlement of all edges of one agent: claims made and checked, bills, and a channel an edge.

A window is claimed when its last round is over, settled with each neighbour once both claims are
here, and never twice: the channel sees to that. Pure: it answers with steps for the core, in order.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from agent.book import SEEN_BYTES_MAX, WINDOWS_KEPT, EvidenceBook
from agent.effects import Log, Persist, PutValue, ReadRecords
from mechanisms import ledger
from mechanisms.claims import Claim, SignedClaim, claim_bytes_max, heard_rounds
from mechanisms.credits import AmountError
from mechanisms.evidence import check_claim
from mechanisms.payments import Payments, edge_bills
from mechanisms.sketch import window_of
from mechanisms.statements import EvidenceError
from network.errors import RemoteProtocolError
from network.messages import ClaimMessage, LedgerMessage
from network.wire import Kind
from topologies.canonical import Value, pack, unpack
from topologies.signatures import SigningKey

# A proposal or a state without an answer is repeated this often; the first nearly always lands.
RESEND_S: Final = 1.0
# Claims of a neighbour that is ahead wait here until our own window is over, ours until settled.
CLAIMS_KEPT: Final = WINDOWS_KEPT

Step: TypeAlias = Persist | ReadRecords | Log | ClaimMessage | LedgerMessage


@dataclass(frozen=True, slots=True)
class ClaimStep:
    """A window that ended: what to persist before the claim is sent to every neighbour."""

    window: int
    persist: tuple[PutValue, ...]
    claim: bytes


@dataclass(slots=True)
class Edge:
    """The settlement state of one edge; `claims` are the neighbour's, by window."""

    channel: ledger.Channel
    public: bytes
    claims: dict[int, SignedClaim] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    handed: set[int] = field(default_factory=set)  # to the channel, which has not settled them yet
    refused: str | None = None  # why a claim was: whoever does not pay is not served
    over_limit: bool = False
    reading: bool = False  # records for the neighbour: one request at a time
    resend_s: float = 0.0
    open_since_s: float | None = None
    overdue: bool = False


class Settlement:
    """Claims and channels of agent `book.agent`, an edge a neighbour."""

    def __init__(
        self,
        key: SigningKey,
        book: EvidenceBook,
        payments: Payments,
        edges: Mapping[str, Edge],
        overdue_s: float,
    ) -> None:
        self._key = key
        self._book = book
        self._payments = payments
        self._edges = edges
        self._own: dict[int, SignedClaim] = {}
        self._next_window: int | None = None
        self._overdue_s = overdue_s
        limits = (edge.channel.terms.credit_limit for edge in edges.values())
        self._credit_limit = min(limits, default=0)

    # --- what the core asks -----------------------------------------------------------------

    @property
    def balance(self) -> int:
        """Micro-credits received net over all edges."""
        return sum(edge.channel.received for edge in self._edges.values())

    def edge_balance(self, agent: str) -> int:
        """Micro-credits received net from one neighbour."""
        return self._edges[agent].channel.received

    def barred(self, agent: str) -> str | None:
        """Why a neighbour is not served, or None: its ledger stopped or its credit is used up."""
        edge = self._edges[agent]
        if edge.refused is not None:
            return edge.refused
        if edge.overdue:
            return f"it has not settled window {edge.channel.settled_window + 1}"
        if edge.channel.status is not ledger.Status.OPEN:
            return f"ledger {edge.channel.status}: {edge.channel.reason}"
        return "credit limit reached" if edge.over_limit else None

    def settled(self, agent: str) -> bool:
        """Whether nothing is left to settle with a neighbour: a window in which it stated nothing
        that was seen here, as while it was away, is no debt of its."""
        edge = self._edges[agent]
        return edge.channel.idle and not any(
            window > edge.channel.settled_window
            and window not in edge.skipped
            and self._book.seen(agent, window).energies
            for window in self._own
        )

    # --- events -----------------------------------------------------------------------------

    def connected(
        self, agent: str, own_nonce: bytes, peer_nonce: bytes, now_s: float
    ) -> Sequence[Step]:
        """A session began: exchange ledger states, and claims that may have been lost."""
        edge = self._edges[agent]
        edge.resend_s = now_s + RESEND_S
        steps = self._steps(agent, edge.channel.connected(own_nonce, peer_nonce))
        return [*steps, *self._open_claims(edge)]

    def tick(self, agent: str, now_s: float) -> Sequence[Step]:
        """Repeat what the neighbour has not answered."""
        edge = self._edges[agent]
        if self.settled(agent):
            edge.open_since_s, edge.overdue = None, False
            return []
        if edge.open_since_s is None:
            edge.open_since_s = now_s
        # Whoever does not claim, propose or accept does not pay, and is not served until it does.
        edge.overdue = now_s - edge.open_since_s > self._overdue_s
        if now_s < edge.resend_s:
            return []
        edge.resend_s = now_s + RESEND_S
        return [*self._open_claims(edge), *self._steps(agent, edge.channel.resend())]

    def received(
        self, agent: str, kind: Kind, fields: Sequence[Value], now_s: float
    ) -> Sequence[Step]:
        """A ledger message.

        Raises:
            RemoteProtocolError, MalformedError: the peer's fault; nothing has changed.
        """
        edge = self._edges[agent]
        message = ledger.parse_message(kind.name, fields)
        try:
            effects = edge.channel.received_from_peer(message)
        except ledger.LedgerViolation as exc:
            raise RemoteProtocolError(f"ledger-{exc.code}", exc.detail) from exc
        edge.resend_s = now_s + RESEND_S
        return self._steps(agent, effects)

    def records_read(self, agent: str, records: list[ledger.Record]) -> Sequence[Step]:
        """The answer to `ReadRecords`."""
        edge = self._edges[agent]
        edge.reading = False
        return self._steps(agent, edge.channel.records_read(records))

    def claimed(self, agent: str, data: bytes, now_s: float) -> Sequence[Step]:
        """A neighbour's claim: kept until our own window is over, then held against the evidence.

        Raises:
            RemoteProtocolError, MalformedError: not its claim, or a second one that differs.
        """
        edge = self._edges[agent]
        terms = self._book.examiner.terms
        neighbours = len(terms.mixing[agent])
        bytes_max = claim_bytes_max(terms.window_rounds, neighbours, terms.sketch_bytes)
        signed = SignedClaim.decode(data, bytes_max=bytes_max)
        claim = signed.claim()
        if claim.agent != agent or not signed.verify(edge.public):
            raise RemoteProtocolError("claim-signature", f"not {agent}'s")
        known_windows = edge.skipped | edge.handed
        if claim.window <= edge.channel.settled_window or claim.window in known_windows:
            return []
        if not self._wanted(claim.window):
            return [_log(logging.DEBUG, "claim_ignored", peer=agent, window=claim.window)]
        known = edge.claims.setdefault(claim.window, signed)
        if known.body != signed.body:
            raise RemoteProtocolError("claim-changed", f"window {claim.window}")
        return self.settle(agent, now_s)

    def round_over(self, round_number: int, rounds: int) -> list[ClaimStep]:
        """Own claims of the windows that end with this round, or were jumped over by a re-entry."""
        if not self._payments.settles:
            return []
        window_rounds = self._book.examiner.terms.window_rounds
        window = window_of(round_number, window_rounds)
        if self._next_window is None:
            self._next_window = window
        over = round_number == rounds or window_of(round_number + 1, window_rounds) != window
        steps = [
            self._claim(ended)
            for ended in range(self._next_window, window + over)
            if ended not in self._own and self._book.seen(self._book.agent, ended).energies
        ]
        self._next_window = window + over
        for edge in self._edges.values():
            edge.claims = {w: c for w, c in edge.claims.items() if self._wanted(w)}
        return steps

    def settle(self, agent: str, now_s: float) -> Sequence[Step]:
        """Settle with a neighbour, in order, the windows for which both claims are here."""
        edge = self._edges[agent]
        steps: list[Step] = []
        edge.handed = {w for w in edge.handed if w > edge.channel.settled_window}
        for window in sorted(self._own):
            done = window <= edge.channel.settled_window or window in edge.skipped | edge.handed
            if not done and window in edge.claims:
                steps += self._settle_window(agent, edge, window)
                del edge.claims[window]
            elif not done and self._book.seen(agent, window).energies:
                break  # in order: it stated rounds there, so its claim will come
        if steps:
            edge.resend_s = now_s + RESEND_S
        return steps

    def too_large(self, energy: float) -> bool:
        """Whether an update of this energy could not be paid for within an edge's credit, if every
        round of a window were like it: such an update must not reach the model."""
        if not self._payments.settles:
            return False
        terms = self._book.examiner.terms
        direction = np.zeros((1, terms.sketch_bytes // 8))
        try:
            amounts = self._payments.amounts(np.array([energy * terms.window_rounds]), direction)
        except AmountError:
            return True
        return bool(amounts[0] > self._credit_limit)

    @property
    def settles(self) -> bool:
        """Whether the rule asks for anything: without, no claims are made."""
        return self._payments.settles

    def take_over(self, snapshot: bytes) -> tuple[PutValue, ...]:
        """Claim the window in which an earlier life ended, from its last snapshot; answers what to
        persist before the claim is sent. A restarted agent sits out the rest of that window.

        Raises:
            MalformedError: our own file is damaged.
        """
        window = self._book.window_of_snapshot(snapshot)
        if window in self._own or not self._payments.settles:
            return ()  # claimed already, with evidence that is more complete than the snapshot's
        self._book.restore(snapshot)
        return self._claim(window).persist

    def restore(self, window: int, data: bytes) -> None:
        """Take back the claim of an earlier life, with the evidence it kept for its neighbours'."""
        match unpack(data, bytes_max=2 * SEEN_BYTES_MAX):
            case [bytes(claim), bytes(seen)]:
                self._own[window] = SignedClaim.decode(claim)
                self._book.restore_seen(window, seen)

    # --- inside -----------------------------------------------------------------------------

    def _wanted(self, window: int) -> bool:
        """Whether a neighbour's claim can still be settled: a window open here, or claimed."""
        coming = self._next_window or 0
        return window in self._own or coming <= window < coming + CLAIMS_KEPT

    def _claim(self, window: int) -> ClaimStep:
        signed = SignedClaim.sign(self._book.claim(window), self._key)
        self._own[window] = signed
        self._forget_settled(window)
        claim = signed.encode()
        stored = pack([claim, self._book.encode_seen(window)])
        return ClaimStep(window, (PutValue(claim_key(window), stored),), claim)

    def _open_claims(self, edge: Edge) -> list[ClaimMessage]:
        """Own claims that an edge has not settled yet, oldest first."""
        return [
            ClaimMessage(claim.encode())
            for window, claim in sorted(self._own.items())
            if window > edge.channel.settled_window and window not in edge.skipped
        ]

    def _forget_settled(self, window: int) -> None:
        """Own claims that every edge has settled, or that are far behind, are not needed again."""
        done = min((e.channel.settled_window for e in self._edges.values()), default=window)
        for old in [w for w in self._own if w <= done or w < window - CLAIMS_KEPT]:
            del self._own[old]

    def _settle_window(self, agent: str, edge: Edge, window: int) -> Sequence[Step]:
        own, theirs = self._own[window], edge.claims[window]
        try:
            self._check(agent, own.claim(), theirs.claim())
            lo, hi = (own, theirs) if self._book.agent < agent else (theirs, own)
            bills = edge_bills(self._payments, lo, hi)
        except (EvidenceError, AmountError) as exc:
            edge.skipped.add(window)
            edge.refused = f"claim of window {window} refused: {exc}"
            refused = _log(
                logging.WARNING, "claim_refused", peer=agent, window=window, detail=str(exc)
            )
            return [refused, *self._steps(agent, edge.channel.skip(window))]
        edge.handed.add(window)
        claims = (lo.encode(), hi.encode())
        settled = edge.channel.settle(window, bills.delta, bills.bill_lo, bills.bill_hi, claims)
        return self._steps(agent, settled)

    def _check(self, agent: str, own: Claim, claim: Claim) -> None:
        seen = self._book.seen(agent, claim.window)
        unseen = set(heard_rounds(own, claim)) - set(seen.energies)
        if unseen:
            raise EvidenceError("claim-unseen", f"no evidence here of round {min(unseen)}")
        left_out = set(seen.energies) - {entry.round for entry in claim.rounds}
        if left_out:
            raise EvidenceError("claim-incomplete", f"round {min(left_out)} was stated")
        claimed = {entry.round for entry in claim.rounds}
        whole = seen.direction is not None and claimed == set(seen.energies)
        direction = np.asarray(seen.direction) if whole else None
        check_claim(claim, self._book.examiner.terms, seen.energies, direction, seen.heard)

    def _steps(self, agent: str, effects: Sequence[ledger.Effect]) -> list[Step]:
        return [step for effect in effects for step in self._step(agent, effect)]

    def _step(self, agent: str, effect: ledger.Effect) -> list[Step]:
        match effect:
            case (
                ledger.StorePending()
                | ledger.StoreRecord()
                | ledger.StoreRefusal()
                | ledger.StorePayment()
                | ledger.StoreStatus()
            ):
                return [Persist((effect,))]
            case ledger.ReadRecords(channel_id, first, count):
                if self._edges[agent].reading:
                    return []
                self._edges[agent].reading = True
                return [ReadRecords(agent, channel_id, first, count)]
            case ledger.Transmit(message):
                return [LedgerMessage(Kind[message.kind], message.to_fields())]
            case ledger.Settled(seq, window, delta, balance):
                self._edges[agent].over_limit = False  # told again if the next one is beyond it
                fields = {"seq": seq, "window": window, "delta": delta, "balance_lo_paid": balance}
                return [_log(logging.INFO, "settled", peer=agent, **fields)]
            case ledger.Paid(seq, delta, balance):
                self._edges[agent].over_limit = False
                fields = {"seq": seq, "delta": delta, "balance_lo_paid": balance}
                return [_log(logging.INFO, "paid", peer=agent, **fields)]
            case ledger.PaymentAwaited(delta):
                return [_log(logging.WARNING, "payment_awaited", peer=agent, delta=delta)]
            case ledger.OverLimit(window, balance):
                own_lo = self._book.agent < agent
                # The neighbour that owes is no longer served; the one that is owed to goes on.
                self._edges[agent].over_limit = (balance < 0) if own_lo else (balance > 0)
                return [
                    _log(
                        logging.WARNING,
                        "credit_limit",
                        peer=agent,
                        window=window,
                        balance_lo_paid=balance,
                    )
                ]
            case ledger.Disputed(code):
                return [_log(logging.ERROR, "ledger_disputed", peer=agent, code=code)]
            case ledger.Refused(code, attempt):
                return [
                    _log(logging.WARNING, "ledger_refused", peer=agent, code=code, attempt=attempt)
                ]
            case ledger.PeerRejected(code, attempt):
                event = "ledger_rejected_by_peer"
                return [_log(logging.WARNING, event, peer=agent, code=code, attempt=attempt)]
            case ledger.Froze(reason, proof):
                bodies = pack([[body, signature] for body, signature in proof])
                return [
                    Persist((PutValue(f"proof/{agent}", bodies),)),
                    _log(logging.ERROR, "ledger_frozen", peer=agent, reason=reason),
                ]
            case ledger.Ignored(code):
                return [_log(logging.DEBUG, "ledger_ignored", peer=agent, code=code)]


def claim_key(window: int) -> str:
    """Where an own claim is kept in the store."""
    return f"claim/{window}"


def _log(level: int, event: str, **fields: str | int | float) -> Log:
    return Log(level, event, fields)
