"""One end of an edge's ledger: the hash chain that both ends sign, its messages and its export.

It leaves out disputes, payments and what a restored backup needs: a REJECT, or a record that
contradicts the chain, ends the edge here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.independent.bills import BUNDLE_BYTES_MAX, Bill, check
from tests.independent.wire import (
    ACCEPT,
    PROPOSE,
    RECORDS,
    STATE,
    Cluster,
    Refused,
    fits,
    is_signed,
    pack,
    sha256,
    sign,
    unpack,
)

ZEROS = bytes(32)
RECORDS_BYTES_MAX = 512 * 1024
RECORDS_MAX = 64
BODY_BYTES_MAX = 512
TYPES = (int, bytes, int, int, bytes, bytes, int, str, int, int, bytes, bytes, bytes, bytes)

Messages = list[tuple[int, list]]  # kind and fields


@dataclass(frozen=True, slots=True)
class Record:
    """A record that both ends have signed."""

    body: bytes
    sig_p: bytes
    sig_a: bytes
    evidence: list[bytes]

    @property
    def head(self) -> bytes:
        return sha256(self.body)

    @property
    def fields(self) -> list:
        return unpack(self.body, BODY_BYTES_MAX)

    @property
    def window(self) -> int:
        return self.fields[6]

    @property
    def balance(self) -> int:
        return self.fields[9]


def sealed(bundle: bytes) -> bytes:
    """A bundle without its claims."""
    body, signature, _ = unpack(bundle, BUNDLE_BYTES_MAX)
    return pack([body, signature, []])


class Channel:
    """The ledger of the edge between `own` and `peer`."""

    def __init__(
        self, cluster: Cluster, own: str, peer: str, key: Ed25519PrivateKey, nonce: bytes
    ) -> None:
        self.cluster, self.own, self.peer, self._key = cluster, own, peer, key
        self.lo, self.hi = sorted((own, peer))
        self._publics = [cluster.public(self.lo), cluster.public(self.hi)]
        terms = [*self._publics, cluster.run_id, cluster.run, "micro-credit", cluster.credit_limit]
        self.id = sha256(pack(["candor/channel/v1", *terms]))
        self.records: list[Record] = []
        self.due: dict[int, tuple[Bill, Bill]] = {}
        self.synced = False
        self.closed = ""
        self._nonce, self._peer_nonce = nonce, b""
        self._pending: tuple[bytes, bytes, list[bytes]] | None = None
        self._held: tuple[bytes, bytes] | None = None

    @property
    def head(self) -> bytes:
        return self.records[-1].head if self.records else ZEROS

    @property
    def balance(self) -> int:
        """What hi has received, net."""
        return self.records[-1].balance if self.records else 0

    @property
    def settled(self) -> int:
        """The last settled window, -1 before the first."""
        return self.records[-1].window if self.records else -1

    def begin(self, peer_nonce: bytes) -> Messages:
        """A session was established."""
        self._peer_nonce, self.synced, self._held = peer_nonce, False, None
        return self._state(answer_wanted=True)

    def repeated(self) -> Messages:
        """What is still waiting for an answer."""
        if not self.synced:
            return self._state(answer_wanted=True)
        return [(PROPOSE, list(self._pending[:2]))] if self._pending else []

    def settle(self, bills: tuple[Bill, Bill]) -> Messages:
        """Both bills of a window are here: referee lo's and referee hi's."""
        self.due[bills[0].window] = bills
        return self._advance()

    def state(
        self, echoed: bytes, seq: int, head: bytes, signature: bytes, wanted: bool
    ) -> Messages:
        """Compare the two chains."""
        if echoed != self._nonce:
            return []
        if not self._signed("candor/state/v1", pack([self.id, echoed, seq, head]), signature):
            raise Refused("state-signature")
        answer = self._state(answer_wanted=False) if wanted else []
        if seq >= len(self.records):
            self.synced = False
            return answer
        if head != (self.records[seq].head if seq >= 0 else ZEROS):
            self.closed = "heads-conflict"
            return answer
        if seq < len(self.records) - 1:
            return [*answer, (RECORDS, list(self._missing(seq + 1)))]
        self.synced = True
        return [*answer, *self.repeated(), *self._advance()]

    def adopt(self, fields: list) -> Messages:
        """RECORDS: take those that follow."""
        for body, sig_p, sig_a, evidence in fields:
            record = Record(body, sig_p, sig_a, evidence)
            seq = record.fields[2]
            if seq < len(self.records):
                continue
            self._check_follows(body, [self._read_bill(bundle) for bundle in evidence])
            self._check_signatures(record)
            self._append(record)
            self.synced = False
        return [] if self.synced else self._state(answer_wanted=True)

    def propose(self, body: bytes, sig_p: bytes) -> Messages:
        """PROPOSE: accept, hold or ignore."""
        fields = _parse(body)
        seq = fields[2]
        if fields[1] != self.id:
            raise Refused("channel")
        if fields[5] != self._publics[seq % 2] or self._proposes(seq):
            raise Refused("proposer")
        if not self._signed("candor/propose/v1", body, sig_p):
            raise Refused("sig-p")
        if 0 <= seq < len(self.records):
            last = self.records[-1]
            return [_accept(last)] if last.body == body else []
        if not self.synced:
            return []
        window = fields[6]
        if window < 0:
            self._check_follows(body, [])
            return self._accept(body, sig_p, [])
        if min(self.due, default=None) != window:
            self._held = (body, sig_p)
            return []
        bills = self.due[window]
        self._check_follows(body, list(bills))
        return self._accept(body, sig_p, [bill.bundle for bill in bills])

    def accepted(self, head: bytes, sig_a: bytes) -> Messages:
        """ACCEPT of the own proposal."""
        if self._pending is None or sha256(self._pending[0]) != head:
            return []
        body, sig_p, evidence = self._pending
        if not self._signed("candor/accept/v1", body + sig_p, sig_a):
            raise Refused("sig-a")
        self._append(Record(body, sig_p, sig_a, evidence))
        return self._advance()

    def rejected(self, body_hash: bytes, code: str, signature: bytes) -> None:
        """REJECT: the peer will not have the proposal or the bill."""
        if not self._signed("candor/reject/v1", pack([self.id, body_hash, code]), signature):
            raise Refused("reject-signature")
        self.closed = code

    def refusal(self, body_hash: bytes, code: str) -> list:
        """The fields of a REJECT, which ends the edge."""
        self.closed = code
        message = pack([self.id, body_hash, code])
        return [body_hash, code, sign(self._key, "candor/reject/v1", message)]

    def export(self) -> str:
        """The ledger as JSON lines."""
        lines: list[dict] = [
            {
                "candor_ledger": 3,
                "channel": self.id.hex(),
                "lo": self.lo,
                "hi": self.hi,
                "lo_key": self._publics[0].hex(),
                "hi_key": self._publics[1].hex(),
                "run_id": self.cluster.run_id,
                "topology": self.cluster.run.hex(),
                "unit": "micro-credit",
                "credit_limit": self.cluster.credit_limit,
                "exporter": self.own,
            }
        ]
        for seq, record in enumerate(self.records):
            signed = {"sig_p": record.sig_p.hex(), "sig_a": record.sig_a.hex()}
            evidence = [sealed(bundle).hex() for bundle in record.evidence]
            lines.append({"seq": seq, "body": record.body.hex(), **signed, "evidence": evidence})
        end = [len(self.records) - 1, self.head, self.balance]
        signature = sign(self._key, "candor/export/v1", pack([self.id, self.own, *end]))
        last = {"end": end[0], "head": end[1].hex(), "balance": end[2], "sig": signature.hex()}
        lines.append(last)
        return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

    def _proposes(self, seq: int) -> bool:
        return (self.own == self.lo) == (seq % 2 == 0)

    def _state(self, *, answer_wanted: bool) -> Messages:
        seq, echoed = len(self.records) - 1, self._peer_nonce
        message = pack([self.id, echoed, seq, self.head])
        signature = sign(self._key, "candor/state/v1", message)
        return [(STATE, [echoed, seq, self.head, signature, answer_wanted])]

    def _missing(self, first: int) -> Iterator[list]:
        """Records from `first` on, as many as one message holds."""
        room = RECORDS_BYTES_MAX
        for record in self.records[first : first + RECORDS_MAX]:
            fields = [record.body, record.sig_p, record.sig_a, record.evidence]
            room -= len(pack(fields))
            if room < 0 and record is not self.records[first]:
                return
            yield fields

    def _advance(self) -> Messages:
        """Judge what is held; else propose, when it is this end's turn."""
        if not self.synced or self.closed or self._pending:
            return []
        if self._held:
            held, self._held = self._held, None
            return self.propose(*held)
        seq = len(self.records)
        if not self._proposes(seq):
            return []
        if seq == 0:
            body, evidence = self._body("genesis", -1, []), []
        elif self.due:
            window = min(self.due)
            bills = list(self.due[window])
            body = self._body("settlement", window, bills)
            evidence = [bill.bundle for bill in bills]
            if abs(_parse(body)[9]) > self.cluster.credit_limit:
                return []
        else:
            return []
        sig_p = sign(self._key, "candor/propose/v1", body)
        self._pending = (body, sig_p, evidence)
        return [(PROPOSE, [body, sig_p])]

    def _body(self, kind: str, window: int, bills: list[Bill], attempt: int = 0) -> bytes:
        seq = len(self.records)
        nonces = [self._nonce, self._peer_nonce]
        if self.own == self.hi:
            nonces.reverse()
        delta, digests = 0, [ZEROS, ZEROS]
        if bills:
            by_lo, by_hi = bills
            delta, digests = (
                by_hi.paid_by(self.lo) - by_lo.paid_by(self.hi),
                [
                    by_lo.digest,
                    by_hi.digest,
                ],
            )
        chain = [seq, attempt, self.head, self._publics[seq % 2]]
        amounts = [delta, self.balance + delta]
        return pack([1, self.id, *chain, window, kind, *amounts, *digests, *nonces])

    def _read_bill(self, bundle: bytes) -> Bill:
        bill = Bill.parse(self.cluster, bundle)
        check(self.cluster, bill, {})
        return bill

    def _check_follows(self, body: bytes, bills: list[Bill]) -> None:
        """Whether a body says what this end would, but for the session's nonces."""
        fields = _parse(body)
        if bills and [bill.referee for bill in bills] != [self.lo, self.hi]:
            raise Refused("evidence")
        if any(bill.window != fields[6] for bill in bills):
            raise Refused("evidence")
        kind = "settlement" if bills else "genesis"
        expected = _parse(self._body(kind, fields[6], bills, fields[3]))
        names = ["version", "channel", "seq", "attempt", "prev", "proposer", "window", "kind"]
        for name, one, other in zip([*names, *["mismatch"] * 4], fields, expected, strict=False):
            if one != other:
                raise Refused(name)
        if bills and fields[6] <= self.settled:
            raise Refused("window")
        if abs(fields[9]) > self.cluster.credit_limit:
            raise Refused("credit-limit")

    def _check_signatures(self, record: Record) -> None:
        seq = len(self.records)
        first, second = self._publics[seq % 2], self._publics[(seq + 1) % 2]
        if not is_signed(first, "candor/propose/v1", record.body, record.sig_p):
            raise Refused("sig-p")
        signed = record.body + record.sig_p
        if not is_signed(second, "candor/accept/v1", signed, record.sig_a):
            raise Refused("sig-a")

    def _accept(self, body: bytes, sig_p: bytes, evidence: list[bytes]) -> Messages:
        sig_a = sign(self._key, "candor/accept/v1", body + sig_p)
        record = Record(body, sig_p, sig_a, evidence)
        self._append(record)
        return [_accept(record), *self._advance()]

    def _append(self, record: Record) -> None:
        self.records.append(record)
        self.due.pop(record.window, None)
        self._pending = None

    def _signed(self, domain: str, message: bytes, signature: bytes) -> bool:
        return is_signed(self.cluster.public(self.peer), domain, message, signature)


def _accept(record: Record) -> tuple[int, list]:
    return ACCEPT, [record.head, record.sig_a]


def _parse(body: bytes) -> list:
    fields = unpack(body, BODY_BYTES_MAX)
    if not fits(fields, *TYPES):
        raise Refused("malformed")
    return fields
