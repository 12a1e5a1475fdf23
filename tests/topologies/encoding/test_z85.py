"""Z85 agrees with the RFC, and what is no Z85 is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.encoding import z85
from candor.topologies.encoding.canonical import MalformedError


def test_the_vector_of_zeromq_rfc_32() -> None:
    data = bytes.fromhex("864fd26fb559f75b")
    assert z85.encode(data) == "HelloWorld"
    assert z85.decode("HelloWorld") == data


@given(st.binary(max_size=16).map(lambda data: data * 4))
def test_decoding_gives_the_bytes_back(data: bytes) -> None:
    assert z85.decode(z85.encode(data)) == data


@given(st.text(z85.ALPHABET, max_size=40))
def test_a_text_means_one_byte_string_or_none(text: str) -> None:
    try:
        data = z85.decode(text)
    except MalformedError:
        return
    assert z85.encode(data) == text


@pytest.mark.parametrize("text", ["Hell", "Hello~orld", "Hello orld", "Helloé"])
def test_what_is_no_z85_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        z85.decode(text)


def test_a_group_of_32_bits_at_most() -> None:
    assert z85.decode("%nSc0") == b"\xff\xff\xff\xff"
    with pytest.raises(MalformedError, match="larger than 32 bits"):
        z85.decode("%nSc1")


def test_a_length_that_is_no_multiple_of_four_is_our_own_misuse() -> None:
    with pytest.raises(ValueError, match="not a multiple of 4"):
        z85.encode(b"abc")
