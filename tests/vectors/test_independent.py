"""docs/protocol.md is enough: an implementation that shares no code computes every vector."""

import ast
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests import independent
from tests.independent import barter, bills, claims, fresh, graphs, ledger, rounds, wire
from tests.independent.phases import PHASES

VECTORS = Path(__file__).parent
OURS = {"candor", "agent", "network", "mechanisms", "topologies"}


def vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def page(what):
    """The hexadecimals that the protocol page gives for `what` in a table."""
    text = (VECTORS.parents[1] / "docs" / "protocol.md").read_text()
    return re.search(rf"^\| {what} \| `([0-9a-f]+)` \|$", text, re.MULTILINE)[1]


def key(vector, name="identity_seed"):
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector[name]))


def cluster_of(vector, window=16, **fields):
    """A cluster of which only what a vector needs is there."""
    entry = {"curve": "", "endpoint": "", "identity": vector.get("identity_public", "")}
    agents = {"a0": entry, "a1": entry, **fields.pop("agents", {})}
    run = bytes.fromhex(vector.get("run", "") or vector.get("fingerprint", ""))
    blank = dict.fromkeys(wire.Cluster.__slots__)
    return wire.Cluster(**{**blank, "run": run, "window": window, "agents": agents, **fields})


@pytest.mark.parametrize("name", ["cluster", "revision"])
def test_it_computes_the_fingerprint(name):
    vector = vectors(name)
    assert wire.Cluster.parse(vector["toml"]).run.hex() == vector["fingerprint"]


def test_it_makes_and_checks_the_certificate():
    vector = vectors("certificate")
    entry = {"curve": vector["curve_public"], "endpoint": vector["endpoint"]}
    entry["identity"] = vector["identity_public"]
    cluster = cluster_of({}, run_id="demo", agents={"a0": entry})
    encoded, now_s = bytes.fromhex(vector["encoded"]), vector["not_after_s"]
    wire.check_certificate(cluster, "a0", encoded, now_s)
    with pytest.raises(wire.Refused, match="certificate-expired"):
        wire.check_certificate(cluster, "a0", encoded, now_s + 1)
    with pytest.raises(wire.Refused, match="certificate-signature"):
        wire.check_certificate(cluster, "a0", flipped(encoded), now_s)
    mine = wire.certificate(cluster, "a0", key(vector))
    wire.check_certificate(cluster, "a0", mine, now_s)


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def test_it_signs_the_greeting():
    vector = vectors("hello")
    made = wire.sign(key(vector), "candor/hello/v1", bytes.fromhex(vector["body"]))
    assert made.hex() == vector["signature"]


def test_it_reads_the_statement():
    vector = vectors("statement")
    cluster = cluster_of(vector, dim=4, sketch_size=4)
    body, signature = bytes.fromhex(vector["body"]), bytes.fromhex(vector["signature"])
    read = rounds.Statement.parse(cluster, body, signature)
    assert read.is_genuine(cluster)
    forged = rounds.Statement.parse(cluster, body, flipped(signature))
    with pytest.raises(wire.Refused, match="statement-signature"):
        rounds.check_announced(cluster, "a1", forged)
    place = (read.round, read.phase, read.agent, read.codec)
    assert place == (16, 1, "a1", "float16")
    listed, derived, (kind, rule, heard, shown) = read.formed
    assert [listed, derived, [kind, rule, heard, shown.hex()]] == vector["formed"]
    assert rounds.told(read.formed[2], "a1") == ["a0", "a2"]


def test_it_knows_who_mixes_whom_in_a_round():
    for case in vectors("rounds")["cases"]:
        declared = case.get("declared", {})
        agents = {a: {"weight": declared[a]} if declared else {} for a in case["agents"]}
        cluster = cluster_of({}, file={"graph": case["graph"]}, agents=agents)
        for one in case["rounds"]:
            t, seen = one["round"], {agent: set() for agent in agents}
            assert graphs.masses(cluster, t) == one["mass"]
            for agent, expected in one["taken"].items():
                assert graphs.taken(cluster, t, agent) == expected
                for giver in expected:
                    seen[giver].add(agent)
            assert {agent: graphs.takers(cluster, t, agent) for agent in agents} == seen


def test_it_folds_sketches_and_traces():
    vector = vectors("sketch")
    cluster = cluster_of(vector, dim=70, sketch_size=16)
    values = np.array(vector["vector"], np.float32)
    for one in vector["windows"]:
        assert rounds.sketch(cluster, one["window"], values).hex() == one["sketch"]
    for one in vector["traces"]:
        found = rounds.trace(cluster, one["window"], np.array(vector["traced"]))
        assert found.hex() == one["trace"]


def test_it_makes_fresh_sketches_and_sees_the_whole_energy():
    vector = vectors("fresh")
    place = (bytes.fromhex(vector["run"]), vector["agent"], vector["round"])
    for one in vector["sketches"]:
        values = ((np.arange(one["dim"]) * 37 % 101 - 50) / 16).astype(np.float32)
        found = fresh.sketch(*place, bytes.fromhex(vector["digest"]), values)
        assert found.tobytes().hex() == one["fresh"]
    settings = {"file": {"algorithm": {}}, "rule": "norm:1.0"}
    cluster = cluster_of(
        vector, dim=40, sketch_size=8, phases=PHASES["decentralized-sgd"], **settings
    )
    said = rounds.Statement.parse(cluster, bytes.fromhex(vector["body"]), bytes(64))
    held = [vector["payload"], *vector["named"]]
    rounds.check_fresh(cluster, said, {at: np.array(v, "<f4") for at, v in enumerate(held)})
    found = rounds.whole_energy(cluster, said, np.zeros(40, "<f4"))
    assert found == pytest.approx(vector["whole"], rel=1e-12)


@pytest.mark.parametrize("case", vectors("barter")["cases"])
def test_it_rates_as_daemons_do_to_the_last_bit(case):
    traces, before, models = (
        {one: np.array(values) for one, values in case[name].items()}
        for name in ("traces", "before", "models")
    )
    news = {}
    for one, trace in traces.items():
        others = [other for other in sorted(before) if other != one]
        start = models[one] + 0.5 * before[one]
        ways = [barter.way(start, models[k], case["given"][k], 3) for k in others]
        news[one] = barter.novelty(trace, [*(before[k] for k in others), *ways])
    assert {one: bits(value) for one, value in news.items()} == case["novelties"]
    scores = barter.scores(case["rater"], case["reputations"], traces, news)
    assert {one: bits(value) for one, value in scores.items()} == case["scores"]
    for rewards, rated in case["rated"].items():
        cluster = cluster_of(
            {}, dim=2048, sketch_size=1024, file={"algorithm": {"rewards": rewards}}
        )
        found = barter.rated(cluster, case["reputations"], scores)
        told = {one: [bits(rating.reputation), rating.groups] for one, rating in found.items()}
        assert told == rated


def bits(value):
    return struct.pack("<d", value).hex()


def test_it_makes_the_claim():
    vector = vectors("claim")
    cluster = cluster_of(vector)
    items = [
        claims.Claimed(number, energy, heard, np.array(trace, "<f4").tobytes(), products)
        for number, energy, heard, trace, inner in vector["rounds"]
        for products in [np.array(inner, "<f8").tobytes()]
    ]
    made = claims.make(cluster, "a1", 2, items, key(vector), bytes.fromhex(vector["salt"]))
    assert (made.encoded.hex(), made.digest.hex()) == (vector["encoded"], vector["digest"])
    assert claims.Claim.parse(cluster, made.encoded) == made
    with pytest.raises(wire.Refused, match="claim-signature"):
        claims.Claim.parse(cluster, flipped(made.encoded))


@pytest.mark.parametrize("case", vectors("amounts")["cases"])
def test_it_bills_the_same_amounts_to_the_last_unit(case):
    vector = vectors("amounts")
    found = []
    for body in map(bytes.fromhex, vector["cases"][case]["claims"]):
        _, run, window, agent, items, _ = wire.unpack(body, len(body))
        items = [claims.Claimed(*one) for one in items]
        found.append(claims.Claim(b"", body, run, window, agent, items))
    for rule, rows in vector["cases"][case]["rows"].items():
        told = (rule, vector["referee"], found, vector["neighbours"], lambda number, agent: True)
        assert bills.amounts(*told, vector["fresh"]) == rows, rule


def edge_of_the_vector():
    """Cluster, keys, nonces and the bills of the edge that the ledger's vector is about."""
    vector = vectors("ledger")
    ends = {"a0": key(vector, "seed_lo"), "a1": key(vector, "seed_hi")}
    publics = {agent: one.public_key().public_bytes_raw().hex() for agent, one in ends.items()}
    cluster = cluster_of(
        vector,
        agents={agent: {"identity": public} for agent, public in publics.items()},
        run_id="demo",
        credit_limit=vector["credit_limit"],
        rule=vector["rule"],
        neighbours={"a0": ["a1"], "a1": ["a0"]},
        dim=2,
        sketch_size=2,
    )
    fields = vector["records"][0]["fields"]
    nonces = [bytes.fromhex(fields[name]) for name in ("nonce_lo", "nonce_hi")]
    both = tuple(bills.Bill.parse(cluster, bytes.fromhex(one)) for one in vector["bundles"])
    return cluster, ends, nonces, both


def channels_of(cluster, ends, nonces):
    return {
        agent: ledger.Channel(cluster, agent, peer, ends[agent], nonce)
        for (agent, peer), nonce in zip([("a0", "a1"), ("a1", "a0")], nonces, strict=True)
    }


def met(channels, nonces):
    """A session begins: both ends compare their chains."""
    lo, hi = channels.values()
    exchange(channels, [("a0", lo.begin(nonces[1])), ("a1", hi.begin(nonces[0]))])


def test_it_settles_and_exports_the_ledger():
    vector = vectors("ledger")
    cluster, ends, nonces, both = edge_of_the_vector()
    for bill in both:
        bills.check(cluster, bill, {})
    channels = channels_of(cluster, ends, nonces)
    met(channels, nonces)
    lo, hi = channels.values()
    genesis, settlement = vector["records"]
    assert lo.id.hex() == vector["channel_id"] == page("`channel_id`")
    assert lo.head.hex() == genesis["head"] == page("`head` of the genesis")
    exchange(channels, [("a0", lo.settle(both)), ("a1", hi.settle(both))])
    assert lo.records == hi.records
    assert lo.head.hex() == settlement["head"] == page("`head` of record 1")
    for record, expected in zip(lo.records, vector["records"], strict=True):
        assert record.sig_p.hex() == expected["sig_p"]
        assert record.sig_a.hex() == expected["sig_a"]
    assert lo.export() == vector["export"]


def test_an_end_that_lost_its_records_is_sent_them():
    cluster, ends, nonces, both = edge_of_the_vector()
    channels = channels_of(cluster, ends, nonces)
    met(channels, nonces)
    exchange(channels, [(agent, one.settle(both)) for agent, one in channels.items()])
    channels["a1"] = channels_of(cluster, ends, nonces)["a1"]
    met(channels, nonces)
    assert channels["a1"].records == channels["a0"].records
    assert all(one.synced for one in channels.values())


def exchange(channels, sent):
    """Deliver what two ends of a ledger send, until both are silent."""
    handlers = {wire.STATE: "state", wire.PROPOSE: "propose", wire.ACCEPT: "accepted"}
    while sent:
        sender, messages = sent.pop(0)
        peer = "a1" if sender == "a0" else "a0"
        for kind, fields in messages:
            end = channels[peer]
            adopted = kind == wire.RECORDS
            answer = end.adopt(fields) if adopted else getattr(end, handlers[kind])(*fields)
            sent.append((peer, answer))


def test_it_shares_no_code_with_the_project():
    for path in Path(independent.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not OURS & {name.split(".")[0] for name in names}, path.name
