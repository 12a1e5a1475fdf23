"""Ed25519 as published, bound to one purpose."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.encoding import signatures
from candor.topologies.encoding.signatures import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    SigningKey,
    is_sound,
    verify,
)
from tests.mutations import mutated

ROOT = Path(__file__).parents[3]
KEY = SigningKey(b"\x07" * 32)
DOMAIN = "candor/test/v1"


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_the_published_vectors_hold(seed: str, public: str, message: str, signature: str) -> None:
    """RFC 8032, 7.1, tests 1 and 2: an empty domain leaves plain Ed25519."""
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.hex() == public
    assert key.sign("", bytes.fromhex(message)).hex() == signature
    assert verify(key.public, bytes.fromhex(signature), "", bytes.fromhex(message))


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_what_is_signed_verifies_whole_or_in_parts(parts: list[bytes]) -> None:
    signature = KEY.sign(DOMAIN, *parts)
    assert len(signature) == SIGNATURE_BYTES
    assert verify(KEY.public, signature, DOMAIN, *parts)
    assert verify(KEY.public, signature, DOMAIN, b"".join(parts))


def test_a_signature_serves_one_domain_key_and_message() -> None:
    signature = KEY.sign(DOMAIN, b"text")
    assert not verify(KEY.public, signature, "candor/other/v1", b"text")
    assert not verify(SigningKey(b"\x08" * 32).public, signature, DOMAIN, b"text")
    assert not verify(KEY.public, signature, DOMAIN, b"Text")


@given(mutated(KEY.sign(DOMAIN, b"text")))
def test_a_changed_signature_never_verifies(signature: bytes) -> None:
    assert not verify(KEY.public, signature, DOMAIN, b"text")


@given(st.binary(max_size=PUBLIC_KEY_BYTES + 1).filter(lambda key: key != KEY.public))
def test_any_other_key_is_refused_without_an_error(public: bytes) -> None:
    assert not verify(public, KEY.sign(DOMAIN, b"text"), DOMAIN, b"text")


PRIME = 2**255 - 19
D = -121665 * pow(121666, -1, PRIME) % PRIME


def root(square: int) -> int | None:
    """A square root in the curve's field (RFC 8032, 5.1.3)."""
    found = pow(square, (PRIME + 3) // 8, PRIME)
    for candidate in (found, found * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
        if candidate * candidate % PRIME == square % PRIME:
            return candidate
    return None


def added(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """The sum of two points, as x and y (RFC 8032, 5.1.4, in affine coordinates)."""
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, PRIME)
    return x % PRIME, y % PRIME


def order(y: int) -> int:
    """How often a point with this y is added to itself until it is zero; at most 8."""
    x = root((y * y - 1) * pow(D * y * y + 1, -1, PRIME))
    assert x is not None
    point = total = (x, y)
    for times in range(1, 8):
        if total == (0, 1):
            return times
        total = added(total, point)
    assert total == (0, 1)
    return 8


def test_the_keys_of_small_order_are_all_there_are() -> None:
    """Eight points: zero, one of order 2, two of order 4, four of order 8, x of both signs."""
    assert sorted(map(order, signatures._SMALL_ORDER)) == [1, 2, 4, 8, 8]


WEAK = [
    (named | sign << 255).to_bytes(32, "little")
    for y in sorted(signatures._SMALL_ORDER)
    for named in (y, y + PRIME)
    for sign in (0, 1)
    if named < 1 << 255
]


@pytest.mark.parametrize("public", WEAK, ids=bytes.hex)
def test_nobody_has_a_key_of_small_order(public: bytes) -> None:
    """A library takes this signature for some of the messages, for zero's key for all."""
    assert not is_sound(public)
    signature = (1).to_bytes(32, "little") + bytes(32)
    for message in (b"%d" % i for i in range(32)):
        assert not verify(public, signature, DOMAIN, message)


def test_a_key_has_one_name() -> None:
    sound = [y for y in range(2, 19) if root((y * y - 1) * pow(D * y * y + 1, -1, PRIME))]
    assert sound
    for y in sound:
        assert is_sound(y.to_bytes(32, "little"))
        assert not is_sound((y + PRIME).to_bytes(32, "little"))
    assert not is_sound(KEY.public + b"\0")


@given(st.binary(min_size=32, max_size=32))
def test_every_key_that_is_made_is_sound(seed: bytes) -> None:
    assert is_sound(SigningKey(seed).public)


def test_a_secret_is_never_shown() -> None:
    text = repr(KEY) + str([KEY])
    assert (b"\x07" * 32).hex() not in text
    assert KEY.public.hex()[:16] in text


def test_no_domain_is_the_beginning_of_another() -> None:
    """A tag has no length before it, so its end must be unmistakable."""
    sources = [
        path for p in ("agent", "mechanisms", "network") for path in ROOT.glob(f"{p}/**/*.py")
    ]
    found = {
        tag for path in sources for tag in re.findall(r'"(candor/[^"]*/v\d+)"', path.read_text())
    }
    assert {"candor/hello/v1", "candor/statement/v2", "candor/claim/v1"} <= found
    assert not [(a, b) for a in found for b in found if a != b and a.startswith(b)]


def test_salts_are_the_keys_own_and_do_not_change() -> None:
    key = SigningKey(b"\x07" * 32)
    assert key.salt(b"a", b"b") == SigningKey(b"\x07" * 32).salt(b"ab")
    salts = {key.salt(b"a"), key.salt(b"b"), SigningKey(b"\x08" * 32).salt(b"a")}
    assert len(salts) == 3
    assert {len(salt) for salt in salts} == {16}
