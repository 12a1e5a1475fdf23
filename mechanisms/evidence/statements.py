"""The signed record of one agent's round: what it sent, what it started from, and its sketch.

Only layout and signature; what a statement proves is `mechanisms.evidence.examiner`'s business.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.sketch import window_of
from candor.topologies.encoding.canonical import (
    MalformedError,
    Value,
    is_count,
    is_name,
    pack,
    sha256,
    unpack,
)
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify

STATEMENT_DOMAIN: Final = "candor/statement/v1"
STATEMENT_VERSION: Final = 2

# Of how many rounds an agent keeps statements. Round t is judged with those of t - 1, and a late
# neighbour may still be one behind; ahead of us there must be as many as a neighbour has updates
# ready, and one more.
ROUNDS_KEPT: Final = 4

# A statement holds two sketches at most; 4 KiB covers its fixed fields.
FIXED_BYTES_MAX: Final = 4096
ROW_LENGTH_MAX: Final = 4096
ID_CHARS_MAX: Final = 32

Floats = NDArray[np.float64]


class EvidenceError(ValueError):
    """Evidence that does not hold; `code` is a short stable word for logs and acknowledgements."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Statement:
    """What an agent says of one round. `row` is sorted by id; sketches are little-endian float64.

    `next_sketch` is the payload's sketch under the next window's signs: present in the last round
    of a window when sketches are shorter than the vector, empty otherwise. `sources` commits to the
    statements of the round before that the row names: `commitment` of their bodies. Without it a
    neighbour that states a round twice could make its victim's claim look false.
    """

    run: bytes
    round: int
    agent: str
    digest: bytes
    dim: int
    row: tuple[tuple[str, float], ...]
    step_size: float
    sketch: bytes
    next_sketch: bytes
    sources: bytes = b""

    def encode(self) -> bytes:
        """The canonical bytes that are signed."""
        return pack(
            [
                STATEMENT_VERSION,
                self.run,
                self.round,
                self.agent,
                self.digest,
                self.dim,
                [[agent, weight] for agent, weight in self.row],
                self.step_size,
                self.sketch,
                self.next_sketch,
                self.sources,
            ]
        )

    @classmethod
    def decode(cls, body: bytes, *, sketch_bytes_max: int) -> Self:
        """Parse canonical bytes.

        Raises:
            MalformedError: wrong layout, types, lengths or bounds.
        """
        limit = 2 * sketch_bytes_max + FIXED_BYTES_MAX + ROW_LENGTH_MAX * (ID_CHARS_MAX + 16)
        fields = unpack(body, bytes_max=limit)
        match fields:
            case [
                int(version),
                bytes(run),
                int(round_number),
                str(agent),
                bytes(digest),
                int(dim),
                list(row),
                float(step_size),
                bytes(sketch),
                bytes(next_sketch),
                bytes(sources),
            ] if (
                is_count(version)
                and version == STATEMENT_VERSION
                and len(run) == len(digest) == 32
                and len(sources) in (0, 32)
                and is_count(round_number, least=1)
                and is_count(dim, least=1)
                and is_name(agent, ID_CHARS_MAX)
            ):
                pass
            case _:
                raise MalformedError("not a statement")
        if not 0 < len(sketch) <= sketch_bytes_max or len(next_sketch) not in (0, len(sketch)):
            raise MalformedError("a statement's sketch has the wrong length")
        head = (run, round_number, agent, digest, dim, _row(row))
        return cls(*head, step_size, sketch, next_sketch, sources)

    def values(self, window: int, window_rounds: int) -> Floats:
        """The sketch (k,) under the signs of `window`: its own or the next.

        Raises:
            EvidenceError: the statement carries no sketch under those signs.
        """
        own = window_of(self.round, window_rounds)
        if window == own:
            return np.frombuffer(self.sketch, "<f8")
        if window == own + 1 and self.next_sketch:
            return np.frombuffer(self.next_sketch, "<f8")
        raise EvidenceError("witness-window", f"{self.agent} round {self.round}, window {window}")


def commitment(bodies: Iterable[bytes]) -> bytes:
    """What a statement holds of its sources' bodies, in the order of its row: SHA-256 (32 bytes) of
    the canonical array of their SHA-256; of none, as in round 1, nothing."""
    digests: list[Value] = [sha256(body) for body in bodies]
    return sha256(pack(digests)) if digests else b""


def _row(entries: Sequence[Value]) -> tuple[tuple[str, float], ...]:
    if len(entries) > ROW_LENGTH_MAX:
        raise MalformedError("a mixing row is too long")
    row: list[tuple[str, float]] = []
    for entry in entries:
        match entry:
            case [str(agent), float(weight)] if math.isfinite(weight):
                row.append((agent, weight))
            case _:
                raise MalformedError("not a mixing row")
    ids = [agent for agent, _ in row]
    if ids != sorted(set(ids)) or not all(is_name(agent, ID_CHARS_MAX) for agent in ids):
        raise MalformedError("a mixing row must be of agent ids in ascending order")
    return tuple(row)


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement's signed bytes with its parsed form."""

    body: bytes
    signature: bytes
    statement: Statement

    @classmethod
    def sign(cls, statement: Statement, key: SigningKey) -> Self:
        """Sign a statement."""
        body = statement.encode()
        return cls(body, key.sign(STATEMENT_DOMAIN, body), statement)

    @classmethod
    def decode(cls, body: bytes, signature: bytes, *, sketch_bytes_max: int) -> Self:
        """Parse without verifying the signature; raises MalformedError."""
        if len(signature) != SIGNATURE_BYTES:
            raise MalformedError("a signature has the wrong length")
        return cls(body, signature, Statement.decode(body, sketch_bytes_max=sketch_bytes_max))

    def verify(self, public: bytes) -> bool:
        """Whether `public` signed this body."""
        return verify(public, self.signature, STATEMENT_DOMAIN, self.body)
