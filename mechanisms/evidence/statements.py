"""The signed record of one exchange of an agent: what it sent, what it started from, its sketch.

Only layout and signature; what a statement proves is `mechanisms.evidence.examiner`'s business.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.fresh import VALUES
from candor.mechanisms.evidence.influence import Influence
from candor.mechanisms.evidence.phases import PARTS_MAX, PHASES_MAX, Phases
from candor.mechanisms.evidence.sketch import TRACE_SIZE, window_of
from candor.mechanisms.rewards.barter import GROUPS_MAX, Rating
from candor.topologies.encoding.canonical import (
    MalformedError,
    Value,
    is_count,
    is_name,
    pack,
    sha256,
    unpack,
)
from candor.topologies.encoding.signatures import (
    SALT_BYTES,
    SIGNATURE_BYTES,
    SigningKey,
    verify,
)

STATEMENT_DOMAIN: Final = "candor/statement/v2"
PAYLOAD_DOMAIN: Final = "candor/payload/v1"
STATEMENT_VERSION: Final = 4
# How a part of a vector was formed.
LISTED: Final = 0
DERIVED: Final = 1
ATTESTED: Final = 2

# Of how many rounds an agent keeps statements. Round t is judged with those of t - 1 and its own,
# and a late neighbour may still be one behind; ahead of us there must be as many as a neighbour has
# updates ready, and one more.
ROUNDS_KEPT: Final = 4

# 4 KiB cover the fixed fields of a statement.
FIXED_BYTES_MAX: Final = 4096
ROW_LENGTH_MAX: Final = 4096
ID_CHARS_MAX: Final = 32
RULE_CHARS_MAX: Final = 32
HEAD_BYTES_MAX: Final = 256

Floats = NDArray[np.float64]


class EvidenceError(ValueError):
    """Evidence that does not hold; `code` is a short stable word for logs and acknowledgements."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row:
    """Formed by a mixing row, sorted by id: of the cluster file, or derived from the sketches of
    what it mixed where a `rule` is named. Empty where nothing was there to start from."""

    weights: tuple[tuple[str, float], ...]
    rule: str = ""

    def fields(self) -> Value:
        """The array as which it is encoded."""
        weights: list[Value] = [[agent, weight] for agent, weight in self.weights]
        return [DERIVED, self.rule, weights] if self.rule else [LISTED, weights]


@dataclass(frozen=True, slots=True)
class Attested:
    """Formed by a rule that no row expresses, of the vectors of the agent and those it `heard`,
    sorted by id. The aggregate's sketch (k little-endian float64) is the agent's word: to check it
    takes the vectors."""

    rule: str
    heard: tuple[str, ...]
    sketch: bytes

    def fields(self) -> Value:
        """The array as which it is encoded."""
        return [ATTESTED, self.rule, list(self.heard), self.sketch]


Formed: TypeAlias = Row | Attested


@dataclass(frozen=True, slots=True)
class Ratings:
    """Where models are traded: the `trace` (r little-endian float32) of what the agent injects in
    this exchange, and what it thinks of those around it and itself, sorted by id."""

    trace: bytes
    of: tuple[tuple[str, Rating], ...]

    def fields(self) -> Value:
        """The array as which they are encoded."""
        rated: list[Value] = [[k, r.reputation, r.score, r.groups] for k, r in self.of]
        return [self.trace, rated]

    def given(self, agent: str) -> int:
        """How many groups an agent is given; none to who is not among them."""
        return next((rating.groups for k, rating in self.of if k == agent), 0)

    @property
    def values(self) -> Floats:
        """The trace (r,)."""
        return np.frombuffer(self.trace, "<f4").astype(np.float64)


@dataclass(frozen=True, slots=True)
class Statement:
    """What an agent says of one exchange: a phase of a round.

    `digest`, `dim` and sketches are of the vector as the codec's bytes decode to it, which is what
    everyone mixes. `formed` tells of each part of what the vector was stepped from
    (`mechanisms.evidence.phases`) how it came about, and `step_size` what the injected update was
    multiplied with. Sketches are little-endian float64. `next_sketch` is that under the next
    window's signs: present in the last round of a window where sketches are shorter than the vector
    and the next round starts from it, empty otherwise. `sources` commits to the statements that the
    rows in `formed` name: `commitment` of their bodies. Without it a neighbour that states a round
    twice could make its victim's claim look false. `salt` keeps those who see a head alone from
    testing what was stated. `ratings` are there where models are traded, `influence` where what an
    agent injects is bounded. `fresh` are the fresh sketches of the vector and of those of the named
    sources, in their order, little-endian float64, where the run has them. `sat_out`: how many
    rounds before this one its agent did not state; its rows name what it mixed in the last that it
    did.
    """

    run: bytes
    round: int
    phase: int
    agent: str
    codec: str
    digest: bytes
    dim: int
    formed: tuple[Formed, ...]
    step_size: float
    sketch: bytes
    next_sketch: bytes
    sources: bytes = b""
    salt: bytes = bytes(SALT_BYTES)
    ratings: Ratings | None = None
    influence: Influence | None = None
    fresh: bytes = b""
    sat_out: int = 0

    def encode(self) -> bytes:
        """The canonical bytes of the body."""
        return pack(
            [
                STATEMENT_VERSION,
                self.run,
                self.round,
                self.phase,
                self.agent,
                self.codec,
                self.digest,
                self.dim,
                [part.fields() for part in self.formed],
                self.step_size,
                self.sketch,
                self.next_sketch,
                self.sources,
                self.salt,
                *([self.sat_out] if self.sat_out else []),
                *(last.fields() for last in (self.ratings, self.influence) if last is not None),
                *([self.fresh] if self.fresh else []),
            ]
        )

    @classmethod
    def decode(cls, body: bytes, *, sketch_bytes_max: int) -> Self:
        """Parse canonical bytes.

        Raises:
            MalformedError: wrong layout, types, lengths or bounds.
        """
        fields = unpack(body, bytes_max=statement_bytes_max(sketch_bytes_max))
        match fields:
            case [
                int(version),
                bytes(run),
                int(round_number),
                int(phase),
                str(agent),
                str(codec),
                bytes(digest),
                int(dim),
                list(formed),
                float(step_size),
                bytes(sketch),
                bytes(next_sketch),
                bytes(sources),
                bytes(salt),
                *rest,
            ] if (
                is_count(version)
                and version == STATEMENT_VERSION
                and len(run) == len(digest) == 32
                and len(sources) in (0, 32)
                and len(salt) == SALT_BYTES
                and is_count(round_number, least=1)
                and is_count(phase)
                and phase < PHASES_MAX
                and is_count(dim, least=1)
                and is_name(agent, ID_CHARS_MAX)
                and is_name(codec, RULE_CHARS_MAX)
            ):
                pass
            case _:
                raise MalformedError("not a statement")
        if not 0 < len(sketch) <= sketch_bytes_max or len(next_sketch) not in (0, len(sketch)):
            raise MalformedError("a statement's sketch has the wrong length")
        parts = tuple(_formed(part, len(sketch)) for part in formed)
        if len(parts) > PARTS_MAX or sum(isinstance(part, Attested) for part in parts) > 1:
            raise MalformedError("a statement of too many parts")
        head = (run, round_number, phase, agent, codec, digest, dim, parts)
        sat_out, behind = _sat_out(rest, round_number)
        others, fresh = _fresh(behind)
        influence = _influence(others, len(sketch))
        ratings = _ratings(others) if influence is None else None
        last = (ratings, influence, fresh, sat_out)
        return cls(*head, step_size, sketch, next_sketch, sources, salt, *last)

    def round_of(self, *, before: bool) -> int:
        """The round that a part of it is made of: its own, or `before` that the last one that its
        agent mixed; 0 is the initial model."""
        return self.round - before * (1 + self.sat_out)

    @property
    def starts(self) -> bool:
        """Whether nothing was mixed before it: it starts from the initial model."""
        return self.round_of(before=True) == 0

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

    def told(self, place: int) -> frozenset[str] | None:
        """Whom the agent heard for one part of `formed`; None where the part does not tell, as of
        an agent that has just come back."""
        if place >= len(self.formed):
            return None
        match self.formed[place]:
            case Row(weights):
                return frozenset(k for k, _ in weights if k != self.agent) if weights else None
            case Attested(_, heard):
                return frozenset(heard)


Source: TypeAlias = tuple[int, int, str]
"""Where a statement is found: round, phase and agent."""


def named_sources(statement: Statement, phases: Phases) -> tuple[Source, ...]:
    """The statements that the rows of `statement` name, in the order of its parts and then of ids,
    each once; round 0 is the initial model, which nobody states.

    Raises:
        EvidenceError: its phase or its parts are not those of the run.
    """
    if statement.phase >= phases.count:
        raise EvidenceError("statement-phase", f"{statement.phase} of {phases.count}")
    parts = phases.phases[statement.phase].parts
    if len(parts) != len(statement.formed):
        raise EvidenceError("statement-parts", f"{len(statement.formed)}, not {len(parts)}")
    found: dict[Source, None] = {}
    for part, formed in zip(parts, statement.formed, strict=True):
        of_round = statement.round_of(before=part.before)
        if isinstance(formed, Row) and of_round > 0:
            found |= {(of_round, part.phase, agent): None for agent, _ in formed.weights}
    return tuple(found)


def statement_bytes_max(sketch_bytes: int) -> int:
    """The longest body of a statement: two sketches and an attested one or a sum, and rows with
    fresh sketches of what they name."""
    named = PARTS_MAX * ROW_LENGTH_MAX * (ID_CHARS_MAX + 16)
    return 3 * sketch_bytes + FIXED_BYTES_MAX + named + 8 * VALUES * (ROW_LENGTH_MAX + 2)


def commitment(bodies: Iterable[bytes]) -> bytes:
    """What a statement holds of its sources' bodies, in the order of its row: SHA-256 (32 bytes) of
    the canonical array of their SHA-256; of none, as in round 1, nothing."""
    digests: list[Value] = [sha256(body) for body in bodies]
    return sha256(pack(digests)) if digests else b""


def _formed(part: Value, sketch_bytes: int) -> Formed:
    match part:
        case [int(kind), [*row]] if is_count(kind) and kind == LISTED:
            return Row(_row(row))
        case [int(kind), str(rule), [*row]] if (
            is_count(kind) and kind == DERIVED and is_name(rule, RULE_CHARS_MAX)
        ):
            return Row(_row(row), rule)
        case [int(kind), str(rule), [*heard], bytes(sketch)] if (
            is_count(kind) and kind == ATTESTED and is_name(rule, RULE_CHARS_MAX)
        ):
            if len(sketch) != sketch_bytes:
                raise MalformedError("an attested sketch has the wrong length")
            return Attested(rule, _ids(heard), sketch)
    raise MalformedError("not how a vector was formed")


def _sat_out(rest: Sequence[Value], round_number: int) -> tuple[int, Sequence[Value]]:
    """How many rounds were not stated before one, and what there is behind that."""
    match rest:
        case [int(sat_out), *others] if is_count(sat_out, least=1) and sat_out < round_number:
            return sat_out, others
    return 0, rest


def _fresh(rest: Sequence[Value]) -> tuple[Sequence[Value], bytes]:
    """What there is before fresh sketches, and these."""
    match rest:
        case [*before, bytes(fresh)]:
            if fresh and len(fresh) % 8 == 0 and np.isfinite(np.frombuffer(fresh, "<f8")).all():
                return before, fresh
            raise MalformedError("not the fresh sketches of a statement")
    return rest, b""


def _influence(rest: Sequence[Value], sketch_bytes: int) -> Influence | None:
    match rest:
        case [[bytes(total), float(bound), float(most), float(slack)]]:
            sound = len(total) in (0, sketch_bytes) and min(bound, most, slack) >= 0.0
            if sound and np.isfinite(np.frombuffer(total, "<f8")).all():
                return Influence(total, bound, most, slack)
            raise MalformedError("not what a statement says of its agent's window")
    return None


def _ratings(rest: Sequence[Value]) -> Ratings | None:
    match rest:
        case []:
            return None
        case [[bytes(trace), [*entries]]] if (
            0 < len(trace) <= 4 * TRACE_SIZE
            and len(trace) % 4 == 0
            and np.isfinite(np.frombuffer(trace, "<f4")).all()
        ):
            rated = tuple(map(_rating, entries))
            _ids([agent for agent, _ in rated])
            return Ratings(trace, rated)
    raise MalformedError("not a statement's ratings")


def _rating(entry: Value) -> tuple[str, Rating]:
    match entry:
        case [str(agent), float(reputation), float(score), int(groups)] if (
            math.isfinite(reputation)
            and reputation >= 0.0
            and math.isfinite(score)
            and is_count(groups)
            and groups <= GROUPS_MAX
        ):
            return agent, Rating(reputation, score, groups)
    raise MalformedError("not a rating")


def _row(entries: Sequence[Value]) -> tuple[tuple[str, float], ...]:
    row: list[tuple[str, float]] = []
    for entry in entries:
        match entry:
            case [str(agent), float(weight)] if math.isfinite(weight):
                row.append((agent, weight))
            case _:
                raise MalformedError("not a mixing row")
    _ids([agent for agent, _ in row])
    return tuple(row)


def _ids(entries: Sequence[Value]) -> tuple[str, ...]:
    """Different agent ids in ascending order."""
    ids = [entry for entry in entries if isinstance(entry, str) and is_name(entry, ID_CHARS_MAX)]
    if len(ids) != len(entries) or ids != sorted(set(ids)) or len(ids) > ROW_LENGTH_MAX:
        raise MalformedError("a mixing row must be of agent ids in ascending order")
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class Head:
    """What an agent signs of a statement: which exchange it is of, and the SHA-256 of its body.

    Two heads of one exchange are an equivocation, whatever the bodies are. A head is small, so that
    it can travel where nobody needs the sketches.
    """

    run: bytes
    round: int
    phase: int
    agent: str
    digest: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The canonical bytes that are signed."""
        return pack([self.run, self.round, self.phase, self.agent, self.digest])

    @classmethod
    def decode(cls, signed: bytes, signature: bytes) -> Self:
        """Parse without verifying the signature; raises MalformedError."""
        match unpack(signed, bytes_max=HEAD_BYTES_MAX):
            case [bytes(run), int(number), int(phase), str(agent), bytes(digest)] if (
                len(run) == len(digest) == 32
                and is_count(number, least=1)
                and is_count(phase)
                and phase < PHASES_MAX
                and is_name(agent, ID_CHARS_MAX)
                and len(signature) == SIGNATURE_BYTES
            ):
                return cls(run, number, phase, agent, digest, signature)
        raise MalformedError("not a statement's head")

    def verify(self, public: bytes) -> bool:
        """Whether `public` signed it."""
        return verify(public, self.signature, STATEMENT_DOMAIN, self.signed)


def place_of(said: Head | Statement) -> Source:
    """The exchange and the agent that a statement is of."""
    return said.round, said.phase, said.agent


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement's body with its agent's signature of its head, and its parsed form."""

    body: bytes
    signature: bytes
    statement: Statement

    @classmethod
    def sign(cls, statement: Statement, key: SigningKey) -> Self:
        """Sign a statement, salted by its place unless it has a salt, which commits to something
        (`mechanisms.evidence.kept`)."""
        if not any(statement.salt):
            place = pack([statement.run, statement.round, statement.phase])
            statement = replace(statement, salt=key.salt(STATEMENT_DOMAIN.encode(), place))
        unsigned = cls(statement.encode(), b"", statement)
        signature = key.sign(STATEMENT_DOMAIN, unsigned.head.signed)
        return cls(unsigned.body, signature, statement)

    @classmethod
    def decode(cls, body: bytes, signature: bytes, *, sketch_bytes_max: int) -> Self:
        """Parse without verifying the signature; raises MalformedError."""
        if len(signature) != SIGNATURE_BYTES:
            raise MalformedError("a signature has the wrong length")
        return cls(body, signature, Statement.decode(body, sketch_bytes_max=sketch_bytes_max))

    def verify(self, public: bytes) -> bool:
        """Whether `public` signed this body's head."""
        return self.head.verify(public)

    def sending(self, digest: bytes) -> bytes:
        """What its agent signs, by `PAYLOAD_DOMAIN`, of the payload that it sends with this
        statement: the statement's digest of an honest one's."""
        return pack([sha256(self.body), digest])

    @property
    def head(self) -> Head:
        """What the signature is of."""
        said = self.statement
        place = (said.run, said.round, said.phase, said.agent)
        return Head(*place, sha256(self.body), self.signature)
