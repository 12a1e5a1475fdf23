"""What agents commit to, keep and attest: laws, layouts and the bytes that are compared."""

from dataclasses import replace

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.evidence.attestations import Attestation, AttestedRound, Told
from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.kept import Start, picked, salt_of
from candor.mechanisms.evidence.sample_tree import NODE_CONTEXT, Samples, committed, leaf
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.encoding.signatures import SigningKey
from tests.golden import assert_golden
from tests.mechanisms.evidence.claimed import with_products

RUN, SECRET = bytes(range(32)), b"s" * 32
KEYS = {agent: SigningKey(agent.encode() * 16) for agent in ("a0", "a1", "a2")}
START = Start(
    *(RUN, "a0", 5, Samples(3, b"r" * 32), b"\1\2\3\4" * 6),
    *((("velocity", "<f4", (1, 2), b"v" * 8),), b"private", False, b"n" * 32),
)


def claim_of(agent, energy=1.0):
    rounds = with_products([ClaimedRound(5, energy, (), b""), ClaimedRound(7, energy, (), b"")])
    return SignedClaim.sign(Claim(RUN, 1, agent, rounds), KEYS[agent])


def attestation():
    rounds = (AttestedRound(5, Told.TRUE, b"x" * 32), AttestedRound(9, Told.FALSE, b"y" * 32))
    return Attestation(RUN, "a0", KEYS["a1"].public, START.samples, rounds)


def test_the_bytes_are_those_of_the_vector():
    claims = [claim_of(agent) for agent in KEYS]
    made = {
        "start": START.encode().hex(),
        "opening": START.opening.hex(),
        "salt": salt_of(START.opening, 1).hex(),
        "samples": committed([b"one", b"two", b"three"], SECRET).root.hex(),
        "pick": picked(RUN, "a0", 1, [5, 7, 8], claims),
        "attestation": attestation().sign(KEYS["a1"]).hex(),
    }
    assert_golden("replay.json", made)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=9))
def test_a_root_binds_all_samples_and_their_order(samples):
    """By a tree written the other way: the left part is the largest power of two below all."""

    def node(leaves):
        if len(leaves) == 1:
            return leaves[0]
        half = 1 << (len(leaves) - 1).bit_length() - 1
        parts = node(leaves[:half]) + node(leaves[half:])
        return blake3.blake3(parts, derive_key_context=NODE_CONTEXT).digest()

    found = committed(samples, SECRET)
    leaves = [leaf(place, sample, SECRET) for place, sample in enumerate(samples)]
    assert found == Samples(len(samples), node(leaves))
    assert committed(samples, b"t" * 32).root != found.root
    assert committed([*samples, samples[-1]], SECRET).root != found.root
    assert len(set(leaves)) == len(leaves)  # also of equal samples


@pytest.mark.parametrize(
    "change",
    [
        *({"round": 6}, {"agent": "a1"}, {"samples": Samples(3, b"q" * 32)}, {"model": b""}),
        *({"state": ()}, {"private": b""}, {"fresh": True}, {"nonce": b"m" * 32}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_opening_binds_all_that_a_round_starts_from(change):
    other = replace(START, **change)
    assert other.opening != START.opening
    assert Start.decode(other.encode()) == other


def test_the_coin_is_every_neighbours_and_not_the_agents_own():
    claims = [claim_of(agent) for agent in KEYS]
    rounds = list(range(1, 2**16))
    pick = picked(RUN, "a0", 1, rounds, claims)
    assert pick == picked(RUN, "a0", 1, rounds, claims[::-1])
    assert pick == picked(RUN, "a0", 1, rounds, [claim_of("a0", 2.0), *claims[1:]])
    assert pick != picked(RUN, "a0", 1, rounds, [*claims[:2], claim_of("a2", 2.0)])
    assert pick != picked(RUN, "a0", 1, rounds, claims[:2])
    assert picked(RUN, "a0", 1, rounds, claims[:1]) is None
    assert picked(RUN, "a0", 1, [], claims) is None


def test_an_attestation_is_its_auditors_word():
    said = attestation()
    signed = said.sign(KEYS["a1"])
    assert Attestation.verified(signed) == said
    for other in (said.sign(KEYS["a2"]), signed[:-1], b"", replace(said, rounds=said.rounds[::-1])):
        with pytest.raises(MalformedError):
            Attestation.verified(other if isinstance(other, bytes) else other.sign(KEYS["a1"]))
