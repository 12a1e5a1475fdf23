"""A proof convicts whoever signed two things that cannot both be, and nobody else."""

from dataclasses import replace

import numpy as np
import pytest

from candor.mechanisms.evidence.statements import STATEMENT_DOMAIN, EvidenceError
from candor.mechanisms.proofs import (
    DOUBLE_SIGNED,
    EQUIVOCATION,
    TWO_CLAIMS,
    Proof,
    ProofError,
    equivocation,
    verify_proof,
)
from candor.topologies.encoding.canonical import MalformedError
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
            for kind in (EQUIVOCATION, TWO_CLAIMS, DOUBLE_SIGNED):
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


def test_a_thousand_edited_proofs_prove_nothing() -> None:
    data = guilty().encode()
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
