"""What a fault plan has done to the processes of a testbed, and not undone."""

import resource
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from candor.agent.testbed.fault_file import HALF
from candor.agent.testbed.faults import Fault
from candor.agent.testbed.nursery import NurseryChild

Process: TypeAlias = "subprocess.Popen[bytes] | NurseryChild"

FILLS: Final = hasattr(resource, "prlimit")  # whether disks can be filled: Linux has it
LAST_WORDS_BYTES: Final = 2048
"""What a daemon on a full disk may still write to standard error; no commit fits into it."""
_DEAD: Final = "did not run"
_ALIVE: Final = "had gone on before"
_ANEW: Final = "started again"
_ROOM: Final = "with room on its disk again"
STARTED: Final = (_ANEW, f"{_ROOM}, {_ANEW}")
"""What is said of an agent that is to be started anew."""


@dataclass(slots=True)
class Pace:
    """How a slow agent runs: a share `speed` of the turns, evenly."""

    speed: float
    saved: float = 0.0

    def turn(self) -> bool:
        """Whether it runs in the next turn."""
        self.saved += self.speed
        runs = self.saved > 1 - 1e-9  # ten tenths are not quite one
        self.saved -= runs
        return runs


@dataclass(slots=True)
class Holds:
    """The agents that are held in some way: `killed`, `stopped`, `filled` without room on their
    disk, `freed` with room again in the same life, and how the `slowed` ones run."""

    killed: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    filled: set[str] = field(default_factory=set)
    freed: set[str] = field(default_factory=set)
    slowed: dict[str, Pace] = field(default_factory=dict)

    @property
    def held(self) -> set[str]:
        """Those that the plan keeps from going on."""
        return self.killed | self.stopped | self.filled

    @property
    def idle(self) -> set[str]:
        """Those whose process may live, and does nothing: stopped, or waiting for room."""
        return self.stopped | self.filled

    def forget(self, agent: str) -> None:
        """What was done to a process is not of its next one."""
        for those in (self.killed, self.stopped, self.filled, self.freed):
            those.discard(agent)
        self.slowed.pop(agent, None)

    def turn(self, processes: Mapping[str, Process], seconds: float) -> list[Fault]:
        """Let the slow ones run or not, and ask for what is to follow: who stopped for want of room
        after there was some again is started, too."""
        for agent, pace in self.slowed.items():
            processes[agent].send_signal(signal.SIGCONT if pace.turn() else signal.SIGSTOP)
        late = [agent for agent in self.freed if processes[agent].poll()]
        self.freed -= set(late)
        return [Fault("restart", (agent,), None, seconds) for agent in late]

    def perform(self, fault: Fault, agent: str, process: Process, stderr: Path) -> str:
        """Do to an agent what an event says, or undo it at its end unless another one has; answers
        with what was done. Whoever starts processes starts it anew if that is one of `STARTED`."""
        lives = process.poll() is None
        match fault.action, fault.of and fault.of.action:
            case "restart", _:
                return _ANEW
            case "kill", _:
                self.forget(agent)
                self.killed.add(agent)
                process.kill()
                process.wait()
                return "killed" if lives else _DEAD
            case _, "kill":
                return _ANEW if agent in self.killed else _ALIVE
            case ("disk_free", _) | (_, "disk_full"):
                return self._free(agent, process)
            case "continue", _:
                return self._continue(agent, process)
            case _, "stop":
                return self._continue(agent, process) if agent in self.stopped else _ALIVE
            case _, "slow":
                return self._continue(agent, process) if agent in self.slowed else _ALIVE
            case _ if not lives:
                return _DEAD
            case "stop", _:
                process.send_signal(signal.SIGSTOP)
                self.slowed.pop(agent, None)
                self.stopped.add(agent)
                return "stopped"
            case "slow", _:
                process.send_signal(signal.SIGCONT)
                self.stopped.discard(agent)
                self.slowed[agent] = Pace(fault.amount or HALF)
                return f"slowed to {self.slowed[agent].speed:.0%} of the time"
            case _:  # disk_full
                _limit_files(process.pid, stderr.stat().st_size)
                self.filled.add(agent)
                return "without room on its disk"

    def _continue(self, agent: str, process: Process) -> str:
        process.send_signal(signal.SIGCONT)
        self.stopped.discard(agent)
        self.slowed.pop(agent, None)
        return "let go on"

    def _free(self, agent: str, process: Process) -> str:
        if agent not in self.filled:
            return "had room before"
        if process.poll() is not None:
            return f"{_ROOM}, {_ANEW}"
        _limit_files(process.pid, None)
        self.filled.discard(agent)
        self.freed.add(agent)
        return _ROOM


def _limit_files(pid: int, stderr_bytes: int | None) -> None:
    """Let no file of a process grow beyond a few words more than it has written to standard error,
    or any, for None."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    soft = hard if stderr_bytes is None else stderr_bytes + LAST_WORDS_BYTES
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
