"""A claim has one layout, and two claims tell which rounds their agents shared."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.evidence.claims import (
    CLAIM_BYTES_MAX,
    ENERGY_BOUND,
    Claim,
    ClaimedRound,
    SignedClaim,
    heard_rounds,
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
from tests.mechanisms.evidence.claimed import with_products
from tests.mutations import mutated

KEY = SigningKey(b"\x05" * 32)
OTHER = SigningKey(b"\x06" * 32)


def trace(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


CLAIM = Claim(
    run=bytes(range(32)),
    window=2,
    agent="a1",
    rounds=with_products(
        ClaimedRound(number, energy, heard, trace(*values))
        for number, energy, heard, values in (
            (33, 22.25, ("a0", "a2"), (1.5, -2.0, 0.0, 4.0)),
            (34, 0.0, (), (0.0, 0.0, 0.0, 0.0)),
            (36, 3.5, ("a2",), (0.5, 0.25, 1.75, -0.5)),
        )
    ),
)
SIGNED = SignedClaim.sign(CLAIM, KEY)
CLAIM = SIGNED.claim()  # salted


def claimed(
    found: dict[int, tuple[float, set[str], bytes]], cosines: list[float]
) -> tuple[ClaimedRound, ...]:
    """Rounds with products of such cosines, taken in order."""
    rounds: list[ClaimedRound] = []
    left = iter(cosines)
    for number, (energy, heard, traced) in sorted(found.items()):
        lengths = [math.sqrt(one.energy) * math.sqrt(energy) for one in rounds]
        products = np.array([next(left) * length for length in lengths], "<f8")
        rounds.append(
            ClaimedRound(number, energy, tuple(sorted(heard)), traced, products.tobytes())
        )
    return tuple(rounds)


COSINES = st.floats(-1.0, 1.0)
IDS = st.sampled_from([f"a{i}" for i in range(12)])
TRACES = st.lists(st.floats(allow_nan=False, width=32), max_size=4).map(lambda v: trace(*v))
ROUNDS = st.dictionaries(
    st.integers(1, 40),
    st.tuples(st.floats(0, ENERGY_BOUND), st.sets(IDS, max_size=5), TRACES),
    max_size=6,
).flatmap(
    lambda found: st.lists(COSINES, min_size=15, max_size=15).map(lambda c: claimed(found, c))
)
CLAIMS = st.builds(
    Claim,
    run=st.binary(min_size=32, max_size=32),
    window=st.integers(0, COUNT_MAX),
    agent=IDS,
    rounds=ROUNDS,
    salt=st.binary(min_size=16, max_size=16),
)


@given(CLAIMS)
def test_what_is_encoded_is_decoded(claim: Claim) -> None:
    assert Claim.decode(claim.encode()) == claim


@given(st.binary(max_size=200))
def test_any_bytes_are_a_claim_or_malformed(data: bytes) -> None:
    for decode in (Claim.decode, SignedClaim.decode):
        with pytest.raises(MalformedError):
            decode(data)


@given(mutated(SIGNED.body))
def test_a_changed_body_is_another_claim_and_not_signed(body: bytes) -> None:
    try:
        claim = Claim.decode(body)
    except MalformedError:
        return
    assert claim != CLAIM
    assert not SignedClaim(body, SIGNED.signature).verify(KEY.public)


@given(mutated(SIGNED.encode()))
def test_a_changed_signed_claim_is_refused_or_does_not_verify(data: bytes) -> None:
    try:
        signed = SignedClaim.decode(data)
    except MalformedError:
        return
    assert not signed.verify(KEY.public)


FIELDS = ("version", "run", "window", "agent", "rounds", "salt")


def with_field(name: str, value: Value) -> bytes:
    fields = unpack(CLAIM.encode(), bytes_max=1000)
    assert isinstance(fields, list)
    fields[FIELDS.index(name)] = value
    return pack(fields)


def with_product(first: float, second: float, product: float) -> Value:
    """Two rounds of these energies with this product."""
    inner = np.array([product], "<f8").tobytes()
    return [[33, first, [], b"", b""], [34, second, [], b"", inner]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 1),
        ("version", 2),
        ("version", 3),
        ("version", 5),
        ("version", True),
        ("version", 1.0),
        ("run", b"x" * 31),
        ("run", b"x" * 33),
        ("window", -1),
        ("window", True),
        ("window", 2.0),
        ("window", COUNT_MAX + 1),
        ("agent", b"a1"),
        ("agent", ""),
        ("agent", "a" * 33),
        ("agent", "a\x1b[2J"),
        ("rounds", None),
        ("rounds", [[33, 1.0, []]]),
        ("rounds", [[33, 1.0, [], b"", b"", b""]]),
        ("rounds", [[33, 1.0, [], b""]]),
        ("rounds", [[33, 1.0, [], [], b""]]),
        ("rounds", [[0, 1.0, [], b"", b""]]),
        ("rounds", [[True, 1.0, [], b"", b""]]),
        ("rounds", [[33.0, 1.0, [], b"", b""]]),
        ("rounds", [[COUNT_MAX + 1, 1.0, [], b"", b""]]),
        ("rounds", [[33, 1, [], b"", b""]]),
        ("rounds", [[33, True, [], b"", b""]]),
        ("rounds", [[33, -0.5, [], b"", b""]]),
        ("rounds", [[33, math.nan, [], b"", b""]]),
        ("rounds", [[33, math.inf, [], b"", b""]]),
        ("rounds", [[33, 1.0, "a0", b"", b""]]),
        ("rounds", [[33, 1.0, [b"a0"], b"", b""]]),
        ("rounds", [[33, 1.0, [["a0"]], b""]]),
        ("rounds", [[33, 1.0, [7], b"", b""]]),
        ("rounds", [[33, 1.0, ["a1", "a0"], b"", b""]]),
        ("rounds", [[33, 1.0, ["a0", "a0"], b"", b""]]),
        ("rounds", [[33, 1.0, ["a" * 33], b"", b""]]),
        ("rounds", [[34, 1.0, [], b"", b""], [33, 1.0, [], b"", bytes(8)]]),
        ("rounds", [[33, 1.0, [], b"", b""], [33, 1.0, [], b"", bytes(8)]]),
        ("rounds", [[33, 1.0, [], b"", bytes(8)]]),
        ("rounds", [[33, 1.0, [], b"", []]]),
        ("rounds", [[33, 1.0, [], b"", b""], [34, 1.0, [], b"", b""]]),
        ("rounds", [[33, 1.0, [], b"", b""], [34, 1.0, [], b"", bytes(7)]]),
        ("rounds", [[33, 1.0, [], b"", b""], [34, 1.0, [], b"", bytes(16)]]),
        ("rounds", with_product(1.0, 4.0, 2.1)),
        ("rounds", with_product(1.0, 4.0, -2.1)),
        ("rounds", with_product(0.0, 4.0, 1e-140)),
        ("rounds", with_product(1.0, 4.0, math.nan)),
        ("rounds", with_product(1.0, 4.0, math.inf)),
        ("rounds", [[33, 1.0, [], b"x" * 3, b""]]),
        ("rounds", [[33, 1.0, [], "xxxx", b""]]),
        ("salt", b"s" * 15),
        ("salt", b"s" * 17),
        ("salt", "s" * 16),
    ],
)
def test_a_field_of_another_type_or_out_of_bounds_is_refused(name: str, value: Value) -> None:
    with pytest.raises(MalformedError):
        Claim.decode(with_field(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("window", COUNT_MAX),
        ("rounds", []),
        ("rounds", [[1, 0.0, [], b"", b""]]),
        ("rounds", [[COUNT_MAX, ENERGY_BOUND, ["a" * 32], b"x" * 4, b""]]),
        ("rounds", with_product(1.0, 4.0, 2.0)),
        ("rounds", with_product(1.0, 4.0, -2.0)),
        ("rounds", with_product(ENERGY_BOUND, ENERGY_BOUND, ENERGY_BOUND)),
    ],
)
def test_the_bounds_themselves_are_within(name: str, value: Value) -> None:
    body = with_field(name, value)
    assert Claim.decode(body).encode() == body


def test_a_claim_is_bounded_in_length() -> None:
    def long(size: int) -> Claim:
        return replace(CLAIM, rounds=(ClaimedRound(33, 1.0, (), bytes(size)),))

    room = CLAIM_BYTES_MAX - len(long(2**17).encode()) + 2**17
    longest = long(room - room % 4)
    assert Claim.decode(longest.encode()) == longest
    with pytest.raises(MalformedError, match="are allowed"):
        Claim.decode(long(room - room % 4 + 4).encode())
    with pytest.raises(MalformedError, match="are allowed"):
        Claim.decode(CLAIM.encode(), bytes_max=len(CLAIM.encode()) - 1)


@pytest.mark.parametrize(
    "data",
    [
        pack([SIGNED.body]),
        pack([SIGNED.body, SIGNED.signature, b""]),
        pack([SIGNED.body, SIGNED.signature[:-1]]),
        pack([SIGNED.body, SIGNED.signature + b"x"]),
        pack([b"no claim", SIGNED.signature]),
        pack([SIGNED.signature, SIGNED.body]),
        SIGNED.encode() + b"\0",
    ],
)
def test_another_layout_is_not_a_signed_claim(data: bytes) -> None:
    with pytest.raises(MalformedError):
        SignedClaim.decode(data)


def test_a_signature_is_one_agents_over_this_body() -> None:
    again = SignedClaim.decode(SIGNED.encode())
    assert again == SIGNED
    assert again.claim() == CLAIM
    assert again.digest == sha256(CLAIM.encode())
    assert again.verify(KEY.public)
    assert not again.verify(OTHER.public)


def claim_of(agent: str, heard: dict[int, str]) -> Claim:
    rounds = with_products(
        ClaimedRound(t, 1.0, tuple(who.split()), b"") for t, who in sorted(heard.items())
    )
    return replace(CLAIM, agent=agent, rounds=rounds)


def test_a_member_pays_for_what_the_referee_mixed_of_it() -> None:
    a = claim_of("a0", {1: "a1", 2: "a1 a3", 3: "a3", 4: "a1", 6: "a1"})
    b = claim_of("a1", {1: "a0", 2: "a2", 3: "a0", 4: "a0 a2", 5: "a0", 6: ""})
    assert heard_rounds(a, b) == (1, 2, 4, 6)
    assert heard_rounds(b, a) == (1, 3, 4)  # b stated a round 5 that a did not
    assert heard_rounds(a, claim_of("a2", {1: "a1"})) == ()


def test_the_golden_claim_keeps_its_bytes() -> None:
    assert_golden(
        "claim.json",
        {
            "about": "A claim of a window of 16 rounds in which round 35 was not stated, with an "
            "Ed25519 signature over candor/claim/v1 || body; encoded is [body, signature].",
            "identity_seed": (b"\x05" * 32).hex(),
            "identity_public": KEY.public.hex(),
            "run": CLAIM.run.hex(),
            "window": CLAIM.window,
            "agent": CLAIM.agent,
            "rounds": [
                [
                    *(r.round, r.energy, list(r.heard)),
                    *(np.frombuffer(r.trace, "<f4").tolist(), np.frombuffer(r.products).tolist()),
                ]
                for r in CLAIM.rounds
            ],
            "salt": CLAIM.salt.hex(),
            "body": SIGNED.body.hex(),
            "signature": SIGNED.signature.hex(),
            "encoded": SIGNED.encode().hex(),
            "digest": SIGNED.digest.hex(),
        },
    )
