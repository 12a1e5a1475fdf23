"""Daemons that are stopped, killed and started again: nothing that was trained is lost."""

import json
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from candor.agent.daemon.model_file import MODEL_NAME, rounds_behind
from candor.agent.daemon.status import read_status
from candor.agent.testbed import testbed
from tests import paced
from tests.campaigns.crashes import plan

pytestmark = pytest.mark.e2e
ROUNDS = 8


@pytest.fixture
def bed(tmp_path, monkeypatch):
    """Make testbeds of two or three agents, all of whose processes are gone at the end."""
    monkeypatch.setenv("PYTHONPATH", paced.environment()["PYTHONPATH"])
    made = []

    def make(rounds, agents=2, faults="", topology="complete"):
        shape = plan(agents, topology, rounds, 1, "norm:2e-5")
        timing = replace_rounds(shape, deadline_s=2.0, start_deadline_s=30.0)
        if faults:
            (tmp_path / "faults.toml").write_text(faults, encoding="utf-8")
            timing = replace(timing, faults=tmp_path / "faults.toml")
        made.append(testbed.prepare(timing, tmp_path / "run"))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def replace_rounds(shape, **times):
    return replace(shape, rounds=shape.rounds.model_copy(update=times))


def reached(bed, agent):
    bed.refresh()
    return bed.statuses[agent].round


def ended(process):
    return process.wait(60)


def alone(bed, agent):
    """Start an agent of a run again, as an operator would, and wait for its end."""
    data_dir = bed.data_dir(agent)
    words = ["agent", "--cluster", bed.run_dir / "cluster.toml", "--id", agent]
    words += ["--keys", data_dir / "keys", "--data-dir", data_dir]
    return subprocess.run(
        [sys.executable, "-P", "-m", "candor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contents(folder):
    """Every file's bytes and when it was written."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def model(bed, agent):
    path = bed.data_dir(agent) / MODEL_NAME
    return path, rounds_behind(path, bed.cluster.fingerprint)


def test_a_finished_agent_that_is_started_again_says_so_and_touches_nothing(bed):
    run = bed(ROUNDS)
    run.start()
    assert [ended(process) for process in run.processes.values()] == [0, 0]
    assert model(run, "a0")[1] == ROUNDS
    before = contents(run.run_dir)
    again = alone(run, "a0")
    assert again.returncode == 0
    where = run.data_dir("a0")
    assert again.stderr == (
        f"candor: a0: this run is done; model, metrics and ledger are in {where}\n"
    )
    assert contents(run.run_dir) == before


def test_agents_that_were_all_stopped_go_on_when_started_again(bed):
    run = bed(100_000)
    run.start()
    paced.until(lambda: reached(run, "a0") >= 3)
    run.stop()
    assert {process.returncode for process in run.processes.values()} == {130}
    kept = {agent: model(run, agent) for agent in run.cluster.ids}
    assert all(rounds >= 3 for _, rounds in kept.values())
    # What is not synced may be there in name only when the machine itself went down: the one that
    # has lost its window waits until the other is beyond what both had reserved.
    (run.data_dir("a0") / "status.json").write_bytes(b"")
    (run.data_dir("a1") / "window.bin").write_bytes(bytes(1000))
    for agent in run.cluster.ids:
        run.restart(agent)
    for agent, (_, rounds) in kept.items():
        paced.until(lambda agent=agent, rounds=rounds: model(run, agent)[1] > rounds)
    assert logged(run, "a0").count("resumed") == 1
    assert logged(run, "a1").count("re_entered") >= 1
    assert not list(run.run_dir.glob("agents/*/evidence/*"))


def logged(bed, agent):
    """What has happened to an agent."""
    lines = (bed.data_dir(agent) / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_an_agent_that_is_killed_has_left_a_model(bed):
    run = bed(100_000)
    run.start()
    paced.until(lambda: reached(run, "a0") >= 2)
    run.processes["a0"].kill()
    assert ended(run.processes["a0"]) == -signal.SIGKILL
    assert model(run, "a0")[1] >= 1


def test_what_a_run_leaves_is_its_users_alone(bed):
    run = bed(ROUNDS)
    run.start()
    # Beside the files that are there at the end, those that SQLite has while it writes.
    paced.until(lambda: list(run.run_dir.glob("agents/*/*-shm")))
    during = modes(run.run_dir)
    assert [ended(process) for process in run.processes.values()] == [0, 0]
    names = {path.name for path in (*during, *modes(run.run_dir))}
    wanted = "ledger.sqlite ledger.sqlite-wal ledger.sqlite-shm window.bin metrics.csv log.jsonl"
    wanted += " lock status.json stderr.log model.safetensors ledger cluster.toml sketches.f64"
    assert names >= set(wanted.split())
    for path, mode in (during | modes(run.run_dir)).items():
        handed_out = path.name == "public.toml"
        directory = path.is_dir()
        assert mode == (0o700 if directory else 0o644 if handed_out else 0o600), path


def modes(folder):
    """The modes of everything in a folder, and its own; what is gone by then is left out."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        try:
            found[path] = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            continue
    return found


def lives(bed, agent):
    """Whether the present process of an agent has come as far as to say so."""
    bed.refresh()
    return bed.statuses[agent].pid == bed.processes[agent].pid


CUT = """
event = [
  {at_round = 3, partition = ["a0"]},
  {at_round = 6, heal = true},
  {at_round = 9, partition = ["a1"]},
]
"""


@pytest.mark.parametrize("cut", [False, True])
def test_a_stop_at_any_instant_ends_with_130(bed, cut):
    run = bed(100_000, agents=3, faults=CUT if cut else "")
    run.start()
    for turn in range(3):
        agent = run.cluster.ids[turn]
        paced.until(lambda agent=agent: lives(run, agent))
        until_s = time.monotonic() + 0.7 + 0.13 * turn
        while time.monotonic() < until_s:
            run.refresh()
            run.inject_faults()
            time.sleep(0.02)
        run.processes[agent].terminate()
        assert ended(run.processes[agent]) == 130, run.complaint(agent)
        text = (run.data_dir(agent) / testbed.STDERR_NAME).read_text()
        assert "Traceback" not in text, text
        assert read_status(run.data_dir(agent)).state == "interrupted"
        run.restart(agent)
