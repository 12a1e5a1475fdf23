"""On the wire only after on the disk: the system calls of a real daemon, as strace saw them.

What is sent is encrypted, so the daemon writes a marker with the signature that it hands to the
transport (`agent.daemon.failpoints`). That same signature must have been written to the database's
write-ahead log, and an fsync of that log begun later must have returned, before the marker.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import pytest

from candor.agent.cli import main as cli
from candor.agent.testbed.testbed import free_ports

AGENTS = 3
ROUNDS = 24
RUN_S = 240
pytestmark = pytest.mark.e2e
SYSCALLS = "write,pwrite64,fsync,fdatasync"
PAGE_TOLD = 8192  # of a write: more than a page of the database
SIGNATURE_TOLD = 64  # hex digits looked for: half a signature, the rest may lie on the next page

LINE = re.compile(r"^(?P<tid>\d+) +(?P<rest>.*)$")
CALL = re.compile(r"^(?P<name>\w+)\(\d+<(?P<path>[^>]*)>(?:, \"(?P<data>[^\"]*)\")?")
RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>")


@dataclass
class Call:
    """A system call on a file: `began` and `ended` are line numbers of the trace."""

    name: str
    path: str
    data: bytes
    began: int
    ended: int = 0


def calls_of(lines):
    """The calls that succeeded, by their end; with several threads a call may take two lines."""
    open_, done = {}, []
    for number, line in enumerate(lines):
        matched = LINE.match(line)
        if matched is None:
            continue
        tid, rest = matched["tid"], matched["rest"]
        if RESUMED.match(rest):
            call = open_.pop(tid, None)
        else:
            found = CALL.match(rest)
            if found is None:
                continue
            path, data = (_unescaped(found[part] or "") for part in ("path", "data"))
            call = Call(found["name"], path.decode(), data, number)
            if rest.endswith("<unfinished ...>"):
                open_[tid] = call
                continue
        if call is not None and " = -1 " not in rest:
            call.ended = number
            done.append(call)
    return done


def _unescaped(text):
    """What -xx told in hex; strace versions differ in whether paths are told so too."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


def check(calls, markers):
    """Messages by kind whose signature was durable first, and those whose was not."""
    wal = [call for call in calls if call.path.endswith("ledger.sqlite-wal")]
    writes = [call for call in wal if call.name in ("write", "pwrite64")]
    syncs = [call for call in wal if call.name in ("fsync", "fdatasync")]
    kept, broken = Counter(), []
    for marker in (call for call in calls if call.path == markers):
        kind, _, signature = marker.data.decode().strip().partition(" ")
        if kind not in ("PROPOSE", "ACCEPT"):
            continue
        told = bytes.fromhex(signature[:SIGNATURE_TOLD])
        written = next((w for w in writes if told in w.data), None)
        if written is not None and any(
            written.ended < sync.began and sync.ended < marker.began for sync in syncs
        ):
            kept[kind] += 1
        else:
            broken.append((kind, signature[:16], marker.began))
    return kept, broken


def run_traced(folder):
    """A short run of three daemons, the first under strace; its trace and its marker file."""
    ids = [f"a{i}" for i in range(AGENTS)]
    words = ["cluster", "new", "--topology=ring", "--task=digits", "--run-id=traced"]
    words += [f"--rounds={ROUNDS}", "--window=4", "--local-steps=1", "--deadline-s=30"]
    words += ["-o", str(folder / "cluster.toml")]
    for agent, port in zip(ids, free_ports(AGENTS), strict=True):
        assert cli.run(["keygen", str(folder / "keys" / agent)]) == 0
        words += ["--agent", f"{agent}={folder / 'keys' / agent}@tcp://127.0.0.1:{port}"]
    assert cli.run(words) == 0
    markers, trace = folder / "markers", folder / "trace.txt"
    strace = ["strace", "-f", "-y", "-xx", "-s", str(PAGE_TOLD), "-e", f"trace={SYSCALLS}"]
    strace += ["-o", str(trace)]
    processes = []
    try:
        for agent in ids:
            words = [sys.executable, "-P", "-m", "candor", "agent", "--id", agent, "--threads=1"]
            words += ["--cluster", str(folder / "cluster.toml"), "--evaluate-every=0"]
            words += ["--keys", str(folder / "keys" / agent), "--log-level=error"]
            words += ["--data-dir", str(folder / "agents" / agent)]
            traced = agent == ids[0]
            environment = {"CANDOR_TRACE_MARKERS": str(markers)} if traced else {}
            processes.append(
                subprocess.Popen(
                    [*strace, *words] if traced else words,
                    env={**os.environ, **environment},
                    stderr=subprocess.DEVNULL,
                )
            )
        assert [process.wait(RUN_S) for process in processes] == [0] * AGENTS
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return trace.read_text(encoding="ascii").splitlines(), str(markers)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: the order of syncs and sends was not checked")
    probe = subprocess.run(["strace", "-f", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip().splitlines()[-1]}")
    lines, markers = run_traced(tmp_path_factory.mktemp("traced"))
    return calls_of(lines), markers


def test_every_proposal_and_acceptance_is_durable_before_it_is_sent(traced):
    calls, markers = traced
    kept, broken = check(calls, markers)
    print(json.dumps({"kept": kept, "broken": broken}))
    assert not broken
    # Genesis and 6 windows on two edges, each proposed or accepted here.
    assert kept.total() >= 2 * (ROUNDS // 4 + 1)
    assert min(kept["PROPOSE"], kept["ACCEPT"]) >= 4


def test_the_check_sees_a_send_that_no_sync_came_before(traced):
    calls, markers = traced
    kept, broken = check([call for call in calls if "sync" not in call.name], markers)
    assert not kept
    assert broken
