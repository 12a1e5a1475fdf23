"""What comes in from a neighbour and what goes out to it: sessions, updates, acknowledgements.

The half of the core that knows messages; `agent.core.agent` knows rounds and phases. Pure: messages
come in, effects go out in order. Whatever an authenticated peer sends, the state stays sound: a
message is refused whole, with a code in the log, before anything of it is kept.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from candor.agent.core.disclosures import Disclosures
from candor.agent.core.effects import (
    Arrived,
    Effect,
    HangUp,
    Log,
    Persist,
    PutValue,
    Send,
    Verify,
)
from candor.agent.core.faces import SignedFace
from candor.agent.core.held import Held
from candor.agent.core.neighbour import LATE, Neighbour
from candor.agent.core.recalls import Recalls
from candor.agent.core.settlement.edge import Step, To
from candor.agent.core.settlement.evidence_book import EvidenceBook
from candor.agent.core.settlement.hearsay import Hearsay
from candor.agent.core.settlement.settlement import Settlement
from candor.agent.core.succession import NEXT_KEY, Succession
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.blocks import LEAF_BYTES, leaves
from candor.mechanisms.evidence.disclosures import ShownRound, SignedDisclosure
from candor.mechanisms.evidence.examiner import SAT_OUT, Examined, Examiner
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    Head,
    SignedStatement,
    Source,
    Statement,
)
from candor.mechanisms.proofs import Proof, ProofError, misformed, verify_proof
from candor.network.allowance import Allowance
from candor.network.codecs import Codec
from candor.network.errors import RemoteProtocolError
from candor.network.messages import (
    HEADS_MAX,
    Ack,
    Ask,
    BillMessage,
    Bye,
    Chunk,
    ClaimMessage,
    EvidenceMessage,
    Heads,
    Hello,
    LedgerMessage,
    Message,
    Recall,
    Returned,
    RevisionMessage,
    ShownMessage,
    Update,
    Waiting,
    What,
    Witnesses,
    from_envelope,
    to_envelope,
)
from candor.network.slots import BufferPool, Slot
from candor.network.wire import HEADER_BYTES_MAX, Buffer, decode
from candor.topologies.encoding.canonical import MalformedError, pack, unpack
from candor.topologies.specs.specs import ConfigurationError, SignatureError

K = TypeVar("K")

WHOLE: Final = -1  # of a vector: all its groups, also where it has none

# Messages that are refused, or greet once more: an honest neighbour sends one now and then, some
# with a restart. Each costs a verification at most.
JUNK_PER_S_MAX: Final = 10.0
JUNK_BURST: Final = 100.0
# Revisions that are refused: before its signature can be checked one is read, which takes seconds
# where it is made for that.
REVISIONS_PER_S_MAX: Final = 0.05
REVISIONS_BURST: Final = 4.0
REFUSALS_TOLD: Final = 10
REFUSALS_EVERY: Final = 1000
# What a neighbour can make us log with one message each, as often as it likes.
REPEATABLE: Final = frozenset(
    {
        "update_refused",
        "own_update_refused",
        "session_established",
        "peer_refused",
        "neighbour_left",
        "claim_ignored",
        "recalled",
        "ledger_ignored",
    }
)


class Reception:
    """Reads the neighbours' messages and addresses ours."""

    def __init__(
        self,
        neighbours: Mapping[str, Neighbour],
        settlement: Settlement,
        book: EvidenceBook,
        examiner: Examiner,
        pool: BufferPool,
        codec: Codec,
        chunk_bytes: int,
        agent: str,
        disclosures: Disclosures,
        held: Held,
        succession: Succession,
        recalls: Recalls,
        memories: Sequence[bytes] = (),
    ) -> None:
        self._held = held
        self._succession = succession
        self._recalls = recalls
        self._neighbours = neighbours
        self._disclosures = disclosures
        self._settlement = settlement
        self._book = book
        self._examiner = examiner
        self._pool = pool
        self._codec = codec
        self._phases = examiner.terms.phases
        self._chunk_bytes = chunk_bytes
        self._agent = agent
        self._hearsay = Hearsay(agent, examiner.terms, neighbours)
        for memory in memories:
            self._hearsay.recall(memory)
        for neighbour in neighbours.values():
            neighbour.session.memory = self._hearsay.memory(neighbour.agent)
        self._proofs: set[tuple[str, str]] = set()  # at most one of a kind and agent
        self._denies = False  # an attacker keeps proofs of what it does to itself
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._junk: dict[str, Allowance] = {}
        self._revisions: dict[str, Allowance] = {}
        self._repeated: Counter[tuple[str, str, str]] = Counter()  # in the present round
        self._repeated_round = 0

    # --- events -----------------------------------------------------------------------------

    def tick(self, now_s: float, own_round: int) -> list[Effect]:
        """Greet who has not answered, repeat what is not settled, pass on what was heard."""
        self._hearsay.forget(own_round)
        effects: list[Effect] = []
        for neighbour in self._neighbours.values():
            effects += [
                Send(neighbour.agent, to_envelope(hello, b""))
                for hello in neighbour.session.tick(now_s, own_round)
            ]
            if neighbour.session.established:
                effects += self.addressed(self._settlement.tick(neighbour.agent, now_s))
                effects += self._tell_heads(neighbour)
                asks = self._recalls.asks(neighbour.agent, now_s)
                effects += self.send(neighbour, Recall()) if asks else []
            there = neighbour.served and not neighbour.left
            told, ask = self._disclosures.tick(neighbour.agent, now_s, there=there)
            effects += [*told, *([] if ask is None else self.send(neighbour, ask))]
        return effects

    def snapshot(self, own: SignedStatement) -> bytes:
        """What an earlier life must have left when it has stated `own`, for `Snapshot`."""
        exchange = self._book.exchange(own)
        return pack([self._book.snapshot(), self._hearsay.memories(), exchange])

    def stated(self, round_number: int, phase: int) -> None:
        """An earlier life has stated that, as is known: who shows it shows nothing forgotten."""
        self._hearsay.stating(round_number, phase)

    @property
    def forgotten_round(self) -> int:
        """The last round that an earlier life has stated and this one has not, as far as neighbours
        have shown it, 0 where there is none."""
        return self._hearsay.forgotten_round

    def received(
        self,
        sender: str,
        frames: Sequence[Buffer],
        *,
        own_round: int,
        leaving: bool,
        now_s: float,
        wall_s: float,
    ) -> list[Effect]:
        """One message; `leaving` says that a farewell is to be answered with ours."""
        neighbour = self._neighbours.get(sender)
        if neighbour is None:
            return self._refused(sender, "not-a-neighbour")
        try:
            envelope = decode(frames)
            message = from_envelope(envelope)
            if isinstance(message, Hello):
                greeted = self._hello(neighbour, message, own_round, now_s, wall_s)
                junk = self._junked(sender, now_s)
                return [*self._bounded(greeted, sender, own_round), *junk]
            if envelope.nonce != neighbour.session.nonce:
                neighbour.session.misaddressed()
                return []  # said to an earlier life: expected, not served
            if isinstance(message, RevisionMessage):  # the organiser's signature is what counts
                taken = self._handed_by(sender, message.text, own_round, now_s)
                return [*taken, *self._junked(sender, now_s)]
            if not neighbour.session.established:
                return []
            if isinstance(message, Bye):
                left = self._bye(neighbour, message.heard, leaving)
                return self._bounded(left, sender, own_round)
            return self._bounded(self._dispatch(neighbour, message, now_s), sender, own_round)
        except (RemoteProtocolError, EvidenceError) as exc:
            refused = self._refused(sender, exc.code, str(exc))
        except MalformedError as exc:
            refused = self._refused(sender, "malformed", str(exc))
        return [*self.settlement_changed(), *refused, *self._junked(sender, now_s)]

    def handed(self, text: bytes, own_round: int, *, brought: bool = False) -> list[Effect]:
        """The next revision, from a neighbour or `brought` by the operator: it is kept, then told
        to all neighbours.

        Raises:
            RemoteProtocolError: it is not one that may follow.
        """
        try:
            if not self._succession.take(text, own_round, brought=brought):
                return []
        except (ConfigurationError, SignatureError) as exc:
            raise RemoteProtocolError("revision", str(exc)) from exc
        found = self._succession
        about = {"number": found.number, "after_round": found.last_round}
        told = [e for n in self._neighbours.values() for e in self.send(n, RevisionMessage(text))]
        kept = Persist((PutValue(NEXT_KEY, text),))
        return [kept, Log(logging.INFO, "revision_awaited", about), *told]

    def _handed_by(self, sender: str, text: bytes, own_round: int, now_s: float) -> list[Effect]:
        """The next revision from a neighbour, unless too many of its were refused lately."""
        allowed = self._revisions.setdefault(
            sender, Allowance(REVISIONS_PER_S_MAX, REVISIONS_BURST)
        )
        if not allowed.take(now_s):
            return []
        effects = self.handed(text, own_round)
        allowed.put_back()
        return effects

    def _hand_over(self, neighbour: Neighbour) -> list[Effect]:
        """The file of ours to a neighbour that is behind, which no other message reaches."""
        session, text = neighbour.session, self._succession.handed
        if not (session.peer_behind and text and session.heard_nonce):
            return []
        return [Send(neighbour.agent, to_envelope(RevisionMessage(text), session.heard_nonce))]

    def verified(
        self, peer: str, update: Arrived, outcome: Examined | EvidenceError, own_step: int
    ) -> list[Effect]:
        """The verdict on an update that was handed out by `Verify`."""
        neighbour, slot = self._neighbours[peer], update.slot
        statement = slot.statement.statement
        neighbour.verifying.discard(slot.step)
        charged = statement.phase == self._phases.charged
        if isinstance(outcome, Examined) and charged:
            found = self._examiner.charged_energy(outcome)
            if self._settlement.too_large(found):
                reason = f"an energy of {found:g} could cost more than the credit limit"
                outcome = EvidenceError("injected-too-large", reason)
        if isinstance(outcome, Examined) and self._book.mixed_since(statement):
            outcome = EvidenceError(SAT_OUT, "it has stated a later round than it goes on from")
        if isinstance(outcome, EvidenceError):
            self._pool.give(slot.buffer)
            refused = self._refuse(neighbour, slot.step, outcome)
            proven = self._disproved(slot.statement, outcome, slot.payload_signature)
            return [*refused, *proven, *self._judge_next(neighbour)]
        self._book.add(slot.statement, outcome)
        self._disclosures.stated(slot.statement.head)
        self._settlement.stated(slot.statement, outcome)
        # Witnesses: those that the rows name, whose signatures were checked with the update.
        proven = [
            effect
            for proof in self._book.contradicted(slot.witnesses.values())
            for effect in self._proven(proof, heard_from=None)
        ]
        returned, neighbour.given_up = neighbour.given_up, False
        self._held.add(statement, slot.buffer)
        neighbour.keep(slot.step, slot.buffer, own_step, self._pool)
        back = _told(logging.INFO, "neighbour_returned", neighbour, {"round": statement.round})
        late = neighbour.answers and slot.step < own_step
        told = self.send(neighbour, Ack(statement.round, statement.phase, LATE if late else ""))
        return [*proven, *([back] if returned else []), *told, *self._judge_next(neighbour)]

    def _disproved(
        self, signed: SignedStatement, error: EvidenceError, payload_signature: bytes = b""
    ) -> list[Effect]:
        """What follows for the agent of a refused update, where it proves something."""
        proof = misformed(signed, error, self._examiner.terms, payload_signature)
        return [] if proof is None else self._proven(proof, heard_from=None)

    def _proven(self, proof: Proof, heard_from: str | None) -> list[Effect]:
        """Keep a new proof. Of malice tell the neighbours once, and stop serving the guilty one.

        Raises:
            ProofError, MalformedError: it proves nothing.
        """
        key = (proof.agent, proof.kind)
        if key in self._proofs or (self._denies and proof.agent == self._agent):
            return []
        verdict = verify_proof(proof, self._examiner.terms)
        if heard_from is not None and not verdict.malice:
            raise ProofError("only malice is passed on")
        self._proofs.add(key)
        data = proof.encode()
        about = {"peer": proof.agent, "kind": proof.kind, "place": verdict.place}
        stored = Persist((PutValue(f"proof/{proof.kind}/{proof.agent}", data),))
        if not verdict.malice:
            return [stored, Log(logging.WARNING, "contradiction_proven", about)]
        effects: list[Effect] = [stored, Log(logging.ERROR, "misbehaviour_proven", about)]
        self._settlement.convict(proof.agent, f"proven guilty: {proof.kind} in {verdict.place}")
        for neighbour in self._neighbours.values():
            if neighbour.agent not in (heard_from, proof.agent):
                effects += self.send(neighbour, EvidenceMessage(data))
        return effects + self.settlement_changed()

    def _refused(self, sender: str, code: str, detail: str = "") -> list[Effect]:
        """Tell of a refused message: each of the first, then now and then, or a flood of bad ones
        would fill the disk with their log."""
        count = _counted(self._refusals, (sender, code))
        if not count:
            return []
        about: dict[str, str | int] = {"peer": sender, "code": code}
        about |= {"detail": detail, "count": count}
        return [Log(logging.WARNING, "message_refused", about)]

    def _junked(self, sender: str, now_s: float) -> list[Effect]:
        """Count a message that was good for nothing; beyond what may happen, hang up."""
        allowed = self._junk.setdefault(sender, Allowance(JUNK_PER_S_MAX, JUNK_BURST))
        if allowed.take(now_s):
            return []
        allowed.refill()
        return [HangUp(sender)]

    def _bounded(self, effects: list[Effect], sender: str, own_round: int) -> list[Effect]:
        """Without the log lines that a neighbour repeats: each of the first of a round is told, as
        an honest one may be refused in every round, then now and then."""
        if own_round != self._repeated_round:
            self._repeated_round = own_round
            self._repeated.clear()
        return [e for e in effects if not isinstance(e, Log) or self._worth_telling(e, sender)]

    def _worth_telling(self, log: Log, sender: str) -> bool:
        if log.event not in REPEATABLE:
            return True
        # An acknowledgement's code is the sender's own word: no key of ours.
        code = "" if log.event == "own_update_refused" else str(log.fields.get("code", ""))
        return _counted(self._repeated, (sender, log.event, code)) > 0

    # --- messages ---------------------------------------------------------------------------

    def _dispatch(self, neighbour: Neighbour, message: Message, now_s: float) -> list[Effect]:
        match message:
            case Update():
                return self._update(neighbour, message, now_s)
            case Witnesses():
                return self._witnesses(neighbour, message)
            case Chunk(number, phase, offset, data):
                return self._chunk(neighbour, self._step(number, phase), offset, data, now_s)
            case Ack(number, phase, code):
                if neighbour.answers:
                    neighbour.answered(self._step(number, phase), code)
                if code in ("", LATE):
                    return []
                about: dict[str, str | int] = {"round": number, "phase": phase, "code": code}
                return [_told(logging.WARNING, "own_update_refused", neighbour, about)]
            case ClaimMessage(claim):
                effects = self._settlement.claimed(neighbour.agent, claim, now_s)
                return self.addressed(effects)
            case BillMessage(bundle):
                return self.addressed(self._settlement.billed(neighbour.agent, bundle, now_s))
            case EvidenceMessage(data):
                try:
                    return self._proven(Proof.decode(data), neighbour.agent)
                except ProofError as exc:
                    raise RemoteProtocolError("evidence", str(exc)) from exc
            case LedgerMessage(kind, fields):
                effects = self._settlement.received(neighbour.agent, kind, fields, now_s)
                return self.addressed(effects)
            case Heads():
                return self._heads(neighbour, message)
            case Waiting():
                neighbour.waiting = True
                return []
            case Ask() | ShownMessage() | Recall() | Returned():
                return self._of_the_past(neighbour, message, now_s)
        raise RemoteProtocolError("kind", type(message).__name__)

    def _witnesses(self, neighbour: Neighbour, message: Witnesses) -> list[Effect]:
        slot = neighbour.inbox.slot(self._step(message.round, message.phase))
        if slot is None:
            return []
        for pair in message.statements:
            witness = self._decode(*pair)
            said = witness.statement
            slot.add_witness((said.round, said.phase, said.agent), witness)
        return self._judge(neighbour, slot)

    def _give_back(self, neighbour: Neighbour, now_s: float) -> list[Effect]:
        """Return to a neighbour what is here of its own hand, whether it is served or not."""
        if not self._recalls.answers(neighbour.agent, now_s):
            return self._junked(neighbour.agent, now_s)
        kept = self._settlement.kept_of(neighbour.agent)
        about = {"count": kept[0].count}
        told = _told(logging.INFO, "recalled", neighbour, about)
        return [told, *(e for one in kept for e in self.send(neighbour, one))]

    def _take_back(self, neighbour: Neighbour, message: Returned, now_s: float) -> list[Effect]:
        """What an earlier life has signed comes back."""
        if not self._recalls.took(neighbour.agent, message):
            return [] if self._recalls.open else self._junked(neighbour.agent, now_s)
        if message.what is not What.STATEMENT:
            steps = self._settlement.returned(message.what, message.data)
            return self.addressed(steps)
        match unpack(message.data, bytes_max=HEADER_BYTES_MAX):
            case [bytes(body), bytes(signature)]:
                self._book.recover(self._decode(body, signature), message.sources)
                return []
        raise MalformedError("not a statement")

    def _of_the_past(
        self, neighbour: Neighbour, message: Ask | ShownMessage | Recall | Returned, now_s: float
    ) -> list[Effect]:
        """Rounds that are shown, and what is given back to who has lost it."""
        if isinstance(message, Recall):
            return self._give_back(neighbour, now_s)
        if isinstance(message, Returned):
            return self._take_back(neighbour, message, now_s)
        if isinstance(message, Ask):
            return self._disclosures.asked(neighbour.agent, message)
        judge, ask = self._disclosures.shown(neighbour.agent, message, now_s)
        return [*([] if ask is None else self.send(neighbour, ask)), *judge]

    def _heads(self, neighbour: Neighbour, message: Heads) -> list[Effect]:
        self._step(message.round, message.phase)
        run = self._examiner.terms.run
        for agent, digest, signature in message.heads:
            head = Head(run, message.round, message.phase, agent, digest, signature)
            self._hearsay.heard(neighbour.agent, head)
        return self.settlement_changed()

    def _hello(
        self, neighbour: Neighbour, hello: Hello, own_round: int, now_s: float, wall_s: float
    ) -> list[Effect]:
        neighbour.session.memory = self._hearsay.memory(neighbour.agent)
        greeted = neighbour.session.received(hello, wall_s, own_round)
        effects: list[Effect] = [
            Send(neighbour.agent, to_envelope(reply, b"")) for reply in greeted.replies
        ]
        if greeted.refused is not None:
            session, known = neighbour.session, self._succession
            # Around a change of members some are earlier there than others.
            late = session.peer_behind and known.handed
            early = session.peer_ahead and known.heir is not None
            level = logging.INFO if late or early else logging.ERROR
            effects.append(_told(level, "peer_refused", neighbour, {"detail": greeted.refused}))
        effects += self._hand_over(neighbour)
        if greeted.established:
            neighbour.restarted(own_round)
            self._hearsay.recall(neighbour.session.own_memory)
            effects.append(_told(logging.INFO, "session_established", neighbour, {}))
            nonce = neighbour.session.peer_nonce
            assert nonce is not None
            connected = self._settlement.connected(
                neighbour.agent, neighbour.session.nonce, nonce, now_s
            )
            effects += self.addressed(connected)
            if text := self._succession.text:
                effects += self.send(neighbour, RevisionMessage(text))
        return effects

    def _update(self, neighbour: Neighbour, message: Update, now_s: float) -> list[Effect]:
        if not neighbour.served or neighbour.left:
            return []
        signed = self._decode(message.body, message.signature)
        number, phase = signed.statement.round, signed.statement.phase
        step = self._step(number, phase)
        if self._book.statements(step).get(neighbour.agent) == signed:
            return []  # sent again by another life of its, and here already
        try:
            self._examiner.examine_header(signed, neighbour.agent)
            taken = self._examiner.terms.weights(number).taken[self._agent]
            notice = neighbour.agent not in taken
            part = self._part_bytes(signed.statement)
            size = message.payload_bytes
            neighbour.announce(
                signed,
                step,
                size,
                notice=notice,
                part_bytes=part,
                payload_signature=message.payload_signature,
            )
        except RemoteProtocolError as exc:
            junk = self._junked(neighbour.agent, now_s)
            return [*self._refuse(neighbour, step, exc), *junk]
        except EvidenceError as exc:
            return [*self._refuse(neighbour, step, exc), *self._disproved(signed, exc)]
        self._hearsay.stated(signed)
        neighbour.session.memory = self._hearsay.memory(neighbour.agent)
        slot = neighbour.inbox.slot(step)
        return [] if slot is None else self._judge(neighbour, slot)

    def _step(self, round_number: int, phase: int) -> int:
        """The step that a message is of.

        Raises:
            RemoteProtocolError: the algorithm's rounds have no such phase.
        """
        if round_number < 1 or phase >= self._phases.count:
            raise RemoteProtocolError("phase", f"{phase} of round {round_number}")
        return self._phases.step(round_number, phase)

    def _decode(self, body: bytes, signature: bytes) -> SignedStatement:
        limit = self._examiner.terms.sketch_bytes
        return SignedStatement.decode(body, signature, sketch_bytes_max=limit)

    def _chunk(
        self, neighbour: Neighbour, step: int, offset: int, data: Buffer, now_s: float
    ) -> list[Effect]:
        slot = neighbour.inbox.slot(step)
        if slot is None:
            return []  # displaced by a later step, or refused at its header
        try:
            slot.write(offset, data)
        except RemoteProtocolError as exc:
            neighbour.inbox.drop(step)
            junk = self._junked(neighbour.agent, now_s)
            return [*self._refuse(neighbour, step, exc), *junk]
        return self._judge(neighbour, slot)

    def _judge(self, neighbour: Neighbour, slot: Slot[SignedStatement, Source]) -> list[Effect]:
        """Have the update of a step verified when all of it is there; where there are fresh
        sketches, one of a neighbour after the other: they are held against the one before."""
        if not slot.complete or (self._held.keeps and neighbour.verifying):
            return []
        neighbour.inbox.take(slot.step)
        neighbour.verifying.add(slot.step)
        ratings, trusted = slot.statement.statement.ratings, self._book.trusted(slot.named)
        given = None if ratings is None else ratings.given(self._agent)
        held = self._held.among(trusted, self._agent, neighbour.agent)
        arrived = Arrived(slot, trusted, given, self._book.novelties(trusted), held)
        return [Verify(neighbour.agent, arrived)]

    def _judge_next(self, neighbour: Neighbour) -> list[Effect]:
        """Have an update verified that has waited for the verdict on an earlier one."""
        slot = neighbour.inbox.complete
        return [] if slot is None else self._judge(neighbour, slot)

    def _part_bytes(self, statement: Statement) -> int | None:
        """How many bytes this agent is given of a vector, where models are traded."""
        trade, ratings = self._examiner.terms.trade, statement.ratings
        if trade is None or ratings is None:
            return None
        given, dim = ratings.given(self._agent), statement.dim
        missing = trade.groups.count - given
        return self._codec.payload_bytes(trade.groups.length(dim, 0, given)) + LEAF_BYTES * missing

    def refused(self, peer: str, step: int, error: EvidenceError) -> list[Effect]:
        """An update that was accepted is refused when it is to be mixed."""
        return self._refuse(self._neighbours[peer], step, error)

    def _refuse(
        self, neighbour: Neighbour, step: int, error: EvidenceError | RemoteProtocolError
    ) -> list[Effect]:
        neighbour.refuse(step, error.code)
        number, phase = self._phases.at(step)
        about: dict[str, str | int] = {"round": number, "code": error.code, "detail": str(error)}
        if self._phases.count > 1:
            about["phase"] = phase
        refused = _told(logging.WARNING, "update_refused", neighbour, about)
        return [refused, *self.send(neighbour, Ack(number, phase, error.code))]

    def _bye(self, neighbour: Neighbour, heard: bool, leaving: bool) -> list[Effect]:
        first, neighbour.left = not neighbour.left, True
        neighbour.heard_our_bye = neighbour.heard_our_bye or heard
        if not first:
            return []
        left = _told(logging.INFO, "neighbour_left", neighbour, {"round": neighbour.last_round})
        unshown = self._disclosures.left(neighbour.agent)
        return [left, *unshown, *(self.send(neighbour, Bye(True)) if leaving else [])]

    # --- sending ----------------------------------------------------------------------------

    def update(self, own: SignedFace, apart: Mapping[str, SignedFace]) -> list[Effect]:
        """Our update of a step to every neighbour that is served: statement, witnesses, and chunks
        for those that take it in this round; without them it is a notice. Those of `apart` are told
        something else: then we are an attacker, and say nothing against ourselves."""
        statement = own.signed.statement
        number, step = statement.round, self._phases.step(statement.round, statement.phase)
        self._hearsay.stating(number, statement.phase)
        self._denies = self._denies or bool(apart)
        takers = self._examiner.terms.weights(number).takers[self._agent]
        made: dict[int | None, list[Message]] = {}
        return [
            effect
            for neighbour in self._neighbours.values()
            if neighbour.served and not neighbour.left
            if neighbour.given(number)
            for message in self._addressed_to(neighbour.agent, own, apart, takers, made)
            for effect in self.send(neighbour, message, step)
        ]

    def _addressed_to(
        self,
        peer: str,
        own: SignedFace,
        apart: Mapping[str, SignedFace],
        takers: Collection[str],
        made: dict[int | None, list[Message]],
    ) -> list[Message]:
        """What a neighbour is sent; `made` are messages so far, by how much of the vector there is
        in them: so many groups, `WHOLE`, or None."""
        ratings = own.signed.statement.ratings
        given = WHOLE if ratings is None else ratings.given(peer)
        groups = given if peer in takers else None
        if peer in apart:
            return self._messages(apart[peer], groups)
        if groups not in made:
            made[groups] = self._messages(own, groups)
        return made[groups]

    def _messages(self, face: SignedFace, groups: int | None) -> list[Message]:
        """An update with so many groups of its vector or the `WHOLE`; with None, a notice."""
        signed, statement = face.signed, face.signed.statement
        number, phase = statement.round, statement.phase
        pairs = [(witness.body, witness.signature) for witness in face.witnesses]
        view = b"" if groups is None else self._encoded(face.payload, groups)
        size = self._chunk_bytes
        return [
            Update(signed.body, signed.signature, len(view), face.payload_signature),
            *Witnesses.batches(number, phase, pairs),
            *(Chunk(number, phase, at, view[at : at + size]) for at in range(0, len(view), size)),
        ]

    def _encoded(self, payload: NDArray[np.float32], groups: int) -> Buffer:
        """A vector (dim,) as it travels, or its first groups and the leaves of the others."""
        trade = self._examiner.terms.trade
        if trade is None or groups in (WHOLE, trade.groups.count):
            return self._codec.encode(payload)
        part = self._codec.encode(trade.groups.taken(payload, 0, groups))
        rest = leaves(payload, trade.groups, groups, trade.groups.count)
        return memoryview(b"".join([part, *rest]))

    def _tell_heads(self, neighbour: Neighbour) -> list[Effect]:
        """What a neighbour does not know yet of anyone's statements."""
        if neighbour.left:
            return []
        told: dict[tuple[int, int], list[tuple[str, bytes, bytes]]] = {}
        for head in self._hearsay.news(neighbour.agent):
            named = (head.agent, head.digest, head.signature)
            told.setdefault((head.round, head.phase), []).append(named)
        return [
            effect
            for (number, phase), heads in told.items()
            for at in range(0, len(heads), HEADS_MAX)
            for effect in self.send(
                neighbour, Heads(number, phase, tuple(heads[at : at + HEADS_MAX]))
            )
        ]

    def send(
        self, neighbour: Neighbour, message: Message, bulk_step: int | None = None
    ) -> list[Effect]:
        """A message addressed to the neighbour's present life; nothing without a session."""
        nonce = neighbour.session.peer_nonce
        if not neighbour.session.established or nonce is None:
            return []
        return [Send(neighbour.agent, to_envelope(message, nonce), bulk_step)]

    def addressed(self, steps: Sequence[Step]) -> list[Effect]:
        """Settlement's steps as effects, in order, and what follows from its change."""
        effects: list[Effect] = []
        for step in steps:
            if isinstance(step, To):
                effects += self.send(self._neighbours[step.agent], step.message)
            else:
                effects.append(step)
        return effects + self.settlement_changed()

    def settlement_changed(self) -> list[Effect]:
        """Take over what settlement, hearsay and disclosures have found by now: proofs, picked
        rounds, and who is barred."""
        bills, self._settlement.bills = self._settlement.bills, []
        effects = [
            effect for agent, bill in bills for effect in self._disclosures.billed(agent, bill)
        ]
        found = (*self._settlement.collector.take(), *self._hearsay.take())
        for proof in (*found, *self._disclosures.take()):
            effects += self._proven(proof, heard_from=None)
        for neighbour in self._neighbours.values():
            shown = self._disclosures.bar(neighbour.agent)
            neighbour.barred = self._settlement.barred(neighbour.agent) or shown
            neighbour.owed = self._settlement.owing(neighbour.agent)
        return effects

    def showing(
        self, peer: str, window: int, signed: SignedDisclosure | None, offset: int, data: Buffer
    ) -> list[Effect]:
        """The answer to `Show`: a piece of what this agent has signed, nothing where it has all or
        there is none."""
        whole = signed is not None and not len(data)
        self._disclosures.answered(peer, window, whole=whole)
        if signed is None or whole:
            return []
        piece = ShownMessage(window, signed.body, signed.signature, offset, data)
        return self.send(self._neighbours[peer], piece)

    def judged(
        self, shown: ShownRound, window: int, told: Told | None, why: str, heads: Sequence[Head]
    ) -> list[Effect]:
        """The answer to `Judge`."""
        effects = self._disclosures.judged(shown.agent, window, told, why, heads)
        if told is Told.FALSE and (verdict := self._disclosures.bar(shown.agent)) is not None:
            self._settlement.convict(shown.agent, verdict)
        return [*effects, *self.settlement_changed()]


def _counted(counter: Counter[K], key: K) -> int:
    """Count one more; answers how many there were, or 0 when it is not worth a line."""
    counter[key] += 1
    count = counter[key]
    return 0 if count > REFUSALS_TOLD and count % REFUSALS_EVERY else count


def _told(level: int, event: str, neighbour: Neighbour, about: Mapping[str, str | int]) -> Log:
    return Log(level, event, {"peer": neighbour.agent, **about})
