"""Daemons that are forked: to themselves and to the testbed they are as a fresh interpreter's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from candor.agent.exits import RunFailed
from candor.agent.testbed.nursery import Nursery, NurseryChild
from candor.topologies.specs.files import private_files
from tests.paced import until

pytestmark = pytest.mark.e2e
# A user's graph, for a command that runs code of theirs.
GRAPH = """
import json, os, random, signal, sys, time
import networkx, numpy
import candor.agent.daemon.host  # some of what it imports sets variables

def told(agents):
    handlers = {
        one.name: str(signal.getsignal(one)).split(" at ")[0] for one in signal.Signals
    }
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(2)}
    print(json.dumps({
        "words": sys.argv[1:], "path": sys.path, "place": os.getcwd(), "handlers": handlers,
        "environment": dict(os.environ), "umask": os.umask(0o077), "files": links,
        "open": len(os.listdir("/proc/self/fd")), "leads": os.getsid(0) == os.getpid(),
        "flags": sys.flags.safe_path, "threads": len(os.listdir("/proc/self/task")),
        "random": [random.random(), numpy.random.random()], "names": open("/proc/self/comm").read(),
    }), file=sys.stderr, flush=True)
    return networkx.path_graph(agents)

def endless(agents):
    print(os.getppid(), file=sys.stderr, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def nursery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    """One whose children are where a module of the user's lies."""
    (tmp_path / "mine.py").write_text(GRAPH)
    # What nobody may import: places are put in their order first.
    (tmp_path / "path").mkdir()
    for name in ("random", "json", "signal"):
        (tmp_path / "path" / f"{name}.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.chdir(tmp_path)
    with private_files():
        made = Nursery()
    yield made
    made.close()


def words(function: str) -> list[str]:
    return ["topology", "show", f"mine:{function}", "--agents", "3"]


def start(
    nursery: Nursery, errors: str, *words: str, **environment: str
) -> tuple[NurseryChild, Path]:
    """A child, and what it writes to standard error."""
    path = Path.cwd() / errors
    with path.open("ab") as file:
        return nursery.start(words, file.fileno(), environment), path


def as_it_is(nursery: Nursery, errors: str, **environment: str) -> Any:
    child, path = start(nursery, errors, *words("told"), **environment)
    assert child.wait(60) == 0, path.read_text()
    return json.loads(path.read_text())


def endless(nursery: Nursery, errors: str) -> tuple[NurseryChild, int]:
    """A child that runs by now, and its parent."""
    child, path = start(nursery, errors, *words("endless"))
    until(path.read_text)
    return child, int(path.read_text())


def test_a_child_finds_itself_as_a_fresh_interpreter_does(nursery: Nursery) -> None:
    one, two = as_it_is(nursery, "one", MINE="1"), as_it_is(nursery, "two")
    with private_files():
        done = subprocess.run(
            [sys.executable, "-P", "-m", "candor", *words("told")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            check=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
    fresh = json.loads(done.stderr)
    assert one["environment"].pop("MINE") == "1"
    for each in (one, two, fresh):
        del each["environment"]["PYTEST_CURRENT_TEST"]  # which says setup, then call
    drawn = [each.pop("random") for each in (one, two, fresh)]
    assert len({number for pair in drawn for number in pair}) == 6
    assert [each.pop("names") for each in (one, two)] == ["candor \n"] * 2
    del fresh["names"]
    for name, value in fresh.items():
        assert one[name] == two[name] == value, name


def test_the_end_of_each_child_is_told(nursery: Nursery) -> None:
    bad, errors = start(nursery, "bad", "agent", "--cluster", "none.toml")
    held, parent = endless(nursery, "held")
    ended, _ = endless(nursery, "ended")
    assert bad.wait(60) == 2
    (line,) = errors.read_text().splitlines()
    assert line.startswith("candor: error: ")
    assert parent != os.getpid()
    held.send_signal(signal.SIGSTOP)
    held.terminate()
    ended.send_signal(signal.SIGUSR1)
    assert ended.wait(60) == ended.poll() == -signal.SIGUSR1
    with pytest.raises(subprocess.TimeoutExpired):
        held.wait(0.2)  # a stopped process does not end, nor wait for ever
    held.kill()
    assert held.wait(60) == held.returncode == -signal.SIGKILL
    held.kill()  # who has ended gets no signal: the id may be another's by now


def test_whoever_has_no_nursery_any_more_is_taken_for_ended(nursery: Nursery) -> None:
    child, parent = endless(nursery, "child")
    os.kill(parent, signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    os.kill(child.pid, signal.SIGKILL)  # a daemon ends with its parent, this one would not
    with pytest.raises(RunFailed, match=r"^the process that starts the daemons has ended$"):
        start(nursery, "late", *words("told"))
