"""The messages between neighbours as values; ledger messages pass through as opaque fields.

Each message knows its fields on the wire; parsing refuses wrong types, lengths and ranges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self, TypeAlias, assert_never

from candor.network.errors import RemoteProtocolError
from candor.network.wire import LEDGER_KINDS, NONCE_BYTES, Buffer, Envelope, Kind
from candor.topologies.encoding.canonical import Value, is_count, is_name
from candor.topologies.encoding.signatures import SIGNATURE_BYTES

WITNESSES_MAX: Final = 32  # in one message: 32 statements of two 1,024-bucket sketches, 0.5 MiB
# Of larger ones fewer go together, so that a header stays below HEADER_BYTES_MAX.
WITNESSES_BYTES_MAX: Final = 2**19
CODE_CHARS_MAX: Final = 64
HEADS_MAX: Final = 256  # in one message: some 30 KiB
AGENT_CHARS_MAX: Final = 32
DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens or re-opens a session; `body` is what `signature` covers."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Update:
    """Announces an exchange by its signed statement; witnesses, and `payload_bytes` in chunks,
    follow. `payload_signature` is of what the chunks hold; without one they prove nothing."""

    body: bytes
    signature: bytes
    payload_bytes: int
    payload_signature: bytes = bytes(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Statements (body, signature) that the sender's own of this exchange names."""

    round: int
    phase: int
    statements: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def batches(
        cls, number: int, phase: int, statements: Sequence[tuple[bytes, bytes]]
    ) -> list[Self]:
        """All of them, in order, in as few messages as the bounds allow; one may be longer."""
        batches: list[list[tuple[bytes, bytes]]] = []
        room_bytes = 0
        for body, signature in statements:
            room_bytes -= len(body) + len(signature)
            if not batches or room_bytes < 0 or len(batches[-1]) == WITNESSES_MAX:
                batches.append([])
                room_bytes = WITNESSES_BYTES_MAX - len(body) - len(signature)
            batches[-1].append((body, signature))
        return [cls(number, phase, tuple(batch)) for batch in batches]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the payload of an exchange, at a byte offset."""

    round: int
    phase: int
    offset: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Ack:
    """What became of an update: an empty code when it was accepted, else why it was refused."""

    round: int
    phase: int
    code: str


@dataclass(frozen=True, slots=True)
class ClaimMessage:
    """A signed claim of a window."""

    claim: bytes


@dataclass(frozen=True, slots=True)
class BillMessage:
    """A referee's signed bill of a window with the claims it follows from."""

    bundle: bytes


@dataclass(frozen=True, slots=True)
class EvidenceMessage:
    """A proof against some agent, forwarded once."""

    proof: bytes


@dataclass(frozen=True, slots=True)
class LedgerMessage:
    """A message of the edge's ledger protocol, parsed by the ledger itself."""

    kind: Kind
    fields: Sequence[Value]


@dataclass(frozen=True, slots=True)
class Heads:
    """Whose statements of an exchange the sender knows of: (agent, SHA-256 of the body, the agent's
    signature) each."""

    round: int
    phase: int
    heads: tuple[tuple[str, bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The sender is alive in this exchange and waits for a neighbour itself: be patient with it."""

    round: int
    phase: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Show what you have signed of the picked round of your window, from an offset on; one that is
    its size says that all of it has come."""

    window: int
    offset: int


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A piece of what the sender shows of a round, at an offset, with what it signed of all of
    it."""

    window: int
    body: bytes
    signature: bytes
    offset: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class RevisionMessage:
    """The text of a cluster file, signed by the organiser: the next one, or, to whoever has an
    earlier one, that in use."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Recall:
    """The sender has lost what an earlier life of its has signed: give it back."""


class What(StrEnum):
    """What is given back; `NOTHING` says that there is nothing."""

    STATEMENT = "statement"
    CLAIM = "claim"
    BILL = "bill"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Returned:
    """One of the `count` things of the receiver's own hand that the sender has: encoded, of a
    statement the pair of body and signature, with the bodies of the statements it commits to."""

    what: What
    data: bytes = b""
    sources: tuple[bytes, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender has finished; `heard` says that it has received ours."""

    heard: bool


Opaque: TypeAlias = ClaimMessage | BillMessage | EvidenceMessage | RevisionMessage
Message: TypeAlias = (
    Hello
    | Update
    | Witnesses
    | Chunk
    | Ack
    | ClaimMessage
    | BillMessage
    | EvidenceMessage
    | LedgerMessage
    | Heads
    | Waiting
    | Ask
    | ShownMessage
    | RevisionMessage
    | Recall
    | Returned
    | Bye
)


# Of one field each, whose bytes others read.
_OPAQUE: Final[Mapping[Kind, type[Opaque]]] = {
    Kind.CLAIM: ClaimMessage,
    Kind.BILL: BillMessage,
    Kind.EVIDENCE: EvidenceMessage,
    Kind.REVISION: RevisionMessage,
}
_KIND_OF: Final = {message: kind for kind, message in _OPAQUE.items()}


def to_envelope(message: Message, nonce: bytes) -> Envelope:
    """Address a message to the receiver whose session nonce is `nonce` (empty for HELLO)."""
    if isinstance(message, Ask | ShownMessage | Recall | Returned):
        return _of_the_past(message, nonce)
    match message:
        case Hello(body, signature):
            return Envelope(Kind.HELLO, b"", [body, signature])
        case Update(body, signature, payload_bytes, payload_signature):
            sent: list[Value] = [body, signature, payload_bytes, payload_signature]
            return Envelope(Kind.UPDATE, nonce, sent)
        case Witnesses(number, phase, statements):
            pairs: list[Value] = [list(pair) for pair in statements]
            return Envelope(Kind.WITNESSES, nonce, [number, phase, pairs])
        case Chunk(number, phase, offset, data):
            return Envelope(Kind.CHUNK, nonce, [number, phase, offset], data)
        case Ack(number, phase, code):
            return Envelope(Kind.ACK, nonce, [number, phase, code])
        case ClaimMessage(held) | BillMessage(held) | EvidenceMessage(held) | RevisionMessage(held):
            return Envelope(_KIND_OF[type(message)], nonce, [held])
        case LedgerMessage(kind, fields):
            return Envelope(kind, nonce, fields)
        case Heads(number, phase, heads):
            named: list[Value] = [list(head) for head in heads]
            return Envelope(Kind.HEADS, nonce, [number, phase, named])
        case Waiting(number, phase):
            return Envelope(Kind.WAITING, nonce, [number, phase])
        case Bye(heard):
            return Envelope(Kind.BYE, nonce, [heard])
        case _:
            assert_never(message)


def _of_the_past(message: Ask | ShownMessage | Recall | Returned, nonce: bytes) -> Envelope:
    match message:
        case Ask(window, offset):
            return Envelope(Kind.ASK, nonce, [window, offset])
        case ShownMessage(window, body, signature, offset, data):
            return Envelope(Kind.SHOWN, nonce, [window, body, signature, offset], data)
        case Recall():
            return Envelope(Kind.RECALL, nonce, [])
        case Returned(what, data, sources, count):
            return Envelope(Kind.RETURNED, nonce, [str(what), data, list(sources), count])


def from_envelope(envelope: Envelope) -> Message:
    """The message in an envelope.

    Raises:
        RemoteProtocolError: fields of wrong number, type, length or range.
    """
    kind, fields = envelope.kind, list(envelope.fields)
    if kind in LEDGER_KINDS:
        return LedgerMessage(kind, fields)
    if kind in _PARSED_APART:
        return _PARSED_APART[kind](envelope)
    match kind, fields:
        case Kind.HELLO, [bytes(body), bytes(signature)]:
            return Hello(body, signature)
        case Kind.UPDATE, [bytes(body), bytes(signature), int(size), bytes(of_payload)] if (
            is_count(size) and len(of_payload) == SIGNATURE_BYTES
        ):
            return Update(body, signature, size, of_payload)
        case Kind.WITNESSES, [int(number), int(phase), list(pairs)] if _is_place(number, phase):
            return Witnesses(number, phase, _statements(pairs))
        case Kind.CHUNK, [int(number), int(phase), int(offset)] if _is_place(
            number, phase
        ) and is_count(offset):
            if envelope.data is not None:
                return Chunk(number, phase, offset, envelope.data)
        case Kind.ACK, [int(number), int(phase), str(code)] if _is_place(
            number, phase
        ) and _is_code(code):
            return Ack(number, phase, code)
        case ((Kind.CLAIM | Kind.BILL | Kind.EVIDENCE | Kind.REVISION), [bytes(held)]):
            return _OPAQUE[kind](held)
        case Kind.HEADS, [int(number), int(phase), list(heads)] if _is_place(number, phase):
            return Heads(number, phase, _heads(heads))
        case Kind.WAITING, [int(number), int(phase)] if _is_place(number, phase):
            return Waiting(number, phase)
        case Kind.BYE, [bool(heard)]:
            return Bye(heard)
    raise _wrong_fields(kind)


def _of_disclosures(envelope: Envelope) -> Ask | ShownMessage:
    match envelope.kind, list(envelope.fields):
        case Kind.ASK, [int(window), int(offset)] if is_count(window) and is_count(offset):
            return Ask(window, offset)
        case Kind.SHOWN, [int(window), bytes(body), bytes(signature), int(offset)] if (
            is_count(window) and is_count(offset) and len(signature) == SIGNATURE_BYTES
        ):
            if envelope.data is not None:
                return ShownMessage(window, body, signature, offset, envelope.data)
    raise _wrong_fields(envelope.kind)


def _of_recalls(envelope: Envelope) -> Recall | Returned:
    match envelope.kind, list(envelope.fields):
        case Kind.RECALL, []:
            return Recall()
        case Kind.RETURNED, [str(what), bytes(data), [*sources], int(count)] if is_count(count):
            bodies = tuple(body for body in sources if isinstance(body, bytes))
            if what in tuple(What) and len(bodies) == len(sources):
                return Returned(What(what), data, bodies, count)
    raise _wrong_fields(envelope.kind)


def _is_place(number: int, phase: int) -> bool:
    """Whether these can be a round and a phase of it; how many a round has, others know."""
    return is_count(number) and is_count(phase)


def _is_code(code: str) -> bool:
    return not code or is_name(code, CODE_CHARS_MAX)


def _statements(pairs: Sequence[Value]) -> tuple[tuple[bytes, bytes], ...]:
    if len(pairs) > WITNESSES_MAX:
        raise RemoteProtocolError("witnesses", f"{len(pairs)} in one message")
    statements: list[tuple[bytes, bytes]] = []
    for pair in pairs:
        match pair:
            case [bytes(body), bytes(signature)]:
                statements.append((body, signature))
            case _:
                raise _wrong_fields(Kind.WITNESSES)
    return tuple(statements)


def _heads(entries: Sequence[Value]) -> tuple[tuple[str, bytes, bytes], ...]:
    if len(entries) > HEADS_MAX:
        raise RemoteProtocolError("heads", f"{len(entries)} in one message")
    heads: list[tuple[str, bytes, bytes]] = []
    for entry in entries:
        match entry:
            case [str(agent), bytes(digest), bytes(signature)] if (
                is_name(agent, AGENT_CHARS_MAX)
                and len(digest) == DIGEST_BYTES
                and len(signature) == SIGNATURE_BYTES
            ):
                heads.append((agent, digest, signature))
            case _:
                raise _wrong_fields(Kind.HEADS)
    return tuple(heads)


_PARSED_APART: Final[Mapping[Kind, Callable[[Envelope], Message]]] = {
    Kind.ASK: _of_disclosures,
    Kind.SHOWN: _of_disclosures,
    Kind.RECALL: _of_recalls,
    Kind.RETURNED: _of_recalls,
}


def _wrong_fields(kind: Kind) -> RemoteProtocolError:
    return RemoteProtocolError("fields", f"not those of a {kind.name}")


def valid_nonce(nonce: bytes) -> bool:
    """Whether a nonce has the protocol's length."""
    return len(nonce) == NONCE_BYTES
