"""The main job end to end: real processes, CURVE sockets and ledgers, as a newcomer runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product

import pytest

from candor.agent.cli import main as cli
from candor.agent.daemon.status import is_running, read_status
from candor.agent.testbed.testbed import free_ports
from candor.topologies.specs.specs import ConfigurationError
from tests import paced

CANDOR = [sys.executable, "-P", "-m", "candor"]
DEMO = ["testbed", "--agents", "8", "--topology", "ring", "--task", "digits", "--rounds", "60"]
ENDLESS = ["testbed", "--agents", "3", "--topology", "ring", "--task", "digits"]
ENDLESS += ["--rounds", "100000"]
RUN_S = 240


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run of `make demo`."""
    run_dir = tmp_path_factory.mktemp("demo") / "run"
    words = [*CANDOR, *DEMO, "--strategy", "a3=scale:3", "--run-dir", str(run_dir)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    return run_dir, done.stdout


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
    run_dir = tmp_path / "run"
    words = [*CANDOR, "testbed", "--agents", "3", "--topology", "ring", "--rounds", "2"]
    words += ["--task", "tests.paced:SlowlyTestedDigits", "--run-dir", str(run_dir)]
    done = subprocess.run(
        [*words, "--evaluate-every", "0"],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env=paced.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads((run_dir / "summary.json").read_text())["accuracy"]) == {"a0", "a1", "a2"}


def test_a_flipped_byte_in_any_export_is_named(demo, tmp_path, capsys):
    run_dir, _ = demo
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    assert cli.run(["ledger", "audit", str(copy)]) == 0
    exports = {path: path.read_bytes() for path in copy.glob("agents/*/ledger/*.jsonl")}
    assert len(exports) == 16
    # One end of all edges at a time: their other ends are whole, and no edge tells of another.
    for end, line in product((0, 1), (0, 1, -2, -1)):
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


class Hosts:
    """Daemons started one by one, as on hosts of their own."""

    def __init__(self, folder, agents, rounds, **settings):
        self.folder = folder
        self.processes = {}
        for i in range(agents):
            assert cli.run(["keygen", str(folder / "keys" / f"a{i}")]) == 0
        self.cluster = folder / "cluster.toml"
        words = ["cluster", "new", "--topology", "ring", *paced.TASK, "--run-id", "hosts"]
        words += [f"--rounds={rounds}", "-o", str(self.cluster), "--partition=dirichlet:0.5"]
        for i, port in enumerate(free_ports(agents)):
            words += ["--agent", f"a{i}={folder / 'keys' / f'a{i}'}@tcp://127.0.0.1:{port}"]
        words += [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        assert cli.run(words) == 0

    def start(self, agent):
        words = ["agent", "--cluster", self.cluster, "--id", agent, "--threads", 1]
        words += ["--keys", self.folder / "keys" / agent, "--data-dir", self.data_dir(agent)]
        self.processes[agent] = subprocess.Popen(
            [*CANDOR, *map(str, words), "--log-level=error"],
            start_new_session=True,
            env=paced.environment(),
        )

    def data_dir(self, agent):
        return self.folder / "agents" / agent

    def wait_for_round(self, agent, number, seconds=90):
        """Poll the status until the agent has finished a round."""

        def reached():
            assert self.processes[agent].poll() is None, f"{agent} ended early"
            try:
                status = read_status(self.data_dir(agent))
            except ConfigurationError:
                return False  # not written yet
            return status.pid == self.processes[agent].pid and status.round >= number

        paced.until(reached, seconds)

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(20)


@pytest.fixture
def hosts(tmp_path):
    made = []

    def make(*words, **settings):
        made.append(Hosts(tmp_path, *words, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_a_killed_daemon_comes_back_and_the_ledgers_agree(hosts, tmp_path, capsys):
    bed = hosts(4, 160, window=4, deadline_s=5, local_steps=1)
    for i in range(4):
        bed.start(f"a{i}")
    bed.wait_for_round("a2", 10)
    assert is_running(bed.data_dir("a2"))
    bed.processes["a2"].send_signal(signal.SIGKILL)
    assert bed.processes["a2"].wait(20) == -signal.SIGKILL
    assert not is_running(bed.data_dir("a2"))
    before = read_status(bed.data_dir("a2")).round
    bed.start("a2")
    codes = {agent: process.wait(RUN_S) for agent, process in bed.processes.items()}
    assert codes == dict.fromkeys(codes, 0)
    log = (bed.data_dir("a2") / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in log]
    # Neighbours do not wait for an agent that came back before its first update: they may be two
    # rounds on again by then, and it takes the newer model in their stead.
    entered = [event["round"] for event in events if event["event"] == "re_entered"]
    assert [before, *entered] == sorted({before, *entered})
    assert 1 <= len(entered) < 10
    capsys.readouterr()
    assert cli.run(["ledger", "audit", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(report["nets"].values()) == 0
    assert read_status(bed.data_dir("a2")).test_accuracy > 0.9


def test_sigterm_ends_a_daemon_cleanly_and_its_neighbours_go_on(hosts, tmp_path):
    bed = hosts(3, 60, window=4, deadline_s=10, local_steps=1)
    for i in range(3):
        bed.start(f"a{i}")
    bed.wait_for_round("a1", 5)
    began = time.monotonic()
    bed.processes["a1"].terminate()
    assert bed.processes["a1"].wait(20) == 130
    assert bed.processes["a0"].wait(RUN_S) == bed.processes["a2"].wait(RUN_S) == 0
    # Its farewell spares the others the deadline of 10 s a round.
    events = (bed.data_dir("a0") / "log.jsonl").read_text()
    assert "neighbour_missed" not in events
    assert time.monotonic() - began < RUN_S
    assert cli.run(["ledger", "audit", str(tmp_path)]) == 0


def test_ctrl_c_stops_every_child(tmp_path):
    run_dir = tmp_path / "run"
    words = [*CANDOR, *ENDLESS, "--run-dir", str(run_dir)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        pids = _pids_of_training_agents(run_dir, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    told = errors.decode().strip()
    assert told == f"candor: interrupted; what there is lies in {run_dir}"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not any(is_running(run_dir / "agents" / f"a{i}") for i in range(3))


def test_children_do_not_outlive_a_killed_testbed(tmp_path):
    run_dir = tmp_path / "run"
    words = [*CANDOR, *ENDLESS, "--run-dir", str(run_dir)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _pids_of_training_agents(run_dir, process)
    process.kill()
    process.wait(20)
    paced.until(lambda: not any(is_running(run_dir / "agents" / f"a{i}") for i in range(3)))


def _pids_of_training_agents(run_dir, process):
    """Wait until all three agents train; their process ids."""

    def training():
        assert process.poll() is None
        try:
            statuses = [read_status(run_dir / "agents" / f"a{i}") for i in range(3)]
        except ConfigurationError:
            return []
        return [status.pid for status in statuses if status.round > 0]

    return paced.until(lambda: pids if len(pids := training()) == 3 else [], 120)
