"""A statement has one layout; whatever else claims to be one is refused."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.evidence.phases import PARTS_MAX, PHASES_MAX
from candor.mechanisms.evidence.statements import (
    ID_CHARS_MAX,
    ROW_LENGTH_MAX,
    Attested,
    EvidenceError,
    Head,
    Row,
    SignedStatement,
    Statement,
    place_of,
    statement_bytes_max,
)
from candor.topologies.encoding.canonical import (
    COUNT_MAX,
    MalformedError,
    Value,
    pack,
    sha256,
    unpack,
)
from candor.topologies.encoding.signatures import SigningKey
from tests.golden import assert_golden
from tests.mutations import mutated

KEY = SigningKey(b"\x03" * 32)
OTHER = SigningKey(b"\x04" * 32)
SKETCH_BYTES = 32
STATEMENT = Statement(
    run=bytes(range(32)),
    round=16,
    phase=1,
    agent="a1",
    codec="float16",
    digest=bytes(range(32, 64)),
    dim=70,
    formed=(
        Row((("a0", 0.25), ("a1", 0.5), ("a2", 0.25))),
        Row((("a0", 0.75), ("a1", 0.25)), "nearest"),
        Attested("median", ("a0", "a2"), bytes(range(160, 192))),
    ),
    step_size=0.125,
    sketch=bytes(range(64, 96)),
    next_sketch=bytes(range(96, 128)),
    sources=bytes(range(128, 160)),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)
SKETCHES = st.binary(min_size=SKETCH_BYTES, max_size=SKETCH_BYTES)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
ROWS = st.builds(
    Row,
    st.dictionaries(IDS, FLOATS, max_size=6).map(lambda row: tuple(sorted(row.items()))),
    st.just("") | NAMES,
)
ATTESTED = st.builds(Attested, NAMES, st.sets(IDS).map(lambda ids: tuple(sorted(ids))), SKETCHES)
STATEMENTS = st.builds(
    Statement,
    run=st.binary(min_size=32, max_size=32),
    round=st.integers(1, COUNT_MAX),
    phase=st.integers(0, PHASES_MAX - 1),
    agent=IDS,
    codec=NAMES,
    digest=st.binary(min_size=32, max_size=32),
    dim=st.integers(1, COUNT_MAX),
    formed=st.tuples(ROWS) | st.tuples(ROWS, ROWS, ATTESTED, ROWS) | st.just(()),
    step_size=FLOATS,
    sketch=SKETCHES,
    next_sketch=SKETCHES | st.just(b""),
    sources=st.binary(min_size=32, max_size=32) | st.just(b""),
    salt=st.binary(min_size=16, max_size=16),
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
STATEMENT = SIGNED.statement  # salted


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
    "phase",
    "agent",
    "codec",
    "digest",
    "dim",
    "formed",
    "step",
    "sketch",
    "next",
    "sources",
    "salt",
)


def with_field(name: str, value: Value) -> bytes:
    fields = unpack(STATEMENT.encode(), bytes_max=2000)
    assert isinstance(fields, list)
    fields[FIELDS.index(name)] = value
    return pack(fields)


LONG_ROW = [[f"a{i:05}", 0.0] for i in range(ROW_LENGTH_MAX + 1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 0),
        ("version", 1),
        ("version", 2),
        ("version", 3),
        ("version", 5),
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
        ("formed", None),
        ("formed", [0]),
        ("formed", [[3, []]]),
        ("formed", [[True, []]]),
        ("formed", [[0, "rule", []]]),
        ("formed", [[1, []]]),
        ("formed", [[1, "", []]]),
        ("formed", [[1, "r" * 33, []]]),
        ("formed", [[2, "rule", []]]),
        ("formed", [[2, "rule", [], b"x" * (SKETCH_BYTES - 8)]]),
        ("formed", [[2, "rule", ["a1", "a0"], b"x" * SKETCH_BYTES]]),
        ("formed", [[2, "rule", [1], b"x" * SKETCH_BYTES]]),
        ("formed", [[2, "rule", [], b"x" * SKETCH_BYTES]] * 2),
        ("formed", [[0, []]] * (PARTS_MAX + 1)),
        ("phase", -1),
        ("phase", PHASES_MAX),
        ("phase", True),
        ("codec", ""),
        ("codec", b"float32"),
        ("formed", [[0, None]]),
        ("formed", [[0, "a0"]]),
        ("formed", [[0, [["a0"]]]]),
        ("formed", [[0, [["a0", 0.5, 0.5]]]]),
        ("formed", [[0, ["a0", 1.0]]]),
        ("formed", [[0, [["a0", 1]]]]),
        ("formed", [[0, [["a0", True]]]]),
        ("formed", [[0, [[b"a0", 1.0]]]]),
        ("formed", [[0, [["", 1.0]]]]),
        ("formed", [[0, [["a" * (ID_CHARS_MAX + 1), 1.0]]]]),
        ("formed", [[0, [["a0", math.nan]]]]),
        ("formed", [[0, [["a0", math.inf]]]]),
        ("formed", [[0, [["a1", 0.5], ["a0", 0.5]]]]),
        ("formed", [[0, [["a0", 0.5], ["a0", 0.5]]]]),
        ("formed", [[0, LONG_ROW]]),
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
        ("formed", []),
        ("formed", [[0, []]] * PARTS_MAX),
        ("phase", 0),
        ("phase", PHASES_MAX - 1),
        ("formed", [[0, [["a" * ID_CHARS_MAX, 1.0]]]]),
        ("formed", [[0, LONG_ROW[:-1]]]),
        ("formed", [[0, [["a0", -0.0]]]]),
        ("next", b""),
        ("sources", b""),
    ],
)
def test_the_bounds_themselves_are_within(name: str, value: Value) -> None:
    body = with_field(name, value)
    assert decode(body).encode() == body


@pytest.mark.parametrize("count", [13, 15])
def test_the_number_of_fields_is_fixed(count: int) -> None:
    fields = unpack(STATEMENT.encode(), bytes_max=2000)
    assert isinstance(fields, list)
    with pytest.raises(MalformedError, match="not (a|the fresh sketches of a) statement"):
        decode(pack([*fields, b""][:count]))


def test_the_longest_statement_fits_and_no_longer_body_is_read() -> None:
    row = Row(tuple((f"{i:0{ID_CHARS_MAX}}", 0.5) for i in range(ROW_LENGTH_MAX)), "r" * 32)
    formed = (row,) * PARTS_MAX
    head = {"agent": "a" * ID_CHARS_MAX, "round": COUNT_MAX, "dim": COUNT_MAX, "codec": "c" * 32}
    longest = replace(STATEMENT, formed=formed, **head)
    assert decode(longest.encode()) == longest
    limit = statement_bytes_max(SKETCH_BYTES)
    assert len(longest.encode()) <= limit
    with pytest.raises(MalformedError, match="not canonical"):
        decode(bytes(limit))
    with pytest.raises(MalformedError, match="are allowed"):
        decode(bytes(limit + 1))


def test_a_head_is_of_its_statement_and_signed_with_it() -> None:
    head = SIGNED.head
    assert Head.decode(head.signed, head.signature) == head
    assert (head.run, *place_of(head)) == (STATEMENT.run, *place_of(STATEMENT))
    assert head.digest == sha256(SIGNED.body)
    assert head.verify(KEY.public)
    assert not replace(head, digest=bytes(32)).verify(KEY.public)
    assert not replace(head, phase=head.phase + 1).verify(KEY.public)
    longest = replace(head, round=COUNT_MAX, phase=PHASES_MAX - 1, agent="a" * ID_CHARS_MAX)
    assert Head.decode(longest.signed, longest.signature) == longest


@pytest.mark.parametrize(
    "change",
    [
        {"run": bytes(31)},
        {"round": 0},
        {"round": True},
        {"phase": PHASES_MAX},
        {"phase": -1},
        {"agent": ""},
        {"agent": "a" * (ID_CHARS_MAX + 1)},
        {"digest": bytes(33)},
        {"signature": bytes(63)},
    ],
)
def test_a_head_out_of_bounds_is_none(change) -> None:
    wrong = replace(SIGNED.head, **change)
    with pytest.raises(MalformedError):
        Head.decode(wrong.signed, wrong.signature)


@given(mutated(SIGNED.head.signed))
def test_other_bytes_of_a_head_are_not_signed(data: bytes) -> None:
    try:
        head = Head.decode(data, SIGNED.signature)
    except MalformedError:
        return
    assert not head.verify(KEY.public)


def test_a_negative_zero_is_not_a_zero() -> None:
    rows = (Row((("a0", zero),)) for zero in (0.0, -0.0))
    positive, negative = (replace(STATEMENT, formed=(row,)) for row in rows)
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
            "about": "A statement of the second phase of a window's last round, formed in each of "
            "the three ways, with an Ed25519 signature over candor/statement/v2 || head, the head "
            "being [run, round, phase, agent, SHA-256 of the body]. The digest and the sketches "
            "are fillers.",
            "identity_seed": (b"\x03" * 32).hex(),
            "identity_public": KEY.public.hex(),
            "run": STATEMENT.run.hex(),
            "round": STATEMENT.round,
            "phase": STATEMENT.phase,
            "agent": STATEMENT.agent,
            "codec": STATEMENT.codec,
            "digest": STATEMENT.digest.hex(),
            "dim": STATEMENT.dim,
            "formed": [
                [0, [["a0", 0.25], ["a1", 0.5], ["a2", 0.25]]],
                [1, "nearest", [["a0", 0.75], ["a1", 0.25]]],
                [2, "median", ["a0", "a2"], bytes(range(160, 192)).hex()],
            ],
            "step_size": STATEMENT.step_size,
            "sketch": STATEMENT.sketch.hex(),
            "next_sketch": STATEMENT.next_sketch.hex(),
            "sources": STATEMENT.sources.hex(),
            "salt": STATEMENT.salt.hex(),
            "body": SIGNED.body.hex(),
            "head": SIGNED.head.signed.hex(),
            "signature": SIGNED.signature.hex(),
        },
    )
