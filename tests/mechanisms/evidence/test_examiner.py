"""What statements prove: honest agents are measured exactly, every lie is refused or measured."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from candor.mechanisms.evidence.claims import Claim, ClaimedRound
from candor.mechanisms.evidence.examiner import (
    Examined,
    Examiner,
    Terms,
    check_claim,
    check_energy,
    check_trace,
    energy,
    injected,
)
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import (
    EvidenceError,
    SignedStatement,
    Statement,
    commitment,
)
from tests.honest import (
    DIM,
    IDS,
    KEYS,
    LAST_ROUND,
    RUN,
    SKETCH,
    WINDOW,
    Ring,
    formed_by,
    make_terms,
    report,
    sign,
)
from tests.mechanisms.evidence.claimed import with_products

ROUNDS = 7  # two windows of three, and the first round of a third
WHOLE = 64  # a sketch that is the vector itself


def refused(code: str) -> object:
    return pytest.raises(EvidenceError, match=f"^{code}(:|$)")


@pytest.mark.parametrize("sketch_size", [SKETCH, WHOLE])
def test_what_is_shown_is_the_gradient_of_every_round(sketch_size: int) -> None:
    ring = Ring(make_terms(sketch_size)).play(ROUNDS)
    for t in range(1, ROUNDS + 1):
        for agent in IDS:
            shown = ring.examine(t, agent)
            honest = ring.examiner.sketch(window_of(t, WINDOW))(report(agent, t))
            assert np.array_equal(shown.injected, honest)
            assert shown.energy == honest @ honest
            assert shown.energy > 0


def test_a_notice_shows_what_its_update_shows() -> None:
    ring = Ring(scales={"a2": 3.0}).play(ROUNDS)
    for t in range(1, ROUNDS + 1):
        notice = ring.examiner.examine(ring.signed[t]["a2"], None, ring.witnesses(t, "a2"), {})
        assert notice.energy == ring.examine(t, "a2").energy


def test_a_notice_without_its_witnesses_is_refused() -> None:
    ring = Ring().play(4)
    with refused("witness-missing"):
        ring.examiner.examine(ring.signed[4]["a2"], None, {}, {})


def test_it_does_not_matter_whether_a_witness_is_forwarded_or_known() -> None:
    ring = Ring().play(4)
    forwarded = ring.examine(4, "a1")
    known = ring.examine(4, "a1", witnesses={}, trusted=ring.stated(3))
    both = ring.examine(4, "a1", trusted=ring.stated(3))
    assert forwarded.energy == known.energy == both.energy


def test_an_exaggeration_shows_by_its_factor() -> None:
    honest, liar = Ring().play(ROUNDS), Ring(scales={"a2": 3.0}).play(ROUNDS)
    for t in range(1, ROUNDS + 1):
        assert np.array_equal(liar.examine(t, "a2").injected, 3 * honest.examine(t, "a2").injected)
        assert liar.examine(t, "a1").energy == honest.examine(t, "a1").energy


@pytest.mark.parametrize("t", [1, 2, 4])
def test_a_tampered_model_is_measured_wherever_it_was_tampered_with(t: int) -> None:
    """Whatever moved the payload away from the stated mixture counts as injected."""
    ring = Ring().play(t)
    shift = np.zeros(DIM, np.float32)
    shift[5] = 4.0
    payload = ring.payloads[t]["a0"] - shift
    signed = sign(ring.state(t, "a0", payload))
    shown = ring.examine(t, "a0", signed=signed, payload=payload)
    honest = ring.examiner.sketch(window_of(t, WINDOW))
    step = np.float32(ring.terms.step_size(t))
    assert np.array_equal(shown.injected, honest(report("a0", t) + shift / step))


def test_an_agent_that_heard_nobody_is_measured_from_its_own_model() -> None:
    ring = Ring(deaf={(3, "a1")}).play(5)
    assert ring.rows[4]["a1"] == {"a1": 1.0}
    assert np.array_equal(ring.examine(4, "a1").injected, ring.examiner.sketch(1)(report("a1", 4)))


@pytest.mark.parametrize("t", [2, 3])
def test_an_agent_that_takes_a_neighbours_model_is_measured_from_it(t: int) -> None:
    ring = Ring(reentries={(t, "a1"): "a2"}).play(t + 2)
    assert ring.rows[t + 1]["a1"] == {"a2": 1.0}
    for later in (t + 1, t + 2):
        shown = ring.examine(later, "a1")
        honest = ring.examiner.sketch(window_of(later, WINDOW))(report("a1", later))
        assert np.array_equal(shown.injected, honest)


def test_only_the_last_round_of_a_window_is_sketched_twice() -> None:
    ring = Ring().play(ROUNDS)
    twice = [t for t in ring.signed if ring.signed[t]["a0"].statement.next_sketch]
    assert twice == [3, 6]
    statement = ring.signed[3]["a0"].statement
    expected = ring.examiner.sketch(1)(ring.payloads[3]["a0"])
    assert np.array_equal(statement.values(1, WINDOW), expected)
    assert statement.sketch != statement.next_sketch


def test_a_vector_that_is_its_own_sketch_is_never_sent_twice() -> None:
    ring = Ring(make_terms(WHOLE)).play(4)
    assert not any(
        s.statement.next_sketch for signed in ring.signed.values() for s in signed.values()
    )


# --- every part of an update that may be false -------------------------------------------------


def altered(ring: Ring, t: int, agent: str = "a1", **changes: object) -> SignedStatement:
    return sign(replace(ring.signed[t][agent].statement, **changes), agent)


def mixed(**weights: float) -> dict[str, object]:
    """A statement's one row, as a change of it."""
    return {"formed": (formed_by(weights),)}


HEADER_LIES: dict[str, tuple[int, dict[str, object], str]] = {
    "another agent": (4, {"agent": "a2"}, "statement-agent"),
    "another run": (4, {"run": bytes(32)}, "statement-run"),
    "fewer parameters": (4, {"dim": DIM - 1}, "statement-size"),
    "a shorter sketch": (
        4,
        {"sketch": bytes(8 * SKETCH - 8), "next_sketch": b""},
        "statement-size",
    ),
    "another step": (4, {"step_size": 0.125}, "step-size"),
    "the step of another round": (4, {"round": 2}, "step-size"),
    "beyond the end of the run": (
        4,
        {"round": LAST_ROUND + 1, "step_size": 0.25},
        "statement-round",
    ),
    "a step of zero": (4, {"step_size": 0.0}, "step-size"),
    "a step that is no number": (4, {"step_size": float("nan")}, "step-size"),
    "an empty row": (4, mixed(), "mixing-row"),
    "a stranger": (4, mixed(a1=0.5, a3=0.5), "mixing-row"),
    "a wrong weight": (4, mixed(a0=0.125, a1=0.875), "mixing-row"),
    "more than one": (4, mixed(a0=0.25, a1=0.5, a2=0.5), "mixing-row"),
    "less than one": (4, mixed(a0=0.25, a1=0.5), "mixing-row"),
    "a negative own weight": (4, mixed(a0=0.25, a1=-0.25), "mixing-row"),
    "nothing of its own": (4, mixed(a0=0.25, a2=0.25), "mixing-row"),
    "a stranger's model": (4, mixed(a3=1.0), "mixing-row"),
    "half a neighbour's model": (4, mixed(a0=0.5), "mixing-row"),
    "two neighbours' models": (4, mixed(a0=1.0, a2=1.0), "mixing-row"),
    "half its own model": (4, mixed(a1=0.5), "mixing-row"),
    "mixed before round 1": (1, mixed(a0=0.25, a1=0.75), "mixing-row"),
    "entered before round 1": (1, mixed(a0=1.0), "mixing-row"),
}


@pytest.mark.parametrize(("t", "changes", "code"), HEADER_LIES.values(), ids=HEADER_LIES)
def test_a_statement_that_is_false_by_itself_is_refused(
    t: int, changes: dict[str, object], code: str
) -> None:
    ring = Ring().play(t)
    with refused(code):
        ring.examiner.examine_header(altered(ring, t, **changes), "a1")


@pytest.mark.parametrize("own", [1e-12, -1e-12])
def test_a_row_sums_to_one_but_for_rounding(own: float) -> None:
    ring = Ring().play(4)
    near, far = (mixed(a0=0.25, a1=0.75 + f * own) for f in (0.5, 3.0))
    ring.examiner.examine_header(altered(ring, 4, **near), "a1")
    with refused("mixing-row"):
        ring.examiner.examine_header(altered(ring, 4, **far), "a1")


def test_the_last_round_of_the_run_is_within_it() -> None:
    ring = Ring().play(4)
    ring.examiner.examine_header(altered(ring, 4, round=LAST_ROUND), "a1")


@pytest.mark.parametrize(("factor", "holds"), [(5e-13, True), (-5e-13, True), (3e-12, False)])
def test_a_step_is_the_schedules_but_for_the_last_bits_of_a_power(
    factor: float, holds: bool
) -> None:
    ring = Ring().play(4)
    signed = altered(ring, 4, step_size=0.25 * (1 + factor))
    if holds:
        ring.examiner.examine_header(signed, "a1")
    else:
        with refused("step-size"):
            ring.examiner.examine_header(signed, "a1")


def test_a_statement_is_signed_by_its_agent() -> None:
    ring = Ring().play(2)
    signed = sign(ring.signed[2]["a1"].statement, "a2")
    with refused("statement-signature"):
        ring.examiner.examine_header(signed, "a1")


@pytest.mark.parametrize("t", [1, 3, 4])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda y: y + np.float32(0.5), "payload-digest"),
        (lambda y: y[::-1].copy(), "payload-digest"),
        (lambda y: np.where(y == 0, np.float32(-0.0), y), "payload-digest"),
    ],
    ids=["shifted", "turned", "negative zero"],
)
def test_another_payload_than_the_stated_one_is_refused(
    t: int, change: Callable[[np.ndarray], np.ndarray], code: str
) -> None:
    ring = Ring().play(t)
    ring.payloads[t]["a1"][0] = 0.0
    signed = sign(ring.state(t, "a1", ring.payloads[t]["a1"]))
    with refused(code):
        ring.examine(t, "a1", signed=signed, payload=change(ring.payloads[t]["a1"]))


@pytest.mark.parametrize("name", ["sketch", "next_sketch"])
def test_a_sketch_of_something_else_is_refused(name: str) -> None:
    ring = Ring().play(3)
    other = np.frombuffer(getattr(ring.signed[3]["a1"].statement, name), "<f8") + 0.5
    with refused("payload-sketch"):
        ring.examine(3, "a1", signed=altered(ring, 3, **{name: other.tobytes()}))


@pytest.mark.parametrize(("t", "length"), [(3, 0), (4, 8 * SKETCH)])
def test_a_next_sketch_is_there_in_the_last_round_of_a_window_and_only_then(
    t: int, length: int
) -> None:
    ring = Ring().play(t)
    with refused("payload-sketch"):
        ring.examine(t, "a1", signed=altered(ring, t, next_sketch=bytes(length)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sketch_size", [SKETCH, WHOLE])
@pytest.mark.parametrize("places", [[7], [7, 7 + SKETCH, 7 + 2 * SKETCH]])
def test_a_payload_that_is_not_finite_is_refused(
    value: float, sketch_size: int, places: list[int]
) -> None:
    """Infinities that cancel in a bucket leave no finite number behind."""
    ring = Ring(make_terms(sketch_size)).play(2)
    payload = ring.payloads[2]["a1"].copy()
    payload[places] = value
    signed = sign(ring.state(2, "a1", payload))
    with refused("payload-not-finite"):
        ring.examine(2, "a1", signed=signed, payload=payload)


@pytest.mark.parametrize("gone", ["a0", "a1", "a2"])
def test_a_witness_that_is_missing_is_named(gone: str) -> None:
    ring = Ring().play(4)
    witnesses = {k: s for k, s in ring.witnesses(4, "a1").items() if k != (3, 0, gone)}
    with refused(f"witness-missing: {gone}"):
        ring.examine(4, "a1", witnesses=witnesses)


WITNESS_LIES: dict[str, tuple[Callable[[Ring], SignedStatement], str]] = {
    "another agent's": (lambda ring: ring.signed[3]["a2"], "witness-round"),
    "of the round before": (lambda ring: ring.signed[2]["a0"], "witness-round"),
    "of the round itself": (lambda ring: ring.signed[4]["a0"], "witness-round"),
    "of another run": (lambda ring: altered(ring, 3, "a0", run=bytes(32)), "witness-run"),
    "with a shorter sketch": (
        lambda ring: altered(ring, 3, "a0", sketch=bytes(8), next_sketch=bytes(8)),
        "witness-run",
    ),
    "forged by its sender": (
        lambda ring: sign(ring.signed[3]["a0"].statement, "a1"),
        "witness-signature",
    ),
    "altered under its signature": (
        lambda ring: replace(altered(ring, 3, "a0"), body=altered(ring, 3, "a0", dim=9).body),
        "witness-signature",
    ),
    "without the next window's sketch": (
        lambda ring: altered(ring, 3, "a0", next_sketch=b""),
        "witness-window",
    ),
    "not a number": (
        lambda ring: altered(ring, 3, "a0", next_sketch=np.full(SKETCH, np.nan).tobytes()),
        "injected-not-finite",
    ),
    "too large to square": (
        lambda ring: altered(ring, 3, "a0", next_sketch=np.full(SKETCH, 1e200).tobytes()),
        "injected-not-finite",
    ),
    "infinite": (
        lambda ring: altered(ring, 3, "a0", next_sketch=np.full(SKETCH, np.inf).tobytes()),
        "injected-not-finite",
    ),
}


@pytest.mark.parametrize(("forge", "code"), WITNESS_LIES.values(), ids=WITNESS_LIES)
def test_a_false_witness_is_refused(forge: Callable[[Ring], SignedStatement], code: str) -> None:
    ring = Ring().play(4)
    witnesses = {**ring.witnesses(4, "a1"), (3, 0, "a0"): forge(ring)}
    sources = commitment(witness.body for witness in witnesses.values())
    with refused(code):
        ring.examine(4, "a1", witnesses=witnesses, signed=altered(ring, 4, sources=sources))


def second(ring: Ring, agent: str) -> SignedStatement:
    """Another well-signed statement of the ring's last round, of another payload."""
    t = len(ring.signed)
    return sign(ring.state(t, agent, ring.payloads[t][agent] + np.float32(1)))


def test_only_the_statements_that_the_sender_committed_to_show_what_it_injected() -> None:
    """Whoever states a round twice cannot choose afterwards which of the two was mixed."""
    ring = Ring().play(2)
    other = second(ring, "a0")
    ring.play(3)
    with refused("witness-digest"):
        ring.examine(3, "a1", witnesses={**ring.witnesses(3, "a1"), (2, 0, "a0"): other})
    without = {k: s for k, s in ring.witnesses(3, "a1").items() if k != (2, 0, "a0")}
    with refused("witness-digest"):
        ring.examine(3, "a1", witnesses=without, trusted={(2, 0, "a0"): other})
    for sources in (b"", bytes(32)):
        with refused("witness-digest"):
            ring.examine(3, "a1", signed=altered(ring, 3, sources=sources))


def test_nothing_is_committed_to_in_round_1() -> None:
    ring = Ring().play(1)
    with refused("witness-digest"):
        ring.examine(1, "a1", signed=altered(ring, 1, sources=bytes(32)))


def test_a_false_witness_is_refused_although_the_true_one_is_known() -> None:
    ring = Ring().play(4)
    forged = sign(replace(ring.signed[3]["a0"].statement, digest=bytes(32)), "a1")
    witnesses = {**ring.witnesses(4, "a1"), (3, 0, "a0"): forged}
    with refused("witness-signature"):
        ring.examine(4, "a1", witnesses=witnesses, trusted=ring.stated(3))


def test_a_witness_is_refused_for_its_neighbour_who_stated_otherwise_to_us() -> None:
    """A neighbour of the sender that told it and us different things harms only itself."""
    ring = Ring().play(2)
    payload = ring.payloads[2]["a0"] + np.float32(1)
    told_us = sign(ring.state(2, "a0", payload))
    ring.play(3)
    known = {**ring.stated(2), (2, 0, "a0"): told_us}
    assert ring.examine(3, "a1", trusted=known).energy == ring.examine(3, "a1").energy


def test_a_sender_cannot_be_measured_from_a_model_it_never_sent() -> None:
    """Its own statement of the round before is exchanged for one that hides a jump."""
    ring = Ring().play(2)
    jump = np.full(DIM, 2.0, np.float32)
    shifted = ring.payloads[2]["a1"] + jump
    other = sign(ring.state(2, "a1", shifted))
    ring.play(3)
    payload = ring.payloads[3]["a1"] + jump / 2
    signed = sign(ring.state(3, "a1", payload))
    lie = {**ring.witnesses(3, "a1"), (2, 0, "a1"): other}
    update = {"signed": signed, "payload": payload}
    with refused("equivocation"):
        ring.examine(3, "a1", **update, witnesses=lie, trusted=ring.stated(2))
    honest = ring.examine(3, "a1", trusted=ring.stated(2))
    assert ring.examine(3, "a1", **update, trusted=ring.stated(2)).energy > 2 * honest.energy


def test_a_step_that_vanishes_is_refused_without_a_warning() -> None:
    ring = Ring(make_terms(step_size=lambda t: 0.5 if t < 2 else 0.0)).play(2)
    with refused("injected-not-finite"):
        ring.examine(2, "a1")


def test_statements_are_judged_in_any_order_of_windows() -> None:
    """The cache of signs drops old windows and draws them again."""
    ring = Ring().play(ROUNDS)
    again = Examiner(ring.terms)
    for t in (7, 1, 4, 2, 6, 3, 5, 1, 7):
        shown = again.examine(
            ring.signed[t]["a3"], ring.payloads[t]["a3"], ring.witnesses(t, "a3"), {}
        )
        assert shown.energy == ring.examine(t, "a3").energy


def test_energy_and_injection_take_leading_axes() -> None:
    mixed = np.arange(24.0).reshape(2, 3, 4)
    shown = injected(mixed, mixed + 1, 0.5)
    assert np.array_equal(shown, np.full((2, 3, 4), -2.0))
    assert np.array_equal(energy(shown), np.full((2, 3), 16.0))


# --- claims -------------------------------------------------------------------------------------


def seen(ring: Ring, agent: str, rounds: range) -> tuple[dict[int, Examined], Claim]:
    found = {t: ring.examine(t, agent) for t in rounds}
    claim = Claim(
        RUN,
        window_of(rounds[0], WINDOW),
        agent,
        with_products(
            (ClaimedRound(t, e.energy, ("a0", "a2"), e.trace.tobytes()) for t, e in found.items()),
            [e.injected for e in found.values()],
        ),
    )
    return found, claim


def check(claim: Claim, found: dict[int, Examined], terms: Terms | None = None) -> None:
    energies = {t: e.energy for t, e in found.items()}
    traces = {t: e.trace for t, e in found.items()}
    pairs = combinations(found.items(), 2)
    products = {(s, t): float(one.injected @ two.injected) for (s, one), (t, two) in pairs}
    check_claim(claim, terms or make_terms(), energies, traces, None, products)


def test_an_honest_claim_holds() -> None:
    ring = Ring().play(ROUNDS)
    for rounds in (range(1, 4), range(4, 7), range(7, 8)):
        found, claim = seen(ring, "a1", rounds)
        check(claim, found)
        check(claim, dict(list(found.items())[:1]))  # of a window that was not seen whole
        check(claim, dict(found), make_terms())


def test_nothing_claimed_and_nothing_seen_holds() -> None:
    check_claim(Claim(RUN, 3, "a1", ()), make_terms(), {}, {})


def with_trace(claim: Claim, change: Callable[[np.ndarray], np.ndarray]) -> Claim:
    first, *rest = claim.rounds
    trace = change(np.frombuffer(first.trace, "<f4")).astype("<f4").tobytes()
    return replace(claim, rounds=(replace(first, trace=trace), *rest))


def with_energy(claim: Claim, factor: float) -> tuple[ClaimedRound, ...]:
    first, *rest = claim.rounds
    return (replace(first, energy=first.energy * factor), *rest)


def with_product(claim: Claim, factor: float) -> Claim:
    """With the product of the first two rounds moved by so much, in units of their lengths."""
    first, second, *rest = claim.rounds
    products = np.frombuffer(second.products, "<f8")
    length = math.sqrt(first.energy * second.energy)
    moved = products + (factor - 1.0) * np.copysign(length, products)
    return replace(claim, rounds=(first, replace(second, products=moved.tobytes()), *rest))


CLAIM_LIES: dict[str, tuple[Callable[[Claim], Claim], str]] = {
    "another run": (lambda c: replace(c, run=bytes(32)), "claim-run"),
    "another window": (lambda c: replace(c, window=0), "claim-round"),
    "a round of the next window": (
        lambda c: replace(c, rounds=(*c.rounds, ClaimedRound(7, 1.0, (), bytes(4 * SKETCH)))),
        "claim-round",
    ),
    "less energy": (lambda c: replace(c, rounds=with_energy(c, 0.99)), "claim-energy"),
    "more energy": (lambda c: replace(c, rounds=with_energy(c, 1 + 2e-9)), "claim-energy"),
    "no energy": (lambda c: replace(c, rounds=with_energy(c, 0.0)), "claim-energy"),
    "another product": (lambda c: with_product(c, 1.0 + 2e-9), "claim-products"),
    "a product that is nothing": (lambda c: with_product(c, 0.0), "claim-products"),
    "the opposite product": (lambda c: with_product(c, -1.0), "claim-products"),
    "a shorter trace": (lambda c: with_trace(c, lambda v: v[1:]), "claim-trace"),
    "no trace": (lambda c: with_trace(c, lambda v: v[:0]), "claim-trace"),
    "another direction": (lambda c: with_trace(c, lambda v: -v), "claim-trace"),
    "a longer trace": (lambda c: with_trace(c, lambda v: v * 1.001), "claim-trace"),
    "an infinite trace": (lambda c: with_trace(c, lambda v: v + np.inf), "claim-trace"),
    "a trace that is no number": (lambda c: with_trace(c, lambda v: v * np.nan), "claim-trace"),
}


@pytest.mark.parametrize(("lie", "code"), CLAIM_LIES.values(), ids=CLAIM_LIES)
def test_a_false_claim_is_refused(lie: Callable[[Claim], Claim], code: str) -> None:
    found, claim = seen(Ring().play(6), "a1", range(4, 7))
    with refused(code):
        check(lie(claim), found)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_trace_nobody_can_check_is_at_least_finite(value: float) -> None:
    trace = np.full(SKETCH, value, "<f4").tobytes()
    claim = Claim(RUN, 3, "a1", (ClaimedRound(10, 1.0, (), trace),))
    with refused("claim-trace"):
        check_claim(claim, make_terms(), {}, {})


def test_rounding_on_another_machine_is_no_lie() -> None:
    found, claim = seen(Ring().play(6), "a1", range(4, 7))
    near = replace(claim, rounds=with_energy(claim, 1 + 5e-10))
    check(with_trace(near, lambda v: np.nextafter(v, np.float32(np.inf))), found)
    check(with_product(claim, 1 + 5e-10), found)


@pytest.mark.parametrize(
    ("seen", "claimed", "holds"),
    [
        (0.0, 0.0, True),
        (0.0, 1e-200, False),
        (1e-30, 0.0, False),
        (1e-30, 1e-30 * (1 + 2e-9), False),
        (1e-30, 1e-30 * (1 + 5e-10), True),
        (1e15, 1e15 * (1 + 2e-9), False),
    ],
)
def test_a_small_energy_is_claimed_as_exactly_as_a_large_one(
    seen: float, claimed: float, holds: bool
) -> None:
    entry = ClaimedRound(4, claimed, (), b"")
    if holds:
        check_energy(entry, seen)
        return
    with refused("claim-energy"):
        check_energy(entry, seen)


def test_a_small_trace_is_claimed_as_exactly_as_a_large_one() -> None:
    for size in (1e-15, 1.0, 1e15):
        seen = np.full(SKETCH, size, np.float32)
        check_trace(ClaimedRound(4, 1.0, (), seen.tobytes()), SKETCH, seen)
        for lie in (seen * np.float32(1.0001), -seen, 0 * seen):
            with refused("claim-trace"):
                check_trace(ClaimedRound(4, 1.0, (), lie.tobytes()), SKETCH, seen)
    nothing = np.zeros(SKETCH, np.float32)
    check_trace(ClaimedRound(4, 0.0, (), nothing.tobytes()), SKETCH, nothing)


def test_the_header_of_an_honest_statement_holds_for_each_agent() -> None:
    ring = Ring().play(2)
    for agent in IDS:
        assert ring.signed[2][agent].verify(KEYS[agent].public)
        ring.examiner.examine_header(ring.signed[2][agent], agent)


def test_a_stated_payload_is_not_kept_in_view() -> None:
    """What is written over the buffer later changes no statement."""
    ring = Ring().play(1)
    payload = ring.payloads[1]["a1"].copy()
    statement: Statement = ring.examiner.state(1, 0, "a1", payload, [formed_by({"a1": 1.0})])
    before = statement.encode()
    payload[:] = 7.0
    assert statement.encode() == before
