"""One value has one encoding; bytes from outside decode to it or raise MalformedError."""

import hashlib
import math
import struct

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from candor.topologies.encoding.canonical import (
    ARRAY_LENGTH_MAX,
    COUNT_MAX,
    MalformedError,
    is_count,
    is_name,
    pack,
    payload_digest,
    sha256,
    unpack,
)
from tests.mutations import mutated

MIB = 2**20
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=20), max_leaves=30)


def same(a: object, b: object) -> bool:
    """Equal in type as well: True == 1 == 1.0 and 0.0 == -0.0 for Python, not here."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and a == b


@given(VALUES)
def test_what_is_packed_is_unpacked(value: object) -> None:
    packed = pack(value)
    assert same(unpack(packed, bytes_max=len(packed)), value)
    assert same(unpack(memoryview(packed), bytes_max=len(packed)), value)


@given(VALUES, VALUES)
@example([1], [True])
@example([1], [1.0])
@example([0.0], [-0.0])
@example(["a"], [b"a"])
@example([None], [False])
def test_two_values_never_share_an_encoding(a: object, b: object) -> None:
    assert (pack(a) == pack(b)) == same(a, b)


@given(st.binary(max_size=200))
def test_any_bytes_decode_canonically_or_are_refused(data: bytes) -> None:
    try:
        value = unpack(data, bytes_max=200)
    except MalformedError:
        return
    assert pack(value) == data


@given(st.data())
def test_a_changed_encoding_decodes_canonically_or_is_refused(data: st.DataObject) -> None:
    changed = data.draw(mutated(pack(data.draw(VALUES))))
    try:
        value = unpack(changed, bytes_max=MIB)
    except MalformedError:
        return
    assert pack(value) == changed


LONG_FORMS = {
    "integer in 8 bits": "cc01",
    "integer in 16 bits": "cd0001",
    "integer in 32 bits": "ce00000001",
    "integer in 64 bits": "cf0000000000000001",
    "signed form of a positive integer": "d001",
    "signed 64 bits of -1": "d3ffffffffffffffff",
    "single precision": "ca3f800000",
    "text in 8 bits": "d90161",
    "text in 16 bits": "da000161",
    "text in 32 bits": "db0000000161",
    "bytes in 16 bits": "c5000161",
    "bytes in 32 bits": "c60000000161",
    "array in 16 bits": "dc000101",
    "array in 32 bits": "dd0000000101",
}
FORBIDDEN = {
    "empty map": "80",
    "map": "8101c0",
    "map in 16 bits": "de0000",
    "map in 32 bits": "df00000000",
    "map with an unhashable key": "8190c0",
    "fixed extension": "d40500",
    "empty extension": "c70005",
    "extension in 16 bits": "c8000005",
    "extension in 32 bits": "c90000000005",
    "timestamp": "d6ff00000000",
    "empty timestamp": "c700ff",
    "reserved byte": "c1",
    "nothing": "",
    "two values": "0101",
    "trailing byte": "9000",
    "bad UTF-8": "a1ff",
    "surrogate in UTF-8": "a3eda080",
    "overlong UTF-8": "a2c080",
    "cut array": "9201",
    "cut text": "a561",
    "array of 2^32 - 1": "ddffffffff",
    "text of 4 GiB": "dbffffffff",
    "bytes of 4 GiB": "c6ffffffff",
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("text", [*LONG_FORMS.values(), *FORBIDDEN.values()])
def test_other_forms_and_types_are_refused(text: str, inside: bool) -> None:
    data = b"\x91" * inside + bytes.fromhex(text)
    with pytest.raises(MalformedError):
        unpack(data, bytes_max=100)


@pytest.mark.parametrize("text", LONG_FORMS.values())
def test_those_forms_do_mean_something(text: str) -> None:
    value = msgpack.unpackb(bytes.fromhex(text))
    assert pack(value) != bytes.fromhex(text)


@pytest.mark.parametrize("value", [0, 127, 128, 255, 256, 2**16, 2**32, 2**63, 2**64 - 1])
def test_integers_on_both_sides_of_every_form(value: int) -> None:
    for number in (value, -min(value, 2**63)):
        assert same(unpack(pack(number), bytes_max=9), number)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400])
def test_a_number_that_has_no_form_is_our_own_mistake(value: int) -> None:
    with pytest.raises(OverflowError):
        pack([value])


@given(st.binary(min_size=8, max_size=8))
def test_every_float_keeps_its_bits(bits: bytes) -> None:
    value = unpack(b"\xcb" + bits, bytes_max=9)
    assert isinstance(value, float)
    assert struct.pack(">d", value) == bits


def test_the_length_bound_is_inclusive() -> None:
    data = pack(b"x" * 100)
    assert unpack(data, bytes_max=len(data)) == b"x" * 100
    with pytest.raises(MalformedError, match="at most 101"):
        unpack(data, bytes_max=len(data) - 1)


@pytest.mark.parametrize("depth", [1025, 2000, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(MalformedError):
        unpack(b"\x91" * depth + b"\xc0", bytes_max=MIB)


def test_an_array_is_bounded_in_length() -> None:
    for length in (ARRAY_LENGTH_MAX - 1, ARRAY_LENGTH_MAX):
        assert unpack(pack([0] * length), bytes_max=MIB) == [0] * length
    with pytest.raises(MalformedError, match="max_array_len"):
        unpack(pack([0] * (ARRAY_LENGTH_MAX + 1)), bytes_max=MIB)


def test_list_headers_alone_do_not_make_long_lists() -> None:
    header = b"\xdd" + (MIB - 10_000).to_bytes(4, "big")
    with pytest.raises(MalformedError, match="max_array_len"):
        unpack((header * 1000).ljust(MIB, b"\0"), bytes_max=MIB)


@pytest.mark.parametrize(
    ("number", "least", "expected"),
    [
        (0, 0, True),
        (-1, 0, False),
        (0, 1, False),
        (1, 1, True),
        (COUNT_MAX, 0, True),
        (COUNT_MAX + 1, 0, False),
        (True, 0, False),
        (False, 0, False),
    ],
)
def test_a_count_is_a_real_integer_within_bounds(number: int, least: int, expected: bool) -> None:
    assert is_count(number, least) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", True),
        ("a" * 8, True),
        ("a" * 9, False),
        ("", False),
        ("a b~!", True),
        ("a\n", False),
        ("a\x1b[2J", False),
        ("a\x7f", False),
        ("é", False),
        ("а", False),  # Cyrillic
    ],
)
def test_a_name_is_short_printable_ascii(text: str, expected: bool) -> None:
    assert is_name(text, 8) is expected


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_sha256_is_over_the_joined_parts(parts: list[bytes]) -> None:
    assert sha256(*parts) == hashlib.sha256(b"".join(parts)).digest()


def test_the_payload_digest_is_blake3() -> None:
    # The first two test vectors of the BLAKE3 authors: inputs of 0 and 1 bytes.
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    zero = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"
    assert payload_digest(b"").hex() == empty
    assert payload_digest(memoryview(b"\0")).hex() == zero


def test_not_a_number_survives_the_journey() -> None:
    value = unpack(pack([math.nan, math.inf]), bytes_max=20)
    assert isinstance(value, list)
    assert math.isnan(value[0])
    assert value[1] == math.inf
