"""Fresh sketches: as the page has them, unbiased wherever something lies, checked by who holds."""

import math
import re
import struct
from dataclasses import replace
from pathlib import Path

import blake3
import msgpack
import numpy as np
import pytest

from candor.mechanisms.evidence.claims import Claim, ClaimedRound
from candor.mechanisms.evidence.examiner import check_claim
from candor.mechanisms.evidence.fresh import (
    LENGTH,
    VALUES,
    Fresh,
    FreshSketch,
    length_of,
    values_of,
    whole_energy,
)
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed
from candor.mechanisms.evidence.statements import EvidenceError, Statement, commitment
from candor.mechanisms.strategies.null_space import KINDS
from candor.topologies.encoding.canonical import MalformedError, payload_digest
from tests.golden import assert_golden
from tests.honest import DIM, RUN, SKETCH, Ring, make_terms, sign

DIGEST = bytes(range(32, 64))
FRESH = Fresh(values_of(DIM), SKETCH)
PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


def page_function():
    """`fresh_sketch` as the page has it."""
    (text,) = re.findall(
        r"```python\n((?:(?!```).)*?def fresh_sketch.*?)```", PAGE.read_text(), re.S
    )
    space = {"struct": struct, "blake3": blake3, "msgpack": msgpack}
    exec(text, space)
    return space["fresh_sketch"]


def drawn(dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([dim, seed]).standard_normal(dim).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 2, 3, 40, 64, 65, 1_000, LENGTH, LENGTH + 1, 3 * LENGTH - 7])
def test_the_page_computes_the_bytes_of_the_code(dim: int) -> None:
    vectors = np.stack([drawn(dim), drawn(dim, 1)])
    made = FreshSketch(RUN, "a1", 7, DIGEST, dim)(vectors)
    assert made.shape == (2, values_of(dim))
    for vector, values in zip(vectors, made, strict=True):
        page = page_function()(RUN, "a1", 7, DIGEST, vector.tolist())
        assert values.astype("<f8").tobytes() == page


def test_signs_follow_from_all_that_names_a_payload() -> None:
    vector = drawn(200)
    places = [(RUN, "a1", 7, DIGEST), (DIGEST, "a1", 7, DIGEST), (RUN, "a2", 7, DIGEST)]
    places += [(RUN, "a1", 8, DIGEST), (RUN, "a1", 7, RUN)]
    assert len({FreshSketch(*place, 200)(vector).tobytes() for place in places}) == len(places)


def energies(vector: np.ndarray, count: int = 200) -> np.ndarray:
    """What so many fresh sketches say of a vector's energy, over what it is."""
    true = float(np.square(vector, dtype=np.float64).sum())
    sketches = (FreshSketch(RUN, "a1", t, DIGEST, len(vector)) for t in range(count))
    return np.array([whole_energy(sketch(vector)) for sketch in sketches]) / true


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1_500, 2 * LENGTH + 9])
def test_what_no_sketch_shows_is_shown_wherever_it_lies(kind: str, dim: int) -> None:
    size = 128
    sketch = SignSketch(signs_seed(RUN, 0), dim, size)
    poison = KINDS[kind](sketch.signs, size, np.random.default_rng(3)).astype(np.float32)
    assert np.linalg.norm(sketch(poison)) < 1e-4
    found = energies(poison)
    assert abs(found.mean() - 1.0) < 5.0 * math.sqrt(2.0 / VALUES / len(found))
    assert found.std() < 1.25 * math.sqrt(2.0 / VALUES)
    assert found.min() > 0.4


def test_two_rows_that_cancel_are_shown_also_where_they_meet() -> None:
    """Turned alike, they are under other signs, coordinate by coordinate."""
    half = drawn(LENGTH)
    vector = np.concatenate([half, -half])
    sketch = FreshSketch(RUN, "a1", 1, DIGEST, len(vector))
    (by, negated, first), (_, _, other) = sketch._rows
    assert first != other
    sketch._rows = [(by, negated, first), (by, negated, other)]
    assert whole_energy(sketch(vector)) > 0.4 * float(vector @ vector)


def test_short_vectors_are_measured_exactly() -> None:
    assert energies(drawn(40)) == pytest.approx(1.0, rel=1e-12)


def test_nothing_counts_as_hidden_that_chance_explains() -> None:
    fresh = Fresh(64, 1024)
    assert fresh.ratio(16) == pytest.approx(1.2209708691 / 0.8232233047)
    for rounds in (1, 16):
        shown = [2.0] * rounds
        limit = 2.0 * fresh.ratio(rounds)
        assert fresh.hidden(shown, [limit * 0.999] * rounds) == 0.0
        expected = rounds * (limit * 1.001 - 2.0)
        assert fresh.hidden(shown, [limit * 1.001] * rounds) == pytest.approx(expected)
    assert fresh.hidden([0.0], [0.0]) == fresh.hidden([], []) == 0.0
    assert fresh.hidden([0.0], [3.0]) == 3.0
    for size, least in ((32, 0.0), (33, 1e6)):
        assert Fresh(64, size).hidden([1.0], [1e6 + 1]) == least


# --- statements ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ring() -> Ring:
    return Ring(make_terms(fresh=FRESH), deaf={(2, "a3")}, reentries={(3, "a2"): "a1"}).play(5)


def held(ring: Ring, t: int, *agents: str) -> dict:
    return {(t, 0, agent): ring.payloads[t][agent] for agent in agents}


def examine(ring: Ring, t: int, agent: str, judge: str, statement: Statement | None = None):
    """As a neighbour that holds what it sent and was given in the round before."""
    signed = None if statement is None else sign(statement)
    known = held(ring, t - 1, agent, judge) if t > 1 else {}
    trusted = ring.stated(t - 1) if t > 1 else {}
    return ring.examine(t, agent, signed=signed, trusted=trusted, held=known)


def test_honest_statements_pass_and_show_the_true_energy(ring: Ring) -> None:
    for t in range(1, 6):
        for agent in ring.payloads[t]:
            shown = examine(ring, t, agent, "a0" if agent == "a1" else "a1")
            base = ring.mixed[t][agent].astype(np.float64)
            step = ring.terms.step_size(t)
            moved = (base - ring.payloads[t][agent]) / step
            assert shown.whole == pytest.approx(float(moved @ moved), rel=1e-9)
            assert ring.examiner.charged_energy(shown) == shown.energy


def altered(statement: Statement, place: int) -> Statement:
    values = np.frombuffer(statement.fresh, "<f8").reshape(-1, FRESH.values).copy()
    values[place, 5] = np.nextafter(values[place, 5], np.inf)
    return replace(statement, fresh=values.tobytes())


@pytest.mark.parametrize(("place", "caught"), [(0, "a1 a3"), (1, "a1 a3"), (2, "a1"), (3, "a3")])
def test_the_last_bit_of_each_value_is_checked_by_who_holds_the_vector(ring, place, caught) -> None:
    """Of a0 in round 2: its own payload, and of round 1 its own and those of a1 and a3."""
    lie = altered(ring.signed[2]["a0"].statement, place)
    for judge in ("a1", "a3"):
        if judge in caught.split():
            with pytest.raises(EvidenceError, match="fresh-sketch"):
                examine(ring, 2, "a0", judge, lie)
        else:
            assert examine(ring, 2, "a0", judge, lie)


def test_a_notice_is_held_against_what_was_given_before(ring) -> None:
    lie = altered(ring.signed[2]["a0"].statement, 1)
    trusted = ring.stated(1)
    for statement in (ring.signed[2]["a0"].statement, lie):
        seen = (sign(statement), None, {}, trusted)
        if statement is lie:
            with pytest.raises(EvidenceError, match="fresh-sketch"):
                ring.examiner.examine(*seen, held=held(ring, 1, "a0"))
        else:
            assert ring.examiner.examine(*seen, held=held(ring, 1, "a0"))
        assert ring.examiner.examine(*seen)


def test_what_the_sender_mixed_instead_of_what_is_held_is_not_compared(ring) -> None:
    """Another statement of a neighbour of it: that is the neighbour's equivocation."""
    other = sign(ring.state(1, "a1", ring.payloads[1]["a1"] + 1))
    witnesses = {**ring.witnesses(2, "a0"), (1, 0, "a1"): other}
    said = ring.signed[2]["a0"].statement
    said = replace(altered(said, 2), sources=commitment(one.body for one in witnesses.values()))
    told = ring.examine(
        *(2, "a0"),
        signed=sign(said),
        witnesses=witnesses,
        trusted=ring.stated(1),
        held=held(ring, 1, "a0", "a1"),
    )
    assert told.whole is not None


@pytest.mark.parametrize("fresh", [b"", bytes(8), bytes(8 * 5 * FRESH.values)])
def test_a_statement_has_as_many_as_vectors(ring, fresh: bytes) -> None:
    lie = replace(ring.signed[2]["a0"].statement, fresh=fresh)
    with pytest.raises(EvidenceError, match="fresh-sketch"):
        ring.examiner.examine_header(sign(lie), "a0")
    plain = Ring(make_terms()).play(2)
    stated = replace(plain.signed[2]["a0"].statement, fresh=fresh)
    if fresh:
        with pytest.raises(EvidenceError, match="fresh-sketch"):
            plain.examiner.examine_header(sign(stated), "a0")
    else:
        plain.examiner.examine_header(sign(stated), "a0")


@pytest.mark.parametrize("fresh", [bytes(7), np.float64(np.nan).tobytes()])
def test_what_cannot_be_fresh_sketches_is_malformed(ring, fresh: bytes) -> None:
    body = replace(ring.signed[2]["a0"].statement, fresh=fresh).encode()
    with pytest.raises(MalformedError, match="fresh sketches"):
        Statement.decode(body, sketch_bytes_max=8 * SKETCH)


def test_statements_keep_them(ring) -> None:
    stated = ring.signed[2]["a0"].statement
    assert Statement.decode(stated.encode(), sketch_bytes_max=8 * SKETCH) == stated
    assert len(stated.fresh) == 8 * 4 * FRESH.values


# --- claims -------------------------------------------------------------------------------------


def test_a_claimed_whole_energy_is_held_against_the_one_seen(ring) -> None:
    def judge(whole: float | None, terms=ring.terms) -> None:
        entry = ClaimedRound(4, 1.0, (), bytes(4 * SKETCH), whole=whole)
        check_claim(Claim(RUN, 1, "a1", (entry,)), terms, {4: 1.0}, {}, wholes={4: 5.0})

    judge(5.0 * (1 + 1e-10))
    for lie in (5.0 * (1 + 1e-8), 4.0, None):
        with pytest.raises(EvidenceError, match="claim-whole"):
            judge(lie)
    judge(None, make_terms())
    with pytest.raises(EvidenceError, match="claim-whole"):
        judge(5.0, make_terms())


@pytest.mark.parametrize("whole", [-1.0, math.nan, math.inf])
def test_a_claimed_whole_energy_is_one(whole: float) -> None:
    entry = ClaimedRound(4, 1.0, (), bytes(4), whole=whole)
    with pytest.raises(MalformedError, match="claimed round"):
        Claim.decode(Claim(RUN, 1, "a1", (entry,)).encode())


def test_claims_with_and_without_one_are_read() -> None:
    for whole in (None, 0.0, 2.5):
        made = Claim(RUN, 1, "a1", (ClaimedRound(4, 1.0, (), bytes(4), whole=whole),))
        assert Claim.decode(made.encode()) == made


def test_the_golden_fresh_sketches_keep_their_bytes(ring) -> None:
    dims = (40, 300, LENGTH + 50)
    vectors = {dim: ((np.arange(dim) * 37 % 101 - 50) / 16).astype(np.float32) for dim in dims}
    stated = ring.signed[2]["a0"]
    assert_golden(
        "fresh.json",
        {
            "about": "Fresh sketches of vectors whose value i is ((37 i) mod 101 - 50) / 16, under "
            "the signs of [domain, run, agent, round, digest]: little-endian binary64. Then the "
            "body of a statement of round 2, with those of its payload and of three of round 1, "
            "and the whole energy that they show.",
            "run": RUN.hex(),
            "agent": "a1",
            "round": 7,
            "digest": DIGEST.hex(),
            "sketches": [
                {
                    "dim": dim,
                    "length": length_of(dim),
                    "fresh": FreshSketch(RUN, "a1", 7, DIGEST, dim)(vector)
                    .astype("<f8")
                    .tobytes()
                    .hex(),
                }
                for dim, vector in vectors.items()
            ],
            "body": stated.body.hex(),
            "payload": ring.payloads[2]["a0"].tolist(),
            "named": [ring.payloads[1][k].tolist() for k in ("a0", "a1", "a3")],
            "whole": examine(ring, 2, "a0", "a1").whole,
        },
    )
    assert payload_digest(ring.payloads[2]["a0"].data.cast("B")) == stated.statement.digest
