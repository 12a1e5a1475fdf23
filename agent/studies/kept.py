"""Runs of a study that have ended, a JSON file each, so that none is run twice."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter

from candor.topologies.specs.files import json_text, read_text, replace_file, system_errors
from candor.topologies.specs.specs import ConfigurationError


class Setting(Protocol):
    """What a run is set by: a dataclass."""

    @property
    def name(self) -> str:
        """Of its file, without an ending."""
        ...


Run = TypeVar("Run")


def file_name(words: list[str]) -> str:
    """A name of words, in letters that any file system takes."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in "-".join(words))


def read(
    directory: Path,
    setting: Setting,
    version: int,
    kind: TypeAdapter[Run],
    whole: Callable[[Run], bool],
) -> Run | None:
    """A run that has ended, None if it has not; `whole` says whether its parts belong together.

    Raises:
        ConfigurationError: its file is damaged, or of another version or setting.
    """
    path = directory / f"{setting.name}.json"
    if not path.exists():
        return None
    try:
        found = json.loads(read_text(path, "run"))
        if (found["version"], found["setting"]) != (version, _plain(setting)):
            raise ConfigurationError(f"{path}: is of another version or setting; delete it")
        done = kind.validate_python({key: found[key] for key in found.keys() - {"version"}})
        if json.loads(json_text(found)) != found or not whole(done):  # it has no nan, if it is ours
            raise ValueError("its parts do not belong together")
        return done
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{path}: damaged, it is no run; delete it") from exc


def write(directory: Path, setting: Setting, version: int, done: Any) -> None:
    """Keep a run that has ended, a dataclass with its setting."""
    path = directory / f"{setting.name}.json"
    with system_errors(f"{path}: cannot write it"):
        replace_file(path, json_text({"version": version, **_plain(done)}).encode())


def _plain(value: Any) -> Any:
    """A dataclass as it is read back from JSON."""
    return json.loads(json_text(asdict(value)))
