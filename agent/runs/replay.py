"""Rounds done again, on the host of the agent that kept them, and held against what it stated.

Everything that others know of a round is checked by what they know it by: the vectors that were
heard by their senders' statements, the weights by the cluster file, the model that the round was
started from by the sketches of what it was mixed from. Then the round is done again from its start,
with the very driver and trainer of a daemon, honestly: what would be sent in each exchange must be
what was stated, and what the next round starts from what it led to. See `mechanisms.evidence.kept`.

How close is close enough: two machines, or one with other threads, add the same numbers in another
order. A sum of n products in float32 is off by n 2^-24 of the sum of their sizes at most, and by
about sqrt(n) 2^-24 as a rule (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1;
its section 3.5 for gradients, layer after layer). `REPORT_TOLERANCE` is 2^-10 of the length of what
the round moved: it allows sums of 2^14 terms at the worst, and 2^28 as a rule. The vector itself is
rounded once more on either side, to the precision of the codec. What a lie within that gains is a
thousandth of an honest step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candor.agent.algorithms.driver import Driver
from candor.agent.algorithms.effects import Heard, State
from candor.agent.core.combination import combined
from candor.agent.core.effects import Combine
from candor.agent.core.terms import codec_of, evidence_terms
from candor.agent.daemon.daemon import Work
from candor.agent.daemon.host import HostSettings, prepare
from candor.agent.daemon.kept_rounds import state_from
from candor.agent.learning.reporting import REPORTS
from candor.agent.learning.rows import LoadData, TrainedRows
from candor.agent.learning.trainer import Trainer, unpacked
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.claims import Claim
from candor.mechanisms.evidence.examiner import (
    COMPUTING,
    Examiner,
    check_energy,
    check_trace,
    derived_row,
    examine_parts,
    formed_parts,
)
from candor.mechanisms.evidence.kept import (
    Echo,
    Exchanged,
    KeptRound,
    Part,
    Start,
    salt_of,
)
from candor.mechanisms.evidence.sample_tree import Samples
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    Floats,
    Row,
    SignedStatement,
    Statement,
    commitment,
    named_sources,
    place_of,
)
from candor.network.codecs import FLOAT32
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import MalformedError, payload_digest, sha256
from candor.topologies.schedules.weights import own_weight
from candor.topologies.specs.specs import ConfigurationError, one_line

REPORT_TOLERANCE: Final = 2.0**-10
ROUNDINGS: Final = 4.0  # of a vector: once more on either side, and in the step and the mixing
WEIGHT_TOLERANCE: Final = 1e-12

Vector = NDArray[np.float32]


class FalseReport(ValueError):
    """What was stated does not follow from what was kept: one line that says what."""


class CannotTell(ValueError):
    """A round that cannot be done again: one line that says why."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A round as it was kept: from what, what was sent and heard, from what the next one went on
    and the statement that commits to that, None where none did; and what neighbours stated next."""

    start: Start
    round: KeptRound
    following: Start | None = None
    said: SignedStatement | None = None
    echoes: tuple[Echo, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a round done again tells: `why`, in one line; `error` is how far the report was from the
    stated one, of the length of what it moved; `statement` the SHA-256 of what was judged;
    `echoed`: a neighbour's next statement names what is shown."""

    round: int
    told: Told
    why: str
    error: float = math.nan
    statement: bytes = bytes(32)
    echoed: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What the auditor's program has: where data sets lie, the saved model that the run starts
    from, where to compute, and on how many threads."""

    data_root: Path | None = None
    initial: Path | None = None
    device: str = "cpu"
    threads: int | None = None


class Replayer:
    """Does rounds of an agent again.

    Args:
        cluster: the run.
        agent: whose rounds.
        samples: the commitment to the samples that the auditor finds on the host.
        host: how it computes.
        given: the samples, where the agent has shown some and the data set is not asked.

    Raises:
        ConfigurationError: the task cannot be used here.
    """

    def __init__(
        self,
        cluster: Cluster,
        agent: str,
        samples: Samples,
        host: Host,
        given: LoadData | None = None,
    ) -> None:
        self._cluster, self._agent, self._given = cluster, agent, given
        self._samples = samples
        self._settings = HostSettings(
            agent,
            Path(),
            Path(),
            initial=host.initial,
            data_root=host.data_root,
            device=host.device,
            threads=host.threads,
        )
        self._work, self._rows = self._prepared()
        self._terms = evidence_terms(cluster, self._work.initial.numpy())
        self._examiner = Examiner(self._terms)
        codec = codec_of(cluster)
        self._rounded = None if codec is FLOAT32 else codec.rounded

    def _prepared(self) -> tuple[Work, TrainedRows]:
        return prepare(self._cluster, self._settings, given=self._given)

    def replayed(self, kept: Kept, claim: Claim | None = None) -> Replayed:
        """Do a round again; `claim` is the agent's of its window, which its neighbours hold."""
        number, echoed = kept.start.round, False
        try:
            self._check(kept, claim)
            echoed = self._echoed(kept)
            error = self._redo(kept)
        except (FalseReport, EvidenceError) as exc:
            error = exc.error if isinstance(exc, _Off) else math.nan
            told, why = Told.FALSE, str(exc)
        except (CannotTell, ConfigurationError, MalformedError) as exc:
            told, why, error = Told.UNKNOWN, str(exc), math.nan
        else:
            told, why = Told.TRUE, "to the bit" if error == 0.0 else f"within {error:.1e}"
        said = [e for e in kept.round.exchanges if e.phase == self._terms.phases.charged]
        own = [p.statement for e in said for p in e.parts if p.agent == self._agent]
        digest = sha256(own[0].body) if own else bytes(32)
        return Replayed(number, told, why, error, digest, echoed)

    # --- what others know ---------------------------------------------------------------------

    def _check(self, kept: Kept, claim: Claim | None) -> None:
        start, exchanges = kept.start, kept.round.exchanges
        if (start.run, start.agent) != (self._terms.run, self._agent):
            raise CannotTell("it is of another run or agent")
        if len(start.model) != 4 * self._terms.dim:
            raise CannotTell("its model is of another size")
        if [e.phase for e in exchanges] != list(range(self._terms.phases.count)):
            raise CannotTell("not all of its exchanges were kept")
        for exchange in exchanges:
            agents = [part.agent for part in exchange.parts]
            if agents != sorted(set(agents)):
                raise CannotTell("what it kept of an exchange is not in order")
            self._check_own(start, exchange)
            for part in exchange.parts:
                self._check_part(start.round, exchange.phase, part)
            self._check_weights(start.round, exchange)
            self._check_claimed(exchange, claim)
        if start.samples != self._samples:
            raise FalseReport("its samples are not those that it committed to")
        for exchange in exchanges:
            self._check_model(start, exchange)

    def _echoed(self, kept: Kept) -> bool:
        """Whether neighbours have received the statements that are shown, as what they stated next
        says: what is signed anew since is in none of theirs."""
        shown = {e.phase: self._own(e).statement.body for e in kept.round.exchanges}
        found = False
        for echo in kept.echoes:
            said, number = echo.statement.statement, kept.start.round
            if said.agent == self._agent or said.round != number + 1:
                raise CannotTell("what a neighbour stated next is not its, or of another round")
            self._check_signed(echo.statement)
            if commitment(echo.sources) != said.sources:
                raise CannotTell("what a neighbour stated next commits to something else")
            for place, body in zip(
                named_sources(said, self._terms.phases), echo.sources, strict=False
            ):
                if place[0] == number and place[2] == self._agent:
                    if shown.get(place[1]) != body:
                        raise FalseReport(f"{said.agent} has received another statement of it")
                    found = True
        return found

    def _own(self, exchange: Exchanged) -> Part:
        found = [part for part in exchange.parts if part.agent == self._agent]
        if not found:
            raise CannotTell("what it sent itself is not there")
        return found[0]

    def _check_own(self, start: Start, exchange: Exchanged) -> None:
        said = self._own(exchange).statement.statement
        if said.salt != salt_of(start.opening, exchange.phase):
            raise FalseReport("it did not commit to what it kept as the start of the round")
        examine_parts(said, self._terms)
        if commitment(source.body for source in exchange.sources) != said.sources:
            raise FalseReport("what it kept is not what its statement commits to")
        for source in exchange.sources:
            self._check_signed(source)
        if [place_of(one.statement) for one in exchange.sources] != list(
            named_sources(said, self._terms.phases)
        ):
            raise FalseReport("what it kept is not what its statement names")

    def _check_signed(self, signed: SignedStatement) -> Statement:
        said = signed.statement
        if said.run != self._terms.run or said.agent not in self._terms.publics:
            raise FalseReport(f"a statement of {said.agent} is of another run")
        if not signed.verify(self._terms.publics[said.agent]):
            raise FalseReport(f"a statement of {said.agent} is not signed by it")
        return said

    def _check_part(self, number: int, phase: int, part: Part) -> None:
        said = self._check_signed(part.statement)
        if place_of(said) != (number, phase, part.agent):
            raise FalseReport(f"a statement of {part.agent} is of another exchange")
        if payload_digest(part.values) != said.digest or len(part.values) != 4 * said.dim:
            raise FalseReport(f"the vector of {part.agent} is not the one that it stated")

    def _check_weights(self, number: int, exchange: Exchanged) -> None:
        """That what was heard was weighted as the run weights it."""
        row = {part.agent: part.weight for part in exchange.parts}
        stated = {part.agent: part.statement.statement for part in exchange.parts}
        rule = self._terms.phases.row_rule(exchange.phase)
        if rule:
            due = derived_row(self._agent, number, rule, stated, self._terms)
        else:
            taken = self._terms.weights(number).taken[self._agent]
            if not taken.keys() >= row.keys() - {self._agent}:
                raise FalseReport("it mixed what it is not given")
            due = {agent: taken[agent] for agent in row if agent != self._agent}
            due[self._agent] = own_weight(due)
        if due.keys() != row.keys() or any(
            not abs(due[agent] - row[agent]) <= WEIGHT_TOLERANCE for agent in row
        ):
            raise FalseReport("it mixed by other weights than the run's")

    def _check_claimed(self, exchange: Exchanged, claim: Claim | None) -> None:
        """That the charged statement is the one that the agent claimed, and was billed for."""
        if claim is None or exchange.phase != self._terms.phases.charged:
            return
        said = self._own(exchange).statement.statement
        entry = next((one for one in claim.rounds if one.round == said.round), None)
        if entry is None:
            raise FalseReport("it did not claim the round")
        sources = {place_of(one.statement): one for one in exchange.sources}
        shown = self._examiner.shown(said, sources)
        check_energy(entry, shown.energy)
        check_trace(entry, self._terms.trace_size, shown.trace)

    def _check_model(self, start: Start, exchange: Exchanged) -> None:
        """That the model which the round was started from is the one that its statement's row, of
        others' statements, or its attested aggregate shows."""
        said, terms = self._own(exchange).statement.statement, self._terms
        window = window_of(said.round, terms.window_rounds)
        first = self._examiner.sketch(window)(terms.initial) if said.round == 1 else None
        sources = {place_of(one.statement): one.statement for one in exchange.sources}
        shown: Floats | None = None
        for place, part in enumerate(terms.phases.phases[exchange.phase].parts):
            if part.before and part.phase == terms.phases.model:
                shown = formed_parts(said, sources, terms, first)[place]
                formed = said.formed[place]
                own = not isinstance(formed, Row) or self._agent in dict(formed.weights)
                if start.fresh == own and said.round > 1:
                    raise FalseReport("it says to have come back, and had not, or the reverse")
        if said.round == 1 and start.model != terms.initial.astype("<f4").tobytes():
            raise FalseReport("it did not start from the run's initial model")
        if shown is None:
            return
        found = self._examiner.sketch(window)(_vector(start.model))
        reach = _length(shown) + _length(found)
        if not _length(found - shown) <= COMPUTING * reach:
            raise FalseReport("it did not start the round from what it had mixed")

    # --- the round done again -----------------------------------------------------------------

    def _redo(self, kept: Kept) -> float:
        """How far what is sent is from what was stated, of what it moves.

        Raises:
            FalseReport, CannotTell
        """
        done = self._done(kept)
        try:
            error = self._judged(kept, done)
            self._judge_end(kept, done)
        except FalseReport:
            again = self._done(kept)
            if any(not np.array_equal(a, b) for a, b in zip(done.sent, again.sent, strict=True)):
                raise CannotTell("done twice it comes out in two ways") from None
            if done.unsaved:
                raise CannotTell("its loop keeps something that has no state") from None
            raise
        return error

    def _done(self, kept: Kept) -> "_Done":
        """The round as an honest agent does it, from what was kept and with what it heard."""
        start, work, rows = kept.start, self._work, self._rows
        if isinstance(rows.learner, Trainer):  # what its loop keeps must not be another round's
            _, rows = self._prepared()
        if start.fresh and (start.state or (start.round == 1 and not self._as_new(start, rows))):
            raise FalseReport("it started with a state, and nothing led to that")
        rows.learner.restore(start.private)
        x = torch.from_numpy(_vector(start.model).copy()).unsqueeze(0)
        state, settings = state_from(start.state), work.algorithm
        driver = Driver(settings, rows, self._rounded, x, state, start.round, work.coin)
        sent: list[Vector] = []
        answer: Tensor | Heard | None = None
        for exchange in kept.round.exchanges:
            try:
                out = driver.advance(answer)
            except (RuntimeError, ValueError, TypeError, LookupError) as exc:  # of a state made up
                if isinstance(exc, ConfigurationError):
                    raise
                raise FalseReport(f"no round starts from what it kept: {one_line(exc)}") from exc
            sent.append(out.vectors[0].cpu().contiguous().numpy())
            answer = combined(_combine(start.round, exchange), self._agent, mixes=out.mixes)
            if isinstance(answer, Heard) or driver.moves is not None:
                answer = driver.combined(answer)
        assert isinstance(answer, Tensor)
        model = answer[0].cpu().numpy()
        unsaved = isinstance(rows.learner, Trainer) and rows.learner.unsaved(0)
        private = rows.learner.private()
        return _Done(sent, model, driver.state, private, unsaved, not out.mixes)

    def _as_new(self, start: Start, rows: TrainedRows) -> bool:
        return _alike(rows.learner.private(), start.private)

    def _judged(self, kept: Kept, done: "_Done") -> float:
        """That what is sent is what was stated, within what other additions explain."""
        begun, precision, errors = _vector(kept.start.model), self._terms.precision, [0.0]
        for exchange, made in zip(kept.round.exchanges, done.sent, strict=True):
            stated = _vector(self._own(exchange).values)
            if np.array_equal(made, stated):
                continue
            direct = self._terms.phases.phases[exchange.phase].direct
            moved = _length(stated) if direct else _apart(stated, begun)
            reach = _length(stated) + _length(begun)
            rounded = precision.relative * reach + precision.absolute * math.sqrt(len(stated))
            off = _apart(made, stated)
            error = off / moved if moved else math.inf
            if not off <= REPORT_TOLERANCE * moved + ROUNDINGS * rounded:
                raise _Off(error)
            errors.append(error)
        return max(errors)

    def _judge_end(self, kept: Kept, done: "_Done") -> None:
        """That the next round was started from what this one led to."""
        following, said, number = kept.following, kept.said, kept.start.round
        if number == self._terms.rounds:
            return
        if following is None or said is None:
            raise CannotTell("its report is true; from what it went on is not kept")
        place = (self._check_signed(said).round, said.statement.phase, said.statement.agent)
        if place != (number + 1, 0, self._agent) or following.round != number + 1:
            raise CannotTell("its report is true; what follows is of another round")
        if said.statement.salt != salt_of(following.opening, 0):
            raise FalseReport("it did not commit to what it kept as the start of the next round")
        if following.samples != kept.start.samples:
            raise FalseReport("it went on with other samples")
        if following.fresh:
            return  # it was away in between, as its next row says
        vectors = [_vector(part.values) for part in kept.round.exchanges[-1].parts]
        spread = max(_apart(each, _vector(kept.start.model)) for each in vectors)
        reach = max(map(_length, vectors)) * (1 + len(vectors))
        allowed = REPORT_TOLERANCE * spread * done.aggregates + 2.0**-24 * ROUNDINGS * reach
        if not _apart(done.model, _vector(following.model)) <= allowed:
            raise FalseReport("it did not go on from what it had mixed")
        after = state_from(following.state)
        if done.state.keys() - {REPORTS} != after.keys():
            raise FalseReport("it went on with another state")
        for name, tensor in after.items():
            if not _alike(done.state[name], tensor):
                raise FalseReport(f"it went on with another {name.replace('_', ' ')}")
        if not _alike(done.private, following.private):
            raise FalseReport("its loop went on with another state")


class _Off(FalseReport):
    """A vector that is too far from an honest one."""

    def __init__(self, error: float) -> None:
        super().__init__(f"what it sent is {error:.2g} of its step away from an honest report")
        self.error = error


@dataclass(frozen=True, slots=True)
class _Done:
    """What a round that is done again sends, by exchange, and what it leads to."""

    sent: list[Vector]
    model: Vector
    state: State
    private: bytes
    unsaved: bool
    aggregates: bool


def _combine(number: int, exchange: Exchanged) -> Combine:
    parts = tuple((part.agent, part.weight, _vector(part.values)) for part in exchange.parts)
    return Combine(number, exchange.phase, parts, reentry=False)


def _vector(values: bytes) -> Vector:
    return np.frombuffer(values, "<f4").astype(np.float32, copy=False)


def _length(vector: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


def _apart(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    if one.shape != other.shape:
        return math.inf
    return _length(one.astype(np.float64) - other)


def _alike(one: object, other: object) -> bool:
    """Whether two states are the same but for the order of additions: tensors, numbers, texts, and
    lists and dicts of them; bytes are what a trainer keeps to itself."""
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one == other or _alike(unpacked(one, 1), unpacked(other, 1))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return bool(torch.equal(one, other))
        a, b = one.double().numpy().ravel(), other.double().numpy().ravel()
        return bool(_apart(a, b) <= REPORT_TOLERANCE * max(_length(a), _length(b)))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=REPORT_TOLERANCE)
    return bool(one == other)
