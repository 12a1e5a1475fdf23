"""Statements, claims and what they prove: the update an agent injected, from signed values alone.

In round t agent i sends y_i,t to its neighbours and signs a statement of it: the payload's digest
and sketch S y_i,t, the step size, and how the x_i,t it started from was formed, as the mixing row
w_i. As mixing is linear, anyone who holds the statements named in that row computes

    S u_i,t = (sum_k w_ik S y_k,t-1 - S y_i,t) / lambda_t

the sketch of what i injected, wherever it lied. Round 0 is the initial model of the cluster file,
which everyone states alike. Sums run over agents in ascending order of id, in binary64. Rounds of
several exchanges have one such equation each, see `mechanisms.evidence.phases`.

This module computes and judges; it signs only what it is given a key for and stores nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence import hidden
from candor.mechanisms.evidence.blocks import digest_of, leaves
from candor.mechanisms.evidence.claims import PRODUCT_FREE, Claim, ClaimedRound
from candor.mechanisms.evidence.fresh import FRESH, Fresh, FreshSketch, whole_energy
from candor.mechanisms.evidence.influence import MIXING, Influence, Limit, lengths
from candor.mechanisms.evidence.phases import MIXED_MODEL, How, Part, Phases
from candor.mechanisms.evidence.ratings import (
    MODEL,
    RATING,
    Trade,
    check_given,
    check_ratings,
    check_stated_trace,
    mixed_sketch,
    novelty_of,
    ratings_after,
)
from candor.mechanisms.evidence.sketch import (
    TRACE_SIZE,
    SignSketch,
    TraceFold,
    signs_seed,
    window_of,
)
from candor.mechanisms.evidence.statements import (
    Attested,
    EvidenceError,
    Floats,
    Formed,
    Ratings,
    Row,
    SignedStatement,
    Source,
    Statement,
    commitment,
    named_sources,
)
from candor.mechanisms.rewards.barter import Groups
from candor.topologies.encoding.canonical import payload_digest
from candor.topologies.schedules.weights import Round, own_weight

# Claims are compared with what the neighbour computed itself; only the order of a dot product's
# additions may differ between two machines, which moves the last few of 53 bits.
CLAIM_TOLERANCE: Final = 1e-9
# Traces are rounded to float32, a bucket of which may round to its neighbour.
TRACE_TOLERANCE: Final = 1e-6
# A norm of 1e8: no training comes near it, whatever the rule allows to be paid for.
ENERGY_MAX: Final = 1e16
ROW_TOLERANCE: Final = 1e-12
MIXING_ROW: Final = "mixing-row"
NOT_AS_FORMED: Final = "not-as-formed"
INFLUENCE: Final = "influence"
SAT_OUT: Final = "sat-out"
STEP_TOLERANCE: Final = 1e-12
# Squared norms of a payload and of its sketch agree within a few percent unless someone has placed
# values where the sketch's known signs cancel them. Only what is absurd is refused here: a payload
# a thousand times as long as its sketch shows, and longer than a thousand.
HIDDEN_FACTOR: Final = 1e6
HIDDEN_FREE: Final = 1e6
# Where nothing may be injected, a codec's rounding is allowed for, and that of the few float32
# operations before it, with what a vector may have in the sketch's null space: a ten-thousandth of
# a gradient's length in runs of digits.
ROUNDING_MARGIN: Final = 4.0
COMPUTING: Final = 2.0**-16


def injected(mixed: Floats, stated: Floats, step_size: float | Floats) -> Floats:
    """Sketch of the injected update (..., k) from the mixed and the stated sketch (..., k)."""
    # What a peer states may overflow or cancel to NaN; `Examiner.examine` refuses the result.
    with np.errstate(all="ignore"):
        return (mixed - stated) / step_size


def formed_parts(
    statement: Statement,
    sources: Mapping[Source, Statement],
    terms: "RunTerms",
    initial: Floats | None = None,
) -> list[Floats]:
    """The sketches (k,) of the parts that a statement's vector was stepped from, as they are added.

    Args:
        sources: the statements that its rows name.
        initial: the sketch (k,) of the initial model, which round 1 starts from, and where models
            are traded whoever comes back.

    Raises:
        EvidenceError: its parts are not those of its phase, a source carries no sketch under the
            signs of the statement's window, or it starts from the initial model and that is None.
    """
    named_sources(statement, terms.phases)
    found = []
    with np.errstate(all="ignore"):  # what peers state may overflow; the result is judged
        parts = terms.phases.phases[statement.phase].parts
        for part, formed in zip(parts, statement.formed, strict=True):
            value = np.zeros(len(statement.sketch) // 8)
            if isinstance(formed, Attested):
                value = np.frombuffer(formed.sketch, "<f8")
            elif terms.trade is not None and not statement.starts:
                stated = {k: sources[statement.round - 1, MODEL, k] for k, _ in formed.weights}
                sketches = {k: _as_mixed(one, statement, terms) for k, one in stated.items()}
                value = mixed_sketch(statement, formed, sources, sketches, initial, terms.trade)
            elif part.before and statement.starts and formed.weights:
                if initial is None:
                    raise EvidenceError("witness-missing", "the initial model")
                value = initial
            else:
                for agent, weight in formed.weights:
                    of_round = statement.round_of(before=part.before)
                    source = sources[of_round, part.phase, agent]
                    value += weight * _as_mixed(source, statement, terms)
            found.append(-statement.step_size * value if part.stepped else value)
    return found


def _as_mixed(source: Statement, statement: Statement, terms: "RunTerms") -> Floats:
    """The sketch (k,) of a source under the signs of a statement that mixes it."""
    if terms.dim <= terms.sketch_size:  # the vector itself, the same under any signs
        return np.frombuffer(source.sketch, "<f8")
    window = window_of(statement.round, terms.window_rounds)
    return source.values(window, terms.window_rounds)


def injected_after(parts: Sequence[Floats], statement: Statement) -> Floats:
    """S u (k,) of a statement whose vector was stepped from the sum of `parts`."""
    stated = np.frombuffer(statement.sketch, "<f8")
    with np.errstate(all="ignore"):
        base = sum(parts[1:], parts[0]) if parts else np.zeros_like(stated)
    return injected(base, stated, statement.step_size)


def energy(sketches: Floats) -> Floats:
    """Squared norms (...) of sketches (..., k)."""
    with np.errstate(all="ignore"):
        squared: Floats = np.einsum("...k,...k->...", sketches, sketches)
    return squared


def inner_products(earlier: Floats, sketch: Floats) -> Floats:
    """Inner products (...) of sketches (..., k) with another (k,) or others (..., k)."""
    with np.errstate(all="ignore"):
        products: Floats = np.einsum("...k,...k->...", earlier, sketch)
    return products


def _squared_norm(payload: NDArray[np.float32]) -> float:
    """Of a finite payload (dim,); in float32, which is fast, unless that overflows."""
    with np.errstate(over="ignore"):
        squared = float(np.dot(payload, payload))
    return squared if math.isfinite(squared) else float(np.square(payload, dtype=np.float64).sum())


@dataclass(frozen=True, slots=True)
class Precision:
    """How far a codec may move a value: by `relative` of it or by `absolute`, whichever is more."""

    codec: str
    relative: float
    absolute: float


FLOAT32: Final = Precision("float32", 2.0**-24, 2.0**-150)


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What the cluster file alone fixes, by which signed things are compared.

    `weights(t)` are those for mixing round t; `rounds` is the last one; `trade` is None where all
    give all of their models, `limit` where what an agent injects in a window is not bounded,
    `fresh` where statements of the charged phase have no fresh sketches. `sits_out`: who is slower
    than others sits rounds out, and goes on from what it mixed before them.
    """

    run: bytes
    dim: int
    sketch_size: int
    window_rounds: int
    publics: Mapping[str, bytes]
    phases: Phases = MIXED_MODEL
    weights: Callable[[int], Round] = field(kw_only=True)
    rounds: int = field(kw_only=True)
    precision: Precision = field(default=FLOAT32, kw_only=True)
    trade: Trade | None = field(default=None, kw_only=True)
    limit: Limit | None = field(default=None, kw_only=True)
    fresh: Fresh | None = field(default=None, kw_only=True)
    sits_out: bool = field(default=False, kw_only=True)

    @property
    def rounds_reached(self) -> int:
        """From how many rounds back rows may name statements."""
        return 2 * self.window_rounds if self.sits_out else 1

    def reached(self, mixed: int, t: int) -> bool:
        """Whether round t may be stated from what was `mixed`, a round before: in the same window
        or the one before, since statements are sketched under the signs of these."""
        windows = window_of(t, self.window_rounds) - window_of(mixed, self.window_rounds)
        return mixed == t - 1 or (self.sits_out and windows <= 1)

    @property
    def sketch_bytes(self) -> int:
        """Length of an encoded sketch."""
        return 8 * min(self.dim, self.sketch_size)

    @property
    def trace_size(self) -> int:
        """r: how many values a trace has."""
        return min(self.dim, self.sketch_size, TRACE_SIZE)

    @property
    def guarded(self) -> bool:
        """Whether what is heard is held against the own vector before it is mixed: sketches hide
        something of vectors, and these are given whole."""
        return self.dim > self.sketch_size and self.trade is None


@dataclass(frozen=True, slots=True)
class Terms(RunTerms):
    """What all agents of a run know in advance and every statement is judged against.

    `initial` is the initial model (dim,) float32, `step_size(t)` the schedule.
    """

    step_size: Callable[[int], float] = field(kw_only=True)
    initial: NDArray[np.float32] = field(kw_only=True)

    def step_size_of(self, agent: str, t: int) -> float:
        """The step of an agent in round t: the schedule's, over its mass."""
        return self.step_size(t) / self.weights(t).mass[agent]

    def stated_step(self, agent: str, t: int, phase: int) -> float:
        """What an injected update of a phase is multiplied with: the step, or -1 where it is added
        as it is."""
        return -1.0 if self.phases.phases[phase].direct else self.step_size_of(agent, t)


class FormedError(EvidenceError):
    """A vector that was not formed as its agent was to form it: `MIXING_ROW` of a derived row,
    `NOT_AS_FORMED`, or `INFLUENCE`, of more than its bound; or `RATING`, of what it says of others.
    Its statement and the bodies of the `sources` show it."""

    def __init__(self, code: str, detail: str, sources: tuple[bytes, ...]) -> None:
        super().__init__(code, detail)
        self.sources = sources


@contextmanager
def _shown_by(sources: tuple[bytes, ...]) -> Iterator[None]:
    """Tells of ratings that do not follow what shows it."""
    try:
        yield
    except EvidenceError as exc:
        raise FormedError(exc.code, exc.detail, sources) from exc


class PayloadError(EvidenceError):
    """A payload that is not the one stated; `digest` is the one that it has."""

    def __init__(self, code: str, digest: bytes) -> None:
        super().__init__(code)
        self.digest = digest


@dataclass(frozen=True, slots=True)
class Examined:
    """What an accepted update proves: the injected sketch (k,), its squared norm and its trace; the
    energy allowed in its phase; the bodies of the statements that show it, in their order; how new
    its trace is, where models are traded; the energy that rounding explains, where that matters;
    and the `whole` energy, as fresh sketches show it, where there are any."""

    injected: Floats
    energy: float
    trace: NDArray[np.float32]
    allowed: float = math.inf
    sources: tuple[bytes, ...] = ()
    novelty: float = 0.0
    rounding: float = 0.0
    whole: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A payload of the first `groups` of a traded model, and the `leaves` of the others, 32 bytes
    each."""

    groups: int
    leaves: bytes


class Examiner:
    """Makes and judges statements under one run's terms; caches the signs of the last windows."""

    # The present window, the one before (late updates) and the next (a window's last round).
    WINDOWS_CACHED: Final = 3

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._sketches: dict[int, SignSketch] = {}
        self._folds: dict[tuple[int, Groups | None], TraceFold] = {}
        self._initial: dict[int, Floats] = {}

    def sketch(self, window: int) -> SignSketch:
        """The sketch under a window's signs."""
        found = self._sketches.get(window)
        if found is None:
            terms = self.terms
            found = SignSketch(signs_seed(terms.run, window), terms.dim, terms.sketch_size)
            # Threads may race here; the loser's work is only repeated, never wrong.
            for old in sorted(self._sketches)[: -(self.WINDOWS_CACHED - 1)]:
                self._sketches.pop(old, None)
            self._sketches[window] = found
        return found

    def state(
        self,
        t: int,
        phase: int,
        agent: str,
        payload: NDArray[np.float32],
        formed: Sequence[Formed],
        sat_out: int = 0,
    ) -> Statement:
        """The statement of `payload` (dim,) sent in a phase of round t, stepped from what was
        `formed` before as many rounds were `sat_out`; whoever signs it adds the commitment to its
        sources."""
        terms = self.terms
        window = window_of(t, terms.window_rounds)
        return Statement(
            run=terms.run,
            round=t,
            phase=phase,
            agent=agent,
            codec=terms.precision.codec,
            digest=self.digest(payload),
            dim=terms.dim,
            formed=tuple(formed),
            step_size=terms.stated_step(agent, t, phase),
            sketch=self.sketch(window)(payload).astype("<f8").tobytes(),
            next_sketch=self._next_sketch(t, phase, payload),
            sat_out=sat_out,
        )

    def rated(
        self,
        statement: Statement,
        sources: Mapping[Source, SignedStatement],
        novelties: Mapping[Source, float],
    ) -> Statement:
        """A statement with what its agent says of others, where models are traded: of the `sources`
        that its row names, each of which was so new."""
        terms = self.terms
        if terms.trade is None:
            return statement
        row = statement.formed[MODEL]
        assert isinstance(row, Row)
        stated = {place: signed.statement for place, signed in sources.items()}
        agent, t = statement.agent, statement.round
        rounds = terms.window_rounds
        made = ratings_after(agent, t, row, stated, novelties, terms.trade, rounds)
        shown = self._shown(statement, sources)[0]
        trace = self._rated_fold(terms.trade, t)(shown).astype("<f4").tobytes()
        return replace(statement, ratings=Ratings(trace, tuple(sorted(made.items()))))

    def bounded(self, statement: Statement, sources: Mapping[Source, SignedStatement]) -> Statement:
        """A statement with what its agent has injected in the window and may inject, where that is
        bounded; `sources` are those that its row names."""
        if self.terms.limit is None:
            return statement
        stated = {place: signed.statement for place, signed in sources.items()}
        moved = self._shown(statement, sources)[0]
        return replace(statement, influence=influence_of(statement, stated, moved, self.terms))

    def freshened(
        self,
        statement: Statement,
        payload: NDArray[np.float32],
        vectors: Mapping[Source, NDArray[np.float32]],
    ) -> Statement:
        """A statement of a payload (dim,) with its fresh sketches, where it has any: of `vectors`
        (dim,), those that its rows name."""
        if not has_fresh(statement, self.terms):
            return statement
        named = [vectors[source] for source in named_sources(statement, self.terms.phases)]
        values = self.fresh_sketch(statement).of_each([payload, *named])
        return replace(statement, fresh=values.astype("<f8").tobytes())

    def fresh_sketch(self, statement: Statement) -> FreshSketch:
        """The fresh sketch under the signs that follow from what a statement is of."""
        digest, dim = statement.digest, self.terms.dim
        return FreshSketch(self.terms.run, statement.agent, statement.round, digest, dim)

    def digest(self, payload: NDArray[np.float32]) -> bytes:
        """What a statement of a payload (dim,) has as its digest."""
        trade = self.terms.trade
        if trade is None:
            return payload_digest(payload.data.cast("B"))
        return digest_of(leaves(payload, trade.groups, 0, trade.groups.count))

    def attested(self, t: int, aggregate: NDArray[np.float32]) -> bytes:
        """The sketch of an aggregate (dim,) of round t, as a statement attests it."""
        window = window_of(t, self.terms.window_rounds)
        return self.sketch(window)(aggregate).astype("<f8").tobytes()

    def derived_row(
        self, agent: str, t: int, rule: str, sources: Mapping[str, Statement]
    ) -> dict[str, float]:
        """See `derived_row`."""
        return derived_row(agent, t, rule, sources, self.terms)

    def check_hidden(
        self,
        own: NDArray[np.float32],
        theirs: NDArray[np.float32],
        mine: Statement,
        said: Statement,
        *,
        capped: bool,
    ) -> None:
        """Refuse a vector (dim,) that is farther from the own one of the exchange than what both
        stated shows; `capped` where rows follow from what is stated.

        Raises:
            EvidenceError: see `mechanisms.evidence.hidden`.
        """
        stated, heard = (np.frombuffer(one.sketch, "<f8") for one in (mine, said))
        precision, dim = self.terms.precision, self.terms.dim
        floor = hidden.rounding(precision.relative, precision.absolute, dim, stated, heard)
        hidden.check_hidden(own, theirs, stated, heard, floor, capped=capped)

    def _next_sketch(self, t: int, phase: int, payload: NDArray[np.float32]) -> bytes:
        terms = self.terms
        window = window_of(t, terms.window_rounds)
        whole = terms.dim <= terms.sketch_size  # the vector itself, under any signs
        needed = terms.sits_out or window_of(t + 1, terms.window_rounds) != window
        if whole or not needed or not terms.phases.carried(phase):
            return b""
        return self.sketch(window + 1)(payload).astype("<f8").tobytes()

    def examine_header(self, signed: SignedStatement, sender: str) -> None:
        """Judge what a statement says by itself: signature, run, size, schedule, mixing row.

        Raises:
            EvidenceError
        """
        statement, terms = signed.statement, self.terms
        if statement.agent != sender:
            raise EvidenceError("statement-agent", f"it names {statement.agent}")
        if not signed.verify(terms.publics[sender]):
            raise EvidenceError("statement-signature")
        if statement.run != terms.run:
            raise EvidenceError("statement-run")
        if statement.dim != terms.dim or len(statement.sketch) != terms.sketch_bytes:
            raise EvidenceError("statement-size", f"{statement.dim} parameters")
        if statement.round > terms.rounds:
            raise EvidenceError("statement-round", f"{statement.round}, the last is {terms.rounds}")
        if statement.codec != terms.precision.codec:
            raise EvidenceError("statement-codec", statement.codec)
        named_sources(statement, terms.phases)
        # Not bit by bit: the power in a decaying schedule is the C library's.
        scheduled = terms.stated_step(sender, statement.round, statement.phase)
        if not math.isclose(statement.step_size, scheduled, rel_tol=STEP_TOLERANCE):
            raise EvidenceError("step-size", f"{statement.step_size}")
        examine_parts(statement, terms)
        if (terms.trade is None) != (statement.ratings is None):
            raise EvidenceError(RATING, "ratings are there in runs with rewards, and in no others")
        check_influence_there(statement, terms)
        check_fresh_there(statement, terms)
        if terms.trade is not None:
            with _shown_by(()):
                check_given(statement, terms.trade, terms.trace_size)

    def examine(
        self,
        signed: SignedStatement,
        payload: NDArray[np.float32] | None,
        witnesses: Mapping[Source, SignedStatement],
        trusted: Mapping[Source, SignedStatement],
        share: Share | None = None,
        novelties: Mapping[Source, float] = MappingProxyType({}),
        held: Mapping[Source, NDArray[np.float32]] = MappingProxyType({}),
    ) -> Examined:
        """Judge a whole update, or a notice: digest, sketch, values, witnesses, in this order.

        Args:
            signed: the sender's statement, already passed by `examine_header`.
            payload: (dim,) float32 as decoded; None for a notice, which has none.
            witnesses: earlier statements that its rows name, as forwarded by the sender.
            trusted: those that this agent verified itself.
            share: which part of the payload there is; None for all of it.
            novelties: how new those of `trusted` were, where models are traded.
            held: vectors (dim,) of some of `trusted`, which fresh sketches are held against.

        Raises:
            EvidenceError: the update must not reach the model.
        """
        statement = signed.statement
        if payload is not None:
            self._examine_payload(statement, payload, share)
        sources = self._sources(statement, witnesses, trusted)
        if commitment(source.body for source in sources.values()) != statement.sources:
            raise EvidenceError("witness-digest", "not the statements that it mixed")
        examine_derived(statement, sources, self.terms)
        # Not where the sender says that it mixed another statement than the one that is held.
        ours = {at: vector for at, vector in held.items() if sources.get(at) is trusted.get(at)}
        self._examine_fresh(statement, payload, ours)
        shown = self.shown(statement, sources)
        self._examine_ratings(statement, sources, shown, trusted, novelties)
        energies = (shown.energy, shown.whole or 0.0)
        if not all(map(math.isfinite, energies)):
            raise EvidenceError("injected-not-finite")
        examine_injected(shown.energy, shown.allowed, shown.sources)
        if max(energies) > ENERGY_MAX:
            raise EvidenceError("injected-too-large", f"its energy is {max(energies):g}")
        examine_influence(statement, sources, shown.injected, shown.rounding, self.terms)
        return shown

    def _examine_payload(
        self, statement: Statement, payload: NDArray[np.float32], share: Share | None
    ) -> None:
        """That the payload is the one stated, or the part of it."""
        trade, k = self.terms.trade, len(statement.sketch) // 8
        if share is None or trade is None:
            digest, seen = self.digest(payload), k
        else:
            given = leaves(payload, trade.groups, 0, share.groups)
            digest, seen = digest_of([*given, share.leaves]), trade.groups.bound(share.groups)
        if digest != statement.digest:
            raise PayloadError("payload-digest", digest)
        window = window_of(statement.round, self.terms.window_rounds)
        measured = self.sketch(window)(payload)[:seen]
        if measured.astype("<f8").tobytes() != statement.sketch[: 8 * seen]:
            raise EvidenceError("payload-sketch")
        following = self._next_sketch(statement.round, statement.phase, payload)
        if len(following) != len(statement.next_sketch) or (
            following[: 8 * seen] != statement.next_sketch[: 8 * seen]
        ):
            raise EvidenceError("payload-sketch", "under the next window's signs")
        if not np.isfinite(measured).all():  # a sum with one non-finite term is not finite
            raise EvidenceError("payload-not-finite")
        whole = _squared_norm(payload)
        if not whole <= HIDDEN_FACTOR * float(energy(measured)) + HIDDEN_FREE:
            raise EvidenceError("payload-hidden", f"its squared norm is {whole:g}")

    def _examine_fresh(
        self,
        statement: Statement,
        payload: NDArray[np.float32] | None,
        held: Mapping[Source, NDArray[np.float32]],
    ) -> None:
        """That fresh sketches are those of what is known here: of the payload, where there is one,
        and of `held` vectors (dim,) that its rows name."""
        if not has_fresh(statement, self.terms):
            return
        places = {
            source: at for at, source in enumerate(named_sources(statement, self.terms.phases), 1)
        }
        known = {places[source]: vector for source, vector in held.items() if source in places}
        if payload is not None:
            known[0] = payload
        if not known:
            return
        stated = np.frombuffer(statement.fresh, "<f8").reshape(1 + len(places), -1)
        due = self.fresh_sketch(statement).of_each(known.values())
        if due.astype("<f8").tobytes() != stated[[*known]].tobytes():
            raise EvidenceError(FRESH, "not that of a vector which is held here")

    def _examine_ratings(
        self,
        statement: Statement,
        sources: Mapping[Source, SignedStatement],
        shown: Examined,
        trusted: Mapping[Source, SignedStatement],
        novelties: Mapping[Source, float],
    ) -> None:
        """That ratings follow from what was stated, where models are traded."""
        terms = self.terms
        if terms.trade is None or statement.ratings is None:
            return
        known = {
            place: novelties[place]
            for place, source in sources.items()
            if place in novelties and trusted[place].body == source.body
        }
        trace = self._rated_fold(terms.trade, statement.round)(shown.injected)
        with _shown_by(shown.sources):
            check_stated_trace(statement.ratings.values, trace, TRACE_TOLERANCE)
            check_ratings(statement, sources, known, terms.trade, terms.window_rounds)

    def shown(self, statement: Statement, sources: Mapping[Source, SignedStatement]) -> Examined:
        """What a statement shows was injected; may be not finite. `sources` are the statements that
        its rows name, in that order.

        Raises:
            EvidenceError: a source has no sketch under its signs.
        """
        vector, parts, trace = self._shown(statement, sources)
        bounded = self.terms.limit is not None
        rounding = rounding_energy(statement, parts, self.terms) if bounded else 0.0
        allowed = allowed_energy(statement, parts, self.terms)
        bodies = tuple(source.body for source in sources.values())
        new = 0.0
        trade = self.terms.trade
        if statement.ratings is not None and trade is not None:
            stated = {at: one.statement for at, one in sources.items()}
            fold = self._rated_fold(trade, statement.round)
            new = novelty_of(statement, stated, trade.groups, fold)
        whole = self._whole(statement)
        return Examined(vector, float(energy(vector)), trace, allowed, bodies, new, rounding, whole)

    def _whole(self, statement: Statement) -> float | None:
        """The energy that a statement's fresh sketches show, None where it has none."""
        if not statement.fresh or self.terms.fresh is None:
            return None
        first = None
        if statement.starts and self.terms.phases.phases[statement.phase].parts:
            first = self.fresh_sketch(statement)(self.terms.initial)
        return fresh_energy(statement, self.terms, first)

    def _shown(
        self, statement: Statement, sources: Mapping[Source, SignedStatement]
    ) -> tuple[Floats, list[Floats], NDArray[np.float32]]:
        """What was injected (k,), the parts before it, and its trace."""
        window = window_of(statement.round, self.terms.window_rounds)
        starts = statement.starts or self.terms.trade is not None
        first = self._initial_sketch(window) if starts else None
        stated = {source: signed.statement for source, signed in sources.items()}
        parts = formed_parts(statement, stated, self.terms, first)
        vector = injected_after(parts, statement)
        return vector, parts, self.fold(window)(vector)

    def charged_energy(self, shown: Examined) -> float:
        """The energy for which a round could be charged: the whole one, where it is more than
        chance explains."""
        fresh, whole = self.terms.fresh, shown.whole
        hidden = 0.0 if fresh is None or whole is None else fresh.hidden([shown.energy], [whole])
        return shown.energy + hidden

    def fold(self, window: int) -> TraceFold:
        """The fold of a window's sketches to traces."""
        return self._fold(window, None)

    def _rated_fold(self, trade: Trade, t: int) -> TraceFold:
        """That to the traces by which updates of round t are rated: group by group."""
        return self._fold(window_of(t, self.terms.window_rounds), trade.groups)

    def _fold(self, window: int, groups: Groups | None) -> TraceFold:
        found = self._folds.get((window, groups))
        if found is None:
            terms, bounds = self.terms, None if groups is None else groups.bounds
            found = TraceFold(terms.run, window, min(terms.dim, terms.sketch_size), bounds)
            recent = {at: fold for at, fold in self._folds.items() if at[0] >= window - 1}
            self._folds = recent | {(window, groups): found}
        return found

    def _sources(
        self,
        statement: Statement,
        witnesses: Mapping[Source, SignedStatement],
        trusted: Mapping[Source, SignedStatement],
    ) -> dict[Source, SignedStatement]:
        """The verified statements that the rows name, in their order."""
        sources: dict[Source, SignedStatement] = {}
        for source in named_sources(statement, self.terms.phases):
            number, _, agent = source
            known, witness = trusted.get(source), witnesses.get(source)
            if witness is None or (known is not None and known.body == witness.body):
                if known is None:
                    raise EvidenceError("witness-missing", agent)
                sources[source] = known
                continue
            if known is not None and agent == statement.agent:
                # It would be measured from a model that it never sent: a jump for nothing.
                raise EvidenceError("equivocation", f"round {number} stated twice")
            said = witness.statement
            if (said.round, said.phase, said.agent) != source:
                raise EvidenceError("witness-round", agent)
            if said.run != self.terms.run or len(said.sketch) != self.terms.sketch_bytes:
                raise EvidenceError("witness-run", agent)
            if self.terms.trade is not None:
                check_given(said, self.terms.trade, self.terms.trace_size)
            check_influence_there(said, self.terms)
            if not witness.verify(self.terms.publics[agent]):
                raise EvidenceError("witness-signature", agent)
            sources[source] = witness
        return sources

    def _initial_sketch(self, window: int) -> Floats:
        if window not in self._initial:
            self._initial[window] = self.sketch(window)(self.terms.initial)
        return self._initial[window]


def examine_parts(statement: Statement, terms: RunTerms) -> None:
    """That each part of a statement, of as many as its phase has, was formed as the run forms it,
    as far as it shows by itself.

    Raises:
        EvidenceError: with `MIXING_ROW` or `SAT_OUT`, or as `named_sources` does.
    """
    named_sources(statement, terms.phases)
    if not terms.reached(statement.round_of(before=True), statement.round):
        raise EvidenceError(SAT_OUT, f"{statement.sat_out} rounds before {statement.round}")
    parts = terms.phases.phases[statement.phase].parts
    for part, formed in zip(parts, statement.formed, strict=True):
        _examine_part(statement, part, formed, terms)


def _examine_part(statement: Statement, part: Part, formed: Formed, terms: RunTerms) -> None:
    """That a part was formed as the run forms it, as far as it shows by itself."""
    agent, of_round = statement.agent, statement.round_of(before=part.before)
    taken = terms.weights(of_round).taken[agent] if of_round else {}
    of_models = part.phase == terms.phases.model
    if isinstance(formed, Attested):
        if part.how is not How.AGGREGATE or of_round == 0:
            raise EvidenceError(MIXING_ROW, f"part {part.phase} is not attested")
        if formed.rule != part.rule or not taken.keys() >= set(formed.heard):
            raise EvidenceError(MIXING_ROW, "an aggregate of others than it is given")
        return
    row = dict(formed.weights)
    if part.how is How.OWN or (of_round == 0 and of_models):
        if row != {agent: 1.0} or formed.rule:
            raise EvidenceError(MIXING_ROW, "it starts from its own vector alone")
    elif not row:  # nothing of an earlier round is there
        if not part.before or of_models or formed.rule:
            raise EvidenceError(MIXING_ROW, "it starts from nothing")
    elif of_round == 0:
        raise EvidenceError(MIXING_ROW, "nothing was there before round 1")
    elif of_models and not formed.rule and _re_enters(row, taken):
        return
    elif part.how is How.AGGREGATE:
        raise EvidenceError(MIXING_ROW, f"part {part.phase} is to be attested")
    elif formed.rule != part.rule:
        raise EvidenceError(MIXING_ROW, f"derived by {formed.rule or 'no rule'}")
    elif part.rule:
        if not taken.keys() | {agent} >= row.keys() or agent not in row:
            raise EvidenceError(MIXING_ROW, "of others than it is given")
    else:
        _examine_row(agent, row, taken)


def derived_row(
    agent: str, t: int, rule: str, sources: Mapping[str, Statement], terms: RunTerms
) -> dict[str, float]:
    """The row that `rule` gives an agent for what `sources` stated in round t, its own and those of
    whom it heard; without a rule their weights in the cluster file."""
    taken = terms.weights(t).taken[agent]
    heard = {k: taken[k] for k in sorted(sources) if k != agent}
    weights = heard | {agent: own_weight(heard)}
    if not rule:
        return weights
    sketches = {k: np.frombuffer(sources[k].sketch, "<f8") for k in sorted(sources)}
    return terms.phases.rows[rule](agent, t, weights, sketches)


def examine_derived(
    statement: Statement, sources: Mapping[Source, SignedStatement], terms: RunTerms
) -> None:
    """That rows which follow from sketches are those that follow from them, bit by bit.

    Args:
        statement: one whose parts passed `examine_parts`.
        sources: the statements that its rows name, in that order.

    Raises:
        FormedError: with `MIXING_ROW`.
    """
    parts = terms.phases.phases[statement.phase].parts
    for part, formed in zip(parts, statement.formed, strict=True):
        if not isinstance(formed, Row) or not formed.rule:
            continue
        of_round = statement.round_of(before=part.before)
        stated = {k: sources[of_round, part.phase, k].statement for k, _ in formed.weights}
        due = derived_row(statement.agent, of_round, formed.rule, stated, terms)
        if dict(formed.weights) != due:
            bodies = tuple(source.body for source in sources.values())
            raise FormedError(MIXING_ROW, f"not what {formed.rule} derives from sketches", bodies)


def examine_injected(found: float, allowed: float, sources: tuple[bytes, ...]) -> None:
    """That a vector has no more than the allowed energy beyond what it was formed of.

    Raises:
        FormedError: with `NOT_AS_FORMED` and the bodies of its sources.
    """
    if found > allowed:
        detail = f"an energy of {found:g} where rounding explains {allowed:g}"
        raise FormedError(NOT_AS_FORMED, detail, sources)


def check_influence_there(statement: Statement, terms: RunTerms) -> None:
    """Refuse a statement that does not say what its agent has injected in a run in which that is
    bounded, or says it in another; raises EvidenceError."""
    if (terms.limit is None) != (statement.influence is None):
        raise EvidenceError(INFLUENCE, "it is stated in runs with a bound, and in no others")


def has_fresh(statement: Statement, terms: RunTerms) -> bool:
    """Whether a statement is to have fresh sketches."""
    return terms.fresh is not None and statement.phase == terms.phases.charged


def check_fresh_there(statement: Statement, terms: RunTerms) -> None:
    """Refuse a statement that has not the fresh sketches of its vector and of each that its rows
    name, where it is to have them, or has some where it is not; raises EvidenceError."""
    vectors = 1 + len(named_sources(statement, terms.phases))
    values = 0 if terms.fresh is None or not has_fresh(statement, terms) else terms.fresh.values
    if len(statement.fresh) != 8 * vectors * values:
        raise EvidenceError(FRESH, f"{len(statement.fresh)} bytes for {vectors} vectors")


def fresh_energy(statement: Statement, terms: RunTerms, initial: Floats | None = None) -> float:
    """E of a statement that has its fresh sketches, see `mechanisms.evidence.fresh`; `initial` is
    the fresh sketch (m,) of the initial model, which round 1 starts from.

    Raises:
        EvidenceError: it starts from the initial model and that is None.
    """
    named = named_sources(statement, terms.phases)
    own, *others = np.frombuffer(statement.fresh, "<f8").reshape(1 + len(named), -1)
    of = {agent: values for (_, _, agent), values in zip(named, others, strict=True)}
    base = np.zeros_like(own)
    with np.errstate(all="ignore"):  # what peers state may overflow; the result is judged
        for formed in statement.formed:
            assert isinstance(formed, Row)
            if statement.starts and formed.weights:
                if initial is None:
                    raise EvidenceError("witness-missing", "the initial model")
                base = base + initial
                continue
            value = np.zeros_like(own)
            for agent, weight in formed.weights:
                value += weight * of[agent]
            base = base + value
    return whole_energy(injected(base, own, statement.step_size))


def influence_of(
    statement: Statement, sources: Mapping[Source, Statement], moved: Floats, terms: RunTerms
) -> Influence:
    """What a statement is to say of its agent's window: it injects `moved` (k,), and `sources` are
    the statements that its row names, each of which says the same."""
    t, agent, limit = statement.round, statement.agent, terms.limit
    assert limit is not None
    said = {k: one.influence for (_, _, k), one in sources.items() if one.influence is not None}
    heard = [one for k, one in said.items() if k != agent]
    givers = len(terms.weights(t - 1).taken[agent]) if t > 1 else 0
    mixing = MIXING * terms.weights(t).mass[agent] * _lengths_of(statement, sources, terms)
    moved = _rate(statement, terms) * moved
    return limit.after(t, said.get(agent), heard, givers, moved, mixing)


def _lengths_of(
    statement: Statement, sources: Mapping[Source, Statement], terms: RunTerms
) -> float:
    """The length of a statement's vector, and those of what its one row adds up to it, each times
    its weight; bit by bit the same everywhere."""
    (row,) = statement.formed
    assert isinstance(row, Row)
    stated = {agent: source for (_, _, agent), source in sources.items()}
    mixed = [(weight, stated[k]) for k, weight in row.weights if k in stated]  # none in round 1
    vectors = [np.frombuffer(statement.sketch, "<f8")]
    vectors += [_as_mixed(source, statement, terms) for _, source in mixed]
    found, *others = lengths(np.array(vectors))
    for (weight, _), length in zip(mixed, others, strict=True):
        found += weight * length
    return float(found)


def _rate(statement: Statement, terms: RunTerms) -> float:
    """What an injected update counts times: its step, as if its agent's mass were one."""
    return statement.step_size * terms.weights(statement.round).mass[statement.agent]


def examine_influence(
    statement: Statement,
    sources: Mapping[Source, SignedStatement],
    moved: Floats,
    rounding: float,
    terms: RunTerms,
) -> None:
    """That an agent has injected no more in its window than its bound, nor than it says: `moved`
    (k,) in this round, where rounding explains an energy of `rounding`.

    Raises:
        FormedError: with `INFLUENCE`.
    """
    if terms.limit is None:
        return
    bodies = tuple(source.body for source in sources.values())
    stated = {place: signed.statement for place, signed in sources.items()}
    due = influence_of(statement, stated, moved, terms)
    if statement.influence != due:
        raise FormedError(INFLUENCE, "neither sum nor bound are what its sources give", bodies)
    rate = _rate(statement, terms)
    reached = rate * math.sqrt(float(energy(moved))) if due.spent else due.reach.length
    allowed = due.bound * (1.0 + COMPUTING) + due.slack + rate * math.sqrt(rounding)
    if reached > allowed:
        detail = f"it has injected {reached:g} in its window, and may {allowed:g}"
        raise FormedError(INFLUENCE, detail, bodies)


def allowed_energy(statement: Statement, parts: Sequence[Floats], terms: RunTerms) -> float:
    """The energy that a statement may show: any in a charged or a free phase, elsewhere what
    rounding explains."""
    phase = terms.phases.phases[statement.phase]
    injects = phase.charged or phase.free
    return math.inf if injects else rounding_energy(statement, parts, terms)


def rounding_energy(statement: Statement, parts: Sequence[Floats], terms: RunTerms) -> float:
    """The energy that rounding explains.

    Rounding errors e satisfy ||e|| <= relative * ||values||, or absolute * sqrt(dim) each of
    what was stated and what it was stepped by. Their sketch has that length but for a few
    percent, and so have the values' own, which `ROUNDING_MARGIN` covers.
    """
    precision = terms.precision
    squares = [energy(vector) for vector in (*parts, np.frombuffer(statement.sketch, "<f8"))]
    reach = sum(math.sqrt(length) for length in map(float, squares) if math.isfinite(length))
    step = abs(statement.step_size)
    smallest = precision.absolute * (1 + step) * math.sqrt(statement.dim)
    error = ROUNDING_MARGIN * (precision.relative * reach + smallest) + COMPUTING * reach
    allowed = error / step if step else math.inf
    return allowed * allowed  # where ** 2 would raise OverflowError


def _re_enters(row: Mapping[str, float], taken: Mapping[str, float]) -> bool:
    """Whether a row takes one neighbour's model as it is."""
    return len(row) == 1 and set(row.values()) == {1.0} and row.keys() <= taken.keys()


def _examine_row(agent: str, row: dict[str, float], taken: Mapping[str, float]) -> None:
    """That a row has the cluster file's weights, and for the agent itself what is left."""
    own = row.pop(agent, None)
    if own is None or any(taken.get(k) != w for k, w in row.items()):
        raise EvidenceError(MIXING_ROW, "weights are not those of the cluster file")
    due = own_weight(row)
    if own < 0 or abs(own - due) > ROW_TOLERANCE:
        raise EvidenceError(MIXING_ROW, f"its own weight is {own}, what is left is {due}")


def check_claim(
    claim: Claim,
    terms: Terms,
    energies: Mapping[int, float],
    traces: Mapping[int, NDArray[np.float32]],
    heard: Mapping[int, frozenset[str]] | None = None,
    products: Mapping[tuple[int, int], float] | None = None,
    wholes: Mapping[int, float] | None = None,
) -> None:
    """Hold a neighbour's claim against what its statements show.

    Args:
        energies: of its injected updates, by round; a round not seen cannot be checked here.
        traces: of the same, (r,) each.
        heard: by round, whom the mixing row of its next statement names beside itself.
        products: of the injected updates of two rounds, the earlier one first.
        wholes: the whole energies, by round, where the run has fresh sketches.

    Raises:
        EvidenceError: the claim contradicts the statements.
    """
    if claim.run != terms.run:
        raise EvidenceError("claim-run")
    for entry in claim.rounds:
        if window_of(entry.round, terms.window_rounds) != claim.window:
            raise EvidenceError("claim-round", f"{entry.round} is not of window {claim.window}")
        if entry.round > terms.rounds:
            raise EvidenceError("claim-round", f"{entry.round}, the last is {terms.rounds}")
        seen = energies.get(entry.round)
        if seen is not None:
            check_energy(entry, seen)
        mixed = (heard or {}).get(entry.round, frozenset(entry.heard))
        allowed = terms.weights(entry.round).taken[claim.agent].keys()
        if mixed != set(entry.heard) or not mixed <= allowed:
            raise EvidenceError("claim-heard", f"round {entry.round}: not whom it mixed")
        check_trace(entry, terms.trace_size, traces.get(entry.round))
        check_whole(entry, terms, (wholes or {}).get(entry.round))
    check_products(claim, products or {})


def check_products(claim: Claim, seen: Mapping[tuple[int, int], float]) -> None:
    """Hold claimed inner products against those that statements show, of two rounds, the earlier
    one first; raises EvidenceError."""
    for place, entry in enumerate(claim.rounds):
        found = np.frombuffer(entry.products, "<f8").tolist()
        for before, claimed in zip(claim.rounds[:place], found, strict=True):
            shown = seen.get((before.round, entry.round))
            # Not relative to the product itself: directions at right angles have next to none.
            scale = math.sqrt(before.energy) * math.sqrt(entry.energy) + PRODUCT_FREE
            if shown is not None and not abs(shown - claimed) <= CLAIM_TOLERANCE * scale:
                both = f"rounds {before.round} and {entry.round}"
                raise EvidenceError("claim-products", f"{both}: {claimed}, seen {shown}")


def check_energy(entry: ClaimedRound, seen: float) -> None:
    """Hold a claimed energy against a finite one that statements show; raises EvidenceError."""
    if abs(seen - entry.energy) > CLAIM_TOLERANCE * max(seen, 1e-300):
        raise EvidenceError("claim-energy", f"round {entry.round}: {entry.energy}, seen {seen}")


def check_whole(entry: ClaimedRound, terms: RunTerms, seen: float | None) -> None:
    """Hold a claimed whole energy against the one that a statement shows, if there is one, and
    against whether the run has any; raises EvidenceError."""
    if (entry.whole is None) != (terms.fresh is None):
        raise EvidenceError("claim-whole", f"round {entry.round}: there in runs of fresh sketches")
    if seen is None or entry.whole is None:
        return
    if not abs(seen - entry.whole) <= CLAIM_TOLERANCE * max(seen, 1e-300):
        raise EvidenceError("claim-whole", f"round {entry.round}: {entry.whole}, seen {seen}")


def check_trace(entry: ClaimedRound, trace_size: int, seen: NDArray[np.float32] | None) -> None:
    """Hold a claimed trace against a finite one (r,) that statements show, if there is one.

    Raises:
        EvidenceError: it contradicts that one, or cannot be a trace at all.
    """
    if len(entry.trace) != 4 * trace_size:
        raise EvidenceError("claim-trace", f"round {entry.round}: wrong length")
    claimed = np.frombuffer(entry.trace, "<f4").astype(np.float64)
    if not np.isfinite(claimed).all():
        raise EvidenceError("claim-trace", f"round {entry.round}: not finite")
    if seen is None:
        return
    expected = seen.astype(np.float64)
    scale = math.sqrt(float(energy(expected))) + 1e-300
    if not math.sqrt(float(energy(claimed - expected))) <= TRACE_TOLERANCE * scale:
        raise EvidenceError("claim-trace", f"round {entry.round}")
