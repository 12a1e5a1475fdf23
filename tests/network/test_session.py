"""Two sessions always find each other, and nobody else."""

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candor.network.errors import RemoteProtocolError
from candor.network.identity import Identity, SignedCertificate, issue
from candor.network.messages import Hello
from candor.network.session import (
    HELLO_BYTES_MAX,
    HELLO_DOMAIN,
    HELLO_RETRY_FIRST_S,
    HELLO_RETRY_LAST_S,
    MEMORY_BYTES_MAX,
    Greeted,
    Greeting,
    Party,
    Session,
    SessionState,
)
from candor.topologies.encoding.canonical import COUNT_MAX, Value, pack, unpack
from candor.topologies.encoding.signatures import verify
from tests.golden import assert_golden
from tests.mutations import mutated

A, B, C = (Identity.from_seeds(bytes([i]) * 32, bytes([i + 100]) * 32) for i in range(3))
RUN = "demo"
FINGERPRINT, OTHER_FINGERPRINT = "ab" * 32, "cd" * 32
WALL_S = 1_700_000_000.0


def party(agent: str, identity: Identity) -> Party:
    return Party(agent, identity.signing_key.public, identity.curve_public, f"tcp://{agent}:7000")


PARTIES = {"a0": party("a0", A), "a1": party("a1", B)}
IDENTITIES = {"a0": A, "a1": B}


def certificate(agent: str, **changes: object) -> SignedCertificate:
    own = PARTIES[agent]
    fields = {"run_id": RUN, "curve": own.curve, "endpoint": own.endpoint, "serial": 1}
    return issue(IDENTITIES[agent].signing_key, **(fields | changes))


def session(agent: str, life: int = 1, **changes: object) -> Session:
    """A life of an agent; its nonce tells agent and life."""
    peer = "a1" if agent == "a0" else "a0"
    fields = {
        "key": IDENTITIES[agent].signing_key,
        "own": PARTIES[agent],
        "peer": PARTIES[peer],
        "run_id": RUN,
        "fingerprint": FINGERPRINT,
        "certificate": certificate(agent).encode(),
        "nonce": f"{agent} life {life:8}".encode(),
    }
    return Session(**(fields | changes))


def hello(sender: Session, own_round: int = 0) -> Hello:
    """The next HELLO of a session, due or not."""
    return sender._hello(own_round)


def shake_hands(a: Session, b: Session) -> list[Greeted]:
    """A first HELLO of `a` and everything that follows from it."""
    outcomes, messages = [], [(b, hello(a))]
    while messages:
        receiver, message = messages.pop(0)
        outcome = receiver.received(message, WALL_S, 0)
        outcomes.append(outcome)
        messages += [(a if receiver is b else b, reply) for reply in outcome.replies]
        assert len(outcomes) < 10
    return outcomes


def stand(a: Session, b: Session) -> bool:
    return a.established and b.established and a.peer_nonce == b.nonce and b.peer_nonce == a.nonce


# --- the greeting -------------------------------------------------------------------------------

GREETING = Greeting(
    fingerprint=FINGERPRINT,
    sender="a0",
    receiver="a1",
    sender_curve=A.curve_public,
    receiver_curve=B.curve_public,
    nonce=b"n" * 16,
    echo=b"e" * 16,
    established=False,
    round=7,
    certificate=certificate("a0").encode(),
    revision=3,
    memory=b"what a1 has signed",
)
SIGNED = Hello(GREETING.encode(), A.signing_key.sign(HELLO_DOMAIN, GREETING.encode()))
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)
GREETINGS = st.builds(
    Greeting,
    fingerprint=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    sender=IDS,
    receiver=IDS,
    sender_curve=st.text(max_size=40),
    receiver_curve=st.text(max_size=40),
    nonce=st.binary(min_size=16, max_size=16),
    echo=st.just(b"") | st.binary(min_size=16, max_size=16),
    established=st.booleans(),
    round=st.integers(0, COUNT_MAX),
    certificate=st.binary(max_size=500),
    revision=st.integers(0, COUNT_MAX),
    memory=st.binary(max_size=MEMORY_BYTES_MAX),
)


@given(GREETINGS)
def test_what_is_encoded_is_decoded(greeting: Greeting) -> None:
    assert Greeting.decode(greeting.encode()) == greeting


@given(st.binary(max_size=300))
def test_any_bytes_are_a_greeting_or_the_senders_fault(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^hello:"):
        Greeting.decode(body)


@given(mutated(SIGNED.body))
def test_a_changed_body_is_another_greeting_and_not_signed(body: bytes) -> None:
    try:
        greeting = Greeting.decode(body)
    except RemoteProtocolError:
        return
    assert greeting != GREETING
    assert not verify(A.signing_key.public, SIGNED.signature, HELLO_DOMAIN, body)


NAMES = ["version", "fingerprint", "sender", "receiver", "sender_curve", "receiver_curve"]
NAMES += ["nonce", "echo", "established", "round", "certificate", "revision", "memory"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 1),
        ("version", True),
        ("version", 1.0),
        ("fingerprint", "ab" * 31),
        ("fingerprint", "ab" * 32 + "a"),
        ("fingerprint", "AB" * 32),
        ("fingerprint", "\n" * 64),
        ("fingerprint", bytes(32)),
        ("sender", b"a0"),
        ("sender", ""),
        ("sender", "a" * 33),
        ("sender", "a0\n"),
        ("receiver", 1),
        ("receiver", "\x1b[2J"),
        ("sender_curve", bytes(32)),
        ("receiver_curve", None),
        ("nonce", b""),
        ("nonce", b"n" * 15),
        ("nonce", b"n" * 17),
        ("nonce", "n" * 16),
        ("echo", b"e" * 15),
        ("echo", b"e" * 17),
        ("echo", None),
        ("established", 1),
        ("established", None),
        ("round", -1),
        ("round", True),
        ("round", 7.0),
        ("round", COUNT_MAX + 1),
        ("certificate", "text"),
        ("certificate", bytes(HELLO_BYTES_MAX)),
        ("revision", -1),
        ("revision", True),
        ("revision", "2"),
        ("memory", "text"),
        ("memory", bytes(MEMORY_BYTES_MAX + 1)),
    ],
)
def test_a_field_of_another_type_or_out_of_bounds_is_refused(name: str, value: Value) -> None:
    fields = unpack(GREETING.encode(), bytes_max=HELLO_BYTES_MAX)
    assert isinstance(fields, list)
    fields[NAMES.index(name)] = value
    with pytest.raises(RemoteProtocolError, match=r"^hello:"):
        Greeting.decode(pack(fields))


def test_the_golden_hello_keeps_its_bytes() -> None:
    assert_golden(
        "hello.json",
        {
            "about": "A HELLO of a0 to a1, with an Ed25519 signature over candor/hello/v1 || body.",
            "identity_seed": (b"\x00" * 32).hex(),
            "identity_public": A.signing_key.public.hex(),
            "fingerprint": GREETING.fingerprint,
            "sender": GREETING.sender,
            "receiver": GREETING.receiver,
            "sender_curve": GREETING.sender_curve,
            "receiver_curve": GREETING.receiver_curve,
            "nonce": GREETING.nonce.hex(),
            "echo": GREETING.echo.hex(),
            "established": GREETING.established,
            "round": GREETING.round,
            "certificate": GREETING.certificate.hex(),
            "revision": GREETING.revision,
            "memory": GREETING.memory.hex(),
            "body": SIGNED.body.hex(),
            "signature": SIGNED.signature.hex(),
        },
    )


# --- the handshake ------------------------------------------------------------------------------


def test_three_messages_establish_both_sides_once() -> None:
    a, b = session("a0"), session("a1")
    outcomes = shake_hands(a, b)
    assert stand(a, b)
    assert [outcome.established for outcome in outcomes] == [False, True, True]
    assert a.tick(100.0, 0) == b.tick(100.0, 0) == []


def test_hellos_are_repeated_with_growing_intervals_until_the_session_stands() -> None:
    a, b = session("a0"), session("a1")
    times = [t / 100 for t in range(1000) if a.tick(t / 100, 0)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == 0.0
    assert gaps[0] == pytest.approx(HELLO_RETRY_FIRST_S, abs=0.011)
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(HELLO_RETRY_LAST_S, abs=0.011)
    shake_hands(a, b)
    assert not a.tick(100.0, 0)


def test_a_hello_carries_the_round_of_its_sender() -> None:
    a, b = session("a0"), session("a1")
    b.received(hello(a, own_round=12), WALL_S, 0)
    assert b.peer_round == 12


@dataclass
class Lossy:
    """Two agents and a network that loses, delays, reorders and duplicates by a seed.

    Besides HELLOs, whoever takes the session for established sends messages to the peer's nonce.
    """

    seed: int
    loss: float
    delay_s: float
    duplicates: bool = False
    restarts: int = 0
    now_s: float = 0.0
    sent_s: float = 0.0  # when something was last said
    lives: int = 1
    under_way: list[tuple[float, str, Hello | bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.sessions = {"a0": session("a0"), "a1": session("a1")}

    def post(self, sender: str, message: Hello | bytes) -> None:
        receiver = "a1" if sender == "a0" else "a0"
        for _ in range(1 + (self.duplicates and self.random.random() < 0.3)):
            if self.random.random() >= self.loss:
                due_s = self.now_s + self.random.random() * self.delay_s
                self.under_way.append((due_s, receiver, message))

    def step(self) -> None:
        self.now_s += 0.05
        for agent, one in self.sessions.items():
            for message in one.tick(self.now_s, 0):
                self.sent_s = self.now_s
                self.post(agent, message)
            if one.peer_nonce is not None and self.random.random() < 0.2:
                self.post(agent, one.peer_nonce)
        due = [entry for entry in self.under_way if entry[0] <= self.now_s]
        self.under_way = [entry for entry in self.under_way if entry[0] > self.now_s]
        for _, receiver, message in self.random.sample(due, len(due)):
            self.deliver(receiver, message)
        if self.restarts and self.random.random() < 0.03:
            # The connection of a life may still deliver when its successor speaks already.
            self.restarts -= 1
            self.lives += 1
            self.sent_s = self.now_s
            agent = self.random.choice(sorted(self.sessions))
            self.sessions[agent] = session(agent, self.lives)

    def deliver(self, receiver: str, message: Hello | bytes) -> None:
        one = self.sessions[receiver]
        if isinstance(message, Hello):
            for reply in one.received(message, WALL_S, 0).replies:
                self.sent_s = self.now_s
                self.post(receiver, reply)
        elif message != one.nonce:
            one.misaddressed()

    @property
    def quiet(self) -> bool:
        """Nobody has greeted for long enough that all that was ever sent has been heard."""
        return not self.restarts and self.now_s - self.sent_s > HELLO_RETRY_LAST_S + self.delay_s


def settle(network: Lossy, limit_s: float = 120.0) -> None:
    """Until nobody has anything to say; then each must hold the other's present life."""
    while not network.quiet:
        assert network.now_s < limit_s, network
        network.step()
    assert stand(*network.sessions.values()), network


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.01, 0.5, 3.0]))
def test_both_sides_stand_in_the_end_however_bad_the_network(
    seed: int, loss: float, delay_s: float
) -> None:
    settle(Lossy(seed, loss, delay_s, duplicates=True))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.01, 0.5, 3.0]),
    st.integers(1, 4),
)
def test_they_find_each_other_again_after_restarts_of_either(
    seed: int, loss: float, delay_s: float, restarts: int
) -> None:
    settle(Lossy(seed, loss, delay_s, restarts=restarts))


@pytest.mark.parametrize("seed", [2, 9, 10, 13, 19, 22, 27, 34])
def test_a_restarted_peer_is_not_taken_for_its_earlier_life(seed: int) -> None:
    """Regression: in each of these one side wrote to a life that was over, for ever."""
    settle(Lossy(seed, seed % 4 * 0.2, (0.01, 0.3, 3.0)[seed % 3], restarts=1 + seed % 4))


def test_a_restart_whose_last_hello_is_lost_is_noticed() -> None:
    a, b = session("a0"), session("a1")
    shake_hands(a, b)
    reborn = session("a1", life=2)
    answer = a.received(hello(reborn), WALL_S, 0)
    assert not answer.established  # a first HELLO proves nothing
    outcome = reborn.received(answer.replies[0], WALL_S, 0)
    assert outcome.established
    assert outcome.replies  # and these never arrive
    assert a.peer_nonce == b.nonce
    (repeated,) = a.tick(100.0, 0)
    (reply,) = reborn.received(repeated, WALL_S, 0).replies
    assert a.received(reply, WALL_S, 0).established
    assert stand(a, reborn)


def test_a_peer_that_writes_to_an_earlier_life_of_ours_is_told() -> None:
    a, b = session("a0"), session("a1")
    shake_hands(a, b)
    reborn = session("a0", life=2)
    stale = hello(b)  # established, to the life that is over
    assert Greeting.decode(stale.body).established
    (reply,) = reborn.received(stale, WALL_S, 0).replies
    assert Greeting.decode(reply.body).nonce == reborn.nonce
    assert not reborn.established


def test_a_message_to_an_earlier_life_is_answered_by_a_hello() -> None:
    a, b = session("a0"), session("a1")
    shake_hands(a, b)
    a.misaddressed()
    assert a.established  # what does bear our nonce still counts
    (message,) = a.tick(100.0, 0)
    (reply,) = b.received(message, WALL_S, 0).replies
    a.received(reply, WALL_S, 0)
    assert not a.tick(200.0, 0)


def test_a_recorded_hello_establishes_nothing() -> None:
    a, b = session("a0"), session("a1")
    recorded = [hello(a)]
    (reply,) = b.received(recorded[0], WALL_S, 0).replies
    recorded += a.received(reply, WALL_S, 0).replies
    assert b.received(recorded[1], WALL_S, 0).established  # live, the same bytes do
    recorded.append(hello(a, own_round=9))
    victim = session("a1", life=2)
    for message in recorded:
        outcome = victim.received(message, WALL_S, 0)
        assert not outcome.established
        assert outcome.refused is None
    assert victim.state is SessionState.CONNECTING
    assert victim.peer_nonce is None


def test_a_late_hello_of_an_earlier_life_does_no_lasting_harm() -> None:
    a, old = session("a0"), session("a1")
    shake_hands(a, old)
    late = hello(old)
    new = session("a1", life=2)
    shake_hands(new, a)
    assert stand(a, new)
    a.received(late, WALL_S, 0)
    assert a.peer_nonce == old.nonce  # nothing in a late message tells that it is late
    new.misaddressed()  # but what it makes `a` send does
    (told,) = new.tick(100.0, 0)
    for reply in a.received(told, WALL_S, 0).replies:
        new.received(reply, WALL_S, 0)
    assert stand(a, new)


# --- refusals -----------------------------------------------------------------------------------


def forged(key: Identity = A, **changes: object) -> Hello:
    body = replace(GREETING, **changes).encode()
    return Hello(body, key.signing_key.sign(HELLO_DOMAIN, body))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Hello(b"no greeting", SIGNED.signature), "hello"),
        (Hello(SIGNED.body, b""), "hello-signature"),
        (Hello(SIGNED.body, SIGNED.signature[::-1]), "hello-signature"),
        (Hello(SIGNED.body, A.signing_key.sign("candor/claim/v1", SIGNED.body)), "hello-signature"),
        (forged(C), "hello-signature"),
        (forged(B), "hello-signature"),
        (forged(sender="a2"), "hello-address"),
        (forged(receiver="a2"), "hello-address"),
        (forged(receiver="a0"), "hello-address"),
        (forged(sender="a1", receiver="a0"), "hello-address"),
        (forged(sender_curve=C.curve_public), "hello-curve"),
        (forged(receiver_curve=C.curve_public), "hello-curve"),
        (forged(sender_curve="!" * 40), "hello-curve"),  # below any other, in order
        (forged(sender_curve="~" * 40), "hello-curve"),  # and above
        (forged(certificate=b""), "certificate"),
        (forged(certificate=certificate("a1").encode()), "certificate-signature"),
        (forged(certificate=certificate("a0", run_id="other").encode()), "certificate-run"),
        (forged(certificate=certificate("a0", curve=C.curve_public).encode()), "certificate-key"),
        (
            forged(certificate=certificate("a0", endpoint="tcp://x:1").encode()),
            "certificate-endpoint",
        ),
        (forged(certificate=certificate("a0", not_after_s=1).encode()), "certificate-expired"),
    ],
)
def test_a_hello_that_is_not_the_peers_to_us_is_refused(message: Hello, code: str) -> None:
    b = session("a1")
    with pytest.raises(RemoteProtocolError) as caught:
        b.received(message, WALL_S, 0)
    assert caught.value.code == code
    assert b.state is SessionState.CONNECTING
    assert b.peer_nonce is None


def test_a_false_hello_does_not_end_a_session_that_stands() -> None:
    a, b = session("a0"), session("a1")
    shake_hands(a, b)
    for message in (forged(C), forged(sender="a2"), forged(C, fingerprint=OTHER_FINGERPRINT)):
        with pytest.raises(RemoteProtocolError):
            b.received(message, WALL_S, 0)
    assert stand(a, b)


def test_two_cluster_files_are_refused_on_both_sides_with_both_named() -> None:
    a, b = session("a0"), session("a1", fingerprint=OTHER_FINGERPRINT)
    outcomes = shake_hands(a, b)
    for one in (a, b):
        assert one.state is SessionState.REFUSED
        assert one.peer_nonce is None
        assert one.reason is not None
        assert FINGERPRINT[:16] in one.reason
        assert OTHER_FINGERPRINT[:16] in one.reason
    assert "a0 has abab" in str(a.reason)
    assert "a1 has cdcd" in str(a.reason)
    assert [outcome.refused for outcome in outcomes if outcome.refused] == [b.reason, a.reason]
    # It is said once, however often the peer calls again.
    assert b.received(hello(a), WALL_S, 0) == Greeted()


def test_two_revisions_are_refused_with_who_has_to_move() -> None:
    a = session("a0", revision=2)
    b = session("a1", revision=1, fingerprint=OTHER_FINGERPRINT)
    shake_hands(a, b)
    assert a.reason == (
        f"cluster files differ: a0 has revision 2 {FINGERPRINT[:16]}, "
        f"a1 has revision 1 {OTHER_FINGERPRINT[:16]}; a1 needs revision 2 and is waited for"
    )
    assert b.reason == (
        f"cluster files differ: a1 has revision 1 {OTHER_FINGERPRINT[:16]}, "
        f"a0 has revision 2 {FINGERPRINT[:16]}; a1 needs revision 2"
    )
    assert (a.peer_behind, b.peer_behind) == (True, False)
    shake_hands(a, session("a1", revision=2))  # started again, with our file
    assert a.established
    assert not a.peer_behind


def test_a_file_without_a_number_is_behind_nobody() -> None:
    a, b = session("a0", revision=2), session("a1", fingerprint=OTHER_FINGERPRINT)
    shake_hands(a, b)
    for one in (a, b):
        assert one.state is SessionState.REFUSED
        assert not one.peer_behind
        assert "needs" not in str(one.reason)


@pytest.mark.parametrize("number", [0, 2])
def test_one_number_on_two_files_helps_nobody_and_the_fingerprint_decides(number: int) -> None:
    a = session("a0", revision=number)
    b = session("a1", revision=number, fingerprint=OTHER_FINGERPRINT)
    shake_hands(a, b)
    assert a.state is b.state is SessionState.REFUSED
    assert a.reason is not None
    assert "needs" not in a.reason
    assert (a.peer_behind, b.peer_behind) == (False, False)  # neither is waited for
    # The number is signed but proves nothing: equal fingerprints are one file.
    a, b = session("a0", revision=2), session("a1", revision=1)
    shake_hands(a, b)
    assert stand(a, b)


def test_a_refusal_reaches_a_side_that_missed_the_reply() -> None:
    a, b = session("a0"), session("a1", fingerprint=OTHER_FINGERPRINT)
    b.received(hello(a), WALL_S, 0)
    (repeated,) = b.tick(50.0, 0)
    assert a.received(repeated, WALL_S, 0).refused


@pytest.mark.parametrize("mended", ["a0", "a1"])
def test_it_recovers_when_either_operator_mends_the_file(mended: str) -> None:
    files = {"a0": FINGERPRINT, "a1": OTHER_FINGERPRINT}
    sessions = {agent: session(agent, fingerprint=file) for agent, file in files.items()}
    shake_hands(sessions["a0"], sessions["a1"])
    other = "a1" if mended == "a0" else "a0"
    sessions[mended] = session(mended, life=2, fingerprint=files[other])
    outcomes = shake_hands(sessions[mended], sessions[other])
    assert stand(sessions["a0"], sessions["a1"])
    assert sum(outcome.established for outcome in outcomes) == 2
    assert all(one.reason is None for one in sessions.values())


def test_a_peer_that_comes_back_with_another_file_is_refused() -> None:
    a, b = session("a0"), session("a1")
    shake_hands(a, b)
    changed = session("a1", life=2, fingerprint=OTHER_FINGERPRINT)
    shake_hands(changed, a)
    assert a.state is changed.state is SessionState.REFUSED
