"""Exchanges are counted through the run, and an algorithm that cannot be judged is not declared."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.algorithms.catalogue import MEDIAN, TRACKING
from candor.mechanisms.evidence.phases import (
    MIXED_MODEL,
    PARTS_MAX,
    PHASES_MAX,
    How,
    Part,
    Phase,
    Phases,
)
from tests.nearest import Nearest

BEFORE = Part(0, before=True)
GRADIENT = Phase("gradient", (), direct=True, charged=True)
AVERAGE = Phase("average", (Part(0),))  # of what was stated just before


def of_length(count: int) -> Phases:
    """A charged exchange, and then averages of the one before each."""
    parts = [(Part(number - 1),) for number in range(1, count)]
    model = Part(count - 1, before=True)
    phases = [Phase("charged", (), charged=True), *(Phase("average", p) for p in parts)]
    return Phases((*phases[:-1], replace(phases[-1], parts=(*phases[-1].parts, model))))


@given(st.integers(1, PHASES_MAX), st.integers(1, 10**6), st.data())
def test_a_step_is_one_exchange_and_an_exchange_one_step(
    count: int, t: int, data: st.DataObject
) -> None:
    phases = of_length(count)
    phase = data.draw(st.integers(0, count - 1))
    step = phases.step(t, phase)
    assert phases.at(step) == (t, phase)
    assert phases.at(step + 1) == ((t, phase + 1) if phase + 1 < count else (t + 1, 0))
    assert phases.step(*phases.at(t)) == t


@pytest.mark.parametrize("count", [1, 2, PHASES_MAX])
def test_steps_begin_with_1_and_before_it_is_the_initial_model(count: int) -> None:
    phases = of_length(count)
    assert phases.step(1, 0) == 1
    assert phases.at(0) == (0, phases.model)
    assert phases.model == phases.count - 1 == count - 1


@pytest.mark.parametrize(
    ("phases", "charged", "told", "carried"),
    [
        (MIXED_MODEL, 0, (0, 0, True), [True]),
        (Nearest.phases, 0, (0, 0, True), [True]),
        (TRACKING, 0, (0, 0, True), [True, True]),
        (MEDIAN, 0, (1, 1, False), [False, True]),
        (Phases((GRADIENT, Phase("model", (Part(1, before=True),)))), 0, None, [False, True]),
        (
            Phases((GRADIENT, Phase("model", (Part(1, before=True), Part(0, how=How.OWN))))),
            0,
            None,  # its own gradient: nothing of whom it heard
            [False, True],
        ),
        (
            Phases((GRADIENT, AVERAGE, Phase("model", (Part(2, before=True), Part(1))))),
            0,
            (1, 0, False),
            [False, False, True],
        ),
    ],
)
def test_what_follows_from_the_exchanges(
    phases: Phases, charged: int, told: tuple[int, int, bool] | None, carried: list[bool]
) -> None:
    assert phases.charged == charged
    assert phases.told == told
    assert [phases.carried(phase) for phase in range(phases.count)] == carried


def test_a_source_is_an_earlier_step_of_its_phase() -> None:
    for phases in (MIXED_MODEL, TRACKING, MEDIAN, Nearest.phases):
        for step in range(1, 3 * phases.count + 1):
            t, phase = phases.at(step)
            for part in phases.phases[phase].parts:
                source = phases.source(step, part)
                assert source < step
                assert phases.at(source) == (t - part.before, part.phase)
                assert (source <= 0) == (t == 1 and part.before)


def test_rows_that_follow_from_sketches_have_their_rule() -> None:
    assert Nearest.phases.row_rule(0) == "nearest"
    assert [MEDIAN.row_rule(phase) for phase in (0, 1)] == ["", ""]


def with_part(part: Part) -> tuple[Phase, ...]:
    """Three exchanges, the second of which is also made of a part."""
    model = Phase("model", (Part(2, before=True), Part(1)))
    return GRADIENT, Phase("second", (part,)), model


AGGREGATE = Part(0, how=How.AGGREGATE, rule="median")
FALSE: dict[str, tuple[Phase, ...]] = {
    "none at all": (),
    "one too many": (*of_length(PHASES_MAX).phases, Phase("model", (Part(PHASES_MAX, True),))),
    "nothing that is charged": (replace(MIXED_MODEL.phases[0], charged=False),),
    "two that are charged": tuple(replace(phase, charged=True) for phase in TRACKING.phases),
    "more parts than fit a statement": (
        replace(MIXED_MODEL.phases[0], parts=(BEFORE,) * (PARTS_MAX + 1)),
    ),
    "made of itself": with_part(Part(1)),
    "made of what comes later": with_part(Part(2)),
    "made of what no round has": with_part(Part(3, before=True)),
    "made of a round before that has been mixed since": with_part(BEFORE),
    "its own vector of the round before": with_part(Part(1, before=True, how=How.OWN)),
    "an aggregate without a name": with_part(replace(AGGREGATE, rule="")),
    "two aggregates": (GRADIENT, Phase("model", (Part(1, before=True), AGGREGATE, AGGREGATE))),
    "rows by a rule that nobody knows": with_part(Part(0, rule="nearest")),
    "models that do not come from models": (GRADIENT, Phase("model", (Part(0),))),
    "models that come from this round's": (GRADIENT, Phase("model", (Part(0, before=True),))),
}


@pytest.mark.parametrize("phases", FALSE.values(), ids=FALSE)
def test_exchanges_that_could_not_be_judged_are_not_declared(phases: tuple[Phase, ...]) -> None:
    with pytest.raises(AssertionError):
        Phases(phases)


def test_vectors_of_a_phase_are_mixed_in_one_way() -> None:
    def rule(agent, weights, sketches):
        return dict(weights)

    parts = (Part(1, before=True), Part(0, rule="nearest"), Part(0))
    with pytest.raises(AssertionError):
        Phases((GRADIENT, Phase("model", parts)), {"nearest": rule})
    Phases((GRADIENT, Phase("model", parts[:2])), {"nearest": rule})


@pytest.mark.parametrize(
    "part", [Part(0), Part(1, before=True), Part(0, how=How.OWN), AGGREGATE], ids=str
)
def test_every_other_part_may_be_one(part: Part) -> None:
    assert Phases(with_part(part)).count == 3
