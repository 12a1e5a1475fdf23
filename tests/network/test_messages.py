"""Every message survives the wire, and any other fields are the sender's fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.network.errors import RemoteProtocolError
from candor.network.messages import (
    CODE_CHARS_MAX,
    HEADS_MAX,
    WITNESSES_BYTES_MAX,
    WITNESSES_MAX,
    Ack,
    Ask,
    Bye,
    Chunk,
    ClaimMessage,
    Heads,
    Hello,
    LedgerMessage,
    Message,
    Recall,
    Returned,
    ShownMessage,
    Update,
    Waiting,
    What,
    Witnesses,
    from_envelope,
    to_envelope,
    valid_nonce,
)
from candor.network.wire import (
    LEDGER_KINDS,
    NONCE_BYTES,
    RAW_KINDS,
    Envelope,
    Kind,
    decode,
    encode,
)
from candor.topologies.encoding.canonical import COUNT_MAX, Value

NONCE = bytes(range(NONCE_BYTES))
COUNTS = st.integers(0, COUNT_MAX)
BYTES = st.binary(max_size=80)
PAIRS = st.lists(st.tuples(BYTES, BYTES), max_size=WITNESSES_MAX).map(tuple)
HEAD = st.tuples(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=64, max_size=64),
)
HEADS = st.lists(HEAD, max_size=4).map(tuple)
CODES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=CODE_CHARS_MAX)
MESSAGES = st.one_of(
    st.builds(Hello, BYTES, BYTES),
    st.builds(Update, BYTES, BYTES, COUNTS),
    st.builds(Witnesses, COUNTS, COUNTS, PAIRS),
    st.builds(Chunk, COUNTS, COUNTS, COUNTS, BYTES),
    st.builds(Ack, COUNTS, COUNTS, CODES),
    st.builds(ClaimMessage, BYTES),
    st.builds(Heads, COUNTS, COUNTS, HEADS),
    st.builds(Waiting, COUNTS, COUNTS),
    st.builds(Ask, COUNTS, COUNTS),
    st.builds(ShownMessage, COUNTS, BYTES, st.just(bytes(64)), COUNTS, BYTES),
    st.builds(Recall),
    st.builds(Returned, st.sampled_from(What), BYTES, st.lists(BYTES).map(tuple), COUNTS),
    st.builds(Bye, st.booleans()),
    st.builds(LedgerMessage, st.sampled_from(sorted(LEDGER_KINDS)), st.lists(BYTES, max_size=4)),
)


@given(MESSAGES)
def test_what_is_sent_is_received(message: Message) -> None:
    frames = encode(to_envelope(message, NONCE))
    assert from_envelope(decode(frames)) == message


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=70)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(Kind)), st.lists(VALUES, max_size=4), st.none() | BYTES)
def test_any_fields_are_a_message_or_the_senders_fault(
    kind: Kind, fields: list[Value], data: bytes | None
) -> None:
    try:
        message = from_envelope(Envelope(kind, NONCE, fields, data))
    except RemoteProtocolError as exc:
        assert exc.code in ("fields", "witnesses", "heads")  # noqa: PT017  either is right
        return
    back = to_envelope(message, NONCE)
    assert (back.kind, list(back.fields)) == (kind, fields)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.HELLO, [b"body"]),
        (Kind.HELLO, [b"body", "signature"]),
        (Kind.HELLO, [b"body", b"signature", b""]),
        (Kind.UPDATE, [b"body", b"signature", 1]),
        (Kind.UPDATE, [b"body", b"signature", -1, bytes(64)]),
        (Kind.UPDATE, [b"body", b"signature", True, bytes(64)]),
        (Kind.UPDATE, [b"body", b"signature", 1.0, bytes(64)]),
        (Kind.UPDATE, [b"body", b"signature", COUNT_MAX + 1, bytes(64)]),
        (Kind.UPDATE, [b"body", b"signature", 1, bytes(63)]),
        (Kind.UPDATE, [b"body", b"signature", 1, bytes(65)]),
        (Kind.UPDATE, [b"body", b"signature", 1, "s" * 64]),
        (Kind.UPDATE, [b"body", b"signature", 1, bytes(64), b""]),
        (Kind.WITNESSES, [1]),
        (Kind.WITNESSES, [1, 0]),
        (Kind.WITNESSES, [1, []]),
        (Kind.WITNESSES, [True, 0, []]),
        (Kind.WITNESSES, [-1, 0, []]),
        (Kind.WITNESSES, [1, False, []]),
        (Kind.WITNESSES, [1, -1, []]),
        (Kind.WITNESSES, [1, 0.0, []]),
        (Kind.WITNESSES, [1, COUNT_MAX + 1, []]),
        (Kind.WITNESSES, [1, 0, b"pairs"]),
        (Kind.WITNESSES, [1, 0, [b"body", b"signature"]]),
        (Kind.WITNESSES, [1, 0, [[b"body"]]]),
        (Kind.WITNESSES, [1, 0, [[b"body", b"signature", b""]]]),
        (Kind.WITNESSES, [1, 0, [["body", b"signature"]]]),
        (Kind.CHUNK, [1]),
        (Kind.CHUNK, [1, 0]),
        (Kind.CHUNK, [1, 0, -1]),
        (Kind.CHUNK, [1, -1, 0]),
        (Kind.CHUNK, [True, 0, 0]),
        (Kind.CHUNK, [1, True, 0]),
        (Kind.CHUNK, [1, 0, False]),
        (Kind.CHUNK, [1, 0, COUNT_MAX + 1]),
        (Kind.CHUNK, [1, COUNT_MAX + 1, 0]),
        (Kind.ACK, [1]),
        (Kind.ACK, [1, ""]),
        (Kind.ACK, [True, 0, ""]),
        (Kind.ACK, [1, True, ""]),
        (Kind.ACK, [1, -1, ""]),
        (Kind.ACK, [1, 0, b"code"]),
        (Kind.ACK, [1, 0, "x" * (CODE_CHARS_MAX + 1)]),
        (Kind.ACK, [1, 0, "two\nlines"]),
        (Kind.ACK, [1, 0, "\x1b[2J"]),
        (Kind.CLAIM, []),
        (Kind.CLAIM, ["claim"]),
        (Kind.CLAIM, [b"claim", b""]),
        (Kind.HEADS, [1, 0]),
        (Kind.HEADS, [1, -1, []]),
        (Kind.HEADS, [True, 0, []]),
        (Kind.HEADS, [1, 0, b"heads"]),
        (Kind.HEADS, [1, 0, ["a0", bytes(32), bytes(64)]]),
        (Kind.HEADS, [1, 0, [["a0", bytes(32)]]]),
        (Kind.HEADS, [1, 0, [["", bytes(32), bytes(64)]]]),
        (Kind.HEADS, [1, 0, [["a" * 33, bytes(32), bytes(64)]]]),
        (Kind.HEADS, [1, 0, [["a0", bytes(31), bytes(64)]]]),
        (Kind.HEADS, [1, 0, [["a0", bytes(32), bytes(65)]]]),
        (Kind.WAITING, []),
        (Kind.WAITING, [1]),
        (Kind.WAITING, [True, 0]),
        (Kind.WAITING, [-1, 0]),
        (Kind.WAITING, [1, True]),
        (Kind.WAITING, [1, -1]),
        (Kind.WAITING, [1, 0, 0]),
        (Kind.RECALL, [1]),
        (Kind.RETURNED, ["claim", b"", []]),
        (Kind.RETURNED, ["claim", b"", [], -1]),
        (Kind.RETURNED, ["claim", b"", ["body"], 1]),
        (Kind.RETURNED, ["claim", "", [], 1]),
        (Kind.RETURNED, ["ledger", b"", [], 1]),
        (Kind.ASK, [1]),
        (Kind.ASK, [1, -1]),
        (Kind.ASK, [True, 0]),
        (Kind.ASK, [1, 0, 0]),
        (Kind.ASK, [1, COUNT_MAX + 1]),
        (Kind.SHOWN, [1, b"body", bytes(64)]),
        (Kind.SHOWN, [1, b"body", bytes(63), 0]),
        (Kind.SHOWN, [1, "body", bytes(64), 0]),
        (Kind.SHOWN, [-1, b"body", bytes(64), 0]),
        (Kind.SHOWN, [1, b"body", bytes(64), True]),
        (Kind.BYE, []),
        (Kind.BYE, [1]),
        (Kind.BYE, [None]),
        (Kind.BYE, [True, True]),
    ],
)
def test_fields_of_wrong_number_type_or_range_are_refused(kind: Kind, fields: list[Value]) -> None:
    data = b"x" if kind in RAW_KINDS else None
    with pytest.raises(RemoteProtocolError, match=f"^fields: not those of a {kind.name}"):
        from_envelope(Envelope(kind, NONCE, fields, data))


def test_a_chunk_has_data() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^fields"):
        from_envelope(Envelope(Kind.CHUNK, NONCE, [1, 0, 0], None))


def test_the_bounds_themselves_are_within() -> None:
    pairs = ((b"b", b"s"),) * WITNESSES_MAX
    for message in (
        Update(b"", b"", COUNT_MAX),
        Chunk(COUNT_MAX, COUNT_MAX, COUNT_MAX, b""),
        Ack(COUNT_MAX, COUNT_MAX, "x" * CODE_CHARS_MAX),
        Witnesses(COUNT_MAX, COUNT_MAX, pairs),
        Heads(COUNT_MAX, COUNT_MAX, (("a" * 32, bytes(32), bytes(64)),) * HEADS_MAX),
        Waiting(COUNT_MAX, COUNT_MAX),
    ):
        assert from_envelope(to_envelope(message, NONCE)) == message
    with pytest.raises(RemoteProtocolError, match=f"^witnesses: {WITNESSES_MAX + 1}"):
        from_envelope(to_envelope(Witnesses(1, 0, (*pairs, (b"b", b"s"))), NONCE))
    heads = (("a0", bytes(32), bytes(64)),) * (HEADS_MAX + 1)
    with pytest.raises(RemoteProtocolError, match=f"^heads: {HEADS_MAX + 1}"):
        from_envelope(to_envelope(Heads(1, 0, heads), NONCE))


def test_a_hello_is_addressed_to_nobody_yet() -> None:
    assert to_envelope(Hello(b"b", b"s"), NONCE).nonce == b""
    assert to_envelope(Bye(True), NONCE).nonce == NONCE


@given(st.lists(st.integers(0, 2**18), min_size=1, max_size=80))
def test_witnesses_are_batched_in_order_within_both_bounds(sizes: list[int]) -> None:
    zeros = bytes(2**18)
    pairs = [(zeros[:size], bytes(64)) for size in sizes]
    batches = Witnesses.batches(5, 1, pairs)
    assert [pair for batch in batches for pair in batch.statements] == pairs
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        length = sum(len(body) + len(signature) for body, signature in batch.statements)
        assert (batch.round, batch.phase) == (5, 1)
        assert 1 <= len(batch.statements) <= WITNESSES_MAX
        assert length <= WITNESSES_BYTES_MAX
        if following is not None:  # no message more than needed
            first = sum(map(len, following.statements[0]))
            full = len(batch.statements) == WITNESSES_MAX
            assert full or length + first > WITNESSES_BYTES_MAX


@pytest.mark.parametrize("excess", [0, 1])
def test_a_batch_is_filled_to_its_last_byte(excess: int) -> None:
    half = WITNESSES_BYTES_MAX // 2
    pairs = [(bytes(half - 64), bytes(64)), (bytes(half - 64 + excess), bytes(64))]
    assert len(Witnesses.batches(1, 0, pairs)) == 1 + excess


def test_a_witness_beyond_the_bound_goes_alone() -> None:
    small, large = (b"b", bytes(64)), (bytes(WITNESSES_BYTES_MAX), bytes(64))
    batches = Witnesses.batches(1, 0, [small, large, small])
    assert [len(batch.statements) for batch in batches] == [1, 1, 1]
    assert Witnesses.batches(1, 0, []) == []


@pytest.mark.parametrize(("length", "expected"), [(0, False), (15, False), (16, True), (17, False)])
def test_a_nonce_has_16_bytes(length: int, expected: bool) -> None:
    assert valid_nonce(bytes(length)) is expected
