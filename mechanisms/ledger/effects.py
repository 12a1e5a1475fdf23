"""What a channel asks of its driver, and the stored state from which it is rebuilt.

Effects are performed in order. What changes the store (`Store…`) must be durable before the effects
after it are performed: that is what makes a crash at any point harmless.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from candor.mechanisms.ledger.attempts import Refusal
from candor.mechanisms.ledger.messages import Message
from candor.mechanisms.ledger.records import Evidence, Record


class Status(StrEnum):
    """Whether a channel settles: `disputed` after refusals that leave nothing to propose, `frozen`
    when the two chains contradict each other. Neither ends by itself."""

    OPEN = "open"
    DISPUTED = "disputed"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Pending:
    """An own proposal whose ACCEPT has not come; resent as these bytes, never rebuilt."""

    body: bytes
    sig_p: bytes
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Everything of a channel that survives a crash.

    `heads[seq]` is the hash of record `seq`; `refusals`: every closed attempt; `payment`: the delta
    of a payment that this end was told of and no record holds yet, 0 without one.
    """

    heads: tuple[bytes, ...] = ()
    last: Record | None = None
    pending: Pending | None = None
    status: Status = Status.OPEN
    reason: str = ""
    refusals: tuple[Refusal, ...] = ()
    payment: int = 0


@dataclass(frozen=True, slots=True)
class StorePending:
    """Persist: an own proposal, before it is sent."""

    channel_id: bytes
    body: bytes
    sig_p: bytes
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """Persist: a record with both signatures; the same transaction clears the pending proposal, and
    the payment that this end was told of where it is `paid`, the delta of a payment record."""

    channel_id: bytes
    seq: int
    body: bytes
    sig_p: bytes
    sig_a: bytes
    evidence: Evidence
    paid: int = 0


@dataclass(frozen=True, slots=True)
class StoreRefusal:
    """Persist: a closed attempt, and what it makes of the channel. The same transaction clears the
    pending proposal, and the payment that this end was told of where it is `paid`, the delta of
    the refused payment."""

    channel_id: bytes
    refusal: Refusal
    status: Status
    reason: str
    paid: int


@dataclass(frozen=True, slots=True)
class StorePayment:
    """Persist: this end was told of a payment of `delta`; of none when it is 0. With `replaces`
    only if that was told before, and to be forgotten if a record holds that one after all."""

    channel_id: bytes
    delta: int
    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Persist: the channel stopped settling, so that a restart does not forget it."""

    channel_id: bytes
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """Read up to `count` records of a channel from `first` on; answer with `records_read`."""

    channel_id: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send to the peer; may be lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class Settled:
    """A window is settled by both signatures; `delta`, `balance`: micro-credits lo paid hi."""

    seq: int
    window: int
    delta: int
    balance: int


@dataclass(frozen=True, slots=True)
class OverLimit:
    """Settling `window` would bring the balance to `balance`, beyond the credit limit: nothing is
    proposed, and the end that owes should no longer be served. Above 0 lo owes, below 0 hi."""

    window: int
    balance: int


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment outside the system is on record; `delta`, `balance`: as of `Settled`."""

    seq: int
    delta: int
    balance: int


@dataclass(frozen=True, slots=True)
class PaymentAwaited:
    """The peer says that a payment of `delta` was made, this end was not told: `Channel.pay` with
    that delta takes it, with any other refuses it. Until then the channel waits."""

    delta: int


@dataclass(frozen=True, slots=True)
class Refused:
    """This end refused the peer's proposal and closed that attempt."""

    code: str
    attempt: int


@dataclass(frozen=True, slots=True)
class PeerRejected:
    """The peer refused this end's proposal and closed that attempt."""

    code: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Disputed:
    """The channel no longer settles: too much was refused, on either side."""

    code: str


@dataclass(frozen=True, slots=True)
class Froze:
    """The chains contradict each other. `proof`: the peer's signed (body, sig_p) pairs, if any."""

    reason: str
    proof: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Ignored:
    """A late, repeated or early message changed nothing; `code` is for the log."""

    code: str


StoreChange: TypeAlias = StorePending | StoreRecord | StoreRefusal | StorePayment | StoreStatus
Effect: TypeAlias = (
    StoreChange
    | ReadRecords
    | Transmit
    | Settled
    | Paid
    | PaymentAwaited
    | OverLimit
    | Refused
    | PeerRejected
    | Disputed
    | Froze
    | Ignored
)
