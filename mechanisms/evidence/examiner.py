"""Statements, claims and what they prove: the update an agent injected, from signed values alone.

In round t agent i sends y_i,t to its neighbours and signs a statement of it: the payload's digest
and sketch S y_i,t, the step size, and the mixing row w_i that formed the x_i,t it started from. As
mixing is linear, anyone who holds the statements of round t-1 named in that row computes

    S u_i,t = (sum_k w_ik S y_k,t-1 - S y_i,t) / lambda_t

the sketch of what i injected, wherever it lied. Round 0 is the initial model of the cluster file,
which everyone states alike. Sums run over agents in ascending order of id, in binary64.

This module computes and judges; it signs only what it is given a key for and stores nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.claims import Claim, ClaimedRound
from candor.mechanisms.evidence.sketch import (
    TRACE_SIZE,
    SignSketch,
    TraceFold,
    signs_seed,
    window_of,
)
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    Floats,
    SignedStatement,
    Statement,
    commitment,
)
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
STEP_TOLERANCE: Final = 1e-12
# Squared norms of a payload and of its sketch agree within a few percent unless someone has placed
# values where the sketch's known signs cancel them. Only what is absurd is refused here: a payload
# a thousand times as long as its sketch shows, and longer than a thousand.
HIDDEN_FACTOR: Final = 1e6
HIDDEN_FREE: Final = 1e6


def injected(mixed: Floats, stated: Floats, step_size: float | Floats) -> Floats:
    """Sketch of the injected update (..., k) from the mixed and the stated sketch (..., k)."""
    # What a peer states may overflow or cancel to NaN; `Examiner.examine` refuses the result.
    with np.errstate(all="ignore"):
        return (mixed - stated) / step_size


def injected_after(
    statement: Statement, sources: Mapping[str, Statement], window_rounds: int, *, whole: bool
) -> Floats:
    """S u (k,) of a statement of round t >= 2 whose row names `sources`, all of round t - 1.

    `whole`: vectors are their own sketch, the same under the signs of any window.

    Raises:
        EvidenceError: a source carries no sketch under the signs of the statement's window.
    """
    window = window_of(statement.round, window_rounds)
    stated = np.frombuffer(statement.sketch, "<f8")
    mixed = np.zeros_like(stated)
    with np.errstate(all="ignore"):
        for agent, weight in statement.row:
            source = sources[agent]
            own = np.frombuffer(source.sketch, "<f8")
            mixed += weight * (own if whole else source.values(window, window_rounds))
    return injected(mixed, stated, statement.step_size)


def energy(sketches: Floats) -> Floats:
    """Squared norms (...) of sketches (..., k)."""
    with np.errstate(all="ignore"):
        squared: Floats = np.einsum("...k,...k->...", sketches, sketches)
    return squared


def _squared_norm(payload: NDArray[np.float32]) -> float:
    """Of a finite payload (dim,); in float32, which is fast, unless that overflows."""
    with np.errstate(over="ignore"):
        squared = float(np.dot(payload, payload))
    return squared if math.isfinite(squared) else float(np.square(payload, dtype=np.float64).sum())


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What the cluster file alone fixes, by which signed things are compared."""

    run: bytes
    dim: int
    sketch_size: int
    window_rounds: int
    publics: Mapping[str, bytes]

    @property
    def sketch_bytes(self) -> int:
        """Length of an encoded sketch."""
        return 8 * min(self.dim, self.sketch_size)

    @property
    def trace_size(self) -> int:
        """r: how many values a trace has."""
        return min(self.dim, self.sketch_size, TRACE_SIZE)


@dataclass(frozen=True, slots=True)
class Terms(RunTerms):
    """What all agents of a run know in advance and every statement is judged against.

    `weights(t)` are those of the cluster file for mixing round t. `initial` is the initial model
    (dim,) float32, `step_size(t)` the schedule, `rounds` the last one.
    """

    weights: Callable[[int], Round]
    step_size: Callable[[int], float]
    initial: NDArray[np.float32]
    rounds: int

    def step_size_of(self, agent: str, t: int) -> float:
        """The step of an agent in round t: the schedule's, over its mass."""
        return self.step_size(t) / self.weights(t).mass[agent]


@dataclass(frozen=True, slots=True)
class Examined:
    """What an accepted update proves: the injected sketch (k,), its squared norm and its trace;
    and the bodies of the statements that show it, in the order of the row."""

    injected: Floats
    energy: float
    trace: NDArray[np.float32]
    sources: tuple[bytes, ...] = ()


class Examiner:
    """Makes and judges statements under one run's terms; caches the signs of the last windows."""

    # The present window, the one before (late updates) and the next (a window's last round).
    WINDOWS_CACHED: Final = 3

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._sketches: dict[int, SignSketch] = {}
        self._folds: dict[int, TraceFold] = {}
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
        agent: str,
        payload: NDArray[np.float32],
        row: Mapping[str, float],
    ) -> Statement:
        """The statement of `payload` (dim,) sent in round t, started from what `row` mixed; whoever
        signs it adds the commitment to its sources."""
        terms = self.terms
        window = window_of(t, terms.window_rounds)
        digest = payload_digest(payload.data.cast("B"))
        return Statement(
            run=terms.run,
            round=t,
            agent=agent,
            digest=digest,
            dim=terms.dim,
            row=tuple(sorted(row.items())),
            step_size=terms.step_size_of(agent, t),
            sketch=self.sketch(window)(payload).astype("<f8").tobytes(),
            next_sketch=self._next_sketch(t, payload),
        )

    def _next_sketch(self, t: int, payload: NDArray[np.float32]) -> bytes:
        terms = self.terms
        window = window_of(t, terms.window_rounds)
        whole = terms.dim <= terms.sketch_size  # the vector itself, under any signs
        if whole or window_of(t + 1, terms.window_rounds) == window:
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
        # Not bit by bit: the power in a decaying schedule is the C library's.
        scheduled = terms.step_size_of(sender, statement.round)
        if not math.isclose(statement.step_size, scheduled, rel_tol=STEP_TOLERANCE):
            raise EvidenceError("step-size", f"{statement.step_size}")
        self._examine_row(statement)

    def _examine_row(self, statement: Statement) -> None:
        agent, row = statement.agent, dict(statement.row)
        if statement.round == 1:
            if row != {agent: 1.0}:
                raise EvidenceError("mixing-row", "round 1 starts from the initial model")
            return
        taken = self.terms.weights(statement.round - 1).taken[agent]
        if len(row) == 1 and set(row.values()) == {1.0} and set(row) <= set(taken):
            return  # a re-entry: one neighbour's payload as it is
        own = row.pop(agent, None)
        if own is None or any(taken.get(k) != w for k, w in row.items()):
            raise EvidenceError("mixing-row", "weights are not those of the cluster file")
        due = own_weight(row)
        if own < 0 or abs(own - due) > ROW_TOLERANCE:
            raise EvidenceError("mixing-row", f"its own weight is {own}, what is left is {due}")

    def examine(
        self,
        signed: SignedStatement,
        payload: NDArray[np.float32] | None,
        witnesses: Mapping[str, SignedStatement],
        trusted: Mapping[str, SignedStatement],
    ) -> Examined:
        """Judge a whole update, or a notice: digest, sketch, values, witnesses, in this order.

        Args:
            signed: the sender's statement, already passed by `examine_header`.
            payload: (dim,) float32 as received; None for a notice, which has none.
            witnesses: statements of the round before, by agent, as forwarded by the sender.
            trusted: statements of the round before that this agent verified itself.

        Raises:
            EvidenceError: the update must not reach the model.
        """
        statement = signed.statement
        if payload is not None:
            self._examine_payload(statement, payload)
        sources = self._sources(statement, witnesses, trusted)
        if commitment(source.body for source in sources.values()) != statement.sources:
            raise EvidenceError("witness-digest", "not the statements that it mixed")
        shown = self.shown(statement, sources)
        if not math.isfinite(shown.energy):
            raise EvidenceError("injected-not-finite")
        if shown.energy > ENERGY_MAX:
            raise EvidenceError("injected-too-large", f"its energy is {shown.energy:g}")
        return shown

    def _examine_payload(self, statement: Statement, payload: NDArray[np.float32]) -> None:
        """That the payload is the one stated."""
        if payload_digest(payload.data.cast("B")) != statement.digest:
            raise EvidenceError("payload-digest")
        window = window_of(statement.round, self.terms.window_rounds)
        measured = self.sketch(window)(payload)
        if measured.astype("<f8").tobytes() != statement.sketch:
            raise EvidenceError("payload-sketch")
        if self._next_sketch(statement.round, payload) != statement.next_sketch:
            raise EvidenceError("payload-sketch", "under the next window's signs")
        if not np.isfinite(measured).all():  # a sum with one non-finite term is not finite
            raise EvidenceError("payload-not-finite")
        whole = _squared_norm(payload)
        if not whole <= HIDDEN_FACTOR * float(energy(measured)) + HIDDEN_FREE:
            raise EvidenceError("payload-hidden", f"its squared norm is {whole:g}")

    def shown(self, statement: Statement, sources: Mapping[str, SignedStatement]) -> Examined:
        """What a statement shows was injected; may be not finite. `sources` are the statements that
        its row names, in that order: empty in round 1."""
        vector = self._injected(statement, {k: s.statement for k, s in sources.items()})
        fold = self.fold(window_of(statement.round, self.terms.window_rounds))
        bodies = tuple(source.body for source in sources.values())
        return Examined(vector, float(energy(vector)), fold(vector), bodies)

    def fold(self, window: int) -> TraceFold:
        """The fold of a window's sketches to traces."""
        found = self._folds.get(window)
        if found is None:
            terms = self.terms
            found = TraceFold(terms.run, window, min(terms.dim, terms.sketch_size))
            recent = {w: fold for w, fold in self._folds.items() if w >= window - 1}
            self._folds = recent | {window: found}
        return found

    def _sources(
        self,
        statement: Statement,
        witnesses: Mapping[str, SignedStatement],
        trusted: Mapping[str, SignedStatement],
    ) -> dict[str, SignedStatement]:
        """The verified statements of the round before that the row names."""
        sources: dict[str, SignedStatement] = {}
        if statement.round == 1:
            return sources
        for agent, _ in statement.row:
            known, witness = trusted.get(agent), witnesses.get(agent)
            if witness is None or (known is not None and known.body == witness.body):
                if known is None:
                    raise EvidenceError("witness-missing", agent)
                sources[agent] = known
                continue
            if known is not None and agent == statement.agent:
                # It would be measured from a model that it never sent: a jump for nothing.
                raise EvidenceError("equivocation", f"round {statement.round - 1} stated twice")
            said = witness.statement
            if said.agent != agent or said.round != statement.round - 1:
                raise EvidenceError("witness-round", agent)
            if said.run != self.terms.run or len(said.sketch) != self.terms.sketch_bytes:
                raise EvidenceError("witness-run", agent)
            if not witness.verify(self.terms.publics[agent]):
                raise EvidenceError("witness-signature", agent)
            sources[agent] = witness
        return sources

    def _injected(self, statement: Statement, sources: Mapping[str, Statement]) -> Floats:
        window_rounds = self.terms.window_rounds
        if statement.round == 1:
            initial = self._initial_sketch(window_of(1, window_rounds))
            return injected(initial, np.frombuffer(statement.sketch, "<f8"), statement.step_size)
        whole = self.terms.dim <= self.terms.sketch_size
        return injected_after(statement, sources, window_rounds, whole=whole)

    def _initial_sketch(self, window: int) -> Floats:
        if window not in self._initial:
            self._initial[window] = self.sketch(window)(self.terms.initial)
        return self._initial[window]


def check_claim(
    claim: Claim,
    terms: Terms,
    energies: Mapping[int, float],
    traces: Mapping[int, NDArray[np.float32]],
    heard: Mapping[int, frozenset[str]] | None = None,
) -> None:
    """Hold a neighbour's claim against what its statements show.

    Args:
        energies: of its injected updates, by round; a round not seen cannot be checked here.
        traces: of the same, (r,) each.
        heard: by round, whom the mixing row of its next statement names beside itself.

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


def check_energy(entry: ClaimedRound, seen: float) -> None:
    """Hold a claimed energy against a finite one that statements show; raises EvidenceError."""
    if abs(seen - entry.energy) > CLAIM_TOLERANCE * max(seen, 1e-300):
        raise EvidenceError("claim-energy", f"round {entry.round}: {entry.energy}, seen {seen}")


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
