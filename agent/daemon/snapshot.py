"""The window under way in a file, for an agent that is killed in it.

The file says when, as which file and since which start of the machine it was written. Where all of
that is still so, nothing was written after it: a process that dies loses no write, and a copy that
was put back is another file, or its metadata have changed since. Where the machine went down the
last write may be lost, unless the file promises that every later one was synced before anything
was sent: it does where a sync costs little of a round. Where neither holds, or a backup was
restored, what the agent has stated since is not known from here.
"""

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import blake3

from candor.topologies.specs.files import replacing

FILE_NAME: Final = "window.bin"
_MAGIC: Final = b"candor/window/2\n"
_MAGIC_1: Final = b"candor/window/1\n"  # of an earlier version
_HEADER_1_BYTES: Final = 80
# magic, machine's start, inode, time in ns, digest, whether later ones are synced
_HEADER: Final = struct.Struct("<16s16sQQ32s?")
# Syncs take this share of the time at most; where they would take more, none is made for a while.
_SYNC_MAX: Final = 1 / 50
_UNSYNCED_S: Final = 30.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
WRITTEN_S: Final = 1.0
"""From the time in the file to that of its last change: what a loaded machine takes to write it,
less than a backup takes to be made and put back."""


@dataclass(frozen=True, slots=True)
class Left:
    """What an earlier life left of its last window, None where there is nothing; whether that is
    the `newest`, for sure; and what is wrong with the file, if anything."""

    data: bytes | None = None
    newest: bool = False
    damage: str | None = None


class SnapshotFile:
    """DATA_DIR/window.bin: replaced before every statement; synced where that costs little, as the
    `clock` (s) tells."""

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = data_dir / FILE_NAME
        self._boot = _boot_id()
        self._clock = clock
        self._promises = False  # the file that is there says that this one is synced
        self._sync_due_s = float("-inf")
        self._last_s: float | None = None

    def read(self) -> Left:
        """What an earlier life left. A file that is empty or zeros, as when the machine went down
        before it reached the disk, is none; so is a damaged one, which is told."""
        if not self._path.exists():
            return Left()
        with self._path.open("rb") as file:
            data, about = file.read(), os.fstat(file.fileno())
        if not data.strip(b"\0"):
            return Left()
        if not data.startswith(_MAGIC):  # of an earlier version
            return Left(data[_HEADER_1_BYTES * data.startswith(_MAGIC_1) :])
        if len(data) < _HEADER.size:
            return Left(damage=f"{self._path}: cut short")
        _, boot, inode, written_ns, digest, promises = _HEADER.unpack_from(data)
        snapshot = data[_HEADER.size :]
        if blake3.blake3(snapshot).digest() != digest:
            return Left(damage=f"{self._path}: damaged, its digest is another")
        last = promises or boot == self._boot != bytes(16)
        same = inode == about.st_ino and abs(about.st_ctime_ns - written_ns) < WRITTEN_S * 1e9
        return Left(snapshot, newest=last and same)

    def replace(self, snapshot: bytes) -> None:
        """Replace it: the rename is atomic, and a process that dies loses nothing. After a file
        that promised so this one is synced, whatever it costs; it promises the same of the next if
        that was not too much."""
        began_s = self._clock()
        promises = began_s >= self._sync_due_s
        self._write(snapshot, promises=promises, synced=promises or self._promises)
        self._promises = promises
        took_s, last_s = self._clock() - began_s, self._last_s
        self._last_s = began_s
        if promises and last_s is not None and took_s > _SYNC_MAX * (began_s - last_s):
            self._sync_due_s = began_s + _UNSYNCED_S

    def _write(self, snapshot: bytes, *, promises: bool, synced: bool) -> None:
        digest = blake3.blake3(snapshot).digest()
        with replacing(self._path, durable=synced) as draft, open(draft, "wb") as file:
            inode = os.fstat(file.fileno()).st_ino
            header = _HEADER.pack(_MAGIC, self._boot, inode, time.time_ns(), digest, promises)
            file.write(header + snapshot)


def _boot_id() -> bytes:
    """Which start of the machine this is (16 bytes); zeros where the system does not tell."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text(encoding="ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
