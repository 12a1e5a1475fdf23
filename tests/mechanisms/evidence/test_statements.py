"""A statement has one layout; whatever else claims to be one is refused."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.evidence.statements import (
    FIXED_BYTES_MAX,
    ID_CHARS_MAX,
    ROW_LENGTH_MAX,
    EvidenceError,
    SignedStatement,
    Statement,
)
from candor.topologies.encoding.canonical import COUNT_MAX, MalformedError, Value, pack, unpack
from candor.topologies.encoding.signatures import SigningKey
from tests.golden import assert_golden
from tests.mutations import mutated

KEY = SigningKey(b"\x03" * 32)
OTHER = SigningKey(b"\x04" * 32)
SKETCH_BYTES = 32
STATEMENT = Statement(
    run=bytes(range(32)),
    round=16,
    agent="a1",
    digest=bytes(range(32, 64)),
    dim=70,
    row=(("a0", 0.25), ("a1", 0.5), ("a2", 0.25)),
    step_size=0.125,
    sketch=bytes(range(64, 96)),
    next_sketch=bytes(range(96, 128)),
    sources=bytes(range(128, 160)),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)
SKETCHES = st.binary(min_size=SKETCH_BYTES, max_size=SKETCH_BYTES)
STATEMENTS = st.builds(
    Statement,
    run=st.binary(min_size=32, max_size=32),
    round=st.integers(1, COUNT_MAX),
    agent=IDS,
    digest=st.binary(min_size=32, max_size=32),
    dim=st.integers(1, COUNT_MAX),
    row=st.dictionaries(IDS, FLOATS, max_size=6).map(lambda row: tuple(sorted(row.items()))),
    step_size=FLOATS,
    sketch=SKETCHES,
    next_sketch=SKETCHES | st.just(b""),
    sources=st.binary(min_size=32, max_size=32) | st.just(b""),
)


def decode(body: bytes) -> Statement:
    return Statement.decode(body, sketch_bytes_max=SKETCH_BYTES)


@given(STATEMENTS)
def test_what_is_encoded_is_decoded(statement: Statement) -> None:
    assert decode(statement.encode()) == statement


@given(st.binary(max_size=300))
def test_any_bytes_are_a_statement_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(data)


SIGNED = SignedStatement.sign(STATEMENT, KEY)


@given(mutated(SIGNED.body))
def test_a_changed_body_is_another_statement_and_not_signed(body: bytes) -> None:
    try:
        signed = SignedStatement.decode(body, SIGNED.signature, sketch_bytes_max=SKETCH_BYTES)
    except MalformedError:
        return
    assert signed.statement != STATEMENT
    assert not signed.verify(KEY.public)


FIELDS = (
    "version",
    "run",
    "round",
    "agent",
    "digest",
    "dim",
    "row",
    "step",
    "sketch",
    "next",
    "sources",
)


def with_field(name: str, value: Value) -> bytes:
    fields = unpack(STATEMENT.encode(), bytes_max=1000)
    assert isinstance(fields, list)
    fields[FIELDS.index(name)] = value
    return pack(fields)


LONG_ROW = [[f"a{i:05}", 0.0] for i in range(ROW_LENGTH_MAX + 1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 0),
        ("version", 1),
        ("version", 3),
        ("version", True),
        ("version", 1.0),
        ("version", None),
        ("run", b"x" * 31),
        ("run", b"x" * 33),
        ("run", "x" * 32),
        ("round", 0),
        ("round", -1),
        ("round", True),
        ("round", 1.0),
        ("round", COUNT_MAX + 1),
        ("round", 2**64 - 1),
        ("agent", b"a1"),
        ("agent", ""),
        ("agent", "a" * (ID_CHARS_MAX + 1)),
        ("agent", "a\n1"),
        ("agent", "é"),
        ("digest", b"x" * 31),
        ("digest", b"x" * 33),
        ("dim", 0),
        ("dim", True),
        ("dim", 70.0),
        ("dim", COUNT_MAX + 1),
        ("row", None),
        ("row", "a0"),
        ("row", [["a0"]]),
        ("row", [["a0", 0.5, 0.5]]),
        ("row", ["a0", 1.0]),
        ("row", [["a0", 1]]),
        ("row", [["a0", True]]),
        ("row", [[b"a0", 1.0]]),
        ("row", [["", 1.0]]),
        ("row", [["a" * (ID_CHARS_MAX + 1), 1.0]]),
        ("row", [["a0", math.nan]]),
        ("row", [["a0", math.inf]]),
        ("row", [["a1", 0.5], ["a0", 0.5]]),
        ("row", [["a0", 0.5], ["a0", 0.5]]),
        ("row", LONG_ROW),
        ("step", 1),
        ("step", True),
        ("step", None),
        ("sketch", b""),
        ("sketch", b"x" * (SKETCH_BYTES + 1)),
        ("sketch", b"x" * (SKETCH_BYTES - 8)),  # the next one is longer
        ("sketch", "x" * SKETCH_BYTES),
        ("next", b"x" * (SKETCH_BYTES - 1)),
        ("next", b"x" * (SKETCH_BYTES + 8)),
        ("next", None),
        ("sources", b"x" * 31),
        ("sources", b"x" * 33),
        ("sources", None),
    ],
)
def test_a_field_of_another_type_or_out_of_bounds_is_refused(name: str, value: Value) -> None:
    with pytest.raises(MalformedError):
        decode(with_field(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("round", 1),
        ("round", COUNT_MAX),
        ("dim", 1),
        ("dim", COUNT_MAX),
        ("agent", "a" * ID_CHARS_MAX),
        ("row", []),
        ("row", [["a" * ID_CHARS_MAX, 1.0]]),
        ("row", LONG_ROW[:-1]),
        ("row", [["a0", -0.0]]),
        ("next", b""),
        ("sources", b""),
    ],
)
def test_the_bounds_themselves_are_within(name: str, value: Value) -> None:
    body = with_field(name, value)
    assert decode(body).encode() == body


@pytest.mark.parametrize("count", [10, 12])
def test_the_number_of_fields_is_fixed(count: int) -> None:
    fields = unpack(STATEMENT.encode(), bytes_max=1000)
    assert isinstance(fields, list)
    with pytest.raises(MalformedError, match="not a statement"):
        decode(pack([*fields, b""][:count]))


def test_the_longest_statement_fits_and_no_longer_body_is_read() -> None:
    row = tuple((f"{i:0{ID_CHARS_MAX}}", 0.5) for i in range(ROW_LENGTH_MAX))
    longest = replace(STATEMENT, row=row, agent="a" * ID_CHARS_MAX, round=COUNT_MAX, dim=COUNT_MAX)
    assert decode(longest.encode()) == longest
    limit = 2 * SKETCH_BYTES + FIXED_BYTES_MAX + ROW_LENGTH_MAX * (ID_CHARS_MAX + 16)
    assert len(longest.encode()) <= limit
    with pytest.raises(MalformedError, match="not canonical"):
        decode(bytes(limit))
    with pytest.raises(MalformedError, match="are allowed"):
        decode(bytes(limit + 1))


def test_a_negative_zero_is_not_a_zero() -> None:
    positive, negative = (replace(STATEMENT, row=(("a0", zero),)) for zero in (0.0, -0.0))
    assert positive.encode() != negative.encode()


def test_a_step_that_is_no_number_decodes_and_is_left_to_the_schedule() -> None:
    assert math.isnan(decode(with_field("step", math.nan)).step_size)


def test_the_values_are_those_of_the_window_asked_for() -> None:
    # Round 16 is the last of window 0 of 16 rounds.
    own, following = STATEMENT.values(0, 16), STATEMENT.values(1, 16)
    assert own.tobytes() == STATEMENT.sketch
    assert following.tobytes() == STATEMENT.next_sketch
    for window in (2, -1):
        with pytest.raises(EvidenceError, match="witness-window"):
            STATEMENT.values(window, 16)
    with pytest.raises(EvidenceError, match="witness-window"):
        replace(STATEMENT, next_sketch=b"").values(1, 16)


def test_a_signature_is_one_agents_over_this_body() -> None:
    assert SIGNED.verify(KEY.public)
    assert not SIGNED.verify(OTHER.public)
    again = SignedStatement.decode(SIGNED.body, SIGNED.signature, sketch_bytes_max=SKETCH_BYTES)
    assert again == SIGNED


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_has_64_bytes(length: int) -> None:
    with pytest.raises(MalformedError, match="signature"):
        SignedStatement.decode(SIGNED.body, b"x" * length, sketch_bytes_max=SKETCH_BYTES)


def test_the_golden_statement_keeps_its_bytes() -> None:
    assert_golden(
        "statement.json",
        {
            "about": "A statement of the last round of a window of 16, with an Ed25519 signature "
            "over candor/statement/v1 || body. The digest and the sketches are fillers.",
            "identity_seed": (b"\x03" * 32).hex(),
            "identity_public": KEY.public.hex(),
            "run": STATEMENT.run.hex(),
            "round": STATEMENT.round,
            "agent": STATEMENT.agent,
            "digest": STATEMENT.digest.hex(),
            "dim": STATEMENT.dim,
            "row": [list(entry) for entry in STATEMENT.row],
            "step_size": STATEMENT.step_size,
            "sketch": STATEMENT.sketch.hex(),
            "next_sketch": STATEMENT.next_sketch.hex(),
            "sources": STATEMENT.sources.hex(),
            "body": SIGNED.body.hex(),
            "signature": SIGNED.signature.hex(),
        },
    )
