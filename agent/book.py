"""The evidence book: the statements and injected updates that this agent holds, bounded by age.

It answers three questions: which statements do I forward as witnesses, what did my neighbours
inject in a window, and what do I claim for myself. Pure bookkeeping over `mechanisms.evidence`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mechanisms.claims import Claim, ClaimedRound
from mechanisms.evidence import Examined, Examiner, energy
from mechanisms.sketch import window_of
from mechanisms.statements import Floats, SignedStatement
from topologies.canonical import MalformedError, Value, pack, unpack

# Round t is judged with the statements of t - 1, and a late neighbour may still be one behind.
ROUNDS_KEPT: Final = 4
# Claims of a window arrive during the next one.
WINDOWS_KEPT: Final = 3
SEEN_BYTES_MAX: Final = 2**26  # our own file: thousands of neighbours


@dataclass(slots=True)
class Seen:
    """What one agent injected in one window, as seen here: energies by round, the sum of S u."""

    energies: dict[int, float] = field(default_factory=dict)
    direction: Floats | None = None

    def add(self, round_number: int, examined: Examined) -> None:
        """Count a round once."""
        if round_number in self.energies:
            return
        self.energies[round_number] = examined.energy
        if self.direction is None:
            self.direction = np.zeros_like(examined.injected)
        self.direction += examined.injected

    def fields(self, agent: str) -> Value:
        """[agent, [[round, energy], …], direction]."""
        energies: list[Value] = [[number, value] for number, value in self.energies.items()]
        direction = b"" if self.direction is None else self.direction.astype("<f8").tobytes()
        return [agent, energies, direction]


def _seen_from(fields: Value) -> tuple[str, Seen]:
    match fields:
        case [str(agent), [*energies], bytes(direction)]:
            seen = Seen(direction=np.frombuffer(direction, "<f8").copy() if direction else None)
            for entry in energies:
                match entry:
                    case [int(number), float(value)]:
                        seen.energies[number] = value
            return agent, seen
    raise MalformedError("not what an agent saw in a window")


class EvidenceBook:
    """What agent `agent` has verified, by round and by window."""

    def __init__(self, agent: str, examiner: Examiner) -> None:
        self.agent = agent
        self.examiner = examiner
        self.row: Mapping[str, float] = {agent: 1.0}  # what formed the present x
        self._statements: dict[int, dict[str, SignedStatement]] = {}
        self._seen: dict[int, dict[str, Seen]] = {}
        self._heard: dict[int, dict[int, tuple[str, ...]]] = {}

    def add(self, signed: SignedStatement, examined: Examined) -> None:
        """Remember a verified statement, a neighbour's or one's own."""
        statement = signed.statement
        self._statements.setdefault(statement.round, {})[statement.agent] = signed
        window = self._window(statement.round)
        seen = self._seen.setdefault(window, {}).setdefault(statement.agent, Seen())
        seen.add(statement.round, examined)
        for old in [r for r in self._statements if r <= statement.round - ROUNDS_KEPT]:
            if statement.agent == self.agent:
                del self._statements[old]
        for old in [w for w in self._seen if w <= window - WINDOWS_KEPT]:
            if statement.agent == self.agent:
                del self._seen[old]
                self._heard.pop(old, None)

    def add_own(self, signed: SignedStatement) -> Examined:
        """Remember one's own statement of this round; answers what it shows that was injected."""
        statement = signed.statement
        before = self.statements(statement.round - 1)
        sources = {agent: before[agent].statement for agent in self.row if statement.round > 1}
        vector = self.examiner.injected(statement, sources)
        examined = Examined(vector, float(energy(vector)))
        self.add(signed, examined)
        return examined

    def mixed(self, round_number: int, row: Mapping[str, float]) -> None:
        """The row that formed the next x out of this round's payloads."""
        self.row = dict(row)
        heard = tuple(sorted(agent for agent in row if agent != self.agent))
        self._heard.setdefault(self._window(round_number), {})[round_number] = heard

    def statements(self, round_number: int) -> Mapping[str, SignedStatement]:
        """The verified statements of a round, by agent."""
        return self._statements.get(round_number, {})

    def witnesses(self, round_number: int) -> list[SignedStatement]:
        """The statements that go with this agent's update of a round: those its row names."""
        if round_number == 1:
            return []
        before = self.statements(round_number - 1)
        return [before[agent] for agent in sorted(self.row)]

    def seen(self, agent: str, window: int) -> Seen:
        """What an agent injected in a window, as far as it was seen here."""
        return self._seen.get(window, {}).get(agent, Seen())

    def claim(self, window: int) -> Claim:
        """This agent's own claim for a window: the rounds it stated and mixed."""
        seen = self.seen(self.agent, window)
        heard = self._heard.get(window, {})
        rounds = tuple(
            ClaimedRound(number, seen.energies[number], heard.get(number, ()))
            for number in sorted(seen.energies)
        )
        direction = seen.direction
        if direction is None:
            direction = np.zeros(self.examiner.terms.sketch_bytes // 8)
        return Claim(
            self.examiner.terms.run,
            window,
            self.agent,
            rounds,
            direction.astype("<f8").tobytes(),
        )

    def encode_seen(self, window: int) -> bytes:
        """What was seen in a window, as bytes to be stored with this agent's claim for it."""
        return pack([seen.fields(agent) for agent, seen in self._window_seen(window)])

    def restore_seen(self, window: int, data: bytes) -> None:
        """Take back what an earlier life stored, so that it can still check claims.

        Raises:
            MalformedError: our own file is damaged.
        """
        kept = self._seen.setdefault(window, {})
        match unpack(data, bytes_max=SEEN_BYTES_MAX):
            case [*entries]:
                kept.update(map(_seen_from, entries))

    def _window_seen(self, window: int) -> Iterable[tuple[str, Seen]]:
        return self._seen.get(window, {}).items()

    def _window(self, round_number: int) -> int:
        return window_of(round_number, self.examiner.terms.window_rounds)
