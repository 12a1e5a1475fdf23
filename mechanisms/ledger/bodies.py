"""The signed content of the ledger: the terms of a channel, the body of a record, and the chain.

Bodies form a hash chain from a genesis that both ends sign; who proposes a record is set by the
parity of its number. Pure functions of bytes; signatures are in `mechanisms.ledger.records`.
"""

from dataclasses import dataclass
from typing import Final, Self

from candor.mechanisms.payments.bills import WINDOW_LIMIT
from candor.mechanisms.payments.credits import AMOUNT_MAX, UNIT
from candor.topologies.encoding.canonical import MalformedError, pack, sha256, unpack
from candor.topologies.encoding.signatures import PUBLIC_KEY_BYTES

CHANNEL_DOMAIN: Final = "candor/channel/v1"

BODY_VERSION: Final = 1
BODY_BYTES_MAX: Final = 512  # a body takes about 330 bytes; integers vary by a few
SEQ_LIMIT: Final = 2**53
HASH_BYTES: Final = 32
NONCE_BYTES: Final = 16
NO_HASH: Final = bytes(HASH_BYTES)
GENESIS: Final = "genesis"
SETTLEMENT: Final = "settlement"
PAYMENT: Final = "payment"
KINDS: Final = (GENESIS, SETTLEMENT, PAYMENT)
GENESIS_WINDOW: Final = -1
ATTEMPTS_MAX: Final = 16
"""Of one number: a first one, one more for a neighbour that has caught up, one for other content.
A bound, so that two ends that never agree stop."""


class LedgerViolation(Exception):
    """A peer's fault: a well-formed ledger message that the protocol does not allow.

    `code` is a short stable word.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ChannelTerms:
    """What the two ends of an edge agree on for a run; `lo` < `hi` as strings.

    `fingerprint`: of the cluster file (32 bytes); `credit_limit`: micro-credits.
    """

    lo: str
    hi: str
    public_lo: bytes
    public_hi: bytes
    run_id: str
    fingerprint: bytes
    credit_limit: int

    @property
    def channel_id(self) -> bytes:
        """SHA-256 over the canonical array of domain, keys, run, topology, unit and limit."""
        return sha256(
            pack(
                [
                    CHANNEL_DOMAIN,
                    self.public_lo,
                    self.public_hi,
                    self.run_id,
                    self.fingerprint,
                    UNIT,
                    self.credit_limit,
                ]
            )
        )

    def proposer(self, seq: int) -> bytes:
        """The key that proposes record `seq`: lo's for even numbers, hi's for odd ones."""
        return self.public_hi if seq % 2 else self.public_lo

    def acceptor(self, seq: int) -> bytes:
        """The key that accepts record `seq`."""
        return self.public_lo if seq % 2 else self.public_hi


@dataclass(frozen=True, slots=True)
class Body:
    """One record's signed content, fields in the order of the encoding.

    `proposer`: its public key; `delta`: micro-credits lo pays hi; `balance_after`: what hi has
    received net of what it paid; nonces: of the session in which it was proposed.
    """

    channel_id: bytes
    seq: int
    attempt: int
    prev: bytes
    proposer: bytes
    window: int
    kind: str
    delta: int
    balance_after: int
    bill_digest_lo: bytes
    bill_digest_hi: bytes
    nonce_lo: bytes
    nonce_hi: bytes

    def encode(self) -> bytes:
        """The canonical bytes that are hashed and signed."""
        return pack(
            [
                BODY_VERSION,
                self.channel_id,
                self.seq,
                self.attempt,
                self.prev,
                self.proposer,
                self.window,
                self.kind,
                self.delta,
                self.balance_after,
                self.bill_digest_lo,
                self.bill_digest_hi,
                self.nonce_lo,
                self.nonce_hi,
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            MalformedError: another layout or version, or a field outside its bounds.
        """
        match unpack(data, bytes_max=BODY_BYTES_MAX):
            case [
                _,
                bytes(channel_id),
                int(seq),
                int(attempt),
                bytes(prev),
                bytes(proposer),
                int(window),
                str(kind),
                int(delta),
                int(balance_after),
                bytes(bill_digest_lo),
                bytes(bill_digest_hi),
                bytes(nonce_lo),
                bytes(nonce_hi),
            ]:
                body = cls(
                    channel_id,
                    seq,
                    attempt,
                    prev,
                    proposer,
                    window,
                    kind,
                    delta,
                    balance_after,
                    bill_digest_lo,
                    bill_digest_hi,
                    nonce_lo,
                    nonce_hi,
                )
                # Encoding again settles the version; a bool would pass for an integer.
                numbers = (seq, attempt, window, delta, balance_after)
                bools = any(isinstance(number, bool) for number in numbers)
                if not bools and body._in_bounds() and body.encode() == data:
                    return body
        raise MalformedError("not a ledger record of this version")

    def _in_bounds(self) -> bool:
        hashes = (self.channel_id, self.prev, self.bill_digest_lo, self.bill_digest_hi)
        return (
            all(len(value) == HASH_BYTES for value in hashes)
            and len(self.proposer) == PUBLIC_KEY_BYTES
            and len(self.nonce_lo) == len(self.nonce_hi) == NONCE_BYTES
            and 0 <= self.seq < SEQ_LIMIT
            and 0 <= self.attempt < SEQ_LIMIT
            and GENESIS_WINDOW <= self.window < WINDOW_LIMIT
            and self.kind in KINDS
            and abs(self.delta) <= AMOUNT_MAX
            and abs(self.balance_after) <= AMOUNT_MAX
        )


@dataclass(frozen=True, slots=True)
class Position:
    """Where a chain stands: the number, hash, window and balance of its last record."""

    seq: int = -1
    head: bytes = NO_HASH
    window: int = GENESIS_WINDOW
    balance: int = 0

    @classmethod
    def of(cls, body: bytes) -> Self:
        """The position of a chain that ends in `body`; raises MalformedError."""
        last = Body.decode(body)
        return cls(last.seq, sha256(body), last.window, last.balance_after)


def check_successor(terms: ChannelTerms, position: Position, body: Body) -> None:
    """Check that `body` may follow `position`; signatures, evidence and credit are checked apart.

    Raises:
        LedgerViolation: names the first field that does not fit.
    """
    seq = position.seq + 1
    if body.channel_id != terms.channel_id:
        raise LedgerViolation("channel", "the record is of another channel")
    if body.seq != seq:
        raise LedgerViolation("seq", f"{body.seq} where {seq} is due")
    if body.prev != position.head:
        raise LedgerViolation("prev", "does not name the record before it")
    if body.proposer != terms.proposer(seq):
        raise LedgerViolation("proposer", f"record {seq} is the other end's to propose")
    if not 0 <= body.attempt < ATTEMPTS_MAX:
        raise LedgerViolation("attempt", f"{body.attempt}, {ATTEMPTS_MAX} are allowed")
    if body.balance_after != position.balance + body.delta:
        raise LedgerViolation("balance", f"{body.balance_after} is not the last balance + delta")
    if seq == 0:
        _check_genesis(body)
    elif body.kind == PAYMENT:
        _check_payment(position, body)
    elif body.kind != SETTLEMENT or body.window <= position.window:
        raise LedgerViolation("window", f"{body.kind} of window {body.window} is out of order")


def _check_genesis(body: Body) -> None:
    content = (body.kind, body.window, body.delta, body.bill_digest_lo, body.bill_digest_hi)
    if content != (GENESIS, GENESIS_WINDOW, 0, NO_HASH, NO_HASH):
        raise LedgerViolation("genesis", "a genesis settles nothing")


def _check_payment(position: Position, body: Body) -> None:
    content = (body.window, body.bill_digest_lo, body.bill_digest_hi)
    if content != (position.window, NO_HASH, NO_HASH):
        raise LedgerViolation("payment", "a payment settles no window")
    if not pays_off(position.balance, body.delta):
        detail = f"{body.delta} does not take a balance of {position.balance} towards 0"
        raise LedgerViolation("payment", detail)


def pays_off(balance: int, delta: int) -> bool:
    """Whether `delta` moves `balance` towards 0 and not past it."""
    return balance * delta < 0 and abs(delta) <= abs(balance)
