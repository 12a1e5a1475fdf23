"""TOML from anywhere, read in bounded time and told as one line where it is wrong. Pure."""

import re
import tomllib
from typing import Any

from candor.topologies.specs.specs import ConfigurationError

_KEY_DOTS_MAX = 32
# What a line has beside keys: strings, of which one may also go on in the next line, and comments.
_LONG_STRINGS = ('"""', "'''")
_TOML_TOKEN = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"?|\'[^\']*\'?|#.*')
_NEVER_IN_KEYS = re.compile(r"[,=\[\]{}]")


def parse_toml(data: bytes, source: str) -> dict[str, Any]:
    """The tables of a TOML text, wherever it comes from; `source` names it in messages.

    Raises:
        ConfigurationError: not TOML; a key of more than 33 parts.
    """
    try:
        text = data.decode()
        _check_keys(text)
        return tomllib.loads(text)
    # A ValueError is bad TOML, bad UTF-8 or a whole number of thousands of digits.
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{source} is not TOML: {exc}") from exc


def _check_keys(text: str) -> None:
    """Refuse dotted keys (`a.b.c = 1`) of many parts: reading one takes time and memory with the
    square of its parts, gigabytes for a file of 100 KB."""
    lines = text.split("\n")
    if max(line.count(".") for line in lines) <= _KEY_DOTS_MAX:
        return
    for number, line in enumerate(lines, start=1):
        if any(token in _LONG_STRINGS for token in _TOML_TOKEN.findall(line)):
            raise ValueError(f"line {number}: write the string in one line")
        pieces = _NEVER_IN_KEYS.split(_TOML_TOKEN.sub("", line))
        if max(piece.count(".") for piece in pieces) > _KEY_DOTS_MAX:
            raise ValueError(f"line {number}: a key has more than {_KEY_DOTS_MAX + 1} parts")
