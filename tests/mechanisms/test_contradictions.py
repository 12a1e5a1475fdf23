"""A claim is proven false by its agent's own signatures, and an honest one never."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candor.mechanisms import proofs
from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.examiner import Examiner, Terms
from candor.mechanisms.evidence.statements import EvidenceError, SignedStatement, commitment
from candor.mechanisms.proofs import CONTRADICTORY, Proof, ProofError, contradiction, verify_proof
from candor.topologies.encoding.canonical import MalformedError, pack, unpack
from tests.golden import assert_golden
from tests.honest import DIM, IDS, KEYS, RUN, WINDOW, Ring, formed_by, make_terms, sign
from tests.mechanisms.evidence.claimed import at_right_angles
from tests.mutations import mutated

TERMS = make_terms()
ROUNDS = 7
NOTHING = (ProofError, MalformedError, EvidenceError)


def claim_of(ring: Ring, agent: str, window: int) -> Claim:
    """What an honest agent claims of a window."""
    first = window * WINDOW + 1
    return Claim(
        *(RUN, window, agent),
        at_right_angles(entry(ring, agent, t) for t in range(first, first + WINDOW)),
    )


def entry(ring: Ring, agent: str, t: int) -> ClaimedRound:
    shown = ring.examine(t, agent)
    heard = tuple(sorted(k for k in ring.rows[t + 1][agent] if k != agent))
    return ClaimedRound(t, shown.energy, heard, shown.trace.astype("<f4").tobytes())


def signed_claim(claim: Claim) -> SignedClaim:
    return SignedClaim.sign(claim, KEYS[claim.agent])


def sources_of(ring: Ring, t: int, agent: str) -> tuple[bytes, ...]:
    return tuple(signed.body for signed in ring.witnesses(t, agent).values())


def stated(ring: Ring, agent: str, window: int) -> list[tuple[SignedStatement, tuple[bytes, ...]]]:
    first = window * WINDOW + 1
    rounds = range(first, first + WINDOW)
    return [(ring.signed[t][agent], sources_of(ring, t, agent)) for t in rounds]


def proof_of(signed: SignedClaim, said: SignedStatement, *sources: bytes) -> Proof:
    claim, statement = (signed.body, signed.signature), (said.body, said.signature)
    return Proof(CONTRADICTORY, said.statement.agent, claim, statement, sources)


def with_round(claim: Claim, t: int, **changes: object) -> Claim:
    rounds = (replace(r, **changes) if r.round == t else r for r in claim.rounds)
    return replace(claim, rounds=at_right_angles(rounds))


def proven(ring: Ring, claim: Claim, terms: Terms = TERMS) -> Proof | None:
    found = contradiction(signed_claim(claim), stated(ring, claim.agent, claim.window), terms)
    if found is not None:
        assert Proof.decode(found.encode()) == found
    return found


RING = Ring().play(ROUNDS)
HONEST = claim_of(RING, "a1", 1)  # rounds 4 to 6: round 4 starts from the next window's sketches
LIES: dict[str, tuple[Callable[[Claim], Claim], int]] = {
    "half the energy": (lambda claim: with_round(claim, 5, energy=claim.rounds[1].energy / 2), 5),
    "a little less": (
        lambda claim: with_round(claim, 5, energy=claim.rounds[1].energy * (1 - 1e-8)),
        5,
    ),
    "nothing in a window's first round": (lambda claim: with_round(claim, 4, energy=0.0), 4),
    "the trace of another round": (
        lambda claim: with_round(claim, 6, trace=claim.rounds[0].trace),
        6,
    ),
    "a trace that is too short": (lambda claim: with_round(claim, 6, trace=bytes(4)), 6),
    "a trace that is not finite": (
        lambda claim: with_round(
            claim, 6, trace=b"\0\0\xc0\x7f" * (len(claim.rounds[0].trace) // 4)
        ),
        6,
    ),
    "nobody mixed": (lambda claim: with_round(claim, 4, heard=()), 4),
    "one neighbour denied": (lambda claim: with_round(claim, 5, heard=("a2",)), 5),
    "one neighbour made up": (lambda claim: with_round(claim, 5, heard=("a0", "a2", "a3")), 5),
    "a round left out": (lambda claim: replace(claim, rounds=claim.rounds[:2]), 6),
    "no round at all": (lambda claim: replace(claim, rounds=()), 4),
}


@pytest.mark.parametrize(("lie", "number"), LIES.values(), ids=LIES)
def test_a_false_claim_is_proven_with_statements_of_its_own_agent(
    lie: Callable[[Claim], Claim], number: int
) -> None:
    proof = proven(RING, lie(HONEST))
    assert proof is not None
    verdict = verify_proof(proof, TERMS)
    assert (verdict.place, verdict.malice) == (f"round {number}", False)
    assert str(verdict) == (
        f"a1: contradictory-claim in round {number}: malice or a restored backup, no guilt"
    )


@pytest.mark.parametrize("sketch_size", [8, DIM])
def test_the_model_as_its_own_sketch_proves_as_much(sketch_size: int) -> None:
    terms = make_terms(sketch_size)
    ring = Ring(terms).play(ROUNDS)
    honest = claim_of(ring, "a1", 1)
    assert proven(ring, honest, terms) is None
    assert proven(ring, with_round(honest, 4, energy=0.0), terms) is not None


def test_an_honest_claim_agrees_with_every_statement_of_its_agent() -> None:
    """Whoever heard nobody or took a neighbour's model is as safe as the others."""
    ring = Ring(scales={"a2": 3.0}, deaf={(2, "a1"), (4, "a3")}, reentries={(5, "a0"): "a1"}).play(
        ROUNDS
    )
    for agent, window in product(IDS, (0, 1)):
        assert proven(ring, claim_of(ring, agent, window)) is None


def test_no_mixture_of_what_honest_agents_signed_is_proof() -> None:
    """Any claim with any statement under any name, whatever sources stand beside them."""
    claims = [signed_claim(claim_of(RING, agent, window)) for agent in IDS for window in (0, 1)]
    said = [RING.signed[t][agent] for t in RING.signed for agent in IDS]
    for claim, statement, agent in product(claims, said, IDS):
        t = statement.statement.round
        for sources in ((), sources_of(RING, t, agent), sources_of(RING, max(2, t - 1), agent)):
            proof = replace(proof_of(claim, statement, *sources), agent=agent)
            with pytest.raises(NOTHING):
                verify_proof(proof, TERMS)


def test_whom_the_last_round_of_a_window_mixed_is_never_held_against_a_row() -> None:
    """Its claim may be of a life that ended before the row was formed."""
    ring = Ring(reentries={(3, "a1"): "a2"}).play(ROUNDS)
    claim = with_round(claim_of(ring, "a1", 0), 3, heard=("a0", "a2"))  # what it mixed at first
    assert proven(ring, claim) is None
    said = ring.signed[4]["a1"]  # its row names a2 alone
    with pytest.raises(ProofError, match="another window"):
        verify_proof(proof_of(signed_claim(claim), said), TERMS)


def test_who_states_a_round_twice_cannot_make_its_neighbour_look_false() -> None:
    """a1 mixed one of a0's two statements and committed to it: the other one proves nothing."""
    ring = Ring().play(4)
    other = sign(ring.state(4, "a0", ring.payloads[4]["a0"] + np.float32(1)))
    ring.play(ROUNDS)
    said, claim = ring.signed[5]["a1"], signed_claim(claim_of(ring, "a1", 1))
    exchanged = (other.body, *sources_of(ring, 5, "a1")[1:])
    with pytest.raises(ProofError, match="commits to"):
        verify_proof(proof_of(claim, said, *exchanged), TERMS)


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s[::-1], lambda s: (*s, s[0])])
def test_sources_left_out_turned_or_added_prove_nothing(change) -> None:
    claim = signed_claim(with_round(HONEST, 5, energy=0.0))
    sources = sources_of(RING, 5, "a1")
    said = RING.signed[5]["a1"]
    verify_proof(proof_of(claim, said, *sources), TERMS)
    with pytest.raises(ProofError, match="commits to"):
        verify_proof(proof_of(claim, said, *change(sources)), TERMS)


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: (*s, s[0])])
def test_who_commits_to_other_sources_than_its_row_names_proves_nothing(change) -> None:
    """Its own signature is over the commitment: only the row tells how many there are."""
    bodies = change(sources_of(RING, 5, "a1"))
    said = sign(replace(RING.signed[5]["a1"].statement, sources=commitment(bodies)))
    with pytest.raises(ProofError, match="commits to"):
        verify_proof(
            proof_of(signed_claim(with_round(HONEST, 5, energy=0.0)), said, *bodies), TERMS
        )


def test_a_claim_of_one_run_and_a_statement_of_another_prove_nothing() -> None:
    """An agent may keep its key from run to run; a false claim of one is no proof in another."""
    false = with_round(HONEST, 5, energy=0.0)
    elsewhere = signed_claim(replace(false, run=bytes(32)))
    said, sources = RING.signed[5]["a1"], sources_of(RING, 5, "a1")
    with pytest.raises(ProofError, match="one agent, run"):
        verify_proof(proof_of(elsewhere, said, *sources), TERMS)
    proof = proof_of(signed_claim(false), said, *sources)
    with pytest.raises(ProofError, match="another run"):
        verify_proof(proof, make_terms(run=bytes(32)))


@pytest.mark.parametrize("factor", [1 + 1e-10, 1 - 1e-10])
def test_rounding_on_another_machine_is_no_contradiction(factor: float) -> None:
    claim = with_round(HONEST, 5, energy=HONEST.rounds[1].energy * factor)
    assert proven(RING, claim) is None


@pytest.mark.parametrize("value", [1e200, 1e100])  # energy and trace overflow; the trace alone
def test_what_is_not_finite_shows_nothing(value: float) -> None:
    """A statement that no neighbour would have accepted, and a claim that cannot be compared."""
    sketch = np.full(8, value).tobytes()
    said = sign(replace(RING.signed[5]["a1"].statement, sketch=sketch))
    with pytest.raises(ProofError, match="not finite"):
        verify_proof(proof_of(signed_claim(HONEST), said, *sources_of(RING, 5, "a1")), TERMS)


@pytest.mark.parametrize(
    ("sketch", "reason"), [(bytes(8), "length"), (b"", "sketch"), (bytes(72), "sketch")]
)
def test_a_source_that_is_none_of_the_run_shows_nothing(sketch: bytes, reason: str) -> None:
    """Its agent committed to it, so nobody mixed its update: there is nothing to be paid for."""
    bodies = [replace(RING.signed[4]["a0"].statement, sketch=sketch, next_sketch=b"").encode()]
    bodies += sources_of(RING, 5, "a1")[1:]
    said = sign(replace(RING.signed[5]["a1"].statement, sources=commitment(bodies)))
    with pytest.raises(NOTHING, match=reason):
        verify_proof(proof_of(signed_claim(HONEST), said, *bodies), TERMS)


def test_the_first_round_of_a_window_needs_the_sketches_under_its_signs() -> None:
    bodies = [replace(RING.signed[3][k].statement, next_sketch=b"").encode() for k in IDS[:3]]
    said = sign(replace(RING.signed[4]["a1"].statement, sources=commitment(bodies)))
    with pytest.raises(ProofError, match="witness-window"):
        verify_proof(proof_of(signed_claim(HONEST), said, *bodies), TERMS)


def test_round_1_has_no_sources_and_only_its_absence_is_proof() -> None:
    """The cluster file holds a digest of the initial model, not the model."""
    honest = claim_of(RING, "a1", 0)
    assert proven(RING, with_round(honest, 1, energy=0.0)) is None
    assert proven(RING, replace(honest, rounds=at_right_angles(honest.rounds[1:]))) is not None


def test_a_proof_that_fits_no_message_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    false = with_round(HONEST, 5, energy=0.0)
    made = proven(RING, false)
    assert made is not None
    size = len(made.encode())
    monkeypatch.setattr(proofs, "PROOF_BYTES_MAX", size)
    assert proven(RING, false) == made
    monkeypatch.setattr(proofs, "PROOF_BYTES_MAX", size - 1)
    with pytest.raises(MalformedError):
        Proof.decode(made.encode())
    assert contradiction(signed_claim(false), stated(RING, "a1", 1), TERMS) is None


# --- edited proofs ------------------------------------------------------------------------------

FALSE = with_round(HONEST, 5, energy=0.0)
GUILTY = proof_of(signed_claim(FALSE), RING.signed[5]["a1"], *sources_of(RING, 5, "a1"))
LEFT_OUT = proof_of(signed_claim(replace(HONEST, rounds=HONEST.rounds[:2])), RING.signed[6]["a1"])


def proves(data: bytes) -> bool:
    try:
        verify_proof(Proof.decode(data), TERMS)
    except NOTHING:
        return False
    return True


@settings(max_examples=400)
@given(st.sampled_from([GUILTY.encode(), LEFT_OUT.encode()]).flatmap(mutated))
def test_a_proof_with_any_byte_changed_proves_nothing(data: bytes) -> None:
    assert not proves(data)


def paths(value: object, at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Where every field of nested arrays is, the signed bodies opened."""
    opened = fields_of(value)
    if opened is None:
        return [at]
    return [path for i, item in enumerate(opened) for path in paths(item, (*at, i))]


def fields_of(value: object) -> list[object] | None:
    if isinstance(value, list):
        return value
    if isinstance(value, bytes) and len(value) > 100:  # a body, not a digest or a signature
        found = unpack(value, bytes_max=len(value))
        return found if isinstance(found, list) else None
    return None


def edited(value: object, path: tuple[int, ...], change: Callable[[object], object]) -> object:
    if not path:
        return change(value)
    opened = fields_of(value)
    assert opened is not None
    opened = [edited(v, path[1:], change) if i == path[0] else v for i, v in enumerate(opened)]
    return pack(opened) if isinstance(value, bytes) else opened


def nudged(value: object) -> object:
    """Another value of the same type."""
    match value:
        case int():
            return value + 1
        case float():
            return value + 0.25
        case str():
            return "a2" if value != "a2" else "a0"
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"\0"
    raise AssertionError(value)


@pytest.mark.parametrize("proof", [GUILTY, LEFT_OUT], ids=["energy", "left out"])
def test_a_proof_with_any_single_field_edited_proves_nothing(proof: Proof) -> None:
    """Whole fields, encoded again canonically: in the proof, in its bodies and in its sources."""
    data = proof.encode()
    fields = unpack(data, bytes_max=len(data))
    assert proves(data)
    places = paths(fields)
    assert len(places) > 30
    for path in places:
        assert not proves(pack(edited(fields, path, nudged))), path


def test_a_thousand_edited_proofs_prove_nothing() -> None:
    generator = np.random.default_rng(11)
    data = GUILTY.encode()
    for _ in range(1000):
        altered = bytearray(data)
        for _ in range(int(generator.integers(1, 4))):
            at = int(generator.integers(len(altered)))
            match int(generator.integers(3)):
                case 0:
                    altered[at] ^= 1 << int(generator.integers(8))
                case 1:
                    del altered[at]
                case _:
                    altered.insert(at, int(generator.integers(256)))
        assert bytes(altered) == data or not proves(bytes(altered))


@pytest.mark.parametrize("kind", [kind for kind in proofs.KINDS if kind != CONTRADICTORY])
def test_under_another_kind_the_same_bodies_prove_nothing(kind: str) -> None:
    with pytest.raises(NOTHING):
        verify_proof(replace(GUILTY, kind=kind), TERMS)


def test_two_bodies_of_one_sort_carry_no_sources() -> None:
    pair = [list(GUILTY.first), list(GUILTY.second)]
    for rest in ([[]], [[b"x"]], [b"x"], [[], []]):
        with pytest.raises(MalformedError):
            Proof.decode(pack([1, "two-claims", "a1", *sorted(pair), *rest]))
    for rest in ([], [["x"]], [b"x"], [[], []]):
        with pytest.raises(MalformedError):
            Proof.decode(pack([1, CONTRADICTORY, "a1", *pair, *rest]))


def test_the_golden_proof_keeps_its_bytes_and_holds() -> None:
    """One round of two, of a model of four values: small enough to be read."""
    terms = make_terms(dim=4, initial=np.zeros(4, np.float32))
    examiner = Examiner(terms)
    said = {
        agent: examiner.state(4, 0, agent, vector(i, 1, 0, -2), [formed_by({agent: 1.0})])
        for i, agent in enumerate(("a0", "a1"))
    }
    sources = [said[agent].encode() for agent in said]
    row = formed_by({"a0": 0.25, "a1": 0.75})
    statement = examiner.state(5, 0, "a1", vector(0.5, 1, 0, 0), [row])
    signed = sign(replace(statement, sources=commitment(sources)))
    trace = np.array([1.0, 0.0, 0.0, -8.0], "<f4").tobytes()
    true = Claim(RUN, 1, "a1", (ClaimedRound(5, 65.0, ("a0",), trace),))
    assert contradiction(signed_claim(true), [(signed, tuple(sources))], terms) is None
    proof = proof_of(signed_claim(with_round(true, 5, energy=16.25)), signed, *sources)
    assert verify_proof(proof, terms).place == "round 5"
    assert_golden(
        "proof.json",
        {
            "about": "A contradictory-claim of round 5 in windows of 3 rounds, of a model of 4 "
            "values that are their own sketch: the claim says that its energy is 16.25, the "
            "statement and the two sources that it commits to show 65.",
            "identity_public": KEYS["a1"].public.hex(),
            "run": RUN.hex(),
            "window": 3,
            "dim": 4,
            "sketch_size": terms.sketch_size,
            "agent": proof.agent,
            "kind": proof.kind,
            "claim": [part.hex() for part in proof.first],
            "statement": [part.hex() for part in proof.second],
            "sources": [body.hex() for body in sources],
            "commitment": commitment(sources).hex(),
            "proof": proof.encode().hex(),
        },
    )


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)
