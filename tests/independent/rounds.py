"""Sketches, statements, and what an agent injected."""

import math
from dataclasses import dataclass

import blake3
import numpy as np

from tests.independent import graphs
from tests.independent.wire import (
    Cluster,
    Refused,
    fits,
    is_count,
    is_signed,
    pack,
    sha256,
    unpack,
)

TRACE_SIZE_MAX = 128
HIDDEN_RATIO, HIDDEN_FLOOR = 1e6, 1e6
DOMAIN = "candor/statement/v1"


def folded(domain: str, run: bytes, window: int, vector: np.ndarray, size: int) -> np.ndarray:
    """`vector` under the signs of a window, added into `size` buckets one row after the other."""
    vector = vector.astype(np.float64)
    if len(vector) <= size:
        return vector
    seed = pack([domain, run, window])
    stream = blake3.blake3(seed).digest(length=(len(vector) + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")[: len(vector)]
    signed = np.where(bits == 1, -vector, vector)
    rows = np.pad(signed, (0, -len(vector) % size)).reshape(-1, size)
    buckets = np.zeros(size)
    for row in rows:
        buckets += row
    return buckets


def sketch(cluster: Cluster, window: int, vector: np.ndarray) -> bytes:
    """S vector, as it stands in a statement."""
    found = folded("candor/sketch-signs/v1", cluster.run, window, vector, cluster.sketch_size)
    return found.astype("<f8").tobytes()


def next_sketch(cluster: Cluster, number: int, vector: np.ndarray) -> bytes:
    """S vector under the next window's signs, where a statement of this round has it."""
    if not cluster.ends_window(number) or cluster.k == cluster.dim:
        return b""
    return sketch(cluster, cluster.window_of(number) + 1, vector)


def trace(cluster: Cluster, window: int, of: np.ndarray) -> bytes:
    """The trace of a sketch, as it stands in a claim."""
    found = folded("candor/trace-signs/v1", cluster.run, window, of, TRACE_SIZE_MAX)
    return found.astype("<f4").tobytes()


def payload(model: np.ndarray) -> bytes:
    return model.astype("<f4").tobytes()


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement whose layout is sound, with its bytes."""

    body: bytes
    signature: bytes
    run: bytes
    round: int
    agent: str
    digest: bytes
    dim: int
    row: dict[str, float]
    step_size: float
    sketch: bytes
    next_sketch: bytes
    sources: bytes

    @classmethod
    def parse(cls, cluster: Cluster, body: bytes, signature: bytes) -> "Statement":
        """Raises Refused where the layout is broken."""
        fields = unpack(body, 16 * cluster.k + 200_704)
        if not fits(fields, int, bytes, int, str, bytes, int, list, float, bytes, bytes, bytes):
            raise Refused("malformed")
        version, run, number, agent, digest, dim, row, step, own, after, sources = fields
        sound = (
            version == 2
            and len(run) == len(digest) == 32
            and len(sources) == (32 if number > 1 else 0)
            and is_count(number)
            and number >= 1
            and is_count(dim)
            and len(row) <= 4_096
            and all(fits(item, str, float) and math.isfinite(item[1]) for item in row)
            and [item[0] for item in row] == sorted({item[0] for item in row})
        )
        if not sound:
            raise Refused("malformed")
        weights = dict(row)
        given = (run, number, agent, digest, dim, weights, step, own, after, sources)
        return cls(body, signature, *given)

    def is_genuine(self, cluster: Cluster) -> bool:
        known = self.agent in cluster.agents
        return known and is_signed(cluster.public(self.agent), DOMAIN, self.body, self.signature)

    def sketch_for(self, cluster: Cluster, window: int) -> np.ndarray:
        """S y under the signs of `window`: the round's own or, from its last round, the next."""
        here = cluster.k == cluster.dim or window == cluster.window_of(self.round)
        data = self.sketch if here else self.next_sketch
        if len(data) != 8 * cluster.k:
            raise Refused("witness-window")
        return np.frombuffer(data, "<f8")


def commitment(row: dict[str, float], before: "dict[str, Statement]") -> bytes:
    """What a statement says of those of the round before that its row names; b"" in round 1."""
    if not before:
        return b""
    return sha256(pack([sha256(before[agent].body) for agent in sorted(row)]))


def body_of(
    cluster: Cluster,
    number: int,
    agent: str,
    row: dict[str, float],
    vector: np.ndarray,
    before: "dict[str, Statement]",
) -> bytes:
    """What an agent signs about the payload `vector` of a round."""
    data, window = payload(vector), cluster.window_of(number)
    return pack(
        [
            2,
            cluster.run,
            number,
            agent,
            blake3.blake3(data).digest(),
            cluster.dim,
            [[one, row[one]] for one in sorted(row)],
            cluster.step_size(number) / graphs.masses(cluster, number)[agent],
            sketch(cluster, window, vector),
            next_sketch(cluster, number, vector),
            commitment(row, before),
        ]
    )


def is_row(cluster: Cluster, agent: str, number: int, row: dict[str, float]) -> bool:
    """Whether a mixing row is one that the page allows."""
    if number == 1:
        return row == {agent: 1.0}
    near = graphs.taken(cluster, number - 1, agent)
    if len(row) == 1 and set(row) <= set(near):
        return list(row.values()) == [1.0]
    others = {one: weight for one, weight in row.items() if one != agent}
    if agent not in row or row[agent] < 0.0 or any(near.get(k) != w for k, w in others.items()):
        return False
    due = mixing_row(cluster, agent, number - 1, list(others))
    return abs(row[agent] - due[agent]) <= 1e-12


def mixing_row(cluster: Cluster, agent: str, number: int, heard: list[str]) -> dict[str, float]:
    """The weights of a round in which these givers were mixed."""
    near = graphs.taken(cluster, number, agent)
    row = {one: near[one] for one in sorted(heard)}
    total = 0.0
    for one in sorted(row):
        total += row[one]
    return {**row, agent: max(0.0, 1.0 - total)}


def check_announced(cluster: Cluster, sender: str, stated: Statement) -> None:
    """The checks of an UPDATE that come before its payload. Raises Refused."""
    if stated.agent != sender:
        raise Refused("statement-agent")
    if not stated.is_genuine(cluster):
        raise Refused("statement-signature")
    if stated.run != cluster.run:
        raise Refused("statement-run")
    if stated.round > cluster.rounds:
        raise Refused("statement-round")
    if (stated.dim, len(stated.sketch)) != (cluster.dim, 8 * cluster.k):
        raise Refused("statement-size")
    step_size = cluster.step_size(stated.round) / graphs.masses(cluster, stated.round)[sender]
    if not math.isclose(stated.step_size, step_size, rel_tol=1e-12):
        raise Refused("step-size")
    if not is_row(cluster, sender, stated.round, stated.row):
        raise Refused("mixing-row")


def check_payload(cluster: Cluster, stated: Statement, data: bytes) -> np.ndarray:
    """The payload as a vector, when it is what was stated. Raises Refused."""
    if blake3.blake3(data).digest() != stated.digest:
        raise Refused("payload-digest")
    vector, window = np.frombuffer(data, "<f4"), cluster.window_of(stated.round)
    if sketch(cluster, window, vector) != stated.sketch:
        raise Refused("payload-sketch")
    if next_sketch(cluster, stated.round, vector) != stated.next_sketch:
        raise Refused("payload-sketch")
    if not np.isfinite(vector).all():
        raise Refused("payload-not-finite")
    seen = energy(np.frombuffer(stated.sketch, "<f8"))
    if energy(vector.astype(np.float64)) > HIDDEN_RATIO * seen + HIDDEN_FLOOR:
        raise Refused("payload-hidden")
    return vector


def check_witness(cluster: Cluster, stated: Statement, agent: str, witness: Statement) -> None:
    """Whether a forwarded statement is of the round before. Raises Refused."""
    if (witness.agent, witness.round) != (agent, stated.round - 1):
        raise Refused("witness-round")
    if witness.run != cluster.run or len(witness.sketch) != 8 * cluster.k:
        raise Refused("witness-run")
    if not witness.is_genuine(cluster):
        raise Refused("witness-signature")


def injected(
    cluster: Cluster, stated: Statement, before: dict[str, Statement], initial: np.ndarray
) -> np.ndarray:
    """S u of a round, from its statement and those that its row names."""
    window = cluster.window_of(stated.round)
    if stated.sources != commitment(stated.row, before):
        raise Refused("witness-digest")
    if stated.round == 1:
        mixed = np.frombuffer(sketch(cluster, 0, initial), "<f8")
    else:
        mixed = np.zeros(cluster.k)
        for agent in sorted(stated.row):
            mixed = mixed + stated.row[agent] * before[agent].sketch_for(cluster, window)
    found = (mixed - stated.sketch_for(cluster, window)) / stated.step_size
    if not math.isfinite(energy(found)):
        raise Refused("injected-not-finite")
    return found


def energy(vector: np.ndarray) -> float:
    """The squared norm."""
    return float(vector @ vector)
