"""How long an agent waits for a neighbour: as long as is usual around it, and a bounded share more.

An exchange is *due* once the agent's own update is out and more than half of its neighbourhood is
there: the agent, those that it has heard and those that it still waits for. No neighbour alone sets
that moment, and who is as slow as most is not late. What somebody takes beyond it is drawn from the
*grace* that the agent has for it, which grows by a share of the usual time with every exchange in
which it was there, or not more than a round behind, or went on itself. So whoever is late now and
then is waited for, as is who is always half as slow again as most; whoever is late again and again
costs a share of the time, and is mixed when it is there. And parts of the graph that were cut off
from each other, and are as fast as each other, do not stay rounds apart: who is ahead waits.

    usual      from the end of the exchange before to when this one was due
    longest    the most that grace comes to: so many usual rounds, within bounds
    grace      `longest` at first; + a share of usual with each exchange; - what was waited beyond
    due

Who says that it waits for others itself has `longest` more, which its grace then lacks: it may say
so as often as it likes.

Pure bookkeeping in seconds; who is waited for, and what follows, is the business of
`agent.core.agent`.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient an agent is: the `share` of the usual time by which grace grows, and the bounds
    of `longest`, in usual rounds and in seconds. Who was waited for in vain is not again before its
    grace has grown to `rested_rounds` usual ones."""

    share: float
    rounds_max: int
    longest_s_min: float
    rested_rounds: int


# One neighbour takes a third of the time at most: an agent keeps two thirds of its pace, whoever is
# slow, and who takes up to half as long again as most is always waited for. Who pauses for longer
# than 16 rounds, as to be started again, is not waited for; it comes back. The third try of a lost
# segment comes after 3 s; a busy machine or a slow disk pause a process.
SYNC: Final = Pace(1 / 2, 16, 5.0, 0)
# Who is late sits rounds out, and loses nothing by it: one neighbour takes a ninth of the time at
# most, two slow ones a fifth. A tenth of a second is two looks at the clock. One long wait brings
# two that are as fast as each other, and out of step, into step again; many short ones never do.
ASYNC: Final = Pace(1 / 8, 2, 0.1, 1)
# One long round, as with an evaluation, says nothing; a change of pace is learned in seconds.
USUAL_KEPT: Final = 15


class Patience:
    """What an agent has had to wait for each neighbour, and how long it is ready to.

    `waited_s` is by neighbour the time beyond due in this life, `missed` in how many exchanges the
    agent went on without it.
    """

    def __init__(self, neighbours: Collection[str], deadline_s: float, pace: Pace = SYNC) -> None:
        """`deadline_s`: the longest wait in an exchange, of who does not wait itself."""
        self._pace = pace
        self._deadline_s = deadline_s
        self._grace_s = dict.fromkeys(neighbours, deadline_s)
        self._usual_s: deque[float] = deque(maxlen=USUAL_KEPT)  # of whole rounds
        self._round_s = 0.0  # of the round under way, the exchanges so far
        self._learns = False
        self._resting: set[str] = set()  # who was waited for in vain
        self._began_s: float | None = None
        self._out_s = 0.0
        self._due_s: float | None = None
        self._awaited: frozenset[str] = frozenset()
        self.waited_s = dict.fromkeys(neighbours, 0.0)
        self.missed = dict.fromkeys(neighbours, 0)

    @property
    def longest_s(self) -> float:
        """The longest wait beyond due, as learned from the last rounds."""
        if not self._usual_s:
            return self._deadline_s
        learned = self._pace.rounds_max * median(self._usual_s)
        return min(self._deadline_s, max(self._pace.longest_s_min, learned))

    def begin(self, now_s: float) -> None:
        """The first round begins, which is learned from as soon as it is due."""
        self._began_s, self._learns = now_s, True

    def out(self, now_s: float) -> None:
        """The agent's own update of an exchange is out."""
        self._out_s, self._due_s, self._awaited = now_s, None, frozenset()

    def look(self, awaited: Iterable[str], heard: int, now_s: float) -> None:
        """Who is still waited for, and how many neighbours are there; after each event."""
        left = frozenset(awaited)
        for peer in self._awaited - left:
            self._draw(peer, now_s)
        self._awaited = left
        if self._due_s is None and 2 * (1 + heard) > 1 + heard + len(left):
            self._due_s = now_s
            if self._learns and not self._usual_s and self._began_s is not None:
                self._usual_s.append(now_s - self._began_s)

    def until_s(self, peer: str, *, waits: bool) -> float:
        """Until when a neighbour is waited for; `waits`: it says that it waits itself."""
        longest_s = self.longest_s
        # Where rounds are sat out it does not matter who is the fast one.
        bound_s = longest_s if self._pace.rested_rounds else self._deadline_s
        at_most = self._out_s + bound_s * (1 + waits)
        if self._due_s is None:
            return at_most
        grace_s = 0.0 if peer in self._resting else min(longest_s, self._grace_s[peer])
        more_s = longest_s if waits else 0.0
        return min(at_most, self._due_s + max(0.0, grace_s + more_s))

    def asks_s(self, until_s: float) -> float:
        """When to say that one waits itself, if the first is given up at `until_s`: half way."""
        return (self._out_s + until_s) / 2

    def gave_up(self, peer: str, now_s: float) -> None:
        """An exchange goes on without somebody."""
        self._draw(peer, now_s)
        self._awaited -= {peer}
        self._resting |= {peer} if self._pace.rested_rounds else set()
        self.missed[peer] += 1

    def over(self, keep_pace: Collection[str], now_s: float, *, round_over: bool) -> None:
        """An exchange is over; `keep_pace` are those that were there, or not more than a round
        behind, or went on in it; `round_over` says that it was the last of its round."""
        if self._began_s is not None and self._due_s is not None:
            usual_s = self._due_s - self._began_s
            self._round_s += usual_s
            for peer in keep_pace:
                self._grace_s[peer] += self._pace.share * usual_s
            if round_over:
                self._usual_s.append(self._round_s)
        if round_over:
            self._round_s = 0.0
        longest_s = self.longest_s
        for peer, grace_s in self._grace_s.items():
            self._grace_s[peer] = max(-longest_s, min(longest_s, grace_s))
        if self._usual_s:
            rested_s = self._pace.rested_rounds * median(self._usual_s)
            self._resting = {peer for peer in self._resting if self._grace_s[peer] < rested_s}
        self._began_s, self._due_s = now_s, None

    def _draw(self, peer: str, now_s: float) -> None:
        if self._due_s is not None:
            waited_s = max(0.0, now_s - self._due_s)
            self._grace_s[peer] -= waited_s
            self.waited_s[peer] += waited_s
