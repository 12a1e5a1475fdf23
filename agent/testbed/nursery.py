"""Where the daemons of a testbed come from: a process that has imported what they need, and forks.

A fresh interpreter spends two seconds of processor time on importing torch; a fork has it at once,
and shares its memory. It is a process as any other: with an id, a session, files and signals of its
own. The nursery only imports and forks. It has one thread, and calls nothing of torch, so that no
lock and no pool of threads is left half way in a child.

The testbed is at one end of a socket of packets, the nursery at the other:

    testbed   command line, further environment; beside it the open file for standard error
    nursery   pid            of the child just made
    nursery   pid, code      when a child has ended; signals are negative

The nursery ends with the testbed, whatever ends that, and the daemons, its children, end with it.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import numpy

from candor.agent.exits import RunFailed

FORKS: Final = sys.platform == "linux"  # elsewhere system libraries may not outlast a fork
_PACKET_BYTES_MAX: Final = 2**17  # a socket's buffer takes more, a command line is of some 2**10
# The nursery's program. Places of modules have their order before anything else is imported.
_SERVE: Final = """
from candor.__main__ import main, order_places
order_places()
import candor.agent.cli.agent, candor.agent.daemon.host  # and so torch
from candor.agent.testbed.nursery import serve
serve(main)
"""
# numpy's library would start threads when it is imported. All agents share this machine's cores.
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1"}


class Nursery:
    """The testbed's end: starts daemons, and hears of their ends. Used by one thread."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codes: dict[int, int] = {}
        self._gone = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**_ONE_THREAD, **os.environ},
                start_new_session=True,
            )

    def start(
        self, words: Sequence[str], errors: int, environment: Mapping[str, str]
    ) -> "NurseryChild":
        """Run `candor WORDS` in a process of its own, whose standard error is the open file.

        Raises:
            RunFailed: the nursery has ended.
        """
        request = json.dumps([words, dict(environment)]).encode()
        with suppress(BrokenPipeError):
            socket.send_fds(self._channel, [request], [errors])
        while not self._gone:
            if len(told := self._hear()) == 1:
                return NurseryChild(self, told[0])
        raise RunFailed("the process that starts the daemons has ended")

    def code(self, pid: int, timeout_s: float | None) -> int | None:
        """The exit code of a child once it has ended, None if it has not within `timeout_s`."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while pid not in self._codes and not self._gone:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not select.select([self._channel], [], [], left_s)[0]:
                return None
            self._hear()
        return self._codes.pop(pid, -signal.SIGKILL)

    def close(self) -> None:
        """End the nursery, and with it what it has started."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _hear(self) -> list[int]:
        """The next packet; an empty one when the nursery has ended."""
        told: list[int] = []
        with suppress(ConnectionResetError):
            packet = self._channel.recv(_PACKET_BYTES_MAX)
            told = json.loads(packet) if packet else []
        match told:
            case [pid, code]:
                self._codes[pid] = code
            case []:
                self._gone = True
        return told


class NurseryChild:
    """A process that the nursery has made, with the methods of `subprocess.Popen`.

    No signal is sent to a process of which the nursery has told the end. Between an end and its
    being read, here as in the standard library's forkserver, an id would have to come round.
    """

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """The exit code, None as long as it lives."""
        if self.returncode is None:
            self.returncode = self._nursery.code(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not within `timeout` seconds.
        """
        if self.returncode is None:
            self.returncode = self._nursery.code(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def serve(candor: Callable[[], NoReturn]) -> None:
    """The nursery: fork whenever the testbed asks, until it is gone; in a child, be the command."""
    gc.freeze()  # a collection in a child would touch, and so copy, what it shares
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, lambda *_: _tell_ends(channel))
    with suppress(ConnectionError):
        while (asked := socket.recv_fds(channel, _PACKET_BYTES_MAX, 1))[0]:
            (words, environment), (errors,) = json.loads(asked[0]), asked[1]
            if (pid := os.fork()) == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                channel.close()
                _settle(words, environment, errors)
                candor()
            os.close(errors)
            channel.send(json.dumps([pid]).encode())


def _tell_ends(channel: socket.socket) -> None:
    with suppress(ChildProcessError, ConnectionError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            told = [ended[0], os.waitstatus_to_exitcode(ended[1])]
            channel.send(json.dumps(told).encode())


def _settle(words: list[str], environment: dict[str, str], errors: int) -> None:
    """Give a child what a fresh interpreter has of its own."""
    os.setsid()
    os.dup2(errors, sys.stderr.fileno())
    os.close(errors)
    os.environ.update(environment)
    numpy.random.seed()  # of the users' loops; Python's own does so by itself
    name = words[words.index("--id") + 1] if "--id" in words else ""
    Path("/proc/self/comm").write_text(f"candor {name}", encoding="utf-8")  # for `ps` and `top`
    sys.argv = ["candor", *words]
