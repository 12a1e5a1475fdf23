"""The grammar of every command-line spec: `name`, `name:value` or `name:key=value,key=value`.

One grammar serves topologies, strategies, partitions, tasks and rules. A name with a capital after
its colon, such as `my_module:MyClass`, is the user's own class; `is_import_path` tells it apart.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from candor.topologies.specs.own import import_name

Scalar = int | float | str

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class ConfigurationError(ValueError):
    """A user's mistake, as one line that says what, where and how to mend it."""


class SignatureError(ConfigurationError):
    """A file is well-formed but not what was signed, or not signed by whom it should be."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec: `value` is the positional one, `options` the keyed ones."""

    name: str
    value: Scalar | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)


def parse_spec(text: str) -> Spec:
    """Parse a spec.

    Raises:
        ConfigurationError: the text does not follow the grammar.
    """
    name, colon, rest = text.strip().partition(":")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"spec {text!r}: expected name, name:value or name:key=value,… with a lower-case name"
        )
    if not colon:
        return Spec(name)
    if not rest:
        raise ConfigurationError(f"spec {text!r}: nothing after the colon")
    if "=" not in rest:
        return Spec(name, value=_scalar(rest))
    return Spec(name, options=_options(rest, text))


def parse_call(text: str) -> tuple[str, Mapping[str, Scalar]]:
    """`head,key=value,…` as head and options: how a function of another package is named.

    Raises:
        ConfigurationError: something behind the head is not key=value.
    """
    head, comma, rest = text.strip().partition(",")
    return head.strip(), _options(rest, text) if comma else {}


def _options(items: str, text: str) -> dict[str, Scalar]:
    options: dict[str, Scalar] = {}
    for item in items.split(","):
        key, equals, value = item.strip().partition("=")
        if not equals or not key or not value:
            raise ConfigurationError(f"spec {text!r}: {item!r} is not key=value")
        if key in options:
            raise ConfigurationError(f"spec {text!r}: {key} is given twice")
        options[key] = _scalar(value)
    return options


def is_import_path(text: str) -> bool:
    """Whether `text` names a Python object as `module:Class` (the class starts with a capital)."""
    return bool(_IMPORT_PATH.fullmatch(text)) and text.rpartition(":")[2][0].isupper()


def load_object(path: str, what: str) -> object:
    """Import `module:Class`, the user's own first (`specs/own.py` says where it is looked for).

    Raises:
        ConfigurationError: the module does not import or has no such attribute.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(import_name(module_name))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # the user's module may raise anything while it is imported
        raise ConfigurationError(
            f"{what} {path!r}: cannot import {module_name!r} ({one_line(exc)}); "
            "is it in the current directory or on PYTHONPATH?"
        ) from exc
    try:
        return getattr(module, attribute)
    except AttributeError as exc:
        raise ConfigurationError(f"{what} {path!r}: {module_name!r} has no {attribute!r}") from exc


def shown(value: object) -> str:
    """A value as a message has it: its representation, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def one_line(exc: BaseException) -> str:
    """Kind and message of what others' code raised, cut to what a line of an error has room for."""
    return " ".join(f"{type(exc).__name__}: {exc}".split()).rstrip(":")[:200]


def _scalar(text: str) -> Scalar:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
