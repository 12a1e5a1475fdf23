"""Why a bill says what it says: what each term of the rule charges a member, and on what grounds.

Nothing is computed a second time in another way: the arrays are those that the bill was made of,
the amounts come out of `Payments.shares`, whose sum is the billed integer, and what is free out of
the rules themselves.
"""

from dataclasses import dataclass

import numpy as np

from candor.mechanisms.payments.band import OfParts, Part
from candor.mechanisms.payments.bills import BillTerms, SignedBill, neighbourhood


@dataclass(frozen=True, slots=True)
class Look:
    """What a rule saw of the member: `value`, free from `low` to `high`, and the `penalty` for
    what is beyond, in units of the term's price."""

    name: str
    value: float
    low: float
    high: float
    penalty: float


@dataclass(frozen=True, slots=True)
class TermCharge:
    """What one term makes of the amount, in micro-credits, below 0 is received.

    `penalty` is the member's own, of which this bill asks one part of `bills`; `shared` is its part
    of what the other half of the members pay; both in units of the price. `looks`: none of a user's
    own rule, nor of a lone member, who is asked for no penalty.
    """

    name: str
    price: float
    amount: int
    penalty: float
    bills: int
    shared: float
    looks: tuple[Look, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a member pays by a bill, `amount` micro-credits: the sum over `terms`.

    `rounds`: those it is charged for.
    """

    referee: str
    member: str
    window: int
    rounds: tuple[int, ...]
    terms: tuple[TermCharge, ...]
    amount: int


def explain(terms: BillTerms, signed: SignedBill, member: str) -> Explanation | None:
    """Why a member pays what it does by a bill that `check_bill` has passed; None where the bill
    leaves it out.

    Raises:
        AmountError: a term by itself gives no amount.
    """
    bill = signed.bill()
    claims = sorted((one.claim() for one in signed.claims), key=lambda claim: claim.agent)
    agents = [claim.agent for claim in claims]
    if member not in agents or member == bill.referee:
        return None
    at, referee = agents.index(member), claims[agents.index(bill.referee)]
    around = neighbourhood(terms, referee, claims)
    amounts = [int(share) for share in terms.payments.shares(around)[:, at]]
    mine, others = sorted(around.halves(), key=lambda half: not half[at])
    seen = around.beside(mine)
    charges = []
    for term, amount in zip(terms.payments.terms, amounts, strict=True):
        charged = term.charged(around)
        handed = not term.rule.edge_local and mine[at]  # whoever takes no part gets nothing
        theirs = (charged / term.bills(around))[others].sum() if handed else 0.0
        asked = term.rule.edge_local or bool(others.any())
        parts = term.rule.parts(seen) if isinstance(term.rule, OfParts) and asked else ()
        of = int(np.broadcast_to(term.bills(around), charged.shape)[at])
        looks = tuple(_look(part, at) for part in parts)
        own, shared = float(charged[at]), float(theirs / max(mine.sum(), 1))
        charges.append(TermCharge(term.name, term.price, amount, own, of, shared, looks))
    first = bill.window * terms.window_rounds + 1
    rounds = tuple(first + int(w) for w in around.mask[at].nonzero()[0])
    return Explanation(bill.referee, member, bill.window, rounds, tuple(charges), sum(amounts))


def _look(part: Part, at: int) -> Look:
    ends = (part.value, part.low, part.high, part.penalty)
    return Look(part.name, *(float(values[at]) for values in ends))
