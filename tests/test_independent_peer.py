"""docs/protocol.md is enough: an implementation that shares no code takes part in a real run."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import blake3
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent import cli
from agent.learner import initial_parameters
from agent.runtimes.testbed import free_ports
from agent.tasks import resolve_task
from tests import independent
from tests.independent import bills, claims, ledger, rounds, wire

HERE = Path(__file__).parent
RULE = "band:5e-4 + norm:2e-5 + peer-prediction:1e-4 + originality:1e-4 + persistence:1e-4"
OURS = {"agent", "network", "mechanisms", "topologies"}
RUN_S = 120


def vectors(name):
    return json.loads((HERE / "vectors" / f"{name}.json").read_text())


def test_it_shares_no_code_with_the_project():
    for path in Path(independent.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not OURS & {name.split(".")[0] for name in names}, path.name


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A ring of three daemons and, as a1, the independent peer: the run directory."""
    run_dir = tmp_path_factory.mktemp("joined")
    for i in range(4):
        assert cli.run(["keygen", str(run_dir / "keys" / f"a{i}")]) == 0
    cluster = run_dir / "cluster.toml"
    words = ["cluster", "new", "--topology", "ring", "--task", "digits", "--run-id", "joined"]
    words += ["--rounds=32", "--window=16", "--rule", RULE, "--seed=5", "-o", str(cluster)]
    words += ["--step-size=0.1", "--deadline-s=20"]
    for i, port in enumerate(free_ports(4)):
        words += ["--agent", f"a{i}={run_dir / 'keys' / f'a{i}'}@tcp://127.0.0.1:{port}"]
    assert cli.run(words) == 0
    initial = initial_parameters(resolve_task("digits"), 5).numpy()
    (run_dir / "initial.f32").write_bytes(initial.astype("<f4").tobytes())

    def start(agent):
        keys, data = run_dir / "keys" / agent, run_dir / "agents" / agent
        words = ["-P", "-m", "agent", "agent", "--cluster", cluster, "--id", agent, "--threads=1"]
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
    return run_dir


def test_nobody_refuses_what_the_other_sends(joined):
    report = json.loads((joined / "agents" / "a1" / "peer.json").read_text())
    assert (report["round"], report["met"]) == (32, {})
    for agent in ("a0", "a2", "a3"):
        lines = (joined / "agents" / agent / "log.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert not [one for one in found if one["level"] in ("warning", "error")], agent


def test_both_ends_hold_the_same_records(joined, capsys):
    heads = json.loads((joined / "agents" / "a1" / "peer.json").read_text())["edges"]
    assert set(heads) == {"a0", "a2"}
    for peer, edge in heads.items():
        name = f"{min('a1', peer)}-{max('a1', peer)}.jsonl"
        own = (joined / "agents" / "a1" / "ledger" / name).read_text().splitlines()
        other = (joined / "agents" / peer / "ledger" / name).read_text().splitlines()
        assert own[1:-1] == other[1:-1]
        assert len(own) == 5  # the header, the genesis, two windows, the end
        assert json.loads(other[-1])["head"] == edge["head"]
        assert json.loads(other[-1])["balance"] != 0
    capsys.readouterr()
    assert cli.run(["ledger", "audit", str(joined), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
