"""Bills and settlements: what a referee charges its neighbours for a window, and what an edge owes.

Every agent is the referee of its neighbourhood: from the signed claims of its neighbours and its
own it computes one bill, which it signs. The bundle of a bill and its claims can be recomputed by
anyone. An edge settles the net of its two bills: what lo pays by hi's bill minus what hi pays by
lo's. This module computes, signs and judges; it sends and stores nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NewType, Self

import numpy as np

from candor.mechanisms.evidence.claims import (
    CLAIM_BYTES_MAX,
    Claim,
    ClaimedRound,
    SignedClaim,
    heard_rounds,
)
from candor.mechanisms.evidence.fresh import Fresh
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import ID_CHARS_MAX
from candor.mechanisms.payments.band import with_hidden
from candor.mechanisms.payments.credits import AMOUNT_MAX, AmountError, total_energy
from candor.mechanisms.payments.rules import Floats as Floats
from candor.mechanisms.payments.rules import Neighbourhood as Neighbourhood
from candor.mechanisms.payments.rules import Payments as Payments
from candor.mechanisms.payments.rules import Rule as Rule
from candor.mechanisms.payments.rules import parse_rule as parse_rule
from candor.mechanisms.payments.rules import referees_of
from candor.topologies.encoding.canonical import (
    MalformedError,
    Value,
    is_count,
    is_name,
    pack,
    sha256,
    unpack,
)
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify

BILL_DOMAIN: Final = "candor/bill/v1"
BILL_VERSION: Final = 3
WINDOW_LIMIT: Final = 2**53
BILL_BYTES_MAX: Final = 64 * 1024
"""About 700 members with ids of full length: far above any sensible neighbourhood."""
BUNDLE_BYTES_MAX: Final = 2**20 - 2**12
"""Two of them, a record's evidence, fit one message."""


class BillError(Exception):
    """A bill that does not follow from its claims; `code` is a short stable word."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row:
    """What one member pays, in micro-credits: `transfer` goes to the other members, so that all of
    a bill's sum to 0; `charge` goes to the referee, as edge-local rules have it."""

    member: str
    transfer: int
    charge: int

    @property
    def amount(self) -> int:
        """What the member pays on its edge to the referee; below 0 it is paid."""
        return self.transfer + self.charge


@dataclass(frozen=True, slots=True)
class Bill:
    """What a referee charges its neighbours for one window.

    `previous`: the window that it billed before this one, -1 for the first, so that both ends of an
    edge know which windows there are to settle. `rows` sorted by member; `claims`: digests of the
    claims it was computed from, sorted by agent, the referee's own among them.
    """

    run: bytes
    window: int
    previous: int
    referee: str
    rule: str
    rows: tuple[Row, ...]
    claims: tuple[bytes, ...]

    def amount(self, member: str) -> int:
        """What a member pays; 0 for one that is left out."""
        return next((row.amount for row in self.rows if row.member == member), 0)

    def encode(self) -> bytes:
        """The canonical body: version, then the fields in declared order."""
        rows: list[Value] = [[row.member, row.transfer, row.charge] for row in self.rows]
        head: list[Value] = [BILL_VERSION, self.run, self.window, self.previous]
        return pack([*head, self.referee, self.rule, rows, self.claims])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a canonical body.

        Raises:
            MalformedError: not a bill of this version within bounds.
        """
        match unpack(data, bytes_max=BILL_BYTES_MAX):
            case [
                _,
                bytes(run),
                int(window),
                int(previous),
                str(referee),
                str(rule),
                list(rows),
                list(digests),
            ]:
                parsed = tuple(map(_row, rows))
                claims = tuple(map(_digest, digests))
                bill = cls(run, window, previous, referee, rule, parsed, claims)
                if bill._in_bounds() and bill.encode() == data:  # which settles the version
                    return bill
        raise MalformedError("not a bill of this version")

    def _in_bounds(self) -> bool:
        members = [row.member for row in self.rows]
        return (
            len(self.run) == 32
            and is_count(self.window)
            and is_count(self.previous, least=-1)
            and self.previous < self.window < WINDOW_LIMIT
            and is_name(self.referee, ID_CHARS_MAX)
            and members == sorted(set(members))
        )


def _row(entry: object) -> Row:
    match entry:
        case [str(member), int(transfer), int(charge)] if (
            is_name(member, ID_CHARS_MAX)
            and max(abs(transfer), abs(charge), abs(transfer + charge)) <= AMOUNT_MAX
            and not isinstance(transfer, bool)
            and not isinstance(charge, bool)
        ):
            return Row(member, transfer, charge)
    raise MalformedError("bill: a row is not [member, transfer, charge]")


def _digest(value: object) -> bytes:
    if isinstance(value, bytes) and len(value) == 32:
        return value
    raise MalformedError("bill: a claim digest is not 32 bytes")


@dataclass(frozen=True, slots=True)
class SignedBill:
    """A bill's signed bytes with the claims that it follows from; *sealed* without them, when it
    leaves the neighbourhood: its digests still bind them."""

    body: bytes
    signature: bytes
    claims: tuple[SignedClaim, ...]

    @classmethod
    def sign(cls, bill: Bill, claims: Iterable[SignedClaim], key: SigningKey) -> Self:
        """Sign a bill; `claims` as `make_bill` names them."""
        body = bill.encode()
        return cls(body, key.sign(BILL_DOMAIN, body), tuple(claims))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body (32 bytes), which ledger records name."""
        return sha256(self.body)

    def bill(self) -> Bill:
        """The parsed body; raises MalformedError."""
        return Bill.decode(self.body)

    @property
    def is_sealed(self) -> bool:
        """Whether its claims are left out; of every bill there is one at least, the referee's."""
        return not self.claims

    def sealed(self) -> Self:
        """The bill without its claims."""
        return replace(self, claims=())

    def opened(self, claims: Mapping[bytes, SignedClaim]) -> Self:
        """The bill with its claims, where all are among `claims`, by digest."""
        named = self.bill().claims
        if not self.is_sealed or not claims.keys() >= set(named):
            return self
        return replace(self, claims=tuple(claims[digest] for digest in named))

    def names(self, agent: str) -> bool:
        """Whether a claim of `agent` is among those that it follows from."""
        return any(claim.claim().agent == agent for claim in self.claims)

    def verify(self, public: bytes) -> bool:
        """Whether `public` signed this body."""
        return verify(public, self.signature, BILL_DOMAIN, self.body)

    def encode(self) -> bytes:
        """The bundle: body, signature and claims as one canonical byte string."""
        return pack([self.body, self.signature, [claim.encode() for claim in self.claims]])

    @classmethod
    def decode(cls, data: bytes, *, may_be_sealed: bool = False) -> Self:
        """Parse a bundle, whose claims must be those that the bill names.

        Raises:
            MalformedError: another layout, too long, or other claims.
        """
        match unpack(data, bytes_max=BUNDLE_BYTES_MAX):
            case [bytes(body), bytes(signature), [*claims]] if len(signature) == SIGNATURE_BYTES:
                bill = Bill.decode(body)
                if may_be_sealed and not claims and bill.claims:
                    return cls(body, signature, ())
                encoded = [claim for claim in claims if isinstance(claim, bytes)]
                if len(encoded) == len(claims) == len(bill.claims):
                    signed = tuple(
                        SignedClaim.decode(claim, bytes_max=CLAIM_BYTES_MAX) for claim in encoded
                    )
                    if tuple(claim.digest for claim in signed) == bill.claims:
                        return cls(body, signature, signed)
        raise MalformedError("not a bill with its claims")


@dataclass(frozen=True, slots=True)
class BillTerms:
    """What every bill of a run is judged against.

    `neighbours`: of each agent of the run, in the graph of the cluster file; `earlier` gives those
    of a window, where members join and leave while the run goes on.
    `takes(t, i, k)`: whether agent i mixes the vector of its neighbour k in round t. `fresh`: how
    what sketches hide is seen, None where nothing of it is.
    """

    run: bytes
    window_rounds: int
    trace_size: int
    publics: Mapping[str, bytes]
    neighbours: Mapping[str, frozenset[str]]
    payments: Payments
    fresh: Fresh | None = None
    takes: Callable[[int, str, str], bool] = lambda _round, _taker, _giver: True
    earlier: Callable[[int], Mapping[str, frozenset[str]]] | None = None

    def around(self, window: int) -> Mapping[str, frozenset[str]]:
        """The neighbours of each agent in a window."""
        return self.neighbours if self.earlier is None else self.earlier(window)


def make_bill(
    terms: BillTerms, referee: SignedClaim, members: Iterable[SignedClaim], previous: int = -1
) -> Bill:
    """The bill of a referee from its own claim and those of its neighbours.

    Deterministic: whoever holds the claims gets the same bytes. A member is billed for the rounds
    that it claims and that the referee mixed of it, or need not have: what is injected where the
    schedule has the referee mix others reaches it later. One without any takes no part.

    Raises:
        AmountError: a user's rule gives no number.
    """
    own = referee.claim()
    held = {signed.claim().agent: signed for signed in members} | {own.agent: referee}
    claims = sorted((signed.claim() for signed in held.values()), key=lambda claim: claim.agent)
    rows: tuple[Row, ...] = ()
    if len(claims) > 1:
        transfers, charges = terms.payments.rows(neighbourhood(terms, own, claims))
        rows = tuple(
            Row(claim.agent, int(transfer), int(charge))
            for claim, transfer, charge in zip(claims, transfers, charges, strict=True)
            if claim.agent != own.agent
        )
    digests = tuple(held[claim.agent].digest for claim in claims)
    return Bill(own.run, own.window, previous, own.agent, terms.payments.text, rows, digests)


def neighbourhood(terms: BillTerms, referee: Claim, claims: Sequence[Claim]) -> Neighbourhood:
    """The arrays that rules read: of each member its charged rounds, of the referee,
    `claims[i] is referee`, all that it claims. Members are sorted by id."""
    shape = (len(claims), terms.window_rounds)
    energies, hidden = np.zeros(len(claims)), np.zeros(len(claims))
    mask = np.zeros(shape, dtype=np.bool_)
    traces = np.zeros((*shape, terms.trace_size))
    products = np.zeros((*shape, terms.window_rounds))
    for m, claim in enumerate(claims):
        charged = _charged(terms, referee, claim)
        rounds = [entry for entry in claim.rounds if entry.round in charged]
        energies[m] = total_energy([entry.energy for entry in rounds])
        for entry in rounds:
            w = (entry.round - 1) % terms.window_rounds
            mask[m, w] = True
            traces[m, w] = np.frombuffer(entry.trace, "<f4")
        products[m] = _gram(terms, claim, charged)
        hidden[m] = _hidden(terms, rounds)
    energies, products = with_hidden(energies, mask, products, hidden)
    index = next(m for m, claim in enumerate(claims) if claim.agent == referee.agent)
    held = terms.around(referee.window)
    near = [held[claim.agent] for claim in claims]
    degrees = np.array([float(len(around)) for around in near])
    referees = np.array([float(referees_of(around, held)) for around in near])
    around = (degrees, referees, referee.window)
    return Neighbourhood(energies, mask, traces, products, index, *around)


def _hidden(terms: BillTerms, rounds: Sequence[ClaimedRound]) -> float:
    """What the sketches of charged rounds do not show of their energy."""
    whole = [entry.whole for entry in rounds if entry.whole is not None]
    if terms.fresh is None or len(whole) < len(rounds):
        return 0.0  # claims of an earlier protocol
    return terms.fresh.hidden([entry.energy for entry in rounds], whole)


def _gram(terms: BillTerms, claim: Claim, charged: Collection[int]) -> Floats:
    """The inner products (W, W) of a claim's charged rounds, 0 elsewhere."""
    gram = np.zeros((terms.window_rounds, terms.window_rounds))
    places = [(entry.round - 1) % terms.window_rounds for entry in claim.rounds]
    for at, entry in enumerate(claim.rounds):
        gram[places[at], places[:at]] = np.frombuffer(entry.products, "<f8")
        gram[places[:at], places[at]] = gram[places[at], places[:at]]
        gram[places[at], places[at]] = entry.energy
    left_out = [(one.round - 1) % len(gram) for one in claim.rounds if one.round not in charged]
    gram[left_out] = 0.0
    gram[:, left_out] = 0.0
    return gram


def _charged(terms: BillTerms, referee: Claim, claim: Claim) -> set[int]:
    if claim.agent == referee.agent:
        return {entry.round for entry in claim.rounds}
    there = {entry.round for entry in referee.rounds}
    unscheduled = {t for t in there if not terms.takes(t, referee.agent, claim.agent)}
    return unscheduled | set(heard_rounds(referee, claim))


def check_sealed(terms: BillTerms, signed: SignedBill, referee: str) -> Bill:
    """Judge a bill of `referee` without its claims: its signature, run, rule, members and sum.

    Raises:
        MalformedError: it does not decode.
        BillError: it is not the referee's, or no bill of this run.
    """
    bill = _check_by_itself(terms, signed, referee)
    members = {row.member for row in bill.rows}
    if not members <= terms.around(bill.window)[referee]:
        raise BillError("bill-claims", f"members that are no neighbours of {referee}")
    if not len(bill.claims) == len(set(bill.claims)) == len(members) + 1:
        raise BillError("bill-claims", "not one claim of each member and the referee")
    return bill


def _check_by_itself(terms: BillTerms, signed: SignedBill, referee: str) -> Bill:
    bill = signed.bill()
    if bill.referee != referee or not signed.verify(terms.publics[referee]):
        raise BillError("bill-signature", f"not {referee}'s")
    if bill.run != terms.run:
        raise BillError("bill-run", "of another run")
    if bill.rule != terms.payments.text:
        raise BillError("bill-rule", f"{bill.rule}, the run's is {terms.payments.text}")
    if sum(row.transfer for row in bill.rows) != 0:
        raise BillError("bill-sum", "the transfers do not sum to 0")
    return bill


def check_bill(terms: BillTerms, signed: SignedBill, referee: str) -> Bill:
    """Judge a bill of `referee` by itself: signatures, claims, sum and every amount.

    Whether the claims agree with the statements is the business of those who hold them.

    Raises:
        MalformedError: it does not decode.
        BillError: it does not follow from its claims, or is not the referee's.
    """
    bill = _check_by_itself(terms, signed, referee)
    claims = {signed_claim.claim().agent: signed_claim for signed_claim in signed.claims}
    if len(claims) != len(signed.claims) or referee not in claims:
        raise BillError("bill-claims", "an agent's claim is missing or there twice")
    if not claims.keys() <= terms.around(bill.window)[referee] | {referee}:
        raise BillError("bill-claims", f"claims of others than the neighbours of {referee}")
    for agent, signed_claim in claims.items():
        _check_claim(terms, bill, agent, signed_claim)
    try:
        due = make_bill(terms, claims.pop(referee), claims.values(), bill.previous)
    except AmountError as exc:
        raise BillError("bill-amount", str(exc)) from exc
    if due != bill:
        raise BillError("bill-rows", "the claims give other amounts")
    return bill


def _check_claim(terms: BillTerms, bill: Bill, agent: str, signed: SignedClaim) -> None:
    """What can be seen of a claim without its statements."""
    claim = signed.claim()
    if not signed.verify(terms.publics[agent]):
        raise BillError("claim-signature", f"not {agent}'s")
    if (claim.run, claim.window) != (bill.run, bill.window):
        raise BillError("claim", f"{agent}'s is of another run or window")
    for entry in claim.rounds:
        if window_of(entry.round, terms.window_rounds) != claim.window:
            raise BillError("claim", f"{agent}'s has rounds outside its window")
        if len(entry.trace) != 4 * terms.trace_size:
            raise BillError("claim", f"{agent}'s has a trace of a wrong length")
        if not np.isfinite(np.frombuffer(entry.trace, "<f4")).all():
            raise BillError("claim", f"{agent}'s has a trace that is not finite")


Delta = NewType("Delta", int)
"""Micro-credits that lo pays hi."""


def edge_delta(bill_lo: Bill, bill_hi: Bill) -> Delta:
    """What an edge settles from the bills of its two ends.

    Raises:
        AmountError: the net is too large to be money.
    """
    delta = bill_hi.amount(bill_lo.referee) - bill_lo.amount(bill_hi.referee)
    if abs(delta) > AMOUNT_MAX:
        raise AmountError(f"a net of {delta} micro-credits is not an amount")
    return Delta(delta)
