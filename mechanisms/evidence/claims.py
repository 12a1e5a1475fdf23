"""What an agent says it injected in a window, signed: the basis of every bill.

Only layout and signature; `mechanisms.evidence.examiner.check_claim` holds a claim against
statements.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Self

import numpy as np

from candor.mechanisms.evidence.statements import ID_CHARS_MAX
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

CLAIM_DOMAIN: Final = "candor/claim/v1"
CLAIM_VERSION: Final = 4
# 16 rounds with 1,000 neighbours fit many times over.
FIXED_BYTES_MAX: Final = 512
CLAIM_BYTES_MAX: Final = 2**20
# So that no sum over a window overflows, whatever is claimed; of updates, 1e16 is too large.
ENERGY_BOUND: Final = 2.0**900
# What rounding adds to the product of two parallel sketches, and to that of very short ones.
PRODUCT_TOLERANCE: Final = 1e-9
PRODUCT_FREE: Final = 1e-150
# A claim comes once by itself and once in the bill of every neighbour, and is asked for its content
# by each that judges it. Of 30 neighbours it has some 5 KiB; parsed, 25 times as much at most.
PARSED_MAX: Final = 128
PARSED_BYTES_MAX: Final = 2**14


@dataclass(frozen=True, slots=True)
class ClaimedRound:
    """One round of a claim: the energy ||S u||^2, the neighbours whose updates were mixed, the
    trace of S u (`mechanisms.evidence.sketch.TraceFold`, little-endian float32), its inner products
    with the S u of the claim's earlier rounds, ascending (little-endian float64), and where the run
    has fresh sketches (`mechanisms.evidence.fresh`) the energy `whole` that they show."""

    round: int
    energy: float
    heard: tuple[str, ...]
    trace: bytes
    products: bytes = b""
    whole: float | None = None

    def fields(self) -> Value:
        """The array as which it is encoded."""
        shown: list[Value] = [self.round, self.energy, self.heard, self.trace, self.products]
        return shown if self.whole is None else [*shown, self.whole]


@dataclass(frozen=True, slots=True)
class Claim:
    """What an agent says it injected in a window, round by round. Its `salt` keeps those who see
    a digest alone, as in a bill without its claims, from testing what was claimed."""

    run: bytes
    window: int
    agent: str
    rounds: tuple[ClaimedRound, ...]
    salt: bytes = bytes(SALT_BYTES)

    def encode(self) -> bytes:
        """The canonical bytes that are signed."""
        rounds: list[Value] = [entry.fields() for entry in self.rounds]
        return pack([CLAIM_VERSION, self.run, self.window, self.agent, rounds, self.salt])

    @classmethod
    def decode(cls, body: bytes, *, bytes_max: int = CLAIM_BYTES_MAX) -> Self:
        """Parse canonical bytes.

        Raises:
            MalformedError: wrong layout, types or order.
        """
        match unpack(body, bytes_max=bytes_max):
            case [
                int(version),
                bytes(run),
                int(window),
                str(agent),
                list(rounds),
                bytes(salt),
            ] if (
                is_count(version)
                and version == CLAIM_VERSION
                and len(run) == 32
                and len(salt) == SALT_BYTES
                and is_count(window)
                and is_name(agent, ID_CHARS_MAX)
            ):
                claimed = tuple(_claimed_round(entry) for entry in rounds)
            case _:
                raise MalformedError("not a claim")
        numbers = [entry.round for entry in claimed]
        if numbers != sorted(set(numbers)):
            raise MalformedError("a claim's rounds must be ascending")
        _check_products(claimed)
        return cls(run, window, agent, claimed, salt)


def _claimed_round(entry: Value) -> ClaimedRound:
    match entry:
        case [int(number), float(squared), list(heard), bytes(trace), bytes(products), *rest] if (
            is_count(number, least=1) and 0 <= squared <= ENERGY_BOUND and len(trace) % 4 == 0
        ):
            ids = tuple(a for a in heard if isinstance(a, str) and is_name(a, ID_CHARS_MAX))
            if len(ids) == len(heard) and list(ids) == sorted(set(ids)):
                return ClaimedRound(number, squared, ids, trace, products, _whole(rest))
    raise MalformedError("not a claimed round")


def _whole(rest: Sequence[Value]) -> float | None:
    match rest:
        case []:
            return None
        case [float(whole)] if 0 <= whole <= ENERGY_BOUND:
            return whole
    raise MalformedError("not a claimed round")


def _check_products(rounds: Sequence[ClaimedRound]) -> None:
    """That each round has a product with every earlier one, which could be one: by Cauchy and
    Schwarz none is above the root of both energies.

    Raises:
        MalformedError
    """
    lengths = np.sqrt([entry.energy for entry in rounds])
    for place, entry in enumerate(rounds):
        if len(entry.products) != 8 * place:
            raise MalformedError("a claimed round must have a product with every earlier one")
        bound = lengths[:place] * lengths[place] * (1.0 + PRODUCT_TOLERANCE) + PRODUCT_FREE
        if not (np.abs(np.frombuffer(entry.products, "<f8")) <= bound).all():  # false for NaN
            raise MalformedError("a claimed product is larger than the energies allow")


_remembered = lru_cache(PARSED_MAX)(Claim.decode)


def _parsed(body: bytes) -> Claim:
    """The claim of a body; long ones, which only an attack has, are not remembered."""
    return _remembered(body) if len(body) <= PARSED_BYTES_MAX else Claim.decode(body)


@dataclass(frozen=True, slots=True)
class SignedClaim:
    """A claim's signed bytes."""

    body: bytes
    signature: bytes

    @classmethod
    def sign(cls, claim: Claim, key: SigningKey) -> Self:
        """Sign a claim, salted by its window."""
        place = pack([claim.run, claim.window])
        claim = replace(claim, salt=key.salt(CLAIM_DOMAIN.encode(), place))
        body = claim.encode()
        return cls(body, key.sign(CLAIM_DOMAIN, body))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body (32 bytes), by which bills refer to it."""
        return sha256(self.body)

    def claim(self) -> Claim:
        """The parsed body; raises MalformedError."""
        return _parsed(self.body)

    def verify(self, public: bytes) -> bool:
        """Whether `public` signed this body."""
        return verify(public, self.signature, CLAIM_DOMAIN, self.body)

    def encode(self) -> bytes:
        """Body and signature as one canonical byte string."""
        return pack([self.body, self.signature])

    @classmethod
    def decode(cls, data: bytes, *, bytes_max: int = CLAIM_BYTES_MAX) -> Self:
        """Parse `encode`'s bytes; raises MalformedError."""
        match unpack(data, bytes_max=bytes_max):
            case [bytes(body), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
                _parsed(body)
                return cls(body, signature)
            case _:
                raise MalformedError("not a signed claim")


def heard_rounds(referee: Claim, member: Claim) -> tuple[int, ...]:
    """The rounds, ascending, for which `member` is charged on the edge to `referee`.

    They are those that it claims and in which the referee says it mixed the member's update. What
    the member itself chose to mix does not matter: ignoring a neighbour is no way out of paying it.
    """
    heard = {r.round for r in referee.rounds if member.agent in r.heard}
    return tuple(r.round for r in member.rounds if r.round in heard)


def claim_bytes_max(window_rounds: int, neighbours: Iterable[str], trace_bytes: int) -> int:
    """The longest signed claim of an agent with these neighbours: the bound on what peers send."""
    heard = sum(len(agent) + 2 for agent in neighbours)
    products = 4 * window_rounds  # bytes of a round's, in the mean
    return FIXED_BYTES_MAX + window_rounds * (48 + heard + trace_bytes + products)
