"""What daemons prove of those that sign two claims, two bills or a false claim, and who is safe."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner

from candor.agent.cli.evidence import command
from candor.agent.core.effects import Derived, Effect
from candor.mechanisms.evidence.claims import Claim, SignedClaim
from candor.mechanisms.payments.bills import SignedBill
from candor.network.messages import BillMessage, ClaimMessage, from_envelope, to_envelope
from candor.network.wire import Kind
from tests.runs import LocalRun, of_half_the_energy, write_cluster

LIAR = "a1"


@pytest.fixture
def run(tmp_path):
    cluster = write_cluster(tmp_path, "ring", 4, rounds=8, window=4)
    started = LocalRun(tmp_path, cluster)
    yield started
    started.close()


def claiming(run: LocalRun, lie: Callable[[Claim, str], Claim]) -> None:
    """Let the liar sign, for each neighbour, what `lie` makes of its claim."""

    def tamper(agent, send):
        message = from_envelope(send.envelope)
        if agent != LIAR or not isinstance(message, ClaimMessage):
            return send
        told = lie(SignedClaim.decode(message.claim).claim(), send.peer)
        key = run.nodes[LIAR].identity.signing_key
        message = ClaimMessage(SignedClaim.sign(told, key).encode())
        return replace(send, envelope=to_envelope(message, send.envelope.nonce))

    run.tamper = tamper


def finish(run: LocalRun) -> None:
    run.start()
    run.run(90.0)
    run.export()


def verified(run: LocalRun, holder: str, kind: str) -> dict[str, object]:
    """What `candor evidence verify` says of a proof that an agent left."""
    path = run.run_dir / "agents" / holder / "evidence" / f"{kind}-{LIAR}.proof"
    words = ["verify", str(path), "--cluster", str(run.run_dir / "cluster.toml"), "--json"]
    told = CliRunner().invoke(command, words)
    assert told.exit_code == 0, told.output
    (found,) = json.loads(told.stdout)["files"]
    assert found["verdict"].startswith(f"{LIAR}: {kind} in ")
    return {key: value for key, value in found.items() if key not in ("file", "verdict")}


def accused(run: LocalRun) -> set[str]:
    names = (path.stem for path in run.run_dir.glob("agents/*/evidence/*.proof"))
    return {name.rsplit("-", 1)[1] for name in names}


def halved(claim: Claim, _: str) -> Claim:
    return replace(claim, rounds=tuple(map(of_half_the_energy, claim.rounds)))


def without_the_last(claim: Claim, _: str) -> Claim:
    return replace(claim, rounds=claim.rounds[:-1])


def denying(claim: Claim, _: str) -> Claim:
    return replace(claim, rounds=tuple(replace(entry, heard=()) for entry in claim.rounds))


def of_less_in_the_whole(claim: Claim, _: str) -> Claim:
    rounds = (replace(entry, whole=entry.whole and entry.whole / 2) for entry in claim.rounds)
    return replace(claim, rounds=tuple(rounds))


def other_traces(claim: Claim, _: str) -> Claim:
    traces = [entry.trace for entry in claim.rounds]
    shifted = zip(claim.rounds, traces[1:] + traces[:1], strict=True)
    return replace(claim, rounds=tuple(replace(r, trace=trace) for r, trace in shifted))


# Round 1 starts from a model that no proof holds; a row shows whom the round before mixed.
@pytest.mark.parametrize(
    ("lie", "place"),
    [
        (halved, "round 2"),
        (other_traces, "round 2"),
        (of_less_in_the_whole, "round 2"),
        (denying, "round 1"),
    ],
)
def test_a_false_claim_ends_as_a_proof_at_both_neighbours(run, lie, place) -> None:
    claiming(run, lie)
    finish(run)
    for neighbour in ("a0", "a2"):
        told = verified(run, neighbour, "contradictory-claim")
        assert told == {
            "proven": True,
            "agent": LIAR,
            "kind": "contradictory-claim",
            "place": place,
            "malice": False,
        }
        # The second one: its own bill has the true claim.
        logged, second = run.nodes[neighbour].events("contradiction_proven")
        assert logged == {"peer": LIAR, "kind": "contradictory-claim", "place": place}
        assert second == {"peer": LIAR, "kind": "two-claims", "place": "window 0"}
        assert "claim of window 0 refused" in run.nodes[neighbour].core.neighbours[LIAR].barred
    assert accused(run) == {LIAR}


def test_a_claim_that_leaves_a_round_out_is_late_and_bars_nobody(run) -> None:
    """Whoever has lost what it stated cannot claim it: its window is left out of the bills. That
    its own bill has another claim is proven, as of any two."""
    claiming(run, without_the_last)
    finish(run)
    for neighbour in ("a0", "a2"):
        node = run.nodes[neighbour]
        left_out = [event["detail"] for event in node.events("claim_forfeited")]
        assert left_out == [f"claim-incomplete: round {t} was stated" for t in (4, 8)]
        assert node.events("contradiction_proven") == [
            {"peer": LIAR, "kind": "two-claims", "place": "window 0"}
        ]
        assert node.core.neighbours[LIAR].barred is None


def test_two_claims_that_both_hold_are_proven_by_who_sees_both_in_bills(run) -> None:
    """Each of its neighbours accepts what it was told; a3, which is none, sees both bills."""

    def a_little_more(claim: Claim, peer: str) -> Claim:
        factor = 1 + 1e-12 * (peer == "a2")
        rounds = tuple(replace(entry, energy=entry.energy * factor) for entry in claim.rounds)
        return replace(claim, rounds=rounds)

    claiming(run, a_little_more)
    finish(run)
    told = verified(run, "a3", "two-claims")
    assert (told["agent"], told["place"], told["malice"]) == (LIAR, "window 0", False)
    assert not any(run.nodes[agent].events("claim_refused") for agent in ("a0", "a2"))
    assert len(run.nodes["a3"].events("contradiction_proven")) == 1
    assert accused(run) == {LIAR}


def test_a_second_claim_to_the_same_neighbour_is_refused_and_proven(run) -> None:
    told = []

    def changing(claim: Claim, peer: str) -> Claim:
        again = (claim.window, peer) in told
        told.append((claim.window, peer))
        return halved(claim, peer) if again else claim

    claiming(run, changing)
    honest = run.tamper

    def never_settling(agent, send):
        # The liar's claims are repeated while the edge is not settled.
        keeps_back = agent == LIAR and send.envelope.kind in (Kind.PROPOSE, Kind.ACCEPT)
        return None if keeps_back else honest(agent, send)

    run.tamper = never_settling
    finish(run)
    for neighbour in ("a0", "a2"):
        assert verified(run, neighbour, "two-claims")["place"] == "window 0"
    assert accused(run) == {LIAR}


def test_a_second_bill_to_the_same_neighbour_is_proven(run) -> None:
    told = set()

    def tamper(agent, send):
        if agent == LIAR and send.envelope.kind in (Kind.PROPOSE, Kind.ACCEPT):
            return None
        message = from_envelope(send.envelope)
        if agent != LIAR or not isinstance(message, BillMessage):
            return send
        signed = SignedBill.decode(message.bundle)
        bill = signed.bill()
        if (bill.window, send.peer) not in told:
            told.add((bill.window, send.peer))
            return send
        other = replace(bill, previous=-1)
        made = SignedBill.sign(other, signed.claims, run.nodes[LIAR].identity.signing_key)
        return replace(send, envelope=to_envelope(BillMessage(made.encode()), send.envelope.nonce))

    run.tamper = tamper
    finish(run)
    for neighbour in ("a0", "a2"):
        assert verified(run, neighbour, "two-bills")["place"] == "window 1"
    assert accused(run) == {LIAR}


@pytest.mark.parametrize(
    ("algorithm", "aggregator", "rule"),
    [
        ("decentralized-sgd", "nnm + krum", "nnm+krum"),
        ("dec-byz-pg", "rfa", "agreement"),
    ],
)
def test_who_mixes_by_another_row_than_sketches_give_is_proven_guilty(
    tmp_path, algorithm, aggregator, rule
) -> None:
    """It keeps more of its own vector, and says so."""
    cluster = write_cluster(
        tmp_path,
        "complete",
        4,
        rounds=3,
        window=2,
        algorithm=algorithm,
        aggregator=aggregator,
        max_byzantine=1,
        sketch_size=40,
    )
    run = LocalRun(tmp_path, cluster)
    run.start()
    core = run.nodes[LIAR].core
    honest = core.derived

    def derived(answer: Derived) -> list[Effect]:
        if core.phases.row_rule(core.phases.at(core.step)[1]) == rule:
            others = len(answer.row) - 1
            row = {k: 0.75 if k == LIAR else 0.25 / others for k in answer.row}
            answer = replace(answer, row=row)
        return honest(answer)

    core.derived = derived
    run.run(90.0)
    run.export()
    for neighbour in cluster.neighbours(LIAR):
        told = verified(run, neighbour, "wrong-row")
        assert (told["agent"], told["malice"]) == (LIAR, True)
        assert told["place"] == ("round 1" if rule == "agreement" else "round 2")
        barred = run.nodes[neighbour].core.neighbours[LIAR].barred
        assert barred.startswith("proven guilty: wrong-row")
    assert accused(run) == {LIAR}
    run.close()


def test_a_crash_proves_nothing_against_anyone(run) -> None:
    """Killed in the middle of a window and right after its claim."""
    run.start()
    run.advance(0.3)
    run.kill(LIAR)
    run.advance(0.4)
    run.start(LIAR)
    run.advance(0.6)
    run.kill("a2")
    run.advance(0.4)
    run.start("a2")
    run.run(120.0)
    run.export()
    assert accused(run) == set()


def test_evidence_of_what_a_backup_explains_is_not_passed_on(run) -> None:
    """The neighbours of an agent with two claims learn of it in bills, never by EVIDENCE."""
    claiming(run, halved)
    finish(run)
    sent = [send for node in run.nodes.values() for send in node.sent]
    assert not any(send.envelope.kind is Kind.EVIDENCE for send in sent)
    proof = run.nodes["a0"].store.value(f"proof/contradictory-claim/{LIAR}")
    assert proof is not None
    assert run.nodes["a3"].store.value(f"proof/contradictory-claim/{LIAR}") is None
