"""Both implementations of docs/protocol.md judge what the other states: every algorithm, codec."""

from itertools import product

import numpy as np
import pytest

from candor.agent.core.terms import evidence_terms
from candor.agent.daemon import keys
from candor.mechanisms.evidence.examiner import Examiner
from candor.mechanisms.evidence.statements import EvidenceError, SignedStatement
from candor.network.messages import Chunk, ClaimMessage, Update, Witnesses, from_envelope
from candor.topologies.cluster.file import load_cluster
from tests.independent import barter, claims, fresh, graphs, influence, rounds, wire
from tests.independent.phases import CODECS, PHASES, decoded, encoded
from tests.independent.training import Training
from tests.runs import DIM, LocalRun, finish, write_cluster

ROUNDS, WINDOW = 5, 2
RUNS = [
    *sorted(product(PHASES, CODECS)),
    ("decentralized-sgd + rfa", "float32"),
    ("decentralized-sgd + multi-krum", "float16"),
    ("decentralized-sgd + median", "float32"),
    ("gradient-tracking + multi-krum", "float32"),
    ("gradient-tracking + median", "float16"),
    ("median-sgd + rfa", "float32"),
    ("decentralized-sgd + rewards", "float32"),
    ("decentralized-sgd + rewards", "float16"),
    ("decentralized-sgd + influence", "float32"),
    ("diloco + influence", "float16"),
    ("gradient-push + influence", "float32"),
    ("decentralized-sgd + pace", "float32"),
    ("diloco + pace", "float16"),
]
REWARDS = {"rewards": "cgsv:beta=2,tolerance=0.25", "sketch_size": 36}


def aggregator_of(algorithm):
    return algorithm.partition(" + ")[2]


def written(folder, algorithm, codec):
    """The file of a small run, read by both."""
    name, _, aggregator = algorithm.partition(" + ")
    topology = "directed-ring" if name == "gradient-push" else "ring"
    robust = {"aggregator": aggregator, "max_byzantine": 1} if aggregator else {}
    if aggregator == "rewards":
        robust = REWARDS
    elif aggregator == "influence":
        robust = {"influence": 1.0}
    elif aggregator == "pace":
        robust = {"pace": "async"}
    settings = {"rounds": ROUNDS, "window": WINDOW, "algorithm": name, "codec": codec, **robust}
    write_cluster(folder, topology, 4, **settings)
    path = folder / "cluster.toml"
    return load_cluster(path), wire.Cluster.parse(path.read_text())


@pytest.mark.parametrize(("algorithm", "codec"), RUNS)
def test_what_daemons_state_holds_for_the_independent_checks(tmp_path, algorithm, codec):
    ours, cluster = written(tmp_path, algorithm, codec)
    sent = []
    run = LocalRun(tmp_path, ours)
    run.tamper = lambda agent, send: sent.append((agent, send)) or send
    sits_out = "pace" in algorithm
    run.takes_s = dict.fromkeys(ours.ids, 0.5) | {"a2": 1.6} if sits_out else {}
    finish(run)
    run.close()
    stated, injected, claimed, novelties, wholes, sent_vectors = {}, {}, {}, {}, {}, {}
    initial = np.zeros(DIM, np.float32)
    trades, told = barter.rule_of(cluster) is not None, []
    for agent in ours.ids:
        takers = sorted(graphs.takers(cluster, 1, agent))
        for peer in takers if trades else takers[:1]:
            told += [
                (peer, step, *one) for step, one in updates(cluster, agent, peer, sent).items()
            ]
    attests = aggregator_of(algorithm) == "median" and not algorithm.startswith("median")
    tracks = algorithm.startswith("gradient-tracking")
    assert (fresh.values(cluster) == 0) == (trades or attests or tracks)
    parts = {said.given(peer) for peer, _, said, *_ in told if trades}
    assert not trades or 0 in parts or 1 in parts
    for peer, step, said, witnesses, data in sorted(told, key=lambda one: one[1]):
        agent = said.agent
        rounds.check_announced(cluster, agent, said)
        if data:
            given = rounds.groups_given(cluster, said, peer)
            assert len(data) == rounds.bytes_given(cluster, given)
            sent_vectors[said.source] = rounds.check_payload(cluster, said, data, given)
            held = [sent_vectors[one] for one in [said.source, *witnesses]]
            rounds.check_fresh(cluster, said, dict(enumerate(held)))
            assert bool(said.fresh) == (said.phase == cluster.charged and fresh.values(cluster) > 0)
        for source, witness in witnesses.items():
            rounds.check_witness(cluster, source, witness)
        found = rounds.injected(cluster, said, witnesses, initial)
        if said.rewards is not None:
            known = {k: novelties[t, k] for t, _, k in witnesses}
            rounds.check_ratings(cluster, said, found, witnesses, known)
            novelties[said.round, agent] = rounds.novelty(cluster, said, witnesses)
        stated.setdefault(agent, {})[step] = said
        if said.phase == cluster.charged:
            assert rounds.energy(found) > 0.0
            injected.setdefault(agent, {})[said.round] = found
            if said.fresh:
                whole = rounds.whole_energy(cluster, said, initial)
                wholes.setdefault(agent, {})[said.round] = whole
    for agent, send in sent:
        message = from_envelope(send.envelope)
        if isinstance(message, ClaimMessage):
            claim = claims.Claim.parse(cluster, message.claim)
            claims.check(cluster, claim, injected[agent], stated[agent], wholes.get(agent))
            assert all((one.whole is None) == (not fresh.values(cluster)) for one in claim.rounds)
            claimed[agent, claim.window] = [one.round for one in claim.rounds]
    assert len(stated) == 4
    assert any(one.sat_out for one in stated["a2"].values()) == sits_out
    if sits_out:
        return
    assert all(len(steps) == ROUNDS * len(cluster.phases) for steps in stated.values())
    assert sorted(number for numbers in claimed.values() for number in numbers) == sorted(
        4 * list(range(1, ROUNDS + 1))
    )


def updates(cluster, agent, peer, sent):
    """By step what an agent has sent a neighbour: its statement, its witnesses and its payload."""
    found = {}
    for sender, send in sent:
        message = from_envelope(send.envelope)
        if (sender, send.peer) != (agent, peer) or not isinstance(
            message, (Update, Witnesses, Chunk)
        ):
            continue
        if isinstance(message, Update):
            said = rounds.Statement.parse(cluster, message.body, message.signature)
            step = cluster.step(said.round, said.phase)
            found.setdefault(step, (said, {}, {}))
            continue
        _, witnesses, pieces = found[cluster.step(message.round, message.phase)]
        if isinstance(message, Chunk):
            pieces[message.offset] = bytes(message.data)
            continue
        for pair in message.statements:
            one = rounds.Statement.parse(cluster, *pair)
            witnesses[one.source] = one
    return {
        step: (said, witnesses, b"".join(pieces[at] for at in sorted(pieces)))
        for step, (said, witnesses, pieces) in found.items()
    }


class Independents:
    """Four independent agents without a network: `stated` by source, and who says what."""

    def __init__(self, folder, algorithm, codec):
        self.ours, self.cluster = written(folder, algorithm, codec)
        self.initial = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
        self.examiner = Examiner(evidence_terms(self.ours, self.initial))
        self.training = {a: Training(self.cluster, a, self.initial) for a in self.ours.ids}
        self.keys = {
            a: keys.load(folder / "agents" / a / "keys").signing_key for a in self.training
        }
        self.stated = {}
        self.vectors = {}
        self.novelties = {}
        self.energies = []
        self.kept = []  # which share of its window's total an agent kept

    def play(self, steps):
        """State, judge and mix one step after the other."""
        for step in steps:
            t, phase = self.cluster.at(step)
            payloads = {}
            for agent, training in self.training.items():
                formed, y, _ = training.make(t, phase)
                said = self.says(t, phase, agent, formed, y)
                self.vectors[t, phase, agent] = training.vector(phase)
                payloads[agent] = encoded(self.cluster.codec, training.vector(phase))
                shown = self.judged(said, training.vector(phase))
                if phase == self.cluster.charged:
                    self.energies.append(shown.energy)
            for agent, training in self.training.items():
                near = graphs.taken(self.cluster, t, agent)
                came = {k: decoded(self.cluster.codec, payloads[k]) for k in near}
                said = {k: self.stated[t, phase, k] for k in self.training}
                training.mix(t, phase, came, said)

    def sources(self, t, phase, formed):
        """What a statement's rows name."""
        return {one: self.stated[one] for one in rounds.named(self.cluster, t, phase, formed)}

    def says(self, t, phase, agent, formed, y):
        """The statement of a vector."""
        named = self.sources(t, phase, formed)
        before = {one: self.vectors[one] for one in named}
        if barter.rule_of(self.cluster):
            known = {place[-1]: self.novelties[place] for place in named}
            place = (self.cluster, t, agent, formed, y, named, known)
            body = rounds.rated_body(*place, self.initial)
        elif influence.factor_of(self.cluster) is not None:
            place = (self.cluster, t, agent, formed)
            body, kept = rounds.bounded_body(*place, y, named, self.initial, before)
            y, _ = self.training[agent].shorten(t, kept)
            self.kept.append(kept)
            body, _ = rounds.bounded_body(*place, y, named, self.initial, before)
        else:
            place = (self.cluster, t, phase, agent, formed)
            body = rounds.body_of(*place, y, list(named.values()), None, before)
        head = rounds.head_of(self.cluster.run, (t, phase, agent), wire.sha256(body))
        signature = self.keys[agent].sign(rounds.DOMAIN, head)
        said = rounds.Statement.parse(self.cluster, body, signature)
        self.stated[t, phase, agent] = said
        if said.rewards is not None:
            self.novelties[t, phase, agent] = rounds.novelty(self.cluster, said, named)
        return said

    def judged(self, said, payload):
        """What the project makes of an update."""
        sources = self.sources(said.round, said.phase, said.formed)
        limit = self.examiner.terms.sketch_bytes
        signed, *others = (
            SignedStatement.decode(one.body, one.signature, sketch_bytes_max=limit)
            for one in [said, *sources.values()]
        )
        self.examiner.examine_header(signed, said.agent)
        witnesses = dict(zip(sources, others, strict=True))
        held = {one: self.vectors[one] for one in sources}
        shown = self.examiner.examine(
            signed, payload, witnesses, witnesses, None, self.novelties, held
        )
        whole = rounds.whole_energy(self.cluster, said, self.initial)
        assert shown.whole == (None if whole is None else pytest.approx(whole, rel=1e-12))
        return shown


@pytest.mark.parametrize(("algorithm", "codec"), RUNS)
def test_what_independent_agents_state_holds_for_the_daemons_checks(tmp_path, algorithm, codec):
    agents = Independents(tmp_path, algorithm, codec)
    against = agents.training["a3"]._learned
    agents.training["a3"]._learned = lambda: -against()
    agents.play(range(1, ROUNDS * len(agents.cluster.phases) + 1))
    assert min(agents.energies) > 0.0
    assert len(agents.energies) == 4 * ROUNDS
    if "influence" in algorithm:
        assert min(agents.kept) < 1.0 == max(agents.kept)
    if "rewards" in algorithm:  # who goes the other way is given less
        last = agents.stated[ROUNDS, 0, "a0"]
        assert last.given("a3") < last.given("a1") == barter.groups(agents.cluster)


def test_both_refuse_a_fresh_sketch_that_is_none_of_what_they_hold(tmp_path):
    agents = Independents(tmp_path, "decentralized-sgd", "float32")
    agents.play(range(1, 3))
    formed, y, _ = agents.training["a1"].make(3, 0)
    agents.vectors[2, 0, "a2"] = agents.vectors[2, 0, "a2"] + np.float32(1)
    said = agents.says(3, 0, "a1", formed, y)
    agents.vectors[2, 0, "a2"] -= np.float32(1)
    with pytest.raises(EvidenceError, match="fresh-sketch"):
        agents.judged(said, y)
    with pytest.raises(wire.Refused, match="fresh-sketch"):
        rounds.check_fresh(agents.cluster, said, {0: y, 3: agents.vectors[2, 0, "a2"]})
    rounds.check_fresh(agents.cluster, said, {0: y, 1: agents.vectors[2, 0, "a0"]})
    none = rounds.Statement.parse(
        agents.cluster, said.body.replace(said.fresh, bytes(len(said.fresh))), said.signature
    )
    assert len(none.fresh) == 8 * 4 * fresh.values(agents.cluster)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("algorithm", ["gradient-tracking", "median-sgd"])
def test_both_refuse_a_model_that_is_not_as_it_was_formed(tmp_path, algorithm, codec):
    agents = Independents(tmp_path, algorithm, codec)
    agents.play(range(1, 4))
    formed, y, _ = agents.training["a1"].make(2, 1)
    y = decoded(codec, encoded(codec, y + np.float32(0.1)))
    said = agents.says(2, 1, "a1", formed, y)
    with pytest.raises(EvidenceError, match="not-as-formed"):
        agents.judged(said, y)
    with pytest.raises(wire.Refused, match="not-as-formed"):
        rounds.injected(agents.cluster, said, agents.sources(2, 1, formed), agents.initial)
