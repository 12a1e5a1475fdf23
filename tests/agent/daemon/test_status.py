"""A status is read whole or not at all, and the lock alone says whether its daemon lives."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from candor.agent.cli.status import command
from candor.agent.daemon.metrics import read_metrics
from candor.agent.daemon.status import (
    DataDirLock,
    NeighbourStatus,
    State,
    Status,
    StatusFile,
    data_dirs,
    is_running,
    read_status,
)
from candor.topologies.specs.specs import ConfigurationError

STATUS = Status(
    run_id="demo",
    agent="a0",
    fingerprint="ab" * 32,
    pid=4242,
    state="training",
    round=3,
    rounds=60,
    train_loss=0.52,
    test_accuracy=0.91,
    injected_norm=2.25,
    balance=-1_500_000,
    bytes_sent=2_000_000,
    bytes_received=1_000_000,
    neighbours={
        "a1": NeighbourStatus("mixing", 3, -1_500_000),
        "a7": NeighbourStatus("refused", 1, 0, "over its credit limit"),
    },
    seconds=1.5,
)
MEASURED = replace(
    STATUS, metric="rmse", better="lower", metrics={"rmse": 0.91, "r2": -3.5}, local_metric=1.25
)

HOLDER = """
import sys
from pathlib import Path
from candor.agent.daemon.status import DataDirLock
with DataDirLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _other_daemon(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A real process that holds the lock of `data_dir`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


def test_a_status_reads_back_the_same(tmp_path: Path) -> None:
    for status in (STATUS, MEASURED):
        StatusFile(tmp_path).write(status)
        assert read_status(tmp_path) == status


def test_a_status_of_an_earlier_version_is_of_accuracy(tmp_path: Path) -> None:
    StatusFile(tmp_path).write(MEASURED)
    stored = json.loads((tmp_path / "status.json").read_text())
    for younger in ("metric", "better", "metrics", "local_metric"):
        del stored[younger]
    (tmp_path / "status.json").write_text(json.dumps(stored))
    assert read_status(tmp_path) == STATUS


def test_an_undefined_metric_is_null(tmp_path: Path) -> None:
    StatusFile(tmp_path).write(replace(STATUS, metrics={"dice": math.nan}, local_metric=math.nan))
    found = read_status(tmp_path)
    assert found.metrics == {"dice": None}
    assert found.local_metric is None


def test_writing_replaces_the_status_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    status_file = StatusFile(tmp_path)
    status_file.write(STATUS)
    status_file.write(replace(STATUS, round=4))
    assert read_status(tmp_path).round == 4
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_reader_never_sees_half_a_status(tmp_path: Path) -> None:
    status_file = StatusFile(tmp_path)
    status_file.write(STATUS)
    written = threading.Event()

    def write_many() -> None:
        for number in range(300):
            status_file.write(replace(STATUS, round=number, run_id="x" * (number * 37 % 4096)))
        written.set()

    writer = threading.Thread(target=write_many)
    writer.start()
    while not written.is_set():
        status = read_status(tmp_path)
        assert status is not None
        assert len(status.run_id) in (4, status.round * 37 % 4096)
    writer.join()


def test_a_diverged_loss_is_null_and_the_file_stays_json(tmp_path: Path) -> None:
    StatusFile(tmp_path).write(replace(STATUS, train_loss=math.nan, injected_norm=math.inf))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    stored = json.loads((tmp_path / "status.json").read_text(), parse_constant=refuse)
    assert stored["train_loss"] is None
    assert read_status(tmp_path).injected_norm is None


@pytest.mark.parametrize("text", ["", "[]", '{"run_id": "demo"}', "\x00"])
def test_what_is_not_a_status_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"^[^\n]*status\.json: not a status file$"):
        read_status(tmp_path)


def test_a_pipe_in_the_place_of_a_file_holds_no_reader_up(tmp_path: Path) -> None:
    for name, read in (("status.json", lambda path: read_status(path.parent)),
                       ("metrics.csv", read_metrics)):  # fmt: skip
        os.mkfifo(tmp_path / name)
        with pytest.raises(ConfigurationError, match=r"cannot read the .*Not a regular file"):
            read(tmp_path / name)


def test_a_second_daemon_on_the_same_directory_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        _other_daemon(tmp_path) as process,
        pytest.raises(ConfigurationError, match=rf"^[^\n]*pid {process.pid};[^\n]*$"),
        DataDirLock(tmp_path),
    ):
        pass


def test_a_daemon_is_running_exactly_while_it_holds_the_lock(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with _other_daemon(tmp_path):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)


def test_a_killed_daemon_is_not_running_and_its_directory_is_free(tmp_path: Path) -> None:
    with _other_daemon(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        assert not is_running(tmp_path)
        with DataDirLock(tmp_path):
            assert is_running(tmp_path)


def test_asking_whether_it_runs_never_stops_a_daemon_from_starting(tmp_path: Path) -> None:
    with DataDirLock(tmp_path):
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_running(tmp_path)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(200):
            with DataDirLock(tmp_path):
                pass
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def _run_dir(tmp_path: Path) -> Path:
    for agent in ("a0", "a10", "a2"):
        data_dir = tmp_path / "agents" / agent
        data_dir.mkdir(parents=True)
        StatusFile(data_dir).write(replace(STATUS, agent=agent))
    (tmp_path / "agents" / "a3").mkdir()
    return tmp_path


def test_status_of_a_data_directory_is_one_json_object(tmp_path: Path) -> None:
    StatusFile(tmp_path).write(STATUS)
    with DataDirLock(tmp_path):
        result = CliRunner().invoke(command, [str(tmp_path), "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["running"] is True
    assert shown["neighbours"]["a7"]["reason"] == "over its credit limit"
    assert shown.keys() - {"running"} == json.loads((tmp_path / "status.json").read_text()).keys()


def test_status_of_a_run_directory_has_an_object_for_each_agent(tmp_path: Path) -> None:
    run_dir = _run_dir(tmp_path)
    with DataDirLock(run_dir / "agents" / "a2"):
        result = CliRunner().invoke(command, [str(run_dir), "--json"])
    agents = json.loads(result.stdout)["agents"]
    assert {agent: shown["running"] for agent, shown in agents.items()} == {
        "a0": False,
        "a10": False,
        "a2": True,
    }
    assert "participation" not in json.loads(result.stdout)  # nobody counts

    counted = replace(STATUS, agent="a2", performed_rounds=2)
    StatusFile(run_dir / "agents" / "a2").write(counted)
    result = CliRunner().invoke(command, [str(run_dir), "--json"])
    assert json.loads(result.stdout)["participation"] == {
        "a2": {"share": 2 / 3, "performed": 2, "due": 0, "mixed": 0, "last_round": 3}
    }


def test_a_folder_of_data_directories_is_as_good_as_a_run(tmp_path: Path) -> None:
    folder = _run_dir(tmp_path) / "agents"
    agents = json.loads(CliRunner().invoke(command, [str(folder), "--json"]).stdout)["agents"]
    assert list(agents) == ["a0", "a10", "a2"]
    assert data_dirs(folder / "a0") == [folder / "a0"]
    assert data_dirs(folder / "a3") == []


def test_the_table_tells_a_dead_daemon_from_a_living_one_and_says_who_is_not_served(
    tmp_path: Path,
) -> None:
    run_dir = _run_dir(tmp_path)
    with DataDirLock(run_dir / "agents" / "a2"):
        result = CliRunner(env={"COLUMNS": "80"}).invoke(command, [str(run_dir)])
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "a2 training 3/60 0.520 91.0 % 2.25 -1.500000 3.0 MB 1/2" in words
    assert "a0 died 3/60" in words
    assert "a0 is not running, last seen training" in words
    assert "a2 is without a7: over its credit limit" in words
    assert "no status yet: a3" in words
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_status_where_there_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "agents" / "a0").mkdir(parents=True)
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(result.exception, ConfigurationError)
    assert "\n" not in str(result.exception)
    assert "no status" in str(result.exception)


@pytest.mark.parametrize(
    ("state", "locked", "age_s", "exit_code"),
    [
        ("training", True, 0, 0),
        ("training", True, 100, 1),
        ("training", False, 0, 1),
        ("failed", True, 0, 1),
        ("done", False, 100, 0),
    ],
)
def test_max_age_makes_the_command_a_health_check(
    tmp_path: Path, state: State, locked: bool, age_s: float, exit_code: int
) -> None:
    StatusFile(tmp_path).write(replace(STATUS, state=state))
    written = (tmp_path / "status.json").stat().st_mtime
    os.utime(tmp_path / "status.json", (written - age_s, written - age_s))
    arguments = [str(tmp_path), "--max-age", "50"]
    if locked:
        with DataDirLock(tmp_path):
            result = CliRunner().invoke(command, arguments)
    else:
        result = CliRunner().invoke(command, arguments)
    assert result.exit_code == exit_code
