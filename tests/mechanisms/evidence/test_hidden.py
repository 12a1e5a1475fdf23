"""What a sketch hides is refused, and nothing that honest agents send ever is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.studies.bench.hidden import measure_hidden
from candor.mechanisms.evidence import hidden
from candor.mechanisms.evidence.hidden import (
    HIDDEN,
    cap,
    check_hidden,
    distance,
    effective_size,
    explained,
    far_apart,
    reach,
    rounding,
)
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed
from candor.mechanisms.evidence.statements import EvidenceError
from candor.mechanisms.strategies import null_space
from candor.topologies.specs.specs import ConfigurationError

SIZE = 1024
RUN = bytes(range(32))
DIMS = (SIZE + 1, SIZE + 37, 2 * SIZE, 2410, 19_210)


def sketch(dim, window=0, size=SIZE):
    return SignSketch(signs_seed(RUN, window), dim, size)


def signs_of(made):
    ones = np.ones(made.dim, np.float32)
    return ones if made._signs is None else made._signs


def is_refused(*pair):
    """Whether a check refuses, with its code."""
    try:
        check_hidden(*pair)
    except EvidenceError as exc:
        return exc.code == HIDDEN
    return False


def shapes(dim, draw):
    """Differences such as models have: spread, with biases that stand out, heavy-tailed, sparse."""
    even = draw.standard_normal(dim)
    biased = even * 1e-2
    biased[-10:] += draw.standard_normal(10)
    pair = even * 1e-3
    pair[[0, SIZE]] = 1.0
    sparse = even * (draw.random(dim) < 0.02)
    sparse[:2] = 1.0
    return {"even": even, "biased": biased, "heavy": draw.standard_t(2, dim), "pair": pair} | {
        "sparse": sparse
    }


@pytest.mark.parametrize("dim", DIMS)
def test_signs_hide_more_than_the_bound_no_oftener_than_it_says(dim):
    draw = np.random.default_rng(dim)
    chance, draws = 0.05, 400
    for name, u in shapes(dim, draw).items():
        energy = float(u @ u)
        bound = explained(np.zeros(dim, np.float32), u.astype(np.float32), SIZE, -math.log(chance))
        padded = np.zeros((draws, -(-dim // SIZE), SIZE))
        padded.reshape(draws, -1)[:, :dim] = u * draw.choice((-1.0, 1.0), (draws, dim))
        shown = np.square(padded.sum(axis=1)).sum(axis=1)  # (draws,)
        exceeded = float((energy - shown > bound).mean())
        assert exceeded <= chance + 3 * math.sqrt(chance / draws), name
        # Nor is it loose where it matters: a few standard deviations of s.
        if name == "even" and dim >= 2 * SIZE:
            assert bound < 5 * float(np.std(shown))


@pytest.mark.parametrize("dim", DIMS)
def test_buckets_are_summed_as_they_are(dim):
    draw = np.random.default_rng(dim)
    own, theirs = draw.standard_normal((2, dim)).astype(np.float32)
    u = theirs.astype(np.float64) - own
    by_bucket = [np.sort(np.square(u[b::SIZE]))[::-1] for b in range(SIZE)]
    energies, fourths, tops = hidden._buckets(own, theirs, SIZE)
    assert np.allclose(energies, [b.sum() for b in by_bucket])
    assert np.allclose(fourths, [np.square(b).sum() for b in by_bucket])
    expected = np.array([np.append(b, [0.0, 0.0])[:3] for b in by_bucket]).T
    assert np.allclose(tops, expected)
    assert distance(own, theirs) == pytest.approx(float(u @ u), rel=1e-5)


@pytest.mark.parametrize("dim", DIMS)
def test_honest_vectors_are_never_refused(dim):
    draw = np.random.default_rng(dim)
    for window in range(6):
        made = sketch(dim, window)
        own = draw.standard_normal(dim).astype(np.float32)
        for name, u in shapes(dim, draw).items():
            if name == "pair":
                continue  # a poison would look the same: this is what the cap is for
            for scale in (1e-6, 1e-2, 1e2):
                theirs = (own + scale * u).astype(np.float32)
                stated = made(own), made(theirs)
                floor = rounding(2.0**-24, 0.0, dim, *stated)
                check_hidden(own, theirs, *stated, floor)


@pytest.mark.parametrize("relative", [2.0**-24, 2.0**-11])
def test_rounding_alone_is_never_refused(relative):
    draw = np.random.default_rng(3)
    dim = 5000
    made = sketch(dim)
    signs = signs_of(made)
    for scale in (1e-6, 1.0, 1e6):
        own = (scale * draw.standard_normal(dim)).astype(np.float32)
        # As unlucky as can be: two values of a bucket moved against each other, as much as the
        # codec moves any.
        theirs = own.copy()
        for low in range(0, 2 * SIZE, 2 * SIZE):
            theirs[low] += np.float32(relative) * abs(own[low]) * signs[low]
            theirs[low + SIZE] -= np.float32(relative) * abs(own[low]) * signs[low + SIZE]
        stated = made(own), made(theirs)
        check_hidden(own, theirs, *stated, rounding(relative, 0.0, dim, *stated))


def test_equal_vectors_and_whole_sketches_pass():
    made, small = sketch(3000), sketch(SIZE)
    own = np.ones(3000, np.float32)
    check_hidden(own, own.copy(), made(own), made(own))
    one, other = np.zeros(SIZE, np.float32), np.full(SIZE, 1e18, np.float32)
    check_hidden(one, other, small(one), small(other))


@pytest.mark.parametrize("kind", null_space.KINDS)
@given(
    st.sampled_from(DIMS),
    st.floats(0.0, 6.0),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_a_hidden_poison_is_refused_or_within_reach(kind, dim, size, seed, aside):
    draw = np.random.default_rng(seed)
    made = sketch(dim, seed % 7)
    signs = signs_of(made)
    own, honest = draw.standard_normal((2, dim)).astype(np.float32)
    poison = null_space.KINDS[kind](signs, SIZE, draw)
    if aside and kind == "spread" and dim > SIZE + 40:
        poison = null_space.apart_from(poison, [honest - own, own], signs, SIZE)
        assert abs(float(poison @ (honest - own))) < 1e-3
    apart = math.sqrt(float(np.square(honest - own).sum()))
    theirs = (honest + size * apart * poison).astype(np.float32)
    stated = made(own), made(theirs)
    # The sketch shows next to nothing of it.
    shown = float(np.linalg.norm(stated[1] - made(honest)))
    assert shown <= 1e-5 * (1 + size) * apart
    seen = float(np.linalg.norm(stated[1] - stated[0]))
    whole = math.sqrt(distance(own, theirs))
    if is_refused(own, theirs, *stated):
        assert whole > 1.1 * seen
    else:
        assert whole <= 1.01 * reach(SIZE) * seen


def test_a_cap_is_there_for_sketches_that_are_long_enough():
    assert reach(SIZE) == pytest.approx(1.816, abs=1e-3)
    assert reach(512) < 9
    assert math.isinf(reach(hidden.SIZE_LEAST - 1))
    assert math.isfinite(reach(hidden.SIZE_LEAST))
    assert cap(4096) == pytest.approx(cap(1024) / 2)


@pytest.mark.parametrize("dim", [SIZE + 37, 4 * SIZE])
def test_the_size_in_effect_is_what_the_variance_over_signs_shows(dim):
    rng = np.random.default_rng(3)
    u = rng.standard_normal(dim).astype(np.float32)
    size = 64
    energies = [float((sketch(dim, window, size)(u) ** 2).sum()) for window in range(1000)]
    shown = 2.0 / float(np.var(np.array(energies) / float(u.astype(np.float64) @ u)))
    assert effective_size(np.zeros_like(u), u, size) == pytest.approx(shown, rel=0.2)


def test_rows_whose_length_divides_the_sketch_meet_in_its_buckets():
    """One of 128 columns in eight has all the energy: 16 a row, in 128 of the 1,024 buckets."""
    matrix = np.zeros((784, 128), np.float32)
    matrix[:, ::8] = np.random.default_rng(4).standard_normal((784, 16))
    zero = np.zeros(matrix.size, np.float32)
    assert effective_size(zero, matrix.reshape(-1), SIZE) == pytest.approx(128, rel=0.1)
    assert effective_size(zero, matrix.T.reshape(-1), SIZE) > 900
    assert (
        effective_size(zero[: SIZE + 1], np.eye(1, SIZE + 1, dtype=np.float32)[0], SIZE) == math.inf
    )


def test_a_task_that_fits_its_sketch_hides_nothing():
    with pytest.raises(ConfigurationError, match="is its own sketch"):
        measure_hidden(1, lambda _: None, "digits:model=logistic")


@given(st.sampled_from(DIMS[:4]), st.floats(-2.0, 1.0), st.integers(0, 2**32))
def test_what_is_near_at_a_glance_is_not_refused(dim, size, seed):
    """Of honest differences nearly all are, a poison that is refused never."""
    draw = np.random.default_rng(seed)
    made = sketch(dim, seed % 7)
    own, honest = draw.standard_normal((2, dim)).astype(np.float32)
    poison = null_space.KINDS["pair"](signs_of(made), SIZE, draw)
    theirs = (honest + 10.0**size * np.float32(math.sqrt(dim)) * poison).astype(np.float32)
    far = far_apart(
        np.stack([own] * 4),
        np.stack([own, honest, theirs, np.full_like(own, np.nan)]),
        np.stack([made(own)] * 4),
        np.stack([made(one) for one in (own, honest, theirs, own)]),
    )
    assert far.tolist()[::3] == [False, True]
    assert not far[1] or distance(own, honest) > 1.2 * np.square(made(own) - made(honest)).sum()
    for vector, looked_at in zip((honest, theirs), far[1:3], strict=True):
        assert looked_at or not is_refused(own, vector, made(own), made(vector))
