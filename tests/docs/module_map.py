"""The rooms and modules in docs/architecture.md, made of their own docstrings.

`python -m tests.docs.module_map` says whether the page is up to date, and with `--write` brings it
up to date. What stands between two markers is made here; the layers are import-linter's, in
pyproject.toml.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tests.docs.pages import DOCS, ROOT

ARCHITECTURE: Final = DOCS / "architecture.md"
PACKAGES: Final = ("agent", "mechanisms", "network", "topologies")
WIDTH: Final = 118
MARKED = re.compile(
    r"(<!-- made by tests/docs/module_map\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL
)


def brought_up_to_date(page: str) -> str:
    """The page with every marked section made anew."""
    made = {"rooms": picture, "modules": module_map}
    return MARKED.sub(lambda found: found[1] + made[found[2]]() + found[3], page)


# --- the picture of the rooms -------------------------------------------------------------------


def picture() -> str:
    """Each package a box and each room a line; those of one layer are joined by a bar."""
    boxes = ["".join(_box(package)) for package in PACKAGES]
    return "```text\n" + "".join(boxes) + f"+{'-' * (WIDTH - 2)}+\n```\n"


def _box(package: str) -> Iterator[str]:
    yield f"+-- {package} ".ljust(WIDTH - 1, "-") + "+\n"
    for layer in _layers(package):
        for i, room in enumerate(layer):
            name = f"| {room}" if i else f"  {room}"
            yield f"| {name:<16}{_purpose(ROOT / package / room)}".ljust(WIDTH - 1) + "|\n"


@cache
def _layers(package: str) -> tuple[tuple[str, ...], ...]:
    """The rooms and loose modules of a package, from the top layer down; by name if no contract
    orders them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in contracts["contracts"]:
        if contract.get("containers") == [f"candor.{package}"]:
            return tuple(tuple(layer.split(" | ")) for layer in contract["layers"])
    return tuple((part,) for part in _parts(ROOT / package))


# --- the module map -----------------------------------------------------------------------------


def module_map() -> str:
    """A table a package, room by room, of what each module is."""
    return "".join(f"\n### {package}\n\n{_table(package)}" for package in PACKAGES) + "\n"


def _table(package: str) -> str:
    rows = [(f"**`{package}/`**", _purpose(ROOT / package))]
    for room in (room for layer in _layers(package) for room in layer):
        rows += _rows(ROOT / package / room)
    lines = [f"| {where} | {what.removesuffix('.')} |\n" for where, what in rows]
    return "| where | what it is |\n|---|---|\n" + "".join(lines)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """(where, what it is) of a module, or of a room and all that is in it."""
    if not path.is_dir():
        yield f"`{path.name}.py`", _escaped(_purpose(path))
        return
    yield f"**`{path.relative_to(ROOT)}/`**", _escaped(_purpose(path))
    for part in sorted(_parts(path), key=lambda name: (path / name).is_dir()):
        yield from _rows(path / part)


def _parts(folder: Path) -> list[str]:
    """The modules and rooms in a folder by name."""
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return sorted(modules | {path.parent.name for path in folder.glob("*/__init__.py")})


def _purpose(path: Path) -> str:
    """The first paragraph of the docstring of a module, or of a room, in one line."""
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text()))
    assert docstring, f"{source.relative_to(ROOT)} does not say what it is"
    return " ".join(docstring.partition("\n\n")[0].split())


def _escaped(text: str) -> str:
    """Text as the cell of a table."""
    return text.replace("|", r"\|")


def main() -> int:
    """Say whether the page is up to date, after `--write`: make it so."""
    before = ARCHITECTURE.read_text()
    after = brought_up_to_date(before)
    if after == before:
        print(f"{ARCHITECTURE}: up to date")
    elif "--write" in sys.argv[1:]:
        ARCHITECTURE.write_text(after)
        print(f"{ARCHITECTURE}: brought up to date")
    else:
        print(f"{ARCHITECTURE}: out of date; run `python -m tests.docs.module_map --write`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
