"""Files read and replaced, TOML into pydantic models, with every mistake told as one line: file,
key, mend.

Only regular files are read: a named pipe would hold its reader for ever, a device never ends.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from candor.topologies.specs.specs import ConfigurationError, SignatureError, shown
from candor.topologies.specs.toml import parse_toml


class SupportsFspath(Protocol):
    """A path object, told by its shape."""

    def __fspath__(self) -> str: ...


FilePath: TypeAlias = str | SupportsFspath


FILE_BYTES_MAX = 2**26  # a graph of a million edges


class Section(BaseModel):
    """Base of everything that is read from a file: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


@contextmanager
def system_errors(told: str) -> Iterator[None]:
    """Tell in one line that begins with `told` what the system refuses.

    Raises:
        ConfigurationError: in place of an OSError.
    """
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(f"{told}: {exc.strerror or exc}") from exc


def open_regular(path: FilePath) -> BinaryIO:
    """A file opened for reading, at once whatever it is; links are followed.

    Raises:
        OSError: unreadable, or no regular file: a pipe, a device, a directory.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else opening a pipe waits for its writer


def read_bytes(path: FilePath, what: str, bytes_max: int | None = None) -> bytes:
    """What a file holds; `what` names the kind of file in messages.

    Raises:
        ConfigurationError: unreadable, no regular file, or larger than `bytes_max`, which is
            `FILE_BYTES_MAX` unless told.
    """
    bytes_max = FILE_BYTES_MAX if bytes_max is None else bytes_max
    with system_errors(f"{path}: cannot read the {what}"), open_regular(path) as file:
        # Asked for so many bytes, `read` would allocate all of them first.
        fits = os.fstat(file.fileno()).st_size <= bytes_max
        data = file.read() if fits else b""
    if not fits or len(data) > bytes_max:  # some of the system's own say that they are empty
        raise ConfigurationError(f"{path}: the {what} is larger than {_size(bytes_max)}")
    return data


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def read_text(path: FilePath, what: str) -> str:
    """The text of a file in UTF-8; raises as `read_bytes` does, and for other encodings."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: the {what} is not UTF-8 text: {exc}") from exc


def read_toml(path: FilePath, what: str, bytes_max: int | None = None) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigurationError: as `read_bytes`; not TOML; a key of more than 33 parts.
    """
    return parse_toml(read_bytes(path, what, bytes_max), f"{path}: the {what}")


def json_text(value: object, indent: int | None = None) -> str:
    """A value as JSON that every parser takes: it has no nan and no infinity, null stands for them.

    All JSON that the program writes is written here, but for ledgers, whose bytes are agreed on.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


@contextmanager
def private_files() -> Iterator[None]:
    """Whatever this process creates meanwhile is its user's alone: files 0600, directories 0700,
    also those that a library makes (SQLite's -wal and -shm). What is there keeps its mode."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def write_text(path: FilePath, text: str, *, keeping: bool = False) -> None:
    """Write a file that a user asked for, in UTF-8; as `write_bytes`."""
    write_bytes(path, text.encode(), keeping=keeping)


def write_bytes(path: FilePath, data: bytes, *, keeping: bool = False) -> None:
    """Write a file that a user asked for.

    Args:
        keeping: a file that is there already, and is another one, goes on as `PATH~`.

    Raises:
        ConfigurationError: the system refused.
    """
    with system_errors(f"{path}: cannot write it"):
        if not keeping or not os.path.isfile(path):
            with open(path, "wb") as file:
                file.write(data)
            return
        with open(path, "rb") as there:
            before = there.read()
        if before != data:
            replace_file(f"{path}~", before, durable=True)
            replace_file(os.path.realpath(path), data)


def replace_file(path: FilePath, data: bytes, *, durable: bool = False) -> None:
    """Put `data` in the place of a file at once, see `replacing`."""
    with replacing(path, durable=durable) as draft, open(draft, "wb") as file:
        file.write(data)


@contextmanager
def replacing(path: FilePath, *, durable: bool = False, writer: str = "") -> Iterator[str]:
    """The path of a draft to write, which takes the place of `path` when the block is left.

    So a reader, or whoever goes on after a crash, finds the old file or the new one. `durable`: the
    new one is on disk by then; `writer` tells drafts apart where several may write at a time. A
    device or a pipe is refused: it would be gone, and a file in its place.

    Raises:
        OSError: the system refused.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    draft = f"{path}{writer}.tmp"
    try:
        yield draft
        if durable:
            sync(draft)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):  # on a full disk it takes the room that others need
            os.unlink(draft)
        raise
    if durable:
        sync(os.path.dirname(path) or ".")


def sync(path: FilePath) -> None:
    """Make a file's bytes durable, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def validated(model: type[Model], data: Mapping[str, Any], source: str) -> Model:
    """`data` as a `model`; `source` names where it came from in messages.

    Raises:
        ConfigurationError: the first mistake, in one line, and how many more there are; as a
            SignatureError where that is what is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        # A misspelt key is both unknown and missing: the unknown one shows the typing error.
        errors.sort(key=lambda error: error["type"] != "extra_forbidden")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        forged = isinstance(errors[0].get("ctx", {}).get("error"), SignatureError)
        kind = SignatureError if forged else ConfigurationError
        raise kind(f"{source}: {_one_line(errors[0])}{more}") from exc


def _one_line(error: ErrorDetails) -> str:
    where = _key(error["loc"])
    prefix = f"{where}: " if where else ""
    match error["type"]:
        case "missing":
            return f"{where} is missing; add it"
        case "extra_forbidden":
            return f"unknown key {where}; correct its spelling or remove it"
        case "value_error":  # raised by our own validators, which say how to mend it
            return f"{prefix}{error['ctx']['error']}"
        case _:
            told = f"{error['msg'][0].lower()}{error['msg'][1:]}"
            return f"{prefix}{told}, not {shown(error['input'])}"


def _key(location: tuple[int | str, ...]) -> str:
    """`("agents", 1, "endpoint")` as `agents[1].endpoint`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")
