"""The sketch is the documented linear map, to the last bit, and keeps inner products."""

import struct

import blake3
import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from candor.mechanisms.evidence.sketch import (
    SignSketch,
    TraceFold,
    last_of_window,
    signs_seed,
    window_of,
)
from candor.topologies.encoding.canonical import pack
from tests.golden import assert_golden

RUN = bytes(range(32))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
Vector = NDArray[np.float32]


def reference(run: bytes, window: int, vector: list[float], size_max: int) -> bytes:
    """The sketch in plain Python, one addition at a time."""
    if len(vector) <= size_max:
        return struct.pack(f"<{len(vector)}d", *vector)
    seed = msgpack.packb(["candor/sketch-signs/v1", run, window])
    stream = blake3.blake3(seed).digest(length=(len(vector) + 7) // 8)
    buckets = [0.0] * size_max
    for i, value in enumerate(vector):
        negative = stream[i // 8] >> (i % 8) & 1
        buckets[i % size_max] += -value if negative else value
    return struct.pack(f"<{size_max}d", *buckets)


def sketch(dim: int, size_max: int, window: int = 0) -> SignSketch:
    return SignSketch(signs_seed(RUN, window), dim, size_max)


@pytest.mark.parametrize(
    ("number", "rounds", "expected"),
    [(0, 16, 0), (1, 16, 0), (16, 16, 0), (17, 16, 1), (32, 16, 1), (33, 16, 2), (1, 1, 0)],
)
def test_rounds_from_one_fall_into_windows_from_zero(
    number: int, rounds: int, expected: int
) -> None:
    assert window_of(number, rounds) == expected


@given(st.integers(1, 10**6), st.integers(1, 100))
def test_a_window_has_as_many_rounds_as_stated(window_end: int, rounds: int) -> None:
    last = window_end * rounds
    assert window_of(last, rounds) == window_end - 1
    assert window_of(last + 1, rounds) == window_end
    first = last - rounds + 1
    assert window_of(first, rounds) == window_end - 1
    assert last_of_window(first, rounds) == last_of_window(last, rounds) == last


@given(hnp.arrays(np.float32, st.integers(1, 90), elements=FLOATS), st.integers(2, 40))
@example(np.full(9, -0.0, np.float32), 4)
@example(np.array([1e38, 1e-38, -1e38, 1.0] * 5, np.float32), 2)
def test_every_byte_is_that_of_one_addition_after_the_other(vector: Vector, size_max: int) -> None:
    ours = sketch(vector.size, size_max, window=3)(vector)
    assert ours.astype("<f8").tobytes() == reference(RUN, 3, vector.tolist(), size_max)


@pytest.mark.parametrize(("dim", "size"), [(30_001, 2), (30_001, 3), (65_543, 16), (50_000, 1024)])
def test_long_vectors_of_mixed_magnitude_are_summed_in_order_too(dim: int, size: int) -> None:
    generator = np.random.default_rng(dim + size)
    vector = generator.standard_normal(dim) * 10.0 ** generator.integers(-18, 18, dim)
    vector = vector.astype(np.float32)
    ours = sketch(dim, size)(vector)
    assert ours.astype("<f8").tobytes() == reference(RUN, 0, vector.tolist(), size)


def test_a_single_bucket_is_refused() -> None:
    with pytest.raises(AssertionError):
        sketch(10, 1)


@pytest.mark.parametrize("dim", [1, 15, 16])
def test_a_vector_no_longer_than_the_sketch_is_its_own(dim: int) -> None:
    vector = np.arange(dim, dtype=np.float32) - np.float32(0.1)
    found = sketch(dim, 16)
    assert found.size == dim
    assert np.array_equal(found(vector), vector.astype(np.float64))
    assert sketch(17, 16).size == 16


INTEGERS = hnp.arrays(np.int32, 50, elements=st.integers(-(2**20), 2**20))


@given(INTEGERS, INTEGERS, st.integers(-8, 8))
def test_it_is_linear(u: NDArray[np.int32], v: NDArray[np.int32], factor: int) -> None:
    # Integers this small are exact in float32 and float64, so equality is exact too.
    found = sketch(50, 16)
    both = found((u + factor * (v // 16)).astype(np.float32))
    parts = found(u.astype(np.float32)) + factor * found((v // 16).astype(np.float32))
    assert np.array_equal(both, parts)


def test_leading_axes_are_independent_vectors() -> None:
    found = sketch(50, 16)
    vectors = np.random.default_rng(1).standard_normal((2, 3, 50)).astype(np.float32)
    together = found(vectors)
    assert together.shape == (2, 3, 16)
    assert np.array_equal(together[1, 2], found(vectors[1, 2]))


def test_windows_and_runs_draw_different_signs() -> None:
    vector = np.ones(200, np.float32)
    seeds = {signs_seed(RUN, 0), signs_seed(RUN, 1), signs_seed(bytes(32), 0)}
    sketches = {SignSketch(seed, 200, 16)(vector).tobytes() for seed in seeds}
    assert len(sketches) == 3


def test_inner_products_are_kept_on_average_within_the_stated_deviation() -> None:
    dim, size, windows = 2000, 64, 300
    u, v = np.random.default_rng(2).standard_normal((2, dim)).astype(np.float32)
    v += u / 2
    both = np.stack([u, v])
    found = np.stack([sketch(dim, size, window)(both) for window in range(windows)])
    for a, b, exact in ((0, 0, u @ u), (0, 1, u @ v), (1, 1, v @ v)):
        products = np.einsum("wk,wk->w", found[:, a], found[:, b])
        scale = np.sqrt((u @ u) * (v @ v)) if a != b else exact
        deviation = scale * np.sqrt(2 / size)
        assert abs(products.mean() - exact) < 4 * deviation / np.sqrt(windows)
        assert products.std() < 1.25 * deviation


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dim", [16, 40])
def test_a_value_that_is_not_finite_shows_and_raises_no_warning(value: float, dim: int) -> None:
    vector = np.zeros(dim, np.float32)
    vector[[0, -1]] = value
    assert not np.isfinite(sketch(dim, 16)(vector)).all()


@given(st.integers(0, 2**32 - 1))
@example(0x7F800001)  # a signalling NaN
def test_no_bit_pattern_raises_a_warning(bits: int) -> None:
    vector = np.full(40, bits, np.uint32).view(np.float32)
    finite = bool(np.isfinite(vector).all())
    for size in (16, 40):
        assert np.isfinite(sketch(40, size)(vector)).all() == finite


def test_the_golden_sketches_keep_their_bytes() -> None:
    vector = ((np.arange(70) * 37 % 101 - 50) / 16).astype(np.float32)
    made = {
        window: sketch(70, 16, window)(vector).astype("<f8").tobytes() for window in (0, 1, 300)
    }
    for window, data in made.items():
        assert data == reference(RUN, window, vector.tolist(), 16)
    folded = (np.arange(300) * 53 % 211 - 105) / 32
    traces = {window: TraceFold(RUN, window, 300)(folded) for window in (0, 1, 300)}
    assert_golden(
        "sketch.json",
        {
            "about": "Sketches of one vector under the signs of three windows: little-endian "
            "binary64. The seed is the canonical [domain, run, window]; sign i is bit i of BLAKE3 "
            "over it. Traces of `traced`, a sketch of 300 numbers: 128 little-endian float32.",
            "run": RUN.hex(),
            "sketch_size": 16,
            "vector": vector.tolist(),
            "windows": [
                {
                    "window": window,
                    "seed": signs_seed(RUN, window).hex(),
                    "sketch": data.hex(),
                }
                for window, data in made.items()
            ],
            "traced": folded.tolist(),
            "traces": [
                {
                    "window": window,
                    "seed": pack(["candor/trace-signs/v1", RUN, window]).hex(),
                    "trace": data.astype("<f4").tobytes().hex(),
                }
                for window, data in traces.items()
            ],
        },
    )


@given(
    dim=st.integers(17, 70),
    rows=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    zeros=st.booleans(),
)
def test_many_rows_give_the_bytes_of_each_one(dim: int, rows: int, seed: int, zeros: bool) -> None:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    if zeros:
        vectors[:, ::2] = -0.0
    one = sketch(dim, 16)
    together = one(vectors)
    assert together.tobytes() == b"".join(one(row).tobytes() for row in vectors)


def test_what_is_done_to_groups_of_a_sketch_is_done_to_its_trace() -> None:
    rng = np.random.default_rng(0)
    for size, bounds in ((300, (0, 100, 200, 300)), (20, (0, 7, 14, 20)), (144, range(0, 145, 16))):
        fold = TraceFold(RUN, 1, size, bounds)
        each = fold.size // (len(bounds) - 1)
        one = rng.standard_normal(size)
        for group, high in enumerate(bounds):
            part = np.where(np.arange(size) < high, one, 0.0)
            expected = np.where(np.arange(fold.size) < group * each, fold.exact(one), 0.0)
            np.testing.assert_array_equal(fold.exact(part), expected)
        assert np.array_equal(fold(one), fold.exact(one).astype(np.float32))
