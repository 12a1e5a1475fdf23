"""The ledger export: one channel as one end sees it, as JSON lines that anyone can check offline.

    {"candor_ledger":3,"channel":…,"lo":…,"hi":…,"lo_key":…,"hi_key":…,"run_id":…,"topology":…,
     "unit":"micro-credit","credit_limit":…,"exporter":…}
    {"seq":0,"body":…,"sig_p":…,"sig_a":…,"evidence":[]}
    {"seq":1,"body":…,"sig_p":…,"sig_a":…,"evidence":[bundle of lo,bundle of hi]}
    {"end":1,"head":…,"balance":…,"sig":…}

Bytes are lower-case hex. `topology` is the fingerprint of the cluster file. `balance` is what hi
has received net. `sig` is the exporter's over "candor/export/v1" || pack([channel_id, exporter,
seq, head, balance]), so that an end cannot deny later how long its chain was. Each line is the one
canonical JSON of its value, keys in this order, no spaces, ended by a line feed: no byte is free.

Bundles are *sealed*, without their claims: claims hold traces of updates, from which records of
small models can be computed, and both signers of a record have recomputed it from them. Windows
under dispute are exported *opened*. Digests in the bills bind the claims either way.

Errors name a record number. The header counts as record 0, the end line as the number that the next
record would have; a line that cannot be read counts by its place.
"""

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

from candor.mechanisms.ledger.bodies import HASH_BYTES, SEQ_LIMIT, ChannelTerms, Position
from candor.mechanisms.ledger.records import EVIDENCE_ITEMS, Record
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.payments.credits import AMOUNT_MAX, UNIT
from candor.topologies.encoding.canonical import pack
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify

EXPORT_DOMAIN: Final = "candor/export/v1"
FORMAT_VERSION: Final = 3
LINE_BYTES_MAX: Final = 2**23

_HEADER_KEYS: Final = (
    "candor_ledger",
    "channel",
    "lo",
    "hi",
    "lo_key",
    "hi_key",
    "run_id",
    "topology",
    "unit",
    "credit_limit",
    "exporter",
)
_RECORD_KEYS: Final = ("seq", "body", "sig_p", "sig_a", "evidence")
_END_KEYS: Final = ("end", "head", "balance", "sig")


class ExportError(ValueError):
    """A line that is not what the format says; `seq` as the module describes."""

    def __init__(self, seq: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.seq = seq
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Footer:
    """The end line: where the exporter says its chain stands (-1 and zeros when it is empty)."""

    seq: int
    head: bytes
    balance: int
    signature: bytes

    def verify(self, public: bytes, channel_id: bytes, exporter: str) -> bool:
        """Whether `public` signed this end as `exporter`."""
        signed = pack([channel_id, exporter, self.seq, self.head, self.balance])
        return verify(public, self.signature, EXPORT_DOMAIN, signed)


@dataclass(frozen=True, slots=True)
class Export:
    """A parsed export; `header` still has to be compared with the terms it should state."""

    header: dict[str, Any]
    records: tuple[Record, ...]
    footer: Footer


def file_name(lo: str, hi: str) -> str:
    """The name of an edge's export."""
    return f"{lo}-{hi}.jsonl"


def header_of(terms: ChannelTerms, exporter: str) -> dict[str, Any]:
    """The header that an export of these terms by `exporter` has."""
    values = (
        FORMAT_VERSION,
        terms.channel_id.hex(),
        terms.lo,
        terms.hi,
        terms.public_lo.hex(),
        terms.public_hi.hex(),
        terms.run_id,
        terms.fingerprint.hex(),
        UNIT,
        terms.credit_limit,
        exporter,
    )
    return dict(zip(_HEADER_KEYS, values, strict=True))


def export_channel(
    terms: ChannelTerms,
    exporter: str,
    key: SigningKey,
    records: Sequence[Record],
    opened: Container[int] = (),
) -> bytes:
    """The export of a whole chain by one of its ends, whose key signs the end line.

    Args:
        opened: the windows whose claims are shown.

    Raises:
        MalformedError: a record is damaged.
    """
    lines = [header_of(terms, exporter)]
    lines += [_record_line(seq, record, opened) for seq, record in enumerate(records)]
    position = Position.of(records[-1].body) if records else Position()
    seq, head, balance = position.seq, position.head, position.balance
    signed = pack([terms.channel_id, exporter, seq, head, balance])
    signature = key.sign(EXPORT_DOMAIN, signed).hex()
    values = (seq, head.hex(), balance, signature)
    lines.append(dict(zip(_END_KEYS, values, strict=True)))
    return b"".join(_line(value) for value in lines)


def _record_line(seq: int, record: Record, opened: Container[int]) -> dict[str, Any]:
    items = record.evidence
    if items and Position.of(record.body).window not in opened:
        items = tuple(SignedBill.decode(item).sealed().encode() for item in items)
    evidence = [item.hex() for item in items]
    values = (seq, record.body.hex(), record.sig_p.hex(), record.sig_a.hex(), evidence)
    return dict(zip(_RECORD_KEYS, values, strict=True))


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def parse_export(data: bytes) -> Export:
    """Parse an export: its form only; nothing is verified.

    Raises:
        ExportError: the first line that is not canonical, complete or in place.
    """
    lines = data.splitlines(keepends=True)
    if not lines:
        raise ExportError(0, "truncated", "the file is empty")
    header = _parse_line(lines[0], 0)
    if tuple(header) != _HEADER_KEYS:
        raise ExportError(0, "header", "the first line is not a ledger header")
    records: list[Record] = []
    for seq, line in enumerate(lines[1:]):
        value = _parse_line(line, seq)
        if tuple(value) == _END_KEYS:
            footer = _footer(value, len(records))
            if seq + 2 < len(lines):
                raise ExportError(seq, "trailing", "there are lines after the end line")
            return Export(header, tuple(records), footer)
        records.append(_record(value, seq))
    raise ExportError(len(records), "truncated", "the end line is missing")


def _parse_line(line: bytes, seq: int) -> dict[str, Any]:
    if not line.endswith(b"\n") or len(line) > LINE_BYTES_MAX:
        raise ExportError(seq, "line", "a line is cut short or too long")
    try:
        value = json.loads(line)
        canonical = isinstance(value, dict) and _line(value) == line
    except (ValueError, RecursionError) as exc:
        raise ExportError(seq, "json", f"not JSON ({exc})") from exc
    if not canonical:
        raise ExportError(seq, "canonical", "not the canonical JSON of its value")
    checked: dict[str, Any] = value
    return checked


def _record(value: dict[str, Any], seq: int) -> Record:
    match value:
        case {
            "seq": int(number),
            "body": str(body),
            "sig_p": str(sig_p),
            "sig_a": str(sig_a),
            "evidence": [*items],
        } if tuple(value) == _RECORD_KEYS and len(items) <= EVIDENCE_ITEMS:
            if number != seq or isinstance(number, bool):
                raise ExportError(seq, "seq", f"record {seq} says it is {number}")
            evidence = tuple(_hex(item, seq) for item in items)
            return Record(
                _hex(body, seq),
                _hex(sig_p, seq, SIGNATURE_BYTES),
                _hex(sig_a, seq, SIGNATURE_BYTES),
                evidence,
            )
    raise ExportError(seq, "record", "not a record line")


def _footer(value: dict[str, Any], number: int) -> Footer:
    match value:
        case {"end": int(seq), "head": str(head), "balance": int(balance), "sig": str(sig)} if (
            -1 <= seq < SEQ_LIMIT and abs(balance) <= AMOUNT_MAX
        ):
            if not isinstance(seq, bool) and not isinstance(balance, bool):
                signature = _hex(sig, number, SIGNATURE_BYTES)
                return Footer(seq, _hex(head, number, HASH_BYTES), balance, signature)
    raise ExportError(number, "end", "not an end line")


def _hex(text: object, seq: int, size: int | None = None) -> bytes:
    """Bytes of lower-case hex, of `size` bytes where given."""
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else None
    except ValueError:
        data = None
    # Comparing back refuses upper case and the spaces that `fromhex` skips.
    if data is None or data.hex() != text or size not in (None, len(data)):
        raise ExportError(seq, "hex", "a field is not lower-case hex of the right length")
    return data
