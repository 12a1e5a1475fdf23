"""Who states another row than follows from what it heard convicts itself, and nobody else is."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candor.agent.algorithms.catalogue import phases_of
from candor.agent.algorithms.decbyzpg import decentralized_policy_gradient
from candor.agent.algorithms.dsgd import decentralized_sgd
from candor.mechanisms.evidence.examiner import NOT_AS_FORMED, RunTerms
from candor.mechanisms.evidence.phases import Phases
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    Formed,
    Row,
    SignedStatement,
    commitment,
)
from candor.mechanisms.proofs import (
    NOTHING,
    OF_ONE,
    WRONG_ROW,
    Proof,
    ProofError,
    misformed,
    verify_proof,
)
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.encoding.canonical import MalformedError
from tests.honest import DIM, IDS, WEIGHTS, WINDOW, Vector, sign
from tests.mutations import mutated
from tests.phased import PhasedRing, Place, phased_terms

ROUNDS = 4  # the first of a window among them
POLICIES = "dec-byz-pg"
SPECS = dict.fromkeys(("rfa", "multi-krum", "nnm + krum", "mda"), "decentralized-sgd")
SPECS["rfa:floor=0.1,start=zero"] = POLICIES  # and agreement
EACH = pytest.mark.parametrize("spec", SPECS)
OF_ROWS = (WRONG_ROW, NOT_AS_FORMED)


def phases(spec: str) -> Phases:
    settled = AlgorithmSettings(
        name=SPECS[spec],
        step_size=0.5,
        step_decay=0.0,
        local_steps=1,
        aggregator=spec,
        max_byzantine=1,
        agreement_rounds=3 if SPECS[spec] == POLICIES else None,
    )
    return phases_of(settled)


@lru_cache(maxsize=32)
def ring_of(spec: str, seed: int, *, faults: bool = False) -> PhasedRing:
    """Rounds of random gradients; with faults somebody is deaf now and then, or comes back."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((len(IDS), ROUNDS + 1, DIM)).astype(np.float32)
    terms = phased_terms(phases(spec))
    count = terms.phases.count
    deaf: set[Place] = set()
    if faults:
        deaf = {(int(generator.integers(1, ROUNDS)), p, "a1") for p in range(count)}
    return PhasedRing(
        decentralized_policy_gradient if SPECS[spec] == POLICIES else decentralized_sgd,
        terms,
        reports=lambda agent, t: drawn[IDS.index(agent), t],
        deaf=frozenset(deaf),
        reentries={(3, "a2"): "a3"} if faults else {},
    ).play(ROUNDS)


def alone(ring: PhasedRing) -> RunTerms:
    """What a third party knows: no model, no schedule of steps."""
    terms = ring.terms
    return RunTerms(
        *(
            terms.run,
            terms.dim,
            terms.sketch_size,
            terms.window_rounds,
            terms.publics,
            terms.phases,
        ),
        weights=terms.weights,
        rounds=terms.rounds,
        precision=terms.precision,
    )


def derived(ring: PhasedRing) -> Iterator[tuple[Place, int]]:
    """The statements with a row that follows from sketches, and which part that is."""
    for place, signed in ring.signed.items():
        for number, part in enumerate(signed.statement.formed):
            if isinstance(part, Row) and part.rule:
                yield place, number


def told(
    ring: PhasedRing, place: Place, part: int, row: dict[str, float]
) -> tuple[SignedStatement, tuple[Formed, ...]]:
    """What an agent signs that names another row for a part, with what it then commits to."""
    said = ring.signed[place].statement
    kept = said.formed[part]
    assert isinstance(kept, Row)
    other = replace(kept, weights=tuple(sorted(row.items())))
    formed = (*said.formed[:part], other, *said.formed[part + 1 :])
    bodies = (one.body for one in ring._sources(*place[:2], formed).values())
    return sign(replace(said, formed=formed, sources=commitment(bodies))), formed


def convicted(ring: PhasedRing, place: Place, part: int, row: dict[str, float]) -> Proof | None:
    """The proof that a neighbour holds, which must be refusing; None where it has nothing against
    that row."""
    signed, formed = told(ring, place, part, row)
    sources = ring._sources(*place[:2], formed)
    try:
        ring.examine(*place, signed=signed, witnesses=sources)
    except EvidenceError as exc:
        found = misformed(signed, exc, ring.terms)
        if exc.code == "mixing-row":
            assert found is not None
        return found
    return None


def row_of(ring: PhasedRing, place: Place, part: int) -> dict[str, float]:
    formed = ring.signed[place].statement.formed[part]
    assert isinstance(formed, Row)
    return dict(formed.weights)


def swapped(row: dict[str, float]) -> dict[str, float]:
    return dict(zip(row, [*list(row.values())[1:], next(iter(row.values()))], strict=True))


@EACH
def test_any_other_row_of_those_that_were_heard_is_proven(spec: str) -> None:
    """Weights of the graph or of another agent, of one's own vector alone, of sketches that nobody
    stated, and the last bit of one weight."""
    ring = ring_of(spec, 1)
    generator = np.random.default_rng(1)
    places = list(derived(ring))
    assert len(places) >= 4 * (ROUNDS - 1)
    for place, part in places:
        t, phase, agent = place
        honest = row_of(ring, place, part)
        shown = ring.phases.phases[phase].parts[part]
        of_round = t - shown.before
        sketches = {k: generator.standard_normal(8) for k in honest}
        taken = WEIGHTS.taken[agent]
        weights = {k: taken.get(k, 0.5) for k in honest}
        heaviest = max(honest, key=lambda k: honest[k])
        for other in (
            weights,
            swapped(honest),
            {k: float(k == agent) for k in honest},
            ring.phases.rows[shown.rule](agent, of_round, weights, sketches),
            honest | {heaviest: float(np.nextafter(honest[heaviest], 2))},
        ):
            if other == honest:
                continue
            proof = convicted(ring, place, part, other)
            assert proof is not None
            assert Proof.decode(proof.encode()) == proof
            verdict = verify_proof(proof, alone(ring))
            assert str(verdict) == f"{agent}: wrong-row in round {t}: guilty"


@EACH
def test_a_row_without_somebody_must_be_the_one_of_the_others(spec: str) -> None:
    """Who was not heard nobody can tell from who was left out; but the weights are then those that
    the others' sketches give."""
    ring = ring_of(spec, 0)
    proven = 0
    for place, part in derived(ring):
        t, phase, agent = place
        honest = row_of(ring, place, part)
        left_out = next(k for k in honest if k != agent)
        rest = {k: w for k, w in honest.items() if k != left_out}
        shown = ring.phases.phases[phase].parts[part]
        of_round = t - shown.before
        stated = {k: ring.signed[of_round, shown.phase, k].statement for k in rest}
        due = ring.examiner.derived_row(agent, of_round, shown.rule, stated)
        assert set(due) == set(rest)
        found = convicted(ring, place, part, due)
        assert found is None or found.kind == NOT_AS_FORMED  # the vector is of the whole row
        if rest != due:
            found = convicted(ring, place, part, rest)
            assert found is not None
            assert found.kind == WRONG_ROW
            proven += 1
    assert proven


@EACH
def test_no_honest_statement_is_proof_whatever_stands_beside_it(spec: str) -> None:
    for faults in (False, True):
        ring = ring_of(spec, 1, faults=faults)
        bodies = {
            place: tuple(one.body for one in ring.witnesses(*place).values())
            for place in ring.signed
        }
        for place, signed in ring.signed.items():
            said, elsewhere = (signed.body, signed.signature), (1, 0, place[2])
            before = (max(1, place[0] - 1), *place[1:])
            for kind in OF_ONE:
                for sources in (bodies[place], bodies[before], bodies[elsewhere], ()):
                    proof = Proof(kind, place[2], said, NOTHING, sources)
                    with pytest.raises((ProofError, MalformedError)):
                        verify_proof(proof, ring.terms)


@given(seed=st.integers(0, 2**32), size=st.floats(-6, 6), start=st.floats(-3, 3))
@settings(max_examples=6)
def test_random_honest_agents_are_neither_refused_nor_proven_wrong(
    seed: int, size: float, start: float
) -> None:
    """Policies that agree or are far apart, gradients of any length."""
    generator = np.random.default_rng(seed)

    def drawn(power: float) -> Vector:
        return (10.0**power * generator.standard_normal(DIM)).astype(np.float32)

    reports = {(agent, t): drawn(size) for agent in IDS for t in range(1, 5)}
    terms = phased_terms(phases("rfa:floor=0.1,start=zero"), initial=drawn(start))
    ring = PhasedRing(
        decentralized_policy_gradient, terms, reports=lambda agent, t: reports[agent, t]
    ).play(4)
    for place, signed in ring.signed.items():
        ring.examine(*place)
        sources = tuple(one.body for one in ring.witnesses(*place).values())
        for kind in OF_ONE:
            proof = Proof(kind, place[2], (signed.body, signed.signature), NOTHING, sources)
            with pytest.raises(ProofError):
                verify_proof(proof, ring.terms)


def moved(ring: PhasedRing, place: Place) -> Proof | None:
    """The proof of a vector in agreement that is not what its row gives."""
    payload = ring.payloads[place] + np.float32(0.25)
    signed = ring.state(*place, payload)
    with pytest.raises(EvidenceError, match="^not-as-formed") as caught:
        ring.examine(*place, signed=signed, payload=payload)
    return misformed(signed, caught.value, ring.terms)


def test_who_applies_another_row_in_agreement_than_it_states_is_proven() -> None:
    """Not to be guilty: what is hidden from sketches adds to the rounding of who mixes it."""
    ring = ring_of("rfa:floor=0.1,start=zero", 1)
    for t in range(1, ROUNDS + 1):
        for phase in range(2, ring.phases.count):
            proof = moved(ring, (t, phase, "a1"))
            assert proof is not None
            verdict = verify_proof(Proof.decode(proof.encode()), alone(ring))
            assert (verdict.kind, verdict.place, verdict.malice) == (
                *("not-as-formed", f"round {t}", False),
            )
            assert str(verdict).endswith("malice or what others hid, no guilt")


def guilty(kind: str) -> tuple[Proof, RunTerms]:
    ring = ring_of("rfa:floor=0.1,start=zero", 2)
    place = (WINDOW + 1, 2, "a1")
    row = row_of(ring, place, 0)
    proof = moved(ring, place) if kind == NOT_AS_FORMED else convicted(ring, place, 0, swapped(row))
    assert proof is not None
    return proof, alone(ring)


@pytest.mark.parametrize("kind", OF_ROWS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_proof_with_any_byte_changed_proves_nothing(kind: str, data: st.DataObject) -> None:
    proof, terms = guilty(kind)
    with pytest.raises((ProofError, MalformedError)):
        verify_proof(Proof.decode(data.draw(mutated(proof.encode()))), terms)


@pytest.mark.parametrize("kind", OF_ROWS)
def test_proofs_of_one_statement_hold_for_that_alone(kind: str) -> None:
    proof, terms = guilty(kind)
    other = next(one for one in OF_ROWS if one != kind)
    wrong = [
        replace(proof, kind=other),
        replace(proof, agent="a2"),
        replace(proof, sources=proof.sources[:-1]),
        replace(proof, sources=proof.sources[::-1]),
        replace(proof, sources=()),
    ]
    for changed in wrong:
        with pytest.raises(ProofError):
            verify_proof(changed, terms)
    for elsewhere in (replace(terms, run=bytes(32)), replace(terms, rounds=WINDOW)):
        with pytest.raises(ProofError):
            verify_proof(proof, elsewhere)
    assert verify_proof(proof, terms).kind == kind
