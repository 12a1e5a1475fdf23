"""What an authenticated neighbour can do to an agent with bytes: replays, poison, floods, delays.

The long versions of the first tests are `make fuzz`; see `tests.campaigns.fuzz_peer`.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.core.effects import Combine, Derive, HangUp, Log, ReadRecords, Send
from candor.mechanisms.evidence import claims
from candor.mechanisms.evidence.statements import Row, SignedStatement, Statement
from candor.mechanisms.ledger.messages import StateMessage
from candor.network import wire
from candor.network.errors import RemoteProtocolError
from candor.network.messages import (
    Ack,
    Chunk,
    ClaimMessage,
    Update,
    Waiting,
    Witnesses,
    from_envelope,
    to_envelope,
)
from candor.network.session import Greeting
from candor.network.slots import SLOTS_PER_NEIGHBOUR
from candor.network.transport import Outbox, OutboxEntry, TransportLimits
from candor.network.wire import Envelope, Kind, decode, encode
from candor.topologies.encoding.canonical import MalformedError, pack, unpack
from tests.campaigns import fuzz_peer
from tests.campaigns.fuzz_peer import PEER, VICTIM, WALL_S, Arena, Tally, kept, state_of
from tests.runs import DIM, LocalRun, freshened, write_cluster

NONCE = bytes(range(16))


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """A folder with keys, and frames of every kind that a run knows."""
    folder = tmp_path_factory.mktemp("rare")
    return folder, fuzz_peer.record_rare_kinds(folder)


@pytest.fixture
def arena(rare, tmp_path):
    folder, frames = rare
    shutil.copytree(folder / "agents", tmp_path / "agents", ignore=fuzz_peer._no_ledgers)
    arena = Arena.open(tmp_path, 1, frames)
    yield arena
    arena.run.close()


def received(run, frames, sender=PEER, victim=VICTIM):
    """Hand frames to a core and perform what it asks for."""
    node = run.nodes[victim]
    effects = node.core.received(sender, [bytes(f) for f in frames], run.now_s, WALL_S)
    run._perform(victim, effects)
    return effects


def said(arena, message):
    """The frames of a message to the victim's present life."""
    return encode(to_envelope(message, arena.nonce))


# --- bytes -----------------------------------------------------------------------------------


def test_frames_of_every_kind_are_recorded(arena):
    # Nobody lied, no rounds are shown, and nobody joined or left.
    unused = {Kind.EVIDENCE, Kind.ASK, Kind.SHOWN, Kind.REVISION}
    assert {frame.envelope.kind for frame in arena.frames} == set(Kind) - unused


def test_mutated_frames_are_refused_and_change_nothing(arena):
    tally = Tally()
    fuzz_peer.attack_mutated(arena, fuzz_peer.random.Random(5), 3000, tally, "test")
    assert tally.frames > 2500
    assert tally.largest_log_chars < 500


def test_lies_signed_by_the_peer_itself_cost_it_its_own_edge_at_most(arena):
    tally = Tally()
    fuzz_peer.attack_forged(arena, fuzz_peer.random.Random(6), 600, tally, "test")
    assert tally.frames >= 600
    assert arena.victim.core.round > 1


@pytest.mark.parametrize(
    "algorithm", ["gradient-tracking", "median-sgd", "dec-byz-pg", fuzz_peer.REWARDS]
)
def test_neither_does_more_in_runs_of_other_exchanges_rows_or_trades(tmp_path, algorithm):
    tally = fuzz_peer.fuzz(tmp_path, 1100, 7, print, algorithm, (900, 300))
    assert tally.frames >= 1100
    assert Kind.WITNESSES in tally.kinds


@given(st.recursive(st.sampled_from(fuzz_peer.HOSTILE), lambda x: st.lists(x, max_size=4)))
def test_a_value_in_a_form_that_is_not_canonical_is_refused(value):
    plain = pack(value)
    r = fuzz_peer.random.Random(0)
    for _ in range(5):
        loose = fuzz_peer.loosely(r, value)
        if loose == plain:
            continue
        try:
            other = unpack(loose, bytes_max=2**20)
        except MalformedError:
            continue
        assert repr(other) != repr(value)  # such as 1.0 for 1: another value, in its own one form
        assert pack(other) == loose


@pytest.mark.parametrize(
    "header",
    [
        b"\x91" * 10**5,
        b"\x91" * 10**5 + b"\xc0",
        b"\x91" * 511 + b"\xc0",
        b"\x98" + b"\xdd\xff\xff\xff\xff",
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xc6\xff\xff\xff\xff",
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xdb\xff\xff\xff\xff",
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xdd\x7f\xff\xff\xff",
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\x80",  # an empty map
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xc7\x00\x05",  # an empty extension
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x95\x02\x05\xc4\x10" + NONCE + b"\xcc\x01\xa0",  # 1 in two bytes
        b"\x95\xd0\x02\x05\xc4\x10" + NONCE + b"\x01\xa0",
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xca\x3f\x80\x00\x00",  # float32
        b"\x94\x02\x05\xc4\x10" + NONCE + b"\xa2\xff\xfe",  # no UTF-8
    ],
)
def test_depth_lengths_and_forms_are_bounded(header):
    with pytest.raises(RemoteProtocolError) as caught:
        decode([header])
    assert caught.value.code == "header"
    assert len(str(caught.value)) < 200


# --- replays ---------------------------------------------------------------------------------


def test_a_replay_in_the_same_session_changes_nothing(arena):
    """Every frame that the peer ever sent this life of the victim, twice and backwards."""
    node = arena.victim
    heard = [f for f in arena.frames if f.envelope.nonce == arena.nonce and f.sender == PEER]
    heard += [f for f in arena.frames if f.envelope.kind is Kind.HELLO and f.peer == VICTIM]
    assert {Kind.HELLO, Kind.UPDATE, Kind.CLAIM} <= {f.envelope.kind for f in heard}
    for frame in heard:  # what was held back arrives for the first time
        received(arena.run, encode(frame.envelope))
    arena.run.advance(0.1)
    before, model = state_of(node), node.x.copy()
    for frame in [*heard, *reversed(heard)]:
        effects = node.core.received(PEER, encode(frame.envelope), arena.run.now_s, WALL_S)
        assert not [e for e in effects if not isinstance(e, (Log, Send, ReadRecords))]
    assert state_of(node) == before
    np.testing.assert_array_equal(node.x, model)


def test_a_replay_after_a_restart_changes_nothing(arena):
    run = arena.run
    heard = [f for f in arena.frames if f.sender == PEER and f.peer == VICTIM]
    run.kill(VICTIM)
    run.start(VICTIM)
    for frame in heard:
        received(run, encode(frame.envelope))
    node = run.nodes[VICTIM]
    assert not node.core.neighbours[PEER].session.established  # no recording echoes its nonce
    run.tamper = lambda agent, send: send
    run.advance(0.5)
    assert node.core.neighbours[PEER].session.established
    before = state_of(node)
    codes = set()
    for frame in heard:
        # Neither as it was, nor said to the present life.
        for frames in (
            encode(frame.envelope),
            frame.addressed(node.core.neighbours[PEER].session.nonce),
        ):
            if frame.envelope.kind in (Kind.RECORDS, Kind.BYE):
                continue
            for effect in node.core.received(PEER, frames, run.now_s, WALL_S):
                assert isinstance(effect, (Log, Send)), effect
                codes.add(getattr(effect, "event", None))
    assert state_of(node) == before


def test_a_replay_on_another_edge_or_in_another_run_is_refused(arena, rare, tmp_path_factory):
    run, node = arena.run, arena.victim
    before = state_of(node)
    third = "a2"
    for frame in [f for f in arena.frames if f.sender == PEER]:
        if frame.envelope.kind in (Kind.BYE, Kind.WAITING, Kind.ACK, Kind.CHUNK, Kind.REJECT):
            continue  # they say nothing that is kept
        effects = node.core.received(third, frame.addressed(arena.nonce), run.now_s, WALL_S)
        assert all(isinstance(effect, (Log, Send, HangUp)) for effect in effects), frame
    assert state_of(node) == before
    # The same keys in another run: nothing that is signed there holds here.
    _, others = rare
    for frame in others:
        if frame.envelope.kind in (Kind.BYE, Kind.WAITING, Kind.ACK):
            continue
        for effect in node.core.received(PEER, frame.addressed(arena.nonce), run.now_s, WALL_S):
            # A HELLO of another run ends the session, so that the round goes on without the peer.
            mixes = isinstance(effect, (Combine, Derive))
            alone = mixes and PEER in node.core.missing
            assert alone or isinstance(effect, (Log, Send, HangUp)), frame
    assert state_of(node) == before


# --- poison ----------------------------------------------------------------------------------


def poisoned(tmp_path, payload, shape=lambda data: data, size=None, rounds=4):
    """A run of four in which a1 states, signs and sends `payload` from round 2 on."""
    run = LocalRun(tmp_path, write_cluster(tmp_path, "ring", 4, rounds=rounds))

    def tamper(agent, send):
        message = from_envelope(send.envelope)
        node = run.nodes[agent]
        if agent != "a1" or not isinstance(message, (Update, Chunk)):
            return send
        if isinstance(message, Update):
            honest = Statement.decode(message.body, sketch_bytes_max=8 * DIM)
            if honest.round == 1:
                return send
            lie = node.core.examiner.state(honest.round, 0, "a1", payload, honest.formed)
            lie = freshened(node.core, replace(lie, sources=honest.sources), payload)
            signed = SignedStatement.sign(lie, node.identity.signing_key)
            length = message.payload_bytes if size is None else size
            changed = Update(signed.body, signed.signature, length)
        else:
            if message.round == 1:
                return send
            data = shape(payload.tobytes())
            changed = replace(message, data=data[message.offset : message.offset + 64] or b"\0")
        return replace(send, envelope=to_envelope(changed, send.envelope.nonce))

    run.tamper = tamper
    run.start()
    run.run()
    run.close()
    return run


def _vector(value, at=7):
    payload = np.zeros(DIM, np.float32)
    payload[at] = value
    return payload


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (_vector(np.nan), "payload-not-finite"),
        (_vector(np.inf), "payload-not-finite"),
        (_vector(-np.inf), "payload-not-finite"),
        (_vector(1e30), "injected-too-large"),
        (np.full(DIM, 1e30, np.float32), "injected-too-large"),
        (_vector(np.finfo(np.float32).max), "injected-too-large"),
    ],
)
def test_signed_poison_whose_sketch_matches_is_refused_and_its_sender_named(
    tmp_path, payload, code
):
    run = poisoned(tmp_path, payload)
    for agent in ("a0", "a2"):
        node = run.nodes[agent]
        refused = node.events("update_refused")
        assert {(event["peer"], event["code"]) for event in refused} == {("a1", code)}
        assert node.ended.failure is None
        assert not node.events("neighbour_missed")  # no deadline was waited for
        assert np.isfinite(node.x).all()
        assert np.abs(node.x).max() < 100


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_poison_that_cancels_in_the_sketch_is_refused_all_the_same(tmp_path, size):
    """Signs are known before sending: two values of one bucket can hide from every measurement."""
    run = LocalRun(tmp_path, write_cluster(tmp_path, "ring", 4, rounds=4))
    run.start()
    sketch = run.nodes["a1"].core.examiner.sketch(0)
    first, second = (sketch(np.eye(DIM, dtype=np.float32)[i]).sum() for i in (0, 16))
    run.close()
    for path in tmp_path.glob("agents/*/ledger*"):
        path.unlink()
    payload = np.zeros(DIM, np.float32)
    payload[[0, 16]] = size * first, -size * second
    assert not sketch(payload).any()
    run = poisoned(tmp_path, payload)
    for agent in ("a0", "a2"):
        refused = run.nodes[agent].events("update_refused")
        assert {(event["peer"], event["code"]) for event in refused} == {("a1", "payload-hidden")}
        assert np.abs(run.nodes[agent].x).max() < 100


def test_denormals_are_numbers_like_others(tmp_path):
    # Two rounds: its own witness of a third would contradict what it has stated of the second.
    run = poisoned(tmp_path, np.full(DIM, 1e-42, np.float32), rounds=2)
    for agent in ("a0", "a2"):
        assert not run.nodes[agent].events("update_refused")
        assert np.isfinite(run.nodes[agent].x).all()


@pytest.mark.parametrize(
    ("shape", "size", "code"),
    [
        (lambda data: data, 4 * DIM - 4, "payload-size"),
        (lambda data: data, 8 * DIM, "payload-size"),
        (lambda data: data, 0, "payload-size"),
        (lambda data: data, 2**53, "payload-size"),
        (lambda data: data[:-1], None, "neighbour_missed"),
        (lambda data: np.frombuffer(data, "<f4").astype("<f8").tobytes(), None, "chunk-size"),
        (lambda data: np.frombuffer(data, "<f4").astype("<i4").tobytes(), None, "payload-digest"),
    ],
)
def test_a_payload_of_another_size_or_type_is_refused_and_the_round_completes(
    tmp_path, shape, size, code
):
    run = poisoned(tmp_path, np.ones(DIM, np.float32), shape, size)
    node = run.nodes["a0"]
    named = [(e["peer"], e["code"]) for e in node.events("update_refused")]
    named += [(e["peer"], "neighbour_missed") for e in node.events("neighbour_missed")]
    assert ("a1", code) in named
    assert node.ended.failure is None
    assert np.isfinite(node.x).all()


# --- delays and floods -----------------------------------------------------------------------


def test_trickling_chunks_cost_one_wait_and_no_memory(tmp_path):
    """a1 announces its update and then sends a byte of it now and then, as if it were slow."""
    run = LocalRun(tmp_path, write_cluster(tmp_path, "ring", 3, rounds=6, deadline_s=2.0))

    def only_announces(agent, send):
        bulk = agent == "a1" and send.bulk_step is not None
        return None if bulk and send.envelope.kind is not Kind.UPDATE else send

    run.tamper = only_announces
    run.asleep = {"a1"}
    run.start()
    run.asleep = set()
    node = run.nodes["a0"]
    while node.core.round < 1 or not node.core.neighbours["a1"].inbox._slots:
        run.advance(0.05)
    run.tamper = lambda agent, send: None if agent == "a1" else send
    number, began_s, at = node.core.round, run.now_s, 0
    while node.core.round == number:
        nonce = node.core.neighbours["a1"].session.nonce
        received(run, encode(to_envelope(Chunk(number, 0, at, b"\0"), nonce)))
        at += 1
        run.advance(0.1)
    assert run.now_s - began_s <= 2 * 2.0 + 0.2
    (missed,) = node.events("neighbour_missed")
    assert missed["peer"] == "a1"
    assert len(node.core.neighbours["a1"].inbox._slots) <= SLOTS_PER_NEIGHBOUR
    run.close()


def flood(arena, frames, count):
    """Send a message `count` times; answers the log lines that came of it."""
    lines = []
    for number in range(count):
        sent = frames(number) if callable(frames) else frames
        effects = arena.victim.core.received(
            PEER, [bytes(f) for f in sent], arena.run.now_s, WALL_S
        )
        lines += [e for e in effects if isinstance(e, Log)]
        arena.run._perform(VICTIM, [e for e in effects if not isinstance(e, (Log, Send))])
    return lines


def hello(arena, nonce=b"\7" * 16, **changes):
    """A HELLO of the peer's, signed by it."""
    own = arena.run.nodes[PEER].core.neighbours[VICTIM].session._hello(3)
    greeting = replace(
        Greeting.decode(own.body), nonce=nonce, echo=arena.nonce, established=False, **changes
    )
    body = greeting.encode()
    return [pack([3, 1, b"", body, arena.key.sign("candor/hello/v1", body)])]


FLOODS = {
    "ack": lambda arena, n: said(arena, Ack(n, 0, "refused")),
    "waiting": lambda arena, n: said(arena, Waiting(n, 0)),
    "witnesses": lambda arena, n: said(arena, Witnesses(n, 0, ((b"x" * 900, bytes(64)),) * 32)),
    "chunk": lambda arena, n: said(arena, Chunk(n, 0, 0, bytes(64))),
    "phase": lambda arena, n: said(arena, Chunk(n, n + 1, 0, bytes(64))),
    "update": lambda arena, n: said(arena, Update(*_statement(arena, n), 4)),
    "hello": lambda arena, n: hello(arena),
    "hello-restarts": lambda arena, n: hello(arena, (n + 1).to_bytes(16, "big")),
    "hello-fingerprints": lambda arena, n: hello(arena, fingerprint=f"{n:016x}" * 4),
}


def _statement(arena, number):
    signed = stated(arena, number % 50 + 1, Row(((PEER, 0.5),)))
    return signed.body, signed.signature


def stated(arena, number, row):
    """The peer's statement of ones in a round."""
    ones = np.ones(DIM, np.float32)
    core = arena.victim.core
    said = freshened(core, core.examiner.state(number, 0, PEER, ones, [row]), ones)
    return SignedStatement.sign(said, arena.key)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_neither_fills_the_log_nor_the_memory(arena, name):
    node = arena.victim
    balance = node.core.settlement.balance
    flood(arena, lambda n: FLOODS[name](arena, n), 100)
    held = len(repr(kept(node.core.neighbours[PEER]))) + len(repr(state_of(node)))
    lines = flood(arena, lambda n: FLOODS[name](arena, n + 100), 1000)
    grown = len(repr(kept(node.core.neighbours[PEER]))) + len(repr(state_of(node))) - held
    assert len([line for line in lines if line.level >= 20]) <= 12, lines[-1]
    assert grown < 20_000
    assert node.core.settlement.balance == balance


def test_claims_of_windows_to_come_are_bounded(arena):
    """Signed claims of every window from here to 2^53: some dozens are kept, each within a size."""
    node = arena.victim
    found = next(f for f in arena.frames if f.envelope.kind is Kind.CLAIM and f.sender == PEER)
    signer = fuzz_peer.Signer(arena.key)

    def claim(number):
        body, _ = unpack(found.envelope.fields[0], bytes_max=2**20)
        fields = unpack(body, bytes_max=2**20)
        fields[2] = number if number < 600 else 2**53 - number
        body = pack(fields)
        return said(arena, ClaimMessage(pack([body, signer.key.sign(claims.CLAIM_DOMAIN, body)])))

    before = len(repr(kept(node.core.settlement)))
    one = len(repr(claim(0)))
    flood(arena, claim, 1000)
    assert len(repr(kept(node.core.settlement))) - before < 3 * 64 * 4 * one
    arena.run.advance(5.0)
    assert node.core.round > 1


def test_records_of_the_largest_size_are_refused_and_not_kept(arena):
    """64 records, each with as much evidence as a message holds."""
    node = arena.victim
    before = state_of(node)
    record = unpack(arena._records().addressed(arena.nonce)[0], bytes_max=2**21)[-1]
    assert record[3]
    largest = wire.HEADER_BYTES_MAX // 64 - 2000
    stuffed = [*record[:3], [bytes(largest // len(record[3])) for _ in record[3]]]
    for frames in (
        [pack([3, int(Kind.RECORDS), arena.nonce, *[stuffed] * 64])],
        [pack([3, int(Kind.RECORDS), arena.nonce, *[stuffed] * 65])],
        [pack([3, int(Kind.RECORDS), arena.nonce, *[[*record[:3], [bytes(2**20)] * 4]] * 64])],
    ):
        flood(arena, frames, 20)
    assert state_of(node) == before


def test_questions_for_records_are_answered_one_at_a_time_and_held_within_bytes(arena):
    """A peer that says it has nothing and reads nothing: its outbox here is bounded."""
    node = arena.victim
    edge = node.core.settlement._edges[PEER]
    # Its first record is the genesis, so it says that it stands there.
    head = edge.channel._chain.head_at(0)
    state = StateMessage.sign(
        arena.key, edge.channel.channel_id, arena.nonce, 0, head, answer_wanted=True
    )
    frames = encode(Envelope(Kind.STATE, arena.nonce, state.to_fields()))
    outbox = Outbox(TransportLimits(outbox_control_bytes_max=50_000))
    sends = []
    arena.run.tamper = lambda agent, send: sends.append(send) if agent == VICTIM else None
    for _ in range(300):
        received(arena.run, frames)
    kinds = [send.envelope.kind for send in sends]
    assert kinds.count(Kind.RECORDS) <= 300
    for send in sends:
        outbox.put(OutboxEntry(tuple(bytes(f) for f in encode(send.envelope)), None))
    assert sum(entry.size_bytes for entry in outbox._entries) <= 50_000
    assert outbox.dropped > 0


def test_rows_of_thousands_of_entries_are_refused(arena):
    node = arena.victim
    before = state_of(node)[0]  # the balance: a window may be billed meanwhile
    codes = set()
    for length in (4096, 4097, 60_000):
        row = Row(tuple((f"b{i:05}", 1.0 / length) for i in range(length)))
        plain = node.core.examiner.state(node.core.round, 0, PEER, np.ones(DIM, np.float32), [row])
        signed = SignedStatement.sign(plain, arena.key)  # with fresh sketches it is no header
        lines = flood(arena, said(arena, Update(signed.body, signed.signature, 4 * DIM)), 3)
        lines += flood(
            arena,
            said(arena, Witnesses(node.core.round, 0, ((signed.body, signed.signature),) * 8)),
            3,
        )
        codes |= {line.fields["code"] for line in lines}
    assert {"mixing-row", "malformed"} <= codes
    assert state_of(node)[0] == before


@pytest.mark.parametrize("number", [2**53, 1_000_001, 1_000_000, 40])
def test_updates_of_rounds_far_ahead_hold_two_slots_and_stop_no_round(arena, number):
    node = arena.victim
    inbox = node.core.neighbours[PEER].inbox
    for ahead in range(20):
        row, *_ = node.core.book.formed(node.core.step)  # on a ring of three all rows are alike
        signed = stated(arena, max(1, number - ahead), row)
        received(arena.run, said(arena, Update(signed.body, signed.signature, 4 * DIM)))
    assert len(inbox._slots) <= SLOTS_PER_NEIGHBOUR
    before = node.core.round
    arena.run.advance(5.0)
    assert node.core.round > before
