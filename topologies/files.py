"""Files read, TOML into pydantic models, with every mistake told as one line: file, key, mend.

Only regular files are read: a named pipe would hold its reader for ever, a device never ends.
"""

import errno
import os
import stat
import tomllib
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from topologies.specs import ConfigurationError, SignatureError


class SupportsFspath(Protocol):
    """A path object, told by its shape."""

    def __fspath__(self) -> str: ...


FilePath: TypeAlias = str | SupportsFspath


FILE_BYTES_MAX = 2**26  # a graph of a million edges


class Section(BaseModel):
    """Base of everything that is read from a file: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


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
    try:
        with open_regular(path) as file:
            data = file.read(bytes_max + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot read the {what}: {exc.strerror}") from exc
    if len(data) > bytes_max:
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
    """The tables of a TOML file; raises as `read_bytes` does, and for what is not TOML."""
    try:
        return tomllib.loads(read_bytes(path, what, bytes_max).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigurationError(f"{path}: the {what} is not TOML: {exc}") from exc


def write_text(path: FilePath, text: str) -> None:
    """Write a file that a user asked for, in UTF-8; raises as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: FilePath, data: bytes) -> None:
    """Write a file that a user asked for.

    Raises:
        ConfigurationError: the system refused.
    """
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot write it: {exc.strerror}") from exc


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
            given = repr(error["input"])
            shown = given if len(given) <= 80 else f"{given[:77]}…"
            return f"{prefix}{error['msg'][0].lower()}{error['msg'][1:]}, not {shown}"


def _key(location: tuple[int | str, ...]) -> str:
    """`("agents", 1, "endpoint")` as `agents[1].endpoint`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")
