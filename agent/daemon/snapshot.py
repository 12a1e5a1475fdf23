"""The window under way in a file, for an agent that is killed in it.

The file says when, as which file and since which start of the machine it was written. Where all of
that is still so, nothing was written after it: a process that dies loses no write, and a copy that
was put back is another file, or its metadata have changed since. Where not, the machine went down
and the last write may be lost, or a backup was restored: then what the agent has stated since is
not known from here.
"""

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import blake3

from candor.topologies.specs.files import replacing

FILE_NAME: Final = "window.bin"
_MAGIC: Final = b"candor/window/1\n"
_HEADER: Final = struct.Struct("<16s16sQQ32s")  # magic, machine's start, inode, time in ns, digest
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
    """DATA_DIR/window.bin: replaced before every statement, without a sync."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._boot = _boot_id()

    def read(self) -> Left:
        """What an earlier life left. A file that is empty or zeros, as when the machine went down
        before it reached the disk, is none; so is a damaged one, which is told."""
        if not self._path.exists():
            return Left()
        with self._path.open("rb") as file:
            data, about = file.read(), os.fstat(file.fileno())
        if not data.strip(b"\0"):
            return Left()
        if not data.startswith(_MAGIC):
            return Left(data)  # of an earlier version
        if len(data) < _HEADER.size:
            return Left(damage=f"{self._path}: cut short")
        _, boot, inode, written_ns, digest = _HEADER.unpack_from(data)
        snapshot = data[_HEADER.size :]
        if blake3.blake3(snapshot).digest() != digest:
            return Left(damage=f"{self._path}: damaged, its digest is another")
        same = boot == self._boot != bytes(16) and inode == about.st_ino
        return Left(snapshot, same and abs(about.st_ctime_ns - written_ns) < WRITTEN_S * 1e9)

    def replace(self, snapshot: bytes) -> None:
        """Replace it: the rename is atomic, and a process that dies loses nothing."""
        digest = blake3.blake3(snapshot).digest()
        with replacing(self._path) as draft, open(draft, "wb") as file:
            inode = os.fstat(file.fileno()).st_ino
            header = _HEADER.pack(_MAGIC, self._boot, inode, time.time_ns(), digest)
            file.write(header + snapshot)


def _boot_id() -> bytes:
    """Which start of the machine this is (16 bytes); zeros where the system does not tell."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text(encoding="ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
