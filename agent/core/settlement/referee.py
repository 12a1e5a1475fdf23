"""An agent as referee of its neighbourhood: claims of a window collected, one bill made of them.

A window is claimed when its last round is over. Its bill is made once every neighbour that stated
rounds in it has claimed, or a deadline after; whoever has not claimed by then is left out. One
claim and one bill a window: both are persisted before they are sent. Pure; who is told, and what
is settled, is the business of `agent.core.settlement.settlement`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from candor.agent.core.effects import PutValue
from candor.agent.core.settlement.evidence_book import SEEN_BYTES_MAX, WINDOWS_KEPT, EvidenceBook
from candor.mechanisms.evidence.claims import SignedClaim, heard_rounds
from candor.mechanisms.evidence.examiner import check_claim
from candor.mechanisms.evidence.sketch import last_of_window, window_of
from candor.mechanisms.evidence.statements import EvidenceError
from candor.mechanisms.payments.bills import BillTerms, SignedBill, make_bill
from candor.mechanisms.payments.credits import AmountError
from candor.mechanisms.payments.rules import Neighbourhood
from candor.topologies.encoding.canonical import pack, unpack
from candor.topologies.encoding.signatures import SigningKey

# Claims of a neighbour that is ahead wait here until our own window is over, ours until settled.
CLAIMS_KEPT: Final = WINDOWS_KEPT


@dataclass(slots=True)
class Window:
    """A window that is over here: the own claim, when its bill is made at the latest, the bill."""

    claim: SignedClaim
    bill_by_s: float = math.inf
    bill: SignedBill | None = None


@dataclass(slots=True)
class Referee:
    """Agent `book.agent` as a referee; `windows` are those that some edge has not settled yet.

    `claims` are the neighbours', by agent and window: kept until the own window is billed;
    `next_window` is the first that is not over here, None before the first round of this life.
    """

    key: SigningKey
    book: EvidenceBook
    terms: BillTerms
    patience_s: float
    credit_limit: int
    windows: dict[int, Window] = field(default_factory=dict)
    claims: dict[str, dict[int, SignedClaim]] = field(default_factory=dict)
    next_window: int | None = None
    resting: int = 0  # the first window that this life may state anything in
    billed: int = -1  # the last window billed
    judged: dict[float, bool] = field(default_factory=dict)  # which energies are too large

    # --- own claims -------------------------------------------------------------------------

    def round_over(self, round_number: int, rounds: int) -> list[int]:
        """The windows to claim: those that end with this round, or were jumped over."""
        window = window_of(round_number, self.terms.window_rounds)
        if self.next_window is None:
            self.next_window = window
        over = round_number in (rounds, last_of_window(round_number, self.terms.window_rounds))
        ended = [
            w
            for w in range(self.next_window, window + over)
            if w not in self.windows and self.book.seen(self.book.agent, w).energies
        ]
        self.next_window = window + over
        for agent, held in self.claims.items():
            self.claims[agent] = {w: c for w, c in held.items() if w in ended or self.wanted(w)}
        return ended

    def claim(self, window: int) -> PutValue:
        """Claim a window; answers what to persist before the claim is sent."""
        signed = SignedClaim.sign(self.book.claim(window), self.key)
        self.windows[window] = Window(signed)
        stored = pack([signed.encode(), self.book.encode_seen(window)])
        return PutValue(claim_key(window), stored)

    def restore(self, window: int, data: bytes, bill: bytes | None) -> None:
        """Take back the claim of an earlier life, with the evidence it kept for its neighbours',
        and the bill if it was made; raises MalformedError when our own file is damaged."""
        match unpack(data, bytes_max=2 * SEEN_BYTES_MAX):
            case [bytes(claim), bytes(seen)]:
                made = SignedBill.decode(bill) if bill is not None else None
                self.windows[window] = Window(SignedClaim.decode(claim), bill=made)
                self.billed = max(self.billed, window) if made is not None else self.billed
                self.book.restore_seen(window, seen)
        # Windows are billed in order: what a restored backup passed over stays so.
        for passed in [w for w, held in self.windows.items() if held.bill is None]:
            if passed < self.billed:
                del self.windows[passed]

    def forget(self, done: int) -> None:
        """Drop windows up to `done`, which all edges have settled, and those far behind."""
        latest = max(self.windows, default=0)
        for old in [w for w in self.windows if w <= done or w < latest - CLAIMS_KEPT]:
            del self.windows[old]

    # --- neighbours' claims -------------------------------------------------------------------

    def wanted(self, window: int) -> bool:
        """Whether a neighbour's claim can still be settled: a window open here, or claimed."""
        return window in self.windows or 0 <= window - self._coming < CLAIMS_KEPT

    def near(self, window: int) -> bool:
        """Whether a neighbour's bill says something of what is open here: also that of a window
        which is not, since its `previous` tells what the neighbour has passed over."""
        return -CLAIMS_KEPT <= window - self._coming < CLAIMS_KEPT

    @property
    def _coming(self) -> int:
        return self.resting if self.next_window is None else self.next_window

    def keep(self, agent: str, window: int, signed: SignedClaim) -> bool:
        """Keep a neighbour's claim; False when it claimed the window differently before."""
        known = self.claims.setdefault(agent, {}).setdefault(window, signed)
        return known.body == signed.body

    def judge(self, agent: str, window: int) -> None:
        """Hold a neighbour's claim against the evidence, once the own window is over.

        Raises:
            EvidenceError: it contradicts what was seen here.
        """
        own, claim = self.windows[window].claim.claim(), self.claims[agent][window].claim()
        seen = self.book.seen(agent, window)
        unseen = set(heard_rounds(own, claim)) - set(seen.energies)
        if unseen:
            raise EvidenceError("claim-unseen", f"no evidence here of round {min(unseen)}")
        left_out = set(seen.energies) - {entry.round for entry in claim.rounds}
        if left_out:
            raise EvidenceError("claim-incomplete", f"round {min(left_out)} was stated")
        terms = self.book.examiner.terms
        check_claim(claim, terms, seen.energies, seen.traces, seen.heard)

    # --- bills ------------------------------------------------------------------------------

    def unbilled(self, now_s: float) -> Iterable[int]:
        """Windows to bill, in order; from now on each waits for claims at its own deadline."""
        unbilled = [w for w, held in sorted(self.windows.items()) if held.bill is None]
        for window in unbilled:
            held = self.windows[window]
            held.bill_by_s = min(held.bill_by_s, now_s + self.patience_s)
        return unbilled

    def awaited(self, window: int, excluded: Mapping[str, bool]) -> list[str]:
        """The neighbours that stated rounds in a window and have not claimed it."""
        return [
            agent
            for agent, out in excluded.items()
            if not out
            and self.book.seen(agent, window).energies
            and window not in self.claims.get(agent, {})
        ]

    def bill(self, window: int, members: Iterable[str]) -> PutValue:
        """Bill a window to `members`, whose claims have been judged; answers what to persist
        before the bill is sent."""
        held = self.windows[window]
        claims = {agent: self.claims[agent][window] for agent in members}
        try:
            bill = make_bill(self.terms, held.claim, claims.values(), self.billed)
        except AmountError:  # nobody can pay what is no amount: all claims were checked, so a bug
            claims = {}
            bill = make_bill(self.terms, held.claim, (), self.billed)
        claims[self.book.agent] = held.claim
        ordered = [claims[agent] for agent in sorted(claims)]
        held.bill = SignedBill.sign(bill, ordered, self.key)
        self.billed = window
        return PutValue(bill_key(window), held.bill.encode())

    def too_large(self, energy: float) -> bool:
        """Whether an update of this energy could not be paid for within an edge's credit, if every
        round of a window were like it: such an update must not reach the model.

        Energies are rounded up to a power of two, so that few different ones are ever billed."""
        fraction, exponent = math.frexp(energy)
        bound = 0.0 if fraction == 0 else math.ldexp(1.0, exponent - (fraction == 0.5))
        if bound not in self.judged:
            self.judged[bound] = self._beyond_credit(bound)
        return self.judged[bound]

    def _beyond_credit(self, energy: float) -> bool:
        rounds = self.terms.window_rounds
        traces = np.zeros((3, rounds, self.terms.trace_size))
        traces[0, :, 0] = np.sqrt(energy) * np.where(np.arange(rounds) % 2, -1, 1)  # most noise
        energies = np.array([energy * rounds, 0.0, 0.0])
        beside_idlers = Neighbourhood(energies, np.ones((3, rounds), np.bool_), traces, referee=2)
        try:
            transfers, charges = self.terms.payments.rows(beside_idlers)
        except AmountError:
            return True
        return bool(np.abs(transfers + charges).max() > self.credit_limit)


def claim_key(window: int) -> str:
    """Where an own claim is kept in the store."""
    return f"claim/{window}"


def bill_key(window: int) -> str:
    """Where an own bill is kept in the store."""
    return f"bill/{window}"
