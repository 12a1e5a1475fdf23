"""docs/protocol.md is enough: an implementation that shares no code takes part in a real run."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from candor.agent.cli import main as cli
from candor.agent.daemon.status import read_status
from candor.agent.daemon.store import Store
from candor.agent.learning.initial import initial_parameters
from candor.agent.tasks import resolve_task
from candor.agent.testbed.testbed import free_ports
from tests.independent import ledger, wire
from tests.paced import until

ROOT = Path(__file__).parents[2]
RULE = (
    "band:5e-4 + norm:2e-5 + peer-prediction:1e-4 + originality:1e-4 + persistence:1e-4 "
    "+ variance:1e-4 + excess:1e-4"
)
RUN_S = 240
pytestmark = pytest.mark.e2e
RUNS = {
    # Sketches under signs.
    "ring": "--topology=ring --rounds=16 --window=8",
    # Sketches that are the model itself, and a last window of half the length.
    "complete": "--topology=complete --rounds=12 --window=8 --mixing=max-degree --sketch-size=4096",
    "random-matching": "--topology=random-matching --rounds=12 --window=8",
    # Push-sum, among agents that are given different amounts.
    "push-sum": "--topology=directed-random:degree=2 --rounds=16 --window=8",
    # Two exchanges a round, and half the bytes.
    "tracking": "--topology=ring --rounds=8 --window=4 --algorithm=gradient-tracking "
    "--codec=float16",
    # Parts of models, by ratings that both compute to the last bit.
    "rewards": "--topology=ring --rounds=8 --window=4 --rewards=cgsv:beta=1,tolerance=0.1",
    # Rows that both derive from sketches, and vectors that both hold against what those hide.
    "robust": "--topology=complete --rounds=8 --window=4 --aggregator=multi-krum --max-byzantine=1 "
    "--sketch-size=512",
}
WINDOWS = 2


@pytest.fixture(scope="module", params=RUNS)
def joined(request, tmp_path_factory, nursery):
    """Three daemons and, as a1, the independent peer: the run directory, and the run's name."""
    run_dir = tmp_path_factory.mktemp("joined")
    for i in range(4):
        assert cli.run(["keygen", str(run_dir / "keys" / f"a{i}")]) == 0
    cluster = run_dir / "cluster.toml"
    words = ["cluster", "new", "--task=digits", "--run-id=joined"]
    words += [*shlex.split(RUNS[request.param]), f"--rule={RULE}", "--seed=5", "--deadline-s=60"]
    words += ["-o", str(cluster)]
    for i, port in enumerate(free_ports(4)):
        words += ["--agent", f"a{i}={run_dir / 'keys' / f'a{i}'}@tcp://127.0.0.1:{port}"]
    assert cli.run(words) == 0
    initial = initial_parameters(resolve_task("digits"), 5).numpy()
    (run_dir / "initial.f32").write_bytes(initial.astype("<f4").tobytes())

    def start(agent):
        keys, data = run_dir / "keys" / agent, run_dir / "agents" / agent
        if agent == "a1":
            words = ["-m", "tests.independent.peer", cluster, agent, keys]
            words += [run_dir / "initial.f32", data]
            return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT)
        words = ["agent", "--cluster", cluster, "--id", agent, "--threads=1"]
        words += ["--keys", keys, "--data-dir", data]
        return nursery.start([*map(str, words)], 2, {})

    processes = {f"a{i}": start(f"a{i}") for i in range(4)}
    try:
        codes = {agent: process.wait(RUN_S) for agent, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait(RUN_S)
    assert codes == dict.fromkeys(codes, 0)
    return run_dir, request.param


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def lines_of(run_dir, holder, peer):
    """The export of the edge between a1 and `peer` as `holder` has it."""
    name = f"{min('a1', peer)}-{max('a1', peer)}.jsonl"
    return (run_dir / "agents" / holder / "ledger" / name).read_text().splitlines()


def test_nobody_refuses_what_the_other_sends(joined):
    run_dir, name = joined
    report = json.loads((run_dir / "agents" / "a1" / "peer.json").read_text())
    assert report["met"] == {}
    for agent in ("a0", "a2", "a3"):
        lines = (run_dir / "agents" / agent / "log.jsonl").read_text().splitlines()
        levels = {json.loads(line)["level"] for line in lines}
        assert levels <= {"info", "debug"}, agent
        assert not (run_dir / "agents" / agent / "evidence").exists()
    if name == "rewards":  # its updates point another way than those of digits: less by the round
        assert read_status(run_dir / "agents" / "a0").neighbours["a1"].share < 0.5


def test_both_ends_hold_the_same_records(joined, capsys):
    run_dir, _ = joined
    edges = json.loads((run_dir / "agents" / "a1" / "peer.json").read_text())["edges"]
    cluster = wire.Cluster.parse((run_dir / "cluster.toml").read_text())
    assert set(edges) == set(cluster.neighbours["a1"])
    for peer, edge in edges.items():
        own, other = lines_of(run_dir, "a1", peer), lines_of(run_dir, peer, peer)
        assert own[1:-1] == other[1:-1]
        assert len(own) == 2 + 1 + WINDOWS  # its two ends, the genesis, the windows
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
        lo, hi = sorted(("a1", peer))
        with Store.open(run_dir / "agents" / peer / "ledger.sqlite") as store:
            [terms] = [one for one in store.channels() if (one.lo, one.hi) == (lo, hi)]
            records = [record.to_fields() for record in store.records(terms.channel_id)]
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
        heard = until(lambda: sockets[0].receive(50))
        assert heard == ("a0", [b"neighbour"])
        assert not any(sockets[0].receive(100) for _ in range(5))
    finally:
        stranger.close()
        for one in sockets:
            one.close()
