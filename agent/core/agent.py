"""The agent's core: sessions, rounds, evidence and settlement as one pure state machine.

Stages: starting -> running -> settling -> leaving -> done; rejoining stands for running when this
agent was there before, or comes late, and waits to take a neighbour's payload; unless it can go on
from what an earlier life has left (`agent.core.earlier`). A round has one exchange or several, its
phases, which are counted through the run as steps. Events are the public methods; each returns
effects (`agent.core.effects`) in the order in which they must be performed.
Every event may come in every stage, since a driver's threads end when they do: in a stage that
`HEEDED` does not name for it, it is late, frees what it held and changes nothing else.
The core reads no clock, socket, disk or global generator: time is an argument.
Invariants: nothing unverified is ever in a `Combine`; a round is stated once in the life of the
data directory (a reserve is persisted before the first statement beyond it is sent); every wait on
a neighbour ends at a deadline; memory is bounded by the slots of each neighbour.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.core.disclosures import Disclosures
from candor.agent.core.earlier import Earlier
from candor.agent.core.effects import (
    Arrived,
    Begin,
    Combine,
    Derive,
    Derived,
    Effect,
    Finished,
    Log,
    Persist,
    PutValue,
    Remember,
    Resume,
    Traded,
)
from candor.agent.core.faces import Face, Faces, SignedFace
from candor.agent.core.held import Held
from candor.agent.core.neighbour import Neighbour, ahead, reached
from candor.agent.core.patience import ASYNC, SYNC, Patience
from candor.agent.core.recalls import Recalls
from candor.agent.core.reception import Reception
from candor.agent.core.settlement.evidence_book import EvidenceBook
from candor.agent.core.settlement.settlement import Settlement
from candor.agent.core.succession import LEFT_KEY, Succession
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import ShownRound, SignedDisclosure
from candor.mechanisms.evidence.examiner import Examined, Examiner
from candor.mechanisms.evidence.kept import Echo
from candor.mechanisms.evidence.sketch import last_of_window, window_of
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    Head,
    SignedStatement,
    Statement,
    commitment,
)
from candor.mechanisms.ledger.channel import Record
from candor.mechanisms.rewards.barter import Rating
from candor.network.codecs import Codec
from candor.network.errors import RemoteProtocolError
from candor.network.messages import Bye, Waiting
from candor.network.slots import BufferPool
from candor.network.wire import Buffer
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.schedules.weights import own_weight

RESERVED_KEY: Final = "reserved_round"
NO_FACES: Final[Mapping[str, Face]] = MappingProxyType({})
BYE_RETRY_S: Final = 0.5
KEPT: Final = "its ledger is kept and exported"
# A neighbour may be late with its claim, and a referee waits for it before it bills.
LAST_DEADLINES: Final = 3
# Where members change: how long the last window is settled before, and how long neighbours are
# waited for after. Whoever waited for others still finds those who did not, and is waited for in
# the first round itself: all of it together takes less than a deadline.
CHANGE_SETTLE: Final = 1 / 4
CHANGE_START: Final = 1 / 2
# A window is settled during the next one, or the one after where claims or acceptances are late.
FORGOTTEN_WINDOWS: Final = 2
# All is settled by then: a farewell that is not answered costs nothing but this wait.
FAREWELL_S: Final = 5.0
# Refused by all, an agent stays for two of its HELLOs, so that they learn of it and why.
REFUSAL_S: Final = 5.0
NO_ANSWER: Final = "connected, but nothing comes back: can it reach us?"


class Stage(StrEnum):
    """Where the agent is in the run."""

    STARTING = "starting"
    REJOINING = "rejoining"
    RUNNING = "running"
    SETTLING = "settling"
    LEAVING = "leaving"
    DONE = "done"


_ALIVE: Final = frozenset(Stage) - {Stage.DONE}
# Where an event moves the rounds on. Messages, verdicts and records are taken in at any time: an
# agent that is done still answers a farewell.
HEEDED: Final[Mapping[str, frozenset[Stage]]] = {
    "start": frozenset({Stage.STARTING}),
    "aim": frozenset({Stage.RUNNING}),
    "published": frozenset({Stage.RUNNING}),
    "derived": frozenset({Stage.RUNNING}),
    "combined": frozenset({Stage.RUNNING}),
    "tick": _ALIVE,
    "stop": _ALIVE,
}


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the core needs of the cluster file and the data directory.

    `reserved_round` is the last round that an earlier life may have stated (0 for a fresh data
    directory). `after`: the last round of the membership before this one, 0 where there is none;
    `newcomers`: who was not in that.
    """

    agent: str
    endpoints: Mapping[str, str]
    rounds: int
    deadline_s: float
    start_deadline_s: float
    chunk_bytes: int
    reserved_round: int
    window_rounds: int
    after: int = 0
    newcomers: frozenset[str] = frozenset()


class AgentCore:
    """One agent of a run; see the module for its contract."""

    def __init__(
        self,
        settings: CoreSettings,
        *,
        key: SigningKey,
        examiner: Examiner,
        neighbours: Mapping[str, Neighbour],
        pool: BufferPool,
        settlement: Settlement,
        book: EvidenceBook,
        codec: Codec,
        link_reason: Callable[[str], str | None],
        disclosures: Disclosures,
        memories: Sequence[bytes] = (),
        earlier: Earlier | None = None,
        succession: Succession,
    ) -> None:
        self.settings = settings
        self.succession = succession
        self.stage = Stage.STARTING
        self.phases = examiner.terms.phases
        self.step = 0  # the exchange under way, see `Phases`; 0 before the first
        self.neighbours = neighbours
        self.settlement = settlement
        self.book = book
        self.injected_norm: float | None = None
        self.beyond_credit = 0  # own updates that could cost more than the limit: nobody mixes them
        self._key = key
        self.examiner = examiner
        self.codec = codec
        self._held = Held(settings.agent, examiner.terms)
        self._pool = pool
        self._link_reason = link_reason
        self._disclosures = disclosures
        self._recalls = Recalls(neighbours)
        self._reception = Reception(
            neighbours,
            settlement,
            book,
            examiner,
            pool,
            codec,
            settings.chunk_bytes,
            settings.agent,
            disclosures,
            self._held,
            succession,
            self._recalls,
            memories,
        )
        if earlier is not None:
            self._reception.stated(*self.phases.at(earlier.step))
        self._faces = Faces(book, key, self._held)
        self._reserved = settings.reserved_round
        self._earlier_window = -1  # the last that an earlier life may have stated anything in
        if earlier is None and settings.reserved_round > 0:
            self._look_back()
        self._earlier = earlier  # until this life goes on from it, or from something else
        self._own: NDArray[np.float32] | None = None  # this step's payload once published
        self._lent: list[NDArray[np.float32]] = []  # buffers inside a Derive or Combine under way
        self._combining = False
        self._deriving: Derive | None = None  # what a row is derived of, before it is combined
        pace = ASYNC if examiner.terms.sits_out else SYNC
        self.patience = Patience(neighbours, settings.deadline_s, pace)
        self._late = False  # whether most neighbours went on without this agent the last time
        self._asked = False  # for patience, in this step
        self._reached: dict[str, int] = {}  # by neighbour, its step when the last exchange was over
        self._closed = 0  # the last round of windows claimed when others were beyond
        self._lead_step = 0  # that others had reached when the last vector came too late
        self.unstated = False  # whether the last vector came too late to be stated
        self._deadline_s = 0.0
        self._bye_s = 0.0
        self._rejoining_s = 0.0
        self._known_steps = dict.fromkeys(neighbours, 0)  # when it began to look for a way in
        self._refused_s = math.inf  # since when all have refused us
        self._abandoned_s = math.inf  # since when all have left, before the last round
        self.missing: tuple[str, ...] = ()
        # Heard in this round's exchange of what is billed, and given no weight by the run's rule.
        self.weightless: tuple[str, ...] = ()
        self.mixed_neighbours = 0

    @property
    def round(self) -> int:
        """The round under way, 0 before the first."""
        return self.phases.at(self.step)[0]

    @property
    def last_round(self) -> int:
        """The last round of the run, or of its present membership where it is known by then that
        another one follows."""
        until = self.succession.last_round
        return until if self.round <= until + 1 else self.settings.rounds

    @property
    def _goes_on(self) -> bool:
        """Whether this agent begins a membership with what it has stated in the one before."""
        return self._earlier is not None and self._earlier.closed

    @property
    def opens_window(self) -> bool:
        """Whether the round under way is the first of its window."""
        return (self.round - 1) % self.settings.window_rounds == 0

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The neighbours that this exchange waits for; empty while this agent trains or mixes."""
        if self._own is None or self._combining:
            return ()
        return tuple(agent for agent, n in self.neighbours.items() if n.awaited(self.step))

    # --- events -----------------------------------------------------------------------------

    def start(self, now_s: float) -> list[Effect]:
        """Greet the neighbours; an agent without any begins at once."""
        if self.stage not in HEEDED["start"]:
            return []
        limits = self.settings
        wait_s = CHANGE_START * limits.deadline_s if self._goes_on else limits.start_deadline_s
        self._deadline_s = now_s + min(wait_s, limits.start_deadline_s)
        return self.tick(now_s)

    def tick(self, now_s: float) -> list[Effect]:
        """Time has passed: retries and deadlines."""
        if self.stage not in HEEDED["tick"]:
            return []
        effects = self._reception.tick(now_s, self.round)
        return [*effects, *self._account_late(now_s), *self._advance(now_s)]

    def received(
        self, sender: str, frames: Sequence[Buffer], now_s: float, wall_s: float
    ) -> list[Effect]:
        """A message from an authenticated sender; whatever it holds, the core stays sound."""
        effects = self._reception.received(
            sender,
            frames,
            own_round=self.round,
            leaving=self.stage in (Stage.LEAVING, Stage.DONE),
            now_s=now_s,
            wall_s=wall_s,
        )
        return effects + self._advance(now_s)

    def aim(self, now_s: float) -> list[Effect]:
        """What was trained is about to be stated: in the step under way or, where rounds are sat
        out and most neighbours are beyond it, in the one in which they will be when it arrives.
        What it is stepped from stays; `round` tells."""
        idle = self._own is None and not self._combining
        if self.stage not in HEEDED["aim"] or not idle or not self.examiner.terms.sits_out:
            return []
        lead = reached(self.neighbours)
        step = min(lead + 1, self.settings.rounds)
        if lead + self._late <= self.step or step == self.step or not self._goes_on_in(step):
            return []
        log = _log(logging.INFO, "sat_out", round=step, rounds=step - self.step)
        mixed = self.round - 1 - self.book.sat_out(self.step)
        self.step = step
        for neighbour in self.neighbours.values():
            neighbour.forget_before(step, self._pool)
        self._held.begin(step, mixed)
        return [log, *self._settle(now_s)]

    def _goes_on_in(self, step: int) -> bool:
        """Whether what this agent mixed last can be gone on from in a step."""
        terms, (number, _) = self.examiner.terms, self.phases.at(self.step)
        return terms.reached(number - 1 - self.book.sat_out(self.step), self.phases.at(step)[0])

    def stated(
        self, payload: NDArray[np.float32], attested: NDArray[np.float32] | None = None
    ) -> Statement:
        """The statement of this agent's vector (dim,) of the current exchange, as the codec decodes
        it; `attested` is the aggregate (dim,) that it was stepped from, if any. Takes time, and
        changes nothing: a driver may do it off its loop."""
        number, phase = self.phases.at(self.step)
        sketch = b"" if attested is None else self.examiner.attested(number, attested)
        formed = self.book.formed(self.step, sketch)
        agent, sat_out = self.settings.agent, self.book.sat_out(self.step)
        said = self.examiner.state(number, phase, agent, payload, formed, sat_out)
        return self.examiner.freshened(self.book.rated(said), payload, self._held.vectors)

    def faces(
        self, vectors: Mapping[str, NDArray[np.float32]], attested: NDArray[np.float32] | None
    ) -> Mapping[str, Face]:
        """What neighbours are to be told of vectors (dim,) that differ from this agent's own, where
        a strategy asks for that; see `stated`."""
        number, _ = self.phases.at(self.step)
        sketch = b"" if attested is None else self.examiner.attested(number, attested)
        return self._faces.faces(self.step, vectors, sketch)

    def published(
        self,
        payload: NDArray[np.float32],
        statement: Statement,
        now_s: float,
        faces: Mapping[str, Face] = NO_FACES,
    ) -> list[Effect]:
        """This agent's vector of the current exchange is ready: state it, send it to every
        neighbour.

        `payload` (dim,) must not change any more; `statement` comes from `stated`. An attacker has
        `faces` for neighbours that it tells something else; an honest agent none.
        """
        late = self._own is not None or self._combining or self.book.step_of(statement) != self.step
        if self.stage not in HEEDED["published"] or late:
            return []
        if self._comes_too_late(payload, now_s):
            return self._rejoin(now_s) if self.round <= self._forgotten else []
        witnesses = self.book.witnesses(statement)
        sources = commitment(witness.body for witness in witnesses)
        signed = SignedStatement.sign(replace(statement, sources=sources), self._key)
        shown = self.book.add_own(signed)
        energy = self.examiner.charged_energy(shown)
        if not math.isfinite(energy):
            return self._diverged()
        effects: list[Effect] = []
        if statement.phase == self.phases.charged:
            self.injected_norm = math.sqrt(shown.energy)
            effects += self._beyond_credit(energy) if self.settlement.too_large(energy) else []
        # The whole window at once: a restarted agent claims what it stated in it and sits out the
        # rest, so that no round is ever stated twice and no window claimed twice.
        effects += self._reserve(last_of_window(self.round, self.settings.window_rounds))
        effects.append(Remember(self._reception.snapshot(signed)))
        self._own, self._asked = payload, False
        self._held.add(statement, payload)
        self.patience.out(now_s)
        own = SignedFace.of(signed, witnesses, payload, self._key)
        told = {peer: self._faces.sign(peer, face, own) for peer, face in faces.items()}
        effects += self._reception.update(own, told)
        if self.round == self.settings.rounds:
            self._agree()
        return effects + self._advance(now_s)

    def verified(
        self, peer: str, update: Arrived, outcome: Examined | EvidenceError, now_s: float
    ) -> list[Effect]:
        """The verdict on an update that was handed out by `Verify`."""
        effects = self._reception.verified(peer, update, outcome, self.step + self._combining)
        return effects + self._advance(now_s)

    def derived(self, answer: Derived) -> list[Effect]:
        """The row that follows from what was heard, and whose vector is not mixed: it is farther
        away than its sketch shows."""
        asked, self._deriving = self._deriving, None
        if asked is None:
            return []
        if self.stage not in HEEDED["derived"]:
            self._release()
            return []
        effects: list[Effect] = []
        for peer in sorted(asked.payloads.keys() & self.neighbours.keys()):
            hides = peer in answer.hidden
            self.neighbours[peer].compared(self.step, hides=hides)
            if hides:
                effects += self._reception.refused(peer, self.step, answer.hidden[peer])
        self.missing = tuple(sorted({*self.missing, *answer.hidden}))
        if asked.phase == self.phases.charged:
            own = self.settings.agent
            self.weightless = tuple(k for k, w in answer.row.items() if w == 0.0 and k != own)
        self.book.mixed(self.step, answer.row, asked.rule)
        return [*effects, self._mix(answer.row, asked.payloads)]

    def combined(self, now_s: float) -> list[Effect]:
        """The driver has used what `Combine` handed it; the source buffers are free again."""
        if not self._combining or self._deriving is not None:
            return []
        self._release()
        if self.stage not in HEEDED["combined"]:
            return []
        return self._next(now_s)

    def _next(self, now_s: float) -> list[Effect]:
        """The exchange under way is over."""
        reached = {agent: n.last_step for agent, n in self.neighbours.items()}
        keep_pace = [
            agent
            for agent, step in reached.items()
            if step >= self.step - self.phases.count or step > self._reached.get(agent, step)
        ]
        self._reached = reached
        self.step += 1
        self.patience.over(keep_pace, now_s, round_over=self.phases.at(self.step)[1] == 0)
        for neighbour in self.neighbours.values():
            neighbour.forget_before(self.step, self._pool)
        self._held.begin(self.round)
        effects: list[Effect] = []
        if self.phases.at(self.step)[1] == 0:
            effects += self._settle(now_s)
        if self.round > self.last_round:
            self.stage = Stage.SETTLING
            # What is open with those that stay can be settled later, too.
            over = self.round > self.settings.rounds
            deadlines = LAST_DEADLINES if over else CHANGE_SETTLE
            self._deadline_s = now_s + deadlines * self.settings.deadline_s
        return effects + self._advance(now_s)

    def records_read(self, channel_id: bytes, records: list[Record], now_s: float) -> list[Effect]:
        """The answer to `ReadRecords`."""
        steps = self.settlement.records_read(channel_id, records)
        return self._reception.addressed(steps) + self._advance(now_s)

    def showing(
        self,
        peer: str,
        window: int,
        signed: SignedDisclosure | None,
        offset: int,
        data: Buffer,
    ) -> list[Effect]:
        """The answer to `Show`; see `Reception.showing`."""
        return self._reception.showing(peer, window, signed, offset, data)

    def judged(
        self,
        shown: ShownRound,
        window: int,
        told: Told | None,
        why: str,
        heads: Sequence[Head],
        now_s: float,
    ) -> list[Effect]:
        """The answer to `Judge`: what the round tells, None where it could not be done again here;
        and the heads of its agent's statements as they were shown."""
        return self._reception.judged(shown, window, told, why, heads) + self._advance(now_s)

    def told(
        self, before: Mapping[str, int], stored: Mapping[bytes, int], now_s: float
    ) -> list[Effect]:
        """Payments outside the system that the store holds; see `Settlement.told`."""
        steps = self.settlement.told(before, stored)
        return self._reception.addressed(steps) + self._advance(now_s)

    def handed(self, text: bytes, now_s: float) -> list[Effect]:
        """A cluster file that the operator has put in place of the one in use; one that cannot
        follow it is refused with a line."""
        try:
            effects = self._reception.handed(text, self.round, brought=self.round > 0)
            return effects + self._advance(now_s)
        except RemoteProtocolError as exc:
            return [_log(logging.WARNING, "revision_refused", detail=exc.detail)]

    def echoes(self, combine: Combine) -> tuple[Echo, ...]:
        """What the neighbours in an exchange have stated, with what they commit to: of them that
        is, of the first exchange of a round, who has mixed this agent in the one before."""
        others = (peer for peer, _, _ in combine.parts if peer != self.settings.agent)
        said = (self.settlement.collector.said(peer, combine.round) for peer in others)
        return tuple(Echo(*one) for one in said if one is not None)

    def why_absent(self, agent: str) -> str | None:
        """What keeps a neighbour from taking part, None where nothing does."""
        neighbour = self.neighbours[agent]
        if neighbour.reason is None and not neighbour.session.established:
            return self._link_reason(agent) or NO_ANSWER
        return neighbour.reason

    def rating(self, rater: str, agent: str) -> Rating | None:
        """What an agent said last of another, or itself; None where models are not traded."""
        said = self.book.last(rater)
        ratings = None if said is None else said.statement.ratings
        return None if ratings is None else dict(ratings.of).get(agent)

    def stop(self, failure: str = "", exit_code: int = 1) -> list[Effect]:
        """Leave now, at the operator's wish: tell the neighbours, so that none waits for us."""
        if self.stage not in HEEDED["stop"]:
            return []
        settling = self.stage in (Stage.SETTLING, Stage.LEAVING)
        failure = failure or f"stopped before {'all was settled' if settling else 'the last round'}"
        self.stage = Stage.DONE
        effects: list[Effect] = []
        for neighbour in self.neighbours.values():
            effects += self._reception.send(neighbour, Bye(neighbour.left))
        return [*effects, Finished(failure, exit_code)]

    def _diverged(self) -> list[Effect]:
        """Every neighbour would refuse such an update: better to say so here."""
        return self.stop(
            f"training diverged: the model of round {self.round} is not finite; "
            "a smaller --step-size or fewer --local-steps may help"
        )

    def _beyond_credit(self, energy: float) -> list[Effect]:
        """Told once: a limit near to what honest updates cost makes an agent train alone."""
        self.beyond_credit += 1
        detail = (
            f"an update of energy {energy:.3g} could cost more than payments.credit_limit, so that "
            "no neighbour mixes it; a higher --credit-limit or a lower price lets it in"
        )
        first = self.beyond_credit == 1
        event = _log(logging.WARNING, "update_beyond_credit", round=self.round, detail=detail)
        return [event] if first else []

    # --- progress ---------------------------------------------------------------------------

    @property
    def _left_behind(self) -> bool:
        """Whether most neighbours that stay are in the next revision already, of which this agent
        knows, or some are and nobody else is there: then nothing comes any more of the present one.
        One of many alone could make an agent leave its rounds."""
        heir = self.succession.heir
        if heir is None or self.stage not in (Stage.STARTING, Stage.REJOINING, Stage.RUNNING):
            return False
        staying = [n for a, n in self.neighbours.items() if a in heir.ids]
        looks = self.stage is not Stage.RUNNING  # for somebody who is still in its rounds
        gone = sum(n.session.peer_ahead or (looks and n.left) for n in staying)
        here = sum(n.session.established and not n.left for n in staying)
        return 2 * gone > len(staying) or gone > 0 == here

    def _strayed(self) -> list[Effect]:
        """Rounds beyond the membership's last may have been stated, and are not claimed."""
        until = self.succession.last_round
        if self._reserved <= until:
            return []
        return [Persist((PutValue(LEFT_KEY, b"%d-%d" % (until + 1, self._reserved)),))]

    def _advance(self, now_s: float) -> list[Effect]:
        if self._left_behind:
            gone = f"the others have gone on by revision {self.succession.number}"
            return [*self._strayed(), *self.stop(gone, exit_code=0)]
        match self.stage:
            case Stage.STARTING:
                return self._recall() + self._try_begin(now_s)
            case Stage.REJOINING:
                return self._recall() + self._try_rejoin(now_s)
            case Stage.RUNNING:
                return self._try_combine(now_s)
            case Stage.SETTLING:
                return self._try_leave(now_s)
            case Stage.LEAVING:
                return self._try_finish(now_s)
            case Stage.DONE:
                return []

    def _try_begin(self, now_s: float) -> list[Effect]:
        sessions = {agent: n.session for agent, n in self.neighbours.items()}
        there = [agent for agent, session in sessions.items() if session.established]
        # Not those of an earlier revision: they are started with ours one by one, as we were.
        refused = [
            session.reason
            for session in sessions.values()
            if session.state == "refused" and not session.peer_behind
        ]
        if sessions and len(refused) == len(sessions):
            self._refused_s = min(self._refused_s, now_s)
            over = now_s >= self._refused_s + REFUSAL_S
            return self._finish(str(refused[0]), exit_code=2) if over else []
        self._refused_s = math.inf
        if self._is_past():
            self._let_go()
            return self._try_begin(now_s)
        joins = self.settings.after > 0 and self._earlier is None
        if there and (joins or self._comes_late(there)):
            return self._rejoin(now_s)
        catching_up = not all(self.settlement.caught_up(agent) for agent in there)
        # Nor those that join: they enter by a neighbour's model.
        entering = self.settings.newcomers
        stay, heard = (len(set(some) - entering) for some in (sessions, there))
        expected = heard + len(refused) < stay or catching_up
        if expected and now_s < self._deadline_s:
            return []
        absent = [agent for agent in sessions if agent not in there]
        if sessions and not there and not self._goes_on:
            named = "; ".join(map(self._unreachable, absent))
            waited = f"{self.settings.start_deadline_s:g} s"
            return self._finish(f"no neighbour could be reached in {waited}: {named}")
        effects: list[Effect] = [
            _log(logging.WARNING, "starts_without", peer=agent, detail=self._unreachable(agent))
            for agent in absent
        ]
        if self._earlier is not None:
            return [*effects, *self._resume(self._earlier, now_s)]
        self.stage, self.step = Stage.RUNNING, 1
        if self.examiner.terms.sits_out:
            self.patience.begin(now_s)
        return [*effects, Begin()]

    def _comes_late(self, there: Sequence[str]) -> bool:
        """Whether the run goes on without this agent. A majority must say so: one alone could keep
        an agent from ever starting. Who goes back to an earlier vector looks for a neighbour's
        first, which costs nothing."""
        rounds, earlier = [self.neighbours[a].session.peer_round for a in there], self._earlier
        own = 0 if earlier is None else earlier.round
        ahead_of_us = 2 * sum(number >= own + 2 for number in rounds) > len(self.neighbours)
        if earlier is not None and earlier.closed:
            return ahead_of_us
        if earlier is None:
            return ahead_of_us or self._reserved > 0
        return ahead_of_us or (earlier.own is None and (any(rounds) or not earlier.goes_back))

    def _resume(self, earlier: Earlier, now_s: float) -> list[Effect]:
        """Go on from what an earlier life has left: in its exchange, or after it."""
        self._earlier = None
        self.step, self.stage = earlier.step, Stage.RUNNING
        number, phase = self.phases.at(earlier.step)
        inside = earlier.own is not None and not earlier.closed
        effects: list[Effect] = [
            _log(logging.INFO, "resumed", round=number, inside=int(inside)),
            Resume(number, phase, inside=inside),
        ]
        if earlier.own is not None and earlier.closed:
            self._held.add(earlier.own.signed.statement, earlier.own.payload)
        if earlier.own is None or earlier.closed:  # nothing of its vector is there to be mixed
            self.missing = tuple(sorted(self._taken(number)))
            self.mixed_neighbours = 0
            self.book.mixed(earlier.step, {self.settings.agent: 1.0})
            return effects + self._next(now_s)
        window = window_of(number, self.settings.window_rounds)
        energy = self.book.seen(self.settings.agent, window).energies.get(number)
        self.injected_norm = None if energy is None else math.sqrt(energy)
        self._own, self._asked = earlier.own.payload, False
        self._held.begin(number)
        self._held.add(earlier.own.signed.statement, earlier.own.payload)
        self.patience.out(now_s)
        self._agree()
        return effects + self._reception.update(earlier.own, {}) + self._advance(now_s)

    def _taken(self, number: int) -> Mapping[str, float]:
        """Whom this agent mixes in a round, by which weights."""
        return self.examiner.terms.weights(number).taken[self.settings.agent]

    def _is_past(self) -> bool:
        """Whether what an earlier life has left is not the last that it stated, or neighbours are
        in a later window, for which they want the claim of its one."""
        if self._earlier is None:
            return False
        window_rounds, closed = self.settings.window_rounds, self._earlier.closed
        end = last_of_window(self._earlier.round + closed, window_rounds)
        there = [n for n in self.neighbours.values() if n.session.established]
        beyond = [n for n in there if max(n.last_round, n.session.peer_round) > end]
        shown = self._reception.forgotten_round > 0 or self.settlement.restored
        return shown or 2 * len(beyond) > len(there)

    def _let_go(self) -> None:
        """What an earlier life has left is not gone on with: the rest of its window is sat out."""
        self._earlier = None
        self._look_back()

    def _look_back(self) -> None:
        """Ask the neighbours for what an earlier life has signed, before anything is stated,
        claimed or billed anew."""
        self._recalls.open = self.settlement.recalling = True

    def _account(self, now_s: float) -> list[Effect]:
        """What an earlier life has signed has come back, or patience is over: claim what it stated
        and did not claim. Who has not answered yet is asked on, and claims may come late."""
        whole = self._recalls.answered(self.neighbours)
        self._recalls.open = not whole
        if self.settlement.recalling:
            reserved, window_rounds = self._reserved, self.settings.window_rounds
            self._earlier_window = window_of(reserved, window_rounds) if reserved else -1
        steps = self.settlement.account(self._earlier_window, now_s, whole=whole)
        return self._reception.addressed(steps)

    def _account_late(self, now_s: float) -> list[Effect]:
        late = self._recalls.open and not self.settlement.recalling
        answered = late and self._recalls.answered(self.neighbours)
        return self._account(now_s) if answered else []

    def _unreachable(self, agent: str) -> str:
        return f"{agent} ({self.settings.endpoints[agent]}): {self.why_absent(agent)}"

    @property
    def _forgotten(self) -> int:
        """The end of the last window of which neighbours show what an earlier life has signed, and
        this one does not know: 0 where they show nothing."""
        window_rounds, shown = self.settings.window_rounds, self._reception.forgotten_round
        claimed = (self.settlement.forgotten_window + 1) * window_rounds
        return max(claimed, last_of_window(shown, window_rounds) if shown else 0)

    def _recall(self) -> list[Effect]:
        """A ledger in which a neighbour shows records that we have forgotten: this disk is
        a restored backup, or new. The windows after them may have been stated and forgotten too.
        So may those after a forgotten claim; a statement is the last that its holder has seen. It
        is stored at once: who has shown it may be gone when this agent is started again."""
        settled, claimed = self.settlement.settled_window, self.settlement.forgotten_window
        known = (max(settled, claimed) + 1) * self.settings.window_rounds
        if known > self._reserved or self.settlement.restored:
            known += FORGOTTEN_WINDOWS * self.settings.window_rounds
        return self._reserve(max(known, self._forgotten))

    def _reserve(self, last: int) -> list[Effect]:
        """Rounds up to `last` may have been stated from now on."""
        if last <= self._reserved:
            return []
        self._reserved = last
        return [Persist((PutValue(RESERVED_KEY, str(last).encode()),))]

    def _rejoin(self, now_s: float) -> list[Effect]:
        """The run goes on without us: whoever is there can let us in again."""
        self.stage = Stage.REJOINING
        self._rejoining_s = now_s
        self._known_steps = {agent: n.last_step for agent, n in self.neighbours.items()}
        self._deadline_s = now_s + self.settings.start_deadline_s
        if self._earlier is None and (self.step == 0 or self.round <= self._forgotten):
            self._look_back()
        log = _log(logging.INFO, "rejoining")
        return [log, *self._recall(), *self._try_rejoin(now_s)]

    def _try_rejoin(self, now_s: float) -> list[Effect]:
        if self._combining:
            return []
        if self._is_past():
            self._let_go()
            return self._try_rejoin(now_s)
        patience_over = now_s >= self._rejoining_s + self.settings.deadline_s
        # Of two neighbours that come back together, or have fallen behind, each would wait for the
        # other for ever: who says nothing new all the while is in no round, either.
        in_rounds = {
            agent: n
            for agent, n in self.neighbours.items()
            if n.last_step > self._known_steps[agent]
            or (not patience_over and (n.last_step or n.session.peer_round > 0))
        }
        lead = ahead(in_rounds, -1)
        # The first to answer may be one among many: a majority needs the others to be heard.
        all_there = all(n.session.established for n in self.neighbours.values())
        # Nor is anything stated before the ledgers have told what an earlier life has stated.
        caught_up = all(self.settlement.caught_up(agent) for agent in self.neighbours)
        recalled = not self.settlement.recalling or self._recalls.answered(self.neighbours)
        heard_all = (all_there and caught_up and recalled) or patience_over
        reached = self.phases.at(lead[0])[0] if lead is not None else 0
        claim = self._account(now_s) if self.settlement.recalling and heard_all else []
        stated = self._reserved if self._earlier is None else self._earlier.round
        if lead is not None and reached >= max(1, stated) and heard_all:
            return claim + self._reenter(*lead)
        if self._earlier is not None and self._earlier.goes_on and patience_over:
            return self._resume(self._earlier, now_s)
        if self._abandoned(now_s):
            return claim
        if all(n.left for n in self.neighbours.values()):
            gone = ", ".join(self.neighbours)
            failure = f"the run ended without this agent: {gone} have left; {KEPT}"
            return claim + self._finish(failure)
        if now_s >= self._deadline_s:
            beyond = f" beyond {stated}" * (stated > 0)
            failure = f"no neighbour is in a round{beyond} to re-enter from; {KEPT}"
            return claim + self._finish(failure)
        return claim

    def _ahead(self) -> tuple[int, str] | None:
        """What to re-enter from; nothing where the rounds that others are ahead are sat out."""
        lead = ahead(self.neighbours, self.step)
        sits_out = self.examiner.terms.sits_out
        return None if lead is None or (sits_out and self._goes_on_in(lead[0] + 1)) else lead

    def _agree(self) -> None:
        """Mix in this exchange whoever is there: nobody goes on from it, or its neighbours may have
        told an earlier life already whether they mix it."""
        for neighbour in self.neighbours.values():
            neighbour.answered(self.step, "")

    def _comes_too_late(self, payload: NDArray[np.float32], now_s: float) -> bool:
        """Whether this agent's vector is ready when nobody waits for it any more, or when an
        earlier life may have stated more than this one knows: then it is not stated."""
        lead = self._ahead()
        self.unstated = lead is not None or self.round <= max(self._forgotten, self._closed)
        if self.unstated:
            self._own = payload  # the driver waits, as if it had been stated
            self._lead_step = 0 if lead is None else lead[0]
            self._deadline_s = now_s + self.settings.deadline_s
        return self.unstated

    def _catch_up(self, lead: tuple[int, str] | None, now_s: float) -> list[Effect]:
        """Re-enter when the others have just gone on: what was trained in vain is then stated while
        they still train themselves, and is there in time."""
        lead = lead or ahead(self.neighbours, self.step, gone=True)
        goes_on = any(n.speaking for n in self.neighbours.values()) and now_s < self._deadline_s
        if lead is None:
            return [] if goes_on else self._rejoin(now_s)
        newer = lead[0] > self._lead_step or self.phases.at(lead[0])[0] == self.last_round
        return self._reenter(*lead) if newer or not goes_on else []

    def _close_windows(self, now_s: float) -> list[Effect]:
        """Claim, still in training, the windows that most others are beyond: nothing more will be
        stated in them here, and who is slow is not to be late with its claims for that."""
        lead = ahead(self.neighbours, self.step)
        if lead is None:
            return []
        number, _ = self.phases.at(lead[0])
        over = window_of(number, self.settings.window_rounds) * self.settings.window_rounds
        if over < self.round or over <= self._closed:
            return []
        self._closed = over
        steps = self.settlement.round_over(over, self.last_round, now_s)
        return self._reception.addressed(steps)

    def _try_combine(self, now_s: float) -> list[Effect]:
        if self._combining:
            return []
        if self._own is None:
            return self._close_windows(now_s)
        if self.round < self.last_round and self._abandoned(now_s):
            return []
        lead = self._ahead()
        if self.unstated:
            return self._catch_up(lead, now_s)
        if lead is not None:
            return self._reenter(*lead)
        awaited = [n for n in self.neighbours.values() if n.awaited(self.step)]
        if (until_s := self._waits_until_s(awaited, now_s)) and now_s < max(until_s):
            return self._ask_for_patience(awaited, min(until_s), now_s)
        effects: list[Effect] = []
        for neighbour in awaited:
            neighbour.given_up = True
            self.patience.gave_up(neighbour.agent, now_s)
            effects.append(
                _log(logging.WARNING, "neighbour_missed", peer=neighbour.agent, round=self.round)
            )
        return [*effects, self._combine()]

    def _abandoned(self, now_s: float) -> bool:
        """Whether all neighbours have just left: they may have gone on by a revision that this
        agent does not know of, and tell it soon. It learns alone only if they do not."""
        known = self.succession
        if known.present.revision is None or known.heir is not None or not self.neighbours:
            return False
        if not all(n.left for n in self.neighbours.values()):
            return False
        self._abandoned_s = min(self._abandoned_s, now_s)
        return now_s < self._abandoned_s + self.settings.deadline_s

    def _waits_until_s(self, awaited: Sequence[Neighbour], now_s: float) -> list[float]:
        """Until when each of these is waited for. A dead agent holds its neighbours up, and they
        theirs: without more time for those that say so, the wait would spread over the whole graph
        as agents giving up on living ones."""
        there = sum(n.there(self.step) for n in self.neighbours.values())
        self.patience.look([n.agent for n in awaited], there, now_s)
        waits = {n.agent: n.waiting or n.undecided(self.step) for n in awaited}
        return [self.patience.until_s(agent, waits=so) for agent, so in waits.items()]

    def _ask_for_patience(
        self, awaited: Sequence[Neighbour], until_s: float, now_s: float
    ) -> list[Effect]:
        # Where rounds are sat out, whoever is given up loses nothing by it.
        sits_out = self.examiner.terms.sits_out
        if sits_out or self._asked or now_s < self.patience.asks_s(until_s):
            return []
        self._asked = True
        others = [n for n in self.neighbours.values() if n.served and n not in awaited]
        waiting = Waiting(*self.phases.at(self.step))
        return [effect for n in others for effect in self._reception.send(n, waiting)]

    def _combine(self) -> Effect:
        own, step, agent = self._own, self.step, self.settings.agent
        number, phase = self.phases.at(step)
        assert own is not None
        taken = self._taken(number)
        weights: dict[str, float] = {}
        payloads = {agent: own}
        for peer, weight in sorted(taken.items()):
            mixed = self.neighbours[peer].mutual(step)
            buffer = self.neighbours[peer].ready.pop(step, None) if mixed else None
            if buffer is not None:
                weights[peer], payloads[peer] = weight, buffer
                self._lent.append(buffer)
        self.missing = tuple(peer for peer in sorted(taken) if peer not in weights)
        self._late = 2 * sum(
            n.answered_step == step and not n.agrees for n in self.neighbours.values()
        ) > len(taken)
        for neighbour in self.neighbours.values() if phase == self.phases.model else ():
            if neighbour.served and not neighbour.left and neighbour.last_step < step:
                neighbour.unreturned += 1
        self._combining = True
        rule = self.phases.row_rule(phase)
        if rule or self.examiner.terms.guarded:
            held = self.book.statements(step)
            stated = {peer: held[peer].statement for peer in payloads}
            self._deriving = Derive(number, phase, rule, payloads, stated)
            return self._deriving
        shared = self._shared(list(weights))
        weights[agent] = own_weight(weights)  # that of the missing goes to self
        self.book.mixed(step, weights)
        return self._mix(weights, payloads, shared)

    def _shared(self, peers: Sequence[str]) -> Traded | None:
        """How much of each other's models neighbours and this agent mix, where they trade."""
        trade = self.examiner.terms.trade
        if trade is None:
            return None
        held = self.book.statements(self.step)
        own = held[self.settings.agent].statement
        return Traded(trade.groups, {k: trade.shared(own, held[k].statement) for k in peers})

    def _mix(
        self,
        weights: Mapping[str, float],
        payloads: Mapping[str, NDArray[np.float32]],
        traded: Traded | None = None,
    ) -> Combine:
        """What was heard in the exchange under way, with its weights."""
        self.mixed_neighbours = len(weights) - 1
        parts = tuple((peer, weights[peer], payloads[peer]) for peer in sorted(weights))
        return Combine(*self.phases.at(self.step), parts, reentry=False, traded=traded)

    def _release(self) -> None:
        """The exchange under way is over: its buffers are free again."""
        for buffer in self._lent:
            self._pool.give(buffer)
        self._lent, self._combining, self._own = [], False, None

    def _reenter(self, step: int, peer: str) -> list[Effect]:
        buffer = self.neighbours[peer].ready.pop(step)
        self._lent.append(buffer)
        self.book.re_entered(step, peer)
        self._combining = True
        number, phase = self.phases.at(step)
        self.missing = tuple(agent for agent in sorted(self._taken(number)) if agent != peer)
        self.weightless = ()
        self.mixed_neighbours = 1
        self._earlier = None
        self.stage, self.step = Stage.RUNNING, step
        self._held.begin(number + 1)  # whoever is entered from may run on before this is mixed
        return [
            _log(logging.INFO, "re_entered", peer=peer, round=number + 1),
            Combine(number, phase, ((peer, 1.0, self._whole(buffer, peer)),), reentry=True),
        ]

    def _whole(self, payload: NDArray[np.float32], peer: str) -> NDArray[np.float32]:
        """A neighbour's vector (dim,) of this step with the initial model where it gave nothing."""
        trade = self.examiner.terms.trade
        ratings = self.book.statements(self.step)[peer].statement.ratings
        if trade is None or ratings is None:
            return payload
        whole, given = self.examiner.terms.initial.copy(), ratings.given(self.settings.agent)
        trade.groups.put(trade.groups.taken(payload, 0, given), 0, given, whole)
        return whole

    def _settle(self, now_s: float) -> list[Effect]:
        """Claim the windows that ended with the last round."""
        steps = self.settlement.round_over(self.round - 1, self.last_round, now_s)
        return self._reception.addressed(steps)

    def _try_leave(self, now_s: float) -> list[Effect]:
        # Also with one that is late in the rounds: it may be back, and only settle.
        open_edges = [
            agent
            for agent, n in self.neighbours.items()
            if n.served and not n.left and not self.settlement.settled(agent)
        ]
        shows = [
            agent
            for agent, n in self.neighbours.items()
            if n.served and not n.left and self._disclosures.open(agent)
        ]
        if (open_edges or shows or self._disclosures.judging) and now_s < self._deadline_s:
            return []
        effects: list[Effect] = [
            _log(logging.WARNING, "edge_unsettled", peer=agent) for agent in open_edges
        ]
        self.stage = Stage.LEAVING
        self._deadline_s = now_s + min(self.settings.deadline_s, FAREWELL_S)
        self._bye_s = 0.0
        # To the late and the rejoining too: nobody should look for a round that will not come.
        for neighbour in self.neighbours.values():
            effects += self._reception.send(neighbour, Bye(neighbour.left))
        return effects + self._try_finish(now_s)

    def _try_finish(self, now_s: float) -> list[Effect]:
        waiting = [
            n for n in self.neighbours.values() if n.speaking or (n.left and not n.heard_our_bye)
        ]
        if not waiting or now_s >= self._deadline_s:
            return self._finish(None)
        if now_s < self._bye_s:
            return []
        first, self._bye_s = self._bye_s == 0.0, now_s + BYE_RETRY_S
        if first:
            return []  # said just now
        return [effect for n in waiting for effect in self._reception.send(n, Bye(n.left))]

    def _finish(self, failure: str | None, exit_code: int = 1) -> list[Effect]:
        self.stage = Stage.DONE
        return [Finished(failure, exit_code if failure else 0)]


def _log(level: int, event: str, **fields: str | int | float) -> Log:
    return Log(level, event, fields)
