"""When a neighbour is waited for, what is kept of it, and when it shows that we fell behind."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.algorithms.catalogue import TRACKING
from candor.agent.algorithms.tracking import gradient_tracking
from candor.agent.core.neighbour import READY_KEPT, VERIFYING_MAX, Neighbour, ahead
from candor.mechanisms.evidence.phases import MIXED_MODEL, Part, Phase, Phases
from candor.mechanisms.evidence.statements import ROUNDS_KEPT, EvidenceError, SignedStatement
from candor.network.errors import RemoteProtocolError
from candor.network.identity import Identity, issue
from candor.network.session import Party, Session
from candor.network.slots import BufferPool, Inbox
from tests.honest import DIM, Ring, Vector, sign
from tests.phased import PhasedRing, phased_terms

BYTES = 4 * DIM
OWN, PEER = (Identity.from_seeds(bytes([i]) * 32, bytes([i + 9]) * 32) for i in range(2))
PARTIES = [
    Party(agent, one.signing_key.public, one.curve_public, f"tcp://{agent}:1")
    for agent, one in (("a0", OWN), ("a1", PEER))
]
RING = Ring().play(9)
TRACKED = PhasedRing(gradient_tracking, phased_terms(TRACKING)).play(2)


class Pool(BufferPool):
    """Counts what is given back."""

    def __init__(self) -> None:
        super().__init__(DIM, spare_max=100)
        self.given: list[Vector] = []

    def give(self, buffer: Vector) -> None:
        self.given.append(buffer)
        super().give(buffer)


def session(own: int, fingerprint: str = "ab" * 32) -> Session:
    """One end of a session between a0 and a1."""
    key = (OWN, PEER)[own].signing_key
    me, other = PARTIES[own], PARTIES[1 - own]
    certificate = issue(key, run_id="r", curve=me.curve, endpoint=me.endpoint, serial=1)
    return Session(
        key=key,
        own=me,
        peer=other,
        run_id="r",
        fingerprint=fingerprint,
        certificate=certificate.encode(),
        nonce=bytes([own]) * 16,
    )


def establish(ours: Session, theirs: Session) -> None:
    (first,) = ours.tick(0.0, 0)
    for reply in theirs.received(first, 0.0, 0).replies:
        for last in ours.received(reply, 0.0, 0).replies:
            theirs.received(last, 0.0, 0)


def neighbour(
    agent: str = "a1",
    established: bool = True,
    pool: BufferPool | None = None,
    phases: Phases = MIXED_MODEL,
) -> Neighbour:
    ours = session(0)
    if established:
        establish(ours, session(1))
    return Neighbour(agent, ours, Inbox(pool or Pool(), BYTES), phases)


def statement(t: int) -> SignedStatement:
    return RING.signed[t]["a1"]


def payload() -> Vector:
    return np.zeros(DIM, np.float32)


# --- waiting ------------------------------------------------------------------------------------


def test_nobody_waits_for_a_neighbour_that_is_not_there() -> None:
    one = neighbour(established=False)
    assert not one.served
    assert one.state == "connecting"
    assert not one.awaited(1)


def test_one_that_is_there_is_awaited_until_it_has_a_verdict() -> None:
    one = neighbour()
    assert (one.state, one.reason) == ("present", None)
    assert one.awaited(1)
    one.announce(statement(1), 1, BYTES)
    assert one.awaited(1)  # it is sending
    one.inbox.take(1)
    one.verifying.add(1)
    assert one.awaited(1)  # and being checked
    one.verifying.discard(1)
    one.keep(1, payload(), 1, Pool())
    assert not one.awaited(1)
    assert one.awaited(2)


def test_a_refused_update_is_not_awaited_any_more() -> None:
    one = neighbour()
    one.refuse(3, "payload-digest")
    assert not one.awaited(3)
    assert one.awaited(4)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"given_up": True}, "late"),
        ({"left": True}, "left"),
        ({"barred": "ledger frozen"}, "barred"),
    ],
)
def test_one_that_is_late_left_or_barred_is_not_awaited(
    changes: dict[str, object], state: str
) -> None:
    one = neighbour()
    for name, value in changes.items():
        setattr(one, name, value)
    assert one.state == state
    assert not one.awaited(1)
    assert not one.speaking
    one.verifying.add(1)
    assert one.awaited(1)  # what has come is judged first


def test_a_round_that_was_passed_over_is_not_awaited() -> None:
    one = neighbour()
    one.announce(statement(3), 3, BYTES)
    assert not one.awaited(2)
    assert one.awaited(3)
    assert one.awaited(4)


def test_another_cluster_file_is_the_reason_told() -> None:
    ours = session(0)
    (greeting,) = session(1, "cd" * 32).tick(0.0, 0)
    ours.received(greeting, 0.0, 0)
    one = Neighbour("a1", ours, Inbox(Pool(), BYTES))
    assert one.state == "refused"
    assert one.reason is not None
    assert "cluster files differ" in one.reason
    one.barred = "credit limit reached"
    assert one.reason == "credit limit reached"


# --- receiving ----------------------------------------------------------------------------------


def test_a_stated_row_names_the_witnesses_that_are_kept() -> None:
    one = neighbour()
    one.announce(statement(3), 3, BYTES)
    slot = one.inbox.slot(3)
    assert slot is not None
    assert slot.named == {(2, 0, "a0"), (2, 0, "a1"), (2, 0, "a2")}
    slot.add_witness((2, 0, "a2"), RING.signed[2]["a2"])
    for source in ((2, 0, "a3"), (1, 0, "a2"), (2, 1, "a2")):
        with pytest.raises(RemoteProtocolError, match=r"^witness-unnamed"):
            slot.add_witness(source, RING.signed[2]["a3"])


def test_updates_beyond_what_the_worker_can_check_are_skipped() -> None:
    one = neighbour()
    for t in range(1, VERIFYING_MAX + 1):
        one.announce(statement(t), t, BYTES)
        assert one.inbox.take(t)
        one.verifying.add(t)
    one.announce(statement(VERIFYING_MAX + 1), VERIFYING_MAX + 1, BYTES)
    assert one.inbox.slot(VERIFYING_MAX + 1) is None
    one.verifying.discard(1)
    one.announce(statement(VERIFYING_MAX + 2), VERIFYING_MAX + 2, BYTES)
    assert one.inbox.slot(VERIFYING_MAX + 2)


def test_a_round_announced_again_or_of_another_size_is_the_peers_fault() -> None:
    one = neighbour()
    one.announce(statement(2), 2, BYTES)
    with pytest.raises(RemoteProtocolError, match=r"^round-order"):
        one.announce(statement(2), 2, BYTES)
    with pytest.raises(RemoteProtocolError, match=r"^payload-size"):
        one.announce(statement(3), 3, BYTES + 4)


def test_what_is_kept_is_the_present_and_the_future() -> None:
    one, pool = neighbour(), Pool()
    late, present = payload(), payload()
    one.keep(4, late, 5, pool)
    one.keep(5, present, 5, pool)
    assert one.ready == {5: present}
    assert pool.given == [late]
    assert one.last_step == 5
    one.keep(3, payload(), 5, pool)
    assert one.last_step == 5


@given(st.lists(st.integers(1, 30), max_size=20, unique=True))
def test_few_buffers_are_kept_and_none_is_lost(rounds: list[int]) -> None:
    one, pool = neighbour(), Pool()
    buffers = {t: payload() for t in rounds}
    for t, buffer in buffers.items():
        one.keep(t, buffer, 5, pool)
    recent = [t for t in rounds if t >= 5 and t > max(rounds) - ROUNDS_KEPT]
    assert sorted(one.ready) == sorted(recent)[-READY_KEPT:]
    assert all(one.ready[t] is buffers[t] for t in one.ready)
    held = [id(buffer) for buffer in (*one.ready.values(), *pool.given)]
    assert sorted(held) == sorted(map(id, buffers.values()))


def test_a_payload_is_not_kept_longer_than_its_statement() -> None:
    one, pool, old = neighbour(), Pool(), payload()
    one.keep(5, old, 5, pool)
    for t in range(6, 5 + ROUNDS_KEPT):
        one.keep(t, np.empty(0, np.float32), 5, pool)  # notices
        assert one.ready == {5: old}
    one.keep(5 + ROUNDS_KEPT, np.empty(0, np.float32), 5, pool)
    assert not one.ready
    assert pool.given[-1] is old


def test_what_is_over_is_forgotten() -> None:
    one, pool = neighbour(), Pool()
    buffers = {t: payload() for t in (2, 3, 4)}
    for t, buffer in buffers.items():
        one.keep(t, buffer, 2, pool)
        one.refuse(t, "x")
    one.announce(statement(2), 2, BYTES)
    one.announce(statement(3), 3, BYTES)
    one.waiting = True
    one.forget_before(3, pool)
    assert sorted(one.ready) == sorted(one.refused) == [3, 4]
    assert pool.given == [buffers[2]]
    assert one.inbox.slot(2) is None
    assert one.inbox.slot(3)
    assert not one.waiting


def test_only_the_latest_verdicts_are_kept() -> None:
    one = neighbour()
    for t in range(1, 10):
        one.refuse(t, f"code-{t}")
    assert one.refused == {t: f"code-{t}" for t in range(10 - READY_KEPT, 10)}


@pytest.mark.parametrize(("current", "waited"), [(0, True), (1, True), (2, False), (9, False)])
def test_in_mid_run_a_new_session_is_not_waited_for(current: int, waited: bool) -> None:
    one = neighbour()
    one.announce(statement(1), 1, BYTES)
    one.left = one.heard_our_bye = True
    one.restarted(current)
    assert one.inbox.slot(1) is None
    assert (one.left, one.heard_our_bye) == (False, False)
    assert one.awaited(9) is waited


# --- falling behind -----------------------------------------------------------------------------


def crowd(*rounds: list[int], phases: Phases = MIXED_MODEL) -> dict[str, Neighbour]:
    """Neighbours n0, n1, … with verified updates of these rounds, or of these steps."""
    found = {}
    for i, ready in enumerate(rounds):
        one = neighbour(f"n{i}", phases=phases)
        for t in ready:
            one.keep(t, payload(), 1, Pool())
        found[one.agent] = one
    return found


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([], None),
        ([[]], None),
        ([[5, 6]], None),  # in step
        ([[7]], (7, "n0")),
        ([[7], []], None),  # one of two is not more than half
        ([[7], [6]], None),
        ([[7], [7]], (7, "n0")),
        ([[7], [8]], (7, "n0")),  # both have reached 7
        ([[8], [7]], (7, "n1")),
        ([[7], [], [7]], (7, "n0")),
        ([[7], [], []], None),
        ([[9], [8], [7]], (8, "n1")),
        ([[5, 6, 7], [6, 7], [5]], (7, "n0")),
        ([[9], [9], [7], []], (7, "n2")),
    ],
)
def test_more_than_half_must_be_two_rounds_on(
    rounds: list[list[int]], expected: tuple[int, str] | None
) -> None:
    assert ahead(crowd(*rounds), 5) == expected


def test_one_liar_among_those_ahead_cannot_name_the_round() -> None:
    """It would make this agent skip the run, and take the liar's model for it."""
    assert ahead(crowd([7], [2**53], [7]), 5) == (7, "n0")


@pytest.mark.parametrize(
    "change", [{"given_up": True}, {"left": True}, {"barred": "ledger frozen"}]
)
def test_only_those_that_speak_count(change: dict[str, object]) -> None:
    for agent, expected in (("n0", (8, "n1")), ("n2", (7, "n0"))):
        found = crowd([7], [8], [])
        assert ahead(found, 5) == (7, "n0")
        for name, value in change.items():
            setattr(found[agent], name, value)
        assert ahead(found, 5) == (expected if agent == "n2" else None)


@given(st.lists(st.sets(st.integers(1, 12), max_size=3), max_size=6), st.integers(-1, 10))
def test_the_round_is_one_that_a_majority_reached_and_its_agent_holds(
    rounds: list[set[int]], present: int
) -> None:
    found = crowd(*map(sorted, rounds))
    lead = ahead(found, present)
    tops = [max(ready, default=0) for ready in rounds]
    eligible = [
        t for t in tops if t >= present + 2 and t and 2 * sum(o >= t for o in tops) > len(tops)
    ]
    assert (lead is None) == (not eligible)
    if lead is not None:
        assert lead[0] == max(eligible)
        assert lead[0] in found[lead[1]].ready


# --- rounds of two exchanges ---------------------------------------------------------------------


def test_an_exchange_has_a_verdict_of_its_own() -> None:
    one, pool = neighbour(phases=TRACKING), Pool()
    for t, phase in ((1, 0), (1, 1), (2, 0), (2, 1)):
        step = TRACKING.step(t, phase)
        assert one.awaited(step)
        one.announce(TRACKED.signed[t, phase, "a1"], step, BYTES)
        slot = one.inbox.take(step)
        assert slot is not None
        assert slot.named == TRACKED.witnesses(t, phase, "a1").keys()
        one.keep(step, slot.buffer, step, pool)
        assert not one.awaited(step)
        assert one.last_round == t


@pytest.mark.parametrize(
    ("place", "changes", "code"),
    [((2, 1), {"phase": 2}, "statement-phase"), ((2, 0), {"phase": 1}, "statement-parts")],
)
def test_a_statement_of_other_exchanges_takes_no_slot(place, changes, code) -> None:
    one = neighbour(phases=TRACKING)
    said = TRACKED.signed[(*place, "a1")]
    with pytest.raises(EvidenceError, match=f"^{code}"):
        one.announce(sign(replace(said.statement, **changes)), 4, BYTES)
    assert one.inbox.latest_step == 0


def test_a_model_is_among_those_that_are_kept() -> None:
    """Of three exchanges a round one more than they are is kept, so that one can re-enter."""
    phases = Phases(
        (
            Phase("gradient", (), charged=True),
            Phase("average", (Part(0),)),
            Phase("model", (Part(2, before=True), Part(1))),
        )
    )
    one, pool = neighbour(phases=phases), Pool()
    for step in range(1, 30):
        one.keep(step, payload(), 1, pool)
        one.refuse(step, "x")
        assert len(one.ready) == len(one.refused) == min(step, one.kept)
        assert step < 3 or any(one.is_model(held) for held in one.ready)
    assert one.kept == 4
    assert neighbour(phases=TRACKING).kept == neighbour().kept == READY_KEPT


def test_rounds_count_in_which_a_neighbour_hid_however_many_exchanges_they_have() -> None:
    one = neighbour(phases=TRACKING)
    for step in range(1, 9):  # two exchanges a round
        one.compared(step, hides=True)
    assert one.hiding == 4
    one.compared(9, hides=False)  # the first exchange of a round: its model is yet to come
    assert one.hiding == 4
    one.compared(10, hides=True)
    assert one.hiding == 5
    one.compared(11, hides=True)
    one.compared(12, hides=False)  # it hid in this round
    assert one.hiding == 6
    one.compared(13, hides=False)
    one.compared(14, hides=False)
    assert one.hiding == 0


def test_a_payload_of_two_exchanges_a_round_is_not_kept_longer_than_its_statement() -> None:
    one, pool, old = neighbour(phases=TRACKING), Pool(), payload()
    one.keep(5, old, 5, pool)
    for step in range(6, 5 + 2 * ROUNDS_KEPT):
        one.keep(step, np.empty(0, np.float32), 5, pool)  # notices
        assert one.ready == {5: old}
    one.keep(5 + 2 * ROUNDS_KEPT, np.empty(0, np.float32), 5, pool)
    assert not one.ready


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([[6]], None),  # in the next exchange
        ([[6, 7]], (6, "n0")),  # two exchanges on; the last model is of the round under way
        ([[7]], None),  # a tracker alone is nothing to go on from
        ([[7, 8]], (8, "n0")),
        ([[8], []], None),  # one of two is not more than half
        ([[8], [7, 6]], (6, "n1")),  # both have reached 7 only
        ([[6, 9], [9], [2**53 - 1]], (6, "n0")),
        ([[10, 9], [10], [9]], (10, "n0")),
    ],
)
def test_who_fell_behind_goes_on_from_a_model(
    steps: list[list[int]], expected: tuple[int, str] | None
) -> None:
    """Models are of even steps; the agent is in step 5, the first of round 3."""
    assert ahead(crowd(*steps, phases=TRACKING), 5) == expected
