"""The ledger of one edge: a hash chain that both ends sign, kept by two equal state machines.

States
    status   open -> disputed (refusals left nothing to propose) or frozen (the chains contradict
             each other)
    session  none -> syncing (`connected`) -> synced (the peer's equal STATE was seen); a proposal
             is made or accepted only when synced, so an end that lost records catches up first
    pending  at most one own proposal, stored before it is sent, resent byte for byte
    held     at most one proposal of the peer for what is not settled here yet
    due      settlements computed here, by window, that no record holds yet
    payment  what the owing end has paid outside the system, as this end was told; stored
    attempts every proposal that was refused, on either side, with its REJECT; stored

Events    `connected`, `settle`, `skip`, `pay`, `received_from_peer`, `records_read`, `resend`. Each
          returns effects to be performed in order. A peer's fault raises and changes nothing.

Invariants
    Record seq is proposed by lo when even and by hi when odd; record 0 is the genesis.
    Numbers are contiguous, each body names the hash before it, balance_after = previous + delta.
    |balance_after| <= credit limit. Windows ascend; one that an end skipped is never settled.
    A payment takes the balance towards 0 and not past it; both ends were told of it.
    One (seq, attempt) is signed with one body only: stored bytes are sent, never rebuilt. Only a
    REJECT that is stored opens the next attempt; what it refused is never accepted later.
    The two chains differ by at most one record, which the proposer has not seen accepted.

A proposal waits in `held` until its window is settled here too, so the driver exchanges claims
reliably, and calls `skip` for a window that it has refused to settle. A refused window is proposed
again once a later one is due here, so that a neighbour has that long to catch up.
No clock, no disk, no socket here.
"""

from typing import assert_never

from candor.mechanisms.ledger.attempts import (
    CODE_CREDIT_LIMIT,
    CODE_DISPUTED,
    CODE_MISMATCH,
    CODE_OLD,
    CODE_ORDER,
    CODE_PAYMENT,
    CODE_SKIPPED,
    CODE_UNTOLD,
    Attempts,
)
from candor.mechanisms.ledger.attempts import Refusal as Refusal
from candor.mechanisms.ledger.bodies import (
    GENESIS,
    GENESIS_WINDOW,
    NO_HASH,
    NONCE_BYTES,
    PAYMENT,
    SETTLEMENT,
    Body,
    Position,
    check_successor,
    pays_off,
)
from candor.mechanisms.ledger.bodies import ChannelTerms as ChannelTerms
from candor.mechanisms.ledger.bodies import LedgerViolation as LedgerViolation
from candor.mechanisms.ledger.chain import Chain
from candor.mechanisms.ledger.effects import ChannelState as ChannelState
from candor.mechanisms.ledger.effects import Disputed as Disputed
from candor.mechanisms.ledger.effects import Effect as Effect
from candor.mechanisms.ledger.effects import Froze as Froze
from candor.mechanisms.ledger.effects import Ignored as Ignored
from candor.mechanisms.ledger.effects import OverLimit as OverLimit
from candor.mechanisms.ledger.effects import Paid as Paid
from candor.mechanisms.ledger.effects import PaymentAwaited as PaymentAwaited
from candor.mechanisms.ledger.effects import PeerRejected as PeerRejected
from candor.mechanisms.ledger.effects import Pending as Pending
from candor.mechanisms.ledger.effects import ReadRecords as ReadRecords
from candor.mechanisms.ledger.effects import Refused as Refused
from candor.mechanisms.ledger.effects import Settled as Settled
from candor.mechanisms.ledger.effects import Status as Status
from candor.mechanisms.ledger.effects import StoreChange as StoreChange
from candor.mechanisms.ledger.effects import StorePayment as StorePayment
from candor.mechanisms.ledger.effects import StorePending as StorePending
from candor.mechanisms.ledger.effects import StoreRecord as StoreRecord
from candor.mechanisms.ledger.effects import StoreRefusal as StoreRefusal
from candor.mechanisms.ledger.effects import StoreStatus as StoreStatus
from candor.mechanisms.ledger.effects import Transmit as Transmit
from candor.mechanisms.ledger.messages import (
    RECORDS_MAX,
    Accept,
    Propose,
    Records,
    Reject,
    StateMessage,
)
from candor.mechanisms.ledger.messages import Message as Message
from candor.mechanisms.ledger.messages import parse_message as parse_message
from candor.mechanisms.ledger.records import (
    Evidence,
    bill_digests,
    sign_acceptance,
    sign_proposal,
    verify_acceptance,
    verify_proposal,
)
from candor.mechanisms.ledger.records import Record as Record
from candor.mechanisms.payments.credits import AMOUNT_MAX
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey


class Channel:
    """One end of an edge.

    Args:
        terms: of the edge; `key` must be one of its two.
        state: what the store holds of this channel; nothing for a new one.
    """

    def __init__(
        self, terms: ChannelTerms, key: SigningKey, state: ChannelState | None = None
    ) -> None:
        if key.public not in (terms.public_lo, terms.public_hi):
            raise ValueError(f"the key is not of the edge {terms.lo}-{terms.hi}")
        state = state or ChannelState()
        self.terms = terms
        self.channel_id = terms.channel_id
        self.status = state.status
        self.reason = state.reason
        self.synced = False
        self.restored = False  # the peer had records that this end does not know to have signed
        self._key = key
        self._is_lo = key.public == terms.public_lo
        self._peer = terms.public_hi if self._is_lo else terms.public_lo
        self._chain = Chain(terms, state.heads, state.last)
        self._pending = state.pending
        self._held: Propose | None = None
        self._skipped: set[int] = set()
        self._due: dict[int, tuple[int, Evidence]] = {}
        # What is signed is what this end was told, whatever has been told since.
        self._payment = self._pending_payment() or state.payment
        self._attempts = Attempts(state.refusals)
        self._over_limit_window = GENESIS_WINDOW
        self._nonces: tuple[bytes, bytes] | None = None  # own, peer

    @property
    def position(self) -> Position:
        """Where this end's chain stands."""
        return self._chain.position

    @property
    def received(self) -> int:
        """Micro-credits that this end has received net, in settled windows."""
        return -self.position.balance if self._is_lo else self.position.balance

    @property
    def settled_window(self) -> int:
        """The last settled window; after a restart, give the later ones to `settle` again."""
        return self.position.window

    @property
    def payment(self) -> int:
        """The delta of the payment that this end was told of and no record holds, or 0."""
        return self._payment

    @property
    def idle(self) -> bool:
        """Whether the chain is open, synced and complete: nothing due, pending or held."""
        waiting = self._pending is not None or self._held is not None or bool(self._due)
        return self.status is Status.OPEN and self.synced and not waiting and self.position.seq >= 0

    @property
    def paying(self) -> bool:
        """Whether a payment outside the system is proposed and waits for an answer."""
        waiting = [one.body for one in (self._pending, self._held) if one is not None]
        return any(Body.decode(body).kind == PAYMENT for body in waiting)

    def connected(self, own_nonce: bytes, peer_nonce: bytes) -> list[Effect]:
        """A session with the peer began: exchange states before anything else."""
        if len(own_nonce) != NONCE_BYTES or len(peer_nonce) != NONCE_BYTES:
            raise ValueError(f"nonces take {NONCE_BYTES} bytes")
        self._nonces = (own_nonce, peer_nonce)
        self.synced = False
        self._held = None  # the peer resends what it still has pending
        return [self._state(peer_nonce, answer_wanted=True)]

    def settle(self, window: int, delta: int, bundle_lo: bytes, bundle_hi: bytes) -> list[Effect]:
        """Settle a window: `delta` as `payments.edge_delta` gives it from the bundles of referee lo
        and referee hi. A window that is not after the last settled one is ignored."""
        if window <= self.position.window:
            return [Ignored("window-settled")]
        if window in self._skipped:
            return [Ignored(CODE_SKIPPED)]
        self._due[window] = (delta, (bundle_lo, bundle_hi))
        return self._advance()

    def skip(self, window: int) -> list[Effect]:
        """This end will never settle `window`: refuse a proposal for it instead of holding it."""
        self._due.pop(window, None)
        self._skipped.add(window)
        return self._advance()

    def pay(self, delta: int) -> list[Effect]:
        """This end is told of a payment outside the system; it is kept over restarts and put on
        record when the other end is told the same.

        Args:
            delta: micro-credits, as of a record: below 0 when lo has paid hi, which takes down a
                balance above 0; above 0 when hi has paid lo. It waits while it would take the
                balance past 0. 0: there is no payment after all; one that is held is refused.
        """
        if abs(delta) > AMOUNT_MAX:
            raise ValueError(f"a payment of {delta} micro-credits is out of range")
        if self._pending_payment():
            return [Ignored("payment-pending")]  # it is signed: only the peer can refuse it now
        effects: list[Effect] = []
        if delta != self._payment:
            self._payment = delta
            effects.append(StorePayment(self.channel_id, delta))
        held = self._held
        if delta == 0 and held is not None and Body.decode(held.body).kind == PAYMENT:
            return effects + self._refuse(held, CODE_PAYMENT)
        return effects + self._advance()

    def _pending_payment(self) -> int:
        """The delta of a payment in the own proposal that waits for an answer, or 0."""
        body = Body.decode(self._pending.body) if self._pending is not None else None
        return body.delta if body is not None and body.kind == PAYMENT else 0

    def resend(self) -> list[Effect]:
        """The driver's timer: repeat what the peer has not answered."""
        if self._nonces is None or self.status is Status.FROZEN:
            return []
        if not self.synced:
            return [self._state(self._nonces[1], answer_wanted=True)]
        return self._resend_pending()

    def received_from_peer(self, message: Message) -> list[Effect]:
        """A message of the peer's, in the present session.

        Raises:
            MalformedError: bytes inside it that are not what they should be.
            LedgerViolation: it is not allowed; nothing has changed.
        """
        if self._nonces is None:
            return [Ignored("no-session")]
        if isinstance(message, StateMessage):
            return self._on_state(message, *self._nonces)
        if self.status is Status.FROZEN:
            return [Ignored("frozen")]
        match message:
            case Propose():
                return self._on_propose(message)
            case Accept():
                return self._on_accept(message)
            case Reject():
                return self._on_reject(message)
            case Records():
                return self._on_records(message)
            case _:
                assert_never(message)

    def records_read(self, records: list[Record]) -> list[Effect]:
        """The answer to `ReadRecords`."""
        return [Transmit(Records.fitting(records))] if records else []

    # Catching up

    def _state(self, peer_nonce: bytes, *, answer_wanted: bool) -> Transmit:
        seq, head = self.position.seq, self.position.head
        return Transmit(
            StateMessage.sign(
                self._key, self.channel_id, peer_nonce, seq, head, answer_wanted=answer_wanted
            )
        )

    def _on_state(self, message: StateMessage, own_nonce: bytes, peer_nonce: bytes) -> list[Effect]:
        if message.echoed_nonce != own_nonce:
            return [Ignored("state-of-another-session")]
        if not message.verify(self._peer, self.channel_id):
            raise LedgerViolation("state-signature", "not the peer's")
        effects: list[Effect] = []
        if message.answer_wanted:
            effects.append(self._state(peer_nonce, answer_wanted=False))
        if self.status is Status.FROZEN:
            return effects
        if message.seq > self.position.seq:
            self.synced = False  # the peer sends RECORDS when it learns where this end stands
            return effects
        if self._chain.head_at(message.seq) != message.head:
            return effects + self._freeze("heads-conflict")
        if message.seq < self.position.seq:
            return [*effects, ReadRecords(self.channel_id, message.seq + 1, RECORDS_MAX)]
        if self.synced:
            return effects
        self.synced = True
        return effects + self._resend_pending() + self._advance()

    def _on_records(self, message: Records) -> list[Effect]:
        adopted, conflicting = self._chain.examine(message.records)
        conflicting = conflicting or self._contradicts_pending(adopted)
        if conflicting is not None:
            return self._freeze("records-conflict", ((conflicting.body, conflicting.sig_p),))
        if not adopted and self.synced:
            return [Ignored("known-records")]
        effects: list[Effect] = []
        # After a crash the one that is pending at most; more, or another, is a restored backup.
        pending = self._pending.body if self._pending is not None else None
        self.restored = self.restored or any(record.body != pending for record in adopted)
        for record in adopted:
            effects += self._commit(record)
        self.synced = False
        assert self._nonces is not None
        return [*effects, self._state(self._nonces[1], answer_wanted=True)]

    def _contradicts_pending(self, adopted: list[Record]) -> Record | None:
        """The record that took the place of the pending proposal with another body.

        A later attempt does not: this end signed it after the pending one was refused, and has
        forgotten both with a restored backup.
        """
        pending = self._pending
        if pending is None or not adopted or adopted[0].body == pending.body:
            return None
        first = adopted[0]  # a pending proposal is always the successor of the last record
        later = Body.decode(first.body).attempt > Body.decode(pending.body).attempt
        return None if later else first

    # Settling

    def _advance(self) -> list[Effect]:
        """Whatever the state allows next: accept what is held, or propose what is due."""
        if self.status is not Status.OPEN or not self.synced or self._pending is not None:
            return []
        if self._held is not None:
            return self._judge(self._held)
        my_turn = self.terms.proposer(self.position.seq + 1) == self._key.public
        if self.position.seq < 0:
            return self._propose(GENESIS, GENESIS_WINDOW, 0, ()) if my_turn else []
        untold = self._attempts.untold(self.position.seq + 1)
        if my_turn and not untold and pays_off(self.position.balance, self._payment):
            return self._propose(PAYMENT, self.position.window, self._payment, ())
        if not self._due:
            return []
        window = min(self._due)
        delta, evidence = self._due[window]
        if not self._can_settle():
            return self._report_over_limit(window, self.position.balance + delta)
        if not my_turn or self._waits_for_peer(window):
            return []
        return self._propose(SETTLEMENT, window, delta, evidence)

    def _can_settle(self) -> bool:
        """Whether a window is due, and the lowest of them within the credit limit."""
        if not self._due:
            return False
        delta, _ = self._due[min(self._due)]
        return self._within_limit(self.position.balance + delta)

    def _waits_for_peer(self, window: int) -> bool:
        """Whether the peer has refused this window and no later one has become due since."""
        refused = self._attempts.refused_windows(self.position.seq + 1)
        return window in refused and window == max(self._due)

    def _within_limit(self, balance: int) -> bool:
        return abs(balance) <= self.terms.credit_limit

    def _report_over_limit(self, window: int, balance: int) -> list[Effect]:
        if window == self._over_limit_window:
            return []
        self._over_limit_window = window
        return [OverLimit(window, balance)]

    def _propose(self, kind: str, window: int, delta: int, evidence: Evidence) -> list[Effect]:
        assert self._nonces is not None
        own, peer = self._nonces
        seq = self.position.seq + 1
        bill_lo, bill_hi = bill_digests(evidence) if evidence else (NO_HASH, NO_HASH)
        body = Body(
            channel_id=self.channel_id,
            seq=seq,
            attempt=self._attempts.due(seq),
            prev=self.position.head,
            proposer=self._key.public,
            window=window,
            kind=kind,
            delta=delta,
            balance_after=self.position.balance + delta,
            bill_digest_lo=bill_lo,
            bill_digest_hi=bill_hi,
            nonce_lo=own if self._is_lo else peer,
            nonce_hi=peer if self._is_lo else own,
        ).encode()
        sig_p = sign_proposal(self._key, body)
        self._pending = Pending(body, sig_p, evidence)
        return [
            StorePending(self.channel_id, body, sig_p, evidence),
            Transmit(Propose(body, sig_p)),
        ]

    def _resend_pending(self) -> list[Effect]:
        if self._pending is None or self.status is not Status.OPEN:
            return []
        return [Transmit(Propose(self._pending.body, self._pending.sig_p))]

    def _on_propose(self, message: Propose) -> list[Effect]:
        body = Body.decode(message.body)
        if body.channel_id != self.channel_id:
            raise LedgerViolation("channel", "the proposal is of another channel")
        if body.proposer != self._peer or self.terms.proposer(body.seq) != self._peer:
            raise LedgerViolation("proposer", f"record {body.seq} is not the peer's to propose")
        if not verify_proposal(self._peer, message.body, message.sig_p):
            raise LedgerViolation("sig-p", "not the proposer's signature")
        refusal = self._attempts.find(body.seq, body.attempt)
        if refusal is not None:
            return self._on_refused_proposal(refusal, message)
        if body.seq <= self.position.seq:
            return self._on_known_proposal(body, message)
        if self.status is Status.DISPUTED:
            return [Transmit(self._rejection(message, CODE_DISPUTED))]
        if not self.synced or body.seq > self.position.seq + 1:
            return [Ignored("proposal-before-sync")]
        check_successor(self.terms, self.position, body)
        if body.attempt < self._attempts.due(body.seq):
            return self._refuse(message, CODE_OLD)  # restored backups: this end's, then the peer's
        if self._held is not None and self._held.body != message.body:
            return self._on_second_proposal(self._held, body, message)
        # An attempt above the one due here is the peer's answer to a REJECT that this end sent and
        # has forgotten with a restored backup: nothing was settled by it.
        if not self._within_limit(body.balance_after):
            return self._refuse(message, CODE_CREDIT_LIMIT)
        repeated, self._held = self._held is not None, message
        untold = body.kind == PAYMENT and not self._payment and not repeated
        return [*([PaymentAwaited(body.delta)] if untold else []), *self._advance()]

    def _on_refused_proposal(self, refusal: Refusal, message: Propose) -> list[Effect]:
        if refusal.body != message.body:
            return self._freeze_double(Propose(refusal.body, refusal.sig_p), message)
        reject = Reject(sha256(refusal.body), refusal.code, refusal.signature)
        return [Transmit(reject)]

    def _on_second_proposal(self, held: Propose, body: Body, message: Propose) -> list[Effect]:
        """Another body than the one held: what is held was not refused, so it must not come."""
        if Body.decode(held.body).attempt == body.attempt:
            return self._freeze_double(held, message)
        if Body.decode(held.body).attempt > body.attempt:
            return [Ignored(CODE_OLD)]
        raise LedgerViolation("attempt", "the one before it was not refused")

    def _on_known_proposal(self, body: Body, message: Propose) -> list[Effect]:
        head = sha256(message.body)
        last = self._chain.last
        assert last is not None
        if self._chain.head_at(body.seq) == head:
            is_last = body.seq == self.position.seq
            return [Transmit(Accept(head, last.sig_a)) if is_last else Ignored("old-proposal")]
        if body.seq < self.position.seq:
            return self._freeze("conflicting-proposal", ((message.body, message.sig_p),))
        if body.attempt < Body.decode(last.body).attempt:
            return [Ignored(CODE_OLD)]
        return self._freeze_double(Propose(last.body, last.sig_p), message)

    def _judge(self, proposal: Propose) -> list[Effect]:
        """Accept or refuse a proposal that fits the chain, once its window is settled here."""
        body = Body.decode(proposal.body)
        if body.kind == PAYMENT:
            if not self._payment:  # it must not keep what can be settled waiting
                return self._refuse(proposal, CODE_UNTOLD) if self._can_settle() else []
            if body.delta != self._payment:
                return self._refuse(proposal, CODE_PAYMENT)
        if body.kind != SETTLEMENT:
            return self._accept(proposal, ())
        if body.window in self._skipped:
            return self._refuse(proposal, CODE_SKIPPED)
        if body.window not in self._due:
            return []
        if any(delta for window, (delta, _) in self._due.items() if window < body.window):
            return self._refuse(proposal, CODE_ORDER)  # it passes over one that it may owe
        delta, evidence = self._due[body.window]
        digests = bill_digests(evidence)
        if (body.delta, body.bill_digest_lo, body.bill_digest_hi) != (delta, *digests):
            return self._refuse(proposal, CODE_MISMATCH)
        return self._accept(proposal, evidence)

    def _accept(self, proposal: Propose, evidence: Evidence) -> list[Effect]:
        sig_a = sign_acceptance(self._key, proposal.body, proposal.sig_p)
        record = Record(proposal.body, proposal.sig_p, sig_a, evidence)
        store, *reports = self._commit(record)
        return [store, Transmit(Accept(record.head, sig_a)), *reports, *self._advance()]

    def _on_accept(self, message: Accept) -> list[Effect]:
        pending = self._pending
        if pending is None or sha256(pending.body) != message.head:
            # Of a record that is complete, or of a proposal from before a backup was restored.
            return [Ignored("accept-of-nothing-pending")]
        if not verify_acceptance(self._peer, pending.body, pending.sig_p, message.sig_a):
            raise LedgerViolation("sig-a", "not the acceptor's signature")
        if self.status is not Status.OPEN:
            return [Ignored(str(self.status))]
        record = Record(pending.body, pending.sig_p, message.sig_a, pending.evidence)
        return self._commit(record) + self._advance()

    def _commit(self, record: Record) -> list[Effect]:
        """Take a record into the chain: what to store first, then the report."""
        body = self._chain.append(record)
        self._pending = None
        self._held = None
        self._due = {w: due for w, due in self._due.items() if w > body.window}
        self._skipped = {window for window in self._skipped if window > body.window}
        self._over_limit_window = GENESIS_WINDOW  # the balance is another: judge it anew
        paid = body.delta if body.kind == PAYMENT else 0
        if paid == self._payment:
            self._payment = 0
        store = StoreRecord(
            self.channel_id,
            body.seq,
            record.body,
            record.sig_p,
            record.sig_a,
            record.evidence,
            paid,
        )
        if body.kind == SETTLEMENT:
            return [store, Settled(body.seq, body.window, body.delta, body.balance_after)]
        if body.kind == PAYMENT:
            return [store, Paid(body.seq, body.delta, body.balance_after)]
        return [store]

    # Stopping

    def _rejection(self, proposal: Propose, code: str) -> Reject:
        return Reject.sign(self._key, self.channel_id, sha256(proposal.body), code)

    def _refuse(self, proposal: Propose, code: str) -> list[Effect]:
        if self._held is not None and self._held.body == proposal.body:
            self._held = None
        reject = self._rejection(proposal, code)
        report = Refused(code, Body.decode(proposal.body).attempt)
        return self._close(proposal, reject, [Transmit(reject), report])

    def _on_reject(self, message: Reject) -> list[Effect]:
        pending = self._pending
        if pending is None or sha256(pending.body) != message.body_hash:
            return [Ignored("reject-of-nothing-pending")]
        if not message.verify(self._peer, self.channel_id):
            raise LedgerViolation("reject-signature", "not the acceptor's")
        if self.status is not Status.OPEN:
            return [Ignored("repeated-reject")]
        self._pending = None
        body = Body.decode(pending.body)
        # Where the ends were told of different payments, this one waits to be told again; where the
        # peer was told of none, it is proposed again once a window is settled.
        other = body.kind == PAYMENT and message.code != CODE_UNTOLD
        closed = self._close(
            Propose(pending.body, pending.sig_p),
            message,
            [PeerRejected(message.code, body.attempt)],
            paid=body.delta if other else 0,
        )
        return closed + self._advance()

    def _close(
        self, proposal: Propose, reject: Reject, then: list[Effect], *, paid: int = 0
    ) -> list[Effect]:
        """Close an attempt for good: what to store, `then`, and the end of the channel when
        nothing is left to propose."""
        body = Body.decode(proposal.body)
        refusal = Refusal(
            body.seq, body.attempt, proposal.body, proposal.sig_p, reject.code, reject.signature
        )
        self._attempts.close(refusal)
        if paid == self._payment:
            self._payment = 0
        ended = self._attempts.end_channel(body.seq)
        if ended:
            self.status, self.reason = Status.DISPUTED, reject.code
        store = StoreRefusal(self.channel_id, refusal, self.status, self.reason, paid)
        return [store, *then, *([Disputed(reject.code)] if ended else [])]

    def _freeze_double(self, first: Propose, second: Propose) -> list[Effect]:
        """Two bodies of the peer's for one number: malice when both are of one attempt and session
        (E1), else malice or a restored backup (E2)."""
        one, two = Body.decode(first.body), Body.decode(second.body)
        keys = [(body.seq, body.attempt, body.nonce_lo, body.nonce_hi) for body in (one, two)]
        same = keys[0] == keys[1]
        reason = "double-signed" if same else "conflicting-proposal"
        return self._freeze(reason, ((first.body, first.sig_p), (second.body, second.sig_p)))

    def _freeze(self, reason: str, proof: tuple[tuple[bytes, bytes], ...] = ()) -> list[Effect]:
        self._held = None
        self.status, self.reason = Status.FROZEN, reason
        return [StoreStatus(self.channel_id, self.status, reason), Froze(reason, proof)]
