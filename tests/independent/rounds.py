"""Sketches, statements, and what an agent injected."""

import math
import secrets
from dataclasses import dataclass

import blake3
import numpy as np

from tests.independent import barter, fresh, graphs, influence, rows
from tests.independent.barter import Rating
from tests.independent.phases import CODECS, MEDIAN, OWN, Part, decoded, encoded, payload_bytes
from tests.independent.wire import (
    Cluster,
    Refused,
    fits,
    is_count,
    is_name,
    is_signed,
    pack,
    sha256,
    unpack,
)

TRACE_SIZE_MAX = 128
HIDDEN_RATIO, HIDDEN_FLOOR = 1e6, 1e6
DOMAIN, PAYLOAD_DOMAIN = "candor/statement/v2", "candor/payload/v1"
LISTED, DERIVED, ATTESTED = 0, 1, 2

Formed = list  # a part of `formed`, as it is encoded
Source = tuple[int, int, str]  # round, phase and agent of a statement


def folded(domain: str, run: bytes, window: int, vector: np.ndarray, size: int) -> np.ndarray:
    """`vector` under the signs of a window, added into `size` buckets one row after the other."""
    if len(vector) <= size:
        return vector.astype(np.float64)
    signed = under_signs(domain, run, window, vector)
    rows = np.pad(signed, (0, -len(vector) % size)).reshape(-1, size)
    buckets = np.zeros(size)
    for row in rows:
        buckets += row
    return buckets


def under_signs(domain: str, run: bytes, window: int, vector: np.ndarray) -> np.ndarray:
    vector = vector.astype(np.float64)
    seed = pack([domain, run, window])
    stream = blake3.blake3(seed).digest(length=(len(vector) + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")[: len(vector)]
    return np.where(bits == 1, -vector, vector)


def sketch(cluster: Cluster, window: int, vector: np.ndarray) -> bytes:
    """S vector, as it stands in a statement."""
    found = folded("candor/sketch-signs/v1", cluster.run, window, vector, cluster.sketch_size)
    return found.astype("<f8").tobytes()


def next_sketch(cluster: Cluster, number: int, phase: int, vector: np.ndarray) -> bytes:
    """S vector under the next window's signs, where a statement of this exchange has it."""
    used = any(part.before and part.phase == phase for one in cluster.phases for part in one.parts)
    needed = cluster.sits_out or cluster.ends_window(number)
    if not needed or cluster.k == cluster.dim or not used:
        return b""
    return sketch(cluster, cluster.window_of(number) + 1, vector)


def trace(cluster: Cluster, window: int, of: np.ndarray) -> bytes:
    """The trace of a sketch, as it stands in a claim."""
    found = folded("candor/trace-signs/v1", cluster.run, window, of, TRACE_SIZE_MAX)
    return found.astype("<f4").tobytes()


def rated_trace(cluster: Cluster, window: int, of: np.ndarray) -> np.ndarray:
    """The trace of a sketch by which is rated, not rounded: group by group."""
    signed, count = of, barter.groups(cluster)
    if len(of) > TRACE_SIZE_MAX:
        signed = under_signs("candor/trace-signs/v1", cluster.run, window, of)
    size = min(len(of), TRACE_SIZE_MAX)
    each, found = size // count, np.zeros(size)
    for group in range(count):
        first = barter.bound(cluster, group)
        for bucket in range(first, barter.bound(cluster, group + 1)):
            found[group * each + (bucket - first) % each] += signed[bucket]
    return found


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement whose layout is sound, with its bytes."""

    body: bytes
    signature: bytes
    run: bytes
    round: int
    phase: int
    agent: str
    codec: str
    digest: bytes
    dim: int
    formed: list[Formed]
    step_size: float
    sketch: bytes
    next_sketch: bytes
    sources: bytes
    salt: bytes
    rewards: list | None = None  # [trace, [[id, reputation, score, groups], ...]]
    influence: list | None = None  # [total, bound, most, slack]
    fresh: bytes = b""  # of its vector and those that its rows name
    sat_out: int = 0

    @classmethod
    def parse(cls, cluster: Cluster, body: bytes, signature: bytes) -> "Statement":
        """Raises Refused where the layout is broken."""
        fields = unpack(body, 24 * cluster.k + 2_888_704)
        head = (int, bytes, int, int, str, str, bytes, int)
        if not fits(fields[:14], *head, list, float, bytes, bytes, bytes, bytes):
            raise Refused("malformed")
        version, run, number, phase, agent, codec, digest, dim, formed, _, *last = fields
        own, after, to_sources, salt, *rewards = last
        sat_out = rewards.pop(0) if rewards and fits(rewards[:1], int) else 0
        told_fresh = rewards.pop() if rewards and fits(rewards[-1:], bytes) else None
        sound = (
            version == 4
            and len(run) == len(digest) == 32
            and is_count(number)
            and number >= 1
            and 0 <= phase < 16
            and is_name(agent)
            and is_name(codec)
            and is_count(dim)
            and dim >= 1
            and 0 < len(own) <= 8 * cluster.k
            and len(after) in (0, len(own))
            and len(to_sources) in (0, 32)
            and len(salt) == 16
            and len(formed) <= 4
            and all(_is_part(part, len(own)) for part in formed)
            and sum(part[0] == ATTESTED for part in formed) <= 1
            and (len(rewards) <= 1)
            and 0 <= sat_out < max(number, 1)
            and (sat_out > 0 or len(fields) == 14 or not fits(fields[14:15], int))
        )
        bounds = bool(rewards) and fits(rewards[0], bytes, float, float, float)
        if bounds:
            sound = sound and influence.is_layout(rewards[0], len(own))
        if told_fresh is not None:
            whole = bool(told_fresh) and len(told_fresh) % 8 == 0
            sound = sound and whole and bool(np.isfinite(np.frombuffer(told_fresh, "<f8")).all())
        if not sound or (rewards and not bounds and not _are_rewards(rewards[0])):
            raise Refused("malformed")
        told = [None, rewards[0]] if bounds else [*rewards, None, None][:2]
        return cls(body, signature, *fields[1:14], *told, told_fresh or b"", sat_out)

    def number_of(self, part: Part) -> int:
        """The round that a part is made of: its own, or the last that its agent mixed."""
        return self.round - (1 + self.sat_out) * part.before

    @property
    def trace(self) -> np.ndarray:
        return np.frombuffer(self.rewards[0], "<f4").astype(np.float64)

    @property
    def ratings(self) -> dict[str, Rating]:
        """What the agent says of itself and its neighbours, where models are traded."""
        return {one: Rating(*told) for one, *told in self.rewards[1]}

    @property
    def reputations(self) -> dict[str, float]:
        return {one: rating.reputation for one, rating in self.ratings.items()}

    def given(self, agent: str) -> int:
        """How many groups it gives an agent."""
        return self.ratings[agent].groups if agent in self.ratings else 0

    @property
    def source(self) -> Source:
        return self.round, self.phase, self.agent

    @property
    def head(self) -> bytes:
        return head_of(self.run, self.source, sha256(self.body))

    def is_genuine(self, cluster: Cluster) -> bool:
        known = self.agent in cluster.agents
        return known and is_signed(cluster.public(self.agent), DOMAIN, self.head, self.signature)

    def sketch_for(self, cluster: Cluster, window: int) -> np.ndarray:
        """S y under the signs of `window`: the round's own or, from its last round, the next."""
        here = cluster.k == cluster.dim or window == cluster.window_of(self.round)
        data = self.sketch if here else self.next_sketch
        if len(data) != 8 * cluster.k:
            raise Refused("witness-window")
        return np.frombuffer(data, "<f8")


def head_of(run: bytes, source: Source, digest: bytes) -> bytes:
    """What is signed of a statement whose body has this digest."""
    return pack([run, *source, digest])


def sending_of(body: bytes, digest: bytes) -> bytes:
    """What is signed of a payload with this digest that is sent with a statement."""
    return pack([sha256(body), digest])


def _is_part(part: object, sketch_bytes: int) -> bool:
    """Whether this says, by its layout, how a part came about."""
    if fits(part, int, list) and part[0] == LISTED:
        return _is_row(part[1])
    if fits(part, int, str, list) and part[0] == DERIVED:
        return is_name(part[1]) and _is_row(part[2])
    return (
        fits(part, int, str, list, bytes)
        and part[0] == ATTESTED
        and is_name(part[1])
        and _are_ids(part[2])
        and len(part[3]) == sketch_bytes
    )


def _are_rewards(last: object) -> bool:
    """Whether this is a trace and ratings, by its layout."""
    if not fits(last, bytes, list) or len(last[0]) % 4 or not 0 < len(last[0]) <= 512:
        return False
    sound = all(
        fits(one, str, float, float, int)
        and math.isfinite(one[1])
        and one[1] >= 0.0
        and math.isfinite(one[2])
        and 0 <= one[3] <= 32
        for one in last[1]
    )
    whole = np.isfinite(np.frombuffer(last[0], "<f4")).all()
    return bool(whole) and sound and _are_ids([one[0] for one in last[1]])


def _is_row(row: list) -> bool:
    weighted = all(fits(item, str, float) and math.isfinite(item[1]) for item in row)
    return weighted and _are_ids([item[0] for item in row])


def _are_ids(ids: list) -> bool:
    return len(ids) <= 4_096 and all(map(is_name, ids)) and ids == sorted(set(ids))


def told(formed: Formed, agent: str) -> list[str] | None:
    """Whom an agent says it heard; None of an empty row."""
    if formed[0] == ATTESTED:
        return formed[2]
    return [one for one, _ in formed[-1] if one != agent] if formed[-1] else None


def named(
    cluster: Cluster, number: int, phase: int, formed: list[Formed], sat_out: int = 0
) -> list[Source]:
    """The statements that the rows of a statement name, each once. Raises Refused."""
    parts = cluster.phases[phase].parts
    if len(parts) != len(formed):
        raise Refused("statement-parts")
    found: dict[Source, None] = {}
    for part, how in zip(parts, formed, strict=True):
        of = number - (1 + sat_out) * part.before
        if how[0] != ATTESTED and of > 0:
            found |= {(of, part.phase, agent): None for agent, _ in how[-1]}
    return list(found)


def commitment(sources: list[Statement]) -> bytes:
    """What a statement says of those that it names; b"" of none."""
    return sha256(pack([sha256(one.body) for one in sources])) if sources else b""


def step_size_of(cluster: Cluster, number: int, phase: int, agent: str) -> float:
    """What an injected vector is multiplied with."""
    if cluster.phases[phase].direct:
        return -1.0
    return cluster.step_size(number) / graphs.masses(cluster, number)[agent]


def body_of(
    cluster: Cluster,
    number: int,
    phase: int,
    agent: str,
    formed: list[Formed],
    vector: np.ndarray,
    sources: list[Statement],
    rewards: list | None = None,
    before: dict[Source, np.ndarray] | None = None,
) -> bytes:
    """What an agent states of a vector, as it is decoded; `before` are the vectors that its rows
    name, where the run has fresh sketches."""
    told = [] if rewards is None else [rewards]
    if fresh.values(cluster) and phase == cluster.charged:
        place = (cluster.run, agent, number, digest_of(cluster, vector))
        held = [(before or {})[one] for one in named(cluster, number, phase, formed)]
        told.append(b"".join(fresh.sketch(*place, one).tobytes() for one in [vector, *held]))
    return pack(
        [
            4,
            cluster.run,
            number,
            phase,
            agent,
            cluster.codec,
            digest_of(cluster, vector),
            cluster.dim,
            formed,
            step_size_of(cluster, number, phase, agent),
            sketch(cluster, cluster.window_of(number), vector),
            next_sketch(cluster, number, phase, vector),
            commitment(sources),
            secrets.token_bytes(16),
            *told,
        ]
    )


def rated_body(
    cluster: Cluster,
    number: int,
    agent: str,
    formed: list[Formed],
    vector: np.ndarray,
    sources: dict[Source, Statement],
    novelties: dict[str, float],
    initial: np.ndarray,
) -> bytes:
    """The same where models are traded: with the trace of what is injected, and ratings."""
    rated = ratings_after(cluster, agent, number, formed[0], sources, novelties)
    last = [bytes(4 * min(cluster.k, TRACE_SIZE_MAX)), [[one, *rated[one]] for one in rated]]
    head = (cluster, number, 0, agent, formed, vector, list(sources.values()))
    untraced = Statement.parse(cluster, body_of(*head, last), b"")
    found = injected(cluster, untraced, sources, initial)
    traced = rated_trace(cluster, cluster.window_of(number), found).astype("<f4").tobytes()
    return body_of(*head, [traced, last[1]])


def bounded_body(
    cluster: Cluster,
    number: int,
    agent: str,
    formed: list[Formed],
    vector: np.ndarray,
    sources: dict[Source, Statement],
    initial: np.ndarray,
    before: dict[Source, np.ndarray],
) -> tuple[bytes, float]:
    """The same where what is injected has a bound, and which share of its window's total the agent
    may keep: below 1, it is to send less."""
    head = (cluster, number, 0, agent, formed, vector, list(sources.values()))
    untold = Statement.parse(cluster, body_of(*head, None, before), b"")
    found = _found(cluster, untold, _parts(cluster, untold, sources, initial))
    told = influence.due(cluster, untold, found, sources)
    return body_of(*head, told, before), influence.share(told)


def digest_of(cluster: Cluster, vector: np.ndarray) -> bytes:
    if barter.rule_of(cluster):
        return barter.digest_of(barter.leaves(cluster, vector, 0, barter.groups(cluster)))
    return blake3.blake3(vector.tobytes()).digest()


def is_formed(cluster: Cluster, stated: Statement, part: Part, formed: Formed) -> bool:
    """Whether a part was formed in a way that the page allows."""
    agent, number = stated.agent, stated.number_of(part)
    near = graphs.taken(cluster, number, agent) if number else {}
    if formed[0] == ATTESTED:
        return part.made == MEDIAN == formed[1] and number > 0 and set(formed[2]) <= set(near)
    if formed[0] == DERIVED:
        ids = {one for one, _ in formed[2]}
        return part.rule == formed[1] and number > 0 and agent in ids <= {agent, *near}
    row, of_models = dict(formed[1]), part.phase == cluster.model
    if part.made == OWN or (number == 0 and of_models):
        return row == {agent: 1.0}
    if not of_models and (not row or number == 0):
        return not row and part.before
    if of_models and len(row) == 1 and set(row) <= set(near):
        return list(row.values()) == [1.0]
    if part.made == MEDIAN or part.rule:
        return False
    others = {one: weight for one, weight in row.items() if one != agent}
    if agent not in row or row[agent] < 0.0 or any(near.get(k) != w for k, w in others.items()):
        return False
    due = mixing_row(cluster, agent, number, list(others))
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
    if (stated.dim, len(stated.sketch)) != (cluster.dim, 8 * cluster.k):
        raise Refused("statement-size")
    if stated.round > cluster.rounds:
        raise Refused("statement-round")
    if stated.codec != cluster.codec:
        raise Refused("statement-codec")
    named(cluster, stated.round, stated.phase, stated.formed, stated.sat_out)
    due = step_size_of(cluster, stated.round, stated.phase, sender)
    if not math.isclose(stated.step_size, due, rel_tol=1e-12):
        raise Refused("step-size")
    mixed_in = cluster.window_of(stated.round - 1 - stated.sat_out)
    reaches = cluster.sits_out and cluster.window_of(stated.round) - mixed_in <= 1
    if stated.sat_out and not reaches:
        raise Refused("sat-out")
    parts = cluster.phases[stated.phase].parts
    if not all(is_formed(cluster, stated, *one) for one in zip(parts, stated.formed, strict=True)):
        raise Refused("mixing-row")
    check_given(cluster, stated)
    check_bounded(cluster, stated)
    vectors = 1 + len(named(cluster, stated.round, stated.phase, stated.formed, stated.sat_out))
    size = 8 * fresh.values(cluster) if stated.phase == cluster.charged else 0
    if len(stated.fresh) != vectors * size:
        raise Refused("fresh-sketch")


def fresh_of(cluster: Cluster, stated: Statement) -> list[np.ndarray]:
    """The fresh sketches of a statement: of its vector, and of those that its rows name."""
    return list(np.frombuffer(stated.fresh, "<f8").reshape(-1, fresh.values(cluster)))


def check_fresh(cluster: Cluster, stated: Statement, held: dict[int, np.ndarray]) -> None:
    """Hold fresh sketches against the vectors of some, by place. Raises Refused."""
    for place, vector in held.items() if stated.fresh else ():
        due = fresh.sketch(stated.run, stated.agent, stated.round, stated.digest, vector)
        if due.tobytes() != fresh_of(cluster, stated)[place].tobytes():
            raise Refused("fresh-sketch")


def whole_energy(cluster: Cluster, stated: Statement, initial: np.ndarray) -> float | None:
    """What fresh sketches show of the energy that was injected; None where there are none."""
    if not stated.fresh:
        return None
    own, *others = fresh_of(cluster, stated)
    sources = named(cluster, stated.round, stated.phase, stated.formed, stated.sat_out)
    of = {agent: values for (_, _, agent), values in zip(sources, others, strict=True)}
    base = np.zeros(len(own))
    for formed in stated.formed:
        value = np.zeros(len(own))
        starts = stated.round == 1 + stated.sat_out
        if starts and formed[-1]:
            place = (stated.run, stated.agent, stated.round, stated.digest)
            value = fresh.sketch(*place, initial)
        elif not starts:
            for agent, weight in formed[-1]:
                value = value + weight * of[agent]
        base = base + value
    return energy((base - own) / stated.step_size) / len(own)


def check_bounded(cluster: Cluster, stated: Statement) -> None:
    """A statement says what was injected in its window just where that is bounded. Raises
    Refused."""
    if (stated.influence is None) != (influence.factor_of(cluster) is None):
        raise Refused("influence")


def check_given(cluster: Cluster, stated: Statement) -> None:
    """What a statement shows of ratings by itself. Raises Refused."""
    if (stated.rewards is None) != (barter.rule_of(cluster) is None):
        raise Refused("rating")
    if stated.rewards is not None:
        given = {one: rating.groups for one, rating in stated.ratings.items()}
        if list(given) != barter.around(cluster, stated.agent):
            raise Refused("rating")
        if given != barter.earned(cluster, stated.reputations):
            raise Refused("rating")


def groups_given(cluster: Cluster, stated: Statement, taker: str) -> int | None:
    """How many groups of a vector travel to a taker; None where models are not traded."""
    return None if stated.rewards is None else stated.given(taker)


def bytes_given(cluster: Cluster, given: int | None) -> int:
    """How long a payload of so many groups is, or a whole one."""
    if given is None:
        return payload_bytes(cluster.codec, cluster.dim)
    count, missing = barter.held(cluster, 0, given).sum(), barter.groups(cluster) - given
    return payload_bytes(cluster.codec, int(count)) + barter.LEAF_BYTES * missing


def part_of(cluster: Cluster, vector: np.ndarray, data: bytes, given: int | None) -> bytes:
    """The payload of so many groups of a vector, of which `data` is the whole one."""
    if given is None:
        return data
    values = encoded(cluster.codec, vector[barter.held(cluster, 0, given)])
    return values + barter.leaves(cluster, vector, given, barter.groups(cluster))


def check_payload(
    cluster: Cluster, stated: Statement, data: bytes, given: int | None = None
) -> np.ndarray:
    """The payload as a vector, zeros where it is not given, when it is what was stated. Raises
    Refused."""
    window, seen = cluster.window_of(stated.round), cluster.k
    if given is None:
        vector = decoded(cluster.codec, data)
        digest = digest_of(cluster, vector)
    else:
        there, seen = barter.held(cluster, 0, given), barter.bound(cluster, given)
        vector = np.zeros(cluster.dim, "<f4")
        end = payload_bytes(cluster.codec, int(there.sum()))
        vector[there] = decoded(cluster.codec, data[:end])
        digest = barter.digest_of(barter.leaves(cluster, vector, 0, given) + data[end:])
    if digest != stated.digest:
        raise Refused("payload-digest")
    after = next_sketch(cluster, stated.round, stated.phase, vector)
    if sketch(cluster, window, vector)[: 8 * seen] != stated.sketch[: 8 * seen]:
        raise Refused("payload-sketch")
    if len(after) != len(stated.next_sketch) or after[: 8 * seen] != stated.next_sketch[: 8 * seen]:
        raise Refused("payload-sketch")
    if not np.isfinite(vector).all():
        raise Refused("payload-not-finite")
    seen = energy(np.frombuffer(stated.sketch, "<f8")[:seen])
    if energy(vector.astype(np.float64)) > HIDDEN_RATIO * seen + HIDDEN_FLOOR:
        raise Refused("payload-hidden")
    return vector


def check_witness(cluster: Cluster, source: Source, witness: Statement) -> None:
    """Whether a forwarded statement is the one that was named. Raises Refused."""
    if witness.source != source:
        raise Refused("witness-round")
    if witness.run != cluster.run or len(witness.sketch) != 8 * cluster.k:
        raise Refused("witness-run")
    check_given(cluster, witness)
    check_bounded(cluster, witness)
    if not witness.is_genuine(cluster):
        raise Refused("witness-signature")


def injected(
    cluster: Cluster, stated: Statement, sources: dict[Source, Statement], initial: np.ndarray
) -> np.ndarray:
    """S u of an exchange, from its statement and those that its rows name. Raises Refused."""
    if stated.sources != commitment(list(sources.values())):
        raise Refused("witness-digest")
    _check_derived(cluster, stated, sources)
    parts, own = _parts(cluster, stated, sources, initial), np.frombuffer(stated.sketch, "<f8")
    found = _found(cluster, stated, parts)
    if not math.isfinite(energy(found)):
        raise Refused("injected-not-finite")
    _, relative, absolute = CODECS[cluster.codec]
    length = math.fsum(math.sqrt(energy(one)) for one in [*parts, own])
    smallest = absolute * (1 + abs(stated.step_size)) * math.sqrt(cluster.dim)
    moved = (4 * relative + 2.0**-16) * length + 4 * smallest
    allowed = moved / stated.step_size
    if stated.phase != cluster.charged and energy(found) > allowed * allowed:
        raise Refused("not-as-formed")
    influence.check(cluster, stated, found, sources, allowed * allowed)
    return found


def _found(cluster: Cluster, stated: Statement, parts: list[np.ndarray]) -> np.ndarray:
    """S u of a vector that was stepped from these parts."""
    base = np.zeros(cluster.k)
    for part in parts:
        base = base + part
    return (base - np.frombuffer(stated.sketch, "<f8")) / stated.step_size


def ratings_after(
    cluster: Cluster,
    agent: str,
    number: int,
    formed: Formed,
    sources: dict[Source, Statement],
    novelties: dict[str, float],
) -> dict[str, Rating]:
    """What an agent thinks in a round, after the one before in which it mixed by a row."""
    heard = [one for one, _ in formed[1]]
    if number == 1 or agent not in heard:
        return barter.equal(cluster, agent)
    said = {one: sources[number - 1, 0, one] for one in heard}
    before, found = said[agent].reputations, {}
    if barter.is_rated(cluster, number - 1):
        traces = {one: said[one].trace for one in heard}
        found = barter.scores(agent, before, traces, novelties)
    return barter.rated(cluster, before, found)


def novelty(cluster: Cluster, stated: Statement, sources: dict[Source, Statement]) -> float:
    """How new a statement's trace is."""
    window, agent = cluster.window_of(stated.round), stated.agent
    models = {
        one: rated_trace(cluster, window, np.frombuffer(said.sketch, "<f8"))
        for one, said in sources.items()
    }
    others = [one for one in sorted(sources) if one[-1] != agent]
    before, own = [sources[one].trace for one in others], sources.get((stated.round - 1, 0, agent))
    if own is not None:
        start = models[stated.round - 1, 0, agent] + own.step_size * own.trace
        for one in others:
            given = sources[one].given(agent)
            before.append(barter.way(start, models[one], given, barter.groups(cluster)))
    return barter.novelty(stated.trace, before)


def check_ratings(
    cluster: Cluster,
    stated: Statement,
    found: np.ndarray,
    sources: dict[Source, Statement],
    novelties: dict[str, float],
) -> None:
    """Hold a trace to what was injected, and ratings to the statements that the row names, as far
    as `novelties` of the round before are known. Raises Refused."""
    due = rated_trace(cluster, cluster.window_of(stated.round), found).astype("<f4")
    apart = np.linalg.norm(stated.trace - due) if len(stated.trace) == len(due) else math.inf
    if apart > 1e-6 * np.linalg.norm(due.astype(np.float64)):
        raise Refused("rating")
    number, agent, said = stated.round, stated.agent, stated.ratings
    heard, told = [one for one, _ in stated.formed[0][1]], {}
    if number > 1 and agent in heard and barter.is_rated(cluster, number - 1):
        traces = {one: sources[number - 1, 0, one].trace for one in heard}
        told = {one: said[one].score for one in heard}
        before = sources[number - 1, 0, agent].reputations
        most = barter.scores(agent, before, traces, dict.fromkeys(heard, 1.0))
        known = barter.scores(
            agent, before, traces, {one: novelties.get(one, 0.0) for one in heard}
        )
        for one, score in told.items():
            least, largest = sorted((0.0, most[one]))
            if score != known[one] if one in novelties else not least <= score <= largest:
                raise Refused("rating")
        expected = barter.rated(cluster, before, told)
    else:
        expected = ratings_after(cluster, agent, number, stated.formed[0], sources, {})
    if said != expected:
        raise Refused("rating")


def derived_row(
    cluster: Cluster, agent: str, rule: str, said: dict[str, Statement]
) -> dict[str, float]:
    """The row of an agent by a rule, of what it and those that it heard have stated."""
    byzantine = cluster.file["algorithm"].get("max_byzantine", 0)
    sketches = {one: np.frombuffer(said[one].sketch, "<f8") for one in said}
    return rows.derived(rule, byzantine, agent, sketches)


def _check_derived(cluster: Cluster, stated: Statement, sources: dict[Source, Statement]) -> None:
    """Raises Refused where a derived row is another than that which follows."""
    for part, formed in zip(cluster.phases[stated.phase].parts, stated.formed, strict=True):
        if formed[0] == DERIVED:
            number = stated.number_of(part)
            said = {one: sources[number, part.phase, one] for one, _ in formed[2]}
            if derived_row(cluster, stated.agent, formed[1], said) != dict(formed[2]):
                raise Refused("mixing-row")


def _parts(
    cluster: Cluster, stated: Statement, sources: dict[Source, Statement], initial: np.ndarray
) -> list[np.ndarray]:
    """The sketches of the parts, as they are added."""
    window, found = cluster.window_of(stated.round), []
    for part, formed in zip(cluster.phases[stated.phase].parts, stated.formed, strict=True):
        number, value = stated.number_of(part), np.zeros(cluster.k)
        if formed[0] == ATTESTED:
            value = np.frombuffer(formed[3], "<f8")
        elif number == 0 and formed[-1]:
            value = np.frombuffer(sketch(cluster, window, initial), "<f8")
        elif stated.rewards is not None:
            value = _traded(cluster, stated, sources, initial)
        else:
            for weight, one in mixed(cluster, stated, sources, part, formed):
                value = value + weight * one
        found.append(-stated.step_size * value if part.stepped else value)
    return found


def mixed(
    cluster: Cluster,
    stated: Statement,
    sources: dict[Source, Statement],
    part: Part,
    formed: Formed,
) -> list[tuple[float, np.ndarray]]:
    """The weights and sketches of what a row adds up, in its order."""
    window, number = cluster.window_of(stated.round), stated.number_of(part)
    there = [(sources[number, part.phase, agent], weight) for agent, weight in formed[-1]]
    return [(weight, source.sketch_for(cluster, window)) for source, weight in there]


def _traded(
    cluster: Cluster, stated: Statement, sources: dict[Source, Statement], initial: np.ndarray
) -> np.ndarray:
    """The sketch of what was mixed by a row of models that are traded, bucket by bucket."""
    window, agent, before = cluster.window_of(stated.round), stated.agent, stated.round - 1
    length = 4 * min(cluster.k, TRACE_SIZE_MAX)
    if any(one.rewards is None or len(one.rewards[0]) != length for one in sources.values()):
        raise Refused("rating")
    shown = {place[-1]: one.sketch_for(cluster, window) for place, one in sources.items()}
    own = sources.get((before, 0, agent))
    if own is None:  # it came back
        [(peer, value)] = shown.items()
        end = barter.bound(cluster, sources[before, 0, peer].given(agent))
        first = np.frombuffer(sketch(cluster, window, initial), "<f8")
        return np.concatenate([value[:end], first[end:]])
    shared = {
        one: min(own.given(one), sources[before, 0, one].given(agent))
        for one in shown
        if one != agent
    }
    value = np.zeros(cluster.k)
    rows = barter.sections(cluster, before, agent, shared)
    for group, (low, row) in enumerate(rows):
        high = barter.bound(cluster, group + 1)
        for one in sorted(row):
            value[low:high] += row[one] * shown[one][low:high]
    return value


def energy(vector: np.ndarray) -> float:
    """The squared norm."""
    return float(vector @ vector)
