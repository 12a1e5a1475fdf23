"""Why an agent was charged: the windows that it has settled, from the bills in its database.

Bills are judged before they are explained, by the code that judges them when they arrive. Not the
audit: what a neighbour's database says is not compared.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from candor.agent.core.terms import bill_terms
from candor.agent.runs.channels import opened
from candor.agent.runs.data_dirs import cluster_beside, owner
from candor.mechanisms.ledger.bodies import SETTLEMENT, Body, LedgerViolation
from candor.mechanisms.ledger.records import check_evidence
from candor.mechanisms.payments.bills import BillError, BillTerms, SignedBill, check_bill
from candor.mechanisms.payments.credits import AmountError, format_credits
from candor.mechanisms.payments.explanations import Explanation, Look, TermCharge, explain
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.specs import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settled:
    """A window of an edge as `agent` settled it with `peer`: it `paid` so many micro-credits, below
    0 it received.

    `theirs`: why the agent pays what it does by the peer's bill; `own`: why the peer pays what it
    does by the agent's; None where the bill leaves it out.
    """

    agent: str
    peer: str
    window: int
    paid: int
    theirs: Explanation | None
    own: Explanation | None


def settled_windows(data_dir: Path) -> list[Settled]:
    """What an agent has settled with its neighbours, by window and neighbour.

    Raises:
        ConfigurationError: no database or cluster file is there, or what it holds is not what was
            signed.
    """
    terms = bill_terms(cluster_beside(data_dir))
    found = []
    with opened(data_dir) as store:
        channels = [(channel, store.records(channel.channel_id)) for channel in store.channels()]
    ends = [{channel.lo, channel.hi} for channel, _ in channels]
    agent = owner(data_dir)
    if not all(agent in pair for pair in ends):
        raise ConfigurationError(f"{data_dir}: not the ledgers of {agent}")
    for channel, records in channels:
        peer = channel.hi if channel.lo == agent else channel.lo
        for seq, record in enumerate(records):
            try:
                body = Body.decode(record.body)
                if body.kind == SETTLEMENT:
                    bills = check_evidence(channel, body, record.evidence)
                    assert bills is not None  # of a settlement
                    found.append(_settled(terms, agent, peer, body, dict(zip(
                        (channel.lo, channel.hi), bills, strict=True))))  # fmt: skip
            except (MalformedError, LedgerViolation, BillError, AmountError) as exc:
                raise ConfigurationError(
                    f"{data_dir}: record {seq} of {channel.lo}-{channel.hi} cannot be explained: "
                    f"{exc}"
                ) from exc
    return sorted(found, key=lambda one: (one.window, one.peer))


def _settled(
    terms: BillTerms, agent: str, peer: str, body: Body, bills: dict[str, SignedBill]
) -> Settled:
    for referee, bill in bills.items():
        check_bill(terms, bill, referee)
    theirs, own = explain(terms, bills[peer], agent), explain(terms, bills[agent], peer)
    paid = body.delta if agent < peer else -body.delta
    due = (theirs.amount if theirs else 0) - (own.amount if own else 0)
    if due != paid:
        raise BillError("delta", f"{body.delta} is on record, and its bills give {due}")
    return Settled(agent, peer, body.window, paid, theirs, own)


def charged_by_term(settled: Sequence[Settled]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """By neighbour and term: what the agent pays by the neighbour's bills, what it pays (below 0:
    is paid) by its own, and the sum; micro-credits, of terms that came to anything."""
    sums: dict[tuple[str, str], list[int]] = {}
    for one in settled:
        for place, sign, bill in ((0, 1, one.theirs), (1, -1, one.own)):
            for name, amount in _amounts(bill) if bill is not None else ():
                sums.setdefault((one.peer, name), [0, 0])[place] += sign * amount
    return {key: (a, b, a + b) for key, (a, b) in sorted(sums.items()) if a or b}


def _amounts(bill: Explanation) -> list[tuple[str, int]]:
    return [(term.name, term.amount) for term in bill.terms]


def explained(settled: Sequence[Settled]) -> list[dict[str, Any]]:
    """The objects of `candor ledger explain --json`; None for what is not finite."""
    return [_clean(asdict(one)) for one in settled]


def _clean(value: Any) -> Any:
    match value:
        case dict():
            return {key: _clean(one) for key, one in value.items()}
        case list() | tuple():
            return [_clean(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value


def told(settled: Sequence[Settled], asked: int | None = None) -> Iterator[str]:
    """Windows in words; what asks for nothing is only named, but of the one `asked` for."""
    whole = asked is not None
    if not settled:
        yield f"window {asked}: nothing is settled" if whole else "nothing is settled yet"
    for window, edges in groupby(settled, key=lambda one: one.window):
        yield f"window {window}"
        for edge in edges:
            bills = [bill for bill in (edge.theirs, edge.own) if bill is not None]
            free = not whole and not any(_asks(term) for bill in bills for term in bill.terms)
            paid = _paid(edge.agent, edge.peer, edge.paid)
            yield f"  {paid}{': all is free' if free and not edge.paid else ''}"
            for bill in () if free and not edge.paid else bills:
                yield from (f"    {line}" for line in _bill(bill, whole))


def _paid(payer: str, receiver: str, amount: int) -> str:
    if amount == 0:
        return f"{payer} and {receiver} paid each other nothing"
    if amount < 0:
        payer, receiver = receiver, payer
    return f"{payer} paid {receiver} {format_credits(abs(amount))}"


def _asks(term: TermCharge) -> bool:
    return bool(term.amount or term.penalty)


def _bill(bill: Explanation, whole: bool) -> Iterator[str]:
    does = "receives" if bill.amount < 0 else "pays"
    amount, rounds = format_credits(abs(bill.amount)), _ranges(bill.rounds) or "no round"
    yield f"by the bill of {bill.referee}, {bill.member} {does} {amount} for {rounds}"
    for term in bill.terms:
        if whole or _asks(term):
            yield from (f"  {line}" for line in _term(term))
    free = [term.name for term in bill.terms if not whole and not _asks(term)]
    if free:
        yield f"  {'free':<12} {', '.join(free)}"


def _term(term: TermCharge) -> Iterator[str]:
    grounds = _short(term.penalty) + (f" / {term.bills}" if term.bills > 1 else "")
    grounds += f" less {_short(term.shared)} of the others, at" if term.shared else " at"
    grounds += f" {term.price:g}"
    yield f"{term.name:<12} {format_credits(term.amount, signed=True)} = {grounds}"
    yield from (f"  {_look(look)}" for look in term.looks)


def _look(look: Look) -> str:
    free = f"free up to {_short(look.high)}"
    if look.low > 0:
        free = f"free from {_short(look.low)} to {_short(look.high)}"
    elif look.high == 0:
        free = "none is free"
    elif math.isinf(look.high):
        free = "free, with nobody to compare with"
    beyond = f": charged {_short(look.penalty)}" if look.penalty else ""
    return f"{look.name} {_short(look.value)}, {free}{beyond}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _ranges(rounds: Sequence[int]) -> str:
    """Rounds in ascending order: `rounds 1-8, 12`."""
    runs: list[list[int]] = []
    for t in rounds:
        if runs and runs[-1][-1] == t - 1:
            runs[-1][-1] = t
        else:
            runs.append([t, t])
    return "rounds " * bool(runs) + ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs)
