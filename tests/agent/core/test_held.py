"""Which vectors an agent holds for fresh sketches, and for how long."""

import numpy as np
import pytest

from candor.agent.core.held import Held
from candor.mechanisms.evidence.fresh import Fresh, values_of
from tests.honest import DIM, SKETCH, Ring, make_terms

TERMS = make_terms(fresh=Fresh(values_of(DIM), SKETCH))
RING = Ring(TERMS).play(8)


def holding(*stated: tuple[int, str], terms=TERMS) -> Held:
    """What a0 holds once these have been stated, in this order."""
    held = Held("a0", terms)
    for t, agent in stated:
        held.add(RING.signed[t][agent].statement, RING.payloads[t][agent])
    return held


def places(held: Held) -> set[tuple[int, str]]:
    return {(t, agent) for t, _, agent in held.vectors}


def test_a_vector_is_held_until_both_have_gone_on() -> None:
    assert places(holding((1, "a0"), (1, "a1"))) == {(1, "a0"), (1, "a1")}
    both = {(1, "a0"), (1, "a1"), (2, "a1")}
    assert places(holding((1, "a0"), (1, "a1"), (2, "a1"))) == both  # a0 has yet to name it
    assert places(holding((1, "a0"), (1, "a1"), (2, "a0"))) == {(1, "a0"), (1, "a1"), (2, "a0")}
    done = holding((1, "a0"), (1, "a1"), (2, "a1"), (2, "a0"))
    assert places(done) == {(1, "a0"), (2, "a0"), (2, "a1")}
    assert done.among([(1, 0, "a0"), (2, 0, "a1"), (9, 0, "a0")], "a0").keys() == {(1, 0, "a0")}


def test_a_round_that_begins_leaves_what_its_statements_name() -> None:
    held = holding((1, "a0"), (1, "a3"), (2, "a0"), (2, "a1"), (3, "a0"), (3, "a1"))
    held.begin(4)
    assert places(held) == {(2, "a0"), (3, "a0"), (3, "a1")}


def test_who_runs_ahead_does_not_fill_the_memory() -> None:
    held = holding(*((t, "a1") for t in range(1, 9)))
    # And what the statement under way may name.
    assert places(held) == {(t, "a1") for t in (1, *range(5, 9))}


@pytest.mark.parametrize("terms", [TERMS, make_terms()])
def test_nothing_is_held_of_a_notice_or_without_fresh_sketches(terms) -> None:
    held = Held("a0", terms)
    held.add(RING.signed[1]["a1"].statement, np.empty(0, np.float32))
    assert not held.vectors
    assert held.keeps == (terms is TERMS)
    assert not holding((1, "a0"), terms=make_terms()).vectors


def test_a_neighbour_that_runs_ahead_takes_nothing_from_what_the_own_round_names() -> None:
    held = holding((1, "a0"), (1, "a1"))
    held.begin(2)
    for t in range(2, 9):
        held.add(RING.signed[t]["a1"].statement, RING.payloads[t]["a1"])
    assert (1, "a1") in places(held)
    assert (2, "a1") in places(held)
    assert (3, "a1") not in places(held)
    assert (8, "a1") in places(held)
