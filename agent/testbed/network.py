"""The network of a testbed under a fault plan: the faults that there are, done to its proxy."""

from collections.abc import Callable, Collection
from typing import Final, TypeAlias

from candor.agent.testbed.faults import LINK_ACTIONS, Fault
from candor.agent.testbed.links import conditions
from candor.agent.testbed.proxy import Proxy

NETWORK_ACTIONS: Final = (*LINK_ACTIONS, "heal")
_SAID: Final = {
    "corrupt": "garbled",
    "loss": "losing {:.1%} of the segments",
    "delay": "{:g} s farther away",
    "bandwidth": "limited to {:g} bytes a second",
}
Named: TypeAlias = Callable[[Collection[str]], str]


class Network:
    """Does to a proxy what faults of connections say; each lasts until its end, or until it is
    healed."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._present: list[tuple[Fault, Fault]] = []  # as it began, and what is left of it

    def perform(self, fault: Fault, named: Named) -> str:
        """One event, or the end of one; answers with what was done."""
        if fault.of is not None:
            self._present = [one for one in self._present if one[0] is not fault.of]
        elif fault.action == "heal":
            left = ((began, now.without(fault.agents)) for began, now in self._present)
            self._present = [(began, now) for began, now in left if now is not None]
        else:
            self._present.append((fault, fault))
        before = self.proxy.conditions
        after = conditions(before, (now for _, now in self._present))
        self.proxy.impose(after)
        changed = {frozenset(pair) for pair in after if before[pair] != after[pair]}
        return f"{_said(fault, named)}, {len(changed)} edge{'s' * (len(changed) != 1)}"


def _said(fault: Fault, named: Named) -> str:
    if fault.of is not None:
        return f"{named(fault.agents)}: {fault.of.action} over"
    if fault.action == "partition":
        return f"{' | '.join(map(named, fault.groups))} cut"
    said = _SAID.get(fault.action, "healed").format(fault.amount)
    return f"{named(fault.agents)} {said}"
