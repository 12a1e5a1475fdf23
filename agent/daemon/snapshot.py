"""The window under way in a file, for the claim of an agent that is killed in it."""

from pathlib import Path
from typing import Final

from candor.topologies.specs.files import replace_file

FILE_NAME: Final = "window.bin"


class SnapshotFile:
    """DATA_DIR/window.bin: replaced before every statement, without a sync, since it need not
    outlive the machine."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME

    def read(self) -> bytes | None:
        """What an earlier life left of its last window; None for a new directory, or when the
        machine went down before the file reached the disk, which leaves it empty or zeros."""
        data = self._path.read_bytes() if self._path.exists() else b""
        return data if data.strip(b"\0") else None

    def replace(self, snapshot: bytes) -> None:
        """Replace it: the rename is atomic, and a process that dies loses nothing."""
        replace_file(self._path, snapshot)
