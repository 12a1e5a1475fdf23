"""What is done to processes, on real ones."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from candor.agent.testbed.faults import Fault
from candor.agent.testbed.holds import FILLS, LAST_WORDS_BYTES, STARTED, Holds, Pace
from tests.paced import until

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, limits another process")
# Writes a byte more to a file, each time that it is told to, and answers with how that went.
WRITER = """
import sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for _ in sys.stdin:
        try:
            file.write(bytes(1024))
            print("ok", flush=True)
        except OSError as exc:
            print(exc.strerror, flush=True)
"""
Process = subprocess.Popen[bytes]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    words = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    made = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with made:
        yield made
        made.kill()


def written(process: Process) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    return process.stdout.readline().decode().strip()


def state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def done(process: Process, tmp_path: Path) -> "Done":
    return Done(process, tmp_path)


class Done:
    """Does things to a process, as the agent a1."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process, self.holds = process, Holds()
        self.stderr = folder / "stderr.log"
        self.stderr.touch()

    def __call__(self, action: str, of: str | None = None, amount: float | None = None) -> str:
        begun = None if of is None else Fault(of, ("a1",), None, 0.0)
        fault = Fault(action, ("a1",), None, 0.0, amount=amount, of=begun)
        return self.holds.perform(fault, "a1", self.process, self.stderr)


@pytest.mark.parametrize("speed", [0.5, 0.1, 0.3, 0.9])
def test_a_slow_agent_has_its_share_of_the_turns_evenly(speed: float) -> None:
    pace = Pace(speed)
    turns = [pace.turn() for _ in range(100)]
    assert sum(turns) == round(100 * speed)
    longest = round(1 / speed) + 1
    assert all(any(turns[at : at + longest]) for at in range(100 - longest))


@LINUX
def test_a_slow_process_is_stopped_in_its_turns_until_it_is_let_go_on(done: Done) -> None:
    assert done("slow", amount=0.5) == "slowed to 50% of the time"
    states = []
    for expected in ("T", "S", "T", "S"):
        done.holds.turn({"a1": done.process}, 0.0)
        until(lambda expected=expected: state(done.process) == expected)  # type: ignore[misc]
        states.append(state(done.process))
    assert not done.holds.held
    done.holds.turn({"a1": done.process}, 0.0)
    assert done("end", of="slow") == "let go on"
    until(lambda: state(done.process) == "S")
    assert not done.holds.slowed
    assert done("end", of="slow") == "had gone on before"


@LINUX
def test_a_stopped_process_is_held_until_it_is_let_go_on(done: Done) -> None:
    for action, of in (("continue", None), ("end", "stop")):
        assert done("stop") == "stopped"
        until(lambda: state(done.process) == "T")
        assert done.holds.held == {"a1"}
        assert done(action, of) == "let go on"
        assert written(done.process) == "ok"
        assert not done.holds.held
    assert done("end", of="stop") == "had gone on before"


def test_who_is_killed_is_started_anew_once(done: Done) -> None:
    assert done("slow", amount=0.5).startswith("slowed")
    assert done("kill") == "killed"
    assert done.process.poll() == -9
    assert (done.holds.held, done.holds.slowed) == ({"a1"}, {})
    for action in ("kill", "stop", "slow", "disk_full"):
        assert done(action, amount=0.5) == "did not run"
    assert done.holds.killed == {"a1"}
    assert done("end", of="kill") in STARTED
    done.holds.forget("a1")  # as whoever starts it does
    assert done("end", of="kill") == "had gone on before"
    assert done("restart") in STARTED


@pytest.mark.skipif(not FILLS, reason="Linux alone limits other processes")
def test_a_full_disk_takes_nothing_until_it_is_free_again(done: Done, tmp_path: Path) -> None:
    assert written(done.process) == "ok"
    assert done("disk_free") == "had room before"
    assert done("disk_full") == "without room on its disk"
    assert done.holds.held == done.holds.idle == {"a1"}  # no run waits for who waits for room
    answers = [written(done.process) for _ in range(3)]
    assert answers[-1] == "File too large"
    assert (tmp_path / "file").stat().st_size <= LAST_WORDS_BYTES
    assert done("end", of="disk_full") == "with room on its disk again"
    assert written(done.process) == "ok"
    assert not done.holds.held
    assert done.holds.turn({"a1": done.process}, 1.0) == []


@pytest.mark.skipif(not FILLS, reason="Linux alone limits other processes")
def test_who_stopped_for_want_of_room_is_started_when_there_is_some(done: Done) -> None:
    done("disk_full")
    done.process.kill()
    done.process.wait()
    assert done("disk_free") in STARTED


@pytest.mark.skipif(not FILLS, reason="Linux alone limits other processes")
def test_who_stops_for_want_of_room_just_after_is_started_too(done: Done) -> None:
    done("disk_full")
    done("disk_free")
    done.process.kill()
    done.process.wait()
    assert done.holds.turn({"a1": done.process}, 4.0) == [Fault("restart", ("a1",), None, 4.0)]
    assert done.holds.turn({"a1": done.process}, 5.0) == []
