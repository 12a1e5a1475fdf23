"""Failpoints of the daemon: where a test makes it die, and where it tells a trace what it sends.

    CANDOR_FAILPOINT=NAME[:N]    SIGKILL itself the N-th time it reaches NAME (N from 1, default 1)
    CANDOR_TRACE_MARKERS=PATH    before each message about money goes to the transport, write the
                                 line "KIND SIGNATURE" to PATH (a file, a named pipe, /dev/null)

Both are for tests of what a crash leaves behind: nothing is flushed, closed or said. SIGKILL ends
the process as a crash of it would; a crash of the machine is what the trace is for, which shows
each sync before the send that depends on it. Without these variables there is no `Probe` at all.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final, Self

from candor.network.wire import Envelope
from candor.topologies.specs.files import system_errors
from candor.topologies.specs.specs import ConfigurationError

FAILPOINT: Final = "CANDOR_FAILPOINT"
TRACE_MARKERS: Final = "CANDOR_TRACE_MARKERS"

BEFORE_PERSIST: Final = "before-persist"
AFTER_PERSIST: Final = "after-persist"  # durable, before what depends on it is sent
BEFORE_SEND: Final = "before-send"
AFTER_SEND: Final = "after-send"  # handed to the transport: on its way or not
BEFORE_SNAPSHOT: Final = "before-snapshot"
AFTER_SNAPSHOT: Final = "after-snapshot"
NAMES: Final = (
    BEFORE_PERSIST,
    AFTER_PERSIST,
    BEFORE_SEND,
    AFTER_SEND,
    BEFORE_SNAPSHOT,
    AFTER_SNAPSHOT,
)

# By name: the messages that bind the sender, each persisted before it is sent.
BINDING_KINDS: Final = frozenset({"CLAIM", "BILL", "PROPOSE", "ACCEPT"})


class Probe:
    """Counts how often one failpoint is reached, and writes markers to an open descriptor."""

    def __init__(self, name: str | None, count: int, markers: int | None) -> None:
        self._name = name
        self._left = count
        self._markers = markers

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """What the environment asks for, None when it asks for nothing.

        Raises:
            ConfigurationError: an unknown name, a bad count, or a path that cannot be written.
        """
        text, path = environment.get(FAILPOINT), environment.get(TRACE_MARKERS)
        if not text and not path:
            return None
        name, count = _parse(text) if text else (None, 1)
        return cls(name, count, _open(path) if path else None)

    def reached(self, name: str) -> None:
        """A failpoint: returns, or ends the process here."""
        if name != self._name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_send(self, envelope: Envelope) -> None:
        """A message is about to be handed to the transport."""
        if envelope.kind.name not in BINDING_KINDS:
            return
        if self._markers is not None:
            signature = envelope.fields[-1]
            told = signature.hex() if isinstance(signature, bytes) else ""
            os.write(self._markers, f"{envelope.kind.name} {told[:128]}\n".encode())
        self.reached(BEFORE_SEND)

    def after_send(self, envelope: Envelope) -> None:
        """The transport has it."""
        if envelope.kind.name in BINDING_KINDS:
            self.reached(AFTER_SEND)


def _parse(text: str) -> tuple[str, int]:
    name, _, number = text.partition(":")
    if name not in NAMES:
        raise ConfigurationError(
            f"{FAILPOINT}={text}: no such failpoint; one of {', '.join(NAMES)}"
        )
    if ":" not in text:
        return name, 1
    if not (number.isascii() and number.isdigit() and int(number[:9]) > 0 and len(number) < 10):
        raise ConfigurationError(f"{FAILPOINT}={text}: write NAME:N with N from 1")
    return name, int(number)


def _open(path: str) -> int:
    with system_errors(f"{TRACE_MARKERS}={path}"):
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
