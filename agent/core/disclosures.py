"""Rounds shown between neighbours: what is asked for, fetched, judged, and owed.

The bill of a neighbour's window tells which of its rounds the coin has picked. From then on that is
asked for, one piece at a time, of one neighbour at a time, so that it never stands in the way of a
round; what has come whole is done again off the loop. What a neighbour does not show in time, or
what cannot be told, is *missing*: no proof, for it may have crashed; but what is asked for is one
round in a window, and who lacks it more than `MISSED_MAX` times is not served any more.

Of a window on an edge: due -> fetched -> judged, or missed. Pure; `tick` and messages drive it, and
what must outlive the process is stored with `Persist`. With nothing to show (`disclose` is off)
every message of this kind is refused.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from candor.agent.core.effects import Effect, Judge, Log, Persist, PutValue, Show
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import (
    BODY_BYTES_MAX,
    FALSE_REPORT,
    PIECE_BYTES,
    ShownRound,
    SignedDisclosure,
    shown_bytes_max,
)
from candor.mechanisms.evidence.examiner import RunTerms
from candor.mechanisms.evidence.kept import picked
from candor.mechanisms.evidence.statements import Head
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.proofs import Proof, equivocation
from candor.network.errors import RemoteProtocolError
from candor.network.messages import Ask, ShownMessage
from candor.topologies.encoding.canonical import (
    MalformedError,
    Value,
    is_count,
    pack,
    unpack,
)

# A daemon that was killed has lost the round it was in, which the coin may pick: now and then.
MISSED_MAX: Final = 3
# Windows shown for one that was missed to be forgotten. Who lies once in each of 16 rounds, and
# shows nothing when that is picked, is through with it after some 64 windows.
MISSED_FORGOTTEN: Final = 256
ASK_EVERY_S: Final = 0.5
# Of one neighbour, before another one's turn; and windows that are waited for.
DUE_MAX: Final = 256
HEAD_WINDOWS: Final = 4  # whose heads are kept, so that a statement made since is found
JUDGING_BYTES_MAX: Final = 2**26  # of one neighbour that wait to be judged before more is asked for
STORED_BYTES_MAX: Final = 2**16


@dataclass(slots=True)
class Due:
    """A round of a neighbour that is to be shown: since when it is asked for without a break, and
    when last, what was signed, and what has come."""

    round: int
    since_s: float | None = None
    asked_s: float = 0.0
    signed: SignedDisclosure | None = None
    size: int = 0
    data: bytearray = field(default_factory=bytearray)
    judging: bool = False

    def restart(self) -> None:
        """Forget what has come: it is of two rounds."""
        self.signed, self.data = None, bytearray()


@dataclass(slots=True)
class Shower:
    """A neighbour: its rounds that are due by window, how often it showed nothing, times
    `MISSED_FORGOTTEN`, less what it showed since; the heads of its statements by exchange; and of
    our windows those that it has not said to have whole. `showing`: a piece is being read for it;
    `guilty`: of what it was proven."""

    due: dict[int, Due] = field(default_factory=dict)
    missed: int = 0
    guilty: str = ""
    showing: bool = False
    heads: dict[tuple[int, int], Head] = field(default_factory=dict)
    owed: set[int] = field(default_factory=set)
    done: int = -1  # the last window that is judged or missed
    asked_s: float = 0.0


class Disclosures:
    """What agent `agent` and its neighbours show each other, by the run's terms; `patience_s` is
    how long a neighbour that is there may take."""

    def __init__(
        self,
        agent: str,
        terms: RunTerms,
        neighbours: Mapping[str, int],
        *,
        shows: bool,
        patience_s: float,
        stored: Mapping[str, bytes],
    ) -> None:
        """`neighbours`: by id, how many neighbours each has; `stored`: what `Persist` has left of
        an earlier life."""
        self._agent, self._terms, self._shows = agent, terms, shows
        self._degrees, self._patience_s = neighbours, patience_s
        self._peers = {peer: _restored(stored.get(peer)) for peer in neighbours}
        self._found: list[Proof] = []

    # --- what the core asks -----------------------------------------------------------------

    @property
    def judging(self) -> bool:
        """Whether anything that has come is still to be judged."""
        return any(due.judging for peer in self._peers.values() for due in peer.due.values())

    def open(self, agent: str) -> bool:
        """Whether a neighbour has still to show something, or to fetch something of ours."""
        peer = self._peers[agent]
        return bool(peer.due or peer.owed)

    def bar(self, agent: str) -> str | None:
        """Why a neighbour is not served any more, None where it is."""
        if self._peers[agent].guilty:
            return self._peers[agent].guilty
        if self._peers[agent].missed <= MISSED_MAX * MISSED_FORGOTTEN:
            return None
        return f"picked rounds of its were not shown, more than {MISSED_MAX} times"

    def take(self) -> list[Proof]:
        """The proofs found since the last time."""
        found, self._found = self._found, []
        return found

    # --- events -----------------------------------------------------------------------------

    def stated(self, head: Head) -> None:
        """A statement of a neighbour was accepted."""
        peer = self._peers.get(head.agent)
        if not self._shows or peer is None:
            return
        peer.heads[(head.round, head.phase)] = head
        oldest = head.round - HEAD_WINDOWS * self._terms.window_rounds
        while (first := next(iter(peer.heads)))[0] < oldest:
            del peer.heads[first]

    def billed(self, agent: str, signed: SignedBill) -> list[Effect]:
        """A bill was accepted, or the own one made: which of its referee's rounds is due the coin
        says. Without a neighbour's claim it says nothing, and that counts as not shown."""
        if not self._shows:
            return []
        window = signed.bill().window
        own = [claim.claim() for claim in signed.claims if claim.claim().agent == agent]
        rounds = [entry.round for claim in own for entry in claim.rounds]
        number = picked(self._terms.run, agent, window, rounds, signed.claims)
        if agent == self._agent:
            for peer in self._peers.values() if number is not None else ():
                peer.owed.add(window)  # it will ask
            return []
        peer = self._peers[agent]
        if peer.guilty or not rounds or window <= peer.done or window in peer.due:
            return []
        if number is None:
            return self._missed(agent, window, "no claim of a neighbour is in its bill")
        peer.due[window] = Due(number)
        while len(peer.due) > DUE_MAX:
            del peer.due[min(peer.due)]
        return [self._stored(agent)]

    def tick(self, agent: str, now_s: float, *, there: bool) -> tuple[list[Effect], Ask | None]:
        """Ask a neighbour that is `there`, if it is its turn, for what is due, the oldest first."""
        peer, effects = self._peers[agent], list[Effect]()
        others = (p for p in self._peers.values() if p is not peer)
        # Of one at a time: what has come of it is held here.
        turn = there and not any(due.data for p in others for due in p.due.values())
        held = sum(due.size for due in peer.due.values() if due.judging)
        turn = turn and held <= JUDGING_BYTES_MAX
        waiting = {window: due for window, due in sorted(peer.due.items()) if not due.judging}
        for window, due in waiting.items():
            due.since_s = due.since_s if turn else None
            if due.since_s is not None and now_s - due.since_s > self._patience_s:
                effects += self._missed(agent, window, f"round {due.round} was not shown")
        left = [(not due.data, due.asked_s, w) for w, due in waiting.items() if w in peer.due]
        if not turn or not left or now_s < peer.asked_s + ASK_EVERY_S:
            return effects, None
        window = min(left)[-1]  # one that has come in part, else in turn: none blocks the others
        due = peer.due[window]
        peer.asked_s = due.asked_s = now_s
        due.since_s = now_s if due.since_s is None else due.since_s
        return effects, Ask(window, len(due.data))

    def left(self, agent: str) -> list[Effect]:
        """A neighbour says farewell: what it still had to show is told, and counts if it is back
        and does not."""
        waiting = ((w, due) for w, due in sorted(self._peers[agent].due.items()) if not due.judging)
        return [
            Log(
                logging.WARNING,
                "left_without_showing",
                {"peer": agent, "window": window, "round": due.round},
            )
            for window, due in waiting
        ]

    def asked(self, agent: str, ask: Ask) -> list[Effect]:
        """A neighbour asks for a piece: one at a time, whatever it asks for meanwhile."""
        self._check_on()
        peer = self._peers[agent]
        if peer.showing:
            return []
        peer.showing = True
        return [Show(agent, ask.window, ask.offset)]

    def answered(self, agent: str, window: int, *, whole: bool) -> None:
        """What there is to answer was read; `whole`: the neighbour has all of it already."""
        peer = self._peers[agent]
        peer.showing = False
        if whole:
            peer.owed -= {one for one in peer.owed if one <= window}

    def shown(
        self, agent: str, message: ShownMessage, now_s: float
    ) -> tuple[list[Effect], Ask | None]:
        """A piece has come: ask for the next one, or have the whole judged.

        Raises:
            RemoteProtocolError: it is not what was asked for, or not signed by the neighbour.
        """
        self._check_on()
        peer = self._peers[agent]
        due = peer.due.get(message.window)
        if due is None or due.judging or message.offset != len(due.data):
            return [], None  # asked twice, or in an earlier life
        if due.signed is None or due.signed.body != message.body:
            if message.offset:
                due.restart()
                return [], None
            self._begin(agent, message, due)
        end = min(due.size, len(due.data) + PIECE_BYTES)
        if len(due.data) + len(message.data) != end:
            due.restart()
            raise RemoteProtocolError("disclosure", f"{len(message.data)} bytes of {due.size}")
        due.data += message.data
        peer.asked_s = now_s
        if end < due.size:
            return [], Ask(message.window, end)
        assert due.signed is not None
        shown, due.data, due.judging = (
            ShownRound(agent, due.signed, bytes(due.data)),
            bytearray(),
            True,
        )
        return [Judge(shown, message.window)], Ask(message.window, end)

    def judged(
        self, agent: str, window: int, told: Told | None, why: str, heads: Sequence[Head]
    ) -> list[Effect]:
        """What a round tells that was done again; None where that could not be done here, by no
        fault of the neighbour's. `heads` are those of its statements as it showed them."""
        peer = self._peers[agent]
        due = peer.due.pop(window, None)
        if due is None:
            return []
        for head in heads:
            known = peer.heads.get((head.round, head.phase))
            proof = None if known is None else equivocation(known, head)
            if proof is not None and head.verify(self._terms.publics[agent]):
                self._found.append(proof)
        about: dict[str, str | int] = {"peer": agent, "window": window, "round": due.round}
        about["detail"] = why
        if told is Told.UNKNOWN:
            return self._missed(agent, window, why)
        peer.done = max(peer.done, window)
        if told is Told.TRUE:
            peer.missed = max(0, peer.missed - 1)
            return [self._stored(agent), Log(logging.INFO, "round_done_again", about)]
        if told is None:
            return [self._stored(agent), Log(logging.WARNING, "round_not_judged", about)]
        if peer.guilty:
            return []
        peer.guilty = f"proven guilty: {FALSE_REPORT} in round {due.round}"
        peer.due = {one: held for one, held in peer.due.items() if held.judging}
        about |= {"kind": FALSE_REPORT, "place": f"round {due.round}"}
        return [self._stored(agent), Log(logging.ERROR, "misbehaviour_proven", about)]

    # ----------------------------------------------------------------------------------------

    def _check_on(self) -> None:
        if not self._shows:
            raise RemoteProtocolError("disclosure", "in this run no rounds are shown")

    def _begin(self, agent: str, message: ShownMessage, due: Due) -> None:
        """The first piece of what a neighbour has signed.

        Raises:
            RemoteProtocolError: it has not, it is of another round, or longer than any may be.
        """
        if len(message.body) > BODY_BYTES_MAX:
            raise RemoteProtocolError("disclosure", f"a body of {len(message.body)} bytes")
        signed = SignedDisclosure(message.body, message.signature)
        try:
            said = signed.verified(self._terms.publics[agent])
        except MalformedError as exc:
            raise RemoteProtocolError("disclosure", str(exc)) from exc
        place = (said.run, said.agent, said.window, said.round)
        if place != (self._terms.run, agent, message.window, due.round):
            raise RemoteProtocolError("disclosure", "it is not the round that was picked")
        if said.size > (most := shown_bytes_max(self._terms.dim, self._degrees[agent])):
            raise RemoteProtocolError("disclosure", f"{said.size} bytes where {most} are allowed")
        due.signed, due.size = signed, said.size

    def _missed(self, agent: str, window: int, why: str) -> list[Effect]:
        peer = self._peers[agent]
        due = peer.due.pop(window, None)
        peer.missed += MISSED_FORGOTTEN
        peer.done = max(peer.done, window)
        about: dict[str, str | int] = {"peer": agent, "window": window}
        about |= {"round": due.round if due else 0, "detail": why}
        return [self._stored(agent), Log(logging.WARNING, "round_not_shown", about)]

    def _stored(self, agent: str) -> Effect:
        peer = self._peers[agent]
        due: list[Value] = [[window, one.round] for window, one in sorted(peer.due.items())]
        stored = pack([peer.missed, peer.done, peer.guilty, due])
        return Persist((PutValue(shower_key(agent), stored),))


def shower_key(agent: str) -> str:
    """Where in the store it is what a neighbour owes of its rounds."""
    return f"shown/{agent}"


def _restored(stored: bytes | None) -> Shower:
    """Raises MalformedError: our own file is damaged."""
    if stored is None:
        return Shower()
    match unpack(stored, bytes_max=STORED_BYTES_MAX):
        case [int(missed), int(done), str(guilty), [*entries]] if is_count(missed):
            due: dict[int, Due] = {}
            for entry in entries:
                match entry:
                    case [int(window), int(number)]:
                        due[window] = Due(number)
            return Shower(due=due, missed=missed, done=done, guilty=guilty)
    raise MalformedError("not what a neighbour has to show")
