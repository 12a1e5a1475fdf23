"""The book keeps what evidence and claims need, and no more, whatever a neighbour sends."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.core.neighbour import READY_KEPT
from candor.agent.core.settlement.evidence_book import WINDOWS_KEPT, EvidenceBook
from candor.mechanisms.evidence.claims import ClaimedRound
from candor.mechanisms.evidence.examiner import Examined, check_claim
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import ROUNDS_KEPT, EvidenceError, Row
from candor.topologies.encoding.canonical import MalformedError, pack
from tests.honest import SKETCH, WINDOW, Ring, sign

OWN = "a1"
NEIGHBOURS = ("a0", "a2")


def read(book: EvidenceBook, ring: Ring, t: int, heard: tuple[str, ...] = NEIGHBOURS) -> Examined:
    """A round as the core lives it: state one's own, add the neighbours', mix."""
    shown = book.add_own(ring.signed[t][OWN])
    for agent in heard:
        book.add(ring.signed[t][agent], ring.examine(t, agent))
    book.mixed(t, ring.rows[t + 1][OWN])
    return shown


def filled(ring: Ring, rounds: int) -> EvidenceBook:
    ring.play(rounds)
    book = EvidenceBook(OWN, ring.examiner)
    for t in range(1, rounds + 1):
        read(book, ring, t)
    return book


def invented(ring: Ring, agent: str, t: int) -> tuple[object, Examined]:
    """A well-signed statement of a round that nobody has reached."""
    statement = replace(ring.signed[1][agent].statement, round=t)
    return sign(statement), Examined(np.ones(SKETCH), float(SKETCH), np.ones(SKETCH, np.float32))


def held_rounds(book: EvidenceBook, agent: str, rounds: range) -> list[int]:
    return [t for t in rounds if agent in book.statements(t)]


def held_windows(book: EvidenceBook, agent: str, windows: range) -> list[int]:
    return [w for w in windows if book.seen(agent, w).energies]


def test_ones_own_statement_shows_what_a_neighbour_sees_in_it() -> None:
    ring = Ring().play(7)
    book = EvidenceBook(OWN, ring.examiner)
    for t in range(1, 8):
        shown = read(book, ring, t)
        seen = ring.examine(t, OWN)
        assert np.array_equal(shown.injected, seen.injected)
        assert shown.energy == seen.energy


def test_the_witnesses_of_an_update_are_those_its_row_names() -> None:
    ring = Ring()
    book = EvidenceBook(OWN, ring.play(3).examiner)
    assert book.witnesses(ring.signed[1][OWN].statement) == []
    for t in (1, 2, 3):
        read(book, ring, t)
        after = replace(ring.signed[t][OWN].statement, round=t + 1, formed=book.formed(t + 1))
        assert book.witnesses(after) == [ring.signed[t][k] for k in ("a0", OWN, "a2")]


def test_after_a_re_entry_the_one_witness_is_the_neighbour_whose_model_was_taken() -> None:
    ring = Ring(reentries={(3, OWN): "a2"}).play(4)
    book = filled(ring, 2)
    book.add(ring.signed[3]["a2"], ring.examine(3, "a2"))
    book.re_entered(3, "a2")
    assert book.formed(4) == ring.signed[4][OWN].statement.formed == (Row((("a2", 1.0),)),)
    assert book.witnesses(ring.signed[4][OWN].statement) == [ring.signed[3]["a2"]]
    assert book.add_own(ring.signed[4][OWN]).energy == ring.examine(4, OWN).energy


def test_a_claim_holds_against_what_a_neighbour_has_seen() -> None:
    ring = Ring(scales={OWN: 2.0}).play(7)
    book = filled(ring, 7)
    for window, rounds in ((0, (1, 2, 3)), (1, (4, 5, 6)), (2, (7,))):
        claim = book.claim(window)
        shown = {t: ring.examine(t, OWN) for t in rounds}
        assert [replace(entry, products=b"") for entry in claim.rounds] == [
            ClaimedRound(t, e.energy, NEIGHBOURS, e.trace.tobytes()) for t, e in shown.items()
        ]
        assert list(rounds) == [entry.round for entry in claim.rounds]
        traces = {t: e.trace for t, e in shown.items()}
        pairs = combinations(shown.items(), 2)
        products = {(s, t): float(one.injected @ two.injected) for (s, one), (t, two) in pairs}
        energies = {t: e.energy for t, e in shown.items()}
        check_claim(claim, ring.terms, energies, traces, None, products)


def test_a_neighbours_claim_is_checked_against_what_was_seen_here() -> None:
    ring = Ring().play(3)
    book, theirs = filled(ring, 3), EvidenceBook("a2", ring.examiner)
    for t in (1, 2, 3):
        theirs.add_own(ring.signed[t]["a2"])
        for agent in ("a1", "a3"):
            theirs.add(ring.signed[t][agent], ring.examine(t, agent))
        theirs.mixed(t, ring.rows[t + 1]["a2"])
    seen, claim = book.seen("a2", 0), theirs.claim(0)
    assert sorted(seen.products) == [(1, 2), (1, 3), (2, 3)]
    check_claim(claim, ring.terms, seen.energies, seen.traces, None, seen.products)
    lie = replace(claim, rounds=(replace(claim.rounds[0], energy=0.0), *claim.rounds[1:]))
    with pytest.raises(EvidenceError, match="claim-energy"):
        check_claim(lie, ring.terms, seen.energies, seen.traces)
    last = replace(claim.rounds[2], products=bytes(16))
    lie = replace(claim, rounds=(*claim.rounds[:2], last))
    with pytest.raises(EvidenceError, match="claim-products: rounds 1 and 3"):
        check_claim(lie, ring.terms, seen.energies, seen.traces, None, seen.products)


def test_a_round_without_neighbours_is_claimed_with_nobody_heard() -> None:
    ring = Ring(deaf={(2, OWN)}).play(3)
    book = EvidenceBook(OWN, ring.examiner)
    for t in (1, 2, 3):
        read(book, ring, t)
    assert [r.heard for r in book.claim(0).rounds] == [NEIGHBOURS, (), NEIGHBOURS]


def test_an_empty_window_is_claimed_as_nothing() -> None:
    claim = EvidenceBook(OWN, Ring().examiner).claim(5)
    assert (claim.window, claim.rounds) == (5, ())


def test_a_round_counts_once_and_its_first_statement_stays() -> None:
    """A second one would be mixed and never measured."""
    ring = Ring().play(2)
    book = EvidenceBook(OWN, ring.examiner)
    first, shown = ring.signed[2]["a0"], ring.examine(2, "a0")
    book.add(first, shown)
    second, _ = invented(ring, "a0", 2)
    book.add(second, Examined(np.full(SKETCH, 9.0), 81.0 * SKETCH, np.full(SKETCH, 9, np.float32)))
    assert book.statements(2) == {"a0": first}
    assert book.seen("a0", 0).energies == {2: shown.energy}
    assert np.array_equal(book.seen("a0", 0).traces[2], shown.trace)


def test_what_is_seen_is_not_in_the_senders_memory() -> None:
    ring = Ring().play(2)
    book = EvidenceBook(OWN, ring.examiner)
    shown = ring.examine(1, "a0")
    book.add(ring.signed[1]["a0"], shown)
    before = shown.injected.copy()
    book.add(ring.signed[2]["a0"], ring.examine(2, "a0"))
    assert np.array_equal(shown.injected, before)


# --- bounds -------------------------------------------------------------------------------------


def test_old_rounds_and_windows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("candor.agent.core.settlement.evidence_book.WINDOWS_KEPT", 3)
    rounds = 6 * WINDOW
    book = filled(Ring(), rounds)
    for agent in (OWN, *NEIGHBOURS):
        kept = held_rounds(book, agent, range(rounds + 2))
        assert kept[0] >= rounds - ROUNDS_KEPT
        assert kept[-1] == rounds
        assert held_windows(book, agent, range(9)) == [3, 4, 5]
    assert book.claim(0).rounds == ()
    assert all(r.heard == NEIGHBOURS for r in book.claim(5).rounds)


def test_a_neighbour_that_runs_ahead_cannot_fill_the_memory() -> None:
    ring = Ring()
    book = filled(ring, 2)
    for t in range(3, 500):
        book.add(*invented(ring, "a0", t))
    held = held_rounds(book, "a0", range(501))
    assert held == [1, 2, *range(500 - ROUNDS_KEPT, 500)]
    windows = held_windows(book, "a0", range(200))
    assert windows == [0, *range(window_of(499, WINDOW) + 1 - WINDOWS_KEPT, 167)]


def test_what_was_mixed_stays_until_it_was_stated_whoever_runs_ahead() -> None:
    """The statements behind the present model are needed for the next update's evidence."""
    ring = Ring()
    book = filled(ring, 3)
    for agent in NEIGHBOURS:
        for t in range(4, 40):
            book.add(*invented(ring, agent, t))
    ring.play(4)
    said = ring.signed[4][OWN].statement
    assert book.formed(4) == said.formed
    assert book.witnesses(said) == [ring.signed[3][k] for k in ("a0", OWN, "a2")]
    assert book.add_own(ring.signed[4][OWN]).energy == ring.examine(4, OWN).energy


def test_the_model_that_is_taken_at_a_re_entry_keeps_its_statement() -> None:
    ring = Ring()
    book = filled(ring, 2)
    for t in range(10, 13):
        book.add(*invented(ring, "a0", t))
    book.mixed(12, {"a0": 1.0})
    for t in range(13, 60):
        book.add(*invented(ring, "a0", t))
    after = replace(ring.signed[1][OWN].statement, round=13, formed=book.formed(13))
    assert [w.statement.round for w in book.witnesses(after)] == [12]


@given(st.lists(st.integers(3, 60), max_size=40))
def test_every_update_that_is_ready_has_its_statement(rounds: list[int]) -> None:
    """A neighbour keeps the latest few payloads; the book must keep at least those."""
    ring = Ring()
    book = filled(ring, 2)
    for t in rounds:
        book.add(*invented(ring, "a0", t))
    latest = sorted(set(rounds))[-READY_KEPT:]
    assert set(latest) <= set(held_rounds(book, "a0", range(61)))
    assert READY_KEPT < ROUNDS_KEPT


# --- the store ----------------------------------------------------------------------------------


def test_what_was_seen_survives_a_restart() -> None:
    ring = Ring()
    book = filled(ring, 6)
    again = EvidenceBook(OWN, ring.examiner)
    for window in (0, 1):
        again.restore_seen(window, book.encode_seen(window))
        for agent in (OWN, *NEIGHBOURS):
            before, after = book.seen(agent, window), again.seen(agent, window)
            assert before.energies == after.energies
            assert before.traces.keys() == after.traces.keys()
            for t, trace in before.traces.items():
                assert np.array_equal(trace, after.traces[t])
    # And it is added to, not a frozen view of the file.
    ring.play(7)
    again.add(ring.signed[7]["a0"], ring.examine(7, "a0"))
    assert held_windows(again, "a0", range(9)) == [0, 1, 2]


def test_a_snapshot_holds_all_that_the_claim_of_the_window_under_way_needs() -> None:
    ring = Ring(deaf={(5, OWN)})
    book = filled(ring, 5)
    again = EvidenceBook(OWN, ring.examiner)
    assert again.restore(book.snapshot()) == 1
    assert again.claim(1) == book.claim(1)
    assert [r.round for r in again.claim(1).rounds] == [4, 5]
    assert again.seen("a0", 1).energies == book.seen("a0", 1).energies


def test_a_snapshot_of_a_fresh_book_is_of_the_first_window() -> None:
    book = EvidenceBook(OWN, Ring().examiner)
    assert book.restore(book.snapshot()) == 0
    assert book.claim(0).rounds == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack([]),
        pack([1, pack([])]),
        pack([1, b"", []]),
        pack([1.0, pack([]), []]),
        pack([1, pack([]), b"heard"]),
        pack([1, pack([]), [[1]]]),
        pack([1, pack([]), [[1, "a0"]]]),
        pack([1, pack([]), [["1", ["a0"]]]]),
    ],
)
def test_a_damaged_snapshot_is_told(data: bytes) -> None:
    with pytest.raises(MalformedError):
        EvidenceBook(OWN, Ring().examiner).restore(data)


def test_nothing_seen_is_stored_as_nothing() -> None:
    book = EvidenceBook(OWN, Ring().examiner)
    book.restore_seen(3, book.encode_seen(3))
    assert book.seen("a0", 3).energies == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack(None),
        pack("text"),
        pack([None]),
        pack([["a0", [], b"x"]]),
        pack([["a0", [], b"", b""]]),
        pack([[b"a0", [], b""]]),
        pack([["a0", "12", b""]]),
        pack([["a0", [[1]], b""]]),
        pack([["a0", [[1, 2]], b""]]),
        pack([["a0", [[1, 2.0]], b""], ["a2"]]),
    ],
)
def test_a_damaged_store_is_told_and_changes_nothing(data: bytes) -> None:
    book = EvidenceBook(OWN, Ring().examiner)
    with pytest.raises(MalformedError):
        book.restore_seen(3, data)
    assert book.seen("a0", 3).energies == {}
