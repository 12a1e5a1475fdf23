"""What an agent may inject in a window, and that who sends more convicts itself and nobody else."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.evidence.examiner import INFLUENCE, FormedError, RunTerms
from candor.mechanisms.evidence.influence import (
    SPENT,
    Around,
    Influence,
    Limit,
    Reach,
    kept_shares,
    lengths,
)
from candor.mechanisms.evidence.statements import EvidenceError, SignedStatement
from candor.mechanisms.proofs import NOTHING, Proof, ProofError, misformed, verify_proof
from candor.topologies.encoding.canonical import MalformedError
from tests.honest import IDS, SKETCH, WINDOW, Ring, make_terms, sign

LIMIT = Limit(2.0, WINDOW)
WHOLE = 64  # a sketch that is the vector itself
SIZES = pytest.mark.parametrize("sketch_size", [SKETCH, WHOLE])


class BoundedRing(Ring):
    """A ring on which everyone says what it has injected; whoever exaggerates does not shorten."""

    def state(self, t, agent, payload):
        stated = super().state(t, agent, payload)
        return self.examiner.bounded(stated, self.witnesses(t, agent))


def bounded(sketch_size: int = SKETCH, factor: float = 2.0, **ring: object) -> BoundedRing:
    return BoundedRing(make_terms(sketch_size, limit=Limit(factor, WINDOW)), **ring)


def refused(ring: Ring, t: int, agent: str = "a1") -> FormedError:
    with pytest.raises(FormedError) as found:
        ring.examine(t, agent, witnesses=ring.witnesses(t, agent))
    assert found.value.code == INFLUENCE
    return found.value


def reach(length: float, bound: float = 9.0, most: float = 99.0) -> Reach:
    return Reach(length, bound, most)


# --- the bound ------------------------------------------------------------------------------


def test_it_is_so_many_times_the_lower_median_carried_on_to_this_round() -> None:
    around = Around(reach(4.0), [reach(1.0), reach(2.0), reach(3.0)], 3)
    assert LIMIT.bounds(2, around) == (2.0 * 2.0 * 2, 99.0)  # twice what there was after one round
    assert LIMIT.bounds(3, around) == (2.0 * 2.0 * 1.5, 99.0)


def test_a_window_begins_with_what_was_usual_in_the_last_and_ends_with_no_more() -> None:
    around = Around(reach(4.0), [reach(1.0), reach(2.0), reach(3.0)], 3)
    assert LIMIT.bounds(4, around) == (4.0 / math.sqrt(3), 4.0)
    moved = Around(reach(4.0, most=4.0), [reach(9.0), reach(9.0), reach(9.0)], 3)
    assert LIMIT.bounds(6, moved) == (4.0, 4.0)  # whatever others are made to inject


def test_what_is_beyond_the_first_bound_is_to_be_taken_back() -> None:
    huge = reach(1_000.0, math.inf, math.inf)
    assert LIMIT.bounds(2, Around(huge, [reach(1.0), reach(1.0)], 2)) == (4.0, math.inf)


def test_a_bound_does_not_fall_below_what_was_injected_within_the_last() -> None:
    few = [reach(0.1), reach(0.1)]
    assert LIMIT.bounds(3, Around(reach(5.0, 6.0), few, 2))[0] == 5.0
    slightly = Around(reach(5.0 + 1e-9, 5.0), few, 2)
    assert LIMIT.bounds(3, slightly)[0] == 5.0  # rounding adds nothing up
    assert LIMIT.bounds(4, Around(reach(5.0, 6.0), few, 2))[1] == 0.2  # but in the next window


def test_who_was_not_heard_counts_as_one_that_injected_nothing() -> None:
    heard = [reach(1.0)]
    assert LIMIT.bounds(4, Around(reach(1.0), heard, 1))[1] == 2.0
    assert LIMIT.bounds(4, Around(reach(1.0), heard, 2))[1] == 2.0
    assert LIMIT.bounds(4, Around(reach(1.0), heard, 3))[1] == 0.0


def test_who_says_that_it_injected_nothing_is_no_yardstick() -> None:
    silent = [reach(0.0), reach(0.0), reach(0.0)]
    free = math.inf, math.inf
    assert LIMIT.bounds(4, Around(reach(0.0), [*silent, reach(3.0)], 4))[1] == 6.0
    assert LIMIT.bounds(4, Around(reach(2.0), silent, 3)) == free  # as in round 1
    assert LIMIT.bounds(3, Around(reach(2.0, 7.0), silent, 3)) == (7.0, 99.0)  # as it was
    assert LIMIT.bounds(4, Around(reach(0.0), silent, 4))[1] == 0.0  # one was left out


def test_after_a_round_without_givers_it_stays() -> None:
    assert LIMIT.bounds(4, Around(reach(2.0, 7.0, 9.0), [], 0)) == (9.0 / math.sqrt(3), 9.0)
    assert LIMIT.bounds(3, Around(reach(2.0, 7.0, 9.0), [], 0)) == (7.0, 9.0)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6), st.floats(1e-9, 1e9))
def test_one_liar_cannot_move_it_beyond_the_honest(honest, lie) -> None:
    """Nor below them: of three and more in a neighbourhood the median is between honest ones."""
    own, *others = map(reach, honest)
    around = Around(own, [*others, reach(lie)], len(honest))
    assert min(honest) <= LIMIT.bounds(4, around)[1] / 2.0 <= max(honest)


def test_lengths_are_folded_and_shares_are_one_within_the_bound() -> None:
    assert lengths(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [5.0, 0.0]
    assert kept_shares(np.array([5.0, 2.0, 2.0]), np.array([4.0, 2.0, np.inf])).tolist() == [
        0.8,
        1.0,
        1.0,
    ]


# --- statements -----------------------------------------------------------------------------


@SIZES
def test_honest_rounds_pass_and_sums_are_those_of_the_window(sketch_size) -> None:
    ring = bounded(sketch_size, factor=3.0).play(7)
    for t in range(1, 8):
        for agent in IDS:
            ring.examine(t, agent, witnesses=ring.witnesses(t, agent))
    said = ring.signed[6]["a0"].statement.influence
    window = ring.examiner.sketch(1)
    moved = sum(
        ring.terms.step_size(t) * _injected(ring, t, "a0").astype(np.float64) for t in (4, 5, 6)
    )
    assert np.allclose(np.frombuffer(said.total), window(moved.astype(np.float32)))
    assert said.kept == 1.0
    assert ring.signed[1]["a0"].statement.influence.bound == math.inf


def _injected(ring: Ring, t: int, agent: str) -> np.ndarray:
    row = ring.rows[t][agent]
    before = sum(np.float32(w) * ring.payloads[t - 1][k] for k, w in row.items())
    return (before - ring.payloads[t][agent]) / np.float32(ring.terms.step_size(t))


@SIZES
@pytest.mark.parametrize("t", [2, 3])
def test_who_sends_more_than_its_bound_is_refused_and_proven(sketch_size, t) -> None:
    ring = bounded(sketch_size, scales={"a1": 30}).play(4)
    error = refused(ring, t)
    signed = ring.signed[t]["a1"]
    proof = misformed(signed, error, alone(ring))
    assert proof is not None
    assert proof.kind == INFLUENCE
    verdict = verify_proof(Proof.decode(proof.encode()), alone(ring))
    assert verdict.malice
    assert str(verdict) == f"a1: influence in round {t}: guilty"


def alone(ring: Ring) -> RunTerms:
    """What a third party knows: no model, no schedule of steps."""
    terms = ring.terms
    first = (terms.run, terms.dim, terms.sketch_size, terms.window_rounds, terms.publics)
    return RunTerms(
        *first, terms.phases, weights=terms.weights, rounds=terms.rounds, limit=terms.limit
    )


def test_round_one_is_free_whatever_it_is() -> None:
    ring = bounded(scales={"a1": 1_000}).play(1)
    ring.examine(1, "a1")


@SIZES
def test_an_honest_statement_cannot_be_made_a_proof(sketch_size) -> None:
    ring = bounded(sketch_size, factor=3.0).play(5)
    for t in (2, 3, 4, 5):
        bodies = tuple(one.body for one in ring.witnesses(t, "a1").values())
        signed = ring.signed[t]["a1"]
        proof = Proof(INFLUENCE, "a1", (signed.body, signed.signature), NOTHING, bodies)
        with pytest.raises(ProofError, match="as it should be"):
            verify_proof(proof, alone(ring))
        encoded = proof.encode()
        for place in range(t, len(encoded), 97):
            other = bytearray(encoded)
            other[place] ^= 1
            with pytest.raises((ProofError, MalformedError)):
                verify_proof(Proof.decode(bytes(other)), alone(ring))


@pytest.mark.parametrize(
    "said",
    [
        Influence(bytes(8 * SKETCH), math.inf, math.inf),
        Influence(bytes(8 * SKETCH), 0.0, math.inf),
        SPENT,
    ],
)
def test_another_sum_or_bound_than_follows_is_refused(said) -> None:
    ring = bounded(factor=3.0).play(3)
    ring.signed[3]["a1"] = sign(replace(ring.signed[3]["a1"].statement, influence=said))
    refused(ring, 3)


def test_who_says_nothing_of_its_window_is_refused() -> None:
    ring = bounded().play(2)
    silent = sign(replace(ring.signed[2]["a1"].statement, influence=None))
    with pytest.raises(EvidenceError, match="^influence"):
        ring.examine(2, "a1", signed=silent)
    free = Ring().play(2)
    said = sign(replace(free.signed[2]["a1"].statement, influence=SPENT))
    with pytest.raises(EvidenceError, match="^influence"):
        free.examine(2, "a1", signed=said)


def test_who_takes_over_a_model_injects_nothing_until_the_next_window() -> None:
    ring = bounded(reentries={(1, "a1"): "a2"}).play(4)
    assert ring.signed[2]["a1"].statement.influence.spent
    assert ring.signed[3]["a1"].statement.influence.spent
    refused(ring, 2)
    refused(ring, 3)
    assert not ring.signed[4]["a1"].statement.influence.spent
    still = bounded(reentries={(1, "a1"): "a2"}, scales={"a1": 0}).play(3)
    for t in (2, 3):
        still.examine(t, "a1", witnesses=still.witnesses(t, "a1"))


def test_who_leaves_all_others_out_may_inject_nothing_more() -> None:
    ring = bounded(deaf={(1, "a1")}, factor=100.0).play(2)
    said = ring.signed[2]["a1"].statement.influence
    assert said.bound == 0.0  # its first one: what it injected in round 1 is to be taken back
    refused(ring, 2)


@pytest.mark.parametrize(
    "said",
    [
        Influence(bytes(8), 1.0, 1.0),
        Influence(bytes(8 * SKETCH), -1.0, 1.0),
        Influence(bytes(8 * SKETCH), 1.0, -1.0),
        Influence(bytes(8 * SKETCH), math.nan, 1.0),
        Influence(np.full(SKETCH, np.inf).tobytes(), 1.0, 1.0),
    ],
)
def test_what_is_no_sum_or_bound_is_malformed(said) -> None:
    body = replace(bounded().play(1).signed[1]["a0"].statement, influence=said).encode()
    with pytest.raises(MalformedError):
        SignedStatement.decode(body, bytes(64), sketch_bytes_max=8 * SKETCH)
