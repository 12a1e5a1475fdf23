"""Under which name a module is imported, by what lies where."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from candor.topologies.specs import own
from candor.topologies.specs.specs import load_object

ALIAS = "candor.topologies.specs.own"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, as the command has it: the last place of `sys.path`."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    return place


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise AssertionError('finding a module does not run it')")


@pytest.mark.parametrize(
    ("files", "module", "name"),
    [
        (["alone_1.py"], "alone_1", "alone_1"),
        (["alone_2/__init__.py", "alone_2/part.py"], "alone_2.part", "alone_2.part"),
        (["alone_3/part.py"], "alone_3.part", "alone_3.part"),
        (["candor.py"], "candor", f"{ALIAS}.candor"),
        (["code.py"], "code", f"{ALIAS}.code"),  # of the standard library
        (["sys.py"], "sys", f"{ALIAS}.sys"),
        (["__main__.py"], "__main__", f"{ALIAS}.__main__"),
        (["code/__init__.py", "code/part.py"], "code.part", f"{ALIAS}.code.part"),
        (["code/part.py"], "code.part", f"{ALIAS}.code.part"),
        (["sys/part.py"], "sys.part", f"{ALIAS}.sys.part"),
        (["pytest.py"], "pytest", f"{ALIAS}.pytest"),  # installed
        (
            ["candor/__init__.py", "candor/agent/exits.py"],
            "candor.agent.exits",
            "candor.agent.exits",
        ),
        (["pytest/data.csv"], "pytest", "pytest"),  # no module of the user's
        ([], "code", "code"),
        ([], "no_such", "no_such"),
        (["alone_4.py"], "alone_4.part", "alone_4.part"),
    ],
)
def test_a_module_of_the_user_is_found_whatever_its_name(
    here: Path, files: list[str], module: str, name: str
) -> None:
    for file in files:
        write(here / file)
    assert own.import_name(module) == name


def test_the_current_directory_comes_before_pythonpath(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "__path__", ["", str(tmp_path / "there")])
    for place in (here, tmp_path / "there"):
        (place / "keyword").mkdir(parents=True)
        (place / "keyword" / "__init__.py").write_text(f"class Where: place = {place.name!r}")
    (tmp_path / "there" / "token.py").write_text("class Where: place = 'there'")
    assert load_object("keyword:Where", "task").place == "here"  # type: ignore[attr-defined]
    assert load_object("token:Where", "task").place == "there"  # type: ignore[attr-defined]
    assert not hasattr(sys.modules["token"], "Where")


@pytest.mark.parametrize("module", ["alone_5", "tabnanny"])
def test_a_module_is_imported_once(here: Path, module: str) -> None:
    (here / f"{module}.py").write_text("class Task: pass")
    name = own.import_name(module)
    task = load_object(f"{module}:Task", "task")
    assert own.import_name(module) == name
    assert load_object(f"{module}:Task", "task") is task is sys.modules[name].Task


def test_spawned_processes_find_the_users_classes(here: Path) -> None:
    (here / "colorsys.py").write_text("class Colour:\n    red = 1")
    colour = load_object("colorsys:Colour", "task")
    assert callable(colour)
    given = colour()
    given.red = 7
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(getattr, given, "red").result() == 7
