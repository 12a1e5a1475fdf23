"""What the core knows of one neighbour: its session, its receive slots and its verified updates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.phases import MIXED_MODEL, Phases
from candor.mechanisms.evidence.ratings import RATING
from candor.mechanisms.evidence.statements import (
    ROUNDS_KEPT,
    SignedStatement,
    Source,
    named_sources,
)
from candor.network.session import Session, SessionState
from candor.network.slots import BufferPool, Inbox

# The current step, the next, and the one after that shows that we have fallen behind; in rounds of
# several phases as many, and one more, so that a model is among them.
READY_KEPT: Final = 3
# Complete updates that wait for the worker, each with its buffer: it may be training for minutes.
VERIFYING_MAX: Final = 3
# Coming back takes what is left of a window, and a few rounds; then it is taking without giving.
UNRETURNED_MAX: Final = 32
TRIAL_EVERY: Final = 16
# The word on an update that was accepted, and came when its exchange was over.
LATE: Final = "late"


@dataclass(slots=True)
class Neighbour:
    """Membership of one neighbour in the rounds, whose exchanges are counted as steps.

    `waiting`: it said in this step that it waits for others itself, so it gets more time.
    `given_up`: it was waited for in vain, and is not until it is heard again.
    `barred`: why it is no longer served at all (a frozen or disputed ledger, its credit limit).
    `unreturned`: rounds in a row, while it was served, of which no update of its was accepted.
    `hiding`: rounds in a row in which a vector of its was farther away than its sketch showed, the
    last of them `hid_round`.
    `owed`: we owe it all that the credit limit allows.
    `misrated`: how many of its updates were refused for what it says or gives where models are
    traded, the latest of step `misrated_step`.
    `answers`: the run is one in which two mix each other or not at all; in the latest exchange of
    which it has told what became of our update, `answered_step`, it `agrees` to mix it.
    """

    agent: str
    session: Session
    inbox: Inbox[SignedStatement, Source]
    phases: Phases = MIXED_MODEL
    ready: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    verifying: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    waiting: bool = False
    given_up: bool = False
    barred: str | None = None
    left: bool = False
    heard_our_bye: bool = False
    last_step: int = 0
    unreturned: int = 0
    hiding: int = 0
    hid_round: int = 0
    owed: bool = False
    misrated: int = 0
    misrated_step: int = 0
    answers: bool = False
    answered_step: int = 0
    agrees: bool = False

    @property
    def last_round(self) -> int:
        """The round of the latest update that was accepted, 0 before the first."""
        return self.phases.at(self.last_step)[0]

    def is_model(self, step: int) -> bool:
        """Whether what is stated at a step are models."""
        return self.phases.at(step)[1] == self.phases.model

    @property
    def kept(self) -> int:
        """How many verified updates are held."""
        return max(READY_KEPT, self.phases.count + 1)

    @property
    def served(self) -> bool:
        """Whether updates are exchanged with it."""
        return self.session.established and self.barred is None

    def given(self, round_number: int) -> bool:
        """Whether our update of a round goes to it. Whoever returns none that can be accepted does
        not take for ever; a round now and then, the same of all givers, lets it come back."""
        taken = max(self.unreturned, self.hiding)
        return taken < UNRETURNED_MAX or round_number % TRIAL_EVERY == 0

    def compared(self, step: int, *, hides: bool) -> None:
        """Its vector of a step was held against its sketch. Rounds count, however many exchanges
        they have: within one window it is the same signs that hide or show."""
        number, _ = self.phases.at(step)
        if hides and self.hid_round != number:
            self.hiding, self.hid_round = self.hiding + 1, number
        elif not hides and self.is_model(step) and self.hid_round != number:
            self.hiding = 0

    @property
    def speaking(self) -> bool:
        """Whether more is to be expected of it: it is served, and neither late nor gone."""
        return self.served and not self.given_up and not self.left

    @property
    def state(self) -> str:
        """One word for status: what it is to us now."""
        if self.barred is not None:
            return "barred"
        if self.session.state is SessionState.ESTABLISHED:
            return "left" if self.left else "late" if self.given_up else "present"
        return self.session.state.value

    @property
    def reason(self) -> str | None:
        """Why it is not simply present."""
        if self.barred or self.session.reason:
            return self.barred or self.session.reason
        if self.owed and not self.left:
            return (
                "we owe it up to the credit limit: pay it, and tell both ends (candor ledger pay)"
            )
        if self.misrated_step > self.last_step:
            number, _ = self.phases.at(self.misrated_step)
            return (
                f"gives less than it should, or rates falsely: refused {self.misrated} times, last "
                f"in round {number}"
            )
        if self.left:
            return f"left after round {self.last_round}"
        if self.given_up:
            return f"late, last heard in round {self.last_round}"
        if self.unreturned >= UNRETURNED_MAX:
            return f"no update of its was accepted since round {self.last_round}"
        return None

    def awaited(self, step: int) -> bool:
        """Whether a step should wait for its update: it may still come and has no verdict yet."""
        if self.undecided(step):
            return True
        slot = self.inbox.slot(step)
        if step in self.verifying or (slot is not None and slot.complete):
            return True  # it has come, even if its sender has left since
        if not self.speaking:
            return False
        if step <= self.last_step or step in self.refused:
            return False
        # One connection keeps its order: once a later step is announced, no more of an earlier one
        # will come (its sender drops what is unsent of it).
        return self.inbox.latest_step <= step

    def undecided(self, step: int) -> bool:
        """Whether its vector of a step is here, and its word on ours is not and may still come: it
        is given before a later step is announced."""
        open_ = step in self.ready and self.answered_step < step
        return self.answers and open_ and self.speaking and self.inbox.latest_step <= step

    def mutual(self, step: int) -> bool:
        """Whether it mixes us in a step as we mix it, where that is told."""
        return not self.answers or (self.answered_step == step and self.agrees)

    def answered(self, step: int, code: str) -> None:
        """It tells what became of our update of a step; its first word of that counts."""
        if step > self.answered_step:
            self.answered_step, self.agrees = step, not code

    def there(self, step: int) -> bool:
        """Whether its update of a step, or of a later one, has come, whatever was made of it."""
        there = step <= max(self.last_step, self.inbox.latest_step) or step in self.refused
        return self.served and there and not self.awaited(step)

    def announce(
        self,
        signed: SignedStatement,
        step: int,
        payload_bytes: int,
        *,
        notice: bool = False,
        part_bytes: int | None = None,
        payload_signature: bytes = b"",
    ) -> None:
        """Open the slot of a step; what outruns our worker is skipped, as if lost.

        Raises:
            EvidenceError, RemoteProtocolError: a step out of order, a wrong phase or size.
        """
        named = frozenset(named_sources(signed.statement, self.phases))
        if len(self.verifying) < VERIFYING_MAX:
            self.inbox.announce(
                step,
                signed,
                payload_bytes,
                named,
                notice=notice,
                part_bytes=part_bytes,
                payload_signature=payload_signature,
            )

    def keep(self, step: int, payload: NDArray[np.float32], current: int, pool: BufferPool) -> None:
        """Hold a verified payload unless its step is over; the buffer goes back otherwise, and so
        does the empty one of a notice. Notices may lie between payloads: one whose statement the
        book has forgotten meanwhile could be mixed, and not be shown. What it was told to be mixed
        in the current step is."""
        self.last_step = max(self.last_step, step)
        self.unreturned = 0
        if step < current or len(payload) == 0:
            pool.give(payload)
        else:
            self.ready[step] = payload
        forgotten = self.last_step - ROUNDS_KEPT * self.phases.count
        promised = current if self.answers else 0
        for old in [t for t in sorted(self.ready) if t != promised]:
            if old <= forgotten or len(self.ready) > self.kept:
                pool.give(self.ready.pop(old))

    def forget_before(self, step: int, pool: BufferPool) -> None:
        """Drop what belongs to steps that are over."""
        self.waiting = False
        for old in [r for r in self.ready if r < step]:
            pool.give(self.ready.pop(old))
        for old in [r for r in self.refused if r < step]:
            del self.refused[old]
        self.inbox.drop_before(step)

    def refuse(self, step: int, code: str) -> None:
        """Record a verdict against an update; the latest few suffice."""
        self.refused[step] = code
        if code == RATING:
            self.misrated, self.misrated_step = self.misrated + 1, step
        while len(self.refused) > self.kept:
            del self.refused[min(self.refused)]

    def restarted(self, current: int) -> None:
        """A fresh session. In mid-run it is not waited for until it has entered a round: it waits
        for ours to do that."""
        self.inbox.restart()
        self.given_up = current > 1
        self.left = self.heard_our_bye = False


def reached(neighbours: Mapping[str, Neighbour]) -> int:
    """The latest step that more than half of those that speak have stated, 0 before the first."""
    stated = sorted((n.last_step for n in neighbours.values() if n.speaking), reverse=True)
    return stated[len(stated) // 2] if stated else 0


def ahead(
    neighbours: Mapping[str, Neighbour], step: int, *, gone: bool = False
) -> tuple[int, str] | None:
    """The (step, agent) to re-enter from when more than half of those that speak are 2 steps on;
    with `gone`, of those that have left.

    One fast neighbour is not enough: it alone could otherwise make this agent take its model. The
    step is the latest that more than half have reached, or where it states no model, or none of
    them gave its payload of it, the latest before: one liar among those ahead could name any.
    """
    speaking = [n for n in neighbours.values() if (n.served and n.left if gone else n.speaking)]
    leads = [n.last_step for n in speaking if n.last_step >= step + 2]
    if 2 * len(leads) <= len(speaking):
        return None
    reached = sorted(leads, reverse=True)[len(speaking) // 2]
    held = [(n, t) for n in speaking for t in n.ready if step < t <= reached and n.is_model(t)]
    target = max((t for _, t in held), default=None)
    if target is None:
        return None
    return target, min(n.agent for n, t in held if t == target)
