"""What a user's mistake gets: one line that names it, the documented exit code, no traceback."""

import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

import pytest

from candor.agent.cli import main as cli
from candor.agent.testbed.testbed import free_ports
from tests.paced import until
from tests.runs import write_cluster

CANDOR = [sys.executable, "-P", "-m", "candor"]
TESTBED = ["testbed", "--task", "digits", "--rounds", "2"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def candor(capsys, monkeypatch):
    """Run a command line in this process, as the entry point does."""

    def run(*words, cwd=None):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", list(sys.path))
            if cwd is not None:
                patch.chdir(cwd)
            code = cli.run([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


def refused(done, code, *words):
    """Assert the exit code and a single line that holds all the words."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("candor: error: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in done.stderr
    assert done.returncode == code


@pytest.fixture
def digits(candor, tmp_path):
    """A cluster file of three agents on free ports, made by the commands a user types."""
    path = tmp_path / "c.toml"
    words = ["cluster", "new", "--topology", "ring", "--task", "digits", "--run-id", "t"]
    words += ["--rounds", 3, "--start-deadline-s", 1, "-o", path]
    for agent, port in zip(("a0", "a1", "a2"), free_ports(3), strict=True):
        keys = tmp_path / "keys" / agent
        assert candor("keygen", keys).returncode == 0
        words += ["--agent", f"{agent}={keys}@tcp://127.0.0.1:{port}"]
    made = candor(*words)
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture
def agent(candor):
    """Run the daemon of a0."""

    def run(digits, **options):
        folder = digits.parent
        words = {"--keys": folder / "keys" / "a0", "--data-dir": folder / "data", **options}
        flat = [word for pair in words.items() for word in pair]
        return candor("agent", "--cluster", digits, "--id", "a0", "--log-level", "error", *flat)

    return run


def edited(digits, pattern, replacement):
    text, changed = re.subn(pattern, replacement, digits.read_text(), count=1)
    assert changed
    digits.write_text(text)
    return digits


def test_port_taken(candor, agent, digits):
    port = int(re.search(r"127\.0\.0\.1:(\d+)", digits.read_text()).group(1))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused(agent(digits), 1, f"tcp://127.0.0.1:{port}", "in use")


def test_unreachable_neighbour(candor, agent, digits):
    refused(agent(digits), 1, "a0: no neighbour could be reached", "a1 (tcp://", "a2 (tcp://")


def test_a_neighbour_is_dialled_where_the_command_says(candor, agent, digits):
    done = agent(digits, **{"--dial": "a1=tcp://localhost:1"})
    refused(done, 1, "a1 (tcp://localhost:1)", "a2 (tcp://127.0.0.1:")


@pytest.mark.parametrize("dial", ["a1", "a1=here", "a0=tcp://b:1", "a9=tcp://b:1"])
def test_a_bad_address_to_dial(candor, agent, digits, dial):
    refused(agent(digits, **{"--dial": dial}), 2, "--dial")


def test_unreachable_neighbour_is_named_by_the_check(candor, digits):
    done = candor("cluster", "check", digits, "--id", "a0", "--timeout-s", 2)
    assert done.returncode == 1
    assert "a1" in done.stdout + done.stderr
    assert "refused" in done.stdout + done.stderr


def test_duplicate_id(candor, agent, digits):
    refused(agent(edited(digits, 'id = "a1"', 'id = "a0"')), 2, str(digits), "a0")


def test_unknown_toml_key(candor, agent, digits):
    refused(agent(edited(digits, "momentum =", "momentun =")), 2, str(digits), "momentun")


def test_negative_step(candor, agent, digits):
    refused(agent(edited(digits, "step_size = ", "step_size = -")), 2, str(digits), "step_size")
    refused(candor(*TESTBED, "--agents", 2, "--topology", "ring", "--step-size", "-1"), 2, "step")


def test_graph_not_connected(candor, agent, digits):
    text = digits.read_text()
    kept = re.sub(r"edges = \[.*?\n\]", 'edges = [["a0", "a1"]]', text, flags=re.DOTALL)
    assert kept != text
    digits.write_text(kept)
    refused(agent(digits), 2, str(digits), "connected")


def test_key_that_others_may_read(candor, agent, digits):
    key = digits.parent / "keys" / "a0" / "identity.key"
    key.chmod(0o644)
    refused(agent(digits), 2, str(key), "0644", "chmod 600")


def test_keys_of_another_agent(candor, agent, digits):
    refused(agent(digits, **{"--keys": digits.parent / "keys" / "a1"}), 2, "identity key is not")


def test_wrong_topology(candor, tmp_path):
    refused(candor(*TESTBED, "--agents", 4, "--topology", "rong", cwd=tmp_path), 2, "rong", "ring")
    refused(candor("topology", "show", "torus", "--agents", 7), 2, "torus", "7")


def test_task_that_does_not_import(candor, tmp_path):
    words = ["--rounds", 2, "--agents", 2, "--topology", "ring"]
    refused(
        candor("testbed", "--task", "nowhere:Task", *words, cwd=tmp_path), 2, "nowhere", "import"
    )
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError('oops')\n")
    done = candor("testbed", "--task", "broken:Task", *words, cwd=tmp_path)
    refused(done, 2, "broken", "ZeroDivisionError")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--strategy", "a9=scale:2"], "a9"),
        (["--strategy", "a0=scael:2"], "scael"),
        (["--strategy", "a0"], "ID=SPEC"),
        (["--strategy", "a0=scale:2 @ 9-5"], "9-5"),
        (["--strategy", "a0=colluding:3"], "only simulated agents"),
        (["--rule", "norm"], "norm"),
        (["--rule", "bond:1e-5"], "bond"),
        (["--partition", "dirichlet:-1"], "dirichlet"),
        (["--rounds", "0"], "--rounds"),
        (["--window", "0"], "window"),
        (["--seed", "-1"], "seed"),
        (["--agents", "0"], "--agents"),
    ],
)
def test_bad_options_of_the_testbed(candor, tmp_path, words, named):
    done = candor(*TESTBED, "--agents", 2, "--topology", "ring", *words, cwd=tmp_path)
    refused(done, 2, named)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ('[[event]]\nat_round = 1\nkill = "a7"\n', "event[0]: kill = 'a7': the run has no such"),
        ('[[event]]\nat_round = 3\nkill = "a1"\n', "event[0]: at_round = 3: the run has 2 rounds"),
        ("[[event]]\nat_s = 1\nheal = true\n", "event[0]: heal: no partition"),
        ('[[event]]\nat_round = 1\nkill = "all"\nuntil_round = 2\n', "event[0]: nobody is left"),
    ],
)
def test_a_fault_plan_that_cannot_be_ends_before_anything_starts(candor, tmp_path, plan, named):
    (tmp_path / "plan.toml").write_text(plan)
    words = ["--agents", 2, "--topology", "ring", "--faults", "plan.toml"]
    refused(candor(*TESTBED, *words, cwd=tmp_path), 2, "plan.toml", named)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("random:kinds=explode", "explode"),
        ("random:events=99,kinds=kill", "no such plan"),
        ("nowhere.toml", "nowhere.toml: cannot read the fault plan"),
        (".", ".: cannot read the fault plan"),
    ],
)
def test_faults_that_cannot_be_drawn_or_read(candor, tmp_path, spec, named):
    words = ["--agents", 2, "--topology", "ring", "--faults", spec]
    refused(candor(*TESTBED, *words, cwd=tmp_path), 2, named)
    assert not (tmp_path / "runs").exists()


def test_a_run_is_never_overwritten(candor, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    done = candor(*TESTBED, "--agents", 2, "--topology", "ring", "--run-dir", tmp_path)
    refused(done, 2, str(tmp_path), "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.e2e
def test_two_daemons_on_one_data_directory(candor, digits):
    folder = digits.parent
    words = ["agent", "--cluster", digits, "--id", "a0", "--keys", folder / "keys" / "a0"]
    words += ["--data-dir", folder / "data", "--log-level", "error"]
    edited(digits, r"start_deadline_s = [\d.]+", "start_deadline_s = 60.0")
    first = subprocess.Popen([*CANDOR, *map(str, words)], stderr=subprocess.DEVNULL)
    try:
        until((folder / "data" / "status.json").exists)
        (port,) = free_ports(1)
        done = candor(*words, "--listen", f"tcp://127.0.0.1:{port}")
        refused(done, 2, str(folder / "data"), str(first.pid))
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 130


def test_a_cluster_file_that_is_not_there(candor, tmp_path):
    done = candor("ledger", "audit", tmp_path)
    refused(done, 2, str(tmp_path))
    refused(candor("status", tmp_path), 2, str(tmp_path))
    refused(candor("report", tmp_path / "none"), 2, "none")
    refused(candor("cluster", "show", tmp_path / "c.toml"), 2, "c.toml")


@pytest.mark.parametrize("words", [["nonsense"], ["testbed", "--nonsense"], ["testbed"]])
def test_bad_usage_says_where_to_read(candor, words):
    refused(candor(*words), 2, "--help")


def test_another_models_digest_is_refused(candor, tmp_path):
    write_cluster(tmp_path, "ring", 3)
    path = tmp_path / "cluster.toml"
    path.write_text(path.read_text().replace('name = "fixed"', 'name = "digits"'))
    done = candor(
        *("agent", "--cluster", path, "--id", "a0", "--keys", tmp_path / "agents/a0/keys"),
        *("--data-dir", tmp_path / "data"),
    )
    refused(done, 2, "digits", "initial model")
