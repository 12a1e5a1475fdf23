"""Bonds: what an agent that is proven to have reported falsely owes its neighbours.

Nobody signs it: the proof is the claim. An agent owes its bond once, however often it is proven;
its neighbours share it, but for those that are proven guilty themselves. Whose neighbours all are
owes nothing. Pure arithmetic in micro-credits.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bond:
    """What a guilty `agent` owes, by creditor in order of id, in micro-credits."""

    agent: str
    parts: Mapping[str, int]

    @property
    def whole(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def bonds(
    bond: int, guilty: Collection[str], neighbours: Mapping[str, Iterable[str]]
) -> tuple[Bond, ...]:
    """What the guilty ones owe, in order of id: equal parts, and what is left over by one
    micro-credit each to the first."""
    owed = []
    for agent in sorted(guilty):
        creditors = sorted(set(neighbours[agent]) - set(guilty))
        if creditors and bond:
            each, over = divmod(bond, len(creditors))
            parts = {peer: each + (place < over) for place, peer in enumerate(creditors)}
            owed.append(Bond(agent, parts))
    return tuple(owed)


def with_bonds(nets: Mapping[str, int], owed: Iterable[Bond]) -> dict[str, int]:
    """What each agent of `nets` is still to receive, bonds included."""
    whole = dict(nets)
    for bond in owed:
        for agent, part in ((bond.agent, -bond.whole), *bond.parts.items()):
            if agent in whole:
                whole[agent] += part
    return whole
