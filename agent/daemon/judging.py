"""Rounds that neighbours have shown, done again by a process beside the daemon.

By the very command that anyone gives who has the file: `candor evidence verify`. It has one thread
and a low priority, and is over or ended after `JUDGING_S`, whatever a neighbour shows; it
shares nothing with the training, least of all random numbers. What has come meanwhile is judged
together, as most of its time is the start of a process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from candor.agent.daemon.exports import CLUSTER_NAME, EVIDENCE_NAME
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import FALSE_REPORT, Shown, ShownRound
from candor.mechanisms.evidence.statements import Head
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.files import replace_file

JUDGING_S: Final = 600.0
WAITING_NAME: Final = "judging"  # in DATA_DIR/replay
NICENESS: Final = 5  # at 19 it would never be done on a host that is busy
_TOLD: Final = {told.name.lower(): told for told in Told}
_SILENT: Final = {"reason": f"it could not be judged here, or not in {JUDGING_S:g} s"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a shown round tells, None where it was not judged, and the heads of its agent's
    statements in it."""

    told: Told | None
    why: str
    heads: tuple[Head, ...] = ()


class Judging:
    """Judges for the daemon of a data directory, whose own data sets lie in `data_root`, and whose
    saved start is `initial`, if these are given. One call at a time; `stop` may be called
    meanwhile."""

    def __init__(
        self, data_dir: Path, sketch_bytes: int, data_root: Path | None, initial: Path | None
    ) -> None:
        self._data_dir, self._sketch_bytes = data_dir, sketch_bytes
        self._waiting = data_dir / "replay" / WAITING_NAME
        given = {"--data-root": data_root, "--initial": initial}
        self._words = [str(w) for name, one in given.items() if one for w in (name, one)]
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def judged(self, shown: Sequence[ShownRound]) -> list[Verdict]:
        """What each tells. The file of a false one is then in DATA_DIR/evidence.

        Raises:
            OSError: it cannot be written.
        """
        self._waiting.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = [self._waiting / f"{number}.proof" for number in range(len(shown))]
        for file, one in zip(files, shown, strict=True):
            replace_file(file, one.encode())
        try:
            rows = self._asked(files)
            if rows is None and len(files) > 1:  # one of them spoils it for the others
                rows = [row for file in files for row in self._asked([file]) or [_SILENT]]
            rows = rows or [_SILENT for _ in files]
            return [
                self._verdict(file, one, row)
                for file, one, row in zip(files, shown, rows, strict=True)
            ]
        finally:
            for file in files:
                file.unlink(missing_ok=True)

    def stop(self) -> None:
        """End what is under way."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _asked(self, files: Sequence[Path]) -> list[dict[str, Any]] | None:
        """What `candor evidence verify` says of each; None where it says nothing."""
        command = [sys.executable, "-P", "-m", "candor", "evidence", "verify", *map(str, files)]
        command += ["--cluster", str(self._data_dir / CLUSTER_NAME), "--json", *self._words]
        if self._stopped:
            return None
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as self._process:
            with suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
            try:
                answer, _ = self._process.communicate(timeout=JUDGING_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return None
        with suppress(ValueError, KeyError, TypeError):
            rows = json.loads(answer)["files"]
            if len(rows) == len(files):
                return list(rows)
        return None

    def _verdict(self, file: Path, shown: ShownRound, row: dict[str, Any]) -> Verdict:
        told, why = _TOLD.get(row.get("told", "")), str(row.get("reason") or row.get("verdict"))
        if told is Told.FALSE:
            evidence = self._data_dir / EVIDENCE_NAME
            evidence.mkdir(parents=True, exist_ok=True)
            kept = evidence / f"{FALSE_REPORT}-{shown.agent}.proof"
            replace_file(kept, file.read_bytes(), durable=True)
        return Verdict(told, why, heads_in(shown, self._sketch_bytes))


def heads_in(shown: ShownRound, sketch_bytes: int) -> tuple[Head, ...]:
    """The heads of its agent's statements in a shown round, whose signatures nobody has checked."""
    try:
        held = Shown.decode(shown.shown, sketch_bytes=sketch_bytes)
    except MalformedError:
        return ()
    parts = [part for each in held.round.exchanges for part in each.parts]
    return tuple(p.statement.head for p in parts if p.statement.statement.agent == shown.agent)
