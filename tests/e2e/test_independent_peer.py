"""docs/protocol.md is enough: an implementation that shares no code takes part in a real run."""

import ast
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from candor.agent.cli import main as cli
from candor.agent.learning.learner import initial_parameters
from candor.agent.tasks import resolve_task
from candor.agent.testbed.testbed import free_ports
from tests import independent
from tests.independent import bills, claims, graphs, ledger, rounds, wire

HERE = Path(__file__).parents[1]
RULE = (
    "band:5e-4 + norm:2e-5 + peer-prediction:1e-4 + originality:1e-4 + persistence:1e-4 "
    "+ variance:1e-4"
)
OURS = {"candor", "agent", "network", "mechanisms", "topologies"}
RUN_S = 120


def vectors(name):
    return json.loads((HERE / "vectors" / f"{name}.json").read_text())


def page(what):
    """The hexadecimals that the protocol page gives for `what` in a table."""
    text = (HERE.parent / "docs" / "protocol.md").read_text()
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
        agents = {agent: {} for agent in case["agents"]}
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


def test_it_makes_the_claim():
    vector = vectors("claim")
    cluster = cluster_of(vector)
    items = [
        claims.Claimed(number, energy, heard, np.array(trace, "<f4").tobytes())
        for number, energy, heard, trace in vector["rounds"]
    ]
    made = claims.make(cluster, "a1", 2, items, key(vector))
    assert (made.encoded.hex(), made.digest.hex()) == (vector["encoded"], vector["digest"])
    assert claims.Claim.parse(cluster, made.encoded) == made
    with pytest.raises(wire.Refused, match="claim-signature"):
        claims.Claim.parse(cluster, flipped(made.encoded))


@pytest.mark.parametrize("case", vectors("amounts")["cases"])
def test_it_bills_the_same_amounts_to_the_last_unit(case):
    vector = vectors("amounts")
    found = []
    for body in map(bytes.fromhex, vector["cases"][case]["claims"]):
        _, run, window, agent, items = wire.unpack(body, len(body))
        items = [claims.Claimed(*one) for one in items]
        found.append(claims.Claim(b"", body, run, window, agent, items))
    for rule, rows in vector["cases"][case]["rows"].items():
        assert bills.amounts(rule, vector["referee"], found) == rows, rule


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


RUNS = {
    # Sketches under signs, and every rule.
    "ring": f"--topology=ring --rounds=16 --window=8 --rule='{RULE}'",
    # Sketches that are the model itself, and a last window of half the length.
    "complete": "--topology=complete --rounds=20 --window=8 --mixing=max-degree --sketch-size=4096",
    "random-matching": f"--topology=random-matching --rounds=16 --window=8 --rule='{RULE}'",
    # Push-sum, among agents that are given different amounts.
    "push-sum": "--topology=directed-random:degree=2 --rounds=16 --window=8",
    # Two exchanges a round, and half the bytes.
    "tracking": "--topology=ring --rounds=8 --window=4 --algorithm=gradient-tracking "
    "--codec=float16",
}
WINDOWS = {"complete": 3}  # of the others 2


@pytest.fixture(scope="module", params=RUNS)
def joined(request, tmp_path_factory):
    """Three daemons and, as a1, the independent peer: the run directory, and the run's name."""
    run_dir = tmp_path_factory.mktemp("joined")
    for i in range(4):
        assert cli.run(["keygen", str(run_dir / "keys" / f"a{i}")]) == 0
    cluster = run_dir / "cluster.toml"
    words = ["cluster", "new", "--task=digits", "--run-id=joined"]
    words += [*shlex.split(RUNS[request.param]), "--seed=5", "-o", str(cluster), "--deadline-s=20"]
    for i, port in enumerate(free_ports(4)):
        words += ["--agent", f"a{i}={run_dir / 'keys' / f'a{i}'}@tcp://127.0.0.1:{port}"]
    assert cli.run(words) == 0
    initial = initial_parameters(resolve_task("digits"), 5).numpy()
    (run_dir / "initial.f32").write_bytes(initial.astype("<f4").tobytes())

    def start(agent):
        keys, data = run_dir / "keys" / agent, run_dir / "agents" / agent
        words = ["-P", "-m", "candor", "agent", "--cluster", cluster, "--id", agent, "--threads=1"]
        words += ["--keys", keys, "--data-dir", data]
        if agent == "a1":
            words = ["-m", "tests.independent.peer", cluster, agent, keys]
            words += [run_dir / "initial.f32", data]
        return subprocess.Popen([sys.executable, *map(str, words)], cwd=HERE.parent)

    processes = {f"a{i}": start(f"a{i}") for i in range(4)}
    try:
        codes = {agent: process.wait(RUN_S) for agent, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait(20)
    assert codes == dict.fromkeys(codes, 0)
    return run_dir, request.param


def lines_of(run_dir, holder, peer):
    """The export of the edge between a1 and `peer` as `holder` has it."""
    name = f"{min('a1', peer)}-{max('a1', peer)}.jsonl"
    return (run_dir / "agents" / holder / "ledger" / name).read_text().splitlines()


def test_nobody_refuses_what_the_other_sends(joined):
    run_dir, _ = joined
    report = json.loads((run_dir / "agents" / "a1" / "peer.json").read_text())
    assert report["met"] == {}
    for agent in ("a0", "a2", "a3"):
        lines = (run_dir / "agents" / agent / "log.jsonl").read_text().splitlines()
        levels = {json.loads(line)["level"] for line in lines}
        assert levels <= {"info", "debug"}, agent
        assert not (run_dir / "agents" / agent / "evidence").exists()


def test_both_ends_hold_the_same_records(joined, capsys):
    run_dir, name = joined
    edges = json.loads((run_dir / "agents" / "a1" / "peer.json").read_text())["edges"]
    cluster = wire.Cluster.parse((run_dir / "cluster.toml").read_text())
    assert set(edges) == set(cluster.neighbours["a1"])
    for peer, edge in edges.items():
        own, other = lines_of(run_dir, "a1", peer), lines_of(run_dir, peer, peer)
        assert own[1:-1] == other[1:-1]
        assert len(own) == 2 + 1 + WINDOWS.get(name, 2)  # its two ends, the genesis, the windows
        end = json.loads(other[-1])
        assert (end["head"], end["end"]) == (edge["head"], edge["seq"])
        assert end["balance"] != 0
    capsys.readouterr()
    assert cli.run(["ledger", "audit", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_a_fresh_end_adopts_the_records_of_a_daemon_and_no_forged_one(joined):
    run_dir, _ = joined
    cluster = wire.Cluster.parse((run_dir / "cluster.toml").read_text())
    keys = wire.Keys.load(run_dir / "keys" / "a1")
    for peer in ("a0", "a2"):
        records = []
        for line in map(json.loads, lines_of(run_dir, peer, peer)[1:-1]):
            signed = [bytes.fromhex(line[name]) for name in ("body", "sig_p", "sig_a")]
            records.append([*signed, [bytes.fromhex(bundle) for bundle in line["evidence"]]])
        fresh = ledger.Channel(cluster, "a1", peer, keys.identity, bytes(16))
        fresh.begin(bytes(16))
        *known, last = records
        [(kind, _)] = fresh.adopt(known)
        assert kind == wire.STATE
        for at, code in ((1, "sig-p"), (2, "sig-a")):
            forged = [flipped(item) if i == at else item for i, item in enumerate(last)]
            with pytest.raises(wire.Refused, match=code):
                fresh.adopt([forged])
        with pytest.raises(wire.Refused, match="mismatch|evidence|bill"):
            fresh.adopt([[*last[:3], last[3][::-1]]])
        assert fresh.head == wire.sha256(known[-1][0])
        fresh.adopt([last])
        assert fresh.head.hex() == json.loads(lines_of(run_dir, "a1", peer)[-1])["head"]


def test_only_a_neighbours_key_gets_a_message_through(joined):
    run_dir, _ = joined
    cluster = wire.Cluster.parse((run_dir / "cluster.toml").read_text())
    keys = [wire.Keys.load(run_dir / "keys" / f"a{i}") for i in range(2)]
    sockets = [wire.Sockets(cluster, "a1", keys[1]), wire.Sockets(cluster, "a0", keys[0])]
    try:
        stranger = zmq.Context.instance().socket(zmq.DEALER)
        stranger.linger = 0
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = cluster.agents["a1"]["curve"].encode()
        stranger.connect(cluster.agents["a1"]["endpoint"])
        stranger.send(b"stranger")
        sockets[1].send("a1", [b"neighbour"])
        until_s, heard = time.monotonic() + 1.0, []
        while time.monotonic() < until_s:
            heard += [message for message in [sockets[0].receive(50)] if message]
        assert heard == [("a0", [b"neighbour"])]
    finally:
        stranger.close()
        for one in sockets:
            one.close()
