"""Settlement of all edges of one agent: claims and bills exchanged, and a channel an edge.

An edge settles a window once the bills of both its ends are here, and never twice: the channel sees
to that. Claims and bills of the own neighbourhood are made in `agent.core.settlement.referee`.
Pure: it answers with steps for the core, in order.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from candor.agent.core.effects import Persist, PutValue
from candor.agent.core.settlement.contradictions import Collector
from candor.agent.core.settlement.edge import Edge, Step, To, log
from candor.agent.core.settlement.evidence_book import WINDOWS_KEPT, EvidenceBook
from candor.agent.core.settlement.referee import (
    CLAIM_FORGOTTEN,
    CLAIM_WINDOWS,
    CLAIMED_TWICE,
    Referee,
    bill_key,
)
from candor.agent.core.settlement.window import ENDS, State
from candor.mechanisms.evidence.claims import SignedClaim, claim_bytes_max
from candor.mechanisms.evidence.examiner import Examined
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import EvidenceError, SignedStatement
from candor.mechanisms.ledger import channel as ledger
from candor.mechanisms.ledger.messages import Records, Reject
from candor.mechanisms.payments.bills import (
    Bill,
    BillError,
    BillTerms,
    SignedBill,
    check_bill,
    edge_delta,
)
from candor.mechanisms.payments.credits import AmountError
from candor.network.errors import RemoteProtocolError
from candor.network.messages import BillMessage, ClaimMessage, LedgerMessage, Returned, What
from candor.network.wire import Kind
from candor.topologies.encoding.canonical import MalformedError, Value, pack
from candor.topologies.encoding.signatures import SigningKey

# A proposal or a state without an answer is repeated this often; the first nearly always lands.
RESEND_S: Final = 1.0
# Of a statement's sources, so that one that is given back fits a message.
RETURNED_BYTES_MAX: Final = 2**20


class Settlement:
    """Claims, bills and channels of agent `book.agent`, an edge a neighbour."""

    def __init__(
        self,
        key: SigningKey,
        book: EvidenceBook,
        terms: BillTerms,
        edges: Mapping[str, Edge],
        patience_s: float,
        overdue_s: float,
        resting: int = 0,
    ) -> None:
        limits = (edge.channel.terms.credit_limit for edge in edges.values())
        self._agent = book.agent
        self._key = key
        self._book = book
        self._terms = terms
        self._edges = edges
        self._overdue_s = overdue_s
        self.forgotten_window = -1  # the last that was claimed, as a neighbour shows, and forgotten
        # Neighbours are asked for what an earlier life has signed: nothing is billed meanwhile.
        self.recalling = False
        self.bills: list[tuple[str, SignedBill]] = []  # accepted since the core has looked, or made
        self.collector = Collector(book.agent, book.examiner.terms)
        limit = min(limits, default=0)
        self._referee = Referee(
            key, book, terms, patience_s=patience_s, credit_limit=limit, resting=resting
        )

    # --- what the core asks -----------------------------------------------------------------

    @property
    def settles(self) -> bool:
        """Whether the rule asks for anything: without, no claims are made."""
        return self._terms.payments.settles

    @property
    def balance(self) -> int:
        """Micro-credits received net over all edges."""
        return sum(edge.channel.received for edge in self._edges.values())

    @property
    def settled_window(self) -> int:
        """The last window that any edge has settled, -1 for none."""
        return max((edge.channel.settled_window for edge in self._edges.values()), default=-1)

    @property
    def restored(self) -> bool:
        """Whether a neighbour showed what was forgotten here: this is a backup, or a new disk."""
        restored = any(edge.channel.restored for edge in self._edges.values())
        return restored or self.forgotten_window >= 0

    def caught_up(self, agent: str) -> bool:
        """Whether the ledger shared with a neighbour is as long here as there."""
        channel = self._edges[agent].channel
        return not self.settles or channel.synced or channel.status is not ledger.Status.OPEN

    def edge_balance(self, agent: str) -> int:
        """Micro-credits received net from one neighbour."""
        return self._edges[agent].channel.received

    def barred(self, agent: str) -> str | None:
        """Why a neighbour is not served, or None."""
        return self._edges[agent].bar

    def withheld(self, agent: str) -> int:
        """How many windows had to be billed or settled without a neighbour, in this life."""
        return self._edges[agent].withheld

    def owing(self, agent: str) -> bool:
        """Whether we owe a neighbour all that its credit limit allows."""
        return self._edges[agent].owing

    def settled(self, agent: str) -> bool:
        """Whether nothing is left to settle with a neighbour: a window in which it stated nothing
        that was seen here, as while it was away, is no debt of its."""
        return self._edges[agent].channel.idle and not self._unsettled(agent)

    def _unsettled(self, agent: str) -> list[int]:
        edge = self._edges[agent]
        return [
            held.window
            for held in self._referee.published(edge.channel.settled_window)
            if edge.waits(held.window) and self._referee.saw(agent, held.window)
        ]

    def convict(self, agent: str, verdict: str) -> None:
        """A neighbour is proven guilty: it is not served any more."""
        edge = self._edges.get(agent)
        if edge is not None and edge.banned is None:
            edge.banned = verdict

    def too_large(self, energy: float) -> bool:
        """Whether an update of this energy could not be paid for; see `Referee.too_large`."""
        return self.settles and self._referee.too_large(energy)

    # --- events -----------------------------------------------------------------------------

    def stated(self, signed: SignedStatement, examined: Examined) -> None:
        """A neighbour's update was accepted: its claim will have to agree with it."""
        if self.settles:
            self.collector.stated(signed, examined.sources)

    def connected(
        self, agent: str, own_nonce: bytes, peer_nonce: bytes, now_s: float
    ) -> Sequence[Step]:
        """A session began: exchange ledger states, and what may have been lost."""
        edge = self._edges[agent]
        edge.resend_s = now_s + RESEND_S
        steps = edge.steps(edge.channel.connected(own_nonce, peer_nonce))
        return [*steps, *self._open(agent)]

    def tick(self, agent: str, now_s: float) -> Sequence[Step]:
        """Bill what is due; repeat what the neighbour has not answered."""
        edge = self._edges[agent]
        steps = self._bill(now_s)
        unsettled = self._unsettled(agent)
        edge.wait(unsettled, self._referee.coming, now_s, self._overdue_s)
        if (edge.channel.idle and not unsettled) or now_s < edge.resend_s:
            return steps
        edge.resend_s = now_s + RESEND_S
        return [*steps, *self._open(agent), *edge.steps(edge.channel.resend())]

    def received(
        self, agent: str, kind: Kind, fields: Sequence[Value], now_s: float
    ) -> Sequence[Step]:
        """A ledger message.

        Raises:
            RemoteProtocolError, MalformedError: the peer's fault; nothing has changed.
        """
        edge = self._edges[agent]
        message = ledger.parse_message(kind.name, fields)
        if isinstance(message, Reject) and self._referee.billed_as(message.body_hash) is not None:
            return self._bill_rejected(agent, edge, message)
        if isinstance(message, Records):
            self._check_adopted(edge, message)
        settled = edge.channel.settled_window
        try:
            effects = edge.channel.received_from_peer(message)
        except ledger.LedgerViolation as exc:
            raise RemoteProtocolError(f"ledger-{exc.code}", exc.detail) from exc
        edge.resend_s = now_s + RESEND_S
        steps = edge.steps(effects)
        # Later bills may be here already: they waited for the windows that this has settled.
        return [*steps, *(self._settle(agent) if edge.channel.settled_window > settled else [])]

    def _check_adopted(self, edge: Edge, message: Records) -> None:
        """A record that both signed names bodies only: its evidence must hold by itself, or our own
        export would fail the audit."""
        lo, hi = edge.channel.terms.lo, edge.channel.terms.hi
        for record in message.records:
            for bundle, referee in zip(record.evidence, (lo, hi), strict=False):
                try:
                    signed = SignedBill.decode(bundle)
                    check_bill(self._terms, signed, referee)
                except BillError as exc:
                    raise RemoteProtocolError(f"ledger-{exc.code}", exc.detail) from exc
                self.collector.billed(signed)

    def records_read(self, channel_id: bytes, records: list[ledger.Record]) -> Sequence[Step]:
        """The answer to `ReadRecords`."""
        edge = next(e for e in self._edges.values() if e.channel.channel_id == channel_id)
        edge.reading = False
        return edge.steps(edge.channel.records_read(records))

    def claimed(self, agent: str, data: bytes, now_s: float) -> Sequence[Step]:
        """A neighbour's claim: kept until our own window is over, then held against the evidence.

        Raises:
            RemoteProtocolError, MalformedError: not its claim, or a second one that differs.
        """
        edge = self._edges[agent]
        signed = SignedClaim.decode(data, bytes_max=self._claim_bytes_max(agent))
        claim = signed.claim()
        if claim.agent != agent or not signed.verify(edge.public):
            raise RemoteProtocolError("claim-signature", f"not {agent}'s")
        if claim.run != self._terms.run:
            raise RemoteProtocolError("claim-run", "of another run")
        wanted = self._referee.wanted(claim.window)
        if wanted:
            self.collector.claimed(signed)
        if not edge.settles(claim.window):
            return []
        if not wanted:
            return [log(logging.DEBUG, "claim_ignored", peer=agent, window=claim.window)]
        if not self._referee.keep(agent, claim.window, signed):
            raise RemoteProtocolError("claim-changed", f"window {claim.window}")
        return self._bill(now_s)

    def billed(self, agent: str, data: bytes, now_s: float) -> Sequence[Step]:
        """A neighbour's bill: checked by itself at once, settled when ours is made.

        Raises:
            RemoteProtocolError, MalformedError: not its bill, or a second one that differs.
        """
        edge = self._edges[agent]
        signed = SignedBill.decode(data)
        bill = signed.bill()
        if bill.run != self._terms.run:
            raise RemoteProtocolError("bill-run", "of another run")
        if not edge.settles(bill.window):
            self._collect(agent, bill, signed)
            code = edge.voided.get(bill.window)
            return [self._rejected(agent, signed, code)] if code is not None else []
        if not self._referee.near(bill.window):
            return [log(logging.DEBUG, "bill_ignored", peer=agent, window=bill.window)]
        held = edge.bill(bill.window)
        if held is not None:
            self._collect(agent, bill, signed)
            if held.body != signed.body:
                raise RemoteProtocolError("bill-changed", f"window {bill.window}")
            return []
        if bill.referee != agent or not signed.verify(edge.public):
            raise RemoteProtocolError("bill-signature", f"not {agent}'s")
        try:
            check_bill(self._terms, signed, agent)
            known = self._remember(agent, signed)
            if not edge.settles(bill.window):
                return known
            self._referee.match(agent, signed)
        except (BillError, MalformedError) as exc:
            code = exc.code if isinstance(exc, BillError) else "bill"
            if code == "claim-signature":  # which the bill's own does not cover
                raise RemoteProtocolError(code, str(exc)) from exc
            self._collect(agent, bill, signed)
            if code == CLAIMED_TWICE:
                return self._void(agent, signed, late=True)
            return self._refuse_bill(agent, edge, signed, bill.window, code, str(exc))
        self._collect(agent, bill, signed)
        self.bills.append((agent, signed))
        taken = edge.billed(signed, bill.previous, bill.window)
        return [*known, *taken, *self._bill(now_s), *self._settle(agent)]

    def _remember(self, agent: str, signed: SignedBill) -> list[Step]:
        """Take back the own claim in a neighbour's bill, where it is not known here: an earlier
        life has made it. Where there is another one of that window by now, nothing is settled."""
        claim, window = self._referee.forgotten(signed), signed.bill().window
        if claim is None:
            return []
        self.forgotten_window = max(self.forgotten_window, window)
        if self._referee.takes_back(window):
            return [Persist((self._referee.adopt(claim),))]
        return self._void(agent, signed, late=False)

    def _void(self, agent: str, signed: SignedBill, *, late: bool) -> list[Step]:
        """A neighbour's bill has another claim of its or of ours than is known here."""
        whose = "its" if late else "our"
        edge, detail = self._edges[agent], f"the bill has another claim of {whose} own"
        code = CLAIMED_TWICE if late else CLAIM_FORGOTTEN
        told = self._rejected(agent, signed, code)
        return [*edge.void(signed.bill().window, code, detail, late=late), told]

    def _rejected(self, agent: str, signed: SignedBill, code: str) -> To:
        channel_id = self._edges[agent].channel.channel_id
        reject = Reject.sign(self._key, channel_id, signed.digest, code)
        return To(agent, LedgerMessage(Kind.REJECT, reject.to_fields()))

    def _collect(self, agent: str, bill: Bill, signed: SignedBill) -> None:
        """Remember a neighbour's bill, in case that there is another one of its window."""
        if self._referee.wanted(bill.window) and bill.referee == agent:
            self.collector.billed(signed)

    def round_over(self, round_number: int, rounds: int, now_s: float) -> Sequence[Step]:
        """Claim the windows that end with this round, or were jumped over by a re-entry."""
        if not self.settles:
            return []
        # Claims of a window come during the next one; later ones are judged without statements.
        self.collector.forget(window_of(round_number, self._terms.window_rounds) - 1)
        steps: list[Step] = []
        for window in self._referee.round_over(round_number, rounds):
            stored, claim = self._referee.claim(window)
            steps.append(Persist((stored,)))
            # What is open of the windows before may have been lost: who has not got it would wait.
            steps += [step for agent in self._edges for step in self._open(agent, window - 1)]
            steps += [To(agent, ClaimMessage(claim)) for agent in self._edges]
            self._forget_settled()
        return [*steps, *self._bill(now_s)]

    def take_back(self, snapshot: bytes) -> tuple[int, bool]:
        """Take back the window in which an earlier life ended; answers which that is, and whether
        that life has claimed it: then with evidence that is more complete than the snapshot's.

        Raises:
            MalformedError: our own file is damaged.
        """
        window = self._book.window_of_snapshot(snapshot)
        claimed = self._referee.has_claimed(window)
        if not claimed:
            self._book.restore(snapshot)
        return window, claimed

    def go_on(self, window: int) -> None:
        """Rounds of a window that was taken back are still to come."""
        self._referee.go_on(window)

    # --- what an earlier life has signed ----------------------------------------------------

    def kept_of(self, agent: str) -> list[Returned]:
        """What is here of a neighbour's own hand, and may not be there any more."""
        edge, settled = self._edges[agent], self._edges[agent].channel.settled_window
        found = [
            Returned(What.STATEMENT, pack([said.body, said.signature]), sources)
            for said, sources in self.collector.said_unclaimed(agent)
            if sum(map(len, sources)) < RETURNED_BYTES_MAX
        ]
        claims = self.collector.claims_of(agent, settled)
        found += [Returned(What.CLAIM, pack([*claim])) for claim in claims]
        bills = [held.bill for w, held in sorted(edge.windows.items()) if w > settled]
        found += [Returned(What.BILL, bill.encode()) for bill in bills if bill is not None]
        found = found or [Returned(What.NOTHING)]
        count = 0 if found[0].what is What.NOTHING else len(found)
        return [replace(one, count=count) for one in found]

    def returned(self, what: What, data: bytes) -> list[Step]:
        """A claim or a bill of this agent's own hand comes back from a neighbour.

        Raises:
            RemoteProtocolError, MalformedError: it is not.
        """
        bill = SignedBill.decode(data) if what is What.BILL else None
        own = bill.claims if bill is not None else (SignedClaim.decode(data),)
        claim = next((one for one in own if one.claim().agent == self._agent), None)
        if claim is None or not claim.verify(self._key.public):
            raise RemoteProtocolError("returned", "a claim that is not its receiver's")
        if bill is not None and not bill.verify(self._key.public):
            raise RemoteProtocolError("returned", "a bill that is not its receiver's")
        if claim.claim().run != self._terms.run:
            raise RemoteProtocolError("returned", "of another run")
        return self._adopt(claim, bill)

    def _adopt(self, claim: SignedClaim, bill: SignedBill | None) -> list[Step]:
        window = claim.claim().window
        held = self._referee.held(window)
        news = held is None or (bill is not None and held.bill is None)
        if not news or not self._referee.takes_back(window, billed=bill is not None):
            return []
        self.forgotten_window = max(self.forgotten_window, window)
        stored = [self._referee.adopt(claim, bill)]
        if bill is not None:
            stored.append(PutValue(bill_key(window), bill.encode()))
        return [Persist(tuple(stored))]

    def account(self, last: int, now_s: float, *, whole: bool) -> list[Step]:
        """Nothing more of what an earlier life has signed comes back: claim what it stated up to
        window `last` and did not claim; what is settled it has claimed. Windows of which neighbours
        can not be billed any more, as what was seen of them is lost, are billed without them if the
        `whole` neighbourhood has answered, so that none of it has a bill already."""
        stated = self._book.windows_stated() if self.settles else []
        unclaimed = [
            window
            for window in stated
            if self.settled_window < window <= last and self._referee.takes_back(window)
        ]
        steps: list[Step] = [Persist((self._referee.recover(w),)) for w in unclaimed]
        if self.recalling:
            self._referee.go_on(last + 1)
        if self.recalling and whole:
            self._referee.bill_alone()
        self.recalling = False
        steps += self._bill(now_s)
        return [*steps, *(step for agent in self._edges for step in self._settle(agent))]

    def payments(self) -> dict[str, int]:
        """The payment that each edge's channel was told of, as a record's delta; 0 for none."""
        return {agent: edge.channel.payment for agent, edge in self._edges.items()}

    def told(self, before: Mapping[str, int], stored: Mapping[bytes, int]) -> Sequence[Step]:
        """Payments outside the system as the operator has them in the store, by channel id; what
        changed here since it was read (`before`) waits for the next reading."""
        steps: list[Step] = []
        for agent, edge in self._edges.items():
            channel, delta = edge.channel, stored.get(edge.channel.channel_id, 0)
            if channel.payment != before[agent] or delta == channel.payment:
                continue
            effects = channel.pay(delta)
            if not any(isinstance(effect, ledger.Ignored) for effect in effects):
                steps.append(log(logging.INFO, "payment_told", peer=agent, delta=delta))
            # It is in the store already, where the operator may be writing the next one.
            steps += edge.steps([e for e in effects if not isinstance(e, ledger.StorePayment)])
        return steps

    def restore(self, window: int, claim: bytes, bill: bytes | None) -> None:
        """Take back the claim, and the bill if there is one, of an earlier life."""
        made = self._referee.restore(window, claim, bill)
        if made is not None:
            self.collector.billed(made)

    # --- claims and bills -------------------------------------------------------------------

    def _claim_bytes_max(self, agent: str) -> int:
        trace_bytes = 4 * self._terms.trace_size
        return claim_bytes_max(
            self._terms.window_rounds, self._terms.neighbours[agent], trace_bytes
        )

    def _bill(self, now_s: float) -> list[Step]:
        """Bill, in order, the windows whose claims are all here or whose deadline has passed."""
        if self.recalling:
            return []
        steps: list[Step] = []
        for held in self._referee.unbilled(now_s):
            window = held.window
            edges = {a: edge for a, edge in self._edges.items() if edge.settles(window)}
            served = [agent for agent, edge in edges.items() if edge.banned is None]
            missing = [] if held.blind else self._referee.awaited(window, served)
            awaited = [agent for agent in missing if not edges[agent].passed_over(window)]
            if awaited and not held.due(self._referee.coming, now_s):
                break
            for agent in missing:
                kept = self.collector.keeps(agent, window)
                steps += edges[agent].missed(window, claimable=kept)
            for agent in () if held.blind else edges:
                steps += self._judge(agent, window)
            steps += self._publish_bill(window)
        return steps + self._take_late_claims()

    def _judge(self, agent: str, window: int) -> list[Step]:
        """Hold a claim, if it is here, against the evidence."""
        claim, edge = self._referee.claim_of(agent, window), self._edges[agent]
        if claim is None:
            return []
        try:
            self._referee.judge(claim)
        except EvidenceError as exc:
            if exc.code == "claim-incomplete":
                self._referee.drop(agent, window)
                return edge.forfeit(window, str(exc))
            edge.banned = f"claim of window {window} refused: {exc}"
            self.collector.refused(claim)
            return edge.refuse(window, "claim_refused", str(exc))
        return edge.claimed(window)

    def _publish_bill(self, window: int) -> list[Step]:
        """Bill all whose claims hold, tell everyone, and settle what can be settled now."""
        held = self._referee.held(window)
        assert held is not None
        members = [
            agent
            for agent, edge in self._edges.items()
            if edge.banned is None and edge.settles(window) and not held.blind
        ]
        stored = self._referee.bill(window, members)
        self.bills += [] if held.bill is None else [(self._agent, held.bill)]
        steps: list[Step] = [Persist((stored,))]
        steps += [To(agent, BillMessage(stored.value)) for agent in self._edges]
        for agent, edge in self._edges.items():
            steps += edge.expire(window)
            steps += self._settle(agent)
        return steps

    def _take_late_claims(self) -> list[Step]:
        """Judge what came too late to be billed."""
        steps: list[Step] = []
        for agent, edge in self._edges.items():
            for window in edge.of(State.LATE, State.EXPIRED):
                steps += self._judge(agent, window)
                self._referee.drop(agent, window)
        return steps

    def _refuse_bill(
        self, agent: str, edge: Edge, signed: SignedBill, window: int, code: str, detail: str
    ) -> list[Step]:
        edge.banned = f"bill of window {window} refused: {detail}"
        told = self._rejected(agent, signed, code)
        return [*edge.refuse(window, "bill_refused", detail), told]

    def _bill_rejected(self, agent: str, edge: Edge, message: Reject) -> list[Step]:
        if not message.verify(edge.public, edge.channel.channel_id):
            raise RemoteProtocolError("bill-signature", f"a REJECT is not signed by {agent}")
        if message.code in (CLAIMED_TWICE, CLAIM_FORGOTTEN):
            window, late = self._referee.billed_as(message.body_hash), message.code != CLAIMED_TWICE
            if window is None or not edge.settles(window):
                return []
            return edge.void(window, message.code, "it says so of our bill", late=late)
        if edge.banned is not None:
            return []
        edge.banned = f"it refused our bill: {message.code}"
        return [log(logging.ERROR, "bill_rejected_by_peer", peer=agent, code=message.code)]

    def _open(self, agent: str, last: int | None = None) -> list[To]:
        """Own claims and bills that an edge has not settled yet, oldest first; those of the latest
        windows up to `last`, if that is given."""
        edge = self._edges[agent]
        first = -1 if last is None else last - CLAIM_WINDOWS
        steps: list[To] = []
        for held in self._referee.published(max(edge.channel.settled_window, first)):
            if edge.state(held.window) in ENDS or (last is not None and held.window > last):
                continue
            steps.append(To(agent, ClaimMessage(held.claim.encode())))
            if held.bill is not None:
                steps.append(To(agent, BillMessage(held.bill.encode())))
        return steps

    def _settle(self, agent: str) -> list[Step]:
        """Settle with a neighbour, in order, the windows for which both bills are here."""
        edge = self._edges[agent]
        steps: list[Step] = []
        for held in self._referee.published(edge.channel.settled_window):
            if not edge.settles(held.window):
                continue
            theirs = edge.bill(held.window)
            if held.bill is not None and theirs is not None:
                steps += self._settle_window(agent, edge, held.window, held.bill, theirs)
            elif held.never_billed and not self.recalling and theirs is not None:
                steps += self._void(agent, theirs, late=False)  # it waits for a bill of ours
            elif not edge.passed_over(held.window) or (held.bill is None and not held.never_billed):
                break  # in order: both ends must see the same windows
            else:
                named = held.bill is not None and held.bill.names(agent)
                steps += edge.pass_by(held.window, late=named)
        return steps

    def _settle_window(
        self, agent: str, edge: Edge, window: int, own: SignedBill, theirs: SignedBill
    ) -> list[Step]:
        lo, hi = (own, theirs) if self._agent < agent else (theirs, own)
        try:
            delta = edge_delta(lo.bill(), hi.bill())
        except AmountError as exc:
            edge.banned = f"window {window} cannot be settled: {exc}"
            return edge.refuse(window, "bill_refused", str(exc))
        return edge.hand(window, delta, lo, hi)

    def _forget_settled(self) -> None:
        settled = (edge.channel.settled_window for edge in self._edges.values())
        self._referee.forget(min(settled, default=-1))
        first = next((held.window for held in self._referee.published(-1)), 0)
        for edge in self._edges.values():
            edge.forget(first - WINDOWS_KEPT)
