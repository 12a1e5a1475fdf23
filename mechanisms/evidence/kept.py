"""Rounds that can be done again: what an agent commits to in a round, and which one is looked at.

An honest round is a function. What an agent starts from (its model, what the algorithm, the
optimiser and the loop keep, its samples) and what it hears give what it sends in each exchange, and
what it starts the next round from. So in each round it commits to its *start*, by the salt of its
statements: a salt is signed, it shows nothing, and neighbours have it before they answer. What it
sends is stated anyway, and what it hears is stated by others. Whoever then sees the start, what was
heard and the next start can do the round again; a false link shows in one of two rounds.

    opening = BLAKE3 of [domain, run, agent, round, samples, root, model, [[name, digest], …],
                         private, nonce]
    salt    = BLAKE3 of [domain, opening, phase], 16 bytes

Which round of a window is looked at a coin says that nobody knows before the window is over: the
claims of the agent's neighbours, as the bundle of its own bill has them.

    pick = BLAKE3 of [domain, run, agent, window, [claim, …]], the first 8 bytes, mod claimed rounds

Here are digests and layouts only; `agent.runs.replay` does rounds again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.evidence.sample_tree import ROOT_BYTES, Samples
from candor.mechanisms.evidence.statements import ID_CHARS_MAX, SignedStatement
from candor.topologies.encoding.canonical import (
    MalformedError,
    Value,
    is_count,
    is_name,
    pack,
    payload_digest,
    unpack,
)
from candor.topologies.encoding.signatures import SALT_BYTES

START_DOMAIN: Final = "candor/start/v1"
SALT_DOMAIN: Final = "candor/start-salt/v1"
COIN_DOMAIN: Final = "candor/replay-coin/v1"
KEPT_VERSION: Final = 1
NONCE_BYTES: Final = 32
FILE_BYTES_MAX: Final = 2**36  # our own: a model of a billion parameters, from tens of neighbours

Tensors: TypeAlias = tuple[tuple[str, str, tuple[int, ...], bytes], ...]
"""Tensors by name, ascending: name, type, shape and little-endian values."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an agent starts a round from: its `model` (dim little-endian float32), the `state` of
    its algorithm and optimiser, what its loop keeps to itself (`private`), and its samples. Of
    rounds after it came back nothing leads to it, and it says so: `fresh`. The `nonce` keeps those
    who see an opening from testing it."""

    run: bytes
    agent: str
    round: int
    samples: Samples
    model: bytes
    state: Tensors
    private: bytes
    fresh: bool
    nonce: bytes

    @property
    def opening(self) -> bytes:
        """What the agent commits to (32 bytes)."""
        state: list[Value] = [
            [name, kind, shape, payload_digest(values)] for name, kind, shape, values in self.state
        ]
        model, private = payload_digest(self.model), payload_digest(self.private)
        place: list[Value] = [START_DOMAIN, self.run, self.agent, self.round]
        samples: list[Value] = [self.samples.count, self.samples.root]
        return payload_digest(
            pack([*place, *samples, model, state, private, self.fresh, self.nonce])
        )

    def encode(self) -> bytes:
        """The canonical bytes that stay on the agent's host."""
        place: list[Value] = [KEPT_VERSION, self.run, self.agent, self.round]
        samples: list[Value] = [self.samples.count, self.samples.root]
        return pack(
            [*place, *samples, self.model, self.state, self.private, self.fresh, self.nonce]
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse `encode`'s bytes; raises MalformedError."""
        match unpack(data, bytes_max=FILE_BYTES_MAX):
            case [
                int(version),
                bytes(run),
                str(agent),
                int(number),
                int(count),
                bytes(root),
                bytes(model),
                [*state],
                bytes(private),
                bool(fresh),
                bytes(nonce),
            ] if (
                is_count(version)
                and version == KEPT_VERSION
                and is_name(agent, ID_CHARS_MAX)
                and is_count(number, least=1)
                and is_count(count)
                and len(root) == ROOT_BYTES
                and len(model) % 4 == 0
            ):
                samples, tensors = Samples(count, root), tuple(map(_tensor, state))
                return cls(run, agent, number, samples, model, tensors, private, fresh, nonce)
        raise MalformedError("not what a round was started from")


def _tensor(entry: Value) -> tuple[str, str, tuple[int, ...], bytes]:
    match entry:
        case [str(name), str(kind), [*shape], bytes(values)]:
            sizes = tuple(n for n in shape if isinstance(n, int) and is_count(n))
            if len(sizes) == len(shape):
                return name, kind, sizes, values
    raise MalformedError("not a tensor")


def salt_of(opening: bytes, phase: int) -> bytes:
    """The salt (16 bytes) of the statement of a phase, whose round has this opening."""
    return payload_digest(pack([SALT_DOMAIN, opening, phase]))[:SALT_BYTES]


@dataclass(frozen=True, slots=True)
class Part:
    """One vector of an exchange as it was combined: whose, its weight there (0 where it was not
    mixed by weights), how it was stated, and its values (little-endian float32)."""

    agent: str
    weight: float
    statement: SignedStatement
    values: bytes


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One exchange of a round: `parts` in order of id, the agent's own among them; and the signed
    statements that the rows of its own one name."""

    phase: int
    parts: tuple[Part, ...]
    sources: tuple[SignedStatement, ...]


@dataclass(frozen=True, slots=True)
class KeptRound:
    """What an agent sent and heard in a round, exchange by exchange."""

    exchanges: tuple[Exchanged, ...]

    def encode(self) -> bytes:
        """The canonical bytes that stay on the agent's host."""
        exchanges: list[Value] = [
            [
                each.phase,
                [[p.agent, p.weight, _signed(p.statement), p.values] for p in each.parts],
                [_signed(source) for source in each.sources],
            ]
            for each in self.exchanges
        ]
        return pack([KEPT_VERSION, exchanges])

    @classmethod
    def decode(cls, data: bytes, *, sketch_bytes: int) -> Self:
        """Parse `encode`'s bytes, whose sketches have so many; raises MalformedError."""

        def part(entry: Value) -> Part:
            match entry:
                case [str(agent), float(weight), signed, bytes(values)]:
                    return Part(agent, weight, source(signed), values)
            raise MalformedError("not a part of an exchange")

        def source(entry: Value) -> SignedStatement:
            return _signed_from(entry, sketch_bytes)

        def exchanged(entry: Value) -> Exchanged:
            match entry:
                case [int(phase), [*parts], [*sources]]:
                    return Exchanged(phase, tuple(map(part, parts)), tuple(map(source, sources)))
            raise MalformedError("not an exchange")

        match unpack(data, bytes_max=FILE_BYTES_MAX):
            case [int(version), [*exchanges]] if is_count(version) and version == KEPT_VERSION:
                return cls(tuple(map(exchanged, exchanges)))
        raise MalformedError("not a kept round")


def _signed(statement: SignedStatement) -> list[Value]:
    return [statement.body, statement.signature]


def _signed_from(entry: Value, sketch_bytes: int) -> SignedStatement:
    match entry:
        case [bytes(body), bytes(signature)]:
            return SignedStatement.decode(body, signature, sketch_bytes_max=sketch_bytes)
    raise MalformedError("not a signed statement")


def encode_signed(statement: SignedStatement) -> bytes:
    """A statement and its signature as canonical bytes."""
    return pack(_signed(statement))


def decode_signed(data: bytes, sketch_bytes: int) -> SignedStatement:
    """Parse `encode_signed`'s bytes; raises MalformedError."""
    return _signed_from(unpack(data, bytes_max=FILE_BYTES_MAX), sketch_bytes)


@dataclass(frozen=True, slots=True)
class Echo:
    """What a neighbour stated in the round after, with the bodies that it commits to: if it names
    the agent's statement, that is the one which the neighbour has received."""

    statement: SignedStatement
    sources: tuple[bytes, ...]


def encode_echoes(echoes: Sequence[Echo]) -> bytes:
    """What neighbours stated next, as canonical bytes."""
    return pack([[_signed(each.statement), each.sources] for each in echoes])


def decode_echoes(data: bytes, sketch_bytes: int) -> tuple[Echo, ...]:
    """Parse `encode_echoes`' bytes; raises MalformedError."""

    def echo(entry: Value) -> Echo:
        match entry:
            case [signed, [*sources]]:
                bodies = tuple(body for body in sources if isinstance(body, bytes))
                return Echo(_signed_from(signed, sketch_bytes), bodies)
        raise MalformedError("not what a neighbour stated")

    match unpack(data, bytes_max=FILE_BYTES_MAX):
        case [*entries]:
            return tuple(map(echo, entries))
    raise MalformedError("not what neighbours stated")


def picked(
    run: bytes, agent: str, window: int, rounds: Sequence[int], claims: Iterable[SignedClaim]
) -> int | None:
    """The round that the coin picks of those that `agent` claims in a window, ascending, by the
    signed claims in its bill; None where it has no round, or no neighbour has claimed: then all of
    its rounds are looked at.

    It knows its own claim beforehand, which is no part of the coin.
    """
    heard = sorted(claim.encode() for claim in claims if claim.claim().agent != agent)
    if not rounds or not heard:
        return None
    coin = payload_digest(pack([COIN_DOMAIN, run, agent, window, heard]))
    return rounds[int.from_bytes(coin[:8], "big") % len(rounds)]
