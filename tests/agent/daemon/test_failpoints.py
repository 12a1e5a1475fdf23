"""Failpoints: what the environment may say, and where a probe ends the process or writes."""

import os
import signal

import pytest

from candor.agent.cli import main as cli
from candor.agent.daemon import failpoints
from candor.agent.daemon.failpoints import FAILPOINT, NAMES, TRACE_MARKERS, Probe
from candor.network.wire import Envelope, Kind
from candor.topologies.specs.specs import ConfigurationError

PROPOSE = Envelope(Kind.PROPOSE, b"", [b"body", b"\x01\x02"])


@pytest.fixture
def killed(monkeypatch):
    """The signals that a probe sends, caught."""
    sent = []
    monkeypatch.setattr(failpoints.os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def test_without_the_variables_there_is_no_probe():
    assert Probe.from_environment({}) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_process_kills_itself_the_nth_time_it_reaches_its_failpoint(killed, name):
    probe = Probe.from_environment({FAILPOINT: f"{name}:3"})
    reached = [len(killed) for _ in range(4) for _ in [probe.reached(name)]]
    assert reached == [0, 0, 1, 1]
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_it_reaches_no_other_failpoint(killed):
    probe = Probe.from_environment({FAILPOINT: "after-send"})
    for name in NAMES:
        if name != "after-send":
            probe.reached(name)
    probe.after_send(Envelope(Kind.UPDATE, b"", []))
    assert not killed
    probe.after_send(PROPOSE)
    assert killed


@pytest.mark.parametrize(
    "text", ["nowhere", "before-send:0", "before-send:x", "before-send:", ":1"]
)
def test_a_bad_failpoint_is_one_line_and_exit_code_2(text, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(FAILPOINT, text)
    words = ["agent", "--cluster", "none", "--id", "a0", "--keys", "none"]
    assert cli.run([*words, "--data-dir", str(tmp_path / "data")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"candor: error: {FAILPOINT}={text}: ")
    assert told.count("\n") == 1


def test_a_marker_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=TRACE_MARKERS):
        Probe.from_environment({TRACE_MARKERS: str(tmp_path / "no" / "file")})


def test_a_marker_is_written_for_what_binds_the_sender_only(tmp_path):
    path = tmp_path / "markers"
    probe = Probe.from_environment({TRACE_MARKERS: str(path)})
    probe.before_send(Envelope(Kind.UPDATE, b"", []))
    probe.before_send(PROPOSE)
    assert path.read_text() == "PROPOSE 0102\n"
