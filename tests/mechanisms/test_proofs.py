"""A proof convicts whoever signed two things that cannot both be, and nobody else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from candor.mechanisms.evidence.examiner import Examiner, PayloadError
from candor.mechanisms.evidence.statements import (
    PAYLOAD_DOMAIN,
    STATEMENT_DOMAIN,
    EvidenceError,
    Row,
)
from candor.mechanisms.ledger.bodies import GENESIS, GENESIS_WINDOW, NO_HASH, Body
from candor.mechanisms.ledger.records import sign_proposal
from candor.mechanisms.proofs import (
    DOUBLE_SIGNED,
    EQUIVOCATION,
    OTHER_PAYLOAD,
    TWO_CLAIMS,
    Proof,
    ProofError,
    equivocation,
    misformed,
    verify_proof,
)
from candor.topologies.encoding.canonical import MalformedError
from tests.golden import assert_golden
from tests.honest import IDS, KEYS, Ring, make_terms, sign

TERMS = make_terms()


def guilty() -> Proof:
    ring = Ring().play(2)
    one = ring.signed[2]["a1"]
    payload = ring.payloads[2]["a1"] + np.float32(1)
    two = sign(ring.state(2, "a1", payload))
    proof = equivocation(one.head, two.head)
    assert proof is not None
    return proof


def sent_other(of: str = "a1", at: int = 2, signer: str = "a1", **changes: object) -> Proof:
    """A statement, and what was signed of a payload that is not what it states."""
    signed = Ring().play(3).signed[at][of]
    signed = sign(replace(signed.statement, **changes)) if changes else signed
    sending = signed.sending(bytes(32))
    second = (sending, KEYS[signer].sign(PAYLOAD_DOMAIN, sending))
    return Proof(OTHER_PAYLOAD, of, (signed.body, signed.signature), second)


def test_who_signs_another_payload_than_it_states_is_guilty() -> None:
    proof = sent_other()
    assert str(verify_proof(Proof.decode(proof.encode()), TERMS)) == (
        "a1: other-payload in round 2: guilty"
    )
    swapped = replace(proof, first=proof.second, second=proof.first)
    with pytest.raises(MalformedError):
        verify_proof(Proof.decode(swapped.encode()), TERMS)


def test_the_golden_payload_proof_keeps_its_bytes_and_holds() -> None:
    """Of a model of four values: small enough to be read."""
    terms = make_terms(dim=4, initial=np.zeros(4, np.float32))
    vectors = [np.array([1, 2, 3, last], np.float32) for last in (4, 5)]
    examiner = Examiner(terms)
    signed = sign(examiner.state(1, 0, "a1", vectors[0], [Row((("a1", 1.0),))]))
    sending = signed.sending(examiner.digest(vectors[1]))
    second = (sending, KEYS["a1"].sign(PAYLOAD_DOMAIN, sending))
    proof = Proof(OTHER_PAYLOAD, "a1", (signed.body, signed.signature), second)
    assert verify_proof(proof, terms).place == "round 1"
    assert_golden(
        "payload_proof.json",
        {
            "about": "An other-payload of round 1, of a model of 4 values that are their own "
            "sketch: the statement is of 1, 2, 3, 4, what is signed of the payload of 1, 2, 3, 5.",
            "identity_public": KEYS["a1"].public.hex(),
            "run": terms.run.hex(),
            "dim": 4,
            "sketch_size": terms.sketch_size,
            "agent": proof.agent,
            "kind": proof.kind,
            "statement": [part.hex() for part in proof.first],
            "payload": [part.hex() for part in proof.second],
            "proof": proof.encode().hex(),
        },
    )


def test_a_payload_that_is_refused_proves_nothing_but_what_was_signed() -> None:
    """Not what somebody else signed, nor what broke on its way: that has no signature."""
    signed, error = Ring().play(2).signed[2]["a1"], PayloadError("payload-digest", bytes(32))
    honest = KEYS["a1"].sign(PAYLOAD_DOMAIN, signed.sending(signed.statement.digest))
    forged = KEYS["a2"].sign(PAYLOAD_DOMAIN, signed.sending(bytes(32)))
    for signature in (honest, forged, bytes(64), b""):
        assert misformed(signed, error, TERMS, signature) is None
    own = KEYS["a1"].sign(PAYLOAD_DOMAIN, signed.sending(bytes(32)))
    assert misformed(signed, error, TERMS, own) == sent_other()


def test_a_payload_convicts_with_the_statement_that_it_went_with_and_no_other() -> None:
    """An agent that states a round twice has sent what it stated, either time."""
    proof, other = sent_other(), sent_other(step_size=9.0)
    honest = Ring().play(2).signed[2]["a1"]
    sending = honest.sending(honest.statement.digest)
    stated = (sending, KEYS["a1"].sign(PAYLOAD_DOMAIN, sending))
    with pytest.raises(ProofError, match="another statement"):
        verify_proof(replace(proof, first=other.first), TERMS)
    with pytest.raises(ProofError, match="is the one stated"):
        verify_proof(replace(proof, second=stated), TERMS)
    with pytest.raises(ProofError, match="another run"):
        verify_proof(sent_other(run=bytes(32)), TERMS)
    for forged in (sent_other(signer="a2"), replace(sent_other(of="a2"), agent="a1")):
        with pytest.raises(ProofError, match="not both signed"):
            verify_proof(forged, TERMS)


def test_two_payloads_for_one_round_are_proof() -> None:
    proof = guilty()
    verdict = verify_proof(Proof.decode(proof.encode()), TERMS)
    assert str(verdict) == "a1: equivocation in round 2: guilty"
    swapped = replace(proof, first=proof.second, second=proof.first)
    assert swapped.encode() == proof.encode()


def test_honest_statements_are_never_proof() -> None:
    """Any two that honest agents have signed, under any kind and name."""
    ring = Ring().play(4)
    heads = [ring.signed[t][agent].head for t in ring.signed for agent in IDS]
    for one in heads:
        for two in heads:
            assert equivocation(one, two) is None
            for kind in (EQUIVOCATION, TWO_CLAIMS, DOUBLE_SIGNED, OTHER_PAYLOAD):
                pair = ((one.signed, one.signature), (two.signed, two.signature))
                with pytest.raises((ProofError, MalformedError)):
                    verify_proof(Proof(kind, "a1", *pair), TERMS)


def test_another_row_over_the_same_payload_is_as_much_a_second_statement() -> None:
    """What it injected depends on the row: with two, it could be measured by either."""
    one = Ring().play(2).signed[2]["a1"]
    other = sign(replace(one.statement, step_size=9.0))
    proof = equivocation(one.head, other.head)
    assert proof is not None
    assert verify_proof(proof, TERMS).malice


@pytest.mark.parametrize(
    "change", [{"round": 3}, {"phase": 1}, {"agent": "a2"}, {"run": bytes(32)}, {}]
)
def test_two_heads_of_different_exchanges_or_the_same_twice_are_no_proof(change) -> None:
    one = Ring().play(2).signed[2]["a1"].head
    moved = replace(one, **change, digest=bytes(32) if change else one.digest)
    other = replace(moved, signature=KEYS["a1"].sign(STATEMENT_DOMAIN, moved.signed))
    assert equivocation(one, other) is None
    pair = ((one.signed, one.signature), (other.signed, other.signature))
    with pytest.raises(ProofError):
        verify_proof(Proof(EQUIVOCATION, "a1", *pair), TERMS)


@pytest.mark.parametrize("made", [guilty, sent_other])
def test_a_thousand_edited_proofs_prove_nothing(made: Callable[[], Proof]) -> None:
    data = made().encode()
    generator = np.random.default_rng(5)
    failed = 0
    for _ in range(1000):
        edited = bytearray(data)
        for _ in range(int(generator.integers(1, 4))):
            at = int(generator.integers(len(edited)))
            match int(generator.integers(3)):
                case 0:
                    edited[at] ^= 1 << int(generator.integers(8))
                case 1:
                    del edited[at]
                case _:
                    edited.insert(at, int(generator.integers(256)))
        if bytes(edited) == data:
            failed += 1  # two flips undid each other
            continue
        with pytest.raises((MalformedError, ProofError, EvidenceError)):
            verify_proof(Proof.decode(bytes(edited)), TERMS)
        failed += 1
    assert failed == 1000


def test_signatures_of_others_and_unknown_agents_prove_nothing() -> None:
    proof = guilty()
    with pytest.raises(ProofError, match="not both signed"):
        verify_proof(replace(proof, agent="a2"), TERMS)
    with pytest.raises(ProofError, match="no public key"):
        verify_proof(replace(proof, agent="a9"), TERMS)
    forged = KEYS["a3"].sign(STATEMENT_DOMAIN, proof.second[0])
    with pytest.raises(ProofError, match="not both signed"):
        verify_proof(replace(proof, second=(proof.second[0], forged)), TERMS)
    with pytest.raises(ProofError, match="the same"):
        verify_proof(replace(proof, second=proof.first), TERMS)


def proposals(first: str = "a1", second: str = "a1", **changes: object) -> Proof:
    """Two bodies of one number, both signed by a1 and naming these proposers."""
    one = Body(
        channel_id=bytes(32),
        seq=0,
        attempt=0,
        prev=NO_HASH,
        proposer=KEYS[first].public,
        window=GENESIS_WINDOW,
        kind=GENESIS,
        delta=0,
        balance_after=0,
        bill_digest_lo=NO_HASH,
        bill_digest_hi=NO_HASH,
        nonce_lo=bytes(16),
        nonce_hi=bytes(16),
    )
    two = replace(one, proposer=KEYS[second].public, **{"prev": b"1" * 32, **changes})
    bodies = (one.encode(), two.encode())
    return Proof(DOUBLE_SIGNED, "a1", *((b, sign_proposal(KEYS["a1"], b)) for b in bodies))


def test_two_proposals_of_one_number_are_proof() -> None:
    assert verify_proof(proposals(), TERMS).malice


@pytest.mark.parametrize(
    "change",
    [
        *({"channel_id": b"1" * 32}, {"seq": 2}, {"attempt": 1}),
        *({"nonce_lo": b"1" * 16}, {"nonce_hi": b"1" * 16}),
    ],
)
def test_two_proposals_of_two_places_or_sessions_are_no_double_signature(change) -> None:
    with pytest.raises(ProofError):
        verify_proof(proposals(**change), TERMS)


@pytest.mark.parametrize(("first", "second"), [("a2", "a1"), ("a1", "a2"), ("a2", "a2")])
def test_proposals_in_the_name_of_another_are_no_proof(first: str, second: str) -> None:
    with pytest.raises(ProofError, match="not proposed by a1"):
        verify_proof(proposals(first, second), TERMS)
