"""The book in rounds of several exchanges: what it states is what an honest agent must state."""

from dataclasses import replace

import numpy as np
import pytest

from candor.agent.algorithms.catalogue import MEDIAN, TRACKING
from candor.agent.algorithms.median import median_sgd
from candor.agent.algorithms.tracking import gradient_tracking
from candor.agent.core.settlement.evidence_book import EvidenceBook
from candor.mechanisms.evidence.examiner import Examined, check_claim
from candor.mechanisms.evidence.phases import Phases
from candor.mechanisms.evidence.statements import ROUNDS_KEPT, Attested, EvidenceError, Row
from tests.honest import SKETCH, WINDOW, formed_by, sign
from tests.nearest import Nearest
from tests.phased import PhasedRing, Text, phased_terms

OWN = "a1"
NEIGHBOURS = ("a0", "a2")
ALGORITHMS: dict[str, tuple[Text, Phases]] = {
    "gradient-tracking": (gradient_tracking, TRACKING),
    "median-sgd": (median_sgd, MEDIAN),
    "nearest": (Nearest(), Nearest.phases),
}
EACH = pytest.mark.parametrize("name", ALGORITHMS)
EACH_OF_TWO = pytest.mark.parametrize("name", ["gradient-tracking", "median-sgd"])
MODEL = 1
BOTH = formed_by({"a0": 0.25, OWN: 0.5, "a2": 0.25})


def ring_of(name: str, rounds: int, **more) -> PhasedRing:
    text, phases = ALGORITHMS[name]
    return PhasedRing(text, phased_terms(phases), **more).play(rounds)


def attested(ring: PhasedRing, t: int, phase: int) -> bytes:
    vector = ring.attested.get((t, phase, OWN))
    return b"" if vector is None else ring.examiner.attested(t, vector)


def live(book: EvidenceBook, ring: PhasedRing, t: int, phase: int) -> Examined:
    """An exchange as the core lives it: state one's own, add the neighbours', mix."""
    place, step = (t, phase, OWN), ring.phases.step(t, phase)
    said = ring.signed[place]
    assert book.step_of(said.statement) == step
    assert book.formed(step, attested(ring, t, phase)) == said.statement.formed
    assert book.witnesses(said.statement) == list(ring.witnesses(*place).values())
    shown = book.add_own(said)
    for agent in NEIGHBOURS:
        book.add(ring.signed[t, phase, agent], ring.examine(t, phase, agent))
    book.mixed(step, ring.rows[place], ring.phases.row_rule(phase))
    return shown


def filled(ring: PhasedRing, rounds: int) -> EvidenceBook:
    book = EvidenceBook(OWN, ring.examiner)
    for t in range(1, rounds + 1):
        for phase in range(ring.phases.count):
            live(book, ring, t, phase)
    return book


@EACH
def test_what_an_agent_states_is_how_its_vectors_came_about(name: str) -> None:
    """`live` compares each statement and its witnesses with those that the ring kept by hand."""
    ring = ring_of(name, 7)
    book = EvidenceBook(OWN, ring.examiner)
    for t in range(1, 8):
        for phase in range(ring.phases.count):
            shown, seen = live(book, ring, t, phase), ring.examine(t, phase, OWN)
            assert np.array_equal(shown.injected, seen.injected)
            assert shown.energy == seen.energy


@EACH
@pytest.mark.parametrize("phase", [0, MODEL])
def test_whom_it_did_not_hear_is_in_no_row(name: str, phase: int) -> None:
    ring = ring_of(name, 4, deaf=frozenset({(2, phase % len(ALGORITHMS[name][1].phases), OWN)}))
    filled(ring, 4)


def test_parts_are_of_the_exchanges_of_their_phases() -> None:
    book = filled(ring_of("gradient-tracking", 2), 2)
    own = formed_by({OWN: 1.0})
    assert book.formed(book.phases.step(3, 0)) == (BOTH,)
    assert book.formed(book.phases.step(3, MODEL)) == (BOTH, own)
    book = filled(ring_of("median-sgd", 2), 2)
    assert book.formed(book.phases.step(3, 0)) == ()
    sketch = bytes(8 * SKETCH)
    formed = book.formed(book.phases.step(3, MODEL), sketch)
    assert formed == (BOTH, Attested("median", NEIGHBOURS, sketch))


def test_before_round_1_there_is_the_initial_model_and_nothing_else() -> None:
    book = EvidenceBook(OWN, ring_of("gradient-tracking", 0).examiner)
    own = formed_by({OWN: 1.0})
    assert book.formed(1) == (Row(()),)
    assert book.formed(2) == (own, own)


@EACH
@pytest.mark.parametrize("t", [2, 3])
def test_after_a_re_entry_nothing_but_a_neighbours_model_is_there(name: str, t: int) -> None:
    """Its round was given up before it was mixed, or even stated."""
    ring = ring_of(name, t + 2, reentries={(t, OWN): "a2"})
    phases = ring.phases
    book = filled(ring, t - 1)
    step = phases.step(t, phases.model)
    book.add(ring.signed[t, phases.model, "a2"], ring.examine(t, phases.model, "a2"))
    book.re_entered(step, "a2")
    model = formed_by({"a2": 1.0})
    first = book.formed(step + 1)
    if name == "gradient-tracking":
        assert first == (Row(()),)
        assert book.formed(step + 2) == (model, formed_by({OWN: 1.0}))
    else:
        assert first == ((model,) if name == "nearest" else ())
    for later in (t + 1, t + 2):
        for phase in range(phases.count):
            assert live(book, ring, later, phase).energy == ring.examine(later, phase, OWN).energy


def test_a_re_entry_in_the_middle_of_a_round_forgets_what_was_mixed_in_it() -> None:
    ring = ring_of("gradient-tracking", 3, reentries={(3, OWN): "a0"})
    book = filled(ring, 2)
    book.add_own(ring.signed[3, 0, OWN])
    book.mixed(ring.phases.step(3, 0), {"a0": 0.25, OWN: 0.75})
    book.re_entered(ring.phases.step(3, MODEL), "a0")
    assert book.formed(ring.phases.step(4, 0)) == (Row(()),)
    assert book.formed(ring.phases.step(4, MODEL))[0] == formed_by({"a0": 1.0})


def test_what_a_round_missed_is_not_made_up_from_an_earlier_one() -> None:
    """A row is of its step alone."""
    book = filled(ring_of("gradient-tracking", 2), 2)
    assert book.formed(book.phases.step(4, 0)) == (Row(()),)
    assert book.formed(book.phases.step(4, MODEL))[0] == Row(())


# --- what is told, claimed and kept -------------------------------------------------------------


@EACH_OF_TWO
def test_only_charged_exchanges_are_counted(name: str) -> None:
    ring = ring_of(name, 5)
    book = filled(ring, 5)
    for agent in (OWN, *NEIGHBOURS):
        for window, rounds in ((0, (1, 2, 3)), (1, (4, 5))):
            shown = {t: ring.examine(t, 0, agent).energy for t in rounds}
            assert book.seen(agent, window).energies == shown


def heard(book: EvidenceBook, agent: str = "a2") -> dict[int, set[str]]:
    """What an agent told of whom it heard, by round."""
    windows = [book.seen(agent, window).heard for window in (0, 1)]
    return {t: set(who) for told in windows for t, who in told.items()}


def test_a_tracker_tells_whom_the_one_before_heard_within_a_window() -> None:
    told = heard(filled(ring_of("gradient-tracking", 6), 6))
    assert told == {t: {"a1", "a3"} for t in (1, 2, 4, 5)}


def test_a_median_tells_at_once_whom_it_is_of() -> None:
    told = heard(filled(ring_of("median-sgd", 6), 6))
    assert told == {t: {"a1", "a3"} for t in range(1, 7)}


@EACH_OF_TWO
def test_who_heard_nobody_tells_that(name: str) -> None:
    ring = ring_of(name, 3, deaf=frozenset({(2, 0, "a2"), (1, MODEL, "a2")}))
    told = heard(filled(ring, 3))
    assert told[1] == {"a1", "a3"}  # of a charged exchange, not of models
    assert told[2] == set()


@EACH_OF_TWO
def test_who_has_just_come_back_tells_nothing_of_what_it_lost(name: str) -> None:
    ring = ring_of(name, 3, reentries={(2, "a2"): "a3"})
    told = heard(filled(ring, 3))
    assert told.get(2) == (None if name == "gradient-tracking" else {"a1", "a3"})


@EACH_OF_TWO
def test_a_claim_holds_against_what_a_neighbour_has_seen(name: str) -> None:
    ring = ring_of(name, 6, deaf=frozenset({(4, 0, OWN), (5, MODEL, OWN)}))
    book = filled(ring, 6)
    claim = book.claim(1)
    assert [entry.heard for entry in claim.rounds] == [(), NEIGHBOURS, NEIGHBOURS]
    seen = book.seen(OWN, 1)
    check_claim(claim, ring.terms, seen.energies, seen.traces, seen.heard)
    lie = replace(claim, rounds=(replace(claim.rounds[0], heard=("a0",)), *claim.rounds[1:]))
    with pytest.raises(EvidenceError, match="claim-heard"):
        check_claim(lie, ring.terms, seen.energies, seen.traces, seen.heard)


@EACH_OF_TWO
def test_a_snapshot_holds_what_the_claim_of_the_window_under_way_needs(name: str) -> None:
    ring = ring_of(name, 5, deaf=frozenset({(4, 0, OWN)}))
    book, again = filled(ring, 5), EvidenceBook(OWN, ring.examiner)
    assert again.restore(book.snapshot()) == 1
    assert again.claim(1) == book.claim(1)
    assert [r.round for r in again.claim(1).rounds] == [4, 5]


@EACH_OF_TWO
def test_statements_are_kept_as_many_rounds_as_of_one_exchange(name: str) -> None:
    rounds = 3 * WINDOW
    ring = ring_of(name, rounds)
    book = filled(ring, rounds)
    last = ring.phases.step(rounds, MODEL)
    assert book.steps_kept == 2 * ROUNDS_KEPT
    for agent in (OWN, *NEIGHBOURS):
        held = [step for step in range(30) if agent in book.statements(step)]
        assert held == list(range(last - book.steps_kept, last + 1))  # and that of the last one


@EACH_OF_TWO
def test_two_payloads_of_one_exchange_are_proven_and_of_two_are_none(name: str) -> None:
    ring = ring_of(name, 2)
    book = filled(ring, 2)
    said = {phase: ring.signed[2, phase, "a0"] for phase in (0, MODEL)}
    assert book.contradicted(said.values()) == []
    for signed in said.values():
        other = sign(replace(signed.statement, digest=bytes(32)))
        [proof] = book.contradicted([other])
        assert (proof.agent, proof.kind) == ("a0", "equivocation")
