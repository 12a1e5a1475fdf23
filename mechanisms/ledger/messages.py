"""What the two ends of a channel say to each other: five messages as lists of plain fields.

Transport, framing and the receiver's session nonce are the network's business. Parsing is strict
and bounded: any fields give a message or MalformedError.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeAlias

from candor.mechanisms.ledger.bodies import BODY_BYTES_MAX, HASH_BYTES, NONCE_BYTES, SEQ_LIMIT
from candor.mechanisms.ledger.records import Record
from candor.topologies.encoding.canonical import MalformedError, Value, is_name, pack
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify

STATE_DOMAIN: Final = "candor/state/v1"
REJECT_DOMAIN: Final = "candor/reject/v1"

CODE_CHARS_MAX: Final = 32
RECORDS_MAX: Final = 64
"""Records in one message."""
RECORDS_BYTES_MAX: Final = 512 * 1024
"""Of the records in one message, unless it holds a single one: with fields around them they stay
below the mebibyte that a header may take."""


@dataclass(frozen=True, slots=True)
class StateMessage:
    """Where the sender's chain stands, signed for one session by echoing the receiver's nonce.

    `answer_wanted`: the sender has not seen the receiver's state in this session. It is not
    signed: forging it costs one more message, once.
    """

    kind: ClassVar[str] = "STATE"
    echoed_nonce: bytes
    seq: int
    head: bytes
    signature: bytes
    answer_wanted: bool

    @classmethod
    def sign(
        cls,
        key: SigningKey,
        channel_id: bytes,
        echoed_nonce: bytes,
        seq: int,
        head: bytes,
        *,
        answer_wanted: bool,
    ) -> Self:
        """A signed state; `seq` is -1 and `head` zero before genesis."""
        signed = pack([channel_id, echoed_nonce, seq, head])
        return cls(echoed_nonce, seq, head, key.sign(STATE_DOMAIN, signed), answer_wanted)

    def verify(self, public: bytes, channel_id: bytes) -> bool:
        """Whether `public` signed this state of the channel."""
        signed = pack([channel_id, self.echoed_nonce, self.seq, self.head])
        return verify(public, self.signature, STATE_DOMAIN, signed)

    def to_fields(self) -> list[Value]:
        """Fields in declared order."""
        return [self.echoed_nonce, self.seq, self.head, self.signature, self.answer_wanted]

    @classmethod
    def from_fields(cls, fields: Sequence[Value]) -> Self:
        """Parse `to_fields`; raises MalformedError."""
        match list(fields):
            case [bytes(nonce), int(seq), bytes(head), bytes(signature), bool(answer_wanted)] if (
                len(nonce) == NONCE_BYTES
                and -1 <= seq < SEQ_LIMIT
                and not isinstance(seq, bool)
                and len(head) == HASH_BYTES
                and len(signature) == SIGNATURE_BYTES
            ):
                return cls(nonce, seq, head, signature, answer_wanted)
        raise MalformedError("not a STATE")


@dataclass(frozen=True, slots=True)
class Propose:
    """The proposer's signed body of the next record."""

    kind: ClassVar[str] = "PROPOSE"
    body: bytes
    sig_p: bytes

    def to_fields(self) -> list[Value]:
        """Fields in declared order."""
        return [self.body, self.sig_p]

    @classmethod
    def from_fields(cls, fields: Sequence[Value]) -> Self:
        """Parse `to_fields`; raises MalformedError."""
        match list(fields):
            case [bytes(body), bytes(sig_p)] if (
                len(body) <= BODY_BYTES_MAX and len(sig_p) == SIGNATURE_BYTES
            ):
                return cls(body, sig_p)
        raise MalformedError("not a PROPOSE")


@dataclass(frozen=True, slots=True)
class Accept:
    """The acceptor's signature on the record whose body hashes to `head`."""

    kind: ClassVar[str] = "ACCEPT"
    head: bytes
    sig_a: bytes

    def to_fields(self) -> list[Value]:
        """Fields in declared order."""
        return [self.head, self.sig_a]

    @classmethod
    def from_fields(cls, fields: Sequence[Value]) -> Self:
        """Parse `to_fields`; raises MalformedError."""
        match list(fields):
            case [bytes(head), bytes(sig_a)] if (
                len(head) == HASH_BYTES and len(sig_a) == SIGNATURE_BYTES
            ):
                return cls(head, sig_a)
        raise MalformedError("not an ACCEPT")


@dataclass(frozen=True, slots=True)
class Reject:
    """The acceptor's signed refusal of a body; `code` says why."""

    kind: ClassVar[str] = "REJECT"
    body_hash: bytes
    code: str
    signature: bytes

    @classmethod
    def sign(cls, key: SigningKey, channel_id: bytes, body_hash: bytes, code: str) -> Self:
        """A signed refusal."""
        return cls(body_hash, code, key.sign(REJECT_DOMAIN, pack([channel_id, body_hash, code])))

    def verify(self, public: bytes, channel_id: bytes) -> bool:
        """Whether `public` signed this refusal on the channel."""
        signed = pack([channel_id, self.body_hash, self.code])
        return verify(public, self.signature, REJECT_DOMAIN, signed)

    def to_fields(self) -> list[Value]:
        """Fields in declared order."""
        return [self.body_hash, self.code, self.signature]

    @classmethod
    def from_fields(cls, fields: Sequence[Value]) -> Self:
        """Parse `to_fields`; raises MalformedError."""
        match list(fields):
            case [bytes(body_hash), str(code), bytes(signature)] if (
                len(body_hash) == HASH_BYTES
                and is_name(code, CODE_CHARS_MAX)
                and len(signature) == SIGNATURE_BYTES
            ):
                return cls(body_hash, code, signature)
        raise MalformedError("not a REJECT")


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records for a peer that is behind."""

    kind: ClassVar[str] = "RECORDS"
    records: tuple[Record, ...]

    @classmethod
    def fitting(cls, records: Sequence[Record]) -> Self:
        """As many of `records`, from the first, as one message holds; at least one."""
        kept: list[Record] = []
        size_bytes = 0
        for record in records[:RECORDS_MAX]:
            size_bytes += record.size_bytes
            if kept and size_bytes > RECORDS_BYTES_MAX:
                break
            kept.append(record)
        return cls(tuple(kept))

    def to_fields(self) -> list[Value]:
        """One list of fields a record."""
        return [record.to_fields() for record in self.records]

    @classmethod
    def from_fields(cls, fields: Sequence[Value]) -> Self:
        """Parse `to_fields`; raises MalformedError."""
        if not 1 <= len(fields) <= RECORDS_MAX:
            raise MalformedError(f"RECORDS: {len(fields)} where 1 to {RECORDS_MAX} are allowed")
        return cls(tuple(Record.from_fields(entry) for entry in fields))


Message: TypeAlias = StateMessage | Propose | Accept | Reject | Records

_PARSERS: Final[Mapping[str, Callable[[Sequence[Value]], Message]]] = {
    StateMessage.kind: StateMessage.from_fields,
    Propose.kind: Propose.from_fields,
    Accept.kind: Accept.from_fields,
    Reject.kind: Reject.from_fields,
    Records.kind: Records.from_fields,
}
KINDS: Final = frozenset(_PARSERS)


def parse_message(kind: str, fields: Sequence[Value]) -> Message:
    """The message of a kind (`STATE`, `PROPOSE`, `ACCEPT`, `REJECT`, `RECORDS`).

    Raises:
        MalformedError: unknown kind, or fields of wrong number, type or size.
    """
    parser = _PARSERS.get(kind)
    if parser is None:
        raise MalformedError(f"no ledger message is called {kind!r}")
    return parser(fields)
