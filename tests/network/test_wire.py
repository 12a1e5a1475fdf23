"""Any frames are an envelope or a RemoteProtocolError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.network.errors import RemoteProtocolError
from candor.network.wire import (
    HEADER_BYTES_MAX,
    LEDGER_KINDS,
    NONCE_BYTES,
    RAW_KINDS,
    Envelope,
    Kind,
    decode,
    encode,
)
from candor.topologies.encoding.canonical import pack
from tests.mutations import mutated

NONCE = bytes(range(NONCE_BYTES))
KINDS = sorted(set(Kind) - RAW_KINDS - {Kind.HELLO})
FIELDS = st.lists(
    st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=9)
    | st.booleans()
    | st.lists(st.binary(max_size=9), max_size=3),
    max_size=5,
)


@given(st.sampled_from(KINDS), FIELDS)
def test_what_is_encoded_is_decoded(kind: Kind, fields: list[object]) -> None:
    envelope = Envelope(kind, NONCE, fields)
    frames = encode(envelope)
    assert len(frames) == 1
    assert decode(frames) == envelope


@given(FIELDS)
def test_a_hello_has_no_nonce(fields: list[object]) -> None:
    envelope = Envelope(Kind.HELLO, b"", fields)
    assert decode(encode(envelope)) == envelope
    with pytest.raises(RemoteProtocolError, match=r"^nonce"):
        decode(encode(Envelope(Kind.HELLO, NONCE, fields)))


def test_a_chunk_passes_its_bytes_on_without_a_copy() -> None:
    data = memoryview(b"payload")
    frames = encode(Envelope(Kind.CHUNK, NONCE, [1, 0], data))
    assert frames[1] is data
    assert decode(frames).data is data


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_frames_are_an_envelope_or_the_senders_fault(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(frames)


ACK = encode(Envelope(Kind.ACK, NONCE, [7, "step-size"]))[0]


@given(mutated(bytes(ACK)))
def test_a_changed_header_is_another_or_the_senders_fault(header: bytes) -> None:
    try:
        envelope = decode([header])
    except RemoteProtocolError:
        return
    assert envelope != decode([ACK])
    assert encode(envelope) == [header]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([], "header"),
        ([3, 5], "header"),
        ([3, 5, "x" * 16], "header"),
        (["3", 5, NONCE], "header"),
        ([3, "5", NONCE], "header"),
        ([True, 5, NONCE], "header"),
        ([3.0, 5, NONCE], "header"),
        ([3, True, b""], "header"),  # equal to HELLO's number
        ([3, 5.0, NONCE], "header"),
        ([-1, 5, NONCE], "header"),
        ([3, -5, NONCE], "header"),
        ([0, 5, NONCE], "version"),
        ([2, 5, NONCE], "version"),
        ([4, 5, NONCE], "version"),
        ([3, 0, NONCE], "kind"),
        ([3, 99, NONCE], "kind"),
        ([3, 5, b""], "nonce"),
        ([3, 5, NONCE[:-1]], "nonce"),
        ([3, 5, NONCE + b"x"], "nonce"),
    ],
)
def test_what_is_no_header_of_ours_has_a_code(fields: list[object], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode([pack(fields)])
    assert caught.value.code == code


@pytest.mark.parametrize("header", [b"", b"\x80", b"\xc1", pack(1), pack("text"), pack(None)])
def test_a_header_is_an_array(header: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^header"):
        decode([header])


@pytest.mark.parametrize("kind", sorted(Kind))
def test_a_raw_frame_goes_with_bulk_and_nothing_else(kind: Kind) -> None:
    header = encode(Envelope(kind, b"" if kind is Kind.HELLO else NONCE, []))[0]
    good, bad = ([header, b"x"], [header]) if kind in RAW_KINDS else ([header], [header, b""])
    assert decode(good).kind is kind
    with pytest.raises(RemoteProtocolError, match=r"^frames"):
        decode(bad)
    for count in (0, 3):
        with pytest.raises(RemoteProtocolError, match=f"^frames: {count}"):
            decode([header] * count)


def test_a_header_is_bounded_in_length() -> None:
    overhead = len(encode(Envelope(Kind.CLAIM, NONCE, [bytes(2**17)]))[0]) - 2**17
    longest = Envelope(Kind.CLAIM, NONCE, [bytes(HEADER_BYTES_MAX - overhead)])
    assert decode(encode(longest)) == longest
    with pytest.raises(RemoteProtocolError, match=r"^header"):
        decode(encode(Envelope(Kind.CLAIM, NONCE, [bytes(HEADER_BYTES_MAX - overhead + 1)])))


def test_the_numbers_of_the_kinds_are_part_of_the_protocol() -> None:
    assert {kind.name: int(kind) for kind in Kind} == {
        "HELLO": 1,
        "UPDATE": 2,
        "WITNESSES": 3,
        "CHUNK": 4,
        "ACK": 5,
        "CLAIM": 6,
        "STATE": 7,
        "PROPOSE": 8,
        "ACCEPT": 9,
        "REJECT": 10,
        "EVIDENCE": 11,
        "RECORDS": 12,
        "BYE": 13,
        "WAITING": 14,
        "BILL": 15,
        "HEADS": 16,
        "ASK": 17,
        "SHOWN": 18,
        "REVISION": 19,
        "RECALL": 20,
        "RETURNED": 21,
    }
    assert {kind.name for kind in LEDGER_KINDS} == {
        "STATE",
        "PROPOSE",
        "ACCEPT",
        "REJECT",
        "RECORDS",
    }
