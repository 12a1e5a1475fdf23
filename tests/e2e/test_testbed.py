"""The main job end to end: real processes, CURVE sockets and ledgers, as a newcomer runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from candor.agent.cli import main as cli
from candor.agent.daemon.metrics import read_metrics
from candor.agent.daemon.status import is_running, read_status
from candor.agent.exits import ABSENT
from candor.agent.testbed.testbed import free_ports
from candor.topologies.specs.specs import ConfigurationError
from tests import paced

CANDOR = [sys.executable, "-P", "-m", "candor"]
DEMO = ["testbed", "--agents", "8", "--topology", "ring", "--task", "digits", "--rounds", "60"]
ENDLESS = ["testbed", "--agents", "2", "--topology", "path", "--task", "digits"]
ENDLESS += ["--rounds", "100000"]
FAULTS = """
event = [
  {at_round = 5, kill = "a1"}, {at_round = 8, restart = "a1"},
  {at_round = 10, stop = "a3"}, {at_round = 14, continue = "a3"},
  {at_round = 18, slow = "a2"}, {at_round = 40, continue = "a2"},
  {at_round = 20, kill = "a4"},
]
"""
RUN_S = 240
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run of `make demo`."""
    run_dir = tmp_path_factory.mktemp("demo") / "run"
    return run_dir, run_to_the_end(*DEMO, "--strategy", "a3=scale:3", "--run-dir", run_dir)


def run_to_the_end(*words, code=0):
    """What a command prints, as a process that finds the tasks of the tests."""
    done = subprocess.run(
        [*CANDOR, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_everybody_learns_nearly_as_well_as_one_model_on_all_data(demo):
    run_dir, _ = demo
    summary = json.loads((run_dir / "summary.json").read_text())
    assert len(summary["accuracy"]) == 8
    assert min(summary["accuracy"].values()) >= 0.90
    assert min(summary["accuracy"].values()) >= summary["centralised_accuracy"] - 0.05
    assert max(summary["alone_accuracy"].values()) < min(summary["accuracy"].values())


def test_the_exaggerator_is_the_largest_net_payer(demo):
    run_dir, _ = demo
    balances = json.loads((run_dir / "summary.json").read_text())["balances"]
    others = [balance for agent, balance in balances.items() if agent != "a3"]
    assert balances["a3"] < 5 * min(others)
    assert sum(balances.values()) == 0


def test_the_summary_tells_what_a_newcomer_wants_to_know(demo):
    run_dir, output = demo
    for words in (
        "one model on all data",
        "agents alone",
        "a3 paid",
        "agents took part throughout",
        "ledger audit",
        "report.html",
    ):
        assert words in output
    assert str(run_dir) in output.replace("\n", "")
    assert (run_dir / "report.html").stat().st_size > 20_000


def test_status_of_a_finished_run(demo, capsys):
    run_dir, _ = demo
    assert cli.run(["status", str(run_dir), "--json"]) == 0
    agents = json.loads(capsys.readouterr().out)["agents"]
    assert {one["state"] for one in agents.values()} == {"done"}
    assert not any(one["running"] for one in agents.values())


def test_the_last_round_is_evaluated_however_long_it_takes(tmp_path):
    words = ["testbed", "--agents", "2", "--topology", "path", "--rounds", "2", "--json"]
    words += ["--task", "tests.paced:SlowlyTestedDigits", "--evaluate-every", "0"]
    told = run_to_the_end(*words, "--run-dir", tmp_path / "run")
    assert set(json.loads(told)["accuracy"]) == {"a0", "a1"}


def test_a_run_survives_a_killed_a_restarted_and_a_stopped_agent(tmp_path):
    (tmp_path / "faults.toml").write_text(FAULTS)
    words = ["testbed", "--agents", "5", "--topology", "complete", *paced.TASK]
    words += ["--rounds", "80", "--deadline-s", "2", "--local-steps", "1"]
    words += ["--faults", tmp_path / "faults.toml", "--evaluate-every", "10"]
    words += ["--require-participation", "0.5"]
    told = run_to_the_end(*words, "--run-dir", tmp_path / "run", "--json", code=ABSENT)
    summary = json.loads(told)
    assert summary["audit"] == "ok"
    parts = summary["participation"]
    assert parts["a0"]["performed"] == 80
    assert parts["a4"]["share"] <= 0.5  # it is gone from a round soon after 20 on
    assert parts["a4"]["last_round"] <= 40
    assert parts["a1"]["share"] < 1.0
    # All its lives: the rounds between them are missing, and none is counted twice.
    alive = [row.round for row in read_metrics(tmp_path / "run/agents/a1/metrics.csv")]
    assert parts["a1"]["performed"] == len(set(alive)) < 80
    assert read_status(tmp_path / "run/agents/a1").performed_rounds == len(alive)
    assert sum(summary["balances"].values()) == 0
    # It has what the others learned; the data of a4, and so some classes, all have lost.
    assert abs(summary["accuracy"]["a1"] - summary["accuracy"]["a0"]) < 0.05
    logs = {i: (tmp_path / f"run/agents/a{i}/log.jsonl").read_text() for i in range(2)}
    # Neighbours do not wait for an agent that came back before its first update: they may be two
    # rounds on again by then, and it takes the newer model in their stead.
    events = [json.loads(line) for line in logs[1].splitlines()]
    entered = [event["round"] for event in events if event["event"] == "re_entered"]
    assert entered == sorted(set(entered))
    assert 1 <= len(entered) < 10
    assert logs[0].count('"neighbour_missed", "peer": "a4"') == 1


def test_a_flipped_byte_in_any_export_is_named(demo, tmp_path, capsys):
    run_dir, _ = demo
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    assert cli.run(["ledger", "audit", str(copy)]) == 0
    exports = {path: path.read_bytes() for path in copy.glob("agents/*/ledger/*.jsonl")}
    assert len(exports) == 16
    # One end of all edges at a time: their other ends are whole, and no edge tells of another.
    for end, line in ((0, 0), (1, 1), (0, -2), (1, -1)):
        changed = {}
        for path, clean in exports.items():
            if path.parts[-3] == path.stem.split("-")[end]:
                changed[path], damaged = flipped(clean, line)
                path.write_bytes(damaged)
        assert len(changed) == 8
        capsys.readouterr()
        assert cli.run(["ledger", "audit", str(copy), "--json"]) == 3
        found = json.loads(capsys.readouterr().out)["findings"]
        for path, seq in changed.items():
            tail = "/".join(path.parts[-3:])
            seqs = {one["seq"] for one in found if one["file"].endswith(tail)}
            assert seq in seqs
            assert path.stem in {one["edge"] for one in found}
            path.write_bytes(exports[path])


def flipped(export, line):
    """The seq that a line of an export stands for, and the export with a bit of it changed."""
    lines = export.splitlines(keepends=True)
    number = line % len(lines)
    at = sum(map(len, lines[:number])) + len(lines[number]) // 2
    return max(0, number - 1), export[:at] + bytes([export[at] ^ 1]) + export[at + 1 :]


@pytest.fixture
def hosts(tmp_path):
    """Three daemons on a ring, started one by one as on hosts of their own: their processes."""
    cluster, ids = tmp_path / "cluster.toml", ("a0", "a1", "a2")
    words = ["cluster", "new", "--topology=ring", *paced.TASK, "--run-id=hosts", "--rounds=30"]
    words += ["--window=4", "--deadline-s=10", "--local-steps=1", "-o", str(cluster)]
    for agent, port in zip(ids, free_ports(3), strict=True):
        assert cli.run(["keygen", str(tmp_path / "keys" / agent)]) == 0
        words += ["--agent", f"{agent}={tmp_path / 'keys' / agent}@tcp://127.0.0.1:{port}"]
    assert cli.run(words) == 0
    started = {}
    for agent in ids:
        words = ["agent", "--cluster", cluster, "--id", agent, "--threads", "1"]
        words += ["--keys", tmp_path / "keys" / agent, "--data-dir", tmp_path / "agents" / agent]
        started[agent] = subprocess.Popen(
            [*CANDOR, *map(str, words), "--log-level=error"],
            start_new_session=True,
            env=paced.environment(),
        )
    yield started
    for process in started.values():
        process.kill()
        process.wait(RUN_S)


def test_sigterm_ends_a_daemon_cleanly_and_its_neighbours_go_on(hosts, tmp_path):
    agents = tmp_path / "agents"
    paced.until(lambda: round_of(agents / "a1") >= 5)
    assert is_running(agents / "a1")
    hosts["a1"].terminate()
    assert [process.wait(RUN_S) for process in hosts.values()] == [0, 130, 0]
    assert not is_running(agents / "a1")
    # Its farewell spares the others the deadline of 10 s a round.
    assert "neighbour_missed" not in (agents / "a0" / "log.jsonl").read_text()
    assert cli.run(["ledger", "audit", str(tmp_path)]) == 0


def round_of(data_dir):
    """The round that a daemon says it is in; 0 before it says anything."""
    try:
        return read_status(data_dir).round
    except ConfigurationError:
        return 0


def test_ctrl_c_stops_every_child(tmp_path):
    run_dir = tmp_path / "run"
    words = [*CANDOR, *ENDLESS, "--run-dir", str(run_dir)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        pids = _pids_of_training_agents(run_dir, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=RUN_S)
    finally:
        process.kill()
    assert process.returncode == 130
    told = errors.decode().strip()
    assert told == f"candor: interrupted; what there is lies in {run_dir}"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not any(is_running(run_dir / "agents" / f"a{i}") for i in range(2))


def test_children_do_not_outlive_a_killed_testbed(tmp_path):
    run_dir = tmp_path / "run"
    words = [*CANDOR, *ENDLESS, "--run-dir", str(run_dir)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _pids_of_training_agents(run_dir, process)
    process.kill()
    process.wait(RUN_S)
    paced.until(lambda: not any(is_running(run_dir / "agents" / f"a{i}") for i in range(2)))


def _pids_of_training_agents(run_dir, process):
    """Wait until both agents train; their process ids."""
    data_dirs = [run_dir / "agents" / f"a{i}" for i in range(2)]
    paced.until(lambda: process.poll() is not None or all(map(round_of, data_dirs)))
    return [read_status(data_dir).pid for data_dir in data_dirs]
