"""Reading the files of data sets: idx, libsvm and numpy archives, each as plain arrays.

These are hand-sized readers: the library that reads libsvm costs each daemon 1.3 s of a core to
import. What a file holds is checked to be whole and of its format, not what it means.
"""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from candor.topologies.specs.files import open_regular
from candor.topologies.specs.specs import ConfigurationError

DEFAULT_ROOT: Final = Path("data")
IDX_BYTES: Final = 0x0800  # the magic number of unsigned bytes, less the number of dimensions

_DAMAGE: Final = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    zipfile.BadZipFile,
    struct.error,
    LookupError,
    ValueError,
    NotImplementedError,
)


def data_file(data_root: Path | None, *names: str) -> Path:
    """Where a file of a data set is looked for: under `data` here, unless told otherwise."""
    return (DEFAULT_ROOT if data_root is None else data_root).joinpath(*names)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes in LeCun's idx format, gzipped.

    Raises:
        ConfigurationError: unreadable, damaged, or not of this many dimensions.
    """
    with _opened(path) as file, gzip.open(file) as unpacked:
        head = unpacked.read(4 + 4 * dimensions)
        magic, *shape = struct.unpack(f">{1 + dimensions}I", head)
        if magic != IDX_BYTES + dimensions:
            raise ValueError(f"no idx file of bytes in {dimensions} dimensions")
        data = bytearray(unpacked.read())  # not bytes: torch takes no read-only memory
        return np.frombuffer(data, np.uint8).reshape(shape)


def read_libsvm(path: Path, features: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of `label index:value …`, gzipped, indices from 1 to `features`; absent means 0.

    Returns:
        Values (samples, features) and labels, whole numbers (samples,).

    Raises:
        ConfigurationError: unreadable, damaged, or a row that is not of this form.
    """
    with _opened(path) as file, gzip.open(file) as unpacked:
        rows = unpacked.read().decode("ascii").splitlines()
        values = np.zeros((len(rows), features), np.float32)
        labels = np.zeros(len(rows), np.int64)
        for number, row in enumerate(rows):
            label, *pairs = row.split()
            labels[number] = int(label)
            for pair in pairs:
                index, value = pair.split(":")
                if not 1 <= int(index) <= features:
                    raise ValueError(f"row {number + 1} has a feature {index} of {features}")
                values[number, int(index) - 1] = float(value)
            if not np.isfinite(values[number]).all():
                raise ValueError(f"row {number + 1} has a value that is not a finite number")
        return values, labels


def read_npz(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays of these names in a numpy archive; nothing pickled is loaded.

    Raises:
        ConfigurationError: unreadable, damaged, or one of them is missing.
    """
    with _opened(path) as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("no archive of arrays")
        return [archive[name] for name in names]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read; whatever goes wrong meanwhile becomes one line that names it."""
    try:
        with open_regular(path) as file:
            yield file
    except _DAMAGE as exc:
        raise ConfigurationError(
            f"{path}: is damaged, or not what its name says ({_words(exc)})"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(
            f"{path}: cannot read the data: {exc.strerror or _words(exc)}; say where the data "
            "sets lie with --data-root or $CANDOR_DATA_ROOT"
        ) from exc


def _words(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
