"""Recalls: an agent that has lost what an earlier life has signed asks its neighbours for it.

They keep its statements of windows that it has not claimed, and its claims and bills of those that
are not settled; each is signed by the agent itself, so that nobody can put words into its mouth.
Until all have answered, or its patience is over, it states, claims and bills nothing.
Pure bookkeeping over messages; what becomes of what is returned is others' business.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from candor.network.messages import Returned, What
from candor.topologies.encoding.canonical import sha256

# The first answer nearly always comes whole; what is lost on the way is asked for again.
ASK_S: Final = 1.0
# How often somebody is answered: a window of statements may have some MB.
ANSWER_S: Final = 0.5
# Things that one neighbour returns: windows of statements, of which its bytes are bounded, too.
THINGS_MAX: Final = 2**16


@dataclass(slots=True)
class _Asked:
    """What one neighbour has returned: how many things it has, None before it has said so, and the
    digests of those that have come."""

    due: int | None = None
    came: set[bytes] = field(default_factory=set)
    ask_s: float = 0.0
    answered_s: float = float("-inf")

    @property
    def whole(self) -> bool:
        return self.due is not None and len(self.came) >= self.due


class Recalls:
    """Who is asked, and has answered; `open` while this agent is to ask."""

    def __init__(self, peers: Iterable[str]) -> None:
        self.open = False
        self._asked = {peer: _Asked() for peer in peers}

    def asks(self, peer: str, now_s: float) -> bool:
        """Whether a neighbour is to be asked now; then it is."""
        asked = self._asked[peer]
        if not self.open or asked.whole or now_s < asked.ask_s:
            return False
        asked.ask_s = now_s + ASK_S
        return True

    def took(self, peer: str, returned: Returned) -> bool:
        """Note what a neighbour has returned; answers whether that is news."""
        asked, digest = self._asked[peer], sha256(returned.data)
        if not self.open or digest in asked.came or len(asked.came) >= THINGS_MAX:
            return False
        asked.due = returned.count
        if returned.what is What.NOTHING:
            return False
        asked.came.add(digest)
        return True

    def answered(self, peers: Iterable[str]) -> bool:
        """Whether all of these have returned all that they have."""
        return all(self._asked[peer].whole for peer in peers)

    def answers(self, peer: str, now_s: float) -> bool:
        """Whether a neighbour that asks is to be answered now, or has just been."""
        asked = self._asked[peer]
        if now_s < asked.answered_s + ANSWER_S:
            return False
        asked.answered_s = now_s
        return True
