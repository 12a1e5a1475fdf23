"""An agent as referee of its neighbourhood: claims of a window collected, one bill made of them.

A window is claimed when its last round is over. Its bill is made once every neighbour that stated
rounds in it has claimed, or a deadline after; whoever has not claimed by then is left out. One
claim and one bill a window: both are persisted before they are sent. Pure; who is told, and what
is settled, is the business of `agent.core.settlement.settlement`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from candor.agent.core.effects import PutValue
from candor.agent.core.settlement.evidence_book import SEEN_BYTES_MAX, WINDOWS_KEPT, EvidenceBook
from candor.mechanisms.evidence.claims import SignedClaim, heard_rounds
from candor.mechanisms.evidence.examiner import check_claim
from candor.mechanisms.evidence.sketch import last_of_window, window_of
from candor.mechanisms.evidence.statements import EvidenceError
from candor.mechanisms.payments.bills import BillError, BillTerms, SignedBill, make_bill
from candor.mechanisms.payments.credits import AmountError
from candor.mechanisms.payments.rules import Neighbourhood
from candor.topologies.encoding.canonical import MalformedError, pack, unpack
from candor.topologies.encoding.signatures import SigningKey

# Claims of a neighbour that is ahead wait here until our own window is over, ours until settled.
CLAIMS_KEPT: Final = WINDOWS_KEPT
# Windows over here with a claim not in: its sender says it before anything of the next window, so
# that three say enough, however short they are.
CLAIM_WINDOWS: Final = 3
# Codes of bills that are not settled, as an end has lost what it had signed.
CLAIMED_TWICE: Final = "claimed-twice"
CLAIM_FORGOTTEN: Final = "claim-forgotten"
CLAIM_KEY: Final = "claim/"
BILL_KEY: Final = "bill/"


@dataclass(slots=True)
class Published:
    """A window that is over here: the own claim, when its bill is made at the latest, the bill.
    What was seen of neighbours in it is lost where it is `blind`: nobody else can be billed, and it
    is billed only if it is known that no neighbour has a bill of it, `alone`."""

    window: int
    claim: SignedClaim
    bill_by_s: float = math.inf
    bill: SignedBill | None = None
    blind: bool = field(default=False, kw_only=True)
    alone: bool = field(default=False, kw_only=True)

    @property
    def never_billed(self) -> bool:
        """Whether it has no bill and will have none."""
        return self.bill is None and self.blind and not self.alone

    bill_by_window: int | None = None  # the first that is open here when it is made at the latest

    def due(self, coming: int, now_s: float) -> bool:
        """Whether its bill waits for no claim any more; `coming` is the first open window."""
        by_window = self.bill_by_window
        return now_s >= self.bill_by_s or (by_window is not None and coming >= by_window)


class Referee:
    """Agent `book.agent` as a referee; it keeps the windows that some edge has not settled yet, and
    its neighbours' claims until it has billed them."""

    def __init__(
        self,
        key: SigningKey,
        book: EvidenceBook,
        terms: BillTerms,
        *,
        patience_s: float,
        credit_limit: int,
        resting: int = 0,
    ) -> None:
        self._key = key
        self._book = book
        self._terms = terms
        self._patience_s = patience_s
        self._credit_limit = credit_limit
        self._resting = resting  # the first window that this life may state anything in
        self._published: dict[int, Published] = {}
        self._claims: dict[str, dict[int, SignedClaim]] = {}  # by agent and window
        self._next_window: int | None = None  # not over here; None before this life's first round
        self._billed = -1  # the last window billed
        self._judged: dict[float, bool] = {}  # which energies are too large

    # --- own claims -------------------------------------------------------------------------

    def round_over(self, round_number: int, rounds: int) -> list[int]:
        """The windows to claim: those that end with this round, or were jumped over."""
        window = window_of(round_number, self._terms.window_rounds)
        if self._next_window is None:
            self._next_window = window
        over = round_number in (rounds, last_of_window(round_number, self._terms.window_rounds))
        ended = [
            w
            for w in range(self._next_window, window + over)
            if w not in self._published and self.saw(self._book.agent, w)
        ]
        self._next_window = window + over
        for agent, held in self._claims.items():
            self._claims[agent] = {w: c for w, c in held.items() if w in ended or self.wanted(w)}
        return ended

    def go_on(self, window: int) -> None:
        """An earlier life ended in a window, which this one goes on in."""
        self._next_window = window + self.has_claimed(window)

    def claim(self, window: int) -> tuple[PutValue, bytes]:
        """Claim a window; answers what to persist before the claim is sent, and the claim."""
        signed = SignedClaim.sign(self._book.claim(window), self._key)
        return self._publish(Published(window, signed)), signed.encode()

    def adopt(self, signed: SignedClaim, bill: SignedBill | None = None) -> PutValue:
        """Take back a claim that an earlier life has signed, perhaps with the bill of the window;
        answers what to persist."""
        window = signed.claim().window
        if bill is not None:
            self._billed = max(self._billed, window)
            self._pass_over()
        return self._publish(Published(window, signed, bill=bill, blind=True))

    def recover(self, window: int) -> PutValue:
        """Claim a window of an earlier life, of which neighbours have returned some."""
        signed = SignedClaim.sign(self._book.claim(window), self._key)
        return self._publish(Published(window, signed, blind=True))

    def _publish(self, held: Published) -> PutValue:
        self._published[held.window] = held
        stored = [held.claim.encode(), self._book.encode_seen(held.window)]
        return PutValue(claim_key(held.window), pack([*stored, *([True] if held.blind else [])]))

    def has_claimed(self, window: int) -> bool:
        """Whether an own claim of a window is known here."""
        return window in self._published

    def held(self, window: int) -> Published | None:
        """The own claim of a window, with its bill if there is one."""
        return self._published.get(window)

    def takes_back(self, window: int, *, billed: bool = False) -> bool:
        """Whether a claim of an earlier life, perhaps with the bill, is of any use: windows are
        billed in order."""
        held = self._published.get(window)
        return window > self._billed if held is None else billed and held.bill is None

    def published(self, after: int) -> list[Published]:
        """The own claims, and bills if made, of the windows beyond `after`, in order."""
        return [held for window, held in sorted(self._published.items()) if window > after]

    def restore(self, window: int, data: bytes, bill: bytes | None) -> SignedBill | None:
        """Take back the claim of an earlier life, with the evidence it kept for its neighbours',
        and the bill if it was made, which it answers; raises MalformedError when our own file is
        damaged."""
        match unpack(data, bytes_max=2 * SEEN_BYTES_MAX):
            case [bytes(claim), bytes(seen), *blind] if blind in ([], [True]):
                made = SignedBill.decode(bill) if bill is not None else None
                signed = SignedClaim.decode(claim)
                self._published[window] = Published(window, signed, bill=made, blind=bool(blind))
                self._billed = max(self._billed, window) if made is not None else self._billed
                self._book.restore_seen(window, seen)
            case _:
                raise MalformedError("not a claim with what was seen")
        self._pass_over()
        return made

    def _pass_over(self) -> None:
        """Windows are billed in order: what an earlier life passed over stays so."""
        for passed in [w for w, held in self._published.items() if held.bill is None]:
            if passed < self._billed:
                del self._published[passed]

    def forget(self, done: int) -> None:
        """Drop windows up to `done`, which all edges have settled, and those far behind."""
        latest = max(self._published, default=0)
        for old in [w for w in self._published if w <= done or w < latest - CLAIMS_KEPT]:
            del self._published[old]

    # --- neighbours' claims -------------------------------------------------------------------

    def saw(self, agent: str, window: int) -> bool:
        """Whether an agent stated anything in a window, as seen here."""
        return bool(self._book.seen(agent, window).energies)

    def wanted(self, window: int) -> bool:
        """Whether a neighbour's claim can still be settled: a window open here, or claimed."""
        return window in self._published or 0 <= window - self.coming < CLAIMS_KEPT

    def near(self, window: int) -> bool:
        """Whether a neighbour's bill says something of what is open here: also that of a window
        which is not, since its `previous` tells what the neighbour has passed over."""
        return -CLAIMS_KEPT <= window - self.coming < CLAIMS_KEPT

    @property
    def coming(self) -> int:
        """The first window that is not over here."""
        return self._resting if self._next_window is None else self._next_window

    def keep(self, agent: str, window: int, signed: SignedClaim) -> bool:
        """Keep a neighbour's claim; False when it claimed the window differently before."""
        known = self._claims.setdefault(agent, {}).setdefault(window, signed)
        return known.body == signed.body

    def claim_of(self, agent: str, window: int) -> SignedClaim | None:
        """A neighbour's claim, if it is here and not billed yet."""
        return self._claims.get(agent, {}).get(window)

    def drop(self, agent: str, window: int) -> None:
        """Let go of a claim that has no bill to wait for."""
        self._claims.get(agent, {}).pop(window, None)

    def judge(self, signed: SignedClaim) -> None:
        """Hold a neighbour's claim against the evidence, once the own window is over.

        Raises:
            EvidenceError: it contradicts what was seen here.
        """
        claim = signed.claim()
        own = self._published[claim.window].claim.claim()
        seen = self._book.seen(claim.agent, claim.window)
        unseen = set(heard_rounds(own, claim)) - set(seen.energies)
        if unseen:
            raise EvidenceError("claim-unseen", f"no evidence here of round {min(unseen)}")
        left_out = set(seen.energies) - {entry.round for entry in claim.rounds}
        if left_out:
            raise EvidenceError("claim-incomplete", f"round {min(left_out)} was stated")
        terms = self._book.examiner.terms
        check_claim(
            *(claim, terms, seen.energies, seen.traces, seen.heard, seen.products, seen.wholes)
        )

    # --- bills ------------------------------------------------------------------------------

    def unbilled(self, now_s: float) -> list[Published]:
        """What is to be billed, in order; from now on each waits for claims at its own deadline, in
        seconds and in windows."""
        published = self.published(-1)
        unbilled = [held for held in published if held.bill is None and not held.never_billed]
        for held in unbilled:
            held.bill_by_s = min(held.bill_by_s, now_s + self._patience_s)
            if held.bill_by_window is None:
                held.bill_by_window = self.coming + CLAIM_WINDOWS - 1
        return unbilled

    def bill_alone(self) -> None:
        """No neighbour has a bill of ours that is not known here."""
        for held in self._published.values():
            held.alone = held.blind

    def awaited(self, window: int, agents: Iterable[str]) -> list[str]:
        """Those of `agents` that stated rounds in a window and have not claimed it."""
        return [a for a in agents if self.saw(a, window) and self.claim_of(a, window) is None]

    def bill(self, window: int, members: Iterable[str]) -> PutValue:
        """Bill a window to those of `members` that have claimed it, whose claims have been judged;
        answers what to persist before the bill, its value, is sent. All claims of the window go."""
        held = self._published[window]
        found = [(agent, self.claim_of(agent, window)) for agent in members]
        claims = {agent: claim for agent, claim in found if claim is not None}
        try:
            bill = make_bill(self._terms, held.claim, claims.values(), self._billed)
        except AmountError:  # nobody can pay what is no amount: all claims were checked, so a bug
            claims = {}
            bill = make_bill(self._terms, held.claim, (), self._billed)
        claims[self._book.agent] = held.claim
        ordered = [claims[agent] for agent in sorted(claims)]
        held.bill = SignedBill.sign(bill, ordered, self._key)
        self._billed = window
        for agent in self._claims:
            self.drop(agent, window)
        return PutValue(bill_key(window), held.bill.encode())

    def billed_as(self, digest: bytes) -> int | None:
        """The window of the own bill with this digest."""
        bills = ((window, held.bill) for window, held in self._published.items())
        found = (window for window, bill in bills if bill is not None and bill.digest == digest)
        return next(found, None)

    def forgotten(self, signed: SignedBill) -> SignedClaim | None:
        """The claim in a neighbour's bill that this agent has signed and does not know of, or knows
        another one in its place: it has lost data, and cannot blame the referee."""
        for claim in signed.claims:
            said = claim.claim()
            own = self._published.get(said.window)
            known = own is not None and own.claim.body == claim.body
            if said.agent == self._book.agent and not known and claim.verify(self._key.public):
                return claim
        return None

    def match(self, agent: str, signed: SignedBill) -> None:
        """Our own claim in a neighbour's bill must be the one we made; so must its own there be
        the one it sent us, if it did.

        Raises:
            BillError: one of them is not; `CLAIMED_TWICE` of its own, which a lost disk explains.
        """
        for claim in signed.claims:
            said = claim.claim()
            if said.agent == self._book.agent:
                own = self._published.get(said.window)
                if own is None or own.claim.body != claim.body:
                    raise BillError("bill-claims", "our claim is not the one we made")
            elif said.agent == agent and not self.keep(agent, said.window, claim):
                raise BillError(CLAIMED_TWICE, f"{agent} sent us another claim")

    # --- what can be paid ---------------------------------------------------------------------

    def too_large(self, energy: float) -> bool:
        """Whether an update of this energy could not be paid for within an edge's credit, if every
        round of a window were like it: such an update must not reach the model.

        Energies are rounded up to a power of two, so that few different ones are ever billed."""
        fraction, exponent = math.frexp(energy)
        bound = 0.0 if fraction == 0 else math.ldexp(1.0, exponent - (fraction == 0.5))
        if bound not in self._judged:
            self._judged[bound] = self._beyond_credit(bound)
        return self._judged[bound]

    def _beyond_credit(self, energy: float) -> bool:
        rounds = self._terms.window_rounds
        traces = np.zeros((3, rounds, self._terms.trace_size))
        signs = np.where(np.arange(rounds) % 2, -1.0, 1.0)  # most noise
        traces[0, :, 0] = np.sqrt(energy) * signs
        products = np.zeros((3, rounds, rounds))
        products[0] = energy * np.outer(signs, signs)
        energies = np.array([energy * rounds, 0.0, 0.0])
        mask = np.ones((3, rounds), np.bool_)
        beside_idlers = Neighbourhood(energies, mask, traces, products, referee=2)
        try:
            transfers, charges = self._terms.payments.rows(beside_idlers)
        except AmountError:
            return True
        return bool(np.abs(transfers + charges).max() > self._credit_limit)


def claim_key(window: int) -> str:
    """Where an own claim is kept in the store."""
    return f"{CLAIM_KEY}{window}"


def bill_key(window: int) -> str:
    """Where an own bill is kept in the store."""
    return f"{BILL_KEY}{window}"
