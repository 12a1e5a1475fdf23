"""Change the pure modules, one small thing at a time, and see whether their own tests notice.

    python -m tests.campaigns.mutants --count 30 [--seed S] [FILE...]

A seed draws mutants of cosmic-ray (an operator, a comparison, a number, …) over all modules that
touch no clock, socket or disk, or over those named. Each is made in a copy of the project, whose
fast tests of the same place run against it: `tests/network/test_slots.py` for
`network/slots.py`, or, where there is no such file, the folder; and where these do not notice, all
of the same room. Tests must pass with nothing changed before they may notice anything. What nobody
notices is shown as a diff: a test that is missing, or a change that changes nothing.
"""

import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import click

ROOT: Final = Path(__file__).parents[2]
PURE: Final = ("topologies", "mechanisms", "network", "agent/core", "agent/algorithms")
IMPURE: Final = ("network/zeromq", "network/memory.py")
COPIED: Final = ("agent", "mechanisms", "network", "topologies", "src", "tests", "docs")
TESTS_MAX_S: Final = 1200.0  # a mutant that never ends has been noticed


@click.command()
@click.option("--count", default=30, type=click.IntRange(1), help="How many mutants.")
@click.option("--seed", default=0, help="Draws them.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(count: int, seed: int, files: tuple[Path, ...]) -> None:
    """Draw mutants and say of each whether its tests notice."""
    modules = [path.resolve().relative_to(ROOT) for path in files] or sorted(pure_modules())
    chance = random.Random(seed)
    drawn = [mutant(modules, chance) for _ in range(count)]
    noticed = 0
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for each in COPIED:
            shutil.copytree(ROOT / each, copy / each, symlinks=True)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for tests in sorted({next(tests_of(module)) for module, _ in drawn}):
            check_unchanged(copy, tests)
        for number, (module, changed) in enumerate(drawn, start=1):
            told = tests_notice(copy, module, changed)
            noticed += told
            print(f"{number:>4} {module}: {'noticed' if told else 'NOT NOTICED'}", flush=True)
            if not told:
                print("".join(difference(module, changed)), flush=True)
    print(f"{noticed} of {count} noticed")


def pure_modules() -> Iterator[Path]:
    """The modules to change, from the project's root."""
    for folder in PURE:
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT)
            if not any(place.is_relative_to(odd) for odd in IMPURE):
                yield place


def mutant(modules: list[Path], chance: random.Random) -> tuple[Path, str]:
    """One of the modules, by its size, and its text with one thing changed, of any kind alike."""
    from cosmic_ray.mutating import mutate_code  # an extra

    weights = [(ROOT / module).stat().st_size for module in modules]
    while True:
        [module] = chance.choices(modules, weights)
        text = (ROOT / module).read_text()
        if kinds := changes(text):
            operator, occurrence = chance.choice(kinds[chance.choice(sorted(kinds))])
            return module, mutate_code(text, operator, occurrence)


def changes(text: str) -> dict[str, list[tuple[Any, int]]]:
    """What can be changed, by kind: an operator of cosmic-ray, and which of its occurrences."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    found: dict[str, list[tuple[Any, int]]] = {}
    nodes = list(ast_nodes(get_ast(text)))
    for name in plugins.operator_names():
        kind = plugins.get_operator(name)
        if kind.arguments() or "BitOr" in name or name.endswith(("_Is", "_IsNot")):
            continue  # `|` stands between types, and `is` for `==` changes nothing
        operator = kind()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        if places:
            of_kind = found.setdefault(kind.__name__.partition("_")[0], [])
            of_kind += [(operator, occurrence) for occurrence in range(len(places))]
    return found


def tests_notice(copy: Path, module: Path, changed: str) -> bool:
    """Whether a test fails where the module of the copy has this text; the nearest tests first."""
    return any(fails_with(copy, module, changed, tests) for tests in tests_of(module))


def fails_with(copy: Path, module: Path, changed: str, tests: Path) -> bool:
    """Whether one of `tests`, which pass as it is, fails where the module has this text."""
    check_unchanged(copy, tests)
    place = copy / module
    before = place.read_text()
    place.write_text(changed)
    try:
        return failure(copy, tests) is not None
    finally:
        place.write_text(before)


@cache
def check_unchanged(copy: Path, tests: Path) -> None:
    """Tests that fail anyway notice nothing."""
    if (told := failure(copy, tests)) is not None:
        raise click.ClickException(f"{tests} fails with nothing changed: {told}")


def failure(copy: Path, tests: Path) -> str | None:
    """The end of what fast tests print that do not pass in the copy, None if they do."""
    command = [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-m", "not e2e"]
    try:
        ended = subprocess.run(
            [*command, "-p", "no:cacheprovider", str(tests)],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy / "src")},
            capture_output=True,
            timeout=TESTS_MAX_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TESTS_MAX_S:g} s"
    # A module that cannot be imported is a usage error of pytest's where a conftest needs it.
    told = (ended.stdout + ended.stderr).decode(errors="replace")
    return told[-500:] if ended.returncode else None


def tests_of(module: Path) -> Iterator[Path]:
    """The test file of a module, or the nearest folder of tests above it; then those of its
    room."""
    own = Path("tests") / module.with_name(f"test_{module.name}")
    nearest = next(place for place in (own, *own.parents) if (ROOT / place).exists())
    yield nearest
    for room in PURE:
        if module.is_relative_to(room) and nearest != Path("tests", room):
            yield Path("tests", room)


def difference(module: Path, changed: str) -> Iterator[str]:
    """What was changed."""
    lines = (ROOT / module).read_text().splitlines(keepends=True)
    return difflib.unified_diff(lines, changed.splitlines(keepends=True), str(module), n=1)


if __name__ == "__main__":
    main()
