"""Slow members and those who keep claims or bills to themselves, beside honest ones; simulated."""

import pytest

from candor.agent.core.effects import HangUp
from candor.agent.core.reception import JUNK_BURST
from candor.agent.core.settlement.edge import LATE_MAX, SETTLE_WINDOWS
from candor.agent.core.settlement.referee import CLAIM_WINDOWS
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.network.messages import BillMessage, ClaimMessage, from_envelope
from candor.topologies.encoding.canonical import pack
from tests.runs import DIM, stated_digests

WINDOW = 4
BUSY_S = 0.1


def paced(started, agents=4, **settings):
    """A ring in which everybody trains for `BUSY_S`, so far."""
    run = started("ring", agents, rounds=1000, window=WINDOW, deadline_s=1.0, **settings)
    run.takes_s = dict.fromkeys(run.cluster.ids, BUSY_S)
    run.start()
    run.advance(1.0)
    return run


def mixed_rounds(run, agent, neighbour):
    """The rounds in which an agent mixed a neighbour."""
    heard = run.nodes[agent].core.book._heard
    return [t for of_window in heard.values() for t, who in of_window.items() if neighbour in who]


@pytest.mark.parametrize("takes_s", [0.95, 1.5])
def test_a_slow_member_is_mixed_when_it_is_there_and_does_not_set_the_pace(
    started, tmp_path, takes_s
):
    run = paced(started)
    usual = run.nodes["a0"].core.round / 1.0
    run.takes_s["a2"] = takes_s
    run.advance(2.0)  # a deadline at once, which is all that it had at first
    before = {agent: node.core.round for agent, node in run.nodes.items()}
    run.advance(5.0)
    for agent in ("a0", "a1", "a3"):
        assert (run.nodes[agent].core.round - before[agent]) / 5.0 > 0.6 * usual
    slow = run.nodes["a2"]
    entered = [event["round"] for event in slow.events("re_entered")]
    assert len(entered) > 2
    assert all(len(digests) == 1 for digests in stated_digests(slow).values())
    for peer in ("a1", "a3"):
        patience = run.nodes[peer].core.patience
        assert patience.missed["a2"] > 0
        assert patience.waited_s["a2"] > 1.0
        assert set(entered[:-1]) <= set(mixed_rounds(run, peer, "a2"))
    for node in run.nodes.values():  # and nobody is barred or late with its claims
        assert all(neighbour.barred is None for neighbour in node.core.neighbours.values())
        assert not node.events("claim_missed")
    assert not run.nodes["a0"].events("neighbour_missed")
    run.export()
    _, audit = audit_run_directory(tmp_path)
    assert not audit.findings


def test_what_was_trained_in_vain_is_carried_to_the_newest_model(started):
    run = paced(started, sketch_size=DIM)
    run.takes_s["a2"] = 1.5
    slow = run.nodes["a2"]
    run.advance_until(lambda: slow.events("re_entered"))
    (entered,) = [event["round"] for event in slow.events("re_entered")]
    run.advance_until(lambda: entered in stated_digests(slow))
    in_vain = max(t for t in slow.models if t < entered)
    assert in_vain < entered - 2
    assert in_vain not in stated_digests(slow)
    energy = slow.core.book.seen("a2", (entered - 1) // WINDOW).energies[entered]
    assert energy == pytest.approx(float((run.report("a2", in_vain) ** 2).sum()), rel=1e-3)


def test_halves_that_were_cut_from_each_other_do_not_stay_rounds_apart(started):
    run = paced(started)
    behind = ("a2", "a3")
    run.network.partition([behind])
    run.takes_s |= dict.fromkeys(behind, 3 * BUSY_S)
    run.advance(5.0)
    run.takes_s = dict.fromkeys(run.cluster.ids, BUSY_S)
    run.network.heal()
    rounds = [node.core.round for node in run.nodes.values()]
    assert max(rounds) > min(rounds) + 6

    def together():
        across = (("a0", "a3"), ("a3", "a0"), ("a1", "a2"), ("a2", "a1"))
        return all(max(mixed_rounds(run, *pair), default=0) > max(rounds) + 3 for pair in across)

    run.advance_until(together, 15.0)


def test_who_is_overtaken_to_the_end_of_the_run_ends_well(started):
    run = started("ring", 4, rounds=12, window=WINDOW, deadline_s=1.0)
    run.takes_s = dict.fromkeys(run.cluster.ids, BUSY_S) | {"a2": 6.0}
    run.start()
    run.run()
    assert [node.ended.failure for node in run.nodes.values()] == [None] * 4
    assert 1 not in stated_digests(run.nodes["a2"])


def withholding(run, agent, kinds):
    """Nothing of these kinds leaves an agent while it is in the set that is answered."""
    silent = {agent}

    def tamper(sender, send):
        kept = sender in silent and isinstance(from_envelope(send.envelope), kinds)
        return None if kept else send

    run.tamper = tamper
    return silent


def served_until(run, agent):
    """The last round of an agent's that its neighbours have accepted."""
    nodes = [node for node in run.nodes.values() if agent in node.core.neighbours]
    return max(node.core.neighbours[agent].last_round for node in nodes)


@pytest.mark.parametrize(
    ("kinds", "windows"),
    [((ClaimMessage, BillMessage), CLAIM_WINDOWS), ((BillMessage,), SETTLE_WINDOWS + 1)],
)
def test_withholding_has_a_bound_in_windows(started, kinds, windows):
    run = started("ring", 4, rounds=1000, window=WINDOW, deadline_s=100.0)
    silent = withholding(run, "a2", kinds)
    run.start()
    run.advance_until(lambda: run.nodes["a0"].core.round > WINDOW * (windows + 3))
    assert served_until(run, "a2") <= WINDOW * windows + 1
    for peer in ("a1", "a3"):
        core = run.nodes[peer].core
        assert core.neighbours["a2"].state == "barred"
        assert "window 0" in str(core.neighbours["a2"].reason)
        assert core.settlement.withheld("a2") > 0
        assert core.neighbours["a0"].barred is None  # who waits for its claims is not to blame
        assert core.settlement.withheld("a0") == 0
    silent.clear()
    there = run.nodes["a0"].core.round
    run.advance_until(lambda: served_until(run, "a2") > there + WINDOW, 120.0)
    assert all(run.nodes[peer].core.neighbours["a2"].barred is None for peer in ("a1", "a3"))


def test_who_is_late_time_and_again_is_out_for_a_while_and_comes_back(started):
    run = started("ring", 3, rounds=2000, window=1, deadline_s=100.0)
    silent = withholding(run, "a2", (ClaimMessage, BillMessage))
    run.start()
    core = run.nodes["a1"].core

    def barred():
        return core.neighbours["a2"].barred or ""

    for _ in range(LATE_MAX + 1):
        silent.add("a2")
        run.advance_until(barred)
        silent.clear()
        run.advance_until(lambda: not barred() or "came late" in barred())
    assert "came late" in barred()
    run.advance_until(lambda: not barred())
    there = core.round
    run.advance_until(lambda: core.neighbours["a2"].last_round > there)


@pytest.mark.parametrize("junk", [pack([3, 99, bytes(16)]), b"\xff" * 40, pack([9])])
def test_who_sends_what_is_refused_is_hung_up_on(started, junk):
    run = paced(started, agents=3)
    core, asked = run.nodes["a0"].core, []
    for _ in range(2 * int(JUNK_BURST) + 2):
        asked += [e for e in core.received("a1", [junk], run.now_s, 0.0) if isinstance(e, HangUp)]
    assert asked == [HangUp("a1")] * 2
    assert not [e for e in core.received("a2", [junk], run.now_s, 0.0) if isinstance(e, HangUp)]
