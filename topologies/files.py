"""Files read, TOML into pydantic models, with every mistake told as one line: file, key, mend.

Uses the built-in `open` alone: the sans-io modules import the models whose files are read here.
"""

import tomllib
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from topologies.specs import ConfigurationError


class SupportsFspath(Protocol):
    """A path object, told by its shape."""

    def __fspath__(self) -> str: ...


FilePath: TypeAlias = str | SupportsFspath


FILE_BYTES_MAX = 2**26  # a graph of a million edges; a device that never ends is cut off here


class Section(BaseModel):
    """Base of everything that is read from a file: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def read_bytes(path: FilePath, what: str) -> bytes:
    """What a file holds; `what` names the kind of file in messages.

    Raises:
        ConfigurationError: unreadable, or larger than `FILE_BYTES_MAX`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot read the {what}: {exc.strerror}") from exc
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path}: the {what} is larger than {FILE_BYTES_MAX >> 20} MiB")
    return data


def read_text(path: FilePath, what: str) -> str:
    """The text of a file in UTF-8; raises as `read_bytes` does, and for other encodings."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: the {what} is not UTF-8 text: {exc}") from exc


def read_toml(path: FilePath, what: str) -> dict[str, Any]:
    """The tables of a TOML file; raises as `read_bytes` does, and for what is not TOML."""
    try:
        return tomllib.loads(read_bytes(path, what).decode())
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
        ConfigurationError: the first mistake, in one line, and how many more there are.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        # A misspelt key is both unknown and missing: the unknown one shows the typing error.
        errors.sort(key=lambda error: error["type"] != "extra_forbidden")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigurationError(f"{source}: {_one_line(errors[0])}{more}") from exc


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
