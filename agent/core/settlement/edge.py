"""One edge of an agent: its channel, what is known of the neighbour's bills, and what bars it.

What the channel asks for becomes steps for the core here. Pure.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from candor.agent.core.effects import Log, Persist, PutValue, ReadRecords
from candor.mechanisms.ledger import channel as ledger
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.proofs import from_ledger
from candor.network.messages import BillMessage, ClaimMessage, LedgerMessage
from candor.network.wire import Kind

# A daemon that is down for minutes is late once; whoever makes a habit of it pays nothing.
LATE_MAX: Final = 3
# Windows to settle for one lateness to be forgotten: a habit saves less than it risks.
LATE_FORGOTTEN: Final = 16
# In the place of a window: a ledger that has none to settle, and is not up to date all the same.
UNSYNCED: Final = -1


@dataclass(frozen=True, slots=True)
class To:
    """A message to one neighbour."""

    agent: str
    message: ClaimMessage | BillMessage | LedgerMessage


Step: TypeAlias = Persist | ReadRecords | Log | To


@dataclass(slots=True)
class Edge:
    """The settlement state of one edge; `bills` are those of `peer`, the neighbour, by window."""

    peer: str
    channel: ledger.Channel
    public: bytes
    bills: dict[int, SignedBill] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    handed: set[int] = field(default_factory=set)  # to the channel, which has not settled them yet
    passed: set[int] = field(default_factory=set)  # claimed by it, and never billed
    late: set[int] = field(default_factory=set)  # windows billed without it: its claim was missing
    lateness: int = 0  # how often that began, times LATE_FORGOTTEN, less what was settled since
    refused: str | None = None  # why a claim or a bill was: whoever does not pay is not served
    over_limit: bool = False  # it owes us all that it may
    owing: bool = False  # and we it
    reading: bool = False  # records for the neighbour: one request at a time
    resend_s: float = 0.0
    open_since_s: dict[int, float] = field(default_factory=dict)  # by window, since when it waits
    overdue: bool = False

    def done(self, window: int) -> bool:
        """Whether nothing more is to be done here about a window."""
        past = window <= self.channel.settled_window
        return past or window in self.skipped or window in self.handed

    def passed_over(self, window: int) -> bool:
        """Whether the neighbour has billed a later window, and never this one."""
        later = min((w for w in self.bills if w > window), default=None)
        return later is not None and self.bills[later].bill().previous < window

    def missed(self, window: int) -> list[Step]:
        """The neighbour has not claimed a window in time: it is barred until it does, and late once
        for windows in a row."""
        self.lateness += LATE_FORGOTTEN * (not self.late)
        self.late.add(window)
        return [log(logging.WARNING, "claim_missed", peer=self.peer, window=window)]

    def pass_by(self, window: int) -> list[Step]:
        """The neighbour stated rounds in a window and has billed past it, so that nobody pays for
        it: a lateness each time, or whoever owes would bill the other windows only."""
        self.passed.add(window)
        self.lateness += LATE_FORGOTTEN
        missed = log(logging.WARNING, "bill_missed", peer=self.peer, window=window)
        return [missed, *self.judge_lateness()]

    def judge_lateness(self) -> list[Step]:
        """Refuse the neighbour when being late has become a habit: what is not billed is not
        paid."""
        if self.lateness <= LATE_MAX * LATE_FORGOTTEN or self.refused is not None:
            return []
        self.refused = f"its claims or bills came late or never, more than {LATE_MAX} times"
        return [log(logging.WARNING, "lateness_refused", peer=self.peer, detail=self.refused)]

    def wait(self, windows: Sequence[int], now_s: float, overdue_s: float) -> None:
        """Note which windows wait to be settled. Whoever does not claim, bill, propose or accept
        does not pay: it is `overdue` where one has waited for too long. Each counts by itself: an
        edge that always has one under way is not overdue."""
        stuck = not (windows or self.channel.idle or self.channel.paying)
        waiting = [UNSYNCED] if stuck else windows
        self.open_since_s = {w: self.open_since_s.get(w, now_s) for w in waiting}
        self.overdue = any(now_s - t > overdue_s for t in self.open_since_s.values())

    def steps(self, effects: Sequence[ledger.Effect]) -> list[Step]:
        """What the channel asks for, in order; what it reports is noted and logged."""
        return [step for effect in effects for step in self._step(effect)]

    def _step(self, effect: ledger.Effect) -> list[Step]:
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
                if self.reading:
                    return []
                self.reading = True
                return [ReadRecords(self.peer, channel_id, first, count)]
            case ledger.Transmit(message):
                return [To(self.peer, LedgerMessage(Kind[message.kind], message.to_fields()))]
            case ledger.Settled(seq, window, delta, balance):
                self.over_limit = self.owing = False  # told again if the next one is beyond it
                self.lateness = max(0, self.lateness - 1)
                fields = {"seq": seq, "window": window, "delta": delta, "balance_lo_paid": balance}
                return [log(logging.INFO, "settled", peer=self.peer, **fields)]
            case ledger.Paid(seq, delta, balance):
                self.over_limit = self.owing = False
                fields = {"seq": seq, "delta": delta, "balance_lo_paid": balance}
                return [log(logging.INFO, "paid", peer=self.peer, **fields)]
            case ledger.PaymentAwaited(delta):
                return [log(logging.WARNING, "payment_awaited", peer=self.peer, delta=delta)]
            case ledger.OverLimit(window, balance):
                own_lo = self.channel.terms.hi == self.peer
                # The neighbour that owes is no longer served; the one that is owed to goes on.
                self.over_limit = (balance < 0) if own_lo else (balance > 0)
                self.owing = not self.over_limit
                return [
                    log(
                        logging.WARNING,
                        "credit_limit",
                        peer=self.peer,
                        window=window,
                        balance_lo_paid=balance,
                    )
                ]
            case ledger.Disputed(code):
                return [log(logging.ERROR, "ledger_disputed", peer=self.peer, code=code)]
            case ledger.Refused(code, attempt):
                return [
                    log(
                        logging.WARNING,
                        "ledger_refused",
                        peer=self.peer,
                        code=code,
                        attempt=attempt,
                    )
                ]
            case ledger.PeerRejected(code, attempt):
                event = "ledger_rejected_by_peer"
                return [log(logging.WARNING, event, peer=self.peer, code=code, attempt=attempt)]
            case ledger.Froze(reason, proof):
                found = from_ledger(reason, self.peer, proof)
                stored = PutValue(f"proof/{reason}/{self.peer}", found.encode()) if found else None
                return [
                    *([Persist((stored,))] if stored else []),
                    log(logging.ERROR, "ledger_frozen", peer=self.peer, reason=reason),
                ]
            case ledger.Ignored(code):
                return [log(logging.DEBUG, "ledger_ignored", peer=self.peer, code=code)]


def log(level: int, event: str, **fields: str | int | float) -> Log:
    """A `Log` step."""
    return Log(level, event, fields)
