"""The chain of one channel in memory: its hashes, its last record, what may be appended to it.

It judges records by signatures and links; whether to propose, accept or stop is the channel's.
"""

from collections.abc import Sequence

from candor.mechanisms.ledger.bodies import (
    NO_HASH,
    Body,
    ChannelTerms,
    LedgerViolation,
    Position,
    check_successor,
)
from candor.mechanisms.ledger.records import Record, check_evidence, check_signatures


class Chain:
    """Records 0 to `position.seq` of a channel: of all the hash, of the last one everything."""

    def __init__(self, terms: ChannelTerms, heads: Sequence[bytes], last: Record | None) -> None:
        self.terms = terms
        self.last = last
        self.position = Position.of(last.body) if last else Position()
        self._heads = list(heads)

    def head_at(self, seq: int) -> bytes:
        """The hash of record `seq`; zeros for -1, before genesis."""
        return self._heads[seq] if seq >= 0 else NO_HASH

    def append(self, record: Record) -> Body:
        """Take the next record in; it has been checked."""
        body = Body.decode(record.body)
        assert body.seq == self.position.seq + 1
        self.position = Position.of(record.body)
        self.last = record
        self._heads.append(self.position.head)
        return body

    def examine(self, records: Sequence[Record]) -> tuple[list[Record], Record | None]:
        """Records from a peer: the new ones that may be appended in turn (none when they start
        beyond the next), and the first that contradicts the chain although both ends signed it.

        Raises:
            MalformedError: a body does not decode.
            LedgerViolation: a record does not fit, or lacks one of the two signatures.
        """
        position = self.position
        new: list[Record] = []
        for record in records:
            body = Body.decode(record.body)
            if body.channel_id != self.terms.channel_id:
                # Of another run of the same two keys: it is signed, and contradicts nothing here.
                raise LedgerViolation("channel", "the record is of another channel")
            if body.seq <= self.position.seq:
                if record.head != self._heads[body.seq]:
                    check_signatures(self.terms, body.seq, record)
                    return new, record
                continue
            if not new and body.seq > position.seq + 1:
                break  # the answer to a state from before this end lost records
            check_successor(self.terms, position, body)
            check_signatures(self.terms, body.seq, record)
            check_evidence(self.terms, body, record.evidence)
            position = Position.of(record.body)
            new.append(record)
        return new, None
