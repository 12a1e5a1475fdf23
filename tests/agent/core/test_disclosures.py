"""Rounds shown between neighbours: liars are proven by those who do them again, honest ones not."""

import math
from dataclasses import replace

import pytest

from candor.agent.core.disclosures import JUDGING_BYTES_MAX, MISSED_MAX, Disclosures
from candor.agent.core.effects import Send
from candor.agent.daemon.exports import CLUSTER_NAME
from candor.agent.daemon.judging import Judging
from candor.agent.daemon.kept_rounds import state_from
from candor.agent.learning.committed import places_of
from candor.agent.learning.rows import TrainedRows
from candor.agent.runs.disclosed import judged
from candor.agent.runs.replay import Host
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import (
    Disclosure,
    Shown,
    ShownRound,
    ShownSample,
    SignedDisclosure,
    encode_shown,
)
from candor.mechanisms.evidence.kept import encode_signed
from candor.mechanisms.evidence.sample_tree import Samples, Tree, leaf, leaf_key
from candor.mechanisms.evidence.statements import STATEMENT_DOMAIN, Head
from candor.mechanisms.proofs import verify_proof
from candor.network.messages import Ask, ShownMessage, from_envelope, to_envelope
from candor.network.wire import Kind
from candor.topologies.encoding.canonical import MalformedError, pack, payload_digest
from candor.topologies.specs.specs import ConfigurationError
from tests.kept_runs import kept_run


class Exaggerates(TrainedRows):
    """Reports a twentieth too much."""

    def report(self, gradient, t, state):
        return super().report(gradient, t, state) * 1.05


class FromElsewhere(TrainedRows):
    """Trains from a model that is not what it mixed, and says nothing of it."""

    def local_steps(self, x, t, step_size, state):
        return super().local_steps(x + 0.01, t, step_size, state)


def shown_run(tmp_path, **settings):
    settings = {"rounds": 6, "window": 3, "momentum": 0.5, "disclose": 1, **settings}
    return kept_run(tmp_path, **settings)


def told(run):
    return {(judge.shown.agent, found.round): found.told for _, judge, found in run.verdicts}


def opened(run, one):
    sketch_bytes = 8 * min(run.cluster.task.parameters, run.cluster.payments.sketch_size)
    return Shown.decode(one.shown, sketch_bytes=sketch_bytes)


def resigned(run, one, **parts):
    """A shown round with other parts, signed by its own agent."""
    shown = opened(run, one)
    shown = replace(shown, **{name: change(getattr(shown, name)) for name, change in parts.items()})
    following = shown.following.encode() if shown.following else b""
    said = encode_signed(shown.said) if shown.said else b""
    data = encode_shown(shown.start.encode(), shown.round.encode(), following, said, shown.samples)
    return signed(run, one, data)


def signed(run, one, data, **place):
    said = replace(
        Disclosure.decode(one.signed.body), size=len(data), digest=payload_digest(data), **place
    )
    key = run.nodes[one.agent].identity.signing_key
    return ShownRound(one.agent, SignedDisclosure.sign(said, key), data)


def with_samples(run, one, sample):
    """A shown round of an agent that has committed to `sample` in each place."""
    start = opened(run, one).start
    count, number, secret = start.samples.count, start.round, b"k" * 32
    tree = Tree([leaf(place, sample, secret) for place in range(count)])
    samples = tuple(
        ShownSample(place, sample, leaf_key(place, secret), tree.path(place))
        for place in places_of(run.cluster, one.agent, number, count)
    )
    committed = replace(start, samples=Samples(count, tree.root))
    return resigned(run, one, start=lambda _: committed, samples=lambda _: samples)


def tells(run, one):
    found = judged(run.cluster, one, Host(threads=1))
    return found.told, found.why


def test_neighbours_do_a_round_of_every_window_again_and_honest_ones_are_true(tmp_path):
    run = shown_run(tmp_path, agents=3, topology="ring")
    assert len(run.verdicts) == 3 * 2 * 2  # agents, neighbours, windows: the last one included
    assert set(told(run).values()) == {Told.TRUE}
    assert {found.why for *_, found in run.verdicts} == {"to the bit"}
    assert not any(node.events("round_not_shown") for node in run.nodes.values())
    run.close()


@pytest.mark.parametrize("lie", [Exaggerates, FromElsewhere])
def test_who_reports_falsely_is_proven_by_its_neighbours_and_served_no_more(tmp_path, lie):
    run = shown_run(tmp_path, lying={"a1": lie}, agents=3)
    assert {agent for (agent, _), found in told(run).items() if found is Told.FALSE} == {"a1"}
    for agent in ("a0", "a2"):
        (proven,) = run.nodes[agent].events("misbehaviour_proven")
        assert (proven["peer"], proven["kind"]) == ("a1", "false-report")
        assert run.nodes[agent].core.neighbours["a1"].barred.startswith("proven guilty")
    assert not run.nodes["a1"].events("misbehaviour_proven")
    run.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "diloco", "codec": "float16"},
        {"algorithm": "gradient-tracking"},
        {"aggregator": "trimmed-mean", "max_byzantine": 1, "agents": 4, "topology": "complete"},
        {"aggregator": "ubar", "max_byzantine": 1, "agents": 4, "topology": "complete"},
        {"task": "tests.kept_runs:Normed"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_honest_rounds_of_all_sorts_of_runs_are_true(tmp_path, settings):
    run = shown_run(tmp_path, **settings)
    assert run.verdicts
    assert {(found.told, found.why) for *_, found in run.verdicts} == {(Told.TRUE, "to the bit")}
    run.close()


def test_what_is_shown_is_held_against_what_was_committed_to(tmp_path):
    run = shown_run(tmp_path)
    judge = next(judge for agent, judge, _ in run.verdicts if agent == "a0")
    one = judge.shown
    assert tells(run, one) == (Told.TRUE, "to the bit")

    def other_label(samples):
        return (replace(samples[0], sample=samples[1].sample), *samples[1:])

    def others(samples):
        return samples[1:]

    def moved(start):
        return replace(start, model=bytes(len(start.model)))

    told_by = {
        "other samples": (resigned(run, one, samples=other_label), "none of those that it"),
        "too few samples": (resigned(run, one, samples=others), "does not show the samples"),
        "another start": (resigned(run, one, start=moved), "did not commit to what it kept"),
    }
    for what, (false, why) in told_by.items():
        verdict, reason = tells(run, false)
        assert verdict is Told.FALSE, what
        assert why in reason
    # What is no round is no proof: it counts as not shown.
    assert tells(run, signed(run, one, b"junk"))[0] is Told.UNKNOWN
    assert tells(run, signed(run, one, one.shown, round=5, window=1))[0] is Told.UNKNOWN
    run.close()


PIXELS, LABEL = ["<f4", [64], bytes(256)], ["<i8", [], bytes(8)]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [PIXELS],
        [PIXELS, ["<i8", [], (99).to_bytes(8, "little")]],
        [["<f8", [64], bytes(512)], LABEL],
        [["<f4", [63], bytes(252)], LABEL],
        [["<f16", [64], bytes(1024)], LABEL],
        [[",", [64], bytes(256)], LABEL],
        [["<f4", [1] * 64, bytes(4)], LABEL],
    ],
    ids=["none", "no-label", "label", "kind", "shape", "long-double", "comma", "dimensions"],
)
def test_samples_with_which_no_round_can_be_done_are_as_good_as_not_shown(kept, parts):
    assert tells(kept, with_samples(kept, first(kept), pack(parts)))[0] is Told.UNKNOWN


def test_samples_are_to_blame_only_where_the_task_can_be_used(kept, tmp_path):
    elsewhere = Host(initial=tmp_path / "gone.npz", threads=1)
    one = with_samples(kept, first(kept), pack([PIXELS]))
    with pytest.raises(ConfigurationError):
        judged(kept.cluster, one, elsewhere)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda each: replace(each, parts=()), Told.UNKNOWN),
        (lambda each: replace(each, parts=each.parts[1:]), Told.UNKNOWN),
        (lambda each: replace(each, parts=each.parts * 2), Told.UNKNOWN),
        (lambda each: replace(each, parts=each.parts[::-1]), Told.UNKNOWN),
        (lambda each: weighed(each, math.nan), Told.FALSE),
        (lambda each: weighed(each, math.inf), Told.FALSE),
    ],
    ids=["nothing", "others", "twice", "disorder", "nan", "inf"],
)
def test_exchanges_that_are_none_do_not_pass(kept, change, verdict):
    def changed(held):
        return replace(held, exchanges=tuple(map(change, held.exchanges)))

    assert tells(kept, resigned(kept, first(kept), round=changed))[0] is verdict


def weighed(exchange, weight):
    return replace(exchange, parts=tuple(replace(p, weight=weight) for p in exchange.parts))


@pytest.mark.parametrize("kind", [",", "(", "O", "<f16", "", "f4,f4"])
def test_a_state_of_no_kind_that_is_known_is_malformed(kind):
    with pytest.raises(MalformedError, match="not the tensors of a state"):
        state_from((("velocity", kind, (1,), bytes(16)),))


def first(run):
    return next(judge.shown for _, judge, _ in run.verdicts if judge.shown.agent == "a0")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    run = shown_run(tmp_path_factory.mktemp("kept"), rounds=3)
    yield run
    run.close()


def test_no_more_is_asked_of_a_neighbour_while_much_of_its_is_judged(kept):
    held = Disclosures(
        "a1",
        kept.nodes["a1"].core.examiner.terms,
        {"a0": 1},
        shows=True,
        patience_s=1.0,
        stored={"a0": pack([0, -1, "", [[0, 1], [1, 4]]])},
    )
    peer = held._peers["a0"]
    peer.due[0].judging, peer.due[0].size = True, JUDGING_BYTES_MAX + 1
    for now_s in (1.0, 10.0, 100.0):  # nor is it missing meanwhile
        assert held.tick("a0", now_s, there=True) == ([], None)
    held.judged("a0", 0, Told.TRUE, "", [])
    assert held.tick("a0", 101.0, there=True) == ([], Ask(1, 0))


def test_one_that_breaks_the_judge_spoils_nothing_for_the_others(kept, tmp_path, monkeypatch):
    """The real process; a file that it cannot even say anything of is there in the middle."""
    cluster = tmp_path / CLUSTER_NAME
    cluster.write_bytes((kept.run_dir / CLUSTER_NAME).read_bytes())
    judging = Judging(tmp_path, 8 * 64, None, None)
    asked, each = judging._asked, []

    def breaks(files):
        each.append(len(files))
        return None if "1.proof" in [file.name for file in files] else asked(files)

    monkeypatch.setattr(judging, "_asked", breaks)
    one = first(kept)
    verdicts = judging.judged([one, one, one])
    assert [verdict.told for verdict in verdicts] == [Told.TRUE, None, Told.TRUE]
    assert each == [3, 1, 1, 1]


def test_nobody_can_be_framed(tmp_path):
    run = shown_run(tmp_path)
    by = {judge.shown.agent: judge.shown for _, judge, _ in run.verdicts}
    theirs, ours = by["a0"], by["a1"]
    framed = [
        replace(theirs, agent="a1"),  # a0's round in the place of a1's
        replace(theirs, signed=ours.signed),
        replace(theirs, shown=theirs.shown[:-1] + b"\0"),
        replace(theirs, agent="nobody"),
        ShownRound("a0", signed(run, ours, theirs.shown).signed, theirs.shown),
    ]
    for one in framed:
        with pytest.raises(MalformedError):
            judged(run.cluster, one, Host(threads=1))
    run.close()


def held_back(run, liar):
    """Whatever `liar` would show stays with it."""

    def tamper(agent, send):
        return None if agent == liar and send.envelope.kind is Kind.SHOWN else send

    run.tamper = tamper


def test_who_shows_nothing_is_named_and_in_the_end_not_served(tmp_path):
    settings = {"rounds": 60, "deadline_s": 0.2, "start_deadline_s": 5.0}
    run = shown_run(tmp_path, start=False, **settings)
    held_back(run, "a1")
    run.start()
    run.run(600.0)
    core = run.nodes["a0"].core
    missed = run.nodes["a0"].events("round_not_shown")
    assert {event["peer"] for event in missed} == {"a1"}
    assert len(missed) > MISSED_MAX
    assert core.neighbours["a1"].barred == "picked rounds of its were not shown, more than 3 times"
    assert set(told(run).values()) == {Told.TRUE}  # of who shows
    assert not run.nodes["a0"].events("misbehaviour_proven")
    run.close()


def test_pieces_that_are_not_what_was_asked_for_are_refused_and_asked_for_again(tmp_path):
    run = shown_run(tmp_path, start=False)
    spoilt = []

    def tamper(agent, send):
        if agent != "a1" or send.envelope.kind is not Kind.SHOWN or len(spoilt) >= 4:
            return send
        message = from_envelope(send.envelope)
        assert isinstance(message, ShownMessage)
        body = Disclosure.decode(message.body)
        key = run.nodes["a1"].identity.signing_key

        def said(**place):
            signed = SignedDisclosure.sign(replace(body, **place), key)
            return replace(message, body=signed.body, signature=signed.signature)

        altered = [
            replace(message, data=bytes(message.data)[:-1]),
            replace(message, signature=bytes(64)),
            said(size=2**40),
            said(round=body.round + 1),
        ][len(spoilt)]
        spoilt.append(altered)
        return replace(send, envelope=to_envelope(altered, send.envelope.nonce))

    run.tamper = tamper
    run.start()
    run.run(600.0)
    refused = [e for e in run.nodes["a0"].events("message_refused") if e["code"] == "disclosure"]
    assert len(refused) == len(spoilt) == 4
    assert {found for (agent, _), found in told(run).items() if agent == "a1"} == {Told.TRUE}
    run.close()


def test_a_pick_from_before_a_restart_is_shown_after_it(tmp_path):
    run = shown_run(tmp_path, start=False, rounds=12, agents=3)
    held_back(run, "a1")
    run.start()
    run.advance_until(lambda: run.nodes["a0"].core.round == 5, 200.0)
    run.kill("a1")
    run.kill("a0")  # who asks is gone as well, and knows afterwards what it has to ask for
    run.tamper = lambda agent, send: send
    run.start("a1")
    run.start("a0")
    run.run(600.0)
    first = {agent for agent, judge, _ in run.verdicts if judge.window == 0}
    assert first == {"a0", "a1", "a2"}
    assert Told.FALSE not in told(run).values()
    run.close()


def test_a_statement_that_was_made_anew_is_an_equivocation(tmp_path):
    run = shown_run(tmp_path)
    terms, key = run.nodes["a0"].core.examiner.terms, run.nodes["a1"].identity.signing_key

    def head(digest):
        unsigned = Head(terms.run, 2, 0, "a1", digest, bytes(64))
        return replace(unsigned, signature=key.sign(STATEMENT_DOMAIN, unsigned.signed))

    settings = {"shows": True, "patience_s": 1.0}
    stored = {"a1": pack([0, -1, "", [[0, 2], [1, 4]]])}
    held = Disclosures("a0", terms, {"a1": 1}, **settings, stored=stored)
    held.stated(head(bytes(32)))
    held.judged("a1", 0, Told.TRUE, "", [head(bytes(32))])
    assert held.take() == []
    unsigned = replace(head(b"1" * 32), signature=bytes(64))
    held.judged("a1", 1, Told.TRUE, "", [unsigned, head(b"2" * 32)])
    (proof,) = held.take()
    assert (proof.kind, proof.agent) == ("equivocation", "a1")
    assert verify_proof(proof, terms).malice
    run.close()


def test_learning_is_the_same_to_the_bit_with_rounds_shown(tmp_path):
    shown, plain = (shown_run(tmp_path / str(on), disclose=on).nodes for on in (1, 0))
    for agent, node in plain.items():
        assert len(node.models) == 6
        assert all((x == shown[agent].models[t]).all() for t, x in node.models.items())


def test_where_nothing_is_shown_asking_is_refused(tmp_path):
    run = kept_run(tmp_path, start=False, rounds=6, window=3)
    asked = []

    def tamper(agent, send):
        if agent == "a1" and not asked and send.envelope.kind is Kind.BILL:
            asked.append(send)
            return Send("a0", to_envelope(Ask(0, 0), send.envelope.nonce))
        return send

    run.tamper = tamper
    run.start()
    run.run(600.0)
    (refused,) = run.nodes["a0"].events("message_refused")
    assert (refused["peer"], refused["code"]) == ("a1", "disclosure")
    run.close()
