"""Rounds of several exchanges: one shows what was injected, and in the others nothing may be."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candor.agent.algorithms.catalogue import MEDIAN, TRACKING
from candor.agent.algorithms.median import median_sgd
from candor.agent.algorithms.tracking import gradient_tracking
from candor.mechanisms.evidence.phases import Phases
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import (
    Attested,
    EvidenceError,
    Formed,
    Row,
    SignedStatement,
    commitment,
)
from candor.network.codecs import CODECS, FLOAT16
from tests.honest import DIM, IDS, SKETCH, WINDOW, Vector, formed_by, report, sign
from tests.nearest import Nearest
from tests.phased import PhasedRing, Text, phased_terms

ROUNDS = 7  # two windows of three, and the first round of a third
WHOLE = 64  # a sketch that is the vector itself


@dataclass(frozen=True)
class Algorithm:
    """A text, its exchanges, and what an agent injects in a round after one that went before."""

    text: Text
    phases: Phases
    injects: Callable[[str, int, int], Vector]


def difference(agent: str, t: int, before: int) -> Vector:
    """Of gradients: what a tracker is stepped by."""
    return report(agent, t) - (report(agent, before) if before else np.float32(0))


ALGORITHMS = {
    "gradient-tracking": Algorithm(gradient_tracking, TRACKING, difference),
    "median-sgd": Algorithm(median_sgd, MEDIAN, lambda agent, t, _: report(agent, t)),
    "nearest": Algorithm(Nearest(), Nearest.phases, lambda agent, t, _: report(agent, t)),
}
TWO_PHASES = {name: ALGORITHMS[name] for name in ("gradient-tracking", "median-sgd")}
EACH = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
EACH_OF_TWO = pytest.mark.parametrize("algorithm", TWO_PHASES.values(), ids=TWO_PHASES)
SIZES = pytest.mark.parametrize("sketch_size", [SKETCH, WHOLE])


def refused(code: str) -> object:
    return pytest.raises(EvidenceError, match=f"^{code}(:|$)")


def ring_of(algorithm: Algorithm, rounds: int, sketch_size: int = SKETCH, **more) -> PhasedRing:
    terms = phased_terms(algorithm.phases, sketch_size=sketch_size)
    return PhasedRing(algorithm.text, terms, **more).play(rounds)


TRACKED = ring_of(ALGORITHMS["gradient-tracking"], 4)
MEDIANS = ring_of(ALGORITHMS["median-sgd"], 4)
DERIVED = ring_of(ALGORITHMS["nearest"], 4)


# --- what is shown ------------------------------------------------------------------------------


@EACH
@SIZES
def test_the_charged_exchange_shows_the_report_and_no_other_shows_anything(
    algorithm: Algorithm, sketch_size: int
) -> None:
    """The ring's numbers are dyadic, so that nothing is rounded."""
    ring = ring_of(algorithm, ROUNDS, sketch_size)
    for t, phase, agent in ring.signed:
        shown = ring.examine(t, phase, agent)
        sketch = ring.examiner.sketch(window_of(t, WINDOW))
        if phase == ring.phases.charged:
            assert np.array_equal(shown.injected, sketch(algorithm.injects(agent, t, t - 1)))
            assert shown.energy > 0
            assert shown.allowed == np.inf
        else:
            assert shown.energy == 0
            assert 0 < shown.allowed < 1


@EACH
def test_a_notice_shows_what_its_update_shows(algorithm: Algorithm) -> None:
    ring = ring_of(algorithm, ROUNDS)
    for place, signed in ring.signed.items():
        notice = ring.examiner.examine(signed, None, ring.witnesses(*place), {})
        assert np.array_equal(notice.injected, ring.examine(*place).injected)


@EACH
@SIZES
def test_who_heard_nobody_is_measured_all_the_same(algorithm: Algorithm, sketch_size: int) -> None:
    deaf = frozenset({(2, 0, "a1"), (3, algorithm.phases.model, "a1")})
    ring = ring_of(algorithm, 5, sketch_size, deaf=deaf)
    for t in range(1, 6):
        shown = ring.examine(t, ring.phases.charged, "a1")
        sketch = ring.examiner.sketch(window_of(t, WINDOW))
        assert np.array_equal(shown.injected, sketch(algorithm.injects("a1", t, t - 1)))
        assert ring.examine(t, ring.phases.model, "a1").energy <= shown.energy


@EACH
@pytest.mark.parametrize("t", [2, 3])
def test_who_comes_back_brings_its_gradient_in_anew(algorithm: Algorithm, t: int) -> None:
    """It has a neighbour's model and nothing else: its tracker, too, starts from nothing."""
    ring = ring_of(algorithm, t + 2, reentries={(t, "a1"): "a2"})
    for later, before in ((t + 1, 0), (t + 2, t + 1)):
        shown = ring.examine(later, ring.phases.charged, "a1")
        sketch = ring.examiner.sketch(window_of(later, WINDOW))
        assert np.array_equal(shown.injected, sketch(algorithm.injects("a1", later, before)))
        model = ring.examine(later, ring.phases.model, "a1")
        assert model.energy <= model.allowed


@SIZES
def test_what_is_added_to_a_tracker_is_measured(sketch_size: int) -> None:
    ring = ring_of(ALGORITHMS["gradient-tracking"], 4, sketch_size)
    shift = np.zeros(DIM, np.float32)
    shift[5] = 4.0
    payload = ring.payloads[4, 0, "a0"] + shift
    shown = ring.examine(4, 0, "a0", signed=ring.state(4, 0, "a0", payload), payload=payload)
    honest = ring.examiner.sketch(window_of(4, WINDOW))
    assert np.array_equal(shown.injected, honest(difference("a0", 4, 3) + shift))


# --- what may not be injected -------------------------------------------------------------------


@EACH_OF_TWO
@SIZES
@pytest.mark.parametrize("t", [1, 2, 4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_tampered_model_is_refused_where_nothing_is_charged(
    algorithm: Algorithm, sketch_size: int, t: int, scale: float
) -> None:
    ring = ring_of(algorithm, t, sketch_size)
    place = (t, ring.phases.model, "a0")
    noise = np.random.default_rng(3).standard_normal(DIM).astype(np.float32)
    length = np.linalg.norm(ring.payloads[place]) / np.linalg.norm(noise)
    payload = ring.payloads[place] + np.float32(scale * length) * noise
    signed = ring.state(*place, payload)
    with refused("not-as-formed"):
        ring.examine(*place, signed=signed, payload=payload)
    # Nor does it help to send no payload.
    with refused("not-as-formed"):
        ring.examiner.examine(signed, None, ring.witnesses(*place), {})


@EACH_OF_TWO
def test_another_step_along_what_was_stated_is_refused(algorithm: Algorithm) -> None:
    """Twice as far along the tracker, or along the median."""
    ring = ring_of(algorithm, 4)
    place = (4, ring.phases.model, "a0")
    row = ring.signed[place].statement.formed[0]
    assert isinstance(row, Row)
    base = sum(np.float32(w) * ring.payloads[3, 1, k] for k, w in row.weights)
    payload = base + 2 * (ring.payloads[place] - base)
    with refused("not-as-formed"):
        ring.examine(*place, signed=ring.state(*place, payload), payload=payload)


def test_an_attested_aggregate_is_what_the_model_is_held_against() -> None:
    """Whoever attests another median must have stepped along that one."""
    ring = MEDIANS
    said = ring.signed[4, 1, "a1"].statement
    attested = said.formed[1]
    assert isinstance(attested, Attested)
    other = (np.frombuffer(attested.sketch, "<f8") + 0.5).tobytes()
    with refused("not-as-formed"):
        ring.examine(
            4, 1, "a1", signed=with_formed(ring, said.formed[0], replace(attested, sketch=other))
        )


@EACH_OF_TWO
@pytest.mark.parametrize("part", [0, 1])
def test_what_is_not_finite_is_refused_without_a_warning(algorithm: Algorithm, part: int) -> None:
    """A peer may state any sketch where it sends no payload."""
    ring = ring_of(algorithm, 4)
    said = ring.signed[4, 1, "a1"].statement
    for value, code in ((np.nan, "injected-not-finite"), (1e200, "injected-not-finite")):
        if part and isinstance(said.formed[1], Attested):
            attested = replace(said.formed[1], sketch=np.full(SKETCH, value).tobytes())
            signed = with_formed(ring, said.formed[0], attested)
        else:
            signed = sign(replace(said, sketch=np.full(SKETCH, value).tobytes()))
        with refused(code):
            ring.examiner.examine(signed, None, ring.witnesses(4, 1, "a1"), {})


@EACH_OF_TWO
@pytest.mark.parametrize(
    ("step", "length"), [(1e-3, 4e153), (1e-200, 1e153), (1e-200, 1.0), (0.0, 1e153), (0.0, 1.0)]
)
def test_a_step_that_vanishes_is_refused_without_an_error(
    algorithm: Algorithm, step: float, length: float
) -> None:
    """What rounding explains may be beyond all numbers then, as may what a peer states."""
    terms = phased_terms(
        algorithm.phases, codec=FLOAT16, step_size=lambda t: 0.5 if t < 2 else step
    )
    ring = PhasedRing(algorithm.text, terms, FLOAT16).play(2)
    said = replace(ring.signed[2, 1, "a1"].statement, sketch=np.full(SKETCH, length).tobytes())
    with refused("injected-not-finite"):
        ring.examiner.examine(sign(said), None, ring.witnesses(2, 1, "a1"), {})


# --- what honest agents do ----------------------------------------------------------------------


@EACH
@SIZES
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    codec=st.sampled_from(sorted(CODECS)),
    gradient=st.floats(-9, 3),
    model=st.floats(-9, 3),
    step=st.sampled_from([0.01, 0.7, 4.0]),
    deaf=st.sets(st.tuples(st.integers(1, 4), st.integers(0, 1), st.sampled_from(IDS)), max_size=3),
    reentries=st.dictionaries(st.tuples(st.integers(1, 3), st.just("a1")), st.just("a2")),
)
def test_an_honest_agent_is_never_refused(
    algorithm: Algorithm,
    sketch_size: int,
    seed: int,
    codec: str,
    gradient: float,
    model: float,
    step: float,
    deaf: set,
    reentries: dict,
) -> None:
    """Of any float32 values, from what a half rounds to nothing to what it holds."""
    generator = np.random.default_rng(seed)

    def drawn(power: float) -> Vector:
        return (10.0**power * generator.standard_normal(DIM)).astype(np.float32)

    gradients = {(agent, t): drawn(gradient) for agent in IDS for t in range(1, 5)}
    terms = phased_terms(
        algorithm.phases,
        codec=CODECS[codec],
        sketch_size=sketch_size,
        initial=drawn(model),
        step_size=lambda t: step / t**0.5,
    )
    ring = PhasedRing(
        algorithm.text,
        terms,
        CODECS[codec],
        reports=lambda agent, t: gradients[agent, t],
        deaf=frozenset(deaf),
        reentries=reentries,
    ).play(4)
    for t, phase, agent in ring.signed:
        shown = ring.examine(t, phase, agent)
        assert shown.energy <= shown.allowed


# --- statements that are false by themselves ----------------------------------------------------


def with_formed(ring: PhasedRing, *formed: Formed, t: int = 4, phase: int = 1) -> SignedStatement:
    """a1's statement with other parts, and what it then commits to."""
    said = replace(ring.signed[t, phase, "a1"].statement, formed=formed)
    bodies = (
        ring.signed[t - part.before, part.phase, agent].body
        for part, how in zip(ring.phases.phases[phase].parts, formed, strict=True)
        if isinstance(how, Row) and t > part.before
        for agent, _ in how.weights
    )
    return sign(replace(said, sources=commitment(bodies)))


OWN = formed_by({"a1": 1.0})
MIXED = formed_by({"a0": 0.25, "a1": 0.5, "a2": 0.25})
NOTHING = Row(())
MEDIAN_OF = Attested("median", ("a0", "a2"), bytes(8 * SKETCH))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"codec": "float16"}, "statement-codec"),
        ({"codec": "top-k"}, "statement-codec"),
        ({"phase": 2}, "statement-phase"),
        ({"phase": 15}, "statement-phase"),
        ({"formed": ()}, "statement-parts"),
        ({"formed": (MIXED,)}, "statement-parts"),
        ({"formed": (MIXED, OWN, OWN)}, "statement-parts"),
        ({"phase": 0}, "statement-parts"),
        ({"step_size": -1.0}, "step-size"),
    ],
    ids=str,
)
def test_what_is_not_of_this_run_is_refused(changes: dict[str, object], code: str) -> None:
    signed = sign(replace(TRACKED.signed[4, 1, "a1"].statement, **changes))
    with refused(code):
        TRACKED.examiner.examine_header(signed, "a1")


def test_a_direct_exchange_has_a_step_of_its_own() -> None:
    signed = sign(replace(TRACKED.signed[4, 0, "a1"].statement, step_size=0.25))
    with refused("step-size"):
        TRACKED.examiner.examine_header(signed, "a1")


FALSE_PARTS: dict[str, tuple[PhasedRing, int, int, tuple[Formed, ...]]] = {
    "a model of nothing": (TRACKED, 4, 1, (NOTHING, OWN)),
    "a model of nothing before round 1": (TRACKED, 1, 1, (NOTHING, OWN)),
    "a model mixed before round 1": (TRACKED, 1, 1, (MIXED, OWN)),
    "its own vector: nothing": (TRACKED, 4, 1, (MIXED, NOTHING)),
    "its own vector: another's": (TRACKED, 4, 1, (MIXED, formed_by({"a0": 1.0}))),
    "its own vector: half of it": (TRACKED, 4, 1, (MIXED, formed_by({"a1": 0.5}))),
    "its own vector: mixed": (TRACKED, 4, 1, (MIXED, MIXED)),
    "its own vector: by a rule": (TRACKED, 4, 1, (MIXED, replace(OWN, rule="nearest"))),
    "its own vector: attested": (TRACKED, 4, 1, (MIXED, MEDIAN_OF)),
    "a row that is attested": (TRACKED, 4, 1, (MEDIAN_OF, OWN)),
    "a row by a rule that nobody has": (TRACKED, 4, 1, (replace(MIXED, rule="nearest"), OWN)),
    "a tracker of the wrong weights": (TRACKED, 4, 0, (formed_by({"a0": 0.5, "a1": 0.5}),)),
    "a neighbour's tracker": (TRACKED, 4, 0, (formed_by({"a2": 1.0}),)),
    "a tracker that was there before round 1": (TRACKED, 1, 0, (OWN,)),
    "nothing, by a rule": (TRACKED, 4, 0, (replace(NOTHING, rule="nearest"),)),
    "a neighbour's model, by a rule": (
        TRACKED,
        4,
        1,
        (Row((("a2", 1.0),), "nearest"), OWN),
    ),
    "an aggregate that is a row": (MEDIANS, 4, 1, (MIXED, MIXED)),
    "an aggregate of nothing": (MEDIANS, 4, 1, (MIXED, NOTHING)),
    "an aggregate by another rule": (MEDIANS, 4, 1, (MIXED, replace(MEDIAN_OF, rule="mean"))),
    "an aggregate of a stranger": (MEDIANS, 4, 1, (MIXED, replace(MEDIAN_OF, heard=("a0", "a3")))),
    "an aggregate of itself, twice": (
        MEDIANS,
        4,
        1,
        (MIXED, replace(MEDIAN_OF, heard=("a0", "a1", "a2"))),
    ),
    "a derived row as one of the cluster file": (DERIVED, 4, 0, (MIXED,)),
    "a derived row by another rule": (DERIVED, 4, 0, (replace(MIXED, rule="farthest"),)),
    "a derived row of a stranger": (
        DERIVED,
        4,
        0,
        (Row((("a0", 0.0), ("a1", 0.5), ("a3", 0.5)), "nearest"),),
    ),
    "a derived row without itself": (DERIVED, 4, 0, (Row((("a0", 1.0),), "nearest"),)),
    "a derived row of nothing": (DERIVED, 4, 0, (Row((), "nearest"),)),
    "a derived row before round 1": (DERIVED, 1, 0, (Row((("a1", 1.0),), "nearest"),)),
}


@pytest.mark.parametrize(("ring", "t", "phase", "formed"), FALSE_PARTS.values(), ids=FALSE_PARTS)
def test_a_part_that_was_formed_otherwise_is_refused_at_its_header(
    ring: PhasedRing, t: int, phase: int, formed: tuple[Formed, ...]
) -> None:
    with refused("mixing-row"):
        ring.examiner.examine_header(with_formed(ring, *formed, t=t, phase=phase), "a1")


@pytest.mark.parametrize(
    ("ring", "phase", "formed"),
    [
        (TRACKED, 0, (NOTHING,)),  # as after a re-entry
        (TRACKED, 1, (formed_by({"a2": 1.0}), OWN)),
        (TRACKED, 1, (formed_by({"a0": 0.25, "a1": 0.75}), OWN)),
        (MEDIANS, 1, (MIXED, replace(MEDIAN_OF, heard=()))),
        (MEDIANS, 1, (formed_by({"a0": 1.0}), MEDIAN_OF)),
        (DERIVED, 0, (formed_by({"a2": 1.0}),)),
    ],
    ids=["fresh", "re-entry", "one heard", "nobody heard", "taken", "derived, taken"],
)
def test_whom_an_honest_agent_may_not_have_heard_is_no_lie(
    ring: PhasedRing, phase: int, formed: tuple[Formed, ...]
) -> None:
    ring.examiner.examine_header(with_formed(ring, *formed, phase=phase), "a1")


def test_a_tracker_thrown_away_counts_as_injected() -> None:
    """An empty row is no way to change a tracker for nothing."""
    shown = TRACKED.examiner.examine(with_formed(TRACKED, NOTHING, phase=0), None, {}, {})
    whole = TRACKED.examiner.sketch(window_of(4, WINDOW))(TRACKED.payloads[4, 0, "a1"])
    assert np.array_equal(shown.injected, whole)


# --- rows that follow from sketches -------------------------------------------------------------


def derived_row(t: int = 4) -> dict[str, float]:
    row = DERIVED.signed[t, 0, "a1"].statement.formed[0]
    assert isinstance(row, Row)
    assert row.rule == "nearest"
    return dict(row.weights)


@pytest.mark.parametrize("towards", [0.0, 1.0])
@pytest.mark.parametrize("agent", ["a0", "a1", "a2"])
def test_a_derived_row_is_what_its_rule_gives_to_the_last_bit(agent: str, towards: float) -> None:
    row = derived_row()
    near = row | {agent: float(np.nextafter(row[agent], towards))}
    if near == row:
        near = row | {agent: float(np.nextafter(0.0, 1.0))}  # a weight of 0 has one way to go
    signed = with_formed(DERIVED, Row(tuple(near.items()), "nearest"), phase=0)
    DERIVED.examiner.examine_header(signed, "a1")
    with refused("mixing-row"):
        DERIVED.examine(4, 0, "a1", signed=signed)


def test_a_derived_row_follows_from_the_sketches_that_were_forwarded() -> None:
    """Whoever shows others than it mixed shows another row."""
    row, far = derived_row(), max(("a0", "a2"), key=derived_row().__getitem__)
    assert row[far] == 0.5
    moved = DERIVED.payloads[3, 0, far] + np.float32(100)
    witnesses = DERIVED.witnesses(4, 0, "a1") | {(3, 0, far): DERIVED.state(3, 0, far, moved)}
    sources = commitment(witnesses[3, 0, agent].body for agent in row)
    signed = sign(replace(DERIVED.signed[4, 0, "a1"].statement, sources=sources))
    with refused("mixing-row"):
        DERIVED.examine(4, 0, "a1", signed=signed, witnesses=witnesses)


def test_a_derived_row_of_fewer_is_the_row_of_those() -> None:
    ring = ring_of(ALGORITHMS["nearest"], 4, deaf=frozenset({(3, 0, "a1")}))
    assert ring.signed[4, 0, "a1"].statement.formed == (Row((("a1", 1.0),), "nearest"),)
    assert ring.examine(4, 0, "a1").energy > 0


# --- witnesses of several phases ----------------------------------------------------------------


def test_all_that_the_rows_name_goes_along_in_their_order() -> None:
    named = list(TRACKED.witnesses(4, 1, "a1"))
    assert named == [(3, 1, "a0"), (3, 1, "a1"), (3, 1, "a2"), (4, 0, "a1")]
    for gone in named:
        kept = {k: s for k, s in TRACKED.witnesses(4, 1, "a1").items() if k != gone}
        with refused(f"witness-missing: {gone[2]}"):
            TRACKED.examine(4, 1, "a1", witnesses=kept)


@pytest.mark.parametrize("place", [(3, 1, "a0"), (4, 0, "a1")])
def test_a_statement_of_another_phase_stands_for_nothing(place: tuple[int, int, str]) -> None:
    t, phase, agent = place
    witnesses = TRACKED.witnesses(4, 1, "a1") | {place: TRACKED.signed[t, 1 - phase, agent]}
    sources = commitment(witness.body for witness in witnesses.values())
    signed = sign(replace(TRACKED.signed[4, 1, "a1"].statement, sources=sources))
    with refused("witness-round"):
        TRACKED.examine(4, 1, "a1", signed=signed, witnesses=witnesses)


def test_its_own_tracker_stated_twice_hides_no_step() -> None:
    """A model may be stepped along the tracker that the neighbours have, and along no other."""
    ring = ring_of(ALGORITHMS["gradient-tracking"], 4)
    shift = np.full(DIM, 2.0, np.float32)
    other = ring.state(4, 0, "a1", ring.payloads[4, 0, "a1"] + shift)
    payload = ring.payloads[4, 1, "a1"] - np.float32(0.25) * shift
    witnesses = ring.witnesses(4, 1, "a1") | {(4, 0, "a1"): other}
    sources = commitment(witness.body for witness in witnesses.values())
    signed = sign(replace(ring.state(4, 1, "a1", payload).statement, sources=sources))
    known = {(4, 0, "a1"): ring.signed[4, 0, "a1"]}
    ring.examiner.examine(signed, payload, witnesses, {})  # to whom it told nothing else
    with refused("equivocation"):
        ring.examiner.examine(signed, payload, witnesses, known)


@EACH_OF_TWO
def test_only_what_the_next_round_starts_from_is_sketched_twice(algorithm: Algorithm) -> None:
    ring = ring_of(algorithm, ROUNDS)
    twice = {(t, p) for (t, p, _), said in ring.signed.items() if said.statement.next_sketch}
    carried = [phase for phase in range(2) if ring.phases.carried(phase)]
    assert twice == {(t, phase) for t in (3, 6) for phase in carried}


@pytest.mark.parametrize(("phase", "length"), [(0, 8 * SKETCH), (1, 0)])
def test_a_next_sketch_is_there_where_it_is_needed_and_only_there(phase: int, length: int) -> None:
    """Nobody starts from the gradients of the round before."""
    ring = ring_of(ALGORITHMS["median-sgd"], 3)
    said = replace(ring.signed[3, phase, "a1"].statement, next_sketch=bytes(length))
    with refused("payload-sketch"):
        ring.examine(3, phase, "a1", signed=sign(said))
