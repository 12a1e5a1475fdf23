"""What an agent says it injected in a window: layout, signature and checks."""

import math
import secrets
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.independent import fresh, graphs, rounds
from tests.independent.phases import OWN
from tests.independent.rounds import TRACE_SIZE_MAX, Statement, energy, trace
from tests.independent.wire import (
    Cluster,
    Refused,
    fits,
    is_count,
    is_signed,
    pack,
    sha256,
    sign,
    unpack,
)

CLAIM_BYTES_MAX = 2**20


class Claimed(NamedTuple):
    """One round of a claim."""

    round: int
    energy: float
    heard: list[str]
    trace: bytes
    products: bytes = b""
    whole: float | None = None

    @property
    def told(self) -> list:
        """As it is encoded."""
        return list(self) if self.whole is not None else list(self)[:-1]

    @property
    def vector(self) -> np.ndarray:
        return np.frombuffer(self.trace, "<f4").astype(np.float64)

    @property
    def multiplied(self) -> np.ndarray:
        return np.frombuffer(self.products, "<f8")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim whose layout and signature are sound."""

    encoded: bytes
    body: bytes
    run: bytes
    window: int
    agent: str
    rounds: list[Claimed]

    @property
    def digest(self) -> bytes:
        return sha256(self.body)

    def is_of(self, cluster: Cluster, run: bytes, window: int) -> bool:
        """Whether it is of this run and window, in all its rounds, with traces that fit."""
        size = 4 * min(cluster.k, TRACE_SIZE_MAX)
        return (self.run, self.window) == (run, window) and all(
            cluster.window_of(one.round) == window
            and len(one.trace) == size
            and np.isfinite(one.vector).all()
            for one in self.rounds
        )

    @classmethod
    def parse(cls, cluster: Cluster, encoded: bytes) -> "Claim":
        """Raises Refused."""
        outer = unpack(encoded, CLAIM_BYTES_MAX)
        if not fits(outer, bytes, bytes):
            raise Refused("malformed")
        body, signature = outer
        fields = unpack(body, CLAIM_BYTES_MAX)
        if not fits(fields, int, bytes, int, str, list, bytes):
            raise Refused("malformed")
        version, run, window, agent, rounds, salt = fields
        head = (int, float, list, bytes, bytes)
        numbers = [one[0] for one in rounds if fits(one, *head) or fits(one, *head, float)]
        sound = (
            version == 4
            and len(run) == 32
            and len(salt) == 16
            and is_count(window)
            and len(numbers) == len(rounds)
            and numbers == sorted(set(numbers))
            and all(_is_sound(Claimed(*one)) for one in rounds)
            and _are_products([Claimed(*one) for one in rounds])
        )
        if not sound:
            raise Refused("malformed")
        known = agent in cluster.agents
        if not known or not is_signed(cluster.public(agent), "candor/claim/v1", body, signature):
            raise Refused("claim-signature")
        return cls(encoded, body, run, window, agent, [Claimed(*one) for one in rounds])


def _is_sound(one: Claimed) -> bool:
    ids = all(type(agent) is str for agent in one.heard) and one.heard == sorted(set(one.heard))
    whole = one.whole is None or 0 <= one.whole <= 2.0**900
    return one.round >= 1 and 0 <= one.energy <= 2.0**900 and ids and whole


def _are_products(claimed: list[Claimed]) -> bool:
    """Whether there is one with each earlier round, none larger than the energies allow."""
    for place, one in enumerate(claimed):
        if len(one.products) != 8 * place:
            return False
        for before, value in zip(claimed[:place], one.multiplied, strict=True):
            if not abs(value) <= bound(before, one) * (1 + 1e-9) + 1e-150:
                return False
    return True


def bound(one: Claimed, other: Claimed) -> float:
    return math.sqrt(one.energy) * math.sqrt(other.energy)


def make(
    cluster: Cluster,
    agent: str,
    window: int,
    rounds: list[Claimed],
    key: Ed25519PrivateKey,
    salt: bytes = b"",
) -> Claim:
    """The own claim of a window."""
    told = [one.told for one in rounds]
    body = pack([4, cluster.run, window, agent, told, salt or secrets.token_bytes(16)])
    encoded = pack([body, sign(key, "candor/claim/v1", body)])
    return Claim(encoded, body, cluster.run, window, agent, rounds)


def claimed(
    cluster: Cluster, number: int, found: np.ndarray, heard: list[str], whole: float | None = None
) -> Claimed:
    """What is claimed of a round in which the sketch `found` was injected, and so much energy in
    the whole."""
    traced = trace(cluster, cluster.window_of(number), found)
    return Claimed(number, energy(found), sorted(heard), traced, whole=whole)


def multiplied(entries: list[Claimed], found: dict[int, np.ndarray]) -> list[Claimed]:
    """Claimed rounds with their products, of the sketches `found` by round."""
    return [
        one._replace(
            products=b"".join(
                np.float64(found[earlier.round] @ found[one.round]).astype("<f8").tobytes()
                for earlier in entries[:place]
            )
        )
        for place, one in enumerate(entries)
    ]


def told(cluster: Cluster, number: int, stated: dict[int, Statement]) -> list[str] | None:
    """Whom a neighbour heard in the charged exchange of a round, as its statements of the same
    window say, by step; None where none does."""
    for phase, one in enumerate(cluster.phases):
        for place, part in enumerate(one.parts):
            if part.phase == cluster.charged and part.made != OWN:
                window = cluster.window_of(number)
                later = [
                    said
                    for said in stated.values()
                    if said.phase == phase and said.number_of(part) == number
                ]
                if not later or cluster.window_of(later[0].round) != window:
                    return None
                said = later[0]
                return rounds.told(said.formed[place], said.agent)
    return None


def check(
    cluster: Cluster,
    claim: Claim,
    seen: dict[int, np.ndarray],
    stated: dict[int, Statement],
    wholes: dict[int, float] | None = None,
) -> None:
    """Hold a neighbour's claim to what it was seen to inject, by round, and to its statements, by
    step. Raises Refused."""
    size = 4 * min(cluster.k, TRACE_SIZE_MAX)
    by_round = {one.round: one for one in claim.rounds}
    if any(cluster.window_of(number) != claim.window for number in by_round):
        raise Refused("claim-round")
    if not {n for n in seen if cluster.window_of(n) == claim.window} <= set(by_round):
        raise Refused("claim-incomplete")
    for number, one in by_round.items():
        heard = told(cluster, number, stated)
        if not set(one.heard) <= set(graphs.taken(cluster, number, claim.agent)) or (
            heard is not None and heard != one.heard
        ):
            raise Refused("claim-heard")
        if len(one.trace) != size or not np.isfinite(one.vector).all():
            raise Refused("claim-trace")
        known = (wholes or {}).get(number, one.whole)
        if (one.whole is None) != (fresh.values(cluster) == 0):
            raise Refused("claim-whole")
        if one.whole is not None and not math.isclose(one.whole, known, rel_tol=1e-9):
            raise Refused("claim-whole")
        if number in seen:
            expected = claimed(cluster, number, seen[number], [])
            if not math.isclose(one.energy, expected.energy, rel_tol=1e-9):
                raise Refused("claim-energy")
            apart = np.linalg.norm(one.vector - expected.vector)
            if apart > 1e-6 * np.linalg.norm(expected.vector):
                raise Refused("claim-trace")
    for place, one in enumerate(claim.rounds):
        for before, value in zip(claim.rounds[:place], one.multiplied, strict=True):
            if before.round in seen and one.round in seen:
                apart = abs(seen[before.round] @ seen[one.round] - value)
                if not apart <= 1e-9 * bound(before, one) + 1e-150:
                    raise Refused("claim-products")
