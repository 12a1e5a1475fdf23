"""Bills for tests: what referees sign from claims that stand still."""

from collections.abc import Mapping
from dataclasses import dataclass

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.payments.bills import BillTerms, SignedBill, edge_delta, make_bill
from candor.topologies.encoding.signatures import SigningKey


@dataclass(frozen=True)
class Settling:
    """What an edge settles: delta, and the bundles of referee lo and referee hi."""

    delta: int
    bundle_lo: bytes
    bundle_hi: bytes


def signed_bill(
    terms: BillTerms, referee: str, claims: Mapping[str, SignedClaim], key: SigningKey
) -> SignedBill:
    """The bill of a referee from claims by agent, its own among them."""
    window = claims[referee].claim().window
    others = [claim for agent, claim in claims.items() if agent != referee]
    bill = make_bill(terms, claims[referee], others, window - 1)
    return SignedBill.sign(bill, [claims[agent] for agent in sorted(claims)], key)


def settling(
    terms: BillTerms,
    lo: str,
    hi: str,
    claims: Mapping[str, SignedClaim],
    keys: Mapping[str, SigningKey],
) -> Settling:
    """What edge lo-hi settles when each referee bills the claims of its own neighbours."""
    bills = []
    for referee in (lo, hi):
        around = terms.neighbours[referee] | {referee}
        held = {agent: claim for agent, claim in claims.items() if agent in around}
        bills.append(signed_bill(terms, referee, held, keys[referee]))
    delta = edge_delta(bills[0].bill(), bills[1].bill())
    return Settling(delta, bills[0].encode(), bills[1].encode())
