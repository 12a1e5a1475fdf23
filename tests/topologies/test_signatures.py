"""Ed25519 as published, bound to one purpose."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mutations import mutated
from topologies.signatures import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify

ROOT = Path(__file__).parents[2]
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


def test_a_secret_is_never_shown() -> None:
    text = repr(KEY) + str([KEY])
    assert (b"\x07" * 32).hex() not in text
    assert KEY.public.hex()[:16] in text


def test_no_domain_is_the_beginning_of_another() -> None:
    """A tag has no length before it, so its end must be unmistakable."""
    sources = [path for p in ("agent", "mechanisms", "network") for path in ROOT.glob(f"{p}/*.py")]
    found = {
        tag for path in sources for tag in re.findall(r'"(candor/[^"]*/v\d+)"', path.read_text())
    }
    assert {"candor/hello/v1", "candor/statement/v1", "candor/claim/v1"} <= found
    assert not [(a, b) for a in found for b in found if a != b and a.startswith(b)]
