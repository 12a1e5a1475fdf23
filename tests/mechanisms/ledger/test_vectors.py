"""Golden bytes of everything the ledger signs: a change here breaks every ledger that exists."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.ledger.bodies import Body, ChannelTerms
from candor.mechanisms.ledger.export import export_channel, header_of
from candor.mechanisms.ledger.messages import Reject, StateMessage
from candor.mechanisms.ledger.records import Record, sign_acceptance, sign_proposal
from candor.mechanisms.payments.bills import (
    BillTerms,
    SignedBill,
    check_bill,
    edge_delta,
    make_bill,
    parse_rule,
)
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey, verify

VECTORS = Path(__file__).parents[2] / "vectors" / "ledger.json"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(VECTORS.read_text())
    return loaded


@pytest.fixture(scope="module")
def ends(vectors: dict[str, Any]) -> tuple[SigningKey, SigningKey]:
    return (
        SigningKey(bytes.fromhex(vectors["seed_lo"])),
        SigningKey(bytes.fromhex(vectors["seed_hi"])),
    )


@pytest.fixture(scope="module")
def terms(vectors: dict[str, Any], ends: tuple[SigningKey, SigningKey]) -> ChannelTerms:
    return ChannelTerms(
        lo=vectors["lo"],
        hi=vectors["hi"],
        public_lo=ends[0].public,
        public_hi=ends[1].public,
        run_id=vectors["run_id"],
        fingerprint=bytes.fromhex(vectors["fingerprint"]),
        credit_limit=vectors["credit_limit"],
    )


def body_of(fields: dict[str, Any]) -> Body:
    values: dict[str, Any] = {
        name: bytes.fromhex(value) if isinstance(value, str) and name != "kind" else value
        for name, value in fields.items()
    }
    return Body(**values)


def test_the_channel_has_its_id(vectors: dict[str, Any], terms: ChannelTerms) -> None:
    assert terms.channel_id.hex() == vectors["channel_id"]
    named = ["candor/channel/v1", terms.public_lo, terms.public_hi, "demo", terms.fingerprint]
    spelt_out = msgpack.packb([*named, "micro-credit", 1_000_000_000])
    assert hashlib.sha256(spelt_out).hexdigest() == vectors["channel_id"]


def test_claims_give_the_bundles_and_the_delta(
    vectors: dict[str, Any], terms: ChannelTerms, ends: tuple[SigningKey, SigningKey]
) -> None:
    bills = BillTerms(
        run=terms.fingerprint,
        window_rounds=16,
        trace_size=2,
        publics={terms.lo: terms.public_lo, terms.hi: terms.public_hi},
        neighbours={terms.lo: frozenset({terms.hi}), terms.hi: frozenset({terms.lo})},
        payments=parse_rule(vectors["rule"]),
    )
    claims = [SignedClaim.decode(bytes.fromhex(claim)) for claim in vectors["claims"]]
    for claim, key in zip(claims, ends, strict=True):
        assert SignedClaim.sign(claim.claim(), key) == claim
    for i, key in enumerate(ends):
        made = SignedBill.sign(make_bill(bills, claims[i], [claims[1 - i]]), claims, key)
        assert made.encode().hex() == vectors["bundles"][i]
        # The signed bytes spelt out, without the functions under test.
        assert verify(key.public, made.signature, "", b"candor/bill/v1" + made.body)
    lo, hi = (SignedBill.decode(bytes.fromhex(bundle)) for bundle in vectors["bundles"])
    delta = edge_delta(check_bill(bills, lo, "a0"), check_bill(bills, hi, "a1"))
    assert delta == vectors["records"][1]["fields"]["delta"] == 698


def test_records_have_their_bytes_heads_and_signatures(
    vectors: dict[str, Any], ends: tuple[SigningKey, SigningKey]
) -> None:
    for seq, vector in enumerate(vectors["records"]):
        proposer, acceptor = ends[seq % 2], ends[1 - seq % 2]
        body = body_of(vector["fields"])
        data = body.encode()
        assert data.hex() == vector["body"]
        assert Body.decode(data) == body
        assert sha256(data).hex() == vector["head"]
        sig_p = sign_proposal(proposer, data)
        assert sig_p.hex() == vector["sig_p"]
        sig_a = sign_acceptance(acceptor, data, sig_p)
        assert sig_a.hex() == vector["sig_a"]
        # The signed bytes spelt out, without the functions under test.
        assert verify(proposer.public, sig_p, "", b"candor/propose/v1" + data)
        assert verify(acceptor.public, sig_a, "", b"candor/accept/v1" + data + sig_p)


def test_state_and_reject_have_their_signatures(
    vectors: dict[str, Any], terms: ChannelTerms, ends: tuple[SigningKey, SigningKey]
) -> None:
    head = bytes.fromhex(vectors["records"][1]["head"])
    nonce = bytes.fromhex(vectors["state"]["echoed_nonce"])
    state = StateMessage.sign(ends[0], terms.channel_id, nonce, 1, head, answer_wanted=False)
    assert state.signature.hex() == vectors["state"]["signature"]
    reject = Reject.sign(ends[0], terms.channel_id, head, vectors["reject"]["code"])
    assert reject.signature.hex() == vectors["reject"]["signature"]


def test_the_export_has_its_bytes(
    vectors: dict[str, Any], terms: ChannelTerms, ends: tuple[SigningKey, SigningKey]
) -> None:
    evidence = tuple(bytes.fromhex(item) for item in vectors["bundles"])
    records = [
        Record(
            bytes.fromhex(vector["body"]),
            bytes.fromhex(vector["sig_p"]),
            bytes.fromhex(vector["sig_a"]),
            evidence if seq else (),
        )
        for seq, vector in enumerate(vectors["records"])
    ]
    data = export_channel(terms, vectors["lo"], ends[0], records)
    assert data.decode() == vectors["export"]
    assert json.loads(data.splitlines()[0]) == header_of(terms, vectors["lo"])
