"""What an authenticated neighbour can say in rounds of several exchanges: too early, too late, of
phases that there are not, twice, or of rows and sketches that cannot be.

Policies in agreement: gradients, then three exchanges of policies, with rows that follow from
sketches in each. `tests.campaigns.fuzz_peer` draws what is here written out.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from candor.agent.core.effects import Send
from candor.mechanisms.evidence.statements import Attested, Row, SignedStatement, Statement
from candor.network.messages import (
    Ack,
    Chunk,
    Heads,
    Message,
    Update,
    Waiting,
    Witnesses,
    from_envelope,
    to_envelope,
)
from candor.network.wire import Kind, encode
from tests.runs import DIM, LocalRun, freshened, write_cluster

PEER = "a1"
COUNT = 4  # exchanges of a round
OF_STEPS = (Update, Witnesses, Chunk)
HUGE = 2**53


def policies(tmp_path, rounds: int) -> LocalRun:
    cluster = write_cluster(
        tmp_path,
        "complete",
        4,
        rounds=rounds,
        window=2,
        algorithm="dec-byz-pg",
        aggregator="rfa",
        max_byzantine=1,
        sketch_size=32,
    )
    return LocalRun(tmp_path, cluster)


def place_of(message: Message) -> tuple[int, int] | None:
    match message:
        case Update(body):
            said = Statement.decode(body, sketch_bytes_max=8 * DIM)
            return said.round, said.phase
        case Witnesses(number, phase) | Chunk(number, phase):
            return number, phase
    return None


# --- what costs its sender nothing -------------------------------------------------------------


def nowhere() -> list[Message]:
    """Messages of exchanges that are not, or not under way."""
    places = [(n, p) for n in (0, 1, 2, 3, 4, HUGE) for p in (0, COUNT - 1, COUNT, 15, HUGE)]
    heads = (("a2", bytes(32), bytes(64)), ("zz", bytes(32), bytes(64)))
    return [
        message
        for number, phase in places
        for message in (
            *(Waiting(number, phase), Ack(number, phase, "mixing-row"), Ack(number, phase, "")),
            *(Heads(number, phase, heads), Witnesses(number, phase, ())),
            *([Chunk(number, phase, HUGE - 1, b"x")] if (number, phase) != (2, 0) else []),
        )
    ]


def test_nothing_is_lost_by_repeats_replays_and_messages_of_no_exchange(tmp_path) -> None:
    """Whoever can only repeat what the neighbour said, or say what bears no signature, changes
    neither a model nor a ledger."""
    for name in ("clean", "hostile"):
        (tmp_path / name).mkdir()
    clean, run = (policies(tmp_path / name, 3) for name in ("clean", "hostile"))
    clean.start()
    clean.run()
    said: dict[str, list[Send]] = {}

    def post(send: Send) -> None:
        run.network.post(PEER, send.peer, encode(send.envelope), run.now_s)

    def tamper(agent: str, send: Send) -> Send:
        message = from_envelope(send.envelope)
        place = place_of(message)
        if agent != PEER or place is None:
            return send
        before = said.setdefault(send.peer, [])
        if isinstance(message, Update):
            for earlier in before:  # of all exchanges before this one
                post(earlier)
            if place == (2, 0):
                for extra in nowhere():
                    post(replace(send, envelope=to_envelope(extra, send.envelope.nonce)))
        before.append(send)
        if not isinstance(message, Chunk):  # a payload's would be a wrong next piece
            post(send)
        return send

    run.tamper = tamper
    run.start()
    run.run()
    for agent, node in run.nodes.items():
        assert node.ended.failure is None
        assert sorted(node.models) == sorted(clean.nodes[agent].models)
        for number, model in node.models.items():
            np.testing.assert_array_equal(model, clean.nodes[agent].models[number])
        assert not node.events("neighbour_missed")
        assert not node.events("misbehaviour_proven")
        assert {e["code"] for e in node.events("update_refused")} <= {"round-order"}
        assert node.core.settlement.balance == clean.nodes[agent].core.settlement.balance
    assert {e["code"] for e in run.nodes["a0"].events("message_refused")} == {"phase"}
    run.close()
    clean.close()


# --- what it signs itself -----------------------------------------------------------------------

Lie = Callable[[Statement], Statement]


def with_part(change: Callable[[Row], object]) -> Lie:
    def lie(said: Statement) -> Statement:
        return replace(said, formed=(*said.formed[:-1], change(said.formed[-1])))

    return lie


def sketched(value: float, size: int = 32) -> Lie:
    return lambda said: replace(said, sketch=np.full(size, value).tobytes(), next_sketch=b"")


LIES: dict[str, tuple[Lie, str]] = {
    "a phase that there is not": (lambda s: replace(s, phase=COUNT), "phase"),
    "the last phase of all": (lambda s: replace(s, phase=15), "phase"),
    "a phase beyond": (lambda s: replace(s, phase=HUGE), "malformed"),
    "no round": (lambda s: replace(s, round=0), "malformed"),
    "the phase before": (lambda s: replace(s, phase=s.phase - 1), "statement-parts round-order"),
    "the round before": (lambda s: replace(s, round=s.round - 1), "round-order"),
    "a round beyond the last": (lambda s: replace(s, round=1000), "statement-round"),
    "another run": (lambda s: replace(s, run=bytes(32)), "statement-run"),
    "another agent": (lambda s: replace(s, agent="a2"), "statement-agent"),
    "no parts": (lambda s: replace(s, formed=()), "statement-parts"),
    "a part more": (lambda s: replace(s, formed=(*s.formed, Row(()))), "statement-parts"),
    "an empty row": (with_part(lambda row: Row((), row.rule)), "mixing-row"),
    "a row of the graph": (with_part(lambda row: Row(row.weights)), "mixing-row"),
    "another rule": (with_part(lambda row: replace(row, rule="krum")), "mixing-row"),
    "strangers": (with_part(lambda row: replace(row, weights=(("zz", 1.0),))), "mixing-row"),
    "a re-entry in mid round": (with_part(lambda _: Row((("a2", 1.0),))), "mixing-row"),
    "not itself": (with_part(lambda row: replace(row, weights=(("a2", 1.0),))), "mixing-row"),
    "an attested aggregate": (
        with_part(lambda row: Attested(row.rule, ("a2",), bytes(256))),
        "mixing-row",
    ),
    "a short sketch": (sketched(0.0, 31), "statement-size"),
    "a long sketch": (sketched(0.0, 33), "malformed"),
    "no sketch": (lambda s: replace(s, sketch=b"", next_sketch=b""), "malformed"),
    "half a number": (
        lambda s: replace(s, sketch=s.sketch[:-4], next_sketch=b""),
        "statement-size",
    ),
    "a sketch of NaN": (sketched(np.nan), "payload-sketch"),
    "a sketch without end": (sketched(np.inf), "payload-sketch"),
    "a huge sketch": (sketched(1e308), "payload-sketch"),
    "sources of nobody": (lambda s: replace(s, sources=bytes(32)), "witness-digest"),
    "no sources": (lambda s: replace(s, sources=b""), "witness-digest"),
    "a step of NaN": (lambda s: replace(s, step_size=float("nan")), "step-size"),
    "no step": (lambda s: replace(s, step_size=0.0), "step-size"),
}
PAYLOADS = {
    "NaN": (np.full(DIM, np.nan, np.float32), "payload-not-finite"),
    "without end": (np.full(DIM, -np.inf, np.float32), "payload-not-finite"),
    "far away": (np.full(DIM, 3.0, np.float32), "not-as-formed"),
}


def test_what_cannot_be_is_refused_in_each_exchange_and_nobody_else_suffers(tmp_path) -> None:
    """A lie in each exchange from round 2 on, told to all; the others mix each other's."""
    lies = {**LIES, **{name: (None, code) for name, (_, code) in PAYLOADS.items()}}
    # Where a row is: all but the first exchange of a round.
    places = [(2 + n // (COUNT - 1), 1 + n % (COUNT - 1)) for n in range(len(lies))]
    told = dict(zip(places, lies, strict=True))
    rounds = places[-1][0] + 1
    run = policies(tmp_path, rounds)

    def tamper(agent: str, send: Send) -> Send | None:
        message = from_envelope(send.envelope)
        place = place_of(message)
        if agent != PEER or send.envelope.kind is Kind.HEADS:
            return None if agent == PEER else send  # it does not say what it did to itself
        name = told.get(place) if place is not None else None
        if name is None or isinstance(message, Witnesses):
            return send
        payload, _ = PAYLOADS.get(name, (None, ""))
        if isinstance(message, Chunk):
            if payload is None:
                return send
            data = payload.tobytes()[message.offset : message.offset + len(message.data)]
            changed: Message = replace(message, data=data)
        else:
            node = run.nodes[PEER]
            honest = Statement.decode(message.body, sketch_bytes_max=8 * DIM)
            lie, _ = lies[name]
            if payload is not None:
                made = node.core.examiner.state(*place, PEER, payload, honest.formed)
                said = freshened(node.core, replace(made, sources=honest.sources), payload)
            else:
                said = lie(honest)
            signed = SignedStatement.sign(said, node.identity.signing_key)
            changed = Update(signed.body, signed.signature, message.payload_bytes)
        return replace(send, envelope=to_envelope(changed, send.envelope.nonce))

    run.tamper = tamper
    run.start()
    run.run(400.0)
    for agent, node in run.nodes.items():
        if agent == PEER:
            continue
        assert node.ended.failure is None
        assert sorted(node.models)[-1] == rounds + 1
        assert np.isfinite(node.x).all()
        refused = [*node.events("update_refused"), *node.events("message_refused")]
        assert {event["peer"] for event in refused} == {PEER}
        codes = [event["code"] for event in refused]
        for name, (_, code) in lies.items():
            assert any(one in codes for one in code.split()), (name, codes)
        for event in node.events("misbehaviour_proven"):
            assert event["peer"] == PEER
    run.close()
