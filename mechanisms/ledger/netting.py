"""Multilateral netting: who pays whom once, so that every edge of a run is paid off.

A report for the operators, not a protocol step: what agents owe along many edges is paid by at most
n - 1 transfers, also between agents that share no edge. The least number of transfers is NP-hard to
find; the greedy rule here is short, deterministic and exact.
"""

from collections.abc import Mapping


def net_transfers(positions: Mapping[str, int]) -> list[tuple[str, str, int]]:
    """The transfers (from, to, micro-credits) that bring every agent's position to 0.

    The largest debtor pays the largest creditor, the lower id first where amounts are equal, until
    nobody owes. Each transfer settles at least one agent for good, and the last settles two.

    Args:
        positions: by agent, the credits it received net; below 0 it owes.

    Raises:
        ValueError: the positions do not sum to 0, so somebody's credits come from nowhere.
    """
    if sum(positions.values()) != 0:
        raise ValueError(f"the positions sum to {sum(positions.values())}, not to 0")
    debts = {agent: -net for agent, net in positions.items() if net < 0}
    credits = {agent: net for agent, net in positions.items() if net > 0}
    transfers: list[tuple[str, str, int]] = []
    while debts:
        debtor, creditor = _largest(debts), _largest(credits)
        amount = min(debts[debtor], credits[creditor])
        transfers.append((debtor, creditor, amount))
        _take(debts, debtor, amount)
        _take(credits, creditor, amount)
    return transfers


def _largest(amounts: Mapping[str, int]) -> str:
    return min(amounts, key=lambda agent: (-amounts[agent], agent))


def _take(amounts: dict[str, int], agent: str, amount: int) -> None:
    amounts[agent] -= amount
    if not amounts[agent]:
        del amounts[agent]
