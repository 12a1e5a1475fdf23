"""What a neighbour may say and send where models are traded: each lie is one refused message with
its code, after which an honest one is taken as if nothing had been."""

import copy
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from candor.agent.core.agent import AgentCore
from candor.agent.core.effects import Log, Verify
from candor.agent.core.verification import judge
from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.evidence.statements import (
    STATEMENT_DOMAIN,
    Head,
    SignedStatement,
    commitment,
)
from candor.mechanisms.proofs import CONTRADICTORY, NOTHING, OF_ONE, Proof
from candor.network.messages import (
    Chunk,
    EvidenceMessage,
    Message,
    Update,
    Witnesses,
    from_envelope,
    to_envelope,
)
from candor.network.wire import encode
from candor.topologies.encoding.canonical import pack, sha256, unpack
from candor.topologies.encoding.signatures import SigningKey
from tests.campaigns.fuzz_peer import PEER, VICTIM, WALL_S, altered, scribble, state_of
from tests.cases import cases
from tests.runs import DIM, LocalRun, write_cluster

ROUND = 5  # of the lies; by then the victim, which does nothing, is given one group of two
RATINGS, FORMED, SOURCES = -1, 8, 12  # places in a statement's body
HUGE, NAN, INF = 1e308, float("nan"), float("inf")


@dataclass
class Scene:
    """A victim that waits for its peer's update of `ROUND`, and what the peer would have sent it of
    that round and the next."""

    core: AgentCore
    key: SigningKey
    now_s: float
    sent: dict[int, list[Message]]

    def fresh(self) -> AgentCore:
        """The victim as it waits."""
        shared = (self.core.examiner, self.core.settings)
        return copy.deepcopy(self.core, {id(one): one for one in shared})

    def said(self, number: int = ROUND) -> list[Any]:
        """The fields of the honest statement of a round."""
        update = self.sent[number][0]
        assert isinstance(update, Update)
        return unpack(update.body, bytes_max=2**20)

    def signed(self, fields: list[Any]) -> tuple[bytes, bytes]:
        """A statement's body and its signature, whatever it says."""
        body = pack(fields)
        head = Head(fields[1], fields[2], fields[3], PEER, sha256(body), bytes(64))
        return body, self.key.sign(STATEMENT_DOMAIN, head.signed)

    def sending(self, fields: list[Any], number: int = ROUND) -> list[Message]:
        """The messages of a round with another statement."""
        body, signature = self.signed(fields)
        update, *rest = self.sent[number]
        assert isinstance(update, Update)
        return [replace(update, body=body, signature=signature), *rest]

    def codes(self, core: AgentCore, messages: list[Message]) -> list[str]:
        """With which codes a victim refuses some messages; judges at once what is complete."""
        found, nonce = [], core.neighbours[PEER].session.nonce
        core._reception._refusals.clear()  # or the log would leave some out
        for message in messages:
            frames = [bytes(frame) for frame in encode(to_envelope(message, nonce))]
            effects = core.received(PEER, frames, self.now_s, WALL_S)
            for job in [effect for effect in effects if isinstance(effect, Verify)]:
                outcome = judge(job.update, core.examiner, core.codec)
                effects += core.verified(PEER, job.update, outcome, self.now_s)
            logs = [effect for effect in effects if isinstance(effect, Log)]
            found += [str(log.fields["code"]) for log in logs if "code" in log.fields]
        return found

    def takes(self, core: AgentCore, number: int = ROUND) -> bool:
        """Whether the victim accepts the honest update of a round."""
        assert self.codes(core, self.sent[number]) == []
        return core.neighbours[PEER].last_round == number


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    settings = {"rewards": "cgsv:beta=1,alpha=0.9", "sketch_size": DIM}
    cluster = write_cluster(folder, "ring", 3, rounds=50, window=20, **settings)
    run = LocalRun(folder, cluster, reports={VICTIM: lambda t: np.zeros(DIM, np.float32)})
    sent: dict[int, list[Message]] = {}

    def held(agent, send):
        if (agent, send.peer) != (PEER, VICTIM) or send.bulk_step is None:
            return send
        sent.setdefault(send.bulk_step, []).append(from_envelope(send.envelope))
        return send if send.bulk_step < ROUND else None

    run.tamper = held
    run.start()
    run.advance_until(lambda: ROUND + 1 in sent)
    node = run.nodes[VICTIM]
    assert node.core.round == ROUND
    made = Scene(node.core, run.nodes[PEER].identity.signing_key, run.now_s, sent)
    assert made.said()[RATINGS][1][0][3] == 1
    run.close()
    return made


def rated(place, **changes):
    """A lie about one of those that are rated: by its place, the fields by their names."""
    names = ("agent", "reputation", "score", "groups")

    def lie(last):
        entry = [
            changes.get(name, value) for name, value in zip(names, last[1][place], strict=True)
        ]
        return [last[0], [*last[1][:place], entry, *last[1][place + 1 :]]]

    return lie


def traced(change):
    """A lie about the trace."""
    return lambda last: [change(last[0]), last[1]]


def listed(change):
    """A lie about whom there is a rating of."""
    return lambda last: [last[0], change(last[1])]


def with_value(value):
    return traced(lambda trace: np.array([value], "<f4").tobytes() + trace[4:])


MALFORMED = {
    "nothing": lambda last: None,
    "a number": lambda last: 7,
    "no element": lambda last: [],
    "a trace alone": lambda last: last[:1],
    "three elements": lambda last: [*last, 0],
    "no bytes of a trace": traced(lambda trace: b""),
    "a trace of half a value": traced(lambda trace: trace + b"\0\0"),
    "a trace longer than any": traced(lambda trace: bytes(4 * 129)),
    "NaN in the trace": with_value(NAN),
    "infinity in the trace": with_value(-INF),
    "a reputation of NaN": rated(0, reputation=NAN),
    "an infinite reputation": rated(0, reputation=INF),
    "a negative reputation": rated(0, reputation=-0.25),
    "a whole reputation": rated(0, reputation=1),
    "a score of NaN": rated(1, score=NAN),
    "an infinite score": rated(1, score=-INF),
    "less than no groups": rated(0, groups=-1),
    "more groups than any": rated(0, groups=33),
    "a boolean of groups": rated(0, groups=True),
    "groups in binary64": rated(0, groups=1.0),
    "no id": rated(0, agent=b"a0"),
    "an empty id": rated(0, agent=""),
    "one twice": listed(lambda of: [of[0], *of]),
    "others in their order": listed(lambda of: of[::-1]),
    "short ratings": listed(lambda of: [one[:3] for one in of]),
    "thousands": listed(lambda of: [[f"b{i:05}", 0.1, 0.0, 0] for i in range(5000)]),
}
REFUSED = {
    "nobody": listed(lambda of: []),
    "all but one": listed(lambda of: of[1:]),
    "a stranger beside": listed(lambda of: [*of, ["zz", 0.1, 0.0, 0]]),
    "a stranger instead": rated(2, agent="zz"),
    "groups beyond all": rated(0, groups=3),
    "less than is earned": rated(0, groups=0),
    "less than another earns": rated(2, groups=1),
    "a huge reputation": rated(1, reputation=HUGE),
    "a reputation above one": rated(1, reputation=1.0000000000000002),
    "a tiny reputation": rated(0, reputation=5e-324),
    "another reputation that earns the same": rated(1, reputation=0.5),
    "a huge score": rated(1, score=HUGE),
    "the opposite score": rated(2, score=-0.5),
    "a score of who does nothing": rated(0, score=0.5),
    "a trace of another length": traced(lambda trace: trace[:-4]),
    "a longer trace": traced(lambda trace: trace + bytes(4)),
    "no trace to speak of": traced(lambda trace: bytes(len(trace))),
    "twice the trace": traced(lambda trace: (2 * np.frombuffer(trace, "<f4")).tobytes()),
    "the largest trace": with_value(3e38),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_rating_is_one_refused_message_and_nothing_of_it_is_kept(scene, name):
    core, fields = scene.core, scene.said()
    fields[RATINGS] = MALFORMED[name](fields[RATINGS])
    before = state_of_core(core)
    assert scene.codes(core, scene.sending(fields)) == ["malformed"]
    assert state_of_core(core) == before


def state_of_core(core):
    return state_of(type("Node", (), {"core": core})()), core.neighbours[PEER].refused


def test_the_honest_update_of_the_same_round_is_taken_after_all_of_these(scene):
    core = scene.fresh()
    for lie in MALFORMED.values():
        fields = scene.said()
        fields[RATINGS] = lie(fields[RATINGS])
        scene.codes(core, scene.sending(fields))
    assert scene.takes(core)


@pytest.mark.parametrize("name", REFUSED)
def test_a_false_rating_costs_its_sender_the_round(scene, name):
    core, fields = scene.fresh(), scene.said()
    fields[RATINGS] = REFUSED[name](fields[RATINGS])
    assert scene.codes(core, scene.sending(fields)) == ["rating"]
    neighbour = core.neighbours[PEER]
    assert (neighbour.last_round, neighbour.misrated) == (ROUND - 1, 1)
    assert not neighbour.ready
    assert not core.neighbours["a2"].barred


@pytest.mark.parametrize("last", [[], [None, None]])
def test_a_statement_of_fewer_or_more_elements_is_refused(scene, last):
    """Without ratings it is of a run without rewards."""
    fields = scene.said()
    fields[RATINGS:] = last
    assert scene.codes(scene.fresh(), scene.sending(fields)) == ["malformed" if last else "rating"]


def test_ratings_in_a_run_without_rewards_are_refused(scene, tmp_path):
    run = LocalRun(tmp_path, write_cluster(tmp_path, "ring", 3, rounds=50, sketch_size=DIM))
    sent: list[Message] = []
    run.tamper = lambda agent, send: (
        send
        if (agent, send.peer) != (PEER, VICTIM) or send.bulk_step is None
        else sent.append(from_envelope(send.envelope))
    )
    run.start()
    run.advance_until(lambda: len(sent) > 2)
    key = run.nodes[PEER].identity.signing_key
    plain = Scene(run.nodes[VICTIM].core, key, run.now_s, {1: sent})
    fields = [*plain.said(1), scene.said()[RATINGS]]
    assert plain.codes(plain.core, plain.sending(fields, 1)) == ["rating"]
    run.close()


# --- payloads ------------------------------------------------------------------------------------


def payload(scene):
    """The bytes of the honest payload: one group of two, and a leaf."""
    return b"".join(bytes(one.data) for one in scene.sent[ROUND] if isinstance(one, Chunk))


def carrying(scene, data, size=None):
    """The round's messages with another payload."""
    update, *rest = scene.sent[ROUND]
    size = len(data) if size is None else size
    chunks = [Chunk(ROUND, 0, at, data[at : at + 64]) for at in range(0, len(data), 64)]
    witnesses = [one for one in rest if isinstance(one, Witnesses)]
    return [replace(update, payload_bytes=size), *witnesses, *chunks]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:-32], "payload-size"),  # a leaf too few
        (lambda data: data + bytes(32), "payload-size"),  # and too many
        (lambda data: data[:-1], "payload-size"),  # one of a wrong length
        (lambda data: data[4:], "payload-size"),  # a part shorter than stated
        (lambda data: data[:4] + data, "payload-size"),  # and longer
        (lambda data: bytes(4 * DIM), "payload-size"),  # a whole vector
        (lambda data: b"", "payload-size"),
        (lambda data: flipped(data, 0), "payload-digest"),
        (lambda data: flipped(data, len(data) - 1), "payload-digest"),
        (lambda data: data[-32:] + data[:-32], "payload-digest"),
        (lambda data: data[:-32] + bytes(32), "payload-digest"),
    ],
)
def test_other_parts_and_leaves_than_are_stated_are_refused(scene, change, code):
    core, data = scene.fresh(), payload(scene)
    assert len(data) == 4 * DIM // 2 + 32
    assert scene.codes(core, carrying(scene, change(data))) == [code]
    assert not core.neighbours[PEER].ready


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda data: data + bytes(4), ["chunk-size"]),
        (lambda data: data[:-32], []),  # the round waits for the rest until its deadline
    ],
)
def test_more_or_less_than_was_announced_is_not_mixed(scene, change, codes):
    core, data = scene.fresh(), payload(scene)
    *first, last = carrying(scene, change(data), len(data))
    assert scene.codes(core, [*first, last]) == codes
    assert not core.neighbours[PEER].ready


# --- witnesses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        listed(lambda of: []),
        listed(lambda of: of[:-1]),
        listed(lambda of: [of[0], of[2]]),  # not of itself
        listed(lambda of: [*of, ["zz", 0.1, 0.0, 0]]),
        rated(0, reputation=HUGE),
        listed(lambda of: [[one[0], HUGE, *one[2:]] for one in of]),
        listed(lambda of: [[one[0], 0.0, *one[2:]] for one in of]),
        traced(lambda trace: trace[:4]),
        traced(lambda trace: bytes(len(trace))),
        traced(lambda trace: np.full(len(trace) // 4, 3e38, "<f4").tobytes()),
        traced(lambda trace: np.full(len(trace) // 4, 1e-45, "<f4").tobytes()),
        lambda last: None,
    ],
)
def test_ratings_that_rest_on_a_statement_that_was_never_sent_are_refused(scene, lie):
    """The victim missed a round, and is told something else of it afterwards."""
    said = scene.said()
    said[RATINGS] = lie(said[RATINGS])
    if said[RATINGS] is None:
        del said[RATINGS]
    assert scene.codes(scene.fresh(), resting_on(scene, said)) == ["rating"]
    assert scene.takes(scene.fresh(), ROUND + 1)


def resting_on(scene, said):
    """The messages of the next round, if this had been stated in the one before."""
    fields, forged = scene.said(ROUND + 1), scene.signed(said)
    witnesses = [
        forged if unpack(body, bytes_max=2**20)[4] == PEER else (body, signature)
        for one in scene.sent[ROUND + 1]
        if isinstance(one, Witnesses)
        for body, signature in one.statements
    ]
    fields[SOURCES] = commitment(body for body, _ in witnesses)
    update, *rest = scene.sending(fields, ROUND + 1)
    chunks = [one for one in rest if isinstance(one, Chunk)]
    return [update, *Witnesses.batches(ROUND + 1, 0, witnesses), *chunks]


# --- proofs --------------------------------------------------------------------------------------


def without_ratings(said):
    return said[:RATINGS]


def with_ratings_of(lie):
    return lambda said: [*said[:RATINGS], lie(said[RATINGS])]


def elsewhere(place, value):
    return lambda said: [*said[:place], value, *said[place + 1 :]]


@pytest.mark.parametrize("kind", [CONTRADICTORY, *OF_ONE])
@pytest.mark.parametrize(
    ("source", "row"),
    [
        (without_ratings, None),
        (with_ratings_of(lambda last: [last[0][:4], last[1]]), None),
        (with_ratings_of(listed(lambda of: of[:1])), None),
        (with_ratings_of(listed(lambda of: [[one[0], HUGE, *one[2:]] for one in of])), None),
        (elsewhere(4, "zz"), None),
        (elsewhere(2, ROUND - 1), None),
        (elsewhere(1, bytes(32)), None),
        (list, []),
        (list, [["zz", 1.0]]),
        (list, [["a0", 0.5], ["a2", 0.5]]),
        (list, [["a1", -7.0]]),
    ],
)
def test_what_a_liar_commits_to_breaks_nobody_who_is_sent_it_as_a_proof(scene, kind, source, row):
    """It signs statements that it never sent, of sources that nobody did, against itself."""
    forged, core, fields = (
        scene.signed(source(scene.said()))[0],
        scene.fresh(),
        scene.said(ROUND + 1),
    )
    row = fields[FORMED][0][-1] if row is None else row
    fields[FORMED] = [[fields[FORMED][0][0], row]]
    bodies = (forged,) * len(row)
    fields[SOURCES] = commitment(bodies)
    said, run = scene.signed(fields), core.examiner.terms.run
    claimed = ClaimedRound(ROUND + 1, 1.0, ("a0",), bytes(4 * DIM))
    claim = SignedClaim.sign(Claim(run, 0, PEER, (claimed,)), scene.key)
    first, second = (said, NOTHING) if kind in OF_ONE else ((claim.body, claim.signature), said)
    data = Proof(kind, PEER, first, second, bodies).encode()
    assert scene.codes(core, [EvidenceMessage(data)]) == ["evidence"]
    assert scene.takes(core)


@pytest.mark.parametrize("kind", OF_ONE)
@pytest.mark.parametrize("parts", [0, 2])
def test_a_proof_of_a_statement_of_other_parts_breaks_nobody(scene, kind, parts):
    fields, core = scene.said(ROUND + 1), scene.fresh()
    fields[FORMED] = fields[FORMED] * parts
    data = Proof(kind, PEER, scene.signed(fields), NOTHING, (b"",)).encode()
    assert scene.codes(core, [EvidenceMessage(data)]) == ["evidence"]


# --- all else ------------------------------------------------------------------------------------


def test_no_mutation_of_ratings_or_payloads_is_taken_or_breaks_anything(scene):
    """Of one that is said to have been stated before, scores count for nothing any more."""
    honest, data, core, judged = scene.said(), payload(scene), scene.fresh(), 0
    for seed in range(cases(60)):
        r = random.Random(f"ratings {seed}")
        now = r.random() < 0.7
        fields = [*honest[:RATINGS], altered(r, honest[RATINGS])]
        try:
            messages = (scene.sending if now else partial(resting_on, scene))(fields)
        except (ValueError, OverflowError):
            continue  # no encoding has such a value
        if r.random() < 0.2 and (other := scribble(r, data)) != data:
            messages, now = carrying(scene, other, r.choice((None, len(data)))), True
        elif pack(fields) == pack(honest):
            continue
        codes = scene.codes(core, messages)
        assert not (now and core.neighbours[PEER].ready), seed
        assert len(codes) <= 1 or codes == ["malformed", "witness-missing"], (seed, codes)
        if codes != ["malformed"]:
            core, judged = scene.fresh(), judged + 1
    assert judged > 5
    assert scene.takes(core)


def test_what_is_refused_can_be_decoded_and_is_signed(scene):
    """So that the tests above refuse it for what it says."""
    body, signature = scene.signed(scene.said())
    signed = SignedStatement.decode(body, signature, sketch_bytes_max=8 * DIM)
    assert signed.verify(scene.key.public)
    assert scene.takes(scene.fresh())
