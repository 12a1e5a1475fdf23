"""Reading the files of data sets: idx, libsvm, records, numpy archives, and lines of text.

These are hand-sized readers: the library that reads libsvm costs each daemon 1.3 s of a core to
import. What a file holds is checked to be whole and of its format, not what it means.
"""

import gzip
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from candor.topologies.specs.files import open_regular
from candor.topologies.specs.specs import ConfigurationError, Spec

DEFAULT_ROOT: Final = Path("data")
GZIP_MAGIC: Final = b"\x1f\x8b"
IDX_BYTES: Final = 0x0800  # the magic number of unsigned bytes, less the number of dimensions

_DAMAGE: Final = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    zipfile.BadZipFile,
    struct.error,
    LookupError,
    ValueError,
    RuntimeError,  # an archive under a password, or packed in an unknown way
    MemoryError,  # a header that claims more than there is
    SyntaxError,  # in the header of an entry, as the next
    tokenize.TokenError,
    TypeError,
    OverflowError,
)
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


def data_file(data_root: Path | None, *names: str) -> Path:
    """Where a file of a data set is looked for: under `data` here, unless told otherwise."""
    return (DEFAULT_ROOT if data_root is None else data_root).joinpath(*names)


def name_in_data_root(spec: Spec, name: str, data_root: Path | None, *folders: str) -> Path:
    """The file that the option `file=` of a task names, in the data root or a folder of it.

    Raises:
        ConfigurationError: it is a path, and a cluster file, which another may have written, names
            none.
    """
    if Path(name).name != name:
        raise ConfigurationError(f"task {spec.name}: file={name} is not a name in the data root")
    return data_file(data_root, *folders, name)


def bundled_file(name: str) -> Path | None:
    """A data set of scikit-learn's, where it lies; None should it have moved.

    Importing a loader costs 1.3 s of a core, and each daemon of a testbed would spend it.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    found = (Path(folder) / "datasets" / "data" / name for folder in folders or ())
    return next((file for file in found if file.is_file()), None)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes in LeCun's idx format, gzipped.

    Raises:
        ConfigurationError: unreadable, damaged, or not of this many dimensions.
    """
    with _opened(path) as file, gzip.open(file) as unpacked:
        head = unpacked.read(4 + 4 * dimensions)
        if head[:4] != struct.pack(">I", IDX_BYTES + dimensions):
            raise ValueError(f"no idx file of bytes in {dimensions} dimensions")
        if len(head) < 4 + 4 * dimensions:
            raise ValueError("it ends within its header")
        shape = struct.unpack_from(f">{dimensions}I", head, 4)
        size = math.prod(shape)
        data = bytearray(unpacked.read(size + 1))  # not bytes: torch takes no read-only memory
        if len(data) != size:
            told = " x ".join(map(str, shape))
            there = len(data) if len(data) < size else "more"
            raise ValueError(f"its header says {told} bytes, and {there} follow")
        return np.frombuffer(data, np.uint8).reshape(shape)


def read_records(path: Path, size: int) -> NDArray[np.uint8]:
    """Records of `size` bytes one after the other, (records, size).

    Raises:
        ConfigurationError: unreadable, or not a whole number of them above 0.
    """
    with _opened(path) as file:
        data = bytearray(file.read())
        if not data or len(data) % size:
            raise ValueError(f"{len(data)} bytes are no whole number of records of {size} each")
        return np.frombuffer(data, np.uint8).reshape(-1, size)


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, gzipped or not.

    Raises:
        ConfigurationError: unreadable, damaged or in another encoding.
    """
    with _opened(path) as file:
        data = file.read()
        if data.startswith(GZIP_MAGIC):
            data = gzip.decompress(data)
        # Not splitlines(), which knows more ends of lines than files have.
        return [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]


def read_libsvm(
    path: Path, features: int, classes: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of `label index:value …`, gzipped, indices from 1 to `features`; absent means 0. Blank
    rows, and what follows a `#`, say nothing.

    Returns:
        Values (samples, features) and labels, all of `classes`, (samples,).

    Raises:
        ConfigurationError: unreadable, damaged, or a row that is not of this form, which it names.
    """
    with _opened(path) as file, gzip.open(file) as unpacked:
        lines = unpacked.read().decode("utf-8").split("\n")
        rows = [(number, line.partition("#")[0].split()) for number, line in enumerate(lines, 1)]
        rows = [(number, words) for number, words in rows if words]
        values = np.zeros((len(rows), features), np.float32)
        labels = np.zeros(len(rows), np.int64)
        for place, (number, words) in enumerate(rows):
            try:
                labels[place] = _libsvm_label(words[0], classes)
                _fill(values[place], words[1:])
            except ValueError as exc:
                raise ValueError(f"row {number}: {exc}") from exc
        return values, labels


def _libsvm_label(text: str, classes: Sequence[int]) -> int:
    if float(text) not in classes:
        raise ValueError(f"the label is {text}, not {' or '.join(map(str, classes))}")
    return int(float(text))


def _fill(values: NDArray[np.float32], pairs: Sequence[str]) -> None:
    """Write `index:value` pairs into a row (features,). Raises ValueError: what is wrong."""
    for pair in pairs:
        index, colon, text = pair.partition(":")
        if not (colon and index.isdecimal() and 1 <= int(index) <= len(values)):
            raise ValueError(f"{pair}: write INDEX:VALUE, with an index from 1 to {len(values)}")
        value = float(text)
        if not abs(value) <= _FLOAT32_MAX:  # nor nan, which compares with nothing
            raise ValueError(f"feature {index} is {text}, which is no finite number")
        values[int(index) - 1] = value


def read_npz(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays of these names in a numpy archive; nothing pickled is loaded.

    Raises:
        ConfigurationError: unreadable, damaged, or one of them is missing, which it names.
    """
    with _opened(path) as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("no archive of arrays")
        return [_entry(archive, name) for name in names]


def _entry(archive: Any, name: str) -> NDArray[Any]:
    if name not in archive.files:
        raise ValueError(f"it has no entry {name}")
    try:
        entry = archive[name]
    except _DAMAGE as exc:
        raise ValueError(f"entry {name}: {_words(exc)}") from exc
    if not isinstance(entry, np.ndarray):
        raise ValueError(f"entry {name}: no array")
    return entry


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
