"""SIGHUP, and what a daemon leaves in its logs."""

import json
import os
import signal
from pathlib import Path

import pytest

from candor.agent.daemon import keys
from candor.agent.testbed.nursery import Nursery
from candor.agent.testbed.testbed import free_ports
from tests.e2e.test_revisions import candor
from tests.paced import until

pytestmark = pytest.mark.e2e
AGENTS = ("alice", "bob")


def test_a_hangup_opens_the_log_anew_and_ends_nothing(nursery: Nursery, tmp_path: Path) -> None:
    """Alice waits for bob, who never comes; her log is moved away, then she is stopped."""
    ports = dict(zip(AGENTS, free_ports(2), strict=True))
    for agent in AGENTS:
        keys.generate(tmp_path / agent)
    members = [f"{a}={tmp_path / a}@tcp://127.0.0.1:{port}" for a, port in ports.items()]
    named = [word for member in members for word in ("--agent", member)]
    file, data, log = tmp_path / "cluster.toml", tmp_path / "data", tmp_path / "alice.log"
    candor(
        "cluster", "new", *named, "--topology", "path", "--task", "digits", "--run-id", "r",
        "--start-deadline-s", "300", "-o", file,
    )  # fmt: skip
    words = ["agent", "--cluster", file, "--id", "alice", "--keys", tmp_path / "alice"]
    words += ["--data-dir", data, "--threads", "1", "--log-file", log, "--log-format", "json"]
    with (tmp_path / "stderr").open("wb") as errors:
        daemon = nursery.start([*map(str, words)], errors.fileno(), {})
    try:
        until(lambda: log.exists() and '"started"' in log.read_text(), 120)
        os.rename(log, tmp_path / "older.log")
        daemon.send_signal(signal.SIGHUP)
        until(lambda: log.exists() and '"log_reopened"' in log.read_text(), 60)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 130
    finally:
        daemon.kill()
    assert (data / "ledger" / "alice-bob.jsonl").exists()
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["event"] for one in told] == ["log_reopened", "interrupted", "ended"]
    assert {one["agent"] for one in told} == {"alice"}
    assert not (data / "log.jsonl").exists()
    *lines, last = (tmp_path / "stderr").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines][-2:] == ["interrupted", "ended"]
    assert last.startswith("candor: alice: stopped before")
    written = log.read_text() + (tmp_path / "older.log").read_text() + "".join(lines)
    for secret in ("identity.key", "curve.key"):
        assert (tmp_path / "alice" / secret).read_text().strip() not in written
