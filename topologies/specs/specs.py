"""The grammar of every command-line spec: `name`, `name:value` or `name:key=value,key=value`.

One grammar serves topologies, strategies, partitions, tasks and rules. A name with a capital after
its colon, such as `my_module:MyClass`, is the user's own class; `is_import_path` tells it apart.
"""

import importlib
import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from candor.topologies.specs.own import import_name

Scalar = int | float | str

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_SEPARATORS = r"[\\/]"
_NOT_THE_USERS = (
    *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
    re.sub(r"([\\/][^\\/]+){3}$", "", __file__),  # Candor itself
    "<",  # what was compiled from no file
)


class ConfigurationError(ValueError):
    """A user's mistake, as one line that says what, where and how to mend it."""


class Note(UserWarning):
    """What a user should know of what was given and need not mend, as one line."""


class Terminated(SystemExit):
    """The process is asked to end, as by SIGTERM: whatever was under way made no mistake."""


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
        return Spec(name, value=scalar(rest))
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
        options[key] = scalar(value)
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
    hint = "; is it in the current directory or on PYTHONPATH?"
    with users_errors(f"{what} {path!r}: cannot import {module_name!r}", hint):
        module = importlib.import_module(import_name(module_name))
    try:
        return getattr(module, attribute)
    except AttributeError as exc:
        raise ConfigurationError(f"{what} {path!r}: {module_name!r} has no {attribute!r}") from exc


def build_object(path: str, what: str, *methods: str, **offered: object) -> Any:
    """An instance of the user's class `module:Class`, which has these methods; its constructor gets
    those of `offered` that it has a parameter for.

    Raises:
        ConfigurationError: as `load_object`; no class, a method is missing, the constructor failed.
    """
    factory = load_object(path, what)
    if not isinstance(factory, type):
        raise ConfigurationError(f"{what} {path!r} is not a class")
    for method in methods:
        if not callable(getattr(factory, method, None)):
            raise ConfigurationError(f"{what} {path!r} lacks the method {method}()")
    with users_errors(f"{what} {path!r}: its constructor failed"):
        takes = inspect.signature(factory).parameters if offered else {}
        return factory(**{name: value for name, value in offered.items() if name in takes})


@contextmanager
def located(where: str, hint: str = "") -> Iterator[None]:
    """Tell where a mistake is: what is said of it comes behind `where`, before `hint`.

    Raises:
        ConfigurationError: in place of another one, of its kind.
    """
    try:
        yield
    except ConfigurationError as exc:
        raise type(exc)(f"{where}: {exc}{hint}") from exc


@contextmanager
def users_errors(told: str, hint: str = "") -> Iterator[None]:
    """Tell in one line that begins with `told` whatever a user's code raises: SystemExit, too.

    Raises:
        ConfigurationError: in place of any other exception; Ctrl-C and SIGTERM stay what they are.
    """
    try:
        yield
    except (ConfigurationError, KeyboardInterrupt, Terminated):
        raise
    except BaseException as exc:
        raise ConfigurationError(f"{told} ({one_line(exc)}){_place(exc)}{hint}") from exc


def _place(exc: BaseException) -> str:
    """Where in the user's own code, " at my_model.py:31", something was raised or the call was made
    that raised it; nothing where no line of it is known."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    return f" at {re.split(_SEPARATORS, own[-1].filename)[-1]}:{own[-1].lineno}" if own else ""


def shown(value: object) -> str:
    """A value as a message has it: its representation, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits, somewhere inside
        return "a number too long to show"
    return text if len(text) <= 80 else f"{text[:77]}…"


def printable(text: str) -> str:
    """A text with words of others in it as it may go to a terminal: one line that moves nothing."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(exc: BaseException) -> str:
    """Kind and message of what others' code raised, cut to what a line of an error has room for."""
    text = _COLOURS.sub("", f"{type(exc).__name__}: {exc}")
    return printable(" ".join(text.split())).rstrip(":")[:200]


def scalar(text: str) -> Scalar:
    """The number that a text is, or the text."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
