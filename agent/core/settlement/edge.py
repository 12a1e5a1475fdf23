"""One edge of an agent: its channel, what has become of its windows, and what bars the neighbour.

What the channel asks for becomes steps for the core here. Pure.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from candor.agent.core.effects import Log, Persist, PutValue, ReadRecords
from candor.agent.core.settlement.window import Event, State, after
from candor.mechanisms.ledger import channel as ledger
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.proofs import from_ledger
from candor.network.messages import BillMessage, ClaimMessage, LedgerMessage
from candor.network.wire import Kind

# A daemon that is down for minutes is late once; whoever makes a habit of it pays nothing.
LATE_MAX: Final = 3
# Windows for which a habit is not served: many times those that it was not paid for. Not for good:
# an agent that crashes often, or is at the end of a bad line, is late like one that does not pay.
LATE_OUT_WINDOWS: Final = 16
# Windows over here until all of one is settled: a referee may wait for others' claims for three.
SETTLE_WINDOWS: Final = 6
# Windows to settle for one lateness to be forgotten: a habit saves less than it risks.
LATE_FORGOTTEN: Final = 16
# Windows for which a claim is waited for: longer than a daemon is down, not longer than the others'
# claims are kept.
LATE_WINDOWS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class To:
    """A message to one neighbour."""

    agent: str
    message: ClaimMessage | BillMessage | LedgerMessage


Step: TypeAlias = Persist | ReadRecords | Log | To


@dataclass(slots=True)
class EdgeWindow:
    """A window on an edge, with the neighbour's bill and since when it waits to be settled; then
    `since_window` was the first that was not over."""

    state: State = State.OPEN
    bill: SignedBill | None = None
    since_s: float | None = None
    since_window: int = 0


@dataclass(slots=True)
class Edge:
    """The settlement state of one edge, to the neighbour `peer`."""

    peer: str
    channel: ledger.Channel
    public: bytes
    first: int = 0  # the window since which they are neighbours without a break
    windows: dict[int, EdgeWindow] = field(default_factory=dict)
    withheld: int = 0  # windows of which a claim, a bill or a signature did not come in time
    lateness: int = 0  # how often that began, times LATE_FORGOTTEN, less what was settled since
    banned: str | None = None  # why the neighbour is never served again: it lied, or does not pay
    out_until: int | None = None  # the window whose bill ends that it is out for its lateness
    billed_window: int = -1  # the last one here
    over_limit: bool = False  # it owes us all that it may
    owing: bool = False  # and we it
    voided: dict[int, str] = field(default_factory=dict)  # windows not settled, and the code
    reading: bool = False  # records for the neighbour: one request at a time
    resend_s: float = 0.0
    unsynced_since_s: float | None = None  # nothing to settle, and not up to date all the same
    overdue: bool = False

    # --- windows ----------------------------------------------------------------------------

    def state(self, window: int) -> State:
        """What has become of a window."""
        if window < self.first:
            return State.PASSED  # of an earlier membership
        state = self.windows[window].state if window in self.windows else State.OPEN
        return after(state, Event.RECORDED) if window <= self.channel.settled_window else state

    def settles(self, window: int) -> bool:
        """Whether a window is still to be settled, and not with the channel yet."""
        return self.state(window) in (State.OPEN, State.LATE, State.EXPIRED)

    def waits(self, window: int) -> bool:
        """Whether a window is on its way: not settled, and not given up."""
        return self.state(window) in (State.OPEN, State.LATE, State.HANDED)

    def of(self, *states: State) -> list[int]:
        """The windows that are in one of these states, ascending."""
        return [window for window in sorted(self.windows) if self.state(window) in states]

    @property
    def bar(self) -> str | None:
        """Why the neighbour is not served, or None."""
        if self.banned is not None:
            return self.banned
        if late := self.of(State.LATE):
            return f"it has not claimed window {late[0]}"
        if self.out_until is not None:
            return (
                f"its claims or bills came late or never, more than {LATE_MAX} times: not served "
                f"until window {self.out_until} is billed"
            )
        if self.overdue:
            return f"it has not settled window {self.channel.settled_window + 1}"
        if self.channel.status is not ledger.Status.OPEN:
            return f"ledger {self.channel.status}: {self.channel.reason}"
        return "credit limit reached" if self.over_limit else None

    def bill(self, window: int) -> SignedBill | None:
        """The neighbour's bill of a window, if it is here."""
        held = self.windows.get(window)
        return held.bill if held is not None else None

    def passed_over(self, window: int) -> bool:
        """Whether the neighbour has billed a later window, and never this one."""
        bills = (held.bill for w, held in sorted(self.windows.items()) if w > window)
        later = next((bill for bill in bills if bill is not None), None)
        return later is not None and later.bill().previous < window

    def missed(self, window: int, *, claimable: bool = True) -> list[Step]:
        """The own bill is due without the neighbour's claim: it is barred until that comes, and
        late once for windows in a row. It will not claim any more what it has billed past; nor can
        it be made to where it is not `claimable`: what was stated may be kept nowhere."""
        if self.passed_over(window):
            return self.pass_by(window, late=True)
        self.lateness += LATE_FORGOTTEN * (not self.of(State.LATE))
        self.withheld += 1
        self._move(window, Event.MISSED)
        if not claimable:
            self._move(window, Event.EXPIRED)
        return [log(logging.WARNING, "claim_missed", peer=self.peer, window=window)]

    def claimed(self, window: int) -> list[Step]:
        """A claim that was late is here, and true: the neighbour is served again, unless it has
        made a habit of it."""
        if self.state(window) is State.OPEN:
            return []
        self._move(window, Event.CLAIMED)
        return self.judge_lateness()

    def pass_by(self, window: int, *, late: bool) -> list[Step]:
        """The neighbour has billed past a window, so that nobody pays for it. Where it is `late`,
        having stated rounds in it, that counts each time, or whoever owes would bill the other
        windows only."""
        ended = self._end(window, Event.PASSED_BY)
        if not late:
            return ended
        self.lateness += LATE_FORGOTTEN
        self.withheld += 1
        missed = log(logging.WARNING, "bill_missed", peer=self.peer, window=window)
        return [missed, *self.judge_lateness(), *ended]

    def billed(self, signed: SignedBill, previous: int, window: int) -> list[Step]:
        """Take the neighbour's bill. Windows are billed in order: what it passes over it will never
        claim any more; nor settle, where it has billed it before it restored a backup."""
        self.windows.setdefault(window, EdgeWindow()).bill = signed
        steps: list[Step] = []
        for passed in [w for w in self.of(State.LATE, State.EXPIRED) if previous < w < window]:
            steps += self.pass_by(passed, late=False)  # it was late already
        steps += self.judge_lateness()
        for withdrawn in [w for w in self.of(State.HANDED) if previous < w < window]:
            steps += self.pass_by(withdrawn, late=True)
            about: dict[str, str | int] = {"peer": self.peer, "window": withdrawn}
            about["detail"] = f"window {window} is billed"
            steps.append(log(logging.WARNING, "bill_withdrawn", **about))
        return steps

    def forfeit(self, window: int, detail: str) -> list[Step]:
        """The neighbour's claim is not all that it stated, as of who has lost data: it is left out
        of the own bill, which counts as being late."""
        self.lateness += LATE_FORGOTTEN * (self.state(window) is State.OPEN)
        self.withheld += 1
        self._move(window, Event.CLAIMED)
        about: dict[str, str | int] = {"peer": self.peer, "window": window, "detail": detail}
        return [log(logging.WARNING, "claim_forfeited", **about), *self.judge_lateness()]

    def void(self, window: int, code: str, detail: str, *, late: bool) -> list[Step]:
        """One end has claimed a window twice, or has lost its claim: it is not settled, which the
        other end is told by this `code`. That is `late` of the neighbour if it is the one."""
        self.voided[window] = code
        self.lateness += LATE_FORGOTTEN * late
        return [*self.refuse(window, "window_voided", detail), *self.judge_lateness()]

    def refuse(self, window: int, event: str, detail: str) -> list[Step]:
        """A window is never settled here; `event` and `detail` tell why."""
        refused = log(logging.WARNING, event, peer=self.peer, window=window, detail=detail)
        return [refused, *self._end(window, Event.DENIED)]

    def expire(self, billed: int) -> list[Step]:
        """With window `billed` billed, no claim keeps the neighbour out that has been missing for
        so long: who has lost it with its disk could never come back. Nor does a habit of being
        late, of which one time is forgotten then."""
        self.billed_window = billed
        if self.out_until is not None and billed >= self.out_until:
            self.out_until = None
            self.lateness = max(0, self.lateness - LATE_FORGOTTEN)
        expired = [w for w in self.of(State.LATE) if w <= billed - LATE_WINDOWS_MAX]
        for window in expired:
            self._move(window, Event.EXPIRED)
        return [log(logging.WARNING, "claim_expired", peer=self.peer, window=w) for w in expired]

    def hand(self, window: int, delta: int, lo: SignedBill, hi: SignedBill) -> list[Step]:
        """Both bills of a window are here: settle it by the channel."""
        self._move(window, Event.BILLED)
        return self.steps(self.channel.settle(window, delta, lo.encode(), hi.encode()))

    def forget(self, done: int) -> None:
        """Let go of the windows up to `done`, and of those on record."""
        done = max(done, self.channel.settled_window)
        self.windows = {w: held for w, held in self.windows.items() if w > done}
        self.voided = {window: code for window, code in self.voided.items() if window > done}

    def wait(self, windows: Sequence[int], coming: int, now_s: float, overdue_s: float) -> None:
        """Note which windows wait to be settled; `coming` is the first that is not over. Whoever
        does not claim, bill, propose or accept does not pay: it is `overdue` where one has waited
        for too long, in windows or in seconds; in windows not where it owes all that it may, which
        no record could go beyond. Each counts by itself: an edge that always has one under way is
        not overdue."""
        unsynced = not (windows or self.channel.idle or self.channel.paying)
        since = now_s if self.unsynced_since_s is None else self.unsynced_since_s
        self.unsynced_since_s = since if unsynced else None
        waiting = [since] if unsynced else []
        windows_waited = 0
        for window in windows:
            held = self.windows.setdefault(window, EdgeWindow())
            if held.since_s is None:
                held.since_s, held.since_window = now_s, coming
            waiting.append(held.since_s)
            windows_waited = max(windows_waited, coming - held.since_window)
        before, too_long = self.overdue, any(now_s - at_s > overdue_s for at_s in waiting)
        withheld = windows_waited >= SETTLE_WINDOWS and not self.over_limit
        self.overdue = too_long or withheld
        self.withheld += self.overdue and not before

    def judge_lateness(self) -> list[Step]:
        """Leave the neighbour out for some time when being late has become a habit: what is not
        billed is not paid."""
        if self.lateness <= LATE_MAX * LATE_FORGOTTEN or self.out_until is not None:
            return []
        self.out_until = self.billed_window + LATE_OUT_WINDOWS
        return [log(logging.WARNING, "lateness_refused", peer=self.peer, detail=self.bar or "")]

    def _move(self, window: int, event: Event) -> None:
        state = after(self.state(window), event)
        self.windows.setdefault(window, EdgeWindow()).state = state

    def _end(self, window: int, event: Event) -> list[Step]:
        """Neither a proposal of the window is waited for any more, nor is one made."""
        self._move(window, event)
        return self.steps(self.channel.skip(window))

    # --- the channel ------------------------------------------------------------------------

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
            case ReadRecords():
                one_is_read, self.reading = self.reading, True
                return [] if one_is_read else [effect]
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
