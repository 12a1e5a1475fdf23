"""Keys agree with libzmq's, secrets stay out of sight, and a certificate binds what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from candor.network.errors import LocalProtocolError, RemoteProtocolError
from candor.network.identity import (
    CERTIFICATE_BYTES_MAX,
    CERTIFICATE_DOMAIN,
    ENDPOINT_BYTES_MAX,
    INTEGER_MAX,
    RUN_ID_BYTES_MAX,
    Certificate,
    Identity,
    PublicIdentity,
    SignedCertificate,
    curve_public,
    issue,
)
from candor.topologies.encoding import z85
from candor.topologies.encoding.canonical import MalformedError, pack
from candor.topologies.encoding.signatures import SigningKey

VECTOR = Path(__file__).parents[1] / "vectors" / "certificate.json"
IDENTITY = Identity.from_seeds(bytes(range(32)), bytes(range(32, 64)))
OTHER = Identity.from_seeds(b"\x01" * 32, b"\x02" * 32)
ENDPOINT = "tcp://127.0.0.1:7000"


def issued(**changes: object) -> SignedCertificate:
    fields = {
        "run_id": "demo",
        "curve": IDENTITY.curve_public,
        "endpoint": ENDPOINT,
        "serial": 1,
        "not_after_s": 2_000_000_000,
    }
    return issue(IDENTITY.signing_key, **(fields | changes))


def check(signed: SignedCertificate, now_s: float = 1e9, **changes: object) -> None:
    fields = {
        "identity_public": IDENTITY.signing_key.public,
        "run_id": "demo",
        "curve": IDENTITY.curve_public,
        "endpoint": ENDPOINT,
    }
    signed.check(**(fields | changes), now_s=now_s)


@given(st.binary(min_size=32, max_size=32))
def test_libzmq_derives_the_same_public_key(seed: bytes) -> None:
    assert curve_public(seed) == zmq.curve_public(z85.encode(seed).encode()).decode()


def test_libzmqs_own_pair_is_a_pair_here_too() -> None:
    public, secret = zmq.curve_keypair()
    assert curve_public(z85.decode(secret.decode())) == public.decode()


def test_no_secret_is_ever_shown() -> None:
    for text in (repr(IDENTITY), str(IDENTITY), f"{IDENTITY}", repr([IDENTITY])):
        assert IDENTITY.curve_public in text
        assert IDENTITY.curve_secret not in text
        assert bytes(range(32)).hex() not in text


@pytest.mark.parametrize(("identity", "curve"), [(31, 32), (33, 32), (32, 31), (32, 33), (0, 32)])
def test_a_seed_has_32_bytes(identity: int, curve: int) -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Identity.from_seeds(b"x" * identity, b"x" * curve)


@pytest.mark.parametrize(
    ("identity", "curve"),
    [
        (b"x" * 31, OTHER.curve_public),
        (b"x" * 33, OTHER.curve_public),
        (b"x" * 32, OTHER.curve_public[:-5]),
        (b"x" * 32, OTHER.curve_public + "00000"),
        (b"x" * 32, "~" * 40),
        (b"x" * 32, "#" * 40),
    ],
)
def test_public_halves_have_their_sizes(identity: bytes, curve: str) -> None:
    with pytest.raises(MalformedError):
        PublicIdentity(identity, curve)


def test_the_public_half_has_no_secret() -> None:
    assert IDENTITY.public == PublicIdentity(IDENTITY.signing_key.public, IDENTITY.curve_public)


def test_the_golden_certificate_keeps_its_bytes() -> None:
    vector = json.loads(VECTOR.read_text())
    identity = Identity.from_seeds(
        bytes.fromhex(vector["identity_seed"]), bytes.fromhex(vector["curve_seed"])
    )
    assert identity.signing_key.public.hex() == vector["identity_public"]
    assert identity.curve_public == vector["curve_public"]
    fields = {name: vector[name] for name in ("run_id", "endpoint", "serial", "not_after_s")}
    signed = issue(identity.signing_key, curve=identity.curve_public, **fields)
    assert signed.certificate.body.hex() == vector["body"]
    assert signed.signature.hex() == vector["signature"]
    assert signed.encode().hex() == vector["encoded"]


def test_a_valid_certificate_is_accepted() -> None:
    check(SignedCertificate.decode(issued().encode()))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"identity_public": OTHER.signing_key.public}, "certificate-signature"),
        ({"identity_public": b"short"}, "certificate-signature"),
        ({"run_id": "other"}, "certificate-run"),
        ({"curve": OTHER.curve_public}, "certificate-key"),
        ({"endpoint": "tcp://127.0.0.1:7001"}, "certificate-endpoint"),
        ({"now_s": 2_000_000_000.5}, "certificate-expired"),
    ],
)
def test_what_does_not_hold_is_refused_with_its_code(changes: dict[str, object], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check(issued(), **changes)
    assert caught.value.code == code


def test_the_last_second_is_valid() -> None:
    check(issued(), now_s=2_000_000_000)


def test_no_expiry_never_expires() -> None:
    check(issued(not_after_s=0), now_s=1e15)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "demo2"},
        {"curve": OTHER.curve_public},
        {"endpoint": "tcp://127.0.0.1:7001"},
        {"serial": 2},
        {"not_after_s": 0},
    ],
)
def test_a_changed_field_breaks_the_signature(changes: dict[str, object]) -> None:
    signed = issued()
    forged = replace(signed, certificate=replace(signed.certificate, **changes))
    matching = {
        name: value for name, value in changes.items() if name in ("run_id", "curve", "endpoint")
    }
    with pytest.raises(RemoteProtocolError, match="certificate-signature"):
        check(forged, **matching)


def test_a_signature_for_another_purpose_is_worthless() -> None:
    body = issued().certificate.body
    for domain in ("candor/statement/v2", "", CERTIFICATE_DOMAIN + "\0"):
        signed = SignedCertificate(issued().certificate, IDENTITY.signing_key.sign(domain, body))
        with pytest.raises(RemoteProtocolError, match="certificate-signature"):
            check(signed)


LINE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)


@given(
    LINE.filter(lambda text: len(text) <= RUN_ID_BYTES_MAX),
    st.binary(min_size=32, max_size=32),
    LINE.filter(lambda text: len(text) <= ENDPOINT_BYTES_MAX),
    st.integers(0, INTEGER_MAX),
    st.integers(0, INTEGER_MAX),
)
def test_decoding_gives_the_certificate_back(
    run_id: str, curve_seed: bytes, endpoint: str, serial: int, not_after_s: int
) -> None:
    signed = issued(
        run_id=run_id,
        curve=curve_public(curve_seed),
        endpoint=endpoint,
        serial=serial,
        not_after_s=not_after_s,
    )
    assert SignedCertificate.decode(signed.encode()) == signed


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    try:
        signed = SignedCertificate.decode(data)
    except MalformedError:
        return
    assert signed.encode() == data


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_malformed_or_refused(place: int, byte: int) -> None:
    data = bytearray(issued().encode())
    place %= len(data)
    if data[place] == byte:
        return
    data[place] = byte
    with pytest.raises((MalformedError, RemoteProtocolError)):
        check(SignedCertificate.decode(bytes(data)))


def test_the_longest_certificate_fits_its_bound() -> None:
    signed = issued(
        run_id="r" * RUN_ID_BYTES_MAX,
        endpoint="e" * ENDPOINT_BYTES_MAX,
        serial=INTEGER_MAX,
        not_after_s=INTEGER_MAX,
    )
    assert len(signed.encode()) == 468 < CERTIFICATE_BYTES_MAX
    assert SignedCertificate.decode(memoryview(signed.encode())) == signed


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": ""},
        {"run_id": "r" * (RUN_ID_BYTES_MAX + 1)},
        {"run_id": "dém"},
        {"run_id": "a\nb"},
        {"endpoint": ""},
        {"endpoint": "e" * (ENDPOINT_BYTES_MAX + 1)},
        {"curve": "0" * 35},
        {"curve": "0" * 45},
        {"curve": "~" * 40},
        {"serial": -1},
        {"serial": INTEGER_MAX + 1},
        {"not_after_s": -1},
        {"not_after_s": INTEGER_MAX + 1},
    ],
)
def test_a_field_out_of_bounds_is_neither_issued_nor_decoded(changes: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError, match="cannot issue"):
        issued(**changes)
    stated = issued().certificate
    names = ("run_id", "curve", "endpoint", "serial", "not_after_s")
    values = [changes.get(name, getattr(stated, name)) for name in names]
    with pytest.raises(MalformedError):
        SignedCertificate.decode(pack([*values, b"\0" * 64]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1, 0],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1, 0, b"\0" * 64, 0],
        ["demo", IDENTITY.curve_public, ENDPOINT, True, 0, b"\0" * 64],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1, False, b"\0" * 64],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1.0, 0, b"\0" * 64],
        [b"demo", IDENTITY.curve_public, ENDPOINT, 1, 0, b"\0" * 64],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1, 0, "\0" * 64],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1, 0, b"\0" * 63],
        ["demo", IDENTITY.curve_public, ENDPOINT, 1, 0, b"\0" * 65],
    ],
)
def test_another_shape_is_malformed(value: object) -> None:
    with pytest.raises(MalformedError):
        SignedCertificate.decode(pack(value))


def test_trailing_bytes_are_malformed() -> None:
    with pytest.raises(MalformedError):
        SignedCertificate.decode(issued().encode() + b"\0")


def test_a_certificate_is_checked_by_its_constructor_too() -> None:
    with pytest.raises(MalformedError):
        Certificate("demo", IDENTITY.curve_public, ENDPOINT, -1, 0)


def test_the_signer_is_the_identity_not_the_curve_key() -> None:
    stranger = issue(
        SigningKey(b"\x03" * 32),
        run_id="demo",
        curve=IDENTITY.curve_public,
        endpoint=ENDPOINT,
        serial=1,
    )
    with pytest.raises(RemoteProtocolError, match="certificate-signature"):
        check(stranger)
