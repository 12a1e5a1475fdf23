"""A codec's bytes decode to what their sender states, as near to its values as the codec says."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from candor.network.codecs import CODECS, FLOAT16, FLOAT32, Codec, Vector
from candor.network.slots import BufferPool, Inbox

FLOAT16_MAX = 65504.0  # what lies between it and 65,520 is rounded to it
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
IN_RANGE = {
    "float32": FLOATS,
    "float16": st.floats(-FLOAT16_MAX, FLOAT16_MAX, width=32)
    | st.floats(-(2.0**-13), 2.0**-13, width=32),
}
EDGES = (0.0, -0.0, 2.0**-25, 3 * 2.0**-25, 2.0**-149, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11, 65519.0)


def vector_of(values: Sequence[float]) -> Vector:
    return np.array(values, np.float32)


def decoded(codec: Codec, data: bytes, dim: int) -> Vector:
    out = np.full(dim, np.nan, np.float32)
    codec.decode(data, out)
    return out


def bits(vector: Vector) -> bytes:
    """What tells vectors apart: a negative zero is not a zero."""
    return vector.astype("<f4").tobytes()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(values=st.lists(FLOATS, max_size=12))
@example(values=list(EDGES))
def test_what_is_decoded_is_what_its_sender_states(codec: Codec, values: list[float]) -> None:
    vector = vector_of(values)
    data = bytes(codec.encode(vector))
    assert len(data) == codec.payload_bytes(len(vector)) <= vector.nbytes
    stated = codec.rounded(vector)
    assert stated.dtype == np.float32
    assert bits(decoded(codec, data, len(vector))) == bits(stated)
    assert bits(vector) == bits(vector_of(values))  # untouched: it may still be read
    # Who passes on what it has received loses nothing more.
    assert bits(codec.rounded(stated)) == bits(stated)
    assert bytes(codec.encode(stated)) == data


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_no_value_moves_farther_than_the_codec_says(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    values = data.draw(st.lists(IN_RANGE[name], min_size=1, max_size=12))
    vector = vector_of([*values, *EDGES]).astype(np.float64)
    moved = np.abs(codec.rounded(vector.astype(np.float32)) - vector)
    assert (moved <= np.maximum(codec.relative * np.abs(vector), codec.absolute)).all()


@pytest.mark.parametrize(
    ("value", "moved"), [(1.0 + 2.0**-11, 2.0**-11), (2.0**-25, 2.0**-25), (2.0**11 + 1, 1.0)]
)
def test_the_bounds_of_float16_are_reached(value: float, moved: float) -> None:
    """Half of the last bit that is kept, or half of the smallest number; ties go to even."""
    (made,) = FLOAT16.rounded(vector_of([value]))
    assert abs(value - float(made)) == moved
    allowed = max(FLOAT16.relative * value, FLOAT16.absolute)
    assert 0.999 * allowed < moved <= allowed


def test_float32_moves_nothing_and_copies_nothing() -> None:
    vector = vector_of(EDGES)
    view = FLOAT32.encode(vector)
    assert isinstance(view, memoryview)
    assert view.readonly
    assert np.shares_memory(np.frombuffer(view, np.float32), vector)
    assert FLOAT32.rounded(vector) is vector


@given(st.lists(FLOATS, max_size=12))
@example([*EDGES, 65520.0, -1e38])
def test_float16_is_what_torch_makes_of_a_half(values: list[float]) -> None:
    """So that models rounded on an accelerator are those that everyone decodes."""
    vector = vector_of(values)
    assert bits(FLOAT16.rounded(vector)) == bits(torch.tensor(vector).half().float().numpy())


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_many_vectors_are_rounded_each_as_if_alone(codec: Codec) -> None:
    many = np.random.default_rng(1).standard_normal((3, 2, 5)).astype(np.float32)
    rounded = codec.rounded(many)
    assert rounded.shape == many.shape
    for place in np.ndindex(3, 2):
        assert bits(rounded[place]) == bits(codec.rounded(many[place]))


@pytest.mark.parametrize("value", [65520.0, -1e30, float("inf"), float("nan")])
def test_what_a_half_cannot_hold_decodes_to_what_is_refused(value: float) -> None:
    """Without a warning; no vector that is not finite reaches a model."""
    data = bytes(FLOAT16.encode(vector_of([1.0, value])))
    assert np.isfinite(decoded(FLOAT16, data, 2)).tolist() == [True, False]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(values=st.lists(FLOATS, min_size=1, max_size=40), chunk=st.integers(1, 50))
def test_a_payload_is_decoded_in_the_buffer_in_which_it_was_received(
    codec: Codec, values: list[float], chunk: int
) -> None:
    """The bytes lie at the front of a buffer that has room for the vector, and for no more."""
    vector = vector_of(values)
    data = codec.encode(vector)
    inbox = Inbox[str, str](BufferPool(len(vector), spare_max=1), len(data))
    slot = inbox.announce(1, "statement", len(data))
    for at in range(0, len(data), chunk):
        assert not slot.complete
        slot.write(at, data[at : at + chunk])
    assert slot.complete
    assert slot.encoded == data
    codec.decode(slot.encoded, slot.buffer)
    assert bits(slot.buffer) == bits(codec.rounded(vector))
