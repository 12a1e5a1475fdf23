"""What a referee charges its neighbours for a window."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.independent import fresh, graphs
from tests.independent.claims import Claim, Claimed
from tests.independent.rounds import TRACE_SIZE_MAX
from tests.independent.wire import (
    Cluster,
    Refused,
    fits,
    is_signed,
    pack,
    sha256,
    sign,
    unpack,
)

BUNDLE_BYTES_MAX = 2**20 - 4_096
BODY_BYTES_MAX = 65_536
CAP = 50.0
TOLERANCE, TOLERANCE_ALONE, TOLERANCE_OF_DIRECTIONS = 2.0, 2.5, 4.0
FREE_SCALED = 4.0
FREE_NOISE = 1.25
LAGS, ROUNDS_COPIED_MIN, ROUNDS_COMMON_MIN = (1, 2, 3), 4, 5
NOTHING = 2.0**-30
PAYMENT_MAX = 2.0**51
ENERGY_MAX = 1e16

Vectors = dict[int, np.ndarray]  # traces by round
Gram = dict[tuple[int, int], float]  # exact products of two rounds, either first
Rows = list[list]  # [member, transfer, charge]


@dataclass(frozen=True, slots=True)
class Bill:
    """A bill whose layout and signature are sound."""

    bundle: bytes
    body: bytes
    run: bytes
    window: int
    previous: int
    referee: str
    rule: str
    rows: Rows
    digests: list[bytes]
    claims: list[bytes]

    @property
    def digest(self) -> bytes:
        return sha256(self.body)

    def paid_by(self, member: str) -> int:
        """What the member pays the referee, for itself and for the other members."""
        return sum(row[1] + row[2] for row in self.rows if row[0] == member)

    @classmethod
    def parse(cls, cluster: Cluster, bundle: bytes) -> "Bill":
        """Raises Refused."""
        outer = unpack(bundle, BUNDLE_BYTES_MAX)
        if not fits(outer, bytes, bytes, list) or any(type(c) is not bytes for c in outer[2]):
            raise Refused("malformed")
        body, signature, claims = outer
        fields = unpack(body, BODY_BYTES_MAX)
        if not fits(fields, int, bytes, int, int, str, str, list, list) or fields[0] != 3:
            raise Refused("malformed")
        _, run, window, previous, referee, rule, rows, digests = fields
        names = [row[0] for row in rows if fits(row, str, int, int)]
        if len(names) != len(rows) or names != sorted(set(names)) or not -1 <= previous < window:
            raise Refused("malformed")
        if referee not in cluster.agents or not is_signed(
            cluster.public(referee), "candor/bill/v1", body, signature
        ):
            raise Refused("bill-signature")
        return cls(bundle, body, run, window, previous, referee, rule, rows, digests, claims)


def make(
    cluster: Cluster,
    referee: str,
    window: int,
    previous: int,
    claims: list[Claim],
    key: Ed25519PrivateKey,
) -> Bill:
    """The bill of a referee from its own claim and its neighbours'."""
    claims = sorted(claims, key=lambda claim: claim.agent)
    rule, digests = canonical_rule(cluster.rule), [claim.digest for claim in claims]
    rows = amounts(
        *(cluster.rule, referee, claims, cluster.neighbours, _giver_of(cluster, referee)),
        (fresh.values(cluster), cluster.sketch_size),
    )
    body = pack([3, cluster.run, window, previous, referee, rule, rows, digests])
    encoded = [claim.encoded for claim in claims]
    bundle = pack([body, sign(key, "candor/bill/v1", body), encoded])
    return Bill(bundle, body, cluster.run, window, previous, referee, rule, rows, digests, encoded)


def check(cluster: Cluster, bill: Bill, known: dict[str, Claim]) -> None:
    """Hold a bill to the claims inside it, and those to the `known` ones. Raises Refused."""
    if bill.run != cluster.run:
        raise Refused("bill-run")
    if bill.rule != canonical_rule(cluster.rule):
        raise Refused("bill-rule")
    if sum(row[1] for row in bill.rows) != 0:
        raise Refused("bill-sum")
    claims = [Claim.parse(cluster, encoded) for encoded in bill.claims]
    agents = [claim.agent for claim in claims]
    around = {bill.referee, *cluster.neighbours[bill.referee]}
    if len(set(agents)) < len(agents) or bill.referee not in agents or not set(agents) <= around:
        raise Refused("bill-claims")
    if any(claim.body != known[claim.agent].body for claim in claims if claim.agent in known):
        raise Refused("bill-claims")
    if any(not claim.is_of(cluster, bill.run, bill.window) for claim in claims):
        raise Refused("claim")
    if bill.digests != [claim.digest for claim in sorted(claims, key=lambda one: one.agent)]:
        raise Refused("bill-claims")
    gives = _giver_of(cluster, bill.referee)
    sizes = (fresh.values(cluster), cluster.sketch_size)
    if bill.rows != amounts(cluster.rule, bill.referee, claims, cluster.neighbours, gives, sizes):
        raise Refused("bill-rows")


def terms_of(rule: str) -> list[tuple[str, float]]:
    """Names and prices; none under the rule `none`."""
    if rule.strip() == "none":
        return []
    pairs = [term.split(":") for term in re.split(r"\s+\+\s+", rule.strip())]
    return [(name, float(price)) for name, price in pairs]


def canonical_rule(rule: str) -> str:
    return " + ".join(f"{name}:{price!r}" for name, price in terms_of(rule))


def _giver_of(cluster: Cluster, referee: str) -> Callable[[int, str], bool]:
    return lambda number, agent: agent in graphs.taken(cluster, number, referee)


def amounts(
    rule: str,
    referee: str,
    claims: list[Claim],
    neighbours: dict[str, list[str]],
    gives: Callable[[int, str], bool] = lambda number, agent: True,
    sizes: tuple[int, int] = (0, 0),
) -> Rows:
    """What each member of a bill pays, in micro-credits; `gives` in a round to the referee;
    `sizes`: of fresh sketches and of sketches."""
    by_agent = {claim.agent: claim.rounds for claim in sorted(claims, key=lambda c: c.agent)}
    heard = {one.round: one.heard for one in by_agent[referee]}
    charged = {
        agent: [
            one
            for one in items
            if agent == referee
            or agent in heard.get(one.round, ())
            or (one.round in heard and not gives(one.round, agent))
        ]
        for agent, items in by_agent.items()
    }
    grams = {agent: gram_of(rounds) for agent, rounds in by_agent.items()}
    present = Group({agent: items for agent, items in charged.items() if items}, grams)
    for agent in present.traces:
        present.hide(agent, _hidden(charged[agent], *sizes))
    bills = {
        agent: (len(near), max(1, sum(len(neighbours[one]) > 1 for one in near)))
        for agent, near in neighbours.items()
    }
    paid = shares(rule, present, referee, claims[0].window, bills)
    return [[agent, *paid.get(agent, (0, 0))] for agent in by_agent if agent != referee]


def _hidden(items: list[Claimed], m: int, sketch_size: int) -> float:
    """What sketches do not show of these rounds."""
    whole = [one.whole for one in items if one.whole is not None]
    if not m or len(whole) < len(items):
        return 0.0
    return fresh.hidden([one.energy for one in items], whole, m, sketch_size)


def halves(members: list[str], window: int) -> list[list[str]]:
    """Of n members the ceil(n / 2) from number `window` on, round and round, and the others."""
    count = len(members)
    first = {members[(window + place) % count] for place in range((count + 1) // 2)}
    return [[m for m in members if m in first], [m for m in members if m not in first]]


def shares(
    rule: str,
    group: "Group",
    referee: str,
    window: int = 0,
    bills: dict[str, tuple[int, int]] | None = None,
) -> dict[str, tuple[int, int]]:
    """Transfer and charge of every member with a charged round. `bills`: how many may charge an
    agent, and how many of them penalise it."""
    members = [agent for agent in group.traces if agent != referee]
    penalties, charges = dict.fromkeys(members, 0.0), dict.fromkeys(members, 0.0)
    split = halves(members, window)
    for name, price in terms_of(rule):
        for half in split if len(members) > 1 or name == "norm" else ():
            seen = group.only({referee, *half})
            for member in half:
                degree, referees = (bills or {}).get(member, (1, 1))
                if name == "norm":
                    charges[member] += price * group.energies[member] / degree
                else:
                    penalties[member] += price * PENALTIES[name](seen, member) / referees
    pays = {member: _credits(penalties[member]) for member in members}
    transfers = dict(pays)
    for payers, takers in (split, split[::-1]) if len(members) > 1 else ():
        each, left = divmod(sum(pays[member] for member in payers), len(takers))
        for member in takers:
            transfers[member] -= each
        transfers[takers[0]] -= left
    return {member: (transfers[member], _credits(charges[member])) for member in members}


def is_too_large(cluster: Cluster, energy: float) -> bool:
    """Whether a window of rounds of this energy, beside an idler, is beyond an edge's credit."""
    size, numbers = min(cluster.k, TRACE_SIZE_MAX), range(cluster.window)
    group = Group({}, {})
    bound = 2.0 ** math.ceil(math.log2(energy)) if energy else 0.0
    for agent, each in (("a", bound), ("b", 0.0), ("c", 0.0)):
        signs = {n: -1.0 if n % 2 else 1.0 for n in numbers}
        traces = {n: np.eye(1, size)[0] * signs[n] * math.sqrt(each) for n in numbers}
        gram = {(s, t): each * signs[s] * signs[t] for s in numbers for t in numbers}
        group.add(agent, each * cluster.window, traces, gram)
    paid = shares(cluster.rule, group, "c")
    return energy > ENERGY_MAX or any(abs(sum(one)) > cluster.credit_limit for one in paid.values())


def _credits(amount: float) -> int:
    return round(min(max(amount * 1_000_000.0, -PAYMENT_MAX), PAYMENT_MAX))


def total(values: Iterable[float]) -> float:
    """One addition after the other; the built-in sum compensates from Python 3.12 on."""
    result = 0.0
    for value in values:
        result += value
    return result


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return total((a * b).tolist())


def summed(vectors: Iterable[np.ndarray]) -> np.ndarray:
    """Sum of vectors, one after the other."""
    result: np.ndarray | float = 0.0
    for vector in vectors:
        result = result + vector
    return np.asarray(result)


def lower_median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0


def gram_of(claimed: list[Claimed]) -> Gram:
    """The products of all rounds of a claim with each other."""
    found = {(one.round, one.round): one.energy for one in claimed}
    for place, one in enumerate(claimed):
        for before, value in zip(claimed[:place], one.multiplied.tolist(), strict=True):
            found[before.round, one.round] = found[one.round, before.round] = value
    return found


def energy_of(items: list[Claimed]) -> float:
    try:
        return math.fsum(one.energy for one in items)
    except OverflowError:
        return sys.float_info.max


def upper_median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


class Group:
    """The charged rounds of a neighbourhood: energies, traces and exact products by agent."""

    def __init__(self, charged: dict[str, list[Claimed]], grams: dict[str, Gram]) -> None:
        self.energies: dict[str, float] = {}
        self.traces: dict[str, Vectors] = {}
        self.norms: dict[str, dict[int, float]] = {}
        self.grams: dict[str, Gram] = {}
        self._units: dict[str, Vectors] = {}
        for agent, items in charged.items():
            energy = energy_of(items)
            self.add(agent, energy, {one.round: one.vector for one in items}, grams[agent])

    def add(self, agent: str, energy: float, traces: Vectors, gram: Gram) -> None:
        """A member with its charged rounds; ids come in ascending order."""
        lengths = {t: math.sqrt(dot(u, u)) for t, u in traces.items()}
        units = {t: u / lengths[t] if lengths[t] else u for t, u in traces.items()}
        self.energies[agent], self.traces[agent] = energy, traces
        self.grams[agent], self._units[agent] = gram, units
        self.norms[agent] = {t: gram[t, t] for t in traces}

    def hide(self, agent: str, energy: float) -> None:
        """Add energy that nobody has seen, as noise."""
        self.energies[agent] += energy
        rounds = self.traces[agent]
        gram = {(t, t): self.grams[agent][t, t] + energy / len(rounds) for t in rounds}
        self.grams[agent] = {**self.grams[agent], **gram}
        self.norms[agent] = {t: self.grams[agent][t, t] for t in rounds}

    def only(self, agents: set[str]) -> "Group":
        """Some of them."""
        seen = Group({}, {})
        for agent in self.traces:
            if agent in agents:
                seen.add(agent, self.energies[agent], self.traces[agent], self.grams[agent])
        return seen

    def others(self, agent: str) -> list[str]:
        return [one for one in self.traces if one != agent]

    def common(self, i: str, k: str) -> list[int]:
        return [t for t in self.traces[i] if t in self.traces[k]]

    def mean_energy(self, agent: str) -> float:
        return self.energies[agent] / len(self.traces[agent])

    def noise(self, agent: str) -> float | None:
        """Half the mean squared change from one charged round to the next; None of a single one."""
        gram = self.grams[agent]
        changes = [
            max(0.0, (gram[s, s] - gram[s, t]) + (gram[t, t] - gram[s, t]))
            for s, t in pairwise(self.traces[agent])
        ]
        return total(changes) / (2 * len(changes)) if changes else None

    def squared(self, agent: str, rounds: list[int]) -> float:
        """The squared norm of the sum of an agent's updates."""
        gram = self.grams[agent]
        return max(0.0, total(total(gram[s, t] for t in rounds) for s in rounds))

    def distance(self, i: str, k: str) -> float | None:
        """The share of two agents' injected energy in which they differ over the window."""
        rounds = self.common(i, k)
        both = total(self.norms[i][t] + self.norms[k][t] for t in rounds)
        if both == 0:
            return None
        one, two = self.squared(i, rounds), self.squared(k, rounds)
        product = dot(*(summed(self.traces[a][t] for t in rounds) for a in (i, k)))
        product = min(product, math.sqrt(one) * math.sqrt(two))
        return max(0.0, one + two - 2.0 * product) / both

    def copied(self, i: str, k: str, lag: int) -> float:
        """How alike i's updates are to those of k, `lag` rounds earlier."""
        mine, theirs = self._units[i], self._units[k]
        pairs = [(t - lag, t) for t in mine if t - lag in theirs]
        if i == k:
            alike = [self.cosine(i, *pair) for pair in pairs]
        else:
            alike = [dot(mine[t], theirs[s]) for s, t in pairs]
        return lower_median(alike) if len(alike) >= ROUNDS_COPIED_MIN else 0.0

    def cosine(self, agent: str, s: int, t: int) -> float:
        """Of an agent's updates in two rounds."""
        gram = self.grams[agent]
        both = math.sqrt(gram[t, t]) * math.sqrt(gram[s, s])
        return gram[s, t] / both if both else 0.0

    def kept(self, agent: str, rounds: list[int]) -> float | None:
        """How much of an agent's energy points one way over the rounds; None where it has none."""
        energy = total(self.norms[agent][t] for t in rounds)
        if energy == 0:
            return None
        return self.squared(agent, rounds) / energy


def peer_prediction(group: Group, member: str) -> float:
    penalty = 0.0
    for t, u in group.traces[member].items():
        present = [v[t] for v in group.traces.values() if t in v]
        mean = summed(present) / len(present)
        penalty += group.norms[member][t] + total((mean * mean - 2.0 * u * mean).tolist())
    return max(0.0, penalty)


def band(group: Group, member: str) -> float:
    others = group.others(member)
    energies = {one: ratio(group.mean_energy(member), group.mean_energy(one)) for one in others}
    own, moved = group.noise(member), []
    for one in others:
        theirs = group.noise(one)
        if own is not None and theirs is not None:
            moved.append(min(outside(ratio(own, theirs)), outside(energies[one])))
    high = [beyond(one, TOLERANCE_ALONE) for one in energies.values()]
    near = [group.distance(*sorted((member, one))) for one in others]
    apart = [group.distance(i, k) for i, k in combinations(others, 2)]
    usual = lower_median([one for one in apart if one is not None])
    q = lower_median([one for one in near if one is not None]) / max(1.0, usual)
    return lower_median(moved) + lower_median(high) + beyond(q, TOLERANCE_OF_DIRECTIONS)


def ratio(a: float, b: float) -> float:
    if a == 0 and b == 0:
        return 1.0
    return a / b if b else math.inf


def beyond(value: float, tolerance: float) -> float:
    return min(CAP, max(0.0, value - tolerance))


def outside(value: float) -> float:
    """How far a ratio leaves the band, either way."""
    if value == 0:
        return CAP
    return min(CAP, max(0.0, value - TOLERANCE) + max(0.0, 1 / value - TOLERANCE))


def originality(group: Group, member: str) -> float:
    worst = 0.0
    for other in group.others(member):
        for lag in LAGS:
            own = max(0.0, group.copied(member, member, lag), group.copied(other, other, lag))
            base = (1.0 + min(1.0, own)) / 2.0
            if base < 1.0:
                found = (group.copied(member, other, lag) - base) / (1.0 - base)
                worst = max(worst, min(1.0, max(0.0, found)))
    return CAP * worst


def persistence(group: Group, member: str) -> float:
    scores = []
    injected = {one: total(norms.values()) for one, norms in group.norms.items()}
    busy = {one for one, q in injected.items() if q > NOTHING * max(injected.values())}
    for other in group.others(member):
        if not {member, other} <= busy:
            continue
        rounds = group.common(member, other)
        own, theirs = group.kept(member, rounds), group.kept(other, rounds)
        if len(rounds) < ROUNDS_COMMON_MIN or own is None or theirs is None:
            continue
        if own == 0:
            scores.append(CAP if theirs > 0 else 0.0)
        else:
            scores.append(min(CAP, max(0.0, theirs / own - TOLERANCE_ALONE)))
    return lower_median(scores)


def variance(group: Group, member: str) -> float:
    noise = group.noise(member)
    around = [group.noise(one) for one in group.others(member)]
    known = [one for one in around if one is not None]
    if noise is None or not known:
        return 0.0
    return max(0.0, noise - FREE_NOISE * upper_median(known)) * len(group.traces[member])


def excess(group: Group, member: str) -> float:
    around = [group.mean_energy(one) for one in group.others(member)]
    if not around:
        return 0.0
    beyond = group.mean_energy(member) - TOLERANCE_ALONE * upper_median(around)
    return max(0.0, beyond) * len(group.traces[member])


def scaled(group: Group, member: str) -> float:
    noise = group.noise(member)
    known = [one for one in group.others(member) if group.noise(one) is not None]
    if noise is None or not known:
        return 0.0
    noises = [found for one in known if (found := group.noise(one)) is not None]
    energies = [group.mean_energy(one) for one in known]
    beyond = min(
        group.mean_energy(member) - FREE_SCALED * upper_median(energies),
        noise - FREE_SCALED * upper_median(noises),
    )
    return max(0.0, beyond) * len(group.traces[member])


PENALTIES: dict[str, Callable[[Group, str], float]] = {
    "peer-prediction": peer_prediction,
    "band": band,
    "excess": excess,
    "originality": originality,
    "persistence": persistence,
    "scaled": scaled,
    "variance": variance,
}
