"""The exchanges of a round: what is stated in each, and from what stated before it was formed.

A round has one exchange or several, its *phases*, numbered from 0 and the same for all agents: they
follow from the name of the algorithm in the cluster file. In each phase an agent states a vector

    y = b - step * u,    b = sum over the phase's parts,    step = lambda_t, or -1 where `direct`

of which everyone can compute b, and so u, from statements alone: u is what the agent *injected*.
One phase of a round is *charged*: its u is claimed and billed. In any other, if it is not *free*,
an agent may only do as its parts say, up to rounding. The last phase states the model itself; a
neighbour's payload of it is what an agent re-enters from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from candor.mechanisms.aggregation.rows import RowRule

PHASES_MAX: Final = 16
PARTS_MAX: Final = 4  # of a phase


class How(StrEnum):
    """How an agent forms a part of what it steps from: a sum by a mixing row, its own vector, or
    an aggregate that no row expresses."""

    MIXED = "mixed"
    OWN = "own"
    AGGREGATE = "aggregate"


@dataclass(frozen=True, slots=True)
class Part:
    """A summand of b: made of what was stated in `phase` of this round, an earlier phase, or with
    `before` of the round before. `stepped`: times -lambda_t.

    `rule` names an aggregate, or what derives a mixing row from sketches; a row without a rule is
    of the cluster file.
    """

    phase: int
    before: bool = False
    how: How = How.MIXED
    rule: str = ""
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """One exchange of a round; `direct` where what is injected is added as it is; `free` where an
    agent may inject what it wants and nobody bills it, as a step that its optimiser makes of what
    was exchanged before."""

    name: str
    parts: tuple[Part, ...]
    direct: bool = False
    charged: bool = False
    free: bool = False


@dataclass(frozen=True)
class Phases:
    """All exchanges of a round, in order; `rows` are the rules that derive mixing rows, by name.

    An exchange of the run has a number, its *step*, from 1: phase after phase, round after round.
    """

    phases: tuple[Phase, ...]
    rows: Mapping[str, RowRule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Asserts what an algorithm's author must keep to."""
        assert 1 <= len(self.phases) <= PHASES_MAX
        assert sum(phase.charged for phase in self.phases) == 1, "one phase of a round is charged"
        for number, phase in enumerate(self.phases):
            assert len(phase.parts) <= PARTS_MAX
            attested = [part.rule for part in phase.parts if part.how is How.AGGREGATE]
            assert len(attested) <= 1, "a phase has one aggregate"
            assert all(attested), "an aggregate has a rule"
            for part in phase.parts:
                # Of the round before what this one has not stated anew: rows are kept by phase.
                earlier = range(number, self.count) if part.before else range(number)
                assert part.phase in earlier, "a part is of the last exchange of its phase"
                assert not part.before or part.how is not How.OWN, "it has no vector to reach for"
        mixed = {
            (p.phase, p.rule) for each in self.phases for p in each.parts if p.how is How.MIXED
        }
        assert len(mixed) == len(dict(mixed)), "the vectors of a phase are mixed in one way"
        assert {rule for _, rule in mixed} <= {"", *self.rows}, "rows follow from a known rule"
        parts = [part for each in self.phases for part in each.parts]
        assert any(p.before and p.phase == self.model for p in parts), "models come from models"

    @property
    def count(self) -> int:
        """How many exchanges a round has."""
        return len(self.phases)

    @property
    def model(self) -> int:
        """The phase that states models: the last one."""
        return len(self.phases) - 1

    @cached_property
    def charged(self) -> int:
        """The phase whose injected updates are claimed and billed."""
        return next(i for i, phase in enumerate(self.phases) if phase.charged)

    @cached_property
    def told(self) -> tuple[int, int, bool] | None:
        """Where statements tell whom an agent heard in the charged phase: the phase, the place of
        the part, and whether it speaks of the round before; None where none does."""
        found = (
            (number, place, part.before)
            for number, phase in enumerate(self.phases)
            for place, part in enumerate(phase.parts)
            if part.phase == self.charged and part.how is not How.OWN
        )
        return next(found, None)

    @cached_property
    def chained(self) -> bool:
        """Whether charged vectors are stepped from those of the exchange before alone, mixed,
        or there is nothing: then whoever goes on in an exchange, whatever it has lost before, holds
        what the rows of its next one name."""
        parts = self.phases[self.charged].parts
        return not parts or (self.count == 1 and all(p.how is How.MIXED for p in parts))

    def row_rule(self, phase: int) -> str:
        """The rule that derives the rows with which vectors of a phase are mixed, or ``""``."""
        parts = (p for each in self.phases for p in each.parts)
        return next((p.rule for p in parts if p.phase == phase and p.how is How.MIXED), "")

    def carried(self, phase: int) -> bool:
        """Whether vectors of a phase are parts of the next round's: the last of a window are then
        sketched under the next one's signs, too."""
        return any(p.before and p.phase == phase for each in self.phases for p in each.parts)

    def step(self, round_number: int, phase: int) -> int:
        """The step of a phase of a round from 1."""
        return (round_number - 1) * len(self.phases) + phase + 1

    def at(self, step: int) -> tuple[int, int]:
        """Round and phase of a step; of step 0, before all others, round 0 and the model."""
        round_before, phase = divmod(step - 1, len(self.phases))
        return round_before + 1, phase

    def source(self, step: int, part: Part) -> int:
        """The step whose vectors a part of a step's is made of; 0 or below for none."""
        round_number, _ = self.at(step)
        return self.step(round_number - part.before, part.phase)


MIXED_MODEL: Final = Phases((Phase("model", (Part(0, before=True),), charged=True),))
"""One exchange a round: step from the mixed model, then mix (decentralized SGD)."""
