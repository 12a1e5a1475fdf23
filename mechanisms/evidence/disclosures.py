"""A picked round shown to neighbours, so that they do it again by themselves.

What an agent shows is all that it kept of the round, with the samples of the round's batches and
their paths in the tree that it has committed to. It signs which bytes these are: whatever does not
follow in them is its own word against itself, and nobody else can have made it up.

    body  = pack([1, run, agent, window, round, size, BLAKE3(shown)])
    shown = pack([start, kept, following, said, [[place, sample, key, path], …]])
    proof = pack([1, "false-report", agent, [body, signature], shown])

`start`, `kept`, `following` and `said` are bytes as in `mechanisms.evidence.kept`, the last two
empty where nothing follows. A proof convicts by what doing the round again tells, no sooner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from candor.mechanisms.evidence.kept import KeptRound, Start, decode_signed
from candor.mechanisms.evidence.sample_tree import (
    ROOT_BYTES,
    SECRET_BYTES,
    Samples,
    keyed_leaf,
    root_by,
)
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
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify

DISCLOSURE_DOMAIN: Final = "candor/disclosure/v1"
DISCLOSURE_VERSION: Final = 1
FALSE_REPORT: Final = "false-report"
BODY_BYTES_MAX: Final = 256
SAMPLES_MAX: Final = 2**16  # of a round
PIECE_BYTES: Final = 2**21  # in a message, of all but the last
# Of samples, statements and all else but vectors, of which these are more than any algorithm has.
SHOWN_BYTES_MAX: Final = 2**28
VECTORS_MORE_MAX: Final = 16
PROOF_SLACK_BYTES: Final = 1024


def shown_bytes_max(dim: int, neighbours: int) -> int:
    """How many bytes an agent with so many neighbours may show of a round."""
    return SHOWN_BYTES_MAX + 4 * dim * (neighbours + VECTORS_MORE_MAX)


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample at a place, as its bytes, with the key of its leaf and its path to the root."""

    place: int
    sample: bytes
    key: bytes
    path: bytes

    def leads_to(self, samples: Samples) -> bool:
        """Whether it is one of those that were committed to."""
        leaf = keyed_leaf(self.sample, self.key)
        return self.place < samples.count and samples.root == root_by(
            leaf, self.place, samples.count, self.path
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a round: its start, what was sent and heard in it, what the next one starts
    from and the statement that commits to that, None where none does, and samples, ascending by
    place."""

    start: Start
    round: KeptRound
    following: Start | None
    said: SignedStatement | None
    samples: tuple[ShownSample, ...]

    @classmethod
    def decode(cls, data: bytes, *, sketch_bytes: int) -> Self:
        """Parse `encode_shown`'s bytes, whose sketches have so many; raises MalformedError."""
        match unpack(data, bytes_max=len(data)):
            case [bytes(start), bytes(kept), bytes(following), bytes(said), [*entries]]:
                samples = tuple(map(_sample, entries))
                places = [one.place for one in samples]
                if places == sorted(set(places)):
                    return cls(
                        Start.decode(start),
                        KeptRound.decode(kept, sketch_bytes=sketch_bytes),
                        Start.decode(following) if following else None,
                        decode_signed(said, sketch_bytes) if said else None,
                        samples,
                    )
        raise MalformedError("not what is shown of a round")


def encode_shown(
    start: bytes, kept: bytes, following: bytes, said: bytes, samples: Sequence[ShownSample]
) -> bytes:
    """What is shown, of parts as they were kept."""
    entries: list[Value] = [[one.place, one.sample, one.key, one.path] for one in samples]
    return pack([start, kept, following, said, entries])


def _sample(entry: Value) -> ShownSample:
    match entry:
        case [int(place), bytes(sample), bytes(key), bytes(path)] if (
            is_count(place) and len(key) == SECRET_BYTES and len(path) <= 64 * ROOT_BYTES
        ):
            return ShownSample(place, sample, key, path)
    raise MalformedError("not a sample with its path")


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What an agent signs of what it shows: of which round, how many bytes and which ones."""

    run: bytes
    agent: str
    window: int
    round: int
    size: int
    digest: bytes

    def encode(self) -> bytes:
        """The canonical bytes that are signed."""
        place: list[Value] = [DISCLOSURE_VERSION, self.run, self.agent, self.window, self.round]
        return pack([*place, self.size, self.digest])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse `encode`'s bytes; raises MalformedError."""
        match unpack(data, bytes_max=BODY_BYTES_MAX):
            case [
                int(version),
                bytes(run),
                str(agent),
                int(window),
                int(number),
                int(size),
                bytes(digest),
            ] if (
                is_count(version)
                and version == DISCLOSURE_VERSION
                and len(run) == 32
                and is_name(agent, ID_CHARS_MAX)
                and is_count(window)
                and is_count(number, least=1)
                and is_count(size, least=1)
                and len(digest) == 32
            ):
                return cls(run, agent, window, number, size, digest)
        raise MalformedError("not a disclosure of this version")


@dataclass(frozen=True, slots=True)
class SignedDisclosure:
    """A disclosure's body and its agent's signature."""

    body: bytes
    signature: bytes

    @classmethod
    def sign(cls, disclosure: Disclosure, key: SigningKey) -> Self:
        """Sign with the agent's key."""
        body = disclosure.encode()
        return cls(body, key.sign(DISCLOSURE_DOMAIN, body))

    def verified(self, public: bytes) -> Disclosure:
        """What was signed; raises MalformedError, also where it was not signed."""
        found = Disclosure.decode(self.body)
        if len(self.signature) != SIGNATURE_BYTES or not verify(
            public, self.signature, DISCLOSURE_DOMAIN, self.body
        ):
            raise MalformedError(f"not signed by {found.agent}")
        return found


@dataclass(frozen=True, slots=True)
class ShownRound:
    """What an agent has signed of a round, and the very bytes: where doing that round again tells
    that something is false, this is the proof."""

    agent: str
    signed: SignedDisclosure
    shown: bytes

    def encode(self) -> bytes:
        """The canonical bytes of a file."""
        pair: list[Value] = [self.signed.body, self.signed.signature]
        return pack([DISCLOSURE_VERSION, FALSE_REPORT, self.agent, pair, self.shown])

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Parse `encode`'s bytes; None for what is something else; raises MalformedError where it
        says to be one and is damaged."""
        head = pack([DISCLOSURE_VERSION, FALSE_REPORT, "", [], b""])[: 3 + len(FALSE_REPORT)]
        if not data.startswith(head):
            return None
        match unpack(data, bytes_max=len(data)):
            case [_, _, str(agent), [bytes(body), bytes(signature)], bytes(shown)] if is_name(
                agent, ID_CHARS_MAX
            ):
                return cls(agent, SignedDisclosure(body, signature), shown)
        raise MalformedError("not a proof of a false report")

    def disclosure(self, run: bytes, public: bytes | None, bytes_max: int) -> Disclosure:
        """What its agent has signed in a run, and that these are the bytes; raises
        MalformedError."""
        if public is None:
            raise MalformedError(f"no public key of {self.agent} is known")
        found = self.signed.verified(public)
        if (found.run, found.agent) != (run, self.agent):
            raise MalformedError("it is of another run or agent")
        if found.size > bytes_max:
            raise MalformedError(f"it has {found.size} bytes where {bytes_max} are allowed")
        if (found.size, found.digest) != (len(self.shown), payload_digest(self.shown)):
            raise MalformedError(f"its bytes are not those that {self.agent} has signed")
        return found
