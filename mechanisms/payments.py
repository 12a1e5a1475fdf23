"""Bills and settlements: what the two ends of an edge owe each other for a window.

An edge-local rule needs nothing beyond one edge: the bill of referee j for neighbour i depends on
i's claim alone, and the edge settles the net of its two bills. With `norm` that is C (E_i - E_j).
Each bill is rounded once, so a delta is exactly the difference of two signed integers that anyone
can recompute. This module signs, sends and stores nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mechanisms.claims import Claim, SignedClaim, heard_rounds
from mechanisms.credits import AMOUNT_MAX, AmountError, Credits, total_energy
from mechanisms.rules import Payments as Payments
from mechanisms.rules import Rule as Rule
from mechanisms.rules import parse_rule as parse_rule
from topologies.canonical import MalformedError, pack, unpack

BILL_VERSION: Final = 1
WINDOW_LIMIT: Final = 2**53
BILL_BYTES_MAX: Final = 64 * 1024
"""About 900 members with ids of full length: far above any sensible neighbourhood."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What a referee charges its neighbours for one window.

    `amounts`: (member, micro-credits it pays), sorted by member; `claims`: digests of the claims
    it was computed from, sorted by agent.
    """

    run: bytes
    window: int
    referee: str
    rule: str
    amounts: tuple[tuple[str, int], ...]
    claims: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The canonical body: version, then the fields in declared order."""
        return pack(
            [
                BILL_VERSION,
                self.run,
                self.window,
                self.referee,
                self.rule,
                [list(entry) for entry in self.amounts],
                list(self.claims),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> "Bill":
        """Parse a canonical body.

        Raises:
            MalformedError: not a bill of this version within bounds.
        """
        match unpack(data, bytes_max=BILL_BYTES_MAX):
            case [_, bytes(run), int(window), str(referee), str(rule), list(rows), list(digests)]:
                amounts = tuple(_amount(row) for row in rows)
                claims = tuple(_digest(digest) for digest in digests)
                bill = cls(run, window, referee, rule, amounts, claims)
                # Encoding again settles the version; a bool would pass for an integer.
                in_bounds = len(run) == 32 and 0 <= window < WINDOW_LIMIT
                if in_bounds and not isinstance(window, bool) and bill.encode() == data:
                    return bill
        raise MalformedError("not a bill of this version")


def _amount(entry: object) -> tuple[str, int]:
    match entry:
        case [str(member), int(amount)] if abs(amount) <= AMOUNT_MAX:
            if not isinstance(amount, bool):
                return member, amount
    raise MalformedError("bill: an amount is not [member, micro-credits]")


def _digest(value: object) -> bytes:
    if isinstance(value, bytes) and len(value) == 32:
        return value
    raise MalformedError("bill: a claim digest is not 32 bytes")


@dataclass(frozen=True, slots=True)
class EdgeSettlement:
    """Both bills of an edge for one window, canonical, and their net.

    `bill_lo` is lo's bill for hi, `bill_hi` hi's bill for lo; `delta`: micro-credits lo pays hi.
    """

    bill_lo: bytes
    bill_hi: bytes
    delta: int


def edge_bills(payments: Payments, claim_lo: SignedClaim, claim_hi: SignedClaim) -> EdgeSettlement:
    """Settle an edge from the claims of its two ends: each pays for what the other mixed of it.

    Deterministic: whoever holds the two claims gets the same bytes.

    Raises:
        MalformedError: a claim does not decode, or the two are not of one run and window with
            agents in ascending order.
        AmountError: the claimed numbers give no payable amount.
    """
    lo, hi = claim_lo.claim(), claim_hi.claim()
    if (lo.run, lo.window) != (hi.run, hi.window):
        raise MalformedError("the two claims are not of one run and window")
    if not lo.agent < hi.agent:
        raise MalformedError(f"claims of {lo.agent!r} and {hi.agent!r}: not in ascending order")
    digests = (claim_lo.digest, claim_hi.digest)

    def bill(referee: Claim, member: Claim) -> tuple[bytes, int]:
        amount = _charge(payments, member, frozenset(heard_rounds(referee, member)))
        entry = (member.agent, amount)
        made = Bill(lo.run, lo.window, referee.agent, payments.text, (entry,), digests)
        return made.encode(), amount

    bill_lo, hi_pays = bill(lo, hi)
    bill_hi, lo_pays = bill(hi, lo)
    delta = lo_pays - hi_pays
    if abs(delta) > AMOUNT_MAX:
        raise AmountError(f"a net of {delta} micro-credits is not an amount")
    return EdgeSettlement(bill_lo, bill_hi, delta)


def _charge(payments: Payments, claim: Claim, rounds: frozenset[int]) -> Credits:
    """What an edge-local rule charges one member over `rounds`."""
    energy = total_energy([entry.energy for entry in claim.rounds if entry.round in rounds])
    direction = np.frombuffer(claim.direction, "<f8")
    amounts = payments.amounts(np.array([energy]), direction[np.newaxis, :])
    return Credits(int(amounts[0]))


def window_energies(round_energies: NDArray[np.float64], window_rounds: int) -> NDArray[np.float64]:
    """Sum energies (rounds, agents) over windows to (windows, agents), exactly as claims are.

    The last window may be short.
    """
    rounds, agents = round_energies.shape
    starts = range(0, rounds, window_rounds)
    out = np.empty((len(starts), agents))
    for row, start in enumerate(starts):
        block = round_energies[start : start + window_rounds]
        out[row] = [total_energy(block[:, agent].tolist()) for agent in range(agents)]
    return out


def net_balances(
    payments: Payments,
    energies: NDArray[np.float64],
    edges: Sequence[tuple[int, int]],
    directions: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """What every agent received, net, when all ends heard each other in every round.

    Rounds once per agent, window and edge, as `edge_bills` does, so a simulated run and a real one
    end with the same integers.

    Args:
        energies: (windows, agents) float64, summed as `window_energies` does.
        edges: pairs of agent indices.
        directions: (windows, agents, k) float64; required when a term uses directions.

    Returns:
        (agents,) int64 micro-credits; they sum to exactly 0.
    """
    if directions is None:
        if payments.uses_directions:
            raise ValueError(f"rule {payments.text!r} needs directions")
        directions = np.zeros((*energies.shape, 0))
    balances = np.zeros(energies.shape[-1], dtype=np.int64)
    if not payments.settles or not edges:
        return balances
    # An edge-local charge does not depend on who the referee is: a members axis of one serves all.
    amounts = payments.amounts(energies[..., np.newaxis], directions[..., np.newaxis, :])
    paid = amounts[..., 0].sum(axis=0)  # (agents,) to each neighbour over all windows
    for a, b in edges:
        balances[a] += paid[b] - paid[a]
        balances[b] += paid[a] - paid[b]
    return balances
