"""Proofs where the charged exchange has several parts, as in a user's own algorithm."""

from dataclasses import replace

import numpy as np

from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.examiner import Examiner
from candor.mechanisms.evidence.phases import How, Part, Phase, Phases
from candor.mechanisms.evidence.statements import commitment
from candor.mechanisms.proofs import contradiction
from tests.honest import DIM, KEYS, RUN, formed_by, make_terms, sign

# Steps along a direction that is stated first, and injects into the model.
PHASES = Phases(
    (
        Phase("direction", (), direct=True),
        Phase(
            "model",
            (Part(1, before=True), Part(0, how=How.OWN, stepped=True)),
            charged=True,
        ),
    )
)


def test_what_starts_from_the_initial_model_is_not_proven() -> None:
    """Of that model the terms of a proof hold a digest at most."""
    examiner, ones = Examiner(make_terms(phases=PHASES)), np.ones(DIM, np.float32)
    own = formed_by({"a1": 1.0})
    direction = sign(examiner.state(1, 0, "a1", ones, []))
    model = examiner.state(1, 1, "a1", ones, [own, own])
    said = sign(replace(model, sources=commitment([direction.body])))
    trace = bytes(4 * examiner.terms.trace_size)
    claim = Claim(RUN, 0, "a1", (ClaimedRound(1, 1e9, (), trace),))
    signed = SignedClaim.sign(claim, KEYS["a1"])
    assert contradiction(signed, [(said, (direction.body,))], examiner.terms) is None
